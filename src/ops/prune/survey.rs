//! What prune sees before it decides: the repository as it is, with every doubt settled, or a refusal (rule I6).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::format::coordination::{Generation, generation_name};
use crate::format::manifest;
use crate::format::pack::{Base, object_name};
use crate::id::{BlobId, PackId, SlotId, SnapshotId};
use crate::repo::fence::live_sessions;
use crate::repo::index::{KnownPack, Location};
use crate::repo::rules::Rule;
use crate::repo::snapshots::Snapshot;
use crate::repo::{Indexed, Repository};
use crate::report::{Problem, Report};

use super::super::mark::{Marks, Spared, damaged, mark};
use super::super::reindex::publish_proven;
use super::verify::{Duplicates, Round, Verifier};
use super::{MaxUnused, Plan, PruneOptions};

/// Packs below this share of the pack size are small.
const SMALL_SHARE: u64 = 4;
/// So many small packs are worth repacking into large ones.
const SMALL_PACKS_MAX: usize = 16;

/// The repository as it is, with every doubt settled.
pub(super) struct Survey<'r> {
    pub(super) indexed: Indexed<'r>,
    pub(super) snapshots: BTreeSet<SnapshotId>,
    pub(super) marks: Marks,
    /// Packs that may go or be repacked: those of running sessions are left out.
    pub(super) packs: Vec<Surveyed>,
    /// Packs that are gone and that an index object still lists: two prunes rewrote the index at once, or one was
    /// interrupted. That no snapshot needs them the marks say.
    pub(super) ghosts: BTreeSet<PackId>,
    /// Packs that no index object lists.
    pub(super) unlisted: BTreeSet<PackId>,
    /// Copies that were counted on and do not hold their blob, as the verification found.
    pub(super) flawed: HashSet<(PackId, BlobId)>,
    /// Copies that were verified since another copy is to go.
    verified: u64,
}

pub(super) struct Surveyed {
    pub(super) id: PackId,
    pub(super) size: u64,
    /// Who wrote it.
    session: SnapshotId,
    /// A snapshot needs some of it. By the marks alone: byte counts come from the local cache, which another
    /// process may empty at any time.
    needed: bool,
    /// Bytes of its blobs, and of those that are needed.
    blob_bytes: u64,
    used_bytes: u64,
    condemned: bool,
    /// It holds a copy of a blob whose counted copy could not be verified: neither copy goes.
    stays: bool,
}

/// A pack that no index object lists: who wrote it, and its blobs where its trailer can be read.
struct Unlisted {
    session: SnapshotId,
    blobs: Vec<BlobId>,
    /// The storage did not give the trailer, for now.
    unread: bool,
}

impl<'r> Survey<'r> {
    /// Looks at everything; and again where only claims need a pack that no index object lists, which is listed then,
    /// or where somebody published a snapshot meanwhile whose session was not registered. A dry run lists nothing:
    /// there such a chunk is missing.
    pub(super) fn take(
        repo: &'r Repository,
        own: Option<SnapshotId>,
        generation: &mut Option<u64>,
        options: &PruneOptions,
        report: &dyn Report,
        cancel: &Cancel,
    ) -> Result<Self> {
        for may_list in [own.is_some(), own.is_some(), false] {
            if let Some(survey) = Self::look(repo, own, may_list, generation, options, report, cancel)? {
                return Ok(survey);
            }
        }
        Err(refused("packs/", "somebody goes on adding packs that no index object lists, or of no registered session"))
    }

