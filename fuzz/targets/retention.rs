//! Retention: spans and counts as people write them, and the decision on any history under any policy.
#![no_main]

use std::collections::BTreeSet;

use alluvium::id::{SlotId, SnapshotId};
use alluvium::ops::retention::{Candidate, Count, Group, GroupBy, Policy, Span, decide};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = text.parse::<Count>();
        if let Ok(span) = text.parse::<Span>() {
            assert_eq!(span.to_string().parse::<Span>().ok(), Some(span), "a span's own text means this span");
        }
    }
    let _ = judge(&mut Unstructured::new(input));
});

fn judge(u: &mut Unstructured<'_>) -> Result<()> {
    let policy = policy(u)?;
    let now = time(u)?;
    let mut history = Vec::new();
    while !u.is_empty() && history.len() < 64 {
        history.push(candidate(u, history.len())?);
    }
    let Ok(groups) = decide(&history, &policy, now) else { return Ok(()) };
    let decisions = || groups.iter().flat_map(|group| &group.decisions);
    let judged: BTreeSet<SnapshotId> = decisions().map(|decision| decision.id).collect();
    assert!(judged.len() == history.len() && decisions().count() == history.len(), "each is judged, and once");
    for decision in decisions() {
        assert_eq!(decision.keep, !decision.reasons.is_empty(), "what stays says why");
        assert!(decision.keep || decision.time <= now, "the future is left alone");
    }
    let kept = |groups: &[Group]| -> BTreeSet<SnapshotId> {
        groups.iter().flat_map(|group| &group.decisions).filter(|d| d.keep).map(|d| d.id).collect()
    };
    if !policy.allow_empty {
        assert!(groups.iter().all(|group| group.decisions.iter().any(|d| d.keep)), "no group is emptied");
    }
    // Forgetting is done once it is done: what stayed stays.
    let stayed = kept(&groups);
    history.retain(|candidate| stayed.contains(&candidate.id));
    assert_eq!(kept(&decide(&history, &policy, now).expect("the same policy")), stayed, "a second forget removes more");
    Ok(())
}

fn policy(u: &mut Unstructured<'_>) -> Result<Policy> {
    let zones = ["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"];
    let zone = TimeZone::get(u.choose(&zones)?).unwrap_or(TimeZone::UTC);
    let group_by = [GroupBy::Source, GroupBy::Host, GroupBy::Tags, GroupBy::Slot];
    let by: u8 = u.arbitrary()?;
    Ok(Policy {
        keep_last: count(u)?,
        keep_hourly: count(u)?,
        keep_daily: count(u)?,
        keep_weekly: count(u)?,
        keep_monthly: count(u)?,
        keep_yearly: count(u)?,
        keep_within: span(u)?,
        keep_within_hourly: span(u)?,
        keep_within_daily: span(u)?,
        keep_within_weekly: span(u)?,
        keep_within_monthly: span(u)?,
        keep_within_yearly: span(u)?,
        keep_tag: if u.arbitrary()? { vec![tags(u)?] } else { Vec::new() },
        timezone: zone,
        group_by: group_by.into_iter().enumerate().filter(|(i, _)| by >> i & 1 == 1).map(|(_, by)| by).collect(),
        allow_empty: u.arbitrary()?,
    })
}

fn count(u: &mut Unstructured<'_>) -> Result<Option<Count>> {
    Ok(match u.arbitrary::<u8>()? {
        0..128 => None,
        255 => Some(Count::Unlimited),
        254 => Some(Count::N(u32::MAX)),
        n => Some(Count::N(u32::from(n) % 8)),
    })
}

fn span(u: &mut Unstructured<'_>) -> Result<Option<Span>> {
    let amount = match u.arbitrary::<u8>()? {
        0..160 => return Ok(None),
        255 => u.arbitrary::<u32>()?,
        n => u32::from(n) % 40,
    };
    let unit = u.choose(&["y", "m", "w", "d", "h"])?;
    Ok(format!("{amount}{unit}").parse().ok())
}

fn tags(u: &mut Unstructured<'_>) -> Result<BTreeSet<String>> {
    let which: u8 = u.arbitrary()?;
    Ok(["daily", "keep", "x"]
        .iter()
        .enumerate()
        .filter(|(i, _)| which >> i & 1 == 1)
        .map(|(_, tag)| (*tag).to_owned())
        .collect())
}

/// Mostly within some months, so that snapshots share buckets; now and then anywhere in the calendar.
fn time(u: &mut Unstructured<'_>) -> Result<Timestamp> {
    let seconds = if u.arbitrary::<u8>()? == 0 {
        u.int_in_range(Timestamp::MIN.as_second()..=Timestamp::MAX.as_second())?
    } else {
        1_760_000_000 + i64::from(u.arbitrary::<u16>()?) * 1801
    };
    Ok(Timestamp::from_second(seconds).unwrap_or_default())
}

fn candidate(u: &mut Unstructured<'_>, number: usize) -> Result<Candidate> {
    Ok(Candidate {
        id: SnapshotId((number as u128).to_be_bytes()),
        time: time(u)?,
        sequence: number as u64,
        source: (*u.choose(&["app", "shop"])?).to_owned(),
        host: (*u.choose(&["db1", "db2"])?).to_owned(),
        tags: tags(u)?,
        slot: u.arbitrary::<bool>()?.then_some(SlotId([7; 16])),
        good: u.arbitrary()?,
    })
}
