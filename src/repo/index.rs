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
//! found together: one page read serves its next hundred chunks ([`Recent`]). Only the places are in
//! random order, and they are a third of the 63 bytes that a blob takes. A blob may be in several
//! packs, a pack may be listed by several index objects; a pack lives while one loaded object lists it.
//!
//! A chunk that is new is nearly always recognised as such by the [`Filter`], without the disk.
//! Several processes may use one cache file; what one adds, another may overlook until its next
//! [`Index::loaded`], which for a writer merely means to store a chunk twice. A reader asks
//! [`Index::copies`], which does not consult the filter.

mod file;
mod filter;
mod recent;
mod rows;

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use self::file::{Fault, Inner};
use self::filter::Filter;
use self::recent::Recent;
use crate::error::Result;
use crate::format::bytes::Decoder;
use crate::format::index::IndexObject;
use crate::format::manifest::FENCE_LEN;
use crate::format::pack::{Base, BlobEntry, Codec, WrappedKey};
use crate::id::{BlobId, DataKeyId, IndexId, PackId, RepoId, SnapshotId};
use crate::transform::sketch::FEATURES;

/// Entries that are added in one transaction, and that are held in memory by a scan in id order.
const BATCH_ENTRIES: usize = 1 << 20;

/// Features that are noted at most: some 50 MB, for 64 GB of distinct chunks.
const FEATURES_NOTED_MAX: i64 = 1 << 20;

/// Where a copy of a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// The data key the pack is sealed under.
    pub key: DataKeyId,
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
    /// The data key its blobs are sealed under.
    pub key: DataKeyId,
    /// How many blobs it holds.
    pub blobs: u64,
    /// Their plain bytes.
    pub raw_bytes: u64,
    /// Their stored bytes.
    pub stored_bytes: u64,
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

/// The cache of one repository's index. May be used by many threads at once.
///
/// Errors: `Busy` when another process writes for minutes; `Storage` when the disk fails or is full;
/// `Failed` with the hint `repair index` when the cache turns out to be damaged.
pub struct Index {
    writer: Arc<Mutex<Connection>>,
    /// Answers while the writer is at work; the same connection for a database in memory. One is enough:
    /// filter and recent blocks answer without it, and it alone does some 40 000 random lookups a second (2.5 GB/s).
    /// No method holds both; each is locked before the filter or the recent blocks.
    reader: Arc<Mutex<Connection>>,
    filter: RwLock<Filter>,
    recent: RwLock<Recent>,
    filter_misses: AtomicU64,
    _in_use: Option<File>,
}

impl Index {
    /// Opens the cache of the repository `repo` in the file `path`, creating folder and file. A file that
    /// is damaged, or not of this repository and version, is replaced by an empty one.
    ///
    /// # Errors
    /// `Storage` when the folder or file can't be written; `Busy` when a file that must be replaced is in use.
    pub fn open(path: &Path, repo: RepoId) -> Result<Self> {
        let (connections, filter) = file::open(path, repo, rows::load_filter)?;
        Ok(Self {
            writer: Arc::new(Mutex::new(connections.writer)),
            reader: Arc::new(Mutex::new(connections.reader)),
            filter: RwLock::new(filter),
            recent: RwLock::new(Recent::new()),
            filter_misses: AtomicU64::new(0),
            _in_use: Some(connections.in_use),
        })
    }

    /// An index without a file: for tests, and for work without a cache, at some 60 bytes of memory a blob.
    ///
    /// # Errors
    /// When `SQLite` can't be set up.
    pub fn in_memory(repo: RepoId) -> Result<Self> {
        let connection = Arc::new(Mutex::new(file::in_memory(repo)?));
        Ok(Self {
            writer: Arc::clone(&connection),
            reader: connection,
            filter: RwLock::new(Filter::for_blobs(0)),
            recent: RwLock::new(Recent::new()),
            filter_misses: AtomicU64::new(0),
            _in_use: None,
        })
    }

