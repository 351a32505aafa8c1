//! One history: played by its seed, then judged.
//!
//! The judge comes when all machines have stopped and all late requests have arrived. Every manifest that is listed
//! must give back exactly the bytes of a snapshot that somebody took; every snapshot that a machine was told is
//! taken, and that nobody forgot, must be among them; a check finds no harm; and after the dead sessions
//! are over, a prune by a stranger without a cache changes none of that.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use alluvium::env::{Cancel, Env};
use alluvium::error::{Error, Kind, Result};
use alluvium::format::config::{self, Config};
use alluvium::format::keyslot::SlotKind;
use alluvium::format::limits::CONFIG_BYTES_MAX;
use alluvium::id::SnapshotId;
use alluvium::ops::check::{Subset, check};
use alluvium::ops::prune::{MaxUnused, PruneOptions, prune};
use alluvium::ops::repair::repair_index;
use alluvium::ops::snapshot::{SnapshotOptions, Source, snapshot};
use alluvium::ops::{forget, key};
use alluvium::repo::Repository;
use alluvium::repo::keys::{self, Keys, Proofs};
use alluvium::repo::ring::RawRing;
use alluvium::repo::rules::{Rule, Rules};
use alluvium::repo::snapshots::Snapshot;
use alluvium::repo::writer::{MEMORY_BYTES_MIN, WriteOptions};
use alluvium::report::{Problem, Silent};
use alluvium::storage::Storage;
use alluvium::storage::memory::Memory;
use jiff::Timestamp;

use super::pool::{CHUNKS, Pool, WRITE_ONLY};
use super::stage::{Climate, Machine, Power, Random, Seat, Stage};
use super::thief;
use crate::support::{CHEAP, PASSPHRASE, noise, options, restored};

/// What a history came to.
pub struct Played {
    /// Storage calls of all machines.
    pub calls: u64,
    /// Equal for equal histories.
    pub digest: blake3::Hash,
    /// What was lost, if anything.
    pub loss: Option<String>,
    /// What an operation said that no weather explains.
    pub surprise: Option<String>,
    /// Every call in order, when it was asked for.
    pub script: Vec<String>,
    /// Snapshots that were taken, and prunes that ended well: that histories are not empty.
    pub taken: u64,
    pub pruned: u64,
    pub deleted_packs: u64,
}

impl Played {
    /// The first call that two plays of one seed do not share. What machines remark between their calls has no order.
    pub fn differs(&self, other: &Self) -> Option<(String, String)> {
        let calls = |played: &Self| {
            let calls = played.script.iter().filter(|line| !line.starts_with(' ')).cloned();
            calls.chain([format!("digest {}", played.digest)]).collect::<Vec<_>>()
        };
        calls(self).into_iter().zip(calls(other)).find(|(a, b)| a != b)
    }
}

/// What the machines know together, besides the repository.
#[derive(Default)]
struct Ledger {
    /// Digests of all data that anybody tried to store.
    tried: BTreeSet<[u8; 32]>,
    /// Snapshots that were reported as taken, with their data's digest.
    taken: BTreeMap<SnapshotId, [u8; 32]>,
    /// Snapshots that somebody tried to forget.
    forgotten: BTreeSet<SnapshotId>,
    surprise: Option<String>,
    pruned: u64,
    deleted_packs: u64,
    /// A thief plays along.
    thief: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Writer,
    WriteOnly,
    Keeper,
    Thief,
}

/// The weather of a history: a third is calm, so that nothing but order and death matters there.
fn climate(random: &mut Random) -> Climate {
    let switch = [15, 60, 200, 500][random.below(4) as usize];
    let calm = Climate {
        switch,
        jump: [0, 3, 15][random.below(3) as usize],
        crash: [0, 150, 400][random.below(3) as usize],
        ..Climate::default()
    };
    if random.chance(350) {
        return calm;
    }
    let some = |random: &mut Random, most: u64| if random.chance(500) { 0 } else { random.below(most) };
    Climate {
        fail: some(random, 15),
        answer_lost: some(random, 30),
        late: some(random, 40),
        twice: some(random, 40),
        stale: some(random, 300),
        cut: some(random, 100),
        ..calm
    }
}

