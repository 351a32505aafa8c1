//! The local index against a model, against other processes, against crashes and against damage.
//!
//! The world of these tests: packs whose blobs overlap, index objects whose packs overlap. What the
//! index must answer follows from which objects are loaded, nothing else.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use alluvium::error::{Kind, Result};
use alluvium::format::index::{IndexObject, IndexedPack};
use alluvium::format::pack::{BlobEntry, Codec, WrappedKey, blobs_end, with_offsets};
use alluvium::format::signed::Claim;
use alluvium::id::{BlobId, DataKeyId, IndexId, PackId, RepoId, SlotId, SnapshotId};
use alluvium::repo::index::{Index, IndexSource, KnownPack, Location};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};

const REPO: RepoId = RepoId([7; 16]);
const PACKS: u64 = 12;
const OBJECTS: u64 = 8;
const BLOBS: u64 = 300;

fn named(kind: u8, n: u64) -> [u8; 16] {
    blake3::hash(&[&[kind][..], &n.to_le_bytes()].concat()).as_bytes()[..16].try_into().unwrap()
}

/// Some ids share their first four bytes, as a few do in a large repository.
fn blob(n: u64) -> BlobId {
    let mut id = *blake3::hash(&n.to_le_bytes()).as_bytes();
    if n >= 2 * BLOBS {
        return BlobId(id);
    }
    id[..4].copy_from_slice(&(n as u32 % 250).wrapping_mul(0x9e37_79b9).to_be_bytes());
    BlobId(id)
}

/// The slot that wrote every pack and index object.
const AUTHOR: SlotId = SlotId([1; 16]);

fn index_id(n: u64) -> IndexId {
    IndexId(named(b'i', n))
}

fn key(n: u64, epoch: u32) -> WrappedKey {
    WrappedKey { id: DataKeyId(named(b'k', n)), epoch, kem_output: [n as u8; 1120], sealed: [epoch as u8; 48] }
}

fn entry(n: u64) -> BlobEntry {
    let codec = if n.is_multiple_of(3) { Codec::Raw } else { Codec::Zstd };
    BlobEntry { id: blob(n), codec, raw_len: 1000 + (n % 900) as u32, stored_len: 100 + (n % 900) as u32, base: None }
}

fn pack_of(n: u64, blobs: impl Iterator<Item = u64>) -> IndexedPack {
    let entries: Vec<_> = blobs.map(entry).collect();
    let (id, session, key) = (PackId(named(b'p', n)), SnapshotId(named(b's', n / 3)), key(n / 3, 1).id);
    let claim = Claim { author: AUTHOR, time: 0 };
    IndexedPack { id, size: blobs_end(&entries) + 100, session, claim, key, entries }
}

/// The packs overlap; each holds one blob twice; the last is empty.
fn pack(n: u64) -> IndexedPack {
    let len = if n + 1 == PACKS { 0 } else { 40 + n * 20 };
    pack_of(n, (0..len).map(move |i| if i == 17 { n * 50 } else { (n * 50 + i) % BLOBS }))
}

fn object_of(packs: impl Iterator<Item = IndexedPack>) -> IndexObject {
    IndexObject { packs: packs.collect(), keys: (0..=PACKS / 3).map(|n| key(n, 1)).collect() }
}

/// The packs that object `n` lists.
fn packs_of(n: u64) -> impl Iterator<Item = u64> {
    (0..PACKS).filter(move |pack| (pack + n).is_multiple_of(3) || pack / 2 == n)
}

fn object(n: u64) -> IndexObject {
    object_of(packs_of(n).map(pack))
}

/// `count` objects of one pack each, of ids that overlap nowhere.
fn many(count: u64, blobs: u64) -> impl Iterator<Item = (IndexId, IndexObject)> {
    (1000..1000 + count).map(move |n| (index_id(n), object_of([pack_of(n, n * blobs..(n + 1) * blobs)].into_iter())))
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache").join("index.sqlite");
    (folder, path)
}

