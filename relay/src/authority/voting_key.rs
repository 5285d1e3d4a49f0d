//! The key that an authority signs with, on disk: its long-term key, or a certified key while the long-term key stays
//! off line.
//!
//! `keys/NAME-cert` names a certified key, whose secret is in `keys/NAME-<first 16 digits of the key>`. If there is no
//! certificate, `keys/NAME` is the long-term key itself. Whoever renews the key writes the certificate last and whole,
//! so that there is never half of a pair.

use core::time::Duration;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cepa_common::dir::{AuthorityCert, CertFileError, Signer};
use cepa_common::ids::NetworkId;
use cepa_common::state::{KeyKind, StateError, Trust, load_key};
use cepa_common::world::{Clock, Disk, blocking};
use ed25519_dalek::SigningKey;
use tokio::sync::watch;

use crate::events::{AuthorityEvent, Reporter};

/// The wait between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The log warns once a day about a key that ends sooner than this (seconds).
const WARN_BEFORE_SECS: u64 = 14 * 86_400;
const WARN_EVERY_SECS: u64 = 86_400;
/// Size of the largest certificate that is read (bytes); a good one is far below it.
const MAX_CERT_BYTES: u64 = 64 << 10;

/// The files in which an authority's signing key is.
#[derive(Clone, Debug)]
pub struct VotingKeyFile {
    /// The disk that the directory is on.
    pub disk: Disk,
    /// The directory of keys.
    pub dir: PathBuf,
    /// Name of the long-term key's file in that directory.
    pub name: String,
    /// Whether the permissions of key files are checked.
    pub trust: Trust,
    /// The network that certificates must be for.
    pub network: NetworkId,
}

/// Why no signing key could be loaded.
#[derive(Debug, thiserror::Error)]
pub enum VotingKeyError {
    /// A key cannot be read.
    #[error(transparent)]
    Key(#[from] StateError),
    /// The certificate cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The certificate is not valid.
    #[error("{} is no certificate of this network: {source}", path.display())]
    Cert {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with the certificate.
        source: CertFileError,
    },
}

impl VotingKeyFile {
    /// Path of the certificate's file.
    pub fn cert_path(&self) -> PathBuf {
        self.dir.join(AuthorityCert::file_name(&self.name))
    }

    /// Name of the file that holds the secret of this certified key.
    pub fn key_name(&self, key: &[u8; 32]) -> String {
        AuthorityCert::key_file_name(&self.name, key)
    }

    /// Loads the key to sign with. This call blocks on the disk.
    ///
    /// # Errors
    /// [`VotingKeyError`] if a file cannot be read or the certificate is not valid. A certificate that is not valid is
    /// always an error: the function never falls back to the long-term key.
    pub fn load(&self) -> Result<Signer, VotingKeyError> {
        let path = self.cert_path();
        let text = match self.disk.read_text(&path, MAX_CERT_BYTES) {
            Ok(text) => text,
            Err(absent) if absent.kind() == ErrorKind::NotFound => {
                return Ok(self.key(&self.name)?.into());
            }
            Err(source) => return Err(VotingKeyError::Unreadable { path, source }),
        };
        let cert = AuthorityCert::parse(&text, &self.network);
        let bad = |source| VotingKeyError::Cert { path, source };
        match cert {
            Ok(cert) => {
                let key = self.key(&self.key_name(&cert.key()))?;
                Signer::certified(key, cert).map_err(|error| bad(error.into()))
            }
            Err(error) => Err(bad(error)),
        }
    }