/// Plays the history of `seed` by all rules but `without`, and judges it.
pub fn play(seed: u64, without: Option<Rule>, write_down: bool) -> Played {
    let pool = Pool::get();
    let mut random = Random(seed.wrapping_mul(0xA076_1D64_78BD_642F) ^ 0x5EED);
    let climate = climate(&mut random);
    let machines = 2 + random.below(4) as usize;
    // Rules are switched off without him: what they are needed for is what is looked for.
    let has_thief = without.is_none() && thief::has_thief(seed);
    let truth = if has_thief { thief::Scene::get().storage.fork() } else { pool.storage.fork() };
    let honest = machines;
    let machines = honest + usize::from(has_thief);
    let stage = Stage::new(truth.clone(), climate, random.next(), machines, write_down);
    let ledger = Mutex::new(Ledger { thief: has_thief, ..Ledger::default() });
    let rules = without.map_or_else(Rules::default, Rules::all_but);
    let start = stage.clock();
    std::thread::scope(|scope| {
        for machine in 0..machines {
            let role = match machine {
                0 => Role::Keeper,
                1 => Role::Writer,
                _ if machine == honest => Role::Thief,
                _ => [Role::Writer, Role::Keeper, Role::Keeper, Role::WriteOnly][random.below(4) as usize],
            };
            let skew = if random.chance(400) { random.below(20_000) as i64 - 10_000 } else { 0 };
            let power = Power::new(skew, start);
            let player = Player {
                seat: Seat { stage: Arc::clone(&stage), machine, power: Arc::clone(&power) },
                env: Arc::new(Machine::new(random.next(), power)),
                random: Random(random.next()),
                role,
                rules,
                ledger: &ledger,
                repo: None,
            };
            scope.spawn(move || player.play_to_the_end());
        }
    });
    stage.settle();
    let ledger = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
    let loss = judge(&truth, stage.clock(), seed, &ledger).err();
    Played {
        calls: stage.calls(),
        digest: stage.digest(),
        loss,
        surprise: ledger.surprise.clone(),
        script: stage.script(),
        taken: ledger.taken.len() as u64,
        pruned: ledger.pruned,
        deleted_packs: ledger.deleted_packs,
    }
}

/// Repositories whose histories are over. To make one anew, with the tables of its cache, takes a third of a history's time.
static OVER: Mutex<Vec<Repository>> = Mutex::new(Vec::new());
/// Signatures and sealed keys that somebody has verified: half of a history's time without it.
static PROOFS: LazyLock<Arc<Proofs>> = LazyLock::new(Arc::default);

/// An open repository with an empty cache and keys of its own: one of a history that is over, or one that is opened as
/// everybody does.
struct Open {
    repo: Option<Repository>,
}

impl Open {
    fn new(storage: Arc<dyn Storage>, env: Arc<dyn Env>, role: Role, really: bool, thief: bool) -> Result<Self> {
        let passphrase = match role {
            Role::WriteOnly => WRITE_ONLY,
            Role::Thief => thief::STOLEN,
            Role::Writer | Role::Keeper => PASSPHRASE,
        };
        // Without a call of the machine's own, so that a history does not depend on what others left.
        let first = if thief { &thief::Scene::get().storage } else { &Pool::get().storage };
        let over = if really { None } else { OVER.lock().unwrap_or_else(PoisonError::into_inner).pop() };
        let mut repo = if let Some(over) = over {
            // Keys learn of slots and data keys, and what they know needs no call.
            Repository { keys: Arc::new(keys_of(first, passphrase)?), judged: Arc::default(), ..over }
        } else {
            let shown = if really { Arc::clone(&storage) } else { Arc::new(first.clone()) };
            Repository::open(shown, Arc::clone(&env), passphrase, None)?
        };
        repo.cache.invalidate()?;
        repo.cache.retain_manifests(&BTreeSet::new())?;
        (repo.storage, repo.env, repo.rules) = (storage, env, Rules::default());
        Ok(Self { repo: Some(repo) })
    }
}

/// Opens the keys of a repository.
fn keys_of(storage: &Memory, passphrase: &[u8]) -> Result<Keys> {
    let config = Config::decode(&storage.get(config::OBJECT_NAME, CONFIG_BYTES_MAX)?).expect("a config");
    let keys = keys::open(keys::list_slots(storage)?, RawRing::read(storage)?, storage, &config, passphrase)?;
    Ok(keys.sharing(&PROOFS))
}

impl std::ops::Deref for Open {
    type Target = Repository;

    fn deref(&self) -> &Repository {
        self.repo.as_ref().expect("until it is dropped")
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        OVER.lock().unwrap_or_else(PoisonError::into_inner).extend(self.repo.take());
    }
}

