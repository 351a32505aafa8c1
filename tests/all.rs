//! The integration tests: one binary, one link step.

mod cli;
mod conformance;
mod crash;
mod damage;
mod demo;
mod engine;
mod format;
mod golden;
mod histories;
mod index;
mod layers;
mod model;
mod postgres;
mod processes;
mod proxy;
mod regression;
mod remote;
mod retention;
mod sample;
mod services;
mod shards;
mod simulation;
mod single_writer;
mod source;
mod support;
mod sync;