fn open(path: &Path) -> Index {
    patient(|| Index::open(path, REPO)).unwrap()
}

fn anywhere(_: &Location) -> bool {
    true
}

type Copies = BTreeMap<BlobId, BTreeSet<(PackId, u32)>>;

/// Which copies there must be when these objects are loaded.
fn expected(loaded: &BTreeSet<u64>) -> Copies {
    let mut copies = Copies::new();
    for pack in loaded.iter().flat_map(|n| packs_of(*n)).collect::<BTreeSet<_>>().into_iter().map(pack) {
        for (offset, entry) in with_offsets(&pack.entries) {
            copies.entry(entry.id).or_default().insert((pack.id, offset));
        }
    }
    copies
}

/// The index answers as its loaded objects demand, by every question that it can be asked.
fn assert_agrees(index: &Index, loaded: &BTreeSet<u64>) {
    assert_eq!(index.loaded().unwrap(), loaded.iter().map(|n| index_id(*n)).collect());
    let copies = expected(loaded);
    for n in 0..BLOBS + 20 {
        let want = copies.get(&blob(n)).cloned().unwrap_or_default();
        let BlobEntry { codec, raw_len, stored_len, .. } = entry(n);
        let at = |l: &Location| {
            assert_eq!((l.codec, l.raw_len, l.stored_len), (codec, raw_len, stored_len));
            (l.pack, l.offset)
        };
        let found = index.lookup(&blob(n), &anywhere).unwrap().map(|l| at(&l));
        assert!(found.map_or(want.is_empty(), |place| want.contains(&place)), "blob {n}: {found:?} of {want:?}");
        assert_eq!(index.copies(&blob(n)).unwrap().iter().map(at).collect::<BTreeSet<_>>(), want);
        if let Some(last) = want.last() {
            let particular = index.lookup(&blob(n), &|l| (l.pack, l.offset) == *last).unwrap();
            assert_eq!(particular.map(|l| at(&l)), Some(*last), "the copy that is usable is found");
        }
        assert_eq!(index.lookup(&blob(n), &|_| false).unwrap(), None);
    }
    assert_packs_agree(index, loaded);
}

fn assert_packs_agree(index: &Index, loaded: &BTreeSet<u64>) {
    let numbers: BTreeSet<u64> = loaded.iter().flat_map(|n| packs_of(*n)).collect();
    let known: BTreeMap<PackId, KnownPack> = index.packs().unwrap().into_iter().map(|p| (p.id, p)).collect();
    assert_eq!(known.len(), numbers.len());
    for n in 0..PACKS {
        let pack = pack(n);
        let entries: Vec<_> = with_offsets(&pack.entries).map(|(offset, e)| (offset, e.clone())).collect();
        if !numbers.contains(&n) {
            assert_eq!(index.entries(&pack.id).unwrap(), vec![]);
            continue;
        }
        assert_eq!(index.entries(&pack.id).unwrap(), entries);
        let known = known[&pack.id];
        assert_eq!((known.size, known.session, known.key), (pack.size, pack.session, pack.key));
        assert_eq!(known.blobs, entries.len() as u64);
        assert_eq!(index.wrapped_key(pack.key).unwrap(), Some(key(n / 3, 1)));
    }
    let totals = index.totals().unwrap();
    assert_eq!(totals.packs, numbers.len() as u64);
    assert_eq!(totals.blobs, known.values().map(|p| p.blobs).sum::<u64>());
    assert_eq!(totals.raw_bytes, known.values().map(|p| p.raw_bytes).sum::<u64>());
    assert_eq!(totals.stored_bytes, known.values().map(|p| p.stored_bytes).sum::<u64>());
}

#[derive(Clone, Debug)]
enum Step {
    Add(u64),
    AddAll(BTreeSet<u64>),
    Remove(BTreeSet<u64>),
    Invalidate,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::btree_set(0..OBJECTS, 0..4);
    prop_oneof![
        4 => (0..OBJECTS).prop_map(Step::Add),
        2 => some().prop_map(Step::AddAll),
        3 => some().prop_map(Step::Remove),
        1 => Just(Step::Invalidate),
        1 => Just(Step::Reopen),
    ]
}

