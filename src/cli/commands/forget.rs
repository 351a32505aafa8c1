//! `forget`

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};
use crate::id::SnapshotId;
use crate::ops::forget::{Plan, carry_out, plan, plan_named};
use crate::ops::retention::{Group, GroupKey, Policy};
use crate::repo::Repository;
use crate::repo::snapshots::Snapshot;
use crate::report::Report;

use super::super::args::{Forget, Rules};
use super::super::context::{Context, to_value};
use super::super::exit::Outcome;
use super::super::show::{Table, counted, short};
use super::{list, prune};

/// Plans, shows, executes; and prunes when asked to.
///
/// # Errors
/// Those of [`plan`], [`plan_named`], of executing it, and of the prune.
pub fn forget(context: &mut Context<'_>, arguments: Forget) -> Result<Outcome> {
    let Forget { ids, rules, group_by, filter, allow_empty, prune: prune_after, max_unused, dry_run } = arguments;
    let mut policy = policy(context, rules)?;
    policy.group_by = group_by.0.into_iter().collect();
    policy.allow_empty = allow_empty;
    if ids.is_empty() {
        policy.check()?;
    }
    let repo = context.open()?;
    let filter = list::filter(filter);
    let make_plan =
        || if ids.is_empty() { plan(&repo, &filter, &policy) } else { plan_named(&repo, &ids, allow_empty) };
    let mut planned = make_plan()?;
    warn_of_harmed(context, &planned);
    if !context.global.json {
        show(context, &repo, &planned, dry_run)?;
    }
    if !dry_run {
        let shown = planned.remove.clone();
        planned = carry_out(&repo, planned, &make_plan, context.report, context.cancel)?;
        if planned.remove != shown {
            context.report.warn("another forget or prune was at work meanwhile: the snapshots were judged again");
            if !context.global.json {
                show(context, &repo, &planned, dry_run)?;
            }
        }
    }
    // The prune of a dry run would not know what the forget has not done.
    let pruned = if prune_after && !dry_run {
        Some(prune::run(context, &repo, &prune::options(context, max_unused, allow_empty), false)?)
    } else {
        None
    };
    if context.global.json {
        let mut document = to_value(&planned);
        document["dry_run"] = json!(dry_run);
        document["prune"] = pruned.as_ref().map_or(Value::Null, to_value);
        context.document(document);
    } else if let Some(pruned) = &pruned {
        prune::show(context, pruned, false);
    } else {
        context.closing(&next(planned.remove.len() + planned.pending.len(), dry_run, prune_after));
    }
    Ok(Outcome::Done)
}

/// Says which snapshots that stay do not count as good ones, and why.
fn warn_of_harmed(context: &Context<'_>, planned: &Plan) {
    for id in planned.harmed.iter().filter(|id| !planned.remove.contains(id)) {
        let name = id.to_string();
        let why = planned.problems.iter().find(|problem| problem.snapshots.contains(&name));
        let why = why.map_or_else(String::new, |problem| format!(" ({}: {})", problem.object, problem.what));
        context
            .report
            .warn(&format!("snapshot {} can't be restored whole{why}: it does not count as a good one", short(id)));
    }
}

/// The policy of the rules given; of none, one that keeps nothing.
///
/// # Errors
/// `Usage` for an empty tag.
pub fn policy(context: &Context<'_>, rules: Rules) -> Result<Policy> {
    let tags = |list: String| list.split(',').map(|tag| tag.trim().to_owned()).collect::<BTreeSet<_>>();
    let keep_tag: Vec<_> = rules.keep_tag.into_iter().map(tags).collect();
    if keep_tag.iter().any(|tags| tags.contains("")) {
        return Err(Error::new(Kind::Usage, "a tag to keep is empty").hint("name the tag: --keep-tag release"));
    }
    Ok(Policy {
        keep_last: rules.keep_last,
        keep_hourly: rules.keep_hourly,
        keep_daily: rules.keep_daily,
        keep_weekly: rules.keep_weekly,
        keep_monthly: rules.keep_monthly,
        keep_yearly: rules.keep_yearly,
        keep_within: rules.keep_within,
        keep_within_hourly: rules.keep_within_hourly,
        keep_within_daily: rules.keep_within_daily,
        keep_within_weekly: rules.keep_within_weekly,
        keep_within_monthly: rules.keep_within_monthly,
        keep_within_yearly: rules.keep_within_yearly,
        keep_tag,
        timezone: context.global.timezone.clone(),
        ..Policy::default()
    })
}

