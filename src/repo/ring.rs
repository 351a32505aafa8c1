//! The key ring: which key epochs and which slots there are, and whose word counts.
//!
//! ```text
//! config: authority of epoch 1 ── signs ──> epochs/00000001 ── signs ──> epochs/00000002 ── ...
//!                                               └─ signs ──> slots/<id> (certificate) ── signs ──> claims
//! ```
//!
//! An epoch counts when the epoch with the number before signed it. Numbers have no gap: a successor
//! has one name, and once that is taken, the secrets of the ended epoch sign no other. A certificate
//! counts when the authority of an epoch signed it and every later epoch lists it: so nobody who has
//! only old secrets can add one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::error::{Error, Kind, Result};
use crate::format::certificate::{self, Certificate};
use crate::format::epoch::{self, CERTIFICATES_MAX, EPOCH_MAX, Epoch};
use crate::format::keyslot::{EpochSecrets, SecretBytes, SlotKeys, SlotKind};
use crate::format::limits::{CERTIFICATE_BYTES_MAX, EPOCH_BYTES_MAX};
use crate::format::signed::Order;
use crate::format::{ObjectKind, associated_data, envelope};
use crate::id::{RepoId, SlotId};
use crate::report::Problem;
use crate::storage::{Listed, Storage};
use crate::transform::hash::stream_digest;
use crate::transform::seal::{self, Purpose, SealKey};
use crate::transform::sign::{self, Signer};

use super::parallel::{at_once, both, each};

/// Bytes of epochs that are read before anybody can judge them.
const EARLY_BYTES_MAX: u64 = 1 << 20;
/// Names that do not count and are reported one by one.
const REPORTED_MAX: usize = 64;

/// The objects of a ring as they lie in the storage.
pub struct RawRing {
    /// By number; those that are not read yet are `None`.
    epochs: BTreeMap<u32, Option<Result<Vec<u8>>>>,
    certificates: Vec<(SlotId, Result<Vec<u8>>)>,
    /// Objects that are not looked at.
    problems: Vec<Problem>,
    is_cut: bool,
}

impl RawRing {
    /// Reads the first epochs, and the certificates.
    ///
    /// # Errors
    /// `Storage` when they can't be listed; one that can't be read is a problem of the ring.
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let list = |prefix| storage.list(prefix);
        let (epochs, slots) = both(storage, || list(epoch::PREFIX), || list(certificate::PREFIX));
        let numbered = |o: &Listed| Some((epoch::number_of(&o.name)?, o.size));
        let sizes: BTreeMap<u32, u64> = epochs?.iter().filter_map(numbered).collect();
        let mut left = EARLY_BYTES_MAX;
        let follows = |at: usize, number: u32| u32::try_from(at + 1) == Ok(number);
        let is_early = |(at, (number, size)): &(usize, (&u32, &u64))| {
            left = left.saturating_sub(**size);
            follows(*at, **number) && left > 0
        };
        let early = sizes.iter().enumerate().take_while(is_early);
        let early: Vec<(u32, u64)> = early.map(|(_, (number, size))| (*number, *size)).collect();

