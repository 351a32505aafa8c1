//! The local cache is never the truth and never worth a failed backup: damaged in every way, on a disk that is full or
//! can't be written, used by others. Snapshots, restores and checks come out as with a good one, and people are warned.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use alluvium::env::{Cancel, Env};
use alluvium::ops::check::{CheckOptions, Subset, check_with};
use alluvium::repo::Repository;
use alluvium::repo::open::{CacheOptions, Locked};
use alluvium::report::{Collect, Silent};
use alluvium::storage::memory::Memory;
use jiff::SignedDuration;
use tempfile::TempDir;

use crate::support::{PASSPHRASE, World, dump, init, noise, restored, take, take_with};

/// The cache files below `folder`.
fn databases(folder: &Path) -> Vec<PathBuf> {
    let caches = fs::read_dir(folder).expect("the cache folder").map(|cache| cache.expect("an entry").path());
    caches.map(|cache| cache.join("index.sqlite")).filter(|file| file.exists()).collect()
}

fn database(folder: &Path) -> PathBuf {
    let found = databases(folder);
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().expect("one")
}

fn opened(storage: &Memory, world: &Arc<World>, cache: &Path, fresh: bool, report: &Arc<Collect>) -> Repository {
    let mut options = CacheOptions::in_folder(Some(cache));
    let report = Arc::clone(report);
    (options.fresh, options.warn) = (fresh, Arc::new(move |text: &str| alluvium::report::Report::warn(&*report, text)));
    let locked = Locked::find(Arc::new(storage.clone())).expect("find");
    locked.open(Arc::clone(world) as Arc<dyn Env>, PASSPHRASE, options).expect("open")
}

/// Flips 1 to 64 bits of the file at places that `seed` chooses.
fn flip(good: &[u8], seed: u64) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let random = noise(8 * 65, seed);
    let numbers: Vec<u64> = random.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let count = [1, 1, 4, 64][numbers[0] as usize % 4];
    // The first cases also visit the pages one after the other: small tables are on few of them.
    let page = seed as usize * 4096 % good.len();
    for (n, number) in numbers[1..=count].iter().enumerate() {
        let number = *number as usize;
        let at = if n == 0 { page + (number >> 3) % 4096 } else { (number >> 3) % good.len() };
        bytes[at.min(good.len() - 1)] ^= 1 << (number % 8);
    }
    bytes
}

