//! `sync`: snapshots of one repository become snapshots of another; only what is missing there moves.
//!
//! ```text
//! plan     which snapshots are missing there, by their originals; nothing is missing: no object is read
//! copy     oldest first, each in a session of its own: begin -> data -> prove -> publish (rules I1 to I7)
//! mirror   copies go whose original was forgotten; within a guard
//! ```
//!
//! How data moves depends on what the two repositories share ([`Way`]). A copy has an id of its own and names its
//! original, the first of a chain of copies ([decision 0015](../../docs/decisions/0015-copies-have-ids-of-their-own.md)),
//! so that what was copied is known wherever it came from, and is never copied back.
//!
//! A manifest is published when every chunk of its recipe was found in the destination's index, and not before. What
//! the source can't give stops nothing but the snapshots that need it. Every published snapshot is where an
//! interrupted sync goes on.

mod copy;
mod mirror;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::Serialize;

use crate::env::Cancel;
use crate::error::{Kind, Result};
use crate::format::coordination::Generation;
use crate::format::manifest::{Header, Manifest, Original, UNSEALED, object_name};
use crate::format::recipe::RecipeEntry;
use crate::id::{SlotId, SnapshotId};
use crate::repo::Repository;
use crate::repo::publish::publish;
use crate::repo::reader::{Reader, Walked, Walking};
use crate::repo::session::{Session, Writing};
use crate::repo::snapshots::Snapshot;
use crate::repo::writer::WriteOptions;
use crate::report::{Counter, Problem, Report, Silent, Unit};

use super::check::Subset;
use super::forget::{self, Filter};
use super::retention::{Candidate, Policy, decide};
use super::snapshot::predecessor;

use copy::{Copying, Moved};
use mirror::Mirrored;

/// How data moves between two repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Twins, with one id and all keys in common: packs are taken over, their blobs as they lie.
    Packs,
    /// Both name chunks alike: what is missing is known by name, read, and sealed again.
    Chunks,
    /// Nothing in common: streams are read and cut anew.
    Streams,
}

impl Way {
    /// The best way there is.
    pub fn between(source: &Repository, dest: &Repository) -> Self {
        if source.keys.opens_alike(&dest.keys) {
            Self::Packs
        } else if source.keys.names_alike(&dest.keys) {
            Self::Chunks
        } else {
            Self::Streams
        }
    }
}

/// What becomes of copies whose original is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mirror {
    /// They stay.
    #[default]
    Off,
    /// They go, unless that looks like an accident.
    Guarded,
    /// They go.
    Anyway,
}

/// What to copy, and how.
#[derive(Clone, Debug, Default)]
pub struct SyncOptions {
    /// Only these snapshots.
    pub filter: Filter,
    /// Of those, only what this keeps.
    pub keep: Option<Policy>,
    /// Whether copies go with their originals.
    pub mirror: Mirror,
    /// Only this part of the data; see [`Synced::waiting`].
    pub shard: Option<Subset>,
    /// Only plan.
    pub dry_run: bool,
    /// This host's name.
    pub host: String,
    /// Memory and compression.
    pub write: WriteOptions,
}

/// A snapshot that was copied, or a copy that goes.
#[derive(Clone, Debug, Serialize)]
pub struct Copied {
    /// What it is a copy of.
    pub original: Original,
    /// Its id in the destination; none in a dry run.
    pub id: Option<SnapshotId>,
    /// What it is a backup of.
    pub source: String,
    /// When that was taken.
    pub time: Timestamp,
    /// Plain bytes.
    pub bytes: u64,
    /// Bytes of the packs that were written with it; what small snapshots after it lack may have come along. 0 of a copy that
    /// goes.
    pub stored_bytes: u64,
}

/// A snapshot that could not be copied, or a copy that is not what its original is.
#[derive(Clone, Debug, Serialize)]
pub struct Failed {
    /// The snapshot, in the source.
    pub snapshot: SnapshotId,
    /// Why.
    pub problems: Vec<Problem>,
}

