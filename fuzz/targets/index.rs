//! Index objects, opened.
#![no_main]

use alluvium::format::index::IndexObject;
use alluvium::format::pack::blobs_end;
use alluvium_fuzz::binary;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(index) = binary(input, IndexObject::decode, IndexObject::encode) {
        for pack in &index.packs {
            assert!(blobs_end(&pack.entries) <= pack.size, "the blobs lie in the pack");
            assert!(index.keys.iter().any(|key| key.id == pack.key), "the pack's key is listed");
        }
    }
});
