//! One small value of each kind at rest: what `format` breaks on purpose, and what the fuzz targets start from.
//!
//! The seeds are files of today's encoders in `fuzz/seeds/<target>/`. After a change of the format:
//!
//! ```text
//! ALLUVIUM_REGENERATE=1 cargo test --test all regenerate -- --ignored
//! ```

use std::collections::BTreeSet;
use std::path::Path;

use alluvium::format::catalog::Consistency;
use alluvium::format::certificate::Certificate;
use alluvium::format::config::{ChunkSizes, Config, Parameters};
use alluvium::format::coordination::{
    Beat, Condemned, Distrusted, DistrustedSlot, Generation, RemovedSlot, Session, beat_name, generation_name,
    session_name,
};
use alluvium::format::epoch::{Epoch, Listed, SealedSecrets};
use alluvium::format::index::{IndexObject, IndexedPack};
use alluvium::format::keyslot::{EpochSecrets, Kdf, KeySlot, SecretBytes, SlotKeys, SlotKind};
use alluvium::format::manifest::{
    Catalog, Dialect, Digest, Engine, Header, Listing, Manifest, Part, PartKind, PartList, PartName, SealedManifest,
    Shape, ShapeKind, SourceKind, Stored, encode_fence,
};
use alluvium::format::pack::{BlobEntry, Codec, PackHeader, Trailer, WrappedKey, encode_footer};
use alluvium::format::recipe::{self, Recipe, RecipeEntry};
use alluvium::format::signed::Claim;
use alluvium::format::{ObjectKind, envelope};
use alluvium::id::{BlobId, DataKeyId, PackId, RepoId, SlotId, SnapshotId};
use alluvium::repo::snapshots::inline_list;
use alluvium::transform::columnar::Columnar;
use jiff::Timestamp;

use crate::support::{noise, regenerating};

fn filled<const N: usize>(start: u8) -> [u8; N] {
    std::array::from_fn(|i| start.wrapping_add(i as u8))
}

fn time() -> Timestamp {
    Timestamp::from_second(1_790_000_000).expect("a time")
}

pub fn wrapped_key() -> WrappedKey {
    WrappedKey { id: DataKeyId(filled(1)), epoch: 1, kem_output: filled(2), sealed: filled(3) }
}

pub fn pack_header() -> PackHeader {
    PackHeader { repo: RepoId(filled(4)), session: SnapshotId(filled(5)), key: wrapped_key() }
}

pub fn entry(number: u8) -> BlobEntry {
    let codec = if number.is_multiple_of(2) { Codec::Raw } else { Codec::Zstd };
    BlobEntry { id: BlobId(filled(number)), codec, raw_len: 4000, stored_len: 3000 + u32::from(number), base: None }
}

pub fn trailer() -> Trailer {
    Trailer { content: filled(6), entries: vec![entry(1), entry(2)] }
}

pub fn index() -> IndexObject {
    let pack = |number| IndexedPack {
        id: PackId(filled(number)),
        size: 8192,
        session: SnapshotId(filled(5)),
        claim: Claim { author: SlotId(filled(6)), time: 1_790_000_000 },
        key: wrapped_key().id,
        entries: vec![entry(number), entry(number + 1)],
    };
    IndexObject { keys: vec![wrapped_key()], packs: vec![pack(10), pack(20)] }
}

pub fn sealed_manifest() -> Vec<u8> {
    SealedManifest { key: wrapped_key(), header: b"sealed header", body: b"sealed body" }.encode()
}

pub fn header() -> Header {
    Header {
        time: time(),
        series: filled(8),
        sequence: 7,
        bytes: 4000,
        good_bytes: 9000,
        previous: Some(SnapshotId(filled(9))),
        body: filled(19),
    }
}

fn part(name: &str, kind: PartKind, chunks: &[u8]) -> Part {
    let chunks: Vec<_> = chunks.iter().map(|&n| RecipeEntry { id: BlobId(filled(n)), len: 4000 }).collect();
    let digest = Digest { bytes: 4000 * chunks.len() as u64, blake3: filled(10) };
    Part { name: PartName::of(name), kind, digest, recipe: Recipe { depth: 0, chunks }, stored_bytes: None }
}

fn manifest(kind: SourceKind, is: ShapeKind, whole: Option<Digest>, parts: Vec<Part>) -> Manifest {
    Manifest {
        time: time(),
        sequence: 7,
        finished: time(),
        zone: "Europe/Berlin".to_owned(),
        source: "shop".to_owned(),
        kind,
        host: "db1".to_owned(),
        tags: BTreeSet::from(["daily".to_owned()]),
        previous: None,
        generation: 3,
        tool: "alluvium".to_owned(),
        whole,
        shape: Shape { is, dialect: None },
        parts: inline_list(parts),
        engine: None,
        catalog: None,
        stored: Stored { chunks: 2, new_chunks: 1, new_bytes: 4000, stored_bytes: 3200 },
        shrunk_from: None,
        original: None,
        original_author: None,
    }
}

