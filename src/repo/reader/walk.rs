//! Walks of snapshots: which chunks they consist of. Each list chunk and recipe chunk is read once, however often it occurs,
//! so a walk takes no longer than the chunks that there are.

use std::collections::{HashMap, HashSet};

use super::list::decode_list;
use super::{Reader, Visit};
use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::format::manifest::{Listing, Manifest, Part};
use crate::format::recipe::{Recipe, RecipeEntry, decode_entries};
use crate::id::BlobId;
use crate::report::Report;

/// Most chunks of a recipe that a walk reads at a time.
const WALK_CHUNKS: usize = 256;
/// Most plain bytes that these have together, unless a single one has more. Only a hostile recipe comes near.
const WALK_BYTES: u64 = 32 << 20;

/// The chunks that walks have come by: they need not be read again. A recipe chunk counts once for
/// each depth.
#[derive(Debug, Default)]
pub struct Walked {
    /// Chunks of recipes.
    pub recipes: HashSet<(BlobId, u8)>,
    /// Chunks of lists of parts (at depth 0) and of the recipes of these lists.
    pub lists: HashSet<(BlobId, u8)>,
}

/// What a walk needs: how many requests it may make at the same time, whom it reports to, what stops it.
#[derive(Clone, Copy)]
pub struct Walking<'w> {
    /// Requests at the same time.
    pub transfers: usize,
    /// Receives counters.
    pub report: &'w dyn Report,
    /// Stops it.
    pub cancel: &'w Cancel,
}

/// Why a walk ended early.
enum Stop {
    /// A list or recipe can't be read.
    Unreadable(Error),
    /// The visitor failed, or the walk was interrupted.
    Ended(Error),
}

impl Stop {
    fn error(self) -> Error {
        match self {
            Self::Unreadable(error) | Self::Ended(error) => error,
        }
    }
}

impl Reader<'_> {
    /// Visits the chunks of a stream, those of its recipe included, each before those that it lists. A recipe chunk that
    /// is in `walked` is visited, and not looked into. Recipes are read many chunks at a time, so that a distant storage is
    /// waited for seldom.
    ///
    /// # Errors
    /// `Damaged` for a recipe that can't be read; `Storage`; `Interrupted`; what `visit` returns.
    pub fn walk(
        &self,
        recipe: &Recipe,
        walked: &mut HashSet<(BlobId, u8)>,
        with: Walking<'_>,
        visit: Visit<'_>,
    ) -> Result<()> {
        self.walk_entries(&recipe.chunks, recipe.depth, 0, walked, with, visit).map_err(Stop::error)
    }

    /// As [`walk`](Self::walk), of a whole snapshot: its list of parts, its parts, and its catalog. Chunks that hold no data
    /// of parts are visited with a depth above 0. `lost` receives the error of each list or recipe that can't be read; the
    /// walk goes on with the next part where it returns `Ok`.
    ///
    /// # Errors
    /// `Interrupted`; what `visit` and `lost` return.
    pub fn walk_snapshot(
        &self,
        manifest: &Manifest,
        walked: &mut Walked,
        with: Walking<'_>,
        visit: Visit<'_>,
        lost: &mut dyn FnMut(Error) -> Result<()>,
    ) -> Result<()> {
        let mut list = ListWalk::new(self, manifest);
        loop {
            let parts = match list.step(&mut walked.lists, with, visit) {
                Ok(Some(parts)) => parts,
                Ok(None) => break,
                Err(Stop::Unreadable(error)) => {
                    lost(error)?;
                    break;
                }
                Err(Stop::Ended(error)) => return Err(error),
            };
            for Part { recipe, .. } in &parts {
                match self.walk_entries(&recipe.chunks, recipe.depth, 0, &mut walked.recipes, with, visit) {
                    Ok(()) => {}
                    Err(Stop::Unreadable(error)) => lost(error)?,
                    Err(Stop::Ended(error)) => return Err(error),
                }
            }
        }
        let Some(catalog) = &manifest.catalog else { return Ok(()) };
        let recipe = &catalog.recipe;
        match self.walk_entries(&recipe.chunks, recipe.depth, 1, &mut walked.recipes, with, visit) {
            Err(Stop::Unreadable(error)) => lost(error),
            other => other.map_err(Stop::error),
        }
    }

    /// Walks the list of a snapshot's parts.
    pub fn walk_list<'a>(&'a self, manifest: &'a Manifest) -> ListWalk<'a> {
        ListWalk::new(self, manifest)
    }

    /// `above` is added to the depth that `visit` receives.
    fn walk_entries(
        &self,
        entries: &[RecipeEntry],
        depth: u8,
        above: u8,
        walked: &mut HashSet<(BlobId, u8)>,
        with: Walking<'_>,
        visit: Visit<'_>,
    ) -> Result<(), Stop> {
        let mut rest = entries;
        while !rest.is_empty() {
            let len = if depth == 0 { rest.len() } else { self.fitting(rest, depth, walked)? };
            let (group, after) = rest.split_at(len);
            rest = after;
            for entry in group {
                visit(entry, depth.saturating_add(above)).map_err(Stop::Ended)?;
            }
            if depth == 0 {
                continue;
            }
            for (id, bytes) in self.unwalked(group, depth, walked, with)? {
                let entries = decode_recipe(&id, &bytes)?;
                self.walk_entries(&entries, depth - 1, above, walked, with, visit)?;
            }
        }
        Ok(())
    }

    /// How many of `entries`, at least one, are read at a time.
    fn fitting(&self, entries: &[RecipeEntry], depth: u8, walked: &HashSet<(BlobId, u8)>) -> Result<usize, Stop> {
        let mut bytes = 0;
        for (len, RecipeEntry { id, .. }) in entries.iter().take(WALK_CHUNKS).enumerate() {
            if !walked.contains(&(*id, depth)) {
                // What the recipe says of its length may be a lie.
                let copies = self.indexed.copies(id).map_err(Stop::Ended)?;
                bytes += copies.iter().map(|copy| u64::from(copy.raw_len)).max().unwrap_or_default();
            }
            if bytes > WALK_BYTES {
                return Ok(len.max(1));
            }
        }
        Ok(entries.len().min(WALK_CHUNKS))
    }

    /// Reads those chunks of a group that were not walked, in order, and notes that they are.
    fn unwalked(
        &self,
        group: &[RecipeEntry],
        depth: u8,
        walked: &mut HashSet<(BlobId, u8)>,
        with: Walking<'_>,
    ) -> Result<Vec<(BlobId, Vec<u8>)>, Stop> {
        let new: Vec<BlobId> = group.iter().map(|e| e.id).filter(|id| walked.insert((*id, depth))).collect();
        let mut read = HashMap::with_capacity(new.len());
        self.blobs(new.iter().copied(), with.transfers, with.report, with.cancel, &mut |id, bytes| {
            read.insert(id, bytes.map_err(|e| e.during("reading a recipe"))?);
            Ok(())
        })
        .map_err(|e| if e.kind() == Kind::Interrupted { Stop::Ended(e) } else { Stop::Unreadable(e) })?;
        Ok(new.into_iter().filter_map(|id| Some((id, read.remove(&id)?))).collect())
    }
}

