//! Key epochs: new data is sealed to the newest. Whoever begins one needs one full passphrase and no
//! other: the secrets are sealed to the key of every full slot.
//!
//! An order (`super::signed`) of the epoch before; the first is an order of itself.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::config::hex;
use super::pack::{KEM_OUTPUT_LEN, PUBLIC_KEY_LEN};
use super::{Malformed, from_json, to_json};
use crate::id::SlotId;

/// The folder of epochs.
pub const PREFIX: &str = "epochs/";
/// The highest number of an epoch.
pub const EPOCH_MAX: u32 = 99_999_999;
/// Certificates that an epoch lists at most.
pub const CERTIFICATES_MAX: usize = 4096;
/// Length of an epoch's sealed secrets: two of 32 bytes, and a tag of 16.
pub const SEALED_SECRETS_LEN: usize = 32 + 32 + 16;

/// The name of an epoch's object; names sort like numbers.
pub fn object_name(number: u32) -> String {
    format!("{PREFIX}{number:08}")
}

/// The number in an epoch's name.
pub fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(PREFIX)?;
    let plain = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok())?.filter(|n| *n > 0)
}

/// A key epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// The epoch before, whose authority signed this one; 0 for the first.
    pub previous: u32,
    /// When it began.
    pub created: Timestamp,
    /// Session data keys are sealed to this key.
    #[serde(with = "hex")]
    pub public: [u8; PUBLIC_KEY_LEN],
    /// Verifies the orders of this epoch.
    #[serde(with = "hex")]
    pub authority: [u8; 32],
    /// The certificates of earlier epochs that stay in force. One that is not listed is void.
    pub certificates: Vec<Listed>,
    /// The epoch's secrets, sealed to each full slot there was when it began.
    pub secrets: Vec<SealedSecrets>,
}

/// A certificate that an epoch vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// The slot.
    pub slot: SlotId,
    /// BLAKE3 of the certificate's content.
    #[serde(with = "hex")]
    pub digest: [u8; 32],
}

/// The secret key of the epoch and that of its authority, sealed to a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedSecrets {
    /// The slot.
    pub slot: SlotId,
    /// The encapsulated key.
    #[serde(with = "hex")]
    pub kem_output: [u8; KEM_OUTPUT_LEN],
    /// The sealed secrets.
    #[serde(with = "hex")]
    pub sealed: [u8; SEALED_SECRETS_LEN],
}

impl Epoch {
    /// The content, to be signed.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads what [`encode`](Self::encode) writes.
    ///
    /// # Errors
    /// Not the expected JSON; too many certificates.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let epoch: Self = from_json(bytes)?;
        if epoch.certificates.len() > CERTIFICATES_MAX || epoch.secrets.len() > CERTIFICATES_MAX {
            return Err(Malformed::new("an epoch with too many slots"));
        }
        Ok(epoch)
    }
}