pub fn manifest_of_files() -> Manifest {
    let parts = vec![
        part("exports/a.csv", PartKind::File { mode: 0o640, modified: time(), changed: false }, &[1, 2]),
        part("exports", PartKind::Folder { mode: 0o750 }, &[]),
        part("exports/latest", PartKind::Link { target: "a.csv".to_owned() }, &[]),
    ];
    manifest(SourceKind::Files, ShapeKind::Files, None, parts)
}

/// Of a database, with a list of parts that is stored as chunks.
pub fn manifest_of_a_dump() -> Manifest {
    let recipe = Recipe { depth: 1, chunks: vec![RecipeEntry { id: BlobId(filled(20)), len: 7200 }] };
    let digest = Digest { bytes: 9_000_000, blake3: filled(21) };
    let parts = PartList { count: 20_000, bytes: 9_000_000, blake3: filled(22), list: Listing::Recipe(recipe.clone()) };
    let consistency = Consistency {
        kind: "lsn".to_owned(),
        lsn: Some("0/16B3748".to_owned()),
        timeline: Some("1".to_owned()),
        ..Consistency::default()
    };
    let engine = Engine {
        engine: Some("postgres".to_owned()),
        server_version: Some("17.5".to_owned()),
        database: Some("shop".to_owned()),
        consistency: Some(consistency),
        extensions: vec!["pgcrypto 1.3".to_owned()],
        ..Engine::default()
    };
    Manifest {
        shape: Shape { is: ShapeKind::Dump, dialect: Some(Dialect::Postgres) },
        parts,
        engine: Some(engine),
        catalog: Some(Catalog { digest, recipe, tables: 20_000 }),
        ..manifest(SourceKind::Command { program: "pg_dump".to_owned() }, ShapeKind::Dump, Some(digest), Vec::new())
    }
}

/// Records of a list of parts.
pub fn records() -> Vec<u8> {
    let name = PartName { database: Some("shop".to_owned()), piece: 2, ..PartName::in_schema("public", "orders") };
    let table = Part { name, ..part("", PartKind::Table { rows: 7 }, &[1, 2]) };
    let parts = [part("definitions", PartKind::Statements, &[3]), table];
    parts.iter().flat_map(|part| part.encode().expect("short")).collect()
}

pub fn manifest_of_a_command() -> Manifest {
    let part = part("shop", PartKind::Stream, &[1]);
    let program = "pg_dump".to_owned();
    Manifest {
        shrunk_from: Some(9000),
        ..manifest(SourceKind::Command { program }, ShapeKind::Stream, Some(part.digest), vec![part])
    }
}

pub fn slot() -> KeySlot {
    let kdf = Kdf::Argon2id { memory_kib: 65_536, passes: 3, lanes: 4, salt: filled(11) };
    KeySlot::new(RepoId(filled(4)), kdf, filled::<60>(12).to_vec())
}

pub fn slot_of_a_key_file() -> KeySlot {
    KeySlot::new(RepoId(filled(4)), Kdf::KeyFile {}, filled::<60>(12).to_vec())
}

pub fn certificate() -> Certificate {
    Certificate {
        kind: SlotKind::WriteOnly,
        label: "db1".to_owned(),
        created: time(),
        sealing: filled(20),
        signing: filled(21),
        key: filled(22),
    }
}

pub fn epoch() -> Epoch {
    let (slot, digest) = (SlotId(filled(6)), filled(23));
    Epoch {
        previous: 1,
        created: time(),
        public: filled(15),
        authority: filled(24),
        certificates: vec![Listed { slot, digest }],
        secrets: vec![SealedSecrets { slot, kem_output: filled(25), sealed: filled(26) }],
    }
}

pub fn keys(full: bool) -> SlotKeys {
    let [secret, authority] = [16, 17].map(|start| SecretBytes(filled(start)));
    let epoch = EpochSecrets { number: 1, secret, authority };
    let [chunk_id, chunker_seed, index, sealing, signing] =
        [12, 13, 14, 15, 18].map(|start| SecretBytes(filled(start)));
    let epochs = if full { vec![epoch] } else { Vec::new() };
    SlotKeys { chunk_id, chunker_seed, index, authority: filled(24), sealing, signing, epochs }
}

pub fn config() -> Config {
    Config::new(RepoId(filled(4)), Vec::new(), filled(24), filled::<90>(17).to_vec())
}

