//! Writers that lose a race against prune, or against whoever takes their name: a session that can't publish any more is
//! replaced by another, and the snapshot is published all the same where its data is there or can be read again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alluvium::env::{Cancel, Env};
use alluvium::error::Kind;
use alluvium::format::keyslot::SlotKind;
use alluvium::format::manifest;
use alluvium::id::SnapshotId;
use alluvium::ops::check::{Subset, check};
use alluvium::ops::key;
use alluvium::ops::snapshot::{Source, Taken, snapshot};
use alluvium::repo::Repository;
use alluvium::repo::fence::{fence, live_sessions};
use alluvium::repo::session::{Session, Writing};
use alluvium::report::Silent;
use alluvium::storage::Storage;
use alluvium::storage::fault::Operation;
use alluvium::storage::memory::Memory;
use jiff::{SignedDuration, Timestamp};

use crate::support::{
    Before, CHEAP, PASSPHRASE, World, dump, forget_ids, init, noise, open, open_with, options, pruned, restored, take,
};

/// A repository with a snapshot that stays, and a write-only slot.
fn scene(seed: u64) -> (Memory, Arc<World>, Repository) {
    let (storage, world) = (Memory::new(), World::new(seed));
    let repo = init(storage.clone(), &world);
    key::add(&repo, SlotKind::WriteOnly, "", b"write", CHEAP).expect("key add");
    take(&repo, "other", &dump(100, 0)).expect("take");
    (storage, world, repo)
}

