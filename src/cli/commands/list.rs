//! `snapshots`, `ls`, `diff`, `stats`: what there is.

use serde_json::{Value, json};

use crate::error::Result;
use crate::format::manifest::PartKind;
use crate::ops;
use crate::ops::diff::Change;
use crate::ops::diff::rows::{Changes, RowDiff};
use crate::ops::select;
use crate::ops::stats::Stats;
use crate::repo::Repository;
use crate::repo::reader::Reader;
use crate::repo::snapshots::{Snapshot, changes_of_author};
use crate::report::Report as _;

use super::super::args;
use super::super::context::{Context, to_value};
use super::super::exit::Outcome;
use super::super::show::{Table, counted, short, size};

/// What an option filters by.
pub fn filter(filter: args::Filter) -> ops::forget::Filter {
    let args::Filter { names, hosts, tags } = filter;
    ops::forget::Filter {
        sources: names.into_iter().collect(),
        hosts: hosts.into_iter().collect(),
        tags: tags.into_iter().collect(),
    }
}

/// Tags as a cell.
pub fn tags(snapshot: &Snapshot) -> String {
    snapshot.manifest.tags.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

/// Lists the snapshots, the newest last, where the eye is.
///
/// # Errors
/// `WrongKey`, `Storage`.
pub fn snapshots(context: &mut Context<'_>, arguments: args::Filter) -> Result<Outcome> {
    let repo = context.open()?;
    let filter = filter(arguments);
    let mut found = context.snapshots(&repo)?;
    let outcome = context.older_than_seen(repo.older_than_seen(context.report)?);
    if let Ok(state) = repo.probe_generation()?.1 {
        repo.mark_distrusted(&mut found, &state)?;
    }
    found.retain(|snapshot| filter.admits(snapshot));
    found.reverse();
    for change in changes_of_author(&found) {
        context.report.warn(&change.describe(&repo.keys));
    }
    for contradiction in found.iter().filter_map(|snapshot| snapshot.time_contradicts) {
        context.report.warn(&contradiction.to_string());
    }
    if context.global.json {
        let list: Vec<Value> = found.iter().map(|snapshot| describe(&repo, snapshot)).collect();
        context.document(json!({ "snapshots": list }));
        return Ok(outcome);
    }
    let mut table =
        Table::new(&["id", &context.time_head(), "source", "host", ">bytes", ">added", "passphrase", "tags", ""]);
    for snapshot in &found {
        let manifest = &snapshot.manifest;
        let shrunk = manifest.shrunk_from.map(|before| format!("shrunk from {}", size(before)));
        let clock = snapshot.time_contradicts.map(|_| "clock?".to_owned());
        let distrusted = snapshot.is_distrusted.then(|| "distrusted".to_owned());
        let flags: Vec<String> = distrusted.into_iter().chain(clock).chain(shrunk).collect();
        table.row([
            short(&snapshot.id),
            context.time(manifest.time),
            manifest.source.clone(),
            manifest.host.clone(),
            size(manifest.bytes()),
            size(manifest.stored.stored_bytes),
            author(&repo, snapshot),
            tags(snapshot),
            flags.join(", "),
        ]);
    }
    if !found.is_empty() {
        context.out.table(&table);
    }
    context.closing(&counted(found.len() as u64, "snapshot"));
    Ok(outcome)
}

/// The label of the slot that took a snapshot; the beginning of its id where it has none.
fn author(repo: &Repository, snapshot: &Snapshot) -> String {
    let label = repo.keys.known_slot(snapshot.author).map(|known| known.certificate.label);
    label.filter(|label| !label.is_empty()).unwrap_or_else(|| short(&snapshot.author))
}

/// A snapshot in JSON, without its parts.
fn describe(repo: &Repository, snapshot: &Snapshot) -> Value {
    let manifest = &snapshot.manifest;
    let slot = repo.keys.known_slot(snapshot.author).map(|known| known.certificate);
    json!({
        "id": snapshot.id,
        "author": {
            "slot": snapshot.author,
            "kind": slot.as_ref().map(|slot| slot.kind),
            "label": slot.as_ref().map(|slot| &slot.label),
        },
        "distrusted": snapshot.is_distrusted,
        "time": manifest.time,
        "effective_time": snapshot.effective_time,
        "time_contradicts": snapshot.time_contradicts,
        "sequence": manifest.sequence,
        "finished": manifest.finished,
        "zone": manifest.zone,
        "source": manifest.source,
        "kind": manifest.kind,
        "shape": manifest.shape,
        "engine": manifest.engine,
        "host": manifest.host,
        "tags": manifest.tags,
        "bytes": manifest.bytes(),
        "parts": manifest.parts.count,
        "stored": manifest.stored,
        "previous": manifest.previous,
        "shrunk_from": manifest.shrunk_from,
        "original": manifest.original,
        "tool": manifest.tool,
    })
}

/// Lists a snapshot's parts.
///
/// # Errors
/// `NotFound`, `Usage`, `WrongKey`, `Storage`.
pub fn ls(context: &mut Context<'_>, name: &str) -> Result<Outcome> {
    let repo = context.open()?;
    let snapshots = context.snapshots(&repo)?;
    let snapshot = select::snapshot(&snapshots, name, &context.global.timezone)?;
    let parts = &match snapshot.manifest.parts.inline() {
        Some(parts) => parts.to_vec(),
        None => Reader::new(&repo.index_to_read(context.report)?)?.parts(&snapshot.manifest)?,
    };
    if context.global.json {
        let list = parts.iter().map(|part| {
            json!({
                "name": part.name.to_string(),
                "part": part.name,
                "kind": part.kind,
                "bytes": part.digest.bytes,
                "stored_bytes": part.stored_bytes,
                "blake3": to_value(&part.digest)["blake3"],
            })
        });
        let list: Vec<Value> = list.collect();
        context.document(json!({ "snapshot": describe(&repo, snapshot), "parts": list }));
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(&["kind", ">rows", ">bytes", ">stored", "digest", "name"]);
    for part in parts {
        let stored = part.stored_bytes.map(size).unwrap_or_default();
        let digest = short(&to_value(&part.digest)["blake3"].as_str().unwrap_or_default());
        let data = [size(part.digest.bytes), stored, digest];
        let (kind, rows, [bytes, stored, digest], target) = match &part.kind {
            PartKind::Stream => ("stream", None, data, String::new()),
            PartKind::Statements => ("statements", None, data, String::new()),
            PartKind::Table { rows } => ("table", Some(*rows), data, String::new()),
            PartKind::File { changed: true, .. } => ("file, changed", None, data, String::new()),
            PartKind::File { .. } => ("file", None, data, String::new()),
            PartKind::Folder { .. } => ("folder", None, Default::default(), String::new()),
            PartKind::Link { target } => ("link", None, Default::default(), format!(" -> {target}")),
        };
        let rows = rows.map(|rows| rows.to_string()).unwrap_or_default();
        table.row([kind.to_owned(), rows, bytes, stored, digest, format!("{}{target}", part.name)]);
    }
    context.out.table(&table);
    Ok(Outcome::Done)
}

/// Compares two snapshots.
///
/// # Errors
/// `NotFound`, `Usage`, `Damaged`, `WrongKey`, `Storage`.
pub fn diff(context: &mut Context<'_>, arguments: &args::Diff) -> Result<Outcome> {
    let args::Diff { old, new, table, rows, quick } = arguments;
    let repo = context.open()?;
    let snapshots = context.snapshots(&repo)?;
    let zone = &context.global.timezone;
    let (old, new) = (select::snapshot(&snapshots, old, zone)?, select::snapshot(&snapshots, new, zone)?);
    if let Some(table) = table.as_deref().filter(|_| *rows) {
        let changes = ops::diff::table(&repo, old, new, table, context.report)?;
        return Ok(show_rows(context, table, &changes));
    }
    let mut parts = ops::diff::diff(&repo, old, new, !quick, context.report)?;
    if let Some(table) = table {
        parts.retain(|part| ops::diff::is_called(&part.part, table));
        if parts.is_empty() {
            return Err(select::no_part(new, table));
        }
    }
    let (added, removed) = ops::diff::total(&parts);
    if context.global.json {
        let total = json!({ "added_bytes": added, "removed_bytes": removed });
        context.document(json!({ "old": old.id, "new": new.id, "parts": parts, "total": total }));
        return Ok(Outcome::Done);
    }
    let signed = |sign: char, bytes: u64| if bytes == 0 { String::new() } else { format!("{sign}{}", size(bytes)) };
    let mut table = Table::new(&["change", ">added", ">removed", ">rows", ">added", ">removed", ">changed", "name"]);
    let mut same = 0;
    for part in &parts {
        let change = match part.change {
            Change::Same => {
                same += 1;
                continue;
            }
            Change::Changed => "changed",
            Change::Added => "added",
            Change::Removed => "removed",
        };
        let (added, removed) = (signed('+', part.added_bytes), signed('-', part.removed_bytes));
        let rows = part.new_rows.or(part.old_rows.map(|_| 0)).map(|rows| rows.to_string()).unwrap_or_default();
        let counted =
            |count: fn(&RowDiff) -> u64| part.rows.as_ref().map(|rows| count(rows).to_string()).unwrap_or_default();
        let counts = [counted(|rows| rows.added), counted(|rows| rows.removed), counted(|rows| rows.changed)];
        let [rows_added, rows_removed, rows_changed] = counts;
        let name = part.name.clone();
        table.row([change.to_owned(), added, removed, rows, rows_added, rows_removed, rows_changed, name]);
    }
    if same < parts.len() {
        context.out.table(&table);
    }
    let (old, new) = (short(&old.id), short(&new.id));
    let text =
        format!("{old} -> {new}: +{} -{}, {} the same", size(added), size(removed), counted(same as u64, "part"));
    context.out.line(&text);
    Ok(Outcome::Done)
}

/// Rows that differ: removed and older ones behind `-`, added and newer ones behind `+`.
fn show_rows(context: &mut Context<'_>, table: &str, changes: &Changes) -> Outcome {
    let text = |row: &Option<Vec<u8>>| row.as_ref().map(|row| String::from_utf8_lossy(row).into_owned());
    if context.global.json {
        let list: Vec<Value> = changes.iter().map(|(old, new)| json!({ "old": text(old), "new": text(new) })).collect();
        context.document(json!({ "table": table, "rows": list }));
        return Outcome::Done;
    }
    for (old, new) in changes {
        for (sign, row) in [('-', text(old)), ('+', text(new))] {
            if let Some(row) = row {
                context.out.line(&format!("{sign} {}", row.replace('\t', "  ")));
            }
        }
    }
    context.closing(&format!("{} differ", counted(changes.len() as u64, "row")));
    Outcome::Done
}

/// What the repository holds.
///
/// # Errors
/// `Damaged`, `WrongKey`, `Storage`.
pub fn stats(context: &mut Context<'_>, by_source: bool, by_table: bool) -> Result<Outcome> {
    let repo = context.open()?;
    let stats = ops::stats::stats(&repo, context.report)?;
    let savings =
        if by_source { ops::stats::savings(&repo, by_table, context.report, context.cancel)? } else { Vec::new() };
    if context.global.json {
        let mut document = to_value(&stats);
        if by_source {
            document["savings"] = to_value(&savings);
        }
        context.document(document);
        return Ok(Outcome::Done);
    }
    let Stats {
        snapshots,
        sources,
        snapshot_bytes,
        chunks,
        chunk_bytes,
        packs,
        pack_bytes,
        deduplication,
        compression,
        encodings,
    } = stats;
    let lines = [
        format!("{} of {}", counted(snapshots, "snapshot"), counted(sources, "source")),
        format!("{} if each were stored by itself", size(snapshot_bytes)),
        format!(
            "{} in {} after deduplication ({deduplication:.1} times less)",
            size(chunk_bytes),
            counted(chunks, "distinct chunk")
        ),
        format!(
            "{} in {} on the storage ({compression:.1} times less by encoding)",
            size(pack_bytes),
            counted(packs, "pack")
        ),
    ];
    for line in lines {
        context.out.line(&line);
    }
    let mut table = Table::new(&["encoding", ">chunks", ">plain", ">stored", ">times less"]);
    for ops::stats::Encoding { name, chunks, chunk_bytes, stored_bytes } in encodings {
        let times = format!("{:.1}", chunk_bytes as f64 / stored_bytes.max(1) as f64);
        table.row([name.to_owned(), chunks.to_string(), size(chunk_bytes), size(stored_bytes), times]);
    }
    context.out.table(&table);
    if by_source {
        let heads = ["source", "table", ">plain", ">deduplicated", ">delta", ">columnar", ">zstd", ">stored"];
        let mut table = Table::new(&heads);
        for row in savings {
            let sizes = [row.bytes, row.deduplication, row.delta, row.columnar, row.zstd, row.stored_bytes].map(size);
            let [plain, deduplicated, delta, columnar, zstd, stored] = sizes;
            let name = row.part.unwrap_or_default();
            table.row([row.source, name, plain, deduplicated, delta, columnar, zstd, stored]);
        }
        context.out.line("");
        context.out.table(&table);
    }
    Ok(Outcome::Done)
}
