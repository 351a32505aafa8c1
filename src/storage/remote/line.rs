//! The line to a store: one small runtime, and what every request has in common. All that is asynchronous is
//! here; the engine's threads wait in [`Line::call`].
//!
//! A request that fails for a passing reason is repeated after a pause that doubles and is drawn by lot, so that
//! hosts that failed together do not come back together. Each attempt has its time, more for a large body; all
//! attempts together have twice that. Until a store was reached once, a request is repeated only a few times: a
//! wrong address is told in seconds, while work that is hours old waits for a server that restarts.
//!
//! `OpenDAL` has layers for this. Its timeout does not know how large a body is, its throttle needs a burst as
//! large as the largest object, and neither tells a first contact from the thousandth.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use opendal::{ErrorKind, Result};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

use super::failure;
use crate::env::lock;
use crate::storage::Hears;
use crate::storage::address::RemoteAddress;

/// Uploads up to this size are not slowed down.
const SMALL_BYTES: usize = 16 << 10;
/// A body that comes or goes more slowly than this is given up.
const BYTES_PER_SECOND_MIN: u64 = 128 << 10;
/// Repetitions before the store was ever reached.
const RETRIES_AT_FIRST: u32 = 3;
/// So many failures of one request are trouble; a single one is everyday life of a store.
const FAILURES_TOLD: u32 = 2;
/// The second time trouble is told is after this; every further one after twice as long.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// What ending may take.
const GOODBYE: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The line to one store.
pub struct Line {
    /// Taken at the end, so that a request that hangs keeps nobody waiting for long.
    runtime: Option<Runtime>,
    permits: Semaphore,
    timeout: Duration,
    retries: u32,
    reached: AtomicBool,
    upload: Pace,
    download: Pace,
    trouble: Trouble,
}

