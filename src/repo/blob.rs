//! One blob, there and back: `raw -> delta | columnar | zstd | raw -> seal`, and the reverse with every check.
//!
//! What was encoded is decoded again and compared before it goes on, so that bad memory or a faulty
//! compressor stops at the writer (restic #4523: bit flips that were found years later).

use std::sync::Arc;

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::format::pack::{Base, BlobEntry, Codec};
use crate::format::{ObjectKind, associated_data};
use crate::id::{BlobId, DataKeyId, RepoId};
use crate::transform::columnar::{self, Columnar};
use crate::transform::compress::{Compressor, Decompressor};
use crate::transform::delta;
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
fn blob_name(repo: RepoId, key: DataKeyId, entry: &BlobEntry) -> Vec<u8> {
    let mut name = Vec::with_capacity(96);
    name.extend_from_slice(&key.0);
    name.extend_from_slice(&entry.id.0);
    name.push(entry.codec as u8);
    name.extend_from_slice(&entry.raw_len.to_le_bytes());
    if let Some(base) = &entry.base {
        name.extend_from_slice(&base.id.0);
        name.push(base.version);
    }
    associated_data(ObjectKind::Blob, repo, &name)
}

/// Plain bytes from which is guessed what zstd alone would make of a chunk.
const SAMPLE_BYTES: usize = 32 << 10;

/// A delta is kept where what the chunk takes alone is so many times longer: it needs its base to be read.
const CLEARLY: usize = 2;
/// A delta below this part of the chunk is taken without a look at what else there is.
const TINY_SHARE: usize = 64;

/// What a chunk may be stored as the difference to.
pub struct DeltaBase {
    /// Its id, and the version that the delta gets.
    pub base: Base,
    /// Its plain bytes.
    pub raw: Arc<Vec<u8>>,
}

/// Encodes blobs; one per thread.
pub struct BlobEncoder {
    repo: RepoId,
    columnar: Columnar,
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
            columnar: Columnar::new(level),
            compressor: Compressor::new(level),
            decompressor: Decompressor::default(),
            opened: Vec::new(),
            decoded: Vec::new(),
        }
    }

    /// Encodes `raw`, whose id is `id`, in the shortest way (as a difference where that is clearly shorter), and proves that it
    /// decodes. The best of `bases` stands first.
    ///
    /// # Errors
    /// `Failed` when the proof fails: the machine is faulty.
    pub fn encode(
        &mut self,
        env: &dyn Env,
        key: &DataKey,
        id: BlobId,
        raw: &[u8],
        bases: &[&DeltaBase],
    ) -> Result<SealedBlob> {
        let raw_len = raw.len() as u32;
        let entry = |codec, base| BlobEntry { id, codec, raw_len, stored_len: 0, base };
        let mut delta: Option<(Vec<u8>, &DeltaBase)> = None;
        let is_tiny =
            |delta: &Option<(Vec<u8>, _)>| delta.as_ref().is_some_and(|(d, _)| d.len() < raw.len() / TINY_SHARE);
        for base in bases {
            if !is_tiny(&delta)
                && let Some(other) = delta::encode(&base.raw, raw)
                && delta.as_ref().is_none_or(|(best, _)| other.len() < best.len())
            {
                delta = Some((other, base));
            }
        }
        let tiny = is_tiny(&delta);
        let columnar = if tiny { None } else { self.columnar(raw) };
        let frame = if tiny || columnar.is_some() { None } else { self.compressor.compress(raw).map(<[u8]>::to_vec) };
        let alone = columnar.as_ref().or(frame.as_ref()).map_or(raw.len(), Vec::len);
        // Should a codec of ours be wrong, the next one is tried: zstd and the machine are judged last.
        if let Some((delta, base)) = delta
            && (tiny || delta.len() * CLEARLY < alone)
            && let Some(blob) =
                self.sealed(env, key, &entry(Codec::Delta, Some(base.base)), &delta, raw, Some(&base.raw))
        {
            return Ok(blob);
        }
        if let Some(columnar) = columnar
            && let Some(blob) = self.sealed(env, key, &entry(Codec::Columnar, None), &columnar, raw, None)
        {
            return Ok(blob);
        }
        let frame = frame.or_else(|| self.compressor.compress(raw).map(<[u8]>::to_vec));
        let (codec, encoded) = frame.as_ref().map_or((Codec::Raw, raw), |frame| (Codec::Zstd, &frame[..]));
        self.sealed(env, key, &entry(codec, None), encoded, raw, None).ok_or_else(|| faulty(id))
    }

    /// Seals under another key what was `opened` as `entry` and was seen to decode to what its id names; and proves that what
    /// was sealed opens to the same.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn move_on(&self, env: &dyn Env, key: &DataKey, entry: &BlobEntry, opened: &[u8]) -> Result<SealedBlob> {
        let blob = self.seal(env, key, entry, opened);
        let mut again = blob.bytes.clone();
        let name = blob_name(self.repo, key.wrapped.id, &blob.entry);
        let is_same = key.key.open_in_place(&name, &mut again).is_some_and(|found| found == opened);
        if is_same { Ok(blob) } else { Err(faulty(entry.id)) }
    }

    fn seal(&self, env: &dyn Env, key: &DataKey, entry: &BlobEntry, opened: &[u8]) -> SealedBlob {
        let mut bytes = Vec::with_capacity(opened.len() + OVERHEAD);
        bytes.resize(NONCE_LEN, 0);
        bytes.extend_from_slice(opened);
        key.key.seal_in_place(env, &blob_name(self.repo, key.wrapped.id, entry), &mut bytes);
        SealedBlob { entry: BlobEntry { stored_len: bytes.len() as u32, ..entry.clone() }, bytes }
    }

    /// The columnar form of `raw` where it is shorter than what zstd alone makes of it. Where it is much shorter than zstd
    /// seems to get by a sample, zstd need not run.
    fn columnar(&mut self, raw: &[u8]) -> Option<Vec<u8>> {
        let columnar = self.columnar.encode(raw)?;
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
        entry: &BlobEntry,
        encoded: &[u8],
        raw: &[u8],
        base: Option<&[u8]>,
    ) -> Option<SealedBlob> {
        let blob = self.seal(env, key, entry, encoded);
        self.opened.clear();
        self.opened.extend_from_slice(&blob.bytes);
        let plain = key.key.open_in_place(&blob_name(self.repo, key.wrapped.id, entry), &mut self.opened)?;
        self.decoded.resize(raw.len(), 0);
        let decoded = decode(&mut self.decompressor, entry.codec, plain, base, &mut self.decoded);
        (decoded.is_ok() && self.decoded == raw).then_some(blob)
    }
}

