//! The engine through its operations: what goes in comes out, what is stored is stored once, and what is wrong is
//! refused. Work is asserted by counters and recorded storage calls, never by time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};

use alluvium::env::Cancel;
use alluvium::error::Kind;
use alluvium::format::keyslot::SlotKind;
use alluvium::format::manifest::{
    Digest, Header, Manifest, Part, PartKind, PartName, Shape, ShapeKind, SourceKind, Stored,
};
use alluvium::format::pack;
use alluvium::format::recipe::Recipe;
use alluvium::format::signed::CLAIM_LEN;
use alluvium::ops::check::{Subset, check};
use alluvium::ops::restore::{Target, restore};
use alluvium::ops::select::Wanted;
use alluvium::ops::snapshot::{Source, snapshot};
use alluvium::ops::{diff, key, select, stats};
use alluvium::repo::session::{Session, Writing};
use alluvium::repo::snapshots::inline_list;
use alluvium::repo::{InitOptions, Repository};
use alluvium::report::{Collect, Counter, Silent};
use alluvium::storage::Storage;
use alluvium::storage::fault::{Call, Effect, Fault, Operation, on};
use alluvium::storage::memory::Memory;
use alluvium::transform::seal::OVERHEAD;
use jiff::SignedDuration;
use proptest::prelude::*;

use crate::support::{
    Before, CHEAP, Interrupting, PASSPHRASE, World, dump, forget_ids, indexed, init, noise, open, open_with, options,
    parts_of, pruned, restored, take, take_with, wanted,
};

fn ids(repo: &Repository) -> Vec<alluvium::id::SnapshotId> {
    repo.snapshots().expect("snapshots").0.iter().map(|s| s.id).collect()
}

/// A change to a stream, as a day of business makes it.
#[derive(Clone, Debug)]
enum Edit {
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Overwrite(usize, Vec<u8>),
    Append(Vec<u8>),
}

fn edited(mut data: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let len = data.len();
        match edit {
            Edit::Insert(at, bytes) => drop(data.splice(at % (len + 1)..at % (len + 1), bytes.iter().copied())),
            Edit::Remove(at, n) => {
                let at = at % (len + 1);
                data.drain(at..(at + n).min(len));
            }
            Edit::Overwrite(at, bytes) => {
                for (place, byte) in data.iter_mut().skip(at % (len + 1)).zip(bytes) {
                    *place = *byte;
                }
            }
            Edit::Append(bytes) => data.extend(bytes),
        }
    }
    data
}

fn some_bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..max, any::<u64>()).prop_map(|(n, seed)| noise(n, seed)),
        (0..max, any::<u8>()).prop_map(|(n, byte)| vec![byte; n]),
        (0..max / 40).prop_map(|rows| dump(rows, 3)),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    let bytes = || some_bytes(20_000);
    prop_oneof![
        (any::<usize>(), bytes()).prop_map(|(at, b)| Edit::Insert(at, b)),
        (any::<usize>(), 0..30_000usize).prop_map(|(at, n)| Edit::Remove(at, n)),
        (any::<usize>(), bytes()).prop_map(|(at, b)| Edit::Overwrite(at, b)),
        bytes().prop_map(Edit::Append),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Any stream, any chunk sizes, any changes from day to day: every day restores exactly, and the chunks of a day are
    /// the same whether the day before was there to predict from or not.
    #[test]
    fn any_stream_comes_back(
        first in some_bytes(400_000).prop_filter("empty streams are refused", |d| !d.is_empty()),
        days in prop::collection::vec(prop::collection::vec(edit(), 0..4), 0..3),
        chunk_bits in 8u32..15,
        pack_bits in 16u32..20,
    ) {
        let (storage, world) = (Memory::new(), World::new(1));
        let sizes = InitOptions { chunk_bytes: 1 << chunk_bits, pack_bytes: 1 << pack_bits, kdf: CHEAP };
        Repository::init(&storage, world.as_ref(), PASSPHRASE, "", sizes).expect("init");
        let repo = open(storage, &world).expect("open");
        let mut data = first;
        let mut taken = Vec::new();
        for edits in std::iter::once(Vec::new()).chain(days) {
            data = edited(data, &edits);
            if data.is_empty() {
                continue;
            }
            world.pass(SignedDuration::from_hours(1));
            let id = take(&repo, "shop", &data).expect("take").id;
            // The same bytes under a name without a past: cut by scanning alone.
            world.pass(SignedDuration::from_hours(1));
            let scanned = take(&repo, &format!("fresh {}", taken.len()), &data).expect("take").id;
            let recipe = |id| parts_of(&repo, &repo.snapshot(id).expect("snapshot")).remove(0).recipe;
            prop_assert_eq!(recipe(id), recipe(scanned));
            taken.push((id, data.clone()));
        }
        for (id, data) in taken {
            prop_assert!(restored(&repo, &repo.snapshot(id).expect("snapshot")).expect("restore") == data);
        }
        let found = check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
        prop_assert!(found.problems.is_empty(), "{:?}", found.problems);
    }
}

