//! What people call a snapshot: `latest`, a source's name, `NAME@TIME`, the beginning of its id or
//! of its original's, each with `:PART` behind it where a part is meant. Which is the newest, and
//! which was there at a time, the effective times tell ([`crate::repo::series`]).

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

use crate::error::{Error, Kind, Result};
use crate::format::manifest::{Part, PartKind, PartName};
use crate::id::SnapshotId;
use crate::repo::snapshots::Snapshot;

use super::dump;

/// Fewest digits of an id that name a snapshot.
const ID_DIGITS_MIN: usize = 4;

/// The snapshot that `text` names, among `snapshots` (newest first).
///
/// # Errors
/// `NotFound`; `Usage` when several ids begin so.
pub fn snapshot<'s>(snapshots: &'s [Snapshot], text: &str, zone: &TimeZone) -> Result<&'s Snapshot> {
    let newest = |name: &str, until: Timestamp| {
        snapshots.iter().find(|s| s.manifest.source == name && s.effective_time <= until && !s.is_distrusted)
    };
    if text == "latest" {
        return snapshots
            .iter()
            .find(|s| !s.is_distrusted)
            .ok_or_else(|| Error::new(Kind::NotFound, "the repository holds no snapshot yet"));
    }
    if let Some(found) = newest(text, Timestamp::MAX) {
        return Ok(found);
    }
    if let Some((name, time)) = text.rsplit_once('@')
        && let Some([until, later]) = parse_time(time, zone)
    {
        let found = newest(name, until);
        if newest(name, later).map(|s| s.id) != found.map(|s| s.id) {
            let written = |time: Timestamp| time.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z");
            let what = format!("`{}` may be two times, and they give different snapshots", time.escape_debug());
            return Err(Error::new(Kind::Usage, what).hint(format!(
                "the clock was changed then: say {} or {}",
                written(until),
                written(later)
            )));
        }
        return found.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("no snapshot of `{name}` at or before {until}"))
                .hint("`alluvium snapshots` lists what there is")
        });
    }
    let begins = |id: SnapshotId| text.len() >= ID_DIGITS_MIN && id.to_string().starts_with(text);
    let mut matching: Vec<_> = snapshots.iter().filter(|s| begins(s.id)).collect();
    if matching.is_empty() {
        // A copy goes by its original's name, too.
        matching = snapshots.iter().filter(|s| s.manifest.original.is_some_and(|o| begins(o.snapshot))).collect();
    }
    match matching[..] {
        [found] => Ok(found),
        [] => Err(Error::new(Kind::NotFound, format!("no snapshot is called `{text}`")).hint(
            "say `latest`, a source's name, NAME@TIME, or the beginning of an id; `alluvium snapshots` lists them",
        )),
        _ => Err(Error::new(Kind::Usage, format!("{} snapshots have ids that begin with `{text}`", matching.len()))
            .hint("give more digits")),
    }
}

/// How much of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrow {
    /// What recreates it: definition, rows, indexes and constraints.
    Everything,
    /// Only its rows.
    Data,
    /// Only its definition.
    Schema,
    /// Its parts of the dump, as they are.
    AsItIs,
}

/// What somebody wants of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it.
    Whole,
    /// This part.
    Part(Part),
    /// This table of a dump, whatever parts it takes.
    Table {
        /// Its name.
        name: PartName,
        /// How much of it.
        narrow: Narrow,
    },
    /// The collection of an archive that this part holds blocks of, whatever parts it takes; the part where it is none.
    Collection {
        /// A part.
        part: Part,
        /// How much of the collection.
        narrow: Narrow,
    },
}

impl Wanted {
    fn table(name: PartName) -> Self {
        Self::Table { name, narrow: Narrow::Everything }
    }

