//! Files whose folders others may write to: what takes a file's place between the walk and the reading, what changes
//! while it is read, and targets that do not take every part. No test waits for a race: each change is made from a
//! report that the work itself calls.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use alluvium::env::Cancel;
use alluvium::error::Error;
use alluvium::format::manifest::{
    Digest, Header, Manifest, Part, PartKind, PartName, Shape, ShapeKind, SourceKind, Stored,
};
use alluvium::format::recipe::Recipe;
use alluvium::ops::restore::{Restored, Target, restore};
use alluvium::ops::select::Wanted;
use alluvium::ops::snapshot::{Source, Taken, snapshot};
use alluvium::repo::Repository;
use alluvium::repo::session::{Session, Writing};
use alluvium::repo::snapshots::{Snapshot, inline_list};
use alluvium::report::{Collect, Counter, Problem, Report, Silent, Unit};
use alluvium::source::files::{Found, FoundKind, Opener, walk};
use alluvium::storage::local::Local;
use alluvium::storage::memory::Memory;
use rustix::fs::{CWD, Mode, OFlags};
use tempfile::TempDir;

use crate::support::{PASSPHRASE, World, indexed, init, options, parts_of};

/// When an [`Intruder`] acts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The task of this name begins.
    Task(&'static str),
    /// Bytes of the source were read.
    Reading,
}

/// A report that does something once, at a certain moment of the work.
struct Intruder<'i> {
    moment: Moment,
    act: Mutex<Option<Box<dyn FnOnce() + Send + 'i>>>,
    heard: Collect,
}

impl<'i> Intruder<'i> {
    fn new(moment: Moment, act: impl FnOnce() + Send + 'i) -> Self {
        Self { moment, act: Mutex::new(Some(Box::new(act))), heard: Collect::default() }
    }

    fn act(&self) {
        if let Some(act) = self.act.lock().expect("nobody panicked").take() {
            act();
        }
    }

    fn problems(&self) -> Vec<Problem> {
        assert!(self.act.lock().expect("nobody panicked").is_none(), "the moment never came");
        self.heard.problems()
    }
}

impl Report for Intruder<'_> {
    fn count(&self, counter: Counter, n: u64) {
        if counter == Counter::SourceBytes && n > 0 && self.moment == Moment::Reading {
            self.act();
        }
    }
    fn problem(&self, problem: Problem) {
        self.heard.problem(problem);
    }
    fn task(&self, name: &str, _: Unit, _: Option<u64>) {
        if matches!(self.moment, Moment::Task(task) if task == name) {
            self.act();
        }
    }
    fn progress(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn warn(&self, text: &str) {
        self.heard.warn(text);
    }
}

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

fn take_files(repo: &Repository, path: &Path, report: &dyn Report) -> Taken {
    let source = Source::Files(vec![path.to_owned()]);
    snapshot(repo, source, &options("home"), report, &Cancel::new()).expect("a snapshot")
}

fn newest(repo: &Repository) -> Snapshot {
    repo.snapshots().expect("snapshots").0.remove(0)
}

fn restore_to(repo: &Repository, path: &Path, report: &dyn Report) -> Result<Restored, Error> {
    let to = Target::Path { path, overwrite: false };
    restore(&indexed(repo), &newest(repo), &Wanted::Whole, to, 96 << 20, report, &Cancel::new())
}

/// All files below a folder, with their content.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.is_symlink() {
            all.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap_or_default();
            all.push((path, bytes));
        }
    }
    all.sort();
    all
}

/// The found thing whose name ends so.
fn ending<'f>(found: &'f [Found], end: &str) -> &'f Found {
    found.iter().find(|found| found.name.ends_with(end)).expect("it was found")
}