/// Takes a step and tells the model.
fn take(step: Step, index: &Index, loaded: &mut BTreeSet<u64>) {
    match step {
        Step::Add(n) => {
            index.add(index_id(n), AUTHOR, &object(n)).unwrap();
            loaded.insert(n);
        }
        Step::AddAll(some) => {
            index.add_all(some.iter().map(|n| Ok((index_id(*n), AUTHOR, object(*n))))).unwrap();
            loaded.extend(some);
        }
        Step::Remove(some) => {
            index.remove(&some.iter().map(|n| index_id(*n)).collect::<Vec<_>>()).unwrap();
            loaded.retain(|n| !some.contains(n));
        }
        Step::Invalidate => {
            index.invalidate().unwrap();
            loaded.clear();
        }
        Step::Reopen => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Two handles on one file, as two processes have them: each sees what both did.
    #[test]
    fn answers_like_the_model(steps in prop::collection::vec((any::<bool>(), step()), 1..9)) {
        let (_folder, path) = folder();
        let mut handles = [open(&path), open(&path)];
        let mut loaded = BTreeSet::new();
        for (which, step) in steps {
            if matches!(step, Step::Reopen) {
                handles[usize::from(which)] = open(&path);
            }
            take(step, &handles[usize::from(which)], &mut loaded);
            for index in &handles {
                assert_agrees(index, &loaded);
            }
        }
    }

    #[test]
    fn answers_like_the_model_without_a_file(steps in prop::collection::vec(step(), 1..6)) {
        let (index, mut loaded) = (Index::in_memory(REPO).unwrap(), BTreeSet::new());
        for step in steps {
            take(step, &index, &mut loaded);
            assert_agrees(&index, &loaded);
        }
    }
}

#[test]
fn a_pack_lives_while_one_object_lists_it() {
    let index = Index::in_memory(REPO).unwrap();
    let everything = object_of((0..PACKS).map(pack));
    (0..OBJECTS).for_each(|n| index.add(index_id(n), AUTHOR, &object(n)).unwrap());
    let before = index.totals().unwrap();
    // A compaction: the new object first, then the old ones go.
    index.add(index_id(99), AUTHOR, &everything).unwrap();
    index.remove(&(0..OBJECTS).map(index_id).collect::<Vec<_>>()).unwrap();
    assert_eq!(index.totals().unwrap(), before);
    assert!(index.lookup(&blob(3), &anywhere).unwrap().is_some());
    index.remove(&[index_id(99)]).unwrap();
    assert_eq!(index.totals().unwrap(), alluvium::repo::index::Totals::default());
    assert_eq!(index.wrapped_key(key(0, 1).id).unwrap(), None);
}

/// A wrapped key in an index object is a hint, and the pack's header decides: what others say later replaces none.
#[test]
fn the_first_wrapping_of_a_data_key_stays() {
    let index = Index::in_memory(REPO).unwrap();
    for (n, epoch) in [(0, 1), (1, 3), (2, 2)] {
        let object = IndexObject { keys: vec![key(0, epoch)], packs: vec![pack(0)] };
        index.add(index_id(n), AUTHOR, &object).unwrap();
    }
    assert_eq!(index.wrapped_key(key(0, 1).id).unwrap(), Some(key(0, 1)));
}

/// A slot that is distrusted may list its packs in the name of another.
#[test]
fn packs_that_only_some_slots_list_in_the_name_of_another() {
    let (_folder, path) = folder();
    let index = open(&path);
    let other = SlotId([2; 16]);
    let mut own = pack(101);
    own.claim.author = other;
    index.add(index_id(0), AUTHOR, &object_of([pack(0)].into_iter())).unwrap();
    index.add(index_id(1), other, &object_of([pack(0), pack(100), own].into_iter())).unwrap();
    assert_eq!(index.packs_listed_only_by(&[other]).unwrap(), [pack(100).id]);
    assert_eq!(index.packs_listed_only_by(&[SlotId([3; 16])]).unwrap(), []);
    index.add(index_id(2), SlotId([3; 16]), &object_of([pack(100)].into_iter())).unwrap();
    assert_eq!(index.packs_listed_only_by(&[other]).unwrap(), []);
    assert_eq!(index.packs_listed_only_by(&[other, SlotId([3; 16])]).unwrap(), [pack(100).id]);
}

/// Block numbers of a transaction that failed are used again by others; nobody's filter may believe
/// that it knows them.
#[test]
fn an_object_that_contradicts_another_is_damage_and_leaves_no_trace() {
    let (_folder, path) = folder();
    let (index, other) = (open(&path), open(&path));
    index.add(index_id(0), AUTHOR, &object(0)).unwrap();
    let mut liar = object_of([pack(1), pack(2), pack(0)].into_iter());
    liar.packs[2].size += 1;
    let error = index.add(index_id(66), AUTHOR, &liar).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains(&index_id(66).to_string()), "{error}");
    assert_agrees(&index, &[0].into());
    other.add(index_id(5), AUTHOR, &object(5)).unwrap();
    assert_agrees(&index, &[0, 5].into());
}

