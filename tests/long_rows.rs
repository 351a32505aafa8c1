//! Rows of a gigabyte: longer than a chunk, than the look ahead of a segmenter, and than all memory that is asked for.

use std::io::{self, Read, Write};

use alluvium::env::Cancel;
use alluvium::format::manifest::PartKind;
use alluvium::ops::restore::{Target, restore};
use alluvium::ops::select::Wanted;
use alluvium::ops::snapshot::{Source, snapshot};
use alluvium::repo::{InitOptions, Repository};
use alluvium::report::Silent;
use alluvium::storage::memory::Memory;

use crate::support::{CHEAP, PASSPHRASE, World, open, options, part_called};

const LONG: u64 = 1 << 30;

fn long(front: &'static str, behind: &'static str) -> impl Read + Send {
    front.as_bytes().chain(io::repeat(b'x').take(LONG)).chain(behind.as_bytes())
}

/// What is written must be what can be read.
struct Same<R>(R);

impl<R: Read> Write for Same<R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut expected = vec![0; bytes.len()];
        self.0.read_exact(&mut expected)?;
        if expected == bytes { Ok(bytes.len()) } else { Err(io::Error::other("other bytes came back")) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Stores a stream with a row of a gigabyte, finds the rows of its `table`, and reads it back.
fn there_and_back(front: &'static str, behind: &'static str, table: &str, rows: u64) {
    let (storage, world) = (Memory::new(), World::new(1));
    let init = InitOptions { kdf: CHEAP, ..InitOptions::default() };
    Repository::init(&storage, world.as_ref(), PASSPHRASE, "test", init).expect("init");
    let repo = open(storage, &world).expect("open");
    let source = Source::Stream { input: Box::new(long(front, behind)), bytes: None };
    let taken = snapshot(&repo, source, &options("s"), &Silent, &Cancel::new()).expect("snapshot");
    let found = repo.snapshot(taken.id).expect("snapshot");
    let part = part_called(&repo, &found, table).expect("the table is a part");
    assert_eq!(part.kind, PartKind::Table { rows });
    let mut same = Same(long(front, behind));
    let index = repo.index_to_read(&Silent).expect("index");
    restore(&index, &found, &Wanted::Whole, Target::Stream(&mut same), 96 << 20, &Silent, &Cancel::new())
        .expect("what came back is the same");
    assert_eq!(same.0.read(&mut [0]).expect("read"), 0, "all of it came back");
}

#[test]
fn a_row_of_a_gigabyte_of_copy_comes_back() {
    let front =
        "--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE public.a (x text);\n\nCOPY public.a (x) FROM stdin;\n1\n";
    there_and_back(front, "\n3\n\\.\n\n--\n-- PostgreSQL database dump complete\n--\n\n", "public.a", 3);
}

#[test]
fn a_row_of_a_gigabyte_of_an_insert_comes_back() {
    let front =
        "-- MySQL dump 10.13\n\nCREATE TABLE `a` (`n` int, `x` longtext);\nINSERT INTO `a` VALUES (1,'it\\'s'),(2,'";
    there_and_back(front, "'),(3,'\\\\');\n\n-- Dump completed on 2026-11-24  1:00:00\n", "a", 3);
}

#[test]
fn a_line_of_a_gigabyte_comes_back() {
    there_and_back("id,text\n1,a\n2,b\n3,c\n4,\"", "\"\n5,e\n", "s", 6);
}
