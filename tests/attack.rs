//! Attacks of the review.
use std::sync::Arc;

use alluvium::env::{Cancel, Env};
use alluvium::format::index::{self, IndexedPack};
use alluvium::format::keyslot::SlotKind;
use alluvium::format::pack::object_name;
use alluvium::format::{ObjectKind, certificate};
use alluvium::id::{PackId, SlotId, SnapshotId};
use alluvium::ops::check::check;
use alluvium::ops::key;
use alluvium::repo::Repository;
use alluvium::report::{Problem, Silent};
use alluvium::storage::Storage;
use alluvium::storage::fault::{Effect, Fault, Operation, on};
use alluvium::storage::memory::Memory;
use jiff::SignedDuration;

use crate::support::{
    CHEAP, World, dump, forget_ids, indexed, init, noise, open, open_with, parts_of, pruned, restored, take,
};

fn add(repo: &Repository, kind: SlotKind, passphrase: &[u8]) -> SlotId {
    key::add(repo, kind, "another", passphrase, CHEAP).expect("key add")
}

fn recipe_pack(repo: &Repository, id: SnapshotId) -> PackId {
    let snapshot = repo.snapshot(id).expect("snapshot");
    let parts = parts_of(repo, &snapshot);
    assert!(parts[0].recipe.depth > 0, "needs a recipe chunk");
    let _ = indexed(repo);
    repo.cache.copies(&parts[0].recipe.chunks[0].id).expect("copies")[0].pack
}

fn is_whole(storage: &Memory, world: &Arc<World>, id: SnapshotId, data: &[u8]) -> String {
    let repo = open(storage.clone(), world).expect("open");
    alluvium::ops::repair::repair_index(&repo, &alluvium::report::Silent, &alluvium::env::Cancel::new())
        .expect("repair");
    match repo.snapshot(id).and_then(|s| restored(&repo, &s)) {
        Ok(bytes) if bytes == data => "whole".to_owned(),
        Ok(_) => "wrong bytes".to_owned(),
        Err(e) => format!("lost: {e}"),
    }
}

/// A recipe that can't be read for now (EIO, a network that fails) in a snapshot of a write-only slot.
fn unreadable_recipe(kind: SlotKind, how: &str) {
    let (storage, world) = (Memory::new(), World::new(1));
    let owner = init(storage.clone(), &world);
    add(&owner, kind, b"other");
    let host = open_with(storage.clone(), &world, b"other").expect("open");
    take(&owner, "shop", &dump(300, 0)).expect("take");
    let data = noise(400_000, 2);
    let mail = take(&host, "mail", &data).expect("take").id;
    // Last night's prune: it lists the packs.
    let owner = open(storage.clone(), &world).expect("open");
    pruned(&owner).expect("prune");
    world.pass(SignedDuration::from_hours(24));
    take(&owner, "shop", &dump(300, 1)).expect("take");
    let owner = open(storage.clone(), &world).expect("open");
    let pack = object_name(recipe_pack(&owner, mail));
    let packs = storage.names().iter().filter(|n| n.starts_with("packs/")).count();
    let fault = Fault::new(storage.clone());
    let bytes = storage.get(&pack, 1 << 30).expect("get");
    match how {
        "unreadable" => {
            fault.when(on(Operation::GetRange, &pack), Effect::Fail);
            fault.when(on(Operation::Get, &pack), Effect::Fail);
        }
        "missing" => storage.delete(&pack).expect("delete"),
        _ => unreachable!(),
    }
    let owner = open(fault.clone(), &world).expect("open");
    let result = pruned(&owner);
    fault.heal();
    if how == "missing" {
        // Brought back from a mirror.
        storage.put_new(&pack, &bytes).expect("put");
    }
    let left = storage.names().iter().filter(|n| n.starts_with("packs/")).count();
    let result = result.map(|p| p.deleted_packs).map_err(|e| e.to_string());
    let whole = is_whole(&storage, &world, mail, &data);
    println!("ATTACK recipe {how} {kind:?}: prune {result:?}, packs {packs} -> {left}, {whole}");
    assert_eq!(whole, "whole");
}

#[test]
fn recipe_unreadable_write_only() {
    unreadable_recipe(SlotKind::WriteOnly, "unreadable");
}
#[test]
fn recipe_unreadable_full() {
    unreadable_recipe(SlotKind::Full, "unreadable");
}
#[test]
fn recipe_missing_write_only() {
    unreadable_recipe(SlotKind::WriteOnly, "missing");
}
#[test]
fn recipe_missing_full() {
    unreadable_recipe(SlotKind::Full, "missing");
}

