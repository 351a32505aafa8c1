//! Remembers the blocks that were read last. The chunks of a stream lie in their packs in the
//! stream's order, so one block answers for its next hundred chunks: a backup of unchanged data
//! goes to the file once for a hundred chunks, which decides its speed on a slow disk.
//!
//! A ring of blocks, and a table that says for some bits of an id where in the ring it may be. The
//! table is never cleaned: an entry counts only if the id is really there.

use super::Location;
use super::rows::Block;
use crate::id::BlobId;

/// Blocks that are kept: about 2 MB.
const BLOCKS: usize = 512;
/// Places in the table; 256 KiB.
const SLOTS: usize = 1 << 16;

/// The blocks that were read last.
pub(super) struct Recent {
    blocks: Vec<Block>,
    /// Which block is replaced next.
    next: usize,
    /// Place in the ring, place in the block.
    slots: Vec<(u16, u16)>,
    /// `PRAGMA data_version` when the blocks were read.
    version: i64,
}

impl Recent {
    /// Remembers nothing yet.
    pub fn new() -> Self {
        Self { blocks: Vec::new(), next: 0, slots: vec![(0, 0); SLOTS], version: 0 }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.next = 0;
    }

    /// A copy of the blob, if it lies in a block that is remembered.
    pub fn find(&self, id: &BlobId) -> Option<Location> {
        let (block, entry) = self.slots[slot(id)];
        let block = self.blocks.get(usize::from(block))?;
        let (found, location) = block.located().nth(usize::from(entry))?;
        (found.id == *id).then_some(location)
    }

    /// Keeps a block that was read at `version` of the file. Forgets what was read at another.
    pub fn keep(&mut self, block: Block, version: i64) {
        if self.version != version {
            self.clear();
            self.version = version;
        }
        for (n, entry) in block.entries.iter().enumerate() {
            self.slots[slot(&entry.id)] = (self.next as u16, n as u16);
        }
        if self.next < self.blocks.len() {
            self.blocks[self.next] = block;
        } else {
            self.blocks.push(block);
        }
        self.next = (self.next + 1) % BLOCKS;
    }
}

fn slot(id: &BlobId) -> usize {
    usize::from(u16::from_le_bytes(id.0.as_chunks().0[8]))
}
