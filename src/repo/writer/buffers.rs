//! The buffers that streams pass through.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::env::Cancel;
use crate::error::Result;
use crate::report::{Counter, Report};
use crate::source::pipe::read_error;
use crate::transform::segment::LOOKAHEAD;

/// New bytes of a stream in a buffer: enough chunks to keep all cores busy, few enough to stay small.
const BUFFER_BYTES: usize = 2 << 20;

/// A piece of a stream in memory.
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pub(super) home: Option<Sender<Vec<u8>>>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            let _ = home.send(std::mem::take(&mut self.bytes));
        }
    }
}

/// The fixed number of buffers that streams pass through: the larger part of the memory budget. A buffer that comes back is
/// used again before a new one gets memory, so that a small stream, or a fast one, stays in few of them.
#[derive(Clone)]
pub(super) struct Pool {
    pub(super) home: Sender<Vec<u8>>,
    pub(super) free: Receiver<Vec<u8>>,
    /// Buffers that have no memory yet.
    pub(super) unused: Arc<AtomicUsize>,
    pub(super) buffer: usize,
    /// Bytes in front of the new ones, for what the buffer before left.
    pub(super) headroom: usize,
}

impl Pool {
    pub(super) fn new(memory_bytes: usize, chunk_max: usize) -> Self {
        let headroom = chunk_max + LOOKAHEAD;
        let buffer = headroom + BUFFER_BYTES.max(chunk_max);
        let unused = Arc::new(AtomicUsize::new((memory_bytes / 4 / buffer).clamp(6, 64)));
        let (home, free) = unbounded();
        Self { home, free, unused, buffer, headroom }
    }

    pub(super) fn take(&self) -> Vec<u8> {
        if let Ok(buffer) = self.free.try_recv() {
            return buffer;
        }
        let new = self.unused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |unused| unused.checked_sub(1));
        match new {
            Ok(_) => vec![0; self.buffer],
            Err(_) => self.free.recv().expect("the pool holds its own sender"),
        }
    }

    pub(super) fn give(&self, buffer: Vec<u8>) {
        let _ = self.home.send(buffer);
    }
}

/// Fills `into` with what `input` gives, of which `before` bytes were read already; fewer bytes only at its end.
pub(super) fn read_buffer(
    input: &mut dyn Read,
    into: &mut [u8],
    before: u64,
    cancel: &Cancel,
    report: &dyn Report,
) -> Result<usize> {
    let mut n = 0;
    while n < into.len() {
        cancel.check()?;
        match input.read(&mut into[n..]) {
            Ok(0) => break,
            Ok(read) => n += read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                // A source that was told to stop says so by an error: the reason is who told it.
                cancel.check()?;
                return Err(read_error(e, "the source"));
            }
        }
    }
    report.count(Counter::SourceBytes, n as u64);
    report.progress(before + n as u64);
    Ok(n)
}
