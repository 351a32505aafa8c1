//! The integration tests: one binary, one link step.

mod conformance;
mod crash;
mod retention;
mod support;
