//! The retention policy against golden tables, and against a slow model that is written differently.
//!
//! `golden/retention/*.txt` are for people: a policy, a history, and for each snapshot the verdict with
//! its reasons. The verdicts were worked out by hand from the rules. `ALLUVIUM_REGENERATE=1` writes the
//! verdicts of the program into the tables; a person then reviews that diff line by line, since a table
//! that was pasted from the program proves nothing.
//!
//! A table is lines `now TIME`, `zone NAME`, `keep RULE=VALUE ...`, `group PROPERTY ...`, `allow-empty`,
//! then one line per snapshot: `TIME | source=S host=H tags=T,T bad | VERDICT`. `#` begins a comment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use alluvium::error::Kind;
use alluvium::id::{SlotId, SnapshotId};
use alluvium::ops::retention::{Candidate, Count, Decision, Group, GroupBy, Policy, Reason, Span, decide};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use proptest::prelude::*;

// ---- Golden tables ----

#[test]
fn golden_tables_hold() {
    let mut files: Vec<PathBuf> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/retention"))
        .expect("the tables are there")
        .map(|entry| entry.expect("a folder can be listed").path())
        .collect();
    files.sort();
    assert!(files.len() >= 30, "only {} golden tables: some were lost", files.len());
    let wrong: Vec<String> = files.iter().flat_map(|file| check_table(file)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The lines of a table that the program sees differently.
fn check_table(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).expect("a table can be read");
    let name = file.file_name().unwrap_or_default().display();
    let mut policy = Policy::default();
    let mut now = None;
    let mut candidates = Vec::new();
    for line in text.lines() {
        match line.split_once(' ').unwrap_or((line, "")) {
            _ if line.contains('|') => candidates.push(candidate_of(line, candidates.len())),
            ("" | "#", _) => {}
            ("now", time) => now = Some(time.trim().parse().expect("`now` is a time")),
            ("zone", zone) => policy.timezone = TimeZone::get(zone.trim()).expect("the zone exists"),
            ("group", properties) => policy.group_by = properties.split_whitespace().map(group_by_of).collect(),
            ("keep", rules) => rules.split_whitespace().for_each(|rule| add_rule(&mut policy, rule)),
            ("allow-empty", "") => policy.allow_empty = true,
            _ => panic!("{name}: what is `{line}`?"),
        }
    }
    let groups = decide(&candidates, &policy, now.expect("a table says when it is")).expect("the policy is valid");
    let mut verdicts = candidates.iter().map(|candidate| verdict_of(&groups, candidate.id));

    let mut wrong = Vec::new();
    let mut rewritten = String::new();
    for line in text.lines() {
        let fresh = match line.rsplit_once('|') {
            None => line.to_owned(),
            Some((history, _)) => format!("{history}| {}", verdicts.next().expect("one verdict per snapshot")),
        };
        if fresh != line {
            wrong.push(format!("{name}:\n  expected  {line}\n  got       {fresh}"));
        }
        rewritten += &(fresh + "\n");
    }
    if std::env::var_os("ALLUVIUM_REGENERATE").is_some() {
        fs::write(file, rewritten).expect("a table can be written");
        return Vec::new();
    }
    wrong
}

fn candidate_of(line: &str, number: usize) -> Candidate {
    let mut cells = line.split('|').map(str::trim);
    let time = cells.next().expect("a time").parse().expect("a time");
    let mut candidate = Candidate {
        id: id(number),
        time,
        sequence: 0,
        source: String::new(),
        host: String::new(),
        tags: set([]),
        slot: None,
        good: true,
    };
    for word in cells.next().expect("properties").split_whitespace() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("source", source) => source.clone_into(&mut candidate.source),
            ("host", host) => host.clone_into(&mut candidate.host),
            ("tags", tags) => candidate.tags = tags.split(',').map(str::to_owned).collect(),
            ("bad", "") => candidate.good = false,
            _ => panic!("what is `{word}`?"),
        }
    }
    candidate
}

