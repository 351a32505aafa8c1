//! A folder of the local file system (or of a network file system that is mounted).
//!
//! The folder is opened once and everything else is relative to that handle: a repository that is
//! renamed, or whose disk is mounted over, can't turn into another one (or an empty one) half-way.
//!
//! An object is written to `tmp/`, synced, and then moved to its name by a rename that refuses to
//! replace; where the file system has no such rename (NFS), by a hard link, which refuses as well.
//! Then the folder is synced, and so are the parents of folders that this process has not yet seen
//! become durable. So a power loss leaves the whole object or none, and what a killed writer leaves
//! lies in `tmp/`, is never listed, and is swept later ([`Storage::sweep_temporary`]). A living writer that is
//! that slow loses its put, not data.
//!
//! A sync that failed once stays a failure: the kernel reports an error once and then takes the pages for clean, so
//! neither a second sync nor reading the object back proves anything. From then on every write of this [`Local`]
//! fails. A folder is opened before it is changed, since only then its sync reports all errors that follow.
//!
//! Modes: folders 0700, objects 0400 (written once, never again), replaceable objects 0600.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{LISTED_MAX, Listed, NAME_COMPONENTS_MAX, OWN, Storage};
use super::{check_name, check_prefix, too_long, too_many_listed, too_short};
use crate::env::lock;
use crate::error::{Error, Kind, Result};

/// Where objects are while they are written; not part of the repository's names.
const TEMPORARY: &str = "tmp";
/// What an empty disk holds.
const OF_THE_DISK: [&str; 1] = ["lost+found"];
const MODE_FOLDER: Mode = Mode::RWXU;
const MODE_IMMUTABLE: Mode = Mode::RUSR;
const MODE_REPLACEABLE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A repository in a folder.
#[derive(Debug)]
pub struct Local {
    path: PathBuf,
    root: OwnedFd,
    /// Folders whose entry in their parent is known to be on the disk.
    durable_folders: Mutex<BTreeSet<String>>,
    /// The file system has no rename that refuses to replace: hard links do it.
    links_only: AtomicBool,
    temporaries: AtomicU64,
    /// The first sync that failed.
    failed_sync: OnceLock<FailedSync>,
    sync_fault: Option<SyncFault>,
}

/// A sync that failed.
#[derive(Debug)]
struct FailedSync {
    /// The file or folder, as a path from the repository's root.
    synced: String,
    /// The object that was being written or deleted.
    object: String,
    errno: Errno,
}

/// Whether the sync of a file or folder for an object fails, in tests.
struct SyncFault(Box<FailsSync>);

type FailsSync = dyn Fn(&str, &str) -> bool + Send + Sync;

impl fmt::Debug for SyncFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SyncFault")
    }
}

