//! Archives of `tar`: `pg_basebackup -Ft`, `tar c` (POSIX.1-2017, `pax`; GNU tar's manual, "Basic Tar Format").
//!
//! A member is a header of one block of 512 bytes and its content, filled up to a whole block. Headers for what does not fit
//! into it (`x` of PAX; `L` and `K` of GNU: a long name) are members themselves, in front of the one that they belong to. A
//! large member is a segment, so is every run of small ones. What is no header ends this: the rest stays in the segment that
//! it is in. Of content only the first bytes are looked at, to tell data files of PostgreSQL.

use super::super::grain::Grain;
use super::{Holds, LOOKAHEAD, Ledger, PAGE_HEADER, postgres_page, short_name};
use crate::id::PartName;

/// The name of members that are not segments of their own.
const SMALL: &str = "small members";
/// From this content on a member is a segment of its own, in bytes.
const LARGE: u64 = 64 << 10;
/// Bytes of a header; content takes a multiple of it.
const BLOCK: usize = 512;

/// Where an archive is, and in which segment.
pub struct Tar {
    /// Bytes until the next header.
    skip: u64,
    /// Nothing was scanned yet.
    fresh: bool,
    /// The current segment is a run of small members.
    small: bool,
    first: String,
    first_grain: Grain,
}

impl Tar {
    /// A segmenter for an archive that begins with `head`.
    pub fn recognise(head: &[u8]) -> Option<Self> {
        let header = Header::read(head.get(..BLOCK)?)?;
        if !header.is_plausible() {
            return None;
        }
        let (first, first_grain) = match look(head) {
            Found::Member(Member { name, size, grain, .. }) if size >= LARGE => (name, grain.unwrap_or_default()),
            _ => (SMALL.to_owned(), Grain::Any),
        };
        Some(Self { skip: 0, fresh: true, small: first == SMALL, first, first_grain })
    }

    /// The name of the first segment.
    pub fn first(&self) -> &str {
        &self.first
    }

    /// What the first segment consists of.
    pub fn first_grain(&self) -> Grain {
        self.first_grain
    }

    /// See [`Segmenter::scan`](super::Segmenter::scan).
    pub fn scan(&mut self, bytes: &[u8], last: bool, ledger: &mut Ledger) -> usize {
        let mut at = 0;
        loop {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len() - at);
            self.skip -= skipped as u64;
            at += skipped;
            if at == bytes.len() {
                return at;
            }
            self.skip = match look(&bytes[at..]) {
                Found::Member(Member { grain: None, .. }) if !last && !self.fresh => return at,
                Found::Member(member) if !ledger.is_full() => {
                    let large = (member.size >= LARGE).then(|| (&member.name[..], member.grain.unwrap_or_default()));
                    self.belong(large, at, ledger);
                    member.bytes
                }
                Found::TooLong(bytes) if !ledger.is_full() => {
                    self.belong(None, at, ledger);
                    bytes
                }
                Found::Unfinished if !last => return at,
                _ => u64::MAX,
            };
        }
    }

    /// A member stands at `at`; its name and what it consists of, if it is `large`. A segment begins, unless it is one more
    /// small one.
    fn belong(&mut self, large: Option<(&str, Grain)>, at: usize, ledger: &mut Ledger) {
        let goes_on = self.small && large.is_none();
        if !self.fresh && !goes_on {
            let (name, grain) = large.unwrap_or((SMALL, Grain::Any));
            ledger.begin(at, PartName::of(name), Holds::Piece, grain);
        }
        self.fresh = false;
        self.small = large.is_none();
    }
}

/// What stands where a member should begin.
enum Found {
    Member(Member),
    /// Headers that are longer than what may be looked at: so many bytes of them.
    TooLong(u64),
    /// More of it is needed.
    Unfinished,
    /// The archive's end, or no header.
    Nothing,
}

/// A member with all its headers.
struct Member {
    name: String,
    /// Bytes of its content.
    size: u64,
    /// Bytes of all of it.
    bytes: u64,
    /// What it consists of; `None` while its content is still to come that tells.
    grain: Option<Grain>,
}

