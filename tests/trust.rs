//! What a stolen passphrase, a lost object or a short listing must not do to what others stored.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use alluvium::env::{Cancel, Env};
use alluvium::error::Kind;
use alluvium::format::index::{self, IndexedPack};
use alluvium::format::keyslot::SlotKind;
use alluvium::format::pack::{BlobEntry, object_name};
use alluvium::format::{ObjectKind, certificate, epoch, manifest};
use alluvium::id::{PackId, SlotId, SnapshotId};
use alluvium::ops::check::{Subset, check};
use alluvium::ops::forget::{self, Filter};
use alluvium::ops::retention::{Count, Policy};
use alluvium::ops::snapshot::{Source, snapshot};
use alluvium::ops::stats::{savings, stats};
use alluvium::ops::{key, repair};
use alluvium::repo::Repository;
use alluvium::repo::session::{Session, Writing};
use alluvium::report::{Problem, Silent};
use alluvium::storage::Storage;
use alluvium::storage::fault::{Call, Effect, Fault, Operation, on};
use alluvium::storage::memory::Memory;
use jiff::{SignedDuration, Timestamp};

use crate::support::{
    Before, CHEAP, Interrupting, PASSPHRASE, World, dump, forget_ids, indexed, init, noise, open, open_cached,
    open_cached_with, open_with, options, parts_of, pruned, restored, take,
};
use crate::thief::Thief;

const OTHER: &[u8] = b"another passphrase";

/// A repository with the slot of [`PASSPHRASE`] and one of [`OTHER`]; a repository open with each.
struct Scene {
    storage: Memory,
    world: Arc<World>,
    owner: Repository,
    slot: SlotId,
    other: Repository,
}

impl Scene {
    fn new(seed: u64, kind: SlotKind) -> Self {
        let (storage, world) = (Memory::new(), World::new(seed));
        let owner = init(storage.clone(), &world);
        let slot = key::add(&owner, kind, "other", OTHER, CHEAP).expect("key add");
        let other = open_with(storage.clone(), &world, OTHER).expect("open");
        Self { storage, world, owner, slot, other }
    }

    /// On a machine that has seen nothing.
    fn fresh(&self) -> Repository {
        open(self.storage.clone(), &self.world).expect("open")
    }

    fn a_day_later(&self) {
        self.world.pass(SignedDuration::from_hours(24));
    }

    fn packs(&self) -> usize {
        self.fresh().list_packs().expect("packs").len()
    }

    /// The snapshot comes back, after a repair of whatever is wrong with the index.
    fn expect_whole(&self, id: SnapshotId, data: &[u8], context: &str) {
        let repo = self.fresh();
        repair::repair_index(&repo, &Silent, &Cancel::new()).expect("repair");
        let bytes = repo.snapshot(id).and_then(|snapshot| restored(&repo, &snapshot));
        let bytes = bytes.unwrap_or_else(|e| panic!("{context}: {e}"));
        assert!(bytes == data, "{context}: other bytes");
    }

    /// How many of `honest` a policy removes.
    fn removes(&self, honest: &[SnapshotId], policy: &Policy) -> usize {
        let plan = forget::plan(&self.fresh(), &Filter::default(), policy).expect("plan");
        honest.iter().filter(|id| plan.remove.contains(id)).count()
    }

    /// Daily snapshots of `shop` by the owner.
    fn days(&self, days: usize) -> Vec<SnapshotId> {
        let day = |day| {
            self.a_day_later();
            take(&self.owner, "shop", &dump(100, day)).expect("take").id
        };
        (0..days).map(day).collect()
    }
}

fn keep_last(count: u32) -> Policy {
    Policy { keep_last: Some(Count::N(count)), ..Policy::default() }
}

// ---- What a prune can't read ----

/// The pack with the first recipe chunk of a snapshot.
fn recipe_pack(repo: &Repository, id: SnapshotId) -> PackId {
    let parts = parts_of(repo, &repo.snapshot(id).expect("snapshot"));
    assert!(parts[0].recipe.depth > 0, "needs a recipe chunk");
    let _ = indexed(repo);
    repo.cache.copies(&parts[0].recipe.chunks[0].id).expect("copies")[0].pack
}

