//! Key slots: the repository's keys, wrapped under a key that a passphrase gives.
//!
//! The plain part holds what is needed to derive the key-encryption key and to list slots with their
//! ages without opening them. The sealed part holds the keys; a write-only slot simply lacks the
//! secret ones, so nothing that a program does wrong can make it read.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::config::hex;
use super::limits::{KDF_LANES_MAX, KDF_MEMORY_KIB_MAX, KDF_PASSES_MAX, NAME_BYTES_MAX};
use super::{FORMAT_VERSION, Malformed, from_json, to_json};
use crate::id::{RepoId, SlotId};

/// Says that a JSON document is a key slot.
const MAGIC: &str = "alluvium key slot";

/// The name of a slot's object.
pub fn object_name(id: SlotId) -> String {
    format!("keys/{id}")
}

/// What a slot allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotKind {
    /// Everything.
    Full,
    /// Snapshots with deduplication; no reading.
    WriteOnly,
}

/// Argon2id (RFC 9106) with its cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kdf {
    /// The function's name; only `argon2id` is known.
    pub name: String,
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// Salt, 16 bytes.
    #[serde(with = "hex")]
    pub salt: [u8; 16],
}

/// The plain part of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySlot {
    magic: String,
    version: u16,
    /// The repository it belongs to.
    pub repository: RepoId,
    /// What it allows.
    pub kind: SlotKind,
    /// What people call it.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
    /// How its key is derived.
    pub kdf: Kdf,
    /// The sealed [`SlotKeys`].
    #[serde(with = "hex")]
    pub sealed: Vec<u8>,
    /// Keyed digest of all of the above: whoever has opened any slot can tell whether this one was altered.
    #[serde(with = "hex")]
    pub mac: [u8; 32],
}

impl KeySlot {
    /// A slot of the current version.
    pub fn new(
        repository: RepoId,
        kind: SlotKind,
        label: String,
        created: Timestamp,
        kdf: Kdf,
        sealed: Vec<u8>,
    ) -> Self {
        Self {
            magic: MAGIC.to_owned(),
            version: FORMAT_VERSION,
            repository,
            kind,
            label,
            created,
            kdf,
            sealed,
            mac: [0; 32],
        }
    }

    /// What [`mac`](Self::mac) is computed over: the slot's bytes with an empty one, and its name.
    pub fn authenticated(&self, id: SlotId) -> Vec<u8> {
        let mut bytes = Self { mac: [0; 32], ..self.clone() }.encode();
        bytes.extend_from_slice(object_name(id).as_bytes());
        bytes
    }

    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads a slot and checks that deriving its key can't exhaust the machine.
    ///
    /// # Errors
    /// Not a slot; another version; costs out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        // As in the config: a newer slot may have fields that are unknown here.
        #[derive(Deserialize)]
        struct Front {
            magic: String,
            version: u16,
        }
        let front: Front = from_json(bytes)?;
        if front.magic != MAGIC {
            return Err(Malformed::new("not a key slot"));
        }
        if front.version != FORMAT_VERSION {
            return Err(Malformed::new(format!(
                "key slot of format {}, this program reads {FORMAT_VERSION}",
                front.version
            )));
        }
        let slot: Self = from_json(bytes)?;
        let Kdf { ref name, memory_kib, passes, lanes, .. } = slot.kdf;
        if name != "argon2id" {
            return Err(Malformed::new(format!("key slot with unknown key derivation `{}`", name.escape_debug())));
        }
        let lanes_fit = (1..=KDF_LANES_MAX).contains(&lanes) && memory_kib >= 8 * lanes;
        if !lanes_fit || memory_kib > KDF_MEMORY_KIB_MAX || !(1..=KDF_PASSES_MAX).contains(&passes) {
            return Err(Malformed::new(format!("key slot asks for {memory_kib} KiB, {passes} passes, {lanes} lanes")));
        }
        if slot.label.len() > NAME_BYTES_MAX {
            return Err(Malformed::new("key slot with a label too long"));
        }
        Ok(slot)
    }
}

/// The keys of a slot, to be sealed. What may be written is here for every slot; what may be read
/// needs `secret`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotKeys {
    /// Keys chunk ids.
    #[serde(with = "hex")]
    pub chunk_id: [u8; 32],
    /// Gives the chunker's gear table.
    #[serde(with = "hex")]
    pub chunker_seed: [u8; 32],
    /// Seals trailers, index objects, sessions, generations, manifest headers.
    #[serde(with = "hex")]
    pub index: [u8; 32],
    /// The key epochs, oldest first; new data goes under the last.
    pub epochs: Vec<Epoch>,
}

impl SlotKeys {
    /// The plain bytes, to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads what [`encode`](Self::encode) writes.
    ///
    /// # Errors
    /// Not the expected JSON; no epoch.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let keys: Self = from_json(bytes)?;
        if keys.epochs.is_empty() {
            return Err(Malformed::new("key slot without a key epoch"));
        }
        Ok(keys)
    }
}

impl Drop for SlotKeys {
    fn drop(&mut self) {
        use zeroize::Zeroize;
        self.chunk_id.zeroize();
        self.chunker_seed.zeroize();
        self.index.zeroize();
    }
}

/// A key pair that session data keys are sealed to (X25519).
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// Counts from 1.
    pub number: u32,
    /// When it began.
    pub created: Timestamp,
    /// The public key.
    #[serde(with = "hex")]
    pub public: [u8; 32],
    /// The secret key; absent in a write-only slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretBytes>,
}

/// 32 secret bytes; wiped when dropped, never printed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretBytes(#[serde(with = "hex")] pub [u8; 32]);

impl Drop for SecretBytes {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl std::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}
