//! The model of the ordering rules (`tests/model/protocol.pml`), searched by spin: with all rules every
//! published snapshot stays restorable, in every order of steps; without any one of them spin finds the loss.
//!
//! The search is exhaustive: every state is kept, none as a hash only. `docs/protocol.md` tells what the
//! scenarios cover and what each loss looks like.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Searches at a time.
const THREADS: usize = 2;
/// MiB of memory of one search.
const MEMORY_MIB: u32 = 4000;

/// A scenario with all rules, and the states that it has at least: a model that got stuck early has fewer.
const SCENARIOS: [(&str, u64); 10] = [
    ("1", 2_000_000),  // two writers, of both kinds, answers that get lost, prune, forget
    ("2", 10_000_000), // two prunes, one after a forget, a writer, a session that died
    ("3", 5_000_000),  // a prune that sleeps, another that runs twice, a writer
    ("4", 100_000),    // a restore, a prune that repacks, a writer, forget
    ("5", 200_000),    // two prunes that repack and rewrite one index object, forget
    ("6", 300_000),    // a prune that runs twice, an index object that appears late, a writer, forget
    ("7", 20_000),     // two prunes, a needed pack that is condemned, an index object that appears late
    ("8", 300_000),    // a rotten copy: two prunes that repack; or a writer, prune, forget
    ("9", 2_000_000),  // a hostile writer, an honest one, a prune that repacks, forget
    ("10", 4_000_000), // two forgets that each leave one snapshot of two, two prunes
];

/// A rule, the flags that take it away, the scenario that shows the loss.
const RULES: &[(&str, &[&str], &str)] = &[
    ("I1: the index before the manifest", &["NO_I1_INDEX"], "1"),
    ("I2: a reader reads the index again", &["NO_I2"], "4"),
    ("I2: and again, until nothing in it is new", &["NO_I2_UNTIL_NOTHING_IS_NEW"], "4"),
    ("I3: forget deletes the manifest and no data", &["NO_I3_FORGET"], "1"),
    ("I4: a writer registers first", &["NO_REGISTER_FIRST"], "1"),
    ("I4: it reads the generation before it relies on a pack", &["NO_READ_BEFORE_RELY"], "1"),
    ("I4: its heartbeat says what it has read", &["NO_HONEST_BEAT"], "1"),
    ("I4: nobody relies on a condemned pack", &["NO_AVOID_CONDEMNED"], "1"),
    ("I4: prune condemns before it deletes", &["NO_CONDEMN_FIRST"], "1"),
    ("I4: a generation is created exclusively", &["NO_EXCLUSIVE_GENERATION"], "5"),
    ("I4: of two prunes that judged by one generation, one deletes", &["NO_ONE_OF_TWO"], "7"),
    ("I4: a generation carries over what is condemned", &["NO_CARRY_OVER"], "2"),
    ("I4: condemned stays condemned, there is no pardon", &["NO_STAY_CONDEMNED"], "5"),
    ("I4: prune waits for the sessions that began before", &["NO_WAIT"], "1"),
    ("I4: prune fences whom it takes for dead", &["NO_FENCE"], "1"),
    ("I4: a manifest is created exclusively", &["NO_EXCLUSIVE_MANIFEST"], "1"),
    ("I4: prune marks again before it deletes", &["NO_REMARK"], "1"),
    ("I4: and then spares every copy of what is needed", &["NO_REMARK_KEEPS_ALL"], "3"),
    ("I4: the survey spares every copy where all are condemned", &["NO_SURVEY_KEEPS_CONDEMNED"], "3"),
    ("I4: an unclear publication is settled by a fence", &["NO_UNCLEAR"], "1"),
    ("listings: sessions no older than the generation", &["NO_LISTING_SESSIONS"], "1"),
    ("listings: snapshots no older than the generation", &["NO_LISTING_SNAPSHOTS"], "1"),
    ("listings: index no older than the generation", &["NO_LISTING_INDEX"], "5"),
    ("I5: packs are there before a manifest is published", &["NO_I5"], "6"),
    ("I6: prune refuses a listing that was cut short", &["NO_I6"], "5"),
    ("I7: the new index before the old one goes", &["NO_I7"], "5"),
    ("a copy is verified before another one goes", &["NO_VERIFY"], "8"),
    ("where the copy can't be read for now, the other one stays", &["NO_UNREAD_STAYS"], "8"),
    ("a session relies on no distrusted copy", &["NO_AVOID_DISTRUSTED"], "8"),
    ("a generation carries over what is distrusted", &["NO_CARRY_DISTRUSTED"], "8"),
    ("a copy is verified, whoever wrote it", &["NO_VERIFY"], "9"),
    ("nobody relies on the packs of another write-only slot", &["NO_AVOID_UNVOUCHED"], "9"),
    ("a write-only slot describes no packs but its own", &["NO_CLAIMS_OF_OWN_PACKS"], "9"),
    ("a heartbeat counts only when its session's slot signed it", &["NO_OWN_HEARTBEAT"], "9"),
    ("a generation counts only when it is signed", &["NO_SIGNED_GENERATIONS"], "9"),
    ("what a listing lacks is missing only when its name is gone", &["NO_MISSING_BY_NAME"], "9"),
    ("a manifest is created exclusively, whoever fenced it", &["NO_EXCLUSIVE_MANIFEST"], "9"),
    ("forget publishes its decision first", &["NO_FORGET_PUBLISHES"], "10"),
    ("forget plans again when its number is taken", &["NO_FORGET_PLANS_AGAIN"], "10"),
    ("forget reads snapshots after the generation", &["NO_FORGET_READS_GENERATION_FIRST"], "10"),
    ("a forgotten snapshot counts as gone for forget", &["NO_FORGOTTEN_COUNT_AS_GONE"], "10"),
    ("a forgotten snapshot is marked until it is gone", &["NO_MARK_FORGOTTEN"], "10"),
    ("prune carries over what is forgotten", &["NO_CARRY_FORGOTTEN"], "10"),
    ("forget carries over what is condemned", &["NO_FORGET_CARRIES_CONDEMNED"], "10"),
    ("forget carries over who judged last", &["NO_FORGET_CARRIES_JUDGED"], "10"),
    ("prune accepts a newer generation only where no prune judged", &["NO_JUDGED"], "10"),
    // I5 stands behind these two: it sees that a pack is not there.
    ("I1: the pack before the index (with I5 gone)", &["NO_I1_PACK", "NO_I5"], "1"),
    ("I3: prune takes a pack out of the index first (with I5 gone)", &["NO_I3_PRUNE", "NO_I5"], "2"),
];

