//! The thread that digests parts: it must see their bytes in order, and hashes them while others cut and store.

use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::buffers::Buffer;
use crate::transform::hash::StreamHasher;

/// What it is told, in the order of the stream.
pub(super) enum ToDigest {
    /// A stream begins with its first part; whatever was not ended before is forgotten. Digests go there.
    Begin(Sender<[u8; 32]>),
    /// More of the part.
    Bytes(Arc<Buffer>, Range<usize>),
    /// The part ends, another begins.
    End,
}

/// Digests part after part, until nobody can send any more.
pub(super) fn digest_parts(waiting: &Receiver<ToDigest>) {
    let (mut hasher, mut give) = (StreamHasher::new(), None);
    for what in waiting {
        match what {
            ToDigest::Begin(to) => {
                hasher.reset();
                give = Some(to);
            }
            ToDigest::Bytes(buffer, range) => {
                hasher.update(&buffer.bytes[range]);
            }
            ToDigest::End => {
                // Nobody waits for those of a stream that failed.
                let _ = give.as_ref().map(|give| give.send(*hasher.finalize().as_bytes()));
                hasher.reset();
            }
        }
    }
}
