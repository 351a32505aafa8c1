//! `sync`: every way copies, once, and nothing that is not whole. Safety is enumerated: each storage call of the
//! destination and of the source is a place to die at.
#![allow(clippy::print_stdout, reason = "a matrix tells how many cases it had")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alluvium::env::{Cancel, Env};
use alluvium::error::{Kind, Result};
use alluvium::format::coordination::{Distrusted, Generation, generation_name};
use alluvium::format::keyslot::SlotKind;
use alluvium::format::manifest::Original;
use alluvium::id::{SlotId, SnapshotId};
use alluvium::ops::check::{Subset, check};
use alluvium::ops::forget::Filter;
use alluvium::ops::retention::{Count, Policy};
use alluvium::ops::sync::{Mirror, SyncOptions, Synced, Way, sync};
use alluvium::ops::{key, select};
use alluvium::repo::Repository;
use alluvium::repo::snapshots::inline_list;
use alluvium::report::{Collect, Counter, Silent};
use alluvium::storage::fault::{Effect, Fault, Operation, at, on};
use alluvium::storage::memory::Memory;
use alluvium::storage::{Listed, Storage};
use jiff::SignedDuration;
use jiff::tz::TimeZone;

use crate::support::{
    Before, CHEAP, PASSPHRASE, World, dump, forget_ids, init, noise, open, open_with, parts_of, pruned, restored, take,
};
use crate::thief::{ORIGINAL, Thief};

const TO: &[u8] = b"another passphrase";
const WAYS: [Way; 3] = [Way::Packs, Way::Chunks, Way::Streams];

/// A source with a few days of two databases, and a place for copies.
struct Scene {
    world: Arc<World>,
    source: Memory,
    dest: Memory,
}

impl Scene {
    fn new(seed: u64, way: Way) -> Self {
        Self::of(seed, way, 4, 1500)
    }

    fn of(seed: u64, way: Way, days: usize, rows: usize) -> Self {
        let (world, source, dest) = (World::new(seed), Memory::new(), Memory::new());
        let repo = init(source.clone(), &world);
        for day in 0..days {
            world.pass(SignedDuration::from_hours(24));
            let name = if day % 2 == 0 { "shop" } else { "wiki" };
            take(&repo, name, &dump(rows, day)).expect("take");
        }
        world.pass(SignedDuration::from_hours(24));
        partner(&repo, &dest, &world, way);
        Self { world, source, dest }
    }

    fn open_source(&self) -> Repository {
        open(self.source.clone(), &self.world).expect("open")
    }

    fn open_dest(&self) -> Repository {
        open_with(self.dest.clone(), &self.world, TO).expect("open")
    }
}

/// Makes the repository that copies go to.
fn partner(repo: &Repository, storage: &Memory, world: &Arc<World>, way: Way) {
    match way {
        Way::Packs => repo.init_twin(storage, TO, "twin", CHEAP).map(drop),
        Way::Chunks => repo.init_like(storage, TO, "like", None, CHEAP).map(drop),
        Way::Streams => Repository::init(storage, world.as_ref(), TO, "foreign", crate::support::small()).map(drop),
    }
    .expect("init");
}

/// Opens a repository on a machine that remembers in `cache` what it has seen.
fn open_remembering(
    storage: impl Storage + 'static,
    world: &Arc<World>,
    passphrase: &[u8],
    cache: &std::path::Path,
) -> Repository {
    let env = Arc::clone(world) as Arc<dyn Env>;
    Repository::open(Arc::new(storage), env, passphrase, Some(cache)).expect("open")
}

fn options() -> SyncOptions {
    SyncOptions { host: "host".into(), ..SyncOptions::default() }
}

fn run(source: &Repository, dest: &Repository) -> Result<Synced> {
    run_with(source, dest, &options())
}

fn run_with(source: &Repository, dest: &Repository, options: &SyncOptions) -> Result<Synced> {
    sync(source, dest, options, &Silent, &Cancel::new())
}

fn check_clean(repo: &Repository, context: &str) {
    let found =
        check(repo, Some(Subset::ALL), &Silent, &Cancel::new()).unwrap_or_else(|e| panic!("{context}: check: {e}"));
    assert!(found.problems.is_empty(), "{context}: {:?}", found.problems);
}

/// What a repository gives back, by source and time.
fn contents(repo: &Repository, context: &str) -> BTreeMap<(String, String), Vec<u8>> {
    let (snapshots, unreadable) = repo.snapshots().expect("snapshots");
    assert!(unreadable.is_empty(), "{context}: {unreadable:?}");
    let count = snapshots.len();
    let contents: BTreeMap<_, _> = snapshots
        .iter()
        .map(|s| {
            let data = restored(repo, s).unwrap_or_else(|e| panic!("{context}: restore of {}: {e}", s.id));
            ((s.manifest.source.clone(), s.manifest.time.to_string()), data)
        })
        .collect();
    assert_eq!(contents.len(), count, "{context}: a snapshot is there twice");
    contents
}

fn expect_equal(source: &Repository, dest: &Repository, context: &str) {
    assert_eq!(contents(source, context), contents(dest, context), "{context}: both give the same");
    check_clean(source, context);
    check_clean(dest, context);
}

fn ids(repo: &Repository) -> Vec<SnapshotId> {
    repo.snapshots().expect("snapshots").0.iter().map(|s| s.id).collect()
}

#[test]
fn every_way_copies_everything_once() {
    for way in WAYS {
        // A change costs the chunks around it, and how many those are depends on where each repository cuts: among
        // some thousand chunks that is little.
        let scene = Scene::of(1, way, 4, 20_000);
        let (source, dest) = (scene.open_source(), scene.open_dest());
        let context = format!("{way:?}");
        let synced = run(&source, &dest).expect("sync");
        assert_eq!((synced.way, synced.copied.len(), synced.already), (way, 4, 0), "{context}: {synced:?}");
        assert!(synced.failed.is_empty() && synced.written_bytes > 0 && synced.read_bytes > 0, "{context}: {synced:?}");
        match way {
            Way::Packs => assert!(synced.packs_copied > 0, "{context}: {synced:?}"),
            Way::Chunks => assert!(synced.chunks_resealed > 0 && synced.packs_copied == 0, "{context}: {synced:?}"),
            Way::Streams => assert_eq!(synced.packs_copied + synced.chunks_resealed, 0, "{context}: {synced:?}"),
        }
        expect_equal(&source, &dest, &context);
        // What was stored once in the source is stored once here: a day costs what changed.
        let (here, there) = (source.cache.totals().expect("totals"), dest.cache.totals().expect("totals"));
        assert!(there.raw_bytes <= here.raw_bytes * 11 / 10, "{context}: {there:?} of {here:?}");
        for copy in dest.snapshots().expect("snapshots").0 {
            let original = copy.manifest.original.expect("a copy names its original");
            assert_eq!(original.repository, source.id);
            let first = source.snapshot(original.snapshot).expect("the original");
            assert_ne!(copy.id, original.snapshot, "{context}: a copy has an id of its own");
            let parts = |repo, snapshot| parts_of(repo, snapshot).iter().map(|p| p.digest).collect::<Vec<_>>();
            assert_eq!(parts(&dest, &copy), parts(&source, &first));
            assert_eq!(copy.manifest.time, first.manifest.time);
            // It is found by its original's name, too.
            let found = dest.snapshots().expect("snapshots").0;
            let named = select::snapshot(&found, &original.snapshot.to_string()[..12], &TimeZone::UTC).expect("found");
            assert_eq!(named.id, copy.id);
        }
        // The series go on: each copy but the first names the one before.
        let (copies, _) = dest.snapshots().expect("snapshots");
        assert_eq!(copies.iter().filter(|c| c.manifest.previous.is_none()).count(), 2, "{context}");
        let again = run(&source, &dest).expect("sync again");
        assert_eq!((again.copied.len(), again.already, again.read_bytes), (0, 4, 0), "{context}: {again:?}");
    }
}

