//! Repositories in a storage that can't create exclusively: what makes one, and what keeps a second writer out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alluvium::error::{Kind, Result};
use alluvium::repo::open::read_config;
use alluvium::repo::session::{Session, Writing};
use alluvium::report::{Collect, Silent};
use alluvium::storage::memory::Memory;
use alluvium::storage::probe::{Probed, probe};
use alluvium::storage::{Listed, Storage};
use jiff::SignedDuration;

use crate::support::{World, dump, init, open, pruned, restored, take, take_with};

/// A store that ignores conditions, as some servers do. Clones share it.
#[derive(Clone, Default)]
struct Careless {
    inner: Memory,
    alone: Arc<AtomicBool>,
}

impl Storage for Careless {
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        if self.alone.load(Ordering::SeqCst) { self.inner.put_new(name, bytes) } else { self.put_replace(name, bytes) }
    }
    fn put_replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.inner.put_replace(name, bytes)
    }
    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        self.inner.get(name, bytes_max)
    }
    fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.inner.get_range(name, offset, len)
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.inner.list(prefix)
    }
    fn stat(&self, name: &str) -> Result<Option<u64>> {
        self.inner.stat(name)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }
    fn location(&self) -> String {
        "a careless store".to_owned()
    }
    fn exclusive(&self) -> bool {
        !self.alone.load(Ordering::SeqCst)
    }
    fn set_single_writer(&self) {
        self.alone.store(true, Ordering::SeqCst);
    }
}

fn writing() -> Writing {
    Writing { host: "host".to_owned(), purpose: "snapshot".to_owned() }
}

#[test]
fn the_probe_finds_out_and_the_config_remembers() {
    let store = Careless::default();
    assert_eq!(probe(&store, 1).expect("probes"), Probed { exclusive: false, lists_after_write: true, ranges: true });
    assert!(store.inner.names().is_empty(), "the probe is gone");
    assert_eq!(
        probe(&Memory::new(), 1).expect("probes"),
        Probed { exclusive: true, lists_after_write: true, ranges: true }
    );

    store.set_single_writer();
    let world = World::new(1);
    let repo = init(store.clone(), &world);
    assert_eq!(read_config(&store).expect("reads").required_features, ["single-writer"]);
    drop(repo);
    // Another program, which knows the storage only by its address.
    let other = Careless { inner: store.inner.clone(), alone: Arc::default() };
    assert!(other.exclusive());
    open(other.clone(), &world).expect("opens");
    assert!(!other.exclusive(), "the config says so");

    let ordinary = Memory::new();
    init(ordinary.clone(), &world);
    assert!(read_config(&ordinary).expect("reads").required_features.is_empty());
}

#[test]
fn a_second_writer_is_refused_until_the_first_has_ended_or_is_dead() {
    let store = Careless::default();
    store.set_single_writer();
    let world = World::new(2);
    let repo = init(store.clone(), &world);
    let first = Session::begin(&repo, &writing(), &Silent).expect("alone");
    let objects = store.inner.names();

    let refused = take(&repo, "shop", &dump(100, 0)).expect_err("the first is at work");
    assert_eq!(refused.kind(), Kind::Busy, "{refused}");
    assert!(refused.advice().is_some_and(|text| text.contains("one writer")), "{refused:?}");
    assert_eq!(pruned(&repo).expect_err("prune is a writer").kind(), Kind::Busy);
    assert_eq!(store.inner.names(), objects, "nothing is left of those that were refused");

    drop(first);
    let report = Collect::default();
    take_with(&repo, "shop", &dump(100, 0), &report).expect("alone again");
    assert!(report.warnings().iter().any(|text| text.contains("only one writer")), "{:?}", report.warnings());

    // One that was killed counts for an hour.
    let killed = Session::begin(&repo, &writing(), &Silent).expect("alone");
    let traces: Vec<_> = store.list("sessions/").expect("lists").into_iter().map(|o| o.name).collect();
    let traces: Vec<_> = traces.iter().map(|name| (name, store.get(name, u64::MAX).expect("reads"))).collect();
    drop(killed);
    for (name, bytes) in traces {
        store.put_replace(name, &bytes).expect("puts back");
    }
    assert_eq!(take(&repo, "shop", &dump(100, 1)).expect_err("perhaps alive").kind(), Kind::Busy);
    world.pass(SignedDuration::from_mins(61));
    take(&repo, "shop", &dump(100, 1)).expect("the other one is dead");
    let (snapshots, _) = repo.snapshots().expect("lists");
    assert_eq!(restored(&repo, &snapshots[0]).expect("restores"), dump(100, 1));
}
