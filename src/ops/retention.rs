//! Which snapshots a forget keeps, and why: pure, no I/O, the time now is a parameter.
//!
//! Snapshots are grouped (by source, host and write-only slot) and each group is walked from the newest to the oldest.
//! Every rule divides time into buckets (hours, days, ...) and keeps the newest snapshot of each bucket,
//! either for so many buckets or within so long before the group's newest snapshot. Rules are independent;
//! a snapshot stays when any rule keeps it, and every one that stays says why. The rules are restic's
//! (`internal/data/snapshot_policy.go`), corrected where they can lose what somebody counted on:
//!
//! | | restic | here |
//! |---|---|---|
//! | buckets | in the offset stored in each snapshot | in one time zone, the policy's (UTC by default) |
//! | a bucket is new when | it differs from the last one kept | the rule kept nothing of it yet (clocks go back) |
//! | snapshots from the future | use up counts, always "within" | left alone: not judged, not counted, no reference |
//! | `within` | from the newest not in the future, strict | the same; also weeks; 31 March − 1m is in February |
//! | grouped by | host and paths | source, host, and write-only slot |
//! | oldest of a group | kept while a counting or period-within rule has room | the same |
//! | nothing would stay | refused | the newest good snapshot stays, whatever else the rules keep |
//! | keep-tag with an empty tag | means untagged | refused |
//! | an empty policy | refused, unless unsafe-allow-remove-all | refused, always |
//!
//! An hour that the clock runs through twice is one hour, as in restic. Times are effective times
//! ([`crate::repo::series`]): one snapshot that was taken with a wrong clock counts as taken when
//! its neighbours were.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::{Serialize, Serializer};

use crate::error::{Error, Kind, Result};
use crate::id::{SlotId, SnapshotId};
use crate::repo::snapshots::Snapshot;

/// A snapshot as the policy sees it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name.
    pub id: SnapshotId,
    /// When it was taken, as far as that is believed: its effective time.
    pub time: Timestamp,
    /// Its position in its series: of equal times, the highest is the newest.
    pub sequence: u64,
    /// What it is a backup of.
    pub source: String,
    /// Where it was taken.
    pub host: String,
    /// The tags on it.
    pub tags: BTreeSet<String>,
    /// The write-only slot whose claim it is, if any.
    pub slot: Option<SlotId>,
    /// False for a suspicious one, for example far smaller than the one before. Rules treat it like any
    /// other; it only never counts as the last good snapshot.
    pub good: bool,
}

impl Candidate {
    /// A snapshot as the policy sees it.
    pub fn of(snapshot: &Snapshot, slot: Option<SlotId>) -> Self {
        let Snapshot { id, manifest, effective_time, .. } = snapshot;
        Self {
            id: *id,
            time: *effective_time,
            sequence: manifest.sequence,
            source: manifest.source.clone(),
            host: manifest.host.clone(),
            tags: manifest.tags.clone(),
            slot,
            good: manifest.shrunk_from.is_none() && !snapshot.is_distrusted,
        }
    }
}

/// How many buckets a counting rule may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many; none is the same as no rule.
    N(u32),
    /// All there are.
    Unlimited,
}

impl FromStr for Count {
    type Err = Error;

    /// Parses a whole number or `unlimited`.
    fn from_str(text: &str) -> Result<Self> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        text.parse().map(Self::N).map_err(|_| {
            Error::new(Kind::Usage, format!("`{}` is not a number of snapshots to keep", text.escape_debug()))
                .hint("give a whole number, or `unlimited`")
        })
    }
}

/// A length of time in calendar units, like `1y6m` or `2w`. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// In the order of [`UNITS`].
    amounts: [u32; 5],
}

/// Years, months, weeks, days, hours: the order of [`Span::amounts`] and of its text.
const UNITS: [char; 5] = ['y', 'm', 'w', 'd', 'h'];

impl Span {
    /// The time this long before `time`, by the calendar of `zone`: years and months first (a day that
    /// the month lacks becomes its last), then weeks and days, then hours. None when the calendar does
    /// not reach that far: then nothing is older.
    fn before(self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let [years, months, weeks, days, hours] = self.amounts;
        let span = jiff::Span::new().try_years(years).ok()?.try_months(months).ok()?.try_weeks(weeks).ok()?;
        let span = span.try_days(days).ok()?.try_hours(hours).ok()?;
        Some(time.to_zoned(zone.clone()).checked_sub(span).ok()?.timestamp())
    }
}

impl FromStr for Span {
    type Err = Error;

