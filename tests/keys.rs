//! Keys: slots, certificates, epochs, key files; what a slot that was removed can still do.

use std::collections::BTreeSet;
use std::sync::Arc;

use alluvium::env::{Cancel, Env};
use alluvium::error::{Error, Kind};
use alluvium::format::certificate::{self, Certificate};
use alluvium::format::coordination::{Generation, RemovedSlot, generation_name};
use alluvium::format::epoch::{self, Epoch};
use alluvium::format::keyslot::{self, Kdf, KeySlot, SlotKeys, SlotKind};
use alluvium::format::limits::EPOCH_BYTES_MAX;
use alluvium::format::{ObjectKind, associated_data};
use alluvium::id::SlotId;
use alluvium::ops::check::{Subset, check};
use alluvium::ops::forget::{self, Filter};
use alluvium::ops::retention::{Count, Policy};
use alluvium::ops::{key, repair};
use alluvium::repo::Repository;
use alluvium::repo::keys::new_key_file;
use alluvium::report::{Problem, Silent};
use alluvium::storage::Storage;
use alluvium::storage::fault::{Effect, Fault, Operation, on};
use alluvium::storage::local::Local;
use alluvium::storage::memory::Memory;
use alluvium::transform::hash::stream_digest;
use alluvium::transform::kdf;
use alluvium::transform::seal::SealKey;
use alluvium::transform::sign::Signer;
use jiff::{SignedDuration, Timestamp};

use crate::support::{
    Before, CHEAP, PASSPHRASE, World, dump, forget_ids, init, noise, open, open_with, pruned, restored, small, take,
    wanted,
};

fn refusal<T>(result: Result<T, Error>) -> Kind {
    result.map(|_| ()).expect_err("refused").kind()
}

fn add(repo: &Repository, kind: SlotKind, passphrase: &[u8]) -> SlotId {
    key::add(repo, kind, "another", passphrase, CHEAP).expect("key add")
}

#[test]
fn a_removed_passphrase_opens_nothing_stored_after_a_rotation() {
    let (storage, world) = (Memory::new(), World::new(31));
    let owner = init(storage.clone(), &world);
    let leaked = add(&owner, SlotKind::Full, b"leaked");
    // Somebody keeps what the leaked passphrase opened, and the old objects.
    let thief = open_with(storage.clone(), &world, b"leaked").expect("open");
    let before = take(&owner, "shop", &dump(50, 0)).expect("take");

    key::remove(&owner, &leaked.to_string()).expect("remove");
    assert_eq!(key::rotate(&owner).expect("rotate"), 2);
    let owner = open(storage.clone(), &world).expect("open");
    let after = take(&owner, "shop", &dump(50, 1)).expect("take");
    for taken in [&before, &after] {
        restored(&owner, &owner.snapshot(taken.id).expect("snapshot")).expect("the owner reads all");
    }
    assert_eq!(refusal(open_with(storage.clone(), &world, b"leaked")), Kind::WrongKey);
    thief.keys.refresh_ring(&storage).expect("he sees that there is a new epoch");
    thief.snapshot(before.id).expect("what was stored before he can read");
    assert_eq!(refusal(thief.snapshot(after.id)), Kind::Damaged);

    // He still has the authority of the old epoch. Nothing that it orders counts.
    assert_eq!(refusal(key::add(&thief, SlotKind::Full, "", b"his own", CHEAP)), Kind::WrongKey);
    assert_eq!(refusal(thief.keys.begin_epoch(&storage, world.as_ref(), &[], &[])), Kind::WrongKey);
}

#[test]
fn slots_and_epochs_made_before_and_after_a_rotation_read_everything() {
    let (storage, world) = (Memory::new(), World::new(32));
    let owner = init(storage.clone(), &world);
    add(&owner, SlotKind::Full, b"early");
    let mut taken = vec![take(&owner, "shop", &dump(40, 0)).expect("take").id];
    for round in 1..4 {
        assert_eq!(key::rotate(&owner).expect("rotate"), round + 1);
        taken.push(take(&owner, "shop", &dump(40, round as usize)).expect("take").id);
    }
    add(&owner, SlotKind::Full, b"late");
    add(&owner, SlotKind::WriteOnly, b"write");
    for passphrase in [PASSPHRASE, b"early", b"late"] {
        let repo = open_with(storage.clone(), &world, passphrase).expect("open");
        for (day, id) in taken.iter().enumerate() {
            let snapshot = repo.snapshot(*id).expect("snapshot");
            assert_eq!(restored(&repo, &snapshot).expect("restore"), dump(40, day));
        }
    }
    let host = open_with(storage.clone(), &world, b"write").expect("open");
    let id = take(&host, "shop", &dump(40, 9)).expect("take").id;
    assert_eq!(refusal(host.snapshot(id)), Kind::WrongKey);
    assert_eq!(owner.snapshot(id).expect("snapshot").author, host.keys.slot());
    assert_eq!(refusal(key::rotate(&host)), Kind::WrongKey);
}

