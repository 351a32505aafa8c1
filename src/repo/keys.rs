//! The repository's keys: what a passphrase or a key file opens, and what each key is for.
//!
//! ```text
//! passphrase -Argon2id-> key-encryption key -opens-> slot: chunk-id key, chunker seed, index key,
//!                                                          the slot's own sealing and signing key,
//!                                                          of a full slot: secrets of key epochs
//! session data key -HPKE-> sealed to the newest epoch's public key, in every pack and manifest
//! ```
//!
//! A write-only slot lacks the secrets of epochs. It can do all that writing takes; there is nothing
//! in it that could open a data key or sign an order, so no mistake of a program can make it.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::env::{Env, lock};
use crate::error::{Error, Kind, Result};
use crate::format::certificate::{self, Certificate};
use crate::format::config::Config;
use crate::format::epoch::{self, CERTIFICATES_MAX, EPOCH_MAX, Epoch, Listed, SealedSecrets};
use crate::format::keyslot::{self, EpochSecrets, Kdf, KeySlot, SecretBytes, SlotKeys, SlotKind};
use crate::format::limits::{EPOCH_BYTES_MAX, KEY_SLOT_BYTES_MAX, NAME_BYTES_MAX};
use crate::format::pack::WrappedKey;
use crate::format::signed::{Claim, Order};
use crate::format::{Malformed, ObjectKind, associated_data};
use crate::id::{DataKeyId, RepoId, SlotId};
use crate::storage::Storage;
use crate::transform::hash::{ChunkHasher, data_key_id, stream_digest};
use crate::transform::seal::Purpose;
use crate::transform::sign::{self, Signer};
use crate::transform::{kdf, seal};

use super::parallel::{at_once, each};
use super::refuse_unreadable;
use super::ring::{KnownSlot, RawRing, Ring, open_order, secrets_name};

/// What the one line of a key file begins with; 64 hexadecimal digits follow.
const KEY_FILE_MAGIC: &str = "alluvium-key-1:";

/// A new key file's content: its slot opens without Argon2id.
pub fn new_key_file(env: &dyn Env) -> Zeroizing<String> {
    let mut secret = Zeroizing::new([0; 32]);
    env.fill_random(secret.as_mut_slice());
    let mut text = Zeroizing::new(String::from(KEY_FILE_MAGIC));
    for byte in secret.iter() {
        text.push(char::from_digit(u32::from(byte >> 4), 16).expect("a digit"));
        text.push(char::from_digit(u32::from(byte & 15), 16).expect("a digit"));
    }
    text
}

/// The secret of a key file; `None` for a passphrase.
fn key_file_secret(passphrase: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let digits = passphrase.strip_prefix(KEY_FILE_MAGIC.as_bytes())?.trim_ascii_end();
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let mut secret = Zeroizing::new([0; 32]);
    if pairs.len() != secret.len() {
        return None;
    }
    for (out, pair) in secret.iter_mut().zip(pairs) {
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        *out = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(secret)
}

/// What unlocking costs. Tests lower it; people should not.
#[derive(Clone, Copy, Debug)]
pub struct KdfCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for KdfCost {
    fn default() -> Self {
        Self { memory_kib: kdf::MEMORY_KIB, passes: kdf::PASSES, lanes: kdf::LANES }
    }
}

/// The open keys of a repository.
pub struct Keys {
    repo: RepoId,
    slot: SlotId,
    plain: SlotKeys,
    /// Computes chunk ids.
    pub hasher: ChunkHasher,
    /// Seals what every slot may read: trailers, index objects, coordination.
    pub index: seal::SealKey,
    signer: Signer,
    ring: Mutex<Ring>,
    opened: Mutex<HashMap<DataKeyId, seal::SealKey>>,
    /// Digests of signatures that were verified before.
    verified: Mutex<HashSet<[u8; 32]>>,
}

/// Signatures that are remembered as verified: 4 MB.
const VERIFIED_MAX: usize = 1 << 16;

/// A session's own key, with what others need to open it.
pub struct DataKey {
    /// Seals and opens blobs and the manifest's body.
    pub key: seal::SealKey,
    /// Goes into packs, index objects and the manifest.
    pub wrapped: WrappedKey,
}

/// A slot to be made.
#[derive(Clone, Copy)]
pub struct NewSlot<'s> {
    /// What it allows.
    pub kind: SlotKind,
    /// What people call it.
    pub label: &'s str,
    /// What opens it: a passphrase, or the content of a key file.
    pub passphrase: &'s [u8],
    /// What opening it costs; of a key file nothing.
    pub cost: KdfCost,
}

/// What a listing of slots tells.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SlotInfo {
    /// The slot.
    pub id: SlotId,
    /// What it allows.
    pub kind: SlotKind,
    /// What people call it.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
}

