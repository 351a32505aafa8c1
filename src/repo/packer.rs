//! Sealed blobs to packs, packs to storage, index objects after them (rule I1).
//!
//! Two packs are open at a time and each blob goes to one of them by chance, so that a pack's
//! composition does not tell the order of chunks. A pack is closed where padding is little, at the latest before it would
//! outgrow its size, and padded to a Padmé length with random bytes, so that its size tells little.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::env::{Env, lock};
use crate::error::{Error, Result};
use crate::format::ObjectKind;
use crate::format::index::{IndexObject, IndexedPack};
use crate::format::limits::PACK_BLOBS_MAX;
use crate::format::pack::{self, FOOTER_LEN, HEADER_LEN, PackHeader, Trailer, WrappedKey};
use crate::format::signed::{CLAIM_LEN, Claim};
use crate::id::PackId;
use crate::report::{Counter, Report};
use crate::transform::hash::{stream_digest, two_stream_digests};
use crate::transform::seal::OVERHEAD;

use super::blob::SealedBlob;
use super::rules::Rule;
use super::session::Session;
use super::{Indexed, Repository};

/// Packs whose blobs one index object lists, while a session works: bounds what a crash makes anew, and
/// what the session remembers.
const PACKS_PER_INDEX: usize = 64;
/// And how long a durable pack may wait for one: what an interruption costs over a slow line.
const INDEX_AFTER: Duration = Duration::from_mins(1);

/// A pack that can be written: its bytes and its line of the index.
pub struct ClosedPack {
    /// The line of the index.
    pub indexed: IndexedPack,
    /// The data key that its blobs are sealed under.
    key: WrappedKey,
    bytes: Vec<u8>,
}

/// A pack that takes blobs.
struct OpenPack {
    id: PackId,
    bytes: Vec<u8>,
    entries: Vec<pack::BlobEntry>,
    /// Length of the trailer.
    trailer: usize,
}

/// Gathers blobs into two open packs.
pub struct Packer<'s> {
    session: &'s Session<'s>,
    header: Vec<u8>,
    open: [Option<OpenPack>; 2],
    dice: Dice,
}

/// Padding is little below this part of the pack. A pack that waits until the next chunk does not fit needs half a chunk of
/// it: with chunks of 128 KiB half a per cent.
const LITTLE_PADDING: u64 = 1024;

impl<'s> Packer<'s> {
    /// A packer for a session's blobs.
    pub fn new(session: &'s Session<'s>) -> Self {
        let repo = session.repo();
        let header = PackHeader { repo: repo.id, session: session.id, key: session.key.wrapped.clone() }.encode();
        Self { session, header, open: [None, None], dice: Dice::default() }
    }

    /// Adds a blob. A pack that has no room for it is closed and returned; or one that is nearly full, where it needs hardly any
    /// padding just now.
    pub fn add(&mut self, blob: SealedBlob) -> Option<ClosedPack> {
        let repo = self.session.repo();
        let side = self.dice.throw(repo.env.as_ref());
        let full = self.open[side].as_ref().is_some_and(|open| {
            let size = size_of(open.bytes.len() + blob.bytes.len(), open.trailer + blob.entry.encoded_len());
            size > repo.parameters.pack_bytes || open.entries.len() == PACK_BLOBS_MAX
        });
        let closed = if full { self.close(side) } else { None };
        let open = self.open[side].get_or_insert_with(|| OpenPack {
            id: PackId::random(repo.env.as_ref()),
            bytes: {
                // Room for the whole pack at once: untouched pages cost nothing, growing would copy.
                let mut bytes = Vec::with_capacity(repo.parameters.pack_bytes as usize);
                bytes.extend_from_slice(&self.header);
                bytes
            },
            entries: Vec::new(),
            trailer: Trailer::FRONT_LEN,
        });
        open.trailer += blob.entry.encoded_len();
        open.bytes.extend_from_slice(&blob.bytes);
        open.entries.push(blob.entry);
        let size = size_of(open.bytes.len(), open.trailer);
        let is_nearly_full = size * 4 > repo.parameters.pack_bytes * 3;
        if closed.is_none() && is_nearly_full && (pack::padme(size) - size) * LITTLE_PADDING < size {
            return self.close(side);
        }
        closed
    }

