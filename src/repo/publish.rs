//! The end of a write: what a prune condemned meanwhile is stored again, then the manifest goes out
//! (rules I4 and I5). A session that can't publish any more is replaced by another, as long as its data is there.

use std::collections::BTreeSet;

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::format::keyslot::SlotKind;
use crate::format::manifest::{Header, Listing, Manifest};
use crate::format::pack::{BlobEntry, object_name};
use crate::format::recipe::RecipeEntry;
use crate::id::{BlobId, PackId, SnapshotId};
use crate::report::Report;

use super::parallel::at_once;
use super::reader::{Reader, Walked, Walking};
use super::session::Session;
use super::writer::{WriteOptions, write};

/// Sessions that one snapshot takes at most.
pub const SESSIONS_MAX: usize = 3;

/// Publishes a snapshot whose data is durable.
///
/// # Errors
/// As [`publish_or_keep`].
pub fn publish(
    mut session: Session<'_>,
    header: &Header,
    manifest: Manifest,
    options: WriteOptions,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<SnapshotId> {
    publish_or_keep(&mut session, header, manifest, options, report, cancel)
}

/// Publishes a snapshot whose data is durable, under a new session where `session` can't publish any more. After an error
/// `session` is the one that was used last; if it [is superseded](Session::is_superseded), only storing everything
/// from the source again can help.
///
/// # Errors
/// `Busy` when the session was fenced, `Damaged` when a pack is gone, `Storage`, `Interrupted`.
pub fn publish_or_keep(
    session: &mut Session<'_>,
    header: &Header,
    mut manifest: Manifest,
    options: WriteOptions,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<SnapshotId> {
    for _ in 1..SESSIONS_MAX {
        match publish_once(session, header, &mut manifest, options, report, cancel) {
            Err(error) if session.is_superseded() => {
                // What failed has ended.
                cancel.resume();
                cancel.check()?;
                let what = error.to_string();
                let former = session.begin_again(report)?;
                if !session.rely_on_former(&former)? {
                    rely_again(session, &manifest, options, report, cancel, error)?;
                }
                report.warn(&format!("{what}; all data is there: publishing it as {} instead", session.id));
            }
            other => return other,
        }
    }
    publish_once(session, header, &mut manifest, options, report, cancel)
}

/// Relies on all that `manifest` needs, chunk by chunk, in a session that has stored none of it.
///
/// The session is like any other: it is registered, has read generation and index, and relies on a copy only where the
/// index lists it in packs that are neither condemned nor missing. What lies in condemned packs alone is stored again.
///
/// # Errors
/// `error`, which kept the session before from publishing, when a chunk is nowhere or can't be read: the session is
/// superseded then. `Storage`, `Interrupted`.
fn rely_again(
    session: &Session<'_>,
    manifest: &Manifest,
    options: WriteOptions,
    report: &dyn Report,
    cancel: &Cancel,
    error: Error,
) -> Result<()> {
    let lost = |error: Error| {
        session.supersede();
        error
    };
    let repo = session.repo();
    let is_full = repo.keys.kind() == SlotKind::Full;
    let indexed = &session.indexed;
    let mut unusable: BTreeSet<BlobId> = BTreeSet::new();
    let mut visit = |entry: &RecipeEntry, _: u8| {
        match indexed.usable_chain(&entry.id, u8::MAX)? {
            Some(chain) => session.rely_on(&chain),
            None => drop(unusable.insert(entry.id)),
        }
        Ok(())
    };
    if is_full {
        let with = Walking { transfers: at_once(repo.storage.as_ref()), report, cancel };
        let mut unreadable = false;
        Reader::new(indexed)?.walk_snapshot(manifest, &mut Walked::default(), with, &mut visit, &mut |_| {
            unreadable = true;
            Ok(())
        })?;
        if unreadable {
            return Err(lost(error));
        }
    } else {
        // A write-only slot can't read which chunks a list or a recipe names.
        let Listing::Inline(parts) = &manifest.parts.list else { return Err(lost(error)) };
        if manifest.catalog.is_some() || parts.iter().any(|part| part.recipe.depth > 0) {
            return Err(lost(error));
        }
        for entry in parts.iter().flat_map(|part| &part.recipe.chunks) {
            visit(entry, 0)?;
        }
    }
    if unusable.is_empty() {
        return Ok(());
    }
    if !is_full {
        return Err(lost(error));
    }
    let reader = Reader::new(indexed)?;
    let stored = write(session, options, report, cancel, |writer| {
        for id in unusable {
            cancel.check()?;
            writer.store_again(id, reader.blob(&id)?)?;
        }
        Ok(())
    });
    match stored {
        Err(e) if matches!(e.kind(), Kind::Damaged | Kind::NotFound) => Err(lost(error)),
        other => other,
    }
}

/// Publishes a snapshot whose data is durable under this session, or not at all.
///
/// A write-only session can't read what it would have to store again. It publishes as it is: prune
/// deletes nothing that such a session may rely on before the session has ended, and then marks again, so
/// it finds this manifest and keeps the packs (`docs/format.md`, I4).
///
/// # Errors
/// `Busy` when the session was fenced, `Damaged` when a pack is gone, `Storage`, `Interrupted`.
fn publish_once(
    session: &mut Session<'_>,
    header: &Header,
    manifest: &mut Manifest,
    options: WriteOptions,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<SnapshotId> {
    let readable = session.repo().keys.kind() == SlotKind::Full;
    // Each round ends with a newer generation; prunes are far between, so this ends.
    loop {
        let condemned = session.condemned_since(report)?;
        if condemned.is_empty() || !readable {
            break;
        }
        for pack in condemned {
            // Only of a session that was taken for dead does prune delete what it relies on.
            store_again(session, pack, options, report, cancel).map_err(|e| session.why_it_ended(e))?;
            session.relies_no_longer(pack);
        }
    }
    manifest.generation = session.indexed.generation;
    cancel.check()?;
    session.publish_or_keep(header, manifest)
}

/// Stores again what a condemned pack holds, as far as no other pack has it. That may be more than this
/// snapshot needs; which chunks it needs of the pack, nobody has remembered.
fn store_again(
    session: &Session<'_>,
    pack: PackId,
    options: WriteOptions,
    report: &dyn Report,
    cancel: &Cancel,
) -> Result<()> {
    let indexed = &session.indexed;
    let reader = Reader::new(indexed)?;
    // From the pack itself: the cache may be another process's ruin.
    let size = indexed.repo.storage.stat(&object_name(pack))?.unwrap_or(0);
    let entries = indexed.repo.read_pack(pack, size)?.indexed.entries;
    let has_chain =
        |entry: &BlobEntry| indexed.known_chain(&entry.id, entry.version() + 1).map(|chain| chain.is_some());
    let mut all_known = true;
    for entry in &entries {
        all_known = all_known && has_chain(entry)?;
    }
    if !all_known {
        // Bases of deltas are missing, or a listing of the index was incomplete.
        session.prove_index(report)?;
        if indexed.repo.cache.entries(&pack)?.is_empty() {
            return Err(Error::damaged(
                object_name(pack),
                "this snapshot needs it, and no index object lists it any more",
            ));
        }
    }
    write(session, options, report, cancel, |writer| {
        for entry in entries {
            cancel.check()?;
            // Whoever relied on this copy as a base needs one of no higher version.
            match indexed.usable_chain(&entry.id, entry.version() + 1)? {
                Some(chain) => session.rely_on(&chain),
                // A delta whose base is gone is garbage that nobody can have relied on.
                None if !has_chain(&entry)? => {}
                None => writer.store_again(entry.id, reader.blob(&entry.id)?)?,
            }
        }
        Ok(())
    })
}
