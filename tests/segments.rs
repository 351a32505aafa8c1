//! Segments: dumps are cut where their tables begin, whatever stands in them, and one table comes back by itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use alluvium::env::Cancel;
use alluvium::error::{Kind, Result};
use alluvium::format::limits::NAME_BYTES_MAX;
use alluvium::format::manifest::{Digest, Header, Part, PartKind};
use alluvium::id::BlobId;
use alluvium::ops::check::check;
use alluvium::ops::diff;
use alluvium::ops::restore::{Target, restore};
use alluvium::ops::select::Narrow;
use alluvium::repo::reader::Reader;
use alluvium::repo::session::{Session, Writing};
use alluvium::repo::snapshots::{Snapshot, digest_of_stream, inline_list};
use alluvium::repo::{InitOptions, Repository};
use alluvium::report::{Collect, Silent};
use alluvium::storage::fault::{Fault, Operation};
use alluvium::storage::memory::Memory;
use alluvium::transform::segment::{LOOKAHEAD, Segmenter};
use jiff::SignedDuration;
use proptest::prelude::*;

use crate::support::{CHEAP, PASSPHRASE, World, init, noise, open, part_called, parts_of, restored, take, wanted};

/// Everything that could be taken for something else: a dump inside a function, inside a row and inside a comment.
const POSTGRES: &str = include_str!("segments/postgres.sql");
const CLUSTER: &str = include_str!("segments/cluster.sql");
const MYSQL: &str = include_str!("segments/mysql.sql");
const SQLITE: &str = include_str!("segments/sqlite.sql");

/// The segments of `stream`, scanned `step` bytes at a time: where each begins, its name, and its rows.
pub fn segments(stream: &[u8], steps: &[usize]) -> Vec<(usize, String, u64)> {
    let Some(mut segmenter) = Segmenter::recognise(&stream[..stream.len().min(64 << 10)]) else { return Vec::new() };
    let first = segmenter.first().0.map_or_else(String::new, |name| name.to_string());
    let mut found = vec![(0, first, 0)];
    let (mut consumed, mut end) = (0, 0);
    let mut steps = steps.iter().cycle();
    loop {
        assert!(found.iter().all(|(_, name, _)| name.len() <= NAME_BYTES_MAX));
        end = stream.len().min(end + steps.next().expect("a cycle").max(&1));
        let last = end == stream.len();
        let mut begun = Vec::new();
        let n = segmenter.scan(&stream[consumed..end], last, &mut begun);
        assert!(n <= end - consumed && end - consumed - n < LOOKAHEAD, "{} bytes are left", end - consumed - n);
        for begin in begun {
            found.last_mut().expect("the first").2 = begin.rows_before;
            found.push((consumed + begin.at, begin.name.to_string(), 0));
        }
        consumed += n;
        if last {
            assert_eq!(consumed, stream.len());
            found.last_mut().expect("the first").2 = segmenter.rows();
            return found;
        }
    }
}

fn names(stream: &str) -> Vec<(String, u64)> {
    segments(stream.as_bytes(), &[stream.len()]).into_iter().map(|(_, name, rows)| (name, rows)).collect()
}

fn expect(stream: &str, expected: &[(&str, u64)]) {
    let expected: Vec<(String, u64)> = expected.iter().map(|(name, rows)| ((*name).to_owned(), *rows)).collect();
    assert_eq!(names(stream), expected);
}

#[test]
fn tables_of_postgresql_are_told_from_what_looks_like_them() {
    expect(
        POSTGRES,
        &[
            ("definitions", 0),
            ("public.orders", 4),
            ("public.odd \"name\"; COPY x FROM stdin;", 1),
            ("public.empty", 0),
            ("public.inserted", 3),
            ("definitions (2)", 0),
        ],
    );
}

#[test]
fn databases_of_a_cluster_are_told_apart() {
    expect(
        CLUSTER,
        &[
            ("definitions", 0),
            ("shop/definitions", 0),
            ("shop/public.orders", 2),
            ("wiki/definitions", 0),
            ("wiki/public.orders", 1),
        ],
    );
}

#[test]
fn tables_of_mysql_are_found_with_their_definitions() {
    expect(MYSQL, &[("definitions", 0), ("orders", 5), ("odd`name", 1), ("definitions (2)", 0)]);
}

#[test]
fn tables_of_sqlite_are_found_with_their_definitions() {
    expect(
        SQLITE,
        &[
            ("definitions", 0),
            ("orders", 3),
            ("odd name", 1),
            ("log", 0),
            ("Order Details", 1),
            ("temp_readings", 1),
            ("definitions (2)", 0),
        ],
    );
}

#[test]
fn lines_are_rows() {
    assert_eq!(names("id,name\n1,a\n2,\"b,c\"\n3,d"), [(String::new(), 4)]);
    assert_eq!(names("{\"a\":1}\n{\"a\":2}\n"), [(String::new(), 2)]);
    assert!(names("some text,\nwith commas, here, and\nthere\n").is_empty());
    assert!(names("\u{0}\u{1}").is_empty() && names("").is_empty());
}

