//! Differences: the next day costs what changed, bases live as long as deltas need them, and no chain is a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use alluvium::env::Cancel;
use alluvium::error::{Error, Kind, Result};
use alluvium::format::coordination::{Condemned, Generation};
use alluvium::format::index::{IndexObject, IndexedPack};
use alluvium::format::keyslot::SlotKind;
use alluvium::format::pack::{Base, BlobEntry, CHAIN_MAX, Codec};
use alluvium::id::{BlobId, PackId, SnapshotId};
use alluvium::ops::check::{Subset, check};
use alluvium::ops::key;
use alluvium::ops::restore::{Target, restore};
use alluvium::ops::select::Wanted;
use alluvium::ops::sync::{SyncOptions, Way, sync};
use alluvium::repo::{InitOptions, Repository};
use alluvium::report::{Collect, Counter, Silent};
use alluvium::storage::memory::Memory;
use alluvium::storage::{Listed, Storage};

use crate::support::{
    CHEAP, PASSPHRASE, World, dump, forget_ids, init, noise, open, open_with, pruned, restored, take,
};

/// Every blob that is stored, by what its index says.
fn entries(repo: &Repository) -> Vec<BlobEntry> {
    repo.index(&Silent).expect("index");
    let packs = repo.cache.packs().expect("packs");
    packs.iter().flat_map(|pack| repo.cache.entries(&pack.id).expect("entries")).map(|(_, entry)| entry).collect()
}

fn deltas(repo: &Repository) -> usize {
    entries(repo).iter().filter(|entry| entry.codec == Codec::Delta).count()
}

fn stored(repo: &Repository) -> u64 {
    entries(repo).iter().map(|entry| u64::from(entry.stored_len)).sum()
}

/// A table in which one row of a hundred changes every day, scattered.
fn table(day: usize) -> Vec<u8> {
    let row = |i: usize| {
        let changed = (0..=day).rev().find(|d| i % 101 == d * 37 % 101 && *d > 0).unwrap_or(0);
        let mixed = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        format!("{i}\t{mixed:016x}\t{}\t{changed}\n", mixed % 1009).into_bytes()
    };
    (0..6000).flat_map(row).collect()
}

