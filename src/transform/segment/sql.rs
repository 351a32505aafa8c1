//! Dumps that are SQL text: `pg_dump`, `pg_dumpall` (COPY and INSERT), `mysqldump`, `mariadb-dump`, `.dump` of `SQLite`.
//!
//! A lexer follows the statements as the database's own client does: quotes, dollar quotes, comments, parentheses, rows
//! behind `COPY ... FROM stdin`, `DELIMITER`. So a dump inside a string, or a function's body, is told from the dump. A unit
//! is a statement with the comments in front of it; whose table it belongs to decides where segments begin.

use memchr::{memchr, memchr_iter, memchr2, memmem};

use super::super::grain::Grain;
use super::{Holds, LOOKAHEAD, Ledger};
use crate::id::PartName;

/// The name of what belongs to no one table.
pub const DEFINITIONS: &str = "definitions";

/// Whose dump it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `pg_dump`, `pg_dumpall`.
    Postgres,
    /// `mysqldump`, `mariadb-dump`.
    Mysql,
    /// `.dump`.
    Sqlite,
}

impl Dialect {
    /// Tells by the first lines.
    pub fn recognise(head: &[u8]) -> Option<Self> {
        let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
        let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
        for line in lines.by_ref().take(8) {
            if line.starts_with(b"-- PostgreSQL database") {
                return Some(Self::Postgres);
            }
            if line.starts_with(b"-- MySQL dump ") || line.starts_with(b"-- MariaDB dump ") {
                return Some(Self::Mysql);
            }
            if line == b"PRAGMA foreign_keys=OFF;" {
                return Some(Self::Sqlite);
            }
            // MariaDB begins with a comment that a client executes.
            if !line.starts_with(b"--") && !line.starts_with(b"/*") {
                break;
            }
        }
        None
    }
}

/// Bytes of a statement that tell what it is.
const HEAD: usize = 1 << 10;
/// Rows are searched for their end and counted so many bytes at a time: both find them in the nearest cache.
const SEARCHED_BYTES: usize = 16 << 10;
/// Bytes that any step may look at behind its place.
const AHEAD: usize = 80;
/// Bytes kept of what was consumed: what a statement's end is told by.
const BEHIND: usize = 1 << 10;

/// The lexer, and in whose segment it is.
pub struct Sql {
    dialect: Dialect,
    state: State,
    statement: Statement,
    /// What ends a statement.
    delimiter: Vec<u8>,
    /// The last bytes that were consumed.
    behind: Vec<u8>,
    /// Bytes consumed by earlier scans.
    pub(super) consumed: u64,
    /// The database that statements go to, where the dump names it.
    database: Option<String>,
    /// The table that the current segment belongs to, without its database.
    table: Option<PartName>,
    /// Where units begin, and whether they hold rows, when somebody wants to know.
    units: Option<Vec<(u64, bool)>>,
    /// Where rows begin and end, when somebody wants to know.
    rows: Option<Vec<(u64, Mark)>>,
    /// The first comma of a row is still to come.
    first_column: bool,
}

/// A place in a row; commas and parentheses belong to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Its first byte.
    Begin,
    /// Behind its first column, where it has more than one.
    FirstColumn,
    /// Behind its last byte.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the beginning of a unit.
    Between,
    /// In a statement.
    Inside,
    /// Between `FROM stdin;` and the end of its line.
    BeforeRows,
    /// In rows; at the beginning of one?
    Rows { fresh: bool },
}

/// A statement so far.
#[derive(Debug)]
struct Statement {
    kind: Kind,
    lexed: Lexed,
    /// Open parentheses.
    depth: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Copy,
    /// Were its `VALUES` seen?
    Insert {
        values: bool,
    },
    /// Holds statements, and ends with `END;`.
    Body,
    /// A routine, which is such a body if it is `ATOMIC`.
    Routine,
    Other,
}

