//! What a dump knows of the database that it is of: engine and consistency point, in the manifest,
//! and the catalog, a stream of one JSON line for each table that is stored as chunks.

use serde::{Deserialize, Serialize};

use super::config::hex;
use super::limits::{CATALOG_RECORD_BYTES_MAX, PARTS_MAX};
use super::part::{Digest, PartName, check_name, records};
use super::recipe::Recipe;
use super::{Malformed, from_json, to_json};

/// The database that was dumped. Unknown fields are ignored, every field may be absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Engine {
    /// The database system: `postgres`, `mysql`, `mariadb`, `sqlite`, `mongodb`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The server's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// The version of the client that dumped it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_version: Option<String>,
    /// The database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The point in the database's history that the dump shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,
    /// TLS as negotiated: protocol and cipher suite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// The character encoding of the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Extensions that are installed, each with its version.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
    /// The newest migration that was applied, where a known tool keeps a table of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration_head: Option<String>,
}

/// A point in a database's history. Unknown fields are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Consistency {
    /// `lsn`, `gtid`, `file-position`, `oplog` or `data-version`.
    pub kind: String,
    /// PostgreSQL's log sequence number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// PostgreSQL's timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<String>,
    /// The set of executed global transaction ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gtid: Option<String>,
    /// The file of the binary log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The position in that file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// The first point, where the dump shows a range: of an oplog, or a data version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// The last point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

/// Where the catalog is, as a manifest has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// Length and digest of the stream of records.
    pub digest: Digest,
    /// The chunks of that stream, each of whole records.
    pub recipe: Recipe,
    /// How many tables there are.
    pub tables: u64,
}

impl Catalog {
    /// Checks the bounds of what was read from a manifest.
    pub(super) fn check(&self) -> Result<(), Malformed> {
        if self.tables > PARTS_MAX {
            return Err(Malformed::new(format!("catalog of {} tables", self.tables)));
        }
        self.recipe.check()
    }
}

/// One table of a catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogTable {
    /// Its name.
    pub name: PartName,
    /// Its rows.
    pub rows: u64,
    /// Bytes of its rows as they were dumped.
    pub bytes: u64,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// BLAKE3 of its rows as they were dumped.
    #[serde(with = "hex")]
    pub digest: [u8; 32],
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as the database writes it.
    #[serde(rename = "type")]
    pub data_type: String,
}

impl CatalogTable {
    /// Its record: a line of JSON and a line feed.
    ///
    /// # Errors
    /// A record that is too long.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let mut record = to_json(self);
        record.push(b'\n');
        if record.len() > CATALOG_RECORD_BYTES_MAX {
            return Err(Malformed::new(format!("record of a table of {} bytes", record.len())));
        }
        Ok(record)
    }
}

/// Reads the records of a chunk of a catalog.
///
/// # Errors
/// Not whole records; a name out of bounds.
pub fn decode_tables(bytes: &[u8]) -> Result<Vec<CatalogTable>, Malformed> {
    let table = |record: &[u8]| -> Result<CatalogTable, Malformed> {
        let table: CatalogTable = from_json(record)?;
        check_name(&table.name)?;
        Ok(table)
    };
    records(bytes, CATALOG_RECORD_BYTES_MAX)?.into_iter().map(table).collect()
}

/// What a dump knows of the database that it is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The database and the point in its history.
    pub engine: Engine,
    /// Its tables.
    pub tables: Vec<CatalogTable>,
}
