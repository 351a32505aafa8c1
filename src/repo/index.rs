//! The local cache of the repository's index, in `SQLite`. Never the truth: deleting it costs time,
//! not data, and what it says is checked against the storage before anything relies on it.
//!
//! ```text
//! index objects --< listed >-- packs --< blocks: up to 96 entries in pack order, one page, check sum
//!                                           ^
//!        id --filter (memory)--> places: 32 bits of the id, block number
//! ```
//!
//! Entries lie as they lie in their pack, so the chunks of a stream that was stored together are
//! found together: one page read serves its next hundred chunks (`store::Recent`). Only the places are in
//! random order, and they are a third of the 63 bytes that a blob takes. A blob may be in several
//! packs, a pack may be listed by several index objects; a pack lives while one loaded object lists it.
//!
//! A chunk that is new is nearly always recognised as such by the filter, without the disk.
//! Several processes may use one cache file; what one adds, another may overlook until its next
//! [`Index::loaded`], which for a writer merely means to store a chunk twice. A reader asks
//! [`Index::copies`], which does not consult the filter.
//!
//! A file that is damaged or can't be used never fails the work: the index goes on in memory (`rebuild.rs`).

mod file;
mod filter;
mod rebuild;
mod recent;
mod rows;
mod store;

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use rusqlite::{OptionalExtension, params};

use self::file::Found;
pub use self::rebuild::IndexSource;
use self::rebuild::{Changed, Fallback, Left};
use self::store::{Store, read};
use crate::env::lock;
use crate::error::{Kind, Result};
use crate::format::index::{IndexObject, IndexedPack};
use crate::format::manifest::FENCE_LEN;
use crate::format::pack::{Base, BlobEntry, Codec, WrappedKey};
use crate::format::signed::Claim;
use crate::id::{BlobId, DataKeyId, IndexId, PackId, RepoId, SlotId, SnapshotId};
use crate::transform::sketch::FEATURES;

/// Entries that are added in one transaction, and that are held in memory by a scan in id order.
const BATCH_ENTRIES: usize = 1 << 20;

/// Most index objects that are held in memory together.
const OBJECTS_AT_ONCE: usize = 256;
/// Most bytes that these have as they are stored, unless a single one has more.
const OBJECT_BYTES_AT_ONCE: u64 = 64 << 20;

/// Features that are noted at most: some 50 MB, for 64 GB of distinct chunks.
const FEATURES_NOTED_MAX: i64 = 1 << 20;

/// Where a copy of a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// The data key the pack is sealed under.
    pub key: DataKeyId,
    /// The slot that wrote the pack, as far as the index knows.
    pub author: SlotId,
    /// Where the stored blob begins, in bytes from the pack's beginning.
    pub offset: u32,
    /// Its stored length in bytes, nonce and tag included.
    pub stored_len: u32,
    /// Its plain length in bytes.
    pub raw_len: u32,
    /// How it is encoded.
    pub codec: Codec,
    /// The base of a delta.
    pub base: Option<Base>,
}

impl Location {
    /// The version of a delta; 0 of a copy that is stored whole.
    pub fn version(&self) -> u8 {
        self.base.map_or(0, |base| base.version)
    }

    /// The copy as its pack lists it.
    pub fn entry(&self, id: BlobId) -> BlobEntry {
        let Self { codec, raw_len, stored_len, base, .. } = *self;
        BlobEntry { id, codec, raw_len, stored_len, base }
    }
}

/// A pack that the index knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownPack {
    /// The pack.
    pub id: PackId,
    /// Its whole size in bytes.
    pub size: u64,
    /// The session that wrote it.
    pub session: SnapshotId,
    /// The slot that wrote it, and when.
    pub claim: Claim,
    /// The data key its blobs are sealed under.
    pub key: DataKeyId,
    /// The front of BLAKE3 of its entries: two that differ in any blob differ here.
    pub digest: [u8; 16],
    /// How many blobs it holds.
    pub blobs: u64,
    /// Their plain bytes.
    pub raw_bytes: u64,
    /// Their stored bytes.
    pub stored_bytes: u64,
}

impl KnownPack {
    /// What the index keeps of a pack besides its entries.
    pub fn of(pack: &IndexedPack) -> Self {
        rows::summary(pack)
    }
}

/// The sums over all packs; a blob counts as often as it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packs.
    pub packs: u64,
    /// Blobs.
    pub blobs: u64,
    /// Plain bytes of the blobs.
    pub raw_bytes: u64,
    /// Stored bytes of the blobs.
    pub stored_bytes: u64,
}

