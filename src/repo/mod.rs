//! Storage, keys and index together: what a repository is to everything above.
//!
//! ```text
//! Locked::find      storage -> config, key slots                               (no passphrase needed)
//! Locked::open      + passphrase -> Repository: keys, parameters, local cache
//! repository.index  + index objects, newest generation -> Indexed              (blobs can be found)
//! session           + a name of its own -> may write, and publish one manifest
//! ```
//!
//! `writer` is the whole way in, `reader` the whole way out; `docs/format.md` numbers the ordering
//! rules I1 to I7 that they cite.

pub mod bases;
pub mod blob;
pub mod fence;
pub mod generations;
pub mod index;
pub mod keys;
pub mod listing;
pub mod open;
pub mod packer;
pub mod packs;
pub mod parallel;
pub mod predict;
pub mod publish;
pub mod reader;
pub mod ring;
pub mod rules;
pub mod seen;
pub mod series;
pub mod session;
pub mod snapshots;
pub mod writer;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use crate::env::{Env, lock};
use crate::error::{Error, Kind, Result};
use crate::format::certificate;
use crate::format::config::{self, ChunkSizes, Parameters};
use crate::format::coordination::{DistrustedSlot, Generation, generation_name};
use crate::format::index::{IndexObject, IndexedPack};
use crate::format::keyslot::SlotKind;
use crate::format::keyslot::object_name as slot_name;
use crate::format::limits::INDEX_OBJECT_BYTES_MAX;
use crate::format::signed::Claim;
use crate::format::{FORMAT_VERSION, ObjectKind, envelope, manifest};
use crate::id::{BlobId, IndexId, PackId, RepoId, SlotId, SnapshotId};
use crate::report::{Problem, Report, Unit};
use crate::storage::{Listed, Storage};
use crate::transform::chunk::Chunker;
use crate::transform::sketch::Sketcher;

use index::{Index, IndexSource, KnownPack, Location};
use keys::{Claimed, KdfCost, Keys, NewSlot, SharedKeys};
use listing::LOOKS;
use open::refuse_remains;
use parallel::{at_once, both, each};
use rules::{Rule, Rules};
use seen::Seen;

/// How a new repository stores.
#[derive(Clone, Copy, Debug)]
pub struct InitOptions {
    /// Average chunk in bytes (a power of two serves best).
    pub chunk_bytes: u32,
    /// Packs are closed before they grow beyond this many bytes.
    pub pack_bytes: u64,
    /// What unlocking costs.
    pub kdf: KdfCost,
}

/// The default average chunk; `docs/decisions/0002-chunk-size.md` has the measurements.
pub const CHUNK_BYTES: u32 = 256 << 10;
/// The default pack size.
pub const PACK_BYTES: u64 = 16 << 20;
/// Average chunk of a recipe: small, since a recipe changes where its stream does.
const RECIPE_CHUNK_BYTES: u32 = 8 << 10;

impl Default for InitOptions {
    fn default() -> Self {
        Self { chunk_bytes: CHUNK_BYTES, pack_bytes: PACK_BYTES, kdf: KdfCost::default() }
    }
}

/// An open repository.
pub struct Repository {
    /// Where its objects are.
    pub storage: Arc<dyn Storage>,
    /// Clock and entropy.
    pub env: Arc<dyn Env>,
    /// Its name.
    pub id: RepoId,
    /// How it stores.
    pub parameters: Parameters,
    /// Its keys, as far as the passphrase's slot goes.
    pub keys: Arc<Keys>,
    /// The local cache.
    pub cache: Index,
    /// What this machine has seen of it.
    pub seen: Seen,
    /// The ordering rules that are kept: all, outside the simulation.
    pub rules: Rules,
    /// Authors that were looked for.
    pub judged: Arc<JudgedSlots>,
}

impl Repository {
    /// Makes a repository in `storage`, with one full key slot for `passphrase`. A storage that can't create
    /// exclusively makes it one for a single writer.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one; `Usage` for impossible sizes; `Storage`.
    pub fn init(
        storage: &dyn Storage,
        env: &dyn Env,
        passphrase: &[u8],
        label: &str,
        options: InitOptions,
    ) -> Result<RepoId> {
        let parameters = Parameters {
            version: FORMAT_VERSION,
            required_features: Vec::new(),
            chunks: ChunkSizes::around(options.chunk_bytes),
            recipes: ChunkSizes::around(RECIPE_CHUNK_BYTES),
            pack_bytes: options.pack_bytes,
        };
        let (id, shared) = (RepoId::random(env), SharedKeys::generate(env));
        let first = NewSlot { kind: SlotKind::Full, label, passphrase, cost: options.kdf };
        Self::init_with(storage, env, &parameters, id, &shared, first)
    }

