//! How the index goes on when its file can't be relied on: in a database in memory, filled from the
//! repository's index objects, with one warning. A cache is never worth a failed backup, and never the truth.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{self, Fault, Inner};
use super::store::{Store, read, write};
use super::{Index, WarningSink, groups};
use crate::env::lock;
use crate::error::{Error, Kind, Result};
use crate::format::index::IndexObject;
use crate::id::{IndexId, SlotId};

/// How often the objects are listed when some of them are replaced meanwhile.
const LISTINGS_MAX: usize = 4;

/// Gives the repository's index objects, from which an [`Index`] is rebuilt.
pub trait IndexSource: Send + Sync {
    /// The objects that the storage lists, and their sizes in bytes.
    ///
    /// # Errors
    /// `Storage`.
    fn list(&self) -> Result<BTreeMap<IndexId, u64>>;

    /// Reads these objects with their authors; the results are in the order of `ids`.
    fn read(&self, ids: &[IndexId]) -> Vec<Result<(SlotId, IndexObject)>>;
}

/// What an [`Index`] needs to go on without its file.
pub(super) struct Fallback {
    pub source: Box<dyn IndexSource>,
    pub warn: WarningSink,
}

/// What this process knows of the file that it left or could not open.
#[derive(Default)]
pub(super) struct Left {
    /// A file that was left as it is: the next process goes on with it.
    pub file: Option<PathBuf>,
    /// A database in memory has taken the file's place.
    replaced: bool,
    /// The file was left since something was missing in it, which no other process explains: if it turns up, the
    /// file is damaged.
    suspect: bool,
    warned: bool,
}

/// What this process has added and removed; the storage may not show it yet.
#[derive(Default)]
pub(super) struct Changed {
    pub added: HashSet<IndexId>,
    pub removed: HashSet<IndexId>,
}

impl Index {
    /// Answers a question from the file, or without it when it turns out to be unusable.
    pub(super) fn ask<T>(&self, question: impl Fn(&Store) -> Inner<T>) -> Result<T> {
        let store = self.store();
        match question(&store) {
            Err(fault) if store.file.is_some() && fault.is_of_file() => {
                self.leave(&store, fault)?;
                Ok(question(&self.store())?)
            }
            answer => Ok(answer?),
        }
    }

    /// Removes what the storage is about to lose. What is removed must not come back with a file that was left.
    pub(super) fn forget(&self, removal: impl Fn(&Store) -> Inner<()>) -> Result<()> {
        self.ask(removal)?;
        let mut left = lock(&self.left);
        if let Some(path) = left.file.take()
            && let Err(e) = file::mark(&path)
        {
            let error =
                Error::new(Kind::Storage, format!("the local cache {} can't be made to forget", path.display()))
                    .because(e)
                    .hint("delete that file, or name another folder with --cache-dir");
            left.file = Some(path);
            return Err(error);
        }
        Ok(())
    }

    /// Replaces a file in which something is missing by a database in memory, at most once. Returns true when such
    /// a database is in use now, so that it pays to ask again.
    ///
    /// # Errors
    /// `Storage` when the index objects can't be listed.
    pub fn renew(&self) -> Result<bool> {
        let mut left = lock(&self.left);
        let store = self.store();
        let Some(path) = store.file.clone() else { return Ok(left.replaced) };
        if !store.was_filled {
            return Ok(false);
        }
        // Another process may have emptied the file, or begun to fill it again.
        let known = store.loaded();
        left.suspect = known.is_ok_and(|known| lock(&self.changed).added.is_subset(&known));
        *write(&self.store) = Arc::new(self.filled()?);
        left.replaced = true;
        left.file = Some(path);
        Ok(true)
    }

    /// Marks the file as damaged, after what was missing in it turned up when it was [renewed](Self::renew).
    pub fn confirm_damage(&self) {
        let mut left = lock(&self.left);
        if left.suspect
            && let Some(path) = left.file.take()
        {
            left.suspect = false;
            self.warn_of_damage(&mut left, &path);
            if file::mark(&path).is_err() {
                left.file = Some(path);
            }
        }
    }

    /// Goes on in memory, unless another thread has seen to that.
    fn leave(&self, store: &Arc<Store>, fault: Fault) -> Result<()> {
        let mut left = lock(&self.left);
        let Some(path) = store.file.clone().filter(|_| Arc::ptr_eq(store, &self.store())) else { return Ok(()) };
        if fault.is_damage() {
            self.warn_of_damage(&mut left, &path);
            // Where the mark can't be made, the next process finds the damage itself.
            if file::mark(&path).is_err() {
                left.file = Some(path);
            }
        } else {
            self.warn_of_disk(&mut left, &path, &fault.into());
            left.file = Some(path);
        }
        *write(&self.store) = Arc::new(self.filled()?);
        left.replaced = true;
        Ok(())
    }

    pub(super) fn warn_of_damage(&self, left: &mut Left, path: &Path) {
        self.warn_once(
            left,
            &format!("the local cache {} is damaged; it is rebuilt from the repository", path.display()),
        );
    }

    pub(super) fn warn_of_disk(&self, left: &mut Left, path: &Path, error: &Error) {
        let folder = path.parent().unwrap_or(path).display();
        let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
        let advice = match error.kind() {
            Kind::Busy => "let the other processes that use it finish",
            _ => "free space on its disk, or name a folder that can be written with --cache-dir",
        };
        self.warn_once(left, &format!("the local cache in {folder} is kept in memory: {error}{cause}; {advice}"));
    }

