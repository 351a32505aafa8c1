//! Typed names. A blob id is computed from content; every other name is random, so that names tell
//! nothing about what they name.

use std::fmt;
use std::str::FromStr;

use crate::env::Env;
use crate::error::{Error, Kind};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The raw bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            /// Parses lower-case hexadecimal of the full length.
            fn from_str(text: &str) -> Result<Self, Error> {
                let bad = || Error::new(Kind::Usage, format!("`{}` is not an id of {} hexadecimal digits", text.escape_debug(), 2 * $len));
                if text.len() != 2 * $len {
                    return Err(bad());
                }
                let digit = |b: u8| match b {
                    b'0'..=b'9' => Some(b - b'0'),
                    b'a'..=b'f' => Some(b - b'a' + 10),
                    _ => None,
                };
                let mut bytes = [0; $len];
                for (out, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    *out = digit(pair[0]).ok_or_else(bad)? << 4 | digit(pair[1]).ok_or_else(bad)?;
                }
                Ok(Self(bytes))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! random {
    ($($name:ident),*) => {$(
        impl $name {
            /// A fresh random name.
            pub fn random(env: &dyn Env) -> Self {
                let mut bytes = [0; Self::LEN];
                env.fill_random(&mut bytes);
                Self(bytes)
            }
        }
    )*};
}

id!(
    /// Names a repository; part of every object's associated data.
    RepoId, 16
);
id!(
    /// Names a chunk by its content: BLAKE3 keyed with the repository's chunk-id key.
    BlobId, 32
);
id!(
    /// Names a pack.
    PackId, 16
);
id!(
    /// Names an index object.
    IndexId, 16
);
id!(
    /// Names a snapshot, and the session that wrote it: publishing the manifest ends the session.
    SnapshotId, 16
);
id!(
    /// Names a key slot.
    SlotId, 16
);
id!(
    /// Names a session's data key: a commitment to the key itself.
    DataKeyId, 16
);
random!(RepoId, PackId, IndexId, SnapshotId, SlotId);
