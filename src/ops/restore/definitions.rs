//! Which statements of a dump recreate one table.
//!
//! Of MySQL's and `SQLite`'s dumps these are the settings around the tables, and what names the table behind them: indexes,
//! triggers. A dump of PostgreSQL defines all tables first and their indexes and constraints last; there the statements that
//! have the table for their subject are chosen, with the sequences it owns, the types and functions they mention, and, of a
//! partitioned table, its partitions. What ties the table to others that are not restored is left out, and said.

use std::collections::BTreeSet;

use crate::transform::segment::sql::{Dialect, Words, blank, name, name_and_rest};
use crate::transform::segment::units::units;

/// What was chosen.
pub struct Definitions {
    /// Of each text, in order.
    pub statements: Vec<Vec<Chosen>>,
    /// The table, and its partitions.
    pub tables: Vec<String>,
    /// The dump defines it.
    pub defined: bool,
    /// It is partitioned: its rows are in its partitions, if it has any.
    pub rowless: bool,
    /// What was left out, for people.
    pub left_out: Vec<String>,
}

/// A statement to be written.
pub struct Chosen {
    /// Its bytes, to its end.
    pub text: Vec<u8>,
    /// What it does.
    pub role: Role,
}

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sets up the session.
    Setting,
    /// Defines something.
    Definition,
    /// Goes with the rows: where a sequence stands.
    Data,
}

/// Chooses from `texts` what recreates `table`.
pub fn choose(dialect: Dialect, texts: &[&[u8]], table: &str) -> Definitions {
    let units: Vec<Vec<&[u8]>> = texts.iter().map(|text| units(dialect, text)).collect();
    if dialect == Dialect::Postgres {
        return Postgres::new(&units, table).choose(&units);
    }
    let mut left_out = Vec::new();
    let literal = format!("'{}'", table.replace('\'', "''"));
    let counter = format!("INSERT INTO {COUNTERS} VALUES({literal},");
    let mut chosen = |unit: &&[u8]| {
        let statement = &unit[blank(dialect, unit).unwrap_or(0)..];
        let words = Words::of(statement);
        let is_setting = match dialect {
            Dialect::Mysql => words.after(&["SET"]).is_some(),
            _ => ["PRAGMA", "BEGIN", "COMMIT"].iter().any(|word| words.after(&[word]).is_some()),
        };
        let chosen = |role| Some(Chosen { text: unit.to_vec(), role });
        if is_setting && REPLICATION.iter().any(|name| memchr::memmem::find(statement, name.as_bytes()).is_some()) {
            left_out.push(format!("left out, since it concerns the whole server: {}", one_line(statement)));
            return None;
        }
        if is_setting {
            return chosen(Role::Setting);
        }
        if dialect == Dialect::Sqlite && statement.starts_with(counter.as_bytes()) {
            // Where its rows were inserted, SQLite has counted already.
            let mut text = format!("DELETE FROM {COUNTERS} WHERE name = {literal};\n").into_bytes();
            text.extend_from_slice(statement);
            return Some(Chosen { text, role: Role::Data });
        }
        let about = dialect == Dialect::Sqlite && on_table(&words).is_some_and(|on| on.eq_ignore_ascii_case(table));
        if about { chosen(Role::Definition) } else { None }
    };
    let statements = units.iter().map(|units| units.iter().filter_map(&mut chosen).collect()).collect();
    Definitions { statements, tables: vec![table.to_owned()], defined: false, rowless: false, left_out }
}

/// The table in which `SQLite` keeps what `AUTOINCREMENT` has reached (<https://sqlite.org/autoinc.html>).
pub const COUNTERS: &str = "sqlite_sequence";

/// What a dump of MySQL sets for the server it came from: a table that is restored elsewhere must not.
const REPLICATION: [&str; 3] = ["GTID_PURGED", "SQL_LOG_BIN", "MYSQLDUMP_TEMP_LOG_BIN"];

