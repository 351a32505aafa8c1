//! `restore`: a stream to standard output or a file, a snapshot of files into a folder.
//!
//! A file appears under its name when it is whole, verified and durable: it is written beside it under a
//! temporary name, synced, renamed, and the folder synced. Part names come from a manifest and are not
//! trusted: they never lead outside the target, neither by `..` nor through a link.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use crate::env::{Cancel, Env};
use crate::error::{Error, Kind, Result};
use crate::format::manifest::{Part, PartKind};
use crate::id::{PackId, SnapshotId};
use crate::repo::Repository;
use crate::repo::reader::Reader;
use crate::repo::snapshots::Snapshot;
use crate::report::{Problem, Report, Unit};

use super::select::only_part;

/// Where to.
pub enum Target<'t> {
    /// A stream; one part only.
    Stream(&'t mut dyn Write),
    /// A file for one part, a folder for a snapshot of files.
    Path {
        /// The file or folder.
        path: &'t Path,
        /// Existing files are replaced; without it they are an error.
        overwrite: bool,
    },
}

/// What was restored.
#[derive(Debug, serde::Serialize)]
pub struct Restored {
    /// The snapshot.
    pub id: SnapshotId,
    /// Parts written.
    pub parts: u64,
    /// Plain bytes written.
    pub bytes: u64,
    /// Parts that could not be restored; each was told as a problem.
    pub failed: u64,
    /// Those of them that are damaged.
    pub damaged: u64,
}

/// Restores a part, or a whole snapshot when `part` is `None`.
///
/// # Errors
/// `Damaged` naming the object: nothing unverified was written; `Usage` when several parts go to a stream;
/// `AlreadyExists` without `overwrite`; `Storage` for a full or unwritable target; `Interrupted`.
pub fn restore(
    repo: &Repository,
    snapshot: &Snapshot,
    part: Option<&Part>,
    target: Target<'_>,
    memory_bytes: usize,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<Restored> {
    let indexed = repo.index_to_read(report)?;
    let reader = Reader::new(&indexed)?;
    let work = Work { reader: &reader, env: repo.env.as_ref(), memory_bytes, report, cancel };
    let mut restored = Restored { id: snapshot.id, parts: 1, bytes: 0, failed: 0, damaged: 0 };
    report.task("Restoring", Unit::Bytes, Some(part.map_or_else(|| snapshot.manifest.bytes(), |p| p.digest.bytes)));
    match target {
        Target::Stream(out) => {
            let part = part.map_or_else(|| only_part(snapshot), Ok)?;
            work.stream(part, out)?;
            restored.bytes = part.digest.bytes;
        }
        // A folder with all that lies below it.
        Target::Path { path, overwrite } if part.is_some_and(|p| matches!(p.kind, PartKind::Folder { .. })) => {
            let folder = part.map_or("", |p| &p.name);
            let below =
                |p: &&Part| p.name.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            let parts: Vec<Part> = snapshot.manifest.parts.iter().filter(below).cloned().collect();
            work.tree(&parts, path, overwrite, &mut restored)?;
        }
        Target::Path { path, overwrite } => match part.or_else(|| single(snapshot, path)) {
            Some(part) => {
                let inside = path
                    .is_dir()
                    .then(|| inside(path, part.name.rsplit('/').next().unwrap_or_default()))
                    .transpose()?;
                work.part(part, inside.as_deref().unwrap_or(path), overwrite)?;
                restored.bytes = part.digest.bytes;
            }
            None => work.tree(&snapshot.manifest.parts, path, overwrite, &mut restored)?,
        },
    }
    Ok(restored)
}

/// The part of a snapshot that is one stream or one file; several files keep their names and go into a folder.
fn single<'s>(snapshot: &'s Snapshot, path: &Path) -> Option<&'s Part> {
    match &snapshot.manifest.parts[..] {
        [part] if part.kind == PartKind::Stream => Some(part),
        [part] if matches!(part.kind, PartKind::File { .. }) && !path.is_dir() => Some(part),
        _ => None,
    }
}

struct Work<'w> {
    reader: &'w Reader<'w>,
    env: &'w dyn Env,
    memory_bytes: usize,
    report: &'w dyn Report,
    cancel: &'w Cancel,
}

