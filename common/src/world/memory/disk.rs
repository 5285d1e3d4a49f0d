//! A disk in memory that crashes: it keeps what was written apart from what was synced, and can be made to fail.

mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::Clock;
use super::super::disk::{Disk, EntryKind};
use crate::sync::lock;

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
    is_full: bool,
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

    /// From now on the disk is full, or has room again. On a full disk files can be named, read, renamed and removed, and
    /// nothing can be written.
    pub fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
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

    /// The files and directories whose name or content a crash now could take, in order.
    pub fn undurable(&self) -> Vec<PathBuf> {
        let state = self.state();
        let is_synced = |inode: &u64| state.inodes.get(inode).is_none_or(|inode| inode.synced);
        let at_risk = state
            .names
            .iter()
            .filter(|(path, inode)| state.lasting.get(*path) != Some(inode) || !is_synced(inode));
        at_risk.map(|(path, _)| path.clone()).collect()
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
            is_full: state.is_full,
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

/// "No space left on device."
const ENOSPC: i32 = 28;

impl State {
    /// An error if nothing can be written.
    fn check_space(&self) -> io::Result<()> {
        match self.is_full {
            true => Err(io::Error::from_raw_os_error(ENOSPC)),
            false => Ok(()),
        }
    }

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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
