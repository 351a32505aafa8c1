//! `check`: is everything that the snapshots need there, and is it what it should be?
//!
//! Structure always: keys, generations, sessions, every index object, every pack's header and trailer against the
//! index, every manifest, every recipe down to its chunks. With `read_data` every blob is opened and hashed
//! too. Nothing is believed because the local cache has it: index objects and manifests are read again, and what the
//! cache says of a pack is compared with the pack. All problems are collected, each with the snapshots that
//! it harms; a disk that can't read something is one of them.
//!
//! What is found damaged is *set aside*: a new generation lists it, so that writers stop relying on it and the
//! next snapshot of the same data stores it again. That heals old snapshots too.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::env::{Cancel, lock};
use crate::error::{Error, Kind, Result};
use crate::format::coordination::{
    Beat, Distrusted, GENERATION_PREFIX, Generation, SESSION_PREFIX, Session, generation_name, generation_of, is_beat,
    session_of,
};
use crate::format::limits::{GENERATION_BYTES_MAX, SESSION_BYTES_MAX};
use crate::format::pack::{WrappedKey, object_name, with_offsets};
use crate::format::{ObjectKind, config, epoch, keyslot, manifest};
use crate::id::{BlobId, IndexId, PackId, RepoId, SlotId, SnapshotId};
use crate::repo::blob::{BlobDecoder, Opening};
use crate::repo::fence::live_sessions;
use crate::repo::generations::Found;
use crate::repo::index::{KnownPack, Location};
use crate::repo::keys::list_slots;
use crate::repo::packs::ReadPack;
use crate::repo::reader::Reader;
use crate::repo::snapshots::changes_of_author;
use crate::repo::{Indexed, Repository, pack_id};
use crate::report::{Counter, Problem, Report, Unit};
use crate::storage::probe::PROBE_SUFFIX;

use super::mark::{Marks, damaged, mark};

/// Which of the packs, or of anything that has a random name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subset {
    /// This part, counted from 1.
    pub part: u32,
    /// Of so many.
    pub of: u32,
}

impl Subset {
    /// All packs.
    pub const ALL: Self = Self { part: 1, of: 1 };

    /// Objects are dealt by their random names: the parts are disjoint, complete, and the same each time.
    pub fn admits(self, name: &[u8; 16]) -> bool {
        let number = u32::from_le_bytes([name[0], name[1], name[2], name[3]]);
        number % self.of == self.part - 1
    }
}

impl std::str::FromStr for Subset {
    type Err = Error;

    /// `K/N` with 1 <= K <= N.
    fn from_str(text: &str) -> Result<Self> {
        let parsed =
            text.split_once('/').and_then(|(part, of)| Some(Self { part: part.parse().ok()?, of: of.parse().ok()? }));
        parsed
            .filter(|s| s.part >= 1 && s.part <= s.of)
            .ok_or_else(|| Error::new(Kind::Usage, format!("`{}` is not a part such as 1/7", text.escape_debug())))
    }
}

/// What a check looks at, besides what it always does.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Read the data of these packs.
    pub read: Option<Subset>,
    /// Look at these packs only; of the others it is seen that they are listed with their size. Results of all parts
    /// are one check ([`super::merge`]).
    pub shard: Option<Subset>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// The repository.
    pub repository: RepoId,
    /// Where it is: twins have one id.
    pub location: String,
    /// When the check began.
    pub started: Timestamp,
    /// The part of the packs that was looked at; none: all.
    pub shard: Option<Subset>,
    /// The part of those whose data was read.
    pub data: Option<Subset>,
    /// The generation that was read first.
    pub generation: u64,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Packs that there are.
    pub packs_total: u64,
    /// Packs whose header and trailer were read.
    pub packs: u64,
    /// Blobs that were opened and hashed.
    pub blobs_read: u64,
    /// Packs that no index lists and no running session explains: garbage for prune.
    pub garbage_packs: u64,
    /// Damaged copies that nobody needs any more: prune removes them.
    pub set_aside: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Checks the repository; with `read` also the data of those packs.
