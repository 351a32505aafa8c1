//! Sessions: how a writer makes itself known, and how it publishes (rule I4).
//!
//! ```text
//! begin:  put_new sessions/<id>     from now on prune leaves this session's packs alone
//!         read the newest generation, then the index
//!         put sessions/<id>.beat    "I rely on nothing that generation g or an older one condemned"
//! work:   packs, index objects; the heartbeat is refreshed
//! commit: generation moved? -> store again what was relied on in newly condemned packs
//!         every pack relied on exists with its size (I5)
//!         put_new snapshots/<id>    publishes, and is the session's end: a prune that takes the
//!                                   session for dead takes this very name first, exactly one wins
//! ```
//!
//! A session that is dropped without a commit leaves garbage, never a snapshot.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::env::lock;
use crate::error::{Error, Kind, Result};
use crate::format::coordination::{self, Beat, beat_name, session_name};
use crate::format::limits::MANIFEST_BYTES_MAX;
use crate::format::manifest::{self, Header, Manifest, SealedManifest};
use crate::format::pack::WrappedKey;
use crate::format::{ObjectKind, associated_data, pack};
use crate::id::{BlobId, DataKeyId, PackId, SnapshotId};
use crate::report::{Report, Silent};

use super::fence::{PATIENCE, fence, live_sessions};
use super::index::Location;
use super::keys::DataKey;
use super::parallel::{at_once, each};
use super::rules::Rule;
use super::{Indexed, Repository, refuse_unreadable};

/// How often a working session refreshes its heartbeat.
const BEAT_INTERVAL: Duration = Duration::from_mins(1);

/// Who writes, for messages to others.
#[derive(Clone, Debug)]
pub struct Writing {
    /// The host's name.
    pub host: String,
    /// `snapshot` or `prune`.
    pub purpose: String,
}

/// A writer's registration.
pub struct Session<'r> {
    /// The session's name, and that of the snapshot it will publish.
    pub id: SnapshotId,
    /// Where blobs can be found, as of the session's beginning.
    pub indexed: Indexed<'r>,
    /// Seals this session's data.
    pub key: DataKey,
    /// Ids that this session has taken on to store and that no index object names yet.
    claimed: Mutex<HashSet<BlobId>>,
    /// Packs that the snapshot relies on: found by deduplication, or written here.
    relied: Mutex<BTreeSet<PackId>>,
    /// Packs written here, with their sizes.
    written: Mutex<BTreeMap<PackId, u64>>,
    /// Data keys of a twin, sealed to this repository.
    taken_over: Mutex<HashMap<DataKeyId, WrappedKey>>,
    beat: Option<Heartbeat>,
}

/// What is to be done with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The caller must store it now.
    Mine,
    /// It is stored already, and takes so many bytes.
    Stored {
        /// Stored bytes.
        bytes: u32,
    },
    /// Somebody else is storing it.
    Others,
}

impl<'r> Session<'r> {
    /// Registers a session and brings the index up to date, in this order.
    ///
    /// # Errors
    /// `Busy` when there must be one writer at a time and there is another; `Storage`, `Damaged`.
    pub fn begin(repo: &'r Repository, who: &Writing, report: &dyn Report) -> Result<Self> {
        repo.seen.require_same_repository()?;
        let env = repo.env.as_ref();
        let id = SnapshotId::random(env);
        let session = coordination::Session {
            host: who.host.clone(),
            pid: std::process::id(),
            purpose: who.purpose.clone(),
            started: env.now(),
        };
        let name = session_name(id);
        if repo.rules.keep(Rule::Register) {
            repo.storage.put_new(&name, &repo.seal_object(ObjectKind::Session, &name, &session.encode()))?;
        }
        let ready = (|| {
            if !repo.storage.exclusive() {
                be_alone(repo, id, report)?;
            }
            let indexed = repo.index(report)?;
            let beat = Heartbeat::start(repo, id, indexed.generation)?;
            Ok((indexed, beat, repo.keys.new_data_key(env)?))
        })();
        match ready {
            Ok((indexed, beat, key)) => Ok(Self {
                id,
                indexed,
                key,
                claimed: Mutex::default(),
                relied: Mutex::default(),
                written: Mutex::default(),
                taken_over: Mutex::default(),
                beat: Some(beat),
            }),
            Err(error) => {
                remove(repo, id);
                Err(error)
            }
        }
    }