#[test]
fn an_error_of_the_iterator_keeps_what_came_before() {
    let index = Index::in_memory(REPO).unwrap();
    let failure = || alluvium::error::Error::new(Kind::Storage, "unreachable");
    let objects = [Ok((index_id(0), AUTHOR, object(0))), Err(failure()), Ok((index_id(1), AUTHOR, object(1)))];
    assert_eq!(index.add_all(objects).unwrap_err().kind(), Kind::Storage);
    assert_agrees(&index, &[0].into());
}

/// The filter starts with room for 52 000 blobs: it grows four times here.
#[test]
fn the_filter_grows_is_kept_and_never_denies_what_was_added() {
    let (_folder, path) = folder();
    let index = open(&path);
    let (count, blobs) = (40, 10_000);
    for (n, (id, object)) in many(count, blobs).enumerate() {
        index.add(id, AUTHOR, &object).unwrap();
        for entry in object.packs[0].entries.iter().step_by(1 + n * 20) {
            assert!(index.lookup(&entry.id, &anywhere).unwrap().is_some());
        }
    }
    let misses = |index: &Index| {
        let unknown = 5_000_000..5_050_000;
        unknown.clone().for_each(|n| assert_eq!(index.lookup(&blob(n), &anywhere).unwrap(), None));
        index.filter_misses() as f64 / unknown.count() as f64
    };
    let share = misses(&index);
    assert!(share > 0.98, "the filter answered only {share} of the lookups of new chunks");
    drop(index);
    let again = open(&path);
    let known = many(count, blobs).flat_map(|(_, object)| object.packs.into_iter().flat_map(|pack| pack.entries));
    for entry in known.step_by(97) {
        assert!(again.lookup(&entry.id, &anywhere).unwrap().is_some());
    }
    assert_eq!(again.filter_misses(), 0, "not one known chunk was denied");
    assert!((misses(&again) - share).abs() < 0.01);
}

#[test]
fn the_stale_filter_of_another_process_misleads_no_reader() {
    let (_folder, path) = folder();
    let (writer, reader) = (open(&path), open(&path));
    writer.add(index_id(0), AUTHOR, &object(0)).unwrap();
    let id = object(0).packs[0].entries[0].id;
    assert!(!reader.copies(&id).unwrap().is_empty(), "a reader does not ask the filter");
    reader.loaded().unwrap();
    assert!(reader.lookup(&id, &anywhere).unwrap().is_some(), "the filter has caught up");
    writer.invalidate().unwrap();
    reader.loaded().unwrap();
    assert_eq!(reader.copies(&id).unwrap(), vec![]);
}

