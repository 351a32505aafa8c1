//! The local cache of the repository's index, in `SQLite`. Never the truth: deleting it costs time,
//! not data, and what it says is checked against the storage before anything relies on it.
//!
//! ```text
//! index objects --< listed >-- packs --< blocks: up to 96 entries in pack order, one page, check sum
//!                                           ^
//!        id --filter (memory)--> places: 32 bits of the id, block number; 12 bytes a blob
//! ```
//!
//! Entries lie as they lie in their pack, so the chunks of a stream that was stored together are
//! found together: one page read serves its next hundred chunks. Only the places are in random
//! order, and they are small. A blob may be in several packs, a pack may be listed by several index
//! objects; a pack lives while one loaded object lists it.
//!
//! A chunk that is new is nearly always recognised as such by the [`Filter`], without the disk.
//! Several processes may use one cache file; what one adds, another may overlook until its next
//! [`Index::loaded`], which for a writer merely means to store a chunk twice. A reader asks
//! [`Index::copies`], which does not consult the filter.

mod file;
mod filter;
mod recent;

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use self::file::{Fault, Inner};
use self::filter::Filter;
use self::recent::Recent;
use crate::error::{Error, Result};
use crate::format::bytes::{Decoder, Encoder};
use crate::format::index::{IndexObject, IndexedPack, object_name};
use crate::format::pack::{BlobEntry, Codec, WrappedKey, decode_entries, encode_entries, with_offsets};
use crate::id::{BlobId, DataKeyId, IndexId, PackId, RepoId, SnapshotId};

