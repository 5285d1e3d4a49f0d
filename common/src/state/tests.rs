#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::record::{Generation, load, save};
use super::*;

fn dir() -> TempDir {
    tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o700))
        .tempdir()
        .unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
    let dir = dir();
    let path = dir.path().join("file");
    write_whole(&Disk::Real, &path, b"first", 0o644).unwrap();
    write_whole(&Disk::Real, &path, b"second", 0o600).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"second");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_failed_write_keeps_the_old_file() {
    let dir = dir();
    // A directory with the file's name makes the rename fail after the temporary file was written.
    let path = dir.path().join("taken");
    fs::create_dir(&path).unwrap();
    assert!(matches!(
        write_whole(&Disk::Real, &path, b"x", 0o600),
        Err(StateError::Io { .. })
    ));
    assert!(path.is_dir());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_key_is_made_once_and_then_found_again() {
    let dir = dir();
    let mut rng = rand::rng();
    let made = load_or_create_key(
        &Disk::Real,
        dir.path(),
        "identity",
        KeyKind::Identity,
        Trust::OwnerOnly,
        &mut rng,
    )
    .unwrap();
    let found = load_or_create_key(
        &Disk::Real,
        dir.path(),
        "identity",
        KeyKind::Identity,
        Trust::OwnerOnly,
        &mut rng,
    )
    .unwrap();
    assert_eq!(made.expose(), found.expose());
    assert_ne!(made.expose(), &[0; 32]);
    assert_eq!(mode(&dir.path().join("identity")), 0o600);
}

#[test]
fn a_key_of_another_kind_is_refused() {
    let dir = dir();
    load_or_create_key(
        &Disk::Real,
        dir.path(),
        "k",
        KeyKind::Onion,
        Trust::OwnerOnly,
        &mut rand::rng(),
    )
    .unwrap();
    let error = load_key(
        &Disk::Real,
        &dir.path().join("k"),
        KeyKind::Authority,
        Trust::OwnerOnly,
    )
    .err()
    .unwrap();
    assert!(matches!(error, StateError::WrongKind { ref found, .. } if found == "onion key"));
}

#[test]
fn every_changed_bit_and_every_length_of_a_key_file_is_noticed() {
    let dir = dir();
    load_or_create_key(
        &Disk::Real,
        dir.path(),
        "k",
        KeyKind::Identity,
        Trust::OwnerOnly,
        &mut rand::rng(),
    )
    .unwrap();
    let path = dir.path().join("k");
    let good = fs::read(&path).unwrap();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bad).unwrap();
        assert!(
            load_key(&Disk::Real, &path, KeyKind::Identity, Trust::OwnerOnly).is_err(),
            "bit {bit}"
        );
    }
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).unwrap();
        assert!(matches!(
            load_key(&Disk::Real, &path, KeyKind::Identity, Trust::OwnerOnly),
            Err(StateError::Damaged { .. })
        ));
    }
    fs::write(&path, [good.as_slice(), b"x"].concat()).unwrap();
    assert!(matches!(
        load_key(&Disk::Real, &path, KeyKind::Identity, Trust::OwnerOnly),
        Err(StateError::Damaged { .. })
    ));
    // A damaged key is never replaced by a new one.
    let again = load_or_create_key(
        &Disk::Real,
        dir.path(),
        "k",
        KeyKind::Identity,
        Trust::OwnerOnly,
        &mut rand::rng(),
    );
    assert!(matches!(again, Err(StateError::Damaged { .. })));
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let dir = dir();
    load_or_create_key(
        &Disk::Real,
        dir.path(),
        "k",
        KeyKind::Identity,
        Trust::OwnerOnly,
        &mut rand::rng(),
    )
    .unwrap();
    let path = dir.path().join("k");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(
        load_key(&Disk::Real, &path, KeyKind::Identity, Trust::OwnerOnly),
        Err(StateError::Exposed { .. })
    ));
}

#[test]
fn a_state_directory_that_others_can_write_is_refused() {
    let dir = dir();
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        StateDir::open(&Disk::Real, &open, Trust::OwnerOnly),
        Err(StateError::Exposed { .. })
    ));
}

#[test]
fn a_state_directory_of_throwaway_keys_may_be_anybodys() {
    let dir = dir();
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    let state = StateDir::open(&Disk::Real, &open, Trust::Everyone).unwrap();
    let mut rng = rand::rng();
    let made = state
        .load_or_create_key("k", KeyKind::Identity, &mut rng)
        .unwrap();
    let found = load_key(
        &Disk::Real,
        &open.join("keys/k"),
        KeyKind::Identity,
        Trust::Everyone,
    )
    .unwrap();
    assert_eq!(made.expose(), found.expose());
}

