//! The damage matrix: every object of a repository, changed in every way that media and adversaries change
//! things. Whatever happens, check names the object (or opening refuses), and a restore gives the right
//! bytes or an error: never one wrong byte.
//!
//! What can't be told from a rightful state is listed in [`unnoticeable`], each with its reason.
#![allow(clippy::print_stdout, reason = "a matrix tells how many cases it had")]

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium::env::Cancel;
use alluvium::error::Kind;
use alluvium::format::keyslot::SlotKind;
use alluvium::ops::check::{Subset, check};
use alluvium::ops::key;
use alluvium::repo::session::{Session, Writing};
use alluvium::report::Silent;
use alluvium::storage::Storage;
use alluvium::storage::memory::Memory;
use jiff::SignedDuration;

use crate::support::{CHEAP, World, dump, forget_ids, init, noise, open, pruned, restored, take};

/// The ways to change an object's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    /// One bit at one of these many places, evenly spread, both ends included.
    Flip(usize),
    /// Cut to half, to nothing, by one byte.
    TruncateHalf,
    TruncateAll,
    TruncateOne,
    /// Bytes behind the end.
    Extend,
    Delete,
    /// The bytes of another object of the same kind.
    SwapSame,
    /// The bytes of an object of another kind.
    SwapOther,
    /// The bytes of the object of this kind of another repository.
    Replay,
}

const FLIPS: usize = 24;

fn changes() -> Vec<Change> {
    use Change::{Delete, Extend, Flip, Replay, SwapOther, SwapSame, TruncateAll, TruncateHalf, TruncateOne};
    let others = [TruncateHalf, TruncateAll, TruncateOne, Extend, Delete, SwapSame, SwapOther, Replay];
    (0..FLIPS).map(Flip).chain(others).collect()
}

/// The first component of an object's name; heartbeats are a kind of their own.
fn kind(name: &str) -> &str {
    if alluvium::format::coordination::is_beat(name) { "beat" } else { name.split('/').next().unwrap_or(name) }
}

/// A repository that holds an object of every kind.
fn every_kind(seed: u64) -> (Memory, Arc<World>, BTreeMap<String, Vec<u8>>) {
    let (storage, world) = (Memory::new(), World::new(seed));
    let repo = init(storage.clone(), &world);
    key::add(&repo, SlotKind::WriteOnly, "host", b"write", CHEAP).expect("key add");
    for day in 0..3 {
        world.pass(SignedDuration::from_hours(24));
        take(&repo, "shop", &dump(900, day)).expect("take");
    }
    // Of the oldest day others need what they differ from; of this nobody needs anything.
    let (snapshots, _) = repo.snapshots().expect("snapshots");
    let gone = take(&repo, "gone", &noise(20_000, seed)).expect("take");
    forget_ids(&repo, &[snapshots[2].id, gone.id]).expect("forget");
    assert!(pruned(&repo).expect("prune").deleted_packs > 0);
    take(&repo, "wiki", &dump(700, 5)).expect("take");
    let mut data = BTreeMap::new();
    for snapshot in repo.snapshots().expect("snapshots").0 {
        data.insert(snapshot.id.to_string(), restored(&repo, &snapshot).expect("restore"));
    }
    // A writer at work: its objects stay, as after a crash.
    std::mem::forget(
        Session::begin(Box::leak(Box::new(repo)), &Writing { host: "h".into(), purpose: "snapshot".into() }, &Silent)
            .expect("begin"),
    );
    (storage, world, data)
}

/// Changes `name` in `storage`; `false` when the change would change nothing or has no material.
fn apply(storage: &Memory, foreign: &Memory, name: &str, change: Change) -> bool {
    let before = storage.get(name, u64::MAX).expect("get");
    let of_kind = |from: &Memory, same: bool| {
        let mut names = from.names();
        names.retain(|n| (kind(n) == kind(name)) == same && n != name);
        names.first().map(|n| from.get(n, u64::MAX).expect("get"))
    };
    let after = match change {
        Change::Delete => {
            storage.delete(name).expect("delete");
            return true;
        }
        Change::Flip(place) => {
            let mut bytes = before.clone();
            let at = place * (bytes.len() - 1) / (FLIPS - 1);
            bytes[at] ^= 1 << (place % 8);
            Some(bytes)
        }
        Change::TruncateHalf => Some(before[..before.len() / 2].to_vec()),
        Change::TruncateAll => Some(Vec::new()),
        Change::TruncateOne => Some(before[..before.len() - 1].to_vec()),
        Change::Extend => Some([&before[..], b"more"].concat()),
        Change::SwapSame => of_kind(storage, true),
        Change::SwapOther => of_kind(storage, false),
        Change::Replay => foreign.get(name, u64::MAX).ok().or_else(|| of_kind(foreign, true)),
    };
    match after {
        Some(after) if after != before => {
            storage.tamper(name, |bytes| *bytes = after).expect("tamper");
            true
        }
        _ => false,
    }
}

