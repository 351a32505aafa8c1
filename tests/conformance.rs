//! The contract of `storage::Storage`, as a suite that every store passes, and what each store
//! promises beyond it.
//!
//! A store that passes is safe to build on; what the suite does not test, nobody may rely on.
//! Exclusive creation is raced by threads, since a store that gets it wrong gets it wrong only then.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
#[cfg(feature = "remote")]
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use alluvium::error::{Error, Kind};
use alluvium::storage::Storage;
use alluvium::storage::fault::{Effect, Fault, Operation, at, from, on};
use alluvium::storage::local::Local;
use alluvium::storage::memory::Memory;
use alluvium::storage::probe::{Probed, probe};
#[cfg(feature = "remote")]
use alluvium::storage::{Caller, address::Address, remote::Remote};
use tempfile::TempDir;

/// A maximum for objects that are short.
const ANY: u64 = u64::MAX;

/// Makes a fresh, empty store.
pub type Make<'a> = &'a dyn Fn() -> Box<dyn Storage>;

// ---- the suite -------------------------------------------------------------------------------

/// Each part gets a fresh, empty store. One that can't create exclusively bears a single writer: nobody races it.
#[expect(clippy::print_stdout, reason = "what is left out is told")]
pub fn suite(make: Make) {
    creates_exclusively(&*make());
    let store = make();
    if store.exclusive() {
        one_of_many_wins(&*store);
    } else {
        println!("{}: for one writer at a time, so no race", store.location());
    }
    probes_as_it_is(&*make());
    replaces(&*make());
    reads_ranges_exactly(&*make());
    lists(&*make());
    tells_sizes(&*make());
    deletes_twice(&*make());
    refuses_hostile_names(&*make());
    keeps_empty_and_large_objects(&*make());
    reads_no_more_than_allowed(&*make());
    serves_many_threads(&*make());
}

fn creates_exclusively(store: &dyn Storage) {
    store.put_new("packs/4f/4f0c", b"first").expect("a new name");
    assert_eq!(kind(store.put_new("packs/4f/4f0c", b"second")), Kind::AlreadyExists);
    assert_eq!(store.get("packs/4f/4f0c", ANY).expect("exists"), b"first", "nothing changed");
    assert_eq!(names(store, ""), ["packs/4f/4f0c"]);
    assert_eq!(kind(store.get("packs/4f/0000", ANY)), Kind::NotFound);
    assert_eq!(kind(store.get("packs/4f", ANY)), Kind::NotFound, "a folder is not an object");
    store.put_new("index/1", b"1").expect("a new name");
    assert_eq!(kind(store.get("index/1/deeper", ANY)), Kind::NotFound);
}

/// What `init` finds out is what the store says of itself, and nothing is left behind.
fn probes_as_it_is(store: &dyn Storage) {
    let probed = probe(store, 7).expect("probes");
    assert_eq!(probed, Probed { exclusive: store.exclusive(), lists_after_write: true, ranges: true });
    probed.check(&store.location()).expect("a place for a repository");
    assert!(names(store, "").is_empty());
}

fn one_of_many_wins(store: &dyn Storage) {
    const THREADS: u8 = 8;
    for round in 0..25 {
        let name = format!("prune/{round}");
        let start = Barrier::new(usize::from(THREADS));
        let race = |thread: u8| {
            start.wait();
            store.put_new(&name, &[thread; 5000])
        };
        let results: Vec<_> = thread::scope(|scope| {
            let racers: Vec<_> =
                (0..THREADS).map(|thread| scope.spawn(move || race_result(thread, race(thread)))).collect();
            racers.into_iter().filter_map(|racer| racer.join().expect("no panic")).collect()
        });
        assert_eq!(results.len(), 1, "exactly one creates {name}, but {results:?} did");
        assert_eq!(store.get(&name, ANY).expect("exists"), [results[0]; 5000], "the winner's bytes are there");
    }
}

/// The thread's number when it won.
fn race_result(thread: u8, result: Result<(), Error>) -> Option<u8> {
    match result {
        Ok(()) => Some(thread),
        Err(error) => {
            assert_eq!(error.kind(), Kind::AlreadyExists, "{error}");
            None
        }
    }
}

fn replaces(store: &dyn Storage) {
    store.put_replace("sessions/a", b"one").expect("creates");
    store.put_replace("sessions/a", b"twenty-two").expect("replaces");
    assert_eq!(store.get("sessions/a", ANY).expect("exists"), b"twenty-two");
    assert_eq!(kind(store.put_new("sessions/a", b"x")), Kind::AlreadyExists);
    store.put_new("sessions/b", b"new").expect("a new name");
    store.put_replace("sessions/b", b"replaced").expect("replaces what put_new made");
    assert_eq!(store.get("sessions/b", ANY).expect("exists"), b"replaced");
}