impl Work<'_> {
    fn stream(&self, part: &Part, out: &mut dyn Write) -> Result<()> {
        self.data(part, &mut |bytes| {
            out.write_all(bytes).map_err(|e| Error::storage("writing the restored data failed", e))
        })?;
        out.flush().map_err(|e| Error::storage("writing the restored data failed", e))
    }

    fn data(&self, part: &Part, out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.reader.stream(&part.recipe, part.digest, self.memory_bytes, self.report, self.cancel, out).map_err(|e| {
            let hint = e.advice().is_none() && e.kind() == Kind::Damaged;
            let e = e.during(format!("restoring `{}`", part.name.escape_debug()));
            if !hint {
                return e;
            }
            e.hint(
                "nothing unverified came out; `alluvium check --read-data` tells what is harmed, a new snapshot of the \
                     same data heals what did not change since, and an older snapshot may be whole",
            )
        })
    }

    /// Writes one part to `path`: whole and durable, or not at all.
    fn part(&self, part: &Part, path: &Path, overwrite: bool) -> Result<()> {
        match &part.kind {
            PartKind::Folder { .. } => match fs::symlink_metadata(path) {
                Ok(found) if !found.is_dir() => Err(in_the_way(path)),
                _ => make_folders(path),
            },
            PartKind::Link { target } => {
                refuse_existing(path, overwrite)?;
                let _ = fs::remove_file(path);
                std::os::unix::fs::symlink(target, path).map_err(|e| failed(path, e))
            }
            PartKind::Stream | PartKind::File { .. } => self.file(part, path, overwrite),
        }
    }

    fn file(&self, part: &Part, path: &Path, overwrite: bool) -> Result<()> {
        refuse_existing(path, overwrite)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // A random name of its own; PackId is merely the random id at hand.
        let temporary = folder.join(format!(".alluvium-{}.part", PackId::random(self.env)));
        let written = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)
                .map_err(|e| failed(&temporary, e))?;
            self.data(part, &mut |bytes| file.write_all(bytes).map_err(|e| failed(&temporary, e)))?;
            if let PartKind::File { mode, modified } = part.kind {
                file.set_permissions(Permissions::from_mode(mode & 0o777)).map_err(|e| failed(&temporary, e))?;
                let _ = file.set_modified(SystemTime::from(modified));
            }
            file.sync_all().map_err(|e| failed(&temporary, e))?;
            refuse_existing(path, overwrite)?;
            fs::rename(&temporary, path).map_err(|e| failed(path, e))?;
            File::open(folder).and_then(|f| f.sync_all()).map_err(|e| failed(folder, e))
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Restores files into `folder`: folders, then files, then links, so that nothing is written through
    /// a restored link. One damaged file does not stop the others.
    fn tree(&self, parts: &[Part], folder: &Path, overwrite: bool, restored: &mut Restored) -> Result<()> {
        make_folders(folder)?;
        restored.parts = 0;
        let order = |part: &&Part| match part.kind {
            PartKind::Folder { .. } => 0,
            PartKind::File { .. } | PartKind::Stream => 1,
            PartKind::Link { .. } => 2,
        };
        let mut ordered: Vec<&Part> = parts.iter().collect();
        ordered.sort_by_key(order);
        for part in &ordered {
            self.cancel.check()?;
            let done = inside(folder, &part.name).and_then(|path| {
                make_parents(folder, &path)?;
                self.part(part, &path, overwrite)
            });
            match done {
                Ok(()) => {
                    restored.parts += 1;
                    restored.bytes += part.digest.bytes;
                }
                Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Usage | Kind::AlreadyExists) => {
                    restored.failed += 1;
                    restored.damaged += u64::from(e.kind() == Kind::Damaged);
                    let problem = Problem::new(part.name.clone(), &e);
                    let damaged = e.kind() == Kind::Damaged;
                    self.report.problem(if damaged { problem.harming([restored.id]) } else { problem });
                }
                Err(e) => return Err(e),
            }
        }
        // Modes last, and from the deepest: a read-only folder takes no files.
        for part in ordered.iter().rev() {
            if let PartKind::Folder { mode } = part.kind
                && let Ok(path) = inside(folder, &part.name)
                && fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir())
            {
                let _ = fs::set_permissions(path, Permissions::from_mode(mode & 0o777));
            }
        }
        Ok(())
    }
}

/// The path of a part below `folder`.
fn inside(folder: &Path, name: &str) -> Result<PathBuf> {
    let relative = Path::new(name);
    let plain = relative.components().all(|c| matches!(c, Component::Normal(_)));
    if plain && !name.is_empty() && !name.contains('\0') {
        Ok(folder.join(relative))
    } else {
        Err(Error::new(Kind::Usage, format!("part `{}` has a name that leads outside the target", name.escape_debug()))
            .hint("restore it by itself (SNAP:PART -o FILE)"))
    }
}

/// Makes the folders between `folder` and `path`, and refuses to pass through a link.
fn make_parents(folder: &Path, path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let mut at = folder.to_owned();
    for component in parent.strip_prefix(folder).unwrap_or(Path::new("")).components() {
        at.push(component);
        match fs::symlink_metadata(&at) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(in_the_way(&at)),
            Err(_) => make_folders(&at)?,
        }
    }
    Ok(())
}

/// A link, or a file, where a folder must be: nothing is written through it.
fn in_the_way(path: &Path) -> Error {
    Error::new(Kind::Usage, format!("{} is in the way: not a folder", path.display()))
}

fn make_folders(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| failed(path, e))
}

fn refuse_existing(path: &Path, overwrite: bool) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Err(Error::new(Kind::AlreadyExists, format!("{} is a folder", path.display()))),
        Ok(_) if !overwrite => {
            Err(Error::new(Kind::AlreadyExists, format!("{} exists; nothing was written", path.display()))
                .hint("choose another path, or say --overwrite"))
        }
        _ => Ok(()),
    }
}

fn failed(path: &Path, e: std::io::Error) -> Error {
    let kind = e.kind();
    let error = Error::storage(format!("{} can't be written", path.display()), e);
    match kind {
        ErrorKind::StorageFull => {
            error.hint("the disk is full: make room, or restore elsewhere; nothing incomplete was left")
        }
        ErrorKind::NotFound => error.hint("its folder does not exist: make it, or check the path"),
        _ => error,
    }
}