/// What repositories that deduplicate alike share.
#[derive(Clone)]
pub struct SharedKeys {
    chunk_id: SecretBytes,
    chunker_seed: SecretBytes,
    index: SecretBytes,
}

impl SharedKeys {
    /// Fresh keys.
    pub fn generate(env: &dyn Env) -> Self {
        let random = || {
            let mut bytes = [0; 32];
            env.fill_random(&mut bytes);
            SecretBytes(bytes)
        };
        Self { chunk_id: random(), chunker_seed: random(), index: random() }
    }
}

impl Keys {
    /// Keys that name and cut chunks as these do, and share nothing else with them.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot.
    pub fn like(&self, env: &dyn Env) -> Result<SharedKeys> {
        self.require_full("making a repository like this one")?;
        Ok(SharedKeys { index: SharedKeys::generate(env).index, ..self.shared() })
    }

    /// All that a twin of this repository shares with it. Its slots and epochs are its own.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot.
    pub fn twin(&self) -> Result<SharedKeys> {
        self.require_full("making a twin of this repository")?;
        Ok(self.shared())
    }

    fn shared(&self) -> SharedKeys {
        let SlotKeys { chunk_id, chunker_seed, index, .. } = &self.plain;
        let [chunk_id, chunker_seed, index] = [chunk_id, chunker_seed, index].map(Clone::clone);
        SharedKeys { chunk_id, chunker_seed, index }
    }

    /// True when both name chunks alike: the same bytes have the same id in both repositories.
    pub fn names_alike(&self, other: &Self) -> bool {
        self.plain.chunk_id == other.plain.chunk_id
    }

    /// True when a blob that is sealed in one repository opens in the other under the same data key:
    /// one id, one index key.
    pub fn opens_alike(&self, other: &Self) -> bool {
        self.repo == other.repo && self.plain.index == other.plain.index && self.names_alike(other)
    }

    fn new(repo: RepoId, slot: SlotId, plain: SlotKeys, ring: Ring) -> Self {
        let hasher = ChunkHasher::new(plain.chunk_id.0);
        let index = seal::SealKey::new(&plain.index.0);
        let signer = Signer::new(&plain.signing.0);
        let (opened, verified) = (Mutex::default(), Mutex::default());
        Self { repo, slot, plain, hasher, index, signer, ring: Mutex::new(ring), opened, verified }
    }

    /// The repository that they belong to.
    pub fn repo(&self) -> RepoId {
        self.repo
    }

    /// The slot that was opened.
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// What the opened slot allows.
    pub fn kind(&self) -> SlotKind {
        if self.plain.epochs.is_empty() { SlotKind::WriteOnly } else { SlotKind::Full }
    }

    /// The chunker's seed.
    pub fn chunker_seed(&self) -> &[u8; 32] {
        &self.plain.chunker_seed.0
    }

    /// The key ring as it is known here.
    pub fn ring(&self) -> Ring {
        lock(&self.ring).clone()
    }

    /// Reads the key ring again: somebody added a slot or began an epoch.
    ///
    /// # Errors
    /// `Damaged`, `Storage`.
    pub fn refresh_ring(&self, storage: &dyn Storage) -> Result<()> {
        let known = self.newest_epoch();
        let raw = RawRing::read(storage)?;
        let ring = Ring::judge(raw, storage, self.repo, &self.plain, self.slot, known)?;
        let mut before = lock(&self.ring);
        if ring.newest().0 < before.newest().0 && before.newest().0 > known {
            // Another thread has read it later.
            return Ok(());
        }
        ring.require_all_of(&before)?;
        *before = ring;
        Ok(())
    }

    /// The number of the newest key epoch that is known here.
    pub fn newest_epoch(&self) -> u32 {
        lock(&self.ring).newest().0
    }

    /// Reads the key ring again if the storage lists an epoch that is newer than the newest known. True
    /// when there is one.
    ///
    /// # Errors
    /// As [`refresh_ring`](Self::refresh_ring).
    pub fn refresh_if_newer(&self, storage: &dyn Storage) -> Result<bool> {
        let before = self.newest_epoch();
        let listed = storage.list(epoch::PREFIX)?;
        let mut numbers = listed.iter().filter_map(|o| epoch::number_of(&o.name));
        if !numbers.any(|number| lock(&self.ring).is_news(number)) {
            return Ok(false);
        }
        self.refresh_ring(storage)?;
        Ok(self.newest_epoch() > before)
    }

    /// A slot as people read it: the beginning of its id, and its label.
    pub fn slot_name(&self, slot: SlotId) -> String {
        let id = slot.to_string();
        match self.known_slot(slot).map(|known| known.certificate) {
            Some(Certificate { kind, label, .. }) if label.is_empty() => format!("{} ({})", &id[..8], kind.word()),
            Some(Certificate { kind, label, .. }) => {
                format!("{} ({}, `{}`)", &id[..8], kind.word(), label.escape_debug())
            }
            None => format!("{} (unknown)", &id[..8]),
        }
    }

