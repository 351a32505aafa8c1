//! Archives are cut where their members and collections begin, database files where their pages end.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use alluvium::env::Cancel;
use alluvium::format::manifest::{PartKind, PartName};
use alluvium::ops::restore::{Target, restore};
use alluvium::ops::select::Narrow;
use alluvium::ops::snapshot::{Source, snapshot};
use alluvium::repo::snapshots::Snapshot;
use alluvium::repo::{InitOptions, Repository};
use alluvium::report::{Collect, Counter, Silent};
use alluvium::storage::memory::Memory;
use alluvium::transform::grain::Grain;
use alluvium::transform::segment::{Holds, Segmenter};
use jiff::SignedDuration;
use proptest::prelude::*;

use crate::segments::segments;
use crate::support::{
    CHEAP, PASSPHRASE, World, indexed, init, noise, open, options, part_called, parts_of, restored, take, take_with,
    wanted,
};

/// Names of the segments and where they lie.
fn pieces(stream: &[u8]) -> Vec<(String, &[u8])> {
    let found = segments(stream, &[stream.len()]);
    let ends = found.iter().skip(1).map(|(at, ..)| *at).chain([stream.len()]);
    let pieces: Vec<_> = found.iter().zip(ends).map(|((at, name, _), end)| (name.clone(), &stream[*at..end])).collect();
    assert!(pieces.iter().all(|(_, bytes)| !bytes.is_empty()));
    pieces
}

fn names(stream: &[u8]) -> Vec<String> {
    pieces(stream).into_iter().map(|(name, _)| name).collect()
}

// ---- tar -------------------------------------------------------------------------------------

fn tar(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("tar").current_dir(folder).args(arguments).output().expect("tar");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What `tar` extracts from an archive.
fn extracted(archive: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new("tar").args(["-xOf", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("tar");
    let mut stdin = child.stdin.take().expect("piped");
    let archive = archive.to_vec();
    std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &archive));
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    output.stdout
}

/// A header by hand: `size` stands in it as it is.
fn header(name: &str, size: &[u8], kind: u8) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    for (at, number) in [(100, "0000644\0"), (108, "0000000\0"), (116, "0000000\0"), (136, "00000000000\0")] {
        block[at..at + number.len()].copy_from_slice(number.as_bytes());
    }
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn octal(size: usize) -> Vec<u8> {
    format!("{size:011o}\0").into_bytes()
}

fn filled(mut content: Vec<u8>) -> Vec<u8> {
    content.resize(content.len().next_multiple_of(512), 0);
    content
}

fn member(name: &str, kind: u8, content: Vec<u8>) -> Vec<u8> {
    [header(name, &octal(content.len()), kind), filled(content)].concat()
}

#[test]
fn members_of_every_kind_of_tar_are_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let deep = format!("{}/{}", "d".repeat(60), "e".repeat(60));
    let long = format!("{deep}/{}", "f".repeat(60));
    fs::create_dir_all(folder.path().join(&deep)).expect("folders");
    fs::create_dir(folder.path().join("a")).expect("a folder");
    let large = [("large", 1), (&long, 2), ("größer", 3), ("last", 4)];
    for (name, seed) in large {
        fs::write(folder.path().join(name), noise(100_000 * seed as usize + 17, seed)).expect("write");
    }
    for name in ["a/one", "a/two", "a/three"] {
        fs::write(folder.path().join(name), name).expect("write");
    }
    std::os::unix::fs::symlink("large", folder.path().join("a/link")).expect("a link");
    fs::hard_link(folder.path().join("large"), folder.path().join("hard")).expect("a link");
    for format in ["v7", "ustar", "gnu", "pax"] {
        let long = if format == "v7" { "last" } else { &long };
        let archive = tar(
            folder.path(),
            &["-c", "-f", "-", "--format", format, "a", "large", "hard", "größer", long, "last", "a/one"],
        );
        let found = pieces(&archive);
        let last = if format == "v7" { "last (2)" } else { "last" };
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        let all = ["small members", "large", "small members (2)", "größer", long, last, "small members (3)"];
        // In the old one the second is a link to the first.
        let expected: Vec<&str> = all.into_iter().filter(|name| format != "v7" || *name != "last (2)").collect();
        assert_eq!(names, expected, "{format}");
        for (name, seed) in large {
            if let Some((_, bytes)) = found.iter().find(|(other, _)| other == name) {
                assert!(extracted(bytes) == noise(100_000 * seed as usize + 17, seed), "{format}: {name}");
            }
        }
        // It is one like the others to a repository.
        let repo = init(Memory::new(), &World::new(1));
        let id = take(&repo, "files", &archive).expect("take").id;
        let snapshot = repo.snapshot(id).expect("snapshot");
        assert_eq!(snapshot.manifest.parts.count, expected.len() as u64);
        assert!(parts_of(&repo, &snapshot).iter().all(|part| part.kind == PartKind::Stream));
        assert!(restored(&repo, &snapshot).expect("restore") == archive);
        assert!(extracted(&part(&repo, &snapshot, "größer")) == noise(300_017, 3));
    }
}