fn add_rule(policy: &mut Policy, rule: &str) {
    let (name, value) = rule.split_once('=').expect("RULE=VALUE");
    let count = || Some(value.parse().expect("a count"));
    let span = || Some(value.parse().expect("a span"));
    match name {
        "last" => policy.keep_last = count(),
        "hourly" => policy.keep_hourly = count(),
        "daily" => policy.keep_daily = count(),
        "weekly" => policy.keep_weekly = count(),
        "monthly" => policy.keep_monthly = count(),
        "yearly" => policy.keep_yearly = count(),
        "within" => policy.keep_within = span(),
        "within-hourly" => policy.keep_within_hourly = span(),
        "within-daily" => policy.keep_within_daily = span(),
        "within-weekly" => policy.keep_within_weekly = span(),
        "within-monthly" => policy.keep_within_monthly = span(),
        "within-yearly" => policy.keep_within_yearly = span(),
        "tag" => policy.keep_tag.push(value.split(',').map(str::to_owned).collect()),
        _ => panic!("what is `{rule}`?"),
    }
}

fn group_by_of(property: &str) -> GroupBy {
    match property {
        "source" => GroupBy::Source,
        "host" => GroupBy::Host,
        "tags" => GroupBy::Tags,
        "slot" => GroupBy::Slot,
        _ => panic!("what is `{property}`?"),
    }
}

fn verdict_of(groups: &[Group], id: SnapshotId) -> String {
    let decision = decisions(groups).find(|decision| decision.id == id).expect("every snapshot is decided");
    assert_eq!(decision.keep, !decision.reasons.is_empty(), "kept exactly when there is a reason: {decision:?}");
    if !decision.keep {
        return "remove".to_owned();
    }
    let reasons: Vec<String> = decision.reasons.iter().map(Reason::to_string).collect();
    format!("keep: {}", reasons.join("; "))
}

fn decisions(groups: &[Group]) -> impl Iterator<Item = &Decision> {
    groups.iter().flat_map(|group| &group.decisions)
}

fn id(number: usize) -> SnapshotId {
    SnapshotId((number as u128).to_be_bytes())
}

fn set<const N: usize>(words: [&str; N]) -> BTreeSet<String> {
    words.into_iter().map(str::to_owned).collect()
}

// ---- Words and refusals ----

#[test]
fn policies_that_cannot_be_meant_are_refused() {
    let refused = |policy: Policy| {
        let error = decide(&[], &policy, Timestamp::UNIX_EPOCH).expect_err("refused");
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.advice().is_some(), "a usage error says what to do");
    };
    refused(Policy::default());
    refused(Policy { allow_empty: true, ..Policy::default() });
    refused(Policy { keep_daily: Some(Count::N(0)), ..Policy::default() });
    refused(Policy { keep_last: Some(Count::N(1)), keep_tag: vec![set([])], ..Policy::default() });
    refused(Policy { keep_last: Some(Count::N(1)), keep_tag: vec![set(["a", ""])], ..Policy::default() });
}

#[test]
fn counts_and_spans_are_read_exactly() {
    assert_eq!("unlimited".parse::<Count>().expect("a count"), Count::Unlimited);
    assert_eq!("14".parse::<Count>().expect("a count"), Count::N(14));
    for text in ["", "-1", "7d", "Unlimited", "1 ", "99999999999"] {
        assert_eq!(text.parse::<Count>().expect_err(text).kind(), Kind::Usage);
    }
    for (text, canonical) in [("7d", "7d"), ("1y6m2w3d12h", "1y6m2w3d12h"), ("12h1y", "1y12h"), ("0d1h", "1h")] {
        assert_eq!(text.parse::<Span>().expect(text).to_string(), canonical);
    }
    for text in ["", "0d", "7", "d", "7d7d", "-1d", "+1d", "1 d", "1d ", "7d3", "1s", "99999999999d", "unlimited", "1D"]
    {
        assert_eq!(text.parse::<Span>().expect_err(text).kind(), Kind::Usage);
    }
}

#[test]
fn a_span_longer_than_the_calendar_keeps_everything() {
    let span = |text: &str| Some(text.parse().expect("a span"));
    let history = [history_item(0, "-000100-01-01T00:00:00Z"), history_item(1, "2024-01-01T00:00:00Z")];
    for text in ["15000y", "4000000000y", "4000000000h"] {
        let policy = Policy { keep_within: span(text), ..Policy::default() };
        let groups = decide(&history, &policy, "2024-02-01T00:00:00Z".parse().expect("a time")).expect("a policy");
        assert!(decisions(&groups).all(|decision| decision.keep), "{text}");
    }
}

