//! S3 on loopback against a folder, and what 50 ms on every request cost: the whole program, opening included.
//!
//! `cargo bench --bench remote -- [DUMP] [loopback|latency] [RUNS]`: DUMP is a file to back up, or a made-up one of 2 GiB,
//! of which nothing repeats. Needs `SeaweedFS`, which `./test.sh` installs. Prints medians of several runs in turn.
//!
//! Opening, registering and publishing are some 25 requests one after the other, whatever the size: 50 ms on each
//! are more than a second. What latency does to throughput shows on a large dump.
#![allow(missing_docs, clippy::print_stdout)]
#![allow(dead_code, reason = "the tests use more of what they share")]

#[path = "../tests/proxy.rs"]
mod proxy;
#[allow(unused_imports)]
#[path = "../tests/services/mod.rs"]
mod services;
#[path = "../tests/support.rs"]
mod support;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proxy::{Faults, Proxy};
use services::{Service, What};

const MADE_UP_BYTES: u64 = 2 << 30;
const DELAY: Duration = Duration::from_millis(50);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let place = tempfile::tempdir().expect("a temporary folder");
    let named = words.iter().find(|w| Path::new(w).is_file());
    let dump = named.map_or_else(|| made_up(place.path()), PathBuf::from);
    let wanted =
        |what: &str| words.iter().all(|w| w != "loopback" && w != "latency") || words.iter().any(|w| w == what);
    let service = Service::start(What::SeaweedFs);
    let runs = words.iter().find_map(|w| w.parse().ok()).unwrap_or(5);
    let bench = Bench { service: &service, place: place.path(), dump: &dump, runs };
    println!("{:.1} MB of dump", std::fs::metadata(&dump).expect("the dump").len() as f64 / 1e6);
    if wanted("loopback") {
        bench.loopback();
    }
    if wanted("latency") {
        bench.latency();
    }
}

struct Bench<'b> {
    service: &'b Service,
    place: &'b Path,
    dump: &'b Path,
    runs: usize,
}

/// Seconds of a first backup, of the same dump again, and of its restore.
type Times = [f64; 3];

const NAMES: [&str; 3] = ["first backup", "the same again", "restore"];

impl Bench<'_> {
    fn loopback(&self) {
        self.compare("folder", "S3", |run| {
            let folder = self.place.join(format!("folder{run}"));
            let times = self.times(&folder.display().to_string());
            std::fs::remove_dir_all(folder).expect("removed");
            [times, self.times(&self.service.place())]
        });
    }

    fn latency(&self) {
        let proxy = Proxy::http(self.service.port(), 1);
        self.compare("S3", "50 ms more", |_| {
            [Duration::ZERO, DELAY].map(|delay| {
                proxy.set(Faults { delay, ..Faults::default() });
                let before = proxy.counts().all();
                let times = self.times(&self.service.place_over(proxy.port()));
                println!("{} ms: {} requests, {times:.2?}", delay.as_millis(), proxy.counts().all() - before);
                times
            })
        });
    }

    fn compare(&self, one: &str, other: &str, run: impl Fn(usize) -> [Times; 2]) {
        let runs: Vec<[Times; 2]> = (0..self.runs).map(run).collect();
        for (n, name) in NAMES.iter().enumerate() {
            let [a, b] = [0, 1].map(|side| median(runs.iter().map(|r| r[side][n]).collect()));
            println!("{name:16} {one} {a:6.2} s, {other} {b:6.2} s: {:5.2} times", b / a);
        }
    }

    fn times(&self, repository: &str) -> Times {
        self.timed(repository, &["init"]);
        let first = self.timed(repository, &["snapshot", "--name", "dump", "-"]);
        let again = self.timed(repository, &["snapshot", "--name", "dump", "-"]);
        [first, again, self.timed(repository, &["restore", "dump"])]
    }

    fn timed(&self, repository: &str, words: &[&str]) -> f64 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_alluvium"));
        command.args(["-q", "-r", repository]).args(words).envs(self.service.environment());
        command
            .env("ALLUVIUM_PASSWORD", "bench")
            .env("HOME", self.place)
            .env("XDG_CACHE_HOME", self.place.join("cache"));
        command.stdin(File::open(self.dump).expect("the dump")).stdout(Stdio::null());
        let begun = Instant::now();
        let status = command.status().expect("alluvium starts");
        assert!(status.success(), "{command:?}");
        begun.elapsed().as_secs_f64()
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Rows that compress about four times, none like another.
fn made_up(place: &Path) -> PathBuf {
    let path = place.join("dump");
    let mut file = BufWriter::new(File::create(&path).expect("a file"));
    let (mut written, mut i) = (0, 0u64);
    while written < MADE_UP_BYTES {
        let mixed = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let row = format!("{i}\tuser{:05}@example.com\t2026-01-01 00:00:00\t{mixed:x}\n", mixed >> 48);
        file.write_all(row.as_bytes()).expect("written");
        written += row.len() as u64;
        i += 1;
    }
    file.flush().expect("written");
    path
}
