//! Open folders, a bounded number at once, and opening what lies in them without following links.
//!
//! A path that is resolved twice may lead to two files: whoever may write to one of its folders can
//! put a link there in between. So folders are opened step by step, each relative to the handle of
//! the one above, and everything else is done relative to such a handle. A tree may have more folders
//! than a process may have handles, so [`Handles`] closes the least recently used.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Most folders that are kept open.
const OPEN_MAX: usize = 32;

/// Device and inode: which file it is, under whatever name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// The identity of what was looked at.
    pub fn of(stat: &Stat) -> Self {
        // Their types differ between systems.
        #[allow(clippy::unnecessary_cast, clippy::allow_attributes)]
        Self { device: stat.st_dev as u64, inode: stat.st_ino as u64 }
    }
}

/// Handles of open folders, the most recently used last.
#[derive(Debug)]
pub struct Handles<K> {
    open: VecDeque<(K, Arc<OwnedFd>)>,
}

impl<K> Default for Handles<K> {
    fn default() -> Self {
        Self { open: VecDeque::new() }
    }
}

impl<K> Handles<K> {
    /// The handle whose key `is_wanted`, if it is still open.
    pub fn get(&mut self, is_wanted: impl Fn(&K) -> bool) -> Option<Arc<OwnedFd>> {
        let at = self.open.iter().rposition(|(key, _)| is_wanted(key))?;
        let entry = self.open.remove(at)?;
        let handle = Arc::clone(&entry.1);
        self.open.push_back(entry);
        Some(handle)
    }

    /// Keeps a handle, and closes the least recently used where there are too many.
    pub fn insert(&mut self, key: K, handle: OwnedFd) -> Arc<OwnedFd> {
        while self.open.len() >= OPEN_MAX {
            self.open.pop_front();
        }
        let handle = Arc::new(handle);
        self.open.push_back((key, Arc::clone(&handle)));
        handle
    }
}

/// Opens the folder called `step` in `above`; a link in its place is an error ([`is_no_folder`]).
///
/// # Errors
/// Those of `openat`.
pub fn open_folder(above: impl AsFd, step: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(above, step, flags, Mode::empty())?)
}

/// Opens the folder that a person named; links are followed.
///
/// # Errors
/// Those of `open`.
pub fn open_named_folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// True where [`open_folder`] failed because something else has the folder's name, or a link.
pub fn is_no_folder(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTDIR | Errno::LOOP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_handle_is_closed() {
        let mut handles = Handles::default();
        for key in 0..=OPEN_MAX {
            handles.insert(key, open_named_folder(Path::new("/")).expect("a folder"));
            assert!(handles.get(|open| *open == 0).is_some(), "it was used just now");
        }
        assert!(handles.get(|open| *open == 1).is_none());
        assert!(handles.get(|open| *open == 2).is_some());
        assert_eq!(handles.open.len(), OPEN_MAX);
    }
}
