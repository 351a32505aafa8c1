//! Key slots: the plain part, and the opened keys; certificates and epochs; what is signed.
#![no_main]

use alluvium::format::certificate::Certificate;
use alluvium::format::epoch::{self, Epoch};
use alluvium::format::keyslot::{Kdf, KeySlot, SlotKeys};
use alluvium::format::limits::{KDF_LANES_MAX, KDF_MEMORY_KIB_MAX, KDF_PASSES_MAX};
use alluvium::format::signed::{Claim, Order};
use alluvium_fuzz::{binary, bounded, json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(slot) = json(input, KeySlot::decode, KeySlot::encode)
        && let Kdf::Argon2id { memory_kib, passes, lanes, .. } = slot.kdf
    {
        assert!(memory_kib <= KDF_MEMORY_KIB_MAX && passes <= KDF_PASSES_MAX && lanes <= KDF_LANES_MAX);
    }
    // Secrets are not comparable, on purpose: compared by what they write.
    if let Ok(keys) = bounded(input, SlotKeys::decode) {
        let written = keys.encode();
        assert!(SlotKeys::decode(&written).is_ok_and(|again| again.encode() == written));
    }
    json(input, Certificate::decode, Certificate::encode);
    json(input, Epoch::decode, Epoch::encode);
    binary(input, Claim::decode, |(claim, signature, content)| claim.encode(&signature, content));
    binary(input, Order::decode, |(order, signature, content)| order.encode(&signature, content));
    if let Ok(name) = std::str::from_utf8(input)
        && let Some(number) = epoch::number_of(name)
    {
        assert_eq!(name, epoch::object_name(number));
    }
});