#[test]
fn a_state_directory_has_one_user_at_a_time() {
    let dir = dir();
    let path = dir.path().join("state");
    let first = StateDir::open(&Disk::Real, &path, Trust::OwnerOnly).unwrap();
    assert_eq!(mode(&path), 0o700);
    let refused = StateDir::open(&Disk::Real, &path, Trust::OwnerOnly).unwrap_err();
    let us = std::process::id();
    assert!(matches!(refused, StateError::InUse { holder: Some(pid), .. } if pid == us));
    assert!(refused.to_string().contains(&us.to_string()), "{refused}");
    drop(first);
    StateDir::open(&Disk::Real, &path, Trust::OwnerOnly).unwrap();
}

#[test]
fn opening_removes_what_dead_writers_left_and_nothing_else() {
    let dir = dir();
    let path = dir.path().join("state");
    drop(StateDir::open(&Disk::Real, &path, Trust::OwnerOnly).unwrap());
    let room = path.join("room");
    fs::create_dir_all(room.join(".new-directory")).unwrap();
    for name in [
        ".new-1-2",
        "new-1",
        "room/.new-3-4",
        "room/kept",
        "room/.new-directory/x",
    ] {
        fs::write(path.join(name), b"x").unwrap();
    }
    std::os::unix::fs::symlink("kept", room.join(".new-link")).unwrap();
    let _state = StateDir::open(&Disk::Real, &path, Trust::OwnerOnly).unwrap();
    assert!(!path.join(".new-1-2").exists() && !room.join(".new-3-4").exists());
    for name in [
        "new-1",
        "room/kept",
        "room/.new-link",
        "room/.new-directory/x",
    ] {
        assert!(path.join(name).exists(), "{name}");
    }
}

#[test]
fn who_may_reach_too_much_is_said_with_the_command_that_helps() {
    let dir = dir();
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, Permissions::from_mode(0o773)).unwrap();
    let refused = StateDir::open(&Disk::Real, &open, Trust::OwnerOnly).unwrap_err();
    let text = refused.to_string();
    let open = open.canonicalize().unwrap();
    let command = format!("has mode 0773; run: chmod go-rwx {}", open.display());
    assert!(text.contains(&command), "{text}");
}

#[test]
fn a_record_falls_back_one_generation_when_damaged() {
    let dir = dir();
    let path = dir.path().join("consensus");
    assert_eq!(load(&Disk::Real, &path, "consensus", 100).unwrap(), None);
    save(&Disk::Real, &path, "consensus", b"one").unwrap();
    save(&Disk::Real, &path, "consensus", b"two").unwrap();
    assert_eq!(
        load(&Disk::Real, &path, "consensus", 100).unwrap(),
        Some((b"two".to_vec(), Generation::Current))
    );
    let good = fs::read(&path).unwrap();
    let is_previous = || match load(&Disk::Real, &path, "consensus", 100) {
        Ok(Some((body, Generation::Previous))) => assert_eq!(body, b"one"),
        other => panic!("{other:?}"),
    };
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bad).unwrap();
        is_previous();
    }
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).unwrap();
        is_previous();
    }
    // A damaged record does not push out the last good one.
    save(&Disk::Real, &path, "consensus", b"three").unwrap();
    fs::write(&path, b"soup").unwrap();
    is_previous();
}

/// Length of the words that a record begins with, behind which the format stands.
const MAGIC_LEN: usize = 11;

#[test]
fn a_record_of_a_newer_format_is_neither_read_nor_replaced() {
    let dir = dir();
    let path = dir.path().join("r");
    save(&Disk::Real, &path, "r", b"one").unwrap();
    save(&Disk::Real, &path, "r", b"two").unwrap();
    let mut newer = fs::read(&path).unwrap();
    newer[MAGIC_LEN] = 2;
    newer.push(0);
    fs::write(&path, &newer).unwrap();
    let is_newer = |error| matches!(error, StateError::Newer { found: 2, .. });
    assert!(is_newer(load(&Disk::Real, &path, "r", 100).unwrap_err()));
    assert!(is_newer(
        save(&Disk::Real, &path, "r", b"three").unwrap_err()
    ));
    assert_eq!(fs::read(&path).unwrap(), newer);
}

#[test]
fn a_record_lost_between_two_renames_is_found_in_the_generation_before() {
    let dir = dir();
    let path = dir.path().join("r");
    save(&Disk::Real, &path, "r", b"one").unwrap();
    fs::rename(&path, dir.path().join("r.old")).unwrap();
    assert_eq!(
        load(&Disk::Real, &path, "r", 100).unwrap(),
        Some((b"one".to_vec(), Generation::Previous))
    );
}

#[test]
fn a_record_of_another_kind_or_too_long_is_refused() {
    let dir = dir();
    let path = dir.path().join("r");
    save(&Disk::Real, &path, "vote", b"12345").unwrap();
    assert!(matches!(
        load(&Disk::Real, &path, "consensus", 100),
        Err(StateError::WrongKind { .. })
    ));
    assert!(matches!(
        load(&Disk::Real, &path, "vote", 4),
        Err(StateError::Damaged { .. })
    ));
    assert!(load(&Disk::Real, &path, "vote", 5).unwrap().is_some());
}
