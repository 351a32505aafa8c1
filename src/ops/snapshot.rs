//! `snapshot`: a stream, a command's output, or files become one snapshot.
//!
//! ```text
//! begin session -> predict from the predecessor -> store -> judge the source -> publish
//! ```
//!
//! The source is judged before anything is published: a command that failed, a dump without its end, an
//! empty stream never become a snapshot. What they had stored is garbage, and what a later
//! success deduplicates against.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::format::catalog::Evidence;
use crate::format::keyslot::SlotKind;
use crate::format::limits::NAME_BYTES_MAX;
use crate::format::manifest::{
    Catalog, Dialect, Digest, Header, Manifest, Part, PartKind, PartList, PartName, SEQUENCE_MAX, Shape, ShapeKind,
    SourceKind, Stored, UNSEALED,
};
use crate::format::recipe::Recipe;
use crate::id::SnapshotId;
use crate::repo::Repository;
use crate::repo::predict::Prediction;
use crate::repo::publish::{SESSIONS_MAX, publish_or_keep};
use crate::repo::reader::Reader;
use crate::repo::session::{Session, Writing};
use crate::repo::snapshots::{Snapshot, digest_of_stream};
use crate::repo::writer::{Predict, StoredPart, StoredStream, WriteOptions, Writer, write};
use crate::report::{Counter, Problem, Report, Unit};
use crate::source::command;
use crate::source::files::{self, Found, FoundKind, Opener};
use crate::source::pipe::read_error;
use crate::source::sniff::sniff;
use crate::source::verdict::judge;
use crate::source::watch::Watched;
use crate::transform::hash::stream_digest;
use crate::transform::segment::{Holds, Recognised, Segmenter, sql};

/// What is backed up.
pub enum Source<'s> {
    /// A stream that somebody else produces.
    Stream {
        /// The stream; it is read to its end.
        input: Box<dyn Read + Send + 's>,
        /// Its length in bytes where known, for the progress.
        bytes: Option<u64>,
    },
    /// A command that alluvium runs and judges: program and arguments.
    Command(Vec<String>),
    /// Files and folders.
    Files(Vec<PathBuf>),
}

impl Source<'_> {
    /// The same source, to be read once more; `None` for a stream, which can be read once.
    fn again(&self) -> Option<Self> {
        match self {
            Self::Stream { .. } => None,
            Self::Command(argv) => Some(Self::Command(argv.clone())),
            Self::Files(paths) => Some(Self::Files(paths.clone())),
        }
    }
}

/// How.
#[derive(Clone, Debug)]
pub struct SnapshotOptions {
    /// The source's name.
    pub name: String,
    /// This host's name.
    pub host: String,
    /// The source's time zone, for the record.
    pub zone: String,
    /// Labels.
    pub tags: BTreeSet<String>,
    /// Memory and compression.
    pub write: WriteOptions,
    /// A stream far smaller than its predecessor is all right.
    pub allow_shrink: bool,
    /// What the dump knows of the database, where Alluvium dumps it itself.
    pub evidence: Option<Evidence>,
}

/// What came of it.
#[derive(Debug, serde::Serialize)]
pub struct Taken {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its source.
    pub source: String,
    /// When it was begun.
    pub time: Timestamp,
    /// Plain bytes.
    pub bytes: u64,
    /// What storing it took.
    pub stored: Stored,
    /// The predecessor.
    pub previous: Option<SnapshotId>,
    /// The predecessor's length, when this one is far smaller.
    pub shrunk_from: Option<u64>,
    /// Parts that could not be read; the snapshot lacks them.
    pub left_out: u64,
    /// Files that changed while they were read; their parts say so.
    pub changed: u64,
    /// What this machine had seen in the repository and is not there any more ([`crate::repo::seen`]).
    pub older_than_seen: Vec<Problem>,
}

/// A snapshot below this share of its predecessor is flagged.
const SHRUNK_BELOW: f64 = 0.5;

