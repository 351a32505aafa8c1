//! Whose turn it is, and what happens to a call.
//!
//! A machine's call waits until the stage gives it the turn, then it is carried out, or not, or later, and the
//! turn goes on. What a machine computes between two calls runs beside the others and changes nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use alluvium::env::Env;
use alluvium::error::{Error, Kind, Result};
use alluvium::storage::memory::Memory;
use alluvium::storage::{Listed, Storage};
use jiff::Timestamp;

/// The generator of a history: `SplitMix64` (Steele, Lea, Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `n - 1`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

/// What a history may meet, each in calls out of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Climate {
    /// The turn goes to another machine.
    pub switch: u64,
    /// A call fails and is not carried out.
    pub fail: u64,
    /// A write is carried out and reported as failed.
    pub answer_lost: u64,
    /// A write is reported as failed and carried out later.
    pub late: u64,
    /// A write is carried out, and once more later.
    pub twice: u64,
    /// A listing is that of a while ago.
    pub stale: u64,
    /// A listing ends early.
    pub cut: u64,
    /// The clocks jump by hours.
    pub jump: u64,
    /// An operation's machine goes off at some call; out of a thousand operations.
    pub crash: u64,
}

impl Climate {
    /// Nothing fails: only the order of things varies, machines stop, and clocks are wrong.
    pub fn is_calm(&self) -> bool {
        self.fail + self.answer_lost + self.late + self.twice + self.stale + self.cut == 0
    }
}

/// Calls after which a late request arrives at the latest.
const LATE_CALLS: u64 = 60;
/// Changes that a stale listing may lack.
const STALE_CHANGES: u64 = 12;

#[derive(Clone, Debug)]
enum Write {
    New(String, Vec<u8>),
    Replace(String, Vec<u8>),
    Delete(String),
}

impl Write {
    fn name(&self) -> &str {
        match self {
            Self::New(name, _) | Self::Replace(name, _) | Self::Delete(name) => name,
        }
    }
}

struct State {
    random: Random,
    current: usize,
    playing: Vec<bool>,
    calls: u64,
    clock: i64,
    /// What each change replaced, newest last: for stale listings. `true`: the name existed before.
    changes: Vec<(String, Option<u64>)>,
    late: Vec<(u64, Write)>,
    digest: blake3::Hasher,
    script: Option<Vec<String>>,
}

/// The stage of one history.
pub struct Stage {
    truth: Memory,
    climate: Climate,
    state: Mutex<State>,
    turns: Vec<Condvar>,
}

