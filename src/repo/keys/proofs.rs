//! What was computed with keys and depends on nothing but the bytes: it is computed once.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use zeroize::Zeroizing;

use crate::env::lock;
use crate::transform::hash::stream_digest;
use crate::transform::sign;

/// Most proofs of one sort that are remembered: 8 MB at most.
const REMEMBERED_MAX: usize = 1 << 16;

/// Signatures that verified, and sealed data keys that opened. Several [`Keys`](super::Keys) may share them.
#[derive(Default)]
pub struct Proofs {
    verified: Mutex<HashSet<[u8; 32]>>,
    opened: Mutex<HashMap<[u8; 32], Zeroizing<[u8; 32]>>>,
}

impl Proofs {
    /// As [`sign::verify`].
    pub(super) fn verify(&self, public: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
        let digest = stream_digest(&[&public[..], signature, message].concat());
        if lock(&self.verified).contains(&digest) {
            return true;
        }
        let is_verified = sign::verify(public, message, signature);
        if is_verified {
            let mut known = lock(&self.verified);
            if known.len() >= REMEMBERED_MAX {
                known.clear();
            }
            known.insert(digest);
        }
        is_verified
    }

    /// What `open` returns for a sealed data key, which `parts` name: all that it depends on.
    pub(super) fn open(
        &self,
        parts: &[&[u8]],
        open: impl FnOnce() -> Option<Zeroizing<[u8; 32]>>,
    ) -> Option<Zeroizing<[u8; 32]>> {
        let digest = stream_digest(&parts.concat());
        if let Some(known) = lock(&self.opened).get(&digest) {
            return Some(known.clone());
        }
        let opened = open()?;
        let mut known = lock(&self.opened);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(digest, opened.clone());
        Some(opened)
    }
}
