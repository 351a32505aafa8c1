//! Real dumps of a real `PostgreSQL`: dump, snapshot, restore, load, dump again, compare. A private server on a Unix
//! socket in a temporary folder; where the tests run as root it runs as user `postgres`. `./test.sh` installs it; where
//! it is missing these tests fail.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use alluvium::env::Cancel;
use alluvium::error::{Error, Kind};
use alluvium::format::manifest::SourceKind;
use alluvium::ops::check::{Subset, check};
use alluvium::ops::restore::{Target, restore};
use alluvium::ops::select::Wanted;
use alluvium::ops::snapshot::{Source, Taken, snapshot};
use alluvium::repo::{InitOptions, Repository};
use alluvium::report::{Collect, Silent};
use alluvium::storage::local::Local;
use jiff::SignedDuration;
use tempfile::TempDir;

use crate::support::{CHEAP, PASSPHRASE, World, options};

/// Makes two dumps of the same data equal: newer releases write a random token otherwise.
const RESTRICT_KEY: &str = "--restrict-key=alluvium";

struct Server {
    folder: TempDir,
    programs: PathBuf,
}

impl Server {
    fn start() -> Self {
        let programs = std::fs::read_dir("/usr/lib/postgresql")
            .expect("PostgreSQL's server programs are missing: run ./test.sh, which installs them")
            .filter_map(|e| Some(e.ok()?.path().join("bin")))
            .filter(|bin| bin.join("initdb").exists())
            .max()
            .expect("PostgreSQL's server programs are missing: run ./test.sh, which installs them");
        let folder = tempfile::tempdir().expect("tempdir");
        let server = Self { folder, programs };
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(server.folder.path()));
        }
        let data = server.data();
        run(server.as_owner("initdb").args(["-D", &data, "-A", "trust", "-U", "postgres", "-N", "--locale=C.UTF-8"]));
        let settings = format!("-c listen_addresses='' -c unix_socket_directories='{}' -c fsync=off", server.socket());
        let log = server.folder.path().join("log").display().to_string();
        run(server.as_owner("pg_ctl").args(["-D", &data, "-l", &log, "-w", "-o", &settings, "start"]));
        server
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    fn socket(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// A server program, run by who owns the data.
    fn as_owner(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program).current_dir("/");
            command
        } else {
            Command::new(program)
        }
    }

    fn psql(&self, database: &str, sql: &str) {
        run(Command::new("psql").args([
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            &self.socket(),
            "-U",
            "postgres",
            "-d",
            database,
            "-c",
            sql,
        ]));
    }

    /// Loads a dump as a restore at night would.
    fn load(&self, database: &str, dump: &Path) {
        self.psql("postgres", &format!("create database {database}"));
        let file = dump.display().to_string();
        run(Command::new("psql").args([
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            &self.socket(),
            "-U",
            "postgres",
            "-d",
            database,
            "-f",
            &file,
        ]));
    }

    fn dump_command(&self, database: &str, more: &[&str]) -> Vec<String> {
        let socket = self.socket();
        ["pg_dump", "-h", &socket, "-U", "postgres"]
            .iter()
            .chain(more)
            .chain(&[database])
            .map(ToString::to_string)
            .collect()
    }

    fn dump(&self, database: &str) -> Vec<u8> {
        let command = self.dump_command(database, &[RESTRICT_KEY]);
        run(Command::new(&command[0]).args(&command[1..])).stdout
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.data();
        let _ = self
            .as_owner("pg_ctl")
            .args(["-D", &data, "-m", "immediate", "stop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

fn is_root() -> bool {
    run(Command::new("id").arg("-u")).stdout == b"0\n"
}

fn run(command: &mut Command) -> Output {
    // pg_ctl leaves its output to the server: inherited pipes would be waited for.
    let starts = command.get_args().any(|a| a == "start");
    if starts {
        let status =
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        assert!(status.success(), "{command:?}: {status}");
        return Output { status, stdout: Vec::new(), stderr: Vec::new() };
    }
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Types that dumps write in odd ways, and names that nobody should use.
const SCHEMA: &str = r#"
create table customer(id bigint primary key, email text, note text, created timestamptz, loyalty numeric(12,4), prefs jsonb);
create table "odd
name BIDI with
	everything"(id serial primary key, data bytea, tags text[], at interval, v double precision);
create table orders(id bigserial primary key, customer_id bigint references customer, total numeric(12,2), placed date);
create index on orders(customer_id);
create view spending as select customer_id, sum(total) from orders group by 1;
insert into customer select i, 'user'||i||'@example.com', case when i%7=0 then E'tab\there\nand a line \\. end' end, '2026-01-01'::timestamptz+i*interval '1 min', i/3.0, jsonb_build_object('n',i) from generate_series(1,20000) i;
insert into "odd
name BIDI with
	everything"(data,tags,at,v) select decode(md5(i::text),'hex'), array['a',null,'"x"'], i*interval '1 sec', case when i%3=0 then 'NaN' else random() end from generate_series(1,5000) i;
insert into orders(customer_id,total,placed) select 1+i%20000, i/100.0, '2026-01-01'::date+i%300 from generate_series(1,60000) i;
"#;

const DAY: &str = "
insert into orders(customer_id,total,placed) select 1+i%20000, i/10.0, '2026-11-01' from generate_series(1,600) i;
update customer set loyalty=loyalty+1 where id%1000=3;
delete from orders where id in (select id from orders order by id limit 50);
";

fn repository(folder: &Path, world: &Arc<World>) -> Repository {
    let storage = Local::create(folder.join("repository")).expect("storage");
    let sizes = InitOptions { chunk_bytes: 16 << 10, kdf: CHEAP, ..InitOptions::default() };
    Repository::init(&storage, world.as_ref(), PASSPHRASE, "", sizes).expect("init");
    Repository::open(Arc::new(storage), Arc::clone(world) as _, PASSPHRASE, Some(&folder.join("cache"))).expect("open")
}

/// A dump's lines in order of their text: loading may put a row into another page, and so elsewhere in the next dump.
fn rows(dump: &[u8]) -> Vec<&[u8]> {
    let mut rows: Vec<&[u8]> = dump.split(|b| *b == b'\n').collect();
    rows.sort_unstable();
    rows
}

fn take_command(repo: &Repository, command: Vec<String>) -> Result<Taken, Error> {
    snapshot(repo, Source::Command(command), &options("shop"), &Silent, &Cancel::new())
}

#[test]
fn days_of_a_real_database_come_back() {
    let server = Server::start();
    server.psql("postgres", "create database shop");
    server.psql("shop", &SCHEMA.replace("BIDI", "\u{202e}"));
    let folder = tempfile::tempdir().expect("tempdir");
    let world = World::new(31);
    let repo = repository(folder.path(), &world);
    let mut days = Vec::new();
    for day in 0..3 {
        if day > 0 {
            server.psql("shop", DAY);
        }
        let taken = take_command(&repo, server.dump_command("shop", &[RESTRICT_KEY])).expect("take");
        assert_eq!(
            repo.snapshot(taken.id).expect("snapshot").manifest.kind,
            SourceKind::Command { program: "pg_dump".into() }
        );
        days.push((taken, server.dump("shop")));
        world.pass(SignedDuration::from_hours(24));
    }
    let added = |day: usize| days[day].0.stored.new_bytes;
    assert!(added(1) * 2 < added(0), "a day costs a fraction: {} after {}", added(1), added(0));
    for (number, (taken, dump)) in days.iter().enumerate() {
        let file = folder.path().join(format!("{number}.sql"));
        let found = repo.snapshot(taken.id).expect("snapshot");
        restore(
            &repo,
            &found,
            &Wanted::Whole,
            Target::Path { path: &file, overwrite: false },
            96 << 20,
            &Silent,
            &Cancel::new(),
        )
        .expect("restore");
        assert!(std::fs::read(&file).expect("read") == *dump, "day {number} restores byte for byte");
        let database = format!("restored_{number}");
        server.load(&database, &file);
        let again = server.dump(&database);
        assert!(rows(&again) == rows(dump), "day {number}, loaded and dumped again, is the same database");
    }
    assert!(check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check").problems.is_empty());
}

#[test]
fn a_dump_that_fails_is_no_snapshot() {
    let server = Server::start();
    server.psql("postgres", "create database shop");
    server.psql("shop", &SCHEMA.replace("BIDI", "\u{202e}"));
    let folder = tempfile::tempdir().expect("tempdir");
    let world = World::new(32);
    let repo = repository(folder.path(), &world);
    let missing = take_command(&repo, server.dump_command("no_such_database", &[])).expect_err("refused");
    assert_eq!(missing.kind(), Kind::Source);
    assert!(missing.to_string().contains("does not exist"), "the server's words are in the message: {missing}");
    // Cut off in the middle, and every exit status says that all is well.
    let cut = format!("{} | head -c 300000", server.dump_command("shop", &[]).join(" "));
    let cut_off = take_command(&repo, vec!["sh".into(), "-c".into(), cut]).expect_err("refused");
    assert!(cut_off.to_string().contains("PostgreSQL database dump complete"), "{cut_off}");
    // Ended half-way by somebody.
    let killed = format!("{}; kill -9 $$", server.dump_command("shop", &[]).join(" "));
    let killed = take_command(&repo, vec!["sh".into(), "-c".into(), killed]).expect_err("refused");
    assert!(killed.to_string().contains("SIGKILL") || killed.to_string().contains("signal"), "{killed}");
    assert!(repo.snapshots().expect("snapshots").0.is_empty());
}

#[test]
fn a_compressed_dump_is_recognised() {
    let server = Server::start();
    server.psql("postgres", "create database shop");
    server.psql("shop", "create table t as select i, md5(i::text) from generate_series(1,20000) i");
    let folder = tempfile::tempdir().expect("tempdir");
    let world = World::new(33);
    let repo = repository(folder.path(), &world);
    for (format, warned) in [(&["-Fc"][..], true), (&["-Fc", "-Z0"], false), (&["-Fp"], false)] {
        let report = Collect::default();
        let source = Source::Command(server.dump_command("shop", format));
        snapshot(&repo, source, &options("shop"), &report, &Cancel::new()).expect("take");
        let warnings: BTreeSet<String> = report.warnings().into_iter().filter(|w| w.contains("dedup")).collect();
        assert_eq!(!warnings.is_empty(), warned, "{format:?}: {warnings:?}");
        assert!(!warned || warnings.iter().any(|w| w.contains("-Z0")), "the option that helps is named: {warnings:?}");
    }
}
