//! Rows of a table, one by one: tuples of an `INSERT`, lines of a `COPY` or of a file of lines. Strings are looked at as the
//! dump's own dialect writes them; what is no row is passed over.

use std::collections::VecDeque;
use std::ops::Range;

use memchr::{memchr2, memrchr};

use super::Ledger;
use super::sql::{Dialect, Mark, Sql};
use super::units::copies;

/// A row that is longer comes in pieces, in bytes.
const ROW_MAX: usize = 16 << 20;

/// How a table's rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// `None` where lines are rows.
    dialect: Option<Dialect>,
    copies: bool,
}

impl Form {
    /// Of a table of a dump of this dialect, or of a file of lines, that begins with `head`.
    pub fn of(dialect: Option<Dialect>, head: &[u8]) -> Self {
        Self { dialect, copies: dialect.is_some_and(|dialect| copies(dialect, head)) }
    }

    /// Whether a line feed among the rows stands in none of them. MySQL's dumps escape it; the strings of an `INSERT` of
    /// PostgreSQL and of `SQLite` may hold it.
    pub fn has_lines(self) -> bool {
        self.copies || matches!(self.dialect, None | Some(Dialect::Mysql))
    }
}

/// Reads rows. Only those are given out of which a byte is wanted.
pub struct Rows {
    form: Form,
    /// Absent where lines are rows.
    sql: Option<Sql>,
    /// The stream's bytes from `base` on: of the row that is open, and what was not consumed.
    bytes: Vec<u8>,
    base: u64,
    consumed: u64,
    /// What is wanted, as far as a row may still touch it.
    wanted: VecDeque<Range<u64>>,
    open: Option<Open>,
}

/// A row that has not ended.
#[derive(Clone, Copy)]
struct Open {
    begin: u64,
    first_column: Option<u64>,
}

/// Whoever takes rows, each with the length of its first column, in bytes.
pub type Take<'t> = &'t mut dyn FnMut(&[u8], usize);

impl Rows {
    /// Rows of a table from its beginning.
    pub fn new(form: Form) -> Self {
        Self::with(form, form.dialect.map(Sql::of_rows))
    }

    /// Rows of a table from a line on in the middle of it, where it [has lines](Form::has_lines).
    pub fn within(form: Form) -> Self {
        Self::with(form, form.dialect.map(|dialect| Sql::of_rows_within(dialect, form.copies)))
    }

    fn with(form: Form, sql: Option<Sql>) -> Self {
        Self { form, sql, bytes: Vec::new(), base: 0, consumed: 0, wanted: VecDeque::new(), open: None }
    }

    /// The next bytes, and whether rows are wanted that touch them; `last` at the table's end.
    pub fn pass(&mut self, bytes: &[u8], wanted: bool, last: bool, take: Take<'_>) {
        let from = self.base + self.bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        let end = from + bytes.len() as u64;
        if wanted {
            match self.wanted.back_mut().filter(|range| range.end == from) {
                Some(range) => range.end = end,
                None => self.wanted.push_back(from..end),
            }
        }
        for (at, mark) in self.scan(last) {
            match (mark, &mut self.open) {
                (Mark::Begin, open) => *open = Some(Open { begin: at, first_column: None }),
                (Mark::FirstColumn, Some(open)) => open.first_column = Some(at),
                (Mark::FirstColumn, None) => {}
                (Mark::End, _) => self.end(at, take),
            }
        }
        if last {
            // What a line lacks its end of, or a statement.
            self.end(self.consumed, take);
        }
        if let Some(open) = self.open
            && self.consumed - open.begin > ROW_MAX as u64
        {
            self.end(self.consumed, take);
            self.open = Some(Open { begin: self.consumed, first_column: None });
        }
        let needed = self.open.map_or(self.consumed, |open| open.begin);
        self.bytes.drain(..(needed - self.base) as usize);
        self.base = needed;
        while self.wanted.front().is_some_and(|range| range.end <= needed) {
            self.wanted.pop_front();
        }
    }

    /// Whether what was wanted so far takes more bytes to tell.
    pub fn is_waiting(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Places in what can be consumed.
    fn scan(&mut self, last: bool) -> Vec<(u64, Mark)> {
        let new = &self.bytes[(self.consumed - self.base) as usize..];
        if let Some(sql) = &mut self.sql {
            // Behind a line feed nothing that follows can change what was in front of it.
            let last = last || (self.form.has_lines() && new.ends_with(b"\n"));
            self.consumed += sql.scan(new, last, &mut Ledger::default()) as u64;
            return sql.take_rows();
        }
        let ends = memchr::memchr_iter(b'\n', new).map(|end| self.consumed + end as u64);
        let mut marks: Vec<(u64, Mark)> = ends.flat_map(|end| [(end, Mark::End), (end + 1, Mark::Begin)]).collect();
        if self.open.is_none() {
            marks.insert(0, (self.consumed, Mark::Begin));
        }
        self.consumed += new.len() as u64;
        marks
    }

    /// The row that is open ends at `at`.
    fn end(&mut self, at: u64, take: Take<'_>) {
        let Some(Open { begin, first_column }) = self.open.take() else { return };
        if !self.wanted.iter().any(|range| range.start < at && range.end > begin) {
            return;
        }
        let row = &self.bytes[(begin - self.base) as usize..(at - self.base) as usize];
        let row = row.strip_suffix(b"\r").unwrap_or(row);
        let first = match first_column {
            Some(end) => (end - begin) as usize,
            None if self.sql.is_none() => memchr2(b'\t', b',', row).unwrap_or(row.len()),
            None => row.len(),
        };
        if !row.is_empty() {
            take(row, first.min(row.len()));
        }
    }
}

/// Where the last line of `bytes` begins that begins in them, or behind them.
pub fn last_line(bytes: &[u8]) -> Option<usize> {
    memrchr(b'\n', bytes).map(|end| end + 1)
}