#[test]
fn json_names_group_and_reasons() {
    let policy = Policy { keep_last: Some(Count::N(1)), keep_daily: Some(Count::N(1)), ..Policy::default() };
    let history = [history_item(2, "2024-01-02T00:00:00Z"), history_item(1, "2024-01-01T00:00:00Z")];
    let groups = decide(&history, &policy, "2024-02-01T00:00:00Z".parse().expect("a time")).expect("a policy");
    let expected = r#"[{"key":{"source":"app","host":"db1"},"decisions":[
        {"id":"00000000000000000000000000000002","time":"2024-01-02T00:00:00Z","keep":true,
         "reasons":["last snapshot","daily snapshot"]},
        {"id":"00000000000000000000000000000001","time":"2024-01-01T00:00:00Z","keep":false,"reasons":[]}]}]"#;
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    assert_eq!(value(&serde_json::to_string(&groups).expect("groups serialise")), value(expected));
}

fn history_item(number: usize, time: &str) -> Candidate {
    let time = time.parse().expect("a time");
    let (source, host) = ("app".to_owned(), "db1".to_owned());
    Candidate { id: id(number), time, sequence: 0, source, host, tags: set([]), slot: None, good: true }
}

// ---- The slow model ----

/// A policy in the model's own terms, so that it shares neither types nor parsing with the code.
#[derive(Clone, Debug)]
struct Wish {
    /// Last, hourly, daily, weekly, monthly, yearly; `u32::MAX` is unlimited.
    counts: [Option<u32>; 6],
    /// Within, within-hourly, ...; years, months, weeks, days, hours.
    spans: [Option<[u32; 5]>; 6],
    tags: Vec<BTreeSet<String>>,
    zone: &'static str,
    group_by: BTreeSet<GroupBy>,
    allow_empty: bool,
}

const NAMES: [&str; 6] = ["last", "hourly", "daily", "weekly", "monthly", "yearly"];

impl Wish {
    fn policy(&self) -> Policy {
        let count = |rule: usize| self.counts[rule].map(|n| if n == u32::MAX { Count::Unlimited } else { Count::N(n) });
        let span = |rule: usize| self.spans[rule].map(|amounts| span_text(amounts).parse().expect("a span"));
        Policy {
            keep_last: count(0),
            keep_hourly: count(1),
            keep_daily: count(2),
            keep_weekly: count(3),
            keep_monthly: count(4),
            keep_yearly: count(5),
            keep_within: span(0),
            keep_within_hourly: span(1),
            keep_within_daily: span(2),
            keep_within_weekly: span(3),
            keep_within_monthly: span(4),
            keep_within_yearly: span(5),
            keep_tag: self.tags.clone(),
            timezone: self.zone(),
            group_by: self.group_by.clone(),
            allow_empty: self.allow_empty,
        }
    }

    fn zone(&self) -> TimeZone {
        TimeZone::get(self.zone).expect("the zone exists")
    }
}

fn span_text(amounts: [u32; 5]) -> String {
    let parts = amounts.iter().zip("ymwdh".chars()).filter(|(amount, _)| **amount > 0);
    parts.fold(String::new(), |text, (amount, unit)| format!("{text}{amount}{unit}"))
}

/// For every snapshot the set of reasons to keep it.
type Verdicts = BTreeMap<SnapshotId, BTreeSet<String>>;

/// What the rules say, as sets: no walk, no state.
fn model(history: &[Candidate], wish: &Wish, now: Timestamp) -> Verdicts {
    let alike = |a: &Candidate, b: &Candidate| {
        (!wish.group_by.contains(&GroupBy::Source) || a.source == b.source)
            && (!wish.group_by.contains(&GroupBy::Host) || a.host == b.host)
            && (!wish.group_by.contains(&GroupBy::Tags) || a.tags == b.tags)
            && (!wish.group_by.contains(&GroupBy::Slot) || a.slot == b.slot)
    };
    let mut verdicts = Verdicts::new();
    for candidate in history {
        if candidate.time > now {
            verdicts.insert(candidate.id, set(["in the future: not judged"]));
            continue;
        }
        let group: Vec<&Candidate> = history.iter().filter(|c| alike(c, candidate) && c.time <= now).collect();
        let mut all: Vec<BTreeSet<String>> = group.iter().map(|c| model_rules(c, &group, wish)).collect();
        let newest_of = |good: bool| group.iter().filter(|c| c.good || !good).min_by_key(|c| newer_first(c));
        if let Some(good) = newest_of(true) {
            let place = group.iter().position(|c| c.id == good.id).expect("it is of the group");
            if all[place].is_empty() && !wish.allow_empty {
                all[place] = set(["last good snapshot"]);
            }
        } else if all.iter().all(BTreeSet::is_empty) && !wish.allow_empty {
            let newest = newest_of(false).expect("the group has the candidate");
            let place = group.iter().position(|c| c.id == newest.id).expect("it is of the group");
            all[place] = set(["only snapshot left"]);
        }
        let place = group.iter().position(|c| c.id == candidate.id).expect("it is of its group");
        verdicts.insert(candidate.id, all.swap_remove(place));
    }
    verdicts
}