    /// Makes a repository that names and cuts chunks as this one does, so that `sync` finds what is missing there by
    /// name alone. Everything else is its own. `pack_bytes` as here, if none.
    ///
    /// # Errors
    /// As [`init`](Self::init); `WrongKey` when this repository was opened with a write-only slot.
    pub fn init_like(
        &self,
        storage: &dyn Storage,
        passphrase: &[u8],
        label: &str,
        pack_bytes: Option<u64>,
        kdf: KdfCost,
    ) -> Result<RepoId> {
        let env = self.env.as_ref();
        let (id, shared) = (RepoId::random(env), self.keys.like(env)?);
        let mut parameters = self.parameters.clone();
        parameters.pack_bytes = pack_bytes.unwrap_or(parameters.pack_bytes);
        let first = NewSlot { kind: SlotKind::Full, label, passphrase, cost: kdf };
        Self::init_with(storage, env, &parameters, id, &shared, first)
    }

    /// Makes a twin: a repository with this one's id, keys and parameters, and a passphrase of its own. `sync` copies
    /// its data as it lies.
    ///
    /// # Errors
    /// As [`init_like`](Self::init_like).
    pub fn init_twin(&self, storage: &dyn Storage, passphrase: &[u8], label: &str, kdf: KdfCost) -> Result<RepoId> {
        let env = self.env.as_ref();
        let shared = self.keys.twin()?;
        let first = NewSlot { kind: SlotKind::Full, label, passphrase, cost: kdf };
        Self::init_with(storage, env, &self.parameters, self.id, &shared, first)
    }

    fn init_with(
        storage: &dyn Storage,
        env: &dyn Env,
        parameters: &Parameters,
        id: RepoId,
        shared: &SharedKeys,
        first: NewSlot<'_>,
    ) -> Result<RepoId> {
        let exists = || {
            Error::new(
                Kind::AlreadyExists,
                format!("{} holds a repository already; nothing was changed", storage.location()),
            )
            .hint("use it with its passphrase, or choose another place")
        };
        if storage.stat(config::OBJECT_NAME)?.is_some() {
            return Err(exists());
        }
        refuse_remains(storage, Kind::AlreadyExists)?;
        // What the storage turned out to be is part of what every later program must know.
        let mut parameters = parameters.clone();
        parameters.required_features.retain(|feature| feature != config::SINGLE_WRITER);
        if !storage.exclusive() {
            parameters.required_features.push(config::SINGLE_WRITER.to_owned());
        }
        Parameters::decode(&parameters.encode()).map_err(|e| Error::new(Kind::Usage, e.0))?;
        keys::found(storage, env, id, shared, &parameters, first)
            .map_err(|error| if error.kind() == Kind::AlreadyExists { exists() } else { error })?;
        Ok(id)
    }

    /// The chunker for streams.
    pub fn chunker(&self) -> Chunker {
        self.chunker_for(self.parameters.chunks).at_rows()
    }

    /// Computes features of chunks.
    pub fn sketcher(&self) -> Sketcher {
        Sketcher::new(self.keys.chunker_seed())
    }

    /// The chunker for recipes.
    pub fn recipe_chunker(&self) -> Chunker {
        self.chunker_for(self.parameters.recipes)
    }

    fn chunker_for(&self, sizes: ChunkSizes) -> Chunker {
        Chunker::new(self.keys.chunker_seed(), sizes.min as usize, sizes.average as usize, sizes.max as usize)
    }

    /// An object that this slot claims, sealed under the index key and bound to its name.
    pub fn seal_object(&self, kind: ObjectKind, name: &str, content: &[u8]) -> Vec<u8> {
        let sealed = self.keys.seal_claim(self.env.as_ref(), kind, name.as_bytes(), content);
        envelope::encode(kind, &sealed)
    }

    /// Opens what [`seal_object`](Self::seal_object) made: who claims it, and the content.
    ///
    /// # Errors
    /// `Damaged`, naming the object; forged when no slot of this repository has signed it.
    pub fn open_object(&self, kind: ObjectKind, name: &str, bytes: &[u8]) -> Result<(Claim, Vec<u8>)> {
        let sealed = envelope::decode(kind, bytes).map_err(|e| e.in_object(name))?;
        self.open_claim(kind, name, name.as_bytes(), sealed)
    }

    /// Opens a claim that is bound to `bound`. An author who is not known yet is looked for.
    ///
    /// # Errors
    /// As [`open_object`](Self::open_object); unverified without a certificate of the author.
    pub fn open_claim(&self, kind: ObjectKind, name: &str, bound: &[u8], sealed: &[u8]) -> Result<(Claim, Vec<u8>)> {
        open_claim(self.storage.as_ref(), &self.keys, &self.judged, kind, name, bound, sealed)
    }

