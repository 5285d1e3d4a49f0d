//! Documents on disk, with the generation before kept (S38).
//!
//! A record is `"cepa record"`, the format (1), the length of the kind's name and that name, the body, and SHA-256 over
//! everything before.
//!
//! To save a record, a temporary file is filled first, then the record that is there gets the second name `NAME.old`,
//! and then the temporary file is renamed: at every moment `NAME` is whole. Only a sound record becomes `NAME.old`, so
//! that a damaged one cannot push out the last good one. Loading falls back to `NAME.old` if `NAME` is damaged. Only a
//! failing disk can have damaged it: no crash of this program does.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::StateError;
use super::file::{Temporary, fill_temporary, sync_parent, temporary_name};
use crate::world::Disk;

const MAGIC: &[u8] = b"cepa record";
const FORMAT: u8 = 1;
const SUM_LEN: usize = 32;
/// Size of the largest file that is read when its successor is saved, in bytes. This program writes no larger file.
const MAX_FILE: u64 = 64 << 20;

/// Which of the two files a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// The newest record that was saved.
    Current,
    /// The record before, because the newest is damaged or gone. That is worth a warning.
    Previous,
}

/// Saves `body` at `path` as a record of `kind` (a short name of at most 255 bytes), and keeps the record that was
/// there as `PATH.old`.
///
/// When this returns, the record is on the disk and not only on its way there.
///
/// # Errors
/// [`StateError`], with [`StateError::Newer`] if a newer program wrote the old record. The old record is then still
/// there.
pub fn save(disk: &Disk, path: &Path, kind: &'static str, body: &[u8]) -> Result<(), StateError> {
    let current = sound(disk, path)?;
    let new = fill_temporary(disk, path, &encode(kind, body), 0o600)?;
    if let Some(bytes) = current {
        keep(disk, path, &bytes)?;
    }
    disk.rename(new.path(), path)
        .map_err(|source| StateError::io("replace", path, source))?;
    new.gone();
    sync_parent(disk, path)
}

/// The bytes of the file at `path` if it is a sound record of any kind.
fn sound(disk: &Disk, path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    let bytes = match disk.read(path, MAX_FILE) {
        Ok(bytes) => bytes,
        Err(absent) if absent.kind() == ErrorKind::NotFound => return Ok(None),
        // A file that cannot be read is not worth keeping, but it is worth replacing.
        Err(_) => return Ok(None),
    };
    match parts(path, &bytes) {
        Ok(_) => Ok(Some(bytes)),
        Err(newer @ StateError::Newer { .. }) => Err(newer),
        Err(_) => Ok(None),
    }
}

/// Makes the sound record at `path`, which has these `bytes`, the previous generation too.
fn keep(disk: &Disk, path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let second = temporary_name(path);
    let second = match disk.link(path, &second) {
        Ok(()) => Temporary::at(disk, second),
        // Not every file system has links. A copy serves as well, but costs a write.
        Err(_) => fill_temporary(disk, path, bytes, 0o600)?,
    };
    // If both names are names of one file already, as after a save that failed late, the rename does nothing and leaves
    // the second name, which is removed when `second` is dropped.
    disk.rename(second.path(), &old(path))
        .map_err(|source| StateError::io("keep the previous", path, source))
}

/// Loads the record of `kind` at `path`, with a body of at most `max_len` bytes; `None` if there is none yet.
///
/// If the file is damaged, the generation before is loaded, with a warning. If the file has a newer format, the
/// generation before is not loaded: what a newer program decided must not be undone.
pub fn load(
    disk: &Disk,
    path: &Path,
    kind: &'static str,
    max_len: usize,
) -> Result<Option<(Vec<u8>, Generation)>, StateError> {
    let broken = match read(disk, path, kind, max_len) {
        Ok(Some(body)) => return Ok(Some((body, Generation::Current))),
        Ok(None) => None,
        Err(damaged @ (StateError::Damaged { .. } | StateError::Io { action: "read", .. })) => {
            Some(damaged)
        }
        Err(other) => return Err(other),
    };
    let before = read(disk, &old(path), kind, max_len);
    if let Ok(Some(body)) = before {
        let why = broken.map_or_else(|| "it is gone".to_owned(), |error| error.to_string());
        tracing::warn!(
            file = %path.display(), why,
            "a state file is lost; the one saved before it is used, so its last change is forgotten"
        );
        return Ok(Some((body, Generation::Previous)));
    }
    match (before, broken) {
        (_, Some(damaged)) => Err(damaged),
        (Err(error), None) => Err(error),
        (Ok(_), None) => Ok(None),
    }
}

/// The path `PATH.old`.
fn old(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

fn encode(kind: &'static str, body: &[u8]) -> Vec<u8> {
    let kind = kind.as_bytes();
    let kind = &kind[..kind.len().min(usize::from(u8::MAX))];
    let mut bytes = Vec::with_capacity(MAGIC.len() + 2 + kind.len() + body.len() + SUM_LEN);
    bytes.extend_from_slice(MAGIC);
    bytes.push(FORMAT);
    bytes.push(u8::try_from(kind.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(kind);
    bytes.extend_from_slice(body);
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

fn read(
    disk: &Disk,
    path: &Path,
    kind: &'static str,
    max_len: usize,
) -> Result<Option<Vec<u8>>, StateError> {
    let limit = (MAGIC.len() + 2 + kind.len() + SUM_LEN).saturating_add(max_len);
    // One byte more than the limit is read, to tell "too long" from "just fits".
    let up_to = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let bytes = match disk.read(path, up_to) {
        Ok(bytes) => bytes,
        Err(absent) if absent.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::io("read", path, source)),
    };
    if bytes.len() > limit {
        return Err(StateError::damaged(path, "it is too long"));
    }
    decode(path, kind, &bytes).map(|body| Some(body.to_owned()))
}

fn decode<'a>(path: &Path, kind: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], StateError> {
    let (found, body) = parts(path, bytes)?;
    if found != kind.as_bytes() {
        return Err(StateError::WrongKind {
            path: path.to_owned(),
            found: String::from_utf8_lossy(found).escape_debug().to_string(),
            wanted: kind,
        });
    }
    Ok(body)
}

/// The kind and the body of a sound record.
fn parts<'a>(path: &Path, bytes: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), StateError> {
    let short = || StateError::damaged(path, "it is too short");
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| StateError::damaged(path, "it does not begin like a record"))?;
    let (&format, rest) = rest.split_first().ok_or_else(short)?;
    let fits = rest.split_last_chunk::<SUM_LEN>().filter(|(rest, sum)| {
        let digest = Sha256::new().chain_update(MAGIC).chain_update([FORMAT]);
        digest.chain_update(rest).finalize().as_slice() == *sum
    });
    // A record of this format with a flipped bit in the format's byte is damaged, not newer.
    if format > FORMAT && fits.is_none() {
        return Err(StateError::Newer {
            path: path.to_owned(),
            found: format,
            known: FORMAT,
        });
    }
    if rest.len() < SUM_LEN {
        return Err(short());
    }
    let (rest, _) = fits
        .filter(|_| format == FORMAT)
        .ok_or_else(|| StateError::damaged(path, "its checksum does not agree"))?;
    rest.split_first()
        .and_then(|(&len, rest)| rest.split_at_checked(usize::from(len)))
        .ok_or_else(short)
}
