//! Objects in memory: the store of simulations and crash matrices.
//!
//! A clone is another handle to the same objects, so that a test keeps one while the repository owns
//! another. [`Memory::fork`] makes an independent copy (objects are shared until they change, so it
//! costs names, not bytes) and [`Memory::rewind_to`] goes back to one. [`Memory::tamper`] is the
//! hand of the damage matrix.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use super::{Listed, Storage, check_name, check_prefix, too_long, too_short};
use crate::env::lock;
use crate::error::{Error, Kind, Result};

type Objects = BTreeMap<String, Arc<[u8]>>;

/// A repository in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    objects: Arc<Mutex<Objects>>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An independent copy of everything as it is now.
    #[must_use]
    pub fn fork(&self) -> Self {
        let objects = lock(&self.objects).clone();
        Self { objects: Arc::new(Mutex::new(objects)) }
    }

    /// Makes this store, and every clone of it, what `other` is now.
    pub fn rewind_to(&self, other: &Self) {
        let objects = lock(&other.objects).clone();
        *lock(&self.objects) = objects;
    }

    /// Changes the bytes of an object behind everybody's back.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let mut objects = lock(&self.objects);
        let object = objects.get_mut(name).ok_or_else(|| missing(name))?;
        let mut bytes = object.to_vec();
        change(&mut bytes);
        *object = bytes.into();
        Ok(())
    }

    /// The names of all objects, sorted.
    pub fn names(&self) -> Vec<String> {
        lock(&self.objects).keys().cloned().collect()
    }

    fn object(&self, name: &str) -> Result<Arc<[u8]>> {
        check_name(name)?;
        lock(&self.objects).get(name).cloned().ok_or_else(|| missing(name))
    }
}

impl Storage for Memory {
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<()> {
        check_name(name)?;
        let mut objects = lock(&self.objects);
        if objects.contains_key(name) {
            return Err(Error::new(Kind::AlreadyExists, format!("{name} exists already in memory")));
        }
        objects.insert(name.to_owned(), bytes.into());
        Ok(())
    }

    fn put_replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        check_name(name)?;
        lock(&self.objects).insert(name.to_owned(), bytes.into());
        Ok(())
    }

    fn get(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        let object = self.object(name)?;
        match object.len() as u64 {
            size if size > bytes_max => Err(too_long(name, size, bytes_max)),
            _ => Ok(object.to_vec()),
        }
    }

    fn get_range(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        let object = self.object(name)?;
        let start = usize::try_from(offset).ok();
        match start.and_then(|start| object.get(start..start.checked_add(len)?)) {
            Some(bytes) => Ok(bytes.to_vec()),
            None if len == 0 => Ok(Vec::new()),
            None => Err(too_short(name, object.len() as u64, offset, len)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        check_prefix(prefix)?;
        let objects = lock(&self.objects);
        let from_prefix = objects.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        Ok(from_prefix
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, bytes)| Listed { name: name.clone(), size: bytes.len() as u64, modified: None })
            .collect())
    }

    fn stat(&self, name: &str) -> Result<Option<u64>> {
        check_name(name)?;
        Ok(lock(&self.objects).get(name).map(|bytes| bytes.len() as u64))
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        lock(&self.objects).remove(name);
        Ok(())
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}

fn missing(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("{name} does not exist in memory"))
}
