//! Opens the keys of a repository with a passphrase or a key file.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};
use crate::format::config::Config;
use crate::format::keyslot::{self, Kdf, KeySlot, SlotKeys};
use crate::id::SlotId;
use crate::repo::ring::{RawRing, Ring};
use crate::storage::Storage;
use crate::transform::{seal, sign};

use super::key_file::key_file_secret;
use super::slots::{derive, slot_name};
use super::{Keys, Slots};

/// Sorts the slots by the cost of trying them. Whoever may create objects can create slots that ask
/// for gigabytes of memory; these come last.
fn cheapest_first(mut slots: Slots) -> Slots {
    let cost = |slot: &KeySlot| match slot.kdf {
        Kdf::KeyFile {} => 0,
        Kdf::Argon2id { memory_kib, passes, .. } => u64::from(memory_kib) * u64::from(passes),
    };
    slots.sort_by_key(|(id, slot)| (slot.as_ref().map_or(0, |(slot, _)| cost(slot)), *id));
    slots
}

/// Opens the one of `slots` that `passphrase` fits.
///
/// # Errors
/// `WrongKey` if no slot opens, after one derivation each; `Damaged` if there is none to try.
pub fn open(slots: Slots, ring: RawRing, storage: &dyn Storage, config: &Config, passphrase: &[u8]) -> Result<Keys> {
    let repo = config.repository;
    let (mut tried, mut problem, mut failed, mut refused) = (0, None, None, None);
    let mut ring = Some(ring);
    for (id, slot) in cheapest_first(slots) {
        let name = keyslot::object_name(id);
        let (slot, bytes) = match slot {
            Ok((slot, bytes)) if slot.repository == repo => (slot, bytes),
            Ok(_) => {
                problem.get_or_insert(Error::damaged(format!("config and {name}"), "belong to different repositories"));
                continue;
            }
            Err(error) => {
                problem.get_or_insert(error);
                continue;
            }
        };
        tried += 1;
        let key = match derive(passphrase, &slot.kdf) {
            Ok(Some(key)) => key,
            Ok(None) => continue,
            // Another slot may ask for less.
            Err(error) => {
                failed.get_or_insert(error.during(&name));
                continue;
            }
        };
        let opened = seal::SealKey::new(&key).open(&slot_name(repo, id), &slot.sealed);
        let Some(plain) = opened.map(Zeroizing::new) else { continue };
        // Who knows the passphrase can seal another slot with it, which no full slot has certified: that keeps nobody
        // from the one that counts.
        let raw = ring.take().map_or_else(|| RawRing::read(storage), Ok)?;
        match certified(id, &slot, &bytes, &plain, raw, storage, config) {
            Err(error) if error.kind() == Kind::Damaged => {
                refused.get_or_insert(error);
            }
            opened => return opened,
        }
    }
    if let Some(error) = refused {
        return Err(error);
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if tried == 0 {
        return Err(problem
            .unwrap_or_else(|| Error::damaged("keys/", "there is no key slot"))
            .hint("nobody can read this repository without a key slot: restore one from a copy"));
    }
    let what = if key_file_secret(passphrase).is_some() { "key file" } else { "passphrase" };
    let error = Error::new(Kind::WrongKey, format!("the {what} opens no key slot of {}", storage.location()));
    Err(match problem {
        Some(problem) => {
            error.because(problem).hint("a key slot is damaged; if it was yours, use the passphrase of another slot")
        }
        None => error
            .hint("check the passphrase; nobody can read this repository without it, the authors of Alluvium included"),
    })
}

/// The keys of a slot that the passphrase opened, if its certificate counts.
fn certified(
    id: SlotId,
    slot: &KeySlot,
    bytes: &[u8],
    plain: &[u8],
    ring: RawRing,
    storage: &dyn Storage,
    config: &Config,
) -> Result<Keys> {
    let (repo, name) = (config.repository, keyslot::object_name(id));
    let plain = SlotKeys::decode(plain).map_err(|e| e.in_object(&name))?;
    if plain.authority != config.authority || !sign::verify(&config.authority, &config.message(), &config.signature) {
        return Err(Error::damaged("config", "its plain part was altered"));
    }
    let ring = Ring::judge(ring, storage, repo, &plain, id, &BTreeSet::new())?;
    let keys = Keys::new(repo, id, plain, ring);
    let certificate = keys.verify_slot(id, slot, bytes)?;
    let is_certified = certificate.sealing == seal::public_key(&keys.plain.sealing.0)
        && certificate.signing == keys.signer.public()
        && certificate.kind == keys.kind();
    if is_certified { Ok(keys) } else { Err(Error::damaged(name, "its keys are not those of its certificate")) }
}

#[cfg(test)]
mod tests {
    use crate::id::RepoId;

    use super::*;

    #[test]
    fn slots_that_cost_more_are_tried_later() {
        let slot = |kdf| Ok((KeySlot::new(RepoId([1; 16]), kdf, Vec::new()), Vec::new()));
        let argon2 = |memory_kib, passes| slot(Kdf::Argon2id { memory_kib, passes, lanes: 1, salt: [0; 16] });
        let slots = vec![
            argon2(4 << 20, 64),
            argon2(64 << 10, 4),
            argon2(64 << 10, 3),
            slot(Kdf::KeyFile {}),
            argon2(64 << 10, 3),
            Err(Error::damaged("keys/05", "is no key slot")),
        ];
        let slots: Slots = slots.into_iter().enumerate().map(|(n, slot)| (SlotId([n as u8; 16]), slot)).collect();
        let order: Vec<u8> = cheapest_first(slots).iter().map(|(id, _)| id.0[0]).collect();
        assert_eq!(order, [3, 5, 2, 4, 1, 0]);
    }
}
