//! `check` and `repair index`

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::error::{Error, Kind, Result};
use crate::ops;
use crate::ops::check::{CheckOptions, Checked, Subset};
use crate::ops::merge::{Merged, merge};
use crate::ops::repair::Repaired;

use super::super::args::Check;
use super::super::context::{Context, to_value};
use super::super::exit::Outcome;
use super::super::report::problem_text;
use super::super::show::{counted, short};

/// Checks, lists every problem, and says what to do next.
///
/// # Errors
/// Those of [`ops::check::check`].
pub fn check(context: &mut Context<'_>, arguments: &Check) -> Result<Outcome> {
    if !arguments.merge_results.is_empty() {
        return merge_results(context, &arguments.merge_results);
    }
    let read = if arguments.read_data { Some(Subset::ALL) } else { arguments.read_data_subset };
    let repo = context.open_afresh()?;
    if arguments.accept_older_state {
        repo.seen.accept(context.report)?;
    }
    let options = CheckOptions { read, shard: arguments.shard };
    let checked = ops::check::check_with(&repo, options, context.report, context.cancel)?;
    if context.global.json {
        context.document(to_value(&checked));
    } else {
        show(context, &checked);
    }
    Ok(if checked.problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}

/// Joins what the shards of one check found.
fn merge_results(context: &mut Context<'_>, files: &[PathBuf]) -> Result<Outcome> {
    let read = |file: &PathBuf| -> Result<(String, Checked)> {
        let name = file.display().to_string();
        let bytes = std::fs::read(file)
            .map_err(|e| Error::new(Kind::Failed, format!("can't read the result {name}")).because(e))?;
        let checked = serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(Kind::Failed, format!("{name} is not the result of a check"))
                .because(e)
                .hint("a shard that failed leaves none: look at what it said, and run it again")
        })?;
        Ok((name, checked))
    };
    let merged = merge(&files.iter().map(read).collect::<Result<Vec<_>>>()?)?;
    if context.global.json {
        context.document(to_value(&merged));
    } else {
        let Merged { checked, shards, last_started, notes } = &merged;
        show(context, checked);
        let (from, to) = (context.time(checked.started), context.time(*last_started));
        let all = if notes.is_empty() { "which are all of it" } else { "which are all of what was there throughout" };
        context.closing(&format!("from {}, begun {from} to {to}, {all}", counted(u64::from(*shards), "shard")));
        for note in notes {
            context.closing(note);
        }
    }
    Ok(if merged.checked.problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}

fn show(context: &mut Context<'_>, checked: &Checked) {
    context.report.end_task();
    for problem in &checked.problems {
        context.out.line(&problem_text(problem));
    }
    summary(context, checked);
}

fn summary(context: &mut Context<'_>, checked: &Checked) {
    let Checked { snapshots, packs, packs_total, blobs_read, garbage_packs, set_aside, problems, shard, data, .. } =
        checked;
    let looked_at = match shard {
        Some(Subset { part, of }) => format!("{packs} of {}, shard {part} of {of}", counted(*packs_total, "pack")),
        None => counted(*packs, "pack"),
    };
    let data = match *data {
        None => "the data was not read (--read-data)".to_owned(),
        Some(Subset { part, of }) if of > 1 => format!("{} read, part {part} of {of}", counted(*blobs_read, "chunk")),
        Some(_) => format!("{} read", counted(*blobs_read, "chunk")),
    };
    let found = if problems.is_empty() { "no problem".to_owned() } else { counted(problems.len() as u64, "problem") };
    context.closing(&format!("checked {} and {looked_at}, {data}: {found}", counted(*snapshots, "snapshot")));
    if *garbage_packs > 0 {
        context.closing(&format!(
            "{} of interrupted work: `alluvium prune` deletes them",
            counted(*garbage_packs, "pack")
        ));
    }
    if *set_aside > 0 {
        context.closing(&format!(
            "{} that nobody needs any more: `alluvium prune` deletes them",
            counted(*set_aside, "damaged chunk")
        ));
    }
    if problems.is_empty() {
        return;
    }
    let harmed: BTreeSet<&String> = problems.iter().flat_map(|p| &p.snapshots).collect();
    if harmed.is_empty() {
        context.closing("no snapshot is harmed, as far as is known");
    } else {
        let names: Vec<String> = harmed.iter().map(short).collect();
        context.closing(&format!("harmed: {}", names.join(", ")));
    }
    for advice in [
        "what to do: take new snapshots of the same sources now; data that is still the same is stored again, which heals old ones too",
        "if it is the index that is damaged: `alluvium repair index`; then check again",
        "a snapshot that stays harmed can be forgotten by its id; look after the disk, too",
    ] {
        context.closing(advice);
    }
}

/// Repairs the index.
///
/// # Errors
/// Those of [`ops::repair::repair_index`].
pub fn repair_index(context: &mut Context<'_>) -> Result<Outcome> {
    let repo = context.open_afresh()?;
    let repaired = ops::repair::repair_index(&repo, context.report, context.cancel)?;
    if context.global.json {
        context.document(to_value(&repaired));
    } else {
        context.report.end_task();
        for problem in &repaired.problems {
            context.out.line(&problem_text(problem));
        }
        let Repaired { packs_added, packs_dropped, index_objects_replaced, generation_replaced, .. } = repaired;
        context.closing(&format!(
            "{} added to the index, {packs_dropped} taken out, {} replaced",
            counted(packs_added, "pack"),
            counted(index_objects_replaced, "unreadable index object")
        ));
        if repaired.packs_corrected > 0 {
            let packs = counted(repaired.packs_corrected, "pack");
            context.closing(&format!("{packs} listed by their own trailers, which an index object contradicted"));
        }
        if generation_replaced {
            context.closing("the unreadable generation was replaced");
        }
        context.closing("next: `alluvium check`");
    }
    Ok(if repaired.problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}