/// A certificate that does not open; the host's recipes are in its own packs, its data in packs of another slot.
fn lost_certificate(kind: SlotKind, is_missing: bool) {
    let (storage, world) = (Memory::new(), World::new(3));
    let owner = init(storage.clone(), &world);
    let slot = add(&owner, kind, b"other");
    let data = noise(400_000, 2);
    let shop = take(&owner, "shop", &data).expect("take").id;
    let host = open_with(storage.clone(), &world, b"other").expect("open");
    let mine = [&data[..], &noise(5000, 9)[..]].concat();
    let taken = take(&host, "mail", &mine).expect("take");
    assert!(taken.stored.new_bytes < 50_000, "{:?}", taken.stored);
    forget_ids(&owner, &[shop]).expect("forget");
    take(&owner, "other", &dump(300, 1)).expect("take");
    let name = certificate::object_name(slot);
    let bytes = storage.get(&name, 1 << 16).expect("get");
    if is_missing {
        storage.delete(&name).expect("delete");
    } else {
        storage.tamper(&name, |bytes| *bytes.last_mut().expect("bytes") ^= 1).expect("tamper");
    }
    let packs = storage.names().iter().filter(|n| n.starts_with("packs/")).count();
    let result =
        pruned(&open(storage.clone(), &world).expect("open")).map(|p| p.deleted_packs).map_err(|e| e.to_string());
    let left = storage.names().iter().filter(|n| n.starts_with("packs/")).count();
    storage.put_replace(&name, &bytes).expect("put");
    let whole = is_whole(&storage, &world, taken.id, &mine);
    println!("ATTACK certificate {kind:?} missing={is_missing}: prune {result:?}, packs {packs} -> {left}, {whole}");
    assert_eq!(whole, "whole");
}

#[test]
fn certificate_damaged_write_only() {
    lost_certificate(SlotKind::WriteOnly, false);
}
#[test]
fn certificate_damaged_full() {
    lost_certificate(SlotKind::Full, false);
}
#[test]
fn certificate_missing_full() {
    lost_certificate(SlotKind::Full, true);
}

/// One read of a certificate fails during `key rotate`.
fn rotated(fails: bool) {
    let (storage, world) = (Memory::new(), World::new(4));
    let owner = init(storage.clone(), &world);
    let slot = add(&owner, SlotKind::WriteOnly, b"other");
    let host = open_with(storage.clone(), &world, b"other").expect("open");
    let data = noise(100_000, 2);
    let mail = take(&host, "mail", &data).expect("take").id;
    let fault = Fault::new(storage.clone());
    let name = certificate::object_name(slot);
    let owner = open(fault.clone(), &world).expect("open");
    if fails {
        fault.when(on(Operation::Get, &name), Effect::Fail);
    }
    let result = key::rotate(&owner).map_err(|e| e.to_string());
    fault.heal();
    let whole = is_whole(&storage, &world, mail, &data);
    let host = open_with(storage.clone(), &world, b"other").map(drop).map_err(|e| e.to_string());
    println!("ATTACK rotate fails={fails}: {result:?}, {whole}, host {host:?}");
    assert_eq!(whole, "whole");
}

#[test]
fn rotate_with_a_certificate_that_is_unreadable_for_now() {
    rotated(false);
    rotated(true);
}

/// Packs of a stolen write-only slot that a prune has listed, and the certificate of that slot is lost.
#[test]
fn lost_certificate_makes_packs_trusted() {
    let (storage, world) = (Memory::new(), World::new(5));
    let owner = init(storage.clone(), &world);
    let slot = add(&owner, SlotKind::WriteOnly, b"stolen");
    let thief = open_with(storage.clone(), &world, b"stolen").expect("open");
    take(&owner, "shop", &dump(300, 0)).expect("take");
    let data = noise(100_000, 2);
    take(&thief, "mail", &data).expect("take");
    pruned(&open(storage.clone(), &world).expect("open")).expect("prune");
    let stored = || {
        let repo = open(storage.fork(), &world).expect("open");
        take(&repo, "other", &data).expect("take").stored.new_bytes
    };
    let before = stored();
    storage.delete(&certificate::object_name(slot)).expect("delete");
    let after = stored();
    println!("ATTACK trust after lost certificate: stored {before} before, {after} after");
    assert!(after > 90_000);
}

