//! Cuts a dump into named segments where its tables, members or collections begin and end, while it passes.
//!
//! A dump is recognised by how it begins, never by its name. What is not recognised is one segment, and what is malformed
//! goes on in the segment that it is in: a segmenter that is wrong costs economy and convenience, never a byte, since the
//! segments are what lies between the cuts.

use memchr::memchr_iter;

use self::archive::Archive;
use self::sql::{Dialect, Sql};
use self::tar::Tar;
use super::grain::Grain;
use crate::id::PartName;

pub mod archive;
pub mod collection;
pub mod rows;
pub mod sql;
pub mod tar;
pub mod units;

/// Bytes that a segmenter may leave unconsumed to see what follows them.
pub const LOOKAHEAD: usize = 64 << 10;

/// Most segments of a stream; what follows is the last one.
const SEGMENTS_MAX: usize = 1 << 15;

/// The name of what follows the last of them.
pub const THE_REST: &str = "the rest";

/// Longest name of a segment, in characters: it fits into a part's name.
const NAME_CHARACTERS_MAX: usize = 1000;
/// Longest name of a database or schema in it, in characters.
const FRONT_CHARACTERS_MAX: usize = 200;

/// What a stream was recognised as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// A dump of SQL text.
    Sql(Dialect),
    /// An archive of `tar`.
    Tar,
    /// An archive of `mongodump`.
    Mongodump,
    /// A database file of `SQLite`.
    SqlitePages,
    /// A data file of PostgreSQL.
    PostgresPages,
    /// Lines that are rows.
    Lines,
}

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Statements that belong to no one table: definitions, constraints, settings.
    Statements,
    /// The statements of one table; or lines that are rows.
    Table,
    /// Bytes of a stream that can stand by themselves: a member of an archive, blocks of a collection.
    Piece,
}

/// A segment begins, and the one before it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where, in the bytes of this scan.
    pub at: usize,
    /// The segment's name, which no other segment of the stream has.
    pub name: PartName,
    /// What it holds.
    pub holds: Holds,
    /// What it consists of.
    pub grain: Grain,
    /// Rows of the segment that ends here.
    pub rows_before: u64,
}

/// Watches a stream pass.
pub struct Segmenter {
    how: How,
    ledger: Ledger,
}

enum How {
    Sql(Box<Sql>),
    Tar(Tar),
    Archive(Archive),
    /// A file of pages, which is one segment.
    Pages(Pages),
    /// CSV, TSV and NDJSON: every line is a row.
    Lines,
}

impl Segmenter {
    /// A segmenter for a stream that begins with `head`; `None` where there is nothing to be told apart.
    pub fn recognise(head: &[u8]) -> Option<Self> {
        let how = (Sql::recognise(head).map(|sql| How::Sql(Box::new(sql))))
            .or_else(|| Tar::recognise(head).map(How::Tar))
            .or_else(|| Archive::recognise(head).map(How::Archive))
            .or_else(|| Pages::recognise(head).map(How::Pages))
            .or_else(|| is_lines(head).then_some(How::Lines))?;
        Some(Self { how, ledger: Ledger::default() })
    }

    /// A segmenter for a file that begins with `head`, which stays one segment; `None` where it has no pages.
    pub fn recognise_pages(head: &[u8]) -> Option<Self> {
        Some(Self { how: How::Pages(Pages::recognise(head)?), ledger: Ledger::default() })
    }

    /// What the stream was recognised as.
    pub fn recognised(&self) -> Recognised {
        match &self.how {
            How::Sql(sql) => Recognised::Sql(sql.dialect()),
            How::Tar(_) => Recognised::Tar,
            How::Archive(_) => Recognised::Mongodump,
            How::Pages(Pages { of_sqlite: true, .. }) => Recognised::SqlitePages,
            How::Pages(_) => Recognised::PostgresPages,
            How::Lines => Recognised::Lines,
        }
    }

