//! Reading a descriptor without outliving a cancellation.
//!
//! A read of an empty pipe sleeps until somebody writes, and a dump that waits for a lock may not
//! write for hours. So no read begins before `poll` said that it will not sleep, and `poll` itself
//! sleeps for 200 ms at most before the cancellation is looked at again. A regular file is always
//! ready, so `< dump.sql` costs one small system call for each large read.
//!
//! An [`Error`] travels through [`Read`] inside an [`io::Error`]; [`read_error`] brings it out again.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};

/// How long a sleeping read may take to see a cancellation.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);
/// Wished capacity of a pipe: the default of 64 KiB makes writer and reader wake each other too often.
const PIPE_BYTES: usize = 1 << 20;

/// A reader over a pipe, a terminal or a file that ends soon after a cancellation.
#[derive(Debug)]
pub struct Pipe<'c> {
    file: File,
    cancel: &'c Cancel,
}

impl<'c> Pipe<'c> {
    /// Takes over a descriptor.
    pub fn new(descriptor: impl Into<OwnedFd>, cancel: &'c Cancel) -> Self {
        Self { file: File::from(grown(descriptor.into())), cancel }
    }

    /// Reads standard input, through a descriptor of its own.
    ///
    /// # Errors
    /// `Source` where standard input is closed or descriptors have run out.
    pub fn stdin(cancel: &'c Cancel) -> Result<Self> {
        let own = io::stdin().as_fd().try_clone_to_owned();
        own.map(|own| Self::new(own, cancel)).map_err(|error| read_error(error, "standard input"))
    }
}

impl Read for Pipe<'_> {
    /// Fails with [`io::ErrorKind::Other`] once cancelled; [`read_error`] makes it `Interrupted` again.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.cancel.check().map_err(io::Error::other)?;
            if readable([self.file.as_fd()], PATIENCE)? == [true]
                && let Some(count) = read_ready(&mut self.file, buffer)?
            {
                return Ok(count);
            }
        }
    }
}

/// A failed read of `name` as the library's error. An [`Error`] that travelled inside comes out as it
/// went in; everything else is of [`Kind::Source`].
pub fn read_error(error: io::Error, name: &str) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::new(Kind::Source, format!("reading {name}")).because(error))
}

/// Gives a pipe more room. Refused for other files and beyond the user's limit, where nothing is lost.
pub(super) fn grown(descriptor: OwnedFd) -> OwnedFd {
    #[cfg(target_os = "linux")]
    let _ = rustix::pipe::fcntl_setpipe_size(&descriptor, PIPE_BYTES);
    descriptor
}

/// Waits until one of the descriptors can be read without sleeping (its end and its errors included);
/// all false when `patience` ran out first.
pub(super) fn readable<const N: usize>(descriptors: [BorrowedFd<'_>; N], patience: Duration) -> io::Result<[bool; N]> {
    let mut asked = descriptors.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
    let timeout = Timespec::try_from(patience).ok();
    match poll(&mut asked, timeout.as_ref()) {
        Ok(_) => Ok(asked.map(|answered| !answered.revents().is_empty())),
        Err(rustix::io::Errno::INTR) => Ok([false; N]),
        Err(error) => Err(error.into()),
    }
}

/// One read of what `poll` promised; `None` when another reader of the same pipe was faster.
pub(super) fn read_ready(file: &mut File, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match file.read(buffer) {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        result => result.map(Some),
    }
}
