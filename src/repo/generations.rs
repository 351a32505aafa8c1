//! Generations: the newest that counts is found, and the next is published (rule I4).
//!
//! Anybody who may create objects can create one under `prune/`. So a generation counts when the
//! authority of a key epoch signed it, and the newest is the one with the highest epoch, then the
//! highest number. What does not count is skipped and reported, and stops nobody: a **forged** one
//! opens and is not signed; a **damaged** one does not open. An object holds its order twice, so that
//! a bad sector does not damage it. Only a machine that has seen a generation count refuses to go on
//! without it.
//!
//! A listing may be old. So numbers above the highest that it shows are asked for by name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::error::{Error, Kind, Result};
use crate::format::ObjectKind;
use crate::format::coordination::{
    Distrusted, GENERATION_MAX, GENERATION_PREFIX, Generation, generation_name, generation_of,
};
use crate::format::limits::GENERATION_BYTES_MAX;
use crate::format::signed::Order;
use crate::id::{PackId, SlotId};

use super::parallel::both;
use super::{Repository, refuse_unreadable};

/// Every generation whose number is a multiple of this stays for ever.
const MILESTONE: u64 = 64;
/// Objects that do not count, and that are skipped before somebody has to clear them away.
const VOID_MAX: usize = 1024;
/// Bytes of a generation that damaged copies in packs of write-only and distrusted slots take at most. These slots can
/// store and list as much garbage as they like, and a generation without room stops key changes and forgets.
const CLAIMED_BYTES_MAX: usize = 2 << 20;
/// Bytes of an entry for a damaged pack without its blobs, and of a blob in it, as JSON.
const DISTRUSTED_BYTES: usize = 56;
const DISTRUSTED_BLOB_BYTES: usize = 67;
/// The unit in which disks lose data, in bytes.
const BLOCK_LEN: usize = 4096;

fn next_milestone(number: u64) -> u64 {
    (number / MILESTONE + 1) * MILESTONE
}

/// What stands under a generation's name.
enum Standing {
    Nothing,
    /// One that counts, with the epoch that signed it.
    Valid(u32, Generation),
    Void(Error),
}

/// The newest generation, and what was skipped to find it.
#[derive(Debug)]
pub struct Found {
    /// The number of the newest that counts; 0 when there is none.
    pub number: u64,
    /// Its state; or why it can't be read, when this machine has seen it count.
    pub state: Result<Generation>,
    /// The state of the newest that can be read, of whatever number; with `state` readable, the same.
    pub readable: Generation,
    /// The epoch that signed it; 0 when there is none.
    pub epoch: u32,
    /// Objects that do not count, with higher numbers.
    pub void: Vec<(u64, Error)>,
    /// One of them is damaged: if it counted, what it condemned is not known.
    pub is_damaged: bool,
}

impl Repository {
    /// The newest generation and its number; 0 and nothing when there was never a prune.
    ///
    /// # Errors
    /// `Damaged`, `Storage`.
    pub fn newest_generation(&self) -> Result<(u64, Generation)> {
        let (number, state) = self.probe_generation()?;
        Ok((number, state?))
    }

    /// As [`newest_generation`](Self::newest_generation), but one that this machine has seen and that
    /// can't be read now keeps its number.
    ///
    /// # Errors
    /// `Storage`.
    pub fn probe_generation(&self) -> Result<(u64, Result<Generation>)> {
        let found = self.find_generation()?;
        Ok((found.number, found.state))
    }

    /// Finds the newest generation that counts. Of a flood of objects that do not count the state is
    /// an error.
    ///
    /// # Errors
    /// `Storage`.
    pub fn find_generation(&self) -> Result<Found> {
        self.find_generation_behind(VOID_MAX)
    }

    /// As [`find_generation`](Self::find_generation), however many objects do not count: for repair,
    /// which removes them.
    ///
    /// # Errors
    /// `Storage`.
    pub fn find_generation_in_flood(&self) -> Result<Found> {
        self.find_generation_behind(usize::MAX)
    }

