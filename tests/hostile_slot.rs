//! What must hold after each attack of a hostile write-only slot ([`crate::thief`]), alone and all together.
//!
//! A repository with snapshots of a full slot and of an honest write-only slot; then the attack; then
//! everything that honest people do. What is bounded is the number of storage calls, never time.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use alluvium::env::Cancel;
use alluvium::error::{Error, Result};
use alluvium::format::keyslot::SlotKind;
use alluvium::id::SnapshotId;
use alluvium::ops::check::{Checked, Subset, check};
use alluvium::ops::forget::{self, Filter};
use alluvium::ops::retention::{Count, Policy};
use alluvium::ops::sync::{SyncOptions, sync};
use alluvium::ops::{key, repair, stats};
use alluvium::repo::Repository;
use alluvium::report::Silent;
use alluvium::storage::fault::{Effect, Fault, Operation, from};
use alluvium::storage::memory::Memory;
use jiff::SignedDuration;

use crate::support::{
    Before, CHEAP, PASSPHRASE, World, dump, forget_ids, init, noise, open, open_with, pruned, restored, take,
};
use crate::thief::{ATTACKS, Lies, Thief};

/// The passphrase of the honest write-only slot.
const HONEST: &[u8] = b"honest and write-only";
/// The passphrase that was stolen.
const STOLEN: &[u8] = b"stolen and write-only";
/// Storage calls of one operation on the repository of a scene. Without an attack none makes 400; the largest attack
/// names 3,000 packs, each of which may have to be looked up.
const CALLS_MAX: usize = 25_000;
/// The same after all attacks: they leave 9,000 objects, since there are sessions and fences for all of those packs.
const CALLS_AFTER_ALL_MAX: usize = 40_000;

