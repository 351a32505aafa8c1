//! How the library's [`Report`] looks: a progress bar on a terminal, a line now and then in a log, and with
//! `--json` nothing at all until the document. All of it goes to standard error, sanitised.

use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::error::Error;
use crate::report::{Collect, Counter, Problem, Report, Unit};

use super::exit::{error_document, error_text};
use super::show::{sanitize, short, size};

/// Least time between two lines of progress in a log.
const LINE_EVERY: Duration = Duration::from_secs(5);
const RED: &str = "31";
const YELLOW: &str = "33";

/// Tells a person, or a log.
#[derive(Debug)]
pub struct Reporter {
    json: bool,
    quiet: bool,
    verbose: bool,
    terminal: bool,
    colour: bool,
    heard: Collect,
    task: Mutex<Option<Task>>,
}

/// What runs at the moment.
#[derive(Debug)]
struct Task {
    name: String,
    total: Option<u64>,
    counting: bool,
    done: u64,
    /// Bytes of this task that counters have told: a snapshot of files tells its progress file by file.
    counted: u64,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Reporter {
    /// A reporter for these options and this standard error.
    pub fn new(json: bool, quiet: bool, verbose: bool) -> Self {
        let terminal = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let colour = wants_colour(terminal, std::env::var_os("NO_COLOR").as_deref());
        Self { json, quiet, verbose, terminal, colour, heard: Collect::default(), task: Mutex::new(None) }
    }

    /// The value of a counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.heard.get(counter)
    }

    /// The problems so far.
    pub fn problems(&self) -> Vec<Problem> {
        self.heard.problems()
    }

    /// The current task has ended: its bar goes away.
    pub fn end_task(&self) {
        if let Some(bar) = self.task().take().and_then(|task| task.bar) {
            bar.finish_and_clear();
        }
    }

    /// A closing sentence for people, on standard error.
    pub fn close(&self, text: &str) {
        self.end_task();
        if !self.quiet && !self.json {
            self.say("", &sanitize(text));
        }
    }

    /// A sentence for those who asked for more.
    pub fn detail(&self, text: &str) {
        if self.verbose && !self.json {
            self.say("", &sanitize(text));
        }
    }

    /// The failure that ended the run.
    pub fn failure(&self, error: &Error) {
        self.end_task();
        if self.json {
            self.document(json!({ "error": error_document(error) }));
        } else {
            self.say(RED, &error_text(error));
        }
    }

    /// A document on standard error, with what was heard.
    pub fn document(&self, mut document: Value) {
        self.add_heard(&mut document);
        write_stderr(&document.to_string());
    }

    /// Adds the problems and warnings so far to those that an object has.
    pub fn add_heard(&self, document: &mut Value) {
        let Value::Object(fields) = document else { return };
        for (field, heard) in [("problems", json!(self.heard.problems())), ("warnings", json!(self.heard.warnings()))] {
            let known = fields.entry(field).or_insert_with(|| json!([]));
            if let (Value::Array(known), Value::Array(heard)) = (known, heard) {
                let new: Vec<Value> = heard.into_iter().filter(|one| !known.contains(one)).collect();
                known.extend(new);
            }
        }
    }

    /// Writes `text`, which is sanitised, around the bar.
    fn say(&self, colour: &str, text: &str) {
        let line = if self.colour && !colour.is_empty() {
            format!("\x1b[{colour}malluvium:\x1b[0m {text}")
        } else {
            format!("alluvium: {text}")
        };
        match self.task().as_ref().and_then(|task| task.bar.as_ref()) {
            Some(bar) => bar.suspend(|| write_stderr(&line)),
            None => write_stderr(&line),
        }
    }

