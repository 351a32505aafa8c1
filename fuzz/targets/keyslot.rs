//! Key slots: the plain part, and the opened keys.
#![no_main]

use alluvium::format::keyslot::{KeySlot, SlotKeys};
use alluvium::format::limits::{KDF_LANES_MAX, KDF_MEMORY_KIB_MAX, KDF_PASSES_MAX};
use alluvium::id::SlotId;
use alluvium_fuzz::{bounded, json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(slot) = json(input, KeySlot::decode, KeySlot::encode) {
        let kdf = &slot.kdf;
        assert!(kdf.memory_kib <= KDF_MEMORY_KIB_MAX && kdf.passes <= KDF_PASSES_MAX && kdf.lanes <= KDF_LANES_MAX);
        let mut other = slot.clone();
        other.label.push('x');
        let id = SlotId([1; 16]);
        assert_ne!(slot.authenticated(id), other.authenticated(id), "the label is authenticated");
    }
    // Secrets are not comparable, on purpose: compared by what they write.
    if let Ok(keys) = bounded(input, SlotKeys::decode) {
        let written = keys.encode();
        assert!(SlotKeys::decode(&written).is_ok_and(|again| again.encode() == written));
    }
});
