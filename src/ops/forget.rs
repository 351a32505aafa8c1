//! `forget`: which snapshots go, and that they go. The policy is [`super::retention`]; data stays until
//! `prune` (rule I3: the manifest goes first, the data last).

use std::collections::{BTreeSet, HashSet};

use serde::Serialize;

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::format::manifest::object_name;
use crate::id::{BlobId, SnapshotId};
use crate::repo::Repository;
use crate::repo::index::Location;
use crate::repo::snapshots::Snapshot;
use crate::report::{Counter, Problem, Report, Silent};

use super::mark::{damaged, mark};
use super::retention::{Candidate, Group, Policy, decide};

/// What is to be forgotten.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Every snapshot with its fate and the reasons, by group.
    pub groups: Vec<Group>,
    /// Those that go.
    pub remove: Vec<SnapshotId>,
    /// Those that need what a check found damaged: none of them counts as a good one.
    pub harmed: BTreeSet<SnapshotId>,
}

/// Which snapshots a policy looks at.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only these sources; empty: all.
    pub sources: BTreeSet<String>,
    /// Only these hosts; empty: all.
    pub hosts: BTreeSet<String>,
    /// Only snapshots with all of these tags.
    pub tags: BTreeSet<String>,
}

impl Filter {
    /// True when the filter lets `snapshot` through.
    pub fn admits(&self, snapshot: &Snapshot) -> bool {
        let Snapshot { manifest, .. } = snapshot;
        (self.sources.is_empty() || self.sources.contains(&manifest.source))
            && (self.hosts.is_empty() || self.hosts.contains(&manifest.host))
            && self.tags.is_subset(&manifest.tags)
    }

    /// Refuses a source or a host that none of `snapshots` is of: a slip of the pen must not look like nothing to do.
    ///
    /// # Errors
    /// `NotFound`, with the names that there are.
    pub fn check_names<'s>(&self, snapshots: impl Iterator<Item = &'s Snapshot>) -> Result<()> {
        let (sources, hosts): (BTreeSet<_>, BTreeSet<_>) =
            snapshots.map(|s| (&s.manifest.source, &s.manifest.host)).unzip();
        for (kind, wanted, known) in [("source", &self.sources, sources), ("host", &self.hosts, hosts)] {
            if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
                let what = format!("there is no snapshot of the {kind} `{}`", unknown.escape_debug());
                let known: Vec<String> = known.iter().map(|name| name.escape_debug().to_string()).collect();
                return Err(Error::new(Kind::NotFound, what).hint(format!("there are: {}", known.join(", "))));
            }
        }
        Ok(())
    }
}

/// Decides by `policy`. Refuses while a manifest is unreadable: it may be the good one that the policy counts on. Manifests
/// are read from the storage: what the cache holds may be damaged there.
///
/// # Errors
/// `Usage` for an empty policy; `NotFound` for a source or host without snapshots; `Damaged` when a manifest can't be
/// read; `WrongKey`; `Storage`.
pub fn plan(repo: &Repository, filter: &Filter, policy: &Policy) -> Result<Plan> {
    let (mut snapshots, unreadable) = repo.snapshots_afresh()?;
    if let Some((_, error)) = unreadable.into_iter().next() {
        return Err(error.during("nothing was forgotten").hint(
            "`alluvium check` says what is damaged; remove a hopeless snapshot by its id (`alluvium forget ID`)",
        ));
    }
    filter.check_names(snapshots.iter())?;
    snapshots.retain(|snapshot| filter.admits(snapshot));
    let harmed = harmed(repo, &snapshots)?;
    let candidate = |s| {
        let candidate = Candidate::of(s);
        Candidate { good: candidate.good && !harmed.contains(&s.id), ..candidate }
    };
    let candidates: Vec<Candidate> = snapshots.iter().map(candidate).collect();
    let groups = decide(&candidates, policy, repo.env.now())?;
    let remove = groups.iter().flat_map(|g| &g.decisions).filter(|d| !d.keep).map(|d| d.id).collect();
    Ok(Plan { groups, remove, harmed })
}

