//! What a reader of the code found wrong once, as tests: each failed before it was mended.

use std::collections::BTreeSet;
use std::sync::Arc;

use alluvium::env::Cancel;
use alluvium::error::Kind;
use alluvium::format::coordination::generation_name;
use alluvium::format::index::IndexObject;
use alluvium::format::keyslot::SlotKind;
use alluvium::format::manifest::{Part, PartKind, PartName, object_name};
use alluvium::id::SnapshotId;
use alluvium::ops::check::{Subset, check};
use alluvium::ops::forget::{self, Filter};
use alluvium::ops::retention::{Count, Policy};
use alluvium::ops::{key, repair};
use alluvium::repo::reader::Reader;
use alluvium::repo::session::{Session, Writing};
use alluvium::repo::writer::{WriteOptions, write};
use alluvium::repo::{InitOptions, Repository};
use alluvium::report::Silent;
use alluvium::storage::Storage;
use alluvium::storage::fault::{Effect, Fault, Operation};
use alluvium::storage::memory::Memory;
use jiff::SignedDuration;

use crate::support::{CHEAP, PASSPHRASE, World, dump, forget_ids, init, noise, open, pruned, restored, take};

fn problems(repo: &Repository) -> Vec<alluvium::report::Problem> {
    check(repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check").problems
}

/// Another process that shares the cache may empty it while prune works: prune deletes nothing that is needed.
#[test]
fn prune_survives_a_cache_that_is_emptied_under_it() {
    let (storage, world) = (Memory::new(), World::new(51));
    init(storage.clone(), &world);
    let folder = tempfile::tempdir().expect("tempdir");
    let cached = |storage: Arc<dyn Storage>| {
        Repository::open(storage, Arc::clone(&world) as _, PASSPHRASE, Some(folder.path())).expect("open")
    };
    let repo = cached(Arc::new(storage.clone()));
    for day in 0..4 {
        take(&repo, "shop", &noise(200_000, day)).expect("take");
        world.pass(SignedDuration::from_hours(24));
    }
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    forget_ids(&repo, &[snapshots[3].id]).expect("forget");
    // At each call that prune makes, the cache is emptied once.
    for call in 0..200 {
        let copy = storage.fork();
        let fault = Fault::new(copy.clone());
        let repo = cached(Arc::new(fault.clone()));
        let other = cached(Arc::new(copy.clone()));
        let first = fault.operations();
        let emptied = move |c: &alluvium::storage::fault::Call| {
            if c.index == first + call {
                other.cache.invalidate().expect("invalidate");
            }
            false
        };
        fault.when(emptied, Effect::Fail);
        let _ = pruned(&repo);
        let ended = fault.operations() < first + call;
        let whole = open(copy, &world).expect("open");
        for (n, snapshot) in whole.snapshots().expect("snapshots").0.iter().enumerate() {
            let data = restored(&whole, snapshot).unwrap_or_else(|e| panic!("emptied at call {call}: {e}"));
            assert!(data == noise(200_000, 3 - n as u64), "emptied at call {call}");
        }
        if ended {
            return;
        }
    }
}

/// What is condemned and needed after all is listed again when the index is lost.
#[test]
fn repair_lists_condemned_packs_too() {
    let (storage, world) = (Memory::new(), World::new(52));
    let repo = init(storage.clone(), &world);
    key::add(&repo, SlotKind::WriteOnly, "", b"write", CHEAP).expect("key add");
    let data = noise(300_000, 1);
    let old = take(&repo, "shop", &data).expect("take").id;
    take(&repo, "other", &dump(100, 0)).expect("take");
    world.pass(SignedDuration::from_hours(24));
    // Condemned while a session runs that may rely on it, and so kept.
    let session = alluvium::repo::session::Writing { host: "h".into(), purpose: "snapshot".into() };
    let running = alluvium::repo::session::Session::begin(&repo, &session, &Silent).expect("begin");
    let copy = open(storage.clone(), &world).expect("open");
    let again = open(storage.clone(), &world).expect("open");
    drop(running);
    let writer = alluvium::repo::session::Session::begin(&copy, &session, &Silent).expect("begin");
    forget_ids(&repo, &[old]).expect("forget");
    assert!(pruned(&repo).expect("prune").waiting_packs > 0);
    drop(writer);
    for name in storage.names().into_iter().filter(|n| n.starts_with("index/")) {
        storage.delete(&name).expect("delete");
    }
    let repaired = repair::repair_index(&again, &Silent, &Cancel::new()).expect("repair");
    assert_eq!(repaired.packs_added as usize, storage.names().iter().filter(|n| n.starts_with("packs/")).count());
    assert!(problems(&again).is_empty());
    pruned(&again).expect("prune");
    assert!(problems(&again).is_empty());
}

/// A generation of which neither copy opens is reported and does not count; nothing is lost for that.
#[test]
fn a_damaged_generation_stops_nobody_and_is_reported() {
    let (storage, world) = (Memory::new(), World::new(53));
    let repo = init(storage.clone(), &world);
    let data = noise(300_000, 1);
    let old = take(&repo, "shop", &noise(300_000, 2)).expect("take").id;
    world.pass(SignedDuration::from_hours(24));
    take(&repo, "shop", &data).expect("take");
    forget_ids(&repo, &[old]).expect("forget");
    pruned(&repo).expect("prune");
    let (newest, _) = repo.newest_generation().expect("generation");
    let name = generation_name(newest);
    storage.tamper(&name, |bytes| bytes.fill(7)).expect("tamper");
    let repo = open(storage.clone(), &world).expect("open");
    assert!(problems(&repo).iter().any(|problem| problem.object == name));
    take(&repo, "shop", &data).expect("take");
    pruned(&repo).expect("prune");
    for snapshot in repo.snapshots().expect("snapshots").0 {
        assert_eq!(restored(&repo, &snapshot).expect("restore"), data);
    }
    repair::repair_index(&repo, &Silent, &Cancel::new()).expect("repair");
    take(&repo, "shop", &data).expect("take");
    assert!(problems(&repo).is_empty());
}

/// A number that can't be counted on from is an object that does not belong, not the end of the program.
#[test]
fn a_generation_of_an_impossible_number_is_no_generation() {
    let (storage, world) = (Memory::new(), World::new(54));
    let repo = init(storage.clone(), &world);
    take(&repo, "shop", &dump(100, 0)).expect("take");
    let name = generation_name(u64::MAX);
    storage.put_new(&name, b"x").expect("put");
    take(&repo, "shop", &dump(100, 1)).expect("take");
    assert!(problems(&repo).iter().any(|p| p.object == name));
}

/// What could not be read back is not written: a label, a name.
#[test]
fn what_is_too_long_to_be_read_is_not_written() {
    let (storage, world) = (Memory::new(), World::new(55));
    let long = "l".repeat(5000);
    let sizes = InitOptions { kdf: CHEAP, ..InitOptions::default() };
    let refused = Repository::init(&storage, world.as_ref(), PASSPHRASE, &long, sizes).expect_err("refused");
    assert_eq!(refused.kind(), Kind::Usage);
    assert!(storage.names().is_empty(), "{:?}", storage.names());
    let repo = init(storage, &world);
    assert_eq!(key::add(&repo, SlotKind::Full, &long, b"x", CHEAP).expect_err("refused").kind(), Kind::Usage);
}

/// A bad block of a disk is damage of one object: check goes on, and restores use other copies.
#[test]
fn a_disk_that_cannot_read_one_pack_ends_neither_check_nor_healing() {
    let world = World::new(56);
    let fault = Fault::new(Memory::new());
    let repo = init(fault.clone(), &world);
    let data = noise(200_000, 1);
    take(&repo, "shop", &data).expect("take");
    let pack = fault.inner().names().into_iter().find(|n| n.starts_with("packs/")).expect("a pack");
    let bad = pack.clone();
    fault.when(move |c| c.name == bad && matches!(c.operation, Operation::Get | Operation::GetRange), Effect::Fail);
    let found = problems(&repo);
    assert!(found.iter().any(|p| p.object == pack && !p.snapshots.is_empty()), "{found:?}");
    world.pass(SignedDuration::from_hours(24));
    take(&repo, "shop", &data).expect("take again");
    for snapshot in repo.snapshots().expect("snapshots").0 {
        assert_eq!(restored(&repo, &snapshot).expect("restore"), data);
    }
}

/// A file that can't be read to its end is left out, and what follows it is stored as it is.
#[test]
fn a_file_that_fails_half_way_does_no_harm_to_the_next() {
    let (storage, world) = (Memory::new(), World::new(57));
    let repo = init(storage, &world);
    let folder = tempfile::tempdir().expect("tempdir");
    let mut files = Vec::new();
    for n in 0..40u64 {
        let file = folder.path().join(format!("{n:02}"));
        std::fs::write(&file, noise(5_000 + n as usize, n)).expect("write");
        files.push(file);
    }
    let session = Writing { host: "h".into(), purpose: "snapshot".into() };
    let session = Session::begin(&repo, &session, &Silent).expect("begin");
    let parts = write(&session, WriteOptions::default(), &Silent, &Cancel::new(), |writer| {
        let mut parts = Vec::new();
        for (n, file) in files.iter().enumerate() {
            // In the first segment, or in a later one.
            let mut failing = Failing { left: if n % 2 == 0 { 1 << 20 } else { 3 << 20 } };
            assert_eq!(writer.store(&mut failing, None, &|_| None).expect_err("fails").kind(), Kind::Source);
            let stored = writer.store(&mut std::fs::File::open(file).expect("open"), None, &|_| None)?.only();
            let kind = PartKind::Stream;
            parts.push(Part {
                name: PartName::of(n.to_string()),
                kind,
                digest: stored.digest,
                recipe: stored.recipe,
                stored_bytes: None,
            });
        }
        Ok(parts)
    })
    .expect("write");
    let indexed = repo.index(&Silent).expect("index");
    let reader = Reader::new(&indexed).expect("reader");
    for (n, part) in parts.iter().enumerate() {
        let mut back = Vec::new();
        let mut out = |bytes: &[u8]| {
            back.extend_from_slice(bytes);
            Ok(())
        };
        reader.stream(&[part], 96 << 20, &Silent, &Cancel::new(), &mut out).expect("restore");
        assert!(back == noise(5_000 + n, n as u64), "file {n}");
    }
}

/// A source that breaks after some megabytes.
struct Failing {
    left: usize,
}

impl std::io::Read for Failing {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            return Err(std::io::Error::other("a bad block"));
        }
        let n = into.len().min(self.left);
        into[..n].fill(b'x');
        self.left -= n;
        Ok(n)
    }
}

