//! Finds the rows of a chunk: lines with the same number of tabs, as `COPY` and TSV write them; where there are no tabs, whole
//! lines.

use memchr::{memchr_iter, memchr2_iter};

/// Lines that a first look takes.
const LOOK: usize = 64;
/// Bytes that a first look takes at most: a chunk of endless lines costs no more.
const LOOK_BYTES: usize = 64 << 10;
/// Least rows worth the trouble.
const ROWS_MIN: usize = 16;
/// Most fields of a row.
const FIELDS_MAX: usize = 1024;
/// A row takes at least so many bytes on average, and so does a field: bounds the memory of columns.
const ROW_BYTES_MIN: usize = 4;
const FIELD_BYTES_MIN: usize = 2;

/// A chunk taken apart.
pub(super) struct Rows<'r> {
    /// Fields of each regular row.
    pub columns: usize,
    /// The fields of the regular rows, row by row, without tabs and line ends.
    pub fields: Vec<&'r [u8]>,
    /// Everything else, with the number of regular rows in front of it: whole lines with their ends, in one piece where
    /// they follow each other.
    pub odd: Vec<(usize, &'r [u8])>,
}

impl Rows<'_> {
    /// Regular rows.
    pub(super) fn count(&self) -> usize {
        self.fields.len() / self.columns
    }
}

impl<'r> Rows<'r> {
    /// Puts an odd line aside, together with the odd line in front of it.
    fn put_aside(&mut self, raw: &'r [u8], begin: usize, end: usize) {
        let row = self.count();
        match self.odd.last_mut() {
            Some((place, piece)) if *place == row => *piece = &raw[begin - piece.len()..end],
            _ => self.odd.push((row, &raw[begin..end])),
        }
    }
}

/// Takes `raw` apart, unless most of it has no regular shape.
pub(super) fn parse(raw: &[u8]) -> Option<Rows<'_>> {
    let columns = usual_columns(raw)?;
    let mut rows = Rows { columns, fields: Vec::with_capacity(raw.len() / 8), odd: Vec::new() };
    // Where the line begins, where the field does, and how many fields were in front of the line.
    let (mut line, mut field, mut before) = (0, 0, 0);
    let mut odd_bytes = 0;
    for at in memchr2_iter(b'\t', b'\n', raw) {
        // One field too many tells enough.
        if rows.fields.len() <= before + columns {
            rows.fields.push(&raw[field..at]);
        }
        field = at + 1;
        if raw[at] == b'\n' {
            if rows.fields.len() - before != columns {
                rows.fields.truncate(before);
                rows.put_aside(raw, line, field);
                odd_bytes += field - line;
                if odd_bytes > raw.len() / 2 {
                    return None;
                }
            }
            (line, before) = (field, rows.fields.len());
        }
    }
    rows.fields.truncate(before);
    if line < raw.len() {
        rows.put_aside(raw, line, raw.len());
    }
    let (fields, count) = (rows.fields.len(), rows.count());
    let is_worth_it = count >= ROWS_MIN
        && count * ROW_BYTES_MIN <= raw.len()
        && fields * FIELD_BYTES_MIN <= raw.len()
        && (raw.len() - line + odd_bytes) * 2 <= raw.len();
    is_worth_it.then_some(rows)
}

/// The number of fields that most lines have, by a look at the beginning and one at the middle: a chunk may begin with the
/// end of something else.
fn usual_columns(raw: &[u8]) -> Option<usize> {
    let mut counts: Vec<(usize, usize)> = Vec::new();
    for from in [0, raw.len() / 2] {
        let look = &raw[from..raw.len().min(from + LOOK_BYTES)];
        // What a look in the middle begins with is the rest of a line.
        let lines = look.split_inclusive(|&b| b == b'\n').skip(usize::from(from > 0)).take(LOOK);
        for line in lines.filter(|line| line.ends_with(b"\n")) {
            let columns = 1 + memchr_iter(b'\t', line).count();
            match counts.iter_mut().find(|(n, _)| *n == columns) {
                Some((_, seen)) => *seen += 1,
                None => counts.push((columns, 1)),
            }
        }
    }
    let &(columns, seen) = counts.iter().max_by_key(|(_, seen)| *seen)?;
    (seen >= ROWS_MIN.min(LOOK / 4) && columns <= FIELDS_MAX).then_some(columns)
}
