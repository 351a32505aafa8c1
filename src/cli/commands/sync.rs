//! `sync`

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::ops;
use crate::ops::forget::Filter;
use crate::ops::sync::{Copied, Mirror, SyncOptions, Synced, Way};
use crate::repo::Repository;
use crate::repo::open::Locked;
use crate::storage::Storage;
use crate::storage::throttle::{Pace, Throttle};

use super::super::args::{Rules, Sync};
use super::super::context::{Context, host_name, to_value};
use super::super::exit::Outcome;
use super::super::password::{Origins, Passphrase};
use super::super::show::{Table, counted, short, size, took};
use super::forget;

/// Copies what is missing, or shows what that would be.
///
/// # Errors
/// Those of [`ops::sync::sync`], and of opening two repositories.
pub fn sync(context: &mut Context<'_>, arguments: Sync) -> Result<Outcome> {
    let start = Instant::now();
    let dry_run = arguments.dry_run;
    let (source, dest) = open_both(context, &arguments)?;
    let options = options(context, arguments)?;
    let synced = ops::sync::sync(&source, &dest, &options, context.report, context.cancel)?;
    let outcome = context.older_than_seen(synced.older_than_seen.clone());
    if context.global.json {
        let mut document = to_value(&synced);
        document["dry_run"] = json!(dry_run);
        document["seconds"] = json!(start.elapsed().as_secs_f64());
        context.document(document);
    } else {
        show(context, &synced, start);
    }
    if outcome != Outcome::Done {
        return Ok(outcome);
    }
    Ok(if synced.failed.is_empty() && synced.kept.is_empty() { Outcome::Done } else { Outcome::Problems })
}

fn options(context: &Context<'_>, arguments: Sync) -> Result<SyncOptions> {
    let Sync { sources, hosts, tags, mirror, mirror_anyway, shard, dry_run, rules, .. } = arguments;
    Ok(SyncOptions {
        filter: Filter {
            sources: sources.into_iter().collect(),
            hosts: hosts.into_iter().collect(),
            tags: tags.into_iter().collect(),
        },
        keep: keep(context, rules)?,
        mirror: match (mirror, mirror_anyway) {
            (false, _) => Mirror::Off,
            (true, false) => Mirror::Guarded,
            (true, true) => Mirror::Anyway,
        },
        shard,
        dry_run,
        host: host_name(),
        write: context.write_options(),
    })
}

/// The rules, if any was given. One that keeps nothing is a slip here as it is in `forget`.
fn keep(context: &Context<'_>, rules: Rules) -> Result<Option<ops::retention::Policy>> {
    let policy = forget::policy(context, rules)?;
    if policy.is_empty() {
        return Ok(None);
    }
    policy.check()?;
    Ok(Some(policy))
}

/// Opens source and destination, at the pace that was asked for.
fn open_both(context: &Context<'_>, arguments: &Sync) -> Result<(Repository, Repository)> {
    let (from, to) = (context.storage()?, context.storage_at(&arguments.dest)?);
    if from.identity() == to.identity() {
        return Err(Error::new(Kind::Usage, format!("{} is both source and destination", to.location())));
    }
    let (up, down) = (arguments.limit_upload.map(Pace::new), arguments.limit_download.map(Pace::new));
    let paced = |storage: Arc<dyn Storage>| -> Arc<dyn Storage> {
        if up.is_none() && down.is_none() {
            return storage;
        }
        Arc::new(Throttle::new(storage, up.clone(), down.clone()))
    };
    // Both are seen to be there before anybody is asked for a passphrase.
    let from = Locked::find(paced(from))?;
    let to = || {
        Locked::find(paced(Arc::clone(&to))).map_err(|e| match e.kind() {
            Kind::NoRepository => {
                let like = "`alluvium init -r DEST --twin SOURCE`, or `--like SOURCE`";
                e.during("the destination").hint(format!("check its address, or make it with {like}"))
            }
            _ => e.during("the destination"),
        })
    };
    let dest = to()?;
    let passphrase = context.passphrase(false)?;
    let source = context.unlock(from, &passphrase)?;
    Ok((source, unlock_dest(context, arguments, dest, &to, &passphrase)?))
}

