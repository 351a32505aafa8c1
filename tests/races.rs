//! What several do at once, and what it leaves: copies stored twice, two forgets, two key changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use alluvium::env::Cancel;
use alluvium::error::{Error, Kind, Result};
use alluvium::format::coordination::generation_name;
use alluvium::format::index::object_name as index_name;
use alluvium::format::keyslot::SlotKind;
use alluvium::format::pack::{BlobEntry, object_name};
use alluvium::id::{BlobId, PackId, SlotId, SnapshotId};
use alluvium::ops::check::{Subset, check};
use alluvium::ops::forget::{self, Filter};
use alluvium::ops::prune::{MaxUnused, PruneOptions, prune};
use alluvium::ops::retention::{Count, Policy};
use alluvium::ops::snapshot::{Source, snapshot};
use alluvium::ops::{key, repair};
use alluvium::repo::reader::Reader;
use alluvium::repo::{InitOptions, Repository};
use alluvium::report::{Collect, Counter, Problem, Silent};
use alluvium::storage::fault::{Call, Effect, Fault, Operation, at};
use alluvium::storage::memory::Memory;
use alluvium::storage::{Listed, Storage};
use jiff::SignedDuration;

use crate::support::{
    Before, CHEAP, PASSPHRASE, World, dump, forget_ids, init, noise, open, open_with, options, parts_of, prune_options,
    pruned, restored, take,
};

// ---- Copies stored twice ----

/// Takes two snapshots of `data` at once: neither session knows of what the other stores.
fn take_twice(storage: &Memory, world: &Arc<World>, name: &str, data: &[u8]) {
    let fault = Fault::new(storage.clone());
    let first = open(fault.clone(), world).expect("open");
    let second = open(storage.clone(), world).expect("open");
    let (once, copied) = (std::sync::Once::new(), data.to_vec());
    let source = format!("{name}-2");
    let meanwhile = move |call: &Call| {
        if call.operation == Operation::PutNew && call.name.starts_with("packs/") {
            once.call_once(|| drop(take(&second, &source, &copied).expect("the second snapshot")));
        }
        false
    };
    fault.when(meanwhile, Effect::Fail);
    take(&first, &format!("{name}-1"), data).expect("the first snapshot");
}

/// Every stored copy: its pack, its offset, its entry.
fn copies(repo: &Repository) -> Vec<(PackId, u32, BlobEntry)> {
    repo.index(&Silent).expect("index");
    let packs = repo.cache.packs().expect("packs");
    let of = |pack: PackId| {
        repo.cache.entries(&pack).expect("entries").into_iter().map(move |(offset, entry)| (pack, offset, entry))
    };
    let mut copies: Vec<_> = packs.iter().flat_map(|pack| of(pack.id)).collect();
    copies.sort_by_key(|(pack, offset, _)| (*pack, *offset));
    copies
}

/// Those of which another pack has a copy, a few of each pack; every one that is a base or a delta.
fn duplicated(repo: &Repository) -> Vec<(PackId, u32, BlobEntry)> {
    let all = copies(repo);
    let mut packs: BTreeMap<BlobId, BTreeSet<PackId>> = BTreeMap::new();
    for (pack, _, entry) in &all {
        packs.entry(entry.id).or_default().insert(*pack);
    }
    let bases: BTreeSet<BlobId> = all.iter().filter_map(|(_, _, entry)| Some(entry.base?.id)).collect();
    let mut plain = 0;
    let chosen = all.into_iter().filter(|(_, _, entry)| packs[&entry.id].len() > 1).filter(|(_, _, entry)| {
        plain += 1;
        entry.base.is_some() || bases.contains(&entry.id) || plain % 41 == 0
    });
    chosen.collect()
}

fn rot(storage: &Memory, (pack, offset, entry): &(PackId, u32, BlobEntry)) {
    let at = (*offset + entry.stored_len / 2) as usize;
    storage.tamper(&object_name(*pack), |bytes| bytes[at] ^= 1).expect("tamper");
}

fn contents(repo: &Repository) -> BTreeMap<String, Vec<u8>> {
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    let restored = |s| restored(repo, s).unwrap_or_else(|e| panic!("{}: {e}", s.manifest.source));
    snapshots.iter().map(|s| (s.manifest.source.clone(), restored(s))).collect()
}