    /// Parses numbers, each with one of the units `y m w d h`, each unit at most once.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(Kind::Usage, format!("`{}` is not a length of time", text.escape_debug()))
                .hint("join numbers with y, m, w, d or h (years, months, weeks, days, hours): 7d, 2w, 1y6m")
        };
        let mut amounts = [None; 5];
        let mut rest = text;
        while let Some(end) = rest.find(UNITS) {
            let (number, unit_and_rest) = rest.split_at(end);
            // `parse` alone would let a plus sign through.
            if !number.bytes().all(|b| b.is_ascii_digit()) {
                return Err(bad());
            }
            let unit = UNITS.iter().position(|&unit| unit_and_rest.starts_with(unit)).ok_or_else(bad)?;
            if amounts[unit].replace(number.parse().map_err(|_| bad())?).is_some() {
                return Err(bad());
            }
            rest = &unit_and_rest[1..];
        }
        let span = Self { amounts: amounts.map(Option::unwrap_or_default) };
        if rest.is_empty() && span.amounts.iter().any(|&amount| amount > 0) { Ok(span) } else { Err(bad()) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.amounts.iter().zip(UNITS).filter(|&(&amount, _)| amount > 0);
        parts.into_iter().try_for_each(|(amount, unit)| write!(f, "{amount}{unit}"))
    }
}

/// What snapshots may have in common to share a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupBy {
    /// The same source.
    Source,
    /// The same host.
    Host,
    /// The same set of tags.
    Tags,
    /// The same author: a write-only slot, or any of the others. A stolen write-only passphrase can add
    /// snapshots to any series, and must not displace those of others.
    Slot,
}

/// What to keep. The rules are independent, and a snapshot may satisfy several at once.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The newest so many.
    pub keep_last: Option<Count>,
    /// The newest of each of the newest so many hours that have any.
    pub keep_hourly: Option<Count>,
    /// The same with days.
    pub keep_daily: Option<Count>,
    /// The same with ISO weeks.
    pub keep_weekly: Option<Count>,
    /// The same with months.
    pub keep_monthly: Option<Count>,
    /// The same with years.
    pub keep_yearly: Option<Count>,
    /// All that are less than this much older than the newest of the group.
    pub keep_within: Option<Span>,
    /// Of those, the newest of each hour.
    pub keep_within_hourly: Option<Span>,
    /// The same with days.
    pub keep_within_daily: Option<Span>,
    /// The same with ISO weeks.
    pub keep_within_weekly: Option<Span>,
    /// The same with months.
    pub keep_within_monthly: Option<Span>,
    /// The same with years.
    pub keep_within_yearly: Option<Span>,
    /// All that have every tag of any of these sets; not counted by other rules.
    pub keep_tag: Vec<BTreeSet<String>>,
    /// Whose hours, days, weeks, months and years.
    pub timezone: TimeZone,
    /// Which snapshots are judged together.
    pub group_by: BTreeSet<GroupBy>,
    /// Lets the rules remove every good snapshot of a group. Does not make an empty policy valid.
    pub allow_empty: bool,
}

impl Default for Policy {
    /// No rule yet, UTC, grouped by source, host and slot.
    fn default() -> Self {
        Self {
            keep_last: None,
            keep_hourly: None,
            keep_daily: None,
            keep_weekly: None,
            keep_monthly: None,
            keep_yearly: None,
            keep_within: None,
            keep_within_hourly: None,
            keep_within_daily: None,
            keep_within_weekly: None,
            keep_within_monthly: None,
            keep_within_yearly: None,
            keep_tag: Vec::new(),
            timezone: TimeZone::UTC,
            group_by: BTreeSet::from([GroupBy::Source, GroupBy::Host, GroupBy::Slot]),
            allow_empty: false,
        }
    }
}

impl Policy {
    /// Refuses a policy that keeps nothing, and tag lists that cannot be meant: one without tags would keep
    /// everything, one with an empty tag nothing.
    ///
    /// # Errors
    /// `Usage`.
    pub fn check(&self) -> Result<()> {
        if self.keep_tag.iter().any(|tags| tags.is_empty() || tags.contains("")) {
            return Err(Error::new(Kind::Usage, "a tag to keep is empty").hint("name the tag"));
        }
        if self.has_rules() {
            return Ok(());
        }
        Err(Error::new(Kind::Usage, "the retention policy keeps nothing")
            .hint("give at least one rule, for example --keep-daily 7; to remove certain snapshots, name them"))
    }

    /// True when any rule may keep anything.
    fn has_rules(&self) -> bool {
        let counts = self.counts().iter().any(|&(_, count)| !matches!(count, None | Some(Count::N(0))));
        let spans = self.spans().iter().any(|(_, span)| span.is_some());
        counts || spans || !self.keep_tag.is_empty()
    }

    /// True when no rule was given at all.
    pub fn is_empty(&self) -> bool {
        let counts = self.counts().iter().all(|(_, count)| count.is_none());
        counts && self.spans().iter().all(|(_, span)| span.is_none()) && self.keep_tag.is_empty()
    }