#[test]
fn several_processes_and_threads_work_at_once() {
    let (_folder, path) = folder();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let path = &path;
            scope.spawn(move || {
                // All open the file at the same moment, when it does not exist yet.
                let index = open(path);
                let mine = || many(40, 300).skip(part).step_by(4);
                for (id, object) in mine() {
                    index.add(id, AUTHOR, &object).unwrap();
                    assert!(object.packs[0].entries.iter().all(|e| index.lookup(&e.id, &anywhere).unwrap().is_some()));
                }
                index.remove(&mine().map(|(id, _)| id).take(3).collect::<Vec<_>>()).unwrap();
            });
        }
    });
    let index = open(&path);
    assert_eq!(index.loaded().unwrap().len(), 40 - 4 * 3);
    assert_eq!(index.totals().unwrap().blobs, 28 * 300);
    std::thread::scope(|scope| {
        for part in 0..4 {
            let index = &index;
            scope.spawn(move || {
                for (id, object) in many(40, 300).skip(part) {
                    let there = index.loaded().unwrap().contains(&id);
                    for entry in &object.packs[0].entries {
                        assert_eq!(index.lookup(&entry.id, &anywhere).unwrap().is_some(), there);
                    }
                }
            });
        }
    });
}

/// The file and its log as they lie on the disk at some moment are what a crash leaves; a log that ends
/// earlier is what a power loss leaves.
#[test]
fn after_a_crash_every_loaded_object_is_whole() {
    let (_folder, path) = folder();
    let index = open(&path);
    (0..OBJECTS).for_each(|n| index.add(index_id(n), AUTHOR, &object(n)).unwrap());
    index.remove(&[index_id(2), index_id(4)]).unwrap();
    let beside = |path: &Path| PathBuf::from(format!("{}-wal", path.display()));
    let (file, log) = (std::fs::read(&path).unwrap(), std::fs::read(beside(&path)).unwrap());
    drop(index);
    let (_after, path) = folder();
    let mut seen = BTreeSet::new();
    for end in (0..=24).map(|n| log.len() * n / 24) {
        drop(open(&path));
        std::fs::write(&path, &file).unwrap();
        std::fs::write(beside(&path), &log[..end]).unwrap();
        let index = open(&path);
        let ids = index.loaded().unwrap();
        let loaded: BTreeSet<u64> = (0..OBJECTS).filter(|n| ids.contains(&index_id(*n))).collect();
        assert_agrees(&index, &loaded);
        seen.insert(loaded);
    }
    assert!(seen.len() > 4, "the crash came at different moments: {seen:?}");
    assert!(seen.contains(&[0, 1, 3, 5, 6, 7].into()), "a whole log loses nothing");
}

/// A file that was just closed may be busy for a moment: a program that another test starts holds what this process had
/// open until it runs.
fn patient<T>(work: impl Fn() -> Result<T, alluvium::error::Error>) -> Result<T, alluvium::error::Error> {
    for _ in 0..100 {
        match work() {
            Err(e) if e.kind() == Kind::Busy => std::thread::sleep(std::time::Duration::from_millis(20)),
            other => return other,
        }
    }
    work()
}

/// The index objects `0..OBJECTS`, as a storage gives them.
struct Stored;

impl IndexSource for Stored {
    fn list(&self) -> Result<BTreeMap<IndexId, u64>> {
        Ok((0..OBJECTS).map(|n| (index_id(n), 1000)).collect())
    }

    fn read(&self, ids: &[IndexId]) -> Vec<Result<(SlotId, IndexObject)>> {
        let number = |id: &IndexId| (0..OBJECTS).find(|n| index_id(*n) == *id);
        let missing = || alluvium::error::Error::new(Kind::NotFound, "no such object");
        ids.iter().map(|id| number(id).map(|n| (AUTHOR, object(n))).ok_or_else(missing)).collect()
    }
}