/// A repository after a full slot was stolen, removed and distrusted: the thief has stored `data` in the ended epoch, and
/// lists his packs in the name of the owner, changed by `change`.
fn after_a_distrusted_slot_listed(
    storage: &Memory,
    world: &Arc<World>,
    data: &[u8],
    change: impl Fn(&mut Vec<u8>, &mut IndexedPack),
) {
    let owner = init(storage.clone(), world);
    let stolen = add(&owner, SlotKind::Full, b"stolen");
    take(&owner, "shop", &dump(300, 0)).expect("take");
    world.pass(SignedDuration::from_hours(24));
    // Where he was not removed an honest program gives him packs of the ended epoch.
    let aside = storage.fork();
    key::remove(&owner, &stolen.to_string()).expect("remove");
    key::rotate(&owner).expect("rotate");
    key::distrust(&owner, &stolen.to_string(), world.now()).expect("distrust");
    world.pass(SignedDuration::from_hours(24));
    let his = open_with(aside.clone(), world, b"stolen").expect("open");
    let before = his.list_index().expect("list");
    take(&his, "mail", data).expect("take");
    for id in his.list_index().expect("list").difference(&before) {
        let mut object = his.read_index_object(*id).expect("read");
        for pack in &mut object.packs {
            let name = object_name(pack.id);
            let mut bytes = aside.get(&name, 1 << 30).expect("get");
            pack.claim.author = owner.keys.slot();
            change(&mut bytes, pack);
            storage.put_new(&name, &bytes).expect("put");
        }
        let name = index::object_name(*id);
        let sealed = his.seal_object(ObjectKind::Index, &name, &object.encode());
        storage.put_new(&name, &sealed).expect("put");
    }
}

/// Nobody relies on such packs, a check says that they are another slot's, and a prune lists them as they are.
#[test]
fn a_distrusted_slot_lists_in_the_name_of_another() {
    let (storage, world) = (Memory::new(), World::new(6));
    let data = noise(100_000, 2);
    after_a_distrusted_slot_listed(&storage, &world, &data, |_, _| {});
    let stored = |storage: Memory| {
        let repo = open(storage, &world).expect("open");
        let taken = take(&repo, "other", &data).expect("take");
        assert_eq!(restored(&repo, &repo.snapshot(taken.id).expect("snapshot")).expect("restored"), data);
        taken.stored.new_bytes
    };
    assert!(stored(storage.fork()) > 90_000);
    let owner = open(storage.clone(), &world).expect("open");
    let found = check(&owner, None, &Silent, &Cancel::new()).expect("check");
    let says = |problem: &Problem| problem.object.starts_with("packs/") && problem.what.contains("another author");
    assert!(found.problems.iter().any(says), "{:?}", found.problems);
    pruned(&owner).expect("prune");
    assert!(stored(storage.fork()) > 90_000, "after a prune");
}

/// A pack that can't say what it is, in the name of a full slot and with another size, stops no prune.
#[test]
fn a_distrusted_slot_lists_another_size() {
    let (storage, world) = (Memory::new(), World::new(7));
    after_a_distrusted_slot_listed(&storage, &world, &noise(100_000, 2), |bytes, pack| {
        *bytes.last_mut().expect("a footer") ^= 1;
        pack.size += 1;
    });
    for _ in 0..2 {
        pruned(&open(storage.clone(), &world).expect("open")).expect("prune");
    }
    let owner = open(storage.clone(), &world).expect("open");
    for snapshot in owner.snapshots().expect("snapshots").0 {
        restored(&owner, &snapshot).expect("restored");
    }
}

use crate::thief::Thief;
use alluvium::ops::forget::{self, Filter};
use alluvium::ops::retention::{Count, Policy};

/// `key remove` of a stolen write-only slot: what it writes later is like what full slots write.
#[test]
fn removal_makes_claims_count() {
    for removed in [false, true] {
        let (storage, world) = (Memory::new(), World::new(7));
        let owner = init(storage.clone(), &world);
        let slot = add(&owner, SlotKind::WriteOnly, b"stolen");
        let stolen = open_with(storage.clone(), &world, b"stolen").expect("open");
        let mut honest = Vec::new();
        for day in 0..5 {
            world.pass(SignedDuration::from_hours(24));
            honest.push(take(&owner, "shop", &dump(300, day)).expect("take").id);
        }
        if removed {
            key::remove(&owner, &slot.to_string()).expect("remove");
        }
        for n in 0..5 {
            world.pass(SignedDuration::from_hours(24));
            let now = world.now();
            Thief::new(&stolen).snapshot_of_his_own(now.as_second() as u64 + n, now, None).expect("publish");
        }
        world.pass(SignedDuration::from_hours(1));
        let owner = open(storage.clone(), &world).expect("open");
        let policy = Policy { keep_last: Some(Count::N(5)), ..Policy::default() };
        let plan = forget::plan(&owner, &Filter::default(), &policy).expect("plan");
        let lost = honest.iter().filter(|id| plan.remove.contains(id)).count();
        println!("ATTACK removal (removed={removed}): forget --keep-last 5 removes {lost} of 5 honest");
        if removed {
            assert_eq!(lost, 0);
        }
    }
}

