//! A sync that fails: the command fails, and so does all that its process writes afterwards, whatever a read shows.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alluvium::env::Env;
use alluvium::error::{Error, Kind, Result};
use alluvium::ops::prune::put_reserve;
use alluvium::repo::Repository;
use alluvium::storage::Storage;
use alluvium::storage::local::Local;

use crate::support::{PASSPHRASE, World, dump, forget_ids, init, noise, open, pruned, restored, take};

/// Which sync fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    /// Of the temporary that becomes the object.
    Temporary,
    /// Of the object's folder, after the object has its name.
    Folder,
    /// Of a folder above that, after the folder was made.
    Above,
}

const POINTS: [Point; 3] = [Point::Temporary, Point::Folder, Point::Above];

impl Point {
    fn is_at(self, synced: &str, object: &str) -> bool {
        let folder = object.rsplit_once('/').map_or(".", |(folder, _)| folder);
        match self {
            Self::Temporary => synced.starts_with("tmp/"),
            Self::Folder => synced == folder,
            Self::Above => !synced.starts_with("tmp/") && synced != folder,
        }
    }
}

/// The disk below `path` that fails at `point` for objects below `prefix`, for as long as the switch is on.
fn failing(path: &Path, point: Point, prefix: &'static str) -> (Local, Arc<AtomicBool>) {
    let is_broken = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&is_broken);
    let fails = move |synced: &str, object: &str| {
        switch.load(Ordering::SeqCst) && object.starts_with(prefix) && point.is_at(synced, object)
    };
    (Local::open(path).expect("opens").with_sync_fault(fails), is_broken)
}

fn open_shared(storage: &Arc<Local>, world: &Arc<World>) -> Repository {
    let (storage, world) = (Arc::clone(storage) as Arc<dyn Storage>, Arc::clone(world) as Arc<dyn Env>);
    Repository::open(storage, world, PASSPHRASE, None).expect("opens")
}

/// Every write fails from now on, for the same reason. Reads go on.
fn assert_broken(storage: &dyn Storage, prefix: &str, context: &str) {
    let writes: [(&str, Result<()>); 4] = [
        ("packs/00/0", storage.put_new("packs/00/0", b"x")),
        // Not `AlreadyExists`, which a retry might take for its own success.
        ("config", storage.put_new("config", b"x")),
        ("sessions/0", storage.put_replace("sessions/0", b"x")),
        ("snapshots/0", storage.delete("snapshots/0")),
    ];
    for (name, result) in writes {
        let error = result.expect_err(context);
        let message = error.to_string();
        assert!(error.is_durability_unknown() && error.kind() == Kind::Storage, "{context}: {message}");
        assert!(message.contains(name) && message.contains(prefix), "{context}: names both objects: {message}");
        assert!(error.advice().is_some_and(|advice| advice.contains("kernel")), "{context}: {error:?}");
    }
    storage.get("config", u64::MAX).expect("reads go on");
}

fn assert_reported(error: &Error, context: &str) {
    assert!(error.is_durability_unknown(), "{context}: {error}");
    assert!(std::error::Error::source(error).is_some(), "{context}: {error}");
}

