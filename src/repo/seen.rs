//! What this machine has seen of a repository, so that a storage which shows an older state is noticed.
//!
//! Nothing in a repository can prove that it is the newest state: whoever holds the storage can put yesterday's
//! copy back, or take away last night's snapshot. So each machine remembers the newest generation and, for every
//! source, the last snapshot of its chain (its *head*), and compares:
//!
//! ```text
//! repository      is the one that was at this address before
//! generation      must not be lower
//! head            is there; or a higher snapshot of the source follows it in the chain of predecessors
//!                 (then it was forgotten by rules); or this machine has forgotten it
//! ```
//!
//! What a write-only slot signs is a claim. Each of these slots has heads of its own, and its snapshots explain the
//! absence of nobody else's: a stolen passphrase hides no rollback of what others stored, and makes none up.
//!
//! What is missing is told each time, until a person says that it is right. The memory is a file
//! beside the local cache and one for each address in the cache folder; they hold ids and times, no
//! names. Deleting them forgets, and harms nothing. They are replaced durably: a power loss leaves
//! the old or the new content. Behind the content stands its check sum: a flipped bit must neither
//! refuse a backup nor hide an older state, so a memory with a wrong one begins anew, with a warning.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::OFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::format::config;
use crate::format::coordination::{GENERATION_MAX, generation_name};
use crate::format::manifest::{self, Header, SEQUENCE_MAX};
use crate::id::{RepoId, SlotId, SnapshotId};
use crate::report::{Problem, Report};
use crate::storage::Storage;
use crate::transform::hash::stream_digest;

use super::series::{Link, explains_absence};

/// Ids of forgotten snapshots that are remembered at most.
const FORGOTTEN_MAX: usize = 4096;
/// Sources of which a write-only slot's heads are remembered at most: it can name any number of them.
const HEADS_OF_SLOT_MAX: usize = 4096;
/// A memory is shorter: one head for each source, and the forgotten.
const MEMORY_BYTES_MAX: u64 = 64 << 20;

/// The last snapshot of a source: by sequence, and by id among equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Head {
    sequence: u64,
    id: SnapshotId,
    /// For messages.
    time: Timestamp,
}

impl Head {
    /// The head that a snapshot may be. One that nothing can follow is none: it would hide what
    /// comes after it.
    fn of(id: SnapshotId, header: &Header) -> Option<Self> {
        let head = Self { sequence: header.sequence, id, time: header.time };
        Some(head).filter(|head| head.sequence < SEQUENCE_MAX)
    }
}

/// The key of a series, as far as full slots wrote it, or as the write-only slot `writer` did.
fn key_of(series: &[u8; 32], writer: Option<SlotId>) -> String {
    let series = hexadecimal(series);
    writer.map_or(series.clone(), |writer| format!("{series}/{writer}"))
}

/// The write-only slot in the key of a series.
fn writer_of(key: &str) -> Option<SlotId> {
    key.split_once('/')?.1.parse().ok()
}

/// Makes `head` that of `series`, unless a higher one is.
fn raise(heads: &mut BTreeMap<String, Head>, series: String, head: Head) {
    let highest = heads.entry(series).or_insert(head);
    *highest = head.max(*highest);
}

/// The memory's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    generation: u64,
    /// The newest key epoch.
    #[serde(default)]
    epoch: u32,
    /// By [`key_of`].
    heads: BTreeMap<String, Head>,
    /// What this machine has forgotten, the newest last.
    forgotten: Vec<SnapshotId>,
    /// The heads when a person last said that what is missing is right.
    accepted: BTreeMap<String, Head>,
}

/// The snapshots that are rightly not there, as far as this machine knows.
#[derive(Clone, Debug, Default)]
pub struct Forgotten {
    ids: BTreeSet<SnapshotId>,
    accepted: BTreeMap<String, Head>,
}

impl Forgotten {
    /// True when this machine has forgotten the snapshot, or a person has accepted a state without
    /// it.
    pub fn has(&self, series: &[u8; 32], writer: Option<SlotId>, id: SnapshotId, sequence: u64) -> bool {
        let accepted = || self.accepted.get(&key_of(series, writer));
        self.ids.contains(&id) || accepted().is_some_and(|head| sequence <= head.sequence)
    }
}

