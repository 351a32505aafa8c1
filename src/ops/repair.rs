//! `repair index`: makes the index anew where it is damaged or wrong, from what the packs say of themselves.
//!
//! Sound index entries stay. Where an index object contradicts a pack's trailer, the trailer decides.
//! Packs that no sound index object lists are read (header and trailer) and listed;
//! entries of packs that are gone or broken are dropped, so that the next snapshot stores their data again.
//! Nothing is ever removed but index objects, and generations that can't be read; and those only after what
//! replaces them is durable and proven.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use crate::env::Cancel;
use crate::error::{Kind, Result};
use crate::format::coordination::{Condemned, GENERATION_MAX, GENERATION_PREFIX, Generation, generation_of};
use crate::format::index::{IndexObject, IndexedPack, object_name as index_name};
use crate::format::pack::{WrappedKey, object_name};
use crate::id::{BlobId, DataKeyId, IndexId, PackId};
use crate::repo::generations::Found;
use crate::repo::index::Location;
use crate::repo::packs::ReadPack;
use crate::repo::{Indexed, Repository};
use crate::report::{Counter, Problem, Report, Unit};

use super::mark::{Marks, Spared, damaged, mark};
use super::reindex::{publish_proven, replace};

/// What a repair did.
#[derive(Debug, Default, Serialize)]
pub struct Repaired {
    /// Packs that are listed now and were not before.
    pub packs_added: u64,
    /// Packs that were listed and are gone or broken.
    pub packs_dropped: u64,
    /// Packs of which an index object said other things than their trailers, which are listed now.
    pub packs_corrected: u64,
    /// Index objects that could not be read and were replaced.
    pub index_objects_replaced: u64,
    /// True when an unreadable generation was replaced.
    pub generation_replaced: bool,
    /// What could not be repaired.
    pub problems: Vec<Problem>,
}

/// Repairs the index.
///
/// # Errors
/// `WrongKey` from a write-only slot, `Storage`, `Interrupted`.
pub fn repair_index(repo: &Repository, report: &dyn Report, cancel: &Cancel) -> Result<Repaired> {
    repo.keys.require_full("repairing the index")?;
    repo.seen.require_same_repository()?;
    repo.cache.invalidate()?;
    let mut repaired = Repaired::default();
    let (mut sound, mut broken): (Vec<(IndexId, IndexObject)>, Vec<IndexId>) = (Vec::new(), Vec::new());
    for id in repo.list_index()?.into_keys() {
        match repo.read_index_object(id) {
            Ok(object) => sound.push((id, object)),
            Err(e) if e.kind() == Kind::Damaged && !e.is_unverified() => broken.push(id),
            Err(e) if e.kind() == Kind::NotFound => {}
            // On a bad block, or of an author who can't be verified: it stays as it is, and what it lists is listed
            // anew below.
            Err(e) => repaired.problems.push(Problem::new(index_name(id), &e)),
        }
    }
    let found = repo.find_generation_in_flood()?;
    // Not read this time is not unreadable: what it condemns is not to be forgotten for that.
    if let Err(e) = &found.state
        && e.kind() != Kind::Damaged
    {
        return found.state.map(|_| Repaired::default());
    }
    repo.refuse_removed_slot(&found.readable)?;
    // What is condemned may go at any time, and rightly be missing.
    let condemned: HashSet<PackId> = found.readable.condemned.iter().map(|c| c.pack).collect();
    let listed = repo.list_packs()?;
    let (added, keys) = read_unlisted(repo, &sound, &listed, &mut repaired, report, cancel)?;
    repaired.packs_added = added.len() as u64;
    publish_proven(repo, added, &keys)?;
    settle_lines(repo, sound, &listed, &condemned, &mut repaired, report, cancel)?;
    // Everything that a broken index object could have listed and that still exists was just read from the
    // packs themselves. Where a pack could not be read, the broken object would not have helped either.
    for id in broken {
        repo.storage.delete(&index_name(id))?;
        repaired.index_objects_replaced += 1;
        report.count(Counter::Deleted, 1);
    }
    if found.state.is_err() || found.is_damaged {
        replace_generation(repo, &found, &listed, report, cancel)?;
        repaired.generation_replaced = true;
    } else if let Ok(state) = &found.state
        && !repo.is_whole_generation(found.number)?
    {
        // One of its copies is damaged: the same again, as the next.
        repo.publish_generation_in_flood(found.number + 1, state)?;
        repaired.generation_replaced = true;
    }
    remove_unreadable_generations(repo, &found)?;
    repo.cache.invalidate()?;
    let indexed = repo.index(report)?;
    repaired.problems.extend(indexed.problems.iter().cloned());
    Ok(repaired)
}

