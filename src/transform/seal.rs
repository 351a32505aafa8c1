//! Authenticated encryption: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) for bytes, HPKE (RFC 9180,
//! base mode, X25519, HKDF-SHA256, ChaCha20-Poly1305) for a session's data key.
//!
//! A sealed thing is `nonce 24 | ciphertext | tag 16`. Nonces are random: 192 bits never repeat by chance.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use zeroize::Zeroizing;

use crate::env::Env;

/// Bytes in front of the ciphertext.
pub const NONCE_LEN: usize = 24;
/// Bytes behind it.
pub const TAG_LEN: usize = 16;
/// What sealing adds.
pub const OVERHEAD: usize = NONCE_LEN + TAG_LEN;

/// A key that seals and opens.
#[derive(Clone)]
pub struct SealKey(XChaCha20Poly1305);

impl SealKey {
    /// From 32 secret bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(XChaCha20Poly1305::new(key.into()))
    }

    /// Seals the bytes of `buffer` behind its first [`NONCE_LEN`], in place: those take the nonce, the
    /// tag is appended.
    pub fn seal_in_place(&self, env: &dyn Env, associated: &[u8], buffer: &mut Vec<u8>) {
        let (nonce, plain) = buffer.split_at_mut(NONCE_LEN);
        env.fill_random(nonce);
        let nonce = XNonce::try_from(&*nonce).expect("NONCE_LEN bytes");
        let tag =
            self.0.encrypt_inout_detached(&nonce, associated, plain.into()).expect("blobs are shorter than 256 GiB");
        buffer.extend_from_slice(&tag);
    }

    /// Seals a copy of `plain`.
    pub fn seal(&self, env: &dyn Env, associated: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(plain.len() + OVERHEAD);
        buffer.resize(NONCE_LEN, 0);
        buffer.extend_from_slice(plain);
        self.seal_in_place(env, associated, &mut buffer);
        buffer
    }

    /// Opens `sealed` in place; the plain bytes are the returned part of it. `None` when it was not
    /// sealed with this key and these associated data, or was altered since; then nothing of it may be used.
    pub fn open_in_place<'a>(&self, associated: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (nonce, rest) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let (text, tag) = rest.split_at_mut_checked(rest.len().checked_sub(TAG_LEN)?)?;
        let nonce = XNonce::try_from(&*nonce).ok()?;
        let tag = Tag::try_from(&*tag).ok()?;
        self.0.decrypt_inout_detached(&nonce, associated, (&mut *text).into(), &tag).ok()?;
        Some(text)
    }

    /// Opens a copy of `sealed`.
    pub fn open(&self, associated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = sealed.to_vec();
        let plain = self.open_in_place(associated, &mut buffer)?;
        Some(plain.to_vec())
    }
}

type HpkeKem = hpke::kem::X25519HkdfSha256;
type HpkeKdf = hpke::kdf::HkdfSha256;
type HpkeAead = hpke::aead::ChaCha20Poly1305;

/// What binds an HPKE use to this program and format.
const HPKE_INFO: &[u8] = b"alluvium v1 data key";

/// A fresh key pair: `(public, secret)`.
pub fn generate_key_pair(env: &dyn Env) -> ([u8; 32], Zeroizing<[u8; 32]>) {
    let (secret, public) = HpkeKem::gen_keypair_with_rng(&mut EnvRng(env));
    (public.to_bytes().into(), Zeroizing::new(secret.to_bytes().into()))
}

/// Seals a data key to a public key: `(encapsulated key, sealed key)`.
///
/// # Errors
/// When `public` is no X25519 public key.
pub fn wrap_key(
    env: &dyn Env,
    public: &[u8; 32],
    associated: &[u8],
    key: &[u8; 32],
) -> Result<([u8; 32], [u8; 48]), String> {
    let public = <HpkeKem as Kem>::PublicKey::from_bytes(public).map_err(|e| e.to_string())?;
    let (kem_output, sealed) = hpke::single_shot_seal_with_rng::<HpkeAead, HpkeKdf, HpkeKem>(
        &OpModeS::Base,
        &public,
        HPKE_INFO,
        key,
        associated,
        &mut EnvRng(env),
    )
    .map_err(|e| e.to_string())?;
    Ok((kem_output.to_bytes().into(), sealed.try_into().expect("a sealed key is 48 bytes")))
}

/// Opens a data key with the secret key. `None` when it was not sealed to this key pair with these
/// associated data.
pub fn unwrap_key(
    secret: &[u8; 32],
    associated: &[u8],
    kem_output: &[u8; 32],
    sealed: &[u8; 48],
) -> Option<Zeroizing<[u8; 32]>> {
    let secret = <HpkeKem as Kem>::PrivateKey::from_bytes(secret).ok()?;
    let kem_output = <HpkeKem as Kem>::EncappedKey::from_bytes(kem_output).ok()?;
    let key = hpke::single_shot_open::<HpkeAead, HpkeKdf, HpkeKem>(
        &OpModeR::Base,
        &secret,
        &kem_output,
        HPKE_INFO,
        sealed,
        associated,
    )
    .ok()?;
    Some(Zeroizing::new(key.try_into().ok()?))
}

/// Lends an [`Env`]'s entropy to HPKE.
struct EnvRng<'a>(&'a dyn Env);

impl TryRng for EnvRng<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.0.fill_random(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.0.fill_random(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill_random(bytes);
        Ok(())
    }
}

impl TryCryptoRng for EnvRng<'_> {}
