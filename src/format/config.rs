//! `config`: what a program must know before it touches anything else. The plain part says whether
//! this program may open the repository at all; the sealed part holds the parameters.

use serde::{Deserialize, Serialize};

use super::limits::BLOB_RAW_BYTES_MAX;
use super::{FORMAT_VERSION, Malformed, from_json, to_json};
use crate::id::RepoId;

/// The name of the config object.
pub const OBJECT_NAME: &str = "config";
/// Says that a JSON document is a config.
const MAGIC: &str = "alluvium repository";
/// Features that this program knows. A repository that requires another one is refused.
pub const KNOWN_FEATURES: [&str; 1] = [SINGLE_WRITER];
/// The storage can't create exclusively: there must be one writer at a time, and writers look before they write.
pub const SINGLE_WRITER: &str = "single-writer";

/// The plain part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    magic: String,
    /// Format version.
    pub version: u16,
    /// Features that a program must know to read or write this repository.
    pub required_features: Vec<String>,
    /// The repository.
    pub repository: RepoId,
    /// Public key of the first epoch's authority.
    #[serde(with = "hex")]
    pub authority: [u8; 32],
    /// The sealed [`Parameters`], in hexadecimal.
    #[serde(with = "hex")]
    pub sealed: Vec<u8>,
    /// The authority's signature over all of the above.
    #[serde(with = "hex")]
    pub signature: [u8; 64],
}

impl Config {
    /// A config of the current version, not yet signed.
    pub fn new(repository: RepoId, required_features: Vec<String>, authority: [u8; 32], sealed: Vec<u8>) -> Self {
        let (magic, version, signature) = (MAGIC.to_owned(), FORMAT_VERSION, [0; 64]);
        Self { magic, version, required_features, repository, authority, sealed, signature }
    }

    /// What is signed: `alluvium v1 config`, then the config with 64 zeros for a signature.
    pub fn message(&self) -> Vec<u8> {
        let mut message = b"alluvium v1 config".to_vec();
        message.extend_from_slice(&Self { signature: [0; 64], ..self.clone() }.encode());
        message
    }

    /// The object's bytes.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads a config and decides whether this program may go on.
    ///
    /// # Errors
    /// Not a config; a newer version; a required feature that is not known.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        // The version is read leniently first: a newer config may have fields that are unknown here.
        #[derive(Deserialize)]
        struct Front {
            magic: String,
            version: u16,
            #[serde(default)]
            required_features: Vec<String>,
        }
        let front: Front = from_json(bytes)?;
        if front.magic != MAGIC {
            return Err(Malformed::new("not an alluvium repository"));
        }
        if front.version != FORMAT_VERSION {
            return Err(Malformed::new(format!(
                "repository format {}, this program reads {FORMAT_VERSION}: use a newer alluvium",
                front.version
            )));
        }
        if let Some(unknown) = front.required_features.iter().find(|f| !KNOWN_FEATURES.contains(&f.as_str())) {
            return Err(Malformed::new(format!(
                "the repository needs the feature `{}`: use a newer alluvium",
                unknown.escape_debug()
            )));
        }
        from_json(bytes).map_err(|e: Malformed| {
            if e.0.contains("missing field `authority`") {
                return Malformed::new("written by a development version, before the format was frozen");
            }
            e
        })
    }
}

/// The sealed part. `version` and `required_features` repeat the plain part, so that nobody can
/// take a feature away unnoticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Format version.
    pub version: u16,
    /// As in the plain part.
    pub required_features: Vec<String>,
    /// How streams are cut.
    pub chunks: ChunkSizes,
    /// How recipes, streams of ids, are cut.
    pub recipes: ChunkSizes,
    /// A pack is closed before it would grow beyond this many bytes.
    pub pack_bytes: u64,
}

impl Parameters {
    /// Whether `feature` is required.
    pub fn requires(&self, feature: &str) -> bool {
        self.required_features.iter().any(|required| required == feature)
    }

    /// The plain bytes, to be sealed.
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Reads and checks what [`encode`](Self::encode) writes.
    ///
    /// # Errors
    /// Not the expected JSON; sizes that the chunker can't work with.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let parameters: Self = from_json(bytes)?;
        parameters.chunks.check()?;
        parameters.recipes.check()?;
        if !(1 << 16..=1 << 28).contains(&parameters.pack_bytes) {
            return Err(Malformed::new(format!("packs of {} bytes", parameters.pack_bytes)));
        }
        Ok(parameters)
    }
}

/// Chunk sizes in bytes for `FastCDC` 2020 (Xia et al., TPDS 2020).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkSizes {
    /// No chunk but the last is shorter.
    pub min: u32,
    /// The average that is aimed at.
    pub average: u32,
    /// No chunk is longer.
    pub max: u32,
}

impl ChunkSizes {
    /// Sizes around `average`: a quarter to four times of it.
    pub const fn around(average: u32) -> Self {
        Self { min: average / 4, average, max: average * 4 }
    }

    /// The chunker's own limits (it checks them in debug builds only).
    ///
    /// # Errors
    /// Sizes that are odd, out of range, or out of order.
    pub fn check(&self) -> Result<(), Malformed> {
        let Self { min, average, max } = *self;
        let ordered =
            (64..=1 << 20).contains(&min) && (256..=1 << 22).contains(&average) && min < average && average < max;
        if ordered && max as usize <= BLOB_RAW_BYTES_MAX && (min | average | max) % 2 == 0 {
            Ok(())
        } else {
            Err(Malformed::new(format!("chunk sizes {min}, {average}, {max}")))
        }
    }
}

/// Bytes as lower-case hexadecimal in JSON.
pub(crate) mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{}", Hex(bytes)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(d: D) -> Result<T, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        let bytes = decode(text.as_bytes()).ok_or_else(|| D::Error::custom("not lower-case hexadecimal"))?;
        T::try_from(bytes).map_err(|_| D::Error::custom("hexadecimal of the wrong length"))
    }

    fn decode(text: &[u8]) -> Option<Vec<u8>> {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let (pairs, []) = text.as_chunks::<2>() else { return None };
        pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
    }

    struct Hex<'a>(&'a [u8]);

    impl std::fmt::Display for Hex<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
        }
    }
}
