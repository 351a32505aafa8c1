//! The end of a write: what a prune condemned meanwhile is stored again, then the manifest goes out
//! (rules I4 and I5).

use crate::env::Cancel;
use crate::error::Result;
use crate::format::keyslot::SlotKind;
use crate::format::manifest::{Header, Manifest};
use crate::format::pack::object_name;
use crate::id::{PackId, SnapshotId};
use crate::report::Report;

use super::reader::Reader;
use super::session::Session;
use super::writer::{WriteOptions, write};

/// Publishes a snapshot whose data is durable.
///
/// A write-only session can't read what it would have to store again. It publishes as it is: prune
/// deletes nothing that such a session may rely on before the session has ended, and then marks again, so
/// it finds this manifest and keeps the packs (`docs/format.md`, I4).
///
/// # Errors
/// `Busy` when the session was fenced, `Damaged` when a pack is gone, `Storage`, `Interrupted`.
pub fn publish(
    mut session: Session<'_>,
    header: &Header,
    mut manifest: Manifest,
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
            store_again(&session, pack, options, report, cancel)
                .map_err(|e| session.check_alive().err().unwrap_or(e))?;
            session.relies_no_longer(pack);
        }
    }
    manifest.generation = session.indexed.generation;
    cancel.check()?;
    session.publish(header, &manifest)
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
    write(session, options, report, cancel, |writer| {
        for entry in entries {
            cancel.check()?;
            // Whoever relied on this copy as a base needs one of no higher version.
            match indexed.usable_chain(&entry.id, entry.version() + 1)? {
                Some(chain) => session.rely_on(&chain),
                // A delta whose base is gone is garbage that nobody can have relied on.
                None if indexed.known_chain(&entry.id, entry.version() + 1)?.is_none() => {}
                None => writer.store_again(entry.id, reader.blob(&entry.id)?)?,
            }
        }
        Ok(())
    })
}
