//! Who a relay is: an identity whose key is on this machine, or one that certified the link key on this machine.

use std::path::PathBuf;

use cepa_common::dir::{
    FamilyFile, FamilyMembership, KeyCert, KeyFileError, LinkCertificate, MAX_KEY_FILE_BYTES,
    UnixSecs,
};
use cepa_common::ids::{NetworkId, RelayId};
use cepa_common::world::Disk;
use ed25519_dalek::SigningKey;

/// A relay's identity, the key that it proves on links, and the files that certify them and are read again.
pub struct RelayIdentity {
    identity: RelayId,
    link_key: SigningKey,
    certificate: Option<(OwnersFile, LinkCertificate)>,
    family_file: Option<OwnersFile>,
}

/// A file that its owner may replace while the relay runs.
struct OwnersFile {
    disk: Disk,
    path: PathBuf,
}

/// A file that says who a relay is cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RelayIdentityError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The content is not what it should be.
    #[error("{}: {error}", path.display())]
    Invalid {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with the content.
        error: KeyFileError,
    },
    /// The file is for another relay or another key than this one.
    #[error("{} is for {what} {found}, and this relay's is {own}", path.display())]
    NotOurs {
        /// Path of the file.
        path: PathBuf,
        /// What differs: identity or link key.
        what: &'static str,
        /// What the file says.
        found: String,
        /// What this relay has.
        own: String,
    },
    /// The certificate has expired.
    #[error("the certificate {} has expired", path.display())]
    Expired {
        /// Path of the file.
        path: PathBuf,
    },
}

impl RelayIdentity {
    /// A relay whose identity is the key of its links.
    pub fn on_line(key: SigningKey) -> Self {
        Self {
            identity: RelayId(key.verifying_key().to_bytes()),
            link_key: key,
            certificate: None,
            family_file: None,
        }
    }

    /// A relay whose identity is kept elsewhere. Such a relay has a link key, and the certificate of that key in the
    /// file at `path` on `disk`.
    ///
    /// # Errors
    /// [`RelayIdentityError`] if the certificate cannot be used; also if it has expired at `now`.
    pub fn off_line(
        disk: &Disk,
        link_key: SigningKey,
        path: PathBuf,
        network: &NetworkId,
        now: UnixSecs,
    ) -> Result<Self, RelayIdentityError> {
        let file = OwnersFile::new(disk, path);
        let certificate = file.certificate(network, &link_key.verifying_key().to_bytes())?;
        if certificate.cert.not_after <= now {
            return Err(RelayIdentityError::Expired { path: file.path });
        }
        Ok(Self {
            identity: certificate.identity,
            link_key,
            certificate: Some((file, certificate)),
            family_file: None,
        })
    }

    /// Makes the relay a member of the family that the file at `path` on `disk` names, as long as there is such a file.
    pub fn with_family_file(mut self, disk: &Disk, path: PathBuf) -> Self {
        self.family_file = Some(OwnersFile::new(disk, path));
        self
    }

    /// The relay's identity.
    pub fn identity(&self) -> RelayId {
        self.identity
    }

    /// The key that the relay proves on links and signs descriptors with.
    pub fn link_key(&self) -> &SigningKey {
        &self.link_key
    }

    /// The certificate of the link key; `None` if the link key is the identity.
    pub fn certificate(&self) -> Option<&LinkCertificate> {
        self.certificate
            .as_ref()
            .map(|(_, certificate)| certificate)
    }

    /// The certificate for the descriptor.
    pub(crate) fn key_cert(&self) -> Option<KeyCert> {
        self.certificate()
            .map(|certificate| certificate.cert.clone())
    }

    /// Takes the certificate in the file if it is valid for longer than the one held. Returns whether it was.
    ///
    /// # Errors
    /// [`RelayIdentityError`] if the file cannot be used; the certificate held stays.
    pub(crate) fn renew(&mut self, network: &NetworkId) -> Result<bool, RelayIdentityError> {
        let own = self.link_key.verifying_key().to_bytes();
        let Some((file, held)) = &mut self.certificate else {
            return Ok(false);
        };
        let found = file.certificate(network, &own)?;
        if found.identity != self.identity {
            let found = found.identity.0;
            return Err(file.not_ours("the identity", found, self.identity.0));
        }
        let is_longer = found.cert.not_after > held.cert.not_after;
        if is_longer {
            *held = found;
        }
        Ok(is_longer)
    }

    /// The family that the relay's file names now; `None` if there is no such file.
    ///
    /// # Errors
    /// [`RelayIdentityError`] if the file cannot be used.
    pub(crate) fn family(
        &self,
        network: &NetworkId,
    ) -> Result<Option<FamilyMembership>, RelayIdentityError> {
        let Some(file) = &self.family_file else {
            return Ok(None);
        };
        let text = match file.read() {
            Err(absent) if absent.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|source| file.unreadable(source))?,
        };
        let family = FamilyFile::parse(&text, network).map_err(|error| file.invalid(error))?;
        if family.identity != self.identity {
            let found = family.identity.0;
            return Err(file.not_ours("the identity", found, self.identity.0));
        }
        Ok(Some(family.membership))
    }
}

