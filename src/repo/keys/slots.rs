//! Key slots and their certificates: creates, lists and verifies them.

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::env::{Env, lock};
use crate::error::{Error, Kind, Result};
use crate::format::certificate::{self, Certificate};
use crate::format::epoch::{CERTIFICATES_MAX, Epoch, Listed};
use crate::format::keyslot::{self, EpochSecrets, Kdf, KeySlot, SecretBytes, SlotKeys, SlotKind};
use crate::format::limits::{KEY_SLOT_BYTES_MAX, KEY_SLOTS_BYTES_MAX, NAME_BYTES_MAX};
use crate::format::{Malformed, ObjectKind, associated_data};
use crate::id::{RepoId, SlotId};
use crate::repo::parallel::{at_once, each};
use crate::repo::refuse_unreadable;
use crate::repo::ring::KnownSlot;
use crate::storage::Storage;
use crate::transform::hash::stream_digest;
use crate::transform::sign::Signer;
use crate::transform::{kdf, seal};

use super::epochs::{no_secrets, too_many_certificates};
use super::key_file::key_file_secret;
use super::signing::Sealer;
use super::{Keys, SharedKeys};

/// The cost of deriving a key from a passphrase. Only tests use less than the default.
#[derive(Clone, Copy, Debug)]
pub struct KdfCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for KdfCost {
    fn default() -> Self {
        Self { memory_kib: kdf::MEMORY_KIB, passes: kdf::PASSES, lanes: kdf::LANES }
    }
}

/// What a new slot is created from.
#[derive(Clone, Copy)]
pub struct NewSlot<'s> {
    /// Whether it may read.
    pub kind: SlotKind,
    /// A name for people.
    pub label: &'s str,
    /// The passphrase or the content of the key file that opens it.
    pub passphrase: &'s [u8],
    /// The cost of opening it by a passphrase. Key files ignore it.
    pub cost: KdfCost,
}

/// A slot in a listing.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SlotInfo {
    /// Its id.
    pub id: SlotId,
    /// Whether it may read.
    pub kind: SlotKind,
    /// A name for people.
    pub label: String,
    /// When it was created.
    pub created: Timestamp,
    /// The time from which on its claims are distrusted; `None` for a trusted slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distrusted_since: Option<Timestamp>,
}

/// A slot that has not been written yet.
pub(super) struct MadeSlot {
    id: SlotId,
    object: Vec<u8>,
    certificate: Certificate,
}

impl MadeSlot {
    pub fn make(
        env: &dyn Env,
        repo: RepoId,
        id: SlotId,
        new: NewSlot<'_>,
        shared: &SharedKeys,
        authority: [u8; 32],
        epochs: Vec<EpochSecrets>,
    ) -> Result<Self> {
        let NewSlot { kind, label, passphrase, cost } = new;
        if label.len() > NAME_BYTES_MAX {
            return Err(Error::new(
                Kind::Usage,
                format!("the label has {} bytes, the limit is {NAME_BYTES_MAX}", label.len()),
            ));
        }
        let kdf = if key_file_secret(passphrase).is_some() {
            Kdf::KeyFile {}
        } else {
            let mut salt = [0; 16];
            env.fill_random(&mut salt);
            let KdfCost { memory_kib, passes, lanes } = cost;
            Kdf::Argon2id { memory_kib, passes, lanes, salt }
        };
        let (sealing, sealing_secret) = seal::generate_key_pair(env);
        let (signer, signing_secret) = Signer::generate(env);
        let plain = SlotKeys {
            chunk_id: shared.chunk_id.clone(),
            chunker_seed: shared.chunker_seed.clone(),
            index: shared.index.clone(),
            authority,
            sealing: SecretBytes(*sealing_secret),
            signing: SecretBytes(*signing_secret),
            epochs: if kind == SlotKind::Full { epochs } else { Vec::new() },
        };
        let key = derive(passphrase, &kdf)?.expect("the derivation was chosen for the passphrase");
        let wrapping = seal::SealKey::new(&key);
        let sealed = wrapping.seal(env, &slot_name(repo, id), &Zeroizing::new(plain.encode()));
        let object = KeySlot::new(repo, kdf, sealed).encode();
        refuse_unreadable(&keyslot::object_name(id), &object, KEY_SLOT_BYTES_MAX)?;
        let certificate = Certificate {
            kind,
            label: label.to_owned(),
            created: env.now(),
            sealing,
            signing: signer.public(),
            key: stream_digest(&object),
        };
        Ok(Self { id, object, certificate })
    }

