//! `init`

use serde_json::json;

use crate::error::{Kind, Result};
use crate::ops::prune::put_reserve;
use crate::repo::{InitOptions, Repository};
use crate::report::Report as _;
use crate::storage;
use crate::storage::address::Address;
use crate::storage::probe::probe;

use super::super::args::Init;
use super::super::context::{Context, secrets};
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
    let storage = storage::create(&place, &secrets()).map_err(|e| match e.kind() {
        // A file, or below one: there is no repository to be missed.
        Kind::NoRepository => e.as_kind(Kind::Failed),
        _ => e,
    })?;
    let (storage, env) = (storage.as_ref(), context.env.as_ref());
    if let Address::Remote(_) = place {
        let mut random = [0; 16];
        env.fill_random(&mut random);
        let probed = probe(storage, u128::from_le_bytes(random))?;
        probed.check(&storage.location())?;
        if !probed.exclusive {
            storage.set_single_writer();
            context.report.warn("this storage can't create exclusively: the repository is for one writer at a time");
        }
    }
    let id = Repository::init(storage, env, &passphrase, &arguments.label, options)?;
    put_reserve(storage, env)?;
    if context.global.json {
        let single_writer = !storage.exclusive();
        context.document(json!({ "repository": id, "location": storage.location(), "single_writer": single_writer }));
    } else {
        context.closing(&format!("made the repository {id} at {}", storage.location()));
        context.closing("keep its passphrase somewhere else too: without it nobody can read the backups");
    }
    Ok(Outcome::Done)
}
