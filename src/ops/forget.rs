//! `forget`: which snapshots go, and that they go. The policy is [`super::retention`]; data stays until
//! `prune` (rule I3: the manifest goes first, the data last).
//!
//! ```text
//! plan      read the newest generation g, then list the snapshots; those that g lists as forgotten count as gone
//! publish   generation g+1 with what is to go; somebody else published it: plan again
//! remove    the manifests, and those that an interrupted forget left
//! ```
//!
//! So decisions have an order, and each is made without the snapshots that earlier ones remove: of two
//! forgets at once, one plans again, and a good snapshot of each group is left.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::format::coordination::Generation;
use crate::format::manifest::object_name;
use crate::format::pack::object_name as pack_name;
use crate::id::{BlobId, PackId, SlotId, SnapshotId};
use crate::repo::index::{KnownPack, Location};
use crate::repo::snapshots::Snapshot;
use crate::repo::{Indexed, Repository};
use crate::report::{Counter, Problem, Report, Silent};

use super::mark::{damaged, mark};
use super::retention::{Candidate, Group, Policy, Reason, decide};

/// What one snapshot lacks is reported up to this number of chunks and packs.
const PROBLEMS_MAX: usize = 1000;

/// How often a forget plans anew, since others publish generations at the same time.
const ATTEMPTS: u32 = 8;

/// What is to be forgotten.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Every snapshot with its fate and the reasons, by group.
    pub groups: Vec<Group>,
    /// Those that go.
    pub remove: Vec<SnapshotId>,
    /// Those that can't be restored whole by what is there: none of them counts as a good one. Only
    /// the snapshots that the plan depends on are walked, the newest first.
    pub harmed: BTreeSet<SnapshotId>,
    /// What those lack.
    pub problems: Vec<Problem>,
    /// Those that an earlier forget decided to remove and that are still there: they go, too.
    pub pending: Vec<SnapshotId>,
    /// The generation that it was planned by.
    #[serde(skip)]
    base: (u64, Generation),
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

/// The repository as a plan sees it.
struct View<'r> {
    repo: &'r Repository,
    /// The newest generation, read before the snapshots were listed.
    base: (u64, Generation),
    /// Newest first, without those that a forget has decided to remove.
    snapshots: Vec<Snapshot>,
    unreadable: Vec<(SnapshotId, Error)>,
    /// Snapshots that a forget has decided to remove and that are still there.
    pending: Vec<SnapshotId>,
}

impl<'r> View<'r> {
    /// Reads the generation, then the snapshots. Manifests are read from the storage: what the cache
    /// holds may be damaged there.
    fn take(repo: &'r Repository) -> Result<Self> {
        let base = newest_generation(repo)?;
        let (mut snapshots, unreadable) = repo.snapshots_afresh()?;
        let forgotten: BTreeSet<SnapshotId> = base.1.forgotten.iter().copied().collect();
        let there = snapshots.iter().map(|s| s.id).chain(unreadable.iter().map(|(id, _)| *id));
        let pending = there.filter(|id| forgotten.contains(id)).collect();
        snapshots.retain(|s| !forgotten.contains(&s.id));
        repo.mark_distrusted(&mut snapshots, &base.1)?;
        Ok(Self { repo, base, snapshots, unreadable, pending })
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.snapshots.iter().map(|snapshot| Candidate::of(snapshot, self.repo.claimant(snapshot))).collect()
    }

    fn walker(&self) -> Result<Walker<'r>> {
        Walker::new(self.repo, &self.base)
    }
}

/// The newest generation, for somebody who is about to publish the next.
fn newest_generation(repo: &Repository) -> Result<(u64, Generation)> {
    let base = repo.newest_generation().map_err(|e| match e.kind() {
        Kind::Damaged => e.during("nothing was forgotten").hint("`alluvium repair index` publishes a new one"),
        _ => e,
    })?;
    repo.refuse_removed_slot(&base.1)?;
    Ok(base)
}

