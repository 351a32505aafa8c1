//! A check in parts: disjoint, complete, and as good as one check. And the example that spreads it.

use alluvium::cli::args::{Arguments, Command};
use alluvium::env::Cancel;
use alluvium::error::Kind;
use alluvium::ops::check::{CheckOptions, Checked, Subset, check, check_with};
use alluvium::ops::merge::merge;
use alluvium::repo::Repository;
use alluvium::report::Silent;
use alluvium::storage::Storage;
use alluvium::storage::memory::Memory;
use clap::Parser;

use crate::support::{World, init, noise, open, take};

fn shard(repo: &Repository, part: u32, of: u32) -> Checked {
    let options = CheckOptions { read: Some(Subset::ALL), shard: Some(Subset { part, of }) };
    check_with(repo, options, &Silent, &Cancel::new()).expect("check")
}

fn named(results: &[Checked]) -> Vec<(String, Checked)> {
    results.iter().enumerate().map(|(i, r)| (format!("{i}.json"), r.clone())).collect()
}

fn scene(seed: u64) -> (Memory, std::sync::Arc<World>) {
    let (storage, world) = (Memory::new(), World::new(seed));
    let repo = init(storage.clone(), &world);
    for n in 0..6 {
        take(&repo, "shop", &noise(200_000, n)).expect("take");
    }
    (storage, world)
}

#[test]
fn shards_together_are_one_check() {
    let (storage, world) = scene(1);
    let whole = check(&open(storage.clone(), &world).expect("open"), Some(Subset::ALL), &Silent, &Cancel::new());
    let whole = whole.expect("check");
    assert_eq!((whole.packs, whole.shard), (whole.packs_total, None));
    for of in [1, 3, 7, 40] {
        let results: Vec<Checked> =
            (1..=of).rev().map(|part| shard(&open(storage.clone(), &world).expect("open"), part, of)).collect();
        let merged = merge(&named(&results)).expect("all of it");
        assert_eq!((&merged.checked, merged.shards), (&whole, of));
        assert!(merged.notes.is_empty());
    }
}

#[test]
fn damage_is_found_by_one_shard_and_set_aside_by_all() {
    let (storage, world) = scene(2);
    let packs: Vec<String> = storage.names().into_iter().filter(|n| n.starts_with("packs/")).collect();
    for pack in &packs[..5] {
        storage.tamper(pack, |bytes| bytes[3000] ^= 1).expect("tamper");
    }
    storage.delete(&packs[6]).expect("delete");
    let untouched = storage.fork();
    let whole = check(&open(untouched.clone(), &world).expect("open"), Some(Subset::ALL), &Silent, &Cancel::new());
    let whole = whole.expect("check");
    assert!(whole.problems.len() >= 5, "{whole:?}");
    // All at once: each publishes what it found on top of what the others did.
    let results: Vec<Checked> = std::thread::scope(|scope| {
        let one = |part| {
            let repo = open(storage.clone(), &world).expect("open");
            scope.spawn(move || shard(&repo, part, 4))
        };
        let running: Vec<_> = (1..=4).map(one).collect();
        running.into_iter().map(|r| r.join().expect("a shard")).collect()
    });
    let merged = merge(&named(&results)).expect("all of it");
    let objects = |checked: &Checked| {
        let mut objects: Vec<_> = checked.problems.iter().map(|p| p.object.clone()).collect();
        objects.sort();
        objects.dedup();
        objects
    };
    assert_eq!(objects(&merged.checked), objects(&whole));
    let repo = open(storage, &world).expect("open");
    let (_, state) = repo.newest_generation().expect("generation");
    let (_, expected) = open(untouched, &world).expect("open").newest_generation().expect("generation");
    let mut aside: Vec<_> = state.distrusted.iter().map(|d| (d.pack, d.blobs.clone())).collect();
    let mut wanted: Vec<_> = expected.distrusted.iter().map(|d| (d.pack, d.blobs.clone())).collect();
    aside.sort();
    wanted.sort();
    assert_eq!(aside, wanted);
}

#[test]
fn what_is_no_whole_check_is_refused() {
    let (storage, world) = scene(3);
    let repo = open(storage.clone(), &world).expect("open");
    let all: Vec<Checked> = (1..=3).map(|part| shard(&repo, part, 3)).collect();
    let refused = |results: &[Checked], why: &str| {
        let error = merge(&named(results)).expect_err("refused");
        assert!(error.kind() == Kind::Failed && error.to_string().contains(why), "{error}");
    };
    assert_eq!(merge(&[]).expect_err("nothing").kind(), Kind::Usage);
    refused(&all[..2], "missing: 3");
    refused(&[all[0].clone(), all[1].clone(), all[1].clone()], "both part 2");
    refused(&[all[0].clone(), all[1].clone(), shard(&repo, 3, 4)], "number of shards");
    let mut foreign = all.clone();
    foreign[2].repository = init(Memory::new(), &World::new(4)).id;
    refused(&foreign, "repository");
    let mut unread = all.clone();
    unread[2].data = None;
    refused(&unread, "other data");
    let mut short = all.clone();
    short[2].packs -= 1;
    refused(&short, "packs, there are");
    // A snapshot in between is no mistake, and is told.
    let mut later = all;
    later[2].packs_total += 1;
    later[2].snapshots += 1;
    assert_eq!(merge(&named(&later)).expect("merged").notes.len(), 2);
}

/// The example's command lines are understood, and its parts are all of it.
#[test]
fn the_kubernetes_example_runs_all_shards() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/kubernetes-check.yaml");
    let text = std::fs::read_to_string(path).expect("the example");
    let completions: u32 = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("completions: "))
        .and_then(|n| n.parse().ok())
        .expect("completions");
    let commands: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with("alluvium ")).collect();
    let parse = |line: &str, index: u32| {
        let line = line.replace("$((JOB_COMPLETION_INDEX + 1))", &(index + 1).to_string()).replace('"', "");
        let words = line.split_whitespace().take_while(|word| *word != ">").map(str::to_owned).collect::<Vec<_>>();
        Arguments::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}")).command
    };
    let Command::Check(merging) = parse(commands[1], 0) else { panic!("{commands:?}") };
    assert!(!merging.merge_results.is_empty() && commands.len() == 2);
    for index in 0..completions {
        let Command::Check(arguments) = parse(commands[0], index) else { panic!("{commands:?}") };
        assert_eq!(arguments.shard, Some(Subset { part: index + 1, of: completions }));
        assert!(arguments.read_data);
    }
}