fn newer_first(candidate: &Candidate) -> std::cmp::Reverse<(Timestamp, u64, SnapshotId)> {
    std::cmp::Reverse((candidate.time, candidate.sequence, candidate.id))
}

/// The reasons of the rules alone for one snapshot of a group without future ones.
fn model_rules(candidate: &Candidate, group: &[&Candidate], wish: &Wish) -> BTreeSet<String> {
    let mut reasons = BTreeSet::new();
    for tags in wish.tags.iter().filter(|tags| tags.iter().all(|tag| candidate.tags.contains(tag))) {
        let names: Vec<&str> = tags.iter().map(String::as_str).collect();
        reasons.insert(format!("tag{} {}", if names.len() > 1 { "s" } else { "" }, names.join(", ")));
    }
    for (rule, name) in NAMES.iter().enumerate() {
        if let Some(count) = wish.counts[rule] {
            let prefix = model_bucket(rule, count, candidate, group, group, &wish.zone());
            reasons.extend(prefix.map(|prefix| format!("{prefix}{name} snapshot")));
        }
        if let Some(amounts) = wish.spans[rule] {
            let newest = group.iter().map(|c| c.time).max().expect("the group has the candidate");
            let cutoff = long_before(newest, amounts, &wish.zone());
            let young: Vec<&Candidate> = group.iter().copied().filter(|c| c.time > cutoff).collect();
            let prefix = model_bucket(rule, u32::MAX, candidate, &young, group, &wish.zone());
            let rule_name = if rule == 0 { String::new() } else { format!("{name} ") };
            reasons.extend(prefix.map(|prefix| format!("{prefix}{rule_name}within {}", span_text(amounts))));
        }
    }
    reasons
}

/// Buckets the `eligible` of a `group`, takes the newest of each bucket and the newest `count` of those. Says whether
/// `candidate` is among them (""), or else stays as the group's oldest ("oldest ").
fn model_bucket(
    rule: usize,
    count: u32,
    candidate: &Candidate,
    eligible: &[&Candidate],
    group: &[&Candidate],
    zone: &TimeZone,
) -> Option<&'static str> {
    let format = ["", "%Y-%m-%d %H", "%Y-%m-%d", "%G-W%V", "%Y-%m", "%Y"][rule];
    let mut buckets: BTreeMap<String, Vec<&Candidate>> = BTreeMap::new();
    for member in eligible {
        let unique = if rule == 0 { member.id.to_string() } else { String::new() };
        let label = member.time.to_zoned(zone.clone()).strftime(format).to_string() + &unique;
        buckets.entry(label).or_default().push(member);
    }
    let mut newest: Vec<&Candidate> = buckets
        .values()
        .map(|bucket| *bucket.iter().min_by_key(|member| newer_first(member)).expect("no bucket is empty"))
        .collect();
    newest.sort_by_key(|member| newer_first(member));
    let has_room = newest.len() < count as usize;
    newest.truncate(count as usize);
    if newest.iter().any(|member| member.id == candidate.id) {
        return Some("");
    }
    let is_oldest = group.iter().all(|member| newer_first(member) <= newer_first(candidate));
    let is_eligible = eligible.iter().any(|member| member.id == candidate.id);
    (has_room && is_oldest && is_eligible).then_some("oldest ")
}

