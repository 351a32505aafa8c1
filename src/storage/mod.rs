//! Named immutable objects.
//!
//! Everything in a repository is written once under a name that nobody else can take
//! ([`Storage::put_new`]); only a session's heartbeat is ever replaced. Names are relative paths of
//! `/`-separated components in `[a-z0-9._-]`. `tests/conformance.rs` is the suite that every
//! implementation passes. [`open`] and [`create`] find the implementation for an [`Address`].

pub mod address;
pub mod fault;
pub mod local;
pub mod memory;
pub mod probe;
#[cfg(feature = "remote")]
pub mod remote;
pub mod throttle;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::error::{Error, Kind, Result};

use address::{Address, RemoteAddress};
use local::Local;

/// What a repository's objects and folders are called at the top.
const OWN: [&str; 11] =
    ["config", "keys", "slots", "epochs", "packs", "index", "snapshots", "sessions", "prune", "reserve", "tmp"];

/// Most entries of a listing, whether they are objects or not. A store that goes on listing gets an error.
pub const LISTED_MAX: usize = 1 << 24;
/// Most components of an object's name, as in `packs/4f/4f0c…`. Deeper folders are not listed.
pub const NAME_COMPONENTS_MAX: usize = 3;

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// The full object name, for example `packs/4f/4f0c…`.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, by the storage's own clock; `None` where the storage does not tell.
    pub modified: Option<Timestamp>,
}

/// A place for objects. All methods may be called from many threads at once.
///
/// Errors: a missing object is [`Kind::NotFound`], an existing one [`Kind::AlreadyExists`], what the
/// credentials do not allow [`Kind::Denied`], everything else [`Kind::Storage`]; each with the object's
/// name in the message. After a `Storage` error of a put or delete it may have happened all the same, even later.
/// After one that [`Error::is_durability_unknown`] marks it may also be undone by a power loss, whatever a later read
/// shows, and every later write of this `Storage` fails.
pub trait Storage: Send + Sync {
    /// Creates an object, exclusively and durably: when this returns, the object survives a power
    /// loss; when the name exists, nothing changes and the error is `AlreadyExists`. Nobody ever
    /// sees a part of an object.
    ///
    /// # Errors
    /// `AlreadyExists`, `Storage`.
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// Creates or replaces an object, atomically. For session heartbeats only.
    ///
    /// # Errors
    /// `Storage`.
    fn put_replace(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// The whole object, of at most `bytes_max` bytes. A longer object is an error before its bytes take memory.
    ///
    /// # Errors
    /// `NotFound`, `Damaged` when the object is longer than `bytes_max`, `Storage`.
    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>>;

    /// `len` bytes from `offset`. Exactly `len`: a shorter object is an error, and takes no more memory than its bytes.
    ///
    /// # Errors
    /// `NotFound`, `Damaged` when the object ends early, `Storage`.
    fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>>;

    /// Every object whose name begins with `prefix` (a folder name that ends in `/`), in no
    /// particular order and none twice. A listing that fails half-way is an error, never a shorter
    /// listing. A folder that does not exist is empty. A listing ends, whatever the store does.
    ///
    /// # Errors
    /// `Storage`, also for more than [`LISTED_MAX`] entries and for a store that repeats itself.
    fn list(&self, prefix: &str) -> Result<Vec<Listed>>;

    /// The object's size, or `None` when it does not exist.
    ///
    /// # Errors
    /// `Storage`.
    fn stat(&self, name: &str) -> Result<Option<u64>>;

    /// Removes an object, durably. A missing object is not an error: deletes are repeated after a crash.
    ///
    /// # Errors
    /// `Storage`.
    fn delete(&self, name: &str) -> Result<()>;

    /// As [`get`](Self::get), into a buffer that may have been used before: fresh memory costs a fault for every page, so
    /// whoever reads one large object after the other reads them into one. What was in it is gone, errors or not.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_into(&self, name: &str, bytes_max: u64, buffer: &mut Vec<u8>) -> Result<()> {
        *buffer = self.get(name, bytes_max)?;
        Ok(())
    }

    /// As [`put_new`](Self::put_new), of bytes that are no longer needed: an upload takes them and need not copy; elsewhere
    /// the buffer's memory is left for the next object. Its bytes are gone, errors or not.
    ///
    /// # Errors
    /// As [`put_new`](Self::put_new).
    fn put_new_from(&self, name: &str, buffer: &mut Vec<u8>) -> Result<()> {
        let put = self.put_new(name, buffer);
        buffer.clear();
        put
    }

    /// Where this is, for messages: a path or a URL without secrets.
    fn location(&self) -> String;

    /// Looks at the place as a whole, where no `config` was found: what is wrong with it may be told better than by what is
    /// missing.
    ///
    /// # Errors
    /// `NoRepository` when other things are there; `Denied` or `Storage` when the place itself is missing or can't be
    /// listed.
    fn look(&self) -> Result<()> {
        Ok(())
    }

