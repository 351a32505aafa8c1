//! What one core does: hash, look up, find what a chunk may be the difference to, encode, seal.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender};

use super::super::blob::{BlobEncoder, DeltaBase, SealedBlob};
use super::super::index::Location;
use super::super::parallel::at_once;
use super::super::reader::Reader;
use super::super::session::{Claim, Session};
use super::buffers::Buffer;
use super::{Failure, Tally};
use crate::env::lock;
use crate::error::Result;
use crate::format::pack::{Base, CHAIN_MAX, VERSION_MAX};
use crate::format::recipe::RecipeEntry;
use crate::id::BlobId;
use crate::report::{Counter, Report};
use crate::transform::delta::base_version;
use crate::transform::sketch::{FEATURES, Sketcher};

/// A chunk of a buffer; its id where the caller had to know it.
pub(super) struct Cut {
    pub(super) range: Range<usize>,
    pub(super) id: Option<BlobId>,
    /// A stored chunk that it probably resembles.
    pub(super) similar: Option<BlobId>,
}

/// Chunks for a worker. Without `seq` they are stored again, whatever exists, and nobody waits for the ids.
pub(super) struct Job {
    pub(super) seq: Option<u64>,
    pub(super) buffer: Arc<Buffer>,
    pub(super) cuts: Vec<Cut>,
}

/// A job that is done.
pub(super) struct Worked {
    pub(super) seq: u64,
    pub(super) entries: Vec<RecipeEntry>,
    pub(super) stored_bytes: u64,
}

/// What one core does.
pub(super) struct Worker<'w> {
    pub(super) session: &'w Session<'w>,
    /// Reads what chunks may be differences to, where there may be any.
    pub(super) bases: Option<&'w Reader<'w>>,
    pub(super) sketcher: &'w Sketcher,
    /// There are features to look for.
    pub(super) looks: bool,
    /// Features of what was stored.
    pub(super) noted: &'w Mutex<Vec<(BlobId, [u64; FEATURES])>>,
    pub(super) failure: &'w Failure<'w>,
    pub(super) tally: &'w Tally,
    pub(super) report: &'w dyn Report,
    pub(super) blobs: Sender<SealedBlob>,
    pub(super) done: Sender<Worked>,
}

impl Worker<'_> {
    pub(super) fn run(&self, jobs: &Receiver<Job>, mut encoder: BlobEncoder) {
        for Job { seq, buffer, cuts } in jobs {
            let (mut entries, mut stored_bytes) = (Vec::with_capacity(cuts.len()), 0);
            self.tally.chunks.fetch_add(cuts.len() as u64, Ordering::Relaxed);
            self.report.count(Counter::Chunks, cuts.len() as u64);
            for cut in cuts {
                let raw = &buffer.bytes[cut.range.clone()];
                let id = cut.id.unwrap_or_else(|| self.session.repo().keys.hasher.id(raw));
                entries.push(RecipeEntry { id, len: raw.len() as u32 });
                self.failure.guard(|| {
                    stored_bytes += u64::from(self.store(&mut encoder, id, raw, cut.similar, seq.is_none())?);
                    Ok(())
                });
            }
            drop(buffer);
            if let Some(seq) = seq {
                let _ = self.done.send(Worked { seq, entries, stored_bytes });
            }
        }
    }

    /// Stores a chunk unless it is there; returns the bytes that it takes, 0 where they are not known.
    fn store(
        &self,
        encoder: &mut BlobEncoder,
        id: BlobId,
        raw: &[u8],
        similar: Option<BlobId>,
        again: bool,
    ) -> Result<u32> {
        let claim = match again {
            true if self.session.claim_again(&id) => Claim::Mine,
            true => Claim::Others,
            false => self.session.claim(&id)?,
        };
        Ok(match claim {
            Claim::Stored { bytes } => bytes,
            Claim::Others => 0,
            Claim::Mine => {
                // What is stored again is stored whole: somebody may need it as a base.
                let near = if again { Vec::new() } else { self.near(id, raw, similar) };
                let bases: Vec<&DeltaBase> = near.iter().map(|near| &near.base).collect();
                let blob = encoder.encode(self.session.repo().env.as_ref(), &self.session.key, id, raw, &bases)?;
                if let Some(near) = near.iter().find(|near| Some(near.base.base) == blob.entry.base) {
                    self.session.rely_on(&near.chain);
                }
                self.tally.new_chunk(raw.len(), self.report);
                let bytes = blob.entry.stored_len;
                let _ = self.blobs.send(blob);
                bytes
            }
        })
    }

    /// What a chunk may be the difference to: what looks most like it, and what the recipe of the last snapshot has in its
    /// place.
    fn near(&self, id: BlobId, raw: &[u8], similar: Option<BlobId>) -> Vec<Near> {
        if self.bases.is_none() {
            return Vec::new();
        }
        let mut candidates = Vec::new();
        if let Some(features) = self.sketcher.features(raw) {
            let cache = &self.session.repo().cache;
            let found = if self.looks { cache.with_features(&features).unwrap_or_default() } else { Vec::new() };
            let shared = |id: &BlobId| found.iter().filter(|other| *other == id).count();
            candidates.extend(found.iter().copied().max_by_key(|id| (shared(id), *id)));
            lock(self.noted).push((id, features));
        }
        candidates.extend(similar.filter(|similar| !candidates.contains(similar)));
        let mut near: Vec<Near> = candidates.iter().filter_map(|similar| self.base(similar, raw.len())).collect();
        near.retain(|near| near.base.base.id != id);
        near
    }

    /// What a chunk of `len` bytes that resembles `similar` may be the difference to: by skip-deltas an ancestor of
    /// `similar`, or itself. None where it can't be read, or where that would cost more than it saves.
    fn base(&self, similar: &BlobId, len: usize) -> Option<Near> {
        let reader = self.bases?;
        let mut chain = self.session.indexed.usable_chain(similar, u8::MAX).ok()??;
        let version = chain[0].1.version() + 1;
        if version > VERSION_MAX || version.count_ones() as usize > CHAIN_MAX {
            return None;
        }
        let at = chain.iter().position(|(_, copy)| copy.version() == base_version(version))?;
        chain.drain(..at);
        let is_far = at_once(self.session.repo().storage.as_ref()) > 1;
        let read: usize = chain.iter().map(|(_, copy)| copy.stored_len as usize).sum();
        if is_far && read > len / FAR_SHARE {
            return None;
        }
        let base = Base { id: chain[0].0, version };
        let raw = reader.base(&base).ok()?;
        Some(Near { base: DeltaBase { base, raw }, chain })
    }
}

/// Over a network a base is read where that takes less than this part of the chunk's bytes.
const FAR_SHARE: usize = 4;

/// A base, and the copies that it takes to read it: whoever uses it relies on them.
struct Near {
    base: DeltaBase,
    chain: Vec<(BlobId, Location)>,
}
