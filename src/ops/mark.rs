//! Mark: which stored copy of which blob the snapshots need. Check and prune stand on it.
//!
//! Each needed chunk is resolved to one copy, the best there is; other copies count as unused. Marks are
//! kept per pack as offsets, 4 bytes a needed chunk, and recipe chunks that snapshots share are walked once.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::format::manifest::{self, Listing, Manifest, Part};
use crate::format::pack::{Base, object_name};
use crate::format::recipe::{RecipeEntry, decode_entries};
use crate::id::{BlobId, PackId, SnapshotId};
use crate::repo::Indexed;
use crate::repo::index::Location;
use crate::repo::reader::{Reader, decode_list};
use crate::repo::rules::Rule;
use crate::repo::snapshots::{Snapshot, digest_of_digests, digest_of_stream};
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
    /// Snapshots whose manifests contradict the lists of their parts.
    pub contradictory: Vec<Problem>,
    /// Why a chunk of a list or recipe could not be read for now: what it names is not marked.
    pub unread: Option<Error>,
    /// The blobs that `missing` is about.
    pub lost: HashSet<BlobId>,
    /// Those of `missing`, by object and words, that are chunks of lists or recipes: what they name is not marked.
    pub unmarked_below: HashSet<(String, String)>,
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

/// What stays for blobs that have no copy to count on.
#[derive(Debug)]
pub struct Spared {
    /// The blobs, and what copies of them are differences to.
    pub blobs: HashSet<BlobId>,
    /// The packs that hold copies of these.
    pub packs: HashSet<PackId>,
}

impl Spared {
    /// Returns what stays for `blobs`.
    ///
    /// # Errors
    /// Of the local cache.
    pub fn of<'b>(indexed: &Indexed<'_>, blobs: impl Iterator<Item = &'b BlobId>) -> Result<Self> {
        let mut seen = HashSet::new();
        let mut spared = Self { blobs: HashSet::new(), packs: HashSet::new() };
        let mut waiting: Vec<(BlobId, u8)> = blobs.map(|id| (*id, u8::MAX)).collect();
        while let Some((id, below)) = waiting.pop() {
            spared.blobs.insert(id);
            for copy in indexed.copies(&id)?.iter().filter(|copy| copy.version() < below) {
                spared.packs.insert(copy.pack);
                waiting.extend(copy.base.map(|base| (base.id, base.version)).filter(|base| seen.insert(*base)));
            }
        }
        Ok(spared)
    }
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
        lists: HashMap::new(),
        bases: HashMap::new(),
        marked: HashSet::new(),
        held: HashSet::new(),
        lost: HashMap::new(),
        claims: HashMap::new(),
    };
    report.task("Walking the snapshots", Unit::Things, Some(snapshots.len() as u64));
    for (done, snapshot) in snapshots.iter().enumerate() {
        cancel.check()?;
        walk.snapshot(snapshot)?;
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

/// Snapshots of write-only slots for which every chunk lost below one chunk of a list or recipe is reported.
const CLAIMS_MAX: usize = 64;

/// What of a blob is counted on, or why it is lost.
type Judged = std::result::Result<Counted, Lost>;

/// What stands in a chunk of a list or recipe, and how many levels are below.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Level {
    /// Entries: at depth 1 those of a stream's chunks.
    Recipe(u8),
    /// At depth 0 the records of parts, else entries of chunks of a list.
    List(u8),
}

/// What was found below a chunk of a list or recipe.
#[derive(Default)]
struct Below {
    /// What stands in the chunk itself and is lost: the object to blame, and what is wrong with it.
    lost: BTreeSet<(String, String)>,
    /// The chunks that it names below which something is lost, each once, by address. What is lost is not
    /// gathered level by level: a small hostile recipe would take memory without end.
    broken: HashMap<usize, Arc<Below>>,
    /// One of what is lost below the first of these.
    lost_deeper: Option<(String, String)>,
    parts: Parts,
}

impl Below {
    fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.broken.is_empty()
    }

    fn add(&mut self, below: &Arc<Self>) {
        if !below.is_whole() {
            self.lost_deeper = self.lost_deeper.take().or_else(|| below.any_lost().cloned());
            self.broken.insert(Arc::as_ptr(below) as usize, Arc::clone(below));
        }
    }

    /// One of what is lost here or below.
    fn any_lost(&self) -> Option<&(String, String)> {
        self.lost.first().or(self.lost_deeper.as_ref())
    }
}

/// Parts that a list names.
#[derive(Default)]
struct Parts {
    count: u64,
    bytes: u64,
    /// Their digests, in order.
    digests: Vec<Digests>,
}

enum Digests {
    One([u8; 32]),
    Below(Arc<Below>),
}

