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
}

impl Chunker {
    /// A chunker for chunks of `min`, `average` and `max` bytes (checked by the format), with the
    /// gear table of `seed`.
    pub fn new(seed: &[u8; 32], min: usize, average: usize, max: usize) -> Self {
        let gear = gear_table(seed);
        let gear_shifted = Box::new(gear.map(|g| g << 1));
        let (mask_strict, mask_relaxed) = select_masks(average, Normalization::Level1);
        Self { min, average, max, mask_strict, mask_relaxed, gear: Box::new(gear), gear_shifted }
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
            self.max - 2,
            self.mask_strict,
            self.mask_relaxed,
            self.mask_strict << 1,
            self.mask_relaxed << 1,
            self.gear.as_slice(),
            self.gear_shifted.as_slice(),
        );
        data.len().min(length + 1)
    }
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
    fn another_seed_cuts_elsewhere() {
        let data = rows(4000);
        let cut = |seed| lengths(&Chunker::new(&[seed; 32], 256, 1024, 4096), &data);
        assert_ne!(cut(1), cut(2));
    }
}
