//! Manifests: the plain front, the opened header, the opened body.
#![no_main]

use alluvium::format::manifest::{Header, Manifest, Published, decode, encode_fence};
use alluvium_fuzz::{binary, json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    binary(input, decode, |published| match published {
        Published::Manifest(sealed) => sealed.encode(),
        Published::Fence(sealed) => encode_fence(sealed),
    });
    json(input, Header::decode, Header::encode);
    if let Some(manifest) = json(input, Manifest::decode, Manifest::encode) {
        // Must not overflow.
        manifest.bytes();
    }
});
