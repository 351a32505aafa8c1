//! Is a stream compressed or encrypted already?
//!
//! One changed row changes every byte that a compressor writes after it, and an encryption changes all
//! bytes every time: nothing of such a stream is found again in the next snapshot. Its first bytes tell,
//! by the magic numbers of the usual tools or, where the head is full, by how evenly its bytes are spread.

use crate::source::watch::HEAD_BYTES;

/// A stream that will not deduplicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// What it is: "compressed by gzip".
    pub what: &'static str,
    /// What to do instead.
    pub advice: &'static str,
}

/// Bits a byte, of 8, from which on a full head counts as compressed or encrypted.
///
/// Measured on heads of 64 KiB: random bytes have 7.9967 at least (50 trials; in theory 7.9972 with a
/// deviation of 0.0003), the streams of deflate, zstd and xz 7.92 to 7.997. Structured data stays below
/// 7.7: SQL 5.2, base64 6.0, random doubles in BSON 6.7, random blobs in `SQLite` pages 7.5, random
/// Chinese in UTF-16 7.65.
const OPAQUE_BITS: f64 = 7.9;

const DROP_GZIP: &str =
    "it will not deduplicate: dump without compression, alluvium compresses; drop `| gzip` or `--gzip`";
const DROP_COMPRESSION: &str = "it will not deduplicate: dump without compression, alluvium compresses";
const UNPACK: &str = "it will not deduplicate: store the files themselves, alluvium compresses";
const DROP_CUSTOM: &str = "it will not deduplicate: use `pg_dump -Fc -Z0`, or better a plain dump (`-Fp`)";
const DROP_OPENSSL: &str = "it will not deduplicate: alluvium encrypts; leave `openssl` out";
const DROP_ENCRYPTION: &str = "it will not deduplicate: alluvium encrypts; leave the encryption out";
const DROP_BOTH: &str = "it will not deduplicate: leave compression and encryption to alluvium";

/// How streams begin; then what they are, and the advice.
const MAGIC: [(&[u8], &str, &str); 12] = [
    (b"\x1f\x8b\x08", "compressed by gzip", DROP_GZIP),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", DROP_COMPRESSION),
    (b"\xfd7zXZ\0", "compressed by xz", DROP_COMPRESSION),
    (b"\x04\x22\x4d\x18", "compressed by lz4", DROP_COMPRESSION),
    (b"\x02\x21\x4c\x18", "compressed by lz4", DROP_COMPRESSION),
    (b"PK\x03\x04", "a zip archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Salted__", "encrypted by openssl", DROP_OPENSSL),
    (b"age-encryption.org/v1\n", "encrypted by age", DROP_ENCRYPTION),
    (b"-----BEGIN AGE ENCRYPTED FILE-----", "encrypted by age", DROP_ENCRYPTION),
    (b"-----BEGIN PGP MESSAGE-----", "encrypted by PGP", DROP_ENCRYPTION),
    // pzstd begins with an empty frame that holds the size of the next.
    (b"\x50\x2a\x4d\x18\x04\0\0\0", "compressed by zstd", DROP_COMPRESSION),
];

/// Recognises a stream that will not deduplicate by its head; `None` is not a proof of the opposite.
pub fn sniff(head: &[u8]) -> Option<Opaque> {
    let opaque = |what, advice| Some(Opaque { what, advice });
    if let Some((_, what, advice)) = MAGIC.iter().find(|(magic, ..)| head.starts_with(magic)) {
        opaque(what, advice)
    } else if is_bzip2(head) {
        opaque("compressed by bzip2", DROP_COMPRESSION)
    } else if is_compressed_pg_dump(head) == Some(true) {
        opaque("compressed by pg_dump", DROP_CUSTOM)
    } else if is_pgp(head) == Some(true) {
        opaque("encrypted by PGP", DROP_ENCRYPTION)
    } else if head.len() >= HEAD_BYTES && bits_per_byte(&head[..HEAD_BYTES]) >= OPAQUE_BITS {
        opaque("compressed or encrypted, by the look of its bytes", DROP_BOTH)
    } else {
        None
    }
}

