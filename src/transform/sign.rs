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

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hexadecimal: &str) -> [u8; N] {
        std::array::from_fn(|i| u8::from_str_radix(&hexadecimal[2 * i..2 * i + 2], 16).expect("digits"))
    }

    /// RFC 8032, section 7.1: tests 1 and 3.
    #[test]
    fn ed25519_passes_its_published_vectors() {
        for (secret, public, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                &[][..],
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                &[0xaf, 0x82][..],
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
        ] {
            let signer = Signer::new(&bytes(secret));
            assert_eq!(signer.public(), bytes(public));
            assert_eq!(signer.sign(message), bytes(signature));
            assert!(verify(&bytes(public), message, &bytes(signature)));
            assert!(!verify(&bytes(public), b"another", &bytes(signature)));
            let mut altered: [u8; SIGNATURE_LEN] = bytes(signature);
            altered[10] ^= 1;
            assert!(!verify(&bytes(public), message, &altered));
        }
        // A key of small order would verify anything.
        let mut identity = [0; KEY_LEN];
        identity[0] = 1;
        assert!(!verify(&identity, b"", &[0; SIGNATURE_LEN]));
    }
}