/// Damage that no program without a memory of its own can tell from a rightful state.
fn unnoticeable(name: &str, change: Change) -> Option<&'static str> {
    match (kind(name), change) {
        ("snapshots", Change::Delete) => Some("a forgotten snapshot looks the same"),
        ("keys", Change::Delete) => Some("a removed slot looks the same, while another opens"),
        ("sessions" | "beat", Change::Delete) => Some("an ended session looks the same"),
        ("prune", Change::Delete) => Some("a repository before its last prune looks the same"),
        _ => None,
    }
}

#[test]
fn every_object_damaged_in_every_way() {
    let (base, world, data) = every_kind(11);
    let (foreign, _, _) = every_kind(12);
    let mut tried: BTreeMap<(String, &str), usize> = BTreeMap::new();
    for name in base.names() {
        for change in changes() {
            let storage = base.fork();
            if !apply(&storage, &foreign, &name, change) {
                continue;
            }
            let context = format!("{name}, {change:?}");
            let outcome = judge(&storage, &world, &data, &name, &context);
            if outcome == "unnoticed" {
                assert!(unnoticeable(&name, change).is_some(), "{context}: nobody noticed");
            }
            *tried.entry((kind(&name).to_owned(), outcome)).or_default() += 1;
        }
    }
    let kinds: Vec<&str> =
        ["beat", "config", "epochs", "index", "keys", "packs", "prune", "sessions", "slots", "snapshots"].to_vec();
    for kind in kinds {
        assert!(tried.keys().any(|(k, _)| k == kind), "the matrix has no {kind}");
    }
    for ((kind, outcome), n) in &tried {
        println!("damage matrix: {kind:9} {n:4} times {outcome}");
    }
    println!("damage matrix: {} cases", tried.values().sum::<usize>());
}

/// Opens, checks, restores. Returns how the damage came to light.
fn judge(
    storage: &Memory,
    world: &Arc<World>,
    data: &BTreeMap<String, Vec<u8>>,
    name: &str,
    context: &str,
) -> &'static str {
    let repo = match open(storage.clone(), world) {
        Ok(repo) => repo,
        Err(e) => {
            let named = matches!(e.kind(), Kind::NoRepository | Kind::WrongKey) || format!("{e:?}").contains(name);
            assert!(named, "{context}: {e:?} does not name the object");
            assert!(matches!(e.kind(), Kind::NoRepository | Kind::WrongKey | Kind::Damaged), "{context}: {e:?}");
            return "refused at opening";
        }
    };
    // Restores first, on a repository that no check has looked at.
    if let Ok((snapshots, _)) = repo.snapshots() {
        for snapshot in snapshots {
            match restored(&repo, &snapshot) {
                Ok(bytes) => assert_eq!(
                    Some(&bytes),
                    data.get(&snapshot.id.to_string()),
                    "{context}: wrong bytes from {}",
                    snapshot.id
                ),
                Err(e) => assert_eq!(e.kind(), Kind::Damaged, "{context}: {e:?}"),
            }
        }
    }
    let found = match check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()) {
        Ok(found) => found,
        Err(e) => panic!("{context}: check gave up: {e:?}"),
    };
    if found.problems.is_empty() {
        return "unnoticed";
    }
    // Nothing knows the name of an index object that is gone; the packs that it listed are known.
    let gone = kind(name) == "index" && found.problems.iter().any(|p| p.what.contains("an index object is missing"));
    // Nor has a certificate that is gone an object of its own; the slot that lacks it names it.
    let lacks = |what: &str| kind(name) == "slots" && what.contains(name);
    assert!(
        gone || found.problems.iter().any(|p| p.object == name || lacks(&p.what)),
        "{context}: no problem names it: {:?}",
        found.problems
    );
    "found by check"
}

/// What check sets aside is stored again by the next snapshot of the same data, and the old snapshots are whole again.
#[test]
fn the_next_snapshot_heals() {
    let mut healed = 0;
    for change in [Change::Flip(3), Change::Flip(11), Change::TruncateHalf, Change::Delete] {
        let (storage, world) = (Memory::new(), World::new(21));
        let repo = init(storage.clone(), &world);
        let data = noise(250_000, 1);
        take(&repo, "shop", &data).expect("take");
        let packs: Vec<String> = storage.names().into_iter().filter(|n| n.starts_with("packs/")).collect();
        for pack in &packs {
            assert!(apply(&storage, &storage, pack, change));
            let problems = || check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check").problems;
            let found = problems();
            assert!(found.iter().any(|p| p.object == *pack), "{change:?} {pack}: {found:?}");
            assert!(
                found.iter().any(|p| !p.snapshots.is_empty()),
                "{change:?}: the harmed snapshots are named: {found:?}"
            );
            world.pass(SignedDuration::from_hours(24));
            take(&repo, "shop", &data).expect("take again");
            let (snapshots, _) = repo.snapshots().expect("snapshots");
            for snapshot in &snapshots {
                assert_eq!(restored(&repo, snapshot).unwrap_or_else(|e| panic!("{change:?} {pack}: {e}")), data);
            }
            healed += 1;
        }
    }
    println!("healed: {healed} damaged packs");
    assert!(healed >= 8);
}
