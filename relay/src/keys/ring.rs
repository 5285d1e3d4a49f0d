//! The onion keys of a relay, on disk and in memory (docs/protocol.md, 6.20).
//!
//! Each key is a file `onion-GENERATION-SUITE` in the directory of keys. The record `onion-times` beside them has what
//! [`Schedule`] knows about each key. The files are the truth: a key whose times are lost is taken to be as old as its
//! file, and counts as replaced now if there is a newer one. So no crash and no damaged record costs a key that
//! somebody may still use.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cepa_common::dir::{Params, UnixSecs};
use cepa_common::handshake::OnionKeypair;
use cepa_common::onion::Suite;
use cepa_common::secret::Secret;
use cepa_common::state::{KeyKind, StateError, Trust, create_key, erase_key, load_key, record};
use cepa_common::world::Disk;
use rand::CryptoRng;
use serde::{Deserialize, Serialize};

use super::schedule::{KeyListing, KeyTimes, MAX_KEYS, Schedule, Timing};
use crate::events::{DiskTrouble, RelayEvent};

/// Where the onion keys are, and which suite the owner wants.
#[derive(Clone, Debug)]
pub struct OnionKeyOptions {
    /// The directory of keys.
    pub dir: PathBuf,
    /// Whether the permissions of key files are checked.
    pub trust: Trust,
    /// The suite of new keys. A key of another suite is replaced.
    pub suite: Suite,
}

/// The keys that are accepted now, the current one last. The value is a snapshot: whoever holds it goes on with these
/// keys.
pub type OnionKeys = Arc<[Arc<OnionKeypair>]>;

/// The largest record (bytes): 64 keys with four numbers each are far below it.
const MAX_RECORD_BYTES: usize = MAX_KEYS * 64;
const RECORD: &str = "onion-times";
const RECORD_KIND: &str = "onion key times";
const PREFIX: &str = "onion-";

/// What the record says about one key.
#[derive(Serialize, Deserialize)]
struct Times {
    generation: u64,
    born: UnixSecs,
    replaced: Option<UnixSecs>,
    listed_until: UnixSecs,
}

/// The record: valid-after of the newest consensus that was seen, and the times of every key.
#[derive(Default, Serialize, Deserialize)]
struct Record(UnixSecs, Vec<Times>);

/// The keys and their schedule. Disk and memory hold the same keys.
pub struct OnionRing {
    disk: Disk,
    options: OnionKeyOptions,
    schedule: Schedule,
    keys: BTreeMap<u64, (PathBuf, Arc<OnionKeypair>)>,
    /// What was wrong with the files when they were read.
    troubles: Vec<RelayEvent>,
}