/// The repository that stood at an address.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    repository: RepoId,
}

/// This machine's memory of one repository at one address.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    file: Option<PathBuf>,
    address: Option<AddressMemory>,
}

/// Where this machine remembers which repository stands at an address.
#[derive(Clone, Debug)]
pub struct AddressMemory {
    /// The file.
    pub file: PathBuf,
    /// The address, for messages.
    pub location: String,
    /// The repository that stands there now.
    pub repository: RepoId,
}

impl AddressMemory {
    /// The repository that stood there before, if it was another one.
    fn replaced(&self) -> io::Result<Option<RepoId>> {
        let known: Option<Known> = read(&self.file)?;
        Ok(known.map(|known| known.repository).filter(|known| *known != self.repository))
    }

    fn describe(&self, before: RepoId) -> String {
        let Self { location, repository, .. } = self;
        format!("another repository than before stands at {location}: id {repository}, was {before}")
    }

    /// Remembers the repository that stands there now.
    fn remember(&self, report: &dyn Report) {
        if let Err(e) = lock(&self.file).and_then(|_held| write(&self.file, &Known { repository: self.repository })) {
            warn_not_kept(&self.file, &e, report);
        }
    }
}

impl Seen {
    /// A memory in `file`; without one nothing is remembered.
    pub fn new(file: Option<PathBuf>, address: Option<AddressMemory>) -> Self {
        Self { file, address }
    }

    /// The newest generation that was seen; 0 when there was none.
    pub fn generation(&self) -> u64 {
        self.state().map(|state| state.generation).filter(|n| *n < GENERATION_MAX).unwrap_or(0)
    }

    /// The newest key epoch that was seen; 0 when there was none.
    pub fn epoch(&self) -> u32 {
        self.state().map_or(0, |state| state.epoch)
    }

    /// Compares the newest key epoch with what was seen, and remembers it if it is newer.
    ///
    /// # Errors
    /// None of its own: a memory that can't be kept is reported.
    pub fn compare_epoch(&self, epoch: u32, report: &dyn Report) -> Result<Option<Problem>> {
        let mut older = None;
        self.change(report, |state| {
            if epoch < state.epoch {
                let what = format!("was seen here, and the newest key epoch is now {epoch}: {OLDER}");
                older = Some(Problem::new(crate::format::epoch::object_name(state.epoch), what));
            }
            state.epoch = state.epoch.max(epoch);
            Ok(())
        })?;
        Ok(older)
    }

    /// True for the newest snapshot of a source that was seen.
    pub fn is_head(&self, id: SnapshotId) -> bool {
        self.state().is_some_and(|state| state.heads.values().any(|head| head.id == id))
    }

    /// The snapshots that are rightly not there, as far as this machine remembers.
    pub fn forgotten(&self) -> Forgotten {
        let State { forgotten, accepted, .. } = self.state().unwrap_or_default();
        Forgotten { ids: forgotten.into_iter().collect(), accepted }
    }

    fn state(&self) -> Option<State> {
        read(self.file.as_deref()?).ok().flatten()
    }

    /// Remembers which repository stands at the address. Warns when that was another one before.
    pub fn remember_repository(&self, report: &dyn Report) {
        let Some(address) = &self.address else { return };
        match read::<Known>(&address.file) {
            Ok(Some(known)) if known.repository == address.repository => {}
            Ok(Some(known)) => report.warn(&format!("{}: {ANOTHER}", address.describe(known.repository))),
            Ok(None) => address.remember(report),
            Err(e) => {
                warn_unreadable(&address.file, &e, report);
                address.remember(report);
            }
        }
    }

    /// That another repository stood at the address before.
    pub fn other_repository(&self) -> Option<Problem> {
        let address = self.address.as_ref()?;
        let before = address.replaced().ok().flatten()?;
        Some(Problem::new(config::OBJECT_NAME, format!("{}: {ANOTHER}", address.describe(before))))
    }

