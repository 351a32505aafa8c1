//! Key slots: the repository's keys, sealed under a key that a passphrase or a key file gives.
//!
//! The plain part holds what is needed to derive that key, and nothing else: what a slot is called
//! and may do stands in its certificate (`super::certificate`). A write-only slot lacks the secrets of
//! epochs, so nothing that a program does wrong can make it read.

use serde::{Deserialize, Serialize};

use super::config::hex;
use super::limits::{KDF_LANES_MAX, KDF_MEMORY_KIB_MAX, KDF_PASSES_MAX};
use super::{FORMAT_VERSION, Malformed, from_json, to_json};
use crate::id::{RepoId, SlotId};

/// Says that a JSON document is a key slot.
const MAGIC: &str = "alluvium key slot";
/// The folder of key slots.
pub const PREFIX: &str = "keys/";

/// The name of a slot's object.
pub fn object_name(id: SlotId) -> String {
    format!("{PREFIX}{id}")
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

impl SlotKind {
    /// As people and JSON read it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::WriteOnly => "write-only",
        }
    }
}

/// How the key that seals a slot is derived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Kdf {
    /// Argon2id (RFC 9106) of a passphrase.
    Argon2id {
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes over the memory.
        passes: u32,
        /// Lanes.
        lanes: u32,
        /// Salt, 16 bytes.
        #[serde(with = "hex")]
        salt: [u8; 16],
    },
    /// BLAKE3 of the 32 random bytes of a key file.
    KeyFile {},
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySlot {
    magic: String,
    version: u16,
    /// The repository it belongs to.
    pub repository: RepoId,
    /// How its key is derived.
    pub kdf: Kdf,
    /// The sealed [`SlotKeys`].
    #[serde(with = "hex")]
    pub sealed: Vec<u8>,
}

impl KeySlot {
    /// A slot of the current version.
    pub fn new(repository: RepoId, kdf: Kdf, sealed: Vec<u8>) -> Self {
        Self { magic: MAGIC.to_owned(), version: FORMAT_VERSION, repository, kdf, sealed }
    }

    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads a slot and checks that deriving its key can't exhaust the machine.
    ///
    /// # Errors
    /// Not a slot; another version; costs out of bounds; an unknown key derivation.
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
        if let Kdf::Argon2id { memory_kib, passes, lanes, .. } = slot.kdf {
            let lanes_fit = (1..=KDF_LANES_MAX).contains(&lanes) && memory_kib >= 8 * lanes;
            let passes_fit = (1..=KDF_PASSES_MAX).contains(&passes);
            if !lanes_fit || memory_kib > KDF_MEMORY_KIB_MAX || !passes_fit {
                return Err(Malformed::new(format!(
                    "key slot asks for {memory_kib} KiB, {passes} passes, {lanes} lanes"
                )));
            }
        }
        Ok(slot)
    }
}

/// The keys of a slot, to be sealed. What may be written is here for every slot; what may be read or
/// ordered needs the secrets of epochs.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotKeys {
    /// Keys chunk ids.
    pub chunk_id: SecretBytes,
    /// Gives the chunker's gear table.
    pub chunker_seed: SecretBytes,
    /// Seals what every slot may read.
    pub index: SecretBytes,
    /// Public key of the first epoch's authority, as in the config: nobody else can replace it here.
    #[serde(with = "hex")]
    pub authority: [u8; 32],
    /// Opens what is sealed to this slot.
    pub sealing: SecretBytes,
    /// Signs what this slot publishes.
    pub signing: SecretBytes,
    /// The epochs there were when the slot was made, oldest first; none in a write-only slot.
    pub epochs: Vec<EpochSecrets>,
}

impl SlotKeys {
    /// The plain bytes, to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads what [`encode`](Self::encode) writes.
    ///
    /// # Errors
    /// Not the expected JSON.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        from_json(bytes)
    }
}

/// What a full slot knows of an epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochSecrets {
    /// The epoch.
    pub number: u32,
    /// Opens the data keys that are sealed to the epoch.
    pub secret: SecretBytes,
    /// Signs the orders of the epoch.
    pub authority: SecretBytes,
}

/// 32 secret bytes; wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::limits::KEY_SLOT_BYTES_MAX;

    /// Keys may be rotated every week for half a century.
    #[test]
    fn a_slot_holds_three_thousand_epochs() {
        let secret = || SecretBytes([0xff; 32]);
        let epochs =
            (1..=3000).map(|number| EpochSecrets { number, secret: secret(), authority: secret() }).collect::<Vec<_>>();
        let keys = SlotKeys {
            chunk_id: secret(),
            chunker_seed: secret(),
            index: secret(),
            authority: [0xff; 32],
            sealing: secret(),
            signing: secret(),
            epochs,
        };
        let kdf = Kdf::Argon2id { memory_kib: u32::MAX, passes: u32::MAX, lanes: u32::MAX, salt: [0xff; 16] };
        let slot = KeySlot::new(RepoId([0xff; 16]), kdf, [keys.encode(), vec![0; 40]].concat());
        assert!(slot.encode().len() as u64 <= KEY_SLOT_BYTES_MAX);
    }
}
