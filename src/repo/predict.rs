//! Guesses the next chunks of a stream from the recipe of its previous snapshot, so that unchanged
//! data need not be scanned for cuts, and tells what changed data probably resembles (after `RapidCDC`, Ni and Jiang, `SoCC` 2019, but exact).
//!
//! A guess is a chunk's id and length. When the bytes at hand have this id, they are the same bytes,
//! and since a cut depends on nothing but the chunk's own bytes, the cut is the one that scanning
//! would find. A stream's last chunk was ended by its end, not by a cut, and is never a guess.
//! The recipe is read as the stream advances: a window of it is held, never the whole.

use std::collections::{HashMap, VecDeque};

use crate::error::Result;
use crate::format::recipe::RecipeEntry;
use crate::id::BlobId;

/// Entries held: 64 Ki chunks of 64 KiB are 4 GiB of stream; costs about 6 MB.
const WINDOW: usize = 1 << 16;

/// Chunks on either side of a place that are looked at for one of the same length; and what length is the same: one that
/// differs by less than this part.
const NEAR: usize = 12;
const SAME_LENGTH: u64 = 24;

/// A cursor over the previous recipe.
pub struct Prediction<'a> {
    rest: Box<dyn Iterator<Item = Result<RecipeEntry>> + Send + 'a>,
    window: VecDeque<RecipeEntry>,
    /// Place of each chunk's last occurrence, counted from the recipe's beginning.
    places: HashMap<BlobId, u64>,
    /// Place of the window's first entry.
    front: u64,
    /// Bytes of the stream since it was last in step, and the chunk of the recipe that lies there: how many entries
    /// behind the front, and where it begins.
    drift: u64,
    beside: (usize, u64),
    /// False from a wrong guess until a chunk of the recipe turns up again: guessing costs a hash.
    in_step: bool,
}

impl<'a> Prediction<'a> {
    /// Predicts from `recipe`. An unreadable recipe predicts nothing: a snapshot must not fail because its
    /// predecessor is damaged.
    pub fn new(recipe: impl Iterator<Item = Result<RecipeEntry>> + Send + 'a) -> Self {
        let mut new = Self {
            rest: Box::new(recipe),
            window: VecDeque::new(),
            places: HashMap::new(),
            front: 0,
            drift: 0,
            beside: (0, 0),
            in_step: true,
        };
        new.fill();
        new
    }

    fn fill(&mut self) {
        while self.window.len() < WINDOW {
            let Some(Ok(entry)) = self.rest.next() else { break };
            self.places.insert(entry.id, self.front + self.window.len() as u64);
            self.window.push_back(entry);
        }
    }

    /// The chunk that should come next, unless it is the recipe's last.
    pub fn guess(&self) -> Option<RecipeEntry> {
        if self.in_step && self.window.len() > 1 { self.window.front().copied() } else { None }
    }

    /// The guess was wrong: no more guesses until the stream is in step again.
    pub fn miss(&mut self) {
        self.in_step = false;
    }

    /// The chunk of the recipe that one of `len` bytes probably resembles, which the recipe does not hold. Where rows were
    /// added or removed, cuts are mostly where they were: near the place where the stream is, that is the chunk of nearly
    /// this length, and from there the stream is in step by place; else the one at this place.
    pub fn similar(&mut self, len: u32) -> Option<BlobId> {
        let len = u64::from(len);
        let middle = self.drift + len / 2;
        let (mut place, mut begin) = self.beside;
        while let Some(entry) = self.window.get(place)
            && begin + u64::from(entry.len) <= middle
        {
            begin += u64::from(entry.len);
            place += 1;
        }
        let from = place.saturating_sub(NEAR);
        let mut at = begin - self.window.range(from..place).map(|entry| u64::from(entry.len)).sum::<u64>();
        let mut best: Option<(u64, usize, u64)> = None;
        for (near, entry) in self.window.iter().enumerate().skip(from).take(2 * NEAR + 1) {
            let off = u64::from(entry.len).abs_diff(len);
            if off <= len / SAME_LENGTH && best.is_none_or(|(least, ..)| off < least) {
                best = Some((off, near, at));
            }
            at += u64::from(entry.len);
        }
        self.drift += len;
        if let Some((_, near, begin)) = best {
            (place, self.drift) = (near, begin + u64::from(self.window[near].len));
            self.beside = (near, begin);
        } else {
            self.beside = (place, begin);
        }
        // Behind the end: what was appended resembles what was there last.
        self.window.get(place).or(self.window.back()).map(|entry| entry.id)
    }

    /// The stream went on with chunk `id`: the guess after it comes next, if the chunk is known here. `false` when it is not.
    pub fn advance(&mut self, id: &BlobId) -> bool {
        let place = match self.window.front() {
            // As guessed. In a run of equal chunks this goes one step, not to the run's end.
            Some(guess) if guess.id == *id => self.front,
            _ => match self.places.get(id) {
                Some(&place) if place >= self.front => place,
                _ => return false,
            },
        };
        self.in_step = true;
        (self.drift, self.beside) = (0, (0, 0));
        for _ in self.front..=place {
            let Some(entry) = self.window.pop_front() else { break };
            if self.places.get(&entry.id) == Some(&self.front) {
                self.places.remove(&entry.id);
            }
            self.front += 1;
        }
        if self.window.len() < WINDOW / 2 {
            self.fill();
        }
        true
    }
}
