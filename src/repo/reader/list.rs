//! Reading what is stored as a stream of records: the parts of a snapshot, and its catalog.

use std::collections::{HashSet, VecDeque};

use super::super::parallel::{at_once, each};
use super::super::snapshots::ListSummary;
use super::Reader;
use crate::error::{Error, Result};
use crate::format::catalog::{CatalogTable, decode_tables};
use crate::format::manifest::{Digest, Listing, Manifest, Part, PartList};
use crate::format::part::decode_parts;
use crate::format::recipe::RecipeEntry;
use crate::id::BlobId;
use crate::transform::hash::StreamHasher;

impl<'r> Reader<'r> {
    /// All parts of a snapshot, in order.
    ///
    /// # Errors
    /// `Damaged` when the list can't be read or is not what the manifest says; `Storage`.
    pub fn parts(&self, manifest: &Manifest) -> Result<Vec<Part>> {
        match &manifest.parts.list {
            Listing::Inline(parts) => Ok(parts.clone()),
            Listing::Recipe(_) => self.part_iter(manifest).collect(),
        }
    }

    /// The parts of a snapshot, one after the other, without holding its whole list. Ends at the
    /// first error.
    pub fn part_iter<'a>(&'a self, manifest: &'a Manifest) -> Parts<'a, 'r> {
        let (chunks, parts) = match &manifest.parts.list {
            Listing::Inline(parts) => (None, parts.clone()),
            Listing::Recipe(recipe) => (Some(Chunks::new(self, self.entries(recipe))), Vec::new()),
        };
        Parts {
            list: &manifest.parts,
            chunks,
            next: parts.into_iter(),
            count: 0,
            listed: HashSet::new(),
            summary: Some(ListSummary::default()),
        }
    }

    /// The catalog of a snapshot, where it has one.
    ///
    /// # Errors
    /// `Damaged` when it can't be read or is not what the manifest says; `Storage`.
    pub fn catalog(&self, manifest: &Manifest) -> Result<Option<Vec<CatalogTable>>> {
        let Some(catalog) = &manifest.catalog else { return Ok(None) };
        let wrong = || Error::damaged("the catalog", "is not what the manifest says of it");
        let (mut tables, mut hasher, mut bytes) = (Vec::new(), StreamHasher::new(), 0);
        for chunk in Chunks::new(self, self.entries(&catalog.recipe)) {
            let (id, chunk) = chunk.map_err(|e| e.during("reading the catalog"))?;
            bytes += chunk.len() as u64;
            hasher.update(&chunk);
            tables.extend(decode_tables(&chunk).map_err(|e| Error::damaged(format!("catalog chunk {id}"), e))?);
            if bytes > catalog.digest.bytes || tables.len() as u64 > catalog.tables {
                return Err(wrong());
            }
        }
        let found = Digest { bytes, blake3: *hasher.finalize().as_bytes() };
        if found == catalog.digest && tables.len() as u64 == catalog.tables { Ok(Some(tables)) } else { Err(wrong()) }
    }
}

/// The parts in the plain bytes of a chunk of a list.
///
/// # Errors
/// `Damaged` for what are not whole records of parts.
pub fn decode_list(id: &BlobId, bytes: &[u8]) -> Result<Vec<Part>> {
    decode_parts(bytes).map_err(|e| Error::damaged(format!("list chunk {id}"), e))
}

/// The parts of a snapshot; see [`Reader::part_iter`].
pub struct Parts<'a, 'r> {
    list: &'a PartList,
    /// The chunks of a list that does not stand in the manifest.
    chunks: Option<Chunks<'a, 'r>>,
    next: std::vec::IntoIter<Part>,
    count: u64,
    /// The chunks of the list so far. Names are unique, so no chunk occurs twice.
    listed: HashSet<BlobId>,
    /// `None` behind the end.
    summary: Option<ListSummary>,
}

impl Parts<'_, '_> {
    fn next_part(&mut self) -> Result<Option<Part>> {
        loop {
            if let Some(part) = self.next.next() {
                self.count += 1;
                if self.count > self.list.count {
                    return Err(wrong_list("there are more parts"));
                }
                if let Some(summary) = &mut self.summary {
                    summary.add(&part);
                }
                return Ok(Some(part));
            }
            let Some(chunk) = self.chunks.as_mut().and_then(Iterator::next) else { break };
            let (id, bytes) = chunk.map_err(|e| e.during("reading the list of parts"))?;
            if !self.listed.insert(id) {
                return Err(Error::damaged("the list of parts", format!("chunk {id} of it occurs twice")));
            }
            self.next = decode_list(&id, &bytes)?.into_iter();
        }
        match self.summary.take().map(|summary| summary.list(self.list.list.clone())) {
            Some(found) if found != *self.list => Err(wrong_list("there are other parts")),
            _ => Ok(None),
        }
    }
}

impl Iterator for Parts<'_, '_> {
    type Item = Result<Part>;

    fn next(&mut self) -> Option<Self::Item> {
        self.summary.as_ref()?;
        let next = self.next_part().transpose();
        if next.as_ref().is_none_or(Result::is_err) {
            self.summary = None;
        }
        next
    }
}

fn wrong_list(what: &str) -> Error {
    Error::damaged("the list of parts", format!("every chunk is whole, but {what} than the manifest says"))
}

/// The plain bytes of chunks, in order.
struct Chunks<'a, 'r> {
    reader: &'a Reader<'r>,
    entries: Box<dyn Iterator<Item = Result<RecipeEntry>> + Send + 'a>,
    /// Chunks that were read and not yet taken.
    ahead: VecDeque<Result<(BlobId, Vec<u8>)>>,
}

impl<'a, 'r> Chunks<'a, 'r> {
    fn new(reader: &'a Reader<'r>, entries: Box<dyn Iterator<Item = Result<RecipeEntry>> + Send + 'a>) -> Self {
        Self { reader, entries, ahead: VecDeque::new() }
    }
}

impl Iterator for Chunks<'_, '_> {
    type Item = Result<(BlobId, Vec<u8>)>;

    /// Over a network several are read together.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ahead.is_empty() {
            let at_once = at_once(self.reader.indexed.repo.storage.as_ref());
            let next: Vec<Result<RecipeEntry>> = self.entries.by_ref().take(at_once).collect();
            let read = |entry: &Result<RecipeEntry>| entry.as_ref().ok().map(|e| self.reader.blob(&e.id));
            let read = each(at_once, &next, read);
            self.ahead = next
                .into_iter()
                .zip(read)
                .map(|(entry, read)| entry.and_then(|e| read.expect("it was read").map(|bytes| (e.id, bytes))))
                .collect();
        }
        self.ahead.pop_front()
    }
}
