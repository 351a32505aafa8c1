//! The data of one snapshot on its way into a session of the destination.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, bounded};

use crate::env::{Cancel, lock};
use crate::error::{Error, Kind, Result};
use crate::format::manifest::{Catalog, Manifest, Original, Part, PartList, PartName, Stored};
use crate::format::pack::object_name;
use crate::format::recipe::{Recipe, RecipeEntry};
use crate::id::{BlobId, PackId, SnapshotId};
use crate::repo::Indexed;
use crate::repo::index::{KnownPack, Location};
use crate::repo::packer::{Shelf, take_over};
use crate::repo::predict::Prediction;
use crate::repo::reader::{Extents, Reader, Walked, Walking};
use crate::repo::session::Session;
use crate::repo::snapshots::Snapshot;
use crate::repo::writer::{Predict, Writer, write};
use crate::report::{Counter, Problem, Report};

use super::{SyncOptions, Tally, Way};

/// Missing chunks that are gathered before they move: some 10 MB of memory, 32 GiB of a stream.
const WINDOW: usize = 1 << 17;
/// Packs for each transfer that are looked for in the snapshots that follow.
const PACKS_AHEAD: usize = 4;
/// Pieces of a stream between the thread that reads and the one that cuts.
const PIECES_WAITING: usize = 2;

/// How often the chunks of a claim may be repeated on average, recipes and lists included: dumps repeat chunks seldom, and
/// what is repeated more often is taken for a bomb. A few bytes can say that they are a stream without an end.
const REPEATS_MAX: u64 = 1000;
/// A claim that costs no more than this is streamed, whatever it consists of.
const UNEXPLAINED_MAX: u64 = 1 << 30;
/// What an entry of a recipe costs besides its bytes, in bytes.
const ENTRY_COST: u64 = 4 << 10;

/// What became of a snapshot's data.
pub(super) enum Moved {
    /// It is in the destination.
    Whole {
        /// The parts and the catalog as they are there.
        lists: (PartList, Option<Catalog>),
        /// What storing them took.
        stored: Stored,
    },
    /// Some of it is another shard's.
    Partly,
    /// Some of it the source can't give.
    Lost(Vec<Problem>),
}

/// A snapshot's data on its way.
pub(super) struct Copying<'c> {
    session: &'c Session<'c>,
    reader: &'c Reader<'c>,
    here: &'c Indexed<'c>,
    /// As `here`, without packs of writers who could have stored garbage.
    vouched: Indexed<'c>,
    options: &'c SyncOptions,
    transfers: usize,
    tally: &'c Tally<'c>,
    cancel: &'c Cancel,
    /// The source's packs, once they are needed.
    packs: Option<HashMap<PackId, KnownPack>>,
    stored: Stored,
    /// Chunks that another shard moves.
    left: u64,
    lost: Vec<Problem>,
}

impl<'c> Copying<'c> {
    /// # Errors
    /// Of the source's local cache; `Storage`.
    pub(super) fn new(
        session: &'c Session<'c>,
        reader: &'c Reader<'c>,
        here: &'c Indexed<'c>,
        options: &'c SyncOptions,
        transfers: usize,
        tally: &'c Tally<'c>,
        cancel: &'c Cancel,
    ) -> Result<Self> {
        let (stored, lost, vouched) = (Stored::default(), Vec::new(), here.vouched()?);
        let (packs, left) = (None, 0);
        Ok(Self { session, reader, here, vouched, options, transfers, tally, cancel, packs, stored, left, lost })
    }