#[test]
fn in_sync_means_listings_and_nothing_else() {
    for way in WAYS {
        let scene = Scene::new(2, way);
        let (here, there) = (Fault::new(scene.source.clone()), Fault::new(scene.dest.clone()));
        let source = open(here.clone(), &scene.world).expect("open");
        let dest = open_with(there.clone(), &scene.world, TO).expect("open");
        run(&source, &dest).expect("sync");
        let before = (here.operations(), there.operations());
        let again = run(&source, &dest).expect("sync again");
        assert_eq!(again.already, 4);
        for (fault, before) in [(&here, before.0), (&there, before.1)] {
            let calls = fault.calls().split_off(before);
            let others: Vec<_> = calls.iter().filter(|c| c.operation != Operation::List).collect();
            assert!(others.is_empty() && calls.len() <= 2, "{way:?}: {others:?}");
        }
    }
}

#[test]
fn a_day_later_only_the_day_moves() {
    for way in WAYS {
        let scene = Scene::new(3, way);
        let (source, dest) = (scene.open_source(), scene.open_dest());
        let first = run(&source, &dest).expect("sync");
        take(&source, "shop", &dump(1500, 5)).expect("take");
        let day = run(&source, &dest).expect("sync");
        assert_eq!((day.copied.len(), day.already), (1, 4), "{way:?}");
        assert!(day.written_bytes * 2 < first.written_bytes, "{way:?}: {day:?} after {first:?}");
        if way != Way::Streams {
            assert!(day.read_bytes * 2 < first.read_bytes, "{way:?}: {day:?} after {first:?}");
        }
        expect_equal(&source, &dest, &format!("{way:?}"));
    }
}

/// A writer at the destination and the copies share chunks, where both name them alike.
#[test]
fn copies_and_snapshots_of_the_destination_deduplicate() {
    for way in [Way::Packs, Way::Chunks] {
        let scene = Scene::new(4, way);
        let (source, dest) = (scene.open_source(), scene.open_dest());
        for day in [0, 2] {
            take(&dest, "the same", &dump(1500, day)).expect("take");
        }
        let synced = run(&source, &dest).expect("sync");
        let (wrote, chunks) = (synced.written_bytes, dest.cache.totals().expect("totals").raw_bytes);
        assert!(chunks < source.cache.totals().expect("totals").raw_bytes * 13 / 10, "{way:?}: {synced:?}");
        // And the other way round.
        let report = Collect::default();
        crate::support::take_with(&dest, "again", &dump(1500, 3), &report).expect("take");
        assert_eq!(report.get(Counter::NewChunks), 0, "{way:?}: {wrote}");
        check_clean(&dest, &format!("{way:?}"));
    }
}

#[test]
fn copies_of_copies_keep_the_first_original_and_never_come_back() {
    for (first, second) in [(Way::Chunks, Way::Streams), (Way::Streams, Way::Chunks), (Way::Packs, Way::Packs)] {
        let scene = Scene::new(5, first);
        let (a, b) = (scene.open_source(), scene.open_dest());
        run(&a, &b).expect("sync");
        let third = Memory::new();
        partner(&b, &third, &scene.world, second);
        let c = open_with(third, &scene.world, TO).expect("open");
        let synced = run(&b, &c).expect("sync");
        assert_eq!(synced.copied.len(), 4);
        for copy in c.snapshots().expect("snapshots").0 {
            assert_eq!(copy.manifest.original.expect("a copy").repository, a.id);
        }
        expect_equal(&a, &c, "the copy of the copy");
        for (from, to) in [(&b, &a), (&c, &a), (&c, &b), (&a, &c)] {
            let back = run(from, to).expect("sync back");
            assert_eq!((back.copied.len(), back.already), (0, 4), "nothing comes back");
        }
        // What the second took itself goes on in both directions.
        scene.world.pass(SignedDuration::from_hours(24));
        take(&b, "only here", &dump(400, 9)).expect("take");
        assert_eq!(run(&b, &a).expect("sync back").copied.len(), 1);
        assert_eq!(run(&a, &b).expect("sync").copied.len(), 0);
        expect_equal(&a, &b, "both ways");
    }
}

/// Rule R7 of the field: a source that can't give a chunk costs the snapshots that need it, and no others.
#[test]
fn a_damaged_pack_costs_only_the_snapshots_that_need_it() {
    for way in WAYS {
        let (world, storage, dest) = (World::new(6), Memory::new(), Memory::new());
        let repo = init(storage.clone(), &world);
        let good = take(&repo, "good", &noise(150_000, 1)).expect("take").id;
        let before: BTreeSet<String> = storage.names().into_iter().collect();
        let bad = take(&repo, "bad", &noise(150_000, 2)).expect("take").id;
        let new = storage.names().into_iter().find(|n| n.starts_with("packs/") && !before.contains(n)).expect("a pack");
        let last = take(&repo, "last", &noise(150_000, 3)).expect("take").id;
        storage.tamper(&new, |bytes| bytes[5000] ^= 1).expect("tamper");
        partner(&repo, &dest, &world, way);
        let dest = open_with(dest, &world, TO).expect("open");
        let report = Collect::default();
        let synced = sync(&repo, &dest, &options(), &report, &Cancel::new()).expect("the others go on");
        let copied: BTreeSet<SnapshotId> = synced.copied.iter().map(|c| c.original.snapshot).collect();
        assert_eq!(copied, BTreeSet::from([good, last]), "{way:?}");
        assert_eq!(synced.failed.len(), 1, "{way:?}: {synced:?}");
        assert_eq!(synced.failed[0].snapshot, bad);
        let problem = &synced.failed[0].problems[0];
        assert_eq!((&problem.object, &problem.snapshots), (&new, &vec![bad.to_string()]), "{way:?}: {problem:?}");
        assert!(report.problems().contains(problem), "{way:?}");
        check_clean(&dest, &format!("{way:?}"));
        assert_eq!(ids(&dest).len(), 2);
        // Mended, it follows.
        storage.tamper(&new, |bytes| bytes[5000] ^= 1).expect("tamper");
        assert_eq!(run(&repo, &dest).expect("sync").copied.len(), 1, "{way:?}");
        expect_equal(&repo, &dest, &format!("{way:?}"));
    }
}

#[test]
fn unreadable_manifests_and_lost_packs_are_named() {
    for way in WAYS {
        let scene = Scene::new(7, way);
        let (source, dest) = (scene.open_source(), scene.open_dest());
        let lost = ids(&source)[0];
        let name = format!("snapshots/{lost}");
        scene.source.tamper(&name, |bytes| bytes[200] ^= 1).expect("tamper");
        // Not from the cache of whoever took it.
        let source_again = scene.open_source();
        let synced = run(&source_again, &dest).expect("sync");
        assert_eq!((synced.copied.len(), synced.failed.len()), (3, 1), "{way:?}");
        assert_eq!((synced.failed[0].snapshot, &synced.failed[0].problems[0].object), (lost, &name));
        for pack in scene.source.names().iter().filter(|n| n.starts_with("packs/")) {
            scene.source.delete(pack).expect("delete");
        }
        let nothing = Memory::new();
        partner(&source, &nothing, &scene.world, way);
        let nothing = open_with(nothing, &scene.world, TO).expect("open");
        let synced = run(&source_again, &nothing).expect("sync");
        assert_eq!((synced.copied.len(), synced.failed.len()), (0, 4), "{way:?}");
        assert!(ids(&nothing).is_empty());
    }
}