/// What a lexer is in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lexed {
    Plain,
    Quoted { by: u8, escapes: bool },
    Dollar(Vec<u8>),
    LineComment,
    BlockComment { depth: u32 },
}

/// Where a unit belongs.
enum Belongs {
    /// To this table.
    To(PartName),
    /// To whatever it stands in.
    Here,
    /// To no table.
    Apart,
}

impl Sql {
    /// A segmenter for a dump that begins with `head`.
    pub fn recognise(head: &[u8]) -> Option<Self> {
        Some(Self::new(Dialect::recognise(head)?))
    }

    /// Whose dump it is.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// A lexer that notes where units begin.
    pub(super) fn of_units(dialect: Dialect) -> Self {
        Self { units: Some(Vec::new()), ..Self::new(dialect) }
    }

    /// The units that began since this was asked last: where in the stream, and whether they hold rows.
    pub(super) fn take_units(&mut self) -> Vec<(u64, bool)> {
        self.units.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A lexer that notes where rows begin and end.
    pub(super) fn of_rows(dialect: Dialect) -> Self {
        Self { rows: Some(Vec::new()), ..Self::new(dialect) }
    }

    /// The same for a stream that begins with a line in the middle of a table, whose rows are of `COPY` if it `copies`.
    pub(super) fn of_rows_within(dialect: Dialect, copies: bool) -> Self {
        let state = if copies { State::Rows { fresh: true } } else { State::Between };
        Self { state, ..Self::of_rows(dialect) }
    }

    /// The places in rows that were passed since this was asked last.
    pub(super) fn take_rows(&mut self) -> Vec<(u64, Mark)> {
        self.rows.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn note_row(&mut self, at: usize, mark: Mark) {
        if let Some(rows) = &mut self.rows {
            rows.push((self.consumed + at as u64, mark));
        }
    }

    fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            state: State::Between,
            statement: Statement { kind: Kind::Other, lexed: Lexed::Plain, depth: 0 },
            delimiter: b";".to_vec(),
            behind: Vec::new(),
            consumed: 0,
            database: None,
            table: None,
            units: None,
            rows: None,
            first_column: false,
        }
    }

    /// See [`Segmenter::scan`](super::Segmenter::scan).
    pub fn scan(&mut self, bytes: &[u8], last: bool, ledger: &mut Ledger) -> usize {
        let limit = if last { bytes.len() } else { bytes.len().saturating_sub(AHEAD) };
        let mut at = 0;
        while at < limit {
            let before = self.state;
            let next = match before {
                State::Between => self.between(bytes, at, last, ledger),
                State::Inside => self.inside(bytes, at, limit, ledger),
                State::BeforeRows => {
                    let end = memchr(b'\n', &bytes[at..limit]).map(|end| at + end + 1);
                    if end.is_some() {
                        self.state = State::Rows { fresh: true };
                    }
                    end.unwrap_or(limit)
                }
                State::Rows { fresh } => self.rows(bytes, at, limit, fresh, ledger),
            };
            if next == at && self.state == before {
                break;
            }
            at = next;
        }
        let keep = &bytes[at.saturating_sub(BEHIND)..at];
        self.behind.drain(..self.behind.len().saturating_sub(BEHIND - keep.len()));
        self.behind.extend_from_slice(keep);
        self.consumed += at as u64;
        at
    }

