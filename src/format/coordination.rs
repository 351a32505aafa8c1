//! Sessions and generations: how writers and prune stay out of each other's way without locks
//! (rules I1 to I7, `docs/format.md`).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Malformed, from_json, to_json};
use crate::id::{BlobId, PackId, SlotId, SnapshotId};

/// The folder of sessions.
pub const SESSION_PREFIX: &str = "sessions/";
/// The folder of generations.
pub const GENERATION_PREFIX: &str = "prune/";
/// Generations have lower numbers: from these it could not be counted on.
pub const GENERATION_MAX: u64 = u64::MAX / 2;
/// What a heartbeat's name ends in.
const BEAT_SUFFIX: &str = ".beat";

/// The name of a session's object.
pub fn session_name(id: SnapshotId) -> String {
    format!("{SESSION_PREFIX}{id}")
}

/// The name of a session's heartbeat, the only object that is ever replaced.
pub fn beat_name(id: SnapshotId) -> String {
    format!("{SESSION_PREFIX}{id}{BEAT_SUFFIX}")
}

/// The session that an object of `sessions/` belongs to, heartbeats included.
pub fn session_of(name: &str) -> Option<SnapshotId> {
    let id = name.strip_prefix(SESSION_PREFIX)?;
    id.strip_suffix(BEAT_SUFFIX).unwrap_or(id).parse().ok()
}

/// True for a heartbeat's name.
pub fn is_beat(name: &str) -> bool {
    name.ends_with(BEAT_SUFFIX)
}

/// The name of a generation's object; names sort like numbers.
pub fn generation_name(generation: u64) -> String {
    format!("{GENERATION_PREFIX}{generation:020}")
}

/// The number in a generation's name.
pub fn generation_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(GENERATION_PREFIX)?;
    // `parse` alone would let a plus sign through.
    let plain = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok())?.filter(|n| *n < GENERATION_MAX)
}

/// A writer at work. The object's existence says that packs may appear that no manifest names yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Who it is, for messages.
    pub host: String,
    /// Its process, for messages.
    pub pid: u32,
    /// What it does: `snapshot`, `prune`.
    pub purpose: String,
    /// When it began.
    pub started: Timestamp,
}

/// A sign of life of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beat {
    /// Counts up from 1.
    pub count: u64,
    /// By the writer's clock.
    pub time: Timestamp,
    /// The newest generation that the writer has read. It relies on no pack that this generation, or
    /// an older one, condemned.
    pub generation: u64,
}

/// The state that prune, check, forget and key changes publish. Each generation holds the whole state,
/// so only the newest counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Packs that prune means to delete. Nobody may deduplicate against them.
    pub condemned: Vec<Condemned>,
    /// What a check or a prune found damaged. Nobody may deduplicate against it.
    pub distrusted: Vec<Distrusted>,
    /// The number of the last generation that a prune, a check or a repair published: those judge
    /// packs. A generation of a forget or a key change carries it over.
    pub judged: u64,
    /// Snapshots that a forget decided to remove and that may still be there. For every other forget
    /// they count as gone; prune marks them as long as they exist.
    pub forgotten: Vec<SnapshotId>,
    /// Key slots that were removed. They stay here for ever: a slot object that is still there, or
    /// comes back, counts as removed.
    pub removed_slots: Vec<RemovedSlot>,
    /// Slots whose claims since a time count for nothing.
    pub distrusted_slots: Vec<DistrustedSlot>,
}

/// A slot whose claims since a time count for nothing: its passphrase was stolen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistrustedSlot {
    /// The slot.
    pub slot: SlotId,
    /// Since when.
    pub since: Timestamp,
}

impl Generation {
    /// True when what `slot` claims to have written at `time` is distrusted.
    pub fn distrusts(&self, slot: SlotId, time: Timestamp) -> bool {
        self.distrusted_slots.iter().any(|d| d.slot == slot && d.since <= time)
    }

    /// True when a key change removed `slot`.
    pub fn has_removed(&self, slot: SlotId) -> bool {
        self.removed_slots.iter().any(|removed| removed.slot == slot)
    }
}

/// A key slot that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemovedSlot {
    /// The slot.
    pub slot: SlotId,
    /// When it was removed, by the clock of the machine that did.
    pub time: Timestamp,
}

/// A pack that prune means to delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condemned {
    /// The pack.
    pub pack: PackId,
    /// Its size in bytes.
    pub size: u64,
    /// The generation that condemned it first.
    pub since: u64,
}

/// A damaged pack, or some blobs of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distrusted {
    /// The pack.
    pub pack: PackId,
    /// The blobs; empty: all of them.
    pub blobs: Vec<BlobId>,
}

macro_rules! json {
    ($($name:ident),*) => {$(
        impl $name {
            /// The plain bytes, to be sealed.
            pub fn encode(&self) -> Vec<u8> {
                to_json(self)
            }

            /// Reads what [`encode`](Self::encode) writes.
            ///
            /// # Errors
            /// Not the expected JSON.
            pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
                from_json(bytes)
            }
        }
    )*};
}
json!(Session, Beat, Generation);