    /// Reads one index object from the storage.
    ///
    /// # Errors
    /// `Damaged`, `NotFound`, `Storage`.
    pub fn read_index_object(&self, id: IndexId) -> Result<IndexObject> {
        Ok(self.read_index_claim(id)?.1)
    }

    /// As [`read_index_object`](Self::read_index_object), with who claims it.
    ///
    /// # Errors
    /// `Damaged`, `NotFound`, `Storage`.
    pub fn read_index_claim(&self, id: IndexId) -> Result<(Claim, IndexObject)> {
        read_index_object(self.storage.as_ref(), &self.keys, &self.judged, id)
    }

    /// The index objects that the storage lists, and their sizes in bytes. Like all listings sorted, so that the same repository is worked on
    /// in the same order every time.
    ///
    /// # Errors
    /// `Storage`.
    pub fn list_index(&self) -> Result<BTreeMap<IndexId, u64>> {
        Ok(index_ids(&self.storage.list("index/")?))
    }

    /// The packs that the storage lists. One that lies in another folder than its own is not found by its name: it is
    /// a copy that somebody made, or a pack that is missing where it should be.
    ///
    /// # Errors
    /// `Storage`.
    pub fn list_packs(&self) -> Result<BTreeMap<PackId, u64>> {
        let pack = |o: &Listed| Some((pack_id(&o.name)?, o.size));
        Ok(self.storage.list("packs/")?.iter().filter_map(pack).collect())
    }

    /// Publishes an index object, durably (rule I1: its packs are durable already), and loads it. It describes its
    /// packs as they are: what the local cache knows otherwise of them is corrected.
    ///
    /// # Errors
    /// `Storage`.
    pub fn publish_index(&self, object: &IndexObject) -> Result<IndexId> {
        let id = IndexId::random(self.env.as_ref());
        let name = crate::format::index::object_name(id);
        let plain = object.encode();
        if IndexObject::decode(&plain).as_ref() != Ok(object) {
            return Err(Error::new(Kind::Failed, format!("{name} would not be readable; it was not written")));
        }
        self.storage.put_new(&name, &self.seal_object(ObjectKind::Index, &name, &plain))?;
        let author = self.keys.slot();
        match self.cache.add(id, author, object) {
            // The cache believed somebody else, who described one of these packs otherwise.
            Err(e) if e.kind() == Kind::Damaged => {
                object.packs.iter().try_for_each(|pack| self.cache.correct(pack))?;
                self.cache.add(id, author, object)?;
            }
            added => added?,
        }
        Ok(id)
    }

    /// Refuses to write with a key slot that `state` lists as removed: whoever still holds its
    /// passphrase may read what the storage shows, and changes nothing.
    ///
    /// # Errors
    /// `WrongKey`.
    pub fn refuse_removed_slot(&self, state: &Generation) -> Result<()> {
        if !state.has_removed(self.keys.slot()) {
            return Ok(());
        }
        let name = slot_name(self.keys.slot());
        Err(Error::new(Kind::WrongKey, format!("the slot of this passphrase was removed ({name})"))
            .hint("use the passphrase of another slot (`alluvium key list`)"))
    }

    /// Those of `snapshots` whose manifests exist. Each is looked up by name; a fence is no manifest.
    ///
    /// # Errors
    /// `Storage`.
    pub fn still_there(&self, snapshots: &[SnapshotId]) -> Result<Vec<SnapshotId>> {
        let storage = self.storage.as_ref();
        let sizes = each(at_once(storage), snapshots, |id| storage.stat(&manifest::object_name(*id)));
        let mut there = Vec::new();
        for (id, size) in snapshots.iter().zip(sizes) {
            if size?.is_some_and(|size| size != manifest::FENCE_LEN) {
                there.push(*id);
            }
        }
        Ok(there)
    }