impl Line {
    /// A line as the address wants it.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(address: &RemoteAddress, hears: Option<Hears>) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("network").enable_all().build()?;
        Ok(Self {
            runtime: Some(runtime),
            permits: Semaphore::new(address.connections),
            timeout: address.timeout,
            retries: address.retries,
            reached: AtomicBool::new(false),
            upload: Pace::new(address.limit_upload),
            download: Pace::new(address.limit_download),
            trouble: Trouble { location: address.location(), hears, told: Mutex::new(None) },
        })
    }

    /// Makes a request that carries about `bytes`, and waits for what comes of it.
    ///
    /// # Errors
    /// The last attempt's.
    pub fn call<T, F: Future<Output = Result<T>>>(&self, bytes: usize, attempt: impl Fn() -> F) -> Result<T> {
        self.wait(self.persist(self.time_for(bytes), attempt))
    }

    /// As [`call`](Self::call), for an upload. Small ones do not wait in line: signs of life are among them.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn upload<T, F: Future<Output = Result<T>>>(&self, bytes: usize, attempt: impl Fn() -> F) -> Result<T> {
        self.wait(async {
            if bytes > SMALL_BYTES {
                self.upload.pass(bytes).await;
            }
            self.persist(self.time_for(bytes), attempt).await
        })
    }

    /// As [`call`](Self::call), for a download; `None` when there was more than the caller takes.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn download<F: Future<Output = Result<Option<Vec<u8>>>>>(
        &self,
        bytes: usize,
        attempt: impl Fn() -> F,
    ) -> Result<Option<Vec<u8>>> {
        self.wait(async {
            let found = self.persist(self.time_for(bytes), attempt).await?;
            self.download.pass(found.as_ref().map_or(0, Vec::len)).await;
            Ok(found)
        })
    }

    /// What one request of many (a page of a listing) may take.
    pub fn time(&self) -> Duration {
        self.timeout
    }

    /// Runs a request that sees to its own time, such as a listing of many pages.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_long<T, F: Future<Output = Result<T>>>(&self, attempt: impl Fn() -> F) -> Result<T> {
        self.wait(self.persist(Duration::from_hours(12), attempt))
    }

    fn time_for(&self, bytes: usize) -> Duration {
        self.timeout + Duration::from_secs(bytes as u64 / BYTES_PER_SECOND_MIN)
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("is there until it is dropped").block_on(work)
    }

    async fn persist<T, F: Future<Output = Result<T>>>(&self, time: Duration, attempt: impl Fn() -> F) -> Result<T> {
        let began = Instant::now();
        let mut failures = 0;
        loop {
            let error = match self.attempt(time, &attempt).await {
                Ok(found) => {
                    self.reached.store(true, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(error) => error,
            };
            let allowed =
                if self.reached.load(Ordering::Relaxed) { self.retries } else { self.retries.min(RETRIES_AT_FIRST) };
            let pause = pause(failures);
            let is_passing = error.is_temporary() && !failure::is_lasting(&error);
            if !is_passing || failures >= allowed || began.elapsed() + pause > 2 * time {
                return Err(error);
            }
            failures += 1;
            if failures >= FAILURES_TOLD {
                self.trouble.tell(&error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt<T, F: Future<Output = Result<T>>>(&self, time: Duration, attempt: impl Fn() -> F) -> Result<T> {
        // Never closed, so there is always a permit to come.
        let _permit = self.permits.acquire().await;
        // OpenDAL panics over some answers that no honest server gives, such as a path outside of the folder.
        match tokio::time::timeout(time, AssertUnwindSafe(attempt()).catch_unwind()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(opendal::Error::new(ErrorKind::Unexpected, "the server's answer makes no sense")),
            Err(_) => Err(no_answer(time)),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Connections of SFTP are programs of their own, which are told to end now.
            runtime.shutdown_timeout(GOODBYE);
        }
    }
}

/// The error of a request that took too long.
pub fn no_answer(time: Duration) -> opendal::Error {
    opendal::Error::new(ErrorKind::Unexpected, format!("no answer within {} s", time.as_secs())).set_temporary()
}

/// Twice as long after every failure, half of it drawn by lot.
fn pause(failures: u32) -> Duration {
    let whole = PAUSE_MIN.saturating_mul(1 << failures.min(16)).min(PAUSE_MAX);
    // Without entropy the pauses are merely alike.
    let lot = getrandom::u32().unwrap_or(0);
    whole / 2 + (whole / 2).mul_f64(f64::from(lot) / f64::from(u32::MAX))
}

/// Tells that requests fail and are made again: at once, and ever more rarely.
struct Trouble {
    location: String,
    hears: Option<Hears>,
    /// When it was told last, and how long it stays untold.
    told: Mutex<Option<(Instant, Duration)>>,
}

impl Trouble {
    fn tell(&self, error: &opendal::Error) {
        let Some(hears) = &self.hears else { return };
        {
            let mut told = lock(&self.told);
            let pause = match *told {
                Some((last, pause)) if last.elapsed() < pause => return,
                Some((_, pause)) => pause * 2,
                None => TELL_AGAIN,
            };
            *told = Some((Instant::now(), pause));
        }
        hears(&format!("{}: {}; trying again", self.location, failure::told(error)));
    }
}

/// Spreads bytes over time: each transfer books its share of the line, behind those that came before.
struct Pace {
    bytes_per_second: Option<u64>,
    booked_until: Mutex<Option<Instant>>,
}

impl Pace {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, booked_until: Mutex::new(None) }
    }

    async fn pass(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let until = {
            let mut booked = lock(&self.booked_until);
            let now = Instant::now();
            let begin = booked.map_or(now, |until| until.max(now));
            let until = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *booked = Some(until);
            until
        };
        tokio::time::sleep_until(until.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn trouble_is_told_at_once_and_then_rarely() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = {
            let heard = Arc::clone(&heard);
            Arc::new(move |text: &str| lock(&heard).push(text.to_owned())) as Hears
        };
        let trouble = Trouble { location: "s3://shelf".to_owned(), hears: Some(hears), told: Mutex::new(None) };
        for _ in 0..100 {
            trouble.tell(&no_answer(Duration::from_secs(7)));
        }
        assert_eq!(*lock(&heard), ["s3://shelf: no answer within 7 s; trying again"]);
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        for failures in 0..100 {
            let whole = PAUSE_MIN.saturating_mul(1 << failures.min(10)).min(PAUSE_MAX);
            let pause = pause(failures);
            assert!(pause >= whole / 2 && pause <= whole, "{failures}: {pause:?}");
        }
    }
}