/// The table of an index or a trigger.
fn on_table(words: &Words<'_>) -> Option<String> {
    let kinds = [
        &["CREATE", "INDEX"][..],
        &["CREATE", "UNIQUE", "INDEX"],
        &["CREATE", "TRIGGER"],
        &["CREATE", "CONSTRAINT", "TRIGGER"],
    ];
    let rest = kinds.iter().find_map(|kind| words.after(kind))?;
    let (_, rest) = name_and_rest(rest)?;
    after_word(rest, "ON").and_then(|rest| Words::of(rest).after(&[]).and_then(name))
}

/// What follows the first `word` that stands by itself, in whatever case.
fn after_word<'t>(text: &'t [u8], word: &str) -> Option<&'t [u8]> {
    let is_part = |at: Option<usize>| {
        at.and_then(|at| text.get(at))
            .is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'.' | 0x80..))
    };
    let found = (0..text.len().saturating_sub(word.len())).find(|at| {
        text[*at..at + word.len()].eq_ignore_ascii_case(word.as_bytes())
            && !is_part(at.checked_sub(1))
            && !is_part(Some(at + word.len()))
    })?;
    Some(text[found + word.len()..].trim_ascii_start())
}

struct Postgres {
    table: String,
    /// The table, its partitions, and theirs.
    tables: BTreeSet<String>,
    /// Tables that they inherit from: only defined.
    parents: BTreeSet<String>,
    /// Sequences that they own, or mention.
    sequences: BTreeSet<String>,
    /// Types and functions that their definitions mention.
    others: BTreeSet<String>,
}

/// What a statement is about.
enum Subject {
    Setting,
    /// A table, or what it owns.
    Table(String),
    Sequence(String),
    /// A type or a function.
    Other(String),
    Schema(String),
    Extension,
    Nothing,
}

impl Postgres {
    fn new(units: &[Vec<&[u8]>], table: &str) -> Self {
        let table = if table.contains('.') { table.to_owned() } else { format!("public.{table}") };
        let mut new = Self {
            tables: BTreeSet::from([table.clone()]),
            table,
            parents: BTreeSet::new(),
            sequences: BTreeSet::new(),
            others: BTreeSet::new(),
        };
        let all = || units.iter().flatten().map(|unit| statement(unit));
        // Partitions are attached in an order that follows from their names: as often as there may be levels.
        loop {
            let before = new.tables.len();
            for unit in all() {
                if let Some((parent, child)) = attached(unit)
                    && new.tables.contains(&parent)
                {
                    new.tables.insert(child);
                }
            }
            if new.tables.len() == before {
                break;
            }
        }
        // Parents are defined first.
        for unit in units.iter().flatten().rev().map(|unit| statement(unit)) {
            if let Some(child) = Words::of(unit).after(&["CREATE", "TABLE"]).and_then(name)
                && (new.tables.contains(&child) || new.parents.contains(&child))
            {
                new.parents.extend(inherited(unit).into_iter().filter(|parent| !new.tables.contains(parent)));
            }
        }
        for unit in all() {
            let owned =
                Words::of(unit).after(&["ALTER", "SEQUENCE"]).and_then(name_and_rest).and_then(|(sequence, rest)| {
                    let column = name(after_word(rest, "BY")?)?;
                    let (table, _) = column.rsplit_once('.')?;
                    new.tables.contains(table).then_some(sequence)
                });
            // An identity column's sequence is made with it.
            let identity = matches!(subject(unit), Subject::Table(t) if new.tables.contains(&t))
                .then(|| after_word(unit, "NAME").and_then(name).filter(|_| after_word(unit, "IDENTITY").is_some()))
                .flatten();
            new.sequences.extend(owned);
            new.sequences.extend(identity);
        }
        new.find_others(&all().collect::<Vec<_>>());
        new
    }

