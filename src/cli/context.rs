//! What every command works with: the options for all of them, the three ways to talk, and the way to the repository.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Once};

use serde_json::Value;

use crate::env::{Cancel, Env, SystemEnv};
use crate::error::Result;
use crate::id::RepoId;
use crate::repo::index::WarningSink;
use crate::repo::open::{CacheOptions, Locked, address_memory};
use crate::repo::parallel::both;
use crate::repo::seen::Seen;
use crate::repo::snapshots::{Readable, Snapshot};
use crate::repo::writer::{LEVEL, WriteOptions};
use crate::repo::{Indexed, Repository};
use crate::report::{Problem, Report};
use crate::storage::address::Address;
use crate::storage::{self, Caller, Storage};

use super::args::Global;
use super::exit::Outcome;
use super::output::Output;
use super::password::{Origins, Passphrase};
use super::report::Reporter;
use super::show;

/// What every command works with.
pub struct Context<'c> {
    /// The options for all commands.
    pub global: &'c Global,
    /// Standard output.
    pub out: &'c mut Output,
    /// Standard error.
    pub report: &'c Reporter,
    /// Pulled by Ctrl-C.
    pub cancel: &'c Cancel,
    /// Clock and entropy.
    pub env: Arc<dyn Env>,
    /// For storages.
    pub caller: Caller,
    /// Receives the warnings of the local cache.
    warn: WarningSink,
    /// That there is no folder for the cache is one warning, however many repositories are opened.
    no_folder: Once,
}

impl<'c> Context<'c> {
    /// A context with the real clock.
    pub fn new(global: &'c Global, out: &'c mut Output, report: &'c Arc<Reporter>, cancel: &'c Cancel) -> Self {
        let warn: WarningSink = {
            let report = Arc::clone(report);
            Arc::new(move |text| report.warn(text))
        };
        let variable = std::env::var("ALLUVIUM_WEBDAV_PASSWORD");
        let webdav_password = variable.ok().filter(|text| !text.is_empty());
        let caller = Caller { webdav_password, hears: Some(Arc::clone(&warn)) };
        Self { global, out, report, cancel, env: Arc::new(SystemEnv), caller, warn, no_folder: Once::new() }
    }

    /// Where the repository is, or shall be.
    ///
    /// # Errors
    /// `Usage` when nobody said, or when it is neither a path nor an address.
    pub fn place(&self) -> Result<Address> {
        Address::parse(self.global.repository.as_deref().unwrap_or_else(|| OsStr::new("")))
    }

    /// Opens the storage that the repository is in.
    ///
    /// # Errors
    /// Those of [`place`](Self::place) and [`storage::open`].
    pub fn storage(&self) -> Result<Arc<dyn Storage>> {
        storage::open(&self.place()?, &self.caller)
    }

    /// Opens the repository. Whether there is one is settled before anybody is asked for a passphrase.
    ///
    /// # Errors
    /// `Usage`, `NoRepository`, `WrongKey`, `Damaged`, `Storage`, and those of [`Origins::read`].
    pub fn open(&self) -> Result<Repository> {
        let locked = Locked::find(self.storage()?)?;
        self.unlock(locked, &self.passphrase(false)?)
    }

    /// The storage at `place`.
    ///
    /// # Errors
    /// Those of [`Address::parse`] and [`storage::open`].
    pub fn storage_at(&self, place: &OsStr) -> Result<Arc<dyn Storage>> {
        storage::open(&Address::parse(place)?, &self.caller)
    }

    /// Opens the repository that was found.
    ///
    /// # Errors
    /// `WrongKey`, `Damaged`.
    pub fn unlock(&self, locked: Locked, passphrase: &[u8]) -> Result<Repository> {
        self.unlock_with(locked, passphrase, false)
    }