/// Entries in a block: as many as surely fit `SQLite`'s page of 4096 bytes, so that a block is one read.
const BLOCK_ENTRIES: usize = 96;
/// Entries that are added in one transaction, and that are held in memory by a scan in id order.
const BATCH_ENTRIES: usize = 1 << 20;
/// Bytes of the filter in one row.
const FILTER_PIECE_BYTES: usize = 64 << 10;
/// The columns that [`read_block`] expects.
const BLOCK_COLUMNS: &str = "blocks.number, blocks.offset, blocks.sum, blocks.entries, packs.id, packs.key";

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
    /// Answers while the writer is at work; the same connection for a database in memory.
    /// No method holds both, and each is locked before the filter.
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
        let (connections, filter) = file::open(path, repo, load_filter)?;
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
        self.in_transaction(|transaction| {
            for id in ids {
                let object = "(SELECT number FROM objects WHERE id = ?1)";
                transaction.execute(&format!("DELETE FROM listed WHERE object = {object}"), [id.0])?;
                transaction.execute("DELETE FROM objects WHERE id = ?1", [id.0])?;
            }
            remove_unlisted_packs(transaction)?;
            transaction.execute("DELETE FROM keys WHERE id NOT IN (SELECT key FROM packs)", [])?;
            Ok(())
        })?;
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
            for table in ["objects", "packs", "listed", "keys", "blocks", "places", "filter", "manifests"] {
                transaction.execute(&format!("DELETE FROM {table}"), [])?;
            }
            transaction.execute("DELETE FROM meta WHERE name LIKE 'filter%'", [])?;
            *write(&self.filter) = Filter::for_blobs(0);
            Ok(())
        })?;
        self.forget_recent();
        Ok(())
    }

    /// A copy of the blob in a place that `usable` accepts: the writer's question. Answered from memory
    /// for nearly every blob that is not stored. May overlook what another process added since [`loaded`](Self::loaded).
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

    /// A copy of the blob: the reader's question. `None` means that the file does not have it now.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn locate(&self, id: &BlobId) -> Result<Option<Location>> {
        match self.find_recent(id) {
            Some(location) => Ok(Some(location)),
            None => Ok(self.copies(id)?.first().copied()),
        }
    }

    /// Every copy of the blob that the file has now, oldest first: for a reader whose first choice is damaged.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn copies(&self, id: &BlobId) -> Result<Vec<Location>> {
        Ok(self.reading(|connection| {
            // CROSS JOIN keeps SQLite's planner to this order.
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {BLOCK_COLUMNS} FROM places CROSS JOIN blocks ON blocks.number = places.place & 0xffffffff
                 CROSS JOIN packs ON packs.number = blocks.pack WHERE places.place BETWEEN ?1 AND ?2 ORDER BY places.place"
            ))?;
            // Asked first: should another process write in between, the next call notices.
            let version = connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
            let (mut rows, mut found) = (statement.query([place(id, 0), place(id, u32::MAX)])?, Vec::new());
            while let Some(row) = rows.next()? {
                let block = read_block(row)?;
                let before = found.len();
                found.extend(block.located().filter(|(entry, _)| entry.id == *id).map(|(_, location)| location));
                if found.len() > before {
                    write(&self.recent).keep(block, version);
                }
            }
            Ok(found)
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
        Ok(self.reading(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT id, size, session, key, blobs, raw_bytes, stored_bytes, sum FROM packs")?;
            let (mut rows, mut packs) = (statement.query([])?, Vec::new());
            while let Some(row) = rows.next()? {
                packs.push(read_pack(row)?);
            }
            Ok(packs)
        })?)
    }

    /// A pack's blobs with their offsets, in order; none for an unknown pack.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn entries(&self, pack: &PackId) -> Result<Vec<(u32, BlobEntry)>> {
        Ok(self.reading(|connection| {
            let mut entries = Vec::new();
            for_each_block(connection, "packs.id = ?1", &pack.0, |block| {
                entries.extend(block.located().map(|(entry, location)| (location.offset, entry.clone())));
                Ok(())
            })?;
            Ok(entries)
        })?)
    }

    /// Every stored blob in the order of the ids, once for each copy, as of one moment. Reads the blocks
    /// once for each million blobs: sequential work within bounded memory and without temporary files,
    /// since prune must run on a full disk. `each` must not call this index.
    ///
    /// # Errors
    /// Those of `each`; see [`Index`].
    pub fn for_each_blob(&self, mut each: impl FnMut(BlobId, Location) -> Result<()>) -> Result<()> {
        Ok(self.reading(|connection| {
            let snapshot = connection.unchecked_transaction()?;
            let parts = totals(&snapshot)?.blobs / BATCH_ENTRIES as u64 + 1;
            (0..parts).try_for_each(|part| for_each_blob_of_part(&snapshot, part, parts, &mut each))
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
        Ok(self.reading(totals)?)
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

    /// The snapshots whose manifests are kept.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn manifests(&self) -> Result<HashSet<SnapshotId>> {
        Ok(self.reading(|connection| {
            let mut statement = connection.prepare_cached("SELECT id FROM manifests")?;
            let ids = statement.query_map([], |row| row.get(0).map(SnapshotId))?.collect::<Result<HashSet<_>, _>>()?;
            Ok(ids)
        })?)
    }

    /// Forgets the manifests of all other snapshots.
    ///
    /// # Errors
    /// See [`Index`].
    pub fn retain_manifests(&self, ids: &HashSet<SnapshotId>) -> Result<()> {
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
                if transaction.execute("INSERT OR IGNORE INTO objects (id) VALUES (?1)", [id.0])? == 1 {
                    let number = transaction.last_insert_rowid();
                    self.add_object(transaction, *id, number, object, &mut places)?;
                }
            }
            change_places(transaction, "INSERT OR IGNORE INTO places VALUES (?1)", &mut places)?;
            self.keep_filter(transaction)?;
            newest_block(transaction)
        })?;
        // Only now: had the transaction failed, others would use its block numbers for other blobs.
        let mut filter = write(&self.filter);
        filter.covered = filter.covered.max(newest_block);
        Ok(())
    }

    /// Adds the rows of one object; their places are collected, to be inserted in order.
    fn add_object(
        &self,
        transaction: &Transaction,
        id: IndexId,
        number: i64,
        object: &IndexObject,
        places: &mut Vec<i64>,
    ) -> Inner<()> {
        let mut add_key = transaction.prepare_cached(
            "INSERT INTO keys VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE
             SET epoch = excluded.epoch, wrapped = excluded.wrapped WHERE excluded.epoch > epoch",
        )?;
        for key in &object.keys {
            let mut wrapped = Encoder::default();
            key.encode(&mut wrapped);
            add_key.execute(params![key.id.0, key.epoch, wrapped.0])?;
        }
        let mut list = transaction.prepare_cached("INSERT OR IGNORE INTO listed VALUES (?1, ?2)")?;
        for pack in &object.packs {
            let pack_number = match known_pack(transaction, &pack.id)? {
                None => self.add_pack(transaction, pack, places)?,
                Some((number, known)) if known == summary(pack) => number,
                Some(_) => {
                    let what = format!("describes pack {} otherwise than another index object", pack.id);
                    return Err(Error::damaged(object_name(id), what).into());
                }
            };
            list.execute([number, pack_number])?;
        }
        Ok(())
    }

    /// Adds a pack and its blocks; returns the pack's number.
    fn add_pack(&self, transaction: &Transaction, pack: &IndexedPack, places: &mut Vec<i64>) -> Inner<i64> {
        let known = summary(pack);
        let mut add_pack = transaction.prepare_cached(
            "INSERT INTO packs (id, size, session, key, blobs, raw_bytes, stored_bytes, sum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        let (id, session, key) = (known.id.0, known.session.0, known.key.0);
        let sizes = [known.size, known.blobs, known.raw_bytes, known.stored_bytes].map(u64::cast_signed);
        add_pack.execute(params![id, sizes[0], session, key, sizes[1], sizes[2], sizes[3], pack_sum(&known)])?;
        let number = transaction.last_insert_rowid();

        let mut add_block =
            transaction.prepare_cached("INSERT INTO blocks (pack, offset, sum, entries) VALUES (?1, ?2, ?3, ?4)")?;
        let offsets: Vec<u32> = with_offsets(&pack.entries).map(|(offset, _)| offset).collect();
        for (entries, offsets) in pack.entries.chunks(BLOCK_ENTRIES).zip(offsets.chunks(BLOCK_ENTRIES)) {
            let mut bytes = Encoder::default();
            encode_entries(entries, &mut bytes);
            let sum = block_sum(&pack.id, &pack.key, offsets[0], &bytes.0);
            add_block.execute(params![number, offsets[0], sum, bytes.0])?;
            let block = u32::try_from(transaction.last_insert_rowid())
                .map_err(|_| Fault::Damage("it has no more block numbers".into()))?;
            places.extend(entries.iter().map(|entry| place(&entry.id, block)));
        }
        let mut filter = write(&self.filter);
        pack.entries.iter().for_each(|entry| filter.insert(&entry.id));
        Ok(number)
    }

    /// Lets the filter grow when it is full, and saves it when reading what it lacks on disk would
    /// delay the next opening (half a million blobs for a filter of 32 MiB).
    fn keep_filter(&self, transaction: &Transaction) -> Inner<()> {
        let (full, covered) = {
            let filter = read(&self.filter);
            (filter.inserted > filter.capacity(), filter.covered)
        };
        if full {
            let mut larger = Filter::for_blobs(totals(transaction)?.blobs);
            cover_newer_blocks(transaction, &mut larger)?;
            // The blocks of this transaction are in it, but not yet for good.
            larger.covered = covered;
            *write(&self.filter) = larger;
        }
        let saved = meta(transaction, "filter_inserted")?.unwrap_or(0).cast_unsigned();
        let filter = read(&self.filter);
        if full || filter.inserted.abs_diff(saved) > filter.bytes() as u64 / 64 {
            save_filter(transaction, &filter)?;
        }
        Ok(())
    }

    /// Adds to the filter what was added to the file since.
    fn catch_up(&self, connection: &Connection) -> Inner<()> {
        cover_newer_blocks(connection, &mut write(&self.filter))
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

/// Some entries of one pack, checked.
struct Block {
    number: i64,
    pack: PackId,
    key: DataKeyId,
    offset: u32,
    entries: Vec<BlobEntry>,
}

impl Block {
    fn located(&self) -> impl Iterator<Item = (&BlobEntry, Location)> {
        self.entries.iter().scan(self.offset, |at, entry| {
            let &BlobEntry { codec, raw_len, stored_len, .. } = entry;
            let offset = *at;
            *at = at.wrapping_add(stored_len);
            Some((entry, Location { pack: self.pack, key: self.key, offset, stored_len, raw_len, codec }))
        })
    }
}

/// Reads the [`BLOCK_COLUMNS`]. A row that is not exactly what was written does not become a location.
fn read_block(row: &Row) -> Inner<Block> {
    let (number, offset, sum): (i64, u32, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (pack, key) = (PackId(row.get(4)?), DataKeyId(row.get(5)?));
    let bytes = row.get_ref(3)?.as_blob().map_err(|e| Fault::Damage(e.to_string()))?;
    if sum != block_sum(&pack, &key, offset, bytes) {
        return Err(Fault::Damage(format!("block {number} of pack {pack} has a wrong check sum")));
    }
    let mut input = Decoder(bytes);
    let entries = decode_entries(&mut input)?;
    input.end()?;
    Ok(Block { number, pack, key, offset, entries })
}

/// The blocks that fulfil `condition`, in the order of their numbers.
fn for_each_block(
    connection: &Connection,
    condition: &str,
    parameter: &dyn rusqlite::ToSql,
    mut each: impl FnMut(Block) -> Inner<()>,
) -> Inner<()> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {BLOCK_COLUMNS} FROM blocks JOIN packs ON packs.number = blocks.pack WHERE {condition} ORDER BY blocks.number"
    ))?;
    let mut rows = statement.query([parameter])?;
    while let Some(row) = rows.next()? {
        each(read_block(row)?)?;
    }
    Ok(())
}

