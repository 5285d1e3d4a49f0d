//! Documents on disk, with the generation before kept (S38).
//!
//! A record is `"cepa record"`, the format (1), the length of the kind's name
//! and that name, the body, and SHA-256 over all before. Saving moves the
//! record that is there to `NAME.old`; loading falls back to it when the newer
//! one is damaged.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{StateError, write_whole};

const MAGIC: &[u8] = b"cepa record";
const FORMAT: u8 = 1;
const SUM_LEN: usize = 32;

/// Which of the two files a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// The newest that was saved.
    Current,
    /// The one before, because the newest is damaged or gone; worth a warning.
    Previous,
}

/// Saves `body` at `path` as a record of `kind` (a short name, at most 255 bytes) and keeps the
/// record that was there as `PATH.old`.
///
/// When this returns, the record is on the disk, not only on its way there.
pub fn save(path: &Path, kind: &'static str, body: &[u8]) -> Result<(), StateError> {
    match std::fs::rename(path, old(path)) {
        Ok(()) => {}
        Err(absent) if absent.kind() == ErrorKind::NotFound => {}
        Err(source) => return Err(StateError::io("keep the previous", path, source)),
    }
    write_whole(path, &encode(kind, body), 0o600)
}

/// The record of `kind` at `path`, at most `max_len` bytes of body; `None` where there is none yet.
///
/// A damaged file falls back to the generation before. A file of a newer format
/// does not: what a newer program decided must not be undone.
pub fn load(
    path: &Path,
    kind: &'static str,
    max_len: usize,
) -> Result<Option<(Vec<u8>, Generation)>, StateError> {
    let current = read(path, kind, max_len);
    let broken = match current {
        Ok(Some(body)) => return Ok(Some((body, Generation::Current))),
        Ok(None) => None,
        Err(damaged @ StateError::Damaged { .. }) => Some(damaged),
        Err(other) => return Err(other),
    };
    match (read(&old(path), kind, max_len), broken) {
        (Ok(Some(body)), _) => Ok(Some((body, Generation::Previous))),
        (Ok(None), None) => Ok(None),
        (_, Some(damaged)) => Err(damaged),
        (Err(error), None) => Err(error),
    }
}

/// `PATH.old`.
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

fn read(path: &Path, kind: &'static str, max_len: usize) -> Result<Option<Vec<u8>>, StateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(absent) if absent.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::io("open", path, source)),
    };
    let limit = MAGIC.len() + 2 + kind.len() + max_len + SUM_LEN;
    let mut bytes = Vec::new();
    // One byte more than is allowed tells "too long" from "just fits".
    file.take(u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|source| StateError::io("read", path, source))?;
    if bytes.len() > limit {
        return Err(StateError::damaged(path, "it is too long"));
    }
    decode(path, kind, &bytes).map(|body| Some(body.to_owned()))
}

fn decode<'a>(path: &Path, kind: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], StateError> {
    let rest = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| StateError::damaged(path, "it does not begin like a record"))?;
    let (&format, rest) = rest
        .split_first()
        .ok_or_else(|| StateError::damaged(path, "it is too short"))?;
    if format > FORMAT {
        return Err(StateError::Newer {
            path: path.to_owned(),
            found: format,
            known: FORMAT,
        });
    }
    let (signed, sum) = bytes
        .split_last_chunk::<SUM_LEN>()
        .filter(|(signed, _)| signed.len() > MAGIC.len() + 1)
        .ok_or_else(|| StateError::damaged(path, "it is too short"))?;
    if Sha256::digest(signed).as_slice() != sum {
        return Err(StateError::damaged(path, "its checksum does not agree"));
    }
    let rest = &rest[..rest.len() - SUM_LEN];
    let (found, body) = rest
        .split_first()
        .and_then(|(&len, rest)| rest.split_at_checked(usize::from(len)))
        .ok_or_else(|| StateError::damaged(path, "it is too short"))?;
    if found != kind.as_bytes() {
        return Err(StateError::WrongKind {
            path: path.to_owned(),
            found: String::from_utf8_lossy(found).escape_debug().to_string(),
            wanted: kind,
        });
    }
    Ok(body)
}
