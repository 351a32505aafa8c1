//! Clock and entropy as parameters, so that a test or a simulation can own both.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::error::{Error, Kind, Result};

/// What the engine takes from the world besides storage and sources.
pub trait Env: Send + Sync {
    /// The time now (UTC).
    fn now(&self) -> Timestamp;
    /// Fills `bytes` with cryptographically secure randomness.
    fn fill_random(&self, bytes: &mut [u8]);
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
pub struct Cancel(AtomicBool);

impl Cancel {
    /// A token that nobody has pulled yet.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Asks all work to end.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// True once [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
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