/// A recipe that the storage does not give for now, or whose pack is missing and is brought back later: what it names is
/// not known, whoever wrote it.
#[test]
fn a_recipe_that_can_not_be_read_stops_a_prune() {
    for (kind, is_missing) in
        [(SlotKind::WriteOnly, false), (SlotKind::WriteOnly, true), (SlotKind::Full, false), (SlotKind::Full, true)]
    {
        let scene = Scene::new(1, kind);
        take(&scene.owner, "shop", &dump(300, 0)).expect("take");
        let data = noise(400_000, 2);
        let mail = take(&scene.other, "mail", &data).expect("take").id;
        // Last night's prune lists the packs of a write-only slot.
        pruned(&scene.fresh()).expect("prune");
        scene.a_day_later();
        take(&scene.owner, "shop", &dump(300, 1)).expect("take");
        let pack = object_name(recipe_pack(&scene.fresh(), mail));
        let (before, bytes) = (scene.packs(), scene.storage.get(&pack, 1 << 30).expect("get"));
        let fault = Fault::new(scene.storage.clone());
        if is_missing {
            scene.storage.delete(&pack).expect("delete");
        } else {
            fault.when(on(Operation::GetRange, &pack), Effect::Fail);
            fault.when(on(Operation::Get, &pack), Effect::Fail);
        }
        let refused = pruned(&open(fault, &scene.world).expect("open")).expect_err("refused");
        assert_eq!(refused.kind(), if is_missing { Kind::Damaged } else { Kind::Storage }, "{refused}");
        if is_missing {
            scene.storage.put_new(&pack, &bytes).expect("put");
        }
        assert_eq!(scene.packs(), before);
        scene.expect_whole(mail, &data, "the recipe is back");
    }
}

/// Snapshots of a slot whose certificate is lost need chunks in packs of others, by recipes in packs of their own.
#[test]
fn what_needs_a_lost_certificate_keeps_packs_of_others() {
    for (kind, is_missing) in [(SlotKind::WriteOnly, false), (SlotKind::Full, false), (SlotKind::Full, true)] {
        let scene = Scene::new(3, kind);
        let data = noise(400_000, 2);
        let shop = take(&scene.owner, "shop", &data).expect("take").id;
        let mine = [&data[..], &noise(5000, 9)[..]].concat();
        let taken = take(&scene.other, "mail", &mine).expect("take");
        assert!(taken.stored.new_bytes < 50_000, "{:?}", taken.stored);
        forget_ids(&scene.owner, &[shop]).expect("forget");
        take(&scene.owner, "other", &dump(300, 1)).expect("take");
        let name = certificate::object_name(scene.slot);
        let bytes = scene.storage.get(&name, 1 << 16).expect("get");
        if is_missing {
            scene.storage.delete(&name).expect("delete");
        } else {
            scene.storage.tamper(&name, |bytes| *bytes.last_mut().expect("bytes") ^= 1).expect("tamper");
        }
        pruned(&scene.fresh()).expect("prune");
        scene.storage.put_replace(&name, &bytes).expect("put");
        scene.expect_whole(taken.id, &mine, &format!("{kind:?}, missing: {is_missing}"));
    }
}

/// A listing of `slots/` that is cut short: what it lacks is read by name.
#[test]
fn a_short_listing_of_certificates_costs_a_prune_nothing() {
    for shown in 0..2 {
        let scene = Scene::new(20, SlotKind::WriteOnly);
        let data = noise(400_000, 2);
        let shop = take(&scene.owner, "shop", &data).expect("take").id;
        let mine = [&data[..], &noise(5000, 9)[..]].concat();
        let taken = take(&scene.other, "mail", &mine).expect("take").id;
        forget_ids(&scene.owner, &[shop]).expect("forget");
        take(&scene.owner, "other", &dump(300, 1)).expect("take");
        let fault = Fault::new(scene.storage.clone());
        fault.when(on(Operation::List, certificate::PREFIX), Effect::Cut(shown));
        pruned(&open(fault, &scene.world).expect("open")).expect("prune");
        scene.expect_whole(taken, &mine, "the listing is whole again");
    }
}

/// A machine that has not seen the newest key epoch, and can't read it: what was stored since is not known.
#[test]
fn a_damaged_epoch_costs_a_prune_nothing() {
    let (storage, world) = (Memory::new(), World::new(41));
    let owner = init(storage.clone(), &world);
    take(&owner, "shop", &dump(300, 0)).expect("take");
    key::rotate(&owner).expect("rotate");
    let owner = open(storage.clone(), &world).expect("open");
    let slot = key::add(&owner, SlotKind::WriteOnly, "other", OTHER, CHEAP).expect("key add");
    let other = open_with(storage.clone(), &world, OTHER).expect("open");
    let scene = Scene { storage, world, owner, slot, other };
    let data = noise(400_000, 2);
    let mail = take(&scene.other, "mail", &data).expect("take").id;
    pruned(&scene.fresh()).expect("prune");
    let (name, packs) = (epoch::object_name(2), scene.packs());
    let bytes = scene.storage.get(&name, 1 << 24).expect("get");
    scene.storage.tamper(&name, |bytes| *bytes.last_mut().expect("bytes") ^= 1).expect("tamper");
    assert_eq!(pruned(&scene.fresh()).expect("prune").deleted_packs, 0);
    scene.storage.put_replace(&name, &bytes).expect("put");
    assert!(scene.packs() >= packs);
    scene.expect_whole(mail, &data, "the epoch is back");
}

