//! Thirty days of one large table of which one row in a thousand changes every day, scattered evenly: what a day takes,
//! and how fast the last one comes back.
//!
//! `cargo bench --bench economy [-- ROWS [DAYS]]`: with restic on the path beside it, on the same streams.
#![allow(clippy::print_stdout, reason = "a bench tells its figures")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use alluvium::env::{Cancel, SystemEnv};
use alluvium::id::BlobId;
use alluvium::ops::restore::{Target, restore};
use alluvium::ops::select::Wanted;
use alluvium::ops::snapshot::{SnapshotOptions, Source, snapshot};
use alluvium::repo::writer::WriteOptions;
use alluvium::repo::{InitOptions, Repository};
use alluvium::report::{Collect, Counter, Silent};
use alluvium::storage::local::Local;

/// One row in so many changes every day.
const SCATTER: u64 = 1000;

fn main() {
    let mut numbers = std::env::args().skip(1).filter(|a| !a.starts_with('-')).map(|n| n.parse().expect("a number"));
    let (rows, days): (u64, u64) = (numbers.next().unwrap_or(1_000_000), numbers.next().unwrap_or(30));
    let place = tempfile::tempdir().expect("a temporary folder");
    let repo = repository(place.path());
    let restic = restic(place.path(), &["init", "--repository-version", "2"], None);
    let mut added = Vec::new();
    let mut restic_sizes = Vec::new();
    let dump = place.path().join("dump.sql");
    for day in 0..days {
        std::fs::write(&dump, table(rows, day)).expect("written");
        let report = Collect::default();
        let (source, bytes) = (File::open(&dump).expect("the dump"), dump.metadata().expect("metadata").len());
        let seconds = timed(|| take(&repo, source, &report));
        added.push(report.get(Counter::StoredBytes));
        if restic {
            let words = ["backup", "--stdin", "--stdin-filename", "d.sql", "--host", "h"];
            self::restic(place.path(), &words, Some(&dump));
            restic_sizes.push(size(&place.path().join("restic")));
        }
        if day < 3 || day + 1 == days {
            println!(
                "day {day:2}: {:.1} MB in {seconds:.2} s, stored {:.3} MB",
                bytes as f64 / 1e6,
                added[day as usize] as f64 / 1e6
            );
        }
    }
    let later: u64 = added[1..].iter().sum();
    println!("after the first day: {:.2} MB", later as f64 / 1e6);
    if let (Some(first), Some(last)) = (restic_sizes.first(), restic_sizes.last()) {
        let restic = last - first;
        println!(
            "restic after the first day: {:.2} MB; share {:.2} %",
            restic as f64 / 1e6,
            later as f64 * 100.0 / restic as f64
        );
    }
    println!("longest chain: {} deltas", longest_chain(&repo));
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    for (name, snapshot) in [("first", snapshots.last()), ("last", snapshots.first())] {
        let snapshot = snapshot.expect("one");
        let mut times: Vec<f64> = (0..5)
            .map(|_| {
                let target = Target::Stream(&mut std::io::sink());
                timed(|| {
                    restore(
                        &repo.index_to_read(&Silent).expect("index"),
                        snapshot,
                        &Wanted::Whole,
                        target,
                        256 << 20,
                        &Silent,
                        &Cancel::new(),
                    )
                    .expect("restore");
                })
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("restore of the {name} day: {:.3} s", times[2]);
    }
}

/// A dump of the table on `day`.
fn table(rows: u64, day: u64) -> Vec<u8> {
    let mut out = String::with_capacity(rows as usize * 110);
    out.push_str("--\n-- PostgreSQL database dump\n--\n\nCOPY public.account (id, token, owner, balance, seen, note) FROM stdin;\n");
    for row in 0..rows {
        let mixed = (row + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // The last day on which this row changed: of each residue, one day in a thousand.
        let changed = (1..=day).rev().find(|d| row % SCATTER == d * 619 % SCATTER).unwrap_or(0);
        let balance = (mixed >> 17) % 1_000_000 + changed * 31;
        let _ = writeln!(
            out,
            "{row}\t{mixed:016x}{:016x}\t{}\t{}.{:02}\t2026-{:02}-{:02} 12:00:{:02}+00\t{}",
            mixed.rotate_left(29).wrapping_mul(0xC2B2_AE3D_27D4_EB4F),
            mixed >> 44,
            balance / 100,
            balance % 100,
            1 + changed / 28,
            1 + changed % 28,
            mixed % 60,
            ["standing order", "cash", "\\N", "transfer from a friend"][(mixed >> 33) as usize % 4],
        );
    }
    out.push_str("\\.\n\n--\n-- PostgreSQL database dump complete\n--\n\n");
    out.into_bytes()
}

fn repository(folder: &Path) -> Repository {
    let storage = Local::create(folder.join("repository")).expect("storage");
    Repository::init(&storage, &SystemEnv, b"bench", "bench", InitOptions::default()).expect("init");
    Repository::open(Arc::new(storage), Arc::new(SystemEnv), b"bench", Some(&folder.join("cache"))).expect("open")
}

fn take(repo: &Repository, input: File, report: &Collect) {
    let options = SnapshotOptions {
        name: "bench".to_owned(),
        host: "bench".to_owned(),
        zone: "UTC".to_owned(),
        tags: BTreeSet::new(),
        write: WriteOptions::default(),
        allow_shrink: false,
        evidence: None,
    };
    let source = Source::Stream { input: Box::new(input), bytes: None };
    snapshot(repo, source, &options, report, &Cancel::new()).expect("snapshot");
}

/// Runs restic on a repository in `folder`; `false` when there is none.
fn restic(folder: &Path, words: &[&str], input: Option<&Path>) -> bool {
    let stdin = input.map_or_else(Stdio::null, |path| File::open(path).expect("the dump").into());
    Command::new("restic")
        .args(["-q", "-r"])
        .arg(folder.join("restic"))
        .args(words)
        .env("RESTIC_PASSWORD", "x")
        .env("XDG_CACHE_HOME", folder.join("restic-cache"))
        .stdin(stdin)
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| {
            let found = entry.metadata().expect("metadata");
            if found.is_dir() { size(&entry.path()) } else { found.len() }
        })
        .sum()
}

/// Deltas between a chunk and one that is stored whole, at most.
fn longest_chain(repo: &Repository) -> usize {
    let mut bases: BTreeMap<BlobId, BlobId> = BTreeMap::new();
    for pack in repo.cache.packs().expect("packs") {
        for (_, entry) in repo.cache.entries(&pack.id).expect("entries") {
            bases.extend(entry.base.map(|base| (entry.id, base.id)));
        }
    }
    let chain = |id: &BlobId| std::iter::successors(bases.get(id), |id| bases.get(id)).take(1000).count();
    bases.keys().map(chain).max().unwrap_or(0)
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}
