//! A chunk as its difference to a similar one: a zstd frame (RFC 8878) for which the bytes of the base stand in front of
//! the chunk's (`ZSTD_CCtx_refPrefix`). Long-distance matching finds what moved; the window spans both.

use zstd_safe::{CCtx, CParameter, DCtx, ErrorCode};

use super::compress::Decompressor;

/// Binary logarithms of the smallest and the largest window: two chunks of 16 MiB fit.
const WINDOW_LOG_MIN: u32 = 10;
const WINDOW_LOG_MAX: u32 = 25;

/// The zstd level: nearly everything is one long match, and higher levels find little besides.
const LEVEL: i32 = 1;
/// The shortest match that is looked for, in bytes: the longest that zstd offers. What a match costs must pay where nearly
/// everything is one: fewer are shorter and quicker to decode.
const MATCH_MIN: u32 = 7;

/// One place in so many (2 to this power) of the base is known to long-distance matching: four times as many as zstd would take.
const RATE_LOG: u32 = 5;

/// The difference of `raw` to `base`, or `None` when it would not be shorter than `raw`.
pub fn encode(base: &[u8], raw: &[u8]) -> Option<Vec<u8>> {
    let window = (base.len() + raw.len()).next_power_of_two().ilog2().clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX);
    // A prefix is borrowed for as long as its context lives: each difference has a context of its own.
    let mut context = CCtx::create();
    let mut frame = vec![0; raw.len()];
    for parameter in [
        CParameter::CompressionLevel(LEVEL),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
        CParameter::EnableLongDistanceMatching(true),
        CParameter::LdmHashRateLog(RATE_LOG),
        CParameter::WindowLog(window),
        CParameter::MinMatch(MATCH_MIN),
    ] {
        context.set_parameter(parameter).ok()?;
    }
    context.ref_prefix(base).ok()?;
    let len = context.compress2(&mut frame[..], raw).ok().filter(|len| *len < raw.len())?;
    frame.truncate(len);
    Some(frame)
}

/// Decodes what [`encode`] made of the same `base`, into exactly `out`.
///
/// # Errors
/// What zstd says, or a length that differs from `out`'s.
pub fn decode(decompressor: &mut Decompressor, base: &[u8], frame: &[u8], out: &mut [u8]) -> Result<(), String> {
    if !base.starts_with(&DICTIONARY_MAGIC) {
        return decompressor.decompress_behind(base, frame, out);
    }
    let name = |code: ErrorCode| format!("zstd, to a base: {}", zstd_safe::get_error_name(code));
    let mut context = DCtx::create();
    context.ref_prefix(base).map_err(name)?;
    match context.decompress(out, frame).map_err(name)? {
        n if n == out.len() => Ok(()),
        n => Err(format!("decompresses to {n} bytes instead of {}", out.len())),
    }
}

/// What begins like this zstd would take for a dictionary with tables of its own, not for bytes in front (RFC 8878, 5).
const DICTIONARY_MAGIC: [u8; 4] = [0x37, 0xa4, 0x30, 0xec];

/// The version of the ancestor that a delta of `version` is encoded against, by skip-deltas: the lowest bit is cleared,
/// so that a chain has as many deltas as its version has bits (the repository format of Subversion,
/// `notes/skip-deltas`).
pub fn base_version(version: u8) -> u8 {
    version & version.wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_lead_to_a_whole_blob_in_few_steps() {
        for version in 1..=u8::MAX {
            let below = base_version(version);
            assert!(below < version);
            // What it is encoded against is among the ancestors of the version before it.
            let mut ancestor = version - 1;
            while ancestor != below {
                ancestor = base_version(ancestor);
            }
        }
    }

    #[test]
    fn a_change_costs_what_changed() {
        let rows = |n: usize| -> Vec<u8> {
            (0..4000)
                .flat_map(|i| {
                    format!("{i}\tuser{}\t{}\n", i * 7919 % 10_007, if i == n { 1 } else { i * i }).into_bytes()
                })
                .collect()
        };
        let (base, raw) = (rows(17), rows(2500));
        let frame = encode(&base, &raw).expect("it is shorter");
        assert!(frame.len() < 200, "{} bytes", frame.len());
        let (mut decompressor, mut out) = (Decompressor::default(), vec![0; raw.len()]);
        decode(&mut decompressor, &base, &frame, &mut out).expect("it decodes");
        assert!(out == raw);
        assert!(
            decode(&mut decompressor, &rows(18), &frame, &mut out).is_err() || out != raw,
            "another base gives other bytes"
        );
    }

    proptest! {
        #[test]
        fn any_two_come_back(
            base in prop::collection::vec(any::<u8>(), 0..3000),
            edits in prop::collection::vec((0..3000_usize, prop::collection::vec(any::<u8>(), 0..40)), 0..6),
            hostile in prop::collection::vec(any::<u8>(), 0..200),
            like_a_dictionary in any::<bool>(),
        ) {
            let mut base = base;
            if like_a_dictionary {
                base.splice(..0, DICTIONARY_MAGIC);
            }
            let mut raw = base.clone();
            for (at, piece) in edits {
                let at = at.min(raw.len());
                raw.splice(at..(at + piece.len() / 2).min(raw.len()), piece);
            }
            let (mut decompressor, mut out) = (Decompressor::default(), vec![0; raw.len()]);
            if let Some(frame) = encode(&base, &raw) {
                decode(&mut decompressor, &base, &frame, &mut out).expect("it decodes");
                prop_assert_eq!(&out, &raw);
            }
            let _ = decode(&mut decompressor, &base, &hostile, &mut out);
        }
    }
}