    /// True when the ring knows the slot as a full one.
    pub fn is_full(&self, slot: SlotId) -> bool {
        self.known_slot(slot).is_some_and(|known| known.certificate.kind == SlotKind::Full)
    }

    /// What the ring says of a slot.
    pub fn known_slot(&self, slot: SlotId) -> Option<KnownSlot> {
        lock(&self.ring).slots.get(&slot).cloned()
    }

    /// Refuses what needs reading when the slot is write-only; `work` completes "… needs a full key".
    ///
    /// # Errors
    /// `WrongKey`.
    pub fn require_full(&self, work: &str) -> Result<()> {
        match self.kind() {
            SlotKind::Full => Ok(()),
            SlotKind::WriteOnly => Err(Error::new(Kind::WrongKey, format!("{work} needs a full key, this passphrase opens a write-only slot"))
                .hint("a write-only slot can take snapshots and nothing else; use a passphrase of a full slot (`alluvium key list`)")),
        }
    }

    // ---- Data keys ----

    /// A fresh data key, sealed to the newest epoch.
    ///
    /// # Errors
    /// `Damaged` when the epoch's public key is no key.
    pub fn new_data_key(&self, env: &dyn Env) -> Result<DataKey> {
        let mut plain = Zeroizing::new([0; 32]);
        env.fill_random(plain.as_mut_slice());
        let wrapped = self.wrap_data_key(env, &plain)?;
        Ok(DataKey { key: seal::SealKey::new(&plain), wrapped })
    }

    /// Seals a data key to the newest epoch.
    fn wrap_data_key(&self, env: &dyn Env, plain: &[u8; 32]) -> Result<WrappedKey> {
        let id = data_key_id(plain);
        let ring = lock(&self.ring);
        let (number, known) = ring.newest();
        let associated = self.data_key_name(id, number);
        let (kem_output, sealed) = seal::wrap(env, Purpose::DataKey, &known.epoch.public, &associated, plain)
            .map_err(|e| Error::damaged(epoch::object_name(number), e))?;
        let sealed = sealed.try_into().expect("a sealed key is 48 bytes");
        Ok(WrappedKey { id, epoch: number, kem_output, sealed })
    }

    /// A data key of another repository, sealed to the newest epoch of this one.
    ///
    /// # Errors
    /// As [`open_data_key`](Self::open_data_key) of `from`.
    pub fn take_over_data_key(&self, env: &dyn Env, from: &Self, wrapped: &WrappedKey) -> Result<WrappedKey> {
        let plain = from.unwrap_data_key(wrapped)?;
        self.wrap_data_key(env, &plain)
    }

    /// Opens a data key; remembers it.
    ///
    /// # Errors
    /// `WrongKey` for a write-only slot; `Damaged` when it does not open or is not the key it says.
    pub fn open_data_key(&self, wrapped: &WrappedKey) -> Result<seal::SealKey> {
        if let Some(key) = lock(&self.opened).get(&wrapped.id) {
            return Ok(key.clone());
        }
        let key = seal::SealKey::new(&*self.unwrap_data_key(wrapped)?);
        lock(&self.opened).insert(wrapped.id, key.clone());
        Ok(key)
    }

    /// Opens a wrapped data key as it is, whatever is remembered of its id.
    ///
    /// # Errors
    /// As [`open_data_key`](Self::open_data_key).
    pub fn verify_data_key(&self, wrapped: &WrappedKey) -> Result<()> {
        self.unwrap_data_key(wrapped).map(drop)
    }

    /// The data key, if it was opened before.
    pub fn opened_data_key(&self, id: DataKeyId) -> Option<seal::SealKey> {
        lock(&self.opened).get(&id).cloned()
    }

    fn unwrap_data_key(&self, wrapped: &WrappedKey) -> Result<Zeroizing<[u8; 32]>> {
        self.require_full("reading stored data")?;
        let bad = |what: &str| Error::damaged(format!("data key {}", wrapped.id), what);
        let ring = lock(&self.ring);
        let epoch = ring.epochs.get(&wrapped.epoch).ok_or_else(|| bad("of an unknown key epoch"))?;
        let secrets = epoch.secrets.as_ref();
        let secret = secrets.ok_or_else(|| bad("of a key epoch whose secret this slot was not given"))?;
        let associated = self.data_key_name(wrapped.id, wrapped.epoch);
        let (kem_output, sealed) = (&wrapped.kem_output, &wrapped.sealed);
        let opened = seal::unwrap(Purpose::DataKey, &secret.secret.0, &associated, kem_output, sealed);
        let key = opened.and_then(|plain| Some(Zeroizing::new(<[u8; 32]>::try_from(&plain[..]).ok()?)));
        key.filter(|key| data_key_id(key) == wrapped.id)
            .ok_or_else(|| bad("does not open: altered, or from another repository"))
    }

