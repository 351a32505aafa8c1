//! Golden repositories: what every released format wrote stays readable, to the byte, for ever.
//!
//! `tests/golden/v<format>/repository` was written once, by [`regenerate_golden`]; its files never change.
//! `expected.json` beside it says what is in it. Each test walks over all of them, so that a new format or feature needs
//! a new folder, a line in [`FROZEN`], and nothing else:
//!
//! ```text
//! ALLUVIUM_REGENERATE=1 cargo test --test all regenerate -- --ignored
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use alluvium::env::{Cancel, Env};
use alluvium::error::Kind;
use alluvium::format::FORMAT_VERSION;
use alluvium::format::catalog::{CatalogTable, Column, Consistency, Engine, Evidence};
use alluvium::format::coordination::{Distrusted, Generation};
use alluvium::format::keyslot::SlotKind;
use alluvium::format::manifest::{self, FENCE_LEN, Part, PartKind, PartName, Published, Shape, SourceKind};
use alluvium::format::{certificate, keyslot};
use alluvium::id::SlotId;
use alluvium::ops::check::{Subset, check};
use alluvium::ops::key;
use alluvium::ops::prune::{MaxUnused, PruneOptions, prune};
use alluvium::ops::restore::{Target, restore};
use alluvium::ops::select::Wanted;
use alluvium::ops::snapshot::{SnapshotOptions, Source, Taken, snapshot};
use alluvium::ops::sync::{SyncOptions, sync};
use alluvium::repo::reader::Reader;
use alluvium::repo::session::{Session, Writing};
use alluvium::repo::snapshots::Snapshot;
use alluvium::repo::{InitOptions, Repository};
use alluvium::report::{Collect, Counter, Problem, Report, Silent, Unit};
use alluvium::storage::Storage;
use alluvium::storage::fault::{Effect, Fault, Operation, on};
use alluvium::storage::local::Local;
use alluvium::storage::memory::Memory;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::support::{
    CHEAP, World, dump, forget_ids, indexed, noise, open_with, options, parts_of, prune_options, pruned, regenerating,
    restored, take, take_with,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
/// The folder of what this program writes.
const NEWEST: &str = "v1";
const FULL: &[u8] = b"golden";
const WRITE_ONLY: &[u8] = b"golden-write";
/// The content of a key file.
const KEY_FILE: &[u8] = b"alluvium-key-1:676f6c64656e676f6c64656e676f6c64656e676f6c64656e676f6c64656e676f\n";
/// Of a slot that was removed before the repository was put away.
const REMOVED: &[u8] = b"golden-removed";

/// What a golden repository holds.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Expected {
    format: u16,
    /// Object names, with the BLAKE3 of their bytes.
    objects: BTreeMap<String, String>,
    state: ExpectedState,
    /// By their ids.
    snapshots: BTreeMap<String, ExpectedSnapshot>,
}