    fn find_generation_behind(&self, void_max: usize) -> Result<Found> {
        let storage = self.storage.as_ref();
        let seen = self.seen.generation();
        // Mostly the newest is the one that this machine saw last. Over a network it is read while the
        // listing is waited for.
        let guess = if seen > 0 { Some(seen) } else { None };
        let (guessed, listed) =
            both(storage, || guess.map(|number| self.standing(number)), || self.listed_generations());
        let mut search = Search { best: None, ended: Vec::new(), void: BTreeMap::new(), vanished: 0, void_max };
        if let Some((number, standing)) = guess.zip(guessed) {
            search.take(number, standing?);
        }
        let numbers: BTreeSet<u64> = listed?.into_iter().collect();
        search.void_max = limited(void_max, numbers.len());
        let newest_epoch = self.keys.newest_epoch();
        for number in numbers.into_iter().rev() {
            if search.is_flooded() || search.best.as_ref().is_some_and(|(n, e, _)| *n > number && *e >= newest_epoch) {
                break;
            }
            if Some(number) != guess {
                let standing = self.standing(number)?;
                search.take(number, standing);
            }
        }
        self.climb(&mut search)?;
        let is_flooded = search.is_flooded();
        let (number, epoch, state) = search.best.unwrap_or_default();
        let mut void: Vec<(u64, Error)> = search.void.into_iter().collect();
        let ended = search.ended.into_iter().filter(|(_, ended)| *ended < epoch);
        void.extend(ended.map(|(number, ended)| (number, of_ended_epoch(number, ended))));
        void.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        void.dedup_by_key(|(number, _)| *number);
        void.retain(|(other, _)| *other > number);
        // A generation of an epoch that has ended does not count, whatever its number.
        debug_assert!(epoch <= self.keys.newest_epoch());
        let is_damaged = void.iter().any(|(_, error)| !error.is_forged());
        if is_flooded {
            return Ok(Found { number, state: Err(flooded()), readable: state, epoch, void, is_damaged });
        }
        if let Some(at) = void.iter().position(|(other, error)| *other == seen && !error.is_forged()) {
            let (number, error) = void.swap_remove(at);
            return Ok(Found { number, state: Err(error), readable: state, epoch, void, is_damaged });
        }
        Ok(Found { number, state: Ok(state.clone()), readable: state, epoch, void, is_damaged })
    }

    /// Goes on by name from the best that is known: to the next milestone that counts, or else to the
    /// next number.
    fn climb(&self, search: &mut Search) -> Result<()> {
        let storage = self.storage.as_ref();
        let exists = |number| -> Result<bool> { Ok(storage.stat(&generation_name(number))?.is_some()) };
        let mut number = search.best.as_ref().map_or(0, |(number, ..)| *number);
        // Mostly there is neither, and both are asked for at once.
        while !search.is_flooded() {
            let next = next_milestone(number);
            let (milestone, follows) = both(storage, || exists(next), || exists(number + 1));
            if milestone?
                && next != number + 1
                && let Some(reached) = self.step(search, next)?
            {
                number = reached;
                continue;
            }
            if !follows? {
                return Ok(());
            }
            number += 1;
            if !search.void.contains_key(&number) {
                let standing = self.standing(number)?;
                // Removed meanwhile. A store that says so again and again leads nowhere.
                search.vanished += usize::from(matches!(standing, Standing::Nothing));
                search.take(number, standing);
            }
        }
        Ok(())
    }

    /// The first generation at or after the milestone `next` that goes on the way: one that counts, at a
    /// milestone or right after objects that do not count and have its name. As long as milestones
    /// are there and lead nowhere, the next one is tried.
    fn step(&self, search: &mut Search, next: u64) -> Result<Option<u64>> {
        let mut milestone = next;
        while milestone < GENERATION_MAX && !search.is_flooded() {
            let mut number = milestone;
            while !search.is_flooded() {
                if search.void.contains_key(&number) {
                    number += 1;
                    continue;
                }
                let standing = self.standing(number)?;
                match &standing {
                    Standing::Nothing if number == milestone => return Ok(None),
                    Standing::Nothing => break,
                    Standing::Valid(epoch, _) if search.goes_on(*epoch) => {
                        search.take(number, standing);
                        return Ok(Some(number));
                    }
                    _ => search.take(number, standing),
                }
                number += 1;
            }
            milestone += MILESTONE;
        }
        Ok(None)
    }

