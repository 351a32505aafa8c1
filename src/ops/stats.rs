//! `stats`: what the repository holds and what it saves.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::env::Cancel;
use crate::error::{Kind, Result};
use crate::format::manifest::{Manifest, Part, PartName};
use crate::format::pack::Codec;
use crate::format::recipe::RecipeEntry;
use crate::id::BlobId;
use crate::repo::reader::{Reader, Walked, Walking};
use crate::repo::{Indexed, Repository};
use crate::report::{Problem, Report, Unit};

/// Totals.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// Snapshots.
    pub snapshots: u64,
    /// Distinct sources, by host and name.
    pub sources: u64,
    /// Plain bytes of all snapshots, as if each were stored by itself.
    pub snapshot_bytes: u64,
    /// Distinct chunks stored.
    pub chunks: u64,
    /// Plain bytes of those.
    pub chunk_bytes: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes of all packs.
    pub pack_bytes: u64,
    /// `snapshot_bytes / chunk_bytes`.
    pub deduplication: f64,
    /// `chunk_bytes / pack_bytes`.
    pub compression: f64,
    /// The chunks by the way in which they are stored.
    pub encodings: Vec<Encoding>,
}

/// The chunks that are stored in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Encoding {
    /// `raw`, `zstd`, `columnar` or `delta`.
    pub name: &'static str,
    /// Chunks.
    pub chunks: u64,
    /// Their plain bytes.
    pub chunk_bytes: u64,
    /// Their stored bytes.
    pub stored_bytes: u64,
}

/// Adds up what the index lists by codec.
fn encodings(repo: &Repository) -> Result<Vec<Encoding>> {
    let known = [(Codec::Delta, "delta"), (Codec::Columnar, "columnar"), (Codec::Zstd, "zstd"), (Codec::Raw, "raw")];
    let mut sums = known.map(|(codec, name)| (codec, Encoding { name, chunks: 0, chunk_bytes: 0, stored_bytes: 0 }));
    for pack in repo.cache.packs()? {
        for (_, entry) in repo.cache.entries(&pack.id)? {
            for (_, sum) in sums.iter_mut().filter(|(codec, _)| *codec == entry.codec) {
                sum.chunks += 1;
                sum.chunk_bytes += u64::from(entry.raw_len);
                sum.stored_bytes += u64::from(entry.stored_len);
            }
        }
    }
    Ok(sums.into_iter().map(|(_, sum)| sum).filter(|sum| sum.chunks > 0).collect())
}

/// A sum. Whoever may write snapshots says of their lengths what he likes.
fn total(lengths: impl Iterator<Item = u64>) -> u64 {
    lengths.fold(0, u64::saturating_add)
}

/// Adds up.
///
/// # Errors
/// `Damaged`, `WrongKey`, `Storage`.
pub fn stats(repo: &Repository, report: &dyn Report) -> Result<Stats> {
    repo.index_to_read(report)?;
    let (snapshots, unreadable) = repo.snapshots()?;
    for (id, error) in unreadable {
        report.problem(Problem::new(crate::format::manifest::object_name(id), &error).harming([id]));
    }
    let snapshot_bytes = total(snapshots.iter().map(|s| s.manifest.bytes()));
    let mut sources: Vec<_> = snapshots.iter().map(|s| (&s.manifest.host, &s.manifest.source)).collect();
    sources.sort();
    sources.dedup();
    let totals = repo.cache.totals()?;
    let pack_bytes = total(repo.list_packs()?.into_values());
    let ratio = |a: u64, b: u64| if b == 0 { 1.0 } else { a as f64 / b as f64 };
    Ok(Stats {
        snapshots: snapshots.len() as u64,
        sources: sources.len() as u64,
        snapshot_bytes,
        chunks: totals.blobs,
        chunk_bytes: totals.raw_bytes,
        packs: totals.packs,
        pack_bytes,
        deduplication: ratio(snapshot_bytes, totals.raw_bytes),
        compression: ratio(totals.raw_bytes, pack_bytes),
        encodings: encodings(repo)?,
    })
}

/// Where the savings of a source, or of one of its parts, come from. Each step saves of what the one before left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Savings {
    /// The source.
    pub source: String,
    /// The part, where parts are told apart: a table, a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Plain bytes in all snapshots together.
    pub bytes: u64,
    /// Bytes that were there already.
    pub deduplication: u64,
    /// Bytes saved in chunks that are differences.
    pub delta: u64,
    /// Bytes saved in chunks that are stored by columns.
    pub columnar: u64,
    /// Bytes saved in chunks that zstd alone made shorter.
    pub zstd: u64,
    /// Bytes that remain.
    pub stored_bytes: u64,
}