/// A repository and what honest people have stored in it.
struct Scene {
    storage: Memory,
    world: Arc<World>,
    honest: BTreeMap<SnapshotId, Vec<u8>>,
    day: usize,
    calls_max: usize,
    failures: Vec<String>,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let (world, storage) = (World::new(seed), Memory::new());
        let repo = init(storage.clone(), &world);
        for (label, passphrase) in [("honest", HONEST), ("thief", STOLEN)] {
            key::add(&repo, SlotKind::WriteOnly, label, passphrase, CHEAP).expect("key add");
        }
        let mut scene =
            Self { storage, world, honest: BTreeMap::new(), day: 0, calls_max: CALLS_MAX, failures: Vec::new() };
        let mut gone = Vec::new();
        for _ in 0..3 {
            gone.extend(scene.snapshots("before", ""));
        }
        assert_eq!(scene.failures, [""; 0]);
        // Packs of which some chunks are needed no more.
        forget_ids(&repo, &gone[..1]).expect("forget");
        scene.honest.remove(&gone[0]);
        scene
    }

    fn fork(&self) -> Self {
        let Self { world, honest, day, calls_max, .. } = self;
        let (world, honest, storage) = (Arc::clone(world), honest.clone(), self.storage.fork());
        Self { storage, world, honest, day: *day, calls_max: *calls_max, failures: Vec::new() }
    }

    /// Runs an operation on a machine without a cache. What fails is noted, as is one that does not end.
    fn run<T>(&mut self, what: &str, passphrase: &[u8], work: impl FnOnce(&Repository) -> Result<T>) -> Option<T> {
        let fault = Fault::new(self.storage.clone());
        fault.when(from(self.calls_max), Effect::Die);
        let opened = || open_with(fault.clone(), &self.world, passphrase).and_then(|repo| work(&repo));
        let failure = match catch_unwind(AssertUnwindSafe(opened)) {
            Ok(Ok(done)) if !fault.is_off() => return Some(done),
            _ if fault.is_off() => {
                let mut by: BTreeMap<String, usize> = BTreeMap::new();
                for call in fault.calls() {
                    let folder = call.name.split('/').next().unwrap_or_default();
                    *by.entry(format!("{:?} {folder}", call.operation)).or_default() += 1;
                }
                format!("makes more than {} storage calls: {by:?}", self.calls_max)
            }
            Ok(result) => result.err().map_or_else(String::new, |error| text(&error)),
            Err(_) => "panics".to_owned(),
        };
        self.failures.push(format!("{what}: {failure}"));
        None
    }

    /// A snapshot of the full slot and one of the write-only slot, of data that changes a little every day.
    fn snapshots(&mut self, when: &str, name: &str) -> Vec<SnapshotId> {
        self.world.pass(SignedDuration::from_hours(24));
        self.day += 1;
        let mut ids = Vec::new();
        for (passphrase, source) in [(PASSPHRASE, "shop"), (HONEST, "mail")] {
            let mut data = dump(700, self.day);
            data.extend(noise(3000, if source == "shop" { 1 } else { 2 }));
            let taken = self.run(&format!("{when}: snapshot of {source}"), passphrase, |repo| {
                take(repo, &format!("{source}{name}"), &data)
            });
            if let Some(taken) = taken {
                self.honest.insert(taken.id, data);
                ids.push(taken.id);
            }
        }
        ids
    }

    /// Every honest snapshot gives back its bytes.
    fn restores(&mut self, when: &str) {
        let honest = self.honest.clone();
        self.run(&format!("{when}: restore"), PASSPHRASE, |repo| {
            let mut lost = Vec::new();
            for (id, data) in &honest {
                match repo.snapshot(*id).and_then(|snapshot| restored(repo, &snapshot)) {
                    Ok(bytes) if bytes == *data => {}
                    Ok(_) => lost.push("other bytes".to_owned()),
                    Err(e) => lost.push(text(&e)),
                }
            }
            match lost.first() {
                None => Ok(()),
                Some(first) => Err(Error::damaged(format!("{} of {} snapshots", lost.len(), honest.len()), first)),
            }
        });
    }

    fn check(&mut self, when: &str) -> Option<Checked> {
        let found = self.run(&format!("{when}: check"), PASSPHRASE, |repo| {
            check(repo, Some(Subset::ALL), &Silent, &Cancel::new())
        })?;
        let is_honest = |id: &String| self.honest.keys().any(|honest| honest.to_string() == *id);
        let harmed = found.problems.iter().find(|problem| problem.snapshots.iter().any(is_honest));
        if let Some(problem) = harmed {
            self.failures.push(format!("{when}: check says that honest snapshots are harmed: {problem:?}"));
        }
        Some(found)
    }

    /// The thief acts; returns what a check must report.
    fn suffer(&mut self, attack: impl FnOnce(&Thief<'_>) -> Result<Lies>) -> Lies {
        let repo = open_with(self.storage.clone(), &self.world, STOLEN).expect("open");
        let before: BTreeSet<String> = self.storage.names().into_iter().collect();
        let lies = attack(&Thief::new(&repo)).expect("the attack");
        let after: BTreeSet<String> = self.storage.names().into_iter().collect();
        assert!(before.is_subset(&after), "he deletes nothing");
        self.world.pass(SignedDuration::from_mins(1));
        lies
    }

    /// Everything that must hold after an attack.
    fn withstand(&mut self, lies: &Lies) {
        self.restores("at once");
        self.forgets("at once");
        self.snapshots("at once", "");
        self.restores("after new snapshots");
        if let Some(found) = self.check("at once") {
            let names = |name: &String| found.problems.iter().any(|p| p.object == *name || p.snapshots.contains(name));
            let silent: Vec<&String> = lies.iter().filter(|lie| !lie.iter().any(names)).map(|lie| &lie[0]).collect();
            if let Some(first) = silent.first() {
                let what = format!("check: does not report {} of {} lies, for one {first}", silent.len(), lies.len());
                self.failures.push(what);
            }
        }
        self.run("stats", PASSPHRASE, |repo| stats::stats(repo, &Silent));
        self.run("stats --sources", PASSPHRASE, |repo| stats::savings(repo, true, &Silent, &Cancel::new()));
        self.syncs();
        self.repairs();
        self.forgets("after new snapshots");
        for when in ["after a prune", "after another prune"] {
            self.world.pass(SignedDuration::from_hours(30));
            self.run(&format!("{when}: prune"), PASSPHRASE, pruned);
            self.restores(when);
            self.snapshots(when, "");
            self.restores(when);
            self.check(when);
        }
    }

    /// Every honest snapshot is copied to another repository.
    fn syncs(&mut self) {
        let (owner, dest) = (open(self.storage.clone(), &self.world).expect("open"), Memory::new());
        owner.init_like(&dest, PASSPHRASE, "dest", None, CHEAP).expect("init");
        let dest = open(dest, &self.world).expect("open");
        let honest: BTreeSet<SnapshotId> = self.honest.keys().copied().collect();
        self.run("sync", PASSPHRASE, |repo| {
            let options = SyncOptions { host: "host".into(), ..SyncOptions::default() };
            let synced = sync(repo, &dest, &options, &Silent, &Cancel::new())?;
            let copied: BTreeSet<SnapshotId> = synced.copied.iter().map(|copy| copy.original.snapshot).collect();
            match honest.difference(&copied).count() {
                0 => Ok(()),
                n => Err(Error::damaged(format!("{n} honest snapshots"), "are not copied")),
            }
        });
    }

    /// A repair of the index costs no honest pack.
    fn repairs(&mut self) {
        let mut fork = self.fork();
        fork.run("repair index", PASSPHRASE, |repo| repair::repair_index(repo, &Silent, &Cancel::new()));
        fork.restores("after repair index");
        fork.snapshots("after repair index", "");
        fork.run("after repair index: prune", PASSPHRASE, pruned);
        fork.restores("after repair index and prune");
        self.failures.append(&mut fork.failures);
    }

    /// No rule keeps what the thief says in place of the newest honest snapshot of a series.
    fn forgets(&mut self, when: &str) {
        let mut fork = self.fork();
        let newest: Vec<SnapshotId> = fork
            .run("snapshots", PASSPHRASE, |repo| {
                let (snapshots, _) = repo.snapshots()?;
                let mut newest = BTreeMap::new();
                for snapshot in snapshots.into_iter().filter(|s| self.honest.contains_key(&s.id)) {
                    newest.entry(snapshot.manifest.source.clone()).or_insert(snapshot.id);
                }
                Ok(newest.into_values().collect())
            })
            .unwrap_or_default();
        let policy = Policy { keep_last: Some(Count::N(1)), ..Policy::default() };
        let plan =
            fork.run(&format!("{when}: forget"), PASSPHRASE, |repo| forget::plan(repo, &Filter::default(), &policy));
        if let Some(plan) = plan
            && newest.iter().any(|id| plan.remove.contains(id))
        {
            fork.failures.push(format!("{when}: forget: removes the newest honest snapshot of a series"));
        }
        self.failures.append(&mut fork.failures);
    }

    fn conclude(self, what: &str) {
        let failures: BTreeSet<String> = self.failures.into_iter().collect();
        let all = failures.into_iter().collect::<Vec<_>>().join("\n  ");
        assert!(all.is_empty(), "{what}:\n  {all}");
    }
}

