//! A second reader, in Python, written from docs/format.md alone (tests/reader/): it opens what this program wrote,
//! checks the chain of trust, and restores every snapshot byte for byte. `./test.sh` installs the packages that it needs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::services;

const PASSPHRASE: &str = "correct horse";
const WRITE_ONLY: &str = "upload only";
/// Versions of each dump.
const VERSIONS: u32 = 5;

/// A repository, what went into it, and who wrote it.
struct Scene {
    folder: TempDir,
    /// By the snapshot's id: bytes, the author's label, the key epoch.
    went_in: BTreeMap<String, (Vec<u8>, &'static str, u64)>,
}

impl Scene {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, in an environment of its own.
    fn program(&self, passphrase: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_alluvium"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.path("home")).env("ALLUVIUM_REPOSITORY", self.path("repository"));
        command.env("ALLUVIUM_PASSWORD", passphrase).current_dir(self.folder.path());
        command.arg("--json").args(arguments);
        command
    }

    /// Runs the program and gives its JSON.
    fn run(&self, passphrase: &str, arguments: &[&str]) -> Value {
        let Output { status, stdout, stderr } = self.program(passphrase, arguments).output().expect("it starts");
        assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
        serde_json::from_slice(&stdout).expect("one JSON document")
    }

    /// Takes a snapshot of `bytes` as a stream.
    fn snapshot(&mut self, passphrase: &str, name: &str, bytes: Vec<u8>, author: &'static str, epoch: u64) {
        fs::write(self.path("dump"), &bytes).expect("written");
        let taken = self.run(passphrase, &["snapshot", "--name", name, "--", "cat", "dump"]);
        self.went_in.insert(taken["id"].as_str().expect("an id").to_owned(), (bytes, author, epoch));
    }

    /// A snapshot whose command kills the program once its session and heartbeat are there, so that both stay.
    fn leave_a_session(&self) {
        let command = "echo; n=0; until ls repository/sessions/*.beat >/dev/null 2>&1 || [ $n = 600 ]; \
                       do sleep 0.05; n=$((n + 1)); done; kill -KILL $PPID";
        let arguments = ["snapshot", "--name", "dead", "--", "sh", "-c", command];
        let status = self.program(PASSPHRASE, &arguments).output().expect("it starts").status;
        assert!(!status.success(), "it was killed");
    }

    /// Runs the second reader: whether it succeeded, and its JSON, or what it says.
    fn read(&self, repository: &str, secret: &str, out: &str) -> Result<Value, String> {
        let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader/alluvium_reader.py");
        let mut command = Command::new(services::program("python3"));
        command.arg("-B").arg(reader).args([self.path(repository), self.path(out)]);
        let Output { status, stdout, stderr } = command.env("ALLUVIUM_PASSWORD", secret).output().expect("it starts");
        let said = String::from_utf8(stderr).expect("UTF-8");
        assert!(!said.contains("ModuleNotFoundError"), "run ./test.sh, which installs what is missing: {said}");
        if status.success() { Ok(serde_json::from_slice(&stdout).expect("one JSON document")) } else { Err(said) }
    }

    /// Asserts that the reader restored into `out` what went in, and tells the same of it.
    fn assert_restored(&self, read: &Value, out: &str) {
        let restored = read["snapshots"].as_array().expect("a list");
        assert_eq!(restored.len(), self.went_in.len() + 1, "{read:#}");
        for snapshot in restored {
            let id = snapshot["snapshot"].as_str().expect("an id");
            let Some((bytes, author, epoch)) = self.went_in.get(id) else {
                Self::assert_files(&self.path(out).join(id).join("files"));
                continue;
            };
            let stream = fs::read(self.path(out).join(id).join("stream")).expect("a stream");
            assert!(stream == *bytes, "snapshot {id} came back with other bytes");
            assert_eq!((&snapshot["author"], &snapshot["epoch"]), (&Value::from(*author), &Value::from(*epoch)));
        }
    }

