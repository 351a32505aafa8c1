//! What lies in the tables: rows written, read and checked.
//!
//! Every row that leads to a place in a pack carries a check sum and goes through the decoders of the
//! format, with their limits. A row that is not exactly what was written is damage, never a location.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::file::{Fault, Inner};
use super::filter::{self, Filter};
use super::{BATCH_ENTRIES, KnownPack, Location, Totals};
use crate::error::{Error, Result};
use crate::format::bytes::{Decoder, Encoder};
use crate::format::index::{IndexObject, IndexedPack, object_name};
use crate::format::pack::{BlobEntry, ENTRY_LEN, WrappedKey, decode_entries, encode_entries, with_offsets};
use crate::id::{BlobId, DataKeyId, IndexId, PackId, SnapshotId};

/// Bytes of the entries in a block: as many as surely fit `SQLite`'s page of 4096 bytes, so that a block is one read.
const BLOCK_BYTES: usize = 96 * ENTRY_LEN;
/// Bytes of the filter in one row.
const FILTER_PIECE_BYTES: usize = 64 << 10;
/// The columns that [`read_block`] expects.
const BLOCK_COLUMNS: &str = "blocks.number, blocks.offset, blocks.sum, blocks.entries, packs.id, packs.key";
/// The columns that [`read_pack`] expects.
const PACK_COLUMNS: &str = "id, size, session, key, blobs, raw_bytes, stored_bytes, sum";

/// Some entries of one pack, checked.
pub(super) struct Block {
    pub number: i64,
    pub pack: PackId,
    pub key: DataKeyId,
    pub offset: u32,
    pub entries: Vec<BlobEntry>,
}

impl Block {
    pub fn located(&self) -> impl Iterator<Item = (&BlobEntry, Location)> {
        self.entries.iter().scan(self.offset, |at, entry| {
            let &BlobEntry { codec, raw_len, stored_len, base, .. } = entry;
            let offset = *at;
            *at = at.wrapping_add(stored_len);
            Some((entry, Location { pack: self.pack, key: self.key, offset, stored_len, raw_len, codec, base }))
        })
    }
}

/// Reads the [`BLOCK_COLUMNS`]. A row that is not exactly what was written does not become a location.
fn read_block(row: &Row) -> Inner<Block> {
    let (number, offset, sum): (i64, u32, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (pack, key) = (PackId(row.get(4)?), DataKeyId(row.get(5)?));
    let bytes = row.get_ref(3)?.as_blob().map_err(|e| Fault::Damage(e.to_string()))?;
    if sum != block_sum(&pack, &key, offset, bytes) {
        return Err(Fault::Damage(format!("block {number} of pack {pack} has a wrong check sum")));
    }
    let mut input = Decoder(bytes);
    let entries = decode_entries(&mut input)?;
    input.end()?;
    Ok(Block { number, pack, key, offset, entries })
}

/// Adds an object's rows, unless it is there. The places of its blobs are collected, for [`add_places`].
/// Returns the packs that were not known.
pub(super) fn add_object<'a>(
    transaction: &Transaction,
    id: IndexId,
    object: &'a IndexObject,
    places: &mut Vec<i64>,
) -> Inner<Vec<&'a IndexedPack>> {
    let mut new_packs = Vec::new();
    if transaction.execute("INSERT OR IGNORE INTO objects (id) VALUES (?1)", [id.0])? == 0 {
        return Ok(new_packs);
    }
    let object_number = transaction.last_insert_rowid();
    object.keys.iter().try_for_each(|key| add_key(transaction, key))?;
    let mut list = transaction.prepare_cached("INSERT OR IGNORE INTO listed VALUES (?1, ?2)")?;
    for pack in &object.packs {
        let known = summary(pack);
        let pack_number = match known_pack(transaction, &pack.id)? {
            Some((number, same)) if same == known => number,
            Some(_) => {
                let what = format!("describes pack {} otherwise than another index object", pack.id);
                return Err(Error::damaged(object_name(id), what).into());
            }
            None => {
                let number = add_pack(transaction, &known)?;
                add_blocks(transaction, number, pack, places)?;
                new_packs.push(pack);
                number
            }
        };
        list.execute([object_number, pack_number])?;
    }
    Ok(new_packs)
}

/// Adds a wrapped data key; that of a newer epoch replaces the older.
fn add_key(connection: &Connection, key: &WrappedKey) -> Inner<()> {
    let mut add = connection.prepare_cached(
        "INSERT INTO keys VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE
         SET epoch = excluded.epoch, wrapped = excluded.wrapped WHERE excluded.epoch > epoch",
    )?;
    let mut wrapped = Encoder::default();
    key.encode(&mut wrapped);
    add.execute(params![key.id.0, key.epoch, wrapped.0])?;
    Ok(())
}