fn reads_ranges_exactly(store: &dyn Storage) {
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    store.put_new("packs/aa/aa", &bytes).expect("puts");
    let len = bytes.len();
    for (offset, count) in [(0, 1), (0, len), (0, 16), (50_000, 30_000), (len - 1, 1), (len - 10, 10), (0, 0), (len, 0)]
    {
        let range = store.get_range("packs/aa/aa", offset as u64, count).expect("inside");
        assert_eq!(range, bytes[offset..offset + count], "{count} bytes from {offset}");
    }
    let past_the_end = [
        (0, len + 1),
        (99_999, 2),
        (100_000, 1),
        (1 << 40, 1),
        (u64::MAX, 1),
        (u64::MAX - 5, 10),
        (i64::MAX as u64, 1),
    ];
    for (offset, count) in past_the_end {
        let error = store.get_range("packs/aa/aa", offset, count).expect_err("past the end");
        assert_eq!(error.kind(), Kind::Damaged, "{count} bytes from {offset}");
        let message = error.to_string();
        for part in ["packs/aa/aa".to_owned(), len.to_string(), offset.to_string(), count.to_string()] {
            assert!(message.contains(&part), "`{message}` should tell {part}");
        }
    }
    assert_eq!(kind(store.get_range("packs/aa/bb", 0, 1)), Kind::NotFound);
    assert_eq!(kind(store.get_range("packs/aa", 0, 1)), Kind::NotFound);
}

fn lists(store: &dyn Storage) {
    assert!(names(store, "").is_empty());
    assert!(names(store, "packs/").is_empty());
    for name in
        ["config", "packs/4f/4f0c", "packs/4f/4f1d", "packs/a0/a001", "packs-of-others", "index/1", "snapshots/s"]
    {
        store.put_new(name, name.as_bytes()).expect("puts");
    }
    assert_eq!(names(store, "packs/"), ["packs/4f/4f0c", "packs/4f/4f1d", "packs/a0/a001"]);
    assert_eq!(names(store, "packs/4f/"), ["packs/4f/4f0c", "packs/4f/4f1d"]);
    assert!(names(store, "packs/4/").is_empty());
    assert!(names(store, "missing/deeper/").is_empty());
    assert_eq!(names(store, "").len(), 7);
    for object in store.list("").expect("lists") {
        assert_eq!(object.size, object.name.len() as u64, "{}", object.name);
    }
    assert_eq!(kind(store.list("packs")), Kind::Usage, "a prefix is a folder");
}

fn tells_sizes(store: &dyn Storage) {
    store.put_new("index/1", b"12345").expect("puts");
    assert_eq!(store.stat("index/1").expect("stats"), Some(5));
    assert_eq!(store.stat("index/2").expect("stats"), None);
    assert_eq!(store.stat("index").expect("stats"), None, "a folder is not an object");
    assert_eq!(store.stat("index/1/deeper").expect("stats"), None);
}

fn deletes_twice(store: &dyn Storage) {
    store.put_new("snapshots/1", b"1").expect("puts");
    store.put_new("snapshots/2", b"2").expect("puts");
    store.delete("snapshots/1").expect("deletes");
    store.delete("snapshots/1").expect("deletes again");
    store.delete("nowhere/at/all").expect("was never there");
    store.delete("snapshots").expect("a folder is not an object, so there is nothing to delete");
    assert_eq!(names(store, ""), ["snapshots/2"]);
    assert_eq!(kind(store.get("snapshots/1", ANY)), Kind::NotFound);
    store.put_new("snapshots/1", b"again").expect("the name is free again");
}

fn refuses_hostile_names(store: &dyn Storage) {
    let long = "a".repeat(256);
    let hostile = [
        "",
        ".",
        "..",
        "../outside",
        "packs/../../outside",
        "/etc/passwd",
        "packs//x",
        "packs/",
        "/",
        "Packs/x",
        "packs/X",
        "new\nline",
        "nul\0",
        "back\\slash",
        "ä",
        "a b",
        "packs/./x",
        "packs/4f/4f0c/deeper",
        "*",
        "~",
        &long,
    ];
    for name in hostile {
        assert_eq!(kind(store.put_new(name, b"x")), Kind::Usage, "put_new {name:?}");
        assert_eq!(kind(store.put_replace(name, b"x")), Kind::Usage, "put_replace {name:?}");
        assert_eq!(kind(store.get(name, ANY)), Kind::Usage, "get {name:?}");
        assert_eq!(kind(store.get_range(name, 0, 1)), Kind::Usage, "get_range {name:?}");
        assert_eq!(kind(store.stat(name)), Kind::Usage, "stat {name:?}");
        assert_eq!(kind(store.delete(name)), Kind::Usage, "delete {name:?}");
    }
    for prefix in ["/", "../", "packs/../", "//", "/etc/", "PACKS/", "a b/", "./"] {
        assert_eq!(kind(store.list(prefix)), Kind::Usage, "list {prefix:?}");
    }
    assert!(names(store, "").is_empty());
}