/// What a sync has to do, as far as it is known without doing it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Estimate {
    /// Snapshots to copy.
    pub snapshots: u64,
    /// Their plain bytes.
    pub bytes: u64,
    /// Chunks that are missing; none where that is known only by doing it ([`Way::Streams`]).
    pub chunks: Option<u64>,
    /// Their stored bytes in the source.
    pub stored_bytes: Option<u64>,
    /// The packs of the source that hold them.
    pub packs: Option<u64>,
}

/// What came of a sync.
#[derive(Debug, Serialize)]
pub struct Synced {
    /// How data moved.
    pub way: Way,
    /// What was to be done, in a dry run.
    pub plan: Option<Estimate>,
    /// The snapshots that were copied; in a dry run, those that would be.
    pub copied: Vec<Copied>,
    /// Snapshots that were there.
    pub already: u64,
    /// Snapshots that this shard can't publish alone: another one, or a sync without shards, does.
    pub waiting: u64,
    /// What could not be copied, and what is not what it should be.
    pub failed: Vec<Failed>,
    /// Copies that went because their originals are gone; in a dry run, those that would go.
    pub removed: Vec<Copied>,
    /// Copies that a mirror keeps: their originals are gone, and nothing explains that they were
    /// forgotten.
    pub kept: Vec<Copied>,
    /// What this machine had seen in either repository and is not there any more
    /// ([`crate::repo::seen`]).
    pub older_than_seen: Vec<Problem>,
    /// Packs taken over whole.
    pub packs_copied: u64,
    /// Chunks read and sealed again.
    pub chunks_resealed: u64,
    /// Bytes read from the source's packs.
    pub read_bytes: u64,
    /// Bytes of packs written.
    pub written_bytes: u64,
}