    /// Associated data of a wrapped data key: its id and epoch.
    fn data_key_name(&self, id: DataKeyId, epoch: u32) -> Vec<u8> {
        let mut name = id.0.to_vec();
        name.extend_from_slice(&epoch.to_le_bytes());
        associated_data(ObjectKind::DataKey, self.repo, &name)
    }

    // ---- Claims and orders ----

    /// Signs `content` as this slot's claim and seals it. `bound` is what the signature and the seal
    /// are bound to: the object's name, and more where the format says so.
    pub fn seal_claim(&self, env: &dyn Env, kind: ObjectKind, bound: &[u8], content: &[u8]) -> Vec<u8> {
        self.seal_claimed(env, self.claim(env), kind, bound, content)
    }

    /// This slot's claim, made now.
    pub fn claim(&self, env: &dyn Env) -> Claim {
        Claim { author: self.slot, time: env.now().as_second() }
    }

    /// As [`seal_claim`](Self::seal_claim), under a claim that was made before.
    pub fn seal_claimed(&self, env: &dyn Env, claim: Claim, kind: ObjectKind, bound: &[u8], content: &[u8]) -> Vec<u8> {
        let signature = self.signer.sign(&claim.message(kind, self.repo, bound, content));
        let plain = claim.encode(&signature, content);
        self.index.seal(env, &associated_data(kind, self.repo, bound), &plain)
    }

    /// Opens and verifies a claim. `name` is the object's, for messages.
    ///
    /// # Errors
    /// `Damaged` when it does not open; forged when no known slot has signed it.
    pub fn open_claim(&self, kind: ObjectKind, name: &str, bound: &[u8], sealed: &[u8]) -> Result<Claimed> {
        let plain = self
            .index
            .open(&associated_data(kind, self.repo, bound), sealed)
            .ok_or_else(|| Error::damaged(name, "does not open: altered, swapped, or from another repository"))?;
        let (claim, signature, content) = Claim::decode(&plain).map_err(|e| e.in_object(name))?;
        let Some(known) = self.known_slot(claim.author) else {
            return Ok(Claimed::Unknown(claim.author));
        };
        let message = claim.message(kind, self.repo, bound, content);
        let public = known.certificate.signing;
        if !self.is_verified(&public, &message, &signature) {
            let what = format!("slot {} has not signed it", claim.author);
            return Err(Error::forged(name, what));
        }
        Ok(Claimed::By(claim, content.to_vec()))
    }

    fn is_verified(&self, public: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        let digest = stream_digest(&[&public[..], signature, message].concat());
        if lock(&self.verified).contains(&digest) {
            return true;
        }
        let verified = sign::verify(public, message, signature);
        if verified {
            let mut known = lock(&self.verified);
            if known.len() >= VERIFIED_MAX {
                known.clear();
            }
            known.insert(digest);
        }
        verified
    }

    /// Signs `content` with the newest epoch's authority and seals it: an order.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot, or from one that was not given the epoch's secrets.
    pub fn seal_order(&self, env: &dyn Env, kind: ObjectKind, name: &str, content: &[u8]) -> Result<Vec<u8>> {
        self.require_full("signing an order")?;
        let (number, authority) = {
            let ring = lock(&self.ring);
            let (number, known) = ring.newest();
            let secrets = known.secrets.as_ref().ok_or_else(|| no_secrets(number))?;
            (number, Signer::new(&secrets.authority.0))
        };
        let sealer = Sealer { env, repo: self.repo, index: &self.index };
        Ok(sealer.order(number, &authority, kind, name, content))
    }

    /// Opens and verifies an order.
    ///
    /// # Errors
    /// `Damaged` when it does not open; forged when the epoch that it names has not signed it.
    pub fn open_order(&self, kind: ObjectKind, name: &str, bytes: &[u8]) -> Result<(Order, Vec<u8>)> {
        let signed = open_order(&self.index, self.repo, kind, name, bytes)?;
        let authority = lock(&self.ring).authority(signed.order.epoch, name)?;
        signed.verify(self.repo, kind, name, &authority)?;
        Ok((signed.order, signed.content))
    }

    // ---- Slots and epochs ----

