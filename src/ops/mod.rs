//! One verb a file. An operation takes an open repository, its options, a report and a cancel token; it
//! returns what it found as a value. Destructive verbs plan first, and the plan is what `--dry-run` shows.

pub mod check;
pub mod demo;

pub mod diff;
mod dump;
pub mod forget;
pub mod key;
pub mod mark;
pub mod merge;
pub mod prune;
mod reindex;
pub mod repair;
pub mod restore;
pub mod retention;
pub mod select;
pub mod snapshot;
pub mod stats;
pub mod sync;
