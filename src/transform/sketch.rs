//! What a chunk looks like in four numbers: similar chunks share some of them. Each feature is the least of many hashes
//! of the content (Broder, "On the resemblance and containment of documents", 1997), sampled where the content says, as
//! Odess samples by its gear hash (Zou et al., "Odess", ICDE 2021): here at the beginnings of lines, so that a chunk of
//! rows is known by its rows, wherever they moved.
//!
//! Features leak similarity: they are keyed, and never leave the local cache.

/// Features of a chunk.
pub const FEATURES: usize = 4;
/// Bytes of a sample.
const SAMPLE: usize = 32;
/// Fewest samples that tell anything.
const SAMPLES_MIN: usize = 4;

/// Computes features.
pub struct Sketcher {
    words: [u64; SAMPLE / 8],
    /// One for each feature, odd.
    factors: [u64; FEATURES],
}

impl Sketcher {
    /// A sketcher with keys of its own, derived from `seed`.
    pub fn new(seed: &[u8; 32]) -> Self {
        let mut bytes = [0; SAMPLE + FEATURES * 8];
        blake3::Hasher::new_keyed(seed).update(b"alluvium v1 features").finalize_xof().fill(&mut bytes);
        let word = |n: usize| u64::from_le_bytes(bytes.as_chunks().0[n]);
        Self { words: std::array::from_fn(word), factors: std::array::from_fn(|n| word(SAMPLE / 8 + n) | 1) }
    }

    /// The features of a chunk, or none where it has too few lines.
    pub fn features(&self, raw: &[u8]) -> Option<[u64; FEATURES]> {
        let mut least = [u64::MAX; FEATURES];
        let mut samples = 0;
        let starts = std::iter::once(0).chain(memchr::memchr_iter(b'\n', raw).map(|at| at + 1));
        for sample in starts.filter_map(|at| raw.get(at..at + SAMPLE)) {
            let hash = self.hash(sample);
            for (least, factor) in least.iter_mut().zip(self.factors) {
                *least = (*least).min(hash.wrapping_mul(factor).rotate_left(23));
            }
            samples += 1;
        }
        // Features of one kind are compared with their like only.
        let kinds: [u64; FEATURES] = std::array::from_fn(|kind| least[kind] & !(FEATURES as u64 - 1) | kind as u64);
        (samples >= SAMPLES_MIN).then_some(kinds)
    }

    /// By wide multiplication of pairs of words, as wyhash does it.
    fn hash(&self, sample: &[u8]) -> u64 {
        let (words, _) = sample.as_chunks::<8>();
        let word = |n: usize| u64::from_le_bytes(words[n]) ^ self.words[n];
        let fold = |a: u64, b: u64| {
            let wide = u128::from(a) * u128::from(b);
            wide as u64 ^ (wide >> 64) as u64
        };
        fold(word(0), word(1)) ^ fold(word(2), word(3)).rotate_left(32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let other = Sketcher::new(&[8; 32]).features(&base).expect("rows");
        assert!(other.iter().zip(sketcher.features(&base).expect("rows")).all(|(a, b)| *a != b), "keyed");
    }
}
