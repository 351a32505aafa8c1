//! Passphrase to key: Argon2id (RFC 9106).

use std::fmt::Display;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use rayon::prelude::*;
use zeroize::Zeroizing;

/// Memory in KiB of new slots: RFC 9106's second recommended option.
pub const MEMORY_KIB: u32 = 64 << 10;
/// Passes of new slots.
pub const PASSES: u32 = 3;
/// Lanes of new slots.
pub const LANES: u32 = 4;

/// Derives a key-encryption key. The costs were checked against the format's limits.
///
/// # Errors
/// When the machine hasn't got the memory.
pub fn derive(
    passphrase: &[u8],
    salt: &[u8; 16],
    memory_kib: u32,
    passes: u32,
    lanes: u32,
) -> Result<Zeroizing<[u8; 32]>, String> {
    let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(|e| e.to_string())?;
    let failed = |e: &dyn Display| format!("Argon2id with {memory_kib} KiB of memory: {e}");
    // Fresh memory is a good part of the time: all cores ask for it together.
    let mut memory = Vec::new();
    memory.try_reserve_exact(params.block_count()).map_err(|e| failed(&e))?;
    memory.par_extend((0..params.block_count()).into_par_iter().map(|_| Block::new()));
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, key.as_mut_slice(), &mut memory)
        .map_err(|e| failed(&e))?;
    Ok(key)
}

/// The key-encryption key of a key file: its 32 random bytes need no stretching.
pub fn from_key_file(secret: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(blake3::derive_key("alluvium v1 key file", secret))
}
