//! Keys: slots, certificates, epochs, key files; what a slot that was removed can still do.

use std::sync::Arc;

use alluvium::error::{Error, Kind};
use alluvium::format::ObjectKind;
use alluvium::format::coordination::{Generation, generation_name};
use alluvium::format::keyslot::SlotKind;
use alluvium::format::{certificate, epoch, keyslot};
use alluvium::id::SlotId;
use alluvium::ops::key;
use alluvium::repo::Repository;
use alluvium::repo::keys::new_key_file;
use alluvium::report::Silent;
use alluvium::storage::Storage;
use alluvium::storage::memory::Memory;

use crate::support::{CHEAP, PASSPHRASE, World, dump, init, open, open_with, restored, take};

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
    assert_eq!(refusal(thief.keys.begin_epoch(&storage, world.as_ref(), &[])), Kind::WrongKey);
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