/// The calendar, by hand.
fn long_before(time: Timestamp, [years, months, weeks, days, hours]: [u32; 5], zone: &TimeZone) -> Timestamp {
    let mut start = time;
    if years + months + weeks + days > 0 {
        let local = time.to_zoned(zone.clone());
        let month_number = i64::from(local.year()) * 12 + i64::from(local.month()) - 1;
        let month_number = month_number - i64::from(years) * 12 - i64::from(months);
        let (year, month) = (month_number.div_euclid(12) as i16, (month_number.rem_euclid(12) + 1) as i8);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize - 1];
        let date = jiff::civil::date(year, month, local.day().min(length)) - i64::from(weeks * 7 + days).days();
        start = zone.to_timestamp(date.to_datetime(local.time())).expect("a time that the calendar has");
    }
    start - jiff::SignedDuration::from_hours(i64::from(hours))
}

fn verdicts(groups: &[Group]) -> Verdicts {
    let texts = |decision: &Decision| decision.reasons.iter().map(Reason::to_string).collect();
    decisions(groups).map(|decision| (decision.id, texts(decision))).collect()
}

// ---- Clocks ----

/// Snapshots of one source, each taken at a day of its own by the clock of its machine. The newest,
/// and what
/// `--keep-last` keeps on the day `now`, by the numbers of the snapshots.
fn kept_of_clocks(days: &[i64], keep: u32, now: i64) -> (usize, Vec<usize>) {
    let (world, storage) = (crate::support::World::new(1), alluvium::storage::memory::Memory::new());
    let repo = crate::support::init(storage, &world);
    let mut today = 0;
    let mut set_clock = |day: i64| {
        world.pass(jiff::SignedDuration::from_hours((day - today) * 24));
        today = day;
    };
    let mut taken = Vec::new();
    for (number, day) in days.iter().enumerate() {
        set_clock(*day);
        taken.push(crate::support::take(&repo, "shop", &crate::support::dump(50, number)).expect("take").id);
    }
    set_clock(now);
    let number = |id: SnapshotId| taken.iter().position(|taken| *taken == id).expect("one of them");
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    let zone = TimeZone::UTC;
    let latest = alluvium::ops::select::snapshot(&snapshots, "latest", &zone).expect("latest").id;
    let named = alluvium::ops::select::snapshot(&snapshots, "shop", &zone).expect("shop").id;
    assert_eq!(latest, named);
    let policy = Policy { keep_last: Some(Count::N(keep)), ..Policy::default() };
    let plan = alluvium::ops::forget::plan(&repo, &alluvium::ops::forget::Filter::default(), &policy).expect("plan");
    let mut kept: Vec<usize> = decisions(&plan.groups).filter(|d| d.keep).map(|d| number(d.id)).collect();
    kept.sort_unstable();
    (number(latest), kept)
}

#[test]
fn one_wrong_clock_decides_neither_which_is_the_newest_nor_what_is_kept() {
    // Right clocks.
    assert_eq!(kept_of_clocks(&[1, 2, 3, 4], 2, 5), (3, vec![2, 3]));
    // Ahead by years: while that is in the future, and when it has passed.
    for now in [5, 5000] {
        assert_eq!(kept_of_clocks(&[1, 3000, 3, 4], 2, now), (3, vec![2, 3]), "{now}");
    }
    // Behind by years, and the newest all the same.
    assert_eq!(kept_of_clocks(&[1, 2, 3, -3000], 2, 5), (3, vec![2, 3]));
    // The clock of the machine that forgets is behind: what contradicts nothing is left alone.
    assert_eq!(kept_of_clocks(&[1, 2, 3, 4], 1, -3000), (3, vec![0, 1, 2, 3]));
    // The newest is from the future and contradicts nothing: left alone, and not counted.
    assert_eq!(kept_of_clocks(&[1, 2, 3, 3000], 2, 5), (3, vec![1, 2, 3]));
}

#[test]
fn the_chain_decides_between_equal_times() {
    let item = |number, sequence| Candidate { sequence, ..history_item(number, "2024-01-01T00:00:00Z") };
    let policy = Policy { keep_last: Some(Count::N(1)), ..Policy::default() };
    let history = [item(1, 9), item(2, 8), item(3, 7)];
    let groups = decide(&history, &policy, "2024-02-01T00:00:00Z".parse().expect("a time")).expect("a policy");
    let order: Vec<_> = decisions(&groups).map(|decision| (decision.id, decision.keep)).collect();
    assert_eq!(order, [(id(1), true), (id(2), false), (id(3), false)]);
}

// ---- Histories ----

