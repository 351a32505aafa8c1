//! Packs: sealed blobs one after the other, then a sealed trailer that lists them.
//!
//! ```text
//! 0                HEADER_LEN                                        size - FOOTER_LEN     size
//! | PackHeader     | blob | blob | ... | padding | sealed trailer    | trailer_len | magic |
//!   who sealed it    each: nonce 24, ciphertext, tag 16   the entries   u32           8
//! ```
//!
//! A pack explains itself: the header carries the data key that its blobs are sealed under, sealed
//! to the repository's public key; the trailer, sealed under the index key, lists the blobs in
//! order. Offsets are not stored: blobs lie back to back from `HEADER_LEN`, so they can't overlap.

use super::bytes::{Decoder, Encoder};
use super::limits::{
    BLOB_RAW_BYTES_MAX, BLOB_STORED_BYTES_MAX, BLOB_STORED_BYTES_MIN, PACK_BLOBS_MAX, PACK_BYTES_MAX, TRAILER_BYTES_MAX,
};
use super::{FORMAT_VERSION, Malformed};
use crate::id::{BlobId, DataKeyId, PackId, RepoId, SnapshotId};

/// The first bytes of a pack.
pub const MAGIC: [u8; 8] = *b"ALVMPACK";
/// The last bytes of a pack.
pub const END_MAGIC: [u8; 8] = *b"ALVMPEND";
/// Length of a public key of [`KEM_X_WING`].
pub const PUBLIC_KEY_LEN: usize = 1216;
/// Length of an encapsulated key of [`KEM_X_WING`].
pub const KEM_OUTPUT_LEN: usize = 1120;
/// Length of a sealed data key: 32 bytes and a tag of 16.
pub const SEALED_KEY_LEN: usize = 32 + 16;
/// Length of a [`WrappedKey`] in bytes.
pub const WRAPPED_KEY_LEN: usize = DataKeyId::LEN + 4 + 1 + KEM_OUTPUT_LEN + SEALED_KEY_LEN;
/// Length of the plain header in bytes; the first blob begins here.
pub const HEADER_LEN: usize = MAGIC.len() + 2 + RepoId::LEN + SnapshotId::LEN + WRAPPED_KEY_LEN;
/// Length of the footer in bytes.
pub const FOOTER_LEN: usize = 4 + END_MAGIC.len();
/// Length of an entry in bytes; of a delta's without its base.
pub const ENTRY_LEN: usize = BlobId::LEN + 1 + 4 + 4;
/// Length of a delta's base in bytes.
const BASE_LEN: usize = BlobId::LEN + 1;

/// How a data key is sealed to an epoch: HPKE with X-Wing, X25519 and ML-KEM-768 in one. Number 1 was
/// X25519 alone and is not used.
pub const KEM_X_WING: u8 = 2;

/// The name of a pack's object: `packs/<first two digits>/<id>`.
pub fn object_name(id: PackId) -> String {
    let id = id.to_string();
    format!("packs/{}/{id}", &id[..2])
}

/// A session's data key, sealed to the public key of an epoch (HPKE, RFC 9180).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// Commits to the plain key.
    pub id: DataKeyId,
    /// The key epoch whose secret key opens it.
    pub epoch: u32,
    /// The encapsulated key.
    pub kem_output: [u8; KEM_OUTPUT_LEN],
    /// The sealed key.
    pub sealed: [u8; SEALED_KEY_LEN],
}

impl WrappedKey {
    /// Appends the [`WRAPPED_KEY_LEN`] bytes.
    pub fn encode(&self, out: &mut Encoder) {
        out.bytes(&self.id.0);
        out.u32(self.epoch);
        out.u8(KEM_X_WING);
        out.bytes(&self.kem_output);
        out.bytes(&self.sealed);
    }

    /// Reads what [`encode`](Self::encode) writes.
    ///
    /// # Errors
    /// Too short, or another way of sealing.
    pub fn decode(input: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let id = DataKeyId(input.array()?);
        let epoch = input.u32()?;
        match input.u8()? {
            KEM_X_WING => {}
            other => return Err(Malformed::new(format!("data key sealed by unknown method {other}"))),
        }
        Ok(Self { id, epoch, kem_output: input.array()?, sealed: input.array()? })
    }
}

/// The plain front of a pack. Its bytes are bound into the trailer's associated data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackHeader {
    /// The repository it belongs to.
    pub repo: RepoId,
    /// The session that wrote it.
    pub session: SnapshotId,
    /// The key its blobs are sealed under.
    pub key: WrappedKey,
}