impl Local {
    /// Opens the folder at `path`. Nothing is created, so read-only media can be read.
    ///
    /// # Errors
    /// `NoRepository` when there is no folder at `path`, `Storage` when it can't be opened.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let root = open_folder(rustix::fs::CWD, &path).map_err(|errno| not_a_folder(&path, errno))?;
        Ok(Self {
            path,
            root,
            durable_folders: Mutex::default(),
            links_only: AtomicBool::new(false),
            temporaries: AtomicU64::new(0),
            failed_sync: OnceLock::new(),
            sync_fault: None,
        })
    }

    /// Opens the folder at `path`, after creating it (0700, with its parents) where it is missing.
    ///
    /// # Errors
    /// `NoRepository` when something else than a folder is at `path`, `Storage` when the folder
    /// can't be created or opened.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        make_folders(&path).map_err(|error| match Errno::from_io_error(&error) {
            Some(errno @ (Errno::EXIST | Errno::NOTDIR)) => not_a_folder(&path, errno),
            _ => with_advice(format!("can't create the folder {}", path.display()), error),
        })?;
        Self::open(path)
    }

    /// Like [`create`](Self::create), for a new repository: the folder has to be free for one.
    ///
    /// # Errors
    /// `AlreadyExists` when other things are in the folder, or the folder is inside a repository; those of `create`.
    pub fn create_new(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let taken = |what: String| Error::new(Kind::AlreadyExists, format!("{what}; nothing was changed"));
        if let Ok(absolute) = std::path::absolute(&path) {
            let is_repository = |folder: &&Path| ["config", "keys"].iter().all(|n| folder.join(n).exists());
            if let Some(outer) = absolute.ancestors().skip(1).find(is_repository) {
                let what = format!("{} is inside the repository {}", path.display(), outer.display());
                return Err(taken(what).hint("choose a folder outside of it"));
            }
        }
        let names = std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        let is_own = |name: &String| OWN.contains(&name.as_str());
        let other = names.iter().find(|name| !is_own(name) && !OF_THE_DISK.contains(&name.as_str()));
        if let Some(other) = other.filter(|_| !names.iter().any(is_own)) {
            let what = format!("{} is not empty: there is {}", path.display(), other.escape_debug());
            return Err(taken(what).hint("choose an empty folder, for example one more name after this one"));
        }
        Self::create(path)
    }

    /// Places objects by hard links even where the file system knows an exclusive rename: what a
    /// repository on NFS gets, for tests on any disk.
    #[must_use]
    pub fn with_links_only(self) -> Self {
        self.links_only.store(true, Ordering::Relaxed);
        self
    }

    /// Syncs fail where `fails` says so, by the path from the root of what is synced (`tmp/…`, `packs/4f`, `.`) and the
    /// name of the object: a broken disk, for tests on any disk.
    #[must_use]
    pub fn with_sync_fault(self, fails: impl Fn(&str, &str) -> bool + Send + Sync + 'static) -> Self {
        Self { sync_fault: Some(SyncFault(Box::new(fails))), ..self }
    }

    fn sweep(&self, older_than: Duration) -> io::Result<usize> {
        let mut folder = match open_folder(&self.root, TEMPORARY) {
            Ok(folder) => Dir::new(folder)?,
            Err(Errno::NOENT) => return Ok(0),
            Err(errno) => return Err(errno.into()),
        };
        let now = SystemTime::now();
        let mut swept = 0;
        while let Some(entry) = folder.read() {
            let entry = entry?;
            let found = match rustix::fs::statat(folder.fd()?, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                found => found?,
            };
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(found.st_mtime.max(0) as u64);
            // A time in the future is a clock that disagrees: left alone.
            let is_old = now.duration_since(written).is_ok_and(|age| age >= older_than);
            if !FileType::from_raw_mode(found.st_mode).is_file() || !is_old {
                continue;
            }
            match rustix::fs::unlinkat(folder.fd()?, entry.file_name(), AtFlags::empty()) {
                Ok(()) => swept += 1,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(swept)
    }

    /// Writes and syncs a temporary that holds the `bytes` of the object `name`.
    fn write_temporary(&self, name: &str, bytes: &[u8], mode: Mode) -> io::Result<Temporary<'_>> {
        let mut temporary = self.new_temporary()?;
        temporary.file.write_all(bytes)?;
        if mode != MODE_REPLACEABLE {
            match rustix::fs::fchmod(&temporary.file, mode) {
                // Only a guard against accidents: a file system without modes (FAT, SMB) does without.
                Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.sync(&temporary.file, &temporary.name, name)?;
        Ok(temporary)
    }

    fn new_temporary(&self) -> io::Result<Temporary<'_>> {
        // Hosts that share a network file system share process ids, hence the random part.
        let random = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        let counter = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMPORARY}/{}-{counter}-{random:016x}", std::process::id());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(&self.root, &name, flags, MODE_REPLACEABLE);
        let file = match create() {
            Err(Errno::NOENT) => {
                self.make_folder(TEMPORARY)?;
                create()
            }
            file => file,
        }?;
        Ok(Temporary { local: self, name, file: File::from(file), moved: false })
    }

    /// Makes a folder whose parent exists; false when it exists already.
    fn make_folder(&self, folder: &str) -> io::Result<bool> {
        match rustix::fs::mkdirat(&self.root, folder, MODE_FOLDER) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes the folders above `name`, durably. A folder that another writer just made may not be
    /// on the disk yet, so the first use of each folder by this process syncs its parent as well.
    fn make_parents(&self, name: &str) -> io::Result<()> {
        for (end, _) in name.match_indices('/') {
            let folder = &name[..end];
            let above = open_folder(&self.root, parent(folder))?;
            let is_new = self.make_folder(folder)?;
            if is_new || !lock(&self.durable_folders).contains(folder) {
                self.sync(&above, parent(folder), name)?;
                lock(&self.durable_folders).insert(folder.to_owned());
            }
        }
        Ok(())
    }

    /// Syncs the file or folder at the path `synced` from the root, for `object`.
    fn sync(&self, handle: impl AsFd, synced: &str, object: &str) -> io::Result<()> {
        let is_broken = self.sync_fault.as_ref().is_some_and(|fault| fault.0(synced, object));
        let result = if is_broken { Err(Errno::IO.into()) } else { sync(handle) };
        let Err(error) = result else { return Ok(()) };
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        // Where only room is missing, the temporary goes, and nobody ever saw it: nothing else is in doubt. Network file
        // systems report a full disk here, and prune must be able to go on.
        let is_full = matches!(errno, Errno::NOSPC | Errno::DQUOT) && synced.starts_with(TEMPORARY);
        if !is_full {
            let failed = FailedSync { synced: synced.to_owned(), object: object.to_owned(), errno };
            let _ = self.failed_sync.set(failed);
        }
        Err(error)
    }

    /// Does a write of the object `name`, unless a sync has failed; also one of another thread: it may have been told
    /// the error that this write should have got.
    fn write<T>(&self, verb: &str, name: &str, work: impl FnOnce() -> io::Result<T>) -> Result<T> {
        self.check_synced(verb, name)?;
        let done = work().map_err(|error| self.failed(verb, name, error));
        self.check_synced(verb, name)?;
        done
    }

    /// Refuses to `verb` the object `name` once a sync has failed.
    fn check_synced(&self, verb: &str, name: &str) -> Result<()> {
        let Some(FailedSync { synced, object, errno }) = self.failed_sync.get() else { return Ok(()) };
        let shown = self.path.display();
        let context = if object == name {
            format!("cannot {verb} {name} in {shown}: the sync of {synced} failed")
        } else {
            format!("cannot {verb} {name} in {shown}: the sync of {synced} for {object} failed before")
        };
        Err(Error::storage(context, io::Error::from(*errno))
            .hint("nothing is written any more: check the disk and the kernel's log; when the disk is sound, run it again")
            .with_unknown_durability())
    }

    /// False when the name was taken.
    fn create_object(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        let mut temporary = self.write_temporary(name, bytes, MODE_IMMUTABLE)?;
        self.make_parents(name)?;
        let folder = open_folder(&self.root, parent(name))?;
        let is_new = temporary.claim(name)?;
        // Also of a name that was taken: whoever took it may not have got it onto the disk, and a rename that
        // reports an error may have taken effect. What is found to exist is relied on.
        self.sync(folder, parent(name), name)?;
        Ok(is_new)
    }

    fn replace_object(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut temporary = self.write_temporary(name, bytes, MODE_REPLACEABLE)?;
        self.make_parents(name)?;
        let folder = open_folder(&self.root, parent(name))?;
        temporary.replace(name)?;
        self.sync(folder, parent(name), name)
    }

    fn delete_object(&self, name: &str) -> io::Result<()> {
        let folder = match open_folder(&self.root, parent(name)) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            opened => opened?,
        };
        match rustix::fs::unlinkat(&self.root, name, AtFlags::empty()) {
            // A missing object may be a delete that was killed before it was durable: sync all the same.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::ISDIR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        self.sync(folder, parent(name), name)
    }

    /// An object's file and its size. What is no regular file is no object: it is neither opened nor waited for.
    fn open_object(&self, name: &str) -> Result<(OwnedFd, u64)> {
        check_object_name(name)?;
        let regular_size = |found: rustix::io::Result<rustix::fs::Stat>| match found {
            Ok(found) if FileType::from_raw_mode(found.st_mode).is_file() => Ok(found.st_size as u64),
            Ok(_) => Err(self.missing(name)),
            Err(errno) => Err(self.unreadable(name, errno)),
        };
        // Opening alone has effects on some devices.
        regular_size(rustix::fs::statat(&self.root, name, AtFlags::empty()))?;
        // It may be another file by now: so without waiting for the other end of a pipe.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::openat(&self.root, name, flags, Mode::empty());
        let file = file.map_err(|errno| self.unreadable(name, errno))?;
        let size = regular_size(rustix::fs::fstat(&file))?;
        Ok((file, size))
    }

    /// Reads up to `len` bytes from `offset` into an empty buffer; less only where the file ends.
    fn read(&self, name: &str, file: &OwnedFd, offset: u64, len: usize, bytes: &mut Vec<u8>) -> Result<()> {
        bytes.try_reserve_exact(len).map_err(|error| {
            Error::new(Kind::Storage, format!("no memory for {len} bytes of {name} in {}", self.path.display()))
                .because(error)
        })?;
        while bytes.len() < len {
            let position = offset + bytes.len() as u64;
            match rustix::io::pread(file, spare_capacity(bytes), position) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(self.unreadable(name, errno)),
            }
        }
        // The allocation, and so the last read, may be larger than what was asked for.
        bytes.truncate(len);
        Ok(())
    }

    fn list_folder(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        let mut walk = Walk::default();
        let mut folder = open_folder(&self.root, ".")?;
        for (end, _) in prefix.match_indices('/') {
            // A link that leads back is no empty folder.
            if !walk.enter(&folder)? {
                return Err(Errno::LOOP.into());
            }
            folder = match open_folder(&self.root, &prefix[..end]) {
                Err(Errno::NOENT) => return self.check_absent(&prefix[..end]).map(|()| Vec::new()),
                opened => opened?,
            };
        }
        if !walk.enter(&folder)? {
            return Err(Errno::LOOP.into());
        }
        walk.read(folder, prefix)?;
        Ok(walk.listed)
    }

    /// A folder that could not be opened is an empty one only if it is truly not there: a dangling
    /// symbolic link is a disk that is not mounted, and a deleted repository has no objects to list.
    fn check_absent(&self, prefix: &str) -> io::Result<()> {
        let link = rustix::fs::statat(&self.root, prefix.trim_end_matches('/'), AtFlags::SYMLINK_NOFOLLOW);
        if link.is_ok() || rustix::fs::fstat(&self.root)?.st_nlink == 0 {
            return Err(Errno::NOENT.into());
        }
        Ok(())
    }

    fn missing(&self, name: &str) -> Error {
        Error::new(Kind::NotFound, format!("{name} does not exist in {}", self.path.display()))
    }

    fn unreadable(&self, name: &str, errno: Errno) -> Error {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::ISDIR => self.missing(name),
            _ => self.failed("read", name, errno.into()),
        }
    }

    fn failed(&self, verb: &str, name: &str, error: io::Error) -> Error {
        with_advice(format!("can't {verb} {name} in {}", self.path.display()), error)
    }
}