#[test]
fn a_key_file_opens_its_slot_and_no_other() {
    let (storage, world) = (Memory::new(), World::new(33));
    let owner = init(storage.clone(), &world);
    let file = new_key_file(world.as_ref());
    for kind in [SlotKind::Full, SlotKind::WriteOnly] {
        let file = new_key_file(world.as_ref());
        add(&owner, kind, file.as_bytes());
        let repo = open_with(storage.clone(), &world, format!("{}\n", *file).as_bytes()).expect("open");
        assert_eq!(repo.keys.kind(), kind);
    }
    assert_eq!(refusal(open_with(storage.clone(), &world, file.as_bytes())), Kind::WrongKey);
    // It is not a passphrase, whatever is cut off.
    assert_eq!(refusal(open_with(storage, &world, &file.as_bytes()[..40])), Kind::WrongKey);
}

/// What a write-only slot can forge: it has the index key, and no authority.
#[test]
fn nothing_that_a_write_only_slot_orders_counts() {
    let (storage, world) = (Memory::new(), World::new(34));
    let owner = init(storage.clone(), &world);
    add(&owner, SlotKind::WriteOnly, b"write");
    let thief = open_with(storage.clone(), &world, b"write").expect("open");
    let id = SlotId([7; 16]);
    let names = [generation_name(1), certificate::object_name(id), epoch::object_name(2)];
    let kinds = [ObjectKind::Generation, ObjectKind::Certificate, ObjectKind::Epoch];
    for (kind, name) in kinds.into_iter().zip(names) {
        let content = match kind {
            ObjectKind::Generation => Generation::default().encode(),
            _ => b"{}".to_vec(),
        };
        // As a claim of its own, which is longer, and with a signature of its own in place of the authority's.
        storage.put_new(&name, &thief.seal_object(kind, &name, &content)).expect("put");
        let repo = open(storage.clone(), &world).expect("open");
        let error = repo.keys.open_order(kind, &name, &storage.get(&name, 1 << 20).expect("get"));
        assert!(error.expect_err("refused").is_forged(), "{name}");
    }
    take(&owner, "shop", &dump(30, 0)).expect("take");
}

/// Whatever is altered of a slot, its certificate or the config, nobody is taken in.
#[test]
fn altered_slots_and_certificates_show() {
    let (storage, world) = (Memory::new(), World::new(35));
    let owner = init(storage.clone(), &world);
    let slot = add(&owner, SlotKind::WriteOnly, b"write");
    for name in [keyslot::object_name(slot), certificate::object_name(slot)] {
        let altered = storage.fork();
        altered.tamper(&name, |bytes| *bytes.last_mut().expect("bytes") ^= 1).expect("tamper");
        let repo = open(altered, &world).expect("open");
        let found = alluvium::ops::check::check(&repo, None, &Silent, &alluvium::env::Cancel::new());
        let problems = found.expect("check").problems;
        assert!(problems.iter().any(|problem| problem.object == name), "{name}: {problems:?}");
    }
    let _ = Arc::new(owner);
}

/// The secrets of an ended epoch sign epochs under every name that is free, after every predecessor.
#[test]
fn an_ended_authority_makes_no_epoch_that_counts() {
    let (storage, world) = (Memory::new(), World::new(36));
    let owner = init(storage.clone(), &world);
    add(&owner, SlotKind::Full, b"leaked");
    let thief = open_with(storage.clone(), &world, b"leaked").expect("open");
    // Garbage under the name of the successor: a later number would leave that name to the thief.
    storage.put_new(&epoch::object_name(2), b"garbage").expect("put");
    let error = key::rotate(&owner).expect_err("the name is taken");
    assert_eq!(error.kind(), Kind::Damaged, "{error}");
    assert!(error.to_string().contains("epochs/00000002"), "{error}");
    assert!(!storage.names().contains(&epoch::object_name(3)));
    storage.delete(&epoch::object_name(2)).expect("delete");

    for newest in 2..5 {
        assert_eq!(key::rotate(&owner).expect("rotate"), newest);
        let ring = owner.keys.ring();
        for (number, previous) in (newest + 1..8).flat_map(|n| (0..n).map(move |p| (n, p))) {
            let name = epoch::object_name(number);
            let mut forged = ring.epochs[&1].epoch.clone();
            forged.previous = previous;
            forged.authority = Signer::generate(world.as_ref()).0.public();
            let forged = thief.keys.seal_order(world.as_ref(), ObjectKind::Epoch, &name, &forged.encode());
            let storage = storage.fork();
            storage.put_new(&name, &forged.expect("he has the authority of epoch 1")).expect("put");
            let repo = open(storage.clone(), &world).expect("open").keys.ring();
            assert_eq!(repo.newest().0, newest, "{number} after {previous}");
            assert_eq!(repo.newest().1.epoch.authority, ring.newest().1.epoch.authority);
            assert!(repo.problems.iter().any(|problem| problem.object == name), "{:?}", repo.problems);
        }
    }
}

/// An epoch that was in force stays: for the slot that was made in it, and for a program that runs.
#[test]
fn an_epoch_that_is_known_can_not_go() {
    let (storage, world) = (Memory::new(), World::new(37));
    let owner = init(storage.clone(), &world);
    assert_eq!(key::rotate(&owner).expect("rotate"), 2);
    add(&owner, SlotKind::Full, b"late");
    let name = epoch::object_name(2);
    let bytes = storage.get(&name, 1 << 20).expect("get");
    storage.delete(&name).expect("delete");
    let error = open_with(storage.clone(), &world, b"late").err().expect("refused");
    assert_eq!(error.kind(), Kind::Damaged);
    assert!(error.to_string().contains("was in force when this key slot was made"), "{error}");
    assert_eq!(refusal(owner.keys.refresh_ring(&storage)), Kind::Damaged);
    assert_eq!(owner.keys.newest_epoch(), 2);
    storage.put_new(&name, &bytes).expect("put");
    owner.keys.refresh_ring(&storage).expect("it is back");
    open_with(storage, &world, b"late").expect("open");
}