// ---- Rotations ----

/// What an epoch does not list never counts again: a rotation lists all, or does not begin.
#[test]
fn a_rotation_leaves_no_certificate_out() {
    let scene = Scene::new(4, SlotKind::WriteOnly);
    let recovery = b"recovery";
    key::add(&scene.owner, SlotKind::Full, "recovery", recovery, CHEAP).expect("key add");
    let data = noise(50_000, 2);
    let mail = take(&scene.other, "mail", &data).expect("take").id;
    // The listing shows none, some, all certificates; before the first rotation, and before a second.
    for (shown, is_second) in (0..4).flat_map(|shown| [(shown, false), (shown, true)]) {
        let scene =
            Scene { storage: scene.storage.fork(), owner: scene.fresh(), other: scene.fresh(), ..scene_of(&scene) };
        if is_second {
            key::rotate(&scene.owner).expect("rotate");
        }
        let fault = Fault::new(scene.storage.clone());
        let owner = open(fault.clone(), &scene.world).expect("open");
        fault.when(on(Operation::List, certificate::PREFIX), Effect::Cut(shown));
        key::rotate(&owner).expect("rotate");
        for passphrase in [PASSPHRASE, OTHER, recovery] {
            let opened = open_with(scene.storage.clone(), &scene.world, passphrase);
            assert!(opened.is_ok(), "{shown} shown, second: {is_second}: {:?}", opened.err());
        }
        scene.expect_whole(mail, &data, "after a rotation");
    }
    let fault = Fault::new(scene.storage.clone());
    let owner = open(fault.clone(), &scene.world).expect("open");
    fault.when(on(Operation::Get, &certificate::object_name(scene.slot)), Effect::Fail);
    let refused = key::rotate(&owner).expect_err("a read fails");
    assert_eq!(refused.kind(), Kind::Storage, "{refused}");
    assert!(open_with(scene.storage.clone(), &scene.world, OTHER).is_ok());
    scene.expect_whole(mail, &data, "no rotation");
}

fn scene_of(scene: &Scene) -> Scene {
    let (storage, world) = (scene.storage.clone(), Arc::clone(&scene.world));
    Scene { owner: scene.fresh(), other: scene.fresh(), storage, world, slot: scene.slot }
}

// ---- Whose word displaces what ----

/// While a snapshot is taken, a thief claims its chunks, and something on the machine reads the index again.
#[test]
fn what_is_claimed_meanwhile_is_not_relied_on() {
    let scene = Scene::new(20, SlotKind::WriteOnly);
    let data = noise(6_000_000, 4);
    let aside = open(scene.storage.fork(), &scene.world).expect("open");
    take(&aside, "shop", &data).expect("take");
    let packs = aside.cache.packs().expect("packs");
    let entries = packs.iter().flat_map(|pack| aside.cache.entries(&pack.id).expect("entries")).map(|(_, entry)| entry);
    let entries: Vec<_> = entries.collect();
    let (owner, claimed) = (&scene.owner, AtomicBool::new(false));
    let interrupting = Interrupting::new(&data, || {
        Thief::new(&scene.other).garbage_copies(&entries).expect("attack");
        let _ = indexed(owner);
        claimed.store(true, Ordering::SeqCst);
    });
    let source = Source::Stream { input: Box::new(interrupting), bytes: None };
    let taken = snapshot(owner, source, &options("shop"), &Silent, &Cancel::new());
    assert!(claimed.load(Ordering::SeqCst));
    match taken {
        Ok(taken) => scene.expect_whole(taken.id, &data, "taken meanwhile"),
        Err(e) => assert_eq!(e.kind(), Kind::Busy, "{e}"),
    }
}

/// The entries of all packs that a snapshot of `data` would have, taken aside.
fn entries_aside(scene: &Scene, data: &[u8]) -> Vec<BlobEntry> {
    let aside = open(scene.storage.fork(), &scene.world).expect("open");
    take(&aside, "shop", data).expect("take");
    let packs = aside.cache.packs().expect("packs");
    let entries = packs.iter().flat_map(|pack| aside.cache.entries(&pack.id).expect("entries"));
    entries.map(|(_, entry)| entry).collect()
}

