//! What changed in a table, row by row. Only chunks that one side alone has are read, and the one in front of each run of them,
//! where the first row may begin.
//!
//! A row is a line, or a tuple of an `INSERT`. Rows are compared as they are written; a removed and an added one with the same
//! first column are one that changed. What is held in memory is 32 bytes a row of the older side's chunks, and the rows that
//! differ.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use serde::Serialize;

use crate::error::Result;
use crate::format::manifest::Part;
use crate::format::recipe::RecipeEntry;
use crate::id::BlobId;
use crate::repo::reader::Reader;

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

/// Counts the rows that differ between two parts that are tables; one that is absent has none.
///
/// # Errors
/// `Damaged`, `Storage`.
pub fn count(reader: &Reader<'_>, old: Option<&Part>, new: Option<&Part>) -> Result<RowDiff> {
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

/// The rows that differ, in the newer one's order, removed ones last; without `whole` only their first columns are kept.
///
/// # Errors
/// `Damaged`, `Storage`.
pub fn changes(reader: &Reader<'_>, old: Option<&Part>, new: Option<&Part>, whole: bool) -> Result<Changes> {
    let sides = Sides::read(reader, old, new)?;
    let hasher = RandomState::new();
    // Rows of the older side that the newer has not shown yet.
    let mut left: HashMap<u64, i64> = HashMap::new();
    sides.each_row(reader, &sides.old, &mut |row| *left.entry(hasher.hash_one(row)).or_default() += 1)?;
    let keep = |row: &[u8]| if whole { row.to_vec() } else { first_column(row).to_vec() };
    let mut changes: Changes = Vec::new();
    sides.each_row(reader, &sides.new, &mut |row| match left.get_mut(&hasher.hash_one(row)) {
        Some(times) if *times > 0 => *times -= 1,
        _ => changes.push((None, Some(keep(row)))),
    })?;
    left.retain(|_, times| *times > 0);
    // By its first column, the first change that has no older form yet.
    let mut added: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    for (i, (_, row)) in changes.iter().enumerate().rev() {
        added.entry(first_column(row.as_deref().unwrap_or_default()).to_vec()).or_default().push(i);
    }
    if !left.is_empty() {
        let mut removed = Vec::new();
        sides.each_row(reader, &sides.old, &mut |row| {
            if let Some(times) = left.get_mut(&hasher.hash_one(row))
                && *times > 0
            {
                *times -= 1;
                match added.get_mut(first_column(row)).and_then(Vec::pop) {
                    Some(i) => changes[i].0 = Some(keep(row)),
                    None => removed.push((Some(keep(row)), None)),
                }
            }
        })?;
        changes.append(&mut removed);
    }
    Ok(changes)
}

/// A row up to its first tab or comma.
fn first_column(row: &[u8]) -> &[u8] {
    &row[..memchr::memchr2(b'\t', b',', row).unwrap_or(row.len())]
}

/// The chunks of both, and which of them one side alone has.
struct Sides {
    old: Vec<RecipeEntry>,
    new: Vec<RecipeEntry>,
    both: HashSet<BlobId>,
}

impl Sides {
    fn read(reader: &Reader<'_>, old: Option<&Part>, new: Option<&Part>) -> Result<Self> {
        let entries = |part: Option<&Part>| -> Result<Vec<RecipeEntry>> {
            part.map_or_else(|| Ok(Vec::new()), |part| reader.entries(&part.recipe).collect())
        };
        let (old, new) = (entries(old)?, entries(new)?);
        let olds: HashSet<BlobId> = old.iter().map(|entry| entry.id).collect();
        let both = new.iter().map(|entry| entry.id).filter(|id| olds.contains(id)).collect();
        Ok(Self { old, new, both })
    }

    /// Every row that touches a chunk that one side alone has.
    fn each_row(&self, reader: &Reader<'_>, entries: &[RecipeEntry], row: &mut dyn FnMut(&[u8])) -> Result<()> {
        let mut rows = Rows::default();
        let mut reading = false;
        for (i, entry) in entries.iter().enumerate() {
            if self.both.contains(&entry.id) {
                if reading {
                    // The last row of the run may end here.
                    rows.take(&reader.blob(&entry.id)?, row, true);
                    reading = false;
                }
                continue;
            }
            if !reading && i > 0 {
                rows.begin_behind(&reader.blob(&entries[i - 1].id)?);
            }
            reading = true;
            rows.take(&reader.blob(&entry.id)?, row, false);
        }
        rows.end(row);
        Ok(())
    }
}

/// Cuts a table's bytes into rows.
#[derive(Default)]
struct Rows {
    /// A row that has not ended.
    open: Vec<u8>,
}

impl Rows {
    /// The next bytes follow these.
    fn begin_behind(&mut self, before: &[u8]) {
        self.open.clear();
        self.open.extend_from_slice(&before[last_end(before)..]);
    }

    /// The next bytes; with `only_first`, only the row that ends first in them, if one is open.
    fn take(&mut self, bytes: &[u8], row: &mut dyn FnMut(&[u8]), only_first: bool) {
        if only_first && self.open.is_empty() {
            return;
        }
        let mut at = 0;
        while let Some(end) = next_end(bytes, at) {
            self.open.extend_from_slice(&bytes[at..end]);
            at = end;
            self.end(row);
            if only_first {
                return;
            }
        }
        self.open.extend_from_slice(&bytes[at..]);
    }

    fn end(&mut self, row: &mut dyn FnMut(&[u8])) {
        let text = self.open.trim_ascii();
        let text = text.strip_suffix(b"),(").unwrap_or(text);
        let text = text.strip_suffix(b");").or_else(|| text.strip_suffix(b"),")).unwrap_or(text);
        let text = if text.starts_with(b"INSERT ") || text.starts_with(b"REPLACE ") {
            memchr::memmem::find(text, b"(").map_or(text, |at| &text[at + 1..])
        } else {
            text.strip_prefix(b"(").unwrap_or(text)
        };
        if !text.is_empty() {
            row(text);
        }
        self.open.clear();
    }
}

/// Where the row ends that begins at `from`: behind a line feed, or behind `),(`.
fn next_end(bytes: &[u8], from: usize) -> Option<usize> {
    memchr::memchr2_iter(b'\n', b'(', &bytes[from..])
        .map(|at| from + at + 1)
        .find(|end| bytes[end - 1] == b'\n' || bytes[from..*end].ends_with(b"),("))
}

fn last_end(bytes: &[u8]) -> usize {
    let line = memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1);
    let tuple = memchr::memmem::rfind(bytes, b"),(").map_or(0, |at| at + 3);
    line.max(tuple)
}