/// A copy whose manifest tells other data than its original's is told, each time.
#[test]
fn a_copy_that_differs_is_told() {
    let scene = Scene::new(8, Way::Chunks);
    let (source, dest) = (scene.open_source(), scene.open_dest());
    run(&source, &dest).expect("sync");
    let (copies, _) = dest.snapshots().expect("snapshots");
    let mut manifest = copies[0].manifest.clone();
    let mut parts = parts_of(&dest, &copies[0]);
    parts[0].digest.blake3[0] ^= 1;
    manifest.parts = inline_list(parts);
    let who = alluvium::repo::session::Writing { host: "h".into(), purpose: "snapshot".into() };
    let session = alluvium::repo::session::Session::begin(&dest, &who, &Silent).expect("begin");
    let header = alluvium::format::manifest::Header {
        time: manifest.time,
        series: dest.keys.hasher.series(&manifest.host, &manifest.source),
        sequence: manifest.sequence,
        bytes: manifest.bytes(),
        good_bytes: manifest.bytes(),
        previous: manifest.previous,
        body: [0; 32],
    };
    let evil = session.publish(&header, &manifest).expect("publish");
    let report = Collect::default();
    let synced = sync(&source, &dest, &options(), &report, &Cancel::new()).expect("sync");
    assert_eq!(synced.failed.len(), 1, "{synced:?}");
    assert_eq!(synced.failed[0].problems[0].object, format!("snapshots/{evil}"));
    assert_eq!(report.problems().len(), 1);
}

#[test]
fn filters_and_rules_choose() {
    let scene = Scene::new(9, Way::Chunks);
    let (source, dest) = (scene.open_source(), scene.open_dest());
    let only = |sources: &[&str]| Filter { sources: sources.iter().map(|&s| s.into()).collect(), ..Filter::default() };
    let rules = Policy { keep_last: Some(Count::N(1)), ..Policy::default() };
    let plan = SyncOptions { keep: Some(rules.clone()), dry_run: true, ..options() };
    let planned = run_with(&source, &dest, &plan).expect("plan");
    let estimate = planned.plan.expect("a dry run plans");
    assert_eq!((planned.copied.len(), estimate.snapshots), (2, 2));
    assert!(estimate.bytes > 0 && estimate.chunks > Some(0) && estimate.packs > Some(0), "{estimate:?}");
    assert!(ids(&dest).is_empty() && planned.copied.iter().all(|c| c.id.is_none()));
    let chosen = SyncOptions { filter: only(&["shop"]), keep: Some(rules), ..options() };
    let synced = run_with(&source, &dest, &chosen).expect("sync");
    assert_eq!(synced.copied.len(), 1);
    let copy = &dest.snapshots().expect("snapshots").0[0];
    let newest = source.snapshots().expect("snapshots").0.into_iter().find(|s| s.manifest.source == "shop");
    assert_eq!(copy.manifest.original.expect("a copy").snapshot, newest.expect("one").id);
    let synced = run_with(&source, &dest, &SyncOptions { filter: only(&["wiki"]), ..options() }).expect("sync");
    assert_eq!((synced.copied.len(), synced.already), (2, 0));
    let nobody = SyncOptions { filter: only(&["nobody"]), ..options() };
    let error = run_with(&source, &dest, &nobody).expect_err("a slip of the pen");
    assert!(error.kind() == Kind::NotFound && format!("{error:?}").contains("shop, wiki"), "{error:?}");
}

#[test]
fn the_mirror_removes_what_was_removed_within_its_guard() {
    let mirror = SyncOptions { mirror: Mirror::Guarded, ..options() };
    let anyway = SyncOptions { mirror: Mirror::Anyway, ..options() };
    for way in WAYS {
        let scene = Scene::new(10, way);
        let fault = Fault::new(scene.source.clone());
        let cache = tempfile::tempdir().expect("a folder");
        let source = open_remembering(fault.clone(), &scene.world, PASSPHRASE, cache.path());
        let dest = scene.open_dest();
        take(&dest, "its own", &dump(300, 1)).expect("take");
        run_with(&source, &dest, &mirror).expect("sync");
        assert_eq!(ids(&dest).len(), 5);
        // One of a series goes.
        let (snapshots, _) = source.snapshots().expect("snapshots");
        let shop: Vec<_> = snapshots.iter().filter(|s| s.manifest.source == "shop").map(|s| s.id).collect();
        forget_ids(&source, &shop[1..]).expect("forget");
        assert_eq!(run(&source, &dest).expect("sync").removed.len(), 0, "{way:?}: only a mirror removes");
        let plan = SyncOptions { dry_run: true, ..mirror.clone() };
        assert_eq!(run_with(&source, &dest, &plan).expect("plan").removed.len(), 1);
        assert_eq!(ids(&dest).len(), 5, "{way:?}: a dry run removes nothing");
        let gone = run_with(&source, &dest, &mirror).expect("sync").removed;
        assert_eq!((gone.len(), ids(&dest).len()), (1, 4), "{way:?}");
        // A short listing is no forgetting.
        fault.when(on(Operation::List, "snapshots/"), Effect::Cut(1));
        for options in [&mirror, &anyway] {
            let error = run_with(&source, &dest, options).expect_err("refused");
            assert_eq!(error.kind(), Kind::Failed, "{way:?}: {error}");
        }
        fault.heal();
        // All of a series.
        forget_ids(&source, &shop[..1]).expect("forget");
        let error = run_with(&source, &dest, &mirror).expect_err("refused");
        assert!(error.kind() == Kind::Failed && error.to_string().contains("`shop`"), "{way:?}: {error}");
        assert_eq!(ids(&dest).len(), 4, "{way:?}");
        assert_eq!(run_with(&source, &dest, &anyway).expect("sync").removed.len(), 1, "{way:?}");
        // What the destination took itself stays, even when the source is empty.
        let left = ids(&source);
        forget_ids(&source, &left).expect("forget");
        assert!(run_with(&source, &dest, &mirror).is_err());
        run_with(&source, &dest, &anyway).expect("sync");
        assert_eq!(ids(&dest).len(), 1, "{way:?}");
        // The data goes with the next prune.
        pruned(&dest).expect("prune");
        check_clean(&dest, &format!("{way:?}"));
    }
}

#[test]
fn the_mirror_refuses_many_and_the_unreadable() {
    let mirror = SyncOptions { mirror: Mirror::Guarded, ..options() };
    let (world, storage, to) = (World::new(11), Memory::new(), Memory::new());
    let source = init(storage.clone(), &world);
    for day in 0..8 {
        world.pass(SignedDuration::from_hours(24));
        take(&source, "shop", &dump(100, day)).expect("take");
    }
    partner(&source, &to, &world, Way::Chunks);
    let dest = open_with(to, &world, TO).expect("open");
    run(&source, &dest).expect("sync");
    let all = ids(&source);
    storage.tamper(&format!("snapshots/{}", all[0]), |bytes| bytes[200] ^= 1).expect("tamper");
    let afresh = open(storage.clone(), &world).expect("open");
    let error = run_with(&afresh, &dest, &mirror).expect_err("refused");
    assert!(error.to_string().contains("can't be read"), "{error}");
    storage.tamper(&format!("snapshots/{}", all[0]), |bytes| bytes[200] ^= 1).expect("tamper");
    forget_ids(&source, &all[3..]).expect("forget");
    let error = run_with(&source, &dest, &mirror).expect_err("refused");
    assert!(error.to_string().contains("5 of 8"), "{error}");
    assert_eq!(ids(&dest).len(), 8);
}