    /// Looks at everything, in the order that makes what is new safe: a pack in the first listing belongs to a
    /// session that was registered before; if that session is no longer listed, its manifest is, and with the
    /// manifest its index. `None`: look again.
    fn look(
        repo: &'r Repository,
        own: Option<SnapshotId>,
        may_list: bool,
        generation: &mut Option<u64>,
        options: &PruneOptions,
        report: &dyn Report,
        cancel: &Cancel,
    ) -> Result<Option<Self>> {
        let listed = repo.list_packs()?;
        let live: HashSet<SnapshotId> = live_sessions(repo, own)?.into_iter().map(|s| s.id).collect();
        let AllSnapshots { snapshots, ids, names, unverified, mut doubt } = all_snapshots(repo, report)?;
        if snapshots.is_empty() && !listed.is_empty() && !options.allow_empty {
            return Err(Error::new(Kind::Failed, "the repository lists no snapshot at all; nothing was deleted")
                .hint("if that is right, say --allow-empty; if it is not, the storage does not show what it holds"));
        }
        let (number, state) = repo.probe_generation()?;
        *generation = Some(number);
        let indexed = repo.index_proven(number, readable(number, state)?, report)?;
        report_index(&indexed, report);
        // What is in the index and not in the listing was written since, or the listing is incomplete. The cache is read
        // before the second listing: other processes of this machine add to it all the time.
        let packs = repo.cache.packs()?;
        let listed_now = repo.list_packs()?;
        let Known { packs: known, ghosts, other_sizes } = known_packs(&indexed, packs, &listed, &listed_now)?;
        // A listing alone makes no pack missing: what the newer one lacks is asked for by name.
        let asked: RefCell<HashMap<PackId, bool>> = RefCell::default();
        let unanswered: RefCell<Option<Error>> = RefCell::default();
        let is_there = |pack: PackId| {
            repo.storage.stat(&object_name(pack)).map_or_else(
                |error| {
                    unanswered.borrow_mut().get_or_insert(error);
                    false
                },
                |found| found.is_some(),
            )
        };
        let missing = |pack: PackId| {
            if other_sizes.contains(&pack) {
                return Some("the pack has another size than the slot that lists it says".to_owned());
            }
            let is_there = listed_now.contains_key(&pack)
                || !ghosts.contains(&pack) && *asked.borrow_mut().entry(pack).or_insert_with(|| is_there(pack));
            (!is_there).then(|| "the pack is missing".to_owned())
        };
        let unlisted = read_unlisted(repo, listed.iter().filter(|(id, _)| !known.contains_key(id)), report)?;
        let is_at_work = |session: &SnapshotId| live.contains(session) || Some(*session) == own;
        let mut flawed: HashSet<(PackId, BlobId)> = HashSet::new();
        let verifier = Verifier::new(&indexed, report, cancel)?;
        // Each round counts on copies that the rounds before did not find flawed.
        let (marks, packs) = loop {
            let flaw = |id: &BlobId, l: &Location| match missing(l.pack) {
                Some(what) => Some(what),
                None => (indexed.is_distrusted(id, l.pack) || flawed.contains(&(l.pack, *id))).then(|| damaged(id)),
            };
            let mut marks = mark(&indexed, &snapshots, &flaw, report, cancel)?;
            if let Some(error) = unanswered.take().or(marks.unread.take()) {
                return Err(error);
            }
            if may_list && only_claims_need(repo, &snapshots, &marks.missing, &unlisted) {
                list_anew(repo, &unlisted, &listed, report, cancel)?;
                return Ok(None);
            }
            let blobs = || unlisted.values().filter(|_| own.is_some()).flat_map(|pack| &pack.blobs);
            if let Some(missing) = stopping(repo, &snapshots, &marks, &blobs)? {
                return Err(missed(repo, missing)?);
            }
            let mut packs = surveyed(&indexed, &marks, &listed, &known, &unlisted, &is_at_work)?;
            let going = going(&indexed, &packs, &flawed, options);
            let duplicates = duplicates(&indexed, &marks, &going, &known, &unlisted)?;
            let Round { flawed: found, unread } = verifier.round(&marks, &duplicates)?;
            if !found.is_subset(&flawed) {
                flawed.extend(found);
                continue;
            }
            let lacking = lacking(&snapshots, &marks);
            doubt = doubt.or_else(|| doubt_of_unverified(&unverified, &marks));
            // What is damaged may only have been read wrongly.
            let spared = Spared::of(&indexed, unread.iter().chain(&marks.lost))?;
            for pack in packs.iter_mut().filter(|pack| going.contains(&pack.id)) {
                pack.stays = spared.packs.contains(&pack.id);
                pack.stays |= unlisted
                    .get(&pack.id)
                    .is_some_and(|u| u.unread || u.blobs.iter().any(|id| spared.blobs.contains(id)));
                // What a snapshot lacks may be in a pack that can't say what it holds.
                pack.stays |= unlisted.contains_key(&pack.id) && !marks.missing.is_empty();
                // So may be what the lost part of its author's recipe names.
                pack.stays |= known.get(&pack.id).is_some_and(|known| lacking.contains(&known.claim.author));
                pack.stays |= doubt.is_some();
            }
            break (marks, packs);
        };
        let verified = verifier.verified();
        drop(verifier);
        // A snapshot that wrote a pack which nobody seems to need was forgotten, or is hidden.
        let writers = packs.iter().filter(|p| !p.needed).map(|p| p.session);
        if let Some(id) = hidden(repo, writers, &names)? {
            // Or was published since, by a slot that registers no session.
            return if repo.list_snapshots_proven()?.contains(&id) { Ok(None) } else { Err(is_hidden(id)) };
        }
        for problem in marks.missing.iter().chain(&doubt) {
            report.problem(problem.clone());
        }
        let unlisted = unlisted.into_keys().collect();
        Ok(Some(Self { indexed, snapshots: ids, marks, packs, ghosts, unlisted, flawed, verified }))
    }