/// A repository that lost its `config` is told as such, and is no place for a new one.
#[test]
fn init_refuses_the_remains_of_a_repository() {
    let (storage, world) = (Memory::new(), World::new(58));
    let repo = init(storage.clone(), &world);
    take(&repo, "shop", &dump(100, 0)).expect("take");
    let config = storage.get("config", u64::MAX).expect("config");
    storage.delete("config").expect("delete");
    assert_eq!(open(storage.clone(), &world).err().expect("refused").kind(), Kind::Damaged);
    let sizes = InitOptions { kdf: CHEAP, ..InitOptions::default() };
    let again = Repository::init(&storage, world.as_ref(), PASSPHRASE, "", sizes).expect_err("refused");
    assert_eq!(again.kind(), Kind::AlreadyExists);
    storage.put_new("config", &config).expect("put");
    assert!(problems(&open(storage, &world).expect("open")).is_empty());
}

/// A pack that was away for a moment is trusted again when it is back.
#[test]
fn what_comes_back_is_well_again() {
    let (storage, world) = (Memory::new(), World::new(59));
    let repo = init(storage.clone(), &world);
    take(&repo, "shop", &noise(200_000, 1)).expect("take");
    let pack = storage.names().into_iter().find(|n| n.starts_with("packs/")).expect("a pack");
    let bytes = storage.get(&pack, u64::MAX).expect("get");
    storage.delete(&pack).expect("delete");
    assert!(!check(&repo, None, &Silent, &Cancel::new()).expect("check").problems.is_empty());
    storage.put_new(&pack, &bytes).expect("put");
    assert!(problems(&repo).is_empty(), "{:?}", problems(&repo));
    assert!(problems(&repo).is_empty());
}

