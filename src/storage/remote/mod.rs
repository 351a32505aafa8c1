//! A store on the network: S3, Azure Blob Storage, Google Cloud Storage, SFTP, WebDAV, by way of `OpenDAL`.
//!
//! An object is created by one upload that the store refuses when the name is taken. Where there is no such upload
//! (SFTP, WebDAV), it is looked for, uploaded under a temporary name and moved: whole, but exclusive only while there
//! is a single writer.
//!
//! Stores that ignore the condition exist, and would let two prunes delete each other's work. So the first small
//! object that a process creates is created twice, and the second must be refused; else nothing more is created.
//!
//! A refusal may be the echo of our own upload, whose answer got lost. What is there is read then: sealed objects
//! have random nonces, so bytes that equal ours are ours.

mod failure;
mod line;
#[cfg(feature = "s3")]
mod object_lock;
mod service;
mod transport;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use opendal::{Buffer, ErrorKind, Operator};
use tokio::time::timeout;

use super::address::RemoteAddress;
use super::{Caller, LISTED_MAX, Listed, NAME_COMPONENTS_MAX, OWN, Storage};
use super::{check_name, check_prefix, too_long, too_many_listed, too_short};
use crate::env::lock;
use crate::error::{Error, Kind, Result};

use line::{Line, no_answer};
use service::{Operators, Placing};

/// Where objects are before they are moved to their names; not part of the repository's names.
const TEMPORARY: &str = "tmp/";
/// The first object below this size proves that creation is exclusive.
const CANARY_BYTES_MAX: usize = 4096;
/// What objects are to a store that asks.
const CONTENT_TYPE: &str = "application/octet-stream";
/// Where objects are replaced; how often, and how far apart, one is looked for that seems to be missing.
const REPLACED: &str = "sessions/";
const LOOKS: u32 = 5;
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Entries that a first look at a place takes.
const LOOK_ENTRIES: usize = 100;
/// Entries that a sweep looks at.
const SWEPT_MAX: usize = 1 << 16;
/// What object lock leaves alone: it is replaced or deleted all the time.
const NEVER_LOCKED: [&str; 4] = ["sessions/", "prune/", "reserve", TEMPORARY];

/// A repository on the network.
pub struct Remote {
    /// In front of the line that they use: dropped first.
    operators: Operators,
    line: Line,
    address: RemoteAddress,
    exclusion: AtomicU8,
    /// Held while exclusion is being proven.
    proving: Mutex<()>,
}

/// What is known about exclusive creation; stored as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exclusion {
    Unproven,
    Proven,
    /// The store ignores the condition: nothing is created.
    Ignored,
    /// There is one writer at a time; a look before each upload has to do.
    SingleWriter,
}

/// What came of an exclusive creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Creation {
    Created,
    Taken,
}

impl Remote {
    /// Opens the place at `address` for a new repository, and looks at it.
    ///
    /// # Errors
    /// `AlreadyExists` when other things are there, or the place is inside a repository; those of [`open`](Self::open);
    /// `Denied`, `Storage`, with what to do.
    pub fn create(address: RemoteAddress, caller: &Caller) -> Result<Self> {
        let mut outer = address.clone();
        let remote = Self::open(address, caller)?;
        let found = remote.find()?;
        while !outer.root.is_empty() {
            outer.root.truncate(outer.root.rfind('/').unwrap_or(0));
            let above = Self::open(outer.clone(), caller)?;
            // Whoever may not look there finds nothing.
            let is_repository = above.stat("config").is_ok_and(|config| config.is_some())
                && above.list("keys/").is_ok_and(|slots| !slots.is_empty());
            if is_repository {
                let what = format!("{} is inside the repository {}", remote.location(), above.location());
                return Err(Error::new(Kind::AlreadyExists, format!("{what}; nothing was changed"))
                    .hint("choose a path beside it: what is inside a repository is no object of it"));
            }
        }
        match found {
            Found::OtherThings(example) => Err(Error::new(
                Kind::AlreadyExists,
                format!("{} is not empty: there is {example}; nothing was changed", remote.location()),
            )
            .hint("choose an empty path, for example one more name after the bucket")),
            Found::Nothing | Found::Repository => Ok(remote),
        }
    }