impl Stage {
    pub fn new(truth: Memory, climate: Climate, seed: u64, machines: usize, write_down: bool) -> Arc<Self> {
        let state = State {
            random: Random(seed),
            current: 0,
            playing: vec![true; machines],
            calls: 0,
            clock: 1_790_000_000,
            changes: Vec::new(),
            late: Vec::new(),
            digest: blake3::Hasher::new(),
            script: write_down.then(Vec::new),
        };
        Arc::new(Self {
            truth,
            climate,
            state: Mutex::new(state),
            turns: (0..machines).map(|_| Condvar::new()).collect(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, machine: usize) -> MutexGuard<'_, State> {
        let mut state = self.state();
        while state.current != machine {
            state = self.turns[machine].wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Gives the turn on: to `machine` itself mostly, as long as it plays.
    fn pass(&self, state: &mut State, machine: usize) {
        let playing: Vec<usize> = (0..state.playing.len()).filter(|m| state.playing[*m]).collect();
        if playing.is_empty() || (state.playing[machine] && !state.random.chance(self.climate.switch)) {
            return;
        }
        state.current = playing[state.random.below(playing.len() as u64) as usize];
        self.turns[state.current].notify_all();
    }

    /// A machine has played its part.
    pub fn leave(&self, machine: usize) {
        let mut state = self.turn(machine);
        state.playing[machine] = false;
        self.pass(&mut state, machine);
    }

    /// What is still under way arrives.
    pub fn settle(&self) {
        let mut state = self.state();
        let late = std::mem::take(&mut state.late);
        for (_, write) in late {
            let _ = self.carry_out(&mut state, &write);
        }
    }

    pub fn climate(&self) -> Climate {
        self.climate
    }

    pub fn clock(&self) -> i64 {
        self.state().clock
    }

    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// A digest of all calls and their outcomes: equal for equal histories.
    pub fn digest(&self) -> blake3::Hash {
        self.state().digest.finalize()
    }

    /// Every call, when it was to be written down.
    pub fn script(&self) -> Vec<String> {
        self.state().script.clone().unwrap_or_default()
    }

    /// A remark of a machine between its calls.
    pub fn remark(&self, text: impl FnOnce() -> String) {
        if let Some(script) = &mut self.state().script {
            script.push(text());
        }
    }

    fn carry_out(&self, state: &mut State, write: &Write) -> Result<()> {
        let before = self.truth.stat(write.name())?;
        let result = match write {
            Write::New(name, bytes) => self.truth.put_new(name, bytes),
            Write::Replace(name, bytes) => self.truth.put_replace(name, bytes),
            Write::Delete(name) => self.truth.delete(name),
        };
        if result.is_ok() {
            state.changes.push((write.name().to_owned(), before));
        }
        result
    }

    fn arrivals(&self, state: &mut State) {
        let now = state.calls;
        let (due, waiting) = std::mem::take(&mut state.late).into_iter().partition(|(at, _)| *at <= now);
        state.late = waiting;
        let due: Vec<(u64, Write)> = due;
        for (_, write) in due {
            if let Some(script) = &mut state.script {
                script.push(format!("      late: {}", write.name()));
            }
            let _ = self.carry_out(state, &write);
        }
    }

    /// A listing as it was some changes ago.
    fn listing_before(&self, state: &State, prefix: &str, changes: u64) -> Result<Vec<Listed>> {
        let mut objects: BTreeMap<String, u64> =
            self.truth.list(prefix)?.into_iter().map(|object| (object.name, object.size)).collect();
        for (name, before) in state.changes.iter().rev().take(changes as usize) {
            if name.starts_with(prefix) {
                match before {
                    Some(size) => objects.insert(name.clone(), *size),
                    None => objects.remove(name),
                };
            }
        }
        Ok(objects.into_iter().map(|(name, size)| Listed { name, size, modified: None }).collect())
    }
}

/// A machine's power, and its clock.
pub struct Power {
    off: AtomicBool,
    /// Calls until it goes off; negative: never.
    calls_left: AtomicI64,
    /// It goes off after the call rather than before.
    after: AtomicBool,
    /// Seconds that its clock is wrong by.
    skew: i64,
    seen: AtomicI64,
}

impl Power {
    pub fn new(skew: i64, clock: i64) -> Arc<Self> {
        Arc::new(Self {
            off: AtomicBool::new(false),
            calls_left: AtomicI64::new(-1),
            after: AtomicBool::new(false),
            skew,
            seen: AtomicI64::new(clock + skew),
        })
    }

    /// On again; off after `calls` more calls, if any.
    pub fn on(&self, calls: Option<(u64, bool)>) {
        self.calls_left.store(calls.map_or(-1, |(n, _)| n as i64), Ordering::SeqCst);
        self.after.store(calls.is_some_and(|(_, after)| after), Ordering::SeqCst);
        self.off.store(false, Ordering::SeqCst);
    }

    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }

    /// The time by this machine's clock, as of its last call.
    pub fn clock(&self) -> i64 {
        self.seen.load(Ordering::SeqCst)
    }
}

/// Entropy and clock of one machine.
///
/// Draws are numbered by their length: ids of 16 bytes are drawn by one thread at a time, while nonces, which
/// change nothing but ciphertext, are drawn by several. Every operation counts anew, since how far ahead of a
/// failed call its threads had drawn is up to the threads.
pub struct Machine {
    seed: u64,
    power: Arc<Power>,
    operation: AtomicU64,
    draws: [AtomicU64; 64],
}

impl Machine {
    pub fn new(seed: u64, power: Arc<Power>) -> Self {
        Self { seed, power, operation: AtomicU64::new(0), draws: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    pub fn next_operation(&self) {
        self.operation.fetch_add(1, Ordering::SeqCst);
        for draws in &self.draws {
            draws.store(0, Ordering::SeqCst);
        }
    }
}

impl Env for Machine {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.power.clock()).expect("a time within the calendar")
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        let kind = bytes.len().min(63);
        let draw = self.draws[kind].fetch_add(1, Ordering::SeqCst);
        let mut hasher = blake3::Hasher::new();
        for number in [self.seed, self.operation.load(Ordering::SeqCst), kind as u64, draw] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.finalize_xof().fill(bytes);
    }
}

/// The store as one machine sees it.
#[derive(Clone)]
pub struct Seat {
    pub stage: Arc<Stage>,
    pub machine: usize,
    pub power: Arc<Power>,
}

fn lost(name: &str) -> Error {
    Error::new(Kind::Storage, format!("{name}: no answer (simulated)"))
}

impl Seat {
    /// One call: waits for the turn, and passes it on.
    fn call<T>(&self, what: &str, name: &str, run: impl FnOnce(&Stage, &mut State) -> Result<T>) -> Result<T> {
        if self.power.is_off() {
            return Err(lost(name));
        }
        let mut state = self.stage.turn(self.machine);
        if self.power.is_off() {
            return Err(lost(name));
        }
        state.calls += 1;
        state.clock += state.random.below(20) as i64;
        if state.random.chance(self.stage.climate.jump) {
            state.clock += 3600 * (1 + state.random.below(30) as i64);
        }
        self.power.seen.store(state.clock + self.power.skew, Ordering::SeqCst);
        self.stage.arrivals(&mut state);
        let left = self.power.calls_left.fetch_sub(1, Ordering::SeqCst);
        let goes_off = left == 0;
        if left < 0 {
            self.power.calls_left.store(-1, Ordering::SeqCst);
        }
        let never = goes_off && !self.power.after.load(Ordering::SeqCst);
        let result = if never || state.random.chance(self.stage.climate.fail) {
            Err(lost(name))
        } else {
            run(&self.stage, &mut state)
        };
        let result = if goes_off { Err(lost(name)) } else { result };
        if goes_off {
            self.power.off.store(true, Ordering::SeqCst);
        }
        let outcome = result.as_ref().map_or_else(|e| format!("{:?}", e.kind()), |_| "ok".to_owned());
        let line = format!("{} {what} {name}: {outcome}{}", self.machine, if goes_off { ", goes off" } else { "" });
        state.digest.update(line.as_bytes());
        if let Some(script) = &mut state.script {
            script.push(line);
        }
        self.stage.pass(&mut state, self.machine);
        result
    }

    fn write(&self, what: &str, write: Write) -> Result<()> {
        let name = write.name().to_owned();
        self.call(what, &name, |stage, state| {
            let climate = stage.climate;
            let later = |state: &mut State| state.calls + 1 + state.random.below(LATE_CALLS);
            if state.random.chance(climate.late) {
                let at = later(state);
                state.late.push((at, write));
                return Err(lost(&name));
            }
            let result = stage.carry_out(state, &write);
            if result.is_ok() && state.random.chance(climate.twice) {
                let at = later(state);
                state.late.push((at, write));
            }
            if state.random.chance(climate.answer_lost) { Err(lost(&name)) } else { result }
        })
    }
}

impl Storage for Seat {
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write("put_new", Write::New(name.to_owned(), bytes.to_vec()))
    }

    fn put_replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write("put_replace", Write::Replace(name.to_owned(), bytes.to_vec()))
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        self.call("get", name, |stage, _| stage.truth.get(name, bytes_max))
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.call("get_range", name, |stage, _| stage.truth.get_range(name, offset, len))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.call("list", prefix, |stage, state| {
            let behind =
                if state.random.chance(stage.climate.stale) { 1 + state.random.below(STALE_CHANGES) } else { 0 };
            let mut listed = stage.listing_before(state, prefix, behind)?;
            if state.random.chance(stage.climate.cut) && !listed.is_empty() {
                let n = state.random.below(listed.len() as u64) as usize;
                listed.truncate(n);
            }
            Ok(listed)
        })
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        self.call("stat", name, |stage, _| stage.truth.stat(name))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.write("delete", Write::Delete(name.to_owned()))
    }

    fn location(&self) -> String {
        "simulated".to_owned()
    }

    fn in_order(&self) -> bool {
        true
    }

    /// One at a time: calls of one machine keep their order.
    fn transfers(&self) -> usize {
        1
    }
}
