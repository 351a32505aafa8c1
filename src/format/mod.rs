//! The bytes at rest, as `docs/format.md` specifies them. Pure: no I/O, no keys, no clock.
//!
//! Binary objects are explicit little-endian integers with bounded lengths ([`bytes`]); manifests,
//! key slots, the config and the coordination objects are JSON, sealed by the layer above. Every
//! decoder accepts exactly what its encoder writes, refuses everything else with a reason, and
//! allocates nothing that a hostile length asks for ([`limits`]).

pub mod bytes;
pub mod catalog;
pub mod certificate;
pub mod config;
pub mod coordination;
pub mod envelope;
pub mod epoch;
pub mod index;
pub mod keyslot;
pub mod limits;
pub mod manifest;
pub mod pack;
pub mod part;
pub mod recipe;
pub mod signed;

use crate::error::{Error, Kind};

/// The format version that this code writes, and the newest that it reads.
pub const FORMAT_VERSION: u16 = 1;

/// What kind of sealed thing a ciphertext is; the first byte of its associated data, so that an
/// object put in the place of another kind does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ObjectKind {
    /// The sealed part of `config`.
    Config = 1,
    /// A key slot's payload.
    KeySlot = 2,
    /// A session's data key, sealed to the repository's public key.
    DataKey = 3,
    /// A blob in a pack.
    Blob = 4,
    /// A pack's trailer.
    PackTrailer = 5,
    /// An index object.
    Index = 6,
    /// A manifest's header, readable with the index key.
    ManifestHeader = 7,
    /// A manifest's body, readable with the session's data key.
    ManifestBody = 8,
    /// A session object or its heartbeat.
    Session = 9,
    /// A generation of the prune.
    Generation = 10,
    /// A slot's certificate.
    Certificate = 11,
    /// A key epoch.
    Epoch = 12,
    /// An epoch's secrets, sealed to a slot.
    EpochSecrets = 13,
    /// A fence.
    Fence = 14,
}

/// A decoder's refusal: what is wrong with the bytes. The caller adds which object they came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

impl Malformed {
    /// A refusal with its reason.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// The library error for the object `name`.
    pub fn in_object(self, name: &str) -> Error {
        Error::new(Kind::Damaged, format!("{name}: {}", self.0))
    }
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Parses sealed JSON of at most [`limits::JSON_BYTES_MAX`] bytes; the JSON form of the decoders.
pub(crate) fn from_json<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    if bytes.len() > limits::JSON_BYTES_MAX {
        return Err(Malformed::new(format!("{} bytes of JSON, the limit is {}", bytes.len(), limits::JSON_BYTES_MAX)));
    }
    serde_json::from_slice(bytes).map_err(|e| Malformed::new(format!("not the expected JSON: {e}")))
}

/// Writes a value as JSON. Values of this crate always serialise.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("the format's values serialise")
}

/// What a sealed thing is bound to: its kind, its repository and its name. An object that was moved,
/// swapped or brought from another repository does not open.
pub fn associated_data(kind: ObjectKind, repo: crate::id::RepoId, name: &[u8]) -> Vec<u8> {
    let mut out = bytes::Encoder::default();
    out.bytes(b"alluvium");
    out.u16(FORMAT_VERSION);
    out.u8(kind as u8);
    out.bytes(&repo.0);
    out.bytes(name);
    out.0
}
