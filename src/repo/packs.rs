//! Reading a pack as a pack: its header, its trailer, all of its blobs. For check, prune, repair and sync; restores
//! read blobs ([`super::reader`]).

use crate::error::{Error, Kind, Result};
use crate::format::ObjectKind;
use crate::format::index::IndexedPack;
use crate::format::limits::PACK_BYTES_MAX;
use crate::format::pack::{self, FOOTER_LEN, HEADER_LEN, PackHeader, Trailer, WrappedKey, blobs_end, decode_footer};
use crate::id::PackId;
use crate::transform::hash::stream_digest;

use super::Repository;
use super::packer::trailer_name;

/// What a pack says of itself.
pub struct ReadPack {
    /// As an index object would list it.
    pub indexed: IndexedPack,
    /// Its data key.
    pub key: WrappedKey,
    /// BLAKE3 of everything in front of the sealed trailer, by the trailer.
    pub content: [u8; 32],
    /// Where the sealed trailer begins, in bytes.
    pub trailer_at: u64,
}

impl Repository {
    /// A pack's header, of `size` bytes in all.
    ///
    /// # Errors
    /// `Damaged`, `NotFound`, `Storage`.
    pub fn read_pack_header(&self, id: PackId) -> Result<(Vec<u8>, PackHeader)> {
        let name = pack::object_name(id);
        let bytes = self.storage.get_range(&name, 0, HEADER_LEN)?;
        let header = self.decode_pack_header(id, &bytes)?;
        Ok((bytes, header))
    }

    /// Reads a pack's header and trailer: three small reads.
    ///
    /// # Errors
    /// `Damaged`, `NotFound`, `Storage`.
    pub fn read_pack(&self, id: PackId, size: u64) -> Result<ReadPack> {
        let name = pack::object_name(id);
        if size < (HEADER_LEN + FOOTER_LEN) as u64 {
            return Err(Error::damaged(name, format!("{size} bytes are no pack (truncated?)")));
        }
        if size > PACK_BYTES_MAX {
            return Err(Error::damaged(name, format!("has {size} bytes, at most {PACK_BYTES_MAX} are allowed")));
        }
        let (header, _) = self.read_pack_header(id)?;
        let footer = self.storage.get_range(&name, size - FOOTER_LEN as u64, FOOTER_LEN)?;
        let trailer_len = decode_footer(&footer, size).map_err(|e| e.in_object(&name))?;
        let trailer_at = size - (FOOTER_LEN + trailer_len) as u64;
        let sealed = self.storage.get_range(&name, trailer_at, trailer_len)?;
        self.describe(id, size, &header, &sealed)
    }

    /// Reads the header and trailer of a pack if it is there. A prune may delete it between two reads.
    ///
    /// # Errors
    /// `Damaged`, `Storage`.
    pub fn find_pack(&self, id: PackId) -> Result<Option<ReadPack>> {
        let Some(size) = self.storage.stat(&pack::object_name(id))? else { return Ok(None) };
        match self.read_pack(id, size) {
            Ok(read) => Ok(Some(read)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What a whole pack at hand says of itself. Its bytes are not yet compared with the digest that it tells.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn describe_pack(&self, id: PackId, bytes: &[u8]) -> Result<ReadPack> {
        let name = pack::object_name(id);
        let size = bytes.len() as u64;
        if bytes.len() < HEADER_LEN + FOOTER_LEN {
            return Err(Error::damaged(name, format!("{size} bytes are no pack (truncated?)")));
        }
        let (rest, footer) = bytes.split_at(bytes.len() - FOOTER_LEN);
        let trailer_len = decode_footer(footer, size).map_err(|e| e.in_object(&name))?;
        let (front, sealed) = rest.split_at(rest.len() - trailer_len);
        self.describe(id, size, &front[..HEADER_LEN], sealed)
    }

    /// What a pack's header and sealed trailer say.
    fn describe(&self, id: PackId, size: u64, header_bytes: &[u8], sealed: &[u8]) -> Result<ReadPack> {
        let name = pack::object_name(id);
        let header = self.decode_pack_header(id, header_bytes)?;
        let trailer_at = size - (FOOTER_LEN + sealed.len()) as u64;
        let bound = trailer_name(id, header_bytes);
        let (claim, plain) = self.open_claim(ObjectKind::PackTrailer, &name, &bound, sealed)?;
        let Trailer { content, entries } = Trailer::decode(&plain).map_err(|e| e.in_object(&name))?;
        if blobs_end(&entries) > trailer_at {
            return Err(Error::damaged(name, "its blobs reach into its trailer"));
        }
        let indexed = IndexedPack { id, size, session: header.session, claim, key: header.key.id, entries };
        Ok(ReadPack { indexed, key: header.key, content, trailer_at })
    }

    fn decode_pack_header(&self, id: PackId, bytes: &[u8]) -> Result<PackHeader> {
        let name = pack::object_name(id);
        let header = PackHeader::decode(bytes).map_err(|e| e.in_object(&name))?;
        if header.repo == self.id { Ok(header) } else { Err(Error::damaged(name, "a pack of another repository")) }
    }

    /// All of a pack in front of its trailer, compared with the trailer's digest. The bytes come either way.
    ///
    /// # Errors
    /// `NotFound`, `Damaged` when it ends early, `Storage`.
    pub fn read_pack_content(&self, read: &ReadPack) -> Result<(Vec<u8>, bool)> {
        let bytes = self.storage.get_range(&pack::object_name(read.indexed.id), 0, read.trailer_at as usize)?;
        let whole = stream_digest(&bytes) == read.content;
        Ok((bytes, whole))
    }
}
