//! `prune`: gives back what no snapshot needs. The one operation that deletes data, so it plans first and
//! refuses whenever anything looks odd (rule I6).
//!
//! ```text
//! survey   packs, then sessions, then snapshots, then the index: in this order nothing new is taken for garbage
//! verify   where another copy is to go, the copy that is counted on is read: a bad one is not counted on
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
use crate::format::coordination::{Condemned, Distrusted, Generation, generation_name};
use crate::format::index::{IndexObject, IndexedPack, object_name as index_name};
use crate::format::pack::{BlobEntry, WrappedKey, object_name, with_offsets};
use crate::id::{BlobId, DataKeyId, IndexId, PackId, SlotId};
use crate::repo::Repository;
use crate::repo::fence::{LiveSession, end_dead_sessions, live_sessions};
use crate::repo::generations::renumbered;
use crate::repo::index::{KnownPack, Location};
use crate::repo::parallel::each;
use crate::repo::reader::Reader;
use crate::repo::rules::Rule;
use crate::repo::session::{Session, Writing};
use crate::repo::snapshots::Snapshot;
use crate::repo::writer::{WriteOptions, write};
use crate::report::{Problem, Report, Unit};
use crate::storage::Storage;

use super::mark::mark;
use super::reindex::{ENTRIES_PER_INDEX, PACKS_PER_INDEX, delete, publish_proven, replace};

mod survey;
mod verify;

use survey::{AllSnapshots, Survey, all_snapshots, doubt_of_unverified, lacking, missed, readable, refused, stopping};

/// An object of local repositories that only takes room: prune gives it up on a full disk to be able to
/// work, and puts it back.
pub const RESERVE: &str = "reserve";
/// Its size in bytes: generations, index objects and session objects of a middling prune.
pub const RESERVE_BYTES: usize = 1 << 20;

/// How often a prune tries to publish while others forget snapshots or change keys.
const CONDEMN_ATTEMPTS: u32 = 8;
/// More index objects than this are compacted.
const INDEX_OBJECTS_MAX: usize = 64;

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
    /// Copies that were read and verified since another copy of the same blob is to go.
    pub verified_blobs: u64,
    /// Packs that stay since the other copy of one of their blobs could not be read.
    pub unverified_packs: u64,
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
    repo.seen.require_same_repository()?;
    let mut generation = None;
    let mut once = || {
        if dry_run {
            return Survey::take(repo, None, &mut generation, options, report, cancel).map(|s| s.plan(options).0);
        }
        prune_once(repo, &mut generation, options, report, cancel)
    };
    let result = match once() {
        Err(e) if e.is_durability_unknown() => return Err(e),
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
        Err(e) if e.kind() == Kind::Damaged && generation.is_some() => match repo.probe_generation()? {
            (newest, Ok(state)) if judges(generation, newest, &state) => Err(e),
            (newest, Err(_)) if generation == Some(newest) => Err(e),
            _ => Err(other_at_work(&e)),
        },
        Err(e) => Err(e),
    }
}

fn other_at_work(seen: &Error) -> Error {
    Error::new(Kind::Busy, format!("another prune or check is at work; nothing that is needed was deleted ({seen})"))
        .hint("let it finish, then run prune again")
}

/// True when what was judged by generation `surveyed` holds in the newest one: what came after it, forgets
/// and key changes published, and those carry over what is condemned and distrusted.
fn judges(surveyed: Option<u64>, newest: u64, state: &Generation) -> bool {
    surveyed.is_some_and(|surveyed| newest == surveyed || newest > surveyed && state.judged <= surveyed)
}

