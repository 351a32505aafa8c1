//! The crash matrix: every operation that changes a repository is cut off at every one of its storage
//! calls, before the call and after it. Then the machine comes back, and everything must be as if the
//! operation had happened or not: check is clean, what was a snapshot restores, new snapshots work, and prune
//! clears up what was left.
#![allow(clippy::print_stdout, reason = "a matrix tells how many cases it had")]

use std::sync::Arc;

use alluvium::env::Cancel;
use alluvium::error::Result;
use alluvium::format::keyslot::SlotKind;
use alluvium::ops::check::{Subset, check};
use alluvium::ops::{key, repair};
use alluvium::repo::Repository;
use alluvium::report::Silent;
use alluvium::storage::Storage;
use alluvium::storage::fault::{Effect, Fault, at};
use alluvium::storage::memory::Memory;
use jiff::SignedDuration;

use crate::support::{
    CHEAP, PASSPHRASE, World, dump, forget_ids, init, noise, open, open_with, prune_options, pruned, restored, take,
};

/// A repository with some history, and what its snapshots must give back.
struct Scene {
    storage: Memory,
    world: Arc<World>,
    /// Data by the time-ordered number of the snapshot.
    days: Vec<Vec<u8>>,
}

impl Scene {
    /// Four snapshots of two sources; the oldest is forgotten when `forgotten`, so that prune has work.
    fn new(seed: u64, forgotten: bool) -> Self {
        let (storage, world) = (Memory::new(), World::new(seed));
        let repo = init(storage.clone(), &world);
        let mut days = Vec::new();
        for day in 0..4 {
            world.pass(SignedDuration::from_hours(24));
            // Rows that the days share, or differ in a little, and what nobody needs when the day is gone.
            let data = [dump(1500, day), noise(6000, day as u64)].concat();
            let name = if day % 2 == 0 { "shop" } else { "wiki" };
            take(&repo, name, &data).expect("take");
            days.push(data);
        }
        if forgotten {
            let (snapshots, _) = repo.snapshots().expect("snapshots");
            let oldest: Vec<_> = snapshots.iter().rev().take(2).map(|s| s.id).collect();
            forget_ids(&repo, &oldest).expect("forget");
            days.drain(..2);
        }
        world.pass(SignedDuration::from_hours(24));
        Self { storage, world, days }
    }
}

/// Runs `work` on a fresh copy of the scene for every call it makes, cut off there; `after` judges the wreck.
/// Returns how many crashes were survived.
fn matrix(scene: &Scene, work: &dyn Fn(&Repository) -> Result<()>, after: &dyn Fn(&Memory, &str)) -> usize {
    let mut crashes = 0;
    for before in [true, false] {
        for k in 0.. {
            let storage = scene.storage.fork();
            let fault = Fault::new(storage.clone());
            // Opening is not what is tested: faults begin with the work.
            let repo = open(fault.clone(), &scene.world).expect("open");
            let first = fault.operations();
            fault.when(at(first + k), if before { Effect::Die } else { Effect::DieAfter });
            let result = work(&repo);
            if !fault.is_off() {
                result.expect("without a crash the work succeeds");
                break;
            }
            let calls = fault.calls();
            let last = calls.last().map(|c| format!("{:?} {}", c.operation, c.name)).unwrap_or_default();
            after(&storage, &format!("call {k} ({last}), {}", if before { "before it" } else { "after it" }));
            crashes += 1;
        }
    }
    crashes
}