pub fn parameters() -> Parameters {
    let (chunks, recipes) = (ChunkSizes::around(1 << 16), ChunkSizes::around(1 << 13));
    Parameters { version: 1, required_features: Vec::new(), chunks, recipes, pack_bytes: 16 << 20 }
}

pub fn session() -> Session {
    Session { host: "db1".to_owned(), pid: 4711, purpose: "snapshot".to_owned(), started: time() }
}

pub fn beat() -> Beat {
    Beat { count: 7, time: time(), generation: 3 }
}

pub fn generation() -> Generation {
    let pack = PackId(filled(18));
    let distrusted = Distrusted { pack, blobs: vec![BlobId(filled(1))] };
    Generation {
        condemned: vec![Condemned { pack, size: 8192, since: 2 }],
        distrusted: vec![distrusted],
        judged: 2,
        forgotten: vec![SnapshotId(filled(19))],
        removed_slots: vec![RemovedSlot { slot: SlotId(filled(20)), time: time() }],
        distrusted_slots: vec![DistrustedSlot { slot: SlotId(filled(21)), since: time() }],
    }
}

// ---- The seeds of the fuzz targets ----

/// Where the seeds lie.
const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds");

fn numbered(number: u64, rest: &[u8]) -> Vec<u8> {
    [&number.to_le_bytes()[..], rest].concat()
}

/// Every seed: its target, its name, its bytes.
fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let session = session().encode();
    let id = SnapshotId([0xa7; 16]);
    let two = [1, 2].map(|n| RecipeEntry { id: BlobId([n; 32]), len: u32::from(n) * 900 });
    let dump = "--\n-- PostgreSQL database dump\n--\n\n\\restrict Rx0U\nSELECT 1;\n\
        --\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict Rx0U\n\n";
    let mysql =
        "-- MySQL dump 10.13  Distrib 8.0\n--\nINSERT INTO t VALUES (1);\n-- Dump completed on 2026-11-22  2:00:00\n";
    let row = |n: u32| {
        let (hex, note) = (n.wrapping_mul(0x9E37_79B1), if n.is_multiple_of(3) { "\\N" } else { "/p/7?ref=a" });
        format!("{n}\tuser{n}@x.example\t{hex:08x}\t{}.{:02}\t2024-01-01 00:00:{:02}+00\t{note}\n", n * 7, n, n)
    };
    let rows = (10..40).map(row).collect::<String>().into_bytes();
    let columns = Columnar::new(1).encode(&rows).expect("rows");
    // RFC 8878: a single segment of 5 bytes; one raw block, and one of a repeated byte.
    let raw_frame = b"\x28\xb5\x2f\xfd\x20\x05\x29\0\0hello";
    let repeated_frame = b"\x28\xb5\x2f\xfd\x20\x05\x2b\0\0x";
    vec![
        ("pack", "header", pack_header().encode()),
        ("pack", "trailer", trailer().encode()),
        ("pack", "trailer-of-nothing", Trailer { content: [0; 32], entries: Vec::new() }.encode()),
        ("pack", "footer", numbered(1 << 20, &encode_footer(500))),
        ("index", "two-packs", index().encode()),
        ("index", "empty", IndexObject::default().encode()),
        ("manifest", "front", sealed_manifest()),
        ("manifest", "fence", encode_fence(b"sealed")),
        ("manifest", "header", header().encode()),
        ("manifest", "files", manifest_of_files().encode()),
        ("manifest", "command", manifest_of_a_command().encode()),
        ("manifest", "dump", manifest_of_a_dump().encode()),
        ("manifest", "records", records()),
        ("keyslot", "passphrase", slot().encode()),
        ("keyslot", "key-file", slot_of_a_key_file().encode()),
        ("keyslot", "certificate", certificate().encode()),
        ("keyslot", "epoch", epoch().encode()),
        ("keyslot", "keys", keys(true).encode()),
        ("keyslot", "keys-to-write", keys(false).encode()),
        ("config", "config", config().encode()),
        ("config", "parameters", parameters().encode()),
        ("recipe", "two-chunks", recipe::encode_entries(&two)),
        ("recipe", "one-chunk", recipe::encode_entries(&two[..1])),
        ("coordination", "session", session.clone()),
        ("coordination", "beat", beat().encode()),
        ("coordination", "generation", generation().encode()),
        ("coordination", "sealed-session", envelope::encode(ObjectKind::Session, &session)),
        ("coordination", "sealed-index", envelope::encode(ObjectKind::Index, b"sealed")),
        ("coordination", "session-name", session_name(id).into_bytes()),
        ("coordination", "beat-name", beat_name(id).into_bytes()),
        ("coordination", "generation-name", generation_name(7).into_bytes()),
        ("coordination", "generation-name-with-a-sign", b"prune/+0000000000000000007".to_vec()),
        ("coordination", "chunk-id", BlobId([0xa7; 32]).to_string().into_bytes()),
        ("blob", "text", numbered(77, dump.as_bytes())),
        ("blob", "zeros", numbered(5, &[0; 600])),
        ("blob", "noise", numbered(1234, &noise(300, 1))),
        ("blob", "raw-frame", numbered(5, raw_frame)),
        ("blob", "repeated-frame", numbered(5, repeated_frame)),
        ("codecs", "rows", numbered(1, &rows)),
        ("codecs", "columns", numbered(9 * rows.len() as u64, &columns)),
        ("codecs", "changed-rows", numbered(rows.len() as u64 / 2, &rows)),
        (
            "codecs",
            "tuples",
            numbered(16, b"(2,'b\\'c),('),(3,'it''s'),(4,NULL),(5,'x')),(6);\nINSERT INTO t VALUES (7,'z'),("),
        ),
        ("codecs", "csv", numbered(32, b"2,\"b\"\"c,\n\"\n3,d\n4,\"\"\n5\n")),
        ("segments", "postgres", numbered(97, include_bytes!("segments/postgres.sql"))),
        ("segments", "cluster", numbered(4000, include_bytes!("segments/cluster.sql"))),
        ("segments", "mysql", numbered(500, include_bytes!("segments/mysql.sql"))),
        ("segments", "sqlite", numbered(1, include_bytes!("segments/sqlite.sql"))),
        ("sniff_verdict", "pg_dump", dump.into()),
        ("sniff_verdict", "mysqldump", mysql.into()),
        ("sniff_verdict", "pg_dump-custom", b"PGDMP\x01\x0e\0\x04\x08\x01\x01\x01\0\0\0\0".to_vec()),
        ("sniff_verdict", "gzip", b"\x1f\x8b\x08\0\0\0\0\0".to_vec()),
        ("sniff_verdict", "pgp", b"\x8c\x0d\x04\x09\x03\x02ssssssss\xff\xd2\x4b\x01".to_vec()),
        ("select", "latest", b"latest".to_vec()),
        ("select", "time", b"shop@2026-01-04T03:04:05.5Z".to_vec()),
        ("select", "day-and-part", b"shop@2026-01-04:a:b".to_vec()),
        ("select", "civil-time", b"wiki:12@2026-01-03 04:05".to_vec()),
        ("select", "id", b"0303".to_vec()),
        ("select", "subset", b"1/7".to_vec()),
        ("retention", "span", b"1y6m2w3d12h".to_vec()),
        ("retention", "count", b"unlimited".to_vec()),
        ("retention", "history", noise(400, 2)),
        ("retention", "long-history", noise(1200, 3)),
        ("chunk_predict", "unchanged", [&[3, 0xff, 0x10, 3, 1, 2, 3, 4, 0, 8, 2][..], &[0; 60]].concat()),
        ("chunk_predict", "edited", noise(200, 4)),
        ("chunk_predict", "much-edited", noise(2000, 5)),
    ]
}

