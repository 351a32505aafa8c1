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
use super::limits::{JSON_BYTES_MAX, NAME_BYTES_MAX, TAGS_MAX};
use super::pack::WrappedKey;
use super::signed::CLAIM_LEN;
use super::{FORMAT_VERSION, Malformed, from_json, to_json};
use crate::id::{RepoId, SlotId, SnapshotId};

pub use super::catalog::{Catalog, Engine};
pub use super::part::{Digest, Listing, Part, PartKind, PartList, PartName};

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
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack; nearly all are manifests")]
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
    /// What the parts are.
    pub shape: Shape,
    /// The parts, in order. For a stream their concatenation is the stream.
    pub parts: PartList,
    /// The database that was dumped, where Alluvium dumped it itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// Its tables as they were counted when they were dumped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<Catalog>,
    /// What storing it took.
    pub stored: Stored,
    /// Present when the stream is far smaller than its predecessor was: that one's length in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shrunk_from: Option<u64>,
    /// Present in a copy that `sync` made: the snapshot that was copied, the first one of a chain of copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Original>,
    /// Present in a copy of what a write-only slot wrote: that slot, in the repository of the original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_author: Option<SlotId>,
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
    /// Not the expected JSON; a sequence, a recipe, a name or the number of tags out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let manifest: Self = from_json(bytes)?;
        check_sequence(manifest.sequence)?;
        manifest.check_names()?;
        manifest.parts.check()?;
        if let Some(catalog) = &manifest.catalog {
            catalog.check()?;
        }
        Ok(manifest)
    }

    /// Checks the bounds of the names and tags that were read.
    fn check_names(&self) -> Result<(), Malformed> {
        if self.tags.len() > TAGS_MAX {
            let what = format!("a manifest with {} tags, the limit is {TAGS_MAX}", self.tags.len());
            return Err(Malformed::new(what));
        }
        let program = match &self.kind {
            SourceKind::Command { program } => Some(("program", program)),
            SourceKind::Stream | SourceKind::Files => None,
        };
        let names = [("source", &self.source), ("host", &self.host), ("time zone", &self.zone), ("tool", &self.tool)];
        let tags = self.tags.iter().map(|tag| ("tag", tag));
        for (field, name) in names.into_iter().chain(program).chain(tags) {
            if name.len() > NAME_BYTES_MAX {
                let len = name.len();
                let what = format!("a {field} of {len} bytes, the limit is {NAME_BYTES_MAX}");
                return Err(Malformed::new(what));
            }
        }
        Ok(())
    }

    /// Plain bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.bytes
    }
}

/// How a snapshot's data came in. Unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
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

/// What the parts of a snapshot are. Unknown fields are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// How the parts belong together.
    pub is: ShapeKind,
    /// What they are written in, where it was recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
}

/// How the parts of a snapshot belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShapeKind {
    /// One part: a stream that nothing more is known of, or whose lines are rows.
    Stream,
    /// The statements and tables of a dump, one after the other.
    Dump,
    /// The members or collections of an archive, one after the other.
    Archive,
    /// Files, folders and links.
    Files,
    /// One part: the pages of a database file.
    Pages,
}

/// A format of dumps, archives and database files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// PostgreSQL: `pg_dump`, `pg_dumpall`, data files.
    Postgres,
    /// MySQL and MariaDB: `mysqldump`, `mariadb-dump`.
    Mysql,
    /// `SQLite`: `.dump`, database files.
    Sqlite,
    /// `MongoDB`: `mongodump --archive`.
    Mongodb,
    /// `tar`.
    Tar,
    /// CSV, TSV, NDJSON: every line is a row.
    Lines,
}

/// What storing a snapshot took. Unknown fields are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
