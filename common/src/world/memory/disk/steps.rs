//! The calls that programs make of the disk. Each is a step.

use std::io;
use std::path::{Path, PathBuf};

use super::super::super::disk::{DirEntry, EntryKind, GivenDisk, GivenFile, Lock, Locked, Status};
use super::{Change, MemoryDisk, is_root, parent};

/// A write takes at most half of what it is given, but at least this number of bytes. So there is a step between two
/// parts of a file at which the disk can crash.
const SHORT_WRITE_BYTES: usize = 20;

impl GivenDisk for MemoryDisk {
    fn create(&self, path: &Path, mode: u32) -> io::Result<Box<dyn GivenFile>> {
        let now_ms = self.clock.now_ms();
        let mut state = self.step()?;
        state.check_free(path)?;
        let inode = state.add(EntryKind::File, mode, now_ms);
        state.change(Change::Name(path.to_owned(), inode));
        let disk = self.clone();
        Ok(Box::new(MemoryFile { disk, inode }))
    }

    fn read_into(&self, path: &Path, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.step()?;
        let bytes = &state.file(path)?.written;
        let read = bytes.len().min(buffer.len());
        buffer[..read].copy_from_slice(&bytes[..read]);
        Ok(read)
    }

    fn overwrite(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let now_ms = self.clock.now_ms();
        let mut state = self.step()?;
        state.file(path)?;
        let number = state.number(path)?;
        if let Some(inode) = state.inodes.get_mut(&number) {
            let there = inode.written.len().max(bytes.len());
            inode.written.resize(there, 0);
            inode.written[..bytes.len()].copy_from_slice(bytes);
            inode.synced = false;
            inode.modified_ms = now_ms;
        }
        drop(state);
        // Between the write and its sync there may be a crash.
        let mut state = self.step()?;
        if let Some(inode) = state.inodes.get_mut(&number) {
            inode.synced = true;
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        let inode = state.number(from)?;
        if state.is_directory(to) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !state.is_directory(parent(to)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // If both names are names of one file, nothing happens, as POSIX says.
        if state.number(to).ok() != Some(inode) {
            state.change(Change::Move(from.to_owned(), to.to_owned(), inode));
        }
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        state.file(from)?;
        let inode = state.number(from)?;
        state.check_free(to)?;
        state.change(Change::Name(to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        state.file(path)?;
        state.change(Change::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        if !state.is_directory(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let pending = std::mem::take(&mut state.pending);
        let (done, left): (Vec<_>, Vec<_>) = pending
            .into_iter()
            .partition(|change| same_directory(change.directory(), dir));
        for change in done {
            change.apply(&mut state.lasting);
        }
        state.pending = left;
        state.forget_nameless();
        Ok(())
    }

    fn create_dirs(&self, path: &Path, mode: u32) -> io::Result<()> {
        let now_ms = self.clock.now_ms();
        let mut state = self.step()?;
        let missing: Vec<_> = path
            .ancestors()
            .take_while(|above| !state.is_directory(above))
            .collect();
        for above in missing.into_iter().rev() {
            state.check_free(above)?;
            let inode = state.add(EntryKind::Directory, mode, now_ms);
            state.change(Change::Name(above.to_owned(), inode));
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.step()?;
        if !state.is_directory(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state
            .names
            .iter()
            .filter(|(path, _)| parent(path) == dir && !is_root(path));
        let entries = inside.filter_map(|(path, inode)| {
            Some(DirEntry {
                name: path.file_name()?.to_owned(),
                kind: state.inodes.get(inode)?.kind,
            })
        });
        Ok(entries.collect())
    }

    fn status(&self, path: &Path) -> io::Result<Status> {
        let state = self.step()?;
        if is_root(path) {
            return Ok(Status {
                bytes: 0,
                mode: 0o755,
                modified: None,
            });
        }
        let inode = state.inode(path)?;
        Ok(Status {
            bytes: inode.written.len() as u64,
            mode: inode.mode,
            modified: Some(inode.modified_ms / 1_000),
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Locked> {
        let now_ms = self.clock.now_ms();
        let mut state = self.step()?;
        if state.locks.contains_key(path) {
            return Ok(Locked::Taken(None));
        }
        if state.number(path).is_err() {
            state.check_free(path)?;
            let inode = state.add(EntryKind::File, 0o600, now_ms);
            state.change(Change::Name(path.to_owned(), inode));
        }
        let number = state.next_lock;
        state.next_lock += 1;
        state.locks.insert(path.to_owned(), number);
        let (disk, path) = (self.clone(), path.to_owned());
        Ok(Locked::Held(Lock::new(MemoryLock { disk, path, number })))
    }
}

/// Is this the same directory? The directory that relative paths begin in has two names.
fn same_directory(one: &Path, other: &Path) -> bool {
    let plain = |path: &Path| path != Path::new("") && path != Path::new(".");
    one == other || (!plain(one) && !plain(other))
}

/// An open file.
struct MemoryFile {
    disk: MemoryDisk,
    inode: u64,
}

impl GivenFile for MemoryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let now_ms = self.disk.clock.now_ms();
        let mut state = self.disk.step()?;
        state.check_space()?;
        let taken = bytes
            .len()
            .min(SHORT_WRITE_BYTES.max(bytes.len().div_ceil(2)));
        let inode = state.inodes.get_mut(&self.inode);
        let inode = inode.ok_or(io::ErrorKind::NotFound)?;
        inode.written.extend_from_slice(&bytes[..taken]);
        inode.synced = false;
        inode.modified_ms = now_ms;
        Ok(taken)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.step()?;
        if let Some(inode) = state.inodes.get_mut(&self.inode) {
            inode.synced = true;
        }
        Ok(())
    }
}

/// A lock that is held. After a crash the lock may be another holder's.
struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
    number: u64,
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.locks.get(&self.path) == Some(&self.number) {
            state.locks.remove(&self.path);
        }
    }
}
