//! Index objects are replaced by others that list the same packs or fewer: never before the new ones are proven (rule I7).

use std::collections::{BTreeSet, HashMap};

use crate::error::{Error, Kind, Result};
use crate::format::index::{IndexObject, IndexedPack, object_name as index_name};
use crate::format::pack::WrappedKey;
use crate::id::{DataKeyId, IndexId, PackId};
use crate::repo::Repository;
use crate::repo::rules::Rule;
use crate::report::{Counter, Problem, Report};

/// Packs of one index object after a compaction.
pub(super) const PACKS_PER_INDEX: usize = 4096;
/// Entries of one index object after a compaction: 41 MB.
pub(super) const ENTRIES_PER_INDEX: usize = 1_000_000;

/// Replaces index objects by new ones with the packs that `keep` lets through. Rule I7: the new ones are read
/// back from the storage and proven to list all that must stay, before an old one goes. The cache
/// forgets the old ones before the storage does.
///
/// # Errors
/// `Damaged` when the proof fails, `Storage`.
pub(super) fn replace(
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
            return Err(Error::new(
                Kind::Damaged,
                format!("{} does not read back as it was written; no old index object went", index_name(id)),
            ));
        }
    }
    Ok(())
}

/// Deletes an object; `false` when the storage keeps it, for example until its retention ends. That is told, and the
/// next prune tries again.
pub(super) fn delete(repo: &Repository, name: &str, report: &dyn Report) -> Result<bool> {
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
