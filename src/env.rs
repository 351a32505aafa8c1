//! Clock and entropy as parameters, so that a test or a simulation can own both.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::error::{Error, Kind, Result};

/// What the engine takes from the world besides storage and sources.
pub trait Env: Send + Sync {
    /// The time now (UTC).
    fn now(&self) -> Timestamp;
    /// Fills `bytes` with cryptographically secure randomness.
    fn fill_random(&self, bytes: &mut [u8]);
    /// The time between two heartbeats of a session; far below the hour after which prune fences a silent one.
    fn heartbeat_interval(&self) -> Duration {
        Duration::from_mins(1)
    }
}

/// The real clock and the operating system's entropy.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnv;

impl Env for SystemEnv {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system gives entropy");
    }
}

/// A request to stop, shared by all threads of one piece of work.
#[derive(Debug, Default)]
pub struct Cancel {
    cancelled: AtomicBool,
    failed: AtomicBool,
}

impl Cancel {
    /// A token that nobody has pulled yet.
    pub const fn new() -> Self {
        Self { cancelled: AtomicBool::new(false), failed: AtomicBool::new(false) }
    }

    /// Asks all work to end.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    /// Asks all work to end because a part of it failed, until [`resume`](Self::resume).
    pub fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
    }

    /// Takes [`fail`](Self::fail) back, so that failed work can begin again. A [`cancel`](Self::cancel) stays.
    pub fn resume(&self) {
        self.failed.store(false, Ordering::SeqCst);
    }

    /// True once [`cancel`](Self::cancel) was called, or [`fail`](Self::fail) and not yet taken back.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed)
    }

    /// An [`Kind::Interrupted`] error once cancelled; called between steps of long work.
    ///
    /// # Errors
    /// `Interrupted` after [`cancel`](Self::cancel).
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::new(Kind::Interrupted, "interrupted")) } else { Ok(()) }
    }
}

/// Locks a mutex. A panic of another thread does not make what it holds unreadable: counters, caches, records.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
