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

/// The digest of `bytes`, and of the same bytes with `front` in place of their first. Whatever both have in common is
/// hashed once: BLAKE3 is a tree, and only the path down to the first chunk differs.
pub fn two_stream_digests(bytes: &[u8], front: &[u8]) -> [[u8; 32]; 2] {
    if bytes.len() <= CHUNK_LEN {
        return [stream_digest(bytes), stream_digest(&with_front(bytes, front))];
    }
    let (left, right) = bytes.split_at(left_subtree_len(bytes.len() as u64) as usize);
    let right = subtree(right, left.len());
    two_subtrees(left, front).map(|left| *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
}

fn two_subtrees(bytes: &[u8], front: &[u8]) -> [ChainingValue; 2] {
    if bytes.len() <= CHUNK_LEN {
        return [subtree(bytes, 0), subtree(&with_front(bytes, front), 0)];
    }
    let (left, right) = bytes.split_at(left_subtree_len(bytes.len() as u64) as usize);
    let right = subtree(right, left.len());
    two_subtrees(left, front).map(|left| merge_subtrees_non_root(&left, &right, Mode::Hash))
}

fn subtree(bytes: &[u8], offset: usize) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(offset as u64).update(bytes).finalize_non_root()
}

/// `bytes` with other first bytes; at most [`CHUNK_LEN`] of them.
fn with_front(bytes: &[u8], front: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[..front.len()].copy_from_slice(front);
    bytes
}

/// A keyed digest of a key slot, under a key derived from the index key.
pub fn slot_mac(index_key: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(&blake3::derive_key("alluvium v1 key slot authentication", index_key), bytes).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_digests_at_once_are_the_two_digests() {
        let front = [7; 143];
        for len in [143, 1023, 1024, 1025, 2048, 2049, 5000, 65_536, 65_537, 1_000_003] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            let mut other = bytes.clone();
            other[..front.len()].copy_from_slice(&front);
            assert_eq!(two_stream_digests(&bytes, &front), [stream_digest(&bytes), stream_digest(&other)], "{len}");
        }
    }
}
