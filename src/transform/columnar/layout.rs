//! How rows stand in a chunk, told by a first look at it: what is in front of a row, between two fields, behind a row.
//!
//! | rows | opening | between | closing |
//! |---|---|---|---|
//! | `COPY`, TSV | | tab | line feed |
//! | CSV | | `,` or `;` | line feed |
//! | `INSERT` a row, as of `pg_dump --inserts` and `SQLite` | `INSERT INTO t VALUES (` | `, ` or `,` | `);` line feed |
//! | many rows on a line, as of `mysqldump` | | `,` | `),(` |
//! | a row on a line, as of newer `mariadb-dump` | `(` | `,` | `),` line feed |
//! | any other lines | | | line feed |

use memchr::{memchr, memchr_iter, memrchr};

use super::rows::{Lexer, ROWS_MIN};

/// Rows that a look takes.
const LOOK: usize = 64;
/// Bytes that a look takes at most: a chunk of endless lines costs no more.
const LOOK_BYTES: usize = 64 << 10;
/// A look for control characters, and which part of it they are in bytes that are no text: of random ones a ninth.
const BINARY_LOOK: usize = 4 << 10;
const CONTROLS_MAX: usize = 16;
/// Most fields of a row.
const FIELDS_MAX: usize = 1024;
/// Longest text in front of a tuple that is a row by itself, and behind it.
const OPENING_MAX: usize = 32 << 10;
const CLOSING_MAX: usize = 64;
/// Rows are at least one in so many of what is looked at: one look may be at something else.
const SHARE_MIN: usize = 4;
/// Commas are in all lines: of CSV at least so many parts of all lines have the same number.
const CSV_SHARE: (usize, usize) = (7, 8);

/// How rows stand in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout<'r> {
    /// Fields of a row; at least one.
    pub columns: usize,
    /// In front of the first field.
    pub opening: &'r [u8],
    /// Between two fields; never empty.
    pub between: &'r [u8],
    /// Behind the last field; never empty. Behind its last byte another row may begin.
    pub closing: &'r [u8],
    /// What is around fields that hold any bytes; if none, rows are lines with tabs.
    pub quote: Option<u8>,
    /// Whether fields may hold parentheses with anything in them.
    pub nests: bool,
}

impl Layout<'_> {
    /// Lines of `columns` fields with tabs between them.
    pub(super) fn tabs(columns: usize) -> Self {
        Self { columns, opening: b"", between: b"\t", closing: b"\n", quote: None, nests: false }
    }
}

/// How most rows of `raw` stand in it, by a look at its beginning and one at its middle: a chunk may begin with the end of
/// something else. With `escapes` a backslash in quotes takes the next byte in.
pub(super) fn layout(raw: &[u8], escapes: bool) -> Option<Layout<'_>> {
    let tabs = by_tabs(raw);
    match tabs {
        Some(Layout { columns: 2.., .. }) => tabs,
        _ if !is_text(raw) => tabs,
        Some(_) => tuples(raw, escapes).or_else(|| csv(raw, escapes)).or(tabs),
        None => tuples(raw, escapes),
    }
}

/// Whether `raw` looks like text: no dump of SQL holds a zero byte, nearly all other bytes do.
pub(super) fn is_text(raw: &[u8]) -> bool {
    looks(raw).iter().all(|(from, to)| memchr(0, &raw[*from..*to]).is_none())
}

/// Whether the beginning of `raw` is full of control characters, as of what is compressed, encrypted or a program's.
pub(super) fn is_binary(raw: &[u8]) -> bool {
    let beginning = &raw[..raw.len().min(BINARY_LOOK)];
    let controls = beginning.iter().filter(|byte| **byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r'));
    controls.count() * CONTROLS_MAX > beginning.len()
}

/// Where looks begin and end.
fn looks(raw: &[u8]) -> [(usize, usize); 2] {
    [0, raw.len() / 2].map(|from| (from, raw.len().min(from + LOOK_BYTES)))
}

/// How often what was seen.
struct Seen<T>(Vec<(T, usize)>);

impl<T: PartialEq> Seen<T> {
    fn add(&mut self, one: T) {
        match self.0.iter_mut().find(|(other, _)| *other == one) {
            Some((_, seen)) => *seen += 1,
            None => self.0.push((one, 1)),
        }
    }

    /// What was seen most often, if often enough, and how often.
    fn most(self) -> Option<(T, usize)> {
        let all: usize = self.0.iter().map(|(_, seen)| seen).sum();
        let is_enough = |seen: usize| seen >= ROWS_MIN && seen * SHARE_MIN >= all;
        self.0.into_iter().max_by_key(|(_, seen)| *seen).filter(|(_, seen)| is_enough(*seen))
    }
}

/// Lines, by the tabs in most of them; of one column where these have none.
fn by_tabs(raw: &[u8]) -> Option<Layout<'_>> {
    let mut seen = Seen(Vec::new());
    for (from, to) in looks(raw) {
        // What a look in the middle begins with is the rest of a line.
        let lines = raw[from..to].split_inclusive(|&b| b == b'\n').skip(usize::from(from > 0)).take(LOOK);
        // Of tuples `pg_dump` moves those in to which a tab belongs.
        for line in lines.filter(|line| line.ends_with(b"\n") && !line.starts_with(b"\t(")) {
            seen.add(1 + memchr_iter(b'\t', line).count());
        }
    }
    let (columns, _) = seen.most()?;
    (columns <= FIELDS_MAX).then(|| Layout::tabs(columns))
}

