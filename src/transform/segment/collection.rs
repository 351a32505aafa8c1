//! Takes one collection out of an archive of `mongodump`: as an archive of its own, or its documents.

use super::Ledger;
use super::archive::{Archive, Header, Thing, metadata};

/// What of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// An archive that holds it alone: the magic, the archive's header, what the prelude says of it, its blocks.
    Archive,
    /// Its blocks, as they are.
    Blocks,
    /// Its documents, one after the other, as in a file of `mongodump` without `--archive`.
    Documents,
    /// What the prelude says of it: options and indexes, as JSON.
    Metadata,
}

/// Reads an archive, from which blocks of others may be left out, and lets pass what is wanted.
pub struct CollectionFilter {
    archive: Archive,
    /// Bytes that were not consumed.
    rest: Vec<u8>,
    wanted: String,
    what: What,
    /// What it is in; `None` in the magic.
    thing: Option<Thing>,
    /// It is in a block that is wanted.
    inside: bool,
    /// A document of the prelude so far.
    held: Vec<u8>,
    /// The archive's header has passed.
    headed: bool,
    checksum: Checksum,
    found: Found,
}

/// What there was of a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The prelude describes it.
    pub described: bool,
    /// There were blocks of it.
    pub blocks: bool,
    /// Its last block was there, and its documents have the checksum that this tells.
    pub whole: bool,
    /// Where something else stands than an archive has, in bytes; what follows is not looked at.
    pub unknown: Option<u64>,
}

impl CollectionFilter {
    /// Of the archive that begins with `head`, if it is one, the collection `wanted` (`db.collection`).
    pub fn new(head: &[u8], wanted: &str, what: What) -> Option<Self> {
        Some(Self {
            archive: Archive::of_things(head)?,
            rest: Vec::new(),
            wanted: wanted.to_owned(),
            what,
            thing: None,
            inside: false,
            held: Vec::new(),
            headed: false,
            checksum: Checksum::default(),
            found: Found::default(),
        })
    }

    /// Gives `out` what is wanted of the next bytes.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn pass<E>(
        &mut self,
        bytes: &[u8],
        last: bool,
        out: &mut (impl FnMut(&[u8]) -> Result<(), E> + ?Sized),
    ) -> Result<(), E> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(bytes);
        let begin = self.archive.consumed;
        // A ledger for each piece: there is no end to the segments here.
        let consumed = self.archive.scan(&rest, last, &mut Ledger::default());
        let mut at = 0;
        for (place, thing) in self.archive.take_things() {
            let next = (place - begin) as usize;
            self.take(&rest[at..next], out)?;
            self.begin(place, thing, out)?;
            at = next;
        }
        self.take(&rest[at..consumed], out)?;
        rest.drain(..consumed);
        self.rest = rest;
        Ok(())
    }

    /// What there was.
    pub fn found(&self) -> Found {
        self.found
    }

    /// More bytes of what it is in.
    fn take<E>(&mut self, bytes: &[u8], out: &mut (impl FnMut(&[u8]) -> Result<(), E> + ?Sized)) -> Result<(), E> {
        let passes = match (&self.thing, self.what) {
            // The magic.
            (None | Some(Thing::PreludeEnd), what) => what == What::Archive,
            (Some(Thing::Prelude), _) => {
                self.held.extend_from_slice(bytes);
                false
            }
            (Some(Thing::Block(_) | Thing::End), what) => self.inside && matches!(what, What::Archive | What::Blocks),
            (Some(Thing::Document), what) if self.inside => {
                self.checksum.update(bytes);
                what != What::Metadata
            }
            (Some(Thing::Document | Thing::Unknown), _) => false,
        };
        if passes && !bytes.is_empty() { out(bytes) } else { Ok(()) }
    }

    /// `thing` begins at `place`, and what it was in ends.
    fn begin<E>(
        &mut self,
        place: u64,
        thing: Thing,
        out: &mut (impl FnMut(&[u8]) -> Result<(), E> + ?Sized),
    ) -> Result<(), E> {
        if self.thing == Some(Thing::Prelude) {
            self.end_document(out)?;
        }
        match &thing {
            Thing::Block(Header { collection, checksum }) => {
                self.inside = *collection == self.wanted;
                if self.inside {
                    self.found.blocks = true;
                    self.found.whole = *checksum == Some(self.checksum.value());
                }
            }
            Thing::Unknown => self.found.unknown = Some(place),
            _ => {}
        }
        self.thing = Some(thing);
        Ok(())
    }

    /// A document of the prelude ends: the first is the archive's header, each other describes a collection.
    fn end_document<E>(&mut self, out: &mut (impl FnMut(&[u8]) -> Result<(), E> + ?Sized)) -> Result<(), E> {
        let document = std::mem::take(&mut self.held);
        if !self.headed {
            self.headed = true;
            return if self.what == What::Archive { out(&document) } else { Ok(()) };
        }
        let Some((_, described)) = metadata(&document).filter(|(collection, _)| *collection == self.wanted) else {
            return Ok(());
        };
        self.found.described = true;
        match self.what {
            What::Archive => out(&document),
            What::Metadata => out(&described),
            What::Blocks | What::Documents => Ok(()),
        }
    }
}

/// CRC-64 of ECMA-182, reflected, which an archive has of each collection's documents (also known as CRC-64/XZ).
struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(!0)
    }
}

impl Checksum {
    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = TABLE[usize::from(*byte ^ self.0 as u8)] ^ (self.0 >> 8);
        }
    }

    fn value(&self) -> u64 {
        !self.0
    }
}

const TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let (mut value, mut bit) = (i as u64, 0);
        while bit < 8 {
            value = (value >> 1) ^ if value & 1 == 1 { 0xc96c_5795_d787_0f42 } else { 0 };
            bit += 1;
        }
        table[i] = value;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of CRC-64/XZ in the catalogue of parametrised CRC algorithms (<https://reveng.sourceforge.io>).
    #[test]
    fn the_checksum_is_that_of_the_catalogue() {
        let mut checksum = Checksum::default();
        checksum.update(b"123456789");
        assert_eq!(checksum.value(), 0x995d_c9bb_df19_39fa);
    }
}
