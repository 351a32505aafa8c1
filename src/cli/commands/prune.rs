//! `prune`, by itself and after `forget`.

use std::time::Duration;

use serde_json::json;

use crate::error::Result;
use crate::ops;
use crate::ops::prune::{MaxUnused, Plan, PruneOptions};
use crate::repo::Repository;

use super::super::args::Prune;
use super::super::context::{Context, host_name, to_value};
use super::super::exit::Outcome;
use super::super::show::{counted, size};

/// How long a temporary file of a killed writer stays: longer than any single object takes to write.
const TEMPORARY_STAYS: Duration = Duration::from_hours(24);

/// Prunes, or shows what that would do.
///
/// # Errors
/// Those of [`ops::prune::prune`].
pub fn prune(context: &mut Context<'_>, arguments: &Prune) -> Result<Outcome> {
    let repo = context.open()?;
    let options = options(context, arguments.max_unused, arguments.allow_empty);
    let plan = run(context, &repo, &options, arguments.dry_run)?;
    if context.global.json {
        let mut document = to_value(&plan);
        document["dry_run"] = json!(arguments.dry_run);
        context.document(document);
    } else {
        show(context, &plan, arguments.dry_run);
    }
    Ok(Outcome::Done)
}

/// The options of a prune.
pub fn options(context: &Context<'_>, max_unused: MaxUnused, allow_empty: bool) -> PruneOptions {
    PruneOptions { max_unused, allow_empty, host: host_name(), write: context.write_options() }
}

/// Prunes, and sweeps what killed writers left beside the repository's objects.
///
/// # Errors
/// Those of [`ops::prune::prune`].
pub fn run(context: &Context<'_>, repo: &Repository, options: &PruneOptions, dry_run: bool) -> Result<Plan> {
    let plan = ops::prune::prune(repo, options, dry_run, context.report, context.cancel)?;
    if !dry_run {
        repo.storage.sweep_temporary(TEMPORARY_STAYS)?;
    }
    Ok(plan)
}

/// The plan, what was done, and what waits for whom.
pub fn show(context: &mut Context<'_>, plan: &Plan, dry_run: bool) {
    let Plan {
        packs,
        bytes,
        used_bytes,
        unused_packs,
        unused_bytes,
        repack_packs,
        repack_bytes,
        kept_unused_bytes,
        ..
    } = *plan;
    let packs_of = |n: u64, bytes: u64| format!("{} ({})", counted(n, "pack"), size(bytes));
    context.closing(&format!("{}; snapshots need {}", packs_of(packs, bytes), size(used_bytes)));
    if unused_packs > 0 {
        context.closing(&format!("to delete: {} that nobody needs", packs_of(unused_packs, unused_bytes)));
    }
    if repack_packs > 0 {
        context.closing(&format!("to repack: {} that are partly used or small", packs_of(repack_packs, repack_bytes)));
    }
    if kept_unused_bytes > 0 {
        context.closing(&format!("{} of unused data may stay (--max-unused)", size(kept_unused_bytes)));
    }
    if plan.verified_blobs > 0 {
        let copies = if plan.verified_blobs == 1 { "copy" } else { "copies" };
        context.closing(&format!("verified {} {copies} that stay in place of others", plan.verified_blobs));
    }
    if plan.unverified_packs > 0 {
        let packs = counted(plan.unverified_packs, "pack");
        context.closing(&format!("{packs} that stay: the other copy of what they hold could not be read"));
    }
    if plan.deleted_packs > 0 {
        context.closing(&format!("deleted {}", packs_of(plan.deleted_packs, plan.deleted_bytes)));
    }
    if plan.kept_packs > 0 {
        context.closing(&format!("{} that the storage keeps", counted(plan.kept_packs, "pack")));
    }
    if plan.waiting_packs > 0 {
        context.closing(&format!(
            "{} will go with the next prune, when these have ended:",
            counted(plan.waiting_packs, "pack")
        ));
    }
    for session in &plan.waiting_for {
        let host = if session.host.is_empty() { "an unknown host" } else { &session.host };
        let seen = context.time(session.seen);
        context.closing(&format!("  {} on {host} (process {}), last seen {seen}", session.purpose, session.pid));
    }
    if dry_run {
        context.closing("a dry run: nothing was deleted");
    } else if plan.deleted_packs == 0 && plan.waiting_packs == 0 {
        context.closing("nothing to delete");
    }
}