/// No listing shows the epoch that has begun: it is asked for by name, by who opens now and by who opened before.
#[test]
fn an_epoch_counts_that_no_listing_shows() {
    let (memory, world) = (Memory::new(), World::new(36));
    let owner = init(memory.clone(), &world);
    let storage = Fault::new(memory);
    storage.when(on(Operation::List, epoch::PREFIX), Effect::Cut(1));
    let before = open(storage.clone(), &world).expect("open");
    for number in 2..5 {
        assert!(!before.keys.refresh_if_newer(&storage).expect("look"));
        assert_eq!(key::rotate(&owner).expect("rotate"), number);
        assert_eq!(open(storage.clone(), &world).expect("open").keys.newest_epoch(), number);
        assert!(before.keys.refresh_if_newer(&storage).expect("look"));
        assert_eq!(before.keys.newest_epoch(), number);
    }
}

/// An epoch that the store fails to give is not one that does not count. What lies beyond a gap is not read.
#[test]
fn only_epochs_that_may_count_are_read() {
    let (memory, world) = (Memory::new(), World::new(38));
    let owner = init(memory.clone(), &world);
    assert_eq!(key::rotate(&owner).expect("rotate"), 2);
    for number in 4..200 {
        memory.put_new(&epoch::object_name(number), b"garbage").expect("put");
    }
    for (number, opens) in [(2, false), (4, true), (5, true), (199, true)] {
        let storage = Fault::new(memory.clone());
        storage.when(on(Operation::Get, &epoch::object_name(number)), Effect::Fail);
        let opened = open(storage, &world);
        match opened {
            Ok(repo) if opens => {
                assert_eq!(repo.keys.newest_epoch(), 2);
                assert!((64..70).contains(&repo.keys.ring().problems.len()));
            }
            Ok(_) => panic!("epoch {number} may count"),
            Err(error) => assert!(!opens && error.kind() == Kind::Storage, "{number}: {error}"),
        }
    }
}

/// More certificates than can count: those that were there go on, and nothing is begun that no reader accepts.
#[test]
fn certificates_without_end_are_not_read() {
    let (storage, world) = (Memory::new(), World::new(39));
    let owner = init(storage.clone(), &world);
    for n in 0..u32::try_from(epoch::CERTIFICATES_MAX).expect("few") {
        let mut id = [0xff; 16];
        id[12..].copy_from_slice(&n.to_be_bytes());
        storage.put_new(&certificate::object_name(SlotId(id)), b"garbage").expect("put");
    }
    let before = storage.names();
    let error = key::rotate(&owner).expect_err("too many");
    assert!(error.to_string().contains("too many objects in slots/"), "{error}");
    let error = key::add(&owner, SlotKind::Full, "", b"another", CHEAP).expect_err("too many");
    assert!(error.to_string().contains("too many objects in slots/"), "{error}");
    assert_eq!(before, storage.names());
    let repo = open(storage, &world).expect("open");
    assert!(repo.keys.ring().problems.iter().any(|problem| problem.object == certificate::PREFIX));
}

/// Whoever may create objects fills `keys/`: only so much of it is read, what was there before in any case.
#[test]
fn key_slots_without_end_are_not_read() {
    let (memory, world) = (Memory::new(), World::new(39));
    init(memory.clone(), &world);
    let garbage = vec![b' '; 1 << 20];
    // This store tells no times, so that names decide.
    for n in 0..100 {
        let mut id = [0xff; 16];
        id[15] = n;
        memory.put_new(&keyslot::object_name(SlotId(id)), &garbage).expect("put");
    }
    let storage = Fault::new(memory);
    open(storage.clone(), &world).expect("the passphrase opens its slot");
    let of_slots = on(Operation::Get, keyslot::PREFIX);
    let read = storage.calls().iter().filter(|call| of_slots(call)).count();
    assert!((60..=64).contains(&read), "{read} are read");
}