fn decode_recipe(id: &BlobId, bytes: &[u8]) -> Result<Vec<RecipeEntry>, Stop> {
    decode_entries(bytes).map_err(|e| Stop::Unreadable(Error::damaged(format!("recipe chunk {id}"), e)))
}

/// A walk of a list of parts, which gives the parts of each list chunk that was not walked before.
pub struct ListWalk<'a> {
    reader: &'a Reader<'a>,
    /// The parts of a list that stands in the manifest.
    inline: Option<&'a [Part]>,
    /// Entries that were not walked, the next ones last, with their depth.
    waiting: Vec<(u8, Vec<RecipeEntry>)>,
}

impl<'a> ListWalk<'a> {
    fn new(reader: &'a Reader<'_>, manifest: &'a Manifest) -> Self {
        let (inline, waiting) = match &manifest.parts.list {
            Listing::Inline(parts) => (Some(&parts[..]), Vec::new()),
            Listing::Recipe(recipe) => (None, vec![(recipe.depth, recipe.chunks.clone())]),
        };
        Self { reader, inline, waiting }
    }

    /// The parts of the next list chunks that are not in `walked`; `None` at the end. `visit` receives each list chunk with
    /// depth 1, those of the list's recipe with more.
    ///
    /// # Errors
    /// As [`Reader::walk`].
    pub fn next(
        &mut self,
        walked: &mut HashSet<(BlobId, u8)>,
        with: Walking<'_>,
        visit: Visit<'_>,
    ) -> Result<Option<Vec<Part>>> {
        self.step(walked, with, visit).map_err(Stop::error)
    }

    fn step(
        &mut self,
        walked: &mut HashSet<(BlobId, u8)>,
        with: Walking<'_>,
        visit: Visit<'_>,
    ) -> Result<Option<Vec<Part>>, Stop> {
        if let Some(parts) = self.inline.take() {
            return Ok(Some(parts.to_vec()));
        }
        let Some((depth, mut group)) = self.waiting.pop() else { return Ok(None) };
        let len = self.reader.fitting(&group, depth, walked)?;
        if group.len() > len {
            self.waiting.push((depth, group.split_off(len)));
        }
        for entry in &group {
            visit(entry, depth + 1).map_err(Stop::Ended)?;
        }
        let read = self.reader.unwalked(&group, depth, walked, with)?;
        let mut parts = Vec::new();
        let mut below = Vec::new();
        for (id, bytes) in read {
            if depth == 0 {
                parts.extend(decode_list(&id, &bytes).map_err(Stop::Unreadable)?);
            } else {
                below.push((depth - 1, decode_recipe(&id, &bytes)?));
            }
        }
        self.waiting.extend(below.into_iter().rev());
        Ok(Some(parts))
    }
}
