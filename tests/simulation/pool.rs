//! What every history begins with: a repository with three snapshots, and chunks to make more data of.
//!
//! The chunks are cut by the repository's own chunker where their content says, so that any of them in a row are cut
//! apart again exactly there: which chunks two streams share is known.

use std::sync::OnceLock;

use alluvium::format::keyslot::SlotKind;
use alluvium::ops::key;
use alluvium::storage::memory::Memory;

use crate::support::{CHEAP, World, init, noise, take};

/// The passphrase that may only write.
pub const WRITE_ONLY: &[u8] = b"write only";
/// Chunks of the pool.
pub const CHUNKS: usize = 14;

pub struct Pool {
    pub storage: Memory,
    pub chunks: Vec<Vec<u8>>,
}

impl Pool {
    /// The same for all histories of a process.
    pub fn get() -> &'static Self {
        static POOL: OnceLock<Pool> = OnceLock::new();
        POOL.get_or_init(Self::make)
    }

    fn make() -> Self {
        let (storage, world) = (Memory::new(), World::new(1));
        let repo = init(storage.clone(), &world);
        key::add(&repo, SlotKind::WriteOnly, "", WRITE_ONLY, CHEAP).expect("key add");
        let (chunker, source) = (repo.chunker(), noise(200_000, 77));
        let (mut chunks, mut at) = (Vec::new(), 0);
        while chunks.len() < CHUNKS {
            let len = chunker.cut(&source[at..]);
            // One that the longest length has cut would be cut elsewhere in other company.
            if len + 1 < chunker.max() {
                chunks.push(source[at..at + len].to_vec());
            }
            at += len;
        }
        let pool = Self { storage, chunks };
        for (name, picks) in [("a", [0, 1, 2, 3]), ("b", [2, 3, 4, 5]), ("c", [6, 7, 8, 9])] {
            take(&repo, name, &pool.data(&picks)).expect("take");
        }
        pool
    }

    /// A stream of these chunks.
    pub fn data(&self, picks: &[usize]) -> Vec<u8> {
        picks.iter().flat_map(|pick| self.chunks[*pick].clone()).collect()
    }
}
