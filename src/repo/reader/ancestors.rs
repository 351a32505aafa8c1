//! Bases of the chunks of a stream. Each is decoded once for all chunks on their way that need it, shortly before the first
//! of them, and let go after the last: then what the next is decoded into is memory that is still in the processor's cache.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::super::index::Location;
use crate::env::lock;
use crate::id::{BlobId, PackId};

/// Plain bytes that are kept for later chunks; what more there is, each chunk decodes for itself.
const HELD_MAX: usize = 32 << 20;
/// Buffers kept for the next bases, and the largest of them in bytes.
const SPARES_MAX: usize = 16;
const SPARE_BYTES_MAX: usize = 1 << 20;
/// Their lengths are multiples of this, so that a base finds one that fits.
const SPARE_STEP: usize = 64 << 10;

/// A base that chunks on their way need.
pub(super) struct Ancestor {
    pub(super) id: BlobId,
    pub(super) location: Location,
    /// What it is a difference to.
    pub(super) base: Option<Arc<Self>>,
    raw: Mutex<Option<Arc<Raw>>>,
}

impl Ancestor {
    /// Its plain bytes, where they are; whoever asks while they are being decoded, waits. Who finds none decodes them, and
    /// [`keeps`](Held::keep) them.
    pub(super) fn held(&self) -> Held<'_> {
        Held(lock(&self.raw))
    }

    /// Nothing has to be fetched for it. While somebody decodes it, it is not.
    pub(super) fn is_decoded(&self) -> bool {
        self.raw.try_lock().is_ok_and(|raw| raw.is_some())
    }
}

/// The bytes of an [`Ancestor`], for one thread at a time.
pub(super) struct Held<'a>(MutexGuard<'a, Option<Arc<Raw>>>);

impl Held<'_> {
    pub(super) fn get(&self) -> Option<Arc<Raw>> {
        self.0.clone()
    }

    /// Keeps what was decoded, if there is room.
    pub(super) fn keep(mut self, raw: Raw) -> Arc<Raw> {
        let raw = Arc::new(raw);
        if raw.pool.has_room() {
            *self.0 = Some(Arc::clone(&raw));
        }
        raw
    }
}

/// The ancestors that somebody needs, by their places.
#[derive(Default)]
pub(super) struct Ancestors {
    known: HashMap<(PackId, u32), Weak<Ancestor>>,
    /// So many may be known before those that nobody needs are looked for.
    limit: usize,
}

impl Ancestors {
    /// The first of `chain`, whose blobs are each the base of the one in front.
    pub(super) fn chain(&mut self, chain: &[(BlobId, Location)]) -> Option<Arc<Ancestor>> {
        chain.iter().rev().fold(None, |base, (id, location)| Some(self.one(*id, *location, base)))
    }

    fn one(&mut self, id: BlobId, location: Location, base: Option<Arc<Ancestor>>) -> Arc<Ancestor> {
        if self.known.len() >= self.limit {
            self.known.retain(|_, ancestor| ancestor.strong_count() > 0);
            self.limit = 2 * self.known.len() + 1024;
        }
        let place = (location.pack, location.offset);
        if let Some(known) = self.known.get(&place).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(Ancestor { id, location, base, raw: Mutex::default() });
        self.known.insert(place, Arc::downgrade(&new));
        new
    }
}

/// Memory for bases.
#[derive(Default)]
pub(super) struct Pool(Mutex<Spares>);

#[derive(Default)]
struct Spares {
    /// The one that was used last at the end.
    buffers: Vec<Vec<u8>>,
    /// Bytes of buffers that are in use.
    used: usize,
}

impl Pool {
    /// A buffer of `len` bytes, whatever they are.
    pub(super) fn buffer(self: &Arc<Self>, len: usize) -> Raw {
        let spare = {
            let Spares { buffers, .. } = &mut *lock(&self.0);
            buffers.iter().rposition(|spare| spare.len() >= len).map(|at| buffers.remove(at))
        };
        let memory = spare.unwrap_or_else(|| vec![0; len.next_multiple_of(SPARE_STEP)]);
        lock(&self.0).used += memory.len();
        Raw { memory, len, pool: Arc::clone(self) }
    }

    fn has_room(&self) -> bool {
        lock(&self.0).used <= HELD_MAX
    }
}

/// Plain bytes; their memory goes back to where it came from.
pub(super) struct Raw {
    memory: Vec<u8>,
    len: usize,
    pool: Arc<Pool>,
}

impl Deref for Raw {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Raw {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut spares = lock(&self.pool.0);
        spares.used -= memory.len();
        if memory.len() <= SPARE_BYTES_MAX {
            if spares.buffers.len() == SPARES_MAX {
                spares.buffers.remove(0);
            }
            spares.buffers.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::DataKeyId;

    fn location(offset: u32) -> Location {
        let codec = crate::format::pack::Codec::Zstd;
        Location {
            pack: PackId([7; 16]),
            key: DataKeyId([1; 16]),
            author: crate::id::SlotId([1; 16]),
            offset,
            stored_len: 10,
            raw_len: 100,
            codec,
            base: None,
        }
    }

    #[test]
    fn an_ancestor_is_one_for_all_that_need_it_and_goes_with_the_last() {
        let (mut ancestors, pool) = (Ancestors::default(), Arc::new(Pool::default()));
        let chain = [(BlobId([1; 32]), location(0)), (BlobId([2; 32]), location(10))];
        let first = ancestors.chain(&chain).expect("one");
        let again = ancestors.chain(&chain).expect("one");
        let other = ancestors.chain(&chain[1..]).expect("one");
        assert!(Arc::ptr_eq(&first, &again) && Arc::ptr_eq(&other, first.base.as_ref().expect("a base")));
        assert!(!first.is_decoded() && first.held().get().is_none());
        let _ = first.held().keep(pool.buffer(100));
        assert!(again.is_decoded() && again.held().get().is_some_and(|raw| raw.len() == 100));
        drop((first, again));
        assert!(!ancestors.chain(&chain).expect("one").is_decoded(), "nobody needed it");
        assert!(ancestors.chain(&[]).is_none());
        drop(other);
        for at in 0..10_000 {
            ancestors.chain(&[(BlobId([3; 32]), location(at))]);
        }
        assert!(ancestors.known.len() <= 1024, "those that nobody needs are forgotten");
    }

    #[test]
    fn memory_is_bounded_and_used_again() {
        let pool = Arc::new(Pool::default());
        let ancestors: Vec<Arc<Ancestor>> =
            (0..40).map(|n| Ancestors::default().chain(&[(BlobId([n; 32]), location(0))]).expect("one")).collect();
        for ancestor in &ancestors {
            assert_eq!(ancestor.held().keep(pool.buffer(1 << 20)).len(), 1 << 20, "given, though perhaps not held");
        }
        assert_eq!(ancestors.iter().filter(|ancestor| ancestor.is_decoded()).count(), 32);
        drop(ancestors);
        assert_eq!(lock(&pool.0).used, 0);
        assert_eq!(lock(&pool.0).buffers.len(), SPARES_MAX);
        let last = lock(&pool.0).buffers.last().expect("one").as_ptr();
        assert_eq!(pool.buffer(1000).as_ptr(), last, "the one that was used last");
        assert_eq!(pool.buffer(2 << 20).len(), 2 << 20);
        assert!(lock(&pool.0).buffers.iter().all(|spare| spare.len() <= SPARE_BYTES_MAX));
    }
}