/// Copies what is missing in `dest`.
///
/// # Errors
/// `WrongKey` when either was opened with a write-only slot; `Damaged` when either has taken the place of another
/// repository; `NotFound` for a source or host without snapshots; `Failed` when the
/// mirror's guard refuses: nothing was done then. Whatever ends the work in the destination: `Busy`, `Damaged`, `Storage`;
/// `Interrupted`. What the source can't give is in [`Synced::failed`].
pub fn sync(
    source: &Repository,
    dest: &Repository,
    options: &SyncOptions,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<Synced> {
    source.keys.require_full("reading the snapshots to copy")?;
    dest.keys.require_full("copying into a repository")?;
    source.seen.require_same_repository()?;
    dest.seen.require_same_repository()?;
    let plan = Plan::make(source, dest, options, report)?;
    let mut synced = Synced {
        way: plan.way,
        plan: None,
        copied: Vec::new(),
        already: plan.already,
        waiting: 0,
        failed: plan.failed.clone(),
        removed: Vec::new(),
        kept: plan.mirrored.kept.clone(),
        older_than_seen: plan.older.clone(),
        packs_copied: 0,
        chunks_resealed: 0,
        read_bytes: 0,
        written_bytes: 0,
    };
    for problem in synced.failed.iter().flat_map(|f| &f.problems) {
        report.problem(problem.clone());
    }
    if options.dry_run {
        synced.plan = Some(plan.estimate(source, dest, options, report, cancel)?);
        synced.copied = plan.to_copy.iter().map(|(s, original)| copied(s, *original, None, 0)).collect();
        synced.removed = plan.mirrored.remove;
        return Ok(synced);
    }
    let tally = Tally::new(report);
    let remember = plan.remember;
    let there = plan.there;
    let told = HashSet::new();
    let mut run = Run { source, dest, options, way: plan.way, remember, there, tally: &tally, cancel, told };
    if !plan.to_copy.is_empty() {
        let bytes = total_bytes(&plan.to_copy);
        report.task("Copying", Unit::Bytes, Some(bytes));
    }
    let mut settled = 0;
    for (number, (snapshot, original)) in plan.to_copy.iter().enumerate() {
        cancel.check()?;
        tally.at(settled);
        match run.copy(snapshot, *original, &plan.to_copy[number + 1..])? {
            Outcome::Copied { id, stored_bytes } => {
                synced.copied.push(copied(snapshot, *original, Some(id), stored_bytes));
            }
            Outcome::Already => synced.already += 1,
            Outcome::Waiting => synced.waiting += 1,
            Outcome::Lost(problems) => {
                for problem in &problems {
                    report.problem(problem.clone());
                }
                synced.failed.push(Failed { snapshot: snapshot.id, problems });
            }
        }
        settled = u64::saturating_add(settled, snapshot.manifest.bytes());
    }
    let remove: Vec<SnapshotId> = plan.mirrored.remove.iter().filter_map(|copy| copy.id).collect();
    match options.mirror {
        Mirror::Guarded => forget::execute_guarded(dest, &remove, report, cancel)?,
        _ => forget::execute(dest, &remove, report, cancel)?,
    }
    synced.removed = plan.mirrored.remove;
    synced.packs_copied = tally.packs.load(Ordering::Relaxed);
    synced.chunks_resealed = tally.resealed.load(Ordering::Relaxed);
    synced.read_bytes = tally.read.load(Ordering::Relaxed);
    synced.written_bytes = tally.written.load(Ordering::Relaxed);
    Ok(synced)
}

/// What snapshots say of their lengths may exceed any number.
fn total_bytes(snapshots: &[(Snapshot, Original)]) -> u64 {
    snapshots.iter().fold(0, |sum: u64, (s, _)| sum.saturating_add(s.manifest.bytes()))
}

fn copied(snapshot: &Snapshot, original: Original, id: Option<SnapshotId>, stored_bytes: u64) -> Copied {
    let manifest = &snapshot.manifest;
    let (source, time, bytes) = (manifest.source.clone(), manifest.time, manifest.bytes());
    Copied { original, id, source, time, bytes, stored_bytes }
}

/// Where a snapshot was taken first: what makes two snapshots the same one in two places.
pub fn original(repo: &Repository, snapshot: &Snapshot) -> Original {
    snapshot.manifest.original.unwrap_or(Original { repository: repo.id, snapshot: snapshot.id })
}

/// What is to be done.
struct Plan {
    way: Way,
    /// Oldest first, so that each finds the one before there; claims of write-only slots last, in turns
    /// ([`take_turns`]).
    to_copy: Vec<(Snapshot, Original)>,
    already: u64,
    there: There,
    mirrored: Mirrored,
    failed: Vec<Failed>,
    /// What is older than this machine has seen, on either side.
    older: Vec<Problem>,
    /// Whether the copies may count as seen: while something is missed in the destination, it goes
    /// on being missed.
    remember: bool,
}

impl Plan {
    fn make(source: &Repository, dest: &Repository, options: &SyncOptions, report: &dyn Report) -> Result<Self> {
        let (listed_here, listed_there) = (source.list_snapshots()?, dest.list_snapshots()?);
        let (mut here, unreadable) = source.snapshots_among(&listed_here)?;
        let (there, unreadable_there) = dest.snapshots_among(&listed_there)?;
        for (id, error) in &unreadable_there {
            report.problem(Problem::new(object_name(*id), error).harming([id]));
        }
        options.filter.check_names(here.iter().chain(&there))?;
        let mut older = older(source, &listed_here, report)?;
        let is_older_here = !older.is_empty();
        let older_there = self::older(dest, &listed_there, report)?;
        let remember = older_there.is_empty();
        older.extend(older_there);
        let mirrored = if options.mirror == Mirror::Off || older.is_empty() {
            mirror::plan(source, dest, &here, &unreadable, &there, options, report)?
        } else {
            mirror::warn_of_older(if is_older_here { source } else { dest }, report);
            Mirrored::default()
        };
        here.retain(|snapshot| options.filter.admits(snapshot));
        let copies = Copies::find(source, &here, dest, &there);
        // A generation that can't be read keeps nobody from copying; where nothing is to be copied, none is needed.
        let is_in_sync = here.iter().all(|snapshot| copies.has(source, snapshot));
        let state = if is_in_sync { Ok(Generation::default()) } else { source.probe_generation()?.1 };
        let is_state_known = state.is_ok();
        let state = state.unwrap_or_default();
        source.mark_distrusted(&mut here, &state)?;
        let kept = kept(source, &here, options)?;
        let mut failed: Vec<Failed> = unreadable
            .iter()
            .map(|(id, e)| Failed { snapshot: *id, problems: vec![Problem::new(object_name(*id), e).harming([id])] })
            .collect();
        failed.extend(copies.lies(source, &here, dest, &there));
        let (mut to_copy, mut already) = (Vec::new(), 0);
        for snapshot in here {
            if copies.has(source, &snapshot) {
                already += 1;
            } else if snapshot.is_distrusted {
                let author = source.keys.slot_name(snapshot.author);
                report.warn(&format!("snapshot {} is not copied: its author {author} is distrusted", snapshot.id));
            } else if kept.as_ref().is_none_or(|kept| kept.contains(&snapshot.id)) {
                let original = original(source, &snapshot);
                to_copy.push((snapshot, original));
            }
        }
        take_turns(source, &mut to_copy);
        // Two copies of one original may lie in the source: one is enough.
        let mut known = HashSet::new();
        to_copy.retain(|(snapshot, _)| known.insert(Same::of(source, snapshot)));
        // Whose packs may be taken over unread is in the generation.
        let way = match Way::between(source, dest) {
            Way::Packs if !is_state_known => Way::Chunks,
            way => way,
        };
        let there = There { known: listed_there, copies };
        Ok(Self { way, to_copy, already, there, mirrored, failed, older, remember })
    }

    /// What moving it will take. Recipes are read, data is not.
    fn estimate(
        &self,
        source: &Repository,
        dest: &Repository,
        options: &SyncOptions,
        report: &dyn Report,
        cancel: &Cancel,
    ) -> Result<Estimate> {
        let bytes = total_bytes(&self.to_copy);
        let mut estimate = Estimate { snapshots: self.to_copy.len() as u64, bytes, ..Estimate::default() };
        if self.way == Way::Streams {
            return Ok(estimate);
        }
        let (here, there) = (source.index_to_read(&Silent)?, dest.index_to_read(&Silent)?);
        let reader = Reader::new(&here)?;
        let (mut missing, mut packs, mut stored) = (HashSet::new(), HashSet::new(), 0);
        let with = Walking { transfers: transfers(source, dest, options), report: &Silent, cancel };
        let mut visit = |e: &RecipeEntry, _| {
            if there.usable(&e.id)?.is_none()
                && let Some(place) = here.usable(&e.id)?
                && options.shard.is_none_or(|shard| shard.admits(place.pack.as_bytes()))
                && missing.insert(e.id)
            {
                packs.insert(place.pack);
                stored = u64::saturating_add(stored, u64::from(place.stored_len));
            }
            Ok(())
        };
        report.task("Looking at what is missing", Unit::Things, Some(estimate.snapshots));
        for (done, (snapshot, _)) in self.to_copy.iter().enumerate() {
            // An estimate goes on past what the copying will tell.
            let walked = &mut Walked::default();
            let lost = &mut |_| cancel.check();
            if reader.walk_snapshot(&snapshot.manifest, walked, with, &mut visit, lost).is_err() {
                cancel.check()?;
            }
            report.progress(done as u64 + 1);
        }
        estimate.chunks = Some(missing.len() as u64);
        estimate.packs = Some(packs.len() as u64);
        estimate.stored_bytes = Some(stored);
        Ok(estimate)
    }
}

/// What a repository shows that is older than this machine has seen.
fn older(repo: &Repository, listed: &BTreeSet<SnapshotId>, report: &dyn Report) -> Result<Vec<Problem>> {
    let location = repo.storage.location();
    let problems = repo.older_by_listing(listed, report)?.into_iter();
    Ok(problems.map(|problem| Problem { what: format!("at {location}: {}", problem.what), ..problem }).collect())
}

/// The snapshots that the rules keep; all of them without rules.
fn kept(source: &Repository, snapshots: &[Snapshot], options: &SyncOptions) -> Result<Option<BTreeSet<SnapshotId>>> {
    let Some(policy) = &options.keep else { return Ok(None) };
    let candidates: Vec<Candidate> =
        snapshots.iter().map(|snapshot| Candidate::of(snapshot, source.claimant(snapshot))).collect();
    let groups = decide(&candidates, policy, source.env.now())?;
    Ok(Some(groups.iter().flat_map(|g| &g.decisions).filter(|d| d.keep).map(|d| d.id).collect()))
}

/// What snapshots have in common that are copies of one another: their original, the slot that is their claimant, and
/// what both manifests tell of the data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Same {
    original: Original,
    writer: Option<SlotId>,
    whole: Option<(u64, [u8; 32])>,
    /// Lists have one digest wherever they are; what they are made of differs where chunks are named differently.
    list: (u64, u64, [u8; 32]),
    /// The shape, by its names.
    shape: String,
    source: String,
}