    fn standing(&self, number: u64) -> Result<Standing> {
        let name = generation_name(number);
        let bytes = match self.storage.get(&name, GENERATION_BYTES_MAX) {
            Err(e) if e.kind() == Kind::NotFound => return Ok(Standing::Nothing),
            Err(e) if e.kind() == Kind::Damaged => return Ok(Standing::Void(e)),
            read => read?,
        };
        let open = || self.open_generation(&name, &bytes).map(|(order, state)| Standing::Valid(order.epoch, state));
        match open() {
            // Somebody may have begun a key epoch that is not known here.
            Err(e) if e.is_forged() && self.keys.refresh_if_newer(self.storage.as_ref())? => {
                Ok(open().unwrap_or_else(Standing::Void))
            }
            opened => Ok(opened.unwrap_or_else(Standing::Void)),
        }
    }

    /// Opens a generation's object, by the first of its two copies that counts.
    ///
    /// # Errors
    /// `Damaged` when neither copy opens; forged when one opens that the epoch it names has not signed.
    pub fn open_generation(&self, name: &str, bytes: &[u8]) -> Result<(Order, Generation)> {
        let [first, second] = copies(bytes).map(|copy| self.open_copy(name, copy));
        match (first, second) {
            (Ok(opened), _) | (Err(_), Ok(opened)) => Ok(opened),
            (Err(e), _) if e.is_forged() => Err(e),
            (Err(_), Err(e)) => Err(e),
        }
    }

    /// What is wrong with a generation's object: one of its two copies does not count, or what lies between them was
    /// altered.
    pub fn flaw_of_generation(&self, name: &str, bytes: &[u8]) -> Option<Error> {
        let copies = copies(bytes);
        let flaw = copies.into_iter().find_map(|copy| self.open_copy(name, copy).err());
        flaw.or_else(|| {
            (doubled(copies[0]) != bytes).then(|| Error::damaged(name, "is not two copies of one order and zeros"))
        })
    }

    fn open_copy(&self, name: &str, copy: &[u8]) -> Result<(Order, Generation)> {
        let (order, plain) = self.keys.open_order(ObjectKind::Generation, name, copy)?;
        let state = Generation::decode(&plain).map_err(|e| e.in_object(name))?;
        Ok((order, state))
    }

    /// The numbers that a listing shows.
    fn listed_generations(&self) -> Result<Vec<u64>> {
        Ok(self.storage.list(GENERATION_PREFIX)?.iter().filter_map(|o| generation_of(&o.name)).collect())
    }

    /// The number of a generation that certainly counted here: that which this machine has seen, while
    /// the storage lists it; else the newest.
    ///
    /// # Errors
    /// `Storage`.
    pub(super) fn known_generation(&self) -> Result<u64> {
        let seen = self.seen.generation();
        if seen == 0 || self.listed_generations()?.contains(&seen) {
            return Ok(seen);
        }
        Ok(self.probe_generation()?.0)
    }

    /// Publishes a generation under the first free number from `first` on. Only what does not count is passed by: of
    /// two publishers one succeeds. Returns its number. What `state` says of `first` it then says of that
    /// ([`renumbered`]).
    ///
    /// # Errors
    /// `Busy` when somebody else published first; `Storage`.
    pub fn publish_generation(&self, first: u64, state: &Generation) -> Result<u64> {
        self.publish_behind(VOID_MAX, first, state)
    }

    /// As [`publish_generation`](Self::publish_generation), however many objects do not count: for repair,
    /// which removes them.
    ///
    /// # Errors
    /// As [`publish_generation`](Self::publish_generation).
    pub fn publish_generation_in_flood(&self, first: u64, state: &Generation) -> Result<u64> {
        self.publish_behind(usize::MAX, first, state)
    }

