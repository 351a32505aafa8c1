//! One stream on its way: where it is, and the parts that it has become.

use std::collections::{BTreeMap, VecDeque};

use crossbeam_channel::Receiver;

use super::super::predict::Prediction;
use super::worker::Worked;
use super::{Predict, StoredPart};
use crate::format::manifest::Digest;
use crate::format::recipe::Recipe;
use crate::id::PartName;
use crate::transform::grain::Places;
use crate::transform::segment::{Begin, Holds, Segmenter};

/// One stream being cut.
pub(super) struct Cutting<'p> {
    pub(super) segmenter: Option<Segmenter>,
    /// Where chunks of the part that is being cut should end.
    pub(super) places: Places,
    /// Bytes at the end of what was read that the segmenter has not consumed.
    pub(super) unconsumed: usize,
    pub(super) predict: Predict<'p>,
    pub(super) prediction: Option<Prediction<'p>>,
    pub(super) predicted: u64,
    /// Bytes that are not certain to be cut yet: less than the longest chunk, and what is unconsumed.
    pub(super) rest: Vec<u8>,
    /// Digests of the parts, in order.
    pub(super) digests: Receiver<[u8; 32]>,
    pub(super) sent: u64,
    pub(super) collected: u64,
    /// Bytes of the chunks collected.
    pub(super) bytes: u64,
    pub(super) early: BTreeMap<u64, Worked>,
    /// Stored bytes of the recipe's chunks.
    pub(super) stored_bytes: u64,
    /// The recipe of the first part whose chunks are not all collected.
    pub(super) recipe: RecipeBuilder,
    /// The part that is being cut.
    pub(super) part: CutPart,
    /// Parts that were cut to their ends, without their recipes and digests, and how many jobs that took.
    pub(super) ended: VecDeque<(u64, StoredPart)>,
    pub(super) parts: Vec<StoredPart>,
}

/// A part while it is cut.
pub(super) struct CutPart {
    pub(super) name: Option<PartName>,
    pub(super) holds: Option<Holds>,
    pub(super) bytes: u64,
}

impl<'p> Cutting<'p> {
    pub(super) fn new(
        mut segmenter: Option<Segmenter>,
        predict: Predict<'p>,
        digests: Receiver<[u8; 32]>,
        first: u64,
    ) -> Self {
        let (name, holds) = segmenter.as_mut().map_or((None, None), |segmenter| {
            let (name, holds) = segmenter.first();
            (name, Some(holds))
        });
        let grain = segmenter.as_ref().map(Segmenter::first_grain);
        Self {
            segmenter,
            places: Places::new(grain.unwrap_or_default()),
            unconsumed: 0,
            predict,
            prediction: predict(name.as_ref()),
            predicted: 0,
            rest: Vec::new(),
            digests,
            sent: first,
            collected: first,
            bytes: 0,
            early: BTreeMap::new(),
            stored_bytes: 0,
            recipe: RecipeBuilder::default(),
            part: CutPart { name, holds, bytes: 0 },
            ended: VecDeque::new(),
            parts: Vec::new(),
        }
    }

    /// The part ends, and the one that `begin` names begins.
    pub(super) fn end_part(&mut self, rows: u64, begin: Option<Begin>) {
        let next = CutPart {
            name: begin.as_ref().map(|begin| begin.name.clone()),
            holds: begin.as_ref().map(|begin| begin.holds),
            bytes: 0,
        };
        self.places = Places::new(begin.as_ref().map(|begin| begin.grain).unwrap_or_default());
        self.prediction = begin.and_then(|begin| (self.predict)(Some(&begin.name)));
        let CutPart { name, holds, bytes } = std::mem::replace(&mut self.part, next);
        let digest = Digest { bytes, blake3: [0; 32] };
        let part = StoredPart { name, holds, rows, stored_bytes: 0, digest, recipe: Recipe::default() };
        self.ended.push_back((self.sent, part));
    }
}

/// A recipe while it grows: level 0 holds the stream's entries, level n those of level n - 1's chunks.
#[derive(Default)]
pub(super) struct RecipeBuilder {
    pub(super) levels: Vec<Level>,
}

#[derive(Default)]
pub(super) struct Level {
    pub(super) bytes: Vec<u8>,
    pub(super) cut: bool,
}
