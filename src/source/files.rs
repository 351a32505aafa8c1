//! Files, folders and links under given paths, with names that can be restored anywhere.
//!
//! A part's name is the path as it was given, made harmless: relative, separated by `/`, without `.`
//! and `..`. Names are kept as they are otherwise, newlines and all; it is the terminal layer that makes
//! them safe to show.
//!
//! What a person named must be there and readable, or nothing is stored: an empty snapshot that counts as
//! a success is worse than an error. What is found below may be lacking: it is reported as a problem and
//! left out. Links are stored as links, except one that was named itself.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

use crate::error::{Error, Kind, Result};
use crate::report::{Problem, Report};

/// Something to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The part's name: relative, `/`-separated, without `.` and `..`.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// What it is.
    pub kind: FoundKind,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundKind {
    /// A regular file.
    File {
        /// The permission bits, 12 of them.
        mode: u32,
        /// When its content changed last.
        modified: Timestamp,
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

/// Everything at and under `paths`, sorted by the bytes of its names.
///
/// # Errors
/// `Usage` for no paths, a path with `..`, and paths that give the same part name; `Source` where one of
/// `paths` does not exist, can't be read, or is no file or folder.
pub fn walk(paths: &[PathBuf], report: &dyn Report) -> Result<Vec<Found>> {
    if paths.is_empty() {
        return Err(Error::new(Kind::Usage, "no path is given"));
    }
    let mut found = Vec::new();
    for path in paths {
        let name = part_name(path)?;
        let kind = named_kind(path)?;
        let mut folders = Vec::new();
        if let FoundKind::Folder { .. } = kind {
            folders.push((name.clone(), path.clone()));
        }
        // `.` and `/` have no name of their own; only what they hold is stored.
        if !name.is_empty() {
            found.push(Found { name, path: path.clone(), kind });
        }
        if let Some((name, path)) = folders.pop() {
            let entries = fs::read_dir(&path).map_err(|error| unreadable(&path, error))?;
            look_into(&name, entries, &mut found, &mut folders, report);
        }
        while let Some((name, path)) = folders.pop() {
            match fs::read_dir(&path) {
                Ok(entries) => look_into(&name, entries, &mut found, &mut folders, report),
                Err(error) => problem(report, &path, format!("this folder can't be read: {error}")),
            }
        }
    }
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

/// What a path is that a person named: a link is followed.
fn named_kind(path: &Path) -> Result<FoundKind> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, error))?;
    known_kind(&metadata).ok_or_else(|| {
        Error::new(Kind::Source, format!("`{}` is neither a file nor a folder; nothing was stored", shown(path)))
            .hint("a pipe can be stored through standard input")
    })
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        Error::new(Kind::Source, format!("`{}` does not exist; nothing was stored", shown(path)))
            .hint("to back up what a command writes, put `--` in front of the command")
    } else {
        Error::new(Kind::Source, format!("`{}` can't be read; nothing was stored", shown(path))).because(error)
    }
}

/// Adds what a folder holds to `found`, and the folders among it to `folders`.
fn look_into(
    folder: &str,
    entries: fs::ReadDir,
    found: &mut Vec<Found>,
    folders: &mut Vec<(String, PathBuf)>,
    report: &dyn Report,
) {
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                problem(report, Path::new(folder), format!("the rest of this folder can't be listed: {error}"));
                return;
            }
        };
        let path = entry.path();
        let Ok(step) = entry.file_name().into_string() else {
            problem(report, &path, "its name is not UTF-8; it is left out".to_owned());
            continue;
        };
        let mut name = folder.to_owned();
        push_step(&mut name, &step);
        match kind_of(&path) {
            Ok(kind) => {
                if let FoundKind::Folder { .. } = kind {
                    folders.push((name.clone(), path.clone()));
                }
                found.push(Found { name, path, kind });
            }
            // Deleted since it was listed: a snapshot a moment later would lack it as well.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => problem(report, &path, format!("{error}; it is left out")),
        }
    }
}

/// What lies at a path; the error says why it can't be stored.
fn kind_of(path: &Path) -> io::Result<FoundKind> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        let target = fs::read_link(path)?.into_os_string().into_string();
        return target
            .map(|target| FoundKind::Link { target })
            .map_err(|_| io::Error::other("this link's target is not UTF-8"));
    }
    known_kind(&metadata).ok_or_else(|| io::Error::other("this is a socket, a pipe or a device"))
}

fn known_kind(metadata: &Metadata) -> Option<FoundKind> {
    let mode = metadata.mode() & 0o7777;
    if metadata.is_dir() {
        Some(FoundKind::Folder { mode })
    } else if metadata.is_file() {
        // A file of a year beyond 9999 is not worth an error.
        let modified = Timestamp::new(metadata.mtime(), metadata.mtime_nsec() as i32).unwrap_or(Timestamp::UNIX_EPOCH);
        Some(FoundKind::File { mode, modified, bytes: metadata.len() })
    } else {
        None
    }
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