    /// Moves the chunks that the destination lacks, by name; whole packs that the snapshots after it lack come along.
    pub(super) fn chunks(&mut self, snapshot: &Snapshot, way: Way, next: &[(Snapshot, Original)]) -> Result<Moved> {
        // With the version that a copy has to be below, where deltas need it.
        let mut missing: HashMap<BlobId, u8> = HashMap::new();
        let (reader, tally, with) = (self.reader, self.tally, self.walking());
        let mut visit = |entry: &RecipeEntry, depth: u8| {
            self.stored.chunks += 1;
            if let Some(chain) = self.session.indexed.usable_chain(&entry.id, u8::MAX)? {
                self.session.rely_on(&chain);
            } else if way != Way::Packs {
                missing.entry(entry.id).or_insert(u8::MAX);
            } else if let Some(place) = self.place(&entry.id)? {
                if !self.lies_there(&entry.id, &place)? {
                    missing.entry(entry.id).or_insert(u8::MAX);
                }
                self.bases_missing(&place, &mut missing)?;
            } else {
                missing.entry(entry.id).or_insert(u8::MAX);
            }
            if missing.len() >= WINDOW {
                self.settle(&std::mem::take(&mut missing), way, &[])?;
            }
            tally.settle(if depth == 0 { u64::from(entry.len) } else { 0 });
            Ok(())
        };
        // What a list or recipe can't give is the source's loss; what the visitor returns ends the work.
        let mut lost = Vec::new();
        reader.walk_snapshot(&snapshot.manifest, &mut Walked::default(), with, &mut visit, &mut |e| {
            lost.push(e);
            Ok(())
        })?;
        for error in &lost {
            self.lose(error);
        }
        self.settle(&missing, way, next)?;
        let Manifest { parts, catalog, .. } = &snapshot.manifest;
        Ok(self.moved(snapshot.id, Some((parts.clone(), catalog.clone()))))
    }

