//! Recipes: a stream's chunks in order.
//!
//! A recipe of a few chunks stands in the manifest. A longer one is itself a stream of 36-byte
//! entries, stored as chunks, whose recipe stands in the manifest; and so on. So the recipe of an
//! unchanged terabyte costs almost nothing: its chunks are stored already.

use serde::{Deserialize, Serialize};

use super::Malformed;
use super::bytes::{Decoder, Encoder};
use super::config::hex;
use super::limits::{BLOB_RAW_BYTES_MAX, RECIPE_DEPTH_MAX, RECIPE_INLINE_MAX};
use crate::id::BlobId;

/// Length of one entry in bytes.
pub const ENTRY_LEN: usize = BlobId::LEN + 4;

/// A chunk of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeEntry {
    /// The chunk.
    pub id: BlobId,
    /// Its plain length in bytes.
    pub len: u32,
}

impl RecipeEntry {
    /// Appends the [`ENTRY_LEN`] bytes: id 32, length u32.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&self.len.to_le_bytes());
    }

    /// Reads one entry.
    ///
    /// # Errors
    /// A chunk that is empty or longer than a blob may be.
    pub fn decode(bytes: &[u8; ENTRY_LEN]) -> Result<Self, Malformed> {
        let mut input = Decoder(bytes);
        let entry = Self { id: BlobId(input.array()?), len: input.u32()? };
        if entry.len == 0 || entry.len as usize > BLOB_RAW_BYTES_MAX {
            return Err(Malformed::new(format!("recipe with a chunk of {} bytes", entry.len)));
        }
        Ok(entry)
    }
}

/// The bytes of a list of entries.
pub fn encode_entries(entries: &[RecipeEntry]) -> Vec<u8> {
    let mut out = Encoder::default();
    for entry in entries {
        entry.encode(&mut out.0);
    }
    out.0
}

/// Reads exactly what [`encode_entries`] writes.
///
/// # Errors
/// A length that is not a multiple of an entry; see [`RecipeEntry::decode`].
pub fn decode_entries(bytes: &[u8]) -> Result<Vec<RecipeEntry>, Malformed> {
    let (entries, rest) = bytes.as_chunks::<ENTRY_LEN>();
    if !rest.is_empty() {
        return Err(Malformed::new(format!("recipe of {} bytes is not a whole number of entries", bytes.len())));
    }
    entries.iter().map(RecipeEntry::decode).collect()
}

/// The root of a recipe, as a manifest holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// 0: the chunks are the stream's. n: they are the bytes of a recipe of depth n - 1.
    pub depth: u8,
    /// The chunks. In JSON: the bytes of the entries in hexadecimal.
    #[serde(with = "entries")]
    pub chunks: Vec<RecipeEntry>,
}

/// Entries as the hexadecimal form of their bytes.
mod entries {
    use serde::{Deserializer, Serializer, de::Error};

    use super::{RecipeEntry, decode_entries, encode_entries, hex};

    pub(super) fn serialize<S: Serializer>(entries: &[RecipeEntry], s: S) -> Result<S::Ok, S::Error> {
        hex::serialize(&encode_entries(entries), s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<RecipeEntry>, D::Error> {
        let bytes: Vec<u8> = hex::deserialize(d)?;
        decode_entries(&bytes).map_err(|e| D::Error::custom(e.0))
    }
}

impl Recipe {
    /// Checks the bounds of a recipe read from a manifest.
    ///
    /// # Errors
    /// Too deep, too many entries, a chunk of an impossible length.
    pub fn check(&self) -> Result<(), Malformed> {
        if self.depth > RECIPE_DEPTH_MAX || self.chunks.len() > RECIPE_INLINE_MAX {
            return Err(Malformed::new(format!("recipe of depth {} with {} chunks", self.depth, self.chunks.len())));
        }
        match self.chunks.iter().find(|e| e.len == 0 || e.len as usize > BLOB_RAW_BYTES_MAX) {
            Some(entry) => Err(Malformed::new(format!("recipe with a chunk of {} bytes", entry.len))),
            None => Ok(()),
        }
    }
}