/// A source with six nights of one database, all of them copied, and a machine that has seen both
/// sides.
struct Nights {
    world: Arc<World>,
    source: Memory,
    dest: Memory,
    cache: tempfile::TempDir,
    /// The oldest first.
    originals: Vec<SnapshotId>,
}

impl Nights {
    fn new(seed: u64) -> Self {
        let (world, source, dest) = (World::new(seed), Memory::new(), Memory::new());
        let repo = init(source.clone(), &world);
        let night = |day| {
            world.pass(SignedDuration::from_hours(24));
            take(&repo, "shop", &dump(100, day)).expect("take").id
        };
        let originals = (0..6).map(night).collect();
        partner(&repo, &dest, &world, Way::Packs);
        let cache = tempfile::tempdir().expect("a folder");
        let nights = Self { world, source, dest, cache, originals };
        assert_eq!(run(&nights.seen_source(), &nights.seen_dest()).expect("sync").copied.len(), 6);
        nights
    }

    /// As the machine that knows them opens them.
    fn seen_source(&self) -> Repository {
        open_remembering(self.source.clone(), &self.world, PASSPHRASE, &self.cache.path().join("source"))
    }

    fn seen_dest(&self) -> Repository {
        open_remembering(self.dest.clone(), &self.world, TO, &self.cache.path().join("dest"))
    }

    /// As a machine that has never seen them opens them.
    fn new_source(&self) -> Repository {
        open(self.source.clone(), &self.world).expect("open")
    }

    fn new_dest(&self) -> Repository {
        open_with(self.dest.clone(), &self.world, TO).expect("open")
    }

    /// The source's storage takes these nights away.
    fn hide(&self, nights: std::ops::Range<usize>) {
        for id in &self.originals[nights] {
            self.source.delete(&format!("snapshots/{id}")).expect("delete");
        }
    }
}

fn mirror(how: Mirror) -> SyncOptions {
    SyncOptions { mirror: how, ..options() }
}

/// The storage of the source takes the three newest of six snapshots away: the copies are the only
/// ones left.
#[test]
fn a_source_that_is_older_than_seen_is_reported_and_its_mirror_removes_nothing() {
    for how in [Mirror::Off, Mirror::Guarded, Mirror::Anyway] {
        let nights = Nights::new(18);
        nights.hide(3..6);
        let (source, dest) = (nights.seen_source(), nights.seen_dest());
        for dry_run in [true, false] {
            let report = Collect::default();
            let options = SyncOptions { dry_run, ..mirror(how) };
            let synced = sync(&source, &dest, &options, &report, &Cancel::new()).expect("sync goes on");
            let older: Vec<&str> = synced.older_than_seen.iter().map(|p| p.object.as_str()).collect();
            assert_eq!(older, [format!("snapshots/{}", nights.originals[5])], "{how:?}");
            assert!(synced.removed.is_empty() && ids(&dest).len() == 6, "{how:?}: {synced:?}");
            let says_why = report.warnings().iter().any(|text| text.contains("the mirror removes nothing"));
            assert_eq!(says_why, how != Mirror::Off, "{how:?}: {:?}", report.warnings());
        }
        // What was taken on top of the older state is copied, and the rest goes on being missed.
        nights.world.pass(SignedDuration::from_hours(24));
        take(&source, "shop", &dump(100, 9)).expect("take");
        let synced = run_with(&source, &dest, &mirror(how)).expect("sync");
        assert_eq!((synced.copied.len(), synced.older_than_seen.len()), (1, 1), "{how:?}");
        assert_eq!(ids(&dest).len(), 7, "{how:?}");
        // Until a person says that it is right.
        source.seen.accept(&Silent).expect("accept");
        let synced = run_with(&source, &dest, &mirror(how)).expect("sync");
        let gone = if how == Mirror::Off { 0 } else { 3 };
        assert_eq!((synced.older_than_seen.len(), synced.removed.len()), (0, gone), "{how:?}: {synced:?}");
    }
}

#[test]
fn a_destination_that_is_older_than_seen_is_reported_and_filled_again() {
    let nights = Nights::new(19);
    let (source, dest) = (nights.seen_source(), nights.seen_dest());
    let newest = ids(&dest)[0];
    nights.dest.delete(&format!("snapshots/{newest}")).expect("delete");
    forget_ids(&source, &nights.originals[..1]).expect("forget");
    let synced = run_with(&source, &dest, &mirror(Mirror::Guarded)).expect("sync");
    assert_eq!(synced.older_than_seen.len(), 1, "{synced:?}");
    let problem = &synced.older_than_seen[0];
    assert!(problem.object == format!("snapshots/{newest}") && problem.what.starts_with("at "), "{problem:?}");
    assert_eq!((synced.copied.len(), synced.removed.len()), (1, 0));
    // Until a person says that it is right.
    assert_eq!(run(&source, &dest).expect("sync").older_than_seen.len(), 1);
    dest.seen.accept(&Silent).expect("accept");
    let synced = run_with(&source, &dest, &mirror(Mirror::Guarded)).expect("sync");
    assert_eq!((synced.older_than_seen.len(), synced.removed.len()), (0, 1));
}

/// A machine that has seen neither side has only the chains of the source.
#[test]
fn a_copy_goes_only_when_its_original_was_forgotten() {
    let removed_and_kept = |source: &Repository, dest: &Repository| {
        let report = Collect::default();
        let synced = sync(source, dest, &mirror(Mirror::Anyway), &report, &Cancel::new()).expect("sync");
        assert!(synced.older_than_seen.is_empty(), "{synced:?}");
        let kept: Vec<_> = synced.kept.iter().map(|copy| copy.original.snapshot).collect();
        let named = report.problems().iter().filter(|p| p.what.contains("was kept")).count();
        assert_eq!(named, kept.len(), "each is named");
        (synced.removed.iter().map(|copy| copy.original.snapshot).collect::<Vec<_>>(), kept)
    };
    // The newest are gone: nothing tells a rollback from a forget.
    let nights = Nights::new(20);
    nights.hide(4..6);
    let (removed, mut kept) = removed_and_kept(&nights.new_source(), &nights.new_dest());
    kept.sort();
    let mut hidden = nights.originals[4..].to_vec();
    hidden.sort();
    assert_eq!((removed, kept), (vec![], hidden.clone()));
    // A snapshot on top of the older state does not explain them either: its chain passes them by.
    nights.world.pass(SignedDuration::from_hours(24));
    take(&nights.new_source(), "shop", &dump(100, 9)).expect("take");
    let (removed, mut kept) = removed_and_kept(&nights.new_source(), &nights.new_dest());
    kept.sort();
    assert_eq!((removed, kept), (vec![], hidden));

    // What is followed by a snapshot of the chain was forgotten.
    let nights = Nights::new(21);
    forget_ids(&nights.new_source(), &nights.originals[1..4]).expect("forget");
    let (mut removed, kept) = removed_and_kept(&nights.new_source(), &nights.new_dest());
    removed.sort();
    let mut forgotten = nights.originals[1..4].to_vec();
    forgotten.sort();
    assert_eq!((removed, kept), (forgotten, vec![]));

    // The newest, forgotten by the machine that mirrors.
    let nights = Nights::new(22);
    forget_ids(&nights.seen_source(), &nights.originals[5..]).expect("forget");
    let (removed, kept) = removed_and_kept(&nights.seen_source(), &nights.seen_dest());
    assert_eq!((removed, kept), (nights.originals[5..].to_vec(), vec![]));
}