/// Somebody rotates while a slot is added: it counts and reads what comes, or it is not there.
#[test]
fn a_slot_that_was_added_counts() {
    let kinds = [SlotKind::Full, SlotKind::WriteOnly];
    let moments = [
        (Operation::List, epoch::PREFIX),
        (Operation::PutNew, certificate::PREFIX),
        (Operation::PutNew, keyslot::PREFIX),
    ];
    for (at, kind) in moments.iter().flat_map(|moment| kinds.map(|kind| (moment, kind))) {
        let (storage, world) = (Memory::new(), World::new(40));
        let other = init(storage.clone(), &world);
        let mine = open(storage.clone(), &world).expect("open");
        let rotating = Before::new(&storage, at.0, at.1, move |_| {
            assert_eq!(key::rotate(&other).expect("rotate"), 2);
        });
        let mine = Repository { storage: Arc::new(rotating), ..mine };
        let before = storage.names();
        let added = key::add(&mine, kind, "", b"new", CHEAP);
        let opened = open_with(storage.clone(), &world, b"new");
        assert_eq!(mine.keys.newest_epoch(), 2, "{at:?}");
        match added {
            Ok(id) => {
                let opened = opened.expect("open");
                assert_eq!((opened.keys.slot(), opened.keys.newest_epoch()), (id, 2));
                let taken = take(&opened, "shop", &dump(30, 0)).expect("take");
                if kind == SlotKind::Full {
                    let snapshot = opened.snapshot(taken.id).expect("snapshot");
                    restored(&opened, &snapshot).expect("reads");
                }
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Busy, "{at:?}: {error}");
                assert_eq!(opened.map(|_| ()).expect_err("refused").kind(), Kind::WrongKey);
                let keys = |names: &[String]| names.iter().filter(|n| n.starts_with(keyslot::PREFIX)).count();
                assert_eq!(keys(&storage.names()), keys(&before));
                add(&mine, kind, b"new");
            }
        }
        // The last moment leaves a write-only slot that counts, and a full one that would lack secrets.
        let succeeds = at.0 == Operation::List || at.1 == keyslot::PREFIX && kind == SlotKind::WriteOnly;
        assert_eq!(storage.names().iter().filter(|n| n.starts_with(keyslot::PREFIX)).count(), 2);
        assert_eq!(storage.names().iter().filter(|n| n.starts_with(certificate::PREFIX)).count(), {
            2 + usize::from(!succeeds && at.1 == keyslot::PREFIX)
        });
    }
}

/// Somebody changes slots while an epoch begins: the newest one is sealed to no removed slot.
#[test]
fn a_slot_that_is_removed_during_a_rotation_gets_no_secrets() {
    for at in [(Operation::List, keyslot::PREFIX), (Operation::PutNew, epoch::PREFIX), (Operation::PutNew, "prune/")] {
        let (storage, world) = (Memory::new(), World::new(41));
        let other = init(storage.clone(), &world);
        let mine = open(storage.clone(), &world).expect("open");
        let leaked = add(&other, SlotKind::Full, b"leaked");
        let removing = Before::new(&storage, at.0, at.1, move |_| {
            key::remove(&other, &leaked.to_string()).expect("remove");
        });
        let mine = Repository { storage: Arc::new(removing), ..mine };
        let epoch = key::rotate(&mine).expect("rotate");
        assert!(mine.newest_generation().expect("a generation").1.has_removed(leaked), "{at:?}");
        let ring = mine.keys.ring();
        assert_eq!(ring.newest().0, epoch);
        let sealed = |slot| ring.newest().1.epoch.secrets.iter().any(|secrets| secrets.slot == slot);
        assert!(sealed(mine.keys.slot()) && !sealed(leaked), "{at:?}: epoch {epoch}");
    }
}

/// Of whoever adds a slot and whoever rotates one notices that the slot was left out.
#[test]
fn a_slot_that_is_added_during_a_rotation_is_told() {
    let (storage, world) = (Memory::new(), World::new(42));
    let other = init(storage.clone(), &world);
    let mine = open(storage.clone(), &world).expect("open");
    let adding = Before::new(&storage, Operation::PutNew, epoch::PREFIX, move |_| {
        add(&other, SlotKind::WriteOnly, b"new");
    });
    let mine = Repository { storage: Arc::new(adding), ..mine };
    let error = key::rotate(&mine).expect_err("told");
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    assert!(error.to_string().contains("was left out"), "{error}");
    assert_eq!(mine.keys.newest_epoch(), 2);
}

/// `init` writes an epoch, a certificate, a key slot and the config. Without the last there is no repository.
#[test]
fn an_interrupted_init_leaves_no_repository() {
    let (whole, world) = (Memory::new(), World::new(43));
    init(whole.clone(), &world);
    let order = [epoch::PREFIX, certificate::PREFIX, keyslot::PREFIX];
    for written in 1..=order.len() {
        let storage = whole.fork();
        for name in whole.names() {
            if !order[..written].iter().any(|folder| name.starts_with(folder)) {
                storage.delete(&name).expect("delete");
            }
        }
        let opened = open(storage.clone(), &world).err().expect("refused");
        let again = || alluvium::repo::Repository::init(&storage, world.as_ref(), b"x", "", small());
        let refused = again().expect_err("refused");
        assert_eq!((opened.kind(), refused.kind()), (Kind::NoRepository, Kind::AlreadyExists));
        for error in [opened, refused] {
            assert!(error.to_string().contains("interrupted `init`"), "{error}");
            assert!(error.advice().is_some_and(|hint| hint.contains("epochs, slots and keys")));
        }
        for name in storage.names() {
            storage.delete(&name).expect("delete");
        }
        again().expect("init");
    }
}

/// A folder of a repository is known by any of its own names.
#[test]
fn folders_of_keys_are_the_repositorys_own() {
    for own in ["slots", "epochs"] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(own)).expect("a folder");
        std::fs::write(folder.path().join("notes"), "x").expect("a file");
        Local::create_new(folder.path()).expect("not another's");
    }
}

/// Keeps the newest snapshot of each series.
fn keep_last() -> Policy {
    Policy { keep_last: Some(Count::N(1)), ..Policy::default() }
}