/// A part by its name, as it is.
fn part(repo: &Repository, snapshot: &Snapshot, name: &str) -> Vec<u8> {
    let text = format!("latest:{name}");
    let (found, wanted) = wanted(repo, std::slice::from_ref(snapshot), &text).expect("a part");
    let mut out = Vec::new();
    restore(&indexed(repo), found, &wanted, Target::Stream(&mut out), 96 << 20, &Silent, &Cancel::new())
        .expect("restore");
    out
}

#[test]
fn what_follows_a_sparse_file_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = fs::File::create(folder.path().join("sparse")).expect("create");
    for i in 0..100 {
        file.write_all_at(&noise(4096, i), i << 16).expect("write");
    }
    fs::write(folder.path().join("after"), noise(70_000, 1)).expect("write");
    for format in ["gnu", "pax"] {
        let more = ["--format", format, "--sparse", "--hole-detection=raw", "sparse", "after"];
        let archive = tar(folder.path(), &[&["-c", "-f", "-"][..], &more].concat());
        assert!(archive.len() < 600_000);
        let names = names(&archive);
        assert!(names.len() == 2 && names[0].contains("sparse") && names[1] == "after", "{format}: {names:?}");
    }
}

#[test]
fn a_name_without_an_end_is_given_up() {
    let long = |n: usize| [member("././@LongLink", b'L', vec![b'n'; n]), member("short", b'0', noise(70_000, 1))];
    assert_eq!(names(&long(5000).concat()), ["n".repeat(1000)]);
    assert_eq!(names(&long(100_000).concat()), ["small members", "short"]);
    let behind = [vec![member("large", b'0', noise(70_000, 1))], long(100_000).to_vec()].concat().concat();
    assert_eq!(names(&behind), ["large", "small members", "short"]);
    // Nor do headers without an end keep anything waiting.
    let many = [member("", b'x', Vec::new()).repeat(300), member("large", b'0', noise(70_000, 1))].concat();
    assert_eq!(names(&many), ["small members", "large"]);
}