/// Packs that no sound index object lists, as they describe themselves, and their data keys. Condemned ones too:
/// one of them may be needed after all, and nobody relies on it for being listed.
fn read_unlisted(
    repo: &Repository,
    sound: &[(IndexId, IndexObject)],
    listed: &BTreeMap<PackId, u64>,
    repaired: &mut Repaired,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<(Vec<IndexedPack>, HashMap<DataKeyId, WrappedKey>)> {
    let known: HashSet<PackId> = sound.iter().flat_map(|(_, o)| &o.packs).map(|p| p.id).collect();
    let mut unlisted: Vec<_> = listed.iter().filter(|(id, _)| !known.contains(id)).collect();
    unlisted.sort();
    report.task("Reading packs", Unit::Things, Some(unlisted.len() as u64));
    let (mut packs, mut keys) = (Vec::new(), HashMap::new());
    for (done, (&id, &size)) in unlisted.into_iter().enumerate() {
        cancel.check()?;
        match repo.read_pack(id, size) {
            Ok(read) => {
                keys.insert(read.key.id, read.key);
                packs.push(read.indexed);
            }
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Storage) => {
                repaired.problems.push(Problem::new(object_name(id), &e));
            }
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => return Err(e),
        }
        report.progress(done as u64 + 1);
    }
    Ok((packs, keys))
}

/// What becomes of a pack's line in an index object.
enum Line {
    Stays,
    Goes,
    /// Goes if no snapshot needs what the pack may still hold; what is wrong with that.
    Cut(String),
    /// By the trailer, with the wrapped data key of the pack.
    Replaced(Box<ReadPack>),
}