/// One machine at work.
struct Player<'l> {
    seat: Seat,
    env: Arc<Machine>,
    random: Random,
    role: Role,
    rules: Rules,
    ledger: &'l Mutex<Ledger>,
    /// Kept between operations with its local cache, as a machine keeps its files.
    repo: Option<Open>,
}

impl Player<'_> {
    /// Plays, and leaves the stage to the others even if it panics.
    fn play_to_the_end(mut self) {
        if std::panic::catch_unwind(AssertUnwindSafe(|| self.play())).is_err() {
            self.ledger().surprise.get_or_insert("a machine panicked".to_owned());
        }
        self.seat.power.on(None);
        self.seat.stage.leave(self.seat.machine);
    }

    fn play(&mut self) {
        let operations = 2 + self.random.below(4);
        for _ in 0..operations {
            let crash = self.seat.stage_climate().crash;
            let off =
                if self.random.chance(crash) { Some((self.random.below(45), self.random.chance(500))) } else { None };
            self.seat.power.on(off);
            self.env.next_operation();
            if self.random.chance(300) {
                // The cache was deleted, or this is another machine under the same name.
                self.repo = None;
            }
            let result = self.operate();
            self.note(&result);
        }
    }

    fn operate(&mut self) -> (String, Result<()>) {
        if self.repo.is_none() {
            let env = Arc::clone(&self.env) as Arc<dyn Env>;
            let really = self.random.chance(150);
            let has_thief = self.ledger().thief;
            match Open::new(Arc::new(self.seat.clone()), env, self.role, really, has_thief) {
                Ok(mut open) => {
                    open.repo.as_mut().expect("just opened").rules = self.rules;
                    self.repo = Some(open);
                }
                Err(e) => return ("open".into(), Err(e)),
            }
        }
        let choice = self.random.below(100);
        match self.role {
            Role::Writer if choice < 75 => ("snapshot".into(), self.snapshot()),
            Role::Writer if choice < 85 => ("restore".into(), self.restore()),
            Role::Writer => ("forget".into(), self.forget()),
            Role::Keeper if choice < 55 => ("prune".into(), self.prune()),
            Role::Keeper if choice < 88 => ("forget".into(), self.forget()),
            Role::Keeper if choice < 91 => ("key".into(), self.key()),
            Role::Keeper if choice < 95 => ("check".into(), self.check()),
            Role::WriteOnly | Role::Keeper => ("snapshot".into(), self.snapshot()),
            Role::Thief => {
                let mut random = Random(self.random.next());
                let (name, result) = thief::attack(self.repo(), &mut random);
                self.seat.stage.remark(|| format!("      attack: {name}"));
                (name.into(), result)
            }
        }
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn repo(&self) -> &Repository {
        self.repo.as_ref().expect("opened before")
    }

    fn snapshot(&mut self) -> Result<()> {
        let pool = Pool::get();
        let picks: Vec<usize> = if self.random.chance(60) {
            // Long enough that its recipe is stored as chunks.
            (0..70 + self.random.below(40)).map(|_| self.random.below(CHUNKS as u64) as usize).collect()
        } else {
            (0..=self.random.below(6)).map(|_| self.random.below(CHUNKS as u64) as usize).collect()
        };
        let mut data = pool.data(&picks);
        if self.random.chance(60) {
            // Several packs, in one index object.
            data.extend(noise(150_000, self.random.below(5)));
        } else if self.random.chance(500) {
            data.extend(self.random.next().to_le_bytes());
        }
        let name = ["a", "b", "c"][self.random.below(3) as usize];
        let digest = *blake3::hash(&data).as_bytes();
        self.ledger().tried.insert(digest);
        let source = Source::Stream { input: Box::new(&data[..]), bytes: None };
        let how = SnapshotOptions { allow_shrink: true, write: write_options(), ..options(name) };
        let taken = snapshot(self.repo(), source, &how, &Silent, &Cancel::new())?;
        self.seat.stage.remark(|| format!("      took {}", taken.id));
        self.ledger().taken.insert(taken.id, digest);
        Ok(())
    }

    fn restore(&mut self) -> Result<()> {
        let (mut snapshots, _) = self.repo().snapshots()?;
        if self.ledger().thief {
            snapshots = thief::honest(snapshots);
        }
        let Some(chosen) = snapshots.get(self.random.below(snapshots.len() as u64) as usize) else { return Ok(()) };
        match restored(self.repo(), chosen) {
            // Forgotten, and perhaps pruned, meanwhile.
            Err(_) if self.ledger().forgotten.contains(&chosen.id) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn forget(&mut self) -> Result<()> {
        let (snapshots, _) = self.repo().snapshots()?;
        let mut ids: Vec<SnapshotId> = snapshots.iter().map(|s| s.id).collect();
        ids.sort();
        let mut remove = Vec::new();
        for _ in 0..=self.random.below(2) {
            if ids.len() > 1 {
                remove.push(ids.swap_remove(self.random.below(ids.len() as u64) as usize));
            }
        }
        self.ledger().forgotten.extend(&remove);
        forget::execute(self.repo(), &remove, &Silent, &Cancel::new())
    }

    fn prune(&mut self) -> Result<()> {
        let plan = prune(self.repo(), &prune_options(), false, &Silent, &Cancel::new())?;
        let mut ledger = self.ledger();
        ledger.pruned += 1;
        ledger.deleted_packs += plan.deleted_packs;
        Ok(())
    }

    fn key(&mut self) -> Result<()> {
        if self.random.chance(300) {
            return key::rotate(self.repo()).map(|_| ());
        }
        let id = key::add(self.repo(), SlotKind::WriteOnly, "", b"another", CHEAP)?;
        if self.random.chance(500) { key::remove(self.repo(), &id.to_string()).map(|_| ()) } else { Ok(()) }
    }

    fn check(&mut self) -> Result<()> {
        let repo = self.repo();
        // In a pool of its own: the machines would wait for each other's threads.
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        alone.install(|| check(repo, None, &Silent, &Cancel::new())).map(|_| ())
    }

    /// In calm weather an operation succeeds, or says that somebody else is in the way.
    fn note(&self, (what, result): &(String, Result<()>)) {
        let Err(error) = result else { return };
        self.seat.stage.remark(|| format!("      {} {what} failed: {}", self.seat.machine, text(error)));
        let allowed = self.role == Role::Thief
            || self.seat.power.is_off()
            || !self.seat.stage_climate().is_calm()
            || matches!(error.kind(), Kind::Busy)
            || error.to_string().contains("lists no snapshot at all")
            // A thief takes the name of the next epoch: only its owner can take that away (`docs/threat-model.md`).
            || self.ledger().thief && error.to_string().contains("has the name of the next key epoch");
        if !allowed {
            self.ledger().surprise.get_or_insert(format!("{what}: {}", text(error)));
        }
    }
}

impl Seat {
    fn stage_climate(&self) -> Climate {
        self.stage.climate()
    }
}

fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    text
}

fn write_options() -> WriteOptions {
    WriteOptions { memory_bytes: MEMORY_BYTES_MIN, ..WriteOptions::default() }
}

fn prune_options() -> PruneOptions {
    PruneOptions {
        max_unused: MaxUnused::Percent(0.0),
        allow_empty: false,
        host: "keeper".to_owned(),
        write: write_options(),
    }
}

/// The judge's own clock, long after everything.
struct Afterwards {
    seed: u64,
    clock: i64,
    draws: AtomicU64,
}

impl Env for Afterwards {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.clock).expect("a time within the calendar")
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        let draw = self.draws.fetch_add(1, Ordering::SeqCst);
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"afterwards").update(&self.seed.to_le_bytes()).update(&draw.to_le_bytes());
        hasher.finalize_xof().fill(bytes);
    }
}

