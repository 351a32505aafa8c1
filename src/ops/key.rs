//! `key add | list | remove | change`: the passphrases of a repository.
//!
//! Slots are immutable objects. `change` writes the new slot before it removes the old one, so that an
//! interruption leaves two working passphrases, never none.
//!
//! A removal is published as a generation before the slot object goes, and only when another full slot
//! remains that no generation lists as removed. So removals have an order, and of two that would
//! remove each other's slot the second is refused.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jiff::Timestamp;

use crate::error::{Error, Kind, Result};
use crate::format::certificate::Certificate;
use crate::format::coordination::{DistrustedSlot, Generation, RemovedSlot};
use crate::format::keyslot::{self, KeySlot, SlotKind};
use crate::format::limits::KEY_SLOT_BYTES_MAX;
use crate::id::{SlotId, SnapshotId};
use crate::repo::Repository;
use crate::repo::keys::{KdfCost, NewSlot, SlotInfo, Slots, list_slots, new_key_file};
use crate::repo::snapshots::Snapshot;
use crate::report::{Problem, Report};

/// How often a removal is tried while others publish generations.
const ATTEMPTS: u32 = 8;

/// What a change of the slots did.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SlotChange {
    /// The slot that was removed, or the one that replaces it.
    pub id: SlotId,
    /// The slots that remain, oldest first.
    pub remaining: Vec<SlotInfo>,
}

/// The slots, oldest first. Unreadable ones, and removed ones whose objects are still there, are
/// reported as problems.
///
/// # Errors
/// `Storage`.
pub fn list(repo: &Repository, report: &dyn Report) -> Result<Vec<SlotInfo>> {
    let mut slots = Vec::new();
    // A damaged generation keeps nobody from looking; a removal refuses then.
    let state = repo.probe_generation()?.1.unwrap_or_default();
    for (id, slot) in list_slots(repo.storage.as_ref())? {
        match slot.and_then(|(slot, bytes)| repo.keys.verify_slot(id, &slot, &bytes)) {
            Ok(_) if state.has_removed(id) => {
                let what = format!("was removed, and its object is still there: `alluvium key remove {id}` deletes it");
                report.problem(Problem::new(keyslot::object_name(id), what));
            }
            Ok(certificate) => slots.push(slot_info(id, certificate, &state)),
            Err(e) => report.problem(Problem::new(keyslot::object_name(id), &e)),
        }
    }
    slots.sort_by_key(|slot| (slot.created, slot.id));
    Ok(slots)
}

fn slot_info(id: SlotId, certificate: Certificate, state: &Generation) -> SlotInfo {
    let Certificate { kind, label, created, .. } = certificate;
    SlotInfo { id, kind, label, created, distrusted_since: distrusted_since(state, id) }
}

/// The time from which on the claims of a slot are distrusted.
fn distrusted_since(state: &Generation, slot: SlotId) -> Option<Timestamp> {
    state.distrusted_slots.iter().filter(|d| d.slot == slot).map(|d| d.since).min()
}

/// Adds a slot for `passphrase`.
///
/// # Errors
/// `WrongKey` from a write-only slot; `Usage` for an empty passphrase; `Storage`.
pub fn add(repo: &Repository, kind: SlotKind, label: &str, passphrase: &[u8], cost: KdfCost) -> Result<SlotId> {
    if passphrase.is_empty() {
        return Err(Error::new(Kind::Usage, "the new passphrase is empty"));
    }
    repo.seen.require_same_repository()?;
    repo.keys.require_full("creating a key slot")?;
    if let Ok(state) = repo.probe_generation()?.1 {
        repo.refuse_removed_slot(&state)?;
    }
    let id = SlotId::random(repo.env.as_ref());
    repo.keys.write_slot(repo.storage.as_ref(), repo.env.as_ref(), id, NewSlot { kind, label, passphrase, cost })?;
    Ok(id)
}

/// Removes the slot whose id begins with `prefix`. The slot in use, and the last full one, stay.
///
/// # Errors
/// `NotFound`, `Usage`, `Storage`; `WrongKey` from a write-only slot, and from one that was removed;
/// `Busy` when others go on publishing generations.
pub fn remove(repo: &Repository, prefix: &str) -> Result<SlotChange> {
    repo.keys.require_full("removing a key slot")?;
    repo.seen.require_same_repository()?;
    let slots = list_slots(repo.storage.as_ref())?;
    let matching: Vec<_> =
        slots.iter().filter(|(id, _)| !prefix.is_empty() && id.to_string().starts_with(prefix)).collect();
    let id = match matching[..] {
        [(id, _)] => *id,
        [] => {
            return Err(Error::new(Kind::NotFound, format!("no key slot begins with `{}`", prefix.escape_debug()))
                .hint("`alluvium key list` lists them"));
        }
        _ => {
            return Err(Error::new(Kind::Usage, format!("{} key slots begin with `{prefix}`", matching.len()))
                .hint("give more digits"));
        }
    };
    if id == repo.keys.slot() {
        return Err(Error::new(Kind::Usage, "this is the slot of the passphrase in use")
            .hint("use another passphrase to remove it, or `alluvium key change`"));
    }
    Ok(SlotChange { id, remaining: retire(repo, id, None)? })
}

