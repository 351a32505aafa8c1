//! Explicit little-endian reading and writing; the only way binary objects are encoded.

use super::Malformed;

/// Appends integers and arrays to a buffer.
#[derive(Debug, Default)]
pub struct Encoder(pub Vec<u8>);

impl Encoder {
    /// One byte.
    pub fn u8(&mut self, v: u8) {
        self.0.push(v);
    }
    /// Two bytes, little-endian.
    pub fn u16(&mut self, v: u16) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    /// Four bytes, little-endian.
    pub fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    /// Eight bytes, little-endian.
    pub fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    /// Raw bytes, without a length.
    pub fn bytes(&mut self, v: &[u8]) {
        self.0.extend_from_slice(v);
    }
    /// A list's length as four bytes.
    pub fn len(&mut self, v: usize) {
        self.u32(u32::try_from(v).expect("lists of the format are shorter than 2^32"));
    }
}

/// Reads integers and arrays off the front of a slice.
#[derive(Clone, Debug)]
pub struct Decoder<'a>(pub &'a [u8]);

impl<'a> Decoder<'a> {
    /// The next `n` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(n).ok_or_else(|| Malformed::new("ends too early"))?;
        self.0 = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.take(N)?.try_into().expect("take returns N bytes"))
    }

    /// One byte.
    ///
    /// # Errors
    /// At the end of the bytes.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }
    /// Two bytes, little-endian.
    ///
    /// # Errors
    /// At the end of the bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }
    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// At the end of the bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }
    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// At the end of the bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// A list's length: at most `max`, and no more than the bytes that are left can hold at
    /// `item_bytes_min` an item, so that it may be used to reserve memory.
    ///
    /// # Errors
    /// When either bound is exceeded.
    pub fn len(&mut self, max: usize, item_bytes_min: usize) -> Result<usize, Malformed> {
        let n = self.u32()? as usize;
        if n > max || n.saturating_mul(item_bytes_min) > self.0.len() {
            return Err(Malformed::new(format!("a list claims {n} items")));
        }
        Ok(n)
    }

    /// Ends the decoding: nothing may be left over.
    ///
    /// # Errors
    /// When bytes are left.
    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::new(format!("{} bytes too many", self.0.len()))) }
    }
}
