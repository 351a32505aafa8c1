//! The local index at size: how long it takes to fill, how much memory a process needs to use it,
//! and how fast it answers.
//!
//! `cargo bench --bench index_lookup [-- CHUNKS [FOLDER]]`, or `ALLUVIUM_BENCH_CHUNKS=20000000`; one million by
//! default. The lookups run in a fresh process, so that what the building needed does not count.
//! Lookups a second become GB/s by assuming chunks of 64 KiB.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alluvium::error::Result;
use alluvium::format::index::{IndexObject, IndexedPack};
use alluvium::format::pack::{BlobEntry, Codec, blobs_end};
use alluvium::format::signed::Claim;
use alluvium::id::{BlobId, DataKeyId, IndexId, PackId, RepoId, SlotId, SnapshotId};
use alluvium::repo::index::Index;

const REPO: RepoId = RepoId(*b"index benchmark.");
const CHUNK_BYTES: u64 = 64 << 10;
const PACK_BLOBS: u64 = 1000;
const OBJECT_PACKS: u64 = 64;
/// Tells the fresh process which file to open.
const FILE: &str = "ALLUVIUM_BENCH_INDEX_FILE";
const CHUNKS: &str = "ALLUVIUM_BENCH_CHUNKS";

fn main() -> Result<()> {
    let chunks_variable = std::env::var(CHUNKS).ok();
    // Cargo passes `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let chunks = arguments.next().or(chunks_variable).map_or(1_000_000, |n| n.parse().expect("a number of chunks"));
    if let Some(path) = std::env::var_os(FILE) {
        return look_up(Path::new(&path), chunks);
    }
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(parent).expect("a folder");
    let path = folder.path().join("index.sqlite");
    fill(&path, chunks)?;
    for what in
        ["lookups in a fresh process, file in the page cache", "the same, file dropped from the page cache first"]
    {
        say("", what);
        let mut again = std::process::Command::new(std::env::current_exe().expect("this program"));
        assert!(again.env(FILE, &path).env(CHUNKS, chunks.to_string()).status().expect("a process").success());
        drop_from_page_cache(&path);
    }
    empty(&path)
}

fn fill(path: &Path, chunks: u64) -> Result<()> {
    say("", &format!("{chunks} chunks, {:.1} TB of data", (chunks * CHUNK_BYTES) as f64 / 1e12));
    let index = Index::open(path, REPO)?;
    let start = Instant::now();
    index.add_all(
        (0..chunks.div_ceil(PACK_BLOBS * OBJECT_PACKS)).map(|n| Ok((index_id(n), AUTHOR, object(n, chunks)))),
    )?;
    let size = std::fs::metadata(path).expect("the file").len();
    say("filled in", &format!("{:.1} s", start.elapsed().as_secs_f64()));
    say("file", &format!("{} MB, {:.1} bytes a chunk", size / 1_000_000, size as f64 / chunks as f64));
    say("memory while filling (peak)", &format!("{} MB", memory("VmHWM") / 1000));

    let day = 16_000;
    let first = (chunks + day * 10) / PACK_BLOBS / OBJECT_PACKS + 1;
    let next = object(first, first * PACK_BLOBS * OBJECT_PACKS + day);
    say("add 16 000 chunks (1 GB) more", &format!("{:?}", timed(|| index.add(index_id(first), AUTHOR, &next))?));
    say("remove them", &format!("{:?}", timed(|| index.remove(&[index_id(first)]))?));
    Ok(())
}

