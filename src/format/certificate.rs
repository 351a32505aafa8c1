//! Certificates: which key slots there are, what each may do, and the keys by which it is known.
//!
//! An order (`super::signed`), sealed under the index key. Certificates are never deleted: what a slot
//! published stays verifiable when its passphrase is gone.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::config::hex;
use super::keyslot::SlotKind;
use super::limits::NAME_BYTES_MAX;
use super::pack::PUBLIC_KEY_LEN;
use super::{Malformed, from_json, to_json};
use crate::id::SlotId;

/// The folder of certificates.
pub const PREFIX: &str = "slots/";

/// The name of a slot's certificate.
pub fn object_name(id: SlotId) -> String {
    format!("{PREFIX}{id}")
}

/// What a full slot says of a key slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// What it allows.
    pub kind: SlotKind,
    /// What people call it.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
    /// Secrets for the slot are sealed to this key.
    #[serde(with = "hex")]
    pub sealing: [u8; PUBLIC_KEY_LEN],
    /// Verifies what the slot signs.
    #[serde(with = "hex")]
    pub signing: [u8; 32],
    /// BLAKE3 of the bytes of `keys/<slot>`: an altered slot shows before anybody tries it.
    #[serde(with = "hex")]
    pub key: [u8; 32],
}

impl Certificate {
    /// The content, to be signed.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads what [`encode`](Self::encode) writes.
    ///
    /// # Errors
    /// Not the expected JSON; a label too long.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let certificate: Self = from_json(bytes)?;
        if certificate.label.len() > NAME_BYTES_MAX {
            return Err(Malformed::new("a label too long"));
        }
        Ok(certificate)
    }
}
