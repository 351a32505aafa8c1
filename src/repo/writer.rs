//! The whole way in.
//!
//! ```text
//! reader thread     caller              workers (one a core)             packer       uploaders
//! read          ->  guess or cut   ->   hash, seen?, compress, prove, ->  two open  -> put_new pack
//!      ^            into chunks         seal                              packs        then index
//!      |               | |                     |
//!      |               | +-> digester: parts   |
//!      |            recipe, in order <- ids ---+
//!      +---- free buffers <------- dropped ----+
//! ```
//!
//! All at the same time, with every queue bounded: the buffers that hold a stream's bytes come from a
//! fixed pool, so a reader that is ahead waits. Chunks are slices of buffers, never copied; what is
//! left uncut at a buffer's end (less than a chunk) is moved in front of the next.
//!
//! A failure anywhere is remembered once ([`Failure`]), everybody else drains and stops, and the source
//! is told by the cancel token, so that a dump command is killed rather than left hanging.

use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::env::{Cancel, lock};
use crate::error::{Error, Kind, Result};
use crate::format::keyslot::SlotKind;
use crate::format::limits::RECIPE_INLINE_MAX;
use crate::format::manifest::{Digest, Stored};
use crate::format::pack::BlobEntry;
use crate::format::recipe::{ENTRY_LEN, Recipe, RecipeEntry, decode_entries};
use crate::id::{BlobId, PartName};
use crate::report::{Counter, Report};
use crate::transform::chunk::Chunker;
use crate::transform::grain::Places;
use crate::transform::segment::{Begin, Holds, Segmenter};

use super::blob::{BlobEncoder, SealedBlob};
use super::packer::{Packer, Shelf};
use super::predict::Prediction;
use super::reader::Reader;
use super::session::{Claim, Session};

use self::buffers::{Buffer, Pool, read_buffer};
use self::cutting::{Cutting, Level, RecipeBuilder};
use self::digester::{ToDigest, digest_parts};
use self::worker::{Cut, Job, Worked, Worker};

mod buffers;
mod cutting;
mod digester;
mod records;
mod worker;

/// How a session writes.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    /// All that the pipeline may hold, in bytes.
    pub memory_bytes: usize,
    /// zstd level.
    pub level: i32,
}

/// The default memory budget: 256 MiB.
pub const MEMORY_BYTES: usize = 256 << 20;
/// The least that packs and queues need: 96 MiB.
pub const MEMORY_BYTES_MIN: usize = 96 << 20;
/// The default zstd level; `docs/decisions/0012-zstd-level.md` has the measurements.
pub const LEVEL: i32 = 1;

impl Default for WriteOptions {
    fn default() -> Self {
        Self { memory_bytes: MEMORY_BYTES, level: LEVEL }
    }
}

/// Pieces of parts waiting for their digest.
const TO_DIGEST_WAITING: usize = 16;
/// Sealed blobs waiting for the packer.
const BLOBS_WAITING: usize = 64;

/// A stream as it was stored.
#[derive(Clone, Debug)]
pub struct StoredStream {
    /// Its segments, in order; one where there is nothing to tell apart.
    pub parts: Vec<StoredPart>,
}

impl StoredStream {
    /// The one part of a stream that was not cut into segments.
    pub fn only(mut self) -> StoredPart {
        self.parts.pop().expect("a stream has a part, be it empty")
    }
}

/// A segment of a stream as it was stored.
#[derive(Clone, Debug)]
pub struct StoredPart {
    /// Its name, where it has one of its own.
    pub name: Option<PartName>,
    /// What it holds; `None` for a stream that was not recognised.
    pub holds: Option<Holds>,
    /// Rows of a table.
    pub rows: u64,
    /// Bytes that its chunks take, about: none of those that another thread was storing.
    pub stored_bytes: u64,
    /// Its length and digest.
    pub digest: Digest,
    /// Its chunks.
    pub recipe: Recipe,
}