/// What headers in front of a member's own one say.
#[derive(Default)]
struct Said {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Looks at the headers that `bytes` begin with. What is found does not depend on how much follows them.
fn look(bytes: &[u8]) -> Found {
    let mut said = Said::default();
    let mut at = 0;
    loop {
        if at + BLOCK > LOOKAHEAD {
            return Found::TooLong(at as u64);
        }
        let Some(block) = bytes.get(at..at + BLOCK) else { return Found::Unfinished };
        let Some(header) = Header::read(block) else { return Found::Nothing };
        let content = at + BLOCK;
        if !header.is_extension() {
            return member(&header, said, bytes, content);
        }
        let Some(filled) = header.size.checked_next_multiple_of(BLOCK as u64) else { return Found::Nothing };
        let Some(next) = filled.checked_add(content as u64) else { return Found::Nothing };
        if next > LOOKAHEAD as u64 {
            return Found::TooLong(next);
        }
        let Some(text) = bytes.get(content..next as usize) else { return Found::Unfinished };
        said.hear(header.kind, &text[..header.size as usize]);
        at = next as usize;
    }
}

/// The member whose own header ends at `content`.
fn member(header: &Header<'_>, said: Said, bytes: &[u8], content: usize) -> Found {
    let size = if header.has_content() { said.size.unwrap_or(header.size) } else { 0 };
    let content = match header.kind {
        b'S' => match sparse_end(bytes, content) {
            Ok(end) => end,
            Err(found) => return found,
        },
        _ => content,
    };
    let Some(filled) = size.checked_next_multiple_of(BLOCK as u64) else { return Found::Nothing };
    let Some(all) = filled.checked_add(content as u64) else { return Found::Nothing };
    let name = said.name.unwrap_or_else(|| header.name());
    let grain = grain(header, size, bytes, content);
    Found::Member(Member { name: short_name(&name), size, bytes: all, grain })
}

/// What a member of `size` bytes consists of whose content begins at `content`: of a data file of PostgreSQL, of its pages.
fn grain(header: &Header<'_>, size: u64, bytes: &[u8], content: usize) -> Option<Grain> {
    let may_be = size >= LARGE && header.is_file() && content + PAGE_HEADER <= LOOKAHEAD;
    if !may_be {
        return Some(Grain::Any);
    }
    let page = postgres_page(bytes.get(content..content + PAGE_HEADER)?);
    let page = page.filter(|page| size.is_multiple_of(*page as u64));
    Some(page.map_or(Grain::Any, |page| Grain::Pages { page, from: content as u64 }))
}

/// Where the map of a sparse file ends (GNU): its header, which ends at `at`, and every block of it say whether one follows.
fn sparse_end(bytes: &[u8], mut at: usize) -> Result<usize, Found> {
    let mut extended = bytes[at - BLOCK + 482] != 0;
    while extended {
        if at + BLOCK > LOOKAHEAD {
            return Err(Found::Nothing);
        }
        let block = bytes.get(at..at + BLOCK).ok_or(Found::Unfinished)?;
        extended = block[504] != 0;
        at += BLOCK;
    }
    Ok(at)
}

impl Said {
    /// Takes in the content of a header that belongs to the next member.
    fn hear(&mut self, kind: u8, text: &[u8]) {
        match kind {
            b'L' => self.name = Some(until_zero(text).to_vec()),
            b'x' | b'X' => self.hear_records(text),
            _ => {}
        }
    }

    /// Records of PAX: `27 path=some/where\n`, where 27 is the length of all that.
    fn hear_records(&mut self, mut text: &[u8]) {
        while let Some((record, rest)) = record(text) {
            if let Some(path) = record.strip_prefix(b"path=") {
                self.name = Some(path.to_vec());
            } else if let Some(size) = record.strip_prefix(b"size=") {
                self.size = digits(size, 10).or(self.size);
            }
            text = rest;
        }
    }
}

/// The record that `text` begins with, without its length, and what follows it.
fn record(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = memchr::memchr(b' ', text)?;
    let length = usize::try_from(digits(&text[..blank], 10)?).ok()?;
    let record = text.get(blank + 1..length)?.strip_suffix(b"\n")?;
    Some((record, &text[length..]))
}

/// A header whose checksum is right.
struct Header<'b> {
    block: &'b [u8],
    /// What kind of member it is.
    kind: u8,
    /// Bytes of its content, as it says itself.
    size: u64,
}

impl<'b> Header<'b> {
    /// The header that `block` is.
    fn read(block: &'b [u8]) -> Option<Self> {
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let of_checksum: u64 = block[148..156].iter().map(|byte| u64::from(*byte)).sum();
        let blanks = 8 * u64::from(b' ');
        // The zeros at an archive's end have the checksum 0, which is wrong.
        let is_right = number(&block[148..156])? == sum - of_checksum + blanks;
        is_right.then_some(Self { block, kind: block[156], size: number(&block[124..136])? })
    }

    /// Is it one rather than something whose bytes have this sum by chance? Archives of before 1988 have no magic.
    fn is_plausible(&self) -> bool {
        let numbers = [100..108, 108..116, 116..124, 136..148];
        let is_old = matches!(self.kind, 0 | b'0'..=b'7')
            && self.block[0] != 0
            && numbers.into_iter().all(|field| number(&self.block[field]).is_some());
        self.block[257..].starts_with(b"ustar") || is_old
    }

    /// Does it belong to the member that follows?
    fn is_extension(&self) -> bool {
        matches!(self.kind, b'x' | b'X' | b'g' | b'L' | b'K')
    }

    /// Links, devices, folders and pipes have none, whatever size they tell.
    fn has_content(&self) -> bool {
        !matches!(self.kind, b'1'..=b'6')
    }

    /// Is it a plain file?
    fn is_file(&self) -> bool {
        matches!(self.kind, 0 | b'0' | b'7')
    }

    /// The name in this header alone, cut where it is long.
    fn name(&self) -> Vec<u8> {
        let name = until_zero(&self.block[..100]);
        let prefix = until_zero(&self.block[345..500]);
        if self.block[257..].starts_with(b"ustar\0") && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    }
}

/// The bytes before the first zero.
fn until_zero(field: &[u8]) -> &[u8] {
    memchr::memchr(0, field).map_or(field, |end| &field[..end])
}

/// A number: octal digits between blanks and zeros, or, where the first bit is set, binary (GNU). `None` where it is
/// neither, negative, or too large. An empty field is 0.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, bytes @ ..] = field {
        return bytes.iter().try_fold(0_u64, |number, byte| number.checked_mul(256)?.checked_add(u64::from(*byte)));
    }
    let text = until_zero(field).trim_ascii();
    if text.is_empty() { Some(0) } else { digits(text, 8) }
}

/// Digits of a number to this base, and nothing else.
fn digits(text: &[u8], base: u32) -> Option<u64> {
    let add = |number: u64, byte: &u8| {
        let digit = char::from(*byte).to_digit(base)?;
        number.checked_mul(u64::from(base))?.checked_add(u64::from(digit))
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, add) }
}