/// Found by fuzzing: a zero fraction is a whole second too, and a time's own text means that time.
#[test]
fn a_whole_second_means_its_end_however_it_is_written() {
    let zone = jiff::tz::TimeZone::UTC;
    let end = "2026-01-04T03:04:05.999999999Z".parse().ok().map(|time: jiff::Timestamp| [time; 2]);
    for text in ["2026-01-04T03:04:05Z", "2026-01-04T03:04:05.0Z", "2026-01-04 03:04:05", "2026-01-04 03:04:05.000"] {
        assert_eq!(alluvium::ops::select::parse_time(text, &zone), end, "{text}");
    }
    let exact = "2026-01-04T03:04:05.5Z";
    assert_eq!(
        alluvium::ops::select::parse_time(exact, &zone),
        exact.parse().ok().map(|time: jiff::Timestamp| [time; 2])
    );
}

/// `shop@2026-03-01T06:00[Asia/Tokyo]` was taken for six o'clock of the zone of the options: another snapshot.
#[test]
fn a_time_with_a_zone_is_of_that_zone_or_refused() {
    use alluvium::ops::select::{parse_since, parse_time};
    let zone = jiff::tz::TimeZone::UTC;
    let in_tokyo: jiff::Timestamp = "2026-02-28T21:00:00Z".parse().expect("a time");
    let its_end = "2026-02-28T21:00:00.999999999Z".parse().ok().map(|time: jiff::Timestamp| [time; 2]);
    for text in
        ["2026-03-01T06:00[Asia/Tokyo]", "2026-03-01 06:00:00[Asia/Tokyo]", "2026-03-01T06:00+09:00[Asia/Tokyo]"]
    {
        assert_eq!(parse_time(text, &zone), its_end, "{text}");
        assert_eq!(parse_since(text, &zone), Some(in_tokyo), "{text}");
    }
    for text in ["2026-03-01T06:00+01:00[Asia/Tokyo]", "2026-03-01T06:00[Nowhere/Else]", "2026-03-01T06:00[", "[UTC]"] {
        assert_eq!((parse_time(text, &zone), parse_since(text, &zone)), (None, None), "{text}");
    }
}

