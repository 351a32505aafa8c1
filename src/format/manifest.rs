//! Manifests: one object a snapshot, and the only thing that makes stored data a backup.
//!
//! ```text
//! magic 8 | version u16 | wrapped data key | header_len u32 | sealed header | sealed body
//! ```
//!
//! The header, sealed under the index key, holds what a writer needs of its predecessor, and no more;
//! a write-only host reads it. The body, sealed under the session's data key, holds the rest. Both
//! are JSON. A *fence* takes a manifest's name so that a dead session can never publish ([`Published`]).

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::bytes::{Decoder, Encoder};
use super::config::hex;
use super::limits::{JSON_BYTES_MAX, NAME_BYTES_MAX};
use super::pack::WrappedKey;
use super::recipe::Recipe;
use super::signed::CLAIM_LEN;
use super::{FORMAT_VERSION, Malformed, from_json, to_json};
use crate::id::{RepoId, SnapshotId};

/// The first bytes of a manifest.
pub const MAGIC: [u8; 8] = *b"ALVMSNAP";
/// The first bytes of a fence.
pub const FENCE_MAGIC: [u8; 8] = *b"ALVMFENC";
/// The length of a fence in bytes: front, nonce, an empty claim, tag.
pub const FENCE_LEN: u64 = 10 + 24 + CLAIM_LEN as u64 + 16;
/// The highest number in a chain of predecessors. Nothing may follow a snapshot that has it.
pub const SEQUENCE_MAX: u64 = 1 << 40;
/// The folder of manifests.
pub const PREFIX: &str = "snapshots/";

/// The name of a snapshot's manifest; also the name that fences its session.
pub fn object_name(id: SnapshotId) -> String {
    format!("{PREFIX}{id}")
}

/// What stands under a manifest's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published<'a> {
    /// A snapshot.
    Manifest(SealedManifest<'a>),
    /// A dead session's name, taken so that it can't publish any more (rule I4); the sealed part proves that a
    /// holder of the index key did so.
    Fence(&'a [u8]),
}

/// A manifest's parts, still sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedManifest<'a> {
    /// The key of the body.
    pub key: WrappedKey,
    /// The sealed [`Header`].
    pub header: &'a [u8],
    /// The sealed [`Manifest`].
    pub body: &'a [u8],
}

impl SealedManifest<'_> {
    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.bytes(&MAGIC);
        out.u16(FORMAT_VERSION);
        self.key.encode(&mut out);
        out.len(self.header.len());
        out.bytes(self.header);
        out.bytes(self.body);
        out.0
    }
}

/// What a manifest's body is bound to, besides its kind and repository: its name and its wrapped key.
pub fn body_name(name: &str, key: &WrappedKey) -> Vec<u8> {
    let mut out = Encoder::default();
    out.bytes(name.as_bytes());
    key.encode(&mut out);
    out.0
}

/// What the header says of the rest: BLAKE3 of the wrapped key and the sealed body.
pub fn body_digest(key: &WrappedKey, body: &[u8]) -> [u8; 32] {
    let mut out = Encoder::default();
    key.encode(&mut out);
    *blake3::Hasher::new().update(&out.0).update(body).finalize().as_bytes()
}

/// A fence's bytes; the sealed part is empty.
pub fn encode_fence(sealed: &[u8]) -> Vec<u8> {
    let mut out = Encoder::default();
    out.bytes(&FENCE_MAGIC);
    out.u16(FORMAT_VERSION);
    out.bytes(sealed);
    out.0
}

/// Takes an object of `snapshots/` apart.
///
/// # Errors
/// Neither manifest nor fence; another version; too short.
pub fn decode(bytes: &[u8]) -> Result<Published<'_>, Malformed> {
    let mut input = Decoder(bytes);
    let magic = input.array()?;
    if magic != MAGIC && magic != FENCE_MAGIC {
        return Err(Malformed::new("does not begin like a manifest"));
    }
    match input.u16()? {
        FORMAT_VERSION => {}
        other => return Err(Malformed::new(format!("manifest format {other}, this program reads {FORMAT_VERSION}"))),
    }
    if magic == FENCE_MAGIC {
        return Ok(Published::Fence(input.0));
    }
    let key = WrappedKey::decode(&mut input)?;
    let header_len = input.len(JSON_BYTES_MAX, 1)?;
    let header = input.take(header_len)?;
    Ok(Published::Manifest(SealedManifest { key, header, body: input.0 }))
}

/// The digest in a header whose body is not sealed yet: publishing puts the right one there.
pub const UNSEALED: [u8; 32] = [0; 32];

