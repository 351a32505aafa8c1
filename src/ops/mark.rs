//! Mark: which stored copy of which blob the snapshots need. Check and prune stand on it.
//!
//! Each needed chunk is resolved to one copy, the best there is; other copies count as unused. Marks are
//! kept per pack as offsets, 4 bytes a needed chunk, and recipe chunks that snapshots share are walked once.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::format::pack::object_name;
use crate::format::recipe::{Recipe, RecipeEntry, decode_entries};
use crate::id::{BlobId, PackId, SnapshotId};
use crate::repo::Indexed;
use crate::repo::index::Location;
use crate::repo::reader::Reader;
use crate::repo::rules::Rule;
use crate::repo::snapshots::Snapshot;
use crate::report::{Problem, Report, Unit};

/// What snapshots need.
#[derive(Debug, Default)]
pub struct Marks {
    /// Offsets of the needed blobs, by pack.
    pub used: HashMap<PackId, HashSet<u32>>,
    /// Packs that hold any copy of what is needed, those that are not marked included.
    pub holders: BTreeSet<PackId>,
    /// What is needed and can't be had, with the snapshots that need it.
    pub missing: Vec<Problem>,
}

/// What is wrong with a copy of a needed blob, if anything.
type Flaw<'f> = &'f dyn Fn(&BlobId, &Location) -> Option<String>;

/// Why a needed blob can't be had: the object to blame and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Lost {
    /// The pack, or the chunk when no pack is known to hold it.
    pub object: String,
    /// In words.
    pub what: String,
}

/// Walks `snapshots` and marks what they need, each chunk at the best copy in which `flaw` finds nothing. Where all
/// copies are condemned, each of them is marked: which one another prune is about to delete, nobody here knows.
///
/// # Errors
/// `Storage`, `Interrupted`. Missing and damaged data are not errors but [`Marks::missing`].
pub fn mark(
    indexed: &Indexed<'_>,
    snapshots: &[Snapshot],
    flaw: Flaw<'_>,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<Marks> {
    let reader = Reader::new(indexed)?;
    let mut walk = Walk {
        indexed,
        reader: &reader,
        flaw,
        marks: Marks::default(),
        recipes: HashMap::new(),
        bases: HashMap::new(),
        lost: HashMap::new(),
    };
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
    indexed: &'w Indexed<'w>,
    reader: &'w Reader<'w>,
    flaw: Flaw<'w>,
    marks: Marks,
    /// Recipe chunks that were walked, with what is lost below them.
    recipes: HashMap<(BlobId, u8), Vec<(String, String)>>,
    /// Bases that were marked for deltas of a version, with why they are lost.
    bases: HashMap<(BlobId, u8), Option<Lost>>,
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
            if depth > 0 {
                lost.extend(self.recipe_chunk(&entry.id, depth)?);
                continue;
            }
            if let Err(Lost { object, what }) = self.chunk(&entry.id, u8::MAX)? {
                lost.push((object, what));
            }
        }
        lost.sort();
        lost.dedup();
        Ok(lost)
    }

    /// Marks the best copy of a lower version than `below`, and what it is a difference to.
    fn chunk(&mut self, id: &BlobId, below: u8) -> Result<std::result::Result<(), Lost>> {
        let mut copies = self.indexed.copies(id)?;
        copies.retain(|copy| copy.version() < below);
        let mut lost = None;
        for copy in &copies {
            match self.flaw_of(id, copy)? {
                None => {
                    self.mark(id, copy, &copies)?;
                    return Ok(Ok(()));
                }
                Some(why) => lost.get_or_insert(why),
            };
        }
        Ok(Err(lost.unwrap_or_else(|| not_listed(id))))
    }

    /// What is wrong with a copy, or with what it is a difference to. Marks its base where nothing is: versions fall along
    /// a chain, so this ends.
    fn flaw_of(&mut self, id: &BlobId, copy: &Location) -> Result<Option<Lost>> {
        if let Some(what) = (self.flaw)(id, copy) {
            return Ok(Some(Lost { object: object_name(copy.pack), what }));
        }
        let followed = self.indexed.repo.rules.keep(Rule::MarkBases);
        let Some(base) = copy.base.filter(|_| followed) else { return Ok(None) };
        if let Some(known) = self.bases.get(&(base.id, base.version)) {
            return Ok(known.clone());
        }
        let lost = self.chunk(&base.id, base.version)?.err();
        self.bases.insert((base.id, base.version), lost.clone());
        Ok(lost)
    }

    /// Marks the copy that was found, the best of `copies`; its base is marked already.
    fn mark(&mut self, id: &BlobId, found: &Location, copies: &[Location]) -> Result<()> {
        let all = self.indexed.repo.rules.keep(Rule::SpareCopies);
        self.marks.used.entry(found.pack).or_default().insert(found.offset);
        if all && self.indexed.is_condemned(found.pack) {
            for copy in copies {
                if self.flaw_of(id, copy)?.is_none() {
                    self.marks.used.entry(copy.pack).or_default().insert(copy.offset);
                }
            }
        }
        self.marks.holders.extend(copies.iter().filter(|_| all).map(|copy| copy.pack));
        self.marks.holders.insert(found.pack);
        Ok(())
    }

    /// Marks a chunk of a recipe, at the copy that can really be read, and what it lists.
    fn recipe_chunk(&mut self, id: &BlobId, depth: u8) -> Result<Vec<(String, String)>> {
        if let Some(lost) = self.recipes.get(&(*id, depth)) {
            return Ok(lost.clone());
        }
        let mut problem = None;
        let copies = self.indexed.copies(id)?;
        for &copy in &copies {
            let read = match self.flaw_of(id, &copy)? {
                Some(lost) => Err(lost),
                None => match self.reader.copy(id, &copy).and_then(|raw| decoded(id, &raw)) {
                    Ok(entries) => Ok(entries),
                    Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound | Kind::Storage) => {
                        Err(Lost { object: object_name(copy.pack), what: damaged(id) })
                    }
                    Err(e) => return Err(e),
                },
            };
            match read {
                Ok(entries) => {
                    self.mark(id, &copy, &copies)?;
                    let lost = self.entries(&entries, depth - 1)?;
                    self.recipes.insert((*id, depth), lost.clone());
                    return Ok(lost);
                }
                Err(lost) => problem.get_or_insert(lost),
            };
        }
        let Lost { object, what } = problem.unwrap_or_else(|| not_listed(id));
        let lost = vec![(object, what)];
        self.recipes.insert((*id, depth), lost.clone());
        Ok(lost)
    }
}

fn not_listed(id: &BlobId) -> Lost {
    Lost { object: format!("chunk {id}"), what: "is in no pack that the index lists".to_owned() }
}

fn decoded(id: &BlobId, raw: &[u8]) -> Result<Vec<RecipeEntry>> {
    decode_entries(raw).map_err(|e| Error::damaged(format!("recipe chunk {id}"), e))
}
