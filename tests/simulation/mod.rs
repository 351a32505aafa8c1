//! Deterministic simulation: several machines work on one repository in memory, and everything that can go wrong
//! between them does. One seed is one history; the same seed replays it, call by call.
//!
//! ```text
//! machine 0: snapshot, snapshot, ...   \                  who is next, what fails, what is late:
//! machine 1: forget, prune, ...         >--> Stage ------> one random number generator decides
//! machine 2: snapshot (write-only) ... /       |
//!                                              v
//!                                     the objects in memory
//! ```
//!
//! The engine is the real one, threads included. Its machines run at the same time, but every storage call waits
//! for its turn on the [`stage`], so the order of calls is the seed's and nobody else's. [`history`] plays and judges.
#![allow(clippy::cast_possible_wrap, reason = "small random numbers become signed times")]

pub mod history;
pub mod pool;
pub mod stage;
pub mod thief;
