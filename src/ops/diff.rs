//! `diff`: what two snapshots have in common, told from their recipes alone; of tables also which rows differ, for which the
//! chunks are read that only one of them has ([`rows`]).

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use self::rows::{Changes, RowDiff};
use super::dump::dialect;
use super::select::no_part;
use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::format::manifest::{Part, PartKind, PartName};
use crate::id::BlobId;
use crate::repo::Repository;
use crate::repo::reader::{Reader, Walking};
use crate::repo::snapshots::Snapshot;
use crate::report::{Report, Unit};
use crate::transform::segment::sql::Dialect;

pub mod rows;

/// One part in two snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartDiff {
    /// The part's name as people read it.
    pub name: String,
    /// The part.
    pub part: PartName,
    /// What became of it.
    pub change: Change,
    /// Its bytes in the older snapshot.
    pub old_bytes: u64,
    /// Its bytes in the newer one.
    pub new_bytes: u64,
    /// Bytes in chunks that only the older one has.
    pub removed_bytes: u64,
    /// Bytes in chunks that only the newer one has.
    pub added_bytes: u64,
    /// Rows of a table, in the older one and in the newer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_rows: Option<u64>,
    /// Its rows in the newer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_rows: Option<u64>,
    /// The rows that differ, where they were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowDiff>,
}

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Byte for byte the same.
    Same,
    /// In both, and different.
    Changed,
    /// Only in the newer one.
    Added,
    /// Only in the older one.
    Removed,
}

/// Compares `old` with `new`, part by part, in the order of names; with `rows` tables row by row, for which data is read.
///
/// # Errors
/// `Damaged` when a recipe or a chunk can't be read; `Storage`.
pub fn diff(
    repo: &Repository,
    old: &Snapshot,
    new: &Snapshot,
    rows: bool,
    report: &dyn Report,
) -> Result<Vec<PartDiff>> {
    let indexed = repo.index_to_read(report)?;
    let reader = Reader::new(&indexed)?;
    let (olds, news) = (reader.parts(&old.manifest)?, reader.parts(&new.manifest)?);
    let names = by_name(&olds, &news);
    report.task("Comparing", Unit::Things, Some(names.len() as u64));
    let dialects = rows.then(|| (dialect(old), dialect(new)));
    let cancel = Cancel::new();
    let with = Walking { transfers: repo.storage.transfers(), report, cancel: &cancel };
    let compare = |(i, (name, (old, new))): (usize, (Name<'_>, Both<'_>))| {
        report.progress(i as u64);
        part_diff(&reader, with, name, old, new, dialects)
    };
    names.into_iter().enumerate().map(compare).collect()
}

/// The rows of the table `name` that differ.
///
/// # Errors
/// `NotFound` when neither has it; `Damaged`, `Storage`.
pub fn table(repo: &Repository, old: &Snapshot, new: &Snapshot, name: &str, report: &dyn Report) -> Result<Changes> {
    let indexed = repo.index_to_read(report)?;
    let reader = Reader::new(&indexed)?;
    let (olds, news) = (reader.parts(&old.manifest)?, reader.parts(&new.manifest)?);
    let mut names = by_name(&olds, &news).into_iter();
    let called = |((_, full), _): &(Name<'_>, Both<'_>)| is_called(full, name);
    let ((full, _), (before, after)) = names.find(called).ok_or_else(|| no_part(new, name))?;
    if [before, after].into_iter().flatten().any(|part| part.kind == PartKind::Statements) {
        return Err(Error::new(Kind::Usage, format!("`{full}` holds statements, not rows"))
            .hint("write it out from both snapshots (`alluvium restore SNAP:PART`) and compare them with `diff`"));
    }
    let (of_old, of_new) = (dialect(old), dialect(new));
    rows::changes(&reader, before.map(|part| (part, of_old)), after.map(|part| (part, of_new)), true)
}

/// Bytes added and removed in all `parts`. What a list says of the lengths of its parts may exceed any number.
pub fn total(parts: &[PartDiff]) -> (u64, u64) {
    let sum = |bytes: fn(&PartDiff) -> u64| parts.iter().map(bytes).fold(0, u64::saturating_add);
    (sum(|part| part.added_bytes), sum(|part| part.removed_bytes))
}