#[test]
fn members_of_many_gigabytes_are_passed_over() {
    let size = 9_u64 << 30;
    let binary = [&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat();
    let record = format!("19 size={size}\n");
    assert_eq!(record.len(), 19);
    let pax = [member("", b'x', record.into_bytes()), header("huge", &octal(0), b'0')].concat();
    for (begin, size) in [
        (header("huge", &binary, b'0'), size),
        (header("huge", b"77777777777\0", b'0'), 8 << 30),
        (header("huge", b"100000000000", b'0'), 8 << 30),
        (pax, size),
    ] {
        let mut segmenter = Segmenter::recognise(&begin).expect("an archive");
        assert_eq!(segmenter.first().0, Some(PartName::of("huge")));
        let mut begun = Vec::new();
        assert_eq!(segmenter.scan(&begin, false, &mut begun), begin.len());
        let zeros = vec![0; 1 << 20];
        for _ in 0..size / zeros.len() as u64 {
            assert_eq!(segmenter.scan(&zeros, false, &mut begun), zeros.len());
        }
        assert!(begun.is_empty());
        segmenter.scan(&member("next", b'0', noise(70_000, 1)), true, &mut begun);
        assert_eq!((begun[0].at, &begun[0].name.object[..]), (0, "next"));
    }
}

#[test]
fn what_is_no_tar_ends_the_segments() {
    let large = |name: &str| member(name, b'0', noise(70_000, 1));
    let broken = [large("a"), noise(2000, 2), large("b")].concat();
    assert_eq!(names(&broken), ["a"]);
    let ended = [large("a"), vec![0; 1024], large("b")].concat();
    assert_eq!(names(&ended), ["a"], "what stands behind the end is no member");
    for size in [b"7777777777777777"[..12].to_vec(), [&[0x80][..], &[0xff; 11]].concat(), vec![0xff; 12]] {
        assert!(names(&[large("a"), header("b", &size, b'0'), large("c")].concat()).len() <= 2);
        names(&[header("b", &size, b'L'), large("c")].concat());
    }
    let archive = [large("a"), large("b")].concat();
    for cut in [512, 513, 70_000, 70_655, 70_656, 70_657, 71_167, 71_168, 100_000] {
        let expected: &[&str] = if cut < 71_168 { &["a"] } else { &["a", "b"] };
        assert_eq!(names(&archive[..cut]), expected, "{cut}");
    }
    assert!(names(&archive[..511]).is_empty() && names(&archive[1..]).is_empty() && names(&[0; 1024]).is_empty());
    assert_eq!(
        names(&[large(""), large("/absolute"), large("a"), large("a")].concat()),
        ["unnamed", "/absolute", "a", "a (2)"]
    );
}

#[test]
fn there_are_only_so_many_members() {
    let one = |i: usize| member(&format!("m{i}"), b'0', vec![7; 65_536]);
    let mut segmenter = Segmenter::recognise(&one(0)).expect("an archive");
    segmenter.first();
    let mut begun = Vec::new();
    for i in 0..33_000 {
        segmenter.scan(&one(i), false, &mut begun);
    }
    let last = begun.last().expect("many");
    assert_eq!((begun.len(), &last.name.object[..], last.holds), (32_768, "the rest", Holds::Piece));
}

#[test]
fn a_member_is_restored_by_the_name_that_the_archive_has_for_it() {
    let all = ["/absolute", "./here", "with: colon"].map(|name| member(name, b'0', noise(70_000, name.len() as u64)));
    let repo = init(Memory::new(), &World::new(1));
    let id = take(&repo, "files", &all.concat()).expect("take").id;
    let snapshot = repo.snapshot(id).expect("snapshot");
    for (name, bytes) in ["/absolute", "./here", "with: colon"].iter().zip(all) {
        assert!(part(&repo, &snapshot, name) == bytes, "{name}");
    }
}

// ---- mongodump -------------------------------------------------------------------------------

/// A document of strings, and of what else a block's header has.
fn document(fields: &[(&str, &str)], more: &[u8]) -> Vec<u8> {
    let string = |(name, value): &(&str, &str)| {
        let length = value.len() as u32 + 1;
        [b"\x02", name.as_bytes(), b"\0", &length.to_le_bytes(), value.as_bytes(), b"\0"].concat()
    };
    let inner = [fields.iter().flat_map(string).collect(), more.to_vec()].concat();
    [&(inner.len() as u32 + 5).to_le_bytes()[..], &inner, b"\0"].concat()
}

const END: [u8; 4] = [0xff; 4];

fn prelude() -> Vec<u8> {
    let header = document(&[("version", "0.1"), ("tool_version", "100.9")], b"\x10concurrent_collections\0\x04\0\0\0");
    let metadata = document(&[("db", "shop"), ("collection", "orders"), ("metadata", "{}")], b"\x10size\0\0\0\0\0");
    [&b"\x6d\xe2\x99\x81"[..], &header, &metadata, &END].concat()
}

/// A block with documents of so many bytes of noise; none for the mark at a collection's end.
fn block(collection: &str, documents: &[usize]) -> Vec<u8> {
    let eof =
        [&b"\x08EOF\0"[..], &[u8::from(documents.is_empty())], b"\x12CRC\0\x01\x02\x03\x04\x05\x06\x07\x08"].concat();
    let header = document(&[("db", "shop"), ("collection", collection)], &eof);
    // Noise is no field, but nobody looks.
    let documents = documents.iter().flat_map(|n| document(&[], &noise(*n, *n as u64)));
    [header, documents.collect(), END.to_vec()].concat()
}

#[test]
fn blocks_of_collections_are_found() {
    let blocks = [
        block("orders", &[100, 0, 200_000]),
        block("items", &[70_000; 3]),
        block("orders", &[10]),
        block("orders", &[]),
        block("items", &[]),
        block("odd.name ü", &[5]),
    ];
    let archive = [prelude(), blocks.concat()].concat();
    let found = pieces(&archive);
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    let expected = ["prelude", "shop.orders", "shop.items", "shop.orders (2)", "shop.items (2)", "shop.odd.name ü"];
    assert_eq!(names, expected);
    assert!(found[1].1 == blocks[0] && found[2].1 == blocks[1]);
    assert_eq!(found[3].1, [&blocks[2][..], &blocks[3]].concat());
    for cut in 1..archive.len().min(1000) {
        segments(&archive[..cut], &[7]);
    }
    let repo = init(Memory::new(), &World::new(1));
    let id = take(&repo, "mongo", &archive).expect("take").id;
    let snapshot = repo.snapshot(id).expect("snapshot");
    assert!(restored(&repo, &snapshot).expect("restore") == archive);
    assert!(narrowed(&repo, &snapshot, "shop.items", Narrow::AsItIs).0 == [&blocks[1][..], &blocks[4]].concat());
}

/// Of a part or what it stands for, so much; and what was warned of.
fn narrowed(repo: &Repository, snapshot: &Snapshot, name: &str, narrow: Narrow) -> (Vec<u8>, Vec<String>) {
    let text = format!("latest:{name}");
    let (found, wanted) = wanted(repo, std::slice::from_ref(snapshot), &text).expect("a part");
    let wanted = wanted.narrowed(narrow).expect("it can be narrowed");
    let (mut out, report) = (Vec::new(), Collect::default());
    restore(&indexed(repo), found, &wanted, Target::Stream(&mut out), 96 << 20, &report, &Cancel::new())
        .expect("restore");
    (out, report.warnings())
}

/// A block with these documents.
fn block_of(collection: &str, documents: &[Vec<u8>]) -> Vec<u8> {
    let header = document(&[("db", "shop"), ("collection", collection)], b"\x08EOF\0\0\x12CRC\0\0\0\0\0\0\0\0\0");
    [header, documents.concat(), END.to_vec()].concat()
}

/// The block at the end of a collection that has these documents.
fn end_of(collection: &str, documents: &[Vec<u8>]) -> Vec<u8> {
    // CRC-64 of ECMA-182, reflected, bit by bit.
    let crc = !documents.concat().iter().fold(!0_u64, |crc, byte| {
        (0..8).fold(
            crc ^ u64::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xc96c_5795_d787_0f42 } else { crc >> 1 },
        )
    });
    let more = [&b"\x08EOF\0\x01\x12CRC\0"[..], &crc.to_le_bytes()].concat();
    [document(&[("db", "shop"), ("collection", collection)], &more), END.to_vec()].concat()
}