    /// Deletes the cache file: the cure for a damaged one, and the first step of `repair index`.
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
        Ok(self.reading(|connection| {
            self.catch_up(connection)?;
            write(&self.recent).clear();
            let mut statement = connection.prepare_cached("SELECT id FROM objects")?;
            let ids = statement.query_map([], |row| row.get(0).map(IndexId))?;
            Ok(ids.collect::<Result<_, _>>()?)
        })?)
    }

    /// Adds an index object's contents, wholly or not at all. Adding one twice changes nothing.
    ///
    /// # Errors
    /// `Damaged` when the object contradicts another about a pack; see [`Index`].
    pub fn add(&self, id: IndexId, object: &IndexObject) -> Result<()> {
        Ok(self.add_batch(&[(id, object)])?)
    }

    /// Adds many index objects, each wholly or not at all, in batches of about a million blobs: a batch
    /// visits the places in order, so filling an empty cache is sequential work. An error of the
    /// iterator ends the work; what came before it is kept. The cache is not locked while the iterator works.
    ///
    /// # Errors
    /// Those of the iterator and of [`add`](Self::add).
    pub fn add_all(&self, objects: impl IntoIterator<Item = Result<(IndexId, IndexObject)>>) -> Result<()> {
        let mut objects = objects.into_iter();
        loop {
            let (mut batch, mut entries, mut failure) = (Vec::new(), 0, None);
            while entries < BATCH_ENTRIES && failure.is_none() {
                match objects.next() {
                    Some(Ok((id, object))) => {
                        entries += object.packs.iter().map(|pack| pack.entries.len()).sum::<usize>();
                        batch.push((id, object));
                    }
                    Some(Err(e)) => failure = Some(e),
                    None => break,
                }
            }
            if batch.is_empty() {
                return failure.map_or(Ok(()), Err);
            }
            self.add_batch(&batch.iter().map(|(id, object)| (*id, object)).collect::<Vec<_>>())?;
            if let Some(e) = failure {
                return Err(e);
            }
        }
    }

    /// Forgets index objects, and the packs that no other loaded object lists. Unknown ids are ignored.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn remove(&self, ids: &[IndexId]) -> Result<()> {
        self.in_transaction(|transaction| rows::remove_objects(transaction, ids))?;
        self.forget_recent();
        Ok(())
    }

    /// Throws everything away. Called before something is deleted from the storage, so that no crash
    /// leaves a cache that knows chunks which are gone.
    ///
    /// # Errors
    /// See [`Index`]. Nothing may be deleted from the storage then.
    pub fn invalidate(&self) -> Result<()> {
        self.in_transaction(|transaction| {
            rows::remove_everything(transaction)?;
            *write(&self.filter) = Filter::for_blobs(0);
            Ok(())
        })?;
        self.forget_recent();
        Ok(())
    }

    /// A copy of the blob in a place that `usable` accepts: the writer's question. Answered from memory
    /// for nearly every blob that is not stored. May overlook what another process added since the last
    /// [`loaded`](Self::loaded).
    ///
    /// # Errors
    /// See [`Index`].
    pub fn lookup(&self, id: &BlobId, usable: &dyn Fn(&Location) -> bool) -> Result<Option<Location>> {
        if !read(&self.filter).may_contain(id) {
            self.filter_misses.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        match self.find_recent(id) {
            Some(location) if usable(&location) => Ok(Some(location)),
            _ => Ok(self.copies(id)?.into_iter().find(usable)),
        }
    }

    /// Every copy of the blob that the file has now, oldest first: for a reader whose first choice is damaged.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn copies(&self, id: &BlobId) -> Result<Vec<Location>> {
        Ok(self.reading(|connection| {
            // Asked first: should another process write in between, the next call notices.
            let version = connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
            let mut found = Vec::new();
            for block in rows::blocks_with(connection, id)? {
                found.extend(block.located().filter(|(entry, _)| entry.id == *id).map(|(_, location)| location));
                write(&self.recent).keep(block, version);
            }
            Ok(found)
        })?)
    }

    /// Whether any features were noted.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn has_features(&self) -> Result<bool> {
        Ok(self.reading(|connection| {
            Ok(connection.query_row("SELECT EXISTS (SELECT 1 FROM features)", [], |row| row.get(0))?)
        })?)
    }

    /// The blobs that were noted last with these features, as often as they share one.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn with_features(&self, features: &[u64]) -> Result<Vec<BlobId>> {
        Ok(self.reading(|connection| {
            let mut statement = connection.prepare_cached("SELECT blob FROM features WHERE feature = ?1")?;
            let mut found = Vec::new();
            for feature in features {
                found.extend(statement.query_row([feature.cast_signed()], |row| row.get(0).map(BlobId)).optional()?);
            }
            Ok(found)
        })?)
    }

    /// Notes features of blobs; a feature leads to the blob that was noted last. When there are too many, a quarter goes.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn note_features(&self, blobs: &[(BlobId, [u64; FEATURES])]) -> Result<()> {
        Ok(self.in_transaction(|transaction| {
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
        })?)
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
        Ok(self.reading(rows::packs)?)
    }

    /// A pack's blobs with their offsets, in order; none for an unknown pack.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn entries(&self, pack: &PackId) -> Result<Vec<(u32, BlobEntry)>> {
        Ok(self.reading(|connection| {
            let mut entries = Vec::new();
            rows::for_each_block(connection, "packs.id = ?1", &pack.0, |block| {
                entries.extend(block.located().map(|(entry, location)| (location.offset, entry.clone())));
                Ok(())
            })?;
            Ok(entries)
        })?)
    }

    /// A data key as it is sealed to the repository's public key; of the newest epoch that is known.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn wrapped_key(&self, id: DataKeyId) -> Result<Option<WrappedKey>> {
        Ok(self.reading(|connection| {
            let mut statement = connection.prepare_cached("SELECT wrapped FROM keys WHERE id = ?1")?;
            let Some(bytes) = statement.query_row([id.0], |row| row.get::<_, Vec<u8>>(0)).optional()? else {
                return Ok(None);
            };
            let mut input = Decoder(&bytes);
            let key = WrappedKey::decode(&mut input)?;
            input.end()?;
            if key.id == id { Ok(Some(key)) } else { Err(Fault::Damage(format!("a wrong data key for {id}"))) }
        })?)
    }

    /// The sums over all packs.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn totals(&self) -> Result<Totals> {
        Ok(self.reading(rows::totals)?)
    }

    /// The sealed manifest of a snapshot as it lies in the storage, if it was put here.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn manifest(&self, id: &SnapshotId) -> Result<Option<Vec<u8>>> {
        Ok(self.reading(|connection| {
            let mut statement = connection.prepare_cached("SELECT sealed FROM manifests WHERE id = ?1")?;
            Ok(statement.query_row([id.0], |row| row.get(0)).optional()?)
        })?)
    }

    /// Keeps a sealed manifest, so that listing snapshots reads the storage only for new ones.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn put_manifest(&self, id: &SnapshotId, sealed: &[u8]) -> Result<()> {
        self.in_transaction(|transaction| {
            Ok(transaction
                .execute("INSERT OR REPLACE INTO manifests (id, sealed) VALUES (?1, ?2)", params![id.0, sealed])?)
        })?;
        Ok(())
    }

    /// The snapshots whose manifests are kept; fences, which are told by their size, are kept too and are none.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn manifests(&self) -> Result<HashSet<SnapshotId>> {
        Ok(self.reading(|connection| {
            let mut statement = connection.prepare_cached("SELECT id FROM manifests WHERE length(sealed) <> ?1")?;
            let ids = statement.query_map([FENCE_LEN.cast_signed()], |row| row.get(0).map(SnapshotId))?;
            Ok(ids.collect::<Result<HashSet<_>, _>>()?)
        })?)
    }

    /// Forgets the manifests of these snapshots.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn forget_manifests(&self, ids: &[SnapshotId]) -> Result<()> {
        Ok(self.in_transaction(|transaction| {
            let mut delete = transaction.prepare_cached("DELETE FROM manifests WHERE id = ?1")?;
            ids.iter().try_for_each(|id| delete.execute([id.0]).map(drop))?;
            Ok(())
        })?)
    }

    /// Forgets the manifests of all other snapshots.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn retain_manifests(&self, ids: &BTreeSet<SnapshotId>) -> Result<()> {
        Ok(self.in_transaction(|transaction| {
            let mut statement = transaction.prepare("SELECT id FROM manifests")?;
            let known = statement.query_map([], |row| row.get(0).map(SnapshotId))?.collect::<Result<Vec<_>, _>>()?;
            for id in known.iter().filter(|id| !ids.contains(id)) {
                transaction.execute("DELETE FROM manifests WHERE id = ?1", [id.0])?;
            }
            Ok(())
        })?)
    }

    /// Runs `work` on the connection that reads.
    fn reading<T>(&self, work: impl FnOnce(&Connection) -> Inner<T>) -> Inner<T> {
        work(&lock(&self.reader))
    }

    /// Runs `work` in a transaction that is alone in writing from its first moment.
    fn in_transaction<T>(&self, work: impl FnOnce(&Transaction) -> Inner<T>) -> Inner<T> {
        let mut connection = lock(&self.writer);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = work(&transaction)?;
        transaction.commit()?;
        Ok(result)
    }

    fn find_recent(&self, id: &BlobId) -> Option<Location> {
        read(&self.recent).find(id)
    }

    /// Forgets the blocks read so far. Under the lock that whoever reads one holds until it is kept.
    fn forget_recent(&self) {
        let _reading = lock(&self.reader);
        write(&self.recent).clear();
    }

    fn add_batch(&self, objects: &[(IndexId, &IndexObject)]) -> Inner<()> {
        let newest_block = self.in_transaction(|transaction| {
            self.catch_up(transaction)?;
            let mut places = Vec::new();
            for (id, object) in objects {
                let new_packs = rows::add_object(transaction, *id, object, &mut places)?;
                let mut filter = write(&self.filter);
                new_packs.iter().flat_map(|pack| &pack.entries).for_each(|entry| filter.insert(&entry.id));
            }
            rows::add_places(transaction, &mut places)?;
            self.keep_filter(transaction)?;
            rows::newest_block(transaction)
        })?;
        // Only now: had the transaction failed, others would use its block numbers for other blobs.
        let mut filter = write(&self.filter);
        filter.covered = filter.covered.max(newest_block);
        Ok(())
    }

    /// Lets the filter grow when it is full, and saves it when reading what it lacks on disk would
    /// delay the next opening (half a million blobs for a filter of 32 MiB).
    fn keep_filter(&self, transaction: &Transaction) -> Inner<()> {
        let (full, covered) = {
            let filter = read(&self.filter);
            (filter.inserted > filter.capacity(), filter.covered)
        };
        if full {
            let mut larger = Filter::for_blobs(rows::totals(transaction)?.blobs);
            rows::cover_newer_blocks(transaction, &mut larger)?;
            // The blocks of this transaction are in it, but not yet for good.
            larger.covered = covered;
            *write(&self.filter) = larger;
        }
        let saved = rows::inserted_when_saved(transaction)?;
        let filter = read(&self.filter);
        if full || filter.inserted.abs_diff(saved) > filter.bytes() as u64 / 64 {
            rows::save_filter(transaction, &filter)?;
        }
        Ok(())
    }

    /// Adds to the filter what was added to the file since.
    fn catch_up(&self, connection: &Connection) -> Inner<()> {
        rows::cover_newer_blocks(connection, &mut write(&self.filter))
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a connection. A thread that panicked in a transaction has rolled it back.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}