    fn task(&self) -> MutexGuard<'_, Option<Task>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `no_color` is the variable of <https://no-color.org>: set to anything but nothing, it means no.
fn wants_colour(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

/// A standard error that can't be written to is no reason to fail.
fn write_stderr(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A problem as people read it.
pub fn problem_text(problem: &Problem) -> String {
    let Problem { object, what, snapshots } = problem;
    let harmed: Vec<String> = snapshots.iter().map(short).collect();
    let harms = if harmed.is_empty() { String::new() } else { format!(" (harms {})", harmed.join(", ")) };
    sanitize(&format!("{object}: {what}{harms}")).into_owned()
}

impl Report for Reporter {
    fn count(&self, counter: Counter, n: u64) {
        self.heard.count(counter, n);
        if matches!(counter, Counter::SourceBytes | Counter::RestoredBytes)
            && let Some(task) = self.task().as_mut().filter(|task| !task.counting)
        {
            task.counted += n;
            let counted = task.counted;
            task.advance(counted);
        }
    }

    fn problem(&self, problem: Problem) {
        if !self.json {
            self.say(YELLOW, &problem_text(&problem));
        }
        self.heard.problem(problem);
    }

    fn task(&self, name: &str, unit: Unit, total: Option<u64>) {
        self.end_task();
        if self.quiet || self.json {
            return;
        }
        let counting = unit == Unit::Things;
        let name = sanitize(name).into_owned();
        let bar = self.terminal.then(|| new_bar(&name, total, counting));
        *self.task() = Some(Task { name, total, counting, done: 0, counted: 0, told: Instant::now(), bar });
    }

    fn progress(&self, done: u64) {
        if let Some(task) = self.task().as_mut() {
            task.advance(done);
        }
    }

    fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            self.say("", &sanitize(text));
        }
    }

    fn warn(&self, text: &str) {
        if !self.json {
            self.say(YELLOW, &format!("warning: {}", sanitize(text)));
        }
        self.heard.warn(text);
    }
}

impl Task {
    /// Progress never goes back: threads tell theirs in any order.
    fn advance(&mut self, done: u64) {
        self.done = self.done.max(done);
        if let Some(bar) = &self.bar {
            // The total of a stream is a guess: as long as last time.
            if self.total.is_some_and(|total| total < self.done) {
                bar.set_length(self.done);
            }
            bar.set_position(self.done);
        } else if self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            write_stderr(&format!("alluvium: {}", self.line()));
        }
    }

    fn line(&self) -> String {
        let figure = |n: u64| if self.counting { n.to_string() } else { size(n) };
        match self.total.filter(|&total| total >= self.done) {
            Some(total) => format!("{}: {} of {}", self.name, figure(self.done), figure(total)),
            None => format!("{}: {}", self.name, figure(self.done)),
        }
    }
}

fn new_bar(name: &str, total: Option<u64>, counting: bool) -> ProgressBar {
    let template = match (total.is_some(), counting) {
        (true, true) => "{prefix} [{bar:24}] {pos}/{len}",
        (false, true) => "{prefix} {spinner} {pos}",
        (true, false) => {
            "{prefix} [{bar:24}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left"
        }
        (false, false) => "{prefix} {spinner} {binary_bytes}, {binary_bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.with_style(style.progress_chars("=> ")).with_prefix(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_name_their_object_once_and_stay_on_their_line() {
        let problem =
            |object: &str, what: &str, snapshots: &[&str]| problem_text(&Problem::new(object, what).harming(snapshots));
        assert_eq!(problem("packs/4f", "packs/4f: the pack is missing", &[]), "packs/4f: the pack is missing");
        assert_eq!(
            problem("a\nb", "could not be read", &["0123456789ab"]),
            "a\\nb: could not be read (harms 01234567)"
        );
    }

    #[test]
    fn colour_is_for_terminals_of_people_who_want_it() {
        assert!(wants_colour(true, None) && wants_colour(true, Some(OsStr::new(""))));
        assert!(!wants_colour(true, Some(OsStr::new("1"))) && !wants_colour(false, None));
    }

    #[test]
    fn progress_does_not_go_back_and_outgrows_a_guess() {
        let mut task = Task {
            name: "shop".into(),
            total: Some(2048),
            counting: false,
            done: 0,
            counted: 0,
            told: Instant::now(),
            bar: None,
        };
        task.advance(1024);
        task.advance(512);
        assert_eq!(task.line(), "shop: 1.0 KiB of 2.0 KiB");
        task.advance(4096);
        assert_eq!(task.line(), "shop: 4.0 KiB");
    }
}