/// One copy of every duplicated blob rots, then prune: every snapshot still restores. With `unlisted`
/// the index object of the pack with the other copy is lost, too.
fn rot_each(storage: &Memory, world: &Arc<World>) {
    let whole = open(storage.clone(), world).expect("open");
    let expected = contents(&whole);
    let (mut cases, mut refused) = (0, 0);
    for rotten in duplicated(&whole) {
        for unlisted in [false, true] {
            let storage = storage.fork();
            rot(&storage, &rotten);
            if unlisted && !lose_index_of_others(&storage, world, &rotten) {
                continue;
            }
            let report = Collect::default();
            let repo = open(storage.clone(), world).expect("open");
            let context = format!("{rotten:?}, unlisted: {unlisted}");
            match prune(&repo, &prune_options(), false, &report, &Cancel::new()) {
                Ok(plan) => assert_eq!(plan.verified_blobs, report.get(Counter::VerifiedBlobs), "{context}"),
                Err(e) => {
                    assert!(unlisted && e.kind() == Kind::Damaged, "{context}: {e}");
                    refused += 1;
                }
            }
            let repo = open(storage, world).expect("open");
            if unlisted {
                repair::repair_index(&repo, &Silent, &Cancel::new()).expect("repair");
                pruned(&repo).unwrap_or_else(|e| panic!("{context}: prune after repair: {e}"));
            }
            assert!(contents(&repo) == expected, "{context}");
            cases += 1;
        }
    }
    assert!(cases > 10 && refused > 0, "{cases} cases, {refused} refused");
}

/// Deletes the index objects that list no pack but those with another copy of `rotten`; false if there is none.
fn lose_index_of_others(storage: &Memory, world: &Arc<World>, rotten: &(PackId, u32, BlobEntry)) -> bool {
    let repo = open(storage.clone(), world).expect("open");
    let mut lost = false;
    for id in repo.list_index().expect("index").into_keys() {
        let object = repo.read_index_object(id).expect("an index object");
        let holds = |id| object.packs.iter().any(|p| p.id != rotten.0 && p.entries.iter().any(|e| e.id == id));
        if holds(rotten.2.id) && object.packs.iter().all(|p| p.id != rotten.0) {
            storage.delete(&index_name(id)).expect("delete");
            lost = true;
        }
    }
    lost
}

#[test]
fn a_rotten_copy_never_outlives_the_whole_one() {
    let (storage, world) = (Memory::new(), World::new(201));
    init(storage.clone(), &world);
    take_twice(&storage, &world, "shop", &noise(200_000, 1));
    rot_each(&storage, &world);
}

/// As [`a_rotten_copy_never_outlives_the_whole_one`], of deltas and their bases.
#[test]
fn neither_does_a_rotten_base() {
    let (storage, world) = (Memory::new(), World::new(202));
    let sizes = InitOptions { chunk_bytes: 32 << 10, pack_bytes: 64 << 10, kdf: CHEAP };
    Repository::init(&storage, world.as_ref(), PASSPHRASE, "test", sizes).expect("init");
    let repo = open(storage.clone(), &world).expect("open");
    take_twice(&storage, &world, "shop", &dump(8000, 0));
    world.pass(SignedDuration::from_hours(24));
    take(&repo, "shop-1", &dump(8000, 1)).expect("take");
    world.pass(SignedDuration::from_hours(24));
    take_twice(&storage, &world, "shop", &dump(8000, 2));
    assert!(copies(&repo).iter().any(|(_, _, entry)| entry.base.is_some()), "no deltas");
    rot_each(&storage, &world);
}

/// Of two copies of a chunk one is whole in itself, and rots; the other is the difference to a base that nothing else
/// needs, in a pack that stays. That the base goes makes it unreadable: so the rotten one is verified before. Or a
/// crash left the base in a pack that no index object lists: with a repair the other copy is there again.
#[test]
fn no_base_goes_before_the_other_copy_is_verified() {
    let (mut bases_went, mut refused) = (0, 0);
    // Which copy is counted on is up to the ids of index objects.
    for seed in 210..216 {
        let (storage, world) = (Memory::new(), World::new(seed));
        take_whole_and_as_deltas(&storage, &world);
        let repo = open(storage.clone(), &world).expect("open");
        let (expected, all) = (contents(&repo), copies(&repo));
        let deltas: BTreeSet<BlobId> = all.iter().filter(|(.., e)| e.base.is_some()).map(|(.., e)| e.id).collect();
        let whole: Vec<_> = all.iter().filter(|(.., e)| e.base.is_none() && deltas.contains(&e.id)).collect();
        assert!(whole.len() > 5, "{} of {} chunks are stored as deltas, too", whole.len(), all.len());
        for (rotten, unlisted) in whole.into_iter().flat_map(|rotten| [(rotten, false), (rotten, true)]) {
            let (storage, context) = (storage.fork(), format!("seed {seed}, unlisted: {unlisted}: {rotten:?}"));
            rot(&storage, rotten);
            if unlisted {
                lose_index_of_forgotten(&storage, &world);
            }
            let repo = open(storage.clone(), &world).expect("open");
            let options = PruneOptions { max_unused: MaxUnused::Unlimited, ..prune_options() };
            match prune(&repo, &options, false, &Silent, &Cancel::new()) {
                Ok(plan) => bases_went += plan.deleted_packs,
                Err(e) => {
                    assert!(unlisted && e.kind() == Kind::Damaged, "{context}: {e}");
                    refused += 1;
                }
            }
            let repo = open(storage, &world).expect("open");
            if unlisted {
                repair::repair_index(&repo, &Silent, &Cancel::new()).expect("repair");
            }
            assert!(contents(&repo) == expected, "{context}");
        }
    }
    assert!(bases_went > 0 && refused > 0, "{bases_went} went, {refused} refused");
}

