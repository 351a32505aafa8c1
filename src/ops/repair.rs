//! `repair index`: makes the index anew where it is damaged or wrong, from what the packs say of themselves.
//!
//! Sound index entries stay. Packs that no sound index object lists are read (header and trailer) and listed;
//! entries of packs that are gone or broken are dropped, so that the next snapshot stores their data again.
//! Nothing is ever removed but index objects, and generations that can't be read; and those only after what
//! replaces them is durable and proven.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use crate::env::Cancel;
use crate::error::{Kind, Result};
use crate::format::ObjectKind;
use crate::format::coordination::{Condemned, GENERATION_PREFIX, Generation, generation_name, generation_of};
use crate::format::index::{IndexObject, IndexedPack, object_name as index_name};
use crate::format::limits::GENERATION_BYTES_MAX;
use crate::format::pack::{WrappedKey, object_name};
use crate::id::{BlobId, DataKeyId, IndexId, PackId};
use crate::repo::Repository;
use crate::repo::index::Location;
use crate::report::{Counter, Problem, Report, Unit};

use super::mark::{damaged, mark};
use super::reindex::{publish_proven, replace};

/// What a repair did.
#[derive(Debug, Default, Serialize)]
pub struct Repaired {
    /// Packs that are listed now and were not before.
    pub packs_added: u64,
    /// Packs that were listed and are gone or broken.
    pub packs_dropped: u64,
    /// Index objects that could not be read and were replaced.
    pub index_objects_replaced: u64,
    /// True when an unreadable generation was replaced.
    pub generation_replaced: bool,
    /// What could not be mended.
    pub problems: Vec<Problem>,
}

