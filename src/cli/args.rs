//! What the command line understands: clap's derive and nothing else. The help texts are the first
//! documentation that people read, so each says what happens, and the examples can be typed as they are.
//!
//! Values are checked where they are parsed: a wrong size, policy or time zone is a usage error before
//! anything is opened. There is no option whose value is a passphrase: other users see those in a process list.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::tz::TimeZone;

use crate::ops::check::Subset;
use crate::ops::prune::MaxUnused;
use crate::ops::retention::{Count, GroupBy, Span};
use crate::repo::writer::MEMORY_BYTES_MIN;

use super::show;

const EXAMPLES: &str = "\
Examples:
  alluvium -r /backup/shop init
  pg_dump shop | alluvium -r /backup/shop snapshot --name shop -
  alluvium -r /backup/shop snapshot --name shop -- pg_dump shop
  alluvium -r /backup/shop snapshots
  alluvium -r /backup/shop restore latest | psql shop
  alluvium -r /backup/shop forget --keep-daily 7 --keep-weekly 4 --prune

A repository is in a folder or a store on the network: s3://bucket/prefix?endpoint=https://minio.example:9000, \
azblob://container/prefix?account=NAME, gcs://bucket/prefix, and, where they were built in, sftp://user@host/path and \
webdavs://user@host/path. Credentials come from the environment and the files of each store's own tools, never \
from the address.

A snapshot (SNAP) is called by the beginning of its id, `latest`, its source's name (the newest of it), or \
NAME@TIME (the newest at that time): shop@2026-11-22, 'shop@2026-11-22 14:00'. SNAP:PART is one file of it.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 finished with problems, 10 no repository, 11 busy, 12 wrong key, \
13 damage found, 130 interrupted, 141 the reader of standard output left.

Environment: ALLUVIUM_REPOSITORY, ALLUVIUM_PASSWORD, ALLUVIUM_PASSWORD_FILE, ALLUVIUM_NEW_PASSWORD, \
ALLUVIUM_NEW_PASSWORD_FILE, ALLUVIUM_TO_PASSWORD, ALLUVIUM_TO_PASSWORD_FILE, ALLUVIUM_LIKE_PASSWORD, \
ALLUVIUM_LIKE_PASSWORD_FILE, ALLUVIUM_CACHE_DIR, ALLUVIUM_WEBDAV_PASSWORD, NO_COLOR.

New here? `alluvium demo` shows it all in a folder of its own.";

/// Backups of databases: every snapshot a full one, at the price of what changed. Deduplicated, compressed,
/// encrypted.
#[derive(Debug, Parser)]
#[command(name = "alluvium", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Arguments {
    /// What every command understands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options for every command")]
pub struct Global {
    /// The repository: a folder, or an address such as `s3://bucket/prefix`
    #[arg(short, long, global = true, value_name = "PLACE", env = "ALLUVIUM_REPOSITORY", hide_env_values = true)]
    pub repository: Option<OsString>,

    /// Read the passphrase from this file; a newline at its end does not count
    #[arg(short, long, global = true, value_name = "FILE", conflicts_with = "password_command")]
    pub password_file: Option<PathBuf>,

    /// Read the passphrase from what this shell command prints
    #[arg(long, global = true, value_name = "COMMAND")]
    pub password_command: Option<OsString>,

    /// Where to keep the local cache [default: `$XDG_CACHE_HOME/alluvium` or `~/.cache/alluvium`]
    #[arg(long, global = true, value_name = "FOLDER", env = "ALLUVIUM_CACHE_DIR", hide_env_values = true)]
    pub cache_dir: Option<PathBuf>,

    /// Time zone of the days and weeks of `forget`, of NAME@TIME, and of the times shown: Europe/Berlin
    #[arg(long, global = true, value_name = "ZONE", default_value = "UTC", value_parser = parse_zone)]
    pub timezone: TimeZone,

    /// Most memory for data under way, at least 96M
    #[arg(long, global = true, value_name = "SIZE", default_value = "256M", value_parser = parse_memory)]
    pub memory: usize,

