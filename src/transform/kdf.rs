//! Passphrase to key: Argon2id (RFC 9106).

use argon2::{Algorithm, Argon2, Params, Version};
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
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, key.as_mut_slice())
        .map_err(|e| format!("Argon2id with {memory_kib} KiB of memory: {e}"))?;
    Ok(key)
}
