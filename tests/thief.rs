//! A hostile holder of a write-only key slot.
//!
//! He has the repository's index key and his slot's own keys, and sees all that the storage shows. His
//! storage credentials let him create objects, and neither replace nor delete any. Each attack creates
//! objects, and returns those that a check must report.
//!
//! What a write-only slot says is a claim, never an order: `tests/hostile_slot.rs` states what must
//! hold after each attack, `tests/simulation` plays them in between the work of honest machines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alluvium::env::Env;
use alluvium::error::{Kind, Result};
use alluvium::format::certificate::{self, Certificate};
use alluvium::format::coordination::{
    Beat, Condemned, GENERATION_MAX, Generation, SESSION_PREFIX, Session, beat_name, generation_name, is_beat,
    session_name, session_of,
};
use alluvium::format::epoch::{self, Epoch};
use alluvium::format::index::{self, IndexObject, IndexedPack};
use alluvium::format::keyslot::{self, Kdf, KeySlot, SlotKind};
use alluvium::format::manifest::{
    self, Digest, Header, Listing, Manifest, Part, PartKind, PartList, PartName, SEQUENCE_MAX, SealedManifest, Shape,
    ShapeKind, SourceKind, Stored,
};
use alluvium::format::pack::{
    self, Base, BlobEntry, Codec, FOOTER_LEN, KEM_OUTPUT_LEN, PUBLIC_KEY_LEN, PackHeader, SEALED_KEY_LEN, Trailer,
    VERSION_MAX, WrappedKey,
};
use alluvium::format::recipe::{Recipe, RecipeEntry, encode_entries};
use alluvium::format::signed::{Claim, Order};
use alluvium::format::{ObjectKind, associated_data, envelope};
use alluvium::id::{BlobId, DataKeyId, IndexId, PackId, SlotId, SnapshotId};
use alluvium::repo::Repository;
use alluvium::repo::blob::{BlobEncoder, DeltaBase};
use alluvium::repo::keys::DataKey;
use alluvium::repo::packer::trailer_name;
use alluvium::repo::snapshots::inline_list;
use alluvium::transform::hash::stream_digest;
use jiff::Timestamp;

/// What a check must report: of each group at least one object, or a snapshot that is harmed, by name.
pub type Lies = Vec<Vec<String>>;

/// An attack and its name.
pub type Attack = (&'static str, fn(&Thief<'_>) -> Result<Lies>);

/// All attacks that make sense in any order and number.
pub const ATTACKS: [Attack; 35] = [
    ("index objects with fewer entries", |thief| thief.index_with_fewer_entries()),
    ("index objects with entries in another order", |thief| thief.index_with_entries_in_another_order()),
    ("index objects with other sizes", |thief| thief.index_with_other_sizes()),
    ("index objects with other authors", |thief| thief.index_with_other_authors()),
    ("index objects with other sessions and data keys", |thief| thief.index_with_other_sessions_and_keys()),
    ("an index object in the name of a full slot", |thief| thief.index_in_the_name_of_a_full_slot()),
    ("index objects with packs that do not exist", |thief| thief.index_with_missing_packs()),
    ("index objects with data keys that do not open", |thief| thief.index_with_data_keys_that_do_not_open()),
    ("a huge index object", |thief| thief.huge_index()),
    ("packs of garbage, backdated", |thief| thief.packs_of_garbage(1_000_000_000)),
    ("packs of garbage, postdated", |thief| thief.packs_of_garbage(4_000_000_000)),
    ("packs in the name of a full slot", |thief| thief.packs_in_the_name_of_a_full_slot()),
    ("generations", |thief| thief.generations()),
    ("certificates, epochs and key slots", |thief| thief.certificates_epochs_and_key_slots()),
    ("garbage everywhere", |thief| thief.garbage()),
    ("fences", |thief| thief.fences()),
    ("sessions of the future", |thief| thief.sessions_of_the_future()),
    ("heartbeats of others", |thief| thief.heartbeats_of_others()),
    ("a manifest of missing chunks", |thief| thief.manifest_of_missing_chunks()),
    ("a recipe bomb", |thief| thief.recipe_bomb()),
    ("a part list bomb", |thief| thief.part_list_bomb()),
    ("a recipe bomb without a chunk", |thief| thief.hollow_recipe_bomb()),
    ("a part list bomb without a part", |thief| thief.hollow_part_list_bomb()),
    ("a lattice of deltas", |thief| thief.lattice_of_deltas()),
    ("the highest sequence", |thief| thief.highest_sequence()),
    ("the highest sequence but one", |thief| thief.highest_sequence_but_one()),
    ("times far away", |thief| thief.times_far_away()),
    ("series of others", |thief| thief.series_of_others()),
    ("a manifest that is not what its header says", |thief| thief.manifest_that_contradicts_its_header()),
    ("a short list of an own pack", |thief| thief.a_short_list_of_an_own_pack()),
    ("a needed pack without a trailer", |thief| thief.a_needed_pack_without_a_trailer()),
    ("a needed pack that is not listed", |thief| thief.a_needed_pack_that_is_not_listed()),
    ("garbage that wrote a pack", |thief| thief.garbage_that_wrote_a_pack()),
    ("garbage that is a predecessor", |thief| thief.garbage_that_is_a_predecessor()),
    ("claims that stay", |thief| thief.claims_that_stay()),
];

/// Entries of one level of a bomb.
const BOMB_ENTRIES: usize = 1000;
/// Levels of a bomb.
const BOMB_DEPTH: u8 = 5;
/// Packs in a huge index object.
const HUGE_PACKS: usize = 3000;

thread_local! { pub static ORIGINAL: std::cell::RefCell<Option<manifest::Original>> = const { std::cell::RefCell::new(None) }; }
thread_local! { static LIE: std::cell::RefCell<Option<(Option<SlotId>, Digest)>> = const { std::cell::RefCell::new(None) }; }

/// The thief, with a repository that is open with a write-only slot.
pub struct Thief<'r> {
    repo: &'r Repository,
}

/// What of a manifest the thief chooses.
struct Lie {
    host: String,
    source: String,
    sequence: u64,
    time: Timestamp,
    previous: Option<SnapshotId>,
    parts: PartList,
}

impl<'r> Thief<'r> {
    pub fn new(repo: &'r Repository) -> Self {
        assert_eq!(repo.keys.kind(), SlotKind::WriteOnly, "a thief may not read");
        Self { repo }
    }