    /// Print one JSON document; errors are JSON on standard error
    #[arg(long, global = true)]
    pub json: bool,

    /// No progress and no closing words; what was asked for, warnings and errors remain
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Print more detail
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a repository
    Init(Box<Init>),
    /// Back up a stream, a command's output, or files
    Snapshot(Snapshot),
    /// List the snapshots, the newest last
    Snapshots(Filter),
    /// List the parts of a snapshot
    Ls {
        /// Which snapshot
        #[arg(value_name = "SNAP")]
        snapshot: String,
    },
    /// Compare two snapshots, tables row by row
    Diff(Diff),
    /// What the repository holds, and what it saves
    Stats {
        /// Where each source's savings come from; recipes are read for it
        #[arg(long)]
        sources: bool,
        /// The same for each table, or file
        #[arg(long)]
        tables: bool,
    },
    /// Write a snapshot, or one part of it, to standard output
    Cat {
        /// Which snapshot, or which part of it
        #[arg(value_name = "SNAP[:PART]")]
        snapshot: String,
    },
    /// Restore a snapshot, or one part of it
    Restore(Restore),
    /// Remove snapshots by rules, or by their ids; `prune` then gives the room back
    Forget(Box<Forget>),
    /// Delete the data that no snapshot needs
    Prune(Prune),
    /// Check that every snapshot can be restored
    Check(Check),
    /// Copy snapshots to another repository; only what is missing there moves
    Sync(Box<Sync>),
    /// Manage the passphrases
    #[command(subcommand)]
    Key(Key),
    /// Repair a repository
    #[command(subcommand)]
    Repair(Repair),
    /// A tour: backs up a made-up shop, damages it, restores it
    Demo {
        /// Where; a new or empty folder [default: a fresh one among the temporary files]
        #[arg(value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
    /// Shell completions and manual pages, for packagers
    #[command(hide = true, subcommand)]
    Generate(Generate),
}

/// `init`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alluvium -r /backup/shop init
  ALLUVIUM_PASSWORD_FILE=/etc/alluvium.pass alluvium -r /backup/shop init --label 'db1, nightly'

The passphrase is asked for twice. Without it nobody can read the backups: keep it somewhere else too.")]
pub struct Init {
    /// Average chunk size; can't be changed later
    #[arg(long, value_name = "SIZE", value_parser = parse_chunk_size)]
    pub chunk_size: Option<u32>,
    /// Data is stored in files of about this size
    #[arg(long, value_name = "SIZE", value_parser = show::parse_size)]
    pub pack_size: Option<u64>,
    /// What to call the first passphrase
    #[arg(long, default_value = "")]
    pub label: String,
    /// Cut and name data as that repository does, so that `sync` moves only what is missing
    #[arg(long, value_name = "REPO", conflicts_with = "chunk_size")]
    pub like: Option<OsString>,
    /// Make a second copy of that repository's keys: `sync` then moves its files as they are. Empty until then
    #[arg(long, value_name = "REPO", conflicts_with_all = ["like", "chunk_size", "pack_size"])]
    pub twin: Option<OsString>,
    /// Read the other repository's passphrase from this file
    #[arg(long, value_name = "FILE", conflicts_with = "like_password_command")]
    pub like_password_file: Option<PathBuf>,
    /// Read the other repository's passphrase from what this shell command prints
    #[arg(long, value_name = "COMMAND")]
    pub like_password_command: Option<OsString>,
}

/// `sync`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alluvium -r REPO sync /mnt/offsite/shop                          # all that is missing there
  alluvium -r REPO sync /mnt/offsite/shop --source shop --keep-weekly 8
  alluvium -r REPO sync /mnt/offsite/shop --mirror                 # and remove what was removed here
  alluvium -r REPO sync /mnt/offsite/shop -n                       # only show

Both repositories stay whole whatever happens: a copy appears when all of it is there, and an interrupted sync goes \
on where it was. Make DEST with `init --twin REPO` (the same keys; fastest), `init --like REPO` (keys of its own; both \
deduplicate) or plain `init` (nothing in common; data is read and cut anew). What the source can't give costs only \
the snapshots that need it: they are named, and the exit status is 3.")]
pub struct Sync {
    /// The repository that the copies go to
    #[arg(value_name = "DEST")]
    pub dest: OsString,
    /// Only snapshots of this source; may be repeated
    #[arg(long = "source", value_name = "NAME")]
    pub sources: Vec<String>,
    /// Only snapshots of this host; may be repeated
    #[arg(long = "host", value_name = "HOST")]
    pub hosts: Vec<String>,
    /// Only snapshots with all of these tags
    #[arg(long = "tag", value_name = "TAG", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// Also remove copies whose originals were removed; refuses when that looks like an accident
    #[arg(long)]
    pub mirror: bool,
    /// With --mirror: remove them however it looks
    #[arg(long, requires = "mirror")]
    pub mirror_anyway: bool,
    /// Move only the K-th of N parts of the data; one without it, afterwards, completes what is left
    #[arg(long, value_name = "K/N", conflicts_with = "mirror")]
    pub shard: Option<Subset>,
    /// Send at most so many bytes a second
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub limit_upload: Option<u64>,
    /// Receive at most so many bytes a second
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub limit_download: Option<u64>,
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Read the passphrase of DEST from this file [default: the same passphrase is tried, then asked for]
    #[arg(long, value_name = "FILE", conflicts_with = "to_password_command")]
    pub to_password_file: Option<PathBuf>,
    /// Read the passphrase of DEST from what this shell command prints
    #[arg(long, value_name = "COMMAND")]
    pub to_password_command: Option<OsString>,
    /// Copy only what these rules keep; last, since their heading holds for all that follows.
    #[command(flatten)]
    pub rules: Rules,
}

/// `snapshot`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pg_dump shop | alluvium -r REPO snapshot --name shop -
  alluvium -r REPO snapshot --name shop -- pg_dump shop
  alluvium -r REPO snapshot ./app.db ./exports

Prefer the second to the first: a pipe hides that pg_dump failed, while alluvium sees the exit status of a \
command that it runs itself, and stores nothing when it failed. Don't compress dumps: compressed data does \
not deduplicate, and alluvium compresses.")]
pub struct Snapshot {
    /// Files and folders, or `-` for standard input
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// A command to run; its standard output is the snapshot
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// What the snapshot is of; needed for streams and commands [default: the names of the files]
    #[arg(long)]
    pub name: Option<String>,
    /// Label the snapshot; several with commas, or several times
    #[arg(long = "tag", value_name = "TAG", value_delimiter = ',')]
    pub tags: Vec<String>,
    /// The host that the data is of [default: this one]
    #[arg(long)]
    pub host: Option<String>,
    /// It is all right that there is far less data than last time
    #[arg(long)]
    pub allow_shrink: bool,
    /// zstd level: 1 is fast, 19 is small
    #[arg(long, value_name = "LEVEL", default_value_t = crate::repo::writer::LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    pub compression: i32,
}

/// Which snapshots are meant.
#[derive(Debug, Args)]
pub struct Filter {
    /// Only snapshots of this source; may be repeated
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Only snapshots of this host; may be repeated
    #[arg(long = "host", value_name = "HOST")]
    pub hosts: Vec<String>,
    /// Only snapshots with all of these tags
    #[arg(long = "tag", value_name = "TAG", value_delimiter = ',')]
    pub tags: Vec<String>,
}

/// `restore`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alluvium -r REPO restore shop | psql shop            # the newest snapshot of `shop`
  alluvium -r REPO restore shop@2026-11-22 -o shop.sql # the newest of that day, into a file
  alluvium -r REPO restore 4f0c12ab -o folder          # a snapshot of files
  alluvium -r REPO restore 4f0c12ab:exports/a.csv      # one file of it, to standard output

A file appears under its name when it is whole and verified, or not at all. In a pipe use `set -o pipefail`: \
a restore that fails half-way has written its beginning.")]
pub struct Restore {
    /// Which snapshot, or which part of it
    #[arg(value_name = "SNAP[:PART]")]
    pub snapshot: String,
    /// A file, or a folder for a snapshot of files; standard output without it
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Replace files that exist
    #[arg(long, requires = "output")]
    pub overwrite: bool,
    /// Of a table, only its rows
    #[arg(long, conflicts_with = "schema_only")]
    pub data_only: bool,
    /// Of a table, only its definition
    #[arg(long)]
    pub schema_only: bool,
}

/// `diff`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alluvium -r REPO diff shop@2026-11-22 shop@2026-11-23
  alluvium -r REPO diff shop@2026-11-22 shop@2026-11-23 --table public.orders --rows
  alluvium -r REPO diff shop@2026-11-22 shop@2026-11-23 --quick   # from recipes alone: no data is read")]
pub struct Diff {
    /// The older one
    #[arg(value_name = "A")]
    pub old: String,
    /// The newer one
    #[arg(value_name = "B")]
    pub new: String,
    /// Only this table
    #[arg(long, value_name = "TABLE")]
    pub table: Option<String>,
    /// Show the rows that differ
    #[arg(long, requires = "table")]
    pub rows: bool,
    /// Do not read data: sizes and numbers of rows only
    #[arg(long, conflicts_with = "rows")]
    pub quick: bool,
}

/// `forget`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alluvium -r REPO forget --keep-daily 7 --keep-weekly 4 --keep-monthly 12 -n   # only show
  alluvium -r REPO forget --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --prune
  alluvium -r REPO forget --keep-within 30d --keep-tag release
  alluvium -r REPO forget 4f0c12ab                                              # this one

Rules are independent: what any rule keeps stays. --keep-daily 7 keeps the newest snapshot of each of the \
last 7 days that have any. DURATION is like 7d, 2w or 1y6m and counts back from a group's newest snapshot. \
The newest good snapshot of every group stays, whatever the rules say, unless --allow-empty. \
The snapshots of each write-only key slot are a group of their own, so that a stolen passphrase displaces \
nobody else's; --group-by source,host judges them together.")]
pub struct Forget {
    /// Forget these snapshots (beginnings of ids) instead of deciding by rules
    #[arg(value_name = "ID", conflicts_with_all = ["Rules", "Filter"])]
    pub ids: Vec<String>,
    /// Snapshots that are judged together have these in common; "" for none
    #[arg(long, value_name = "source,host,slot,tags", default_value = "source,host,slot", value_parser = parse_group_by)]
    pub group_by: Grouping,
    /// Only these.
    #[command(flatten)]
    pub filter: Filter,
    /// The last good snapshot may go too
    #[arg(long)]
    pub allow_empty: bool,
    /// Give the room back at once
    #[arg(long)]
    pub prune: bool,
    /// With --prune: how much unused data may stay rather than be moved
    #[arg(long, value_name = "2%|500M|unlimited", default_value = "2%", value_parser = parse_max_unused)]
    pub max_unused: MaxUnused,
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// The rules; last, since their heading holds for all that follows.
    #[command(flatten)]
    pub rules: Rules,
}

/// The rules of `forget`, and of `sync`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Rules")]
pub struct Rules {
    /// Keep the newest N
    #[arg(long, value_name = "N|unlimited")]
    pub keep_last: Option<Count>,
    /// Keep the newest of each of the last N hours that have any
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<Count>,
    /// The same with days
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<Count>,
    /// The same with weeks
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<Count>,
    /// The same with months
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<Count>,
    /// The same with years
    #[arg(long, value_name = "N")]
    pub keep_yearly: Option<Count>,
    /// Keep all that are younger than this
    #[arg(long, value_name = "DURATION")]
    pub keep_within: Option<Span>,
    /// Of those younger than this, keep the newest of each hour
    #[arg(long, value_name = "DURATION")]
    pub keep_within_hourly: Option<Span>,
    /// The same with days
    #[arg(long, value_name = "DURATION")]
    pub keep_within_daily: Option<Span>,
    /// The same with weeks
    #[arg(long, value_name = "DURATION")]
    pub keep_within_weekly: Option<Span>,
    /// The same with months
    #[arg(long, value_name = "DURATION")]
    pub keep_within_monthly: Option<Span>,
    /// The same with years
    #[arg(long, value_name = "DURATION")]
    pub keep_within_yearly: Option<Span>,
    /// Keep all that have every one of these tags; may be repeated
    #[arg(long, value_name = "TAG,...")]
    pub keep_tag: Vec<String>,
}

/// `prune`
#[derive(Debug, Args)]
#[command(after_help = "\
Prune may run while others take snapshots: what they might rely on waits, and goes with the next prune. It \
refuses, and deletes nothing, when anything looks odd.")]
pub struct Prune {
    /// How much unused data may stay in partly used packs rather than be moved
    #[arg(long, value_name = "2%|500M|unlimited", default_value = "2%", value_parser = parse_max_unused)]
    pub max_unused: MaxUnused,
    /// A repository without any snapshot may be emptied
    #[arg(long)]
    pub allow_empty: bool,
    /// Only show what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// `check`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alluvium -r REPO check                            # everything is there, and of the right size
  alluvium -r REPO check --read-data                # and every byte is what it was
  alluvium -r REPO check --read-data-subset 1/7     # a seventh today, 2/7 tomorrow, ...
  alluvium -r REPO --json check --read-data --shard 3/8 > 3.json   # one of eight machines
  alluvium check --merge-results *.json             # all eight, as one

Exit status 13 when something is wrong. What is damaged is noted in the repository: the next snapshot of the \
same data stores it again, which heals old snapshots too.")]
pub struct Check {
    /// Read and verify all data
    #[arg(long, conflicts_with = "read_data_subset")]
    pub read_data: bool,
    /// Read and verify the K-th of N parts of the data
    #[arg(long, value_name = "K/N")]
    pub read_data_subset: Option<Subset>,
    /// The repository may be older than this machine has seen it: it was restored, or snapshots were forgotten elsewhere
    #[arg(long)]
    pub accept_older_state: bool,
    /// Look only at the K-th of N parts of the packs, for several machines at once; see --merge-results
    #[arg(long, value_name = "K/N", conflicts_with = "read_data_subset")]
    pub shard: Option<Subset>,
    /// Join the JSON results of all shards; no repository is opened
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["read_data", "read_data_subset", "shard"])]
    pub merge_results: Vec<PathBuf>,
}