fn judge(truth: &Memory, clock: i64, seed: u64, ledger: &Ledger) -> std::result::Result<(), String> {
    let env = |hours: i64| Arc::new(Afterwards { seed, clock: clock + 3600 * hours, draws: AtomicU64::new(0) });
    let open = |hours| {
        Open::new(Arc::new(truth.clone()), env(hours), Role::Keeper, false, ledger.thief)
            .map_err(|e| format!("open: {}", text(&e)))
    };
    let repo = open(20)?;
    repo.keys.refresh_ring(truth).map_err(|e| format!("open: {}", text(&e)))?;
    let said = |step: &str, e: Error| format!("{step}: {}", text(&e));
    forget_again(&repo, ledger).map_err(|e| said("forget", e))?;
    expect(&repo, ledger, "at the end")?;
    let found = check(&repo, None, &Silent, &Cancel::new()).map_err(|e| said("check", e))?;
    let honest = honest_names(&repo, ledger).map_err(|e| said("snapshots", e))?;
    if let Some(problem) = found.problems.iter().find(|p| p.snapshots.iter().any(|id| honest.contains(id))) {
        return Err(format!("check: {problem:?}"));
    }
    if !found.problems.is_empty() {
        // What a late request left behind harms nobody; repair takes it away, and then everything is clean.
        repair_index(&repo, &Silent, &Cancel::new()).map_err(|e| said("repair", e))?;
    }
    match prune(&repo, &PruneOptions { allow_empty: true, ..prune_options() }, false, &Silent, &Cancel::new()) {
        Ok(plan) if plan.waiting_packs > 0 => return Err(format!("the last prune still waits: {plan:?}")),
        Ok(_) => {}
        Err(e) => return Err(said("the last prune", e)),
    }
    let repo = open(21)?;
    repo.keys.refresh_ring(truth).map_err(|e| said("open", e))?;
    expect(&repo, ledger, "after the last prune")?;
    let found = check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()).map_err(|e| said("check", e))?;
    // What a thief left everywhere harms nobody; nor does a slot that was made while an epoch began without it.
    let is_of_slot = |p: &Problem| p.object.starts_with("slots/") || p.object.starts_with("keys/");
    let may_stay = |p: &Problem| (ledger.thief || is_of_slot(p)) && !p.snapshots.iter().any(|id| honest.contains(id));
    let problems = found.problems.iter().filter(|p| !may_stay(p));
    match problems.collect::<Vec<_>>()[..] {
        [] => Ok(()),
        ref problems => Err(format!("after the last prune: {problems:?}")),
    }
}

