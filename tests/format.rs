//! The bytes at rest, decoder by decoder, on structured values; the fuzz targets (`fuzz/`) try the unstructured ones.
//!
//! Every decoder gives back what was encoded, refuses every truncation and every extension, and answers a flipped
//! byte with a refusal or with the one value whose encoding has that byte (`docs/format.md`). Lengths, offsets and
//! names are written out here a second time: a constant that changes changes the format, and must change this file.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use alluvium::format::bytes::Encoder;
use alluvium::format::catalog::{CatalogTable, Column, Consistency, decode_tables};
use alluvium::format::certificate::{self, Certificate};
use alluvium::format::config::{ChunkSizes, Config, Parameters};
use alluvium::format::coordination::{
    Beat, Condemned, Distrusted, DistrustedSlot, Generation, RemovedSlot, Session, beat_name, generation_name,
    generation_of, session_name, session_of,
};
use alluvium::format::epoch::{self, Epoch};
use alluvium::format::index::{IndexObject, IndexedPack};
use alluvium::format::keyslot::{EpochSecrets, Kdf, KeySlot, SecretBytes, SlotKeys};
use alluvium::format::manifest::{
    Catalog, Dialect, Digest, Engine, Header, Listing, Manifest, Original, Part, PartKind, PartList, PartName,
    Published, SealedManifest, Shape, ShapeKind, SourceKind, Stored, encode_fence,
};
use alluvium::format::pack::{
    Base, BlobEntry, Codec, PackHeader, Trailer, WrappedKey, blobs_end, decode_footer, encode_footer, padme,
    with_offsets,
};
use alluvium::format::part::decode_parts;
use alluvium::format::recipe::{Recipe, RecipeEntry};
use alluvium::format::signed::{CLAIM_LEN, Claim, ORDER_LEN, Order};
use alluvium::format::{
    FORMAT_VERSION, Malformed, ObjectKind, associated_data, config, envelope, index, keyslot, limits, manifest, pack,
    recipe,
};
use alluvium::id::{BlobId, DataKeyId, IndexId, PackId, RepoId, SlotId, SnapshotId};
use alluvium::repo::snapshots::inline_list;
use alluvium::storage::check_name;
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::sample;
use crate::support::noise;

// ---- What every decoder must hold ----

/// Places and what is flipped there.
type Flips = Vec<(Index, u8)>;

fn flips() -> impl Strategy<Value = Flips> {
    prop::collection::vec((any::<Index>(), 1..=255u8), 24)
}

fn flipped<'f>(bytes: &'f [u8], flips: &'f Flips) -> impl Iterator<Item = Vec<u8>> + 'f {
    flips.iter().map(|(place, mask)| {
        let mut flipped = bytes.to_vec();
        flipped[place.index(bytes.len())] ^= mask;
        flipped
    })
}

/// A binary decoder, whose object ends where its bytes say so.
fn binary<T: PartialEq + Debug>(
    value: &T,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<T, Malformed>,
    flips: &Flips,
) -> Result<(), TestCaseError> {
    let bytes = encode(value);
    prop_assert!(decode(&bytes).is_ok_and(|decoded| decoded == *value), "what was written is read");
    for cut in 0..bytes.len() {
        prop_assert!(decode(&bytes[..cut]).is_err(), "cut to {} of {}", cut, bytes.len());
    }
    prop_assert!(decode(&[&bytes[..], &[0]].concat()).is_err(), "extended");
    for flipped in flipped(&bytes, flips) {
        if let Ok(other) = decode(&flipped) {
            prop_assert_eq!(encode(&other), flipped);
        }
    }
    Ok(())
}

/// A JSON decoder.
fn json<T: PartialEq + Debug>(
    value: &T,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<T, Malformed>,
    flips: &Flips,
) -> Result<(), TestCaseError> {
    let bytes = encode(value);
    prop_assert!(decode(&bytes).is_ok_and(|decoded| decoded == *value), "what was written is read");
    for cut in (0..bytes.len()).rev().take(300).chain((0..bytes.len()).step_by(17)) {
        prop_assert!(decode(&bytes[..cut]).is_err(), "cut to {} of {}", cut, bytes.len());
    }
    prop_assert!(decode(&[&bytes[..], b"}"].concat()).is_err(), "extended");
    let unknown = [&bytes[..bytes.len() - 1], br#","unheard-of":1}"#].concat();
    prop_assert!(decode(&unknown).is_err(), "an unknown field may have a meaning");
    for flipped in flipped(&bytes, flips) {
        if let Ok(other) = decode(&flipped) {
            prop_assert!(decode(&encode(&other)).is_ok_and(|again| again == other), "{:?}", other);
        }
    }
    Ok(())
}

// ---- Values ----

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>(), 0..12).prop_map(|chars| chars.into_iter().collect())
}

fn time() -> impl Strategy<Value = Timestamp> {
    let seconds = Timestamp::MIN.as_second() + 1..Timestamp::MAX.as_second();
    (prop_oneof![seconds, 0..4_000_000_000i64], prop_oneof![Just(0), 0..1_000_000_000i32])
        .prop_map(|(s, n)| Timestamp::new(s, if s < 0 { -n } else { n }).expect("a time"))
}

fn wrapped_key() -> impl Strategy<Value = WrappedKey> {
    any::<([u8; 16], u32, u64, [u8; 32], [u8; 16])>().prop_map(|(id, epoch, seed, front, back)| {
        let kem_output = noise(pack::KEM_OUTPUT_LEN, seed).try_into().expect("its length");
        let sealed = [&front[..], &back].concat().try_into().expect("48 bytes");
        WrappedKey { id: DataKeyId(id), epoch, kem_output, sealed }
    })
}

fn entry() -> impl Strategy<Value = BlobEntry> {
    let alone = prop_oneof![Just(Codec::Raw), Just(Codec::Zstd), Just(Codec::Columnar)].prop_map(|codec| (codec, None));
    let delta = (any::<[u8; 32]>(), 1..=pack::VERSION_MAX)
        .prop_map(|(id, version)| (Codec::Delta, Some(Base { id: BlobId(id), version })));
    (any::<[u8; 32]>(), prop_oneof![alone, delta], 0..=16u32 << 20, 0..=16u32 << 20).prop_map(
        |(id, (codec, base), raw_len, stored_len)| BlobEntry { id: BlobId(id), codec, raw_len, stored_len, base },
    )
}

fn entries() -> impl Strategy<Value = Vec<BlobEntry>> {
    prop::collection::vec(entry(), 0..12)
}

