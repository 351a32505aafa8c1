//! The program as people and scripts meet it: wiring only, the engine is tested below. Exit codes, which side says
//! what, JSON, passphrases, names that terminals must not obey.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A name that would clear the screen, fake a line and turn the text around.
const HOSTILE: &str = "shop\u{1b}[2J\nid \u{202e}evil\u{200b}";

/// A folder with a home, a repository's place, and a passphrase.
struct Place {
    folder: TempDir,
}

/// What a run came to.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// With a repository.
    fn with_repository() -> Self {
        let place = Self::new();
        place.run(&["init"]).expect(0);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, in an environment that is all ours and without a terminal.
    fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_alluvium"));
        command.args(arguments).env_clear().current_dir(self.folder.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.folder.path().join("home"));
        command.env("ALLUVIUM_REPOSITORY", self.path("repository")).env("ALLUVIUM_PASSWORD", "correct horse");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.program(arguments).spawn().expect("the program starts"))
    }

    /// Runs with `input` on standard input.
    fn feed(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut child = self.program(arguments).stdin(Stdio::piped()).spawn().expect("the program starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        // A program that refuses does not read.
        let _ = stdin.write_all(input);
        drop(stdin);
        finish(child)
    }

    /// Runs with `--json` and gives the document.
    fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.run(&[&["--json"], arguments].concat());
        assert!(ran.err.is_empty(), "{ran:?}");
        serde_json::from_slice(&ran.expect(0).out).expect("one JSON document")
    }

    fn copy(&self, from: &str, to: &str) {
        let copied = Command::new("cp").arg("-a").arg(self.path(from)).arg(self.path(to)).status().expect("cp");
        assert!(copied.success());
    }

    /// Puts a copy in the place of the repository.
    fn put_back(&self, copy: &str) {
        fs::remove_dir_all(self.path("repository")).expect("removed");
        self.copy(copy, "repository");
    }

    /// The packs of the repository.
    fn packs(&self) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.path("repository/packs")).expect("packs").flatten();
        folders.flat_map(|folder| fs::read_dir(folder.path()).expect("a folder").flatten()).map(|e| e.path()).collect()
    }
}

fn finish(child: Child) -> Ran {
    let Output { status, stdout, stderr } = child.wait_with_output().expect("the program ends");
    Ran { code: status.code(), out: stdout, err: String::from_utf8(stderr).expect("messages are UTF-8") }
}

impl Ran {
    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", String::from_utf8_lossy(&self.out), self.err);
        self
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("text")
    }

    /// Asserts that nobody's terminal is harmed.
    fn harmless(&self) -> &Self {
        for text in [self.text(), &self.err] {
            let bad = |c: char| c != '\n' && (c.is_control() || matches!(c, '\u{200b}' | '\u{202e}'));
            assert!(!text.contains(bad), "{text:?}");
        }
        self
    }
}

/// Text that does not repeat, so that it makes chunks.
fn dump(lines: u32) -> Vec<u8> {
    (0..lines).flat_map(|n| format!("INSERT {n} {}\n", blake3::hash(&n.to_le_bytes())).into_bytes()).collect()
}

fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("a pack");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(path).expect("objects are read-only, their folder is not");
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_stream_comes_back_byte_for_byte_and_nothing_else_on_standard_output() {
    let place = Place::with_repository();
    let data = dump(20_000);
    let taken = place.feed(&["snapshot", "--name", "shop", "-"], &data).expect(0);
    assert!(taken.text().starts_with("snapshot ") && taken.text().contains(" of shop: "), "{}", taken.text());
    assert_eq!(taken.err, "");
    for arguments in
        [&["restore", "shop"][..], &["restore", "latest", "-v"], &["cat", "shop:shop"], &["restore", "shop", "--json"]]
    {
        let restored = place.run(arguments).expect(0);
        assert!(restored.out == data, "{arguments:?}");
        assert!(!restored.err.is_empty(), "what is to be said is said on the other side");
    }
    assert_eq!(place.run(&["-q", "restore", "shop"]).expect(0).err, "");
    place.run(&["restore", "shop", "-o", "shop.sql"]).expect(0);
    assert!(fs::read(place.path("shop.sql")).expect("restored") == data);
    let again = place.run(&["restore", "shop", "-o", "shop.sql"]).expect(1);
    assert!(again.err.contains("--overwrite"), "{}", again.err);
    place.run(&["restore", "shop", "-o", "shop.sql", "--overwrite"]).expect(0);
    // A pipe or a device is not replaced, whatever was said.
    let pipe = place.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let refused = place.run(&["restore", "shop", "-o", "pipe", "--overwrite"]).expect(1);
    assert!(refused.err.contains("pipe is a device, a pipe or a socket"), "{}", refused.err);
    let no_folder = place.run(&["restore", "shop", "-o", "missing/"]).expect(1);
    assert!(no_folder.err.contains("no folder missing/") && !place.path("missing").exists(), "{}", no_folder.err);
}

#[test]
fn commands_are_judged_and_files_are_named() {
    let place = Place::with_repository();
    place.run(&["snapshot", "--name", "shop", "--", "printf", "%s", "SELECT 1;"]).expect(0);
    let failed = place.run(&["snapshot", "--name", "shop", "--", "sh", "-c", "echo half; exit 7"]).expect(1);
    assert!(failed.err.starts_with("alluvium: "), "{}", failed.err);
    fs::create_dir(place.path("exports")).expect("made");
    fs::write(place.path("exports/a.csv"), "1,2").expect("written");
    fs::write(place.path("app.db"), "data").expect("written");
    place.run(&["snapshot", "./app.db", "exports"]).expect(0);
    let list = place.json(&["snapshots"]);
    let names: Vec<&str> =
        list["snapshots"].as_array().expect("a list").iter().filter_map(|s| s["source"].as_str()).collect();
    assert_eq!(names, ["shop", "app.db+exports"]);
    place.run(&["restore", "app.db+exports", "-o", "back"]).expect(0);
    assert_eq!(fs::read(place.path("back/exports/a.csv")).expect("restored"), b"1,2");
}

