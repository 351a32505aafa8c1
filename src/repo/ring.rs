//! The key ring: which key epochs and which slots there are, and whose word counts.
//!
//! ```text
//! config: authority of epoch 1 ── signs ──> epochs/00000001 ── signs ──> epochs/00000002 ── ...
//!                                               └─ signs ──> slots/<id> (certificate) ── signs ──> claims
//! ```
//!
//! An epoch counts when the newest epoch before it signed it. A certificate counts when the authority of
//! an epoch signed it and every later epoch lists it: so nobody who has only old secrets can add one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::error::{Error, Kind, Result};
use crate::format::certificate::{self, Certificate};
use crate::format::epoch::{self, Epoch};
use crate::format::keyslot::{EpochSecrets, SecretBytes, SlotKeys, SlotKind};
use crate::format::limits::{CERTIFICATE_BYTES_MAX, EPOCH_BYTES_MAX};
use crate::format::signed::Order;
use crate::format::{ObjectKind, associated_data, envelope};
use crate::id::{RepoId, SlotId};
use crate::report::Problem;
use crate::storage::Storage;
use crate::transform::hash::stream_digest;
use crate::transform::seal::{self, Purpose, SealKey};
use crate::transform::sign::{self, Signer};

use super::parallel::{at_once, both, each};

/// The objects of a ring as they lie in the storage.
pub struct RawRing {
    epochs: Vec<(u32, Result<Vec<u8>>)>,
    certificates: Vec<(SlotId, Result<Vec<u8>>)>,
}

impl RawRing {
    /// Reads all epochs and certificates.
    ///
    /// # Errors
    /// `Storage` when they can't be listed; one that can't be read is a problem of the ring.
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let (epochs, slots) = both(storage, || storage.list(epoch::PREFIX), || storage.list(certificate::PREFIX));
        let numbers: Vec<u32> = epochs?.iter().filter_map(|object| epoch::number_of(&object.name)).collect();
        let slots: Vec<SlotId> =
            slots?.iter().filter_map(|object| object.name.strip_prefix(certificate::PREFIX)?.parse().ok()).collect();
        let read = |name: &str, max| storage.get(name, max);
        let threads = at_once(storage);
        let epochs = each(threads, &numbers, |n| read(&epoch::object_name(*n), EPOCH_BYTES_MAX));
        let certificates = each(threads, &slots, |id| read(&certificate::object_name(*id), CERTIFICATE_BYTES_MAX));
        Ok(Self {
            epochs: numbers.into_iter().zip(epochs).collect(),
            certificates: slots.into_iter().zip(certificates).collect(),
        })
    }
}

/// A slot that an authority vouches for.
#[derive(Clone, Debug)]
pub struct KnownSlot {
    /// What its certificate says.
    pub certificate: Certificate,
    /// BLAKE3 of the certificate's content, by which epochs list it.
    pub digest: [u8; 32],
}

/// An epoch in force, with its secrets where this slot has them.
#[derive(Clone)]
pub struct KnownEpoch {
    /// What its object says.
    pub epoch: Epoch,
    /// What opens its data keys and signs its orders.
    pub secrets: Option<EpochSecrets>,
}

/// Epochs and certificates that count, and what is wrong with the others.
#[derive(Clone, Default)]
pub struct Ring {
    /// By number.
    pub epochs: BTreeMap<u32, KnownEpoch>,
    /// By slot.
    pub slots: HashMap<SlotId, KnownSlot>,
    /// Objects that do not count.
    pub problems: Vec<Problem>,
    /// Numbers of epochs that do not count. Objects never change, so they will not.
    void: BTreeSet<u32>,
}

impl Ring {
    /// The ring that starts from `plain.authority`.
    ///
    /// # Errors
    /// `Damaged` without a first epoch.
    pub fn judge(raw: RawRing, repo: RepoId, plain: &SlotKeys, slot: SlotId) -> Result<Self> {
        let index = SealKey::new(&plain.index.0);
        let mut ring = Self::default();
        let RawRing { mut epochs, mut certificates } = raw;
        epochs.sort_by_key(|(number, _)| *number);
        for (number, bytes) in epochs {
            let name = epoch::object_name(number);
            let judged = bytes
                .and_then(|bytes| open_order(&index, repo, ObjectKind::Epoch, &name, &bytes))
                .and_then(|signed| ring.judge_epoch(repo, number, &name, &signed, plain.authority));
            match judged {
                Ok(epoch) => {
                    let secrets = secrets_of(repo, number, &epoch, plain, slot);
                    ring.epochs.insert(number, KnownEpoch { epoch, secrets });
                }
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => {
                    if e.kind() == Kind::Damaged {
                        ring.void.insert(number);
                    }
                    ring.problems.push(Problem::new(name, &e));
                }
            }
        }
        if ring.epochs.is_empty() {
            let what = "there is no valid key epoch: without it nothing can be verified";
            return Err(Error::damaged(epoch::object_name(1), what)
                .hint("bring the folder `epochs` back from a copy of the repository"));
        }
        certificates.sort_by_key(|(id, _)| *id);
        for (id, bytes) in certificates {
            let name = certificate::object_name(id);
            let judged = bytes
                .and_then(|bytes| open_order(&index, repo, ObjectKind::Certificate, &name, &bytes))
                .and_then(|signed| ring.judge_certificate(repo, id, &name, &signed));
            match judged {
                Ok(known) => {
                    ring.slots.insert(id, known);
                }
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => ring.problems.push(Problem::new(name, &e)),
            }
        }
        Ok(ring)
    }

