//! A disk in memory that crashes: it keeps what was written apart from what was synced, and can be made to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::Clock;
use super::super::disk::{DirEntry, Disk, EntryKind, GivenDisk, GivenFile, Lock, Locked, Status};
use crate::sync::lock;

/// A write takes at most half of what it is given, but at least this number of bytes. So there is a step between two
/// parts of a file at which the disk can crash.
const SHORT_WRITE_BYTES: usize = 20;

/// What happens at the step that is chosen to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes: this step and all later ones fail, until [`MemoryDisk::heal`].
    PowerCut,
    /// This one step fails with the system's error of that number.
    Error(i32),
}

/// What a file holds after a crash if it was written and not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// The file holds all that was written.
    Kept,
    /// The file holds nothing.
    Empty,
    /// The file holds the first half of what was written.
    Half,
    /// The file holds as many zero bytes as bytes were written.
    Zeros,
}

/// A change of a name that a crash may undo.
#[derive(Clone, Debug)]
enum Change {
    Name(PathBuf, u64),
    Move(PathBuf, PathBuf, u64),
    Remove(PathBuf),
}

impl Change {
    /// The directory that has to be synced to make the change durable.
    fn directory(&self) -> &Path {
        let (Self::Name(path, _) | Self::Move(_, path, _) | Self::Remove(path)) = self;
        parent(path)
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Name(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Move(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

/// A file, or a directory, which has no bytes.
#[derive(Clone, Debug)]
struct Inode {
    kind: EntryKind,
    mode: u32,
    written: Vec<u8>,
    synced: bool,
    modified_ms: u64,
}

#[derive(Clone, Debug, Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// Names as programs see them.
    names: BTreeMap<PathBuf, u64>,
    /// Names as a crash leaves them.
    lasting: BTreeMap<PathBuf, u64>,
    /// The changes between the two, in their order.
    pending: Vec<Change>,
    /// The locks that are held, each with the number of its holder.
    locks: BTreeMap<PathBuf, u64>,
    next_lock: u64,
    steps: usize,
    fault: Option<(usize, Fault)>,
    is_dead: bool,
}

/// A disk in memory. Clones are handles on one disk; file times come from the clock that the disk was given.
///
/// Each call of [`Disk`] is a step, and each step can be made to fail. Links to directories are not modelled, nor are
/// users: permission bits are kept and not obeyed.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
    clock: Clock,
}

/// The directory that holds `path`.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Directories that are always there: the root, and the one that relative paths begin in.
fn is_root(path: &Path) -> bool {
    path.parent().is_none() || path == Path::new(".")
}

impl MemoryDisk {
    /// An empty disk on which it is `clock`'s time.
    pub fn new(clock: Clock) -> Self {
        Self {
            state: Arc::default(),
            clock,
        }
    }

    /// The disk for those who read and write state.
    pub fn disk(&self) -> Disk {
        Disk::Given(Arc::new(self.clone()))
    }

    /// Another disk with the content of this one.
    pub fn copy(&self) -> Self {
        Self {
            state: Arc::new(Mutex::new(self.state().clone())),
            clock: self.clock.clone(),
        }
    }

    /// From now on, step `at` (the next is 0) fails in this way.
    pub fn fail_at(&self, at: usize, fault: Fault) {
        let mut state = self.state();
        state.steps = 0;
        state.fault = Some((at, fault));
    }

    /// Ends the fault: the power is back, without a crash. Returns whether the fault was reached.
    pub fn heal(&self) -> bool {
        let mut state = self.state();
        state.is_dead = false;
        let fault = state.fault.take();
        fault.is_some_and(|(at, _)| state.steps > at)
    }

    /// Number of changes of names that a crash may or may not undo.
    pub fn pending(&self) -> usize {
        self.state().pending.len()
    }

    /// Crashes: what was not synced is lost or not, as `unsynced` says, and all locks end. A pending change of a name
    /// has happened if `is_kept` is true for its place in the list.
    pub fn crash(&self, is_kept: impl Fn(usize) -> bool, unsynced: Unsynced) {
        let mut state = self.state();
        let pending = std::mem::take(&mut state.pending);
        for (place, change) in pending.iter().enumerate() {
            if is_kept(place) {
                change.apply(&mut state.lasting);
            }
        }
        for inode in state.inodes.values_mut().filter(|inode| !inode.synced) {
            let half = inode.written.len() / 2;
            match unsynced {
                Unsynced::Kept => {}
                Unsynced::Empty => inode.written.clear(),
                Unsynced::Half => inode.written.truncate(half),
                Unsynced::Zeros => inode.written.fill(0),
            }
            inode.synced = true;
        }
        // What is in a directory is gone with the directory's name. In this order a directory comes before what is in
        // it.
        let mut names: BTreeMap<PathBuf, u64> = BTreeMap::new();
        for (path, inode) in &state.lasting {
            if is_root(parent(path)) || names.contains_key(parent(path)) {
                names.insert(path.clone(), *inode);
            }
        }
        *state = State {
            inodes: std::mem::take(&mut state.inodes),
            next_inode: state.next_inode,
            next_lock: state.next_lock,
            lasting: names.clone(),
            names,
            ..State::default()
        };
        state.forget_nameless();
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }

    /// Puts a file there that is durable at once, in place of whatever was there. A failing disk, an owner with an
    /// editor, and a backup do this without any call.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let now_ms = self.clock.now_ms();
        let mut state = self.state();
        let inode = state.add(EntryKind::File, 0o600, now_ms);
        if let Some(inode) = state.inodes.get_mut(&inode) {
            inode.written = bytes.to_vec();
            inode.synced = true;
        }
        state.names.insert(path.to_owned(), inode);
        state.lasting.insert(path.to_owned(), inode);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Begins a step. Gives the state if the step is not chosen to fail.
    fn step(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        let now = state.steps;
        state.steps += 1;
        match state.fault {
            Some((at, Fault::PowerCut)) if at == now => state.is_dead = true,
            Some((at, Fault::Error(number))) if at == now => {
                return Err(io::Error::from_raw_os_error(number));
            }
            _ => {}
        }
        if state.is_dead {
            return Err(io::Error::other("no power"));
        }
        Ok(state)
    }
}

impl State {
    fn add(&mut self, kind: EntryKind, mode: u32, modified_ms: u64) -> u64 {
        let number = self.next_inode;
        self.next_inode += 1;
        let inode = Inode {
            kind,
            mode,
            written: Vec::new(),
            // A directory has no content of its own: its name is all there is to lose.
            synced: kind == EntryKind::Directory,
            modified_ms,
        };
        self.inodes.insert(number, inode);
        number
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    fn number(&self, path: &Path) -> io::Result<u64> {
        let found = self.names.get(path).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode(&self, path: &Path) -> io::Result<&Inode> {
        let number = self.number(path)?;
        let found = self.inodes.get(&number);
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The file, which must not be a directory.
    fn file(&self, path: &Path) -> io::Result<&Inode> {
        let inode = self.inode(path)?;
        match inode.kind {
            EntryKind::Directory => Err(io::ErrorKind::IsADirectory.into()),
            EntryKind::File | EntryKind::Other => Ok(inode),
        }
    }

    fn is_directory(&self, path: &Path) -> bool {
        is_root(path)
            || self
                .inode(path)
                .is_ok_and(|inode| inode.kind == EntryKind::Directory)
    }

    /// An error unless `path` can be the name of something new.
    fn check_free(&self, path: &Path) -> io::Result<()> {
        if !self.is_directory(parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if is_root(path) || self.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(())
    }

    /// Frees the files that no name leads to, now or after a crash.
    fn forget_nameless(&mut self) {
        let pending = self.pending.iter().filter_map(|change| match change {
            Change::Name(_, inode) | Change::Move(_, _, inode) => Some(*inode),
            Change::Remove(_) => None,
        });
        let named: BTreeSet<u64> = self
            .names
            .values()
            .chain(self.lasting.values())
            .copied()
            .chain(pending)
            .collect();
        self.inodes.retain(|number, _| named.contains(number));
    }
}

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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const BEGAN_MS: u64 = 1_900_000_000_000;

    fn disk() -> (MemoryDisk, Arc<AtomicU64>) {
        let now_ms = Arc::new(AtomicU64::new(BEGAN_MS));
        let clock = Arc::clone(&now_ms);
        let clock = Clock::from_fn(move || clock.load(Ordering::Relaxed));
        (MemoryDisk::new(clock), now_ms)
    }

    fn write(disk: &Disk, path: &Path, bytes: &[u8]) -> crate::world::disk::File {
        let mut file = disk.create(path, 0o640).unwrap();
        let mut written = 0;
        while written < bytes.len() {
            written += file.write(&bytes[written..]).unwrap();
        }
        file
    }

    #[test]
    fn a_directory_lists_its_entries_in_the_order_of_their_names() {
        let (memory, now_ms) = disk();
        let disk = memory.disk();
        let dir = Path::new("/state/room");
        assert!(disk.list(dir).is_err());
        assert!(disk.create(&dir.join("b"), 0o600).is_err());
        disk.create_dirs(dir, 0o700).unwrap();
        now_ms.fetch_add(5_000, Ordering::Relaxed);
        drop(write(&disk, &dir.join("b"), &[7; 100]));
        drop(write(&disk, &dir.join("a"), &[]));
        disk.create_dirs(&dir.join("c"), 0o700).unwrap();
        let entries = disk.list(dir).unwrap();
        let kinds: Vec<_> = entries
            .iter()
            .map(|entry| (entry.name.to_str().unwrap(), entry.kind))
            .collect();
        let (file, directory) = (EntryKind::File, EntryKind::Directory);
        assert_eq!(kinds, [("a", file), ("b", file), ("c", directory)]);
        assert_eq!(
            disk.status(&dir.join("b")).unwrap(),
            Status {
                bytes: 100,
                mode: 0o640,
                modified: Some(BEGAN_MS / 1_000 + 5)
            }
        );
        assert_eq!(disk.read(&dir.join("b"), 3).unwrap(), [7; 3]);
        assert!(disk.create(&dir.join("b"), 0o600).is_err());
        assert!(disk.remove(&dir.join("c")).is_err());
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_nothing_that_hangs_on_a_lost_name() {
        let (memory, _) = disk();
        let disk = memory.disk();
        let (kept, lost) = (Path::new("/kept"), Path::new("/lost"));
        disk.create_dirs(kept, 0o700).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.create_dirs(lost, 0o700).unwrap();
        for dir in [kept, lost] {
            write(&disk, &dir.join("synced"), b"content")
                .sync()
                .unwrap();
            drop(write(&disk, &dir.join("written"), b"content"));
            disk.sync_dir(dir).unwrap();
            write(&disk, &dir.join("nameless"), b"x").sync().unwrap();
        }
        memory.crash(|_| false, Unsynced::Empty);
        let names = ["/kept", "/kept/synced", "/kept/written"].map(PathBuf::from);
        assert_eq!(memory.names(), names);
        assert_eq!(disk.read(&names[1], 100).unwrap(), b"content");
        assert_eq!(disk.read(&names[2], 100).unwrap(), b"");
        assert_eq!(memory.state().inodes.len(), 3);
    }

    #[test]
    fn a_lock_has_one_holder_and_ends_with_it_or_with_a_crash() {
        let (memory, _) = disk();
        let (disk, path) = (memory.disk(), Path::new("/lock"));
        let take = || disk.lock(path).unwrap();
        let first = take();
        assert!(matches!(first, Locked::Held(_)));
        assert!(matches!(take(), Locked::Taken(_)));
        memory.crash(|_| false, Unsynced::Kept);
        let second = take();
        assert!(matches!(second, Locked::Held(_)));
        // When the life before the crash ends, the lock of the life after it stays.
        drop(first);
        assert!(matches!(take(), Locked::Taken(_)));
        drop(second);
        assert!(matches!(take(), Locked::Held(_)));
    }
}