/// Adds a pack's row; returns its number.
fn add_pack(connection: &Connection, pack: &KnownPack) -> Inner<i64> {
    let mut add = connection
        .prepare_cached(&format!("INSERT INTO packs ({PACK_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"))?;
    let [size, blobs, raw, stored] = [pack.size, pack.blobs, pack.raw_bytes, pack.stored_bytes].map(u64::cast_signed);
    add.execute(params![pack.id.0, size, pack.session.0, pack.key.0, blobs, raw, stored, pack_sum(pack)])?;
    Ok(connection.last_insert_rowid())
}

/// Adds a pack's blocks, and collects the places of their entries.
fn add_blocks(connection: &Connection, pack_number: i64, pack: &IndexedPack, places: &mut Vec<i64>) -> Inner<()> {
    let mut add =
        connection.prepare_cached("INSERT INTO blocks (pack, offset, sum, entries) VALUES (?1, ?2, ?3, ?4)")?;
    let offsets: Vec<u32> = with_offsets(&pack.entries).map(|(offset, _)| offset).collect();
    let (mut rest, mut offsets) = (&pack.entries[..], &offsets[..]);
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |entry: &&BlobEntry| {
            bytes += entry.encoded_len();
            bytes <= BLOCK_BYTES
        };
        let (entries, others) = rest.split_at(rest.iter().take_while(fits).count());
        let mut bytes = Encoder::default();
        encode_entries(entries, &mut bytes);
        add.execute(params![pack_number, offsets[0], block_sum(&pack.id, &pack.key, offsets[0], &bytes.0), bytes.0])?;
        let block = u32::try_from(connection.last_insert_rowid())
            .map_err(|_| Fault::Damage("there are no more block numbers".into()))?;
        places.extend(entries.iter().map(|entry| place(&entry.id, block)));
        (rest, offsets) = (others, &offsets[entries.len()..]);
    }
    Ok(())
}

/// Adds the collected places.
pub(super) fn add_places(connection: &Connection, places: &mut Vec<i64>) -> Inner<()> {
    change_places(connection, "INSERT OR IGNORE INTO places VALUES (?1)", places)
}

/// Removes objects, and what no other object lists.
pub(super) fn remove_objects(transaction: &Transaction, ids: &[IndexId]) -> Inner<()> {
    for id in ids {
        let object = "(SELECT number FROM objects WHERE id = ?1)";
        transaction.execute(&format!("DELETE FROM listed WHERE object = {object}"), [id.0])?;
        transaction.execute("DELETE FROM objects WHERE id = ?1", [id.0])?;
    }
    remove_unlisted_packs(transaction)?;
    transaction.execute("DELETE FROM keys WHERE id NOT IN (SELECT key FROM packs)", [])?;
    Ok(())
}

/// Empties every table. Block numbers go on where they were.
pub(super) fn remove_everything(transaction: &Transaction) -> Inner<()> {
    for table in ["objects", "packs", "listed", "keys", "blocks", "places", "filter", "manifests", "features"] {
        transaction.execute(&format!("DELETE FROM {table}"), [])?;
    }
    transaction.execute("DELETE FROM meta WHERE name LIKE 'filter%'", [])?;
    Ok(())
}

/// The blocks that hold the blob, oldest first.
pub(super) fn blocks_with(connection: &Connection, id: &BlobId) -> Inner<Vec<Block>> {
    // CROSS JOIN keeps SQLite's planner to this order.
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {BLOCK_COLUMNS} FROM places CROSS JOIN blocks ON blocks.number = places.place & 0xffffffff
         CROSS JOIN packs ON packs.number = blocks.pack WHERE places.place BETWEEN ?1 AND ?2 ORDER BY places.place"
    ))?;
    let (mut rows, mut blocks) = (statement.query([place(id, 0), place(id, u32::MAX)])?, Vec::new());
    while let Some(row) = rows.next()? {
        let block = read_block(row)?;
        // Others with the same front lie next to it.
        if block.entries.iter().any(|entry| entry.id == *id) {
            blocks.push(block);
        }
    }
    Ok(blocks)
}

/// The blocks that fulfil `condition`, in the order of their numbers.
pub(super) fn for_each_block(
    connection: &Connection,
    condition: &str,
    parameter: &dyn rusqlite::ToSql,
    mut each: impl FnMut(Block) -> Inner<()>,
) -> Inner<()> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {BLOCK_COLUMNS} FROM blocks JOIN packs ON packs.number = blocks.pack
         WHERE {condition} ORDER BY blocks.number"
    ))?;
    let mut rows = statement.query([parameter])?;
    while let Some(row) = rows.next()? {
        each(read_block(row)?)?;
    }
    Ok(())
}