/// Snapshots of a thief with high sequences and old times make the times of honest ones not believed.
#[test]
fn times_of_others() {
    for thief in [false, true] {
        let (storage, world) = (Memory::new(), World::new(8));
        let owner = init(storage.clone(), &world);
        add(&owner, SlotKind::WriteOnly, b"stolen");
        let stolen = open_with(storage.clone(), &world, b"stolen").expect("open");
        let mut honest = Vec::new();
        for day in 0..10 {
            world.pass(SignedDuration::from_hours(24));
            honest.push(take(&owner, "shop", &dump(300, day)).expect("take").id);
        }
        if thief {
            let old: jiff::Timestamp = "2020-01-01T00:00:00Z".parse().expect("a time");
            for n in 0..11 {
                let sequence = world.now().as_second() as u64 + 10 + n;
                Thief::new(&stolen).snapshot_of_his_own(sequence, old, None).expect("publish");
            }
        }
        world.pass(SignedDuration::from_hours(1));
        let owner = open(storage.clone(), &world).expect("open");
        let policy = Policy { keep_daily: Some(Count::N(30)), keep_monthly: Some(Count::N(12)), ..Policy::default() };
        let plan = forget::plan(&owner, &Filter::default(), &policy).expect("plan");
        let lost = honest.iter().filter(|id| plan.remove.contains(id)).count();
        println!("ATTACK times (thief={thief}): forget --keep-daily 30 --keep-monthly 12 removes {lost} of 10 honest");
        assert_eq!(lost, 0);
    }
}

/// A thief's snapshot that says another slot wrote its original, after a sync.
#[test]
fn original_author_of_a_copy() {
    let (storage, world) = (Memory::new(), World::new(9));
    let owner = init(storage.clone(), &world);
    let honest = add(&owner, SlotKind::WriteOnly, b"honest");
    let thief = add(&owner, SlotKind::WriteOnly, b"stolen");
    let host = open_with(storage.clone(), &world, b"honest").expect("open");
    let stolen = open_with(storage.clone(), &world, b"stolen").expect("open");
    let real = take(&host, "shop", &dump(300, 0)).expect("take").id;
    world.pass(SignedDuration::from_hours(24));
    let now = world.now();
    let his = Thief::new(&stolen).snapshot_of_his_own(now.as_second() as u64, now, Some(honest)).expect("publish");
    world.pass(SignedDuration::from_hours(1));
    let copy = Memory::new();
    owner.init_like(&copy, crate::support::PASSPHRASE, "dest", None, CHEAP).expect("init");
    let dest = open(copy, &world).expect("open");
    let options = alluvium::ops::sync::SyncOptions { host: "host".into(), ..Default::default() };
    let synced =
        alluvium::ops::sync::sync(&owner, &dest, &options, &alluvium::report::Silent, &alluvium::env::Cancel::new())
            .expect("sync");
    assert_eq!(synced.copied.len(), 2, "{synced:?}");
    let copied = |id| synced.copied.iter().find(|c| c.original.snapshot == id).and_then(|c| c.id).expect("copied");
    let author = |id| dest.snapshot(copied(id)).expect("snapshot").manifest.original_author;
    println!(
        "ATTACK original author: of the honest one {:?}, of the thief's {:?}; honest slot {honest}, thief {thief}",
        author(real),
        author(his)
    );
    let policy = Policy { keep_last: Some(Count::N(1)), ..Policy::default() };
    let plan = forget::plan(&dest, &Filter::default(), &policy).expect("plan");
    println!(
        "ATTACK original author: forget --keep-last 1 at the destination removes the honest one: {}",
        plan.remove.contains(&copied(real))
    );
    assert_eq!(author(his), Some(thief));
}