    /// Brings the local cache up to date with the storage's index objects and reads the newest
    /// generation. Index objects that can't be read are told as problems; what only they list is unknown.
    ///
    /// # Errors
    /// `Damaged` for an unreadable generation; `WrongKey` when the slot in use was removed; `Storage`.
    pub fn index(&self, report: &dyn Report) -> Result<Indexed<'_>> {
        let found = self.find_generation()?;
        for (number, error) in &found.void {
            report.problem(Problem::new(generation_name(*number), error));
        }
        let state = found.state.map_err(|e| match e.kind() {
            Kind::Damaged => e.hint("`alluvium repair index` publishes a new one"),
            _ => e,
        })?;
        self.refuse_removed_slot(&state)?;
        self.index_at(found.number, state, report)
    }

    /// As [`index`](Self::index), for reading only: an unreadable generation keeps nobody from a restore, since
    /// what it says is for writers.
    ///
    /// # Errors
    /// `Storage`.
    pub fn index_to_read(&self, report: &dyn Report) -> Result<Indexed<'_>> {
        // Nothing that is read rests on the order of the two.
        let refresh = || self.refresh(&|| self.list_index(), report);
        let (probed, refreshed) = both(self.storage.as_ref(), || self.probe_generation(), refresh);
        let (number, state) = probed?;
        let state = state.unwrap_or_else(|e| {
            report.problem(Problem::new(generation_name(number), &e));
            Generation::default()
        });
        let mut indexed = self.indexed(number, state, refreshed?);
        indexed.trust.preferred = Some(self.keys.ring().full_slots().map(|(slot, _)| slot).collect());
        Ok(indexed)
    }

    /// As [`index`](Self::index), with a generation that was read before.
    ///
    /// # Errors
    /// `Storage`.
    pub fn index_at(&self, number: u64, state: Generation, report: &dyn Report) -> Result<Indexed<'_>> {
        self.index_listed(number, state, report, &|| self.list_index())
    }

    /// As [`index_at`](Self::index_at), by a listing that is not older than this call: for prune, which takes a pack
    /// that no index lists for garbage.
    ///
    /// # Errors
    /// `Storage`; `Damaged` when the listing stays behind.
    pub fn index_proven(&self, number: u64, state: Generation, report: &dyn Report) -> Result<Indexed<'_>> {
        self.index_listed(number, state, report, &|| self.list_index_proven())
    }

    fn index_listed(
        &self,
        number: u64,
        state: Generation,
        report: &dyn Report,
        list: &dyn Fn() -> Result<BTreeMap<IndexId, u64>>,
    ) -> Result<Indexed<'_>> {
        let problems = self.refresh(list, report)?;
        let mut indexed = self.indexed(number, state, problems);
        indexed.trust.authors = Some(self.trusted_slots());
        indexed.trust.unvouched = self.unvouched(&indexed.state)?;
        indexed.trust.unvouched.extend(self.listed_by_distrusted(&indexed.state)?);
        Ok(indexed)
    }

    /// The full slots, and this one.
    fn trusted_slots(&self) -> HashSet<SlotId> {
        self.keys.ring().full_slots().map(|(slot, _)| slot).chain([self.keys.slot()]).collect()
    }

    /// Packs that no new snapshot may rely on because of who wrote them: full slots that are not distrusted count
    /// for all, until a prune has stored it again what another slot stored counts for its own sessions alone.
    fn unvouched(&self, state: &Generation) -> Result<HashSet<PackId>> {
        let trusted: Vec<SlotId> = self.trusted_slots().into_iter().collect();
        let mut unvouched: HashSet<PackId> = self.cache.packs_of_others(&trusted)?.into_iter().collect();
        let mut written: Option<HashMap<PackId, Timestamp>> = None;
        for DistrustedSlot { slot, since } in &state.distrusted_slots {
            unvouched.extend(self.cache.packs_of(*slot, since.as_second())?);
            // Nothing but the storage says when a pack was really written, if that says it.
            for pack in self.cache.packs_of(*slot, i64::MIN)? {
                if written.is_none() {
                    written = Some(self.written_packs()?);
                }
                if written.as_ref().and_then(|written| written.get(&pack)).is_some_and(|time| time >= since) {
                    unvouched.insert(pack);
                }
            }
        }
        Ok(unvouched)
    }

    /// Packs that only index objects of distrusted slots list, in the name of another slot. Whether that one wrote
    /// them is not known until a prune has read them.
    ///
    /// # Errors
    /// Of the local cache.
    pub fn listed_by_distrusted(&self, state: &Generation) -> Result<Vec<PackId>> {
        let slots: Vec<SlotId> = state.distrusted_slots.iter().map(|distrusted| distrusted.slot).collect();
        if slots.is_empty() { Ok(Vec::new()) } else { self.cache.packs_listed_only_by(&slots) }
    }

    /// When the storage wrote each pack, as far as it says.
    fn written_packs(&self) -> Result<HashMap<PackId, Timestamp>> {
        let written = |o: &Listed| Some((pack_id(&o.name)?, o.modified?));
        Ok(self.storage.list("packs/")?.iter().filter_map(written).collect())
    }

    fn indexed(&self, number: u64, state: Generation, problems: Vec<Problem>) -> Indexed<'_> {
        Indexed { repo: self, generation: number, trust: Trust::new(&state, self.rules), state, problems }
    }

    /// Adds an index object that contradicts others about packs. Each such pack is read: what its trailer
    /// says is believed, whoever said otherwise.
    fn settle(&self, id: IndexId, author: SlotId, object: &IndexObject) -> Result<Vec<Problem>> {
        let name = crate::format::index::object_name(id);
        let known: HashMap<PackId, KnownPack> = self.cache.packs()?.into_iter().map(|p| (p.id, p)).collect();
        let (mut settled, mut problems) = (object.clone(), Vec::new());
        settled.packs.clear();
        for pack in &object.packs {
            if known.get(&pack.id).is_none_or(|known| *known == KnownPack::of(pack)) {
                settled.packs.push(pack.clone());
                continue;
            }
            let object_name = crate::format::pack::object_name(pack.id);
            match self.find_pack(pack.id) {
                Ok(Some(read)) => {
                    self.cache.correct(&read.indexed)?;
                    if read.indexed == *pack {
                        let what = "another index object describes the pack otherwise than the pack itself";
                        problems.push(Problem::new(object_name, what));
                    } else {
                        let what = format!("describes pack {} otherwise than the pack itself", pack.id);
                        problems.push(Problem::new(name.clone(), what));
                    }
                    settled.packs.push(read.indexed);
                    if settled.keys.iter().all(|key| key.id != read.key.id) {
                        settled.keys.push(read.key);
                    }
                }
                // What is known stays: nothing says which of the two is right.
                Ok(None) => problems.push(Problem::new(name.clone(), format!("lists pack {}, which is gone", pack.id))),
                Err(e) if e.kind() == Kind::Damaged => {
                    problems.push(Problem::new(object_name, &e));
                }
                Err(e) => return Err(e),
            }
        }
        self.cache.add(id, author, &settled)?;
        Ok(problems)
    }

    /// Loads new index objects and drops those that are gone. New ones first: between the two, a pack
    /// that was listed stays listed.
    ///
    /// An object that is listed and gone was replaced meanwhile. What replaced it was durable before, and may be newer
    /// than the listing: so it is listed again.
    fn refresh(&self, list: &dyn Fn() -> Result<BTreeMap<IndexId, u64>>, report: &dyn Report) -> Result<Vec<Problem>> {
        for _ in 1..LOOKS {
            let (problems, vanished) = self.refresh_once(&list()?, report)?;
            if vanished.is_none() {
                return Ok(problems);
            }
        }
        let (mut problems, vanished) = self.refresh_once(&list()?, report)?;
        problems.extend(vanished.map(|id| {
            Problem::new(
                crate::format::index::object_name(id),
                "is listed again and again, and gone: the listing is behind",
            )
        }));
        Ok(problems)
    }

    fn refresh_once(
        &self,
        listed: &BTreeMap<IndexId, u64>,
        report: &dyn Report,
    ) -> Result<(Vec<Problem>, Option<IndexId>)> {
        let mut vanished = None;
        let loaded = self.cache.loaded()?;
        let missing: Vec<_> =
            listed.iter().filter(|(id, _)| !loaded.contains(id)).map(|(id, size)| (*id, *size)).collect();
        if missing.len() > 8 {
            report.task("Reading the index", Unit::Things, Some(missing.len() as u64));
        }
        let mut problems = Vec::new();
        let mut done = 0;
        for group in index::groups(&missing) {
            let mut objects = Vec::new();
            let read = each(at_once(self.storage.as_ref()), group, |&(id, _)| self.read_index_claim(id));
            for (&(id, _), read) in group.iter().zip(read) {
                match read {
                    Ok((claim, object)) => objects.push((id, claim.author, object)),
                    Err(e) if e.kind() == Kind::NotFound => vanished = Some(id),
                    // One bad block of a disk is no reason to do without all that the others list.
                    Err(e) => problems.push(Problem::new(crate::format::index::object_name(id), &e)),
                }
            }
            done += group.len() as u64;
            report.progress(done);
            if let Err(e) = self.cache.add_all(objects.iter().cloned().map(Ok)) {
                if e.kind() != Kind::Damaged {
                    return Err(e);
                }
                // One contradicts what is known: the packs themselves settle it.
                for (id, author, object) in &objects {
                    match self.cache.add(*id, *author, object) {
                        Err(e) if e.kind() == Kind::Damaged => problems.extend(self.settle(*id, *author, object)?),
                        other => other?,
                    }
                }
            }
        }
        let gone: Vec<_> = loaded.iter().filter(|id| !listed.contains_key(id)).copied().collect();
        if !gone.is_empty() {
            self.cache.drop_gone(&gone)?;
        }
        Ok((problems, vanished))
    }
}