    fn publish_behind(&self, void_max: usize, first: u64, state: &Generation) -> Result<u64> {
        let late = |number| {
            let (what, name) = ("another prune, check, forget or key change published", generation_name(number));
            Error::new(Kind::Busy, format!("{what} {name} first; nothing was deleted"))
                .hint("let it finish, then try again")
        };
        let void_max = match void_max {
            VOID_MAX => VOID_MAX,
            flood => limited(flood, self.listed_generations()?.len()),
        };
        // `state` may continue what the authority of an ended epoch ordered since.
        if self.keys.refresh_if_newer(self.storage.as_ref())? {
            return Err(late(first));
        }
        for number in (first..GENERATION_MAX).take(void_max) {
            let name = generation_name(number);
            let content = renumbered(state, first, number).encode();
            let order = self.keys.seal_order(self.env.as_ref(), ObjectKind::Generation, &name, &content)?;
            let object = doubled(&order);
            refuse_unreadable(&name, &object, GENERATION_BYTES_MAX)?;
            match self.storage.put_new(&name, &object) {
                Ok(()) => {}
                Err(e) if e.kind() == Kind::AlreadyExists => match self.standing(number)? {
                    Standing::Void(_) => continue,
                    Standing::Valid(epoch, _) if self.has_ended(epoch, first)? => continue,
                    _ => return Err(late(number)),
                },
                Err(e) => return Err(e),
            }
            // Whoever was asleep may get a name that others have used and given up since. Then a newer
            // one is there, and this one counts for nothing. So it does when the new epoch's first one is there.
            self.keys.refresh_if_newer(self.storage.as_ref())?;
            let newest = self.find_generation_behind(void_max)?.number;
            if newest != number {
                return Err(late(newest));
            }
            self.forget_generations(number);
            return Ok(number);
        }
        Err(flooded())
    }

    /// True when a generation that `epoch` signed counts no more, since one of a later epoch does that has a
    /// lower number than `first`. Before that the first order of the new epoch must continue it.
    fn has_ended(&self, epoch: u32, first: u64) -> Result<bool> {
        if epoch >= self.keys.newest_epoch() {
            return Ok(false);
        }
        let found = self.find_generation()?;
        Ok(found.epoch > epoch && found.number < first)
    }

    /// True when a session that read generation `number` read one that counts. A heartbeat may name a
    /// generation that only an ended epoch has signed, or one that never was.
    ///
    /// # Errors
    /// `Storage`.
    pub fn counts_now(&self, number: u64) -> Result<bool> {
        let newest = self.find_generation()?.epoch;
        Ok(matches!(self.standing(number)?, Standing::Valid(epoch, _) if epoch >= newest))
    }

    /// As [`publish_generation`](Self::publish_generation). When the answer gets lost, the storage is
    /// asked what stands there: the same state is success, whoever published it.
    ///
    /// # Errors
    /// As [`publish_generation`](Self::publish_generation).
    pub fn publish_settled(&self, number: u64, state: &Generation) -> Result<u64> {
        match self.publish_generation(number, state) {
            Err(e) if e.kind() == Kind::Storage && !e.is_durability_unknown() => match self.newest_generation() {
                Ok((newest, found)) if newest >= number && found == renumbered(state, number, newest) => Ok(newest),
                _ => Err(e),
            },
            published => published,
        }
    }

    /// Deletes old generations, which nobody needs but to find the newest by name, however old the listing is that
    /// the storage shows. So every milestone stays for ever, and after the last one all. What can't be deleted
    /// only takes room.
    fn forget_generations(&self, newest: u64) {
        let Ok(listed) = self.listed_generations() else { return };
        let there: BTreeSet<u64> = listed.into_iter().collect();
        let is_old = |number: u64| !number.is_multiple_of(MILESTONE) && number + 2 * MILESTONE < newest;
        let mut path = (0, 0);
        // The oldest first, and the first that stays ends it: so that they have no gap.
        for number in there.iter().copied().filter(|number| is_old(*number)) {
            let milestone = number - number % MILESTONE;
            if milestone != path.0 {
                let Ok(end) = self.path_end(milestone, &there) else { return };
                path = (milestone, end);
            }
            if number > path.1 && self.storage.delete(&generation_name(number)).is_err() {
                return;
            }
        }
    }

    /// The last number of the path that begins at a milestone: what stands there, if it counts; else the first
    /// after it that does, with no gap in between.
    fn path_end(&self, milestone: u64, there: &BTreeSet<u64>) -> Result<u64> {
        let mut number = milestone;
        while there.contains(&(number + 1))
            && number + 1 < milestone + MILESTONE
            && !matches!(self.standing(number)?, Standing::Valid(..))
        {
            number += 1;
        }
        Ok(number)
    }