/// Deletes the index objects that list nothing but packs of forgotten snapshots.
fn lose_index_of_forgotten(storage: &Memory, world: &Arc<World>) {
    let repo = open(storage.clone(), world).expect("open");
    let snapshots = repo.list_snapshots().expect("list");
    for id in repo.list_index().expect("index").into_keys() {
        let object = repo.read_index_object(id).expect("an index object");
        if object.packs.iter().all(|pack| !snapshots.contains(&pack.session)) {
            storage.delete(&index_name(id)).expect("delete");
        }
    }
}

/// A snapshot whose chunks are whole, and one, with more in its pack, that has the same chunks as deltas to what is
/// forgotten. Returns the machine that took the first, whose cache lists that before the other.
fn take_whole_and_as_deltas(storage: &Memory, world: &Arc<World>) -> (Repository, Fault<Memory>) {
    let sizes = InitOptions { chunk_bytes: 32 << 10, pack_bytes: 1 << 20, kdf: CHEAP };
    Repository::init(storage, world.as_ref(), PASSPHRASE, "test", sizes).expect("init");
    // The first session began before the bases were stored.
    let fault = Fault::new(storage.clone());
    let (first, second) = (open(fault.clone(), world).expect("open"), open(storage.clone(), world).expect("open"));
    let once = std::sync::Once::new();
    let meanwhile = move |call: &Call| {
        if call.operation == Operation::PutNew && call.name.starts_with("packs/") {
            once.call_once(|| {
                let bases = take(&second, "shop", &dump(8000, 0)).expect("take").id;
                take(&second, "shop", &[dump(8000, 1), noise(300_000, 1)].concat()).expect("take");
                forget_ids(&second, &[bases]).expect("forget");
            });
        }
        false
    };
    fault.when(meanwhile, Effect::Fail);
    take(&first, "other", &dump(8000, 1)).expect("take");
    (first, fault)
}

/// A pack is to be repacked, and the only copy of a blob in it is rotten: the pack stays as it is, and the others go.
#[test]
fn a_pack_that_can_not_be_repacked_stays() {
    let (storage, world) = (Memory::new(), World::new(209));
    let repo = init(storage.clone(), &world);
    let (kept, other) = (noise(200_000, 1), noise(200_000, 2));
    // Alternating pieces, so that each pack is partly used.
    let both: Vec<u8> = kept.chunks(20_000).zip(other.chunks(20_000)).flat_map(|(a, b)| [a, b].concat()).collect();
    let first = take(&repo, "shop", &both).expect("take").id;
    take(&repo, "kept", &kept).expect("take");
    forget_ids(&repo, &[first]).expect("forget");
    let ids: BTreeSet<BlobId> = {
        let (snapshots, _) = repo.snapshots().expect("snapshots");
        let indexed = repo.index_to_read(&Silent).expect("index");
        let reader = Reader::new(&indexed).expect("reader");
        let part = &parts_of(&repo, &snapshots[0])[0];
        reader.entries(&part.recipe).map(|entry| entry.expect("recipe").id).collect()
    };
    // In a pack of the forgotten session, which needs to be repacked; the pack of the other is used as a whole.
    let packs: BTreeSet<PackId> =
        repo.cache.packs().expect("packs").into_iter().filter(|p| p.session == first).map(|p| p.id).collect();
    let used = |(pack, _, entry): &(PackId, u32, BlobEntry)| packs.contains(pack) && ids.contains(&entry.id);
    let copies = copies(&repo);
    let rotten = copies.iter().find(|copy| used(copy)).expect("a chunk that the other snapshot shares");
    rot(&storage, rotten);
    let report = Collect::default();
    let repo = open(storage.clone(), &world).expect("open");
    let plan = prune(&repo, &prune_options(), false, &report, &Cancel::new()).expect("prune");
    assert!(plan.deleted_packs > 0 && plan.deleted_packs < plan.repack_packs + plan.unused_packs, "{plan:?}");
    let object = object_name(rotten.0);
    assert!(report.problems().iter().any(|problem| problem.object == object), "{:?}", report.problems());
    assert!(storage.stat(&object).expect("stat").is_some());
    // Everything else is there.
    let found =
        check(&open(storage, &world).expect("open"), Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
    assert_eq!(found.problems.len(), 1, "{:?}", found.problems);
}

/// A generation is damaged while its prune is about to delete bases: it counts on whole copies. A repair that counts on
/// the deltas condemns the bases all the same, so that nobody relies on them.
#[test]
fn a_repair_condemns_bases_that_a_prune_is_about_to_delete() {
    let mut cases = 0;
    for seed in 216..224 {
        let (storage, world) = (Memory::new(), World::new(seed));
        let (first, fault) = take_whole_and_as_deltas(&storage, &world);
        let (copy, others, once) = (storage.clone(), Arc::clone(&world), std::sync::Once::new());
        let repaired = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&repaired);
        let meanwhile = move |call: &Call| {
            if call.operation == Operation::Delete && call.name.starts_with("packs/") {
                once.call_once(|| {
                    let fresh = || open(copy.clone(), &others).expect("open");
                    let (newest, _) = fresh().newest_generation().expect("generation");
                    copy.tamper(&generation_name(newest), |bytes| bytes.fill(7)).expect("tamper");
                    let done = repair::repair_index(&fresh(), &Silent, &Cancel::new()).expect("repair");
                    assert!(done.generation_replaced);
                    take(&fresh(), "late", &dump(8000, 0)).expect("take");
                    seen.store(true, Ordering::SeqCst);
                });
            }
            false
        };
        fault.when(meanwhile, Effect::Fail);
        let options = PruneOptions { max_unused: MaxUnused::Unlimited, ..prune_options() };
        drop(prune(&first, &options, false, &Silent, &Cancel::new()));
        if repaired.load(Ordering::SeqCst) {
            let after = open(storage, &world).expect("open");
            assert_eq!(contents(&after).len(), 3, "seed {seed}");
            cases += 1;
        }
    }
    assert!(cases > 0);
}