fn assert_whole(repo: &Repository, expected: &BTreeMap<SnapshotId, Vec<u8>>) {
    let found = check(repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
    assert_eq!(found.problems, []);
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    assert_eq!(snapshots.len(), expected.len());
    for snapshot in snapshots {
        assert!(restored(repo, &snapshot).expect("restore") == expected[&snapshot.id]);
    }
}

/// Thirty days, each a twentieth of what chunks alone would take; chains stay short; days go, and the others stay whole.
#[test]
fn thirty_days_cost_what_changed_and_days_in_between_may_go() {
    let (storage, world) = (Memory::new(), World::new(1));
    let sizes = InitOptions { chunk_bytes: 32 << 10, pack_bytes: 64 << 10, kdf: CHEAP };
    Repository::init(&storage, world.as_ref(), PASSPHRASE, "test", sizes).expect("init");
    let repo = open(storage.clone(), &world).expect("open");
    let mut expected = BTreeMap::new();
    for day in 0..30 {
        let data = table(day);
        let taken = take(&repo, "shop", &data).expect("take");
        expected.insert(taken.id, data);
    }
    let first = Memory::new();
    let alone = init(first.clone(), &World::new(2));
    take(&alone, "shop", &table(0)).expect("take");
    let (all, one) = (stored(&repo), stored(&alone));
    assert!(all < 4 * one, "thirty days take {all} bytes, the first {one}");
    let known: BTreeMap<(BlobId, u8), BlobEntry> =
        entries(&repo).into_iter().map(|entry| ((entry.id, entry.version()), entry)).collect();
    let mut longest = 0;
    for entry in known.values() {
        let (mut at, mut steps) = (entry, 0);
        while let Some(base) = at.base {
            steps += 1;
            at = known.range((base.id, 0)..(base.id, base.version)).next().expect("a base of a lower version").1;
        }
        longest = longest.max(steps);
    }
    assert!((2..=CHAIN_MAX).contains(&longest), "the longest chain has {longest} deltas");
    assert_whole(&repo, &expected);

    // All but a few go, those in the middle first; what they leave is still needed by others.
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    let order: Vec<SnapshotId> = snapshots.iter().rev().map(|s| s.id).collect();
    for going in [&order[1..12], &order[13..20], &order[..1], &order[20..29]] {
        forget_ids(&repo, going).expect("forget");
        expected.retain(|id, _| !going.contains(id));
        let before = stored(&repo);
        let plan = pruned(&repo).expect("prune");
        assert!(plan.waiting_packs == 0 && stored(&repo) <= before, "a prune does not make a repository larger");
        // With another cache, too.
        assert_whole(&open(storage.clone(), &world).expect("open"), &expected);
    }
    assert_eq!(expected.len(), 2);
    assert!(deltas(&repo) > 0, "repacking keeps deltas");
}

/// A repository of larger chunks and packs, with the table of the first day.
fn with_first_day() -> Repository {
    let (storage, world) = (Memory::new(), World::new(7));
    let sizes = InitOptions { chunk_bytes: 32 << 10, pack_bytes: 4 << 20, kdf: CHEAP };
    Repository::init(&storage, world.as_ref(), PASSPHRASE, "test", sizes).expect("init");
    let repo = open(storage, &world).expect("open");
    take(&repo, "shop", &table(0)).expect("take");
    repo
}

/// Two chunks that resemble one: it is decoded once for both, by one request and no other.
#[test]
fn a_base_is_decoded_once_for_all_that_need_it() {
    let repo = with_first_day();
    let both = [table(1), table(2)].concat();
    let taken = take(&repo, "shop", &both).expect("take");
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    let snapshot = snapshots.iter().find(|s| s.id == taken.id).expect("it is there");
    let stored = entries(&repo);
    let uses: Vec<Base> = stored.iter().filter_map(|entry| entry.base).collect();
    let bases: BTreeSet<BlobId> = uses.iter().map(|base| base.id).collect();
    assert!(uses.len() > bases.len(), "{} deltas share {} bases", uses.len(), bases.len());

    let (report, mut out) = (Collect::default(), Vec::new());
    let (index, target) = (repo.index_to_read(&Silent).expect("index"), Target::Stream(&mut out));
    restore(&index, snapshot, &Wanted::Whole, target, 96 << 20, &report, &Cancel::new()).expect("restore");
    assert!(out == both);
    assert_eq!(report.get(Counter::DecodedBases), bases.len() as u64);
    assert_eq!(report.get(Counter::PackReads), 2, "a range of each day's pack");
}

/// A base that the stream holds itself, in front of what is a difference to it.
#[test]
fn a_base_may_be_a_chunk_of_the_same_batch() {
    let repo = with_first_day();
    let both = [table(0), table(1)].concat();
    let taken = take(&repo, "shop", &both).expect("take");
    let snapshot = repo.snapshot(taken.id).expect("snapshot");
    let bases: BTreeSet<BlobId> = entries(&repo).iter().filter_map(|entry| Some(entry.base?.id)).collect();
    assert!(!bases.is_empty() && both.len() < 1 << 20, "{} bases, {} bytes", bases.len(), both.len());
    let (report, mut out) = (Collect::default(), Vec::new());
    let (index, target) = (repo.index_to_read(&Silent).expect("index"), Target::Stream(&mut out));
    restore(&index, &snapshot, &Wanted::Whole, target, 96 << 20, &report, &Cancel::new()).expect("restore");
    assert!(out == both);
    assert_eq!(report.get(Counter::DecodedBases), bases.len() as u64, "none is read again for want of a base");
}

/// Damage to a base harms what needs it, and says so; the next snapshot stores it again.
#[test]
fn a_lost_base_is_told_and_healed() {
    let (storage, world) = (Memory::new(), World::new(3));
    let repo = init(storage.clone(), &world);
    let mut last = None;
    for day in 0..4 {
        last = Some(take(&repo, "shop", &table(day)).expect("take").id);
    }
    let first = repo.cache.packs().expect("packs").into_iter().find(|pack| {
        let entries = repo.cache.entries(&pack.id).expect("entries");
        entries.iter().all(|(_, entry)| entry.base.is_none()) && entries.len() > 10
    });
    let pack = first.expect("the first day's").id;
    storage.delete(&alluvium::format::pack::object_name(pack)).expect("lost");
    let repo = open(storage.clone(), &world).expect("open");
    let found = check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
    let harmed: Vec<&String> = found.problems.iter().flat_map(|problem| &problem.snapshots).collect();
    assert!(harmed.contains(&&last.expect("taken").to_string()), "{:?}", found.problems);
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    assert_eq!(restored(&repo, &snapshots[0]).expect_err("lost").kind(), Kind::Damaged);
    // Nothing that stands on what is lost counts as stored.
    let healing = take(&repo, "shop", &table(3)).expect("take");
    let snapshot = repo.snapshot(healing.id).expect("snapshot");
    assert!(restored(&repo, &snapshot).expect("restore") == table(3));
}

/// How the first read of a pack goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stumble {
    Fails,
    IsGone,
    Alters,
}