/// What a repository says of itself.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ExpectedState {
    /// Numbers of the key epochs.
    epochs: Vec<u32>,
    /// Slots that have a certificate: kind and label, and whether there is still something to open.
    slots: BTreeMap<SlotId, String>,
    /// The number of the newest generation.
    number: u64,
    generation: Generation,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ExpectedSnapshot {
    source: String,
    kind: String,
    host: String,
    time: String,
    tags: BTreeSet<String>,
    previous: Option<String>,
    sequence: u64,
    author: SlotId,
    epoch: u32,
    shape: Shape,
    shrunk_from: Option<u64>,
    /// It is a copy of a snapshot of another repository.
    is_copy: bool,
    original_author: Option<SlotId>,
    engine: Option<Engine>,
    /// Tables of the catalog, and the BLAKE3 of their records.
    catalog: Option<(usize, String)>,
    /// The list of parts is stored as chunks.
    is_long: bool,
    parts: Vec<ExpectedPart>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ExpectedPart {
    name: String,
    /// `stream`, or what a file, folder or link has besides its bytes.
    kind: String,
    bytes: u64,
    /// Of the restored bytes.
    blake3: String,
    depth: u8,
    chunks: usize,
}

/// What a repository says, part by part, each restored.
fn found(repo: &Repository) -> BTreeMap<String, ExpectedSnapshot> {
    let (snapshots, unreadable) = repo.snapshots().expect("snapshots");
    assert!(unreadable.is_empty(), "{unreadable:?}");
    let found = |snapshot: &Snapshot| {
        let manifest = &snapshot.manifest;
        let listed = parts_of(repo, snapshot);
        let parts = listed.iter().map(|part| {
            let bytes = bytes_of(repo, snapshot, part);
            assert!(bytes.len() as u64 == part.digest.bytes && *blake3::hash(&bytes).as_bytes() == part.digest.blake3);
            ExpectedPart {
                name: part.name.to_string(),
                kind: kind_of(part),
                bytes: part.digest.bytes,
                blake3: blake3::hash(&bytes).to_string(),
                depth: part.recipe.depth,
                chunks: part.recipe.chunks.len(),
            }
        });
        let found = ExpectedSnapshot {
            source: manifest.source.clone(),
            kind: match &manifest.kind {
                SourceKind::Stream => "stream".to_owned(),
                SourceKind::Command { program } => format!("command {program}"),
                SourceKind::Files => "files".to_owned(),
            },
            host: manifest.host.clone(),
            time: manifest.time.to_string(),
            tags: manifest.tags.clone(),
            previous: manifest.previous.map(|id| id.to_string()),
            sequence: manifest.sequence,
            author: snapshot.author,
            epoch: epoch_of(repo, snapshot),
            shape: manifest.shape,
            shrunk_from: manifest.shrunk_from,
            is_copy: manifest.original.is_some_and(|original| original.repository != repo.id),
            original_author: manifest.original_author,
            engine: manifest.engine.clone(),
            catalog: catalog_of(repo, snapshot),
            is_long: manifest.parts.inline().is_none(),
            parts: parts.collect(),
        };
        (snapshot.id.to_string(), found)
    };
    snapshots.iter().map(found).collect()
}

/// The key epoch that a snapshot's data key is sealed to.
fn epoch_of(repo: &Repository, snapshot: &Snapshot) -> u32 {
    let name = manifest::object_name(snapshot.id);
    let bytes = repo.storage.get(&name, u64::MAX).expect("a manifest");
    match manifest::decode(&bytes).expect("a manifest") {
        Published::Manifest(sealed) => sealed.key.epoch,
        Published::Fence(_) => panic!("{name} is a fence"),
    }
}

fn catalog_of(repo: &Repository, snapshot: &Snapshot) -> Option<(usize, String)> {
    let indexed = indexed(repo);
    let tables = Reader::new(&indexed).expect("a reader").catalog(&snapshot.manifest).expect("the catalog")?;
    let records: Vec<u8> = tables.iter().flat_map(|table| table.encode().expect("short")).collect();
    Some((tables.len(), blake3::hash(&records).to_string()))
}

fn state_of(repo: &Repository) -> ExpectedState {
    let ring = repo.keys.ring();
    assert!(ring.problems.is_empty(), "{:?}", ring.problems);
    let there = |id| repo.storage.stat(&keyslot::object_name(id)).expect("stat").is_some();
    let slots = ring.slots.iter().map(|(id, known)| {
        let certificate = &known.certificate;
        let removed = if there(*id) { "" } else { ", removed" };
        (*id, format!("{} {}{removed}", certificate.kind.word(), certificate.label))
    });
    let (number, generation) = repo.newest_generation().expect("a generation");
    ExpectedState { epochs: ring.epochs.keys().copied().collect(), slots: slots.collect(), number, generation }
}

fn kind_of(part: &Part) -> String {
    match &part.kind {
        PartKind::Stream => "stream".to_owned(),
        PartKind::Statements => "statements".to_owned(),
        PartKind::Table { rows } => format!("table of {rows} rows"),
        PartKind::File { mode, modified, changed: false } => format!("file {mode:o} {modified}"),
        PartKind::File { mode, modified, changed: true } => format!("file {mode:o} {modified} that changed"),
        PartKind::Folder { mode } => format!("folder {mode:o}"),
        PartKind::Link { target } => format!("link {target}"),
    }
}

/// A part's bytes; of a folder or a link none.
fn bytes_of(repo: &Repository, snapshot: &Snapshot, part: &Part) -> Vec<u8> {
    if matches!(part.kind, PartKind::Folder { .. }) {
        return Vec::new();
    }
    let mut out = Vec::new();
    restore(
        &indexed(repo),
        snapshot,
        &Wanted::Part(part.clone()),
        Target::Stream(&mut out),
        96 << 20,
        &Silent,
        &Cancel::new(),
    )
    .expect("restore");
    out
}

fn problems(repo: &Repository) -> Vec<alluvium::report::Problem> {
    check(repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check").problems
}

// ---- Reading them ----

/// The folders of all formats: `v1`, ...
fn formats() -> Vec<PathBuf> {
    let entries = fs::read_dir(GOLDEN).expect("tests/golden").map(|entry| entry.expect("an entry").path());
    let is_format = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('v'));
    let mut formats: Vec<_> = entries.filter(is_format).collect();
    formats.sort();
    formats
}

fn expected(format: &Path) -> Expected {
    let text = fs::read_to_string(format.join("expected.json")).unwrap_or_else(|e| panic!("{}: {e}", format.display()));
    serde_json::from_str(&text).expect("expected.json")
}

/// Files below `folder`: their names, `/`-separated, and bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, fs::read(&path).expect("a file"));
        }
    }
    found
}