    /// The repository.
    pub fn repo(&self) -> &'r Repository {
        self.indexed.repo
    }

    /// Decides a chunk's fate: two chunks of the same content within the data in flight get one [`Claim::Mine`].
    ///
    /// # Errors
    /// Of the local cache.
    pub fn claim(&self, id: &BlobId) -> Result<Claim> {
        if lock(&self.claimed).contains(id) {
            return Ok(Claim::Others);
        }
        if let Some(chain) = self.indexed.usable_chain(id, u8::MAX)? {
            self.rely_on(&chain);
            return Ok(Claim::Stored { bytes: chain[0].1.stored_len });
        }
        Ok(if lock(&self.claimed).insert(*id) { Claim::Mine } else { Claim::Others })
    }

    /// As [`claim`](Self::claim) for a chunk that is to be stored again although a copy exists.
    pub fn claim_again(&self, id: &BlobId) -> bool {
        lock(&self.claimed).insert(*id)
    }

    /// Notes that the snapshot relies on the packs of these copies.
    pub fn rely_on(&self, chain: &[(BlobId, Location)]) {
        lock(&self.relied).extend(chain.iter().map(|(_, copy)| copy.pack));
    }

    /// A data key of `from`, a twin, sealed to this repository's newest epoch; once for all packs.
    ///
    /// # Errors
    /// `Damaged` when it does not open; `WrongKey`.
    pub fn take_over_data_key(&self, from: &Repository, key: &WrappedKey) -> Result<WrappedKey> {
        if let Some(known) = lock(&self.taken_over).get(&key.id) {
            return Ok(known.clone());
        }
        let repo = self.repo();
        let taken = repo.keys.take_over_data_key(repo.env.as_ref(), &from.keys, key)?;
        Ok(lock(&self.taken_over).entry(key.id).or_insert(taken).clone())
    }

    /// Notes that a pack of this session is durable.
    pub fn wrote(&self, pack: PackId, size: u64) {
        lock(&self.written).insert(pack, size);
    }

    /// Tells a session that prune has declared dead, before it lists packs that are gone.
    ///
    /// # Errors
    /// `Busy` when it is fenced; `Storage`.
    pub fn check_alive(&self) -> Result<()> {
        match self.repo().storage.stat(&manifest::object_name(self.id))? {
            None => Ok(()),
            Some(_) => Err(fenced(self.id)),
        }
    }

    /// Bytes of the packs written so far.
    pub fn written_bytes(&self) -> u64 {
        lock(&self.written).values().sum()
    }

    /// Notes that an index object names these blobs now: the cache answers for them.
    pub fn indexed_now<'a>(&self, ids: impl Iterator<Item = &'a BlobId>) {
        let mut claimed = lock(&self.claimed);
        for id in ids {
            claimed.remove(id);
        }
    }

    /// The packs that the newest generation has condemned since this session began and that it relies on.
    /// Reads the generation again; empty means that the session is up to date with it.
    ///
    /// # Errors
    /// `Storage`, `Damaged`.
    pub fn condemned_since(&mut self, report: &dyn Report) -> Result<Vec<PackId>> {
        let (number, state) = self.repo().newest_generation()?;
        if number == self.indexed.generation {
            return Ok(Vec::new());
        }
        self.indexed = self.repo().index_at(number, state, report)?;
        let relied = lock(&self.relied);
        Ok(relied.iter().copied().filter(|pack| self.indexed.is_condemned(*pack)).collect())
    }

    /// The snapshot no longer relies on `pack`: what it needed of it is stored elsewhere.
    pub fn relies_no_longer(&self, pack: PackId) {
        lock(&self.relied).remove(&pack);
    }

    /// Rule I5: every pack that the snapshot relies on exists with the size that the index says.
    fn check_packs(&self) -> Result<()> {
        let repo = self.repo();
        if !repo.rules.keep(Rule::PacksThere) {
            return Ok(());
        }
        let written = lock(&self.written);
        let relied = lock(&self.relied);
        let known = || -> Result<HashMap<PackId, u64>> {
            Ok(repo.cache.packs()?.into_iter().map(|p| (p.id, p.size)).collect())
        };
        let mut sizes = known()?;
        if relied.iter().any(|id| !sizes.contains_key(id)) {
            // Somebody else has emptied the cache: it is filled again.
            repo.index_at(self.indexed.generation, self.indexed.state.clone(), &Silent)?;
            sizes = known()?;
        }
        let packs: Vec<PackId> = relied.iter().chain(written.keys()).copied().collect();
        let found = each(at_once(repo.storage.as_ref()), &packs, |id| repo.storage.stat(&pack::object_name(*id)));
        for (id, found) in packs.iter().zip(found) {
            let name = pack::object_name(*id);
            let expected = written.get(id).or_else(|| sizes.get(id)).copied();
            let found = found?;
            if found.is_none() || found != expected {
                // Prune has taken this session for dead, and with it its packs.
                self.check_alive()?;
                // Whatever told us about this pack is wrong: the next session reads the index afresh.
                repo.cache.invalidate()?;
                let what = found
                    .map_or("is gone".to_owned(), |n| format!("has {n} bytes instead of {}", expected.unwrap_or(0)));
                return Err(Error::damaged(name, format!("{what}; this snapshot needs it, and was not published"))
                    .hint("run `alluvium check`; then take the snapshot again"));
            }
        }
        Ok(())
    }

    /// Publishes the manifest and ends the session. Generation and packs are checked first; the
    /// caller has dealt with [`condemned_since`](Self::condemned_since).
    ///
    /// # Errors
    /// `Busy` when prune has declared this session dead; `Damaged` when a pack is gone; `Storage`.
    pub fn publish(mut self, header: &Header, manifest: &Manifest) -> Result<SnapshotId> {
        self.check_packs()?;
        let repo = self.repo();
        let name = manifest::object_name(self.id);
        let plain = manifest.encode();
        if Manifest::decode(&plain).as_ref() != Ok(manifest) {
            return Err(Error::new(Kind::Failed, "the manifest would not be readable; nothing was published")
                .hint("a name is longer than 4096 bytes, or there are too many files: take several snapshots"));
        }
        let (env, key) = (repo.env.as_ref(), &self.key.wrapped);
        let body_name = associated_data(ObjectKind::ManifestBody, repo.id, &manifest::body_name(&name, key));
        let body = self.key.key.seal(env, &body_name, &plain);
        let header = Header { body: manifest::body_digest(key, &body), ..header.clone() };
        let header = repo.keys.seal_claim(env, ObjectKind::ManifestHeader, name.as_bytes(), &header.encode());
        let object = SealedManifest { key: self.key.wrapped.clone(), header: &header, body: &body }.encode();
        refuse_unreadable(&name, &object, MANIFEST_BYTES_MAX)
            .map_err(|e| e.hint("there are too many parts or files: take several snapshots"))?;
        let beat = self.beat.take();
        if let Err(error) = repo.storage.put_new(&name, &object) {
            match self.settle(&object, error) {
                Settled::Published => {}
                // The session is over: it goes like any other that gave up.
                Settled::Unpublished(error) => {
                    self.beat = beat;
                    return Err(error);
                }
                // Nobody removes it: as long as it is there, prune keeps its packs, and fences it in the end.
                Settled::Unknown(error) => {
                    beat.into_iter().for_each(Heartbeat::stop);
                    return Err(error);
                }
            }
        }
        beat.into_iter().for_each(Heartbeat::stop);
        remove(repo, self.id);
        // It is published, whatever the cache says.
        let _ = repo.cache.put_manifest(&self.id, &object);
        Ok(self.id)
    }
}