    fn judge_epoch(&self, repo: RepoId, number: u32, name: &str, signed: &Signed, first: [u8; 32]) -> Result<Epoch> {
        let epoch = Epoch::decode(&signed.content).map_err(|e| e.in_object(name))?;
        let (previous, authority) = match self.epochs.last_key_value() {
            None => (0, first),
            Some((number, known)) => (*number, known.epoch.authority),
        };
        let is_first = number == 1 && epoch.previous == 0 && epoch.authority == first;
        let follows = previous > 0 && epoch.previous == previous && signed.order.epoch == previous;
        if !(follows || previous == 0 && is_first && signed.order.epoch == 1) {
            return Err(Error::forged(name, "does not follow the newest key epoch"));
        }
        signed.verify(repo, ObjectKind::Epoch, name, &authority)?;
        Ok(epoch)
    }

    fn judge_certificate(&self, repo: RepoId, id: SlotId, name: &str, signed: &Signed) -> Result<KnownSlot> {
        let authority = self.authority(signed.order.epoch, name)?;
        signed.verify(repo, ObjectKind::Certificate, name, &authority)?;
        let certificate = Certificate::decode(&signed.content).map_err(|e| e.in_object(name))?;
        let digest = stream_digest(&signed.content);
        let listed = |known: &KnownEpoch| known.epoch.certificates.iter().any(|c| c.slot == id && c.digest == digest);
        if !self.epochs.range(signed.order.epoch + 1..).all(|(_, known)| listed(known)) {
            return Err(Error::forged(name, "a later key epoch does not list it: it is void"));
        }
        Ok(KnownSlot { certificate, digest })
    }

    /// The public key that verifies the orders of `epoch`.
    ///
    /// # Errors
    /// `Damaged`, forged, for an epoch that is not in force.
    pub fn authority(&self, epoch: u32, name: &str) -> Result<[u8; 32]> {
        let known = self.epochs.get(&epoch).map(|known| known.epoch.authority);
        known.ok_or_else(|| Error::forged(name, format!("names key epoch {epoch}, which is not in force")))
    }

    /// The newest epoch in force.
    pub fn newest(&self) -> (u32, &KnownEpoch) {
        let (number, known) = self.epochs.last_key_value().expect("a ring has a first epoch");
        (*number, known)
    }

    /// Whether an epoch that is listed is newer than the newest that counts, and was not judged.
    pub fn is_news(&self, number: u32) -> bool {
        number > self.newest().0 && !self.void.contains(&number)
    }

    /// The full slots whose certificates count.
    pub fn full_slots(&self) -> impl Iterator<Item = (SlotId, &KnownSlot)> {
        let full = |known: &KnownSlot| known.certificate.kind == SlotKind::Full;
        self.slots.iter().filter(move |(_, known)| full(known)).map(|(id, known)| (*id, known))
    }
}

/// An order that opened and is not yet verified.
pub struct Signed {
    /// Whose authority it names.
    pub order: Order,
    signature: [u8; 64],
    /// What it says.
    pub content: Vec<u8>,
}

impl Signed {
    /// Verifies the signature.
    ///
    /// # Errors
    /// `Damaged`, forged.
    pub fn verify(&self, repo: RepoId, kind: ObjectKind, name: &str, authority: &[u8; 32]) -> Result<()> {
        let message = self.order.message(kind, repo, name.as_bytes(), &self.content);
        if sign::verify(authority, &message, &self.signature) {
            Ok(())
        } else {
            Err(Error::forged(name, "no full slot has signed it"))
        }
    }
}

/// Opens an order without verifying it.
///
/// # Errors
/// `Damaged`.
pub fn open_order(index: &SealKey, repo: RepoId, kind: ObjectKind, name: &str, bytes: &[u8]) -> Result<Signed> {
    let sealed = envelope::decode(kind, bytes).map_err(|e| e.in_object(name))?;
    let plain = index
        .open(&associated_data(kind, repo, name.as_bytes()), sealed)
        .ok_or_else(|| Error::damaged(name, "does not open: altered, swapped, or from another repository"))?;
    let (order, signature, content) = Order::decode(&plain).map_err(|e| e.in_object(name))?;
    Ok(Signed { order, signature, content: content.to_vec() })
}

/// Associated data of an epoch's secrets: the epoch and the slot they are sealed to.
pub fn secrets_name(repo: RepoId, number: u32, slot: SlotId) -> Vec<u8> {
    let mut name = epoch::object_name(number).into_bytes();
    name.extend_from_slice(&slot.0);
    associated_data(ObjectKind::EpochSecrets, repo, &name)
}

/// The secrets of an epoch as far as this slot has them, and only if they fit its public keys.
fn secrets_of(repo: RepoId, number: u32, epoch: &Epoch, plain: &SlotKeys, slot: SlotId) -> Option<EpochSecrets> {
    let known = plain.epochs.iter().find(|known| known.number == number).cloned();
    let secrets = known.or_else(|| {
        let sealed = epoch.secrets.iter().find(|secrets| secrets.slot == slot)?;
        let associated = secrets_name(repo, number, slot);
        let (kem_output, sealed) = (&sealed.kem_output, &sealed.sealed);
        let opened = seal::unwrap(Purpose::EpochSecret, &plain.sealing.0, &associated, kem_output, sealed)?;
        let (secret, authority) = opened.split_at_checked(32)?;
        Some(EpochSecrets {
            number,
            secret: SecretBytes(secret.try_into().ok()?),
            authority: SecretBytes(authority.try_into().ok()?),
        })
    })?;
    let fits = seal::public_key(&secrets.secret.0) == epoch.public
        && Signer::new(&secrets.authority.0).public() == epoch.authority;
    fits.then_some(secrets)
}