/// Refuses to write an object that is longer than its readers allow.
fn refuse_unreadable(name: &str, object: &[u8], bytes_max: u64) -> Result<()> {
    match object.len() as u64 {
        size if size > bytes_max => Err(Error::new(
            Kind::Failed,
            format!("{name} would have {size} bytes, at most {bytes_max} are allowed; it was not written"),
        )),
        _ => Ok(()),
    }
}

/// Slots whose certificates were there when the key ring was read for an author who was not known. It is read
/// at most once for each, however many objects name a slot whose certificate does not open.
#[derive(Default)]
pub struct JudgedSlots(Mutex<HashSet<SlotId>>);

impl JudgedSlots {
    /// Reads the key ring again, unless it has judged the certificate of `author`, or there is none.
    fn look_for(&self, storage: &dyn Storage, keys: &Keys, author: SlotId) -> Result<()> {
        if lock(&self.0).contains(&author) || storage.stat(&certificate::object_name(author))?.is_none() {
            return Ok(());
        }
        // Held while the ring is read: other threads wait for it instead of reading it as well.
        let mut judged = lock(&self.0);
        if judged.contains(&author) {
            return Ok(());
        }
        let listed = storage.list(certificate::PREFIX)?;
        keys.look_for([author]);
        keys.refresh_ring(storage)?;
        judged.extend(listed.iter().filter_map(|o| o.name.strip_prefix(certificate::PREFIX)?.parse::<SlotId>().ok()));
        judged.insert(author);
        Ok(())
    }
}

