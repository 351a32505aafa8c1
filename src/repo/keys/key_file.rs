//! Key files: 32 random bytes that open a slot in place of a passphrase.

use zeroize::Zeroizing;

use crate::env::Env;

/// The prefix of a key file's only line; 64 hexadecimal digits follow.
const KEY_FILE_MAGIC: &str = "alluvium-key-1:";

/// Returns the content of a new key file. Its slot opens without Argon2id.
pub fn new_key_file(env: &dyn Env) -> Zeroizing<String> {
    let mut secret = Zeroizing::new([0; 32]);
    env.fill_random(secret.as_mut_slice());
    let mut text = Zeroizing::new(String::from(KEY_FILE_MAGIC));
    for byte in secret.iter() {
        text.push(char::from_digit(u32::from(byte >> 4), 16).expect("a digit"));
        text.push(char::from_digit(u32::from(byte & 15), 16).expect("a digit"));
    }
    text
}

/// Returns the secret in the content of a key file, `None` for a passphrase.
pub(super) fn key_file_secret(passphrase: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let digits = passphrase.strip_prefix(KEY_FILE_MAGIC.as_bytes())?.trim_ascii_end();
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let mut secret = Zeroizing::new([0; 32]);
    if pairs.len() != secret.len() {
        return None;
    }
    for (out, pair) in secret.iter_mut().zip(pairs) {
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        *out = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(secret)
}
