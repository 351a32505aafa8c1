//! A store that takes its time: bytes pass no faster than somebody said.
//!
//! Each direction has a [`Pace`]: the moment at which all that was let through so far would have passed at the rate.
//! A transfer is made, moves that moment on by its length, and waits for it; one that comes after a pause may be a
//! [`BURST`] early. Several stores share a pace, since they share a line.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Listed, Storage};
use crate::env::lock;
use crate::error::Result;

/// How far ahead of its rate a transfer may be after a pause.
const BURST: Duration = Duration::from_secs(1);

/// Bytes a second, over any number of threads and stores.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: u64,
    due: Mutex<Option<Instant>>,
}

impl Pace {
    /// A pace; at least one byte a second.
    pub fn new(bytes_per_second: u64) -> Arc<Self> {
        Arc::new(Self { bytes_per_second: bytes_per_second.max(1), due: Mutex::new(None) })
    }

    /// How long whoever has moved `bytes` has to wait at `now`.
    fn reserve(&self, bytes: usize, now: Instant) -> Duration {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut due = lock(&self.due);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let next = due.map_or(earliest, |due| due.max(earliest)) + takes;
        *due = Some(next);
        next.saturating_duration_since(now)
    }

    fn wait(&self, bytes: usize) {
        std::thread::sleep(self.reserve(bytes, Instant::now()));
    }
}

/// A store at the pace of a line.
pub struct Throttle {
    inner: Arc<dyn Storage>,
    up: Option<Arc<Pace>>,
    down: Option<Arc<Pace>>,
}

impl Throttle {
    /// `inner`, its puts at the pace `up`, what it gives at the pace `down`.
    pub fn new(inner: Arc<dyn Storage>, up: Option<Arc<Pace>>, down: Option<Arc<Pace>>) -> Self {
        Self { inner, up, down }
    }

    fn sent(&self, bytes: usize, result: Result<()>) -> Result<()> {
        if let Some(up) = &self.up {
            up.wait(bytes);
        }
        result
    }

    fn received(&self, bytes: usize) {
        if let Some(down) = &self.down {
            down.wait(bytes);
        }
    }
}

impl Storage for Throttle {
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.sent(bytes.len(), self.inner.put_new(name, bytes))
    }

    /// A heartbeat is small and must not wait in line: it is the sign of life.
    fn put_replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.inner.put_replace(name, bytes)
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        self.inner.get(name, bytes_max).inspect(|bytes| self.received(bytes.len()))
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.inner.get_range(name, offset, len).inspect(|bytes| self.received(bytes.len()))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.inner.list(prefix)
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        self.inner.stat(name)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }

    fn get_into(&self, name: &str, bytes_max: u64, buffer: &mut Vec<u8>) -> Result<()> {
        self.inner.get_into(name, bytes_max, buffer)?;
        self.received(buffer.len());
        Ok(())
    }

    fn put_new_from(&self, name: &str, buffer: &mut Vec<u8>) -> Result<()> {
        let len = buffer.len();
        self.sent(len, self.inner.put_new_from(name, buffer))
    }

    fn location(&self) -> String {
        self.inner.location()
    }

    fn look(&self) -> Result<()> {
        self.inner.look()
    }

    fn identity(&self) -> String {
        self.inner.identity()
    }

    fn exclusive(&self) -> bool {
        self.inner.exclusive()
    }

    fn set_single_writer(&self) {
        self.inner.set_single_writer();
    }

    fn sweep_temporary(&self, older_than: Duration) -> Result<usize> {
        self.inner.sweep_temporary(older_than)
    }

    fn transfers(&self) -> usize {
        self.inner.transfers()
    }

    fn fills_up(&self) -> bool {
        self.inner.fills_up()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept_after_a_burst() {
        let (pace, start) = (Pace::new(1000), Instant::now() + BURST);
        let waits = |bytes, after| pace.reserve(bytes, start + Duration::from_millis(after)).as_millis();
        assert_eq!(waits(1000, 0), 0, "a second's worth at once");
        assert_eq!(waits(500, 0), 500);
        assert_eq!(waits(500, 0), 1000, "others wait for what is before them");
        assert_eq!(waits(500, 1000), 500);
        assert_eq!(waits(900, 10_000), 0, "a pause is a burst, not a credit for all of it");
        assert_eq!(waits(900, 10_000), 800);
    }
}