/// Opens a claim that is bound to `bound`. An author who is not known yet is looked for.
///
/// # Errors
/// `Damaged` for a claim that does not count, and for one that can't be verified ([`Error::is_unverified`]): neither a
/// prune nor a repair may take that for garbage.
fn open_claim(
    storage: &dyn Storage,
    keys: &Keys,
    judged: &JudgedSlots,
    kind: ObjectKind,
    name: &str,
    bound: &[u8],
    sealed: &[u8],
) -> Result<(Claim, Vec<u8>)> {
    let author = match keys.open_claim(kind, name, bound, sealed)? {
        Claimed::By(claim, content) => return Ok((claim, content)),
        Claimed::Unknown(author) => author,
    };
    judged.look_for(storage, keys, author)?;
    // Another thread may have found the author.
    if let Claimed::By(claim, content) = keys.open_claim(kind, name, bound, sealed)? {
        return Ok((claim, content));
    }
    let certificate = certificate::object_name(author);
    let what = if keys.ring().is_unreadable(author) { "does not open" } else { "is not there" };
    Err(Error::unverified(name, format!("can't be verified: {certificate} {what}")).hint(format!(
        "bring {certificate} back from a copy of the repository; if no slot of yours had this id, ignore it"
    )))
}

fn read_index_object(
    storage: &dyn Storage,
    keys: &Keys,
    judged: &JudgedSlots,
    id: IndexId,
) -> Result<(Claim, IndexObject)> {
    let name = crate::format::index::object_name(id);
    let bytes = storage.get(&name, INDEX_OBJECT_BYTES_MAX)?;
    let sealed = envelope::decode(ObjectKind::Index, &bytes).map_err(|e| e.in_object(&name))?;
    let (claim, plain) = open_claim(storage, keys, judged, ObjectKind::Index, &name, name.as_bytes(), sealed)?;
    let object = IndexObject::decode(&plain).map_err(|e| e.in_object(&name))?;
    let foreign = |pack: &IndexedPack| pack.claim.author != claim.author;
    if !keys.is_full(claim.author)
        && let Some(pack) = object.packs.iter().find(|pack| foreign(pack))
    {
        let what = format!("slot {} is write-only and lists pack {}, which is not its own", claim.author, pack.id);
        return Err(Error::forged(&name, what));
    }
    Ok((claim, object))
}

/// Reads index objects for a local cache that must be rebuilt.
struct StoredIndex {
    storage: Arc<dyn Storage>,
    keys: Arc<Keys>,
    judged: Arc<JudgedSlots>,
}

impl IndexSource for StoredIndex {
    fn list(&self) -> Result<BTreeMap<IndexId, u64>> {
        Ok(index_ids(&self.storage.list("index/")?))
    }

    fn read(&self, ids: &[IndexId]) -> Vec<Result<(SlotId, IndexObject)>> {
        let storage = self.storage.as_ref();
        each(at_once(storage), ids, |&id| {
            let (claim, object) = read_index_object(storage, &self.keys, &self.judged, id)?;
            Ok((claim.author, object))
        })
    }
}