/// Copies that come late take their place in the chain.
#[test]
fn a_copy_keeps_its_sequence_and_follows_the_highest_below() {
    for way in WAYS {
        let scene = Scene::new(23, way);
        let (source, dest) = (scene.open_source(), scene.open_dest());
        let rules = Policy { keep_last: Some(Count::N(1)), ..Policy::default() };
        run_with(&source, &dest, &SyncOptions { keep: Some(rules), ..options() }).expect("the newest first");
        run(&source, &dest).expect("then the others");
        let (copies, _) = dest.snapshots().expect("snapshots");
        let (originals, _) = source.snapshots().expect("snapshots");
        let sequences = |all: &[alluvium::repo::snapshots::Snapshot]| {
            all.iter().map(|s| (s.manifest.source.clone(), s.manifest.sequence)).collect::<Vec<_>>()
        };
        assert_eq!(sequences(&copies), sequences(&originals), "{way:?}");
        for (id, header) in dest.headers().expect("headers").0 {
            let copy = copies.iter().find(|s| s.id == id).expect("the copy");
            assert_eq!((header.sequence, header.previous), (copy.manifest.sequence, copy.manifest.previous));
            let previous = header.previous.map(|previous| copies.iter().find(|s| s.id == previous).expect("listed"));
            assert!(previous.is_none_or(|p| p.manifest.sequence < header.sequence), "{way:?}");
        }
        // What is taken there goes on behind them.
        let taken = take(&dest, "shop", &dump(300, 8)).expect("take");
        let newest = copies.iter().find(|s| s.manifest.source == "shop").map(|s| s.id);
        assert_eq!(taken.previous, newest, "{way:?}");
    }
}

/// Somebody put another repository where this machine knew one: nothing is copied from there or to
/// there.
#[test]
fn another_repository_at_either_address_is_refused() {
    let scene = Scene::new(24, Way::Streams);
    let folder = tempfile::tempdir().expect("a folder");
    let source = open_remembering(scene.source.clone(), &scene.world, PASSPHRASE, folder.path());
    source.seen.remember_repository(&Silent);
    // All memories share one identity: here the destination stands at the same address.
    let dest = open_remembering(scene.dest.clone(), &scene.world, TO, folder.path());
    let report = Collect::default();
    dest.seen.remember_repository(&report);
    assert!(report.warnings()[0].contains("another repository than before"), "{:?}", report.warnings());
    for (from, to) in [(&source, &dest), (&dest, &source)] {
        let error = run(from, to).expect_err("refused");
        assert!(error.kind() == Kind::Damaged && error.to_string().contains(&dest.id.to_string()), "{error}");
    }
    assert_eq!(take(&dest, "shop", b"data").expect_err("refused").kind(), Kind::Damaged);
    let found = check(&dest, None, &Silent, &Cancel::new()).expect("check").problems;
    assert_eq!(found.iter().map(|p| p.object.as_str()).collect::<Vec<_>>(), ["config"]);
    dest.snapshots().expect("listings go on");
    dest.seen.accept(&Silent).expect("accept");
    take(&dest, "shop", b"data").expect("accepted");
}

#[test]
fn a_write_only_key_is_refused_on_either_side() {
    let scene = Scene::new(12, Way::Chunks);
    let (source, dest) = (scene.open_source(), scene.open_dest());
    key::add(&source, SlotKind::WriteOnly, "", b"write", CHEAP).expect("key add");
    key::add(&dest, SlotKind::WriteOnly, "", b"write", CHEAP).expect("key add");
    let poor_source = open_with(scene.source.clone(), &scene.world, b"write").expect("open");
    let poor_dest = open_with(scene.dest.clone(), &scene.world, b"write").expect("open");
    for (from, to) in [(&poor_source, &dest), (&source, &poor_dest)] {
        let error = run(from, to).expect_err("refused");
        assert!(error.kind() == Kind::WrongKey && error.to_string().contains("write-only"), "{error}");
    }
    let refused = poor_source.init_like(&Memory::new(), TO, "", None, CHEAP).expect_err("refused");
    assert_eq!(refused.kind(), Kind::WrongKey);
    assert_eq!(poor_source.init_twin(&Memory::new(), TO, "", CHEAP).expect_err("refused").kind(), Kind::WrongKey);
}

/// A store that does something once, when a pack is put.
struct Interrupting<'a> {
    inner: Memory,
    pending: AtomicBool,
    work: Box<dyn Fn() + Send + Sync + 'a>,
}

impl Storage for Interrupting<'_> {
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.inner.put_new(name, bytes)?;
        if name.starts_with("packs/") && self.pending.swap(false, Ordering::SeqCst) {
            (self.work)();
        }
        Ok(())
    }
    fn put_replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.inner.put_replace(name, bytes)
    }
    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        self.inner.get(name, bytes_max)
    }
    fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.inner.get_range(name, offset, len)
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
        self.inner.location()
    }
}

/// Rule I4: a prune of the destination that condemns what a running sync relies on loses nothing, and neither does
/// one of the source that moves what is being read.
#[test]
fn prunes_on_both_sides_during_a_sync_lose_nothing() {
    for way in WAYS {
        let (world, from, to) = (World::new(13), Memory::new(), Memory::new());
        let source = init(from.clone(), &world);
        let data = noise(400_000, 1);
        let more = [data.clone(), noise(200_000, 2)].concat();
        let old = take(&source, "old", &noise(300_000, 7)).expect("take").id;
        world.pass(SignedDuration::from_hours(1));
        take(&source, "shop", &more).expect("take");
        partner(&source, &to, &world, way);
        // The destination holds most of it already, in a snapshot that is about to be forgotten.
        let pruner = open_with(to.clone(), &world, TO).expect("open");
        let own = take(&pruner, "own", &data).expect("take").id;
        world.pass(SignedDuration::from_hours(1));
        take(&pruner, "other", &dump(100, 0)).expect("take");
        let source_pruner = open(from, &world).expect("open");
        let work = move || {
            forget_ids(&pruner, &[own]).expect("forget");
            let plan = pruned(&pruner).expect("prune");
            assert!(plan.waiting_packs > 0 && plan.waiting_for.len() == 1, "prune waits for the sync: {plan:?}");
            assert_eq!(plan.waiting_for[0].purpose, "sync");
            forget_ids(&source_pruner, &[old]).expect("forget");
            pruned(&source_pruner).expect("prune of the source");
        };
        let storage = Arc::new(Interrupting { inner: to, pending: AtomicBool::new(false), work: Box::new(work) });
        let dest =
            Repository::open(Arc::clone(&storage) as _, Arc::clone(&world) as Arc<dyn Env>, TO, None).expect("open");
        let shop = SyncOptions {
            filter: Filter { sources: BTreeSet::from(["shop".to_owned()]), ..Filter::default() },
            ..options()
        };
        storage.pending.store(true, Ordering::SeqCst);
        let synced = run_with(&source, &dest, &shop).expect("sync");
        assert_eq!(synced.copied.len(), 1, "{way:?}: {synced:?}");
        assert!(!storage.pending.load(Ordering::SeqCst));
        for round in 0..3 {
            let copy = dest.snapshots().expect("snapshots").0.into_iter().find(|s| s.manifest.source == "shop");
            let copy = copy.expect("the copy");
            assert!(restored(&dest, &copy).expect("restore") == more, "{way:?}: round {round}");
            pruned(&dest).expect("prune");
        }
        check_clean(&dest, &format!("{way:?}"));
    }
}

