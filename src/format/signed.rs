//! Signed content, before it is sealed: who says it, and how that is shown.
//!
//! ```text
//! claim   author 16 | time i64 | signature 64 | content     signed with the author's slot key
//! order   epoch u32 | signature 64 | content                signed with the authority of the epoch
//! ```
//!
//! A **claim** is what any slot may publish: a manifest's header, an index object, a session, a
//! heartbeat, a fence, a pack's trailer. An **order** is what others must follow: a certificate, an
//! epoch, a generation. Only full slots have the authority's key.

use super::bytes::{Decoder, Encoder};
use super::{Malformed, ObjectKind, associated_data};
use crate::id::{RepoId, SlotId};

/// Length of a signature in bytes (Ed25519).
pub const SIGNATURE_LEN: usize = 64;
/// Length of what stands before a claim's content.
pub const CLAIM_LEN: usize = SlotId::LEN + 8 + SIGNATURE_LEN;
/// Length of what stands before an order's content.
pub const ORDER_LEN: usize = 4 + SIGNATURE_LEN;

/// What every signed message begins with.
const CONTEXT: &[u8] = b"alluvium v1 signature";

/// Who claims something, and when by the author's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The slot whose key signed it.
    pub author: SlotId,
    /// Seconds since 1970.
    pub time: i64,
}

impl Claim {
    /// The message that the author signs.
    pub fn message(&self, kind: ObjectKind, repo: RepoId, name: &[u8], content: &[u8]) -> Vec<u8> {
        let mut head = Encoder::default();
        head.bytes(&self.author.0);
        head.u64(self.time.cast_unsigned());
        message(&head.0, kind, repo, name, content)
    }

    /// The signed content.
    pub fn encode(&self, signature: &[u8; SIGNATURE_LEN], content: &[u8]) -> Vec<u8> {
        let mut out = Encoder(Vec::with_capacity(CLAIM_LEN + content.len()));
        out.bytes(&self.author.0);
        out.u64(self.time.cast_unsigned());
        out.bytes(signature);
        out.bytes(content);
        out.0
    }

    /// The claim, its signature and its content; nothing is verified.
    ///
    /// # Errors
    /// Too short.
    pub fn decode(bytes: &[u8]) -> Result<(Self, [u8; SIGNATURE_LEN], &[u8]), Malformed> {
        let mut input = Decoder(bytes);
        let author = SlotId(input.array()?);
        let time = input.u64()?.cast_signed();
        Ok((Self { author, time }, input.array()?, input.0))
    }
}

/// The epoch whose authority orders something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The key epoch.
    pub epoch: u32,
}

impl Order {
    /// The message that the authority signs.
    pub fn message(self, kind: ObjectKind, repo: RepoId, name: &[u8], content: &[u8]) -> Vec<u8> {
        message(&self.epoch.to_le_bytes(), kind, repo, name, content)
    }

    /// The signed content.
    pub fn encode(self, signature: &[u8; SIGNATURE_LEN], content: &[u8]) -> Vec<u8> {
        let mut out = Encoder(Vec::with_capacity(ORDER_LEN + content.len()));
        out.u32(self.epoch);
        out.bytes(signature);
        out.bytes(content);
        out.0
    }

    /// The order, its signature and its content; nothing is verified.
    ///
    /// # Errors
    /// Too short.
    pub fn decode(bytes: &[u8]) -> Result<(Self, [u8; SIGNATURE_LEN], &[u8]), Malformed> {
        let mut input = Decoder(bytes);
        let epoch = input.u32()?;
        Ok((Self { epoch }, input.array()?, input.0))
    }
}

/// `context | head | BLAKE3 of the content | associated data`: the digest keeps the message short
/// however long the content is.
fn message(head: &[u8], kind: ObjectKind, repo: RepoId, name: &[u8], content: &[u8]) -> Vec<u8> {
    let mut out = Encoder::default();
    out.bytes(CONTEXT);
    out.bytes(head);
    out.bytes(blake3::hash(content).as_bytes());
    out.bytes(&associated_data(kind, repo, name));
    out.0
}