    /// What to do: the plan in figures, the packs to delete, the packs to repack.
    pub(super) fn plan(&self, options: &PruneOptions) -> (Plan, Vec<PackId>, Vec<PackId>) {
        let mut plan = Plan { packs: self.packs.len() as u64, verified_blobs: self.verified, ..Plan::default() };
        let (mut unused, mut partly) = (Vec::new(), Vec::new());
        for pack in &self.packs {
            plan.bytes += pack.size;
            plan.used_bytes += pack.used_bytes;
            plan.unverified_packs += u64::from(pack.stays);
            if pack.stays {
                plan.kept_unused_bytes += pack.blob_bytes - pack.used_bytes;
            } else if pack.needed {
                partly.push(pack);
            } else {
                plan.unused_packs += 1;
                plan.unused_bytes += pack.size;
                unused.push(pack.id);
            }
        }
        let repack = choose_repack(&self.indexed, &self.flawed, &mut partly, plan.used_bytes, options.max_unused);
        let kept = partly.iter().filter(|p| !repack.contains(&p.id));
        plan.kept_unused_bytes += kept.map(|p| p.blob_bytes - p.used_bytes).sum::<u64>();
        plan.repack_packs = repack.len() as u64;
        plan.repack_bytes = partly.iter().filter(|p| repack.contains(&p.id)).map(|p| p.size).sum();
        (plan, unused, repack.into_iter().collect())
    }
}

/// The error when another process emptied the local cache: what it no longer says was not judged.
pub(super) fn cache_emptied() -> Error {
    Error::new(Kind::Busy, "the local cache was emptied meanwhile; nothing was deleted")
        .hint("let the other check or repair finish, then run prune again")
}

/// Reads headers and trailers of packs that no index object lists. A trailer that is damaged lists
/// nothing that anybody could find again.
fn read_unlisted<'p>(
    repo: &Repository,
    packs: impl Iterator<Item = (&'p PackId, &'p u64)>,
    report: &dyn Report,
) -> Result<HashMap<PackId, Unlisted>> {
    let mut unlisted = HashMap::new();
    for (&id, &size) in packs {
        let session = match repo.read_pack_header(id) {
            Ok((_, header)) => header.session,
            Err(e) if e.kind() == Kind::NotFound => continue,
            // Anybody who may create objects can put one here. It stays where it is.
            Err(e) if e.kind() == Kind::Damaged => {
                report.problem(Problem::new(object_name(id), format!("{e}; no index object lists it: left alone")));
                continue;
            }
            Err(e) => return Err(refused(&object_name(id), &e.to_string())),
        };
        let mut pack = Unlisted { session, blobs: Vec::new(), unread: false };
        match repo.read_pack(id, size) {
            Ok(read) => pack.blobs.extend(read.indexed.entries.iter().map(|e| e.id)),
            Err(e) if e.kind() == Kind::NotFound => continue,
            Err(e) if e.is_unverified() => {
                report.problem(Problem::new(object_name(id), format!("{e}; no index object lists it: left alone")));
                continue;
            }
            Err(e) if e.kind() == Kind::Damaged => {}
            Err(e) if matches!(e.kind(), Kind::Storage | Kind::Denied) => {
                pack.unread = true;
                let what = format!("its trailer could not be read ({e}): the pack stays for now");
                report.problem(Problem::new(object_name(id), what));
            }
            Err(e) => return Err(e),
        }
        unlisted.insert(id, pack);
    }
    Ok(unlisted)
}