/// A prelude for these collections.
fn prelude_of(collections: &[&str]) -> Vec<u8> {
    let header = document(&[("version", "0.1"), ("tool_version", "100.9")], b"\x10concurrent_collections\0\x04\0\0\0");
    let describe = |name: &&str| {
        let json = format!("{{\"options\":{{}},\"indexes\":[],\"collectionName\":\"{name}\"}}");
        document(
            &[("db", "shop"), ("collection", name), ("metadata", &json), ("type", "collection")],
            b"\x10size\0\0\0\0\0",
        )
    };
    [b"\x6d\xe2\x99\x81", &header[..], &collections.iter().flat_map(describe).collect::<Vec<u8>>(), &END].concat()
}

/// Documents of many sizes, turn by turn, of the collections `a`, `b` and `c`, and the archive with them.
fn interleaved(turns: usize) -> ([Vec<Vec<u8>>; 3], Vec<u8>) {
    let names = ["a", "b", "c"];
    let mut documents: [Vec<Vec<u8>>; 3] = Default::default();
    let mut archive = prelude_of(&names);
    for turn in 0..turns {
        let of = turn * 7 % 3;
        let some: Vec<Vec<u8>> =
            (0..=turn % 5).map(|i| document(&[("n", "x")], &noise(turn * 37 % 900 + i, turn as u64))).collect();
        archive.extend(block_of(names[of], &some));
        documents[of].extend(some);
    }
    archive.extend(names.iter().zip(&documents).flat_map(|(name, documents)| end_of(name, documents)));
    (documents, archive)
}

#[test]
fn a_collection_comes_back_as_an_archive_of_its_own() {
    // Few turns are segments of one collection each, many are not.
    for turns in [5, 60, 1000] {
        let (documents, archive) = interleaved(turns);
        let (repo, _) = roomy();
        let id = take(&repo, "mongo", &archive).expect("take").id;
        let snapshot = repo.snapshot(id).expect("snapshot");
        assert!(restored(&repo, &snapshot).expect("restore") == archive);
        for (name, documents) in ["a", "b", "c"].iter().zip(&documents) {
            let full = format!("shop.{name}");
            let (own, warnings) = narrowed(&repo, &snapshot, &full, Narrow::Everything);
            assert_eq!(warnings, Vec::<String>::new());
            let mut rest = own.strip_prefix(&prelude_of(&[name])[..]).expect("a prelude with this collection alone");
            let mut found = Vec::new();
            let empty = block_of(name, &[]);
            let header = &empty[..empty.len() - END.len()];
            while let Some(mut block) = rest.strip_prefix(header) {
                while !block.starts_with(&END) {
                    let length = u32::from_le_bytes(*block.first_chunk().expect("a length")) as usize;
                    found.push(block[..length].to_vec());
                    block = &block[length..];
                }
                rest = &block[END.len()..];
            }
            assert!(rest == end_of(name, documents), "its last block, and nothing behind it");
            assert!(found == *documents, "{name} of {turns}");
            assert!(narrowed(&repo, &snapshot, &full, Narrow::Data).0 == documents.concat());
            let json = narrowed(&repo, &snapshot, &full, Narrow::Schema).0;
            assert_eq!(json, format!("{{\"options\":{{}},\"indexes\":[],\"collectionName\":\"{name}\"}}").as_bytes());
            let blocks = narrowed(&repo, &snapshot, &full, Narrow::AsItIs).0;
            assert!(own.strip_suffix(&blocks[..]) == Some(&prelude_of(&[name])[..]));
            // An archive that is restored is an archive like any other.
            assert!(names(&own).contains(&full));
        }
    }
}

