//! Countries of addresses, from a file in MaxMind's format that the owner provides.

use core::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cepa_common::world::Disk;
use maxminddb::{MaxMindDbError, PathElement, Reader};

/// Size of the largest file that is read, in bytes. A file with every city of the world is a fifth of that.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// A country: its two letters of ISO 3166-1, in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country([u8; 2]);

impl Country {
    /// The country with this code, in lower or upper case; `None` if the text is no code.
    pub fn parse(code: &str) -> Option<Self> {
        let letters: [u8; 2] = code.to_ascii_lowercase().into_bytes().try_into().ok()?;
        letters
            .iter()
            .all(u8::is_ascii_lowercase)
            .then_some(Self(letters))
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.0.map(char::from);
        write!(f, "{first}{second}")
    }
}

/// Why a GeoIP file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GeoIpError {
    /// The file cannot be read.
    #[error("cannot read the GeoIP file {}: {source}", path.display())]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is too large to be a GeoIP file.
    #[error("{} has {bytes} bytes; a GeoIP file has at most 512 MiB", path.display())]
    TooLarge {
        /// Path of the file.
        path: PathBuf,
        /// Size of the file in bytes.
        bytes: u64,
    },
    /// The file has another format, or is damaged.
    #[error("{} is no GeoIP file in MaxMind's format: {reason}", path.display())]
    Format {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with the content.
        reason: MaxMindDbError,
    },
    /// The file says nothing about countries.
    #[error("{} does not say in which country an address is; it is a database of the type {kind:?}", path.display())]
    NoCountries {
        /// Path of the file.
        path: PathBuf,
        /// The type of database that the file says it is.
        kind: String,
    },
}

/// The owner's GeoIP file in memory. Clones share the memory.
#[derive(Clone)]
pub struct GeoIp(Arc<Reader<Vec<u8>>>);

impl fmt::Debug for GeoIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GeoIp")
            .field(&self.0.metadata().database_type)
            .finish()
    }
}

impl GeoIp {
    /// Reads the whole file at `path` on `disk`. This call blocks on the disk.
    ///
    /// # Errors
    /// [`GeoIpError`] names the file and says what is wrong with it.
    pub fn open(disk: &Disk, path: &Path) -> Result<Self, GeoIpError> {
        let unreadable = |source| GeoIpError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let bytes = disk.status(path).map_err(unreadable)?.bytes;
        if bytes > MAX_FILE_BYTES {
            return Err(GeoIpError::TooLarge {
                path: path.to_owned(),
                bytes,
            });
        }
        let content = disk.read(path, MAX_FILE_BYTES);
        Self::from_bytes(content.map_err(unreadable)?, path)
    }

    /// Takes the content of a file. Errors name the file by `path`.
    ///
    /// # Errors
    /// [`GeoIpError`] if the content cannot be used.
    pub fn from_bytes(content: Vec<u8>, path: &Path) -> Result<Self, GeoIpError> {
        let reader = Reader::from_source(content).map_err(|reason| GeoIpError::Format {
            path: path.to_owned(),
            reason,
        })?;
        let kind = &reader.metadata().database_type;
        // A file about networks or their owners would put every relay into no country, without a word.
        if ["ASN", "ISP", "Domain", "Connection", "Anonymous"]
            .iter()
            .any(|other| kind.contains(other))
        {
            return Err(GeoIpError::NoCountries {
                path: path.to_owned(),
                kind: kind.clone(),
            });
        }
        Ok(Self(Arc::new(reader)))
    }

    /// The country of the address; `None` if the file does not know it.
    pub fn country(&self, address: IpAddr) -> Option<Country> {
        let found = self.0.lookup(address.to_canonical()).ok()?;
        let path = [PathElement::Key("country"), PathElement::Key("iso_code")];
        let code: &str = found.decode_path(&path).ok()??;
        Country::parse(code)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A GeoIP file that tests/reference/mmdb.py wrote.
    fn countries() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/countries.mmdb")
    }

    #[test]
    fn addresses_are_in_the_countries_of_the_file() {
        let geoip = GeoIp::open(&Disk::Real, &countries()).unwrap();
        let country = |ip: &str| geoip.country(ip.parse().unwrap()).map(|c| c.to_string());
        for (ip, expected) in [
            ("192.0.2.1", Some("de")),
            ("::ffff:192.0.2.1", Some("de")),
            ("192.0.3.1", None),
            ("198.51.100.255", Some("ch")),
            ("20.3.255.1", Some("fr")),
            ("2001:db8:ffff::1", Some("nl")),
            ("2001:db9::1", None),
        ] {
            assert_eq!(country(ip).as_deref(), expected, "{ip}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.mmdb");
        let said = || GeoIp::open(&Disk::Real, &path).unwrap_err().to_string();
        assert!(said().starts_with("cannot read the GeoIP file") && said().contains("g.mmdb"));
        std::fs::write(&path, b"not at all").unwrap();
        assert!(said().contains("g.mmdb is no GeoIP file in MaxMind's format"));
        let whole = std::fs::read(countries()).unwrap();
        let text = b"Cepa-Test-Country";
        let at = whole.windows(text.len()).position(|w| w == text).unwrap();
        let mut other = whole;
        other[at..at + text.len()].copy_from_slice(b"Cepa-Test-ASN-ASN");
        std::fs::write(&path, other).unwrap();
        assert!(said().contains("database of the type \"Cepa-Test-ASN-ASN\""));
    }

    proptest! {
        #[test]
        fn a_damaged_file_gives_errors_and_no_panic(
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<prop::sample::Index>(),
            ip in any::<IpAddr>(),
        ) {
            let mut content = std::fs::read(countries()).unwrap();
            let at = at.index(content.len());
            content[at] = byte;
            for content in [content.clone(), content[..cut.index(content.len())].to_vec()] {
                if let Ok(reader) = Reader::from_source(content) {
                    let geoip = GeoIp(Arc::new(reader));
                    for ip in [ip, [192, 0, 2, 1].into(), [20, 3, 0, 1].into()] {
                        let _ = geoip.country(ip);
                    }
                }
            }
        }
    }
}