impl Same {
    fn of(repo: &Repository, snapshot: &Snapshot) -> Self {
        let Manifest { whole, parts, shape, source, .. } = &snapshot.manifest;
        Self {
            original: original(repo, snapshot),
            writer: repo.write_only_author(snapshot),
            whole: whole.map(|whole| (whole.bytes, whole.blake3)),
            list: (parts.count, parts.bytes, parts.blake3),
            shape: format!("{shape:?}"),
            source: source.clone(),
        }
    }
}

/// Which snapshots are where, as far as what they say of their originals holds.
struct Copies {
    here: HashSet<Same>,
    there: HashSet<Same>,
    /// The snapshots that are no copies, by themselves.
    originals: HashMap<Original, (SnapshotId, Same)>,
}

impl Copies {
    fn find(source: &Repository, here: &[Snapshot], dest: &Repository, there: &[Snapshot]) -> Self {
        let mut originals = HashMap::new();
        for (repo, snapshot) in there.iter().map(|s| (dest, s)).chain(here.iter().map(|s| (source, s))) {
            if snapshot.manifest.original.is_none() {
                originals.insert(original(repo, snapshot), (snapshot.id, Same::of(repo, snapshot)));
            }
        }
        Self {
            here: here.iter().map(|s| Same::of(source, s)).collect(),
            there: there.iter().map(|s| Same::of(dest, s)).collect(),
            originals,
        }
    }