/// Opens the file as a repository does, with the warnings that it gives.
fn open_resilient(path: &Path, fresh: bool) -> (Index, Arc<Mutex<Vec<String>>>) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&warnings);
    let warn = Arc::new(move |text: &str| heard.lock().unwrap().push(text.to_owned()));
    (Index::open_or_in_memory(path, REPO, fresh, Box::new(Stored), warn).unwrap(), warnings)
}

/// Loads what is not loaded, and drops what is not there.
fn refresh(index: &Index) {
    let (loaded, listed) = (index.loaded().unwrap(), Stored.list().unwrap());
    let missing = (0..OBJECTS).filter(|n| !loaded.contains(&index_id(*n)));
    index.add_all(missing.map(|n| Ok((index_id(n), AUTHOR, object(n))))).unwrap();
    let gone: Vec<_> = loaded.difference(&listed.into_keys().collect()).copied().collect();
    if !gone.is_empty() {
        index.drop_gone(&gone).unwrap();
    }
}

/// Whatever is wrong with the file, every question is answered right; one that asks for what is missing asks again
/// after it was renewed. Returns the warnings.
fn assert_right(path: &Path, expected: &Copies, what: &str) -> Vec<String> {
    let (index, warnings) = open_resilient(path, false);
    refresh(&index);
    let mut renewed = false;
    for n in (0..BLOBS + 20).step_by(3) {
        let want = expected.get(&blob(n)).cloned().unwrap_or_default();
        let found = || {
            let copies = index.copies(&blob(n)).unwrap();
            copies.iter().map(|l| (l.pack, l.offset)).collect::<BTreeSet<_>>()
        };
        let (first, mut last) = (found(), found());
        assert!(last.is_subset(&want), "{what}: blob {n} at {last:?}, not {want:?}");
        if last != want && !renewed {
            assert!(index.renew().unwrap(), "{what}: a file that was filled can be renewed");
            (renewed, last) = (true, found());
            index.confirm_damage();
        }
        assert_eq!(last, want, "{what}: blob {n}, at first {first:?}");
    }
    assert_packs_agree(&index, &(0..OBJECTS).collect());
    let warnings = warnings.lock().unwrap().clone();
    assert!(warnings.len() <= 1, "{what}: {warnings:?}");
    assert!(warnings.iter().all(|w| w.contains("is damaged; it is rebuilt")), "{what}: {warnings:?}");
    warnings
}

#[test]
fn a_damaged_file_answers_like_a_whole_one() {
    let (_folder, path) = folder();
    let index = open(&path);
    (0..OBJECTS).for_each(|n| index.add(index_id(n), AUTHOR, &object(n)).unwrap());
    drop(index);
    let (good, right) = (std::fs::read(&path).unwrap(), expected(&(0..OBJECTS).collect()));
    assert!(assert_right(&path, &right, "the good file").is_empty());
    let begin = |bytes: &[u8]| {
        patient(|| Index::discard(&path)).unwrap();
        std::fs::write(&path, bytes).unwrap();
    };

    let mut noticed = 0;
    for at in (0..good.len()).step_by(good.len() / 200) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        begin(&bad);
        noticed += assert_right(&path, &right, &format!("bit flipped at {at}")).len();
        // Nobody has it open: this time it is whole.
        assert_right(&path, &right, &format!("again after a bit flipped at {at}"));
        assert!(!path.with_extension("sqlite.damaged").exists());
    }
    assert!(noticed > 60, "only {noticed} of 200 flipped bits were noticed");
    for len in [0, 1, 100, 4096, good.len() / 2, good.len() - 4096, good.len() - 1] {
        begin(&good[..len]);
        assert_right(&path, &right, &format!("truncated to {len}"));
    }
    for byte in [0, b'x'] {
        begin(&vec![byte; good.len()]);
        assert_right(&path, &right, "garbage");
        assert_right(&path, &right, "garbage, the second time");
    }
}