    /// Types and functions that chosen statements mention, and those that these mention.
    fn find_others(&mut self, units: &[&[u8]]) {
        let defined: Vec<(String, &[u8])> = units
            .iter()
            .filter(|unit| unit.get(..7).is_some_and(|word| word.eq_ignore_ascii_case(b"CREATE ")))
            .filter_map(|unit| match subject(unit) {
                Subject::Other(name) | Subject::Sequence(name) => Some((name, *unit)),
                _ => None,
            })
            .collect();
        let chosen = |unit: &&[u8]| match subject(unit) {
            Subject::Table(name) => self.tables.contains(&name) || self.parents.contains(&name),
            Subject::Sequence(name) => self.sequences.contains(&name),
            _ => false,
        };
        let mut texts: Vec<&[u8]> = units.iter().copied().filter(chosen).collect();
        while let Some(text) = texts.pop() {
            for (other, definition) in &defined {
                if !self.others.contains(other) && !self.sequences.contains(other) && mentions(text, other) {
                    let is_sequence = matches!(subject(definition), Subject::Sequence(_));
                    if is_sequence { &mut self.sequences } else { &mut self.others }.insert(other.clone());
                    texts.push(definition);
                }
            }
        }
    }

    fn choose(self, units: &[Vec<&[u8]>]) -> Definitions {
        let (mut defined, mut rowless, mut left_out, mut indexes) = (false, false, Vec::new(), BTreeSet::new());
        let schemas: BTreeSet<&str> = self
            .tables
            .iter()
            .chain(&self.parents)
            .filter_map(|t| t.rsplit_once('.'))
            .map(|(schema, _)| schema)
            .collect();
        let mut of_text = |units: &Vec<&[u8]>| {
            let mut chosen = Vec::new();
            for unit in units {
                let text = statement(unit);
                let role = match subject(text) {
                    Subject::Setting => Role::Setting,
                    Subject::Table(t) if self.sequences.contains(&t) => Role::Definition,
                    Subject::Table(t) if self.tables.contains(&t) || self.parents.contains(&t) => {
                        // What `--clean` takes away first is there to stay.
                        if takes_away(text) {
                            continue;
                        }
                        if t == self.table && Words::of(text).after(&["CREATE", "TABLE"]).is_some() {
                            defined = true;
                            rowless = after_word(text, "PARTITION").is_some_and(|rest| rest.starts_with(b"BY "));
                        }
                        if let Some(other) = self.ties(text) {
                            left_out.push(format!("left out, since `{other}` is not restored: {}", one_line(text)));
                            continue;
                        }
                        if let Some(index) = made_index(text) {
                            indexes.insert(index);
                        }
                        Role::Definition
                    }
                    Subject::Sequence(name) if self.sequences.contains(&name) => {
                        if Words::of(text).after(&["SELECT"]).is_some() { Role::Data } else { Role::Definition }
                    }
                    Subject::Other(name) if self.others.contains(&name) => Role::Definition,
                    Subject::Other(name)
                        if indexes.contains(&name)
                            && attached_index(text).is_some_and(|index| indexes.contains(&index)) =>
                    {
                        Role::Definition
                    }
                    Subject::Schema(name) if name != "public" && schemas.contains(&name[..]) => {
                        let text = format!("CREATE SCHEMA IF NOT EXISTS {};\n\n", quoted(&name)).into_bytes();
                        chosen.push(Chosen { text, role: Role::Definition });
                        continue;
                    }
                    Subject::Extension => Role::Definition,
                    _ => continue,
                };
                chosen.push(Chosen { text: unit.to_vec(), role });
            }
            chosen
        };
        let mut statements: Vec<_> = units.iter().map(&mut of_text).collect();
        if !defined {
            // Only what sets up the session: nothing else of it is known.
            for chosen in &mut statements {
                chosen.retain(|c| c.role == Role::Setting);
            }
        }
        let tables = if defined { self.tables.into_iter().collect() } else { vec![self.table] };
        Definitions { statements, tables, defined, rowless, left_out }
    }

    /// Another table that this statement needs, and that is not restored.
    fn ties(&self, statement: &[u8]) -> Option<String> {
        let other = match attached(statement) {
            Some((_, child)) => Some(child),
            None => foreign(statement),
        };
        other.filter(|other| !self.tables.contains(other) && !self.parents.contains(other))
    }
}