#[test]
fn a_collection_of_a_broken_archive_comes_back_with_a_warning() {
    let (documents, archive) = interleaved(30);
    let without_end = archive.len() - end_of("c", &documents[2]).len();
    let mut altered = archive.clone();
    let at = memchr::memmem::rfind(&archive, b"CRC").expect("a checksum") + 4;
    altered[at] ^= 1;
    for (broken, warns) in [
        (&archive[..without_end], "checksum"),
        (&archive[..archive.len() - 2], "cut off"),
        (&altered, "checksum"),
        (&[&archive[..], b"more"].concat(), "malformed"),
    ] {
        let (repo, _) = roomy();
        let id = take(&repo, "mongo", broken).expect("take").id;
        let snapshot = repo.snapshot(id).expect("snapshot");
        let (out, warnings) = narrowed(&repo, &snapshot, "shop.c", Narrow::Data);
        assert!(documents[2].concat().starts_with(&out) && !out.is_empty());
        assert!(warnings.iter().any(|warning| warning.contains(warns)), "{warns}: {warnings:?}");
    }
}

#[test]
fn a_member_beside_one_called_prelude_is_no_collection() {
    let archive = ["prelude", "shop.a"].map(|name| member(name, b'0', noise(70_000, name.len() as u64)));
    let (repo, _) = roomy();
    let id = take(&repo, "files", &archive.concat()).expect("take").id;
    let snapshot = repo.snapshot(id).expect("snapshot");
    for narrow in [Narrow::Everything, Narrow::AsItIs] {
        assert!(narrowed(&repo, &snapshot, "shop.a", narrow).0 == archive[1]);
    }
    let (_, wanted) = wanted(&repo, std::slice::from_ref(&snapshot), "latest:shop.a").expect("a part");
    let refused = wanted.narrowed(Narrow::Data).expect_err("no collection");
    assert_eq!(refused.kind(), alluvium::error::Kind::Usage);
}

#[test]
fn chunks_of_an_archive_hold_whole_documents() {
    let documents = |seed: u64, n: usize| -> Vec<Vec<u8>> {
        (0..n).map(|i| document(&[("n", "x")], &noise(100 + i * i % 700, seed * 10_000 + i as u64))).collect()
    };
    let (first, second) = (documents(1, 2000), documents(2, 2000));
    let build = |first: &[Vec<u8>]| {
        let ends = [end_of("a", first), end_of("b", &second)].concat();
        [prelude_of(&["a", "b"]), block_of("a", first), block_of("b", &second), ends].concat()
    };
    let archive = build(&first);
    let mut ends = std::collections::BTreeSet::new();
    let mut at = 4;
    while at < archive.len() {
        let length = u32::from_le_bytes(*archive[at..].first_chunk().expect("a length"));
        at += if length == u32::MAX { 4 } else { length as usize };
        ends.insert(at);
    }
    let (repo, world) = roomy();
    let all_at_ends = |id, ends: &std::collections::BTreeSet<usize>| {
        let mut at = 0;
        let snapshot = repo.snapshot(id).expect("snapshot");
        for chunk in parts_of(&repo, &snapshot).iter().flat_map(|part| &part.recipe.chunks) {
            at += chunk.len as usize;
            assert!(ends.contains(&at), "{at}");
        }
    };
    all_at_ends(take(&repo, "mongo", &archive).expect("take").id, &ends);
    // One document more: what follows it is where it was, and the same is stored without looking back.
    world.pass(SignedDuration::from_hours(24));
    let more = build(&[&first[..700], &documents(3, 1), &first[700..]].concat());
    let report = Collect::default();
    let id = take_with(&repo, "mongo", &more, &report).expect("take").id;
    assert!(report.get(Counter::NewChunks) < 8, "{report:?}");
    let parts = |id| parts_of(&repo, &repo.snapshot(id).expect("snapshot"));
    let recipes = |id| parts(id).into_iter().map(|part| part.recipe).collect::<Vec<_>>();
    assert_eq!(recipes(id), recipes(take(&repo, "fresh", &more).expect("take").id));
}