impl PackHeader {
    /// The [`HEADER_LEN`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.bytes(&MAGIC);
        out.u16(FORMAT_VERSION);
        out.bytes(&self.repo.0);
        out.bytes(&self.session.0);
        self.key.encode(&mut out);
        out.0
    }

    /// Reads exactly what [`encode`](Self::encode) writes.
    ///
    /// # Errors
    /// Not a pack, another version, wrong length.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Decoder(bytes);
        if input.array()? != MAGIC {
            return Err(Malformed::new("does not begin like a pack"));
        }
        match input.u16()? {
            FORMAT_VERSION => {}
            other => return Err(Malformed::new(format!("pack format {other}, this program reads {FORMAT_VERSION}"))),
        }
        let header = Self {
            repo: RepoId(input.array()?),
            session: SnapshotId(input.array()?),
            key: WrappedKey::decode(&mut input)?,
        };
        input.end()?;
        Ok(header)
    }
}

/// How a blob's bytes are encoded before sealing. Pluggable: later codecs take the next numbers
/// behind a required-feature flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Raw = 0,
    /// One zstd frame (RFC 8878) without content size or checksum.
    Zstd = 1,
    /// Rows by columns (`docs/format.md`, columnar).
    Columnar = 2,
    /// A zstd frame with the plain bytes of another blob, its base, in front of what is compressed.
    Delta = 3,
}

impl Codec {
    /// The codec of a stored number.
    ///
    /// # Errors
    /// A number that this version does not know.
    pub fn from_u8(n: u8) -> Result<Self, Malformed> {
        match n {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            2 => Ok(Self::Columnar),
            3 => Ok(Self::Delta),
            other => Err(Malformed::new(format!("blob with unknown codec {other}"))),
        }
    }
}

/// What a delta is the difference to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The blob.
    pub id: BlobId,
    /// The version of the delta, from 1 to [`VERSION_MAX`]. Its base is read from a copy of a lower version, or whole:
    /// so chains end, whatever copies there are.
    pub version: u8,
}

/// The highest version of a delta. By skip-deltas (`docs/format.md`) no version up to it has a chain of more than
/// [`CHAIN_MAX`].
pub const VERSION_MAX: u8 = 62;
/// Most deltas that lead to a whole blob.
pub const CHAIN_MAX: usize = 5;

/// One blob of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobEntry {
    /// The plain bytes' id.
    pub id: BlobId,
    /// How they are encoded.
    pub codec: Codec,
    /// Plain length in bytes.
    pub raw_len: u32,
    /// Stored length in bytes, nonce and tag included.
    pub stored_len: u32,
    /// The base of a [`Codec::Delta`]; none otherwise.
    pub base: Option<Base>,
}

impl BlobEntry {
    /// The version of a delta; 0 of a blob that is stored whole.
    pub fn version(&self) -> u8 {
        self.base.map_or(0, |base| base.version)
    }

    /// Length in bytes.
    pub fn encoded_len(&self) -> usize {
        ENTRY_LEN + if self.base.is_some() { BASE_LEN } else { 0 }
    }

    fn encode(&self, out: &mut Encoder) {
        out.bytes(&self.id.0);
        out.u8(self.codec as u8);
        out.u32(self.raw_len);
        out.u32(self.stored_len);
        if let Some(base) = &self.base {
            out.bytes(&base.id.0);
            out.u8(base.version);
        }
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let (id, codec) = (BlobId(input.array()?), Codec::from_u8(input.u8()?)?);
        let (raw_len, stored_len) = (input.u32()?, input.u32()?);
        let base = match codec {
            Codec::Delta => Some(Base { id: BlobId(input.array()?), version: input.u8()? }),
            Codec::Raw | Codec::Zstd | Codec::Columnar => None,
        };
        let entry = Self { id, codec, raw_len, stored_len, base };
        if base.is_some_and(|base| base.id == id || !(1..=VERSION_MAX).contains(&base.version)) {
            return Err(Malformed::new(format!("blob {id} is a delta of version {}", entry.version())));
        }
        let is_possible = (1..=BLOB_RAW_BYTES_MAX).contains(&(entry.raw_len as usize))
            && (BLOB_STORED_BYTES_MIN..=BLOB_STORED_BYTES_MAX).contains(&(entry.stored_len as usize));
        if !is_possible {
            return Err(Malformed::new(format!(
                "blob {} claims {} bytes stored as {}",
                entry.id, entry.raw_len, entry.stored_len
            )));
        }
        Ok(entry)
    }
}