/// A unit without the comments in front of it.
fn statement(unit: &[u8]) -> &[u8] {
    &unit[blank(Dialect::Postgres, unit).unwrap_or(0)..]
}

/// `ALTER TABLE ONLY parent ATTACH PARTITION child ...`
fn attached(statement: &[u8]) -> Option<(String, String)> {
    let (parent, rest) = name_and_rest(Words::of(statement).after(&["ALTER", "TABLE"])?)?;
    Some((parent, name(Words::of(rest).after(&["ATTACH", "PARTITION"])?)?))
}

/// The table that a foreign key refers to: `ALTER TABLE ONLY t ADD CONSTRAINT c FOREIGN KEY (...) REFERENCES other(...)`.
fn foreign(statement: &[u8]) -> Option<String> {
    let (_, rest) = name_and_rest(Words::of(statement).after(&["ALTER", "TABLE"])?)?;
    let (_, rest) = name_and_rest(Words::of(rest).after(&["ADD", "CONSTRAINT"])?)?;
    name(after_word(Words::of(rest).after(&["FOREIGN", "KEY"])?, "REFERENCES")?)
}

/// The tables that a definition inherits from: `... ) INHERITS (a, b);`.
fn inherited(statement: &[u8]) -> Vec<String> {
    let Some(mut rest) = after_word(statement, "INHERITS").and_then(|rest| rest.strip_prefix(b"(")) else {
        return Vec::new();
    };
    let mut parents = Vec::new();
    while let Some((parent, behind)) = name_and_rest(rest.trim_ascii_start()) {
        parents.push(parent);
        match behind.strip_prefix(b",") {
            Some(more) => rest = more,
            None => break,
        }
    }
    parents
}

/// `ALTER TABLE t DROP ...`, `... ALTER COLUMN c DROP DEFAULT`, `... DETACH PARTITION ...`
fn takes_away(statement: &[u8]) -> bool {
    let Some((_, rest)) = Words::of(statement).after(&["ALTER", "TABLE"]).and_then(name_and_rest) else { return false };
    let words = Words::of(rest);
    let column = words.after(&["ALTER", "COLUMN"]).and_then(name_and_rest).map(|(_, rest)| Words::of(rest));
    words.after(&["DROP"]).is_some()
        || words.after(&["DETACH"]).is_some()
        || column.is_some_and(|words| words.after(&["DROP", "DEFAULT"]).is_some())
}

/// `ALTER INDEX parent ATTACH PARTITION child`
fn attached_index(statement: &[u8]) -> Option<String> {
    let (_, rest) = name_and_rest(Words::of(statement).after(&["ALTER", "INDEX"])?)?;
    name(Words::of(rest).after(&["ATTACH", "PARTITION"])?)
}

/// The index that a statement about a table makes, in the schema of the table.
fn made_index(statement: &[u8]) -> Option<String> {
    let words = Words::of(statement);
    let index = words.after(&["CREATE", "INDEX"]).or_else(|| words.after(&["CREATE", "UNIQUE", "INDEX"]));
    let (index, table) = if let Some(rest) = index {
        (name(rest)?, name(Words::of(after_word(rest, "ON")?).after(&[])?)?)
    } else {
        let (table, rest) = name_and_rest(words.after(&["ALTER", "TABLE"])?)?;
        (name(Words::of(rest).after(&["ADD", "CONSTRAINT"])?)?, table)
    };
    let (schema, _) = table.rsplit_once('.')?;
    Some(format!("{schema}.{index}"))
}