/// Returns the id of the pack with this object name.
pub fn pack_id(name: &str) -> Option<PackId> {
    let id = name.rsplit('/').next()?.parse().ok()?;
    (crate::format::pack::object_name(id) == name).then_some(id)
}

/// The ids of the objects of `index/`, and their sizes in bytes.
fn index_ids(listed: &[Listed]) -> BTreeMap<IndexId, u64> {
    listed.iter().filter_map(|o| Some((o.name.strip_prefix("index/")?.parse().ok()?, o.size))).collect()
}

/// Longest chain of a blob, its base, the base's base, that is followed.
const CHAIN_LINKS_MAX: usize = 64;

/// Whether a copy of a blob in a pack may be counted on.
type Trusted<'t> = &'t dyn Fn(&BlobId, &Location) -> bool;

/// A repository whose index was brought up to date: blobs can be found.
pub struct Indexed<'r> {
    /// The repository.
    pub repo: &'r Repository,
    /// The number of the generation that was read.
    pub generation: u64,
    /// Its state.
    pub state: Generation,
    /// Index objects that could not be read.
    pub problems: Vec<Problem>,
    trust: Trust,
}

impl<'r> Indexed<'r> {
    /// The same index, without the packs that no new snapshot may rely on because of who wrote them: what
    /// [`index_to_read`](Repository::index_to_read) lacks.
    ///
    /// # Errors
    /// Of the local cache; `Storage`.
    pub fn vouched(&self) -> Result<Indexed<'r>> {
        let mut vouched = self.repo.indexed(self.generation, self.state.clone(), Vec::new());
        vouched.trust.missing.clone_from(&self.trust.missing);
        vouched.trust.authors = Some(self.repo.trusted_slots());
        vouched.trust.unvouched = self.repo.unvouched(&self.state)?;
        Ok(vouched)
    }
}