    /// Writes the certificate first: a slot without one does not count.
    pub fn write(&self, storage: &dyn Storage, sealer: &Sealer<'_>, epoch: u32, authority: &Signer) -> Result<()> {
        let name = certificate::object_name(self.id);
        let content = self.certificate.encode();
        storage.put_new(&name, &sealer.order(epoch, authority, ObjectKind::Certificate, &name, &content))?;
        storage.put_new(&keyslot::object_name(self.id), &self.object)
    }
}

/// Returns the associated data of a slot: its id.
pub(super) fn slot_name(repo: RepoId, id: SlotId) -> Vec<u8> {
    associated_data(ObjectKind::KeySlot, repo, &id.0)
}

/// Derives the key-encryption key; `None` for a passphrase and a key file's slot, or the reverse.
pub(super) fn derive(passphrase: &[u8], kdf: &Kdf) -> Result<Option<Zeroizing<[u8; 32]>>> {
    match (kdf, key_file_secret(passphrase)) {
        (Kdf::KeyFile {}, Some(secret)) => Ok(Some(kdf::from_key_file(&secret))),
        (Kdf::Argon2id { memory_kib, passes, lanes, salt }, None) => {
            kdf::derive(passphrase, salt, *memory_kib, *passes, *lanes)
                .map(Some)
                .map_err(|e| Error::new(Kind::Failed, e))
        }
        _ => Ok(None),
    }
}

/// The slots of a repository: the readable ones with their bytes, the others with the error.
pub type Slots = Vec<(SlotId, Result<(KeySlot, Vec<u8>)>)>;

/// Reads the slots, at most [`KEY_SLOTS_BYTES_MAX`] of them: nobody can judge them before one is open.
///
/// # Errors
/// `Storage`.
pub fn list_slots(storage: &dyn Storage) -> Result<Slots> {
    let mut listed = storage.list(keyslot::PREFIX)?;
    // The oldest first: what somebody adds later crowds none out.
    listed.sort_by(|a, b| (a.modified, &a.name).cmp(&(b.modified, &b.name)));
    let mut left = KEY_SLOTS_BYTES_MAX;
    let ids: Vec<(SlotId, Option<u64>)> = listed
        .iter()
        .filter_map(|object| {
            let id = object.name.strip_prefix(keyslot::PREFIX)?.parse().ok()?;
            let size = (object.size <= left).then_some(object.size);
            left = left.saturating_sub(object.size);
            Some((id, size))
        })
        .collect();
    let read = each(at_once(storage), &ids, |(id, size)| {
        let name = keyslot::object_name(*id);
        let Some(size) = size else {
            let what = format!("is not read: the objects before it have {} MiB", KEY_SLOTS_BYTES_MAX >> 20);
            return Err(Error::damaged(name, what).hint("remove the objects in `keys/` that nobody here made"));
        };
        let bytes = storage.get(&name, KEY_SLOT_BYTES_MAX.min(*size))?;
        let slot = KeySlot::decode(&bytes).map_err(|e: Malformed| e.in_object(&name))?;
        Ok((slot, bytes))
    });
    let mut slots: Vec<_> = ids.into_iter().map(|(id, _)| id).zip(read).collect();
    slots.sort_by_key(|(id, _)| *id);
    Ok(slots)
}

