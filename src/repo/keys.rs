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
mod data_keys;
mod epochs;
mod found;
mod key_file;
mod opening;
mod signing;
mod slots;

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use crate::env::{Env, lock};
use crate::error::{Error, Kind, Result};
use crate::format::certificate::Certificate;
use crate::format::epoch;
use crate::format::keyslot::{SecretBytes, SlotKeys, SlotKind};
use crate::id::{DataKeyId, RepoId, SlotId};
use crate::storage::Storage;
use crate::transform::hash::ChunkHasher;
use crate::transform::seal;
use crate::transform::sign::Signer;

use super::ring::{KnownSlot, RawRing, Ring};

pub use data_keys::DataKey;
pub use found::found;
pub use key_file::new_key_file;
pub use opening::open;
pub use signing::Claimed;
pub use slots::{KdfCost, NewSlot, SlotInfo, Slots, list_slots};

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
}