/// Tuples of `INSERT` statements.
fn tuples(raw: &[u8], escapes: bool) -> Option<Layout<'_>> {
    let lexer = Lexer::of(b",)", Some(b'\''), true, escapes);
    let mut seen = Seen(Vec::new());
    for (from, to) in looks(raw) {
        let (mut looked_at, mut next) = (0, from);
        for open in memchr_iter(b'(', &raw[from..to]).map(|at| from + at) {
            if open >= next && looked_at < LOOK && begins_tuple(&raw[..open]) {
                looked_at += 1;
                if let Some((layout, end)) = tuple(&lexer, &raw[..to], open) {
                    seen.add(layout);
                    next = end;
                }
            }
        }
    }
    seen.most().map(|(layout, _)| layout)
}

/// Whether a parenthesis behind `before` opens a tuple.
fn begins_tuple(before: &[u8]) -> bool {
    let last = before.trim_ascii_end();
    let values = last.last_chunk().is_some_and(|word: &[u8; 6]| word.eq_ignore_ascii_case(b"VALUES"));
    before.len() - last.len() <= 3 && (values || last.ends_with(b"),"))
}

/// How the tuple that opens at `open` stands in `raw`, and where it ends.
fn tuple<'r>(lexer: &Lexer, raw: &'r [u8], open: usize) -> Option<(Layout<'r>, usize)> {
    let (mut columns, mut at, mut between) = (1, lexer.field(raw, open + 1).ok()?, &b","[..]);
    while raw[at] == b',' {
        if raw[at..].starts_with(b", ") {
            between = b", ";
        }
        columns += 1;
        at = lexer.field(raw, at + 1).ok().filter(|_| columns <= FIELDS_MAX)?;
    }
    let (close, rest) = (at, &raw[at..]);
    let (opening, closing) = if rest.starts_with(b"),(") {
        (&b""[..], &rest[..3])
    } else {
        let end = 1 + memchr(b'\n', &rest[..rest.len().min(CLOSING_MAX)])?;
        let near = open.saturating_sub(OPENING_MAX);
        let begin = memrchr(b'\n', &raw[near..open]).map_or(near, |line| near + line + 1);
        (&raw[begin..=open], &rest[..end])
    };
    Some((Layout { columns, opening, between, closing, quote: Some(b'\''), nests: true }, close + closing.len()))
}

/// Lines with commas or semicolons between fields.
fn csv(raw: &[u8], escapes: bool) -> Option<Layout<'_>> {
    [&b","[..], b";"].into_iter().find_map(|between| {
        let lexer = Lexer::of(&[between[0], b'\n'], Some(b'"'), false, escapes);
        let (mut seen, mut looked_at) = (Seen(Vec::new()), 0);
        for (from, to) in looks(raw) {
            let mut begin = if from > 0 { from + 1 + memchr(b'\n', &raw[from..to])? } else { 0 };
            for _ in 0..LOOK {
                let Some((layout, end)) = csv_row(&lexer, between, &raw[..to], begin) else { break };
                seen.add(layout);
                looked_at += 1;
                begin = end;
            }
        }
        let (layout, seen) = seen.most()?;
        (layout.columns > 1 && seen * CSV_SHARE.1 >= looked_at * CSV_SHARE.0).then_some(layout)
    })
}

/// How the line that begins at `begin` stands in `raw`, and where it ends.
fn csv_row<'r>(lexer: &Lexer, between: &'r [u8], raw: &'r [u8], begin: usize) -> Option<(Layout<'r>, usize)> {
    let (mut columns, mut at) = (1, lexer.field(raw, begin).ok()?);
    while raw[at] != b'\n' {
        columns += 1;
        at = lexer.field(raw, at + 1).ok().filter(|_| columns <= FIELDS_MAX)?;
    }
    let closing = if raw[..at].ends_with(b"\r") { &raw[at - 1..=at] } else { &raw[at..=at] };
    Some((Layout { columns, opening: b"", between, closing, quote: Some(b'"'), nests: false }, at + 1))
}
