//! The repository's keys: what a passphrase opens, and what each key is for.
//!
//! ```text
//! passphrase -Argon2id-> key-encryption key -opens-> slot: chunk-id key, chunker seed, index key,
//!                                                          and per epoch a public and a secret key
//! session data key -HPKE-> sealed to the newest epoch's public key, in every pack and manifest
//! ```
//!
//! A write-only slot lacks the secret keys. It can do all that writing takes; there is nothing in it
//! that could open a data key, so no mistake of a program can make it read.

use std::collections::HashMap;
use std::sync::Mutex;

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::env::{Env, lock};
use crate::error::{Error, Kind, Result};
use crate::format::keyslot::{self, Epoch, Kdf, KeySlot, SecretBytes, SlotKeys, SlotKind};
use crate::format::limits::{KEY_SLOT_BYTES_MAX, NAME_BYTES_MAX};
use crate::format::pack::WrappedKey;
use crate::format::{Malformed, ObjectKind, associated_data};
use crate::id::{DataKeyId, RepoId, SlotId};
use crate::storage::Storage;
use crate::transform::hash::{ChunkHasher, data_key_id, slot_mac};
use crate::transform::{kdf, seal};

use super::parallel::{at_once, each};
use super::refuse_unreadable;

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
    opened: Mutex<HashMap<DataKeyId, seal::SealKey>>,
}

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
    /// What opens it.
    pub passphrase: &'s [u8],
    /// What opening it costs.
    pub cost: KdfCost,
}

/// What a listing of slots tells, without opening any.
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

impl Keys {
    /// Fresh keys for a new repository.
    pub fn generate(env: &dyn Env, repo: RepoId, slot: SlotId) -> Self {
        let random = || {
            let mut bytes = [0; 32];
            env.fill_random(&mut bytes);
            bytes
        };
        let (public, secret) = seal::generate_key_pair(env);
        let epoch = Epoch { number: 1, created: env.now(), public, secret: Some(SecretBytes(*secret)) };
        Self::new(
            repo,
            slot,
            SlotKeys { chunk_id: random(), chunker_seed: random(), index: random(), epochs: vec![epoch] },
        )
    }

    /// Keys for a new repository that names and cuts chunks as this one does, and shares nothing else with it.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot.
    pub fn like(&self, env: &dyn Env, repo: RepoId, slot: SlotId) -> Result<Self> {
        self.require_full("making a repository like this one")?;
        let mut plain = Self::generate(env, repo, slot).plain.clone();
        plain.chunk_id = self.plain.chunk_id;
        plain.chunker_seed = self.plain.chunker_seed;
        Ok(Self::new(repo, slot, plain))
    }

    /// All of these keys, for a twin of this repository.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot.
    pub fn twin(&self, slot: SlotId) -> Result<Self> {
        self.require_full("making a twin of this repository")?;
        Ok(Self::new(self.repo, slot, self.plain.clone()))
    }

    /// True when both name chunks alike: the same bytes have the same id in both repositories.
    pub fn names_alike(&self, other: &Self) -> bool {
        self.plain.chunk_id == other.plain.chunk_id
    }

    /// True when what is sealed in one repository opens in the other: one id, one index key.
    pub fn opens_alike(&self, other: &Self) -> bool {
        self.repo == other.repo && self.plain.index == other.plain.index && self.names_alike(other)
    }

    fn new(repo: RepoId, slot: SlotId, plain: SlotKeys) -> Self {
        let hasher = ChunkHasher::new(plain.chunk_id);
        let index = seal::SealKey::new(&plain.index);
        Self { repo, slot, plain, hasher, index, opened: Mutex::default() }
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
        if self.plain.epochs.iter().any(|e| e.secret.is_some()) { SlotKind::Full } else { SlotKind::WriteOnly }
    }

