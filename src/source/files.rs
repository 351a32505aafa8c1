//! Files, folders and links under given paths, with names that can be restored anywhere.
//!
//! A part's name is the path as it was given, made harmless: relative, separated by `/`, without `.`
//! and `..`. Names are kept as they are otherwise, newlines and all; it is the terminal layer that makes
//! them safe to show.
//!
//! What a person named must be there and readable, or nothing is stored: an empty snapshot that counts as
//! a success is worse than an error. What is found below may be lacking: it is reported as a problem and
//! left out. Links are stored as links, except one that was named itself.
//!
//! Files are opened long after the walk saw them, and others may write to their folders. An [`Opener`]
//! therefore opens only what the walk saw: relative to the folder's handle ([`folders`]), never through
//! a link, without waiting at a pipe, and with the same device and inode. Each name is a single step,
//! so plain `openat` is as strict as `openat2` and exists everywhere.

use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::format::limits::NAME_BYTES_MAX;
use crate::report::{Problem, Report};
use crate::source::folders::{self, Handles, Identity};

/// What a file or folder is told to be that is not the one that the walk saw.
const REPLACED: &str = "it was replaced while the backup ran";

/// Something to store.
#[derive(Clone, Debug)]
pub struct Found {
    /// The part's name: relative, `/`-separated, without `.` and `..`.
    pub name: String,
    /// Where it was found, for messages.
    pub path: PathBuf,
    /// What it is.
    pub kind: FoundKind,
    /// The folder that holds it; `None` for what a person named.
    folder: Option<Arc<Folder>>,
    identity: Identity,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundKind {
    /// A regular file.
    File {
        /// Its length when it was found; it may have another when it is read.
        bytes: u64,
    },
    /// A folder; its content follows on its own.
    Folder {
        /// The permission bits, 12 of them.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Where it points to, as written there.
        target: String,
    },
}

/// A folder that the walk saw.
#[derive(Debug)]
struct Folder {
    /// The folder that holds it; `None` for one that a person named.
    above: Option<Arc<Folder>>,
    /// Its name there; the whole path of one that a person named.
    step: PathBuf,
    identity: Identity,
}

/// Opens files that a walk found.
#[derive(Debug, Default)]
pub struct Opener {
    open: Handles<Identity>,
}

/// A file that is open.
#[derive(Debug)]
pub struct Opened {
    /// To be read.
    pub file: File,
    /// What it was when it was opened.
    before: Stat,
}

impl Opener {
    /// Opens a file, and no other than the one that the walk saw.
    ///
    /// # Errors
    /// Those of `openat`; an error of its own where something else has taken the file's place.
    pub fn open(&mut self, found: &Found) -> io::Result<Opened> {
        // Without O_NONBLOCK the open of a pipe waits until somebody writes into it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = match (&found.folder, found.path.file_name()) {
            (Some(folder), Some(step)) => {
                let folder = self.folder(folder)?;
                rustix::fs::openat(folder, step, flags | OFlags::NOFOLLOW, Mode::empty())
            }
            _ => rustix::fs::openat(CWD, &found.path, flags, Mode::empty()),
        };
        let file = opened.map_err(|errno| match errno {
            Errno::LOOP | Errno::NXIO => io::Error::other(REPLACED),
            errno => errno.into(),
        })?;
        let before = rustix::fs::fstat(&file)?;
        if Identity::of(&before) != found.identity || !FileType::from_raw_mode(before.st_mode).is_file() {
            return Err(io::Error::other(REPLACED));
        }
        Ok(Opened { file: File::from(file), before })
    }

    /// Opens a folder for the first time. Only now it is known which one it is: looking at the place of an
    /// automatic mount does not mount it, opening does.
    fn enter(&mut self, above: Option<Arc<Folder>>, step: PathBuf) -> io::Result<(Arc<Folder>, Arc<OwnedFd>)> {
        let handle = above.as_ref().map(|above| self.folder(above)).transpose()?;
        let opened = open_step(handle.as_ref(), &step)?;
        let identity = Identity::of(&rustix::fs::fstat(&opened)?);
        Ok((Arc::new(Folder { above, step, identity }), self.open.insert(identity, opened)))
    }