    /// Puts a copy of `newest` at `number`, when readers climb over that number to the newest: it is a milestone, or
    /// comes after the last one. The copy counts for as much as the newest, which has a higher number.
    ///
    /// # Errors
    /// `Storage`.
    pub(crate) fn fill_path(&self, number: u64, newest: &Found) -> Result<()> {
        let Ok(state) = &newest.state else { return Ok(()) };
        let is_path = number.is_multiple_of(MILESTONE) || number > newest.number - newest.number % MILESTONE;
        if number == 0 || number >= newest.number || !is_path {
            return Ok(());
        }
        let name = generation_name(number);
        let order = self.keys.seal_order(self.env.as_ref(), ObjectKind::Generation, &name, &state.encode())?;
        match self.storage.put_new(&name, &doubled(&order)) {
            Err(e) if e.kind() == Kind::AlreadyExists => Ok(()),
            put => put,
        }
    }

    /// Those of `distrusted` that a generation after `state` may list, and how many copies are left out: of packs that
    /// write-only and distrusted slots wrote, only so many. Nobody but their own sessions relies on these.
    ///
    /// # Errors
    /// Of the local cache.
    pub(crate) fn limit_distrusted(
        &self,
        distrusted: Vec<Distrusted>,
        state: &Generation,
    ) -> Result<(Vec<Distrusted>, usize)> {
        let is_claim = |slot: SlotId| {
            !self.keys.is_full(slot) || state.distrusted_slots.iter().any(|distrusted| distrusted.slot == slot)
        };
        let authors = self.cache.packs()?.into_iter().map(|pack| (pack.id, pack.claim.author));
        let claimants: HashMap<PackId, SlotId> = authors.filter(|(_, author)| is_claim(*author)).collect();
        Ok(limit_claims(distrusted, &claimants))
    }

