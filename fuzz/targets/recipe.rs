//! Recipes: the bytes of a recipe's chunk, and its root as a manifest holds it.
#![no_main]

use alluvium::format::limits::{BLOB_RAW_BYTES_MAX, RECIPE_INLINE_MAX};
use alluvium::format::recipe::{ENTRY_LEN, Recipe, decode_entries, encode_entries};
use alluvium_fuzz::binary;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(chunks) = binary(input, decode_entries, |entries| encode_entries(entries)) {
        assert_eq!(chunks.len() * ENTRY_LEN, input.len());
        assert!(chunks.iter().all(|chunk| chunk.len > 0 && chunk.len as usize <= BLOB_RAW_BYTES_MAX));
        let fits = chunks.len() <= RECIPE_INLINE_MAX;
        assert_eq!(Recipe { depth: 0, chunks }.check().is_ok(), fits);
    }
});
