//! Sessions, heartbeats, generations; the envelope that they are sealed in; the names of objects and ids.
#![no_main]

use alluvium::format::coordination::{
    Beat, Generation, Session, beat_name, generation_name, generation_of, session_name, session_of,
};
use alluvium::format::{ObjectKind, envelope};
use alluvium::id::{BlobId, PackId};
use alluvium_fuzz::{binary, json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    json(input, Session::decode, Session::encode);
    json(input, Beat::decode, Beat::encode);
    json(input, Generation::decode, Generation::encode);
    let kinds = [ObjectKind::Index, ObjectKind::Session, ObjectKind::Generation];
    let opened =
        kinds.map(|kind| binary(input, |bytes| envelope::decode(kind, bytes), |sealed| envelope::encode(kind, sealed)));
    assert!(opened.iter().flatten().count() <= 1, "an object is of one kind");

    let Ok(name) = std::str::from_utf8(input) else { return };
    if let Some(id) = session_of(name) {
        assert!(name == session_name(id) || name == beat_name(id), "{name:?} is no session's name");
    }
    if let Some(number) = generation_of(name) {
        assert_eq!(name, generation_name(number));
    }
    if let Ok(id) = name.parse::<PackId>() {
        assert_eq!(name, id.to_string());
    }
    if let Ok(id) = name.parse::<BlobId>() {
        assert_eq!(name, id.to_string());
    }
});