///
/// # Errors
/// Only what keeps the check from going on: `WrongKey`, `Storage`, `Interrupted`. Damage is in
/// [`Checked::problems`].
pub fn check(repo: &Repository, read: Option<Subset>, report: &dyn Report, cancel: &Cancel) -> Result<Checked> {
    check_with(repo, CheckOptions { read, shard: None }, report, cancel)
}

/// As [`check`], or a part of it.
///
/// # Errors
/// As [`check`].
pub fn check_with(repo: &Repository, options: CheckOptions, report: &dyn Report, cancel: &Cancel) -> Result<Checked> {
    repo.keys.require_full("a check")?;
    let mut found = Checked {
        repository: repo.id,
        location: repo.storage.location(),
        started: repo.env.now(),
        shard: options.shard,
        data: options.read,
        generation: 0,
        snapshots: 0,
        packs_total: 0,
        packs: 0,
        blobs_read: 0,
        garbage_packs: 0,
        set_aside: 0,
        problems: Vec::new(),
    };
    check_small_objects(repo, &mut found.problems)?;
    let Found { number, state, void, .. } = repo.find_generation()?;
    add_new(&mut found.problems, void.iter().map(|(number, error)| Problem::new(generation_name(*number), error)));
    found.problems.extend(repo.seen.other_repository());
    found.problems.extend(repo.older_than_seen(report)?);
    found.generation = number;
    let readable = state.is_ok();
    let state = state.unwrap_or_default();
    // In this order a writer at work disturbs nothing: what snapshots need is in an index that is read later, and
    // what the index lists is in a listing that is made later still.
    let (snapshots, unreadable) = repo.snapshots_afresh()?;
    let indexed = repo.index_at(number, state, report)?;
    let listed = repo.list_packs()?;
    add_new(&mut found.problems, indexed.problems.iter().cloned());
    found.snapshots = (snapshots.len() + unreadable.len()) as u64;
    for change in changes_of_author(&snapshots) {
        report.warn(&change.describe(&repo.keys));
    }
    for contradiction in snapshots.iter().filter_map(|snapshot| snapshot.time_contradicts) {
        report.warn(&contradiction.to_string());
    }
    for (id, error) in unreadable {
        found.problems.push(Problem::new(manifest::object_name(id), &error).harming([id]));
    }

    let looked = check_packs(&indexed, &listed, &mut found, report, cancel)?;
    let Looked { packs, elsewhere, garbage, .. } = &looked;
    let data = match options.read {
        Some(subset) => read_data(&indexed, packs, subset, report, cancel)?,
        None => Damage::default(),
    };
    found.blobs_read = data.blobs_read;
    let flaw = |id: &BlobId, location: &Location| {
        if elsewhere.contains(&location.pack) {
            // Another shard says how it is; set aside or not is known to all.
            let distrusted = indexed.is_distrusted(id, location.pack) && !indexed.is_distrusted_whole(location.pack);
            return distrusted.then(|| damaged(id));
        }
        if !packs.contains_key(&location.pack) {
            return Some("the pack is missing or damaged as a whole".to_owned());
        }
        if data.blobs.get(&location.pack).is_some_and(|blobs| blobs.contains(id)) {
            return Some(damaged(id));
        }
        // Set aside earlier, and not found to be well now.
        let well = data.whole.contains(&location.pack) || indexed.is_distrusted_whole(location.pack);
        (indexed.is_distrusted(id, location.pack) && !well).then(|| damaged(id))
    };
    let Marks { missing, contradictory, .. } = mark(&indexed, &snapshots, &flaw, report, cancel)?;
    found.problems.extend(contradictory);
    for (pack, blobs) in &data.blobs {
        for blob in blobs {
            let (object, what) = (object_name(*pack), damaged(blob));
            if missing.iter().any(|lost| lost.object == object && lost.what == what) {
                continue;
            }
            // Known, and needed by nobody: waiting for prune.
            if indexed.is_distrusted(blob, *pack) {
                found.set_aside += 1;
            } else {
                found.problems.push(Problem::new(object, format!("{what}; no snapshot needs this copy")));
            }
        }
    }
    for lost in blame_lost_index(&indexed, packs, missing)? {
        // What the packs have told already only lacks its victims.
        match found
            .problems
            .iter_mut()
            .find(|p| p.object == lost.object && p.snapshots.is_empty() && !lost.what.starts_with("chunk"))
        {
            Some(told) => told.snapshots = lost.snapshots,
            None => found.problems.push(lost),
        }
    }
    // What snapshots need is no garbage, even where an index object is missing.
    let needed = |id: &PackId| found.problems.iter().any(|p| p.object == object_name(*id));
    found.garbage_packs = garbage.iter().filter(|id| !needed(id)).count() as u64;
    found.problems.extend(data.problems.clone());
    forget_the_forgotten(repo, &mut found.problems)?;
    // An unreadable generation is not followed by one that forgets what it condemned: that is for repair.
    if readable {
        set_aside(&indexed, &looked, &data, options.shard, report)?;
    }
    Ok(found)
}