    /// What the first segment consists of.
    pub fn first_grain(&self) -> Grain {
        match &self.how {
            How::Pages(pages) => Grain::Pages { page: pages.bytes, from: 0 },
            How::Tar(tar) => tar.first_grain(),
            How::Archive(_) => Archive::first_grain(),
            How::Sql(_) | How::Lines => Grain::Any,
        }
    }

    /// The first segment: its name, where it has one of its own, and what it holds.
    pub fn first(&mut self) -> (Option<PartName>, Holds) {
        match &self.how {
            How::Sql(_) => (Some(self.ledger.unique(PartName::of(sql::DEFINITIONS))), Holds::Statements),
            How::Tar(tar) => (Some(self.ledger.unique(PartName::of(tar.first()))), Holds::Piece),
            How::Archive(_) => (Some(self.ledger.unique(PartName::of(archive::PRELUDE))), Holds::Piece),
            How::Pages(_) => (None, Holds::Piece),
            How::Lines => (None, Holds::Table),
        }
    }

    /// Looks at the next bytes of the stream, of which those not consumed by the last scan are the first, and returns how
    /// many it has consumed: fewer than [`LOOKAHEAD`] are left, and none when this is the `last` scan. Segments that begin
    /// in them are appended to `begun`.
    pub fn scan(&mut self, bytes: &[u8], last: bool, begun: &mut Vec<Begin>) -> usize {
        let consumed = match &mut self.how {
            How::Sql(sql) => sql.scan(bytes, last, &mut self.ledger),
            How::Tar(tar) => tar.scan(bytes, last, &mut self.ledger),
            How::Archive(archive) => archive.scan(bytes, last, &mut self.ledger),
            How::Pages(_) => bytes.len(),
            How::Lines => {
                self.ledger.rows += memchr_iter(b'\n', bytes).count() as u64;
                self.ledger.open = bytes.last().map_or(self.ledger.open, |byte| *byte != b'\n');
                // A last line without its end is a row too.
                self.ledger.rows += u64::from(last && self.ledger.open);
                bytes.len()
            }
        };
        begun.append(&mut self.ledger.begun);
        consumed
    }

    /// Rows of the last segment.
    pub fn rows(&self) -> u64 {
        self.ledger.rows
    }
}

/// What a segmenter has found out.
#[derive(Default)]
pub struct Ledger {
    begun: Vec<Begin>,
    /// Pieces of each object.
    pieces: std::collections::HashMap<PartName, u32>,
    segments: usize,
    /// Rows of the current segment.
    rows: u64,
    /// The last line has not ended.
    open: bool,
}

impl Ledger {
    /// A segment begins at `at`.
    fn begin(&mut self, at: usize, name: PartName, holds: Holds, grain: Grain) {
        let full = self.segments >= SEGMENTS_MAX;
        // Of a dump, the rest may hold anything.
        let rest = if holds == Holds::Piece { holds } else { Holds::Statements };
        let (name, holds, grain) = if full { (PartName::of(THE_REST), rest, Grain::Any) } else { (name, holds, grain) };
        let name = self.unique(name);
        self.begun.push(Begin { at, name, holds, grain, rows_before: std::mem::take(&mut self.rows) });
    }

    /// No more segments begin.
    fn is_full(&self) -> bool {
        self.segments > SEGMENTS_MAX
    }

    /// The next piece of the object `name`.
    fn unique(&mut self, name: PartName) -> PartName {
        let name = shortened(name);
        let piece = self.pieces.entry(name.clone()).or_default();
        *piece += 1;
        self.segments += 1;
        PartName { piece: *piece, ..name }
    }
}

