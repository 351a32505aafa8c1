//! `diff`: what two snapshots have in common, told from their recipes alone: no data is read.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::error::Result;
use crate::format::manifest::Part;
use crate::repo::Repository;
use crate::repo::reader::Reader;
use crate::repo::snapshots::Snapshot;
use crate::report::Report;

/// One part in two snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartDiff {
    /// The part.
    pub name: String,
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

/// Compares `old` with `new`, part by part, in the order of names.
///
/// # Errors
/// `Damaged` when a recipe can't be read; `Storage`.
pub fn diff(repo: &Repository, old: &Snapshot, new: &Snapshot, report: &dyn Report) -> Result<Vec<PartDiff>> {
    let indexed = repo.index_to_read(report)?;
    let reader = Reader::new(&indexed)?;
    let mut names: BTreeMap<&str, (Option<&Part>, Option<&Part>)> = BTreeMap::new();
    for part in &old.manifest.parts {
        names.entry(&part.name).or_default().0 = Some(part);
    }
    for part in &new.manifest.parts {
        names.entry(&part.name).or_default().1 = Some(part);
    }
    names.into_iter().map(|(name, (old, new))| part_diff(&reader, name, old, new)).collect()
}

fn part_diff(reader: &Reader<'_>, name: &str, old: Option<&Part>, new: Option<&Part>) -> Result<PartDiff> {
    let bytes = |part: Option<&Part>| part.map_or(0, |p| p.digest.bytes);
    let (old_bytes, new_bytes) = (bytes(old), bytes(new));
    let (change, removed_bytes, added_bytes) = match (old, new) {
        (Some(old), Some(new)) if old.digest == new.digest && old.kind == new.kind => (Change::Same, 0, 0),
        (Some(old), Some(new)) => {
            let (removed, added) = chunks(reader, old, new)?;
            (Change::Changed, removed, added)
        }
        (None, _) => (Change::Added, 0, new_bytes),
        (_, None) => (Change::Removed, old_bytes, 0),
    };
    Ok(PartDiff { name: name.to_owned(), change, old_bytes, new_bytes, removed_bytes, added_bytes })
}

/// Bytes in chunks that only `old` has, and that only `new` has.
fn chunks(reader: &Reader<'_>, old: &Part, new: &Part) -> Result<(u64, u64)> {
    // Per chunk: its length, and whether the new part has it too.
    let mut seen: HashMap<_, (u32, bool)> = HashMap::new();
    for entry in reader.entries(&old.recipe) {
        let entry = entry?;
        seen.insert(entry.id, (entry.len, false));
    }
    let mut added = 0;
    for entry in reader.entries(&new.recipe) {
        let entry = entry?;
        match seen.get_mut(&entry.id) {
            Some((_, both)) => *both = true,
            None => added += u64::from(entry.len),
        }
    }
    let removed = seen.values().filter(|(_, both)| !both).map(|(len, _)| u64::from(*len)).sum();
    Ok((removed, added))
}