/// Appends a list of entries: the plain trailer, and a pack's part of an index object.
pub fn encode_entries(entries: &[BlobEntry], out: &mut Encoder) {
    out.len(entries.len());
    for entry in entries {
        entry.encode(out);
    }
}

/// Reads what [`encode_entries`] writes. The blobs fit a pack of at most [`PACK_BYTES_MAX`].
///
/// # Errors
/// Too many, too long, unknown codec.
pub fn decode_entries(input: &mut Decoder<'_>) -> Result<Vec<BlobEntry>, Malformed> {
    let n = input.len(PACK_BLOBS_MAX, ENTRY_LEN)?;
    let entries = (0..n).map(|_| BlobEntry::decode(input)).collect::<Result<Vec<_>, _>>()?;
    if blobs_end(&entries) > PACK_BYTES_MAX {
        return Err(Malformed::new("blobs exceed the largest pack"));
    }
    Ok(entries)
}

/// The plain trailer: what the pack holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// BLAKE3 of all bytes in front of the sealed trailer: header, blobs, padding. Lets anybody with the
    /// index key find a flipped bit anywhere without being able to read a blob.
    pub content: [u8; 32],
    /// The blobs in order.
    pub entries: Vec<BlobEntry>,
}

impl Trailer {
    /// Length of the plain bytes of a trailer of these entries.
    pub fn encoded_len(entries: &[BlobEntry]) -> usize {
        Self::FRONT_LEN + entries.iter().map(BlobEntry::encoded_len).sum::<usize>()
    }

    /// Length of a trailer without entries.
    pub const FRONT_LEN: usize = 32 + 4;

    /// The plain bytes, to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder(Vec::with_capacity(Self::encoded_len(&self.entries)));
        out.bytes(&self.content);
        encode_entries(&self.entries, &mut out);
        out.0
    }

    /// Reads exactly what [`encode`](Self::encode) writes.
    ///
    /// # Errors
    /// See [`decode_entries`]; bytes left over.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Decoder(bytes);
        let trailer = Self { content: input.array()?, entries: decode_entries(&mut input)? };
        input.end()?;
        Ok(trailer)
    }
}

/// Where each blob begins: `(offset in the pack, entry)`.
pub fn with_offsets(entries: &[BlobEntry]) -> impl Iterator<Item = (u32, &BlobEntry)> {
    entries.iter().scan(HEADER_LEN as u32, |at, entry| {
        let offset = *at;
        *at += entry.stored_len;
        Some((offset, entry))
    })
}

/// Where the last blob ends, in bytes from the pack's beginning.
pub fn blobs_end(entries: &[BlobEntry]) -> u64 {
    HEADER_LEN as u64 + entries.iter().map(|e| u64::from(e.stored_len)).sum::<u64>()
}

/// The footer: length of the sealed trailer that lies in front of it.
pub fn encode_footer(trailer_len: usize) -> [u8; FOOTER_LEN] {
    let mut out = Encoder::default();
    out.len(trailer_len);
    out.bytes(&END_MAGIC);
    out.0.try_into().expect("a footer has FOOTER_LEN bytes")
}

/// The sealed trailer's length, from the last [`FOOTER_LEN`] bytes of a pack of `pack_len` bytes.
///
/// # Errors
/// Not a footer; a trailer that could not lie in this pack.
pub fn decode_footer(bytes: &[u8], pack_len: u64) -> Result<usize, Malformed> {
    let mut input = Decoder(bytes);
    let len = input.u32()? as usize;
    if input.array()? != END_MAGIC {
        return Err(Malformed::new("does not end like a pack (truncated?)"));
    }
    input.end()?;
    if len > TRAILER_BYTES_MAX || (HEADER_LEN + len + FOOTER_LEN) as u64 > pack_len {
        return Err(Malformed::new(format!("trailer of {len} bytes in a pack of {pack_len}")));
    }
    Ok(len)
}

/// The Padmé length of `len`: the next length whose binary form ends in enough zeros to leave only
/// `log2 log2 len` bits of information (Nikitin et al., PURBs, PETS 2019, section 4). At most 12 %
/// longer, at most a 32nd from 1 MiB on.
pub fn padme(len: u64) -> u64 {
    if len < 2 {
        return len;
    }
    let exponent = len.ilog2();
    let mantissa_bits = exponent.checked_ilog2().map_or(0, |s| s + 1);
    let mask = (1u64 << exponent.saturating_sub(mantissa_bits)) - 1;
    (len + mask) & !mask
}