    fn walking(&self) -> Walking<'c> {
        Walking { transfers: self.transfers, report: self.tally, cancel: self.cancel }
    }

    /// Packs that lie as they do here bring differences along: what those need is missing, too.
    fn bases_missing(&self, moved: &Location, missing: &mut HashMap<BlobId, u8>) -> Result<()> {
        for (id, copy) in &self.here.bases_of(moved)? {
            let below = copy.version() + 1;
            if self.session.indexed.usable_chain(id, below)?.is_none() && !self.lies_there(id, copy)? {
                missing.entry(*id).and_modify(|other| *other = below.min(*other)).or_insert(below);
            }
        }
        Ok(())
    }

    /// The destination has this very copy already, though it may lack what the copy is a difference to: another shard's, or
    /// what was interrupted. Its pack need not be taken over again, if the source has what is lacking.
    fn lies_there(&self, id: &BlobId, copy: &Location) -> Result<bool> {
        let there = &self.session.indexed;
        let same =
            |other: &Location| (other.codec, other.base, other.stored_len) == (copy.codec, copy.base, copy.stored_len);
        let good = |other: &Location| {
            !there.is_condemned(other.pack) && !there.is_distrusted(id, other.pack) && !there.is_unvouched(other.pack)
        };
        Ok(!self.here.bases_of(copy)?.is_empty() && there.copies(id)?.iter().any(|other| same(other) && good(other)))
    }

    /// `lists` is `None` where something is lost.
    fn moved(&mut self, snapshot: SnapshotId, lists: Option<(PartList, Option<Catalog>)>) -> Moved {
        if !self.lost.is_empty() {
            let lost = std::mem::take(&mut self.lost);
            return Moved::Lost(lost.into_iter().map(|problem| problem.harming([snapshot])).collect());
        }
        match lists.filter(|_| self.left == 0) {
            Some(lists) => Moved::Whole { lists, stored: self.stored },
            None => Moved::Partly,
        }
    }

    fn lose(&mut self, error: &Error) {
        let problem = problem(error);
        if !self.lost.contains(&problem) {
            self.lost.push(problem);
        }
    }

    /// Moves these chunks: as whole packs where most of a pack is missing, one by one elsewhere.
    fn settle(&mut self, missing: &HashMap<BlobId, u8>, way: Way, next: &[(Snapshot, Original)]) -> Result<()> {
        let mut by_pack: HashMap<PackId, Vec<(BlobId, u32)>> = HashMap::new();
        let mut singly: Vec<BlobId> = Vec::new();
        for (&id, &below) in missing {
            match self.place(&id)? {
                Some(place) if self.options.shard.is_some_and(|shard| !shard.admits(place.pack.as_bytes())) => {
                    self.left += 1;
                }
                Some(place) if way == Way::Packs && place.version() < below && self.may_be_taken(&place) => {
                    by_pack.entry(place.pack).or_default().push((id, place.stored_len));
                }
                _ => singly.push(id),
            }
        }
        let mut whole = Vec::new();
        for (pack, blobs) in by_pack {
            let needed: u64 = blobs.iter().map(|(_, len)| u64::from(*len)).sum();
            match self.known(&pack)? {
                Some(known) if needed * 2 >= known.stored_bytes => whole.push((pack, blobs)),
                _ => singly.extend(blobs.into_iter().map(|(id, _)| id)),
            }
        }
        let mut packs: Vec<PackId> = whole.iter().map(|(pack, _)| *pack).collect();
        if !packs.is_empty() {
            self.look_ahead(next, missing, &mut packs)?;
        }
        let not_taken = self.take_packs(&packs)?;
        for (pack, blobs) in whole {
            // What a damaged pack still holds whole is read blob by blob.
            if not_taken.contains(&pack) {
                singly.extend(blobs.into_iter().map(|(id, _)| id));
            }
        }
        self.reseal(singly)
    }

    /// Adds packs that the snapshots after this one lack, until all transfers are busy: small snapshots, one by one, would
    /// leave most of them idle. Each finds what came along in the index. What can't be had is told in its own time.
    fn look_ahead(
        &mut self,
        next: &[(Snapshot, Original)],
        moving: &HashMap<BlobId, u8>,
        packs: &mut Vec<PackId>,
    ) -> Result<()> {
        let enough = self.transfers * PACKS_AHEAD;
        for (snapshot, _) in next {
            if packs.len() >= enough {
                break;
            }
            let (mut seen, mut needed) = (HashSet::new(), HashMap::<PackId, u64>::new());
            let mut visit = |entry: &RecipeEntry, _| {
                if !moving.contains_key(&entry.id)
                    && self.session.indexed.usable(&entry.id)?.is_none()
                    && seen.len() < WINDOW
                    && seen.insert(entry.id)
                    && let Some(place) = self.place(&entry.id)?
                    && self.may_be_taken(&place)
                    && !self.lies_there(&entry.id, &place)?
                    && self.options.shard.is_none_or(|shard| shard.admits(place.pack.as_bytes()))
                {
                    *needed.entry(place.pack).or_default() += u64::from(place.stored_len);
                }
                Ok(())
            };
            let mut whole = true;
            let with = self.walking();
            let mut lost = |_| {
                whole = false;
                Ok(())
            };
            let walked =
                self.reader.walk_snapshot(&snapshot.manifest, &mut Walked::default(), with, &mut visit, &mut lost);
            if walked.is_err() || !whole {
                return self.cancel.check();
            }
            for (pack, bytes) in needed {
                if self.known(&pack)?.is_some_and(|known| bytes * 2 >= known.stored_bytes) && !packs.contains(&pack) {
                    packs.push(pack);
                }
            }
        }
        Ok(())
    }

    /// Where the source has a chunk: the same place each time where shards must agree on it. Copies whose writers
    /// are trusted come first.
    fn place(&self, id: &BlobId) -> Result<Option<Location>> {
        if self.options.shard.is_none() {
            return Ok(self.vouched.usable(id)?.or(self.here.usable(id)?));
        }
        let rank = |l: &Location| (self.here.is_distrusted(id, l.pack), !self.may_be_taken(l), l.pack, l.offset);
        Ok(self.here.copies(id)?.into_iter().min_by_key(rank))
    }

    /// The pack of this copy may be taken over unread: garbage in it would be this slot's own. What else there is
    /// is read, verified and sealed again.
    fn may_be_taken(&self, copy: &Location) -> bool {
        !self.vouched.is_unvouched(copy.pack)
    }

    fn known(&mut self, pack: &PackId) -> Result<Option<KnownPack>> {
        if self.packs.is_none() {
            self.packs = Some(self.here.repo.cache.packs()?.into_iter().map(|p| (p.id, p)).collect());
        }
        Ok(self.packs.as_ref().and_then(|packs| packs.get(pack).copied()))
    }

    /// Takes packs over, many at once. Returns those that the source can't give whole.
    fn take_packs(&mut self, packs: &[PackId]) -> Result<HashSet<PackId>> {
        let mut sized = Vec::with_capacity(packs.len());
        for pack in packs {
            sized.push((*pack, self.known(pack)?.map_or(0, |known| known.size)));
        }
        let (source, session, tally) = (&self.vouched, self.session, self.tally);
        let shelf = Shelf::new(session, tally);
        let (next, not_taken, failure) = (AtomicUsize::new(0), Mutex::new(HashSet::new()), Mutex::new(None));
        let blobs = Mutex::new((0, 0));
        let work = || {
            let mut buffer = Vec::new();
            while let Some(&(id, size)) = sized.get(next.fetch_add(1, Ordering::Relaxed))
                && lock(&failure).is_none()
                && !self.cancel.is_cancelled()
            {
                let name = object_name(id);
                // What is longer than the index says is not that pack, and takes no memory.
                let read = source.repo.storage.get_into(&name, size, &mut buffer).and_then(|()| {
                    tally.count(Counter::PackReads, 1);
                    tally.count(Counter::PackReadBytes, buffer.len() as u64);
                    take_over(session, source, id, std::mem::take(&mut buffer))
                });
                let Ok(pack) = read else {
                    lock(&not_taken).insert(id);
                    continue;
                };
                let held = pack.indexed.entries.iter().map(|e| u64::from(e.raw_len));
                let (chunks, bytes) = (pack.indexed.entries.len() as u64, held.sum::<u64>());
                match shelf.put(pack) {
                    Ok(empty) => {
                        buffer = empty;
                        tally.packs.fetch_add(1, Ordering::Relaxed);
                        let mut blobs = lock(&blobs);
                        *blobs = (blobs.0 + chunks, blobs.1 + bytes);
                    }
                    Err(e) => {
                        lock(&failure).get_or_insert(e);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.transfers.min(packs.len()) {
                scope.spawn(work);
            }
        });
        // What is durable is listed, whatever became of the others: the next sync finds it.
        let listed = shelf.finish();
        if let Some(error) = lock(&failure).take() {
            return Err(error);
        }
        listed?;
        self.cancel.check()?;
        let (chunks, bytes) = *lock(&blobs);
        self.stored.new_chunks += chunks;
        self.stored.new_bytes += bytes;
        Ok(std::mem::take(&mut *lock(&not_taken)))
    }

    /// Reads chunks, verified, and seals them for the destination.
    fn reseal(&mut self, ids: Vec<BlobId>) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let (session, reader, transfers, tally, cancel) =
            (self.session, self.reader, self.transfers, self.tally, self.cancel);
        let stored = write(session, self.options.write, tally, cancel, |writer| {
            reader.blobs(ids, transfers, tally, cancel, &mut |id, raw| match raw {
                Ok(raw) => {
                    tally.resealed.fetch_add(1, Ordering::Relaxed);
                    writer.store_again(id, raw)
                }
                // The others go on: they are some other snapshot's, too.
                Err(e) => {
                    self.lose(&e);
                    Ok(())
                }
            })?;
            Ok(writer.stored())
        })?;
        self.stored.new_chunks += stored.new_chunks;
        self.stored.new_bytes += stored.new_bytes;
        Ok(())
    }

    /// What reads a claim of a write-only slot, chunk after chunk, may have no end, or none in this life: it is only
    /// streamed if its recipes fit what its manifest says, and if its distinct chunks explain its length
    /// ([`REPEATS_MAX`]). Each recipe chunk is read once for it.
    ///
    /// # Errors
    /// `Interrupted`; of the source's local cache. The inner error is the source's.
    fn refuse_bomb(&self, manifest: &Manifest) -> Result<Result<(), Error>> {
        let cost = match self.cost(manifest) {
            Ok(cost) => cost,
            Err(e) if e.kind() == Kind::Interrupted => return Err(e),
            Err(e) => return Ok(Err(e)),
        };
        if cost <= UNEXPLAINED_MAX {
            return Ok(Ok(()));
        }
        let (enough, mut explained, mut seen) = (cost.div_ceil(REPEATS_MAX), 0, HashSet::new());
        let mut visit = |entry: &RecipeEntry, _| {
            let is_there = |copy: &Location| copy.raw_len == entry.len;
            if !seen.contains(&entry.id) && self.here.copies(&entry.id)?.iter().any(is_there) {
                seen.insert(entry.id);
                explained += u64::from(entry.len) + ENTRY_COST;
            }
            // No further than needed: of what is honest that is a small part.
            let stop = || Err(Error::new(Kind::Interrupted, "enough is known"));
            if explained >= enough { stop() } else { Ok(()) }
        };
        let walked = &mut Walked::default();
        let walk = self.reader.walk_snapshot(manifest, walked, self.walking(), &mut visit, &mut Err);
        self.cancel.check()?;
        if explained >= enough {
            return Ok(Ok(()));
        }
        walk?;
        let bytes = manifest.bytes();
        let what = format!("says it has {bytes} bytes, and repeats so few chunks that it is taken for a bomb");
        Ok(Err(Error::damaged("the stream", what)))
    }

    /// What streaming all parts and the catalog takes, in bytes.
    ///
    /// # Errors
    /// `Damaged` where a recipe does not come to what its digest says; of lists and recipes that can't be read.
    fn cost(&self, manifest: &Manifest) -> Result<u64> {
        let mut known = Extents::new();
        let mut cost = |what: &dyn Fn() -> String, recipe: &Recipe, bytes: u64| {
            let extent = self.reader.extent(recipe, &mut known, self.walking())?;
            if extent.bytes != bytes {
                let found = format!("its recipe lists {} bytes, its digest says {bytes}", extent.bytes);
                return Err(Error::damaged(what(), found));
            }
            Ok(extent.bytes.saturating_add(extent.entries.saturating_mul(ENTRY_COST)))
        };
        let mut sum: u64 = 0;
        for part in self.reader.part_iter(manifest) {
            let Part { name, recipe, digest, .. } = part?;
            if digest.bytes > 0 {
                let what = || format!("part `{}`", name.to_string().escape_debug());
                sum = sum.saturating_add(cost(&what, &recipe, digest.bytes)?);
            }
        }
        if let Some(Catalog { recipe, digest, .. }) = &manifest.catalog {
            sum = sum.saturating_add(cost(&|| "the catalog".to_owned(), recipe, digest.bytes)?);
        }
        Ok(sum)
    }

    /// Reads each part and stores it as if it came from its source. Of a claim of a write-only slot it is known first that
    /// this ends.
    pub(super) fn streams(
        &mut self,
        snapshot: &Snapshot,
        previous: Option<SnapshotId>,
        is_claim: bool,
    ) -> Result<Moved> {
        if is_claim && let Err(lost) = self.refuse_bomb(&snapshot.manifest)? {
            self.lose(&lost);
            return Ok(self.moved(snapshot.id, None));
        }
        let session = self.session;
        let there = Reader::new(&session.indexed)?;
        // Only a help for cutting: without it the copy is the same.
        let previous = previous.and_then(|id| there.parts(&session.repo().snapshot(id).ok()?.manifest).ok());
        let recipes: HashMap<PartName, Recipe> =
            previous.into_iter().flatten().map(|part| (part.name, part.recipe)).collect();
        let (lists, stored) = write(session, self.options.write, self.tally, self.cancel, |writer| {
            let mut parts = Vec::new();
            for part in self.reader.part_iter(&snapshot.manifest) {
                let part = match part {
                    Ok(part) => part,
                    Err(e) if e.kind() == Kind::Interrupted => return Err(e),
                    Err(e) => {
                        self.lose(&e);
                        break;
                    }
                };
                let before = recipes.get(&part.name);
                let predict = |_: Option<&PartName>| before.map(|recipe| Prediction::new(there.entries(recipe)));
                match self.stream(writer, &part, &predict)? {
                    Ok(recipe) => parts.push(Part { recipe, ..part }),
                    Err(lost) => self.lose(&lost),
                }
            }
            let catalog = match self.reader.catalog(&snapshot.manifest) {
                Ok(tables) => tables.map(|tables| writer.store_catalog(&tables)).transpose()?,
                Err(e) if e.kind() == Kind::Interrupted => return Err(e),
                Err(e) => {
                    self.lose(&e);
                    None
                }
            };
            let lists = if self.lost.is_empty() { Some((writer.store_parts(parts)?, catalog)) } else { None };
            Ok((lists, writer.stored()))
        })?;
        self.stored = stored;
        Ok(self.moved(snapshot.id, lists))
    }

    /// One part. The inner error is the source's.
    fn stream(&self, writer: &mut Writer<'_>, part: &Part, predict: Predict<'_>) -> Result<Result<Recipe, Error>> {
        if part.digest.bytes == 0 {
            return Ok(Ok(Recipe::default()));
        }
        let memory = self.options.write.memory_bytes / 4;
        let (stored, read) = std::thread::scope(|scope| {
            let (send, pieces) = bounded(PIECES_WAITING);
            let reading = scope.spawn(move || {
                let read = self.reader.stream(&[part], memory, self.tally, self.cancel, &mut |bytes| {
                    let sent = send.send(Some(bytes.to_vec()));
                    sent.map_err(|_| Error::new(Kind::Interrupted, "the destination takes no more"))
                });
                // An end that is no end must not look like one.
                if read.is_err() {
                    let _ = send.send(None);
                }
                read
            });
            let mut pipe = Pieces { waiting: pieces, piece: Vec::new(), at: 0, tally: self.tally };
            let stored = writer.store(&mut pipe, None, predict);
            drop(pipe);
            let panicked = || Err(Error::new(Kind::Failed, "the reading thread panicked"));
            (stored, reading.join().unwrap_or_else(|_| panicked()))
        });
        match (stored, read) {
            (_, Err(e)) if e.kind() != Kind::Interrupted => Ok(Err(e)),
            (Err(e), _) | (_, Err(e)) => Err(e),
            (Ok(stored), Ok(())) => {
                let stored = stored.only();
                if stored.digest == part.digest {
                    return Ok(Ok(stored.recipe));
                }
                Err(Error::new(Kind::Failed, "a stream changed on its way; nothing was published").hint(
                    "this machine computes wrongly: test its memory and processor before trusting it with backups",
                ))
            }
        }
    }

    /// Finds every chunk of the copy in the destination's index, and relies on it. Its lists and recipes are read there.
    ///
    /// # Errors
    /// `Damaged` when one is not there; `Storage`, `Interrupted`.
    pub(super) fn prove(&self, copy: &Manifest) -> Result<()> {
        let indexed = &self.session.indexed;
        let there = Reader::new(indexed)?;
        let mut visit = |entry: &RecipeEntry, _| match indexed.usable_chain(&entry.id, u8::MAX)? {
            Some(chain) if chain[0].1.raw_len == entry.len => {
                self.session.rely_on(&chain);
                Ok(())
            }
            _ => Err(Error::damaged(
                format!("chunk {}", entry.id),
                "is not in the destination's index; the copy was not published",
            )),
        };
        there.walk_snapshot(copy, &mut Walked::default(), self.walking(), &mut visit, &mut Err)
    }
}

/// An error of a repository's object as a problem. What is blamed stands in front of the first colon.
pub(super) fn problem(error: &Error) -> Problem {
    let text = error.to_string();
    let text = ["reading a recipe: ", "reading the list of parts: "]
        .iter()
        .fold(&text[..], |text, front| text.strip_prefix(front).unwrap_or(text));
    let object = text.split_once(": ").map_or(text, |(object, _)| object);
    Problem::new(object, text)
}

/// The pieces of a stream as something to read from.
struct Pieces<'t> {
    /// `None` where the source has failed.
    waiting: Receiver<Option<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
    tally: &'t Tally<'t>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.piece.len() {
            match self.waiting.recv() {
                Ok(Some(piece)) => (self.piece, self.at) = (piece, 0),
                Ok(None) => return Err(std::io::Error::other("the source repository can't give it")),
                Err(_) => return Ok(0),
            }
        }
        let n = into.len().min(self.piece.len() - self.at);
        into[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        self.tally.settle(n as u64);
        Ok(n)
    }
}
