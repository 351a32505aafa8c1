//! Finds the rows of a chunk and takes them apart by their [layout](super::layout): fields up to what stands between them,
//! what is in quotes at once. What does not fit is put aside up to the next place where a row may begin.

use memchr::{memchr, memchr_iter, memchr2, memchr2_iter};

use super::layout::{Layout, is_binary, is_text, layout};

/// Least rows worth the trouble.
pub(super) const ROWS_MIN: usize = 16;
/// A row takes at least so many bytes on average, and so does a field: bounds the memory of columns.
const ROW_BYTES_MIN: usize = 4;
const FIELD_BYTES_MIN: usize = 2;
/// Bytes that are read in vain at most, in chunks: rows that break off at their end, one within the other.
const VAIN_MAX: usize = 4;

/// A chunk taken apart.
pub(super) struct Rows<'r> {
    /// How the regular rows stand in the chunk.
    pub layout: Layout<'r>,
    /// The fields of the regular rows, row by row, without what is around them.
    pub fields: Vec<&'r [u8]>,
    /// Everything else, with the number of regular rows in front of it, in one piece where it follows each other.
    pub odd: Vec<(usize, &'r [u8])>,
    /// Bytes of `odd`.
    odd_bytes: usize,
}

impl<'r> Rows<'r> {
    /// Regular rows.
    pub(super) fn count(&self) -> usize {
        self.fields.len() / self.layout.columns
    }

    /// Puts bytes aside, together with those in front of them; `None` when these are most of `raw`.
    fn put_aside(&mut self, raw: &'r [u8], begin: usize, end: usize) -> Option<()> {
        let row = self.count();
        self.odd_bytes += end - begin;
        match self.odd.last_mut() {
            Some((place, piece)) if *place == row => *piece = &raw[begin - piece.len()..end],
            _ => self.odd.push((row, &raw[begin..end])),
        }
        (self.odd_bytes <= raw.len() / 2).then_some(())
    }
}

/// Takes `raw` apart, unless most of it has no regular shape.
pub(super) fn parse(raw: &[u8]) -> Option<Rows<'_>> {
    if is_binary(raw) {
        return None;
    }
    let first = layout(raw, true);
    let rows = first.and_then(|layout| parse_as(raw, layout, true));
    // Whether a backslash escapes a quote is not told by a row; where there are no quotes or none of it, it makes no difference.
    let knows_no_quotes = first.is_some_and(|layout| layout.quote.is_none() && layout.columns > 1);
    let is_fine = rows.as_ref().is_some_and(|rows| rows.odd_bytes < raw.len() / 32);
    let is_told = || !memchr_iter(b'\\', raw).any(|at| matches!(raw.get(at + 1), Some(b'\'' | b'"')));
    if knows_no_quotes || is_fine || !is_text(raw) || is_told() {
        return rows;
    }
    let others = layout(raw, false).and_then(|layout| parse_as(raw, layout, false));
    let odd = |rows: &Option<Rows<'_>>| rows.as_ref().map_or(usize::MAX, |rows| rows.odd_bytes);
    if odd(&others) < odd(&rows) { others } else { rows }
}

fn parse_as<'r>(raw: &'r [u8], layout: Layout<'r>, escapes: bool) -> Option<Rows<'r>> {
    let mut rows = Rows { layout, fields: Vec::with_capacity(raw.len() / 8), odd: Vec::new(), odd_bytes: 0 };
    match layout.quote {
        None => lines(&mut rows, raw)?,
        Some(_) => quoted_rows(&mut rows, raw, escapes)?,
    }
    let is_worth_it = rows.count() >= ROWS_MIN
        && rows.count() * ROW_BYTES_MIN <= raw.len()
        && rows.fields.len() * FIELD_BYTES_MIN <= raw.len();
    is_worth_it.then_some(rows)
}

/// Takes lines apart in which a tab is always between two fields; `None` when most are odd.
fn lines<'r>(rows: &mut Rows<'r>, raw: &'r [u8]) -> Option<()> {
    let columns = rows.layout.columns;
    // Where the line begins, where the field does, and how many fields were in front of the line.
    let (mut line, mut field, mut before) = (0, 0, 0);
    for at in memchr2_iter(b'\t', b'\n', raw) {
        // One field too many tells enough.
        if rows.fields.len() <= before + columns {
            rows.fields.push(&raw[field..at]);
        }
        field = at + 1;
        if raw[at] == b'\n' {
            if rows.fields.len() - before != columns {
                rows.fields.truncate(before);
                rows.put_aside(raw, line, field)?;
            }
            (line, before) = (field, rows.fields.len());
        }
    }
    rows.fields.truncate(before);
    if line < raw.len() { rows.put_aside(raw, line, raw.len()) } else { Some(()) }
}

