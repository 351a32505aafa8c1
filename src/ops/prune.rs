//! `prune`: gives back what no snapshot needs. The one operation that deletes data, so it plans first and
//! refuses whenever anything looks odd (rule I6).
//!
//! ```text
//! survey   packs, then sessions, then snapshots, then the index: in this order nothing new is taken for garbage
//! condemn  publish generation g+1 with the packs that are to go; from now on nobody relies on them
//! wait     until every session that began before has ended; a dead one is fenced
//! re-mark  snapshots published meanwhile may need a condemned pack after all: it stays, and is repacked later
//! delete   new index objects, proven to cover the old (I7) -> old index objects -> packs (I3)
//! ```
//!
//! With nobody else at work all of it happens in one run; else what must wait stays condemned, and the next run
//! goes on. First the packs that nobody needs at all go, so that a full disk has room; then partly used packs are
//! repacked: what is used is stored again in new packs, and the old ones are condemned.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Serialize;

use crate::env::{Cancel, Env};
use crate::error::{Error, Kind, Result};
use crate::format::coordination::{Condemned, Generation, generation_name};
use crate::format::index::{IndexObject, IndexedPack, object_name as index_name};
use crate::format::manifest;
use crate::format::pack::{BlobEntry, WrappedKey, object_name, with_offsets};
use crate::id::{BlobId, DataKeyId, IndexId, PackId, SnapshotId};
use crate::repo::fence::{LiveSession, end_dead_sessions, live_sessions};
use crate::repo::index::{KnownPack, Location};
use crate::repo::reader::Reader;
use crate::repo::rules::Rule;
use crate::repo::session::{Session, Writing};
use crate::repo::snapshots::Snapshot;
use crate::repo::writer::{WriteOptions, write};
use crate::repo::{Indexed, Repository};
use crate::report::{Counter, Problem, Report, Unit};
use crate::storage::Storage;

use super::mark::{Marks, damaged, mark};

/// An object of local repositories that only takes room: prune gives it up on a full disk to be able to
/// work, and puts it back.
pub const RESERVE: &str = "reserve";
/// Its size in bytes: generations, index objects and session objects of a middling prune.
pub const RESERVE_BYTES: usize = 1 << 20;

/// Packs of one index object after a compaction.
const PACKS_PER_INDEX: usize = 4096;
/// Entries of one index object after a compaction: 41 MB.
const ENTRIES_PER_INDEX: usize = 1_000_000;
/// More index objects than this are compacted.
const INDEX_OBJECTS_MAX: usize = 64;
/// Packs below this share of the pack size are small.
const SMALL_SHARE: u64 = 4;
/// So many small packs are worth repacking into large ones.
const SMALL_PACKS_MAX: usize = 16;

/// How much unused data may stay in partly used packs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxUnused {
    /// Share of the used bytes, in per cent.
    Percent(f64),
    /// Bytes.
    Bytes(u64),
    /// Any: nothing is repacked.
    Unlimited,
}

/// How to prune.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// Bounds the unused data that stays.
    pub max_unused: MaxUnused,
    /// A repository without any snapshot may be emptied.
    pub allow_empty: bool,
    /// This host's name.
    pub host: String,
    /// For repacking.
    pub write: WriteOptions,
}

/// What a prune means to do, or did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    /// Packs there are.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of blobs that snapshots need.
    pub used_bytes: u64,
    /// Packs that nobody needs: to be deleted.
    pub unused_packs: u64,
    /// Their bytes.
    pub unused_bytes: u64,
    /// Partly used or small packs: to be repacked.
    pub repack_packs: u64,
    /// Their bytes.
    pub repack_bytes: u64,
    /// Unused bytes that stay, within `--max-unused`.
    pub kept_unused_bytes: u64,
    /// Packs deleted. 0 in a dry run.
    pub deleted_packs: u64,
    /// Bytes deleted.
    pub deleted_bytes: u64,
    /// Packs that nobody needs and that the storage does not give up.
    pub kept_packs: u64,
    /// Packs that stay condemned until these sessions have ended.
    pub waiting_packs: u64,
    /// The sessions that they wait for.
    pub waiting_for: Vec<LiveSession>,
}

