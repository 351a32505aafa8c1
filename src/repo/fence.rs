//! Who is writing now, as prune sees it; and how a dead writer is kept from ever publishing (rule I4).
//!
//! A session has ended when its author has published its manifest, when a full slot has fenced it, or
//! when its session object is not there. What somebody else puts under its name ends nothing: the
//! session publishes under another one.
//!
//! A session that has given no sign of life for [`PATIENCE`] is fenced: an object is created exclusively
//! under the name of the manifest that it would publish. Exactly one of the two succeeds, so a wrong
//! clock can cost a running writer its snapshot, and never anybody data.

use std::collections::{BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};

use crate::error::{Kind, Result};
use crate::format::coordination::{Beat, Generation, SESSION_PREFIX, Session, beat_name, session_name, session_of};
use crate::format::limits::SESSION_BYTES_MAX;
use crate::format::manifest;
use crate::format::{Malformed, ObjectKind};
use crate::id::{SlotId, SnapshotId};
use crate::storage::Listed;

use super::Repository;
use super::rules::Rule;
use super::snapshots::Taken;

/// How long a session may be silent before it is taken for dead; sixty heartbeats.
pub const PATIENCE: SignedDuration = SignedDuration::from_hours(1);

/// A writer at work.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LiveSession {
    /// The session.
    pub id: SnapshotId,
    /// The slot that it was opened with; unknown when its object can't be read.
    pub slot: Option<SlotId>,
    /// Its host; empty when its object can't be read.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// What it does.
    pub purpose: String,
    /// Its last sign of life that can be believed.
    pub seen: Timestamp,
    /// It relies on no pack that this generation, or an older one, condemned.
    pub generation: u64,
}

/// The sessions that have not ended, `except` left out.
///
/// # Errors
/// `Storage`.
pub fn live_sessions(repo: &Repository, except: Option<SnapshotId>) -> Result<Vec<LiveSession>> {
    Ok(live_among(repo, &repo.storage.list(SESSION_PREFIX)?, except)?.0)
}

/// The sessions among `listed` that have not ended, and those that have.
fn live_among(
    repo: &Repository,
    listed: &[Listed],
    except: Option<SnapshotId>,
) -> Result<(Vec<LiveSession>, BTreeSet<SnapshotId>)> {
    let clocks = Clocks::new(repo, listed, except);
    let ids: BTreeSet<SnapshotId> = listed.iter().filter_map(|o| session_of(&o.name)).collect();
    let (mut live, mut ended) = (Vec::new(), BTreeSet::new());
    for id in ids.into_iter().filter(|id| Some(*id) != except) {
        let session = read(repo, &session_name(id), Session::decode)?;
        // One of which only the heartbeat is left was interrupted while tidying.
        if session.is_none() && repo.storage.stat(&session_name(id))?.is_none() {
            ended.insert(id);
            continue;
        }
        let slot = session.as_ref().map(|(slot, _)| *slot);
        if has_ended(repo, id, slot)? {
            ended.insert(id);
            continue;
        }
        let beat = read(repo, &beat_name(id), Beat::decode)?;
        // Anybody may have replaced the heartbeat. One of another author than the session's does not count. When
        // nobody knows the session's author, a heartbeat is a sign of life and says nothing of generations.
        let beat = beat.filter(|(by, _)| slot.is_none_or(|slot| slot == *by)).map(|(_, beat)| beat);
        let session = session.map(|(_, session)| session);
        let started = session.as_ref().map(|s| clocks.believed(&session_name(id), s.started));
        let beaten = beat.as_ref().map(|b| clocks.believed(&beat_name(id), b.time));
        live.push(LiveSession {
            id,
            slot,
            seen: started.max(beaten).unwrap_or(Timestamp::MIN),
            generation: beat.filter(|_| slot.is_some()).map_or(0, |b| b.generation),
            host: session.as_ref().map_or_else(String::new, |s| s.host.clone()),
            pid: session.as_ref().map_or(0, |s| s.pid),
            purpose: session.map_or_else(String::new, |s| s.purpose),
        });
    }
    Ok((live, ended))
}