#[test]
fn an_unchanged_stream_uploads_nothing_but_its_manifest() {
    let world = World::new(2);
    let fault = Fault::new(Memory::new());
    let repo = init(fault.clone(), &world);
    let data = dump(20_000, 1);
    take(&repo, "shop", &data).expect("take");
    world.pass(SignedDuration::from_hours(24));
    let before = fault.operations();
    let report = Collect::default();
    take_with(&repo, "shop", &data, &report).expect("take");
    assert_eq!((report.get(Counter::NewChunks), report.get(Counter::Packs)), (0, 0));
    assert!(report.get(Counter::Chunks) > 100);
    // All but the stream's last chunk, which its end has cut, and what follows it.
    assert!(report.get(Counter::PredictedChunks) + 2 >= report.get(Counter::Chunks), "{report:?}");
    let written: Vec<String> =
        fault.calls().into_iter().skip(before).filter(|c| c.operation == Operation::PutNew).map(|c| c.name).collect();
    let folders: BTreeSet<&str> = written.iter().map(|n| n.split('/').next().expect("a folder")).collect();
    assert_eq!(folders, BTreeSet::from(["sessions", "snapshots"]), "{written:?}");
}

/// Packs are closed where padding is little: what does not compress takes hardly more than it has.
#[test]
fn padding_costs_little() {
    let (storage, world) = (Memory::new(), World::new(11));
    let sizes = InitOptions { chunk_bytes: 16 << 10, pack_bytes: 2 << 20, kdf: CHEAP };
    Repository::init(&storage, world.as_ref(), PASSPHRASE, "test", sizes).expect("init");
    let repo = open(storage, &world).expect("open");
    take(&repo, "noise", &noise(64 << 20, 11)).expect("take");
    repo.index(&Silent).expect("index");
    let packs = repo.cache.packs().expect("packs");
    let mut padding = Vec::new();
    for pack in &packs {
        let entries = repo.cache.entries(&pack.id).expect("entries");
        let chunks: u64 = entries.iter().map(|(_, e)| u64::from(e.stored_len) + e.encoded_len() as u64).sum();
        assert!(pack.size <= 2 << 20);
        // What every pack has, besides its padding: header, signed and sealed trailer, footer.
        let trailer = OVERHEAD + CLAIM_LEN + pack::Trailer::FRONT_LEN;
        padding.push(pack.size - chunks - (pack::HEADER_LEN + trailer + pack::FOOTER_LEN) as u64);
    }
    assert!(packs.len() > 32, "{} packs", packs.len());
    // Two are open at once, and are closed where the data ends, wherever that is: they may be those padded most.
    padding.sort_unstable();
    padding.truncate(padding.len() - 2);
    // Closed anywhere, packs of 2 MiB would be padded by 0.015 on average.
    let share = padding.iter().sum::<u64>() as f64 / f64::from(64 << 20);
    assert!(share < 0.004, "{} packs are padded by {share:.4} of their size", packs.len());
}

#[test]
fn a_chunk_that_repeats_within_the_data_in_flight_is_stored_once() {
    let (storage, world) = (Memory::new(), World::new(3));
    let repo = init(storage, &world);
    let block = noise(200_000, 1);
    let data: Vec<u8> = block.iter().chain(&block).chain(&block).copied().chain(vec![0; 3_000_000]).collect();
    let report = Collect::default();
    take_with(&repo, "zeros", &data, &report).expect("take");
    assert!(report.get(Counter::NewBytes) < 350_000, "{report:?}");
    let totals = repo.cache.totals().expect("totals");
    assert_eq!(totals.blobs, report.get(Counter::NewChunks));
    assert_eq!(restored(&repo, &repo.snapshots().expect("snapshots").0[0]).expect("restore"), data);
    // rustic #392: the same data must survive a prune.
    assert_eq!(pruned(&repo).expect("prune").deleted_packs, 0);
    assert_eq!(restored(&repo, &repo.snapshots().expect("snapshots").0[0]).expect("restore"), data);
}

#[test]
fn a_recipe_of_several_levels_comes_back() {
    let (storage, world) = (Memory::new(), World::new(4));
    let sizes = InitOptions { chunk_bytes: 256, pack_bytes: 1 << 20, kdf: CHEAP };
    Repository::init(&storage, world.as_ref(), PASSPHRASE, "", sizes).expect("init");
    let repo = open(storage, &world).expect("open");
    let data = noise(12_000_000, 5);
    take(&repo, "deep", &data).expect("take");
    let found = repo.snapshots().expect("snapshots").0.remove(0);
    let depth = parts_of(&repo, &found)[0].recipe.depth;
    assert!(depth >= 2, "{depth}");
    assert_eq!(restored(&repo, &found).expect("restore"), data);
}

#[test]
fn empty_streams_and_dumps_without_their_end_are_refused() {
    let (storage, world) = (Memory::new(), World::new(5));
    let repo = init(storage, &world);
    let head = b"--\n-- PostgreSQL database dump\n--\n\n".to_vec();
    let cut_off = [head.clone(), dump(100, 0)].concat();
    for data in [Vec::new(), cut_off] {
        let error = take(&repo, "shop", &data).expect_err("refused");
        assert_eq!(error.kind(), Kind::Source, "{error}");
    }
    assert!(ids(&repo).is_empty());
    assert!(repo.storage.list("sessions/").expect("list").is_empty());
    let whole = [head, dump(100, 0), b"--\n-- PostgreSQL database dump complete\n--\n\n".to_vec()].concat();
    take(&repo, "shop", &whole).expect("a whole dump is taken");
}

