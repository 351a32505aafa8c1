//! What is restored into: folders by their handles, and files and links in them.
//!
//! Others may write to the target meanwhile. So nothing is done by a path: folders are opened step by
//! step, files and links are created relative to a folder's handle, and no link is followed except in
//! the path that a person named. This also reaches places whose path is longer than the system takes.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::format::manifest::PartKind;
use crate::id::PackId;
use crate::source::folders::{Handles, Identity, is_no_folder, open_folder, open_named_folder};

use super::{Data, Work};

/// Why a part could not be restored, and whether the others can be.
pub(super) enum Failure {
    /// The others can be.
    OfPart(Error),
    /// Nothing further can succeed.
    OfAll(Error),
}

impl Failure {
    /// A failure of the target at `path`.
    fn target(path: &Path, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let errno = Errno::from_io_error(&error);
        let of_all = matches!(errno, Some(Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS));
        let error = failed(path, error);
        if of_all { Self::OfAll(error) } else { Self::OfPart(error) }
    }

    /// A failure to read from the repository. Of one part where its data is damaged.
    fn repository(error: Error) -> Self {
        if error.kind() == Kind::Damaged { Self::OfPart(error) } else { Self::OfAll(error) }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let (Failure::OfPart(error) | Failure::OfAll(error)) = failure;
        error
    }
}

/// A name in an open folder.
pub(super) struct Place<'p> {
    folder: Arc<OwnedFd>,
    name: &'p OsStr,
    /// For messages.
    path: PathBuf,
}

/// What was written.
pub(super) struct Written {
    /// Plain bytes.
    pub bytes: u64,
    /// Why it lacks its permission bits, where it does; only its owner may use it then.
    pub without_mode: Option<Error>,
}

impl<'p> Place<'p> {
    /// The place that a person named; links in its folder's path are followed.
    pub fn named(path: &'p Path) -> Result<Self> {
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(Error::new(Kind::NotFound, format!("there is no folder {}", path.display()))
                .hint("make it, or leave the last `/` out to restore to a file of this name"));
        }
        let Some(name) = path.file_name() else {
            return Err(Error::new(Kind::Usage, format!("{} has no name of its own", path.display())));
        };
        let folder = open_named_folder(folder_of(path)).map_err(|e| failed(path, e))?;
        Ok(Self { folder: Arc::new(folder), name, path: path.to_owned() })
    }

    /// Which file has the name now, if any.
    fn identity(&self) -> Option<Identity> {
        let found = rustix::fs::statat(&self.folder, self.name, AtFlags::SYMLINK_NOFOLLOW);
        found.ok().map(|found| Identity::of(&found))
    }

    /// Makes the place's entry in its folder durable.
    pub fn sync(&self) -> Result<()> {
        sync_folder(&self.folder).map_err(|e| failed(folder_of(&self.path), e))
    }

    fn refuse_existing(&self, overwrite: bool) -> Result<(), Failure> {
        let shown = self.path.display();
        let refuse = |what: String, hint: Option<&str>| {
            let error = Error::new(Kind::AlreadyExists, what);
            Err(Failure::OfPart(if let Some(hint) = hint { error.hint(hint) } else { error }))
        };
        let found = match rustix::fs::statat(&self.folder, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => FileType::from_raw_mode(found.st_mode),
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(Failure::target(&self.path, errno)),
        };
        match found {
            FileType::Directory => refuse(format!("{shown} is a folder"), None),
            FileType::RegularFile | FileType::Symlink if overwrite => Ok(()),
            FileType::RegularFile | FileType::Symlink => {
                refuse(format!("{shown} exists; nothing was written"), Some("choose another path, or say --overwrite"))
            }
            // A device or a pipe would be replaced by a file, not written to.
            _ => refuse(
                format!("{shown} is a device, a pipe or a socket; nothing was written"),
                Some("leave -o out, and send standard output there"),
            ),
        }
    }
}

