//! A store that fails on request: the test double behind crash matrix, damage matrix and simulation.
//!
//! [`Fault`] wraps any store, records every call in order, and obeys rules: *when* a call looks like
//! this, *that* happens ([`Effect`]). The number of a call is its place in the record, so a crash
//! matrix runs once without rules, takes [`Fault::operations`], and then dies at each of them.
//! All rules that match apply; wrapping twice also works (one machine's faults over the medium's).
//!
//! Power loss as the contract of [`Storage::put_new`] allows it: the put in flight is absent
//! ([`Effect::Die`]) or whole ([`Effect::DieAfter`]), everything before it is there, and a part of
//! an object is impossible. [`Effect::Volatile`] models the disk that breaks the contract, which
//! says durable and forgets ([`Fault::power_loss`]).

use std::fmt;
use std::sync::{Arc, Mutex};

use super::{Listed, Storage};
use crate::env::lock;
use crate::error::{Error, Kind, Result};

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Storage::put_new`]
    PutNew,
    /// [`Storage::put_replace`]
    PutReplace,
    /// [`Storage::get`]
    Get,
    /// [`Storage::get_range`]
    GetRange,
    /// [`Storage::list`]
    List,
    /// [`Storage::stat`]
    Stat,
    /// [`Storage::delete`]
    Delete,
}

impl Operation {
    /// True for the operations that change the store.
    pub fn is_write(self) -> bool {
        matches!(self, Self::PutNew | Self::PutReplace | Self::Delete)
    }
}

/// One recorded call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number, from 0.
    pub index: usize,
    /// What it does.
    pub operation: Operation,
    /// The object's name, or the prefix of a listing.
    pub name: String,
    /// Payload in bytes: what a put brings or a read got; 0 until a read is done.
    pub bytes: usize,
    /// It was carried out and reported as done.
    pub ok: bool,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {} ({:?} {})", self.index, self.operation, self.name)
    }
}

/// Changes the bytes that a read returns.
pub type Change = Box<dyn Fn(&mut Vec<u8>) + Send + Sync>;

/// What happens to a call.
pub enum Effect {
    /// An error; nothing is done.
    Fail,
    /// It is done, and an error is reported all the same: the answer got lost.
    FailAfter,
    /// The machine goes off: this call is lost, and it and every later one fail.
    Die,
    /// The machine goes off just after: this call is done, and it and every later one fail.
    DieAfter,
    /// The store holds at most so many bytes: a put that would not fit fails.
    Full(u64),
    /// A read returns changed bytes.
    Damage(Change),
    /// A listing misses the objects put by the last so many operations.
    Stale(usize),
    /// A listing returns only the first so many of its objects, without an error.
    Cut(usize),
    /// A write is reported as done, but [`Fault::power_loss`] takes it back.
    Volatile,
}

/// Matches the call with number `index`.
pub fn at(index: usize) -> impl Fn(&Call) -> bool + Send + Sync {
    move |call| call.index == index
}

/// Matches every call from number `index` on; `from(0)` is always.
pub fn from(index: usize) -> impl Fn(&Call) -> bool + Send + Sync {
    move |call| call.index >= index
}

/// Matches one operation on the objects whose name begins with `prefix`.
pub fn on(operation: Operation, prefix: &str) -> impl Fn(&Call) -> bool + Send + Sync + use<> {
    let prefix = prefix.to_owned();
    move |call| call.operation == operation && call.name.starts_with(&prefix)
}

struct Rule {
    condition: Box<dyn Fn(&Call) -> bool + Send + Sync>,
    effect: Effect,
}

/// How to take back one write: the object's name, and its bytes before.
type Undo = (String, Option<Vec<u8>>);

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    rules: Vec<Arc<Rule>>,
    is_off: bool,
    volatile: Vec<Undo>,
    transfers: Option<usize>,
}

struct Shared<S> {
    inner: S,
    state: Mutex<State>,
}

/// A store with faults; clones share record, rules and store.
pub struct Fault<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for Fault<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S> fmt::Debug for Fault<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.shared.state);
        f.debug_struct("Fault").field("operations", &state.calls.len()).field("off", &state.is_off).finish()
    }
}

impl<S: Storage> Fault<S> {
    /// Wraps `inner`, without rules.
    pub fn new(inner: S) -> Self {
        Self { shared: Arc::new(Shared { inner, state: Mutex::default() }) }
    }

    /// Adds a rule: calls that meet `condition` suffer `effect`, until [`heal`](Self::heal).
    pub fn when(&self, condition: impl Fn(&Call) -> bool + Send + Sync + 'static, effect: Effect) {
        lock(&self.shared.state).rules.push(Arc::new(Rule { condition: Box::new(condition), effect }));
    }

    /// From now on so many requests at a time are said to pay, as over a network.
    pub fn set_transfers(&self, transfers: usize) {
        lock(&self.shared.state).transfers = Some(transfers);
    }

    /// Drops all rules and switches the machine on again; the record goes on.
    pub fn heal(&self) {
        let mut state = lock(&self.shared.state);
        state.rules.clear();
        state.is_off = false;
    }

    /// How many calls reached the store (those after its death did not).
    pub fn operations(&self) -> usize {
        lock(&self.shared.state).calls.len()
    }

    /// The calls so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared.state).calls.clone()
    }

    /// True once a rule switched the machine off.
    pub fn is_off(&self) -> bool {
        lock(&self.shared.state).is_off
    }

    /// The store below, without faults: what a survivor finds.
    pub fn inner(&self) -> &S {
        &self.shared.inner
    }

    /// Switches the machine off and takes back every write that was [`Effect::Volatile`], the latest
    /// first.
    ///
    /// # Errors
    /// Those of the store below.
    pub fn power_loss(&self) -> Result<()> {
        let volatile = {
            let mut state = lock(&self.shared.state);
            state.is_off = true;
            std::mem::take(&mut state.volatile)
        };
        volatile.into_iter().rev().try_for_each(|(name, before)| match before {
            Some(bytes) => self.inner().put_replace(&name, &bytes),
            None => self.inner().delete(&name),
        })
    }

    /// The one hook: records the call, and lets the rules that match decide over it.
    fn call<T>(
        &self,
        operation: Operation,
        name: &str,
        bytes: usize,
        run: impl FnOnce(&S) -> Result<T>,
    ) -> Result<(T, Turn)> {
        let turn = self.begin(operation, name, bytes)?;
        self.refuse(&turn)?;
        let is_volatile = operation.is_write() && turn.effects().any(|effect| matches!(effect, Effect::Volatile));
        let before = if is_volatile { before(self.inner(), name)? } else { None };
        let done = run(self.inner())?;
        let mut state = lock(&self.shared.state);
        if is_volatile {
            state.volatile.push((name.to_owned(), before));
        }
        for effect in turn.effects() {
            match effect {
                Effect::FailAfter => return Err(injected(&turn.call, "was done, but its answer is lost")),
                Effect::DieAfter => return Err(machine_off(&turn.call)),
                _ => {}
            }
        }
        state.calls[turn.call.index].ok = true;
        Ok((done, turn))
    }

    /// Numbers and records the call. A death is seen by all other threads from here on.
    fn begin(&self, operation: Operation, name: &str, bytes: usize) -> Result<Turn> {
        let mut state = lock(&self.shared.state);
        let call = Call { index: state.calls.len(), operation, name: name.to_owned(), bytes, ok: false };
        if state.is_off {
            return Err(machine_off(&call));
        }
        state.calls.push(call.clone());
        let rules: Vec<_> = state.rules.iter().filter(|rule| (rule.condition)(&call)).cloned().collect();
        state.is_off = rules.iter().any(|rule| matches!(rule.effect, Effect::Die | Effect::DieAfter));
        Ok(Turn { call, rules })
    }

    /// The effects that keep a call from being carried out.
    fn refuse(&self, turn: &Turn) -> Result<()> {
        let is_put = matches!(turn.call.operation, Operation::PutNew | Operation::PutReplace);
        for effect in turn.effects() {
            match effect {
                Effect::Fail => return Err(injected(&turn.call, "fails")),
                Effect::Die => return Err(machine_off(&turn.call)),
                Effect::Full(bytes_max) if is_put => {
                    let stored: u64 = self.inner().list("")?.iter().map(|object| object.size).sum();
                    if stored + turn.call.bytes as u64 > *bytes_max {
                        let cause = std::io::Error::from(std::io::ErrorKind::StorageFull);
                        return Err(Error::storage(format!("injected: no space for {}", turn.call), cause));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Records what a read got, and damages it where a rule says so.
    fn received(&self, turn: &Turn, mut bytes: Vec<u8>) -> Vec<u8> {
        lock(&self.shared.state).calls[turn.call.index].bytes = bytes.len();
        for effect in turn.effects() {
            if let Effect::Damage(change) = effect {
                change(&mut bytes);
            }
        }
        bytes
    }

    /// The objects put by the `operations` calls before number `index`.
    fn put_lately(&self, index: usize, operations: usize) -> Vec<String> {
        lock(&self.shared.state).calls[index.saturating_sub(operations)..index]
            .iter()
            .filter(|call| call.operation == Operation::PutNew && call.ok)
            .map(|call| call.name.clone())
            .collect()
    }
}

impl<S: Storage> Storage for Fault<S> {
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.call(Operation::PutNew, name, bytes.len(), |inner| inner.put_new(name, bytes)).map(drop)
    }

    fn put_replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.call(Operation::PutReplace, name, bytes.len(), |inner| inner.put_replace(name, bytes)).map(drop)
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        let (bytes, turn) = self.call(Operation::Get, name, 0, |inner| inner.get(name, bytes_max))?;
        Ok(self.received(&turn, bytes))
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        let (bytes, turn) = self.call(Operation::GetRange, name, 0, |inner| inner.get_range(name, offset, len))?;
        Ok(self.received(&turn, bytes))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let (mut listed, turn) = self.call(Operation::List, prefix, 0, |inner| inner.list(prefix))?;
        for effect in turn.effects() {
            match effect {
                Effect::Stale(operations) => {
                    let unseen = self.put_lately(turn.call.index, *operations);
                    listed.retain(|object| !unseen.contains(&object.name));
                }
                Effect::Cut(objects) => listed.truncate(*objects),
                _ => {}
            }
        }
        Ok(listed)
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        self.call(Operation::Stat, name, 0, |inner| inner.stat(name)).map(|(size, _)| size)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.call(Operation::Delete, name, 0, |inner| inner.delete(name)).map(drop)
    }

    fn location(&self) -> String {
        self.inner().location()
    }

    fn look(&self) -> Result<()> {
        self.inner().look()
    }

    fn identity(&self) -> String {
        self.inner().identity()
    }

    fn transfers(&self) -> usize {
        let told = lock(&self.shared.state).transfers;
        told.unwrap_or_else(|| self.inner().transfers())
    }

    fn exclusive(&self) -> bool {
        self.inner().exclusive()
    }

    fn set_single_writer(&self) {
        self.inner().set_single_writer();
    }
}

/// A call on its way, with the rules that it met.
struct Turn {
    call: Call,
    rules: Vec<Arc<Rule>>,
}

impl Turn {
    fn effects(&self) -> impl Iterator<Item = &Effect> {
        self.rules.iter().map(|rule| &rule.effect)
    }
}

fn before(inner: &impl Storage, name: &str) -> Result<Option<Vec<u8>>> {
    match inner.get(name, u64::MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn machine_off(call: &Call) -> Error {
    Error::new(Kind::Storage, format!("the machine is off: {call}"))
}

fn injected(call: &Call, what: &str) -> Error {
    Error::new(Kind::Storage, format!("injected: {call} {what}"))
}
