//! Messages in a stream of bytes: a length of two bytes, then the message (RFC 7766, section 8).

/// The length of the shortest message there is, its head alone, in bytes (RFC 1035, section 4.1.1).
const SHORTEST: usize = 12;

/// A length that no message can have, or that this side does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes")]
pub struct BadFrame(pub usize);

/// Takes bytes as they come, and gives whole messages.
#[derive(Debug)]
pub struct Frames {
    most: usize,
    held: Vec<u8>,
}

impl Frames {
    /// Takes messages of at most `most` bytes.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            held: Vec::new(),
        }
    }

    /// Adds bytes that have come. Whoever takes all whole messages before it adds more makes this hold no more than one
    /// message and what was added last.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next message, if all of it is there.
    ///
    /// # Errors
    /// [`BadFrame`]: the bytes are no messages, and nothing that follows can be read.
    pub fn next_message(&mut self) -> Result<Option<Vec<u8>>, BadFrame> {
        let Some((len, rest)) = self.held.split_first_chunk::<2>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes(*len));
        if len < SHORTEST || len > self.most {
            return Err(BadFrame(len));
        }
        let Some(message) = rest.get(..len) else {
            return Ok(None);
        };
        let message = message.to_vec();
        self.held.drain(..2 + len);
        if self.held.is_empty() {
            // At rest nothing is held.
            self.held = Vec::new();
        }
        Ok(Some(message))
    }

    /// Is nothing of a further message there?
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Bytes that are held.
    pub fn bytes(&self) -> usize {
        self.held.capacity()
    }
}

/// The message as it stands in a stream. `None` if it is longer than a length of two bytes can say.
pub fn framed(message: &[u8]) -> Option<Vec<u8>> {
    let len = u16::try_from(message.len()).ok()?;
    Some([&len.to_be_bytes(), message].concat())
}