/// Receives warnings, in words.
pub type WarningSink = Arc<dyn Fn(&str) + Send + Sync>;

/// The cache of one repository's index. May be used by many threads at once.
///
/// Errors: those of the storage, when the index must be rebuilt from it. One that was opened without a
/// source to rebuild it from is empty after its file failed.
pub struct Index {
    repo: RepoId,
    store: RwLock<Arc<Store>>,
    fallback: Option<Fallback>,
    /// Held by whoever replaces the store.
    left: Mutex<Left>,
    changed: Mutex<Changed>,
    filter_misses: AtomicU64,
}

/// Cuts index objects, with their sizes in bytes, into groups that are read together.
pub fn groups(objects: &[(IndexId, u64)]) -> impl Iterator<Item = &[(IndexId, u64)]> {
    super::parallel::groups(objects, OBJECTS_AT_ONCE, OBJECT_BYTES_AT_ONCE, |(_, size)| *size)
}

impl Index {
    /// Opens the cache of the repository `repo` in the file `path`, creating folder and file. A file that
    /// is damaged, or not of this repository and version, is replaced by an empty one.
    ///
    /// # Errors
    /// `Storage` when the folder or file can't be written; `Busy` when a file that must be replaced is in use.
    pub fn open(path: &Path, repo: RepoId) -> Result<Self> {
        Ok(Self::with(Store::open(path, repo, false)?.0, repo, None))
    }

    /// As [`open`](Self::open), but whatever is wrong with the file, now or later, is a warning: then the index is
    /// kept in memory, rebuilt from `source`. With `fresh` a file that is there is not believed: it is
    /// replaced by an empty one, or left alone when other processes use it.
    ///
    /// # Errors
    /// When `SQLite` can't be set up in memory.
    pub fn open_or_in_memory(
        path: &Path,
        repo: RepoId,
        fresh: bool,
        source: Box<dyn IndexSource>,
        warn: WarningSink,
    ) -> Result<Self> {
        let fallback = Some(Fallback { source, warn });
        match Store::open(path, repo, fresh) {
            Ok((store, found)) => {
                let index = Self::with(store, repo, fallback);
                if found == Found::Damaged {
                    index.warn_of_damage(&mut lock(&index.left), path);
                }
                Ok(index)
            }
            Err(error) => {
                let index = Self::with(Store::in_memory(repo)?, repo, fallback);
                let mut left = lock(&index.left);
                // That others use it is no reason to warn somebody who does without it.
                if !(fresh && error.kind() == Kind::Busy) {
                    index.warn_of_disk(&mut left, path, &error);
                }
                left.file = Some(path.to_owned());
                drop(left);
                Ok(index)
            }
        }
    }

    /// An index without a file: for tests, and for work without a cache, at some 60 bytes of memory a blob.
    ///
    /// # Errors
    /// When `SQLite` can't be set up.
    pub fn in_memory(repo: RepoId) -> Result<Self> {
        Ok(Self::with(Store::in_memory(repo)?, repo, None))
    }

    fn with(store: Store, repo: RepoId, fallback: Option<Fallback>) -> Self {
        Self {
            repo,
            store: RwLock::new(Arc::new(store)),
            fallback,
            left: Mutex::default(),
            changed: Mutex::default(),
            filter_misses: AtomicU64::new(0),
        }
    }

    /// Deletes the cache file.
    ///
    /// # Errors
    /// `Busy` when it is in use, `Storage` when it can't be deleted.
    pub fn discard(path: &Path) -> Result<()> {
        file::discard(path)
    }

