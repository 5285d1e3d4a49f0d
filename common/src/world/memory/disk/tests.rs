use std::sync::atomic::{AtomicU64, Ordering};

use super::super::super::disk::{Locked, Status};
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

#[test]
fn what_a_crash_could_take_is_told() {
    let (memory, _) = disk();
    let disk = memory.disk();
    let (dir, new, name) = (
        Path::new("/state"),
        Path::new("/state/new"),
        Path::new("/state/a"),
    );
    disk.create_dirs(dir, 0o700).unwrap();
    assert_eq!(memory.undurable(), [dir]);
    disk.sync_dir(Path::new("/")).unwrap();
    assert!(memory.undurable().is_empty());
    // Neither the bytes alone nor the name alone are enough.
    let file = write(&disk, new, b"bytes");
    disk.rename(new, name).unwrap();
    assert_eq!(memory.undurable(), [name]);
    file.sync().unwrap();
    assert_eq!(memory.undurable(), [name]);
    disk.sync_dir(dir).unwrap();
    assert!(memory.undurable().is_empty());
    drop(write(&disk, new, b"others"));
    disk.rename(new, name).unwrap();
    disk.sync_dir(dir).unwrap();
    assert_eq!(memory.undurable(), [name]);
}
