//! Finding a repository in a storage, and opening it.
//!
//! ```text
//! Locked::find   config and key slots, asked for together    (no passphrase yet)
//! Locked::open   + passphrase -> Repository
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::format::config::{self, Config, Parameters};
use crate::format::limits::CONFIG_BYTES_MAX;
use crate::format::{ObjectKind, associated_data};
use crate::id::RepoId;
use crate::storage::Storage;
use crate::transform::hash::stream_digest;

use super::index::{Index, WarningSink};
use super::keys::{self, Slots, list_slots};
use super::parallel::both;
use super::ring::RawRing;
use super::rules::Rules;
use super::seen::{AddressMemory, Seen, hexadecimal};
use super::{Repository, StoredIndex};

/// Where the local cache is, and how it is opened.
#[derive(Clone)]
pub struct CacheOptions {
    /// The folder of all caches of this machine; without one, cache and memory of what was seen are off.
    pub folder: Option<PathBuf>,
    /// Does not believe the cache that is there: begins a new one.
    pub fresh: bool,
    /// Receives a warning when the cache must be kept in memory, or is rebuilt since it is damaged.
    pub warn: WarningSink,
}

impl CacheOptions {
    /// The cache below `folder`, without warnings.
    pub fn in_folder(folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Path::to_owned), fresh: false, warn: Arc::new(|_| {}) }
    }
}

/// A repository that was found, and that no passphrase has opened yet.
pub struct Locked {
    storage: Arc<dyn Storage>,
    config: Config,
    slots: Slots,
    ring: RawRing,
}

impl Locked {
    /// Reads `config` and the key slots. Over a network that is two requests one after the other.
    ///
    /// # Errors
    /// `NoRepository`, `Damaged`, `Storage`, `Denied`.
    pub fn find(storage: Arc<dyn Storage>) -> Result<Self> {
        let read = storage.as_ref();
        let keys = || both(read, || list_slots(read), || RawRing::read(read));
        let ((slots, ring), config) = both(read, keys, || read_config(read));
        // What `config` tells comes first: without it slots are nobody's.
        let (config, slots, ring) = (config?, slots?, ring?);
        Ok(Self { storage, config, slots, ring })
    }

    /// Opens it. The local cache lies in a folder of its own below `cache.folder`. Without one, or where that can't
    /// be used, it is held in memory.
    ///
    /// # Errors
    /// `WrongKey`, `Damaged`.
    pub fn open(self, env: Arc<dyn Env>, passphrase: &[u8], cache: CacheOptions) -> Result<Repository> {
        let Self { storage, config, slots, ring } = self;
        let id = config.repository;
        let keys = Arc::new(keys::open(slots, ring, storage.as_ref(), &config, passphrase)?);
        let parameters =
            keys.index.open(&associated_data(ObjectKind::Config, id, b"config"), &config.sealed).ok_or_else(|| {
                Error::damaged("config", "its sealed part does not open: altered, or from another repository")
            })?;
        let parameters = Parameters::decode(&parameters).map_err(|e| e.in_object("config"))?;
        if parameters.version != config.version || parameters.required_features != config.required_features {
            return Err(Error::damaged("config", "its plain part was altered"));
        }
        if parameters.requires(config::SINGLE_WRITER) {
            storage.set_single_writer();
        }
        let address = cache.folder.as_ref().map(|folder| address_memory(folder, id, storage.as_ref()));
        let file = cache.folder.map(|folder| cache_file(&folder, id, storage.as_ref()));
        let judged = Arc::default();
        let stored =
            StoredIndex { storage: Arc::clone(&storage), keys: Arc::clone(&keys), judged: Arc::clone(&judged) };
        let cache = match &file {
            Some(file) => Index::open_or_in_memory(file, id, cache.fresh, Box::new(stored), cache.warn)?,
            None => Index::in_memory(id)?,
        };
        let seen = Seen::new(file.map(|file| file.with_file_name("seen.json")), address);
        Ok(Repository { storage, env, id, parameters, keys, cache, seen, rules: Rules::default(), judged })
    }
}

impl Repository {
    /// [`Locked::find`] and [`Locked::open`], where the passphrase is known.
    ///
    /// # Errors
    /// Those of the two.
    pub fn open(
        storage: Arc<dyn Storage>,
        env: Arc<dyn Env>,
        passphrase: &[u8],
        cache_folder: Option<&Path>,
    ) -> Result<Self> {
        Locked::find(storage)?.open(env, passphrase, CacheOptions::in_folder(cache_folder))
    }
}

/// A copy of a repository has its id and other packs: the place is part of the name.
fn cache_file(cache_folder: &Path, id: RepoId, storage: &dyn Storage) -> PathBuf {
    let [a, b, c, d, ..] = stream_digest(storage.identity().as_bytes());
    cache_folder.join(format!("{id}-{a:02x}{b:02x}{c:02x}{d:02x}")).join("index.sqlite")
}

/// Where this machine remembers that the repository `id` stands at this address.
pub fn address_memory(cache_folder: &Path, id: RepoId, storage: &dyn Storage) -> AddressMemory {
    let digest = stream_digest(storage.identity().as_bytes());
    let file = cache_folder.join(format!("address-{}.json", hexadecimal(&digest[..16])));
    AddressMemory { file, location: storage.location(), repository: id }
}

/// Where there are packs and no `config`, a repository has lost it: that is not a place for a new one.
/// Neither is one where an `init` was interrupted, which writes `config` last.
pub(super) fn refuse_remains(storage: &dyn Storage, kind: Kind) -> Result<()> {
    for folder in ["packs/", "index/", "snapshots/"] {
        if let Some(object) = storage.list(folder)?.first() {
            return Err(Error::new(
                kind,
                format!("config: is missing, but {} is there: a repository lost it", object.name),
            )
            .hint("copy `config` back from a copy of the repository; without it nothing can be read"));
        }
    }
    for folder in ["epochs/", "slots/", "keys/"] {
        if let Some(object) = storage.list(folder)?.first() {
            // Nothing is stored in such a place: for whoever opens it, there is no repository.
            let kind = if kind == Kind::Damaged { Kind::NoRepository } else { kind };
            return Err(Error::new(
                kind,
                format!(
                    "there is no repository at {}: {} is there and no config, as an interrupted `init` leaves it",
                    storage.location(),
                    object.name
                ),
            )
            .hint(
                "if no other `init` runs, and no copy has the `config`, delete the folders epochs, slots and \
                 keys there; then run `alluvium init`",
            ));
        }
    }
    Ok(())
}

/// Reads and checks `config`. Where it is not there, or not one, the place as a whole may tell why.
///
/// # Errors
/// `NoRepository`, `Damaged`, `Storage`, `Denied`.
pub fn read_config(storage: &dyn Storage) -> Result<Config> {
    let bytes = match storage.get(config::OBJECT_NAME, CONFIG_BYTES_MAX) {
        Err(error) if error.kind() == Kind::NotFound => {
            storage.look()?;
            refuse_remains(storage, Kind::Damaged)?;
            return Err(Error::new(Kind::NoRepository, format!("there is no repository at {}", storage.location()))
                .hint("check the address (-r or ALLUVIUM_REPOSITORY), or make one with `alluvium init`"));
        }
        read => read?,
    };
    Config::decode(&bytes).or_else(|malformed| {
        storage.look()?;
        Err(malformed.in_object(config::OBJECT_NAME))
    })
}
