//! One file a command, or a few that belong together. Each takes its arguments, calls [`crate::ops`], and shows what
//! came of it: as one JSON document, or as text.

pub mod check;
pub mod demo;
pub mod forget;
pub mod generate;
pub mod init;
pub mod key;
pub mod list;
pub mod prune;
pub mod restore;
pub mod snapshot;
pub mod sync;