fn faulty(id: BlobId) -> Error {
    Error::new(Kind::Failed, format!("chunk {id} did not decode to what was encoded; nothing of it was stored"))
        .hint("this machine computes wrongly: test its memory and processor before trusting it with backups")
}

/// Decodes into exactly `out`.
fn decode(
    decompressor: &mut Decompressor,
    codec: Codec,
    encoded: &[u8],
    base: Option<&[u8]>,
    out: &mut [u8],
) -> std::result::Result<(), String> {
    match codec {
        Codec::Raw if encoded.len() == out.len() => out.copy_from_slice(encoded),
        Codec::Raw => return Err(format!("holds {} bytes instead of {}", encoded.len(), out.len())),
        Codec::Zstd => decompressor.decompress(encoded, out)?,
        Codec::Columnar => columnar::decode(decompressor, encoded, out)?,
        Codec::Delta => delta::decode(decompressor, base.ok_or("its base is missing")?, encoded, out)?,
    }
    Ok(())
}

/// What a blob of one pack is opened with.
#[derive(Clone, Copy)]
pub struct Opening<'k> {
    /// The repository it must belong to.
    pub repo: RepoId,
    /// Computes the id that its bytes must have; absent where they only help to decode a chunk whose id is compared.
    pub hasher: Option<&'k ChunkHasher>,
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
    /// Whether `sealed` opens: its encoded bytes are what was sealed, whatever they decode to.
    pub fn opens(&self, with: Opening<'_>, entry: &BlobEntry, sealed: &mut [u8]) -> bool {
        with.key.open_in_place(&blob_name(with.repo, with.key_id, entry), sealed).is_some()
    }

    /// Opens `sealed` in place, decodes it into `out` (of the entry's raw length) and compares the id; a delta needs the
    /// plain bytes of its `base`. On failure nothing of `out` may be used. Returns the encoded bytes.
    ///
    /// # Errors
    /// What is wrong with the blob, in words.
    pub fn decode<'s>(
        &mut self,
        with: Opening<'_>,
        entry: &BlobEntry,
        sealed: &'s mut [u8],
        base: Option<&[u8]>,
        out: &mut [u8],
    ) -> std::result::Result<&'s [u8], String> {
        let name = blob_name(with.repo, with.key_id, entry);
        let plain = with.key.open_in_place(&name, sealed).ok_or("does not open: altered, swapped or foreign")?;
        decode(&mut self.decompressor, entry.codec, plain, base, out)?;
        if with.hasher.is_none_or(|hasher| hasher.id(out) == entry.id) {
            Ok(plain)
        } else {
            Err("its bytes are not those that its id names".to_owned())
        }
    }
}
