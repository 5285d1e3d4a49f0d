//! What an authority signed, on disk before it says so: it signs one consensus for a valid-after, ever.

use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use cepa_common::dir::{Digest, UnixSecs, write_whole};

/// Remembers the last consensus that was signed, across restarts. Calls may block on the disk.
pub trait SigningRecord: Send + Sync {
    /// Valid-after of the last one; `None` when there was none ever.
    ///
    /// # Errors
    /// When it cannot be known: the authority must not start then.
    fn last(&self) -> io::Result<Option<UnixSecs>>;

    /// Makes the record durable.
    ///
    /// # Errors
    /// When it is not durable: the signature must not leave.
    fn record(&self, valid_after: UnixSecs, digest: Digest) -> io::Result<()>;
}

/// A record in a file of one line: valid-after and digest.
#[derive(Debug)]
pub struct FileSigningRecord {
    path: PathBuf,
}

impl FileSigningRecord {
    /// A record in this file, which need not exist yet; its directory must.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl SigningRecord for FileSigningRecord {
    fn last(&self) -> io::Result<Option<UnixSecs>> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let valid_after = text.split(' ').next().and_then(|word| word.parse().ok());
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "signing record is damaged");
        valid_after.map(Some).ok_or_else(invalid)
    }

    fn record(&self, valid_after: UnixSecs, digest: Digest) -> io::Result<()> {
        write_whole(&self.path, format!("{valid_after} {digest}\n").as_bytes())
    }
}

/// A record that is gone with the process, for networks that are too.
#[derive(Debug, Default)]
pub struct MemorySigningRecord {
    last: Mutex<Option<UnixSecs>>,
}

impl SigningRecord for MemorySigningRecord {
    fn last(&self) -> io::Result<Option<UnixSecs>> {
        Ok(*self
            .last
            .lock()
            .map_err(|_| io::Error::other("record lock"))?)
    }

    fn record(&self, valid_after: UnixSecs, _: Digest) -> io::Result<()> {
        *self
            .last
            .lock()
            .map_err(|_| io::Error::other("record lock"))? = Some(valid_after);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_restart_and_refuses_damage() {
        let path = std::env::temp_dir().join(format!("cepa-record-{}", std::process::id()));
        let record = FileSigningRecord::new(&path);
        assert_eq!(record.last().unwrap(), None);
        record.record(1_234, Digest([5; 32])).unwrap();
        assert_eq!(FileSigningRecord::new(&path).last().unwrap(), Some(1_234));
        std::fs::write(&path, "soup").unwrap();
        assert!(record.last().is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