fn index_object() -> impl Strategy<Value = IndexObject> {
    let packs =
        prop::collection::vec((any::<[u8; 16]>(), any::<[u8; 16]>(), any::<Index>(), entries(), 0..1u64 << 20), 0..5);
    (prop::collection::vec(wrapped_key(), 1..4), packs).prop_map(|(mut keys, packs)| {
        // Chance does not give the same id twice, shrinking does.
        let mut seen = BTreeSet::new();
        keys.retain(|key| seen.insert(key.id));
        let packs = packs
            .into_iter()
            .map(|(id, session, key, entries, more)| IndexedPack {
                id: PackId(id),
                size: blobs_end(&entries) + more,
                session: SnapshotId(session),
                claim: Claim { author: SlotId(session), time: more.cast_signed() - 5 },
                key: keys[key.index(keys.len())].id,
                entries,
            })
            .collect();
        IndexObject { keys, packs }
    })
}

fn sizes() -> impl Strategy<Value = ChunkSizes> {
    (8..22u32).prop_map(|bits| ChunkSizes::around(1 << bits))
}

fn recipe_entry() -> impl Strategy<Value = RecipeEntry> {
    (any::<[u8; 32]>(), 1..=16u32 << 20).prop_map(|(id, len)| RecipeEntry { id: BlobId(id), len })
}

fn key_slot() -> impl Strategy<Value = KeySlot> {
    let costs = (1..=64u32).prop_flat_map(|lanes| (8 * lanes..=4 << 20, 1..=64u32, Just(lanes)));
    let bytes = prop::collection::vec(any::<u8>(), 0..60);
    let argon = (costs, any::<[u8; 16]>()).prop_map(|((memory_kib, passes, lanes), salt)| Kdf::Argon2id {
        memory_kib,
        passes,
        lanes,
        salt,
    });
    (any::<[u8; 16]>(), prop_oneof![argon, Just(Kdf::KeyFile {})], bytes)
        .prop_map(|(repo, kdf, sealed)| KeySlot::new(RepoId(repo), kdf, sealed))
}

/// Their encoding: keys can neither be compared nor printed, on purpose.
fn slot_keys() -> impl Strategy<Value = Vec<u8>> {
    let epoch = any::<(u32, [[u8; 32]; 2])>().prop_map(|(number, secrets)| {
        let [secret, authority] = secrets.map(SecretBytes);
        EpochSecrets { number, secret, authority }
    });
    let secrets = any::<([[u8; 32]; 5], [u8; 32])>();
    (secrets, prop::collection::vec(epoch, 0..4)).prop_map(|((secrets, authority), epochs)| {
        let [chunk_id, chunker_seed, index, sealing, signing] = secrets.map(SecretBytes);
        SlotKeys { chunk_id, chunker_seed, index, authority, sealing, signing, epochs }.encode()
    })
}

fn part_kind() -> impl Strategy<Value = PartKind> {
    prop_oneof![
        Just(PartKind::Stream),
        Just(PartKind::Statements),
        any::<u64>().prop_map(|rows| PartKind::Table { rows }),
        (any::<u32>(), time(), any::<bool>()).prop_map(|(mode, modified, changed)| PartKind::File {
            mode,
            modified,
            changed
        }),
        any::<u32>().prop_map(|mode| PartKind::Folder { mode }),
        text().prop_map(|target| PartKind::Link { target }),
    ]
}

fn name() -> impl Strategy<Value = PartName> {
    let front = || prop::option::of(text());
    (front(), front(), text(), 1..4u32).prop_map(|(database, schema, object, piece)| PartName {
        database,
        schema,
        object,
        piece,
    })
}

fn recipe() -> impl Strategy<Value = Recipe> {
    (0..=8u8, prop::collection::vec(recipe_entry(), 0..4)).prop_map(|(depth, chunks)| Recipe { depth, chunks })
}

