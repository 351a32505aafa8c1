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
use crate::repo::Indexed;
use crate::repo::reader::Reader;
use crate::repo::snapshots::{Snapshot, digest_of_stream};
use crate::report::{Problem, Report, Unit};

use self::collection::CollectionPlan;
use self::table::TablePlan;
use super::select::{Wanted, only_part, short};

mod collection;
mod definitions;
mod table;

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

/// Restores what is `wanted` of a snapshot.
///
/// # Errors
/// `Damaged` naming the object: nothing unverified was written; `Usage` when several parts go to a stream;
/// `AlreadyExists` without `overwrite`; `Storage` for a full or unwritable target; `Interrupted`.
pub fn restore(
    indexed: &Indexed<'_>,
    snapshot: &Snapshot,
    wanted: &Wanted,
    target: Target<'_>,
    memory_bytes: usize,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<Restored> {
    let reader = Reader::new(indexed)?;
    let work = Work { reader: &reader, env: indexed.repo.env.as_ref(), memory_bytes, report, cancel };
    if let Some(before) = snapshot.manifest.shrunk_from {
        report.warn(&format!(
            "snapshot {} is flagged: it has {} bytes, the last good one of `{}` had {before}; `alluvium snapshots` shows that one",
            short(snapshot),
            snapshot.manifest.bytes(),
            snapshot.manifest.source
        ));
    }
    let mut restored = Restored { id: snapshot.id, parts: 1, bytes: 0, failed: 0, damaged: 0 };
    let listed = match wanted {
        Wanted::Part(Part { kind, .. }) if !matches!(kind, PartKind::Folder { .. }) => Vec::new(),
        _ => reader.parts(&snapshot.manifest)?,
    };
    let data = match wanted {
        Wanted::Whole => whole(snapshot, &listed, &target)?,
        Wanted::Part(Part { kind: PartKind::Folder { .. }, .. }) => None,
        Wanted::Part(part) => Some(Data::of(part)),
        Wanted::Collection { part, narrow } => {
            Some(Data::Collection(CollectionPlan::make(&work, snapshot, &listed, part, *narrow)?))
        }
        Wanted::Table { name, narrow } => Some(Data::Table(TablePlan::make(&work, snapshot, &listed, name, *narrow)?)),
    };
    report.task("Restoring", Unit::Bytes, Some(data.as_ref().map_or_else(|| snapshot.manifest.bytes(), Data::bytes)));
    match (target, data) {
        (Target::Stream(out), Some(data)) => restored.bytes = work.stream(&data, out)?,
        (Target::Stream(_), None) => {
            return Err(only_part(snapshot, &listed).err().unwrap_or_else(|| no_folder(snapshot)));
        }
        (Target::Path { path, overwrite }, Some(data)) => {
            let inside = path.is_dir().then(|| inside(path, data.file_name())).transpose()?;
            restored.bytes = work.part(&data, inside.as_deref().unwrap_or(path), overwrite)?;
        }
        (Target::Path { path, overwrite }, None) => {
            // A folder with all that lies below it.
            let folder = if let Wanted::Part(part) = wanted { part.name.object.as_str() } else { "" };
            let below = |p: &&Part| {
                folder.is_empty()
                    || p.name.object.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let parts: Vec<&Part> = listed.iter().filter(below).collect();
            work.tree(&parts, path, overwrite, &mut restored)?;
        }
    }
    Ok(restored)
}

/// The data of a snapshot that is one stream or one file; several files keep their names and go into a folder.
fn whole<'d>(snapshot: &'d Snapshot, parts: &'d [Part], target: &Target<'_>) -> Result<Option<Data<'d>>> {
    let manifest = &snapshot.manifest;
    if let Some(whole) = manifest.whole {
        if whole != digest_of_stream(parts) {
            let what = "its parts are not those that its digest was computed of";
            return Err(Error::damaged(format!("snapshot {}", short(snapshot)), what)
                .hint("its parts can be restored one by one (SNAP:PART)"));
        }
        let name = manifest.source.clone();
        return Ok(Some(Data::Stream { name, parts: parts.iter().collect(), kind: &PartKind::Stream }));
    }
    match (target, parts) {
        (Target::Stream(_), _) => only_part(snapshot, parts).map(|part| Some(Data::of(part))),
        (Target::Path { path, .. }, [part @ Part { kind: PartKind::File { .. }, .. }]) if !path.is_dir() => {
            Ok(Some(Data::of(part)))
        }
        _ => Ok(None),
    }
}

fn no_folder(snapshot: &Snapshot) -> Error {
    Error::new(Kind::Usage, format!("a folder of snapshot {} can't go to standard output", short(snapshot)))
        .hint("restore it with -o")
}