/// The first bytes of an id as a number in the same order.
fn front(id: &BlobId) -> u64 {
    u64::from_be_bytes(id.0.as_chunks().0[0])
}

/// The key of a place: the front of the id, then the block.
fn place(id: &BlobId, block: u32) -> i64 {
    (front(id) >> 32 << 32 | u64::from(block)).cast_signed()
}

/// Inserts or deletes places in their order, so that every page is visited once. Empties the list.
fn change_places(connection: &Connection, sql: &str, places: &mut Vec<i64>) -> Inner<()> {
    places.sort_unstable();
    let mut statement = connection.prepare_cached(sql)?;
    for place in places.drain(..) {
        statement.execute([place])?;
    }
    Ok(())
}

/// Removes the packs that no index object lists, with their blocks and places.
fn remove_unlisted_packs(connection: &Connection) -> Inner<()> {
    let mut unlisted =
        connection.prepare_cached("SELECT number FROM packs WHERE number NOT IN (SELECT pack FROM listed)")?;
    let numbers = unlisted.query_map([], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    let delete = "DELETE FROM places WHERE place = ?1";
    let mut places = Vec::new();
    for number in numbers {
        for_each_block(connection, "blocks.pack = ?1", &number, |block| {
            places.extend(block.entries.iter().map(|entry| place(&entry.id, block.number as u32)));
            Ok(())
        })?;
        connection.prepare_cached("DELETE FROM blocks WHERE pack = ?1")?.execute([number])?;
        connection.prepare_cached("DELETE FROM packs WHERE number = ?1")?.execute([number])?;
        if places.len() >= BATCH_ENTRIES {
            change_places(connection, delete, &mut places)?;
        }
    }
    change_places(connection, delete, &mut places)
}

/// What the index keeps of a pack besides its entries.
fn summary(pack: &IndexedPack) -> KnownPack {
    let total = |len: fn(&BlobEntry) -> u32| pack.entries.iter().map(|entry| u64::from(len(entry))).sum();
    let &IndexedPack { id, size, session, key, ref entries, .. } = pack;
    let (raw_bytes, stored_bytes) = (total(|entry| entry.raw_len), total(|entry| entry.stored_len));
    KnownPack { id, size, session, key, blobs: entries.len() as u64, raw_bytes, stored_bytes }
}

/// All packs.
pub(super) fn packs(connection: &Connection) -> Inner<Vec<KnownPack>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {PACK_COLUMNS} FROM packs"))?;
    let (mut rows, mut packs) = (statement.query([])?, Vec::new());
    while let Some(row) = rows.next()? {
        packs.push(read_pack(row)?);
    }
    Ok(packs)
}

/// A pack and its number.
fn known_pack(connection: &Connection, id: &PackId) -> Inner<Option<(i64, KnownPack)>> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {PACK_COLUMNS}, number FROM packs WHERE id = ?1"))?;
    let mut rows = statement.query([id.0])?;
    rows.next()?.map(|row| Ok((row.get(8)?, read_pack(row)?))).transpose()
}

/// Reads the [`PACK_COLUMNS`].
fn read_pack(row: &Row) -> Inner<KnownPack> {
    let number = |column| row.get(column).map(i64::cast_unsigned);
    let (id, session, key) = (PackId(row.get(0)?), SnapshotId(row.get(2)?), DataKeyId(row.get(3)?));
    let (size, blobs, raw_bytes, stored_bytes) = (number(1)?, number(4)?, number(5)?, number(6)?);
    let pack = KnownPack { id, size, session, key, blobs, raw_bytes, stored_bytes };
    if row.get::<_, i64>(7)? != pack_sum(&pack) {
        return Err(Fault::Damage(format!("pack {id} has a wrong check sum")));
    }
    Ok(pack)
}

pub(super) fn totals(connection: &Connection) -> Inner<Totals> {
    let sql = "SELECT count(*), coalesce(sum(blobs), 0), coalesce(sum(raw_bytes), 0), coalesce(sum(stored_bytes), 0)
               FROM packs";
    let [packs, blobs, raw_bytes, stored_bytes] = connection.prepare_cached(sql)?.query_row([], |row| {
        let number = |column| row.get(column).map(i64::cast_unsigned);
        Ok([number(0)?, number(1)?, number(2)?, number(3)?])
    })?;
    Ok(Totals { packs, blobs, raw_bytes, stored_bytes })
}

