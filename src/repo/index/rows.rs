//! What lies in the tables: rows written, read and checked.
//!
//! Every row that decides anything carries a check sum, bound to what the row is about, and goes through
//! the decoders of the format, with their limits. A row that is not exactly what was written is damage,
//! never a location. Without check sums are `places` (a place that leads to a block without such an id is
//! damage), `listed` (each object's row has the sum over its packs) and `features`, which only propose a base.

use std::collections::{HashMap, HashSet};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::file::{Fault, Inner};
use super::filter::{self, Filter};
use super::{BATCH_ENTRIES, KnownPack, Location, Totals};
use crate::error::{Error, Result};
use crate::format::bytes::{Decoder, Encoder};
use crate::format::index::{IndexObject, IndexedPack, object_name};
use crate::format::pack::{BlobEntry, ENTRY_LEN, WrappedKey, decode_entries, encode_entries, with_offsets};
use crate::format::signed::Claim;
use crate::id::{BlobId, DataKeyId, IndexId, PackId, SlotId, SnapshotId};
use crate::transform::hash::stream_digest;

/// Bytes of the entries in a block: as many as surely fit `SQLite`'s page of 4096 bytes, so that a block is one read.
const BLOCK_BYTES: usize = 96 * ENTRY_LEN;
/// Bytes of the filter in one row.
const FILTER_PIECE_BYTES: usize = 64 << 10;
/// The columns that [`read_block`] expects.
const BLOCK_COLUMNS: &str =
    "blocks.number, blocks.offset, blocks.sum, blocks.entries, packs.id, packs.key, packs.author";
/// The columns that [`read_pack`] expects.
const PACK_COLUMNS: &str = "id, size, session, author, time, key, digest, blobs, raw_bytes, stored_bytes, sum";

/// Some entries of one pack, checked.
pub(super) struct Block {
    pub number: i64,
    pub pack: PackId,
    pub key: DataKeyId,
    pub author: SlotId,
    pub offset: u32,
    pub entries: Vec<BlobEntry>,
}

impl Block {
    pub fn located(&self) -> impl Iterator<Item = (&BlobEntry, Location)> {
        self.entries.iter().scan(self.offset, |at, entry| {
            let &BlobEntry { codec, raw_len, stored_len, base, .. } = entry;
            let offset = *at;
            *at = at.wrapping_add(stored_len);
            Some((
                entry,
                Location {
                    pack: self.pack,
                    key: self.key,
                    author: self.author,
                    offset,
                    stored_len,
                    raw_len,
                    codec,
                    base,
                },
            ))
        })
    }
}

/// Reads the [`BLOCK_COLUMNS`]. A row that is not exactly what was written does not become a location.
fn read_block(row: &Row) -> Inner<Block> {
    let (number, offset, sum): (i64, u32, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (pack, key, author) = (PackId(row.get(4)?), DataKeyId(row.get(5)?), SlotId(row.get(6)?));
    let bytes = row.get_ref(3)?.as_blob().map_err(|e| Fault::Damage(e.to_string()))?;
    if sum != block_sum(&pack, &key, offset, bytes) {
        return Err(Fault::Damage(format!("block {number} of pack {pack} has a wrong check sum")));
    }
    let mut input = Decoder(bytes);
    let entries = decode_entries(&mut input)?;
    input.end()?;
    Ok(Block { number, pack, key, author, offset, entries })
}

/// Adds an object's rows, unless it is there. The places of its blobs are collected, for [`add_places`].
/// Returns the packs that were not known.
pub(super) fn add_object<'a>(
    transaction: &Transaction,
    id: IndexId,
    (author, object): (SlotId, &'a IndexObject),
    places: &mut Vec<i64>,
) -> Inner<Vec<&'a IndexedPack>> {
    let mut new_packs = Vec::new();
    let add = "INSERT OR IGNORE INTO objects (id, author, packs, sum) VALUES (?1, ?2, 0, 0)";
    if transaction.execute(add, [id.0, author.0])? == 0 {
        return Ok(new_packs);
    }
    let (object_number, mut listed) = (transaction.last_insert_rowid(), 0_i64);
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
        if list.execute([object_number, pack_number])? == 1 {
            listed = listed.wrapping_add(listed_sum(&pack.id));
        }
    }
    let sum = object_sum(object_number, &id, &author, listed);
    transaction.execute("UPDATE objects SET packs = ?2, sum = ?3 WHERE number = ?1", [object_number, listed, sum])?;
    Ok(new_packs)
}