#[test]
fn what_takes_a_files_place_after_the_walk_is_not_opened() {
    let place = TempDir::new().expect("a folder");
    let (home, secret) = (place.path().join("home"), place.path().join("secret"));
    fs::create_dir(&secret).expect("a folder");
    fs::write(secret.join("file"), "secret").expect("a file");
    for folder in ["link", "moved"] {
        fs::create_dir_all(home.join(folder)).expect("a folder");
        fs::write(home.join(folder).join("file"), "harmless").expect("a file");
    }
    for file in ["same", "to-link", "to-fifo", "to-folder", "to-file", "gone"] {
        fs::write(home.join(file), "harmless").expect("a file");
    }
    let found = walk(&[home.clone(), place.path().join("secret/file")], &Silent).expect("a walk");

    // The old files stay, so that no new one gets their inode.
    let away = |name: &str| fs::rename(home.join(name), place.path().join(name)).expect("renamed");
    for name in ["to-link", "to-fifo", "to-folder", "to-file", "gone", "link", "moved"] {
        away(name);
    }
    symlink(secret.join("file"), home.join("to-link")).expect("a link");
    make_fifo(&home.join("to-fifo"));
    fs::create_dir(home.join("to-folder")).expect("a folder");
    fs::write(home.join("to-file"), "another").expect("a file");
    symlink(&secret, home.join("link")).expect("a link");
    fs::rename(&secret, home.join("moved")).expect("renamed");

    for mut opener in [Opener::default(), Opener::default()] {
        let mut text = String::new();
        let mut same = opener.open(ending(&found, "/same")).expect("nobody touched it");
        same.file.read_to_string(&mut text).expect("text");
        assert_eq!(text, "harmless");
        for name in ["to-link", "to-fifo", "to-folder", "to-file", "link/file", "moved/file"] {
            let error = opener.open(ending(&found, name)).expect_err(name).to_string();
            assert_eq!(error, "it was replaced while the backup ran", "{name}");
        }
        let gone = opener.open(ending(&found, "gone")).expect_err("gone");
        assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
        // A file that was named is found by its path, and compared as well.
        assert!(opener.open(ending(&found, "secret/file")).is_err());
    }
}

#[test]
fn a_snapshot_leaves_out_what_was_replaced_and_waits_for_no_pipe() {
    let place = TempDir::new().expect("a folder");
    let (home, secret) = (place.path().join("home"), place.path().join("secret"));
    fs::create_dir_all(home.join("folder")).expect("a folder");
    fs::create_dir(&secret).expect("a folder");
    fs::write(secret.join("x"), "TOP-SECRET").expect("a file");
    for file in ["a", "b", "c", "folder/x"] {
        fs::write(home.join(file), "harmless").expect("a file");
    }
    let repo = init(Memory::new(), &World::new(60));
    let report = Intruder::new(Moment::Task("home"), || {
        fs::remove_file(home.join("b")).expect("removed");
        symlink(secret.join("x"), home.join("b")).expect("a link");
        fs::remove_file(home.join("c")).expect("removed");
        make_fifo(&home.join("c"));
        fs::rename(home.join("folder"), place.path().join("away")).expect("renamed");
        symlink(&secret, home.join("folder")).expect("a link");
    });
    let taken = take_files(&repo, &home, &report);
    assert_eq!((taken.left_out, taken.changed), (3, 0));
    let problems = report.problems();
    for end in ["/b", "/c", "/folder/x"] {
        let about = problems.iter().find(|problem| problem.object.ends_with(end)).expect("a problem");
        assert!(about.what.contains("replaced while the backup ran"), "{about:?}");
    }
    let out = place.path().join("out");
    restore_to(&repo, &out, &Silent).expect("restored");
    let all = contents(&out);
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].0.ends_with("home/a") && all[0].1 == b"harmless");
}

#[test]
fn mode_and_times_are_those_of_the_file_that_is_read() {
    let place = TempDir::new().expect("a folder");
    let file = place.path().join("file");
    fs::write(&file, "short").expect("a file");
    let found = walk(std::slice::from_ref(&file), &Silent).expect("a walk");
    assert_eq!(found[0].kind, FoundKind::File { bytes: 5 });
    fs::write(&file, "longer than before").expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).expect("its mode");
    let opened = Opener::default().open(&found[0]).expect("the same file");
    assert_eq!(opened.mode(), 0o604);
    assert!(!opened.has_changed(), "it changed before it was opened, not while it was read");
}