/// True when claims alone need a chunk of a pack that no index object lists. What a full slot's snapshot lacks is no
/// reason to list anything: an index object was lost, and that is for repair.
fn only_claims_need(
    repo: &Repository,
    snapshots: &[Snapshot],
    missing: &[Problem],
    unlisted: &HashMap<PackId, Unlisted>,
) -> bool {
    let full: HashSet<String> =
        snapshots.iter().filter(|s| repo.keys.is_full(s.author)).map(|s| s.id.to_string()).collect();
    let chunks = missing.iter().filter_map(|problem| Some((problem.object.strip_prefix("chunk ")?, problem)));
    let needed: HashMap<BlobId, &Problem> =
        chunks.filter_map(|(id, problem)| Some((id.parse().ok()?, problem))).collect();
    let mut found = unlisted.values().flat_map(|pack| &pack.blobs).filter_map(|id| needed.get(id)).peekable();
    found.peek().is_some() && found.all(|problem| problem.snapshots.iter().all(|id| !full.contains(id)))
}

/// Lists packs that no index object lists, as they describe themselves: all at once, since one may lead to another. What
/// nobody needs of them goes as ever.
fn list_anew(
    repo: &Repository,
    unlisted: &HashMap<PackId, Unlisted>,
    listed: &BTreeMap<PackId, u64>,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<()> {
    let (mut packs, mut keys) = (Vec::new(), HashMap::new());
    // In the same order every time.
    let named: BTreeSet<PackId> =
        unlisted.iter().filter(|(_, pack)| !pack.blobs.is_empty()).map(|(id, _)| *id).collect();
    for id in named {
        cancel.check()?;
        match repo.read_pack(id, listed[&id]) {
            Ok(read) => {
                report.note(&format!("{}: no index object listed it, and snapshots need it", object_name(id)));
                keys.insert(read.key.id, read.key);
                packs.push(read.indexed);
            }
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged) => {}
            Err(e) => return Err(e),
        }
    }
    publish_proven(repo, packs, &keys)
}

/// Every listed pack whose session is not at work, by what `marks` need of it.
fn surveyed(
    indexed: &Indexed<'_>,
    marks: &Marks,
    listed: &BTreeMap<PackId, u64>,
    known: &HashMap<PackId, KnownPack>,
    unlisted: &HashMap<PackId, Unlisted>,
    is_at_work: &dyn Fn(&SnapshotId) -> bool,
) -> Result<Vec<Surveyed>> {
    let mut packs = Vec::new();
    for (&id, &size) in listed {
        let session = match (known.get(&id), unlisted.get(&id)) {
            (Some(known), _) => known.session,
            (None, Some(unlisted)) => unlisted.session,
            (None, None) => continue,
        };
        if is_at_work(&session) {
            continue;
        }
        let entries = if known.contains_key(&id) { indexed.repo.cache.entries(&id)? } else { Vec::new() };
        let used = marks.used.get(&id);
        let needed: Vec<_> = entries.iter().filter(|(at, _)| used.is_some_and(|u| u.contains(at))).collect();
        let blobs = known.get(&id).map_or(0, |known| known.blobs);
        if needed.len() != used.map_or(0, HashSet::len) || entries.len() as u64 != blobs {
            return Err(cache_emptied());
        }
        packs.push(Surveyed {
            id,
            size,
            session,
            needed: used.is_some(),
            blob_bytes: entries.iter().map(|(_, e)| u64::from(e.stored_len)).sum(),
            used_bytes: needed.iter().map(|(_, e)| u64::from(e.stored_len)).sum(),
            condemned: indexed.is_condemned(id),
            stays: false,
        });
    }
    Ok(packs)
}