impl OnionRing {
    /// Loads the keys in the directory on `disk`.
    ///
    /// # Errors
    /// [`StateError`] if a key's file cannot be read, or a newer program wrote it. A damaged record is no error: its
    /// times are then taken from the files. Nor is a damaged key, which is put aside: another can take its place.
    pub fn load(disk: &Disk, options: OnionKeyOptions, now: UnixSecs) -> Result<Self, StateError> {
        let (Record(observed, known), trouble) = read_record(disk, &options.dir.join(RECORD))?;
        let mut troubles = Vec::from_iter(trouble);
        let known = known.into_iter().map(|key| (key.generation, key));
        let mut known: BTreeMap<u64, Times> = known.collect();
        let mut keys = BTreeMap::new();
        let mut times = Vec::new();
        for (generation, suite, path) in files(disk, &options.dir)? {
            let secret = match load_key(disk, &path, KeyKind::Onion, options.trust) {
                Ok(secret) => secret,
                Err(why @ (StateError::Damaged { .. } | StateError::WrongKind { .. })) => {
                    troubles.push(put_aside(disk, &path, &why)?);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let key = keypair(suite, &secret, &path)?;
            let mut of_key =
                KeyTimes::new(generation, suite, key.public().key, born(disk, &path, now));
            if let Some(known) = known.remove(&generation) {
                of_key.born = known.born;
                of_key.replaced = known.replaced;
                of_key.listed_until = known.listed_until;
            }
            times.push(of_key);
            keys.insert(generation, (path, Arc::new(key)));
        }
        Ok(Self {
            disk: disk.clone(),
            options,
            schedule: Schedule::new(times, observed, now),
            keys,
            troubles,
        })
    }

    /// What was wrong with the keys and the record of their times when they were read, for whoever reports it.
    pub(crate) fn take_troubles(&mut self) -> Vec<RelayEvent> {
        core::mem::take(&mut self.troubles)
    }

    /// The keys that are accepted now.
    pub fn snapshot(&self) -> OnionKeys {
        self.keys.values().map(|(_, key)| key.clone()).collect()
    }

    /// What is known about each key.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Takes in what consensuses say, oldest first.
    ///
    /// # Errors
    /// [`StateError`] if the disk cannot be written; what was taken in is then lost with a restart.
    pub fn observe(&mut self, listings: &[KeyListing], params: &Params) -> Result<(), StateError> {
        let timing = Timing::new(params);
        let mut is_news = false;
        for listing in listings {
            is_news |= self.schedule.observe(listing, &timing);
        }
        if is_news { self.save() } else { Ok(()) }
    }

    /// Makes the key that is due and erases those whose time is over. Returns whether the keys changed.
    ///
    /// A new key is on disk before this returns, so before anybody can publish it.
    ///
    /// # Errors
    /// [`StateError`] if the disk cannot be written. The keys are as they were, or some that were to be erased are
    /// gone.
    pub fn turn(
        &mut self,
        now: UnixSecs,
        params: &Params,
        rng: &mut impl CryptoRng,
    ) -> Result<bool, StateError> {
        let timing = Timing::new(params);
        self.schedule.redate(now);
        let is_due = self.schedule.is_due(now, self.options.suite, &timing);
        if is_due {
            self.make(now, rng)?;
        }
        let over = self.schedule.over(now, &timing);
        for generation in &over {
            self.erase(*generation)?;
        }
        let changed = is_due || !over.is_empty();
        if changed {
            self.save()?;
        }
        Ok(changed)
    }

    fn make(&mut self, now: UnixSecs, rng: &mut impl CryptoRng) -> Result<(), StateError> {
        let (generation, suite) = (self.schedule.next_generation(), self.options.suite);
        let path = self.options.dir.join(name(generation, suite));
        let secret = create_key(&self.disk, &path, KeyKind::Onion, rng)?;
        let key = keypair(suite, &secret, &path)?;
        self.schedule.add(generation, suite, key.public().key, now);
        self.keys.insert(generation, (path, Arc::new(key)));
        Ok(())
    }

    fn erase(&mut self, generation: u64) -> Result<(), StateError> {
        if let Some((path, _)) = self.keys.get(&generation) {
            erase_key(&self.disk, path)?;
        }
        // In memory the key is erased when the last handshake that holds a snapshot has ended (S36).
        self.keys.remove(&generation);
        self.schedule.remove(generation);
        Ok(())
    }

    fn save(&self) -> Result<(), StateError> {
        let times = self.schedule.keys().iter().map(Times::of).collect();
        let times = Record(self.schedule.observed(), times);
        // Encoding cannot fail: there are only four numbers for each key.
        let body = postcard::to_allocvec(&times).unwrap_or_default();
        let path = self.options.dir.join(RECORD);
        record::save(&self.disk, &path, RECORD_KIND, &body)
    }
}

impl Times {
    fn of(key: &KeyTimes) -> Self {
        Self {
            generation: key.generation,
            born: key.born,
            replaced: key.replaced,
            listed_until: key.listed_until,
        }
    }
}

/// Reads the record, and says what is wrong with it if the relay can go on all the same.
/// The key whose secret is in the file at `path`.
fn keypair(suite: Suite, secret: &Secret<32>, path: &Path) -> Result<OnionKeypair, StateError> {
    OnionKeypair::from_bytes(suite, secret)
        .map_err(|error| StateError::io("compute with the key in", path, io::Error::other(error)))
}

fn read_record(disk: &Disk, path: &Path) -> Result<(Record, Option<RelayEvent>), StateError> {
    let (body, trouble) = match record::load(disk, path, RECORD_KIND, MAX_RECORD_BYTES) {
        Ok(Some((body, record::Generation::Current))) => (body, None),
        Ok(Some((body, record::Generation::Previous))) => {
            let damaged = RelayEvent::disk(DiskTrouble::OnionTimesDamaged, &path.display());
            (body, Some(damaged))
        }
        Ok(None) => return Ok((Record::default(), None)),
        // A newer program wrote the record, and what it decided must not be undone (S38).
        Err(newer @ StateError::Newer { .. }) => return Err(newer),
        Err(error) => {
            let lost = RelayEvent::disk(DiskTrouble::OnionTimesLost, &error);
            return Ok((Record::default(), Some(lost)));
        }
    };
    Ok((postcard::from_bytes(&body).unwrap_or_default(), trouble))
}

/// Puts the file of a damaged key aside, for its owner to look at, and returns what to tell him.
fn put_aside(disk: &Disk, path: &Path, why: &StateError) -> Result<RelayEvent, StateError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".damaged");
    let aside = PathBuf::from(aside);
    let moved = disk.rename(path, &aside);
    moved.map_err(|source| StateError::io("put aside", path, source))?;
    let reason = format!("{why}; the file is {} now", aside.display());
    Ok(RelayEvent::disk(DiskTrouble::OnionKeyDamaged, &reason))
}