/// What became of a publication that failed.
enum Settled {
    /// It is there all the same: only the answer got lost.
    Published,
    /// It is not there and never will be.
    Unpublished(Error),
    /// It may be there, or still come.
    Unknown(Error),
}

impl Session<'_> {
    /// Finds out what became of a publication that reported an error. The request may have been carried out, or
    /// be carried out later, when prune takes this session for ended: so the session fences itself. Exclusive creation
    /// decides, as between writer and prune.
    fn settle(&self, object: &[u8], error: Error) -> Settled {
        let repo = self.repo();
        match error.kind() {
            Kind::AlreadyExists => return Settled::Unpublished(fenced(self.id)),
            // It would be read from memory, not from the disk.
            _ if error.is_durability_unknown() => {
                return Settled::Unknown(error.during(format!(
                    "snapshot {} may be listed, but is not known to be on the disk: take it again",
                    self.id
                )));
            }
            _ if !repo.rules.keep(Rule::Settle) => return Settled::Unpublished(error),
            _ => {}
        }
        let published = || repo.storage.get(&manifest::object_name(self.id), MANIFEST_BYTES_MAX);
        let standing = if repo.storage.exclusive() {
            match fence(repo, self.id) {
                Ok(true) => return Settled::Unpublished(error),
                Ok(false) => published(),
                Err(e) => Err(e),
            }
        } else {
            // A fence would not hold off a request that comes late. What is not there yet may still come.
            published()
        };
        match standing {
            Ok(bytes) if bytes == object => Settled::Published,
            Ok(_) => Settled::Unpublished(fenced(self.id)),
            Err(_) => {
                Settled::Unknown(error.during("it is not known whether the snapshot was published").hint(format!(
                    "look for {} in `alluvium snapshots` when the storage answers again; if it is there it is whole",
                    self.id
                )))
            }
        }
    }
}

