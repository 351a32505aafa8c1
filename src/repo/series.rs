//! The order of the snapshots of a series, and which of their times to believe.
//!
//! The order is the chain of predecessors: a snapshot's sequence is higher than that of the one
//! that it follows, whatever the clocks said
//! ([`Header::sequence`](crate::format::manifest::Header::sequence)). Times are for people, and a
//! clock may have been wrong. In chain order, true times never fall:
//!
//! ```text
//! chain      1      2      3      4      5
//! says       Mon    2031   Wed    Thu    Fri
//! believed   Mon           Wed    Thu    Fri     the longest non-decreasing subsequence
//! effective  Mon    Mon    Wed    Thu    Fri     that of the nearest believed predecessor
//! ```
//!
//! A time that is not believed contradicts a neighbour's, and is reported. Pure functions: no I/O,
//! the time now is a parameter. The clock of the machine that reads may be wrong, too: behind, it
//! makes all times future ones, which are judged by the same rule.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use crate::id::SnapshotId;

/// What the order of a snapshot depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<K> {
    /// The snapshot.
    pub id: SnapshotId,
    /// What tells its series from others.
    pub series: K,
    /// Its sequence.
    pub sequence: u64,
    /// The time that it says.
    pub time: Timestamp,
}

/// A time that can not be right together with a neighbour's in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Contradiction {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The time that it says.
    pub time: Timestamp,
    /// The time that it counts as.
    pub effective_time: Timestamp,
    /// The believed snapshot that it contradicts.
    pub neighbour: SnapshotId,
    /// The time of that one.
    pub neighbour_time: Timestamp,
    /// Whether the neighbour follows the snapshot or precedes it.
    pub neighbour_follows: bool,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |id: SnapshotId| id.to_string()[..8].to_owned();
        let relation = if self.neighbour_follows { "precedes" } else { "follows" };
        write!(
            f,
            "snapshot {} says {}, but it {relation} {}, which says {}: a clock was wrong; it counts as taken {}",
            short(self.snapshot),
            self.time,
            short(self.neighbour),
            self.neighbour_time,
            self.effective_time
        )
    }
}

/// The effective times of snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The time that each snapshot counts as. Never falls along a chain.
    pub effective: HashMap<SnapshotId, Timestamp>,
    /// The times that are not believed, series by series, in chain order.
    pub contradictions: Vec<Contradiction>,
}

/// Decides which times to believe, in each series by itself. The order of `members` does not
/// matter.
pub fn effective_times<K: Ord>(members: impl IntoIterator<Item = Member<K>>, now: Timestamp) -> Times {
    let mut chains: BTreeMap<K, Vec<(u64, Timestamp, SnapshotId)>> = BTreeMap::new();
    for Member { id, series, sequence, time } in members {
        chains.entry(series).or_default().push((sequence, time, id));
    }
    let mut times = Times::default();
    for chain in chains.values_mut() {
        chain.sort_unstable();
        judge(chain, now, &mut times);
    }
    times
}

/// A listed snapshot as a link of its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its sequence.
    pub sequence: u64,
    /// Its predecessor, listed or not.
    pub previous: Option<SnapshotId>,
}

/// True when the chain below `newest` explains why the snapshot `absent` with `sequence` is not
/// listed: `newest` is higher, and its chain of predecessors leads to `absent`, or is broken before
/// it gets that low, since one in between was forgotten. A chain that passes `absent` by was made
/// by writers that had never seen it.
pub fn explains_absence(
    newest: SnapshotId,
    link: impl Fn(SnapshotId) -> Option<Link>,
    absent: SnapshotId,
    sequence: u64,
) -> bool {
    let mut at = link(newest);
    let mut above = u64::MAX;
    while let Some(Link { sequence: here, previous }) = at {
        // Sequences fall along a chain; one that does not was not made by this program.
        if here <= sequence || here >= above {
            return false;
        }
        match previous {
            Some(previous) if previous == absent => return true,
            Some(previous) => at = link(previous),
            None => return false,
        }
        above = here;
    }
    true
}

/// Adds the effective times of one chain, which comes in order.
fn judge(chain: &[(u64, Timestamp, SnapshotId)], now: Timestamp, times: &mut Times) {
    let said: Vec<Timestamp> = chain.iter().map(|(_, time, _)| *time).collect();
    let believed = believed(&said, now);
    let mut next = 0;
    for (position, &(_, time, id)) in chain.iter().enumerate() {
        if believed.get(next) == Some(&position) {
            times.effective.insert(id, time);
            next += 1;
            continue;
        }
        let before = next.checked_sub(1).map(|n| believed[n]);
        let after = believed.get(next).copied();
        let effective_time = before.or(after).map_or(time, |neighbour| said[neighbour]);
        times.effective.insert(id, effective_time);
        let earlier = before.filter(|&before| said[before] > time).map(|before| (before, false));
        let later = after.filter(|&after| said[after] < time).map(|after| (after, true));
        if let Some((neighbour, neighbour_follows)) = earlier.or(later) {
            let (_, neighbour_time, neighbour) = chain[neighbour];
            times.contradictions.push(Contradiction {
                snapshot: id,
                time,
                effective_time,
                neighbour,
                neighbour_time,
                neighbour_follows,
            });
        }
    }
}

