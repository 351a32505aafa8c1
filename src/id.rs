//! Typed names. A blob id is computed from content; every other name is random, so that names tell
//! nothing about what they name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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

/// Names a part of a snapshot, or a table of a catalog. Two parts of one snapshot have two names.
///
/// The text form (`database/schema.object (piece)`) is for people: it is not unique, and nothing
/// parses it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartName {
    /// The database, where a dump names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The schema of a table; the database of a collection, which is its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The table, collection, archive member, relative path of a file, or stream.
    pub object: String,
    /// Which piece of the object, from 1 on, where it comes in several.
    #[serde(default = "PartName::first", skip_serializing_if = "PartName::is_first")]
    pub piece: u32,
}

impl PartName {
    /// The first piece of an object without a schema.
    pub fn of(object: impl Into<String>) -> Self {
        Self { database: None, schema: None, object: object.into(), piece: Self::first() }
    }

    /// The first piece of an object in a schema.
    pub fn in_schema(schema: impl Into<String>, object: impl Into<String>) -> Self {
        Self { schema: Some(schema.into()), ..Self::of(object) }
    }

    /// The name of the object: that of its first piece.
    #[must_use]
    pub fn first_piece(&self) -> Self {
        Self { piece: Self::first(), ..self.clone() }
    }

    /// Whether both are pieces of one object.
    pub fn is_same_object(&self, other: &Self) -> bool {
        (&self.database, &self.schema, &self.object) == (&other.database, &other.schema, &other.object)
    }

    /// `schema.object`: the text form without database and piece.
    pub fn within_database(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{schema}.{}", self.object),
            None => self.object.clone(),
        }
    }

    /// Whether a user's `text` names the object: by its text form, or by an end of it, which is
    /// `object` or `schema.object`.
    pub fn is_object_called(&self, text: &str) -> bool {
        self.object == text || self.within_database() == text || self.first_piece().to_string() == text
    }

    /// Bytes of all its strings.
    pub fn len(&self) -> usize {
        let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        len(&self.database) + len(&self.schema) + self.object.len()
    }

    /// Whether it has no character.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn first() -> u32 {
        1
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_first(piece: &u32) -> bool {
        *piece == Self::first()
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(database) = &self.database {
            write!(f, "{database}/")?;
        }
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        f.write_str(&self.object)?;
        if self.piece == Self::first() { Ok(()) } else { write!(f, " ({})", self.piece) }
    }
}
