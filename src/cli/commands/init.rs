//! `init`

use serde_json::json;

use crate::error::{Kind, Result};
use crate::ops::prune::put_reserve;
use crate::repo::{InitOptions, Repository};
use crate::storage::Storage;
use crate::storage::local::Local;

use super::super::args::Init;
use super::super::context::Context;
use super::super::exit::Outcome;

/// Makes a repository.
///
/// # Errors
/// `AlreadyExists`, `Usage`, `Storage`.
pub fn init(context: &mut Context<'_>, arguments: &Init) -> Result<Outcome> {
    let place = context.place()?;
    let defaults = InitOptions::default();
    let options = InitOptions {
        chunk_bytes: arguments.chunk_size.unwrap_or(defaults.chunk_bytes),
        pack_bytes: arguments.pack_size.unwrap_or(defaults.pack_bytes),
        kdf: defaults.kdf,
    };
    // Before anything is made: without a passphrase no empty folder stays behind.
    let passphrase = context.passphrase(true)?;
    let storage = Local::create(place).map_err(|e| e.as_kind(Kind::Failed))?;
    let env = context.env.as_ref();
    let id = Repository::init(&storage, env, &passphrase, &arguments.label, options)?;
    put_reserve(&storage, env)?;
    if context.global.json {
        context.document(json!({ "repository": id, "location": storage.location() }));
    } else {
        context.closing(&format!("made the repository {id} at {}", storage.location()));
        context.closing("keep its passphrase somewhere else too: without it nobody can read the backups");
    }
    Ok(Outcome::Done)
}