    fn counts(&self) -> [(Period, Option<Count>); 6] {
        [
            (Period::Last, self.keep_last),
            (Period::Hour, self.keep_hourly),
            (Period::Day, self.keep_daily),
            (Period::Week, self.keep_weekly),
            (Period::Month, self.keep_monthly),
            (Period::Year, self.keep_yearly),
        ]
    }

    fn spans(&self) -> [(Period, Option<Span>); 6] {
        [
            (Period::Last, self.keep_within),
            (Period::Hour, self.keep_within_hourly),
            (Period::Day, self.keep_within_daily),
            (Period::Week, self.keep_within_weekly),
            (Period::Month, self.keep_within_monthly),
            (Period::Year, self.keep_within_yearly),
        ]
    }

    fn key_of(&self, candidate: &Candidate) -> GroupKey {
        let by = |property| self.group_by.contains(&property);
        GroupKey {
            source: by(GroupBy::Source).then(|| candidate.source.clone()),
            host: by(GroupBy::Host).then(|| candidate.host.clone()),
            tags: by(GroupBy::Tags).then(|| candidate.tags.clone()),
            slot: candidate.slot.filter(|_| by(GroupBy::Slot)),
        }
    }
}

/// What divides time into buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// Every snapshot is a bucket of its own.
    Last,
    /// Hours by the clock.
    Hour,
    /// Calendar days.
    Day,
    /// ISO 8601 weeks: Monday to Sunday, also across New Year.
    Week,
    /// Calendar months.
    Month,
    /// Calendar years.
    Year,
}

/// Names one bucket among those of its period.
type Bucket = (isize, i8, i8, i8);

impl Period {
    /// The bucket of the snapshot at `position` of its group, taken at `local` time.
    fn bucket(self, local: &Zoned, position: usize) -> Bucket {
        let (year, month, day) = (isize::from(local.year()), local.month(), local.day());
        match self {
            Self::Last => (position.cast_signed(), 0, 0, 0),
            Self::Hour => (year, month, day, local.hour()),
            Self::Day => (year, month, day, 0),
            Self::Week => {
                // The year of the week, which differs from the calendar's around New Year.
                let week = local.date().iso_week_date();
                (isize::from(week.year()), week.week(), 0, 0)
            }
            Self::Month => (year, month, 0, 0),
            Self::Year => (year, 0, 0, 0),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        })
    }
}

/// Why a snapshot stays. In JSON it is its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The newest of its bucket, and the counting rule had room.
    Counted {
        /// The rule.
        period: Period,
        /// Not the newest of its bucket but the oldest of the group, and the rule still had room.
        oldest: bool,
    },
    /// The newest of its bucket (of [`Period::Last`]: any), and young enough.
    Within {
        /// The rule.
        period: Period,
        /// How much older than the newest it may be.
        span: Span,
        /// Not the newest of its bucket but the oldest of the group.
        oldest: bool,
    },
    /// It has all of these tags.
    Tags(BTreeSet<String>),
    /// No rule keeps it, but it is the newest good snapshot of its group.
    LastGood,
    /// No rule keeps any snapshot of the group and none is good: the newest one.
    OnlyOneLeft,
    /// No snapshot of the group can be restored whole by what is there: all of them stay.
    NoneWhole,
    /// Its time is later than now, so that no rule can be trusted to judge it.
    Future,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = |oldest: &bool| if *oldest { "oldest " } else { "" };
        match self {
            Self::Counted { period, oldest } => write!(f, "{}{period} snapshot", prefix(oldest)),
            Self::Within { period: Period::Last, span, .. } => write!(f, "within {span}"),
            Self::Within { period, span, oldest } => write!(f, "{}{period} within {span}", prefix(oldest)),
            Self::Tags(tags) => {
                let list: Vec<&str> = tags.iter().map(String::as_str).collect();
                write!(f, "{} {}", if list.len() == 1 { "tag" } else { "tags" }, list.join(", "))
            }
            Self::LastGood => f.write_str("last good snapshot"),
            Self::OnlyOneLeft => f.write_str("only snapshot left"),
            Self::NoneWhole => f.write_str("no snapshot is whole: none goes"),
            Self::Future => f.write_str("in the future: not judged"),
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What the snapshots of a group have in common; absent is what the policy does not group by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct GroupKey {
    /// The source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The whole set of tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeSet<String>>,
    /// The write-only slot that wrote all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotId>,
}

/// The verdict on one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The snapshot.
    pub id: SnapshotId,
    /// When it was taken, as far as that is believed.
    pub time: Timestamp,
    /// Whether it stays; exactly when there is a reason.
    pub keep: bool,
    /// Why it stays.
    pub reasons: Vec<Reason>,
}