/// The prediction for a segment by its name, for the stream itself without one; from the source's previous snapshot.
pub type Predict<'p> = &'p (dyn Fn(Option<&PartName>) -> Option<Prediction<'p>> + 'p);

/// Runs `body` with a writer for `session`. When this returns `Ok`, all that `body` stored is durable and
/// listed by durable index objects (rule I1): a manifest may be published.
///
/// # Errors
/// The first failure of any thread; else `body`'s.
pub fn write<T>(
    session: &Session<'_>,
    options: WriteOptions,
    report: &dyn Report,
    cancel: &Cancel,
    body: impl FnOnce(&mut Writer<'_>) -> Result<T>,
) -> Result<T> {
    let repo = session.repo();
    let failure = Failure { state: Mutex::new(State::Running), cancel };
    let tally = Tally::default();
    let shelf = Shelf::new(session, report);
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let in_order = repo.storage.in_order();
    let threads = if in_order { 1 } else { cores };
    let blobs_waiting_max = (options.memory_bytes / 16 / repo.parameters.chunks.max as usize).clamp(2, BLOBS_WAITING);
    if repo.parameters.pack_bytes.saturating_mul(5) > options.memory_bytes as u64 {
        let packs = repo.parameters.pack_bytes >> 20;
        return Err(Error::new(
            Kind::Usage,
            format!("packs of {packs} MiB need more memory than {} MiB", options.memory_bytes >> 20),
        )
        .hint(format!("say --memory {}M or more", packs * 6)));
    }
    let transfers = repo.storage.transfers();
    let uploaders = if in_order { 1 } else { uploaders(options.memory_bytes, repo.parameters.pack_bytes, transfers) };

    // Whoever may not read does without differences.
    let bases = if repo.keys.kind() == SlotKind::Full { Some(Reader::steady(&session.indexed)?) } else { None };
    let (sketcher, noted) = (repo.sketcher(), Mutex::default());
    let looks = repo.cache.has_features().unwrap_or(false);

    let result = std::thread::scope(|scope| {
        let (jobs, jobs_waiting) = bounded::<Job>(2 * threads + 16);
        let (done, results) = unbounded();
        // Where calls keep one order, nothing is uploaded while the body reads.
        let (hold, held) = bounded::<()>(0);
        let hold = in_order.then_some(hold);
        let (blobs, blobs_waiting) = if hold.is_some() { unbounded() } else { bounded(blobs_waiting_max) };
        let (packs, packs_waiting) = bounded(0);
        for _ in 0..threads {
            let worker = Worker {
                session,
                bases: bases.as_ref(),
                sketcher: &sketcher,
                looks,
                noted: &noted,
                failure: &failure,
                tally: &tally,
                report,
                blobs: blobs.clone(),
                done: done.clone(),
            };
            let jobs = jobs_waiting.clone();
            scope.spawn(move || {
                worker.run(&jobs, BlobEncoder::new(repo.id, options.level));
            });
        }
        for _ in 0..uploaders {
            let packs = packs_waiting.clone();
            let (shelf, failure) = (&shelf, &failure);
            scope.spawn(move || {
                for pack in packs {
                    failure.guard(|| shelf.put(pack).map(drop));
                }
            });
        }
        let (digester, to_digest) = bounded(TO_DIGEST_WAITING);
        let watch = &failure;
        scope.spawn(move || {
            watch.guard(|| {
                digest_parts(&to_digest);
                Ok(())
            });
        });
        // Only the threads hold these ends now: a queue closes when its last writer is gone.
        drop((jobs_waiting, packs_waiting, done));
        scope.spawn(move || {
            let _ = held.recv();
            let mut packer = Packer::new(session);
            let mut send = |pack| {
                let _ = packs.send(pack);
            };
            for blob in blobs_waiting {
                if !watch.is_set() {
                    packer.add(blob).into_iter().for_each(&mut send);
                }
            }
            if !watch.is_set() {
                packer.finish().into_iter().for_each(send);
            }
        });

        let mut writer = Writer {
            session,
            report,
            cancel,
            failure: &failure,
            tally: &tally,
            chunker: repo.chunker(),
            recipe_chunker: repo.recipe_chunker(),
            pool: Pool::new(options.memory_bytes, repo.parameters.chunks.max as usize),
            encoder: BlobEncoder::new(repo.id, options.level),
            next_seq: 0,
            in_step: in_order,
            jobs,
            results,
            digester,
            blobs,
        };
        let result = body(&mut writer);
        drop(hold);
        if let Err(error) = &result
            && error.kind() != Kind::Interrupted
        {
            failure.set(State::Stopped);
        }
        result
    });
    if let State::Failed(first) = failure.state.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(first);
    }
    // Without them the next day takes more, that is all.
    let _ = repo.cache.note_features(&noted.into_inner().unwrap_or_else(PoisonError::into_inner));
    // What is durable is listed, though the work was interrupted or its source failed: the next one need not store it.
    let listed = shelf.finish();
    let value = result?;
    cancel.check()?;
    listed?;
    Ok(value)
}

