//! Sessions: how a writer makes itself known, and how it publishes (rule I4).
//!
//! ```text
//! begin:  put_new sessions/<id>     from now on prune leaves this session's packs alone
//!         read the newest generation, then the index; heartbeats meanwhile claim generation 0
//!         put sessions/<id>.beat    "I rely on nothing that generation g or an older one condemned"
//!         packs of fenced sessions that the index lists and the storage lacks are not relied on
//! work:   packs, index objects; the heartbeat is refreshed
//! commit: generation moved? -> store again what was relied on in newly condemned packs
//!         every pack relied on exists with its size (I5)
//!         put_new snapshots/<id>    publishes, and is the session's end: a prune that takes the
//!                                   session for dead takes this very name first, exactly one wins
//! ```
//!
//! A session that is dropped without a commit leaves garbage, never a snapshot. One that was fenced, or that relied
//! on a pack that is gone, is replaced by another under a new id ([`Session::begin_again`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::env::{Env, lock};
use crate::error::{Error, Kind, Result};
use crate::format::coordination::{self, Beat, Distrusted, beat_name, session_name};
use crate::format::keyslot::SlotKind;
use crate::format::limits::MANIFEST_BYTES_MAX;
use crate::format::manifest::{self, Header, Manifest, SealedManifest};
use crate::format::pack::WrappedKey;
use crate::format::{ObjectKind, associated_data, pack};
use crate::id::{BlobId, DataKeyId, PackId, SnapshotId};
use crate::report::{Report, Silent};
use crate::storage::Storage;

use super::fence::{PATIENCE, fence, live_sessions};
use super::index::{KnownPack, Location};
use super::keys::{DataKey, Keys};
use super::parallel::{at_once, both, each};
use super::rules::Rule;
use super::snapshots::Taken;
use super::{Indexed, Repository, refuse_unreadable};

/// How many packs are asked for one by one before a listing of all packs is cheaper.
const STATS_MAX: usize = 64;

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
    who: Writing,
    /// Fenced, or relied on a pack that is gone: this session can't publish, another one might.
    superseded: AtomicBool,
    /// Ids that this session has taken on to store and that no index object names yet.
    claimed: Mutex<HashSet<BlobId>>,
    /// Packs that the snapshot relies on: found by deduplication, or written here.
    relied: Mutex<BTreeSet<PackId>>,
    /// Packs that it relied on and whose blobs were stored again: what the index hid of them was not.
    replaced: Mutex<BTreeSet<PackId>>,
    /// Packs written here, with their sizes.
    written: Mutex<BTreeMap<PackId, u64>>,
    /// Data keys of a twin, sealed to this repository.
    taken_over: Mutex<HashMap<DataKeyId, WrappedKey>>,
    beat: Option<Heartbeat>,
}