/// Those blobs whose ids begin in the given one of `parts` equal ranges, in order.
fn for_each_blob_of_part(
    connection: &Connection,
    part: u64,
    parts: u64,
    each: &mut impl FnMut(BlobId, Location) -> Result<()>,
) -> Inner<()> {
    let (mut packs, mut found) = (Vec::new(), Vec::new());
    for_each_block(connection, "blocks.number > ?1", &0, |block| {
        packs.push((block.pack, block.key));
        let pack = packs.len() - 1;
        let here = block.located().filter(|(entry, _)| part_of(&entry.id, parts) == part);
        found.extend(here.map(|(entry, location)| (entry.clone(), location.offset, pack as u32)));
        Ok(())
    })?;
    // The front alone nearly always decides, and is compared much faster.
    found.sort_unstable_by_key(|(entry, offset, pack)| (front(&entry.id), entry.id, *pack, *offset));
    for (BlobEntry { id, codec, raw_len, stored_len }, offset, pack) in found {
        let (pack, key) = packs[pack as usize];
        each(id, Location { pack, key, offset, stored_len, raw_len, codec })?;
    }
    Ok(())
}

/// In which of `parts` equal ranges an id is; grows with the id.
fn part_of(id: &BlobId, parts: u64) -> u64 {
    ((u128::from(front(id)) * u128::from(parts)) >> 64) as u64
}