fn subject(statement: &[u8]) -> Subject {
    let words = Words::of(statement);
    let named = |pattern: &[&str]| words.after(pattern).and_then(name);
    let first = |patterns: &[&[&str]]| patterns.iter().find_map(|pattern| named(pattern));
    if statement.starts_with(b"\\restrict") || statement.starts_with(b"\\unrestrict") || words.after(&["SET"]).is_some()
    {
        return Subject::Setting;
    }
    if let Some(call) = words.after(&["SELECT"]) {
        let argument = |function: &[u8]| {
            call.strip_prefix(function).and_then(name).map(|quoted| name(quoted.as_bytes()).unwrap_or(quoted))
        };
        if call.starts_with(b"pg_catalog.set_config(") {
            return Subject::Setting;
        }
        return argument(b"pg_catalog.setval(").map_or(Subject::Nothing, Subject::Sequence);
    }
    if let Some(sequence) = first(&[&["CREATE", "SEQUENCE"], &["ALTER", "SEQUENCE"], &["COMMENT", "ON", "SEQUENCE"]]) {
        return Subject::Sequence(sequence);
    }
    if let Some(table) =
        first(&[&["CREATE", "TABLE"], &["ALTER", "TABLE"], &["COMMENT", "ON", "TABLE"]]).or_else(|| on_table(&words))
    {
        return Subject::Table(table);
    }
    if let Some(column) = named(&["COMMENT", "ON", "COLUMN"])
        && let Some((table, _)) = column.rsplit_once('.')
    {
        return Subject::Table(table.to_owned());
    }
    if let Some(rest) = words.after(&["GRANT"]).or_else(|| words.after(&["REVOKE"])) {
        let on = after_word(rest, "ON");
        return match on.and_then(|on| Words::of(on).after(&["TABLE"]).and_then(name)) {
            Some(table) => Subject::Table(table),
            None => match on.and_then(|on| Words::of(on).after(&["SEQUENCE"]).and_then(name)) {
                Some(sequence) => Subject::Sequence(sequence),
                None => Subject::Nothing,
            },
        };
    }
    for pattern in [
        &["CREATE", "POLICY"][..],
        &["COMMENT", "ON", "CONSTRAINT"],
        &["COMMENT", "ON", "TRIGGER"],
        &["COMMENT", "ON", "POLICY"],
    ] {
        if let Some((_, rest)) = words.after(pattern).and_then(name_and_rest) {
            return Words::of(rest.trim_ascii_start())
                .after(&["ON"])
                .and_then(name)
                .map_or(Subject::Nothing, Subject::Table);
        }
    }
    if let Some(rest) = words.after(&["CREATE", "RULE"]) {
        return after_word(rest, "TO").and_then(name).map_or(Subject::Nothing, Subject::Table);
    }
    if let Some(rest) = words.after(&["CREATE", "STATISTICS"]) {
        return after_word(rest, "FROM").and_then(name).map_or(Subject::Nothing, Subject::Table);
    }
    if let Some(schema) = named(&["CREATE", "SCHEMA"]) {
        return Subject::Schema(schema);
    }
    if words.after(&["CREATE", "EXTENSION"]).is_some() {
        return Subject::Extension;
    }
    let others: [&[&str]; 9] = [
        &["CREATE", "TYPE"],
        &["CREATE", "DOMAIN"],
        &["CREATE", "FUNCTION"],
        &["CREATE", "PROCEDURE"],
        &["CREATE", "COLLATION"],
        &["ALTER", "TYPE"],
        &["ALTER", "DOMAIN"],
        &["ALTER", "FUNCTION"],
        &["ALTER", "INDEX"],
    ];
    first(&others).map_or(Subject::Nothing, Subject::Other)
}

/// Does `text` hold the name by itself, quoted or not?
fn mentions(text: &[u8], qualified: &str) -> bool {
    let is_part =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$'));
    let quoted: Vec<String> = qualified.split('.').map(quoted).collect();
    [qualified.to_owned(), quoted.join(".")].iter().any(|name| {
        memchr::memmem::find_iter(text, name.as_bytes())
            .any(|at| !is_part(at.checked_sub(1).and_then(|at| text.get(at))) && !is_part(text.get(at + name.len())))
    })
}

/// An identifier as PostgreSQL writes it.
fn quoted(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn one_line(statement: &[u8]) -> String {
    String::from_utf8_lossy(statement).split_whitespace().collect::<Vec<_>>().join(" ")
}
