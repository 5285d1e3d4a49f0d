//! What docs/clients.md says of programs, run letter for letter in network namespaces, where nothing can be reached but
//! through Cepa: beside the client, and once more by `cepa exec`, where each finds the client's ports as it knows them. A program that is not installed, and a machine without namespaces, is passed over with a message;
//! `.ci/programs` installs all that is asked for here.
//!
//! The world, `world.py`, is in a namespace of its own behind a pair of virtual interfaces, which only the exits' streams
//! cross. The client's machine has no way to a resolver and no route but to that one address.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod browser;
mod guide;
mod machine;
mod prepare;
#[path = "../support/mod.rs"]
mod support;

use std::time::Instant;

use guide::{Block, Section};
use machine::{Machine, Where, is_here};

/// Where `example.org` is. It is a public address, as the policies of exits want it, and in a namespace nobody's.
const WORLD: &str = "5.6.7.8";
/// What the page of `example.org` says.
const MARK: &str = "This page came through.";

#[test]
fn programs_do_as_their_guide_says() {
    machine::run_apart("inside");
}

/// Runs in a namespace that [`programs_do_as_their_guide_says`] makes.
#[test]
#[ignore = "needs a network namespace of its own, which programs_do_as_their_guide_says makes"]
fn inside() {
    let machine = Machine::start();
    let mut failed = Vec::new();
    for section in guide::read() {
        for place in Where::all() {
            if let Err(why) = try_section(&machine, place, &section) {
                eprintln!("{} ({place:?}): {why}", section.title);
                failed.push((section.title.clone(), place));
            }
        }
    }
    for place in Where::all() {
        browser::pages(&machine, place);
    }
    assert!(
        failed.is_empty(),
        "{failed:?} do not do as docs/clients.md says"
    );
    machine.stop();
}

/// Which programs a section needs, and which files it must leave in its directory. What ends in `*` is the beginning of
/// a name.
type Expected = (&'static [&'static str], &'static [&'static str]);

fn expected(title: &str) -> Expected {
    match title {
        "Any program, without settings" => (
            &[
                "/dev/net/tun",
                "curl",
                "wget",
                "git",
                "ssh",
                "scp",
                "rsync",
                "/usr/sbin/sshd",
                "nc",
                "ncat",
                "socat",
                "openssl",
                "apt-get",
                "pip",
                "python3:requests",
                "python3:httpx",
                "node",
                "aria2c",
                "w3m",
                "chromium",
                "dig",
                "ntpdig",
            ],
            &[
                "served/index.html",
                "copied.html",
                "synchronised.html",
                "by-aria2.html",
                "cepa_test_module-1-*",
            ],
        ),
        "curl" => (&["curl"], &[]),
        "wget" => (&["wget"], &[]),
        "git" => (&["git"], &["by-hand/index.html", "served/index.html"]),
        "ssh" => (
            &["ssh", "scp", "rsync", "/usr/sbin/sshd"],
            &["copied.html", "synchronised.html"],
        ),
        "nc" => (&["nc"], &[]),
        "ncat" => (&["ncat"], &[]),
        "socat" => (&["socat"], &[]),
        "openssl" => (&["openssl"], &[]),
        "torsocks" => (&["torsocks"], &[]),
        "tor-resolve" => (&["tor-resolve"], &[]),
        "dig" => (&["dig"], &[]),
        "proxychains" => (&["proxychains4"], &[]),
        "apt" => (&["apt-get", "dpkg-deb"], &["cepa-test-package_*"]),
        "pip" => (&["python3", "pip"], &["cepa_test_module-1-*"]),
        "requests" => (&["python3:requests"], &[]),
        "httpx" => (&["python3:httpx"], &[]),
        "aiohttp" => (&["python3:aiohttp_socks"], &[]),
        "PySocks" => (&["python3:socks"], &[]),
        "Node.js" => (&["node:socks"], &[]),
        "aria2" => (&["aria2c"], &["by-aria2.html"]),
        "w3m" => (&["w3m"], &[]),
        "Chromium" => (&["chromium"], &[]),
        other => {
            panic!("docs/clients.md has a section {other:?} that tests/programs knows nothing of")
        }
    }
}

/// What a command must say: the page, unless it writes files or asks the DNS.
fn must_say(block: &Block) -> &'static str {
    let Block::Shell(line) = block else {
        return MARK;
    };
    let has = |word: &str| line.split(' ').any(|one| one == word);
    match () {
        () if ["clone", "config", "scp", "rsync", "apt-get", "pip"]
            .iter()
            .any(|word| has(word)) =>
        {
            ""
        }
        () if line.contains("aria2c") => "",
        () if has("-x") && has("tor-resolve") => "example.org",
        () if has("tor-resolve") || has("dig") => WORLD,
        () if has("ntpdig") => "time.example.org",
        () => MARK,
    }
}

/// Sections of what is not to be tried in `cepa exec`: one is there already, and the other is of a listener for DNS, in
/// whose place the namespace has a name server of its own.
const NOT_INSIDE: [&str; 2] = ["Any program, without settings", "dig"];

fn try_section(machine: &Machine, place: Where, section: &Section) -> Result<(), String> {
    if place == Where::Inside && NOT_INSIDE.contains(&section.title.as_str()) {
        return Ok(());
    }
    let begun = Instant::now();
    let (needed, files) = expected(&section.title);
    if !needed.iter().all(|program| is_here(program)) {
        return Ok(());
    }
    let dir = machine.directory_of(&section.title, place);
    let mut ran = 0;
    for block in &section.blocks {
        let command = match block {
            Block::File { path, text } => {
                machine.put(path, text);
                continue;
            }
            Block::Shell(line) => machine.shell(&dir, place, line),
            Block::Python(text) => machine.python(&dir, place, text),
            Block::JavaScript(text) => machine.javascript(&dir, place, text),
        };
        let said = machine::said(command).map_err(|why| format!("{block:?}: {why}"))?;
        let wanted = must_say(block);
        if !said.contains(wanted) {
            return Err(format!("{block:?}: {wanted:?} is not in {said:?}"));
        }
        ran += 1;
    }
    files
        .iter()
        .try_for_each(|file| machine::must_be(&dir, file))?;
    let (title, took) = (&section.title, begun.elapsed().as_secs_f32());
    eprintln!("{title} ({place:?}): {ran} tried in {took:.1} s");
    Ok(())
}
