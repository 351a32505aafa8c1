//! Real dumps of a real `PostgreSQL`: dump, snapshot, restore, load, dump again, compare. A private server on a Unix
//! socket in a temporary folder; where the tests run as root it runs as user `postgres`. `./test.sh` installs it; where
//! it is missing these tests fail.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use alluvium::env::Cancel;
use alluvium::error::{Error, Kind};
use alluvium::format::manifest::{PartKind, SourceKind};
use alluvium::ops::check::{Subset, check};
use alluvium::ops::restore::{Target, restore};
use alluvium::ops::select::Wanted;
use alluvium::ops::snapshot::{Source, Taken, snapshot};
use alluvium::repo::{InitOptions, Repository};
use alluvium::report::{Collect, Silent};
use alluvium::storage::local::Local;
use jiff::SignedDuration;
use tempfile::TempDir;

use crate::support::{CHEAP, PASSPHRASE, World, indexed, options, part_called, parts_of, restored, take, wanted};

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
            &indexed(&repo),
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

/// A physical backup: the data folder as a stream of `tar`, whose members are cut at the pages that the server writes.
#[test]
fn a_base_backup_costs_the_pages_that_changed() {
    let server = Server::start();
    server.psql("postgres", "create database shop");
    server.psql("shop", &SCHEMA.replace("BIDI", "\u{202e}"));
    server.psql("shop", "vacuum");
    let folder = tempfile::tempdir().expect("tempdir");
    let world = World::new(34);
    let repo = repository(folder.path(), &world);
    let mut days = Vec::new();
    for day in 0..2 {
        let backup = run(Command::new("pg_basebackup")
            .args(["-h", &server.socket(), "-U", "postgres", "-D", "-"])
            .args(["-Ft", "-X", "none", "--no-manifest", "-c", "fast"]))
        .stdout;
        let taken = take(&repo, "base", &backup).expect("take");
        days.push((taken, backup));
        world.pass(SignedDuration::from_hours(24));
        if day == 0 {
            server.psql("shop", "update customer set loyalty=loyalty+1 where id between 4000 and 4010; checkpoint");
        }
    }
    for (taken, backup) in &days {
        let found = repo.snapshot(taken.id).expect("snapshot");
        assert!(restored(&repo, &found).expect("restore") == *backup);
        let parts = parts_of(&repo, &found);
        let relations: Vec<_> = parts.iter().filter(|part| part.name.object.starts_with("base/")).collect();
        assert!(relations.len() > 20 && parts.iter().all(|part| part.kind == PartKind::Stream));
        // Data files, and visibility and free space maps, are pages behind one header.
        let reader = repo.index_to_read(&Silent).expect("index");
        let reader = alluvium::repo::reader::Reader::new(&reader).expect("reader");
        for part in relations {
            let chunks: Vec<_> = reader.entries(&part.recipe).collect::<Result<_, _>>().expect("entries");
            let mut at = 0;
            for chunk in &chunks[..chunks.len() - 1] {
                at += u64::from(chunk.len);
                assert_eq!(at % 8192, 512, "{}", part.name);
            }
        }
    }
    let [first, second] = [0, 1].map(|day: usize| days[day].0.stored);
    assert!(second.new_bytes * 10 < first.new_bytes && second.stored_bytes * 20 < first.stored_bytes);
}

// ---- one table -------------------------------------------------------------------------------

/// What a table may consist of, and what could be taken for a table.
const TABLES: &str = r#"
create schema "Sales";
create type mood as enum ('good', 'COPY public.fake (a) FROM stdin;');
create domain positive as integer check (value > 0);
create function shout(t text) returns text language plpgsql immutable as $f$
begin
  /* dumps in functions:
COPY public.fake (a) FROM stdin;
1
\.
  */
  return upper(t);
