//! What a chunk looks like in four numbers: similar chunks share some of them. Each feature is the least of many hashes
//! of the content (Broder, "On the resemblance and containment of documents", 1997), sampled where the content says: at the
//! beginnings of lines, so that a chunk of rows is known by its rows, wherever they moved; where there are few lines, by a
//! gear hash of the bytes in front, as Odess does it (Zou et al., "Odess", ICDE 2021), so that pages of a database are known
//! by what is in them.
//!
//! Features leak similarity: they are keyed, and never leave the local cache.

/// Features of a chunk.
pub const FEATURES: usize = 4;
/// Bytes of a sample.
const SAMPLE: usize = 32;
/// Fewest samples that tell anything.
const SAMPLES_MIN: usize = 4;
/// Lines that are longer on average than so many bytes are no rows.
const LINE_MAX: usize = 512;
/// The gear hash is shifted by so many bits a byte: it depends on as many bytes as a sample has.
const GEAR_SHIFT: usize = 64 / SAMPLE;
/// Every 128th place is sampled.
const GEAR_BITS: u32 = 7;

/// Computes features.
pub struct Sketcher {
    words: [u64; SAMPLE / 8],
    /// One for each feature, odd.
    factors: [u64; FEATURES],
    gear: [u64; 256],
}

impl Sketcher {
    /// A sketcher with keys of its own, derived from `seed`.
    pub fn new(seed: &[u8; 32]) -> Self {
        let mut bytes = [0; SAMPLE + FEATURES * 8 + 256 * 8];
        blake3::Hasher::new_keyed(seed).update(b"alluvium v1 features").finalize_xof().fill(&mut bytes);
        let word = |n: usize| u64::from_le_bytes(bytes.as_chunks().0[n]);
        Self {
            words: std::array::from_fn(word),
            factors: std::array::from_fn(|n| word(SAMPLE / 8 + n) | 1),
            gear: std::array::from_fn(|n| word(SAMPLE / 8 + FEATURES + n)),
        }
    }

    /// The features of a chunk, or none where it has too few samples.
    pub fn features(&self, raw: &[u8]) -> Option<[u64; FEATURES]> {
        let mut least = Least::OF_NONE;
        let (mut start, mut lines) = (0, 0);
        for end in memchr::memchr_iter(b'\n', raw) {
            self.take(&mut least, raw, start);
            (start, lines) = (end + 1, lines + 1);
        }
        self.take(&mut least, raw, start);
        if lines * LINE_MAX < raw.len() {
            least = Least::OF_NONE;
            let mut hash = 0_u64;
            for (at, &byte) in raw.iter().enumerate() {
                hash = (hash << GEAR_SHIFT).wrapping_add(self.gear[usize::from(byte)]);
                if hash >> (u64::BITS - GEAR_BITS) == 0
                    && let Some(start) = (at + 1).checked_sub(SAMPLE)
                {
                    self.take(&mut least, raw, start);
                }
            }
        }
        // Features of one kind are compared with their like only.
        let kinds = std::array::from_fn(|kind| least.values[kind] & !(FEATURES as u64 - 1) | kind as u64);
        (least.samples >= SAMPLES_MIN).then_some(kinds)
    }

    /// Takes the sample at `start` in, where there is a whole one.
    #[inline]
    fn take(&self, least: &mut Least, raw: &[u8], start: usize) {
        let Some(sample) = raw.get(start..).and_then(|rest| rest.first_chunk()) else { return };
        let hash = self.hash(sample);
        for (least, factor) in least.values.iter_mut().zip(self.factors) {
            *least = (*least).min(hash.wrapping_mul(factor).rotate_left(23));
        }
        least.samples += 1;
    }

    /// By wide multiplication of pairs of words, as wyhash does it.
    fn hash(&self, sample: &[u8; SAMPLE]) -> u64 {
        let (words, _) = sample.as_chunks::<8>();
        let word = |n: usize| u64::from_le_bytes(words[n]) ^ self.words[n];
        let fold = |a: u64, b: u64| {
            let wide = u128::from(a) * u128::from(b);
            wide as u64 ^ (wide >> 64) as u64
        };
        fold(word(0), word(1)) ^ fold(word(2), word(3)).rotate_left(32)
    }
}

/// The least of the hashes so far, and of how many samples.
struct Least {
    values: [u64; FEATURES],
    samples: usize,
}

impl Least {
    const OF_NONE: Self = Self { values: [u64::MAX; FEATURES], samples: 0 };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::hash::stream_digest;

    fn rows(from: usize, to: usize, changed: usize) -> Vec<u8> {
        let row = |n: usize| {
            format!("{n}\tuser{}@example.com\t{}\n", n * 7919 % 100_003, if n.is_multiple_of(changed) { 1 } else { n })
        };
        (from..to).map(row).collect::<String>().into_bytes()
    }

    #[test]
    fn similar_chunks_share_features_and_others_do_not() {
        let sketcher = Sketcher::new(&[7; 32]);
        let shared = |a: &[u8], b: &[u8]| {
            let (a, b) = (sketcher.features(a).expect("rows"), sketcher.features(b).expect("rows"));
            a.iter().zip(b).filter(|(a, b)| **a == *b).count()
        };
        let base = rows(0, 3000, 5000);
        assert_eq!(shared(&base, &base), FEATURES);
        assert!(shared(&base, &rows(0, 3000, 100)) >= 2, "a change in every hundredth row");
        assert!(shared(&base, &rows(60, 3060, 5000)) >= 2, "rows went and came");
        assert_eq!(shared(&base, &rows(3000, 6000, 5000)), 0);
        assert_eq!(sketcher.features(b"one\ntwo\n"), None);
        // Cells of pages, without a single line: a hundredth changed, one more at the front, another page size.
        let cells = |changed: usize, from: usize, page: usize| -> Vec<u8> {
            let cell = |n: usize| {
                let cell = stream_digest(&(if n.is_multiple_of(changed) { n + 9_000_000 } else { n }).to_le_bytes());
                cell.map(|byte| if byte == b'\n' { b'x' } else { byte })
            };
            let cells: Vec<u8> = (from..from + 6000).flat_map(cell).collect();
            cells.chunks(page - 64).flat_map(|page| [&[0xff; 64][..], page].concat()).collect()
        };
        let base = cells(100_003, 1, 4096);
        assert_eq!(shared(&base, &base), FEATURES);
        assert!(shared(&base, &cells(100, 1, 4096)) >= 2, "a change in every hundredth cell");
        assert!(shared(&base, &cells(100_003, 2, 4096)) >= 2, "a cell went and one came");
        assert!(shared(&base, &cells(100_003, 1, 8192)) >= 2, "pages of another length");
        assert_eq!(shared(&base, &cells(100_003, 6001, 4096)), 0);
        let base = rows(0, 3000, 5000);
        let other = Sketcher::new(&[8; 32]).features(&base).expect("rows");
        assert!(other.iter().zip(sketcher.features(&base).expect("rows")).all(|(a, b)| *a != b), "keyed");
    }
}