/// A data file of PostgreSQL of so many pages.
fn relation(pages: usize, seed: u64) -> Vec<u8> {
    let page = |n: usize| {
        let mut page = noise(8192, seed * 100_000 + n as u64);
        for (at, value) in [(10, 0_u16), (12, 40), (14, 4000), (16, 8192), (18, 0x2004)] {
            page[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        page
    };
    (0..pages).flat_map(page).collect()
}

#[test]
fn chunks_of_members_that_are_data_files_hold_whole_pages() {
    let (repo, world) = roomy();
    let repo_of = |relation: &[u8]| {
        let small = member("backup_label", b'0', b"START".to_vec());
        [small, member("base/5/1259", b'0', relation.to_vec()), member("base/5/1247", b'0', noise(100_000, 3))].concat()
    };
    let data = relation(80, 1);
    let taken = take(&repo, "base", &repo_of(&data)).expect("take").id;
    let lengths = |id, name: &str| -> Vec<usize> {
        let part = part_called(&repo, &repo.snapshot(id).expect("snapshot"), name).expect("a member");
        part.recipe.chunks.iter().map(|chunk| chunk.len as usize).collect()
    };
    let found = lengths(taken, "base/5/1259");
    let [first, rest @ ..] = &found[..] else { panic!("chunks") };
    assert!(found.len() > 10 && first % 8192 == 512 && rest.iter().all(|n| n % 8192 == 0), "{found:?}");
    assert!(lengths(taken, "base/5/1247").iter().any(|n| n % 8192 != 0));
    // A page more.
    world.pass(SignedDuration::from_hours(24));
    let more = [&data[..40 * 8192], &relation(1, 2), &data[40 * 8192..]].concat();
    let report = Collect::default();
    let id = take_with(&repo, "base", &repo_of(&more), &report).expect("take").id;
    assert!(report.get(Counter::NewChunks) < 8, "{report:?}");
    assert_eq!(
        lengths(id, "base/5/1259"),
        lengths(take(&repo, "fresh", &repo_of(&more)).expect("take").id, "base/5/1259")
    );
    // What only begins like one is not.
    for (at, byte) in [(18, 5), (19, 0x30), (13, 0x7f), (17, 0xff), (11, 1)] {
        let mut other = data.clone();
        other[at] = byte;
        let begin = repo_of(&other);
        let mut segmenter = Segmenter::recognise(&begin).expect("an archive");
        let mut begun = Vec::new();
        segmenter.scan(&begin, true, &mut begun);
        assert_eq!((&begun[0].name.object[..], begun[0].grain), ("base/5/1259", Grain::Any));
    }
    assert_eq!(
        Segmenter::recognise_pages(&data).expect("a data file").first_grain(),
        Grain::Pages { page: 8192, from: 0 }
    );
}

#[test]
fn small_blocks_in_turn_are_not_thousands_of_segments() {
    let turns: Vec<u8> = (0..1000).flat_map(|i| block(["a", "b", "c"][i % 3], &[100])).collect();
    let large = [block("d", &[2 << 20]), block("e", &[100]), block("f", &[100])].concat();
    let found = names(&[prelude(), turns, large].concat());
    assert_eq!((found.len(), found[64].as_str()), (66, "shop.a (22)"));
    // The blocks before it are too small to be one, and those after it are no more than it.
    assert_eq!(found[65], "shop.e");
}

#[test]
fn what_is_no_document_ends_the_segments() {
    let good = block("a", &[100]);
    let starts = |bad: &[u8]| names(&[&prelude(), &good, bad, &block("b", &[100])].concat());
    for bad in [
        &END[..],
        b"\x04\0\0\0",
        b"\0\0\0\0\0",
        b"\x05\0\0\0\x01",
        b"\xff\xff\xff\x7f\0",
        &document(&[("db", "x")], b""),
        &document(&[("db", "x"), ("collection", "y")], b"\x03"),
        &document(&[("db", "x"), ("collection", "y")], b"\x02n\0\xff\xff\xff\xff"),
        &document(&[], b"\x02db\0\0\0\0\0\x02collection\0\0\0\0\0"),
        &document(&[("db", "x"), ("collection", &"y".repeat(70_000))], b""),
    ] {
        assert_eq!(starts(bad), ["prelude", "shop.a"], "{:?}", &bad[..bad.len().min(50)]);
    }
    let mut unended = block("b", &[100]);
    let last = unended.len() - 5;
    unended[last] = 1;
    assert_eq!(starts(&unended), ["prelude", "shop.a", "shop.b"]);
    assert!(names(b"\x6d\xe2\x99\x81").is_empty() && names(b"\x6d\xe2\x99\x81\x04\0\0\0").is_empty());
}

// ---- both ------------------------------------------------------------------------------------

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => 0..2000usize, 1 => 60_000..140_000usize].prop_map(|n| vec![b'y'; n])
}