/// The snapshots that need what a check has set aside as damaged.
fn harmed(repo: &Repository, snapshots: &[Snapshot]) -> Result<BTreeSet<SnapshotId>> {
    let indexed = repo.index_to_read(&Silent)?;
    if indexed.state.distrusted.is_empty() {
        return Ok(BTreeSet::new());
    }
    let flaw = |id: &BlobId, copy: &Location| indexed.is_distrusted(id, copy.pack).then(|| damaged(id));
    let marks = mark(&indexed, snapshots, &flaw, &Silent, &Cancel::new())?;
    Ok(marks.missing.iter().flat_map(|problem| &problem.snapshots).filter_map(|id| id.parse().ok()).collect())
}

/// The snapshots that `prefixes` name, to be forgotten by hand; an unreadable one may be named by its id too.
/// The last snapshot of a source stays unless `allow_empty`.
///
/// # Errors
/// `NotFound`, `Usage`, `WrongKey`, `Storage`.
pub fn plan_named(repo: &Repository, prefixes: &[String], allow_empty: bool) -> Result<Plan> {
    let (snapshots, unreadable) = repo.snapshots_afresh()?;
    let harmed = harmed(repo, &snapshots)?;
    let mut ids: Vec<SnapshotId> = snapshots.iter().map(|s| s.id).chain(unreadable.iter().map(|(id, _)| *id)).collect();
    ids.sort();
    let mut remove = BTreeSet::new();
    for prefix in prefixes {
        let matching: Vec<_> =
            ids.iter().filter(|id| prefix.len() >= 4 && id.to_string().starts_with(prefix.as_str())).collect();
        match matching[..] {
            [id] => remove.insert(*id),
            [] => {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("no snapshot id begins with `{}`", prefix.escape_debug()),
                )
                .hint("forget takes ids (4 digits or more), not names; `alluvium snapshots` lists them"));
            }
            _ => {
                return Err(Error::new(Kind::Usage, format!("{} snapshot ids begin with `{prefix}`", matching.len()))
                    .hint("give more digits"));
            }
        };
    }
    if !allow_empty {
        let series = |s: &Snapshot| (s.manifest.host.clone(), s.manifest.source.clone());
        let good: Vec<&Snapshot> =
            snapshots.iter().filter(|s| s.manifest.shrunk_from.is_none() && !harmed.contains(&s.id)).collect();
        let left: HashSet<_> = good.iter().filter(|s| !remove.contains(&s.id)).map(|s| series(s)).collect();
        for snapshot in good.iter().filter(|s| remove.contains(&s.id)) {
            if !left.contains(&series(snapshot)) {
                return Err(Error::new(
                    Kind::Usage,
                    format!(
                        "this would remove the last good snapshot of `{}`; nothing was forgotten",
                        snapshot.manifest.source.escape_debug()
                    ),
                )
                .hint("say --allow-empty if that is what you want"));
            }
        }
    }
    Ok(Plan { groups: Vec::new(), remove: remove.into_iter().collect(), harmed })
}

/// Removes manifests. Interrupted, it leaves the others as they were. Each that the storage keeps is a problem:
/// without the right to delete that is all of them.
///
/// # Errors
/// `Storage`, `Interrupted`.
pub fn execute(repo: &Repository, remove: &[SnapshotId], report: &dyn Report, cancel: &Cancel) -> Result<()> {
    repo.keys.require_full("forgetting snapshots")?;
    repo.seen.require_same_repository()?;
    repo.seen.forget(remove, report)?;
    for id in remove {
        cancel.check()?;
        let name = object_name(*id);
        let refusal = match repo.storage.delete(&name) {
            Ok(()) => None,
            Err(e) if e.kind() == Kind::Denied => Some(e),
            Err(e) => return Err(e),
        };
        if repo.storage.stat(&name)?.is_none() {
            report.count(Counter::Deleted, 1);
        } else {
            let why = refusal.map_or_else(String::new, |e| format!(" ({e})"));
            report.problem(Problem::new(name, format!("could not be removed: the storage keeps it{why}")));
        }
    }
    Ok(())
}
