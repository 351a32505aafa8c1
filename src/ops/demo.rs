//! `demo`: the first thing a newcomer runs. It needs nothing but the program itself.
//!
//! ```text
//! a shop in SQLite -> ten days of business, a snapshot a night -> diff -> restore, proven identical
//!                  -> a flipped bit: found, refused, mended -> forget -> prune -> check
//! ```
//!
//! It is the real thing: every chapter calls the operation that the command of the same name calls, on a real
//! repository in a folder. Only two things are staged: the shop, and a clock that lets ten days pass in a second.

mod shop;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};

use crate::env::{Cancel, Env, lock};
use crate::error::{Error, Kind, Result};
use crate::format::limits::PACK_BYTES_MAX;
use crate::format::pack::object_name;
use crate::id::SnapshotId;
use crate::repo::reader::Reader;
use crate::repo::writer::{MEMORY_BYTES, WriteOptions};
use crate::repo::{InitOptions, Repository};
use crate::report::Report;
use crate::storage::Storage;
use crate::storage::local::Local;

use super::check::{Subset, check};
use super::diff::diff;
use super::forget::{self, Filter};
use super::prune::{MaxUnused, PruneOptions, prune};
use super::restore::{Target, restore};
use super::retention::{Count, Policy};
use super::select::{Wanted, only_part};
use super::snapshot::{SnapshotOptions, Source, Taken, snapshot};
use super::stats::stats;

use shop::{Shop, examine};

/// The same with a `PostgreSQL` database called `shop`: what the demo says last.
pub const COMMANDS: [&str; 5] = [
    "alluvium init -r /backups",
    "pg_dump shop | alluvium snapshot -r /backups --name shop -",
    "alluvium snapshots -r /backups",
    "alluvium restore -r /backups shop -o shop.sql",
    "alluvium forget -r /backups --keep-daily 7 --keep-weekly 5 --prune",
];

/// Wednesday 4 March 2026, two in the morning (UTC). Ten nights from here see two weeks.
const FIRST_NIGHT: Timestamp = Timestamp::constant(1_772_589_600, 0);
const NIGHTS: usize = 10;
/// The night that is restored, counted from 0; its database is kept aside to compare with.
const RESTORED_NIGHT: usize = 4;
const PASSPHRASE: &[u8] = b"only for the demo";
const HOST: &str = "demo";
/// A few MB show little with chunks made for gigabytes.
const CHUNK_BYTES: u32 = 16 << 10;
/// Characters of the longest bar.
const BAR_WIDTH: u64 = 36;

/// Tells the story to `say`, a line a call. All files are made in `folder`, which should be empty and is the caller's
/// to remove.
///
/// # Errors
/// Whatever keeps an operation from working, most likely `Storage`; `Failed` when a proof fails; `Interrupted`.
pub fn demo(
    folder: &Path,
    env: Arc<dyn Env>,
    report: &dyn Report,
    say: &mut dyn FnMut(&str),
    cancel: &Cancel,
) -> Result<()> {
    say(&format!("A small shop, ten days, one backup a night, all in {}", folder.display()));
    let clock = Arc::new(DemoClock { entropy: env, now: Mutex::new(FIRST_NIGHT) });
    let storage: Arc<dyn Storage> = Arc::new(Local::create(folder.join("repository"))?);
    let options = InitOptions { chunk_bytes: CHUNK_BYTES, ..InitOptions::default() };
    Repository::init(storage.as_ref(), clock.as_ref(), PASSPHRASE, "demo", options)?;
    let repo = Repository::open(storage, Arc::clone(&clock) as Arc<dyn Env>, PASSPHRASE, None)?;
    let mut story = Story { folder, repo, clock, report, say, cancel, snapshots: Vec::new(), chapters: 0 };
    story.ten_days()?;
    story.what_changed()?;
    story.restore_a_night()?;
    story.flip_a_bit()?;
    story.forget()?;
    story.give_back()?;
    story.your_turn();
    Ok(())
}

/// The given entropy, and a time that only the story moves.
struct DemoClock {
    entropy: Arc<dyn Env>,
    now: Mutex<Timestamp>,
}

impl DemoClock {
    fn pass(&self, hours: i64) {
        *lock(&self.now) += SignedDuration::from_hours(hours);
    }
}

impl Env for DemoClock {
    fn now(&self) -> Timestamp {
        *lock(&self.now)
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        self.entropy.fill_random(bytes);
    }
}

struct Story<'s> {
    folder: &'s Path,
    repo: Repository,
    clock: Arc<DemoClock>,
    report: &'s dyn Report,
    say: &'s mut dyn FnMut(&str),
    cancel: &'s Cancel,
    /// The snapshots, in the order of time.
    snapshots: Vec<SnapshotId>,
    chapters: u32,
}

