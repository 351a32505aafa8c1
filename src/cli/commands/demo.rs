//! `demo`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::error::Result;
use crate::id::PackId;
use crate::ops;
use crate::report::Silent;

use super::super::context::Context;
use super::super::exit::Outcome;

/// Tells the story, in a folder of its own. One that was not named goes away afterwards.
///
/// # Errors
/// Those of [`ops::demo::demo`].
pub fn demo(context: &mut Context<'_>, folder: Option<PathBuf>) -> Result<Outcome> {
    let keep = folder.is_some();
    // A random name, so that nobody can have put something there; PackId is merely the random id at hand.
    let fresh = || std::env::temp_dir().join(format!("alluvium-demo-{}", PackId::random(context.env.as_ref())));
    let folder = folder.unwrap_or_else(fresh);
    let told = tell(context, &folder);
    if !keep {
        let _ = std::fs::remove_dir_all(&folder);
    }
    let story = told?;
    if context.global.json {
        context.document(json!({ "folder": folder.to_string_lossy(), "story": story }));
    } else if !keep {
        context.report.close(&format!("{} is gone again; `alluvium demo FOLDER` keeps it", folder.display()));
    }
    Ok(Outcome::Done)
}

/// Tells the story line by line, or collects it for JSON.
fn tell(context: &mut Context<'_>, folder: &Path) -> Result<Vec<String>> {
    let (json, cancel, env) = (context.global.json, context.cancel, Arc::clone(&context.env));
    let mut story = Vec::new();
    let mut say = |line: &str| {
        if json {
            story.push(line.to_owned());
        } else {
            context.out.line(line);
            // At once: it is a story. A failure is told at the end.
            let _ = context.out.flush();
        }
    };
    // The story tells itself; what an operation would say, of the damage for one, belongs to it.
    ops::demo::demo(folder, env, &Silent, &mut say, cancel)?;
    Ok(story)
}
