//! One blob, there and back: `raw -> columnar | zstd | raw -> seal`, and the reverse with every check.
//!
//! What was encoded is decoded again and compared before it goes on, so that bad memory or a faulty
//! compressor stops at the writer (restic #4523: bit flips that were found years later).

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::format::pack::{BlobEntry, Codec};
use crate::format::{ObjectKind, associated_data};
use crate::id::{BlobId, DataKeyId, RepoId};
use crate::transform::columnar::{self, Columnar};
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

/// Plain bytes from which is guessed what zstd alone would make of a chunk.
const SAMPLE_BYTES: usize = 32 << 10;

/// Encodes blobs; one per thread.
pub struct BlobEncoder {
    repo: RepoId,
    columnar: Option<Columnar>,
    compressor: Compressor,
    decompressor: Decompressor,
    opened: Vec<u8>,
    decoded: Vec<u8>,
}

impl BlobEncoder {
    /// An encoder at zstd `level`, which may store rows by `columns`.
    pub fn new(repo: RepoId, level: i32, columns: bool) -> Self {
        Self {
            repo,
            columnar: columns.then(|| Columnar::new(level)),
            compressor: Compressor::new(level),
            decompressor: Decompressor::default(),
            opened: Vec::new(),
            decoded: Vec::new(),
        }
    }

    /// Encodes `raw`, whose id is `id`, in the shortest way, and proves that it decodes.
    ///
    /// # Errors
    /// `Failed` when the proof fails: the machine is faulty.
    pub fn encode(&mut self, env: &dyn Env, key: &DataKey, id: BlobId, raw: &[u8]) -> Result<SealedBlob> {
        if let Some(columnar) = self.columnar(raw)
            && let Some(blob) = self.sealed(env, key, id, Codec::Columnar, &columnar, raw)
        {
            return Ok(blob);
        }
        let frame = self.compressor.compress(raw).map(<[u8]>::to_vec);
        let (codec, encoded) = frame.as_ref().map_or((Codec::Raw, raw), |frame| (Codec::Zstd, &frame[..]));
        self.sealed(env, key, id, codec, encoded, raw).ok_or_else(|| {
            Error::new(Kind::Failed, format!("chunk {id} did not decode to what was encoded; nothing of it was stored"))
                .hint("this machine computes wrongly: test its memory and processor before trusting it with backups")
        })
    }

    /// The columnar form of `raw` where it is shorter than what zstd alone makes of it. Where it is much shorter than zstd
    /// seems to get by a sample, zstd need not run.
    fn columnar(&mut self, raw: &[u8]) -> Option<Vec<u8>> {
        let columnar = self.columnar.as_mut()?.encode(raw)?;
        let sample = &raw[..raw.len().min(SAMPLE_BYTES)];
        let of_sample = self.compressor.compress(sample).map_or(sample.len(), <[u8]>::len);
        let guess = of_sample as u64 * raw.len() as u64 / sample.len() as u64;
        let is_shorter = columnar.len() as u64 * 4 < guess * 3
            || columnar.len() < self.compressor.compress(raw).map_or(raw.len(), <[u8]>::len);
        is_shorter.then_some(columnar)
    }

    /// Seals `encoded`; none when what was sealed does not open and decode to `raw`.
    fn sealed(
        &mut self,
        env: &dyn Env,
        key: &DataKey,
        id: BlobId,
        codec: Codec,
        encoded: &[u8],
        raw: &[u8],
    ) -> Option<SealedBlob> {
        let mut bytes = Vec::with_capacity(encoded.len() + OVERHEAD);
        bytes.resize(NONCE_LEN, 0);
        bytes.extend_from_slice(encoded);
        let raw_len = raw.len() as u32;
        let name = blob_name(self.repo, key.wrapped.id, id, codec, raw_len);
        key.key.seal_in_place(env, &name, &mut bytes);
        let entry = BlobEntry { id, codec, raw_len, stored_len: bytes.len() as u32 };
        self.proves(key, &name, codec, &bytes, raw).then_some(SealedBlob { entry, bytes })
    }

    fn proves(&mut self, key: &DataKey, name: &[u8], codec: Codec, sealed: &[u8], raw: &[u8]) -> bool {
        self.opened.clear();
        self.opened.extend_from_slice(sealed);
        let Some(plain) = key.key.open_in_place(name, &mut self.opened) else { return false };
        self.decoded.resize(raw.len(), 0);
        decode(&mut self.decompressor, codec, plain, &mut self.decoded).is_ok() && self.decoded == raw
    }
}

/// Decodes into exactly `out`.
fn decode(
    decompressor: &mut Decompressor,
    codec: Codec,
    encoded: &[u8],
    out: &mut [u8],
) -> std::result::Result<(), String> {
    match codec {
        Codec::Raw if encoded.len() == out.len() => out.copy_from_slice(encoded),
        Codec::Raw => return Err(format!("holds {} bytes instead of {}", encoded.len(), out.len())),
        Codec::Zstd => decompressor.decompress(encoded, out)?,
        Codec::Columnar => columnar::decode(decompressor, encoded, out)?,
    }
    Ok(())
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
        decode(&mut self.decompressor, entry.codec, plain, out)?;
        if with.hasher.id(out) == entry.id {
            Ok(())
        } else {
            Err("its bytes are not those that its id names".to_owned())
        }
    }
}