/// What happens now, and what comes next.
fn next(removed: usize, dry_run: bool, prune_after: bool) -> String {
    match (removed, dry_run) {
        (0, _) => "nothing to forget".to_owned(),
        (_, true) if prune_after => "a dry run: nothing was forgotten, and so there was nothing to prune".to_owned(),
        (_, true) => "a dry run: nothing was forgotten".to_owned(),
        (_, false) => "their data stays until `alluvium prune` deletes what no snapshot needs any more".to_owned(),
    }
}

/// A table a group, and the sums.
fn show(context: &mut Context<'_>, repo: &Repository, planned: &Plan, dry_run: bool) -> Result<()> {
    let snapshots = repo.snapshots()?.0;
    let known: HashMap<SnapshotId, &Snapshot> = snapshots.iter().map(|s| (s.id, s)).collect();
    for group in &planned.groups {
        show_group(context, group, &known);
    }
    if planned.groups.is_empty() && !planned.remove.is_empty() {
        show_named(context, &planned.remove, &known);
    }
    let decisions = planned.groups.iter().flat_map(|g| &g.decisions);
    let kept = decisions.filter(|d| d.keep).count() as u64;
    let removed = planned.remove.len() as u64;
    let would = if dry_run { "would " } else { "" };
    let keep =
        if planned.groups.is_empty() { String::new() } else { format!("{would}keep {}, ", counted(kept, "snapshot")) };
    context.closing(&format!("{keep}{would}remove {}", counted(removed, "snapshot")));
    if !planned.pending.is_empty() {
        let pending = counted(planned.pending.len() as u64, "snapshot");
        context.closing(&format!("{would}remove {pending} that an earlier forget decided on"));
    }
    // Seen before it is done.
    let _ = std::io::Write::flush(context.out);
    Ok(())
}

fn show_group(context: &mut Context<'_>, group: &Group, known: &HashMap<SnapshotId, &Snapshot>) {
    context.out.line(&group_name(&group.key));
    let mut table = Table::new(&["  ", "id", &context.time_head(), "tags", "why"]);
    for decision in group.decisions.iter().rev() {
        let verdict = if decision.keep { "  keep" } else { "  remove" };
        let reasons: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
        let tags = known.get(&decision.id).map_or_else(String::new, |snapshot| list::tags(snapshot));
        table.row([verdict.to_owned(), short(&decision.id), context.time(decision.time), tags, reasons.join("; ")]);
    }
    context.out.table(&table);
}

/// What was named by hand; an unreadable snapshot has nothing but its id.
fn show_named(context: &mut Context<'_>, remove: &[SnapshotId], known: &HashMap<SnapshotId, &Snapshot>) {
    let mut table = Table::new(&["  ", "id", &context.time_head(), "source", "host", "tags"]);
    for id in remove {
        let mut row = vec!["  remove".to_owned(), short(id)];
        match known.get(id) {
            Some(snapshot) => {
                let manifest = &snapshot.manifest;
                row.extend([
                    context.time(manifest.time),
                    manifest.source.clone(),
                    manifest.host.clone(),
                    list::tags(snapshot),
                ]);
            }
            None => row.push("unreadable".to_owned()),
        }
        table.row(row);
    }
    context.out.table(&table);
}

fn group_name(key: &GroupKey) -> String {
    let source = key.source.as_deref().unwrap_or("all sources");
    let host = key.host.as_ref().map_or_else(String::new, |host| format!(" on {host}"));
    let tags = key.tags.as_ref().map_or_else(String::new, |tags| {
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        if tags.is_empty() { " without tags".to_owned() } else { format!(" tagged {}", tags.join(", ")) }
    });
    let slot = key.slot.map_or_else(String::new, |slot| format!(" by write-only slot {}", short(&slot)));
    format!("{source}{host}{tags}{slot}:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_names() {
        let key = |source: Option<&str>, host: Option<&str>, tags: Option<&[&str]>| GroupKey {
            source: source.map(str::to_owned),
            host: host.map(str::to_owned),
            tags: tags.map(|tags| tags.iter().map(|&t| t.to_owned()).collect()),
            slot: None,
        };
        assert_eq!(group_name(&key(Some("shop"), Some("db1"), None)), "shop on db1:");
        assert_eq!(group_name(&key(None, None, Some(&["a", "b"]))), "all sources tagged a, b:");
        assert_eq!(group_name(&key(None, Some("db1"), Some(&[]))), "all sources on db1 without tags:");
    }
}
