//! The list of a snapshot's parts is a stream of chunks, and no walk of lists, recipes or deltas takes longer than what is
//! stored.

use std::collections::BTreeSet;

use alluvium::env::Cancel;
use alluvium::error::{Kind, Result};
use alluvium::format::catalog::{CatalogTable, Column, Consistency, Engine, Evidence};
use alluvium::format::index::{IndexObject, IndexedPack};
use alluvium::format::manifest::{
    Dialect, Digest, Header, Listing, Manifest, Part, PartKind, PartList, PartName, Shape, ShapeKind, SourceKind,
    Stored,
};
use alluvium::format::pack::{Base, BlobEntry, Codec, object_name};
use alluvium::format::recipe::{Recipe, RecipeEntry};
use alluvium::id::{BlobId, PackId, SnapshotId};
use alluvium::ops::check::{Subset, check};
use alluvium::ops::diff::{self, diff};
use alluvium::ops::mark::mark;
use alluvium::ops::snapshot::{SnapshotOptions, Source, snapshot};
use alluvium::ops::stats;
use alluvium::ops::sync::{SyncOptions, Way, sync};
use alluvium::ops::{key, select};
use alluvium::repo::Repository;
use alluvium::repo::reader::Reader;
use alluvium::repo::session::{Session, Writing};
use alluvium::repo::snapshots::{Snapshot, inline_list};
use alluvium::repo::writer::{WriteOptions, write};
use alluvium::report::{Collect, Counter, Silent};
use alluvium::storage::Storage;
use alluvium::storage::fault::{Fault, Operation};
use alluvium::storage::memory::Memory;
use jiff::SignedDuration;

use crate::support::{
    CHEAP, World, dump, indexed, init, open, open_with, options, part_called, parts_of, pruned, restored, take,
    take_with, wanted,
};

/// A dump of PostgreSQL with so many tables of one row, of which one has `changed`.
fn tables(n: usize, changed: &str) -> Vec<u8> {
    let mut dump = b"--\n-- PostgreSQL database dump\n--\n\n".to_vec();
    for i in 0..n {
        let row = if i == n / 2 { changed } else { "the same" };
        dump.extend(format!("COPY public.t{i} (a, b) FROM stdin;\n{i}\t{row}\n\\.\n\n\n").into_bytes());
    }
    dump.extend(b"--\n-- PostgreSQL database dump complete\n--\n\n");
    dump
}

// ---- Size ------------------------------------------------------------------------------------

#[test]
fn an_unchanged_list_of_20_000_tables_costs_some_kilobytes_and_no_listing_reads_it() {
    let (fault, world) = (Fault::new(Memory::new()), World::new(1));
    let repo = init(fault.clone(), &world);
    let data = tables(20_000, "the same");
    let first = take(&repo, "shop", &data).expect("take");
    world.pass(SignedDuration::from_hours(24));
    let report = Collect::default();
    let second = take_with(&repo, "shop", &data, &report).expect("take");
    assert!(report.get(Counter::StoredBytes) < 64 << 10, "{report:?}");
    assert_eq!(second.stored.new_chunks, 0, "{:?}", second.stored);
    let manifest = |id: SnapshotId| fault.stat(&format!("snapshots/{id}")).expect("stat").expect("it is there");
    assert!(manifest(first.id) < 8 << 10 && manifest(second.id) < 8 << 10, "{}", manifest(second.id));
    // A table that changed costs the chunks of the list that name it.
    world.pass(SignedDuration::from_hours(24));
    let changed = tables(20_000, "other");
    let third = take(&repo, "shop", &changed).expect("take");
    assert!(third.stored.new_chunks < 8 && third.stored.new_bytes < 256 << 10, "{:?}", third.stored);

    // With nothing in the cache.
    let fresh = open(fault.clone(), &world).expect("open");
    let calls = fault.operations();
    let (snapshots, _) = fresh.snapshots().expect("snapshots");
    assert_eq!(snapshots.len(), 3);
    assert!(snapshots.iter().all(|s| s.manifest.parts.count == 20_001 && s.manifest.bytes() == s.manifest.parts.bytes));
    let read: Vec<_> = fault.calls()[calls..].iter().filter(|call| call.name.starts_with("packs/")).cloned().collect();
    assert!(read.is_empty(), "{read:?}");

    // A walk of two snapshots with one list reads no more than a walk of one.
    let reads = |snapshots: &[Snapshot]| {
        let indexed = indexed(&fresh);
        let calls = fault.operations();
        mark(&indexed, snapshots, &|_, _| None, &Silent, &Cancel::new()).expect("mark");
        fault.calls()[calls..].iter().filter(|call| call.operation == Operation::GetRange).count()
    };
    let (one, both) = (reads(&snapshots[2..]), reads(&snapshots[1..]));
    assert!(one > 100 && one == both, "{one} and {both}");

    let newest = &snapshots[0];
    assert!(restored(&fresh, newest).expect("restore") == changed);
    let part = part_called(&fresh, newest, "public.t10000").expect("the table");
    assert_eq!((part.name, part.kind), (PartName::in_schema("public", "t10000"), PartKind::Table { rows: 1 }));
    assert_eq!(check(&fresh, None, &Silent, &Cancel::new()).expect("check").problems, []);
    pruned(&fresh).expect("prune");
    let changes = diff(&fresh, &snapshots[1], newest, false, &Silent).expect("diff");
    let changes: Vec<_> = changes.iter().filter(|part| part.change != diff::Change::Same).collect();
    assert!(matches!(&changes[..], [only] if only.name == "public.t10000"), "{changes:?}");
}