/// The first bytes of an id as a number in the same order.
fn front(id: &BlobId) -> u64 {
    u64::from_be_bytes(id.0.as_chunks().0[0])
}

/// The key of a place: the front of the id, then the block.
fn place(id: &BlobId, block: u32) -> i64 {
    (front(id) >> 32 << 32 | u64::from(block)).cast_signed()
}

/// Inserts or deletes places in their order, so that every page is visited once. Empties the list.
fn change_places(connection: &Connection, sql: &str, places: &mut Vec<i64>) -> Inner<()> {
    places.sort_unstable();
    let mut statement = connection.prepare_cached(sql)?;
    for place in places.drain(..) {
        statement.execute([place])?;
    }
    Ok(())
}

/// Removes the packs that no index object lists, with their blocks and places.
fn remove_unlisted_packs(connection: &Connection) -> Inner<()> {
    let mut unlisted =
        connection.prepare_cached("SELECT number FROM packs WHERE number NOT IN (SELECT pack FROM listed)")?;
    let numbers = unlisted.query_map([], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    let delete = "DELETE FROM places WHERE place = ?1";
    let mut places = Vec::new();
    for number in numbers {
        for_each_block(connection, "blocks.pack = ?1", &number, |block| {
            places.extend(block.entries.iter().map(|entry| place(&entry.id, block.number as u32)));
            Ok(())
        })?;
        connection.prepare_cached("DELETE FROM blocks WHERE pack = ?1")?.execute([number])?;
        connection.prepare_cached("DELETE FROM packs WHERE number = ?1")?.execute([number])?;
        if places.len() >= BATCH_ENTRIES {
            change_places(connection, delete, &mut places)?;
        }
    }
    change_places(connection, delete, &mut places)
}

/// What the index keeps of a pack besides its entries.
fn summary(pack: &IndexedPack) -> KnownPack {
    let total = |len: fn(&BlobEntry) -> u32| pack.entries.iter().map(|entry| u64::from(len(entry))).sum();
    let &IndexedPack { id, size, session, key, ref entries } = pack;
    let (raw_bytes, stored_bytes) = (total(|entry| entry.raw_len), total(|entry| entry.stored_len));
    KnownPack { id, size, session, key, blobs: entries.len() as u64, raw_bytes, stored_bytes }
}

/// A pack and its number.
fn known_pack(connection: &Connection, id: &PackId) -> Inner<Option<(i64, KnownPack)>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, size, session, key, blobs, raw_bytes, stored_bytes, sum, number FROM packs WHERE id = ?1",
    )?;
    let mut rows = statement.query([id.0])?;
    rows.next()?.map(|row| Ok((row.get(8)?, read_pack(row)?))).transpose()
}

