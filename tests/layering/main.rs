//! Who may import whom: rooms in one order, no circle of files, and no clock, socket or task where there is to be none.
//!
//! The test reads the sources. The test knows `use` lines and paths that begin with `crate`, `self`, `super` or a
//! package, follows what a room exports under its own name to the file that has it, and leaves out comments, texts and
//! what only tests compile.
#![allow(clippy::disallowed_methods, reason = "the test reads the sources")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod rooms;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use house::{House, PACKAGES, Source, module_of, named, root, tokens, walk_all, without_tests};
use rooms::{IMPURE, NOT_PURE, PURE, ROOMS, TWINS};

/// The room of a file: of the rooms in the table that the file is in, the one with the longest name.
fn room_of<'a>(file: &str, rooms: &[(&'a str, &'a [&'a str])]) -> Option<(&'a str, &'a [&'a str])> {
    let is_in = |room: &str| file == room || file.starts_with(&format!("{room}/"));
    let fitting = rooms.iter().filter(|(room, _)| is_in(room));
    fitting.max_by_key(|(room, _)| room.len()).copied()
}

fn broken_rooms(house: &House, rooms: &[(&str, &[&str])]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in &house.sources {
        let Some((room, may)) = room_of(&source.path, rooms) else {
            broken.push(format!("{} is in no room of the table", source.path));
            continue;
        };
        for (file, line) in house.imports(source) {
            let Some((other, _)) = room_of(&file, rooms) else {
                continue;
            };
            let is_in = |of: &&str| other == *of || other.starts_with(&format!("{of}/"));
            if other != room && !may.iter().any(is_in) {
                broken.push(format!(
                    "{}:{line}: {room} may not import {other} ({file})",
                    source.path
                ));
            }
        }
    }
    broken
}

/// Rooms stand in the order of the table: each imports only what stands before it.
fn disorder(rooms: &[(&str, &[&str])]) -> Vec<String> {
    let mut broken = Vec::new();
    for (at, (room, may)) in rooms.iter().enumerate() {
        for other in *may {
            let fits = |name: &&str| *name == *other || name.starts_with(&format!("{other}/"));
            let (before, after) = rooms.split_at(at);
            let stands = before.iter().any(|(name, _)| fits(name));
            if !stands || *room == *other || after.iter().any(|(name, _)| name == other) {
                broken.push(format!(
                    "{other} does not stand before {room}, which may import it"
                ));
            }
        }
    }
    broken
}

fn impurities(house: &House, pure: &[&str]) -> Vec<String> {
    let mut broken = Vec::new();
    let is_pure = |file: &str| {
        let table: Vec<(&str, &[&str])> = pure.iter().map(|room| (*room, &[][..])).collect();
        room_of(file, &table).is_some() && !NOT_PURE.iter().any(|(path, _)| *path == file)
    };
    for source in house.sources.iter().filter(|source| is_pure(&source.path)) {
        for (line, path) in named(&source.tokens) {
            let path = path.join("::");
            let banned = IMPURE.iter().find(|(name, _)| {
                path.strip_prefix(name)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            });
            if let Some((name, why)) = banned {
                broken.push(format!(
                    "{}:{line}: a pure room names {name}: {why}",
                    source.path
                ));
            }
        }
    }
    broken
}

/// The circles of files. Each circle is the set of files that lead to each other.
fn circles(house: &House) -> Vec<BTreeSet<String>> {
    let graph: BTreeMap<&str, BTreeMap<String, usize>> = house
        .sources
        .iter()
        .map(|source| (source.path.as_str(), house.imports(source)))
        .collect();
    let reach = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut next = vec![from.to_owned()];
        while let Some(file) = next.pop() {
            for target in graph
                .get(file.as_str())
                .into_iter()
                .flat_map(BTreeMap::keys)
            {
                if reached.insert(target.clone()) {
                    next.push(target.clone());
                }
            }
        }
        reached
    };
    let reached: BTreeMap<&str, BTreeSet<String>> =
        graph.keys().map(|file| (*file, reach(file))).collect();
    let mut found: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    for (file, reaches) in reached
        .iter()
        .filter(|(file, reaches)| reaches.contains(**file))
    {
        let back = |other: &&String| {
            reached
                .get(other.as_str())
                .is_some_and(|r| r.contains(*file))
        };
        found.insert(reaches.iter().filter(back).cloned().collect());
    }
    found.into_iter().collect()
}

/// The circles whose files are not all among the same twins.
fn strangers(house: &House, twins: &[(&[&str], &str)]) -> Vec<String> {
    let is_known = |circle: &BTreeSet<String>| {
        let among = |file: &String, set: &[&str]| {
            set.iter()
                .any(|twin| file == twin || file.starts_with(&format!("{twin}/")))
        };
        twins
            .iter()
            .any(|(set, _)| circle.iter().all(|file| among(file, set)))
    };
    let circles = circles(house)
        .into_iter()
        .filter(|circle| !is_known(circle));
    circles
        .map(|circle| format!("files that import each other: {circle:?}"))
        .collect()
}