    /// Opens the place. Nothing is asked of the store yet.
    ///
    /// # Errors
    /// `Usage`; `Storage` when the system's certificates can't be read.
    pub fn open(address: RemoteAddress, caller: &Caller) -> Result<Self> {
        let failed = |what: &str| Error::new(Kind::Storage, format!("can't use {}: {what}", address.location()));
        let client = transport::client().map_err(|e| {
            failed("there is no TLS")
                .because(e.without_url())
                .hint("install the system's certificates (ca-certificates), or set SSL_CERT_FILE to a file of them")
        })?;
        let operators = service::operators(&address, caller, &client)?;
        let line = Line::new(&address, caller.hears.clone()).map_err(|e| failed("no threads").because(e))?;
        let exclusion = if address.single_writer || operators.placing == Placing::Move {
            Exclusion::SingleWriter
        } else {
            Exclusion::Unproven
        };
        let exclusion = AtomicU8::new(exclusion as u8);
        Ok(Self { line, operators, address, exclusion, proving: Mutex::new(()) })
    }

    /// What is in the place.
    fn find(&self) -> Result<Found> {
        let names = self
            .line
            .call(0, || async {
                let mut names = Vec::new();
                let mut lister = self.operators.plain.lister_with("/").limit(LOOK_ENTRIES).await?;
                while names.len() < LOOK_ENTRIES
                    && let Some(entry) = lister.try_next().await?
                {
                    names.push(entry.path().trim_matches('/').to_owned());
                }
                Ok(names)
            })
            .map_err(|e| self.listing_failed("/", &e))?;
        let mut others = names.iter().filter(|name| !name.is_empty() && !OWN.contains(&name.as_str()));
        let is_repository = names.iter().any(|name| OWN.contains(&name.as_str()));
        Ok(match others.next() {
            _ if is_repository => Found::Repository,
            Some(name) => Found::OtherThings(name.escape_debug().to_string()),
            None => Found::Nothing,
        })
    }

    fn exclusion(&self) -> Exclusion {
        let all = [Exclusion::Unproven, Exclusion::Proven, Exclusion::Ignored, Exclusion::SingleWriter];
        all[usize::from(self.exclusion.load(Ordering::Acquire)) % all.len()]
    }

    fn set_exclusion(&self, exclusion: Exclusion) {
        self.exclusion.store(exclusion as u8, Ordering::Release);
    }

    fn create_object(&self, name: &str, body: &Buffer) -> Result<()> {
        check_name(name)?;
        let created = match self.exclusion() {
            Exclusion::Unproven if body.len() < CANARY_BYTES_MAX => self.create_and_prove(name, body)?,
            Exclusion::Unproven | Exclusion::Proven => self.create_or_recognise(name, body)?,
            Exclusion::Ignored => return Err(self.ignored(name)),
            Exclusion::SingleWriter => self.look_and_create(name, body)?,
        };
        match created {
            Creation::Created => Ok(()),
            Creation::Taken => {
                Err(Error::new(Kind::AlreadyExists, format!("{name} exists already in {}", self.location())))
            }
        }
    }

    /// Creates the process's first small object, and once more: the store must refuse that.
    fn create_and_prove(&self, name: &str, body: &Buffer) -> Result<Creation> {
        let _one_at_a_time = lock(&self.proving);
        if self.exclusion() != Exclusion::Unproven {
            return self.create_or_recognise(name, body);
        }
        if self.create_or_recognise(name, body)? == Creation::Taken {
            // It was refused, so the store knows how to; who was first proves nothing else.
            return Ok(Creation::Taken);
        }
        match self.create_once(name, body)? {
            Creation::Taken => {
                self.set_exclusion(Exclusion::Proven);
                Ok(Creation::Created)
            }
            Creation::Created => {
                self.set_exclusion(Exclusion::Ignored);
                // What failed leaves nothing behind that others would take for a writer at work.
                let _ = self.delete(name);
                Err(self.ignored(name))
            }
        }
    }

