//! The integration tests: one binary, one link step.

mod cli;
mod conformance;
mod crash;
mod damage;
mod demo;
mod engine;
mod format;
mod golden;
mod index;
mod layers;
mod postgres;
mod regression;
mod retention;
mod sample;
mod shards;
mod source;
mod support;
mod sync;