fn text(error: &Error) -> String {
    let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
    format!("{error}{cause}")
}

/// The attack of this name, alone.
fn alone(name: &str) {
    let (_, attack) = ATTACKS.iter().find(|(known, _)| *known == name).expect("an attack of this name");
    let mut scene = Scene::new(name.len() as u64);
    let lies = scene.suffer(attack);
    scene.withstand(&lies);
    scene.conclude(name);
}

macro_rules! attacks {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            alone($name);
        })*

        #[test]
        fn every_attack_has_its_test() {
            let tested: BTreeSet<&str> = BTreeSet::from([$($name),*]);
            assert_eq!(tested, ATTACKS.iter().map(|(name, _)| *name).collect());
        }
    };
}

attacks! {
    index_objects_with_fewer_entries: "index objects with fewer entries",
    index_objects_with_entries_in_another_order: "index objects with entries in another order",
    index_objects_with_other_sizes: "index objects with other sizes",
    index_objects_with_other_authors: "index objects with other authors",
    index_objects_with_other_sessions_and_data_keys: "index objects with other sessions and data keys",
    an_index_object_in_the_name_of_a_full_slot: "an index object in the name of a full slot",
    index_objects_with_packs_that_do_not_exist: "index objects with packs that do not exist",
    index_objects_with_data_keys_that_do_not_open: "index objects with data keys that do not open",
    a_huge_index_object: "a huge index object",
    packs_of_garbage_backdated: "packs of garbage, backdated",
    packs_of_garbage_postdated: "packs of garbage, postdated",
    packs_in_the_name_of_a_full_slot: "packs in the name of a full slot",
    generations: "generations",
    certificates_epochs_and_key_slots: "certificates, epochs and key slots",
    garbage_everywhere: "garbage everywhere",
    fences: "fences",
    sessions_of_the_future: "sessions of the future",
    heartbeats_of_others: "heartbeats of others",
    a_manifest_of_missing_chunks: "a manifest of missing chunks",
    a_recipe_bomb: "a recipe bomb",
    a_part_list_bomb: "a part list bomb",
    a_recipe_bomb_without_a_chunk: "a recipe bomb without a chunk",
    a_part_list_bomb_without_a_part: "a part list bomb without a part",
    a_lattice_of_deltas: "a lattice of deltas",
    the_highest_sequence: "the highest sequence",
    the_highest_sequence_but_one: "the highest sequence but one",
    times_far_away: "times far away",
    series_of_others: "series of others",
    a_manifest_that_is_not_what_its_header_says: "a manifest that is not what its header says",
    a_short_list_of_an_own_pack: "a short list of an own pack",
    a_needed_pack_without_a_trailer: "a needed pack without a trailer",
    a_needed_pack_that_is_not_listed: "a needed pack that is not listed",
    garbage_that_wrote_a_pack: "garbage that wrote a pack",
    garbage_that_is_a_predecessor: "garbage that is a predecessor",
    claims_that_stay: "claims that stay",
}