fn keeps_empty_and_large_objects(store: &dyn Storage) {
    store.put_new("index/empty", b"").expect("puts");
    assert_eq!(store.get("index/empty", ANY).expect("exists"), b"");
    assert_eq!(store.stat("index/empty").expect("stats"), Some(0));
    assert_eq!(store.get_range("index/empty", 0, 0).expect("nothing of nothing"), b"");
    assert_eq!(kind(store.get_range("index/empty", 0, 1)), Kind::Damaged);

    let large: Vec<u8> = (0..20_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    store.put_new("packs/ff/ff", &large).expect("puts");
    assert!(store.get("packs/ff/ff", ANY).expect("exists") == large, "20 MiB come back as they were");
    let tail = store.get_range("packs/ff/ff", (19 << 20) + 3, (1 << 20) - 3).expect("inside");
    assert!(tail == large[(19 << 20) + 3..]);
}

fn reads_no_more_than_allowed(store: &dyn Storage) {
    store.put_new("index/1", &[7; 1000]).expect("puts");
    store.put_new("index/empty", b"").expect("puts");
    assert_eq!(store.get("index/1", 1000).expect("just as long"), [7; 1000]);
    assert_eq!(store.get("index/empty", 0).expect("nothing is allowed"), b"");
    let mut buffer = vec![1; 5000];
    store.get_into("index/1", 1000, &mut buffer).expect("just as long");
    assert_eq!(buffer, [7; 1000]);
    for bytes_max in [0, 1, 999] {
        let refused = [store.get("index/1", bytes_max).map(drop), store.get_into("index/1", bytes_max, &mut buffer)];
        for error in refused.map(|result| result.expect_err("too long")) {
            assert_eq!(error.kind(), Kind::Damaged, "{error}");
            let message = format!("index/1: has 1000 bytes, at most {bytes_max} are allowed");
            assert_eq!(error.to_string(), message);
        }
    }
    assert_eq!(kind(store.get("index/2", 0)), Kind::NotFound);
}

fn serves_many_threads(store: &dyn Storage) {
    let expected: BTreeSet<String> =
        (0..8).flat_map(|thread| (0..20).map(move |i| format!("packs/{:02x}/{thread}-{i}", i % 5))).collect();
    store.put_new("sessions/shared", b"packs/").expect("puts");
    thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for i in 0..20 {
                    let name = format!("packs/{:02x}/{thread}-{i}", i % 5);
                    store.put_new(&name, name.as_bytes()).expect("puts");
                    if thread == 0 || store.exclusive() {
                        store.put_replace("sessions/shared", name.as_bytes()).expect("replaces");
                    }
                    assert_eq!(store.get(&name, ANY).expect("its own object at once"), name.as_bytes());
                    assert!(store.list("packs/").expect("lists").iter().any(|object| object.name == name));
                    store.put_new(&format!("prune/{thread}"), b"").expect("puts");
                    store.delete(&format!("prune/{thread}")).expect("deletes");
                    let shared = store.get("sessions/shared", ANY).expect("is replaced, never absent");
                    assert!(shared.starts_with(b"packs/") && shared.len() <= 13, "never a part of one");
                }
            });
        }
    });
    assert_eq!(names(store, "packs/").into_iter().collect::<BTreeSet<_>>(), expected);
}

// ---- the stores ------------------------------------------------------------------------------

#[test]
fn local_conforms() {
    let folders = tempfile::tempdir().expect("a temporary folder");
    suite(&|| Box::new(fresh_local(folders.path())));
    assert_temporaries_gone(folders.path());
}

#[test]
fn local_with_hard_links_conforms() {
    let folders = tempfile::tempdir().expect("a temporary folder");
    suite(&|| Box::new(fresh_local(folders.path()).with_links_only()));
    assert_temporaries_gone(folders.path());
}

#[test]
fn memory_conforms() {
    suite(&|| Box::new(Memory::new()));
}

#[test]
fn fault_without_rules_conforms() {
    suite(&|| Box::new(Fault::new(Memory::new())));
}

/// For a store of one's own: `ALLUVIUM_TEST_ADDRESS=s3://bucket/empty cargo test at_an_address -- --ignored`.
#[cfg(feature = "remote")]
#[test]
#[ignore = "needs a store: set ALLUVIUM_TEST_ADDRESS"]
fn the_store_at_an_address_conforms() {
    let address = std::env::var("ALLUVIUM_TEST_ADDRESS").expect("ALLUVIUM_TEST_ADDRESS");
    suite(&|| Box::new(fresh_remote(&address)));
}

/// An empty place below `address`, whose path gets one more name.
#[cfg(feature = "remote")]
pub fn fresh_remote(address: &str) -> Remote {
    static PLACES: AtomicU64 = AtomicU64::new(0);
    let (path, options) = address.split_once('?').unwrap_or((address, ""));
    let place = format!("{}-{}", std::process::id(), PLACES.fetch_add(1, Ordering::Relaxed));
    let address = format!("{}/{place}?{options}", path.trim_end_matches('/'));
    let Address::Remote(address) = Address::parse(address.as_ref()).expect("an address") else {
        panic!("{address} is a path");
    };
    let caller = Caller { webdav_password: std::env::var("ALLUVIUM_WEBDAV_PASSWORD").ok(), hears: None };
    Remote::create(*address, &caller).expect("opens")
}

