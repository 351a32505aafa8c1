//! Lists that are streams of records: the parts of a snapshot, and the catalog of a dump.

use memchr::{memchr, memrchr};

use super::super::snapshots::{ListSummary, inline_list};
use super::Writer;
use super::cutting::RecipeBuilder;
use crate::error::{Error, Kind, Result};
use crate::format::Malformed;
use crate::format::catalog::{Catalog, CatalogTable};
use crate::format::limits::{BLOB_RAW_BYTES_MAX, PARTS_INLINE_BYTES_MAX, PARTS_INLINE_MAX, PARTS_MAX};
use crate::format::manifest::{Digest, Listing, Part, PartList};
use crate::format::recipe::Recipe;
use crate::id::PartName;
use crate::transform::hash::StreamHasher;

impl Writer<'_> {
    /// Stores the list of a snapshot's parts, unless it is short enough for the manifest.
    ///
    /// # Errors
    /// `Usage` for too many parts, and for one whose record is too long; a failure of the pipeline.
    pub fn store_parts(&mut self, parts: Vec<Part>) -> Result<PartList> {
        if parts.len() as u64 > PARTS_MAX {
            return Err(Error::new(Kind::Usage, format!("{} parts: a snapshot may have {PARTS_MAX}", parts.len())));
        }
        if parts.len() <= PARTS_INLINE_MAX {
            let mut bytes = 0;
            for part in &parts {
                bytes += part.encode().map_err(|e| too_long(&part.name, &e))?.len();
            }
            if bytes <= PARTS_INLINE_BYTES_MAX {
                return Ok(inline_list(parts));
            }
        }
        let mut summary = ListSummary::default();
        let recipe = self.store_records(&parts, |part| {
            summary.add(part);
            part.encode().map_err(|e| too_long(&part.name, &e))
        })?;
        Ok(summary.list(Listing::Recipe(recipe)))
    }

    /// Stores the catalog of a dump.
    ///
    /// # Errors
    /// `Usage` for too many tables, and for one whose record is too long; a failure of the pipeline.
    pub fn store_catalog(&mut self, tables: &[CatalogTable]) -> Result<Catalog> {
        if tables.len() as u64 > PARTS_MAX {
            return Err(Error::new(Kind::Usage, format!("{} tables: a catalog may have {PARTS_MAX}", tables.len())));
        }
        let (mut hasher, mut bytes) = (StreamHasher::new(), 0);
        let recipe = self.store_records(tables, |table| {
            let record = table.encode().map_err(|e| too_long(&table.name, &e))?;
            hasher.update(&record);
            bytes += record.len() as u64;
            Ok(record)
        })?;
        let digest = Digest { bytes, blake3: *hasher.finalize().as_bytes() };
        Ok(Catalog { digest, recipe, tables: tables.len() as u64 })
    }

    /// Stores the records of `items` as chunks of whole records.
    fn store_records<T>(&mut self, items: &[T], mut encode: impl FnMut(&T) -> Result<Vec<u8>>) -> Result<Recipe> {
        let mut recipe = RecipeBuilder::default();
        let mut waiting = Vec::new();
        let max = self.recipe_chunker.max();
        for item in items {
            waiting.extend(encode(item)?);
            if waiting.len() >= 8 * max {
                let cut = self.store_cut(&mut recipe, &waiting, max)?;
                waiting.drain(..cut);
            }
        }
        self.store_cut(&mut recipe, &waiting, 1)?;
        let recipe = self.finish_recipe(recipe)?;
        self.failure.check()?;
        Ok(recipe)
    }

    /// Cuts and stores `records` as long as `least` bytes are left. Returns up to where.
    fn store_cut(&mut self, recipe: &mut RecipeBuilder, records: &[u8], least: usize) -> Result<usize> {
        let mut at = 0;
        while records.len() - at >= least {
            let end = at + self.cut_records(&records[at..]);
            let stored = self.store_one(&records[at..end])?;
            self.push(recipe, 0, stored)?;
            at = end;
        }
        Ok(at)
    }

    /// The length of the first chunk of a list, moved on to the end of a record; back to one where
    /// the chunk would be longer than a chunk may be.
    fn cut_records(&self, records: &[u8]) -> usize {
        let cut = self.recipe_chunker.cut(records);
        let end = memchr(b'\n', &records[cut - 1..]).map_or(records.len(), |end| cut + end);
        if end <= BLOB_RAW_BYTES_MAX {
            return end;
        }
        memrchr(b'\n', &records[..BLOB_RAW_BYTES_MAX]).map_or(end, |end| end + 1)
    }
}

fn too_long(name: &PartName, error: &Malformed) -> Error {
    Error::new(Kind::Usage, format!("`{}`: {error}", name.to_string().escape_debug()))
}