/// The destination dies at each of its storage calls. What is there is whole; the next sync completes.
#[test]
fn the_destination_survives_every_crash() {
    for way in WAYS {
        let scene = Scene::of(14, way, 2, 700);
        let mut crashes = 0;
        for before in [true, false] {
            for k in 0.. {
                let storage = scene.dest.fork();
                let fault = Fault::new(storage.clone());
                let dest = open_with(fault.clone(), &scene.world, TO).expect("open");
                let first = fault.operations();
                fault.when(at(first + k), if before { Effect::Die } else { Effect::DieAfter });
                let result = run(&scene.open_source(), &dest);
                if !fault.is_off() {
                    result.expect("without a crash the sync succeeds");
                    break;
                }
                let last = fault.calls().last().map(|c| format!("{:?} {}", c.operation, c.name)).unwrap_or_default();
                judge(&scene, &storage, &format!("{way:?}: call {k} ({last}), before it: {before}"));
                crashes += 1;
            }
        }
        println!("crash matrix: sync into a destination, {way:?}: {crashes} crashes survived");
        assert!(crashes > 10);
    }
}

fn judge(scene: &Scene, storage: &Memory, context: &str) {
    let (source, dest) = (scene.open_source(), open_with(storage.clone(), &scene.world, TO).expect("open"));
    check_clean(&dest, context);
    let (all, there) = (contents(&source, context), contents(&dest, context));
    for (name, data) in &there {
        assert_eq!(all.get(name), Some(data), "{context}: {name:?} is not what it was");
    }
    let synced = run(&source, &dest).unwrap_or_else(|e| panic!("{context}: sync again: {e}"));
    assert_eq!((synced.copied.len(), synced.already as usize), (all.len() - there.len(), there.len()), "{context}");
    scene.world.pass(SignedDuration::from_hours(2));
    pruned(&dest).unwrap_or_else(|e| panic!("{context}: prune: {e}"));
    check_clean(&dest, context);
    assert_eq!(all, contents(&dest, context), "{context}");
    assert!(storage.list("sessions/").expect("list").is_empty(), "{context}: sessions are left");
}

/// The source dies at each of its storage calls: nothing incomplete is published, and the next sync completes.
#[test]
fn the_source_may_die_at_every_call() {
    for way in WAYS {
        let scene = Scene::of(15, way, 2, 700);
        let mut deaths = 0;
        for k in 0.. {
            let storage = scene.dest.fork();
            let dest = open_with(storage.clone(), &scene.world, TO).expect("open");
            let fault = Fault::new(scene.source.clone());
            let source = open(fault.clone(), &scene.world).expect("open");
            fault.when(at(fault.operations() + k), Effect::Die);
            let result = run(&source, &dest);
            if !fault.is_off() {
                assert!(result.expect("without a death the sync succeeds").failed.is_empty());
                break;
            }
            // Either it has failed, or it names what could not be copied.
            assert!(result.map_or(true, |s| !s.failed.is_empty()), "{way:?}: call {k}");
            judge(&scene, &storage, &format!("{way:?}: the source died at call {k}"));
            deaths += 1;
        }
        println!("crash matrix: sync from a source, {way:?}: {deaths} deaths survived");
        assert!(deaths > 5);
    }
}

#[test]
fn shards_are_disjoint_and_complete_in_any_order() {
    for way in WAYS {
        for order in [[1, 2, 3], [3, 1, 2]] {
            let scene = Scene::new(16, way);
            let fault = Fault::new(scene.source.clone());
            let source = open(fault.clone(), &scene.world).expect("open");
            let mut moved = (0, 0);
            for part in order {
                // Each on a machine of its own.
                let dest = scene.open_dest();
                let options = SyncOptions { shard: Some(Subset { part, of: 3 }), ..options() };
                let synced = run_with(&source, &dest, &options).expect("sync");
                assert!(synced.failed.is_empty());
                assert_eq!(synced.copied.len() + (synced.already + synced.waiting) as usize, 4, "{way:?}: {synced:?}");
                moved = (moved.0 + synced.packs_copied, moved.1 + synced.chunks_resealed);
                check_clean(&dest, &format!("{way:?}: after part {part}"));
            }
            let dest = scene.open_dest();
            let before = dest.index(&Silent).expect("index").repo.cache.totals().expect("totals");
            let last = run(&source, &dest).expect("sync");
            assert_eq!((last.packs_copied, last.chunks_resealed, last.written_bytes), (0, 0, 0), "{way:?}: {last:?}");
            assert_eq!(before, dest.cache.totals().expect("totals"));
            // No pack was fetched whole twice.
            let mut fetched = BTreeSet::new();
            for call in fault.calls().iter().filter(|c| c.operation == Operation::Get && c.name.starts_with("packs/")) {
                assert!(fetched.insert(call.name.clone()), "{way:?}: {} was read twice", call.name);
            }
            assert!(moved.0 + moved.1 > 0 || way == Way::Streams);
            expect_equal(&source, &dest, &format!("{way:?}: order {order:?}"));
        }
    }
}

/// The other way round: what a check of the first repository gave up comes back from the copy.
#[test]
fn a_damaged_repository_is_healed_from_its_copy() {
    for way in WAYS {
        let scene = Scene::new(17, way);
        let (source, dest) = (scene.open_source(), scene.open_dest());
        run(&source, &dest).expect("sync");
        let before = contents(&source, "before");
        for pack in scene.source.names().iter().filter(|n| n.starts_with("packs/")) {
            scene.source.tamper(pack, |bytes| bytes[2000] ^= 1).expect("tamper");
        }
        let found = check(&source, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
        let harmed: BTreeSet<SnapshotId> =
            found.problems.iter().flat_map(|p| &p.snapshots).map(|id| id.parse().expect("an id")).collect();
        assert!(!harmed.is_empty());
        forget_ids(&source, &harmed.iter().copied().collect::<Vec<_>>()).expect("forget");
        let back = run(&dest, &source).expect("sync back");
        assert_eq!(back.copied.len(), harmed.len(), "{way:?}: {back:?}");
        assert_eq!(contents(&source, "after"), before, "{way:?}");
        pruned(&source).expect("prune");
        check_clean(&source, &format!("{way:?}"));
        let mirror = SyncOptions { mirror: Mirror::Guarded, ..options() };
        let again = run_with(&source, &dest, &mirror).expect("sync");
        assert_eq!((again.copied.len(), again.removed.len()), (0, 0), "{way:?}: nobody takes it for something else");
    }
}

/// A source with an owner, an honest host and a thief, each with a slot; both hosts may only write.
struct Claims {
    world: Arc<World>,
    storage: Memory,
    dest: Memory,
    owner: Repository,
    host: Repository,
    stolen: Repository,
}

impl Claims {
    fn new(seed: u64, way: Way) -> Self {
        let (world, storage, dest) = (World::new(seed), Memory::new(), Memory::new());
        let owner = init(storage.clone(), &world);
        let write_only = |passphrase: &[u8]| {
            key::add(&owner, SlotKind::WriteOnly, "host", passphrase, CHEAP).expect("key add");
            open_with(storage.clone(), &world, passphrase).expect("open")
        };
        let (host, stolen) = (write_only(b"honest"), write_only(b"stolen"));
        partner(&owner, &dest, &world, way);
        Self { world, storage, dest, owner, host, stolen }
    }

    fn thief(&self) -> Thief<'_> {
        Thief::new(&self.stolen)
    }

    fn open_dest(&self) -> Repository {
        open_with(self.dest.clone(), &self.world, TO).expect("open")
    }

    fn sync(&self) -> Synced {
        run(&open(self.storage.clone(), &self.world).expect("open"), &self.open_dest()).expect("sync")
    }

    /// The plain bytes of the copy of `original`, and the slot that it names.
    fn copy(&self, synced: &Synced, original: SnapshotId) -> (Vec<u8>, Option<SlotId>) {
        let copied = synced.copied.iter().find(|copied| copied.original.snapshot == original);
        let id = copied.and_then(|copied| copied.id).unwrap_or_else(|| panic!("{original} is not copied: {synced:?}"));
        let dest = self.open_dest();
        let copy = dest.snapshot(id).expect("snapshot");
        (restored(&dest, &copy).expect("restore"), copy.manifest.original_author)
    }
}