/// Walks snapshots to find out whether what they need is there.
struct Walker<'r> {
    indexed: Indexed<'r>,
    /// Packs that the storage lists, and those that the index lists, with their sizes.
    listed: BTreeMap<PackId, u64>,
    known: HashMap<PackId, KnownPack>,
    /// What is wrong with packs that are not listed with the right size.
    looked_up: RefCell<HashMap<PackId, Option<String>>>,
    harmed: BTreeMap<SnapshotId, Vec<Problem>>,
}

impl<'r> Walker<'r> {
    fn new(repo: &'r Repository, base: &(u64, Generation)) -> Result<Self> {
        // In this order a writer at work disturbs nothing: what snapshots need is in an index that is
        // read later, and what the index lists is in a listing that is made later still.
        let indexed = repo.index_at(base.0, base.1.clone(), &Silent)?;
        let known = repo.cache.packs()?.into_iter().map(|pack| (pack.id, pack)).collect();
        let listed = repo.list_packs()?;
        Ok(Self { indexed, listed, known, looked_up: RefCell::default(), harmed: BTreeMap::new() })
    }

    /// True when the snapshot can be restored by what is there: every chunk, recipe chunk and base is
    /// in a pack that the index lists, that the storage lists with the index's size, and of which a
    /// check has not found this copy damaged. What another write-only slot claims to have does not count.
    fn is_restorable(&mut self, snapshot: &Snapshot) -> Result<bool> {
        if self.harmed.contains_key(&snapshot.id) {
            return Ok(false);
        }
        let missing = self.missing_of(std::slice::from_ref(snapshot), snapshot.author)?;
        if missing.is_empty() {
            return Ok(true);
        }
        self.harmed.insert(snapshot.id, missing);
        Ok(false)
    }

    /// As [`is_restorable`](Self::is_restorable), of many snapshots of one author: what they share is walked once.
    fn judge_together(&mut self, snapshots: &[Snapshot], author: SlotId) -> Result<()> {
        for Problem { object, what, snapshots } in self.missing_of(snapshots, author)? {
            for id in snapshots {
                let problems = self.harmed.entry(id.parse()?).or_default();
                if problems.len() < PROBLEMS_MAX {
                    problems.push(Problem::new(object.clone(), what.clone()));
                }
            }
        }
        Ok(())
    }

    /// What snapshots of `author` lack, or enough of it to say that each of them lacks something.
    fn missing_of(&self, snapshots: &[Snapshot], author: SlotId) -> Result<Vec<Problem>> {
        let flaw = |id: &BlobId, copy: &Location| {
            self.pack_flaw(copy.pack)
                .or_else(|| self.indexed.is_distrusted(id, copy.pack).then(|| damaged(id)))
                .or_else(|| self.claim_flaw(copy.pack, author))
        };
        let mut missing = mark(&self.indexed, snapshots, &flaw, &Silent, &Cancel::new())?.missing;
        if let [_] = snapshots {
            missing.truncate(PROBLEMS_MAX);
        }
        Ok(missing)
    }

    /// No session relied on what a write-only slot stored, but those of that slot.
    fn claim_flaw(&self, pack: PackId, author: SlotId) -> Option<String> {
        let writer = self.known.get(&pack)?.claim.author;
        let is_claim = writer != author && !self.indexed.repo.keys.is_full(writer);
        is_claim.then(|| format!("only slot {writer} claims to have it, which is write-only"))
    }

    fn pack_flaw(&self, pack: PackId) -> Option<String> {
        let known = self.known.get(&pack).map(|pack| pack.size);
        if known.is_some() && self.listed.get(&pack).copied() == known {
            return None;
        }
        // A listing may be behind: what it lacks is looked up by name.
        let look_up = || match self.indexed.repo.storage.stat(&pack_name(pack)) {
            Ok(None) => Some("the pack is missing".to_owned()),
            Ok(Some(size)) if Some(size) == known => None,
            Ok(Some(size)) => Some(match known {
                Some(known) => format!("has {size} bytes, the index says {known}"),
                None => "the index lists it no longer".to_owned(),
            }),
            Err(e) => Some(e.to_string()),
        };
        self.looked_up.borrow_mut().entry(pack).or_insert_with(look_up).clone()
    }

