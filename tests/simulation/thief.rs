//! A machine whose write-only key was stolen ([`crate::thief`]): a role of [`super::history`] with a seat
//! on the stage like the others, so that its calls fall between those of honest machines. It creates
//! objects, and replaces and deletes none.
//!
//! The judge asks the same of all other machines' snapshots as without it. What only the thief published
//! does not count: it may be listed, unreadable, or impossible to restore.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use alluvium::error::Result;
use alluvium::format::keyslot::SlotKind;
use alluvium::id::{SlotId, SnapshotId};
use alluvium::ops::key;
use alluvium::repo::Repository;
use alluvium::repo::snapshots::Snapshot;
use alluvium::storage::memory::Memory;

use super::pool::Pool;
use super::stage::Random;
use crate::support::{CHEAP, PASSPHRASE, World, open};
use crate::thief::{ATTACKS, Thief};

/// The passphrase that was stolen.
pub const STOLEN: &[u8] = b"stolen and write-only";
/// What costs time and shows nothing here that `tests/hostile_slot.rs` does not show.
const TOO_LARGE: &str = "a huge index object";

/// What a history with a thief begins with: the pool's repository with a slot more.
pub struct Scene {
    pub storage: Memory,
    pub slot: SlotId,
}

impl Scene {
    /// The same for all histories of a process.
    pub fn get() -> &'static Self {
        static SCENE: OnceLock<Scene> = OnceLock::new();
        SCENE.get_or_init(|| {
            let storage = Pool::get().storage.fork();
            let repo = open(storage.clone(), &World::new(1)).expect("open");
            let slot = key::add(&repo, SlotKind::WriteOnly, "stolen", STOLEN, CHEAP).expect("key add");
            assert_ne!(PASSPHRASE, STOLEN);
            Self { storage, slot }
        })
    }
}

/// True for the histories that have a thief: a quarter of them.
pub fn has_thief(seed: u64) -> bool {
    seed.is_multiple_of(4)
}

/// Plays one attack; returns its name.
pub fn attack(repo: &Repository, random: &mut Random) -> (&'static str, Result<()>) {
    let attacks: Vec<_> = ATTACKS.iter().filter(|(name, _)| *name != TOO_LARGE).collect();
    let (name, attack) = attacks[random.below(attacks.len() as u64) as usize];
    (name, attack(&Thief::new(repo)).map(drop))
}

/// Those of `snapshots` that somebody else than the thief published.
pub fn honest(snapshots: Vec<Snapshot>) -> Vec<Snapshot> {
    snapshots.into_iter().filter(|snapshot| snapshot.author != Scene::get().slot).collect()
}

/// The ids of snapshots, as problems name them.
pub fn names(ids: impl IntoIterator<Item = SnapshotId>) -> BTreeSet<String> {
    ids.into_iter().map(|id| id.to_string()).collect()
}