/// A name that is not too long.
fn shortened(name: PartName) -> PartName {
    let first = |text: String, n: usize| -> String { text.chars().take(n).collect() };
    let database = name.database.map(|database| first(database, FRONT_CHARACTERS_MAX));
    let schema = name.schema.map(|schema| first(schema, FRONT_CHARACTERS_MAX));
    let length = |text: &Option<String>| text.as_ref().map_or(0, |text| text.chars().count());
    let left = NAME_CHARACTERS_MAX - length(&database) - length(&schema);
    PartName { database, schema, object: first(name.object, left), piece: name.piece }
}

/// The name that an archive has for something, as text and not too long.
fn short_name(bytes: &[u8]) -> String {
    // No character of text takes more than four bytes.
    let bytes = &bytes[..bytes.len().min(4 * NAME_CHARACTERS_MAX)];
    let name: String = String::from_utf8_lossy(bytes).chars().take(NAME_CHARACTERS_MAX).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// How a database file of `SQLite` begins (<https://sqlite.org/fileformat2.html>).
const SQLITE: &[u8] = b"SQLite format 3\0";

/// A database file.
struct Pages {
    /// Bytes of a page.
    bytes: usize,
    of_sqlite: bool,
}

impl Pages {
    /// The database file that begins with `head`.
    fn recognise(head: &[u8]) -> Option<Self> {
        let sqlite = sqlite_page(head).map(|bytes| Self { bytes, of_sqlite: true });
        sqlite.or_else(|| Some(Self { bytes: postgres_page(head)?, of_sqlite: false }))
    }
}

/// Bytes of a header of a page of PostgreSQL (its manual, "Database Page Layout").
const PAGE_HEADER: usize = 24;
/// The only layout of pages since PostgreSQL 8.3.
const LAYOUT: usize = 4;

/// Bytes of a page of a data file of PostgreSQL (table, index) whose first page begins with `head`.
fn postgres_page(head: &[u8]) -> Option<usize> {
    let header = head.get(..PAGE_HEADER)?;
    let number = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let (flags, lower, upper, special, layout) = (number(10), number(12), number(14), number(16), number(18));
    let page = layout & 0xff00;
    let fits = PAGE_HEADER <= lower && lower <= upper && upper <= special && special <= page && flags < 8;
    (layout & 0xff == LAYOUT && page >= 1024 && page.is_power_of_two() && fits).then_some(page)
}

/// Bytes of a page of a file of `SQLite` that begins with `head`.
fn sqlite_page(head: &[u8]) -> Option<usize> {
    let page = match head.strip_prefix(SQLITE)?.first_chunk()? {
        // 65536 does not fit.
        [0, 1] => 65_536,
        bytes => usize::from(u16::from_be_bytes(*bytes)),
    };
    (page >= 512 && page.is_power_of_two()).then_some(page)
}

/// Lines to look at.
const LINES: usize = 20;

/// NDJSON, or at least three lines of text with the same number, at least one, of tabs or commas.
fn is_lines(head: &[u8]) -> bool {
    let Some(end) = memchr::memrchr(b'\n', head) else { return false };
    let lines: Vec<&[u8]> = head[..end].split(|b| *b == b'\n').take(LINES).collect();
    if head.contains(&0) || std::str::from_utf8(&head[..end]).is_err() {
        return false;
    }
    let trimmed = |line: &&[u8]| line.trim_ascii().len();
    let is_json = |line: &&[u8]| line.starts_with(b"{") && line.trim_ascii_end().ends_with(b"}");
    let separators = |by: u8| {
        let count = |line: &&[u8]| outside_quotes(line, by);
        let first = count(&lines[0]);
        first > 0 && lines.len() >= 3 && lines.iter().all(|line| count(line) == first)
    };
    lines.iter().all(|line| trimmed(line) > 0) && (lines.iter().all(is_json) || separators(b'\t') || separators(b','))
}

/// How often `by` stands in a line of CSV outside double quotes.
fn outside_quotes(line: &[u8], by: u8) -> usize {
    let mut quoted = false;
    line.iter()
        .filter(|byte| {
            quoted ^= **byte == b'"';
            **byte == by && !quoted
        })
        .count()
}