impl Parts {
    fn add(&mut self, part: &Part) {
        self.count = self.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(part.digest.bytes);
        self.digests.push(Digests::One(part.digest.blake3));
    }

    fn add_below(&mut self, below: &Arc<Below>) {
        self.count = self.count.saturating_add(below.parts.count);
        self.bytes = self.bytes.saturating_add(below.parts.bytes);
        self.digests.push(Digests::Below(Arc::clone(below)));
    }

    fn each(&self, take: &mut dyn FnMut(&[u8; 32])) {
        for digests in &self.digests {
            match digests {
                Digests::One(digest) => take(digest),
                Digests::Below(below) => below.parts.each(take),
            }
        }
    }
}

/// What contradicts the manifest in the list of its parts, of which nothing is lost.
fn contradiction(manifest: &Manifest, parts: &Parts) -> Option<&'static str> {
    // That count is bounded, so that the walk of the digests is.
    if (parts.count, parts.bytes) != (manifest.parts.count, manifest.parts.bytes) {
        return Some("its parts are not as many or as long as it says");
    }
    let whole = manifest.whole?;
    let found = match manifest.parts.inline() {
        Some(parts) => digest_of_stream(parts),
        None => digest_of_digests(parts.bytes, parts.count, &mut |take| parts.each(take)),
    };
    (whole != found).then_some("its digest is not that of its parts: only single parts of it can be restored")
}

struct Walk<'w> {
    indexed: &'w Indexed<'w>,
    reader: &'w Reader<'w>,
    flaw: Flaw<'w>,
    marks: Marks,
    /// Chunks of lists and recipes that were walked.
    lists: HashMap<(BlobId, Level), Arc<Below>>,
    /// Bases, for deltas of a version: what is counted on. Those that were marked, and those whose holders were noted.
    bases: HashMap<(BlobId, u8), Judged>,
    marked: HashSet<(BlobId, u8)>,
    held: HashSet<(BlobId, u8)>,
    lost: HashMap<(String, String), HashSet<SnapshotId>>,
    /// Snapshots of write-only slots for which what is lost below a chunk was reported, by its address.
    claims: HashMap<usize, usize>,
}

