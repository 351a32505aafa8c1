//! Columnar and delta: any bytes come back, hostile ones are refused without a panic, and nothing is written past the end.
//!
//! The first eight bytes choose a length and a place; the rest is the chunk, the encoded bytes, and, in halves, base and chunk.
#![no_main]

use std::cell::RefCell;

use alluvium::transform::columnar::{self, Columnar};
use alluvium::transform::compress::Decompressor;
use alluvium::transform::delta;
use alluvium_fuzz::number;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static CODECS: RefCell<(Columnar, Decompressor)> = RefCell::new((Columnar::new(1), Decompressor::default()));
}

fuzz_target!(|input: &[u8]| {
    let (choice, rest) = number(input);
    CODECS.with_borrow_mut(|(columnar, decompressor)| {
        // Rows are told by how many there are: short inputs are repeated.
        let rows = rest.repeat(1 + choice as usize % 8);
        // Behind a few good ones, so that they are taken for rows whatever they are.
        let good = [&b""[..], b"INSERT INTO t VALUES (1, 'a');\n", b"(1,'a'),(", b"(1,'a'),\n", b"1,\"a\"\n"];
        let rows = [good[choice as usize / 8 % good.len()].repeat(64), rows].concat();
        if let Some(encoded) = columnar.encode(&rows) {
            assert!(encoded.len() < rows.len(), "it is shorter");
            let mut out = vec![0; rows.len()];
            columnar::decode(decompressor, &encoded, &mut out).expect("it decodes");
            assert!(out == rows, "it comes back");
            let mut altered = encoded.clone();
            let place = choice as usize / 8 % altered.len();
            altered[place] ^= 1 << (choice % 8);
            let _ = columnar::decode(decompressor, &altered, &mut out);
            let _ = columnar::decode(decompressor, &encoded[..place], &mut out);
        }
        let mut out = vec![0; choice as usize % 70_000];
        let _ = columnar::decode(decompressor, rest, &mut out);

        let (base, chunk) = rest.split_at(choice as usize % (rest.len() + 1));
        if let Some(frame) = delta::encode(base, chunk) {
            let mut out = vec![0; chunk.len()];
            delta::decode(decompressor, base, &frame, &mut out).expect("it decodes");
            assert_eq!(out, chunk, "it comes back");
        }
        let _ = delta::decode(decompressor, base, chunk, &mut out);
    });
});