        let parsed = |o: &Listed| Some((o.modified, o.name.strip_prefix(certificate::PREFIX)?.parse::<SlotId>().ok()?));
        let mut slots: Vec<_> = slots?.iter().filter_map(parsed).collect();
        // The oldest first: what somebody adds later crowds none out.
        slots.sort_unstable();
        let mut problems = Vec::new();
        let is_cut = slots.len() > CERTIFICATES_MAX;
        if is_cut {
            let what = format!(
                "there are {} objects, and at most {CERTIFICATES_MAX} are read: the later ones do not count",
                slots.len()
            );
            problems.push(Problem::new(certificate::PREFIX, what));
            slots.truncate(CERTIFICATES_MAX);
        }
        let threads = at_once(storage);
        let read = |(number, size): &(u32, u64)| storage.get(&epoch::object_name(*number), *size);
        let mut read = each(threads, &early, read).into_iter();
        let certificates =
            each(threads, &slots, |(_, id)| storage.get(&certificate::object_name(*id), CERTIFICATE_BYTES_MAX));
        Ok(Self {
            // What is read are the lowest numbers.
            epochs: sizes.into_keys().map(|number| (number, read.next())).collect(),
            certificates: slots.into_iter().map(|(_, id)| id).zip(certificates).collect(),
            problems,
            is_cut,
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
    /// The first epoch whose object is there and does not open: from it on nothing can be judged.
    unreadable_from: Option<u32>,
    /// Slots whose certificates are there and do not open: nobody forged them.
    unreadable_slots: BTreeSet<SlotId>,
    /// Slots whose certificates the storage did not give, for now.
    pub unread_slots: BTreeSet<SlotId>,
    /// There are more certificates than are read.
    pub is_cut: bool,
    /// Numbers of epochs that do not count. Objects never change, so they will not.
    void: BTreeSet<u32>,
}

impl Ring {
    /// The ring that starts from `plain.authority`. Epochs are read by number until one does not exist: a listing
    /// may be old. The certificates of `wanted` are read even if no listing shows them.
    ///
    /// # Errors
    /// `Damaged` without a first epoch, and without one that the slot's own keys name; `Storage`,
    /// `Denied` for an epoch that may count and can't be read.
    pub fn judge(
        raw: RawRing,
        storage: &dyn Storage,
        repo: RepoId,
        plain: &SlotKeys,
        slot: SlotId,
        wanted: &BTreeSet<SlotId>,
    ) -> Result<Self> {
        let index = SealKey::new(&plain.index.0);
        let RawRing { mut epochs, mut certificates, problems, is_cut } = raw;
        let mut ring = Self { problems, is_cut, ..Self::default() };
        for number in 1..=EPOCH_MAX {
            let name = epoch::object_name(number);
            let read = epochs.remove(&number).flatten();
            let judged = read
                .unwrap_or_else(|| storage.get(&name, EPOCH_BYTES_MAX))
                .and_then(|bytes| open_order(&index, repo, ObjectKind::Epoch, &name, &bytes))
                .and_then(|signed| ring.judge_epoch(repo, number, &name, &signed, plain.authority));
            match judged {
                Ok(epoch) => {
                    let secrets = secrets_of(repo, number, &epoch, plain, slot);
                    ring.epochs.insert(number, KnownEpoch { epoch, secrets });
                    continue;
                }
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) if e.kind() == Kind::Damaged => {
                    if !e.is_forged() {
                        ring.unreadable_from = Some(number);
                    }
                    ring.void.insert(number);
                    ring.problems.push(Problem::new(name, &e));
                }
                // It may count: without it, an epoch that has ended would be the newest.
                Err(e) => return Err(e),
            }
            break;
        }
        ring.report_gap(epochs.keys());
        ring.void.extend(epochs.keys());
        if ring.epochs.is_empty() {
            let what = "there is no valid key epoch: without it nothing can be verified";
            return Err(Error::damaged(epoch::object_name(1), what)
                .hint("bring the folder `epochs` back from a copy of the repository"));
        }
        ring.require_own(plain)?;
        // A listing may be cut: what is known to exist is read by name.
        let read: BTreeSet<SlotId> = certificates.iter().map(|(id, _)| *id).collect();
        let listed = ring.newest().1.epoch.certificates.iter().map(|listed| listed.slot);
        let named: BTreeSet<SlotId> = listed.chain(wanted.iter().copied()).chain([slot]).collect();
        let unlisted: Vec<SlotId> = named.difference(&read).copied().collect();
        let by_name =
            each(at_once(storage), &unlisted, |id| storage.get(&certificate::object_name(*id), CERTIFICATE_BYTES_MAX));
        certificates.extend(unlisted.into_iter().zip(by_name));
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
                Err(e) => {
                    if !e.is_forged() {
                        ring.unreadable_slots.insert(id);
                    }
                    if e.kind() != Kind::Damaged {
                        ring.unread_slots.insert(id);
                    }
                    ring.problems.push(Problem::new(name, &e));
                }
            }
        }
        Ok(ring)
    }

    /// Reports epochs above the newest: they do not count, whoever signed them.
    fn report_gap<'n>(&mut self, numbers: impl ExactSizeIterator<Item = &'n u32>) {
        let more = numbers.len().saturating_sub(REPORTED_MAX);
        for number in numbers.take(REPORTED_MAX) {
            let name = epoch::object_name(*number);
            let error = Error::forged(&name, "does not follow the newest key epoch");
            self.problems.push(Problem::new(name, &error));
        }
        if more > 0 {
            let what = format!("{more} more objects do not follow the newest key epoch");
            self.problems.push(Problem::new(epoch::PREFIX, what));
        }
    }

    /// The slot's own keys are sealed, and name epochs: those were in force when the slot was made.
    fn require_own(&self, plain: &SlotKeys) -> Result<()> {
        let fits = |known: &KnownEpoch, secrets: &EpochSecrets| {
            Signer::new(&secrets.authority.0).public() == known.epoch.authority
        };
        let is_there =
            |secrets: &&EpochSecrets| self.epochs.get(&secrets.number).is_some_and(|known| fits(known, secrets));
        match plain.epochs.iter().find(|secrets| !is_there(secrets)) {
            None => Ok(()),
            Some(secrets) => Err(gone(secrets.number, "was in force when this key slot was made")),
        }
    }

    fn judge_epoch(&self, repo: RepoId, number: u32, name: &str, signed: &Signed, first: [u8; 32]) -> Result<Epoch> {
        let (previous, authority) = match self.epochs.last_key_value() {
            None => (0, first),
            Some((number, known)) => (*number, known.epoch.authority),
        };
        let stray = || Error::forged(name, "does not follow the newest key epoch");
        // The first epoch is signed by its own authority. What nobody has signed is forged, whatever it says.
        if number != previous + 1 || signed.order.epoch != previous.max(1) {
            return Err(stray());
        }
        signed.verify(repo, ObjectKind::Epoch, name, &|message, signature| {
            sign::verify(&authority, message, signature)
        })?;
        let epoch = Epoch::decode(&signed.content).map_err(|e| e.in_object(name))?;
        if epoch.previous != previous || previous == 0 && epoch.authority != first {
            return Err(stray());
        }
        Ok(epoch)
    }

    /// Refuses a ring that lacks what counted before: an epoch that was in force stays.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn require_all_of(&self, before: &Self) -> Result<()> {
        let same = |number: &u32, known: &KnownEpoch| {
            self.epochs.get(number).is_some_and(|now| now.epoch.authority == known.epoch.authority)
        };
        match before.epochs.iter().find(|(number, known)| !same(number, known)) {
            None => Ok(()),
            Some((number, _)) => Err(gone(*number, "was in force a moment ago")),
        }
    }

    fn judge_certificate(&self, repo: RepoId, id: SlotId, name: &str, signed: &Signed) -> Result<KnownSlot> {
        let authority = self.authority(signed.order.epoch, name)?;
        signed.verify(repo, ObjectKind::Certificate, name, &|message, signature| {
            sign::verify(&authority, message, signature)
        })?;
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
    /// `Damaged`: forged for an epoch that is not in force, and not for one whose object does not open.
    pub fn authority(&self, epoch: u32, name: &str) -> Result<[u8; 32]> {
        let known = self.epochs.get(&epoch).map(|known| known.epoch.authority);
        known.ok_or_else(|| {
            if let Some(first) = self.unreadable_from.filter(|first| epoch >= *first) {
                return Error::damaged(name, format!("can't be verified: {} does not open", epoch::object_name(first)));
            }
            Error::forged(name, format!("names key epoch {epoch}, which is not in force"))
        })
    }

    /// True for an epoch that may exist and does not open.
    pub fn may_be_unreadable(&self, epoch: u32) -> bool {
        self.unreadable_from.is_some_and(|first| epoch >= first)
    }

    /// True for a slot whose certificate is there and does not open: what it claims can't be judged.
    pub fn is_unreadable(&self, slot: SlotId) -> bool {
        self.unreadable_slots.contains(&slot)
    }

    /// The newest epoch in force.
    pub fn newest(&self) -> (u32, &KnownEpoch) {
        let (number, known) = self.epochs.last_key_value().expect("a ring has a first epoch");
        (*number, known)
    }

    /// The number of the next epoch, unless its object was judged and does not count.
    pub fn next(&self) -> Option<u32> {
        let next = self.newest().0 + 1;
        (next <= EPOCH_MAX && !self.void.contains(&next)).then_some(next)
    }

    /// The full slots whose certificates count.
    pub fn full_slots(&self) -> impl Iterator<Item = (SlotId, &KnownSlot)> {
        let full = |known: &KnownSlot| known.certificate.kind == SlotKind::Full;
        self.slots.iter().filter(move |(_, known)| full(known)).map(|(id, known)| (*id, known))
    }
}

fn gone(number: u32, since: &str) -> Error {
    let what = format!("this key epoch {since}, and is gone or replaced: the storage shows an older state");
    Error::damaged(epoch::object_name(number), what)
        .hint("bring the folder `epochs` back from a copy of the repository")
}

/// Whether a signature over a message is by the authority that should have signed it.
pub type IsSigned<'s> = &'s dyn Fn(&[u8], &[u8; 64]) -> bool;

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
    pub fn verify(&self, repo: RepoId, kind: ObjectKind, name: &str, is_signed: IsSigned<'_>) -> Result<()> {
        let message = self.order.message(kind, repo, name.as_bytes(), &self.content);
        if is_signed(&message, &self.signature) {
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