/// Replaces the slot in use by one for `passphrase`: adds a slot, then removes the old one by the rule of
/// [`remove`]. Afterwards `repo` may write nothing more.
///
/// # Errors
/// As [`add`] and [`remove`]. Both passphrases work then, unless the slot in use was removed.
pub fn change(repo: &Repository, passphrase: &[u8], cost: KdfCost) -> Result<SlotChange> {
    let old = repo.keys.slot();
    let label = repo.keys.known_slot(old).map_or_else(String::new, |s| s.certificate.label);
    let id = add(repo, SlotKind::Full, &label, passphrase, cost)?;
    match retire(repo, old, Some(id)) {
        Ok(remaining) => Ok(SlotChange { id, remaining }),
        // Whoever removed the slot in use meanwhile did not mean to leave another in its place.
        Err(e) if e.kind() == Kind::WrongKey => {
            repo.storage.delete(&keyslot::object_name(id))?;
            Err(e.during("the passphrase was not changed"))
        }
        Err(e) => Err(e.during("the new passphrase works, and so does the old one")),
    }
}

/// Publishes that `id` was removed, deletes its object, and those of slots that an interrupted removal
/// left. Returns the slots that remain; `new` was written just now, and a listing may lack it.
fn retire(repo: &Repository, id: SlotId, new: Option<SlotId>) -> Result<Vec<SlotInfo>> {
    for attempt in 1.. {
        let (number, state) = repo.newest_generation().map_err(|e| match e.kind() {
            Kind::Damaged => e.during("no key slot was removed").hint("`alluvium repair index` publishes a new one"),
            _ => e,
        })?;
        repo.refuse_removed_slot(&state)?;
        // Listed after the generation was read: a slot whose removal is older counts no more.
        let mut remaining = usable_slots(repo, &state, new)?;
        remaining.retain(|slot| slot.id != id);
        if !remaining.iter().any(|slot| slot.kind == SlotKind::Full) {
            return Err(Error::new(Kind::Usage, "no other full key slot would remain; no key slot was removed")
                .hint("add one first (`alluvium key add`); a slot that can't be read or verified does not count"));
        }
        let mut removed: Vec<SlotId> = state.removed_slots.iter().map(|removed| removed.slot).collect();
        if !state.has_removed(id) {
            let mut next = state;
            next.removed_slots.push(RemovedSlot { slot: id, time: repo.env.now() });
            removed.push(id);
            match repo.publish_settled(number + 1, &next) {
                // Signed with the authority of an epoch that ended meanwhile, it does not count.
                Ok(_) if !repo.newest_generation()?.1.has_removed(id) => {
                    if attempt < ATTEMPTS {
                        continue;
                    }
                    break;
                }
                Ok(_) => {}
                Err(e) if e.kind() == Kind::Busy && attempt < ATTEMPTS => continue,
                Err(e) if e.kind() == Kind::Denied => {
                    return Err(e.during("no key slot was removed").hint(
                        "a removal is published under prune/ before the slot goes: use credentials that may create \
                         objects there and delete under keys/",
                    ));
                }
                Err(e) => return Err(e.during("no key slot was removed")),
            }
        }
        for slot in removed {
            let name = keyslot::object_name(slot);
            if slot == id || repo.storage.stat(&name)?.is_some() {
                repo.storage.delete(&name)?;
            }
        }
        return Ok(remaining);
    }
    Err(Error::new(Kind::Busy, "others go on publishing generations; no key slot was removed"))
}

/// The slots that can be read, verify, and were not removed, oldest first.
fn usable_slots(repo: &Repository, state: &Generation, new: Option<SlotId>) -> Result<Vec<SlotInfo>> {
    let slots = all_slots(repo, new)?;
    let usable = slots.into_iter().filter_map(|(id, slot)| {
        let (slot, bytes) = slot.ok().filter(|_| !state.has_removed(id))?;
        Some(slot_info(id, repo.keys.verify_slot(id, &slot, &bytes).ok()?, state))
    });
    let mut usable: Vec<SlotInfo> = usable.collect();
    usable.sort_by_key(|slot| (slot.created, slot.id));
    Ok(usable)
}