/// A check distrusts a copy that is whole afterwards: it was rotten on the disk, or could not be read.
fn set_aside_in_vain(storage: &Memory, world: &Arc<World>, chunk: &(PackId, u32, BlobEntry), rots: bool) {
    let fault = Fault::new(storage.clone());
    let checker = open(fault.clone(), world).expect("open");
    if rots {
        rot(storage, chunk);
    } else {
        let name = object_name(chunk.0);
        let reads = move |call: &Call| call.operation == Operation::GetRange && call.name == name;
        fault.when(reads, Effect::Fail);
    }
    check(&checker, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
    fault.heal();
    if rots {
        // The disk gives it again.
        rot(storage, chunk);
    }
    let owner = open(storage.clone(), world).expect("open");
    assert!(!owner.newest_generation().expect("generation").1.distrusted.is_empty());
}

/// A check sets aside what it could not read, for the moment. Where only a snapshot of a write-only slot needs that, a
/// prune goes on, and leaves it where it is.
#[test]
fn what_was_set_aside_in_vain_stays_for_a_write_only_slot() {
    for (seed, is_partly_used) in [(224, false), (225, true)] {
        for rots in [false, true] {
            let (storage, world) = (Memory::new(), World::new(seed));
            let owner = init(storage.clone(), &world);
            key::add(&owner, SlotKind::WriteOnly, "host", OTHER, CHEAP).expect("add");
            // So small that its recipe stands in the manifest.
            let data = noise(20_000, 1);
            let old = take(&owner, "shop", &data).expect("take").id;
            let host = open_with(storage.clone(), &world, OTHER).expect("open");
            take(&host, "host", &data).expect("take");
            let kept = if is_partly_used { &data[..10_000] } else { &b"other"[..] };
            take(&owner, "kept", kept).expect("take");
            forget_ids(&owner, &[old]).expect("forget");
            let expected = contents(&owner);
            // What the snapshot of the host alone needs.
            let (snapshots, _) = owner.snapshots().expect("snapshots");
            let of_host = snapshots.iter().find(|s| s.manifest.source == "host").expect("a snapshot");
            let last = parts_of(&owner, of_host)[0].recipe.chunks.last().expect("chunks").id;
            let chunk = copies(&owner).into_iter().find(|(.., entry)| entry.id == last).expect("the last chunk");
            set_aside_in_vain(&storage, &world, &chunk, rots);
            let done = pruned(&open(storage.clone(), &world).expect("open"));
            // With the pack a chunk was set aside that a snapshot of a full slot needs.
            assert_eq!(done.is_err(), is_partly_used && !rots, "{done:?}");
            let after = open(storage, &world).expect("open");
            assert!(contents(&after) == expected, "partly used: {is_partly_used}, rots: {rots}");
        }
    }
}

/// A check distrusts a recipe in a pack of the write-only slot. The chunks that it names lie in packs of the full slot,
/// and stay.
#[test]
fn a_recipe_that_was_set_aside_in_vain_keeps_what_it_names() {
    for rots in [false, true] {
        let (storage, world) = (Memory::new(), World::new(226));
        let owner = init(storage.clone(), &world);
        key::add(&owner, SlotKind::WriteOnly, "host", OTHER, CHEAP).expect("add");
        let (front, data) = (noise(150_000, 1), noise(300_000, 1));
        let old = take(&owner, "shop", &front).expect("take").id;
        let host = open_with(storage.clone(), &world, OTHER).expect("open");
        take(&host, "host", &data).expect("take");
        take(&owner, "kept", b"other").expect("take");
        forget_ids(&owner, &[old]).expect("forget");
        let expected = contents(&owner);
        let (snapshots, _) = owner.snapshots().expect("snapshots");
        let of_host = snapshots.iter().find(|s| s.manifest.source == "host").expect("a snapshot");
        let recipe = parts_of(&owner, of_host).remove(0).recipe;
        assert!(recipe.depth > 0);
        let first = recipe.chunks[0].id;
        let chunk = copies(&owner).into_iter().find(|(.., entry)| entry.id == first).expect("a chunk of the recipe");
        set_aside_in_vain(&storage, &world, &chunk, rots);
        pruned(&open(storage.clone(), &world).expect("open")).expect("prune");
        assert!(contents(&open(storage, &world).expect("open")) == expected, "rots: {rots}");
    }
}

/// What has one copy is not read, however much goes.
#[test]
fn prune_reads_no_blob_that_has_one_copy() {
    let (storage, world) = (Memory::new(), World::new(203));
    let repo = init(storage.clone(), &world);
    let old = take(&repo, "shop", &noise(200_000, 1)).expect("take").id;
    world.pass(SignedDuration::from_hours(24));
    take(&repo, "shop", &noise(200_000, 2)).expect("take");
    forget_ids(&repo, &[old]).expect("forget");
    let report = Collect::default();
    let plan = prune(&repo, &prune_options(), false, &report, &Cancel::new()).expect("prune");
    assert!(plan.deleted_packs > 0);
    assert_eq!((plan.verified_blobs, report.get(Counter::VerifiedBlobs)), (0, 0));
}

/// A copy that can't be read for the moment is not damaged: both stay, and go with the next prune.
#[test]
fn both_copies_stay_while_one_cannot_be_read() {
    let (storage, world) = (Memory::new(), World::new(204));
    init(storage.clone(), &world);
    // So small that its recipe stands in the manifest.
    take_twice(&storage, &world, "shop", &noise(20_000, 1));
    let packs = || storage.names().into_iter().filter(|name| name.starts_with("packs/")).collect::<BTreeSet<_>>();
    let before = packs();
    let fault = Fault::new(storage.clone());
    let repo = open(fault.clone(), &world).expect("open");
    repo.index(&Silent).expect("index");
    let reads_packs = |call: &Call| call.operation == Operation::GetRange && call.name.starts_with("packs/");
    fault.when(reads_packs, Effect::Fail);
    let report = Collect::default();
    let plan = prune(&repo, &prune_options(), false, &report, &Cancel::new()).expect("prune");
    fault.heal();
    assert!(plan.unverified_packs > 0 && plan.deleted_packs == 0, "{plan:?}");
    assert!(!report.problems().is_empty());
    assert_eq!(packs(), before);
    let plan = pruned(&open(storage.clone(), &world).expect("open")).expect("prune");
    assert!(plan.deleted_packs > 0 && plan.verified_blobs > 0, "{plan:?}");
    assert_eq!(contents(&open(storage, &world).expect("open")).len(), 2);
}

// ---- Two forgets ----

/// Calls `work` once, just before call number `k` of those that `fault` still sees; true once it was called.
fn at_call(fault: &Fault<Memory>, k: usize, work: impl FnOnce() + Send + 'static) -> Arc<AtomicBool> {
    let (first, called) = (fault.operations(), Arc::new(AtomicBool::new(false)));
    let (work, seen) = (Mutex::new(Some(work)), Arc::clone(&called));
    let condition = move |call: &Call| {
        if call.index == first + k
            && let Some(work) = work.lock().expect("no panic").take()
        {
            work();
            seen.store(true, Ordering::SeqCst);
        }
        false
    };
    fault.when(condition, Effect::Fail);
    called
}

/// What somebody wants to forget.
#[derive(Clone)]
enum Wish {
    KeepLast(u32),
    Named(SnapshotId),
}

fn forget_by(repo: &Repository, wish: &Wish) -> Result<forget::Plan> {
    let plan = || match wish {
        Wish::KeepLast(n) => {
            let policy = Policy { keep_last: Some(Count::N(*n)), ..Policy::default() };
            forget::plan(repo, &Filter::default(), &policy)
        }
        Wish::Named(id) => forget::plan_named(repo, &[id.to_string()], false),
    };
    forget::carry_out(repo, plan()?, &plan, &Silent, &Cancel::new())
}

/// Snapshots of one source, one a day, the newest last.
fn days(storage: &Memory, world: &Arc<World>, n: u64) -> Vec<SnapshotId> {
    let repo = init(storage.clone(), world);
    let day = |day| {
        world.pass(SignedDuration::from_hours(24));
        take(&repo, "shop", &noise(20_000, day)).expect("take").id
    };
    (0..n).map(day).collect()
}

/// Each of two forgets alone leaves a good snapshot; so do both, wherever one interrupts the other.
#[test]
fn two_forgets_leave_a_good_snapshot_of_each_source() {
    let (storage, world) = (Memory::new(), World::new(205));
    let ids = days(&storage, &world, 2);
    let wishes = [Wish::Named(ids[0]), Wish::Named(ids[1]), Wish::KeepLast(1)];
    let (mut cases, mut both) = (0, 0);
    for (one, other) in [(0, 1), (1, 0), (2, 1), (1, 2)] {
        for k in 0.. {
            let storage = storage.fork();
            let fault = Fault::new(storage.clone());
            let repo = open(fault.clone(), &world).expect("open");
            let (copy, wish) = (open(storage.clone(), &world).expect("open"), wishes[other].clone());
            let done = Arc::new(AtomicBool::new(false));
            let inner = Arc::clone(&done);
            let called = at_call(&fault, k, move || {
                let ended = forget_by(&copy, &wish);
                inner.store(ended.is_ok_and(|plan| !plan.remove.is_empty()), Ordering::SeqCst);
            });
            let ended = forget_by(&repo, &wishes[one]);
            let left = contents(&open(storage.clone(), &world).expect("open"));
            assert!(!left.is_empty(), "forgets {one} and {other} at call {k}");
            if let Err(e) = &ended {
                assert_eq!(e.kind(), Kind::Usage, "{e}");
            }
            if !called.load(Ordering::SeqCst) {
                break;
            }
            both += u32::from(done.load(Ordering::SeqCst));
            cases += 1;
        }
    }
    assert!(cases > 40 && both > 10, "{cases} cases, {both} times the other forgot");
}

/// Whatever was decided before a crash, the next forget does, whatever it is asked for.
#[test]
fn the_next_forget_completes_one_that_crashed() {
    let (storage, world) = (Memory::new(), World::new(206));
    let ids = days(&storage, &world, 3);
    let mut decided = 0;
    for k in 0.. {
        let storage = storage.fork();
        let fault = Fault::new(storage.clone());
        let repo = open(fault.clone(), &world).expect("open");
        fault.when(at(fault.operations() + k), Effect::DieAfter);
        let ended = forget_by(&repo, &Wish::KeepLast(1));
        if !fault.is_off() {
            ended.expect("without a crash");
            break;
        }
        let repo = open(storage.clone(), &world).expect("open");
        let (_, state) = repo.newest_generation().expect("generation");
        let there = repo.list_snapshots().expect("list").len();
        if !state.forgotten.is_empty() && there > 1 {
            let plan = forget_by(&repo, &Wish::KeepLast(10)).expect("forget");
            assert!(plan.remove.is_empty() && !plan.pending.is_empty(), "call {k}: {plan:?}");
            decided += 1;
        }
        let plan = forget_by(&repo, &Wish::KeepLast(1)).expect("forget");
        assert_eq!(plan.harmed.len(), 0);
        assert_eq!(repo.list_snapshots().expect("list"), BTreeSet::from([ids[2]]), "call {k}");
        pruned(&repo).expect("prune");
        assert!(repo.newest_generation().expect("generation").1.forgotten.is_empty());
    }
    assert!(decided > 1, "{decided}");
}

/// A forget at any moment of a prune takes nothing from it: what the prune has judged stands.
#[test]
fn a_forget_does_not_stop_a_prune() {
    let (storage, world) = (Memory::new(), World::new(207));
    let ids = days(&storage, &world, 3);
    forget_by(&open(storage.clone(), &world).expect("open"), &Wish::Named(ids[0])).expect("forget");
    let (mut cases, mut busy) = (0, 0);
    for k in 0.. {
        let storage = storage.fork();
        let fault = Fault::new(storage.clone());
        let repo = open(fault.clone(), &world).expect("open");
        let (copy, wish) = (open(storage.clone(), &world).expect("open"), Wish::Named(ids[1]));
        let called = at_call(&fault, k, move || drop(forget_by(&copy, &wish).expect("forget")));
        match pruned(&repo) {
            Ok(plan) => assert!(plan.deleted_packs > 0, "call {k}: {plan:?}"),
            Err(e) => {
                assert_eq!(e.kind(), Kind::Busy, "call {k}: {e}");
                busy += 1;
            }
        }
        let after = open(storage, &world).expect("open");
        assert!(contents(&after).len() == 1, "call {k}");
        if !called.load(Ordering::SeqCst) {
            break;
        }
        pruned(&after).unwrap_or_else(|e| panic!("call {k}: the next prune: {e}"));
        let (_, state) = after.newest_generation().expect("generation");
        assert!(state.condemned.iter().all(|c| c.since <= state.judged), "call {k}");
        cases += 1;
    }
    // Only a forget between the prune's publication and its look whether that counts makes it stop.
    assert!(cases > 20 && busy * 5 < cases, "{busy} of {cases} stopped");
}

/// Without the right to publish its decision a forget says so, and removes nothing.
#[test]
fn a_forget_that_may_not_publish_says_what_it_lacks() {
    let (storage, world) = (Memory::new(), World::new(208));
    let ids = days(&storage, &world, 2);
    let repo = open(Guarded(storage.clone()), &world).expect("open");
    let error = forget_by(&repo, &Wish::Named(ids[0])).expect_err("denied");
    assert_eq!(error.kind(), Kind::Denied);
    assert!(error.to_string().contains("nothing was forgotten"), "{error}");
    assert!(error.advice().is_some_and(|hint| hint.contains("prune/")));
    assert_eq!(repo.list_snapshots().expect("list").len(), 2);
}

/// A store whose credentials may create nothing under `prune/`.
struct Guarded(Memory);

impl Storage for Guarded {
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        if name.starts_with("prune/") {
            return Err(Error::new(Kind::Denied, format!("{name}: not with these credentials")));
        }
        self.0.put_new(name, bytes)
    }
    fn put_replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.0.put_replace(name, bytes)
    }
    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        self.0.get(name, bytes_max)
    }
    fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.0.get_range(name, offset, len)
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.0.list(prefix)
    }
    fn stat(&self, name: &str) -> Result<Option<u64>> {
        self.0.stat(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.0.delete(name)
    }
    fn location(&self) -> String {
        self.0.location()
    }
}