    /// Looks at a whole unit's beginning. Stays where it is until there is enough of it.
    fn between(&mut self, bytes: &[u8], at: usize, last: bool, ledger: &mut Ledger) -> usize {
        let rest = &bytes[at..];
        let given_up = rest.len() >= LOOKAHEAD - HEAD;
        let blank = blank(self.dialect, rest);
        let enough = blank.is_some_and(|blank| rest.len() - blank >= HEAD);
        if !enough && !last && !given_up {
            return at;
        }
        let Some(blank) = blank.filter(|blank| *blank < rest.len()) else {
            if last {
                return bytes.len();
            }
            // Comments without an end: whatever follows them is not looked at.
            self.enter(Kind::Other);
            return at;
        };
        let (comments, head) = (&rest[..blank], &rest[blank..rest.len().min(blank + HEAD)]);
        if let Some(line) = memchr(b'\n', head).or_else(|| last.then(|| head.len() - 1))
            && self.command(head[..=line].trim_ascii_end())
        {
            // Commands to the client end nothing in a dump of MySQL.
            self.belong(if self.dialect == Dialect::Mysql { Belongs::Here } else { Belongs::Apart }, at, ledger);
            self.note_unit(at, Kind::Other);
            return at + blank + line + 1;
        }
        let (kind, belongs) = if self.rows.is_some() && head[0] == b'(' {
            // A stream that begins within an `INSERT`.
            (Kind::Insert { values: true }, Belongs::Here)
        } else {
            self.classify(comments, head)
        };
        self.belong(belongs, at, ledger);
        self.note_unit(at, kind);
        self.enter(kind);
        at + blank
    }

    fn note_unit(&mut self, at: usize, kind: Kind) {
        if let Some(units) = &mut self.units {
            units.push((self.consumed + at as u64, matches!(kind, Kind::Copy | Kind::Insert { .. })));
        }
    }

    fn enter(&mut self, kind: Kind) {
        self.state = State::Inside;
        self.statement = Statement { kind, lexed: Lexed::Plain, depth: 0 };
    }

    /// A line for the client rather than for the database.
    fn command(&mut self, line: &[u8]) -> bool {
        match self.dialect {
            Dialect::Postgres if line.starts_with(b"\\") => {
                if let Some(name) = line.strip_prefix(b"\\connect ") {
                    let name = name.strip_prefix(b"-reuse-previous=on ").unwrap_or(name);
                    let name = String::from_utf8_lossy(name).replace(['"', '\''], "");
                    self.other_database(name.strip_prefix("dbname=").unwrap_or(&name));
                }
                true
            }
            Dialect::Mysql if line.len() > 10 && line[..10].eq_ignore_ascii_case(b"DELIMITER ") => {
                self.delimiter = line[10..].trim_ascii().to_vec();
                !self.delimiter.is_empty()
            }
            _ => false,
        }
    }

    /// What follows belongs to another database: to none of the segments so far.
    fn other_database(&mut self, name: &str) {
        if self.database.as_deref() != Some(name) {
            self.database = Some(name.to_owned());
            self.table = Some(PartName::of(""));
        }
    }

    /// The unit at `at` belongs there: a segment begins where that is another one.
    fn belong(&mut self, belongs: Belongs, at: usize, ledger: &mut Ledger) {
        let table = match belongs {
            Belongs::Here => return,
            Belongs::Apart => None,
            Belongs::To(table) => Some(table),
        };
        if table == self.table || ledger.is_full() {
            return;
        }
        let (name, holds) = match &table {
            Some(name) => (name.clone(), Holds::Table),
            None => (PartName::of(DEFINITIONS), Holds::Statements),
        };
        ledger.begin(at, PartName { database: self.database.clone(), ..name }, holds, Grain::Any);
        self.table = table;
    }