/// True when the session can never publish under its name and knows it: what stands there is its own,
/// or the fence of a full slot. Of a session whose author nobody knows, any object there is its end.
fn has_ended(repo: &Repository, id: SnapshotId, slot: Option<SlotId>) -> Result<bool> {
    let Some(slot) = slot else { return Ok(repo.storage.stat(&manifest::object_name(id))?.is_some()) };
    match repo.name_taken_by(id) {
        Ok(None) => Ok(false),
        Ok(Some(Taken::Manifest(author))) => Ok(author == slot),
        Ok(Some(Taken::Fence(author))) => Ok(author == slot || repo.keys.is_full(author)),
        // Its own manifest, damaged or unreadable since; or what a thief put there. The packs of a session that
        // goes on stay.
        Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Storage | Kind::Denied) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Judges signs of life, which are times by the clocks of others.
struct Clocks {
    now: Timestamp,
    /// When the storage wrote each session object and heartbeat, by its own clock; and an object that
    /// was written just now.
    written: HashMap<String, Timestamp>,
    just_now: Option<Timestamp>,
}

impl Clocks {
    fn new(repo: &Repository, listed: &[Listed], own: Option<SnapshotId>) -> Self {
        let written: HashMap<String, Timestamp> =
            listed.iter().filter_map(|object| Some((object.name.clone(), object.modified?))).collect();
        let own = own.map(|id| [session_name(id), beat_name(id)]).unwrap_or_default();
        let just_now = own.iter().filter_map(|name| written.get(name).copied()).max();
        Self { now: repo.env.now(), written, just_now }
    }

    /// The time of a sign of life. One from far in the future is not believed: then its age is that by
    /// the clock of the storage, if that says when it wrote the object.
    fn believed(&self, name: &str, said: Timestamp) -> Timestamp {
        let latest = self.now.saturating_add(PATIENCE).unwrap_or(Timestamp::MAX);
        if said <= latest {
            return said;
        }
        let Some(written) = self.written.get(name) else { return Timestamp::MIN };
        match self.just_now {
            Some(just_now) => self.now.saturating_sub(just_now.duration_since(*written)).unwrap_or(Timestamp::MIN),
            None => (*written).min(self.now),
        }
    }
}

/// Reads a session's object and who signed it; `None` when it is missing, damaged or forged, which says nothing
/// in its favour.
fn read<T>(
    repo: &Repository,
    name: &str,
    decode: impl Fn(&[u8]) -> Result<T, Malformed>,
) -> Result<Option<(SlotId, T)>> {
    let opened = repo
        .storage
        .get(name, SESSION_BYTES_MAX)
        .and_then(|bytes| repo.open_object(ObjectKind::Session, name, &bytes))
        .and_then(|(claim, plain)| Ok((claim.author, decode(&plain).map_err(|e| e.in_object(name))?)));
    match opened {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes what ended sessions left behind and fences those that are silent for too long, and those of slots that
/// `state` lists as removed or distrusted. Returns the sessions that are still alive: all those that had
/// begun when this was called.
///
/// # Errors
/// `Storage`.
pub fn end_dead_sessions(repo: &Repository, except: SnapshotId, state: &Generation) -> Result<Vec<LiveSession>> {
    let listed = repo.list_sessions_proven()?;
    let (live, mut ended) = live_among(repo, &listed, Some(except))?;
    let now = repo.env.now();
    let is_welcome = |slot: SlotId| !state.has_removed(slot) && !state.distrusts(slot, now);
    let mut alive = Vec::new();
    for session in live {
        if now.duration_since(session.seen) <= PATIENCE && session.slot.is_none_or(is_welcome) {
            alive.push(session);
        } else if repo.rules.keep(Rule::Fence) {
            // Whatever took the name before: the session publishes no more.
            fence(repo, session.id)?;
            ended.insert(session.id);
        }
    }
    let names: BTreeSet<&str> = listed.iter().map(|object| object.name.as_str()).collect();
    for id in ended {
        // The heartbeat last. What the storage does not give up only takes room.
        for name in [session_name(id), beat_name(id)].iter().filter(|name| names.contains(name.as_str())) {
            let _ = repo.storage.delete(name);
        }
    }
    Ok(alive)
}

/// Takes the name that the session would publish under: `true` when it can never publish any more, `false` when
/// something stands there already, a manifest or a fence.
///
/// # Errors
/// `Storage`: then neither is known.
pub fn fence(repo: &Repository, id: SnapshotId) -> Result<bool> {
    let name = manifest::object_name(id);
    match repo.storage.put_new(&name, &fence_bytes(repo, &name)) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == Kind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

/// The bytes of a fence under the name `name`: a claim that says nothing but who set it.
pub(super) fn fence_bytes(repo: &Repository, name: &str) -> Vec<u8> {
    manifest::encode_fence(&repo.keys.seal_claim(repo.env.as_ref(), ObjectKind::Fence, name.as_bytes(), b""))
}