    /// The snapshots that were walked and can't be restored, and why.
    fn harm(self) -> (BTreeSet<SnapshotId>, Vec<Problem>) {
        let (mut problems, mut harmed) = (BTreeMap::<(String, String), BTreeSet<String>>::new(), BTreeSet::new());
        for (id, missing) in self.harmed {
            harmed.insert(id);
            for problem in missing {
                problems.entry((problem.object, problem.what)).or_default().insert(id.to_string());
            }
        }
        let problems = problems.into_iter();
        let told = problems.map(|((object, what), snapshots)| Problem::new(object, what).harming(snapshots));
        (harmed, told.collect())
    }
}

/// Decides by `policy`. Refuses while a manifest is unreadable: it may be the good one that the policy
/// counts on. The newest good snapshot of a group is the newest that can be restored by what is there;
/// where none can, nothing of the group goes.
///
/// # Errors
/// `Usage` for an empty policy; `NotFound` for a source or host without snapshots; `Damaged` when a manifest or the newest
/// generation can't be read; `WrongKey`; `Storage`.
pub fn plan(repo: &Repository, filter: &Filter, policy: &Policy) -> Result<Plan> {
    let mut view = View::take(repo)?;
    let pending: BTreeSet<SnapshotId> = view.pending.iter().copied().collect();
    for (id, error) in std::mem::take(&mut view.unreadable).into_iter().filter(|(id, _)| !pending.contains(id)) {
        if repo.is_vouched(id, &error, &view.snapshots)? {
            return Err(error.during("nothing was forgotten").hint(
                "`alluvium check` says what is damaged; remove a hopeless snapshot by its id (`alluvium forget ID`)",
            ));
        }
    }
    filter.check_names(view.snapshots.iter())?;
    view.snapshots.retain(|snapshot| filter.admits(snapshot));
    let mut walker = view.walker()?;
    let mut candidates: Vec<Candidate> = view.candidates();
    let now = repo.env.now();
    let mut groups = decide(&candidates, policy, now)?;
    if !policy.allow_empty {
        while let Some(harmed) = newest_good_is_harmed(&groups, &candidates, &view.snapshots, &mut walker)? {
            for candidate in candidates.iter_mut().filter(|c| harmed.contains(&c.id)) {
                candidate.good = false;
            }
            groups = decide(&candidates, policy, now)?;
        }
        let flagged: BTreeSet<SnapshotId> = view.candidates().into_iter().filter(|c| !c.good).map(|c| c.id).collect();
        keep_all_where_none_is_whole(&mut groups, &candidates, &flagged);
    }
    let remove = groups.iter().flat_map(|g| &g.decisions).filter(|d| !d.keep).map(|d| d.id).collect();
    let (harmed, problems) = walker.harm();
    Ok(Plan { groups, remove, harmed, problems, pending: view.pending, base: view.base })
}

/// Walks the newest good snapshot of each group of which something goes. Returns those that can't be
/// restored, if any.
fn newest_good_is_harmed(
    groups: &[Group],
    candidates: &[Candidate],
    snapshots: &[Snapshot],
    walker: &mut Walker<'_>,
) -> Result<Option<BTreeSet<SnapshotId>>> {
    let good: BTreeSet<SnapshotId> = candidates.iter().filter(|c| c.good).map(|c| c.id).collect();
    let by_id: HashMap<SnapshotId, &Snapshot> = snapshots.iter().map(|s| (s.id, s)).collect();
    let mut harmed = BTreeSet::new();
    for group in groups.iter().filter(|group| group.decisions.iter().any(|d| !d.keep)) {
        let newest = group.decisions.iter().find(|d| good.contains(&d.id) && !d.reasons.contains(&Reason::Future));
        if let Some(snapshot) = newest.and_then(|d| by_id.get(&d.id))
            && !walker.is_restorable(snapshot)?
        {
            harmed.insert(snapshot.id);
            // A write-only slot can publish any number of snapshots that lack something: they are judged together.
            let is_own = |s: &&Snapshot| s.author == snapshot.author && good.contains(&s.id);
            let ids = group.decisions.iter().map(|d| d.id);
            if !walker.indexed.repo.keys.is_full(snapshot.author) {
                let others = ids.clone().filter_map(|id| by_id.get(&id).copied()).filter(is_own).cloned();
                walker.judge_together(&others.collect::<Vec<_>>(), snapshot.author)?;
            }
            harmed.extend(ids.filter(|id| good.contains(id) && walker.harmed.contains_key(id)));
        }
    }
    Ok((!harmed.is_empty()).then_some(harmed))
}

