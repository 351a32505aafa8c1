//! A first sync, each way, against copying the same files eight at a time.
//!
//! `cargo bench --bench sync [-- FOLDER [twin|like|foreign ...]]`: the repository is made of the files in FOLDER, for example nightly dumps in
//! the order of their names, or of four made-up days of 128 MiB. Prints the median of several runs in seconds and MB/s of
//! what lies in the source's packs, and each way's share of the plain copy's speed. All on one local disk, everything
//! durable.
#![allow(clippy::print_stdout, reason = "a bench tells its figures")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use alluvium::env::{Cancel, SystemEnv};
use alluvium::ops::snapshot::{SnapshotOptions, Source, snapshot};
use alluvium::ops::sync::{SyncOptions, Way, sync};
use alluvium::repo::keys::KdfCost;
use alluvium::repo::writer::WriteOptions;
use alluvium::repo::{InitOptions, Repository};
use alluvium::report::Silent;
use alluvium::storage::Storage;
use alluvium::storage::local::Local;

const RUNS: usize = 5;
const COPIERS: usize = 8;
const DAYS: u64 = 4;
const DAY_BYTES: usize = 128 << 20;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let folder = arguments.next().map(PathBuf::from);
    let only: Vec<String> = arguments.collect();
    let place = tempfile::tempdir().expect("a temporary folder");
    let source = Local::create(place.path().join("source")).expect("storage");
    Repository::init(&source, &SystemEnv, b"bench", "", cheap()).expect("init");
    let source = open(source, place.path(), "source-cache");
    fill(&source, folder.as_deref());
    let stored: u64 = source.list_packs().expect("packs").values().sum();
    let plain: u64 = source.snapshots().expect("snapshots").0.iter().map(|s| s.manifest.bytes()).sum();
    println!("{:.1} MB of dumps, {:.1} MB in packs", plain as f64 / 1e6, stored as f64 / 1e6);

    let mut times: Vec<(&str, Vec<(f64, f64)>)> =
        ["copy, 8 at a time", "twin", "like", "foreign"].into_iter().map(|name| (name, Vec::new())).collect();
    for run in 0..RUNS {
        times[0].1.push(timed(|| copy(&source, &place.path().join(format!("copy{run}")))));
        for (n, way) in [(1, Way::Packs), (2, Way::Chunks), (3, Way::Streams)] {
            if !only.is_empty() && !only.iter().any(|name| name == times[n].0) {
                continue;
            }
            let name = format!("dest{run}-{n}");
            let dest = Local::create(place.path().join(&name)).expect("storage");
            match way {
                Way::Packs => source.init_twin(&dest, b"bench", "", cheap().kdf),
                Way::Chunks => source.init_like(&dest, b"bench", "", None, cheap().kdf),
                Way::Streams => Repository::init(&dest, &SystemEnv, b"bench", "", cheap()),
            }
            .expect("init");
            let dest = open(dest, place.path(), &format!("{name}-cache"));
            let options = SyncOptions { host: "bench".to_owned(), ..SyncOptions::default() };
            times[n].1.push(timed(|| {
                let synced = sync(&source, &dest, &options, &Silent, &Cancel::new()).expect("sync");
                assert!(synced.way == way && synced.failed.is_empty());
            }));
            drop(dest);
            std::fs::remove_dir_all(place.path().join(&name)).expect("removed");
        }
        std::fs::remove_dir_all(place.path().join(format!("copy{run}"))).expect("removed");
    }
    let wall = |times: &[(f64, f64)]| median(times.iter().map(|t| t.0).collect());
    let plain_copy = wall(&times[0].1);
    for (name, times) in times.iter().filter(|(_, times)| !times.is_empty()) {
        let (seconds, cpu) = (wall(times), median(times.iter().map(|t| t.1).collect()));
        println!(
            "{name:18} {seconds:7.3} s ({cpu:6.2} s of processor) {:8.0} MB/s {:6.0} % of the copy's speed",
            stored as f64 / 1e6 / seconds,
            plain_copy / seconds * 100.0
        );
    }
}

fn cheap() -> InitOptions {
    InitOptions { kdf: KdfCost { memory_kib: 8, passes: 1, lanes: 1 }, ..InitOptions::default() }
}

fn open(storage: Local, place: &Path, cache: &str) -> Repository {
    Repository::open(Arc::new(storage), Arc::new(SystemEnv), b"bench", Some(&place.join(cache))).expect("open")
}

fn fill(repo: &Repository, folder: Option<&Path>) {
    let take = |name: &str, input: Box<dyn Read + Send>| {
        let options = SnapshotOptions {
            name: name.to_owned(),
            host: "bench".to_owned(),
            zone: "UTC".to_owned(),
            tags: BTreeSet::new(),
            write: WriteOptions::default(),
            allow_shrink: true,
            evidence: None,
        };
        snapshot(repo, Source::Stream { input, bytes: None }, &options, &Silent, &Cancel::new()).expect("snapshot");
    };
    let Some(folder) = folder else {
        for day in 0..DAYS {
            take("rows", Box::new(std::io::Cursor::new(rows(day))));
        }
        return;
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder opens")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    for file in files {
        take("dumps", Box::new(File::open(file).expect("the file opens")));
    }
}

/// Every object of the repository, whole files, eight at a time, each durable: what `sync` is measured by.
fn copy(source: &Repository, to: &Path) {
    let objects = source.storage.list("").expect("a listing");
    let dest = Local::create(to).expect("storage");
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..COPIERS {
            scope.spawn(|| {
                while let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let bytes = source.storage.get(&object.name, u64::MAX).expect("read");
                    dest.put_new(&object.name, &bytes).expect("written");
                }
            });
        }
    });
}

/// Wall seconds, and seconds of processor: on a busy machine only the second is the work's own.
fn timed(work: impl FnOnce()) -> (f64, f64) {
    let (start, cpu) = (Instant::now(), processor_seconds());
    work();
    (start.elapsed().as_secs_f64(), processor_seconds() - cpu)
}

/// What this process has used so far, in ticks of a hundredth.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// A made-up table of which one row in fifty changes each day.
fn rows(day: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DAY_BYTES + 128);
    let mut i = 0u64;
    while bytes.len() < DAY_BYTES {
        let mixed = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 8;
        let touched = if (i / 4000) % 50 == day { day } else { 0 };
        bytes.extend_from_slice(format!("{i}\tuser{mixed:x}@example.com\t{}\t{touched}\n", mixed % 10_007).as_bytes());
        i += 1;
    }
    bytes
}