    /// Makes a slot for a passphrase or key file: its certificate first, then the slot, each
    /// exclusively. A write-only slot gets no secrets of epochs. Afterwards the slot counts in the
    /// newest epoch there is.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot; `Usage`; `Storage`; `Busy` when somebody else began an epoch
    /// meanwhile, without this slot.
    pub fn write_slot(&self, storage: &dyn Storage, env: &dyn Env, id: SlotId, new: NewSlot<'_>) -> Result<()> {
        self.require_full("making a key slot")?;
        self.refresh_ring(storage)?;
        let ring = self.ring();
        if ring.is_cut || ring.slots.len() >= CERTIFICATES_MAX {
            return Err(too_many_certificates());
        }
        let secrets = ring.epochs.values().map(|known| known.secrets.clone());
        let epochs: Option<Vec<EpochSecrets>> = secrets.collect();
        let epochs = epochs.ok_or_else(|| no_secrets(ring.newest().0))?;
        let (number, _) = ring.newest();
        let authority = Signer::new(&epochs.last().expect("a first epoch").authority.0);
        let shared = self.shared();
        let made = MadeSlot::make(env, self.repo, id, new, &shared, self.plain.authority, epochs)?;
        let sealer = Sealer { env, repo: self.repo, index: &self.index };
        made.write(storage, &sealer, number, &authority)?;
        self.settle_slot(storage, number, made)
    }

    /// Looks whether a slot counts that was certified in the epoch `number`: somebody may have begun a
    /// later one before its certificate was there to be listed, or its key slot to get the secrets.
    fn settle_slot(&self, storage: &dyn Storage, number: u32, made: MadeSlot) -> Result<()> {
        self.refresh_ring(storage)
            .map_err(|e| e.during("the new key slot was written, and `alluvium key list` shows whether it counts"))?;
        let MadeSlot { id, certificate, .. } = made;
        let digest = stream_digest(&certificate.encode());
        let names = [keyslot::object_name(id), certificate::object_name(id)];
        let mut ring = lock(&self.ring);
        let later: Vec<&Epoch> = ring.epochs.range(number + 1..).map(|(_, known)| &known.epoch).collect();
        let is_listed = |epoch: &&Epoch| epoch.certificates.contains(&Listed { slot: id, digest });
        let has_secrets =
            |epoch: &&Epoch| certificate.kind == SlotKind::WriteOnly || epoch.secrets.iter().any(|s| s.slot == id);
        let counts = later.iter().all(is_listed);
        if counts && later.iter().all(has_secrets) && !ring.is_cut {
            ring.slots.insert(id, KnownSlot { certificate, digest });
            return Ok(());
        }
        let what = if ring.is_cut {
            "there are too many certificates meanwhile: the new key slot does not count"
        } else {
            "somebody else began a key epoch meanwhile, without the new key slot: it does not count"
        };
        drop(ring);
        // The passphrase opens nothing then. A certificate that an epoch lists stays.
        let useless = if counts { &names[..1] } else { &names[..] };
        let is_gone = useless.iter().map(|name| storage.delete(name)).all(|deleted| deleted.is_ok());
        let hint = if is_gone {
            "run the command again".to_owned()
        } else {
            format!("delete {}, then run the command again", useless.join(" and "))
        };
        Err(Error::new(Kind::Busy, what).hint(hint))
    }

    /// Begins a new key epoch: what is stored from now on opens with its secrets alone, which are
    /// sealed to the full slots `to`. Returns its number, which is the next: a successor of an epoch
    /// has one name, and whoever takes it first is the successor for ever.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot; `Storage`; `Busy` when somebody else began one meanwhile;
    /// `Damaged` when an object that does not count has taken the name.
    pub fn begin_epoch(&self, storage: &dyn Storage, env: &dyn Env, to: &[SlotId]) -> Result<u32> {
        self.require_full("beginning a key epoch")?;
        self.refresh_ring(storage)?;
        let ring = self.ring();
        let (previous, known) = ring.newest();
        let before = known.secrets.as_ref().ok_or_else(|| no_secrets(previous))?;
        if previous >= EPOCH_MAX {
            return Err(Error::new(Kind::Failed, format!("key epoch {previous} is the last that there can be")));
        }
        if ring.is_cut || ring.slots.len() > CERTIFICATES_MAX || to.len() > CERTIFICATES_MAX {
            return Err(too_many_certificates());
        }
        let number = previous + 1;
        let name = epoch::object_name(number);
        let (public, secret) = seal::generate_key_pair(env);
        let (authority, authority_secret) = Signer::generate(env);
        let plain = Zeroizing::new([&secret[..], &authority_secret[..]].concat());
        let mut certificates: Vec<Listed> =
            ring.slots.iter().map(|(slot, known)| Listed { slot: *slot, digest: known.digest }).collect();
        certificates.sort_by_key(|listed| listed.slot);
        let mut secrets = Vec::new();
        for slot in to {
            let Some(known) = ring.slots.get(slot) else { continue };
            let associated = secrets_name(self.repo, number, *slot);
            let sealing = &known.certificate.sealing;
            let (kem_output, sealed) = seal::wrap(env, Purpose::EpochSecret, sealing, &associated, &plain)
                .map_err(|e| Error::damaged(certificate::object_name(*slot), e))?;
            let sealed = sealed.try_into().expect("two secrets and a tag");
            secrets.push(SealedSecrets { slot: *slot, kem_output, sealed });
        }
        let authority = authority.public();
        let epoch = Epoch { previous, created: env.now(), public, authority, certificates, secrets };
        let sealer = Sealer { env, repo: self.repo, index: &self.index };
        let signer = Signer::new(&before.authority.0);
        let object = sealer.order(previous, &signer, ObjectKind::Epoch, &name, &epoch.encode());
        refuse_unreadable(&name, &object, EPOCH_BYTES_MAX)?;
        match storage.put_new(&name, &object) {
            Err(e) if e.kind() != Kind::AlreadyExists => return Err(e),
            _ => self.refresh_ring(storage)?,
        }
        let ring = lock(&self.ring);
        match ring.epochs.get(&number) {
            Some(known) if known.epoch.authority == authority => Ok(number),
            Some(_) => Err(Error::new(Kind::Busy, "somebody else began a key epoch meanwhile")
                .hint("run `alluvium key rotate` again if you want another one")),
            None => Err(Error::damaged(
                name,
                "has the name of the next key epoch and does not count; no key epoch was begun",
            )
            .hint(
                "if a copy of the repository has another object of this name, restore that one; else delete this one; \
                 then run `alluvium key rotate` again",
            )),
        }
    }
}