    fn warn_once(&self, left: &mut Left, text: &str) {
        if !std::mem::replace(&mut left.warned, true)
            && let Some(fallback) = &self.fallback
        {
            (fallback.warn)(text);
        }
    }

    /// A database in memory with all that the storage and this process know; what can't be read is left out, as by
    /// `Repository::index`, which tries it again.
    fn filled(&self) -> Result<Store> {
        let store = Store::in_memory(self.repo)?;
        let Some(Fallback { source, .. }) = &self.fallback else { return Ok(store) };
        let mut tried = HashSet::new();
        for _ in 0..LISTINGS_MAX {
            let listed = source.list()?;
            let wanted: Vec<(IndexId, u64)> = {
                let Changed { added, removed } = &*lock(&self.changed);
                let unlisted = added.iter().filter(|id| !listed.contains_key(id)).map(|id| (*id, 0));
                let all = listed.iter().map(|(id, size)| (*id, *size)).chain(unlisted);
                all.filter(|(id, _)| !removed.contains(id) && !tried.contains(id)).collect()
            };
            let mut vanished = false;
            for group in groups(&wanted) {
                let ids: Vec<IndexId> = group.iter().map(|(id, _)| *id).collect();
                let mut objects = Vec::new();
                for (id, read) in ids.iter().zip(source.read(&ids)) {
                    match read {
                        Ok((author, object)) => objects.push((*id, author, object)),
                        // It was replaced since it was listed: what replaced it may be newer than the listing.
                        Err(e) if e.kind() == Kind::NotFound => vanished |= listed.contains_key(id),
                        Err(_) => {}
                    }
                }
                store.add_consistent(&objects)?;
            }
            tried.extend(wanted.into_iter().map(|(id, _)| id));
            if !vanished {
                break;
            }
        }
        Ok(store)
    }

    pub(super) fn store(&self) -> Arc<Store> {
        Arc::clone(&read(&self.store))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::format::index::IndexedPack;
    use crate::format::pack::{BlobEntry, Codec, blobs_end};
    use crate::id::{BlobId, DataKeyId, PackId, RepoId, SnapshotId};

    const REPO: RepoId = RepoId([7; 16]);
    const AUTHOR: SlotId = SlotId([1; 16]);

    fn blob(n: u32) -> BlobId {
        BlobId(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    /// Object `n` lists one pack of 500 blobs.
    fn object(n: u8) -> (IndexId, IndexObject) {
        let entry = |i| BlobEntry { id: blob(i), codec: Codec::Raw, raw_len: 100, stored_len: 128, base: None };
        let entries: Vec<_> = (u32::from(n) * 500..u32::from(n) * 500 + 500).map(entry).collect();
        let (id, session, key) = (PackId([n; 16]), SnapshotId([n; 16]), DataKeyId([n; 16]));
        let claim = crate::format::signed::Claim { author: AUTHOR, time: 0 };
        let pack = IndexedPack { id, size: blobs_end(&entries) + 100, session, claim, key, entries };
        (IndexId([n; 16]), IndexObject { keys: Vec::new(), packs: vec![pack] })
    }

    /// Lists objects 0 to 2; the first listing has one that is gone when it is read.
    struct Stored(Mutex<u32>);

    impl IndexSource for Stored {
        fn list(&self) -> Result<BTreeMap<IndexId, u64>> {
            let mut listings = lock(&self.0);
            *listings += 1;
            Ok(if *listings == 1 { [0, 1, 99] } else { [0, 1, 2] }.map(|n| (IndexId([n; 16]), 0)).into())
        }

        fn read(&self, ids: &[IndexId]) -> Vec<Result<(SlotId, IndexObject)>> {
            let gone = || Error::new(Kind::NotFound, "gone");
            ids.iter().map(|id| if id.0[0] < 10 { Ok((AUTHOR, object(id.0[0]).1)) } else { Err(gone()) }).collect()
        }
    }

    /// A disk that is full stops nothing: `SQLite`'s limit of pages says the same as a disk without room.
    #[test]
    fn a_full_disk_is_a_warning_and_the_work_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("index.sqlite");
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&warnings);
        let warn: WarningSink = Arc::new(move |text| lock(&heard).push(text.to_owned()));
        let index =
            Index::open_or_in_memory(&path, REPO, false, Box::new(Stored(Mutex::default())), warn).expect("opens");
        let add = |n| {
            let (id, object) = object(n);
            index.add(id, AUTHOR, &object)
        };
        add(0).expect("there is room");
        let full = "PRAGMA max_page_count = 1";
        index.store().write(|transaction| Ok(transaction.query_row(full, [], |_| Ok(()))?)).expect("set");
        // More than the storage lists as yet.
        add(5).expect("goes on in memory");
        add(1).expect("goes on in memory");
        index.remove(&[IndexId([5; 16])]).expect("the file is marked, so that it forgets, too");
        let loaded = index.loaded().expect("loaded");
        assert_eq!(loaded, [0, 1, 2].map(|n| IndexId([n; 16])).into(), "what replaced the one that is gone is there");
        assert_eq!(index.copies(&blob(3)).expect("copies").len(), 1);
        assert_eq!(index.copies(&blob(5 * 500)).expect("copies").len(), 0);
        let warnings = lock(&warnings).clone();
        assert!(
            warnings.len() == 1 && warnings[0].contains("full") && warnings[0].contains("--cache-dir"),
            "{warnings:?}"
        );
        assert!(folder.path().join("index.sqlite.damaged").exists());
    }
}