/// A repository in a new folder below `above`.
fn fresh_local(above: &Path) -> Local {
    let folder = tempfile::tempdir_in(above).expect("a temporary folder").keep();
    Local::create(folder.join("deep/repository")).expect("creates")
}

/// The suite provokes every refusal; none may leave a file in any `tmp/`.
fn assert_temporaries_gone(folders: &Path) {
    for folder in fs::read_dir(folders).expect("reads") {
        let repository = folder.expect("reads").path().join("deep/repository");
        assert!(temporaries(&repository).is_empty(), "left in {}", repository.display());
    }
}

// ---- local -----------------------------------------------------------------------------------

#[test]
fn local_is_private_and_its_objects_are_read_only() {
    let (folder, local) = local();
    local.put_new("packs/4f/4f0c", b"x").expect("puts");
    local.put_new("config", b"x").expect("puts");
    local.put_replace("sessions/a", b"x").expect("puts");
    for (path, mode) in [
        ("", 0o700),
        ("tmp", 0o700),
        ("packs", 0o700),
        ("packs/4f", 0o700),
        ("packs/4f/4f0c", 0o400),
        ("config", 0o400),
        ("sessions/a", 0o600),
    ] {
        let found = fs::metadata(folder.path().join("repository").join(path)).expect("exists");
        assert_eq!(found.permissions().mode() & 0o777, mode, "mode of {path:?}");
    }
    let links = local.with_links_only();
    links.put_new("packs/4f/linked", b"x").expect("puts");
    let found = fs::metadata(folder.path().join("repository/packs/4f/linked")).expect("exists");
    assert_eq!((found.permissions().mode() & 0o777, found.nlink()), (0o400, 1));
}

#[test]
fn local_says_what_is_at_a_path_that_is_no_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, b"mine").expect("writes");
    for result in [Local::open(&file), Local::create(&file)] {
        let error = result.expect_err("a file");
        assert_eq!(error.kind(), Kind::NoRepository);
        assert!(error.to_string().contains("is a file"), "{error}");
    }
    for result in [Local::open(file.join("below")), Local::create(file.join("below/deeper"))] {
        let error = result.expect_err("below a file");
        assert_eq!(error.kind(), Kind::NoRepository);
        assert!(error.to_string().contains("part of this path is a file"), "{error}");
    }
    let missing = Local::open(folder.path().join("missing")).expect_err("missing");
    assert_eq!(missing.kind(), Kind::NoRepository);
    assert!(missing.to_string().contains("there is no folder"), "{missing}");
    assert!(!folder.path().join("missing").exists(), "opening creates nothing");
    assert_eq!(fs::read(&file).expect("reads"), b"mine");
}

#[test]
fn local_creates_folders_and_keeps_existing_ones() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("a/b/c");
    Local::create(&path).expect("creates").put_new("config", b"x").expect("puts");
    let again = Local::create(&path).expect("an existing folder is fine");
    assert_eq!(again.get("config", ANY).expect("still there"), b"x");
    assert_eq!(again.location(), path.display().to_string());
}

#[test]
fn local_names_object_path_and_cause_when_it_fails() {
    let (folder, local) = local();
    local.put_new("packs", b"a file where a folder belongs").expect("puts");
    for error in [
        local.put_new("packs/4f/4f0c", b"x").expect_err("below a file"),
        local.put_replace("packs/4f/4f0c", b"x").expect_err("below a file"),
        local.list("packs/").expect_err("a file is not an empty folder"),
    ] {
        assert_eq!(error.kind(), Kind::Storage);
        let message = error.to_string();
        assert!(message.contains("packs/"), "names the object: {message}");
        assert!(message.contains(&local.location()), "names the path: {message}");
        assert!(std::error::Error::source(&error).is_some(), "has its cause: {message}");
    }
    assert!(temporaries(&folder.path().join("repository")).is_empty());
}

#[test]
fn local_lists_neither_temporaries_nor_foreign_files() {
    let (folder, local) = local();
    let path = folder.path().join("repository");
    local.put_new("packs/4f/4f0c", b"x").expect("puts");
    fs::write(path.join("tmp/leftover"), b"half an obj").expect("writes");
    fs::create_dir(path.join("lost+found")).expect("makes");
    fs::write(path.join("packs/.DS_Store"), b"").expect("writes");
    assert_eq!(names(&local, ""), ["packs/4f/4f0c"]);
    assert!(names(&local, "tmp/").is_empty());
    for result in [local.put_new("tmp/x", b""), local.put_replace("tmp/x", b""), local.delete("tmp/leftover")] {
        assert_eq!(kind(result), Kind::Usage);
    }
    assert_eq!(kind(local.get("tmp/leftover", ANY)), Kind::Usage);
}

