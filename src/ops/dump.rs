//! What a snapshot of a dump is a dump of.

use crate::format::manifest::{self, ShapeKind};
use crate::repo::snapshots::Snapshot;
use crate::transform::segment::sql::Dialect;

/// The dialect of the dump of SQL text that a snapshot holds; `None` where it holds none.
pub fn dialect(snapshot: &Snapshot) -> Option<Dialect> {
    let shape = &snapshot.manifest.shape;
    if shape.is != ShapeKind::Dump {
        return None;
    }
    match shape.dialect? {
        manifest::Dialect::Postgres => Some(Dialect::Postgres),
        manifest::Dialect::Mysql => Some(Dialect::Mysql),
        manifest::Dialect::Sqlite => Some(Dialect::Sqlite),
        manifest::Dialect::Mongodb | manifest::Dialect::Tar | manifest::Dialect::Lines => None,
    }
}

/// Whether a snapshot holds an archive of `mongodump`.
pub fn is_mongodump(snapshot: &Snapshot) -> bool {
    let shape = &snapshot.manifest.shape;
    shape.is == ShapeKind::Archive && shape.dialect == Some(manifest::Dialect::Mongodb)
}