impl OwnersFile {
    fn new(disk: &Disk, path: PathBuf) -> Self {
        let disk = disk.clone();
        Self { disk, path }
    }

    /// Reads the text, up to one byte more than any good file has.
    fn read(&self) -> std::io::Result<String> {
        let limit = MAX_KEY_FILE_BYTES as u64 + 1;
        self.disk.read_text(&self.path, limit)
    }

    /// The certificate of `link_key` that the file holds.
    fn certificate(
        &self,
        network: &NetworkId,
        link_key: &[u8; 32],
    ) -> Result<LinkCertificate, RelayIdentityError> {
        let text = self.read().map_err(|source| self.unreadable(source))?;
        let found = LinkCertificate::parse(&text, network).map_err(|error| self.invalid(error))?;
        if found.cert.key != *link_key {
            return Err(self.not_ours("the link key", found.cert.key, *link_key));
        }
        Ok(found)
    }

    fn unreadable(&self, source: std::io::Error) -> RelayIdentityError {
        let path = self.path.clone();
        RelayIdentityError::Unreadable { path, source }
    }

    fn invalid(&self, error: KeyFileError) -> RelayIdentityError {
        let path = self.path.clone();
        RelayIdentityError::Invalid { path, error }
    }

    fn not_ours(&self, what: &'static str, found: [u8; 32], own: [u8; 32]) -> RelayIdentityError {
        RelayIdentityError::NotOurs {
            path: self.path.clone(),
            what,
            found: RelayId(found).to_string(),
            own: RelayId(own).to_string(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cepa_common::testkit::link_key as key;
    use std::path::Path;

    use super::*;

    const NETWORK: NetworkId = NetworkId([7; 32]);

    fn write(path: &Path, identity: u8, link: u8, not_after: u64) {
        let identity = key(identity);
        let link = key(link).verifying_key().to_bytes();
        let certificate = LinkCertificate {
            identity: RelayId(identity.verifying_key().to_bytes()),
            made: 0,
            cert: KeyCert::new(&identity, &NETWORK, link, not_after),
        };
        std::fs::write(path, certificate.to_toml(&NETWORK)).unwrap();
    }

    #[test]
    fn a_certificate_is_taken_when_it_fits_and_lives_longer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("certificate");
        let load = |now| RelayIdentity::off_line(&Disk::Real, key(1), path.clone(), &NETWORK, now);
        assert!(matches!(
            load(0),
            Err(RelayIdentityError::Unreadable { .. })
        ));
        write(&path, 2, 3, 1_000);
        assert!(matches!(load(0), Err(RelayIdentityError::NotOurs { .. })));
        write(&path, 2, 1, 1_000);
        assert!(matches!(
            load(1_000),
            Err(RelayIdentityError::Expired { .. })
        ));
        let mut held = load(999).unwrap();
        assert_eq!(held.identity().0, key(2).verifying_key().to_bytes());
        assert!(!held.renew(&NETWORK).unwrap());
        write(&path, 2, 1, 2_000);
        assert!(held.renew(&NETWORK).unwrap());
        // An older certificate, one of another identity, and garbage change nothing.
        write(&path, 2, 1, 1_500);
        assert!(!held.renew(&NETWORK).unwrap());
        write(&path, 4, 1, 9_000);
        assert!(matches!(
            held.renew(&NETWORK),
            Err(RelayIdentityError::NotOurs { .. })
        ));
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(
            held.renew(&NETWORK),
            Err(RelayIdentityError::Invalid { .. })
        ));
        assert_eq!(held.certificate().unwrap().cert.not_after, 2_000);
    }

    #[test]
    fn a_family_file_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("family");
        let relay = RelayIdentity::on_line(key(1)).with_family_file(&Disk::Real, path.clone());
        assert_eq!(relay.family(&NETWORK).unwrap(), None);
        let write = |identity: RelayId| {
            let membership = FamilyMembership::new(&key(9), &NETWORK, &identity);
            let file = FamilyFile {
                identity,
                membership,
            };
            std::fs::write(&path, file.to_toml(&NETWORK)).unwrap();
        };
        write(relay.identity());
        let family = relay.family(&NETWORK).unwrap().unwrap();
        assert_eq!(family.key, key(9).verifying_key().to_bytes());
        write(RelayId(key(2).verifying_key().to_bytes()));
        assert!(matches!(
            relay.family(&NETWORK),
            Err(RelayIdentityError::NotOurs { .. })
        ));
    }
}