fn look_up(path: &Path, chunks: u64) -> Result<()> {
    let before = memory("VmRSS");
    let start = Instant::now();
    let index = Index::open(path, REPO)?;
    say("opened in", &format!("{:?}", start.elapsed()));
    say("memory before, after opening", &format!("{} MB, {} MB", before / 1000, memory("VmRSS") / 1000));

    let n = chunks.min(1_000_000);
    let all = |_: &alluvium::repo::index::Location| true;
    let hit = |id: BlobId| assert!(black_box(index.lookup(&id, &all)).expect("a lookup").is_some());
    let middle = chunks / 3;
    rate("hits in pack order", n / 2, |i| hit(chunk_id(middle + i)));
    rate("hits in random order", n / 5, |i| hit(chunk_id(scattered(i, chunks))));
    rate("hits in random order, 4 threads", n / 5, |i| hit(chunk_id(scattered(i, chunks))));
    let misses = n * 4;
    rate("misses", misses, |i| assert!(index.lookup(&chunk_id(chunks * 2 + i), &all).expect("a lookup").is_none()));
    let share = index.filter_misses() as f64 / misses as f64;
    say("misses answered by the filter", &format!("{:.3} %", share * 100.0));
    say("memory after lookups, peak", &format!("{} MB, {} MB", memory("VmRSS") / 1000, memory("VmHWM") / 1000));
    Ok(())
}

fn empty(path: &Path) -> Result<()> {
    let index = Index::open(path, REPO)?;
    say("throw everything away", &format!("{:?}", timed(|| index.invalidate())?));
    Ok(())
}

/// Runs `work` for the numbers below `n` and reports how many it does in a second.
fn rate(what: &str, n: u64, work: impl Fn(u64) + Sync) {
    let threads = if what.contains("4 threads") { 4 } else { 1 };
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || (thread..n).step_by(threads as usize).for_each(work));
        }
    });
    let a_second = n as f64 / start.elapsed().as_secs_f64();
    say(what, &format!("{a_second:>11.0} a second = {:>7.1} GB/s", a_second * CHUNK_BYTES as f64 / 1e9));
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work().map(|()| start.elapsed())
}

/// The object with the chunks from `n * PACK_BLOBS * OBJECT_PACKS` on, below `end`.
fn object(n: u64, end: u64) -> IndexObject {
    let packs = (n * OBJECT_PACKS..(n + 1) * OBJECT_PACKS).filter(|pack| pack * PACK_BLOBS < end);
    IndexObject { packs: packs.map(|pack| indexed_pack(pack, end)).collect(), ..IndexObject::default() }
}

fn indexed_pack(n: u64, end: u64) -> IndexedPack {
    let entries: Vec<_> = (n * PACK_BLOBS..((n + 1) * PACK_BLOBS).min(end))
        .map(|chunk| {
            let (raw_len, stored_len) =
                (40_000 + scattered(chunk, 50_000) as u32, 10_000 + scattered(chunk, 9_000) as u32);
            BlobEntry { id: chunk_id(chunk), codec: Codec::Zstd, raw_len, stored_len, base: None }
        })
        .collect();
    let (session, key) = (SnapshotId(named(b's', n / 5000)), DataKeyId(named(b'k', n / 5000)));
    let claim = Claim { author: AUTHOR, time: 0 };
    IndexedPack { id: PackId(named(b'p', n)), size: blobs_end(&entries) + 5000, session, claim, key, entries }
}

const AUTHOR: SlotId = SlotId([0; 16]);

fn index_id(n: u64) -> IndexId {
    IndexId(named(b'i', n))
}

fn chunk_id(n: u64) -> BlobId {
    BlobId(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn named(kind: u8, n: u64) -> [u8; 16] {
    let hash = blake3::hash(&[&[kind][..], &n.to_le_bytes()].concat());
    hash.as_bytes().as_chunks().0[0]
}

/// A number below `end` that has little to do with `n` (`SplitMix64`).
fn scattered(n: u64, end: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % end
}

fn drop_from_page_cache(path: &Path) {
    use rustix::fs::{Advice, fadvise};
    let file = std::fs::File::open(path).expect("the file");
    file.sync_all().expect("a sync");
    fadvise(&file, 0, None, Advice::DontNeed).expect("a dropped cache");
}

/// A line of `/proc/self/status` in kilobytes.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[expect(clippy::print_stdout, reason = "a benchmark's output is its purpose")]
fn say(what: &str, value: &str) {
    println!("{what:<34} {value}");
}