    fn classify(&mut self, comments: &[u8], head: &[u8]) -> (Kind, Belongs) {
        let words = Words::of(head);
        let starts = |pattern: &[&str]| words.after(pattern).and_then(part_name).map(Belongs::To);
        match self.dialect {
            Dialect::Postgres => {
                let trigger = |b: Belongs| match &b {
                    Belongs::To(_) if memmem::find(head, b" TRIGGER ALL;").is_some_and(|at| at < 300) => Some(b),
                    _ => None,
                };
                if let Some(belongs) = starts(&["COPY"]) {
                    return (Kind::Copy, belongs);
                }
                if let Some(belongs) = starts(&["INSERT", "INTO"]) {
                    return (Kind::Insert { values: false }, belongs);
                }
                if let Some(belongs) = starts(&["ALTER", "TABLE"]).and_then(trigger) {
                    return (Kind::Other, belongs);
                }
                let routine = words.after(&["CREATE", "FUNCTION"]).or(words.after(&["CREATE", "PROCEDURE"]));
                (if routine.is_some() { Kind::Routine } else { Kind::Other }, Belongs::Apart)
            }
            Dialect::Mysql => {
                if let Some(database) = words.after(&["USE"]).and_then(name) {
                    self.other_database(&database);
                    return (Kind::Other, Belongs::Apart);
                }
                for insert in [&["INSERT", "INTO"][..], &["REPLACE", "INTO"], &["INSERT", "IGNORE", "INTO"]] {
                    if let Some(belongs) = starts(insert) {
                        return (Kind::Insert { values: false }, belongs);
                    }
                }
                let tables = [
                    &["DROP", "TABLE", "IF", "EXISTS"][..],
                    &["CREATE", "TABLE"],
                    &["LOCK", "TABLES"],
                    &["ALTER", "TABLE"],
                ];
                let of_table = tables.iter().find_map(|pattern| starts(pattern));
                let heading = |text: &[u8]| memmem::find(comments, text).is_some();
                let apart = heading(b"-- Dumping routines")
                    || heading(b"-- Dumping events")
                    || heading(b"-- Current Database")
                    || heading(b"-- Temporary ")
                    || heading(b"-- Final view ")
                    || heading(b"-- Temporary view ")
                    || memmem::find(head.split(|b| *b == b'\n').next().unwrap_or(head), b"=@OLD_").is_some();
                match of_table {
                    _ if apart => (Kind::Other, Belongs::Apart),
                    Some(belongs) => (Kind::Other, belongs),
                    None if self.table.is_some() => (Kind::Other, Belongs::Here),
                    None => (Kind::Other, Belongs::Apart),
                }
            }
            Dialect::Sqlite => {
                if let Some(belongs) = starts(&["INSERT", "INTO"]) {
                    return (Kind::Insert { values: false }, belongs);
                }
                if let Some(belongs) =
                    starts(&["CREATE", "TABLE", "IF", "NOT", "EXISTS"]).or_else(|| starts(&["CREATE", "TABLE"]))
                {
                    return (Kind::Other, belongs);
                }
                let trigger = words.after(&["CREATE", "TRIGGER"]).is_some();
                (if trigger { Kind::Body } else { Kind::Other }, Belongs::Apart)
            }
        }
    }

