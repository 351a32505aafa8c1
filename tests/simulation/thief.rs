//! Plan: a machine whose write-only key was stolen. It is played once claims and orders are signed
//! (`docs/format.md`); until then nothing distinguishes its index objects from those of a full slot.
//!
//! The thief shares the index key, may create any object and replace heartbeats, and does not
//! delete. It is a role of [`super::history`] with a seat on the stage like the others, so that its
//! calls fall between those of honest machines. Each of its operations is one of:
//!
//! | operation | what it creates | what must hold |
//! |---|---|---|
//! | name | foreign bytes, a fence or a copied manifest under the name of a listed session | that snapshot is published under another name, or its writer reports `Busy` |
//! | index | an index object of its own slot that lists packs which are gone, or entries that a pack's trailer contradicts | no snapshot relies on them, no prune counts on them |
//! | author | the same under the slot of another machine | it counts as unreadable and is reported |
//! | beat | heartbeats of other sessions, with any generation and time | prune does not delete what an honest session may rely on |
//! | generation | generations that are not signed by the authority, numbers far ahead included | they are skipped and reported; the next valid one is found |
//! | canary | objects under the names of canaries | a listing that a deletion rests on is still proven |
//! | pack | a pack whose blobs do not decode, with a valid trailer | a full slot that verifies finds it; nothing of other slots is lost |
//! | snapshot | manifests of existing series, with any sequence and time | retention never deletes an honest snapshot in favour of them |
//!
//! The judge stays the same: every snapshot that an honest machine reported as taken and nobody
//! forgot gives back its bytes. What only the thief took does not count. Honest operations may fail
//! in a history with a thief (`Busy`, `Damaged`), so surprises are counted only after it has left:
//! then one repair and one prune by a full slot must make every later operation succeed.
