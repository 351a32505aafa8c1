//! Whole operations on a local repository: first snapshot, the same again, restore.
//!
//! `cargo bench --bench end_to_end [-- FILE]`: the stream is FILE, for example a dump, or 256 MiB of made-up rows.
//! Prints the median of several runs in seconds and MB/s, and what was stored.
#![allow(clippy::print_stdout, reason = "a bench tells its figures")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use alluvium::env::{Cancel, SystemEnv};
use alluvium::ops::restore::{Target, restore};
use alluvium::ops::select::Wanted;
use alluvium::ops::snapshot::{SnapshotOptions, Source, snapshot};
use alluvium::repo::writer::WriteOptions;
use alluvium::repo::{InitOptions, Repository};
use alluvium::report::{Collect, Counter, Silent};
use alluvium::storage::local::Local;

const RUNS: usize = 5;
const MADE_UP_BYTES: usize = 256 << 20;

fn main() {
    let file = std::env::args().skip(1).find(|a| !a.starts_with('-')).map(PathBuf::from);
    let made_up = if file.is_none() { rows() } else { Vec::new() };
    let input = || -> Box<dyn Read + Send> {
        match &file {
            Some(path) => Box::new(File::open(path).expect("the file opens")),
            None => Box::new(Cursor::new(&made_up)),
        }
    };
    let bytes = file.as_ref().map_or(made_up.len() as u64, |f| f.metadata().expect("metadata").len());
    let (mut first, mut again, mut back) = (Vec::new(), Vec::new(), Vec::new());
    let mut stored = 0;
    for _ in 0..RUNS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let repo = repository(folder.path());
        let report = Collect::default();
        first.push(timed(|| take(&repo, input(), &report)));
        stored = report.get(Counter::StoredBytes);
        again.push(timed(|| take(&repo, input(), &Silent)));
        back.push(timed(|| {
            let (snapshots, _) = repo.snapshots().expect("snapshots");
            restore(
                &repo.index_to_read(&Silent).expect("index"),
                &snapshots[0],
                &Wanted::Whole,
                Target::Stream(&mut std::io::sink()),
                256 << 20,
                &Silent,
                &Cancel::new(),
            )
            .expect("restore");
        }));
    }
    println!("{:.1} MB in, {:.1} MB stored", bytes as f64 / 1e6, stored as f64 / 1e6);
    for (name, times) in [("first snapshot", first), ("the same again", again), ("restore", back)] {
        let seconds = median(times);
        println!("{name:16} {seconds:7.3} s {:8.0} MB/s", bytes as f64 / 1e6 / seconds);
    }
}

fn repository(folder: &Path) -> Repository {
    let storage = Local::create(folder.join("repository")).expect("storage");
    Repository::init(&storage, &SystemEnv, b"bench", "bench", InitOptions::default()).expect("init");
    Repository::open(Arc::new(storage), Arc::new(SystemEnv), b"bench", Some(&folder.join("cache"))).expect("open")
}

fn take(repo: &Repository, input: Box<dyn Read + Send + '_>, report: &dyn alluvium::report::Report) {
    let options = SnapshotOptions {
        name: "bench".to_owned(),
        host: "bench".to_owned(),
        zone: "UTC".to_owned(),
        tags: BTreeSet::new(),
        write: WriteOptions::default(),
        allow_shrink: false,
        evidence: None,
    };
    snapshot(repo, Source::Stream { input, bytes: None }, &options, report, &Cancel::new()).expect("snapshot");
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn rows() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MADE_UP_BYTES + 128);
    let mut i = 0u64;
    while bytes.len() < MADE_UP_BYTES {
        let mixed = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 24;
        bytes.extend_from_slice(format!("{i}\tuser{mixed}@example.com\t{}\t{}\n", mixed % 10_007, i / 3).as_bytes());
        i += 1;
    }
    bytes
}