    /// A handle of a folder that the walk saw, by those of the folders above it.
    fn folder(&mut self, folder: &Arc<Folder>) -> io::Result<Arc<OwnedFd>> {
        let (mut closed, mut at) = (Vec::new(), Some(folder));
        let mut above = None;
        while let Some(folder) = at {
            above = self.open.get(|identity| *identity == folder.identity);
            if above.is_some() {
                break;
            }
            closed.push(folder);
            at = folder.above.as_ref();
        }
        for folder in closed.into_iter().rev() {
            let opened = open_step(above.as_ref(), &folder.step)?;
            if Identity::of(&rustix::fs::fstat(&opened)?) != folder.identity {
                return Err(io::Error::other(REPLACED));
            }
            above = Some(self.open.insert(folder.identity, opened));
        }
        above.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// Opens a folder by the handle of the one above; one without is opened as a person named it.
fn open_step(above: Option<&Arc<OwnedFd>>, step: &Path) -> io::Result<OwnedFd> {
    let opened = match above {
        Some(above) => folders::open_folder(above, step),
        None => folders::open_named_folder(step),
    };
    opened.map_err(|error| if folders::is_no_folder(&error) { io::Error::other(REPLACED) } else { error })
}

impl Opened {
    /// The permission bits, 12 of them.
    pub fn mode(&self) -> u32 {
        mode(&self.before)
    }

    /// When its content changed last, before it was read.
    pub fn modified(&self) -> Timestamp {
        // A file of a year beyond 9999 is not worth an error.
        Timestamp::new(self.before.st_mtime, self.before.st_mtime_nsec as i32).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// True where its length or its times are others than when it was opened.
    pub fn has_changed(&self) -> bool {
        let state = |stat: &Stat| {
            let modified = (stat.st_mtime, stat.st_mtime_nsec);
            (stat.st_size, modified, (stat.st_ctime, stat.st_ctime_nsec))
        };
        rustix::fs::fstat(&self.file).map_or(true, |after| state(&after) != state(&self.before))
    }
}

/// Everything at and under `paths`, sorted by the bytes of its names.
///
/// # Errors
/// `Usage` for no paths, a path with `..`, and paths that give the same part name; `Source` where one of
/// `paths` does not exist, can't be read, or is no file or folder.
pub fn walk(paths: &[PathBuf], report: &dyn Report) -> Result<Vec<Found>> {
    if paths.is_empty() {
        return Err(Error::new(Kind::Usage, "no path is given"));
    }
    let mut walk = Walk { found: Vec::new(), below: Vec::new(), opener: Opener::default(), report };
    for path in paths {
        walk.named(path)?;
    }
    let mut found = walk.found;
    found.sort_by(|one, other| one.name.cmp(&other.name));
    refuse_conflicts(&found)?;
    Ok(found)
}

/// A warning where copying the `SQLite` file at `path`, which begins with `head`, may lose commits: those
/// that lie in the journal beside it.
pub fn looks_live(path: &Path, head: &[u8]) -> Option<String> {
    if !head.starts_with(b"SQLite format 3\0") {
        return None;
    }
    // SQLite puts its journals beside the file itself, not beside a link to it.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let journal = ["-wal", "-journal"].into_iter().find_map(|suffix| {
        let mut journal = path.clone().into_os_string();
        journal.push(suffix);
        fs::metadata(&journal).is_ok_and(|journal| journal.len() > 0).then_some(journal)
    })?;
    Some(format!(
        "`{}` seems to be in use: `{}` holds changes that the file alone lacks, and copying both is not one moment; \
         store a copy made by `sqlite3 FILE \".backup COPY\"` instead, or close the database first",
        shown(&path),
        shown(Path::new(&journal)),
    ))
}

/// The path, relative and without `.`; empty for `.` and `/`.
fn part_name(path: &Path) -> Result<String> {
    let mut name = String::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                return Err(Error::new(Kind::Usage, format!("`{}` has `..` in it", shown(path)))
                    .hint("give the absolute path, or change into that folder first"));
            }
            Component::Normal(step) => {
                let step = step.to_str().ok_or_else(|| {
                    Error::new(Kind::Source, format!("the name `{}` is not UTF-8; nothing was stored", shown(path)))
                        .hint("rename it, or pipe its content to standard input")
                })?;
                push_step(&mut name, step);
            }
        }
    }
    Ok(name)
}

fn push_step(name: &mut String, step: &str) {
    if !name.is_empty() {
        name.push('/');
    }
    name.push_str(step);
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        Error::new(Kind::Source, format!("`{}` does not exist; nothing was stored", shown(path)))
            .hint("to back up what a command writes, put `--` in front of the command")
    } else {
        Error::new(Kind::Source, format!("`{}` can't be read; nothing was stored", shown(path))).because(error)
    }
}

/// A walk under way.
struct Walk<'w> {
    found: Vec<Found>,
    /// Folders whose content has not been looked at.
    below: Vec<Below>,
    opener: Opener,
    report: &'w dyn Report,
}

/// A folder with its part name and its path for messages.
struct Below {
    name: String,
    path: PathBuf,
    /// The folder that holds it, and its name there; see [`Folder`].
    above: Option<Arc<Folder>>,
    step: PathBuf,
}

