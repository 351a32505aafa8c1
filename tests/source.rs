//! Sources against the real world: child processes that misbehave, real compressors, hostile file names.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use alluvium::env::Cancel;
use alluvium::error::{Error, Kind, Result};
use alluvium::report::{Collect, Silent};
use alluvium::source::command::{self, Running};
use alluvium::source::files::{Found, FoundKind, Opener, looks_live, walk};
use alluvium::source::pipe::{Pipe, read_error};
use alluvium::source::sniff::sniff;
use alluvium::source::verdict::judge;
use alluvium::source::watch::Watched;
use tempfile::TempDir;

fn shell<'c>(script: &str, cancel: &'c Cancel) -> Running<'c> {
    let arguments = ["sh", "-c", script].map(str::to_owned);
    command::spawn(&arguments, cancel).expect("sh starts")
}

/// Reads to the end and finishes, as a snapshot does.
fn run(script: &str) -> (Vec<u8>, Result<()>) {
    let cancel = Cancel::new();
    let (mut running, mut out) = (shell(script, &cancel), Vec::new());
    match running.read_to_end(&mut out) {
        Ok(_) => (out, running.finish()),
        Err(error) => (out, Err(read_error(error, running.program()))),
    }
}

fn failure(script: &str) -> Error {
    run(script).1.expect_err("it fails")
}

/// Runs `work` and says how long it took.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

fn is_alive(process: &str) -> bool {
    // A zombie has no command line.
    fs::read(format!("/proc/{}/cmdline", process.trim())).is_ok_and(|line| !line.is_empty())
}

/// Waits a little for a process that was just killed.
fn dies(process: &str) -> bool {
    (0..100).any(|_| {
        thread::sleep(Duration::from_millis(10));
        !is_alive(process)
    })
}

/// A script's reports about itself.
fn noted(folder: &TempDir, name: &str) -> String {
    for _ in 0..500 {
        match fs::read_to_string(folder.path().join(name)) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
    panic!("the script never wrote `{name}`");
}

#[test]
fn a_command_that_ends_well() {
    let (out, result) = run("echo one; echo chatter >&2; echo two");
    result.expect("exit 0");
    assert_eq!(out, b"one\ntwo\n");
    let (out, result) = run("true");
    result.expect("an empty output is judged elsewhere");
    assert!(out.is_empty());
}

#[test]
fn standard_input_of_a_command_is_empty() {
    assert_eq!(run("cat; echo end").0, b"end\n");
}

#[test]
fn a_failing_command_tells_its_last_words() {
    let error = failure("echo half; echo 'connection lost' >&2; printf 'no newline' >&2; exit 3 # secret");
    assert_eq!(error.kind(), Kind::Source);
    assert_eq!(error.to_string(), "`sh` exited with status 3; nothing was stored\n  connection lost\n  no newline");
    let error = failure("seq 1 100 >&2; exit 1").to_string();
    assert!(error.ends_with("\n  99\n  100") && error.contains("\n  81\n") && !error.contains("\n  80\n"), "{error}");
    let error = failure("yes 0123456789 | head -c 100000 | tr -d '\\n' >&2; exit 1").to_string();
    assert!(error.len() < 20_000, "{} bytes", error.len());
    let error = failure("printf 'caf\\303\\251 \\377\\n' >&2; exit 1").to_string();
    assert!(error.ends_with("café \u{fffd}"), "{error}");
}

#[test]
fn a_killed_command_is_told_with_its_signal() {
    assert!(failure("kill -TERM $$").to_string().starts_with("`sh` was killed by signal 15 (SIGTERM); nothing"));
    let error = failure("kill -KILL $$");
    assert!(error.to_string().contains("signal 9 (SIGKILL)"));
    assert!(error.advice().is_some_and(|hint| hint.contains("memory")));
}

#[test]
fn commands_that_cannot_start() {
    let cancel = Cancel::new();
    let spawn = |words: &[&str]| {
        let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
        command::spawn(&words, &cancel).expect_err("it can't start")
    };
    let error = spawn(&["/nowhere/pg_dmp", "--password=secret"]);
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::Source, "`/nowhere/pg_dmp` was not found; nothing was stored")
    );
    assert!(error.advice().is_some());
    let error = spawn(&["./Cargo.toml", "--password=secret"]);
    assert_eq!(error.to_string(), "`./Cargo.toml` can't be started; nothing was stored");
    assert!(!spawn(&["a\0b", "secret"]).to_string().contains("secret"));
    assert_eq!(spawn(&[]).kind(), Kind::Usage);
}