    /// Closes what is open. Two packs that fit into one become one.
    pub fn finish(&mut self) -> Vec<ClosedPack> {
        if let [Some(first), Some(second)] = &mut self.open {
            let entries = first.entries.len() + second.entries.len();
            let together = size_of(first.bytes.len() + second.bytes.len(), first.trailer + second.trailer);
            if entries <= PACK_BLOBS_MAX && together <= self.session.repo().parameters.pack_bytes {
                first.bytes.extend_from_slice(&second.bytes[HEADER_LEN..]);
                first.entries.append(&mut second.entries);
                first.trailer += second.trailer - Trailer::FRONT_LEN;
                self.open[1] = None;
            }
        }
        [self.close(0), self.close(1)].into_iter().flatten().collect()
    }

    fn close(&mut self, side: usize) -> Option<ClosedPack> {
        let OpenPack { id, mut bytes, entries, trailer } = self.open[side].take()?;
        let repo = self.session.repo();
        let env = repo.env.as_ref();
        let size = pack::padme(size_of(bytes.len(), trailer));
        let blobs_end = bytes.len();
        bytes.resize(size as usize - FOOTER_LEN - OVERHEAD - CLAIM_LEN - trailer, 0);
        env.fill_random(&mut bytes[blobs_end..]);
        let trailer = Trailer { content: stream_digest(&bytes), entries };
        let claim = repo.keys.claim(env);
        let sealed = seal_trailer(repo, claim, id, &self.header, &trailer);
        bytes.extend_from_slice(&sealed);
        bytes.extend_from_slice(&pack::encode_footer(sealed.len()));
        let indexed = IndexedPack {
            id,
            size,
            session: self.session.id,
            claim,
            key: self.session.key.wrapped.id,
            entries: trailer.entries,
        };
        Some(ClosedPack { indexed, key: self.session.key.wrapped.clone(), bytes })
    }
}

/// Takes a pack over from `from`, a repository with the same id and keys: its blobs as they lie there, under a
/// header of this session and a name of its own. The name is new because names are never used again (rule I4): a
/// prune that has condemned the old one here may be about to delete it.
///
/// This slot signs it then, and all that it holds, though no blob is opened: so a full slot must have written it,
/// which is not distrusted, and no check may have found anything of it damaged. Who wrote what and when is what `from`
/// says, as [`Indexed::vouched`] returns it.
///
/// # Errors
/// `Damaged` when `bytes` are not the pack that its trailer describes, or when its writer is not trusted that far.
pub fn take_over(session: &Session<'_>, from: &Indexed<'_>, id: PackId, mut bytes: Vec<u8>) -> Result<ClosedPack> {
    let repo = session.repo();
    let env = repo.env.as_ref();
    let (state, source) = (&from.state, from.repo);
    if state.distrusted.iter().any(|distrusted| distrusted.pack == id) {
        let what = "was found damaged: what it holds is taken over blob by blob";
        return Err(Error::damaged(pack::object_name(id), what));
    }
    let read = source.describe_pack(id, &bytes)?;
    // The trailer is signed; what the index says of the author may be a lie.
    let author = read.indexed.claim.author;
    if from.is_unvouched(id) || !source.keys.is_full(author) || state.distrusts(author, written_at(&read.indexed)) {
        let what = format!("slot {author} wrote it, and is not trusted with what is not read: it can't be taken over");
        return Err(Error::damaged(pack::object_name(id), what));
    }
    let key = session.take_over_data_key(source, &read.key).map_err(|e| e.during(pack::object_name(id)))?;
    let header = PackHeader { repo: repo.id, session: session.id, key: key.clone() }.encode();
    bytes.truncate(read.trailer_at as usize);
    // The digest proves every byte: no blob need be opened.
    let [found, content] = two_stream_digests(&bytes, &header);
    if found != read.content {
        return Err(Error::damaged(pack::object_name(id), "its bytes are not those that its trailer's digest tells"));
    }
    bytes[..HEADER_LEN].copy_from_slice(&header);
    let new = PackId::random(env);
    let trailer = Trailer { content, entries: read.indexed.entries };
    let claim = repo.keys.claim(env);
    let sealed = seal_trailer(repo, claim, new, &header, &trailer);
    bytes.extend_from_slice(&sealed);
    bytes.extend_from_slice(&pack::encode_footer(sealed.len()));
    let indexed = IndexedPack {
        id: new,
        size: bytes.len() as u64,
        session: session.id,
        claim,
        key: key.id,
        entries: trailer.entries,
    };
    Ok(ClosedPack { indexed, key, bytes })
}

