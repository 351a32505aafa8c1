//! Plain bytes of blobs that others are differences to: decoded once for all that need them, as far as memory goes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use crate::env::lock;
use crate::id::BlobId;

/// Plain bytes held.
const BYTES_MAX: usize = 32 << 20;
/// Buffers kept of blobs that were let go, and the largest of them in bytes.
const SPARES_MAX: usize = 16;
const SPARE_BYTES_MAX: usize = 1 << 20;

/// The blobs that were decoded last. Used by many threads.
#[derive(Default)]
pub struct Bases(Mutex<Held>);

#[derive(Default)]
struct Held {
    blobs: HashMap<BlobId, Arc<Vec<u8>>>,
    /// In the order in which they came.
    order: VecDeque<BlobId>,
    bytes: usize,
    /// Memory to be used again: fresh memory costs more than what is decoded into it.
    spares: Vec<Vec<u8>>,
}

impl Bases {
    /// A blob's bytes, if they are held.
    pub fn get(&self, id: &BlobId) -> Option<Arc<Vec<u8>>> {
        lock(&self.0).blobs.get(id).cloned()
    }

    /// Lets go of a blob.
    pub fn forget(&self, id: &BlobId) {
        let mut held = lock(&self.0);
        if let Some(raw) = held.blobs.remove(id) {
            held.bytes -= raw.len();
            held.order.retain(|other| other != id);
        }
    }

    /// Holds a blob, and lets go of the oldest.
    pub fn put(&self, id: BlobId, raw: Vec<u8>) -> Arc<Vec<u8>> {
        let raw = Arc::new(raw);
        let mut held = lock(&self.0);
        held.bytes += raw.len();
        match held.blobs.insert(id, Arc::clone(&raw)) {
            None => held.order.push_back(id),
            Some(before) => held.bytes -= before.len(),
        }
        while held.bytes > BYTES_MAX
            && let Some(oldest) = held.order.pop_front()
        {
            let Some(gone) = held.blobs.remove(&oldest) else { continue };
            held.bytes -= gone.len();
            if gone.len() <= SPARE_BYTES_MAX
                && let Some(spare) = Arc::into_inner(gone)
            {
                if held.spares.len() == SPARES_MAX {
                    held.spares.remove(0);
                }
                held.spares.push(spare);
            }
        }
        raw
    }

    /// A buffer of `len` bytes, whatever they are; not much longer than that, since it may be held for long.
    pub fn buffer(&self, len: usize) -> Vec<u8> {
        let mut held = lock(&self.0);
        let fits = |spare: &Vec<u8>| (len..=len + len / 4).contains(&spare.capacity());
        let spare = held.spares.iter().position(fits).map(|at| held.spares.swap_remove(at));
        drop(held);
        let mut buffer = spare.unwrap_or_else(|| Vec::with_capacity(len));
        buffer.resize(len, 0);
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_memory_is_full() {
        let bases = Bases::default();
        let id = |n: u8| BlobId([n; 32]);
        for n in 0..40 {
            bases.put(id(n), vec![n; 1 << 20]);
        }
        let held: Vec<u8> = (0..40).filter(|n| bases.get(&id(*n)).is_some()).collect();
        assert_eq!(held, (8..40).collect::<Vec<u8>>());
        assert_eq!(bases.put(id(50), vec![0; 64 << 20]).len(), 64 << 20, "given, though not held");
        assert!(bases.get(&id(39)).is_none() && bases.get(&id(50)).is_none());
        for len in [1 << 20, 1 << 20, 1000, 900_000, 0] {
            let buffer = bases.buffer(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.capacity() <= len + len / 4, "{} for {len}", buffer.capacity());
        }
    }
}