    /// Tells places apart, however they were written: two with one identity are one place.
    fn identity(&self) -> String {
        self.location()
    }

    /// How many requests at once pay: few where each is quick, many where each waits for a network.
    fn transfers(&self) -> usize {
        2
    }

    /// True where the same work must make the same calls in the same order, as in a simulation: blobs are then made by
    /// one thread.
    fn in_order(&self) -> bool {
        false
    }

    /// True where room is limited, as on a disk: prune then keeps a reserve to be able to work when it is full.
    fn fills_up(&self) -> bool {
        false
    }

    /// False where exclusive creation is only as good as there being a single writer.
    fn exclusive(&self) -> bool {
        true
    }

    /// From now on there is a single writer: a store that can't create exclusively looks first and then writes.
    /// Nothing changes for the others.
    fn set_single_writer(&self) {}

    /// Removes what writers that were killed left beside the objects longer than `older_than` ago, and says how
    /// many things that were.
    ///
    /// # Errors
    /// `Storage`.
    fn sweep_temporary(&self, _older_than: Duration) -> Result<usize> {
        Ok(0)
    }
}

/// Whoever hears of trouble, in words.
pub type Hears = Arc<dyn Fn(&str) + Send + Sync>;

/// Who opens a store: what an address must not hold and no store finds by itself, and who hears of trouble.
#[derive(Clone, Default)]
pub struct Caller {
    /// The password of a WebDAV user.
    pub webdav_password: Option<String>,
    /// Is told when requests go on failing and are made again: otherwise a bad network only looks slow.
    pub hears: Option<Hears>,
}

/// The store at an address. Nothing is created.
///
/// # Errors
/// `NoRepository` when there is no folder, or something else; `Usage`, `Denied`, `Storage`.
pub fn open(address: &Address, caller: &Caller) -> Result<Arc<dyn Storage>> {
    match address {
        Address::Folder(path) => Ok(Arc::new(Local::open(path)?)),
        Address::Remote(address) => open_remote(address, caller, false),
    }
}

/// The store at an address, for a new repository: a missing folder is made, a place with other things refused.
///
/// # Errors
/// `AlreadyExists`; those of [`open`].
pub fn create(address: &Address, caller: &Caller) -> Result<Arc<dyn Storage>> {
    match address {
        Address::Folder(path) => Ok(Arc::new(Local::create_new(path)?)),
        Address::Remote(address) => open_remote(address, caller, true),
    }
}

#[cfg(feature = "remote")]
fn open_remote(address: &RemoteAddress, caller: &Caller, new: bool) -> Result<Arc<dyn Storage>> {
    let open = if new { remote::Remote::create } else { remote::Remote::open };
    Ok(Arc::new(open(address.clone(), caller)?))
}

#[cfg(not(feature = "remote"))]
fn open_remote(address: &RemoteAddress, _: &Caller, _: bool) -> Result<Arc<dyn Storage>> {
    Err(Error::new(Kind::Usage, format!("this program was built for folders only, not for {}", address.location())))
}

/// Refuses names that are not made of one to [`NAME_COMPONENTS_MAX`] plain components, so that no name ever leaves
/// the repository.
///
/// # Errors
/// `Usage` for a hostile or malformed name.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |c: &str| {
        !c.is_empty()
            && c != "."
            && c != ".."
            && c.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
    };
    if name.len() <= 255 && name.split('/').count() <= NAME_COMPONENTS_MAX && name.split('/').all(plain) {
        Ok(())
    } else {
        Err(Error::new(Kind::Usage, format!("`{}` is not an object name", name.escape_debug())))
    }
}

/// Refuses prefixes that are neither empty nor a folder's name that ends in `/`.
///
/// # Errors
/// `Usage`.
fn check_prefix(prefix: &str) -> Result<()> {
    match prefix.strip_suffix('/') {
        None if prefix.is_empty() => Ok(()),
        Some(folder) => check_name(folder),
        None => {
            Err(Error::new(Kind::Usage, format!("`{}` is not a folder's name ending in `/`", prefix.escape_debug())))
        }
    }
}

/// The error of a range that reaches past the end of its object.
fn too_short(name: &str, size: u64, offset: u64, len: usize) -> Error {
    Error::damaged(name, format!("has {size} bytes, but {len} bytes from offset {offset} are needed"))
}

/// The error of an object that is longer than its reader allows.
fn too_long(name: &str, size: u64, bytes_max: u64) -> Error {
    Error::damaged(name, format!("has {size} bytes, at most {bytes_max} are allowed"))
}

/// Why a listing is given up.
fn too_many_listed() -> String {
    format!("more than {LISTED_MAX} entries")
}
