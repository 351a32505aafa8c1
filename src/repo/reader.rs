//! The whole way out: blobs, recipes, and (in `stream.rs`) whole streams.
//!
//! Nothing leaves a decoder that was not verified. A blob that can't be read where the index says is
//! looked for again in a fresh index (rule I2: prune may have moved it), then in every other copy;
//! then it is an error, never zeros.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{bounded, unbounded};

use crate::env::{Cancel, lock};
use crate::error::{Error, Kind, Result};
use crate::format::manifest::Part;
use crate::format::pack::{self, Base, WrappedKey};
use crate::format::recipe::{self, Recipe, RecipeEntry};
use crate::id::{BlobId, PackId};
use crate::report::{Counter, Report, Silent};
use crate::transform::seal::SealKey;

use super::Indexed;
use super::bases::Bases;
use super::blob::{BlobDecoder, Opening};
use super::index::Location;
use super::parallel::{at_once, each};

mod ancestors;
mod list;
mod proof;
mod stream;
mod walk;

pub use self::list::{Parts, decode_list};
pub use self::stream::{Extent, Extents};
pub use self::walk::{ListWalk, Walked, Walking};

/// Plain bytes of blobs that are read together, where many are read in any order.
const GROUP_BYTES: usize = 4 << 20;
/// Bytes between two blobs that are read over rather than around.
const GAP_BYTES: u32 = 64 << 10;
/// Most copies in a row that a blob is decoded with: a delta, its base, the base's base.
const CHAIN_LINKS_MAX: usize = 64;

/// Whoever is told of the chunks that a walk comes by, with their depth; 0 is data.
pub type Visit<'v> = &'v mut dyn FnMut(&RecipeEntry, u8) -> Result<()>;
/// Whoever takes blobs as they come, or the error of one that no copy gives.
pub type Take<'t> = &'t mut dyn FnMut(BlobId, Result<Vec<u8>>) -> Result<()>;

/// Reads blobs, recipes and streams.
pub struct Reader<'r> {
    indexed: &'r Indexed<'r>,
    /// Held while the index is read again, since something was not where it was said to be.
    reading_again: Mutex<()>,
    /// What deltas are decoded with.
    bases: Bases,
    /// It goes by the index as it is, and does not read it again.
    steady: bool,
    /// Bases that a steady reader has found damaged, with the versions of the deltas that needed them: a
    /// pack may list any number of deltas that lead to one.
    lost: Mutex<HashSet<(BlobId, u8)>>,
}

impl<'r> Reader<'r> {
    /// A reader.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot.
    pub fn new(indexed: &'r Indexed<'r>) -> Result<Self> {
        indexed.repo.keys.require_full("reading stored data")?;
        let (reading_again, bases, lost) = (Mutex::new(()), Bases::default(), Mutex::default());
        Ok(Self { indexed, reading_again, bases, steady: false, lost })
    }