/// `distrusted` with the copies in `flawed`.
fn distrust(distrusted: Vec<Distrusted>, flawed: &HashSet<(PackId, BlobId)>) -> Vec<Distrusted> {
    let mut packs: BTreeMap<PackId, BTreeSet<BlobId>> =
        distrusted.into_iter().map(|d| (d.pack, d.blobs.into_iter().collect())).collect();
    for (pack, blob) in flawed {
        match packs.get_mut(pack) {
            // No blobs stand for all of them.
            Some(all) if all.is_empty() => {}
            Some(blobs) => drop(blobs.insert(*blob)),
            None => drop(packs.insert(*pack, BTreeSet::from([*blob]))),
        }
    }
    packs.into_iter().map(|(pack, blobs)| Distrusted { pack, blobs: blobs.into_iter().collect() }).collect()
}

/// True when what a slot's index objects say of any pack is believed.
fn is_believed(repo: &Repository, state: &Generation, slot: SlotId) -> bool {
    repo.keys.is_full(slot) && state.distrusted_slots.iter().all(|distrusted| distrusted.slot != slot)
}

/// Reads the packs that write-only and distrusted slots list, and lists them anew as they describe themselves, in
/// index objects of this slot; then the claims go (rule I7). What a pack can't show keeps its claim. One
/// claim is held at a time, however large they are.
fn adopt_claims(repo: &Repository, state: &Generation, report: &dyn Report, cancel: &Cancel) -> Result<()> {
    let mut adoption = Adoption::new(repo, report);
    for id in repo.list_index()?.into_keys() {
        match repo.read_index_claim(id) {
            Ok((claim, object)) if !is_believed(repo, state, claim.author) => {
                adoption.claim(id, claim.author, &object, cancel)?;
            }
            Ok(_) => {}
            // The survey reports it.
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged) => {}
            Err(e) => return Err(e),
        }
    }
    adoption.publish()
}

/// Claims on their way into index objects of this slot.
struct Adoption<'a> {
    repo: &'a Repository,
    report: &'a dyn Report,
    /// What the packs that were read say of themselves; `None` of those that can't say it.
    read: HashMap<PackId, Option<KnownPack>>,
    packs: Vec<IndexedPack>,
    entries: usize,
    keys: HashMap<DataKeyId, WrappedKey>,
    /// Index objects all of whose packs are published, or are about to be.
    adopted: Vec<IndexId>,
}

impl<'a> Adoption<'a> {
    fn new(repo: &'a Repository, report: &'a dyn Report) -> Self {
        let (read, keys) = (HashMap::new(), HashMap::new());
        Self { repo, report, read, packs: Vec::new(), entries: 0, keys, adopted: Vec::new() }
    }

    /// Reads what `author` claims in the index object `id`.
    fn claim(&mut self, id: IndexId, author: SlotId, object: &IndexObject, cancel: &Cancel) -> Result<()> {
        let mut shown = true;
        for pack in &object.packs {
            cancel.check()?;
            if !self.read.contains_key(&pack.id) && !self.read_pack(pack.id)? {
                continue;
            }
            match self.read.get(&pack.id) {
                Some(Some(read)) if *read != KnownPack::of(pack) => {
                    let what = format!("slot {author} describes pack {} otherwise than it is", pack.id);
                    self.report.problem(Problem::new(index_name(id), what));
                }
                Some(Some(_)) => {}
                _ => shown = false,
            }
        }
        if shown {
            self.adopted.push(id);
        }
        if self.packs.len() >= PACKS_PER_INDEX || self.entries >= ENTRIES_PER_INDEX {
            self.publish()?;
        }
        Ok(())
    }