    /// Creates, and takes what is there for created when it is what we would have put there.
    fn create_or_recognise(&self, name: &str, body: &Buffer) -> Result<Creation> {
        if self.create_once(name, body)? == Creation::Created {
            return Ok(Creation::Created);
        }
        let is_ours =
            self.stat(name)? == Some(body.len() as u64) && self.get(name, body.len() as u64)? == body.to_vec();
        Ok(if is_ours { Creation::Created } else { Creation::Taken })
    }

    /// What there is without exclusive creation.
    fn look_and_create(&self, name: &str, body: &Buffer) -> Result<Creation> {
        if self.stat(name)?.is_some() {
            Ok(Creation::Taken)
        } else if self.has_folders() {
            self.place(&self.operators.creating, name, body)
        } else {
            self.replace_object(name, body)
        }
    }

    fn create_once(&self, name: &str, body: &Buffer) -> Result<Creation> {
        let operator = self.operator_to_write(name);
        let written = self.line.upload(body.len(), || async {
            let result = operator.write_with(name, body.clone()).content_type(CONTENT_TYPE).if_not_exists(true).await;
            // Two at once: who comes again learns who was first.
            result.map_err(|e| if e.kind() == ErrorKind::Conflict { e.set_temporary() } else { e })
        });
        match written {
            Ok(_) => Ok(Creation::Created),
            Err(e) if matches!(e.kind(), ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists) => {
                Ok(Creation::Taken)
            }
            Err(e) => Err(self.failed("write", name, &e)),
        }
    }

    fn replace_object(&self, name: &str, body: &Buffer) -> Result<Creation> {
        if self.has_folders() {
            let placed = self.place(&self.operators.plain, name, body)?;
            if placed == Creation::Created {
                return Ok(placed);
            }
            // A server that does not move over what is there: that goes first. Who reads looks more than once.
            self.delete(name)?;
            return self.place(&self.operators.plain, name, body);
        }
        let operator = self.operator_to_write(name);
        let written = self
            .line
            .upload(body.len(), || async { operator.write_with(name, body.clone()).content_type(CONTENT_TYPE).await });
        written.map(|_| Creation::Created).map_err(|e| self.failed("write", name, &e))
    }

    /// Uploads under a temporary name and moves, with `operator`'s way of moving.
    fn place(&self, operator: &Operator, name: &str, body: &Buffer) -> Result<Creation> {
        let lot = || getrandom::u64().map_err(|e| Error::new(Kind::Storage, "no randomness").because(e.to_string()));
        let temporary = format!("{TEMPORARY}{:016x}{:016x}", lot()?, lot()?);
        let plain = &self.operators.plain;
        self.line
            .upload(body.len(), || async { plain.write(&temporary, body.clone()).await })
            .map_err(|e| self.failed("write", name, &e))?;
        let moved = self.line.call(0, || async { operator.rename(&temporary, name).await });
        let Err(cause) = moved else { return Ok(Creation::Created) };
        // Refused, or an echo: a move whose answer got lost finds its source gone.
        let is_there = self.stat(name)?.is_some();
        let is_left = self.stat(&temporary)?.is_some();
        if is_left {
            self.delete(&temporary)?;
        }
        match (is_there, is_left) {
            (true, true) => Ok(Creation::Taken),
            (true, false) => Ok(Creation::Created),
            (false, _) => Err(self.failed("write", name, &cause)),
        }
    }

    fn operator_to_write(&self, name: &str) -> &Operator {
        let is_locked = !NEVER_LOCKED.iter().any(|prefix| name.starts_with(prefix));
        if is_locked { &self.operators.locking } else { &self.operators.plain }
    }