/// The packs that go if every counted copy is whole: the unused ones, and those to repack.
fn going(
    indexed: &Indexed<'_>,
    packs: &[Surveyed],
    flawed: &HashSet<(PackId, BlobId)>,
    options: &PruneOptions,
) -> BTreeSet<PackId> {
    let (mut partly, unused): (Vec<&Surveyed>, Vec<&Surveyed>) = packs.iter().partition(|pack| pack.needed);
    let used_bytes = packs.iter().map(|pack| pack.used_bytes).sum();
    let mut going = choose_repack(indexed, flawed, &mut partly, used_bytes, options.max_unused);
    going.extend(unused.iter().map(|pack| pack.id));
    going
}

/// The blobs of a pack with their offsets; of one that no index object lists, all at 0.
fn blobs_of(
    pack: PackId,
    known: &HashMap<PackId, KnownPack>,
    unlisted: &HashMap<PackId, Unlisted>,
    repo: &Repository,
) -> Result<Vec<(u32, BlobId)>> {
    let Some(known) = known.get(&pack) else {
        let blobs = unlisted.get(&pack).map_or(&[][..], |pack| &pack.blobs);
        return Ok(blobs.iter().map(|id| (0, *id)).collect());
    };
    let entries = repo.cache.entries(&pack)?;
    if entries.len() as u64 != known.blobs {
        return Err(cache_emptied());
    }
    Ok(entries.into_iter().map(|(offset, entry)| (offset, entry.id)).collect())
}

/// The blobs of which a copy that is not counted on becomes unreadable: a pack of `going` holds it, or a copy of what it
/// is a difference to.
fn duplicates(
    indexed: &Indexed<'_>,
    marks: &Marks,
    going: &BTreeSet<PackId>,
    known: &HashMap<PackId, KnownPack>,
    unlisted: &HashMap<PackId, Unlisted>,
) -> Result<Duplicates> {
    let mut duplicates = Duplicates::default();
    if going.is_empty() {
        return Ok(duplicates);
    }
    let repo = indexed.repo;
    for pack in going {
        let used = marks.used.get(pack);
        for (offset, id) in blobs_of(*pack, known, unlisted, repo)? {
            if !used.is_some_and(|used| used.contains(&offset)) {
                duplicates.add(&id);
            }
        }
    }
    // A repair would list these again.
    let unlisted = going.iter().filter(|pack| !known.contains_key(*pack)).filter_map(|pack| unlisted.get(pack));
    let unlisted = unlisted.flat_map(|pack| pack.blobs.iter().copied()).collect();
    let mut bases = GoingBases { indexed, marks, going, unlisted, judged: HashMap::new() };
    for pack in known.keys().filter(|pack| !going.contains(*pack)) {
        let used = marks.used.get(pack);
        for (offset, entry) in repo.cache.entries(pack)? {
            let Some(base) = entry.base.filter(|_| !used.is_some_and(|used| used.contains(&offset))) else { continue };
            if bases.lose_one(&base)? {
                duplicates.add(&entry.id);
            }
        }
    }
    Ok(duplicates)
}

/// Which bases lose a copy.
struct GoingBases<'g> {
    indexed: &'g Indexed<'g>,
    marks: &'g Marks,
    going: &'g BTreeSet<PackId>,
    /// The blobs of those of them that no index object lists.
    unlisted: HashSet<BlobId>,
    judged: HashMap<(BlobId, u8), bool>,
}

impl GoingBases<'_> {
    /// True if a copy that a delta may be decoded with goes, or becomes unreadable as its own base goes. Versions fall
    /// along a chain, so this ends.
    fn lose_one(&mut self, base: &Base) -> Result<bool> {
        let key = (base.id, base.version);
        if let Some(known) = self.judged.get(&key) {
            return Ok(*known);
        }
        if self.unlisted.contains(&base.id) {
            return Ok(true);
        }
        let mut loses = false;
        for copy in self.indexed.copies(&base.id)?.iter().filter(|copy| copy.version() < base.version) {
            let is_used = || self.marks.used.get(&copy.pack).is_some_and(|used| used.contains(&copy.offset));
            loses = self.going.contains(&copy.pack) && !is_used();
            if let Some(base) = copy.base.filter(|_| !loses) {
                loses = self.lose_one(&base)?;
            }
            if loses {
                break;
            }
        }
        self.judged.insert(key, loses);
        Ok(loses)
    }
}