impl Storage for Local {
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        check_object_name(name)?;
        if self.write("write", name, || self.create_object(name, bytes))? {
            Ok(())
        } else {
            Err(Error::new(Kind::AlreadyExists, format!("{name} exists already in {}", self.path.display())))
        }
    }

    fn put_replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        check_object_name(name)?;
        self.write("replace", name, || self.replace_object(name, bytes))
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.get_into(name, bytes_max, &mut bytes)?;
        Ok(bytes)
    }

    fn get_into(&self, name: &str, bytes_max: u64, buffer: &mut Vec<u8>) -> Result<()> {
        buffer.clear();
        let (file, size) = self.open_object(name)?;
        if size > bytes_max {
            return Err(too_long(name, size, bytes_max));
        }
        self.read(name, &file, 0, size as usize, buffer)?;
        if (buffer.len() as u64) < size {
            // Objects never change: somebody cut the file while it was read.
            return Err(Error::damaged(name, format!("ended after {} of {size} bytes", buffer.len())));
        }
        Ok(())
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        let (file, size) = self.open_object(name)?;
        if offset.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(too_short(name, size, offset, len));
        }
        let mut bytes = Vec::new();
        self.read(name, &file, offset, len, &mut bytes)?;
        if bytes.len() == len {
            Ok(bytes)
        } else {
            // Objects never change: somebody cut the file while it was read.
            Err(too_short(name, offset + bytes.len() as u64, offset, len))
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        check_prefix(prefix)?;
        self.list_folder(prefix)
            .map_err(|error| self.failed("list", if prefix.is_empty() { "/" } else { prefix }, error))
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        check_object_name(name)?;
        match rustix::fs::statat(&self.root, name, AtFlags::empty()) {
            Ok(found) if FileType::from_raw_mode(found.st_mode).is_file() => Ok(Some(found.st_size as u64)),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(self.unreadable(name, errno)),
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_object_name(name)?;
        self.write("delete", name, || self.delete_object(name))
    }

    fn fills_up(&self) -> bool {
        true
    }

    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn identity(&self) -> String {
        std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone()).display().to_string()
    }

    fn sweep_temporary(&self, older_than: Duration) -> Result<usize> {
        self.sweep(older_than).map_err(|error| self.failed("sweep", TEMPORARY, error))
    }
}