/// The snapshots that a problem must not harm: those of honest machines, unreadable ones included.
fn honest_names(repo: &Repository, ledger: &Ledger) -> Result<BTreeSet<String>> {
    let (snapshots, unreadable) = repo.snapshots()?;
    if !ledger.thief {
        let all = snapshots.iter().map(|s| s.id).chain(unreadable.iter().map(|(id, _)| *id));
        return Ok(thief::names(all));
    }
    let readable = thief::honest(snapshots).into_iter().map(|s| s.id);
    Ok(thief::names(readable.chain(ledger.taken.keys().copied())))
}

/// A publication that the network delivers once more when its snapshot was forgotten and pruned brings the manifest back,
/// and nothing else (`docs/protocol.md`). Whoever forgot it forgets it again.
fn forget_again(repo: &Repository, ledger: &Ledger) -> Result<()> {
    let (mut snapshots, _) = repo.snapshots()?;
    if ledger.thief {
        snapshots = thief::honest(snapshots);
    }
    let back = |s: &&Snapshot| ledger.forgotten.contains(&s.id) && restored(repo, s).is_err();
    let ids: Vec<SnapshotId> = snapshots.iter().filter(back).map(|s| s.id).collect();
    forget::execute(repo, &ids, &Silent, &Cancel::new())
}

/// Every listed snapshot restores to what somebody stored; every acknowledged one that nobody forgot is listed.
fn expect(repo: &Repository, ledger: &Ledger, when: &str) -> std::result::Result<(), String> {
    let (mut snapshots, mut unreadable) = repo.snapshots().map_err(|e| format!("{when}: {}", text(&e)))?;
    if ledger.thief {
        snapshots = thief::honest(snapshots);
        unreadable.retain(|(id, _)| ledger.taken.contains_key(id) && !ledger.forgotten.contains(id));
    }
    if let Some((id, error)) = unreadable.first() {
        return Err(format!("{when}: {id}: {}", text(error)));
    }
    let pool = Pool::get();
    let first: BTreeSet<[u8; 32]> = [[0, 1, 2, 3], [2, 3, 4, 5], [6, 7, 8, 9]]
        .iter()
        .map(|picks| *blake3::hash(&pool.data(picks)).as_bytes())
        .collect();
    let mut listed = BTreeSet::new();
    for snapshot in &snapshots {
        listed.insert(snapshot.id);
        let data = restored(repo, snapshot).map_err(|e| format!("{when}: {} is lost: {}", snapshot.id, text(&e)))?;
        let digest = *blake3::hash(&data).as_bytes();
        if ledger.taken.get(&snapshot.id).is_some_and(|d| *d != digest) {
            return Err(format!("{when}: {} gives other bytes", snapshot.id));
        }
        if !ledger.tried.contains(&digest) && !first.contains(&digest) {
            return Err(format!("{when}: {} gives bytes that nobody stored", snapshot.id));
        }
    }
    match ledger.taken.keys().find(|id| !listed.contains(id) && !ledger.forgotten.contains(id)) {
        Some(lost) => Err(format!("{when}: {lost} was reported as taken and is not listed")),
        None => Ok(()),
    }
}