fn too_many_certificates() -> Error {
    Error::new(Kind::Failed, format!("there are too many objects in slots/: {CERTIFICATES_MAX} can count"))
        .hint("`alluvium check` names those that do not count: delete them")
}

fn no_secrets(epoch: u32) -> Error {
    let what = format!("this slot was not given the secrets of key epoch {epoch}");
    Error::new(Kind::WrongKey, what)
        .hint("it was removed, or the epoch was begun without it: use another full passphrase")
}

/// A claim that was opened.
pub enum Claimed {
    /// It is verified: who says it, and what.
    By(Claim, Vec<u8>),
    /// The ring does not know the author: it may be new.
    Unknown(SlotId),
}

/// Seals orders.
struct Sealer<'s> {
    env: &'s dyn Env,
    repo: RepoId,
    index: &'s seal::SealKey,
}

impl Sealer<'_> {
    fn order(&self, epoch: u32, authority: &Signer, kind: ObjectKind, name: &str, content: &[u8]) -> Vec<u8> {
        let order = Order { epoch };
        let signature = authority.sign(&order.message(kind, self.repo, name.as_bytes(), content));
        let plain = order.encode(&signature, content);
        let sealed = self.index.seal(self.env, &associated_data(kind, self.repo, name.as_bytes()), &plain);
        crate::format::envelope::encode(kind, &sealed)
    }
}

/// A slot that is not written yet.
struct MadeSlot {
    id: SlotId,
    object: Vec<u8>,
    certificate: Certificate,
}

impl MadeSlot {
    fn make(
        env: &dyn Env,
        repo: RepoId,
        id: SlotId,
        new: NewSlot<'_>,
        shared: &SharedKeys,
        authority: [u8; 32],
        epochs: Vec<EpochSecrets>,
    ) -> Result<Self> {
        let NewSlot { kind, label, passphrase, cost } = new;
        if label.len() > NAME_BYTES_MAX {
            return Err(Error::new(
                Kind::Usage,
                format!("the label has {} bytes, the limit is {NAME_BYTES_MAX}", label.len()),
            ));
        }
        let kdf = if key_file_secret(passphrase).is_some() {
            Kdf::KeyFile {}
        } else {
            let mut salt = [0; 16];
            env.fill_random(&mut salt);
            let KdfCost { memory_kib, passes, lanes } = cost;
            Kdf::Argon2id { memory_kib, passes, lanes, salt }
        };
        let (sealing, sealing_secret) = seal::generate_key_pair(env);
        let (signer, signing_secret) = Signer::generate(env);
        let plain = SlotKeys {
            chunk_id: shared.chunk_id.clone(),
            chunker_seed: shared.chunker_seed.clone(),
            index: shared.index.clone(),
            authority,
            sealing: SecretBytes(*sealing_secret),
            signing: SecretBytes(*signing_secret),
            epochs: if kind == SlotKind::Full { epochs } else { Vec::new() },
        };
        let key = derive(passphrase, &kdf)?.expect("the derivation was chosen for the passphrase");
        let wrapping = seal::SealKey::new(&key);
        let sealed = wrapping.seal(env, &slot_name(repo, id), &Zeroizing::new(plain.encode()));
        let object = KeySlot::new(repo, kdf, sealed).encode();
        refuse_unreadable(&keyslot::object_name(id), &object, KEY_SLOT_BYTES_MAX)?;
        let certificate = Certificate {
            kind,
            label: label.to_owned(),
            created: env.now(),
            sealing,
            signing: signer.public(),
            key: stream_digest(&object),
        };
        Ok(Self { id, object, certificate })
    }