    /// Reads a pack; `false` when it is missing.
    fn read_pack(&mut self, id: PackId) -> Result<bool> {
        let (repo, name) = (self.repo, object_name(id));
        match repo.find_pack(id) {
            Ok(None) => return Ok(false),
            Ok(Some(read)) => {
                self.read.insert(id, Some(KnownPack::of(&read.indexed)));
                self.keys.insert(read.key.id, read.key);
                self.entries += read.indexed.entries.len();
                self.packs.push(read.indexed);
            }
            Err(e) if e.kind() == Kind::Damaged => {
                self.read.insert(id, None);
                self.report.problem(Problem::new(name, &e));
            }
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    /// Publishes what was read, and removes the claims that it replaces.
    fn publish(&mut self) -> Result<()> {
        self.entries = 0;
        publish_proven(self.repo, std::mem::take(&mut self.packs), &std::mem::take(&mut self.keys))?;
        let adopted = std::mem::take(&mut self.adopted);
        self.repo.cache.remove(&adopted)?;
        for id in adopted {
            delete(self.repo, &index_name(id), self.report)?;
        }
        Ok(())
    }
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
    end_dead_sessions(repo, session.id, &session.indexed.state)?;
    adopt_claims(repo, &session.indexed.state, report, cancel)?;
    let survey = Survey::take(repo, Some(session.id), generation, options, report, cancel)?;
    let (mut plan, unused, repack) = survey.plan(options);
    let mut work = Work {
        repo,
        session: &session,
        survey: &survey,
        plan: &mut plan,
        generation,
        repacked: HashSet::new(),
        distrusted: HashSet::new(),
        report,
        cancel,
    };
    work.rewrite_index(&survey.ghosts.iter().map(|ghost| (*ghost, 0)).collect())?;
    work.condemn_and_delete(&unused)?;
    if !repack.is_empty() {
        let repacked = work.repack(&repack, options)?;
        work.condemn_and_delete(&repacked)?;
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
        if let Err(e) = storage.put_new(RESERVE, &bytes)
            && e.is_durability_unknown()
        {
            return Err(e);
        }
    }
    Ok(())
}

/// Packs that a generation condemns at most: it has room for about twice as many. Anybody who may create objects can
/// create packs that nobody needs.
const CONDEMNED_MAX: usize = 1 << 17;

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
    /// Flawed copies that a generation of this prune distrusts.
    distrusted: HashSet<(PackId, BlobId)>,
    report: &'w dyn Report,
    cancel: &'w Cancel,
}

impl Work<'_, '_> {
    /// Condemns `packs` and deletes those that no running session may rely on.
    fn condemn_and_delete(&mut self, packs: &[PackId]) -> Result<()> {
        self.cancel.check()?;
        if packs.is_empty() && self.survey.flawed.is_subset(&self.distrusted) {
            return Ok(());
        }
        for attempt in 1.. {
            match self.condemn(packs) {
                // A forget or a key change was faster: what this prune has judged stands.
                Err(e) if e.kind() == Kind::Busy && attempt < CONDEMN_ATTEMPTS && self.still_judges()? => {}
                condemned => return self.delete_condemned(&condemned?),
            }
        }
        Ok(())
    }

    /// True as long as nobody else has judged packs since the generation that this prune acts on.
    fn still_judges(&self) -> Result<bool> {
        let (number, state) = self.repo.probe_generation()?;
        Ok(judges(*self.generation, number, &readable(number, state)?))
    }

    /// Publishes a generation that condemns `packs`, and distrusts the copies that the survey found
    /// flawed. Returns those of `packs` with the generation that condemned them first.
    fn condemn(&mut self, packs: &[PackId]) -> Result<Vec<Condemned>> {
        let (number, state) = self.repo.probe_generation()?;
        let mut state = readable(number, state)?;
        // What this prune takes for unused it has judged by the generation that it surveyed. Another prune's or check's
        // may have condemned or distrusted the copies that are counted on here.
        if !judges(*self.generation, number, &state) {
            return Err(other_at_work(&Error::new(Kind::Busy, format!("{} is new", generation_name(number)))));
        }
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
        let new: Vec<&PackId> = packs.iter().filter(|pack| !known.contains(pack)).collect();
        let room = CONDEMNED_MAX.saturating_sub(condemned.len());
        if new.len() > room {
            let what = "packs more can go: the next prune condemns them";
            self.report.warn(&format!("{} {what}", new.len() - room));
        }
        condemned.extend(new.into_iter().take(room).map(|&pack| Condemned {
            pack,
            size: sizes[&pack],
            since: number + 1,
        }));
        let mut distrusted = Vec::new();
        for entry in distrust(std::mem::take(&mut state.distrusted), &self.survey.flawed) {
            if !is_gone(entry.pack)? {
                distrusted.push(entry);
            }
        }
        let (distrusted, _) = self.repo.limit_distrusted(distrusted, &state)?;
        let forgotten = self.repo.still_there(&state.forgotten)?;
        // Even when all of them are condemned already: of two prunes that judged by one generation, one may delete.
        if self.repo.rules.keep(Rule::CondemnFirst) {
            let next = Generation { condemned, distrusted, judged: number + 1, forgotten, ..state };
            let published = self.repo.publish_generation(number + 1, &next)?;
            condemned = renumbered(&next, number + 1, published).condemned;
            *self.generation = Some(published);
            self.distrusted.clone_from(&self.survey.flawed);
        }
        let candidates: HashSet<PackId> = packs.iter().copied().collect();
        condemned.retain(|c| candidates.contains(&c.pack));
        Ok(condemned)
    }