    /// The index objects whose contents are in here. Also takes notice of what other processes added or removed.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn loaded(&self) -> Result<HashSet<IndexId>> {
        let loaded = self.ask(Store::loaded)?;
        lock(&self.changed).added.clone_from(&loaded);
        Ok(loaded)
    }

    /// Adds the contents of an index object of `author`, wholly or not at all. Adding one twice changes nothing.
    ///
    /// # Errors
    /// `Damaged` when the object contradicts another about a pack; see [`Index`].
    pub fn add(&self, id: IndexId, author: SlotId, object: &IndexObject) -> Result<()> {
        self.add_batch(&[(id, author, object)])
    }

    /// Adds many index objects, each wholly or not at all, in batches of about a million blobs: a batch
    /// visits the places in order, so filling an empty cache is sequential work. An error of the
    /// iterator ends the work; what came before it is kept. The cache is not locked while the iterator works.
    ///
    /// # Errors
    /// Those of the iterator and of [`add`](Self::add).
    pub fn add_all(&self, objects: impl IntoIterator<Item = Result<(IndexId, SlotId, IndexObject)>>) -> Result<()> {
        let mut objects = objects.into_iter();
        loop {
            let (mut batch, mut entries, mut failure) = (Vec::new(), 0, None);
            while entries < BATCH_ENTRIES && failure.is_none() {
                match objects.next() {
                    Some(Ok((id, author, object))) => {
                        entries += object.packs.iter().map(|pack| pack.entries.len()).sum::<usize>();
                        batch.push((id, author, object));
                    }
                    Some(Err(e)) => failure = Some(e),
                    None => break,
                }
            }
            if batch.is_empty() {
                return failure.map_or(Ok(()), Err);
            }
            self.add_batch(&batch.iter().map(|(id, author, object)| (*id, *author, object)).collect::<Vec<_>>())?;
            if let Some(e) = failure {
                return Err(e);
            }
        }
    }

    /// Forgets index objects, and the packs that no other loaded object lists, before the storage loses them.
    /// Unknown ids are ignored.
    ///
    /// # Errors
    /// See [`Index`]; `Storage` when a file that was left can't be made to forget. Nothing may be deleted then.
    pub fn remove(&self, ids: &[IndexId]) -> Result<()> {
        self.note_removed(ids);
        self.forget(|store| store.remove(ids))
    }

    /// As [`remove`](Self::remove), of index objects that the storage has lost already.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn drop_gone(&self, ids: &[IndexId]) -> Result<()> {
        self.note_removed(ids);
        self.ask(|store| store.remove(ids))
    }

    fn note_removed(&self, ids: &[IndexId]) {
        let mut changed = lock(&self.changed);
        changed.added.retain(|id| !ids.contains(id));
        changed.removed.extend(ids);
    }

    /// Throws everything away. Called before something is deleted from the storage, so that no crash
    /// leaves a cache that knows chunks which are gone.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub fn invalidate(&self) -> Result<()> {
        lock(&self.changed).added.clear();
        self.forget(Store::clear)
    }

    /// A copy of the blob in a place that `usable` accepts: the writer's question. Answered from memory
    /// for nearly every blob that is not stored. May overlook what another process added since the last
    /// [`loaded`](Self::loaded).
    ///
    /// # Errors
    /// See [`Index`].
    pub fn lookup(&self, id: &BlobId, usable: &dyn Fn(&Location) -> bool) -> Result<Option<Location>> {
        let store = read(&self.store);
        if !read(&store.filter).may_contain(id) {
            self.filter_misses.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        let recent = store.find_recent(id);
        // What follows may replace the store.
        drop(store);
        match recent {
            Some(location) if usable(&location) => Ok(Some(location)),
            _ => Ok(self.copies(id)?.into_iter().find(usable)),
        }
    }

    /// Every copy of the blob that the file has now, oldest first: for a reader whose first choice is damaged.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn copies(&self, id: &BlobId) -> Result<Vec<Location>> {
        self.ask(|store| store.copies(id))
    }

    /// Whether any features were noted.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn has_features(&self) -> Result<bool> {
        self.ask(|store| {
            store.read(|connection| {
                Ok(connection.query_row("SELECT EXISTS (SELECT 1 FROM features)", [], |row| row.get(0))?)
            })
        })
    }

    /// The blobs that were noted last with these features, as often as they share one.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn with_features(&self, features: &[u64]) -> Result<Vec<BlobId>> {
        self.ask(|store| {
            store.read(|connection| {
                let mut statement = connection.prepare_cached("SELECT blob FROM features WHERE feature = ?1")?;
                let mut found = Vec::new();
                for feature in features {
                    let blob = statement.query_row([feature.cast_signed()], |row| row.get(0).map(BlobId));
                    found.extend(blob.optional()?);
                }
                Ok(found)
            })
        })
    }

    /// Notes features of blobs; a feature leads to the blob that was noted last. When there are too many, a quarter goes.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn note_features(&self, blobs: &[(BlobId, [u64; FEATURES])]) -> Result<()> {
        self.ask(|store| {
            store.write(|transaction| {
                let mut note = transaction.prepare_cached("INSERT OR REPLACE INTO features VALUES (?1, ?2)")?;
                for (id, features) in blobs {
                    for feature in features {
                        note.execute(params![feature.cast_signed(), id.0])?;
                    }
                }
                let noted: i64 = transaction.query_row("SELECT count(*) FROM features", [], |row| row.get(0))?;
                if noted > FEATURES_NOTED_MAX {
                    // Features are hashes: any bits of theirs choose by chance.
                    transaction.execute("DELETE FROM features WHERE (feature >> 8) & 3 = ?1 & 3", [noted])?;
                }
                Ok(())
            })
        })
    }

    /// How many lookups the filter answered without touching the disk.
    pub fn filter_misses(&self) -> u64 {
        self.filter_misses.load(Ordering::Relaxed)
    }

    /// All packs, in no particular order.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn packs(&self) -> Result<Vec<KnownPack>> {
        self.ask(|store| store.read(rows::packs))
    }

    /// A pack's blobs with their offsets, in order; none for an unknown pack.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn entries(&self, pack: &PackId) -> Result<Vec<(u32, BlobEntry)>> {
        self.ask(|store| store.read(|connection| rows::entries(connection, pack)))
    }

    /// The packs that `author` wrote since `since`, in seconds since 1970.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn packs_of(&self, author: SlotId, since: i64) -> Result<Vec<PackId>> {
        self.ask(|store| store.read(|connection| rows::packs_of(connection, author, since)))
    }

    /// The packs that none of `slots` wrote.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn packs_of_others(&self, slots: &[SlotId]) -> Result<Vec<PackId>> {
        self.ask(|store| store.read(|connection| rows::packs_of_others(connection, slots)))
    }

    /// The packs that only index objects of `slots` list, and that those say another slot wrote.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn packs_listed_only_by(&self, slots: &[SlotId]) -> Result<Vec<PackId>> {
        self.ask(|store| store.read(|connection| rows::packs_listed_only_by(connection, slots)))
    }

    /// Describes a pack as the pack itself does, whatever an index object says. An unknown pack stays
    /// unknown.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn correct(&self, pack: &IndexedPack) -> Result<()> {
        self.ask(|store| store.correct(pack))
    }

    /// A data key as an index object lists it: a hint, which need not open.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn wrapped_key(&self, id: DataKeyId) -> Result<Option<WrappedKey>> {
        self.ask(|store| store.read(|connection| rows::wrapped_key(connection, id)))
    }

    /// The sums over all packs.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn totals(&self) -> Result<Totals> {
        self.ask(|store| store.read(rows::totals))
    }

    /// The sealed manifest of a snapshot as it lies in the storage, if it was put here.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn manifest(&self, id: &SnapshotId) -> Result<Option<Vec<u8>>> {
        self.ask(|store| store.read(|connection| rows::manifest(connection, id)))
    }

    /// Keeps a sealed manifest, so that listing snapshots reads the storage only for new ones.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn put_manifest(&self, id: &SnapshotId, sealed: &[u8]) -> Result<()> {
        self.ask(|store| store.write(|transaction| rows::put_manifest(transaction, id, sealed)))
    }

    /// The snapshots whose manifests are kept; fences, which are told by their size, are kept too and are none.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn manifests(&self) -> Result<HashSet<SnapshotId>> {
        self.ask(|store| {
            let mut ids = HashSet::new();
            store.read(|connection| {
                rows::for_each_manifest(connection, |id, sealed| {
                    if sealed.len() as u64 != FENCE_LEN {
                        ids.insert(id);
                    }
                })
            })?;
            Ok(ids)
        })
    }

    /// Forgets the manifests of these snapshots.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn forget_manifests(&self, ids: &[SnapshotId]) -> Result<()> {
        self.ask(|store| {
            store.write(|transaction| {
                let mut delete = transaction.prepare_cached("DELETE FROM manifests WHERE id = ?1")?;
                ids.iter().try_for_each(|id| delete.execute([id.0]).map(drop))?;
                Ok(())
            })
        })
    }

    /// Forgets the manifests of all other snapshots.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn retain_manifests(&self, ids: &BTreeSet<SnapshotId>) -> Result<()> {
        self.ask(|store| {
            store.write(|transaction| {
                let mut statement = transaction.prepare("SELECT id FROM manifests")?;
                let known = statement.query_map([], |row| row.get(0).map(SnapshotId))?;
                for id in known.collect::<Result<Vec<_>, _>>()?.iter().filter(|id| !ids.contains(id)) {
                    transaction.execute("DELETE FROM manifests WHERE id = ?1", [id.0])?;
                }
                Ok(())
            })
        })
    }

    fn add_batch(&self, objects: &[(IndexId, SlotId, &IndexObject)]) -> Result<()> {
        self.ask(|store| store.add(objects))?;
        let mut changed = lock(&self.changed);
        for (id, ..) in objects {
            changed.added.insert(*id);
            changed.removed.remove(id);
        }
        Ok(())
    }
}