/// Without these nothing is lost, in this scenario: that makes the pairs above mean something, and
/// keeps `docs/protocol.md` honest about what is belt and braces.
const REDUNDANT: &[(&str, &[&str], &str)] = &[
    ("I4: commit reads the generation again, and stores again", &["NO_REREAD"], "1"),
    ("I4: commit reads the generation again, and stores again", &["NO_REREAD"], "6"),
    ("I1: the pack before the index", &["NO_I1_PACK"], "1"),
    ("I5, for the pair with I1", &["NO_I5"], "1"),
    ("I5, for the pair with I3", &["NO_I5"], "2"),
];

#[test]
fn the_protocol_loses_nothing_and_needs_its_rules() {
    let full = SCENARIOS.iter().map(|&(scenario, floor)| Job {
        rule: "all rules",
        flags: &[],
        scenario,
        expect: Expect::Holds(floor),
    });
    let broken = RULES.iter().map(|&(rule, flags, scenario)| Job { rule, flags, scenario, expect: Expect::Loss });
    let redundant =
        REDUNDANT.iter().map(|&(rule, flags, scenario)| Job { rule, flags, scenario, expect: Expect::Holds(1000) });
    let jobs: Vec<Job> = full.chain(redundant).chain(broken).collect();

    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(String::new()));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(what) = job.run() {
                        let mut wrong = wrong.lock().expect("no thread panics with it");
                        let _ = writeln!(wrong, "scenario {}, {}: {what}", job.scenario, job.rule);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no thread panics with it");
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_rule_of_the_model_is_tried() {
    let model = include_str!("model/protocol.pml");
    for word in model.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|w| w.starts_with("NO_")) {
        assert!(
            RULES.iter().chain(REDUNDANT).any(|(_, flags, _)| flags.contains(&word)) || word == "NO_",
            "the model has {word}, and no test takes that rule away"
        );
    }
}

enum Expect {
    /// No error, a complete search, at least so many states.
    Holds(u64),
    /// An assertion that does not hold.
    Loss,
}

struct Job {
    rule: &'static str,
    flags: &'static [&'static str],
    scenario: &'static str,
    expect: Expect,
}

impl Job {
    fn run(&self) -> Result<(), String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/protocol.pml");
        let mut spin = Command::new("spin");
        spin.arg("-a").arg(format!("-DSCENARIO={}", self.scenario)).args(self.flags.iter().map(|f| format!("-D{f}")));
        output(spin.arg(model), folder.path())?;
        let memory = format!("-DMEMLIM={MEMORY_MIB}");
        output(
            Command::new("cc").args(["-O2", "-w", "-DSAFETY", "-DNOFAIR", &memory, "-o", "pan", "pan.c"]),
            folder.path(),
        )?;
        // -E: a process may stop anywhere, so that not all of them end is no error.
        let told = output(Command::new("./pan").args(["-E", "-m20000", "-w24"]), folder.path())?;

        let complete = ["Search not completed", "max search depth too small", "out of memory", "resource exhausted"]
            .iter()
            .all(|bad| !told.contains(bad));
        let states = number_before(&told, " states, stored").ok_or_else(|| format!("no count of states: {told}"))?;
        match self.expect {
            Expect::Holds(_) if told.contains("assertion violated") => {
                Err(format!("a loss was found; `spin -t -p` on the model tells the steps:\n{told}"))
            }
            Expect::Holds(_) if !complete || !told.contains("errors: 0") => {
                Err(format!("the search was not complete:\n{told}"))
            }
            Expect::Holds(floor) if states < floor => Err(format!("only {states} states instead of {floor} or more")),
            Expect::Loss if !told.contains("assertion violated") => {
                Err(format!("the model does not need this rule: nothing is lost without it ({states} states)"))
            }
            Expect::Holds(_) | Expect::Loss => Ok(()),
        }
    }
}

fn output(command: &mut Command, folder: &Path) -> Result<String, String> {
    let run = command
        .current_dir(folder)
        .output()
        .map_err(|e| format!("{command:?} can't be run: {e}; Debian has it as the package `spin`"))?;
    let told = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    // pan ends with a status that is not 0 in no case that matters here; what it says is looked at.
    if run.status.success() { Ok(told) } else { Err(format!("{command:?}: {}: {told}", run.status)) }
}

/// The number in front of `words`.
fn number_before(text: &str, words: &str) -> Option<u64> {
    text[..text.find(words)?].rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