    /// Folders are real, and objects are moved to their names: a file system behind a protocol.
    fn has_folders(&self) -> bool {
        self.operators.placing != Placing::Conditional
    }

    /// How large the object is; the error when it is missing.
    fn size(&self, name: &str) -> Result<u64> {
        self.stat(name)?.ok_or_else(|| self.missing(name))
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        if self.has_folders() {
            // Reading a folder gives a page about it.
            self.size(name)?;
        }
        let read = self.line.download(0, || self.read_at_most(name, None, bytes_max));
        match read.map_err(|e| self.failed("read", name, &e))? {
            Some(bytes) => Ok(bytes),
            // Whatever its size is said to be: more than it may have came.
            None => Err(too_long(name, self.size(name)?.max(bytes_max.saturating_add(1)), bytes_max)),
        }
    }

    /// An object or a range of it; `None` when more than `bytes_max` bytes come.
    async fn read_at_most(
        &self,
        name: &str,
        range: Option<Range<u64>>,
        bytes_max: u64,
    ) -> opendal::Result<Option<Vec<u8>>> {
        let is_whole = range.is_none();
        let reader = self.operators.plain.reader(name).await?;
        let mut stream = match range {
            Some(range) => reader.into_stream(range).await?,
            None => reader.into_stream(..).await?,
        };
        let object_bytes = match stream.metadata().await {
            Ok(metadata) => metadata.content_length(),
            // SFTP does not announce it.
            Err(e) if e.kind() == ErrorKind::Unsupported => 0,
            Err(e) => return Err(e),
        };
        if is_whole && object_bytes > bytes_max {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let no_memory = |e| opendal::Error::new(ErrorKind::Unexpected, "no memory").set_source(e);
        bytes.try_reserve_exact(object_bytes.min(bytes_max) as usize).map_err(no_memory)?;
        while let Some(piece) = stream.try_next().await? {
            if (bytes.len() + piece.len()) as u64 > bytes_max {
                return Ok(None);
            }
            for part in piece {
                bytes.extend_from_slice(&part);
            }
        }
        Ok(Some(bytes))
    }

    fn list_objects(&self, prefix: &str) -> opendal::Result<Vec<Listed>> {
        let path = if prefix.is_empty() { "/" } else { prefix };
        self.line.call_long(|| async {
            let mut listing = Listing::default();
            if self.has_folders() {
                // Folder by folder: a server may answer with folders in folders for ever.
                let mut folders = vec![path.to_owned()];
                while let Some(folder) = folders.pop() {
                    self.list_into(&folder, &mut listing, Some(&mut folders)).await?;
                }
            } else {
                self.list_into(path, &mut listing, None).await?;
            }
            listing.objects()
        })
    }

    /// Adds the objects below `folder`; where folders are real, only those in it, and its folders to `folders`.
    async fn list_into(
        &self,
        folder: &str,
        listing: &mut Listing,
        mut folders: Option<&mut Vec<String>>,
    ) -> opendal::Result<()> {
        let time = self.line.time();
        let late = |_| no_answer(time);
        let prefix = folder.trim_start_matches('/');
        listing.mark.clear();
        let mut lister = self.operators.plain.lister_with(folder).recursive(folders.is_none()).await?;
        // Each page has its own time: there may be thousands.
        while let Some(entry) = timeout(time, lister.try_next()).await.map_err(late)?? {
            let (name, metadata) = (entry.path(), entry.metadata());
            // A folder is in its own page, too.
            listing.count(if name == folder { "" } else { name })?;
            let Some(rest) = name.strip_prefix(prefix) else { continue };
            let is_inside = folders.is_none() || !rest.trim_end_matches('/').contains('/');
            if !is_inside || check_name(name.trim_end_matches('/')).is_err() || name.starts_with(TEMPORARY) {
                continue;
            }
            if metadata.is_file() {
                let modified = metadata.last_modified().map(SystemTime::from);
                let modified = modified.and_then(|time| Timestamp::try_from(time).ok());
                listing.objects.push(Listed { name: name.to_owned(), size: metadata.content_length(), modified });
            } else if let Some(folders) = &mut folders
                && name.ends_with('/')
                && !rest.is_empty()
                && name.split('/').count() <= NAME_COMPONENTS_MAX
            {
                folders.push(name.to_owned());
            }
        }
        Ok(())
    }

    fn missing(&self, name: &str) -> Error {
        Error::new(Kind::NotFound, format!("{name} does not exist in {}", self.location()))
    }

    fn ignored(&self, name: &str) -> Error {
        Error::new(
            Kind::Storage,
            format!("{} does not create exclusively: it let {name} be created twice", self.location()),
        )
        .hint("use a store that honours If-None-Match; or, where there is only ever one writer at a time, add single-writer=true to the address")
    }

    fn failed(&self, verb: &str, name: &str, cause: &opendal::Error) -> Error {
        if cause.kind() == ErrorKind::NotFound && !failure::is_missing_bucket(cause) {
            return self.missing(name);
        }
        failure::error(self.address.service, format!("can't {verb} {name} in {}", self.location()), cause)
    }

    /// A listing that finds nothing is empty; one that is refused with "not found" has no bucket.
    fn listing_failed(&self, prefix: &str, cause: &opendal::Error) -> Error {
        let context = format!("can't list {prefix} in {}", self.location());
        let error = failure::error(self.address.service, context, cause);
        match error.kind() {
            Kind::NotFound => error
                .as_kind(Kind::Storage)
                .hint("make the bucket or container first, with the tools of the store, or check its name"),
            _ => error,
        }
    }
}

/// A listing under way.
#[derive(Default)]
struct Listing {
    objects: Vec<Listed>,
    /// Entries that the server has named so far.
    entries: usize,
    /// The entry before the latest power of two. A server that goes round in a circle of pages names it again:
    /// R. P. Brent, "An improved Monte Carlo factorization algorithm", 1980.
    mark: String,
}

impl Listing {
    /// Counts an entry. A server that repeats itself, or does not come to an end, gets an error.
    fn count(&mut self, name: &str) -> opendal::Result<()> {
        self.entries += 1;
        if self.entries > LISTED_MAX {
            return Err(opendal::Error::new(ErrorKind::Unexpected, too_many_listed()));
        }
        if !name.is_empty() && name == self.mark {
            return Err(repeated(name));
        }
        if self.entries.is_power_of_two() {
            name.clone_into(&mut self.mark);
        }
        Ok(())
    }