/// What a full slot has signed counts for everybody: so a twin takes over no pack of another one unread.
#[test]
fn garbage_of_a_thief_does_not_become_a_twins_own() {
    let claims = Claims::new(30, Way::Packs);
    let data = noise(30_000, 3);
    let shop = take(&claims.owner, "shop", &data).expect("take").id;
    let mine = noise(30_000, 4);
    let mail = take(&claims.host, "mail", &mine).expect("take").id;
    claims.thief().packs_of_garbage(claims.world.now().as_second()).expect("attack");
    let synced = claims.sync();
    assert_eq!(synced.way, Way::Packs);
    assert_eq!(claims.copy(&synced, shop).0, data);
    assert_eq!(claims.copy(&synced, mail).0, mine);
    assert!(synced.packs_copied == 1 && synced.chunks_resealed > 0, "{synced:?}");
    check_clean(&claims.open_dest(), "a twin");
}

/// What a check has found damaged in a pack is not taken over with the pack: nobody would know it there.
#[test]
fn a_pack_that_is_known_to_be_damaged_is_not_taken_over() {
    let (world, source, dest) = (World::new(35), Memory::new(), Memory::new());
    let repo = init(source, &world);
    let data = noise(30_000, 3);
    take(&repo, "shop", &data).expect("take");
    partner(&repo, &dest, &world, Way::Packs);
    let pack = repo.cache.packs().expect("packs")[0].id;
    let (_, first) = repo.cache.entries(&pack).expect("entries").swap_remove(0);
    let (number, state) = repo.newest_generation().expect("generation");
    let distrusted = vec![Distrusted { pack, blobs: vec![first.id] }];
    repo.publish_generation(number + 1, &Generation { distrusted, ..state }).expect("publish");
    let dest = open_with(dest, &world, TO).expect("open");
    let synced = run(&repo, &dest).expect("sync");
    assert_eq!((synced.way, synced.packs_copied), (Way::Packs, 0));
    let copy = synced.copied[0].id.expect("an id");
    assert!(restored(&dest, &dest.snapshot(copy).expect("snapshot")).expect("restore") == data);
}

/// Two at once copied each snapshot twice: every rule of a `forget` counted it twice, and kept half as many.
#[test]
fn two_syncs_at_once_copy_each_snapshot_once() {
    for way in WAYS {
        for prefix in ["packs/", "index/"] {
            let context = format!("{way:?} {prefix}");
            let (world, from, to) = (World::new(37), Memory::new(), Memory::new());
            let source = init(from.clone(), &world);
            for day in 0..3 {
                world.pass(SignedDuration::from_hours(24));
                take(&source, "shop", &noise(60_000, day)).expect("take");
            }
            partner(&source, &to, &world, way);
            let (there, clock) = (to.clone(), Arc::clone(&world));
            let other = move |_: &str| {
                let (source, dest) = (open(from, &clock).expect("open"), open_with(there, &clock, TO).expect("open"));
                assert_eq!(run(&source, &dest).expect("sync").copied.len(), 3);
            };
            let dest = open_with(Before::new(&to, Operation::PutNew, prefix, other), &world, TO).expect("open");
            let synced = run(&source, &dest).expect("sync");
            assert_eq!((synced.copied.len(), synced.already, synced.failed.len()), (0, 3, 0), "{context}");
            assert_eq!(ids(&dest).len(), 3, "{context}");
            expect_equal(&source, &dest, &context);
        }
    }
}

/// A pack that became longer took as much memory as it has bytes, once for each transfer.
#[test]
fn a_pack_that_is_longer_than_the_index_says_is_not_read_whole() {
    let (world, source, dest) = (World::new(36), Memory::new(), Memory::new());
    let data = noise(30_000, 3);
    take(&init(source.clone(), &world), "shop", &data).expect("take");
    let pack = source.names().into_iter().find(|name| name.starts_with("packs/")).expect("a pack");
    let fault = Fault::new(source.clone());
    let repo = open(fault.clone(), &world).expect("open");
    partner(&repo, &dest, &world, Way::Packs);
    let size = source.get(&pack, u64::MAX).expect("get").len();
    source.tamper(&pack, |bytes| bytes.resize(2 * size, 0)).expect("tamper");
    let dest = open_with(dest, &world, TO).expect("open");
    let synced = run(&repo, &dest).expect("sync");
    assert_eq!((synced.way, synced.packs_copied), (Way::Packs, 0));
    let calls = fault.calls();
    assert!(calls.iter().any(|call| call.operation == Operation::Get && call.name == pack), "it was tried");
    assert!(calls.iter().all(|call| call.name != pack || call.bytes < size), "{calls:?}");
    // Its chunks are whole.
    let copy = synced.copied[0].id.expect("an id");
    assert!(restored(&dest, &dest.snapshot(copy).expect("snapshot")).expect("restore") == data);
}

/// While nobody can read who is distrusted, no pack is taken over.
#[test]
fn without_a_generation_a_twin_seals_again() {
    let claims = Claims::new(31, Way::Packs);
    let data = noise(30_000, 3);
    let shop = take(&claims.owner, "shop", &data).expect("take").id;
    let cache = tempfile::tempdir().expect("a folder");
    let source = open_remembering(claims.storage.clone(), &claims.world, PASSPHRASE, cache.path());
    let (number, state) = source.newest_generation().expect("generation");
    let number = source.publish_generation(number + 1, &state).expect("publish");
    source.older_than_seen(&Silent).expect("is noted as seen");
    claims.storage.tamper(&generation_name(number), |bytes| bytes.fill(7)).expect("tamper");
    assert!(source.probe_generation().expect("probe").1.is_err(), "the generation is unreadable");
    let synced = run(&source, &claims.open_dest()).expect("sync");
    assert_eq!((synced.way, synced.packs_copied), (Way::Chunks, 0));
    assert_eq!(claims.copy(&synced, shop).0, data);
}