/// Uploads at once: as many as pay, as far as the memory goes. Nine sixteenths of it are for packs, of which two are
/// open and one is being handed over.
fn uploaders(memory_bytes: usize, pack_bytes: u64, transfers: usize) -> usize {
    let packs = usize::try_from(memory_bytes as u64 / 16 * 9 / pack_bytes.max(1)).unwrap_or(usize::MAX);
    match transfers {
        0..=2 => 1 + usize::from(memory_bytes >= MEMORY_BYTES),
        _ => packs.saturating_sub(3).clamp(1, transfers),
    }
}

/// Stores streams and blobs; see [`write()`].
pub struct Writer<'w> {
    session: &'w Session<'w>,
    report: &'w dyn Report,
    cancel: &'w Cancel,
    failure: &'w Failure<'w>,
    tally: &'w Tally,
    chunker: Chunker,
    recipe_chunker: Chunker,
    pool: Pool,
    encoder: BlobEncoder,
    /// Numbers jobs over all streams: what is left of a stream that failed is never taken for the next one's.
    next_seq: u64,
    /// Each job is waited for, so that the storage is called by one thread at a time.
    in_step: bool,
    jobs: Sender<Job>,
    results: Receiver<Worked>,
    digester: Sender<ToDigest>,
    blobs: Sender<SealedBlob>,
}

