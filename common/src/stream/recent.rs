//! What a stream has said of late, which decides when its turn is.

/// What a stream has said of late.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent {
    bytes: u32,
    epoch: u64,
}

impl Recent {
    /// Bytes said, as they count at `epoch`: half as much for each epoch that has passed.
    pub(super) fn at(&mut self, epoch: u64) -> &mut u32 {
        let halvings = u32::try_from(epoch - self.epoch).unwrap_or(u32::MAX);
        self.bytes = self.bytes.checked_shr(halvings).unwrap_or(0);
        self.epoch = epoch;
        &mut self.bytes
    }
}