/// The snapshot gives back `data`, and nothing is wrong with the repository, before and after a prune.
fn sound(repo: &Repository, id: SnapshotId, data: &[u8]) {
    for _ in 0..2 {
        assert!(restored(repo, &repo.snapshot(id).expect("snapshot")).expect("restore") == data);
        pruned(repo).expect("prune");
        let found = check(repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
        assert!(found.problems.is_empty(), "{:?}", found.problems);
    }
    assert!(repo.storage.list("sessions/").expect("list").is_empty());
}

fn session_of(name: &str) -> SnapshotId {
    name.strip_prefix(manifest::PREFIX).expect("a manifest").parse().expect("an id")
}

fn take_file(repo: &Repository, path: &Path) -> alluvium::error::Result<Taken> {
    snapshot(repo, Source::Files(vec![path.to_path_buf()]), &options("shop"), &Silent, &Cancel::new())
}

/// A session that was fenced when all its data was stored publishes under another name, without its source.
#[test]
fn a_session_that_is_fenced_at_the_end_publishes_under_another_name() {
    for passphrase in [PASSPHRASE, b"write".as_slice()] {
        let (storage, world, repo) = scene(1);
        let keeper = (storage.clone(), Arc::clone(&world));
        let fenced = Before::new(&storage, Operation::PutNew, "snapshots/", move |name| {
            let keeper = open(keeper.0, &keeper.1).expect("open");
            assert!(fence(&keeper, session_of(name)).expect("fence"));
        });
        let writer = open_with(fenced, &world, passphrase).expect("open");
        let data = noise(150_000, 1);
        let id = take(&writer, "shop", &data).expect("published").id;
        assert_eq!(repo.snapshots().expect("snapshots").0.len(), 2);
        sound(&repo, id, &data);
    }
}

/// So does one whose name somebody took, and one that meets its own manifest has published.
#[test]
fn a_name_that_is_taken_is_not_the_end() {
    let (storage, world, repo) = scene(2);
    let elsewhere = storage.clone();
    let taken = Before::new(&storage, Operation::PutNew, "snapshots/", move |name| {
        elsewhere.put_new(name, b"somebody else's bytes").expect("put");
    });
    let writer = open(taken, &world).expect("open");
    let data = noise(150_000, 1);
    let id = take(&writer, "shop", &data).expect("published").id;
    assert!(restored(&repo, &repo.snapshot(id).expect("snapshot")).expect("restore") == data);
    let (snapshots, unreadable) = repo.snapshots().expect("snapshots");
    assert_eq!((snapshots.len(), unreadable.len()), (2, 1), "and what took the name is still there");
}

/// A store that carries every manifest out twice, as a transport does that repeats a request.
struct Twice(Memory);

impl Storage for Twice {
    fn put_new(&self, name: &str, bytes: &[u8]) -> alluvium::error::Result<()> {
        self.0.put_new(name, bytes)?;
        if name.starts_with(manifest::PREFIX) { self.0.put_new(name, bytes) } else { Ok(()) }
    }
    fn put_replace(&self, name: &str, bytes: &[u8]) -> alluvium::error::Result<()> {
        self.0.put_replace(name, bytes)
    }
    fn get(&self, name: &str, bytes_max: u64) -> alluvium::error::Result<Vec<u8>> {
        self.0.get(name, bytes_max)
    }
    fn get_range(&self, name: &str, offset: u64, len: usize) -> alluvium::error::Result<Vec<u8>> {
        self.0.get_range(name, offset, len)
    }
    fn list(&self, prefix: &str) -> alluvium::error::Result<Vec<alluvium::storage::Listed>> {
        self.0.list(prefix)
    }
    fn stat(&self, name: &str) -> alluvium::error::Result<Option<u64>> {
        self.0.stat(name)
    }
    fn delete(&self, name: &str) -> alluvium::error::Result<()> {
        self.0.delete(name)
    }
    fn location(&self) -> String {
        self.0.location()
    }
}

#[test]
fn a_publication_that_meets_itself_has_succeeded() {
    let (storage, world, repo) = scene(3);
    let writer = open(Twice(storage), &world).expect("open");
    let data = noise(150_000, 1);
    let id = take(&writer, "shop", &data).expect("published").id;
    assert_eq!(repo.snapshots().expect("snapshots").0.len(), 2, "once");
    sound(&repo, id, &data);
}

/// What a fenced session relied on is condemned now and still there, since another session relies on it: a full slot
/// stores it again.
#[test]
fn what_is_condemned_meanwhile_is_stored_again() {
    let (storage, world, repo) = scene(4);
    let data = noise(150_000, 1);
    let old = take(&repo, "shop", &data).expect("take").id;
    let keeper = (storage.clone(), Arc::clone(&world));
    let fenced = Before::new(&storage, Operation::PutNew, "snapshots/", move |_| {
        let (storage, world) = keeper;
        world.pass(SignedDuration::from_hours(3));
        let keeper = open(storage.clone(), &world).expect("open");
        let other = open(storage, &world).expect("open");
        let who = Writing { host: "other".into(), purpose: "snapshot".into() };
        let _at_work = Session::begin(&other, &who, &Silent).expect("begin");
        forget_ids(&keeper, &[old]).expect("forget");
        let plan = pruned(&keeper).expect("prune");
        assert!(plan.waiting_packs > 0, "{plan:?}");
    });
    let writer = open(fenced, &world).expect("open");
    let id = take(&writer, "shop", &data).expect("published").id;
    sound(&repo, id, &data);
}

/// A fenced session's packs are gone: files are read again, in a new session; a pipe can't be.
#[test]
fn files_are_read_again_when_a_fenced_session_lost_its_packs() {
    let folder = tempfile::tempdir().expect("tempdir");
    let path = folder.path().join("shop.dump");
    let data = noise(150_000, 1);
    std::fs::write(&path, &data).expect("write");
    // Fenced before its data is listed, and when all is stored.
    for point in ["index/", "snapshots/"] {
        let asleep = |storage: &Memory, world: &Arc<World>| {
            let keeper = (storage.clone(), Arc::clone(world));
            let asleep = Before::new(storage, Operation::PutNew, point, move |_| {
                keeper.1.pass(SignedDuration::from_hours(3));
                let plan = pruned(&open(keeper.0, &keeper.1).expect("open")).expect("prune");
                assert!(plan.deleted_packs > 0, "{plan:?}");
            });
            open(asleep, world).expect("open")
        };
        let (storage, world, repo) = scene(5);
        let id = take_file(&asleep(&storage, &world), &path).expect("published").id;
        sound(&repo, id, &data);
        let (storage, world, repo) = scene(6);
        let error = take(&asleep(&storage, &world), "shop", &data).expect_err("a pipe");
        assert_eq!(error.kind(), Kind::Busy, "{error}");
        assert_eq!(repo.snapshots().expect("snapshots").0.len(), 1);
        let id = take(&repo, "shop", &data).expect("the next one succeeds").id;
        sound(&repo, id, &data);
    }
}

/// A pack that the storage has lost: files are stored again, and a pipe fails and says why. Nobody publishes what is
/// not there.
#[test]
fn a_pack_that_is_lost_is_stored_again_from_files() {
    let folder = tempfile::tempdir().expect("tempdir");
    let path = folder.path().join("shop.dump");
    let data = noise(150_000, 1);
    std::fs::write(&path, &data).expect("write");
    let (storage, world, repo) = scene(7);
    let before = storage.names();
    let harmed = take(&repo, "shop", &data).expect("take").id;
    let lost: Vec<String> =
        storage.names().into_iter().filter(|n| n.starts_with("packs/") && !before.contains(n)).collect();
    Storage::delete(&storage, &lost[0]).expect("deleted");
    world.pass(SignedDuration::from_hours(24));
    let error = take(&repo, "shop", &data).expect_err("a pipe");
    assert!(error.kind() == Kind::Damaged && error.to_string().contains(&lost[0]), "{error}");
    let id = take_file(&open(storage, &world).expect("open"), &path).expect("published").id;
    assert!(restored(&repo, &repo.snapshot(id).expect("snapshot")).expect("restore") == data);
    forget_ids(&repo, &[harmed]).expect("forget");
    sound(&repo, id, &data);
}

/// A world in which sessions beat all the time.
struct Quick(Arc<World>);

impl Env for Quick {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
    fn fill_random(&self, bytes: &mut [u8]) {
        self.0.fill_random(bytes);
    }
    fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis(1)
    }
}