// ---- A check beside a writer ----

/// A check finds a chunk damaged that a snapshot at work counts on. The snapshot stores it again where its source can
/// be read again, and fails where it can not: a snapshot that is published is whole.
#[test]
fn what_is_found_damaged_meanwhile_is_not_counted_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = noise(300_000, 1);
    let file = folder.path().join("file");
    std::fs::write(&file, &data).expect("write");
    std::fs::write(folder.path().join("new"), noise(100_000, 2)).expect("write");
    let both = [data.clone(), noise(100_000, 2)].concat();
    for can_be_read_again in [true, false] {
        let (storage, world) = (Memory::new(), World::new(213));
        let owner = init(storage.clone(), &world);
        take(&owner, "shop", &data).expect("take");
        let copy = copies(&owner).into_iter().find(|(_, _, entry)| entry.raw_len > 500).expect("a chunk");
        let checker = open(storage.clone(), &world).expect("open");
        let harmed = storage.clone();
        let check = move |_: &str| {
            rot(&harmed, &copy);
            let found = check(&checker, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
            assert!(!found.problems.is_empty());
        };
        let before = Before::new(&storage, Operation::PutNew, "index/", check);
        let repo = open(before, &world).expect("open");
        let source = if can_be_read_again {
            Source::Files(vec![folder.path().to_owned()])
        } else {
            Source::Stream { input: Box::new(&both[..]), bytes: None }
        };
        let taken = snapshot(&repo, source, &options("both"), &Silent, &Cancel::new());
        assert_eq!(taken.is_ok(), can_be_read_again, "{taken:?}");
        let found = check_all(&owner);
        match taken {
            Ok(taken) => {
                let named = |id: &String| *id == taken.id.to_string();
                assert!(!found.iter().any(|problem| problem.snapshots.iter().any(named)), "{found:?}");
            }
            Err(e) => {
                assert_eq!(e.kind(), Kind::Damaged, "{e}");
                assert_eq!(owner.list_snapshots().expect("list").len(), 1);
            }
        }
    }
}

