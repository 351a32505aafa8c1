//! The command line: the only code that knows clap, terminals, the environment and exit codes.
//!
//! ```text
//! args -> Context (report, output, passphrase, repository) -> commands -> ops -> text or one JSON document
//! ```
//!
//! Standard output is data, standard error is messages. With `--json` a command prints one document; fields are
//! added over time, never renamed or removed. A failure is `{"error": {...}}` on standard error
//! ([`exit::error_document`]). Names are exact in JSON and sanitised everywhere else.

pub mod args;
pub mod commands;
pub mod context;
pub mod exit;
pub mod output;
pub mod password;
pub mod report;
pub mod show;
pub mod signals;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};

use args::{Arguments, Command, Global};
use context::Context;
use exit::{Outcome, exit_code};
use output::Output;
use report::Reporter;

/// One process, one piece of work: one token.
static CANCEL: Cancel = Cancel::new();

/// The program.
pub fn main() -> ExitCode {
    let run = match Arguments::try_parse() {
        Ok(Arguments { global, command }) => run(&global, command),
        Err(refusal) => refuse(&refusal),
    };
    ExitCode::from(exit_code(&run))
}

/// Runs a command and tells its failure.
fn run(global: &Global, command: Command) -> Result<Outcome> {
    let report = Arc::new(Reporter::new(global.json, global.quiet, global.verbose));
    let ended = signals::listen(&CANCEL).and_then(|()| {
        let mut out = Output::new()?;
        let outcome = dispatch(&mut Context::new(global, &mut out, &report, &CANCEL), command);
        report.end_task();
        // What was printed before a failure is data too. A reader that left is no failure, and what the restore
        // then says (a storage error: it could not write) is only that.
        match (outcome, out.finish(Outcome::Done)) {
            (Err(error), Ok(Outcome::ReaderLeft)) if error.kind() == Kind::Storage => Ok(Outcome::ReaderLeft),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(Outcome::Done), Ok(Outcome::Done)) if !report.problems().is_empty() => Ok(Outcome::Problems),
            (Ok(outcome), Ok(Outcome::Done)) => Ok(outcome),
            (Ok(_), Ok(written)) => Ok(written),
        }
    });
    if let Err(error) = &ended {
        report.failure(error);
    }
    ended
}

fn dispatch(context: &mut Context<'_>, command: Command) -> Result<Outcome> {
    match command {
        Command::Init(arguments) => commands::init::init(context, &arguments),
        Command::Snapshot(arguments) => commands::snapshot::snapshot(context, arguments),
        Command::Snapshots(filter) => commands::list::snapshots(context, filter),
        Command::Ls { snapshot } => commands::list::ls(context, &snapshot),
        Command::Diff(arguments) => commands::list::diff(context, &arguments),
        Command::Stats { sources, tables } => commands::list::stats(context, sources || tables, tables),
        Command::Cat { snapshot } => commands::restore::cat(context, &snapshot),
        Command::Restore(arguments) => commands::restore::restore(context, &arguments),
        Command::Forget(arguments) => commands::forget::forget(context, *arguments),
        Command::Prune(arguments) => commands::prune::prune(context, &arguments),
        Command::Check(arguments) => commands::check::check(context, &arguments),
        Command::Sync(arguments) => commands::sync::sync(context, *arguments),
        Command::Key(arguments) => commands::key::key(context, arguments),
        Command::Repair(args::Repair::Index) => commands::check::repair_index(context),
        Command::Demo { folder } => commands::demo::demo(context, folder),
        Command::Generate(what) => commands::generate::generate(context, what),
    }
}

/// What clap says instead of arguments: help and version, or what is wrong with them.
fn refuse(refusal: &clap::Error) -> Result<Outcome> {
    if !refusal.use_stderr() {
        let _ = refusal.print();
        return Ok(Outcome::Done);
    }
    let text = refusal.render().to_string();
    // The rest repeats the usage.
    let message = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    let error = Error::new(Kind::Usage, message).hint("`alluvium --help` shows what there is");
    // Parsing failed, so whether JSON is wanted has to be seen from the words themselves.
    if std::env::args_os().take_while(|word| word != "--").any(|word| word == "--json") {
        Reporter::new(true, false, false).failure(&error);
    } else {
        let _ = refusal.print();
    }
    Err(error)
}
