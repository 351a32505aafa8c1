//! How a run ends: its exit status, and what a failure says. Both are contracts with scripts: they only ever grow.

use std::error::Error as _;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};

use super::show::sanitize;

/// What a command came to when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Done,
    /// The work was done, and something needs a look: files left out, an unreadable snapshot, far less data.
    Problems,
    /// The work was done, and stored data is damaged.
    Damage,
    /// Whoever read standard output has left (`| head`); what it did not read was not written.
    ReaderLeft,
}

/// The exit status of an interrupted run: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;

/// The exit status: the only place where one is decided.
pub fn exit_code(run: &Result<Outcome>) -> u8 {
    match run {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Problems) => 3,
        Ok(Outcome::Damage) => 13,
        // 128 + SIGPIPE: what the shell would have seen of a program that the signal ended. Not 0: a restore
        // whose reader died must not look complete to `set -o pipefail`.
        Ok(Outcome::ReaderLeft) => 141,
        Err(error) => match error.kind() {
            Kind::Failed | Kind::NotFound | Kind::AlreadyExists | Kind::Storage | Kind::Denied | Kind::Source => 1,
            Kind::Usage => 2,
            Kind::NoRepository => 10,
            Kind::Busy => 11,
            Kind::WrongKey => 12,
            Kind::Damaged => 13,
            Kind::Interrupted => INTERRUPTED,
        },
    }
}

/// The kind's name in JSON.
fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Failed => "failed",
        Kind::Usage => "usage",
        Kind::NoRepository => "no-repository",
        Kind::Busy => "busy",
        Kind::WrongKey => "wrong-key",
        Kind::Damaged => "damaged",
        Kind::Interrupted => "interrupted",
        Kind::NotFound => "not-found",
        Kind::AlreadyExists => "already-exists",
        Kind::Storage => "storage",
        Kind::Denied => "denied",
        Kind::Source => "source",
    }
}

/// The failure as JSON. `cause` joins the causes, the nearest first; it and `hint` may be null.
pub fn error_document(error: &Error) -> Value {
    let causes: Vec<String> = causes(error).collect();
    json!({
        "kind": kind_name(error.kind()),
        "message": error.to_string(),
        "cause": if causes.is_empty() { Value::Null } else { Value::from(causes.join(": ")) },
        "hint": error.advice(),
        "exit_code": exit_code(&Err(Error::new(error.kind(), ""))),
    })
}

/// The failure as people read it, after `alluvium: `: what failed, why, and what to do. A cause of several lines
/// (a command's last words) keeps them, indented.
pub fn error_text(error: &Error) -> String {
    let mut text = String::new();
    for (number, line) in error.to_string().lines().enumerate() {
        let lead = if number == 0 { "" } else { "\n" };
        write!(text, "{lead}{}", sanitize(line)).expect("a string takes all that is written");
    }
    for cause in causes(error) {
        for (number, line) in cause.lines().enumerate() {
            let lead = if number == 0 { "  because: " } else { "           " };
            write!(text, "\n{lead}{}", sanitize(line)).expect("a string takes all that is written");
        }
    }
    if let Some(hint) = error.advice() {
        write!(text, "\n  hint: {}", sanitize(hint)).expect("a string takes all that is written");
    }
    text
}

fn causes(error: &Error) -> impl Iterator<Item = String> {
    std::iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_with_scripts() {
        let outcomes = [(Outcome::Done, 0), (Outcome::Problems, 3), (Outcome::Damage, 13), (Outcome::ReaderLeft, 141)];
        for (outcome, code) in outcomes {
            assert_eq!(exit_code(&Ok(outcome)), code, "{outcome:?}");
        }
        let kinds = [
            (Kind::Failed, 1, "failed"),
            (Kind::NotFound, 1, "not-found"),
            (Kind::AlreadyExists, 1, "already-exists"),
            (Kind::Storage, 1, "storage"),
            (Kind::Denied, 1, "denied"),
            (Kind::Source, 1, "source"),
            (Kind::Usage, 2, "usage"),
            (Kind::NoRepository, 10, "no-repository"),
            (Kind::Busy, 11, "busy"),
            (Kind::WrongKey, 12, "wrong-key"),
            (Kind::Damaged, 13, "damaged"),
            (Kind::Interrupted, 130, "interrupted"),
        ];
        for (kind, code, name) in kinds {
            assert_eq!(exit_code(&Err(Error::new(kind, ""))), code, "{kind:?}");
            assert_eq!(kind_name(kind), name);
        }
    }

    #[test]
    fn a_failure_says_what_why_and_what_to_do() {
        let error = Error::new(Kind::Source, "`pg_dump` failed\x1b[2J")
            .because(Error::new(Kind::Failed, "first\nsecond\u{202e}").because("third"))
            .hint("look");
        let text =
            "`pg_dump` failed\\u{1b}[2J\n  because: first\n           second\\u{202e}\n  because: third\n  hint: look";
        assert_eq!(error_text(&error), text);
        let document = error_document(&error);
        assert_eq!(document["kind"], "source");
        assert_eq!(document["cause"], "first\nsecond\u{202e}: third");
        assert_eq!(document["exit_code"], 1);
    }
}