fn list() -> impl Strategy<Value = PartList> {
    prop_oneof![
        prop::collection::vec(part(), 0..4).prop_map(inline_list),
        (0..1u64 << 24, any::<u64>(), any::<[u8; 32]>(), recipe()).prop_map(|(count, bytes, blake3, recipe)| {
            PartList { count, bytes, blake3, list: Listing::Recipe(recipe) }
        }),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    let is = prop::sample::select(vec![
        ShapeKind::Stream,
        ShapeKind::Dump,
        ShapeKind::Archive,
        ShapeKind::Files,
        ShapeKind::Pages,
    ]);
    let dialect = prop::sample::select(vec![
        Dialect::Postgres,
        Dialect::Mysql,
        Dialect::Sqlite,
        Dialect::Mongodb,
        Dialect::Tar,
        Dialect::Lines,
    ]);
    (is, prop::option::of(dialect)).prop_map(|(is, dialect)| Shape { is, dialect })
}

fn engine() -> impl Strategy<Value = Engine> {
    let field = || prop::option::of(text());
    let consistency = (text(), field(), field(), field()).prop_map(|(kind, lsn, gtid, last)| Consistency {
        kind,
        lsn,
        gtid,
        last,
        ..Consistency::default()
    });
    (field(), field(), prop::option::of(consistency), prop::collection::vec(text(), 0..3)).prop_map(
        |(engine, tls, consistency, extensions)| Engine { engine, tls, consistency, extensions, ..Engine::default() },
    )
}

fn catalog() -> impl Strategy<Value = Catalog> {
    (digest(), recipe(), 0..1u64 << 24).prop_map(|(digest, recipe, tables)| Catalog { digest, recipe, tables })
}

fn digest() -> impl Strategy<Value = Digest> {
    (0..1u64 << 60, any::<[u8; 32]>()).prop_map(|(bytes, blake3)| Digest { bytes, blake3 })
}

fn part() -> impl Strategy<Value = Part> {
    (name(), part_kind(), digest(), recipe()).prop_map(|(name, kind, digest, recipe)| Part {
        name,
        kind,
        digest,
        recipe,
        stored_bytes: None,
    })
}

fn manifest_body() -> impl Strategy<Value = Manifest> {
    let source = prop_oneof![
        Just(SourceKind::Stream),
        Just(SourceKind::Files),
        text().prop_map(|program| SourceKind::Command { program }),
    ];
    let stored = any::<[u64; 4]>().prop_map(|[chunks, new_chunks, new_bytes, stored_bytes]| Stored {
        chunks,
        new_chunks,
        new_bytes,
        stored_bytes,
    });
    let times = (time(), time(), prop::option::of(any::<[u8; 16]>().prop_map(SnapshotId)), any::<u64>());
    let names = (text(), text(), source, text(), text(), prop::collection::btree_set(text(), 0..3));
    let data = (prop::option::of(digest()), list(), stored, any::<Option<u64>>());
    let more = (shape(), prop::option::of(engine()), prop::option::of(catalog()));
    (times, names, data, more).prop_map(|(times, names, data, (shape, engine, catalog))| {
        let (time, finished, previous, generation) = times;
        let (zone, name, kind, host, tool, tags) = names;
        let (whole, parts, stored, shrunk_from) = data;
        let source = name;
        Manifest {
            time,
            sequence: generation % (manifest::SEQUENCE_MAX + 1),
            finished,
            zone,
            source,
            kind,
            host,
            tags,
            previous,
            generation,
            tool,
            whole,
            shape,
            parts,
            engine,
            catalog,
            stored,
            shrunk_from,
            original: shrunk_from
                .map(|n| Original { repository: RepoId([n as u8; 16]), snapshot: SnapshotId([7; 16]) }),
            original_author: shrunk_from.filter(|n| n % 2 == 0).map(|n| SlotId([n as u8; 16])),
        }
    })
}

fn generation() -> impl Strategy<Value = Generation> {
    let condemned =
        any::<([u8; 16], u64, u64)>().prop_map(|(pack, size, since)| Condemned { pack: PackId(pack), size, since });
    let blobs = prop::collection::vec(any::<[u8; 32]>().prop_map(BlobId), 0..3);
    let distrusted = (any::<[u8; 16]>(), blobs).prop_map(|(pack, blobs)| Distrusted { pack: PackId(pack), blobs });
    let ids = prop::collection::vec(any::<[u8; 16]>(), 0..3);
    let removed = prop::collection::vec((any::<[u8; 16]>(), time()), 0..3);
    let others = (any::<u64>(), ids, removed);
    (prop::collection::vec(condemned, 0..4), prop::collection::vec(distrusted, 0..4), others).prop_map(
        |(condemned, distrusted, (judged, forgotten, removed))| Generation {
            condemned,
            distrusted,
            judged,
            forgotten: forgotten.into_iter().map(SnapshotId).collect(),
            removed_slots: removed.iter().map(|&(id, time)| RemovedSlot { slot: SlotId(id), time }).collect(),
            distrusted_slots: removed.iter().map(|&(id, since)| DistrustedSlot { slot: SlotId(id), since }).collect(),
        },
    )
}

// ---- Round trips ----

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pack_headers(repo in any::<[u8; 16]>(), session in any::<[u8; 16]>(), key in wrapped_key(), flips in flips()) {
        let header = PackHeader { repo: RepoId(repo), session: SnapshotId(session), key };
        binary(&header, PackHeader::encode, PackHeader::decode, &flips)?;
        prop_assert_eq!(header.encode().len(), 1231);
    }

    #[test]
    fn pack_trailers(content in any::<[u8; 32]>(), entries in entries(), flips in flips()) {
        let trailer = Trailer { content, entries };
        binary(&trailer, Trailer::encode, Trailer::decode, &flips)?;
        prop_assert_eq!(trailer.encode().len(), Trailer::encoded_len(&trailer.entries));
        let mut end = 1231;
        for (offset, entry) in with_offsets(&trailer.entries) {
            prop_assert_eq!(u64::from(offset), end);
            end += u64::from(entry.stored_len);
        }
        prop_assert_eq!(blobs_end(&trailer.entries), end);
    }

    #[test]
    fn pack_footers(trailer_len in 0..=16usize << 20, more in 0..1u64 << 30, flips in flips()) {
        let pack_len = 1231 + trailer_len as u64 + 12 + more;
        binary(&trailer_len, |&len| encode_footer(len).to_vec(), |bytes| decode_footer(bytes, pack_len), &flips)?;
        let too_short = decode_footer(&encode_footer(trailer_len), pack_len - more - 1);
        prop_assert!(too_short.is_err(), "a trailer that could not lie in the pack");
    }

    #[test]
    fn index_objects(index in index_object(), flips in flips()) {
        binary(&index, IndexObject::encode, IndexObject::decode, &flips)?;
    }

    /// A recipe has no end of its own: it is cut at entries, and its chunk's id is what tells.
    #[test]
    fn recipes(entries in prop::collection::vec(recipe_entry(), 0..20), flips in flips()) {
        let bytes = recipe::encode_entries(&entries);
        prop_assert_eq!(recipe::decode_entries(&bytes), Ok(entries));
        for cut in 0..bytes.len() {
            prop_assert_eq!(recipe::decode_entries(&bytes[..cut]).is_ok(), cut % 36 == 0);
        }
        for flipped in flipped(&bytes, &flips).take(if bytes.is_empty() { 0 } else { 24 }) {
            if let Ok(other) = recipe::decode_entries(&flipped) {
                prop_assert_eq!(recipe::encode_entries(&other), flipped);
            }
        }
    }

    /// The sealed rest has no length of its own: its tag is what tells.
    #[test]
    fn envelopes(sealed in prop::collection::vec(any::<u8>(), 0..60), flips in flips()) {
        let bytes = envelope::encode(ObjectKind::Index, &sealed);
        prop_assert_eq!(envelope::decode(ObjectKind::Index, &bytes), Ok(&sealed[..]));
        prop_assert!(envelope::decode(ObjectKind::Session, &bytes).is_err());
        for cut in 0..11 {
            prop_assert!(envelope::decode(ObjectKind::Index, &bytes[..cut]).is_err());
        }
        for flipped in flipped(&bytes, &flips) {
            if let Ok(other) = envelope::decode(ObjectKind::Index, &flipped) {
                prop_assert_eq!(envelope::encode(ObjectKind::Index, other), flipped);
            }
        }
    }

    #[test]
    fn sealed_manifests(
        key in wrapped_key(),
        header in prop::collection::vec(any::<u8>(), 0..40),
        body in prop::collection::vec(any::<u8>(), 0..40),
        flips in flips(),
    ) {
        let sealed = SealedManifest { key, header: &header, body: &body };
        let bytes = sealed.encode();
        prop_assert_eq!(manifest::decode(&bytes), Ok(Published::Manifest(sealed)));
        for cut in 0..bytes.len() - body.len() {
            prop_assert!(manifest::decode(&bytes[..cut]).is_err());
        }
        for flipped in flipped(&bytes, &flips) {
            if let Ok(Published::Manifest(other)) = manifest::decode(&flipped) {
                prop_assert_eq!(other.encode(), flipped);
            }
        }
        let fence = encode_fence(&body);
        prop_assert_eq!(manifest::decode(&fence), Ok(Published::Fence(&body)));
    }

    #[test]
    fn configs(
        repo in any::<[u8; 16]>(), keys in any::<[[u8; 32]; 3]>(),
        sealed in prop::collection::vec(any::<u8>(), 0..90), flips in flips(),
    ) {
        let mut config = Config::new(RepoId(repo), Vec::new(), keys[0], sealed);
        config.signature = [keys[1], keys[2]].concat().try_into().expect("64 bytes");
        json(&config, Config::encode, Config::decode, &flips)?;
    }

    #[test]
    fn parameters(chunks in sizes(), recipes in sizes(), pack_bytes in 1u64 << 16..=1 << 28, flips in flips()) {
        let parameters = Parameters { version: 1, required_features: Vec::new(), chunks, recipes, pack_bytes };
        json(&parameters, Parameters::encode, Parameters::decode, &flips)?;
    }

    /// Who says something, and what, comes back; the message covers all of it.
    #[test]
    fn claims_and_orders(
        author in any::<[u8; 16]>(), time in any::<i64>(), epoch in any::<u32>(), seed in any::<u64>(),
        content in prop::collection::vec(any::<u8>(), 0..90), cut in any::<Index>(),
    ) {
        let signature: [u8; 64] = noise(64, seed).try_into().expect("64 bytes");
        let claim = Claim { author: SlotId(author), time };
        let claimed = claim.encode(&signature, &content);
        prop_assert_eq!(Claim::decode(&claimed), Ok((claim, signature, &content[..])));
        prop_assert!(Claim::decode(&claimed[..cut.index(CLAIM_LEN)]).is_err());
        let order = Order { epoch };
        let ordered = order.encode(&signature, &content);
        prop_assert_eq!(Order::decode(&ordered), Ok((order, signature, &content[..])));
        prop_assert!(Order::decode(&ordered[..cut.index(ORDER_LEN)]).is_err());

        let (kind, repo) = (ObjectKind::Index, RepoId([7; 16]));
        let message = claim.message(kind, repo, b"name", &content);
        let others = [
            claim.message(ObjectKind::Session, repo, b"name", &content),
            claim.message(kind, RepoId([8; 16]), b"name", &content),
            claim.message(kind, repo, b"nam", &content),
            claim.message(kind, repo, b"name", &[&content[..], b"x"].concat()),
            Claim { time: time.wrapping_add(1), ..claim }.message(kind, repo, b"name", &content),
            order.message(kind, repo, b"name", &content),
        ];
        prop_assert!(others.iter().all(|other| *other != message));
    }

    #[test]
    fn certificates_and_epochs(label in text(), number in 1..=epoch::EPOCH_MAX, flips in flips()) {
        let certificate = Certificate { label, ..sample::certificate() };
        json(&certificate, Certificate::encode, Certificate::decode, &flips)?;
        let epoch = Epoch { previous: number - 1, ..sample::epoch() };
        json(&epoch, Epoch::encode, Epoch::decode, &flips)?;
        prop_assert_eq!(epoch::number_of(&epoch::object_name(number)), Some(number));
        prop_assert!(check_name(&certificate::object_name(SlotId([7; 16]))).is_ok());
    }

    #[test]
    fn key_slots(slot in key_slot(), flips in flips()) {
        json(&slot, KeySlot::encode, KeySlot::decode, &flips)?;
    }

    #[test]
    fn keys_of_slots(keys in slot_keys(), flips in flips()) {
        json(&keys, Vec::clone, |bytes| SlotKeys::decode(bytes).map(|keys| keys.encode()), &flips)?;
    }

    #[test]
    fn manifest_headers(
        time in time(), series in any::<[u8; 32]>(), bytes in any::<u64>(), previous in any::<Option<[u8; 16]>>(),
        flips in flips(),
    ) {
        let (sequence, previous) = (bytes % (manifest::SEQUENCE_MAX + 1), previous.map(SnapshotId));
        let header = Header { time, series, sequence, bytes, good_bytes: bytes / 2, previous, body: series };
        json(&header, Header::encode, Header::decode, &flips)?;
    }

    #[test]
    fn manifests(body in manifest_body(), flips in flips()) {
        json(&body, Manifest::encode, Manifest::decode, &flips)?;
        if let Some(parts) = body.parts.inline() {
            prop_assert_eq!(body.bytes(), parts.iter().map(|part| part.digest.bytes).sum::<u64>());
        }
    }

    #[test]
    fn records_of_parts(parts in prop::collection::vec(part(), 1..5), cut in any::<prop::sample::Index>()) {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.encode().expect("short")).collect();
        prop_assert_eq!(decode_parts(&bytes).expect("decodes"), parts);
        let cut = cut.index(bytes.len());
        if cut == 0 || bytes[cut - 1] != b'\n' {
            prop_assert!(decode_parts(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn records_of_tables(name in name(), rows in any::<u64>(), columns in prop::collection::vec((text(), text()), 0..4)) {
        let columns = columns.into_iter().map(|(name, data_type)| Column { name, data_type }).collect();
        let table = CatalogTable { name, rows, bytes: rows / 2, columns, digest: [7; 32] };
        let record = table.encode().expect("short");
        prop_assert_eq!(decode_tables(&[&record[..], &record].concat()).expect("decodes"), vec![table.clone(), table]);
    }

    #[test]
    fn sessions_and_beats(
        host in text(), pid in any::<u32>(), purpose in text(), time in time(),
        count in any::<u64>(), generation in any::<u64>(), flips in flips(),
    ) {
        json(&Session { host, pid, purpose, started: time }, Session::encode, Session::decode, &flips)?;
        json(&Beat { count, time, generation }, Beat::encode, Beat::decode, &flips)?;
    }

    #[test]
    fn generations(generation in generation(), flips in flips()) {
        json(&generation, Generation::encode, Generation::decode, &flips)?;
    }

    /// Never shorter, at most 12 % longer (a 32nd from 1 MiB on), in order, and its own padding.
    #[test]
    fn padded_lengths(len in prop_oneof![0..1u64 << 12, 0..1u64 << 24, 0..1u64 << 56], more in 0..1u64 << 20) {
        let padded = padme(len);
        let over = padded.checked_sub(len).expect("never shorter");
        let allowed = if len < 1 << 20 { len / 25 * 3 + 1 } else { len / 32 };
        prop_assert!(over <= allowed, "{} to {}", len, padded);
        prop_assert!(padme(len + more) >= padded);
        prop_assert_eq!(padme(padded), padded);
    }

    #[test]
    fn names_of_generations_sort_like_numbers(a in 0..u64::MAX / 2, b in 0..u64::MAX / 2, c in 0..1000u64) {
        prop_assert_eq!(generation_name(a).cmp(&generation_name(b)), a.cmp(&b));
        prop_assert_eq!(generation_name(a).cmp(&generation_name(c)), a.cmp(&c));
        prop_assert_eq!(generation_of(&generation_name(a)), Some(a));
    }

    #[test]
    fn names_parse_back(bytes in any::<[u8; 16]>(), long in any::<[u8; 32]>()) {
        let id = SnapshotId(bytes);
        prop_assert_eq!(session_of(&session_name(id)), Some(id));
        prop_assert_eq!(session_of(&beat_name(id)), Some(id));
        prop_assert_eq!(id.to_string().parse::<SnapshotId>().ok(), Some(id));
        prop_assert_eq!(BlobId(long).to_string().parse::<BlobId>().ok(), Some(BlobId(long)));
        let names = [
            session_name(id), beat_name(id), manifest::object_name(id), pack::object_name(PackId(bytes)),
            index::object_name(IndexId(bytes)), keyslot::object_name(SlotId(bytes)),
            generation_name(u64::from(bytes[0])), config::OBJECT_NAME.to_owned(),
        ];
        for name in names {
            prop_assert!(check_name(&name).is_ok(), "{}", name);
        }
    }
}

// ---- Numbers, as docs/format.md gives them ----

#[test]
fn lengths_and_limits_are_those_of_the_specification() {
    assert_eq!(FORMAT_VERSION, 1);
    let lens = [RepoId::LEN, BlobId::LEN, PackId::LEN, IndexId::LEN, SnapshotId::LEN, SlotId::LEN, DataKeyId::LEN];
    assert_eq!(lens, [16, 32, 16, 16, 16, 16, 16]);
    // id 16, epoch 4, method 1, encapsulated key 1120, sealed key 48
    let lens = (pack::PUBLIC_KEY_LEN, pack::KEM_OUTPUT_LEN, pack::SEALED_KEY_LEN, pack::WRAPPED_KEY_LEN);
    assert_eq!(lens, (1216, 1120, 48, 1189));
    // magic 8, version 2, repository 16, session 16, wrapped key 1189
    assert_eq!(pack::HEADER_LEN, 1231);
    // author 16, time 8, signature 64; epoch 4, signature 64
    assert_eq!((CLAIM_LEN, ORDER_LEN), (88, 68));
    // magic 8, version 2, nonce 24, claim 88, tag 16
    assert_eq!(manifest::FENCE_LEN, 138);
    // trailer_len 4, magic 8
    assert_eq!(pack::FOOTER_LEN, 12);
    // content 32, count 4; an entry: id 32, codec 1, raw_len 4, stored_len 4
    let whole = sample::entry(1);
    let base = Some(Base { id: BlobId([1; 32]), version: 1 });
    let delta = BlobEntry { codec: Codec::Delta, base, ..whole.clone() };
    assert_eq!((Trailer::encoded_len(&[]), Trailer::encoded_len(&[whole, delta])), (36, 36 + 41 + 74));
    // magic 8, version 2, kind 1
    assert_eq!(envelope::FRONT_LEN, 11);
    // id 32, length 4
    assert_eq!(recipe::ENTRY_LEN, 36);
    let magics = [pack::MAGIC, pack::END_MAGIC, index::MAGIC, manifest::MAGIC, manifest::FENCE_MAGIC, envelope::MAGIC];
    assert_eq!(magics, [*b"ALVMPACK", *b"ALVMPEND", *b"ALVMINDX", *b"ALVMSNAP", *b"ALVMFENC", *b"ALVMSEAL"]);
    assert_eq!((limits::BLOB_RAW_BYTES_MAX, limits::BLOB_STORED_BYTES_MAX), (16_777_216, 16_778_240));
    assert_eq!(
        (limits::PACK_BLOBS_MAX, limits::PACK_BYTES_MAX, limits::TRAILER_BYTES_MAX),
        (131_072, 1_073_741_824, 16_777_216)
    );
    assert_eq!((limits::INDEX_PACKS_MAX, limits::INDEX_KEYS_MAX), (65_536, 65_536));
    assert_eq!((limits::INDEX_BYTES_MAX, limits::JSON_BYTES_MAX), (268_435_456, 268_435_456));
    assert_eq!((limits::RECIPE_INLINE_MAX, limits::RECIPE_DEPTH_MAX, limits::NAME_BYTES_MAX), (64, 8, 4096));
    assert_eq!(limits::TAGS_MAX, 1024);
    assert_eq!((epoch::EPOCH_MAX, epoch::CERTIFICATES_MAX, limits::EPOCH_BYTES_MAX), (99_999_999, 4096, 16_777_216));
    assert_eq!((limits::PARTS_MAX, limits::PARTS_INLINE_MAX, limits::PARTS_INLINE_BYTES_MAX), (16_777_216, 16, 16_384));
    assert_eq!((limits::PART_RECORD_BYTES_MAX, limits::CATALOG_RECORD_BYTES_MAX), (65_536, 1_048_576));
    assert_eq!((limits::KDF_MEMORY_KIB_MAX, limits::KDF_PASSES_MAX, limits::KDF_LANES_MAX), (4_194_304, 64, 64));
}

#[test]
fn kinds_and_codecs_have_their_numbers() {
    use ObjectKind::{
        Blob, Certificate, Config, DataKey, Epoch, EpochSecrets, Fence, Generation, Index, KeySlot, ManifestBody,
        ManifestHeader, PackTrailer, Session,
    };
    let kinds = [
        Config,
        KeySlot,
        DataKey,
        Blob,
        PackTrailer,
        Index,
        ManifestHeader,
        ManifestBody,
        Session,
        Generation,
        Certificate,
        Epoch,
        EpochSecrets,
        Fence,
    ];
    assert_eq!(kinds.map(|kind| kind as u8), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    let codecs = [Codec::Raw, Codec::Zstd, Codec::Columnar, Codec::Delta];
    assert_eq!(codecs.map(|codec| codec as u8), [0, 1, 2, 3]);
    assert_eq!(pack::KEM_X_WING, 2);
    // "alluvium", version 2, kind 1, repository 16, name
    let bound = associated_data(Blob, RepoId([7; 16]), b"name");
    assert_eq!(bound, [&b"alluvium\x01\x00\x04"[..], &[7; 16], b"name"].concat());
}

#[test]
fn objects_lie_where_the_specification_says() {
    let digits = "000102030405060708090a0b0c0d0e0f";
    let bytes = std::array::from_fn(|i| i as u8);
    let names = [
        pack::object_name(PackId(bytes)),
        index::object_name(IndexId(bytes)),
        keyslot::object_name(SlotId(bytes)),
        manifest::object_name(SnapshotId(bytes)),
        session_name(SnapshotId(bytes)),
        beat_name(SnapshotId(bytes)),
    ];
    let expected = ["packs/00/ID", "index/ID", "keys/ID", "snapshots/ID", "sessions/ID", "sessions/ID.beat"];
    assert_eq!(names, expected.map(|name| name.replace("ID", digits)));
    assert_eq!(generation_name(7), "prune/00000000000000000007");
    assert_eq!(generation_name(u64::MAX), "prune/18446744073709551615");
    assert_eq!(config::OBJECT_NAME, "config");
    assert_eq!(
        (epoch::object_name(1), epoch::object_name(epoch::EPOCH_MAX)),
        ("epochs/00000001".into(), "epochs/99999999".into())
    );
    assert_eq!(epoch::number_of("epochs/99999999"), Some(epoch::EPOCH_MAX));
    for name in ["epochs/00000000", "epochs/100000000", "epochs/0000001", "epochs/+0000001", "epoch/00000001"] {
        assert_eq!(epoch::number_of(name), None, "{name}");
    }
}

#[test]
fn names_that_nobody_wrote_are_refused() {
    let digits = "000102030405060708090a0b0c0d0e0f";
    for name in [
        digits.to_owned(),
        format!("session/{digits}"),
        format!("sessions/{}", digits.to_uppercase()),
        format!("sessions/{}", &digits[1..]),
        format!("sessions/{digits}0"),
        format!("sessions/{digits}.beat.beat"),
        format!("sessions/{digits}.tmp"),
        format!("sessions/+{}", &digits[1..]),
        format!("/sessions/{digits}"),
        String::new(),
    ] {
        assert_eq!(session_of(&name), None, "{name}");
    }
    for name in [
        "prune/7",
        "prune/0000000000000000007",
        "prune/000000000000000000007",
        "prune/99999999999999999999",
        "prune/18446744073709551616",
        // `u64::from_str` takes a sign.
        "prune/+0000000000000000007",
        "prune/0000000000000000000x",
        "prune/0000000000000000007 ",
        "00000000000000000007",
        "",
    ] {
        assert_eq!(generation_of(name), None, "{name}");
    }
    for text in [
        "",
        "00",
        &digits.to_uppercase(),
        &format!("{digits}00"),
        "+0102030405060708090a0b0c0d0e0f0",
        "0001020304050607080ä0b0c0d0e0f0",
    ] {
        assert!(text.parse::<PackId>().is_err(), "{text}");
    }
}

/// What padding tells of a length up to 2^20: which of so many lengths it is. Plain lengths would tell 20 bits.
#[test]
fn padding_leaves_few_lengths() {
    let lengths: BTreeSet<u64> = (0..=1u64 << 20).map(padme).collect();
    assert!(lengths.len() < 400, "{} different lengths", lengths.len());
    assert_eq!([0, 1, 2, 3, 9, 129, 1000, 16_777_217].map(padme), [0, 1, 2, 3, 10, 144, 1024, 17_301_504]);
}

// ---- Refusals ----

/// Replaces the four bytes at `at`.
fn with_number(bytes: &[u8], at: usize, number: u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Lists that claim more than there is, at every place that has a length: refused before anything is reserved. The fuzz
/// targets count the bytes; here it is time that tells.
#[test]
fn hostile_lengths_are_refused_at_once() {
    let began = Instant::now();
    let trailer = sample::trailer().encode();
    let index = sample::index().encode();
    // magic 8, version 2, count and one key, count, first pack up to its entries
    let keys = 10;
    let packs = keys + 4 + 1189;
    let entries = packs + 4 + 16 + 8 + 16 + 16 + 8 + 4;
    let front = sample::sealed_manifest();
    for claim in [u32::MAX, u32::MAX / 2, 1 << 30, 1 << 17, 1 << 16, 1000] {
        let refusal = Trailer::decode(&with_number(&trailer, 32, claim)).expect_err("the trailer's entries");
        assert!(refusal.0.contains(&claim.to_string()), "{refusal}");
        for at in [keys, packs, entries] {
            assert!(IndexObject::decode(&with_number(&index, at, claim)).is_err(), "{claim} at {at}");
        }
        assert!(IndexObject::decode(&with_number(&index, entries - 4, claim)).is_err(), "a key's place");
        assert!(manifest::decode(&with_number(&front, 8 + 2 + 1189, claim)).is_err(), "the header's length");
        assert!(decode_footer(&with_number(&encode_footer(0), 0, claim), 900).is_err(), "the trailer's length");
        // raw_len and stored_len of the first entry
        for at in [36 + 33, 36 + 37] {
            assert!(claim <= 1 << 17 || Trailer::decode(&with_number(&trailer, at, claim)).is_err(), "{claim} at {at}");
        }
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let mut index = sample::index();
    index.keys.push(index.keys[0].clone());
    says(IndexObject::decode(&index.encode()), &["a data key twice"]);
    let mut index = sample::index();
    index.packs[0].size = blobs_end(&index.packs[0].entries) - 1;
    says(IndexObject::decode(&index.encode()), &["claims"]);
    index.packs[0].size = (1 << 30) + 1;
    says(IndexObject::decode(&index.encode()), &["claims"]);

    let blob = BlobEntry { stored_len: 16 << 20, raw_len: 16 << 20, ..sample::entry(1) };
    let trailer = Trailer { content: [0; 32], entries: vec![blob; 64] };
    says(Trailer::decode(&trailer.encode()), &["largest pack"]);

    for len in [0, (16 << 20) + 1] {
        let entry = RecipeEntry { id: BlobId([0; 32]), len };
        assert!(recipe::decode_entries(&recipe::encode_entries(&[entry])).is_err());
        assert!(Recipe { depth: 0, chunks: vec![entry] }.check().is_err());
    }
    assert!(Recipe { depth: 9, chunks: Vec::new() }.check().is_err());
    assert!(Recipe { depth: 0, chunks: vec![RecipeEntry { id: BlobId([0; 32]), len: 1 }; 65] }.check().is_err());

    let altered = |alter: &dyn Fn(&mut Vec<Part>)| {
        let mut manifest = sample::manifest_of_files();
        let mut parts = manifest.parts.inline().expect("a short list").to_vec();
        alter(&mut parts);
        manifest.parts = inline_list(parts);
        Manifest::decode(&manifest.encode())
    };
    assert!(altered(&|_| {}).is_ok());
    says(altered(&|parts| parts.iter_mut().for_each(|part| part.digest.bytes = u64::MAX)), &["as long"]);
    says(altered(&|parts| parts[0].name = PartName::of("x".repeat(4097))), &["name too long"]);
    says(altered(&|parts| parts[0].name.piece = 0), &["piece 0"]);
    says(altered(&|parts| *parts = vec![parts[0].clone(); 17]), &["17 parts"]);
    let counted = |count| {
        let mut manifest = sample::manifest_of_files();
        manifest.parts.count = count;
        Manifest::decode(&manifest.encode())
    };
    says(counted(2), &["as many"]);
    says(counted((1 << 24) + 1), &["16777217 parts"]);
    let part = sample::manifest_of_files().parts.inline().expect("a short list")[0].clone();
    let record = part.encode().expect("short");
    says(decode_parts(&record[..record.len() - 1]), &["line feed"]);
    says(decode_parts(b""), &["line feed"]);
    says(decode_parts(b"\n"), &["not the expected JSON"]);
    let long = PartKind::Link { target: "x".repeat(1 << 16) };
    says(Part { kind: long, ..part }.encode(), &["record of a part"]);
    says(decode_parts(&[vec![b' '; 1 << 16], record].concat()), &["record of"]);

    let sequences = |sequence| {
        let header = Header { sequence, ..sample::header() };
        let body = Manifest { sequence, ..sample::manifest_of_files() };
        (Header::decode(&header.encode()).map(drop), Manifest::decode(&body.encode()).map(drop))
    };
    assert_eq!(sequences(1 << 40), (Ok(()), Ok(())));
    for refused in [sequences((1 << 40) + 1), sequences(u64::MAX)] {
        says(refused.0, &["sequence", "limit"]);
        says(refused.1, &["sequence", "limit"]);
    }

    // Each name of a manifest by itself; the longest that is allowed reads.
    let fields: [fn(&mut Manifest, String); 6] = [
        |manifest, name| manifest.source = name,
        |manifest, name| manifest.host = name,
        |manifest, name| manifest.zone = name,
        |manifest, name| manifest.tool = name,
        |manifest, name| manifest.kind = SourceKind::Command { program: name },
        |manifest, name| manifest.tags = BTreeSet::from(["a".to_owned(), name]),
    ];
    for set in fields {
        let named = |len| {
            let mut manifest = sample::manifest_of_files();
            set(&mut manifest, "x".repeat(len));
            Manifest::decode(&manifest.encode())
        };
        assert!(named(4096).is_ok());
        says(named(4097), &["of 4097 bytes", "the limit is 4096"]);
    }
    let tagged = |count: u32| {
        let mut manifest = sample::manifest_of_files();
        manifest.tags = (0..count).map(|n| n.to_string()).collect();
        Manifest::decode(&manifest.encode())
    };
    assert!(tagged(1024).is_ok());
    says(tagged(1025), &["1025 tags", "the limit is 1024"]);

    // An epoch with as many slots as can be is no larger than what is read.
    let with_slots = |certificates, secrets| Epoch {
        certificates: vec![epoch::Listed { slot: SlotId([255; 16]), digest: [255; 32] }; certificates],
        secrets: vec![
            epoch::SealedSecrets {
                slot: SlotId([255; 16]),
                kem_output: [255; pack::KEM_OUTPUT_LEN],
                sealed: [255; epoch::SEALED_SECRETS_LEN],
            };
            secrets
        ],
        ..sample::epoch()
    };
    let largest = with_slots(4096, 4096);
    assert_eq!(Epoch::decode(&largest.encode()).as_ref(), Ok(&largest));
    assert!((largest.encode().len() + 1024) as u64 <= limits::EPOCH_BYTES_MAX);
    for (certificates, secrets) in [(4097, 0), (0, 4097)] {
        says(Epoch::decode(&with_slots(certificates, secrets).encode()), &["too many slots"]);
    }

    let mut certificate = sample::certificate();
    certificate.label = "x".repeat(4097);
    says(Certificate::decode(&certificate.encode()), &["label too long"]);
}

#[test]
fn hostile_costs_of_unlocking_are_refused() {
    let decode = |memory_kib, passes, lanes| {
        let mut slot = sample::slot();
        slot.kdf = Kdf::Argon2id { memory_kib, passes, lanes, salt: [7; 16] };
        KeySlot::decode(&slot.encode())
    };
    assert!(decode(64 << 10, 3, 4).is_ok() && decode(4 << 20, 64, 64).is_ok() && decode(8, 1, 1).is_ok());
    for (memory_kib, passes, lanes) in [
        ((4 << 20) + 1, 1, 1),
        (u32::MAX, 1, 1),
        (64, 65, 1),
        (64, 0, 1),
        (64, 1, 0),
        (1024, 1, 65),
        (7, 1, 1),
        (64, 1, u32::MAX),
    ] {
        assert!(decode(memory_kib, passes, lanes).is_err(), "{memory_kib} {passes} {lanes}");
    }
}

#[test]
fn impossible_chunk_sizes_are_refused() {
    let sizes = |min, average, max| ChunkSizes { min, average, max }.check();
    assert!(sizes(64, 256, 1024).is_ok() && sizes(1 << 20, 4 << 20, 16 << 20).is_ok());
    for (min, average, max) in [
        (62, 256, 1024),
        (64, 254, 1024),
        (65, 256, 1024),
        (256, 256, 1024),
        (64, 1024, 1024),
        (64, 256, (16 << 20) + 2),
        (0, 0, 0),
    ] {
        assert!(sizes(min, average, max).is_err(), "{min} {average} {max}");
    }
}

/// JSON that says something this program has not heard of, in whatever depth, is refused: it may have a meaning. The
/// exceptions are kinds, shapes, engines and what storing took: `what_is_newer_is_named` tries them.
#[test]
fn unknown_fields_are_refused_at_every_depth() {
    let body = String::from_utf8(sample::manifest_of_files().encode()).expect("JSON");
    let generation = String::from_utf8(sample::generation().encode()).expect("JSON");
    let keys = String::from_utf8(sample::keys(true).encode()).expect("JSON");
    let slot = String::from_utf8(sample::slot().encode()).expect("JSON");
    let parameters = String::from_utf8(sample::parameters().encode()).expect("JSON");
    let mut tried = 0;
    let mut refuses = |text: &str, inside: &str, decodes: &dyn Fn(&[u8]) -> bool| {
        assert!(decodes(text.as_bytes()), "{text}");
        let at = text.find(inside).unwrap_or_else(|| panic!("{inside} in {text}")) + inside.len();
        let unknown = format!(r#"{}"unheard-of":1,{}"#, &text[..at], &text[at..]);
        assert!(!decodes(unknown.as_bytes()), "{unknown}");
        tried += 1;
    };
    let manifest = |bytes: &[u8]| Manifest::decode(bytes).is_ok();
    for inside in
        ["{", r#""parts":{"#, r#""list":{"#, r#""inline":[{"#, r#""name":{"#, r#""digest":{"#, r#""recipe":{"#]
    {
        refuses(&body, inside, &manifest);
    }
    for inside in [r#""condemned":[{"#, r#""distrusted":[{"#] {
        refuses(&generation, inside, &|bytes| Generation::decode(bytes).is_ok());
    }
    refuses(&keys, r#""epochs":[{"#, &|bytes| SlotKeys::decode(bytes).is_ok());
    refuses(&slot, r#""kdf":{"#, &|bytes| KeySlot::decode(bytes).is_ok());
    refuses(&parameters, r#""chunks":{"#, &|bytes| Parameters::decode(bytes).is_ok());
    assert_eq!(tried, 12, "the number of places above");
}

/// It is refused, and the refusal has these words.
fn says<T>(decoded: Result<T, Malformed>, words: &[&str]) {
    let refusal = decoded.err().expect("a refusal").0;
    assert!(words.iter().all(|word| refusal.contains(word)), "{refusal}");
}

/// What a later version may write is refused in words that say what it is.
#[test]
fn what_is_newer_is_named() {
    let newer = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        // Behind the magic.
        bytes[8..10].copy_from_slice(&2u16.to_le_bytes());
        bytes
    };
    let header = sample::pack_header().encode();
    says(PackHeader::decode(&newer(&header)), &["pack format 2", "reads 1"]);
    says(IndexObject::decode(&newer(&sample::index().encode())), &["index format 2", "reads 1"]);
    says(manifest::decode(&newer(&sample::sealed_manifest())), &["manifest format 2", "reads 1"]);
    says(manifest::decode(&newer(&encode_fence(b""))), &["format 2", "reads 1"]);
    let sealed = newer(&envelope::encode(ObjectKind::Session, b""));
    says(envelope::decode(ObjectKind::Session, &sealed), &["format 2", "reads 1"]);

    // Methods: of sealing a data key, of encoding a blob.
    let mut other = header.clone();
    other[8 + 2 + 16 + 16 + 16 + 4] = 1;
    says(PackHeader::decode(&other), &["unknown method 1"]);
    let mut other = sample::trailer().encode();
    other[36 + 32] = 4;
    says(Trailer::decode(&other), &["unknown codec 4"]);

    // JSON: the version is looked at before the fields.
    let edited = |bytes: Vec<u8>, from: &str, to: &str| {
        let text = String::from_utf8(bytes).expect("JSON");
        assert!(text.contains(from), "{from} in {text}");
        text.replacen(from, to, 1).into_bytes()
    };
    let version = r#""version":1"#;
    let config = || sample::config().encode();
    let later = edited(config(), version, r#""version":2,"of-tomorrow":[]"#);
    says(Config::decode(&later), &["repository format 2", "newer alluvium"]);
    let feature = edited(config(), r#""required_features":[]"#, r#""required_features":["shiny\u001b[2J"]"#);
    says(Config::decode(&feature), &["`shiny\\u{1b}[2J`", "newer alluvium"]);
    let foreign = edited(config(), "alluvium repository", "something else");
    says(Config::decode(&foreign), &["not an alluvium repository"]);
    let slot = || sample::slot().encode();
    let later = edited(slot(), version, r#""version":2,"of-tomorrow":[]"#);
    says(KeySlot::decode(&later), &["key slot of format 2", "reads 1"]);
    let kdf = edited(slot(), "argon2id", "scrypt");
    says(KeySlot::decode(&kdf), &["scrypt"]);
    // What a later version adds to these is ignored.
    let body = |manifest: &Manifest| manifest.encode();
    for (manifest, from, to) in [
        (sample::manifest_of_a_command(), r#""is":"command","#, r#""is":"command","exit":{"code":0},"#),
        (sample::manifest_of_a_command(), r#""is":"stream"}"#, r#""is":"stream","lines":7}"#),
        (sample::manifest_of_files(), r#""is":"folder","#, r#""is":"folder","owner":"root","#),
        (sample::manifest_of_files(), r#""stored":{"#, r#""stored":{"seconds":1.5,"#),
        (sample::manifest_of_files(), r#""shape":{"#, r#""shape":{"nested":[],"#),
        (sample::manifest_of_a_dump(), r#""engine":{"#, r#""engine":{"replica":true,"#),
        (sample::manifest_of_a_dump(), r#""consistency":{"#, r#""consistency":{"slot":"s","#),
    ] {
        let later = edited(body(&manifest), from, to);
        assert_eq!(Manifest::decode(&later).expect("reads"), manifest, "{to}");
    }
    // Elsewhere it is refused.
    for (from, to) in [
        (r#"{"time":"#, r#"{"shiny":1,"time":"#),
        (r#""digest":{"#, r#""digest":{"shiny":1,"#),
        (r#""recipe":{"#, r#""recipe":{"shiny":1,"#),
        (r#""parts":{"#, r#""parts":{"shiny":1,"#),
        (r#""catalog":{"#, r#""catalog":{"shiny":1,"#),
    ] {
        says(Manifest::decode(&edited(body(&sample::manifest_of_a_dump()), from, to)), &["shiny"]);
    }
    for (from, to) in [(r#""is":"dump""#, r#""is":"tape""#), (r#""dialect":"postgres""#, r#""dialect":"tape""#)] {
        says(Manifest::decode(&edited(body(&sample::manifest_of_a_dump()), from, to)), &["tape"]);
    }
    // A kind of part or source of tomorrow is named by serde.
    let body = edited(sample::manifest_of_files().encode(), r#""is":"link""#, r#""is":"socket""#);
    says(Manifest::decode(&body), &["socket"]);
}

#[test]
fn objects_of_one_kind_are_not_those_of_another() {
    let objects = [
        sample::pack_header().encode(),
        sample::index().encode(),
        sample::sealed_manifest(),
        envelope::encode(ObjectKind::Session, b"sealed"),
        sample::config().encode(),
        sample::slot().encode(),
    ];
    for (i, object) in objects.iter().enumerate() {
        let decodes = [
            PackHeader::decode(object).is_ok(),
            IndexObject::decode(object).is_ok(),
            manifest::decode(object).is_ok(),
            envelope::decode(ObjectKind::Session, object).is_ok(),
            Config::decode(object).is_ok(),
            KeySlot::decode(object).is_ok(),
        ];
        assert_eq!(decodes, std::array::from_fn(|j| i == j), "object {i}");
    }
}

/// The encoder that everything above stands on.
#[test]
fn integers_are_little_endian() {
    let mut out = Encoder::default();
    out.u8(1);
    out.u16(0x0203);
    out.u32(0x0405_0607);
    out.u64(0x0809_0a0b_0c0d_0e0f);
    out.len(0x10);
    out.bytes(b"end");
    assert_eq!(out.0, b"\x01\x03\x02\x07\x06\x05\x04\x0f\x0e\x0d\x0c\x0b\x0a\x09\x08\x10\0\0\0end");
}
