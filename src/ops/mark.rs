//! Mark: which stored copy of which blob the snapshots need. Check and prune stand on it.
//!
//! Each needed chunk is resolved to one copy, the best there is; other copies count as unused. Marks are
//! kept per pack as offsets, 4 bytes a needed chunk, and recipe chunks that snapshots share are walked once.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::format::pack::{Base, object_name};
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
/// Nothing is missing merely because the local cache lacks it: then it is rebuilt, and all are walked again.
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
    let marks = walk(indexed, snapshots, flaw, report, cancel)?;
    let cache = &indexed.repo.cache;
    if marks.missing.is_empty() || !cache.renew()? {
        return Ok(marks);
    }
    let again = walk(indexed, snapshots, flaw, report, cancel)?;
    if again.missing != marks.missing {
        cache.confirm_damage();
    }
    Ok(again)
}

fn walk(
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
        marked: HashSet::new(),
        held: HashSet::new(),
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

/// Copies that are counted on, and whether none of them, nor what they are differences to, is condemned.
#[derive(Clone)]
struct Counted {
    copies: Vec<Location>,
    clean: bool,
}

/// What of a blob is counted on, or why it is lost.
type Judged = std::result::Result<Counted, Lost>;

struct Walk<'w> {
    indexed: &'w Indexed<'w>,
    reader: &'w Reader<'w>,
    flaw: Flaw<'w>,
    marks: Marks,
    /// Recipe chunks that were walked, with what is lost below them.
    recipes: HashMap<(BlobId, u8), Vec<(String, String)>>,
    /// Bases, for deltas of a version: what is counted on. Those that were marked, and those whose holders were noted.
    bases: HashMap<(BlobId, u8), Judged>,
    marked: HashSet<(BlobId, u8)>,
    held: HashSet<(BlobId, u8)>,
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
            if let Err(Lost { object, what }) = self.chunk(&entry.id)? {
                lost.push((object, what));
            }
        }
        lost.sort();
        lost.dedup();
        Ok(lost)
    }

    /// Marks what a snapshot needs of a chunk: the best copy, with all that it is a difference to.
    fn chunk(&mut self, id: &BlobId) -> Result<std::result::Result<(), Lost>> {
        match self.judge(id, u8::MAX)? {
            Ok(judged) => self.mark(id, u8::MAX, &judged).map(Ok),
            Err(lost) => Ok(Err(lost)),
        }
    }

    /// The copies of a lower version than `below` that are counted on: the first that is sound with its whole chain and has
    /// no condemned link; else all that are sound, since which of them another prune is about to break, nobody here knows.
    fn judge(&mut self, id: &BlobId, below: u8) -> Result<Judged> {
        let mut copies = self.indexed.copies(id)?;
        copies.retain(|copy| copy.version() < below);
        let (mut sound, mut lost) = (Vec::new(), None);
        for copy in copies {
            match self.is_clean(id, &copy)? {
                Ok(true) => return Ok(Ok(Counted { copies: vec![copy], clean: true })),
                Ok(false) => sound.push(copy),
                Err(why) => {
                    lost.get_or_insert(why);
                }
            }
        }
        if !self.indexed.repo.rules.keep(Rule::SpareCopies) {
            sound.truncate(1);
        }
        if sound.is_empty() {
            return Ok(Err(lost.unwrap_or_else(|| not_listed(id))));
        }
        Ok(Ok(Counted { copies: sound, clean: false }))
    }

    /// Whether a copy and all that it is a difference to are in packs that are not condemned; or what is wrong with it.
    fn is_clean(&mut self, id: &BlobId, copy: &Location) -> Result<std::result::Result<bool, Lost>> {
        if let Some(what) = (self.flaw)(id, copy) {
            return Ok(Err(Lost { object: object_name(copy.pack), what }));
        }
        let condemned = self.indexed.is_condemned(copy.pack);
        match self.base(copy) {
            None => Ok(Ok(!condemned)),
            Some(base) => Ok(self.judge_base(&base)?.map(|counted| counted.clean && !condemned)),
        }
    }

    /// As [`judge`](Self::judge), once for all deltas of a version. Versions fall along a chain, so this ends.
    fn judge_base(&mut self, base: &Base) -> Result<Judged> {
        if let Some(known) = self.bases.get(&(base.id, base.version)) {
            return Ok(known.clone());
        }
        let judged = self.judge(&base.id, base.version)?;
        self.bases.insert((base.id, base.version), judged.clone());
        Ok(judged)
    }

    fn base(&self, copy: &Location) -> Option<Base> {
        copy.base.filter(|_| self.indexed.repo.rules.keep(Rule::MarkBases))
    }

    /// Marks the copies that are counted on, and their bases; and notes who else holds any of it.
    fn mark(&mut self, id: &BlobId, below: u8, counted: &Counted) -> Result<()> {
        for copy in &counted.copies {
            self.marks.used.entry(copy.pack).or_default().insert(copy.offset);
            self.marks.holders.insert(copy.pack);
            if let Some(base) = self.base(copy)
                && self.marked.insert((base.id, base.version))
                && let Ok(counted) = self.judge_base(&base)?
            {
                self.mark(&base.id, base.version, &counted)?;
            }
        }
        if self.indexed.repo.rules.keep(Rule::SpareCopies) { self.hold(id, below) } else { Ok(()) }
    }

    /// Notes every pack with a copy, and with a base of any copy: all of them are spared by who can't choose.
    fn hold(&mut self, id: &BlobId, below: u8) -> Result<()> {
        for copy in self.indexed.copies(id)?.iter().filter(|copy| copy.version() < below) {
            self.marks.holders.insert(copy.pack);
            if let Some(base) = self.base(copy)
                && self.held.insert((base.id, base.version))
            {
                self.hold(&base.id, base.version)?;
            }
        }
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
            let read = match self.is_clean(id, &copy)? {
                Err(lost) => Err(lost),
                Ok(clean) => match self.reader.copy(id, &copy).and_then(|raw| decoded(id, &raw)) {
                    Ok(entries) => Ok((entries, clean)),
                    Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound | Kind::Storage) => {
                        Err(Lost { object: object_name(copy.pack), what: damaged(id) })
                    }
                    Err(e) => return Err(e),
                },
            };
            match read {
                Ok((entries, clean)) => {
                    let mut counted = Counted { copies: vec![copy], clean };
                    if !clean && self.indexed.repo.rules.keep(Rule::SpareCopies) {
                        for other in copies.iter().filter(|other| **other != copy) {
                            if self.is_clean(id, other)?.is_ok() {
                                counted.copies.push(*other);
                            }
                        }
                    }
                    self.mark(id, u8::MAX, &counted)?;
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