/// The wasteful first, until what is left is within bounds; and small packs, once there are many.
fn choose_repack(
    indexed: &Indexed<'_>,
    flawed: &HashSet<(PackId, BlobId)>,
    partly: &mut [&Surveyed],
    used_bytes: u64,
    max_unused: MaxUnused,
) -> BTreeSet<PackId> {
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
    let small: Vec<_> = partly.iter().filter(|p| p.size < indexed.repo.parameters.pack_bytes / SMALL_SHARE).collect();
    if max_unused != MaxUnused::Unlimited && small.len() >= SMALL_PACKS_MAX {
        repack.extend(small.iter().map(|p| p.id));
    }
    // A pack that was condemned and is needed again is not worth special care: it is copied like the others.
    // So is the rest of a pack of which a check has set something aside.
    let distrusted = indexed.state.distrusted.iter().map(|d| d.pack);
    let set_aside: HashSet<PackId> = distrusted.chain(flawed.iter().map(|(pack, _)| *pack)).collect();
    repack.extend(partly.iter().filter(|p| p.condemned || set_aside.contains(&p.id)).map(|p| p.id));
    repack
}

/// The generation, or a refusal: without it, a copy that another prune is about to delete might be counted on.
pub(super) fn readable(number: u64, state: Result<Generation>) -> Result<Generation> {
    state.map_err(|e| match e.kind() {
        Kind::Damaged => refused(&generation_name(number), &e.to_string()),
        _ => e,
    })
}

pub(super) fn refused(object: &str, what: &str) -> Error {
    // An error's own text names the object already.
    let what = what.strip_prefix(&format!("{object}: ")).unwrap_or(what);
    Error::new(Kind::Damaged, format!("refused to go on; nothing that is needed was deleted: {object}: {what}"))
        .hint("`alluvium check` tells the extent; `alluvium repair index` repairs the index; a snapshot that is lost can be forgotten by its id")
}

/// The refusal when something is missing that snapshots need. If they were all forgotten since they were listed, then
/// another prune was rightly at work.
pub(super) fn missed(repo: &Repository, missing: &Problem) -> Result<Error> {
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

/// Reports index objects that can't be read, or lie. What they list is listed elsewhere, or unlisted.
pub(super) fn report_index(indexed: &Indexed<'_>, report: &dyn Report) {
    for problem in &indexed.problems {
        report.problem(problem.clone());
    }
}

/// What of the missing stops a prune: what a full slot's snapshot needs, what is in a pack that no index object lists,
/// and a recipe whose pack was there and is missing: what it names is not known. That a write-only slot's
/// snapshot names chunks which are nowhere, or that are garbage in its own packs, is its claim alone.
///
/// # Errors
/// `Storage`.
pub(super) fn stopping<'m, 'b, B: Iterator<Item = &'b BlobId>>(
    repo: &Repository,
    snapshots: &[Snapshot],
    marks: &'m Marks,
    unlisted: &dyn Fn() -> B,
) -> Result<Option<&'m Problem>> {
    let is_claim = claims(repo, snapshots);
    let authors: HashMap<PackId, SlotId> = repo.cache.packs()?.into_iter().map(|p| (p.id, p.claim.author)).collect();
    let unlisted: HashSet<&BlobId> = unlisted().collect();
    for problem in &marks.missing {
        if problem.snapshots.is_empty() || !problem.snapshots.iter().all(&is_claim) {
            return Ok(Some(problem));
        }
        if let Some(chunk) = problem.object.strip_prefix("chunk ") {
            if chunk.parse::<BlobId>().is_ok_and(|id| unlisted.contains(&id)) {
                return Ok(Some(problem));
            }
            continue;
        }
        if !marks.unmarked_below.contains(&(problem.object.clone(), problem.what.clone())) {
            continue;
        }
        // A pack of its own that is there and is garbage, a thief can make; none that was there and is missing.
        let author = pack_of(&problem.object).and_then(|pack| authors.get(&pack));
        if author.is_some_and(|author| repo.keys.is_full(*author)) || repo.storage.stat(&problem.object)?.is_none() {
            return Ok(Some(problem));
        }
    }
    Ok(None)
}