/// A file in `tmp/` that goes away unless it becomes an object.
struct Temporary<'a> {
    local: &'a Local,
    name: String,
    file: File,
    moved: bool,
}

impl Temporary<'_> {
    /// Takes `name`; false when somebody else has it.
    fn claim(&mut self, name: &str) -> io::Result<bool> {
        let root = &self.local.root;
        if !self.local.links_only.load(Ordering::Relaxed) {
            match rustix::fs::renameat_with(root, &self.name, root, name, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    self.moved = true;
                    return Ok(true);
                }
                Err(Errno::EXIST) => return Ok(false),
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    self.local.links_only.store(true, Ordering::Relaxed);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        match rustix::fs::linkat(root, &self.name, root, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // NFS sends a request again when the answer got lost, and then reports our own success as EXIST.
            Err(Errno::EXIST) => Ok(rustix::fs::fstat(&self.file)?.st_nlink == 2),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes `name`, whoever had it.
    fn replace(&mut self, name: &str) -> io::Result<()> {
        rustix::fs::renameat(&self.local.root, &self.name, &self.local.root, name)?;
        self.moved = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.moved {
            // What can't be removed now is swept later.
            let _ = rustix::fs::unlinkat(&self.local.root, &self.name, AtFlags::empty());
        }
    }
}

/// A listing under way.
#[derive(Default)]
struct Walk {
    listed: Vec<Listed>,
    /// Entries read so far, whatever they are.
    entries: usize,
    /// The folders from the repository's root to the one that is read, as device and inode. A link may lead back to
    /// one of them: what is in it has a name already, so it is not followed.
    path: Vec<(u64, u64)>,
}

impl Walk {
    /// Puts `folder` at the end of the path; false when it is on the path already.
    fn enter(&mut self, folder: &OwnedFd) -> io::Result<bool> {
        let found = rustix::fs::fstat(folder)?;
        let identity = (found.st_dev, found.st_ino);
        let is_new = !self.path.contains(&identity);
        if is_new {
            self.path.push(identity);
        }
        Ok(is_new)
    }

    /// Adds the objects below `folder`, the end of the path, whose names begin with `prefix`.
    fn read(&mut self, folder: OwnedFd, prefix: &str) -> io::Result<()> {
        let mut folder = Dir::new(folder)?;
        while let Some(entry) = folder.read() {
            let entry = entry?;
            self.entries += 1;
            if self.entries > LISTED_MAX {
                return Err(io::Error::other(too_many_listed()));
            }
            // What has no object's name is not ours: `.`, `..`, `lost+found`, a file browser's traces.
            let Ok(component) = entry.file_name().to_str() else { continue };
            let name = format!("{prefix}{component}");
            if check_object_name(&name).is_err() {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                self.subfolder(folder.fd()?, component, &name)?;
                continue;
            }
            let Some(found) = stat_listed(folder.fd()?, component)? else { continue };
            match FileType::from_raw_mode(found.st_mode) {
                FileType::RegularFile => {
                    let modified = Timestamp::new(found.st_mtime, found.st_mtime_nsec as i32).ok();
                    self.listed.push(Listed { name, size: found.st_size as u64, modified });
                }
                // A symbolic link to a folder, or a file system that does not tell types in listings.
                FileType::Directory => self.subfolder(folder.fd()?, component, &name)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds the objects of the folder called `name`, unless it is too deep to hold any.
    fn subfolder(&mut self, above: impl AsFd, component: &str, name: &str) -> io::Result<()> {
        if name.split('/').count() >= NAME_COMPONENTS_MAX {
            return Ok(());
        }
        let folder = open_folder(above, component)?;
        if self.enter(&folder)? {
            self.read(folder, &format!("{name}/"))?;
            self.path.pop();
        }
        Ok(())
    }
}

/// Looks at what a listing named; `None` when it was deleted since.
fn stat_listed(folder: impl AsFd, component: &str) -> io::Result<Option<rustix::fs::Stat>> {
    match rustix::fs::statat(&folder, component, AtFlags::empty()) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => match rustix::fs::statat(&folder, component, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            // Still there, so it is a symbolic link to nowhere: not a deleted object but a missing disk.
            _ => Err(Errno::NOENT.into()),
        },
        // A link that leads to itself is nobody's disk.
        Err(Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn open_folder(at: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn sync(handle: impl AsFd) -> io::Result<()> {
    match rustix::io::retry_on_intr(|| rustix::fs::fsync(&handle)) {
        Ok(()) => Ok(()),
        // Some network and FUSE file systems refuse to sync a folder, and have nothing to sync there.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) if is_folder(&handle)? => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn is_folder(handle: impl AsFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(handle)?.st_mode).is_dir())
}

/// Makes `path` and the folders above it that are missing, each of them durable. Who made the lowest one that exists may
/// not have got it onto the disk.
fn make_folders(path: &Path) -> io::Result<()> {
    let above = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    if path.is_dir() {
        return match File::open(above) {
            // Who may not read it has not made anything in it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            opened => sync(opened?),
        };
    }
    make_folders(above)?;
    let opened = File::open(above)?;
    match DirBuilder::new().mode(0o700).create(path) {
        // Somebody else was faster.
        Err(_) if path.is_dir() => {}
        made => made?,
    }
    sync(opened)
}

/// The folder of an object or folder, as a path from the repository's root.
fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or(".", |(folder, _)| folder)
}

/// [`check_name`], and `tmp/` is taken: what would be put there, no listing shows.
fn check_object_name(name: &str) -> Result<()> {
    check_name(name)?;
    if name.split('/').next() == Some(TEMPORARY) {
        return Err(Error::new(
            Kind::Usage,
            format!("`{name}` is not an object name: `{TEMPORARY}/` is for temporaries"),
        ));
    }
    Ok(())
}

fn not_a_folder(path: &Path, errno: Errno) -> Error {
    let shown = path.display();
    match errno {
        Errno::NOENT => Error::new(Kind::NoRepository, format!("there is no folder {shown}"))
            .hint("check the path, and that its disk is mounted; `init` makes a new repository"),
        Errno::NOTDIR | Errno::EXIST if path.exists() => {
            Error::new(Kind::NoRepository, format!("{shown} is a file, not a folder"))
                .hint("name the folder of the repository")
        }
        Errno::NOTDIR | Errno::EXIST => Error::new(
            Kind::NoRepository,
            format!("{shown} can't be a folder: a part of this path is a file or a dangling link"),
        )
        .because(io::Error::from(errno))
        .hint("check the path"),
        _ => with_advice(format!("can't open the folder {shown}"), errno.into()),
    }
}

fn with_advice(context: String, error: io::Error) -> Error {
    let advice = Errno::from_io_error(&error).and_then(advice);
    let error = Error::storage(context, error);
    match advice {
        Some(advice) => error.hint(advice),
        None => error,
    }
}

/// What a person can do about a failure of the file system.
fn advice(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::NOSPC | Errno::DQUOT => {
            "the disk or the quota is full; nothing partial was kept; free some space, for example with `prune`"
        }
        Errno::FBIG => "the file is larger than the file system or `ulimit -f` allows",
        Errno::ROFS => {
            "the file system is read-only: remount it writable; if it became so by itself, see the kernel's log"
        }
        Errno::ACCESS | Errno::PERM => {
            "run as the user that owns the repository, or give it to this user; `lsattr` shows immutable files"
        }
        Errno::MFILE | Errno::NFILE => "too many open files: raise `ulimit -n`",
        Errno::IO => "the disk reports errors: see the kernel's log, and copy the repository to another disk",
        Errno::STALE => "the network file system lost this folder: mount it again",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_that_a_person_can_mend_say_how() {
        for (errno, word) in [
            (Errno::NOSPC, "prune"),
            (Errno::DQUOT, "quota"),
            (Errno::ROFS, "remount"),
            (Errno::ACCESS, "owns"),
            (Errno::PERM, "lsattr"),
            (Errno::FBIG, "ulimit -f"),
            (Errno::MFILE, "ulimit -n"),
            (Errno::IO, "kernel"),
        ] {
            let error = with_advice("can't write x in /y".to_owned(), errno.into());
            assert_eq!(error.kind(), Kind::Storage);
            assert!(error.advice().is_some_and(|advice| advice.contains(word)), "{errno}: {:?}", error.advice());
            assert!(std::error::Error::source(&error).is_some(), "{errno} keeps its cause");
        }
    }

    #[test]
    fn an_object_that_vanishes_between_listing_and_looking_is_no_error_but_a_dangling_link_is() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::os::unix::fs::symlink("/nowhere/at/all", folder.path().join("link")).expect("a link");
        let open = open_folder(rustix::fs::CWD, folder.path()).expect("opens");
        assert!(stat_listed(&open, "gone").expect("no error").is_none());
        assert!(stat_listed(&open, "link").is_err());
    }

    #[test]
    fn a_folder_is_synced_into_its_parent_once_a_process() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let local = Local::create(folder.path()).expect("creates");
        local.put_new("packs/4f/a", b"1").expect("puts");
        let known: Vec<String> = lock(&local.durable_folders).iter().cloned().collect();
        assert_eq!(known, ["packs", "packs/4f"]);
    }
}