/// A session beats while it loads the index, however long that takes, and claims no generation that it has not read.
#[test]
fn a_session_that_loads_its_index_for_hours_is_not_fenced() {
    let (storage, world, repo) = scene(8);
    let data = noise(150_000, 1);
    let old = take(&repo, "old", &data).expect("take").id;
    let older = take(&repo, "old", &noise(150_000, 2)).expect("take").id;
    forget_ids(&repo, &[older]).expect("forget");
    pruned(&repo).expect("prune");
    assert!(repo.newest_generation().expect("generation").0 > 0);
    let keeper = (storage.clone(), Arc::clone(&world));
    let slow = Before::new(&storage, Operation::Get, "index/", move |_| {
        let (storage, world) = keeper;
        let keeper = open(storage, &world).expect("open");
        for _ in 0..2 {
            world.pass(SignedDuration::from_hours(1));
            let live = (0..10_000).find_map(|_| {
                std::thread::sleep(Duration::from_millis(1));
                live_sessions(&keeper, None).expect("sessions").into_iter().find(|s| s.seen == world.now())
            });
            assert_eq!(live.expect("the session beats").generation, 0, "it has not read any");
        }
        forget_ids(&keeper, &[old]).expect("forget");
        let plan = pruned(&keeper).expect("prune");
        assert!(plan.waiting_packs > 0 && plan.waiting_for.len() == 1, "{plan:?}");
    });
    let env: Arc<dyn Env> = Arc::new(Quick(Arc::clone(&world)));
    let writer = Repository::open(Arc::new(slow), env, PASSPHRASE, None).expect("open");
    let id = take(&writer, "shop", &data).expect("published").id;
    sound(&repo, id, &data);
}
