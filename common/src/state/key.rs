//! Secret keys on disk.
//!
//! A key file has 52 bytes: `"cepa key"`, the format (1), the kind, two zero bytes, 32 bytes of secret, and the first 8
//! bytes of SHA-256 over everything before. The checksum finds a damaged disk. The checksum does not find an attacker:
//! whoever can write the file can write the checksum too.

use std::io::ErrorKind;
use std::path::Path;

use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::error::StateError;
use super::file::{sync_parent, write_new};
use super::trust::{Trust, check_file};
use crate::secret::Secret;
use crate::world::Disk;

const MAGIC: [u8; 8] = *b"cepa key";
const FORMAT: u8 = 1;
const SECRET_AT: usize = 12;
const SUM_AT: usize = SECRET_AT + 32;
pub(super) const FILE_LEN: usize = SUM_AT + 8;

/// What a key is for. A file of one kind is never taken for a file of another kind, whatever its name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Ed25519 seed of a peer's identity, the key of its links and descriptors.
    Identity,
    /// Ed25519 seed with which an authority signs votes and consensuses.
    Authority,
    /// X25519 secret that circuit handshakes are made to.
    Onion,
    /// Ed25519 seed of a key for links and descriptors whose identity is kept elsewhere.
    Link,
    /// Ed25519 seed of a family of relays.
    Family,
}

impl KeyKind {
    /// The kind's number in the file.
    fn code(self) -> u8 {
        match self {
            Self::Identity => 1,
            Self::Authority => 2,
            Self::Onion => 3,
            Self::Link => 5,
            Self::Family => 6,
        }
    }

    /// The kind's name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity key",
            Self::Authority => "authority signing key",
            Self::Onion => "onion key",
            Self::Link => "link key",
            Self::Family => "family key",
        }
    }

    /// The name of the kind with this number.
    fn name_of(code: u8) -> String {
        [
            Self::Identity,
            Self::Authority,
            Self::Onion,
            Self::Link,
            Self::Family,
        ]
        .into_iter()
        .find(|kind| kind.code() == code)
        .map_or_else(
            || format!("key of unknown kind {code}"),
            |kind| kind.name().to_owned(),
        )
    }
}

/// The secret in `dir/name`. If there is no such file, a secret is drawn from `rng` and written (mode 0600).
///
/// The caller should have checked `dir` by [`super::make_private_dir`]. A file that is there and cannot be used is an
/// error and is never replaced: only its owner can decide that an identity is lost.
pub fn load_or_create_key(
    disk: &Disk,
    dir: &Path,
    name: &str,
    kind: KeyKind,
    trust: Trust,
    rng: &mut impl CryptoRng,
) -> Result<Secret<32>, StateError> {
    let path = dir.join(name);
    match load_key(disk, &path, kind, trust) {
        Err(StateError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            create_key(disk, &path, kind, rng)
        }
        found => found,
    }
}

/// Draws a new secret from `rng` and writes it to the file at `path` (mode 0600), which must not be there yet.
///
/// The caller chooses the directory; it may be on a memory stick. Nothing is ever written over a key.
pub fn create_key(
    disk: &Disk,
    path: &Path,
    kind: KeyKind,
    rng: &mut impl CryptoRng,
) -> Result<Secret<32>, StateError> {
    let mut secret = Secret::zeroed();
    rng.fill_bytes(secret.expose_mut());
    write_new(disk, path, encode(kind, &secret).as_slice(), 0o600)?;
    Ok(secret)
}

/// Erases the key file at `path`: its bytes, as far as the disk allows that, then its name. A missing file is no error.
pub fn erase_key(disk: &Disk, path: &Path) -> Result<(), StateError> {
    let overwritten = disk.overwrite(path, &[0; FILE_LEN]);
    match overwritten.and_then(|()| disk.remove(path)) {
        Ok(()) => sync_parent(disk, path),
        Err(absent) if absent.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(StateError::io("erase", path, source)),
    }
}

/// Writes `secret` (mode 0600) to `dir/name`, which must not be there.
///
/// # Errors
/// [`StateError`] if the file cannot be written; a key that is there is never replaced.
pub fn save_key(
    disk: &Disk,
    dir: &Path,
    name: &str,
    kind: KeyKind,
    secret: &Secret<32>,
) -> Result<(), StateError> {
    let path = dir.join(name);
    write_new(disk, &path, encode(kind, secret).as_slice(), 0o600)
}

/// Reads the secret in the file at `path`. The file must be of `kind`, and as closed to others as `trust` says.
pub fn load_key(
    disk: &Disk,
    path: &Path,
    kind: KeyKind,
    trust: Trust,
) -> Result<Secret<32>, StateError> {
    // One byte more than a key file has, to tell "too long" from "just fits".
    let mut bytes = Zeroizing::new([0; FILE_LEN + 1]);
    let read = disk.read_into(path, bytes.as_mut_slice());
    let read = read.map_err(|source| StateError::io("read", path, source))?;
    check_file(disk, path, trust)?;
    match (read, bytes.first_chunk()) {
        (FILE_LEN, Some(bytes)) => decode(path, kind, bytes),
        (0..FILE_LEN, _) => Err(StateError::damaged(path, "it is too short")),
        _ => Err(StateError::damaged(path, "it is too long")),
    }
}

fn encode(kind: KeyKind, secret: &Secret<32>) -> Zeroizing<[u8; FILE_LEN]> {
    let mut bytes = Zeroizing::new([0; FILE_LEN]);
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    bytes[8] = FORMAT;
    bytes[9] = kind.code();
    bytes[SECRET_AT..SUM_AT].copy_from_slice(secret.expose());
    let sum = checksum(&bytes);
    bytes[SUM_AT..].copy_from_slice(&sum);
    bytes
}

pub(super) fn decode(
    path: &Path,
    kind: KeyKind,
    bytes: &[u8; FILE_LEN],
) -> Result<Secret<32>, StateError> {
    if bytes[..MAGIC.len()] != MAGIC {
        return Err(StateError::damaged(
            path,
            "it does not begin like a key file",
        ));
    }
    // The format is read first: only a format that this program knows says where its checksum is.
    if bytes[8] > FORMAT {
        return Err(StateError::Newer {
            path: path.to_owned(),
            found: bytes[8],
            known: FORMAT,
        });
    }
    if bytes[8] != FORMAT || bytes[10..SECRET_AT] != [0, 0] || bytes[SUM_AT..] != checksum(bytes) {
        return Err(StateError::damaged(path, "its checksum does not agree"));
    }
    if bytes[9] != kind.code() {
        return Err(StateError::WrongKind {
            path: path.to_owned(),
            found: KeyKind::name_of(bytes[9]),
            wanted: kind.name(),
        });
    }
    let mut secret = Secret::zeroed();
    secret
        .expose_mut()
        .copy_from_slice(&bytes[SECRET_AT..SUM_AT]);
    Ok(secret)
}

/// The first 8 bytes of SHA-256 over everything before the checksum.
fn checksum(bytes: &[u8; FILE_LEN]) -> [u8; 8] {
    let mut digest = Sha256::digest(&bytes[..SUM_AT]);
    let mut sum = [0; 8];
    sum.copy_from_slice(&digest[..8]);
    digest.as_mut_slice().zeroize();
    sum
}