/// Pieces of dumps in any order: most of it is nonsense, and none of it may be lost, or be cut otherwise when it comes in
/// other pieces.
fn nonsense() -> impl Strategy<Value = Vec<u8>> {
    let heads = prop::sample::select(vec![
        "-- PostgreSQL database dump\n",
        "-- MySQL dump 10.13\n",
        "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n",
        "-- PostgreSQL database cluster dump\n",
        "",
    ]);
    let pieces = prop::collection::vec(
        prop_oneof![
            prop::sample::select(vec![
                "COPY public.a (x) FROM stdin;\n",
                "1\t2\n",
                "\\.\n",
                "\\.",
                "\r\n",
                "\n\\.\r\n",
                "INSERT INTO `t` VALUES (1,'a'),(2,'b');\n",
                "'",
                "\"",
                "`",
                "$$",
                "$a$",
                "--",
                "/*",
                "*/",
                "/*!40101 SET x=1 */;\n",
                "\\",
                "E'",
                ";",
                "(",
                ")",
                "#",
                "[",
                "]",
                "DELIMITER ;;\n",
                "DELIMITER\n",
                ";;\n",
                "CREATE TABLE t (a int);\n",
                "CREATE TRIGGER x BEGIN ",
                "END;\n",
                "USE `db`;\n",
                "\\connect other\n",
                "BEGIN ATOMIC",
                "CREATE FUNCTION f() ",
                " FROM stdin;",
                "VALUES",
                "\u{feff}",
                "\u{0}",
                "\n",
                " ",
            ])
            .prop_map(|piece| piece.as_bytes().to_vec()),
            "[a-z ]{0,40}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..20),
            // Longer than what is looked at.
            (60_000..140_000usize).prop_map(|n| vec![b' '; n]),
            (1000..3000usize).prop_map(|n| vec![b'x'; n]),
        ],
        0..60,
    );
    (heads, pieces).prop_map(|(head, pieces)| [head.as_bytes(), &pieces.concat()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn however_a_stream_comes_it_is_cut_the_same(
        stream in nonsense(),
        steps in prop::collection::vec(prop_oneof![1..100usize, 1..200_000usize], 1..5),
    ) {
        // One byte at a time would take long where the stream is long.
        let least = stream.len() / 2000;
        let steps: Vec<usize> = steps.into_iter().map(|step| step.max(least)).collect();
        let whole = segments(&stream, &[stream.len()]);
        prop_assert!(whole.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        let mut unique: Vec<_> = whole.iter().map(|(_, name, _)| name).collect();
        unique.sort();
        unique.dedup();
        prop_assert_eq!(unique.len(), whole.len());
        // What is given up on for its length depends on how much of it is at hand: only then may cuts differ.
        let in_pieces = segments(&stream, &steps);
        if !stream.windows(50_000).any(|w| w.iter().all(|b| *b == b' ')) {
            prop_assert_eq!(in_pieces, whole);
        }
    }

    #[test]
    fn whatever_is_stored_comes_back(stream in nonsense()) {
        prop_assume!(!stream.is_empty());
        let repo = init(Memory::new(), &World::new(1));
        // A dump without its end is refused, and that is right.
        if let Ok(taken) = take(&repo, "s", &stream) {
            let found = repo.snapshot(taken.id).expect("snapshot");
            prop_assert_eq!(found.manifest.bytes(), stream.len() as u64);
            prop_assert!(restored(&repo, &found).expect("restore") == stream);
        }
    }

    /// Against a model that holds all rows.
    #[test]
    fn rows_that_differ_are_counted(
        rows in 1..3000usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3u8), 0..20),
    ) {
        let row = |i: usize, v: usize| format!("{i}\tvalue {}\t{v}\n", i * 7919 % 1013);
        let mut after: Vec<Option<String>> = (0..rows).map(|i| Some(row(i, 0))).collect();
        let (mut added, mut removed, mut changed) = (0, std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        for (at, what) in &changes {
            let at = at.index(rows);
            match what {
                0 => added += 1,
                1 => { removed.insert(at); }
                _ => { changed.insert(at); }
            }
        }
        for at in &changed {
            after[*at] = Some(row(*at, 1));
        }
        for at in &removed {
            after[*at] = None;
            changed.remove(at);
        }
        let before: String = (0..rows).map(|i| row(i, 0)).collect();
        let mut text: String = after.into_iter().flatten().collect();
        (0..added).for_each(|i| text.push_str(&row(rows + i, 0)));
        let dump = |rows: &str| POSTGRES.replace("ROWS\n", rows);
        let (storage, world) = (Memory::new(), World::new(1));
        let repo = init(storage, &world);
        let ids = [&before, &text].map(|rows| {
            world.pass(SignedDuration::from_hours(24));
            take(&repo, "s", dump(rows).as_bytes()).expect("take").id
        });
        let [old, new] = ids.map(|id| repo.snapshot(id).expect("snapshot"));
        let parts = diff::diff(&repo, &old, &new, true, &Silent).expect("diff");
        let orders = parts.iter().find(|part| part.name == "public.orders").expect("the table");
        let found = orders.rows.unwrap_or_default();
        prop_assert_eq!(
            (found.added, found.removed, found.changed),
            (added as u64, removed.len() as u64, changed.len() as u64)
        );
        let shown = diff::table(&repo, &old, &new, "orders", &Silent).expect("rows");
        prop_assert_eq!(shown.len(), added + removed.len() + changed.len());
        for (older, newer) in shown {
            let is_in = |row: Option<Vec<u8>>, text: &str| {
                row.is_none_or(|row| text.contains(std::str::from_utf8(&row).expect("text")))
            };
            prop_assert!(is_in(older, &before) && is_in(newer, &text));
        }
    }
}

#[test]
fn rows_that_differ_are_read_from_the_chunks_that_differ() {
    let (fault, world) = (Fault::new(Memory::new()), World::new(1));
    let repo = init(fault.clone(), &world);
    let row = |i: u64, changed: u64| {
        format!("{i}\tvalue {:016x}\t{}\n", (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15), u8::from(i == changed))
    };
    let [old, new] = [u64::MAX, 25_000].map(|changed| {
        world.pass(SignedDuration::from_hours(24));
        let rows: String = (0..50_000).map(|i| row(i, changed)).collect();
        let taken = take(&repo, "s", POSTGRES.replace("ROWS\n", &rows).as_bytes()).expect("take");
        repo.snapshot(taken.id).expect("snapshot")
    });
    let chunks = |snapshot: &Snapshot| -> BTreeSet<BlobId> {
        let indexed = repo.index_to_read(&Silent).expect("index");
        let reader = Reader::new(&indexed).expect("a reader");
        let orders = part_called(&repo, snapshot, "public.orders").expect("the table");
        reader.entries(&orders.recipe).map(|entry| entry.expect("an entry").id).collect()
    };
    let (before, after) = (chunks(&old), chunks(&new));
    assert!(before.len() > 1000 && before.symmetric_difference(&after).count() < 8, "{} chunks", before.len());
    let calls = fault.operations();
    let shown = diff::table(&repo, &old, &new, "orders", &Silent).expect("rows");
    assert_eq!(shown.len(), 1);
    let read: usize =
        fault.calls()[calls..].iter().filter(|c| c.operation == Operation::GetRange).map(|c| c.bytes).sum();
    // The recipes of both days, and a few chunks of a kilobyte or two; the rows take some megabytes.
    let recipes = 40 * (before.len() + after.len());
    assert!(read > 0 && read < recipes + 30_000, "{read} bytes were read, of which recipes take {recipes}");
}

/// How a client writes rows, of which each is a number and a string.
#[derive(Clone, Copy, Debug)]
enum Written {
    MysqlLine,
    MysqlLines,
    PostgresEach,
    PostgresSome,
    Sqlite,
}

const WRITTEN: [Written; 5] =
    [Written::MysqlLine, Written::MysqlLines, Written::PostgresEach, Written::PostgresSome, Written::Sqlite];

impl Written {
    /// A row as it stands between parentheses.
    fn row(self, (id, text): &(usize, String)) -> String {
        match self {
            Self::MysqlLine | Self::MysqlLines => {
                let text = text.replace('\\', r"\\").replace('\'', r"\'").replace('\n', r"\n");
                format!("'{id}, \\'k',{id},'{text}'")
            }
            _ => format!("'{id}, ''k', {id}, '{}'", text.replace('\'', "''")),
        }
    }

    fn dump(self, rows: &[(usize, String)]) -> String {
        let tuples: Vec<String> = rows.iter().map(|row| format!("({})", self.row(row))).collect();
        let postgres = |inserts: String| {
            let settings = "--\n-- PostgreSQL database dump\n--\n\nSET client_encoding = 'UTF8';\n\n";
            format!("{settings}{inserts}\n\n--\n-- PostgreSQL database dump complete\n--\n")
        };
        let mysql = |begin: &str, between: &str| {
            let insert = |some: &[String]| format!("INSERT INTO `t` VALUES{begin}{};\n", some.join(between));
            let inserts: String = tuples.chunks(200).map(insert).collect();
            let table = "DROP TABLE IF EXISTS `t`;\nCREATE TABLE `t` (\n  `k` text\n);\n";
            format!("-- MySQL dump 10.13\n\nSET x=1;\n\n{table}{inserts}\n-- Dump completed on 2026-11-24  1:00:00\n")
        };
        match self {
            Self::MysqlLine => mysql(" ", ","),
            Self::MysqlLines => mysql("\n", ",\n"),
            Self::PostgresEach => {
                let inserts: Vec<String> =
                    tuples.iter().map(|tuple| format!("INSERT INTO public.t VALUES {tuple};\n")).collect();
                postgres(inserts.concat())
            }
            Self::PostgresSome => {
                let some = |tuples: &[String]| format!("INSERT INTO public.t VALUES\n\t{};\n\n", tuples.join(",\n\t"));
                postgres(tuples.chunks(50).map(some).collect())
            }
            Self::Sqlite => {
                let inserts: Vec<String> =
                    tuples.iter().map(|tuple| format!("INSERT INTO t VALUES{tuple};\n")).collect();
                let inserts = inserts.concat();
                format!("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE t(k);\n{inserts}COMMIT;\n")
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Strings that look like the ends of rows, and like rows.
    #[test]
    fn rows_of_inserts_are_split_where_their_strings_are_not(
        pieces in prop::collection::vec(
            prop::collection::vec(
                prop::sample::select(vec![
                    "),(", "'", "\\", "\n", "');\nINSERT INTO public.t VALUES (7, '", ");\nINSERT INTO `t` VALUES (1,2);\n",
                    "),\n\t(", ";", ",", "--", "/*", "$$", "E'", "(", ")", "\t", "words and more words ",
                ]),
                0..12,
            ),
            1..40,
        ),
        rows in 1..600usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3u8), 0..12),
    ) {
        let text = |i: usize| pieces[i * 7919 % pieces.len()].concat();
        let before: Vec<(usize, String)> = (0..rows).map(|i| (i, text(i))).collect();
        let mut after: Vec<Option<(usize, String)>> = before.iter().cloned().map(Some).collect();
        for (at, what) in &changes {
            let at = at.index(rows);
            match (what, &mut after[at]) {
                (0, _) => after.push(Some((after.len(), text(at)))),
                (1, row) => *row = None,
                (_, Some((_, text))) => text.push_str("),(changed"),
                (_, None) => {}
            }
        }
        let after: Vec<(usize, String)> = after.into_iter().flatten().collect();
        for written in WRITTEN {
            let (storage, world) = (Memory::new(), World::new(1));
            let repo = init(storage, &world);
            let [old, new] = [&before, &after].map(|rows| {
                world.pass(SignedDuration::from_hours(24));
                let id = take(&repo, "s", written.dump(rows).as_bytes()).expect("take").id;
                repo.snapshot(id).expect("snapshot")
            });
            let row = |row: &(usize, String)| written.row(row);
            let mut expected: Vec<(Option<String>, Option<String>)> = (after.iter())
                .filter(|new| before.get(new.0) != Some(new))
                .map(|new| (before.get(new.0).map(row), Some(row(new))))
                .collect();
            let is_gone = |old: &&(usize, String)| after.iter().all(|new| new.0 != old.0);
            expected.extend(before.iter().filter(is_gone).map(|old| (Some(row(old)), None)));
            let shown = diff::table(&repo, &old, &new, "t", &Silent).expect("rows");
            let text = |row: Option<Vec<u8>>| row.map(|row| String::from_utf8(row).expect("text"));
            let shown: Vec<_> = shown.into_iter().map(|(old, new)| (text(old), text(new))).collect();
            prop_assert_eq!(&shown, &expected, "{:?}", written);
            let parts = diff::diff(&repo, &old, &new, true, &Silent).expect("diff");
            let counted = parts.iter().filter_map(|part| part.rows).map(|rows| rows.added + rows.removed + rows.changed);
            prop_assert_eq!(counted.sum::<u64>(), expected.len() as u64, "{:?}", written);
        }
    }
}

#[test]
fn rows_of_a_table_that_one_side_lacks_are_all_of_them() {
    let without = MYSQL.replace("orders", "order");
    for (dump, other, name, rows) in [
        (MYSQL, &without[..], "orders", 5),
        (POSTGRES, &POSTGRES.replace("public.orders", "public.order"), "public.orders", 4),
        (SQLITE, &SQLITE.replace("orders", "order"), "orders", 3),
    ] {
        let repo = init(Memory::new(), &World::new(1));
        let [old, new] = [other, dump].map(|dump| {
            let id = take(&repo, "s", dump.as_bytes()).expect("take").id;
            repo.snapshot(id).expect("snapshot")
        });
        let parts = diff::diff(&repo, &old, &new, true, &Silent).expect("diff");
        let part = parts.iter().find(|part| part.name == name).expect("the table");
        assert_eq!(part.rows.expect("rows").added, rows, "{name}");
    }
}

// ---- one table -------------------------------------------------------------------------------

/// Each part has the digest of its bytes, the stream that of its parts' digests, and a restore compares them all.
#[test]
fn what_parts_and_stream_say_of_themselves_is_compared() {
    let (repo, snapshot) = stored(POSTGRES);
    let parts = &parts_of(&repo, &snapshot);
    assert!(parts.len() > 3);
    let mut rest = POSTGRES.as_bytes();
    let mut digests = Vec::new();
    for part in parts {
        let bytes;
        (bytes, rest) = rest.split_at(part.digest.bytes as usize);
        assert_eq!(part.digest.blake3, *blake3::hash(bytes).as_bytes(), "{}", part.name);
        digests.extend(part.digest.blake3);
    }
    assert!(rest.is_empty());
    let whole = snapshot.manifest.whole.expect("a stream");
    assert_eq!((whole.bytes, whole.blake3), (POSTGRES.len() as u64, *blake3::hash(&digests).as_bytes()));
    let refused = |what: &str, alter: &dyn Fn(&mut Digest, &mut Vec<Part>), mend: bool| {
        let mut altered = snapshot.clone();
        let (mut whole, mut parts) = (whole, parts.clone());
        alter(&mut whole, &mut parts);
        altered.manifest.whole = Some(if mend { digest_of_stream(&parts) } else { whole });
        altered.manifest.parts = inline_list(parts);
        let error = restored(&repo, &altered).expect_err(what);
        assert_eq!(error.kind(), Kind::Damaged, "{what}: {error}");
    };
    refused("another digest of all", &|whole, _| whole.blake3[0] ^= 1, false);
    refused("another length of all", &|whole, _| whole.bytes += 1, false);
    refused("parts in another order", &|_, parts| parts.swap(0, 1), false);
    refused("a part left out", &|_, parts| drop(parts.remove(1)), false);
    refused("another digest", &|_, parts| parts[1].digest.blake3[0] ^= 1, true);
    refused("longer", &|_, parts| parts[1].digest.bytes += 1, true);
    refused("shorter", &|_, parts| parts[1].digest.bytes -= 1, true);
    refused("the last one longer", &|_, parts| parts.last_mut().expect("parts").digest.bytes += 1, true);
    refused("the last one shorter", &|_, parts| parts.last_mut().expect("parts").digest.bytes -= 1, true);
    refused("another's chunks", &|_, parts| parts[1].recipe = parts[0].recipe.clone(), true);

    // A check sees it before somebody needs it.
    let mut manifest = snapshot.manifest.clone();
    manifest.whole.as_mut().expect("a stream").blake3[0] ^= 1;
    let bytes = manifest.bytes();
    let header = Header {
        time: manifest.time,
        series: repo.keys.hasher.series(&manifest.host, &manifest.source),
        sequence: manifest.sequence,
        bytes,
        good_bytes: bytes,
        previous: manifest.previous,
        body: [0; 32],
    };
    let session =
        Session::begin(&repo, &Writing { host: "h".into(), purpose: "snapshot".into() }, &Silent).expect("begin");
    let id = session.publish(&header, &manifest).expect("publish");
    let checked = check(&repo, None, &Silent, &Cancel::new()).expect("check");
    let told: Vec<_> = checked.problems.iter().map(|problem| problem.object.clone()).collect();
    assert_eq!(told, [format!("snapshots/{id}")]);
}

fn table(repo: &Repository, snapshot: &Snapshot, name: &str, narrow: Narrow) -> Result<(Vec<u8>, Vec<String>)> {
    let (found, wanted) = wanted(repo, std::slice::from_ref(snapshot), &format!("latest:{name}"))?;
    let (mut out, report) = (Vec::new(), Collect::default());
    restore(
        &repo.index_to_read(&report)?,
        found,
        &wanted.narrowed(narrow)?,
        Target::Stream(&mut out),
        96 << 20,
        &report,
        &Cancel::new(),
    )?;
    Ok((out, report.warnings()))
}

fn text_of(repo: &Repository, snapshot: &Snapshot, name: &str, narrow: Narrow) -> String {
    String::from_utf8(table(repo, snapshot, name, narrow).expect("restore").0).expect("text")
}

fn stored(dump: &str) -> (Repository, Snapshot) {
    let repo = init(Memory::new(), &World::new(1));
    let id = take(&repo, "shop", dump.as_bytes()).expect("take").id;
    let snapshot = repo.snapshot(id).expect("snapshot");
    (repo, snapshot)
}

#[test]
fn a_table_of_postgresql_comes_with_what_belongs_to_it() {
    let (repo, snapshot) = stored(POSTGRES);
    let (text, warnings) = table(&repo, &snapshot, "orders", Narrow::Everything).expect("restore");
    let text = String::from_utf8(text).expect("text");
    for part in [
        "SET client_encoding = 'UTF8';",
        "CREATE TYPE public.status",
        "CREATE TABLE public.orders (",
        "CREATE SEQUENCE public.orders_id_seq",
        "OWNED BY public.orders.id;",
        "SET DEFAULT nextval('public.orders_id_seq'::regclass);",
        "COPY public.orders (id, status, note) FROM stdin;",
        "SELECT pg_catalog.setval('public.orders_id_seq', 3, true);",
        "ADD CONSTRAINT orders_pkey PRIMARY KEY (id);",
        "CREATE INDEX orders_status ON public.orders USING btree (status);",
        "CREATE FUNCTION public.touch() RETURNS trigger",
        "CREATE TRIGGER touched BEFORE UPDATE ON public.orders",
        "GRANT SELECT ON TABLE public.orders TO reader;",
        "COMMENT ON COLUMN public.orders.note IS 'free; text';",
        "\\restrict abc",
        "\\unrestrict abc",
    ] {
        assert!(text.contains(part), "`{part}` is missing in\n{text}");
    }
    for part in ["public.empty", "public.inserted", "public.twice", "orders_customer_fkey", "\\connect"] {
        assert!(!text.contains(part), "`{part}` is in\n{text}");
    }
    assert!(
        warnings.iter().any(|w| w.contains("public.customer") && w.contains("orders_customer_fkey")),
        "{warnings:?}"
    );
    let data = text_of(&repo, &snapshot, "public.orders", Narrow::Data);
    assert!(
        data.contains("COPY public.orders") && !data.contains("CREATE TABLE") && data.contains("SET client_encoding")
    );
    assert!(data.contains("setval('public.orders_id_seq', 3, true)"), "where the sequence stands goes with the rows");
    let schema = text_of(&repo, &snapshot, "orders", Narrow::Schema);
    assert!(
        !schema.contains("COPY public.orders") && schema.contains("CREATE TABLE") && schema.contains("orders_pkey")
    );
    assert!(!schema.contains("setval"), "an empty table's sequence begins at the beginning");
    let cat = text_of(&repo, &snapshot, "orders", Narrow::AsItIs);
    assert!(POSTGRES.contains(&cat) && cat.contains("COPY public.orders"));
    assert_eq!(table(&repo, &snapshot, "nothing", Narrow::Everything).expect_err("unknown").kind(), Kind::NotFound);
}

#[test]
fn a_table_of_mysql_comes_between_the_settings() {
    let (repo, snapshot) = stored(MYSQL);
    let text = text_of(&repo, &snapshot, "orders", Narrow::Everything);
    assert!(
        text.contains("CREATE TABLE `orders`") && text.contains("(5,'five ") && text.contains("`orders_before`"),
        "{text}"
    );
    assert!(
        text.contains("SET NAMES utf8mb4")
            && text.contains("SET TIME_ZONE=@OLD_TIME_ZONE")
            && !text.contains("odd``name")
    );
    let data = text_of(&repo, &snapshot, "orders", Narrow::Data);
    assert!(data.contains("INSERT INTO `orders`") && !data.contains("CREATE TABLE") && data.contains("SET NAMES"));
    let schema = text_of(&repo, &snapshot, "orders", Narrow::Schema);
    assert!(!schema.contains("INSERT INTO `orders`") && schema.contains("CREATE TABLE"));
}

#[test]
fn a_table_of_sqlite_comes_with_its_indexes() {
    let (repo, snapshot) = stored(SQLITE);
    let text = text_of(&repo, &snapshot, "orders", Narrow::Everything);
    assert!(text.contains("CREATE TABLE orders") && text.contains("CREATE INDEX by_note") && text.contains("COMMIT;"));
    assert!(text.contains("CREATE TRIGGER noted") && !text.contains("odd name"), "{text}");
    assert!(
        text.contains("unique index lower on orders")
            && text.contains("'two' END;\n  INSERT INTO log VALUES(3);\nEND;"),
        "{text}"
    );
    let details = text_of(&repo, &snapshot, "Order Details", Narrow::Everything);
    assert!(
        details.contains("CREATE TABLE [Order Details]") && details.contains("INSERT INTO \"Order Details\""),
        "{details}"
    );
    assert!(text_of(&repo, &snapshot, "temp_readings", Narrow::Everything).contains("INSERT INTO temp_readings"));
}

#[test]
fn a_table_of_sqlite_goes_on_counting_where_it_was() {
    let dump = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n\
        CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT, x);\nINSERT INTO a VALUES(1,'one');\n\
        DELETE FROM sqlite_sequence;\nINSERT INTO sqlite_sequence VALUES('a',3);\n\
        INSERT INTO sqlite_sequence VALUES('it''s',9);\n\
        CREATE TABLE IF NOT EXISTS \"it's\" (id INTEGER PRIMARY KEY AUTOINCREMENT, x);\n\
        INSERT INTO \"it's\" VALUES(2,'two');\nCOMMIT;\n";
    let (repo, snapshot) = stored(dump);
    for (name, rows, next) in [("a", 1, 4), ("it's", 1, 10)] {
        let database = rusqlite::Connection::open_in_memory().expect("a database");
        database.execute_batch(&text_of(&repo, &snapshot, name, Narrow::Everything)).expect("it is read");
        let count = |what: &str| -> i64 {
            database.query_row(&format!("SELECT {what} FROM \"{name}\""), [], |row| row.get(0)).expect("a number")
        };
        assert_eq!(count("count(*)"), rows, "{name}");
        database.execute(&format!("INSERT INTO \"{name}\" (x) VALUES ('new')"), []).expect("insert");
        assert_eq!(count("max(id)"), next, "{name}");
        assert!(!text_of(&repo, &snapshot, name, Narrow::Schema).contains("sqlite_sequence"));
    }
}

#[test]
fn statements_have_no_rows_to_compare() {
    let (repo, snapshot) = stored(SQLITE);
    let error = diff::table(&repo, &snapshot, &snapshot, "definitions", &Silent).expect_err("no rows");
    assert_eq!(error.kind(), Kind::Usage);
}

/// What a second reader of this code found to be restored wrongly.
const TRAPS: &str = include_str!("segments/traps.sql");

#[test]
fn names_and_ties_that_mislead_do_not() {
    expect(
        TRAPS,
        &[
            ("definitions", 0),
            ("temp.stage", 1),
            ("temp_a.t", 1),
            ("public.child", 1),
            ("public.orders", 1),
            ("definitions (2)", 0),
        ],
    );
    let (repo, snapshot) = stored(TRAPS);
    let orders = text_of(&repo, &snapshot, "orders", Narrow::Everything);
    for part in [
        "CREATE SEQUENCE public.shared_seq",
        "setval('public.shared_seq', 7",
        "ALTER TABLE public.shared_seq OWNER TO app;",
        "orders_pkey PRIMARY KEY",
        "KEY that REFERENCES nothing",
        "END;\n",
    ] {
        assert!(orders.contains(part), "`{part}` is missing in\n{orders}");
    }
    assert!(
        !orders.contains("DROP CONSTRAINT") && !orders.contains("DROP DEFAULT") && !orders.contains("lowrite"),
        "{orders}"
    );
    let child = text_of(&repo, &snapshot, "child", Narrow::Everything);
    let at = |part: &str| child.find(part).unwrap_or_else(|| panic!("`{part}` is missing in\n{child}"));
    assert!(at("CREATE TABLE public.parent") < at("CREATE TABLE public.child") && at("COPY public.child") > 0);
    assert!(!child.contains("COPY public.orders"));
    let (_, warnings) = table(&repo, &snapshot, "public.parent", Narrow::Everything).expect("restore");
    assert!(warnings.iter().any(|warning| warning.contains("holds no rows")), "{warnings:?}");
}

#[test]
fn what_concerns_the_whole_server_is_left_out() {
    let dump = MYSQL.replace(
        "/*!40101 SET NAMES utf8mb4 */;",
        "/*!40101 SET NAMES utf8mb4 */;\nSET @MYSQLDUMP_TEMP_LOG_BIN = @@SESSION.SQL_LOG_BIN;\nSET @@SESSION.SQL_LOG_BIN= 0;\n\
         SET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ '3e11fa47-71ca-11e1-9e33-c80aa9429562:1-23';",
    );
    for sandbox in ["/*M!999999\\-", "/*!999999\\-"] {
        let (repo, snapshot) = stored(&dump.replace("/*M!999999\\-", sandbox));
        let (text, warnings) = table(&repo, &snapshot, "orders", Narrow::Everything).expect("restore");
        let text = String::from_utf8(text).expect("text");
        assert!(
            !text.contains("GTID") && !text.contains("LOG_BIN") && text.contains("SET @OLD_CHARACTER_SET_CLIENT"),
            "{text}"
        );
        assert_eq!(warnings.len(), 3, "{warnings:?}");
    }
}

#[test]
fn tables_beyond_the_last_segment_are_not_restored_empty() {
    const TABLES: usize = 33_000;
    let last = format!("t{}", TABLES - 1);
    let rows: String =
        (0..TABLES).map(|i| format!("COPY public.t{i} (a) FROM stdin;\n1\n\\.\n\n")).collect::<Vec<_>>().concat();
    let tables: String =
        (0..TABLES).map(|i| format!("CREATE TABLE public.t{i} (\n    a integer\n);\n\n")).collect::<Vec<_>>().concat();
    let end = "--\n-- PostgreSQL database dump complete\n--\n";
    let (repo, snapshot) = stored(&format!("--\n-- PostgreSQL database dump\n--\n\n{tables}{rows}{end}"));
    assert!(text_of(&repo, &snapshot, "t7", Narrow::Everything).contains("COPY public.t7 "));
    assert_eq!(table(&repo, &snapshot, &last, Narrow::Everything).expect_err("no rows").kind(), Kind::Usage);
    assert!(text_of(&repo, &snapshot, &last, Narrow::Schema).contains(&format!("CREATE TABLE public.{last} ")));
}

/// A dump whose definitions in front of the rows are these.
fn defined(definitions: &str) -> (Repository, Snapshot) {
    let (storage, world) = (Memory::new(), World::new(1));
    let sizes = InitOptions { chunk_bytes: 256 << 10, pack_bytes: 16 << 20, kdf: CHEAP };
    Repository::init(&storage, world.as_ref(), PASSPHRASE, "test", sizes).expect("init");
    let repo = open(storage, &world).expect("open");
    let table = "CREATE TABLE public.t (\n    a integer\n);\n\nCOPY public.t (a) FROM stdin;\n1\n\\.\n\n";
    let key = "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (a);\n";
    let end = "--\n-- PostgreSQL database dump complete\n--\n";
    let dump = format!("--\n-- PostgreSQL database dump\n--\n\n{definitions}{table}{key}{end}");
    let id = take(&repo, "shop", dump.as_bytes()).expect("take").id;
    let snapshot = repo.snapshot(id).expect("snapshot");
    (repo, snapshot)
}

#[test]
fn what_is_no_definition_takes_no_memory_when_a_table_is_restored() {
    // More than what may be held: large objects, and a statement that is too long for one.
    let object = format!("SELECT pg_catalog.lowrite(0, '\\x{}');\n", "5a".repeat(500_000));
    let long = format!("CREATE VIEW public.long AS SELECT '{}';\n", "x".repeat(2 << 20));
    let (repo, snapshot) = defined(&[object.repeat(70), long].concat());
    let (text, warnings) = table(&repo, &snapshot, "t", Narrow::Everything).expect("restore");
    let text = String::from_utf8(text).expect("text");
    assert!(text.contains("CREATE TABLE public.t (") && text.contains("COPY public.t (a)") && text.contains("t_pkey"));
    assert!(text.len() < 1000 && !text.contains("lowrite"), "{} bytes", text.len());
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn definitions_that_memory_does_not_hold_are_an_error() {
    let view = format!("CREATE VIEW public.long AS SELECT '{}';\n", "x".repeat(1_000_000));
    let (repo, snapshot) = defined(&view.repeat(70));
    for narrow in [Narrow::Everything, Narrow::Data, Narrow::Schema] {
        let error = table(&repo, &snapshot, "t", narrow).expect_err("too much");
        assert_eq!((error.kind(), error.advice().is_some()), (Kind::Usage, true), "{error}");
    }
    // Its rows take none of them.
    assert_eq!(text_of(&repo, &snapshot, "t", Narrow::AsItIs).trim_start(), "COPY public.t (a) FROM stdin;\n1\n\\.\n");
}

#[test]
fn rows_alone_are_read_without_definitions_and_without_a_word() {
    let (repo, snapshot) = stored(POSTGRES);
    let (text, warnings) = table(&repo, &snapshot, "orders", Narrow::AsItIs).expect("cat");
    assert!(String::from_utf8(text).expect("text").contains("COPY public.orders"));
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(table(&repo, &snapshot, "nothing", Narrow::AsItIs).expect_err("unknown").kind(), Kind::NotFound);
}

#[test]
fn only_a_table_is_narrowed() {
    let repo = init(Memory::new(), &World::new(1));
    let id = take(&repo, "noise", &noise(10_000, 1)).expect("take").id;
    let snapshot = repo.snapshot(id).expect("snapshot");
    assert_eq!(parts_of(&repo, &snapshot)[0].kind, PartKind::Stream);
    assert_eq!(table(&repo, &snapshot, "noise", Narrow::Data).expect_err("no table").kind(), Kind::Usage);
}

// ---- a real MariaDB --------------------------------------------------------------------------

struct MariaDb {
    folder: tempfile::TempDir,
    child: Child,
}

impl MariaDb {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        let data = folder.path().join("data");
        let user = String::from_utf8(Command::new("id").arg("-un").output().expect("id").stdout).expect("a name");
        let user = format!("--user={}", user.trim());
        let installed = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", &user])
            .arg(format!("--datadir={}", data.display()))
            .output()
            .expect("MariaDB is missing: run ./test.sh, which installs it");
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        let program = ["/usr/sbin/mariadbd", "mariadbd"].iter().find(|p| Path::new(p).exists()).unwrap_or(&"mariadbd");
        let child = Command::new(program)
            .args(["--no-defaults", "--skip-networking", "--innodb-flush-method=fsync", &user])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", folder.path().join("s").display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("MariaDB is missing: run ./test.sh, which installs it");
        let server = Self { folder, child };
        for _ in 0..600 {
            if server.client("mariadb").args(["-e", "select 1"]).output().expect("a client").status.success() {
                return server;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("MariaDB does not start");
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--no-defaults").arg(format!("--socket={}", self.folder.path().join("s").display())).arg("-uroot");
        command
    }

    fn run(&self, database: &str, sql: &[u8]) -> Vec<u8> {
        let mut child = self
            .client("mariadb")
            .args(["--default-character-set=utf8mb4", "--batch", database])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a client");
        let mut stdin = child.stdin.take().expect("piped");
        let sql = sql.to_vec();
        std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &sql));
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const MARIADB: &str = r#"
create table customer (id int primary key auto_increment, name varchar(100) character set utf8mb4, born date, data blob,
  balance decimal(12,2), ratio double, kind enum('a','b'), flags set('x','y'), at timestamp(6) null, bits bit(5), doc json,
  double_balance decimal(13,2) as (balance * 2) stored, key by_name (name));
create table `odd``name; -- '` (a int, b text);
create view names as select name from customer;
insert into customer (name, born, data, balance, ratio, kind, flags, at, bits, doc)
  select concat('it''s \\ "', seq, '"; INSERT INTO `x` VALUES (1);', char(10), '-- '), '1970-01-01' + interval seq day, unhex(md5(seq)), seq / 7,
    if(seq % 3 = 0, null, 1 / seq), 'b', 'x,y', '2026-01-01 00:00:00.5', b'10101', json_object('n', seq) from seq_1_to_5000;
insert into `odd``name; -- '` values (1, ');'), (2, null);
"#;

#[test]
fn one_table_of_a_real_mariadb_comes_back() {
    let server = MariaDb::start();
    server.run("mysql", b"create database shop; create database again");
    server.run("shop", MARIADB.as_bytes());
    server.run("shop", b"delimiter ;;\ncreate trigger named before insert on customer for each row begin set new.name = upper(new.name); set new.balance = 1; end;;\ncreate procedure p() begin select 1; select 2; end;;\n");
    for (i, more) in
        [&["--routines"][..], &["--skip-extended-insert"], &["--complete-insert", "--hex-blob"]].iter().enumerate()
    {
        let dump = server.client("mariadb-dump").args(*more).arg("shop").output().expect("a dump");
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let world = World::new(7);
        let repo = init(Memory::new(), &world);
        let id = take(&repo, "shop", &dump.stdout).expect("take").id;
        let snapshot = repo.snapshot(id).expect("snapshot");
        assert!(restored(&repo, &snapshot).expect("restore") == dump.stdout);
        let rows = |name: &str| part_called(&repo, &snapshot, name).map_or(PartKind::Stream, |part| part.kind);
        assert_eq!(rows("customer"), PartKind::Table { rows: 5000 }, "{more:?}");
        assert_eq!(rows("odd`name; -- '"), PartKind::Table { rows: 2 }, "{more:?}");
        let (text, _) = table(&repo, &snapshot, "customer", Narrow::Everything).expect("restore");
        let database = format!("again{i}");
        server.run("mysql", format!("create database {database}").as_bytes());
        server.run(&database, &text);
        let all = b"checksum table customer; show create table customer; show triggers; select count(*) from customer";
        let text = |database: &str| String::from_utf8_lossy(&server.run(database, all)).replace(database, "shop");
        let without_time =
            |text: String| text.lines().filter(|line| !line.starts_with("named")).collect::<Vec<_>>().join("\n");
        assert_eq!(without_time(text(&database)), without_time(text("shop")), "{more:?}");
        assert_eq!(
            server.run(&database, b"show tables"),
            b"Tables_in_again0\ncustomer\n".map(|b| if b == b'0' { b'0' + i as u8 } else { b })
        );
    }
}
