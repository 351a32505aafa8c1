//! How the library talks: it counts, it names problems, it tells which task runs. It never prints.
//!
//! The same engine serves the command line, a daemon and the tests; each brings its own [`Report`].

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::env::lock;

/// What can be counted. Tests assert work by these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Bytes read from the source.
    SourceBytes,
    /// Chunks cut from the source.
    Chunks,
    /// Chunks that were not stored before.
    NewChunks,
    /// Plain bytes of those.
    NewBytes,
    /// Bytes of packs written, headers and padding included.
    StoredBytes,
    /// Packs written.
    Packs,
    /// Chunks found where the previous snapshot predicted them, without scanning for a cut.
    PredictedChunks,
    /// Index lookups that the in-memory filter answered without touching the disk.
    FilterMisses,
    /// Bytes written out by a restore.
    RestoredBytes,
    /// Requests for pack ranges.
    PackReads,
    /// Bytes fetched from packs.
    PackReadBytes,
    /// Blobs that a restore decoded since chunks are differences to them.
    DecodedBases,
    /// Blobs opened and verified by a check.
    VerifiedBlobs,
    /// Packs looked at by a check or a prune.
    CheckedPacks,
    /// Objects deleted.
    Deleted,
}

/// What a task's progress counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Packs, snapshots, index objects.
    Things,
}

/// Something wrong that did not stop the work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    /// The object's name in the repository, or the path of a source.
    pub object: String,
    /// What is wrong, in words.
    pub what: String,
    /// The snapshots that are harmed, as ids, where known.
    pub snapshots: Vec<String>,
}

impl Problem {
    /// A problem with an object. An error's own text names the object already; that is not said twice.
    pub fn new(object: impl Into<String>, what: impl std::fmt::Display) -> Self {
        let (object, what) = (object.into(), what.to_string());
        let what = what.strip_prefix(&format!("{object}: ")).map_or(what.clone(), str::to_owned);
        Self { object, what, snapshots: Vec::new() }
    }

    /// The snapshots that it harms.
    #[must_use]
    pub fn harming(mut self, snapshots: impl IntoIterator<Item = impl ToString>) -> Self {
        self.snapshots = snapshots.into_iter().map(|s| s.to_string()).collect();
        self
    }
}

/// The library's only way to say something while it works.
pub trait Report: Send + Sync {
    /// Adds `n` to a counter.
    fn count(&self, counter: Counter, n: u64);
    /// A problem that did not stop the work.
    fn problem(&self, problem: Problem);
    /// A task begins; `total` is its size where known.
    fn task(&self, name: &str, unit: Unit, total: Option<u64>);
    /// The current task advanced to `done`.
    fn progress(&self, done: u64);
    /// A sentence that a person may want to read.
    fn note(&self, text: &str);
    /// A sentence that a person should read.
    fn warn(&self, text: &str);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Report for Silent {
    fn count(&self, _: Counter, _: u64) {}
    fn problem(&self, _: Problem) {}
    fn task(&self, _: &str, _: Unit, _: Option<u64>) {}
    fn progress(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}

/// Remembers everything: for tests, and for results that are printed at the end.
#[derive(Debug, Default)]
pub struct Collect {
    counts: Mutex<BTreeMap<Counter, u64>>,
    problems: Mutex<Vec<Problem>>,
    warnings: Mutex<Vec<String>>,
}

impl Collect {
    /// The value of a counter.
    pub fn get(&self, counter: Counter) -> u64 {
        lock(&self.counts).get(&counter).copied().unwrap_or(0)
    }

    /// The problems so far.
    pub fn problems(&self) -> Vec<Problem> {
        lock(&self.problems).clone()
    }

    /// The warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        lock(&self.warnings).clone()
    }
}

impl Report for Collect {
    fn count(&self, counter: Counter, n: u64) {
        *lock(&self.counts).entry(counter).or_default() += n;
    }
    fn problem(&self, problem: Problem) {
        lock(&self.problems).push(problem);
    }
    fn task(&self, _: &str, _: Unit, _: Option<u64>) {}
    fn progress(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn warn(&self, text: &str) {
        lock(&self.warnings).push(text.to_owned());
    }
}