    /// Follows a statement up to its end, or to `limit`.
    fn inside(&mut self, bytes: &[u8], from: usize, limit: usize, ledger: &mut Ledger) -> usize {
        let mut at = from;
        let commas = self.rows.is_some();
        let interesting = |byte: &u8| INTERESTING[usize::from(*byte)] || (commas && *byte == b',');
        while at < limit {
            match &mut self.statement.lexed {
                Lexed::Plain => {
                    let Some(found) = bytes[at..limit].iter().position(interesting) else {
                        return limit;
                    };
                    at += found;
                    if bytes[at..].starts_with(&self.delimiter) && self.is_end(bytes, at) {
                        at += self.delimiter.len();
                        let copies = self.statement.kind == Kind::Copy && self.ends_with(bytes, at - 1, b"STDIN");
                        self.state = if copies { State::BeforeRows } else { State::Between };
                        return at;
                    }
                    at = self.plain(bytes, at, ledger);
                }
                Lexed::Quoted { by, escapes } => {
                    let (by, escapes) = (*by, *escapes);
                    let found =
                        if escapes { memchr2(by, b'\\', &bytes[at..limit]) } else { memchr(by, &bytes[at..limit]) };
                    let Some(found) = found else { return limit };
                    at += found;
                    let doubled = bytes.get(at + 1) == Some(&by) && bytes[at] == by;
                    if (bytes[at] == b'\\' && escapes) || doubled {
                        at += 2;
                    } else {
                        at += 1;
                        self.statement.lexed = Lexed::Plain;
                    }
                }
                Lexed::Dollar(tag) => {
                    // Its first byte lies before the limit, and all of it within the bytes.
                    let until = bytes.len().min(limit + tag.len() - 1);
                    let Some(found) = memmem::find(&bytes[at..until], tag) else { return limit };
                    at += found + tag.len();
                    self.statement.lexed = Lexed::Plain;
                }
                Lexed::LineComment => {
                    let Some(found) = memchr(b'\n', &bytes[at..limit]) else { return limit };
                    at += found + 1;
                    self.statement.lexed = Lexed::Plain;
                }
                Lexed::BlockComment { depth } => {
                    let Some(found) = memchr2(b'*', b'/', &bytes[at..limit]) else { return limit };
                    at += found;
                    match &bytes[at..bytes.len().min(at + 2)] {
                        b"*/" if *depth == 1 => {
                            at += 2;
                            self.statement.lexed = Lexed::Plain;
                        }
                        b"*/" => (*depth, at) = (*depth - 1, at + 2),
                        // Only PostgreSQL's comments nest.
                        b"/*" if self.dialect == Dialect::Postgres => (*depth, at) = (*depth + 1, at + 2),
                        _ => at += 1,
                    }
                }
            }
        }
        at.min(bytes.len())
    }

    /// A byte that means something outside of quotes and comments.
    fn plain(&mut self, bytes: &[u8], at: usize, ledger: &mut Ledger) -> usize {
        use Dialect::{Mysql, Postgres};
        let next = bytes.get(at + 1).copied();
        let lexed = match bytes[at] {
            b'\'' => Lexed::Quoted { by: b'\'', escapes: self.dialect == Mysql || self.is_escape_string(bytes, at) },
            b'"' => Lexed::Quoted { by: b'"', escapes: self.dialect == Mysql },
            b'`' if self.dialect != Postgres => Lexed::Quoted { by: b'`', escapes: false },
            b'[' if self.dialect == Dialect::Sqlite => Lexed::Quoted { by: b']', escapes: false },
            b'$' if self.dialect == Postgres => match self.dollar_tag(bytes, at) {
                Some(tag) => {
                    let end = at + tag.len();
                    self.statement.lexed = Lexed::Dollar(tag);
                    return end;
                }
                None => return at + 1,
            },
            b'-' if next == Some(b'-') => Lexed::LineComment,
            b'#' if self.dialect == Mysql => Lexed::LineComment,
            // MySQL executes what stands in `/*! ... */`.
            b'/' if next == Some(b'*')
                && !(self.dialect == Mysql && matches!(bytes.get(at + 2), Some(b'!' | b'M'))) =>
            {
                self.statement.lexed = Lexed::BlockComment { depth: 1 };
                return at + 2;
            }
            b'(' => {
                self.open(bytes, at, ledger);
                return at + 1;
            }
            b')' => {
                if self.statement.depth == 1 && self.statement.kind == (Kind::Insert { values: true }) {
                    self.note_row(at, Mark::End);
                }
                self.statement.depth = self.statement.depth.saturating_sub(1);
                return at + 1;
            }
            b',' if self.first_column && self.statement.depth == 1 => {
                self.first_column = false;
                self.note_row(at, Mark::FirstColumn);
                return at + 1;
            }
            _ => return at + 1,
        };
        self.statement.lexed = lexed;
        at + 1
    }

    /// A parenthesis opens: behind `VALUES`, and behind the next commas, that is a row.
    fn open(&mut self, bytes: &[u8], at: usize, ledger: &mut Ledger) {
        if self.statement.depth == 0
            && let Kind::Insert { values } = self.statement.kind
        {
            let values = values || self.ends_with(bytes, at, b"VALUES");
            self.statement.kind = Kind::Insert { values };
            ledger.rows += u64::from(values);
            if values && self.rows.is_some() {
                self.first_column = true;
                self.note_row(at + 1, Mark::Begin);
            }
        }
        self.statement.depth += 1;
    }