/// In the hour that clocks run through twice, the first of two snapshots was restored without a word, also by the very
/// time that the second one is shown with.
#[test]
fn a_time_of_day_that_is_two_times_is_refused_where_it_matters() {
    let world = World::new(89);
    let repo = init(Memory::new(), &world);
    let at = |text: &str| {
        world.pass(text.parse::<jiff::Timestamp>().expect("a time").duration_since(repo.env.now()));
        take(&repo, "shop", &dump(10, 1)).expect("take").id
    };
    let zone = jiff::tz::TimeZone::get("Europe/Berlin").expect("a zone");
    // 02:10 in summer time, 02:20 in winter time: clocks went from 03:00 back to 02:00.
    let (first, second) = (at("2026-10-25T00:10:00Z"), at("2026-10-25T01:20:00Z"));
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    let named = |time: &str| alluvium::ops::select::snapshot(&snapshots, &format!("shop@{time}"), &zone).map(|s| s.id);
    let error = named("2026-10-25 02:20").expect_err("either of two");
    assert_eq!(error.kind(), Kind::Usage);
    let hint = error.advice().expect("a hint");
    assert!(hint.contains("2026-10-25T02:20:00+02:00") && hint.contains("2026-10-25T02:20:00+01:00"), "{hint}");
    assert_eq!(named("2026-10-25T02:20:00+02:00").expect("named"), first);
    assert_eq!(named("2026-10-25T02:20:00+01:00").expect("named"), second);
    // Where both give the same, there is nothing to ask.
    assert_eq!(named("2026-10-25").expect("named"), second);
    assert_eq!(named("2026-10-25 01:59").expect_err("none").kind(), Kind::NotFound);
    assert_eq!(named("2026-10-25 02:05").expect_err("02:05 in winter time is after the first").kind(), Kind::Usage);
    // A time of day that there was not: from 02:00 to 03:00 clocks were set forward.
    assert_eq!(named("2027-03-28 02:30").expect("named"), second);
}

/// Three days of a source, nothing of which is shared; the newest last.
fn three_days(storage: &Memory, world: &Arc<World>) -> (Repository, Vec<SnapshotId>) {
    let repo = init(storage.clone(), world);
    let day = |n: u64| {
        world.pass(SignedDuration::from_hours(24));
        take(&repo, "shop", &noise(300_000, n)).expect("take").id
    };
    let ids = (0..3).map(day).collect();
    (repo, ids)
}