impl Work<'_> {
    /// Writes what becomes one file or link to `place`: whole and durable, or not at all. Its entry in the folder is
    /// durable only after the folder was synced.
    pub(super) fn write(&self, data: &Data<'_>, place: &Place<'_>, overwrite: bool) -> Result<Written, Failure> {
        place.refuse_existing(overwrite)?;
        // A random name of its own; PackId is merely the random id at hand.
        let temporary = format!(".alluvium-{}.part", PackId::random(self.env));
        let written = match data {
            Data::Stream { kind: PartKind::Link { target }, .. } => link(target, &temporary, place),
            _ => self.file(data, &temporary, place),
        };
        let moved = written.and_then(|written| {
            place.refuse_existing(overwrite)?;
            rustix::fs::renameat(&place.folder, &temporary, &place.folder, place.name)
                .map_err(|errno| Failure::target(&place.path, errno))?;
            Ok(written)
        });
        if moved.is_err() {
            let _ = rustix::fs::unlinkat(&place.folder, &temporary, AtFlags::empty());
        }
        moved
    }

    /// Writes a file called `temporary` beside `place`, and syncs it.
    fn file(&self, data: &Data<'_>, temporary: &str, place: &Place<'_>) -> Result<Written, Failure> {
        let target = |error: io::Error| Failure::target(&place.path, error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let created = rustix::fs::openat(&place.folder, temporary, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(created.map_err(|errno| target(errno.into()))?);
        let (mut bytes, mut refused) = (0, None);
        let read = self.data(data, &mut |piece| {
            bytes += piece.len() as u64;
            file.write_all(piece).map_err(|e| {
                // The error that the reader hands on says no more whose it was.
                refused = Some(e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error));
                failed(&place.path, e)
            })
        });
        match (read, refused) {
            (Ok(()), _) => {}
            (Err(_), Some(error)) => return Err(target(error)),
            (Err(error), None) => return Err(Failure::repository(error)),
        }
        let mut without_mode = None;
        if let Data::Stream { kind: PartKind::File { mode, modified, .. }, .. } = data {
            let set = rustix::fs::fchmod(&file, permissions(*mode));
            without_mode = set.err().map(|errno| no_mode(&place.path, errno));
            let _ = file.set_modified(SystemTime::from(*modified));
        }
        file.sync_all().map_err(target)?;
        Ok(Written { bytes, without_mode })
    }
}

fn link(target: &str, temporary: &str, place: &Place<'_>) -> Result<Written, Failure> {
    rustix::fs::symlinkat(target, &place.folder, temporary).map_err(|errno| match errno {
        Errno::PERM => {
            let error = failed(&place.path, errno.into());
            Failure::OfPart(error.hint("this file system has no symbolic links, or does not let this user make any"))
        }
        errno => Failure::target(&place.path, errno),
    })?;
    Ok(Written { bytes: 0, without_mode: None })
}

/// A folder that a snapshot of files is restored into, with handles of some folders below it.
pub(super) struct Tree<'t> {
    path: &'t Path,
    root: Arc<OwnedFd>,
    open: Handles<PathBuf>,
    /// Folders in which something was created, and those that are parts, with their permission bits.
    used: BTreeMap<PathBuf, Option<u32>>,
    /// The files and links that were restored over what there was.
    restored: HashSet<Identity>,
}

impl<'t> Tree<'t> {
    /// Opens the folder that a person named, and makes it where it is missing.
    pub fn at(path: &'t Path) -> Result<Self> {
        let missing = path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
        let missing: Vec<&Path> = missing.collect();
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| failed(path, e))?;
        for made in missing {
            let above = folder_of(made);
            open_named_folder(above).and_then(|above| sync_folder(&above)).map_err(|e| failed(above, e))?;
        }
        let root = Arc::new(open_named_folder(path).map_err(|e| failed(path, e))?);
        Ok(Self { path, root, open: Handles::default(), used: BTreeMap::new(), restored: HashSet::new() })
    }

    /// Refuses to replace what this restore has put there: a file system may take the names of two parts for one, as
    /// where `A` and `a` are the same.
    pub fn refuse_restored(&self, place: &Place<'_>) -> Result<(), Failure> {
        if place.identity().is_none_or(|there| !self.restored.contains(&there)) {
            return Ok(());
        }
        let what = format!("{} is another part of the snapshot, restored just before", place.path.display());
        Err(Failure::OfPart(
            Error::new(Kind::AlreadyExists, what)
                .hint("the target takes two names for one: restore this part by itself (SNAP:PART -o FILE)"),
        ))
    }

    /// Notes what was restored to `place`.
    pub fn note_restored(&mut self, place: &Place<'_>) {
        self.restored.extend(place.identity());
    }

    /// The place of the part that lies at `inside` ([`inside`]), with all folders above it.
    pub fn place<'p>(&mut self, inside: &'p Path) -> Result<Place<'p>, Failure> {
        let (above, name) = (inside.parent().unwrap_or(Path::new("")), inside.file_name().unwrap_or_default());
        let folder = self.folder(above, true)?;
        self.used.entry(above.to_owned()).or_default();
        Ok(Place { folder, name, path: self.path.join(inside) })
    }

    /// Makes the folder at `inside`; it gets its permission bits at the end ([`finish`](Self::finish)).
    pub fn make(&mut self, inside: &Path, mode: u32) -> Result<(), Failure> {
        self.folder(inside, true)?;
        self.used.insert(inside.to_owned(), Some(mode));
        Ok(())
    }

    /// Opens the folder at `inside`. With `make` it and those above are made where they are missing.
    fn folder(&mut self, inside: &Path, make: bool) -> Result<Arc<OwnedFd>, Failure> {
        let mut closed = Vec::new();
        let mut above = Arc::clone(&self.root);
        for folder in inside.ancestors().take_while(|folder| !folder.as_os_str().is_empty()) {
            if let Some(open) = self.open.get(|path| path == folder) {
                above = open;
                break;
            }
            closed.push(folder);
        }
        for folder in closed.into_iter().rev() {
            let path = || self.path.join(folder);
            let step = Path::new(folder.file_name().unwrap_or_default());
            let mut opened = open_folder(&above, step);
            if make && opened.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
                match rustix::fs::mkdirat(&above, step, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(Failure::target(&path(), errno)),
                }
                self.used.entry(folder.parent().unwrap_or(Path::new("")).to_owned()).or_default();
                opened = open_folder(&above, step);
            }
            let opened = opened.map_err(|e| {
                if is_no_folder(&e) { Failure::OfPart(in_the_way(&path())) } else { Failure::target(&path(), e) }
            })?;
            above = self.open.insert(folder.to_owned(), opened);
        }
        Ok(above)
    }

    /// Gives the folders their permission bits and makes what was created in them durable, the deepest first: a
    /// read-only folder takes no files. `problem` gets each folder that has failed.
    pub fn finish(mut self, mut problem: impl FnMut(&Path, &Error)) -> Result<()> {
        for (folder, mode) in std::mem::take(&mut self.used).into_iter().rev() {
            let mut failure = |failure| match failure {
                Failure::OfPart(error) => {
                    problem(&folder, &error);
                    Ok(())
                }
                Failure::OfAll(error) => Err(error),
            };
            let path = self.path.join(&folder);
            let handle = match self.folder(&folder, false) {
                Ok(handle) => handle,
                Err(e) => {
                    failure(e)?;
                    continue;
                }
            };
            if let Some(mode) = mode.map(permissions) {
                let has_mode = rustix::fs::fstat(&handle).map(|found| Mode::from_raw_mode(found.st_mode) & PERMISSIONS);
                if has_mode != Ok(mode)
                    && let Err(errno) = rustix::fs::fchmod(&handle, mode)
                {
                    failure(Failure::OfPart(no_mode(&path, errno)))?;
                }
            }
            if let Err(e) = sync_folder(&handle) {
                failure(Failure::target(&path, e))?;
            }
        }
        Ok(())
    }
}

