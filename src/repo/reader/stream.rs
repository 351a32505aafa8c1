//! A whole stream, or some parts of it: the writer's line read backwards.
//!
//! ```text
//! planner          fetchers (ahead)      decoders (one a core)        caller
//! recipe, in  ->   ranges of packs,  ->  open, decompress,       ->   in order: digest, write
//! batches, with    coalesced             compare every id
//! locations
//!      ^                                                                  |
//!      +------------------------- free buffers <--------------------------+
//! ```
//!
//! A fixed number of batch buffers goes round, so a restore of any length holds no more than that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::super::blob::BlobDecoder;
use super::super::index::Location;
use super::super::parallel::{at_once, each};
use super::ancestors::{Ancestor, Ancestors, Pool, Raw};
use super::proof::Proof;
use super::{GAP_BYTES, Reader, Walking};
use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::format::manifest::Part;
use crate::format::pack;
use crate::format::recipe::{Recipe, RecipeEntry, decode_entries};
use crate::id::{BlobId, PackId};
use crate::report::{Counter, Report};

/// Plain bytes that are read, decoded and written at a time: so few that they are still in a cache of the processor when they
/// are digested and written.
const BATCH_BYTES: usize = 1 << 20;
/// The same over a network: a batch lies in two packs mostly, and fewer, larger requests wait less.
const BATCH_BYTES_FAR: usize = 8 << 20;
/// Chunks of a batch: bounds the look-ups where chunks are tiny.
const BATCH_CHUNKS: usize = 1024;
/// Bytes between two blobs that are read over, over a network: a request waits for longer than these bytes take.
const GAP_BYTES_FAR: u32 = 1 << 20;
/// Such bytes of one batch, at most: they take memory like the others.
const READ_OVER_BYTES: u32 = 2 << 20;
/// Threads that wait for a disk.
const FETCHERS: usize = 4;
/// Ranges of one batch that are waited for together, over a network.
const RANGES_AT_ONCE: usize = 4;

/// What a recipe comes to when all of it is read, however often it lists the same chunks. Sums saturate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Plain bytes of the stream.
    pub bytes: u64,
    /// Entries that have to be looked at, those of recipe chunks included.
    pub entries: u64,
}

impl Extent {
    fn and(self, other: Self) -> Self {
        let (bytes, entries) = (self.bytes.saturating_add(other.bytes), self.entries.saturating_add(other.entries));
        Self { bytes, entries }
    }
}

/// Recipe chunks whose extent is known, by their depth.
pub type Extents = HashMap<(BlobId, u8), Extent>;

/// Recipe chunks that are read at a time, to learn their extent, and their plain bytes.
const EXTENT_CHUNKS: usize = 256;
const EXTENT_BYTES: u64 = 16 << 20;