impl Walk<'_> {
    /// Adds what a person named, and all that lies below it. A link is followed.
    fn named(&mut self, path: &Path) -> Result<()> {
        let name = part_name(path)?;
        let stat = rustix::fs::stat(path).map_err(|errno| unreadable(path, errno.into()))?;
        let kind = known_kind(&stat).ok_or_else(|| {
            Error::new(Kind::Source, format!("`{}` is neither a file nor a folder; nothing was stored", shown(path)))
                .hint("a pipe can be stored through standard input")
        })?;
        let identity = Identity::of(&stat);
        let is_folder = matches!(kind, FoundKind::Folder { .. });
        // `.` and `/` have no name of their own; only what they hold is stored.
        if !name.is_empty() {
            self.found.push(Found { name: name.clone(), path: path.to_owned(), kind, folder: None, identity });
        }
        if is_folder {
            let named = Below { name, path: path.to_owned(), above: None, step: path.to_owned() };
            self.look_into(named).map_err(|error| unreadable(path, error))?;
        }
        while let Some(below) = self.below.pop() {
            let path = below.path.clone();
            if let Err(error) = self.look_into(below) {
                problem(self.report, &path, format!("this folder can't be read: {error}"));
            }
        }
        Ok(())
    }

    /// Adds what a folder holds. Fails only where nothing of it can be listed.
    fn look_into(&mut self, below: Below) -> io::Result<()> {
        let Below { name, path, above, step } = below;
        let (folder, handle) = self.opener.enter(above, step)?;
        for entry in Dir::read_from(&handle)? {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) => {
                    let error = io::Error::from(errno);
                    problem(self.report, &path, format!("the rest of this folder can't be listed: {error}"));
                    break;
                }
            };
            let step = entry.file_name();
            if step == c"." || step == c".." {
                continue;
            }
            let path = path.join(OsStr::from_bytes(step.to_bytes()));
            match step.to_str() {
                Ok(text) => {
                    let mut name = name.clone();
                    push_step(&mut name, text);
                    self.look_at(name, path, &folder, &handle, step);
                }
                Err(_) => problem(self.report, &path, "its name is not UTF-8; it is left out".to_owned()),
            }
        }
        Ok(())
    }

    /// Adds one entry of a folder.
    fn look_at(&mut self, name: String, path: PathBuf, folder: &Arc<Folder>, handle: &OwnedFd, step: &CStr) {
        if name.len() > NAME_BYTES_MAX {
            let what = format!("its path is longer than {NAME_BYTES_MAX} bytes; it is left out");
            return problem(self.report, &path, what);
        }
        match kind_of(handle, step) {
            Ok((kind, identity)) => {
                let folder = Some(Arc::clone(folder));
                if let FoundKind::Folder { .. } = kind {
                    let step = OsStr::from_bytes(step.to_bytes()).into();
                    self.below.push(Below { name: name.clone(), path: path.clone(), above: folder.clone(), step });
                }
                self.found.push(Found { name, path, kind, folder, identity });
            }
            // Deleted since it was listed: a snapshot a moment later would lack it as well.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => problem(self.report, &path, format!("{error}; it is left out")),
        }
    }
}

/// What an entry of a folder is; the error says why it can't be stored.
fn kind_of(folder: impl AsFd, step: &CStr) -> io::Result<(FoundKind, Identity)> {
    let stat = rustix::fs::statat(&folder, step, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = if FileType::from_raw_mode(stat.st_mode).is_symlink() {
        let target = rustix::fs::readlinkat(&folder, step, Vec::new())?.into_string();
        let target = target.map_err(|_| io::Error::other("this link's target is not UTF-8"))?;
        Some(FoundKind::Link { target })
    } else {
        known_kind(&stat)
    };
    let kind = kind.ok_or_else(|| io::Error::other("this is a socket, a pipe or a device"))?;
    Ok((kind, Identity::of(&stat)))
}

fn known_kind(stat: &Stat) -> Option<FoundKind> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Some(FoundKind::Folder { mode: mode(stat) }),
        FileType::RegularFile => Some(FoundKind::File { bytes: stat.st_size as u64 }),
        _ => None,
    }
}

/// The permission bits, 12 of them.
fn mode(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}

/// Refuses two parts of one name, and parts below one that is no folder: no restore could create both.
fn refuse_conflicts(found: &[Found]) -> Result<()> {
    let conflict = |one: &Found, other: &Found| {
        let what = format!("`{}` and `{}` would be stored under one name", shown(&one.path), shown(&other.path));
        Err(Error::new(Kind::Usage, what).hint("name each file or folder once, or store them in two snapshots"))
    };
    if let Some([one, other, ..]) = found.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return conflict(one, other);
    }
    for part in found {
        for (end, _) in part.name.match_indices('/') {
            let above = found.binary_search_by(|other| other.name.as_str().cmp(&part.name[..end]));
            if let Ok(at) = above
                && !matches!(found[at].kind, FoundKind::Folder { .. })
            {
                return conflict(&found[at], part);
            }
        }
    }
    Ok(())
}

fn problem(report: &dyn Report, path: &Path, what: String) {
    report.problem(Problem { object: shown(path), what, snapshots: Vec::new() });
}

/// A path for a message; bytes that are not UTF-8 are shown by their numbers, so that the file can be found.
fn shown(path: &Path) -> String {
    path.to_str().map_or_else(|| path.as_os_str().as_encoded_bytes().escape_ascii().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_names_lose_what_binds_them_to_a_place() {
        for (path, expected) in
            [(".", ""), ("/", ""), ("./a", "a"), ("/a//b/./c/", "a/b/c"), ("a\\b", "a\\b"), (".a", ".a")]
        {
            assert_eq!(part_name(Path::new(path)).expect("a name"), expected);
        }
        assert_eq!(part_name(Path::new("/a/..")).expect_err("refused").kind(), Kind::Usage);
    }
}
