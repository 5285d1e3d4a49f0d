//! Streams that are ended to save memory.

use std::time::Instant;

use super::StreamKey;
use super::end::StreamEnd;
use super::mux::Mux;
use crate::cell::message::EndReason;

/// What the buffers of one stream hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamHolds {
    /// The stream.
    pub key: StreamKey,
    /// Bytes of memory.
    pub bytes: usize,
    /// Since when bytes wait without any of them moving on.
    pub since: Option<Instant>,
}

impl<E: StreamEnd> Mux<E> {
    /// The streams whose buffers hold anything, in no order.
    pub fn holders(&self) -> impl Iterator<Item = StreamHolds> {
        self.streams.iter().filter_map(|(key, stream)| {
            let buffers = [&stream.receive.buffer, &stream.send.buffer];
            let bytes = buffers.map(|buffer| buffer.held_bytes()).iter().sum();
            let since = buffers.iter().filter_map(|one| one.waiting_since()).min();
            let key = *key;
            (bytes > 0).then_some(StreamHolds { key, bytes, since })
        })
    }

    /// Ends a stream to save memory: what its buffers hold is dropped, and so is what still comes. The other end is told
    /// by END(Resource). Whoever reads or writes the stream gets an error, and never a false end. The circuit and its
    /// other streams go on.
    pub fn shed(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        stream.shed = true;
        stream.receive.buffer.clear();
        stream.send.buffer.clear();
        stream.wake();
        self.abort(key, EndReason::Resource);
    }
}
