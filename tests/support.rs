//! What the tests share: a world with its own clock and entropy, repositories in memory, data that looks like dumps.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use alluvium::env::{Cancel, Env};
use alluvium::error::Result;
use alluvium::format::manifest::Part;
use alluvium::ops::forget;
use alluvium::ops::prune::{MaxUnused, Plan, PruneOptions, prune};
use alluvium::ops::restore::{Target, restore};
use alluvium::ops::select::{Wanted, snapshot_and_part};
use alluvium::ops::snapshot::{SnapshotOptions, Source, Taken, snapshot};
use alluvium::repo::keys::KdfCost;
use alluvium::repo::reader::Reader;
use alluvium::repo::snapshots::Snapshot;
use alluvium::repo::writer::WriteOptions;
use alluvium::repo::{Indexed, InitOptions, Repository};
use alluvium::report::{Report, Silent};
use alluvium::storage::fault::Operation;
use alluvium::storage::memory::Memory;
use alluvium::storage::{Listed, Storage};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Unlocking that costs a test nothing.
pub const CHEAP: KdfCost = KdfCost { memory_kib: 8, passes: 1, lanes: 1 };
/// The tests' passphrase.
pub const PASSPHRASE: &[u8] = b"correct horse battery staple";

/// A clock that tests move, and entropy that repeats: one seed, one history.
pub struct World {
    seconds: AtomicI64,
    seed: u64,
    drawn: AtomicU64,
}

impl World {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { seconds: AtomicI64::new(1_790_000_000), seed, drawn: AtomicU64::new(0) })
    }

    pub fn pass(&self, time: SignedDuration) {
        self.seconds.fetch_add(time.as_secs(), Ordering::SeqCst);
    }
}

impl Env for World {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.seconds.load(Ordering::SeqCst)).expect("a time within the calendar")
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        let draw = self.drawn.fetch_add(1, Ordering::SeqCst);
        blake3::Hasher::new().update(&self.seed.to_le_bytes()).update(&draw.to_le_bytes()).finalize_xof().fill(bytes);
    }
}

/// What [`Before`] does: given the call's name.
type Work = Box<dyn FnOnce(&str) + Send>;

/// A store that does something once, before a call is carried out: others act between two calls of one machine.
pub struct Before {
    inner: Memory,
    operation: Operation,
    prefix: &'static str,
    work: Mutex<Option<Work>>,
}

impl Before {
    /// Runs `work` before the first `operation` on an object whose name begins with `prefix`.
    pub fn new(
        inner: &Memory,
        operation: Operation,
        prefix: &'static str,
        work: impl FnOnce(&str) + Send + 'static,
    ) -> Self {
        Self { inner: inner.clone(), operation, prefix, work: Mutex::new(Some(Box::new(work))) }
    }

    fn at(&self, operation: Operation, name: &str) -> &Memory {
        if operation == self.operation && name.starts_with(self.prefix) {
            let work = self.work.lock().expect("nobody panicked").take();
            if let Some(work) = work {
                work(name);
            }
        }
        &self.inner
    }
}

impl Storage for Before {
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.at(Operation::PutNew, name).put_new(name, bytes)
    }
    fn put_replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.at(Operation::PutReplace, name).put_replace(name, bytes)
    }
    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        self.at(Operation::Get, name).get(name, bytes_max)
    }
    fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.at(Operation::GetRange, name).get_range(name, offset, len)
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.at(Operation::List, prefix).list(prefix)
    }
    fn stat(&self, name: &str) -> Result<Option<u64>> {
        self.at(Operation::Stat, name).stat(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.at(Operation::Delete, name).delete(name)
    }
    fn location(&self) -> String {
        self.inner.location()
    }
}

/// A stream that does something when half of it was read.
pub struct Interrupting<'a> {
    data: &'a [u8],
    at: usize,
    work: Option<Box<dyn FnOnce() + Send + 'a>>,
}

impl<'a> Interrupting<'a> {
    pub fn new(data: &'a [u8], work: impl FnOnce() + Send + 'a) -> Self {
        Self { data, at: 0, work: Some(Box::new(work)) }
    }
}