impl Reader<'_> {
    /// What a recipe comes to. Each of its chunks is read once, so that takes no longer than the chunks that there are.
    ///
    /// # Errors
    /// `Damaged` for a recipe that can't be read; `Storage`; `Interrupted`.
    pub fn extent(&self, recipe: &Recipe, known: &mut Extents, with: Walking<'_>) -> Result<Extent> {
        self.extent_of(&recipe.chunks, recipe.depth, known, with)
    }

    fn extent_of(
        &self,
        mut entries: &[RecipeEntry],
        depth: u8,
        known: &mut Extents,
        with: Walking<'_>,
    ) -> Result<Extent> {
        let one = |entry: &RecipeEntry| Extent { bytes: u64::from(entry.len), entries: 1 };
        let mut sum = Extent::default();
        let Some(below) = depth.checked_sub(1) else {
            return Ok(entries.iter().map(one).fold(sum, Extent::and));
        };
        while !entries.is_empty() {
            let (mut group, mut new, mut bytes) = (0, HashSet::new(), 0);
            for entry in &entries[..entries.len().min(EXTENT_CHUNKS)] {
                if !known.contains_key(&(entry.id, depth)) && new.insert(entry.id) {
                    bytes += self.indexed.usable(&entry.id)?.map_or(0, |copy| u64::from(copy.raw_len));
                    if bytes > EXTENT_BYTES && new.len() > 1 {
                        new.remove(&entry.id);
                        break;
                    }
                }
                group += 1;
            }
            let mut read = Vec::new();
            self.blobs(new, with.transfers, with.report, with.cancel, &mut |id, bytes| {
                read.push((id, bytes.map_err(|e| e.during("reading a recipe"))?));
                Ok(())
            })?;
            for (id, bytes) in read {
                let listed = decode_entries(&bytes).map_err(|e| Error::damaged(format!("recipe chunk {id}"), e))?;
                let extent = self.extent_of(&listed, below, known, with)?;
                known.insert((id, depth), extent);
            }
            let (now, rest) = entries.split_at(group);
            for entry in now {
                let within = known.get(&(entry.id, depth)).copied().unwrap_or_default();
                sum = sum.and(within).and(Extent { bytes: 0, entries: 1 });
            }
            entries = rest;
        }
        Ok(sum)
    }

    /// Reads a whole stream in order, all `parts` of it, and gives it to `out`, verified chunk by chunk; at its end, length
    /// and digest must be those of the manifest.
    ///
    /// # Errors
    /// `Damaged` with the object's name; `Interrupted`; `Storage`; what `out` says.
    pub fn stream(
        &self,
        parts: &[&Part],
        memory_bytes: usize,
        report: &dyn Report,
        cancel: &Cancel,
        out: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        // A network wants some requests waiting behind those that are under way.
        let fetchers = FETCHERS.max(2 * at_once(self.indexed.repo.storage.as_ref()));
        let batch_bytes = if self.is_far() { BATCH_BYTES_FAR } else { BATCH_BYTES };
        // Plain, as fetched, and what was read over. A batch holds one chunk, however long.
        let batch_costs =
            2 * batch_bytes.max(self.indexed.repo.parameters.chunks.max as usize) + READ_OVER_BYTES as usize;
        let batches = (memory_bytes / batch_costs).clamp(2, 2 * threads + fetchers + 2);
        let mut proof = Proof::new(parts);
        let pool = &Arc::new(Pool::default());
        std::thread::scope(|scope| {
            let (give, free) = unbounded();
            let (planned, to_fetch) = unbounded::<Batch>();
            let (fetched, to_decode) = bounded::<(Batch, Result<Vec<Range>>)>(batches);
            let (decoded, results) = unbounded();
            (0..batches).for_each(|_| give.send(Vec::new()).expect("the receiver is here"));
            let plan = scope.spawn(move || self.plan(parts, batch_bytes, &free, &planned));
            for _ in 0..fetchers.min(batches) {
                let (to_fetch, fetched) = (to_fetch.clone(), fetched.clone());
                scope.spawn(move || {
                    for batch in to_fetch {
                        let ranges = guarded(|| self.fetch(&batch, report));
                        if fetched.send((batch, ranges)).is_err() {
                            break;
                        }
                    }
                });
            }
            for _ in 0..threads {
                let (to_decode, decoded) = (to_decode.clone(), decoded.clone());
                scope.spawn(move || {
                    let mut decoder = BlobDecoder::default();
                    for (mut batch, ranges) in to_decode {
                        let result = guarded(|| self.decode_batch(&mut decoder, &mut batch, &ranges?, pool, report));
                        if decoded.send((batch.seq, result.map(|()| batch.raw))).is_err() {
                            break;
                        }
                    }
                });
            }
            drop((to_fetch, fetched, to_decode, decoded));
            write_in_order(&results, &give, &mut proof, cancel, report, out)?;
            drop(give);
            plan.join().unwrap_or_else(|_| Err(Error::new(Kind::Failed, "the planning thread panicked")))
        })?;
        proof.finish()
    }

    /// Cuts the recipes into batches, each with a free buffer and the places of its chunks.
    fn plan(
        &self,
        parts: &[&Part],
        batch_bytes: usize,
        free: &Receiver<Vec<u8>>,
        planned: &Sender<Batch>,
    ) -> Result<()> {
        let mut entries = parts.iter().flat_map(|part| self.part_entries(part)).peekable();
        let mut ancestors = Ancestors::default();
        let mut seq = 0;
        while entries.peek().is_some() {
            // The buffers end when the caller has failed: there is nothing more to plan.
            let Ok(raw) = free.recv() else { return Ok(()) };
            let mut batch = Batch { seq, raw, chunks: Vec::new() };
            let mut bytes = 0;
            while let Some(Ok(entry)) = entries.peek()
                && batch.chunks.len() < BATCH_CHUNKS
                && (bytes == 0 || bytes + entry.len as usize <= batch_bytes)
            {
                bytes += entry.len as usize;
                // Nearly always answered from memory; what is not found so is looked for when it is needed.
                let chain = self.indexed.usable_chain(&entry.id, u8::MAX)?.unwrap_or_default();
                let location = chain.first().map(|(_, copy)| *copy).filter(|copy| copy.raw_len == entry.len);
                let base = chain.get(1..).and_then(|bases| ancestors.chain(bases));
                batch.chunks.push(Planned { entry: *entry, location, base });
                entries.next();
            }
            if let Some(Err(_)) = entries.peek() {
                return entries.next().map_or(Ok(()), |e| e.map(|_| ()));
            }
            batch.raw.resize(bytes, 0);
            seq += 1;
            if planned.send(batch).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A request waits for longer than its bytes take.
    fn is_far(&self) -> bool {
        at_once(self.indexed.repo.storage.as_ref()) > 1
    }

    /// Reads what a batch needs, neighbours of one pack together. What can't be read here is left to
    /// [`decode_batch`](Self::decode_batch), which looks elsewhere.
    fn fetch(&self, batch: &Batch, report: &dyn Report) -> Result<Vec<Range>> {
        let mut wanted: Vec<&Location> = Vec::new();
        for chunk in &batch.chunks {
            wanted.extend(&chunk.location);
            let ancestors = std::iter::successors(chunk.base.as_ref(), |ancestor| ancestor.base.as_ref());
            wanted.extend(ancestors.take_while(|one| !one.is_decoded()).map(|one| &one.location));
        }
        wanted.sort_unstable_by_key(|l| (l.pack, l.offset));
        wanted.dedup_by_key(|l| (l.pack, l.offset));
        let storage = self.indexed.repo.storage.as_ref();
        let gap = if self.is_far() { GAP_BYTES_FAR } else { GAP_BYTES };
        let mut ranges: Vec<Range> = Vec::new();
        let mut read_over = 0;
        for location in wanted {
            let end = location.offset + location.stored_len;
            let between = |range: &Range| location.offset.saturating_sub(range.end);
            match ranges.last_mut() {
                Some(range)
                    if range.pack == location.pack
                        && between(range) <= gap
                        && read_over + between(range) <= READ_OVER_BYTES =>
                {
                    read_over += between(range);
                    range.end = range.end.max(end);
                }
                _ => ranges.push(Range { pack: location.pack, start: location.offset, end, bytes: Vec::new() }),
            }
        }
        let read = each(at_once(storage).min(RANGES_AT_ONCE), &ranges, |range| {
            storage.get_range(&pack::object_name(range.pack), u64::from(range.start), range.len())
        });
        for (range, read) in ranges.iter_mut().zip(read) {
            match read {
                Ok(bytes) => range.bytes = bytes,
                // Looked for elsewhere, and told when it is nowhere.
                Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged | Kind::Storage) => {}
                Err(e) => return Err(e),
            }
            report.count(Counter::PackReads, 1);
            report.count(Counter::PackReadBytes, range.len() as u64);
        }
        Ok(ranges)
    }

    fn decode_batch(
        &self,
        decoder: &mut BlobDecoder,
        batch: &mut Batch,
        ranges: &[Range],
        pool: &Arc<Pool>,
        report: &dyn Report,
    ) -> Result<()> {
        // A chunk that occurs twice is copied from where it came out first.
        let mut done: HashMap<RecipeEntry, usize> = HashMap::with_capacity(batch.chunks.len());
        let (mut at, mut opened) = (0, Vec::new());
        for Planned { entry, location, base } in &mut batch.chunks {
            let len = entry.len as usize;
            // Whoever needs it next may be another thread: it is let go where it is not needed any more.
            let base = base.take();
            if let Some(&first) = done.get(entry) {
                batch.raw.copy_within(first..first + len, at);
            } else {
                let out = &mut batch.raw[at..at + len];
                let base = base.and_then(|base| self.decode_ancestor(decoder, &base, ranges, pool, report));
                let base = base.as_ref().map(|raw| &raw[..]);
                let here = location.as_ref().and_then(|location| Some((location, find(ranges, location)?)));
                let decoded = here.is_some_and(|(location, sealed)| {
                    // A copy: opening is done in place, and a later chunk may be a difference to this one.
                    opened.clear();
                    opened.extend_from_slice(sealed);
                    self.decode(decoder, &entry.id, location, &mut opened, base, out, true).is_ok()
                });
                if !decoded {
                    let raw = self.blob(&entry.id)?;
                    if raw.len() != len {
                        return Err(Error::damaged(
                            format!("chunk {}", entry.id),
                            format!("has {} bytes, its recipe says {len}", raw.len()),
                        ));
                    }
                    out.copy_from_slice(&raw);
                }
                done.insert(*entry, at);
            }
            at += len;
        }
        Ok(())
    }

    /// The plain bytes of a base, from what was fetched. Its id is not compared: it was authenticated, and the id of the chunk
    /// that it helps to decode is. None where that fails: the chunk is read in another way then, and this one's id compared.
    fn decode_ancestor(
        &self,
        decoder: &mut BlobDecoder,
        ancestor: &Ancestor,
        ranges: &[Range],
        pool: &Arc<Pool>,
        report: &dyn Report,
    ) -> Option<Arc<Raw>> {
        let held = ancestor.held();
        if let Some(raw) = held.get() {
            return Some(raw);
        }
        let base = match &ancestor.base {
            Some(base) => Some(self.decode_ancestor(decoder, base, ranges, pool, report)?),
            None => None,
        };
        let base = base.as_ref().map(|raw| &raw[..]);
        // A copy, as of chunks.
        let mut sealed = find(ranges, &ancestor.location)?.to_vec();
        let mut raw = pool.buffer(ancestor.location.raw_len as usize);
        self.decode(decoder, &ancestor.id, &ancestor.location, &mut sealed, base, &mut raw, false).ok()?;
        report.count(Counter::DecodedBases, 1);
        Some(held.keep(raw))
    }
}

