//! Key material that erases itself (S36).

use zeroize::{Zeroize, ZeroizeOnDrop};

/// `N` secret bytes. The bytes are erased on drop and can be neither shown, cloned nor compared.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret<const N: usize>([u8; N]);

impl<const N: usize> Secret<N> {
    /// Takes `bytes` as a secret. The caller erases its own copy.
    pub fn new(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// A secret of zeros, which the caller fills through [`Secret::expose_mut`].
    pub fn zeroed() -> Self {
        Self([0; N])
    }

    /// The bytes, for the one algorithm that the key belongs to.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// The bytes, which the caller may write in place.
    pub fn expose_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }
}
