//! The keys of a repository: what a passphrase or a key file opens, and what each key is for.
//!
//! ```text
//! passphrase -Argon2id-> key-encryption key -opens-> slot: chunk-id key, chunker seed, index key,
//!                                                          the slot's own sealing and signing key,
//!                                                          of a full slot: secrets of key epochs
//! session data key -HPKE-> sealed to the newest epoch's public key, in every pack and manifest
//! ```
//!
//! A write-only slot lacks the secrets of epochs. It has what writing takes. It has nothing that opens
//! a data key or signs an order, so no fault of a program can make it do so.
//!
//! | file | holds |
//! |---|---|
//! | `key_file` | the content of key files |
//! | `slots` | key slots and their certificates |
//! | `opening` | from a passphrase to open [`Keys`] |
//! | `epochs` | the begin of a key epoch |
//! | `data_keys` | the keys of sessions |
//! | `proofs` | what is computed once |
//! | `signing` | claims and orders |
//! | `found` | the first keys of a new repository |
//!
//! Which epochs and certificates count decides [`super::ring`].
mod data_keys;
mod epochs;
mod found;
mod key_file;
mod opening;
mod proofs;
mod signing;
mod slots;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use crate::env::{Env, lock};
use crate::error::{Error, Kind, Result};
use crate::format::certificate::Certificate;
use crate::format::epoch::{self, CERTIFICATES_MAX};
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
pub use proofs::Proofs;
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
    /// Slots whose certificates are read by name.
    wanted: Mutex<BTreeSet<SlotId>>,
    opened: Mutex<HashMap<DataKeyId, seal::SealKey>>,
    proofs: Arc<Proofs>,
}

/// The keys that repositories share when they name and cut chunks alike.
#[derive(Clone)]
pub struct SharedKeys {
    chunk_id: SecretBytes,
    chunker_seed: SecretBytes,
    index: SecretBytes,
}

impl SharedKeys {
    /// Generates random keys.
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
    /// Returns keys that name and cut chunks as these do, with an index key of their own.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot.
    pub fn like(&self, env: &dyn Env) -> Result<SharedKeys> {
        self.require_full("making a repository like this one")?;
        Ok(SharedKeys { index: SharedKeys::generate(env).index, ..self.shared() })
    }

    /// Returns the keys for a twin of this repository, whose slots and epochs are its own.
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

    /// Returns true if the same bytes have the same chunk id in both repositories.
    pub fn names_alike(&self, other: &Self) -> bool {
        self.plain.chunk_id == other.plain.chunk_id
    }

    /// Returns true if a blob that is sealed in one repository opens in the other under the same data
    /// key: both have one id and one index key.
    pub fn opens_alike(&self, other: &Self) -> bool {
        self.repo == other.repo && self.plain.index == other.plain.index && self.names_alike(other)
    }

    fn new(repo: RepoId, slot: SlotId, plain: SlotKeys, ring: Ring) -> Self {
        let hasher = ChunkHasher::new(plain.chunk_id.0);
        let index = seal::SealKey::new(&plain.index.0);
        let signer = Signer::new(&plain.signing.0);
        Self {
            repo,
            slot,
            plain,
            hasher,
            index,
            signer,
            ring: Mutex::new(ring),
            wanted: Mutex::default(),
            opened: Mutex::default(),
            proofs: Arc::default(),
        }
    }

    /// Shares what was computed with other keys of the repository: it changes no answer, only the work.
    #[must_use]
    pub fn sharing(self, proofs: &Arc<Proofs>) -> Self {
        Self { proofs: Arc::clone(proofs), ..self }
    }

    /// Returns the id of the repository.
    pub fn repo(&self) -> RepoId {
        self.repo
    }

    /// Returns the slot that was opened.
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// Returns the kind of the opened slot.
    pub fn kind(&self) -> SlotKind {
        if self.plain.epochs.is_empty() { SlotKind::WriteOnly } else { SlotKind::Full }
    }

    /// Returns the seed of the chunker.
    pub fn chunker_seed(&self) -> &[u8; 32] {
        &self.plain.chunker_seed.0
    }

    /// Returns a copy of the key ring as it was read last.
    pub fn ring(&self) -> Ring {
        lock(&self.ring).clone()
    }

    /// From now on the certificates of these slots are read by name, too: a listing may be cut.
    pub fn look_for(&self, slots: impl IntoIterator<Item = SlotId>) {
        let mut wanted = lock(&self.wanted);
        for slot in slots {
            if wanted.len() < CERTIFICATES_MAX {
                wanted.insert(slot);
            }
        }
    }

    /// Reads the key ring again, for slots and epochs that are new.
    ///
    /// # Errors
    /// `Damaged`, `Storage`.
    pub fn refresh_ring(&self, storage: &dyn Storage) -> Result<()> {
        let known = self.newest_epoch();
        let raw = RawRing::read(storage)?;
        let wanted = lock(&self.wanted).clone();
        let ring = Ring::judge(raw, storage, self.repo, &self.plain, self.slot, &wanted)?;
        let mut before = lock(&self.ring);
        if ring.newest().0 < before.newest().0 && before.newest().0 > known {
            // Another thread has read a newer state.
            return Ok(());
        }
        ring.require_all_of(&before)?;
        *before = ring;
        Ok(())
    }

    /// Returns the number of the newest key epoch that was read.
    pub fn newest_epoch(&self) -> u32 {
        lock(&self.ring).newest().0
    }

    /// Reads the key ring again if the next epoch exists. It is asked for by name: a listing may be old. Returns true
    /// if one counts.
    ///
    /// # Errors
    /// As [`refresh_ring`](Self::refresh_ring).
    pub fn refresh_if_newer(&self, storage: &dyn Storage) -> Result<bool> {
        let before = self.newest_epoch();
        let Some(next) = lock(&self.ring).next() else { return Ok(false) };
        if storage.stat(&epoch::object_name(next))?.is_none() {
            return Ok(false);
        }
        self.refresh_ring(storage)?;
        Ok(self.newest_epoch() > before)
    }

    /// Returns a slot's name for messages: the first 8 digits of its id, its kind and its label.
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

    /// Returns true if a certificate that counts says that the slot is full.
    pub fn is_full(&self, slot: SlotId) -> bool {
        self.known_slot(slot).is_some_and(|known| known.certificate.kind == SlotKind::Full)
    }

    /// Returns the certificate of a slot, if one counts.
    pub fn known_slot(&self, slot: SlotId) -> Option<KnownSlot> {
        lock(&self.ring).slots.get(&slot).cloned()
    }

    /// Returns an error if the slot is write-only. `work` is the subject of "… needs a full key".
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