    // ---- What he has ----

    fn env(&self) -> &dyn Env {
        self.repo.env.as_ref()
    }

    fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.env().fill_random(&mut bytes);
        bytes
    }

    fn garbage_bytes(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.env().fill_random(&mut bytes);
        bytes
    }

    /// An id that sorts before all random ones: what has it is loaded first.
    fn early(&self) -> [u8; 16] {
        let mut id = self.random();
        id[..8].fill(0);
        id
    }

    /// An id that sorts behind all random ones.
    fn late(&self) -> [u8; 16] {
        let mut id = self.random();
        id[..4].fill(0xfe);
        id
    }

    /// Creates an object. A name that is taken stays as it is.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        match self.repo.storage.put_new(name, bytes) {
            Err(e) if e.kind() == Kind::AlreadyExists => Ok(()),
            put => put,
        }
    }

    /// All packs that the index objects list, and their data keys.
    fn shown(&self) -> Result<(BTreeMap<PackId, IndexedPack>, BTreeMap<DataKeyId, WrappedKey>)> {
        let (mut packs, mut keys) = (BTreeMap::new(), BTreeMap::new());
        for id in self.repo.list_index()?.into_keys() {
            match self.repo.read_index_object(id) {
                Ok(object) => {
                    packs.extend(object.packs.into_iter().map(|pack| (pack.id, pack)));
                    keys.extend(object.keys.into_iter().map(|key| (key.id, key)));
                }
                Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
        Ok((packs, keys))
    }

    /// Publishes an index object that he signs; a check must name it, or one of its packs.
    fn put_index(&self, id: [u8; 16], keys: Vec<WrappedKey>, packs: Vec<IndexedPack>) -> Result<Vec<String>> {
        let name = index::object_name(IndexId(id));
        let mut lie: Vec<String> = packs.iter().map(|pack| pack::object_name(pack.id)).collect();
        let object = IndexObject { keys, packs };
        self.put(&name, &self.repo.seal_object(ObjectKind::Index, &name, &object.encode()))?;
        lie.insert(0, name);
        Ok(lie)
    }

    /// Lists all packs changed by `change`, in an object that is loaded first and in one that is loaded last.
    fn contradict(&self, change: impl Fn(&mut IndexedPack)) -> Result<Lies> {
        let (packs, keys) = self.shown()?;
        let mut packs: Vec<IndexedPack> = packs.into_values().collect();
        packs.iter_mut().for_each(change);
        // A prune may have taken a key since.
        packs.retain(|pack| keys.contains_key(&pack.key));
        let keys: Vec<WrappedKey> = keys.into_values().collect();
        [self.early(), self.late()].into_iter().map(|id| self.put_index(id, keys.clone(), packs.clone())).collect()
    }

    fn key_of_garbage(&self, id: DataKeyId, epoch: u32) -> WrappedKey {
        WrappedKey { id, epoch, kem_output: self.random::<KEM_OUTPUT_LEN>(), sealed: self.random::<SEALED_KEY_LEN>() }
    }

    fn full_slot(&self) -> SlotId {
        // A listing that was cut may have shown him none.
        let full = self.repo.keys.ring().full_slots().map(|(id, _)| id).min();
        full.unwrap_or_else(|| self.repo.keys.slot())
    }

    /// A claim in the name of `author`, whose key he lacks.
    fn forged_claim(&self, author: SlotId, kind: ObjectKind, bound: &[u8], content: &[u8]) -> Vec<u8> {
        let claim = Claim { author, time: self.env().now().as_second() };
        let plain = claim.encode(&self.random(), content);
        self.repo.keys.index.seal(self.env(), &associated_data(kind, self.repo.id, bound), &plain)
    }

    /// An order of `epoch`, whose authority he lacks.
    fn forged_order(&self, epoch: u32, kind: ObjectKind, name: &str, content: &[u8]) -> Vec<u8> {
        let plain = Order { epoch }.encode(&self.random(), content);
        let associated = associated_data(kind, self.repo.id, name.as_bytes());
        envelope::encode(kind, &self.repo.keys.index.seal(self.env(), &associated, &plain))
    }

    fn new_data_key(&self) -> DataKey {
        self.repo.keys.new_data_key(self.env()).expect("a write-only slot makes data keys")
    }

    /// Writes a pack of `blobs` whose trailer he signs by the claim, or forges where it is another's.
    fn put_pack(
        &self,
        id: [u8; 16],
        session: SnapshotId,
        key: &DataKey,
        claim: Claim,
        blobs: Vec<(BlobEntry, Vec<u8>)>,
    ) -> Result<IndexedPack> {
        let (id, keys) = (PackId(id), &self.repo.keys);
        let header = PackHeader { repo: self.repo.id, session, key: key.wrapped.clone() }.encode();
        let (entries, blobs): (Vec<BlobEntry>, Vec<Vec<u8>>) = blobs.into_iter().unzip();
        let mut bytes = [header.clone(), blobs.concat()].concat();
        let trailer = Trailer { content: stream_digest(&bytes), entries };
        let (bound, content) = (trailer_name(id, &header), trailer.encode());
        let sealed = if claim.author == keys.slot() {
            keys.seal_claimed(self.env(), claim, ObjectKind::PackTrailer, &bound, &content)
        } else {
            self.forged_claim(claim.author, ObjectKind::PackTrailer, &bound, &content)
        };
        bytes.extend_from_slice(&sealed);
        let footer: [u8; FOOTER_LEN] = pack::encode_footer(sealed.len());
        bytes.extend_from_slice(&footer);
        let size = bytes.len() as u64;
        self.put(&pack::object_name(id), &bytes)?;
        Ok(IndexedPack { id, size, session, claim, key: key.wrapped.id, entries: trailer.entries })
    }

    fn claim(&self) -> Claim {
        self.repo.keys.claim(self.env())
    }

    /// Chunks that are what their ids say.
    fn sealed(&self, key: &DataKey, raws: &[Vec<u8>]) -> Vec<(BlobEntry, Vec<u8>)> {
        let mut encoder = BlobEncoder::new(self.repo.id, 1);
        let encode = |raw: &Vec<u8>| {
            let id = self.repo.keys.hasher.id(raw);
            let blob = encoder.encode(self.env(), key, id, raw, &[]).expect("a sound machine");
            (blob.entry, blob.bytes)
        };
        raws.iter().map(encode).collect()
    }

    /// Stores chunks as an honest writer does.
    fn store(&self, session: SnapshotId, key: &DataKey, raws: &[Vec<u8>]) -> Result<()> {
        let pack = self.put_pack(self.random(), session, key, self.claim(), self.sealed(key, raws))?;
        self.put_index(self.random(), vec![key.wrapped.clone()], vec![pack]).map(drop)
    }

    fn entry(&self, raw: &[u8]) -> RecipeEntry {
        RecipeEntry { id: self.repo.keys.hasher.id(raw), len: raw.len() as u32 }
    }

    /// A part of garbage that is as long as `bytes`.
    fn part(&self, bytes: u64, recipe: Recipe) -> Part {
        let digest = Digest { bytes, blake3: self.random() };
        Part { name: PartName::of("shop"), kind: PartKind::Stream, digest, recipe, stored_bytes: None }
    }

    /// A part of one chunk that is nowhere.
    fn missing_part(&self) -> Part {
        let chunks = vec![RecipeEntry { id: BlobId(self.random()), len: 1000 }];
        self.part(1000, Recipe { depth: 0, chunks })
    }

    fn now_as_sequence(&self) -> u64 {
        self.env().now().as_second().unsigned_abs()
    }

    /// What he says unless an attack says otherwise: the newest snapshot of `shop`.
    fn lie(&self, parts: PartList) -> Lie {
        Lie {
            host: "host".to_owned(),
            source: "shop".to_owned(),
            sequence: self.now_as_sequence() + 1000,
            time: self.env().now(),
            previous: None,
            parts,
        }
    }

    /// Publishes a manifest that he signs.
    fn publish(&self, session: SnapshotId, key: &DataKey, lie: Lie) -> Result<SnapshotId> {
        let header = self.header(&lie);
        self.publish_with(session, key, lie, &header)
    }

    fn header(&self, lie: &Lie) -> Header {
        Header {
            time: lie.time,
            series: self.repo.keys.hasher.series(&lie.host, &lie.source),
            sequence: lie.sequence,
            bytes: lie.parts.bytes,
            good_bytes: lie.parts.bytes,
            previous: lie.previous,
            body: manifest::UNSEALED,
        }
    }

    fn publish_with(&self, session: SnapshotId, key: &DataKey, lie: Lie, header: &Header) -> Result<SnapshotId> {
        let name = manifest::object_name(session);
        let manifest = Manifest {
            time: lie.time,
            sequence: lie.sequence,
            finished: lie.time,
            zone: "UTC".to_owned(),
            source: lie.source,
            kind: SourceKind::Stream,
            host: lie.host,
            tags: BTreeSet::new(),
            previous: lie.previous,
            generation: 0,
            tool: "alluvium".to_owned(),
            whole: Some(
                LIE.with(|l| l.borrow().map(|(_, whole)| whole))
                    .unwrap_or(Digest { bytes: lie.parts.bytes, blake3: self.random() }),
            ),
            shape: Shape { is: ShapeKind::Stream, dialect: None },
            parts: lie.parts,
            engine: None,
            catalog: None,
            stored: Stored::default(),
            shrunk_from: None,
            original: ORIGINAL.with(|o| *o.borrow()),
            original_author: LIE.with(|l| l.borrow().and_then(|(author, _)| author)),
        };
        let body_name =
            associated_data(ObjectKind::ManifestBody, self.repo.id, &manifest::body_name(&name, &key.wrapped));
        let body = key.key.seal(self.env(), &body_name, &manifest.encode());
        let header = Header { body: manifest::body_digest(&key.wrapped, &body), ..header.clone() };
        let header =
            self.repo.keys.seal_claim(self.env(), ObjectKind::ManifestHeader, name.as_bytes(), &header.encode());
        let sealed = SealedManifest { key: key.wrapped.clone(), header: &header, body: &body };
        self.put(&name, &sealed.encode())?;
        Ok(session)
    }

    /// Publishes a snapshot of a chunk that is nowhere; a check must report it.
    fn publish_missing(&self, change: impl Fn(&mut Lie)) -> Result<Vec<String>> {
        let mut lie = self.lie(inline_list(vec![self.missing_part()]));
        change(&mut lie);
        let id = self.publish(SnapshotId(self.random()), &self.new_data_key(), lie)?;
        Ok(vec![id.to_string()])
    }

    /// As [`publish_missing`](Self::publish_missing), with a sequence and a predecessor.
    pub fn claims_place(&self, sequence: u64, previous: Option<SnapshotId>) -> Result<Vec<String>> {
        self.publish_missing(|lie| (lie.sequence, lie.previous) = (sequence, previous))
    }

    // ---- Index objects ----

    pub fn index_with_fewer_entries(&self) -> Result<Lies> {
        self.contradict(|pack| pack.entries.truncate(1))
    }

    /// The sums over the entries stay what they are; the offsets do not.
    pub fn index_with_entries_in_another_order(&self) -> Result<Lies> {
        self.contradict(|pack| pack.entries.reverse())
    }

    pub fn index_with_other_sizes(&self) -> Result<Lies> {
        self.contradict(|pack| pack.size += 4096)
    }

    /// What he lists as another's, and another's as his.
    pub fn index_with_other_authors(&self) -> Result<Lies> {
        let (full, own) = (self.full_slot(), self.repo.keys.slot());
        self.contradict(|pack| {
            let author = if pack.claim.author == full { own } else { full };
            pack.claim = Claim { author, time: pack.claim.time + 1 };
        })
    }

    pub fn index_with_other_sessions_and_keys(&self) -> Result<Lies> {
        let (_, keys) = self.shown()?;
        let keys: Vec<DataKeyId> = keys.into_keys().collect();
        self.contradict(|pack| {
            pack.session = SnapshotId(self.random());
            pack.key = keys.iter().copied().find(|key| *key != pack.key).unwrap_or(pack.key);
        })
    }

    pub fn index_in_the_name_of_a_full_slot(&self) -> Result<Lies> {
        let (packs, keys) = self.shown()?;
        let packs = packs.into_values().map(|pack| IndexedPack { entries: Vec::new(), ..pack }).collect();
        let name = index::object_name(IndexId(self.early()));
        let content = IndexObject { keys: keys.into_values().collect(), packs }.encode();
        let sealed = self.forged_claim(self.full_slot(), ObjectKind::Index, name.as_bytes(), &content);
        self.put(&name, &envelope::encode(ObjectKind::Index, &sealed))?;
        Ok(vec![vec![name]])
    }

    /// Packs that are nowhere, and that are said to hold every chunk: as his own, and as a full slot's.
    pub fn index_with_missing_packs(&self) -> Result<Lies> {
        let (packs, _) = self.shown()?;
        let (key, mut lies) = (self.new_data_key(), Lies::new());
        for (id, author) in [(self.early(), self.repo.keys.slot()), (self.late(), self.full_slot())] {
            let missing = |pack: &IndexedPack| {
                let (id, session) = (PackId(self.random()), SnapshotId(self.random()));
                let claim = Claim { author, time: pack.claim.time };
                IndexedPack { id, session, claim, key: key.wrapped.id, ..pack.clone() }
            };
            lies.push(self.put_index(id, vec![key.wrapped.clone()], packs.values().map(missing).collect())?);
        }
        Ok(lies)
    }

    /// Data keys with the ids of those in use, of an unknown epoch and of the newest one.
    pub fn index_with_data_keys_that_do_not_open(&self) -> Result<Lies> {
        let (_, keys) = self.shown()?;
        let mut lies = Lies::new();
        for (id, epoch) in [(self.late(), u32::MAX), (self.early(), self.repo.keys.newest_epoch())] {
            let keys = keys.keys().map(|key| self.key_of_garbage(*key, epoch)).collect();
            lies.push(self.put_index(id, keys, Vec::new())?);
        }
        Ok(lies)
    }

    pub fn huge_index(&self) -> Result<Lies> {
        self.missing_packs(HUGE_PACKS)
    }

    /// Lists so many packs that are nowhere.
    pub fn missing_packs(&self, count: usize) -> Result<Lies> {
        let key = self.new_data_key();
        let pack = |_| IndexedPack {
            id: PackId(self.random()),
            size: 1 << 20,
            session: SnapshotId(self.random()),
            claim: self.claim(),
            key: key.wrapped.id,
            entries: Vec::new(),
        };
        let packs = (0..count).map(pack).collect();
        Ok(vec![self.put_index(self.early(), vec![key.wrapped.clone()], packs)?])
    }

    // ---- Packs ----

    fn entries_of_all(&self) -> Result<Vec<BlobEntry>> {
        let (packs, _) = self.shown()?;
        let all: BTreeMap<BlobId, BlobEntry> =
            packs.into_values().flat_map(|pack| pack.entries).map(|entry| (entry.id, entry)).collect();
        let whole = |entry: BlobEntry| BlobEntry { codec: Codec::Raw, base: None, stored_len: 64, ..entry };
        Ok(all.into_values().map(whole).collect())
    }

    /// Lists packs of others, with their sizes, as his own that hold these blobs, as many as there is room for.
    pub fn claims_packs(&self, packs: &[(PackId, u64)], entries: &[BlobEntry]) -> Result<()> {
        let (key, mut rest) = (self.new_data_key(), entries);
        for &(id, size) in packs {
            let mut left = size * 3 / 4;
            let fits = |entry: &&BlobEntry| {
                let fits = u64::from(entry.stored_len) <= left;
                left = left.saturating_sub(u64::from(entry.stored_len));
                fits
            };
            let (claimed, others) = rest.split_at(rest.iter().take_while(fits).count());
            let (session, entries) = (SnapshotId(self.random()), claimed.to_vec());
            let pack = IndexedPack { id, size, session, claim: self.claim(), key: key.wrapped.id, entries };
            self.put_index(self.random(), vec![key.wrapped.clone()], vec![pack])?;
            rest = others;
        }
        Ok(())
    }

    /// A pack of garbage that claims to hold these blobs, as large as they are.
    pub fn garbage_copies(&self, entries: &[BlobEntry]) -> Result<()> {
        let (key, session) = (self.new_data_key(), SnapshotId(self.random()));
        let garbage = |entry: &BlobEntry| (entry.clone(), self.garbage_bytes(entry.stored_len as usize));
        for entries in entries.chunks(500) {
            let blobs = entries.iter().map(garbage).collect();
            let pack = self.put_pack(self.random(), session, &key, self.claim(), blobs)?;
            self.put_index(self.random(), vec![key.wrapped.clone()], vec![pack])?;
        }
        Ok(())
    }

    /// A pack with a valid trailer and garbage for every chunk, listed as it is.
    pub fn packs_of_garbage(&self, time: i64) -> Result<Lies> {
        let (key, session) = (self.new_data_key(), SnapshotId(self.random()));
        let claim = Claim { author: self.repo.keys.slot(), time };
        let mut lies = Lies::new();
        for id in [self.early(), self.late()] {
            let blobs = self.entries_of_all()?.into_iter().map(|entry| (entry, self.garbage_bytes(64))).collect();
            let pack = self.put_pack(id, session, &key, claim, blobs)?;
            lies.push(vec![pack::object_name(pack.id)]);
            self.put_index(id, vec![key.wrapped.clone()], vec![pack])?;
        }
        Ok(lies)
    }

    pub fn packs_in_the_name_of_a_full_slot(&self) -> Result<Lies> {
        let (key, session) = (self.new_data_key(), SnapshotId(self.random()));
        let claim = Claim { author: self.full_slot(), time: self.claim().time };
        let blobs = self.entries_of_all()?.into_iter().map(|entry| (entry, self.garbage_bytes(64))).collect();
        let pack = self.put_pack(self.early(), session, &key, claim, blobs)?;
        let lie = pack::object_name(pack.id);
        self.put_index(self.early(), vec![key.wrapped.clone()], vec![pack])?;
        Ok(vec![vec![lie]])
    }

    // ---- Orders ----

    /// Generations that condemn every pack.
    pub fn generations(&self) -> Result<Lies> {
        let (packs, _) = self.shown()?;
        let newest = self.repo.find_generation()?.number;
        let condemned =
            packs.into_values().map(|IndexedPack { id: pack, size, .. }| Condemned { pack, size, since: 1 });
        let state = Generation { condemned: condemned.collect(), judged: newest, ..Generation::default() };
        let content = state.encode();
        let milestone = (newest / 64 + 1) * 64;
        let epoch = self.repo.keys.newest_epoch();
        let mut lies = Lies::new();
        let mut put = |number: u64, bytes: &dyn Fn(&str) -> Vec<u8>| -> Result<()> {
            let name = generation_name(number);
            lies.push(vec![name.clone()]);
            self.put(&name, &bytes(&name))
        };
        let order = |epoch: u32| {
            let content = &content;
            move |name: &str| self.forged_order(epoch, ObjectKind::Generation, name, content)
        };
        let claim = |name: &str| self.repo.seal_object(ObjectKind::Generation, name, &content);
        let garbage = |_: &str| self.garbage_bytes(300);
        for (offset, number) in [newest, milestone, GENERATION_MAX / 2, GENERATION_MAX - 5].into_iter().enumerate() {
            let first = number + u64::from(offset == 0);
            put(first, &order(epoch))?;
            put(first + 1, &order(u32::MAX))?;
            put(first + 2, &claim)?;
            put(first + 3, &garbage)?;
        }
        Ok(lies)
    }

    /// More generations that do not count than anybody skips.
    pub fn flood_of_generations(&self) -> Result<()> {
        let newest = self.repo.find_generation()?.number;
        for number in newest + 1..newest + 1100 {
            self.put(&generation_name(number), &self.garbage_bytes(20))?;
        }
        Ok(())
    }

    pub fn certificates_epochs_and_key_slots(&self) -> Result<Lies> {
        let mut lies = Lies::new();
        let mut put = |name: String, bytes: Vec<u8>| {
            lies.push(vec![name.clone()]);
            self.put(&name, &bytes)
        };
        let epoch = self.repo.keys.newest_epoch();
        let slot = SlotId(self.early());
        let kdf = Kdf::Argon2id { memory_kib: 8, passes: 1, lanes: 1, salt: self.random() };
        let key_slot = KeySlot::new(self.repo.id, kdf, self.garbage_bytes(400)).encode();
        let content = Certificate {
            kind: SlotKind::Full,
            label: "owner".to_owned(),
            created: self.env().now(),
            sealing: self.random::<PUBLIC_KEY_LEN>(),
            signing: self.random(),
            key: stream_digest(&key_slot),
        };
        let name = certificate::object_name(slot);
        put(name.clone(), self.forged_order(epoch, ObjectKind::Certificate, &name, &content.encode()))?;
        put(keyslot::object_name(slot), key_slot)?;
        let name = certificate::object_name(SlotId(self.random()));
        put(name.clone(), self.repo.seal_object(ObjectKind::Certificate, &name, &content.encode()))?;
        for (number, signed_by) in [(epoch + 1, epoch), (epoch + 2, epoch + 1), (epoch::EPOCH_MAX, u32::MAX)] {
            let content = Epoch {
                previous: signed_by,
                created: self.env().now(),
                public: self.random(),
                authority: self.random(),
                certificates: Vec::new(),
                secrets: Vec::new(),
            };
            let name = epoch::object_name(number);
            put(name.clone(), self.forged_order(signed_by, ObjectKind::Epoch, &name, &content.encode()))?;
        }
        Ok(lies)
    }

    /// Bytes that are nothing under all kinds of names.
    pub fn garbage(&self) -> Result<Lies> {
        let hex = |id: [u8; 16]| SnapshotId(id).to_string();
        let epoch = self.repo.keys.newest_epoch();
        let names = [
            certificate::object_name(SlotId(self.random())),
            keyslot::object_name(SlotId(self.early())),
            epoch::object_name(epoch + 3),
            index::object_name(IndexId(self.random())),
            pack::object_name(PackId(self.random())),
            manifest::object_name(SnapshotId(self.random())),
            session_name(SnapshotId(self.random())),
            beat_name(SnapshotId(self.random())),
            format!("index/{}x", hex(self.random())),
            format!("packs/zz/{}", hex(self.random())),
            format!("snapshots/{}.tmp", hex(self.random())),
        ];
        let mut lies = Lies::new();
        for (n, name) in names.into_iter().enumerate() {
            // Every other one is empty.
            self.put(&name, &self.garbage_bytes(if n % 2 == 0 { 500 } else { 0 }))?;
            lies.push(vec![name]);
        }
        Ok(lies)
    }

    // ---- Sessions ----

    /// The sessions that are listed and have not published.
    fn sessions(&self) -> Result<BTreeSet<SnapshotId>> {
        let listed = self.repo.storage.list(SESSION_PREFIX)?;
        Ok(listed.iter().filter(|object| !is_beat(&object.name)).filter_map(|o| session_of(&o.name)).collect())
    }

    fn put_fence(&self, id: SnapshotId) -> Result<()> {
        let name = manifest::object_name(id);
        let sealed = self.repo.keys.seal_claim(self.env(), ObjectKind::Fence, name.as_bytes(), b"");
        self.put(&name, &manifest::encode_fence(&sealed))
    }

    /// Fences under the names of all sessions at work, of the sessions of all packs, and of nobody.
    pub fn fences(&self) -> Result<Lies> {
        let (packs, _) = self.shown()?;
        let nobody = (0..3).map(|_| SnapshotId(self.random()));
        let ids: BTreeSet<SnapshotId> =
            self.sessions()?.into_iter().chain(packs.into_values().map(|pack| pack.session)).chain(nobody).collect();
        ids.into_iter().try_for_each(|id| self.put_fence(id))?;
        // One in the name of a full slot.
        let name = manifest::object_name(SnapshotId(self.random()));
        let sealed = self.forged_claim(self.full_slot(), ObjectKind::Fence, name.as_bytes(), b"");
        self.put(&name, &manifest::encode_fence(&sealed))?;
        Ok(vec![vec![name.clone(), name[manifest::PREFIX.len()..].to_owned()]])
    }

    fn put_session(&self, id: SnapshotId, time: Timestamp, generation: Option<u64>) -> Result<()> {
        let name = session_name(id);
        let (host, purpose) = ("host".to_owned(), "snapshot".to_owned());
        let session = Session { host, pid: 1, purpose, started: time };
        self.put(&name, &self.repo.seal_object(ObjectKind::Session, &name, &session.encode()))?;
        match generation {
            Some(generation) => self.put_beat(id, time, generation),
            None => Ok(()),
        }
    }

    fn put_beat(&self, id: SnapshotId, time: Timestamp, generation: u64) -> Result<()> {
        let name = beat_name(id);
        let beat = Beat { count: 1 << 40, time, generation };
        self.put(&name, &self.repo.seal_object(ObjectKind::Session, &name, &beat.encode()))
    }

    /// Sessions that began, and beat, in the future; of packs that exist, too.
    pub fn sessions_of_the_future(&self) -> Result<Lies> {
        let (packs, _) = self.shown()?;
        for (time, generation) in [(Timestamp::MAX, Some(0)), (Timestamp::MAX, None), (Timestamp::MAX, Some(u64::MAX))]
        {
            self.put_session(SnapshotId(self.random()), time, generation)?;
        }
        let published: BTreeSet<SnapshotId> = packs.into_values().map(|pack| pack.session).collect();
        published.into_iter().try_for_each(|id| self.put_session(id, Timestamp::MAX, Some(0)))?;
        Ok(Lies::new())
    }

    /// Heartbeats of sessions at work that claim to have read every generation.
    pub fn heartbeats_of_others(&self) -> Result<Lies> {
        self.sessions()?.into_iter().try_for_each(|id| self.put_beat(id, Timestamp::MAX, u64::MAX))?;
        Ok(Lies::new())
    }

    // ---- Manifests ----

    // ---- attack branch ----

    /// A pack of his own of two chunks; the only index object that lists it lists one of them.
    pub fn a_short_list_of_an_own_pack(&self) -> Result<Lies> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let raws = [self.garbage_bytes(500), self.garbage_bytes(500)];
        let mut pack = self.put_pack(self.random(), session, &key, self.claim(), self.sealed(&key, &raws))?;
        pack.entries.truncate(1);
        self.put_index(self.random(), vec![key.wrapped.clone()], vec![pack]).map(|lie| vec![lie])
    }

    /// A pack with a whole header and a trailer that is not signed, an index object that lists it with another
    /// size, and a snapshot that needs it.
    pub fn a_needed_pack_without_a_trailer(&self) -> Result<Lies> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let raw = self.garbage_bytes(500);
        let forged = Claim { author: self.full_slot(), ..self.claim() };
        let mut pack = self.put_pack(
            self.random(),
            SnapshotId(self.random()),
            &key,
            forged,
            self.sealed(&key, std::slice::from_ref(&raw)),
        )?;
        pack.claim = self.claim();
        pack.size += 1;
        self.put_index(self.random(), vec![key.wrapped.clone()], vec![pack])?;
        let recipe = Recipe { depth: 0, chunks: vec![self.entry(&raw)] };
        let part = self.part(raw.len() as u64, recipe);
        self.publish(session, &key, self.lie(inline_list(vec![part]))).map(|id| vec![vec![id.to_string()]])
    }

    /// A pack that no index object lists, and a snapshot that needs it.
    pub fn a_needed_pack_that_is_not_listed(&self) -> Result<Lies> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let raw = self.garbage_bytes(500);
        self.put_pack(self.random(), session, &key, self.claim(), self.sealed(&key, std::slice::from_ref(&raw)))?;
        let recipe = Recipe { depth: 0, chunks: vec![self.entry(&raw)] };
        let part = self.part(raw.len() as u64, recipe);
        self.publish(session, &key, self.lie(inline_list(vec![part]))).map(|id| vec![vec![id.to_string()]])
    }

    /// Garbage under the name of a snapshot whose session wrote a pack that he lists.
    pub fn garbage_that_wrote_a_pack(&self) -> Result<Lies> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        self.store(session, &key, &[self.garbage_bytes(500)])?;
        self.put(&manifest::object_name(session), &self.garbage_bytes(500))?;
        Ok(vec![vec![session.to_string()]])
    }

    /// Garbage under a name that a snapshot of his calls its predecessor.
    pub fn garbage_that_is_a_predecessor(&self) -> Result<Lies> {
        let garbage = SnapshotId(self.random());
        self.put(&manifest::object_name(garbage), &self.garbage_bytes(500))?;
        self.publish_missing(|lie| lie.previous = Some(garbage)).map(|lie| vec![lie])
    }

    /// A restorable snapshot of `shop` of his own.
    pub fn snapshot_of_his_own(
        &self,
        sequence: u64,
        time: Timestamp,
        original_author: Option<SlotId>,
    ) -> Result<SnapshotId> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let raw = self.garbage_bytes(500);
        self.store(session, &key, std::slice::from_ref(&raw))?;
        let digest = Digest { bytes: 500, blake3: stream_digest(&raw) };
        let recipe = Recipe { depth: 0, chunks: vec![self.entry(&raw)] };
        let part = Part { name: PartName::of("shop"), kind: PartKind::Stream, digest, recipe, stored_bytes: None };
        let mut lie = self.lie(inline_list(vec![part]));
        (lie.sequence, lie.time) = (sequence, time);
        self.publish_full(session, &key, lie, original_author, digest)
    }

    fn publish_full(
        &self,
        session: SnapshotId,
        key: &DataKey,
        lie: Lie,
        original_author: Option<SlotId>,
        whole: Digest,
    ) -> Result<SnapshotId> {
        let header = self.header(&lie);
        LIE.with(|l| *l.borrow_mut() = Some((original_author, whole)));
        let id = self.publish_with(session, key, lie, &header);
        LIE.with(|l| *l.borrow_mut() = None);
        id
    }

    /// Two snapshots of parts of 2^64 - 1 bytes that are nowhere, long ago.
    pub fn endless(&self) -> Result<Lies> {
        let one = |n: u64| {
            self.publish_missing(|lie| {
                let recipe = Recipe { depth: 0, chunks: vec![RecipeEntry { id: BlobId(self.random()), len: 5 }] };
                lie.parts = inline_list(vec![self.part(u64::MAX, recipe)]);
                (lie.sequence, lie.time, lie.source) = (n + 1, Timestamp::UNIX_EPOCH, "none".to_owned());
            })
        };
        (0..2).map(one).collect()
    }

    /// Many index objects in the name of a slot whose certificate does not open.
    pub fn nobody(&self, certificates: usize, objects: usize) -> Result<()> {
        let author = SlotId(self.random());
        self.put(&certificate::object_name(author), &self.garbage_bytes(300))?;
        for _ in 1..certificates {
            self.put(&certificate::object_name(SlotId(self.random())), &self.garbage_bytes(300))?;
        }
        for _ in 0..objects {
            let name = index::object_name(IndexId(self.random()));
            let content = IndexObject { keys: Vec::new(), packs: Vec::new() }.encode();
            let sealed = self.forged_claim(author, ObjectKind::Index, name.as_bytes(), &content);
            self.put(&name, &envelope::encode(ObjectKind::Index, &sealed))?;
        }
        Ok(())
    }

    /// An index object that prune can't take over, with a lie about each honest pack, and a pack of his that nobody needs.
    pub fn claims_that_stay(&self) -> Result<Lies> {
        let (packs, keys) = self.shown()?;
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let mut lies: Vec<IndexedPack> = packs.into_values().collect();
        for pack in &mut lies {
            pack.claim.author = self.repo.keys.slot();
            pack.entries.truncate(1);
        }
        let raw = self.garbage_bytes(500);
        let forged = Claim { author: self.full_slot(), ..self.claim() };
        let mut unreadable = self.put_pack(self.random(), session, &key, forged, self.sealed(&key, &[raw]))?;
        unreadable.claim = self.claim();
        let raw = self.garbage_bytes(500);
        let unused = self.put_pack(self.random(), session, &key, self.claim(), self.sealed(&key, &[raw]))?;
        lies.extend([unreadable, unused]);
        let mut keys: Vec<WrappedKey> = keys.into_values().collect();
        keys.push(key.wrapped.clone());
        self.put_index(self.late(), keys, lies).map(|lie| vec![lie])
    }

    /// A recipe that lists `n` times a recipe of `n` chunks that are nowhere.
    pub fn many_missing(&self, n: usize) -> Result<Lies> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let lower =
            encode_entries(&(0..n).map(|_| RecipeEntry { id: BlobId(self.random()), len: 5 }).collect::<Vec<_>>());
        let upper = encode_entries(&vec![self.entry(&lower); n]);
        self.store(session, &key, &[lower, upper.clone()])?;
        let bytes = (n * n * 5) as u64;
        let part = self.part(bytes, Recipe { depth: 2, chunks: vec![self.entry(&upper)] });
        self.publish(session, &key, self.lie(inline_list(vec![part]))).map(|id| vec![vec![id.to_string()]])
    }

    /// So many snapshots that lack the same `n` chunks.
    pub fn many_that_lack(&self, snapshots: usize, n: usize) -> Result<Vec<SnapshotId>> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let missing: Vec<RecipeEntry> = (0..n).map(|_| RecipeEntry { id: BlobId(self.random()), len: 5 }).collect();
        let recipe = encode_entries(&missing);
        let entry = self.entry(&recipe);
        self.store(session, &key, &[recipe])?;
        let publish = |_| {
            let part = self.part(5 * n as u64, Recipe { depth: 1, chunks: vec![entry] });
            self.publish(SnapshotId(self.random()), &key, self.lie(inline_list(vec![part])))
        };
        (0..snapshots).map(publish).collect()
    }

    pub fn manifest_of_missing_chunks(&self) -> Result<Lies> {
        Ok(vec![self.publish_missing(|_| {})?])
    }

    /// The chunks of a bomb from the bottom: `bottom`, then levels that list the one below a thousand times.
    fn bomb(bottom: Vec<u8>, entry: impl Fn(&[u8]) -> RecipeEntry) -> Vec<Vec<u8>> {
        let mut levels = vec![bottom];
        for _ in 0..BOMB_DEPTH {
            let below = entry(levels.last().expect("a bottom"));
            levels.push(encode_entries(&vec![below; BOMB_ENTRIES]));
        }
        levels
    }

    /// A recipe of 10^15 chunks.
    pub fn recipe_bomb(&self) -> Result<Lies> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let levels = Self::bomb(b"x".to_vec(), |raw| self.entry(raw));
        self.store(session, &key, &levels)?;
        let top = self.entry(levels.last().expect("a top"));
        let part = self.part(1_000_000_000_000_000, Recipe { depth: BOMB_DEPTH, chunks: vec![top] });
        self.publish(session, &key, self.lie(inline_list(vec![part])))?;
        Ok(Lies::new())
    }

    /// A part that repeats one chunk so many times, behind a chunk that is nowhere if `is_missing`.
    pub fn repeated(&self, raw: Vec<u8>, times: usize, is_missing: bool) -> Result<SnapshotId> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let mut entries = vec![self.entry(&raw); times];
        if is_missing {
            entries.insert(0, RecipeEntry { id: BlobId(self.random()), len: 5 });
        }
        let bytes = entries.iter().map(|entry| u64::from(entry.len)).sum();
        let list = encode_entries(&entries);
        let recipe = Recipe { depth: 1, chunks: vec![self.entry(&list)] };
        self.store(session, &key, &[raw, list])?;
        self.publish(session, &key, self.lie(inline_list(vec![self.part(bytes, recipe)])))
    }

    /// A snapshot of `shop` that names another's as its predecessor.
    pub fn follows(&self, previous: SnapshotId) -> Result<Lies> {
        Ok(vec![self.publish_missing(|lie| lie.previous = Some(previous))?])
    }

    /// A list of 10^15 parts.
    pub fn part_list_bomb(&self) -> Result<Lies> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let chunk = b"x".to_vec();
        let part = self.part(1, Recipe { depth: 0, chunks: vec![self.entry(&chunk)] });
        let mut levels = Self::bomb(part.encode().expect("a short record"), |raw| self.entry(raw));
        let chunks = vec![self.entry(levels.last().expect("a top"))];
        levels.push(chunk);
        self.store(session, &key, &levels)?;
        let list = Listing::Recipe(Recipe { depth: BOMB_DEPTH, chunks });
        let parts = PartList { count: 1 << 24, bytes: 1 << 24, blake3: self.random(), list };
        let id = self.publish(session, &key, self.lie(parts))?;
        Ok(vec![vec![manifest::object_name(id), id.to_string()]])
    }

    /// A list, in a chunk, of two parts of 2^64 - 1 bytes without a chunk.
    pub fn endless_list(&self) -> Result<SnapshotId> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let part = || self.part(u64::MAX, Recipe { depth: 0, chunks: Vec::new() });
        let list = [part(), part()].map(|part| part.encode().expect("a short record")).concat();
        self.store(session, &key, std::slice::from_ref(&list))?;
        let listing = Listing::Recipe(Recipe { depth: 0, chunks: vec![self.entry(&list)] });
        let parts = PartList { count: 2, bytes: u64::MAX, blake3: self.random(), list: listing };
        self.publish(session, &key, self.lie(parts))
    }

    /// The chunks of a recipe of 10^15 recipe chunks that hold no entry, and its topmost chunk.
    fn hollow(&self) -> (Vec<Vec<u8>>, Recipe) {
        // An empty chunk can't be listed with its length.
        let entry = |raw: &[u8]| RecipeEntry { len: (raw.len() as u32).max(1), ..self.entry(raw) };
        let levels = Self::bomb(Vec::new(), entry);
        let chunks = vec![entry(levels.last().expect("a top"))];
        (levels, Recipe { depth: BOMB_DEPTH + 1, chunks })
    }

    pub fn hollow_recipe_bomb(&self) -> Result<Lies> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let (levels, recipe) = self.hollow();
        self.store(session, &key, &levels)?;
        self.publish(session, &key, self.lie(inline_list(vec![self.part(1_000_000, recipe)])))?;
        Ok(Lies::new())
    }

    pub fn hollow_part_list_bomb(&self) -> Result<Lies> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let (levels, recipe) = self.hollow();
        self.store(session, &key, &levels)?;
        let parts = PartList { count: 1000, bytes: 1000, blake3: self.random(), list: Listing::Recipe(recipe) };
        let id = self.publish(session, &key, self.lie(parts))?;
        Ok(vec![vec![manifest::object_name(id), id.to_string()]])
    }

    /// Two chunks a level, each a delta of both chunks of the level below: 2^62 chains, and none ends well.
    pub fn lattice_of_deltas(&self) -> Result<Lies> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let levels: Vec<[BlobId; 2]> =
            (0..=VERSION_MAX).map(|_| [BlobId(self.random()), BlobId(self.random())]).collect();
        let mut blobs = Vec::new();
        for (below, pair) in levels.windows(2).enumerate() {
            for (id, base) in pair[1].iter().flat_map(|id| pair[0].iter().map(move |base| (*id, *base))) {
                let base = Some(Base { id: base, version: below as u8 + 1 });
                let entry = BlobEntry { id, codec: Codec::Delta, raw_len: 1000, stored_len: 64, base };
                blobs.push((entry, self.garbage_bytes(64)));
            }
        }
        let pack = self.put_pack(self.random(), session, &key, self.claim(), blobs)?;
        let name = pack::object_name(pack.id);
        self.put_index(self.random(), vec![key.wrapped.clone()], vec![pack])?;
        let chunks = levels[levels.len() - 1].map(|id| RecipeEntry { id, len: 1000 }).to_vec();
        let part = self.part(2000, Recipe { depth: 0, chunks });
        let id = self.publish(session, &key, self.lie(inline_list(vec![part])))?;
        Ok(vec![vec![name], vec![id.to_string()]])
    }

    /// As [`lattice_of_deltas`](Self::lattice_of_deltas), and every chain ends well. A second pack holds copies of the
    /// topmost chunks that have no base. Returns a recipe of these.
    pub fn sound_lattice(&self) -> Result<Recipe> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let mut encoder = BlobEncoder::new(self.repo.id, 1);
        let same = self.garbage_bytes(1000);
        let raw = || [self.garbage_bytes(8), same.clone()].concat();
        let mut below = [raw(), raw()];
        let mut blobs = self.sealed(&key, &below);
        for version in 1..=VERSION_MAX {
            let level = [raw(), raw()];
            for (raw, base) in level.iter().flat_map(|raw| below.iter().map(move |base| (raw, base))) {
                let base = DeltaBase {
                    base: Base { id: self.repo.keys.hasher.id(base), version },
                    raw: Arc::new(base.clone()),
                };
                let blob = encoder.encode(self.env(), &key, self.repo.keys.hasher.id(raw), raw, &[&base]);
                let blob = blob.expect("a sound machine");
                assert_eq!(blob.entry.codec, Codec::Delta);
                blobs.push((blob.entry, blob.bytes));
            }
            below = level;
        }
        let without = Some(Base { id: BlobId(self.random()), version: 1 });
        let flawed = blobs
            .iter()
            .rev()
            .take(4)
            .map(|(entry, bytes)| (BlobEntry { base: without, ..entry.clone() }, bytes.clone()));
        let flawed = flawed.step_by(2).collect();
        for blobs in [flawed, blobs] {
            let pack = self.put_pack(self.random(), session, &key, self.claim(), blobs)?;
            self.put_index(self.random(), vec![key.wrapped.clone()], vec![pack])?;
        }
        Ok(Recipe { depth: 0, chunks: below.iter().map(|raw| self.entry(raw)).collect() })
    }

    /// Publishes a snapshot of `recipe`, whose data is stored.
    pub fn publish_recipe(&self, recipe: Recipe) -> Result<SnapshotId> {
        let (session, key) = (SnapshotId(self.random()), self.new_data_key());
        let bytes = recipe.chunks.iter().map(|entry| u64::from(entry.len)).sum();
        self.publish(session, &key, self.lie(inline_list(vec![self.part(bytes, recipe)])))
    }

    pub fn highest_sequence(&self) -> Result<Lies> {
        Ok(vec![self.publish_missing(|lie| lie.sequence = SEQUENCE_MAX)?])
    }

    pub fn highest_sequence_but_one(&self) -> Result<Lies> {
        Ok(vec![self.publish_missing(|lie| lie.sequence = SEQUENCE_MAX - 1)?])
    }

    pub fn times_far_away(&self) -> Result<Lies> {
        let times = [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX];
        times.into_iter().map(|time| self.publish_missing(|lie| lie.time = time)).collect()
    }

    /// Snapshots of other series that name each other's snapshots, and none, as predecessors.
    pub fn series_of_others(&self) -> Result<Lies> {
        let mut previous: Vec<Option<SnapshotId>> = self.repo.list_snapshots()?.into_iter().map(Some).collect();
        previous.truncate(3);
        previous.extend([Some(SnapshotId(self.random())), None]);
        let series = [("host", "mail"), ("elsewhere", "shop"), ("", "")];
        let all = previous.into_iter().flat_map(|previous| series.map(|series| (previous, series)));
        all.map(|(previous, (host, source))| {
            self.publish_missing(|lie| {
                (lie.host, lie.source) = (host.to_owned(), source.to_owned());
                lie.previous = previous;
            })
        })
        .collect()
    }

    /// A header that says other things than the body that it stands in front of.
    pub fn manifest_that_contradicts_its_header(&self) -> Result<Lies> {
        let lie = self.lie(inline_list(vec![self.missing_part()]));
        let header = Header {
            series: self.repo.keys.hasher.series("elsewhere", "mail"),
            sequence: lie.sequence + 1_000_000,
            bytes: u64::MAX,
            good_bytes: u64::MAX,
            ..self.header(&lie)
        };
        let id = self.publish_with(SnapshotId(self.random()), &self.new_data_key(), lie, &header)?;
        Ok(vec![vec![manifest::object_name(id), id.to_string()]])
    }
}