/// Adds what concerns other objects than the problems so far.
fn add_new(problems: &mut Vec<Problem>, more: impl Iterator<Item = Problem>) {
    let known: HashSet<String> = problems.iter().map(|problem| problem.object.clone()).collect();
    problems.extend(more.filter(|problem| !known.contains(&problem.object)));
}

/// The wrapped data keys of an index object must open. They are hints: the header of a pack has its key, too.
fn verify_data_keys(repo: &Repository, name: &str, keys: &[WrappedKey]) -> Result<()> {
    match keys.iter().find(|key| repo.keys.verify_data_key(key).is_err()) {
        None => Ok(()),
        Some(key) => Err(Error::damaged(name, format!("its data key {} does not open", key.id))),
    }
}

/// What looking at packs gave.
#[derive(Default)]
struct Looked {
    /// The sound ones.
    packs: HashMap<PackId, ReadPack>,
    /// All that the index listed then, whoever looks at them: what comes later was not looked at.
    indexed: HashSet<PackId>,
    /// Those that another shard looks at, and those whose author can't be verified; they are listed, with the
    /// size that the index says.
    elsewhere: HashSet<PackId>,
    /// Those that no index lists and no running session explains.
    garbage: Vec<PackId>,
}

/// Keys, config, generations, sessions, and whatever lies about.
fn check_small_objects(repo: &Repository, problems: &mut Vec<Problem>) -> Result<()> {
    repo.keys.refresh_ring(repo.storage.as_ref())?;
    problems.extend(repo.keys.ring().problems);
    let mut wrong = |object: String, what: String| problems.push(Problem::new(object, what));
    for (id, slot) in list_slots(repo.storage.as_ref())? {
        if let Err(e) = slot.and_then(|(slot, bytes)| repo.keys.verify_slot(id, &slot, &bytes)) {
            wrong(keyslot::object_name(id), e.to_string());
        }
    }
    for object in repo.storage.list("")? {
        let name = object.name.as_str();
        let bytes = |bytes_max| repo.storage.get(name, bytes_max);
        let claimed = || bytes(SESSION_BYTES_MAX).and_then(|bytes| repo.open_object(ObjectKind::Session, name, &bytes));
        // One copy may be damaged while the other counts: a damaged one is reported in either case.
        let generation = || {
            let bytes = bytes(GENERATION_BYTES_MAX)?;
            repo.flaw_of_generation(name, &bytes).map_or(Ok(()), Err)
        };
        let decoded = match name.split_once('/') {
            None if name == config::OBJECT_NAME || name == super::prune::RESERVE => Ok(()),
            Some(("keys", id)) if id.len() == 32 => Ok(()),
            // The key ring has judged them.
            Some(("slots", id)) if id.parse::<SlotId>().is_ok() => Ok(()),
            Some(("epochs", _)) if epoch::number_of(name).is_some() => Ok(()),
            Some(("snapshots", id)) if id.parse::<SnapshotId>().is_ok() => Ok(()),
            // From the storage, whatever the local cache knows of it.
            Some(("index", id)) if id.parse::<IndexId>().is_ok() => id
                .parse()
                .and_then(|id| repo.read_index_object(id))
                .and_then(|object| verify_data_keys(repo, name, &object.keys)),
            Some(("packs", _)) if pack_id(name).is_some() => Ok(()),
            // What `init` tried the storage with, and might not delete.
            Some(("sessions", probe)) if probe.strip_suffix(PROBE_SUFFIX).is_some() => Ok(()),
            _ if session_of(name).is_some() && name.starts_with(SESSION_PREFIX) => claimed().and_then(|(_, plain)| {
                let ok =
                    if is_beat(name) { Beat::decode(&plain).map(|_| ()) } else { Session::decode(&plain).map(|_| ()) };
                ok.map_err(|e| e.in_object(name))
            }),
            _ if generation_of(name).is_some() && name.starts_with(GENERATION_PREFIX) => generation(),
            _ => Err(Error::new(Kind::Damaged, format!("{name}: not an object of this repository"))),
        };
        match decoded {
            Ok(()) => {}
            // Ended, or deleted, since it was listed.
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Storage) => wrong(name.to_owned(), e.to_string()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Reads every pack's header and trailer and compares them with the index.
fn check_packs(
    indexed: &Indexed<'_>,
    listed: &BTreeMap<PackId, u64>,
    found: &mut Checked,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<Looked> {
    let repo = indexed.repo;
    let mut looked_at = Looked::default();
    let known: HashMap<PackId, KnownPack> = repo.cache.packs()?.into_iter().map(|p| (p.id, p)).collect();
    let mut ids: Vec<PackId> =
        listed.keys().chain(known.keys()).copied().collect::<BTreeSet<_>>().into_iter().collect();
    // A condemned pack may be gone already: prune was interrupted, or is at work.
    ids.retain(|id| listed.contains_key(id) || !indexed.is_condemned(*id));
    looked_at.indexed = ids.iter().copied().filter(|id| known.contains_key(id)).collect();
    let live: HashSet<SnapshotId> = live_sessions(repo, None)?.into_iter().map(|s| s.id).collect();
    found.packs_total = ids.len() as u64;
    if let Some(shard) = found.shard {
        // What is gone, or of another size, every shard says.
        let as_told = |id: &PackId| match (listed.get(id), known.get(id)) {
            (Some(size), Some(known)) => *size == known.size,
            (Some(_), None) => true,
            (None, _) => false,
        };
        looked_at.elsewhere = ids.iter().copied().filter(|id| !shard.admits(id.as_bytes()) && as_told(id)).collect();
        found.packs = ids.iter().filter(|id| shard.admits(id.as_bytes())).count() as u64;
        ids.retain(|id| !looked_at.elsewhere.contains(id));
    } else {
        found.packs = found.packs_total;
    }
    report.task("Checking packs", Unit::Things, Some(ids.len() as u64));
    let done = Mutex::new(0);
    let looked: Vec<(PackId, Result<Option<ReadPack>>)> = ids
        .par_iter()
        .map(|&id| {
            cancel.check()?;
            let read = look_at(indexed, id, listed.get(&id).copied(), known.get(&id));
            let mut done = lock(&done);
            *done += 1;
            report.progress(*done);
            Ok((id, read))
        })
        .collect::<Result<_>>()?;
    // A prune at work may have condemned what is missing since: asked once for all, after the last look.
    let newest = if looked.iter().any(|(_, read)| matches!(read, Ok(None))) {
        repo.probe_generation()?.1.unwrap_or_default()
    } else {
        Generation::default()
    };
    let condemned: HashSet<PackId> = newest.condemned.iter().map(|c| c.pack).collect();
    for (id, read) in looked {
        match read {
            Ok(None) if condemned.contains(&id) => {}
            Ok(None) => found.problems.push(Problem::new(object_name(id), "the pack is missing")),
            Ok(Some(read)) => {
                if !known.contains_key(&id) && !live.contains(&read.indexed.session) {
                    looked_at.garbage.push(id);
                }
                looked_at.packs.insert(id, read);
            }
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound | Kind::Storage) => {
                // Nothing says that it is damaged.
                if e.is_unverified() {
                    looked_at.elsewhere.insert(id);
                }
                if e.kind() != Kind::NotFound {
                    found.problems.push(Problem::new(object_name(id), &e));
                }
            }
            Err(e) => return Err(e),
        }
    }
    report.count(Counter::CheckedPacks, ids.len() as u64);
    Ok(looked_at)
}

/// A snapshot that was forgotten while the check ran is harmed by nothing.
fn forget_the_forgotten(repo: &Repository, problems: &mut Vec<Problem>) -> Result<()> {
    if problems.iter().all(|p| p.snapshots.is_empty()) {
        return Ok(());
    }
    let left: HashSet<String> = repo.list_snapshots()?.iter().map(ToString::to_string).collect();
    problems.retain_mut(|problem| {
        let harmed = !problem.snapshots.is_empty();
        problem.snapshots.retain(|s| left.contains(s));
        !harmed || !problem.snapshots.is_empty()
    });
    Ok(())
}

/// Chunks that no index object lists may be in packs that no index object lists: then it is an index object that is
/// missing, and one sentence a pack says so.
fn blame_lost_index(
    indexed: &Indexed<'_>,
    packs: &HashMap<PackId, ReadPack>,
    missing: Vec<Problem>,
) -> Result<Vec<Problem>> {
    let known: HashSet<PackId> = indexed.repo.cache.packs()?.into_iter().map(|p| p.id).collect();
    let unlisted = packs.values().filter(|p| !known.contains(&p.indexed.id));
    let holder: HashMap<String, PackId> =
        unlisted.flat_map(|p| p.indexed.entries.iter().map(|e| (format!("chunk {}", e.id), p.indexed.id))).collect();
    let (mut problems, mut blamed) = (Vec::new(), BTreeMap::<PackId, BTreeSet<String>>::new());
    for problem in missing {
        match holder.get(&problem.object) {
            Some(pack) => blamed.entry(*pack).or_default().extend(problem.snapshots),
            None => problems.push(problem),
        }
    }
    let what = "snapshots need it and no index object lists it: an index object is missing; `alluvium repair index` makes it anew";
    problems
        .extend(blamed.into_iter().map(|(pack, snapshots)| Problem::new(object_name(pack), what).harming(snapshots)));
    Ok(problems)
}

/// Reads a pack's header and trailer and compares them with the index; `None` when it is missing.
fn look_at(
    indexed: &Indexed<'_>,
    id: PackId,
    listed: Option<u64>,
    known: Option<&KnownPack>,
) -> Result<Option<ReadPack>> {
    let name = object_name(id);
    let Some(size) = listed.map_or_else(|| indexed.repo.storage.stat(&name), |size| Ok(Some(size)))? else {
        return Ok(None);
    };
    if let Some(expected) = known.map(|k| k.size).filter(|&expected| expected != size) {
        return Err(Error::damaged(name, format!("has {size} bytes, the index says {expected} (truncated?)")));
    }
    let read = indexed.repo.read_pack(id, size)?;
    if let Some(known) = known {
        let by_index = indexed.repo.cache.entries(&id)?;
        let trailer = &read.indexed;
        let same = (known.session, known.claim, known.key) == (trailer.session, trailer.claim, trailer.key);
        if !same || !by_index.iter().map(|(_, e)| e).eq(trailer.entries.iter()) {
            return Err(Error::damaged(
                name,
                "its trailer lists other blobs, or another author, than the index; `alluvium repair index` settles it",
            ));
        }
    }
    Ok(Some(read))
}

/// What reading the data found.
#[derive(Default)]
struct Damage {
    blobs_read: u64,
    /// Blobs that do not open or are not what they should be.
    blobs: HashMap<PackId, HashSet<BlobId>>,
    /// Packs that were read and are whole.
    whole: HashSet<PackId>,
    /// Packs that can't be read at all, or differ outside their blobs.
    problems: Vec<Problem>,
}

fn read_data(
    indexed: &Indexed<'_>,
    packs: &HashMap<PackId, ReadPack>,
    subset: Subset,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<Damage> {
    let chosen: Vec<&ReadPack> = packs.values().filter(|p| subset.admits(p.indexed.id.as_bytes())).collect();
    report.task("Reading data", Unit::Bytes, Some(chosen.iter().map(|p| p.indexed.size).sum()));
    let total = Mutex::new((Damage::default(), 0));
    let reader = Reader::steady(indexed)?;
    chosen.par_iter().try_for_each(|read| {
        cancel.check()?;
        let (id, bad) = (read.indexed.id, read_pack_data(indexed, &reader, read));
        let mut guard = lock(&total);
        let (damage, done) = &mut *guard;
        damage.blobs_read += read.indexed.entries.len() as u64;
        match bad {
            Ok((blobs, true)) if blobs.is_empty() => {
                damage.whole.insert(id);
            }
            Ok((blobs, _)) if blobs.is_empty() => {
                let what = "altered outside its blobs; no data is damaged".to_owned();
                damage.problems.push(Problem::new(object_name(id), what));
            }
            Ok((blobs, _)) => {
                damage.blobs.insert(id, blobs);
            }
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound | Kind::Storage) => {
                damage.blobs.insert(id, read.indexed.entries.iter().map(|e| e.id).collect());
                damage.problems.push(Problem::new(object_name(id), &e));
            }
            Err(e) => return Err(e),
        }
        *done += read.indexed.size;
        report.progress(*done);
        report.count(Counter::VerifiedBlobs, read.indexed.entries.len() as u64);
        Ok(())
    })?;
    let (mut damage, _) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    damage.problems.sort_by(|a, b| a.object.cmp(&b.object));
    Ok(damage)
}

/// Opens and hashes every blob of a pack: the bad ones, and whether the pack's content is what its trailer says. Of a delta
/// whose base is lost only that it opens can be judged; that it is lost with it, the walk of the snapshots says.
fn read_pack_data(indexed: &Indexed<'_>, reader: &Reader<'_>, read: &ReadPack) -> Result<(HashSet<BlobId>, bool)> {
    let repo = indexed.repo;
    let key = repo.keys.open_data_key(&read.key).map_err(|e| e.during(object_name(read.indexed.id)))?;
    let with = Opening { repo: repo.id, hasher: Some(&repo.keys.hasher), key: &key, key_id: read.key.id };
    let (mut bytes, whole) = repo.read_pack_content(read)?;
    let (mut decoder, mut raw) = (BlobDecoder::default(), Vec::new());
    let mut bad = HashSet::new();
    for (offset, entry) in with_offsets(&read.indexed.entries) {
        raw.resize(entry.raw_len as usize, 0);
        let sealed = &mut bytes[offset as usize..][..entry.stored_len as usize];
        let base = match entry.base.map(|base| reader.base(&base)).transpose() {
            Ok(base) => base,
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound | Kind::Storage) => {
                if !decoder.opens(with, entry, sealed) {
                    bad.insert(entry.id);
                }
                continue;
            }
            Err(e) => return Err(e),
        };
        let base = base.as_ref().map(|raw| &raw[..]);
        if decoder.decode(with, entry, sealed, base, &mut raw).is_err() {
            bad.insert(entry.id);
        }
    }
    Ok((bad, whole))
}

/// Publishes a generation that says what is damaged, and what turned out to be whole after all. Of several shards that
/// do so at once each adds to what the others said.
fn set_aside(
    indexed: &Indexed<'_>,
    looked: &Looked,
    damage: &Damage,
    shard: Option<Subset>,
    report: &dyn Report,
) -> Result<()> {
    let repo = indexed.repo;
    let known: HashSet<PackId> = repo.cache.packs()?.into_iter().map(|p| p.id).collect();
    // What no index lists any more is nobody's concern; unless the cache was emptied meanwhile.
    if known.is_empty() {
        return Ok(());
    }
    let (mut number, mut state) = (indexed.generation, indexed.state.clone());
    let mut attempts = shard.map_or(1, |shard| shard.of.saturating_mul(2));
    loop {
        if let Err(e) = repo.refuse_removed_slot(&state) {
            report.warn(&format!("what is damaged is not set aside: {e}"));
            return Ok(());
        }
        let mut before = state.distrusted.clone();
        before.sort_by_key(|d| d.pack);
        let distrusted = distrusted_now(&state, &known, looked, damage);
        let (distrusted, left_out) = repo.limit_distrusted(distrusted, &state)?;
        if left_out > 0 {
            report.warn(&format!(
                "{left_out} damaged copies in packs of write-only or distrusted slots are not set aside: there are too many; \
                 see who wrote them, and distrust that slot (`alluvium key distrust`)"
            ));
        }
        if distrusted == before {
            return Ok(());
        }
        let more = distrusted.len() > before.len();
        let next = Generation { distrusted, judged: number + 1, ..state.clone() };
        attempts -= 1;
        match repo.publish_generation(number + 1, &next) {
            Ok(_) if more => {
                report.note("what is damaged was set aside: the next snapshot of the same data stores it again");
                return Ok(());
            }
            Ok(_) => {
                if before.iter().any(|d| is_well(looked, damage, &d.pack, d.blobs.is_empty())) {
                    report.note("what was set aside earlier and is well is relied on again");
                }
                return Ok(());
            }
            Err(e) if e.kind() == Kind::Busy && attempts > 0 => (number, state) = repo.newest_generation()?,
            // Somebody published meanwhile, or this storage may only be read. The next check says it again.
            Err(e) => {
                report.warn(&format!("what is damaged could not be set aside ({e}): run the check again"));
                return Ok(());
            }
        }
    }
}

/// A pack that was read and is whole; or one that was missing `as_a_whole` and is back.
fn is_well(looked: &Looked, damage: &Damage, pack: &PackId, as_a_whole: bool) -> bool {
    damage.whole.contains(pack) || as_a_whole && looked.packs.contains_key(pack)
}

/// What is distrusted by `state`, and by what was found now.
fn distrusted_now(state: &Generation, known: &HashSet<PackId>, looked: &Looked, damage: &Damage) -> Vec<Distrusted> {
    let Looked { packs, indexed, elsewhere, .. } = looked;
    let condemned: HashSet<PackId> = state.condemned.iter().map(|c| c.pack).collect();
    let mut wanted: HashMap<PackId, BTreeSet<BlobId>> =
        state.distrusted.iter().map(|d| (d.pack, d.blobs.iter().copied().collect())).collect();
    wanted.retain(|pack, blobs| !is_well(looked, damage, pack, blobs.is_empty()));
    let lost = |pack: &PackId| !packs.contains_key(pack) && !elsewhere.contains(pack) && !condemned.contains(pack);
    for pack in known.iter().filter(|pack| indexed.contains(pack) && lost(pack)) {
        wanted.insert(*pack, BTreeSet::new());
    }
    for (pack, blobs) in &damage.blobs {
        let all = wanted.get(pack).is_some_and(BTreeSet::is_empty);
        if !all {
            wanted.entry(*pack).or_default().extend(blobs);
        }
    }
    wanted.retain(|pack, _| known.contains(pack));
    let mut distrusted: Vec<Distrusted> =
        wanted.into_iter().map(|(pack, blobs)| Distrusted { pack, blobs: blobs.into_iter().collect() }).collect();
    distrusted.sort_by_key(|d| d.pack);
    distrusted
}