/// The secret in a key file.
fn secret_of(file: &str) -> [u8; 32] {
    let digits = file.trim_end().rsplit(':').next().expect("digits");
    let byte = |n: usize| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).expect("hexadecimal");
    std::array::from_fn(byte)
}

/// Writes a slot that `file` opens, with a certificate that `by` signs: a copy of the slot in use of
/// `by`, which `file` opens too, with altered keys.
fn write_altered_slot(by: &Repository, file: &str, id: SlotId, alter: impl Fn(&mut SlotKeys)) -> [String; 2] {
    let (env, own) = (by.env.as_ref(), by.keys.slot());
    let bound = |slot: SlotId| associated_data(ObjectKind::KeySlot, by.id, &slot.0);
    let wrapping = SealKey::new(&kdf::from_key_file(&secret_of(file)));
    let certified = by.keys.known_slot(own).expect("its certificate").certificate;
    let object = by.storage.get(&keyslot::object_name(own), 1 << 16);
    let sealed = KeySlot::decode(&object.expect("its key slot")).expect("a slot").sealed;
    let mut keys = SlotKeys::decode(&wrapping.open(&bound(own), &sealed).expect("it opens")).expect("keys");
    alter(&mut keys);
    let slot = KeySlot::new(by.id, Kdf::KeyFile {}, wrapping.seal(env, &bound(id), &keys.encode())).encode();
    let names = [certificate::object_name(id), keyslot::object_name(id)];
    let content = Certificate { key: stream_digest(&slot), ..certified }.encode();
    let order = by.keys.seal_order(env, ObjectKind::Certificate, &names[0], &content).expect("an order");
    by.storage.put_new(&names[0], &order).expect("put");
    by.storage.put_new(&names[1], &slot).expect("put");
    names
}

/// A slot's own keys must be those that its certificate names: else secrets that are sealed to the
/// slot do not open, or nobody verifies what it signs.
#[test]
fn a_slot_with_other_keys_than_its_certificate_is_damaged() {
    let (storage, world) = (Memory::new(), World::new(44));
    let owner = init(storage.clone(), &world);
    let file = new_key_file(world.as_ref());
    let first = add(&owner, SlotKind::Full, file.as_bytes());
    let repo = open_with(storage.clone(), &world, file.as_bytes()).expect("open");
    let id = SlotId([7; 16]);
    let unchanged: fn(&mut SlotKeys) = |_| {};
    let sealing: fn(&mut SlotKeys) = |keys| keys.sealing.0[0] ^= 1;
    let signing: fn(&mut SlotKeys) = |keys| keys.signing.0[0] ^= 1;
    let write_only: fn(&mut SlotKeys) = |keys| keys.epochs.clear();
    for (what, alter) in [("nothing", unchanged), ("sealing", sealing), ("signing", signing), ("its kind", write_only)]
    {
        let names = write_altered_slot(&repo, &file, id, alter);
        let storage = storage.fork();
        storage.delete(&keyslot::object_name(first)).expect("delete");
        match open_with(storage, &world, file.as_bytes()) {
            Ok(repo) => assert_eq!((what, repo.keys.slot()), ("nothing", id)),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Damaged, "{what}: {error}");
                let expected = format!("{}: its keys are not those of its certificate", names[1]);
                assert_eq!(error.to_string(), expected, "{what}");
                assert_ne!(what, "nothing");
            }
        }
        for name in names {
            repo.storage.delete(&name).expect("delete");
        }
    }
}

/// Who has stolen a passphrase can seal more slots with it. No full slot has certified them, and other machines with this
/// passphrase open the one that counts.
#[test]
fn slots_that_nobody_certified_keep_nobody_out() {
    let (storage, world) = (Memory::new(), World::new(48));
    let owner = init(storage.clone(), &world);
    let file = new_key_file(world.as_ref());
    let slot = add(&owner, SlotKind::WriteOnly, file.as_bytes());
    let bound = |slot: SlotId| associated_data(ObjectKind::KeySlot, owner.id, &slot.0);
    let wrapping = SealKey::new(&kdf::from_key_file(&secret_of(&file)));
    let object = storage.get(&keyslot::object_name(slot), 1 << 16).expect("its key slot");
    let sealed = KeySlot::decode(&object).expect("a slot").sealed;
    let keys = wrapping.open(&bound(slot), &sealed).expect("it opens");
    let mut other = SlotKeys::decode(&keys).expect("keys");
    other.authority = [7; 32];
    // The first is tried first.
    for (id, plain) in [(0, keys.clone()), (1, other.encode()), (2, b"{}".to_vec())] {
        let id = SlotId([id; 16]);
        let sealed = wrapping.seal(world.as_ref(), &bound(id), &plain);
        let slot = KeySlot::new(owner.id, Kdf::KeyFile {}, sealed).encode();
        storage.put_new(&keyslot::object_name(id), &slot).expect("put");
    }
    let host = open_with(storage.clone(), &world, file.as_bytes()).expect("open");
    assert_eq!(host.keys.slot(), slot);
    take(&host, "shop", &noise(5000, 1)).expect("take");
    // Without the one that counts, it is told what is wrong with another.
    storage.delete(&keyslot::object_name(slot)).expect("delete");
    assert_eq!(refusal(open_with(storage, &world, file.as_bytes())), Kind::Damaged);
}