/// What a writer needs of its predecessor, without reading any backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// When the snapshot was begun.
    pub time: Timestamp,
    /// Keyed BLAKE3 of host and source: tells predecessors without telling names.
    #[serde(with = "hex")]
    pub series: [u8; 32],
    /// The position in the series: higher than the predecessor's, at most [`SEQUENCE_MAX`].
    pub sequence: u64,
    /// Plain bytes of all parts.
    pub bytes: u64,
    /// Plain bytes of the newest snapshot of the series that is not flagged as shrunk; this one, if it is not.
    pub good_bytes: u64,
    /// The snapshot of the same series before this one.
    pub previous: Option<SnapshotId>,
    /// BLAKE3 of the wrapped key and the sealed body: the signature over the header covers all.
    #[serde(with = "hex")]
    pub body: [u8; 32],
}

impl Header {
    /// The plain bytes, to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads what [`encode`](Self::encode) writes.
    ///
    /// # Errors
    /// Not the expected JSON; a sequence out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let header: Self = from_json(bytes)?;
        check_sequence(header.sequence)?;
        Ok(header)
    }
}

fn check_sequence(sequence: u64) -> Result<(), Malformed> {
    if sequence > SEQUENCE_MAX {
        return Err(Malformed::new(format!("sequence {sequence}, the limit is {SEQUENCE_MAX}")));
    }
    Ok(())
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// When it was begun (UTC).
    pub time: Timestamp,
    /// The position in the series, as in the [`Header`]. A copy has its original's.
    pub sequence: u64,
    /// When its last byte was read (UTC).
    pub finished: Timestamp,
    /// The source's time zone, an IANA name where known.
    pub zone: String,
    /// What was backed up: `shop`, `app.db`.
    pub source: String,
    /// How it came in.
    pub kind: SourceKind,
    /// The host it came from.
    pub host: String,
    /// Labels.
    pub tags: BTreeSet<String>,
    /// The snapshot of the same source and host before this one.
    pub previous: Option<SnapshotId>,
    /// The prune generation that the writer last saw.
    pub generation: u64,
    /// The program that wrote it.
    pub tool: String,
    /// Length and digest of the stream, computed of those of its parts; absent for files and folders.
    pub whole: Option<Digest>,
    /// The parts, in order. For a stream their concatenation is the stream.
    pub parts: Vec<Part>,
    /// What storing it took.
    pub stored: Stored,
    /// Present when the stream is far smaller than its predecessor was: that one's length in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shrunk_from: Option<u64>,
    /// Present in a copy that `sync` made: the snapshot that was copied, the first one of a chain of copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Original>,
}

/// Where a copied snapshot was taken first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Original {
    /// The repository.
    pub repository: RepoId,
    /// The snapshot there.
    pub snapshot: SnapshotId,
}

impl Manifest {
    /// The plain bytes, to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads what [`encode`](Self::encode) writes.
    ///
    /// # Errors
    /// Not the expected JSON; a sequence, a recipe or a name out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let manifest: Self = from_json(bytes)?;
        check_sequence(manifest.sequence)?;
        for part in &manifest.parts {
            if part.name.len() > NAME_BYTES_MAX {
                return Err(Malformed::new("part with a name too long"));
            }
            part.recipe.check()?;
        }
        if manifest.parts.iter().try_fold(0u64, |sum, part| sum.checked_add(part.digest.bytes)).is_none() {
            return Err(Malformed::new("parts of more than 2^64 bytes together"));
        }
        Ok(manifest)
    }

    /// Plain bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|p| p.digest.bytes).sum()
    }
}

/// How a snapshot's data came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", deny_unknown_fields)]
pub enum SourceKind {
    /// Standard input.
    Stream,
    /// A command that alluvium ran and judged. Only the program's name: arguments may hold secrets.
    Command {
        /// The program.
        program: String,
    },
    /// Files and folders.
    Files,
}

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
    pub name: String,
    /// What it is.
    pub kind: PartKind,
    /// Length and digest; of nothing for a folder or a link.
    pub digest: Digest,
    /// Its chunks.
    pub recipe: Recipe,
    /// Bytes that its chunks took where they were stored first, about; with the feature `segments`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
}

/// What a part is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", deny_unknown_fields)]
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

/// What storing a snapshot took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// Chunks of all parts, recipes included.
    pub chunks: u64,
    /// Chunks that were not there before.
    pub new_chunks: u64,
    /// Plain bytes of those.
    pub new_bytes: u64,
    /// Bytes of the packs written.
    pub stored_bytes: u64,
}