/// A copy to work on: the golden files themselves are never opened for writing.
fn copied(format: &Path) -> (tempfile::TempDir, Arc<World>) {
    let folder = tempfile::tempdir().expect("tempdir");
    for (name, bytes) in files(&format.join("repository")) {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, bytes).expect("a file");
        // The clocks of storage and program are one, whenever this runs.
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        fs::File::options().append(true).open(path).and_then(|file| file.set_modified(written)).expect("a time");
    }
    // A year later: every session in it is long dead.
    let world = World::new(4242);
    world.pass(SignedDuration::from_hours(24 * 365));
    (folder, world)
}

fn opened(folder: &tempfile::TempDir, world: &Arc<World>, passphrase: &[u8]) -> Repository {
    open_with(Local::open(folder.path()).expect("a folder"), world, passphrase).expect("open")
}

#[test]
fn every_format_is_covered() {
    let formats = formats();
    let names: Vec<_> = formats.iter().map(|f| f.file_name().expect("a name").to_string_lossy().into_owned()).collect();
    assert!(
        names.iter().any(|name| name == NEWEST) && NEWEST.starts_with(&format!("v{FORMAT_VERSION}")),
        "the format that this program writes has no golden repository"
    );
    for (format, name) in formats.iter().zip(&names) {
        let expected = expected(format);
        assert_eq!(name.split('-').next(), Some(&format!("v{}", expected.format)[..]));
        assert!(!expected.snapshots.is_empty() && !expected.objects.is_empty());
    }
}

/// The formats and the BLAKE3 of `expected.json`, which has the BLAKE3 of every object. A line here never changes.
const FROZEN: [(&str, &str); 1] = [("v1", "f8e075a40090cd03f61f93fed2b6f75f42e0e3cd4fface6e4f65006941db4395")];

/// Nobody touched them: git, editors and [`regenerate_golden`] included.
#[test]
fn golden_files_are_as_they_were_written() {
    let digest = |format: &PathBuf| {
        let name = format.file_name().expect("a name").to_string_lossy().into_owned();
        (name, blake3::hash(&fs::read(format.join("expected.json")).expect("expected.json")).to_string())
    };
    let frozen = FROZEN.map(|(name, digest)| (name.to_owned(), digest.to_owned()));
    assert_eq!(formats().iter().map(digest).collect::<Vec<_>>(), frozen, "see tests/golden/README.md");
    for format in formats() {
        let found =
            files(&format.join("repository")).into_iter().map(|(name, bytes)| (name, blake3::hash(&bytes).to_string()));
        let found: BTreeMap<_, _> = found.collect();
        assert_eq!(found, expected(&format).objects, "{}: see tests/golden/README.md", format.display());
    }
}