/// Somebody whose full slot was removed has the authority of the ended epoch. After `key rotate`,
/// nothing that he orders counts: no generation, no certificate, no epoch.
#[test]
fn a_removed_full_slot_orders_nothing_that_counts() {
    let (storage, world) = (Memory::new(), World::new(45));
    let owner = init(storage.clone(), &world);
    let file = new_key_file(world.as_ref());
    let leaked = add(&owner, SlotKind::Full, file.as_bytes());
    let taken = take(&owner, "shop", &dump(50, 0)).expect("take");
    let thief = open_with(storage.clone(), &world, file.as_bytes()).expect("open");
    let key_slot = storage.get(&keyslot::object_name(leaked), 1 << 16).expect("get");
    key::remove(&owner, &leaked.to_string()).expect("remove");
    assert_eq!(key::rotate(&owner).expect("rotate"), 2);
    let (number, state) = owner.newest_generation().expect("a generation");
    let ring = owner.keys.ring();

    // He does not look whether there is a new epoch, and puts his key slot back.
    storage.put_new(&keyslot::object_name(leaked), &key_slot).expect("put");
    assert_eq!(thief.keys.newest_epoch(), 1);
    let mut names = Vec::new();
    let mut put = |kind: ObjectKind, name: String, content: &[u8]| {
        let order = thief.keys.seal_order(world.as_ref(), kind, &name, content).expect("an order of epoch 1");
        storage.put_new(&name, &order).expect("put");
        names.push(name);
    };
    let removed_slots = vec![RemovedSlot { slot: owner.keys.slot(), time: world.now() }];
    let reversed = Generation { removed_slots, judged: number, ..Generation::default() };
    for number in [number + 1, number + 2, 64, 65, 128] {
        put(ObjectKind::Generation, generation_name(number), &reversed.encode());
    }
    for previous in [1, 2] {
        let own = Signer::generate(world.as_ref()).0.public();
        let epoch = Epoch { previous, authority: own, ..ring.epochs[&1].epoch.clone() };
        put(ObjectKind::Epoch, epoch::object_name(previous + 2), &epoch.encode());
    }
    let [certificate, _] = write_altered_slot(&thief, &file, SlotId([7; 16]), |_| {});
    names.push(certificate);

    let again = open(storage.clone(), &world).expect("open");
    assert_eq!(again.keys.newest_epoch(), 2);
    assert_eq!(again.keys.ring().newest().1.epoch.authority, ring.newest().1.epoch.authority);
    assert!(again.keys.known_slot(SlotId([7; 16])).is_none());
    assert_eq!(again.newest_generation().expect("a generation"), (number, state));
    let void = again.find_generation().expect("generations").void;
    let found = check(&again, None, &Silent, &Cancel::new()).expect("check").problems;
    let found: BTreeSet<String> = void
        .iter()
        .map(|(number, _)| generation_name(*number))
        .chain(found.into_iter().map(|problem| problem.object))
        .collect();
    assert!(names.iter().all(|name| found.contains(name)), "{names:?}, {found:?}");
    take(&again, "shop", &dump(50, 1)).expect("take");
    pruned(&again).expect("prune");
    assert!(again.newest_generation().expect("a generation").1.has_removed(leaked));
    restored(&again, &again.snapshot(taken.id).expect("snapshot")).expect("restore");

    // With this program: the slot that he put back writes nothing, and when it is gone, nothing opens.
    storage.delete(&keyslot::object_name(SlotId([7; 16]))).expect("delete");
    let back = open_with(storage.clone(), &world, file.as_bytes()).expect("it reads what there was");
    assert_eq!(refusal(take(&back, "shop", &dump(50, 2))), Kind::WrongKey);
    assert_eq!(refusal(key::add(&back, SlotKind::WriteOnly, "", b"his own", CHEAP)), Kind::WrongKey);
    assert_eq!(refusal(key::rotate(&back)), Kind::WrongKey);
    assert_eq!(refusal(key::distrust(&back, &owner.keys.slot().to_string(), Timestamp::MIN)), Kind::WrongKey);
    let order = back.keys.seal_order(world.as_ref(), ObjectKind::Generation, "prune/", b"");
    assert_eq!(refusal(order), Kind::WrongKey);
    storage.delete(&keyslot::object_name(leaked)).expect("delete");
    assert_eq!(refusal(open_with(storage.clone(), &world, file.as_bytes())), Kind::WrongKey);
}

/// Before a rotation its signature still counts. With this program it orders nothing all the same.
#[test]
fn a_removed_full_slot_changes_no_state_with_this_program() {
    let (storage, world) = (Memory::new(), World::new(47));
    let owner = init(storage.clone(), &world);
    let leaked = add(&owner, SlotKind::Full, b"leaked");
    take(&owner, "shop", &noise(50_000, 1)).expect("take");
    let thief = open_with(storage.clone(), &world, b"leaked").expect("open");
    key::remove(&owner, &leaked.to_string()).expect("remove");
    let (number, _) = owner.newest_generation().expect("a generation");
    assert_eq!(refusal(key::distrust(&thief, &owner.keys.slot().to_string(), Timestamp::MIN)), Kind::WrongKey);
    // A check that finds damage reports it, and sets nothing aside.
    let lost = *owner.list_packs().expect("packs").keys().next().expect("a pack");
    storage.delete(&alluvium::format::pack::object_name(lost)).expect("delete");
    assert!(!check(&thief, None, &Silent, &Cancel::new()).expect("check").problems.is_empty());
    assert_eq!(owner.newest_generation().expect("a generation").0, number);
    check(&owner, None, &Silent, &Cancel::new()).expect("check");
    assert!(owner.newest_generation().expect("a generation").0 > number);
}

