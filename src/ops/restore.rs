//! `restore`: a stream to standard output or a file, a snapshot of files into a folder.
//!
//! A file appears under its name when it is whole, verified and durable: it is written beside it under a
//! temporary name, synced, renamed, and the folder synced. Part names come from a manifest and are not
//! trusted: they never lead outside the target, neither by `..` nor through a link.

use std::io::Write;
use std::path::Path;

use crate::env::{Cancel, Env};
use crate::error::{Error, Kind, Result};
use crate::format::manifest::{Part, PartKind};
use crate::format::part::bytes_of;
use crate::id::SnapshotId;
use crate::repo::Indexed;
use crate::repo::reader::Reader;
use crate::repo::snapshots::{Snapshot, digest_of_stream};
use crate::report::{Problem, Report, Unit};

use self::collection::CollectionPlan;
use self::table::TablePlan;
use self::target::{Failure, Place, Tree, Written, inside};
use super::select::{Wanted, only_part, short};

mod collection;
mod definitions;
mod table;
mod target;

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
    /// Parts that could not be restored, or without their permission bits; each was reported as a problem.
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
            let path = if path.is_dir() { &path.join(inside(data.file_name())?) } else { path };
            let place = Place::named(path)?;
            let Written { bytes, without_mode } = work.write(&data, &place, overwrite)?;
            place.sync()?;
            restored.bytes = bytes;
            if let Some(error) = without_mode {
                restored.failed += 1;
                report.problem(Problem::new(data.file_name(), with_cause(&error)));
            }
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
            Self::Stream { parts, .. } => bytes_of(parts.iter().copied()),
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
            Data::Stream { name, parts, kind } => {
                if kind.has_changed() {
                    let name = name.escape_debug();
                    self.report.warn(&format!("`{name}` changed while it was backed up: it may mix two states"));
                }
                self.parts(name, parts, out)
            }
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

    /// Restores files into `folder`: folders, then files, then links, so that nothing is written through
    /// a restored link. A part that is damaged, or that the target does not take, does not stop the others.
    fn tree(&self, parts: &[&Part], folder: &Path, overwrite: bool, restored: &mut Restored) -> Result<()> {
        let mut tree = Tree::at(folder)?;
        restored.parts = 0;
        let order = |part: &&Part| match part.kind {
            PartKind::Folder { .. } => 0,
            PartKind::Link { .. } => 2,
            _ => 1,
        };
        let mut ordered: Vec<&Part> = parts.to_vec();
        ordered.sort_by_key(order);
        let failed = |restored: &mut Restored, part: &str, error: &Error| {
            let is_damaged = error.kind() == Kind::Damaged;
            restored.failed += 1;
            restored.damaged += u64::from(is_damaged);
            let problem = Problem::new(part, with_cause(error));
            self.report.problem(if is_damaged { problem.harming([restored.id]) } else { problem });
        };
        for part in ordered {
            self.cancel.check()?;
            match self.part(part, &mut tree, overwrite) {
                Ok(Written { bytes, without_mode }) => {
                    restored.parts += 1;
                    restored.bytes += bytes;
                    if let Some(error) = without_mode {
                        failed(restored, &part.name.to_string(), &error);
                    }
                }
                Err(Failure::OfPart(error)) => failed(restored, &part.name.to_string(), &error),
                Err(Failure::OfAll(error)) => return Err(error),
            }
        }
        tree.finish(|folder, error| failed(restored, &folder.to_string_lossy(), error))
    }

    /// Restores one part of a tree.
    fn part(&self, part: &Part, tree: &mut Tree<'_>, overwrite: bool) -> Result<Written, Failure> {
        let inside = inside(&part.name.object).map_err(Failure::OfPart)?;
        if let PartKind::Folder { mode } = part.kind {
            return tree.make(&inside, mode).map(|()| Written { bytes: 0, without_mode: None });
        }
        let place = tree.place(&inside)?;
        if overwrite {
            tree.refuse_restored(&place)?;
        }
        let written = self.write(&Data::of(part), &place, overwrite)?;
        if overwrite {
            tree.note_restored(&place);
        }
        Ok(written)
    }
}

/// An error with its cause, for the one line of a problem.
fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
