//! The cache file: opened, proven to be ours, or begun anew; and what its failures mean.
//!
//! A file of another repository, of another schema, or with damage that shows at once is deleted
//! and begun anew: it is only a cache. Damage that shows later marks the file (`<file>.damaged`), and
//! the next opening deletes it. But deleting a database that another process has open can
//! mix two of them up (sqlite.org, "How To Corrupt An `SQLite` Database File", 4.2). So whoever has the file open
//! holds a shared lock on `<file>.lock`, and only who gets it exclusively may delete.
//!
//! Memory: `SQLite` gets [`PAGE_CACHE_KIB`] a connection, two connections; the operating system
//! caches the rest, and gives it back when memory is short. No mmap: mapped pages would count as
//! ours, and a read error would be a signal instead of an error.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, ffi};

use super::rows::check_sum;
use crate::error::{Error, Kind};
use crate::format::Malformed;
use crate::id::RepoId;

/// Marks the file as ours: "ALVM".
const APPLICATION_ID: i64 = 0x414c_564d;
/// Raised whenever [`SCHEMA`] or what the columns mean changes.
const SCHEMA_VERSION: i64 = 5;
/// Page cache of one connection.
const PAGE_CACHE_KIB: usize = 8 << 10;
/// Ends the name of the empty file that marks a cache file as useless.
const MARK: &str = ".damaged";
/// How long to wait for another process that writes. Adding a million blobs takes a few seconds.
const BUSY_TIMEOUT: Duration = Duration::from_mins(2);

/// See the head of `index.rs`. Block numbers are never given out twice (AUTOINCREMENT): the filter relies on it.
const SCHEMA: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
    CREATE TABLE objects (
        number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, author BLOB NOT NULL, packs INTEGER NOT NULL,
        sum INTEGER NOT NULL);
    CREATE TABLE packs (
        number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, session BLOB NOT NULL,
        author BLOB NOT NULL, time INTEGER NOT NULL, key BLOB NOT NULL, digest BLOB NOT NULL, blobs INTEGER NOT NULL, raw_bytes INTEGER NOT NULL, stored_bytes INTEGER NOT NULL,
        sum INTEGER NOT NULL);
    CREATE TABLE listed (object INTEGER, pack INTEGER, PRIMARY KEY (object, pack)) WITHOUT ROWID;
    CREATE TABLE keys (
        id BLOB PRIMARY KEY, epoch INTEGER NOT NULL, wrapped BLOB NOT NULL, sum INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE blocks (
        number INTEGER PRIMARY KEY AUTOINCREMENT, pack INTEGER NOT NULL, offset INTEGER NOT NULL,
        sum INTEGER NOT NULL, entries BLOB NOT NULL);
    CREATE INDEX blocks_of_pack ON blocks (pack);
    CREATE TABLE places (place INTEGER PRIMARY KEY);
    CREATE TABLE filter (number INTEGER PRIMARY KEY, sum INTEGER NOT NULL, bits BLOB NOT NULL);
    CREATE TABLE features (feature INTEGER PRIMARY KEY, blob BLOB NOT NULL);
    CREATE TABLE manifests (
        number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, sum INTEGER NOT NULL, sealed BLOB NOT NULL);
";

/// What goes wrong inside the index, before it becomes the library's error.
#[derive(Debug)]
pub(super) enum Fault {
    /// `SQLite` says so.
    Sqlite(rusqlite::Error),
    /// What the cache holds can't be what was put in.
    Damage(String),
    /// The file is another repository's, or has another schema.
    Foreign,
    /// Anything else.
    Other(Error),
}

/// The result inside the index.
pub(super) type Inner<T> = Result<T, Fault>;

impl From<rusqlite::Error> for Fault {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sqlite(e)
    }
}

impl From<Malformed> for Fault {
    fn from(e: Malformed) -> Self {
        Self::Damage(e.0)
    }
}

impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        Self::Other(e)
    }
}