/// Returns what says of an id whether its snapshot is only the claim of a write-only slot, or of one that can't be verified.
fn claims(repo: &Repository, snapshots: &[Snapshot]) -> impl Fn(&String) -> bool {
    let claims: HashSet<String> =
        snapshots.iter().filter(|s| !repo.keys.is_full(s.author)).map(|s| s.id.to_string()).collect();
    move |id: &String| claims.contains(id)
}

fn pack_of(object: &str) -> Option<PackId> {
    object.strip_prefix("packs/")?.rsplit('/').next()?.parse().ok()
}

/// The ids of snapshots that lack something.
fn harmed(marks: &Marks) -> HashSet<&String> {
    marks.missing.iter().flat_map(|problem| &problem.snapshots).collect()
}

/// The authors of snapshots that lack something.
pub(super) fn lacking(snapshots: &[Snapshot], marks: &Marks) -> HashSet<SlotId> {
    let harmed = harmed(marks);
    snapshots.iter().filter(|s| harmed.contains(&s.id.to_string())).map(|s| s.author).collect()
}

/// What can't be verified lacks something: its recipes may be in packs that can't be verified either, and name any
/// chunk.
pub(super) fn doubt_of_unverified(unverified: &BTreeSet<SnapshotId>, marks: &Marks) -> Option<Problem> {
    let harmed = harmed(marks);
    unverified.iter().find(|id| harmed.contains(&id.to_string())).map(|id| nothing_goes(*id))
}

fn nothing_goes(id: SnapshotId) -> Problem {
    let what = "what it needs is not known, as a certificate or key epoch is missing or damaged: no pack is deleted. \
                Bring that back from a copy of the repository, or forget this snapshot by its id";
    Problem::new(manifest::object_name(id), what).harming([id])
}

/// The published snapshots.
pub(super) struct AllSnapshots {
    /// Those that can be read, and those whose authors can't be verified.
    pub(super) snapshots: Vec<Snapshot>,
    /// Their ids.
    pub(super) ids: BTreeSet<SnapshotId>,
    /// All names under `snapshots/`.
    pub(super) names: BTreeSet<SnapshotId>,
    /// Those whose authors can't be verified.
    pub(super) unverified: BTreeSet<SnapshotId>,
    /// Why it is not known what one of them needs.
    pub(super) doubt: Option<Problem>,
}

/// Every snapshot; or a refusal: of a manifest that was one and is unreadable, and of a listing that lacks
/// manifests which exist.
pub(super) fn all_snapshots(repo: &Repository, report: &dyn Report) -> Result<AllSnapshots> {
    let remembered = repo.cache.manifests()?;
    let listed = repo.list_snapshots_proven()?;
    refuse_hidden(repo, remembered.iter().copied(), &listed)?;
    let (mut snapshots, unreadable) = repo.snapshots_among(&listed)?;
    let (mut unverified, mut doubt) = (BTreeSet::new(), None);
    for (id, error) in &unreadable {
        let name = manifest::object_name(*id);
        if error.is_unverified() {
            report.problem(Problem::new(name, error).harming([*id]));
            unverified.insert(*id);
            // What it needs stays, whoever wrote it.
            match repo.unverified_snapshot(*id) {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) if e.kind() == Kind::Damaged => doubt = Some(nothing_goes(*id)),
                Err(e) => return Err(e),
            }
            continue;
        }
        if repo.is_of_unreadable_epoch(*id)? {
            report.problem(Problem::new(name, error).harming([*id]));
            doubt = Some(nothing_goes(*id));
            continue;
        }
        let is_remembered = remembered.contains(id) && !repo.is_nonsense_as_signed(*id)?;
        if is_remembered || repo.is_vouched(*id, error, &snapshots)? {
            return Err(refused(&name, &error.to_string()));
        }
        report.problem(Problem::new(name, error).harming([*id]));
    }
    let ids: BTreeSet<SnapshotId> = snapshots.iter().map(|s| s.id).collect();
    // A predecessor that is not listed was forgotten, or is hidden.
    refuse_hidden(repo, snapshots.iter().filter_map(|s| s.manifest.previous), &listed)?;
    // Two listings, at two times, of something that only this or another forget may shorten.
    refuse_hidden(repo, listed.iter().copied(), &repo.list_snapshots()?)?;
    Ok(AllSnapshots { snapshots, ids, names: listed, unverified, doubt })
}

