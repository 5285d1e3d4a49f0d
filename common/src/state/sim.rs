//! A simulated disk that crashes: it keeps what was written apart from what was synced.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::Disk;

/// What happens at the step that is chosen to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The power goes: this step and all later ones do nothing.
    Crash,
    /// This one step fails with the system's error of that number.
    Error(i32),
}

/// What a file holds after a crash if it was written and not synced.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unsynced {
    Kept,
    Empty,
    Half,
    Zeros,
}

#[derive(Clone, Debug)]
enum Change {
    Name(PathBuf, usize),
    Move(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    written: Vec<u8>,
    synced: bool,
}

#[derive(Clone, Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    /// Names as programs see them.
    names: BTreeMap<PathBuf, usize>,
    /// Names as a crash leaves them.
    lasting: BTreeMap<PathBuf, usize>,
    /// The changes between the two.
    pending: Vec<Change>,
    steps: usize,
    fault: Option<(usize, Fault)>,
    is_dead: bool,
}

/// The simulated disk, of one directory.
#[derive(Clone, Debug, Default)]
pub(super) struct SimDisk(RefCell<State>);

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &Change) {
    match change {
        Change::Name(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        Change::Move(from, to, inode) => {
            names.remove(from);
            names.insert(to.clone(), *inode);
        }
        Change::Remove(path) => {
            names.remove(path);
        }
    }
}

impl SimDisk {
    /// From now on, step `at` (the next is 0) fails in this way.
    pub(super) fn fail_at(&self, at: usize, fault: Fault) {
        let mut state = self.0.borrow_mut();
        state.steps = 0;
        state.fault = Some((at, fault));
    }

    /// Ends the fault. Returns whether the fault was reached.
    pub(super) fn heal(&self) -> bool {
        let mut state = self.0.borrow_mut();
        let fault = state.fault.take();
        fault.is_some_and(|(at, _)| state.steps > at)
    }

    /// Number of changes of names that a crash may or may not undo.
    pub(super) fn pending(&self) -> usize {
        self.0.borrow().pending.len()
    }

    /// The disk after a crash. Of the pending changes, those whose bits are set in `kept` have happened.
    pub(super) fn reboot(&self, kept: usize, unsynced: Unsynced) -> Self {
        let mut state = self.0.borrow().clone();
        for (bit, change) in state.pending.iter().enumerate() {
            if kept >> bit & 1 == 1 {
                apply(&mut state.lasting, change);
            }
        }
        for inode in state.inodes.iter_mut().filter(|inode| !inode.synced) {
            let half = inode.written.len() / 2;
            match unsynced {
                Unsynced::Kept => {}
                Unsynced::Empty => inode.written.clear(),
                Unsynced::Half => inode.written.truncate(half),
                Unsynced::Zeros => inode.written.fill(0),
            }
            inode.synced = true;
        }
        Self(RefCell::new(State {
            inodes: state.inodes,
            names: state.lasting.clone(),
            lasting: state.lasting,
            ..State::default()
        }))
    }

    pub(super) fn names(&self) -> Vec<PathBuf> {
        self.0.borrow().names.keys().cloned().collect()
    }

    /// Changes bytes as a failing disk does, without any call.
    pub(super) fn damage(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.0.borrow_mut();
        let inode = state.inodes.len();
        state.inodes.push(Inode {
            written: bytes.to_vec(),
            synced: true,
        });
        state.names.insert(path.to_owned(), inode);
        state.lasting.insert(path.to_owned(), inode);
    }

    fn step(&self) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        if state.is_dead {
            return Err(io::Error::other("no power"));
        }
        let now = state.steps;
        state.steps += 1;
        match state.fault {
            Some((at, Fault::Crash)) if at == now => {
                state.is_dead = true;
                Err(io::Error::other("no power"))
            }
            Some((at, Fault::Error(number))) if at == now => {
                Err(io::Error::from_raw_os_error(number))
            }
            _ => Ok(()),
        }
    }

    fn change(&self, change: Change) {
        let mut state = self.0.borrow_mut();
        apply(&mut state.names, &change);
        state.pending.push(change);
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let state = self.0.borrow();
        let found = state.names.get(path).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    type File = usize;

    fn create(&self, path: &Path, _: u32) -> io::Result<usize> {
        self.step()?;
        if self.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = self.0.borrow().inodes.len();
        self.0.borrow_mut().inodes.push(Inode::default());
        self.change(Change::Name(path.to_owned(), inode));
        Ok(inode)
    }

    fn write(&self, file: &mut usize, bytes: &[u8]) -> io::Result<usize> {
        self.step()?;
        // A write is always short, so that there is a step between two parts of a file.
        let taken = bytes.len().min(20);
        let mut state = self.0.borrow_mut();
        let inode = &mut state.inodes[*file];
        inode.written.extend_from_slice(&bytes[..taken]);
        inode.synced = false;
        Ok(taken)
    }

    fn sync(&self, file: &usize) -> io::Result<()> {
        self.step()?;
        self.0.borrow_mut().inodes[*file].synced = true;
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        let inode = self.find(from)?;
        // If both names are names of one file, nothing happens, as POSIX says.
        if self.find(to).ok() != Some(inode) {
            self.change(Change::Move(from.to_owned(), to.to_owned(), inode));
        }
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        let inode = self.find(from)?;
        if self.find(to).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(Change::Name(to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.find(path)?;
        self.change(Change::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.step()?;
        let mut state = self.0.borrow_mut();
        state.pending.clear();
        state.lasting = state.names.clone();
        Ok(())
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        self.step()?;
        let inode = self.find(path)?;
        let state = self.0.borrow();
        let bytes = &state.inodes[inode].written;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(bytes[..bytes.len().min(limit)].to_vec())
    }
}