    /// Does the delimiter at `at` end the statement?
    fn is_end(&mut self, bytes: &[u8], at: usize) -> bool {
        if self.statement.depth > 0 && self.delimiter == b";" {
            return false;
        }
        match self.statement.kind {
            Kind::Body => self.ends_body(bytes, at),
            Kind::Routine => {
                // A body in quotes ends with one; what is `ATOMIC` holds statements.
                let quoted = matches!(self.before(bytes, at, 1), Some(b'$' | b'\''));
                let last: Vec<u8> = (1..BEHIND).map_while(|back| self.before(bytes, at, back)).collect();
                // Backwards.
                let body = !quoted && memmem::find(&last, b"CIMOTA NIGEB").is_some();
                if body {
                    self.statement.kind = Kind::Body;
                }
                !body
            }
            _ => true,
        }
    }

    /// Does `END` stand in front of `at`, and the end of a statement in front of that? A `CASE` has an `END`, too.
    fn ends_body(&self, bytes: &[u8], at: usize) -> bool {
        let mut back = (1..BEHIND).filter_map(|back| self.before(bytes, at, back)).peekable();
        let blanks = |back: &mut std::iter::Peekable<_>| while back.next_if(u8::is_ascii_whitespace).is_some() {};
        blanks(&mut back);
        let is_end = b"DNE".iter().all(|letter| back.next_if(|byte| byte.eq_ignore_ascii_case(letter)).is_some());
        blanks(&mut back);
        is_end && back.next() == Some(b';')
    }

    /// A string whose backslashes escape: `E'...'`.
    fn is_escape_string(&self, bytes: &[u8], at: usize) -> bool {
        matches!(self.before(bytes, at, 1), Some(b'E' | b'e'))
            && !self.before(bytes, at, 2).is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    }

    /// The byte `back` bytes before `at`.
    fn before(&self, bytes: &[u8], at: usize, back: usize) -> Option<u8> {
        match at.checked_sub(back) {
            Some(there) => Some(bytes[there]),
            None => self.behind.len().checked_sub(back - at).map(|there| self.behind[there]),
        }
    }

    /// Does `word` stand in front of `at`, blanks between them ignored?
    fn ends_with(&self, bytes: &[u8], at: usize, word: &[u8]) -> bool {
        let mut back = 1;
        while self.before(bytes, at, back).is_some_and(|byte| byte.is_ascii_whitespace()) && back < BEHIND {
            back += 1;
        }
        let letters = word.iter().rev().enumerate();
        letters
            .into_iter()
            .all(|(i, letter)| self.before(bytes, at, back + i).is_some_and(|byte| byte.eq_ignore_ascii_case(letter)))
    }