    /// Refuses to write to a repository that has taken the place of another one.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn require_same_repository(&self) -> Result<()> {
        let Some(address) = &self.address else { return Ok(()) };
        match address.replaced() {
            Ok(Some(before)) => Err(Error::new(Kind::Damaged, address.describe(before)).hint(ANOTHER)),
            // An unreadable memory was reported when the repository was opened.
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Compares what the storage shows with what was seen, and remembers what is newer. Returns what is older than it
    /// was: each as a problem with the object that is missing. `writers` has the slots of the headers that write-only
    /// slots signed.
    ///
    /// # Errors
    /// `Storage` when the storage can't be asked for a head. A memory that can't be kept is told to `report`.
    pub fn compare(
        &self,
        storage: &dyn Storage,
        generation: u64,
        headers: &[(SnapshotId, Header)],
        writers: &HashMap<SnapshotId, SlotId>,
        report: &dyn Report,
    ) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        self.change(report, |state| {
            problems = state.compare(storage, generation, headers, writers)?;
            Ok(())
        })?;
        Ok(problems)
    }

    /// A snapshot that this machine has just taken; with the write-only slot `writer`, if that is what it has.
    ///
    /// # Errors
    /// As [`forget`](Self::forget).
    pub fn note(&self, id: SnapshotId, writer: Option<SlotId>, header: &Header, report: &dyn Report) -> Result<()> {
        self.change(report, |state| {
            if let Some(head) = Head::of(id, header) {
                state.raise([(key_of(&header.series, writer), head)]);
            }
            Ok(())
        })
    }

    /// These snapshots are about to be forgotten by this machine: they will not be missed.
    ///
    /// # Errors
    /// None of its own: a memory that can't be kept is told to `report`.
    pub fn forget(&self, ids: &[SnapshotId], report: &dyn Report) -> Result<()> {
        self.change(report, |state| {
            state.heads.retain(|_, head| !ids.contains(&head.id));
            state.forgotten.retain(|id| !ids.contains(id));
            state.forgotten.extend(ids);
            let over = state.forgotten.len().saturating_sub(FORGOTTEN_MAX);
            state.forgotten.drain(..over);
            Ok(())
        })
    }

    /// What is missing is right: the memory begins anew with what the storage shows next.
    ///
    /// # Errors
    /// As [`forget`](Self::forget).
    pub fn accept(&self, report: &dyn Report) -> Result<()> {
        self.accept_repository(report);
        self.change(report, |state| {
            let State { heads, forgotten, mut accepted, .. } = std::mem::take(state);
            for (series, head) in heads {
                raise(&mut accepted, series, head);
            }
            *state = State { forgotten, accepted, ..State::default() };
            Ok(())
        })
    }

    /// The repository that stands at the address now is the right one.
    pub fn accept_repository(&self, report: &dyn Report) {
        if let Some(address) = &self.address {
            address.remember(report);
        }
    }

    /// Reads, changes and replaces the memory, alone among this machine's processes.
    fn change(&self, report: &dyn Report, change: impl FnOnce(&mut State) -> Result<()>) -> Result<()> {
        let Some(file) = &self.file else { return change(&mut State::default()) };
        // Without the lock it is compared all the same: what was seen is known.
        let held = lock(file);
        let (before, unread) = match read::<State>(file) {
            Ok(found) => (found.unwrap_or_default(), None),
            Err(e) => (State::default(), Some(e)),
        };
        let mut state = before.clone();
        change(&mut state)?;
        if let Some(e) = &unread {
            warn_unreadable(file, e, report);
        }
        // What the disk can't give is not replaced: another time it may be readable.
        let is_readable = unread.as_ref().is_none_or(|e| e.kind() == io::ErrorKind::InvalidData);
        let kept = match &held {
            Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
            Ok(_) if is_readable && (state != before || unread.is_some()) => write(file, &state),
            Ok(_) => Ok(()),
        };
        if let Err(e) = kept {
            warn_not_kept(file, &e, report);
        }
        drop(held);
        Ok(())
    }
}

