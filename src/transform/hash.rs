//! Digests: BLAKE3 (O'Connor et al., 2020), keyed for names, plain for what people compare.

use blake3::CHUNK_LEN;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

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

/// Longest front of [`two_stream_digests`] in bytes.
const FRONT_MAX: usize = 2 * CHUNK_LEN;

/// The digest of `bytes`, and of the same bytes with `front` in place of their first. What both have in
/// common is hashed once: BLAKE3 is a tree, and only the path down to the first two chunks differs.
pub fn two_stream_digests(bytes: &[u8], front: &[u8]) -> [[u8; 32]; 2] {
    if bytes.len() <= FRONT_MAX {
        return [stream_digest(bytes), stream_digest(&with_front(bytes, front))];
    }
    let (left, right) = bytes.split_at(left_subtree_len(bytes.len() as u64) as usize);
    let right = subtree(right, left.len());
    two_subtrees(left, front).map(|left| *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
}

fn two_subtrees(bytes: &[u8], front: &[u8]) -> [ChainingValue; 2] {
    if bytes.len() <= FRONT_MAX {
        return [subtree(bytes, 0), subtree(&with_front(bytes, front), 0)];
    }
    let (left, right) = bytes.split_at(left_subtree_len(bytes.len() as u64) as usize);
    let right = subtree(right, left.len());
    two_subtrees(left, front).map(|left| merge_subtrees_non_root(&left, &right, Mode::Hash))
}

fn subtree(bytes: &[u8], offset: usize) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(offset as u64).update(bytes).finalize_non_root()
}

/// `bytes` with other first bytes; at most [`FRONT_MAX`] of them.
fn with_front(bytes: &[u8], front: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[..front.len()].copy_from_slice(front);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_digests_at_once_are_the_two_digests() {
        let front = [7; 1231];
        for len in [1231, 2047, 2048, 2049, 4095, 4096, 4097, 5000, 65_536, 65_537, 1_000_003] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            let mut other = bytes.clone();
            other[..front.len()].copy_from_slice(&front);
            assert_eq!(two_stream_digests(&bytes, &front), [stream_digest(&bytes), stream_digest(&other)], "{len}");
        }
    }
}
