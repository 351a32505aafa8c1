//! Is what comes out what the manifest says of it?

use crate::error::{Error, Result};
use crate::format::manifest::{Digest, Part};
use crate::transform::hash::StreamHasher;

/// Compares what comes out with the digests of the parts, one after the other.
pub(super) struct Proof<'p> {
    /// Those that have not ended.
    parts: &'p [&'p Part],
    hasher: StreamHasher,
    /// What came out, of all parts.
    bytes: u64,
}

impl<'p> Proof<'p> {
    pub(super) fn new(parts: &'p [&'p Part]) -> Self {
        Self { parts, hasher: StreamHasher::new(), bytes: 0 }
    }

    /// What comes out next.
    ///
    /// # Errors
    /// `Damaged` when a part ended that is not what its digest says.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let left = self.parts.first().map_or(0, |part| part.digest.bytes - self.hasher.count());
            let (now, rest) = bytes.split_at(usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()));
            self.hasher.update(now);
            bytes = rest;
            if !bytes.is_empty() {
                self.end_part()?;
            }
        }
        Ok(())
    }

    /// Bytes that came out, of all parts.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What came out is all of the first part.
    fn end_part(&mut self) -> Result<()> {
        let found = Digest { bytes: self.hasher.count(), blake3: *self.hasher.finalize().as_bytes() };
        self.hasher.reset();
        let Some((part, rest)) = self.parts.split_first() else {
            return Err(wrong_stream(&format!("{} bytes came out where an end should be", self.bytes)));
        };
        self.parts = rest;
        if found == part.digest {
            return Ok(());
        }
        let (name, length) = (part.name.to_string(), part.digest.bytes);
        let name = name.escape_debug();
        Err(wrong_stream(&format!(
            "{} bytes of `{name}` came out instead of {length}, or in another order",
            found.bytes
        )))
    }

    /// Nothing more comes out.
    ///
    /// # Errors
    /// As [`pass`](Self::pass).
    pub(super) fn finish(mut self) -> Result<()> {
        while !self.parts.is_empty() {
            self.end_part()?;
        }
        if self.hasher.count() == 0 { Ok(()) } else { self.end_part() }
    }
}

fn wrong_stream(what: &str) -> Error {
    Error::damaged("the stream", format!("every chunk is whole, but {what}"))
        .hint("run `alluvium check --read-data`; do not use what was restored")
}