/// A group in which every snapshot that is not `flagged` turned out to be harmed keeps all: any of them
/// may be the one that a repair brings back.
fn keep_all_where_none_is_whole(groups: &mut [Group], candidates: &[Candidate], flagged: &BTreeSet<SnapshotId>) {
    let good: BTreeSet<SnapshotId> = candidates.iter().filter(|c| c.good).map(|c| c.id).collect();
    for group in groups {
        let mut past = group.decisions.iter().filter(|d| !d.reasons.contains(&Reason::Future));
        let none_whole = past.clone().all(|d| !good.contains(&d.id)) && past.any(|d| !flagged.contains(&d.id));
        for decision in group.decisions.iter_mut().filter(|d| none_whole && !d.keep) {
            decision.keep = true;
            decision.reasons.push(Reason::NoneWhole);
        }
    }
}

/// The snapshots that `prefixes` name, to be forgotten by hand; an unreadable one may be named by its id too.
/// The last good snapshot of a source stays unless `allow_empty`.
///
/// # Errors
/// `NotFound`, `Usage`, `Damaged` when the newest generation can't be read, `WrongKey`, `Storage`.
pub fn plan_named(repo: &Repository, prefixes: &[String], allow_empty: bool) -> Result<Plan> {
    let view = View::take(repo)?;
    let there = view.snapshots.iter().map(|s| s.id).chain(view.unreadable.iter().map(|(id, _)| *id));
    let ids: BTreeSet<SnapshotId> = there.chain(view.pending.iter().copied()).collect();
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
    let mut walker = view.walker()?;
    if !allow_empty && let Some(source) = last_good_goes(&view, &remove, &mut walker)? {
        return Err(Error::new(
            Kind::Usage,
            format!("this would remove the last good snapshot of `{}`; nothing was forgotten", source.escape_debug()),
        )
        .hint("say --allow-empty if that is what you want"));
    }
    let (harmed, problems) = walker.harm();
    let pending = view.pending.into_iter().filter(|id| !remove.contains(id)).collect();
    let remove = remove.into_iter().collect();
    Ok(Plan { groups: Vec::new(), remove, harmed, problems, pending, base: view.base })
}

/// Host and source; and the slot whose claims the snapshots are, if any.
type Series<'s> = (&'s str, &'s str, Option<SlotId>);

/// The source of a series whose last good snapshot is in `remove`, if there is one: a good one goes, and
/// of those that stay none is good.
fn last_good_goes(view: &View<'_>, remove: &BTreeSet<SnapshotId>, walker: &mut Walker<'_>) -> Result<Option<String>> {
    let mut series: BTreeMap<Series<'_>, [Vec<&Snapshot>; 2]> = BTreeMap::new();
    for snapshot in view.snapshots.iter().filter(|s| s.manifest.shrunk_from.is_none() && !s.is_distrusted) {
        // What a write-only slot says of a source makes up for nothing that another slot says of it.
        let claimant = view.repo.claimant(snapshot);
        let [going, staying] =
            series.entry((&snapshot.manifest.host, &snapshot.manifest.source, claimant)).or_default();
        if remove.contains(&snapshot.id) { going } else { staying }.push(snapshot);
    }
    for ((_, source, _), [going, staying]) in series {
        if going.is_empty() || any_restorable(&staying, walker)? {
            continue;
        }
        if any_restorable(&going, walker)? {
            return Ok(Some(source.to_owned()));
        }
    }
    Ok(None)
}

