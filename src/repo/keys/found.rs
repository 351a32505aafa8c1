//! The first keys of a new repository.

use crate::env::Env;
use crate::error::Result;
use crate::format::config::Config;
use crate::format::epoch::{self, Epoch};
use crate::format::keyslot::{self, EpochSecrets, SecretBytes};
use crate::format::{ObjectKind, associated_data, certificate};
use crate::id::{RepoId, SlotId};
use crate::storage::Storage;
use crate::transform::seal;
use crate::transform::sign::Signer;

use super::signing::Sealer;
use super::slots::MadeSlot;
use super::{NewSlot, SharedKeys};

/// Writes the first objects of a repository: an epoch, a full slot, and last the config. A repository
/// exists once its config does, so it never lacks a key.
///
/// # Errors
/// `Usage`, `Storage`; `AlreadyExists` if another machine was first.
pub fn found(
    storage: &dyn Storage,
    env: &dyn Env,
    repo: RepoId,
    shared: &SharedKeys,
    parameters: &crate::format::config::Parameters,
    first: NewSlot<'_>,
) -> Result<()> {
    let slot = SlotId::random(env);
    let (public, secret) = seal::generate_key_pair(env);
    let (authority, authority_secret) = Signer::generate(env);
    let epochs =
        vec![EpochSecrets { number: 1, secret: SecretBytes(*secret), authority: SecretBytes(*authority_secret) }];
    let index = seal::SealKey::new(&shared.index.0);
    let sealer = Sealer { env, repo, index: &index };
    let made = MadeSlot::make(env, repo, slot, first, shared, authority.public(), epochs)?;
    let name = epoch::object_name(1);
    let epoch = Epoch {
        previous: 0,
        created: env.now(),
        public,
        authority: authority.public(),
        certificates: Vec::new(),
        secrets: Vec::new(),
    };
    let written = (|| {
        storage.put_new(&name, &sealer.order(1, &authority, ObjectKind::Epoch, &name, &epoch.encode()))?;
        made.write(storage, &sealer, 1, &authority)?;
        let features = parameters.required_features.clone();
        let sealed = index.seal(env, &associated_data(ObjectKind::Config, repo, b"config"), &parameters.encode());
        let mut config = Config::new(repo, features, authority.public(), sealed);
        config.signature = authority.sign(&config.message());
        storage.put_new(crate::format::config::OBJECT_NAME, &config.encode())
    })();
    if written.is_err() {
        // They have random names. The epoch under its fixed name may be another machine's.
        for name in [keyslot::object_name(slot), certificate::object_name(slot)] {
            let _ = storage.delete(&name);
        }
    }
    written
}