/// Without the certificate of a slot, what the slot wrote can't be verified: it does not count, and stays. A prune
/// keeps what its snapshots need, a forget removes none, and a repair takes nothing for garbage. Nobody
/// refuses to work: anybody can name an author who does not exist.
#[test]
fn what_can_not_be_verified_stays() {
    for (kind, is_missing) in [(SlotKind::WriteOnly, false), (SlotKind::Full, false), (SlotKind::Full, true)] {
        let (storage, world) = (Memory::new(), World::new(46));
        let owner = init(storage.clone(), &world);
        let slot = add(&owner, kind, b"other");
        let host = open_with(storage.clone(), &world, b"other").expect("open");
        let data = dump(300, 0);
        let shop = take(&owner, "shop", &data).expect("take").id;
        let newer = take(&owner, "shop", &dump(300, 1)).expect("take").id;
        let mail = take(&host, "mail", &noise(100_000, 2)).expect("take").id;
        let name = certificate::object_name(slot);
        let bytes = storage.get(&name, 1 << 16).expect("get");
        if is_missing {
            storage.delete(&name).expect("delete");
        } else {
            storage.tamper(&name, |bytes| *bytes.last_mut().expect("bytes") ^= 1).expect("tamper");
        }

        let before = storage.names();
        let repo = || open(storage.clone(), &world).expect("open");
        let names_it = |problem: &&Problem| problem.what.contains("can't be verified") && problem.what.contains(&name);
        let checked = check(&repo(), Some(Subset::ALL), &Silent, &Cancel::new()).expect("check");
        for folder in ["index/", "packs/", "snapshots/"] {
            let is_here = |problem: &&Problem| problem.object.starts_with(folder);
            assert!(checked.problems.iter().filter(is_here).any(|problem| names_it(&problem)), "{checked:?}");
        }
        let repaired = repair::repair_index(&repo(), &Silent, &Cancel::new()).expect("repair");
        assert!(repaired.problems.iter().any(|problem| names_it(&problem)), "{:?}", repaired.problems);
        assert_eq!((repaired.packs_dropped, repaired.index_objects_replaced), (0, 0));
        let plan = forget::plan(&repo(), &Filter::default(), &keep_last()).expect("plan");
        assert_eq!(plan.remove, [shop]);
        for _ in 0..2 {
            pruned(&repo()).expect("prune");
        }
        let after = storage.names();
        let is_kept = |name: &&String| ["packs/", "snapshots/"].iter().any(|folder| name.starts_with(folder));
        assert!(before.iter().filter(is_kept).all(|name| after.contains(name)), "{before:?} {after:?}");
        let repo = repo();
        assert_eq!(restored(&repo, &repo.snapshot(shop).expect("snapshot")).expect("restore"), data);
        let unverified = repo.snapshot(mail).expect_err("its author is unknown");
        assert!(unverified.advice().is_some_and(|hint| hint.contains(&name)), "{unverified}");

        storage.put_replace(&name, &bytes).expect("put");
        let repo = open(storage.clone(), &world).expect("open");
        assert_eq!(restored(&repo, &repo.snapshot(mail).expect("snapshot")).expect("restore"), noise(100_000, 2));
        pruned(&repo).expect("prune");
        assert_eq!(restored(&repo, &repo.snapshot(mail).expect("snapshot")).expect("restore"), noise(100_000, 2));
        assert!(repo.snapshot(newer).is_ok());
    }
}

/// What another write-only slot says of a source, and what is distrusted, is no predecessor and no standard of its length.
#[test]
fn a_stolen_slot_sets_no_standard() {
    let (storage, world) = (Memory::new(), World::new(50));
    let owner = init(storage.clone(), &world);
    let stolen = add(&owner, SlotKind::WriteOnly, b"stolen");
    let thief = open_with(storage, &world, b"stolen").expect("open");
    let first = take(&owner, "shop", &dump(300, 0)).expect("take").id;
    world.pass(SignedDuration::from_hours(24));
    let since = world.now();
    take(&thief, "shop", &noise(600_000, 1)).expect("take");
    let taken = take(&owner, "shop", &dump(300, 1)).expect("take");
    assert_eq!((taken.previous, taken.shrunk_from), (Some(first), None));
    forget_ids(&owner, &[taken.id]).expect("forget");
    key::distrust(&owner, &stolen.to_string(), since).expect("distrust");
    let taken = take(&owner, "shop", &dump(300, 1)).expect("take");
    assert_eq!((taken.previous, taken.shrunk_from), (Some(first), None));
}