    /// The destination has this snapshot. What only says so, and tells other data or is another slot's, stands for
    /// nothing.
    fn has(&self, source: &Repository, snapshot: &Snapshot) -> bool {
        self.there.contains(&Same::of(source, snapshot))
    }

    /// Copies that are not what their originals are, on both sides.
    fn lies(&self, source: &Repository, here: &[Snapshot], dest: &Repository, there: &[Snapshot]) -> Vec<Failed> {
        // What a copy is compared with: the original; without that another copy.
        let mut chiefs: HashMap<Original, (SnapshotId, Same)> = HashMap::new();
        for snapshot in here {
            let same = Same::of(source, snapshot);
            chiefs.entry(same.original).or_insert((snapshot.id, same));
        }
        chiefs.extend(self.originals.iter().map(|(original, known)| (*original, known.clone())));
        let mut lies = Vec::new();
        let mut look = |snapshot: &Snapshot, same: &Same, is_known: bool| {
            if let Some((chief, known)) = chiefs.get(&same.original)
                && *chief != snapshot.id
                && !is_known
                && known != same
            {
                let what =
                    if known.writer == same.writer { "and tells other data" } else { "and another slot wrote it" };
                let problem = Problem::new(object_name(snapshot.id), format!("says it is a copy of {chief}, {what}"));
                lies.push(Failed { snapshot: *chief, problems: vec![problem.harming([snapshot.id])] });
            }
        };
        for copy in there.iter().filter(|copy| copy.manifest.original.is_some()) {
            let same = Same::of(dest, copy);
            look(copy, &same, self.here.contains(&same));
        }
        for snapshot in here.iter().filter(|snapshot| snapshot.manifest.original.is_some()) {
            let same = Same::of(source, snapshot);
            // Two copies in the source of what is not there: nothing says which is right.
            let is_known = !self.originals.contains_key(&same.original);
            look(snapshot, &same, is_known);
        }
        lies
    }
}

/// What the destination has, as far as it is known.
struct There {
    /// The names under `snapshots/` that were looked at.
    known: BTreeSet<SnapshotId>,
    copies: Copies,
}