/// What a session relied on that was replaced by another.
#[derive(Debug)]
pub struct Former {
    /// The packs that it found chunks in, and those that it wrote; also those that it stored again, which are condemned:
    /// after that a walk finds what the snapshot needs, chunk by chunk.
    packs: BTreeSet<PackId>,
    /// What was distrusted when it did.
    distrusted: Vec<Distrusted>,
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
        if repo.keys.newest_epoch() < repo.seen.epoch() {
            repo.keys.refresh_ring(repo.storage.as_ref())?;
        }
        if repo.keys.newest_epoch() < repo.seen.epoch() {
            let name = crate::format::epoch::object_name(repo.seen.epoch());
            return Err(Error::damaged(name, "this key epoch was seen here and is gone: a removed passphrase might open what is stored now")
                .hint("bring `epochs/` back from a copy; if it was restored on purpose, `alluvium check --accept-older-state`"));
        }
        Self::begin_without(repo, who, &BTreeSet::new(), report)
    }

    /// Replaces this session by a new one under a new id, which reads generation and index afresh and relies on nothing yet.
    /// Of this one only the packs that were found missing are remembered. It is given up once the new one is
    /// registered, so that prune leaves its packs alone until then. Returns what it relied on.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_again(&mut self, report: &dyn Report) -> Result<Former> {
        let mut packs = std::mem::take(&mut *lock(&self.relied));
        packs.extend(lock(&self.written).keys());
        packs.extend(lock(&self.replaced).iter());
        let distrusted = std::mem::take(&mut self.indexed.state.distrusted);
        if !self.repo().storage.exclusive() {
            // There may be a single session.
            self.give_up();
        }
        *self = Self::begin_without(self.repo(), &self.who, self.indexed.missing(), report)?;
        Ok(Former { packs, distrusted })
    }

    /// Relies on all packs that the session before this one relied on, if every one of them is listed, not condemned,
    /// no more distrusted than it was, and of a slot that may be relied on. Packs never change, so they hold what that
    /// session found in them.
    ///
    /// # Errors
    /// Of the local cache.
    pub(super) fn rely_on_former(&self, former: &Former) -> Result<bool> {
        let listed: HashSet<PackId> = self.repo().cache.packs()?.into_iter().map(|pack| pack.id).collect();
        let distrusted_anew: HashSet<PackId> =
            self.indexed.state.distrusted.iter().filter(|d| !former.distrusted.contains(d)).map(|d| d.pack).collect();
        let usable = |pack: &PackId| {
            listed.contains(pack)
                && !self.indexed.is_condemned(*pack)
                && !self.indexed.missing().contains(pack)
                && !self.indexed.is_unvouched(*pack)
                && !distrusted_anew.contains(pack)
        };
        if !former.packs.iter().all(usable) {
            return Ok(false);
        }
        lock(&self.relied).extend(&former.packs);
        Ok(true)
    }

    fn begin_without(
        repo: &'r Repository,
        who: &Writing,
        missing: &BTreeSet<PackId>,
        report: &dyn Report,
    ) -> Result<Self> {
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
        // From here on, not from the first use of the index: loading that may take longer than prune waits.
        let beat = Heartbeat::start(repo, id);
        let ready = (|| {
            if !repo.storage.exclusive() {
                be_alone(repo, id, report)?;
            }
            let mut indexed = repo.index(report)?;
            let claim = || beat.claim(indexed.generation);
            let look = || {
                // A process that runs for long: what a removed passphrase opens is not sealed to any more.
                repo.keys.refresh_if_newer(repo.storage.as_ref())?;
                vanished(repo)
            };
            let (claimed, vanished) = both(repo.storage.as_ref(), claim, look);
            claimed?;
            indexed.avoid(vanished?.into_iter().chain(missing.iter().copied()));
            Ok((indexed, repo.keys.new_data_key(env)?))
        })();
        match ready {
            Ok((indexed, key)) => Ok(Self {
                id,
                indexed,
                key,
                who: who.clone(),
                superseded: AtomicBool::new(false),
                claimed: Mutex::default(),
                relied: Mutex::default(),
                replaced: Mutex::default(),
                written: Mutex::default(),
                taken_over: Mutex::default(),
                beat: Some(beat),
            }),
            Err(error) => {
                beat.stop();
                remove(repo, id);
                Err(error)
            }
        }
    }

    /// True when this session can't publish although the storage works: it was fenced, or it relied on a pack that is
    /// gone. Another one might ([`begin_again`](Self::begin_again)).
    pub fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::SeqCst)
    }

    /// Makes [`is_superseded`](Self::is_superseded) true.
    pub(super) fn supersede(&self) {
        self.superseded.store(true, Ordering::SeqCst);
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

    /// Fails when prune has declared this session dead, before the session lists packs that prune may have
    /// deleted. What a slot that is not full put under the session's name is no fence: the session goes on,
    /// and publishes under another name.
    ///
    /// # Errors
    /// `Busy` when it is fenced; `Storage`.
    pub fn check_alive(&self) -> Result<()> {
        let repo = self.repo();
        if repo.storage.stat(&manifest::object_name(self.id))?.is_none() {
            return Ok(());
        }
        match repo.name_taken_by(self.id) {
            Ok(Some(Taken::Fence(author))) if repo.keys.is_full(author) => Err(self.fenced()),
            Err(e) if e.kind() != Kind::Damaged => Err(e),
            _ => Ok(()),
        }
    }

    /// Returns true if an object has the name of this session's manifest. If a pack that the session
    /// relies on is missing as well, prune took the session for dead, even if the object is no fence.
    ///
    /// # Errors
    /// `Storage`.
    fn is_name_taken(&self) -> Result<bool> {
        Ok(self.repo().storage.stat(&manifest::object_name(self.id))?.is_some())
    }

    /// What ended a session that could not store again what it relied on: `error`, or the prune that took it for dead.
    pub(super) fn why_it_ended(&self, error: Error) -> Error {
        if !matches!(error.kind(), Kind::NotFound | Kind::Damaged) {
            return self.check_alive().err().unwrap_or(error);
        }
        self.supersede();
        match self.is_name_taken() {
            Ok(true) => self.fenced(),
            Ok(false) => error,
            Err(e) => e,
        }
    }

    fn fenced(&self) -> Error {
        self.supersede();
        fenced(self.id)
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
    /// Reads the generation again; empty means that the session is up to date with it. A session that relies
    /// on what was found damaged since then is superseded: the next one stores that again.
    ///
    /// # Errors
    /// `Damaged`, also when the session is superseded; `Storage`.
    pub fn condemned_since(&mut self, report: &dyn Report) -> Result<Vec<PackId>> {
        let (number, state) = self.repo().newest_generation()?;
        if number == self.indexed.generation {
            return Ok(Vec::new());
        }
        let mut indexed = self.repo().index_at(number, state, report)?;
        indexed.avoid(vanished(self.repo())?.into_iter().chain(self.indexed.missing().iter().copied()));
        let (relied, before) = (lock(&self.relied), &self.indexed.state.distrusted);
        let written = lock(&self.written);
        let is_needed = |pack: &PackId| relied.contains(pack) || written.contains_key(pack);
        let damaged = indexed.state.distrusted.iter().find(|d| is_needed(&d.pack) && !before.contains(d));
        // A write-only slot can't find out what it needs of the pack: it publishes, and a check says what is harmed.
        if let Some(damaged) = damaged.filter(|_| self.repo().keys.kind() == SlotKind::Full) {
            self.supersede();
            let what = "was found damaged since this snapshot began, which relies on it; nothing was published";
            return Err(Error::damaged(pack::object_name(damaged.pack), what)
                .hint("take the snapshot again: it stores what is damaged again"));
        }
        self.indexed = indexed;
        Ok(relied.iter().copied().filter(|pack| self.indexed.is_condemned(*pack)).collect())
    }

    /// The snapshot no longer relies on `pack`: what it needed of it is stored elsewhere.
    pub fn relies_no_longer(&self, pack: PackId) {
        lock(&self.relied).remove(&pack);
        lock(&self.replaced).insert(pack);
    }

    /// Whether packs may be relied on was judged when the index was read. Other processes of this machine add to the local
    /// cache all the time, also what slots claim that nobody may rely on.
    ///
    /// # Errors
    /// `Busy`, and the session is superseded; of the local cache.
    fn check_authors(&self, relied: &BTreeSet<PackId>, packs: &HashMap<PackId, KnownPack>) -> Result<()> {
        let (repo, state) = (self.repo(), &self.indexed.state);
        let mut unvouched = repo.unvouched(state)?;
        unvouched.extend(repo.listed_by_distrusted(state)?);
        // The cache may be emptied between one question and the next: what `packs` says of an author counts as well.
        let trusted = repo.trusted_slots();
        let is_of_another = |id: &PackId| packs.get(id).is_some_and(|pack| !trusted.contains(&pack.claim.author));
        let may_not_count = |id: &&PackId| unvouched.contains(*id) || is_of_another(id);
        let Some(pack) = relied.iter().find(may_not_count) else { return Ok(()) };
        self.supersede();
        let what = "was claimed meanwhile by a slot on which this snapshot may not rely; nothing was published";
        Err(Error::new(Kind::Busy, format!("{} {what}", pack::object_name(*pack))).hint("take the snapshot again"))
    }

    /// Reads the index again, by a listing that is neither old nor short.
    ///
    /// # Errors
    /// `Storage`; `Damaged` when the listing stays behind.
    pub(super) fn prove_index(&self, report: &dyn Report) -> Result<()> {
        let (generation, state) = (self.indexed.generation, self.indexed.state.clone());
        self.repo().index_proven(generation, state, report).map(drop)
    }

    /// Rule I5: every pack that the snapshot relies on exists with the size that the index says.
    fn check_packs(&mut self) -> Result<()> {
        let repo = self.repo();
        if !repo.rules.keep(Rule::PacksThere) {
            return Ok(());
        }
        let written = lock(&self.written).clone();
        let relied = lock(&self.relied).clone();
        let known = || -> Result<HashMap<PackId, KnownPack>> {
            Ok(repo.cache.packs()?.into_iter().map(|p| (p.id, p)).collect())
        };
        let mut packs = known()?;
        if relied.iter().any(|id| !packs.contains_key(id)) {
            // Somebody else has emptied the cache: it is filled again.
            repo.index_at(self.indexed.generation, self.indexed.state.clone(), &Silent)?;
            packs = known()?;
        }
        self.check_authors(&relied, &packs)?;
        let needed: Vec<PackId> = relied.iter().chain(written.keys()).copied().collect();
        let found = each(at_once(repo.storage.as_ref()), &needed, |id| repo.storage.stat(&pack::object_name(*id)));
        let (mut missing, mut first) = (Vec::new(), None);
        for (id, found) in needed.iter().zip(found) {
            let expected = written.get(id).copied().or_else(|| packs.get(id).map(|pack| pack.size));
            let found = found?;
            if found.is_none() || found != expected {
                missing.push(*id);
                let what = found
                    .map_or("is gone".to_owned(), |n| format!("has {n} bytes instead of {}", expected.unwrap_or(0)));
                first.get_or_insert_with(|| {
                    let what = format!("{what}; this snapshot needs it, and was not published");
                    Error::damaged(pack::object_name(*id), what)
                        .hint("run `alluvium check`, which sets the pack aside; then take the snapshot again")
                });
            }
        }
        let Some(error) = first else { return Ok(()) };
        self.indexed.avoid(missing);
        if self.is_name_taken()? {
            return Err(self.fenced());
        }
        // Whatever listed this pack is wrong: the next session reads the index afresh.
        repo.cache.invalidate()?;
        self.supersede();
        Err(error)
    }

    /// Publishes the manifest and ends the session. Generation and packs are checked first; the
    /// caller has dealt with [`condemned_since`](Self::condemned_since).
    ///
    /// # Errors
    /// `Busy` when prune has declared this session dead; `Damaged` when a pack is gone; `Storage`.
    pub fn publish(mut self, header: &Header, manifest: &Manifest) -> Result<SnapshotId> {
        self.publish_or_keep(header, manifest)
    }

    /// As [`publish`](Self::publish). A session that could not publish is there for
    /// [`begin_again`](Self::begin_again).
    pub(super) fn publish_or_keep(&mut self, header: &Header, manifest: &Manifest) -> Result<SnapshotId> {
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
        // It would be read from memory, not from the disk.
        if error.is_durability_unknown() {
            return Settled::Unknown(error.during(format!(
                "snapshot {} may be listed, but is not known to be on the disk: take it again",
                self.id
            )));
        }
        let published = || repo.storage.get(&manifest::object_name(self.id), MANIFEST_BYTES_MAX);
        let standing = match error.kind() {
            // Mostly a fence, but a request that the transport repeated meets its own first try.
            Kind::AlreadyExists => published(),
            _ if !repo.rules.keep(Rule::Settle) => return Settled::Unpublished(error),
            _ if repo.storage.exclusive() => match fence(repo, self.id) {
                Ok(true) => return Settled::Unpublished(error),
                Ok(false) => published(),
                Err(e) => Err(e),
            },
            // A fence would not hold off a request that comes late. What is not there yet may still come.
            _ => published(),
        };
        match standing {
            Ok(bytes) if bytes == object => Settled::Published,
            Ok(_) if self.check_alive().is_err_and(|e| e.kind() == Kind::Busy) => Settled::Unpublished(self.fenced()),
            Ok(_) => {
                self.supersede();
                let what = format!("another object took the name of snapshot {}; nothing was published", self.id);
                Settled::Unpublished(Error::new(Kind::Busy, what).hint("take the snapshot again"))
            }
            Err(_) => {
                Settled::Unknown(error.during("it is not known whether the snapshot was published").hint(format!(
                    "look for {} in `alluvium snapshots` when the storage answers again; if it is there it is whole",
                    self.id
                )))
            }
        }
    }
}

impl Session<'_> {
    /// Ends a session that has not published: its packs become garbage that prune may take.
    fn give_up(&mut self) {
        if let Some(beat) = self.beat.take() {
            beat.stop();
            remove(self.indexed.repo, self.id);
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Packs of fenced sessions that the index lists and the storage lacks.
///
/// A fenced session does not know of its fence until it asks. It may have asked, been fenced, lost its packs to prune,
/// and then put the index object that lists them (`docs/protocol.md`, section 6). Its fence is older than the deletion of
/// the packs, and that is older than the index object: so whoever lists the fences after the index knows which packs to
/// doubt.
fn vanished(repo: &Repository) -> Result<BTreeSet<PackId>> {
    let mut listed = repo.storage.list(manifest::PREFIX)?;
    listed.retain(|object| object.size == manifest::FENCE_LEN);
    if listed.is_empty() {
        return Ok(BTreeSet::new());
    }
    let fenced = super::snapshots::ids(&listed);
    let mut doubted: Vec<PackId> =
        repo.cache.packs()?.into_iter().filter(|pack| fenced.contains(&pack.session)).map(|pack| pack.id).collect();
    doubted.sort_unstable();
    if doubted.len() > STATS_MAX {
        let there = repo.list_packs()?;
        doubted.retain(|pack| !there.contains_key(pack));
    }
    let found = each(at_once(repo.storage.as_ref()), &doubted, |id| repo.storage.stat(&pack::object_name(*id)));
    let mut vanished = BTreeSet::new();
    for (pack, found) in doubted.into_iter().zip(found) {
        if found?.is_none() {
            vanished.insert(pack);
        }
    }
    Ok(vanished)
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
    pulse: Arc<Pulse>,
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: std::thread::JoinHandle<()>,
}

/// Puts heartbeats, one after the other.
struct Pulse {
    storage: Arc<dyn Storage>,
    env: Arc<dyn Env>,
    keys: Arc<Keys>,
    name: String,
    /// Beats put so far, and the generation that they claim: 0 until it was read.
    state: Mutex<(u64, u64)>,
}

impl Pulse {
    /// Puts a beat; from now on all claim `generation`, if any.
    fn put(&self, generation: Option<u64>) -> Result<()> {
        // Held until it is put: no beat replaces a later one.
        let mut state = lock(&self.state);
        *state = (state.0 + 1, generation.unwrap_or(state.1));
        let beat = Beat { count: state.0, time: self.env.now(), generation: state.1 };
        let (env, name) = (self.env.as_ref(), self.name.as_bytes());
        let sealed = self.keys.seal_claim(env, ObjectKind::Session, name, &beat.encode());
        self.storage.put_replace(&self.name, &crate::format::envelope::encode(ObjectKind::Session, &sealed))
    }
}

impl Heartbeat {
    /// Beats from a thread, the first time after an interval. Until a generation is claimed, the beats claim 0, as a
    /// session without a heartbeat does.
    fn start(repo: &Repository, id: SnapshotId) -> Self {
        let pulse = Arc::new(Pulse {
            storage: Arc::clone(&repo.storage),
            env: Arc::clone(&repo.env),
            keys: Arc::clone(&repo.keys),
            name: beat_name(id),
            state: Mutex::default(),
        });
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (waiting, beating) = (Arc::clone(&stop), Arc::clone(&pulse));
        let interval = repo.env.heartbeat_interval();
        let thread = std::thread::spawn(move || {
            let (stopped, wake) = &*waiting;
            let mut guard = lock(stopped);
            while !*guard {
                let (next, timeout) = wake.wait_timeout(guard, interval).unwrap_or_else(PoisonError::into_inner);
                guard = next;
                if timeout.timed_out() && !*guard {
                    // A beat that fails is one sign of life less; prune waits an hour.
                    let _ = beating.put(None);
                }
            }
        });
        Self { pulse, stop, thread }
    }

    /// Claims that this generation was read and nothing is relied on that it condemns: puts a beat at once that says so.
    fn claim(&self, generation: u64) -> Result<()> {
        self.pulse.put(Some(generation))
    }

    fn stop(self) {
        *lock(&self.stop.0) = true;
        self.stop.1.notify_all();
        let _ = self.thread.join();
    }
}