/// Moments around which something happens to calendars: New Year, leap days, clocks set forward and back
/// (in Goose Bay across midnight, in Lord Howe by half an hour).
const MOMENTS: [&str; 7] = [
    "2024-12-31T23:00:00Z",
    "2024-02-29T12:00:00Z",
    "2024-03-31T01:00:00Z",
    "2024-10-27T01:00:00Z",
    "2010-11-07T03:01:00Z",
    "2024-04-06T15:00:00Z",
    "2024-05-15T12:00:00Z",
];

const ZONES: [&str; 4] = ["UTC", "Europe/Amsterdam", "America/Goose_Bay", "Australia/Lord_Howe"];

/// Steps that fill few buckets with many snapshots, or many with few, in seconds.
const STEPS: [i64; 7] = [0, 600, 3600, 5 * 3600, 86_400, 6 * 86_400, 27 * 86_400];

fn tags() -> impl Strategy<Value = BTreeSet<String>> {
    proptest::sample::subsequence(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], 0..=3)
        .prop_map(|tags| tags.into_iter().collect())
}

fn one_of_two() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just("x".to_owned()), 1 => Just("y".to_owned())]
}

/// A history and a time now, somewhere in its newer half or after it.
fn history() -> impl Strategy<Value = (Vec<Candidate>, Timestamp)> {
    let second = prop_oneof![Just(0), Just(1), Just(1800), Just(3599)];
    let good = prop_oneof![4 => Just(true), 1 => Just(false)];
    let item = (-12_i64..=12, second, one_of_two(), one_of_two(), tags(), good, any::<u8>(), 0_u64..3);
    let items = proptest::collection::vec(item, 0..24);
    let now = (0_i64..16, prop_oneof![Just(0), Just(900)]);
    (proptest::sample::select(&MOMENTS), proptest::sample::select(&STEPS), now, items).prop_map(
        |(moment, step, now, items)| {
            let moment: Timestamp = moment.parse().expect("a time");
            let at = |steps: i64, seconds: i64| moment + jiff::SignedDuration::from_secs(steps * step + seconds);
            let candidate = |(number, (steps, seconds, source, host, tags, good, order, sequence))| {
                // The first byte decides how equal times are ordered, the rest makes ids unique.
                let mut id = id(number);
                id.0[0] = order;
                // Every third one is the claim of a write-only slot.
                let slot = (number % 3 == 0).then_some(SlotId([7; 16]));
                Candidate { id, time: at(steps, seconds), sequence, source, host, tags, slot, good }
            };
            (items.into_iter().enumerate().map(candidate).collect(), at(now.0, now.1))
        },
    )
}

/// A policy that is not empty.
fn wish() -> impl Strategy<Value = Wish> {
    let count = prop_oneof![5 => Just(None), 4 => (0_u32..6).prop_map(Some), 1 => Just(Some(u32::MAX))];
    let amount = || prop_oneof![4 => Just(0_u32), 1 => 1_u32..10];
    let amounts = (prop_oneof![9 => Just(0_u32), 1 => Just(1_u32)], amount(), amount(), amount(), amount());
    let amounts = amounts.prop_filter_map("a span is never zero", |(years, months, weeks, days, hours)| {
        let amounts = [years, months, weeks, days, hours];
        (amounts != [0; 5]).then_some(amounts)
    });
    let span = prop_oneof![4 => Just(None), 1 => amounts.prop_map(Some)];
    let some_tags = tags().prop_filter("a tag list is never empty", |tags| !tags.is_empty());
    let keep_tags = prop_oneof![2 => Just(Vec::new()), 1 => proptest::collection::vec(some_tags, 1..3)];
    let group_by =
        proptest::sample::subsequence(vec![GroupBy::Source, GroupBy::Host, GroupBy::Tags, GroupBy::Slot], 0..=4);
    let zone = proptest::sample::select(&ZONES);
    (proptest::array::uniform6(count), proptest::array::uniform6(span), keep_tags, zone, group_by, any::<bool>())
        .prop_map(|(counts, spans, tags, zone, group_by, allow_empty)| {
            let group_by = group_by.into_iter().collect();
            Wish { counts, spans, tags, zone, group_by, allow_empty }
        })
        .prop_filter("a policy is never empty", |wish| wish.policy().check().is_ok())
}

fn decided(history: &[Candidate], wish: &Wish, now: Timestamp) -> Vec<Group> {
    decide(history, &wish.policy(), now).expect("the policy is valid")
}