    fn assert_files(files: &Path) {
        assert!(fs::read(files.join("tree/sub/noise")).expect("a file") == noise(100_000));
        assert!(fs::read(files.join("tree/empty")).expect("a file").is_empty());
        assert_eq!(fs::read_link(files.join("tree/link")).expect("a link"), Path::new("sub/noise"));
    }
}

/// A repository with all that the format has: two epochs, four slots, three writers, all codecs, lists that are
/// recipes, files, and a generation.
fn scene() -> Scene {
    let mut scene = Scene { folder: tempfile::tempdir().expect("a temporary folder"), went_in: BTreeMap::new() };
    fs::write(scene.path("write-only"), WRITE_ONLY).expect("written");
    fs::write(scene.path("other"), "another passphrase").expect("written");
    scene.run(PASSPHRASE, &["init", "--chunk-size", "4K", "--pack-size", "128K", "--label", "first"]);
    let add = ["key", "add", "--label"];
    scene.run(PASSPHRASE, &[&add[..], &["writer", "--write-only", "--new-password-file", "write-only"]].concat());
    scene.run(PASSPHRASE, &[&add[..], &["daemon", "--key-file", "key"]].concat());
    for version in 0..VERSIONS - 1 {
        scene.snapshot(PASSPHRASE, "postgres", postgres(version), "first", 1);
        scene.snapshot(PASSPHRASE, "mysql", mysql(version), "first", 1);
    }
    scene.snapshot(WRITE_ONLY, "postgres", postgres(VERSIONS), "writer", 1);
    scene.run(PASSPHRASE, &["key", "rotate"]);
    // A slot of the second epoch, whose own certificate is by the authority of that epoch.
    scene.run(PASSPHRASE, &[&add[..], &["late", "--new-password-file", "other"]].concat());
    scene.snapshot(PASSPHRASE, "postgres", postgres(VERSIONS - 1), "first", 2);
    scene.snapshot("another passphrase", "mysql", mysql(VERSIONS - 1), "late", 2);
    scene.snapshot(WRITE_ONLY, "mysql", mysql(VERSIONS), "writer", 2);

    let tree = scene.path("tree");
    fs::create_dir_all(tree.join("sub")).expect("a folder");
    fs::write(tree.join("sub/noise"), noise(100_000)).expect("written");
    fs::write(tree.join("empty"), b"").expect("written");
    std::os::unix::fs::symlink("sub/noise", tree.join("link")).expect("a link");
    scene.run(PASSPHRASE, &["snapshot", "--name", "files", "tree"]);
    // Publishes a generation, and repacks what is left.
    let gone = scene.run(PASSPHRASE, &["forget", "--name", "postgres", "--keep-last", "4", "--prune"]);
    let left = scene.run(PASSPHRASE, &["snapshots"]);
    let left: Vec<&str> =
        left["snapshots"].as_array().expect("a list").iter().filter_map(|s| s["id"].as_str()).collect();
    scene.went_in.retain(|id, _| left.contains(&id.as_str()));
    assert_eq!(left.len(), scene.went_in.len() + 1, "{gone:#}");
    scene.leave_a_session();
    scene
}

#[test]
fn a_second_reader_restores_every_snapshot() {
    let scene = scene();
    let read = scene.read("repository", PASSPHRASE, "out").expect("it reads");
    scene.assert_restored(&read, "out");
    assert_eq!(read["epochs"], serde_json::json!([1, 2]));
    assert_eq!(read["slots"], serde_json::json!(["daemon", "first", "late", "writer"]));

    // What this test is worth: the reader met all of this.
    let facts = &read["facts"];
    let met = |fact: &Value, least: u64| fact.as_u64().is_some_and(|n| n >= least);
    for codec in 0..4_usize {
        assert!(met(&facts["codecs"][codec], 1), "codec {codec} did not occur: {facts:#}");
    }
    for (fact, least) in
        [("chain", 2), ("depth", 1), ("lists", 1), ("generation", 1), ("sealed_secrets", 1), ("sessions", 2)]
    {
        assert!(met(&facts[fact], least), "too little of `{fact}`: {facts:#}");
    }

    // The key file was there before the rotation, and reads both epochs.
    let key = fs::read_to_string(scene.path("key")).expect("a key file");
    let read = scene.read("repository", &key, "out-of-daemon").expect("it reads");
    assert_eq!(read["slot"], "daemon");
    scene.assert_restored(&read, "out-of-daemon");

    // The slot that came after it has the secrets of both in itself.
    let read = scene.read("repository", "another passphrase", "out-of-late").expect("it reads");
    assert_eq!((&read["slot"], &read["facts"]["sealed_secrets"]), (&Value::from("late"), &Value::from(0)));
    scene.assert_restored(&read, "out-of-late");

    // A write-only slot verifies all and opens no body.
    let read = scene.read("repository", WRITE_ONLY, "out-of-writer").expect("it reads");
    assert_eq!((&read["kind"], &read["opened_epochs"]), (&Value::from("write-only"), &serde_json::json!([])));
    assert_eq!(read["headers"], scene.went_in.len() + 1);
    assert!(!scene.path("out-of-writer").exists());

    refuses(&scene);
}

/// The reader's checks are worth something: it refuses what was changed.
fn refuses(scene: &Scene) {
    let said = scene.read("repository", "wrong", "none").expect_err("it refuses a wrong passphrase");
    assert!(said.contains("no slot opens"), "{said}");

    let repository = scene.path("repository");
    let objects = |folder: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(repository.join(folder)).expect("a folder").flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
    };
    let pack = fs::read_dir(repository.join("packs")).expect("packs").flatten().next().expect("a folder");
    let pack = fs::read_dir(pack.path()).expect("a folder").flatten().next().expect("a pack").path();
    let mut changed = vec![repository.join("config"), pack];
    changed.extend(["slots", "epochs", "index", "snapshots", "prune"].map(|folder| objects(folder).swap_remove(0)));
    for path in changed {
        let whole = fs::read(&path).expect("an object");
        let mut other = whole.clone();
        // A digit of the config's signature; a byte of a tag or of sealed bytes.
        let at = other.len() - if path.ends_with("config") { 9 } else { 60 };
        other[at] = if other[at] == b'7' { b'8' } else { b'7' };
        replace(&path, &other);
        let said = scene.read("repository", PASSPHRASE, "none").expect_err("it refuses a changed object");
        assert!(said.starts_with("refused: "), "{}: {said}", path.display());
        replace(&path, &whole);
    }

