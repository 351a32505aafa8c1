//! Golden repositories: what every released format wrote stays readable, to the byte, for ever.
//!
//! `tests/golden/v<format>/repository` was written once, by [`regenerate_golden`]; its files never change.
//! `expected.json` beside it says what is in it. Each test walks over all of them, so that a new format or feature needs
//! a new folder and nothing else. Until the newest is released, and never after:
//!
//! ```text
//! ALLUVIUM_REGENERATE=1 cargo test --test all regenerate -- --ignored
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use alluvium::env::Cancel;
use alluvium::format::FORMAT_VERSION;
use alluvium::format::coordination::Distrusted;
use alluvium::format::keyslot::SlotKind;
use alluvium::format::manifest::{Part, PartKind, SourceKind};
use alluvium::ops::check::{Subset, check};
use alluvium::ops::key;
use alluvium::ops::prune::{MaxUnused, PruneOptions, prune};
use alluvium::ops::restore::{Target, restore};
use alluvium::ops::select::Wanted;
use alluvium::ops::snapshot::{SnapshotOptions, Source, Taken, snapshot};
use alluvium::repo::session::{Session, Writing};
use alluvium::repo::snapshots::Snapshot;
use alluvium::repo::{InitOptions, Repository};
use alluvium::report::{Collect, Counter, Silent};
use alluvium::storage::Storage;
use alluvium::storage::local::Local;
use alluvium::storage::memory::Memory;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::support::{
    CHEAP, World, dump, forget_ids, indexed, noise, open_with, options, parts_of, prune_options, pruned, regenerating,
    restored, take, take_with,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
/// The folder of what this program writes: the format and its newest feature.
const NEWEST: &str = "v1-delta";
const FULL: &[u8] = b"golden";
const WRITE_ONLY: &[u8] = b"golden-write";

/// What a golden repository holds.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Expected {
    format: u16,
    /// Object names, with the BLAKE3 of their bytes.
    objects: BTreeMap<String, String>,
    /// By their ids.
    snapshots: BTreeMap<String, ExpectedSnapshot>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ExpectedSnapshot {
    source: String,
    kind: String,
    host: String,
    time: String,
    tags: BTreeSet<String>,
    previous: Option<String>,
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
            parts: parts.collect(),
        };
        (snapshot.id.to_string(), found)
    };
    snapshots.iter().map(found).collect()
}

fn kind_of(part: &Part) -> String {
    match &part.kind {
        PartKind::Stream => "stream".to_owned(),
        PartKind::Statements => "statements".to_owned(),
        PartKind::Table { rows } => format!("table of {rows} rows"),
        PartKind::File { mode, modified, .. } => format!("file {mode:o} {modified}"),
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
        fs::write(path, bytes).expect("a file");
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

/// Nobody touched them, git and editors included.
#[test]
fn golden_files_are_as_they_were_written() {
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
        assert_eq!(problems(&repo), []);
        assert_eq!(key::list(&repo, &Silent).expect("slots").len(), 2);
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
        let (snapshots, _) = repo.snapshots().expect("snapshots");
        for snapshot in &snapshots {
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
                    let taken = take_with(&repo, &name, data, &report).expect("take");
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
        let snapshots = expected(&format).snapshots;
        assert_eq!(found(&repo), snapshots);
        assert_eq!(problems(&repo), []);
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

/// A small repository with an object of every kind and in every state: two slots; streams, a command, files; recipes of
/// depth 0, 1 and 2; chunks of every codec; an index that replaced others; a fence; a session and its heartbeat; a
/// generation with packs condemned that wait for it, one of them distrusted too.
#[test]
#[ignore = "writes the newest of tests/golden, which never changes once it is released: see the head of this file"]
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

    // Rows that are stored by columns, and as differences.
    for n in 0..3 {
        day();
        take(&repo, "counts", &counts(n)).expect("take");
    }
    take(&repo, "inserts", &inserts()).expect("take");

    // A dump with tables.
    day();
    take(&repo, "dump", include_bytes!("segments/postgres.sql")).expect("take");

    // Files, a command, a recipe of recipes, a stream that shrank.
    day();
    // Its path becomes the parts' names.
    let exports = std::env::temp_dir().join("golden/exports");
    write_exports(&exports);
    taken(&repo, "exports", Source::Files(vec![exports.clone()]));
    fs::remove_dir_all(exports.parent().expect("a folder")).expect("removed");
    let command = ["sh", "-c", "i=0; while [ $i -lt 400 ]; do echo \"row $i\"; i=$((i+1)); done"];
    taken(&repo, "rows", Source::Command(command.map(str::to_owned).into()));
    // A recipe is as large as its stream is long, however often the same chunks come.
    let deep = noise(8 << 10, 2).repeat(4700);
    taken(&repo, "deep", Source::Stream { input: Box::new(&deep[..]), bytes: None });
    day();
    taken(&repo, "rows", Source::Stream { input: Box::new(&b"1 row\n"[..]), bytes: None });

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
    repo.publish_generation(number + 1, &state).expect("publish");

    let repo = open_with(storage.clone(), &world, FULL).expect("open");
    let snapshots = found(&repo);
    let depths: BTreeSet<u8> = snapshots.values().flat_map(|s| s.parts.iter().map(|p| p.depth)).collect();
    assert_eq!(depths, BTreeSet::from([0, 1, 2]));
    let packs = repo.cache.packs().expect("packs");
    let entries = packs.iter().flat_map(|pack| repo.cache.entries(&pack.id).expect("entries"));
    let codecs: BTreeSet<u8> = entries.map(|(_, entry)| entry.codec as u8).collect();
    assert_eq!(codecs, BTreeSet::from([0, 1, 2, 3]));
    write_golden(&storage, snapshots);
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

fn write_golden(storage: &Memory, snapshots: BTreeMap<String, ExpectedSnapshot>) {
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
    for folder in ["config", "keys", "index", "packs", "snapshots", "sessions", "prune"] {
        assert!(objects.keys().any(|name| name.starts_with(folder)), "no object in {folder}");
    }
    assert!(total < 400_000, "{total} bytes are much for a repository that stays for ever");
    let expected = Expected { format: FORMAT_VERSION, objects, snapshots };
    let text = serde_json::to_string_pretty(&expected).expect("JSON");
    fs::write(format.join("expected.json"), text + "\n").expect("expected.json");
}
