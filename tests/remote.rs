//! Repositories on real servers: the suite of all stores, the crash matrix, and what networks and people do wrong.
//!
//! Credentials come from the environment, as everywhere, and a process has only one. So what needs a store is a test
//! of its own, left out by itself, that this one runs in another process with the server's environment.
#![allow(clippy::print_stdout, reason = "a matrix tells how many cases it had")]

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alluvium::env::{Cancel, Env};
use alluvium::error::Result;
use alluvium::format::coordination::Generation;
use alluvium::id::SnapshotId;
use alluvium::ops::check::{Subset, check};
use alluvium::repo::Repository;
use alluvium::repo::fence::end_dead_sessions;
use alluvium::report::Silent;
use alluvium::storage::fault::{Effect, Fault, at};
use alluvium::storage::remote::Remote;
use jiff::SignedDuration;
use tempfile::TempDir;

use crate::conformance::fresh_remote;
use crate::processes::{Ran, Scene};
use crate::proxy::{Faults, Proxy};
use crate::services::{BUCKET, Service, What, Who, shared};
use crate::support::{PASSPHRASE, World, dump, forget_ids, init, noise, pruned, restored, take};

/// Runs one of the tests that need a store at `address`.
fn at_an_address(service: &Service, address: &str, test: &str) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--ignored", "--nocapture"]).env("ALLUVIUM_TEST_ADDRESS", address);
    let output = command.envs(service.environment()).output().expect("this program starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let ran = said.contains("1 passed");
    assert!(output.status.success() && ran, "{address}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said.lines().filter(|line| line.starts_with("crash matrix")).for_each(|line| println!("{line} ({address})"));
}

/// The suite, and every crash of a snapshot and of a prune, on a server.
fn is_safe(what: What) {
    let service = shared(what);
    at_an_address(service, &service.place(), "conformance::the_store_at_an_address_conforms");
    at_an_address(service, &service.place(), "remote::a_store_at_an_address_survives_every_crash");
}

#[test]
fn s3_is_safe() {
    is_safe(What::SeaweedFs);
}

#[test]
fn azure_is_safe() {
    is_safe(What::Azurite);
}

#[test]
fn sftp_is_safe() {
    is_safe(What::Sftp);
}

#[test]
fn webdav_is_safe() {
    is_safe(What::WsgiDav);
    is_safe(What::RcloneWebDav);
}

/// Google's emulator and rclone's S3 take no notice of conditions: for one writer at a time. (rclone's fails the part of
/// the suite that deletes the name of a folder, by an answer 500. No repository does that.)
#[test]
fn careless_stores_are_safe_for_one_writer() {
    let single = |service: &Service| format!("{}&single-writer=true", service.place());
    let (rclone, google) = (shared(What::RcloneS3), shared(What::Gcs));
    at_an_address(google, &single(google), "conformance::the_store_at_an_address_conforms");
    for service in [rclone, google] {
        at_an_address(service, &single(service), "remote::a_store_at_an_address_survives_every_crash");
    }
}

/// `init` finds out that a store is careless, and says so; an ordinary repository that was carried to one is not
/// written to.
#[test]
fn a_careless_store_is_caught() {
    let service = shared(What::RcloneS3);
    let scene = Scene::new(Some(service.place().into()), service.environment());
    let taken = scene.run("cache", &["snapshot", "--name", "shop", "-"], &dump(500, 0));
    assert_eq!(taken.status.code(), Some(0), "{taken}");
    assert!(taken.document()["warnings"].to_string().contains("one writer"), "{taken}");
    let good = shared(What::SeaweedFs);
    let ordinary = Scene::new(Some(good.place().into()), good.environment());
    let taken = ordinary.run("cache", &["snapshot", "--name", "shop", "-"], &dump(500, 0));
    assert!(!taken.document()["warnings"].to_string().contains("one writer"), "{taken}");
}

/// Run by [`is_safe`]: one repository, in which every call of a snapshot and of a prune is once the last of its machine.
/// (The same in memory, with much more around it, is `tests/crash.rs`.)
#[test]
#[ignore = "needs a store: set ALLUVIUM_TEST_ADDRESS"]
fn a_store_at_an_address_survives_every_crash() {
    let address = std::env::var("ALLUVIUM_TEST_ADDRESS").expect("ALLUVIUM_TEST_ADDRESS");
    // A crash takes seconds where each object is looked for, uploaded and moved.
    let cache = tempfile::tempdir().expect("a folder");
    let scene = Scarred { storage: Fault::new(fresh_remote(&address)), world: World::new(31), cache };
    take(&init(scene.storage.clone(), &scene.world), "wiki", &dump(200, 0)).expect("take");
    let mut whole = vec![dump(200, 0)];
    for offset in 0..SNAPSHOT_STEP {
        scene.crash_everywhere("snapshot", SNAPSHOT_STEP, offset, &mut |day, repo| {
            whole.push(dump(200, day));
            take(repo, "shop", &dump(200, day)).map(|_| ())
        });
        // What the dead have left would make every later snapshot rely on more packs.
        pruned(&scene.open()).expect("prune");
    }
    let (snapshots, _) = scene.open().snapshots().expect("snapshots");
    let oldest: Vec<_> = snapshots.iter().rev().take(1).map(|s| s.id).collect();
    forget_ids(&scene.open(), &oldest).expect("forget");
    for offset in 0..PRUNE_STEP {
        scene.crash_everywhere("prune", PRUNE_STEP, offset, &mut |_, repo| pruned(repo).map(|_| ()));
    }
    // The machine is well again, and all that died is known to be dead.
    scene.world.pass(SignedDuration::from_hours(2));
    let repo = scene.open();
    pruned(&repo).expect("prune");
    let found = check(&repo, Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
    assert!(found.problems.is_empty() && found.garbage_packs == 0, "{found:?}");
    let (snapshots, unreadable) = repo.snapshots().expect("snapshots");
    assert!(unreadable.is_empty() && snapshots.len() >= 2, "{} snapshots, {unreadable:?}", snapshots.len());
    for snapshot in &snapshots {
        assert!(
            whole.contains(&restored(&repo, snapshot).expect("restore")),
            "{} holds what nobody stored",
            snapshot.id
        );
    }
}

/// Who died leaves more for the next one to do: one call further each time, the end would never come nearer.
const SNAPSHOT_STEP: usize = 5;
/// A prune leaves packs that the next one repacks, blob by blob.
const PRUNE_STEP: usize = 17;

/// A store whose machines die again and again.
struct Scarred {
    storage: Fault<Remote>,
    world: Arc<World>,
    cache: TempDir,
}

impl Scarred {
    /// The machine again, or another one with a copy of its cache.
    fn open(&self) -> Repository {
        self.storage.heal();
        let (storage, world) = (Arc::new(self.storage.clone()), Arc::clone(&self.world) as Arc<dyn Env>);
        Repository::open(storage, world, PASSPHRASE, Some(self.cache.path())).expect("open")
    }

    /// Does `work`, dies at its call `offset`, does it again, dies `step` calls later, and so on; before each and after.
    fn crash_everywhere(
        &self,
        name: &str,
        step: usize,
        offset: usize,
        work: &mut dyn FnMut(usize, &Repository) -> Result<()>,
    ) {
        let mut crashes = 0;
        for before in [true, false] {
            for k in (offset..).step_by(step) {
                // Who died before is known to be dead: a store for one writer lets the next one in.
                self.world.pass(SignedDuration::from_hours(2));
                let repo = self.open();
                let first = self.storage.operations();
                self.storage.when(at(first + k), if before { Effect::Die } else { Effect::DieAfter });
                let result = work(1 + crashes % 7, &repo);
                if !self.storage.is_off() {
                    result.unwrap_or_else(|e| panic!("{name} without a crash, after {crashes} crashes: {e}"));
                    break;
                }
                crashes += 1;
                let after = self.open();
                end_dead_sessions(&after, SnapshotId::random(self.world.as_ref()), &Generation::default())
                    .expect("tidied");
                let (snapshots, unreadable) = after.snapshots().expect("snapshots");
                assert!(unreadable.is_empty() && !snapshots.is_empty(), "{name}, call {k}: {unreadable:?}");
            }
        }
        assert!(crashes > 1, "{name} made {crashes} calls");
        println!("crash matrix: {name}: {crashes} crashes survived");
    }
}

// ---- networks --------------------------------------------------------------------------------

/// Runs until it succeeds. Every failure on the way is a clear one.
fn insist(scene: &Scene, arguments: &[&str], input: &[u8]) -> (Ran, u32) {
    let mut failures = 0;
    loop {
        let ran = scene.run("cache", arguments, input);
        if ran.status.success() {
            return (ran, failures);
        }
        assert!(ran.ended_clearly() && ran.err.contains("error"), "{ran}");
        failures += 1;
        assert!(failures < 8, "{arguments:?} never succeeds: {ran}");
    }
}

/// 5 % of the requests fail and 1 % are cut in the middle: every command completes, or fails clearly and
/// completes when it is run again.
#[test]
fn a_bad_network_only_takes_longer() {
    for what in [What::SeaweedFs, What::Azurite] {
        let service = shared(what);
        let proxy = Proxy::http(service.port(), 5);
        let scene = Scene::new(Some(service.place_over(proxy.port()).into()), service.environment());
        proxy.set(Faults {
            answer: 0.05,
            statuses: vec![500, 503, 429],
            cut: 0.01,
            truncate: 0.01,
            ..Faults::default()
        });
        let mut failures = 0;
        for day in 0..4 {
            let data = dump(40_000, day);
            let (ran, failed) = insist(&scene, &["snapshot", "--name", "shop", "-"], &data);
            scene.remember(&ran, &data);
            failures += failed;
        }
        for command in [
            &["check", "--read-data"][..],
            &["snapshots"],
            &["stats"],
            &["restore", "shop"],
            &["forget", "--keep-last", "2", "--prune"],
            &["key", "list"],
        ] {
            failures += insist(&scene, command, &[]).1;
        }
        assert!(proxy.counts().faults > 10, "{:?}", proxy.counts());
        proxy.set(Faults::default());
        assert_eq!(scene.verify("cache"), 2);
        println!("{what:?}: {:?}, {failures} commands had to be run again", proxy.counts());
    }
}

/// The server dies in the middle of an upload, and comes back.
#[test]
fn a_server_that_dies_in_an_upload_harms_nothing() {
    let service = Service::start(What::SeaweedFs);
    let scene = Scene::new(Some(service.place().into()), service.environment());
    let first = dump(20_000, 0);
    scene.remember(&insist(&scene, &["snapshot", "--name", "shop", "-"], &first).0, &first);
    let data = noise(60_000_000, 3);
    let ran = std::thread::scope(|scope| {
        let taking = scope.spawn(|| scene.run("cache", &["snapshot", "--name", "big", "-"], &data));
        std::thread::sleep(Duration::from_millis(500));
        service.kill();
        taking.join().expect("no panic")
    });
    assert!(!ran.status.success() && ran.ended_clearly(), "{ran}");
    service.restart();
    scene.remember(&insist(&scene, &["snapshot", "--name", "big", "-"], &data).0, &data);
    assert_eq!(scene.verify("another"), 2);
}

/// Nothing waits for ever, and every message says what to do.
#[test]
fn what_people_get_wrong_is_told_within_bounds() {
    let service = shared(What::SeaweedFs);
    let (port, environment) = (service.port(), service.environment());
    let place = service.place();
    let scene = Scene::new(Some(place.clone().into()), environment.clone());
    let asked = |address: &str, environment: &[(&'static str, String)]| {
        let begun = Instant::now();
        let ran = scene.at(address, environment).run("cache", &["snapshots"], &[]);
        assert!(!ran.status.success() && ran.ended_clearly(), "{address}: {ran}");
        assert!(begun.elapsed() < Duration::from_mins(1), "{address} took {:?}", begun.elapsed());
        let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap_or_else(|e| panic!("{e}: {ran}"));
        assert!(error["error"]["hint"].is_string(), "{address}: no advice: {ran}");
        assert!(!ran.err.contains("a-secret-of-the-tests"), "{address}: {ran}");
        error["error"].to_string().to_lowercase()
    };
    // Nobody listens: port 1 is nobody's.
    let refused = asked("s3://alluvium/x?endpoint=http://127.0.0.1:1", &environment);
    assert!(refused.contains("127.0.0.1:1") || refused.contains("reach"), "{refused}");
    let unknown = asked("s3://alluvium/x?endpoint=http://host.invalid:9000", &environment);
    assert!(unknown.contains("host.invalid"), "{unknown}");
    let missing = asked(&service.address(port, "no-such-bucket", "x"), &environment);
    assert!(missing.contains("bucket"), "{missing}");
    let mut wrong = environment.clone();
    wrong.iter_mut().filter(|(name, _)| *name == "AWS_SECRET_ACCESS_KEY").for_each(|(_, v)| *v = "wrong".to_owned());
    let denied = asked(&place, &wrong);
    assert!(denied.contains("denied") && denied.contains("credential"), "{denied}");
    let certificate = asked(&place.replace("endpoint=http:", "endpoint=https:"), &environment);
    assert!(certificate.contains("http and https do not match"), "{certificate}");
    let other = service.bucket("other-things");
    assert_eq!(service.s3(Who::Owner).put(&format!("/{other}/holiday/photo.jpg"), b"x").status, 200);
    let foreign = asked(&service.address(port, &other, "holiday"), &environment);
    assert!(foreign.contains("photo.jpg"), "{foreign}");
    // What is inside a repository would be no object of it, and its check would complain for ever.
    let outer = service.place();
    let init = |address: &str| scene.at(address, &environment).run("cache", &["init"], &[]);
    assert!(init(&outer).status.success());
    for inside in ["/inner?", "/packs/inner?"].map(|inside| outer.replacen('?', inside, 1)) {
        let refused = init(&inside);
        assert!(!refused.status.success() && refused.err.contains("is inside the repository"), "{refused}");
    }
    // A secret in the address is refused, and not repeated.
    let leaked = asked("s3://alluvium/x?secret_access_key=a-secret-of-the-tests", &environment);
    assert!(leaked.contains("usage"), "{leaked}");
    // A server that takes every request and answers none.
    let proxy = Proxy::http(port, 1);
    let hole = format!("{}&timeout=3s&retries=1", service.address(proxy.port(), BUCKET, "x"));
    proxy.set(Faults { black_hole: true, ..Faults::default() });
    let silent = asked(&hole, &environment);
    assert!(silent.contains("answer") || silent.contains("time"), "{silent}");
}

// ---- what must not be deleted ----------------------------------------------------------------

/// Everything but prune goes without the right to delete; forget and prune say what they could not remove.
#[test]
fn without_the_right_to_delete_all_but_prune_works() {
    let service = shared(What::SeaweedFs);
    let bucket = service.bucket_that_keeps("keeps");
    let address = service.address(service.port(), &bucket, "shop");
    let scene = Scene::new(Some(address.clone().into()), service.environment_of(Who::Writer));
    let mut days = Vec::new();
    for day in 0..3 {
        days.push(dump(5_000, day));
        let ran = scene.run("cache", &["snapshot", "--name", "shop", "-"], &days[day]);
        assert_eq!(ran.status.code(), Some(0), "{ran}");
        scene.remember(&ran, &days[day]);
    }
    assert_eq!(scene.verify("cache"), 3);
    let forget = scene.run("cache", &["forget", "--keep-last", "1"], &[]);
    assert_eq!(forget.status.code(), Some(3), "{forget}");
    assert_eq!(forget.document()["problems"].as_array().map(Vec::len), Some(2), "{forget}");
    let prune = scene.run("cache", &["prune"], &[]);
    assert_eq!(prune.status.code(), Some(1), "{prune}");
    assert!(prune.err.contains("denied") && prune.err.contains("nothing was pruned"), "{prune}");
    assert_eq!(scene.verify("cache"), 3);
    // The one who may, can.
    let owner = scene.at(&address, &service.environment());
    for command in [&["forget", "--keep-last", "1"][..], &["prune"]] {
        let ran = owner.run("owner", command, &[]);
        assert_eq!(ran.status.code(), Some(0), "{ran}");
    }
    assert_eq!(scene.verify("fresh"), 1);
}

/// Object lock is set on what a restore needs, and on nothing that is replaced or deleted in daily work.
#[test]
fn object_lock_is_set_on_upload() {
    let service = shared(What::SeaweedFs);
    let bucket = service.bucket_with_lock("locked");
    let address = format!("{}&object-lock=compliance&retain=2d", service.address(service.port(), &bucket, "shop"));
    let scene = Scene::new(Some(address.into()), service.environment());
    let data = dump(5_000, 0);
    let ran = scene.run("cache", &["snapshot", "--name", "shop", "-"], &data);
    assert_eq!(ran.status.code(), Some(0), "{ran}");
    scene.remember(&ran, &data);
    let listing = service.s3(Who::Owner).get(&format!("/{bucket}?list-type=2")).text().into_owned();
    let keys: Vec<&str> = listing.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()).collect();
    let locked = |key: &str| {
        let answer = service.s3(Who::Owner).get(&format!("/{bucket}/{key}?retention="));
        answer.status == 200 && answer.text().contains("COMPLIANCE")
    };
    for folder in ["config", "keys/", "packs/", "index/", "snapshots/"] {
        let of_folder: Vec<&&str> = keys.iter().filter(|key| key.starts_with(&format!("shop/{folder}"))).collect();
        assert!(!of_folder.is_empty(), "nothing in {folder}: {keys:?}");
        assert!(of_folder.iter().all(|key| locked(key)), "{folder} is not locked");
    }
    assert!(keys.iter().filter(|key| key.contains("/sessions/")).all(|key| !locked(key)), "{keys:?}");
    assert_eq!(scene.verify("cache"), 1);
}