    /// The chunker's seed.
    pub fn chunker_seed(&self) -> &[u8; 32] {
        &self.plain.chunker_seed
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

    /// A fresh data key, sealed to the newest epoch.
    ///
    /// # Errors
    /// `Damaged` when the slot's public key is no key.
    pub fn new_data_key(&self, env: &dyn Env) -> Result<DataKey> {
        let mut plain = Zeroizing::new([0; 32]);
        env.fill_random(plain.as_mut_slice());
        let id = data_key_id(&plain);
        let epoch = self.plain.epochs.last().expect("decoded slots have an epoch");
        let (kem_output, sealed) = seal::wrap_key(env, &epoch.public, &self.data_key_name(id, epoch.number), &plain)
            .map_err(|e| Error::damaged(keyslot::object_name(self.slot), e))?;
        Ok(DataKey {
            key: seal::SealKey::new(&plain),
            wrapped: WrappedKey { id, epoch: epoch.number, kem_output, sealed },
        })
    }

    /// Opens a data key; remembers it.
    ///
    /// # Errors
    /// `WrongKey` for a write-only slot; `Damaged` when it does not open or is not the key it says.
    pub fn open_data_key(&self, wrapped: &WrappedKey) -> Result<seal::SealKey> {
        let mut opened = lock(&self.opened);
        if let Some(key) = opened.get(&wrapped.id) {
            return Ok(key.clone());
        }
        self.require_full("reading stored data")?;
        let bad = |what: &str| Error::damaged(format!("data key {}", wrapped.id), what);
        let epoch = self
            .plain
            .epochs
            .iter()
            .find(|e| e.number == wrapped.epoch)
            .ok_or_else(|| bad("of an unknown key epoch"))?;
        let secret = epoch.secret.as_ref().ok_or_else(|| bad("of an epoch whose secret key this slot lacks"))?;
        let plain = seal::unwrap_key(
            &secret.0,
            &self.data_key_name(wrapped.id, wrapped.epoch),
            &wrapped.kem_output,
            &wrapped.sealed,
        )
        .filter(|key| data_key_id(key) == wrapped.id)
        .ok_or_else(|| bad("does not open: altered, or from another repository"))?;
        let key = seal::SealKey::new(&plain);
        opened.insert(wrapped.id, key.clone());
        Ok(key)
    }

    /// Associated data of a wrapped data key: its id and epoch.
    fn data_key_name(&self, id: DataKeyId, epoch: u32) -> Vec<u8> {
        let mut name = id.0.to_vec();
        name.extend_from_slice(&epoch.to_le_bytes());
        associated_data(ObjectKind::DataKey, self.repo, &name)
    }

    /// Tells whether a slot of this repository is as it was written.
    ///
    /// # Errors
    /// `Damaged`, naming the slot.
    pub fn verify_slot(&self, id: SlotId, slot: &KeySlot) -> Result<()> {
        if slot.repository != self.repo {
            return Err(Error::damaged(keyslot::object_name(id), "a key slot of another repository")
                .hint(format!("`alluvium key remove {id}` removes it")));
        }
        if self.mac(id, slot) == slot.mac {
            Ok(())
        } else {
            Err(Error::damaged(keyslot::object_name(id), "altered since it was written"))
        }
    }

    fn mac(&self, id: SlotId, slot: &KeySlot) -> [u8; 32] {
        slot_mac(&self.plain.index, &slot.authenticated(id))
    }

    /// Writes a slot with these keys for `passphrase`, exclusively. A write-only slot gets no secret
    /// keys; a write-only slot can make no slot at all.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot; `Storage`.
    pub fn write_slot(&self, storage: &dyn Storage, env: &dyn Env, id: SlotId, new: NewSlot<'_>) -> Result<()> {
        let NewSlot { kind, label, passphrase, cost } = new;
        self.require_full("making a key slot")?;
        if label.len() > NAME_BYTES_MAX {
            return Err(Error::new(
                Kind::Usage,
                format!("the label has {} bytes, the limit is {NAME_BYTES_MAX}", label.len()),
            ));
        }
        let mut salt = [0; 16];
        env.fill_random(&mut salt);
        let KdfCost { memory_kib, passes, lanes } = cost;
        let kdf = Kdf { name: "argon2id".to_owned(), memory_kib, passes, lanes, salt };
        let mut keys = self.plain.clone();
        if kind == SlotKind::WriteOnly {
            keys.epochs.iter_mut().for_each(|e| e.secret = None);
        }
        let wrapping = seal::SealKey::new(&*derive(passphrase, &kdf)?);
        let plain = Zeroizing::new(keys.encode());
        let sealed = wrapping.seal(env, &slot_name(self.repo, id, kind), &plain);
        let mut slot = KeySlot::new(self.repo, kind, label.to_owned(), env.now(), kdf, sealed);
        slot.mac = self.mac(id, &slot);
        let (name, object) = (keyslot::object_name(id), slot.encode());
        refuse_unreadable(&name, &object, KEY_SLOT_BYTES_MAX)?;
        storage.put_new(&name, &object)
    }
}

/// Associated data of a slot: its id, and what it allows, so that the plain word can't lie.
fn slot_name(repo: RepoId, id: SlotId, kind: SlotKind) -> Vec<u8> {
    let mut name = id.0.to_vec();
    name.push(match kind {
        SlotKind::Full => 1,
        SlotKind::WriteOnly => 2,
    });
    associated_data(ObjectKind::KeySlot, repo, &name)
}

fn derive(passphrase: &[u8], kdf: &Kdf) -> Result<Zeroizing<[u8; 32]>> {
    kdf::derive(passphrase, &kdf.salt, kdf.memory_kib, kdf.passes, kdf.lanes).map_err(|e| Error::new(Kind::Failed, e))
}

/// The slots of a repository: the readable ones, and what is wrong with the others.
pub type Slots = Vec<(SlotId, Result<KeySlot>)>;

/// Reads every slot, in the order in which they were made.
///
/// # Errors
/// `Storage`.
pub fn list_slots(storage: &dyn Storage) -> Result<Slots> {
    let listed = storage.list("keys/")?;
    let ids: Vec<SlotId> = listed.iter().filter_map(|o| o.name.strip_prefix("keys/")?.parse().ok()).collect();
    let read = each(at_once(storage), &ids, |id| {
        let name = keyslot::object_name(*id);
        KeySlot::decode(&storage.get(&name, KEY_SLOT_BYTES_MAX)?).map_err(|e: Malformed| e.in_object(&name))
    });
    let mut slots: Vec<_> = ids.into_iter().zip(read).collect();
    slots.sort_by_key(|(id, slot)| (slot.as_ref().map(|s| s.created).unwrap_or_default(), *id));
    Ok(slots)
}

/// Opens the slot that `passphrase` belongs to, of those at `location`.
///
/// # Errors
/// `WrongKey` when no slot opens (one derivation each), `Damaged` when there is none to try.
pub fn open(slots: Slots, location: &str, repo: RepoId, passphrase: &[u8]) -> Result<Keys> {
    let (mut tried, mut problem) = (0, None);
    for (id, slot) in slots {
        let name = keyslot::object_name(id);
        let slot = match slot {
            Ok(slot) if slot.repository == repo => slot,
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
        let wrapping = seal::SealKey::new(&*derive(passphrase, &slot.kdf)?);
        if let Some(plain) = wrapping.open(&slot_name(repo, id, slot.kind), &slot.sealed).map(Zeroizing::new) {
            let keys = Keys::new(repo, id, SlotKeys::decode(&plain).map_err(|e| e.in_object(&name))?);
            keys.verify_slot(id, &slot)?;
            return Ok(keys);
        }
    }
    if tried == 0 {
        return Err(problem
            .unwrap_or_else(|| Error::damaged("keys/", "there is no key slot"))
            .hint("without a key slot nobody can read this repository: bring one back from a copy"));
    }
    let error = Error::new(Kind::WrongKey, format!("the passphrase opens no key slot of {location}"));
    Err(match problem {
        Some(problem) => {
            error.because(problem).hint("a key slot is damaged; if it was yours, use the passphrase of another slot")
        }
        None => error.hint("check the passphrase; without it nobody can read this repository, its makers included"),
    })
}
