//! What changed in a table, row by row. Only chunks that one side alone has are read, and those in front of each run of them
//! up to the last line feed, where the first row may begin. Where strings hold line feeds (`INSERT` of PostgreSQL and of
//! `SQLite`) a table is read from its beginning on: what is a string and what is not, nothing in the middle tells for certain.
//!
//! A row is a line, or a tuple of an `INSERT`. Rows are compared as they are written; a removed and an added one with the same
//! first column are one that changed. What is held in memory is 32 bytes a row of the older side's chunks, and the rows that
//! differ.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::format::manifest::Part;
use crate::format::recipe::RecipeEntry;
use crate::id::BlobId;
use crate::repo::reader::Reader;
use crate::transform::segment::rows::{Form, Rows, Take, last_line};
use crate::transform::segment::sql::Dialect;

/// Most chunks of a table whose rows are compared: 36 bytes of memory each, 1 TiB of a table.
const CHUNKS_MAX: usize = 1 << 22;

/// How many rows differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RowDiff {
    /// Rows that only the newer one has.
    pub added: u64,
    /// Rows that only the older one has.
    pub removed: u64,
    /// Rows with the same first column in both, and other values.
    pub changed: u64,
}

/// Rows that differ: of each the older form, the newer, or both.
pub type Changes = Vec<(Option<Vec<u8>>, Option<Vec<u8>>)>;

/// A part, and the dialect of the dump that it belongs to, if that is one.
pub type Side<'p> = Option<(&'p Part, Option<Dialect>)>;

/// Counts the rows that differ between two parts that are tables; one that is absent has none.
///
/// # Errors
/// `Damaged`, `Storage`.
pub fn count(reader: &Reader<'_>, old: Side<'_>, new: Side<'_>) -> Result<RowDiff> {
    let changes = changes(reader, old, new, false)?;
    let mut counted = RowDiff::default();
    for change in &changes {
        match change {
            (Some(_), Some(_)) => counted.changed += 1,
            (None, _) => counted.added += 1,
            (_, None) => counted.removed += 1,
        }
    }
    Ok(counted)
}

/// The rows that differ, in the newer one's order, removed ones last; without `whole` nothing of them is kept.
///
/// # Errors
/// `Damaged`, `Storage`.
pub fn changes(reader: &Reader<'_>, old: Side<'_>, new: Side<'_>, whole: bool) -> Result<Changes> {
    let (old, new) = (Chunks::read(reader, old)?, Chunks::read(reader, new)?);
    let (olds, news) = (old.ids(), new.ids());
    let hasher = RandomState::new();
    // Rows of the older side that the newer has not shown yet.
    let mut left: HashMap<u64, i64> = HashMap::new();
    old.each_row(reader, &news, &mut |row, _| *left.entry(hasher.hash_one(row)).or_default() += 1)?;
    let keep = |row: &[u8]| if whole { row.to_vec() } else { Vec::new() };
    let mut changes: Changes = Vec::new();
    let mut first_columns: Vec<u64> = Vec::new();
    new.each_row(reader, &olds, &mut |row, first| match left.get_mut(&hasher.hash_one(row)) {
        Some(times) if *times > 0 => *times -= 1,
        _ => {
            changes.push((None, Some(keep(row))));
            first_columns.push(hasher.hash_one(&row[..first]));
        }
    })?;
    left.retain(|_, times| *times > 0);
    if left.is_empty() {
        return Ok(changes);
    }
    // By its first column, the first change that has no older form yet.
    let mut added: HashMap<u64, Vec<usize>> = HashMap::new();
    for (i, first) in first_columns.into_iter().enumerate().rev() {
        added.entry(first).or_default().push(i);
    }
    let mut removed = Vec::new();
    old.each_row(reader, &news, &mut |row, first| {
        if let Some(times) = left.get_mut(&hasher.hash_one(row))
            && *times > 0
        {
            *times -= 1;
            match added.get_mut(&hasher.hash_one(&row[..first])).and_then(Vec::pop) {
                Some(i) => changes[i].0 = Some(keep(row)),
                None => removed.push((Some(keep(row)), None)),
            }
        }
    })?;
    changes.append(&mut removed);
    Ok(changes)
}

/// The chunks of a side, and how rows stand in them.
struct Chunks {
    entries: Vec<RecipeEntry>,
    form: Form,
}

impl Chunks {
    fn read(reader: &Reader<'_>, side: Side<'_>) -> Result<Self> {
        let Some((part, dialect)) = side else { return Ok(Self { entries: Vec::new(), form: Form::of(None, &[]) }) };
        let mut entries: Vec<RecipeEntry> = Vec::new();
        for entry in reader.part_entries(part) {
            if entries.len() == CHUNKS_MAX {
                let what = format!("`{}` has more than {CHUNKS_MAX} chunks: its rows are not compared", part.name);
                return Err(Error::new(Kind::Usage, what).hint("leave rows out with --quick"));
            }
            entries.push(entry?);
        }
        let head = match entries.first() {
            Some(first) if dialect.is_some() => reader.blob(&first.id)?,
            _ => Vec::new(),
        };
        Ok(Self { form: Form::of(dialect, &head), entries })
    }

    fn ids(&self) -> HashSet<BlobId> {
        self.entries.iter().map(|entry| entry.id).collect()
    }

    /// Every row that touches a chunk that is not one of `others`.
    fn each_row(&self, reader: &Reader<'_>, others: &HashSet<BlobId>, take: Take<'_>) -> Result<()> {
        let wanted = |at: usize| !others.contains(&self.entries[at].id);
        let mut rows = Rows::new(self.form);
        // The first chunk that was not passed.
        let mut next = 0;
        while let Some(first) = (next..self.entries.len()).find(|at| wanted(*at)) {
            if self.form.has_lines()
                && let Some((line, before)) = self.line_before(reader, next..first)?
            {
                (rows, next) = (Rows::within(self.form), before + 1);
                rows.pass(&line, false, false, take);
            }
            while next < self.entries.len() && (next <= first || wanted(next) || rows.is_waiting()) {
                rows.pass(&reader.blob(&self.entries[next].id)?, wanted(next), false, take);
                next += 1;
            }
        }
        rows.pass(&[], false, true, take);
        Ok(())
    }

    /// The beginning of the last line that begins in these chunks, and the chunk where it does.
    fn line_before(&self, reader: &Reader<'_>, chunks: Range<usize>) -> Result<Option<(Vec<u8>, usize)>> {
        for at in chunks.rev() {
            let mut bytes = reader.blob(&self.entries[at].id)?;
            if let Some(line) = last_line(&bytes) {
                bytes.drain(..line);
                return Ok(Some((bytes, at)));
            }
        }
        Ok(None)
    }
}