fn some_tar() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop::sample::select(b"00000LxKg15S\0VD".to_vec());
    let some_member = (kinds, "[a-c/]{0,3}", content()).prop_map(|(kind, name, content)| match kind {
        b'x' => {
            let text = format!(" path={name}{}\n", "z".repeat(content.len() % 3000));
            let length = (2..6).map(|digits| digits + text.len()).find(|n| n.to_string().len() + text.len() == *n);
            member("x", kind, format!("{}{text}", length.unwrap_or(9)).into_bytes())
        }
        b'1' | b'5' => header(&name, &octal(content.len()), kind),
        _ => member(&name, kind, content),
    });
    prop::collection::vec(
        prop_oneof![
            12 => some_member,
            1 => prop::collection::vec(any::<u8>(), 0..700),
            1 => (0..3usize).prop_map(|n| vec![0; n * 512]),
        ],
        0..20,
    )
    .prop_map(|members| members.concat())
}

fn some_archive() -> impl Strategy<Value = Vec<u8>> {
    let some_block = ("[abc]", prop::collection::vec(prop_oneof![0..300usize, 60_000..140_000usize], 0..4))
        .prop_map(|(name, documents)| block(&name, &documents));
    prop::collection::vec(
        prop_oneof![20 => some_block, 1 => prop::collection::vec(any::<u8>(), 0..9), 1 => Just(END.to_vec())],
        0..90,
    )
    .prop_map(|blocks| [prelude(), blocks.concat()].concat())
}

/// Archives, of which many are cut off and some damaged.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let flips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let cut = prop::option::of(any::<prop::sample::Index>());
    (prop_oneof![some_tar(), some_archive()], flips, cut).prop_map(|(mut stream, flips, cut)| {
        for (at, byte) in flips {
            if !stream.is_empty() {
                let at = at.index(stream.len());
                stream[at] = byte;
            }
        }
        stream.truncate(cut.map_or(stream.len(), |cut| cut.index(stream.len() + 1)));
        stream
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn however_an_archive_comes_it_is_cut_the_same(
        stream in stream(),
        steps in prop::collection::vec(prop_oneof![1..100usize, 1..200_000usize], 1..5),
    ) {
        let least = stream.len() / 2000;
        let steps: Vec<usize> = steps.into_iter().map(|step| step.max(least)).collect();
        let whole = segments(&stream, &[stream.len()]);
        prop_assert!(whole.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let mut unique: Vec<_> = whole.iter().map(|(_, name, _)| name).collect();
        unique.sort();
        unique.dedup();
        prop_assert_eq!(unique.len(), whole.len());
        prop_assert_eq!(segments(&stream, &steps), whole);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, ..ProptestConfig::default() })]

    #[test]
    fn whatever_archive_is_stored_comes_back(stream in stream()) {
        prop_assume!(!stream.is_empty());
        let repo = init(Memory::new(), &World::new(1));
        let id = take(&repo, "s", &stream).expect("take").id;
        let found = repo.snapshot(id).expect("snapshot");
        prop_assert_eq!(found.manifest.bytes(), stream.len() as u64);
        prop_assert!(restored(&repo, &found).expect("restore") == stream);
    }
}

// ---- files of SQLite -------------------------------------------------------------------------

/// A database file with `rows` rows that nothing compresses.
fn database(page: usize, rows: i64) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let connection = rusqlite::Connection::open(&path).expect("open");
    connection.pragma_update(None, "page_size", i64::try_from(page).expect("a page size")).expect("a page size");
    connection.execute_batch("create table t (id integer primary key, data blob); begin").expect("create");
    for i in 0..rows {
        connection.execute("insert into t values (?, ?)", (i, noise(300, i as u64))).expect("insert");
    }
    connection.execute_batch("commit").expect("commit");
    drop(connection);
    let bytes = fs::read(&path).expect("read");
    assert!(bytes.len().is_multiple_of(page));
    bytes
}

/// A repository whose recipes stand in the manifest.
fn roomy() -> (Repository, std::sync::Arc<World>) {
    let (storage, world) = (Memory::new(), World::new(3));
    let sizes = InitOptions { chunk_bytes: 16 << 10, pack_bytes: 1 << 20, kdf: CHEAP };
    Repository::init(&storage, world.as_ref(), PASSPHRASE, "test", sizes).expect("init");
    (open(storage, &world).expect("open"), world)
}

/// The lengths of the chunks of a snapshot's only part.
fn lengths(repo: &Repository, id: alluvium::id::SnapshotId) -> Vec<usize> {
    let snapshot = repo.snapshot(id).expect("snapshot");
    let [part] = &parts_of(repo, &snapshot)[..] else { panic!("one part") };
    assert_eq!(part.recipe.depth, 0);
    part.recipe.chunks.iter().map(|chunk| chunk.len as usize).collect()
}

