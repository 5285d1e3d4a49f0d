//! Tests of every way to crash and every way to fail, at every step of every kind of write.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use super::file::is_temporary;
use super::key::{FILE_LEN, decode};
use super::record::{Generation, load, save};
use super::*;
use crate::world::Clock;
use crate::world::memory::{Fault, MemoryDisk, Unsynced};

const NO_SPACE: i32 = 28;
const BROKEN: i32 = 5;
const BODIES: [&[u8]; 3] = [
    b"the one before",
    b"the old one, which is there",
    b"the new one, longer than a single write takes at once",
];

/// A kind of file, with its way to be written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    Whole,
    /// A record with this kind's name. The name changes nothing, which the test shows by trying all of them.
    Record(&'static str),
    Key,
}

const ALL: [File; 6] = [
    File::Whole,
    File::Record("consensus"),
    File::Record("newest consensus"),
    File::Record("signing record"),
    File::Record("guards"),
    File::Key,
];

/// A disk with the directory of the file.
fn disk() -> MemoryDisk {
    let memory = MemoryDisk::new(Clock::from_fn(|| 0));
    make_private_dir(&memory.disk(), Path::new("/state"), Trust::OwnerOnly).unwrap();
    memory
}

fn path() -> &'static Path {
    Path::new("/state/file")
}

impl File {
    /// Writes the content of this generation. A key is always a new one.
    fn write(self, disk: &MemoryDisk, generation: usize) -> Result<(), StateError> {
        let (body, disk) = (BODIES[generation], &disk.disk());
        match self {
            Self::Whole => write_whole(disk, path(), body, 0o600),
            Self::Record(kind) => save(disk, path(), kind, body),
            Self::Key => create_key(disk, path(), KeyKind::Identity, &mut rand::rng()).map(drop),
        }
    }

    /// The generation that is read; `None` if there is no file.
    fn read(self, disk: &MemoryDisk) -> Option<usize> {
        let disk = &disk.disk();
        let body = match self {
            Self::Whole => disk.read(path(), 1000).ok()?,
            Self::Record(kind) => {
                let (body, generation) = load(disk, path(), kind, 1000).unwrap()?;
                assert_eq!(generation, Generation::Current);
                body
            }
            Self::Key => {
                let bytes = disk.read(path(), 1000).ok()?;
                let bytes: [u8; FILE_LEN] = bytes.try_into().expect("half a key");
                decode(path(), KeyKind::Identity, &bytes).expect("a damaged key");
                return Some(2);
            }
        };
        let found = BODIES.iter().position(|known| *known == body);
        Some(found.expect("neither old nor new"))
    }

    /// Disks on which nothing, one, or two generations have been written.
    fn starts(self) -> Vec<(MemoryDisk, Option<usize>)> {
        let mut disks = vec![(disk(), None)];
        if self != Self::Key {
            let one = disk();
            self.write(&one, 1).unwrap();
            let two = disk();
            self.write(&two, 0).unwrap();
            self.write(&two, 1).unwrap();
            disks.extend([(one, Some(1)), (two, Some(1))]);
        }
        disks
    }
}

/// Calls `then` with a disk after a write of generation 2 that met `fault` at each of its steps in turn.
fn at_every_step(
    file: File,
    fault: Fault,
    mut then: impl FnMut(&MemoryDisk, Option<usize>, Result<(), StateError>),
) {
    for (start, old) in file.starts() {
        let mut step = 0;
        loop {
            let disk = start.copy();
            disk.fail_at(step, fault);
            let result = file.write(&disk, 2);
            let reached = disk.heal();
            then(&disk, old, result);
            if !reached {
                break;
            }
            step += 1;
        }
        assert!(step >= 6, "only {step} steps");
    }
}

/// Every disk that a crash at this moment could leave.
fn after_power_cut(disk: &MemoryDisk) -> impl Iterator<Item = MemoryDisk> {
    let pending = disk.pending();
    assert!(pending < 10, "{pending} changes");
    (0..1 << pending).flat_map(move |kept| {
        [
            Unsynced::Kept,
            Unsynced::Empty,
            Unsynced::Half,
            Unsynced::Zeros,
        ]
        .map(|unsynced| {
            let rebooted = disk.copy();
            rebooted.crash(|place| kept >> place & 1 == 1, unsynced);
            rebooted
        })
    })
}

#[test]
fn a_crash_at_any_step_leaves_the_old_or_the_new() {
    for file in ALL {
        let mut seen = [0, 0];
        at_every_step(file, Fault::PowerCut, |disk, old, result| {
            for rebooted in after_power_cut(disk) {
                let found = file.read(&rebooted);
                assert!(found == old || found == Some(2), "{file:?}: {found:?}");
                // If a write reported success, its content is on the disk.
                assert!(result.is_err() || found == Some(2), "{file:?}: {found:?}");
                seen[usize::from(found == Some(2))] += 1;
                if file != File::Key {
                    file.write(&rebooted, 2).unwrap();
                    assert_eq!(file.read(&rebooted), Some(2));
                }
            }
        });
        assert!(seen[0] > 0 && seen[1] > 0, "{file:?}: {seen:?}");
    }
}

#[test]
fn an_error_at_any_step_is_told_leaves_nothing_behind_and_the_next_write_works() {
    for file in ALL {
        for number in [NO_SPACE, BROKEN] {
            at_every_step(file, Fault::Error(number), |disk, old, result| {
                let found = file.read(disk);
                match result {
                    Ok(()) => assert_eq!(found, Some(2)),
                    Err(StateError::Io { source, .. }) => {
                        assert_eq!(source.raw_os_error(), Some(number));
                        assert!(found == old || found == Some(2), "{file:?}: {found:?}");
                    }
                    Err(other) => panic!("{other}"),
                }
                let names = disk.names().into_iter();
                // A file that could not even be removed waits for the next start.
                let left = names.filter(|name| is_temporary(name.file_name().unwrap()));
                assert!(left.count() <= usize::from(old.is_some() || file == File::Key));
                for rebooted in after_power_cut(disk) {
                    let found = file.read(&rebooted);
                    assert!(found == old || found == Some(2), "{file:?}: {found:?}");
                }
                if file != File::Key || found.is_none() {
                    file.write(disk, 2).unwrap();
                    assert_eq!(file.read(disk), Some(2));
                }
            });
        }
    }
}

#[test]
fn a_key_is_never_replaced() {
    let disk = disk();
    File::Key.write(&disk, 2).unwrap();
    let first = disk.disk().read(path(), 1000).unwrap();
    assert!(matches!(
        File::Key.write(&disk, 2),
        Err(StateError::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists
    ));
    assert_eq!(disk.disk().read(path(), 1000).unwrap(), first);
    // The directory and the key.
    assert_eq!(disk.names().len(), 2);
}

#[test]
fn a_crash_while_a_damaged_record_is_replaced_keeps_the_last_good_one() {
    let file = "guards";
    let start = disk();
    save(&start.disk(), path(), file, BODIES[0]).unwrap();
    save(&start.disk(), path(), file, BODIES[1]).unwrap();
    start.put(path(), b"soup");
    for step in 0..20 {
        let disk = start.copy();
        disk.fail_at(step, Fault::PowerCut);
        let _ = save(&disk.disk(), path(), file, BODIES[2]);
        disk.heal();
        for rebooted in after_power_cut(&disk) {
            let (body, generation) = load(&rebooted.disk(), path(), file, 1000).unwrap().unwrap();
            match generation {
                Generation::Current => assert_eq!(body, BODIES[2]),
                Generation::Previous => assert_eq!(body, BODIES[0]),
            }
        }
    }
}
