//! Where streams come from: files, standard input, the output of dump commands.
//!
//! A dump that broke off looks like a dump. So this layer owns what it reads: it starts the command
//! itself, hears its last words, waits for its end, looks for the end marker in the bytes, and gives
//! an error where a shell's pipe would have given a short file. Its errors are of
//! [`Kind::Source`](crate::error::Kind::Source) and never mixed with those of the storage: a full
//! disk of the repository must not read as an unreadable file.
//!
//! | piece | holds |
//! |---|---|
//! | [`pipe`] | reading a descriptor without outliving a cancellation |
//! | [`command`] | a dump command: started, read, judged by its exit, ended with all its children |
//! | [`secrets`] | environment variables that no command gets |
//! | [`watch`] | head, tail and length of a stream while it passes |
//! | [`verdict`] | is a finished dump whole? |
//! | [`sniff`] | is it compressed or encrypted already? |
//! | [`files`] | files, folders and links under given paths, with names that can be restored anywhere |
//! | [`folders`] | open folders, a bounded number at once, never through a link |

pub mod command;
pub mod files;
pub mod folders;
pub mod pipe;
pub mod secrets;
pub mod sniff;
pub mod verdict;
pub mod watch;