    /// Deletes the condemned packs that every running session knows to be condemned and no snapshot needs.
    fn delete_condemned(&mut self, condemned: &[Condemned]) -> Result<()> {
        let mut live = end_dead_sessions(self.repo, self.session.id, &self.session.indexed.state)?;
        // What a session has read says nothing when it does not count.
        for session in live.iter_mut().filter(|session| session.generation > 0) {
            if !self.repo.counts_now(session.generation)? {
                session.generation = 0;
            }
        }
        let known_to_all = live.iter().map(|s| s.generation).min().unwrap_or(u64::MAX);
        let (ready, waiting): (Vec<&Condemned>, Vec<&Condemned>) =
            condemned.iter().partition(|c| c.since <= known_to_all || !self.repo.rules.keep(Rule::Wait));
        self.plan.waiting_packs += waiting.len() as u64;
        if !waiting.is_empty() {
            self.plan.waiting_for =
                live.into_iter().filter(|s| waiting.iter().any(|c| s.generation < c.since)).collect();
        }
        // The sessions that have ended since the survey may have published what needs a condemned pack.
        let AllSnapshots { snapshots, unverified, mut doubt, .. } = all_snapshots(self.repo, self.report)?;
        let again = self.repo.rules.keep(Rule::MarkAgain);
        let new: Vec<Snapshot> =
            snapshots.into_iter().filter(|s| again && !self.survey.snapshots.contains(&s.id)).collect();
        let mut rescued = HashSet::new();
        if !new.is_empty() {
            let (number, state) = self.repo.newest_generation()?;
            let indexed = self.repo.index_proven(number, state, self.report)?;
            let mut marks = mark(&indexed, &new, &|_, _| None, self.report, self.cancel)?;
            if let Some(error) = marks.unread.take() {
                return Err(error);
            }
            if let Some(missing) = stopping(self.repo, &new, &marks, &std::iter::empty)? {
                return Err(missed(self.repo, missing)?);
            }
            if !marks.missing.is_empty() {
                rescued.extend(&self.survey.unlisted);
            }
            let lacking = lacking(&new, &marks);
            let packs = self.repo.cache.packs()?.into_iter();
            rescued.extend(packs.filter(|pack| lacking.contains(&pack.claim.author)).map(|pack| pack.id));
            doubt = doubt.or_else(|| doubt_of_unverified(&unverified, &marks));
            // Every copy is spared: which of two a sleeping prune is about to delete can't be known here.
            rescued.extend(marks.holders);
        }
        if let Some(doubt) = &doubt {
            self.report.problem(doubt.clone());
        }
        let goes = |condemned: &&Condemned| doubt.is_none() && !rescued.contains(&condemned.pack);
        let doomed: BTreeMap<PackId, u64> = ready.into_iter().filter(goes).map(|c| (c.pack, c.size)).collect();
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

    /// Replaces the index objects that `choose` picks. Those of slots that are not believed stay as they are:
    /// what [`adopt_claims`] could not take over is not signed by this slot. Their missing packs stay condemned
    /// as long as they are listed.
    fn replace_index_objects(
        &mut self,
        choose: impl Fn(&IndexObject) -> bool,
        without: &BTreeMap<PackId, u64>,
    ) -> Result<()> {
        let state = &self.session.indexed.state;
        let mut old: Vec<(IndexId, IndexObject)> = Vec::new();
        for id in self.repo.list_index()?.into_keys() {
            match self.repo.read_index_claim(id) {
                Ok((claim, object)) if is_believed(self.repo, state, claim.author) && choose(&object) => {
                    old.push((id, object));
                }
                Ok(_) => {}
                // What can't be read is reported, and stays.
                Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged) => {}
                Err(e) => return Err(refused(&index_name(id), &e.to_string())),
            }
        }
        if old.is_empty() {
            return Ok(());
        }
        let keep = |pack: &PackId| !without.contains_key(pack);
        self.settle_lines(&mut old, &keep)?;
        replace(self.repo, &old, &keep, self.report)
    }

