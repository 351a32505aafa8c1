//! Which generations count, what they say of themselves, and what is done about those that do not.

use std::sync::Arc;

use alluvium::env::{Cancel, Env};
use alluvium::error::{Error, Kind};
use alluvium::format::ObjectKind;
use alluvium::format::coordination::{Beat, Generation, beat_name, generation_name};
use alluvium::format::keyslot::SlotKind;
use alluvium::ops::check::{Checked, Subset, check};
use alluvium::ops::{key, repair};
use alluvium::repo::Repository;
use alluvium::repo::fence::live_sessions;
use alluvium::repo::generations::doubled;
use alluvium::repo::open::{CacheOptions, Locked};
use alluvium::repo::session::{Session, Writing};
use alluvium::report::Silent;
use alluvium::storage::Storage;
use alluvium::storage::fault::{Effect, Fault, Operation, on};
use alluvium::storage::memory::Memory;
use jiff::SignedDuration;

use crate::support::{
    CHEAP, PASSPHRASE, World, dump, forget_ids, init, noise, open, open_with, pruned, restored, take,
};

/// A repository, and somebody with a stolen write-only passphrase.
fn robbed(seed: u64) -> (Memory, Arc<World>, Repository, Repository) {
    let (storage, world) = (Memory::new(), World::new(seed));
    let owner = init(storage.clone(), &world);
    key::add(&owner, SlotKind::WriteOnly, "", b"write", CHEAP).expect("add");
    let thief = open_with(storage.clone(), &world, b"write").expect("open");
    (storage, world, owner, thief)
}

/// Takes the name of a generation with an object that the authority has not signed.
fn occupy(storage: &Memory, thief: &Repository, number: u64) {
    let name = generation_name(number);
    let forged = thief.seal_object(ObjectKind::Generation, &name, &Generation::default().encode());
    storage.put_new(&name, &forged).expect("put");
}