/// What a distrusted slot wrote since then is marked, is named by its id alone, and nobody relies on
/// it. What it wrote before counts as ever.
#[test]
fn what_a_distrusted_slot_wrote_counts_for_nothing() {
    let (storage, world) = (Memory::new(), World::new(47));
    let owner = init(storage.clone(), &world);
    let stolen = add(&owner, SlotKind::Full, b"stolen");
    let thief = open_with(storage.clone(), &world, b"stolen").expect("open");
    let data = noise(60_000, 1);
    let day = |by: &Repository, data: &[u8]| {
        world.pass(SignedDuration::from_hours(24));
        take(by, "shop", data).expect("take").id
    };
    let first = day(&owner, &dump(300, 0));
    let early = day(&thief, &dump(300, 1));
    world.pass(SignedDuration::from_hours(24));
    let since = world.now();
    let late = day(&thief, &data);

    let plan = |repo: &Repository| {
        let removed = forget::plan(repo, &Filter::default(), &keep_last()).expect("plan").remove;
        removed.into_iter().collect::<BTreeSet<_>>()
    };
    let marked = |repo: &Repository| {
        let (mut snapshots, _) = repo.snapshots().expect("snapshots");
        repo.mark_distrusted(&mut snapshots, &repo.newest_generation().expect("a generation").1).expect("mark");
        let newest = wanted(repo, &snapshots, "shop").expect("a snapshot").0.id;
        assert_eq!(wanted(repo, &snapshots, &late.to_string()).expect("by its id").0.id, late);
        let marked = snapshots.iter().filter(|s| s.is_distrusted).map(|s| s.id).collect::<Vec<_>>();
        (newest, marked)
    };
    // Bytes that are stored for data that the thief has stored before.
    let stored = || {
        let repo = open(storage.fork(), &world).expect("open");
        take(&repo, "other", &data).expect("take").stored.new_bytes
    };
    assert_eq!((marked(&owner), plan(&owner)), ((late, vec![]), BTreeSet::from([first, early])));
    assert!(stored() < 1000);

    assert_eq!(refusal(key::distrust(&thief, &stolen.to_string(), since)), Kind::Usage);
    assert_eq!(refusal(key::distrust(&owner, "", since)), Kind::NotFound);
    let distrust = key::distrust(&owner, &stolen.to_string()[..8], since).expect("distrust");
    assert_eq!((distrust.id, distrust.since, distrust.snapshots), (stolen, since, vec![late]));
    assert_eq!(marked(&owner), (early, vec![late]));
    // The newest good one stays, whatever the rule keeps.
    assert_eq!(plan(&owner), BTreeSet::from([first]));
    assert!(stored() as usize > data.len() * 9 / 10);

    // A later time takes nothing back; an earlier one covers more. A slot that was removed stays distrusted.
    key::remove(&owner, &stolen.to_string()).expect("remove");
    let later = since + SignedDuration::from_hours(240);
    assert_eq!(key::distrust(&owner, &stolen.to_string(), later).expect("distrust").since, since);
    assert_eq!(marked(&owner), (early, vec![late]));
    let earlier = since - SignedDuration::from_hours(240);
    assert_eq!(key::distrust(&owner, &stolen.to_string(), earlier).expect("distrust").snapshots.len(), 2);
    assert_eq!((marked(&owner), plan(&owner)), ((first, vec![late, early]), BTreeSet::from([early])));
    // Nothing was deleted.
    let snapshot = owner.snapshot(late).expect("snapshot");
    assert_eq!(restored(&owner, &snapshot).expect("restore"), data);
}

/// An object of the next epoch's name that is larger than an epoch can be does not count, and takes
/// the name as any other.
#[test]
fn an_epoch_that_is_too_large_does_not_count() {
    let (storage, world) = (Memory::new(), World::new(48));
    let owner = init(storage.clone(), &world);
    let name = epoch::object_name(2);
    storage.put_new(&name, &vec![0; EPOCH_BYTES_MAX as usize + 1]).expect("put");
    let repo = open(storage.clone(), &world).expect("open");
    assert_eq!(repo.keys.newest_epoch(), 1);
    assert!(repo.keys.ring().problems.iter().any(|problem| problem.object == name));
    let error = key::rotate(&owner).expect_err("the name is taken");
    assert!(error.kind() == Kind::Damaged && error.to_string().contains(&name), "{error}");
    storage.delete(&name).expect("delete");
    assert_eq!(key::rotate(&owner).expect("rotate"), 2);
}

/// A bad sector in the generation that removed a slot gives that slot no secrets of the next epoch.
#[test]
fn a_damaged_copy_of_a_generation_brings_no_removed_slot_back() {
    let (storage, world) = (Memory::new(), World::new(49));
    let owner = init(storage.clone(), &world);
    let removed = add(&owner, SlotKind::Full, b"removed");
    let key_slot = storage.get(&keyslot::object_name(removed), 1 << 16).expect("get");
    key::remove(&owner, &removed.to_string()).expect("remove");
    let (number, _) = owner.newest_generation().expect("a generation");
    storage.put_new(&keyslot::object_name(removed), &key_slot).expect("put");
    storage.tamper(&generation_name(number), |bytes| bytes[20] ^= 1).expect("tamper");
    let repo = open(storage, &world).expect("open");
    assert_eq!(key::rotate(&repo).expect("rotate"), 2);
    let ring = repo.keys.ring();
    let sealed = |slot| ring.newest().1.epoch.secrets.iter().any(|secrets| secrets.slot == slot);
    assert!(sealed(repo.keys.slot()) && !sealed(removed));
}
