//! One blob, there and back: `raw -> zstd | raw -> seal`, and the reverse with every check.
//!
//! What was encoded is decoded again and compared before it goes on, so that bad memory or a faulty
//! compressor stops at the writer (restic #4523: bit flips that were found years later).

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::format::pack::{BlobEntry, Codec};
use crate::format::{ObjectKind, associated_data};
use crate::id::{BlobId, DataKeyId, RepoId};
use crate::transform::compress::{Compressor, Decompressor};
use crate::transform::hash::ChunkHasher;
use crate::transform::seal::{NONCE_LEN, OVERHEAD, SealKey};

use super::keys::DataKey;

/// A blob as it goes into a pack.
pub struct SealedBlob {
    /// Its line in the trailer.
    pub entry: BlobEntry,
    /// Nonce, ciphertext, tag.
    pub bytes: Vec<u8>,
}

/// Associated data of a blob: the key, the id, and everything that decides how it is decoded.
fn blob_name(repo: RepoId, key: DataKeyId, id: BlobId, codec: Codec, raw_len: u32) -> Vec<u8> {
    let mut name = Vec::with_capacity(64);
    name.extend_from_slice(&key.0);
    name.extend_from_slice(&id.0);
    name.push(codec as u8);
    name.extend_from_slice(&raw_len.to_le_bytes());
    associated_data(ObjectKind::Blob, repo, &name)
}

/// Encodes blobs; one per thread.
pub struct BlobEncoder {
    repo: RepoId,
    compressor: Compressor,
    decompressor: Decompressor,
    opened: Vec<u8>,
    decoded: Vec<u8>,
}

impl BlobEncoder {
    /// An encoder at zstd `level`.
    pub fn new(repo: RepoId, level: i32) -> Self {
        Self {
            repo,
            compressor: Compressor::new(level),
            decompressor: Decompressor::default(),
            opened: Vec::new(),
            decoded: Vec::new(),
        }
    }

    /// Encodes `raw`, whose id is `id`, and proves that it decodes.
    ///
    /// # Errors
    /// `Failed` when the proof fails: the machine is faulty.
    pub fn encode(&mut self, env: &dyn Env, key: &DataKey, id: BlobId, raw: &[u8]) -> Result<SealedBlob> {
        let (codec, encoded) = self.compressor.compress(raw).map_or((Codec::Raw, raw), |frame| (Codec::Zstd, frame));
        let mut bytes = Vec::with_capacity(encoded.len() + OVERHEAD);
        bytes.resize(NONCE_LEN, 0);
        bytes.extend_from_slice(encoded);
        let raw_len = raw.len() as u32;
        let name = blob_name(self.repo, key.wrapped.id, id, codec, raw_len);
        key.key.seal_in_place(env, &name, &mut bytes);
        let entry = BlobEntry { id, codec, raw_len, stored_len: bytes.len() as u32 };
        if self.proves(key, &name, codec, &bytes, raw) {
            Ok(SealedBlob { entry, bytes })
        } else {
            Err(Error::new(
                Kind::Failed,
                format!("chunk {id} did not decode to what was encoded; nothing of it was stored"),
            )
            .hint("this machine computes wrongly: test its memory and processor before trusting it with backups"))
        }
    }

    fn proves(&mut self, key: &DataKey, name: &[u8], codec: Codec, sealed: &[u8], raw: &[u8]) -> bool {
        self.opened.clear();
        self.opened.extend_from_slice(sealed);
        let Some(plain) = key.key.open_in_place(name, &mut self.opened) else { return false };
        match codec {
            Codec::Raw => plain == raw,
            Codec::Zstd => {
                self.decoded.resize(raw.len(), 0);
                self.decompressor.decompress(plain, &mut self.decoded).is_ok() && self.decoded == raw
            }
        }
    }
}

/// What a blob of one pack is opened with.
#[derive(Clone, Copy)]
pub struct Opening<'k> {
    /// The repository it must belong to.
    pub repo: RepoId,
    /// Computes the id that its bytes must have.
    pub hasher: &'k ChunkHasher,
    /// The pack's data key.
    pub key: &'k SealKey,
    /// That key's id.
    pub key_id: DataKeyId,
}

/// Decodes blobs; one per thread.
#[derive(Default)]
pub struct BlobDecoder {
    decompressor: Decompressor,
}

impl BlobDecoder {
    /// Opens `sealed` in place, decodes it into `out` (of the entry's raw length) and compares the id.
    /// On failure nothing of `out` may be used.
    ///
    /// # Errors
    /// What is wrong with the blob, in words.
    pub fn decode(
        &mut self,
        with: Opening<'_>,
        entry: &BlobEntry,
        sealed: &mut [u8],
        out: &mut [u8],
    ) -> std::result::Result<(), String> {
        let name = blob_name(with.repo, with.key_id, entry.id, entry.codec, entry.raw_len);
        let plain = with.key.open_in_place(&name, sealed).ok_or("does not open: altered, swapped or foreign")?;
        match entry.codec {
            Codec::Raw if plain.len() == out.len() => out.copy_from_slice(plain),
            Codec::Raw => return Err(format!("holds {} bytes instead of {}", plain.len(), out.len())),
            Codec::Zstd => self.decompressor.decompress(plain, out)?,
        }
        if with.hasher.id(out) == entry.id {
            Ok(())
        } else {
            Err("its bytes are not those that its id names".to_owned())
        }
    }
}
