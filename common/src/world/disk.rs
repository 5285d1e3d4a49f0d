//! Where a node keeps its state: the disk of this machine, or one that was given in its place.
//!
//! [`Disk`] is an enum of two variants, as [`super::Sockets`] is. Each call looks once which variant the disk is. A
//! simulated disk implements [`GivenDisk`] and [`GivenFile`]. All calls block: they belong where blocking work is done
//! ([`super::blocking`]).

use core::any::Any;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::kind::{Kind, kind};
use crate::dir::UnixSecs;

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A link, which is not followed, or a thing of another kind.
    Other,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The entry's name in the directory.
    pub name: OsString,
    /// What kind of entry it is.
    pub kind: EntryKind,
}

/// What is known about a file or a directory without its content. A link is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Number of bytes in the file.
    pub bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// When the file was last written; `None` if the disk does not know.
    pub modified: Option<UnixSecs>,
}

/// A lock that was tried.
#[derive(Debug)]
pub enum Locked {
    /// The lock is held until the value is dropped.
    Held(Lock),
    /// Somebody else holds the lock: the process that the lock's file names, if the file names one.
    Taken(Option<u32>),
}

/// A lock that is held until this value is dropped or the process ends, however it ends.
pub struct Lock(#[expect(dead_code, reason = "it is held, not read")] Box<dyn Any + Send + Sync>);

impl Lock {
    /// A lock that ends when `held` is dropped.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self(Box::new(held))
    }
}

impl core::fmt::Debug for Lock {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Lock")
    }
}

/// A disk in place of this machine's. [`Disk`] says what each call does; the calls fail with the errors of a system.
pub trait GivenDisk: Send + Sync {
    /// As [`Disk::create`].
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn GivenFile>>;
    /// As [`Disk::read_into`].
    fn read_into(&self, path: &Path, buffer: &mut [u8]) -> io::Result<usize>;
    /// As [`Disk::overwrite`].
    fn overwrite(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// As [`Disk::rename`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// As [`Disk::link`].
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// As [`Disk::remove`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// As [`Disk::sync_dir`].
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// As [`Disk::create_dirs`].
    fn create_dirs(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// As [`Disk::list`].
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// As [`Disk::status`].
    fn status(&self, path: &Path) -> io::Result<Status>;
    /// As [`Disk::lock`].
    fn lock(&self, path: &Path) -> io::Result<Locked>;
}

/// A file of a given disk that is being filled.
pub trait GivenFile: Send + Sync {
    /// As [`File::write`].
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// As [`File::sync`].
    fn sync(&self) -> io::Result<()>;
}

/// What a node reads and writes state with.
#[derive(Clone, Default)]
pub enum Disk {
    /// The disk of this machine. In a simulated process each call fails with [`NoRealDisk`].
    #[default]
    Real,
    /// Another disk.
    Given(Arc<dyn GivenDisk>),
}

impl core::fmt::Debug for Disk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Real => "Real",
            Self::Given(_) => "Given",
        })
    }
}

/// A simulated process has asked for the disk of this machine. The keys of such a process are no secrets, so they must
/// not get onto the disk, and what the process reads there would be different in the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a simulated process has no real disk")]
pub struct NoRealDisk;

impl NoRealDisk {
    /// Is `error` a [`NoRealDisk`]?
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|source| source.is::<Self>())
    }
}

/// Says that the disk of this machine is about to be used.
fn be_real() -> io::Result<()> {
    match kind() {
        Kind::Real => Ok(()),
        Kind::Simulated => Err(io::Error::other(NoRealDisk)),
    }
}

/// An open file that is being filled.
pub enum File {
    /// A file of this machine.
    Real(fs::File),
    /// A file of another disk.
    Given(Box<dyn GivenFile>),
}

impl core::fmt::Debug for File {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("File")
    }
}

impl File {
    /// Appends the beginning of `bytes`. Returns how many bytes were appended.
    ///
    /// # Errors
    /// The system's error.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Real(file) => file.write(bytes),
            Self::Given(file) => file.write(bytes),
        }
    }

    /// Makes the content durable.
    ///
    /// # Errors
    /// The system's error.
    pub fn sync(&self) -> io::Result<()> {
        match self {
            Self::Real(file) => file.sync_all(),
            Self::Given(file) => file.sync(),
        }
    }
}

impl Disk {
    /// Creates a file with permission bits `mode`.
    ///
    /// # Errors
    /// The system's error; `AlreadyExists` if there is anything of this name.
    pub fn create(&self, path: &Path, mode: u32) -> io::Result<File> {
        if let Self::Given(disk) = self {
            return disk.create(path, mode).map(File::Given);
        }
        be_real()?;
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(mode).open(path)?;
        // The process's umask may have taken bits away that readers need.
        file.set_permissions(PermissionsExt::from_mode(mode))?;
        Ok(File::Real(file))
    }