/// Reads `id, size, session, key, blobs, raw_bytes, stored_bytes, sum`.
fn read_pack(row: &Row) -> Inner<KnownPack> {
    let number = |column| row.get(column).map(i64::cast_unsigned);
    let (id, session, key) = (PackId(row.get(0)?), SnapshotId(row.get(2)?), DataKeyId(row.get(3)?));
    let (size, blobs, raw_bytes, stored_bytes) = (number(1)?, number(4)?, number(5)?, number(6)?);
    let pack = KnownPack { id, size, session, key, blobs, raw_bytes, stored_bytes };
    if row.get::<_, i64>(7)? != pack_sum(&pack) {
        return Err(Fault::Damage(format!("pack {id} has a wrong check sum")));
    }
    Ok(pack)
}

fn totals(connection: &Connection) -> Inner<Totals> {
    let sql = "SELECT count(*), coalesce(sum(blobs), 0), coalesce(sum(raw_bytes), 0), coalesce(sum(stored_bytes), 0) FROM packs";
    let [packs, blobs, raw_bytes, stored_bytes] = connection.prepare_cached(sql)?.query_row([], |row| {
        let number = |column| row.get(column).map(i64::cast_unsigned);
        Ok([number(0)?, number(1)?, number(2)?, number(3)?])
    })?;
    Ok(Totals { packs, blobs, raw_bytes, stored_bytes })
}

fn newest_block(connection: &Connection) -> Inner<i64> {
    Ok(connection.query_row("SELECT coalesce(max(number), 0) FROM blocks", [], |row| row.get(0))?)
}

/// Inserts what lies in the blocks after the newest that the filter covers.
fn cover_newer_blocks(connection: &Connection, filter: &mut Filter) -> Inner<()> {
    let covered = filter.covered;
    for_each_block(connection, "blocks.number > ?1", &covered, |block| {
        block.entries.iter().for_each(|entry| filter.insert(&entry.id));
        filter.covered = block.number;
        Ok(())
    })
}

