//! The one error of the library: what kind, on which object, why, and what to do next.
//!
//! `Display` says what failed on which object. The cause lives only in `source()`; the hint has its
//! own line and is printed by whoever talks to a person. The kind decides the exit code
//! ([`crate::cli`]) and whether trying again can help.

use std::fmt;

/// What sort of failure; few on purpose, since each is a promise to scripts (exit codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The work could not be done: the general failure.
    Failed,
    /// The request itself is wrong: an option, a name, a pattern.
    Usage,
    /// There is no repository at this place.
    NoRepository,
    /// Somebody else holds what is needed.
    Busy,
    /// The passphrase opens no key slot, or the opened slot may not do this.
    WrongKey,
    /// Stored bytes are missing, altered, swapped or foreign.
    Damaged,
    /// The work was ended from outside (Ctrl-C, cancellation).
    Interrupted,
    /// A named object does not exist (storage), a snapshot or part is unknown (operations).
    NotFound,
    /// Exclusive creation met an existing object.
    AlreadyExists,
    /// The storage or the file system failed: full, read-only, unreachable.
    Storage,
    /// The storage refuses this to these credentials: deleting, or all of it. Trying again does not help.
    Denied,
    /// The source of the data failed: a dump command, a file that can't be read.
    Source,
}

/// A failure with its object, cause and advice.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    context: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    hint: Option<String>,
    forged: bool,
    unverified: bool,
    is_durability_unknown: bool,
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; `context` says what failed on which object.
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
            hint: None,
            forged: false,
            unverified: false,
            is_durability_unknown: false,
        }
    }

    /// A stored object that is not what it should be. `object` is its name in the repository.
    pub fn damaged(object: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self::new(Kind::Damaged, format!("{object}: {what}"))
    }

    /// A stored object that opens, and that nobody who may write it has signed.
    pub fn forged(object: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self { forged: true, ..Self::damaged(object, what) }
    }

    /// A stored object that opens, and whose author has no certificate that could be read: who may have written it
    /// is not known.
    pub fn unverified(object: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self { unverified: true, ..Self::damaged(object, what) }
    }

    /// An I/O failure of the storage, with the object or path that was worked on.
    pub fn storage(context: impl Into<String>, source: std::io::Error) -> Self {
        Self::new(Kind::Storage, context).because(source)
    }

    /// Attaches the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Attaches advice: what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `context` in front: what was being done when this happened. Kind, cause and hint stay.
    #[must_use]
    pub fn during(mut self, context: impl fmt::Display) -> Self {
        self.context = format!("{context}: {}", self.context);
        self
    }

    /// The same failure under another kind (a missing object is damage to a reader).
    #[must_use]
    pub fn as_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Marks a write after which nobody knows what is on the disk: a sync failed. What is read back may come from
    /// memory alone, so it proves nothing.
    #[must_use]
    pub fn with_unknown_durability(mut self) -> Self {
        self.is_durability_unknown = true;
        self
    }

    /// True when a sync failed: the object may be there, also for every reader, and be gone after a power loss.
    pub fn is_durability_unknown(&self) -> bool {
        self.is_durability_unknown
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// True for an object that was made by somebody who may not: no accident explains it.
    pub fn is_forged(&self) -> bool {
        self.forged
    }

    /// True for an object whose author can't be verified: it counts for nothing, and what it needs must stay.
    pub fn is_unverified(&self) -> bool {
        self.unverified
    }

    /// The advice, where there is one.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
