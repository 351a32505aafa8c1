//! The plain front of objects that are sealed whole under the index key (index objects, sessions,
//! generations, fences): what it is, so that a wrong kind is named before a key is tried.
//!
//! ```text
//! magic 8 | version u16 | kind u8 | sealed: nonce 24, ciphertext, tag 16
//! ```

use super::bytes::{Decoder, Encoder};
use super::{FORMAT_VERSION, Malformed, ObjectKind};

/// The first bytes of such an object.
pub const MAGIC: [u8; 8] = *b"ALVMSEAL";
/// Length of the plain front in bytes.
pub const FRONT_LEN: usize = MAGIC.len() + 2 + 1;

/// Puts the front before `sealed`.
pub fn encode(kind: ObjectKind, sealed: &[u8]) -> Vec<u8> {
    let mut out = Encoder(Vec::with_capacity(FRONT_LEN + sealed.len()));
    out.bytes(&MAGIC);
    out.u16(FORMAT_VERSION);
    out.u8(kind as u8);
    out.bytes(sealed);
    out.0
}

/// The sealed part of an object of `kind`.
///
/// # Errors
/// Another kind, another version, no such object at all.
pub fn decode(kind: ObjectKind, bytes: &[u8]) -> Result<&[u8], Malformed> {
    let mut input = Decoder(bytes);
    if input.array()? != MAGIC {
        return Err(Malformed::new("does not begin like a sealed object"));
    }
    match input.u16()? {
        FORMAT_VERSION => {}
        other => {
            return Err(Malformed::new(format!(
                "sealed object of format {other}, this program reads {FORMAT_VERSION}"
            )));
        }
    }
    match input.u8()? {
        found if found == kind as u8 => Ok(input.0),
        found => Err(Malformed::new(format!("an object of kind {found} where kind {} ({kind:?}) belongs", kind as u8))),
    }
}
