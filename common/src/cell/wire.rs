//! Reading and writing big-endian numbers and fixed arrays in slices (S1).

/// The bytes ended before the value did. Primitives fail in this one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes end before the value does")]
pub struct UnexpectedEnd;

/// Takes values from the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], UnexpectedEnd> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(UnexpectedEnd)?;
        self.0 = tail;
        Ok(head)
    }

    /// The next `N` bytes, as an array.
    pub fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], UnexpectedEnd> {
        let (head, tail) = self.0.split_first_chunk().ok_or(UnexpectedEnd)?;
        self.0 = tail;
        Ok(head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, UnexpectedEnd> {
        self.array::<1>().map(|b| b[0])
    }

    /// Two bytes, big endian.
    pub fn u16(&mut self) -> Result<u16, UnexpectedEnd> {
        self.array().map(|b| u16::from_be_bytes(*b))
    }

    /// Four bytes, big endian.
    pub fn u32(&mut self) -> Result<u32, UnexpectedEnd> {
        self.array().map(|b| u32::from_be_bytes(*b))
    }

    /// Eight bytes, big endian.
    pub fn u64(&mut self) -> Result<u64, UnexpectedEnd> {
        self.array().map(|b| u64::from_be_bytes(*b))
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Has everything been read?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Are all bytes zero? Padding is not secret, so this may stop early.
pub fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b == 0)
}