/// As before, and another process empties the local cache that all use, when the session is about to judge.
#[test]
fn what_is_claimed_meanwhile_is_not_relied_on_when_the_cache_is_emptied() {
    let scene = Scene::new(21, SlotKind::WriteOnly);
    let data = noise(6_000_000, 4);
    let entries = entries_aside(&scene, &data);
    let folder = tempfile::tempdir().expect("a folder");
    let fault = Fault::new(scene.storage.clone());
    let writer = open_cached(fault.clone(), &scene.world, folder.path());
    let other = Arc::new(open_cached(scene.storage.clone(), &scene.world, folder.path()));
    let (armed, empties) = (Arc::new(AtomicBool::new(false)), Arc::clone(&other));
    let is_armed = Arc::clone(&armed);
    let before_the_commit = move |call: &Call| {
        if call.operation == Operation::List && call.name == "prune/" && is_armed.swap(false, Ordering::SeqCst) {
            empties.cache.invalidate().expect("invalidate");
        }
        false
    };
    fault.when(before_the_commit, Effect::Fail);
    let interrupting = Interrupting::new(&data, || {
        Thief::new(&scene.other).garbage_copies(&entries).expect("attack");
        let _ = indexed(&other);
        armed.store(true, Ordering::SeqCst);
    });
    let source = Source::Stream { input: Box::new(interrupting), bytes: None };
    let taken = snapshot(&writer, source, &options("shop"), &Silent, &Cancel::new());
    assert!(!armed.load(Ordering::SeqCst));
    match taken {
        Ok(taken) => scene.expect_whole(taken.id, &data, "taken meanwhile"),
        Err(e) => assert_eq!(e.kind(), Kind::Busy, "{e}"),
    }
}

/// A thief lists packs of another writer, whose index is still on its way, as his own that hold the chunks. When the
/// session judges its authors, the index says whose they are, and no longer what he said of them.
#[test]
fn what_is_claimed_meanwhile_is_not_relied_on_when_it_is_corrected() {
    let scene = Scene::new(24, SlotKind::WriteOnly);
    let data = noise(6_000_000, 4);
    let mut entries = entries_aside(&scene, &data);
    entries.reverse();
    let aside = scene.storage.fork();
    let elsewhere = open(aside.clone(), &scene.world).expect("open");
    take(&elsewhere, "mail", &noise(3_000_000, 5)).expect("take");
    let bring = |from: &Memory, to: &Memory, folder: &str| {
        for object in from.list(folder).expect("list") {
            let _ = to.put_new(&object.name, &from.get(&object.name, u64::MAX).expect("get"));
        }
    };
    bring(&aside, &scene.storage, "packs/");
    let packs: Vec<_> = elsewhere.cache.packs().expect("packs").iter().map(|pack| (pack.id, pack.size)).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let fault = Fault::new(scene.storage.clone());
    let writer = open_cached(fault.clone(), &scene.world, folder.path());
    let other = Arc::new(open_cached(scene.storage.clone(), &scene.world, folder.path()));
    let (armed, reads, medium) = (Arc::new(AtomicBool::new(false)), Arc::clone(&other), scene.storage.clone());
    let is_armed = Arc::clone(&armed);
    let before_the_commit = move |call: &Call| {
        if call.operation == Operation::List && call.name == "prune/" && is_armed.swap(false, Ordering::SeqCst) {
            bring(&aside, &medium, "index/");
            let _ = indexed(&reads);
        }
        false
    };
    fault.when(before_the_commit, Effect::Fail);
    let interrupting = Interrupting::new(&data, || {
        Thief::new(&scene.other).claims_packs(&packs, &entries).expect("attack");
        let _ = indexed(&other);
        armed.store(true, Ordering::SeqCst);
    });
    let source = Source::Stream { input: Box::new(interrupting), bytes: None };
    let taken = snapshot(&writer, source, &options("shop"), &Silent, &Cancel::new()).expect("taken");
    assert!(!armed.load(Ordering::SeqCst));
    scene.expect_whole(taken.id, &data, "taken meanwhile");
}

/// A write-only slot takes a snapshot of the same data with the same local cache: that costs the other one a session, and
/// not its snapshot.
#[test]
fn a_write_only_slot_with_the_same_cache_stops_no_snapshot() {
    let scene = Scene::new(22, SlotKind::WriteOnly);
    let data = noise(6_000_000, 4);
    let folder = tempfile::tempdir().expect("a folder");
    let writer = open_cached(scene.storage.clone(), &scene.world, folder.path());
    let host = open_cached_with(scene.storage.clone(), &scene.world, OTHER, folder.path());
    let interrupting = Interrupting::new(&data, || drop(take(&host, "host", &data).expect("take")));
    let source = Source::Stream { input: Box::new(interrupting), bytes: None };
    let taken = snapshot(&writer, source, &options("shop"), &Silent, &Cancel::new()).expect("taken");
    scene.expect_whole(taken.id, &data, "taken meanwhile");
}