fn any_restorable(snapshots: &[&Snapshot], walker: &mut Walker<'_>) -> Result<bool> {
    for snapshot in snapshots {
        if walker.is_restorable(snapshot)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the snapshots `remove`, whatever they are. Nothing is published when there are none.
///
/// # Errors
/// As [`carry_out`].
pub fn execute(repo: &Repository, remove: &[SnapshotId], report: &dyn Report, cancel: &Cancel) -> Result<()> {
    remove_planned(repo, remove, &|| Ok(()), report, cancel)
}

/// As [`execute`], for the copies of a mirror: refuses to remove the last good copy of a series.
///
/// # Errors
/// `Failed` when it refuses; as [`carry_out`].
pub fn execute_guarded(repo: &Repository, remove: &[SnapshotId], report: &dyn Report, cancel: &Cancel) -> Result<()> {
    let going: BTreeSet<SnapshotId> = remove.iter().copied().collect();
    let check = || {
        let view = View::take(repo)?;
        match last_good_goes(&view, &going, &mut view.walker()?)? {
            None => Ok(()),
            Some(source) => Err(Error::new(
                Kind::Failed,
                format!(
                    "the mirror would remove the last good copy of `{}`; nothing was removed",
                    source.escape_debug()
                ),
            )
            .hint("`alluvium check` says what the other copies lack; --mirror-anyway removes all the same")),
        }
    };
    remove_planned(repo, remove, &check, report, cancel)
}

fn remove_planned(
    repo: &Repository,
    remove: &[SnapshotId],
    check: &dyn Fn() -> Result<()>,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<()> {
    repo.keys.require_full("forgetting snapshots")?;
    if remove.is_empty() {
        return Ok(());
    }
    let plan = || {
        let base = newest_generation(repo)?;
        check()?;
        let left = repo.still_there(&base.1.forgotten)?;
        let pending = left.into_iter().filter(|id| !remove.contains(id)).collect();
        let (groups, harmed, problems) = (Vec::new(), BTreeSet::new(), Vec::new());
        Ok(Plan { groups, remove: remove.to_vec(), harmed, problems, pending, base })
    };
    carry_out(repo, plan()?, &plan, report, cancel).map(drop)
}

/// Publishes what `plan` decided, and removes the manifests; `again` plans anew when somebody else
/// published a generation meanwhile. Returns the plan that was carried out. Interrupted after the
/// decision was published, it leaves the rest to the next forget. Each manifest that the storage keeps
/// is a problem: without the right to delete that is all of them.
///
/// # Errors
/// `Busy` when others go on publishing; `Denied` when these credentials may not publish a generation;
/// those of `again`; `WrongKey`, `Storage`, `Interrupted`.
pub fn carry_out(
    repo: &Repository,
    plan: Plan,
    again: &dyn Fn() -> Result<Plan>,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<Plan> {
    repo.keys.require_full("forgetting snapshots")?;
    let mut plan = plan;
    for attempt in 1.. {
        cancel.check()?;
        match publish(repo, &plan) {
            Ok(()) => break,
            Err(e) if e.kind() == Kind::Busy && attempt < ATTEMPTS => plan = again()?,
            Err(e) if e.kind() == Kind::Denied => {
                return Err(e.during("nothing was forgotten").hint(
                    "forget publishes its decision under prune/ before it removes manifests: use credentials that \
                     may create objects there and delete under snapshots/",
                ));
            }
            Err(e) if e.kind() == Kind::Storage => {
                let hint =
                    "no manifest was removed; should the decision be there all the same, the next forget completes it";
                return Err(e.during("publishing what is to be forgotten").hint(hint));
            }
            Err(e) => return Err(e.during("nothing was forgotten")),
        }
    }
    let remove: Vec<SnapshotId> = plan.remove.iter().chain(&plan.pending).copied().collect();
    remove_manifests(repo, &remove, report, cancel)?;
    Ok(plan)
}

/// Publishes the decision of `plan` as the generation after the one that it was planned by.
fn publish(repo: &Repository, plan: &Plan) -> Result<()> {
    let (number, state) = &plan.base;
    if plan.remove.iter().all(|id| state.forgotten.contains(id)) {
        return Ok(());
    }
    let mut forgotten: BTreeSet<SnapshotId> = repo.still_there(&state.forgotten)?.into_iter().collect();
    forgotten.extend(&plan.remove);
    let next = Generation { forgotten: forgotten.into_iter().collect(), ..state.clone() };
    repo.publish_settled(number + 1, &next).map(drop)
}

fn remove_manifests(repo: &Repository, remove: &[SnapshotId], report: &dyn Report, cancel: &Cancel) -> Result<()> {
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