    /// Only so much of the table.
    ///
    /// # Errors
    /// `Usage` when it is no table.
    pub fn narrowed(self, narrow: Narrow) -> Result<Self> {
        match self {
            Self::Table { name, .. } => Ok(Self::Table { name, narrow }),
            Self::Collection { part, .. } => Ok(Self::Collection { part, narrow }),
            other if matches!(narrow, Narrow::Everything | Narrow::AsItIs) => Ok(other),
            _ => Err(no_table()),
        }
    }
}

/// Reads the parts of a snapshot.
pub type ReadParts<'r> = &'r dyn Fn(&Snapshot) -> Result<Vec<Part>>;

/// The snapshot and what of it, behind a colon, `text` names. The longest beginning that names a
/// snapshot wins, since times hold colons too. A table goes by its whole name, or by its end where that is enough:
/// `orders` for `public.orders`. `parts` is called where a part is named.
///
/// # Errors
/// As [`snapshot`]; `NotFound` for an unknown part; `Usage` for a name that several tables end with; those of `parts`.
pub fn snapshot_and_part<'s>(
    snapshots: &'s [Snapshot],
    text: &str,
    zone: &TimeZone,
    parts: ReadParts<'_>,
) -> Result<(&'s Snapshot, Wanted)> {
    let whole = snapshot(snapshots, text, zone);
    if whole.is_ok() {
        return whole.map(|s| (s, Wanted::Whole));
    }
    for (colon, _) in text.rmatch_indices(':') {
        let (name, part) = (&text[..colon], &text[colon + 1..]);
        if let Ok(found) = snapshot(snapshots, name, zone) {
            return wanted(found, parts(found)?, part).map(|wanted| (found, wanted));
        }
    }
    whole.map(|s| (s, Wanted::Whole))
}

fn wanted(snapshot: &Snapshot, parts: Vec<Part>, name: &str) -> Result<Wanted> {
    // Files are named without the slash that their paths began with; members of archives as the archive has it.
    let plain = name.strip_prefix('/').unwrap_or(name);
    let is_dump = dump::dialect(snapshot).is_some();
    let is_table = |part: &Part| matches!(part.kind, PartKind::Table { .. });
    // Two names may have one text form: a second piece gives way to an object that is called so.
    let called = |(_, part): &(usize, &Part)| {
        let text = part.name.to_string();
        text == name || text == plain
    };
    if let Some((at, _)) = parts.iter().enumerate().filter(called).min_by_key(|(_, part)| part.name.piece) {
        let part = parts.into_iter().nth(at).ok_or_else(|| no_part(snapshot, plain))?;
        return Ok(match part.kind {
            PartKind::Table { .. } if is_dump => Wanted::table(part.name.first_piece()),
            // In front of the collections stands what describes them.
            PartKind::Stream if dump::is_mongodump(snapshot) && at > 0 => {
                Wanted::Collection { part, narrow: Narrow::Everything }
            }
            _ => Wanted::Part(part),
        });
    }
    if snapshot.manifest.whole.is_some() && snapshot.manifest.source == plain {
        return Ok(Wanted::Whole);
    }
    let ends = parts.iter().filter(|part| is_table(part) && part.name.is_object_called(plain));
    let mut names: Vec<PartName> = ends.map(|part| part.name.first_piece()).collect();
    names.sort();
    names.dedup();
    match &names[..] {
        [only] if is_dump => Ok(Wanted::table(only.clone())),
        // It may be defined, and hold no rows of its own.
        [] if is_dump => Ok(Wanted::table(rowless(&parts, plain))),
        [] | [_] => Err(no_part(snapshot, plain)),
        _ => {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            Err(Error::new(Kind::Usage, format!("`{plain}` may be any of {}", names.join(", "))).hint("say which"))
        }
    }
}

/// The name of a table without rows that a user calls `text`: `DATABASE/SCHEMA.TABLE`.
fn rowless(parts: &[Part], text: &str) -> PartName {
    let databases = || parts.iter().filter_map(|part| part.name.database.as_deref());
    match text.split_once('/') {
        Some((database, table)) if databases().any(|known| known == database) => {
            PartName { database: Some(database.to_owned()), ..PartName::of(table) }
        }
        _ => PartName::of(text),
    }
}