    fn key(&self, name: &str) -> Result<SigningKey, StateError> {
        let path = Path::new(&self.dir).join(name);
        let secret = load_key(&self.disk, &path, KeyKind::Authority, self.trust)?;
        Ok(SigningKey::from_bytes(secret.expose()))
    }
}

/// Looks at the files for as long as somebody listens, so that a renewed key is used without a restart.
pub async fn follow_voting_key(
    file: VotingKeyFile,
    clock: Clock,
    current: watch::Sender<Signer>,
    events: Reporter,
) {
    let mut last_error = String::new();
    let mut warned_at = 0;
    while !current.is_closed() {
        tokio::time::sleep(LOOK_EVERY).await;
        let look = file.clone();
        match blocking::run(move || look.load()).await {
            Ok(Ok(found)) => {
                last_error.clear();
                let held = current.borrow().clone();
                if (held.key(), held.not_after()) != (found.key(), found.not_after()) {
                    let until = found.not_after();
                    events.report(AuthorityEvent::KeyRenewed { until });
                    warned_at = 0;
                    current.send_replace(found);
                }
            }
            Ok(Err(error)) => {
                let reason = error.to_string();
                if reason != last_error {
                    last_error.clone_from(&reason);
                    events.report(AuthorityEvent::KeyFile { reason });
                }
            }
            Err(_) => return,
        }
        let warning = warn_of_end(&current.borrow(), clock.now_secs(), &mut warned_at);
        if let Some(warning) = warning {
            events.report(warning);
        }
    }
}

/// The warning of the end of the signing key, if one is due now.
fn warn_of_end(signer: &Signer, now: u64, warned_at: &mut u64) -> Option<AuthorityEvent> {
    let not_after = signer.not_after()?;
    let left = not_after.saturating_sub(now);
    if left > WARN_BEFORE_SECS || now < warned_at.saturating_add(WARN_EVERY_SECS) {
        return None;
    }
    *warned_at = now;
    Some(match left {
        0 => AuthorityEvent::KeyEnded,
        left => AuthorityEvent::KeyEnding {
            hours_left: left / 3_600,
        },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use cepa_common::state::load_or_create_key;

    use super::*;
    use crate::events::RelayEvent;

    const NETWORK: NetworkId = NetworkId([7; 32]);

    fn key(dir: &Path, name: &str) -> SigningKey {
        let secret = load_or_create_key(
            &Disk::Real,
            dir,
            name,
            KeyKind::Authority,
            Trust::Everyone,
            &mut rand::rng(),
        );
        SigningKey::from_bytes(secret.unwrap().expose())
    }

    /// Makes a new certified key beside the long-term one.
    fn certify(file: &VotingKeyFile, long_term: &SigningKey, not_after: u64) -> [u8; 32] {
        let voting = key(&file.dir, "new");
        let public = voting.verifying_key().to_bytes();
        let name = file.key_name(&public);
        std::fs::rename(file.dir.join("new"), file.dir.join(name)).unwrap();
        let cert = AuthorityCert::issue(long_term, &NETWORK, public, not_after).unwrap();
        std::fs::write(file.cert_path(), cert.to_text()).unwrap();
        public
    }

    fn world() -> (tempfile::TempDir, VotingKeyFile, SigningKey) {
        let dir = tempfile::tempdir().unwrap();
        let file = VotingKeyFile {
            disk: Disk::Real,
            dir: dir.path().to_owned(),
            name: "authority".to_owned(),
            trust: Trust::Everyone,
            network: NETWORK,
        };
        let long_term = key(dir.path(), "authority");
        (dir, file, long_term)
    }

    #[test]
    fn a_certificate_goes_before_the_long_term_key() {
        let (_dir, file, long_term) = world();
        let plain = file.load().unwrap();
        assert_eq!(plain.not_after(), None);
        let public = certify(&file, &long_term, 9_000);
        let certified = file.load().unwrap();
        assert_eq!(
            (certified.key(), certified.not_after()),
            (public, Some(9_000))
        );
        assert_eq!(certified.authority(), plain.authority());
        // Loading never falls back to the long-term key, and a certificate is for one network only.
        let other = VotingKeyFile {
            network: NetworkId([8; 32]),
            ..file.clone()
        };
        assert!(matches!(other.load(), Err(VotingKeyError::Cert { .. })));
        std::fs::remove_file(file.dir.join(file.key_name(&public))).unwrap();
        assert!(matches!(file.load(), Err(VotingKeyError::Key(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_key_is_used_and_a_broken_one_is_not() {
        let (_dir, file, long_term) = world();
        certify(&file, &long_term, 1_000);
        let (sender, mut signer) = watch::channel(file.load().unwrap());
        let clock = Clock::from_fn(|| 0);
        let reporter = Reporter::default();
        let mut events = reporter.subscribe();
        tokio::spawn(follow_voting_key(file.clone(), clock, sender, reporter));
        let second = certify(&file, &long_term, 2_000);
        signer.changed().await.unwrap();
        assert_eq!(signer.borrow_and_update().key(), second);
        std::fs::write(file.cert_path(), "soup").unwrap();
        let change = tokio::time::timeout(Duration::from_secs(60), signer.changed());
        assert!(change.await.is_err());
        assert_eq!(signer.borrow().not_after(), Some(2_000));
        // The owner hears of both keys, and only once of the broken one.
        drop(signer);
        let mut told = Vec::new();
        while let Some(event) = events.next().await {
            told.push(event);
        }
        let [renewed, broken] = &told[..] else {
            panic!("{told:?}")
        };
        let until = Some(2_000);
        assert_eq!(*renewed, AuthorityEvent::KeyRenewed { until }.into());
        assert!(matches!(
            broken,
            RelayEvent::Authority(AuthorityEvent::KeyFile { .. })
        ));
    }

    #[test]
    fn the_end_is_told_once_a_day() {
        let (_dir, file, long_term) = world();
        certify(&file, &long_term, 20 * 86_400);
        let signer = file.load().unwrap();
        let mut warned_at = 0;
        warn_of_end(&signer, 86_400, &mut warned_at);
        assert_eq!(warned_at, 0);
        let day = 7 * 86_400;
        for (now, told) in [(day, day), (day + 5, day), (day + 86_400, day + 86_400)] {
            warn_of_end(&signer, now, &mut warned_at);
            assert_eq!(warned_at, told);
        }
    }
}