/// The positions of the times to believe, in order. Of those not after `now` the longest
/// non-decreasing subsequence; then, of the future ones that no believed one follows, the same.
fn believed(said: &[Timestamp], now: Timestamp) -> Vec<usize> {
    let past: Vec<usize> = (0..said.len()).filter(|&n| said[n] <= now).collect();
    let mut believed = longest_non_decreasing(said, &past);
    let first = believed.last().map_or(0, |last| last + 1);
    let future: Vec<usize> = (first..said.len()).filter(|&n| said[n] > now).collect();
    believed.extend(longest_non_decreasing(said, &future));
    believed
}

/// The longest non-decreasing subsequence of `said` at `positions`; of several, the one with the
/// greatest last time, then the greatest last but one, and so on. Patience sorting: pile `n` has
/// the positions where a longest such subsequence of `n + 1` times ends. The times of a pile fall
/// from bottom to top.
fn longest_non_decreasing(said: &[Timestamp], positions: &[usize]) -> Vec<usize> {
    let mut piles: Vec<Vec<usize>> = Vec::new();
    let mut before: HashMap<usize, usize> = HashMap::new();
    for &position in positions {
        let time = said[position];
        let pile = piles.partition_point(|pile| pile.last().is_some_and(|&top| said[top] <= time));
        if let Some(shorter) = pile.checked_sub(1).map(|n| &piles[n]) {
            // The greatest time that is not after this one.
            let fits = shorter.partition_point(|&other| said[other] > time);
            before.insert(position, shorter[fits]);
        }
        if pile == piles.len() {
            piles.push(Vec::new());
        }
        piles[pile].push(position);
    }
    let last = piles.last().and_then(|pile| pile.first()).copied();
    let mut found: Vec<usize> = std::iter::successors(last, |position| before.get(position).copied()).collect();
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn id(n: usize) -> SnapshotId {
        SnapshotId((n as u128).to_be_bytes())
    }

    fn chain(said: &[i64]) -> Vec<Member<u8>> {
        let member = |(n, &time)| Member { id: id(n), series: 0, sequence: n as u64, time: at(time) };
        said.iter().enumerate().map(member).collect()
    }

    /// Effective seconds in chain order, and the positions of contradictions with those of their
    /// neighbours.
    fn judged(said: &[i64], now: i64) -> (Vec<i64>, Vec<(usize, usize)>) {
        let times = effective_times(chain(said), at(now));
        let position = |id: SnapshotId| u128::from_be_bytes(id.0) as usize;
        let effective = (0..said.len()).map(|n| times.effective[&id(n)].as_second()).collect();
        let pairs = times.contradictions.iter().map(|c| (position(c.snapshot), position(c.neighbour)));
        (effective, pairs.collect())
    }

    #[test]
    fn a_clock_that_was_ahead_once_is_not_believed() {
        // While its time is in the future, and when it has passed.
        for now in [100, 10_000] {
            assert_eq!(judged(&[10, 5000, 30, 40, 50], now), (vec![10, 10, 30, 40, 50], vec![(1, 2)]), "{now}");
        }
        // The first of all: there is only a successor.
        assert_eq!(judged(&[5000, 30, 40], 100), (vec![30, 30, 40], vec![(0, 1)]));
        // The newest of all: nothing contradicts it.
        assert_eq!(judged(&[10, 20, 5000], 100), (vec![10, 20, 5000], vec![]));
    }

    #[test]
    fn a_clock_that_was_behind_once_is_not_believed() {
        assert_eq!(judged(&[10, 20, 30, 1], 100), (vec![10, 20, 30, 30], vec![(3, 2)]));
        assert_eq!(judged(&[10, 1, 30], 100), (vec![10, 10, 30], vec![(1, 0)]));
        // Of two, the greater time is believed.
        assert_eq!(judged(&[10, 1], 100), (vec![10, 10], vec![(1, 0)]));
    }

    #[test]
    fn a_reader_whose_clock_is_far_behind_changes_nothing() {
        for now in [-1000, 0, 1, 100] {
            assert_eq!(judged(&[10, 20, 30], now), (vec![10, 20, 30], vec![]), "{now}");
            assert_eq!(judged(&[10, 5000, 30, 40], now), (vec![10, 10, 30, 40], vec![(1, 2)]), "{now}");
        }
    }

    #[test]
    fn equal_times_contradict_nothing() {
        assert_eq!(judged(&[10, 10, 10, 20, 20], 100), (vec![10, 10, 10, 20, 20], vec![]));
        assert_eq!(judged(&[], 100), (vec![], vec![]));
    }

    #[test]
    fn series_do_not_mix_and_a_contradiction_reads_well() {
        let mut members = chain(&[50, 60]);
        members.push(Member { id: id(9), series: 1, sequence: 5, time: at(1) });
        assert!(effective_times(members, at(100)).contradictions.is_empty());
        let found = effective_times(chain(&[0, 3600, 60]), at(7200)).contradictions;
        assert_eq!(
            found[0].to_string(),
            "snapshot 00000000 says 1970-01-01T00:01:00Z, but it follows 00000000, which says 1970-01-01T01:00:00Z: \
             a clock was wrong; it counts as taken 1970-01-01T01:00:00Z"
        );
    }

    #[test]
    fn a_chain_explains_what_it_led_to_and_not_what_it_passes_by() {
        let links = |chain: &'static [(usize, u64, Option<usize>)]| {
            move |wanted: SnapshotId| {
                let found = chain.iter().find(|(n, ..)| id(*n) == wanted)?;
                Some(Link { sequence: found.1, previous: found.2.map(id) })
            }
        };
        let explains =
            |chain, newest, absent, sequence| explains_absence(id(newest), links(chain), id(absent), sequence);
        // 2 was forgotten, or 2 and 3.
        assert!(explains(&[(1, 10, None), (3, 30, Some(2))], 3, 2, 20));
        assert!(explains(&[(1, 10, None), (4, 40, Some(3))], 4, 2, 20));
        // 4 was taken by somebody who never saw 2.
        assert!(!explains(&[(1, 10, None), (4, 40, Some(1))], 4, 2, 20));
        assert!(!explains(&[(4, 40, None)], 4, 2, 20));
        // Nothing is higher.
        assert!(!explains(&[(1, 10, None)], 1, 2, 20));
        // Links that no program made end the walk.
        assert!(!explains(&[(4, 40, Some(4))], 4, 2, 20));
        assert!(!explains(&[(4, 40, Some(5)), (5, 50, Some(4))], 4, 2, 20));
    }

    /// Every subsequence, tried.
    fn slow(said: &[i64], positions: &[usize]) -> Vec<usize> {
        let subsequences = (0_u32..1 << positions.len()).map(|mask| {
            positions.iter().enumerate().filter(|(n, _)| mask >> n & 1 == 1).map(|(_, &p)| p).collect::<Vec<_>>()
        });
        let rises = |chosen: &Vec<usize>| chosen.windows(2).all(|pair| said[pair[0]] <= said[pair[1]]);
        let rank = |chosen: &Vec<usize>| (chosen.len(), chosen.iter().rev().map(|&p| said[p]).collect::<Vec<_>>());
        subsequences.filter(rises).max_by_key(rank).unwrap_or_default()
    }

    fn slow_judged(said: &[i64], now: i64) -> Vec<i64> {
        let past: Vec<usize> = (0..said.len()).filter(|&n| said[n] <= now).collect();
        let mut believed = slow(said, &past);
        let end = believed.iter().max().copied();
        let future: Vec<usize> = (0..said.len()).filter(|&n| said[n] > now && end.is_none_or(|end| n > end)).collect();
        believed.extend(slow(said, &future));
        let effective = |n: usize| {
            let before = believed.iter().filter(|&&b| b <= n).max();
            said[*before.or(believed.iter().min()).unwrap_or(&n)]
        };
        (0..said.len()).map(effective).collect()
    }

    proptest! {
        #[test]
        fn code_and_reference_agree(said in prop::collection::vec(0_i64..8, 0..10), now in -1_i64..9) {
            let (effective, contradictions) = judged(&said, now);
            prop_assert_eq!(&effective, &slow_judged(&said, now));
            prop_assert!(effective.is_sorted(), "effective times never fall along the chain: {:?}", effective);
            // Each time that does not count is reported, with a neighbour that it really
            // contradicts.
            let wrong: Vec<usize> = (0..said.len()).filter(|&n| effective[n] != said[n]).collect();
            let told: Vec<usize> = contradictions.iter().map(|(n, _)| *n).collect();
            prop_assert_eq!(wrong, told);
            for (n, other) in contradictions {
                let contradicts = if other < n { said[other] > said[n] } else { said[other] < said[n] };
                prop_assert!(contradicts, "{} and {}", n, other);
                prop_assert_eq!(effective[other], said[other], "the neighbour is believed");
            }
        }

        #[test]
        fn the_order_of_input_does_not_matter(
            members in prop::collection::vec((0_u8..2, 0_u64..4, 0_i64..8), 0..12),
            now in 0_i64..9,
        ) {
            let member = |(n, &(series, sequence, time)): (usize, &(u8, u64, i64))| {
                Member { id: id(n), series, sequence, time: at(time) }
            };
            let mut members: Vec<Member<u8>> = members.iter().enumerate().map(member).collect();
            let times = effective_times(members.clone(), at(now));
            members.reverse();
            prop_assert_eq!(times, effective_times(members, at(now)));
        }
    }
}
