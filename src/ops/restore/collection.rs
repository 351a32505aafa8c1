//! One collection of an archive of `mongodump`: an archive of its own, its documents, or what describes it.
//!
//! Where a segmenter has cut is not relied on: blocks are told by their own headers, and their documents are compared with the
//! checksum that the archive has of them.

use crate::error::{Error, Kind, Result};
use crate::format::manifest::Part;
use crate::format::part::bytes_of;
use crate::repo::snapshots::Snapshot;
use crate::transform::segment::archive::holds_one_collection_each;
use crate::transform::segment::collection::{CollectionFilter, Found, What};

use super::super::select::{Narrow, no_part, short};
use super::Work;

/// What will be written.
pub struct CollectionPlan<'d> {
    snapshot: &'d Snapshot,
    /// `db.collection`
    name: String,
    what: What,
    /// The archive's first bytes.
    head: Vec<u8>,
    /// The prelude, and what may hold blocks.
    parts: Vec<&'d Part>,
}

impl<'d> CollectionPlan<'d> {
    /// Reads how the archive begins. `parts` are those of the snapshot, `part` holds blocks of the collection.
    pub(super) fn make(
        work: &Work<'_>,
        snapshot: &'d Snapshot,
        parts: &'d [Part],
        part: &Part,
        narrow: Narrow,
    ) -> Result<Self> {
        let name = part.name.within_database();
        let what = match narrow {
            Narrow::Everything => What::Archive,
            Narrow::AsItIs => What::Blocks,
            Narrow::Data => What::Documents,
            Narrow::Schema => What::Metadata,
        };
        let no_archive = || Error::damaged(format!("snapshot {}", short(snapshot)), "does not begin like an archive");
        let (prelude, others) = parts.split_first().ok_or_else(no_archive)?;
        let first = work.reader.part_entries(prelude).next().transpose()?.ok_or_else(no_archive)?;
        let head = work.reader.blob(&first.id)?;
        CollectionFilter::new(&head, &name, what).ok_or_else(no_archive)?;
        let mut parts = vec![prelude];
        if what != What::Metadata {
            let all = !holds_one_collection_each(others.len());
            parts.extend(others.iter().filter(|part| all || part.name.within_database() == name));
        }
        Ok(Self { snapshot, name, what, head, parts })
    }

    /// Bytes to be read.
    pub fn bytes(&self) -> u64 {
        bytes_of(self.parts.iter().copied())
    }

    /// A name for its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn write(&self, work: &Work<'_>, out: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Some(mut filter) = CollectionFilter::new(&self.head, &self.name, self.what) else { return Ok(()) };
        for part in &self.parts {
            work.parts(&part.name.to_string(), &[part], &mut |bytes| filter.pass(bytes, false, out))?;
        }
        filter.pass(&[], true, out)?;
        let name = self.name.escape_debug();
        let Found { described, blocks, whole, unknown } = filter.found();
        if self.what == What::Metadata {
            let missing = || Error::new(Kind::NotFound, format!("the archive's prelude does not describe `{name}`"));
            return if described { Ok(()) } else { Err(missing().hint("restore it without --schema-only")) };
        }
        if !blocks {
            return Err(no_part(self.snapshot, &self.name));
        }
        if !described && self.what == What::Archive {
            work.report
                .warn(&format!("the archive's prelude does not describe `{name}`: its indexes are not restored"));
        }
        if let Some(at) = unknown {
            work.report
                .warn(&format!("the archive is malformed or cut off at byte {at} of what was read for `{name}`"));
        }
        if !whole {
            work.report.warn(&format!(
                "the documents of `{name}` do not have the checksum that the archive has of them, or it has none: the dump \
                 was not whole, and `mongorestore` may refuse it"
            ));
        }
        Ok(())
    }
}
