//! Guesses the next chunks of a stream from the recipe of its previous snapshot, so that unchanged
//! data need not be scanned for cuts (after `RapidCDC`, Ni and Jiang, `SoCC` 2019, but exact).
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

/// A cursor over the previous recipe.
pub struct Prediction<'a> {
    rest: Box<dyn Iterator<Item = Result<RecipeEntry>> + Send + 'a>,
    window: VecDeque<RecipeEntry>,
    /// Place of each chunk's last occurrence, counted from the recipe's beginning.
    places: HashMap<BlobId, u64>,
    /// Place of the window's first entry.
    front: u64,
    /// False from a wrong guess until a chunk of the recipe turns up again: guessing costs a hash.
    in_step: bool,
}

impl<'a> Prediction<'a> {
    /// Predicts from `recipe`. An unreadable recipe predicts nothing: a snapshot must not fail because its
    /// predecessor is damaged.
    pub fn new(recipe: impl Iterator<Item = Result<RecipeEntry>> + Send + 'a) -> Self {
        let mut new =
            Self { rest: Box::new(recipe), window: VecDeque::new(), places: HashMap::new(), front: 0, in_step: true };
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

    /// The stream went on with chunk `id`: the guess after it comes next, if the chunk is known here.
    pub fn advance(&mut self, id: &BlobId) {
        let place = match self.window.front() {
            // As guessed. In a run of equal chunks this goes one step, not to the run's end.
            Some(guess) if guess.id == *id => self.front,
            _ => match self.places.get(id) {
                Some(&place) if place >= self.front => place,
                _ => return,
            },
        };
        self.in_step = true;
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
    }
}