/// When its writer says that a pack was written; of a time that can't be, the latest.
fn written_at(pack: &IndexedPack) -> Timestamp {
    Timestamp::from_second(pack.claim.time).unwrap_or(Timestamp::MAX)
}

/// The size of a pack before padding: `bytes` of header and blobs, and a plain trailer of `trailer` bytes.
fn size_of(bytes: usize, trailer: usize) -> u64 {
    (bytes + CLAIM_LEN + trailer + OVERHEAD + FOOTER_LEN) as u64
}

/// A trailer, signed and sealed.
fn seal_trailer(repo: &Repository, claim: Claim, id: PackId, header: &[u8], trailer: &Trailer) -> Vec<u8> {
    let bound = trailer_name(id, header);
    repo.keys.seal_claimed(repo.env.as_ref(), claim, ObjectKind::PackTrailer, &bound, &trailer.encode())
}

/// What a trailer is bound to: the pack's name and its whole header.
pub fn trailer_name(id: PackId, header: &[u8]) -> Vec<u8> {
    let mut name = pack::object_name(id).into_bytes();
    name.extend_from_slice(header);
    name
}

/// One random bit at a time, without a system call for each.
#[derive(Default)]
struct Dice {
    bits: u64,
    left: u32,
}

impl Dice {
    fn throw(&mut self, env: &dyn Env) -> usize {
        if self.left == 0 {
            let mut bytes = [0; 8];
            env.fill_random(&mut bytes);
            (self.bits, self.left) = (u64::from_le_bytes(bytes), 64);
        }
        let bit = self.bits & 1;
        self.bits >>= 1;
        self.left -= 1;
        bit as usize
    }
}

/// Writes packs, and index objects for those that are durable. Used by several threads.
pub struct Shelf<'s> {
    session: &'s Session<'s>,
    report: &'s dyn Report,
    durable: Mutex<Durable>,
}

/// Packs that no index object lists yet.
#[derive(Default)]
struct Durable {
    packs: Vec<(IndexedPack, WrappedKey)>,
    /// When the first of them became durable.
    since: Option<Instant>,
}

impl<'s> Shelf<'s> {
    /// For a session's packs.
    pub fn new(session: &'s Session<'s>, report: &'s dyn Report) -> Self {
        Self { session, report, durable: Mutex::default() }
    }

    /// Makes a pack durable; an index object follows after [`PACKS_PER_INDEX`] packs or [`INDEX_AFTER`]. Returns the pack's
    /// buffer, empty, for the next one.
    ///
    /// # Errors
    /// `Storage`.
    pub fn put(&self, pack: ClosedPack) -> Result<Vec<u8>> {
        let ClosedPack { indexed, key, mut bytes } = pack;
        let storage = &self.session.repo().storage;
        storage.put_new_from(&pack::object_name(indexed.id), &mut bytes)?;
        self.report.count(Counter::Packs, 1);
        self.report.count(Counter::StoredBytes, indexed.size);
        self.session.wrote(indexed.id, indexed.size);
        let full = {
            let mut durable = self.lock();
            durable.packs.push((indexed, key));
            let due = durable.since.get_or_insert_with(Instant::now).elapsed() >= INDEX_AFTER;
            (due || durable.packs.len() >= PACKS_PER_INDEX).then(|| std::mem::take(&mut *durable))
        };
        if let Some(durable) = full {
            self.publish(durable.packs)?;
        }
        Ok(bytes)
    }

    /// Publishes the index of what is durable and not yet listed.
    ///
    /// # Errors
    /// `Storage`.
    pub fn finish(&self) -> Result<()> {
        let packs = std::mem::take(&mut *self.lock()).packs;
        let kept = self.session.repo().rules.keep(Rule::IndexBeforeManifest);
        if packs.is_empty() || !kept { Ok(()) } else { self.publish(packs) }
    }

    fn publish(&self, packs: Vec<(IndexedPack, WrappedKey)>) -> Result<()> {
        let (packs, keys): (Vec<_>, Vec<_>) = packs.into_iter().unzip();
        let keys: BTreeMap<_, _> = keys.into_iter().map(|key| (key.id, key)).collect();
        let object = IndexObject { keys: keys.into_values().collect(), packs };
        self.session.check_alive()?;
        self.session.repo().publish_index(&object)?;
        self.session.indexed_now(object.packs.iter().flat_map(|p| &p.entries).map(|e| &e.id));
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Durable> {
        lock(&self.durable)
    }
}