/// The key slots that are listed, and those that the key ring knows and the listing lacks: a listing may be cut.
fn all_slots(repo: &Repository, new: Option<SlotId>) -> Result<Slots> {
    let mut slots = list_slots(repo.storage.as_ref())?;
    let listed: BTreeSet<SlotId> = slots.iter().map(|(id, _)| *id).collect();
    let known: BTreeSet<SlotId> = repo.keys.ring().slots.keys().copied().chain(new).collect();
    for id in known.difference(&listed) {
        let name = keyslot::object_name(*id);
        let bytes = match repo.storage.get(&name, KEY_SLOT_BYTES_MAX) {
            Err(e) if e.kind() == Kind::NotFound && Some(*id) != new => continue,
            read => read?,
        };
        let decoded = KeySlot::decode(&bytes).map_err(|e| e.in_object(&name));
        slots.push((*id, decoded.map(|slot| (slot, bytes))));
    }
    Ok(slots)
}

/// What a distrust covers.
#[derive(Debug, serde::Serialize)]
pub struct Distrust {
    /// The slot.
    pub id: SlotId,
    /// Since when its claims count for nothing.
    pub since: Timestamp,
    /// The snapshots that it took since then.
    pub snapshots: Vec<SnapshotId>,
}

/// Distrusts all that the slot whose id begins with `prefix` wrote since `since`: its snapshots are no
/// longer the newest or good, and no new snapshot relies on what it stored. A slot that was removed can
/// be distrusted, too. Nothing is deleted.
///
/// # Errors
/// `NotFound`, `Usage`; `Busy`, `Damaged`, `Storage`; `WrongKey` from a write-only slot.
pub fn distrust(repo: &Repository, prefix: &str, since: Timestamp) -> Result<Distrust> {
    repo.keys.require_full("distrusting a key slot")?;
    repo.seen.require_same_repository()?;
    repo.keys.refresh_ring(repo.storage.as_ref())?;
    let ring = repo.keys.ring();
    let matching: Vec<SlotId> =
        ring.slots.keys().copied().filter(|id| !prefix.is_empty() && id.to_string().starts_with(prefix)).collect();
    let id = match matching[..] {
        [id] => id,
        [] => {
            return Err(Error::new(Kind::NotFound, format!("no key slot begins with `{}`", prefix.escape_debug()))
                .hint("`alluvium snapshots` shows who took each, `alluvium key list` the slots there are"));
        }
        _ => {
            return Err(Error::new(Kind::Usage, format!("{} key slots begin with `{prefix}`", matching.len()))
                .hint("give more digits"));
        }
    };
    if id == repo.keys.slot() {
        return Err(Error::new(Kind::Usage, "this is the slot of the passphrase in use")
            .hint("open the repository with another full passphrase to distrust it"));
    }
    for _ in 0..ATTEMPTS {
        let (number, mut state) = repo.newest_generation()?;
        repo.refuse_removed_slot(&state)?;
        let since = distrusted_since(&state, id).map_or(since, |before| before.min(since));
        state.distrusted_slots.retain(|d| d.slot != id);
        state.distrusted_slots.push(DistrustedSlot { slot: id, since });
        match repo.publish_settled(number + 1, &state) {
            Err(e) if e.kind() == Kind::Busy => continue,
            published => published?,
        };
        let (mut snapshots, _) = repo.snapshots()?;
        repo.mark_distrusted(&mut snapshots, &state)?;
        let of_slot = |s: &Snapshot| s.author == id && s.is_distrusted;
        let snapshots = snapshots.iter().filter(|s| of_slot(s)).map(|s| s.id).collect();
        return Ok(Distrust { id, since, snapshots });
    }
    Err(Error::new(Kind::Busy, "others go on publishing generations; nothing was distrusted")
        .hint("let them finish, then try again"))
}

/// Begins a new key epoch: what is stored from now on opens only with the slots there are now. Returns
/// the epoch's number. When a slot is removed meanwhile that got the epoch's secrets, it begins another
/// one without that slot.
///
/// # Errors
/// `WrongKey` from a write-only slot; `Storage`; `Damaged` when the newest generation can't be read; `Busy`,
/// also when a slot was added meanwhile that the new epoch left out.
pub fn rotate(repo: &Repository) -> Result<u32> {
    repo.keys.require_full("rotating the keys")?;
    let mut began = 0;
    for _ in 0..ATTEMPTS {
        repo.keys.refresh_ring(repo.storage.as_ref())?;
        let (_, state) = repo.newest_generation().map_err(|e| match e.kind() {
            Kind::Damaged => e.during("no key epoch began").hint("`alluvium repair index` publishes a new one"),
            _ => e,
        })?;
        repo.refuse_removed_slot(&state)?;
        let before = key_slots(repo)?;
        let full = full_slots(repo, &state)?;
        began = repo.keys.begin_epoch(repo.storage.as_ref(), repo.env.as_ref(), &before, &full)?;
        if settle_epoch(repo, began, &full)? {
            return refuse_left_out(repo, began, &before, &full).map(|()| began);
        }
    }
    Err(Error::new(Kind::Busy, format!("others go on removing key slots; key epoch {began} began all the same"))
        .hint("a removed slot has its secrets: run `alluvium key rotate` again"))
}