#[test]
fn arguments_stay_out_of_the_debug_form() {
    let cancel = Cancel::new();
    assert!(!format!("{:?}", shell("exit 0 # secret", &cancel)).contains("secret"));
}

#[test]
fn each_line_is_told_while_the_command_runs() {
    let (cancel, lines) = (Cancel::new(), Mutex::new(Vec::new()));
    let mut running = shell("echo first >&2; sleep 0.4; echo out; sleep 0.1; echo last >&2", &cancel)
        .each_line(|line| lines.lock().expect("nobody panicked").push(line.to_owned()));
    let mut buffer = [0; 10];
    assert_eq!(running.read(&mut buffer).expect("output"), 4);
    assert_eq!(*lines.lock().expect("nobody panicked"), ["first"]);
    assert_eq!(running.read(&mut buffer).expect("the end"), 0);
    running.finish().expect("exit 0");
    assert_eq!(*lines.lock().expect("nobody panicked"), ["first", "last"]);
}

#[test]
fn a_flood_on_standard_error_does_not_hang_the_command() {
    let (out, result) = run("yes | head -c 3000000 >&2; echo done");
    result.expect("exit 0");
    assert_eq!(out, b"done\n");
}

#[test]
fn a_hundred_megabytes_arrive() {
    let cancel = Cancel::new();
    let mut running = shell("head -c 100000000 /dev/zero", &cancel);
    let (mut buffer, mut sum) = (vec![0; 1 << 20], 0);
    loop {
        match running.read(&mut buffer).expect("output") {
            0 => break,
            count => sum += count,
        }
    }
    running.finish().expect("exit 0");
    assert_eq!(sum, 100_000_000);
}

#[test]
fn a_trickle_arrives() {
    let (out, result) = run("for i in 1 2 3; do sleep 0.25; printf $i; done");
    result.expect("exit 0");
    assert_eq!(out, b"123");
}

#[test]
fn a_cancelled_command_ends_with_its_descendants() {
    let folder = TempDir::new().expect("a folder");
    let script = format!("cd {}; sleep 1000 & echo $! >child; echo $$ >self; wait", folder.path().display());
    let cancel = Cancel::new();
    let mut running = shell(&script, &cancel);
    let (child, leader) = (noted(&folder, "child"), noted(&folder, "self"));
    let (error, took) = timed(|| {
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(300));
                cancel.cancel();
            });
            let error = running.read(&mut [0; 10]).expect_err("cancelled");
            drop(running);
            error
        })
    });
    assert_eq!(error.kind(), std::io::ErrorKind::Other);
    assert_eq!(read_error(error, "x").kind(), Kind::Interrupted);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(dies(&child) && dies(&leader));
}

