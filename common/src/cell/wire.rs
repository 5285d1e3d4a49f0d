//! Reading of big-endian numbers and fixed arrays from slices, with every length checked (S1).

/// The bytes ended before the value did. This is the only way in which a [`Reader`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes end before the value does")]
pub struct UnexpectedEnd;

/// A reader that takes values from the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Takes the next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], UnexpectedEnd> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(UnexpectedEnd)?;
        self.0 = tail;
        Ok(head)
    }

    /// Takes the next `N` bytes, as an array.
    pub fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], UnexpectedEnd> {
        let (head, tail) = self.0.split_first_chunk().ok_or(UnexpectedEnd)?;
        self.0 = tail;
        Ok(head)
    }

    /// Takes one byte.
    pub fn u8(&mut self) -> Result<u8, UnexpectedEnd> {
        self.array::<1>().map(|b| b[0])
    }

    /// Takes two bytes as a big-endian number.
    pub fn u16(&mut self) -> Result<u16, UnexpectedEnd> {
        self.array().map(|b| u16::from_be_bytes(*b))
    }

    /// Takes four bytes as a big-endian number.
    pub fn u32(&mut self) -> Result<u32, UnexpectedEnd> {
        self.array().map(|b| u32::from_be_bytes(*b))
    }

    /// Takes eight bytes as a big-endian number.
    pub fn u64(&mut self) -> Result<u64, UnexpectedEnd> {
        self.array().map(|b| u64::from_be_bytes(*b))
    }

    /// The bytes that have not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Has everything been read?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Are all bytes zero? Padding is not secret, so the comparison may stop at the first byte that is not.
pub fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b == 0)
}