    /// The tag of a dollar quote that opens at `at`, both dollars included.
    fn dollar_tag(&self, bytes: &[u8], at: usize) -> Option<Vec<u8>> {
        if self.before(bytes, at, 1).is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return None;
        }
        let name = &bytes[at + 1..bytes.len().min(at + AHEAD - 8)];
        let length = name.iter().position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80))?;
        let is_tag = name[length] == b'$' && !name[0].is_ascii_digit();
        is_tag.then(|| bytes[at..at + length + 2].to_vec())
    }

    /// Follows rows up to the line `\.`, or to `limit`.
    fn rows(&mut self, bytes: &[u8], from: usize, limit: usize, mut fresh: bool, ledger: &mut Ledger) -> usize {
        let end_at = |at: usize| match &bytes[at..] {
            [b'\\', b'.', b'\r', b'\n', ..] => Some(at + 4),
            [b'\\', b'.', b'\n', ..] => Some(at + 3),
            [b'\\', b'.'] => Some(at + 2),
            _ => None,
        };
        if let Some(end) = end_at(from).filter(|_| fresh) {
            self.state = State::Between;
            return end;
        }
        let mut begin = from;
        while begin < limit {
            let until = limit.min(begin + SEARCHED_BYTES);
            let mut at = begin;
            while let Some(found) = memmem::find(&bytes[at..bytes.len().min(until + 2)], b"\n\\.") {
                let line = at + found + 1;
                if let Some(end) = end_at(line) {
                    ledger.rows += self.lines(bytes, begin, line, fresh);
                    self.state = State::Between;
                    return end;
                }
                at = line;
            }
            ledger.rows += self.lines(bytes, begin, until, fresh);
            fresh = bytes[until - 1] == b'\n';
            begin = until;
        }
        self.state = State::Rows { fresh };
        limit
    }

    /// Lines that end in `bytes[from..until]`, of which one begins at `from` if that is `fresh`.
    fn lines(&mut self, bytes: &[u8], from: usize, until: usize, fresh: bool) -> u64 {
        let ends = memchr_iter(b'\n', &bytes[from..until]);
        if self.rows.is_none() {
            return ends.count() as u64;
        }
        let (mut rows, mut begin, mut begins) = (0, from, fresh);
        for end in ends.map(|end| from + end) {
            self.note_line(bytes, begin..end, begins);
            self.note_row(end, Mark::End);
            (rows, begin, begins) = (rows + 1, end + 1, true);
        }
        if begin < until {
            self.note_line(bytes, begin..until, begins);
        }
        rows
    }

    /// Notes where a line, or the rest of one, begins and where its first column ends.
    fn note_line(&mut self, bytes: &[u8], line: std::ops::Range<usize>, begins: bool) {
        if begins {
            self.first_column = true;
            self.note_row(line.start, Mark::Begin);
        }
        if self.first_column
            && let Some(tab) = memchr(b'\t', &bytes[line.clone()])
        {
            self.first_column = false;
            self.note_row(line.start + tab, Mark::FirstColumn);
        }
    }
}

/// The length of the blanks and comments that `bytes` begin with; `None` when they go on to its end and a comment is
/// open.
pub fn blank(dialect: Dialect, bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        at += match rest {
            [b' ' | b'\t' | b'\r' | b'\n' | 0x0c, ..] => 1,
            [b'-', b'-', ..] => memchr(b'\n', rest)? + 1,
            [b'#', ..] if dialect == Dialect::Mysql => memchr(b'\n', rest)? + 1,
            // The one that a client of MariaDB obeys, in front of all else.
            _ if rest.starts_with(br"/*M!999999\-") || rest.starts_with(br"/*!999999\-") => {
                block_comment(dialect, rest)?
            }
            [b'/', b'*', b'!' | b'M', ..] if dialect == Dialect::Mysql => return Some(at),
            [b'/', b'*', ..] => block_comment(dialect, rest)?,
            [b'-' | b'/'] => return None,
            _ => return Some(at),
        };
    }
}

/// The length of the comment that `bytes` begin with. Only PostgreSQL's nest.
fn block_comment(dialect: Dialect, bytes: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 {
        at += memchr2(b'*', b'/', &bytes[at..])?;
        match bytes.get(at..at + 2)? {
            b"*/" => (depth, at) = (depth - 1, at + 2),
            b"/*" if dialect == Dialect::Postgres => (depth, at) = (depth + 1, at + 2),
            _ => at += 1,
        }
    }
    Some(at)
}

/// Bytes that a lexer stops at outside of quotes and comments; the delimiters of MySQL begin with one of `;$/`.
const INTERESTING: [bool; 256] = {
    let mut table = [false; 256];
    let bytes = b"'\"`[$-#/();|";
    let mut i = 0;
    while i < bytes.len() {
        table[bytes[i] as usize] = true;
        i += 1;
    }
    table
};