/// `key`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Add a passphrase
    Add {
        /// It can take snapshots and nothing else: for hosts that must not read backups
        #[arg(long)]
        write_only: bool,
        /// What to call it
        #[arg(long, default_value = "")]
        label: String,
        /// Create a key file here instead, for daemons: it is given in place of a password file, and
        /// opens the repository without delay
        #[arg(long, value_name = "FILE", conflicts_with_all = ["new_password_file", "new_password_command"])]
        key_file: Option<PathBuf>,
        /// Where it comes from.
        #[command(flatten)]
        new: NewPassword,
    },
    /// List the passphrases: their ids, labels and ages
    List,
    /// Remove a passphrase
    Remove {
        /// The beginning of its id, from `key list`
        id: String,
    },
    /// Distrust what a stolen passphrase wrote: its snapshots count for nothing, its data is not relied on
    Distrust {
        /// The beginning of its id; `snapshots` shows who took each
        id: String,
        /// Since when: 2026-11-22, or with a time of day
        #[arg(long, value_name = "TIME")]
        since: String,
        /// Forget its snapshots since then, too
        #[arg(long)]
        forget: bool,
    },
    /// Begin a new key epoch: a passphrase that was removed before opens nothing stored from now on
    Rotate,
    /// Replace the passphrase in use by a new one
    Change {
        /// Where it comes from.
        #[command(flatten)]
        new: NewPassword,
    },
}