impl Indexed<'_> {
    /// True when no new snapshot may rely on the pack because of who wrote it, as far as that was looked at: see
    /// [`vouched`](Self::vouched).
    pub fn is_unvouched(&self, pack: PackId) -> bool {
        self.trust.unvouched.contains(&pack)
    }

    /// Marks packs as missing: no new snapshot relies on what the index lists of them.
    pub fn avoid(&mut self, packs: impl IntoIterator<Item = PackId>) {
        self.trust.missing.extend(packs);
    }

    /// The packs that were marked by [`avoid`](Self::avoid).
    pub fn missing(&self) -> &BTreeSet<PackId> {
        &self.trust.missing
    }

    /// A copy of the blob that a new snapshot may rely on: neither it nor what it is a difference to is condemned or known
    /// to be damaged.
    ///
    /// # Errors
    /// Of the local cache.
    pub fn usable(&self, id: &BlobId) -> Result<Option<Location>> {
        Ok(self.usable_chain(id, u8::MAX)?.map(|chain| chain[0].1))
    }

    /// A usable copy of a lower version than `below`, with all that it is a difference to: the blob itself, its base, the
    /// base's base. Versions fall along a chain, so that it ends, whatever copies there are.
    ///
    /// # Errors
    /// Of the local cache.
    pub fn usable_chain(&self, id: &BlobId, below: u8) -> Result<Option<Vec<(BlobId, Location)>>> {
        let chain = self.chain(id, below, &|id, copy| self.trust.usable(id, copy))?;
        if chain.as_ref().is_none_or(|chain| chain.iter().all(|(_, copy)| self.trust.prefers(copy))) {
            return Ok(chain);
        }
        // What a write-only slot claims to hold may be garbage, and as many copies of it as it likes.
        let preferred = self.chain(id, below, &|id, copy| self.trust.prefers(copy) && self.trust.usable(id, copy))?;
        Ok(preferred.or(chain))
    }

    /// As [`usable_chain`](Self::usable_chain), of whatever the index lists.
    ///
    /// # Errors
    /// Of the local cache.
    pub fn known_chain(&self, id: &BlobId, below: u8) -> Result<Option<Vec<(BlobId, Location)>>> {
        self.chain(id, below, &|_, _| true)
    }

    fn chain(&self, id: &BlobId, below: u8, trusted: Trusted<'_>) -> Result<Option<Vec<(BlobId, Location)>>> {
        let mut chain = Vec::new();
        let found = self.extend_chain(&mut chain, id, below, trusted, &mut HashSet::new())?;
        Ok(found.then_some(chain))
    }

    /// Appends a copy of the blob, with all that it is a difference to. Copies that lead nowhere are in `failed`: each is
    /// tried once, however many deltas lead to it.
    fn extend_chain(
        &self,
        chain: &mut Vec<(BlobId, Location)>,
        id: &BlobId,
        below: u8,
        trusted: Trusted<'_>,
        failed: &mut HashSet<(PackId, u32)>,
    ) -> Result<bool> {
        if chain.len() == CHAIN_LINKS_MAX {
            return Ok(false);
        }
        let fits = |location: &Location| location.version() < below && trusted(id, location);
        let Some(first) = self.repo.cache.lookup(id, &fits)? else { return Ok(false) };
        if self.extend_by(chain, id, first, trusted, failed)? {
            return Ok(true);
        }
        for copy in self.repo.cache.copies(id)?.into_iter().filter(|copy| fits(copy) && *copy != first) {
            if self.extend_by(chain, id, copy, trusted, failed)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn extend_by(
        &self,
        chain: &mut Vec<(BlobId, Location)>,
        id: &BlobId,
        copy: Location,
        trusted: Trusted<'_>,
        failed: &mut HashSet<(PackId, u32)>,
    ) -> Result<bool> {
        let place = (copy.pack, copy.offset);
        if failed.contains(&place) {
            return Ok(false);
        }
        let links = chain.len();
        chain.push((*id, copy));
        let Some(base) = copy.base.filter(|_| self.repo.rules.keep(Rule::RelyOnBases)) else { return Ok(true) };
        if self.extend_chain(chain, &base.id, base.version, trusted, failed)? {
            return Ok(true);
        }
        chain.truncate(links);
        failed.insert(place);
        Ok(false)
    }

    /// What a copy is a difference to, in usable copies: its base, the base's base.
    ///
    /// # Errors
    /// Of the local cache.
    pub fn bases_of(&self, copy: &Location) -> Result<Vec<(BlobId, Location)>> {
        let Some(base) = copy.base else { return Ok(Vec::new()) };
        Ok(self.usable_chain(&base.id, base.version)?.unwrap_or_default())
    }

    /// Every known copy of a blob, the best first.
    ///
    /// # Errors
    /// Of the local cache.
    pub fn copies(&self, id: &BlobId) -> Result<Vec<Location>> {
        let mut copies = self.repo.cache.copies(id)?;
        copies.sort_by_key(|location| (!self.trust.usable(id, location), !self.trust.prefers(location)));
        Ok(copies)
    }

    /// True when the pack is condemned.
    pub fn is_condemned(&self, pack: PackId) -> bool {
        self.trust.condemned.contains(&pack)
    }

    /// True when the whole pack was set aside: it was missing, or no pack.
    pub fn is_distrusted_whole(&self, pack: PackId) -> bool {
        self.trust.distrusted.get(&pack).is_some_and(HashSet::is_empty)
    }

    /// True when this copy of the blob is known to be damaged.
    pub fn is_distrusted(&self, id: &BlobId, pack: PackId) -> bool {
        self.trust.distrusts(id, pack)
    }
}

/// A generation's state in a form that answers quickly.
struct Trust {
    /// Packs that only a write-only slot vouches for, another one than this; and those of distrusted slots.
    unvouched: HashSet<PackId>,
    /// The slots that may be relied on, where that was looked at. What the index says of a copy's author it says together
    /// with where the copy is: later it may say otherwise of both.
    authors: Option<HashSet<SlotId>>,
    /// The slots whose copies come before those of others, where any may be read: the full ones.
    preferred: Option<HashSet<SlotId>>,
    condemned: HashSet<PackId>,
    /// Packs that the index lists and the storage lacks.
    missing: BTreeSet<PackId>,
    distrusted: HashMap<PackId, HashSet<BlobId>>,
}

impl Trust {
    fn new(state: &Generation, rules: Rules) -> Self {
        let condemned = state.condemned.iter().filter(|_| rules.keep(Rule::AvoidCondemned));
        Self {
            unvouched: HashSet::new(),
            authors: None,
            preferred: None,
            condemned: condemned.map(|c| c.pack).collect(),
            missing: BTreeSet::new(),
            distrusted: state.distrusted.iter().map(|d| (d.pack, d.blobs.iter().copied().collect())).collect(),
        }
    }

    fn usable(&self, id: &BlobId, copy: &Location) -> bool {
        let pack = copy.pack;
        self.authors.as_ref().is_none_or(|authors| authors.contains(&copy.author))
            && !self.condemned.contains(&pack)
            && !self.missing.contains(&pack)
            && !self.unvouched.contains(&pack)
            && !self.distrusts(id, pack)
    }

    fn prefers(&self, copy: &Location) -> bool {
        self.preferred.as_ref().is_none_or(|preferred| preferred.contains(&copy.author))
    }

    fn distrusts(&self, id: &BlobId, pack: PackId) -> bool {
        self.distrusted.get(&pack).is_some_and(|blobs| blobs.is_empty() || blobs.contains(id))
    }
}