    /// The certificate first: a slot without one could not be trusted.
    fn write(&self, storage: &dyn Storage, sealer: &Sealer<'_>, epoch: u32, authority: &Signer) -> Result<()> {
        let name = certificate::object_name(self.id);
        let content = self.certificate.encode();
        storage.put_new(&name, &sealer.order(epoch, authority, ObjectKind::Certificate, &name, &content))?;
        storage.put_new(&keyslot::object_name(self.id), &self.object)
    }
}

/// Founds a repository: a first epoch, a first full slot, and the config, which comes last: a
/// repository exists when its config does, and then it has a key.
///
/// # Errors
/// `Usage`, `Storage`; `AlreadyExists` when somebody else was faster.
pub fn found(
    storage: &dyn Storage,
    env: &dyn Env,
    repo: RepoId,
    shared: &SharedKeys,
    parameters: &crate::format::config::Parameters,
    first: NewSlot<'_>,
) -> Result<()> {
    let slot = SlotId::random(env);
    let (public, secret) = seal::generate_key_pair(env);
    let (authority, authority_secret) = Signer::generate(env);
    let epochs =
        vec![EpochSecrets { number: 1, secret: SecretBytes(*secret), authority: SecretBytes(*authority_secret) }];
    let index = seal::SealKey::new(&shared.index.0);
    let sealer = Sealer { env, repo, index: &index };
    let made = MadeSlot::make(env, repo, slot, first, shared, authority.public(), epochs)?;
    let name = epoch::object_name(1);
    let epoch = Epoch {
        previous: 0,
        created: env.now(),
        public,
        authority: authority.public(),
        certificates: Vec::new(),
        secrets: Vec::new(),
    };
    let written = (|| {
        storage.put_new(&name, &sealer.order(1, &authority, ObjectKind::Epoch, &name, &epoch.encode()))?;
        made.write(storage, &sealer, 1, &authority)?;
        let features = parameters.required_features.clone();
        let sealed = index.seal(env, &associated_data(ObjectKind::Config, repo, b"config"), &parameters.encode());
        let mut config = Config::new(repo, features, authority.public(), sealed);
        config.signature = authority.sign(&config.message());
        storage.put_new(crate::format::config::OBJECT_NAME, &config.encode())
    })();
    if written.is_err() {
        // Without a config they are nobody's. The epoch's name may be that of another's.
        for name in [keyslot::object_name(slot), certificate::object_name(slot)] {
            let _ = storage.delete(&name);
        }
    }
    written
}

/// Associated data of a slot: its id.
fn slot_name(repo: RepoId, id: SlotId) -> Vec<u8> {
    associated_data(ObjectKind::KeySlot, repo, &id.0)
}

/// The key-encryption key; `None` when the passphrase can't be meant for such a slot.
fn derive(passphrase: &[u8], kdf: &Kdf) -> Result<Option<Zeroizing<[u8; 32]>>> {
    match (kdf, key_file_secret(passphrase)) {
        (Kdf::KeyFile {}, Some(secret)) => Ok(Some(kdf::from_key_file(&secret))),
        (Kdf::Argon2id { memory_kib, passes, lanes, salt }, None) => {
            kdf::derive(passphrase, salt, *memory_kib, *passes, *lanes)
                .map(Some)
                .map_err(|e| Error::new(Kind::Failed, e))
        }
        _ => Ok(None),
    }
}

/// The slots of a repository: the readable ones with their bytes, and what is wrong with the others.
pub type Slots = Vec<(SlotId, Result<(KeySlot, Vec<u8>)>)>;

/// Reads every slot.
///
/// # Errors
/// `Storage`.
pub fn list_slots(storage: &dyn Storage) -> Result<Slots> {
    let listed = storage.list(keyslot::PREFIX)?;
    let ids: Vec<SlotId> = listed.iter().filter_map(|o| o.name.strip_prefix(keyslot::PREFIX)?.parse().ok()).collect();
    let read = each(at_once(storage), &ids, |id| {
        let name = keyslot::object_name(*id);
        let bytes = storage.get(&name, KEY_SLOT_BYTES_MAX)?;
        let slot = KeySlot::decode(&bytes).map_err(|e: Malformed| e.in_object(&name))?;
        Ok((slot, bytes))
    });
    let mut slots: Vec<_> = ids.into_iter().zip(read).collect();
    slots.sort_by_key(|(id, _)| *id);
    Ok(slots)
}

