//! What the fuzz targets share: what a decoder must hold, memory that is counted, entropy that repeats.
//!
//! | kind of decoder | property |
//! |---|---|
//! | binary | `encode(decode(x)) == x`: exactly one encoding of every value is accepted |
//! | JSON | `decode(encode(decode(x))) == decode(x)`: what was understood survives being written |
//! | both | no panic, and never more memory than a small multiple of the input: no length is believed |
//!
//! The seeds in `seeds/` are written by `tests/sample.rs` from the encoders, so they are of today's format.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

use alluvium::env::Env;
use alluvium::format::Malformed;
use jiff::Timestamp;

/// Bytes that a decoder may hold for each byte of its input: a JSON list of empty strings takes 3 bytes an item
/// at rest and 24 in memory, and a vector doubles while it grows.
const BYTES_PER_BYTE: usize = 64;
/// Bytes that a decoder may hold for messages and first allocations.
const BYTES_AT_LEAST: usize = 64 << 10;

/// The system's allocator, counting what this thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn grow(bytes: usize) {
    let held = HELD.get().saturating_add(bytes);
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches only thread-local numbers,
// which need neither allocation nor destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.set(HELD.get().saturating_sub(layout.size()));
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `decode` on `input` and asserts that it held no more memory than the input justifies.
pub fn bounded<'i, T>(input: &'i [u8], decode: impl FnOnce(&'i [u8]) -> T) -> T {
    let before = HELD.get();
    PEAK.set(before);
    let decoded = decode(input);
    let held = PEAK.get() - before;
    let allowed = BYTES_AT_LEAST + BYTES_PER_BYTE * input.len();
    assert!(held <= allowed, "{held} bytes were allocated for an input of {}", input.len());
    decoded
}

/// A binary decoder accepts exactly what its encoder writes.
pub fn binary<'i, T>(
    input: &'i [u8],
    decode: impl FnOnce(&'i [u8]) -> Result<T, Malformed>,
    encode: impl FnOnce(&T) -> Vec<u8>,
) -> Option<T> {
    let value = said(bounded(input, decode))?;
    assert!(encode(&value) == input, "decodes, but is encoded differently");
    Some(value)
}

/// What a JSON decoder understood survives being written and read again.
pub fn json<T: PartialEq + Debug>(
    input: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, Malformed>,
    encode: impl FnOnce(&T) -> Vec<u8>,
) -> Option<T> {
    let value = said(bounded(input, &decode))?;
    let again = decode(&encode(&value));
    assert_eq!(again.as_ref(), Ok(&value), "does not survive being written");
    Some(value)
}

/// The value, if there is one. A refusal says why.
fn said<T>(decoded: Result<T, Malformed>) -> Option<T> {
    match decoded {
        Ok(value) => Some(value),
        Err(Malformed(reason)) => {
            assert!(!reason.is_empty(), "a refusal without a reason");
            None
        }
    }
}

/// A clock that stands still, and entropy that never repeats within a process: nonces must differ, secrecy does not
/// matter.
#[derive(Debug, Default)]
pub struct Still(AtomicU64);

impl Env for Still {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        for eight in bytes.chunks_mut(8) {
            // SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
            let mut z = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
            z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            eight.copy_from_slice(&(z ^ z >> 31).to_le_bytes()[..eight.len()]);
        }
    }
}

/// Cuts the input into a number from its front, and the rest.
pub fn number(input: &[u8]) -> (u64, &[u8]) {
    let (front, rest) = input.split_at(input.len().min(8));
    (front.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)), rest)
}