impl Read for Interrupting<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.at >= self.data.len() / 2
            && let Some(work) = self.work.take()
        {
            work();
        }
        let n = into.len().min(self.data.len() - self.at).min(64 << 10);
        into[..n].copy_from_slice(&self.data[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Small chunks and packs, so that small data has many of both.
pub fn small() -> InitOptions {
    InitOptions { chunk_bytes: 1024, pack_bytes: 64 << 10, kdf: CHEAP }
}

/// Makes a repository in `storage` and opens it.
pub fn init(storage: impl Storage + 'static, world: &Arc<World>) -> Repository {
    Repository::init(&storage, world.as_ref(), PASSPHRASE, "test", small()).expect("init");
    open(storage, world).expect("open")
}

/// Opens a repository with a cache of its own.
pub fn open(storage: impl Storage + 'static, world: &Arc<World>) -> Result<Repository> {
    open_with(storage, world, PASSPHRASE)
}

pub fn open_with(storage: impl Storage + 'static, world: &Arc<World>, passphrase: &[u8]) -> Result<Repository> {
    Repository::open(Arc::new(storage), Arc::clone(world) as Arc<dyn Env>, passphrase, None)
}

/// Opens a repository with the cache in `folder`, which others may use at the same time.
pub fn open_cached(storage: impl Storage + 'static, world: &Arc<World>, folder: &Path) -> Repository {
    open_cached_with(storage, world, PASSPHRASE, folder)
}

pub fn open_cached_with(
    storage: impl Storage + 'static,
    world: &Arc<World>,
    passphrase: &[u8],
    folder: &Path,
) -> Repository {
    Repository::open(Arc::new(storage), Arc::clone(world) as Arc<dyn Env>, passphrase, Some(folder)).expect("open")
}

pub fn options(name: &str) -> SnapshotOptions {
    SnapshotOptions {
        name: name.to_owned(),
        host: "host".to_owned(),
        zone: "UTC".to_owned(),
        tags: BTreeSet::new(),
        write: WriteOptions::default(),
        allow_shrink: false,
        evidence: None,
    }
}

/// A snapshot of `data` as a stream called `name`.
pub fn take(repo: &Repository, name: &str, data: &[u8]) -> Result<Taken> {
    take_with(repo, name, data, &Silent)
}

pub fn take_with(repo: &Repository, name: &str, data: &[u8], report: &dyn Report) -> Result<Taken> {
    let source = Source::Stream { input: Box::new(data), bytes: None };
    snapshot(repo, source, &options(name), report, &Cancel::new())
}

/// The index, to read by.
pub fn indexed(repo: &Repository) -> Indexed<'_> {
    repo.index_to_read(&Silent).expect("index")
}

/// The parts of a snapshot.
pub fn parts_of(repo: &Repository, snapshot: &Snapshot) -> Vec<Part> {
    let indexed = indexed(repo);
    Reader::new(&indexed).expect("a reader").parts(&snapshot.manifest).expect("the list of parts")
}

/// The part that people call `name`.
pub fn part_called(repo: &Repository, snapshot: &Snapshot, name: &str) -> Option<Part> {
    parts_of(repo, snapshot).into_iter().find(|part| part.name.to_string() == name)
}

/// What `text` names among `snapshots`.
pub fn wanted<'s>(repo: &Repository, snapshots: &'s [Snapshot], text: &str) -> Result<(&'s Snapshot, Wanted)> {
    snapshot_and_part(snapshots, text, &TimeZone::UTC, &|snapshot| Ok(parts_of(repo, snapshot)))
}

/// What a snapshot gives back.
pub fn restored(repo: &Repository, snapshot: &Snapshot) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    restore(
        &repo.index_to_read(&Silent)?,
        snapshot,
        &Wanted::Whole,
        Target::Stream(&mut out),
        96 << 20,
        &Silent,
        &Cancel::new(),
    )?;
    Ok(out)
}

pub fn prune_options() -> PruneOptions {
    PruneOptions {
        max_unused: MaxUnused::Percent(0.0),
        allow_empty: false,
        host: "host".to_owned(),
        write: WriteOptions::default(),
    }
}

pub fn pruned(repo: &Repository) -> Result<Plan> {
    prune(repo, &prune_options(), false, &Silent, &Cancel::new())
}

pub fn forget_ids(repo: &Repository, ids: &[alluvium::id::SnapshotId]) -> Result<()> {
    forget::execute(repo, ids, &Silent, &Cancel::new())
}

/// Bytes that look like a dump: `n` rows, some of which depend on `day`.
pub fn dump(n: usize, day: usize) -> Vec<u8> {
    let row = |i: usize| {
        let changed = if i % 97 == day % 97 { day } else { 0 };
        let mixed = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        format!("{i}\tuser{mixed}@example.com\t{}\t{changed}\n", mixed % 1009).into_bytes()
    };
    (0..n + day * 10).flat_map(row).collect()
}

/// Bytes without any pattern.
pub fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; n];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// True when somebody asked for the committed seeds and golden repositories to be written anew.
pub fn regenerating() -> bool {
    std::env::var_os("ALLUVIUM_REGENERATE").is_some()
}