pub(super) fn newest_block(connection: &Connection) -> Inner<i64> {
    Ok(connection.query_row("SELECT coalesce(max(number), 0) FROM blocks", [], |row| row.get(0))?)
}

/// Inserts what lies in the blocks after the newest that the filter covers.
pub(super) fn cover_newer_blocks(connection: &Connection, filter: &mut Filter) -> Inner<()> {
    let covered = filter.covered;
    for_each_block(connection, "blocks.number > ?1", &covered, |block| {
        block.entries.iter().for_each(|entry| filter.insert(&entry.id));
        filter.covered = block.number;
        Ok(())
    })
}

/// The filter as it was saved, or a new one, brought up to date.
pub(super) fn load_filter(connection: &Connection) -> Inner<Filter> {
    let snapshot = connection.unchecked_transaction()?;
    let mut filter = match saved_filter(&snapshot)? {
        Some(filter) => filter,
        None => Filter::for_blobs(totals(&snapshot)?.blobs),
    };
    cover_newer_blocks(&snapshot, &mut filter)?;
    Ok(filter)
}

/// The saved filter, if it is whole.
fn saved_filter(connection: &Connection) -> Inner<Option<Filter>> {
    let (Some(inserted), Some(covered)) = (meta(connection, "filter_inserted")?, meta(connection, "filter_covered")?)
    else {
        return Ok(None);
    };
    let mut statement = connection.prepare("SELECT number, sum, bits FROM filter ORDER BY number")?;
    let (mut rows, mut words) = (statement.query([])?, Vec::new());
    for expected in 0.. {
        let Some(row) = rows.next()? else { break };
        let (number, sum, bits): (i64, i64, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if number != expected || words.len() * 8 >= filter::BYTES_MAX || sum != piece_sum(number, covered, &bits) {
            return Ok(None);
        }
        words.extend(bits.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)));
    }
    Ok(Filter::from_words(words, inserted.cast_unsigned(), covered))
}

/// How many ids had been inserted into the filter that is saved.
pub(super) fn inserted_when_saved(connection: &Connection) -> Inner<u64> {
    Ok(meta(connection, "filter_inserted")?.unwrap_or(0).cast_unsigned())
}

/// Saves the filter, as part of the transaction that made the newest block.
pub(super) fn save_filter(transaction: &Transaction, filter: &Filter) -> Inner<()> {
    let covered = newest_block(transaction)?;
    transaction.execute("DELETE FROM filter", [])?;
    let mut add = transaction.prepare_cached("INSERT INTO filter VALUES (?1, ?2, ?3)")?;
    for (number, bits) in (0i64..).zip(filter.pieces(FILTER_PIECE_BYTES)) {
        add.execute(params![number, piece_sum(number, covered, &bits), bits])?;
    }
    let mut set = transaction.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
    set.execute(params!["filter_inserted", filter.inserted.cast_signed()])?;
    set.execute(params!["filter_covered", covered])?;
    Ok(())
}

fn meta(connection: &Connection, name: &str) -> Inner<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
    Ok(statement.query_row([name], |row| row.get(0)).optional()?)
}

/// The check sum of a block: bound to its pack, so that a wrong reference shows too.
fn block_sum(pack: &PackId, key: &DataKeyId, offset: u32, entries: &[u8]) -> i64 {
    check_sum(&[&pack.0, &key.0, &offset.to_le_bytes(), entries])
}

/// The check sum of a pack's row.
fn pack_sum(pack: &KnownPack) -> i64 {
    let sizes = [pack.size, pack.blobs, pack.raw_bytes, pack.stored_bytes].map(u64::to_le_bytes);
    check_sum(&[&pack.id.0, &pack.session.0, &pack.key.0, sizes.as_flattened()])
}

/// The check sum of a piece of the filter.
fn piece_sum(number: i64, covered: i64, bits: &[u8]) -> i64 {
    check_sum(&[&number.to_le_bytes(), &covered.to_le_bytes(), bits])
}

/// Notices what a failing disk or memory did to a row; `SQLite` has no check sums of its own. Every step
/// is a bijection of the state, so a change within one word never goes unnoticed. Not against attackers:
/// who can write the cache can write its sums. BLAKE3 took half the time of a lookup here.
fn check_sum(parts: &[&[u8]]) -> i64 {
    let step = |state: u64, word: u64| (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let sum = parts.iter().fold(0, |state, part| {
        let (words, rest) = part.as_chunks();
        let state =
            words.iter().fold(step(state, part.len() as u64), |state, word| step(state, u64::from_le_bytes(*word)));
        rest.iter().fold(state, |state, byte| step(state, u64::from(*byte)))
    });
    sum.cast_signed()
}