/// Where a new passphrase comes from; `ALLUVIUM_NEW_PASSWORD` and `ALLUVIUM_NEW_PASSWORD_FILE` serve too.
#[derive(Debug, Args)]
pub struct NewPassword {
    /// Read the new passphrase from this file
    #[arg(long, value_name = "FILE", conflicts_with = "new_password_command")]
    pub new_password_file: Option<PathBuf>,
    /// Read the new passphrase from what this shell command prints
    #[arg(long, value_name = "COMMAND")]
    pub new_password_command: Option<OsString>,
}

/// `repair`
#[derive(Debug, Subcommand)]
pub enum Repair {
    /// Make the index anew from what the packs say of themselves
    Index,
}

/// `generate`
#[derive(Debug, Subcommand)]
pub enum Generate {
    /// Print a completion script
    Completions {
        /// For this shell
        shell: Shell,
    },
    /// Write manual pages
    Man {
        /// Into this folder
        folder: PathBuf,
    },
}

/// The shells that completions are made for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// The value of `--group-by`: what the snapshots of a group have in common.
#[derive(Clone, Debug)]
pub struct Grouping(pub Vec<GroupBy>);

fn parse_group_by(text: &str) -> Result<Grouping, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let parsed = names.map(|name| match name {
        "source" => Ok(GroupBy::Source),
        "host" => Ok(GroupBy::Host),
        "tags" => Ok(GroupBy::Tags),
        "slot" => Ok(GroupBy::Slot),
        _ => Err("groups are made by source, host, slot and tags".to_owned()),
    });
    parsed.collect::<Result<_, _>>().map(Grouping)
}

