//! Authenticated encryption: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) for bytes, HPKE (RFC 9180,
//! base mode, X-Wing, HKDF-SHA256, ChaCha20-Poly1305) for keys.
//!
//! X-Wing (draft-connolly-cfrg-xwing-kem) joins X25519 and ML-KEM-768: what is stored today stays
//! closed as long as one of the two holds.
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

type HpkeKem = hpke::kem::XWing;
type HpkeKdf = hpke::kdf::HkdfSha256;
type HpkeAead = hpke::aead::ChaCha20Poly1305;

/// Length of an X-Wing public key in bytes.
pub const PUBLIC_KEY_LEN: usize = 1216;
/// Length of an X-Wing secret key in bytes: the seed.
pub const SECRET_KEY_LEN: usize = 32;
/// Length of an X-Wing encapsulated key in bytes.
pub const KEM_OUTPUT_LEN: usize = 1120;

/// What a public-key encryption is for: the `info` of HPKE, so that one is never taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A session's data key, sealed to an epoch.
    DataKey,
    /// An epoch's secrets, sealed to a key slot.
    EpochSecret,
}

impl Purpose {
    fn info(self) -> &'static [u8] {
        match self {
            Self::DataKey => b"alluvium v1 data key",
            Self::EpochSecret => b"alluvium v1 epoch secret",
        }
    }
}

/// A fresh key pair: `(public, secret)`.
pub fn generate_key_pair(env: &dyn Env) -> ([u8; PUBLIC_KEY_LEN], Zeroizing<[u8; SECRET_KEY_LEN]>) {
    let mut secret = Zeroizing::new([0; SECRET_KEY_LEN]);
    env.fill_random(secret.as_mut_slice());
    (public_key(&secret), secret)
}

/// The public key of a secret key.
pub fn public_key(secret: &[u8; SECRET_KEY_LEN]) -> [u8; PUBLIC_KEY_LEN] {
    let secret = <HpkeKem as Kem>::PrivateKey::from_bytes(secret).expect("any seed is a secret key");
    HpkeKem::sk_to_pk(&secret).to_bytes().into()
}

/// Seals a secret to a public key: `(encapsulated key, sealed secret)`. Sealing adds [`TAG_LEN`] bytes.
///
/// # Errors
/// When `public` is no X-Wing public key.
pub fn wrap(
    env: &dyn Env,
    purpose: Purpose,
    public: &[u8; PUBLIC_KEY_LEN],
    associated: &[u8],
    secret: &[u8],
) -> Result<([u8; KEM_OUTPUT_LEN], Vec<u8>), String> {
    let public = <HpkeKem as Kem>::PublicKey::from_bytes(public).map_err(|e| e.to_string())?;
    let (kem_output, sealed) = hpke::single_shot_seal_with_rng::<HpkeAead, HpkeKdf, HpkeKem>(
        &OpModeS::Base,
        &public,
        purpose.info(),
        secret,
        associated,
        &mut EnvRng(env),
    )
    .map_err(|e| e.to_string())?;
    Ok((kem_output.to_bytes().into(), sealed))
}

/// Opens what [`wrap`] sealed. `None` when it was not sealed to this key pair, for this purpose,
/// with these associated data.
pub fn unwrap(
    purpose: Purpose,
    secret: &[u8; SECRET_KEY_LEN],
    associated: &[u8],
    kem_output: &[u8; KEM_OUTPUT_LEN],
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let secret = <HpkeKem as Kem>::PrivateKey::from_bytes(secret).ok()?;
    let kem_output = <HpkeKem as Kem>::EncappedKey::from_bytes(kem_output).ok()?;
    let opened = hpke::single_shot_open::<HpkeAead, HpkeKdf, HpkeKem>(
        &OpModeR::Base,
        &secret,
        &kem_output,
        purpose.info(),
        sealed,
        associated,
    );
    opened.ok().map(Zeroizing::new)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of draft-connolly-cfrg-xwing-kem, appendix C.
    #[derive(serde::Deserialize)]
    struct Vector {
        eseed: String,
        ss: String,
        sk: String,
        pk: String,
        ct: String,
    }

    fn bytes(hexadecimal: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&hexadecimal[at..at + 2], 16).expect("digits");
        (0..hexadecimal.len()).step_by(2).map(digit).collect()
    }

    /// An entropy that a vector gives.
    struct Given(std::sync::Mutex<Vec<u8>>);

    impl Env for Given {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
        fn fill_random(&self, out: &mut [u8]) {
            let mut left = self.0.lock().expect("no panic");
            out.copy_from_slice(&left[..out.len()]);
            left.drain(..out.len());
        }
    }

    #[test]
    fn x_wing_passes_its_published_vectors() {
        let text = include_str!("../../tests/vectors/x-wing.json");
        let vectors: Vec<Vector> = serde_json::from_str(text).expect("vectors");
        assert!(vectors.len() >= 3);
        for Vector { eseed, ss, sk, pk, ct } in vectors {
            let secret: [u8; SECRET_KEY_LEN] = bytes(&sk).try_into().expect("a secret key");
            let public = public_key(&secret);
            assert_eq!(public[..], bytes(&pk));
            let public = <HpkeKem as Kem>::PublicKey::from_bytes(&public).expect("a public key");
            let given = Given(std::sync::Mutex::new(bytes(&eseed)));
            let (shared, encapsulated) =
                HpkeKem::encap_with_rng(&public, None, &mut EnvRng(&given)).expect("encapsulated");
            assert_eq!((&shared.0[..], &encapsulated.to_bytes()[..]), (&bytes(&ss)[..], &bytes(&ct)[..]));
            let secret = <HpkeKem as Kem>::PrivateKey::from_bytes(&secret).expect("a secret key");
            let shared = HpkeKem::decap(&secret, None, &encapsulated).expect("decapsulated");
            assert_eq!(shared.0[..], bytes(&ss));
        }
    }

    #[test]
    fn what_is_sealed_to_a_key_opens_with_it_alone() {
        let env = crate::env::SystemEnv;
        let (public, secret) = generate_key_pair(&env);
        let (kem_output, sealed) = wrap(&env, Purpose::DataKey, &public, b"name", &[7; 32]).expect("sealed");
        let open = |purpose, secret: &[u8; 32], name: &[u8], kem_output: &[u8; KEM_OUTPUT_LEN], sealed: &[u8]| {
            unwrap(purpose, secret, name, kem_output, sealed).map(|plain| plain.to_vec())
        };
        assert_eq!(open(Purpose::DataKey, &secret, b"name", &kem_output, &sealed), Some(vec![7; 32]));
        let (_, other) = generate_key_pair(&env);
        assert_eq!(open(Purpose::DataKey, &other, b"name", &kem_output, &sealed), None);
        assert_eq!(open(Purpose::EpochSecret, &secret, b"name", &kem_output, &sealed), None);
        assert_eq!(open(Purpose::DataKey, &secret, b"nam", &kem_output, &sealed), None);
        for at in [0, 31, 700, KEM_OUTPUT_LEN - 1] {
            let mut altered = kem_output;
            altered[at] ^= 1;
            assert_eq!(open(Purpose::DataKey, &secret, b"name", &altered, &sealed), None, "byte {at}");
        }
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(open(Purpose::DataKey, &secret, b"name", &kem_output, &altered), None);
        }
    }
}