/// Where a part lies below the target.
pub(super) fn inside(name: &str) -> Result<PathBuf> {
    let relative = Path::new(name);
    let plain = relative.components().all(|c| matches!(c, Component::Normal(_)));
    if plain && !name.is_empty() && !name.contains('\0') {
        // Without doubled separators: one folder has one path.
        Ok(relative.components().collect())
    } else {
        Err(Error::new(Kind::Usage, format!("part `{}` has a name that leads outside the target", name.escape_debug()))
            .hint("restore it by itself (SNAP:PART -o FILE)"))
    }
}

/// Read, write, execute, for owner, group and others.
const PERMISSIONS: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO);

/// The bits that are restored: those that run a program as another user are not.
fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode) & PERMISSIONS
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder(folder: impl AsFd) -> io::Result<()> {
    match rustix::fs::fsync(folder) {
        // Some network and FUSE file systems refuse to sync a folder, and have nothing to sync there.
        Ok(()) | Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A link, or a file, where a folder must be: nothing is written through it.
fn in_the_way(path: &Path) -> Error {
    Error::new(Kind::Usage, format!("{} is in the way: not a folder", path.display()))
}

fn no_mode(path: &Path, errno: Errno) -> Error {
    let what = format!("{} was restored without its permission bits", path.display());
    Error::storage(what, errno.into())
}

fn failed(path: &Path, e: io::Error) -> Error {
    let kind = e.kind();
    let error = Error::storage(format!("{} can't be written", path.display()), e);
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            error.hint("the disk is full: make room, or restore elsewhere; nothing incomplete was left")
        }
        ErrorKind::NotFound => error.hint("its folder does not exist: make it, or check the path"),
        ErrorKind::InvalidFilename => {
            error.hint("the file system does not take such a long name: restore it by itself (SNAP:PART -o FILE)")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_concerns_the_whole_target_ends_a_restore() {
        let ends = |errno: Errno| matches!(Failure::target(Path::new("x"), errno), Failure::OfAll(_));
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ROFS] {
            assert!(ends(errno), "{errno:?}");
        }
        for errno in [
            Errno::NAMETOOLONG,
            Errno::INVAL,
            Errno::ILSEQ,
            Errno::PERM,
            Errno::ACCESS,
            Errno::EXIST,
            Errno::NOTDIR,
            Errno::FBIG,
            Errno::OPNOTSUPP,
        ] {
            assert!(!ends(errno), "{errno:?}");
        }
        assert!(matches!(Failure::repository(Error::damaged("packs/x", "gone")), Failure::OfPart(_)));
        for kind in [Kind::Storage, Kind::Interrupted, Kind::Denied, Kind::WrongKey] {
            assert!(matches!(Failure::repository(Error::new(kind, "")), Failure::OfAll(_)), "{kind:?}");
        }
    }

    #[test]
    fn bits_that_run_programs_as_another_user_are_not_restored() {
        assert_eq!(permissions(0o6755).as_raw_mode(), 0o755);
    }
}
