//! `check` and `repair index`

use std::collections::BTreeSet;

use crate::error::Result;
use crate::ops;
use crate::ops::check::{Checked, Subset};
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
    let read = if arguments.read_data { Some(Subset::ALL) } else { arguments.read_data_subset };
    let repo = context.open()?;
    if arguments.accept_older_state {
        repo.seen.accept(context.report)?;
    }
    let checked = ops::check::check(&repo, read, context.report, context.cancel)?;
    if context.global.json {
        context.document(to_value(&checked));
    } else {
        context.report.end_task();
        for problem in &checked.problems {
            context.out.line(&problem_text(problem));
        }
        summary(context, &checked, read);
    }
    Ok(if checked.problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}

fn summary(context: &mut Context<'_>, checked: &Checked, read: Option<Subset>) {
    let Checked { snapshots, packs, blobs_read, garbage_packs, set_aside, problems } = checked;
    let data = match read {
        None => "the data was not read (--read-data)".to_owned(),
        Some(Subset { part, of }) if of > 1 => format!("{} read, part {part} of {of}", counted(*blobs_read, "chunk")),
        Some(_) => format!("{} read", counted(*blobs_read, "chunk")),
    };
    let found = if problems.is_empty() { "no problem".to_owned() } else { counted(problems.len() as u64, "problem") };
    context.closing(&format!(
        "checked {} and {}, {data}: {found}",
        counted(*snapshots, "snapshot"),
        counted(*packs, "pack")
    ));
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

/// Mends the index.
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
        if generation_replaced {
            context.closing("the unreadable generation was replaced");
        }
        context.closing("next: `alluvium check`");
    }
    Ok(if repaired.problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}
