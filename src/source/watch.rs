//! Head, tail and length of a stream while it passes.
//!
//! The head tells what a stream is ([`sniff`](crate::source::sniff)), the tail whether it is whole
//! ([`verdict`](crate::source::verdict)). The head can be looked at before anything else is done with
//! the stream, since a warning helps more before three hours of dumping than after. Of each read at
//! most 4 KiB are copied once the head is full.

use std::io::{self, Read};

/// Bytes of a head.
pub const HEAD_BYTES: usize = 64 << 10;
/// Bytes of a tail: more than any dump writes after its end marker.
pub const TAIL_BYTES: usize = 4 << 10;

/// Passes bytes through and remembers both ends.
#[derive(Debug)]
pub struct Watched<R> {
    inner: R,
    head: Vec<u8>,
    /// Up to twice [`TAIL_BYTES`], so that small reads seldom move bytes.
    tail: Vec<u8>,
    bytes: u64,
}

impl<R> Watched<R> {
    /// Watches `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, head: Vec::new(), tail: Vec::new(), bytes: 0 }
    }

    /// The first [`HEAD_BYTES`] of the stream, or as much of them as was read so far.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The last [`TAIL_BYTES`] that passed.
    pub fn tail(&self) -> &[u8] {
        &self.tail[self.tail.len().saturating_sub(TAIL_BYTES)..]
    }

    /// How many bytes have passed.
    pub fn length(&self) -> u64 {
        self.bytes
    }

    /// Gives the stream back, to finish a command.
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn keep_tail(&mut self, passed: &[u8]) {
        let last = &passed[passed.len().saturating_sub(TAIL_BYTES)..];
        if self.tail.len() + last.len() > 2 * TAIL_BYTES {
            let superfluous = self.tail.len().saturating_sub(TAIL_BYTES - last.len());
            self.tail.drain(..superfluous);
        }
        self.tail.extend_from_slice(last);
    }
}

impl<R: Read> Watched<R> {
    /// Reads ahead until the head is full or the stream ends; later reads begin with the head.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn peek_head(&mut self) -> io::Result<&[u8]> {
        let missing = HEAD_BYTES.saturating_sub(self.head.len()) as u64;
        self.inner.by_ref().take(missing).read_to_end(&mut self.head)?;
        Ok(&self.head)
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // What the head holds beyond what has passed was read ahead.
        let passed = usize::try_from(self.bytes).unwrap_or(usize::MAX);
        let ahead = self.head.get(passed..).unwrap_or_default();
        let count = if ahead.is_empty() {
            let count = self.inner.read(buffer)?;
            let room = HEAD_BYTES.saturating_sub(self.head.len());
            self.head.extend_from_slice(&buffer[..count.min(room)]);
            count
        } else {
            let count = ahead.len().min(buffer.len());
            buffer[..count].copy_from_slice(&ahead[..count]);
            count
        };
        self.bytes += count as u64;
        self.keep_tail(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_the_reads_both_ends_and_the_length_are_right(
            size in prop_oneof![0..9000usize, 60_000..140_000usize],
            reads in prop::collection::vec(1..20_000usize, 1..8),
            peeked_after in prop::option::of(0..20usize),
        ) {
            let stream: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            let (mut watched, mut passed) = (Watched::new(&stream[..]), Vec::new());
            for (turn, &step) in reads.iter().cycle().enumerate() {
                if peeked_after == Some(turn) {
                    let head = watched.peek_head().expect("memory is readable");
                    prop_assert_eq!(head, &stream[..size.min(HEAD_BYTES)]);
                }
                let mut buffer = vec![0; step];
                let count = watched.read(&mut buffer).expect("memory is readable");
                passed.extend_from_slice(&buffer[..count]);
                prop_assert_eq!(watched.tail(), &passed[passed.len().saturating_sub(TAIL_BYTES)..]);
                prop_assert_eq!(watched.length(), passed.len() as u64);
                if count == 0 {
                    break;
                }
            }
            prop_assert_eq!(&passed, &stream);
            prop_assert_eq!(watched.head(), &stream[..size.min(HEAD_BYTES)]);
        }
    }
}