/// The full slots that can be read, verify, and were not removed.
fn full_slots(repo: &Repository, state: &Generation) -> Result<Vec<SlotId>> {
    // One that can't be read now would lose what is stored from now on.
    for (id, slot) in all_slots(repo, None)? {
        if let Err(e) = slot
            && matches!(e.kind(), Kind::Storage | Kind::Denied)
        {
            return Err(e.during(format!("reading key slot {id}")));
        }
    }
    let mut full = usable_slots(repo, state, None)?;
    full.retain(|slot| slot.kind == SlotKind::Full);
    Ok(full.iter().map(|slot| slot.id).collect())
}

/// Publishes the first order of the new authority: from now on those of the old one do not count. False
/// when one of the slots that have the epoch's secrets was removed before.
fn settle_epoch(repo: &Repository, epoch: u32, with_secrets: &[SlotId]) -> Result<bool> {
    for _ in 0..ATTEMPTS {
        let (number, state) = repo.newest_generation()?;
        repo.refuse_removed_slot(&state).map_err(|e| {
            e.during(format!("key epoch {epoch} began, and a removed slot has its secrets"))
                .hint("run `alluvium key rotate` with the passphrase of another full slot")
        })?;
        if with_secrets.iter().any(|slot| state.has_removed(*slot)) {
            return Ok(false);
        }
        match repo.publish_settled(number + 1, &state) {
            Err(e) if e.kind() == Kind::Busy => {}
            published => return published.map(|_| true),
        }
    }
    Err(Error::new(Kind::Busy, format!("others go on publishing generations; key epoch {epoch} began all the same"))
        .hint("run `alluvium prune`: what it publishes is signed with the new epoch's authority"))
}

/// Refuses when slots were added since `before`, too late for the epoch to list them or to give them its
/// secrets. `key add` checks for it as well, so one of the two notices.
fn refuse_left_out(repo: &Repository, epoch: u32, before: &[SlotId], with_secrets: &[SlotId]) -> Result<()> {
    let (_, state) = repo.newest_generation()?;
    repo.keys.refresh_ring(repo.storage.as_ref())?;
    let ring = repo.keys.ring();
    let began = ring.epochs.get(&epoch).map(|known| &known.epoch);
    for id in key_slots(repo)? {
        if before.contains(&id) || with_secrets.contains(&id) || state.has_removed(id) {
            continue;
        }
        let listed = began.is_some_and(|epoch| epoch.certificates.iter().any(|listed| listed.slot == id));
        let is_left_out = match ring.slots.get(&id) {
            None => true,
            // One that the epoch does not list was made since then.
            Some(known) => listed && known.certificate.kind == SlotKind::Full,
        };
        if is_left_out {
            let what = format!("key epoch {epoch} began, and slot {id}, which was added meanwhile, was left out");
            return Err(
                Error::new(Kind::Busy, what).hint(format!("remove it (`alluvium key remove {id}`), then add it again"))
            );
        }
    }
    Ok(())
}

/// The ids of all key slots that are listed.
fn key_slots(repo: &Repository) -> Result<Vec<SlotId>> {
    let listed = repo.storage.list(keyslot::PREFIX)?;
    Ok(listed.iter().filter_map(|o| o.name.strip_prefix(keyslot::PREFIX)?.parse().ok()).collect())
}

/// Makes a key file at `path`, readable by its owner alone, and a slot that it opens.
///
/// # Errors
/// As [`add`]; `AlreadyExists` when there is a file; `Failed` when it can't be written.
pub fn add_file(repo: &Repository, kind: SlotKind, label: &str, path: &Path) -> Result<SlotId> {
    repo.keys.require_full("adding a key file")?;
    let failed = |e: std::io::Error| {
        let kind = if e.kind() == ErrorKind::AlreadyExists { Kind::AlreadyExists } else { Kind::Failed };
        Error::new(kind, format!("can't write the key file {}", path.display())).because(e)
    };
    let text = new_key_file(repo.env.as_ref());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    // Durable before the slot is: a slot whose key is lost is worth nothing.
    let written = file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n"));
    let added = written
        .and_then(|()| file.sync_all())
        .map_err(failed)
        .and_then(|()| add(repo, kind, label, text.as_bytes(), KdfCost::default()));
    if added.is_err() {
        let _ = std::fs::remove_file(path);
    }
    added
}
