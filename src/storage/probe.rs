//! What a store can do, found out by trying: [`probe`] is what `init` asks a store on the network.
//!
//! Small objects under a name that no repository uses are created, listed, read and removed again.

use super::Storage;
use crate::error::{Error, Kind, Result};

/// What was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// A name that is taken is refused.
    pub exclusive: bool,
    /// A listing shows what was put before it.
    pub lists_after_write: bool,
    /// A range has the bytes that were asked for.
    pub ranges: bool,
}

/// Where the probes lie; `random` keeps two of them apart.
const FOLDER: &str = "sessions/";
/// What the name of a probe ends in.
pub const PROBE_SUFFIX: &str = ".probe";
/// Bytes of a probe: below the size that a store on the network proves itself with.
const PROBE_BYTES: u8 = 64;

impl Probed {
    /// Refuses a store that no repository can be kept in.
    ///
    /// # Errors
    /// `Storage`, with what is missing.
    pub fn check(self, location: &str) -> Result<()> {
        let lacks = match self {
            Self { lists_after_write: false, .. } => "its listings lack what was just written",
            Self { ranges: false, .. } => "it does not read the part of an object that is asked for",
            _ => return Ok(()),
        };
        Err(Error::new(Kind::Storage, format!("{location} can't hold a repository: {lacks}"))
            .hint("use another store, or another way to it: without a cache or proxy between"))
    }
}

/// Tries what the store can do. `random` names the probe.
///
/// # Errors
/// Those of the store: it can't be written to or read.
pub fn probe(storage: &dyn Storage, random: u128) -> Result<Probed> {
    let name = format!("{FOLDER}{random:032x}{PROBE_SUFFIX}");
    let bytes: Vec<u8> = (0..PROBE_BYTES).collect();
    let found = try_all(storage, &name, &bytes);
    let removed = storage.delete(&name);
    let found = found?;
    match removed {
        // Whoever may not delete leaves it. It means nothing to anybody.
        Err(e) if e.kind() != Kind::Denied => Err(e.during("removing the probe")),
        _ => Ok(found),
    }
}

fn try_all(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<Probed> {
    let exclusive = match storage.put_new(name, bytes) {
        Ok(()) => match storage.put_new(name, b"another") {
            Err(e) if e.kind() == Kind::AlreadyExists => storage.exclusive(),
            Err(e) => return Err(e),
            Ok(()) => {
                storage.put_replace(name, bytes)?;
                false
            }
        },
        // The store has found out by itself, and took the object away again.
        Err(_) if !storage.exclusive() => {
            storage.put_replace(name, bytes)?;
            false
        }
        Err(e) => return Err(e),
    };
    let lists_after_write = storage.list(FOLDER)?.iter().any(|o| o.name == name && o.size == bytes.len() as u64);
    let ranges = storage.get_range(name, 10, 20).is_ok_and(|range| range == bytes[10..30])
        && storage.get_range(name, 60, 10).is_err_and(|e| e.kind() == Kind::Damaged);
    Ok(Probed { exclusive, lists_after_write, ranges })
}