    /// All of them, each once.
    fn objects(mut self) -> opendal::Result<Vec<Listed>> {
        self.objects.sort_unstable();
        match self.objects.windows(2).find(|pair| pair[0].name == pair[1].name) {
            Some(pair) => Err(repeated(&pair[0].name)),
            None => Ok(self.objects),
        }
    }
}

fn repeated(name: &str) -> opendal::Error {
    opendal::Error::new(ErrorKind::Unexpected, format!("the server lists {} twice", name.escape_debug()))
}

/// What a first look at a place finds.
enum Found {
    Nothing,
    /// Something that may be a repository, or the rest of one.
    Repository,
    /// Things of others; one of them.
    OtherThings(String),
}

impl Storage for Remote {
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.create_object(name, &Buffer::from(bytes.to_vec()))
    }

    fn put_new_from(&self, name: &str, buffer: &mut Vec<u8>) -> Result<()> {
        let bytes = std::mem::take(buffer);
        self.create_object(name, &Buffer::from(bytes))
    }

    fn put_replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        check_name(name)?;
        match self.replace_object(name, &Buffer::from(bytes.to_vec()))? {
            Creation::Created => Ok(()),
            Creation::Taken => Err(Error::new(Kind::Storage, format!("{} does not replace {name}", self.location()))),
        }
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        check_name(name)?;
        // A move that replaces takes the old one away first on some servers: what is missing is looked for again.
        let looks = if self.has_folders() && name.starts_with(REPLACED) { LOOKS } else { 1 };
        for _ in 1..looks {
            match self.read(name, bytes_max) {
                Err(e) if e.kind() == Kind::NotFound => std::thread::sleep(LOOK_PAUSE),
                read => return read,
            }
        }
        self.read(name, bytes_max)
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        check_name(name)?;
        // Offsets are signed in many a store; nothing lies beyond.
        let end = offset.checked_add(len as u64).filter(|end| i64::try_from(*end).is_ok());
        let Some(end) = end.filter(|_| len > 0) else {
            let size = self.size(name)?;
            return if len == 0 { Ok(Vec::new()) } else { Err(too_short(name, size, offset, len)) };
        };
        match self.line.download(len, || self.read_at_most(name, Some(offset..end), len as u64)) {
            Ok(Some(bytes)) if bytes.len() == len => Ok(bytes),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                Err(self.failed("read", name, &e))
            }
            short => {
                let size = self.size(name)?;
                match short {
                    _ if size < end => Err(too_short(name, size, offset, len)),
                    Err(e) => Err(self.failed("read", name, &e)),
                    Ok(bytes) => {
                        let given = bytes.map_or_else(|| "more".to_owned(), |bytes| bytes.len().to_string());
                        let what = format!("{} gave {given} bytes of {name} instead of {len}", self.location());
                        Err(Error::new(Kind::Storage, what))
                    }
                }
            }
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        check_prefix(prefix)?;
        let shown = if prefix.is_empty() { "/" } else { prefix };
        self.list_objects(prefix).map_err(|e| self.listing_failed(shown, &e))
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        check_name(name)?;
        match self.line.call(0, || async { self.operators.plain.stat(name).await }) {
            Ok(metadata) => Ok(metadata.is_file().then(|| metadata.content_length())),
            Err(e) if e.kind() == ErrorKind::NotFound && !failure::is_missing_bucket(&e) => Ok(None),
            Err(e) => Err(self.failed("look at", name, &e)),
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        // Where folders are real, deleting one would delete all that is in it.
        if self.has_folders() && self.stat(name)?.is_none() {
            return Ok(());
        }
        match self.line.call(0, || async { self.operators.plain.delete(name).await }) {
            Err(e) if e.kind() != ErrorKind::NotFound || failure::is_missing_bucket(&e) => {
                Err(self.failed("delete", name, &e))
            }
            _ => Ok(()),
        }
    }