impl Writer<'_> {
    /// Stores a stream to its end, cut by `segmenter`. What is predicted changes how fast this is, never what is stored.
    ///
    /// # Errors
    /// What `input` says (as `Source`); `Interrupted`; a failure of the pipeline.
    pub fn store(
        &mut self,
        input: &mut (dyn Read + Send),
        segmenter: Option<Segmenter>,
        predict: Predict<'_>,
    ) -> Result<StoredStream> {
        let headroom = self.pool.headroom;
        let mut first = self.pool.take();
        let n = match read_buffer(input, &mut first[headroom..], 0, self.cancel, self.report) {
            Ok(n) => n,
            Err(e) => {
                self.pool.give(first);
                return Err(e);
            }
        };
        let ended = n < first.len() - headroom;
        let (give, digests) = unbounded();
        self.digest(ToDigest::Begin(give))?;
        let mut cutting = Cutting::new(segmenter, predict, digests, self.next_seq);
        // A stream of one buffer needs no thread of its own.
        let bytes = if ended {
            self.cut_buffer(&mut cutting, first, n)?;
            n as u64
        } else {
            self.store_long(input, first, &mut cutting)?
        };
        self.cut_rest(&mut cutting)?;
        while cutting.collected < cutting.sent {
            let result = self.results.recv().map_err(|_| stopped())?;
            self.collect(&mut cutting, result)?;
        }
        self.finish_parts(&mut cutting)?;
        self.failure.check()?;
        let of_parts: u64 = cutting.parts.iter().map(|part| part.digest.bytes).sum();
        if [cutting.bytes, of_parts] != [bytes; 2] {
            let what = format!("the stream had {bytes} bytes, its chunks hold {}, its parts {of_parts}", cutting.bytes);
            return Err(Error::new(Kind::Failed, what).hint("this is a defect of alluvium; nothing was published"));
        }
        Ok(StoredStream { parts: cutting.parts })
    }

    /// Stores `raw` under `id` even where a copy exists: the one in an old pack is about to go.
    /// Within one session it is still stored once.
    ///
    /// # Errors
    /// A failure of the pipeline.
    pub fn store_again(&mut self, id: BlobId, raw: Vec<u8>) -> Result<()> {
        let cuts = vec![Cut { range: 0..raw.len(), id: Some(id), similar: None }];
        let job = Job { seq: None, buffer: Arc::new(Buffer { bytes: raw, home: None }), cuts };
        self.jobs.send(job).map_err(|_| stopped())?;
        self.failure.check()
    }

    /// Stores again what was read from a pack, `encoded` as it lay there, after it was seen to decode. Within one session a
    /// blob is still stored once.
    ///
    /// # Errors
    /// `Failed` when what was sealed does not open to `encoded`; a failure of the pipeline.
    pub fn store_as_it_is(&mut self, entry: &BlobEntry, encoded: &[u8]) -> Result<()> {
        if self.session.claim_again(&entry.id) {
            let env = self.session.repo().env.as_ref();
            let blob = self.encoder.move_on(env, &self.session.key, entry, encoded)?;
            self.tally.new_chunk(entry.raw_len as usize, self.report);
            self.blobs.send(blob).map_err(|_| stopped())?;
        }
        self.failure.check()
    }

    /// What was stored so far, all streams together.
    pub fn stored(&self) -> Stored {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Stored {
            chunks: load(&self.tally.chunks),
            new_chunks: load(&self.tally.new_chunks),
            new_bytes: load(&self.tally.new_bytes),
            stored_bytes: 0,
        }
    }

    /// Reads on in a thread of its own while this one cuts; returns the stream's length in bytes.
    fn store_long(&mut self, input: &mut (dyn Read + Send), first: Vec<u8>, cutting: &mut Cutting<'_>) -> Result<u64> {
        let headroom = self.pool.headroom;
        let (filled, buffers) = bounded(2);
        let (pool, cancel, report) = (self.pool.clone(), self.cancel, self.report);
        let new_bytes = pool.buffer - headroom;
        std::thread::scope(|scope| {
            let reading = scope.spawn(move || -> Result<u64> {
                let mut bytes = new_bytes as u64;
                loop {
                    let mut buffer = pool.take();
                    let n = match read_buffer(input, &mut buffer[headroom..], bytes, cancel, report) {
                        Ok(n) => n,
                        Err(e) => {
                            pool.give(buffer);
                            return Err(e);
                        }
                    };
                    bytes += n as u64;
                    if filled.send((buffer, n)).is_err() || n < new_bytes {
                        return Ok(bytes);
                    }
                }
            });
            let mut cut = self.cut_buffer(cutting, first, new_bytes);
            for (buffer, n) in buffers {
                if cut.is_err() {
                    // The source is told; reading it to its end would help nobody.
                    self.cancel.fail();
                    self.pool.give(buffer);
                    break;
                }
                cut = self.cut_buffer(cutting, buffer, n);
            }
            let read = reading.join().unwrap_or_else(|_| Err(Error::new(Kind::Failed, "the reading thread panicked")));
            cut.and(read)
        })
    }

    /// Cuts what is certain of a buffer with `n` new bytes, hands the chunks to the workers, and keeps
    /// the rest for the next.
    fn cut_buffer(&mut self, cutting: &mut Cutting<'_>, mut bytes: Vec<u8>, n: usize) -> Result<()> {
        let headroom = self.pool.headroom;
        let begin = headroom - cutting.rest.len();
        bytes[begin..headroom].copy_from_slice(&cutting.rest);
        let buffer = Arc::new(Buffer { bytes, home: Some(self.pool.home.clone()) });
        let end = headroom + n;
        let at = self.cut_segments(cutting, &buffer, begin..end, n, false)?;
        cutting.rest.clear();
        cutting.rest.extend_from_slice(&buffer.bytes[at..end]);
        Ok(())
    }

    /// Cuts the stream's end.
    fn cut_rest(&mut self, cutting: &mut Cutting<'_>) -> Result<()> {
        let buffer = Arc::new(Buffer { bytes: std::mem::take(&mut cutting.rest), home: None });
        self.cut_segments(cutting, &buffer, 0..buffer.bytes.len(), 0, true)?;
        let rows = cutting.segmenter.as_ref().map_or(0, Segmenter::rows);
        self.end_part(cutting, rows, None)
    }

    /// Cuts `buffer[range]`, of which `n` bytes are new, segment by segment; returns up to where.
    fn cut_segments(
        &mut self,
        cutting: &mut Cutting<'_>,
        buffer: &Arc<Buffer>,
        range: Range<usize>,
        n: usize,
        last: bool,
    ) -> Result<usize> {
        let mut at = range.start;
        let mut settled = range.end;
        if let Some(segmenter) = &mut cutting.segmenter {
            let from = range.end - n - cutting.unconsumed;
            let mut begun = Vec::new();
            settled = from + segmenter.scan(&buffer.bytes[from..range.end], last, &mut begun);
            cutting.unconsumed = range.end - settled;
            for begin in begun {
                at = self.cut_until(cutting, buffer, at..from + begin.at, true)?;
                self.end_part(cutting, begin.rows_before, Some(begin))?;
            }
        }
        self.cut_until(cutting, buffer, at..settled, last)
    }

    /// The part ends, and the one that `begin` names begins.
    fn end_part(&self, cutting: &mut Cutting<'_>, rows: u64, begin: Option<Begin>) -> Result<()> {
        cutting.end_part(rows, begin);
        self.digest(ToDigest::End)
    }

    fn digest(&self, what: ToDigest) -> Result<()> {
        self.digester.send(what).map_err(|_| stopped())
    }

    /// Cuts a part's bytes, all of them when its end is known; returns up to where.
    fn cut_until(
        &mut self,
        cutting: &mut Cutting<'_>,
        buffer: &Arc<Buffer>,
        range: Range<usize>,
        whole: bool,
    ) -> Result<usize> {
        let mut cuts = Vec::with_capacity(range.len() / self.session.repo().parameters.chunks.average as usize + 2);
        let mut at = range.start;
        while at < range.end {
            let data = &buffer.bytes[at..range.end];
            let certain = whole || data.len() >= self.chunker.max();
            let cut = match self.guess(cutting, data, certain) {
                Some(cut) => cut,
                None if certain => self.scan(cutting, data),
                None => break,
            };
            let length = cut.range.end;
            cutting.places.pass(data, length);
            cuts.push(Cut { range: at..at + length, ..cut });
            at += length;
        }
        if at > range.start {
            cutting.part.bytes += (at - range.start) as u64;
            self.digest(ToDigest::Bytes(Arc::clone(buffer), range.start..at))?;
        }
        self.send(cutting, buffer, cuts)?;
        Ok(at)
    }

    /// The chunk that `data` begins with, if it is the one that is guessed: then it is right whatever follows. With
    /// `certain`, `data` is enough for a scan, too.
    fn guess(&self, cutting: &mut Cutting<'_>, data: &[u8], certain: bool) -> Option<Cut> {
        let prediction = cutting.prediction.as_mut()?;
        let guess = prediction.guess()?;
        let length = guess.len as usize;
        let needed = length + if certain { 0 } else { Places::LOOKS_AHEAD };
        // What was cut without regard to places is no guess where they are regarded.
        let may_be = needed <= data.len() && cutting.places.may_end(&self.chunker, data, length);
        if !may_be || self.session.repo().keys.hasher.id(&data[..length]) != guess.id {
            return None;
        }
        prediction.advance(&guess.id);
        cutting.predicted += 1;
        Some(Cut { range: 0..length, id: Some(guess.id), similar: None })
    }

    /// The chunk that `data` begins with, found by scanning.
    fn scan(&self, cutting: &mut Cutting<'_>, data: &[u8]) -> Cut {
        let length = cutting.places.cut(&self.chunker, data);
        let Some(prediction) = &mut cutting.prediction else {
            return Cut { range: 0..length, id: None, similar: None };
        };
        if prediction.guess().is_some() {
            prediction.miss();
        }
        let id = self.session.repo().keys.hasher.id(&data[..length]);
        let similar = if prediction.advance(&id) { None } else { prediction.similar(length as u32) };
        Cut { range: 0..length, id: Some(id), similar }
    }

    fn send(&mut self, cutting: &mut Cutting<'_>, buffer: &Arc<Buffer>, cuts: Vec<Cut>) -> Result<()> {
        if cuts.is_empty() {
            return Ok(());
        }
        self.report.count(Counter::PredictedChunks, std::mem::take(&mut cutting.predicted));
        let job = Job { seq: Some(cutting.sent), buffer: Arc::clone(buffer), cuts };
        self.jobs.send(job).map_err(|_| stopped())?;
        cutting.sent += 1;
        self.next_seq = cutting.sent;
        while self.in_step && cutting.collected < cutting.sent {
            let result = self.results.recv().map_err(|_| stopped())?;
            self.collect(cutting, result)?;
        }
        while let Ok(result) = self.results.try_recv() {
            self.collect(cutting, result)?;
        }
        self.failure.check()
    }

    /// Takes a buffer's ids; puts those that are next in order into the recipe.
    fn collect(&mut self, cutting: &mut Cutting<'_>, worked: Worked) -> Result<()> {
        // Of a stream that could not be read to its end, and was left out.
        if worked.seq < cutting.collected {
            return Ok(());
        }
        cutting.early.insert(worked.seq, worked);
        while let Some(worked) = cutting.early.remove(&cutting.collected) {
            self.finish_parts(cutting)?;
            cutting.collected += 1;
            cutting.stored_bytes += worked.stored_bytes;
            for entry in worked.entries {
                cutting.bytes += u64::from(entry.len);
                self.push(&mut cutting.recipe, 0, entry)?;
            }
        }
        Ok(())
    }

    /// Puts aside the parts whose last chunk was collected.
    fn finish_parts(&mut self, cutting: &mut Cutting<'_>) -> Result<()> {
        while let Some((_, mut part)) = cutting.ended.pop_front_if(|(seq, _)| *seq == cutting.collected) {
            part.digest.blake3 = cutting.digests.recv().map_err(|_| stopped())?;
            let recipe = self.finish_recipe(std::mem::take(&mut cutting.recipe))?;
            let stored_bytes = std::mem::take(&mut cutting.stored_bytes);
            cutting.parts.push(StoredPart { stored_bytes, recipe, ..part });
        }
        Ok(())
    }

    /// Appends an entry to level `level` of a recipe. What is certain to be cut is stored as chunks, whose
    /// entries go one level up, so that a recipe of any length takes little memory.
    fn push(&mut self, recipe: &mut RecipeBuilder, level: usize, entry: RecipeEntry) -> Result<()> {
        if recipe.levels.len() == level {
            recipe.levels.push(Level::default());
        }
        entry.encode(&mut recipe.levels[level].bytes);
        let max = self.recipe_chunker.max();
        if recipe.levels[level].bytes.len() < 8 * max {
            return Ok(());
        }
        let bytes = std::mem::take(&mut recipe.levels[level].bytes);
        let mut at = 0;
        while bytes.len() - at >= max + ENTRY_LEN {
            let end = at + self.cut_entries(&bytes[at..]);
            let stored = self.store_one(&bytes[at..end])?;
            self.push(recipe, level + 1, stored)?;
            at = end;
        }
        recipe.levels[level].bytes.extend_from_slice(&bytes[at..]);
        recipe.levels[level].cut = true;
        Ok(())
    }

    /// Ends a recipe: the lowest level that is short enough to stand in the manifest is its root.
    fn finish_recipe(&mut self, mut recipe: RecipeBuilder) -> Result<Recipe> {
        let mut level = 0;
        loop {
            let Some(current) = recipe.levels.get_mut(level) else {
                return Ok(Recipe::default());
            };
            let (bytes, cut) = (std::mem::take(&mut current.bytes), current.cut);
            if !cut && bytes.len() <= RECIPE_INLINE_MAX * ENTRY_LEN {
                let chunks = decode_entries(&bytes).map_err(|e| Error::new(Kind::Failed, e.0))?;
                return Ok(Recipe { depth: level as u8, chunks });
            }
            let mut at = 0;
            while at < bytes.len() {
                let end = at + self.cut_entries(&bytes[at..]);
                let stored = self.store_one(&bytes[at..end])?;
                self.push(&mut recipe, level + 1, stored)?;
                at = end;
            }
            level += 1;
        }
    }

    /// The length of the first chunk of a recipe, moved on to the end of an entry.
    fn cut_entries(&self, entries: &[u8]) -> usize {
        self.recipe_chunker.cut(entries).next_multiple_of(ENTRY_LEN).min(entries.len())
    }

    /// Stores one chunk on this thread, for recipes.
    fn store_one(&mut self, raw: &[u8]) -> Result<RecipeEntry> {
        let repo = self.session.repo();
        let id = repo.keys.hasher.id(raw);
        self.tally.chunks.fetch_add(1, Ordering::Relaxed);
        if self.session.claim(&id)? == Claim::Mine {
            let blob = self.encoder.encode(repo.env.as_ref(), &self.session.key, id, raw, &[])?;
            self.tally.new_chunk(raw.len(), self.report);
            self.blobs.send(blob).map_err(|_| stopped())?;
        }
        Ok(RecipeEntry { id, len: raw.len() as u32 })
    }
}

