//! What every history begins with: a repository with three snapshots, and chunks to make more data of.
//!
//! The chunks are cut by the repository's own chunker where their content says, so that any of them in a row are cut
//! apart again exactly there: which chunks two streams share is known. They come in families whose members differ in a few
//! bytes, so that one is stored as the difference to another.

use std::sync::{Arc, OnceLock};

use alluvium::env::Env;
use alluvium::format::keyslot::SlotKind;
use alluvium::ops::key;
use alluvium::repo::Repository;
use alluvium::storage::memory::Memory;

use super::stage::{Climate, Machine, Power, Seat, Stage};
use crate::support::{CHEAP, PASSPHRASE, noise, small, take};

/// The passphrase that may only write.
pub const WRITE_ONLY: &[u8] = b"write only";
/// Chunks of the pool: of each family one after the other.
pub const CHUNKS: usize = 14;
/// Families of similar chunks.
const FAMILIES: usize = 4;

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
        let storage = Memory::new();
        // In order, as everything here: the same in every process.
        let stage = Stage::new(storage.clone(), Climate::default(), 1, 1, false);
        let power = Power::new(0, stage.clock());
        let env: Arc<dyn Env> = Arc::new(Machine::new(1, Arc::clone(&power)));
        let seat = Seat { stage, machine: 0, power };
        Repository::init(&seat, env.as_ref(), PASSPHRASE, "test", small()).expect("init");
        let repo = Repository::open(Arc::new(seat), env, PASSPHRASE, None).expect("open");
        key::add(&repo, SlotKind::WriteOnly, "", WRITE_ONLY, CHEAP).expect("key add");
        let (chunker, source) = (repo.chunker(), noise(200_000, 77));
        let (mut chunks, mut at) = (Vec::new(), 0);
        while chunks.len() < FAMILIES {
            let len = chunker.cut(&source[at..]);
            // One that the longest length has cut would be cut elsewhere in other company.
            if len + 1 < chunker.max() {
                chunks.push(source[at..at + len].to_vec());
            }
            at += len;
        }
        for member in FAMILIES..CHUNKS {
            // In front of where cuts are looked for: it is cut where the first of its family is.
            let mut chunk = chunks[member % FAMILIES].clone();
            chunk[8] = chunk[8].wrapping_add(member as u8);
            chunks.push(chunk);
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