/// Adds a wrapped data key. The first stays: another one under its id can't displace it.
fn add_key(connection: &Connection, key: &WrappedKey) -> Inner<()> {
    let mut add = connection.prepare_cached("INSERT OR IGNORE INTO keys VALUES (?1, ?2, ?3, ?4)")?;
    let mut wrapped = Encoder::default();
    key.encode(&mut wrapped);
    add.execute(params![key.id.0, key.epoch, wrapped.0, key_sum(&key.id, key.epoch, &wrapped.0)])?;
    Ok(())
}

/// The wrapped data key `id`.
pub(super) fn wrapped_key(connection: &Connection, id: DataKeyId) -> Inner<Option<WrappedKey>> {
    let mut statement = connection.prepare_cached("SELECT epoch, wrapped, sum FROM keys WHERE id = ?1")?;
    let mut rows = statement.query([id.0])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (epoch, bytes, sum): (u32, Vec<u8>, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    if sum != key_sum(&id, epoch, &bytes) {
        return Err(Fault::Damage(format!("data key {id} has a wrong check sum")));
    }
    let mut input = Decoder(&bytes);
    let key = WrappedKey::decode(&mut input)?;
    input.end()?;
    Ok(Some(key))
}

/// Adds a pack's row; returns its number.
fn add_pack(connection: &Connection, pack: &KnownPack) -> Inner<i64> {
    let mut add = connection.prepare_cached(&format!(
        "INSERT INTO packs ({PACK_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
    ))?;
    add.execute(rusqlite::params_from_iter(pack_values(pack)))?;
    Ok(connection.last_insert_rowid())
}

/// The [`PACK_COLUMNS`] of a pack.
fn pack_values(pack: &KnownPack) -> [Value; 11] {
    let blob = |bytes: &[u8]| Value::Blob(bytes.to_vec());
    let number = |n: u64| Value::Integer(n.cast_signed());
    [
        blob(&pack.id.0),
        number(pack.size),
        blob(&pack.session.0),
        blob(&pack.claim.author.0),
        Value::Integer(pack.claim.time),
        blob(&pack.key.0),
        blob(&pack.digest),
        number(pack.blobs),
        number(pack.raw_bytes),
        number(pack.stored_bytes),
        Value::Integer(pack_sum(pack)),
    ]
}

/// Replaces what is known of a pack, its blocks and places; nothing for an unknown pack.
pub(super) fn correct(transaction: &Transaction, pack: &IndexedPack, places: &mut Vec<i64>) -> Inner<()> {
    let Some((number, _)) = known_pack(transaction, &pack.id)? else { return Ok(()) };
    let mut old = Vec::new();
    for_each_block(transaction, "blocks.pack = ?1", &number, |block| {
        old.extend(block.entries.iter().map(|entry| place(&entry.id, block.number as u32)));
        Ok(())
    })?;
    change_places(transaction, "DELETE FROM places WHERE place = ?1", &mut old)?;
    transaction.execute("DELETE FROM blocks WHERE pack = ?1", [number])?;
    let columns: Vec<String> =
        PACK_COLUMNS.split(", ").enumerate().map(|(i, column)| format!("{column} = ?{}", i + 1)).collect();
    let mut values = pack_values(&summary(pack)).to_vec();
    values.push(Value::Integer(number));
    let update = format!("UPDATE packs SET {} WHERE number = ?{}", columns.join(", "), values.len());
    transaction.execute(&update, rusqlite::params_from_iter(values))?;
    add_blocks(transaction, number, pack, places)
}

/// The packs that `author` wrote since `since`.
pub(super) fn packs_of(connection: &Connection, author: SlotId, since: i64) -> Inner<Vec<PackId>> {
    let mut statement = connection.prepare_cached("SELECT id FROM packs WHERE author = ?1 AND time >= ?2")?;
    let ids = statement.query_map(params![author.0, since], |row| row.get(0).map(PackId))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

/// The packs that none of `slots` wrote.
pub(super) fn packs_of_others(connection: &Connection, slots: &[SlotId]) -> Inner<Vec<PackId>> {
    let mut others = connection.prepare_cached("SELECT DISTINCT author FROM packs")?;
    let others = others.query_map([], |row| row.get(0).map(SlotId))?.collect::<Result<Vec<_>, _>>()?;
    let mut packs = Vec::new();
    for slot in others.into_iter().filter(|slot| !slots.contains(slot)) {
        packs.extend(packs_of(connection, slot, i64::MIN)?);
    }
    Ok(packs)
}

/// The packs that only objects of `slots` list, and not in the name of the object's own author.
pub(super) fn packs_listed_only_by(connection: &Connection, slots: &[SlotId]) -> Inner<Vec<PackId>> {
    let numbers: Vec<String> = (1..=slots.len()).map(|n| format!("?{n}")).collect();
    let mut statement = connection.prepare(&format!(
        "SELECT id FROM packs WHERE number NOT IN (
            SELECT listed.pack FROM listed JOIN objects ON objects.number = listed.object
            JOIN packs AS named ON named.number = listed.pack
            WHERE objects.author = named.author OR objects.author NOT IN ({}))",
        numbers.join(", ")
    ))?;
    let slots = rusqlite::params_from_iter(slots.iter().map(|slot| slot.0));
    let ids = statement.query_map(slots, |row| row.get(0).map(PackId))?;
    Ok(ids.collect::<Result<_, _>>()?)
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

/// The ids of the objects.
pub(super) fn objects(connection: &Connection) -> Inner<HashSet<IndexId>> {
    let mut statement = connection.prepare_cached("SELECT number, id, author, packs, sum FROM objects")?;
    let (mut rows, mut ids) = (statement.query([])?, HashSet::new());
    while let Some(row) = rows.next()? {
        ids.insert(read_object(row)?.1);
    }
    Ok(ids)
}

/// Reads an object's number and id, and the sum over its packs.
fn read_object(row: &Row) -> Inner<(i64, IndexId, i64)> {
    let (number, id, author) = (row.get(0)?, IndexId(row.get(1)?), SlotId(row.get(2)?));
    let (listed, sum) = (row.get(3)?, row.get::<_, i64>(4)?);
    if sum != object_sum(number, &id, &author, listed) {
        return Err(Fault::Damage(format!("index object {id} has a wrong check sum")));
    }
    Ok((number, id, listed))
}

/// Verifies which object lists which pack, and that no pack's row is missing or there twice.
pub(super) fn verify_lists(connection: &Connection) -> Inner<()> {
    let damage = |what: &str| Err(Fault::Damage(what.to_owned()));
    let mut statement = connection.prepare_cached(&format!("SELECT {PACK_COLUMNS}, number FROM packs"))?;
    let (mut rows, mut packs, mut ids) = (statement.query([])?, HashMap::new(), HashMap::new());
    while let Some(row) = rows.next()? {
        let (pack, number) = (read_pack(row)?, row.get::<_, i64>("number")?);
        packs.insert(number, (listed_sum(&pack.id), false));
        ids.insert(number, pack.id.0);
    }
    verify_ids(connection, "packs", ids)?;
    let mut statement = connection.prepare_cached("SELECT number, id, author, packs, sum FROM objects")?;
    let (mut rows, mut objects, mut ids) = (statement.query([])?, HashMap::new(), HashMap::new());
    while let Some(row) = rows.next()? {
        let (number, id, listed) = read_object(row)?;
        objects.insert(number, listed);
        ids.insert(number, id.0);
    }
    verify_ids(connection, "objects", ids)?;
    let mut statement = connection.prepare_cached("SELECT object, pack FROM listed")?;
    let (mut rows, mut last) = (statement.query([])?, None);
    while let Some(row) = rows.next()? {
        let (object, pack): (i64, i64) = (row.get(0)?, row.get(1)?);
        if last.replace((object, pack)) >= Some((object, pack)) {
            return damage("what index objects list is out of order");
        }
        let (Some(left), Some((sum, is_listed))) = (objects.get_mut(&object), packs.get_mut(&pack)) else {
            return damage("an index object lists a pack, and one of the two is missing");
        };
        *left = left.wrapping_sub(*sum);
        *is_listed = true;
    }
    if objects.values().any(|left| *left != 0) || packs.values().any(|(_, is_listed)| !is_listed) {
        return damage("the packs of an index object are not those that were added");
    }
    verify_block_numbers(connection)
}

/// Verifies that every row of `table` is found by its id, and by no other: `ids` are those in the rows, by number.
fn verify_ids(connection: &Connection, table: &str, mut ids: HashMap<i64, [u8; 16]>) -> Inner<()> {
    let get = format!("SELECT id, number FROM {table} INDEXED BY sqlite_autoindex_{table}_1 ORDER BY id");
    let mut statement = connection.prepare_cached(&get)?;
    let (mut rows, mut last) = (statement.query([])?, None);
    while let Some(row) = rows.next()? {
        let id: [u8; 16] = row.get(0)?;
        if last.replace(id) >= Some(id) || ids.remove(&row.get(1)?) != Some(id) {
            return Err(Fault::Damage(format!("the ids of {table} are not those of the rows")));
        }
    }
    if ids.is_empty() { Ok(()) } else { Err(Fault::Damage(format!("rows of {table} are not found by their ids"))) }
}

/// Verifies that a new block gets a number which no block had.
fn verify_block_numbers(connection: &Connection) -> Inner<()> {
    let newest = newest_block(connection)?;
    let get = "SELECT seq FROM sqlite_sequence WHERE name = 'blocks'";
    let last: i64 = connection.query_row(get, [], |row| row.get(0)).optional()?.unwrap_or(0);
    if (newest..=i64::from(u32::MAX)).contains(&last) {
        return Ok(());
    }
    Err(Fault::Damage(format!("the last block number is {last}, and block {newest} is there")))
}

/// Removes objects, and what no other object lists.
pub(super) fn remove_objects(transaction: &Transaction, ids: &[IndexId]) -> Inner<()> {
    verify_lists(transaction)?;
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
    // LEFT JOIN keeps SQLite's planner to this order, and shows what a place leads to and is not there.
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {BLOCK_COLUMNS} FROM places LEFT JOIN blocks ON blocks.number = places.place & 0xffffffff
         LEFT JOIN packs ON packs.number = blocks.pack WHERE places.place BETWEEN ?1 AND ?2 ORDER BY places.place"
    ))?;
    let (mut rows, mut blocks) = (statement.query([place(id, 0), place(id, u32::MAX)])?, Vec::new());
    while let Some(row) = rows.next()? {
        let block = read_block(row)?;
        // Others with the same front lie next to it.
        if block.entries.iter().any(|entry| entry.id == *id) {
            blocks.push(block);
        } else if block.entries.iter().all(|entry| place(&entry.id, 0) != place(id, 0)) {
            return Err(Fault::Damage(format!("a place leads to block {}, which has no such id", block.number)));
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
pub(super) fn summary(pack: &IndexedPack) -> KnownPack {
    let total = |len: fn(&BlobEntry) -> u32| pack.entries.iter().map(|entry| u64::from(len(entry))).sum();
    let &IndexedPack { id, size, session, claim, key, ref entries } = pack;
    let mut encoded = Encoder::default();
    encode_entries(entries, &mut encoded);
    let [front, _] = *stream_digest(&encoded.0).as_chunks::<16>().0 else { unreachable!("32 bytes") };
    let (raw_bytes, stored_bytes) = (total(|entry| entry.raw_len), total(|entry| entry.stored_len));
    let blobs = entries.len() as u64;
    KnownPack { id, size, session, claim, key, digest: front, blobs, raw_bytes, stored_bytes }
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
    rows.next()?.map(|row| Ok((row.get(11)?, read_pack(row)?))).transpose()
}

/// Reads the [`PACK_COLUMNS`].
fn read_pack(row: &Row) -> Inner<KnownPack> {
    let number = |column| row.get(column).map(i64::cast_unsigned);
    let (id, session, key) = (PackId(row.get(0)?), SnapshotId(row.get(2)?), DataKeyId(row.get(5)?));
    let claim = Claim { author: SlotId(row.get(3)?), time: row.get(4)? };
    let digest = row.get(6)?;
    let (size, blobs, raw_bytes, stored_bytes) = (number(1)?, number(7)?, number(8)?, number(9)?);
    let pack = KnownPack { id, size, session, claim, key, digest, blobs, raw_bytes, stored_bytes };
    if row.get::<_, i64>(10)? != pack_sum(&pack) {
        return Err(Fault::Damage(format!("pack {id} has a wrong check sum")));
    }
    Ok(pack)
}

/// A pack's blobs with their offsets, in order.
pub(super) fn entries(connection: &Connection, id: &PackId) -> Inner<Vec<(u32, BlobEntry)>> {
    let Some((number, pack)) = known_pack(connection, id)? else { return Ok(Vec::new()) };
    let mut entries = Vec::new();
    for_each_block(connection, "blocks.pack = ?1", &number, |block| {
        entries.extend(block.located().map(|(entry, location)| (location.offset, entry.clone())));
        Ok(())
    })?;
    if entries.len() as u64 == pack.blobs {
        return Ok(entries);
    }
    Err(Fault::Damage(format!("pack {id} has {} blobs instead of {}", entries.len(), pack.blobs)))
}

pub(super) fn totals(connection: &Connection) -> Inner<Totals> {
    let mut statement = connection.prepare_cached(&format!("SELECT {PACK_COLUMNS} FROM packs"))?;
    let (mut rows, mut totals) = (statement.query([])?, Totals::default());
    while let Some(row) = rows.next()? {
        let pack = read_pack(row)?;
        totals.packs += 1;
        totals.blobs += pack.blobs;
        totals.raw_bytes += pack.raw_bytes;
        totals.stored_bytes += pack.stored_bytes;
    }
    Ok(totals)
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

/// Verifies what can be verified without reading every block, and loads the filter: as it was saved, or a new
/// one, brought up to date. Also returns whether there is any object.
pub(super) fn load(connection: &Connection) -> Inner<(Filter, bool)> {
    let snapshot = connection.unchecked_transaction()?;
    verify_lists(&snapshot)?;
    let is_filled = !objects(&snapshot)?.is_empty();
    let mut filter = match saved_filter(&snapshot)? {
        Some(filter) => filter,
        None => Filter::for_blobs(totals(&snapshot)?.blobs),
    };
    cover_newer_blocks(&snapshot, &mut filter)?;
    Ok((filter, is_filled))
}

/// The saved filter, if it is whole.
fn saved_filter(connection: &Connection) -> Inner<Option<Filter>> {
    let (Some(inserted), Some(covered), Some(bytes)) =
        (meta(connection, "filter_inserted")?, meta(connection, "filter_covered")?, meta(connection, "filter_bytes")?)
    else {
        return Ok(None);
    };
    let mut statement = connection.prepare("SELECT number, sum, bits FROM filter ORDER BY number")?;
    let (mut rows, mut words) = (statement.query([])?, Vec::new());
    for expected in 0.. {
        let Some(row) = rows.next()? else { break };
        let (number, sum, bits): (i64, i64, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if number != expected
            || words.len() * 8 >= filter::BYTES_MAX
            || sum != piece_sum(number, bytes, inserted, covered, &bits)
        {
            return Err(Fault::Damage("a piece of the filter has a wrong check sum".into()));
        }
        words.extend(bits.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)));
    }
    if words.len() as u64 * 8 != bytes.cast_unsigned() {
        return Err(Fault::Damage("a piece of the filter is missing".into()));
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
    let (bytes, inserted) = ((filter.bytes() as u64).cast_signed(), filter.inserted.cast_signed());
    for (number, bits) in (0i64..).zip(filter.pieces(FILTER_PIECE_BYTES)) {
        add.execute(params![number, piece_sum(number, bytes, inserted, covered, &bits), bits])?;
    }
    let mut set = transaction.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
    set.execute(params!["filter_inserted", inserted])?;
    set.execute(params!["filter_covered", covered])?;
    set.execute(params!["filter_bytes", bytes])?;
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
    let claim = [&pack.claim.author.0[..], &pack.claim.time.to_le_bytes()].concat();
    check_sum(&[&pack.id.0, &pack.session.0, &claim, &pack.key.0, &pack.digest, sizes.as_flattened()])
}

/// The check sum of a piece of the filter, of which all pieces have so many `bytes`.
fn piece_sum(number: i64, bytes: i64, inserted: i64, covered: i64, bits: &[u8]) -> i64 {
    check_sum(&[[number, bytes, inserted, covered].map(i64::to_le_bytes).as_flattened(), bits])
}

/// The check sum of an object's row; `listed` is the sum of [`listed_sum`] over its packs.
fn object_sum(number: i64, id: &IndexId, author: &SlotId, listed: i64) -> i64 {
    check_sum(&[&number.to_le_bytes(), &id.0, &author.0, &listed.to_le_bytes()])
}

/// What a pack adds to the sum over an object's packs.
fn listed_sum(pack: &PackId) -> i64 {
    check_sum(&[&pack.0])
}

/// The check sum of a data key's row.
fn key_sum(id: &DataKeyId, epoch: u32, wrapped: &[u8]) -> i64 {
    check_sum(&[&id.0, &epoch.to_le_bytes(), wrapped])
}

/// The check sum of a manifest's row.
fn manifest_sum(id: &SnapshotId, sealed: &[u8]) -> i64 {
    check_sum(&[&id.0, sealed])
}

/// The sealed manifest of a snapshot.
pub(super) fn manifest(connection: &Connection, id: &SnapshotId) -> Inner<Option<Vec<u8>>> {
    let mut statement = connection.prepare_cached("SELECT id, sum, sealed FROM manifests WHERE id = ?1")?;
    let mut rows = statement.query([id.0])?;
    rows.next()?.map(|row| Ok(read_manifest(row)?.1.to_vec())).transpose()
}

/// Calls `each` with every sealed manifest.
pub(super) fn for_each_manifest(connection: &Connection, mut each: impl FnMut(SnapshotId, &[u8])) -> Inner<()> {
    let mut statement = connection.prepare_cached("SELECT id, sum, sealed FROM manifests")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, sealed) = read_manifest(row)?;
        each(id, sealed);
    }
    Ok(())
}

/// Keeps a sealed manifest.
pub(super) fn put_manifest(connection: &Connection, id: &SnapshotId, sealed: &[u8]) -> Inner<()> {
    let put = "INSERT OR REPLACE INTO manifests (id, sum, sealed) VALUES (?1, ?2, ?3)";
    connection.execute(put, params![id.0, manifest_sum(id, sealed), sealed])?;
    Ok(())
}

/// Reads id and sealed bytes of a manifest.
fn read_manifest<'r>(row: &'r Row) -> Inner<(SnapshotId, &'r [u8])> {
    let (id, sum) = (SnapshotId(row.get(0)?), row.get::<_, i64>(1)?);
    let sealed = row.get_ref(2)?.as_blob().map_err(|e| Fault::Damage(e.to_string()))?;
    if sum != manifest_sum(&id, sealed) {
        return Err(Fault::Damage(format!("manifest {id} has a wrong check sum")));
    }
    Ok((id, sealed))
}

/// Notices what a failing disk or memory did to a row; `SQLite` has no check sums of its own. Every step
/// is a bijection of the state, so a change within one word never goes unnoticed. Not against attackers:
/// who can write the cache can write its sums. BLAKE3 took half the time of a lookup here.
pub(super) fn check_sum(parts: &[&[u8]]) -> i64 {
    let step = |state: u64, word: u64| (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let sum = parts.iter().fold(0, |state, part| {
        let (words, rest) = part.as_chunks();
        let state =
            words.iter().fold(step(state, part.len() as u64), |state, word| step(state, u64::from_le_bytes(*word)));
        rest.iter().fold(state, |state, byte| step(state, u64::from(*byte)))
    });
    sum.cast_signed()
}