fn check_all(repo: &Repository) -> Vec<Problem> {
    check(repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check").problems
}

// ---- Two key changes ----

const OTHER: &[u8] = b"the other passphrase";
const NEW: &[u8] = b"a new passphrase";

/// A repository with two full slots: that of [`PASSPHRASE`] and that of [`OTHER`].
fn two_slots(seed: u64) -> (Memory, Arc<World>, SlotId, SlotId) {
    let (storage, world) = (Memory::new(), World::new(seed));
    let repo = init(storage.clone(), &world);
    let other = key::add(&repo, SlotKind::Full, "other", OTHER, CHEAP).expect("add");
    (storage, world, repo.keys.slot(), other)
}

/// True when the passphrase opens a slot that may write.
fn may_write(storage: &Memory, world: &Arc<World>, passphrase: &[u8]) -> bool {
    open_with(storage.clone(), world, passphrase).is_ok_and(|repo| repo.index(&Silent).is_ok())
}

#[test]
fn two_who_remove_each_others_slot_leave_one() {
    let (storage, world, one, other) = two_slots(209);
    let mut refused = 0;
    for k in 0.. {
        let storage = storage.fork();
        let fault = Fault::new(storage.clone());
        let repo = open(fault.clone(), &world).expect("open");
        let copy = open_with(storage.clone(), &world, OTHER).expect("open");
        let called = at_call(&fault, k, move || drop(key::remove(&copy, &one.to_string())));
        let removed = key::remove(&repo, &other.to_string());
        let left = [PASSPHRASE, OTHER].map(|passphrase| may_write(&storage, &world, passphrase));
        assert_eq!(left.iter().filter(|left| **left).count(), 1, "call {k}: {left:?}, {removed:?}");
        match removed {
            Ok(change) => assert_eq!(change.remaining.iter().map(|s| s.id).collect::<Vec<_>>(), [one]),
            Err(e) => {
                assert!(matches!(e.kind(), Kind::WrongKey | Kind::NotFound | Kind::Usage), "call {k}: {e}");
                refused += 1;
            }
        }
        if !called.load(Ordering::SeqCst) {
            break;
        }
    }
    assert!(refused > 2, "{refused}");
}

/// Who changes the passphrase of a slot that is removed meanwhile has no slot afterwards; the other has.
#[test]
fn a_change_of_a_slot_that_is_removed_meanwhile_leaves_no_other() {
    let (storage, world, _, other) = two_slots(210);
    let (mut changed, mut refused) = (0, 0);
    for k in 0.. {
        let storage = storage.fork();
        let fault = Fault::new(storage.clone());
        let repo = open_with(fault.clone(), &world, OTHER).expect("open");
        let copy = open(storage.clone(), &world).expect("open");
        let removal = Arc::new(AtomicBool::new(false));
        let removes = Arc::clone(&removal);
        let called = at_call(&fault, k, move || {
            removes.store(key::remove(&copy, &other.to_string()).is_ok(), Ordering::SeqCst);
        });
        let change = key::change(&repo, NEW, CHEAP);
        assert!(may_write(&storage, &world, PASSPHRASE), "call {k}");
        assert!(!may_write(&storage, &world, OTHER) || change.is_err(), "call {k}");
        assert_eq!(may_write(&storage, &world, NEW), change.is_ok(), "call {k}");
        match change {
            Ok(change) => {
                assert!(change.remaining.iter().any(|slot| slot.id == change.id));
                changed += 1;
            }
            Err(e) => {
                assert!(removal.load(Ordering::SeqCst) && e.kind() == Kind::WrongKey, "call {k}: {e}");
                refused += 1;
            }
        }
        if !called.load(Ordering::SeqCst) {
            break;
        }
    }
    assert!(changed > 0 && refused > 2, "{changed} changed, {refused} refused");
}

/// A slot that can't be read is none, and a slot that was removed writes nothing any more.
#[test]
fn damaged_and_removed_slots_do_not_count() {
    let (storage, world, one, other) = two_slots(211);
    let (repo, theirs) = (open(storage.clone(), &world).expect("open"), open_with(storage.clone(), &world, OTHER));
    let name = alluvium::format::keyslot::object_name(one);
    let whole = storage.get(&name, 1 << 20).expect("the slot");
    storage.tamper(&name, |bytes| bytes[0] ^= 1).expect("tamper");
    let error = key::remove(&repo, &other.to_string()).expect_err("the last that can be read");
    assert_eq!(error.kind(), Kind::Usage, "{error}");
    storage.put_replace(&name, &whole).expect("put");
    let change = key::remove(&repo, &other.to_string()).expect("remove");
    assert_eq!((change.id, change.remaining.len()), (other, 1));
    let theirs = theirs.expect("open");
    let refused = [
        take(&theirs, "shop", b"data").map(|_| ()).expect_err("a snapshot"),
        key::add(&theirs, SlotKind::Full, "", NEW, CHEAP).map(|_| ()).expect_err("key add"),
        key::remove(&theirs, &one.to_string()).map(|_| ()).expect_err("key remove"),
        forget_by(&theirs, &Wish::KeepLast(1)).map(|_| ()).expect_err("forget"),
        pruned(&theirs).map(|_| ()).expect_err("prune"),
    ];
    for error in refused {
        assert_eq!(error.kind(), Kind::WrongKey, "{error}");
        assert!(error.to_string().contains("was removed"), "{error}");
    }
    assert_eq!(key::list(&repo, &Silent).expect("list").len(), 1);
}
