//! Manifests: the plain front, the opened header, the opened body.
#![no_main]

use alluvium::format::manifest::{Header, Manifest, Published, decode};
use alluvium_fuzz::{binary, bounded, json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // A fence keeps nothing of its sealed part, so there is nothing to write again.
    match bounded(input, decode) {
        Ok(Published::Fence) => {}
        _ => {
            binary(input, decode, |published| match published {
                Published::Manifest(sealed) => sealed.encode(),
                Published::Fence => unreachable!("told above"),
            });
        }
    }
    json(input, Header::decode, Header::encode);
    if let Some(manifest) = json(input, Manifest::decode, Manifest::encode) {
        // Must not overflow.
        manifest.bytes();
    }
});