    /// Reads the beginning of a file until `buffer` is full or the file ends. Returns how many bytes were read. Nothing
    /// keeps a copy of them, so that the buffer may be for secrets.
    ///
    /// # Errors
    /// The system's error.
    pub fn read_into(&self, path: &Path, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Given(disk) = self {
            return disk.read_into(path, buffer);
        }
        be_real()?;
        let mut file = fs::File::open(path)?;
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(again) if again.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Reads the first `limit` bytes of a file.
    ///
    /// # Errors
    /// The system's error.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Self::Given(disk) = self {
            let there = disk.status(path)?.bytes.min(limit);
            bytes.resize(usize::try_from(there).unwrap_or(usize::MAX), 0);
            let read = disk.read_into(path, &mut bytes)?;
            bytes.truncate(read);
            return Ok(bytes);
        }
        be_real()?;
        fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads the first `limit` bytes of a file of text.
    ///
    /// # Errors
    /// The system's error; `InvalidData` if the bytes are not UTF-8.
    pub fn read_text(&self, path: &Path, limit: u64) -> io::Result<String> {
        let bytes = self.read(path, limit)?;
        String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// The permission bits of what is at `path`, links followed, with those that are set beside them.
    ///
    /// # Errors
    /// The disk's error, for example that nothing is there.
    pub fn mode(&self, path: &Path) -> io::Result<u32> {
        if let Self::Given(disk) = self {
            return disk.status(path).map(|status| status.mode);
        }
        be_real()?;
        let mode = fs::metadata(path)?.permissions().mode();
        Ok(mode & 0o7777)
    }

    /// Writes `bytes` over the beginning of a file that is there, and makes them durable.
    ///
    /// # Errors
    /// The system's error.
    pub fn overwrite(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Self::Given(disk) = self {
            return disk.overwrite(path, bytes);
        }
        be_real()?;
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Moves `from` over `to` in one step.
    ///
    /// # Errors
    /// The system's error.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if let Self::Given(disk) = self {
            return disk.rename(from, to);
        }
        be_real()?;
        fs::rename(from, to)
    }

    /// Gives the file `from` the second name `to`.
    ///
    /// # Errors
    /// The system's error; `AlreadyExists` if `to` is not free.
    pub fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        if let Self::Given(disk) = self {
            return disk.link(from, to);
        }
        be_real()?;
        fs::hard_link(from, to)
    }

    /// Removes the name of a file.
    ///
    /// # Errors
    /// The system's error.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        if let Self::Given(disk) = self {
            return disk.remove(path);
        }
        be_real()?;
        fs::remove_file(path)
    }

    /// Makes the names in `dir` durable.
    ///
    /// # Errors
    /// The system's error.
    pub fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if let Self::Given(disk) = self {
            return disk.sync_dir(dir);
        }
        be_real()?;
        fs::File::open(dir)?.sync_all()
    }

    /// Creates the directory `path`, and those above that are missing, with permission bits `mode`. A directory that is
    /// there stays as it is.
    ///
    /// # Errors
    /// The system's error.
    pub fn create_dirs(&self, path: &Path, mode: u32) -> io::Result<()> {
        if let Self::Given(disk) = self {
            return disk.create_dirs(path, mode);
        }
        be_real()?;
        DirBuilder::new().recursive(true).mode(mode).create(path)
    }

    /// The entries of the directory `dir`, in the order of their names. The order of the system is not the same twice.
    ///
    /// # Errors
    /// The system's error.
    pub fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = match self {
            Self::Given(disk) => disk.list(dir)?,
            Self::Real => {
                be_real()?;
                let entry = |entry: io::Result<fs::DirEntry>| {
                    let entry = entry?;
                    let kind = match entry.file_type()? {
                        kind if kind.is_file() => EntryKind::File,
                        kind if kind.is_dir() => EntryKind::Directory,
                        _ => EntryKind::Other,
                    };
                    let name = entry.file_name();
                    Ok(DirEntry { name, kind })
                };
                let entries: io::Result<Vec<_>> = fs::read_dir(dir)?.map(entry).collect();
                entries?
            }
        };
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    /// What is known about the file or directory `path`.
    ///
    /// # Errors
    /// The system's error.
    pub fn status(&self, path: &Path) -> io::Result<Status> {
        if let Self::Given(disk) = self {
            return disk.status(path);
        }
        be_real()?;
        let found = fs::metadata(path)?;
        let modified = found.modified().ok();
        let since = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Ok(Status {
            bytes: found.len(),
            mode: found.permissions().mode() & 0o7777,
            modified: since.map(|since| since.as_secs()),
        })
    }

    /// Is there a file or directory `path`, as far as can be told?
    pub fn exists(&self, path: &Path) -> bool {
        self.status(path).is_ok()
    }

    /// Tries the lock of the file `path`, which is created (mode 0600) if it is missing. The call never waits.
    ///
    /// The file of a lock that is held names this process, for people to read.
    ///
    /// # Errors
    /// The system's error.
    pub fn lock(&self, path: &Path) -> io::Result<Locked> {
        if let Self::Given(disk) = self {
            return disk.lock(path);
        }
        be_real()?;
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).read(true).write(true);
        let mut file = options.mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {
                // A full disk is no reason not to start.
                let _ = file
                    .set_len(0)
                    .and_then(|()| writeln!(file, "{}", std::process::id()));
                Ok(Locked::Held(Lock::new(file)))
            }
            Err(TryLockError::WouldBlock) => Ok(Locked::Taken(holder(&file))),
            Err(TryLockError::Error(source)) => Err(source),
        }
    }
}

/// The process that a lock's file names; `None` if it names none.
fn holder(file: &fs::File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