#[test]
fn every_part_comes_back() {
    for format in formats() {
        let (folder, world) = copied(&format);
        let repo = opened(&folder, &world, FULL);
        assert_eq!(found(&repo), expected(&format).snapshots);
        assert_eq!(state_of(&repo), expected(&format).state);
        assert_eq!(problems(&repo), []);
        let slots = Collect::default();
        assert_eq!(key::list(&repo, &slots).expect("slots").len(), 3);
        assert_eq!(slots.problems(), []);
    }
}

#[test]
fn the_key_file_opens_all_and_the_removed_passphrase_nothing() {
    for format in formats() {
        let (folder, world) = copied(&format);
        let repo = opened(&folder, &world, KEY_FILE);
        assert_eq!(repo.keys.kind(), SlotKind::Full);
        assert_eq!(found(&repo), expected(&format).snapshots);
        let storage = Local::open(folder.path()).expect("a folder");
        let refused = open_with(storage, &world, REMOVED).map(|_| ()).expect_err("removed");
        assert_eq!(refused.kind(), Kind::WrongKey);
    }
}

#[test]
fn the_write_only_slot_writes_and_reads_nothing() {
    for format in formats() {
        let (folder, world) = copied(&format);
        let host = opened(&folder, &world, WRITE_ONLY);
        assert_eq!(host.keys.kind(), SlotKind::WriteOnly);
        host.snapshots().map(|_| ()).expect_err("reading");
        let taken = take(&host, "shop", &dump(1500, 4)).expect("take");
        let expected = expected(&format).snapshots;
        let previous = taken.previous.expect("the series goes on").to_string();
        assert!(expected[&previous].source == "shop");
        assert_eq!(opened(&folder, &world, FULL).snapshots().expect("snapshots").0.len(), expected.len() + 1);
    }
}

/// Cut points and ids are those of then: under a new name, so that there is no recipe to predict from, and once more
/// under the same one, so that there is.
#[test]
fn the_same_data_adds_no_chunk() {
    for format in formats() {
        let (folder, world) = copied(&format);
        let repo = opened(&folder, &world, FULL);
        // What a write-only slot stored counts for itself alone.
        let host = opened(&folder, &world, WRITE_ONLY);
        let (snapshots, _) = repo.snapshots().expect("snapshots");
        for snapshot in &snapshots {
            let writer = if snapshot.author == host.keys.slot() { &host } else { &repo };
            let parts = &parts_of(&repo, snapshot)[..];
            // A stream is taken again as a whole, files one by one.
            let streams: Vec<(Vec<u8>, &[Part])> = match snapshot.manifest.whole {
                Some(_) => vec![(restored(&repo, snapshot).expect("restore"), parts)],
                None => {
                    parts.iter().map(|part| (bytes_of(&repo, snapshot, part), std::slice::from_ref(part))).collect()
                }
            };
            for (data, parts) in streams.iter().filter(|(data, _)| !data.is_empty()) {
                for name in [format!("again {} {}", snapshot.id, parts[0].name), snapshot.manifest.source.clone()] {
                    let report = Collect::default();
                    let taken = take_with(writer, &name, data, &report).expect("take");
                    assert_eq!((report.get(Counter::NewChunks), report.get(Counter::Packs)), (0, 0), "{name}");
                    let recipes = |parts: &[Part]| parts.iter().map(|part| part.recipe.clone()).collect::<Vec<_>>();
                    let again = repo.snapshot(taken.id).expect("snapshot");
                    assert_eq!(recipes(&parts_of(&repo, &again)), recipes(parts), "{name}");
                }
            }
        }
    }
}