/// `BZh`, a level, then the digits of pi that begin a block or those of its root that end an empty file.
fn is_bzip2(head: &[u8]) -> bool {
    matches!(head, [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', b'&', b'S', b'Y', ..])
        || matches!(head, [b'B', b'Z', b'h', b'1'..=b'9', 0x17, b'r', b'E', b'8', b'P', 0x90, ..])
}

/// Reads the head of `pg_dump -Fc` (`ReadHead` in `PostgreSQL`'s `pg_backup_archiver.c`):
///
/// ```text
/// PGDMP | major | minor | revision | bytes of an integer | bytes of an offset | format | compression
/// ```
///
/// Format 1 is the custom one; the table of contents of a folder (`-Fd`) begins in the same way, but its
/// data lie in other files. Compression is an algorithm (0: none) since 1.15, which came with 16. Before,
/// it is zlib's level as an integer, a sign followed by its bytes; only 0 is none, and -1 the default.
/// Versions older than 1.7 are not looked at.
fn is_compressed_pg_dump(head: &[u8]) -> Option<bool> {
    let [major, minor, _, integer_bytes, _, format, compression @ ..] = head.strip_prefix(b"PGDMP")? else {
        return None;
    };
    if *format != 1 || (*major, *minor) < (1, 7) {
        return None;
    }
    let size = if (*major, *minor) >= (1, 15) { 1 } else { 1 + usize::from(*integer_bytes) };
    let number = if size == 1 { compression.get(..1)? } else { compression.get(1..size)? };
    Some(number.iter().any(|&byte| byte != 0))
}

/// A PGP message in binary (RFC 9580, section 4): a packet that holds the session's key for a public key
/// (1) or a passphrase (3), followed by one more of these or by the encrypted data. Looking at two packets
/// and the first one's version leaves no room for chance.
fn is_pgp(head: &[u8]) -> Option<bool> {
    let tag = pgp_tag(*head.first()?)?;
    let (start, length) = pgp_body(head)?;
    let (version, next) = (*head.get(start)?, *head.get(start.checked_add(length)?)?);
    let holds_key = match tag {
        1 => matches!(version, 2 | 3 | 6),
        3 => matches!(version, 4..=6),
        _ => false,
    };
    Some(holds_key && matches!(pgp_tag(next)?, 1 | 3 | 9 | 18 | 20))
}

/// What a packet is, by its first byte, in the new or the old form.
fn pgp_tag(first: u8) -> Option<u8> {
    match first {
        0xc0.. => Some(first & 0x3f),
        0x80.. => Some(first >> 2 & 0x0f),
        _ => None,
    }
}

/// Where a packet's body begins and how long it is. Key packets have no partial or open lengths.
fn pgp_body(packet: &[u8]) -> Option<(usize, usize)> {
    let (&first, length) = packet.split_first()?;
    let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    if first >= 0xc0 {
        return match *length {
            [short @ 0..=191, ..] => Some((2, short.into())),
            [high @ 192..=223, low, ..] => Some((3, ((usize::from(high) - 192) << 8) + usize::from(low) + 192)),
            [255, ..] => Some((6, number(length.get(1..5)?))),
            _ => None,
        };
    }
    let bytes = match first & 3 {
        0 => 1,
        1 => 2,
        2 => 4,
        _ => return None,
    };
    Some((1 + bytes, number(length.get(..bytes)?)))
}

/// Shannon's entropy of the bytes' frequencies.
fn bits_per_byte(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for &byte in bytes {
        counts[usize::from(byte)] += 1;
    }
    let total = bytes.len() as f64;
    let shares = counts.iter().filter(|&&count| count > 0).map(|&count| f64::from(count) / total);
    -shares.map(|share| share * share.log2()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::env::{Env, SystemEnv};

    fn what(head: &[u8]) -> Option<&'static str> {
        sniff(head).map(|opaque| opaque.what)
    }

    /// Written by `pg_dump` 15.18.
    const PG_DUMP_15: [u8; 17] = *b"PGDMP\x01\x0e\0\x04\x08\x01\x01\x01\0\0\0\0";

    fn pg_dump(minor: u8, format: u8, compression: &[u8]) -> Vec<u8> {
        [b"PGDMP\x01", &[minor, 0, 4, 8, format][..], compression, b"\0\x0b\0\0\0\0\x0a\0\0"].concat()
    }

    #[test]
    fn pg_dump_custom_format_is_told_by_its_compression() {
        let compressed = Some("compressed by pg_dump");
        assert_eq!(what(&PG_DUMP_15), compressed);
        assert!(sniff(&PG_DUMP_15).is_some_and(|opaque| opaque.advice.contains("-Fc -Z0")));
        assert_eq!(what(&pg_dump(14, 1, &[1, 1, 0, 0, 0])), compressed, "-1, the default");
        assert_eq!(what(&pg_dump(14, 1, &[0, 9, 0, 0, 0])), compressed, "-Z9");
        assert_eq!(what(&pg_dump(14, 1, &[0, 0, 0, 0, 0])), None, "-Z0");
        for (algorithm, expected) in [(0, None), (1, compressed), (2, compressed), (3, compressed)] {
            assert_eq!(what(&pg_dump(16, 1, &[algorithm])), expected);
        }
        assert_eq!(what(&pg_dump(14, 5, &[1, 1, 0, 0, 0])), None, "the table of contents of a folder");
        for cut in 0..12 {
            assert_eq!(what(&PG_DUMP_15[..cut]), None);
        }
    }

    #[test]
    fn an_empty_bzip2_and_a_text_about_it() {
        assert_eq!(what(b"BZh9\x17rE8P\x90\0\0\0\0"), Some("compressed by bzip2"));
        assert_eq!(what(b"BZh9 is how bzip2 begins"), None);
    }

    #[test]
    fn pgp_in_binary() {
        let pgp = Some("encrypted by PGP");
        let by_passphrase = b"\x8c\x0d\x04\x09\x03\x02ssssssss\xff\xd2\x4b\x01";
        assert_eq!(what(by_passphrase), pgp);
        let by_key = [&b"\x85\x01\x0c\x03kkkkkkkk\x01"[..], &[7; 258], b"\xd2\xc0"].concat();
        assert_eq!(what(&by_key), pgp);
        let new_form = [&b"\xc1\xc0\x10\x03"[..], &[7; 207], b"\xd2"].concat();
        assert_eq!(what(&new_form), pgp);
        // A BSON document of 0x03215e84 bytes, whose first bytes could be a packet's.
        let bson = [&b"\x84\x5e\x21\x03\x07_id\0"[..], &[0x84; 200]].concat();
        assert_eq!(what(&bson), None);
    }

    #[test]
    fn random_bytes_are_caught_only_by_a_full_head() {
        let mut bytes = vec![0; HEAD_BYTES];
        for _ in 0..20 {
            SystemEnv.fill_random(&mut bytes);
            // Not by accident a magic number.
            bytes[0] = b'x';
            assert_eq!(what(&bytes), Some("compressed or encrypted, by the look of its bytes"));
            assert_eq!(what(&bytes[1..]), None);
        }
    }

    #[test]
    fn data_with_much_randomness_inside_is_not_caught() {
        let mut random = vec![0; HEAD_BYTES];
        SystemEnv.fill_random(&mut random);
        let rows =
            |bytes: usize, row: fn(&[u8]) -> Vec<u8>| random.chunks_exact(bytes).flat_map(row).collect::<Vec<_>>();
        let bson = rows(8, |eight| [b"\x01v\0", eight].concat());
        let copy = rows(32, |hash| [b"\0\x01\0\0\0\x20", hash].concat());
        let hex = rows(16, |id| id.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).chain([b'\n']).collect());
        let chinese = rows(2, |two| {
            let code = 0x4e00 + u16::from_be_bytes([two[0], two[1]]) % 0x5000;
            code.to_le_bytes().into()
        });
        for (name, data) in [("bson", bson), ("binary copy", copy), ("hexadecimal", hex), ("chinese", chinese)] {
            assert_eq!(what(&data), None, "{name}: {} bits", bits_per_byte(&data[..HEAD_BYTES]));
        }
    }

    proptest! {
        #[test]
        fn no_head_is_too_strange(start in 0..MAGIC.len() + 3, bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let others: [&[u8]; 3] = [b"PGDMP", b"\x85", b"\xc1"];
            let magic = MAGIC.get(start).map_or_else(|| others[start - MAGIC.len()], |(magic, ..)| magic);
            for cut in 0..=magic.len() {
                let _ = sniff(&[&magic[..cut], &bytes].concat());
            }
        }
    }
}
