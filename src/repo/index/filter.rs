//! Says from memory that a chunk is certainly new: a blocked Bloom filter over the blob ids (Putze,
//! Sanders, Singler: "Cache-, Hash- and Space-Efficient Bloom Filters", WEA 2007).
//!
//! An id picks one line of 512 bits, one cache line, and seven bits in it. Ids are keyed hashes, so
//! their own bits serve and nothing is hashed again. At 10 bits a blob about one new chunk in
//! eighty is not recognised and costs a look at the disk; at 20 bits one in two thousand.
//!
//! [`Filter::covered`] is the number of the newest block whose ids are all in here. Blocks are
//! numbered upwards for ever, so whatever this process or another one added since is found by
//! reading the blocks after it: nothing has to be kept in step, and a filter on disk may be old.

use crate::id::BlobId;

/// Words of 64 bits in a line.
const LINE_WORDS: usize = 8;
/// Bytes in a line.
const LINE_BYTES: usize = LINE_WORDS * 8;
/// Bits set for each blob; seven indices of nine bits fill one word of the id.
const PROBES: u32 = 7;
/// Fewest bits a blob before the filter grows.
const BITS_PER_BLOB: u64 = 10;
/// Smallest filter in bytes.
pub(super) const BYTES_MIN: usize = 64 << 10;
/// Largest filter in bytes: 100 million blobs at 10 bits. Beyond, it answers less often but never
/// wrongly: memory does not grow with the repository.
pub(super) const BYTES_MAX: usize = 128 << 20;

/// The set of ids, approximately: never says no to one that was inserted.
pub(super) struct Filter {
    words: Vec<u64>,
    /// How many ids were inserted, removed ones included.
    pub inserted: u64,
    /// All blocks up to this number are in here.
    pub covered: i64,
}

impl Filter {
    /// An empty filter with room for `blobs` and a quarter more.
    pub fn for_blobs(blobs: u64) -> Self {
        let bytes = (blobs + blobs / 4).saturating_mul(BITS_PER_BLOB) / 8;
        let bytes = bytes.clamp(BYTES_MIN as u64, BYTES_MAX as u64).next_power_of_two();
        Self { words: vec![0; bytes as usize / 8], inserted: 0, covered: 0 }
    }

    /// A filter of the words that [`pieces`](Self::pieces) were made of, if there can be one of this size.
    pub fn from_words(words: Vec<u64>, inserted: u64, covered: i64) -> Option<Self> {
        let bytes = words.len() * 8;
        let possible = bytes.is_power_of_two() && (BYTES_MIN..=BYTES_MAX).contains(&bytes);
        possible.then_some(Self { words, inserted, covered })
    }

    /// The bits as little-endian bytes, `len` at a time.
    pub fn pieces(&self, len: usize) -> impl Iterator<Item = Vec<u8>> {
        self.words.chunks(len / 8).map(|words| words.iter().flat_map(|word| word.to_le_bytes()).collect())
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// How many ids it serves well.
    pub fn capacity(&self) -> u64 {
        if self.bytes() >= BYTES_MAX { u64::MAX } else { self.bytes() as u64 * 8 / BITS_PER_BLOB }
    }

    /// Adds an id.
    pub fn insert(&mut self, id: &BlobId) {
        let (first, probes) = self.place(id);
        for bit in bits(probes) {
            self.words[first + bit / 64] |= 1 << (bit % 64);
        }
        self.inserted += 1;
    }

    /// False when the id was certainly never inserted.
    pub fn may_contain(&self, id: &BlobId) -> bool {
        let (first, probes) = self.place(id);
        bits(probes).all(|bit| self.words[first + bit / 64] >> (bit % 64) & 1 == 1)
    }

    /// The first word of the id's line, and the word of the id that picks bits in it.
    fn place(&self, id: &BlobId) -> (usize, u64) {
        let words = id.0.as_chunks().0;
        let line = u64::from_le_bytes(words[0]) as usize & (self.bytes() / LINE_BYTES - 1);
        (line * LINE_WORDS, u64::from_le_bytes(words[1]))
    }
}

/// The places of the bits in a line.
fn bits(probes: u64) -> impl Iterator<Item = usize> {
    (0..PROBES).map(move |n| (probes >> (9 * n)) as usize % (LINE_BYTES * 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> BlobId {
        BlobId(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    #[test]
    fn answers_no_to_nearly_all_that_is_not_in_it_and_never_to_what_is() {
        let mut filter = Filter::for_blobs(0);
        let capacity = filter.capacity();
        (0..capacity).for_each(|n| filter.insert(&id(n)));
        assert!((0..capacity).all(|n| filter.may_contain(&id(n))));
        let wrong = (capacity..3 * capacity).filter(|n| filter.may_contain(&id(*n))).count() as f64;
        let share = wrong / (2 * capacity) as f64;
        assert!(share < 0.015, "{share} of the new ids pass a full filter");
    }

    #[test]
    fn is_the_same_after_a_way_through_bytes() {
        let mut filter = Filter::for_blobs(100_000);
        (0..1000).for_each(|n| filter.insert(&id(n)));
        let bytes: Vec<u8> = filter.pieces(4096).flatten().collect();
        let words: Vec<u64> = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let again = Filter::from_words(words.clone(), filter.inserted, 7).expect("a size of its own making");
        assert_eq!((again.words, again.inserted, again.covered), (filter.words, 1000, 7));
        assert!(Filter::from_words(words[1..].to_vec(), 0, 0).is_none());
        assert!(Filter::from_words(Vec::new(), 0, 0).is_none());
    }

    #[test]
    fn its_size_is_bounded() {
        assert_eq!(Filter::for_blobs(0).bytes(), BYTES_MIN);
        assert_eq!(Filter::for_blobs(20_000_000).bytes(), 32 << 20);
        assert_eq!(Filter::for_blobs(u64::MAX / 100).bytes(), BYTES_MAX);
    }
}
