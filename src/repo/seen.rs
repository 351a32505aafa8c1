//! What this machine has seen of a repository, so that a storage which shows an older state is noticed.
//!
//! Nothing in a repository can prove that it is the newest state: whoever holds the storage can put yesterday's
//! copy back, or take away last night's snapshot. So each machine remembers the newest generation and, for every
//! source, the newest snapshot (its *head*), and compares:
//!
//! ```text
//! generation      must not be lower
//! head            is there; or a newer snapshot of the source follows it in the chain of predecessors
//!                 (then it was forgotten by rules); or this machine has forgotten it
//! ```
//!
//! What is missing is told each time, until a person says that it is right. The memory is a file beside the local
//! cache; it holds ids and times, no names. Deleting it forgets, and harms nothing.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::format::coordination::{GENERATION_MAX, generation_name};
use crate::format::manifest::{self, Header};
use crate::id::SnapshotId;
use crate::report::{Problem, Report};
use crate::storage::Storage;

/// The newest snapshot of a source: by time, and by id among equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Head {
    time: Timestamp,
    id: SnapshotId,
}

/// Makes `head` that of `series`, unless a newer one is.
fn newer(heads: &mut BTreeMap<String, Head>, series: String, head: Head) {
    let newest = heads.entry(series).or_insert(head);
    *newest = head.max(*newest);
}

/// The memory's content. A file that can't be read is an empty memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    generation: u64,
    /// By series, in hexadecimal.
    heads: BTreeMap<String, Head>,
}

/// This machine's memory of one repository in one place.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    file: Option<PathBuf>,
}

impl Seen {
    /// A memory in `file`; without one nothing is remembered.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file }
    }

    /// The newest generation that was seen; 0 when there was none.
    pub fn generation(&self) -> u64 {
        self.file
            .as_deref()
            .and_then(|file| Some(read(file).ok()?.generation))
            .filter(|n| *n < GENERATION_MAX)
            .unwrap_or(0)
    }

    /// Compares what the storage shows with what was seen, and remembers what is newer. Returns what is older than it
    /// was: each as a problem with the object that is missing.
    ///
    /// # Errors
    /// `Storage` when the storage can't be asked for a head. A memory that can't be kept is told to `report`.
    pub fn compare(
        &self,
        storage: &dyn Storage,
        generation: u64,
        headers: &[(SnapshotId, Header)],
        report: &dyn Report,
    ) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        self.change(report, |state| {
            problems = state.compare(storage, generation, headers)?;
            Ok(())
        })?;
        Ok(problems)
    }

    /// A snapshot that this machine has just taken.
    ///
    /// # Errors
    /// As [`forget`](Self::forget).
    pub fn note(&self, id: SnapshotId, header: &Header, report: &dyn Report) -> Result<()> {
        self.change(report, |state| {
            newer(&mut state.heads, hexadecimal(&header.series), Head { time: header.time, id });
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
            Ok(())
        })
    }

    /// What is missing is right: the memory begins anew with what the storage shows next.
    ///
    /// # Errors
    /// As [`forget`](Self::forget).
    pub fn accept(&self, report: &dyn Report) -> Result<()> {
        self.change(report, |state| {
            *state = State::default();
            Ok(())
        })
    }

    /// Reads, changes and replaces the memory, alone among this machine's processes.
    fn change(&self, report: &dyn Report, change: impl FnOnce(&mut State) -> Result<()>) -> Result<()> {
        let Some(file) = &self.file else { return change(&mut State::default()) };
        let held = lock(file);
        let (mut state, unread) = match read(file) {
            Ok(state) => (state, None),
            Err(e) => (State::default(), Some(e)),
        };
        let before = state.clone();
        change(&mut state)?;
        // What can't be read is not replaced: another time it may be readable.
        let kept = match (unread, &held) {
            (Some(e), _) => Err(e),
            (None, Err(e)) => Err(std::io::Error::new(e.kind(), e.to_string())),
            (None, Ok(_)) if state != before => write(file, &state),
            (None, Ok(_)) => Ok(()),
        };
        if let Err(e) = kept {
            report.warn(&format!(
                "{}: what was seen of the repository can't be remembered, so an older state may go unnoticed: {e}",
                file.display()
            ));
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
        let chain = Chain::of(headers);
        let mut missed = Vec::new();
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
                missed.push(series.clone());
            }
        }
        for (series, head) in chain.heads {
            // What is missed goes on being missed, whatever is stored on top of the older state.
            if !missed.contains(&series) {
                newer(&mut self.heads, series, head);
            }
        }
        Ok(problems)
    }
}

/// What all these problems mean.
const OLDER: &str = "the storage shows an older state than before. If it was restored or forgotten elsewhere on purpose, \
                     say `alluvium check --accept-older-state`";

/// The listed snapshots of each series, by their predecessors.
struct Chain<'h> {
    by_id: HashMap<SnapshotId, &'h Header>,
    heads: BTreeMap<String, Head>,
}

impl<'h> Chain<'h> {
    fn of(headers: &'h [(SnapshotId, Header)]) -> Self {
        let mut heads: BTreeMap<String, Head> = BTreeMap::new();
        for (id, header) in headers {
            newer(&mut heads, hexadecimal(&header.series), Head { time: header.time, id: *id });
        }
        Self { by_id: headers.iter().map(|(id, header)| (*id, header)).collect(), heads }
    }

    /// True when nothing that is listed explains why `head` is not: no newer snapshot of its series, or a chain of
    /// predecessors that passes it by. A chain that is broken, since one in between was forgotten, explains it.
    fn lacks(&self, series: &str, head: &Head) -> bool {
        let Some(newest) = self.heads.get(series).filter(|newest| newest.time > head.time) else { return true };
        let mut at = newest.id;
        while let Some(header) = self.by_id.get(&at) {
            match header.previous {
                Some(previous) if previous == head.id => return false,
                Some(previous) if header.time > head.time => at = previous,
                _ => return true,
            }
        }
        false
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all that is written");
        text
    })
}

/// Reads the memory; one that does not exist, or is no memory, is empty.
fn read(file: &Path) -> std::io::Result<State> {
    match fs::read(file) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(e) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&e.kind()) => Ok(State::default()),
        Err(e) => Err(e),
    }
}

fn write(file: &Path, state: &State) -> std::io::Result<()> {
    let temporary = file.with_extension("new");
    fs::write(&temporary, serde_json::to_vec(state)?)?;
    fs::rename(temporary, file)
}

fn lock(file: &Path) -> std::io::Result<File> {
    let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(file.with_extension("lock"))?;
    lock.lock()?;
    Ok(lock)
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
        (id(n), Header { time, series: [s; 32], bytes: 1, good_bytes: 1, previous: previous.map(id) })
    }

    struct Machine {
        seen: Seen,
        storage: Memory,
        _folder: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let seen = Seen::new(Some(folder.path().join("seen.json")));
            Self { seen, storage: Memory::new(), _folder: folder }
        }

        fn looks(&self, generation: u64, headers: &[(SnapshotId, Header)]) -> Vec<String> {
            let report = Collect::default();
            let problems = self.seen.compare(&self.storage, generation, headers, &report).expect("compare");
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
        machine.seen.accept(&Collect::default()).expect("accept");
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
        let seen = Seen::new(Some(PathBuf::from("/proc/nowhere/seen.json")));
        let report = Collect::default();
        assert!(seen.compare(&Memory::new(), 1, &[], &report).expect("goes on").is_empty());
        assert_eq!(report.warnings().len(), 1);
    }
}