/// Everything that must hold after any crash.
fn judge(scene: &Scene, storage: &Memory, context: &str) {
    let repo = open(storage.clone(), &scene.world).unwrap_or_else(|e| panic!("{context}: open: {e}"));
    check_clean(&repo, context);
    expect_days(scene, &repo, &scene.days, context);
    let mut days = scene.days.clone();
    scene.world.pass(SignedDuration::from_mins(1));
    days.push(dump(1500, 9));
    take(&repo, "shop", &days[days.len() - 1]).unwrap_or_else(|e| panic!("{context}: snapshot again: {e}"));
    // Long enough for every dead session to be taken for dead.
    scene.world.pass(SignedDuration::from_hours(2));
    let plan = pruned(&repo).unwrap_or_else(|e| panic!("{context}: prune: {e}"));
    assert_eq!(plan.waiting_packs, 0, "{context}: nothing is waited for");
    check_clean(&repo, context);
    expect_days(scene, &repo, &days, context);
    let again = pruned(&repo).unwrap_or_else(|e| panic!("{context}: prune again: {e}"));
    assert_eq!((again.unused_packs, again.deleted_packs), (0, 0), "{context}: prune left garbage");
    assert!(repo.storage.list("sessions/").expect("list").is_empty(), "{context}: sessions are left");
    // Another machine, without this one's cache.
    let other = open(storage.clone(), &scene.world).expect("open");
    expect_days(scene, &other, &days, context);
}

fn check_clean(repo: &Repository, context: &str) {
    let found =
        check(repo, Some(Subset::ALL), &Silent, &Cancel::new()).unwrap_or_else(|e| panic!("{context}: check: {e}"));
    assert!(found.problems.is_empty(), "{context}: {:?}", found.problems);
}

/// Every day's data is the data of a snapshot, and every snapshot's data that of a day: a snapshot that was being taken
/// may be there, whole, or not.
fn expect_days(scene: &Scene, repo: &Repository, days: &[Vec<u8>], context: &str) {
    let (snapshots, unreadable) = repo.snapshots().unwrap_or_else(|e| panic!("{context}: snapshots: {e}"));
    assert!(unreadable.is_empty(), "{context}: {unreadable:?}");
    let found: Vec<Vec<u8>> = snapshots
        .iter()
        .map(|s| restored(repo, s).unwrap_or_else(|e| panic!("{context}: restore of {}: {e}", s.id)))
        .collect();
    for (number, day) in days.iter().enumerate() {
        assert!(found.contains(day), "{context}: day {number} is lost");
    }
    let allowed = [days, &[dump(1500, 7)], &scene.days].concat();
    assert!(found.iter().all(|data| allowed.contains(data)), "{context}: a snapshot holds what nobody stored");
}

fn report(name: &str, crashes: usize) {
    assert!(crashes > 0, "{name} made no storage call");
    println!("crash matrix: {name}: {crashes} crashes survived");
}

#[test]
fn snapshot_survives_every_crash() {
    let scene = Scene::new(1, false);
    let work = |repo: &Repository| take(repo, "shop", &dump(1500, 7)).map(|_| ());
    report("snapshot", matrix(&scene, &work, &|storage, context| judge(&scene, storage, context)));
}

#[test]
fn forget_survives_every_crash() {
    let mut scene = Scene::new(2, false);
    let (snapshots, _) = open(scene.storage.clone(), &scene.world).expect("open").snapshots().expect("snapshots");
    let oldest: Vec<_> = snapshots.iter().rev().take(2).map(|s| s.id).collect();
    let forgotten = scene.days.drain(..2).collect::<Vec<_>>();
    let work = |repo: &Repository| forget_ids(repo, &oldest);
    let crashes = matrix(&scene, &work, &|storage, context| {
        // Any of the two may still be there: whole.
        let repo = open(storage.clone(), &scene.world).expect("open");
        let (left, _) = repo.snapshots().expect("snapshots");
        for snapshot in &left {
            let data = restored(&repo, snapshot).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert!(scene.days.contains(&data) || forgotten.contains(&data), "{context}");
        }
        forget_ids(&repo, &oldest).expect("forget again");
        judge(&scene, storage, context);
    });
    report("forget", crashes);
}

#[test]
fn prune_survives_every_crash() {
    let scene = Scene::new(3, true);
    let work = |repo: &Repository| {
        let plan = pruned(repo)?;
        assert!(plan.deleted_packs > 0 && plan.repack_packs > 0, "the scene makes prune delete and repack: {plan:?}");
        Ok(())
    };
    report("prune", matrix(&scene, &work, &|storage, context| judge(&scene, storage, context)));
}

