//! Digests: BLAKE3 (O'Connor et al., 2020), keyed for names, plain for what people compare.

use crate::id::{BlobId, DataKeyId};

/// Computes chunk ids.
#[derive(Clone)]
pub struct ChunkHasher {
    key: [u8; 32],
}

impl ChunkHasher {
    /// A hasher under the repository's chunk-id key.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// The id of a chunk's plain bytes.
    pub fn id(&self, chunk: &[u8]) -> BlobId {
        BlobId(*blake3::keyed_hash(&self.key, chunk).as_bytes())
    }

    /// Names the series of snapshots of one source of one host, without telling either.
    pub fn series(&self, host: &str, source: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(b"alluvium v1 series");
        hasher.update(&(host.len() as u64).to_le_bytes());
        hasher.update(host.as_bytes());
        hasher.update(source.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

impl Drop for ChunkHasher {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

/// The id of a data key: a commitment, so that a wrapped key can't be another one
/// (XChaCha20-Poly1305 does not commit to its key).
pub fn data_key_id(key: &[u8; 32]) -> DataKeyId {
    let digest = blake3::derive_key("alluvium v1 data key id", key);
    DataKeyId(digest[..DataKeyId::LEN].try_into().expect("a digest is longer than an id"))
}

/// The unkeyed digest of a whole stream, for manifests.
pub type StreamHasher = blake3::Hasher;

/// The unkeyed digest of bytes at hand.
pub fn stream_digest(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// A keyed digest of a key slot, under a key derived from the index key.
pub fn slot_mac(index_key: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(&blake3::derive_key("alluvium v1 key slot authentication", index_key), bytes).as_bytes()
}