#[test]
fn nothing_fails_without_an_attack() {
    let mut scene = Scene::new(1);
    scene.withstand(&Lies::new());
    scene.conclude("no attack");
}

#[test]
fn all_attacks_together() {
    let mut scene = Scene { calls_max: CALLS_AFTER_ALL_MAX, ..Scene::new(2) };
    let mut lies = Lies::new();
    for (_, attack) in ATTACKS {
        lies.extend(scene.suffer(attack));
    }
    scene.withstand(&lies);
    scene.conclude("all attacks");
}

/// Restores go on, and a repair removes what does not count.
#[test]
fn a_flood_of_generations() {
    let mut scene = Scene::new(3);
    scene.suffer(|thief| thief.flood_of_generations().map(|()| Lies::new()));
    scene.restores("at once");
    scene.run("repair index", PASSPHRASE, |repo| repair::repair_index(repo, &Silent, &Cancel::new()));
    scene.snapshots("after the repair", "");
    scene.run("prune", PASSPHRASE, pruned);
    scene.restores("after the repair");
    scene.conclude("a flood of generations");
}

/// While an honest session is at work the thief takes its name, and beats in its place.
#[test]
fn attacks_on_a_session_at_work() {
    for (passphrase, seed) in [(PASSPHRASE, 4), (HONEST, 5)] {
        for (operation, prefix) in
            [(Operation::List, "index/"), (Operation::PutNew, "packs/"), (Operation::PutNew, "snapshots/")]
        {
            for name in ["fences", "heartbeats of others", "index objects with packs that do not exist"] {
                let (_, attack) = ATTACKS.iter().find(|(known, _)| *known == name).expect("an attack of this name");
                let mut scene = Scene::new(seed);
                let repo = open_with(scene.storage.clone(), &scene.world, STOLEN).expect("open");
                let work = move |_: &str| drop(attack(&Thief::new(&repo)).expect("the attack"));
                let before = Before::new(&scene.storage, operation, prefix, work);
                let (data, world) = (dump(700, 9), Arc::clone(&scene.world));
                let taken = open_with(before, &world, passphrase).and_then(|repo| take(&repo, "shop", &data));
                let taken = taken.unwrap_or_else(|e| panic!("{name} before {operation:?} {prefix}: {}", text(&e)));
                scene.honest.insert(taken.id, data);
                scene.run("prune", PASSPHRASE, pruned);
                scene.restores("after a prune");
                scene.conclude(&format!("{name} before {operation:?} {prefix}"));
            }
        }
    }
}

/// A session that gives no sign of life has ended an hour after the storage wrote its last one, whatever it says.
#[test]
fn sessions_of_the_future_do_not_keep_packs_for_ever() {
    let mut scene = Scene::new(6);
    let repo = open(scene.storage.clone(), &scene.world).expect("open");
    let gone = take(&repo, "gone", &noise(100_000, 6)).expect("take");
    forget_ids(&repo, &[gone.id]).expect("forget");
    let plan = scene.fork().run("prune", PASSPHRASE, pruned).expect("without an attack");
    assert!(plan.deleted_packs > 0, "there is something to delete: {plan:?}");
    #[expect(clippy::redundant_closure_for_method_calls, reason = "the method is not general enough in its lifetime")]
    scene.suffer(|thief| thief.sessions_of_the_future());
    scene.world.pass(SignedDuration::from_hours(24));
    if let Some(plan) = scene.run("prune", PASSPHRASE, pruned) {
        assert!(plan.deleted_packs > 0 && plan.waiting_packs == 0, "{plan:?}");
    }
    scene.restores("after a prune");
    scene.conclude("sessions of the future");
}
