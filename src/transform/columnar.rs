//! Rows by columns: a chunk of rows is taken apart into its columns, each column is written in the form that suits its
//! values, and only then compressed. An exact inverse for every input; what has no columns is not encoded at all.
//!
//! ```text
//! chunk ───rows──> fields ──┬─ column 1: 101, 102, 103 ...        first and step
//!                           ├─ column 2: done, done, open ...     dictionary, a byte a row
//!                           ├─ column 3: 173.64, 700.99 ...       integers and a scale, in byte planes
//!                           ├─ column 4: 10.4.7.1, 10.9.3.7 ...   template "_._._._", a column for each word
//!                           └─ what is no such row              as it is, with its place
//! ```
//!
//! The idea is that of columnar stores (Abadi et al., "Integrating Compression and Execution in Column-Oriented Database
//! Systems", SIGMOD 2006); templates are those of log compressors (Rodrigues et al., "CLP", OSDI 2021). Values are typed
//! only where every one of them reads back exactly as it was written.
//!
//! Layout, in `docs/format.md` to the byte: one zstd frame (or plain bytes) with the description and all text, then the
//! binary streams, each by itself, because bytes of different kinds share no statistics.

mod layout;
mod numbers;
mod read;
mod rows;
mod words;
mod write;

use super::compress::{Compressor, Decompressor};

/// How many columns may stand within each other, when they are written: nulls, quotes, affixes, templates, words.
const DEPTH_MAX: u8 = 5;
/// Columns and slots of a chunk at most.
const COLUMNS_MAX: usize = 4096;

/// Kinds of columns; the numbers are part of the format.
mod kind {
    pub const TEXT: u8 = 0;
    pub const CONSTANT: u8 = 1;
    pub const NUMBERS: u8 = 2;
    pub const DICTIONARY: u8 = 3;
    pub const TEMPLATES: u8 = 4;
    pub const HEX: u8 = 5;
    pub const NULLABLE: u8 = 6;
    pub const AFFIXES: u8 = 7;
    pub const HEX_UPPER: u8 = 8;
}

/// How a binary stream is stored; the numbers are part of the format.
mod mode {
    pub const RAW: u8 = 0;
    pub const ZSTD: u8 = 1;
    pub const CONSTANT: u8 = 2;
}

/// Encodes chunks; kept per thread.
pub struct Columnar {
    /// For the description and text.
    text: Compressor,
    /// For binary streams, in which there is little to match.
    binary: Compressor,
}

impl Columnar {
    /// An encoder whose text is compressed at zstd `level`.
    pub fn new(level: i32) -> Self {
        Self { text: Compressor::new(level), binary: Compressor::new(1) }
    }

    /// The columnar form of `raw`, or `None` when `raw` does not look like rows or the form would not be shorter.
    pub fn encode(&mut self, raw: &[u8]) -> Option<Vec<u8>> {
        let rows = rows::parse(raw)?;
        write::write(&rows, &mut self.text, &mut self.binary, raw.len())
    }
}