    /// True when both copies in a generation's object count, or when there is no such object.
    ///
    /// # Errors
    /// `Storage`.
    pub(crate) fn is_whole_generation(&self, number: u64) -> Result<bool> {
        let name = generation_name(number);
        match self.storage.get(&name, GENERATION_BYTES_MAX) {
            Ok(bytes) => Ok(self.flaw_of_generation(&name, &bytes).is_none()),
            Err(e) if e.kind() == Kind::NotFound => Ok(true),
            Err(e) if e.kind() == Kind::Damaged => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// The object of a generation: its order, zeros up to the next multiple of [`BLOCK_LEN`], and the order once more. So
/// no block of a disk holds bytes of both copies.
pub fn doubled(order: &[u8]) -> Vec<u8> {
    let mut object = order.to_vec();
    object.resize(order.len().next_multiple_of(BLOCK_LEN), 0);
    object.extend_from_slice(order);
    object
}

/// The two copies of the order that a generation's object holds.
fn copies(bytes: &[u8]) -> [&[u8]; 2] {
    // With an order of n blocks, the last one not empty, there are more than 2n - 1 and at most 2n blocks.
    let second = bytes.len().div_ceil(2 * BLOCK_LEN) * BLOCK_LEN;
    let second_copy = bytes.get(second..).unwrap_or_default();
    [bytes.get(..second_copy.len()).unwrap_or_default(), second_copy]
}

/// `distrusted`, by packs, without what the slots of `claimants` have too much of; and how many copies that leaves out.
/// Each of the slots has the same share.
fn limit_claims(distrusted: Vec<Distrusted>, claimants: &HashMap<PackId, SlotId>) -> (Vec<Distrusted>, usize) {
    let slots: BTreeSet<SlotId> = distrusted.iter().filter_map(|d| claimants.get(&d.pack).copied()).collect();
    let share = CLAIMED_BYTES_MAX / slots.len().max(1);
    let mut left: HashMap<SlotId, usize> = slots.into_iter().map(|slot| (slot, share)).collect();
    let (mut limited, mut left_out) = (Vec::with_capacity(distrusted.len()), 0);
    for mut entry in distrusted {
        if let Some(left) = claimants.get(&entry.pack).and_then(|slot| left.get_mut(slot)) {
            let room = left.checked_sub(DISTRUSTED_BYTES).map(|room| room / DISTRUSTED_BLOB_BYTES);
            let Some(room) = room.filter(|room| *room > 0 || entry.blobs.is_empty()) else {
                left_out += entry.blobs.len().max(1);
                continue;
            };
            left_out += entry.blobs.len().saturating_sub(room);
            entry.blobs.truncate(room);
            *left -= DISTRUSTED_BYTES + entry.blobs.len() * DISTRUSTED_BLOB_BYTES;
        }
        limited.push(entry);
    }
    (limited, left_out)
}

/// `state`, made to be published as generation `first`, as it must read when it becomes generation
/// `number`: what it condemns anew is condemned since then. A session that read a generation in between
/// knows nothing of it.
pub fn renumbered(state: &Generation, first: u64, number: u64) -> Generation {
    let mut state = state.clone();
    for condemned in state.condemned.iter_mut().filter(|condemned| condemned.since == first) {
        condemned.since = number;
    }
    if state.judged == first {
        state.judged = number;
    }
    state
}

/// A search under way.
struct Search {
    /// The best so far: number, epoch, state.
    best: Option<(u64, u32, Generation)>,
    /// The others that an epoch has signed, with it.
    ended: Vec<(u64, u32)>,
    void: BTreeMap<u64, Error>,
    /// Names that an object has by `stat`, and none by `get`.
    vanished: usize,
    /// So many are skipped.
    void_max: usize,
}

impl Search {
    /// True when one that `epoch` signed may lead on: none of a later epoch is known.
    fn goes_on(&self, epoch: u32) -> bool {
        self.best.as_ref().is_none_or(|(_, best, _)| epoch >= *best)
    }

    fn is_flooded(&self) -> bool {
        self.void.len().saturating_add(self.ended.len()) > self.void_max || self.vanished > VOID_MAX
    }

    fn take(&mut self, number: u64, standing: Standing) {
        match standing {
            Standing::Nothing => {}
            Standing::Valid(epoch, state) => {
                let is_better = |(n, e, _): &(u64, u32, Generation)| (epoch, number) > (*e, *n);
                if self.best.as_ref().is_none_or(is_better) {
                    self.best = Some((number, epoch, state));
                }
                // Each that an epoch has signed, the best included: whether it has ended is seen in the end.
                self.ended.push((number, epoch));
            }
            Standing::Void(error) => {
                self.void.insert(number, error);
            }
        }
    }
}

/// `void_max`, but no more than a listing of `listed` objects explains: a store that has an object for every name
/// has no end.
fn limited(void_max: usize, listed: usize) -> usize {
    void_max.min(listed.saturating_add(VOID_MAX))
}

fn of_ended_epoch(number: u64, epoch: u32) -> Error {
    Error::forged(generation_name(number), format!("is signed by key epoch {epoch}, which has ended"))
}

fn flooded() -> Error {
    Error::damaged(GENERATION_PREFIX, format!("holds more than {VOID_MAX} objects that do not count"))
        .hint("`alluvium repair index` removes them; look who may create objects in this storage")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlobId;

    #[test]
    fn garbage_of_write_only_slots_leaves_room_in_a_generation() {
        let [stolen, honest] = [1, 2].map(|n| SlotId([n; 16]));
        let pack = |n: u8, blobs: usize| {
            let blobs = (0..blobs).map(|blob| BlobId([blob as u8; 32])).collect();
            Distrusted { pack: PackId([n; 16]), blobs }
        };
        let (many, few) = (100_000, 10);
        let distrusted = vec![pack(1, many), pack(2, many), pack(3, few), pack(4, 0), pack(5, many)];
        let claimants =
            [(1, stolen), (2, stolen), (3, honest), (4, honest)].map(|(n, slot)| (PackId([n; 16]), slot)).into();
        let (limited, left_out) = limit_claims(distrusted.clone(), &claimants);
        let of = |list: &[Distrusted], n: u8| list.iter().find(|d| d.pack.0[0] == n).map(|d| d.blobs.len());
        assert!(of(&limited, 1).is_some_and(|blobs| blobs > 1000 && blobs < many));
        assert_eq!([2, 3, 4, 5].map(|n| of(&limited, n)), [None, Some(few), Some(0), Some(many)]);
        assert_eq!(left_out, 2 * many - of(&limited, 1).unwrap_or_default());
        let claimed = limited.into_iter().filter(|d| claimants.contains_key(&d.pack)).collect();
        let state = Generation { distrusted: claimed, ..Generation::default() };
        let empty = Generation::default().encode().len();
        assert!(state.encode().len() - empty <= CLAIMED_BYTES_MAX, "the lengths of entries are right");
        // What was limited once stays as it is.
        let (again, left_out) = limit_claims(state.distrusted.clone(), &claimants);
        assert_eq!((again, left_out), (state.distrusted, 0));
    }
}
