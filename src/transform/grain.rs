//! Where the chunks of a part end: behind whole pages, behind whole documents.
//!
//! What is cut is still what the [`Chunker`] cuts; each cut is moved on to a place that the data's own form gives. A chunk
//! that begins at such a place has a cut that depends on nothing but its own bytes, as the chunker's have.

use super::chunk::Chunker;
use super::segment::archive::thing_bytes;

/// What the bytes of a part consist of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grain {
    /// Rows, or anything.
    #[default]
    Any,
    /// From byte `from` on, pages of `page` bytes.
    Pages {
        /// Bytes of a page.
        page: usize,
        /// Bytes in front of the first.
        from: u64,
    },
    /// From byte `from` on, what stands in an archive of `mongodump`: documents and ends.
    Documents {
        /// Bytes in front of the first.
        from: u64,
    },
}

/// The places of a part where chunks should end.
#[derive(Debug)]
pub struct Places {
    grain: Grain,
    /// Bytes of the part from its next chunk on to the next place.
    ahead: u64,
}

impl Places {
    /// Bytes behind a chunk that tell where it [may end](Self::may_end) and what follows it; more are not looked at.
    pub const LOOKS_AHEAD: usize = 4;

    /// Of a part that consists of this.
    pub fn new(grain: Grain) -> Self {
        let ahead = match grain {
            Grain::Any => 0,
            Grain::Pages { from, .. } | Grain::Documents { from } => from,
        };
        Self { grain, ahead }
    }

    /// The length of the next chunk, which `data` begins with; see [`Chunker::cut`].
    pub fn cut(&self, chunker: &Chunker, data: &[u8]) -> usize {
        let cut = chunker.cut(data);
        let max = chunker.max().min(data.len());
        match self.grain {
            Grain::Any => cut,
            Grain::Pages { .. } => match self.pages_max(chunker) {
                Some(longest) => self.page_end(cut).min(longest).min(data.len()),
                None => cut,
            },
            Grain::Documents { .. } => self.document_end(data, cut).filter(|end| *end <= max).unwrap_or(cut),
        }
    }

    /// Whether a chunk that was stored before may be the next one: whether [`cut`](Self::cut) may cut behind its `length`
    /// bytes. (Where pages were larger before, a chunk may be longer than cutting would make it: it is there already.)
    pub fn may_end(&self, chunker: &Chunker, data: &[u8], length: usize) -> bool {
        match self.grain {
            Grain::Any => true,
            Grain::Pages { .. } => self.pages_max(chunker).is_none() || self.page_end(length) == length,
            Grain::Documents { .. } => {
                self.document_end(data, length).is_none_or(|end| end == length || end > chunker.max())
            }
        }
    }

    /// The chunk of `length` bytes that `data` begins with is cut.
    pub fn pass(&mut self, data: &[u8], length: usize) {
        let end = match self.grain {
            Grain::Any => return,
            Grain::Pages { .. } => Some(self.page_end(length)),
            Grain::Documents { .. } => self.document_end(&data[..data.len().min(length + Self::LOOKS_AHEAD)], length),
        };
        match end {
            Some(end) => self.ahead = (end - length) as u64,
            // What is malformed has no such places.
            None => self.grain = Grain::Any,
        }
    }

    /// The first end of a page at `from` or later.
    fn page_end(&self, from: usize) -> usize {
        let Grain::Pages { page, .. } = self.grain else { return from };
        let ahead = usize::try_from(self.ahead).unwrap_or(usize::MAX);
        ahead.saturating_add(from.saturating_sub(ahead).next_multiple_of(page))
    }

    /// The last end of a page in the longest chunk.
    fn pages_max(&self, chunker: &Chunker) -> Option<usize> {
        let Grain::Pages { page, .. } = self.grain else { return None };
        let ahead = usize::try_from(self.ahead).ok()?;
        let room = chunker.max().checked_sub(ahead)?;
        Some(ahead + room - room % page).filter(|longest| *longest > 0)
    }