#[test]
fn local_lists_when_objects_were_written() {
    let (folder, local) = local();
    local.put_new("index/1", b"x").expect("puts");
    let file = fs::File::open(folder.path().join("repository/index/1")).expect("opens");
    for (seconds, expected) in [(1_790_000_000, "2026-09-21T14:13:20Z"), (0, "1970-01-01T00:00:00Z")] {
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(seconds)).expect("sets the time");
        let listed = local.list("index/").expect("lists");
        assert_eq!(listed[0].modified, Some(expected.parse().expect("a time")));
    }
}

#[test]
fn local_sweeps_what_killed_writers_left() {
    let (folder, local) = local();
    let path = folder.path().join("repository");
    assert_eq!(local.sweep_temporary(Duration::ZERO).expect("sweeps"), 0, "no tmp/ yet");
    local.put_new("config", b"x").expect("puts");
    fs::write(path.join("tmp/1-0-young"), b"half").expect("writes");
    let old = fs::File::create(path.join("tmp/1-1-old")).expect("creates");
    let day = Duration::from_hours(24);
    old.set_modified(std::time::SystemTime::now() - 2 * day).expect("sets the time");
    fs::create_dir(path.join("tmp/folder")).expect("makes");

    assert_eq!(local.sweep_temporary(day).expect("sweeps"), 1);
    assert_eq!(temporaries(&path), ["1-0-young", "folder"]);
    assert_eq!(local.sweep_temporary(Duration::ZERO).expect("sweeps"), 1);
    assert_eq!(temporaries(&path), ["folder"]);
    assert_eq!(names(&local, ""), ["config"]);
}

#[test]
fn local_never_mistakes_a_missing_disk_for_an_empty_folder() {
    let (folder, local) = local();
    let path = folder.path().join("repository");
    local.put_new("config", b"x").expect("puts");
    symlink(folder.path().join("unmounted"), path.join("packs")).expect("links");
    assert_eq!(kind(local.list("packs/")), Kind::Storage);
    assert_eq!(kind(local.list("")), Kind::Storage);

    fs::create_dir_all(folder.path().join("unmounted/4f")).expect("makes");
    fs::write(folder.path().join("unmounted/4f/4f0c"), b"x").expect("writes");
    assert_eq!(names(&local, "packs/"), ["packs/4f/4f0c"], "a folder may be a link to another disk");

    fs::remove_dir_all(&path).expect("removes");
    assert_eq!(kind(local.list("packs/")), Kind::Storage, "a deleted repository is not an empty one");
    assert_eq!(kind(local.put_new("config", b"x")), Kind::Storage);
}

#[test]
fn local_stays_with_the_folder_that_it_opened() {
    let (folder, local) = local();
    local.put_new("config", b"old").expect("puts");
    fs::rename(folder.path().join("repository"), folder.path().join("moved")).expect("moves");
    fs::create_dir(folder.path().join("repository")).expect("makes");
    assert_eq!(local.get("config", ANY).expect("the same repository"), b"old");
    local.put_new("index/1", b"x").expect("puts");
    assert!(folder.path().join("moved/index/1").exists());
}

#[test]
fn local_looks_at_the_length_before_it_reads() {
    // More than any memory: who tries to read it is killed.
    const HUGE: u64 = 1 << 42;
    let (folder, local) = local();
    let path = folder.path().join("repository");
    local.put_new("index/1", b"x").expect("puts");
    fs::File::create(path.join("config")).and_then(|file| file.set_len(HUGE)).expect("a sparse file");
    let error = local.get("config", 64 << 10).expect_err("too long");
    assert_eq!((error.kind(), local.stat("config").expect("stats")), (Kind::Damaged, Some(HUGE)));
    assert!(error.to_string().contains(&HUGE.to_string()), "{error}");
    assert_eq!(local.get_range("config", HUGE - 3, 3).expect("a hole is zeros"), [0; 3]);
    for (offset, len) in [(0, 1 << 42), (1, usize::MAX), (u64::MAX, usize::MAX)] {
        assert_eq!(kind(local.get_range("index/1", offset, len)), Kind::Damaged, "takes no memory");
    }
}

