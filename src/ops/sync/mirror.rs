//! Which copies go because their originals are gone; and when that looks like an accident, or like somebody
//! who deletes the source: then none does.

use std::collections::HashSet;

use crate::error::{Error, Kind, Result};
use crate::format::manifest::{Original, object_name};
use crate::id::SnapshotId;
use crate::repo::Repository;
use crate::repo::snapshots::Snapshot;

use super::{Copied, Mirror, SyncOptions, by_series, copied, original};

/// So few copies may go whatever share they are.
const FEW: usize = 2;

/// The copies in `dest` of snapshots that `source` had and has no more. Only those that name `source` as their
/// original's repository: what came from elsewhere is no concern of this mirror.
///
/// # Errors
/// `Failed` when the guard refuses; `Storage`.
pub(super) fn plan(
    source: &Repository,
    dest: &Repository,
    here: &[Snapshot],
    unreadable: &[(SnapshotId, Error)],
    there: &[Snapshot],
    options: &SyncOptions,
) -> Result<Vec<Copied>> {
    if options.mirror == Mirror::Off {
        return Ok(Vec::new());
    }
    let listed = unreadable.iter().map(|(id, _)| Original { repository: source.id, snapshot: *id });
    let originals: HashSet<Original> = here.iter().map(|s| original(source, s)).chain(listed).collect();
    let of_source = |s: &&Snapshot| s.manifest.original.is_some_and(|o| o.repository == source.id);
    let copies: Vec<&Snapshot> = there.iter().filter(of_source).filter(|s| options.filter.admits(s)).collect();
    let gone: Vec<&Snapshot> = copies.iter().copied().filter(|s| !originals.contains(&original(dest, s))).collect();
    // A listing may be short: what it lacks is asked for by name before its copy goes.
    for copy in &gone {
        let name = object_name(original(dest, copy).snapshot);
        if source.storage.stat(&name)?.is_some() {
            return Err(refused(&format!("the source holds {name} and does not list it")));
        }
    }
    if options.mirror == Mirror::Guarded {
        guard(&copies, &gone, unreadable)?;
    }
    Ok(gone.iter().map(|s| copied(s, original(dest, s), Some(s.id), 0)).collect())
}

fn guard(copies: &[&Snapshot], gone: &[&Snapshot], unreadable: &[(SnapshotId, Error)]) -> Result<()> {
    if let Some((id, _)) = unreadable.first() {
        return Err(refused(&format!("{} of the source can't be read", object_name(*id))));
    }
    if gone.len() > FEW && gone.len() * 2 > copies.len() {
        let names: Vec<String> = gone.iter().map(|s| s.id.to_string()[..8].to_owned()).collect();
        return Err(refused(&format!("{} of {} copies would go ({})", gone.len(), copies.len(), names.join(", "))));
    }
    let (all, going) = (by_series(copies.iter().copied()), by_series(gone.iter().copied()));
    match going.iter().find(|(series, ids)| all.get(*series).is_some_and(|all| all.len() == ids.len())) {
        Some(((host, source), _)) => {
            Err(refused(&format!("every copy of `{}` of `{}` would go", source.escape_debug(), host.escape_debug())))
        }
        None => Ok(()),
    }
}

fn refused(why: &str) -> Error {
    Error::new(Kind::Failed, format!("the mirror refused: {why}; nothing was copied or removed")).hint(
        "look at the source first: `alluvium snapshots`, `alluvium check`. Without --mirror, sync copies and removes nothing; --mirror-anyway removes all the same",
    )
}