#[test]
fn a_stream_that_shrank_is_stored_and_flagged() {
    let (storage, world) = (Memory::new(), World::new(6));
    let repo = init(storage, &world);
    take(&repo, "shop", &dump(5000, 0)).expect("take");
    world.pass(SignedDuration::from_hours(24));
    let report = Collect::default();
    let taken = take_with(&repo, "shop", &dump(500, 0), &report).expect("take");
    assert!(taken.shrunk_from.is_some() && report.warnings().iter().any(|w| w.contains("--allow-shrink")));
    world.pass(SignedDuration::from_hours(24));
    // And again: it is still far below the last good one.
    assert_eq!(take(&repo, "shop", &dump(500, 0)).expect("take").shrunk_from, taken.shrunk_from);
    world.pass(SignedDuration::from_hours(24));
    let mut allowed = options("shop");
    allowed.allow_shrink = true;
    let data = dump(50, 0);
    let source = Source::Stream { input: Box::new(&data[..]), bytes: None };
    assert_eq!(snapshot(&repo, source, &allowed, &Silent, &Cancel::new()).expect("take").shrunk_from, None);
}

#[test]
fn a_write_only_slot_stores_and_deduplicates_and_reads_nothing() {
    let (storage, world) = (Memory::new(), World::new(7));
    let full = init(storage.clone(), &world);
    key::add(&full, SlotKind::WriteOnly, "db1", b"write", CHEAP).expect("key add");
    let data = dump(10_000, 1);
    take(&full, "shop", &data).expect("take");
    let host = open_with(storage.clone(), &world, b"write").expect("open");
    assert_eq!(host.keys.kind(), SlotKind::WriteOnly);
    world.pass(SignedDuration::from_hours(24));
    let report = Collect::default();
    let taken = take_with(&host, "shop", &data, &report).expect("a write-only slot takes snapshots");
    assert_eq!(report.get(Counter::NewChunks), 0, "and deduplicates");
    assert!(taken.previous.is_some(), "and knows its predecessor");
    let refused = [
        host.snapshots().map(|_| ()).expect_err("snapshots"),
        check(&host, None, &Silent, &Cancel::new()).map(|_| ()).expect_err("check"),
        pruned(&host).map(|_| ()).expect_err("prune"),
        key::add(&host, SlotKind::WriteOnly, "", b"x", CHEAP).map(|_| ()).expect_err("key add"),
        key::remove(&host, "00").map(|_| ()).expect_err("key remove"),
        stats::stats(&host, &Silent).map(|_| ()).expect_err("stats"),
        forget_ids(&host, &[taken.id]).expect_err("forget"),
    ];
    for error in refused {
        assert_eq!(error.kind(), Kind::WrongKey, "{error}");
        assert!(error.to_string().contains("write-only"), "{error}");
    }
    let back = open(storage, &world).expect("open");
    assert_eq!(restored(&back, &back.snapshots().expect("snapshots").0[0]).expect("restore"), data);
}

