//! Standard output: data, and only data. Lines and table cells are sanitised on their way; the bytes of a restore
//! and JSON (where names are exact) pass as they are.
//!
//! A failed write is remembered and told at the end ([`Output::finish`]): a `forget` must not stop half-way because a
//! pager was closed. A restore stops, since its [`Write`] says so at once.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use serde_json::Value;

use crate::error::{Error, Result};

use super::exit::Outcome;
use super::show::{Table, sanitize};

/// Standard output.
#[derive(Debug)]
pub struct Output {
    /// Not `std::io::Stdout`, which looks for line ends in everything.
    out: BufWriter<File>,
    failure: Option<io::Error>,
}

impl Output {
    /// Standard output, through a descriptor of its own.
    ///
    /// # Errors
    /// `Storage` when descriptors have run out.
    pub fn new() -> Result<Self> {
        let own =
            io::stdout().as_fd().try_clone_to_owned().map_err(|e| Error::storage("can't open standard output", e))?;
        Ok(Self { out: BufWriter::with_capacity(1 << 16, own.into()), failure: None })
    }

    /// One line of text.
    pub fn line(&mut self, text: &str) {
        // The failure is kept for the end.
        let _ = writeln!(self, "{}", sanitize(text));
    }

    /// A table.
    pub fn table(&mut self, table: &Table) {
        for line in table.lines() {
            let _ = writeln!(self, "{line}");
        }
    }

    /// A JSON document, on one line.
    pub fn document(&mut self, document: &Value) {
        let _ = writeln!(self, "{document}");
    }

    /// Writes out what is buffered, and gives `outcome` back unless a write has failed.
    ///
    /// # Errors
    /// `Storage`, for example when the disk that standard output goes to is full.
    pub fn finish(&mut self, outcome: Outcome) -> Result<Outcome> {
        let _ = self.flush();
        match self.failure.take() {
            None => Ok(outcome),
            Some(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::ReaderLeft),
            Some(e) => Err(Error::storage("writing to standard output failed", e)),
        }
    }

    fn remember<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|e| {
            self.failure
                .get_or_insert_with(|| e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error));
        })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.remember(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.remember(flushed)
    }
}