#[test]
fn chunks_of_a_database_file_hold_whole_pages() {
    for page in [512, 4096, 65_536] {
        let (repo, world) = roomy();
        let data = database(page, 1500);
        let first = take(&repo, "db", &data).expect("take").id;
        let found = lengths(&repo, first);
        assert!(found.len() > 5 && found.iter().all(|n| n % page == 0), "{page}: {found:?}");
        world.pass(SignedDuration::from_hours(24));
        let report = Collect::default();
        let second = take_with(&repo, "db", &data, &report).expect("take").id;
        assert_eq!((report.get(Counter::NewChunks), lengths(&repo, second)), (0, found.clone()));
        assert_eq!(report.get(Counter::PredictedChunks) as usize, found.len() - 1, "all but the last");
        // One page more in the middle.
        let middle = data.len() / page / 2 * page;
        let longer = [&data[..middle], &noise(page, 1), &data[middle..]].concat();
        world.pass(SignedDuration::from_hours(24));
        let report = Collect::default();
        let third = take_with(&repo, "db", &longer, &report).expect("take").id;
        assert!(report.get(Counter::NewChunks) <= 1 + found.len() as u64 / 5, "{page}: {report:?}");
        assert!(lengths(&repo, third).iter().all(|n| n % page == 0));
        assert_eq!(lengths(&repo, third), lengths(&repo, take(&repo, "fresh", &longer).expect("take").id));
        assert!(restored(&repo, &repo.snapshot(third).expect("snapshot")).expect("restore") == longer);
    }
}

#[test]
fn chunks_that_were_cut_at_other_places_are_no_guesses() {
    // As if pages had grown: some cuts are where they were, so that the chunks behind them could be guessed.
    let (repo, world) = roomy();
    let data = database(4096, 1500);
    let smaller = [&data[..16], &2048_u16.to_be_bytes(), &data[18..]].concat();
    let unknown = [b"nothing special\0", &data[16..]].concat();
    let mut before = Vec::new();
    for other in [unknown, smaller] {
        before = lengths(&repo, take(&repo, "db", &other).expect("take").id);
        assert!(before.iter().any(|n| n % 4096 != 0));
        world.pass(SignedDuration::from_hours(24));
    }
    let report = Collect::default();
    let guessed = lengths(&repo, take_with(&repo, "db", &data, &report).expect("take").id);
    assert!(guessed.iter().all(|n| n % 4096 == 0));
    assert_eq!(guessed, lengths(&repo, take(&repo, "fresh", &data).expect("take").id));
    let again = guessed.len() as u64 - report.get(Counter::NewChunks);
    assert!(again > 0 && guessed != before, "some chunks were there");
}

#[test]
fn files_are_cut_at_pages_and_stay_one_part() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, archive) = (folder.path().join("shop.db"), folder.path().join("shop.tar"));
    fs::write(&path, database(4096, 1000)).expect("write");
    fs::write(&archive, [member("a", b'0', noise(70_000, 1)), member("b", b'0', noise(70_000, 2))].concat())
        .expect("write");
    let (repo, _) = roomy();
    let source = Source::Files(vec![path, archive]);
    let id = snapshot(&repo, source, &options("files"), &Silent, &Cancel::new()).expect("take").id;
    let parts = parts_of(&repo, &repo.snapshot(id).expect("snapshot"));
    let parts: Vec<_> = parts.iter().filter(|part| matches!(part.kind, PartKind::File { .. })).collect();
    assert_eq!(parts.len(), 2);
    let database = parts.iter().find(|part| part.name.object.ends_with("shop.db")).expect("the file");
    assert!(database.recipe.chunks.len() > 5 && database.recipe.chunks.iter().all(|chunk| chunk.len % 4096 == 0));
}

#[test]
fn page_sizes_that_cannot_be_are_none() {
    let page = |size: [u8; 2]| {
        let head = [&b"SQLite format 3\0"[..], &size, &[0; 100]].concat();
        Segmenter::recognise(&head).map(|segmenter| segmenter.first_grain())
    };
    for (size, expected) in
        [(512, Some(512)), (32_768, Some(32_768)), (1, Some(65_536)), (0, None), (2, None), (768, None)]
    {
        let expected = expected.map(|page| Grain::Pages { page, from: 0 });
        assert_eq!(page(u16::to_be_bytes(size)), expected, "{size}");
    }
    assert!(Segmenter::recognise(b"SQLite format 3\0").is_none() && Segmenter::recognise_pages(b"text").is_none());
}