/// Of the newest snapshot a pack is lost, and a thief claims to have what it held: that makes it no good one, for which
/// others might go.
#[test]
fn claims_make_no_snapshot_a_good_one() {
    let scene = Scene::new(23, SlotKind::WriteOnly);
    let [old, new] = [1, 2].map(|seed| {
        scene.a_day_later();
        take(&scene.owner, "shop", &noise(200_000, seed)).expect("take").id
    });
    let packs = scene.owner.cache.packs().expect("packs");
    let lost = packs.iter().find(|pack| pack.session == new).expect("a pack").id;
    let entries = scene.owner.cache.entries(&lost).expect("entries");
    let entries: Vec<BlobEntry> = entries.into_iter().map(|(_, entry)| entry).collect();
    scene.storage.delete(&object_name(lost)).expect("delete");
    assert_eq!(scene.removes(&[old, new], &keep_last(1)), 0, "the newest is harmed");
    Thief::new(&scene.other).garbage_copies(&entries).expect("attack");
    assert_eq!(scene.removes(&[old, new], &keep_last(1)), 0, "and a claim does not heal it");
    // What a slot stored itself makes its own snapshots good.
    let own = [3, 4].map(|seed| {
        scene.a_day_later();
        take(&scene.other, "host", &noise(20_000, seed)).expect("take").id
    });
    assert_eq!(scene.removes(&own, &keep_last(1)), 1);
}

/// Without its certificate a slot is nobody: no session relies on what it stored.
#[test]
fn packs_of_nobody_are_not_relied_on() {
    let scene = Scene::new(5, SlotKind::WriteOnly);
    take(&scene.owner, "shop", &dump(300, 0)).expect("take");
    let data = noise(100_000, 2);
    take(&scene.other, "mail", &data).expect("take");
    pruned(&scene.fresh()).expect("prune");
    let stored = || {
        let repo = open(scene.storage.fork(), &scene.world).expect("open");
        take(&repo, "other", &data).expect("take").stored.new_bytes
    };
    let before = stored();
    assert!(before > 90_000, "{before}");
    scene.storage.delete(&certificate::object_name(scene.slot)).expect("delete");
    assert_eq!(stored(), before);
}

/// A removed write-only slot displaces no more than one that was not removed: its snapshots stay a group of their own.
#[test]
fn a_removal_makes_no_claim_count() {
    for is_removed in [false, true] {
        let scene = Scene::new(7, SlotKind::WriteOnly);
        let honest = scene.days(5);
        if is_removed {
            key::remove(&scene.owner, &scene.slot.to_string()).expect("remove");
        }
        for n in 0..5 {
            scene.a_day_later();
            let now = scene.world.now();
            let sequence = now.as_second().unsigned_abs() + n;
            Thief::new(&scene.other).snapshot_of_his_own(sequence, now, None).expect("publish");
        }
        scene.world.pass(SignedDuration::from_hours(1));
        assert_eq!(scene.removes(&honest, &keep_last(5)), 0, "removed: {is_removed}");
    }
}

/// High sequences with old times would make the times of all others unbelievable, also when the slot was removed and
/// is distrusted.
#[test]
fn a_thief_bends_nobody_elses_times() {
    let policy = Policy { keep_daily: Some(Count::N(30)), keep_monthly: Some(Count::N(12)), ..Policy::default() };
    for is_distrusted in [false, true] {
        let scene = Scene::new(8, SlotKind::WriteOnly);
        let honest = scene.days(10);
        let (since, old) = (scene.world.now(), Timestamp::UNIX_EPOCH);
        for n in 0..11 {
            let sequence = since.as_second().unsigned_abs() + 10 + n;
            Thief::new(&scene.other).snapshot_of_his_own(sequence, old, None).expect("publish");
        }
        if is_distrusted {
            key::remove(&scene.owner, &scene.slot.to_string()).expect("remove");
            key::distrust(&scene.owner, &scene.slot.to_string(), old).expect("distrust");
        }
        scene.world.pass(SignedDuration::from_hours(1));
        assert_eq!(scene.removes(&honest, &policy), 0, "distrusted: {is_distrusted}");
    }
}

/// Recipes that name each other and many missing chunks: what is lost is not gathered level by level.
#[test]
fn many_missing_chunks_keep_nobody_from_a_prune() {
    let scene = Scene::new(16, SlotKind::WriteOnly);
    take(&scene.owner, "shop", &dump(300, 0)).expect("take");
    Thief::new(&scene.other).many_missing(2000).expect("attack");
    let fault = Fault::new(scene.storage.clone());
    pruned(&open(fault.clone(), &scene.world).expect("open")).expect("prune");
    assert!(fault.operations() < 1000, "{}", fault.operations());
}