    /// Where the local cache knows a pack otherwise than an index object says, the pack itself decides: nothing is
    /// signed again that is wrong. Of a pack that can't say it the line stays as a full slot signed it.
    fn settle_lines(&self, objects: &mut [(IndexId, IndexObject)], keep: &dyn Fn(&PackId) -> bool) -> Result<()> {
        let known: HashMap<PackId, KnownPack> = self.repo.cache.packs()?.into_iter().map(|p| (p.id, p)).collect();
        for (_, object) in objects {
            for line in object.packs.iter_mut().filter(|line| keep(&line.id)) {
                if known.get(&line.id).is_none_or(|known| *known == KnownPack::of(line)) {
                    continue;
                }
                match self.repo.find_pack(line.id) {
                    Ok(None) => {}
                    Ok(Some(read)) => {
                        object.keys.retain(|key| key.id != read.key.id);
                        object.keys.push(read.key);
                        *line = read.indexed;
                    }
                    Err(e) if e.kind() == Kind::Damaged => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    /// Stores what is used of `packs` again, in packs of this session. Returns those that may go: a pack that can't
    /// be read, or a used blob of it from no copy, is reported and left as it is.
    fn repack(&mut self, packs: &[PackId], options: &PruneOptions) -> Result<Vec<PackId>> {
        let indexed = &self.survey.indexed;
        let reader = Reader::new(indexed)?;
        self.report.task("Repacking", Unit::Things, Some(packs.len() as u64));
        if !self.repo.rules.keep(Rule::RepackFirst) {
            self.repacked.extend(packs);
            return Ok(packs.to_vec());
        }
        let leave = |pack: &PackId, e: &Error| {
            self.report.problem(Problem::new(object_name(*pack), format!("{e}; the pack is not repacked")));
        };
        let sizes: HashMap<PackId, u64> = self.survey.packs.iter().map(|p| (p.id, p.size)).collect();
        let mut moving = Vec::with_capacity(packs.len());
        for pack in packs {
            match self.used_entries(pack, sizes[pack]) {
                Ok(entries) => moving.push((*pack, entries)),
                Err(e) if e.kind() == Kind::Damaged => leave(pack, &e),
                Err(e) => return Err(e),
            }
        }
        // Of two used copies the one of the lower version does for both.
        let mut lowest: HashMap<BlobId, u8> = HashMap::new();
        for (_, entries) in &moving {
            for (_, entry) in entries {
                lowest.entry(entry.id).and_modify(|v| *v = entry.version().min(*v)).or_insert(entry.version());
            }
        }
        let is_lowest = |entry: &BlobEntry| lowest.get(&entry.id).is_none_or(|lowest| *lowest >= entry.version());
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if self.repo.storage.in_order() { 1 } else { cores };
        let mut stored: HashSet<BlobId> = HashSet::with_capacity(lowest.len());
        write(self.session, options.write, self.report, self.cancel, |writer| {
            for (done, (pack, entries)) in moving.iter().enumerate() {
                let moving: Vec<_> = entries.iter().filter(|(_, entry)| is_lowest(entry)).collect();
                for group in moving.chunks(READ_AT_ONCE) {
                    self.cancel.check()?;
                    let read = each(threads, group, |(offset, entry)| self.read_blob(&reader, *pack, *offset, entry));
                    let mut flaw = None;
                    for ((_, entry), read) in group.iter().zip(read) {
                        match read {
                            Ok(Movable::AsItIs(encoded)) => writer.store_as_it_is(entry, &encoded)?,
                            Ok(Movable::Anew(raw)) => writer.store_again(entry.id, raw)?,
                            Err(e) if e.kind() == Kind::Damaged => {
                                flaw = Some(e);
                                continue;
                            }
                            Err(e) => return Err(e),
                        }
                        stored.insert(entry.id);
                    }
                    if let Some(flaw) = flaw {
                        leave(pack, &flaw);
                        break;
                    }
                }
                self.report.progress(done as u64 + 1);
            }
            Ok(())
        })?;
        moving.retain(|(_, entries)| entries.iter().all(|(_, entry)| stored.contains(&entry.id)));
        // Every used blob now has a copy outside the packs that are to go, as good as a base; or they stay.
        let going: HashSet<PackId> = moving.iter().map(|(pack, _)| *pack).collect();
        for (pack, entries) in &moving {
            for (_, entry) in entries {
                let will_do = |l: &Location| !going.contains(&l.pack) && l.version() <= entry.version();
                if self.repo.cache.lookup(&entry.id, &will_do)?.is_none() {
                    return Err(refused(
                        &object_name(*pack),
                        &format!("chunk {} was repacked and can't be found", entry.id),
                    ));
                }
            }
        }
        self.repacked.extend(&going);
        Ok(moving.into_iter().map(|(pack, _)| pack).collect())
    }

    /// What is used of a pack, from the pack itself, and as much as was marked: the local cache is not trusted with this.
    fn used_entries(&self, pack: &PackId, size: u64) -> Result<Vec<(u32, BlobEntry)>> {
        let used = self.survey.marks.used.get(pack).ok_or_else(|| refused(&object_name(*pack), "is not marked"))?;
        let read = self.repo.read_pack(*pack, size)?;
        let entries: Vec<(u32, BlobEntry)> = with_offsets(&read.indexed.entries)
            .filter(|(at, _)| used.contains(at))
            .map(|(at, e)| (at, e.clone()))
            .collect();
        if entries.len() == used.len() {
            Ok(entries)
        } else {
            Err(Error::damaged(object_name(*pack), "does not hold what the index says"))
        }
    }

    /// Reads a blob of `pack` that is to be stored again: as it is, so that a delta stays one; or, where this copy can't be
    /// read, from another and whole.
    fn read_blob(&self, reader: &Reader<'_>, pack: PackId, offset: u32, entry: &BlobEntry) -> Result<Movable> {
        let copies = self.survey.indexed.copies(&entry.id)?;
        // That it decodes is seen here, its base included.
        if let Some(copy) = copies.iter().find(|copy| (copy.pack, copy.offset) == (pack, offset))
            && let Ok((_, encoded)) = reader.copy_as_stored(&entry.id, copy)
        {
            return Ok(Movable::AsItIs(encoded));
        }
        match reader.blob(&entry.id) {
            // Its snapshots were forgotten and another prune took it away meanwhile.
            Err(e) if self.repo.storage.stat(&object_name(pack))?.is_none() => Err(other_at_work(&e)),
            read => read.map(Movable::Anew),
        }
    }
}

/// Blobs that are read at once.
const READ_AT_ONCE: usize = 16;

/// A blob on its way into another pack.
enum Movable {
    /// As it was encoded.
    AsItIs(Vec<u8>),
    /// Its plain bytes.
    Anew(Vec<u8>),
}