/// `keep-last 1` kept the snapshot that a check had just found harmed, and removed the whole ones.
#[test]
fn what_is_harmed_is_not_the_last_good_snapshot() {
    let (storage, world) = (Memory::new(), World::new(77));
    let (repo, ids) = three_days(&storage, &world);
    let before: BTreeSet<String> = storage.names().into_iter().filter(|name| name.starts_with("packs/")).collect();
    world.pass(SignedDuration::from_hours(24));
    let newest = take(&repo, "shop", &noise(300_000, 9)).expect("take").id;
    let packs = storage.names().into_iter().filter(|name| name.starts_with("packs/") && !before.contains(name));
    for pack in packs {
        let mut bytes = storage.get(&pack, u64::MAX).expect("the pack");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        storage.put_replace(&pack, &bytes).expect("damaged");
    }
    let policy = Policy { keep_last: Some(Count::N(1)), ..Policy::default() };
    let plan = || forget::plan(&repo, &Filter::default(), &policy).expect("plan");
    assert_eq!(plan().remove.len(), 3, "nobody has seen the damage");
    assert!(!check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check").problems.is_empty());
    let planned = plan();
    assert_eq!(planned.harmed, BTreeSet::from([newest]));
    assert_eq!(planned.remove.iter().copied().collect::<BTreeSet<_>>(), ids[..2].iter().copied().collect());
    let named =
        |ids: &[SnapshotId]| forget::plan_named(&repo, &ids.iter().map(ToString::to_string).collect::<Vec<_>>(), false);
    assert_eq!(named(&ids).expect_err("the last good one").kind(), Kind::Usage);
    assert_eq!(named(&[newest]).expect("what is harmed may go").remove, [newest]);
}

/// A folder of packs was moved aside: the listing showed the packs all the same, a policy counted on the broken snapshot
/// and removed the whole ones.
#[test]
fn packs_in_another_folder_are_missing() {
    let (storage, world) = (Memory::new(), World::new(79));
    let (repo, ids) = three_days(&storage, &world);
    let before = packs_of(&storage);
    world.pass(SignedDuration::from_hours(24));
    let newest = take(&repo, "shop", &noise(300_000, 9)).expect("take").id;
    let move_aside = |pack: &String| {
        let bytes = storage.get(pack, u64::MAX).expect("the pack");
        storage.put_new(&pack.replacen("packs/", "packs/old-", 1), &bytes).expect("put");
        storage.delete(pack).expect("delete");
    };
    packs_of(&storage).iter().filter(|name| !before.contains(*name)).for_each(move_aside);
    let policy = Policy { keep_last: Some(Count::N(1)), ..Policy::default() };
    let planned = forget::plan(&repo, &Filter::default(), &policy).expect("plan");
    assert_eq!(planned.harmed, BTreeSet::from([newest]));
    assert_eq!(planned.remove.iter().copied().collect::<BTreeSet<_>>(), ids[..2].iter().copied().collect());

    // A copy that was cut, beside the whole pack, harms nothing: nothing is set aside, no pack leaves the index.
    let (storage, world) = (Memory::new(), World::new(80));
    let (repo, _) = three_days(&storage, &world);
    for pack in packs_of(&storage) {
        let bytes = storage.get(&pack, u64::MAX).expect("the pack");
        storage.put_new(&format!("packs/zz-copy/{}", &pack[9..]), &bytes[..bytes.len() / 2]).expect("put");
    }
    let found = check(&repo, None, &Silent, &Cancel::new()).expect("check");
    assert!(
        found.problems.iter().all(|p| p.object.starts_with("packs/zz-copy/") && p.snapshots.is_empty()),
        "{found:?}"
    );
    assert_eq!(found.problems.len(), packs_of(&storage).len() / 2);
    let repaired = repair::repair_index(&repo, &Silent, &Cancel::new()).expect("repair");
    assert_eq!((repaired.packs_dropped, repaired.packs_corrected), (0, 0), "{:?}", repaired.problems);
}

fn packs_of(storage: &Memory) -> Vec<String> {
    storage.names().into_iter().filter(|name| name.starts_with("packs/")).collect()
}

/// The local cache hid that a manifest was damaged in the storage, and a policy counted on it.
#[test]
fn a_policy_counts_on_no_manifest_that_only_the_cache_holds() {
    let (storage, world) = (Memory::new(), World::new(78));
    let (repo, ids) = three_days(&storage, &world);
    assert_eq!(repo.snapshots().expect("cached").0.len(), 3);
    let name = object_name(ids[2]);
    let mut bytes = storage.get(&name, u64::MAX).expect("the manifest");
    bytes[50] ^= 1;
    storage.put_replace(&name, &bytes).expect("damaged");
    let policy = Policy { keep_last: Some(Count::N(1)), ..Policy::default() };
    let error = forget::plan(&repo, &Filter::default(), &policy).expect_err("refused");
    assert_eq!(error.kind(), Kind::Damaged, "{error}");
}

/// What keeps a snapshot from being restored, in each way that needs no check to know it.
#[derive(Clone, Copy, Debug)]
enum Loss {
    PackIsGone,
    /// Found by a check, and by `repair index` taken out of every list.
    PackIsGoneAndRepaired,
    PackIsCut,
    IndexObjectIsGone,
}

/// `check`, `repair index`, `check` emptied the list that `forget` went by: `keep-last 1` removed the last
/// whole snapshot and kept the broken one.
#[test]
fn what_is_not_there_is_not_the_last_good_snapshot() {
    for loss in [Loss::PackIsGone, Loss::PackIsGoneAndRepaired, Loss::PackIsCut, Loss::IndexObjectIsGone] {
        let (storage, world) = (Memory::new(), World::new(79));
        let (repo, ids) = three_days(&storage, &world);
        let before: BTreeSet<String> = storage.names().into_iter().collect();
        world.pass(SignedDuration::from_hours(24));
        let newest = take(&repo, "shop", &noise(300_000, 9)).expect("take").id;
        let new = |folder: &str| {
            let mut names = storage.names().into_iter().filter(|name| !before.contains(name));
            names.find(|name| name.starts_with(folder)).expect("a new object")
        };
        let pack = new("packs/");
        match loss {
            Loss::PackIsGone | Loss::PackIsGoneAndRepaired => storage.delete(&pack).expect("delete"),
            Loss::PackIsCut => storage.tamper(&pack, |bytes| bytes.truncate(bytes.len() - 4096)).expect("cut"),
            Loss::IndexObjectIsGone => storage.delete(&new("index/")).expect("delete"),
        }
        let repo = open(storage.clone(), &world).expect("open");
        if matches!(loss, Loss::PackIsGoneAndRepaired) {
            assert!(!problems(&repo).is_empty());
            repair::repair_index(&repo, &Silent, &Cancel::new()).expect("repair");
            assert!(!problems(&repo).is_empty());
        }
        let policy = Policy { keep_last: Some(Count::N(1)), ..Policy::default() };
        let planned = forget::plan(&repo, &Filter::default(), &policy).expect("plan");
        assert_eq!(planned.harmed, BTreeSet::from([newest]), "{loss:?}");
        assert!(planned.problems.iter().all(|p| p.snapshots == [newest.to_string()]), "{loss:?}");
        assert!(!planned.problems.is_empty(), "{loss:?}");
        let removed: BTreeSet<SnapshotId> = planned.remove.iter().copied().collect();
        assert_eq!(removed, ids[..2].iter().copied().collect(), "{loss:?}");
        let named = |ids: &[SnapshotId]| {
            forget::plan_named(&repo, &ids.iter().map(ToString::to_string).collect::<Vec<_>>(), false)
        };
        assert_eq!(named(&ids).expect_err("the last good one").kind(), Kind::Usage, "{loss:?}");
        assert_eq!(named(&[newest]).expect("what is harmed may go").remove, [newest], "{loss:?}");
    }
}

/// A repair took a pack that was cut out of the index, and with it what was in front of the cut.
#[test]
fn a_repair_keeps_what_is_left_of_a_pack_that_was_cut() {
    let (storage, world) = (Memory::new(), World::new(82));
    let repo = init(storage.clone(), &world);
    let data = noise(10_000, 1);
    let front = take(&repo, "shop", &data).expect("take");
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    let snapshot = snapshots.iter().find(|s| s.id == front.id).expect("a snapshot");
    let last = storage.names().into_iter().find(|name| name.starts_with("packs/")).expect("a pack");
    storage.tamper(&last, |bytes| bytes.truncate(bytes.len() - 20)).expect("cut");
    assert!(restored(&open(storage.clone(), &world).expect("open"), snapshot).is_ok());
    let fresh = || open(storage.clone(), &world).expect("open");
    let done = repair::repair_index(&fresh(), &Silent, &Cancel::new()).expect("repair");
    assert_eq!(done.packs_dropped, 0);
    assert!(done.problems.iter().any(|p| p.object == last && p.what.contains("stays in the index")));
    assert!(restored(&fresh(), snapshot).is_ok());
    // A check sets it aside, a new snapshot stores all of it again: now the pack is of no use.
    assert!(!problems(&fresh()).is_empty());
    take(&fresh(), "shop", &data).expect("take");
    let done = repair::repair_index(&fresh(), &Silent, &Cancel::new()).expect("repair");
    assert_eq!(done.packs_dropped, 1);
    pruned(&fresh()).expect("prune");
    assert!(restored(&fresh(), snapshot).is_ok() && storage.stat(&last).expect("stat").is_none());
}

/// While no snapshot of a source is known to be whole, a policy removes none: a repair may bring any back.
#[test]
fn a_policy_removes_nothing_where_nothing_is_whole() {
    let (storage, world) = (Memory::new(), World::new(80));
    let (_, ids) = three_days(&storage, &world);
    for name in storage.names().into_iter().filter(|name| name.starts_with("index/")) {
        storage.delete(&name).expect("delete");
    }
    let repo = open(storage, &world).expect("open");
    let policy = Policy { keep_last: Some(Count::N(1)), ..Policy::default() };
    let plan = || forget::plan(&repo, &Filter::default(), &policy).expect("plan");
    assert_eq!(plan().remove, []);
    assert_eq!(plan().harmed.len(), 3);
    repair::repair_index(&repo, &Silent, &Cancel::new()).expect("repair");
    assert_eq!(plan().remove.len(), 2);
    assert!(!plan().remove.contains(&ids[2]));
}

/// Of two index objects that contradict each other about a pack, `repair index` dropped both lines, and the pack with
/// them; a second run listed it.
#[test]
fn repair_settles_a_contradiction_by_the_packs_trailer() {
    for lone in [false, true] {
        let (storage, world) = (Memory::new(), World::new(81));
        let repo = init(storage.clone(), &world);
        let data = noise(200_000, 1);
        take(&repo, "shop", &data).expect("take");
        let mut lie = IndexObject::default();
        for id in repo.list_index().expect("index").into_keys() {
            let object = repo.read_index_object(id).expect("an index object");
            lie.keys.extend(object.keys.iter().filter(|key| !lie.keys.contains(key)).cloned().collect::<Vec<_>>());
            lie.packs.extend(object.packs);
            if lone {
                storage.delete(&alluvium::format::index::object_name(id)).expect("delete");
            }
        }
        lie.packs.iter_mut().for_each(|pack| pack.entries.truncate(1));
        let packs = lie.packs.len() as u64;
        // It is written; the cache of this machine may refuse it.
        let _ = open(storage.clone(), &world).expect("open").publish_index(&lie);
        let repo = open(storage.clone(), &world).expect("open");
        assert!(!problems(&repo).is_empty(), "lone: {lone}");
        let repaired = repair::repair_index(&repo, &Silent, &Cancel::new()).expect("repair");
        assert_eq!((repaired.packs_corrected, repaired.packs_dropped), (packs, 0), "lone: {lone}");
        assert_eq!(repaired.problems, [], "lone: {lone}");
        let repo = open(storage, &world).expect("open");
        assert_eq!(problems(&repo), [], "lone: {lone}");
        let snapshot = repo.snapshots().expect("snapshots").0.remove(0);
        assert!(restored(&repo, &snapshot).expect("restore") == data, "lone: {lone}");
        let again = repair::repair_index(&repo, &Silent, &Cancel::new()).expect("repair");
        assert_eq!((again.packs_corrected, again.packs_added, again.packs_dropped), (0, 0, 0), "lone: {lone}");
    }
}
