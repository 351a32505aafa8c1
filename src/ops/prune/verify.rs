//! Verification: before a copy of a needed blob goes, the copy that stays is read and decoded.
//!
//! Marks say which copy of each needed blob is counted on. Where a pack that is to go holds another
//! copy of the same blob, or of a base of another copy, the counted one is read at exactly its location,
//! and so is the counted copy of each base of its delta chain. What has one copy only is not read: nothing
//! depends on the choice.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use crate::env::{Cancel, lock};
use crate::error::{Kind, Result};
use crate::format::pack::{BlobEntry, object_name};
use crate::id::{BlobId, PackId};
use crate::repo::Indexed;
use crate::repo::bases::Bases;
use crate::repo::index::Location;
use crate::repo::parallel::{at_once, each};
use crate::repo::reader::Reader;
use crate::report::{Counter, Problem, Report, Unit};

use super::super::mark::Marks;
use super::survey::cache_emptied;

/// Copies that are verified between two looks at the cancellation.
const VERIFIED_AT_ONCE: usize = 256;

/// A stored copy: the blob, and where it is.
type Copy = (BlobId, Location);

/// Where a copy begins: its pack, and the offset in bytes.
type Place = (PackId, u32);

/// What reading a copy at its location gave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It holds the blob.
    Whole,
    /// It does not hold the blob, or ends early.
    Flawed,
    /// The storage did not give it, for now.
    Unread,
    /// It depends on a base whose counted copy is flawed: the next marks decide anew.
    FlawedBase,
}

/// The ids of blobs whose counted copies must be verified, by their first 8 bytes: ids are keyed
/// hashes, so a collision costs one read more.
#[derive(Default)]
pub(super) struct Duplicates(HashSet<u64>);

impl Duplicates {
    /// Adds a blob of which a copy that is not counted on becomes unreadable.
    pub(super) fn add(&mut self, id: &BlobId) {
        self.0.insert(Self::prefix(id));
    }

    /// True when nothing is to be verified.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn contains(&self, id: &BlobId) -> bool {
        self.0.contains(&Self::prefix(id))
    }

    fn prefix(id: &BlobId) -> u64 {
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&id.0[..8]);
        u64::from_le_bytes(prefix)
    }
}

/// Reads counted copies, each once, however often the marks are made.
pub(super) struct Verifier<'v> {
    indexed: &'v Indexed<'v>,
    reader: Reader<'v>,
    bases: Bases,
    /// What was read so far. Of a delta only itself: its bases are looked up each time, since other
    /// marks count on other copies of them.
    verdicts: Mutex<HashMap<Place, (BlobId, Verdict)>>,
    /// What this round found of copies with their bases. Each is visited once, however many deltas lead to it: else the
    /// work would double with each link of a chain.
    visited: Mutex<HashMap<Place, Verdict>>,
    report: &'v dyn Report,
    cancel: &'v Cancel,
}

/// What a round of verification found.
#[derive(Default)]
pub(super) struct Round {
    /// Copies that do not hold their blob.
    pub(super) flawed: HashSet<(PackId, BlobId)>,
    /// Blobs whose counted copy, or a base of it, could not be read.
    pub(super) unread: HashSet<BlobId>,
}

impl<'v> Verifier<'v> {
    pub(super) fn new(indexed: &'v Indexed<'v>, report: &'v dyn Report, cancel: &'v Cancel) -> Result<Self> {
        let reader = Reader::steady(indexed)?;
        let (verdicts, visited) = (Mutex::default(), Mutex::default());
        Ok(Self { indexed, reader, bases: Bases::default(), verdicts, visited, report, cancel })
    }

    /// How many copies were found whole.
    pub(super) fn verified(&self) -> u64 {
        lock(&self.verdicts).values().filter(|(_, verdict)| *verdict == Verdict::Whole).count() as u64
    }

    /// Verifies every copy that `marks` count on of a blob in `duplicates`, with its chain of bases.
    pub(super) fn round(&self, marks: &Marks, duplicates: &Duplicates) -> Result<Round> {
        let mut round = Round::default();
        if duplicates.is_empty() {
            return Ok(round);
        }
        let counted = self.counted(marks, duplicates)?;
        if counted.is_empty() {
            return Ok(round);
        }
        let storage = self.indexed.repo.storage.as_ref();
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if storage.in_order() { 1 } else { cores.max(at_once(storage)) };
        lock(&self.visited).clear();
        self.report.task("Verifying the copies that stay", Unit::Things, Some(counted.len() as u64));
        let mut done = 0;
        for group in counted.chunks(VERIFIED_AT_ONCE) {
            self.cancel.check()?;
            let verdicts = each(threads, group, |(id, copy)| self.verify(marks, id, copy, false));
            for ((id, _), verdict) in group.iter().zip(verdicts) {
                if verdict? == Verdict::Unread {
                    round.unread.insert(*id);
                }
            }
            done += group.len() as u64;
            self.report.progress(done);
        }
        let verdicts = lock(&self.verdicts);
        let flawed = verdicts.iter().filter(|(_, (_, verdict))| *verdict == Verdict::Flawed);
        round.flawed = flawed.map(|((pack, _), (id, _))| (*pack, *id)).collect();
        drop(verdicts);
        Ok(round)
    }