#[test]
fn prune_finishes_what_was_begun_and_loses_nothing() {
    for format in formats() {
        let (folder, world) = copied(&format);
        let repo = opened(&folder, &world, FULL);
        let plan = pruned(&repo).expect("prune");
        assert!(
            plan.deleted_packs > 0 && plan.waiting_packs == 0,
            "what was condemned waited for a dead session: {plan:?}"
        );
        assert!(repo.storage.list("sessions/").expect("list").is_empty(), "which is fenced now");
        let Expected { snapshots, state, .. } = expected(&format);
        assert_eq!(found(&repo), snapshots);
        assert_eq!(problems(&repo), []);
        // What was forgotten and is there stays forgotten, and slots for ever.
        let (_, generation) = repo.newest_generation().expect("a generation");
        assert_eq!(generation.forgotten, state.generation.forgotten);
        assert_eq!(generation.removed_slots, state.generation.removed_slots);
        assert_eq!(generation.distrusted_slots, state.generation.distrusted_slots);
        // Most of it goes: all is repacked, and nothing is lost.
        let (first, last) = (snapshots.keys().next().expect("one"), snapshots.len());
        let (all, _) = repo.snapshots().expect("snapshots");
        let going: Vec<_> = all.iter().map(|s| s.id).filter(|id| id.to_string() != *first).collect();
        assert_eq!(going.len(), last - 1);
        forget_ids(&repo, &going).expect("forget");
        pruned(&repo).expect("prune");
        assert_eq!(
            found(&repo).into_iter().collect::<Vec<_>>(),
            [expected(&format).snapshots.remove_entry(first).expect("it")]
        );
        assert_eq!(problems(&repo), []);
    }
}

// ---- Writing one ----

/// Takes a snapshot of `source` with a tag.
fn taken(repo: &Repository, name: &str, source: Source<'_>) -> Taken {
    let tags = BTreeSet::from(["golden".to_owned(), "läuft".to_owned()]);
    let options =
        SnapshotOptions { host: "golden".to_owned(), zone: "Europe/Berlin".to_owned(), tags, ..options(name) };
    snapshot(repo, source, &options, &Silent, &Cancel::new()).expect("take")
}

/// A writer that begins and is heard of no more, as after a power loss.
fn vanish(storage: &Memory, world: &Arc<World>) {
    let repo = Box::leak(Box::new(open_with(storage.clone(), world, FULL).expect("open")));
    let who = Writing { host: "golden".to_owned(), purpose: "snapshot".to_owned() };
    std::mem::forget(Session::begin(repo, &who, &Silent).expect("begin"));
}

/// Appends to a file when its first bytes were read.
struct Appending<'a>(&'a Path, AtomicBool);

impl Report for Appending<'_> {
    fn count(&self, counter: Counter, n: u64) {
        if counter == Counter::SourceBytes && n > 0 && !self.1.swap(true, Ordering::SeqCst) {
            let mut log = fs::File::options().append(true).open(self.0).expect("a file");
            log.write_all(b"another line\n").expect("written");
        }
    }
    fn problem(&self, _: Problem) {}
    fn task(&self, _: &str, _: Unit, _: Option<u64>) {}
    fn progress(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}

/// A dump with so many small tables, and what a dumper that Alluvium runs itself knows of its database.
fn many_tables(n: u64) -> (String, Evidence) {
    let mut dump = "--\n-- PostgreSQL database dump\n--\n\n".to_owned();
    let mut tables = Vec::new();
    for i in 0..n {
        let row = format!("{i}\tthe same\n");
        dump.extend(["COPY public.t", &i.to_string(), " (a, b) FROM stdin;\n", &row, "\\.\n\n\n"]);
        let column = |name: &str, data_type: &str| Column { name: name.to_owned(), data_type: data_type.to_owned() };
        tables.push(CatalogTable {
            name: PartName::in_schema("public", format!("t{i}")),
            rows: 1,
            bytes: row.len() as u64,
            columns: vec![column("a", "bigint"), column("b", "text")],
            digest: *blake3::hash(row.as_bytes()).as_bytes(),
        });
    }
    dump += "--\n-- PostgreSQL database dump complete\n--\n\n";
    let text = |text: &str| Some(text.to_owned());
    let consistency =
        Consistency { kind: "lsn".to_owned(), lsn: text("0/16B3748"), timeline: text("1"), ..Consistency::default() };
    let engine = Engine {
        engine: text("postgres"),
        server_version: text("17.5"),
        client_version: text("17.6"),
        database: text("shop"),
        consistency: Some(consistency),
        tls: text("TLSv1.3 TLS_AES_256_GCM_SHA384"),
        encoding: text("UTF8"),
        extensions: vec!["pgcrypto 1.3".to_owned()],
        migration_head: text("20260901120000"),
    };
    (dump, Evidence { engine, tables })
}