fn parse_max_unused(text: &str) -> Result<MaxUnused, String> {
    match text.strip_suffix('%') {
        _ if text == "unlimited" => Ok(MaxUnused::Unlimited),
        Some(percent) => match percent.parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(MaxUnused::Percent(percent)),
            _ => Err("a share is from 0% to 100%".to_owned()),
        },
        None => show::parse_size(text).map(MaxUnused::Bytes),
    }
}

fn parse_memory(text: &str) -> Result<usize, String> {
    let bytes =
        usize::try_from(show::parse_size(text)?).map_err(|_| "more than this machine can address".to_owned())?;
    if bytes < MEMORY_BYTES_MIN {
        return Err(format!("packs and queues need at least {}", show::size(MEMORY_BYTES_MIN as u64)));
    }
    Ok(bytes)
}

fn parse_rate(text: &str) -> Result<u64, String> {
    match show::parse_size(text)? {
        0 => Err("nothing would ever arrive".to_owned()),
        bytes => Ok(bytes),
    }
}

fn parse_chunk_size(text: &str) -> Result<u32, String> {
    u32::try_from(show::parse_size(text)?).map_err(|_| "too large for a chunk".to_owned())
}

fn parse_zone(text: &str) -> Result<TimeZone, String> {
    TimeZone::get(text).map_err(|_| "not a time zone of the IANA database, such as UTC or Europe/Berlin".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn values() {
        assert_eq!(parse_max_unused("5%"), Ok(MaxUnused::Percent(5.0)));
        assert_eq!(parse_max_unused("500M"), Ok(MaxUnused::Bytes(500 << 20)));
        assert_eq!(parse_max_unused("unlimited"), Ok(MaxUnused::Unlimited));
        for bad in ["101%", "-1%", "nan%", "%", "", "x"] {
            assert!(parse_max_unused(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_memory("96M"), Ok(96 << 20));
        assert!(parse_memory("95M").is_err());
        assert_eq!(parse_group_by("tags,host").map(|g| g.0), Ok(vec![GroupBy::Tags, GroupBy::Host]));
        assert_eq!(parse_group_by("").map(|g| g.0), Ok(vec![]));
        assert!(parse_group_by("path").is_err());
        assert!(parse_zone("UTC").is_ok() && parse_zone("Atlantis").is_err());
    }
}
