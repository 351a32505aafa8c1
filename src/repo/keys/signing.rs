//! Claims, which a slot signs, and orders, which the authority of an epoch signs.

use crate::env::{Env, lock};
use crate::error::{Error, Result};
use crate::format::signed::{Claim, Order};
use crate::format::{ObjectKind, associated_data};
use crate::id::{RepoId, SlotId};
use crate::transform::seal;
use crate::transform::sign::Signer;

use super::Keys;
use super::epochs::no_secrets;
use crate::repo::ring::open_order;

/// The result of opening a claim.
pub enum Claimed {
    /// The signature verifies: the claim, and its content.
    By(Claim, Vec<u8>),
    /// No certificate of the author has been read: the slot may be new.
    Unknown(SlotId),
}

/// Seals orders.
pub(super) struct Sealer<'s> {
    pub env: &'s dyn Env,
    pub repo: RepoId,
    pub index: &'s seal::SealKey,
}

impl Sealer<'_> {
    pub fn order(&self, epoch: u32, authority: &Signer, kind: ObjectKind, name: &str, content: &[u8]) -> Vec<u8> {
        let order = Order { epoch };
        let signature = authority.sign(&order.message(kind, self.repo, name.as_bytes(), content));
        let plain = order.encode(&signature, content);
        let sealed = self.index.seal(self.env, &associated_data(kind, self.repo, name.as_bytes()), &plain);
        crate::format::envelope::encode(kind, &sealed)
    }
}

impl Keys {
    /// Signs `content` as this slot's claim and seals it. `bound` is what the signature and the seal
    /// are bound to: the object's name, and more where the format says so.
    pub fn seal_claim(&self, env: &dyn Env, kind: ObjectKind, bound: &[u8], content: &[u8]) -> Vec<u8> {
        self.seal_claimed(env, self.claim(env), kind, bound, content)
    }

    /// Returns a claim of this slot with the present time.
    pub fn claim(&self, env: &dyn Env) -> Claim {
        Claim { author: self.slot, time: env.now().as_second() }
    }

    /// As [`seal_claim`](Self::seal_claim), with an earlier claim.
    pub fn seal_claimed(&self, env: &dyn Env, claim: Claim, kind: ObjectKind, bound: &[u8], content: &[u8]) -> Vec<u8> {
        let signature = self.signer.sign(&claim.message(kind, self.repo, bound, content));
        let plain = claim.encode(&signature, content);
        self.index.seal(env, &associated_data(kind, self.repo, bound), &plain)
    }

    /// Opens and verifies a claim. `name` is the object's, for messages.
    ///
    /// # Errors
    /// `Damaged` if it does not open; forged if its author has not signed it.
    pub fn open_claim(&self, kind: ObjectKind, name: &str, bound: &[u8], sealed: &[u8]) -> Result<Claimed> {
        let plain = self.open_sealed(kind, name, bound, sealed)?;
        let (claim, signature, content) = Claim::decode(&plain).map_err(|e| e.in_object(name))?;
        let Some(known) = self.known_slot(claim.author) else {
            return Ok(Claimed::Unknown(claim.author));
        };
        let message = claim.message(kind, self.repo, bound, content);
        let public = known.certificate.signing;
        if !self.proofs.verify(&public, &message, &signature) {
            let what = format!("slot {} has not signed it", claim.author);
            return Err(Error::forged(name, what));
        }
        Ok(Claimed::By(claim, content.to_vec()))
    }

    /// Opens a claim and believes whatever author it names. Only to find out what must be kept.
    ///
    /// # Errors
    /// `Damaged` if it does not open.
    pub fn open_unverified(
        &self,
        kind: ObjectKind,
        name: &str,
        bound: &[u8],
        sealed: &[u8],
    ) -> Result<(Claim, Vec<u8>)> {
        let plain = self.open_sealed(kind, name, bound, sealed)?;
        let (claim, _, content) = Claim::decode(&plain).map_err(|e| e.in_object(name))?;
        Ok((claim, content.to_vec()))
    }

    fn open_sealed(&self, kind: ObjectKind, name: &str, bound: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        self.index
            .open(&associated_data(kind, self.repo, bound), sealed)
            .ok_or_else(|| Error::damaged(name, "does not open: altered, swapped, or from another repository"))
    }

    /// Signs `content` with the authority of the newest epoch and seals it as an order.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot and from one without the secrets of the epoch.
    pub fn seal_order(&self, env: &dyn Env, kind: ObjectKind, name: &str, content: &[u8]) -> Result<Vec<u8>> {
        self.require_full("signing an order")?;
        let (number, authority) = {
            let ring = lock(&self.ring);
            let (number, known) = ring.newest();
            let secrets = known.secrets.as_ref().ok_or_else(|| no_secrets(number))?;
            (number, Signer::new(&secrets.authority.0))
        };
        let sealer = Sealer { env, repo: self.repo, index: &self.index };
        Ok(sealer.order(number, &authority, kind, name, content))
    }

    /// Opens and verifies an order.
    ///
    /// # Errors
    /// `Damaged` if it does not open; forged if the epoch that it names has not signed it.
    pub fn open_order(&self, kind: ObjectKind, name: &str, bytes: &[u8]) -> Result<(Order, Vec<u8>)> {
        let signed = open_order(&self.index, self.repo, kind, name, bytes)?;
        let authority = lock(&self.ring).authority(signed.order.epoch, name)?;
        signed
            .verify(self.repo, kind, name, &|message, signature| self.proofs.verify(&authority, message, signature))?;
        Ok((signed.order, signed.content))
    }
}