#[test]
fn a_file_that_changes_while_it_is_open_is_noticed() {
    let place = TempDir::new().expect("a folder");
    let file = place.path().join("file");
    let change: [fn(&Path); 3] = [
        |path| fs::write(path, "shorter").expect("written"),
        |path| {
            let file = File::options().write(true).open(path).expect("a file");
            file.set_modified(std::time::UNIX_EPOCH).expect("its time");
        },
        |path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its mode"),
    ];
    for change in change {
        fs::write(&file, "what it was").expect("a file");
        // Older than the change by more than a clock's tick.
        let past = std::time::SystemTime::now() - std::time::Duration::from_mins(1);
        File::options().write(true).open(&file).and_then(|file| file.set_modified(past)).expect("its time");
        let found = walk(std::slice::from_ref(&file), &Silent).expect("a walk");
        let opened = Opener::default().open(&found[0]).expect("a file");
        assert!(!opened.has_changed());
        std::thread::sleep(std::time::Duration::from_millis(20));
        change(&file);
        assert!(opened.has_changed());
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_stored_and_flagged() {
    let place = TempDir::new().expect("a folder");
    let (home, repository) = (place.path().join("home"), place.path().join("repository"));
    fs::create_dir(&home).expect("a folder");
    fs::create_dir(&repository).expect("a folder");
    fs::write(home.join("log"), "one line\n").expect("a file");
    let world = World::new(61);
    let repo = init(Local::open(&repository).expect("a folder"), &world);
    let report = Intruder::new(Moment::Reading, || {
        let mut log = File::options().append(true).open(home.join("log")).expect("a file");
        log.write_all(b"another line\n").expect("written");
    });
    let taken = take_files(&repo, &home, &report);
    assert_eq!((taken.left_out, taken.changed), (0, 1));
    let problems = report.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].object.ends_with("home/log") && problems[0].what.contains("changed while it was read"));
    let snapshot = newest(&repo);
    let flags: Vec<bool> = parts_of(&repo, &snapshot).iter().map(|part| part.kind.has_changed()).collect();
    assert_eq!(flags, [false, true]);

    let heard = Collect::default();
    restore_to(&repo, &place.path().join("out"), &heard).expect("restored");
    assert!(heard.warnings().iter().any(|warning| warning.contains("mix two states")), "{:?}", heard.warnings());
    let ls = |json: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_alluvium"));
        program.args(json).arg("-r").arg(&repository).args(["ls", "home"]);
        program.env("ALLUVIUM_CACHE_DIR", place.path().join("cache"));
        program.env("ALLUVIUM_PASSWORD", String::from_utf8_lossy(PASSPHRASE).as_ref());
        String::from_utf8(program.output().expect("a list").stdout).expect("text")
    };
    let table = ls(&[]);
    assert_eq!(table.lines().filter(|line| line.starts_with("file, changed ")).count(), 1, "{table}");
    let list: serde_json::Value = serde_json::from_str(&ls(&["--json"])).expect("JSON");
    assert_eq!(list["parts"][1]["kind"]["changed"], true);

    // The next one is taken in peace, and says nothing.
    world.pass(jiff::SignedDuration::from_secs(60));
    let taken = take_files(&repo, &home, &Silent);
    assert_eq!(taken.changed, 0);
    let quiet = String::from_utf8(newest(&repo).manifest.encode()).expect("JSON");
    assert!(!quiet.contains("changed"), "{quiet}");
}

/// Makes nested folders by handles, as their path is longer than the system takes; returns the deepest.
fn make_nested(root: &Path, names: &[String]) -> std::os::fd::OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::openat(CWD, root, flags, Mode::empty()).expect("a folder");
    for name in names {
        rustix::fs::mkdirat(&at, name, Mode::RWXU).expect("a folder");
        at = rustix::fs::openat(&at, name, flags, Mode::empty()).expect("a folder");
    }
    at
}

#[test]
fn trees_deeper_than_the_open_handles_and_than_any_path_are_stored_and_restored() {
    let place = TempDir::new().expect("a folder");
    let home = place.path().join("home");
    // More folders than are kept open, with files before and behind the deeper ones.
    let mut folder = home.clone();
    for depth in 0..80 {
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("a"), format!("a{depth}")).expect("a file");
        fs::write(folder.join("z"), format!("z{depth}")).expect("a file");
        folder.push("m");
    }
    // A part name below the format's limit that no path below the target can hold.
    let long: Vec<String> = (0..18).map(|_| "n".repeat(200)).collect();
    let deepest = make_nested(&home, &long);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&deepest, "deep", flags, Mode::RUSR | Mode::WUSR).expect("a file");
    File::from(file).write_all(b"deep down").expect("written");

    let repo = init(Memory::new(), &World::new(62));
    let report = Collect::default();
    take_files(&repo, &home, &report);
    let out = place.path().join("t".repeat(250)).join("u".repeat(250)).join("v".repeat(250));
    let restored = restore_to(&repo, &out, &report).expect("restored");
    assert_eq!((restored.failed, report.problems()), (0, Vec::new()));
    let below = home.strip_prefix("/").expect("absolute");
    for (path, bytes) in contents(&home.join("m")) {
        let back = out.join(below).join(path.strip_prefix(&home).expect("below"));
        assert_eq!(fs::read(&back).expect("restored"), bytes);
    }
    let mut at = rustix::fs::openat(CWD, out.join(below), OFlags::RDONLY, Mode::empty()).expect("a folder");
    for name in &long {
        at = rustix::fs::openat(&at, name, OFlags::RDONLY, Mode::empty()).expect("a folder");
    }
    let mut text = String::new();
    let deep = rustix::fs::openat(&at, "deep", OFlags::RDONLY, Mode::empty()).expect("restored");
    File::from(deep).read_to_string(&mut text).expect("text");
    assert_eq!(text, "deep down");
    // The temporary folder is removed by path, which can't reach so deep.
    for root in [&home, &out.join(below)] {
        assert!(Command::new("rm").arg("-rf").arg(root.join("n".repeat(200))).status().expect("rm").success());
    }
}