/// The first words of a statement. Words that change nothing for us (`OR REPLACE`, `ONLY`, `UNIQUE`) are left out of it, and
/// so are the signs of a comment that MySQL executes.
pub struct Words<'h>(&'h [u8]);

const IGNORED: [&str; 7] = ["OR", "REPLACE", "ONLY", "TEMPORARY", "TEMP", "UNLOGGED", "FOREIGN"];

impl<'h> Words<'h> {
    /// Of a statement that begins so.
    pub fn of(head: &'h [u8]) -> Self {
        let rest = match head {
            [b'/', b'*', b'!' | b'M', rest @ ..] => {
                let digits = rest.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'!').count();
                &rest[digits..]
            }
            other => other,
        };
        Self(rest.trim_ascii_start())
    }

    /// What follows these words.
    pub fn after(&self, words: &[&str]) -> Option<&'h [u8]> {
        let mut rest = self.0;
        let mut words = words.iter().peekable();
        loop {
            let length = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
            let is_name =
                rest.get(length).is_some_and(|byte| matches!(byte, b'.' | b'_' | b'$' | b'0'..=b'9' | 0x80..));
            let found = |word: &&str| !is_name && rest[..length].eq_ignore_ascii_case(word.as_bytes());
            match words.peek() {
                Some(word) if found(word) => {
                    words.next();
                }
                Some(_) if IGNORED.iter().any(&found) => {}
                Some(_) => return None,
                // A table may be called `temp`.
                None if found(&"ONLY") => {}
                None => return Some(rest),
            }
            rest = rest[length..].trim_ascii_start();
        }
    }
}

/// The name that `text` begins with, as people write it: `public.orders`.
pub fn name(text: &[u8]) -> Option<String> {
    let (name, _) = name_and_rest(text)?;
    Some(name)
}

/// As [`name`], with what follows it.
pub fn name_and_rest(text: &[u8]) -> Option<(String, &[u8])> {
    let (words, rest) = words_of_name(text)?;
    Some((words.join("."), rest))
}

/// The name that `text` begins with: what stands in front of its last dot is the schema.
fn part_name(text: &[u8]) -> Option<PartName> {
    let (mut words, _) = words_of_name(text)?;
    let object = words.pop()?;
    let schema = (!words.is_empty()).then(|| words.join("."));
    Some(PartName { schema, ..PartName::of(object) })
}

/// The words of the name that `text` begins with, which dots join, and what follows it.
fn words_of_name(text: &[u8]) -> Option<(Vec<String>, &[u8])> {
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        let mut name = Vec::new();
        rest = if let [quote @ (b'"' | b'`' | b'\''), inner @ ..] = rest {
            quoted(*quote, inner, &mut name)?
        } else if let [b'[', inner @ ..] = rest {
            let end = memchr(b']', inner)?;
            name.extend_from_slice(&inner[..end]);
            &inner[end + 1..]
        } else {
            let ends = |byte: &u8| byte.is_ascii_whitespace() || b".(),;=".contains(byte);
            let length = rest.iter().position(ends).unwrap_or(rest.len());
            if length == 0 {
                return None;
            }
            name.extend_from_slice(&rest[..length]);
            &rest[length..]
        };
        words.push(String::from_utf8_lossy(&name).into_owned());
        let [b'.', more @ ..] = rest else { return Some((words, rest)) };
        rest = more;
    }
}

/// Appends what stands between quotes, of which doubled ones are one; returns what follows.
fn quoted<'t>(quote: u8, inner: &'t [u8], name: &mut Vec<u8>) -> Option<&'t [u8]> {
    let mut at = 0;
    loop {
        let end = at + memchr(quote, &inner[at..])?;
        name.extend_from_slice(&inner[at..end]);
        at = end + 1;
        if inner.get(at) != Some(&quote) {
            return Some(&inner[at..]);
        }
        name.push(quote);
        at += 1;
    }
}
