//! The demo tells its story to the end, and what it says it restored is there.

use std::fs;
use std::sync::Arc;

use alluvium::env::{Cancel, SystemEnv};
use alluvium::error::Kind;
use alluvium::ops::demo::{COMMANDS, demo};
use alluvium::report::{Collect, Silent};

#[test]
fn the_demo_proves_what_it_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (report, mut lines) = (Collect::default(), Vec::new());
    let mut say = |line: &str| lines.push(line.to_owned());
    demo(folder.path(), Arc::new(SystemEnv), &report, &mut say, &Cancel::new()).expect("the demo runs");

    let story = lines.join("\n");
    for essential in [
        "Wed  4 Mar ",
        "Fri 13 Mar ",
        "10 full backups",
        "the same BLAKE3 digest",
        "SQLite checks the restored database: ok",
        "Found in packs/",
        "Restore refuses",
        "restores again, byte for byte",
        "keep    daily snapshot, weekly snapshot",
        "4 snapshots, ",
        "no problem",
    ] {
        assert!(story.contains(essential), "the story lacks `{essential}`:\n{story}");
    }
    assert!(COMMANDS.iter().all(|command| story.contains(command)), "{story}");
    assert!(lines.iter().skip(1).all(|line| !line.contains('\n') && line.chars().count() <= 80), "{story}");
    assert!(report.warnings().is_empty() && report.problems().is_empty(), "the demo worries people: {report:?}");

    let read = |name| fs::read(folder.path().join(name)).expect("the demo's file is there");
    assert!(read("restored.sqlite") == read("kept-aside.sqlite"), "the restored file differs from the original");
    assert!(read("mended.sqlite") == read("shop.sqlite"), "the mended file differs from the original");
    assert!(read("restored.sqlite") != read("shop.sqlite"), "the shop did no business");
}

#[test]
fn a_cancelled_demo_ends() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cancel = Cancel::new();
    cancel.cancel();
    let ended = demo(folder.path(), Arc::new(SystemEnv), &Silent, &mut |_| {}, &cancel);
    assert_eq!(ended.expect_err("cancelled").kind(), Kind::Interrupted);
}
