//! What an authority signed, written to disk before the signature leaves: an authority signs only one vote and one
//! consensus for a valid-after, ever.

use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use cepa_common::dir::{Digest, UnixSecs};
use cepa_common::state::record::{self, Generation};
use cepa_common::world::Disk;

/// What an authority signs once for a valid-after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    /// A vote.
    Vote,
    /// A consensus.
    Consensus,
}

/// The digests that were signed for one valid-after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    valid_after: UnixSecs,
    vote: Option<Digest>,
    consensus: Option<Digest>,
}

impl Last {
    fn new(valid_after: UnixSecs) -> Self {
        Self {
            valid_after,
            vote: None,
            consensus: None,
        }
    }

    /// Adds a digest. Returns `false` if another digest of the same kind is there.
    fn add(&mut self, what: Signed, digest: Digest) -> bool {
        let held = match what {
            Signed::Vote => &mut self.vote,
            Signed::Consensus => &mut self.consensus,
        };
        *held.get_or_insert(digest) == digest
    }

    fn encode(&self) -> Vec<u8> {
        let present = u8::from(self.vote.is_some()) | u8::from(self.consensus.is_some()) << 1;
        let digest = |digest: Option<Digest>| digest.map_or([0; 32], |digest| digest.0);
        [
            &self.valid_after.to_be_bytes()[..],
            &[present],
            &digest(self.vote),
            &digest(self.consensus),
        ]
        .concat()
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let (time, rest) = body.split_first_chunk::<8>()?;
        let (present, rest) = rest.split_first()?;
        let (vote, rest) = rest.split_first_chunk::<32>()?;
        let consensus = rest.try_into().ok()?;
        let digest = |bit: u8, bytes: [u8; 32]| (present & bit != 0).then_some(Digest(bytes));
        (*present <= 3).then_some(Self {
            valid_after: UnixSecs::from_be_bytes(*time),
            vote: digest(1, *vote),
            consensus: digest(2, consensus),
        })
    }
}

/// Remembers across restarts what was signed last. Calls may block on the disk.
pub trait SigningRecord: Send + Sync {
    /// Valid-after of the last signature; `None` if nothing was ever signed.
    ///
    /// # Errors
    /// An error if that cannot be known. The authority must not start then.
    fn last(&self) -> io::Result<Option<UnixSecs>>;

    /// Makes the record durable.
    ///
    /// # Errors
    /// An error if the record is not durable. The signature must not leave then.
    fn record(&self, valid_after: UnixSecs, what: Signed, digest: Digest) -> io::Result<()>;
}

/// A record in a file with a checksum: valid-after (`u64`, big-endian), one byte that says which digests there are (bit
/// 0 for the vote's, bit 1 for the consensus'), and the two digests.
///
/// The generation before is of no use here, because it does not say what was signed since. So a file that is damaged,
/// or that is gone while its predecessor is there, is an error that says what its owner can do (docs/protocol.md,
/// 6.13.6).
#[derive(Debug)]
pub struct FileSigningRecord {
    disk: Disk,
    path: PathBuf,
}

/// The kind of record that the file says it is.
const KIND: &str = "signing record";
const BODY_LEN: usize = 8 + 1 + 32 + 32;

impl FileSigningRecord {
    /// A record in this file on `disk`. The file need not exist yet; its directory must.
    pub fn new(disk: &Disk, path: impl Into<PathBuf>) -> Self {
        Self {
            disk: disk.clone(),
            path: path.into(),
        }
    }

    fn read(&self) -> io::Result<Option<Last>> {
        let found = record::load(&self.disk, &self.path, KIND, BODY_LEN);
        let found = found.map_err(|e| self.lost(&e.to_string()))?;
        let Some((body, generation)) = found else {
            return Ok(None);
        };
        if generation == Generation::Previous {
            return Err(self.lost("only the generation before can be read"));
        }
        let last = Last::decode(&body).ok_or_else(|| self.lost("its content is wrong"))?;
        Ok(Some(last))
    }

    fn lost(&self, why: &str) -> io::Error {
        let path = self.path.display();
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "what was signed last is not known: {path}: {why}; keep this authority stopped until two voting \
                 intervals have passed since it last ran, then remove {path} and {path}.old and start it again"
            ),
        )
    }
}

impl SigningRecord for FileSigningRecord {
    fn last(&self) -> io::Result<Option<UnixSecs>> {
        Ok(self.read()?.map(|last| last.valid_after))
    }

    fn record(&self, valid_after: UnixSecs, what: Signed, digest: Digest) -> io::Result<()> {
        let held = self.read()?;
        let mut next = held
            .filter(|held| held.valid_after == valid_after)
            .unwrap_or_else(|| Last::new(valid_after));
        // The machine never asks for such a record. If the machine were wrong, the signature must not leave.
        if held.is_some_and(|held| valid_after < held.valid_after) || !next.add(what, digest) {
            return Err(io::Error::other(
                "for this time or a later one something else was signed before",
            ));
        }
        record::save(&self.disk, &self.path, KIND, &next.encode()).map_err(io::Error::other)
    }
}

/// A record in memory, for networks that end together with the process.
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

    fn record(&self, valid_after: UnixSecs, _: Signed, _: Digest) -> io::Result<()> {
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
        let directory = std::env::temp_dir().join(format!("cepa-record-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("signed");
        let record = FileSigningRecord::new(&Disk::Real, &path);
        assert_eq!(record.last().unwrap(), None);
        record.record(1_234, Signed::Vote, Digest([5; 32])).unwrap();
        assert_eq!(
            FileSigningRecord::new(&Disk::Real, &path).last().unwrap(),
            Some(1_234)
        );
        // A lower valid-after, and another digest for the same valid-after, are refused.
        assert!(record.record(1_233, Signed::Vote, Digest([5; 32])).is_err());
        assert!(record.record(1_234, Signed::Vote, Digest([6; 32])).is_err());
        record.record(1_234, Signed::Vote, Digest([5; 32])).unwrap();
        // The consensus of the same time is recorded apart from the vote, and only one consensus is.
        record
            .record(1_234, Signed::Consensus, Digest([6; 32]))
            .unwrap();
        assert!(
            record
                .record(1_234, Signed::Consensus, Digest([7; 32]))
                .is_err()
        );
        assert!(record.record(1_234, Signed::Vote, Digest([6; 32])).is_err());
        record.record(1_235, Signed::Vote, Digest([7; 32])).unwrap();
        let good = std::fs::read(&path).unwrap();
        // The generation before is there and is not used, because it does not know of 1,235.
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            assert!(record.last().is_err(), "bit {bit}");
            assert!(record.record(1_236, Signed::Vote, Digest([8; 32])).is_err());
        }
        std::fs::remove_file(&path).unwrap();
        let error = record.last().unwrap_err().to_string();
        assert!(
            error.contains("signed.old") && error.contains("voting intervals"),
            "{error}"
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
