//! The program under bad conditions, as real processes: many writers, prunes and a forget on one repository, some
//! killed at any moment; and a system whose calls fail.
//!
//! What must hold: a snapshot that was reported as taken comes back byte for byte as long as it is listed, `check`
//! finds no damage, and whatever fails says so with an exit status of the contract, never by a signal or a panic.
//!
//! `ALLUVIUM_STRESS_SECONDS` makes the stress longer than its few seconds (180 before a release), and
//! `ALLUVIUM_STRESS_REPOSITORY` takes it to another address; the repository there must be new.
#![allow(clippy::print_stdout, reason = "a stress test tells what it came to")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{dump, noise};

const WRITERS: usize = 8;
const PRUNERS: usize = 2;

/// Where programs run, and what they came to.
pub struct Scene {
    folder: TempDir,
    repository: OsString,
    environment: Vec<(&'static str, String)>,
    /// The digest of what each snapshot must give back, by its id.
    taken: Mutex<BTreeMap<String, blake3::Hash>>,
    killed: AtomicU64,
    pruned: AtomicU64,
    forgotten: AtomicU64,
    refused: Mutex<BTreeMap<String, u64>>,
}

/// What a run came to.
pub struct Ran {
    pub status: ExitStatus,
    pub out: Vec<u8>,
    pub err: String,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}", self.status, String::from_utf8_lossy(&self.out), self.err)
    }
}

impl Ran {
    pub fn document(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|e| panic!("{e}: {self}"))
    }

    /// An end that the contract knows. That it says why can't be asked: the write of the message may fail too.
    pub fn ended_clearly(&self) -> bool {
        matches!(self.status.code(), Some(0..=3 | 10..=13)) && !self.err.contains("panicked")
    }
}

/// Random numbers of one thread.
struct Luck {
    seed: u64,
    drawn: u64,
}

impl Luck {
    fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    /// Below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.drawn += 1;
        let bytes = noise(8, self.seed.wrapping_mul(1_000_003).wrapping_add(self.drawn));
        u64::from_le_bytes(bytes.try_into().expect("eight bytes")) % n
    }
}