end $f$;
create function touch() returns trigger language plpgsql as $$ begin new.at := now(); return new; end $$;
create table customer (id bigint primary key, name text);
create table every_type (
  id int generated always as identity primary key, serial_too serial, customer_id bigint references customer, other int references every_type,
  b boolean, i2 smallint, i8 bigint, n numeric(20,5), r real, d double precision, m money, c char(5), vc varchar(20), t text,
  by bytea, day date, clock time, zoned timetz, at timestamptz, span interval, u uuid, ip inet, net cidr, mac macaddr,
  bits bit(5), vbits varbit, p point, l line, box box, path path, poly polygon, circle circle, j json, jb jsonb, x xml,
  ar int[], deep text[][], range int4range, spans tstzmultirange, ts tsvector, q tsquery, mood mood default 'good',
  positive positive, doubled bigint generated always as (i8 * 2) stored, shouted text generated always as (shout(t)) stored,
  unique (i8), check (i2 > 0), exclude using gist (range with &&)
);
create index on every_type (lower(t)) where b;
create index "Odd Index" on every_type using gin (jb);
create trigger touched before update on every_type for each row execute function touch();
alter table every_type enable row level security;
create policy own on every_type for select using (b);
comment on table every_type is 'a table; with ''everything''';
comment on column every_type.t is 'text';
create statistics every_stats on i2, i8 from every_type;
insert into customer select i, 'c' || i from generate_series(1, 50) i;
insert into every_type (customer_id, other, b, i2, i8, n, r, d, m, c, vc, t, by, day, clock, zoned, at, span, u, ip, net, mac, bits, vbits,
  p, l, box, path, poly, circle, j, jb, x, ar, deep, range, spans, ts, q, mood, positive)
  select i, nullif(1, i), i % 2 = 0, i, i * 1000, i / 7.0, i / 3.0, case when i % 5 = 0 then 'NaN' else 1.0 / i end, i, 'x', 'v' || i,
  case i % 4 when 0 then null when 1 then E'tab\there\r\nline \\. end' when 2 then '' else E'\\N' end, decode(md5(i::text), 'hex'),
  date '2026-01-01' + i, time '01:02:03.456' + i * interval '1 s', timetz '01:02:03+02', timestamptz '2026-01-01 00:00:00.123456+00' + i * interval '1 h',
  i * interval '1 month 2 s', md5(i::text)::uuid, '10.0.0.1'::inet + i, '10.1.0.0/16', '08:00:2b:01:02:03', b'10101', b'101',
  point(i, 2), '{1,2,3}', '(1,1),(0,0)', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))', '<(0,0),5>', json_build_object('k', i), jsonb_build_object('k', i),
  '<a>b</a>', array[i, null], array[['a', '"b"'], ['{', ',']], int4range(i * 10, i * 10 + 5), '{[2026-01-01 00:00+00, 2026-01-02 00:00+00)}',
  to_tsvector('simple', 'a b ' || i), 'a & b'::tsquery, 'good', i from generate_series(1, 50) i;
create table measure (day date not null, v int, primary key (day)) partition by range (day);
create table measure_1 partition of measure for values from ('2026-01-01') to ('2026-02-01');
create table "Sales"."measure 2" partition of measure for values from ('2026-02-01') to ('2026-03-01');
create index on measure (v);
insert into measure select date '2026-01-01' + i, i from generate_series(0, 58) i;
create view seen as select id, t from every_type;
create materialized view counted as select count(*) from every_type;
create rule silent as on delete to customer do also (select 1; select 2);
select lo_from_bytea(0, decode(repeat('00ff5c2e0a', 1000), 'hex')) from generate_series(1, 3);
"#;

#[test]
fn one_table_of_a_real_database_comes_back() {
    let server = Server::start();
    server.psql("postgres", "create database shop");
    server.psql("shop", TABLES);
    let folder = tempfile::tempdir().expect("tempdir");
    let world = World::new(34);
    let repo = repository(folder.path(), &world);
    for (i, more) in
        [&[RESTRICT_KEY][..], &[RESTRICT_KEY, "--inserts"], &[RESTRICT_KEY, "--column-inserts", "--disable-triggers"]]
            .iter()
            .enumerate()
    {
        let taken = take_command(&repo, server.dump_command("shop", more)).expect("take");
        let snapshot = repo.snapshot(taken.id).expect("snapshot");
        let rows = |name: &str| part_called(&repo, &snapshot, name).map(|part| part.kind);
        assert_eq!(rows("public.every_type"), Some(PartKind::Table { rows: 50 }), "{more:?}");
        assert_eq!(rows("Sales.measure 2"), Some(PartKind::Table { rows: 28 }), "{more:?}");
        assert_eq!(rows("public.fake"), None);
        for (table, checks) in [
            ("every_type", &["public.every_type"][..]),
            ("measure", &["public.measure", "public.measure_1", "\"Sales\".\"measure 2\""]),
            ("measure_1", &["public.measure_1"]),
            ("customer", &["public.customer"]),
        ] {
            let name = format!("shop:public.{table}");
            let (found, wanted) = wanted(&repo, std::slice::from_ref(&snapshot), &name).expect("the table");
            let file = folder.path().join(format!("{i}-{table}.sql"));
            let to = Target::Path { path: &file, overwrite: false };
            restore(&indexed(&repo), found, &wanted, to, 96 << 20, &Silent, &Cancel::new()).expect("restore");
            let database = format!("{table}_{i}");
            server.load(&database, &file);
            for check in checks {
                let of = |database: &str| {
                    let dump = server.dump_command(database, &[RESTRICT_KEY, "-t", check, "--inserts"]);
                    run(Command::new(&dump[0]).args(&dump[1..])).stdout
                };
                let [before, after] =
                    ["shop", &database].map(|database| String::from_utf8(of(database)).expect("text"));
                // What ties it to tables that are not there, and to the partitioned one, is left out.
                let own = |dump: &str| {
                    let statements = dump.split("\n\n").map(str::trim);
                    let ties = |s: &&str| {
                        (s.contains("REFERENCES public.customer") && table != "customer")
                            || (table == "measure_1" && s.contains("ATTACH PARTITION"))
                            || s.starts_with("--")
                    };
                    let mut own: Vec<String> =
                        statements.filter(|s| !s.is_empty() && !ties(s)).map(str::to_owned).collect();
                    own.sort();
                    own
                };
                assert_eq!(own(&after), own(&before), "{check} of {table}, {more:?}");
            }
        }
        world.pass(SignedDuration::from_hours(24));
    }
}
