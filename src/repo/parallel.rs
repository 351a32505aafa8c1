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

#[cfg(test)]
mod tests {
    use super::*;

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
