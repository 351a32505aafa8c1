//! `init`

use std::ffi::OsStr;

use serde_json::json;

use crate::error::{Kind, Result};
use crate::ops::prune::put_reserve;
use crate::repo::open::Locked;
use crate::repo::{InitOptions, Repository};
use crate::report::Report as _;
use crate::storage;
use crate::storage::address::Address;
use crate::storage::probe::probe;

use super::super::args::Init;
use super::super::context::Context;
use super::super::exit::Outcome;
use super::super::password::Origins;

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
    let other = arguments.twin.as_ref().or(arguments.like.as_ref());
    let other = other.map(|other| open_other(context, arguments, other)).transpose()?;
    // Before anything is made: without a passphrase no empty folder stays behind.
    let passphrase = context.passphrase(true)?;
    let storage = storage::create(&place, &context.caller).map_err(|e| match e.kind() {
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
    let label = arguments.label.as_str();
    let id = match &other {
        None => Repository::init(storage, env, &passphrase, label, options)?,
        Some(other) if arguments.twin.is_some() => other.init_twin(storage, &passphrase, label, options.kdf)?,
        Some(other) => other.init_like(storage, &passphrase, label, arguments.pack_size, options.kdf)?,
    };
    put_reserve(storage, env)?;
    context.remember_new(id, storage);
    if context.global.json {
        let single_writer = !storage.exclusive();
        context.document(json!({ "repository": id, "location": storage.location(), "single_writer": single_writer }));
    } else {
        context.closing(&format!("made the repository {id} at {}", storage.location()));
        context.closing("keep its passphrase somewhere else too: without it nobody can read the backups");
        if other.is_some() {
            context.closing("next: `alluvium sync` copies the other's snapshots here");
        }
    }
    Ok(Outcome::Done)
}

/// Opens the repository that the new one takes after.
fn open_other(context: &Context<'_>, arguments: &Init, place: &OsStr) -> Result<Repository> {
    let locked = Locked::find(context.storage_at(place)?)?;
    let origins = Origins {
        file: arguments.like_password_file.as_deref(),
        command: arguments.like_password_command.as_deref(),
        variable: "ALLUVIUM_LIKE_PASSWORD",
        option: "--like-password",
        prompt: "passphrase of the other repository",
        twice: false,
    };
    context.unlock(locked, &origins.read()?)
}