/// With a passphrase of its own, or with the same one; at last somebody is asked.
fn unlock_dest(
    context: &Context<'_>,
    arguments: &Sync,
    dest: Locked,
    again: &dyn Fn() -> Result<Locked>,
    same: &Passphrase,
) -> Result<Repository> {
    let origins = Origins {
        file: arguments.to_password_file.as_deref(),
        command: arguments.to_password_command.as_deref(),
        variable: "ALLUVIUM_TO_PASSWORD",
        option: "--to-password",
        prompt: "passphrase of the destination",
        twice: false,
    };
    if let Some(passphrase) = origins.read_given()? {
        return context.unlock(dest, &passphrase);
    }
    match context.unlock(dest, same) {
        Err(e) if e.kind() == Kind::WrongKey => context.unlock(again()?, &origins.read()?),
        other => other,
    }
}

fn show(context: &mut Context<'_>, synced: &Synced, start: Instant) {
    context.report.end_task();
    if !synced.copied.is_empty() || !synced.removed.is_empty() {
        let mut table = Table::new(&["original", "copy", &context.time_head(), "source", ">bytes", ">added"]);
        let mut row = |copy: &Copied, added: String| {
            let id = copy.id.as_ref().map_or_else(String::new, short);
            let (original, time) = (short(&copy.original.snapshot), context.time(copy.time));
            table.row([original, id, time, copy.source.clone(), size(copy.bytes), added]);
        };
        synced.removed.iter().for_each(|copy| row(copy, "removed".to_owned()));
        for copy in &synced.copied {
            row(copy, if copy.id.is_some() { size(copy.stored_bytes) } else { String::new() });
        }
        context.out.table(&table);
    }
    let Synced { plan, copied, already, waiting, failed, removed, kept, .. } = synced;
    let copies = counted(copied.len() as u64, "snapshot");
    if let Some(plan) = plan {
        context.closing(&format!("would copy {copies} of {}; {already} there already", size(plan.bytes)));
        if let (Some(chunks), Some(stored), Some(packs)) = (plan.chunks, plan.stored_bytes, plan.packs) {
            context.closing(&format!(
                "missing there: {} ({}) in {}",
                counted(chunks, "chunk"),
                size(stored),
                counted(packs, "pack")
            ));
        }
    } else {
        let how = match synced.way {
            Way::Packs => format!(
                "{} copied whole, {} re-sealed",
                counted(synced.packs_copied, "pack"),
                counted(synced.chunks_resealed, "chunk")
            ),
            Way::Chunks => format!("{} re-sealed", counted(synced.chunks_resealed, "chunk")),
            Way::Streams => "read and cut anew".to_owned(),
        };
        context.closing(&format!(
            "copied {copies}, {already} there already: {how}; {} read, {} written in {}",
            size(synced.read_bytes),
            size(synced.written_bytes),
            took(start.elapsed())
        ));
    }
    if *waiting > 0 {
        context.closing(&format!(
            "{} for other shards; afterwards a sync without --shard completes what is left",
            counted(*waiting, "snapshot")
        ));
    }
    if !removed.is_empty() {
        let would = if plan.is_some() { "would remove" } else { "removed" };
        let copies = counted(removed.len() as u64, "snapshot");
        context.closing(&format!("{would} {copies} whose originals are gone"));
    }
    if !kept.is_empty() {
        let names: Vec<String> = kept.iter().filter_map(|copy| copy.id.as_ref().map(short)).collect();
        context.closing(&format!("kept, although their originals are gone: {}", names.join(", ")));
    }
    if !failed.is_empty() {
        let names: Vec<String> = failed.iter().map(|f| short(&f.snapshot)).collect();
        context.closing(&format!("not copied, or not what they should be: {}", names.join(", ")));
        context.closing("what to do: `alluvium check --read-data` of the source; what it says to do; then sync again");
    }
}