impl There {
    /// True when the destination has a copy of `snapshot` now. Another sync may have copied it since this one made its
    /// plan: two copies of one snapshot would count twice for every rule of a `forget`.
    fn has_now(&mut self, source: &Repository, dest: &Repository, snapshot: &Snapshot) -> Result<bool> {
        for id in dest.list_snapshots()? {
            // What can't be read stands for nothing.
            if self.known.insert(id)
                && let Ok(new) = dest.snapshot(id)
            {
                self.copies.there.insert(Same::of(dest, &new));
            }
        }
        Ok(self.copies.has(source, snapshot))
    }
}

/// What a snapshot costs besides its bytes, in bytes: so many small ones have their price.
const SNAPSHOT_COST: u64 = 1 << 20;

/// Sorts what is to be copied: oldest first. Claims of write-only slots come last: what they cost must not keep the
/// others waiting, nor one of these slots another. Each has its turn when as many bytes of each other one were copied:
/// whoever has little to copy comes before the end of what is endless.
fn take_turns(source: &Repository, to_copy: &mut Vec<(Snapshot, Original)>) {
    to_copy.sort_by_key(|(s, _)| s.order());
    let mut costs: HashMap<SlotId, u64> = HashMap::new();
    let mut turns: Vec<(Option<u64>, (Snapshot, Original))> = Vec::with_capacity(to_copy.len());
    for (snapshot, original) in to_copy.drain(..) {
        let turn = source.claimant(&snapshot).map(|claimant| {
            let cost = costs.entry(claimant).or_default();
            *cost = cost.saturating_add(snapshot.manifest.bytes()).saturating_add(SNAPSHOT_COST);
            *cost
        });
        turns.push((turn, (snapshot, original)));
    }
    // Stable: each slot's own stay in their order.
    turns.sort_by_key(|(turn, _)| *turn);
    to_copy.extend(turns.into_iter().map(|(_, snapshot)| snapshot));
}

/// How many requests at once pay between the two, and fit the memory.
fn transfers(source: &Repository, dest: &Repository, options: &SyncOptions) -> usize {
    let wished = source.storage.transfers().max(dest.storage.transfers()).clamp(8, 32);
    let fit = options.write.memory_bytes as u64 / 2 / source.parameters.pack_bytes.max(1);
    wished.min((fit as usize).max(1))
}

/// What became of one snapshot.
enum Outcome {
    Copied {
        id: SnapshotId,
        stored_bytes: u64,
    },
    /// Somebody else has copied it meanwhile.
    Already,
    Waiting,
    Lost(Vec<Problem>),
}

/// A sync at work.
struct Run<'r> {
    source: &'r Repository,
    dest: &'r Repository,
    options: &'r SyncOptions,
    way: Way,
    /// Whether copies count as seen.
    remember: bool,
    there: There,
    tally: &'r Tally<'r>,
    cancel: &'r Cancel,
    /// Unreadable index objects that were told already.
    told: HashSet<String>,
}