#[test]
fn lists_go_along_with_copies_and_who_may_only_write_writes_them() {
    let (storage, world) = (Memory::new(), World::new(2));
    let repo = init(storage.clone(), &world);
    key::add(&repo, alluvium::format::keyslot::SlotKind::WriteOnly, "db1", b"write", CHEAP).expect("a slot");
    let writer = open_with(storage, &world, b"write").expect("open");
    let data = tables(500, "the same");
    let id = take(&writer, "shop", &data).expect("take").id;
    world.pass(SignedDuration::from_hours(24));
    let again = take(&writer, "shop", &data).expect("take");
    assert_eq!(again.stored.new_chunks, 0, "{:?}", again.stored);
    let original = repo.snapshot(id).expect("snapshot");
    assert_eq!(original.manifest.parts.inline(), None);
    assert!(restored(&repo, &original).expect("restore") == data);
    for way in [Way::Packs, Way::Chunks, Way::Streams] {
        let target = Memory::new();
        match way {
            Way::Packs => repo.init_twin(&target, b"to", "twin", CHEAP).map(drop),
            Way::Chunks => repo.init_like(&target, b"to", "like", None, CHEAP).map(drop),
            Way::Streams => Repository::init(&target, world.as_ref(), b"to", "", crate::support::small()).map(drop),
        }
        .expect("init");
        let copy = open_with(target, &world, b"to").expect("open");
        let how = SyncOptions { host: "host".to_owned(), ..SyncOptions::default() };
        // The second one finds that all is there.
        for copied in [2, 0] {
            let synced = sync(&repo, &copy, &how, &Silent, &Cancel::new()).expect("sync");
            assert_eq!((synced.way, synced.copied.len(), synced.failed.len()), (way, copied, 0), "{synced:?}");
        }
        let (copies, _) = copy.snapshots().expect("snapshots");
        for found in &copies {
            assert!(restored(&copy, found).expect("restore") == data, "{way:?}");
            assert_eq!(found.manifest.shape, original.manifest.shape);
            let names = |repo, snapshot| parts_of(repo, snapshot).into_iter().map(|part| part.name).collect::<Vec<_>>();
            assert_eq!(names(&copy, found), names(&repo, &original));
        }
        assert_eq!(check(&copy, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check").problems, []);
    }
}

#[test]
fn a_list_that_is_not_what_the_manifest_says_is_damage() {
    let (storage, world) = (Memory::new(), World::new(3));
    let repo = init(storage, &world);
    let id = take(&repo, "shop", &tables(100, "the same")).expect("take").id;
    let found = repo.snapshot(id).expect("snapshot");
    let altered = |alter: &dyn Fn(&mut PartList)| {
        let mut altered = found.clone();
        alter(&mut altered.manifest.parts);
        restored(&repo, &altered).map(drop)
    };
    altered(&|_| {}).expect("restore");
    let alterations: [&dyn Fn(&mut PartList); 5] = [
        &|list| list.count += 1,
        &|list| list.count -= 1,
        &|list| list.bytes += 1,
        &|list| list.blake3[0] ^= 1,
        &|list| {
            let Listing::Recipe(recipe) = &mut list.list else { panic!("a long list") };
            recipe.chunks.swap(0, 1);
        },
    ];
    for alter in alterations {
        assert_eq!(altered(alter).expect_err("another list").kind(), Kind::Damaged);
    }
}

// ---- What a dump knows ---------------------------------------------------------------------

#[test]
fn what_a_dump_knows_of_its_database_is_stored_beside_it() {
    let (storage, world) = (Memory::new(), World::new(4));
    let repo = init(storage, &world);
    let table = |i: u64| CatalogTable {
        name: PartName::in_schema("public", format!("t{i}")),
        rows: i,
        bytes: 100 * i,
        columns: vec![Column { name: "id".to_owned(), data_type: "bigint".to_owned() }],
        digest: [i as u8; 32],
    };
    let evidence = Evidence {
        engine: Engine {
            engine: Some("postgres".to_owned()),
            consistency: Some(Consistency {
                kind: "lsn".to_owned(),
                lsn: Some("0/1".to_owned()),
                ..Consistency::default()
            }),
            ..Engine::default()
        },
        tables: (0..2000).map(table).collect(),
    };
    let how = SnapshotOptions { evidence: Some(evidence.clone()), ..options("shop") };
    let data = tables(3, "the same");
    let source = || Source::Stream { input: Box::new(&data[..]), bytes: None };
    snapshot(&repo, source(), &how, &Silent, &Cancel::new()).expect("take");
    world.pass(SignedDuration::from_hours(24));
    let again = snapshot(&repo, source(), &how, &Silent, &Cancel::new()).expect("take");
    assert_eq!(again.stored.new_chunks, 0, "{:?}", again.stored);
    let target = Memory::new();
    Repository::init(&target, world.as_ref(), b"to", "", crate::support::small()).expect("init");
    let copy = open_with(target, &world, b"to").expect("open");
    let to = SyncOptions { host: "host".to_owned(), ..SyncOptions::default() };
    sync(&repo, &copy, &to, &Silent, &Cancel::new()).expect("sync");
    pruned(&repo).expect("prune");
    for repo in [&repo, &copy] {
        let found = repo.snapshots().expect("snapshots").0.remove(0);
        assert_eq!(found.manifest.engine, Some(evidence.engine.clone()));
        let catalog = found.manifest.catalog.clone().expect("a catalog");
        assert!(catalog.tables == 2000 && !catalog.recipe.chunks.is_empty());
        let indexed = indexed(repo);
        let reader = Reader::new(&indexed).expect("reader");
        assert_eq!(reader.catalog(&found.manifest).expect("it reads"), Some(evidence.tables.clone()));
        let mut other = found.manifest.clone();
        other.catalog.as_mut().expect("a catalog").tables = 1999;
        assert_eq!(reader.catalog(&other).expect_err("one more").kind(), Kind::Damaged);
        assert_eq!(check(repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check").problems, []);
    }
}

#[test]
fn a_snapshot_says_what_it_is() {
    let (storage, world) = (Memory::new(), World::new(5));
    let repo = init(storage, &world);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a"), tables(1, "")).expect("write");
    let files = Source::Files(vec![folder.path().join("a")]);
    let taken = snapshot(&repo, files, &options("files"), &Silent, &Cancel::new()).expect("take");
    let shape = |id| {
        let Shape { is, dialect } = repo.snapshot(id).expect("snapshot").manifest.shape;
        (is, dialect)
    };
    assert_eq!(shape(taken.id), (ShapeKind::Files, None));
    for (data, is, dialect) in [
        (tables(2, ""), ShapeKind::Dump, Some(Dialect::Postgres)),
        (b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCOMMIT;\n".to_vec(), ShapeKind::Dump, Some(Dialect::Sqlite)),
        (b"a,b\n1,2\n3,4\n".to_vec(), ShapeKind::Stream, Some(Dialect::Lines)),
        (crate::support::noise(1000, 1), ShapeKind::Stream, None),
        ([&b"SQLite format 3\0\x10\0"[..], &[0; 5000]].concat(), ShapeKind::Pages, Some(Dialect::Sqlite)),
    ] {
        let id = take(&repo, "s", &data).expect("take").id;
        assert_eq!(shape(id), (is, dialect));
    }
}

/// A table may be called like the second piece of another, and have a dot or a slash in its name.
#[test]
fn tables_whose_names_look_like_others_are_told_apart() {
    let (storage, world) = (Memory::new(), World::new(6));
    let repo = init(storage, &world);
    let copy = |table: &str, row: &str| format!("COPY {table} (a) FROM stdin;\n{row}\n\\.\n\n\n");
    let dump = [
        "--\n-- PostgreSQL database dump\n--\n\n",
        &copy("public.orders", "first"),
        &copy("public.\"a/b\"", "slash"),
        &copy("public.orders", "second"),
        &copy("public.\"orders (2)\"", "other"),
        &copy("public.\"x.y\"", "dot"),
        "--\n-- PostgreSQL database dump complete\n--\n\n",
    ]
    .concat();
    let id = take(&repo, "shop", dump.as_bytes()).expect("take").id;
    let found = repo.snapshot(id).expect("snapshot");
    let names: BTreeSet<PartName> = parts_of(&repo, &found).into_iter().map(|part| part.name).collect();
    let table = |name: &str| PartName::in_schema("public", name);
    let second = PartName { piece: 2, ..table("orders") };
    for name in [table("orders"), second, table("a/b"), table("orders (2)"), table("x.y")] {
        assert!(names.contains(&name), "{name:?} in {names:?}");
    }
    let list = std::slice::from_ref(&found);
    for (text, name) in [
        ("orders", "orders"),
        ("public.orders", "orders"),
        ("orders (2)", "orders (2)"),
        ("public.orders (2)", "orders (2)"),
        ("a/b", "a/b"),
        ("public.a/b", "a/b"),
        ("x.y", "x.y"),
    ] {
        let (_, found) = wanted(&repo, list, &format!("shop:{text}")).expect("the table");
        let expected = select::Wanted::Table { name: table(name), narrow: select::Narrow::Everything };
        assert_eq!(found, expected, "{text}");
    }
}

// ---- Bounded work --------------------------------------------------------------------------

/// How often each level of a bomb repeats its only entry, and how many levels it has.
const TIMES: usize = 1000;
const DEPTH: u8 = 5;

/// A recipe that lists one chunk of `raw` 10^15 times, stored with next to nothing, and its root.
fn bomb(repo: &Repository, raw: &[u8], publish: impl FnOnce(Recipe) -> Manifest) -> Result<SnapshotId> {
    let session = Session::begin(repo, &Writing { host: "h".into(), purpose: "snapshot".into() }, &Silent)?;
    let root = write(&session, WriteOptions::default(), &Silent, &Cancel::new(), |writer| {
        let mut store = |raw: Vec<u8>| -> Result<RecipeEntry> {
            let entry = RecipeEntry { id: repo.keys.hasher.id(&raw), len: raw.len() as u32 };
            writer.store_again(entry.id, raw)?;
            Ok(entry)
        };
        let mut entry = store(raw.to_vec())?;
        for _ in 0..DEPTH {
            let mut list = Vec::new();
            entry.encode(&mut list);
            entry = store(list.repeat(TIMES))?;
        }
        Ok(entry)
    })?;
    let manifest = publish(Recipe { depth: DEPTH, chunks: vec![root] });
    let bytes = manifest.bytes();
    let header = Header {
        time: manifest.time,
        series: repo.keys.hasher.series(&manifest.host, &manifest.source),
        sequence: 1,
        bytes,
        good_bytes: bytes,
        previous: None,
        body: [0; 32],
    };
    session.publish(&header, &manifest)
}

/// A part that is such a bomb, and says that it has so many `bytes`.
fn part_of(recipe: Recipe, bytes: u64) -> Part {
    let digest = Digest { bytes, blake3: [0; 32] };
    Part { name: PartName::of("bomb"), kind: PartKind::Table { rows: 1 }, digest, recipe, stored_bytes: None }
}

fn manifest_of(world: &World, parts: PartList, whole: Option<Digest>) -> Manifest {
    let time = alluvium::env::Env::now(world);
    Manifest {
        time,
        sequence: 1,
        finished: time,
        zone: "UTC".into(),
        source: "bomb".into(),
        kind: SourceKind::Stream,
        host: "h".into(),
        tags: BTreeSet::new(),
        previous: None,
        generation: 0,
        tool: "test".into(),
        whole,
        shape: Shape { is: ShapeKind::Stream, dialect: Some(Dialect::Lines) },
        parts,
        engine: None,
        catalog: None,
        stored: Stored::default(),
        shrunk_from: None,
        original: None,
        original_author: None,
    }
}

/// All that walks recipes ends at once, though what they list would take years.
#[test]
fn a_recipe_that_repeats_itself_takes_no_longer_than_what_is_stored() {
    let (storage, world) = (Memory::new(), World::new(7));
    let repo = init(storage, &world);
    let normal = take(&repo, "shop", &dump(100, 0)).expect("take").id;
    let total = (TIMES as u64).pow(u32::from(DEPTH));
    let id = bomb(&repo, b"x", |recipe| {
        let part = part_of(recipe, total);
        let whole = Some(part.digest);
        manifest_of(&world, inline_list(vec![part]), whole)
    })
    .expect("publish");
    let (old, new) = (repo.snapshot(normal).expect("snapshot"), repo.snapshot(id).expect("snapshot"));

    let savings = stats::savings(&repo, true, &Silent, &Cancel::new()).expect("savings");
    let of_bomb = savings.iter().find(|s| s.source == "bomb").expect("the bomb");
    assert_eq!((of_bomb.bytes, of_bomb.deduplication), (total, total - 1));
    assert!(check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check").problems.is_empty());
    pruned(&repo).expect("prune");
    diff(&repo, &old, &new, false, &Silent).expect("diff");
    // The same name on both sides: the chunks are compared.
    let mut other = new.clone();
    let mut part = parts_of(&repo, &new).remove(0);
    part.digest.bytes -= 1;
    other.manifest.parts = inline_list(vec![part.clone()]);
    let changes = diff(&repo, &new, &other, false, &Silent).expect("diff");
    assert_eq!((changes[0].removed_bytes, changes[0].added_bytes), (0, 0));
    assert_eq!(diff(&repo, &new, &other, true, &Silent).expect_err("too many rows").kind(), Kind::Usage);
    for way in [Way::Packs, Way::Chunks] {
        let target = Memory::new();
        match way {
            Way::Packs => repo.init_twin(&target, b"to", "twin", CHEAP).map(drop),
            _ => repo.init_like(&target, b"to", "like", None, CHEAP).map(drop),
        }
        .expect("init");
        let copy = open_with(target, &world, b"to").expect("open");
        let how = SyncOptions { host: "host".to_owned(), dry_run: true, ..SyncOptions::default() };
        sync(&repo, &copy, &how, &Silent, &Cancel::new()).expect("plan");
        let how = SyncOptions { dry_run: false, ..how };
        let synced = sync(&repo, &copy, &how, &Silent, &Cancel::new()).expect("sync");
        assert_eq!((synced.copied.len(), synced.failed.len()), (2, 0), "{synced:?}");
    }
    // What lists more than it has is told as soon as that shows.
    part.digest.bytes = 3000;
    let mut short = new;
    short.manifest.whole = Some(part.digest);
    short.manifest.parts = inline_list(vec![part]);
    let error = restored(&repo, &short).expect_err("too long");
    assert!(error.kind() == Kind::Damaged && error.to_string().contains("more bytes"), "{error}");
}

/// The same for a list of parts.
#[test]
fn a_list_that_repeats_itself_takes_no_longer_than_what_is_stored() {
    let (storage, world) = (Memory::new(), World::new(8));
    let repo = init(storage, &world);
    let record = part_of(Recipe::default(), 0).encode().expect("short");
    let id = bomb(&repo, &record, |recipe| {
        let list = PartList { count: 1 << 24, bytes: 0, blake3: [0; 32], list: Listing::Recipe(recipe) };
        manifest_of(&world, list, None)
    })
    .expect("publish");
    stats::savings(&repo, false, &Silent, &Cancel::new()).expect("savings");
    let problems = check(&repo, None, &Silent, &Cancel::new()).expect("check").problems;
    assert!(matches!(&problems[..], [only] if only.object == format!("snapshots/{id}")), "{problems:?}");
    pruned(&repo).expect("prune");
    let target = Memory::new();
    repo.init_like(&target, b"to", "like", None, CHEAP).expect("init");
    let copy = open_with(target, &world, b"to").expect("open");
    let how = SyncOptions { host: "host".to_owned(), ..SyncOptions::default() };
    sync(&repo, &copy, &how, &Silent, &Cancel::new()).expect("sync");
}

/// Levels of deltas, each in several copies that are all damaged: each copy is tried once.
#[test]
fn a_lattice_of_damaged_deltas_is_given_up_on_at_once() {
    const LEVELS: u8 = 40;
    const COPIES: u8 = 3;
    let (storage, world) = (Memory::new(), World::new(9));
    let repo = init(storage.clone(), &world);
    take(&repo, "shop", &dump(10, 0)).expect("take");
    let key = repo.cache.packs().expect("packs")[0].key;
    let blob = |level: u8| BlobId([level + 1; 32]);
    let mut packs = Vec::new();
    for level in 0..LEVELS {
        for copy in 0..COPIES {
            let base = (level > 0).then(|| Base { id: blob(level - 1), version: level });
            let entry = BlobEntry {
                id: blob(level),
                codec: if base.is_some() { Codec::Delta } else { Codec::Raw },
                raw_len: 100,
                stored_len: 80,
                base,
            };
            let id = PackId([level * COPIES + copy + 1; 16]);
            storage.put_new(&object_name(id), &[7; 4096]).expect("put");
            let claim = repo.keys.claim(repo.env.as_ref());
            let session = SnapshotId([1; 16]);
            packs.push(IndexedPack { id, size: 4096, session, claim, key, entries: vec![entry] });
        }
    }
    let wrapped = repo.cache.wrapped_key(key).expect("the cache").expect("the key");
    repo.publish_index(&IndexObject { keys: vec![wrapped.clone()], packs }).expect("index");
    {
        let indexed = repo.index_to_read(&Silent).expect("index");
        let chain = indexed.usable_chain(&blob(LEVELS - 1), u8::MAX).expect("the cache").expect("all are listed");
        assert_eq!(chain.len(), usize::from(LEVELS));
        for reader in [Reader::new(&indexed), Reader::steady(&indexed)] {
            let error = reader.expect("a reader").blob(&blob(LEVELS - 1)).expect_err("all are damaged");
            assert_eq!(error.kind(), Kind::Damaged);
        }
    }
    // Without what is at the bottom no chain can be relied on.
    let condemned = (0..COPIES)
        .map(|copy| alluvium::format::coordination::Condemned { pack: PackId([copy + 1; 16]), size: 4096, since: 1 })
        .collect();
    let state = alluvium::format::coordination::Generation { condemned, ..Default::default() };
    repo.publish_generation(1, &state).expect("publish");
    let indexed = repo.index(&Silent).expect("index");
    assert_eq!(indexed.usable(&blob(LEVELS - 1)).expect("the cache"), None);
}