/// A small repository with an object of every kind and in every state: slots of a passphrase, of a key file, a write-only
/// one, and one that was removed and is distrusted since; two key epochs; streams, a command, files, one of which changed
/// while it was read; a long list of parts, an engine and a catalog; a copy from another repository; recipes of depth 0,
/// 1 and 2; chunks of every codec; an index that replaced others; a fence; a session and its heartbeat; a generation with
/// packs condemned that wait for it, one of them distrusted too, and with a snapshot that is forgotten and still there.
#[test]
#[ignore = "writes the newest of tests/golden, which never changes once it is frozen: see the head of this file"]
fn regenerate_golden() {
    if !regenerating() {
        return;
    }
    let (storage, world) = (Memory::new(), World::new(1));
    let day = || world.pass(SignedDuration::from_hours(24));
    let sizes = InitOptions { chunk_bytes: 512, pack_bytes: 64 << 10, kdf: CHEAP };
    Repository::init(&storage, world.as_ref(), FULL, "main", sizes).expect("init");
    let repo = open_with(storage.clone(), &world, FULL).expect("open");
    key::add(&repo, SlotKind::WriteOnly, "db1", WRITE_ONLY, CHEAP).expect("key add");
    key::add(&repo, SlotKind::Full, "vault", KEY_FILE, CHEAP).expect("key add");
    let removed = key::add(&repo, SlotKind::Full, "left", REMOVED, CHEAP).expect("key add");

    // A series, its last snapshot by the write-only slot; its first one is pruned; a dead writer is fenced.
    for n in 0..3 {
        take(&repo, "shop", &dump(1500, n)).expect("take");
        day();
    }
    let host = open_with(storage.clone(), &world, WRITE_ONLY).expect("open");
    take(&host, "shop", &dump(1500, 3)).expect("take");
    vanish(&storage, &world);
    day();
    let gone = take(&repo, "noise", &noise(20_000, 1)).expect("take");
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    let oldest = snapshots.last().expect("the first of the series");
    forget_ids(&repo, &[gone.id, oldest.id]).expect("forget");
    let plan = pruned(&repo).expect("prune");
    assert!(plan.deleted_packs > 0 && storage.names().iter().any(|name| name.starts_with("prune/")));

    // A slot leaves, and a new key epoch begins without it. What it took before counts.
    let leaver = open_with(storage.clone(), &world, REMOVED).expect("open");
    take(&leaver, "notes", &dump(40, 7)).expect("take");
    day();
    key::remove(&repo, &removed.to_string()).expect("key remove");
    key::distrust(&repo, &removed.to_string(), world.now()).expect("key distrust");
    assert_eq!(key::rotate(&repo).expect("key rotate"), 2);
    let repo = open_with(storage.clone(), &world, FULL).expect("open");

    // Rows that are stored by columns, and as differences.
    for n in 0..3 {
        day();
        take(&repo, "counts", &counts(n)).expect("take");
    }
    take(&repo, "inserts", &inserts()).expect("take");

    // A dump with tables, and one with many and what is known of its database.
    day();
    take(&repo, "dump", include_bytes!("segments/postgres.sql")).expect("take");
    let (tables, evidence) = many_tables(40);
    let how = SnapshotOptions { evidence: Some(evidence), ..options("tables") };
    let source = Source::Stream { input: Box::new(tables.as_bytes()), bytes: None };
    snapshot(&repo, source, &how, &Silent, &Cancel::new()).expect("take");

    // Files, a command, a recipe of recipes, a stream that shrank.
    day();
    // Its path becomes the parts' names.
    let exports = std::env::temp_dir().join("golden/exports");
    write_exports(&exports);
    taken(&repo, "exports", Source::Files(vec![exports.clone()]));
    fs::write(exports.join("log"), "one line\n").expect("a file");
    let appending = Appending(&exports.join("log"), AtomicBool::new(false));
    let log = Source::Files(vec![exports.join("log")]);
    let changed = snapshot(&repo, log, &options("log"), &appending, &Cancel::new()).expect("take");
    assert_eq!(changed.changed, 1);
    fs::remove_dir_all(exports.parent().expect("a folder")).expect("removed");
    let command = ["sh", "-c", "i=0; while [ $i -lt 400 ]; do echo \"row $i\"; i=$((i+1)); done"];
    taken(&repo, "rows", Source::Command(command.map(str::to_owned).into()));
    // A recipe is as large as its stream is long, however often the same chunks come: 58,240 chunks and more are of depth
    // 2 wherever it is cut.
    let deep = noise(16 << 10, 2).repeat(3200);
    taken(&repo, "deep", Source::Stream { input: Box::new(&deep[..]), bytes: None });
    day();
    taken(&repo, "rows", Source::Stream { input: Box::new(&b"1 row\n"[..]), bytes: None });

    // A copy from another repository, of what a write-only slot stored there.
    let elsewhere = Memory::new();
    Repository::init(&elsewhere, world.as_ref(), FULL, "elsewhere", sizes).expect("init");
    let other = open_with(elsewhere.clone(), &world, FULL).expect("open");
    key::add(&other, SlotKind::WriteOnly, "branch", WRITE_ONLY, CHEAP).expect("key add");
    take(&open_with(elsewhere, &world, WRITE_ONLY).expect("open"), "branch", &dump(60, 5)).expect("take");
    let to = SyncOptions { host: "golden".to_owned(), ..SyncOptions::default() };
    sync(&other, &repo, &to, &Silent, &Cancel::new()).expect("sync");

    // Garbage that waits for a writer that is still at work, as far as prune can know.
    let gone = take(&repo, "noise", &noise(20_000, 3)).expect("take");
    vanish(&storage, &world);
    forget_ids(&repo, &[gone.id]).expect("forget");
    let options = PruneOptions { max_unused: MaxUnused::Unlimited, ..prune_options() };
    let plan = prune(&repo, &options, false, &Silent, &Cancel::new()).expect("prune");
    assert!(plan.waiting_packs > 0, "{plan:?}");
    let (number, mut state) = repo.newest_generation().expect("a generation");
    let mut condemned = state.condemned.iter().map(|c| (c.pack, repo.cache.entries(&c.pack).expect("entries")));
    let (pack, entries) = condemned.find(|(_, entries)| !entries.is_empty()).expect("one that is still listed");
    let blob = entries[0].1.id;
    state.distrusted.push(Distrusted { pack, blobs: vec![blob] });
    state.judged = number + 1;
    repo.publish_generation(number + 1, &state).expect("publish");

    // A forget that was interrupted after its decision.
    let interrupted = take(&repo, "notes", &dump(40, 8)).expect("take").id;
    let fault = Fault::new(storage.clone());
    fault.when(on(Operation::Delete, manifest::PREFIX), Effect::Die);
    let forgetting = open_with(fault, &world, FULL).expect("open");
    forget_ids(&forgetting, &[interrupted]).expect_err("interrupted");

    let repo = open_with(storage.clone(), &world, FULL).expect("open");
    let (state, snapshots) = (state_of(&repo), found(&repo));
    let Generation { condemned, distrusted, forgotten, removed_slots, distrusted_slots, .. } = &state.generation;
    assert!(!condemned.is_empty() && !distrusted.is_empty());
    assert!(forgotten[..] == [interrupted] && removed_slots[0].slot == removed && distrusted_slots[0].slot == removed);
    assert!(storage.names().contains(&certificate::object_name(removed)));
    assert!(!storage.names().contains(&keyslot::object_name(removed)));
    assert_eq!((&state.epochs[..], state.slots.len()), (&[1, 2][..], 4));
    let all = || snapshots.values();
    let authors: BTreeSet<_> = all().map(|s| s.author).collect();
    assert_eq!((authors.len(), all().map(|s| s.epoch).collect()), (3, BTreeSet::from([1, 2])));
    assert!(all().any(|s| s.is_long) && all().any(|s| s.is_copy) && all().any(|s| s.shrunk_from.is_some()));
    assert!(all().any(|s| s.engine.is_some() && s.catalog.is_some()));
    assert!(all().flat_map(|s| &s.parts).any(|part| part.kind.ends_with("that changed")));
    let fences = storage.list(manifest::PREFIX).expect("a list").iter().filter(|o| o.size == FENCE_LEN).count();
    assert_eq!(fences, 1);
    let depths: BTreeSet<u8> = all().flat_map(|s| s.parts.iter().map(|p| p.depth)).collect();
    assert_eq!(depths, BTreeSet::from([0, 1, 2]));
    let packs = repo.cache.packs().expect("packs");
    let entries = packs.iter().flat_map(|pack| repo.cache.entries(&pack.id).expect("entries"));
    let codecs: BTreeSet<u8> = entries.map(|(_, entry)| entry.codec as u8).collect();
    assert_eq!(codecs, BTreeSet::from([0, 1, 2, 3]));
    write_golden(&storage, state, snapshots);
}