/// Garbage under the name of a snapshot that was forgotten: prune refuses, and it can be forgotten by its id.
#[test]
fn garbage_in_place_of_a_forgotten_snapshot() {
    let (storage, world) = (Memory::new(), World::new(10));
    let owner = init(storage.clone(), &world);
    let first = take(&owner, "shop", &dump(300, 0)).expect("take").id;
    world.pass(SignedDuration::from_hours(24));
    take(&owner, "shop", &dump(300, 1)).expect("take");
    forget_ids(&owner, &[first]).expect("forget");
    storage.put_new(&format!("snapshots/{first}"), &[0; 500]).expect("put");
    let owner = open(storage.clone(), &world).expect("open");
    let refusal = pruned(&owner).map(drop).expect_err("a snapshot of a full slot names it as its predecessor");
    assert!(refusal.to_string().contains(&first.to_string()), "{refusal}");
    assert!(refusal.advice().is_some_and(|hint| hint.contains("forgotten by its id")), "{refusal:?}");
    let policy = Policy { keep_last: Some(Count::N(1)), ..Policy::default() };
    forget::plan(&owner, &Filter::default(), &policy).expect("a forget has decided to remove that name");
    // The remedy.
    forget_ids(&owner, &[first]).expect("forget");
    let owner = open(storage.clone(), &world).expect("open");
    pruned(&owner).expect("prune");
}

/// A thief's snapshot in the source says that it is a copy of one that is being taken.
#[test]
fn size_of_a_generation() {
    let (storage, world) = (Memory::new(), World::new(11));
    let owner = init(storage.clone(), &world);
    let first = take(&owner, "shop", &dump(300, 0)).expect("take").id;
    take(&owner, "shop", &dump(300, 1)).expect("take");
    forget_ids(&owner, &[first]).expect("forget");
    pruned(&owner).expect("prune");
    for object in storage.list("prune/").expect("list") {
        println!("ATTACK size of {}: {} bytes for both copies", object.name, object.size);
    }
}

/// Packs of garbage of a thief in the source, and a twin as the destination.
#[test]
fn twin_takes_over_packs_of_a_thief() {
    let (storage, world) = (Memory::new(), World::new(12));
    let owner = init(storage.clone(), &world);
    add(&owner, SlotKind::WriteOnly, b"stolen");
    let stolen = open_with(storage.clone(), &world, b"stolen").expect("open");
    let data = noise(30_000, 3);
    let real = take(&owner, "shop", &data).expect("take").id;
    Thief::new(&stolen).packs_of_garbage(world.now().as_second()).expect("attack");
    let owner = open(storage.clone(), &world).expect("open");
    let copy = Memory::new();
    owner.init_twin(&copy, crate::support::PASSPHRASE, "dest", CHEAP).expect("init");
    let dest = open(copy.clone(), &world).expect("open");
    let options = alluvium::ops::sync::SyncOptions { host: "host".into(), ..Default::default() };
    let synced =
        alluvium::ops::sync::sync(&owner, &dest, &options, &alluvium::report::Silent, &alluvium::env::Cancel::new());
    let synced = synced.map_err(|e| e.to_string()).expect("sync");
    let copied = synced.copied.iter().find(|c| c.original.snapshot == real).and_then(|c| c.id);
    println!(
        "ATTACK twin: copied {copied:?}, failed {:?}, packs {} resealed {}",
        synced.failed, synced.packs_copied, synced.chunks_resealed
    );
    if let Some(copied) = copied {
        let whole = is_whole(&copy, &world, copied, &data);
        println!("ATTACK twin: the copy is {whole}; at the source {}", is_whole(&storage, &world, real, &data));
        // The next snapshot at the twin relies on the garbage.
        let next = take(&open(copy.clone(), &world).expect("open"), "next", &data).expect("take");
        println!(
            "ATTACK twin: a snapshot of the same data there stores {} and is {}",
            next.stored.new_bytes,
            is_whole(&copy, &world, next.id, &data)
        );
        assert_eq!(whole, "whole");
    }
}

#[test]
fn lengths_without_end_in_sync() {
    let (storage, world) = (Memory::new(), World::new(13));
    let owner = init(storage.clone(), &world);
    add(&owner, SlotKind::WriteOnly, b"stolen");
    add(&owner, SlotKind::WriteOnly, b"honest");
    let host = open_with(storage.clone(), &world, b"honest").expect("open");
    let stolen = open_with(storage.clone(), &world, b"stolen").expect("open");
    take(&owner, "shop", &dump(300, 0)).expect("take");
    let mail = take(&host, "mail", &dump(300, 0)).expect("take").id;
    Thief::new(&stolen).endless().expect("attack");
    let owner = open(storage.clone(), &world).expect("open");
    let copy = Memory::new();
    owner.init_like(&copy, crate::support::PASSPHRASE, "dest", None, CHEAP).expect("init");
    let dest = open(copy.clone(), &world).expect("open");
    let options = alluvium::ops::sync::SyncOptions { host: "host".into(), ..Default::default() };
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        alluvium::ops::sync::sync(&owner, &dest, &options, &alluvium::report::Silent, &alluvium::env::Cancel::new())
            .map(|s| s.copied.len())
            .map_err(|e| e.to_string())
    }));
    let there = dest
        .snapshots()
        .expect("snapshots")
        .0
        .iter()
        .filter(|s| s.manifest.original.is_some_and(|o| o.snapshot == mail))
        .count();
    println!(
        "ATTACK lengths: sync {}, copies of the honest write-only snapshot {there}",
        run.map_or("panics".to_owned(), |r| format!("{r:?}"))
    );
    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        alluvium::ops::stats::stats(&owner, &alluvium::report::Silent).map(drop).map_err(|e| e.to_string())
    }));
    println!("ATTACK lengths: stats {}", run.as_ref().map_or("panics".to_owned(), |r| format!("{r:?}")));
    assert!(there == 1 && run.is_ok());
}