/// Links that lead back to a folder above are not followed, others are.
#[test]
fn local_lists_each_object_once_whatever_the_links_say() {
    let (folder, local) = local();
    let path = folder.path().join("repository");
    local.put_new("config", b"x").expect("puts");
    local.put_new("packs/4f/4f0c", b"x").expect("puts");
    let another_disk = folder.path().join("another-disk");
    fs::create_dir_all(another_disk.join("x")).expect("makes");
    fs::write(another_disk.join("a001"), b"x").expect("writes");
    symlink(&another_disk, path.join("packs/a0")).expect("links");
    // Folders too deep for any object, and a way back from the other disk.
    fs::create_dir_all(path.join("packs/4f/deep/deeper")).expect("makes");
    fs::write(path.join("packs/4f/deep/object"), b"x").expect("writes");
    symlink(&path, another_disk.join("x/back")).expect("links");
    for (target, link) in [(".", "a"), ("..", "b"), ("../packs", "c"), ("..", "4f/d"), ("../..", "4f/e")] {
        symlink(target, path.join("packs").join(link)).expect("links");
    }
    symlink(&path, path.join("index")).expect("links");
    assert_eq!(names(&local, "packs/"), ["packs/4f/4f0c", "packs/a0/a001"]);
    assert_eq!(names(&local, "packs/4f/"), ["packs/4f/4f0c"]);
    assert_eq!(names(&local, ""), ["config", "packs/4f/4f0c", "packs/a0/a001"]);
    for prefix in ["index/", "packs/a/"] {
        assert_eq!(kind(local.list(prefix)), Kind::Storage, "{prefix} leads back: that is no empty folder");
    }
}

/// Pipes, sockets and devices in the place of objects are no objects, and nobody waits for them.
#[test]
fn local_takes_only_files_for_objects() {
    let (folder, local) = local();
    let path = folder.path().join("repository");
    local.put_new("packs/4f/4f0c", b"x").expect("puts");
    let pipe = Command::new("mkfifo").arg(path.join("packs/4f/pipe")).status().expect("runs");
    assert!(pipe.success());
    let _socket = std::os::unix::net::UnixListener::bind(path.join("packs/4f/socket")).expect("binds");
    symlink("/dev/zero", path.join("packs/4f/device")).expect("links");
    symlink("../4f", path.join("packs/4f/folder")).expect("links");
    assert_eq!(names(&local, ""), ["packs/4f/4f0c"]);
    for what in ["pipe", "socket", "device", "folder"] {
        let name = format!("packs/4f/{what}");
        assert_eq!(kind(local.get(&name, ANY)), Kind::NotFound, "{what}");
        assert_eq!(kind(local.get_range(&name, 0, 1)), Kind::NotFound, "{what}");
        assert_eq!(local.stat(&name).expect("stats"), None, "{what}");
        assert_eq!(kind(local.put_new(&name, b"x")), Kind::AlreadyExists, "{what}");
    }
}

/// Runs itself again in a mount namespace of its own, on a disk of 1 MiB that is then filled, then
/// made read-only. Where this user may not mount, a file size limit stands in for the full disk.
#[test]
fn local_keeps_nothing_partial_on_a_full_disk() {
    const PLACE: &str = "ALLUVIUM_TEST_FULL_DISK";
    if let Some(place) = std::env::var_os(PLACE) {
        return fill_the_disk(Path::new(&place));
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mount = "mount -t tmpfs -o size=1m,mode=700 alluvium-test \"$0\"";
    let namespaces: [&[&str]; 2] = [&["--mount"], &["--mount", "--map-root-user"]];
    let can_mount = |options: &&&[&str]| {
        let tried = Command::new("unshare").args(**options).args(["sh", "-c", mount]).arg(folder.path()).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    let test = "exec \"$1\" --exact conformance::local_keeps_nothing_partial_on_a_full_disk --nocapture";
    let mut command = if let Some(options) = namespaces.iter().find(can_mount) {
        let mut command = Command::new("unshare");
        command.args(*options).args(["sh", "-c", &format!("{mount} && {test}")]);
        command
    } else {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("trap '' XFSZ; ulimit -f 512; {test}")]);
        command
    };
    command.arg(folder.path()).arg(std::env::current_exe().expect("a test binary")).env(PLACE, folder.path());
    let output = command.output().expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let problems = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{problems}");
}

fn fill_the_disk(place: &Path) {
    let local = Local::create(place).expect("opens");
    let mut kept = Vec::new();
    let error = (10..)
        .find_map(|log| {
            let name = format!("packs/00/{log}");
            let error = local.put_new(&name, &vec![log; 1 << log]).err();
            if error.is_none() {
                kept.push(name);
            }
            error
        })
        .expect("ends before the numbers do");
    assert_eq!(error.kind(), Kind::Storage, "{error}");
    assert!(error.advice().is_some_and(|advice| advice.contains("full") || advice.contains("ulimit")), "{error:?}");
    assert!(!kept.is_empty());
    assert_eq!(names(&local, ""), kept, "whole objects only");
    assert!(temporaries(place).is_empty(), "the space is free again");
    let error = local.put_replace("packs/00/10", &vec![0; 2 << 20]).expect_err("too large");
    assert_eq!(error.kind(), Kind::Storage);
    assert!(temporaries(place).is_empty());
    assert_eq!(local.get("packs/00/10", ANY).expect("not replaced"), [10; 1024]);
    local.put_new("packs/00/small", b"x").expect("fits");

    let above = place.parent().expect("has one");
    let is_mounted = fs::metadata(place).expect("exists").dev() != fs::metadata(above).expect("exists").dev();
    if is_mounted {
        advise_on_a_read_only_disk(&local, place);
    }
}