impl Keys {
    /// Verifies that a slot of this repository is as it was written, and returns its certificate.
    ///
    /// # Errors
    /// `Damaged`, naming the slot.
    pub fn verify_slot(&self, id: SlotId, slot: &KeySlot, bytes: &[u8]) -> Result<Certificate> {
        let name = keyslot::object_name(id);
        if slot.repository != self.repo {
            return Err(Error::damaged(name, "a key slot of another repository")
                .hint(format!("`alluvium key remove {id}` removes it")));
        }
        let known = self.known_slot(id).ok_or_else(|| {
            let certificate = certificate::object_name(id);
            Error::forged(&name, format!("no full slot has certified it: {certificate} is missing or does not count"))
        })?;
        if known.certificate.key == stream_digest(bytes) {
            Ok(known.certificate)
        } else {
            Err(Error::damaged(name, "altered since it was written"))
        }
    }
}

/// The slots in the order of what it costs to try them. Whoever may create objects can create slots
/// that ask for gigabytes and belong to nobody: they come last.
fn cheapest_first(mut slots: Slots) -> Slots {
    let cost = |slot: &KeySlot| match slot.kdf {
        Kdf::KeyFile {} => 0,
        Kdf::Argon2id { memory_kib, passes, .. } => u64::from(memory_kib) * u64::from(passes),
    };
    slots.sort_by_key(|(id, slot)| (slot.as_ref().map_or(0, |(slot, _)| cost(slot)), *id));
    slots
}

/// Opens the slot that `passphrase` belongs to, of those in `storage`.
///
/// # Errors
/// `WrongKey` when no slot opens (one derivation each), `Damaged` when there is none to try.
pub fn open(slots: Slots, ring: RawRing, storage: &dyn Storage, config: &Config, passphrase: &[u8]) -> Result<Keys> {
    let repo = config.repository;
    let (mut tried, mut problem, mut failed) = (0, None, None);
    for (id, slot) in cheapest_first(slots) {
        let name = keyslot::object_name(id);
        let (slot, bytes) = match slot {
            Ok((slot, bytes)) if slot.repository == repo => (slot, bytes),
            Ok(_) => {
                problem.get_or_insert(Error::damaged(
                    format!("config and {name}"),
                    "they belong to different repositories",
                ));
                continue;
            }
            Err(error) => {
                problem.get_or_insert(error);
                continue;
            }
        };
        tried += 1;
        let key = match derive(passphrase, &slot.kdf) {
            Ok(Some(key)) => key,
            Ok(None) => continue,
            // Another slot may ask for less.
            Err(error) => {
                failed.get_or_insert(error.during(&name));
                continue;
            }
        };
        let opened = seal::SealKey::new(&key).open(&slot_name(repo, id), &slot.sealed);
        let Some(plain) = opened.map(Zeroizing::new) else { continue };
        let plain = SlotKeys::decode(&plain).map_err(|e| e.in_object(&name))?;
        if plain.authority != config.authority || !sign::verify(&config.authority, &config.message(), &config.signature)
        {
            return Err(Error::damaged("config", "its plain part was altered"));
        }
        let ring = Ring::judge(ring, storage, repo, &plain, id, 0)?;
        let keys = Keys::new(repo, id, plain, ring);
        let certificate = keys.verify_slot(id, &slot, &bytes)?;
        if certificate.signing != keys.signer.public() || certificate.kind != keys.kind() {
            return Err(Error::damaged(name, "its keys are not those of its certificate"));
        }
        return Ok(keys);
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if tried == 0 {
        return Err(problem
            .unwrap_or_else(|| Error::damaged("keys/", "there is no key slot"))
            .hint("without a key slot nobody can read this repository: bring one back from a copy"));
    }
    let what = if key_file_secret(passphrase).is_some() { "key file" } else { "passphrase" };
    let error = Error::new(Kind::WrongKey, format!("the {what} opens no key slot of {}", storage.location()));
    Err(match problem {
        Some(problem) => {
            error.because(problem).hint("a key slot is damaged; if it was yours, use the passphrase of another slot")
        }
        None => error.hint("check the passphrase; without it nobody can read this repository, its makers included"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_cost_more_are_tried_later() {
        let slot = |kdf| Ok((KeySlot::new(RepoId([1; 16]), kdf, Vec::new()), Vec::new()));
        let argon2 = |memory_kib, passes| slot(Kdf::Argon2id { memory_kib, passes, lanes: 1, salt: [0; 16] });
        let slots = vec![
            argon2(4 << 20, 64),
            argon2(64 << 10, 4),
            argon2(64 << 10, 3),
            slot(Kdf::KeyFile {}),
            argon2(64 << 10, 3),
            Err(Error::damaged("keys/05", "is no key slot")),
        ];
        let slots: Slots = slots.into_iter().enumerate().map(|(n, slot)| (SlotId([n as u8; 16]), slot)).collect();
        let order: Vec<u8> = cheapest_first(slots).iter().map(|(id, _)| id.0[0]).collect();
        assert_eq!(order, [3, 5, 2, 4, 1, 0]);
    }
}
