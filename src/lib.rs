//! Alluvium: a deduplicating, encrypted, content-addressed backup repository for databases.
//!
//! The modules, in the order of their rank; a module uses only modules of a lower rank, and
//! `tests/layers.rs` fails when one does not:
//!
//! | rank | module | holds |
//! |---|---|---|
//! | 0 | [`error`] [`id`] [`report`] [`env`](mod@env) | errors, typed names, progress, clock and entropy as parameters |
//! | 1 | [`format`](mod@format) | the bytes at rest: pure, no I/O, no keys, no clock |
//! | 1 | [`transform`] | bytes to bytes, one step a file: chunk, hash, compress, seal |
//! | 2 | [`storage`] | named immutable objects: local, remote, memory, fault |
//! | 2 | [`source`] | where streams come from: files, pipes, commands |
//! | 3 | [`repo`] | storage, keys and index together: `writer` is the whole write flow, `reader` the reverse |
//! | 4 | [`ops`] | one verb a file: snapshot, restore, check, forget, prune, ... |
//! | 7 | [`cli`] | the only code that knows clap, terminals and exit codes |
//!
//! The engine is synchronous. The library never prints, never reads the environment, never exits
//! (only [`cli`] does); it talks through one small trait, [`report::Report`].

pub mod env;
pub mod error;
pub mod id;
pub mod report;

pub mod format;
pub mod transform;

pub mod source;
pub mod storage;

pub mod repo;

pub mod ops;

pub mod cli;