/// Savings by source, and with `parts` by part, in the order of their names. A chunk that several have counts for the one that
/// had it first. Recipes are read for it, each of their chunks once.
///
/// # Errors
/// `Damaged`, `WrongKey`, `Storage`, `Interrupted`.
pub fn savings(repo: &Repository, parts: bool, report: &dyn Report, cancel: &Cancel) -> Result<Vec<Savings>> {
    let indexed = repo.index_to_read(report)?;
    let reader = Reader::new(&indexed)?;
    let (mut snapshots, _) = repo.snapshots()?;
    snapshots.reverse();
    let with = Walking { transfers: repo.storage.transfers(), report, cancel };
    let mut walked = Walked::default();
    let mut sums = Sums { indexed: &indexed, by_part: parts, seen: HashSet::new(), found: BTreeMap::new() };
    report.task("Reading recipes", Unit::Things, Some(snapshots.len() as u64));
    for (done, snapshot) in snapshots.iter().enumerate() {
        report.progress(done as u64);
        match sums.snapshot(&reader, &snapshot.manifest, &mut walked, with) {
            // Of one that can't be read, what could be counts: any slot may publish such a one.
            Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => {
                let name = crate::format::manifest::object_name(snapshot.id);
                report.problem(Problem::new(name, &e).harming([snapshot.id]));
            }
            added => added?,
        }
    }
    // What was there already is all that no chunk was stored for.
    for sum in sums.found.values_mut() {
        sum.deduplication = sum.bytes.saturating_sub(sum.deduplication);
    }
    Ok(sums.found.into_values().collect())
}

/// Savings as they are added up; until the end, `deduplication` holds the bytes of chunks that were seen first.
struct Sums<'s> {
    indexed: &'s Indexed<'s>,
    by_part: bool,
    seen: HashSet<BlobId>,
    found: BTreeMap<(String, Option<PartName>), Savings>,
}

impl Sums<'_> {
    fn snapshot(
        &mut self,
        reader: &Reader<'_>,
        manifest: &Manifest,
        walked: &mut Walked,
        with: Walking<'_>,
    ) -> Result<()> {
        let source = &manifest.source;
        if self.by_part {
            for part in reader.part_iter(manifest) {
                with.cancel.check()?;
                let part = part?;
                let sum = self.of(source, Some(&part));
                sum.bytes = sum.bytes.saturating_add(part.digest.bytes);
            }
        } else {
            let sum = self.of(source, None);
            sum.bytes = sum.bytes.saturating_add(manifest.bytes());
        }
        let by_part = self.by_part;
        let mut list = reader.walk_list(manifest);
        loop {
            // The list is no part's, so it counts for the source.
            let next = list.next(&mut walked.lists, with, &mut |entry, depth| {
                if by_part { Ok(()) } else { self.chunk(source, None, entry, depth) }
            })?;
            let Some(listed) = next else { return Ok(()) };
            for part in listed {
                reader.walk(&part.recipe, &mut walked.recipes, with, &mut |entry, depth| {
                    self.chunk(source, Some(&part), entry, depth)
                })?;
            }
        }
    }

    fn of(&mut self, source: &str, part: Option<&Part>) -> &mut Savings {
        let name = part.filter(|_| self.by_part).map(|part| part.name.first_piece());
        let text = name.as_ref().map(ToString::to_string);
        self.found.entry((source.to_owned(), name)).or_insert_with(|| Savings {
            source: source.to_owned(),
            part: text,
            ..Savings::default()
        })
    }

    fn chunk(&mut self, source: &str, part: Option<&Part>, entry: &RecipeEntry, depth: u8) -> Result<()> {
        if !self.seen.insert(entry.id) {
            return Ok(());
        }
        let copy = self.indexed.usable(&entry.id)?;
        let sum = self.of(source, part);
        let len = u64::from(entry.len);
        if depth == 0 {
            sum.deduplication = sum.deduplication.saturating_add(len);
        }
        let Some(copy) = copy else { return Ok(()) };
        let stored = u64::from(copy.stored_len);
        sum.stored_bytes += stored;
        if depth == 0 {
            let saved = len.saturating_sub(stored);
            match copy.codec {
                Codec::Delta => sum.delta += saved,
                Codec::Columnar => sum.columnar += saved,
                Codec::Zstd => sum.zstd += saved,
                Codec::Raw => {}
            }
        }
        Ok(())
    }
}