#[test]
fn a_command_that_closed_its_output_but_never_ends_can_be_cancelled() {
    let cancel = Cancel::new();
    let mut running = shell("exec >/dev/null; sleep 1000", &cancel);
    assert_eq!(running.read(&mut [0; 10]).expect("the end"), 0);
    let (error, took) = timed(|| {
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(200));
                cancel.cancel();
            });
            running.finish().expect_err("cancelled")
        })
    });
    assert_eq!(error.kind(), Kind::Interrupted);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn what_ignores_sigterm_is_killed() {
    let folder = TempDir::new().expect("a folder");
    let script = format!("trap '' TERM; cd {}; echo $$ >self; while :; do sleep 0.1; done", folder.path().display());
    let cancel = Cancel::new();
    let running = shell(&script, &cancel);
    let leader = noted(&folder, "self");
    let ((), took) = timed(|| running.kill());
    assert!(dies(&leader));
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn a_grandchild_that_keeps_standard_error_open_delays_two_seconds_at_most() {
    let (result, took) = timed(|| run("sleep 30 >/dev/null & echo out; exit 0").1);
    result.expect("exit 0");
    assert!(took < Duration::from_secs(4), "{took:?}");
    let (error, took) = timed(|| failure("sleep 30 >/dev/null & echo bad >&2; exit 4"));
    assert!(error.to_string().ends_with("status 4; nothing was stored\n  bad"), "{error}");
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn a_failed_command_leaves_no_descendants() {
    let folder = TempDir::new().expect("a folder");
    let script = format!("cd {}; sleep 1000 >/dev/null 2>&1 & echo $! >child; exit 1", folder.path().display());
    failure(&script);
    assert!(dies(&noted(&folder, "child")));
}

#[test]
fn a_command_that_still_writes_when_nobody_reads_is_ended() {
    let cancel = Cancel::new();
    for finished in [true, false] {
        let mut running = shell("yes", &cancel);
        assert_eq!(running.read(&mut [0; 10]).expect("output"), 10);
        let (error, took) = timed(|| {
            if finished {
                running.finish().err().map(|error| error.kind())
            } else {
                running.kill();
                None
            }
        });
        assert_eq!(error, finished.then_some(Kind::Failed));
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

#[test]
fn a_command_that_asks_at_the_terminal_is_not_waited_for() {
    // The kernel sends this to a background process that reads from its terminal.
    for script in ["kill -TTIN $$; echo never", "exec >/dev/null; kill -TTOU 0; echo never"] {
        let (error, took) = timed(|| failure(script));
        assert_eq!(error.kind(), Kind::Source);
        assert!(error.to_string().contains("asked at the terminal"), "{error}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

#[test]
fn a_pipe_ends_soon_after_a_cancellation() {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let cancel = Cancel::new();
    let mut pipe = Pipe::new(reader, &cancel);
    writer.write_all(b"begun").expect("room");
    let mut buffer = [0; 10];
    assert_eq!(pipe.read(&mut buffer).expect("bytes"), 5);
    let (error, took) = timed(|| {
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(300));
                cancel.cancel();
            });
            pipe.read(&mut buffer).expect_err("cancelled")
        })
    });
    assert_eq!(error.kind(), std::io::ErrorKind::Other);
    assert_eq!(read_error(error, "x").kind(), Kind::Interrupted);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_pipe_reads_files_and_ends() {
    let (cancel, mut file) = (Cancel::new(), tempfile::tempfile().expect("a file"));
    let content = vec![7; 3 << 20];
    file.write_all(&content).expect("room");
    std::io::Seek::rewind(&mut file).expect("a file");
    let (mut pipe, mut buffer) = (Pipe::new(file, &cancel), vec![0; 2 << 20]);
    assert_eq!(pipe.read(&mut buffer).expect("bytes"), 2 << 20, "a large read goes straight through");
    assert_eq!(pipe.read_to_end(&mut Vec::new()).expect("bytes"), 1 << 20);
    let mut folder = Pipe::new(File::open("/").expect("a folder"), &cancel);
    let error = folder.read(&mut buffer).expect_err("a folder is not read");
    assert_eq!(read_error(error, "`/`").kind(), Kind::Source);
}

#[test]
fn a_watched_dump_is_judged() {
    let dump = |end: &str| {
        let script = format!("printf -- '-- MySQL dump 10.13\\n\\n'; seq 1 100000; printf -- '{end}'");
        let cancel = Cancel::new();
        let mut watched = Watched::new(shell(&script, &cancel));
        assert!(watched.peek_head().expect("output").starts_with(b"-- MySQL"));
        std::io::copy(&mut watched, &mut std::io::sink()).expect("output");
        let verdict = judge(watched.head(), watched.tail(), watched.length());
        watched.into_inner().finish().expect("exit 0");
        verdict
    };
    dump("-- Dump completed on 2024-05-01 12:00:00\\n").expect("whole");
    assert_eq!(dump("100001\\n").expect_err("cut off").kind(), Kind::Source);
}

/// What a tool makes of `input`; `None` where the tool is not installed.
fn filtered(tool: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let mut child = std::process::Command::new(tool[0])
        .args(&tool[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take().expect("piped");
    let mut out = Vec::new();
    thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.stdout.take().expect("piped").read_to_end(&mut out).expect("output");
    });
    child.wait().is_ok_and(|status| status.success()).then_some(out)
}

#[test]
fn real_compressors_and_encryptors_are_recognised() {
    let home = TempDir::new().expect("a folder");
    let home = home.path().to_str().expect("UTF-8");
    let gpg =
        ["gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase", "x", "-c", "-o", "-"];
    let cases: [(&[&str], &str); 12] = [
        (&["gzip", "-c"], "compressed by gzip"),
        (&["zstd", "-c"], "compressed by zstd"),
        (&["xz", "-c"], "compressed by xz"),
        (&["bzip2", "-c"], "compressed by bzip2"),
        (&["lz4", "-c"], "compressed by lz4"),
        (&["lz4", "-l", "-c"], "compressed by lz4"),
        (&["zip", "-q", "-", "-"], "a zip archive"),
        (&["openssl", "enc", "-aes-256-cbc", "-pbkdf2", "-pass", "pass:x"], "encrypted by openssl"),
        (&["age", "-r", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"], "encrypted by age"),
        (&["brotli", "-c"], "compressed or encrypted, by the look of its bytes"),
        (&gpg, "encrypted by PGP"),
        (&[&gpg[..], &["--armor"]].concat(), "encrypted by PGP"),
    ];
    let rows = |row: u32| [row.to_string(), row.wrapping_mul(2_654_435_761).to_string()].join("\t");
    let text = (0..40_000).map(rows).collect::<Vec<_>>().join("\n");
    let mut tried = 0;
    for (tool, expected) in cases {
        for input in [text.as_bytes(), b"short"] {
            let Some(out) = filtered(tool, input) else { continue };
            let found = sniff(&out[..out.len().min(64 << 10)]);
            if input.len() > 5 || !expected.ends_with("bytes") {
                assert_eq!(found.map(|opaque| opaque.what), Some(expected), "{tool:?}");
                tried += 1;
            }
        }
    }
    assert!(tried >= 2, "at least gzip is everywhere");
    for tool in [&["tar", "-cf", "-", "Cargo.toml", "src"][..], &["cat"], &["base64"], &["od"]] {
        if let Some(out) = filtered(tool, text.as_bytes()) {
            assert_eq!(sniff(&out[..out.len().min(64 << 10)]), None, "{tool:?}");
        }
    }
}

fn names(found: &[Found]) -> Vec<&str> {
    found.iter().map(|found| found.name.as_str()).collect()
}

/// Walks one folder; its names come without the folder's own.
fn walk_one(folder: &Path) -> (Vec<Found>, Collect) {
    let report = Collect::default();
    let mut found = walk(&[folder.to_owned()], &report).expect("a folder");
    let prefix = format!("{}/", folder.to_str().expect("UTF-8").trim_start_matches('/'));
    assert!(matches!(found.remove(0).kind, FoundKind::Folder { mode } if mode & 0o700 == 0o700));
    for found in &mut found {
        found.name = found.name.strip_prefix(&prefix).expect("below the folder").to_owned();
    }
    (found, report)
}

#[test]
fn a_walk_finds_files_folders_and_links_in_order() {
    let folder = TempDir::new().expect("a folder");
    let root = folder.path();
    fs::create_dir_all(root.join("exports/empty")).expect("a folder");
    fs::write(root.join("exports/b.csv"), "12345").expect("a file");
    fs::set_permissions(root.join("exports/b.csv"), fs::Permissions::from_mode(0o640)).expect("its mode");
    let time = std::time::UNIX_EPOCH + Duration::new(1_700_000_000, 5);
    File::options()
        .write(true)
        .open(root.join("exports/b.csv"))
        .and_then(|file| file.set_modified(time))
        .expect("its time");
    fs::write(root.join("exports-old"), "").expect("a file");
    symlink("../nowhere", root.join("exports/a-link")).expect("a link");
    symlink("..", root.join("exports/loop")).expect("a link");
    let (found, report) = walk_one(root);
    assert_eq!(
        names(&found),
        ["exports", "exports-old", "exports/a-link", "exports/b.csv", "exports/empty", "exports/loop"]
    );
    assert_eq!(found[2].kind, FoundKind::Link { target: "../nowhere".into() });
    assert_eq!(found[3].kind, FoundKind::File { bytes: 5 });
    let opened = Opener::default().open(&found[3]).expect("a file");
    let modified = "2023-11-14T22:13:20.000000005Z".parse().expect("a time");
    assert_eq!((opened.mode(), opened.modified()), (0o640, modified));
    assert_eq!(found[3].path, root.join("exports/b.csv"));
    assert_eq!(report.problems(), []);
}

#[test]
fn a_walk_survives_hostile_names_and_things_that_are_no_files() {
    let folder = TempDir::new().expect("a folder");
    let root = folder.path();
    let kept = ["\u{1b}[2Jx", " ", "-rf", "...", "a\nb", "back\\slash", "c:d", "evil\u{202e}fdp.exe", "é"];
    for name in kept {
        fs::write(root.join(name), "").expect("a file");
    }
    fs::write(root.join(OsStr::from_bytes(b"caf\xe9")), "").expect("a file");
    symlink(OsStr::from_bytes(b"\xff"), root.join("bad-target")).expect("a link");
    let _socket = UnixListener::bind(root.join("socket")).expect("a socket");
    let fifo = std::process::Command::new("mkfifo").arg(root.join("fifo")).status().expect("mkfifo");
    assert!(fifo.success());
    let (found, report) = walk_one(root);
    let mut sorted = kept;
    sorted.sort_unstable();
    assert_eq!(names(&found), sorted);
    let problems = report.problems();
    let about = |end: &str| problems.iter().filter(|problem| problem.object.ends_with(end)).count();
    assert_eq!((about("caf\\xe9"), about("bad-target"), about("socket"), about("fifo")), (1, 1, 1, 1), "{problems:?}");
    assert_eq!(problems.len(), 4);
}

#[test]
fn an_unreadable_folder_is_a_problem_below_and_an_error_when_named() {
    let folder = TempDir::new().expect("a folder");
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).expect("a folder");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).expect("its mode");
    if fs::read_dir(&closed).is_ok() {
        return; // The superuser reads everything.
    }
    let (found, report) = walk_one(folder.path());
    assert_eq!((names(&found), report.problems().len()), (vec!["closed"], 1));
    assert_eq!(walk(&[closed], &Silent).expect_err("named").kind(), Kind::Source);
}

#[test]
fn part_names_are_relative_and_plain() {
    let folder = TempDir::new().expect("a folder");
    let root = folder.path().to_str().expect("UTF-8");
    fs::create_dir(folder.path().join("data")).expect("a folder");
    fs::write(folder.path().join("data/app.db"), "").expect("a file");
    for path in [format!("{root}/data/app.db"), format!("{root}/./data//app.db"), format!("/{root}/data/app.db")] {
        let found = walk(&[path.into()], &Silent).expect("a file");
        assert_eq!(names(&found), [format!("{}/data/app.db", &root[1..])]);
    }
    // Tests run in the package's folder.
    assert_eq!(names(&walk(&["./Cargo.toml".into()], &Silent).expect("a file")), ["Cargo.toml"]);
    let here = walk(&["./tests/.".into()], &Silent).expect("a folder");
    assert_eq!(here[0].name, "tests");
    assert!(names(&here).contains(&"tests/source.rs"));
}

#[test]
fn a_link_is_followed_only_where_it_was_named() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("x"), "").expect("a file");
    symlink(folder.path(), folder.path().join("y")).expect("a link");
    let found = walk(&[folder.path().join("y")], &Silent).expect("a folder");
    assert!(matches!(found[0].kind, FoundKind::Folder { .. }));
    assert!(found[1].name.ends_with("/y/x"));
    assert!(matches!(found[2].kind, FoundKind::Link { .. }));
}

#[test]
fn paths_that_cannot_be_stored_are_refused() {
    let folder = TempDir::new().expect("a folder");
    let root = folder.path();
    fs::write(root.join("file"), "").expect("a file");
    fs::write(root.join(OsStr::from_bytes(b"caf\xe9")), "").expect("a file");
    symlink("file", root.join("link")).expect("a link");
    let refused = |paths: &[PathBuf]| walk(paths, &Silent).expect_err("refused");
    for path in ["../Cargo.toml", "src/../Cargo.toml", ".."] {
        let error = refused(&[path.into()]);
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.advice().is_some());
    }
    assert_eq!(refused(&[]).kind(), Kind::Usage);
    let missing = refused(&[root.join("file"), root.join("missing")]);
    assert_eq!(missing.kind(), Kind::Source);
    assert!(missing.to_string().contains("missing` does not exist"));
    assert_eq!(refused(&[root.join(OsStr::from_bytes(b"caf\xe9"))]).kind(), Kind::Source);
    assert_eq!(refused(&["/dev/null".into()]).kind(), Kind::Source);
    // The same name twice, or a name below one that is no folder.
    assert_eq!(refused(&[root.join("file"), root.join("./file")]).kind(), Kind::Usage);
    assert_eq!(refused(&[root.to_owned(), root.join("file")]).kind(), Kind::Usage);
    let relative = "Cargo.toml".into();
    let absolute = PathBuf::from("/Cargo.toml");
    if absolute.exists() {
        assert_eq!(refused(&[relative, absolute]).kind(), Kind::Usage);
    }
    fs::create_dir(root.join("real")).expect("a folder");
    fs::write(root.join("real/x"), "").expect("a file");
    symlink("real", root.join("alias")).expect("a link");
    assert_eq!(refused(&[root.to_owned(), root.join("alias/x")]).kind(), Kind::Usage, "a part below a link");
}

#[test]
fn a_live_sqlite_file_is_warned_about() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("app.db");
    let live = rusqlite::Connection::open(&path).expect("a database");
    live.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1);").expect("SQL");
    let warned = |path: &Path| looks_live(path, &fs::read(path).expect("a file"));
    assert!(warned(&path).is_some_and(|warning| warning.contains("app.db-wal")));
    let link = folder.path().join("link.db");
    symlink(&path, &link).expect("a link");
    assert!(warned(&link).is_some());
    drop(live);
    assert_eq!(warned(&path), None, "the last connection takes its journal with it");
    fs::write(folder.path().join("app.db-journal"), "x").expect("a file");
    assert!(warned(&path).is_some_and(|warning| warning.contains("app.db-journal")));
    assert_eq!(looks_live(&path, b"not SQLite"), None);
}