/// That what was named has no rows apart from a definition.
pub fn no_table() -> Error {
    Error::new(Kind::Usage, "only a table or a collection has data and a definition apart from each other")
        .hint("name one (SNAP:TABLE); `alluvium ls SNAP` lists them")
}

/// That a snapshot has no such part.
pub fn no_part(snapshot: &Snapshot, name: &str) -> Error {
    Error::new(Kind::NotFound, format!("snapshot {} has no part `{name}`", short(snapshot)))
        .hint("`alluvium ls SNAP` lists its parts")
}

/// An id as people read it.
pub fn short(snapshot: &Snapshot) -> String {
    snapshot.id.to_string()[..8].to_owned()
}

/// The one stream or file that a snapshot holds.
///
/// # Errors
/// `Usage` when it holds several.
pub fn only_part<'p>(snapshot: &Snapshot, parts: &'p [Part]) -> Result<&'p Part> {
    let mut data = parts.iter().filter(|p| matches!(p.kind, PartKind::Stream | PartKind::File { .. }));
    match (data.next(), data.next()) {
        (Some(part), None) => Ok(part),
        _ => Err(Error::new(
            Kind::Usage,
            format!("snapshot {} holds {} parts; only one can go to standard output", short(snapshot), parts.len()),
        )
        .hint("name one (SNAP:PART), or restore into a folder with -o")),
    }
}

/// A time as people write it: RFC 3339 (`2026-11-22T02:00:00Z`), with or without a time zone's name behind it in brackets,
/// or a date with or without a time of day in `zone`. A date alone means its end: "the newest of that day". Where clocks
/// are set back or forward, a time of day may be two times, the earlier one first; else both are the same.
pub fn parse_time(text: &str, zone: &TimeZone) -> Option<[Timestamp; 2]> {
    // A time to the second means the second's end: that is how snapshots are shown.
    let to_its_end = |time: Timestamp| match time.subsec_nanosecond() {
        0 => time.checked_add(SignedDuration::from_nanos(999_999_999)).ok(),
        _ => Some(time),
    };
    if let Some(time) = parse_exact(text) {
        return to_its_end(time).map(|time| [time; 2]);
    }
    let both = |civil: DateTime| {
        let local = zone.to_ambiguous_zoned(civil);
        Some([local.clone().earlier().ok()?.timestamp(), local.later().ok()?.timestamp()])
    };
    if let Ok(date) = text.parse::<Date>()
        && text.len() <= "2026-11-22".len()
    {
        return both(Time::MAX.to_datetime(date));
    }
    let [earlier, later] = both(parse_civil(text)?)?;
    Some([to_its_end(earlier)?, to_its_end(later)?])
}

/// A time that says itself which offset or zone it is of.
fn parse_exact(text: &str) -> Option<Timestamp> {
    if text.contains('[') {
        return text.replacen(' ', "T", 1).parse::<Zoned>().ok().map(|time| time.timestamp());
    }
    text.parse().ok()
}

/// A time that says no zone. One that is not understood must not be taken for another.
fn parse_civil(text: &str) -> Option<DateTime> {
    text.replacen(' ', "T", 1).parse().ok().filter(|_| !text.contains('['))
}

/// A time from which something holds: as [`parse_time`], but a date alone means its beginning.
pub fn parse_since(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    match text.parse::<Date>() {
        Ok(date) if text.len() <= "2026-11-22".len() => {
            Some(date.to_datetime(Time::MIN).to_zoned(zone.clone()).ok()?.timestamp())
        }
        _ => parse_exact(text).or_else(|| Some(parse_civil(text)?.to_zoned(zone.clone()).ok()?.timestamp())),
    }
}