/// Compares every line of the sound index objects with the trailer of its pack. Where they disagree the
/// trailer decides: the line is replaced by what it says. Lines of packs that are gone go.
fn settle_lines(
    repo: &Repository,
    sound: Vec<(IndexId, IndexObject)>,
    listed: &BTreeMap<PackId, u64>,
    condemned: &HashSet<PackId>,
    repaired: &mut Repaired,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<()> {
    // The objects that list a pack: each trailer is read once.
    let mut listing: BTreeMap<PackId, Vec<(usize, usize)>> = BTreeMap::new();
    for (at, (_, object)) in sound.iter().enumerate() {
        for (line, pack) in object.packs.iter().enumerate() {
            listing.entry(pack.id).or_default().push((at, line));
        }
    }
    let mut wrong: BTreeMap<usize, HashMap<usize, Line>> = BTreeMap::new();
    let mut cut: Vec<PackId> = Vec::new();
    let mut settled_packs = Vec::new();
    for (id, places) in listing {
        let lines: Vec<&IndexedPack> = places.iter().map(|(at, line)| &sound[*at].1.packs[*line]).collect();
        let settled = settle_pack(repo, id, &lines, listed.get(&id).copied(), condemned.contains(&id), repaired)?;
        if settled.iter().any(|line| matches!(line, Line::Cut(_))) {
            cut.push(id);
        }
        settled_packs.push((id, places, settled));
    }
    let needed = needed_of(repo, &cut, report, cancel)?;
    for (id, places, mut settled) in settled_packs {
        let lines: Vec<&IndexedPack> = places.iter().map(|(at, line)| &sound[*at].1.packs[*line]).collect();
        settle_cut(id, &mut settled, needed.contains(&id), repaired);
        if settled.iter().all(|line| matches!(line, Line::Goes)) {
            repaired.packs_dropped += 1;
        } else if settled.iter().any(|line| matches!(line, Line::Replaced(_))) {
            repaired.packs_corrected += 1;
        }
        for (((at, line), was), becomes) in places.iter().zip(lines).zip(settled) {
            if matches!(becomes, Line::Stays) {
                continue;
            }
            let (index, pack) = (index_name(sound[*at].0), object_name(was.id));
            report.note(&format!("{index}: what it lists of {pack} is wrong, and is replaced"));
            wrong.entry(*at).or_default().insert(*line, becomes);
        }
    }
    let mut replaced = Vec::new();
    for (at, (id, object)) in sound.into_iter().enumerate() {
        let Some(mut lines) = wrong.remove(&at) else { continue };
        let mut keys = object.keys;
        let packs = object.packs.into_iter().enumerate().filter_map(|(line, pack)| match lines.remove(&line) {
            None | Some(Line::Stays) => Some(pack),
            Some(Line::Goes | Line::Cut(_)) => None,
            Some(Line::Replaced(read)) => {
                let ReadPack { indexed, key, .. } = *read;
                keys.retain(|known| known.id != key.id);
                keys.push(key);
                Some(indexed)
            }
        });
        let packs = packs.collect();
        replaced.push((id, IndexObject { keys, packs }));
    }
    if replaced.is_empty() { Ok(()) } else { replace(repo, &replaced, &|_| true, report) }
}

/// What becomes of the lines that list one pack, in their order.
fn settle_pack(
    repo: &Repository,
    id: PackId,
    lines: &[&IndexedPack],
    listed: Option<u64>,
    condemned: bool,
    repaired: &mut Repaired,
) -> Result<Vec<Line>> {
    let all = |line: fn() -> Line| lines.iter().map(|_| line()).collect();
    let name = object_name(id);
    let mut out = |what: &str| {
        let what = format!("{what}; taken out of the index, so that its data is stored again");
        repaired.problems.push(Problem::new(name.clone(), what));
    };
    let Some(size) = listed else {
        // What is condemned may go at any time. A listing may be incomplete; that must not cost an entry.
        if condemned || repo.storage.stat(&name)?.is_some() {
            return Ok(all(|| Line::Stays));
        }
        out("is missing");
        return Ok(all(|| Line::Goes));
    };
    match repo.read_pack(id, size) {
        Ok(read) => {
            let again = || ReadPack { indexed: read.indexed.clone(), key: read.key.clone(), ..read };
            let settle = |line: &&IndexedPack| {
                if read.indexed == **line { Line::Stays } else { Line::Replaced(Box::new(again())) }
            };
            Ok(lines.iter().map(settle).collect())
        }
        // The index knows what the pack no longer says of itself: its blobs may be whole. A check sets
        // it aside, so that the next snapshot stores them again.
        Err(e) if condemned || e.is_unverified() || lines.iter().any(|line| line.size == size) => {
            let stays = condemned || e.is_unverified();
            repaired.problems.push(Problem::new(name, &e));
            let right = |line: &&IndexedPack| if stays || line.size == size { Line::Stays } else { Line::Goes };
            Ok(lines.iter().map(right).collect())
        }
        Err(e) => {
            let what = Problem::new(name, &e).what;
            Ok(lines.iter().map(|_| Line::Cut(what.clone())).collect())
        }
    }
}

/// Which of the packs in `cut` hold what snapshots need and no other pack has. What is in front of a cut is still there,
/// and only the index knows where.
fn needed_of(repo: &Repository, cut: &[PackId], report: &dyn Report, cancel: &Cancel) -> Result<HashSet<PackId>> {
    if cut.is_empty() {
        return Ok(HashSet::new());
    }
    let indexed = repo.index_to_read(report)?;
    let (snapshots, _) = repo.snapshots()?;
    let flaw = |id: &BlobId, l: &Location| cut.contains(&l.pack).then(|| damaged(id));
    let marks = mark(&indexed, &snapshots, &flaw, report, cancel)?;
    Ok(Spared::of(&indexed, marks.lost.iter())?.packs)
}

/// What becomes of the lines of a pack that was cut, if it was.
fn settle_cut(id: PackId, lines: &mut [Line], needed: bool, repaired: &mut Repaired) {
    let Some(Line::Cut(what)) = lines.iter().find(|line| matches!(line, Line::Cut(_))) else { return };
    let what = if needed {
        format!(
            "{what}; snapshots need what may be left of it, so it stays in the index. Take them again, or restore what can be \
             restored and forget them, then repair again"
        )
    } else {
        format!("{what}; taken out of the index, so that its data is stored again")
    };
    repaired.problems.push(Problem::new(object_name(id), what));
    for line in lines.iter_mut().filter(|line| matches!(line, Line::Cut(_))) {
        *line = if needed { Line::Stays } else { Line::Goes };
    }
}

/// A generation that can't be read may have condemned any pack that no snapshot needs, or of which every
/// needed blob was stored elsewhere as well; and somebody may be about to delete it. All of those are
/// condemned anew.
fn replace_generation(
    repo: &Repository,
    found: &Found,
    listed: &BTreeMap<PackId, u64>,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<()> {
    repo.cache.invalidate()?;
    // Behind what does not count, however much of it there is.
    let taken: HashSet<u64> =
        repo.storage.list(GENERATION_PREFIX)?.iter().filter_map(|object| generation_of(&object.name)).collect();
    let number = (found.number + 1..GENERATION_MAX).find(|number| !taken.contains(number)).unwrap_or(found.number + 1);
    // What was set aside, as the generation before remembers it: a copy that is bad must not be taken for the good one.
    let state = found.readable.clone();
    let indexed = repo.index_at(number, state.clone(), report)?;
    let (snapshots, _) = repo.snapshots()?;
    let flaw = |id: &BlobId, l: &Location| indexed.is_distrusted(id, l.pack).then(|| damaged(id));
    let marks = mark(&indexed, &snapshots, &flaw, report, cancel)?;
    let (bases, mut alone) = (bases_of_others(&indexed, &marks, listed)?, HashSet::new());
    for (&pack, used) in &marks.used {
        cancel.check()?;
        if holds_the_only_copy(&indexed, pack, used, &bases, listed)? {
            alone.insert(pack);
        }
    }
    // What was condemned stays so.
    let before: HashSet<PackId> = state.condemned.iter().map(|c| c.pack).collect();
    let going = listed.iter().filter(|(id, _)| before.contains(id) || !alone.contains(id));
    let mut condemned: Vec<_> = going.map(|(&pack, &size)| Condemned { pack, size, since: number }).collect();
    condemned.sort_by_key(|c| c.pack);
    let next = Generation { condemned, judged: number, ..state };
    repo.publish_generation_in_flood(number, &next)?;
    report.warn(
        "a damaged generation was replaced: which copies it distrusted, and which key slots it removed, is not known; \
         run `alluvium check --read-data` and look at `alluvium key list`",
    );
    Ok(())
}

/// What marked copies are differences to of which there are others, or which are such bases themselves: a prune that
/// counts on the others may be about to delete it.
fn bases_of_others(indexed: &Indexed<'_>, marks: &Marks, listed: &BTreeMap<PackId, u64>) -> Result<HashSet<BlobId>> {
    let mut deltas = Vec::new();
    for (&pack, used) in &marks.used {
        let entries = indexed.repo.cache.entries(&pack)?.into_iter().filter(|(offset, _)| used.contains(offset));
        deltas.extend(entries.filter_map(|(_, entry)| Some((entry.base?, entry.id, pack))));
    }
    // Versions fall along a chain: what needs a base comes before it.
    deltas.sort_unstable_by_key(|(base, id, pack)| (std::cmp::Reverse(base.version), *id, *pack));
    let mut bases = HashSet::new();
    for (base, id, pack) in deltas {
        if bases.contains(&id) || has_another_copy(indexed, &id, pack, listed)? {
            bases.insert(base.id);
        }
    }
    Ok(bases)
}

/// True when every other listed pack lacks one of the blobs at `used` of `pack`. Those of `bases` do not count.
fn holds_the_only_copy(
    indexed: &Indexed<'_>,
    pack: PackId,
    used: &HashSet<u32>,
    bases: &HashSet<BlobId>,
    listed: &BTreeMap<PackId, u64>,
) -> Result<bool> {
    for (_, entry) in indexed.repo.cache.entries(&pack)?.iter().filter(|(offset, _)| used.contains(offset)) {
        if !bases.contains(&entry.id) && !has_another_copy(indexed, &entry.id, pack, listed)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True when another listed pack than `pack` holds a copy.
fn has_another_copy(indexed: &Indexed<'_>, id: &BlobId, pack: PackId, listed: &BTreeMap<PackId, u64>) -> Result<bool> {
    Ok(indexed.copies(id)?.iter().any(|copy| copy.pack != pack && listed.contains_key(&copy.pack)))
}

/// Removes what does not count or is damaged under `prune/`, except what was damaged since `found`. Where
/// readers climb by it to the newest generation, a copy of that takes its place.
fn remove_unreadable_generations(repo: &Repository, found: &Found) -> Result<()> {
    let now = repo.find_generation_in_flood()?;
    let known: HashSet<u64> = found.void.iter().map(|(number, _)| *number).chain([found.number]).collect();
    let above: HashMap<u64, bool> =
        now.void.iter().map(|(number, error)| (*number, error.is_forged() || known.contains(number))).collect();
    for object in repo.storage.list(GENERATION_PREFIX)? {
        let Some(number) = generation_of(&object.name) else { continue };
        let goes = match above.get(&number) {
            Some(goes) => *goes,
            None => number < now.number && !repo.is_whole_generation(number)?,
        };
        if goes {
            repo.storage.delete(&object.name)?;
            repo.fill_path(number, &now)?;
        }
    }
    Ok(())
}