impl Fault {
    /// True when the content of the file is to blame.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Other(_) | Self::Foreign => false,
            Self::Sqlite(rusqlite::Error::SqliteFailure(e, _)) => {
                // The SQL is fixed: an error in it, or a broken constraint, means that the schema or the rows
                // are not ours. A file that the system lets us write and SQLite does not has a damaged header.
                [
                    ErrorCode::DatabaseCorrupt,
                    ErrorCode::NotADatabase,
                    ErrorCode::ConstraintViolation,
                    ErrorCode::TooBig,
                    ErrorCode::TypeMismatch,
                    // A damaged length asks for memory that there is not.
                    ErrorCode::OutOfMemory,
                ]
                .contains(&e.code)
                    || [ffi::SQLITE_ERROR, ffi::SQLITE_READONLY, ffi::SQLITE_FORMAT, ffi::SQLITE_INTERNAL]
                        .contains(&e.extended_code)
                    || [ffi::SQLITE_IOERR_SHORT_READ, ffi::SQLITE_IOERR_CORRUPTFS].contains(&e.extended_code)
            }
            // A value of another type or length than was written.
            Self::Sqlite(_) | Self::Damage(_) => true,
        }
    }

    /// True when the file or its disk is to blame, so that a database in memory can answer instead.
    pub(super) fn is_of_file(&self) -> bool {
        !matches!(self, Self::Other(_))
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let damaged = fault.is_damage();
        match fault {
            Fault::Other(e) => e,
            Fault::Foreign => Error::new(Kind::Failed, "the local cache is of another repository or version"),
            Fault::Damage(what) => Error::new(Kind::Failed, "the local cache is damaged").because(what),
            Fault::Sqlite(e) if damaged => Error::new(Kind::Failed, "the local cache is damaged").because(e),
            Fault::Sqlite(e) => match e.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
                    Error::new(Kind::Busy, "another process is writing to the local cache").because(e)
                }
                _ => unusable("the local cache can't be read or written").because(e),
            },
        }
    }
}

/// An error about the place of the cache, with what to do about it.
fn unusable(context: impl Into<String>) -> Error {
    Error::new(Kind::Storage, context)
        .hint("free space on its disk, or name a folder that can be written with --cache-dir")
}

/// The open file: one connection that writes, one that reads meanwhile.
pub(super) struct Connections {
    pub writer: Connection,
    pub reader: Connection,
    /// Holds the shared lock.
    pub in_use: File,
}

/// What [`open`] found at its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A file of ours, or none, or a stranger's in whose place there is a new one.
    Usable,
    /// A damaged file, in whose place there is a new one.
    Damaged,
}

/// Opens the cache at `path`; `check` reads what must be readable. Where either finds damage or a
/// stranger's file, begins anew; with `fresh` in any case.
pub(super) fn open<T>(
    path: &Path,
    repo: RepoId,
    fresh: bool,
    check: impl Fn(&Connection) -> Inner<T>,
) -> Result<(Connections, T, Found), Error> {
    let in_use =
        claim(path).map_err(|e| unusable(format!("the local cache {} can't be opened", path.display())).because(e))?;
    if fresh || is_marked(path) {
        delete_alone(path, &in_use)?;
    }
    let attempt = || -> Inner<_> {
        let writer = connect(path)?;
        prepare(&writer, repo)?;
        let reader = connect(path)?;
        Ok((check(&reader)?, writer, reader))
    };
    let during = |fault: Fault| Error::from(fault).during(path.display());
    let mut found = Found::Usable;
    let (checked, writer, reader) = match attempt() {
        Err(fault) if fault.is_damage() || matches!(fault, Fault::Foreign) => {
            if fault.is_damage() {
                found = Found::Damaged;
            }
            delete_alone(path, &in_use)?;
            attempt().map_err(during)?
        }
        other => other.map_err(during)?,
    };
    Ok((Connections { writer, reader, in_use }, checked, found))
}

/// Deletes the cache at `path`, if no process has it open.
pub(super) fn discard(path: &Path) -> Result<(), Error> {
    let in_use =
        claim(path).map_err(|e| unusable(format!("the local cache {} can't be opened", path.display())).because(e))?;
    delete_alone(path, &in_use)
}

/// Marks the file at `path` as useless: the next opening that has it for itself deletes it. Nobody may
/// delete it now, since other processes may have it open. Does nothing where there is no file.
pub(super) fn mark(path: &Path) -> std::io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(e) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&e.kind()) => return Ok(()),
        other => other?,
    };
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(beside(path, MARK)).map(drop)
}

