//! Archives of `mongodump --archive` without compression (mongo-tools, `common/archive/spec.md`).
//!
//! ```text
//! magic | document ... | end | block ...        end: ff ff ff ff
//! block: header {db, collection, EOF, CRC} | document ... | end
//! ```
//!
//! Collections are dumped at the same time, their blocks stand in any order. A segment begins where a block of another
//! collection does. Documents are passed over by the lengths that they begin with. What is no document ends this: the rest
//! stays in the segment that it is in.

use super::super::grain::Grain;
use super::{Holds, LOOKAHEAD, Ledger, short_name};
use crate::id::PartName;

/// The name of what stands in front of the blocks: options and indexes of all collections.
pub const PRELUDE: &str = "prelude";

const MAGIC: [u8; 4] = 0x8199_e26d_u32.to_le_bytes();
const END: [u8; 4] = [0xff; 4];
/// Lengths of documents, the four bytes of the length included; the largest has room for what the server adds.
const DOCUMENT_MIN: u32 = 5;
const DOCUMENT_MAX: u32 = (16 << 20) + (16 << 10);
/// So many segments come to be of any size; then large ones, and larger ones for each that many more.
const SEGMENTS_OF_ANY_SIZE: usize = 64;
/// A large segment, in bytes.
const LARGE: u64 = 1 << 20;

/// Whether an archive that became so many segments behind the prelude holds one collection in each.
pub fn holds_one_collection_each(segments: usize) -> bool {
    segments <= SEGMENTS_OF_ANY_SIZE
}

/// Where an archive is, and in which segment.
pub struct Archive {
    state: State,
    /// Bytes to pass over.
    skip: u64,
    /// The collection of the last block.
    collection: Option<String>,
    /// Segments of blocks.
    segments: usize,
    /// Bytes of the current one.
    bytes: u64,
    /// Bytes consumed by earlier scans.
    pub(super) consumed: u64,
    /// What stands where, when somebody wants to know.
    things: Option<Vec<(u64, Thing)>>,
}

/// What an archive consists of, behind its magic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    /// A document of the prelude.
    Prelude,
    /// A block's header.
    Block(Header),
    /// A document of a block.
    Document,
    /// The prelude's end.
    PreludeEnd,
    /// A block's end.
    End,
    /// What is none of these, up to the archive's end.
    Unknown,
}

/// What a block's header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// `db.collection`
    pub(super) collection: String,
    /// At a collection's end, the checksum of all its documents: CRC-64 of ECMA-182, reflected.
    pub(super) checksum: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// In front of a document or an end, in the prelude.
    Prelude,
    /// In front of a block.
    Between,
    /// In front of a document or an end, in a block.
    Block,
    /// In front of a document's last byte; in a block?
    LastByte { block: bool },
    /// In what is not understood.
    Rest,
}

impl Archive {
    /// A segmenter for an archive that begins with `head`.
    pub fn recognise(head: &[u8]) -> Option<Self> {
        document_bytes(head.strip_prefix(&MAGIC)?)?;
        let skip = MAGIC.len() as u64;
        Some(Self { state: State::Prelude, skip, collection: None, segments: 0, bytes: 0, consumed: 0, things: None })
    }

    /// One that notes what stands where, if an archive begins with `head`.
    pub(super) fn of_things(head: &[u8]) -> Option<Self> {
        Some(Self { things: Some(Vec::new()), ..Self::recognise(head)? })
    }

    /// What began since this was asked last, and where in the stream.
    pub(super) fn take_things(&mut self) -> Vec<(u64, Thing)> {
        self.things.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn note(&mut self, at: usize, thing: Thing) {
        if let Some(things) = &mut self.things {
            things.push((self.consumed + at as u64, thing));
        }
    }

    /// What the first segment consists of.
    pub fn first_grain() -> Grain {
        Grain::Documents { from: MAGIC.len() as u64 }
    }

    /// See [`Segmenter::scan`](super::Segmenter::scan).
    pub fn scan(&mut self, bytes: &[u8], last: bool, ledger: &mut Ledger) -> usize {
        let mut at = 0;
        loop {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len() - at);
            self.skip -= skipped as u64;
            self.bytes += skipped as u64;
            at += skipped;
            let rest = &bytes[at..];
            let stays = rest.is_empty() || self.state != State::Rest && self.step(rest, at, ledger).is_none();
            if stays && (rest.is_empty() || !last) {
                self.consumed += at as u64;
                return at;
            }
            if stays || self.state == State::Rest {
                self.note(at, Thing::Unknown);
                (self.state, self.skip) = (State::Rest, u64::MAX);
            }
        }
    }

