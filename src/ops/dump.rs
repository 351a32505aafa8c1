//! What a snapshot of a dump is a dump of.

use crate::error::Result;
use crate::format::manifest::PartKind;
use crate::repo::reader::Reader;
use crate::repo::snapshots::Snapshot;
use crate::transform::segment::sql::Dialect;

/// The dialect of the dump that a snapshot holds, told by how it begins; `None` where it holds none.
///
/// # Errors
/// `Damaged`, `Storage` when its first chunk can't be read.
pub fn dialect(reader: &Reader<'_>, snapshot: &Snapshot) -> Result<Option<Dialect>> {
    let first = snapshot.manifest.parts.iter().find(|part| part.kind == PartKind::Statements);
    let Some(first) = first else { return Ok(None) };
    let Some(entry) = reader.entries(&first.recipe).next().transpose()? else { return Ok(None) };
    Ok(Dialect::recognise(&reader.blob(&entry.id)?))
}
