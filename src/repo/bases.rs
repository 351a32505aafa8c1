//! Plain bytes of blobs that others are differences to: decoded once for all that need them, as far as memory goes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use crate::env::lock;
use crate::id::BlobId;

/// Plain bytes held.
const BYTES_MAX: usize = 32 << 20;

/// The blobs that were decoded last. Used by many threads.
#[derive(Default)]
pub struct Bases(Mutex<Held>);

#[derive(Default)]
struct Held {
    blobs: HashMap<BlobId, Arc<Vec<u8>>>,
    /// In the order in which they came.
    order: VecDeque<BlobId>,
    bytes: usize,
}

impl Bases {
    /// A blob's bytes, if they are held.
    pub fn get(&self, id: &BlobId) -> Option<Arc<Vec<u8>>> {
        lock(&self.0).blobs.get(id).cloned()
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
            held.bytes -= held.blobs.remove(&oldest).map_or(0, |gone| gone.len());
        }
        raw
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
    }
}
