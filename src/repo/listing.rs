//! Listings that a deletion may rest on.
//!
//! A store may show its listing of a moment ago, or cut it short. So prune puts a **canary** into the folder, an
//! object that means nothing to anybody, and accepts only a listing that shows it: such a listing is not older than
//! the canary. The canary's name sorts behind all others, so that a listing which was cut at its end lacks it.
//!
//! | folder | canary |
//! |---|---|
//! | `sessions/` | the heartbeat of a session that does not exist |
//! | `snapshots/` | the fence of a session that does not exist |
//! | `index/` | an index object that lists nothing |

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Kind, Result};
use crate::format::coordination::{Beat, SESSION_PREFIX, beat_name};
use crate::format::index::{self, IndexObject};
use crate::format::{ObjectKind, manifest};
use crate::id::{IndexId, SnapshotId};
use crate::storage::Listed;

use super::Repository;
use super::fence::fence_bytes;
use super::rules::Rule;

/// How often a listing is asked for before prune gives up.
pub(super) const LOOKS: u32 = 4;
/// What a canary's id begins with. No random id does: one in 2^64.
const CANARY: [u8; 8] = [0xff; 8];

/// True for the id of a canary.
pub fn is_canary(id: SnapshotId) -> bool {
    id.0.starts_with(&CANARY)
}

impl Repository {
    /// The objects of `sessions/`, as they are now or later.
    ///
    /// # Errors
    /// `Storage`; `Damaged` when the listing stays behind.
    pub fn list_sessions_proven(&self) -> Result<Vec<Listed>> {
        self.prove(SESSION_PREFIX, beat_name, |name| {
            let beat = Beat { count: 0, time: self.env.now(), generation: 0 };
            self.seal_object(ObjectKind::Session, name, &beat.encode())
        })
    }

    /// The names under `snapshots/`, fences included, as they are now or later.
    ///
    /// # Errors
    /// `Storage`; `Damaged` when the listing stays behind.
    pub fn list_snapshots_proven(&self) -> Result<BTreeSet<SnapshotId>> {
        let listed = self.prove(manifest::PREFIX, manifest::object_name, |name| fence_bytes(self, name))?;
        self.snapshot_ids(&listed)
    }

    /// The index objects and their sizes in bytes, as they are now or later.
    ///
    /// # Errors
    /// `Storage`; `Damaged` when the listing stays behind.
    pub fn list_index_proven(&self) -> Result<BTreeMap<IndexId, u64>> {
        let nothing = IndexObject { keys: Vec::new(), packs: Vec::new() }.encode();
        let listed = self.prove(
            "index/",
            |id| index::object_name(IndexId(id.0)),
            |name| self.seal_object(ObjectKind::Index, name, &nothing),
        )?;
        Ok(super::index_ids(&listed))
    }

    fn prove(
        &self,
        folder: &str,
        name_of: impl Fn(SnapshotId) -> String,
        bytes: impl Fn(&str) -> Vec<u8>,
    ) -> Result<Vec<Listed>> {
        if !self.rules.keep(Rule::ProveListing) {
            return self.storage.list(folder);
        }
        let mut id = SnapshotId::random(self.env.as_ref());
        id.0[..CANARY.len()].copy_from_slice(&CANARY);
        let canary = name_of(id);
        let bytes = bytes(&canary);
        for _ in 0..LOOKS {
            // Again each time: another prune that tidies up may take it away.
            match self.storage.put_new(&canary, &bytes) {
                Err(e) if e.kind() != Kind::AlreadyExists => return Err(e),
                _ => {}
            }
            let mut listed = self.storage.list(folder)?;
            if let Some(place) = listed.iter().position(|object| object.name == canary) {
                match self.storage.delete(&canary) {
                    // Who may not delete finds it out here, before anything is done for nothing.
                    Err(e) if e.kind() == Kind::Denied => {
                        return Err(e
                            .during("nothing was pruned")
                            .hint("prune with credentials that may delete; all other work goes without that right"));
                    }
                    // What stays lying about is swept by the next prune.
                    _ => {}
                }
                listed.swap_remove(place);
                return Ok(listed);
            }
        }
        let _ = self.storage.delete(&canary);
        Err(Error::new(
            Kind::Damaged,
            format!("the storage's listing of {folder} is incomplete; nothing more was deleted"),
        )
        .hint("it lacks what was just written: either it is behind, then run prune again later, or it is cut short"))
    }
}