#[test]
fn commands_inherit_no_secrets_but_those_of_the_database() {
    let place = Place::with_repository();
    let with_secrets = |arguments: &[&str]| {
        let mut command = place.program(arguments);
        for name in [
            "ALLUVIUM_NEW_PASSWORD",
            "ALLUVIUM_WEBDAV_PASSWORD",
            "ALLUVIUM_KEY_FILE",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_CLIENT_SECRET",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "PGPASSWORD",
            "MYSQL_PWD",
        ] {
            command.env(name, "hush-hush");
        }
        command.env("PGDATABASE", "shop");
        command
    };
    let names = |text: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(text).into_owned();
        let secret = text.lines().filter(|line| line.contains("hush-hush") || line.contains("correct horse"));
        let mut names: Vec<String> = secret.map(|line| line.split('=').next().unwrap_or_default().to_owned()).collect();
        names.sort();
        names
    };
    let taken = with_secrets(&["snapshot", "--name", "shop", "--", "sh", "-c", "env"]);
    finish({ taken }.spawn().expect("started")).expect(0);
    let stored = place.run(&["restore", "shop"]).expect(0).out;
    assert!(String::from_utf8_lossy(&stored).contains("PGDATABASE=shop"));
    assert_eq!(names(&stored), ["MYSQL_PWD", "PGPASSWORD"]);
    // The command that finds the passphrase may need the credentials of a service, but never a passphrase.
    fs::write(place.path("pass"), "correct horse").expect("written");
    let found = with_secrets(&["--password-command", "env > seen; cat pass", "snapshots"]);
    finish({ found }.spawn().expect("started")).expect(0);
    let seen = names(&fs::read(place.path("seen")).expect("written"));
    assert!(seen.iter().all(|name| !name.starts_with("ALLUVIUM")), "{seen:?}");
    assert!(seen.contains(&"AWS_SECRET_ACCESS_KEY".to_owned()), "{seen:?}");
}

#[test]
fn exit_codes_of_wrong_usage_and_of_what_is_not_there() {
    let place = Place::new();
    let usage: [&[&str]; 12] = [
        &["--no-such-flag"],
        &["no-such-command"],
        &["snapshot", "--name", "shop"],
        &["snapshot", "-"],
        &["snapshot", "--name", "shop", "-", "app.db"],
        &["--memory", "1M", "snapshots"],
        &["--timezone", "Atlantis", "snapshots"],
        &["check", "--read-data-subset", "8/7"],
        &["forget"],
        &["-r", "gopher://host/x", "snapshots"],
        &["-r", "s3://bucket/x?regoin=eu", "snapshots"],
        &["-r", "s3://key:secret@bucket/x", "snapshots"],
    ];
    for arguments in usage {
        place.run(arguments).expect(2);
    }
    let nowhere =
        finish(place.program(&["snapshots"]).env_remove("ALLUVIUM_REPOSITORY").spawn().expect("started")).expect(2);
    assert!(nowhere.err.contains("\n  hint: say -r"), "{}", nowhere.err);

    place.run(&["snapshots"]).expect(10);
    fs::create_dir(place.path("repository")).expect("made");
    place.run(&["snapshots"]).expect(10);
    place.run(&["init"]).expect(0);
    place.run(&["init"]).expect(1);
    place.run(&["restore", "nothing"]).expect(1);
    fs::write(place.path("file"), "").expect("written");
    let file = place.run(&["-r", "file", "init"]).expect(1);
    assert!(file.err.contains("is a file"), "{}", file.err);
    finish(place.program(&["snapshots"]).env("ALLUVIUM_PASSWORD", "wrong").spawn().expect("started")).expect(12);
    place.run(&["--help"]).expect(0);
    place.run(&["--version"]).expect(0);
}

#[test]
fn far_less_data_is_a_problem_unless_said_to_be_right() {
    let place = Place::with_repository();
    place.feed(&["snapshot", "--name", "shop", "-"], &dump(1000)).expect(0);
    let shrunk = place.feed(&["snapshot", "--name", "shop", "-"], b"SELECT 1;").expect(3);
    assert!(shrunk.err.contains("--allow-shrink"), "{}", shrunk.err);
    assert!(place.run(&["snapshots"]).expect(0).text().contains("shrunk from"));
    let restored = place.run(&["restore", "shop"]).expect(0);
    assert!(restored.err.contains("is flagged") && restored.text() == "SELECT 1;", "{}", restored.err);
    place.feed(&["snapshot", "--name", "shop", "--allow-shrink", "-"], b"1").expect(0);
}

#[test]
fn damage_is_found_told_and_never_restored() {
    let place = Place::with_repository();
    place.feed(&["snapshot", "--name", "shop", "-"], &dump(20_000)).expect(0);
    place.run(&["check", "--read-data"]).expect(0);
    let largest = place.packs().into_iter().max_by_key(|p| p.metadata().map_or(0, |m| m.len())).expect("a pack");
    damage(&largest);
    let found = place.run(&["check", "--read-data"]).expect(13);
    assert!(found.text().contains("packs/") && found.text().contains("harmed: "), "{}", found.text());
    let restored = place.run(&["restore", "shop", "-o", "shop.sql"]).expect(13);
    assert!(restored.err.starts_with("alluvium: restoring `shop`"), "{}", restored.err);
    assert!(!place.path("shop.sql").exists());
    let told: Value =
        serde_json::from_str(&place.run(&["--json", "restore", "shop", "-o", "x"]).expect(13).err).expect("JSON");
    assert_eq!((&told["error"]["kind"], &told["error"]["exit_code"]), (&Value::from("damaged"), &Value::from(13)));
}

#[test]
fn a_tree_with_a_damaged_file_restores_the_others_and_says_13_and_with_one_in_the_way_3() {
    let place = Place::with_repository();
    for folder in ["a", "a/x", "b"] {
        fs::create_dir(place.path(folder)).expect("made");
    }
    fs::write(place.path("a/x/file"), "whole").expect("written");
    fs::write(place.path("b/file"), dump(20_000)).expect("written");
    place.run(&["snapshot", "--name", "tree", "a", "b"]).expect(0);
    // Where a folder should be there is a link, through which nothing is written.
    fs::create_dir_all(place.path("back/a")).expect("made");
    fs::create_dir(place.path("elsewhere")).expect("made");
    std::os::unix::fs::symlink(place.path("elsewhere"), place.path("back/b")).expect("linked");
    let blocked = place.run(&["restore", "tree", "-o", "back"]).expect(3);
    assert!(blocked.err.contains("in the way") && blocked.err.contains("2 parts failed"), "{}", blocked.err);
    assert_eq!(fs::read_dir(place.path("elsewhere")).expect("a folder").count(), 0);

    let largest = place.packs().into_iter().max_by_key(|p| p.metadata().map_or(0, |m| m.len())).expect("a pack");
    damage(&largest);
    let restored = place.run(&["restore", "tree", "-o", "damaged"]).expect(13);
    assert!(restored.err.contains("b/file"), "{}", restored.err);
    assert_eq!(fs::read(place.path("damaged/a/x/file")).ok().as_deref(), Some(&b"whole"[..]));
}