impl Run<'_> {
    fn copy(&mut self, snapshot: &Snapshot, original: Original, next: &[(Snapshot, Original)]) -> Result<Outcome> {
        let Self { source, dest, options, tally, cancel, .. } = *self;
        if self.way == Way::Streams && options.shard.is_some_and(|shard| !shard.admits(original.snapshot.as_bytes())) {
            return Ok(Outcome::Waiting);
        }
        if self.there.has_now(source, dest, snapshot)? {
            return Ok(Outcome::Already);
        }
        // Read anew for each snapshot: a long sync outlives prunes of the source.
        let here = source.index_to_read(tally)?;
        let who = Writing { host: options.host.clone(), purpose: "sync".to_owned() };
        let session = Session::begin(dest, &who, tally)?;
        for problem in here.problems.iter().chain(&session.indexed.problems) {
            if self.told.insert(problem.object.clone()) {
                tally.problem(problem.clone());
            }
        }
        let manifest = &snapshot.manifest;
        let series = dest.keys.hasher.series(&manifest.host, &manifest.source);
        let headers = dest.to_follow(&dest.headers()?.0, &session.indexed.state)?;
        let previous = predecessor(&headers, &series, manifest.sequence);
        let reader = Reader::new(&here)?;
        let transfers = transfers(source, dest, options);
        let mut copying = Copying::new(&session, &reader, &here, options, transfers, tally, cancel)?;
        let moved = match self.way {
            Way::Streams => {
                let is_claim = source.claimant(snapshot).is_some();
                copying.streams(snapshot, previous.as_ref().map(|(id, _)| *id), is_claim)?
            }
            way => copying.chunks(snapshot, way, next)?,
        };
        let (lists, mut stored) = match moved {
            Moved::Whole { lists, stored } => (lists, stored),
            Moved::Partly => return Ok(Outcome::Waiting),
            Moved::Lost(problems) => return Ok(Outcome::Lost(problems)),
        };
        let (parts, catalog) = lists;
        let copy = Manifest { parts, catalog, ..manifest.clone() };
        if let Err(error) = copying.prove(&copy) {
            // Damage of the destination harms what would rely on it, and not the others.
            return match error.kind() {
                Kind::Damaged => Ok(Outcome::Lost(vec![copy::problem(&error).harming([snapshot.id])])),
                _ => Err(error),
            };
        }
        // Once more after what may have taken hours: from here to the manifest it is a moment.
        if self.there.has_now(source, dest, snapshot)? {
            return Ok(Outcome::Already);
        }
        stored.stored_bytes = session.written_bytes();
        let previous = previous.map(|(id, _)| id);
        let header = Header {
            time: manifest.time,
            series,
            sequence: manifest.sequence,
            bytes: manifest.bytes(),
            good_bytes: manifest.shrunk_from.unwrap_or(manifest.bytes()),
            previous,
            body: UNSEALED,
        };
        let copy = Manifest {
            previous,
            generation: 0,
            tool: format!("alluvium {}", env!("CARGO_PKG_VERSION")),
            stored,
            original: Some(original),
            original_author: source.write_only_author(snapshot),
            ..copy
        };
        let id = publish(session, &header, copy, options.write, tally, cancel)?;
        if self.remember {
            dest.seen.note(id, None, &header, tally)?;
        }
        Ok(Outcome::Copied { id, stored_bytes: stored.stored_bytes })
    }
}

/// Counts what moves, and keeps the steps of the work from telling their own progress: what people wait for is
/// the whole.
struct Tally<'r> {
    report: &'r dyn Report,
    packs: AtomicU64,
    resealed: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    settled: AtomicU64,
}

impl<'r> Tally<'r> {
    fn new(report: &'r dyn Report) -> Self {
        let zero = AtomicU64::default;
        Self { report, packs: zero(), resealed: zero(), read: zero(), written: zero(), settled: zero() }
    }

    /// So many plain bytes are settled.
    fn settle(&self, bytes: u64) {
        let before = self.settled.fetch_add(bytes, Ordering::Relaxed);
        self.report.progress(before.saturating_add(bytes));
    }

    fn at(&self, bytes: u64) {
        self.settled.store(bytes, Ordering::Relaxed);
        self.report.progress(bytes);
    }
}

impl Report for Tally<'_> {
    fn count(&self, counter: Counter, n: u64) {
        match counter {
            // Of streams on their way from one repository to the other; they are told as progress.
            Counter::SourceBytes | Counter::RestoredBytes => return,
            Counter::PackReadBytes => self.read.fetch_add(n, Ordering::Relaxed),
            Counter::StoredBytes => self.written.fetch_add(n, Ordering::Relaxed),
            _ => 0,
        };
        self.report.count(counter, n);
    }
    fn problem(&self, problem: Problem) {
        self.report.problem(problem);
    }
    fn task(&self, _: &str, _: Unit, _: Option<u64>) {}
    fn progress(&self, _: u64) {}
    fn note(&self, text: &str) {
        self.report.note(text);
    }
    fn warn(&self, text: &str) {
        self.report.warn(text);
    }
}

/// Snapshots by host and source.
type Series = BTreeMap<(String, String), Vec<SnapshotId>>;

fn by_series<'s>(snapshots: impl IntoIterator<Item = &'s Snapshot>) -> Series {
    let mut series = Series::new();
    for Snapshot { id, manifest, .. } in snapshots {
        series.entry((manifest.host.clone(), manifest.source.clone())).or_default().push(*id);
    }
    series
}
