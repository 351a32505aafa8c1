//! The integration tests: one binary, one link step.

mod archives;
mod cli;
mod conformance;
mod crash;
mod damage;
mod delta;
mod demo;
mod durability;
mod engine;
mod format;
mod golden;
mod histories;
#[cfg(feature = "s3")]
mod hostile;
mod index;
mod layers;
mod long_rows;
mod model;
mod postgres;
mod processes;
mod proxy;
mod regression;
mod remote;
mod retention;
mod sample;
mod segments;
mod services;
mod shards;
mod simulation;
mod single_writer;
mod source;
mod support;
mod sync;