/// A file that goes bad while processes have it open is left by each that notices, and deleted when nobody has it open.
#[test]
fn a_file_that_goes_bad_is_left_and_deleted_later() {
    let (_folder, path) = folder();
    let right = expected(&(0..OBJECTS).collect());
    let (first, warnings) = open_resilient(&path, false);
    let (second, more_warnings) = open_resilient(&path, false);
    refresh(&first);
    let database = rusqlite::Connection::open(&path).unwrap();
    assert!(database.execute("UPDATE blocks SET sum = sum + 1", []).unwrap() > 0);
    assert!(database.execute("UPDATE packs SET size = size + 1", []).unwrap() > 0);
    drop(database);
    for index in [&first, &second] {
        refresh(index);
        assert_packs_agree(index, &(0..OBJECTS).collect());
        index.add(index_id(0), AUTHOR, &object(0)).unwrap();
        assert_agrees(index, &(0..OBJECTS).collect());
    }
    for warnings in [warnings, more_warnings] {
        let warnings = warnings.lock().unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("is damaged"), "{warnings:?}");
    }
    assert!(path.with_extension("sqlite.damaged").exists());
    drop((first, second));
    // A program that another test starts may hold what was open here for a moment.
    patient(|| Index::open(&path, REPO).map(drop)).unwrap();
    assert!(!path.with_extension("sqlite.damaged").exists());
    assert!(assert_right(&path, &right, "a new file").is_empty());
    let loaded = open(&path).loaded().unwrap();
    assert_eq!(loaded.len() as u64, OBJECTS, "the new file is kept");
}

/// A row that is missing has no check sum: whoever misses something renews the index, once.
#[test]
fn what_is_missing_is_looked_for_in_the_repository_once() {
    let (_folder, path) = folder();
    refresh(&open_resilient(&path, false).0);
    rusqlite::Connection::open(&path).unwrap().execute("DELETE FROM places", []).unwrap();
    let (index, warnings) = patient_resilient(&path);
    refresh(&index);
    assert!(index.copies(&blob(3)).unwrap().is_empty());
    assert!(index.renew().unwrap() && index.renew().unwrap());
    assert_agrees(&index, &(0..OBJECTS).collect());
    assert!(warnings.lock().unwrap().is_empty(), "what is missing may be missing in the storage, too");
    index.confirm_damage();
    index.confirm_damage();
    assert_eq!(warnings.lock().unwrap().len(), 1);
    assert!(path.with_extension("sqlite.damaged").exists());
    drop(index);
    // One that this process fills itself lacks nothing.
    let (fresh, _) = open_resilient(&path, true);
    refresh(&fresh);
    assert!(!fresh.renew().unwrap());
}

/// As [`open_resilient`], of a file that must be in use by nobody else.
fn patient_resilient(path: &Path) -> (Index, Arc<Mutex<Vec<String>>>) {
    patient(|| Index::open(path, REPO).map(drop)).unwrap();
    open_resilient(path, false)
}

/// A row that is missing where the packs of an object are listed shows when the file is opened.
#[test]
fn lists_that_lost_a_row_are_damage() {
    for sql in [
        "DELETE FROM packs WHERE number = 3",
        "DELETE FROM listed WHERE pack = 3",
        "UPDATE OR IGNORE listed SET pack = pack + 1 WHERE object = 2",
        "DELETE FROM objects WHERE number = 2",
        "UPDATE objects SET id = x'00112233445566778899aabbccddeeff' WHERE number = 2",
        "UPDATE sqlite_sequence SET seq = 3",
        "UPDATE sqlite_sequence SET seq = 9223372036854775807",
        "ALTER TABLE blocks RENAME COLUMN offset TO offsets",
    ] {
        let (_folder, path) = folder();
        refresh(&open_resilient(&path, false).0);
        let changed = rusqlite::Connection::open(&path).unwrap().execute(sql, []).unwrap();
        assert!(changed > 0 || sql.starts_with("ALTER"), "{sql}");
        let warnings = assert_right(&path, &expected(&(0..OBJECTS).collect()), sql);
        assert_eq!(warnings.len(), 1, "{sql}");
    }
}