/// What a run stored.
#[derive(Default)]
struct Tally {
    chunks: AtomicU64,
    new_chunks: AtomicU64,
    new_bytes: AtomicU64,
}

impl Tally {
    fn new_chunk(&self, bytes: usize, report: &dyn Report) {
        self.new_chunks.fetch_add(1, Ordering::Relaxed);
        self.new_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        report.count(Counter::NewChunks, 1);
        report.count(Counter::NewBytes, bytes as u64);
    }
}

/// The first failure of any thread. Once it is set, the others only drain, and the source is told to stop.
struct Failure<'c> {
    state: Mutex<State>,
    cancel: &'c Cancel,
}

enum State {
    Running,
    Failed(Error),
    /// The caller gave up; it knows why.
    Stopped,
}

impl Failure<'_> {
    fn guard(&self, work: impl FnOnce() -> Result<()>) {
        if self.is_set() {
            return;
        }
        // A thread that panics silently would be waited for for ever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
            .unwrap_or_else(|_| Err(Error::new(Kind::Failed, "a thread panicked; nothing was published")));
        if let Err(error) = result {
            self.set(State::Failed(error));
            self.cancel.fail();
        }
    }

    fn set(&self, state: State) {
        let mut current = lock(&self.state);
        if matches!(*current, State::Running) {
            *current = state;
        }
    }

    fn is_set(&self) -> bool {
        !matches!(*lock(&self.state), State::Running)
    }

    fn check(&self) -> Result<()> {
        if self.is_set() { Err(stopped()) } else { Ok(()) }
    }
}

/// What a thread says that can't go on because of another's failure.
fn stopped() -> Error {
    Error::new(Kind::Interrupted, "stopped by a failure elsewhere")
}