/// What becomes one file.
enum Data<'d> {
    /// A part, or all parts of a stream.
    Stream {
        /// For messages.
        name: String,
        /// One after the other.
        parts: Vec<&'d Part>,
        kind: &'d PartKind,
    },
    /// What recreates a table.
    Table(TablePlan<'d>),
    /// A collection of an archive.
    Collection(CollectionPlan<'d>),
}

impl<'d> Data<'d> {
    fn of(part: &'d Part) -> Self {
        Self::Stream { name: part.name.to_string(), parts: vec![part], kind: &part.kind }
    }

    /// Plain bytes; of a table and of a collection about.
    fn bytes(&self) -> u64 {
        match self {
            Self::Stream { parts, .. } => parts.iter().map(|part| part.digest.bytes).sum(),
            Self::Table(plan) => plan.bytes(),
            Self::Collection(plan) => plan.bytes(),
        }
    }

    /// Its name in a folder.
    fn file_name(&self) -> &str {
        match self {
            Self::Stream { name, .. } => name.rsplit('/').next().unwrap_or_default(),
            Self::Table(plan) => plan.name(),
            Self::Collection(plan) => plan.name(),
        }
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
    /// Returns the bytes written.
    fn stream(&self, data: &Data<'_>, out: &mut dyn Write) -> Result<u64> {
        let failed = |e| Error::storage("writing the restored data failed", e);
        let mut written = 0;
        self.data(data, &mut |bytes| {
            written += bytes.len() as u64;
            out.write_all(bytes).map_err(failed)
        })?;
        out.flush().map_err(failed)?;
        Ok(written)
    }

    fn data(&self, data: &Data<'_>, out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match data {
            Data::Stream { name, parts, .. } => self.parts(name, parts, out),
            Data::Table(plan) => plan.write(self, out),
            Data::Collection(plan) => plan.write(self, out),
        }
    }

    /// Parts one after the other; `name` is for messages.
    fn parts(&self, name: &str, parts: &[&Part], out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.reader.stream(parts, self.memory_bytes, self.report, self.cancel, out).map_err(|e| {
            let hint = e.advice().is_none() && e.kind() == Kind::Damaged;
            let e = e.during(format!("restoring `{}`", name.escape_debug()));
            if !hint {
                return e;
            }
            e.hint(
                "nothing unverified came out; `alluvium check --read-data` tells what is harmed, a new snapshot of the \
                     same data heals what did not change since, and an older snapshot may be whole",
            )
        })
    }

    /// Writes what becomes one file, folder or link to `path`: whole and durable, or not at all. Returns its bytes.
    fn part(&self, data: &Data<'_>, path: &Path, overwrite: bool) -> Result<u64> {
        match data {
            Data::Stream { kind: PartKind::Folder { .. }, .. } => match fs::symlink_metadata(path) {
                Ok(found) if !found.is_dir() => Err(in_the_way(path)),
                _ => make_folders(path).map(|()| 0),
            },
            Data::Stream { kind: PartKind::Link { target }, .. } => {
                refuse_existing(path, overwrite)?;
                let _ = fs::remove_file(path);
                std::os::unix::fs::symlink(target, path).map_err(|e| failed(path, e))?;
                Ok(0)
            }
            _ => self.file(data, path, overwrite),
        }
    }

    fn file(&self, data: &Data<'_>, path: &Path, overwrite: bool) -> Result<u64> {
        refuse_existing(path, overwrite)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // A random name of its own; PackId is merely the random id at hand.
        let temporary = folder.join(format!(".alluvium-{}.part", PackId::random(self.env)));
        let mut bytes_written = 0;
        let written = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)
                .map_err(|e| failed(&temporary, e))?;
            self.data(data, &mut |bytes| {
                bytes_written += bytes.len() as u64;
                file.write_all(bytes).map_err(|e| failed(&temporary, e))
            })?;
            if let Data::Stream { kind: PartKind::File { mode, modified }, .. } = data {
                file.set_permissions(Permissions::from_mode(mode & 0o777)).map_err(|e| failed(&temporary, e))?;
                let _ = file.set_modified(SystemTime::from(*modified));
            }
            file.sync_all().map_err(|e| failed(&temporary, e))?;
            refuse_existing(path, overwrite)?;
            fs::rename(&temporary, path).map_err(|e| failed(path, e))?;
            File::open(folder).and_then(|f| f.sync_all()).map_err(|e| failed(folder, e))
        })();
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written.map(|()| bytes_written)
    }

    /// Restores files into `folder`: folders, then files, then links, so that nothing is written through
    /// a restored link. One damaged file does not stop the others.
    fn tree(&self, parts: &[&Part], folder: &Path, overwrite: bool, restored: &mut Restored) -> Result<()> {
        make_folders(folder)?;
        restored.parts = 0;
        let order = |part: &&Part| match part.kind {
            PartKind::Folder { .. } => 0,
            PartKind::Link { .. } => 2,
            _ => 1,
        };
        let mut ordered: Vec<&Part> = parts.to_vec();
        ordered.sort_by_key(order);
        for part in &ordered {
            self.cancel.check()?;
            let done = inside(folder, &part.name.object).and_then(|path| {
                make_parents(folder, &path)?;
                self.part(&Data::of(part), &path, overwrite)
            });
            match done {
                Ok(_) => {
                    restored.parts += 1;
                    restored.bytes += part.digest.bytes;
                }
                Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Usage | Kind::AlreadyExists) => {
                    restored.failed += 1;
                    restored.damaged += u64::from(e.kind() == Kind::Damaged);
                    let problem = Problem::new(part.name.to_string(), &e);
                    let damaged = e.kind() == Kind::Damaged;
                    self.report.problem(if damaged { problem.harming([restored.id]) } else { problem });
                }
                Err(e) => return Err(e),
            }
        }
        // Modes last, and from the deepest: a read-only folder takes no files.
        for part in ordered.iter().rev() {
            if let PartKind::Folder { mode } = part.kind
                && let Ok(path) = inside(folder, &part.name.object)
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
        // A device or a pipe would be replaced by a file, not written to.
        Ok(found) if !found.is_file() && !found.is_symlink() => {
            let what = format!("{} is a device, a pipe or a socket; nothing was written", path.display());
            Err(Error::new(Kind::AlreadyExists, what).hint("leave -o out, and send standard output there"))
        }
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
