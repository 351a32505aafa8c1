//! Bytes to bytes, one step a file, in the order in which a chunk passes them. These know keys and
//! algorithms, but no objects, no storage and no format.

pub mod chunk;
pub mod columnar;
pub mod compress;
pub mod delta;
pub mod grain;
pub mod hash;
pub mod kdf;
pub mod seal;
pub mod segment;
pub mod sign;
pub mod sketch;
