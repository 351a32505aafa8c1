//! Segments: whatever stream comes in whatever pieces, it is consumed, what is left to look at is bounded, and the statements
//! chosen for a table are statements of the dump.
#![no_main]

use alluvium::transform::segment::sql::Dialect;
use alluvium::transform::segment::units::{UnitFilter, units};
use alluvium::transform::segment::{LOOKAHEAD, Segmenter};
use alluvium_fuzz::number;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (choice, stream) = number(input);
    let step = choice as usize % 4096 + 1;
    if let Some(mut segmenter) = Segmenter::recognise(stream) {
        let _ = segmenter.first();
        let (mut consumed, mut end, mut at) = (0, 0, 0);
        while end < stream.len() {
            end = stream.len().min(end + step);
            let mut begun = Vec::new();
            let n = segmenter.scan(&stream[consumed..end], end == stream.len(), &mut begun);
            assert!(n <= end - consumed && end - consumed - n < LOOKAHEAD);
            for begin in begun {
                assert!(consumed + begin.at >= at && begin.at <= n, "segments begin one after the other");
                at = consumed + begin.at;
            }
            consumed += n;
        }
        assert_eq!(consumed, stream.len());
    }
    for dialect in [Dialect::Postgres, Dialect::Mysql, Dialect::Sqlite] {
        let found = units(dialect, stream);
        let bytes: usize = found.iter().map(|unit| unit.len()).sum();
        assert!(bytes <= stream.len());
        // Rows and the rest are, together, all units.
        let mut passed = 0;
        for rows in [true, false] {
            let mut filter = UnitFilter::new(dialect, rows);
            let mut out = |part: &[u8]| -> Result<(), ()> {
                passed += part.len();
                Ok(())
            };
            for piece in stream.chunks(step) {
                filter.pass(piece, false, &mut out).expect("no failure");
            }
            filter.pass(&[], true, &mut out).expect("no failure");
        }
        assert!(passed <= stream.len());
    }
});
