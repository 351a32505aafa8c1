//! What people write where a snapshot, a time, or a part of a check is named.
#![no_main]

use std::collections::BTreeSet;
use std::sync::LazyLock;

use alluvium::error::Kind;
use alluvium::format::manifest::{Digest, Manifest, Part, PartKind, PartName, Shape, ShapeKind, SourceKind, Stored};
use alluvium::format::recipe::Recipe;
use alluvium::id::{SlotId, SnapshotId};
use alluvium::ops::check::Subset;
use alluvium::ops::select::{parse_time, snapshot, snapshot_and_part};
use alluvium::repo::snapshots::{Snapshot, inline_list};
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use libfuzzer_sys::fuzz_target;

/// Newest first, as lists of snapshots are; names and parts with the signs that have a meaning.
static SNAPSHOTS: LazyLock<Vec<Snapshot>> = LazyLock::new(|| {
    let named = [(4, "shop"), (3, "shop"), (2, "wiki:12"), (1, "0101")];
    named.map(|(number, name)| taken(number, name, &["shop", "a:b", "2026-01-01"])).into()
});

fn taken(number: u8, source: &str, parts: &[&str]) -> Snapshot {
    let time = Timestamp::from_second(1_767_225_600 + i64::from(number) * 86_400).expect("a time");
    let part = |name: &&str| Part {
        name: PartName::of(*name),
        kind: PartKind::Stream,
        digest: Digest { bytes: 0, blake3: [0; 32] },
        recipe: Recipe::default(),
        stored_bytes: None,
    };
    let manifest = Manifest {
        time,
        sequence: u64::from(number),
        finished: time,
        zone: "UTC".to_owned(),
        source: source.to_owned(),
        kind: SourceKind::Stream,
        host: "host".to_owned(),
        tags: BTreeSet::new(),
        previous: None,
        generation: 0,
        tool: String::new(),
        whole: None,
        shape: Shape { is: ShapeKind::Files, dialect: None },
        parts: inline_list(parts.iter().map(part).collect()),
        engine: None,
        catalog: None,
        stored: Stored::default(),
        shrunk_from: None,
        original: None,
        original_author: None,
    };
    Snapshot::new(SnapshotId([number; 16]), SlotId([7; 16]), manifest)
}

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let zone = TimeZone::fixed(Offset::from_seconds(5 * 3600 + 1800).expect("an offset"));
    for time in parse_time(text, &zone).into_iter().flatten() {
        assert_eq!(parse_time(&time.to_string(), &zone), Some([time; 2]), "a time's own text means this time");
    }
    let parts = |snapshot: &Snapshot| Ok(snapshot.manifest.parts.inline().unwrap_or_default().to_vec());
    let with_part = snapshot_and_part(&SNAPSHOTS, text, &zone, &parts).map(|(found, _)| found);
    for found in [snapshot(&SNAPSHOTS, text, &zone), with_part] {
        match found {
            Ok(found) => {
                let same = snapshot(&SNAPSHOTS, &found.id.to_string(), &zone);
                assert!(same.is_ok_and(|same| same.id == found.id), "a snapshot's id names it");
            }
            Err(error) => assert!(matches!(error.kind(), Kind::NotFound | Kind::Usage)),
        }
    }
    if let Ok(subset) = text.parse::<Subset>() {
        assert!((1..=subset.of).contains(&subset.part));
    }
});
