//! One table of a dump: the statements that recreate it, chosen from the parts of the snapshot that hold it.
//!
//! The rows are whole parts. What defines the table is searched in the statements around them
//! ([`definitions`](super::definitions)): they are held in memory, large objects left out.

use crate::error::{Error, Kind, Result};
use crate::format::manifest::{Part, PartKind, PartName};
use crate::format::part::bytes_of;
use crate::repo::snapshots::Snapshot;
use crate::transform::segment::THE_REST;
use crate::transform::segment::sql::Dialect;
use crate::transform::segment::units::{UnitFilter, UnitGatherer};

use super::super::dump::dialect;
use super::super::select::{Narrow, no_part};
use super::Work;
use super::definitions::{COUNTERS, Chosen, Role, choose};

/// More definitions than this are not held in memory, in bytes.
const DEFINITIONS_MAX: usize = 64 << 20;

/// What will be written.
pub struct TablePlan<'d> {
    /// The table's name, without its database.
    name: String,
    dialect: Dialect,
    before: Vec<u8>,
    parts: Vec<&'d Part>,
    after: Vec<u8>,
    narrow: Narrow,
}

impl<'d> TablePlan<'d> {
    /// Reads the definitions around the table `name`. `parts` are those of the snapshot.
    pub(super) fn make(
        work: &Work<'_>,
        snapshot: &Snapshot,
        parts: &'d [Part],
        name: &PartName,
        narrow: Narrow,
    ) -> Result<Self> {
        let full = name.to_string();
        let plain = name.within_database();
        let here = |part: &Part| part.name.database.is_none() || part.name.database == name.database;
        let dialect = dialect(snapshot).ok_or_else(|| no_part(snapshot, &full))?;
        let counts =
            |part: &Part| dialect == Dialect::Sqlite && part.name == PartName::of(COUNTERS) && plain != COUNTERS;
        let is_text = |part: &Part| (part.kind == PartKind::Statements || counts(part)) && here(part);
        let statements = || parts.iter().enumerate().filter(|(_, part)| is_text(part));
        if narrow == Narrow::AsItIs {
            // No definition is asked for, so none is read.
            let is_it = |part: &&Part| matches!(part.kind, PartKind::Table { .. }) && part.name.is_same_object(name);
            let parts: Vec<&Part> = parts.iter().filter(is_it).collect();
            if parts.is_empty() {
                return Err(Error::new(Kind::NotFound, format!("`{full}` has no rows of its own"))
                    .hint("`alluvium restore` writes its definition"));
            }
            return Ok(Self { name: plain, dialect, before: Vec::new(), parts, after: Vec::new(), narrow });
        }
        let mut texts: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut held = 0;
        for (i, part) in statements() {
            let mut definitions = UnitGatherer::new(dialect);
            work.parts(&part.name.to_string(), &[part], &mut |bytes| {
                if held + definitions.pass(bytes, false) <= DEFINITIONS_MAX {
                    return Ok(());
                }
                Err(Error::new(
                    Kind::Usage,
                    format!("the definitions around `{full}` are longer than {DEFINITIONS_MAX} bytes"),
                )
                .hint("restore the whole dump, and take the table from it"))
            })?;
            held += definitions.pass(&[], true);
            texts.push((i, definitions.finish()));
        }
        let chosen = choose(dialect, &texts.iter().map(|(_, text)| &text[..]).collect::<Vec<_>>(), &plain);
        let in_set = |part: &&Part| {
            let table = part.name.within_database();
            matches!(part.kind, PartKind::Table { .. }) && here(part) && chosen.tables.contains(&table)
        };
        let tables: Vec<&Part> = parts.iter().filter(in_set).collect();
        if tables.is_empty() && !chosen.defined {
            return Err(no_part(snapshot, &full));
        }
        if tables.is_empty() && narrow != Narrow::Schema && !chosen.rowless {
            // Behind the last segment that a stream may have, rows stand in one with all that follows.
            let is_rest = |part: &Part| part.kind == PartKind::Statements && part.name.object == THE_REST;
            if parts.iter().any(is_rest) {
                return Err(Error::new(
                    Kind::Usage,
                    format!("`{full}` has no part of its own: the dump has too many tables"),
                )
                .hint("restore the whole dump, and take the table from it; --schema-only works"));
            }
            work.report.warn(&format!("the dump holds no rows of `{full}`"));
        }
        let first = parts.iter().position(|part| in_set(&part)).unwrap_or(parts.len());
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for ((at, _), statements) in texts.iter().zip(&chosen.statements) {
            for Chosen { text, role } in statements {
                let is_wanted = match role {
                    Role::Setting => true,
                    Role::Definition => narrow != Narrow::Data,
                    Role::Data => narrow != Narrow::Schema,
                };
                let into = if *at < first && *role != Role::Data { &mut before } else { &mut after };
                if is_wanted {
                    into.extend_from_slice(text);
                }
            }
        }
        for note in &chosen.left_out {
            work.report.warn(note);
        }
        // PostgreSQL's tables are defined outside of their parts.
        let parts = if narrow == Narrow::Schema && dialect == Dialect::Postgres { Vec::new() } else { tables };
        Ok(Self { name: plain, dialect, before, parts, after, narrow })
    }

    /// Bytes to be written, about.
    pub fn bytes(&self) -> u64 {
        bytes_of(self.parts.iter().copied()).saturating_add((self.before.len() + self.after.len()) as u64)
    }

    /// A name for its file.
    pub fn name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }

    pub(super) fn write(&self, work: &Work<'_>, out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        out(&self.before)?;
        for part in &self.parts {
            if self.dialect == Dialect::Postgres || matches!(self.narrow, Narrow::Everything | Narrow::AsItIs) {
                work.parts(&part.name.to_string(), &[part], out)?;
                continue;
            }
            // Definition and rows stand together.
            let mut filter = UnitFilter::new(self.dialect, self.narrow == Narrow::Data);
            work.parts(&part.name.to_string(), &[part], &mut |bytes| filter.pass(bytes, false, out))?;
            filter.pass(&[], true, out)?;
        }
        out(&self.after)
    }
}
