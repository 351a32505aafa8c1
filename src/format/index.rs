//! Index objects: which blob is in which pack. Rebuildable from the packs' trailers alone.
//!
//! ```text
//! magic 8 | version u16 | n u32, wrapped data keys |
//! n u32, packs: id 16 | size u64 | session 16 | author 16 | time i64 | key u32 (place in the list
//!               above) | n u32, entries
//! ```

use std::collections::{HashMap, HashSet};

use super::bytes::{Decoder, Encoder};
use super::limits::{INDEX_BYTES_MAX, INDEX_KEYS_MAX, INDEX_PACKS_MAX, PACK_BYTES_MAX};
use super::pack::{BlobEntry, WRAPPED_KEY_LEN, WrappedKey, blobs_end, decode_entries, encode_entries};
use super::signed::Claim;
use super::{FORMAT_VERSION, Malformed};
use crate::id::{DataKeyId, IndexId, PackId, SlotId, SnapshotId};

/// The first bytes of a plain index object.
pub const MAGIC: [u8; 8] = *b"ALVMINDX";

/// Length of a pack's line without its entries.
const PACK_LEN: usize = PackId::LEN + 8 + SnapshotId::LEN + SlotId::LEN + 8 + 4 + 4;

/// The name of an index object.
pub fn object_name(id: IndexId) -> String {
    format!("index/{id}")
}

/// A pack as an index object lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedPack {
    /// The pack.
    pub id: PackId,
    /// Its whole size in bytes.
    pub size: u64,
    /// The session that wrote it.
    pub session: SnapshotId,
    /// The slot that wrote it, and when, as its trailer says.
    pub claim: Claim,
    /// The data key its blobs are sealed under.
    pub key: DataKeyId,
    /// Its blobs in order.
    pub entries: Vec<BlobEntry>,
}

/// The plain contents of an index object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexObject {
    /// The data keys of the packs.
    pub keys: Vec<WrappedKey>,
    /// The packs.
    pub packs: Vec<IndexedPack>,
}

impl IndexObject {
    /// The plain bytes. Every pack's key must be in `keys`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.bytes(&MAGIC);
        out.u16(FORMAT_VERSION);
        out.len(self.keys.len());
        self.keys.iter().for_each(|key| key.encode(&mut out));
        let place: HashMap<_, _> = self.keys.iter().enumerate().map(|(i, key)| (key.id, i)).collect();
        out.len(self.packs.len());
        for pack in &self.packs {
            out.bytes(&pack.id.0);
            out.u64(pack.size);
            out.bytes(&pack.session.0);
            out.bytes(&pack.claim.author.0);
            out.u64(pack.claim.time.cast_unsigned());
            out.len(place[&pack.key]);
            encode_entries(&pack.entries, &mut out);
        }
        out.0
    }

    /// Reads exactly what [`encode`](Self::encode) writes.
    ///
    /// # Errors
    /// Not an index, another version, a length or place out of bounds, bytes left over.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > INDEX_BYTES_MAX {
            return Err(Malformed::new(format!("{} bytes of index, the limit is {INDEX_BYTES_MAX}", bytes.len())));
        }
        let mut input = Decoder(bytes);
        if input.array()? != MAGIC {
            return Err(Malformed::new("does not begin like an index"));
        }
        match input.u16()? {
            FORMAT_VERSION => {}
            other => return Err(Malformed::new(format!("index format {other}, this program reads {FORMAT_VERSION}"))),
        }
        let n = input.len(INDEX_KEYS_MAX, WRAPPED_KEY_LEN)?;
        let keys = (0..n).map(|_| WrappedKey::decode(&mut input)).collect::<Result<Vec<_>, _>>()?;
        if keys.iter().map(|k| k.id).collect::<HashSet<_>>().len() != keys.len() {
            return Err(Malformed::new("lists a data key twice"));
        }
        let n = input.len(INDEX_PACKS_MAX, PACK_LEN)?;
        let mut packs = Vec::with_capacity(n);
        for _ in 0..n {
            let (id, size, session) = (PackId(input.array()?), input.u64()?, SnapshotId(input.array()?));
            let claim = Claim { author: SlotId(input.array()?), time: input.u64()?.cast_signed() };
            let place = input.u32()? as usize;
            let key = keys
                .get(place)
                .ok_or_else(|| Malformed::new(format!("pack {id} names data key {place}, there are {}", keys.len())))?
                .id;
            let entries = decode_entries(&mut input)?;
            if size > PACK_BYTES_MAX || blobs_end(&entries) > size {
                return Err(Malformed::new(format!("pack {id} claims {size} bytes")));
            }
            packs.push(IndexedPack { id, size, session, claim, key, entries });
        }
        input.end()?;
        if packs.iter().map(|pack: &IndexedPack| pack.id).collect::<HashSet<_>>().len() != packs.len() {
            return Err(Malformed::new("lists a pack twice"));
        }
        Ok(Self { keys, packs })
    }
}