/// Who holds a write-only key needs no session: he adds a pack, and publishes its snapshot while a prune looks.
#[test]
fn a_snapshot_of_no_session_that_is_published_meanwhile_stops_nobody() {
    let scene = Scene::new(18, SlotKind::WriteOnly);
    let id = take(&scene.owner, "shop", &dump(300, 0)).expect("take").id;
    let other = take(&scene.other, "mail", &noise(20_000, 1)).expect("take").id;
    let name = manifest::object_name(other);
    let published = scene.storage.get(&name, 1 << 20).expect("get");
    scene.storage.delete(&name).expect("delete");
    let late = scene.storage.clone();
    let publish = move |_: &str| late.put_new(&name, &published).expect("publish");
    let storage = Before::new(&scene.storage, Operation::Get, "snapshots/", publish);
    pruned(&open(storage, &scene.world).expect("open")).expect("prune");
    scene.expect_whole(id, &dump(300, 0), "the owner's");
    scene.expect_whole(other, &noise(20_000, 1), "the other's");
}

/// Chunks with 2^62 chains of deltas, in a condemned pack that a snapshot needs after all: the chains are verified
/// before other copies go, and each link is visited once.
#[test]
fn many_chains_of_deltas_keep_nobody_from_a_prune() {
    let scene = Scene::new(17, SlotKind::WriteOnly);
    take(&scene.owner, "shop", &dump(300, 0)).expect("take");
    let recipe = Thief::new(&scene.other).sound_lattice().expect("attack");
    let who = Writing { host: "host".to_owned(), purpose: "snapshot".to_owned() };
    let session = Session::begin(&scene.owner, &who, &Silent).expect("begin");
    assert_eq!(pruned(&scene.fresh()).expect("prune").waiting_packs, 2);
    drop(session);
    Thief::new(&scene.other).publish_recipe(recipe).expect("publish");
    assert_eq!(pruned(&scene.fresh()).expect("prune").verified_blobs, 4 * 62 + 2);
}

// ---- Other objects ----