/// Rule I4: a prune that condemns what a running writer relies on loses nothing, for a full and for a write-only writer.
#[test]
fn a_prune_during_a_snapshot_loses_nothing() {
    for passphrase in [PASSPHRASE, b"write".as_slice()] {
        let (storage, world) = (Memory::new(), World::new(8));
        let repo = init(storage.clone(), &world);
        key::add(&repo, SlotKind::WriteOnly, "", b"write", CHEAP).expect("key add");
        // Long enough that the first half is deduplicated before the prune comes.
        let data = noise(6_000_000, 9);
        let old = take(&repo, "shop", &data).expect("take").id;
        world.pass(SignedDuration::from_hours(24));
        take(&repo, "other", &dump(100, 0)).expect("take");
        let writer = open_with(storage.clone(), &world, passphrase).expect("open");
        let mut waited = 0;
        let interrupting = Interrupting::new(&data, || {
            forget_ids(&repo, &[old]).expect("forget");
            let plan = pruned(&repo).expect("prune");
            assert!(plan.waiting_packs > 0 && plan.waiting_for.len() == 1, "prune waits for the writer: {plan:?}");
            waited = plan.waiting_packs;
        });
        let source = Source::Stream { input: Box::new(interrupting), bytes: None };
        let id = snapshot(&writer, source, &options("shop"), &Silent, &Cancel::new()).expect("the writer finishes").id;
        let whole = |repo: &Repository| {
            assert_eq!(restored(repo, &repo.snapshot(id).expect("snapshot")).expect("restore"), data);
        };
        whole(&repo);
        // The writer has ended: now the condemned packs go, unless they are needed.
        let plan = pruned(&repo).expect("prune");
        assert_eq!(plan.waiting_packs, 0);
        whole(&repo);
        pruned(&repo).expect("prune");
        whole(&open(storage, &world).expect("open"));
        assert!(check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check").problems.is_empty());
        assert!(waited > 0);
    }
}

/// What a prune has condemned is stored again where the listing of the index is short, too: the session is taken for dead
/// afterwards, and the next one counts on what it has stored.
#[test]
fn a_short_listing_makes_nothing_garbage_that_is_needed() {
    let (storage, world) = (Memory::new(), World::new(12));
    let repo = init(storage.clone(), &world);
    let data = noise(6_000_000, 9);
    let old = take(&repo, "shop", &data).expect("take").id;
    world.pass(SignedDuration::from_hours(24));
    take(&repo, "other", &dump(100, 0)).expect("take");
    let fault = Fault::new(storage.clone());
    let writer = open(fault.clone(), &world).expect("open");
    let condemned = Arc::new(AtomicBool::new(false));
    let cut = Arc::clone(&condemned);
    let is_cut = move |call: &Call| {
        call.operation == Operation::List && call.name == "index/" && cut.swap(false, Ordering::SeqCst)
    };
    fault.when(is_cut, Effect::Cut(0));
    let (keeper, later, once) = (open(storage.clone(), &world).expect("open"), Arc::clone(&world), Once::new());
    let fences = move |call: &Call| {
        if call.operation == Operation::PutNew && call.name.starts_with("snapshots/") {
            once.call_once(|| {
                later.pass(SignedDuration::from_hours(24));
                pruned(&keeper).expect("prune");
            });
        }
        false
    };
    fault.when(fences, Effect::Fail);
    let interrupting = Interrupting::new(&data, || {
        forget_ids(&repo, &[old]).expect("forget");
        assert!(pruned(&repo).expect("prune").waiting_packs > 0);
        condemned.store(true, Ordering::SeqCst);
    });
    let source = Source::Stream { input: Box::new(interrupting), bytes: None };
    let taken = snapshot(&writer, source, &options("shop"), &Silent, &Cancel::new());
    assert!(!condemned.load(Ordering::SeqCst), "no listing was cut");
    let back = open(storage, &world).expect("open");
    match taken {
        Ok(taken) => assert!(restored(&back, &back.snapshot(taken.id).expect("snapshot")).expect("restore") == data),
        Err(e) => assert_eq!(e.kind(), Kind::Busy, "{e}"),
    }
}

/// After a session has stored a condemned pack again, its successor walks the manifest before it relies on anything.
#[test]
fn a_pack_that_was_stored_again_is_not_forgotten() {
    let (storage, world) = (Memory::new(), World::new(13));
    let repo = init(storage, &world);
    take(&repo, "shop", &noise(20_000, 1)).expect("take");
    let pack = repo.cache.packs().expect("packs")[0].id;
    let id = repo.cache.entries(&pack).expect("entries")[0].1.id;
    let who = Writing { host: "host".into(), purpose: "snapshot".into() };
    let mut session = Session::begin(&repo, &who, &Silent).expect("begin");
    let chain = session.indexed.usable_chain(&id, u8::MAX).expect("chain").expect("usable");
    session.rely_on(&chain);
    session.relies_no_longer(pack);
    let former = session.begin_again(&Silent).expect("begin again");
    assert!(format!("{former:?}").contains(&pack.to_string()), "{former:?}");
}

/// A check finds damaged what a session has written itself, before that publishes: it publishes nothing that lacks it. What
/// was set aside in vain is stored again.
#[test]
fn what_is_found_damaged_of_its_own_is_not_published() {
    for in_vain in [false, true] {
        let (storage, world) = (Memory::new(), World::new(14));
        let repo = init(storage.clone(), &world);
        let data = noise(500_000, 9);
        let fault = Fault::new(storage.clone());
        let writer = open(fault.clone(), &world).expect("open");
        let armed = Arc::new(AtomicBool::new(false));
        let (is_armed, medium) = (Arc::clone(&armed), storage.clone());
        let finds = move |call: &Call| {
            if call.operation == Operation::List && call.name == "prune/" && is_armed.swap(false, Ordering::SeqCst) {
                let _ = indexed(&repo);
                let packs = repo.cache.packs().expect("packs");
                let pack = packs.iter().max_by_key(|pack| pack.size).expect("a pack").id;
                let rot = || {
                    let name = pack::object_name(pack);
                    medium.tamper(&name, |bytes| bytes[20_000] ^= 1).expect("tamper");
                };
                rot();
                check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
                if in_vain {
                    rot();
                }
            }
            false
        };
        fault.when(finds, Effect::Fail);
        let interrupting = Interrupting::new(&data, || armed.store(true, Ordering::SeqCst));
        let source = Source::Stream { input: Box::new(interrupting), bytes: None };
        let taken = snapshot(&writer, source, &options("shop"), &Silent, &Cancel::new());
        assert!(!armed.load(Ordering::SeqCst));
        assert_eq!(taken.is_ok(), in_vain, "{taken:?}");
        let back = open(storage, &world).expect("open");
        if let Ok(taken) = taken {
            assert!(restored(&back, &back.snapshot(taken.id).expect("snapshot")).expect("restore") == data);
            let found = check(&back, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
            assert!(found.problems.iter().all(|problem| problem.snapshots.is_empty()), "{:?}", found.problems);
        }
    }
}

/// A writer that was taken for dead can't publish, and what it had stored is garbage.
#[test]
fn a_fenced_writer_publishes_nothing() {
    let (storage, world) = (Memory::new(), World::new(10));
    let repo = init(storage.clone(), &world);
    take(&repo, "other", &dump(100, 0)).expect("take");
    let writer = open(storage, &world).expect("open");
    let data = noise(500_000, 1);
    let interrupting = Interrupting::new(&data, || {
        world.pass(SignedDuration::from_hours(3));
        pruned(&repo).expect("prune");
    });
    let source = Source::Stream { input: Box::new(interrupting), bytes: None };
    let error = snapshot(&writer, source, &options("shop"), &Silent, &Cancel::new()).expect_err("fenced");
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    assert_eq!(ids(&repo).len(), 1);
    world.pass(SignedDuration::from_hours(3));
    take(&writer, "shop", &data).expect("the next one succeeds");
    pruned(&repo).expect("prune");
    assert!(check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check").problems.is_empty());
}

/// A session puts an index object after it was fenced, its pack deleted and the pack no longer condemned: later writers
/// find the pack in the index. They know by the fence that it may be gone, and store its chunks again. (Found by the
/// simulation, in calm weather.)
#[test]
fn an_index_object_later_than_its_packs_deletion_fails_nobody() {
    let (storage, world) = (Memory::new(), World::new(25));
    let repo = init(storage.clone(), &world);
    key::add(&repo, SlotKind::WriteOnly, "", b"write", CHEAP).expect("key add");
    let old = [1, 2].map(|n| take(&repo, "old", &noise(150_000, n)).expect("take").id);
    take(&repo, "other", &dump(100, 0)).expect("take");
    let packs = |storage: &Memory| -> BTreeSet<String> {
        storage.names().into_iter().filter(|name| name.starts_with("packs/")).collect()
    };
    let (before, keeper) = (packs(&storage), (storage.clone(), Arc::clone(&world)));
    // The session has stored its packs and asked whether it is fenced: it is not. Now it sleeps.
    let asleep = Before::new(&storage, Operation::PutNew, "index/", move |_| {
        let (storage, world) = keeper;
        let written: BTreeSet<String> = packs(&storage).difference(&before).cloned().collect();
        world.pass(SignedDuration::from_hours(3));
        let keeper = open(storage.clone(), &world).expect("open");
        // The first prune fences it and deletes its packs; the second finds nobody at work and them gone and unlisted.
        for old in old {
            forget_ids(&keeper, &[old]).expect("forget");
            pruned(&keeper).expect("prune");
        }
        let (_, state) = keeper.newest_generation().expect("generation");
        assert!(!written.is_empty() && packs(&storage).is_disjoint(&written));
        assert!(state.condemned.iter().all(|c| !written.contains(&pack::object_name(c.pack))));
    });
    let sleeper = open(asleep, &world).expect("open");
    let data = noise(150_000, 3);
    let error = take(&sleeper, "shop", &data).expect_err("a pipe can't be read again");
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    assert!(error.advice().is_some_and(|hint| hint.contains("pipe")), "{:?}", error.advice());
    // What it left: the index lists packs that are gone.
    repo.index(&Silent).expect("index");
    let there = packs(&storage);
    let known = repo.cache.packs().expect("packs");
    assert!(known.iter().any(|known| !there.contains(&pack::object_name(known.id))));
    for passphrase in [PASSPHRASE, b"write".as_slice()] {
        let writer = open_with(storage.clone(), &world, passphrase).expect("open");
        let id = take(&writer, "shop", &data).expect("a pipe succeeds at once").id;
        assert_eq!(restored(&repo, &repo.snapshot(id).expect("snapshot")).expect("restore"), data);
    }
    pruned(&repo).expect("prune takes the packs out of the index");
    assert!(check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check").problems.is_empty());
}

/// Many writers, prunes, forgets and checks at once, without locks.
#[test]
fn many_at_once_lose_nothing() {
    let (storage, world) = (Memory::new(), World::new(13));
    init(storage.clone(), &world);
    std::thread::scope(|scope| {
        for number in 0..3 {
            let (storage, world) = (storage.clone(), Arc::clone(&world));
            scope.spawn(move || {
                let repo = open(storage, &world).expect("open");
                for day in 0..8 {
                    // Writers share most of their data.
                    take(&repo, &format!("db{number}"), &dump(2000 + number, day)).expect("take");
                    world.pass(SignedDuration::from_mins(1));
                }
            });
        }
        let (storage, world) = (storage.clone(), Arc::clone(&world));
        scope.spawn(move || {
            let repo = open(storage, &world).expect("open");
            for _ in 0..12 {
                let (snapshots, unreadable) = repo.snapshots().expect("snapshots");
                assert!(unreadable.is_empty());
                let old: Vec<_> = snapshots.iter().skip(4).map(|s| s.id).collect();
                forget_ids(&repo, &old).expect("forget");
                match pruned(&repo) {
                    Ok(_) => {}
                    // No snapshot yet.
                    Err(e) => assert_eq!(e.kind(), Kind::Failed, "{e}"),
                }
            }
        });
    });
    let repo = open(storage, &world).expect("open");
    let days: Vec<Vec<u8>> = (0..3).flat_map(|number| (0..8).map(move |day| dump(2000 + number, day))).collect();
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    assert!(!snapshots.is_empty());
    for snapshot in &snapshots {
        assert!(days.contains(&restored(&repo, snapshot).expect("restore")));
    }
    pruned(&repo).expect("prune");
    assert!(check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check").problems.is_empty());
}

/// Rule I6, restic #4612: a listing that hides snapshots or packs must not look like garbage.
#[test]
fn prune_refuses_an_incomplete_listing() {
    for prefix in ["snapshots/", "packs/"] {
        let (storage, world) = (Memory::new(), World::new(14));
        let fault = Fault::new(storage.clone());
        let repo = init(fault.clone(), &world);
        for day in 0..4 {
            take(&repo, "shop", &noise(150_000, day)).expect("take");
            world.pass(SignedDuration::from_hours(24));
        }
        let before = storage.names();
        fault.when(on(Operation::List, prefix), Effect::Cut(1));
        let error = pruned(&repo).expect_err("refused");
        assert_eq!(error.kind(), Kind::Damaged, "{error}");
        fault.heal();
        let kept = |names: Vec<String>| {
            names.into_iter().filter(|n| n.starts_with("packs/") || n.starts_with("snapshots/")).collect::<Vec<_>>()
        };
        assert_eq!(kept(before), kept(storage.names()));
    }
}

/// A pack that is gone is damage when a snapshot needs it; when none does, the index forgets it.
#[test]
fn prune_tells_what_is_lost_from_what_is_over() {
    let (storage, world) = (Memory::new(), World::new(24));
    let repo = init(storage.clone(), &world);
    let old = take(&repo, "shop", &noise(150_000, 1)).expect("take");
    let packs = |storage: &Memory| storage.names().into_iter().filter(|n| n.starts_with("packs/")).collect::<Vec<_>>();
    let unneeded = packs(&storage);
    world.pass(SignedDuration::from_hours(24));
    take(&repo, "shop", &noise(150_000, 2)).expect("take");
    Storage::delete(&storage, &unneeded[0]).expect("deleted");
    let error = pruned(&repo).expect_err("a snapshot needs it");
    assert_eq!(error.kind(), Kind::Damaged, "{error}");
    forget_ids(&repo, &[old.id]).expect("forget");
    pruned(&repo).expect("nobody needs it");
    assert!(packs(&storage).iter().all(|name| !unneeded.contains(name)));
    let found =
        check(&open(storage, &world).expect("open"), Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
    assert!(found.problems.is_empty(), "{:?}", found.problems);
}

/// A store that fails ends the work with its error; nothing hangs, and the next run works.
#[test]
fn a_failing_store_is_an_error_and_not_a_hang() {
    let world = World::new(15);
    let fault = Fault::new(Memory::new());
    let repo = init(fault.clone(), &world);
    fault.when(on(Operation::PutNew, "packs/"), Effect::Full(100_000));
    let error = take(&repo, "shop", &noise(3_000_000, 1)).expect_err("full");
    assert_eq!(error.kind(), Kind::Storage, "{error}");
    fault.heal();
    let data = noise(3_000_000, 1);
    take(&repo, "shop", &data).expect("the next run works");
    assert_eq!(restored(&repo, &repo.snapshots().expect("snapshots").0[0]).expect("restore"), data);
}

/// restic #5683: a command that never ends is killed when the store fails, instead of being waited for.
#[test]
fn a_failing_store_kills_the_command() {
    let world = World::new(22);
    let fault = Fault::new(Memory::new());
    let repo = init(fault.clone(), &world);
    fault.when(on(Operation::PutNew, "packs/"), Effect::Fail);
    let pid_file = tempfile::NamedTempFile::new().expect("a file");
    let endless = format!("echo $$ > {}; while :; do cat /dev/urandom; done", pid_file.path().display());
    let source = Source::Command(vec!["sh".into(), "-c".into(), endless]);
    let error = snapshot(&repo, source, &options("shop"), &Silent, &Cancel::new()).expect_err("the store fails");
    assert_eq!(error.kind(), Kind::Storage, "{error}");
    let pid = std::fs::read_to_string(pid_file.path()).expect("the command ran");
    assert!(!std::path::Path::new(&format!("/proc/{}", pid.trim())).exists(), "the command still runs");
}

/// Names come from manifests, and a manifest can be made by whoever has a key: they never lead out of the target.
#[test]
fn hostile_part_names_stay_inside_the_target() {
    let (storage, world) = (Memory::new(), World::new(16));
    let repo = init(storage, &world);
    let session =
        Session::begin(&repo, &Writing { host: "h".into(), purpose: "snapshot".into() }, &Silent).expect("begin");
    let digest = Digest { bytes: 0, blake3: *blake3::hash(b"").as_bytes() };
    let now = jiff::Timestamp::from_second(1_790_000_000).expect("a time");
    let file = |name: &str| Part {
        name: PartName::of(name),
        kind: PartKind::File { mode: 0o644, modified: now, changed: false },
        digest,
        recipe: Recipe::default(),
        stored_bytes: None,
    };
    let link = Part {
        name: PartName::of("link"),
        kind: PartKind::Link { target: "/tmp".into() },
        digest,
        recipe: Recipe::default(),
        stored_bytes: None,
    };
    let hostile = ["../escape", "/etc/escape", "a/../../escape", "", ".", "a/./../..", "nul\0"];
    let mut parts: Vec<Part> = hostile.iter().map(|n| file(n)).collect();
    parts.extend([link, file("link/escape"), file("good/one"), file("new\nline\u{202e}")]);
    let manifest = Manifest {
        time: now,
        sequence: 1,
        finished: now,
        zone: "UTC".into(),
        source: "evil".into(),
        kind: SourceKind::Files,
        host: "h".into(),
        tags: BTreeSet::new(),
        previous: None,
        generation: 0,
        tool: "test".into(),
        whole: None,
        shape: Shape { is: ShapeKind::Files, dialect: None },
        parts: inline_list(parts),
        engine: None,
        catalog: None,
        stored: Stored::default(),
        shrunk_from: None,
        original: None,
        original_author: None,
    };
    session
        .publish(
            &Header {
                time: now,
                series: repo.keys.hasher.series("h", "evil"),
                sequence: 1,
                bytes: 0,
                good_bytes: 0,
                previous: None,
                body: [0; 32],
            },
            &manifest,
        )
        .expect("publish");
    let outside = tempfile::tempdir().expect("tempdir");
    let target = outside.path().join("deep/target");
    std::fs::create_dir_all(&target).expect("target");
    let snapshot = repo.snapshots().expect("snapshots").0.remove(0);
    let report = Collect::default();
    let to = Target::Path { path: &target, overwrite: false };
    let done = restore(&indexed(&repo), &snapshot, &Wanted::Whole, to, 96 << 20, &report, &Cancel::new())
        .expect("restore goes on");
    assert!(done.failed >= 7 && done.parts >= 2, "{done:?}");
    assert_eq!(report.problems().len() as u64, done.failed);
    assert!(target.join("good/one").exists() && target.join("new\nline\u{202e}").exists());
    let mut seen = Vec::new();
    let mut folders = vec![outside.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("read_dir") {
            let entry = entry.expect("entry");
            if entry.file_type().expect("type").is_dir() {
                folders.push(entry.path());
            } else {
                seen.push(entry.path());
            }
        }
    }
    assert!(seen.iter().all(|p| p.starts_with(&target)), "{seen:?}");
    assert!(!std::path::Path::new("/tmp/escape").exists() && !std::path::Path::new("/etc/escape").exists());
}

#[test]
fn files_and_folders_come_back_as_they_were() {
    use std::os::unix::fs::PermissionsExt;
    let (storage, world) = (Memory::new(), World::new(17));
    let repo = init(storage, &world);
    let folder = tempfile::tempdir().expect("tempdir");
    let exports = folder.path().join("exports");
    std::fs::create_dir_all(exports.join("empty")).expect("folder");
    std::fs::write(exports.join("a.csv"), dump(3000, 1)).expect("write");
    std::fs::write(exports.join("nothing"), b"").expect("write");
    std::fs::set_permissions(exports.join("a.csv"), std::fs::Permissions::from_mode(0o640)).expect("mode");
    std::os::unix::fs::symlink("a.csv", exports.join("latest")).expect("symlink");
    let source = Source::Files(vec![exports.clone()]);
    let taken = snapshot(&repo, source, &options("exports"), &Silent, &Cancel::new()).expect("take");
    assert_eq!(taken.left_out, 0);
    let found = repo.snapshots().expect("snapshots").0.remove(0);
    let back = folder.path().join("back");
    restore(
        &indexed(&repo),
        &found,
        &Wanted::Whole,
        Target::Path { path: &back, overwrite: false },
        96 << 20,
        &Silent,
        &Cancel::new(),
    )
    .expect("restore");
    let name = parts_of(&repo, &found).into_iter().map(|part| part.name.object).find(|name| name.ends_with("a.csv"));
    let name = name.expect("a.csv");
    let restored_file = back.join(&name);
    assert_eq!(std::fs::read(&restored_file).expect("read"), dump(3000, 1));
    assert_eq!(restored_file.metadata().expect("metadata").permissions().mode() & 0o777, 0o640);
    let root = restored_file.parent().expect("parent");
    assert!(root.join("empty").is_dir() && root.join("nothing").metadata().expect("metadata").len() == 0);
    assert_eq!(std::fs::read_link(root.join("latest")).expect("link"), std::path::Path::new("a.csv"));
    // One part by itself, and never over an existing file unasked.
    let (_, part) = wanted(&repo, std::slice::from_ref(&found), &format!("exports:{name}")).expect("part");
    let file = folder.path().join("one.csv");
    let once = |overwrite| {
        restore(
            &indexed(&repo),
            &found,
            &part,
            Target::Path { path: &file, overwrite },
            96 << 20,
            &Silent,
            &Cancel::new(),
        )
    };
    once(false).expect("restore");
    assert_eq!(once(false).expect_err("exists").kind(), Kind::AlreadyExists);
    once(true).expect("overwrite");
    assert_eq!(std::fs::read(&file).expect("read"), dump(3000, 1));
}

#[test]
fn diff_tells_what_changed_from_recipes_alone() {
    let (storage, world) = (Memory::new(), World::new(18));
    let repo = init(storage, &world);
    let (old, new) = (noise(300_000, 1), [noise(300_000, 1), noise(50_000, 2)].concat());
    take(&repo, "shop", &old).expect("take");
    world.pass(SignedDuration::from_hours(24));
    take(&repo, "shop", &new).expect("take");
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    let parts = diff::diff(&repo, &snapshots[1], &snapshots[0], false, &Silent).expect("diff");
    assert_eq!(parts.len(), 1);
    assert_eq!(parts[0].change, diff::Change::Changed);
    assert!((50_000..60_000).contains(&parts[0].added_bytes) && parts[0].removed_bytes < 8_000, "{parts:?}");
    let same = diff::diff(&repo, &snapshots[0], &snapshots[0], true, &Silent).expect("diff");
    assert_eq!((same[0].change, same[0].added_bytes), (diff::Change::Same, 0));
}

#[test]
fn snapshots_are_called_by_id_name_time_and_part() {
    let (storage, world) = (Memory::new(), World::new(19));
    let repo = init(storage, &world);
    for day in 0..3 {
        take(&repo, "shop", &dump(100, day)).expect("take");
        world.pass(SignedDuration::from_hours(24));
    }
    take(&repo, "wiki", &dump(100, 0)).expect("take");
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    let utc = jiff::tz::TimeZone::UTC;
    let name = |text: &str| select::snapshot(&snapshots, text, &utc).map(|s| s.id);
    assert_eq!(name("latest").expect("latest"), snapshots[0].id);
    assert_eq!(name("shop").expect("shop"), snapshots[1].id);
    assert_eq!(name(&snapshots[2].id.to_string()[..6]).expect("prefix"), snapshots[2].id);
    let day = |n: usize| snapshots[n].manifest.time.to_zoned(utc.clone()).date().to_string();
    assert_eq!(name(&format!("shop@{}", day(2))).expect("date"), snapshots[2].id);
    assert_eq!(name(&format!("shop@{}", snapshots[3].manifest.time)).expect("time"), snapshots[3].id);
    assert_eq!(name("shop@2001-01-01").expect_err("before all").kind(), Kind::NotFound);
    assert_eq!(name("nothing").expect_err("unknown").kind(), Kind::NotFound);
    let text = format!("shop@{}:shop", snapshots[3].manifest.time);
    let (found, part) = wanted(&repo, &snapshots, &text).expect("part");
    let expected = Wanted::Part(parts_of(&repo, &snapshots[3]).remove(0));
    assert_eq!((found.id, part), (snapshots[3].id, expected));
}

#[test]
fn init_refuses_a_repository_and_wrong_passphrases_open_nothing() {
    let (storage, world) = (Memory::new(), World::new(20));
    init(storage.clone(), &world);
    let before = storage.names();
    let again =
        Repository::init(&storage, world.as_ref(), b"x", "", InitOptions { kdf: CHEAP, ..InitOptions::default() });
    assert_eq!(again.expect_err("refused").kind(), Kind::AlreadyExists);
    assert_eq!(before, storage.names());
    let error = open_with(storage, &world, b"wrong").err().expect("refused");
    assert_eq!(error.kind(), Kind::WrongKey);
    let nowhere = open(Memory::new(), &world).err().expect("nothing there");
    assert_eq!(nowhere.kind(), Kind::NoRepository);
}

/// A prune that slept while others published three generations finds its number free again: two generations later the
/// old name was deleted. What it publishes then counts for nothing, and it must know.
#[test]
fn a_generation_that_comes_too_late_is_refused() {
    let (storage, world) = (Memory::new(), World::new(30));
    let repo = init(storage, &world);
    let empty = alluvium::format::coordination::Generation::default();
    for number in 1..=3 {
        repo.publish_generation(number, &empty).expect("published");
    }
    let error = repo.publish_generation(1, &empty).expect_err("too late");
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    assert_eq!(repo.newest_generation().expect("the newest").0, 3);
}

/// Over a network the newest generation is looked for beside the listing, from the one that was seen last: what comes out is
/// the newest, wherever that is and however old the listing, and in the usual case no request waits for another.
#[test]
fn the_newest_generation_is_found_from_whatever_was_seen() {
    let empty = alluvium::format::coordination::Generation::default();
    for (seen, published, behind) in
        [(0, 0, 0), (0, 1, 0), (0, 3, 2), (2, 2, 0), (2, 2, 1), (2, 2, 2), (2, 5, 3), (2, 9, 0)]
    {
        let (storage, world) = (Fault::new(Memory::new()), World::new(31));
        storage.set_transfers(8);
        let cache = tempfile::tempdir().expect("a folder");
        drop(init(storage.clone(), &world));
        let open = || {
            Repository::open(Arc::new(storage.clone()), world.clone(), PASSPHRASE, Some(cache.path())).expect("open")
        };
        let publish = |numbers: std::ops::RangeInclusive<u64>| {
            numbers.for_each(|n| assert_eq!(open().publish_generation(n, &empty).expect("published"), n));
        };
        publish(1..=seen);
        let repo = open();
        repo.older_than_seen(&Silent).expect("nothing is older");
        let before = storage.operations();
        assert_eq!(repo.probe_generation().expect("probe").0, seen);
        // The listing, what may follow, and the state.
        assert_eq!(storage.operations() - before, 3 + usize::from(seen > 0), "{seen}");
        publish(seen + 1..=published);
        let shown = usize::try_from(published - behind).expect("few");
        storage.when(on(Operation::List, "prune/"), Effect::Cut(shown));
        let (number, state) = repo.probe_generation().expect("probe");
        assert_eq!((number, state.expect("readable")), (published, empty.clone()), "{seen} {published} {behind}");
    }
}