fn check_all(repo: &Repository) -> Checked {
    check(repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check")
}

fn writer() -> Writing {
    Writing { host: "host".to_owned(), purpose: "snapshot".to_owned() }
}

/// The next names are taken by what does not count. What a prune condemns is condemned since the
/// generation that it got, not since the one that it began to ask for.
#[test]
fn what_is_condemned_is_condemned_since_the_generation_that_was_published() {
    let (storage, world, owner, thief) = robbed(61);
    let old = take(&owner, "shop", &noise(300_000, 1)).expect("take").id;
    world.pass(SignedDuration::from_hours(24));
    take(&owner, "shop", &noise(300_000, 2)).expect("take");
    forget_ids(&owner, &[old]).expect("forget");
    let (before, _) = owner.newest_generation().expect("generation");
    occupy(&storage, &thief, before + 1);
    occupy(&storage, &thief, before + 2);
    // It read the generation before: what is condemned after that stays for it.
    let session = Session::begin(&owner, &writer(), &Silent).expect("begin");
    pruned(&open(storage, &world).expect("open")).expect("prune");
    let (number, state) = owner.newest_generation().expect("generation");
    assert!(number >= before + 3 && !state.condemned.is_empty());
    assert!(state.condemned.iter().all(|condemned| condemned.since > before + 2), "{state:?}");
    assert_eq!(state.judged, number);
    drop(session);
}

/// A heartbeat of another author than the session's says nothing, and neither does one of a session whose
/// author nobody knows.
#[test]
fn a_heartbeat_of_another_author_does_not_count() {
    let (storage, world, owner, thief) = robbed(62);
    take(&owner, "shop", &dump(30, 0)).expect("take");
    let session = Session::begin(&owner, &writer(), &Silent).expect("begin");
    let name = beat_name(session.id);
    let beat = |by: &Repository| {
        let beat = Beat { count: 9, time: world.now(), generation: 5 };
        storage.put_replace(&name, &by.seal_object(ObjectKind::Session, &name, &beat.encode())).expect("put");
        live_sessions(&owner, None).expect("sessions").remove(0).generation
    };
    assert_eq!((beat(&owner), beat(&thief)), (5, 0));
    let registration = alluvium::format::coordination::session_name(session.id);
    storage.tamper(&registration, |bytes| *bytes.last_mut().expect("bytes") ^= 1).expect("tamper");
    assert_eq!((beat(&owner), beat(&thief)), (0, 0));
    assert_eq!(live_sessions(&owner, None).expect("sessions")[0].seen, world.now());
}

/// Somebody whose full slot was removed still has the authority of the ended epoch. The names that he takes
/// are skipped, and what he orders is reported.
#[test]
fn a_generation_of_an_ended_epoch_blocks_nobody() {
    let (storage, world) = (Memory::new(), World::new(63));
    let owner = init(storage.clone(), &world);
    let old = take(&owner, "shop", &dump(30, 0)).expect("take").id;
    let thief = open(storage.clone(), &world).expect("open");
    key::rotate(&owner).expect("rotate");
    let (number, state) = owner.newest_generation().expect("generation");
    for taken in [number + 1, number + 2, number + 60] {
        let (name, content) = (generation_name(taken), Generation::default().encode());
        let order = thief.keys.seal_order(world.as_ref(), ObjectKind::Generation, &name, &content).expect("seal");
        storage.put_new(&name, &doubled(&order)).expect("put");
    }
    let found = owner.find_generation().expect("find");
    assert_eq!((found.number, found.void.len(), found.is_damaged), (number, 3, false));
    // A session that knew the ended epoch alone may have read them. Nobody waits less for that.
    assert!(owner.counts_now(number).expect("looks") && !owner.counts_now(number + 1).expect("looks"));
    assert_eq!(owner.publish_generation(number + 1, &state).expect("publish"), number + 3);
    take(&owner, "shop", &dump(30, 1)).expect("take");
    forget_ids(&owner, &[old]).expect("forget");
    repair::repair_index(&owner, &Silent, &Cancel::new()).expect("repair");
    assert!(owner.find_generation().expect("find").void.is_empty());
}

/// What a process publishes that does not know of a new epoch yet does not count for less than it says.
#[test]
fn a_publisher_notices_a_new_epoch() {
    let (storage, world) = (Memory::new(), World::new(64));
    let owner = init(storage.clone(), &world);
    let late = open(storage, &world).expect("open");
    key::rotate(&owner).expect("rotate");
    let (number, state) = owner.newest_generation().expect("generation");
    assert_eq!(late.publish_generation(number + 1, &state).expect_err("plan again").kind(), Kind::Busy);
    assert_eq!(late.publish_generation(number + 1, &state).expect("publish"), number + 1);
}

/// Anybody who may create objects can put bytes under `prune/`. They stop nobody, and a repair removes them.
#[test]
fn garbage_under_prune_stops_nobody() {
    let (storage, world) = (Memory::new(), World::new(65));
    let owner = init(storage.clone(), &world);
    let data = noise(300_000, 1);
    let old = take(&owner, "shop", &noise(300_000, 2)).expect("take").id;
    world.pass(SignedDuration::from_hours(24));
    let kept = take(&owner, "shop", &data).expect("take").id;
    let (before, _) = owner.newest_generation().expect("generation");
    for above in 1..4 {
        storage.put_new(&generation_name(before + above), b"nobody can read this").expect("put");
    }
    let packs = owner.list_packs().expect("packs").len();
    take(&owner, "shop", &data).expect("take");
    assert_eq!(owner.list_packs().expect("packs").len(), packs, "what is stored is relied on");
    forget_ids(&owner, &[old]).expect("forget");
    let slot = key::add(&owner, SlotKind::WriteOnly, "", b"w", CHEAP).expect("add");
    key::remove(&owner, &slot.to_string()).expect("key remove");
    assert!(pruned(&owner).expect("prune").deleted_packs > 0);
    let found = owner.find_generation().expect("find");
    assert!(found.number > before + 3 && found.void.is_empty(), "{found:?}");
    let named = |object: &str| check_all(&owner).problems.iter().any(|problem| problem.object == object);
    assert!(named(&generation_name(before + 1)));
    repair::repair_index(&owner, &Silent, &Cancel::new()).expect("repair");
    assert!(!named(&generation_name(before + 1)));
    let snapshot = owner.snapshot(kept).expect("snapshot");
    assert_eq!(restored(&owner, &snapshot).expect("restore"), data);
}

/// A bad sector costs one copy of a generation, wherever it is: the other counts, and a check reports it.
#[test]
fn a_generation_of_which_one_copy_is_damaged_counts() {
    let (storage, world) = (Memory::new(), World::new(67));
    let owner = init(storage.clone(), &world);
    take(&owner, "shop", &dump(30, 0)).expect("take");
    let slot = key::add(&owner, SlotKind::WriteOnly, "", b"w", CHEAP).expect("add");
    key::remove(&owner, &slot.to_string()).expect("key remove");
    let (number, state) = owner.newest_generation().expect("generation");
    let name = generation_name(number);
    let whole = storage.get(&name, 1 << 20).expect("get");
    assert!((4096..8192).contains(&whole.len()));
    let blocks = [0..4096, 4096..whole.len()];
    for at in (0..whole.len()).filter(|at| at % 7 == 0 && whole[*at] != 0).chain([0, 4096]) {
        let block = blocks.iter().find(|block| block.contains(&at)).expect("a block").clone();
        storage.tamper(&name, |bytes| bytes[block].fill(0x40)).expect("tamper");
        let fresh = open(storage.clone(), &world).expect("open");
        assert_eq!(fresh.newest_generation().expect("generation"), (number, state.clone()), "byte {at}");
        assert!(fresh.flaw_of_generation(&name, &storage.get(&name, 1 << 20).expect("get")).is_some());
        storage.tamper(&name, |bytes| bytes.clone_from(&whole)).expect("tamper");
    }
    assert_eq!(owner.flaw_of_generation(&name, &whole).map(|e| e.to_string()), None);
    storage.tamper(&name, |bytes| bytes[40] ^= 1).expect("tamper");
    assert!(check_all(&owner).problems.iter().any(|problem| problem.object == name));
    repair::repair_index(&owner, &Silent, &Cancel::new()).expect("repair");
    assert!(check_all(&owner).problems.is_empty());
    assert_eq!(owner.newest_generation().expect("generation"), (number + 1, state));
}

/// A generation that this machine has seen count and that can't be read now stops whatever would follow it,
/// until a repair condemns all that it could have condemned.
#[test]
fn nobody_but_a_repair_follows_a_generation_that_was_seen_and_is_damaged() {
    let (storage, world) = (Memory::new(), World::new(68));
    init(storage.clone(), &world);
    let folder = tempfile::tempdir().expect("a folder");
    let locked = Locked::find(Arc::new(storage.clone())).expect("find");
    let cache = CacheOptions::in_folder(Some(folder.path()));
    let owner = locked.open(Arc::clone(&world) as Arc<dyn Env>, PASSPHRASE, cache).expect("open");
    let data = noise(300_000, 1);
    let old = take(&owner, "shop", &noise(300_000, 2)).expect("take").id;
    world.pass(SignedDuration::from_hours(24));
    let kept = take(&owner, "shop", &data).expect("take").id;
    let slot = key::add(&owner, SlotKind::WriteOnly, "", b"w", CHEAP).expect("add");
    key::remove(&owner, &slot.to_string()).expect("key remove");
    let (number, _) = owner.newest_generation().expect("generation");
    owner.older_than_seen(&Silent).expect("is noted as seen");
    let damaged = generation_name(number);
    storage.tamper(&damaged, |bytes| bytes.fill(7)).expect("tamper");
    let is_refused = |error: Error| {
        assert_eq!(error.kind(), Kind::Damaged, "{error}");
        assert!(error.advice().is_some_and(|hint| hint.contains("repair index")), "{error}");
    };
    is_refused(pruned(&owner).expect_err("prune"));
    is_refused(forget_ids(&owner, &[old]).expect_err("forget"));
    let slot = key::add(&owner, SlotKind::WriteOnly, "", b"w2", CHEAP).expect("add");
    is_refused(key::remove(&owner, &slot.to_string()).expect_err("key remove"));
    let repaired = repair::repair_index(&owner, &Silent, &Cancel::new()).expect("repair");
    assert!(repaired.generation_replaced);
    assert!(check_all(&owner).problems.iter().all(|problem| problem.object != damaged));
    let (after, state) = owner.newest_generation().expect("generation");
    assert!(after > number && state.judged == after);
    assert!(state.condemned.iter().all(|c| c.since == after));
    forget_ids(&owner, &[old]).expect("forget");
    pruned(&owner).expect("prune");
    let snapshot = owner.snapshot(kept).expect("snapshot");
    assert_eq!(restored(&owner, &snapshot).expect("restore"), data);
}

/// What does not count at a milestone does not hide what comes after, however old the listing.
#[test]
fn the_way_by_name_leads_over_milestones_that_do_not_count() {
    let (storage, world, owner, thief) = robbed(66);
    let empty = Generation::default();
    // Taken before anybody came there, with the name after it; and damaged afterwards.
    occupy(&storage, &thief, 64);
    occupy(&storage, &thief, 65);
    let mut number = 0;
    while number < 330 {
        number = owner.publish_generation(number + 1, &empty).expect("publish");
    }
    storage.tamper(&generation_name(128), |bytes| *bytes.last_mut().expect("bytes") ^= 1).expect("tamper");
    let find = || {
        let fault = Fault::new(storage.clone());
        let repo = open(fault.clone(), &world).expect("open");
        fault.when(on(Operation::List, "prune/"), Effect::Cut(0));
        repo.find_generation().expect("find").number
    };
    let is_there = |number| storage.stat(&generation_name(number)).expect("stat").is_some();
    assert!(is_there(66) && !is_there(67) && !is_there(129) && !is_there(1));
    assert_eq!(find(), number);
    repair::repair_index(&owner, &Silent, &Cancel::new()).expect("repair");
    assert_eq!(find(), number);
}