/// A store where it does, once for each pack. Clones share it.
#[derive(Clone)]
struct Stumbling {
    inner: Memory,
    how: Stumble,
    stumbled: Arc<Mutex<BTreeSet<String>>>,
}

impl Storage for Stumbling {
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.inner.put_new(name, bytes)
    }
    fn put_replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.inner.put_replace(name, bytes)
    }
    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        self.inner.get(name, bytes_max)
    }
    fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = self.inner.get_range(name, offset, len)?;
        if !self.stumbled.lock().expect("no panic").insert(name.to_owned()) {
            return Ok(bytes);
        }
        match self.how {
            Stumble::Fails => Err(Error::new(Kind::Storage, "a cable came loose")),
            Stumble::IsGone => Err(Error::new(Kind::NotFound, "an old listing")),
            Stumble::Alters => {
                bytes[0] ^= 1;
                bytes[len / 2] ^= 1;
                bytes[len - 1] ^= 1;
                Ok(bytes)
            }
        }
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.inner.list(prefix)
    }
    fn stat(&self, name: &str) -> Result<Option<u64>> {
        self.inner.stat(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }
    fn location(&self) -> String {
        "a stumbling store".to_owned()
    }
}

/// What fails once when it is read, a base or what is decoded with it, is read again.
#[test]
fn a_base_that_is_there_on_the_second_try_is_enough() {
    let (storage, world) = (Memory::new(), World::new(3));
    // Recipes stand in the manifest.
    let sizes = InitOptions { chunk_bytes: 32 << 10, pack_bytes: 64 << 10, kdf: CHEAP };
    Repository::init(&storage, world.as_ref(), PASSPHRASE, "test", sizes).expect("init");
    let repo = open(storage.clone(), &world).expect("open");
    (0..4).for_each(|day| drop(take(&repo, "shop", &table(day)).expect("take")));
    assert!(deltas(&repo) > 0);
    let packs = repo.cache.packs().expect("packs").len();
    for how in [Stumble::Fails, Stumble::IsGone, Stumble::Alters] {
        let stumbling = Stumbling { inner: storage.clone(), how, stumbled: Arc::default() };
        let repo = open(stumbling.clone(), &world).expect("open");
        let (snapshots, _) = repo.snapshots().expect("snapshots");
        // Newest first: its bases are in packs that were not read yet.
        assert!(restored(&repo, &snapshots[0]).expect("restore") == table(3));
        let stumbled = stumbling.stumbled.lock().expect("no panic").len();
        assert!(stumbled > 1 && stumbled <= packs, "{stumbled} of {packs}");
    }
}

/// Who can't read stores whole, and relies on deltas of others all the same.
#[test]
fn a_write_only_host_does_without() {
    let (storage, world) = (Memory::new(), World::new(4));
    let repo = init(storage.clone(), &world);
    key::add(&repo, SlotKind::WriteOnly, "db1", b"write", CHEAP).expect("key add");
    take(&repo, "shop", &table(0)).expect("take");
    take(&repo, "shop", &table(1)).expect("take");
    let with = deltas(&repo);
    assert!(with > 0);
    let host = open_with(storage.clone(), &world, b"write").expect("open");
    take(&host, "shop", &table(1)).expect("take");
    take(&host, "shop", &table(2)).expect("take");
    let repo = open(storage, &world).expect("open");
    assert_eq!(deltas(&repo), with, "it writes none");
    let found: BTreeSet<Vec<u8>> =
        repo.snapshots().expect("snapshots").0.iter().map(|s| restored(&repo, s).expect("restore")).collect();
    assert!(found == BTreeSet::from([table(0), table(1), table(2)]));
}