/// What `work` says; a thread that panics silently would be waited for for ever.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::new(Kind::Failed, "a reading thread panicked")))
}

/// The sealed bytes of a blob among the ranges read, sorted by pack and offset.
fn find<'a>(ranges: &'a [Range], location: &Location) -> Option<&'a [u8]> {
    let after = ranges.partition_point(|r| (r.pack, r.start) <= (location.pack, location.offset));
    let range = ranges.get(after.checked_sub(1)?)?;
    let start = location.offset.checked_sub(range.start)? as usize;
    range.bytes.get(start..start + location.stored_len as usize)
}

/// The caller's part: batches as they come, out in order.
fn write_in_order(
    results: &Receiver<(u64, Result<Vec<u8>>)>,
    give: &Sender<Vec<u8>>,
    proof: &mut Proof<'_>,
    cancel: &Cancel,
    report: &dyn Report,
    out: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    for (seq, result) in results {
        cancel.check()?;
        early.insert(seq, result);
        while let Some(result) = early.remove(&next) {
            let raw = result?;
            proof.pass(&raw)?;
            out(&raw)?;
            report.count(Counter::RestoredBytes, raw.len() as u64);
            report.progress(proof.bytes());
            // The planner may be done with buffers already.
            let _ = give.send(raw);
            next += 1;
        }
    }
    Ok(())
}

/// Some consecutive chunks of a stream on their way.
struct Batch {
    seq: u64,
    raw: Vec<u8>,
    chunks: Vec<Planned>,
}

/// A chunk, where it is, and what it is a difference to.
struct Planned {
    entry: RecipeEntry,
    location: Option<Location>,
    base: Option<Arc<Ancestor>>,
}

/// A piece of a pack; empty when it could not be read.
struct Range {
    pack: PackId,
    start: u32,
    end: u32,
    bytes: Vec<u8>,
}

impl Range {
    fn len(&self) -> usize {
        (self.end - self.start) as usize
    }
}
