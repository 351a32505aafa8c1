//! `snapshot`

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use rustix::fs::FileType;
use serde_json::json;

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::ops;
use crate::ops::snapshot::{SnapshotOptions, Source, Taken};
use crate::repo::writer::WriteOptions;
use crate::report::Counter;
use crate::source::pipe::Pipe;

use super::super::args::Snapshot;
use super::super::context::{Context, host_name, to_value};
use super::super::exit::Outcome;
use super::super::show::{counted, short, size, took};

/// Takes a snapshot. One that is far smaller than the one before is a problem, though it is stored.
///
/// # Errors
/// Those of [`ops::snapshot::snapshot`].
pub fn snapshot(context: &mut Context<'_>, arguments: Snapshot) -> Result<Outcome> {
    let (source, name) = source(arguments.paths, arguments.command, arguments.name, context.cancel)?;
    let options = SnapshotOptions {
        name,
        host: arguments.host.unwrap_or_else(host_name),
        zone: TimeZone::system().iana_name().unwrap_or("UTC").to_owned(),
        tags: arguments.tags.into_iter().collect(),
        write: WriteOptions { memory_bytes: context.global.memory, level: arguments.compression },
        allow_shrink: arguments.allow_shrink,
        evidence: None,
    };
    let repo = context.open()?;
    let begun = Instant::now();
    let taken = ops::snapshot::snapshot(&repo, source, &options, context.report, context.cancel)?;
    let outcome = context.older_than_seen(taken.older_than_seen.clone());
    show(context, &taken, begun.elapsed());
    if outcome != Outcome::Done {
        return Ok(outcome);
    }
    let all_well = taken.shrunk_from.is_none() && taken.left_out == 0 && taken.changed == 0;
    Ok(if all_well { Outcome::Done } else { Outcome::Problems })
}

/// What is to be backed up, and its name.
fn source(
    paths: Vec<PathBuf>,
    command: Vec<String>,
    name: Option<String>,
    cancel: &Cancel,
) -> Result<(Source<'_>, String)> {
    let usage = |what: &str, hint: &str| Err(Error::new(Kind::Usage, what).hint(hint));
    let named = |name: Option<String>| {
        name.ok_or_else(|| Error::new(Kind::Usage, "the snapshot has no name").hint("say what it is of: --name shop"))
    };
    let is_stdin = |path: &PathBuf| path.as_os_str() == "-";
    match (&paths[..], &command[..]) {
        ([], []) => usage(
            "there is nothing to back up",
            "name files or folders, give a command behind `--`, or say `-` for standard input",
        ),
        ([], _) => Ok((Source::Command(command), named(name)?)),
        (_, [_, ..]) => usage("a snapshot is of files or of a command's output, not of both", "take two snapshots"),
        ([path], []) if is_stdin(path) => Ok((standard_input(cancel)?, named(name)?)),
        _ if paths.iter().any(is_stdin) => usage("`-` stands by itself", "a file of this name is called ./-"),
        _ => {
            let name = name.map_or_else(|| name_of(&paths), Ok)?;
            Ok((Source::Files(paths), name))
        }
    }
}

fn standard_input(cancel: &Cancel) -> Result<Source<'_>> {
    if std::io::stdin().is_terminal() {
        return Err(Error::new(Kind::Usage, "standard input is a terminal: there is no stream to back up")
            .hint("pipe a dump into it, or give the dump command: snapshot --name shop -- pg_dump shop"));
    }
    // Of a regular file the length is known; of a pipe it is not.
    let bytes =
        rustix::fs::fstat(std::io::stdin()).ok().filter(|found| FileType::from_raw_mode(found.st_mode).is_file());
    Ok(Source::Stream { input: Box::new(Pipe::stdin(cancel)?), bytes: bytes.map(|found| found.st_size as u64) })
}

/// The names of the files, joined.
fn name_of(paths: &[PathBuf]) -> Result<String> {
    let names = paths.iter().map(|path| {
        file_name(path).ok_or_else(|| {
            Error::new(Kind::Usage, format!("{} has no name of its own", path.display()))
                .hint("say what the snapshot is of: --name shop")
        })
    });
    Ok(names.collect::<Result<Vec<_>>>()?.join("+"))
}

/// `.` and `..` are called what they stand for.
fn file_name(path: &Path) -> Option<String> {
    let name = match path.file_name() {
        Some(name) => name.to_owned(),
        None => path.canonicalize().ok()?.file_name()?.to_owned(),
    };
    Some(name.to_string_lossy().into_owned())
}

fn show(context: &mut Context<'_>, taken: &Taken, time: Duration) {
    let get = |counter| context.report.get(counter);
    let (packs, predicted, misses) = (get(Counter::Packs), get(Counter::PredictedChunks), get(Counter::FilterMisses));
    if context.global.json {
        let mut document = to_value(taken);
        document["packs"] = json!(packs);
        document["predicted_chunks"] = json!(predicted);
        document["filter_misses"] = json!(misses);
        document["seconds"] = json!(time.as_secs_f64());
        return context.document(document);
    }
    let (read, added) = (size(taken.bytes), size(taken.stored.stored_bytes));
    let stored = taken.stored;
    let new = match stored.new_bytes {
        0 => "nothing new".to_owned(),
        new => format!("{} new, {added} stored ({:.1} times less)", size(new), ratio(taken.bytes, stored.stored_bytes)),
    };
    context.closing(&format!("snapshot {} of {}: {read} read, {new}, {}", short(&taken.id), taken.source, took(time)));
    context.report.detail(&format!(
        "{} ({predicted} where the snapshot before had them), {} new, {}; {misses} lookups without the disk",
        counted(stored.chunks, "chunk"),
        stored.new_chunks,
        counted(packs, "pack")
    ));
}

/// How many times less is stored than was read.
fn ratio(read: u64, stored: u64) -> f64 {
    read as f64 / stored.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(paths: &[&str], command: &[&str], name: Option<&str>) -> Result<String> {
        let (paths, command) =
            (paths.iter().map(PathBuf::from).collect(), command.iter().map(|&s| s.to_owned()).collect());
        source(paths, command, name.map(str::to_owned), &Cancel::new()).map(|(_, name)| name)
    }

    #[test]
    fn files_are_named_after_themselves_and_the_rest_by_people() {
        assert_eq!(named(&["./app.db", "exports/"], &[], None).ok().as_deref(), Some("app.db+exports"));
        assert_eq!(named(&["a"], &[], Some("b")).ok().as_deref(), Some("b"));
        assert_eq!(named(&[], &["pg_dump", "shop"], Some("shop")).ok().as_deref(), Some("shop"));
        let refused: [(&[&str], &[&str]); 5] =
            [(&[], &[]), (&[], &["true"]), (&["a"], &["true"]), (&["-", "a"], &[]), (&["/"], &[])];
        for (paths, command) in refused {
            let error = named(paths, command, None).expect_err("refused");
            assert_eq!(error.kind(), Kind::Usage, "{error}");
            assert!(error.advice().is_some(), "{error}");
        }
    }
}
