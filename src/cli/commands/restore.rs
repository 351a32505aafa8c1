//! `restore` and `cat`

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::error::Result;
use crate::ops;
use crate::ops::restore::{Restored, Target};
use crate::ops::select::{Narrow, snapshot_and_part};
use crate::repo::Repository;
use crate::repo::reader::Reader;
use crate::repo::snapshots::Snapshot;
use crate::report::Report;

use super::super::args::Restore;
use super::super::context::{Context, to_value};
use super::super::exit::Outcome;
use super::super::show::{counted, short, size, took};

/// Restores to a path, or to standard output.
///
/// # Errors
/// Those of [`ops::restore::restore`].
pub fn restore(context: &mut Context<'_>, arguments: &Restore) -> Result<Outcome> {
    let output = arguments.output.as_deref().filter(|path| *path != Path::new("-"));
    let narrow = match (arguments.data_only, arguments.schema_only) {
        (true, _) => Narrow::Data,
        (_, true) => Narrow::Schema,
        _ => Narrow::Everything,
    };
    work(context, &arguments.snapshot, narrow, output, arguments.overwrite)
}

/// Writes a part to standard output.
///
/// # Errors
/// Those of [`ops::restore::restore`].
pub fn cat(context: &mut Context<'_>, name: &str) -> Result<Outcome> {
    work(context, name, Narrow::AsItIs, None, false)
}

fn work(
    context: &mut Context<'_>,
    name: &str,
    narrow: Narrow,
    output: Option<&Path>,
    overwrite: bool,
) -> Result<Outcome> {
    let repo = context.open()?;
    let begun = Instant::now();
    let (snapshots, indexed) = context.snapshots_to_read(&repo)?;
    let parts = |snapshot: &Snapshot| Reader::new(&indexed)?.parts(&snapshot.manifest);
    let (snapshot, wanted) = snapshot_and_part(&snapshots, name, &context.global.timezone, &parts)?;
    let wanted = wanted.narrowed(narrow)?;
    warn_of_others(context, &repo, &snapshots, snapshot);
    let target = match output {
        Some(path) => Target::Path { path, overwrite },
        None => Target::Stream(&mut *context.out),
    };
    let restored = ops::restore::restore(
        &indexed,
        snapshot,
        &wanted,
        target,
        context.global.memory,
        context.report,
        context.cancel,
    )?;
    let document = || {
        let mut document = to_value(&restored);
        document["seconds"] = json!(begun.elapsed().as_secs_f64());
        document
    };
    match output {
        Some(_) if context.global.json => context.document(document()),
        // Standard output holds the data, so what is to be said goes to the other side.
        None if context.global.json => context.report.document(document()),
        Some(path) => closing(context, &restored, &format!(" to {}", path.display()), begun),
        None => closing(context, &restored, "", begun),
    }
    Ok(match restored.failed {
        0 => Outcome::Done,
        _ if restored.damaged > 0 => Outcome::Damage,
        _ => Outcome::Problems,
    })
}

fn closing(context: &Context<'_>, restored: &Restored, to: &str, begun: Instant) {
    let Restored { id, parts, bytes, failed, .. } = restored;
    let failed = if *failed == 0 { String::new() } else { format!("; {} failed", counted(*failed, "part")) };
    context.report.close(&format!(
        "restored {} of snapshot {}, {}{to}, {}{failed}",
        counted(*parts, "part"),
        short(id),
        size(*bytes),
        took(begun.elapsed())
    ));
}

/// Warns when the snapshot is not the only word on its source: another slot has one, too, or its time is in the future.
fn warn_of_others(context: &Context<'_>, repo: &Repository, snapshots: &[Snapshot], chosen: &Snapshot) {
    let series = |snapshot: &Snapshot| (snapshot.manifest.source.clone(), snapshot.manifest.host.clone());
    let author = repo.keys.slot_name(chosen.author);
    let (id, source) = (short(&chosen.id), chosen.manifest.source.escape_debug());
    let mut known = BTreeSet::from([chosen.author]);
    // The newest first: of each other slot its newest.
    for other in snapshots.iter().filter(|other| series(other) == series(chosen)) {
        if known.insert(other.author) {
            let (of, newest) = (repo.keys.slot_name(other.author), short(&other.id));
            context.report.warn(&format!(
                "snapshot {id} of `{source}` was taken with the passphrase of {author}; the newest of {of} is {newest}"
            ));
        }
    }
    if chosen.manifest.time > repo.env.now() {
        context.report.warn(&format!("snapshot {id} of `{source}` says that it was taken {}", chosen.manifest.time));
    }
}