    /// The counted copies of `duplicates`, in the order in which they lie in the packs.
    fn counted(&self, marks: &Marks, duplicates: &Duplicates) -> Result<Vec<Copy>> {
        let cache = &self.indexed.repo.cache;
        let packs: HashMap<PackId, _> = cache.packs()?.into_iter().map(|p| (p.id, (p.key, p.claim.author))).collect();
        let mut counted = Vec::new();
        for (&pack, used) in &marks.used {
            let entries: Vec<(u32, BlobEntry)> =
                cache.entries(&pack)?.into_iter().filter(|(offset, _)| used.contains(offset)).collect();
            let Some(&(key, author)) = packs.get(&pack).filter(|_| entries.len() == used.len()) else {
                return Err(cache_emptied());
            };
            let again = entries.into_iter().filter(|(_, entry)| duplicates.contains(&entry.id));
            counted.extend(again.map(|(offset, entry)| {
                let BlobEntry { id, codec, raw_len, stored_len, base } = entry;
                (id, Location { pack, key, author, offset, stored_len, raw_len, codec, base })
            }));
        }
        counted.sort_unstable_by_key(|(_, copy)| (copy.pack, copy.offset));
        Ok(counted)
    }

    /// The copies that `marks` count on of what `copy` is a delta to.
    fn counted_bases(&self, marks: &Marks, copy: &Location) -> Result<Vec<Copy>> {
        let Some(base) = copy.base else { return Ok(Vec::new()) };
        let is_used = |copy: &Location| marks.used.get(&copy.pack).is_some_and(|used| used.contains(&copy.offset));
        let copies = self.indexed.copies(&base.id)?.into_iter();
        Ok(copies.filter(|c| c.version() < base.version && is_used(c)).map(|c| (base.id, c)).collect())
    }

    /// Verifies a copy and the counted copies of its base, the base's base. `keep`: it is wanted again
    /// as a base.
    fn verify(&self, marks: &Marks, id: &BlobId, copy: &Location, keep: bool) -> Result<Verdict> {
        let place = (copy.pack, copy.offset);
        if let Some(known) = lock(&self.visited).get(&place) {
            return Ok(*known);
        }
        let verdict = self.visit(marks, id, copy, keep)?;
        lock(&self.visited).insert(place, verdict);
        Ok(verdict)
    }

    fn visit(&self, marks: &Marks, id: &BlobId, copy: &Location, keep: bool) -> Result<Verdict> {
        let bases = self.counted_bases(marks, copy)?;
        for (base_id, base_copy) in &bases {
            match self.verify(marks, base_id, base_copy, true)? {
                Verdict::Whole => {}
                Verdict::Flawed | Verdict::FlawedBase => return Ok(Verdict::FlawedBase),
                Verdict::Unread => return Ok(Verdict::Unread),
            }
        }
        let place = (copy.pack, copy.offset);
        if let Some((_, known)) = lock(&self.verdicts).get(&place) {
            return Ok(*known);
        }
        let read = match (copy.base, bases.first()) {
            (None, _) => self.reader.copy_with(id, copy, None),
            // Bases are not marked: only the simulation switches that off.
            (Some(_), None) => self.reader.copy(id, copy),
            (Some(_), Some((base_id, base_copy))) => match self.raw(marks, base_id, base_copy) {
                Ok(base) => self.reader.copy_with(id, copy, Some(&base)),
                // It was whole a moment ago: this copy is not to blame.
                Err(e) if e.kind() == Kind::Damaged => Err(e.as_kind(Kind::Storage)),
                Err(e) => Err(e),
            },
        };
        let verdict = match read {
            Ok(raw) => {
                if keep {
                    self.bases.put(*id, raw);
                }
                Verdict::Whole
            }
            Err(e) if e.kind() == Kind::Damaged => {
                let what = format!("chunk {id} is damaged here: prune counts on another copy");
                self.report.problem(Problem::new(object_name(copy.pack), what));
                Verdict::Flawed
            }
            Err(e) if matches!(e.kind(), Kind::Storage | Kind::Denied) => {
                let what = format!("chunk {id} could not be read ({e}): packs with other copies of it stay");
                self.report.problem(Problem::new(object_name(copy.pack), what));
                Verdict::Unread
            }
            Err(e) => return Err(e),
        };
        // Another thread may have read the same base.
        let is_first = lock(&self.verdicts).insert(place, (*id, verdict)).is_none();
        if is_first && verdict == Verdict::Whole {
            self.report.count(Counter::VerifiedBlobs, 1);
        }
        Ok(verdict)
    }

    /// The plain bytes of a base that was verified.
    fn raw(&self, marks: &Marks, id: &BlobId, copy: &Location) -> Result<Arc<Vec<u8>>> {
        if let Some(raw) = self.bases.get(id) {
            return Ok(raw);
        }
        let base = match self.counted_bases(marks, copy)?.first() {
            Some((id, copy)) => Some(self.raw(marks, id, copy)?),
            None => None,
        };
        let raw = self.reader.copy_with(id, copy, base.as_ref().map(|raw| &raw[..]))?;
        Ok(self.bases.put(*id, raw))
    }
}
