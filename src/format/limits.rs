//! Every limit of the format in one place: no hostile length allocates memory.

/// Largest plain blob, and so the largest chunk: 16 MiB (the chunker's own limit).
pub const BLOB_RAW_BYTES_MAX: usize = 16 << 20;
/// Largest stored blob: an incompressible one plus nonce and tag, rounded up.
pub const BLOB_STORED_BYTES_MAX: usize = BLOB_RAW_BYTES_MAX + 1024;
/// Smallest stored blob: nonce, tag, and one encoded byte.
pub const BLOB_STORED_BYTES_MIN: usize = 41;
/// Most blobs in one pack.
pub const PACK_BLOBS_MAX: usize = 1 << 17;
/// Largest pack.
pub const PACK_BYTES_MAX: u64 = 1 << 30;
/// Largest sealed trailer.
pub const TRAILER_BYTES_MAX: usize = 16 << 20;
/// Most packs in one index object.
pub const INDEX_PACKS_MAX: usize = 1 << 16;
/// Largest index object.
pub const INDEX_BYTES_MAX: usize = 256 << 20;
/// Most data keys in one index object.
pub const INDEX_KEYS_MAX: usize = 1 << 16;
/// What sealing and the plain front of an object add to its plain bytes, rounded up.
const SEALING_BYTES_MAX: u64 = 1024;
/// Largest `config`.
pub const CONFIG_BYTES_MAX: u64 = 64 << 10;
/// Largest key slot: one of a full slot has 340 bytes for each key epoch, so that 3,000 epochs fit.
pub const KEY_SLOT_BYTES_MAX: u64 = 1 << 20;
/// Most bytes of all key slots that are read, before anybody can judge them.
pub const KEY_SLOTS_BYTES_MAX: u64 = 64 << 20;
/// Largest slot certificate.
pub const CERTIFICATE_BYTES_MAX: u64 = 64 << 10;
/// Largest order that begins a key epoch.
pub const EPOCH_BYTES_MAX: u64 = 16 << 20;
/// Largest session object, heartbeat or fence.
pub const SESSION_BYTES_MAX: u64 = 64 << 10;
/// Largest generation.
pub const GENERATION_BYTES_MAX: u64 = 64 << 20;
/// Largest manifest.
pub const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// Largest index object as it is stored: [`INDEX_BYTES_MAX`] and its seal.
pub const INDEX_OBJECT_BYTES_MAX: u64 = INDEX_BYTES_MAX as u64 + SEALING_BYTES_MAX;
/// Largest JSON document (a manifest of a great many files).
pub const JSON_BYTES_MAX: usize = 256 << 20;
/// Most recipe entries that a manifest holds inline; longer recipes are stored as chunks.
pub const RECIPE_INLINE_MAX: usize = 64;
/// Deepest nesting of recipes: 64 entries, each 8 KiB of 36-byte entries, seven times over, exceeds any disk.
pub const RECIPE_DEPTH_MAX: u8 = 8;
/// Longest name of a source, host, part, tag, slot, time zone or program.
pub const NAME_BYTES_MAX: usize = 4096;
/// Most tags of a snapshot.
pub const TAGS_MAX: usize = 1024;
/// Largest Argon2 memory that a key slot may ask for: 4 GiB, in KiB.
pub const KDF_MEMORY_KIB_MAX: u32 = 4 << 20;
/// Most Argon2 passes that a key slot may ask for.
pub const KDF_PASSES_MAX: u32 = 64;
/// Most Argon2 lanes that a key slot may ask for.
pub const KDF_LANES_MAX: u32 = 64;
/// Most parts of a snapshot.
pub const PARTS_MAX: u64 = 1 << 24;
/// Longest record of a part in bytes, its line feed included.
pub const PART_RECORD_BYTES_MAX: usize = 64 << 10;
/// Most parts that stand in a manifest; a longer list is stored as chunks.
pub const PARTS_INLINE_MAX: usize = 16;
/// Most bytes of the records of parts that stand in a manifest.
pub const PARTS_INLINE_BYTES_MAX: usize = 16 << 10;
/// Longest record of a table in a catalog in bytes, its line feed included.
pub const CATALOG_RECORD_BYTES_MAX: usize = 1 << 20;