    /// As [`open`](Self::open), with a new local cache: the old one may be what is broken. Where other processes use
    /// it, the new one is kept in memory.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_afresh(&self) -> Result<Repository> {
        let locked = Locked::find(self.storage()?)?;
        self.unlock_with(locked, &self.passphrase(false)?, true)
    }

    fn unlock_with(&self, locked: Locked, passphrase: &[u8], fresh: bool) -> Result<Repository> {
        let cache = CacheOptions { folder: self.cache_folder(), fresh, warn: Arc::clone(&self.warn) };
        let repo = locked.open(Arc::clone(&self.env), passphrase, cache)?;
        repo.seen.remember_repository(self.report);
        Ok(repo)
    }

    /// The repository's passphrase; `new` when it is being chosen.
    ///
    /// # Errors
    /// Those of [`Origins::read`].
    pub fn passphrase(&self, new: bool) -> Result<Passphrase> {
        let origins = Origins {
            file: self.global.password_file.as_deref(),
            command: self.global.password_command.as_deref(),
            variable: "ALLUVIUM_PASSWORD",
            option: "--password",
            prompt: "passphrase",
            twice: new,
        };
        origins.read()
    }

    /// Where the cache goes, and the memory of what was seen. Where nobody says, both are off, with a warning: a cache
    /// is never worth a failed backup.
    fn cache_folder(&self) -> Option<PathBuf> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let named = self.global.cache_dir.clone().filter(|path| !path.as_os_str().is_empty());
        let default = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
        let folder = named.or_else(|| Some(default()?.join("alluvium")));
        if folder.is_none() {
            self.no_folder.call_once(|| {
                self.report.warn(
                    "there is no XDG_CACHE_HOME or HOME: the local cache is kept in memory, and this machine does not \
                     remember what it has seen of the repository: an older state would go unnoticed; set --cache-dir",
                );
            });
        }
        folder
    }

    /// Remembers that this machine has made the repository `id` in `storage`: whatever stood there
    /// before is gone.
    pub fn remember_new(&self, id: RepoId, storage: &dyn Storage) {
        let folder = self.cache_folder();
        let address = folder.map(|folder| address_memory(&folder, id, storage));
        Seen::new(None, address).accept_repository(self.report);
    }

    /// Every snapshot, newest first; those that can't be read are told as problems.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot; `Storage`.
    pub fn snapshots(&self, repo: &Repository) -> Result<Vec<Snapshot>> {
        Ok(self.told(repo.snapshots()?))
    }

    /// Every snapshot, and the index to read them by, which are asked for together. That the newest may not be the newest
    /// that there was is told, and keeps nobody from what there is.
    ///
    /// # Errors
    /// Those of [`snapshots`](Self::snapshots).
    pub fn snapshots_to_read<'r>(&self, repo: &'r Repository) -> Result<(Vec<Snapshot>, Indexed<'r>)> {
        let list = || -> Result<_> {
            let listed = repo.list_snapshots()?;
            Ok((repo.snapshots_among(&listed)?, listed))
        };
        let (indexed, found) = both(repo.storage.as_ref(), || repo.index_to_read(self.report), list);
        let ((found, listed), indexed) = (found?, indexed?);
        for problem in repo.older_among(&listed, indexed.generation, self.report)? {
            self.report.warn(&format!("{}: {}", problem.object, problem.what));
        }
        let mut snapshots = self.told(found);
        repo.mark_distrusted(&mut snapshots, &indexed.state)?;
        Ok((snapshots, indexed))
    }

    fn told(&self, (snapshots, unreadable): Readable<Snapshot>) -> Vec<Snapshot> {
        for (id, error) in unreadable {
            let object = crate::format::manifest::object_name(id);
            self.report.problem(Problem::new(object, &error).harming([id]));
        }
        snapshots
    }

    /// Tells what this machine had seen and is gone. That is damage, whatever else the command came to.
    pub fn older_than_seen(&self, problems: Vec<Problem>) -> Outcome {
        let outcome = if problems.is_empty() { Outcome::Done } else { Outcome::Damage };
        for problem in problems {
            self.report.problem(problem);
        }
        outcome
    }

    /// Memory and compression of work that was not told a level.
    pub fn write_options(&self) -> WriteOptions {
        WriteOptions { memory_bytes: self.global.memory, level: LEVEL }
    }

    /// A time as it is shown.
    pub fn time(&self, time: jiff::Timestamp) -> String {
        show::time(time, &self.global.timezone)
    }

    /// The head of a column of times.
    pub fn time_head(&self) -> String {
        format!("time ({})", show::zone_name(&self.global.timezone))
    }

    /// Prints the one document of a command, with the problems and warnings that came up.
    pub fn document(&mut self, mut document: Value) {
        self.report.end_task();
        self.report.add_heard(&mut document);
        self.out.document(&document);
    }

    /// A closing line; data as far as people are concerned, and left out with `--quiet`.
    pub fn closing(&mut self, text: &str) {
        self.report.end_task();
        if !self.global.quiet {
            self.out.line(text);
        }
    }
}

/// This host's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A value as JSON. What is printed are plain structs, which always have a JSON form.
pub fn to_value(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("results have string keys only")
}
