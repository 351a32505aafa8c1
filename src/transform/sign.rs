//! Signatures: Ed25519 (RFC 8032). A key slot signs what it publishes, an authority signs what others
//! must follow.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use crate::env::Env;

/// Length of a public or secret key in bytes.
pub const KEY_LEN: usize = 32;
/// Length of a signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// A secret signing key; wiped when it is dropped.
#[derive(Clone)]
pub struct Signer(SigningKey);

impl Signer {
    /// A fresh key: `(signer, secret)`.
    pub fn generate(env: &dyn Env) -> (Self, Zeroizing<[u8; KEY_LEN]>) {
        let mut secret = Zeroizing::new([0; KEY_LEN]);
        env.fill_random(secret.as_mut_slice());
        (Self::new(&secret), secret)
    }

    /// A signer with a secret key (the seed of RFC 8032).
    pub fn new(secret: &[u8; KEY_LEN]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The public key.
    pub fn public(&self) -> [u8; KEY_LEN] {
        self.0.verifying_key().to_bytes()
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(message).to_bytes()
    }
}

/// True when `signature` over `message` is by the key `public`. Strict: keys and signatures of small
/// order are refused, so that a signature has one meaning.
pub fn verify(public: &[u8; KEY_LEN], message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
    VerifyingKey::from_bytes(public)
        .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}