impl Keys {
    /// Creates a slot for a passphrase or key file: its certificate first, then the slot, each
    /// exclusively. A write-only slot gets no secrets of epochs. On success the slot counts in the
    /// newest epoch.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot; `Usage`; `Storage`; `Busy` if another machine began an epoch
    /// at the same time, without this slot.
    pub fn write_slot(&self, storage: &dyn Storage, env: &dyn Env, id: SlotId, new: NewSlot<'_>) -> Result<()> {
        self.require_full("creating a key slot")?;
        self.refresh_ring(storage)?;
        let ring = self.ring();
        if ring.is_cut || ring.slots.len() >= CERTIFICATES_MAX {
            return Err(too_many_certificates());
        }
        let secrets = ring.epochs.values().map(|known| known.secrets.clone());
        let epochs: Option<Vec<EpochSecrets>> = secrets.collect();
        let epochs = epochs.ok_or_else(|| no_secrets(ring.newest().0))?;
        let (number, _) = ring.newest();
        let authority = Signer::new(&epochs.last().expect("a first epoch").authority.0);
        let shared = self.shared();
        let made = MadeSlot::make(env, self.repo, id, new, &shared, self.plain.authority, epochs)?;
        let sealer = Sealer { env, repo: self.repo, index: &self.index };
        made.write(storage, &sealer, number, &authority)?;
        self.settle_slot(storage, number, made)
    }

    /// Returns an error unless a slot counts that was certified in the epoch `number`: another machine
    /// may have begun a later one before it could list the certificate or give the slot the secrets.
    fn settle_slot(&self, storage: &dyn Storage, number: u32, made: MadeSlot) -> Result<()> {
        self.refresh_ring(storage)
            .map_err(|e| e.during("the new key slot was written, and `alluvium key list` shows whether it counts"))?;
        let MadeSlot { id, certificate, .. } = made;
        let digest = stream_digest(&certificate.encode());
        let names = [keyslot::object_name(id), certificate::object_name(id)];
        let mut ring = lock(&self.ring);
        let later: Vec<&Epoch> = ring.epochs.range(number + 1..).map(|(_, known)| &known.epoch).collect();
        let is_listed = |epoch: &&Epoch| epoch.certificates.contains(&Listed { slot: id, digest });
        let has_secrets =
            |epoch: &&Epoch| certificate.kind == SlotKind::WriteOnly || epoch.secrets.iter().any(|s| s.slot == id);
        let counts = later.iter().all(is_listed);
        if counts && later.iter().all(has_secrets) && !ring.is_cut {
            ring.slots.insert(id, KnownSlot { certificate, digest });
            return Ok(());
        }
        let what = if ring.is_cut {
            "there are too many certificates now: the new key slot does not count"
        } else {
            "another machine began a key epoch without the new key slot: the slot does not count"
        };
        drop(ring);
        // Without its object the slot opens nothing. A certificate that an epoch lists must stay.
        let useless = if counts { &names[..1] } else { &names[..] };
        let is_gone = useless.iter().map(|name| storage.delete(name)).all(|deleted| deleted.is_ok());
        let hint = if is_gone {
            "run the command again".to_owned()
        } else {
            format!("delete {}, then run the command again", useless.join(" and "))
        };
        Err(Error::new(Kind::Busy, what).hint(hint))
    }

    /// Verifies that a slot is as it was certified, and returns its certificate.
    ///
    /// # Errors
    /// `Damaged`, with the name of the slot.
    pub fn verify_slot(&self, id: SlotId, slot: &KeySlot, bytes: &[u8]) -> Result<Certificate> {
        let name = keyslot::object_name(id);
        if slot.repository != self.repo {
            return Err(Error::damaged(name, "belongs to another repository")
                .hint(format!("`alluvium key remove {id}` removes it")));
        }
        let known = self.known_slot(id).ok_or_else(|| {
            let certificate = certificate::object_name(id);
            Error::forged(&name, format!("no full slot has certified it: {certificate} is missing or does not count"))
        })?;
        if known.certificate.key == stream_digest(bytes) {
            Ok(known.certificate)
        } else {
            Err(Error::damaged(name, "was altered after it was written"))
        }
    }
}
