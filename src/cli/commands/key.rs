//! `key add | list | remove | change`

use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};
use crate::format::keyslot::SlotKind;
use crate::id::SlotId;
use crate::ops;
use crate::ops::key::SlotChange;
use crate::repo::keys::KdfCost;

use super::super::args::{Key, NewPassword};
use super::super::context::{Context, to_value};
use super::super::exit::Outcome;
use super::super::password::{Origins, Passphrase};
use super::super::show::{Table, age, counted, short};
use crate::ops::select::parse_since;

/// Runs one of them.
///
/// # Errors
/// Those of [`ops::key`], and of [`Origins::read`].
pub fn key(context: &mut Context<'_>, command: Key) -> Result<Outcome> {
    let repo = context.open()?;
    match command {
        Key::List => list(context, &repo)?,
        Key::Add { write_only, label, key_file: Some(file), .. } => {
            let kind = if write_only { SlotKind::WriteOnly } else { SlotKind::Full };
            let id = ops::key::add_file(&repo, kind, &label, &file)?;
            done(context, id, "added the key file");
        }
        Key::Distrust { id, since, forget } => {
            let zone = &context.global.timezone;
            let since = parse_since(&since, zone).ok_or_else(|| {
                Error::new(Kind::Usage, format!("`{}` is not a time", since.escape_debug()))
                    .hint("give a date such as 2026-11-22, or 2026-11-22T14:00:00Z")
            })?;
            let distrust = ops::key::distrust(&repo, &id, since)?;
            if forget {
                ops::forget::execute(&repo, &distrust.snapshots, context.report, context.cancel)?;
            }
            if context.global.json {
                context.document(to_value(&distrust));
            } else {
                let n = counted(distrust.snapshots.len() as u64, "snapshot");
                let fate = if forget { "forgotten" } else { "distrusted" };
                context.closing(&format!("{}: {n} {fate}", repo.keys.slot_name(distrust.id)));
            }
        }
        Key::Rotate => {
            let epoch = ops::key::rotate(&repo)?;
            if context.global.json {
                context.document(json!({ "epoch": epoch }));
            } else {
                context.closing(&format!("new data is sealed to key epoch {epoch}"));
            }
        }
        Key::Add { write_only, label, key_file: None, new } => {
            let kind = if write_only { SlotKind::WriteOnly } else { SlotKind::Full };
            repo.keys.require_full("adding a passphrase")?;
            let id = ops::key::add(&repo, kind, &label, &new_passphrase(&new)?, KdfCost::default())?;
            done(context, id, "added the passphrase");
        }
        Key::Remove { id } => {
            let change = ops::key::remove(&repo, &id)?;
            changed(context, &change, "removed the passphrase");
        }
        Key::Change { new } => {
            repo.keys.require_full("changing the passphrase")?;
            let change = ops::key::change(&repo, &new_passphrase(&new)?, KdfCost::default())?;
            changed(context, &change, "changed the passphrase; it is now");
        }
    }
    Ok(Outcome::Done)
}

fn new_passphrase(new: &NewPassword) -> Result<Passphrase> {
    let origins = Origins {
        file: new.new_password_file.as_deref(),
        command: new.new_password_command.as_deref(),
        variable: "ALLUVIUM_NEW_PASSWORD",
        option: "--new-password",
        prompt: "new passphrase",
        twice: true,
    };
    origins.read()
}

fn done(context: &mut Context<'_>, id: SlotId, what: &str) {
    if context.global.json {
        context.document(json!({ "id": id }));
    } else {
        context.closing(&format!("{what} {}", short(&id)));
    }
}

/// What was done, and the slots that remain.
fn changed(context: &mut Context<'_>, change: &SlotChange, what: &str) {
    if context.global.json {
        context.document(to_value(change));
        return;
    }
    context.closing(&format!("{what} {}", short(&change.id)));
    for slot in &change.remaining {
        let label = if slot.label.is_empty() { String::new() } else { format!(" ({})", slot.label) };
        context.closing(&format!("  remains: {} {}{label}", short(&slot.id), kind_name(slot.kind)));
    }
}

fn kind_name(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Full => "full",
        SlotKind::WriteOnly => "write-only",
    }
}

fn list(context: &mut Context<'_>, repo: &crate::repo::Repository) -> Result<()> {
    let slots = ops::key::list(repo, context.report)?;
    let in_use = repo.keys.slot();
    if context.global.json {
        let list = slots.iter().map(|slot| {
            let mut value = to_value(slot);
            value["in_use"] = json!(slot.id == in_use);
            value
        });
        let list: Vec<Value> = list.collect();
        context.document(json!({ "keys": list }));
        return Ok(());
    }
    let mut table = Table::new(&["", "id", "kind", "label", &context.time_head(), "age", ""]);
    for slot in slots {
        let mark = if slot.id == in_use { "*" } else { "" };
        let kind = kind_name(slot.kind);
        let (created, age) = (context.time(slot.created), age(slot.created, context.env.now()));
        let flag = slot.distrusted_since.map(|since| format!("distrusted since {}", context.time(since)));
        let flag = flag.unwrap_or_default();
        table.row([mark.to_owned(), short(&slot.id), kind.to_owned(), slot.label, created, age, flag]);
    }
    context.out.table(&table);
    context.closing("* is the one in use");
    Ok(())
}