/// The verdicts on one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// What its snapshots share.
    pub key: GroupKey,
    /// One per snapshot, newest first, equal times by sequence and id.
    pub decisions: Vec<Decision>,
}

/// Applies `policy` to all `candidates`. Their order does not matter. Groups come in the order of their keys.
///
/// # Errors
/// `Usage` as in [`Policy::check`].
pub fn decide(candidates: &[Candidate], policy: &Policy, now: Timestamp) -> Result<Vec<Group>> {
    policy.check()?;
    let mut groups: BTreeMap<GroupKey, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        groups.entry(policy.key_of(candidate)).or_default().push(candidate);
    }
    let judged = groups.into_iter().map(|(key, mut members)| {
        members.sort_by_key(|candidate| Reverse((candidate.time, candidate.sequence, candidate.id)));
        Group { key, decisions: judge(&members, policy, now) }
    });
    Ok(judged.collect())
}

/// The verdicts on one group, which comes newest first.
fn judge(members: &[&Candidate], policy: &Policy, now: Timestamp) -> Vec<Decision> {
    let (future, past) = members.split_at(members.partition_point(|candidate| candidate.time > now));
    let mut reasons = vec![vec![Reason::Future]; future.len()];
    reasons.extend(apply_rules(past, policy));
    if !policy.allow_empty {
        protect_last_good(past, &mut reasons[future.len()..]);
    }
    let decisions = members.iter().zip(reasons).map(|(candidate, reasons)| Decision {
        id: candidate.id,
        time: candidate.time,
        keep: !reasons.is_empty(),
        reasons,
    });
    decisions.collect()
}

/// Every rule's reasons for every snapshot of a group, which comes newest first and has no future ones.
fn apply_rules(past: &[&Candidate], policy: &Policy) -> Vec<Vec<Reason>> {
    let Some(newest) = past.first() else { return Vec::new() };
    let mut rules = Rule::all(policy, newest.time);
    let judged = past.iter().enumerate().map(|(position, candidate)| {
        let tags = policy.keep_tag.iter().filter(|tags| tags.is_subset(&candidate.tags));
        let mut reasons: Vec<Reason> = tags.cloned().map(Reason::Tags).collect();
        let local = candidate.time.to_zoned(policy.timezone.clone());
        let oldest = position + 1 == past.len();
        reasons.extend(rules.iter_mut().filter_map(|rule| rule.judge(&local, position, oldest)));
        reasons
    });
    judged.collect()
}

/// Keeps the newest good snapshot. Always, and not only when no other good one stays: otherwise an older
/// one could stand in for it, and a more generous policy could keep less.
fn protect_last_good(past: &[&Candidate], reasons: &mut [Vec<Reason>]) {
    if let Some(position) = past.iter().position(|candidate| candidate.good) {
        if reasons[position].is_empty() {
            reasons[position].push(Reason::LastGood);
        }
    } else if reasons.iter().all(Vec::is_empty)
        && let Some(newest) = reasons.first_mut()
    {
        newest.push(Reason::OnlyOneLeft);
    }
}

/// A rule on its walk through one group.
struct Rule {
    period: Period,
    /// Buckets that may still be filled.
    room: Count,
    /// What a within-rule was given; its reason says so.
    span: Option<Span>,
    /// Nothing of this time or before is kept.
    after: Option<Timestamp>,
    /// Buckets of which this rule has kept something. A set and not the last one: where the clock is
    /// set back across midnight, the same day comes twice.
    filled: BTreeSet<Bucket>,
}

impl Rule {
    /// The rules that `policy` has, for a group whose newest snapshot is of the time `newest`.
    fn all(policy: &Policy, newest: Timestamp) -> Vec<Self> {
        let counted = policy.counts().into_iter().filter_map(|(period, count)| {
            Some(Self { period, room: count?, span: None, after: None, filled: BTreeSet::new() })
        });
        let within = policy.spans().into_iter().filter_map(|(period, span)| {
            let after = span?.before(newest, &policy.timezone);
            Some(Self { period, room: Count::Unlimited, span, after, filled: BTreeSet::new() })
        });
        counted.chain(within).collect()
    }

    /// Why this rule keeps the next older snapshot, if it does. Only what it keeps changes its state.
    fn judge(&mut self, local: &Zoned, position: usize, oldest: bool) -> Option<Reason> {
        if self.room == Count::N(0) || self.after.is_some_and(|after| local.timestamp() <= after) {
            return None;
        }
        let is_new = self.filled.insert(self.period.bucket(local, position));
        if !is_new && !oldest {
            return None;
        }
        if let Count::N(left) = &mut self.room {
            *left -= 1;
        }
        let (period, oldest) = (self.period, !is_new);
        Some(match self.span {
            None => Reason::Counted { period, oldest },
            Some(span) => Reason::Within { period, span, oldest },
        })
    }
}
