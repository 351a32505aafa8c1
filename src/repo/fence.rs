//! Who is writing now, as prune sees it; and how a dead writer is kept from ever publishing (rule I4).
//!
//! A session has ended when its manifest exists or its session object is gone. A session that has given no sign
//! of life for [`PATIENCE`] is fenced: an object is created exclusively under the name of the manifest
//! that it would publish. Exactly one of the two succeeds, so a wrong clock can cost a running writer its
//! snapshot, and never anybody data.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::error::{Kind, Result};
use crate::format::coordination::{Beat, SESSION_PREFIX, Session, beat_name, session_name, session_of};
use crate::format::limits::SESSION_BYTES_MAX;
use crate::format::manifest;
use crate::format::{Malformed, ObjectKind};
use crate::id::{SlotId, SnapshotId};
use crate::storage::Listed;

use super::Repository;
use super::rules::Rule;

/// How long a session may be silent before it is taken for dead; sixty heartbeats.
pub const PATIENCE: SignedDuration = SignedDuration::from_hours(1);

/// A writer at work.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LiveSession {
    /// The session.
    pub id: SnapshotId,
    /// Its host; empty when its object can't be read.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// What it does.
    pub purpose: String,
    /// Its last sign of life.
    pub seen: Timestamp,
    /// It relies on no pack that this generation, or an older one, condemned.
    pub generation: u64,
}

/// The sessions that have not ended, `except` left out.
///
/// # Errors
/// `Storage`.
pub fn live_sessions(repo: &Repository, except: Option<SnapshotId>) -> Result<Vec<LiveSession>> {
    live_among(repo, &repo.storage.list(SESSION_PREFIX)?, except)
}

fn live_among(repo: &Repository, listed: &[Listed], except: Option<SnapshotId>) -> Result<Vec<LiveSession>> {
    let ids: BTreeSet<SnapshotId> = listed.iter().filter_map(|o| session_of(&o.name)).collect();
    let mut live = Vec::new();
    for id in ids.into_iter().filter(|id| Some(*id) != except) {
        // A session that has published, or that is gone but for its heartbeat, was only interrupted while tidying.
        let published = repo.storage.stat(&manifest::object_name(id))?.is_some();
        if published || repo.storage.stat(&session_name(id))?.is_none() {
            continue;
        }
        let session = read(repo, &session_name(id), Session::decode)?;
        let beat = read(repo, &beat_name(id), Beat::decode)?;
        let author = session.as_ref().map(|(author, _)| *author);
        // Anybody may have replaced the heartbeat. One of another author than the session's does not count. When
        // nobody knows the session's author, a heartbeat is a sign of life and says nothing of generations.
        let beat = beat.filter(|(by, _)| author.is_none_or(|author| author == *by)).map(|(_, beat)| beat);
        let session = session.map(|(_, session)| session);
        let started = session.as_ref().map_or(Timestamp::MIN, |s| s.started);
        live.push(LiveSession {
            id,
            seen: beat.as_ref().map_or(started, |b| b.time.max(started)),
            generation: beat.filter(|_| author.is_some()).map_or(0, |b| b.generation),
            host: session.as_ref().map_or_else(String::new, |s| s.host.clone()),
            pid: session.as_ref().map_or(0, |s| s.pid),
            purpose: session.map_or_else(String::new, |s| s.purpose),
        });
    }
    Ok(live)
}

/// Reads a session's object and who signed it; `None` when it is gone, damaged or forged, which says nothing
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

/// Removes what ended sessions left behind and fences those that are silent for too long. Returns the sessions
/// that are still alive: all those that had begun when this was called.
///
/// # Errors
/// `Storage`.
pub fn end_dead_sessions(repo: &Repository, except: SnapshotId) -> Result<Vec<LiveSession>> {
    let listed = repo.list_sessions_proven()?;
    let live = live_among(repo, &listed, Some(except))?;
    let now = repo.env.now();
    let mut alive = Vec::new();
    let mut keep: BTreeSet<SnapshotId> = BTreeSet::from([except]);
    for session in live {
        if now.duration_since(session.seen) <= PATIENCE {
            keep.insert(session.id);
            alive.push(session);
        } else if repo.rules.keep(Rule::Fence) {
            fence(repo, session.id)?;
        }
    }
    for object in listed {
        if let Some(id) = session_of(&object.name).filter(|id| !keep.contains(id))
            && (repo.storage.stat(&manifest::object_name(id))?.is_some()
                || repo.storage.stat(&session_name(id))?.is_none())
        {
            // What the storage does not give up only takes room.
            let _ = repo.storage.delete(&session_name(id));
            let _ = repo.storage.delete(&beat_name(id));
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