/// Decodes what [`Columnar::encode`] made into exactly `out`. Takes memory of a few times `out`'s length at most, whatever
/// `encoded` says.
///
/// # Errors
/// What is malformed, in words.
pub fn decode(decompressor: &mut Decompressor, encoded: &[u8], out: &mut [u8]) -> Result<(), String> {
    read::read(decompressor, encoded, out).map_err(|what| format!("columnar: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a chunk comes to; it must come back.
    fn there_and_back(raw: &[u8]) -> Option<usize> {
        let encoded = Columnar::new(3).encode(raw)?;
        let mut out = vec![0; raw.len()];
        decode(&mut Decompressor::default(), &encoded, &mut out).expect("it decodes");
        assert!(out == raw, "{:?} came back for {:?}", String::from_utf8_lossy(&out), String::from_utf8_lossy(raw));
        Some(encoded.len())
    }

    fn plain(raw: &[u8]) -> usize {
        Compressor::new(3).compress(raw).map_or(raw.len(), <[u8]>::len)
    }

    fn lines(n: usize, line: impl Fn(usize) -> String) -> Vec<u8> {
        (0..n).map(line).collect::<String>().into_bytes()
    }

    /// Scattered, but always the same.
    fn lot(i: usize) -> usize {
        i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
    }

    #[test]
    fn typed_columns_cost_a_fraction() {
        let ids = lines(3000, |i| format!("{}\t{}\n", i + 100, 5 * i));
        assert!(there_and_back(&ids).expect("rows") < 64, "a sequence is its first and its step");
        let shop = lines(3000, |i| {
            let (at, price) = (lot(i) % 86_400, lot(i + 7) % 99_999);
            let (h, m, s) = (at / 3600, at / 60 % 60, at % 60);
            let status = ["open", "done", "sent"][lot(i) % 3];
            let note = if i % 50 == 0 { "gift" } else { "\\N" };
            format!("{i}\t{status}\t{}.{:02}\t2024-03-05 {h:02}:{m:02}:{s:02}+00\t{note}\n", price / 100, price % 100)
        });
        let packed = there_and_back(&shop).expect("rows");
        assert!(packed * 2 < plain(&shop), "{packed} of {}", plain(&shop));
        let words = lines(3000, |i| {
            format!(
                "/p/{}?ref={:08x}\t10.{}.{}.7\t{{\"ms\": {}}}\n",
                lot(i) % 30_000,
                lot(i) as u32,
                lot(i) % 251,
                i % 199,
                i % 900
            )
        });
        let packed = there_and_back(&words).expect("rows");
        assert!(packed * 10 < plain(&words) * 7, "{packed} of {}", plain(&words));
    }

    /// How a table is written: what is in front of all rows, of the first of a statement, of the others, between fields,
    /// behind a row, behind the last of a statement; rows of a statement.
    struct Dialect(&'static str, &'static str, &'static str, &'static str, &'static str, usize);

    const DIALECTS: [Dialect; 9] = [
        // mysqldump, mariadb-dump, either with a row a statement
        Dialect("INSERT INTO `t` VALUES (", "(", ",", "),", ");\n", 700),
        Dialect("INSERT INTO `t` VALUES\n(", "(", ",", "),\n", ");\n", 700),
        Dialect("INSERT INTO `t` VALUES (", "", ",", "", ");\n", 1),
        // pg_dump --inserts, --column-inserts --on-conflict-do-nothing, --rows-per-insert
        Dialect("INSERT INTO public.t VALUES (", "", ", ", "", ");\n", 1),
        Dialect("INSERT INTO public.t (a, b) VALUES (", "", ", ", "", ") ON CONFLICT DO NOTHING;\n", 1),
        Dialect("INSERT INTO public.t VALUES\n\t(", "\t(", ", ", "),\n", ");\n\n", 700),
        // .dump of SQLite
        Dialect("INSERT INTO t VALUES(", "", ",", "", ");\n", 1),
        // CSV
        Dialect("", "", ",", "", "\n", 1),
        Dialect("", "", ";", "", "\r\n", 1),
    ];

    fn table(dialect: &Dialect, rows: usize, fields: impl Fn(usize) -> Vec<String>) -> Vec<u8> {
        let Dialect(first, front, between, behind, last, statement) = *dialect;
        let row = |row: usize| {
            let front = if row.is_multiple_of(statement) { first } else { front };
            let behind = if (row + 1).is_multiple_of(statement) || row + 1 == rows { last } else { behind };
            format!("{front}{}{behind}", fields(row).join(between))
        };
        lines(rows, row)
    }

    #[test]
    fn tuples_and_csv_cost_no_more_than_tabs() {
        for dialect in &DIALECTS {
            let quote = if dialect.0.is_empty() { '"' } else { '\'' };
            let raw = table(dialect, 3000, |i| {
                let (at, price) = (lot(i) % 86_400, lot(i + 7) % 99_999);
                let (h, m, s) = (at / 3600, at / 60 % 60, at % 60);
                let escaped = if dialect.2 == "," && dialect.0.contains('`') { "\\'" } else { "''" };
                vec![
                    i.to_string(),
                    format!("{quote}{}{quote}", ["open", "done", "sent"][lot(i) % 3]),
                    format!("{}.{:02}", price / 100, price % 100),
                    format!("{quote}2024-03-05 {h:02}:{m:02}:{s:02}{quote}"),
                    if i % 50 == 0 { format!("{quote}it{escaped}s (a, b),\n{quote}") } else { "NULL".to_owned() },
                    format!("0x{:08X}", lot(i + 1) as u32),
                ]
            });
            let packed = there_and_back(&raw).expect("rows");
            assert!(packed < 3000 * 10, "{packed} bytes of {:?}", dialect.0);
            assert!(packed * 3 < plain(&raw) * 2, "{packed} of {} bytes, {:?}", plain(&raw), dialect.0);
        }
    }

    #[test]
    fn what_are_no_rows_is_left_alone() {
        let mut bytes = vec![0; 100_000];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        assert_eq!(there_and_back(&bytes), None);
        let letter = |byte: &u8| match *byte {
            0..24 => b'\t',
            24..28 => b'\n',
            n => b'a' + n % 26,
        };
        let letters: Vec<u8> = bytes.iter().map(letter).collect();
        assert!(layout::layout(&letters, true).is_none(), "letters with tabs at random have no layout");
        bytes.iter_mut().skip(20).step_by(40).for_each(|byte| *byte = b'\n');
        assert!(rows::parse(&bytes).is_none(), "noise with many lines is not even taken apart");
        assert_eq!(there_and_back(&vec![b'x'; 100_000]), None, "one endless line");
        assert_eq!(there_and_back(b""), None);
        assert_eq!(there_and_back(b"\n"), None);
    }

    #[test]
    fn numbers_that_are_not_written_as_a_number_is_survive() {
        for odd in [
            "007",
            "-0",
            "+1",
            "1e5",
            "9223372036854775808",
            "-9223372036854775808",
            "1.",
            ".5",
            "-0.00",
            "00.10",
            "0x1f",
            "\\N",
            "",
        ] {
            for at in [0, 1, 2999] {
                let rows =
                    lines(3000, |i| if i == at { format!("{odd}\tx\n") } else { format!("{}\tx\n", lot(i) % 1000) });
                there_and_back(&rows);
            }
        }
        for odd in [
            "2024-02-30 00:00:00",
            "2024-02-29 24:00:00",
            "2024-02-29 23:59:60",
            "0000-01-01 00:00:00",
            "9999-12-31 23:59:59.9999999",
            "2024-02-29 10:00:00.120",
            "2024-02-29T10:00:00Z",
        ] {
            let rows = lines(2000, |i| {
                if i == 77 { format!("{odd}\t1\n") } else { format!("2024-02-29 10:{:02}:00\t1\n", i % 60) }
            });
            there_and_back(&rows);
        }
    }

    #[test]
    fn ragged_rows_and_endings_survive() {
        let base = lines(2000, |i| format!("{i}\tuser{i}\t{}\r\n", i * i));
        for cut in [0, 1, 5, 1000, base.len() - 1] {
            there_and_back(&base[cut..]);
            there_and_back(&base[..base.len() - cut]);
        }
        let mut ragged = b"CREATE TABLE x (\n    a int\n);\n\nCOPY x FROM stdin;\n".to_vec();
        ragged.extend_from_slice(&base);
        ragged.extend_from_slice(b"\\.\n\n\n--\n-- done\n--\n");
        assert!(there_and_back(&ragged).is_some());
    }

    /// Fields of many kinds, with what breaks parsers.
    fn field() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("\\N".to_owned()),
            Just(String::new()),
            any::<i64>().prop_map(|n| n.to_string()),
            (0..200_i64).prop_map(|n| n.to_string()),
            (any::<i32>(), 0..100).prop_map(|(a, b)| format!("{a}.{b:02}")),
            (1..9999, 0..14, 0..33, 0..25, 0..61, 0..1_000_000)
                .prop_map(|(y, mo, d, h, s, f)| format!("{y:04}-{mo:02}-{d:02} {h:02}:{s:02}:{s:02}.{f:06}")),
            any::<u128>().prop_map(|n| format!("{n:032x}")),
            "[a-z]{1,5}[0-9]{0,3}@[a-z.]{3,6}",
            "\\PC{0,20}".prop_map(|s| s.replace(['\t', '\n'], " ")),
            prop::collection::vec(any::<u8>(), 0..8)
                .prop_map(|b| String::from_utf8_lossy(&b).replace(['\t', '\n'], "\0")),
        ]
    }

    /// What statements and CSV are made of.
    const PIECES: &[&str] = &[
        "INSERT INTO t VALUES ",
        "(",
        ")",
        "),(",
        "),\n(",
        ");\n",
        ",",
        ", ",
        ";",
        "\n",
        "\r\n",
        "'",
        "''",
        "\\'",
        "\"",
        "\"\"",
        "\\",
        "1",
        "(1,'a'),",
        "(1, 'a');\n",
        "1,\"a\"\n",
        "NULL",
        "\t",
    ];

    /// A field of an `INSERT` or of CSV, well-formed or not.
    fn hostile() -> impl Strategy<Value = String> {
        let text = prop::collection::vec(prop::sample::select(PIECES), 0..6).prop_map(|pieces| pieces.concat());
        prop_oneof![
            field().prop_map(|field| format!("'{}'", field.replace('\'', "''"))),
            field().prop_map(|field| format!("'{}'", field.replace('\\', "\\\\").replace('\'', "\\'"))),
            field().prop_map(|field| format!("\"{}\"", field.replace('"', "\"\""))),
            text.clone(),
            text.prop_map(|text| format!("'{}'", text.replace('\'', "''"))),
            Just("7".to_owned()),
            Just("NULL".to_owned()),
            Just("X'53514C'".to_owned()),
            Just("replace('a\\nb7','\\n',char(10))".to_owned()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Columns of one kind each with a few intruders.
        #[test]
        fn tables_come_back(
            columns in prop::collection::vec((field(), prop::collection::vec((field(), 0..400_usize), 0..3), 0..3_u8), 1..6),
            rows in 1..400_usize,
            cut in 0..40_usize,
        ) {
            let mut raw = Vec::new();
            for row in 0..rows {
                for (at, (usual, intruders, way)) in columns.iter().enumerate() {
                    if at > 0 { raw.push(b'\t'); }
                    match (intruders.iter().find(|(_, place)| *place == row), way) {
                        (Some((odd, _)), _) => raw.extend_from_slice(odd.as_bytes()),
                        (None, 0) => raw.extend_from_slice(usual.as_bytes()),
                        (None, 1) => raw.extend_from_slice(format!("{usual}{row}").as_bytes()),
                        (None, _) => raw.extend_from_slice(lot(row).to_string().as_bytes()),
                    }
                }
                raw.push(b'\n');
            }
            raw.truncate(raw.len().saturating_sub(cut));
            there_and_back(&raw);
        }

        /// Strings that hold what ends fields, rows and strings; statements of one dialect, then of another; cut anywhere.
        #[test]
        fn statements_come_back(
            columns in prop::collection::vec((hostile(), prop::collection::vec((hostile(), 0..200_usize), 0..4)), 1..5),
            dialects in (0..DIALECTS.len(), 0..DIALECTS.len()),
            rows in (1..200_usize, 0..100_usize),
            cut in (0..60_usize, 0..60_usize),
        ) {
            let fields = |row: usize| -> Vec<String> {
                let of_row = |(usual, intruders): &(String, Vec<(String, usize)>)| {
                    let intruder = intruders.iter().find(|(_, place)| *place == row);
                    intruder.map_or_else(|| usual.replace('7', &row.to_string()), |(odd, _)| odd.clone())
                };
                columns.iter().map(of_row).collect()
            };
            let mut raw = table(&DIALECTS[dialects.0], rows.0, fields);
            raw.extend(table(&DIALECTS[dialects.1], rows.1, fields));
            raw.truncate(raw.len().saturating_sub(cut.1));
            there_and_back(&raw[cut.0.min(raw.len())..]);
        }

        #[test]
        fn bytes_of_statements_come_back(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..600)) {
            there_and_back(pieces.concat().as_bytes());
        }

        #[test]
        fn any_bytes_come_back(raw in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\t'), Just(b'1'), Just(b'a'), any::<u8>()], 0..3000)) {
            there_and_back(&raw);
        }

        /// Whatever was changed, it decodes to something or is refused; never a panic, never more than the length.
        #[test]
        fn hostile_bytes_are_refused(places in prop::collection::vec((0..4000_usize, any::<u8>()), 1..8), len in 0..70_000_usize) {
            let raw = lines(300, |i| format!("{i}\tuser{i}@x.example\t{:08x}\t2024-01-01 00:00:{:02}\t{}\n", lot(i) as u32, i % 60, if i % 3 == 0 { "\\N" } else { "b" }));
            let raw = if len % 3 == 0 { table(&DIALECTS[0], 300, |i| vec![i.to_string(), format!("'{}'", lot(i))]) } else { raw };
            let mut encoded = Columnar::new(1).encode(&raw).expect("rows");
            for (place, byte) in places {
                let place = place % encoded.len();
                encoded[place] = byte;
            }
            let mut out = vec![0; if len % 2 == 0 { raw.len() } else { len }];
            let _ = decode(&mut Decompressor::default(), &encoded, &mut out);
        }
    }
}