/// A repository after a full slot was stolen, removed and distrusted: the thief has stored `data` in the ended epoch, and
/// lists his packs in the name of the owner, changed by `change`.
fn after_a_distrusted_slot_listed(
    storage: &Memory,
    world: &Arc<World>,
    data: &[u8],
    change: impl Fn(&mut Vec<u8>, &mut IndexedPack),
) {
    let owner = init(storage.clone(), world);
    let stolen = key::add(&owner, SlotKind::Full, "stolen", b"stolen", CHEAP).expect("key add");
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
    for id in his.list_index().expect("list").keys().filter(|id| !before.contains_key(id)) {
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

/// Garbage under the name of a snapshot that was forgotten: prune refuses, and it can be forgotten by its id.
#[test]
fn garbage_in_place_of_a_forgotten_snapshot_is_forgotten_by_its_id() {
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

/// The key ring is read again once, not for each object of an author whose certificate does not open.
#[test]
fn authors_who_do_not_exist_cost_no_more_than_one_look_each() {
    let (storage, world) = (Memory::new(), World::new(14));
    let owner = init(storage.clone(), &world);
    key::add(&owner, SlotKind::WriteOnly, "stolen", b"stolen", CHEAP).expect("key add");
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
    assert!(reads < 500, "certificates: {reads} calls");
    assert!(calls < 3000, "{calls} calls");
}

/// A manifest that is as its author signed it and contradicts itself was never whole: a machine that has read its header
/// does not take it for a damaged one.
#[test]
fn a_manifest_that_was_never_whole_stops_nobody() {
    let scene = Scene::new(51, SlotKind::WriteOnly);
    take(&scene.owner, "shop", &dump(100, 0)).expect("take");
    Thief::new(&scene.other).manifest_that_contradicts_its_header().expect("attack");
    assert_eq!(scene.owner.headers().expect("headers").0.len(), 2);
    pruned(&scene.owner).expect("prune");
    forget::plan(&scene.owner, &Filter::default(), &keep_last(1)).expect("plan");
}

/// Index objects contradict each other about a pack, and a prune deletes it while its trailer is read.
#[test]
fn a_contradiction_about_a_pack_that_goes_stops_nobody() {
    let scene = Scene::new(52, SlotKind::WriteOnly);
    let taken = take(&scene.owner, "shop", &dump(100, 0)).expect("take");
    Thief::new(&scene.other).index_with_other_authors().expect("attack");
    forget_ids(&scene.owner, &[taken.id]).expect("forget");
    let (pruned_in, gone) = (scene.storage.clone(), Arc::new(AtomicBool::new(false)));
    let deleted = Arc::clone(&gone);
    let storage = Before::new(&scene.storage, Operation::GetRange, "packs/", move |name| {
        pruned_in.delete(name).expect("delete");
        deleted.store(true, Ordering::SeqCst);
    });
    let owner = open(storage, &scene.world).expect("open");
    let (id, data) = (take(&owner, "other", &noise(100_000, 3)).expect("take").id, noise(100_000, 3));
    assert!(gone.load(Ordering::SeqCst), "no trailer was read");
    scene.expect_whole(id, &data, "taken meanwhile");
}

/// Lengths whose sum is beyond all numbers.
#[test]
fn parts_without_end_stop_nobody() {
    let scene = Scene::new(53, SlotKind::WriteOnly);
    take(&scene.owner, "shop", &dump(100, 0)).expect("take");
    let endless = Thief::new(&scene.other).endless_list().expect("attack");
    let repo = scene.fresh();
    pruned(&repo).expect("prune");
    check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
    stats(&repo, &Silent).expect("stats");
    savings(&repo, true, &Silent, &Cancel::new()).expect("savings");
    let snapshot = repo.snapshot(endless).expect("snapshot");
    assert_eq!(restored(&repo, &snapshot).expect_err("nothing is there").kind(), Kind::Damaged);
}

// ---- What grows, and what ends ----

/// A generation lists no more damage of write-only slots than leaves room for key changes; what a full slot wrote comes
/// before it.
#[test]
fn missing_packs_of_a_write_only_slot_do_not_fill_the_generation() {
    let scene = Scene::new(59, SlotKind::WriteOnly);
    take(&scene.owner, "shop", &noise(50_000, 1)).expect("take");
    let lost = *scene.owner.list_packs().expect("packs").keys().next().expect("a pack");
    scene.storage.delete(&object_name(lost)).expect("delete");
    Thief::new(&scene.other).missing_packs(50_000).expect("attack");
    let repo = scene.fresh();
    check(&repo, None, &Silent, &Cancel::new()).expect("check");
    let (number, state) = repo.newest_generation().expect("a generation");
    assert!(state.distrusted.iter().any(|d| d.pack == lost), "what a full slot wrote is set aside");
    assert!(state.encode().len() < 5 << 19, "{} bytes", state.encode().len());
    // Another check finds nothing new.
    check(&repo, None, &Silent, &Cancel::new()).expect("check");
    assert_eq!(repo.newest_generation().expect("a generation").0, number);
    key::distrust(&repo, &scene.slot.to_string(), Timestamp::MIN).expect("distrust");
}

/// A store that says of every generation that it is there, and gives nothing or garbage.
#[derive(Debug)]
struct Endless {
    inner: Memory,
    garbage: Option<Vec<u8>>,
    calls: AtomicUsize,
}

impl Endless {
    const CALLS_MAX: usize = 100_000;

    fn has_all(&self, name: &str) -> bool {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        assert!(calls < Self::CALLS_MAX, "there is no end");
        name.starts_with("prune/")
    }
}

impl Storage for Endless {
    fn put_new(&self, name: &str, bytes: &[u8]) -> alluvium::error::Result<()> {
        match &self.garbage {
            Some(_) if self.has_all(name) => Err(alluvium::error::Error::new(Kind::AlreadyExists, name)),
            _ => self.inner.put_new(name, bytes),
        }
    }
    fn put_replace(&self, name: &str, bytes: &[u8]) -> alluvium::error::Result<()> {
        self.inner.put_replace(name, bytes)
    }
    fn get(&self, name: &str, bytes_max: u64) -> alluvium::error::Result<Vec<u8>> {
        match &self.garbage {
            Some(garbage) if self.has_all(name) => Ok(garbage.clone()),
            _ => self.inner.get(name, bytes_max),
        }
    }
    fn get_range(&self, name: &str, offset: u64, len: usize) -> alluvium::error::Result<Vec<u8>> {
        self.inner.get_range(name, offset, len)
    }
    fn list(&self, prefix: &str) -> alluvium::error::Result<Vec<alluvium::storage::Listed>> {
        self.inner.list(prefix)
    }
    fn stat(&self, name: &str) -> alluvium::error::Result<Option<u64>> {
        if self.has_all(name) { Ok(Some(9000)) } else { self.inner.stat(name) }
    }
    fn delete(&self, name: &str) -> alluvium::error::Result<()> {
        self.inner.delete(name)
    }
    fn location(&self) -> String {
        self.inner.location()
    }
}

#[test]
fn generations_without_end_end() {
    let scene = Scene::new(61, SlotKind::WriteOnly);
    let id = take(&scene.owner, "shop", &noise(5000, 1)).expect("take").id;
    for garbage in [None, Some(vec![7; 9000])] {
        let store = Endless { inner: scene.storage.clone(), garbage, calls: AtomicUsize::new(0) };
        let repo = open(store, &scene.world).expect("open");
        assert!(repo.newest_generation().is_err(), "nobody knows which is the newest");
        assert!(take(&repo, "shop", &noise(5000, 2)).is_err());
        assert!(repair::repair_index(&repo, &Silent, &Cancel::new()).is_err());
        let snapshot = repo.snapshot(id).expect("snapshot");
        assert!(restored(&repo, &snapshot).expect("restore") == noise(5000, 1), "reading needs no generation");
    }
}

/// What a stolen slot says follows a snapshot does not explain that the snapshot is gone.
#[test]
fn a_thief_hides_no_rollback() {
    let scene = Scene::new(67, SlotKind::WriteOnly);
    let folder = tempfile::tempdir().expect("a folder");
    let owner = || open_cached(scene.storage.clone(), &scene.world, folder.path());
    let repo = owner();
    take(&repo, "shop", &noise(5000, 1)).expect("take");
    scene.a_day_later();
    let newest = take(&repo, "shop", &noise(5000, 2)).expect("take").id;
    let sequence = repo.snapshot(newest).expect("snapshot").manifest.sequence;
    let thief = Thief::new(&scene.other);
    thief.claims_place(sequence + 1000, Some(newest)).expect("attack");
    thief.claims_place(manifest::SEQUENCE_MAX - 1, None).expect("attack");
    let older = || -> Vec<String> {
        owner().older_than_seen(&Silent).expect("compare").into_iter().map(|problem| problem.object).collect()
    };
    assert!(older().is_empty());
    scene.a_day_later();
    let next = take(&owner(), "shop", &noise(5000, 3)).expect("take").id;
    assert!(older().is_empty());
    scene.storage.delete(&manifest::object_name(next)).expect("a rollback");
    assert_eq!(older(), [manifest::object_name(next)]);
}

/// Snapshots and what they lack do not multiply: a write-only slot can publish many of both.
#[test]
fn many_snapshots_that_lack_the_same_are_each_reported_and_cost_little() {
    let scene = Scene::new(71, SlotKind::WriteOnly);
    let honest = scene.days(3);
    let (snapshots, chunks) = (300, 300);
    let claims = Thief::new(&scene.other).many_that_lack(snapshots, chunks).expect("attack");
    let repo = scene.fresh();
    let found = check(&repo, None, &Silent, &Cancel::new()).expect("check").problems;
    let harmed: Vec<&String> = found.iter().flat_map(|problem| &problem.snapshots).collect();
    assert!(claims.iter().all(|id| harmed.contains(&&id.to_string())), "each is told");
    assert!(harmed.len() < snapshots * chunks / 3, "{} are told", harmed.len());
    let lost = found.iter().filter(|problem| problem.object.starts_with("chunk ")).count();
    assert_eq!(lost, chunks, "each chunk is told");
    pruned(&repo).expect("prune");
    let plan = forget::plan(&repo, &Filter::default(), &keep_last(1)).expect("plan");
    let removed: BTreeSet<SnapshotId> = plan.remove.iter().copied().collect();
    assert_eq!(removed, honest[..2].iter().copied().collect(), "of the claims none is good, so all stay");
    assert!(claims.iter().all(|id| plan.harmed.contains(id)), "{} are harmed", plan.harmed.len());
    let told: usize = plan.problems.iter().map(|problem| problem.snapshots.len()).sum();
    assert!(told < snapshots * chunks / 3, "{told} are told");
}

/// A reader that knows nothing yet tries a full slot's copy before the garbage that a write-only slot says is one.
#[test]
fn copies_of_full_slots_are_read_first() {
    let scene = Scene::new(73, SlotKind::WriteOnly);
    let id = take(&scene.owner, "shop", &dump(500, 1)).expect("take").id;
    let own = take(&scene.other, "host", &noise(5000, 1)).expect("take").id;
    Thief::new(&scene.other).packs_of_garbage(1_000_000_000).expect("attack");
    let repo = scene.fresh();
    let reading = indexed(&repo);
    let (mut chunks, slot) = (0, scene.owner.keys.slot());
    for pack in repo.cache.packs().expect("packs").into_iter().filter(|pack| pack.claim.author == slot) {
        for (_, entry) in repo.cache.entries(&pack.id).expect("entries") {
            let copies = reading.copies(&entry.id).expect("copies");
            assert!(copies.len() > 1 && copies[0].author == slot, "{copies:?}");
            assert_eq!(reading.usable(&entry.id).expect("usable").expect("a copy").author, slot);
            chunks += 1;
        }
    }
    assert!(chunks > 3);
    assert!(restored(&repo, &repo.snapshot(id).expect("snapshot")).expect("restore") == dump(500, 1));
    assert!(restored(&repo, &repo.snapshot(own).expect("snapshot")).expect("restore") == noise(5000, 1));
}
