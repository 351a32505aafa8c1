//! A database of the index, in a file or in memory, with what is kept in memory for it.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::format::index::IndexedPack;

use super::file::{self, Fault, Found, Inner};
use super::filter::Filter;
use super::recent::Recent;
use super::{Location, rows};
use crate::error::{Kind, Result};
use crate::format::index::IndexObject;
use crate::id::{BlobId, IndexId, RepoId, SlotId};

/// A database and its memory.
pub(super) struct Store {
    writer: Arc<Mutex<Connection>>,
    /// Answers while the writer is at work; the same connection for a database in memory. One is enough:
    /// filter and recent blocks answer without it, and it alone does some 40 000 random lookups a second (2.5 GB/s).
    /// No method holds both; each is locked before the filter or the recent blocks.
    reader: Arc<Mutex<Connection>>,
    pub filter: RwLock<Filter>,
    recent: RwLock<Recent>,
    /// The file; none for a database in memory.
    pub file: Option<PathBuf>,
    /// True when the file held index objects when it was opened.
    pub was_filled: bool,
    _in_use: Option<File>,
}

impl Store {
    /// Opens the file, or begins it anew; with `fresh` in any case.
    pub fn open(path: &Path, repo: RepoId, fresh: bool) -> Result<(Self, Found)> {
        let (connections, (filter, was_filled), found) = file::open(path, repo, fresh, rows::load)?;
        let store = Self {
            writer: Arc::new(Mutex::new(connections.writer)),
            reader: Arc::new(Mutex::new(connections.reader)),
            filter: RwLock::new(filter),
            recent: RwLock::new(Recent::new()),
            file: Some(path.to_owned()),
            was_filled,
            _in_use: Some(connections.in_use),
        };
        Ok((store, found))
    }

    /// An empty database in memory.
    pub fn in_memory(repo: RepoId) -> Result<Self> {
        let connection = Arc::new(Mutex::new(file::in_memory(repo)?));
        Ok(Self {
            writer: Arc::clone(&connection),
            reader: connection,
            filter: RwLock::new(Filter::for_blobs(0)),
            recent: RwLock::new(Recent::new()),
            file: None,
            was_filled: false,
            _in_use: None,
        })
    }

    /// Runs `work` on the connection that reads.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> Inner<T>) -> Inner<T> {
        work(&lock(&self.reader))
    }

    /// Runs `work` in a transaction that is alone in writing from its first moment.
    pub fn write<T>(&self, work: impl FnOnce(&Transaction) -> Inner<T>) -> Inner<T> {
        let mut connection = lock(&self.writer);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = work(&transaction)?;
        transaction.commit()?;
        Ok(result)
    }

    /// The ids of the index objects. Takes notice of what other processes added or removed.
    pub fn loaded(&self) -> Inner<HashSet<IndexId>> {
        self.read(|connection| {
            self.catch_up(connection)?;
            write(&self.recent).clear();
            rows::objects(connection)
        })
    }

    /// Every copy of the blob, oldest first.
    pub fn copies(&self, id: &BlobId) -> Inner<Vec<Location>> {
        self.read(|connection| {
            // Asked first: should another process write in between, the next call notices.
            let version = connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
            let mut found = Vec::new();
            for block in rows::blocks_with(connection, id)? {
                found.extend(block.located().filter(|(entry, _)| entry.id == *id).map(|(_, location)| location));
                write(&self.recent).keep(block, version);
            }
            Ok(found)
        })
    }

    pub fn find_recent(&self, id: &BlobId) -> Option<Location> {
        read(&self.recent).find(id)
    }

    /// Removes index objects, and the packs that no other lists.
    pub fn remove(&self, ids: &[IndexId]) -> Inner<()> {
        self.write(|transaction| rows::remove_objects(transaction, ids))?;
        self.forget_recent();
        Ok(())
    }

    /// Empties the database.
    pub fn clear(&self) -> Inner<()> {
        self.write(|transaction| {
            rows::remove_everything(transaction)?;
            *write(&self.filter) = Filter::for_blobs(0);
            Ok(())
        })?;
        self.forget_recent();
        Ok(())
    }

    /// Forgets the blocks read so far. Under the lock that whoever reads one holds until it is kept.
    fn forget_recent(&self) {
        let _reading = lock(&self.reader);
        write(&self.recent).clear();
    }

    /// Adds index objects, all of them or none.
    pub fn add(&self, objects: &[(IndexId, SlotId, &IndexObject)]) -> Inner<()> {
        let newest_block = self.write(|transaction| {
            self.catch_up(transaction)?;
            let mut places = Vec::new();
            for (id, author, object) in objects {
                let new_packs = rows::add_object(transaction, *id, (*author, object), &mut places)?;
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

    /// Describes a known pack anew.
    pub fn correct(&self, pack: &IndexedPack) -> Inner<()> {
        self.write(|transaction| {
            self.catch_up(transaction)?;
            let mut places = Vec::new();
            rows::correct(transaction, pack, &mut places)?;
            rows::add_places(transaction, &mut places)?;
            let mut filter = write(&self.filter);
            pack.entries.iter().for_each(|entry| filter.insert(&entry.id));
            Ok(())
        })
    }

    /// As [`add`](Self::add), without those that contradict others about a pack.
    pub fn add_consistent(&self, objects: &[(IndexId, SlotId, IndexObject)]) -> Inner<()> {
        let contradicts = |added: &Inner<()>| matches!(added, Err(Fault::Other(e)) if e.kind() == Kind::Damaged);
        let added = self.add(&objects.iter().map(|(id, author, object)| (*id, *author, object)).collect::<Vec<_>>());
        if !contradicts(&added) {
            return added;
        }
        let one = |(id, author, object): &(IndexId, SlotId, IndexObject)| self.add(&[(*id, *author, object)]);
        objects.iter().map(one).filter(|added| !contradicts(added)).collect()
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

pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a connection. A thread that panicked in a transaction has rolled it back.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}