/// Takes a snapshot.
///
/// # Errors
/// `Source` when the data is not to be trusted, `Usage`, `Interrupted`, `Busy`, `Damaged`, `Storage`. In every case
/// nothing was published.
pub fn snapshot(
    repo: &Repository,
    source: Source<'_>,
    options: &SnapshotOptions,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<Taken> {
    check_names(options)?;
    let mut session =
        Session::begin(repo, &Writing { host: options.host.clone(), purpose: "snapshot".to_owned() }, report)?;
    for problem in &session.indexed.problems {
        report.problem(problem.clone());
    }
    let ((headers, unreadable), writers) = repo.headers_and_writers()?;
    for (id, error) in unreadable {
        report.problem(Problem::new(crate::format::manifest::object_name(id), &error).harming([id]));
    }
    let (storage, generation) = (repo.storage.as_ref(), session.indexed.generation);
    let older = repo.seen.compare(storage, generation, &headers, &writers, report)?;
    let headers = Headers { followed: repo.to_follow(&headers, &session.indexed.state)?, all: headers };
    let mut source = source;
    let mut sessions = 1;
    let (taken, header) = loop {
        let again = source.again();
        let error = match take(&mut session, source, &headers, options, report, cancel) {
            Err(error) if session.is_superseded() => error,
            other => break other?,
        };
        // What failed has ended.
        cancel.resume();
        cancel.check()?;
        let Some(again) = again else {
            let first = match error.kind() {
                Kind::Damaged => "run `alluvium check`, so that what is damaged is stored again, then ",
                _ => "",
            };
            return Err(error.hint(format!(
                "the input was a pipe, which can't be read again: {first}take the snapshot again; as a command \
                 (`alluvium snapshot … -- COMMAND`) it would have begun again by itself",
            )));
        };
        if sessions == SESSIONS_MAX {
            return Err(error);
        }
        sessions += 1;
        report.warn(&format!("{error}; beginning the snapshot again"));
        session.begin_again(report)?;
        source = again;
    };
    // While something is missed it goes on being missed, whatever was stored on top of the older state.
    if older.is_empty() {
        let slot = repo.keys.slot();
        let writer = (!repo.keys.is_full(slot)).then_some(slot);
        repo.seen.note(taken.id, writer, &header, report)?;
    }
    report.count(Counter::FilterMisses, repo.cache.filter_misses());
    Ok(Taken { older_than_seen: older, ..taken })
}

/// The headers of the repository.
struct Headers {
    all: Vec<(SnapshotId, Header)>,
    /// Those that a new snapshot may follow.
    followed: Vec<(SnapshotId, Header)>,
}

/// Stores, judges and publishes a source. After an error, a `session` that [is superseded](Session::is_superseded) says
/// that another one might succeed.
fn take(
    session: &mut Session<'_>,
    source: Source<'_>,
    headers: &Headers,
    options: &SnapshotOptions,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<(Taken, Header)> {
    let repo = session.repo();
    let time = repo.env.now();
    let series = repo.keys.hasher.series(&options.host, &options.name);
    let previous = predecessor(&headers.followed, &series, SEQUENCE_MAX);
    warn_of_the_chain(&headers.followed, &series, previous.as_ref(), time, report);
    warn_of_another_author(repo, predecessor(&headers.all, &series, u64::MAX).as_ref(), report)?;
    let sequence = next_sequence(previous.as_ref().map(|(_, header)| header), time);
    let gathered = gather(session, source, options, previous.as_ref(), report, cancel)?;
    let Gathered { kind, whole, shape, parts, catalog, mut stored, left_out, changed } = gathered;
    stored.stored_bytes = session.written_bytes();

    let bytes = parts.bytes;
    // Compared with the last good one: a database that was emptied is reported every night, not once.
    let before = previous.as_ref().map(|(_, header)| header.good_bytes);
    let shrunk_from = before.filter(|&before| !options.allow_shrink && (bytes as f64) < before as f64 * SHRUNK_BELOW);
    if let Some(before) = shrunk_from {
        report.warn(&format!(
            "`{}` has {bytes} bytes, the last good snapshot had {before}: stored, and flagged. If this is right, say --allow-shrink",
            options.name
        ));
    }
    let previous = previous.map(|(id, _)| id);
    let good_bytes = shrunk_from.unwrap_or(bytes);
    let header = Header { time, series, sequence, bytes, good_bytes, previous, body: UNSEALED };
    let manifest = Manifest {
        time,
        sequence,
        finished: repo.env.now(),
        zone: options.zone.clone(),
        source: options.name.clone(),
        kind,
        host: options.host.clone(),
        tags: options.tags.clone(),
        previous,
        generation: 0,
        tool: format!("alluvium {}", env!("CARGO_PKG_VERSION")),
        whole,
        shape,
        parts,
        engine: options.evidence.as_ref().map(|evidence| evidence.engine.clone()),
        catalog,
        stored,
        shrunk_from,
        original: None,
        original_author: None,
    };
    let id = publish_or_keep(session, &header, manifest, options.write, report, cancel)?;
    let source = options.name.clone();
    let older_than_seen = Vec::new();
    let taken = Taken { id, source, time, bytes, stored, previous, shrunk_from, left_out, changed, older_than_seen };
    Ok((taken, header))
}

fn check_names(options: &SnapshotOptions) -> Result<()> {
    let name = &options.name;
    let bad = |what: &str| Err(Error::new(Kind::Usage, format!("the source's name `{}` {what}", name.escape_debug())));
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return bad("is empty or too long");
    }
    if name == "latest" || name.contains('@') {
        return bad("would be taken for something else: `latest` and `@` have a meaning where a snapshot is named");
    }
    if options.tags.iter().any(|tag| tag.is_empty() || tag.contains(',') || tag.len() > NAME_BYTES_MAX) {
        return Err(Error::new(Kind::Usage, "a tag is empty, too long, or holds a comma"));
    }
    Ok(())
}

/// The last snapshot of the series whose sequence is below `below`, whatever the clocks said.
pub(super) fn predecessor(
    headers: &[(SnapshotId, Header)],
    series: &[u8; 32],
    below: u64,
) -> Option<(SnapshotId, Header)> {
    let before = headers.iter().filter(|(_, h)| h.series == *series && h.sequence < below);
    before.max_by_key(|(id, h)| (h.sequence, h.time, *id)).cloned()
}

/// The sequence of a snapshot that is begun at `time`: a hybrid logical clock. Seconds since 1970,
/// so that the chains of two repositories mix by time; more where the predecessor's is not lower.
fn next_sequence(previous: Option<&Header>, time: Timestamp) -> u64 {
    let seconds = u64::try_from(time.as_second()).unwrap_or(0);
    let next = previous.map_or(1, |header| header.sequence + 1);
    next.max(seconds).min(SEQUENCE_MAX)
}

/// Warns of what is wrong with the series: a clock, a sequence that nothing can follow.
fn warn_of_the_chain(
    headers: &[(SnapshotId, Header)],
    series: &[u8; 32],
    previous: Option<&(SnapshotId, Header)>,
    now: Timestamp,
    report: &dyn Report,
) {
    for (id, _) in headers.iter().filter(|(_, h)| h.series == *series && h.sequence >= SEQUENCE_MAX) {
        report.warn(&format!(
            "snapshot {id} has the highest sequence that there is and can not be a predecessor: it was not made by \
             this program. Look at it, and forget it by its id"
        ));
    }
    if let Some((id, header)) = previous.filter(|(_, header)| header.time > now) {
        report.warn(&format!(
            "this machine's clock says {now}, which is before the time of the previous snapshot ({id}, {}): one of \
             the two clocks is wrong. The order of the snapshots does not depend on it",
            header.time
        ));
    }
}

/// Reports a series that another key slot has written so far: a move to a new passphrase, or a thief.
fn warn_of_another_author(
    repo: &Repository,
    previous: Option<&(SnapshotId, Header)>,
    report: &dyn Report,
) -> Result<()> {
    let Some((id, _)) = previous else { return Ok(()) };
    if let Some(author) = repo.author(*id)?.filter(|author| *author != repo.keys.slot()) {
        report.note(&format!(
            "the last snapshot of this source, {id}, was taken with another passphrase: {}",
            repo.keys.slot_name(author)
        ));
    }
    Ok(())
}

/// A source's data, stored and judged.
struct Gathered {
    kind: SourceKind,
    whole: Option<Digest>,
    shape: Shape,
    parts: PartList,
    catalog: Option<Catalog>,
    stored: Stored,
    left_out: u64,
    changed: u64,
}

fn gather(
    session: &Session<'_>,
    source: Source<'_>,
    options: &SnapshotOptions,
    previous: Option<&(SnapshotId, Header)>,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<Gathered> {
    let before = Before::read(session, previous, report)?;
    match source {
        Source::Stream { input, bytes } => {
            report.task(&options.name, Unit::Bytes, bytes.or(previous.map(|(_, h)| h.bytes)));
            write(session, options.write, report, cancel, |writer| {
                let mut watched = Watched::new(input);
                let stored = store_stream(writer, &mut watched, &before, report)?;
                judge(watched.head(), watched.tail(), watched.length())?;
                Gathered::stream(writer, SourceKind::Stream, options, stored, &before)
            })
        }
        Source::Command(argv) => {
            report.task(&options.name, Unit::Bytes, previous.map(|(_, h)| h.bytes));
            let program = argv.first().cloned().unwrap_or_default();
            write(session, options.write, report, cancel, |writer| {
                // Dropped on every failure, which kills the command: a failing repository leaves nothing hanging.
                // What it says on the way is passed on; its last words are in the message when it fails.
                let running = command::spawn(&argv, cancel)?.each_line(|line| report.note(line));
                let mut watched = Watched::new(running);
                let stored = store_stream(writer, &mut watched, &before, report)
                    .map_err(|e| e.during(format!("`{program}`")))?;
                let verdict = judge(watched.head(), watched.tail(), watched.length());
                // The exit status tells more than a missing end: it comes first.
                watched.into_inner().finish()?;
                verdict?;
                let program = PathBuf::from(&program);
                let program = program.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
                Gathered::stream(writer, SourceKind::Command { program }, options, stored, &before)
            })
        }
        Source::Files(paths) => {
            let found = files::walk(&paths, report)?;
            let total = found.iter().map(|f| if let FoundKind::File { bytes, .. } = f.kind { bytes } else { 0 }).sum();
            report.task(&options.name, Unit::Bytes, Some(total));
            write(session, options.write, report, cancel, |writer| {
                let (mut parts, mut left_out, mut changed) = (Vec::new(), 0, 0);
                let mut opener = Opener::default();
                for found in found {
                    match store_found(writer, &mut opener, &found, &before, report)? {
                        Some(part) => {
                            changed += u64::from(part.kind.has_changed());
                            parts.push(part);
                        }
                        None => left_out += 1,
                    }
                }
                if parts.is_empty() {
                    return Err(Error::new(Kind::Source, "there is nothing to back up: no file could be read"));
                }
                let shape = Shape { is: ShapeKind::Files, dialect: None };
                let gathered = Gathered::store(writer, SourceKind::Files, None, shape, parts, options)?;
                Ok(Gathered { left_out, changed, ..gathered })
            })
        }
    }
}

impl Gathered {
    fn stream(
        writer: &mut Writer<'_>,
        kind: SourceKind,
        options: &SnapshotOptions,
        (stored, shape): (StoredStream, Shape),
        before: &Before<'_>,
    ) -> Result<Self> {
        let part = |part: StoredPart| {
            let mut part = Part {
                name: part.name.unwrap_or_else(|| PartName::of(&options.name[..])),
                kind: match part.holds {
                    None | Some(Holds::Piece) => PartKind::Stream,
                    Some(Holds::Statements) => PartKind::Statements,
                    Some(Holds::Table) => PartKind::Table { rows: part.rows },
                },
                digest: part.digest,
                recipe: part.recipe,
                stored_bytes: Some(part.stored_bytes),
            };
            // What did not change has the record that it had: what its chunks take is known only about.
            if let Some(same) = before.part(&part.name)
                && (same.digest, &same.recipe) == (part.digest, &part.recipe)
            {
                part.stored_bytes = same.stored_bytes;
            }
            part
        };
        let parts: Vec<Part> = stored.parts.into_iter().map(part).collect();
        let whole = Some(digest_of_stream(&parts));
        Self::store(writer, kind, whole, shape, parts, options)
    }

    /// Stores the lists of what was stored.
    fn store(
        writer: &mut Writer<'_>,
        kind: SourceKind,
        whole: Option<Digest>,
        shape: Shape,
        parts: Vec<Part>,
        options: &SnapshotOptions,
    ) -> Result<Self> {
        let parts = writer.store_parts(parts)?;
        let tables = options.evidence.as_ref().map(|evidence| &evidence.tables[..]).filter(|tables| !tables.is_empty());
        let catalog = tables.map(|tables| writer.store_catalog(tables)).transpose()?;
        Ok(Self { kind, whole, shape, parts, catalog, stored: writer.stored(), left_out: 0, changed: 0 })
    }
}

/// What a stream is, by what it was recognised as.
fn shape(recognised: Option<Recognised>) -> Shape {
    let (is, dialect) = match recognised {
        None => (ShapeKind::Stream, None),
        Some(Recognised::Lines) => (ShapeKind::Stream, Some(Dialect::Lines)),
        Some(Recognised::Sql(sql::Dialect::Postgres)) => (ShapeKind::Dump, Some(Dialect::Postgres)),
        Some(Recognised::Sql(sql::Dialect::Mysql)) => (ShapeKind::Dump, Some(Dialect::Mysql)),
        Some(Recognised::Sql(sql::Dialect::Sqlite)) => (ShapeKind::Dump, Some(Dialect::Sqlite)),
        Some(Recognised::Tar) => (ShapeKind::Archive, Some(Dialect::Tar)),
        Some(Recognised::Mongodump) => (ShapeKind::Archive, Some(Dialect::Mongodb)),
        Some(Recognised::SqlitePages) => (ShapeKind::Pages, Some(Dialect::Sqlite)),
        Some(Recognised::PostgresPages) => (ShapeKind::Pages, Some(Dialect::Postgres)),
    };
    Shape { is, dialect }
}

/// Stores a stream; says first when it can't deduplicate, and what to do about it.
fn store_stream(
    writer: &mut Writer<'_>,
    watched: &mut Watched<impl Read + Send>,
    before: &Before<'_>,
    report: &dyn Report,
) -> Result<(StoredStream, Shape)> {
    let head = watched.peek_head().map_err(|e| read_error(e, "the source"))?;
    if let Some(opaque) = sniff(head) {
        report.warn(&format!("the data is {}: {}", opaque.what, opaque.advice));
    }
    let segmenter = Segmenter::recognise(head);
    let shape = shape(segmenter.as_ref().map(Segmenter::recognised));
    let stored = writer.store(watched, segmenter, &|segment| match segment {
        Some(name) => before.prediction_of(name),
        None => before.prediction(0),
    })?;
    Ok((stored, shape))
}

/// Stores one thing that a walk found; `None` when it could not be read, which was told as a problem.
fn store_found(
    writer: &mut Writer<'_>,
    opener: &mut Opener,
    found: &Found,
    before: &Before<'_>,
    report: &dyn Report,
) -> Result<Option<Part>> {
    let name = PartName::of(&found.name[..]);
    if name.len() > NAME_BYTES_MAX {
        let what = format!("its path has more than {NAME_BYTES_MAX} bytes, left out");
        report.problem(Problem::new(found.path.display().to_string(), what));
        return Ok(None);
    }
    let nothing = Digest { bytes: 0, blake3: stream_digest(b"") };
    let (kind, digest, recipe) = match &found.kind {
        FoundKind::Folder { mode } => (PartKind::Folder { mode: *mode }, nothing, Recipe::default()),
        FoundKind::Link { target } => (PartKind::Link { target: target.clone() }, nothing, Recipe::default()),
        FoundKind::File { .. } => {
            let problem = |what: String| report.problem(Problem::new(found.path.display().to_string(), what));
            let opened = match opener.open(found) {
                Ok(opened) => opened,
                Err(e) => {
                    problem(format!("could not be opened, left out: {e}"));
                    return Ok(None);
                }
            };
            let mut watched = Watched::new(&opened.file);
            let stored = match store_file(writer, &mut watched, &|_| before.prediction_of(&name)) {
                Ok(stored) => stored,
                Err(e) if e.kind() == Kind::Source => {
                    let cause = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
                    problem(format!("could not be read, left out: {cause}"));
                    return Ok(None);
                }
                Err(e) => return Err(e),
            };
            let changed = opened.has_changed();
            if changed {
                problem("changed while it was read: the stored copy may mix two states".to_owned());
            }
            if let Some(warning) = files::looks_live(&found.path, watched.head()) {
                report.warn(&warning);
            }
            let kind = PartKind::File { mode: opened.mode(), modified: opened.modified(), changed };
            (kind, stored.digest, stored.recipe)
        }
    };
    Ok(Some(Part { name, kind, digest, recipe, stored_bytes: None }))
}

/// Stores a file, which is one part whatever it holds.
fn store_file(
    writer: &mut Writer<'_>,
    watched: &mut Watched<impl Read + Send>,
    predict: Predict<'_>,
) -> Result<StoredPart> {
    let head = watched.peek_head().map_err(|e| read_error(e, "the source"))?;
    let segmenter = Segmenter::recognise_pages(head);
    writer.store(watched, segmenter, predict).map(StoredStream::only)
}

/// The previous snapshot's recipes, for prediction; nothing for the first snapshot and for a
/// write-only key, which can't read them.
struct Before<'s> {
    read: Option<(Reader<'s>, Vec<Part>)>,
    /// Parts by name.
    places: HashMap<PartName, usize>,
}

impl<'s> Before<'s> {
    fn read(session: &'s Session<'s>, previous: Option<&(SnapshotId, Header)>, report: &dyn Report) -> Result<Self> {
        let repo = session.repo();
        let nothing = Self { read: None, places: HashMap::new() };
        let Some((id, _)) = previous.filter(|_| repo.keys.kind() == SlotKind::Full) else {
            return Ok(nothing);
        };
        let reader = Reader::new(&session.indexed)?;
        let parts = repo.snapshot(*id).and_then(|Snapshot { author, manifest, .. }| {
            // Reading what a write-only slot claims may take for ever, and a prediction only saves time.
            if repo.keys.is_full(author) { reader.parts(&manifest).map(Some) } else { Ok(None) }
        });
        match parts {
            Ok(None) => Ok(nothing),
            Ok(Some(parts)) => {
                let places = parts.iter().enumerate().map(|(i, part)| (part.name.clone(), i)).collect();
                Ok(Self { read: Some((reader, parts)), places })
            }
            // Not needed to take a snapshot; check says what is wrong with it.
            Err(e) => {
                report.warn(&format!("the previous snapshot can't be read ({e}): this one is cut without its help"));
                Ok(nothing)
            }
        }
    }

    fn prediction(&self, part: usize) -> Option<Prediction<'_>> {
        let (reader, parts) = self.read.as_ref()?;
        Some(Prediction::new(reader.part_entries(parts.get(part)?)))
    }

    fn prediction_of(&self, name: &PartName) -> Option<Prediction<'_>> {
        self.prediction(*self.places.get(name)?)
    }

    fn part(&self, name: &PartName) -> Option<&Part> {
        let (_, parts) = self.read.as_ref()?;
        parts.get(*self.places.get(name)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Collect;

    /// Snapshot `n` of series `s`, taken at `second`.
    fn header(n: u8, s: u8, sequence: u64, second: i64) -> (SnapshotId, Header) {
        let time = Timestamp::from_second(second).expect("a time");
        let header =
            Header { time, series: [s; 32], sequence, bytes: 1, good_bytes: 1, previous: None, body: UNSEALED };
        (SnapshotId([n; 16]), header)
    }

    #[test]
    fn the_predecessor_is_the_highest_of_the_series_whatever_the_clocks_say() {
        // 2 was taken with a clock that was ahead, 3 with one that was behind; 9 is of another
        // series.
        let headers = [header(1, 7, 10, 10), header(2, 7, 5000, 5000), header(3, 7, 5001, 1), header(9, 8, 9000, 9000)];
        let before = |below| predecessor(&headers, &[7; 32], below).map(|(id, _)| id.0[0]);
        assert_eq!(before(SEQUENCE_MAX), Some(3));
        assert_eq!((before(5001), before(5000), before(10)), (Some(2), Some(1), None));
        // Of equal sequences the later time, and then the higher id.
        let equal = [header(4, 7, 10, 12), header(5, 7, 10, 11), header(6, 7, 10, 12)];
        assert_eq!(predecessor(&equal, &[7; 32], SEQUENCE_MAX).map(|(id, _)| id.0[0]), Some(6));
    }

    #[test]
    fn sequences_rise_with_the_chain_and_with_time() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let after = |sequence| header(1, 7, sequence, 0).1;
        assert_eq!(next_sequence(None, at(100)), 100);
        assert_eq!((next_sequence(None, at(0)), next_sequence(None, at(-5))), (1, 1));
        assert_eq!(next_sequence(Some(&after(50)), at(100)), 100);
        assert_eq!(next_sequence(Some(&after(100)), at(100)), 101);
        assert_eq!(next_sequence(Some(&after(5000)), at(100)), 5001);
        assert_eq!(next_sequence(Some(&after(SEQUENCE_MAX - 1)), Timestamp::MAX), SEQUENCE_MAX);
        assert!(next_sequence(None, Timestamp::MAX) < SEQUENCE_MAX);
    }

    #[test]
    fn what_nothing_can_follow_is_no_predecessor_and_a_warning() {
        let headers = [header(1, 7, 10, 10), header(2, 7, SEQUENCE_MAX, 10)];
        let previous = predecessor(&headers, &[7; 32], SEQUENCE_MAX);
        assert_eq!(previous.as_ref().map(|(id, _)| id.0[0]), Some(1));
        let warnings = |now| {
            let report = Collect::default();
            warn_of_the_chain(
                &headers,
                &[7; 32],
                previous.as_ref(),
                Timestamp::from_second(now).expect("a time"),
                &report,
            );
            report.warnings()
        };
        assert!(warnings(10).len() == 1 && warnings(10)[0].contains("can not be a predecessor"));
        assert!(warnings(9).len() == 2 && warnings(9)[1].contains("this machine's clock says"));
    }
}
