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
pub mod rules;
pub mod seen;
pub mod session;
pub mod snapshots;
pub mod writer;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::format::config::{self, ChunkSizes, Config, Parameters};
use crate::format::coordination::{GENERATION_PREFIX, Generation, generation_name, generation_of};
use crate::format::index::IndexObject;
use crate::format::keyslot::SlotKind;
use crate::format::{FORMAT_VERSION, ObjectKind, associated_data, envelope};
use crate::id::{BlobId, IndexId, PackId, RepoId, SlotId};
use crate::report::{Problem, Report, Unit};
use crate::storage::{Listed, Storage};
use crate::transform::chunk::Chunker;
use crate::transform::sketch::Sketcher;

use index::{Index, IndexSource, Location};
use keys::{KdfCost, Keys, NewSlot};
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
/// Every generation whose number is a multiple of this stays for ever.
const MILESTONE: u64 = 64;

fn next_milestone(number: u64) -> u64 {
    (number / MILESTONE + 1) * MILESTONE
}

/// Index objects that are held while the local cache is filled.
const OBJECTS_AT_ONCE: usize = 256;
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
            required_features: [config::COLUMNAR, config::DELTA, config::SEGMENTS].map(str::to_owned).to_vec(),
            chunks: ChunkSizes::around(options.chunk_bytes),
            recipes: ChunkSizes::around(RECIPE_CHUNK_BYTES),
            pack_bytes: options.pack_bytes,
        };
        let (id, slot) = (RepoId::random(env), SlotId::random(env));
        let keys = Keys::generate(env, id, slot);
        let first = NewSlot { kind: SlotKind::Full, label, passphrase, cost: options.kdf };
        Self::init_with(storage, env, &parameters, &keys, first)
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
        let keys = self.keys.like(env, RepoId::random(env), SlotId::random(env))?;
        let mut parameters = self.parameters.clone();
        parameters.pack_bytes = pack_bytes.unwrap_or(parameters.pack_bytes);
        let first = NewSlot { kind: SlotKind::Full, label, passphrase, cost: kdf };
        Self::init_with(storage, env, &parameters, &keys, first)
    }

    /// Makes a twin: a repository with this one's id, keys and parameters, and a passphrase of its own. `sync` copies
    /// its data as it lies.
    ///
    /// # Errors
    /// As [`init_like`](Self::init_like).
    pub fn init_twin(&self, storage: &dyn Storage, passphrase: &[u8], label: &str, kdf: KdfCost) -> Result<RepoId> {
        let env = self.env.as_ref();
        let keys = self.keys.twin(SlotId::random(env))?;
        let first = NewSlot { kind: SlotKind::Full, label, passphrase, cost: kdf };
        Self::init_with(storage, env, &self.parameters, &keys, first)
    }

    fn init_with(
        storage: &dyn Storage,
        env: &dyn Env,
        parameters: &Parameters,
        keys: &Keys,
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
        let (id, slot) = (keys.repo(), keys.slot());
        // The slot comes first and the config last: a repository exists when its config does, and then
        // it has a key.
        keys.write_slot(storage, env, slot, first)?;
        let sealed = keys.index.seal(env, &associated_data(ObjectKind::Config, id, b"config"), &parameters.encode());
        let config = Config::new(id, sealed).requiring(parameters.required_features);
        storage.put_new(config::OBJECT_NAME, &config.encode()).map_err(|error| {
            let _ = storage.delete(&crate::format::keyslot::object_name(slot));
            if error.kind() == Kind::AlreadyExists { exists() } else { error }
        })?;
        Ok(id)
    }

    /// The chunker for streams.
    pub fn chunker(&self) -> Chunker {
        let chunker = self.chunker_for(self.parameters.chunks);
        if self.parameters.requires(config::COLUMNAR) { chunker.at_rows() } else { chunker }
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

    /// An object that is sealed whole under the index key, bound to its name.
    pub fn seal_object(&self, kind: ObjectKind, name: &str, plain: &[u8]) -> Vec<u8> {
        let sealed = self.keys.index.seal(self.env.as_ref(), &associated_data(kind, self.id, name.as_bytes()), plain);
        envelope::encode(kind, &sealed)
    }

    /// Opens what [`seal_object`](Self::seal_object) made.
    ///
    /// # Errors
    /// `Damaged`, naming the object.
    pub fn open_object(&self, kind: ObjectKind, name: &str, bytes: &[u8]) -> Result<Vec<u8>> {
        open_object(&self.keys, kind, name, bytes)
    }

    /// Reads one index object from the storage.
    ///
    /// # Errors
    /// `Damaged`, `NotFound`, `Storage`.
    pub fn read_index_object(&self, id: IndexId) -> Result<IndexObject> {
        read_index_object(self.storage.as_ref(), &self.keys, id)
    }

    /// The index objects that the storage lists. Like all listings sorted, so that the same repository is worked on
    /// in the same order every time.
    ///
    /// # Errors
    /// `Storage`.
    pub fn list_index(&self) -> Result<BTreeSet<IndexId>> {
        Ok(index_ids(&self.storage.list("index/")?))
    }

    /// The packs that the storage lists.
    ///
    /// # Errors
    /// `Storage`.
    pub fn list_packs(&self) -> Result<BTreeMap<PackId, u64>> {
        let pack = |o: &Listed| Some((o.name.rsplit('/').next()?.parse().ok()?, o.size));
        Ok(self.storage.list("packs/")?.iter().filter_map(pack).collect())
    }

    /// Publishes an index object, durably (rule I1: its packs are durable already), and loads it.
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
        self.cache.add(id, object)?;
        Ok(id)
    }

    /// The newest generation and its number; 0 and nothing when there was never a prune. A listing may
    /// be old, so later numbers are asked for by name.
    ///
    /// # Errors
    /// `Damaged`, `Storage`.
    pub fn newest_generation(&self) -> Result<(u64, Generation)> {
        let (number, state) = self.probe_generation()?;
        Ok((number, state?))
    }

    /// As [`newest_generation`](Self::newest_generation), but an unreadable one keeps its number.
    ///
    /// # Errors
    /// `Storage`.
    pub fn probe_generation(&self) -> Result<(u64, Result<Generation>)> {
        let storage = self.storage.as_ref();
        let exists = |number| -> Result<bool> { Ok(storage.stat(&generation_name(number))?.is_some()) };
        let look = |number| both(storage, || exists(next_milestone(number)), || exists(number + 1));
        // Mostly the newest is the one that this machine saw last. Over a network that is read, and what would follow it
        // looked for, while the listing is waited for.
        let guess = if at_once(storage) > 1 { Some(self.seen.generation()) } else { None };
        let guessed = |number| (look(number), self.generation(number));
        let (guessed, listed) = both(storage, || guess.map(guessed), || self.listed_generation());
        let (mut number, mut looked, mut state) = (listed?, None, None);
        if let Some((guess, (after, read))) = guess.zip(guessed)
            && guess >= number
            && (guess == number || read.is_ok())
        {
            (number, looked, state) = (guess, Some(after), read.ok().map(|read| (guess, read)));
        }
        // Mostly there is neither, and both are asked for at once.
        loop {
            let (milestone, next) = looked.take().unwrap_or_else(|| look(number));
            number = match (milestone?, next?) {
                (true, _) => next_milestone(number),
                (false, true) => number + 1,
                (false, false) => break,
            };
        }
        let state = state.filter(|(guess, _)| *guess == number).map(|(_, read)| read);
        Ok((number, state.map_or_else(|| self.generation(number), Ok)))
    }

    /// The state of generation `number`; that of 0, which is no object, is empty.
    fn generation(&self, number: u64) -> Result<Generation> {
        if number == 0 {
            return Ok(Generation::default());
        }
        let name = generation_name(number);
        let plain = self.open_object(ObjectKind::Generation, &name, &self.storage.get(&name)?)?;
        Generation::decode(&plain).map_err(|e| e.in_object(&name))
    }

    /// The highest number that a listing shows.
    fn listed_generation(&self) -> Result<u64> {
        Ok(self.storage.list(GENERATION_PREFIX)?.iter().filter_map(|o| generation_of(&o.name)).max().unwrap_or(0))
    }

    /// Publishes generation `number`, exclusively: of two prunes, one succeeds.
    ///
    /// # Errors
    /// `Busy` when somebody else published it first; `Storage`.
    pub fn publish_generation(&self, number: u64, state: &Generation) -> Result<()> {
        let name = generation_name(number);
        let object = self.seal_object(ObjectKind::Generation, &name, &state.encode());
        let late = || {
            Error::new(Kind::Busy, format!("another prune or check published {name} first; nothing was deleted"))
                .hint("let it finish, then try again")
        };
        self.storage.put_new(&name, &object).map_err(|error| match error.kind() {
            Kind::AlreadyExists => late(),
            _ => error,
        })?;
        // Whoever was asleep may get a name that others have used and given up since. Then a newer one is there, and this
        // one counts for nothing.
        if self.probe_generation()?.0 > number {
            return Err(late());
        }
        self.forget_generations(number);
        Ok(())
    }

    /// Only the newest counts. The others stay as a path to it: whoever knows any of them, or none, finds the newest by
    /// name, however old the listing is that he was shown. So every milestone stays for ever, and after the last one
    /// all. What can't be deleted only takes room.
    fn forget_generations(&self, newest: u64) {
        let Ok(listed) = self.storage.list(GENERATION_PREFIX) else { return };
        // The oldest first, and the first that stays ends it: so that they have no gap.
        let old: BTreeSet<u64> = listed
            .iter()
            .filter_map(|o| generation_of(&o.name))
            .filter(|n| n % MILESTONE != 0 && n + 2 * MILESTONE < newest)
            .collect();
        for number in old {
            if self.storage.delete(&generation_name(number)).is_err() {
                return;
            }
        }
    }

    /// Brings the local cache up to date with the storage's index objects and reads the newest
    /// generation. Index objects that can't be read are told as problems; what only they list is unknown.
    ///
    /// # Errors
    /// `Damaged` for an unreadable generation; `Storage`.
    pub fn index(&self, report: &dyn Report) -> Result<Indexed<'_>> {
        let (number, state) = self.newest_generation().map_err(|e| match e.kind() {
            Kind::Damaged => e.hint("`alluvium repair index` publishes a new one"),
            _ => e,
        })?;
        self.index_at(number, state, report)
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
        Ok(self.indexed(number, state, refreshed?))
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
        list: &dyn Fn() -> Result<BTreeSet<IndexId>>,
    ) -> Result<Indexed<'_>> {
        let problems = self.refresh(list, report)?;
        Ok(self.indexed(number, state, problems))
    }

    fn indexed(&self, number: u64, state: Generation, problems: Vec<Problem>) -> Indexed<'_> {
        Indexed { repo: self, generation: number, trust: Trust::new(&state, self.rules), state, problems }
    }

    /// Loads new index objects and drops those that are gone. New ones first: between the two, a pack
    /// that was listed stays listed.
    ///
    /// An object that is listed and gone was replaced meanwhile. What replaced it was durable before, and may be newer
    /// than the listing: so it is listed again.
    fn refresh(&self, list: &dyn Fn() -> Result<BTreeSet<IndexId>>, report: &dyn Report) -> Result<Vec<Problem>> {
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

    fn refresh_once(&self, listed: &BTreeSet<IndexId>, report: &dyn Report) -> Result<(Vec<Problem>, Option<IndexId>)> {
        let mut vanished = None;
        let loaded = self.cache.loaded()?;
        let missing: Vec<_> = listed.iter().filter(|id| !loaded.contains(*id)).copied().collect();
        if missing.len() > 8 {
            report.task("Reading the index", Unit::Things, Some(missing.len() as u64));
        }
        let mut problems = Vec::new();
        let mut done = 0;
        for group in missing.chunks(OBJECTS_AT_ONCE) {
            let mut objects = Vec::new();
            let read = each(at_once(self.storage.as_ref()), group, |&id| self.read_index_object(id));
            for (&id, read) in group.iter().zip(read) {
                match read {
                    Ok(object) => objects.push((id, object)),
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
                // One contradicts what is known: the others are added without it.
                for (id, object) in &objects {
                    match self.cache.add(*id, object) {
                        Err(e) if e.kind() == Kind::Damaged => {
                            problems.push(Problem::new(crate::format::index::object_name(*id), &e));
                        }
                        other => other?,
                    }
                }
            }
        }
        let gone: Vec<_> = loaded.iter().filter(|id| !listed.contains(*id)).copied().collect();
        if !gone.is_empty() {
            self.cache.drop_gone(&gone)?;
        }
        Ok((problems, vanished))
    }
}

fn open_object(keys: &Keys, kind: ObjectKind, name: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let sealed = envelope::decode(kind, bytes).map_err(|e| e.in_object(name))?;
    keys.index
        .open(&associated_data(kind, keys.repo(), name.as_bytes()), sealed)
        .ok_or_else(|| Error::damaged(name, "does not open: altered, swapped, or from another repository"))
}

fn read_index_object(storage: &dyn Storage, keys: &Keys, id: IndexId) -> Result<IndexObject> {
    let name = crate::format::index::object_name(id);
    let plain = open_object(keys, ObjectKind::Index, &name, &storage.get(&name)?)?;
    IndexObject::decode(&plain).map_err(|e| e.in_object(&name))
}

/// Reads index objects for a local cache that must be rebuilt.
struct StoredIndex {
    storage: Arc<dyn Storage>,
    keys: Arc<Keys>,
}

impl IndexSource for StoredIndex {
    fn list(&self) -> Result<BTreeSet<IndexId>> {
        Ok(index_ids(&self.storage.list("index/")?))
    }

    fn read(&self, ids: &[IndexId]) -> Vec<Result<IndexObject>> {
        let storage = self.storage.as_ref();
        each(at_once(storage), ids, |&id| read_index_object(storage, &self.keys, id))
    }
}

/// The ids of the objects of `index/`.
fn index_ids(listed: &[Listed]) -> BTreeSet<IndexId> {
    listed.iter().filter_map(|o| o.name.strip_prefix("index/")?.parse().ok()).collect()
}

/// Whether a copy of a blob in a pack may be counted on.
type Trusted<'t> = &'t dyn Fn(&BlobId, PackId) -> bool;

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

impl Indexed<'_> {
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
        self.chain(id, below, &|id, pack| self.trust.usable(id, pack))
    }

    /// As [`usable_chain`](Self::usable_chain), of whatever the index lists.
    ///
    /// # Errors
    /// Of the local cache.
    pub fn known_chain(&self, id: &BlobId, below: u8) -> Result<Option<Vec<(BlobId, Location)>>> {
        self.chain(id, below, &|_, _| true)
    }

    fn chain(&self, id: &BlobId, below: u8, trusted: Trusted<'_>) -> Result<Option<Vec<(BlobId, Location)>>> {
        let fits = |location: &Location| location.version() < below && trusted(id, location.pack);
        let Some(first) = self.repo.cache.lookup(id, &fits)? else { return Ok(None) };
        if let Some(chain) = self.chain_of(id, first, trusted)? {
            return Ok(Some(chain));
        }
        for copy in self.repo.cache.copies(id)?.into_iter().filter(|copy| fits(copy) && *copy != first) {
            if let Some(chain) = self.chain_of(id, copy, trusted)? {
                return Ok(Some(chain));
            }
        }
        Ok(None)
    }

    fn chain_of(&self, id: &BlobId, copy: Location, trusted: Trusted<'_>) -> Result<Option<Vec<(BlobId, Location)>>> {
        let mut chain = vec![(*id, copy)];
        if let Some(base) = copy.base.filter(|_| self.repo.rules.keep(Rule::RelyOnBases)) {
            let Some(bases) = self.chain(&base.id, base.version, trusted)? else { return Ok(None) };
            chain.extend(bases);
        }
        Ok(Some(chain))
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
        copies.sort_by_key(|location| !self.trust.usable(id, location.pack));
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
    condemned: HashSet<PackId>,
    distrusted: HashMap<PackId, HashSet<BlobId>>,
}

impl Trust {
    fn new(state: &Generation, rules: Rules) -> Self {
        let condemned = state.condemned.iter().filter(|_| rules.keep(Rule::AvoidCondemned));
        Self {
            condemned: condemned.map(|c| c.pack).collect(),
            distrusted: state.distrusted.iter().map(|d| (d.pack, d.blobs.iter().copied().collect())).collect(),
        }
    }

    fn usable(&self, id: &BlobId, pack: PackId) -> bool {
        !self.condemned.contains(&pack) && !self.distrusts(id, pack)
    }

    fn distrusts(&self, id: &BlobId, pack: PackId) -> bool {
        self.distrusted.get(&pack).is_some_and(|blobs| blobs.is_empty() || blobs.contains(id))
    }
}