#[test]
fn an_interrupt_ends_cleanly_with_130() {
    let place = Place::with_repository();
    let mut child = place.program(&["snapshot", "--name", "shop", "-"]).stdin(Stdio::piped()).spawn().expect("started");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"SELECT 1;").expect("read");
    let begun = Instant::now();
    // The session is registered: the snapshot is under way, and waits for more.
    while fs::read_dir(place.path("repository/sessions")).map_or(0, Iterator::count) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "no session");
        std::thread::sleep(Duration::from_millis(20));
    }
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("sent");
    let ran = finish(child).expect(130);
    drop(stdin);
    assert!(ran.err.contains("interrupted"), "{}", ran.err);
    assert_eq!(place.json(&["snapshots"])["snapshots"].as_array().map(Vec::len), Some(0));
    assert_eq!(place.json(&["check"])["problems"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_reader_that_leaves_is_no_error_and_no_success() {
    let place = Place::with_repository();
    place.feed(&["snapshot", "--name", "shop", "-"], &dump(20_000)).expect(0);
    let mut child = place.program(&["restore", "shop"]).spawn().expect("started");
    drop(child.stdout.take());
    assert_eq!(finish(child).expect(141).err, "");
}

#[test]
fn every_command_speaks_json() {
    let place = Place::new();
    assert!(place.json(&["init", "--label", "first"])["repository"].is_string());
    for data in ["SELECT 1;", "SELECT 2;"] {
        let taken = place.json(&["snapshot", "--name", "shop", "--tag", "a,b", "--", "echo", data]);
        assert!(taken["id"].is_string() && taken["packs"].is_number() && taken["warnings"].is_array(), "{taken}");
    }
    let list = place.json(&["snapshots", "--tag", "a", "--name", "shop"]);
    let ids: Vec<&str> =
        list["snapshots"].as_array().expect("a list").iter().filter_map(|s| s["id"].as_str()).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(place.json(&["ls", "latest"])["parts"][0]["name"], "shop");
    assert_eq!(place.json(&["diff", ids[0], ids[1]])["parts"][0]["change"], "changed");
    assert_eq!(place.json(&["stats"])["snapshots"], 2);
    assert_eq!(place.json(&["restore", "shop", "-o", "shop.sql"])["failed"], 0);
    assert_eq!(place.json(&["check", "--read-data"])["snapshots"], 2);
    assert_eq!(place.json(&["check", "--read-data-subset", "1/2"])["snapshots"], 2);
    assert_eq!(place.json(&["forget", "--keep-last", "1", "-n"])["remove"][0], ids[0]);
    assert!(place.json(&["prune", "-n"])["packs"].is_number());
    let forgotten = place.json(&["forget", ids[0], "--prune"]);
    assert!(forgotten["prune"]["packs"].is_number() && forgotten["remove"][0] == ids[0], "{forgotten}");
    assert!(place.json(&["prune", "--max-unused", "0%"])["deleted_packs"].is_number());
    assert!(place.json(&["repair", "index"])["packs_added"].is_number());
    assert_eq!(place.json(&["key", "list"])["keys"][0]["in_use"], true);
    fs::write(place.path("new"), "second\n").expect("written");
    let added = place.json(&["key", "add", "--label", "second", "--new-password-file", "new"]);
    let id = added["id"].as_str().expect("an id");
    assert_eq!(place.json(&["key", "remove", id])["id"], *id);
    place.json(&["key", "change", "--new-password-command", "echo correct horse"]);

    assert!(place.json(&["demo", "story"])["story"].is_array());
    assert!(place.path("story").is_dir(), "a folder that was named stays");

    let failure: Value = serde_json::from_str(&place.run(&["--json", "ls", "nothing"]).expect(1).err).expect("JSON");
    assert_eq!(failure["error"]["kind"], "not-found");
    assert!(failure["error"]["hint"].is_string() && failure["error"]["cause"].is_null(), "{failure}");
    let failure: Value = serde_json::from_str(&place.run(&["--json", "--no-such-flag"]).expect(2).err).expect("JSON");
    assert_eq!(failure["error"]["kind"], "usage");
}

#[test]
fn forget_shows_its_plan_and_dry_runs_change_nothing() {
    let place = Place::with_repository();
    for data in ["1", "2", "3"] {
        place.run(&["snapshot", "--name", "shop", "--host", "db1", "--", "echo", data]).expect(0);
    }
    let shown = place.run(&["forget", "--keep-last", "1", "-n"]).expect(0);
    assert!(
        shown.text().starts_with("shop on db1:\n") && shown.text().contains("would remove 2 snapshots"),
        "{}",
        shown.text()
    );
    assert_eq!(place.json(&["snapshots"])["snapshots"].as_array().map(Vec::len), Some(3));
    let pruned = place.run(&["forget", "--keep-last", "1", "--prune", "--max-unused", "0"]).expect(0);
    assert!(pruned.text().contains("remove 2 snapshots") && pruned.text().contains("deleted "), "{}", pruned.text());
    assert_eq!(place.run(&["restore", "shop"]).expect(0).out, b"3\n");
    let last = place.json(&["snapshots"])["snapshots"][0]["id"].as_str().expect("an id").to_owned();
    place.run(&["forget", &last]).expect(2);
    place.run(&["forget", &last, "--keep-last", "1"]).expect(2);
    place.run(&["forget", &last, "--allow-empty"]).expect(0);
}

#[test]
fn passphrases_come_from_everywhere_but_the_command_line() {
    let place = Place::with_repository();
    fs::write(place.path("pass"), "correct horse\n").expect("written");
    let bare = |arguments: &[&str]| {
        let mut command = place.program(arguments);
        command.env_remove("ALLUVIUM_PASSWORD");
        command
    };
    let ran = |mut command: Command| finish(command.spawn().expect("started"));
    ran(bare(&["-p", "pass", "snapshots"])).expect(0);
    ran(bare(&["--password-command", "cat pass", "snapshots"])).expect(0);
    let mut from_file = bare(&["snapshots"]);
    from_file.env("ALLUVIUM_PASSWORD_FILE", place.path("pass"));
    ran(from_file).expect(0);
    let none = ran(bare(&["snapshots"])).expect(2);
    assert!(none.err.contains("--password-file") && none.err.contains("ALLUVIUM_PASSWORD"), "{}", none.err);
    ran(bare(&["--password-command", "true", "snapshots"])).expect(2);
    ran(bare(&["--password-command", "cat pass; exit 3", "snapshots"])).expect(1);
    ran(bare(&["-p", "missing", "snapshots"])).expect(1);
    let mut empty = bare(&["-r", "other", "init"]);
    empty.env("ALLUVIUM_PASSWORD", "");
    ran(empty).expect(2);
    assert!(!place.path("other").exists(), "nothing is made without a passphrase");
    // The command does not eat the data.
    let mut child = bare(&["--password-command", "cat; cat pass", "snapshot", "--name", "shop", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("started");
    child.stdin.take().expect("a pipe").write_all(b"data").expect("read");
    finish(child).expect(0);
    assert_eq!(place.run(&["restore", "shop"]).expect(0).out, b"data");
}

#[test]
fn a_write_only_key_writes_and_does_no_more() {
    let place = Place::with_repository();
    let mut add = place.program(&["key", "add", "--write-only", "--label", "db1"]);
    finish(add.env("ALLUVIUM_NEW_PASSWORD", "weak").spawn().expect("started")).expect(0);
    let weak = |arguments: &[&str]| {
        finish(place.program(arguments).env("ALLUVIUM_PASSWORD", "weak").spawn().expect("started"))
    };
    weak(&["snapshot", "--name", "shop", "--", "echo", "1"]).expect(0);
    for arguments in [
        &["snapshots"][..],
        &["restore", "shop"],
        &["forget", "--keep-last", "1"],
        &["prune"],
        &["check"],
        &["key", "add"],
    ] {
        weak(arguments).expect(12);
    }
    let keys = place.run(&["key", "list"]).expect(0);
    assert!(keys.text().contains("write-only  db1") && keys.text().contains("\n*  "), "{}", keys.text());
}

#[test]
fn hostile_names_are_shown_harmless_and_are_exact_in_json() {
    let place = Place::with_repository();
    let hostile_tag = "t\u{202e}ag\u{1b}]0;x\u{7}";
    let taken = place
        .run(&["snapshot", "--name", HOSTILE, "--host", HOSTILE, "--tag", hostile_tag, "--", "echo", "1"])
        .expect(0);
    taken.harmless();
    assert!(taken.text().contains(r"shop\u{1b}[2J\nid \u{202e}evil\u{200b}"), "{}", taken.text());
    fs::write(place.path(HOSTILE), "data").expect("a file system takes anything");
    place.run(&["snapshot", "--name", "files", HOSTILE]).expect(0);
    let listed = place.run(&["snapshots"]).expect(0);
    assert_eq!(listed.harmless().text().lines().count(), 4);
    for arguments in [
        &["ls", "files"][..],
        &["ls", HOSTILE],
        &["diff", HOSTILE, "files"],
        &["forget", "--keep-last", "1", "-n"],
        &["check"],
    ] {
        place.run(arguments).expect(0).harmless();
    }
    place.run(&["ls", "no\u{1b}[2Jthing"]).expect(1).harmless();
    place.run(&["restore", &format!("files:{HOSTILE}x")]).expect(1).harmless();
    let list = place.json(&["snapshots"]);
    assert_eq!(
        (&list["snapshots"][0]["source"], &list["snapshots"][0]["tags"][0]),
        (&Value::from(HOSTILE), &Value::from(hostile_tag))
    );
    assert_eq!(place.json(&["ls", "files"])["parts"][0]["name"], HOSTILE);
}

/// No reader accepts a manifest with such names, so none is written.
#[test]
fn names_that_are_too_long_are_refused() {
    let place = Place::with_repository();
    let long = "x".repeat(4097);
    let tags: Vec<String> = (0..1025).map(|n| n.to_string()).collect();
    let many: Vec<&str> = tags.iter().flat_map(|tag| ["--tag", tag]).collect();
    let take = |options: &[&str]| place.run(&[&["snapshot"], options, &["--", "echo", "1"]].concat());
    take(&["--name", &long]).expect(2);
    take(&["--name", "shop", "--tag", &long]).expect(2);
    for options in [&["--name", "shop", "--host", &long], &[&["--name", "shop"], &many[..]].concat()[..]] {
        let refused = take(options);
        assert!(refused.err.contains("nothing was published"), "{}", refused.err);
        assert!(refused.code.is_some_and(|code| code != 0));
    }
    assert_eq!(place.json(&["snapshots"])["snapshots"], serde_json::json!([]));
    take(&["--name", "shop", "--host", &long[1..]]).expect(0);
}

#[test]
fn logs_hold_no_colours_and_quiet_is_quiet() {
    let place = Place::with_repository();
    for (name, value) in [("NO_COLOR", "1"), ("CLICOLOR_FORCE", "")] {
        let ran = finish(place.program(&["ls", "nothing"]).env(name, value).spawn().expect("started")).expect(1);
        assert!(ran.harmless().err.starts_with("alluvium: no snapshot is called"), "{}", ran.err);
    }
    let mut quiet = place.run(&["-q", "snapshot", "--name", "shop", "--", "echo", "1"]).expect(0);
    quiet.out.extend(quiet.err.bytes());
    assert_eq!(quiet.text(), "");
}

#[test]
fn a_cache_that_cannot_be_is_no_reason_to_fail() {
    let place = Place::with_repository();
    fs::write(place.path("file"), "").expect("written");
    let warned = place.run(&["--cache-dir", "file/cache", "snapshots"]).expect(0);
    assert!(warned.err.contains("in memory"), "{}", warned.err);
    let homeless = finish(place.program(&["snapshots"]).env_remove("HOME").spawn().expect("started")).expect(0);
    assert!(homeless.err.contains("in memory"), "{}", homeless.err);
    place.run(&["--cache-dir", "here", "snapshots"]).expect(0);
    assert!(place.path("here").is_dir());
}

#[test]
fn completions_and_manual_pages_come_out_of_the_program() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.run(&["generate", "completions", shell]).expect(0);
        assert!(script.text().contains("keep-daily"), "{shell}");
    }
    place.run(&["generate", "man", "man"]).expect(0);
    for page in ["alluvium.1", "alluvium-snapshot.1", "alluvium-key-add.1"] {
        assert!(fs::read_to_string(place.path("man").join(page)).expect(page).contains(".SH"), "{page}");
    }
    assert!(!place.path("man/alluvium-generate.1").exists(), "hidden");
}

#[test]
fn a_second_interrupt_ends_at_once() {
    let place = Place::with_repository();
    // It ignores the polite request, so that ending cleanly would take five seconds.
    let stubborn = "trap '' TERM; echo ready >&2; while :; do sleep 0.1; done";
    let child = place.program(&["snapshot", "--name", "shop", "--", "sh", "-c", stubborn]).spawn().expect("started");
    let begun = Instant::now();
    while fs::read_dir(place.path("repository/sessions")).map_or(0, Iterator::count) < 2 {
        assert!(begun.elapsed() < Duration::from_secs(30), "no session");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    let id = rustix::process::Pid::from_child(&child);
    let interrupted = Instant::now();
    for _ in 0..2 {
        rustix::process::kill_process(id, rustix::process::Signal::INT).expect("sent");
        std::thread::sleep(Duration::from_millis(300));
    }
    let status = child.wait_with_output().expect("the program ends").status;
    assert_eq!(status.code(), Some(130));
    assert!(interrupted.elapsed() < Duration::from_secs(4), "{:?}", interrupted.elapsed());
}

/// A file system of 12 MiB that fills up for real: nothing is lost, and prune finds room to work.
#[test]
fn a_full_disk_loses_nothing_and_prune_makes_room() {
    let place = Place::new();
    fs::create_dir(place.path("disk")).expect("made");
    fs::write(place.path("small"), dump(3_000)).expect("written");
    // Noise: as long stored as it is.
    for name in ["first", "second"] {
        let mut bytes = vec![0; 6 << 20];
        getrandom::fill(&mut bytes).expect("entropy");
        fs::write(place.path(name), bytes).expect("written");
    }
    let script = r#"
        set -eu
        mount -t tmpfs -o size=12m tmpfs disk
        "$A" -q init
        "$A" -q snapshot --name shop - < first
        code=0; "$A" -q snapshot --name other - < second 2> full.txt || code=$?
        echo "full: $code"
        "$A" -q restore shop -o back
        "$A" -q check --read-data
        # Whatever is left is filled, so that there is room for nothing at all.
        dd if=/dev/zero of=disk/filler bs=4k 2> /dev/null || true
        sleep 1
        code=0; "$A" -q prune 2> prune.txt || code=$?
        echo "prune: $code"
        rm disk/filler
        "$A" -q snapshot --name small - < small
        "$A" -q check --read-data
        "$A" -q restore small -o small.back
    "#;
    let shell = |options: &[&str]| {
        let mut command = place.program(&[]);
        let environment: Vec<_> = command.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
        command = Command::new("unshare");
        command.args(options).args(["sh", "-c", script]).env_clear().current_dir(place.folder.path());
        command.envs(environment.into_iter().filter_map(|(k, v)| Some((k, v?))));
        command.env("A", env!("CARGO_BIN_EXE_alluvium")).env("ALLUVIUM_REPOSITORY", "disk/repository");
        command.output().expect("`unshare` of util-linux runs")
    };
    let mut output = shell(&["--mount"]);
    if !place.path("full.txt").exists() {
        output = shell(&["--mount", "--map-root-user"]);
    }
    let (said, problems) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{problems}");
    assert!(said.contains("full: 1"), "{said}\n{problems}");
    assert!(said.contains("prune: 0"), "{said}\n{}", fs::read_to_string(place.path("prune.txt")).unwrap_or_default());
    let full = fs::read_to_string(place.path("full.txt")).expect("messages");
    assert!(full.contains("hint") && full.contains("full"), "{full}");
    for (name, back) in [("first", "back"), ("small", "small.back")] {
        assert!(fs::read(place.path(name)).ok() == fs::read(place.path(back)).ok(), "{name} came back");
    }
}

#[test]
fn places_that_cannot_be_written_are_named() {
    let place = Place::new();
    fs::write(place.path("file"), "x").expect("written");
    let refused = place.run(&["-r", "file", "init"]).expect(1);
    assert!(refused.err.contains("file"), "{}", refused.err);
    let inside = place.run(&["-r", "file/inside", "init"]).expect(1);
    assert!(inside.err.contains("file"), "{}", inside.err);
    fs::create_dir_all(place.path("pictures/holiday")).expect("made");
    let taken = place.run(&["-r", "pictures", "init"]).expect(1);
    assert!(taken.err.contains("there is holiday") && taken.err.contains("empty folder"), "{}", taken.err);
    place.run(&["init"]).expect(0);
    let nested = place.run(&["-r", "repository/packs/more", "init"]).expect(1);
    assert!(nested.err.contains("inside the repository"), "{}", nested.err);
    place.feed(&["snapshot", "--name", "shop", "-"], b"SELECT 1;").expect(0);
    let missing = place.run(&["restore", "shop", "-o", "no/such/folder"]).expect(1);
    assert!(missing.err.contains("make it"), "{}", missing.err);
    let nowhere = place.run(&["restore", "shop", "-o", "file/inside"]).expect(1);
    assert!(nowhere.err.contains("file/inside") || nowhere.err.contains("file/"), "{}", nowhere.err);
    assert_eq!(fs::read(place.path("file")).expect("read"), b"x");
}

/// A second place for copies, in the same folder.
impl Place {
    fn with_partner(how: &str) -> Self {
        let place = Self::with_repository();
        let here = place.path("repository");
        let here = here.to_str().expect("a path");
        let mut make = place.program(&["-r", "offsite", "init"]);
        if !how.is_empty() {
            make.args([how, here]);
        }
        make.env("ALLUVIUM_PASSWORD", "offsite").env("ALLUVIUM_LIKE_PASSWORD", "correct horse");
        finish(make.spawn().expect("the program starts")).expect(0);
        place
    }

    fn sync(&self, arguments: &[&str]) -> Ran {
        let mut command = self.program(&[&["--json", "sync", "offsite"], arguments].concat());
        finish(command.env("ALLUVIUM_TO_PASSWORD", "offsite").spawn().expect("the program starts"))
    }
}

#[test]
fn sync_copies_once_and_both_sides_give_the_same() {
    for how in ["--twin", "--like", ""] {
        let place = Place::with_partner(how);
        let data = dump(20_000);
        place.feed(&["snapshot", "--name", "shop", "-"], &data).expect(0);
        let planned: Value =
            serde_json::from_slice(&place.sync(&["-n", "--limit-upload", "1G"]).expect(0).out).expect("a document");
        assert_eq!((&planned["dry_run"], &planned["plan"]["snapshots"]), (&Value::from(true), &Value::from(1)));
        let synced: Value = serde_json::from_slice(&place.sync(&[]).expect(0).out).expect("a document");
        let copied = synced["copied"].as_array().expect("a list");
        assert_eq!((copied.len(), synced["already"].as_u64()), (1, Some(0)), "{how}: {synced}");
        for field in ["failed", "removed", "problems"] {
            assert_eq!(synced[field], serde_json::json!([]), "{how}: {field}");
        }
        let again: Value = serde_json::from_slice(&place.sync(&["--mirror"]).expect(0).out).expect("a document");
        assert_eq!((again["copied"].as_array().map(Vec::len), again["already"].as_u64()), (Some(0), Some(1)), "{how}");
        // By its own id and by its original's; with a cache of its own, since twins have one id.
        let original = copied[0]["original"]["snapshot"].as_str().expect("an id");
        for name in [copied[0]["id"].as_str().expect("an id"), original, "shop"] {
            let mut restore = place.program(&["-r", "offsite", "--cache-dir", "other", "restore", name]);
            let ran = finish(restore.env("ALLUVIUM_PASSWORD", "offsite").spawn().expect("the program starts"));
            assert!(ran.expect(0).out == data, "{how}: {name}");
        }
    }
}

#[test]
fn sync_asks_for_what_it_lacks_and_names_what_it_could_not_copy() {
    let place = Place::with_partner("--like");
    place.feed(&["snapshot", "--name", "shop", "-"], &dump(20_000)).expect(0);
    let refused = place.run(&["sync", "offsite"]).expect(2);
    assert!(refused.err.contains("--to-password-file"), "{refused:?}");
    place.run(&["sync", "nowhere"]).expect(10);
    place.run(&["sync", "repository"]).expect(2);
    place.run(&["sync", "offsite", "--mirror", "--shard", "1/2"]).expect(2);
    place.run(&["sync", "offsite", "--mirror-anyway"]).expect(2);
    place.packs().iter().for_each(|pack| damage(pack));
    let ran = place.sync(&[]).expect(3);
    let document: Value = serde_json::from_slice(&ran.out).expect("a document");
    assert_eq!(document["failed"].as_array().map(Vec::len), Some(1), "{document}");
    assert!(document["problems"][0]["object"].as_str().is_some_and(|o| o.starts_with("packs/")), "{document}");
}

#[test]
fn shards_of_a_check_are_merged() {
    let place = Place::with_repository();
    place.feed(&["snapshot", "--name", "shop", "-"], &dump(20_000)).expect(0);
    for part in 1..=2 {
        let shard = format!("{part}/2");
        let ran = place.run(&["--json", "check", "--read-data", "--shard", &shard]).expect(0);
        fs::write(place.path(&format!("{part}.json")), &ran.out).expect("written");
    }
    let mut merge = place.program(&["--json", "check", "--merge-results", "1.json", "2.json"]);
    merge.env_remove("ALLUVIUM_REPOSITORY").env_remove("ALLUVIUM_PASSWORD");
    let merged: Value = serde_json::from_slice(&finish(merge.spawn().expect("starts")).expect(0).out).expect("JSON");
    assert_eq!((&merged["shards"], &merged["packs"]), (&Value::from(2), &merged["packs_total"]), "{merged}");
    assert!(place.run(&["check", "--merge-results", "1.json"]).expect(1).err.contains("missing: 2"));
    fs::write(place.path("bad.json"), "{}").expect("written");
    place.run(&["check", "--merge-results", "bad.json"]).expect(1);
}

/// Somebody puts last week's copy of the repository back: every command that would be taken in says so.
#[test]
fn an_older_state_than_was_seen_is_told_until_it_is_accepted() {
    let place = Place::with_repository();
    place.feed(&["snapshot", "--name", "shop", "-"], &dump(2000)).expect(0);
    place.copy("repository", "last-week");
    let newer = place.feed(&["--json", "snapshot", "--name", "shop", "-"], &dump(3000)).expect(0);
    let newer: Value = serde_json::from_slice(&newer.out).expect("JSON");
    let lost = format!("snapshots/{}", newer["id"].as_str().expect("an id"));
    place.run(&["snapshots"]).expect(0);
    place.copy("repository", "today");
    place.put_back("last-week");
    for command in [&["snapshots"][..], &["check"], &["--json", "snapshots"]] {
        let told = place.run(command).expect(13);
        let told = format!("{}{}", told.text(), told.err);
        assert!(told.contains(&lost) && told.contains("older state"), "{command:?}: {told}");
    }
    let told = place.feed(&["snapshot", "--name", "shop", "-"], &dump(2000)).expect(13);
    assert!(told.err.contains(&lost), "stored and told: {}", told.err);
    // Whoever restores the newest learns that there was a newer one; it keeps nobody from what there is.
    place.put_back("last-week");
    let restored = place.run(&["restore", "shop"]).expect(0);
    assert!(restored.out == dump(2000) && restored.err.contains(&lost), "{}", restored.err);
    place.put_back("today");
    assert_eq!(place.run(&["snapshots"]).expect(0).err, "", "what was missing is there again");
    place.put_back("last-week");
    place.run(&["check", "--accept-older-state"]).expect(0);
    place.run(&["snapshots"]).expect(0);
}

/// A key epoch that was seen stays: whoever puts back a copy from before `key rotate` would have new
/// data sealed to secrets that a removed passphrase gives.
#[test]
fn a_key_epoch_that_was_seen_and_is_gone_is_refused_until_it_is_accepted() {
    let place = Place::with_repository();
    place.run(&["snapshot", "--name", "shop", "--", "echo", "1"]).expect(0);
    place.copy("repository", "before");
    place.run(&["key", "rotate"]).expect(0);
    place.run(&["snapshots"]).expect(0);
    place.put_back("before");
    let snapshot = ["snapshot", "--name", "shop", "--", "echo", "2"];
    let manifests = || fs::read_dir(place.path("repository/snapshots")).expect("a folder").count();
    // A listing reports it, and does not make it forgotten.
    for command in [&["snapshots"][..], &["check"], &["snapshots"]] {
        let told = place.run(command).expect(13);
        let told = format!("{}{}", told.text(), told.err);
        assert!(told.contains("epochs/00000002") && told.contains("older state"), "{command:?}: {told}");
    }
    let refused = place.run(&snapshot).expect(13);
    assert!(refused.err.contains("epochs/00000002") && refused.err.contains("was seen here"), "{}", refused.err);
    assert!(refused.err.contains("--accept-older-state"), "{}", refused.err);
    assert_eq!(manifests(), 1);
    assert_eq!(place.run(&["restore", "shop"]).expect(0).out, b"1\n");
    place.run(&["check", "--accept-older-state"]).expect(0);
    assert_eq!(place.run(&snapshot).expect(0).err, "");
    assert_eq!(manifests(), 2);
}

/// A second passphrase goes on with the series of the first, and is distrusted.
#[test]
fn authors_are_shown_and_distrust_is() {
    let place = Place::with_repository();
    let as_other = |arguments: &[&str]| {
        let mut program = place.program(arguments);
        finish(program.env("ALLUVIUM_PASSWORD", "stolen").spawn().expect("started"))
    };
    let mut add = place.program(&["key", "add", "--label", "other"]);
    finish(add.env("ALLUVIUM_NEW_PASSWORD", "stolen").spawn().expect("started")).expect(0);
    place.run(&["snapshot", "--name", "shop", "--", "echo", "1"]).expect(0);
    assert_eq!(place.run(&["check"]).expect(0).err.matches("another passphrase").count(), 0);
    let noted = as_other(&["snapshot", "--name", "shop", "--", "echo", "2"]).expect(0);
    assert!(noted.err.contains("was taken with another passphrase:"), "{}", noted.err);
    let warning = "was taken with another passphrase than the one before";
    let told = place.run(&["snapshots"]).expect(0);
    assert!(told.err.contains(warning) && told.err.contains("(full, `other`), was"), "{}", told.err);
    let mut lines = told.text().lines().filter(|line| line.contains("shop"));
    let other: Vec<bool> = lines.by_ref().map(|line| line.contains("  other")).collect();
    assert_eq!(other, [false, true], "{}", told.text());
    assert_eq!(place.run(&["check"]).expect(0).err.matches(warning).count(), 1);
    let snapshots = || {
        let document = place.run(&["--json", "snapshots"]).expect(0).out;
        let document: Value = serde_json::from_slice(&document).expect("a document");
        document["snapshots"].as_array().expect("a list").clone()
    };
    let keys = place.json(&["key", "list"])["keys"].clone();
    let other = keys.as_array().expect("a list").iter().find(|key| key["label"] == "other").expect("a key").clone();
    let author = &snapshots()[1]["author"];
    assert_eq!((&author["slot"], &author["label"], &author["kind"]), (&other["id"], &other["label"], &other["kind"]));
    assert_eq!(other["distrusted_since"], Value::Null);

    let id = other["id"].as_str().expect("an id");
    let distrust = |since: &str| place.json(&["key", "distrust", id, "--since", since]);
    let flags = || snapshots().iter().map(|s| s["distrusted"].as_bool().expect("a flag")).collect::<Vec<_>>();
    assert_eq!(distrust("2199-01-01T00:00:00Z")["snapshots"], serde_json::json!([]));
    assert_eq!(flags(), [false, false]);
    let restored = place.run(&["restore", "shop"]).expect(0);
    assert!(restored.out == b"2\n" && restored.err.contains("the newest of"), "{}", restored.err);
    assert_eq!(distrust("2020-01-01T00:00:00Z")["snapshots"], serde_json::json!([snapshots()[1]["id"]]));
    assert_eq!(flags(), [false, true]);
    assert_eq!(place.run(&["restore", "shop"]).expect(0).out, b"1\n");
    let listed = place.run(&["snapshots"]).expect(0);
    let marked: Vec<bool> =
        listed.text().lines().filter(|line| line.contains("shop")).map(|line| line.ends_with("distrusted")).collect();
    assert_eq!(marked, [false, true], "{}", listed.text());
    let listed = place.run(&["key", "list"]).expect(0);
    let marked: Vec<&str> = listed.text().lines().filter(|line| line.contains("distrusted since 2020-01-01")).collect();
    assert!(marked.len() == 1 && marked[0].contains("other"), "{}", listed.text());
    let keys = place.json(&["key", "list"])["keys"].clone();
    let since: Vec<&Value> = keys.as_array().expect("a list").iter().map(|key| &key["distrusted_since"]).collect();
    assert_eq!(since, [&Value::Null, &Value::from("2020-01-01T00:00:00Z")]);
    as_other(&["key", "distrust", id, "--since", "2020-01-01"]).expect(2);
    place.run(&["key", "distrust", id, "--since", "yesterdayish"]).expect(2);
}

impl Place {
    /// Takes snapshots of `shop` with clocks that say these seconds.
    fn take_at(&self, seconds: &[i64]) -> Vec<String> {
        let world = crate::support::World::new(7);
        let storage = alluvium::storage::local::Local::open(self.path("repository")).expect("a repository");
        let repo = crate::support::open_with(storage, &world, b"correct horse").expect("open");
        let mut clock = alluvium::env::Env::now(world.as_ref()).as_second();
        let mut take = |second: &i64| {
            world.pass(jiff::SignedDuration::from_secs(second - clock));
            clock = *second;
            crate::support::take(&repo, "shop", &dump(100)).expect("take").id.to_string()
        };
        seconds.iter().map(&mut take).collect()
    }
}

/// The second of three was taken with a clock that was eleven years ahead.
#[test]
fn a_time_that_contradicts_the_chain_is_shown_and_reported() {
    let place = Place::with_repository();
    let (first, ahead, last) = (1_577_836_800, 1_924_992_000, 1_577_923_200);
    let ids = place.take_at(&[first, ahead, last]);
    let listed = place.run(&["snapshots"]).expect(0);
    let lines: Vec<&str> = listed.text().lines().filter(|line| line.contains("shop")).collect();
    let marked: Vec<bool> = lines.iter().map(|line| line.contains("clock?")).collect();
    assert_eq!(marked, [false, true, false], "{}", listed.text());
    assert!(lines[1].contains("2031-01-01"), "what it says is shown: {}", lines[1]);
    assert_eq!(listed.err.matches("a clock was wrong").count(), 1, "{}", listed.err);
    let document: Value =
        serde_json::from_slice(&place.run(&["--json", "snapshots"]).expect(0).out).expect("a document");
    let snapshots = document["snapshots"].as_array().expect("a list");
    let order: Vec<&str> = snapshots.iter().map(|s| s["id"].as_str().expect("an id")).collect();
    assert_eq!(order, ids, "in the order of the chain");
    assert_eq!(snapshots[1]["effective_time"], "2020-01-01T00:00:00Z");
    assert_eq!(snapshots[1]["time_contradicts"]["neighbour"], ids[2].as_str());
    assert_eq!(snapshots[0]["time_contradicts"], Value::Null);
    assert_eq!(snapshots[1]["sequence"], ahead);
    assert_eq!(snapshots[2]["sequence"], ahead + 1);
    // Not damage.
    assert_eq!(place.run(&["check"]).expect(0).err.matches("a clock was wrong").count(), 1);
    // While the newest is the one from the future, whoever takes the next is warned.
    let place = Place::with_repository();
    place.take_at(&[253_000_000_000]);
    let warned = place.feed(&["snapshot", "--name", "shop", "--host", "host", "-"], &dump(100)).expect(0);
    assert!(warned.err.contains("this machine's clock says"), "{}", warned.err);
    let quiet = place.feed(&["snapshot", "--name", "shop", "--host", "host", "-"], &dump(100)).expect(0);
    assert!(!quiet.err.contains("this machine's clock says"), "{}", quiet.err);
}

#[test]
fn a_sync_of_an_older_source_says_13_and_removes_nothing() {
    let place = Place::with_partner("--twin");
    let mut last = String::new();
    for n in 0..3 {
        let taken = place.feed(&["--json", "snapshot", "--name", "shop", "-"], &dump(1000 + n)).expect(0);
        let taken: Value = serde_json::from_slice(&taken.out).expect("a document");
        taken["id"].as_str().expect("an id").clone_into(&mut last);
    }
    place.sync(&[]).expect(0);
    fs::remove_file(place.path(&format!("repository/snapshots/{last}"))).expect("removed");
    for options in [&[][..], &["--mirror"], &["--mirror", "--mirror-anyway"]] {
        let ran = place.sync(options).expect(13);
        let document: Value = serde_json::from_slice(&ran.out).expect("a document");
        assert_eq!(document["older_than_seen"][0]["object"], format!("snapshots/{last}"), "{document}");
        assert_eq!(document["removed"], serde_json::json!([]));
    }
    // A machine that has not seen the newest can't know that; nothing explains that it was
    // forgotten.
    let mut elsewhere = place.program(&["--json", "--cache-dir", "elsewhere", "sync", "offsite", "--mirror"]);
    let ran = finish(elsewhere.env("ALLUVIUM_TO_PASSWORD", "offsite").spawn().expect("the program starts")).expect(3);
    let document: Value = serde_json::from_slice(&ran.out).expect("a document");
    assert_eq!(document["kept"][0]["original"]["snapshot"], last.as_str(), "{document}");
    // A person says that it is right.
    place.run(&["check", "--accept-older-state"]).expect(0);
    let document: Value = serde_json::from_slice(&place.sync(&["--mirror"]).expect(0).out).expect("a document");
    assert_eq!(document["removed"][0]["original"]["snapshot"], last.as_str(), "{document}");
}

/// Writing to another repository than before fails until a person says that it is right; reading
/// goes on.
#[test]
fn another_repository_in_the_place_of_the_one_before_is_refused() {
    let place = Place::with_repository();
    place.feed(&["snapshot", "--name", "shop", "-"], &dump(1000)).expect(0);
    // Made elsewhere, and put in its place.
    place.run(&["-r", "other", "init"]).expect(0);
    place.feed(&["-r", "other", "snapshot", "--name", "shop", "-"], &dump(2000)).expect(0);
    fs::rename(place.path("repository"), place.path("first")).expect("renamed");
    fs::rename(place.path("other"), place.path("repository")).expect("renamed");
    let refused = place.feed(&["snapshot", "--name", "shop", "-"], &dump(1000)).expect(13);
    assert!(refused.err.contains("another repository than before stands at"), "{}", refused.err);
    assert!(refused.err.contains("--accept-older-state"), "{}", refused.err);
    place.run(&["prune"]).expect(13);
    place.run(&["forget", "--keep-last", "1", "--prune"]).expect(13);
    place.run(&["key", "add", "--new-password-command", "echo another"]).expect(13);
    let listed = place.run(&["snapshots"]).expect(0);
    assert!(listed.err.contains("another repository than before"), "{}", listed.err);
    let restored = place.run(&["restore", "shop"]).expect(0);
    assert!(restored.out == dump(2000) && restored.err.contains("another repository than before"), "{}", restored.err);
    place.run(&["check"]).expect(13);
    place.run(&["check", "--accept-older-state"]).expect(0);
    place.feed(&["snapshot", "--name", "shop", "-"], &dump(2000)).expect(0);
    // One that this machine makes itself is known.
    fs::remove_dir_all(place.path("repository")).expect("removed");
    place.run(&["init"]).expect(0);
    assert_eq!(place.feed(&["snapshot", "--name", "shop", "-"], &dump(1000)).expect(0).err, "");
}

/// A file-size limit is like a full disk: the cache goes on in memory, with a warning, and nothing is killed.
#[test]
fn a_limit_of_file_sizes_costs_the_cache_alone() {
    let place = Place::with_repository();
    let input: Vec<u8> = (0..2000).flat_map(|n| format!("row {n}\n").into_bytes()).collect();
    place.feed(&["snapshot", "--name", "shop", "-"], &input).expect(0);
    fs::remove_dir_all(place.path("home")).expect("the cache goes");
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 4; exec \"$0\" restore shop", env!("CARGO_BIN_EXE_alluvium")]);
    limited.env_clear().current_dir(place.folder.path());
    limited.envs(place.program(&[]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ran = finish(limited.spawn().expect("sh starts")).expect(0);
    assert!(ran.out == input && ran.err.contains("kept in memory"), "{}", ran.err);
}

/// A pipe in the cache folder is not waited for, whatever it stands in the place of.
#[test]
fn pipes_in_the_cache_folder_are_not_waited_for() {
    let place = Place::with_repository();
    place.feed(&["snapshot", "--name", "shop", "-"], b"1\n").expect(0);
    let mut files: Vec<PathBuf> = Vec::new();
    let mut folders = vec![place.path("home")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() { folders.push(entry) } else { files.push(entry) }
        }
    }
    let memories: Vec<&PathBuf> =
        files.iter().filter(|file| !file.to_string_lossy().contains("index.sqlite")).collect();
    assert!(memories.len() >= 4, "{files:?}");
    for memory in memories {
        fs::remove_file(memory).expect("removed");
        assert!(Command::new("mkfifo").arg(memory).status().expect("mkfifo").success());
        let mut child = place.program(&["restore", "shop"]).spawn().expect("started");
        let ended = (0..600).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            child.try_wait().expect("asked").is_some()
        });
        if !ended {
            child.kill().expect("killed");
        }
        let ran = finish(child);
        assert!(ended && ran.out == b"1\n", "{}: {ran:?}", memory.display());
        fs::remove_file(memory).expect("removed");
    }
}

/// The first repository of a machine is remembered by its address although the cache folder is new.
#[test]
fn a_new_cache_folder_remembers_the_first_repository() {
    let place = Place::new();
    let ran = place.run(&["init"]).expect(0);
    assert!(!ran.err.contains("remembered"), "{}", ran.err);
    fs::remove_dir_all(place.path("repository")).expect("removed");
    place.run(&["--cache-dir", "elsewhere", "init"]).expect(0);
    let refused = place.feed(&["snapshot", "--name", "shop", "-"], b"1\n").expect(13);
    assert!(refused.err.contains("another repository than before"), "{}", refused.err);
}
