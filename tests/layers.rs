//! The direction of the code: a module uses only modules of a lower rank. Read from the sources, so that the test
//! fails in the change that turns an arrow round.

use std::fs;
use std::path::{Path, PathBuf};

/// Ranks as `src/lib.rs` and `docs/architecture.md` give them. Modules of one rank do not see each other,
/// but for `repo` and `ops`, which are one module each.
const RANKS: [(&str, u32); 13] = [
    ("error", 0),
    ("id", 0),
    ("report", 0),
    ("env", 0),
    ("format", 1),
    ("transform", 1),
    ("storage", 2),
    ("source", 2),
    ("repo", 3),
    ("ops", 4),
    ("config", 5),
    ("daemon", 6),
    ("cli", 7),
];

fn rank(module: &str) -> u32 {
    RANKS
        .iter()
        .find(|(name, _)| *name == module)
        .unwrap_or_else(|| panic!("module `{module}` has no rank: give it one in tests/layers.rs"))
        .1
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every `crate::module` that a source mentions outside comments.
fn mentions(text: &str) -> Vec<String> {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let mut found = Vec::new();
    for line in code {
        for rest in line.split("crate::").skip(1) {
            let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
            match rest.strip_prefix('{') {
                Some(list) => found.extend(list.split(',').map(|item| word(item.trim()))),
                None => found.push(word(rest)),
            }
        }
    }
    found.retain(|m| !m.is_empty());
    found
}

#[test]
fn modules_use_only_lower_ranks() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&source, &mut files);
    let (mut arrows, mut wrong) = (0, Vec::new());
    for file in files {
        let relative = file.strip_prefix(&source).expect("below src");
        let module =
            relative.components().next().expect("a component").as_os_str().to_string_lossy().replace(".rs", "");
        if module == "lib" || module == "main" {
            continue;
        }
        for used in mentions(&fs::read_to_string(&file).expect("a source")) {
            arrows += 1;
            let allowed = used == module || rank(&used) < rank(&module) || (rank(&module) == 0 && rank(&used) == 0);
            if !allowed {
                wrong.push(format!(
                    "{} (rank {}) uses {used} (rank {})",
                    relative.display(),
                    rank(&module),
                    rank(&used)
                ));
            }
        }
    }
    assert!(arrows > 100, "the test has lost sight of the sources: {arrows} uses found");
    assert!(
        wrong.is_empty(),
        "the layers are upside down; move the code or pass a value instead:\n{}",
        wrong.join("\n")
    );
}

/// The library talks through `report` and takes the world through `env`: only the command line prints, reads the
/// environment or exits.
#[test]
fn only_the_command_line_touches_the_outside() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&source, &mut files);
    let forbidden = ["println!", "eprintln!", "print!(", "env::var", "process::exit"];
    for file in files {
        let relative = file.strip_prefix(&source).expect("below src").to_string_lossy().into_owned();
        // A command inherits the environment whatever the library does; names in it are removed there, none is read.
        let removes_from_environment = relative == "source/secrets.rs";
        if relative.starts_with("cli") || relative == "main.rs" || removes_from_environment {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in forbidden {
            assert!(
                !code.contains(word),
                "{relative} uses {word}: report through `Report`, take options as parameters"
            );
        }
    }
}
