//! `check --merge-results`: the results of a check's shards become one, and are one only when they are all of it.
//!
//! Each shard says which part of which repository it looked at and how many packs there are in all. When all parts
//! are there, of one repository and done alike, and their packs are as many as there are, nothing was left out and
//! nothing was looked at twice.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::report::Problem;

use super::check::{Checked, Subset};

/// The whole check.
#[derive(Debug, Serialize)]
pub struct Merged {
    /// As if one had checked all of it.
    #[serde(flatten)]
    pub checked: Checked,
    /// How many shards there were.
    pub shards: u32,
    /// When the last of them began; the first is the check's own beginning.
    pub last_started: Timestamp,
    /// What changed between the shards: not wrong, and good to know.
    pub notes: Vec<String>,
}

/// Joins results, each with a name for messages.
///
/// # Errors
/// `Failed` when a shard is missing, there twice, of another repository or another place, or has read other data than the others; when
/// the packs looked at are not all there are; `Usage` without any result.
pub fn merge(results: &[(String, Checked)]) -> Result<Merged> {
    let (first_name, first) = results.first().ok_or_else(|| Error::new(Kind::Usage, "there is no result to merge"))?;
    let mut parts: BTreeMap<u32, &str> = BTreeMap::new();
    let shards = first.shard.map_or(1, |shard| shard.of);
    for (name, result) in results {
        let Subset { part, of } = result.shard.unwrap_or(Subset::ALL);
        let differs = |what: &str| Err(refused(&format!("{name} is of another {what} than {first_name}")));
        if result.repository != first.repository {
            return differs("repository");
        }
        if result.location != first.location {
            return Err(refused(&format!("{name} is of {}, {first_name} is of {}", result.location, first.location)));
        }
        if of != shards {
            return differs("number of shards");
        }
        if result.data != first.data {
            return Err(refused(&format!("{name} has read other data than {first_name}")));
        }
        if let Some(other) = parts.insert(part, name) {
            return Err(refused(&format!("{name} and {other} are both part {part} of {of}")));
        }
    }
    let missing: Vec<String> = (1..=shards).filter(|part| !parts.contains_key(part)).map(|p| p.to_string()).collect();
    if !missing.is_empty() {
        return Err(refused(&format!("of {shards} parts these are missing: {}", missing.join(", "))));
    }
    let mut notes = Vec::new();
    let distinct = |figure: fn(&Checked) -> u64| results.iter().map(|(_, r)| figure(r)).collect::<BTreeSet<_>>();
    let sum = |figure: fn(&Checked) -> u64| results.iter().map(|(_, r)| figure(r)).sum::<u64>();
    let most = |figure: fn(&Checked) -> u64| results.iter().map(|(_, r)| figure(r)).max().unwrap_or(0);
    if distinct(|r| r.generation).len() > 1 {
        notes.push("a prune or another check ran between the shards".to_owned());
    }
    if distinct(|r| r.snapshots).len() > 1 {
        notes.push("snapshots came or went between the shards".to_owned());
    }
    let packs = sum(|r| r.packs);
    if distinct(|r| r.packs_total).len() > 1 {
        notes.push("packs came or went between the shards: each looked at its part of what it found".to_owned());
    } else if packs != first.packs_total {
        return Err(refused(&format!("the shards looked at {packs} packs, there are {}", first.packs_total)));
    }
    let started = || results.iter().map(|(_, r)| r.started);
    let checked = Checked {
        repository: first.repository,
        location: first.location.clone(),
        started: started().min().unwrap_or(first.started),
        shard: None,
        data: first.data,
        generation: most(|r| r.generation),
        snapshots: most(|r| r.snapshots),
        packs_total: most(|r| r.packs_total),
        packs,
        blobs_read: sum(|r| r.blobs_read),
        garbage_packs: sum(|r| r.garbage_packs),
        set_aside: sum(|r| r.set_aside),
        problems: problems(results),
    };
    Ok(Merged { checked, shards, last_started: started().max().unwrap_or(first.started), notes })
}

/// Every problem once, with all the snapshots that any shard says it harms.
fn problems(results: &[(String, Checked)]) -> Vec<Problem> {
    let mut by_name: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for problem in results.iter().flat_map(|(_, r)| &r.problems) {
        let harmed = by_name.entry((&problem.object, &problem.what)).or_default();
        harmed.extend(problem.snapshots.iter().map(String::as_str));
    }
    by_name.into_iter().map(|((object, what), harmed)| Problem::new(object, what).harming(harmed)).collect()
}

fn refused(why: &str) -> Error {
    Error::new(Kind::Failed, format!("these results are not one check: {why}"))
        .hint("give the results of all parts: `alluvium --json check --shard K/N` for each K from 1 to N")
}
