//! Manifests: the plain front, the opened header, the opened body.
#![no_main]

use alluvium::format::catalog::{CatalogTable, decode_tables};
use alluvium::format::manifest::{Header, Manifest, Published, decode, encode_fence};
use alluvium::format::part::{Part, decode_parts};
use alluvium_fuzz::{binary, json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    binary(input, decode, |published| match published {
        Published::Manifest(sealed) => sealed.encode(),
        Published::Fence(sealed) => encode_fence(sealed),
    });
    if let Ok(parts) = decode_parts(input) {
        let records = parts.iter().map(Part::encode).collect::<Result<Vec<_>, _>>();
        // What was written with more white space may be too short for what it says.
        if let Ok(records) = records {
            assert!(decode_parts(&records.concat()).is_ok_and(|again| again == parts));
        }
    }
    if let Ok(tables) = decode_tables(input)
        && let Ok(records) = tables.iter().map(CatalogTable::encode).collect::<Result<Vec<_>, _>>()
    {
        assert!(decode_tables(&records.concat()).is_ok_and(|again| again == tables));
    }
    json(input, Header::decode, Header::encode);
    if let Some(manifest) = json(input, Manifest::decode, Manifest::encode) {
        // Must not overflow.
        manifest.bytes();
    }
});