/// Nothing may be deleted from the storage as long as a file that was not opened knows it.
#[test]
fn what_is_removed_does_not_come_back_with_a_file_that_was_left() {
    let (_folder, path) = folder();
    let (other, _) = open_resilient(&path, false);
    refresh(&other);
    let (index, warnings) = open_resilient(&path, true);
    assert!(warnings.lock().unwrap().is_empty(), "who begins anew may do so beside others");
    refresh(&index);
    assert!(!path.with_extension("sqlite.damaged").exists());
    index.remove(&[index_id(0)]).unwrap();
    assert!(path.with_extension("sqlite.damaged").exists());
    assert_eq!(other.loaded().unwrap().len() as u64, OBJECTS, "whoever has it open is not disturbed");
}

#[test]
fn another_repository_or_version_starts_empty() {
    let (_folder, path) = folder();
    open(&path).add(index_id(0), AUTHOR, &object(0)).unwrap();
    assert_eq!(open(&path).loaded().unwrap().len(), 1);
    let other = Index::open(&path, RepoId([8; 16])).unwrap();
    assert!(other.loaded().unwrap().is_empty());
    drop(other);
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let index = Index::open(&path, RepoId([8; 16])).unwrap();
    index.add(index_id(0), AUTHOR, &object(0)).unwrap();
    let busy = Index::open(&path, REPO).err().expect("the file of another repository is in use");
    assert_eq!(busy.kind(), Kind::Busy);
    assert!(busy.advice().is_some());
    assert_agrees(&index, &[0].into());
}

#[test]
fn a_place_that_cannot_be_written_is_a_clear_error() {
    let (folder, path) = folder();
    std::fs::write(folder.path().join("cache"), "a file where the folder should be").unwrap();
    let error = Index::open(&path, REPO).err().expect("no folder can be made there");
    assert_eq!(error.kind(), Kind::Storage);
    assert!(error.to_string().contains("index.sqlite"), "{error}");
    assert!(error.advice().is_some());
}

/// Each place where no file can be: one warning that names the folder, and an index that works.
#[test]
fn a_place_that_cannot_be_written_is_a_warning() {
    let (folder, path) = folder();
    std::fs::write(folder.path().join("file"), "not a folder").unwrap();
    std::fs::create_dir_all(&path).unwrap();
    for path in [folder.path().join("file/index.sqlite"), "/proc/nowhere/index.sqlite".into(), path] {
        let (index, warnings) = open_resilient(&path, false);
        refresh(&index);
        assert_agrees(&index, &(0..OBJECTS).collect());
        let warnings = warnings.lock().unwrap();
        let named = |w: &String| w.contains(path.parent().unwrap().to_str().unwrap()) && w.contains("--cache-dir");
        assert!(warnings.len() == 1 && warnings.iter().all(named), "{warnings:?}");
    }
}

#[test]
fn files_are_private() {
    let (_folder, path) = folder();
    let index = open(&path);
    index.add(index_id(0), AUTHOR, &object(0)).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for file in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let file = file.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn keeps_manifests_until_told_otherwise() -> Result<()> {
    let (_folder, path) = folder();
    let id = |n| SnapshotId(named(b's', n));
    let index = open(&path);
    for n in 0..5 {
        index.put_manifest(&id(n), &vec![n as u8; 10_000])?;
        index.put_manifest(&id(n), &vec![n as u8; 10_000])?;
    }
    drop(index);
    let index = open(&path);
    assert_eq!(index.manifest(&id(3))?, Some(vec![3; 10_000]));
    index.retain_manifests(&std::collections::BTreeSet::from([id(3), id(9)]))?;
    assert_eq!(index.manifest(&id(3))?, Some(vec![3; 10_000]));
    assert_eq!(index.manifest(&id(2))?, None);
    index.invalidate()?;
    assert_eq!(index.manifest(&id(3))?, None);
    Ok(())
}