impl State {
    fn compare(
        &mut self,
        storage: &dyn Storage,
        generation: u64,
        headers: &[(SnapshotId, Header)],
        writers: &HashMap<SnapshotId, SlotId>,
    ) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        // Another process of this machine may have seen, since `generation` was read, one that is newer: it is there.
        if generation < self.generation && storage.stat(&generation_name(self.generation))?.is_none() {
            problems.push(Problem::new(
                generation_name(self.generation),
                format!("was seen here, and the newest generation is now {generation}: {OLDER}"),
            ));
        }
        self.generation = self.generation.max(generation);
        let chain = Chain::of(headers, writers);
        let mut missed = HashSet::new();
        for (series, head) in &self.heads {
            if chain.by_id.contains_key(&head.id) || !chain.lacks(series, head) {
                continue;
            }
            // A listing may be behind, and an unreadable manifest has no header: what counts is the name.
            let name = manifest::object_name(head.id);
            if storage.stat(&name)?.is_none_or(|size| size == manifest::FENCE_LEN) {
                problems.push(Problem::new(
                    name,
                    format!("was seen here (taken {}), and neither it nor a successor is there: {OLDER}", head.time),
                ));
                missed.insert(series.clone());
            }
        }
        // What is missed goes on being missed, whatever is stored on top of the older state.
        self.raise(chain.heads.into_iter().filter(|(series, _)| !missed.contains(series)));
        Ok(problems)
    }

    /// Makes each of `heads` that of its series, unless a higher one is. Of a write-only slot only so many are new.
    fn raise(&mut self, heads: impl IntoIterator<Item = (String, Head)>) {
        let mut counts: HashMap<SlotId, usize> = HashMap::new();
        for writer in self.heads.keys().filter_map(|key| writer_of(key)) {
            *counts.entry(writer).or_default() += 1;
        }
        for (key, head) in heads {
            if let Some(writer) = writer_of(&key).filter(|_| !self.heads.contains_key(&key)) {
                let count = counts.entry(writer).or_default();
                if *count >= HEADS_OF_SLOT_MAX {
                    continue;
                }
                *count += 1;
            }
            raise(&mut self.heads, key, head);
        }
    }
}

/// What all these problems mean.
const OLDER: &str = "the storage shows an older state than before. If it was restored or forgotten elsewhere on purpose, \
                     say `alluvium check --accept-older-state`";

/// What to do about another repository.
const ANOTHER: &str = "nothing is written to it until `alluvium check --accept-older-state` says that this is right";

/// The listed snapshots of each series, by their predecessors.
struct Chain<'h> {
    /// Each with the write-only slot that wrote it, if one did.
    by_id: HashMap<SnapshotId, (&'h Header, Option<SlotId>)>,
    heads: BTreeMap<String, Head>,
}

impl<'h> Chain<'h> {
    fn of(headers: &'h [(SnapshotId, Header)], writers: &HashMap<SnapshotId, SlotId>) -> Self {
        let mut chain = Self { by_id: HashMap::new(), heads: BTreeMap::new() };
        for (id, header) in headers {
            let writer = writers.get(id).copied();
            if let Some(head) = Head::of(*id, header) {
                raise(&mut chain.heads, key_of(&header.series, writer), head);
            }
            chain.by_id.insert(*id, (header, writer));
        }
        chain
    }

    /// True when nothing that is listed explains why `head` is not: snapshots of full slots, and of the slot that
    /// wrote it.
    fn lacks(&self, series: &str, head: &Head) -> bool {
        let own = writer_of(series);
        let link = |id| {
            let (header, writer) = self.by_id.get(&id)?;
            let counts = writer.is_none() || *writer == own;
            counts.then_some(Link { sequence: header.sequence, previous: header.previous })
        };
        self.heads.get(series).is_none_or(|newest| !explains_absence(newest.id, link, head.id, head.sequence))
    }
}

/// Writes bytes as lower-case hexadecimal.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all that is written");
        text
    })
}