    /// The first end of a document at `from` or later, which may lie behind `data`; `None` where something else stands.
    fn document_end(&self, data: &[u8], from: usize) -> Option<usize> {
        let mut at = usize::try_from(self.ahead).ok()?;
        while at < from {
            let end = at.checked_add(thing_bytes(data.get(at..)?)? as usize)?;
            // Every document ends with a zero.
            if end - at > 4 && data.get(end - 1).is_some_and(|last| *last != 0) {
                return None;
            }
            at = end;
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new().update(b"grain").finalize_xof().fill(&mut noise);
        noise
    }

    /// Lengths of all chunks of `data`; each is cut the same whatever follows it, if it begins at a place.
    fn lengths(chunker: &Chunker, grain: Grain, data: &[u8]) -> Vec<usize> {
        let (mut places, mut lengths, mut at) = (Places::new(grain), Vec::new(), 0);
        while at < data.len() {
            let rest = &data[at..];
            let length = places.cut(chunker, rest);
            assert!(length > 0 && length <= chunker.max());
            // The end of data is no place, and what ends there is cut anew.
            assert!(length == rest.len() || places.may_end(chunker, rest, length), "{grain:?}: {length} at {at}");
            for next in [&[b'x'; 8192][..], &[b'\n'; 8192], &noise(8192)] {
                if at + length < data.len() && places.ahead == 0 {
                    let again = places.cut(chunker, &[&rest[..length], next].concat());
                    assert_eq!(again, length, "the same cut, whatever follows");
                }
            }
            places.pass(rest, length);
            lengths.push(length);
            at += length;
        }
        lengths
    }

    #[test]
    fn chunks_hold_whole_pages() {
        let noise = noise(200_000);
        let rows: Vec<u8> = (0..4000).flat_map(|i| format!("{i}\tuser{}\n", i * 7 % 1013).into_bytes()).collect();
        let chunkers = [256, 300].map(|min| Chunker::new(&[1; 32], min, 1024, 4096));
        let chunkers = chunkers.into_iter().chain([Chunker::new(&[1; 32], 256, 1000, 5000).at_rows()]);
        for (chunker, data) in chunkers.zip([noise, vec![0; 100_001], rows]) {
            for page in [512, 1024, 2048, 4096] {
                for from in [0, 512, 3 * 512, 7000] {
                    let mut at = 0;
                    for length in lengths(&chunker, Grain::Pages { page, from }, &data) {
                        at += length;
                        let is_place = at >= from as usize && (at - from as usize).is_multiple_of(page);
                        assert!(at == data.len() || at < from as usize || is_place, "{page} from {from}: {at}");
                    }
                }
            }
            let none = Places::new(Grain::Pages { page: 65_536, from: 0 });
            assert_eq!(none.cut(&chunker, &data), chunker.cut(&data), "no page fits");
            assert_eq!(Places::new(Grain::Pages { page: 512, from: 0 }).cut(&chunker, &data[..7]), 7);
        }
    }

    /// Documents of so many bytes.
    fn documents(sizes: impl Iterator<Item = usize>) -> Vec<u8> {
        let noise = noise(100_000);
        let document = |(i, size): (usize, usize)| {
            let inner = &noise[i % 1000..i % 1000 + size - 5];
            [&(size as u32).to_le_bytes()[..], inner, &[0]].concat()
        };
        sizes.enumerate().flat_map(document).collect()
    }

    #[test]
    fn chunks_hold_whole_documents() {
        let sizes: Vec<usize> = (0..3000).map(|i| 5 + i * i % 400).collect();
        let data = [documents(sizes.iter().copied()), vec![0xff; 4]].concat();
        for chunker in [Chunker::new(&[1; 32], 256, 1024, 4096), Chunker::new(&[1; 32], 256, 1024, 4096).at_rows()] {
            let found = lengths(&chunker, Grain::Documents { from: 0 }, &data);
            let mut ends: Vec<usize> = sizes.iter().scan(0, |at, size| Some((*at += size, *at).1)).collect();
            ends.push(data.len());
            let (mut at, mut elsewhere) = (0, 0);
            for length in &found {
                let begin = at;
                at += length;
                // Elsewhere only where the next end would make the chunk too long.
                if let Err(next) = ends.binary_search(&at) {
                    assert!(ends[next] - begin > chunker.max(), "{begin} to {at}");
                    elsewhere += 1;
                }
            }
            assert!(elsewhere * 8 < found.len(), "{elsewhere} of {}", found.len());
            assert!(found.len() > data.len() / 4096);
            // Behind a document that no chunk holds, they are where they were.
            let long = [documents([50_000].into_iter()), data.clone()].concat();
            let behind = lengths(&chunker, Grain::Documents { from: 0 }, &long);
            assert_eq!(behind[behind.len() - found.len() / 2..], found[found.len() - found.len() / 2..]);
            // What is malformed is cut anywhere.
            lengths(&chunker, Grain::Documents { from: 7 }, &noise(100_000));
            lengths(&chunker, Grain::Documents { from: 0 }, &[&data[..5000], &noise(50_000)].concat());
            lengths(&chunker, Grain::Documents { from: u64::MAX }, &data);
        }
    }
}