/// Whether a user calls a part by this name: its own, or the end of it.
pub fn is_called(part: &PartName, name: &str) -> bool {
    let is_file_below = || part.object.strip_suffix(name).is_some_and(|front| front.ends_with('/'));
    part.to_string() == name || part.piece == 1 && (part.is_object_called(name) || is_file_below())
}

/// A part in the older snapshot and in the newer.
type Both<'s> = (Option<&'s Part>, Option<&'s Part>);

/// A part's name: as people read it, by which they are sorted, and as it is.
type Name<'s> = (String, &'s PartName);

fn by_name<'s>(old: &'s [Part], new: &'s [Part]) -> BTreeMap<Name<'s>, Both<'s>> {
    let mut names: BTreeMap<Name<'_>, Both<'_>> = BTreeMap::new();
    for part in old {
        names.entry((part.name.to_string(), &part.name)).or_default().0 = Some(part);
    }
    for part in new {
        names.entry((part.name.to_string(), &part.name)).or_default().1 = Some(part);
    }
    names
}

/// With the `dialects` of the two snapshots tables are compared row by row.
fn part_diff(
    reader: &Reader<'_>,
    with: Walking<'_>,
    (name, part): Name<'_>,
    old: Option<&Part>,
    new: Option<&Part>,
    dialects: Option<(Option<Dialect>, Option<Dialect>)>,
) -> Result<PartDiff> {
    let bytes = |part: Option<&Part>| part.map_or(0, |p| p.digest.bytes);
    let (old_bytes, new_bytes) = (bytes(old), bytes(new));
    let (change, removed_bytes, added_bytes) = match (old, new) {
        (Some(old), Some(new)) if old.digest == new.digest && old.kind == new.kind => (Change::Same, 0, 0),
        (Some(old), Some(new)) => {
            let (removed, added) = chunks(reader, with, old, new)?;
            (Change::Changed, removed, added)
        }
        (None, _) => (Change::Added, 0, new_bytes),
        (_, None) => (Change::Removed, old_bytes, 0),
    };
    let rows_of = |part: Option<&Part>| match part.map(|part| &part.kind) {
        Some(PartKind::Table { rows }) => Some(*rows),
        _ => None,
    };
    let (old_rows, new_rows) = (rows_of(old), rows_of(new));
    let is_table = old_rows.is_some() || new_rows.is_some();
    let rows = match (change, dialects) {
        (Change::Added | Change::Removed | Change::Changed, Some((of_old, of_new))) if is_table => {
            Some(rows::count(reader, old.map(|part| (part, of_old)), new.map(|part| (part, of_new)))?)
        }
        _ => None,
    };
    let part = part.clone();
    Ok(PartDiff { name, part, change, old_bytes, new_bytes, removed_bytes, added_bytes, old_rows, new_rows, rows })
}

/// Bytes in chunks that only `old` has, and that only `new` has; each chunk counts once.
fn chunks(reader: &Reader<'_>, with: Walking<'_>, old: &Part, new: &Part) -> Result<(u64, u64)> {
    // Per chunk: its length, and whether the old part has it, and the new.
    let mut seen: HashMap<BlobId, (u32, [bool; 2])> = HashMap::new();
    for (side, part) in [old, new].into_iter().enumerate() {
        reader.walk(&part.recipe, &mut HashSet::new(), with, &mut |entry, depth| {
            if depth == 0 {
                seen.entry(entry.id).or_insert((entry.len, [false; 2])).1[side] = true;
            }
            Ok(())
        })?;
    }
    let bytes = |has: [bool; 2]| seen.values().filter(|(_, who)| *who == has).map(|(len, _)| u64::from(*len)).sum();
    Ok((bytes([true, false]), bytes([false, true])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_exceed_any_number_have_a_total() {
        let part = |added_bytes| PartDiff {
            name: String::new(),
            part: PartName::of("shop"),
            change: Change::Added,
            old_bytes: 0,
            new_bytes: added_bytes,
            removed_bytes: 1,
            added_bytes,
            old_rows: None,
            new_rows: None,
            rows: None,
        };
        assert_eq!(total(&[part(u64::MAX), part(7), part(9)]), (u64::MAX, 3));
    }
}
