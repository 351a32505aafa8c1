//! The begin of a key epoch.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::env::{Env, lock};
use crate::error::{Error, Kind, Result};
use crate::format::epoch::{self, CERTIFICATES_MAX, EPOCH_MAX, Epoch, Listed, SealedSecrets};
use crate::format::limits::EPOCH_BYTES_MAX;
use crate::format::{ObjectKind, certificate};
use crate::id::SlotId;
use crate::repo::refuse_unreadable;
use crate::repo::ring::secrets_name;
use crate::storage::Storage;
use crate::transform::seal::{self, Purpose};
use crate::transform::sign::Signer;

use super::Keys;
use super::signing::Sealer;

impl Keys {
    /// Begins a key epoch and returns its number, the next. New data opens only with its secrets,
    /// which are sealed to the full slots `to`. An epoch has one name for its successor, so the first
    /// order under that name is the successor for ever.
    ///
    /// A certificate that the new epoch does not list never counts again. So it lists all that the one before
    /// lists, whether they can be read or not, and those of `slots` and of every other slot that is listed.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot; `Storage`, also if a certificate can't be read now; `Busy` if
    /// another machine began one at the same time; `Damaged` if an object that does not count has the
    /// name, and without the certificate of a slot in `to` or of this one.
    pub fn begin_epoch(&self, storage: &dyn Storage, env: &dyn Env, slots: &[SlotId], to: &[SlotId]) -> Result<u32> {
        self.require_full("beginning a key epoch")?;
        self.look_for(slots.iter().chain(to).copied());
        self.refresh_ring(storage)?;
        let ring = self.ring();
        let (previous, known) = ring.newest();
        let before = known.secrets.as_ref().ok_or_else(|| no_secrets(previous))?;
        let number = successor(previous)?;
        if ring.is_cut || ring.slots.len() > CERTIFICATES_MAX || to.len() > CERTIFICATES_MAX {
            return Err(too_many_certificates());
        }
        if let Some(slot) = ring.unread_slots.first() {
            let what = format!("{} can't be read now: no key epoch was begun", certificate::object_name(*slot));
            return Err(Error::new(Kind::Storage, what).hint("try again when the storage answers"));
        }
        if !to.contains(&self.slot) {
            let what = "does not verify: no key epoch was begun, since this slot would not get its secrets";
            return Err(Error::damaged(crate::format::keyslot::object_name(self.slot), what)
                .hint("run `alluvium check`, or use the passphrase of another full slot"));
        }
        let name = epoch::object_name(number);
        let (public, secret) = seal::generate_key_pair(env);
        let (authority, authority_secret) = Signer::generate(env);
        let plain = Zeroizing::new([&secret[..], &authority_secret[..]].concat());
        let before_listed = known.epoch.certificates.iter().map(|listed| (listed.slot, listed.digest));
        let read = ring.slots.iter().map(|(slot, known)| (*slot, known.digest));
        let certificates: BTreeMap<SlotId, [u8; 32]> = before_listed.chain(read).collect();
        if certificates.len() > CERTIFICATES_MAX {
            return Err(too_many_certificates());
        }
        let certificates = certificates.into_iter().map(|(slot, digest)| Listed { slot, digest }).collect();
        let mut secrets = Vec::new();
        for slot in to {
            let Some(known) = ring.slots.get(slot) else {
                let what = "does not count: no key epoch was begun, since its slot would not get the secrets";
                return Err(Error::damaged(certificate::object_name(*slot), what)
                    .hint("bring it back from a copy of the repository"));
            };
            let associated = secrets_name(self.repo, number, *slot);
            let sealing = &known.certificate.sealing;
            let (kem_output, sealed) = seal::wrap(env, Purpose::EpochSecret, sealing, &associated, &plain)
                .map_err(|e| Error::damaged(certificate::object_name(*slot), e))?;
            let sealed = sealed.try_into().expect("two secrets and a tag");
            secrets.push(SealedSecrets { slot: *slot, kem_output, sealed });
        }
        let authority = authority.public();
        let epoch = Epoch { previous, created: env.now(), public, authority, certificates, secrets };
        let sealer = Sealer { env, repo: self.repo, index: &self.index };
        let signer = Signer::new(&before.authority.0);
        let object = sealer.order(previous, &signer, ObjectKind::Epoch, &name, &epoch.encode());
        refuse_unreadable(&name, &object, EPOCH_BYTES_MAX)?;
        match storage.put_new(&name, &object) {
            Err(e) if e.kind() != Kind::AlreadyExists => return Err(e),
            _ => self.refresh_ring(storage)?,
        }
        let ring = lock(&self.ring);
        match ring.epochs.get(&number) {
            Some(known) if known.epoch.authority == authority => Ok(number),
            Some(_) => Err(Error::new(Kind::Busy, "another machine began a key epoch at the same time")
                .hint("run `alluvium key rotate` again to begin one more")),
            None => Err(Error::damaged(
                name,
                "has the name of the next key epoch and does not count; no key epoch was begun",
            )
            .hint(
                "if a copy of the repository has another object of this name, restore that one; else delete this one; \
                 then run `alluvium key rotate` again",
            )),
        }
    }
}

/// Returns the number of the epoch after `previous`.
fn successor(previous: u32) -> Result<u32> {
    if previous >= EPOCH_MAX {
        let what = format!("key epoch {previous} is the last one, nothing can follow it");
        return Err(Error::new(Kind::Failed, what));
    }
    Ok(previous + 1)
}

pub(super) fn too_many_certificates() -> Error {
    Error::new(Kind::Failed, format!("there are too many objects in slots/: {CERTIFICATES_MAX} can count"))
        .hint("`alluvium check` names those that do not count: delete them")
}

pub(super) fn no_secrets(epoch: u32) -> Error {
    let what = format!("this slot was not given the secrets of key epoch {epoch}");
    Error::new(Kind::WrongKey, what)
        .hint("it was removed, or the epoch was begun without it: use another full passphrase")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_the_last_epoch() {
        assert_eq!(successor(EPOCH_MAX - 1).expect("the last"), EPOCH_MAX);
        let error = successor(EPOCH_MAX).expect_err("there is none");
        assert_eq!(error.kind(), Kind::Failed);
        assert!(error.to_string().contains("99999999"), "{error}");
    }
}