    // An object under the name of another.
    let snapshots = objects("snapshots");
    let moved = fs::read(&snapshots[0]).expect("a manifest");
    replace(&snapshots[1], &moved);
    let said = scene.read("repository", PASSPHRASE, "none").expect_err("it refuses a manifest that was moved");
    assert!(said.starts_with("refused: "), "{said}");
    assert!(!scene.path("none").exists(), "it restored something of it");
}

/// Objects are read-only; their folder is not.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).expect("removed");
    fs::write(path, bytes).expect("written");
}

/// Bytes that nothing makes shorter.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
    bytes
}

/// Digits that hang on these numbers.
fn hexadecimal(table: u32, row: u32) -> String {
    blake3::hash(&[table.to_le_bytes(), row.to_le_bytes()].concat()).to_hex().to_string()
}

/// A dump as `pg_dump` writes it: more tables than stand in a manifest, with all kinds of columns. Some rows depend
/// on the version.
fn postgres(version: u32) -> Vec<u8> {
    let mut dump = String::from("--\n-- PostgreSQL database dump\n--\n\nSET client_encoding = 'UTF8';\n\n");
    for table in 0..20_u32 {
        write!(
            dump,
            "CREATE TABLE public.t{table} (\n    id integer NOT NULL,\n    email text,\n    price numeric(10,2),\n    \
             born date,\n    seen timestamp without time zone,\n    digest text,\n    upper text,\n    state text,\n    \
             note text,\n    code text\n);\n\n\nCOPY public.t{table} (id, email, price, born, seen, digest, upper, \
             state, note, code) FROM stdin;\n"
        )
        .expect("in memory");
        let rows: u32 = if table == 0 { 4000 } else { 9 };
        for row in 0..rows {
            dump += &postgres_row(table, row, if row.is_multiple_of(97) { version } else { 0 });
        }
        dump += "\\.\n\n\n";
    }
    (dump + "--\n-- PostgreSQL database dump complete\n--\n\n").into_bytes()
}

fn postgres_row(table: u32, row: u32, version: u32) -> String {
    let digits = hexadecimal(table, row);
    let chance = u32::from_str_radix(&digits[..8], 16).expect("digits");
    let sign = if chance.is_multiple_of(11) { "-" } else { "" };
    let fraction = format!(".{:03}", 1 + chance % 999);
    let note = if chance.is_multiple_of(4) { format!("version {version} of {}", &digits[5..9]) } else { "\\N".into() };
    format!(
        "{}\tuser{}@example.org\t{sign}{}.{:02}\t19{:02}-0{}-1{}\t2024-0{}-1{} 1{}:0{}:2{}{}\t{}\t{}\t{}\t{note}\t{:08}\n",
        row + 1,
        chance % 5000,
        chance % 1000,
        chance / 1000 % 100,
        50 + chance % 50,
        1 + chance % 9,
        chance % 10,
        1 + chance % 7,
        chance % 8,
        chance % 10,
        chance % 6,
        chance % 9,
        if chance.is_multiple_of(3) { "" } else { fraction.trim_end_matches('0') },
        &digits[..32],
        digits[8..24].to_uppercase(),
        ["new", "paid", "sent"][chance as usize % 3],
        chance % 1_000_000,
    )
}

/// A dump as `mariadb-dump` writes it.
fn mysql(version: u32) -> Vec<u8> {
    let mut dump = String::from(
        "-- MariaDB dump 10.19  Distrib 10.11.6-MariaDB\n--\n-- Host: localhost    Database: shop\n\n\
         DROP TABLE IF EXISTS `a`;\nCREATE TABLE `a` (\n  `id` int(11) NOT NULL,\n  `b` text\n);\n\
         INSERT INTO `a` VALUES\n",
    );
    let rows: u32 = 3000;
    for row in 0..rows {
        let digits = hexadecimal(99, row);
        let end = if row + 1 == rows { ";\n" } else { ",\n" };
        let version = if row.is_multiple_of(31) { version } else { 0 };
        write!(dump, "({row},'name {}',{}.{:02},NULL,'x{version}'){end}", &digits[..6], row * 7 % 900, row % 100)
            .expect("in memory");
    }
    (dump + "-- Dump completed on 2026-11-29\n").into_bytes()
}
