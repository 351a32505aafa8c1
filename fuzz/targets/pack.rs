//! Packs: the plain header, the opened trailer, the footer; offsets follow from the entries and never overlap.
#![no_main]

use alluvium::format::pack::{
    FOOTER_LEN, HEADER_LEN, PackHeader, Trailer, blobs_end, decode_footer, encode_footer, padme, with_offsets,
};
use alluvium_fuzz::{binary, number};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if binary(input, PackHeader::decode, PackHeader::encode).is_some() {
        assert_eq!(input.len(), HEADER_LEN);
    }
    if let Some(trailer) = binary(input, Trailer::decode, Trailer::encode) {
        assert_eq!(input.len(), Trailer::encoded_len(&trailer.entries));
        let mut end = HEADER_LEN as u64;
        for (offset, entry) in with_offsets(&trailer.entries) {
            assert_eq!(u64::from(offset), end, "blobs lie back to back");
            end += u64::from(entry.stored_len);
        }
        assert_eq!(blobs_end(&trailer.entries), end);
    }
    // The last bytes as a footer, in a pack of any length.
    let (length, rest) = number(input);
    let footer = rest.get(..FOOTER_LEN).unwrap_or(rest);
    let pack_len = length % (1 << 32);
    if let Some(trailer_len) =
        binary(footer, |bytes| decode_footer(bytes, pack_len), |&len| encode_footer(len).to_vec())
    {
        assert!((HEADER_LEN + trailer_len + FOOTER_LEN) as u64 <= pack_len, "the trailer lies in the pack");
    }
    let length = length >> 8;
    let padded = padme(length);
    assert!(padded >= length && padded - length <= length / 8 && padme(padded) == padded);
});
