//! Mark: which stored copy of which blob the snapshots need. Check and prune stand on it.
//!
//! Each needed chunk is resolved to one copy, the best there is; other copies count as unused. Marks are
//! kept per pack as offsets, 4 bytes a needed chunk, and recipe chunks that snapshots share are walked once.

use std::collections::{HashMap, HashSet};

use crate::env::Cancel;
use crate::error::{Kind, Result};
use crate::format::pack::object_name;
use crate::format::recipe::{Recipe, RecipeEntry};
use crate::id::{BlobId, PackId, SnapshotId};
use crate::repo::Indexed;
use crate::repo::index::Location;
use crate::repo::reader::Reader;
use crate::repo::snapshots::Snapshot;
use crate::report::{Problem, Report, Unit};

/// What snapshots need.
#[derive(Debug, Default)]
pub struct Marks {
    /// Offsets of the needed blobs, by pack.
    pub used: HashMap<PackId, HashSet<u32>>,
    /// What is needed and can't be had, with the snapshots that need it.
    pub missing: Vec<Problem>,
}

/// Decides about a needed blob: where it is, or what is wrong.
type Find<'f> = &'f dyn Fn(&BlobId) -> Result<std::result::Result<Location, Lost>>;

/// Why a needed blob can't be had: the object to blame and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Lost {
    /// The pack, or the chunk when no pack is known to hold it.
    pub object: String,
    /// In words.
    pub what: String,
}

/// Walks `snapshots` and marks what they need, each chunk at the best copy in which `flaw` finds nothing.
///
/// # Errors
/// `Storage`, `Interrupted`. Missing and damaged data are not errors but [`Marks::missing`].
pub fn mark(
    indexed: &Indexed<'_>,
    snapshots: &[Snapshot],
    flaw: &dyn Fn(&BlobId, &Location) -> Option<String>,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<Marks> {
    let find = |id: &BlobId| -> Result<std::result::Result<Location, Lost>> {
        let copies = indexed.copies(id)?;
        let mut lost = None;
        for copy in &copies {
            let what = flaw(id, copy).or_else(|| indexed.is_distrusted(id, copy.pack).then(|| damaged(id)));
            match what {
                None => return Ok(Ok(*copy)),
                Some(what) => lost.get_or_insert(Lost { object: object_name(copy.pack), what }),
            };
        }
        Ok(Err(lost.unwrap_or_else(|| Lost {
            object: format!("chunk {id}"),
            what: "is in no pack that the index lists".to_owned(),
        })))
    };
    let reader = Reader::new(indexed)?;
    let mut walk =
        Walk { reader: &reader, find: &find, marks: Marks::default(), recipes: HashMap::new(), lost: HashMap::new() };
    report.task("Walking the snapshots", Unit::Things, Some(snapshots.len() as u64));
    for (done, snapshot) in snapshots.iter().enumerate() {
        cancel.check()?;
        for part in &snapshot.manifest.parts {
            walk.recipe(snapshot.id, &part.recipe)?;
        }
        report.progress(done as u64 + 1);
    }
    let Walk { mut marks, lost, .. } = walk;
    for ((object, what), harmed) in lost {
        let mut snapshots: Vec<String> = harmed.iter().map(ToString::to_string).collect();
        snapshots.sort();
        marks.missing.push(Problem::new(object, what).harming(snapshots));
    }
    marks.missing.sort_by(|a, b| (&a.object, &a.what).cmp(&(&b.object, &b.what)));
    Ok(marks)
}

/// What is said of a blob whose bytes are wrong.
pub fn damaged(id: &BlobId) -> String {
    format!("chunk {id} is damaged")
}

struct Walk<'w> {
    reader: &'w Reader<'w>,
    find: Find<'w>,
    marks: Marks,
    /// Recipe chunks that were walked, with what is lost below them.
    recipes: HashMap<(BlobId, u8), Vec<(String, String)>>,
    lost: HashMap<(String, String), HashSet<SnapshotId>>,
}

impl Walk<'_> {
    fn recipe(&mut self, snapshot: SnapshotId, recipe: &Recipe) -> Result<()> {
        let lost = self.entries(&recipe.chunks, recipe.depth)?;
        for blame in lost {
            self.lost.entry(blame).or_default().insert(snapshot);
        }
        Ok(())
    }

    /// Marks `entries` and, where they are chunks of a recipe, what they list. Returns what is lost.
    fn entries(&mut self, entries: &[RecipeEntry], depth: u8) -> Result<Vec<(String, String)>> {
        let mut lost = Vec::new();
        for entry in entries {
            match (self.find)(&entry.id)? {
                Ok(location) => {
                    self.marks.used.entry(location.pack).or_default().insert(location.offset);
                    if depth > 0 {
                        lost.extend(self.below(&entry.id, depth)?);
                    }
                }
                Err(Lost { object, what }) => lost.push((object, what)),
            }
        }
        lost.sort();
        lost.dedup();
        Ok(lost)
    }

    fn below(&mut self, id: &BlobId, depth: u8) -> Result<Vec<(String, String)>> {
        if let Some(lost) = self.recipes.get(&(*id, depth)) {
            return Ok(lost.clone());
        }
        let lost = match self.reader.recipe_chunk(id) {
            Ok(entries) => self.entries(&entries, depth - 1)?,
            Err(e) if e.kind() == Kind::Damaged => vec![(format!("chunk {id}"), e.to_string())],
            Err(e) => return Err(e),
        };
        self.recipes.insert((*id, depth), lost.clone());
        Ok(lost)
    }
}