/// Prunes; with `dry_run` only says what it would do.
///
/// # Errors
/// `Damaged` when anything is unreadable or missing: nothing that is needed was deleted. `Busy` when another prune is at work.
/// `WrongKey`, `Storage`, `Interrupted`.
pub fn prune(
    repo: &Repository,
    options: &PruneOptions,
    dry_run: bool,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<Plan> {
    repo.keys.require_full("pruning")?;
    let mut generation = None;
    let mut once = || {
        if dry_run {
            return Survey::take(repo, None, &mut generation, options, report, cancel).map(|s| s.plan(options).0);
        }
        prune_once(repo, &mut generation, options, report, cancel)
    };
    let result = match once() {
        Err(e) if e.kind() == Kind::Storage && !cancel.is_cancelled() && repo.storage.stat(RESERVE)?.is_some() => {
            report.warn(&format!("{e}: giving up the reserve to make room"));
            repo.storage.delete(RESERVE)?;
            once()
        }
        other => other,
    };
    match result {
        Ok(plan) if dry_run => Ok(plan),
        Ok(plan) => put_reserve(repo.storage.as_ref(), repo.env.as_ref()).map(|()| plan),
        // What is not there may be what another prune has taken away, rightly, since this one looked.
        Err(e) if e.kind() == Kind::NotFound => Err(other_at_work(&e)),
        Err(e) if e.kind() == Kind::Damaged && generation.is_some() => match repo.probe_generation()?.0 {
            newest if generation == Some(newest) => Err(e),
            _ => Err(other_at_work(&e)),
        },
        Err(e) => Err(e),
    }
}

fn other_at_work(seen: &Error) -> Error {
    Error::new(Kind::Busy, format!("another prune or check is at work; nothing that is needed was deleted ({seen})"))
        .hint("let it finish, then run prune again")
}

/// `generation` is kept at the newest one that this prune knows of.
fn prune_once(
    repo: &Repository,
    generation: &mut Option<u64>,
    options: &PruneOptions,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<Plan> {
    let who = Writing { host: options.host.clone(), purpose: "prune".to_owned() };
    let session = Session::begin(repo, &who, report)?;
    // What dead sessions left is garbage of this prune already.
    end_dead_sessions(repo, session.id)?;
    let survey = Survey::take(repo, Some(session.id), generation, options, report, cancel)?;
    let (mut plan, unused, repack) = survey.plan(options);
    let mut work = Work {
        repo,
        session: &session,
        survey: &survey,
        plan: &mut plan,
        generation,
        repacked: HashSet::new(),
        report,
        cancel,
    };
    work.rewrite_index(&survey.ghosts.iter().map(|ghost| (*ghost, 0)).collect())?;
    work.condemn_and_delete(unused)?;
    if !repack.is_empty() {
        work.repack(&repack, options)?;
        work.condemn_and_delete(repack)?;
    }
    work.compact_index()?;
    Ok(plan)
}

/// Puts the [`RESERVE`] where room is limited and it is missing: after `init`, and when prune has made room again.
///
/// # Errors
/// `Storage` when it can't be seen whether it is there. That there is no room for it is not an error: there will be after
/// the next prune.
pub fn put_reserve(storage: &dyn Storage, env: &dyn Env) -> Result<()> {
    if storage.fills_up() && storage.stat(RESERVE)?.is_none() {
        let mut bytes = vec![0; RESERVE_BYTES];
        env.fill_random(&mut bytes);
        let _ = storage.put_new(RESERVE, &bytes);
    }
    Ok(())
}

/// The repository as it is, with every doubt settled.
struct Survey<'r> {
    indexed: Indexed<'r>,
    snapshots: BTreeSet<SnapshotId>,
    marks: Marks,
    /// Packs that may go or be repacked: those of running sessions are left out.
    packs: Vec<Surveyed>,
    /// Packs that are gone and that an index object still lists: two prunes rewrote the index at once, or one was
    /// interrupted. That no snapshot needs them the marks say.
    ghosts: BTreeSet<PackId>,
}

struct Surveyed {
    id: PackId,
    size: u64,
    /// Who wrote it.
    session: SnapshotId,
    /// A snapshot needs some of it. By the marks alone: byte counts come from the local cache, which another
    /// process may empty at any time.
    needed: bool,
    /// Bytes of its blobs, and of those that are needed.
    blob_bytes: u64,
    used_bytes: u64,
    condemned: bool,
}

impl<'r> Survey<'r> {
    /// Looks at everything, in the order that makes what is new safe: a pack in the first listing belongs to a
    /// session that was registered before; if that session is no longer listed, its manifest is, and with the
    /// manifest its index.
    fn take(
        repo: &'r Repository,
        own: Option<SnapshotId>,
        generation: &mut Option<u64>,
        options: &PruneOptions,
        report: &dyn Report,
        cancel: &Cancel,
    ) -> Result<Self> {
        let listed = repo.list_packs()?;
        let live: HashSet<SnapshotId> = live_sessions(repo, own)?.into_iter().map(|s| s.id).collect();
        let (snapshots, ids) = all_snapshots(repo)?;
        if snapshots.is_empty() && !listed.is_empty() && !options.allow_empty {
            return Err(Error::new(Kind::Failed, "the repository lists no snapshot at all; nothing was deleted")
                .hint("if that is right, say --allow-empty; if it is not, the storage does not show what it holds"));
        }
        let (number, state) = repo.probe_generation()?;
        *generation = Some(number);
        let indexed = repo.index_proven(number, readable(number, state)?, report)?;
        if let Some(problem) = indexed.problems.first() {
            return Err(refused(&problem.object, &problem.what));
        }
        // What is in the index and not in the listing was written since, or the listing is incomplete. The cache is read
        // before the second listing: other processes of this machine add to it all the time.
        let packs = repo.cache.packs()?;
        let listed_now = repo.list_packs()?;
        let (known, ghosts) = known_packs(&indexed, packs, &listed, &listed_now)?;
        let flaw = |id: &BlobId, l: &Location| {
            if listed_now.contains_key(&l.pack) {
                indexed.is_distrusted(id, l.pack).then(|| damaged(id))
            } else {
                Some("the pack is missing".to_owned())
            }
        };
        let marks = mark(&indexed, &snapshots, &flaw, report, cancel)?;
        if let Some(missing) = marks.missing.first() {
            return Err(missed(repo, missing)?);
        }
        let mut packs = Vec::new();
        for (&id, &size) in &listed {
            let (session, entries) = match known.get(&id) {
                Some(session) => (*session, repo.cache.entries(&id)?),
                None => match repo.read_pack_header(id) {
                    Ok((_, header)) => (header.session, Vec::new()),
                    Err(e) if e.kind() == Kind::NotFound => continue,
                    Err(e) => return Err(refused(&object_name(id), &e.to_string())),
                },
            };
            if live.contains(&session) || Some(session) == own {
                continue;
            }
            let used = marks.used.get(&id);
            let needed: Vec<_> = entries.iter().filter(|(at, _)| used.is_some_and(|u| u.contains(at))).collect();
            if needed.len() != used.map_or(0, HashSet::len) {
                return Err(Error::new(Kind::Busy, "the local cache was emptied meanwhile; nothing was deleted")
                    .hint("let the other check or repair finish, then run prune again"));
            }
            packs.push(Surveyed {
                id,
                size,
                session,
                needed: used.is_some(),
                blob_bytes: entries.iter().map(|(_, e)| u64::from(e.stored_len)).sum(),
                used_bytes: needed.iter().map(|(_, e)| u64::from(e.stored_len)).sum(),
                condemned: indexed.is_condemned(id),
            });
        }
        // A snapshot that wrote a pack which nobody seems to need was forgotten, or is hidden.
        let writers = packs.iter().filter(|p| !p.needed).map(|p| p.session);
        refuse_hidden(repo, writers, &ids)?;
        Ok(Self { indexed, snapshots: ids, marks, packs, ghosts })
    }

    /// What to do: the plan in figures, the packs to delete, the packs to repack.
    fn plan(&self, options: &PruneOptions) -> (Plan, Vec<PackId>, Vec<PackId>) {
        let mut plan = Plan { packs: self.packs.len() as u64, ..Plan::default() };
        let (mut unused, mut partly) = (Vec::new(), Vec::new());
        for pack in &self.packs {
            plan.bytes += pack.size;
            plan.used_bytes += pack.used_bytes;
            if pack.needed {
                partly.push(pack);
            } else {
                plan.unused_packs += 1;
                plan.unused_bytes += pack.size;
                unused.push(pack.id);
            }
        }
        let repack = self.choose_repack(&mut partly, plan.used_bytes, options.max_unused);
        plan.kept_unused_bytes =
            partly.iter().filter(|p| !repack.contains(&p.id)).map(|p| p.blob_bytes - p.used_bytes).sum();
        plan.repack_packs = repack.len() as u64;
        plan.repack_bytes = partly.iter().filter(|p| repack.contains(&p.id)).map(|p| p.size).sum();
        (plan, unused, repack.into_iter().collect())
    }

    /// The wasteful first, until what is left is within bounds; and small packs, once there are many.
    fn choose_repack(&self, partly: &mut [&Surveyed], used_bytes: u64, max_unused: MaxUnused) -> BTreeSet<PackId> {
        let allowed = match max_unused {
            MaxUnused::Percent(percent) => (used_bytes as f64 * percent / 100.0) as u64,
            MaxUnused::Bytes(bytes) => bytes,
            MaxUnused::Unlimited => u64::MAX,
        };
        let waste = |p: &Surveyed| p.blob_bytes - p.used_bytes;
        // By share of waste, without floating point: a/b > c/d.
        partly.sort_by(|a, b| {
            (u128::from(waste(b)) * u128::from(a.size))
                .cmp(&(u128::from(waste(a)) * u128::from(b.size)))
                .then(a.id.cmp(&b.id))
        });
        let mut left: u64 = partly.iter().map(|p| waste(p)).sum();
        let mut repack = BTreeSet::new();
        for pack in partly.iter() {
            if left <= allowed {
                break;
            }
            left -= waste(pack);
            repack.insert(pack.id);
        }
        let small: Vec<_> =
            partly.iter().filter(|p| p.size < self.indexed.repo.parameters.pack_bytes / SMALL_SHARE).collect();
        if max_unused != MaxUnused::Unlimited && small.len() >= SMALL_PACKS_MAX {
            repack.extend(small.iter().map(|p| p.id));
        }
        // A pack that was condemned and is needed again is not worth special care: it is copied like the others.
        // So is the rest of a pack of which a check has set something aside.
        let set_aside: HashSet<PackId> = self.indexed.state.distrusted.iter().map(|d| d.pack).collect();
        repack.extend(partly.iter().filter(|p| p.condemned || set_aside.contains(&p.id)).map(|p| p.id));
        repack
    }
}

/// The generation, or a refusal: without it, a copy that another prune is about to delete might be counted on.
fn readable(number: u64, state: Result<Generation>) -> Result<Generation> {
    state.map_err(|e| match e.kind() {
        Kind::Damaged => refused(&generation_name(number), &e.to_string()),
        _ => e,
    })
}

fn refused(object: &str, what: &str) -> Error {
    // An error's own text names the object already.
    let what = what.strip_prefix(&format!("{object}: ")).unwrap_or(what);
    Error::new(Kind::Damaged, format!("refused to go on; nothing that is needed was deleted: {object}: {what}"))
        .hint("`alluvium check` tells the extent; `alluvium repair index` mends the index; a snapshot that is lost can be forgotten by its id")
}

/// The refusal when something is missing that snapshots need. If they were all forgotten since they were listed, then
/// another prune was rightly at work.
fn missed(repo: &Repository, missing: &Problem) -> Result<Error> {
    let mut there = false;
    for id in &missing.snapshots {
        there |= repo.storage.stat(&format!("{}{id}", manifest::PREFIX))?.is_some();
    }
    if there || missing.snapshots.is_empty() {
        let harmed: Vec<_> = missing.snapshots.iter().map(|s| &s[..8]).collect();
        return Ok(refused(&missing.object, &format!("{} (needed by {})", missing.what, harmed.join(", "))));
    }
    Ok(Error::new(Kind::Busy, "another forget and prune were at work; nothing more was deleted")
        .hint("let them finish, then run prune again"))
}

/// Every snapshot, or a refusal: of an unreadable manifest, and of a listing that lacks manifests which exist.
fn all_snapshots(repo: &Repository) -> Result<(Vec<Snapshot>, BTreeSet<SnapshotId>)> {
    let remembered = repo.cache.manifests()?;
    let listed = repo.list_snapshots_proven()?;
    refuse_hidden(repo, remembered, &listed)?;
    let (snapshots, unreadable) = repo.snapshots_among(&listed)?;
    if let Some((id, error)) = unreadable.first() {
        return Err(refused(&manifest::object_name(*id), &error.to_string()));
    }
    let ids: BTreeSet<SnapshotId> = snapshots.iter().map(|s| s.id).collect();
    // A predecessor that is not listed was forgotten, or is hidden.
    refuse_hidden(repo, snapshots.iter().filter_map(|s| s.manifest.previous), &listed)?;
    // Two listings, at two times, of something that only this or another forget may shorten.
    refuse_hidden(repo, listed, &repo.list_snapshots()?)?;
    Ok((snapshots, ids))
}

/// Refuses when one of `known` is not listed and exists all the same. Objects are asked for by name: what a storage
/// says of a name is never behind.
fn refuse_hidden(
    repo: &Repository,
    known: impl IntoIterator<Item = SnapshotId>,
    listed: &BTreeSet<SnapshotId>,
) -> Result<()> {
    if !repo.rules.keep(Rule::DoubtListing) {
        return Ok(());
    }
    let unlisted: BTreeSet<SnapshotId> = known.into_iter().filter(|id| !listed.contains(id)).collect();
    for id in unlisted {
        let name = manifest::object_name(id);
        if repo.storage.stat(&name)?.is_some_and(|size| size != manifest::FENCE_LEN) {
            return Err(refused(&name, "exists, but the storage does not list it: its listing is incomplete"));
        }
    }
    Ok(())
}

/// The indexed packs with their sessions, and those that are gone; or a refusal when the storage hides one or one has
/// another size.
fn known_packs(
    indexed: &Indexed<'_>,
    packs: Vec<KnownPack>,
    listed: &BTreeMap<PackId, u64>,
    listed_now: &BTreeMap<PackId, u64>,
) -> Result<(HashMap<PackId, SnapshotId>, BTreeSet<PackId>)> {
    let (mut known, mut ghosts) = (HashMap::new(), BTreeSet::new());
    for pack in packs {
        match listed.get(&pack.id) {
            Some(&size) if size == pack.size => {}
            None if listed_now.get(&pack.id) == Some(&pack.size) => {}
            Some(size) => {
                let what = format!("has {size} bytes, the index says {}", pack.size);
                return Err(refused(&object_name(pack.id), &what));
            }
            None => {
                let name = object_name(pack.id);
                if indexed.repo.storage.stat(&name)?.is_none() {
                    ghosts.insert(pack.id);
                    continue;
                }
                // A condemned one may be on its way out, and a snapshot may yet need it.
                if !indexed.is_condemned(pack.id) {
                    let what = "exists, but the storage does not list it: its listing is incomplete";
                    return Err(refused(&name, what));
                }
            }
        }
        known.insert(pack.id, pack.session);
    }
    Ok((known, ghosts))
}

/// A prune under way.
struct Work<'w, 'r> {
    repo: &'r Repository,
    session: &'w Session<'r>,
    survey: &'w Survey<'r>,
    plan: &'w mut Plan,
    /// The generation that this prune acts on: the one it surveyed, then the ones it published.
    generation: &'w mut Option<u64>,
    /// Needed packs whose needed blobs this prune has stored again.
    repacked: HashSet<PackId>,
    report: &'w dyn Report,
    cancel: &'w Cancel,
}

impl Work<'_, '_> {
    /// Condemns `packs` and deletes those that no running session may rely on.
    fn condemn_and_delete(&mut self, packs: Vec<PackId>) -> Result<()> {
        self.cancel.check()?;
        if packs.is_empty() {
            return Ok(());
        }
        let (number, state) = self.repo.probe_generation()?;
        // What this prune takes for unused it has judged by the generation that it surveyed. Another one's may
        // have condemned the copies that are counted on here.
        if *self.generation != Some(number) {
            return Err(other_at_work(&Error::new(Kind::Busy, format!("{} is new", generation_name(number)))));
        }
        let mut state = readable(number, state)?;
        let sizes: HashMap<PackId, u64> = self.survey.packs.iter().map(|p| (p.id, p.size)).collect();
        let is_gone = |pack: PackId| -> Result<bool> { Ok(self.repo.storage.stat(&object_name(pack))?.is_none()) };
        // Another prune may list again what is gone: it must go on being known as condemned.
        self.repo.index_at(number, state.clone(), self.report)?;
        let listed: HashSet<PackId> = self.repo.cache.packs()?.into_iter().map(|p| p.id).collect();
        // A pack that was condemned once stays condemned until it is gone: another prune may be about to
        // delete it, so nobody may ever rely on it again. What turns out to be needed is repacked. Even when it is gone,
        // as long as anybody is at work: who read the index before may be about to list it again.
        let alone = live_sessions(self.repo, Some(self.session.id))?.is_empty();
        let mut condemned = Vec::new();
        for before in state.condemned.drain(..).filter(|_| self.repo.rules.keep(Rule::StayCondemned)) {
            let over = alone && !listed.contains(&before.pack) && !self.survey.ghosts.contains(&before.pack);
            if !over || !is_gone(before.pack)? {
                condemned.push(before);
            }
        }
        let known: HashSet<PackId> = condemned.iter().map(|c| c.pack).collect();
        let new = packs.iter().filter(|pack| !known.contains(pack));
        condemned.extend(new.map(|&pack| Condemned { pack, size: sizes[&pack], since: number + 1 }));
        let mut distrusted = Vec::new();
        for entry in state.distrusted {
            if !is_gone(entry.pack)? {
                distrusted.push(entry);
            }
        }
        // Even when all of them are condemned already: of two prunes that judged by one generation, one may delete.
        if self.repo.rules.keep(Rule::CondemnFirst) {
            self.repo.publish_generation(number + 1, &Generation { condemned: condemned.clone(), distrusted })?;
            *self.generation = Some(number + 1);
        }
        let candidates: HashSet<PackId> = packs.into_iter().collect();
        condemned.retain(|c| candidates.contains(&c.pack));
        self.delete_condemned(&condemned)
    }

    /// Deletes the condemned packs that every running session knows to be condemned and no snapshot needs.
    fn delete_condemned(&mut self, condemned: &[Condemned]) -> Result<()> {
        let live = end_dead_sessions(self.repo, self.session.id)?;
        let known_to_all = live.iter().map(|s| s.generation).min().unwrap_or(u64::MAX);
        let (ready, waiting): (Vec<&Condemned>, Vec<&Condemned>) =
            condemned.iter().partition(|c| c.since <= known_to_all || !self.repo.rules.keep(Rule::Wait));
        self.plan.waiting_packs += waiting.len() as u64;
        if !waiting.is_empty() {
            self.plan.waiting_for =
                live.into_iter().filter(|s| waiting.iter().any(|c| s.generation < c.since)).collect();
        }
        // The sessions that have ended since the survey may have published what needs a condemned pack.
        let (snapshots, _) = all_snapshots(self.repo)?;
        let again = self.repo.rules.keep(Rule::MarkAgain);
        let new: Vec<Snapshot> =
            snapshots.into_iter().filter(|s| again && !self.survey.snapshots.contains(&s.id)).collect();
        let mut rescued = HashSet::new();
        if !new.is_empty() {
            let (number, state) = self.repo.newest_generation()?;
            let indexed = self.repo.index_proven(number, state, self.report)?;
            if let Some(problem) = indexed.problems.first() {
                return Err(refused(&problem.object, &problem.what));
            }
            let marks = mark(&indexed, &new, &|_, _| None, self.report, self.cancel)?;
            if let Some(missing) = marks.missing.first() {
                return Err(missed(self.repo, missing)?);
            }
            // Every copy is spared: which of two a sleeping prune is about to delete can't be known here.
            rescued.extend(marks.holders);
        }
        let doomed: BTreeMap<PackId, u64> =
            ready.into_iter().filter(|c| !rescued.contains(&c.pack)).map(|c| (c.pack, c.size)).collect();
        // Whatever went wrong before this line: what is needed and was not stored again does not go.
        if let Some(needed) =
            doomed.keys().find(|p| self.survey.marks.used.contains_key(p) && !self.repacked.contains(p))
        {
            return Err(refused(&object_name(*needed), "a snapshot needs it"));
        }
        self.cancel.check()?;
        self.rewrite_index(&doomed)?;
        self.report.task("Deleting packs", Unit::Things, Some(doomed.len() as u64));
        for (done, (pack, size)) in doomed.iter().enumerate() {
            self.report.progress(done as u64 + 1);
            if delete(self.repo, &object_name(*pack), self.report)? {
                self.plan.deleted_packs += 1;
                self.plan.deleted_bytes += size;
            } else {
                self.plan.kept_packs += 1;
            }
        }
        Ok(())
    }

    /// Takes packs out of the index: new index objects first, proven, then the old ones go.
    fn rewrite_index(&mut self, doomed: &BTreeMap<PackId, u64>) -> Result<()> {
        if doomed.is_empty() {
            return Ok(());
        }
        self.replace_index_objects(|object| object.packs.iter().any(|p| doomed.contains_key(&p.id)), doomed)
    }

    /// Many small index objects become few.
    fn compact_index(&mut self) -> Result<()> {
        if self.repo.list_index()?.len() <= INDEX_OBJECTS_MAX {
            return Ok(());
        }
        self.replace_index_objects(|object| object.packs.len() < PACKS_PER_INDEX / 2, &BTreeMap::new())
    }

    fn replace_index_objects(
        &mut self,
        choose: impl Fn(&IndexObject) -> bool,
        without: &BTreeMap<PackId, u64>,
    ) -> Result<()> {
        let mut old: Vec<(IndexId, IndexObject)> = Vec::new();
        for id in self.repo.list_index()? {
            match self.repo.read_index_object(id) {
                Ok(object) if choose(&object) => old.push((id, object)),
                Ok(_) => {}
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(refused(&index_name(id), &e.to_string())),
            }
        }
        replace(self.repo, &old, &|pack| !without.contains_key(pack), self.report)
    }

    /// Stores what is used of `packs` again, in packs of this session.
    fn repack(&mut self, packs: &[PackId], options: &PruneOptions) -> Result<()> {
        let indexed = &self.survey.indexed;
        let reader = Reader::new(indexed)?;
        self.report.task("Repacking", Unit::Things, Some(packs.len() as u64));
        let sizes: HashMap<PackId, u64> = self.survey.packs.iter().map(|p| (p.id, p.size)).collect();
        // From the packs themselves, and as many as were marked: the local cache is not trusted with this.
        let used_entries = |pack: &PackId| -> Result<Vec<BlobEntry>> {
            let used = self.survey.marks.used.get(pack).ok_or_else(|| refused(&object_name(*pack), "is not marked"))?;
            let read = self.repo.read_pack(*pack, sizes[pack])?;
            let entries: Vec<BlobEntry> = with_offsets(&read.indexed.entries)
                .filter(|(at, _)| used.contains(at))
                .map(|(_, e)| e.clone())
                .collect();
            if entries.len() == used.len() {
                Ok(entries)
            } else {
                Err(refused(&object_name(*pack), "does not hold what the index says"))
            }
        };
        if !self.repo.rules.keep(Rule::RepackFirst) {
            self.repacked.extend(packs);
            return Ok(());
        }
        write(self.session, options.write, self.report, self.cancel, |writer| {
            for (done, pack) in packs.iter().enumerate() {
                for entry in used_entries(pack)? {
                    self.cancel.check()?;
                    let raw = match reader.blob(&entry.id) {
                        // Its snapshots were forgotten and another prune took it away meanwhile.
                        Err(e) if self.repo.storage.stat(&object_name(*pack))?.is_none() => Err(other_at_work(&e)),
                        read => read,
                    }?;
                    writer.store_again(entry.id, raw)?;
                }
                self.report.progress(done as u64 + 1);
            }
            Ok(())
        })?;
        // Every used blob now has a copy outside the packs that are to go, or they stay.
        let going: HashSet<PackId> = packs.iter().copied().collect();
        for pack in packs {
            for entry in used_entries(pack)? {
                if self.repo.cache.lookup(&entry.id, &|l| !going.contains(&l.pack))?.is_none() {
                    return Err(refused(
                        &object_name(*pack),
                        &format!("chunk {} was repacked and can't be found", entry.id),
                    ));
                }
            }
        }
        self.repacked.extend(going);
        Ok(())
    }
}

/// Replaces index objects by new ones with the packs that `keep` lets through. Rule I7: the new ones are read
/// back from the storage and proven to list all that must stay, before an old one goes. The cache
/// forgets the old ones before the storage does.
///
/// # Errors
/// `Damaged` when the proof fails, `Storage`.
pub fn replace(
    repo: &Repository,
    old: &[(IndexId, IndexObject)],
    keep: &dyn Fn(&PackId) -> bool,
    report: &dyn Report,
) -> Result<()> {
    let mut packs: HashMap<PackId, IndexedPack> = HashMap::new();
    let mut keys = HashMap::new();
    for (_, object) in old {
        keys.extend(object.keys.iter().map(|k| (k.id, k.clone())));
        packs.extend(object.packs.iter().filter(|p| keep(&p.id)).map(|p| (p.id, p.clone())));
    }
    if repo.rules.keep(Rule::IndexCovers) {
        publish_proven(repo, packs.into_values().collect(), &keys)?;
    }
    let ids: Vec<IndexId> = old.iter().map(|(id, _)| *id).collect();
    repo.cache.remove(&ids)?;
    for id in ids {
        delete(repo, &index_name(id), report)?;
    }
    Ok(())
}

/// Deletes an object; `false` when the storage keeps it, for example until its retention ends. That is told, and the
/// next prune tries again.
fn delete(repo: &Repository, name: &str, report: &dyn Report) -> Result<bool> {
    match repo.storage.delete(name) {
        Ok(()) => {
            report.count(Counter::Deleted, 1);
            Ok(true)
        }
        Err(e) if e.kind() == Kind::Denied => {
            report.problem(Problem::new(name, format!("could not be removed: the storage keeps it ({e})")));
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// Publishes index objects for `packs`, reads them back from the storage, and proves that they list all of them.
///
/// # Errors
/// `Damaged` when the proof fails, `Storage`.
pub(super) fn publish_proven(
    repo: &Repository,
    mut packs: Vec<IndexedPack>,
    keys: &HashMap<DataKeyId, WrappedKey>,
) -> Result<()> {
    packs.sort_by_key(|p| p.id);
    let mut rest = &packs[..];
    while !rest.is_empty() {
        let mut entries = 0;
        let fits = |pack: &&IndexedPack| {
            entries += pack.entries.len();
            entries <= ENTRIES_PER_INDEX
        };
        let n = rest.iter().take(PACKS_PER_INDEX).take_while(fits).count().max(1);
        let (group, others) = rest.split_at(n);
        rest = others;
        let used: BTreeSet<_> = group.iter().map(|p| p.key).collect();
        let object = IndexObject { keys: used.iter().map(|id| keys[id].clone()).collect(), packs: group.to_vec() };
        let id = repo.publish_index(&object)?;
        if repo.read_index_object(id)? != object {
            return Err(refused(&index_name(id), "does not read back as it was written"));
        }
    }
    Ok(())
}