/// The filter as it was saved, or a new one, brought up to date.
fn load_filter(connection: &Connection) -> Inner<Filter> {
    let snapshot = connection.unchecked_transaction()?;
    let mut filter = match saved_filter(&snapshot)? {
        Some(filter) => filter,
        None => Filter::for_blobs(totals(&snapshot)?.blobs),
    };
    cover_newer_blocks(&snapshot, &mut filter)?;
    Ok(filter)
}

/// The saved filter, if it is whole.
fn saved_filter(connection: &Connection) -> Inner<Option<Filter>> {
    let (Some(inserted), Some(covered)) = (meta(connection, "filter_inserted")?, meta(connection, "filter_covered")?)
    else {
        return Ok(None);
    };
    let mut statement = connection.prepare("SELECT number, sum, bits FROM filter ORDER BY number")?;
    let (mut rows, mut words) = (statement.query([])?, Vec::new());
    for expected in 0.. {
        let Some(row) = rows.next()? else { break };
        let (number, sum, bits): (i64, i64, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if number != expected || words.len() * 8 >= filter::BYTES_MAX || sum != piece_sum(number, covered, &bits) {
            return Ok(None);
        }
        words.extend(bits.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)));
    }
    Ok(Filter::from_words(words, inserted.cast_unsigned(), covered))
}

/// Saves the filter, as part of the transaction that made the newest block.
fn save_filter(transaction: &Transaction, filter: &Filter) -> Inner<()> {
    let covered = newest_block(transaction)?;
    transaction.execute("DELETE FROM filter", [])?;
    let mut add = transaction.prepare_cached("INSERT INTO filter VALUES (?1, ?2, ?3)")?;
    for (number, bits) in (0i64..).zip(filter.pieces(FILTER_PIECE_BYTES)) {
        add.execute(params![number, piece_sum(number, covered, &bits), bits])?;
    }
    let mut set = transaction.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
    set.execute(params!["filter_inserted", filter.inserted.cast_signed()])?;
    set.execute(params!["filter_covered", covered])?;
    Ok(())
}

fn meta(connection: &Connection, name: &str) -> Inner<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
    Ok(statement.query_row([name], |row| row.get(0)).optional()?)
}

/// The check sum of a block: bound to its pack, so that a wrong reference shows too.
fn block_sum(pack: &PackId, key: &DataKeyId, offset: u32, entries: &[u8]) -> i64 {
    check_sum(&[&pack.0, &key.0, &offset.to_le_bytes(), entries])
}

/// The check sum of a pack's row.
fn pack_sum(pack: &KnownPack) -> i64 {
    let sizes = [pack.size, pack.blobs, pack.raw_bytes, pack.stored_bytes].map(u64::to_le_bytes);
    check_sum(&[&pack.id.0, &pack.session.0, &pack.key.0, sizes.as_flattened()])
}

/// The check sum of a piece of the filter.
fn piece_sum(number: i64, covered: i64, bits: &[u8]) -> i64 {
    check_sum(&[&number.to_le_bytes(), &covered.to_le_bytes(), bits])
}

/// Notices what a failing disk or memory did to a row; `SQLite` has no check sums of its own. Every step
/// is a bijection of the state, so a change within one word never goes unnoticed. Not against attackers:
/// who can write the cache can write its sums. BLAKE3 took half the time of a lookup here.
fn check_sum(parts: &[&[u8]]) -> i64 {
    let step = |state: u64, word: u64| (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let sum = parts.iter().fold(0, |state, part| {
        let (words, rest) = part.as_chunks();
        let state =
            words.iter().fold(step(state, part.len() as u64), |state, word| step(state, u64::from_le_bytes(*word)));
        rest.iter().fold(state, |state, byte| step(state, u64::from(*byte)))
    });
    sum.cast_signed()
}