#[test]
fn key_changes_survive_every_crash() {
    let scene = Scene::new(4, false);
    let add = |repo: &Repository| key::add(repo, SlotKind::WriteOnly, "host", b"another", CHEAP).map(|_| ());
    let opens = |storage: &Memory, passphrase: &[u8]| open_with(storage.clone(), &scene.world, passphrase).is_ok();
    let crashes = matrix(&scene, &add, &|storage, context| judge(&scene, storage, context));
    report("key add", crashes);
    let change = |repo: &Repository| key::change(repo, b"a new one", CHEAP).map(|_| ());
    let crashes = matrix(&scene, &change, &|storage, context| {
        assert!(opens(storage, PASSPHRASE) || opens(storage, b"a new one"), "{context}: no passphrase opens");
        // Once its removal is published, the old passphrase may read and not write.
        let repo = open_with(storage.clone(), &scene.world, PASSPHRASE);
        if repo.is_ok_and(|repo| repo.index(&Silent).is_ok()) {
            judge(&scene, storage, context);
        }
    });
    report("key change", crashes);
}

#[test]
fn repair_survives_every_crash() {
    let mut scene = Scene::new(5, true);
    // One index object is lost, one is garbage, and so is the generation: all that repair mends.
    let repo = open(scene.storage.clone(), &scene.world).expect("open");
    pruned(&repo).expect("prune");
    take(&repo, "wiki", &scene.days[1]).expect("take");
    let names = |prefix: &str| scene.storage.names().into_iter().filter(|n| n.starts_with(prefix)).collect::<Vec<_>>();
    let index = names("index/");
    scene.storage.delete(&index[0]).expect("delete");
    scene.storage.tamper(&index[1], |bytes| bytes[40] ^= 1).expect("tamper");
    scene.storage.tamper(&names("prune/")[0], |bytes| bytes[40] ^= 1).expect("tamper");
    scene.storage = scene.storage.fork();
    let work = |repo: &Repository| repair::repair_index(repo, &Silent, &Cancel::new()).map(|_| ());
    let crashes = matrix(&scene, &work, &|storage, context| {
        let repo = open(storage.clone(), &scene.world).expect("open");
        repair::repair_index(&repo, &Silent, &Cancel::new()).unwrap_or_else(|e| panic!("{context}: repair again: {e}"));
        judge(&scene, storage, context);
    });
    report("repair index", crashes);
}

/// A crash while a cache on disk is in use: the cache of the crashed run is used again afterwards.
#[test]
fn the_local_cache_survives_every_crash_of_prune() {
    let scene = Scene::new(6, true);
    let mut crashes = 0;
    for k in 0.. {
        let folder = tempfile::tempdir().expect("tempdir");
        let storage = scene.storage.fork();
        let fault = Fault::new(storage.clone());
        let cached = |storage: Arc<dyn Storage>| {
            Repository::open(storage, Arc::clone(&scene.world) as _, PASSPHRASE, Some(folder.path())).expect("open")
        };
        let repo = cached(Arc::new(fault.clone()));
        let first = fault.operations();
        fault.when(at(first + k), Effect::DieAfter);
        let result = pruned(&repo);
        drop(repo);
        if !fault.is_off() {
            result.expect("without a crash prune succeeds");
            break;
        }
        let repo = cached(Arc::new(storage.clone()));
        let context = format!("call {k}");
        expect_days(&scene, &repo, &scene.days, &context);
        // The forgotten day again: its chunks may be in the cache and must not be believed to be stored.
        scene.world.pass(SignedDuration::from_mins(1));
        let day = dump(1500, 0);
        take(&repo, "shop", &day).unwrap_or_else(|e| panic!("{context}: {e}"));
        let (snapshots, _) = repo.snapshots().expect("snapshots");
        assert_eq!(restored(&repo, &snapshots[0]).unwrap_or_else(|e| panic!("{context}: {e}")), day, "{context}");
        crashes += 1;
    }
    report("prune with a cache on disk", crashes);
    let _ = prune_options();
}