/// Short rows: many in a small chunk.
fn counts(day: usize) -> Vec<u8> {
    let row = |i: usize| format!("{i}\t{}\t{}\n", i % 7, if i.is_multiple_of(211) { day } else { i * i % 10 });
    (0..2500 + day * 20).map(row).collect::<String>().into_bytes()
}

/// The same as an extended `INSERT`.
fn inserts() -> Vec<u8> {
    let tuple = |i: usize| format!("({i},'it\\'s {}',{})", i % 7, if i.is_multiple_of(3) { "NULL" } else { "1.50" });
    format!("INSERT INTO `t` VALUES {};\n", (0..1500).map(tuple).collect::<Vec<_>>().join(",")).into_bytes()
}

fn write_exports(exports: &Path) {
    fs::create_dir_all(exports.join("empty")).expect("a folder");
    fs::write(exports.join("a.csv"), dump(200, 1)).expect("a file");
    fs::write(exports.join("nothing"), b"").expect("a file");
    fs::write(exports.join("ünïcode \n.txt"), b"a name with a line end").expect("a file");
    for name in ["a.csv", "nothing", "ünïcode \n.txt"] {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_790_000_000_123_456_789);
        fs::File::options()
            .append(true)
            .open(exports.join(name))
            .and_then(|f| f.set_modified(modified))
            .expect("a time");
    }
    fs::set_permissions(exports.join("a.csv"), fs::Permissions::from_mode(0o640)).expect("a mode");
    std::os::unix::fs::symlink("a.csv", exports.join("latest")).expect("a link");
}

fn write_golden(storage: &Memory, state: ExpectedState, snapshots: BTreeMap<String, ExpectedSnapshot>) {
    let format = Path::new(GOLDEN).join(NEWEST);
    let _ = fs::remove_dir_all(&format);
    let mut objects = BTreeMap::new();
    let mut total = 0;
    for name in storage.names() {
        let bytes = storage.get(&name, u64::MAX).expect("an object");
        let path = format.join("repository").join(&name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, &bytes).expect("a file");
        total += bytes.len();
        objects.insert(name, blake3::hash(&bytes).to_string());
    }
    for folder in ["config", "keys", "slots", "epochs", "index", "packs", "snapshots", "sessions", "prune"] {
        assert!(objects.keys().any(|name| name.starts_with(folder)), "no object in {folder}");
    }
    assert!(total < 400_000, "{total} bytes are much for a repository that stays for ever");
    let expected = Expected { format: FORMAT_VERSION, objects, state, snapshots };
    let text = serde_json::to_string_pretty(&expected).expect("JSON");
    fs::write(format.join("expected.json"), text + "\n").expect("expected.json");
}