impl Scene {
    /// A new repository: a folder, or what `address` names, with the credentials in `environment`.
    pub fn new(address: Option<OsString>, environment: Vec<(&'static str, String)>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let repository = address.unwrap_or_else(|| folder.path().join("repository").into_os_string());
        let scene = Self {
            folder,
            repository,
            environment,
            taken: Mutex::default(),
            killed: AtomicU64::new(0),
            pruned: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            refused: Mutex::default(),
        };
        // Small chunks and packs: small data has many.
        let made = scene.run("cache", &["init", "--chunk-size", "4K", "--pack-size", "1M"], &[]);
        assert_eq!(made.status.code(), Some(0), "{made}");
        scene
    }

    /// The same people at another address, with other credentials; nothing is made.
    pub fn at(&self, address: &str, environment: &[(&'static str, String)]) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            repository: address.into(),
            environment: environment.to_vec(),
            taken: Mutex::new(lock(&self.taken).clone()),
            killed: AtomicU64::new(0),
            pruned: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            refused: Mutex::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn dress(&self, command: &mut Command, cache: &str, arguments: &[&str]) {
        command.args(arguments).arg("--json").env_clear().current_dir(self.folder.path());
        // Proxies of the machine have no business here, and neither has its configuration.
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.path("home"));
        command.env("ALLUVIUM_REPOSITORY", &self.repository).env("ALLUVIUM_PASSWORD", "correct horse");
        command.env("ALLUVIUM_CACHE_DIR", self.path(cache)).env("RUST_BACKTRACE", "1");
        command.envs(self.environment.iter().cloned());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    fn start(&self, cache: &str, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_alluvium"));
        self.dress(&mut command, cache, arguments);
        command.spawn().expect("the program starts")
    }

    pub fn run(&self, cache: &str, arguments: &[&str], input: &[u8]) -> Ran {
        finish(self.start(cache, arguments), input)
    }

    /// Under faults of system calls: of those that `names` (libfiu's patterns) say, each with this probability.
    fn run_with_faults(&self, names: &[&str], probability: f64, arguments: &[&str], input: &[u8]) -> Ran {
        let mut command = Command::new("fiu-run");
        command.args(["-x", "-f", ""]);
        for name in names {
            command.args(["-c", &format!("enable_random name={name},probability={probability}")]);
        }
        command.arg(env!("CARGO_BIN_EXE_alluvium"));
        self.dress(&mut command, "cache", arguments);
        finish(command.spawn().expect("`fiu-run` is missing: run ./test.sh, which installs it"), input)
    }

    pub fn remember(&self, ran: &Ran, data: &[u8]) {
        let id = ran.document()["id"].as_str().expect("an id").to_owned();
        lock(&self.taken).insert(id, blake3::hash(data));
    }

    /// Check is clean, and every listed snapshot gives back what was stored. Returns how many there are.
    pub fn verify(&self, cache: &str) -> usize {
        let check = self.run(cache, &["check", "--read-data"], &[]);
        assert_eq!(check.status.code(), Some(0), "{check}");
        let listed = self.run(cache, &["snapshots"], &[]);
        assert_eq!(listed.status.code(), Some(0), "{listed}");
        let listed = listed.document();
        let listed = listed["snapshots"].as_array().expect("snapshots");
        let taken = lock(&self.taken);
        for snapshot in listed {
            let id = snapshot["id"].as_str().expect("an id");
            let restored = self.run(cache, &["restore", id], &[]);
            assert_eq!(restored.status.code(), Some(0), "{}", restored.err);
            // One whose writer was killed between publishing and saying so is whole too: restore has verified it.
            if let Some(digest) = taken.get(id) {
                assert_eq!(blake3::hash(&restored.out), *digest, "snapshot {id} gives back what was stored");
            }
        }
        listed.len()
    }
}

/// Feeds the program and waits for it.
fn finish(mut child: Child, input: &[u8]) -> Ran {
    let mut stdin = child.stdin.take().expect("a pipe");
    let output = thread::scope(|scope| {
        // A program that refuses, or is killed, does not read.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().expect("the program ends")
    });
    Ran { status: output.status, out: output.stdout, err: String::from_utf8_lossy(&output.stderr).into_owned() }
}

/// The same, with a SIGKILL after a while. `None` when it came first.
fn finish_or_kill(mut child: Child, input: &[u8], after: Duration) -> Option<Ran> {
    let (mut stdin, mut stdout, mut stderr) = (
        child.stdin.take().expect("a pipe"),
        child.stdout.take().expect("a pipe"),
        child.stderr.take().expect("a pipe"),
    );
    let (mut out, mut err) = (Vec::new(), String::new());
    let status = thread::scope(|scope| {
        scope.spawn(move || drop(stdin.write_all(input)));
        scope.spawn(|| stdout.read_to_end(&mut out));
        scope.spawn(|| stderr.read_to_string(&mut err));
        let since = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a status") {
                return status;
            }
            if since.elapsed() > after {
                child.kill().expect("killed");
                return child.wait().expect("a status");
            }
            thread::sleep(Duration::from_millis(2));
        }
    });
    status.code().map(|_| Ran { status, out, err })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Eight writers, two prunes and a forget loop for this long; then everything is verified.
pub fn stress(scene: &Scene, duration: Duration) {
    let until = Instant::now() + duration;
    thread::scope(|scope| {
        for number in 0..WRITERS {
            scope.spawn(move || write(scene, number, until));
        }
        for number in 0..PRUNERS {
            scope.spawn(move || maintain(scene, &["prune"], 100 + number, &scene.pruned, until));
        }
        scope.spawn(|| maintain(scene, &["forget", "--keep-last", "3"], 200, &scene.forgotten, until));
    });
    let listed = scene.verify("cache");
    let taken = lock(&scene.taken).len();
    assert!(taken > 0 && listed > 0, "{taken} taken, {listed} listed");
    println!(
        "stress: {taken} snapshots taken, {} writers and others killed, {} prunes, {} forgets, {listed} snapshots restored; refusals: {:?}",
        scene.killed.load(Ordering::SeqCst),
        scene.pruned.load(Ordering::SeqCst),
        scene.forgotten.load(Ordering::SeqCst),
        lock(&scene.refused),
    );
}

/// Half of the processes have a cache of their own, and half share one.
fn cache_of(number: usize) -> String {
    if number.is_multiple_of(2) { "cache".to_owned() } else { format!("cache-{number}") }
}

fn write(scene: &Scene, number: usize, until: Instant) {
    let mut luck = Luck::new(number as u64);
    let (name, cache) = (format!("db{number}"), cache_of(number));
    for day in 0.. {
        if Instant::now() > until {
            return;
        }
        // Writers have most rows in common, so that they share chunks, and prune can hurt.
        let mut data = dump(4000 + number * 50, day);
        data.extend(noise(luck.below(300_000) as usize, luck.seed + day as u64));
        let arguments = ["snapshot", "--name", &name, "--allow-shrink", "-"];
        let patience = if luck.below(4) == 0 { luck.below(700) } else { 600_000 };
        match finish_or_kill(scene.start(&cache, &arguments), &data, Duration::from_millis(patience)) {
            None => drop(scene.killed.fetch_add(1, Ordering::SeqCst)),
            Some(ran) if ran.status.code() == Some(0) => scene.remember(&ran, &data),
            Some(ran) => refuse(scene, &arguments, &ran),
        }
    }
}

fn maintain(scene: &Scene, arguments: &[&str], number: usize, done: &AtomicU64, until: Instant) {
    let mut luck = Luck::new(number as u64);
    while Instant::now() < until {
        let patience = if luck.below(5) == 0 { luck.below(700) } else { 600_000 };
        let nothing_yet = lock(&scene.taken).is_empty();
        match finish_or_kill(scene.start(&cache_of(number), arguments), &[], Duration::from_millis(patience)) {
            None => drop(scene.killed.fetch_add(1, Ordering::SeqCst)),
            Some(ran) if ran.status.code() == Some(0) => drop(done.fetch_add(1, Ordering::SeqCst)),
            // Prune takes a repository without snapshots for one that is not shown whole.
            Some(ran) if nothing_yet && ran.err.contains("lists no snapshot at all") => {}
            Some(ran) => refuse(scene, arguments, &ran),
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Others at work are a reason to refuse; nothing else is.
fn refuse(scene: &Scene, arguments: &[&str], ran: &Ran) {
    let error: Value = serde_json::from_str(ran.err.trim()).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {ran}"));
    let message = error["error"]["message"].as_str().unwrap_or_default();
    assert_eq!(ran.status.code(), Some(11), "{arguments:?}: {ran}");
    // Without what is different each time.
    let shape: String = message.chars().filter(|c| !c.is_ascii_digit()).take(60).collect();
    *lock(&scene.refused).entry(shape).or_default() += 1;
}

#[test]
fn many_processes_on_one_repository_lose_nothing() {
    let variable = |name: &str| std::env::var_os(name);
    let seconds = variable("ALLUVIUM_STRESS_SECONDS").map_or(12, |s| s.to_string_lossy().parse().expect("seconds"));
    let address = variable("ALLUVIUM_STRESS_REPOSITORY");
    // Another address needs its credentials.
    let passed =
        ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AZBLOB_ACCOUNT_NAME", "AZBLOB_ACCOUNT_KEY"];
    let environment = passed.iter().filter_map(|n| Some((*n, variable(n)?.to_string_lossy().into_owned()))).collect();
    stress(&Scene::new(address, environment), Duration::from_secs(seconds));
}

/// Every system call of a kind may fail: what fails says so, and harms nothing that is there.
#[test]
fn failing_system_calls_fail_a_run_and_nothing_else() {
    let scene = Scene::new(None, Vec::new());
    let deadline = Instant::now() + Duration::from_secs(12);
    let (mut taken, mut failed) = (0, 0);
    // Not `close` and `closedir`: they fail only for who closes twice, which Rust's library takes for a bug, and panics.
    let kinds = [
        (&["posix/io/rw/*"][..], 0.01),
        (&["posix/io/oc/open"], 0.03),
        (&["posix/io/sync/*"], 0.1),
        (&["posix/io/dir/opendir", "posix/io/dir/readdir", "posix/io/dir/rename", "posix/io/dir/unlink"], 0.05),
    ];
    'enough: for round in 0..12 {
        for (names, probability) in kinds {
            // A slow machine gets its faults all the same.
            if Instant::now() > deadline && taken > 0 && failed > 0 {
                break 'enough;
            }
            let data = dump(1000, round);
            let ran = scene.run_with_faults(names, probability, &["snapshot", "--name", "shop", "-"], &data);
            assert!(ran.ended_clearly(), "{names:?}: {ran}");
            if ran.status.code() == Some(0) {
                scene.remember(&ran, &data);
                taken += 1;
            } else {
                failed += 1;
            }
            let prune = scene.run_with_faults(names, probability, &["prune"], &[]);
            assert!(prune.ended_clearly(), "{names:?}: {prune}");
        }
    }
    assert!(taken > 0 && failed > 0, "{taken} taken, {failed} failed: faults are too many or too few");
    let restored = scene.verify("cache");
    assert!(restored >= taken, "{restored} of {taken} are there");
    println!("faults: {taken} snapshots taken, {failed} failed clearly, {restored} restored");
}
