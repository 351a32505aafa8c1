//! `key add | list | remove | change`: the passphrases of a repository.
//!
//! Slots are immutable objects. `change` writes the new slot before it removes the old one, so that an
//! interruption leaves two working passphrases, never none.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::format::keyslot::{self, SlotKind};
use crate::id::SlotId;
use crate::repo::Repository;
use crate::repo::keys::{KdfCost, NewSlot, SlotInfo, list_slots, new_key_file};
use crate::report::{Problem, Report};

/// The slots, oldest first. Unreadable ones are told as problems.
///
/// # Errors
/// `Storage`.
pub fn list(repo: &Repository, report: &dyn Report) -> Result<Vec<SlotInfo>> {
    let mut slots = Vec::new();
    for (id, slot) in list_slots(repo.storage.as_ref())? {
        match slot.and_then(|(slot, bytes)| repo.keys.verify_slot(id, &slot, &bytes)) {
            Ok(slot) => slots.push(SlotInfo { id, kind: slot.kind, label: slot.label, created: slot.created }),
            Err(e) => report.problem(Problem::new(keyslot::object_name(id), &e)),
        }
    }
    Ok(slots)
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
    let id = SlotId::random(repo.env.as_ref());
    repo.keys.write_slot(repo.storage.as_ref(), repo.env.as_ref(), id, NewSlot { kind, label, passphrase, cost })?;
    Ok(id)
}

/// Removes the slot whose id begins with `prefix`. The slot in use, and the last full one, stay.
///
/// # Errors
/// `NotFound`, `Usage`, `Storage`, `WrongKey` from a write-only slot.
pub fn remove(repo: &Repository, prefix: &str) -> Result<SlotId> {
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
    repo.storage.delete(&keyslot::object_name(id))?;
    Ok(id)
}

/// Replaces the slot in use by one for `passphrase`.
///
/// # Errors
/// As [`add`].
pub fn change(repo: &Repository, passphrase: &[u8], cost: KdfCost) -> Result<SlotId> {
    let old = repo.keys.slot();
    let label = repo.keys.known_slot(old).map_or_else(String::new, |s| s.certificate.label);
    let new = add(repo, SlotKind::Full, &label, passphrase, cost)?;
    repo.storage.delete(&keyslot::object_name(old))?;
    Ok(new)
}

/// Begins a new key epoch: what is stored from now on opens only with the slots there are now. Returns
/// the epoch's number.
///
/// # Errors
/// `WrongKey` from a write-only slot; `Busy`, `Storage`.
pub fn rotate(repo: &Repository) -> Result<u32> {
    repo.keys.require_full("rotating the keys")?;
    repo.keys.refresh_ring(repo.storage.as_ref())?;
    let mut full = Vec::new();
    for (id, slot) in list_slots(repo.storage.as_ref())? {
        let verified = slot.and_then(|(slot, bytes)| repo.keys.verify_slot(id, &slot, &bytes));
        if verified.is_ok_and(|certificate| certificate.kind == SlotKind::Full) {
            full.push(id);
        }
    }
    let epoch = repo.keys.begin_epoch(repo.storage.as_ref(), repo.env.as_ref(), &full)?;
    // The first order of the new authority: from now on those of the old one do not count.
    let (number, state) = repo.newest_generation()?;
    repo.publish_generation(number + 1, &state)?;
    Ok(epoch)
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