fn kept(history: &[Candidate], wish: &Wish, now: Timestamp) -> BTreeSet<SnapshotId> {
    decisions(&decided(history, wish, now)).filter(|decision| decision.keep).map(|decision| decision.id).collect()
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(6000))]

    #[test]
    fn code_and_model_agree((history, now) in history(), wish in wish()) {
        let groups = decided(&history, &wish, now);
        prop_assert_eq!(verdicts(&groups), model(&history, &wish, now));
        for group in &groups {
            let candidate = |d: &Decision| newer_first(history.iter().find(|c| c.id == d.id).expect("a candidate"));
            let order = |pair: &[Decision]| candidate(&pair[0]) < candidate(&pair[1]);
            prop_assert!(group.decisions.windows(2).all(order), "newest first, equal times by sequence and id");
        }
        prop_assert!(decisions(&groups).all(|decision| decision.keep != decision.reasons.is_empty()));
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    /// The order in which a listing names snapshots is no information.
    #[test]
    fn order_of_input_does_not_matter(
        ((history, now), shuffled) in history().prop_flat_map(|(history, now)| {
            let shuffled = Just(history.clone()).prop_shuffle();
            (Just((history, now)), shuffled)
        }),
        wish in wish(),
    ) {
        prop_assert_eq!(decided(&history, &wish, now), decided(&shuffled, &wish, now));
    }

    /// A more generous policy never keeps less: a greater count, a longer span, a rule more. The oldest rule
    /// doesn't break this: a greater count leaves room at least where a smaller one did. The protection of the
    /// newest good snapshot doesn't either, because it doesn't depend on the rules.
    #[test]
    fn more_generous_policies_keep_at_least_as_much(
        (history, now) in history(),
        wish in wish(),
        rule in 0_usize..6,
        unit in 0_usize..5,
        more in prop_oneof![4 => Just(1_u32), 1 => 2_u32..10],
    ) {
        let before = kept(&history, &wish, now);
        let mut greater = wish.clone();
        greater.counts[rule] = Some(wish.counts[rule].unwrap_or(0).saturating_add(more));
        prop_assert!(before.is_subset(&kept(&history, &greater, now)), "{:?}", greater);
        let mut longer = wish.clone();
        longer.spans[rule].get_or_insert([0; 5])[unit] += more;
        prop_assert!(before.is_subset(&kept(&history, &longer, now)), "{:?}", longer);
        let mut tagged = wish;
        tagged.tags.push(set(["a"]));
        prop_assert!(before.is_subset(&kept(&history, &tagged, now)), "{:?}", tagged);
    }

    /// Without leave to empty a group, its newest good snapshot stays, and at least one snapshot does.
    #[test]
    fn the_last_good_snapshot_stays((history, now) in history(), wish in wish()) {
        let wish = Wish { allow_empty: false, ..wish };
        let good: BTreeSet<SnapshotId> = history.iter().filter(|c| c.good).map(|c| c.id).collect();
        for group in decided(&history, &wish, now) {
            prop_assert!(group.decisions.iter().any(|decision| decision.keep));
            let last = group.decisions.iter().find(|decision| decision.time <= now && good.contains(&decision.id));
            prop_assert!(last.is_none_or(|decision| decision.keep));
        }
    }

    /// At the same time now, a second forget finds nothing more to remove. The reasons may grow: a snapshot that a
    /// rule kept for another reason may now be the oldest.
    #[test]
    fn a_second_forget_removes_nothing((history, now) in history(), wish in wish()) {
        let first = kept(&history, &wish, now);
        let left: Vec<Candidate> = history.into_iter().filter(|c| first.contains(&c.id)).collect();
        prop_assert_eq!(first, kept(&left, &wish, now));
    }

    /// Snapshots from the future stay, and the others are judged as if there were none.
    #[test]
    fn the_future_stays_and_changes_nothing((history, now) in history(), wish in wish()) {
        let mut all = verdicts(&decided(&history, &wish, now));
        let (future, past): (Vec<Candidate>, Vec<Candidate>) = history.into_iter().partition(|c| c.time > now);
        for candidate in future {
            prop_assert_eq!(all.remove(&candidate.id), Some(set(["in the future: not judged"])));
        }
        prop_assert_eq!(all, verdicts(&decided(&past, &wish, now)));
    }
}