/// A write-only slot can't say that another one wrote its snapshots.
#[test]
fn the_author_of_a_claim_is_its_claimant() {
    for way in WAYS {
        let claims = Claims::new(32, way);
        let honest = claims.host.keys.slot();
        let mail = take(&claims.host, "mail", &dump(100, 0)).expect("take").id;
        let now = claims.world.now();
        let sequence = now.as_second().unsigned_abs();
        let his = claims.thief().snapshot_of_his_own(sequence, now, Some(honest)).expect("publish");
        let synced = claims.sync();
        assert_eq!(claims.copy(&synced, mail).1, Some(honest), "{way:?}");
        assert_eq!(claims.copy(&synced, his).1, Some(claims.stolen.keys.slot()), "{way:?}");
    }
}

/// Lengths whose sum is more than any number keep nobody from copying.
#[test]
fn lengths_that_exceed_any_number_cost_only_their_snapshots() {
    for way in WAYS {
        let claims = Claims::new(33, way);
        claims.thief().endless().expect("attack");
        let data = dump(100, 0);
        let mail = take(&claims.host, "mail", &data).expect("take").id;
        let dry = SyncOptions { dry_run: true, ..options() };
        let plan = run_with(&claims.owner, &claims.open_dest(), &dry).expect("plan").plan.expect("a plan");
        assert_eq!((plan.snapshots, plan.bytes), (3, u64::MAX), "{way:?}");
        let synced = claims.sync();
        assert_eq!((synced.copied.len(), synced.failed.len()), (1, 2), "{way:?}: {synced:?}");
        assert_eq!(claims.copy(&synced, mail).0, data, "{way:?}");
        let stats = alluvium::ops::stats::stats(&claims.owner, &Silent).expect("stats");
        assert_eq!(stats.snapshot_bytes, u64::MAX);
    }
}

/// Claims that have no end are refused, and what comes behind them is copied.
#[test]
fn bombs_are_not_streamed() {
    let claims = Claims::new(34, Way::Streams);
    let thief = claims.thief();
    thief.recipe_bomb().expect("attack");
    thief.hollow_recipe_bomb().expect("attack");
    thief.part_list_bomb().expect("attack");
    thief.hollow_part_list_bomb().expect("attack");
    let repeated = thief.repeated(vec![7; 1 << 20], 1200, false).expect("attack");
    claims.world.pass(SignedDuration::from_hours(24));
    let data = dump(300, 0);
    let mail = take(&claims.host, "mail", &data).expect("take").id;
    let synced = claims.sync();
    assert_eq!((synced.copied.len(), synced.failed.len()), (1, 5), "{synced:?}");
    assert_eq!(claims.copy(&synced, mail).0, data);
    let why = synced.failed.iter().find(|failed| failed.snapshot == repeated).expect("it is told");
    assert!(why.problems[0].what.contains("bomb"), "{why:?}");
}

/// What repeats its chunks, and not too often, is streamed: this one up to the chunk that it lacks.
#[test]
fn claims_that_their_chunks_explain_are_streamed() {
    let claims = Claims::new(35, Way::Streams);
    claims.thief().repeated(vec![7; 2 << 20], 1000, true).expect("attack");
    let synced = claims.sync();
    assert_eq!((synced.copied.len(), synced.failed.len()), (0, 1), "{synced:?}");
    assert!(synced.failed[0].problems[0].what.contains("in no pack"), "{synced:?}");
}

/// Whoever has little to copy does not wait for the end of what another slot claims.
#[test]
fn claims_take_turns() {
    for way in WAYS {
        let claims = Claims::new(36, way);
        for n in 0..4 {
            claims.world.pass(SignedDuration::from_hours(1));
            let now = claims.world.now();
            claims.thief().snapshot_of_his_own(now.as_second().unsigned_abs() + n, now, None).expect("publish");
        }
        claims.world.pass(SignedDuration::from_hours(24));
        let mail = [0, 1].map(|day| {
            claims.world.pass(SignedDuration::from_hours(1));
            take(&claims.host, "mail", &dump(100, day)).expect("take").id
        });
        let shop = take(&claims.owner, "wiki", &dump(100, 2)).expect("take").id;
        let synced = claims.sync();
        let place = |id| synced.copied.iter().position(|copied| copied.original.snapshot == id).expect("copied");
        assert_eq!(place(shop), 0, "{way:?}");
        assert!(place(mail[0]) <= 2 && place(mail[0]) < place(mail[1]) && place(mail[1]) <= 4, "{way:?}: {synced:?}");
    }
}

/// A claim that it is a copy of a snapshot that is not there yet keeps that one from nothing, and is told.
#[test]
fn a_false_copy_does_not_stand_for_its_original() {
    for way in WAYS {
        let claims = Claims::new(37, way);
        let data = dump(300, 0);
        let shop = take(&claims.owner, "shop", &data).expect("take").id;
        let name = format!("snapshots/{shop}");
        let object = claims.storage.get(&name, 1 << 30).expect("get");
        claims.storage.delete(&name).expect("delete");
        let at_work = Original { repository: claims.owner.id, snapshot: shop };
        let now = claims.world.now();
        ORIGINAL.with(|original| *original.borrow_mut() = Some(at_work));
        let sequence = now.as_second().unsigned_abs();
        let his = claims.thief().snapshot_of_his_own(sequence, now, None).expect("publish");
        ORIGINAL.with(|original| *original.borrow_mut() = None);
        assert_eq!(claims.sync().copied.len(), 1, "{way:?}: nothing says that it is false");
        claims.storage.put_new(&name, &object).expect("put");
        let synced = claims.sync();
        assert_eq!((synced.copied.len(), synced.already), (1, 1), "{way:?}: {synced:?}");
        assert_eq!(claims.copy(&synced, shop).0, data, "{way:?}");
        let again = claims.sync();
        assert_eq!((again.copied.len(), again.already), (0, 2), "{way:?}: {again:?}");
        for synced in [synced, again] {
            assert_eq!(synced.failed.len(), 1, "{way:?}: {synced:?}");
            assert_eq!(synced.failed[0].problems[0].object, format!("snapshots/{his}"), "{way:?}");
        }
    }
}

/// A thief's newer snapshots explain nothing of what others wrote.
#[test]
fn a_thiefs_chain_explains_no_absence_to_the_mirror() {
    let claims = Claims::new(38, Way::Chunks);
    let nights: Vec<SnapshotId> = (0..4)
        .map(|day| {
            claims.world.pass(SignedDuration::from_hours(24));
            take(&claims.owner, "shop", &dump(100, day)).expect("take").id
        })
        .collect();
    assert_eq!(claims.sync().copied.len(), 4);
    // The storage takes the newest away, and he publishes one that follows it.
    claims.storage.delete(&format!("snapshots/{}", nights[3])).expect("delete");
    let source = || open(claims.storage.clone(), &claims.world).expect("open");
    let run = || run_with(&source(), &claims.open_dest(), &mirror(Mirror::Guarded)).expect("sync");
    assert_eq!(run().kept.len(), 1);
    claims.thief().follows(nights[3]).expect("attack");
    let synced = run();
    assert_eq!((synced.removed.len(), synced.kept.len()), (0, 1), "{synced:?}");
    // Nor does what an honest one took after that.
    claims.world.pass(SignedDuration::from_hours(24));
    take(&source(), "shop", &dump(100, 5)).expect("take");
    let synced = run();
    assert_eq!((synced.removed.len(), synced.kept.len()), (0, 1), "{synced:?}");
    // A full slot's chain does.
    forget_ids(&source(), &[nights[0]]).expect("forget");
    assert_eq!(run().removed.len(), 1);
}
