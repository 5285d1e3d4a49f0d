//! The file that a node's configuration was read from, and how it is noticed that the file is another one.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::node::Config;

/// What the system says of a file, which is something else when the file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// When the file was last written (seconds since 1970, and nanoseconds).
    written: (i64, i64),
    /// Length in bytes.
    bytes: u64,
    /// The number of the file, which another file under the same name does not have.
    number: u64,
}

/// The file that a configuration was read from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// What the system said of the file when it was read.
    pub stamp: Option<Stamp>,
}

impl Source {
    /// What the system says of the file now; `None` if there is no file.
    pub fn look(&self) -> Option<Stamp> {
        look(&self.path)
    }

    /// Reads the file again. `None` if the file was written meanwhile: what was read may be the half of something.
    ///
    /// # Errors
    /// As those of [`Config::load`].
    pub fn read_again(&self) -> Result<Option<(Config, Option<Stamp>)>, ConfigError> {
        let before = self.look();
        let read = Config::load(&self.path);
        if self.look() != before {
            return Ok(None);
        }
        read.map(|config| Some((config, before)))
    }
}

impl Config {
    /// Reads the file at `path` as [`Config::load`] does, and says where that came from.
    ///
    /// # Errors
    /// As those of [`Config::load`].
    pub fn load_from(path: &Path) -> Result<(Self, Source), ConfigError> {
        let stamp = look(path);
        let config = Self::load(path)?;
        let path = path.to_owned();
        Ok((config, Source { path, stamp }))
    }
}

fn look(path: &Path) -> Option<Stamp> {
    let data = std::fs::metadata(path).ok()?;
    Some(Stamp {
        written: (data.mtime(), data.mtime_nsec()),
        bytes: data.len(),
        number: data.ino(),
    })
}

/// Finds out when a file that is looked at from time to time is another one, and written to its end. Pure.
#[derive(Debug)]
pub struct Settling {
    /// The file as it was last read.
    taken: Option<Stamp>,
    /// The file as it was at the last look.
    last: Option<Stamp>,
}

impl Settling {
    /// The file was read when it was as `taken` says.
    pub fn new(taken: Option<Stamp>) -> Self {
        Self { taken, last: taken }
    }

    /// The file is as `now` says. Is it to be read again, because it is another one and was the same at the last look?
    /// A file that is not there is not.
    pub fn look(&mut self, now: Option<Stamp>) -> bool {
        let is_settled = now.is_some() && now == self.last && now != self.taken;
        self.last = now;
        is_settled
    }

    /// The file was read when it was as `taken` says. Whatever came of that, it is not read again before it changes.
    pub fn take(&mut self, taken: Option<Stamp>) {
        self.taken = taken;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn stamp(bytes: u64) -> Option<Stamp> {
        Some(Stamp {
            written: (bytes.cast_signed(), 0),
            bytes,
            number: 1,
        })
    }

    #[test]
    fn a_file_is_read_again_when_it_is_another_one_at_two_looks() {
        let mut settling = Settling::new(stamp(1));
        assert!(!settling.look(stamp(1)) && !settling.look(stamp(1)));
        // It is being written, piece by piece, and is gone for a moment.
        assert!(!settling.look(stamp(2)) && !settling.look(stamp(3)));
        assert!(!settling.look(None) && !settling.look(None));
        assert!(!settling.look(stamp(4)));
        assert!(settling.look(stamp(4)));
        settling.take(stamp(4));
        assert!(!settling.look(stamp(4)));
        // Somebody else has had it read: there is nothing more to do.
        assert!(!settling.look(stamp(5)));
        settling.take(stamp(5));
        assert!(!settling.look(stamp(5)));
    }

    #[test]
    fn what_is_written_and_what_is_replaced_is_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        std::fs::write(&path, "[client]\n").unwrap();
        let (config, source) = Config::load_from(&path).unwrap();
        assert_eq!(source.look(), source.stamp);
        assert_eq!(source.read_again().unwrap(), Some((config, source.stamp)));
        let other = dir.path().join("other.toml");
        std::fs::write(&other, "[client]\n").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_ne!(source.look(), source.stamp);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(source.look(), None);
        assert!(source.read_again().is_err());
    }
}
