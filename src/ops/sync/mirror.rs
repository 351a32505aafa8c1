//! Which copies go because their originals were forgotten; and when that looks like an accident, or
//! like somebody who deletes the source: then none does.
//!
//! A source that shows an older state than this machine has seen was rolled back, or lost
//! snapshots: nothing goes. A machine that has not seen the newer state has only the chains of the
//! source to go by: a copy goes when they explain that its original was forgotten, or when this
//! machine has forgotten it, or a person has accepted it.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::error::{Error, Kind, Result};
use crate::format::manifest::{Original, SEQUENCE_MAX, object_name};
use crate::id::{SlotId, SnapshotId};
use crate::repo::Repository;
use crate::repo::series::{Link, explains_absence};
use crate::repo::snapshots::Snapshot;
use crate::report::{Problem, Report};

use super::{Copied, Mirror, SyncOptions, by_series, copied, original};

/// So few copies may go whatever share they are.
const FEW: usize = 2;

/// What becomes of the copies whose originals are gone.
#[derive(Debug, Default)]
pub(super) struct Mirrored {
    /// Their originals were forgotten.
    pub(super) remove: Vec<Copied>,
    /// Nothing explains why their originals are gone.
    pub(super) kept: Vec<Copied>,
}

/// Finds the copies in `dest` of snapshots that `source` had and has no more. Only those that name
/// `source` as their original's repository: what came from elsewhere is no concern of this mirror.
/// Those that are kept are reported.
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
    report: &dyn Report,
) -> Result<Mirrored> {
    if options.mirror == Mirror::Off {
        return Ok(Mirrored::default());
    }
    let listed = unreadable.iter().map(|(id, _)| Original { repository: source.id, snapshot: *id });
    let originals: HashSet<Original> = here.iter().map(|s| original(source, s)).chain(listed).collect();
    // Full slots copy: what others say are copies blocks no mirror, and lends it no weight.
    let of_source =
        |s: &&Snapshot| s.manifest.original.is_some_and(|o| o.repository == source.id) && dest.keys.is_full(s.author);
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
    let (chains, forgotten) = (Chains::of(source, here), source.seen.forgotten());
    let (remove, kept): (Vec<&Snapshot>, Vec<&Snapshot>) = gone.into_iter().partition(|copy| {
        let original = original(dest, copy).snapshot;
        let manifest = &copy.manifest;
        let series = source.keys.hasher.series(&manifest.host, &manifest.source);
        forgotten.has(&series, manifest.original_author, original, manifest.sequence) || chains.explain(copy, original)
    });
    for copy in &kept {
        let original = object_name(original(dest, copy).snapshot);
        let what = format!(
            "the copy was kept: its original {original} is gone, and neither the source's newer snapshots nor this \
             machine explain that it was forgotten. If it was, `forget` the copy by its id"
        );
        report.problem(Problem::new(object_name(copy.id), what));
    }
    let copied = |copies: Vec<&Snapshot>| -> Vec<Copied> {
        copies.into_iter().map(|s| copied(s, original(dest, s), Some(s.id), 0)).collect()
    };
    Ok(Mirrored { remove: copied(remove), kept: copied(kept) })
}

/// Says why nothing goes while `repo` shows an older state than this machine has seen.
pub(super) fn warn_of_older(repo: &Repository, report: &dyn Report) {
    report.warn(&format!(
        "the mirror removes nothing, with --mirror-anyway neither: {} shows an older state than this machine has \
         seen. Look at it first; `alluvium check --accept-older-state` says that it is right",
        repo.storage.location()
    ));
}

/// The listed snapshots of the source as links of their chains, each with the write-only slot that wrote it, if one
/// did: what such a slot says explains nothing of what others wrote.
struct Chains<'s> {
    links: HashMap<SnapshotId, (Link, Option<SlotId>)>,
    series: HashMap<WrittenBy<'s>, BTreeSet<(u64, SnapshotId)>>,
}

/// A series by its host and source, as far as one slot wrote it.
type WrittenBy<'s> = (&'s str, &'s str, Option<SlotId>);

impl<'s> Chains<'s> {
    fn of(source: &Repository, listed: &'s [Snapshot]) -> Self {
        let mut chains = Self { links: HashMap::new(), series: HashMap::new() };
        // What has the highest sequence is no predecessor, and stands for nothing that came before
        // it.
        for snapshot in listed.iter().filter(|s| s.manifest.sequence < SEQUENCE_MAX) {
            let Snapshot { id, manifest, .. } = snapshot;
            let (sequence, writer) = (manifest.sequence, source.write_only_author(snapshot));
            chains.links.insert(*id, (Link { sequence, previous: manifest.previous }, writer));
            let series = (&manifest.host[..], &manifest.source[..], writer);
            chains.series.entry(series).or_default().insert((sequence, *id));
        }
        chains
    }

    /// True when the chain of the original's series explains why it is not listed: links of full slots, and of the one
    /// that wrote the original.
    fn explain(&self, copy: &Snapshot, original: SnapshotId) -> bool {
        let manifest = &copy.manifest;
        let own = manifest.original_author;
        let last = |writer, below| {
            let series = self.series.get(&(manifest.host.as_str(), manifest.source.as_str(), writer))?;
            series.range(..(below, SnapshotId([0; 16]))).next_back().copied()
        };
        let last = |below| last(None, below).max(last(own, below)).map(|(_, id)| id);
        let link = |id| {
            let (link, writer) = *self.links.get(&id)?;
            // What another slot's snapshot follows is not known: of what may have been in between nothing is explained.
            let counts = writer.is_none() || writer == own;
            Some(if counts { link } else { Link { previous: last(link.sequence), ..link } })
        };
        last(SEQUENCE_MAX).is_some_and(|newest| explains_absence(newest, link, original, manifest.sequence))
    }
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
