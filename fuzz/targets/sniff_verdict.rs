//! What a stream's head and tail tell: whether it is compressed, and whether a dump is whole.
#![no_main]

use alluvium::error::Kind;
use alluvium::source::sniff::sniff;
use alluvium::source::verdict::judge;
use alluvium::source::watch::{HEAD_BYTES, TAIL_BYTES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|stream: &[u8]| {
    let head = &stream[..stream.len().min(HEAD_BYTES)];
    if let Some(opaque) = sniff(head) {
        assert!(!opaque.what.is_empty() && !opaque.advice.is_empty());
    }
    let verdict = |stream: &[u8]| {
        let tail = &stream[stream.len().saturating_sub(TAIL_BYTES)..];
        judge(&stream[..stream.len().min(HEAD_BYTES)], tail, stream.len() as u64)
    };
    let known = ["-- PostgreSQL database dump\n", "-- MySQL dump 10", "-- MariaDB dump 10"];
    if let Err(error) = verdict(stream) {
        assert_eq!(error.kind(), Kind::Source);
    } else if known.iter().any(|start| stream.starts_with(start.as_bytes())) {
        // A known dump passes by its last line only: one more row behind it, and it is not whole.
        assert!(verdict(&[stream, b"\nINSERT INTO t VALUES (1);\n"].concat()).is_err(), "data behind the end");
    }
    // The head and the tail need not fit together: streams longer than both.
    let _ = judge(head, head, u64::MAX);
});