/// Repairs the index.
///
/// # Errors
/// `WrongKey` from a write-only slot, `Storage`, `Interrupted`.
pub fn repair_index(repo: &Repository, report: &dyn Report, cancel: &Cancel) -> Result<Repaired> {
    repo.keys.require_full("repairing the index")?;
    repo.cache.invalidate()?;
    let mut repaired = Repaired::default();
    let (mut sound, mut broken): (Vec<(IndexId, IndexObject)>, Vec<IndexId>) = (Vec::new(), Vec::new());
    for id in repo.list_index()? {
        match repo.read_index_object(id) {
            Ok(object) => sound.push((id, object)),
            Err(e) if e.kind() == Kind::Damaged => broken.push(id),
            Err(e) if e.kind() == Kind::NotFound => {}
            // On a bad block: it stays as it is, and what it lists is listed anew below.
            Err(e) => repaired.problems.push(Problem::new(index_name(id), &e)),
        }
    }
    let (number, state) = match repo.probe_generation()? {
        // Not read this time is not unreadable: what it condemns is not to be forgotten for that.
        (_, Err(e)) if e.kind() != Kind::Damaged => return Err(e),
        found => found,
    };
    // What is condemned may go at any time, and rightly be missing.
    let condemned: HashSet<PackId> = state.iter().flat_map(|s| &s.condemned).map(|c| c.pack).collect();
    let listed = repo.list_packs()?;
    let (added, keys) = read_unlisted(repo, &sound, &listed, &mut repaired, report, cancel)?;
    repaired.packs_added = added.len() as u64;
    publish_proven(repo, added, &keys)?;
    drop_lost(repo, sound, &listed, &condemned, &mut repaired, report)?;
    // Everything that a broken index object could have listed and that still exists was just read from the
    // packs themselves. Where a pack could not be read, the broken object would not have helped either.
    for id in broken {
        repo.storage.delete(&index_name(id))?;
        repaired.index_objects_replaced += 1;
        report.count(Counter::Deleted, 1);
    }
    if state.is_err() {
        replace_generation(repo, number + 1, &listed, report, cancel)?;
        repaired.generation_replaced = true;
    }
    remove_unreadable_generations(repo)?;
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

/// Drops packs that are gone, or whose trailer no longer agrees, from the sound index objects.
fn drop_lost(
    repo: &Repository,
    sound: Vec<(IndexId, IndexObject)>,
    listed: &BTreeMap<PackId, u64>,
    condemned: &HashSet<PackId>,
    repaired: &mut Repaired,
    report: &dyn Report,
) -> Result<()> {
    let mut lost: HashSet<PackId> = HashSet::new();
    for pack in sound.iter().flat_map(|(_, o)| &o.packs).filter(|p| !condemned.contains(&p.id)) {
        let what = match listed.get(&pack.id) {
            // A listing may be incomplete; that must not cost an entry.
            None if repo.storage.stat(&object_name(pack.id))?.is_some() => continue,
            None => "is missing".to_owned(),
            Some(&size) => match repo.read_pack(pack.id, size) {
                Ok(read) if read.indexed == *pack => continue,
                Ok(_) => "its trailer lists other blobs than the index did".to_owned(),
                // The index knows what the pack no longer says of itself: its blobs may be whole. A check sets
                // it aside, so that the next snapshot stores them again.
                Err(e) if size == pack.size => {
                    repaired.problems.push(Problem::new(object_name(pack.id), &e));
                    continue;
                }
                Err(e) => e.to_string(),
            },
        };
        if lost.insert(pack.id) {
            repaired.packs_dropped += 1;
            let what = format!("{what}; taken out of the index, so that its data is stored again");
            repaired.problems.push(Problem::new(object_name(pack.id), what));
        }
    }
    let harmed: Vec<_> = sound.into_iter().filter(|(_, o)| o.packs.iter().any(|p| lost.contains(&p.id))).collect();
    if harmed.is_empty() { Ok(()) } else { replace(repo, &harmed, &|pack| !lost.contains(pack), report) }
}

/// A generation that can't be read may have condemned any pack that nobody needs: so all of those are
/// condemned anew.
fn replace_generation(
    repo: &Repository,
    number: u64,
    listed: &BTreeMap<PackId, u64>,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<()> {
    repo.cache.invalidate()?;
    // What was set aside, as the generation before remembers it: a copy that is bad must not be taken for the good one.
    let state = readable_generation(repo, number)?;
    let indexed = repo.index_at(number, state.clone(), report)?;
    let (snapshots, _) = repo.snapshots()?;
    let flaw = |id: &BlobId, l: &Location| indexed.is_distrusted(id, l.pack).then(|| damaged(id));
    let marks = mark(&indexed, &snapshots, &flaw, report, cancel)?;
    // What was condemned stays so: somebody may be about to delete it. Of a chunk that is needed every copy stays.
    let before: HashSet<PackId> = state.condemned.iter().map(|c| c.pack).collect();
    let going = listed.iter().filter(|(id, _)| before.contains(id) || !marks.holders.contains(id));
    let mut condemned: Vec<_> = going.map(|(&pack, &size)| Condemned { pack, size, since: number }).collect();
    condemned.sort_by_key(|c| c.pack);
    repo.publish_generation(number, &Generation { condemned, distrusted: state.distrusted })
}

/// The newest generation before `number` that can be read.
fn readable_generation(repo: &Repository, number: u64) -> Result<Generation> {
    let mut numbers: Vec<u64> = repo
        .storage
        .list(GENERATION_PREFIX)?
        .iter()
        .filter_map(|o| generation_of(&o.name))
        .filter(|n| *n < number)
        .collect();
    numbers.sort_unstable();
    let read = |n: &u64| {
        let name = generation_name(*n);
        let plain = repo
            .open_object(ObjectKind::Generation, &name, &repo.storage.get(&name, GENERATION_BYTES_MAX).ok()?)
            .ok()?;
        Generation::decode(&plain).ok()
    };
    Ok(numbers.iter().rev().find_map(read).unwrap_or_default())
}

/// Only the newest generation counts, and it is readable now.
fn remove_unreadable_generations(repo: &Repository) -> Result<()> {
    let (newest, _) = repo.probe_generation()?;
    for object in repo.storage.list(GENERATION_PREFIX)? {
        let readable = |bytes: Vec<u8>| repo.open_object(ObjectKind::Generation, &object.name, &bytes);
        if generation_of(&object.name).is_some_and(|n| n < newest)
            && repo
                .storage
                .get(&object.name, GENERATION_BYTES_MAX)
                .and_then(readable)
                .is_err_and(|e| e.kind() == Kind::Damaged)
        {
            repo.storage.delete(&object.name)?;
        }
    }
    Ok(())
}