#[test]
fn a_path_longer_than_a_part_name_may_be_is_left_out_and_reported() {
    let place = TempDir::new().expect("a folder");
    let home = place.path().join("home");
    fs::create_dir(&home).expect("a folder");
    fs::write(home.join("file"), "near").expect("a file");
    let long: Vec<String> = (0..21).map(|_| "n".repeat(200)).collect();
    make_nested(&home, &long);
    let report = Collect::default();
    let found = walk(std::slice::from_ref(&home), &report).expect("a walk");
    assert!(found.iter().all(|found| found.name.len() <= 4096) && found.len() > 15, "{}", found.len());
    assert_eq!(report.problems().len(), 1, "{:?}", report.problems());
    assert!(Command::new("rm").arg("-rf").arg(home.join(&long[0])).status().expect("rm").success());
}

/// Publishes a snapshot of empty parts, whatever their names.
fn publish(repo: &Repository, parts: &[(&str, PartKind)]) {
    let writing = Writing { host: "host".into(), purpose: "snapshot".into() };
    let session = Session::begin(repo, &writing, &Silent).expect("a session");
    let digest = Digest { bytes: 0, blake3: *blake3::hash(b"").as_bytes() };
    let part = |(name, kind): &(&str, PartKind)| Part {
        name: PartName::of(*name),
        kind: kind.clone(),
        digest,
        recipe: Recipe::default(),
        stored_bytes: None,
    };
    let time = repo.env.now();
    let manifest = Manifest {
        time,
        sequence: 1,
        finished: time,
        zone: "UTC".into(),
        source: "home".into(),
        kind: SourceKind::Files,
        host: "host".into(),
        tags: BTreeSet::new(),
        previous: None,
        generation: 0,
        tool: "test".into(),
        whole: None,
        shape: Shape { is: ShapeKind::Files, dialect: None },
        parts: inline_list(parts.iter().map(part).collect()),
        engine: None,
        catalog: None,
        stored: Stored::default(),
        shrunk_from: None,
        original: None,
        original_author: None,
    };
    let series = repo.keys.hasher.series("host", "home");
    let header = Header { time, series, sequence: 1, bytes: 0, good_bytes: 0, previous: None, body: [0; 32] };
    session.publish(&header, &manifest).expect("published");
}

fn file() -> PartKind {
    PartKind::File { mode: 0o640, modified: jiff::Timestamp::UNIX_EPOCH, changed: false }
}

#[test]
fn a_part_that_the_target_does_not_take_does_not_stop_the_others() {
    let repo = init(Memory::new(), &World::new(63));
    let long = "n".repeat(256);
    let (long_folder, below_long) = (format!("{}f", "n".repeat(255)), format!("{}f/file", "n".repeat(255)));
    publish(
        &repo,
        &[
            (&long_folder, PartKind::Folder { mode: 0o755 }),
            ("a", PartKind::Folder { mode: 0o750 }),
            (&below_long, file()),
            (&long, file()),
            ("a/folder-in-the-way", file()),
            ("file-in-the-way/file", file()),
            ("a/exists", file()),
            ("z/last", file()),
            ("a/bad-link", PartKind::Link { target: "x\0y".into() }),
            ("z/long-link", PartKind::Link { target: "n".repeat(5000) }),
            ("z/link", PartKind::Link { target: "last".into() }),
        ],
    );
    let place = TempDir::new().expect("a folder");
    fs::create_dir_all(place.path().join("a/folder-in-the-way")).expect("a folder");
    fs::write(place.path().join("a/exists"), "mine").expect("a file");
    fs::write(place.path().join("file-in-the-way"), "mine").expect("a file");
    let report = Collect::default();
    let restored = restore_to(&repo, place.path(), &report).expect("the others are restored");
    assert_eq!((restored.parts, restored.failed, restored.damaged), (3, 8, 0), "{:?}", report.problems());
    let mut failed: Vec<String> = report.problems().into_iter().map(|problem| problem.object).collect();
    failed.sort();
    let mut expected = vec![
        "a/bad-link",
        "a/exists",
        "a/folder-in-the-way",
        "file-in-the-way/file",
        &*long,
        &*long_folder,
        &*below_long,
        "z/long-link",
    ];
    expected.sort_unstable();
    assert_eq!(failed, expected);
    let mode = |name: &str| fs::metadata(place.path().join(name)).expect("restored").permissions().mode() & 0o7777;
    assert_eq!((mode("a"), mode("z/last"), mode("z/link")), (0o750, 0o640, 0o640));
    // Nothing temporary is left.
    let left = contents(place.path());
    assert!(left.iter().all(|(path, _)| !path.to_string_lossy().contains(".alluvium-")), "{left:?}");
}