fn fail_with(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn rooms_import_only_what_they_may() {
    fail_with(&disorder(ROOMS));
    fail_with(&broken_rooms(&House::read(), ROOMS));
}

#[test]
fn every_room_of_the_tables_exists() {
    let named = PURE
        .iter()
        .copied()
        .chain(NOT_PURE.iter().map(|(path, _)| *path));
    let twins = TWINS.iter().flat_map(|(files, _)| files.iter().copied());
    let lost: Vec<String> = named
        .chain(twins)
        .filter(|path| !root().join(path).exists())
        .map(|path| format!("{path} does not exist"))
        .collect();
    fail_with(&lost);
}

#[test]
fn pure_rooms_have_no_clock_socket_or_task() {
    fail_with(&impurities(&House::read(), PURE));
}

#[test]
fn no_files_import_each_other_but_twins() {
    fail_with(&strangers(&House::read(), TWINS));
}

// Tests that the checks can fail.

fn house(files: &[(&str, &str)]) -> House {
    let source = |(path, text): &(&str, &str)| {
        let (dir, package) = *PACKAGES
            .iter()
            .find(|(dir, _)| path.starts_with(dir))
            .unwrap();
        Source {
            path: (*path).to_owned(),
            module: module_of(Path::new(path), dir, package),
            tokens: without_tests(tokens(text)).0,
        }
    };
    House::of(files.iter().map(source).collect())
}

#[test]
fn an_import_against_the_order_is_found() {
    let rooms: &[(&str, &[&str])] = &[
        ("common/src", &[]),
        ("relay/src", &["common/src"]),
        ("client/src", &["common/src"]),
    ];
    let good = [
        ("common/src/lib.rs", "pub mod cell;"),
        (
            "common/src/cell.rs",
            "// use cepa_relay::Relay;\nconst A: &str = \"cepa_relay::b\";",
        ),
        (
            "relay/src/lib.rs",
            "use cepa_common::cell::{self, Cell};\n#[cfg(test)]\nmod tests { use cepa_client::a; }",
        ),
        (
            "client/src/lib.rs",
            "fn a(b: cepa_common::cell::Cell<'_>) {}",
        ),
    ];
    assert_eq!(broken_rooms(&house(&good), rooms), [""; 0]);
    for (text, line) in [
        ("use cepa_relay::Relay;", 1),
        ("\nuse {std::fmt, cepa_relay as r};", 2),
        (
            "fn a() {\n    let b = 'x';\n    cepa_relay::start::<u8>(b)\n}",
            3,
        ),
    ] {
        let mut bad = good;
        bad[3].1 = text;
        let expected = format!(
            "client/src/lib.rs:{line}: client/src may not import relay/src (relay/src/lib.rs)"
        );
        assert_eq!(broken_rooms(&house(&bad), rooms), [expected]);
    }
    assert_eq!(disorder(&[("a", &["b"]), ("b", &[])]).len(), 1);
}

#[test]
fn a_circle_is_found_behind_what_a_room_exports() {
    let files = |last: &'static str| {
        [
            ("relay/src/lib.rs", "mod a;\nmod b;\npub use a::A;"),
            (
                "relay/src/a/mod.rs",
                "mod c;\npub(crate) use c::{A, A as Other};",
            ),
            ("relay/src/a/c.rs", "use super::super::b;\npub struct A;"),
            ("relay/src/b.rs", last),
        ]
    };
    assert_eq!(circles(&house(&files("pub fn b() {}"))), []);
    // Who may see an item is no import.
    let seen = "pub(in crate::a::c) fn b() {}";
    assert_eq!(circles(&house(&files(seen))), []);
    let circle: BTreeSet<String> = ["relay/src/a/c.rs", "relay/src/b.rs"]
        .map(str::to_owned)
        .into();
    for last in [
        "use crate::a::Other;",
        "use crate::A;",
        "fn b() -> super::a::A {}",
    ] {
        assert_eq!(
            circles(&house(&files(last))),
            std::slice::from_ref(&circle),
            "{last}"
        );
    }
}

/// Test targets may use the real world, so that clippy allows them all the calls that it bans by name. The calls in
/// this test stay banned.
#[test]
fn no_test_blocks_its_thread_or_has_a_queue_without_bound() {
    let banned = ["thread", "mpsc", "mpsc"].into_iter();
    let banned = banned.zip(["sleep", "unbounded_channel", "channel()"]);
    let banned: Vec<_> = banned.map(|(of, name)| format!("{of}::{name}")).collect();
    let mut broken = Vec::new();
    let mut look = |path: &Path| {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        for (line, text) in text.lines().enumerate() {
            if let Some(name) = banned.iter().find(|name| text.contains(*name)) {
                broken.push(format!("{}:{}: {name}", path.display(), line + 1));
            }
        }
    };
    for dir in [
        "tests",
        "common",
        "relay",
        "client",
        "sim",
        "src",
        "fuzz/replay",
    ] {
        walk_all(Path::new(dir), &mut look);
    }
    fail_with(&broken);
}

#[test]
fn a_clock_in_a_pure_room_is_found() {
    for text in [
        "use tokio::time;",
        "fn a() { std::time::Instant::now() }",
        "use std::time::Instant;\nfn a() { Instant::now() }",
        "fn a() { rand::rng() }",
        "use std::{net::TcpStream, fmt};",
    ] {
        let found = impurities(
            &house(&[("common/src/cell.rs", text)]),
            &["common/src/cell.rs"],
        );
        assert_eq!(found.len(), 1, "{text}: {found:?}");
    }
    let good = "use std::time::{Duration, Instant};\nuse std::net::SocketAddr;\nuse core::time;";
    let found = impurities(
        &house(&[("common/src/cell.rs", good)]),
        &["common/src/cell.rs"],
    );
    assert_eq!(found, [""; 0]);
}