/// Old seeds would fuzz yesterday's format.
#[test]
fn seeds_are_of_todays_format() {
    let expected = seeds();
    for (target, name, bytes) in &expected {
        let found = std::fs::read(Path::new(SEEDS).join(target).join(name)).unwrap_or_default();
        assert!(found == *bytes, "fuzz/seeds/{target}/{name} is old: see the head of tests/sample.rs");
        // What `fuzz/smoke.sh` reads of one. An epoch has 5 KB: its keys are as long as X-Wing's.
        assert!(bytes.len() <= 8192, "{target}/{name} has {} bytes", bytes.len());
    }
    let files = std::fs::read_dir(SEEDS)
        .expect("fuzz/seeds")
        .flat_map(|t| std::fs::read_dir(t.expect("a target").path()).expect("seeds"));
    assert_eq!(files.count(), expected.len(), "fuzz/seeds holds what nobody made");
    let manifest = std::fs::read_to_string(Path::new(SEEDS).join("../Cargo.toml")).expect("fuzz/Cargo.toml");
    for target in manifest.lines().filter_map(|l| l.strip_prefix("path = \"targets/")?.strip_suffix(".rs\"")) {
        assert!(expected.iter().any(|(t, ..)| *t == target), "the fuzz target {target} has no seed");
    }
}

#[test]
#[ignore = "writes fuzz/seeds: see the head of this file"]
fn regenerate_seeds() {
    if !regenerating() {
        return;
    }
    let _ = std::fs::remove_dir_all(SEEDS);
    for (target, name, bytes) in seeds() {
        let folder = Path::new(SEEDS).join(target);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(name), bytes).expect("a seed");
    }
}
