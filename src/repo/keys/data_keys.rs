//! Data keys: a session generates one, seals it to the newest epoch, and seals with it what it stores.

use zeroize::Zeroizing;

use crate::env::{Env, lock};
use crate::error::{Error, Result};
use crate::format::pack::WrappedKey;
use crate::format::{ObjectKind, associated_data, epoch};
use crate::id::DataKeyId;
use crate::transform::hash::data_key_id;
use crate::transform::seal::{self, Purpose};

use super::Keys;

/// The data key of a session, with its sealed form for others.
pub struct DataKey {
    /// Seals and opens blobs and the manifest's body.
    pub key: seal::SealKey,
    /// Its sealed form, for packs, index objects and the manifest.
    pub wrapped: WrappedKey,
}

impl Keys {
    /// Generates a data key and seals it to the newest epoch.
    ///
    /// # Errors
    /// `Damaged` if the public key of the epoch is not valid.
    pub fn new_data_key(&self, env: &dyn Env) -> Result<DataKey> {
        let mut plain = Zeroizing::new([0; 32]);
        env.fill_random(plain.as_mut_slice());
        let wrapped = self.wrap_data_key(env, &plain)?;
        Ok(DataKey { key: seal::SealKey::new(&plain), wrapped })
    }

    /// Seals a data key to the newest epoch.
    fn wrap_data_key(&self, env: &dyn Env, plain: &[u8; 32]) -> Result<WrappedKey> {
        let id = data_key_id(plain);
        let ring = lock(&self.ring);
        let (number, known) = ring.newest();
        let associated = self.data_key_name(id, number);
        let (kem_output, sealed) = seal::wrap(env, Purpose::DataKey, &known.epoch.public, &associated, plain)
            .map_err(|e| Error::damaged(epoch::object_name(number), e))?;
        let sealed = sealed.try_into().expect("a sealed key is 48 bytes");
        Ok(WrappedKey { id, epoch: number, kem_output, sealed })
    }

    /// Opens a data key of another repository and seals it to the newest epoch of this one.
    ///
    /// # Errors
    /// As [`open_data_key`](Self::open_data_key) of `from`.
    pub fn take_over_data_key(&self, env: &dyn Env, from: &Self, wrapped: &WrappedKey) -> Result<WrappedKey> {
        let plain = from.unwrap_data_key(wrapped)?;
        self.wrap_data_key(env, &plain)
    }

    /// Opens a data key and keeps it in memory.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot; `Damaged` if it does not open or does not match its id.
    pub fn open_data_key(&self, wrapped: &WrappedKey) -> Result<seal::SealKey> {
        if let Some(key) = lock(&self.opened).get(&wrapped.id) {
            return Ok(key.clone());
        }
        let key = seal::SealKey::new(&*self.unwrap_data_key(wrapped)?);
        lock(&self.opened).insert(wrapped.id, key.clone());
        Ok(key)
    }

    /// Opens a wrapped data key as it is, whatever is known of its id.
    ///
    /// # Errors
    /// As [`open_data_key`](Self::open_data_key).
    pub fn verify_data_key(&self, wrapped: &WrappedKey) -> Result<()> {
        self.unwrap_data_key(wrapped).map(drop)
    }

    /// Returns the data key if it was opened before.
    pub fn opened_data_key(&self, id: DataKeyId) -> Option<seal::SealKey> {
        lock(&self.opened).get(&id).cloned()
    }

    fn unwrap_data_key(&self, wrapped: &WrappedKey) -> Result<Zeroizing<[u8; 32]>> {
        self.require_full("reading stored data")?;
        let bad = |what: &str| Error::damaged(format!("data key {}", wrapped.id), what);
        let ring = lock(&self.ring);
        let epoch = ring.epochs.get(&wrapped.epoch).ok_or_else(|| bad("of an unknown key epoch"))?;
        let secrets = epoch.secrets.as_ref();
        let secret = secrets.ok_or_else(|| bad("of a key epoch whose secret this slot was not given"))?;
        let associated = self.data_key_name(wrapped.id, wrapped.epoch);
        let (kem_output, sealed) = (&wrapped.kem_output, &wrapped.sealed);
        let open = || {
            let plain = seal::unwrap(Purpose::DataKey, &secret.secret.0, &associated, kem_output, sealed)?;
            Some(Zeroizing::new(<[u8; 32]>::try_from(&plain[..]).ok()?))
        };
        let key = self.proofs.open(&[&secret.secret.0, kem_output, sealed, &associated], open);
        key.filter(|key| data_key_id(key) == wrapped.id)
            .ok_or_else(|| bad("does not open: altered, or from another repository"))
    }

    /// Returns the associated data of a wrapped data key: its id and epoch.
    fn data_key_name(&self, id: DataKeyId, epoch: u32) -> Vec<u8> {
        let mut name = id.0.to_vec();
        name.extend_from_slice(&epoch.to_le_bytes());
        associated_data(ObjectKind::DataKey, self.repo, &name)
    }
}