impl Story<'_> {
    fn ten_days(&mut self) -> Result<()> {
        self.chapter("A shop keeps its books in a SQLite database.");
        let mut shop = Shop::found(self.database(), FIRST_NIGHT)?;
        self.tell(examine(&self.database())?.to_string());

        self.chapter("Ten days of business, and every night one snapshot of the whole database.");
        self.tell("Nothing is stored twice. What is new is compressed and encrypted.");
        self.tell("");
        self.tell(format!("{:<12}{:>10}{:>12}", "night", "database", "added"));
        let mut largest = None;
        for night in 0..NIGHTS {
            self.cancel.check()?;
            if night > 0 {
                shop.trade(self.clock.now())?;
                self.clock.pass(24);
            }
            let Taken { time, bytes, stored, .. } = self.take()?;
            if night == RESTORED_NIGHT {
                self.keep_aside()?;
            }
            let added = stored.stored_bytes;
            let bar = "#".repeat((added * BAR_WIDTH).div_ceil(*largest.get_or_insert(added.max(1))) as usize);
            let night = time.strftime("%a %e %b").to_string();
            self.tell(format!("{night:<12}{:>10}{:>12}  {bar}", size(bytes), size(added)));
        }

        let totals = stats(&self.repo, self.report)?;
        let (together, held) = (size(totals.snapshot_bytes), size(totals.pack_bytes));
        self.tell("");
        self.tell(format!("{NIGHTS} full backups of {together} together take {held}."));
        Ok(())
    }

    fn what_changed(&mut self) -> Result<()> {
        let old = self.repo.snapshot(self.snapshots[RESTORED_NIGHT])?;
        let new = self.repo.snapshot(self.snapshots[RESTORED_NIGHT + 1])?;
        let day = day(old.manifest.time);
        self.chapter(&format!("What did {day} change? Comparing two snapshots reads none of their data."));
        for part in diff(&self.repo, &old, &new, false, self.report)? {
            let (same, added) = (size(part.new_bytes - part.added_bytes), size(part.added_bytes));
            self.tell(format!("{same} of the database are the same; {added} are new, before compression."));
        }
        Ok(())
    }

    fn restore_a_night(&mut self) -> Result<()> {
        let id = self.snapshots[RESTORED_NIGHT];
        let night = day(self.repo.snapshot(id)?.manifest.time);
        self.chapter(&format!("The database of {night} comes back, next to a copy that was kept aside."));
        let (restored, aside) = (self.folder.join("restored.sqlite"), self.aside());
        self.restore(id, &restored)?;
        let (digest, books) = (digest(&restored)?, examine(&restored)?);
        self.prove(digest == self::digest(&aside)?, "the restored file differs from the copy kept aside")?;
        let sound = books == examine(&aside)? && books.integrity == "ok";
        self.prove(sound, "SQLite finds another database than that night's")?;
        self.tell("Both files have the same BLAKE3 digest:");
        self.tell(digest.to_hex());
        self.tell(format!("SQLite checks the restored database: {}", books.integrity));
        self.tell(books.to_string());
        Ok(())
    }

    fn flip_a_bit(&mut self) -> Result<()> {
        self.chapter("Disks fail quietly. One bit of the repository is flipped; check reads it all.");
        let newest = self.snapshots[NIGHTS - 1];
        self.damage(newest)?;
        let found = check(&self.repo, Some(Subset::ALL), self.report, self.cancel)?;
        let problem = found.problems.first().ok_or_else(|| self.disproved("the check did not find the flipped bit"))?;
        self.tell(format!("Found in {}", problem.object));
        self.tell(format!("{} snapshots need what is damaged there.", problem.snapshots.len()));
        let restored = self.folder.join("mended.sqlite");
        let refused = self.restore(newest, &restored).is_err_and(|error| error.kind() == Kind::Damaged);
        self.prove(refused && !restored.exists(), "a damaged snapshot was restored")?;
        self.tell("Restore refuses: no file rather than a wrong one.");

        self.chapter("The shop still has what was damaged: the next snapshot mends the older ones.");
        self.clock.pass(12);
        let taken = self.take()?;
        self.tell(format!("It stored the damaged piece again: {} added.", size(taken.stored.stored_bytes)));
        self.restore(newest, &restored)?;
        self.prove(digest(&restored)? == digest(&self.database())?, "the mended snapshot differs from its database")?;
        self.tell("The snapshot that was refused restores again, byte for byte.");
        Ok(())
    }

    fn forget(&mut self) -> Result<()> {
        self.chapter("Old backups go by a rule: keep the newest of 3 days and of 2 weeks.");
        let policy = Policy { keep_daily: Some(Count::N(3)), keep_weekly: Some(Count::N(2)), ..Policy::default() };
        let plan = forget::plan(&self.repo, &Filter::default(), &policy)?;
        for decision in plan.groups.iter().flat_map(|group| &group.decisions) {
            let reasons: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
            let fate = if decision.keep { "keep" } else { "forget" };
            let row = format!("{}  {fate:<6}  {}", decision.time.strftime("%a %e %b %H:%M"), reasons.join(", "));
            self.tell(row.trim_end());
        }
        forget::execute(&self.repo, &plan.remove, self.report, self.cancel)
    }

    fn give_back(&mut self) -> Result<()> {
        self.chapter("Forgetting only removes names. Pruning gives back what nobody needs any more.");
        let before = stats(&self.repo, self.report)?;
        let options = PruneOptions {
            max_unused: MaxUnused::Bytes(0),
            allow_empty: false,
            host: HOST.to_owned(),
            write: WriteOptions::default(),
        };
        prune(&self.repo, &options, false, self.report, self.cancel)?;
        let after = stats(&self.repo, self.report)?;
        self.tell(format!("The repository held {}; now it holds {}.", size(before.pack_bytes), size(after.pack_bytes)));

        self.chapter("A last check reads every byte that is left.");
        let checked = check(&self.repo, Some(Subset::ALL), self.report, self.cancel)?;
        self.prove(checked.problems.is_empty(), "the last check found problems")?;
        let (snapshots, pieces) = (checked.snapshots, checked.blobs_read);
        self.tell(format!("{snapshots} snapshots, {pieces} pieces of data opened and compared: no problem."));
        Ok(())
    }

    fn your_turn(&mut self) {
        self.chapter("The same with a PostgreSQL database of yours:");
        for command in COMMANDS {
            self.tell(command);
        }
    }

    /// Backs up the database as it is now.
    fn take(&mut self) -> Result<Taken> {
        let options = SnapshotOptions {
            name: "shop".to_owned(),
            host: HOST.to_owned(),
            zone: "UTC".to_owned(),
            tags: [].into(),
            write: WriteOptions::default(),
            allow_shrink: false,
            evidence: None,
        };
        let taken = snapshot(&self.repo, Source::Files(vec![self.database()]), &options, self.report, self.cancel)?;
        self.snapshots.push(taken.id);
        Ok(taken)
    }

    fn restore(&self, id: SnapshotId, path: &Path) -> Result<()> {
        let (snapshot, indexed) = (self.repo.snapshot(id)?, self.repo.index_to_read(self.report)?);
        let parts = Reader::new(&indexed)?.parts(&snapshot.manifest)?;
        let part = only_part(&snapshot, &parts)?.clone();
        let target = Target::Path { path, overwrite: false };
        restore(&indexed, &snapshot, &Wanted::Part(part), target, MEMORY_BYTES, self.report, self.cancel).map(|_| ())
    }

    /// Flips a bit in the middle of a snapshot's data. No operation can do that: objects never change, so the pack
    /// is deleted and put anew.
    fn damage(&self, id: SnapshotId) -> Result<()> {
        let snapshot = self.repo.snapshot(id)?;
        let indexed = self.repo.index(self.report)?;
        let reader = Reader::new(&indexed)?;
        let parts = reader.parts(&snapshot.manifest)?;
        let entries = reader.part_entries(only_part(&snapshot, &parts)?).collect::<Result<Vec<_>>>()?;
        let location = indexed.usable(&entries[entries.len() / 2].id)?;
        let location = location.ok_or_else(|| Error::new(Kind::Failed, "the demo finds no chunk to damage"))?;
        let name = object_name(location.pack);
        let mut bytes = self.repo.storage.get(&name, PACK_BYTES_MAX)?;
        bytes[(location.offset + location.stored_len / 2) as usize] ^= 1;
        self.repo.storage.delete(&name)?;
        self.repo.storage.put_new(&name, &bytes)
    }

    fn database(&self) -> PathBuf {
        self.folder.join("shop.sqlite")
    }

    fn keep_aside(&self) -> Result<()> {
        let copy = self.aside();
        let copied = fs::copy(self.database(), &copy);
        copied.map(|_| ()).map_err(|e| Error::storage(format!("{} can't be written", copy.display()), e))
    }

    fn aside(&self) -> PathBuf {
        self.folder.join("kept-aside.sqlite")
    }

    fn chapter(&mut self, text: &str) {
        self.chapters += 1;
        (self.say)("");
        (self.say)(&format!("{}. {text}", self.chapters));
    }

    fn tell(&mut self, text: impl AsRef<str>) {
        (self.say)(format!("   {}", text.as_ref()).trim_end());
    }

    fn prove(&self, holds: bool, otherwise: &str) -> Result<()> {
        if holds { Ok(()) } else { Err(self.disproved(otherwise)) }
    }

    fn disproved(&self, what: &str) -> Error {
        Error::new(
            Kind::Failed,
            format!("a proof of the demo failed: {what}; its files are in {}", self.folder.display()),
        )
    }
}

fn digest(path: &Path) -> Result<blake3::Hash> {
    let bytes = fs::read(path).map_err(|e| Error::storage(format!("{} can't be read", path.display()), e))?;
    Ok(blake3::hash(&bytes))
}

fn day(time: Timestamp) -> String {
    time.strftime("%a %-d %b").to_string()
}

fn size(bytes: u64) -> String {
    if bytes < 1_000_000 { format!("{} kB", bytes.div_ceil(1000)) } else { format!("{:.2} MB", bytes as f64 / 1e6) }
}