impl Drop for Session<'_> {
    /// Gives up: the session's packs become garbage that prune may take.
    fn drop(&mut self) {
        if let Some(beat) = self.beat.take() {
            beat.stop();
            remove(self.indexed.repo, self.id);
        }
    }
}

fn fenced(id: SnapshotId) -> Error {
    Error::new(Kind::Busy, format!("prune took session {id} for dead and fenced it; nothing was published")).hint(
        "this happens when a writer gave no sign of life for long (a suspended machine, a wrong clock); take the snapshot again",
    )
}

/// Where the storage can't create exclusively, exactly one writer may be at work. Both of two that begin at once
/// see each other, and give up.
fn be_alone(repo: &Repository, id: SnapshotId, report: &dyn Report) -> Result<()> {
    report.warn("this storage can't create exclusively: only one writer at a time, also from other hosts");
    let now = repo.env.now();
    let others = live_sessions(repo, Some(id))?;
    let Some(other) = others.iter().find(|other| now.duration_since(other.seen) <= PATIENCE) else { return Ok(()) };
    let host = if other.host.is_empty() { "an unknown host" } else { &other.host };
    Err(Error::new(
        Kind::Busy,
        format!("{} on {host} (process {}) is at work, last seen {}", other.purpose, other.pid, other.seen),
    )
    .hint("this storage bears one writer at a time: wait for it; if it was killed, an hour after it was last seen it counts as dead"))
}

/// Removes a session's objects, heartbeat last: a heartbeat without a session means nothing. What can't
/// be removed is fenced by prune later.
fn remove(repo: &Repository, id: SnapshotId) {
    let _ = repo.storage.delete(&session_name(id));
    let _ = repo.storage.delete(&beat_name(id));
}

/// The thread that refreshes a session's heartbeat.
struct Heartbeat {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: std::thread::JoinHandle<()>,
}

impl Heartbeat {
    /// Puts the first beat at once, the next ones from a thread.
    fn start(repo: &Repository, id: SnapshotId, generation: u64) -> Result<Self> {
        let count = AtomicU64::new(0);
        let (storage, env) = (Arc::clone(&repo.storage), Arc::clone(&repo.env));
        let (keys, name) = (Arc::clone(&repo.keys), beat_name(id));
        let put = move || {
            let beat = Beat { count: count.fetch_add(1, Ordering::Relaxed) + 1, time: env.now(), generation };
            let sealed = keys.seal_claim(env.as_ref(), ObjectKind::Session, name.as_bytes(), &beat.encode());
            storage.put_replace(&name, &crate::format::envelope::encode(ObjectKind::Session, &sealed))
        };
        put()?;
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let waiting = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (stopped, wake) = &*waiting;
            let mut guard = lock(stopped);
            while !*guard {
                let (next, timeout) = wake.wait_timeout(guard, BEAT_INTERVAL).unwrap_or_else(PoisonError::into_inner);
                guard = next;
                if timeout.timed_out() && !*guard {
                    // A beat that fails is one sign of life less; patience is an hour.
                    let _ = put();
                }
            }
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) {
        *lock(&self.stop.0) = true;
        self.stop.1.notify_all();
        let _ = self.thread.join();
    }
}
