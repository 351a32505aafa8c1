//! The integration tests: one binary, one link step.

mod conformance;
mod crash;
mod damage;
mod demo;
mod engine;
mod format;
mod golden;
mod layers;
mod retention;
mod sample;
mod source;
mod support;