    /// A reader that never reads the index again: for whoever has looked at packs and listings that belong to it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn steady(indexed: &'r Indexed<'r>) -> Result<Self> {
        Ok(Self { steady: true, ..Self::new(indexed)? })
    }

    /// One blob, from any copy that is whole.
    ///
    /// # Errors
    /// `Damaged` when no copy is; `Storage`.
    pub fn blob(&self, id: &BlobId) -> Result<Vec<u8>> {
        self.blob_below(id, u8::MAX, &mut Attempts::default())
    }

    /// The blob, from a copy of a lower version than `below`: what a delta of version `below` may be decoded with.
    fn blob_below(&self, id: &BlobId, below: u8, attempts: &mut Attempts) -> Result<Vec<u8>> {
        if attempts.lost.contains(&(*id, below)) {
            return Err(Error::damaged(format!("chunk {id}"), "no copy of it can be read"));
        }
        if attempts.links == CHAIN_LINKS_MAX {
            return Err(Error::damaged(format!("chunk {id}"), "is behind too many deltas"));
        }
        attempts.links += 1;
        let raw = self.blob_anywhere(id, below, attempts);
        attempts.links -= 1;
        if raw.is_err() {
            attempts.lost.insert((*id, below));
        }
        raw
    }

    /// From the copies that are known; then reads the index again, as long as it shows a copy that was not tried: one prune
    /// may move a chunk twice.
    fn blob_anywhere(&self, id: &BlobId, below: u8, attempts: &mut Attempts) -> Result<Vec<u8>> {
        let mut copies = self.indexed.copies(id)?;
        let mut tried = HashSet::new();
        let (mut problem, mut renewed) = (None, false);
        loop {
            copies.retain(|copy| copy.version() < below && tried.insert((copy.pack, copy.offset)));
            match self.first_whole(id, &copies, attempts)? {
                Ok(raw) => return Ok(raw),
                Err(later) => problem = later.or(problem),
            }
            if self.steady {
                break;
            }
            let packs: HashSet<PackId> = tried.iter().map(|(pack, _)| *pack).collect();
            copies = {
                let _one_at_a_time = lock(&self.reading_again);
                self.indexed.repo.index_to_read(&Silent)?.copies(id)?
            };
            copies.retain(|copy| copy.version() < below && !packs.contains(&copy.pack));
            if copies.is_empty() {
                // The local cache may lack one: it is rebuilt, once.
                if renewed || !self.indexed.repo.cache.renew()? {
                    break;
                }
                renewed = true;
            } else if renewed {
                self.indexed.repo.cache.confirm_damage();
            }
        }
        // A bad block under the only copy is damage, too.
        Err(problem.map_or_else(
            || {
                Error::damaged(format!("chunk {id}"), "is in no pack that the index lists")
                    .hint("`alluvium repair index` reads the packs themselves")
            },
            |e| e.as_kind(Kind::Damaged),
        ))
    }

    /// The plain bytes of a delta's base.
    ///
    /// # Errors
    /// As [`blob`](Self::blob).
    pub fn base(&self, base: &Base) -> Result<Arc<Vec<u8>>> {
        self.base_after(base, &mut Attempts::default())
    }

    fn base_after(&self, base: &Base, attempts: &mut Attempts) -> Result<Arc<Vec<u8>>> {
        if let Some(raw) = self.bases.get(&base.id) {
            return Ok(raw);
        }
        let key = (base.id, base.version);
        if self.steady && lock(&self.lost).contains(&key) {
            return Err(Error::damaged(format!("chunk {}", base.id), "no copy of it can be read"));
        }
        match self.blob_below(&base.id, base.version, attempts) {
            Ok(raw) => Ok(self.bases.put(base.id, raw)),
            Err(e) => {
                if self.steady && e.kind() == Kind::Damaged {
                    lock(&self.lost).insert(key);
                }
                Err(e)
            }
        }
    }

    /// The first copy that opens. The inner error is what is wrong with the first that does not.
    fn first_whole(
        &self,
        id: &BlobId,
        copies: &[Location],
        attempts: &mut Attempts,
    ) -> Result<std::result::Result<Vec<u8>, Option<Error>>> {
        let mut problem = None;
        for copy in copies {
            let place = (copy.pack, copy.offset);
            if attempts.failed.contains(&place) {
                let again = || Error::damaged(pack::object_name(copy.pack), format!("chunk {id} can't be read"));
                problem.get_or_insert_with(again);
                continue;
            }
            match self.copy_after(id, copy, attempts) {
                Ok((raw, _)) => return Ok(Ok(raw)),
                Err(e) if e.kind() == Kind::NotFound => {
                    problem.get_or_insert(e.as_kind(Kind::Damaged));
                }
                // Damaged, or on a bad block of the disk: another copy may be whole.
                Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Storage) => {
                    problem.get_or_insert(e);
                }
                Err(e) => return Err(e),
            }
            attempts.failed.insert(place);
        }
        Ok(Err(problem))
    }

    /// The blob at exactly this place.
    ///
    /// # Errors
    /// `Damaged`, `NotFound` when the pack is gone, `Storage`.
    pub fn copy(&self, id: &BlobId, location: &Location) -> Result<Vec<u8>> {
        self.copy_as_stored(id, location).map(|(raw, _)| raw)
    }

    /// The blob at exactly this place, plain, and encoded as it is stored there.
    ///
    /// # Errors
    /// As [`copy`](Self::copy).
    pub fn copy_as_stored(&self, id: &BlobId, location: &Location) -> Result<(Vec<u8>, Vec<u8>)> {
        self.copy_after(id, location, &mut Attempts::default())
    }

    fn copy_after(&self, id: &BlobId, location: &Location, attempts: &mut Attempts) -> Result<(Vec<u8>, Vec<u8>)> {
        let name = pack::object_name(location.pack);
        let mut sealed =
            self.indexed.repo.storage.get_range(&name, u64::from(location.offset), location.stored_len as usize)?;
        let mut raw = vec![0; location.raw_len as usize];
        let mut decoder = BlobDecoder::default();
        let encoded = self.decode_alone(&mut decoder, id, location, &mut sealed, &mut raw, attempts)?.to_vec();
        Ok((raw, encoded))
    }

    /// The blob at exactly this place, a delta decoded with `base`: nothing else is read.
    ///
    /// # Errors
    /// As [`copy`](Self::copy).
    pub fn copy_with(&self, id: &BlobId, location: &Location, base: Option<&[u8]>) -> Result<Vec<u8>> {
        let (name, len) = (pack::object_name(location.pack), location.stored_len as usize);
        let mut sealed = self.indexed.repo.storage.get_range(&name, u64::from(location.offset), len)?;
        let mut raw = vec![0; location.raw_len as usize];
        self.decode(&mut BlobDecoder::default(), id, location, &mut sealed, base, &mut raw, true)?;
        Ok(raw)
    }

    /// Decodes a blob, and what it is a difference to, unless that is at hand.
    fn decode_alone<'s>(
        &self,
        decoder: &mut BlobDecoder,
        id: &BlobId,
        location: &Location,
        sealed: &'s mut [u8],
        raw: &mut [u8],
        attempts: &mut Attempts,
    ) -> Result<&'s [u8]> {
        let of_base = |e: Error| e.during(format!("reading the base of chunk {id}"));
        let base = location.base.map(|base| self.base_after(&base, attempts)).transpose().map_err(of_base)?;
        let base = base.as_ref().map(|raw| &raw[..]);
        self.decode(decoder, id, location, sealed, base, raw, true)
    }

    #[allow(clippy::too_many_arguments, reason = "a blob and everything that decides how it is decoded")]
    fn decode<'s>(
        &self,
        decoder: &mut BlobDecoder,
        id: &BlobId,
        location: &Location,
        sealed: &'s mut [u8],
        base: Option<&[u8]>,
        raw: &mut [u8],
        compare: bool,
    ) -> Result<&'s [u8]> {
        let repo = self.indexed.repo;
        let key = self.data_key(location)?;
        let hasher = compare.then_some(&repo.keys.hasher);
        let with = Opening { repo: repo.id, hasher, key: &key, key_id: location.key };
        decoder.decode(with, &location.entry(*id), sealed, base, raw).map_err(|what| {
            Error::damaged(pack::object_name(location.pack), format!("chunk {id} at byte {}: {what}", location.offset))
        })
    }

    /// The data key of a copy. What an index object says of it is a hint: one that does not open, or is of
    /// an epoch that nobody knows, is read from the pack itself.
    fn data_key(&self, location: &Location) -> Result<SealKey> {
        let (repo, id) = (self.indexed.repo, location.key);
        if let Some(key) = repo.keys.opened_data_key(id) {
            return Ok(key);
        }
        let hint: Option<WrappedKey> = repo.cache.wrapped_key(id)?;
        if let Some(Ok(key)) = hint.map(|wrapped| repo.keys.open_data_key(&wrapped)) {
            return Ok(key);
        }
        let (_, header) = repo.read_pack_header(location.pack)?;
        if header.key.id != id {
            let what = format!("its data key is {}, the index says {id}", header.key.id);
            return Err(Error::damaged(pack::object_name(location.pack), what));
        }
        repo.keys.open_data_key(&header.key).map_err(|e| e.during(pack::object_name(location.pack)))
    }

    /// The chunks of a stream, in order, without holding its whole recipe. Ends at the first error.
    pub fn entries<'a>(&'a self, recipe: &Recipe) -> Box<dyn Iterator<Item = Result<RecipeEntry>> + Send + 'a> {
        let mut entries: Box<dyn Iterator<Item = Result<RecipeEntry>> + Send + 'a> =
            Box::new(recipe.chunks.clone().into_iter().map(Ok));
        for _ in 0..recipe.depth {
            entries = Box::new(Expand {
                reader: self,
                inner: entries,
                ahead: VecDeque::new(),
                entries: Vec::new().into_iter(),
                ended: false,
            });
        }
        entries
    }

    /// The chunks of a part, in order. As soon as they hold more bytes than the part has, this ends with an error.
    pub fn part_entries<'a>(&'a self, part: &Part) -> Box<dyn Iterator<Item = Result<RecipeEntry>> + Send + 'a> {
        let mut left = Some(part.digest.bytes);
        let name = part.name.clone();
        Box::new(self.entries(&part.recipe).map_while(move |entry| {
            let Ok(entry) = entry else { return Some(entry) };
            left = left?.checked_sub(u64::from(entry.len));
            let too_long = || Error::damaged(format!("part `{name}`"), "its recipe lists more bytes than it has");
            Some(left.map(|_| entry).ok_or_else(too_long))
        }))
    }

    /// The entries of one chunk of a recipe.
    ///
    /// # Errors
    /// `Damaged`; `Storage`.
    pub fn recipe_chunk(&self, id: &BlobId) -> Result<Vec<RecipeEntry>> {
        let bytes = self.blob(id).map_err(|e| e.during("reading a recipe"))?;
        if bytes.is_empty() {
            // A recipe of nothing but such chunks would have no entry, and no end.
            return Err(Error::damaged(format!("recipe chunk {id}"), "has no entries"));
        }
        recipe::decode_entries(&bytes).map_err(|e| Error::damaged(format!("recipe chunk {id}"), e))
    }

    /// Reads many blobs, each once, in no particular order: neighbours of one pack together, `transfers` requests at a
    /// time. One that no copy gives does not stop the others.
    ///
    /// # Errors
    /// `Interrupted`; of the local cache; what `take` says.
    pub fn blobs(
        &self,
        ids: impl IntoIterator<Item = BlobId>,
        transfers: usize,
        report: &dyn Report,
        cancel: &Cancel,
        take: Take<'_>,
    ) -> Result<()> {
        let mut wanted = Vec::new();
        for id in ids.into_iter().collect::<HashSet<_>>() {
            wanted.push((id, self.indexed.usable(&id)?));
        }
        let (give, groups) = unbounded();
        for group in neighbours(wanted) {
            let _ = give.send(group);
        }
        drop(give);
        std::thread::scope(|scope| {
            let (done, results) = bounded(2);
            for _ in 0..transfers.max(1) {
                let (groups, done) = (groups.clone(), done.clone());
                scope.spawn(move || {
                    let mut decoder = BlobDecoder::default();
                    for group in groups {
                        // A thread that panics silently would be waited for for ever.
                        let work = std::panic::AssertUnwindSafe(|| self.read_group(&mut decoder, &group, report));
                        let blobs = std::panic::catch_unwind(work).unwrap_or_else(|_| {
                            let failed = || Err(Error::new(Kind::Failed, "a reading thread panicked"));
                            group.iter().map(|(id, _)| (*id, failed())).collect()
                        });
                        if cancel.is_cancelled() || done.send(blobs).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(done);
            for blobs in results {
                cancel.check()?;
                for (id, raw) in blobs {
                    take(id, raw)?;
                }
            }
            cancel.check()
        })
    }

    /// Reads what [`neighbours`] put together in one request; what that does not give is looked for elsewhere.
    fn read_group(
        &self,
        decoder: &mut BlobDecoder,
        group: &[(BlobId, Option<Location>)],
        report: &dyn Report,
    ) -> Vec<(BlobId, Result<Vec<u8>>)> {
        let places = || group.iter().filter_map(|(_, place)| place.as_ref());
        let bounds = places().map(|l| l.offset).min().zip(places().map(|l| l.offset + l.stored_len).max());
        let mut bytes = Vec::new();
        if let (Some((start, end)), Some(first)) = (bounds, places().next()) {
            let len = (end - start) as usize;
            // What can't be read here is told when it is nowhere else.
            bytes = self
                .indexed
                .repo
                .storage
                .get_range(&pack::object_name(first.pack), u64::from(start), len)
                .unwrap_or_default();
            report.count(Counter::PackReads, 1);
            report.count(Counter::PackReadBytes, bytes.len() as u64);
        }
        let start = bounds.map_or(0, |(start, _)| start);
        let mut read = |(id, place): &(BlobId, Option<Location>)| {
            let place = place.as_ref()?;
            let at = (place.offset - start) as usize;
            let sealed = bytes.get_mut(at..at + place.stored_len as usize)?;
            let mut raw = vec![0; place.raw_len as usize];
            self.decode_alone(decoder, id, place, sealed, &mut raw, &mut Attempts::default()).is_ok().then_some(raw)
        };
        group.iter().map(|one| (one.0, read(one).map_or_else(|| self.blob(&one.0), Ok))).collect()
    }
}

/// What was tried in vain to read one blob: copies of deltas may share bases, which share bases again, and each copy is tried
/// once.
#[derive(Default)]
struct Attempts {
    /// Copies that can't be decoded, by pack and offset.
    failed: HashSet<(PackId, u32)>,
    /// Blobs of which no copy below a version can be decoded.
    lost: HashSet<(BlobId, u8)>,
    /// Blobs that are being read, each the base of the one before.
    links: usize,
}

/// Puts blobs together that one request reads: near each other in one pack, and not too many bytes. Those without a
/// place stand alone.
fn neighbours(mut wanted: Vec<(BlobId, Option<Location>)>) -> Vec<Vec<(BlobId, Option<Location>)>> {
    wanted.sort_unstable_by_key(|(id, place)| (place.as_ref().map(|l| (l.pack, l.offset)), *id));
    let mut groups: Vec<Vec<(BlobId, Option<Location>)>> = Vec::new();
    let mut bytes = 0;
    for (id, place) in wanted {
        let last = groups.last().and_then(|group| group.last()?.1.as_ref());
        let joins = last.zip(place.as_ref()).is_some_and(|(last, next)| {
            let end = last.offset + last.stored_len;
            last.pack == next.pack
                && next.offset <= end.saturating_add(GAP_BYTES)
                && bytes + next.raw_len as usize <= GROUP_BYTES
        });
        let len = place.as_ref().map_or(0, |l| l.raw_len as usize);
        match groups.last_mut() {
            Some(group) if joins => {
                bytes += len;
                group.push((id, place));
            }
            _ => {
                bytes = len;
                groups.push(vec![(id, place)]);
            }
        }
    }
    groups
}

/// Entries of a recipe level from those of the level above. Chunks of recipes hold whole entries.
struct Expand<'a, 'r> {
    reader: &'a Reader<'r>,
    inner: Box<dyn Iterator<Item = Result<RecipeEntry>> + Send + 'a>,
    /// Chunks of the recipe that were read and not yet looked into.
    ahead: VecDeque<Result<Vec<RecipeEntry>>>,
    entries: std::vec::IntoIter<RecipeEntry>,
    ended: bool,
}

impl Expand<'_, '_> {
    /// Over a network several are asked for together.
    fn next_chunk(&mut self) -> Result<Option<Vec<RecipeEntry>>> {
        if self.ahead.is_empty() {
            let at_once = at_once(self.reader.indexed.repo.storage.as_ref());
            let next: Vec<Result<RecipeEntry>> = self.inner.by_ref().take(at_once).collect();
            let read = |entry: &Result<RecipeEntry>| entry.as_ref().ok().map(|e| self.reader.recipe_chunk(&e.id));
            let read = each(at_once, &next, read);
            self.ahead =
                next.into_iter().zip(read).map(|(entry, read)| entry.and_then(|_| read.expect("read"))).collect();
        }
        self.ahead.pop_front().transpose()
    }
}

impl Iterator for Expand<'_, '_> {
    type Item = Result<RecipeEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            if let Some(entry) = self.entries.next() {
                return Some(Ok(entry));
            }
            match self.next_chunk() {
                Ok(Some(entries)) => self.entries = entries.into_iter(),
                Ok(None) => self.ended = true,
                Err(e) => {
                    self.ended = true;
                    return Some(Err(e));
                }
            }
        }
        None
    }
}