/// Takes rows apart whose fields may hold anything in quotes; `None` when most is odd.
fn quoted_rows<'r>(rows: &mut Rows<'r>, raw: &'r [u8], escapes: bool) -> Option<()> {
    let lexer = Lexer::new(&rows.layout, escapes);
    let next_row = *rows.layout.closing.last()?;
    let (mut at, mut vain) = (0, 0);
    while at < raw.len() {
        let before = rows.fields.len();
        match lexer.row(&rows.layout, raw, at, &mut rows.fields) {
            Ok(end) => at = end,
            Err(broken) => {
                rows.fields.truncate(before);
                vain += broken - at;
                let end = memchr(next_row, &raw[at..]).map_or(raw.len(), |len| at + len + 1);
                rows.put_aside(raw, at, end)?;
                at = end;
                if vain > VAIN_MAX * raw.len() {
                    return None;
                }
            }
        }
    }
    Some(())
}

/// What a byte means to a lexer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Nothing,
    /// A field may end here.
    End,
    Quote,
    Open,
}

/// Finds where fields end.
pub(super) struct Lexer {
    meanings: [Meaning; 256],
    /// Whether a backslash within quotes takes the next byte in.
    escapes: bool,
}

impl Lexer {
    /// A lexer of fields that end where what is between them begins, or what is behind a row.
    fn new(layout: &Layout<'_>, escapes: bool) -> Self {
        Self::of(&[layout.between[0], layout.closing[0]], layout.quote, layout.nests, escapes)
    }

    /// A lexer of fields that end in one of `ends`, not in what `quote` is around nor, where fields nest, in parentheses.
    pub(super) fn of(ends: &[u8], quote: Option<u8>, nests: bool, escapes: bool) -> Self {
        let mut meanings = [Meaning::Nothing; 256];
        for end in ends {
            meanings[usize::from(*end)] = Meaning::End;
        }
        if let Some(quote) = quote {
            meanings[usize::from(quote)] = Meaning::Quote;
        }
        if nests {
            meanings[usize::from(b'(')] = Meaning::Open;
        }
        Self { meanings, escapes }
    }

    /// Takes the row that begins at `begin` apart, and tells where it ends; or how far it was read when it is not regular.
    fn row<'r>(
        &self,
        layout: &Layout<'_>,
        raw: &'r [u8],
        begin: usize,
        fields: &mut Vec<&'r [u8]>,
    ) -> Result<usize, usize> {
        let mut at = behind(raw, begin, layout.opening)?;
        for left in (0..layout.columns).rev() {
            let end = self.field(raw, at)?;
            fields.push(&raw[at..end]);
            at = behind(raw, end, if left > 0 { layout.between } else { layout.closing })?;
        }
        Ok(at)
    }

    /// Where the field that begins at `at` ends: at a byte with which something else may begin. Else how far it was read.
    pub(super) fn field(&self, raw: &[u8], mut at: usize) -> Result<usize, usize> {
        let mut depth = 0_usize;
        loop {
            at += raw[at..]
                .iter()
                .position(|byte| self.meanings[usize::from(*byte)] != Meaning::Nothing)
                .ok_or(raw.len())?;
            match self.meanings[usize::from(raw[at])] {
                Meaning::Quote => at = self.quoted(raw, at)?,
                Meaning::End if depth == 0 => return Ok(at),
                Meaning::End => {
                    depth -= usize::from(raw[at] == b')');
                    at += 1;
                }
                _ => {
                    depth += 1;
                    at += 1;
                }
            }
        }
    }

    /// Behind the quote that closes the one at `at`. Of two in a row, the first closes and the second opens again.
    fn quoted(&self, raw: &[u8], at: usize) -> Result<usize, usize> {
        let (quote, mut at) = (raw[at], at + 1);
        loop {
            let rest = raw.get(at..).ok_or(raw.len())?;
            let found = if self.escapes { memchr2(quote, b'\\', rest) } else { memchr(quote, rest) };
            at += found.ok_or(raw.len())?;
            if raw[at] == quote {
                return Ok(at + 1);
            }
            at += 2;
        }
    }
}

/// Behind `literal` at `at`; or `at`, when something else is there.
fn behind(raw: &[u8], at: usize, literal: &[u8]) -> Result<usize, usize> {
    if raw[at..].starts_with(literal) { Ok(at + literal.len()) } else { Err(at) }
}
