//! Many small requests at once: over a network each waits, and the waits may overlap.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::storage::Storage;

/// How many requests at once pay. On a disk more threads than its own gain nothing.
pub fn at_once(storage: &dyn Storage) -> usize {
    match storage.transfers() {
        0..=2 => 1,
        n => n,
    }
}

/// What `work` makes of each item, in the items' order, by up to `threads` threads.
pub fn each<T: Sync, R: Send>(threads: usize, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let mut found: Vec<(usize, R)> = std::thread::scope(|scope| {
        let run = || {
            let mut found = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(at) else { return found };
                found.push((at, work(item)));
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|e| std::panic::resume_unwind(e))).collect()
    });
    found.sort_unstable_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, result)| result).collect()
}

/// What two works come to: at the same time where requests wait for a network, elsewhere one after the other.
pub fn both<A: Send, B>(storage: &dyn Storage, first: impl FnOnce() -> A + Send, second: impl FnOnce() -> B) -> (A, B) {
    if at_once(storage) == 1 {
        return (first(), second());
    }
    std::thread::scope(|scope| {
        let first = scope.spawn(first);
        let second = second();
        (first.join().unwrap_or_else(|e| std::panic::resume_unwind(e)), second)
    })
}

/// Cuts `items` into groups whose contents are held in memory together: of at most `count` items, and of at most
/// `bytes_max` bytes by `size`, unless a single item has more.
pub fn groups<T>(items: &[T], count: usize, bytes_max: u64, size: impl Fn(&T) -> u64) -> impl Iterator<Item = &[T]> {
    let (mut len, mut bytes) = (0, 0_u64);
    items.chunk_by(move |before, next| {
        len += 1;
        bytes = bytes.saturating_add(size(before));
        let fits = len < count && bytes.saturating_add(size(next)) <= bytes_max;
        if !fits {
            (len, bytes) = (0, 0);
        }
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_bounded_in_both_ways() {
        let cut = |items: &[u64]| -> Vec<Vec<u64>> { groups(items, 3, 10, |n| *n).map(<[u64]>::to_vec).collect() };
        assert_eq!(cut(&[]), Vec::<Vec<u64>>::new());
        assert_eq!(cut(&[1, 2, 3, 4]), [vec![1, 2, 3], vec![4]]);
        assert_eq!(cut(&[6, 4, 1, 99, 1, 9, 1]), [vec![6, 4], vec![1], vec![99], vec![1, 9], vec![1]]);
        assert_eq!(cut(&[u64::MAX, u64::MAX]), [vec![u64::MAX], vec![u64::MAX]]);
    }

    #[test]
    fn results_keep_their_order() {
        let items: Vec<u32> = (0..1000).collect();
        for threads in [0, 1, 2, 7, 2000] {
            let doubled: Vec<u32> = items.iter().map(|n| n * 2).collect();
            assert_eq!(each(threads, &items, |n| n * 2), doubled, "{threads} threads");
        }
        assert!(each(4, &[] as &[u32], |n| *n).is_empty());
    }
}
