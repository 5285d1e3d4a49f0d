//! Secret keys on disk.
//!
//! A key file is 52 bytes: `"cepa key"`, the format (1), the kind, two zero
//! bytes, 32 bytes of secret, and the first 8 bytes of SHA-256 over all before.
//! The checksum finds a damaged disk, not an attacker: who can write the file
//! can write the checksum too.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::{StateError, Trust, mistrust, write_whole};
use crate::secret::Secret;

const MAGIC: [u8; 8] = *b"cepa key";
const FORMAT: u8 = 1;
const SECRET_AT: usize = 12;
const SUM_AT: usize = SECRET_AT + 32;
const FILE_LEN: usize = SUM_AT + 8;

/// What a key is for. A file of one kind is never taken for another, however it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Ed25519 seed of a peer's identity, the key of its links and descriptors.
    Identity,
    /// Ed25519 seed with which an authority signs votes and consensuses.
    Authority,
    /// X25519 secret that circuit handshakes are made to.
    Onion,
}

impl KeyKind {
    /// The kind's number in the file.
    fn code(self) -> u8 {
        match self {
            Self::Identity => 1,
            Self::Authority => 2,
            Self::Onion => 3,
        }
    }

    /// The kind's name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity key",
            Self::Authority => "authority signing key",
            Self::Onion => "onion key",
        }
    }

    /// The name of the kind with this number.
    fn name_of(code: u8) -> String {
        [Self::Identity, Self::Authority, Self::Onion]
            .into_iter()
            .find(|kind| kind.code() == code)
            .map_or_else(
                || format!("key of unknown kind {code}"),
                |kind| kind.name().to_owned(),
            )
    }
}

/// The secret in `dir/name`; made with `rng` and written (mode 0600) where no such file exists.
///
/// `dir` should be one that [`super::make_private_dir`] has checked. A file that
/// is there and cannot be used is an error, never replaced: a lost identity is
/// its owner's decision.
pub fn load_or_create_key(
    dir: &Path,
    name: &str,
    kind: KeyKind,
    trust: Trust,
    rng: &mut impl CryptoRng,
) -> Result<Secret<32>, StateError> {
    let path = dir.join(name);
    match load_key(&path, kind, trust) {
        Err(StateError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            let mut secret = Secret::zeroed();
            rng.fill_bytes(secret.expose_mut());
            write_whole(&path, encode(kind, &secret).as_slice(), 0o600)?;
            Ok(secret)
        }
        found => found,
    }
}

/// Writes `secret` (mode 0600) to `dir/name`, which must not be there.
///
/// # Errors
/// [`StateError`]; a key that is there is never replaced.
pub fn save_key(
    dir: &Path,
    name: &str,
    kind: KeyKind,
    secret: &Secret<32>,
) -> Result<(), StateError> {
    let path = dir.join(name);
    if path.exists() {
        let there = ErrorKind::AlreadyExists.into();
        return Err(StateError::io("create", &path, there));
    }
    write_whole(&path, encode(kind, secret).as_slice(), 0o600)
}

/// The secret in the file at `path`, which must be of `kind` and as closed to others as `trust` says.
pub fn load_key(path: &Path, kind: KeyKind, trust: Trust) -> Result<Secret<32>, StateError> {
    let mut file = File::open(path).map_err(|source| StateError::io("open", path, source))?;
    mistrust(trust)?
        .verifier()
        .require_file()
        .check(path)
        .map_err(|source| StateError::exposed(path, source))?;
    let mut bytes = Zeroizing::new([0; FILE_LEN]);
    match file.read_exact(bytes.as_mut_slice()) {
        Ok(()) => {}
        Err(short) if short.kind() == ErrorKind::UnexpectedEof => {
            return Err(StateError::damaged(path, "it is too short"));
        }
        Err(source) => return Err(StateError::io("read", path, source)),
    }
    match file.read(&mut [0]) {
        Ok(0) => decode(path, kind, &bytes),
        Ok(_) => Err(StateError::damaged(path, "it is too long")),
        Err(source) => Err(StateError::io("read", path, source)),
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

fn decode(path: &Path, kind: KeyKind, bytes: &[u8; FILE_LEN]) -> Result<Secret<32>, StateError> {
    if bytes[..MAGIC.len()] != MAGIC {
        return Err(StateError::damaged(
            path,
            "it does not begin like a key file",
        ));
    }
    // The format comes first: only a format that we know says where its checksum is.
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