#[test]
fn a_snapshot_fails_with_any_of_its_syncs() {
    for prefix in ["sessions/", "packs/", "index/", "snapshots/"] {
        for point in POINTS {
            let context = format!("{prefix} {point:?}");
            let (folder, world) = (tempfile::tempdir().expect("a folder"), World::new(1));
            let path = folder.path().join("repository");
            take(&init(Local::create(&path).expect("creates"), &world), "shop", &dump(500, 0)).expect(&context);

            let (storage, is_broken) = failing(&path, point, prefix);
            let storage = Arc::new(storage);
            let repo = open_shared(&storage, &world);
            let error = take(&repo, "shop", &noise(300_000, 2)).expect_err(&context);
            assert_reported(&error, &context);
            if prefix == "snapshots/" {
                assert!(error.to_string().contains("may be listed"), "{error}");
            }
            // The next sync works again: that proves nothing.
            is_broken.store(false, Ordering::SeqCst);
            assert_broken(storage.as_ref(), prefix, &context);
            assert_reported(&take(&repo, "shop", &dump(500, 1)).expect_err(&context), &context);

            // Another process, once the disk is sound.
            let repo = open(Local::open(&path).expect("opens"), &world).expect("opens");
            take(&repo, "shop", &dump(500, 2)).expect(&context);
            let (snapshots, unreadable) = repo.snapshots().expect("lists");
            assert!(unreadable.is_empty(), "{context}: {unreadable:?}");
            let newest = snapshots.iter().find(|s| restored(&repo, s).expect("restores") == dump(500, 2));
            assert!(newest.is_some(), "{context}");
        }
    }
}

/// Nothing is deleted because of a generation that is not known to be on the disk.
#[test]
fn a_prune_fails_with_the_sync_of_its_generation() {
    for point in POINTS {
        let context = format!("{point:?}");
        let (folder, world) = (tempfile::tempdir().expect("a folder"), World::new(1));
        let path = folder.path().join("repository");
        let repo = init(Local::create(&path).expect("creates"), &world);
        let gone = take(&repo, "old", &noise(300_000, 1)).expect("take").id;
        take(&repo, "shop", &dump(500, 0)).expect("take");
        put_reserve(&Local::open(&path).expect("opens"), world.as_ref()).expect("puts");
        forget_ids(&repo, &[gone]).expect("forget");
        let packs = repo.list_packs().expect("lists");
        drop(repo);

        let (storage, is_broken) = failing(&path, point, "prune/");
        let storage = Arc::new(storage);
        let repo = open_shared(&storage, &world);
        assert_reported(&pruned(&repo).expect_err(&context), &context);
        assert_eq!(repo.list_packs().expect("lists"), packs, "{context}: nothing was deleted");
        is_broken.store(false, Ordering::SeqCst);
        assert_broken(storage.as_ref(), "prune/", &context);
        assert_reported(&pruned(&repo).expect_err(&context), &context);
    }
}

/// A heartbeat that is not known to be on the disk ends its snapshot: what else the disk lost, nobody knows.
#[test]
fn a_failed_sync_of_one_thread_fails_the_writes_of_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("repository");
    Local::create(&path).expect("creates").put_new("config", b"x").expect("puts");
    let (storage, _) = failing(&path, Point::Folder, "sessions/");
    let storage = Arc::new(storage);
    storage.put_new("packs/00/1", b"x").expect("all is well");
    let beat = Arc::clone(&storage);
    let beat = std::thread::spawn(move || beat.put_replace("sessions/1.beat", b"x"));
    beat.join().expect("no panic").expect_err("its folder is not synced");
    assert_broken(storage.as_ref(), "sessions/1.beat", "a heartbeat");
    assert_eq!(storage.stat("packs/00/0").expect("stats"), None, "nothing was written");
}

/// A rename that reports an error may have taken effect, and another process may have stopped before it synced the
/// folder: a name that is found to be taken is relied on, so it must be on the disk.
#[test]
fn a_name_that_is_taken_is_durable_before_that_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    Local::create(folder.path()).expect("creates").put_new("snapshots/1", b"x").expect("puts");
    for links in [false, true] {
        let (storage, is_broken) = failing(folder.path(), Point::Folder, "snapshots/");
        let storage = if links { storage.with_links_only() } else { storage };
        is_broken.store(false, Ordering::SeqCst);
        assert_eq!(storage.put_new("snapshots/1", b"y").expect_err("taken").kind(), Kind::AlreadyExists);
        is_broken.store(true, Ordering::SeqCst);
        assert_reported(&storage.put_new("snapshots/1", b"y").expect_err("not durable"), "a name that is taken");
    }
}