/// A copy goes by packs, by chunks or as streams; what a delta needs comes along.
#[test]
fn copies_are_whole_whatever_way_they_go() {
    for way in [Way::Packs, Way::Chunks, Way::Streams] {
        let world = World::new(5);
        let source = init(Memory::new(), &world);
        let target = Memory::new();
        match way {
            Way::Packs => source.init_twin(&target, PASSPHRASE, "copy", CHEAP).expect("twin"),
            Way::Chunks => source.init_like(&target, PASSPHRASE, "copy", None, CHEAP).expect("like"),
            Way::Streams => {
                Repository::init(&target, world.as_ref(), PASSPHRASE, "copy", crate::support::small()).expect("init")
            }
        };
        let dest = open(target.clone(), &world).expect("open");
        for day in 0..6 {
            let taken = take(&source, "shop", &table(day)).expect("take");
            if day == 3 {
                // The copy begins with deltas whose bases belong to days that it never sees.
                forget_ids(
                    &source,
                    &source
                        .snapshots()
                        .expect("snapshots")
                        .0
                        .iter()
                        .map(|s| s.id)
                        .filter(|id| *id != taken.id)
                        .collect::<Vec<_>>(),
                )
                .expect("forget");
            }
            if day >= 3 {
                let options = SyncOptions { host: "host".to_owned(), ..SyncOptions::default() };
                let synced = sync(&source, &dest, &options, &Silent, &Cancel::new()).expect("sync");
                assert_eq!((synced.way, synced.copied.len(), synced.failed.len()), (way, 1, 0));
            }
        }
        assert!(deltas(&source) > 0);
        let dest = open(target, &world).expect("open");
        let found: BTreeSet<Vec<u8>> =
            dest.snapshots().expect("snapshots").0.iter().map(|s| restored(&dest, s).expect("restore")).collect();
        assert!(found == BTreeSet::from([table(3), table(4), table(5)]), "{way:?}");
        let found = check(&dest, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
        assert_eq!(found.problems, [], "{way:?}");
    }
}

/// Two copies of A, one whole and one a difference to B; and B a difference to A. When the whole A is about to go,
/// nothing of it may be relied on.
#[test]
fn circles_of_rightful_copies_count_for_nothing() {
    let (storage, world) = (Memory::new(), World::new(6));
    let repo = init(storage, &world);
    take(&repo, "shop", &dump(10, 0)).expect("take");
    let key = repo.cache.packs().expect("packs")[0].key;
    let (a, b) = (BlobId([1; 32]), BlobId([2; 32]));
    let entry = |id, base: Option<(BlobId, u8)>| BlobEntry {
        id,
        codec: if base.is_some() { Codec::Delta } else { Codec::Raw },
        raw_len: 100,
        stored_len: 80,
        base: base.map(|(id, version)| Base { id, version }),
    };
    let pack = |n: u8, entry: BlobEntry| IndexedPack {
        id: PackId([n; 16]),
        size: 4096,
        session: SnapshotId([n; 16]),
        claim: repo.keys.claim(repo.env.as_ref()),
        key,
        entries: vec![entry],
    };
    let wrapped = repo.cache.wrapped_key(key).expect("the cache").expect("the key");
    let packs = vec![pack(1, entry(a, None)), pack(2, entry(b, Some((a, 1)))), pack(3, entry(a, Some((b, 2))))];
    repo.publish_index(&IndexObject { keys: vec![wrapped], packs }).expect("index");

    let indexed = repo.index(&Silent).expect("index");
    let chain = |id: &BlobId, below| {
        let chain = indexed.usable_chain(id, below).expect("the cache")?;
        Some(chain.iter().map(|(_, copy)| copy.pack.0[0]).collect::<Vec<u8>>())
    };
    assert_eq!(chain(&b, u8::MAX), Some(vec![2, 1]), "B by the whole A");
    assert_eq!(chain(&a, 1), Some(vec![1]));
    assert_eq!(chain(&b, 1), None, "there is no whole B");

    let condemned = vec![Condemned { pack: PackId([1; 16]), size: 4096, since: 1 }];
    repo.publish_generation(1, &Generation { condemned, ..Generation::default() }).expect("publish");
    let indexed = repo.index(&Silent).expect("index");
    for id in [a, b] {
        assert_eq!(indexed.usable(&id).expect("the cache"), None, "it ends in a circle without the whole A");
    }
}

/// What is not similar is not stored as a difference, and costs no more than alone.
#[test]
fn other_data_under_the_same_name_is_stored_alone() {
    let repo = init(Memory::new(), &World::new(7));
    take(&repo, "shop", &noise(200_000, 1)).expect("take");
    take(&repo, "shop", &noise(200_000, 2)).expect("take");
    assert_eq!(deltas(&repo), 0);
    assert!(stored(&repo) < 400_000 * 106 / 100, "{}", stored(&repo));
}
