//! Content-defined cutting: `FastCDC` 2020 (Xia et al., "The Design of Fast Content-Defined Chunking for
//! Data Deduplication Based Storage Systems", IEEE TPDS 2020) with a gear table of our own.
//!
//! The whole 256-entry table is derived from the repository's key, so that cut points can't be
//! computed from public constants. That alone does not hide them from somebody who can insert rows
//! (`docs/threat-model.md`).
//!
//! The reference algorithm cuts in front of the byte that decided the cut. Here the chunk takes that byte
//! in, so that a cut depends on nothing but the chunk's own bytes. So a chunk whose bytes equal
//! those of a chunk that was cut before (not at a stream's end) has the same cut, and need not be
//! scanned again: that is what makes prediction exact ([`crate::repo`]).

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

/// Cuts streams into chunks.
pub struct Chunker {
    min: usize,
    average: usize,
    max: usize,
    mask_strict: u64,
    mask_relaxed: u64,
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
    /// How far a cut may be moved to the end of a row.
    reach: usize,
}

impl Chunker {
    /// A chunker for chunks of `min`, `average` and `max` bytes (checked by the format), with the
    /// gear table of `seed`.
    pub fn new(seed: &[u8; 32], min: usize, average: usize, max: usize) -> Self {
        let gear = gear_table(seed);
        let gear_shifted = Box::new(gear.map(|g| g << 1));
        let (mask_strict, mask_relaxed) = select_masks(average, Normalization::Level1);
        Self { min, average, max, mask_strict, mask_relaxed, gear: Box::new(gear), gear_shifted, reach: 0 }
    }

    /// Moves each cut on to the end of a row, if one is near: behind a line feed, or behind the parenthesis that opens the
    /// next tuple of an `INSERT`. So chunks hold whole rows.
    #[must_use]
    pub fn at_rows(self) -> Self {
        let reach = (self.average / REACH_SHARE).min((self.max - self.average - 2) / 2);
        // Even: the search looks at two bytes at a time, and its bound must not change where it ends.
        Self { reach: reach & !1, ..self }
    }

    /// No chunk is longer, in bytes. A cut is final when at least this much follows its beginning.
    pub fn max(&self) -> usize {
        self.max
    }

    /// The length of the first chunk of `data`. When `data` is shorter than [`max`](Self::max) and is
    /// not the stream's end, the answer may change with what follows.
    pub fn cut(&self, data: &[u8]) -> usize {
        let (_, length) = cut_gear(
            data,
            self.min,
            self.average,
            self.max - self.reach - 2,
            self.mask_strict,
            self.mask_relaxed,
            self.mask_strict << 1,
            self.mask_relaxed << 1,
            self.gear.as_slice(),
            self.gear_shifted.as_slice(),
        );
        let end = data.len().min(length + 1);
        // Where no row ends, the chunk takes in what was searched: its cut depends on its own bytes all the same.
        let within = &data[..data.len().min(end + self.reach)];
        end + row_end(within, end).unwrap_or(within.len() - end)
    }
}

/// The part of the average length within which the end of a row is near.
const REACH_SHARE: usize = 16;
/// What separates the tuples of an `INSERT`.
const NEXT_TUPLE: &[u8] = b"),(";

/// How many bytes behind `from` the first row ends that ends at `from` or later.
fn row_end(data: &[u8], from: usize) -> Option<usize> {
    let is_end = |at: usize| data[at] == b'\n' || (data[at] == b'(' && data[..=at].ends_with(NEXT_TUPLE));
    if from > 0 && is_end(from - 1) {
        return Some(0);
    }
    memchr::memchr2_iter(b'\n', b'(', &data[from..]).find(|at| is_end(from + at)).map(|at| at + 1)
}

/// The gear table: 2048 bytes of BLAKE3's extendable output, keyed with `seed`, little-endian.
fn gear_table(seed: &[u8; 32]) -> [u64; 256] {
    let mut bytes = [0; 256 * 8];
    blake3::Hasher::new_keyed(seed).update(b"alluvium v1 gear table").finalize_xof().fill(&mut bytes);
    let (words, []) = bytes.as_chunks::<8>() else { unreachable!("2048 is a multiple of 8") };
    std::array::from_fn(|i| u64::from_le_bytes(words[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reproducible bytes that look like rows.
    fn rows(n: usize) -> Vec<u8> {
        (0..n)
            .flat_map(|i| format!("{i}\tuser{}@example.com\t{}\n", i * 7 % 1013, (i * i) % 99_991).into_bytes())
            .collect()
    }

    fn lengths(chunker: &Chunker, mut data: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while !data.is_empty() {
            let length = chunker.cut(data);
            lengths.push(length);
            data = &data[length..];
        }
        lengths
    }

    /// Golden cut points: if these change, every repository in the world stops deduplicating against
    /// its own past. They may not change within format 1.
    #[test]
    fn cut_points_never_change() {
        let chunker = Chunker::new(&[7; 32], 1024, 4096, 16384);
        let lengths = lengths(&chunker, &rows(2500));
        assert_eq!(lengths[..8], GOLDEN);
    }

    const GOLDEN: [usize; 8] = [5539, 2932, 4107, 2784, 4533, 1997, 3874, 10154];

    #[test]
    fn cut_depends_only_on_the_bytes_of_the_chunk() {
        let chunker = Chunker::new(&[1; 32], 256, 1024, 4096);
        let data = rows(4000);
        let mut at = 0;
        for length in lengths(&chunker, &data) {
            if at + length < data.len() {
                let mut other = data[at..at + length].to_vec();
                other.extend_from_slice(&vec![b'x'; 8192]);
                assert_eq!(chunker.cut(&other), length);
            }
            at += length;
        }
    }

    #[test]
    fn cuts_at_rows_end_with_rows_and_depend_on_the_chunk_alone() {
        let tuples = rows(4000).split(|b| *b == b'\n').fold(Vec::new(), |all, row| [&all, row, &b"),("[..]].concat());
        let mut noise = vec![0; 200_000];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut noise);
        noise.retain(|b| *b != b'\n');
        // A sixteenth of the second average is odd.
        let chunkers = [1024, 1040].map(|average| Chunker::new(&[1; 32], 256, average, 4096).at_rows());
        let data = [(rows(4000), true), (tuples, true), (noise, false)];
        for (chunker, (data, has_rows)) in chunkers.iter().flat_map(|c| data.iter().map(move |d| (c, d))) {
            let mut at = 0;
            for length in lengths(chunker, data) {
                assert!(length <= 4096);
                let chunk = &data[at..at + length];
                at += length;
                if at == data.len() {
                    continue;
                }
                assert!(!has_rows || chunk.ends_with(b"\n") || chunk.ends_with(b"),("));
                for next in [&[b'x'; 8192][..], &[b'\n'; 8192]] {
                    assert_eq!(chunker.cut(&[chunk, next].concat()), length, "the same cut, whatever follows");
                }
            }
        }
    }

    #[test]
    fn another_seed_cuts_elsewhere() {
        let data = rows(4000);
        let cut = |seed| lengths(&Chunker::new(&[seed; 32], 256, 1024, 4096), &data);
        assert_ne!(cut(1), cut(2));
    }
}