/// Whatever bits of the file are wrong: a snapshot, a restore of all that there is, and a check come out as with a good
/// file, and the next run has a good one again.
#[test]
fn flipped_bits_in_the_cache_fail_nothing_and_make_no_false_damage() {
    let (storage, world, folder) = (Memory::new(), World::new(77), tempfile::tempdir().expect("a folder"));
    drop(init(storage.clone(), &world));
    let day = |n: usize| [dump(400, n), noise(20_000, n as u64)].concat();
    {
        let repo = opened(&storage, &world, folder.path(), false, &Arc::default());
        for n in 0..3 {
            take(&repo, "shop", &day(n)).expect("snapshot");
            take(&repo, "stock", &noise(30_000, 50 + n as u64)).expect("snapshot");
            world.pass(SignedDuration::from_hours(1));
            repo.snapshots().expect("manifests are kept in the cache");
        }
    }
    let file = database(folder.path());
    let good = fs::read(&file).expect("the cache");
    assert!(good.len() > 20 * 4096, "{} bytes", good.len());
    let mut noticed = 0;
    for seed in 0..240 {
        let storage = storage.fork();
        fs::remove_dir_all(folder.path()).expect("removed");
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(&file, flip(&good, seed)).expect("written");
        let report = Arc::new(Collect::default());
        let today = [day(seed as usize % 3), b"more\n".to_vec()].concat();
        let what = format!("case {seed}");
        {
            let repo = opened(&storage, &world, folder.path(), false, &report);
            take_with(&repo, "shop", &today, &*report).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        {
            let repo = opened(&storage, &world, folder.path(), false, &report);
            let (snapshots, unreadable) = repo.snapshots().expect("snapshots");
            assert!(unreadable.is_empty() && snapshots.len() == 7, "{what}: {unreadable:?}");
            for snapshot in &snapshots {
                let data = restored(&repo, snapshot).unwrap_or_else(|e| panic!("{what}: {e}"));
                let whole = snapshot.manifest.whole.expect("a stream has a digest");
                assert_eq!(blake3::hash(&data).as_bytes(), &whole.blake3, "{what}: {}", snapshot.id);
            }
            assert_eq!(restored(&repo, &snapshots[0]).expect("restored"), today, "{what}");
        }
        // As the command does, which begins anew, and as a check goes by the file as it is.
        for fresh in [false, true] {
            let repo = opened(&storage, &world, folder.path(), fresh, &report);
            let options = CheckOptions { read: Some(Subset::ALL), shard: None };
            let checked = check_with(&repo, options, &Silent, &Cancel::new()).expect("check");
            assert!(checked.problems.is_empty() && checked.snapshots == 7, "{what}: {:?}", checked.problems);
        }
        assert!(report.problems().is_empty(), "{what}: {:?}", report.problems());
        let warnings = report.warnings();
        assert!(warnings.iter().all(|w| w.contains("is damaged; it is rebuilt")), "{what}: {warnings:?}");
        noticed += usize::from(!warnings.is_empty());
        assert!(!file.with_extension("sqlite.damaged").exists(), "{what}: the damaged file is gone");
    }
    assert!(noticed > 120, "damage was noticed in {noticed} of 240 cases");
}

/// The program, with a repository and a cache in a folder.
struct Place {
    folder: TempDir,
}

struct Ran {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

impl Place {
    /// With a repository that has a snapshot.
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a folder") };
        place.run(&["init"]).done();
        place.snapshot(&[]).done();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_alluvium"));
        command.args(arguments).env_clear().current_dir(self.folder.path());
        command.env("ALLUVIUM_REPOSITORY", self.path("repository")).env("ALLUVIUM_PASSWORD", "correct horse");
        command.env("ALLUVIUM_CACHE_DIR", self.path("cache"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run(self.program(arguments))
    }

    fn snapshot(&self, options: &[&str]) -> Ran {
        run(self.program(&[&["snapshot", "--name", "shop", "-"], options].concat()))
    }
}

/// Runs it; a snapshot gets the same data each time.
fn run(mut command: Command) -> Ran {
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let Output { status, stdout, stderr } = std::thread::scope(|scope| {
        // Most do not read.
        scope.spawn(move || drop(stdin.write_all(&dump(3000, 1))));
        child.wait_with_output().expect("the program ends")
    });
    Ran { code: status.code(), out: stdout, err: String::from_utf8(stderr).expect("messages are UTF-8") }
}

impl Ran {
    #[track_caller]
    fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", String::from_utf8_lossy(&self.out), self.err);
        self
    }

    fn warnings(&self) -> Vec<&str> {
        self.err.lines().filter(|line| line.contains("warning: ")).collect()
    }
}

/// Without a folder for the cache the memory of what was seen is off: that is said.
#[test]
fn no_home_is_a_warning_that_an_older_state_goes_unnoticed() {
    let place = Place::new();
    for arguments in [&["snapshot", "--name", "shop", "-"][..], &["snapshots"], &["restore", "shop"], &["check"]] {
        let mut homeless = place.program(arguments);
        homeless.env_remove("ALLUVIUM_CACHE_DIR");
        let ran = run(homeless).done();
        let warnings = ran.warnings();
        let said = |w: &&str| w.contains("an older state would go unnoticed") && w.contains("--cache-dir");
        assert!(warnings.len() == 1 && warnings.iter().all(said), "{arguments:?}: {}", ran.err);
    }
}

/// Neither the cache nor the memory of what was seen can be below a file: both are warnings, each time.
#[test]
fn a_folder_that_can_not_be_is_a_warning_each_time() {
    let place = Place::new();
    fs::write(place.path("file"), "").expect("written");
    for _ in 0..2 {
        let ran = place.snapshot(&["--cache-dir", "file/cache"]).done();
        assert!(ran.err.contains("is kept in memory"), "{}", ran.err);
        assert!(ran.err.contains("an older state may go unnoticed"), "{}", ran.err);
    }
    assert_eq!(place.run(&["--cache-dir", "file/cache", "restore", "shop"]).done().out, dump(3000, 1));
}

/// Where only the database can't be opened, what was seen is remembered all the same: an older state is noticed.
#[test]
fn what_was_seen_is_remembered_without_a_database() {
    let place = Place::new();
    let file = database(&place.path("cache"));
    fs::remove_file(&file).expect("removed");
    fs::create_dir(&file).expect("made");
    let warned = place.snapshot(&[]).done();
    assert!(warned.warnings().len() == 1 && warned.err.contains("is kept in memory"), "{}", warned.err);
    // The storage shows an older state: the newest snapshot is gone.
    let newest = fs::read_dir(place.path("repository/snapshots")).expect("snapshots").flatten();
    let newest = newest.max_by_key(|s| s.metadata().expect("metadata").modified().expect("a time")).expect("one");
    fs::remove_file(newest.path()).expect("removed");
    let older = place.run(&["check"]);
    assert_eq!(older.code, Some(13), "{}", older.err);
    assert!(String::from_utf8_lossy(&older.out).contains("older state"), "{}", older.err);
}

/// `check` believes no cache that is there; where others use it, it leaves the file alone and does without.
#[test]
fn check_begins_with_a_fresh_cache_and_leaves_one_alone_that_is_in_use() {
    let place = Place::new();
    let file = database(&place.path("cache"));
    let lie = || {
        let database = rusqlite::Connection::open(&file).expect("the cache");
        assert!(database.execute("UPDATE keys SET sum = sum + 1", []).expect("changed") > 0);
    };
    for command in [&["check"][..], &["check", "--shard", "1/2"], &["repair", "index"]] {
        lie();
        // Another process has it open.
        let lock = File::open(file.with_extension("sqlite.lock")).expect("the lock");
        lock.lock_shared().expect("locked");
        let before = fs::metadata(&file).expect("the file").ino();
        let ran = place.run(command).done();
        assert!(ran.warnings().is_empty(), "{command:?}: {}", ran.err);
        assert_eq!(fs::metadata(&file).expect("the file").ino(), before, "{command:?}");
        let wrong = rusqlite::Connection::open(&file).expect("the cache");
        let keys: i64 = wrong.query_row("SELECT count(*) FROM keys", [], |row| row.get(0)).expect("keys");
        assert!(keys > 0, "{command:?} left it as it was");
        drop((lock, wrong));
        let ran = place.run(command).done();
        assert!(ran.warnings().is_empty(), "{command:?}: {}", ran.err);
        assert!(place.run(&["restore", "shop"]).done().warnings().is_empty(), "{command:?} made a new cache");
    }
}

/// Processes that share a damaged file all come out right, and the file is whole in the end.
#[test]
fn processes_share_a_damaged_file_and_none_fails() {
    let place = Place::new();
    let file = database(&place.path("cache"));
    for round in 0..4 {
        let good = fs::read(&file).expect("the cache");
        fs::write(&file, flip(&good, 1000 + round)).expect("written");
        let mut bad = rusqlite::Connection::open(&file).ok();
        if let Some(database) = &mut bad {
            // Whatever the bits came to: rows that only a question finds.
            let _ = database.execute("UPDATE blocks SET sum = sum + 1", []);
            let _ = database.execute("UPDATE keys SET sum = sum + 1", []);
        }
        drop(bad);
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..6)
                .map(|n| {
                    let place = &place;
                    scope.spawn(move || {
                        if n % 2 == 0 {
                            place.snapshot(&[]).done();
                        } else {
                            assert_eq!(place.run(&["restore", "shop"]).done().out, dump(3000, 1));
                        }
                    })
                })
                .collect();
            for thread in running {
                thread.join().expect("each comes out right");
            }
        });
        assert!(place.snapshot(&[]).done().err.lines().count() <= 1);
        let after = place.run(&["restore", "shop"]).done();
        assert!(after.warnings().is_empty(), "{}", after.err);
        assert!(!file.with_extension("sqlite.damaged").exists());
    }
    place.run(&["check", "--read-data"]).done();
}