/// Reads a memory; `None` when there is none.
fn read<T: DeserializeOwned>(file: &Path) -> io::Result<Option<T>> {
    match read_small(file) {
        Ok(bytes) => decode(&bytes).map(Some),
        Err(e) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&e.kind()) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A memory as JSON, a line feed, and the check sum of the JSON in hexadecimal.
fn encode<T: Serialize>(content: &T) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(content)?;
    let sum = check_sum(&bytes);
    bytes.push(b'\n');
    bytes.extend_from_slice(sum.as_bytes());
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let end = bytes.iter().rposition(|byte| *byte == b'\n').ok_or_else(|| damaged("it has no check sum"))?;
    if bytes[end + 1..] != *check_sum(&bytes[..end]).as_bytes() {
        return Err(damaged("it has a wrong check sum"));
    }
    // By its own conversion a text that ends too early is no invalid data.
    serde_json::from_slice(&bytes[..end]).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn check_sum(bytes: &[u8]) -> String {
    hexadecimal(&stream_digest(bytes)[..16])
}

/// The content of a regular file. Whatever else has its name, a pipe among them, is not waited for.
fn read_small(file: &Path) -> io::Result<Vec<u8>> {
    let opened = open_regular(OpenOptions::new().read(true), file)?;
    let mut bytes = Vec::new();
    opened.take(MEMORY_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 {
        0..=MEMORY_BYTES_MAX => Ok(bytes),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long")),
    }
}

fn open_regular(options: &mut OpenOptions, file: &Path) -> io::Result<File> {
    let opened = options.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(file)?;
    if opened.metadata()?.is_file() { Ok(opened) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Replaces a memory durably: when this returns, the new content survives a power loss; before, the
/// old one does.
fn write<T: Serialize>(file: &Path, content: &T) -> io::Result<()> {
    let temporary = file.with_extension("new");
    let mut new = open_regular(OpenOptions::new().create(true).write(true).truncate(true).mode(0o600), &temporary)?;
    new.write_all(&encode(content)?)?;
    new.sync_all()?;
    fs::rename(temporary, file)?;
    match file.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn lock(file: &Path) -> io::Result<File> {
    let name = file.with_extension("lock");
    // The folder may be new, as on a machine that makes its first repository.
    if let Some(folder) = name.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let lock = open_regular(OpenOptions::new().create(true).append(true).mode(0o600), &name)?;
    lock.lock()?;
    Ok(lock)
}

fn warn_not_kept(file: &Path, error: &io::Error, report: &dyn Report) {
    report.warn(&format!(
        "{}: what was seen of the repository can't be remembered, so an older state may go unnoticed: {error}",
        file.display()
    ));
}

fn warn_unreadable(file: &Path, error: &io::Error, report: &dyn Report) {
    report.warn(&format!(
        "{}: what was seen of the repository can't be read: {error}. An older state than before is not noticed now; \
         rollback detection starts anew",
        file.display()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Collect;
    use crate::storage::memory::Memory;

    fn id(n: u8) -> SnapshotId {
        SnapshotId([n; 16])
    }

    /// Snapshot `n` of series `s`, taken at second `n`.
    fn header(n: u8, s: u8, previous: Option<u8>) -> (SnapshotId, Header) {
        let time = Timestamp::from_second(i64::from(n)).expect("a time");
        let (sequence, previous, body) = (u64::from(n), previous.map(id), [0; 32]);
        (id(n), Header { time, series: [s; 32], sequence, bytes: 1, good_bytes: 1, previous, body })
    }

    struct Machine {
        seen: Seen,
        storage: Memory,
        /// Who wrote the snapshots that no full slot did.
        writers: HashMap<SnapshotId, SlotId>,
        _folder: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let seen = Seen::new(Some(folder.path().join("seen.json")), None);
            Self { seen, storage: Memory::new(), writers: HashMap::new(), _folder: folder }
        }

        fn looks(&self, generation: u64, headers: &[(SnapshotId, Header)]) -> Vec<String> {
            let report = Collect::default();
            let problems =
                self.seen.compare(&self.storage, generation, headers, &self.writers, &report).expect("compare");
            assert!(report.warnings().is_empty(), "{:?}", report.warnings());
            problems.into_iter().map(|p| p.object).collect()
        }
    }

    #[test]
    fn an_older_state_is_noticed_until_it_is_accepted() {
        let machine = Machine::new();
        let days = [header(1, 7, None), header(2, 7, Some(1)), header(3, 7, Some(2)), header(4, 8, None)];
        assert!(machine.looks(5, &days[..1]).is_empty());
        assert!(machine.looks(5, &days).is_empty());
        // Both sources, and the generation.
        let older = machine.looks(4, &days[..2]);
        assert_eq!(older.len(), 3, "{older:?}");
        // A new snapshot on top of the older state does not hide it.
        let on_top = [header(1, 7, None), header(2, 7, Some(1)), header(9, 7, Some(2))];
        assert_eq!(machine.looks(5, &on_top), [manifest::object_name(id(3)), manifest::object_name(id(4))]);
        let forgotten = |n: u8, series: u8| machine.seen.forgotten().has(&[series; 32], None, id(n), u64::from(n));
        assert!(!forgotten(3, 7));
        machine.seen.accept(&Collect::default()).expect("accept");
        assert!(forgotten(2, 7) && forgotten(3, 7) && !forgotten(9, 7) && !forgotten(3, 9));
        assert!(machine.looks(4, &on_top).is_empty());
        assert_eq!(machine.looks(4, &on_top[..2]).len(), 1);
    }

    #[test]
    fn what_rules_forget_is_not_missed() {
        let machine = Machine::new();
        assert!(machine.looks(0, &[header(1, 7, None), header(2, 7, Some(1))]).is_empty());
        // 2 was the head; 3 follows it; then rules keep only 3.
        assert!(machine.looks(0, &[header(3, 7, Some(2))]).is_empty());
        // 3 and 4 were forgotten elsewhere, 5 follows 4: the chain is broken, and that is all that can be said.
        assert!(machine.looks(0, &[header(5, 7, Some(4))]).is_empty());
        // This machine forgets the head itself.
        machine.seen.forget(&[id(5)], &Collect::default()).expect("forget");
        assert!(machine.looks(0, &[]).is_empty());
    }

    #[test]
    fn a_listing_that_is_behind_is_no_older_state() {
        let machine = Machine::new();
        machine.storage.put_new(&manifest::object_name(id(2)), &[0; 99]).expect("put");
        assert!(machine.looks(0, &[header(1, 7, None), header(2, 7, Some(1))]).is_empty());
        assert!(machine.looks(0, &[header(1, 7, None)]).is_empty());
        machine.storage.delete(&manifest::object_name(id(2))).expect("delete");
        assert_eq!(machine.looks(0, &[header(1, 7, None)]).len(), 1);
    }

    #[test]
    fn a_memory_that_can_not_be_kept_is_a_warning() {
        let seen = Seen::new(Some(PathBuf::from("/proc/nowhere/seen.json")), None);
        let report = Collect::default();
        assert!(seen.compare(&Memory::new(), 1, &[], &HashMap::new(), &report).expect("goes on").is_empty());
        assert_eq!(report.warnings().len(), 1);
    }

    /// A snapshot that was taken with a clock that was ahead does not stand for those after it.
    #[test]
    fn the_head_is_the_last_of_the_chain_whatever_the_clocks_said() {
        let machine = Machine::new();
        let ahead = |(id, header): (SnapshotId, Header)| (id, Header { time: Timestamp::MAX, ..header });
        let days = [header(1, 7, None), ahead(header(2, 7, Some(1))), header(3, 7, Some(2))];
        assert!(machine.looks(0, &days).is_empty());
        assert_eq!(machine.looks(0, &days[..2]), [manifest::object_name(id(3))]);
    }

    /// Neither does one that nothing can follow.
    #[test]
    fn a_snapshot_with_the_highest_sequence_is_no_head() {
        let machine = Machine::new();
        let highest = |(id, header): (SnapshotId, Header)| (id, Header { sequence: SEQUENCE_MAX, ..header });
        let all = [header(1, 7, None), header(2, 7, Some(1)), highest(header(9, 7, Some(2)))];
        assert!(machine.looks(0, &all).is_empty());
        assert_eq!(machine.looks(0, &[all[0].clone(), all[2].clone()]), [manifest::object_name(id(2))]);
    }

    /// A write-only slot can name any snapshot as its predecessor, and any sequence.
    #[test]
    fn a_claim_of_a_write_only_slot_hides_no_rollback_of_others_and_makes_none_up() {
        let mut machine = Machine::new();
        let days = [header(1, 7, None), header(2, 7, Some(1)), header(3, 7, Some(2))];
        assert!(machine.looks(0, &days).is_empty());
        // Slot 1 follows the head; slot 2 is far ahead of it.
        machine.writers = HashMap::from([(id(9), SlotId([1; 16])), (id(8), SlotId([2; 16]))]);
        let claims = [header(9, 7, Some(3)), header(8, 7, None)];
        let with = |honest: &[(SnapshotId, Header)]| [honest, &claims].concat();
        assert!(machine.looks(0, &with(&days)).is_empty());
        // Rules forget the head elsewhere: 4 explains that.
        let later = [header(1, 7, None), header(4, 7, Some(3))];
        assert!(machine.looks(0, &with(&later)).is_empty());
        assert_eq!(machine.looks(0, &with(&later[..1])), [manifest::object_name(id(4))]);
        // The slot's own chain is watched as well.
        let (own, other) = (claims[..1].to_vec(), claims[1..].to_vec());
        assert_eq!(machine.looks(0, &[later.to_vec(), own].concat()), [manifest::object_name(id(8))]);
        assert_eq!(machine.looks(0, &[later.to_vec(), other].concat()), [manifest::object_name(id(9))]);
    }

    /// However many sources a write-only slot names, the memory stays readable.
    #[test]
    fn a_write_only_slot_has_a_limited_number_of_heads() {
        let mut machine = Machine::new();
        let claim = |n: usize| {
            let (_, header) = header(5, 0, None);
            let mut series = [0; 32];
            series[..8].copy_from_slice(&(n as u64).to_le_bytes());
            (SnapshotId((n as u128 + 1).to_be_bytes()), Header { series, ..header })
        };
        let claims: Vec<_> = (0..HEADS_OF_SLOT_MAX + 10).map(claim).collect();
        machine.writers = claims.iter().map(|(id, _)| (*id, SlotId([1; 16]))).collect();
        assert!(machine.looks(0, &claims).is_empty());
        assert_eq!(machine.seen.state().expect("a memory").heads.len(), HEADS_OF_SLOT_MAX);
        assert!(machine.looks(0, &[header(3, 7, None)]).len() == HEADS_OF_SLOT_MAX, "full slots have room");
        assert!(machine.seen.is_head(id(3)));
    }

    #[test]
    fn an_unreadable_memory_is_a_warning_and_a_missing_one_is_none() {
        let machine = Machine::new();
        assert!(machine.looks(3, &[header(1, 7, None)]).is_empty());
        let file = machine.seen.file.clone().expect("a file");
        fs::write(&file, b"{\"generation\":").expect("write");
        let report = Collect::default();
        assert!(machine.seen.compare(&machine.storage, 1, &[], &HashMap::new(), &report).expect("compare").is_empty());
        assert!(report.warnings()[0].contains("starts anew"), "{:?}", report.warnings());
        // It has begun anew, and is readable.
        assert!(machine.looks(1, &[]).is_empty());
        assert_eq!(machine.looks(0, &[]).len(), 1);
        fs::remove_file(&file).expect("remove");
        assert!(machine.looks(0, &[]).is_empty());
    }

    /// A digit of an id, a sequence or an epoch that became another is still JSON: it would make false
    /// alarms, refuse every backup, or hide an older state.
    #[test]
    fn no_flipped_bit_of_a_memory_is_believed() {
        let machine = Machine::new();
        assert!(machine.looks(3, &[header(1, 7, None), header(2, 8, None)]).is_empty());
        machine.seen.compare_epoch(1, &Collect::default()).expect("compare");
        machine.seen.forget(&[id(9)], &Collect::default()).expect("forget");
        let file = machine.seen.file.clone().expect("a file");
        let known = Known { repository: RepoId([1; 16]) };
        for good in [fs::read(&file).expect("read"), encode(&known).expect("encode")] {
            for bit in 0..good.len() * 8 {
                let mut flipped = good.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let is_damaged = |e: io::Error| e.kind() == io::ErrorKind::InvalidData;
                assert!(decode::<State>(&flipped).is_err_and(is_damaged), "bit {bit}");
                assert!(decode::<Known>(&flipped).is_err_and(is_damaged), "bit {bit}");
            }
            for len in 0..good.len() {
                assert!(decode::<State>(&good[..len]).is_err() && decode::<Known>(&good[..len]).is_err(), "{len}");
            }
        }
        // It begins anew, with a warning: nothing is refused, and the next older state is noticed.
        let good = fs::read(&file).expect("read");
        let at = good.windows(9).position(|w| w == b"\"epoch\":1").expect("the epoch") + 8;
        let flipped: Vec<u8> = good.iter().enumerate().map(|(n, b)| if n == at { b'9' } else { *b }).collect();
        fs::write(&file, flipped).expect("write");
        assert_eq!(machine.seen.epoch(), 0);
        let report = Collect::default();
        assert!(
            machine
                .seen
                .compare(&machine.storage, 3, &[header(1, 7, None)], &HashMap::new(), &report)
                .expect("compare")
                .is_empty()
        );
        assert!(report.warnings()[0].contains("check sum"), "{:?}", report.warnings());
        assert_eq!(machine.looks(2, &[]).len(), 2);
    }

    #[test]
    fn what_this_machine_has_forgotten_is_remembered_up_to_a_limit() {
        let machine = Machine::new();
        let numbered = |n: usize| SnapshotId((n as u128).to_be_bytes());
        let ids: Vec<SnapshotId> = (0..FORGOTTEN_MAX + 2).map(numbered).collect();
        machine.seen.forget(&ids[..2], &Collect::default()).expect("forget");
        machine.seen.forget(&ids[1..3], &Collect::default()).expect("forget");
        assert_eq!(machine.seen.forgotten().ids.len(), 3);
        machine.seen.forget(&ids[3..], &Collect::default()).expect("forget");
        let forgotten = machine.seen.forgotten().ids;
        assert_eq!(forgotten.len(), FORGOTTEN_MAX);
        assert!(!forgotten.contains(&ids[0]) && forgotten.contains(&ids[FORGOTTEN_MAX + 1]));
    }

    #[test]
    fn another_repository_at_an_address_is_refused_until_it_is_accepted() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |n: u8| {
            let file = folder.path().join("address.json");
            let address = AddressMemory { file, location: "/backup".to_owned(), repository: RepoId([n; 16]) };
            Seen::new(None, Some(address))
        };
        let opened = |n: u8| {
            let report = Collect::default();
            at(n).remember_repository(&report);
            report.warnings()
        };
        assert!(opened(1).is_empty() && opened(1).is_empty());
        at(1).require_same_repository().expect("the same");
        assert!(opened(2)[0].contains(&format!("id {}, was {}", RepoId([2; 16]), RepoId([1; 16]))));
        assert_eq!(opened(2).len(), 1, "again");
        let error = at(2).require_same_repository().expect_err("another one");
        assert!(error.kind() == Kind::Damaged && error.to_string().contains("/backup"), "{error}");
        assert!(at(2).other_repository().is_some() && at(1).other_repository().is_none());
        at(1).require_same_repository().expect("the first one is welcome");
        at(2).accept(&Collect::default()).expect("accept");
        at(2).require_same_repository().expect("accepted");
        assert_eq!(opened(1).len(), 1);
        // An unreadable memory is reported once, and begins anew.
        fs::write(folder.path().join("address.json"), b"?").expect("write");
        assert!(opened(1)[0].contains("can't be read"));
        assert!(opened(1).is_empty());
    }
}