    fn location(&self) -> String {
        self.address.location()
    }

    fn look(&self) -> Result<()> {
        match self.find()? {
            Found::OtherThings(example) => Err(Error::new(
                Kind::NoRepository,
                format!("there is no repository at {}, but other things: {example}", self.location()),
            )
            .hint("check the path in the address; a new repository goes into an empty one")),
            Found::Nothing | Found::Repository => Ok(()),
        }
    }

    fn transfers(&self) -> usize {
        self.address.connections
    }

    fn exclusive(&self) -> bool {
        matches!(self.exclusion(), Exclusion::Unproven | Exclusion::Proven)
    }

    fn set_single_writer(&self) {
        self.set_exclusion(Exclusion::SingleWriter);
    }

    fn sweep_temporary(&self, older_than: Duration) -> Result<usize> {
        if !self.has_folders() {
            return Ok(0);
        }
        let plain = &self.operators.plain;
        let found = self
            .line
            .call(0, || async { plain.lister(TEMPORARY).await?.take(SWEPT_MAX).try_collect::<Vec<_>>().await })
            .map_err(|e| self.listing_failed(TEMPORARY, &e))?;
        let now = SystemTime::now();
        let mut swept = 0;
        for entry in found.iter().filter(|entry| entry.metadata().is_file()) {
            // Listings of WebDAV and SFTP tell when; what does not is left alone, like a time in the future.
            let written = entry.metadata().last_modified().map(SystemTime::from);
            let age = written.and_then(|written| now.duration_since(written).ok());
            if age.is_some_and(|age| age >= older_than) {
                self.delete(entry.path())?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}
