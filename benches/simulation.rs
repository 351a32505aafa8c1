//! Plays histories of the simulation (`tests/simulation/`), any number of them, and says how many a second.
//!
//! ```sh
//! cargo bench --bench simulation -- --histories 200000 --first 1    # until one loses or surprises
//! cargo bench --bench simulation -- --seed 4711                      # replays one, call by call
//! cargo bench --bench simulation -- --without Fence                  # switches a rule off; must find a loss
//! cargo bench --bench simulation -- --histories 500 --twice          # the same seed is the same history
//! cargo bench --bench simulation -- --histories 5000 --first 4 --step 4    # every history with a thief
//! ```
#![allow(missing_docs, clippy::print_stdout, clippy::exit)]
#![allow(dead_code, reason = "the tests use more of what they share")]

#[path = "../tests/simulation/mod.rs"]
mod simulation;
#[path = "../tests/support.rs"]
mod support;
#[path = "../tests/thief.rs"]
mod thief;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use alluvium::repo::rules::Rule;
use simulation::history::{Played, play};

/// Settings of glibc's allocator under which memory that is given back and taken again at once costs no system
/// calls: a history takes a third of the time.
const ALLOCATOR: [(&str, &str); 3] = [
    ("MALLOC_TRIM_THRESHOLD_", "1000000000"),
    ("MALLOC_MMAP_THRESHOLD_", "1000000000"),
    ("MALLOC_TOP_PAD_", "67108864"),
];

/// Histories between two lines of progress.
const PROGRESS: u64 = 10_000;

fn main() {
    if std::env::var_os(ALLOCATOR[0].0).is_none() {
        let again = std::env::current_exe().expect("this program");
        let status = std::process::Command::new(again).args(std::env::args_os().skip(1)).envs(ALLOCATOR).status();
        std::process::exit(status.expect("this program starts").code().unwrap_or(1));
    }
    let words: Vec<String> = std::env::args().collect();
    let value = |name: &str| words.iter().position(|w| w == name).and_then(|at| words.get(at + 1));
    let number = |name: &str, default: u64| value(name).map_or(default, |v| v.parse().expect("a number"));
    let without: Option<Rule> = value("--without")
        .map(|name| *Rule::ALL.iter().find(|rule| format!("{rule:?}") == *name).expect("the name of a rule"));
    if value("--seed").is_some() {
        let Played { script, loss, surprise, digest, .. } = play(number("--seed", 0), without, true);
        for line in &script {
            println!("{line}");
        }
        println!("digest {digest}\nloss: {loss:?}\nsurprise: {surprise:?}");
        if loss.is_some() || surprise.is_some() {
            std::process::exit(1);
        }
        return;
    }
    let (first, histories, step) = (number("--first", 1), number("--histories", 2000), number("--step", 1));
    let threads = number("--threads", std::thread::available_parallelism().map_or(2, |n| n.get() as u64));
    let all = words.iter().any(|w| w == "--all");
    let twice = words.iter().any(|w| w == "--twice");
    let begun = Instant::now();
    let (next, found) = (AtomicU64::new(0), AtomicBool::new(false));
    let sums: [AtomicU64; 5] = Default::default();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= histories || (!all && found.load(Ordering::SeqCst)) {
                        break;
                    }
                    if number > 0 && number.is_multiple_of(PROGRESS) {
                        println!("{number} histories in {:.0} s", begun.elapsed().as_secs_f64());
                    }
                    let seed = first + number * step;
                    let played = play(seed, without, twice);
                    if twice && let Some((first, again)) = played.differs(&play(seed, without, true)) {
                        println!("seed {seed}: two histories: {first:?}, then {again:?}");
                        found.store(true, Ordering::SeqCst);
                    }
                    for (sum, n) in
                        sums.iter().zip([1, played.calls, played.taken, played.pruned, played.deleted_packs])
                    {
                        sum.fetch_add(n, Ordering::Relaxed);
                    }
                    if let Some(loss) = &played.loss {
                        println!("seed {seed}: LOSS: {loss}");
                        found.store(true, Ordering::SeqCst);
                    }
                    if let Some(surprise) = &played.surprise {
                        println!("seed {seed}: surprise: {surprise}");
                        found.store(true, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let [played, calls, taken, pruned, deleted] = sums.map(AtomicU64::into_inner);
    println!(
        "{played} histories in {seconds:.1} s: {:.0} a second; {calls} storage calls, {taken} snapshots, {pruned} prunes, {deleted} packs deleted; {}",
        played as f64 / seconds,
        if found.load(Ordering::SeqCst) { "LOSS, SURPRISE OR DIFFERENCE FOUND" } else { "nothing lost" }
    );
    if found.load(Ordering::SeqCst) {
        std::process::exit(1);
    }
}