/// Two names that are one name in the target, as `A` and `a` are in some file systems: the second part replaced the
/// first one without a word. What was there before is replaced.
#[test]
fn no_part_is_restored_over_another_part() {
    let repo = init(Memory::new(), &World::new(65));
    let link = PartKind::Link { target: "nowhere".into() };
    publish(&repo, &[("a/b", file()), ("a//b", file()), ("a/c", file()), ("a/./c", link.clone()), ("a/d", link)]);
    let place = TempDir::new().expect("a folder");
    fs::create_dir(place.path().join("a")).expect("a folder");
    for name in ["b", "d"] {
        fs::write(place.path().join("a").join(name), "before").expect("a file");
    }
    for _ in 0..2 {
        let report = Collect::default();
        let to = Target::Path { path: place.path(), overwrite: true };
        let restored = restore(&indexed(&repo), &newest(&repo), &Wanted::Whole, to, 64 << 20, &report, &Cancel::new());
        let restored = restored.expect("the others are restored");
        assert_eq!((restored.parts, restored.failed, restored.damaged), (3, 2, 0), "{:?}", report.problems());
        let failed: Vec<String> = report.problems().into_iter().map(|problem| problem.object).collect();
        assert_eq!(failed, ["a//b", "a/./c"]);
        assert_eq!(fs::read(place.path().join("a/b")).expect("restored"), b"");
        assert!(fs::symlink_metadata(place.path().join("a/c")).expect("restored").is_file());
        assert!(fs::symlink_metadata(place.path().join("a/d")).expect("restored").is_symlink());
    }
}

#[test]
fn a_folder_without_write_permission_fails_its_parts_only() {
    let repo = init(Memory::new(), &World::new(64));
    publish(&repo, &[("closed/file", file()), ("open/file", file())]);
    let place = TempDir::new().expect("a folder");
    let closed = place.path().join("closed");
    fs::create_dir(&closed).expect("a folder");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).expect("its mode");
    if fs::write(closed.join("probe"), "").is_ok() {
        return; // The superuser writes everywhere.
    }
    let report = Collect::default();
    let restored = restore_to(&repo, place.path(), &report).expect("the other is restored");
    assert_eq!((restored.parts, restored.failed), (1, 1));
    assert_eq!(report.problems()[0].object, "closed/file");
    assert!(place.path().join("open/file").exists());
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("its mode");
}

#[test]
fn nothing_is_written_through_a_link_that_appears_in_the_target() {
    let repo = init(Memory::new(), &World::new(66));
    let place = TempDir::new().expect("a folder");
    let home = place.path().join("home");
    fs::create_dir_all(home.join("folder")).expect("a folder");
    fs::write(home.join("folder/file"), "restored").expect("a file");
    take_files(&repo, &home, &Silent);
    let (out, elsewhere) = (place.path().join("out"), place.path().join("elsewhere"));
    fs::create_dir(&elsewhere).expect("a folder");
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o711)).expect("its mode");
    let inside = out.join(home.strip_prefix("/").expect("absolute"));
    fs::create_dir_all(&inside).expect("a folder");
    let report = Intruder::new(Moment::Task("Restoring"), || {
        symlink(&elsewhere, inside.join("folder")).expect("a link");
    });
    let restored = restore_to(&repo, &out, &report).expect("the others are restored");
    assert_eq!(restored.failed, 2, "the folder and its file");
    assert!(report.problems().iter().all(|problem| problem.what.contains("in the way")));
    assert_eq!(fs::read_dir(&elsewhere).expect("a folder").count(), 0);
    let mode = fs::metadata(&elsewhere).expect("a folder").permissions().mode() & 0o777;
    assert_eq!(mode, 0o711, "its permission bits are not set through the link either");
}