    /// Looks at what `rest` begins with, and passes over it. `None` when more of it is needed.
    fn step(&mut self, rest: &[u8], at: usize, ledger: &mut Ledger) -> Option<()> {
        if let State::LastByte { block } = self.state {
            let inside = if block { State::Block } else { State::Prelude };
            (self.state, self.skip) = if rest[0] == 0 { (inside, 1) } else { (State::Rest, 0) };
            return Some(());
        }
        let is_end = *rest.first_chunk()? == END;
        let length = document_bytes(rest);
        (self.state, self.skip) = match (self.state, length) {
            (state @ (State::Prelude | State::Block), None) if is_end => {
                self.note(at, if state == State::Block { Thing::End } else { Thing::PreludeEnd });
                (State::Between, END.len() as u64)
            }
            (state @ (State::Prelude | State::Block), Some(length)) => {
                let block = state == State::Block;
                self.note(at, if block { Thing::Document } else { Thing::Prelude });
                (State::LastByte { block }, u64::from(length) - 1)
            }
            (State::Between, Some(length)) if length as usize <= LOOKAHEAD => {
                let header = header(rest.get(..length as usize)?);
                match header.filter(|_| !ledger.is_full()) {
                    Some(header) => {
                        self.belong(header.collection.clone(), at, ledger);
                        self.note(at, Thing::Block(header));
                        (State::LastByte { block: true }, u64::from(length) - 1)
                    }
                    None => (State::Rest, 0),
                }
            }
            _ => (State::Rest, 0),
        };
        Some(())
    }

    /// A block of `collection` begins at `at`.
    fn belong(&mut self, collection: String, at: usize, ledger: &mut Ledger) {
        let differs = self.collection.as_ref() != Some(&collection);
        if differs && (self.bytes >= LARGE * (self.segments / SEGMENTS_OF_ANY_SIZE) as u64) {
            // No database of MongoDB has a dot in its name.
            let name = match collection.split_once('.') {
                Some((database, collection)) => PartName::in_schema(database, collection),
                None => PartName::of(&collection[..]),
            };
            ledger.begin(at, name, Holds::Piece, Grain::Documents { from: 0 });
            self.segments += 1;
            self.bytes = 0;
        }
        self.collection = Some(collection);
    }
}

/// Bytes of what stands where a document or an end should: as the document says, or of the end. `None` for anything else.
pub fn thing_bytes(bytes: &[u8]) -> Option<u32> {
    if bytes.starts_with(&END) { Some(END.len() as u32) } else { document_bytes(bytes) }
}

/// The length that a document begins with, if it can be one.
fn document_bytes(bytes: &[u8]) -> Option<u32> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?);
    (DOCUMENT_MIN..=DOCUMENT_MAX).contains(&length).then_some(length)
}

/// A block's header.
fn header(document: &[u8]) -> Option<Header> {
    let (mut is_last, mut checksum) = (false, None);
    let collection = read_fields(document, &mut |kind, name, value| match (kind, name) {
        (8, b"EOF") => is_last = value == [1],
        (18, b"CRC") => checksum = value.first_chunk().copied().map(u64::from_le_bytes),
        _ => {}
    })?;
    Some(Header { collection, checksum: checksum.filter(|_| is_last) })
}

/// The collection that a document of the prelude describes, and what it says: options and indexes, as JSON.
pub(super) fn metadata(document: &[u8]) -> Option<(String, Vec<u8>)> {
    let mut metadata = None;
    let collection = read_fields(document, &mut |kind, name, value| {
        if (kind, name) == (2, b"metadata") {
            metadata = string(value).map(<[u8]>::to_vec);
        }
    })?;
    Some((collection, metadata?))
}

/// Gives the fields of a document, each with its kind, its name and its value, and returns the collection that they name:
/// `db.collection`.
fn read_fields(document: &[u8], take: &mut impl FnMut(u8, &[u8], &[u8])) -> Option<String> {
    let (mut database, mut collection) = (None, None);
    let mut rest = document.get(4..document.len().checked_sub(1)?)?;
    while let Some((kind, after)) = rest.split_first() {
        let (name, rest_of_it) = until_zero(after)?;
        let (value, next) = rest_of_it.split_at_checked(value_bytes(*kind, rest_of_it)?)?;
        match (kind, name) {
            (2, b"db") => database = Some(string(value)?),
            (2, b"collection") => collection = Some(string(value)?),
            _ => take(*kind, name, value),
        }
        rest = next;
    }
    Some(short_name(&[database?, b".", collection?].concat()))
}

/// The bytes before the first zero, and those behind it.
fn until_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Bytes of a value of this kind (<https://bsonspec.org>): of the kinds that headers have, and others of a fixed length.
fn value_bytes(kind: u8, value: &[u8]) -> Option<usize> {
    Some(match kind {
        // Double, date, timestamp, 64 bits.
        1 | 9 | 17 | 18 => 8,
        2 => (u32::from_le_bytes(*value.first_chunk()?) as usize).checked_add(4)?,
        8 => 1,
        10 => 0,
        16 => 4,
        _ => return None,
    })
}

/// A string: its length, its bytes, and a zero, which the length counts.
fn string(value: &[u8]) -> Option<&[u8]> {
    let length = u32::from_le_bytes(*value.first_chunk()?) as usize;
    value.get(4..)?.get(..length)?.strip_suffix(b"\0")
}