/// Every key file of `dir`.
fn files(disk: &Disk, dir: &Path) -> Result<Vec<(u64, Suite, PathBuf)>, StateError> {
    let entries = disk.list(dir);
    let entries = entries.map_err(|source| StateError::io("list", dir, source))?;
    let files = entries.into_iter().filter_map(|entry| {
        let (generation, suite) = parse_name(entry.name.to_str()?)?;
        Some((generation, suite, dir.join(entry.name)))
    });
    Ok(files.collect())
}

fn name(generation: u64, suite: Suite) -> String {
    format!("{PREFIX}{generation}-{}", suite.name())
}

/// The generation and suite that a file's name says. A name without a generation is from before keys had one; its
/// generation is the number of its suite.
fn parse_name(name: &str) -> Option<(u64, Suite)> {
    let rest = name.strip_prefix(PREFIX)?;
    let suites = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm];
    let suite_of = |text| suites.into_iter().find(|suite| suite.name() == text);
    if let Some(suite) = suite_of(rest) {
        return Some((suite.code().into(), suite));
    }
    let (generation, suite) = rest.split_once('-')?;
    Some((generation.parse().ok()?, suite_of(suite)?))
}

/// When a key was made, by the time of its file.
fn born(disk: &Disk, path: &Path, now: UnixSecs) -> UnixSecs {
    let modified = disk.status(path).ok().and_then(|status| status.modified);
    modified.map_or(now, |at| at.min(now))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::world::Clock;

    use super::*;

    const DAY: u64 = 86_400;
    /// A time that is later than that of any file that a test writes.
    const NOW: u64 = 5_000_000_000;

    fn options(dir: &Path, suite: Suite) -> OnionKeyOptions {
        OnionKeyOptions {
            dir: dir.to_owned(),
            trust: Trust::Everyone,
            suite,
        }
    }

    fn ring(dir: &Path, suite: Suite, now: u64) -> OnionRing {
        OnionRing::load(&Disk::Real, options(dir, suite), now).unwrap()
    }

    fn turn(ring: &mut OnionRing, now: u64) -> bool {
        ring.turn(now, &Params::default(), &mut rand::rng())
            .unwrap()
    }

    fn publics(ring: &OnionRing) -> Vec<[u8; 32]> {
        ring.snapshot().iter().map(|key| key.public().key).collect()
    }

    #[test]
    fn names() {
        assert_eq!(
            parse_name("onion-12-aes-256-gcm"),
            Some((12, Suite::Aes256Gcm))
        );
        assert_eq!(parse_name("onion-aes-256-gcm"), Some((2, Suite::Aes256Gcm)));
        for other in [
            "onion-times",
            "onion-times.old",
            "onion-x-aes-256-gcm",
            "onion-1-",
            "identity",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn keys_outlive_restarts_and_are_erased_from_the_disk() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let suite = Suite::Aes256Gcm;
        let mut first = ring(dir.path(), suite, NOW);
        assert!(turn(&mut first, NOW));
        assert!(!turn(&mut first, NOW + 1));
        let path = dir.path().join("onion-1-aes-256-gcm");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let replaced = NOW + 7 * DAY;
        assert!(turn(&mut first, replaced));
        let held = publics(&first);
        assert_eq!(held.len(), 2);
        let seen = |valid_after, key: [u8; 32]| KeyListing {
            valid_after,
            fresh_until: valid_after + 3_600,
            valid_until: valid_after + DAY,
            onion_key: Some(key),
        };
        let listed = seen(replaced + 60, held[0]);
        first.observe(&[listed], &Params::default()).unwrap();
        drop(first);
        let mut second = ring(dir.path(), suite, replaced + DAY);
        assert_eq!(publics(&second), held);
        let times = second.schedule().keys()[0];
        assert_eq!((times.born, times.replaced), (NOW, Some(replaced)));
        assert_eq!(times.listed_until, replaced + 60 + 2 * DAY);
        let end = times.end(&Timing::new(&Params::default())).unwrap();
        let newest = seen(end, held[1]);
        second.observe(&[newest], &Params::default()).unwrap();
        assert!(!turn(&mut second, end - 1));
        assert!(path.exists());
        assert!(turn(&mut second, end));
        assert_eq!(publics(&second), held[1..]);
        assert!(!path.exists());
    }

    #[test]
    fn without_its_record_a_key_is_as_old_as_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let suite = Suite::Aes256Gcm;
        let now = Clock::system().now_secs();
        let mut first = ring(dir.path(), suite, now);
        turn(&mut first, now);
        turn(&mut first, now + 7 * DAY);
        let held = publics(&first);
        assert_eq!(first.take_troubles(), []);
        let trouble_after = |damage: &dyn Fn()| {
            damage();
            match ring(dir.path(), suite, now + 8 * DAY).take_troubles()[..] {
                [RelayEvent::Disk { trouble, .. }] => trouble,
                ref other => panic!("{other:?}"),
            }
        };
        let newest = || std::fs::write(dir.path().join(RECORD), b"damaged").unwrap();
        assert_eq!(trouble_after(&newest), DiskTrouble::OnionTimesDamaged);
        let both = || std::fs::remove_file(dir.path().join("onion-times.old")).unwrap();
        assert_eq!(trouble_after(&both), DiskTrouble::OnionTimesLost);
        let second = ring(dir.path(), suite, now + 8 * DAY);
        assert_eq!(publics(&second), held);
        let times = second.schedule().keys();
        assert!(times[0].born <= now + 60);
        assert_eq!(times[0].replaced, Some(now + 8 * DAY));
        assert_eq!(times[1].replaced, None);
    }

    #[test]
    fn a_damaged_key_is_put_aside_told_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let suite = Suite::Aes256Gcm;
        let mut first = ring(dir.path(), suite, NOW);
        turn(&mut first, NOW);
        turn(&mut first, NOW + 7 * DAY);
        let held = publics(&first);
        let path = |generation| dir.path().join(name(generation, suite));
        let damage = |generation, bytes: &[u8]| std::fs::write(path(generation), bytes).unwrap();
        // Without the newest, the one before is current again.
        damage(2, b"soup");
        let mut second = ring(dir.path(), suite, NOW + 7 * DAY);
        assert_eq!(publics(&second), held[..1]);
        let troubles = second.take_troubles();
        let [
            RelayEvent::Disk {
                trouble, reason, ..
            },
        ] = &troubles[..]
        else {
            panic!("{troubles:?}");
        };
        assert_eq!(*trouble, DiskTrouble::OnionKeyDamaged);
        assert!(reason.contains("onion-2-aes-256-gcm.damaged"), "{reason}");
        let aside = dir.path().join("onion-2-aes-256-gcm.damaged");
        assert_eq!(std::fs::read(aside).unwrap(), b"soup");
        // It is due, so that a third key takes the place of the second; and without any there is a new one.
        assert!(turn(&mut second, NOW + 7 * DAY));
        let held = publics(&second);
        assert_eq!(publics(&ring(dir.path(), suite, NOW + 7 * DAY)), held);
        for file in files(&Disk::Real, dir.path()).unwrap() {
            std::fs::write(file.2, [0; 50]).unwrap();
        }
        let mut third = ring(dir.path(), suite, NOW + 7 * DAY);
        assert_eq!(
            (publics(&third).len(), third.take_troubles().len()),
            (0, held.len())
        );
        assert!(turn(&mut third, NOW + 7 * DAY));
        assert_eq!(publics(&third).len(), 1);
        assert!(!held.contains(&publics(&third)[0]));
    }

    #[test]
    fn another_suite_is_another_key_and_the_old_one_keeps_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = ring(dir.path(), Suite::Aes256Gcm, NOW);
        turn(&mut first, NOW);
        let mut second = ring(dir.path(), Suite::ChaCha20Poly1305, NOW + 5);
        assert!(turn(&mut second, NOW + 5));
        let suites: Vec<_> = second
            .snapshot()
            .iter()
            .map(|key| key.public().suite)
            .collect();
        assert_eq!(suites, [Suite::Aes256Gcm, Suite::ChaCha20Poly1305]);
        assert!(!turn(&mut second, NOW + 6));
    }

    #[test]
    fn a_key_of_before_generations_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("onion-chacha20-poly1305");
        create_key(&Disk::Real, &path, KeyKind::Onion, &mut rand::rng()).unwrap();
        let mut ring = ring(dir.path(), Suite::ChaCha20Poly1305, NOW);
        assert_eq!(ring.snapshot().len(), 1);
        assert_eq!(ring.schedule().next_generation(), 2);
        // The key is older than any key may be.
        assert!(turn(&mut ring, NOW));
        assert_eq!(ring.snapshot().len(), 1);
        assert!(!path.exists());
    }
}