/// Refuses when one of `known` is not listed and exists all the same.
fn refuse_hidden(
    repo: &Repository,
    known: impl IntoIterator<Item = SnapshotId>,
    listed: &BTreeSet<SnapshotId>,
) -> Result<()> {
    hidden(repo, known, listed)?.map_or(Ok(()), |id| Err(is_hidden(id)))
}

fn is_hidden(id: SnapshotId) -> Error {
    let what = "exists, but the storage does not list it: its listing is incomplete";
    refused(&manifest::object_name(id), what)
}

/// One of `known` that is not listed and exists all the same. Objects are asked for by name: what a storage says of a
/// name is never behind.
fn hidden(
    repo: &Repository,
    known: impl IntoIterator<Item = SnapshotId>,
    listed: &BTreeSet<SnapshotId>,
) -> Result<Option<SnapshotId>> {
    if !repo.rules.keep(Rule::DoubtListing) {
        return Ok(None);
    }
    let unlisted: BTreeSet<SnapshotId> = known.into_iter().filter(|id| !listed.contains(id)).collect();
    for id in unlisted {
        if repo.storage.stat(&manifest::object_name(id))?.is_some_and(|size| size != manifest::FENCE_LEN) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// What of the indexed packs the storage shows.
#[derive(Default)]
struct Known {
    /// Those that are as the index says.
    packs: HashMap<PackId, KnownPack>,
    /// Those that are missing.
    ghosts: BTreeSet<PackId>,
    /// Those of which a write-only or distrusted slot says another size: nothing that the index says of them counts.
    other_sizes: HashSet<PackId>,
}

/// Compares the indexed packs with the storage; or a refusal when that hides one or one has another size.
fn known_packs(
    indexed: &Indexed<'_>,
    packs: Vec<KnownPack>,
    listed: &BTreeMap<PackId, u64>,
    listed_now: &BTreeMap<PackId, u64>,
) -> Result<Known> {
    let mut known = Known::default();
    let doubted: HashSet<PackId> = indexed.repo.listed_by_distrusted(&indexed.state)?.into_iter().collect();
    let is_claim = |pack: &KnownPack| !indexed.repo.keys.is_full(pack.claim.author) || doubted.contains(&pack.id);
    for pack in packs {
        match listed.get(&pack.id) {
            Some(&size) if size == pack.size => {}
            // A claim of a write-only or distrusted slot: prune has read the pack, or will.
            Some(_) if is_claim(&pack) => {
                known.other_sizes.insert(pack.id);
                continue;
            }
            None if listed_now.get(&pack.id) == Some(&pack.size) => {}
            Some(size) => {
                let what = format!("has {size} bytes, the index says {}", pack.size);
                return Err(refused(&object_name(pack.id), &what));
            }
            None => {
                let name = object_name(pack.id);
                let Some(size) = indexed.repo.storage.stat(&name)? else {
                    known.ghosts.insert(pack.id);
                    continue;
                };
                // Its writer may list it before it is there, or with a size of his own. What is not listed does not go.
                if is_claim(&pack) {
                    if size == pack.size {
                        known.packs.insert(pack.id, pack);
                    } else {
                        known.other_sizes.insert(pack.id);
                    }
                    continue;
                }
                // A condemned one may be on its way out, and a snapshot may yet need it.
                if !indexed.is_condemned(pack.id) {
                    let what = "exists, but the storage does not list it: its listing is incomplete";
                    return Err(refused(&name, what));
                }
            }
        }
        known.packs.insert(pack.id, pack);
    }
    Ok(known)
}