/// The key ring is read again once, not for each object of an author whose certificate does not open.
#[test]
fn authors_without_a_certificate() {
    let (storage, world) = (Memory::new(), World::new(14));
    let owner = init(storage.clone(), &world);
    add(&owner, SlotKind::WriteOnly, b"stolen");
    let stolen = open_with(storage.clone(), &world, b"stolen").expect("open");
    take(&owner, "shop", &dump(300, 0)).expect("take");
    Thief::new(&stolen).nobody(200, 100).expect("attack");
    let fault = Fault::new(storage.clone());
    let owner = open(fault.clone(), &world).expect("open");
    let reads = || fault.calls().iter().filter(|call| call.name.starts_with(certificate::PREFIX)).count();
    let (calls, before) = (fault.operations(), reads());
    take(&owner, "shop", &dump(300, 1)).expect("take");
    pruned(&owner).expect("prune");
    let (calls, reads) = (fault.operations() - calls, reads() - before);
    println!("a snapshot and a prune beside 200 + 100 objects make {calls} calls, {reads} of them for certificates");
    assert!(reads < 500, "certificates: {reads} calls");
    assert!(calls < 3000, "{calls} calls");
}

/// A thief's snapshot in the source says that it is a copy of a snapshot that is being taken.
#[test]
fn copy_of_a_snapshot_at_work() {
    let (storage, world) = (Memory::new(), World::new(15));
    let owner = init(storage.clone(), &world);
    add(&owner, SlotKind::WriteOnly, b"stolen");
    let stolen = open_with(storage.clone(), &world, b"stolen").expect("open");
    take(&owner, "mail", &dump(100, 0)).expect("take");
    let copy = Memory::new();
    owner.init_like(&copy, crate::support::PASSPHRASE, "dest", None, CHEAP).expect("init");
    let dest = open(copy.clone(), &world).expect("open");
    let options = alluvium::ops::sync::SyncOptions { host: "host".into(), ..Default::default() };
    let run = || {
        alluvium::ops::sync::sync(
            &open(storage.clone(), &world).expect("open"),
            &dest,
            &options,
            &alluvium::report::Silent,
            &alluvium::env::Cancel::new(),
        )
        .expect("sync")
    };
    // He sees the session at its beginning; a sync runs before it ends.
    let session = std::sync::Mutex::new(None);
    let (inner, (thief_world, id)) = (storage.clone(), (world.clone(), owner.id));
    let seen = Arc::new(session);
    let his = seen.clone();
    let before = crate::support::Before::new(&storage, Operation::PutNew, "packs/", move |_| {
        let name =
            inner.names().into_iter().find(|n| n.starts_with("sessions/") && !n.ends_with(".beat")).expect("a session");
        let at_work: SnapshotId = name["sessions/".len()..].parse().expect("an id");
        crate::thief::ORIGINAL.with(|o| {
            *o.borrow_mut() = Some(alluvium::format::manifest::Original { repository: id, snapshot: at_work })
        });
        *his.lock().expect("lock") = Some(at_work);
        let _ = thief_world;
    });
    let repo = open(before, &world).expect("open");
    // The store calls it on another thread: the id is handed over, the thief acts after the snapshot, before which a sync runs.
    let taken = take(&repo, "shop", &dump(300, 0)).expect("take").id;
    assert_eq!(*seen.lock().expect("lock"), Some(taken));
    let object = storage.get(&format!("snapshots/{taken}"), 1 << 30).expect("get");
    storage.delete(&format!("snapshots/{taken}")).expect("not yet published");
    crate::thief::ORIGINAL.with(|o| {
        *o.borrow_mut() = Some(alluvium::format::manifest::Original { repository: owner.id, snapshot: taken })
    });
    let now = world.now();
    Thief::new(&stolen).snapshot_of_his_own(now.as_second() as u64, now, None).expect("publish");
    crate::thief::ORIGINAL.with(|o| *o.borrow_mut() = None);
    println!("ATTACK at work: the first sync copies {}", run().copied.len());
    storage.put_new(&format!("snapshots/{taken}"), &object).expect("published");
    let second = run();
    println!(
        "ATTACK at work: the second sync copies {}, already {}, failed {:?}",
        second.copied.len(),
        second.already,
        second.failed
    );
    assert_eq!(second.copied.len(), 1);
}

fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default().to_owned()
}

#[test]
fn memory_of_missing_chunks() {
    let (storage, world) = (Memory::new(), World::new(16));
    let owner = init(storage.clone(), &world);
    add(&owner, SlotKind::WriteOnly, b"stolen");
    let stolen = open_with(storage.clone(), &world, b"stolen").expect("open");
    take(&owner, "shop", &dump(300, 0)).expect("take");
    for n in [500, 1000, 2000] {
        Thief::new(&stolen).many_missing(n).expect("attack");
        let bytes: u64 = storage.list("packs/").expect("list").iter().map(|o| o.size).sum();
        let start = std::time::Instant::now();
        let result = pruned(&open(storage.clone(), &world).expect("open")).map(drop).map_err(|e| e.to_string());
        println!(
            "ATTACK memory n={n}: packs of {bytes} bytes in all; prune {result:?} after {:?}, {}",
            start.elapsed(),
            peak()
        );
    }
}

#[test]
fn bombs_in_streams() {
    let (storage, world) = (Memory::new(), World::new(17));
    let owner = init(storage.clone(), &world);
    add(&owner, SlotKind::WriteOnly, b"stolen");
    add(&owner, SlotKind::WriteOnly, b"honest");
    let stolen = open_with(storage.clone(), &world, b"stolen").expect("open");
    let host = open_with(storage.clone(), &world, b"honest").expect("open");
    Thief::new(&stolen).recipe_bomb().expect("attack");
    world.pass(SignedDuration::from_hours(24));
    let mail = take(&host, "mail", &dump(300, 0)).expect("take").id;
    let owner = open(storage.clone(), &world).expect("open");
    let copy = Memory::new();
    let dest = init(copy.clone(), &world);
    let (there, done) = (open(copy, &world).expect("open"), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let ended = done.clone();
    std::thread::spawn(move || {
        let options = alluvium::ops::sync::SyncOptions { host: "host".into(), ..Default::default() };
        let result = alluvium::ops::sync::sync(
            &owner,
            &dest,
            &options,
            &alluvium::report::Silent,
            &alluvium::env::Cancel::new(),
        );
        println!("ATTACK bomb: {:?}", result.map(|s| s.copied.len()).map_err(|e| e.to_string()));
        ended.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    std::thread::sleep(std::time::Duration::from_secs(40));
    let copies = there
        .snapshots()
        .expect("snapshots")
        .0
        .iter()
        .filter(|s| s.manifest.original.is_some_and(|o| o.snapshot == mail))
        .count();
    println!(
        "ATTACK bomb: after 40 s the sync has ended: {}, copies of the honest one: {copies}",
        done.load(std::sync::atomic::Ordering::SeqCst)
    );
}

/// Whoever removes the stolen slot, and distrusts it, and the thief lists his pack as the owner's.
#[test]
fn stale_listing_of_certificates_in_a_rotation() {
    let (storage, world) = (Memory::new(), World::new(18));
    let owner = init(storage.clone(), &world);
    let slot = add(&owner, SlotKind::WriteOnly, b"other");
    let other = add(&owner, SlotKind::Full, b"recovery");
    let host = open_with(storage.clone(), &world, b"other").expect("open");
    let data = noise(50_000, 2);
    let mail = take(&host, "mail", &data).expect("take").id;
    let fault = Fault::new(storage.clone());
    let owner = open(fault.clone(), &world).expect("open");
    let names: Vec<String> = storage.names().into_iter().filter(|n| n.starts_with("slots/")).collect();
    for shown in [names.len() - 1, 1, 0] {
        let storage = storage.fork();
        let fault = Fault::new(storage.clone());
        let owner = open(fault.clone(), &world).expect("open");
        fault.when(on(Operation::List, "slots/"), Effect::Cut(shown));
        let result = key::rotate(&owner).map_err(|e| e.to_string());
        fault.heal();
        let opens = |passphrase: &[u8]| {
            open_with(storage.clone(), &world, passphrase)
                .map(drop)
                .map_err(|e| e.to_string().chars().take(90).collect::<String>())
        };
        println!(
            "ATTACK cut listing ({shown} of {}): rotate {result:?}; owner {:?}; recovery {:?}; host {:?}",
            names.len(),
            opens(crate::support::PASSPHRASE),
            opens(b"recovery"),
            opens(b"other")
        );
    }
    let _ = (slot, other, mail, owner, fault);
}

/// A listing of `slots/` that is cut short, during a prune.
#[test]
fn cut_listing_of_certificates_in_a_prune() {
    for seed in 20..40 {
        let (storage, world) = (Memory::new(), World::new(seed));
        let owner = init(storage.clone(), &world);
        let slot = add(&owner, SlotKind::WriteOnly, b"other");
        if slot < owner.keys.slot() {
            continue;
        }
        let data = noise(400_000, 2);
        let shop = take(&owner, "shop", &data).expect("take").id;
        let host = open_with(storage.clone(), &world, b"other").expect("open");
        let mine = [&data[..], &noise(5000, 9)[..]].concat();
        let taken = take(&host, "mail", &mine).expect("take");
        forget_ids(&owner, &[shop]).expect("forget");
        take(&owner, "other", &dump(300, 1)).expect("take");
        let fault = Fault::new(storage.clone());
        fault.when(on(Operation::List, "slots/"), Effect::Cut(1));
        let result =
            pruned(&open(fault.clone(), &world).expect("open")).map(|p| p.deleted_packs).map_err(|e| e.to_string());
        println!("ATTACK cut listing in a prune: {result:?}, {}", is_whole(&storage, &world, taken.id, &mine));
        return;
    }
}

/// The newest key epoch does not open; a host whose slot was made in it; a machine that has not seen the epoch.
#[test]
fn damaged_epoch_in_a_prune() {
    let (storage, world) = (Memory::new(), World::new(41));
    let owner = init(storage.clone(), &world);
    take(&owner, "shop", &dump(300, 0)).expect("take");
    key::rotate(&owner).expect("rotate");
    let owner = open(storage.clone(), &world).expect("open");
    add(&owner, SlotKind::WriteOnly, b"other");
    let host = open_with(storage.clone(), &world, b"other").expect("open");
    let data = noise(400_000, 2);
    let mail = take(&host, "mail", &data).expect("take").id;
    pruned(&open(storage.clone(), &world).expect("open")).expect("prune");
    let name = "epochs/00000002";
    let bytes = storage.get(name, 1 << 24).expect("get");
    storage.tamper(name, |bytes| *bytes.last_mut().expect("bytes") ^= 1).expect("tamper");
    let packs = storage.names().iter().filter(|n| n.starts_with("packs/")).count();
    let result =
        open(storage.clone(), &world).and_then(|r| pruned(&r)).map(|p| p.deleted_packs).map_err(|e| e.to_string());
    storage.put_replace(name, &bytes).expect("put");
    let left = storage.names().iter().filter(|n| n.starts_with("packs/")).count();
    println!(
        "ATTACK damaged epoch: prune {result:?}, packs {packs} -> {left}, {}",
        is_whole(&storage, &world, mail, &data)
    );
}

/// Times of a thief after he was distrusted.
#[test]
fn times_of_a_distrusted_slot() {
    let (storage, world) = (Memory::new(), World::new(42));
    let owner = init(storage.clone(), &world);
    let slot = add(&owner, SlotKind::WriteOnly, b"stolen");
    let stolen = open_with(storage.clone(), &world, b"stolen").expect("open");
    let mut honest = Vec::new();
    for day in 0..10 {
        world.pass(SignedDuration::from_hours(24));
        honest.push(take(&owner, "shop", &dump(300, day)).expect("take").id);
    }
    let old: jiff::Timestamp = "2020-01-01T00:00:00Z".parse().expect("a time");
    for n in 0..11 {
        Thief::new(&stolen).snapshot_of_his_own(world.now().as_second() as u64 + 10 + n, old, None).expect("publish");
    }
    world.pass(SignedDuration::from_hours(1));
    key::remove(&owner, &slot.to_string()).expect("remove");
    key::distrust(&owner, &slot.to_string(), "2019-01-01T00:00:00Z".parse().expect("a time")).expect("distrust");
    let owner = open(storage.clone(), &world).expect("open");
    let policy = Policy { keep_daily: Some(Count::N(30)), ..Policy::default() };
    let plan = forget::plan(&owner, &Filter::default(), &policy).expect("plan");
    println!(
        "ATTACK times, distrusted: removes {} of 10 honest",
        honest.iter().filter(|id| plan.remove.contains(id)).count()
    );
}