fn advise_on_a_read_only_disk(local: &Local, place: &Path) {
    let remount = Command::new("mount").args(["-o", "remount,bind,ro"]).arg(place).output().expect("runs");
    assert!(remount.status.success(), "{}", String::from_utf8_lossy(&remount.stderr));
    let read_only = [local.put_new("index/1", b"x"), local.put_new("config", b"x"), local.delete("packs/00/10")];
    for error in read_only.map(|result| result.expect_err("read-only")) {
        assert!(error.advice().is_some_and(|advice| advice.contains("remount")), "{error:?}");
    }
    assert_eq!(Local::open(place).expect("opens").get("packs/00/small", ANY).expect("reads"), b"x");
}

// ---- memory ----------------------------------------------------------------------------------

#[test]
fn memory_clones_share_and_forks_do_not() {
    let memory = Memory::new();
    let handle = memory.clone();
    handle.put_new("a", b"1").expect("puts");
    assert_eq!(memory.names(), ["a"]);

    let fork = memory.fork();
    memory.put_new("b", b"2").expect("puts");
    memory.tamper("a", |bytes| bytes[0] ^= 0xff).expect("exists");
    assert_eq!(fork.names(), ["a"]);
    assert_eq!(fork.get("a", ANY).expect("exists"), b"1");
    assert_eq!(handle.get("a", ANY).expect("exists"), [b'1' ^ 0xff]);
    assert_eq!(kind(memory.tamper("missing", Vec::clear)), Kind::NotFound);

    memory.rewind_to(&fork);
    assert_eq!(handle.names(), ["a"], "clones go back as well");
    assert_eq!(handle.get("a", ANY).expect("exists"), b"1");
}

// ---- fault -----------------------------------------------------------------------------------

#[test]
fn fault_records_every_call_in_order() {
    let fault = Fault::new(Memory::new());
    fault.put_new("packs/1", b"12345").expect("puts");
    fault.put_new("packs/1", b"123").expect_err("exists");
    fault.get("packs/1", ANY).expect("exists");
    fault.get_range("packs/1", 1, 2).expect("exists");
    fault.list("packs/").expect("lists");
    fault.stat("packs/1").expect("stats");
    fault.put_replace("sessions/1", b"1").expect("puts");
    fault.delete("packs/1").expect("deletes");
    let calls: Vec<_> =
        fault.calls().into_iter().map(|call| (call.operation, call.name, call.bytes, call.ok)).collect();
    let expected = [
        (Operation::PutNew, "packs/1", 5, true),
        (Operation::PutNew, "packs/1", 3, false),
        (Operation::Get, "packs/1", 5, true),
        (Operation::GetRange, "packs/1", 2, true),
        (Operation::List, "packs/", 0, true),
        (Operation::Stat, "packs/1", 0, true),
        (Operation::PutReplace, "sessions/1", 1, true),
        (Operation::Delete, "packs/1", 0, true),
    ];
    assert_eq!(calls, expected.map(|(operation, name, bytes, ok)| (operation, name.to_owned(), bytes, ok)));
    assert_eq!(fault.operations(), 8);
    assert!(fault.calls().iter().enumerate().all(|(i, call)| call.index == i));
}

#[test]
fn fault_fails_before_or_after_the_deed() {
    let fault = Fault::new(Memory::new());
    fault.when(at(0), Effect::Fail);
    fault.when(at(2), Effect::FailAfter);
    fault.when(on(Operation::Delete, "index/"), Effect::Fail);
    assert_eq!(kind(fault.put_new("a", b"1")), Kind::Storage);
    fault.put_new("b", b"1").expect("has no rule");
    assert_eq!(kind(fault.put_new("c", b"1")), Kind::Storage);
    assert_eq!(fault.inner().names(), ["b", "c"], "the first was not done, the third was");
    assert_eq!(kind(fault.delete("index/1")), Kind::Storage);
    fault.delete("b").expect("another folder");
    fault.heal();
    fault.delete("index/1").expect("has no rule any more");
}

#[test]
fn fault_dies_at_every_operation_and_stays_dead() {
    let work = |store: &dyn Storage| -> Result<(), Error> {
        store.put_new("packs/1", b"1")?;
        store.put_new("index/1", b"1")?;
        store.stat("packs/1")?;
        store.put_new("snapshots/1", b"1")
    };
    let trial = Fault::new(Memory::new());
    work(&trial).expect("no rules");
    assert_eq!(trial.operations(), 4);
    let objects_when_lost = [0, 1, 2, 2];
    let objects_when_done = [1, 2, 2, 3];
    for k in 0..trial.operations() {
        for (effect, objects) in [(Effect::Die, objects_when_lost[k]), (Effect::DieAfter, objects_when_done[k])] {
            let fault = Fault::new(Memory::new());
            fault.when(at(k), effect);
            let error = work(&fault).expect_err("dies");
            assert_eq!(error.kind(), Kind::Storage);
            assert!(error.to_string().contains("the machine is off"), "{error}");
            assert!(fault.is_off());
            assert_eq!(kind(fault.get("packs/1", ANY)), Kind::Storage, "later operations fail too");
            assert_eq!(fault.operations(), k + 1, "and do not reach the store");
            assert_eq!(fault.inner().names().len(), objects, "at operation {k}");
            fault.heal();
            fault.list("").expect("the machine is on again");
        }
    }
}