fn is_marked(path: &Path) -> bool {
    std::fs::symlink_metadata(beside(path, MARK)).is_ok()
}

/// A database in memory, already prepared.
pub(super) fn in_memory(repo: RepoId) -> Result<Connection, Error> {
    let open = || -> Inner<_> {
        let connection = configure(Connection::open_in_memory()?)?;
        prepare(&connection, repo)?;
        Ok(connection)
    };
    Ok(open()?)
}

/// Makes the folder and the file, private to the user, and takes the shared lock.
fn claim(path: &Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let private =
        |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let in_use = private(&beside(path, ".lock"))?;
    in_use.lock_shared()?;
    // SQLite would make the file readable for all, and would open one that can't be written without a word.
    private(path)?;
    Ok(in_use)
}

/// Deletes the file and its companions, provided that nobody else has it open.
fn delete_alone(path: &Path, in_use: &File) -> Result<(), Error> {
    let failed =
        |e: std::io::Error| unusable(format!("the local cache {} can't be deleted", path.display())).because(e);
    in_use.unlock().map_err(failed)?;
    in_use.try_lock().map_err(|e| match e {
        TryLockError::Error(e) => failed(e),
        TryLockError::WouldBlock => {
            Error::new(Kind::Busy, format!("the local cache {} must be rebuilt, but is in use", path.display()))
                .hint("end the other processes that work on this repository from here, then try again")
        }
    })?;
    // A crash halfway leaves a mixture, which only its mark tells from a whole file.
    let _ = mark(path);
    for suffix in ["", "-wal", "-shm", "-journal", MARK] {
        match std::fs::remove_file(beside(path, suffix)) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
    }
    in_use.unlock().and_then(|()| in_use.lock_shared()).map_err(failed)?;
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop).map_err(failed)
}

/// `path` with `suffix` behind its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn connect(path: &Path) -> Inner<Connection> {
    // No URI names: a path means what it says. Each connection is used under a mutex of ours.
    configure(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?)
}

fn configure(connection: Connection) -> Inner<Connection> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = NORMAL;
         PRAGMA cache_size = -{PAGE_CACHE_KIB};
         PRAGMA mmap_size = 0;
         PRAGMA temp_store = MEMORY;
         PRAGMA journal_size_limit = 16777216;
         PRAGMA cell_size_check = ON;
         PRAGMA trusted_schema = OFF;"
    ))?;
    Ok(connection)
}

/// Writes the schema into an empty file; refuses another's. Waits for no writer unless it must write.
fn prepare(connection: &Connection, repo: RepoId) -> Inner<()> {
    let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let is_empty = || Ok::<_, Fault>(number("SELECT count(*) FROM sqlite_schema")? == 0);
    if is_empty()? {
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        if is_empty()? {
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.execute("INSERT INTO meta VALUES ('repository', ?1)", [repo.0])?;
            transaction.execute("INSERT INTO meta VALUES ('schema', ?1)", [schema_sum(&transaction)?])?;
        }
        transaction.commit()?;
    }
    let ours = number("PRAGMA application_id")? == APPLICATION_ID && number("PRAGMA user_version")? == SCHEMA_VERSION;
    let get = "SELECT value FROM meta WHERE name = 'repository'";
    if !ours || connection.query_row(get, [], |row| row.get::<_, [u8; 16]>(0)).optional()? != Some(repo.0) {
        return Err(Fault::Foreign);
    }
    if number("SELECT value FROM meta WHERE name = 'schema'")? == schema_sum(connection)? {
        Ok(())
    } else {
        Err(Fault::Damage("its schema has a wrong check sum".into()))
    }
}

/// The check sum of the schema: `SQLite` takes a column by another name or type as it comes.
fn schema_sum(connection: &Connection) -> Inner<i64> {
    let sql = "SELECT type || char(0) || name || char(0) || tbl_name || char(0) || rootpage || char(0)
               || coalesce(sql, '') FROM sqlite_schema ORDER BY rowid";
    let mut statement = connection.prepare(sql)?;
    let (mut rows, mut texts) = (statement.query([])?, Vec::new());
    while let Some(row) = rows.next()? {
        texts.push(row.get::<_, String>(0)?);
    }
    Ok(check_sum(&texts.iter().map(String::as_bytes).collect::<Vec<_>>()))
}
