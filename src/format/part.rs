//! Parts of a snapshot and the list of them.
//!
//! A short list stands in the manifest. A longer one is a stream of records, each one line of JSON
//! with a line feed, that is stored as chunks, as recipes are. A record depends on nothing but its
//! part, so that the list of an unchanged snapshot is stored already.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::bytes::Encoder;
use super::config::hex;
use super::limits::{NAME_BYTES_MAX, PART_RECORD_BYTES_MAX, PARTS_INLINE_MAX, PARTS_MAX};
use super::recipe::Recipe;
use super::{Malformed, from_json, to_json};

pub use crate::id::PartName;

/// Length and BLAKE3 digest (unkeyed) of plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digest {
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3.
    #[serde(with = "hex")]
    pub blake3: [u8; 32],
}

/// One named part: the stream itself, a segment of it, or a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its name: for a file its path, `/`-separated and relative.
    pub name: PartName,
    /// What it is.
    pub kind: PartKind,
    /// Length and digest; of nothing for a folder or a link.
    pub digest: Digest,
    /// Its chunks.
    pub recipe: Recipe,
    /// Bytes that its chunks took where they were stored first, about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
}

impl Part {
    /// Its record: a line of JSON and a line feed.
    ///
    /// # Errors
    /// A record that is too long.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let mut record = to_json(self);
        record.push(b'\n');
        if record.len() > PART_RECORD_BYTES_MAX {
            return Err(Malformed::new(format!("record of a part of {} bytes", record.len())));
        }
        Ok(record)
    }

    /// Checks the bounds of a part that was read.
    fn check(&self) -> Result<(), Malformed> {
        check_name(&self.name)?;
        self.recipe.check()
    }

    /// What it is by itself, wherever its chunks are: the bytes that a list's digest is computed of.
    pub fn identity(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u64(self.digest.bytes);
        out.bytes(&self.digest.blake3);
        for text in [self.name.database.as_deref(), self.name.schema.as_deref(), Some(&self.name.object[..])] {
            // 0 for none, so that it is told from an empty one.
            out.u32(text.map_or(0, |text| text.len() as u32 + 1));
            out.bytes(text.unwrap_or_default().as_bytes());
        }
        out.u32(self.name.piece);
        out.0
    }
}

/// Plain bytes of all these parts; at most [`u64::MAX`], whatever they say.
pub fn bytes_of<'p>(parts: impl IntoIterator<Item = &'p Part>) -> u64 {
    parts.into_iter().fold(0, |sum, part| sum.saturating_add(part.digest.bytes))
}

/// Checks the bounds of a name that was read.
pub(super) fn check_name(name: &PartName) -> Result<(), Malformed> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Malformed::new("part with a name too long"));
    }
    if name.piece == 0 { Err(Malformed::new("piece 0 of a part")) } else { Ok(()) }
}

/// What a part is. Unknown fields are ignored, unknown kinds are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum PartKind {
    /// A stream.
    Stream,
    /// Statements of a dump that belong to no one table.
    Statements,
    /// A table of a dump, or a stream whose lines are rows.
    Table {
        /// Its rows.
        rows: u64,
    },
    /// A file with its permission bits and modification time.
    File {
        /// Permission bits.
        mode: u32,
        /// Last modified.
        modified: Timestamp,
        /// It changed while it was read: what is stored may mix two states.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        changed: bool,
    },
    /// A folder with its permission bits.
    Folder {
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Where it points.
        target: String,
    },
}

impl PartKind {
    /// True for a file that changed while it was read.
    pub fn has_changed(&self) -> bool {
        matches!(self, Self::File { changed: true, .. })
    }
}

/// The parts of a snapshot, as a manifest has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartList {
    /// How many there are.
    pub count: u64,
    /// Plain bytes of all of them.
    pub bytes: u64,
    /// BLAKE3 of the [identities](Part::identity) of all of them, one after the other.
    #[serde(with = "hex")]
    pub blake3: [u8; 32],
    /// Where they are.
    pub list: Listing,
}

/// Where the list of a snapshot's parts is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listing {
    /// In the manifest.
    Inline(Vec<Part>),
    /// In chunks of whole records: at depth 0 they are the recipe's chunks.
    Recipe(Recipe),
}

impl PartList {
    /// The parts, where they stand in the manifest.
    pub fn inline(&self) -> Option<&[Part]> {
        match &self.list {
            Listing::Inline(parts) => Some(parts),
            Listing::Recipe(_) => None,
        }
    }

    /// Checks the bounds of a list that was read from a manifest.
    pub(super) fn check(&self) -> Result<(), Malformed> {
        if self.count > PARTS_MAX {
            return Err(Malformed::new(format!("{} parts", self.count)));
        }
        let parts = match &self.list {
            Listing::Recipe(recipe) => return recipe.check(),
            Listing::Inline(parts) => parts,
        };
        if parts.len() > PARTS_INLINE_MAX {
            return Err(Malformed::new(format!("{} parts in the manifest", parts.len())));
        }
        parts.iter().try_for_each(Part::check)?;
        let bytes = parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.digest.bytes));
        if (parts.len() as u64, bytes) != (self.count, Some(self.bytes)) {
            return Err(Malformed::new("parts that are not as many or as long as the manifest says"));
        }
        Ok(())
    }
}

/// Reads the records of a chunk of a list.
///
/// # Errors
/// Not whole records; a part out of bounds.
pub fn decode_parts(bytes: &[u8]) -> Result<Vec<Part>, Malformed> {
    let part = |record: &[u8]| -> Result<Part, Malformed> {
        let part: Part = from_json(record)?;
        part.check()?;
        Ok(part)
    };
    records(bytes, PART_RECORD_BYTES_MAX)?.into_iter().map(part).collect()
}

/// Cuts a chunk of records into them, without their line feeds.
pub(super) fn records(bytes: &[u8], longest: usize) -> Result<Vec<&[u8]>, Malformed> {
    let Some(records) = bytes.strip_suffix(b"\n") else {
        return Err(Malformed::new("records that do not end with a line feed"));
    };
    let records: Vec<&[u8]> = records.split(|byte| *byte == b'\n').collect();
    match records.iter().find(|record| record.len() >= longest) {
        Some(record) => Err(Malformed::new(format!("record of {} bytes", record.len()))),
        None => Ok(records),
    }
}