#[test]
fn fault_damages_what_is_read_but_not_what_is_stored() {
    let fault = Fault::new(Memory::new());
    fault.put_new("packs/1", b"12345").expect("puts");
    fault.when(on(Operation::Get, "packs/"), Effect::Damage(Box::new(|bytes| bytes[0] ^= 1)));
    fault.when(on(Operation::GetRange, "packs/"), Effect::Damage(Box::new(|bytes| bytes.truncate(1))));
    assert_eq!(fault.get("packs/1", ANY).expect("reads"), b"02345");
    assert_eq!(fault.get_range("packs/1", 1, 3).expect("reads"), b"2");
    assert_eq!(fault.inner().get("packs/1", ANY).expect("reads"), b"12345");
}

#[test]
fn fault_lists_stale_and_cut() {
    let fault = Fault::new(Memory::new());
    for i in 0..5 {
        fault.put_new(&format!("packs/{i}"), b"").expect("puts");
    }
    fault.when(at(5), Effect::Stale(2));
    fault.when(at(6), Effect::Cut(1));
    assert_eq!(names(&fault, "packs/"), ["packs/0", "packs/1", "packs/2"]);
    assert_eq!(names(&fault, "packs/"), ["packs/0"]);
    fault.heal();
    fault.when(from(0), Effect::Stale(100));
    assert!(names(&fault, "packs/").is_empty());
    assert_eq!(fault.get("packs/4", ANY).expect("reads are never stale"), b"");
}

#[test]
fn fault_runs_out_of_space_and_gets_it_back() {
    let fault = Fault::new(Memory::new());
    fault.when(from(0), Effect::Full(10));
    fault.put_new("packs/1", &[0; 6]).expect("fits");
    let error = fault.put_new("packs/2", &[0; 5]).expect_err("does not fit");
    assert_eq!(error.kind(), Kind::Storage);
    assert!(std::error::Error::source(&error).is_some());
    fault.put_new("packs/3", &[0; 4]).expect("fits exactly");
    fault.delete("packs/1").expect("deletes");
    fault.put_replace("packs/2", &[0; 5]).expect("fits now");
}

#[test]
fn fault_takes_back_what_a_lying_disk_never_wrote() {
    let fault = Fault::new(Memory::new());
    fault.put_new("packs/1", b"durable").expect("puts");
    fault.put_new("sessions/1", b"old").expect("puts");
    fault.put_new("index/1", b"kept").expect("puts");
    let before = fault.inner().fork();
    fault.when(from(0), Effect::Volatile);
    fault.put_new("packs/2", b"lost").expect("says it is durable");
    fault.put_replace("sessions/1", b"new").expect("replaces");
    fault.put_replace("sessions/1", b"newer").expect("replaces");
    fault.delete("index/1").expect("deletes");
    assert_eq!(fault.inner().names(), ["packs/1", "packs/2", "sessions/1"]);

    fault.power_loss().expect("the store below works");
    assert_eq!(kind(fault.get("packs/1", ANY)), Kind::Storage, "the machine is off");
    fault.heal();
    assert_eq!(fault.inner().names(), before.names());
    for name in before.names() {
        assert_eq!(fault.get(&name, ANY).expect("is back"), before.get(&name, ANY).expect("was there"), "{name}");
    }
}

#[test]
fn faults_compose() {
    let medium = Fault::new(Memory::new());
    let (one, other) = (Fault::new(medium.clone()), Fault::new(medium.clone()));
    medium.when(on(Operation::List, ""), Effect::Stale(1));
    one.when(at(1), Effect::Die);
    one.put_new("a", b"").expect("puts");
    assert!(names(&other, "").is_empty(), "the medium is stale for everybody");
    one.put_new("b", b"").expect_err("this machine dies");
    other.put_new("b", b"").expect("that one lives");
    assert_eq!(medium.operations(), 3);
}

// ---- helpers ---------------------------------------------------------------------------------

fn local() -> (TempDir, Local) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let local = Local::create(folder.path().join("repository")).expect("creates");
    (folder, local)
}

/// The kind of an expected error.
fn kind<T>(result: Result<T, Error>) -> Kind {
    match result {
        Ok(_) => panic!("should fail"),
        Err(error) => error.kind(),
    }
}

fn names(store: &dyn Storage, prefix: &str) -> Vec<String> {
    let mut names: Vec<_> = store.list(prefix).expect("lists").into_iter().map(|object| object.name).collect();
    names.sort();
    names
}

fn temporaries(repository: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(repository.join("tmp"))
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("reads").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