impl Walk<'_> {
    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let Snapshot { id, manifest, .. } = snapshot;
        let mut below = Below::default();
        match &manifest.parts.list {
            Listing::Inline(parts) => self.parts(parts, &mut below)?,
            Listing::Recipe(recipe) => self.list(&recipe.chunks, recipe.depth, &mut below)?,
        }
        if below.is_whole()
            && let Some(what) = contradiction(manifest, &below.parts)
        {
            let problem = Problem::new(manifest::object_name(*id), what).harming([*id]);
            self.marks.contradictory.push(problem);
        }
        if let Some(catalog) = &manifest.catalog {
            self.entries(&catalog.recipe.chunks, catalog.recipe.depth, &mut below)?;
        }
        self.blame(*id, &below, !self.indexed.repo.keys.is_full(snapshot.author));
        Ok(())
    }

    /// Records what a snapshot lacks. Write-only slots can publish any number of snapshots that lack any number of
    /// chunks: it records every chunk for [`CLAIMS_MAX`] of them, and at least one chunk for each of the others.
    fn blame(&mut self, id: SnapshotId, root: &Below, is_claim: bool) {
        let (mut seen, mut next) = (HashSet::new(), vec![root]);
        while let Some(below) = next.pop() {
            for lost in &below.lost {
                self.lost.entry(lost.clone()).or_default().insert(id);
            }
            for (at, below) in below.broken.iter().filter(|(at, _)| seen.insert(**at)) {
                let claims = self.claims.entry(*at).or_default();
                *claims += usize::from(is_claim);
                if !is_claim || *claims <= CLAIMS_MAX {
                    next.push(below);
                } else if let Some(lost) = below.any_lost() {
                    self.lost.entry(lost.clone()).or_default().insert(id);
                }
            }
        }
    }

    /// Marks what parts need.
    fn parts(&mut self, parts: &[Part], below: &mut Below) -> Result<()> {
        for part in parts {
            below.parts.add(part);
            self.entries(&part.recipe.chunks, part.recipe.depth, below)?;
        }
        Ok(())
    }

    /// Marks chunks of a list, or of its recipe, and what they list.
    fn list(&mut self, entries: &[RecipeEntry], depth: u8, below: &mut Below) -> Result<()> {
        for entry in entries {
            let found = self.list_chunk(&entry.id, Level::List(depth))?;
            below.parts.add_below(&found);
            below.add(&found);
        }
        Ok(())
    }

    /// Marks `entries` and, where they are chunks of a recipe, what they list.
    fn entries(&mut self, entries: &[RecipeEntry], depth: u8, below: &mut Below) -> Result<()> {
        for entry in entries {
            if depth > 0 {
                let found = self.list_chunk(&entry.id, Level::Recipe(depth))?;
                below.add(&found);
            } else if let Err(Lost { object, what }) = self.chunk(&entry.id)? {
                below.lost.insert((object, what));
            }
        }
        Ok(())
    }

    /// Marks what a snapshot needs of a chunk: the best copy, with all that it is a difference to.
    fn chunk(&mut self, id: &BlobId) -> Result<std::result::Result<(), Lost>> {
        match self.judge(id, u8::MAX)? {
            Ok(judged) => self.mark(id, u8::MAX, &judged).map(Ok),
            Err(lost) => self.lose(id).map(|()| Err(lost)),
        }
    }

    /// Adds a blob without a copy to count on, and the packs that hold any copy of it.
    fn lose(&mut self, id: &BlobId) -> Result<()> {
        if self.marks.lost.insert(*id) { self.hold(id, u8::MAX) } else { Ok(()) }
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

    /// Marks a chunk of a list or recipe, at the copy that can really be read, and what it lists.
    fn list_chunk(&mut self, id: &BlobId, level: Level) -> Result<Arc<Below>> {
        if let Some(below) = self.lists.get(&(*id, level)) {
            return Ok(Arc::clone(below));
        }
        let mut below = Below::default();
        let (content, lost) = self.readable(id, level)?;
        match content {
            Some(Content::Entries(entries)) => match level {
                Level::Recipe(depth) => self.entries(&entries, depth - 1, &mut below)?,
                Level::List(depth) => self.list(&entries, depth - 1, &mut below)?,
            },
            Some(Content::Parts(parts)) => self.parts(&parts, &mut below)?,
            None => {}
        }
        below.lost.extend(lost.map(|Lost { object, what }| (object, what)));
        let below = Arc::new(below);
        self.lists.insert((*id, level), Arc::clone(&below));
        Ok(below)
    }

    /// Returns what stands in the first copy that can be read and decoded, and marks that copy. Without a
    /// copy to count on, it returns the content of another one, if any, with what is lost.
    fn readable(&mut self, id: &BlobId, level: Level) -> Result<(Option<Content>, Option<Lost>)> {
        let (mut problem, mut flawed) = (None, Vec::new());
        let copies = self.indexed.copies(id)?;
        for &copy in &copies {
            let clean = match self.is_clean(id, &copy)? {
                Ok(clean) => clean,
                Err(lost) => {
                    problem.get_or_insert(lost);
                    flawed.push(copy);
                    continue;
                }
            };
            let Some(content) = self.read(id, &copy, level)? else {
                problem.get_or_insert_with(|| Lost { object: object_name(copy.pack), what: damaged(id) });
                continue;
            };
            let mut counted = Counted { copies: vec![copy], clean };
            if !clean && self.indexed.repo.rules.keep(Rule::SpareCopies) {
                for other in copies.iter().filter(|other| **other != copy) {
                    if self.is_clean(id, other)?.is_ok() {
                        counted.copies.push(*other);
                    }
                }
            }
            self.mark(id, u8::MAX, &counted)?;
            return Ok((Some(content), None));
        }
        self.lose(id)?;
        let lost = problem.unwrap_or_else(|| not_listed(id));
        for copy in flawed {
            if let Some(content) = self.read(id, &copy, level)? {
                return Ok((Some(content), Some(lost)));
            }
        }
        self.marks.unmarked_below.insert((lost.object.clone(), lost.what.clone()));
        Ok((None, Some(lost)))
    }

    /// Returns what stands in a copy, or `None` if it can't be read or decoded. A read that may succeed
    /// later is kept in [`Marks::unread`].
    fn read(&mut self, id: &BlobId, copy: &Location, level: Level) -> Result<Option<Content>> {
        match self.reader.copy(id, copy).and_then(|raw| decoded(id, &raw, level)) {
            Ok(content) => Ok(Some(content)),
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => Ok(None),
            Err(e) if matches!(e.kind(), Kind::Storage | Kind::Denied) => {
                self.marks.unread.get_or_insert(e);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

fn not_listed(id: &BlobId) -> Lost {
    Lost { object: format!("chunk {id}"), what: "is in no pack that the index lists".to_owned() }
}

/// What stands in a chunk of a list or recipe.
enum Content {
    Entries(Vec<RecipeEntry>),
    Parts(Vec<Part>),
}

fn decoded(id: &BlobId, raw: &[u8], level: Level) -> Result<Content> {
    if level == Level::List(0) {
        return decode_list(id, raw).map(Content::Parts);
    }
    let entries = decode_entries(raw).map_err(|e| Error::damaged(format!("recipe chunk {id}"), e))?;
    Ok(Content::Entries(entries))
}
