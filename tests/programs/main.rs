//! What docs/clients.md says of programs, run letter for letter in network namespaces, where nothing can be reached but
//! through Cepa. A program that is not installed, and a machine without namespaces, is passed over with a message;
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

use guide::{Block, Section};
use machine::{Machine, is_here};

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
        if let Err(why) = try_section(&machine, &section) {
            eprintln!("{}: {why}", section.title);
            failed.push(section.title);
        }
    }
    browser::pages(&machine);
    assert!(
        failed.is_empty(),
        "{failed:?} do not do as docs/clients.md says"
    );
    machine.stop();
}

/// What a program of the guide must have brought.
enum Wanted {
    /// Each command says this.
    Said(&'static str),
    /// Each of these files of its directory is there. What ends in `*` is the beginning of a name.
    Files(&'static [&'static str]),
}

/// Which programs a section needs, and what it must bring.
fn expected(title: &str) -> (&'static [&'static str], Wanted) {
    use Wanted::*;
    match title {
        "curl" => (&["curl"], Said(MARK)),
        "wget" => (&["wget"], Said(MARK)),
        "git" => (
            &["git"],
            Files(&["by-hand/index.html", "served/index.html"]),
        ),
        "ssh" => (
            &["ssh", "scp", "rsync", "/usr/sbin/sshd"],
            Files(&["copied.html", "synchronised.html"]),
        ),
        "nc" => (&["nc"], Said(MARK)),
        "ncat" => (&["ncat"], Said(MARK)),
        "socat" => (&["socat"], Said(MARK)),
        "openssl" => (&["openssl"], Said(MARK)),
        "torsocks" => (&["torsocks"], Said(MARK)),
        "tor-resolve" => (&["tor-resolve"], Said("")),
        "proxychains" => (&["proxychains4"], Said(MARK)),
        "apt" => (&["apt-get", "dpkg-deb"], Files(&["cepa-test-package_*"])),
        "pip" => (&["python3", "pip"], Files(&["cepa_test_module-1-*"])),
        "requests" => (&["python3:requests"], Said(MARK)),
        "httpx" => (&["python3:httpx"], Said(MARK)),
        "aiohttp" => (&["python3:aiohttp_socks"], Said(MARK)),
        "PySocks" => (&["python3:socks"], Said(MARK)),
        "Node.js" => (&["node:socks"], Said(MARK)),
        "aria2" => (&["aria2c"], Files(&["by-aria2.html"])),
        "w3m" => (&["w3m"], Said(MARK)),
        "Chromium" => (&["chromium"], Said(MARK)),
        other => {
            panic!("docs/clients.md has a section {other:?} that tests/programs knows nothing of")
        }
    }
}

fn try_section(machine: &Machine, section: &Section) -> Result<(), String> {
    let (needed, wanted) = expected(&section.title);
    if !needed.iter().all(|program| is_here(program)) {
        return Ok(());
    }
    let dir = machine.directory_of(&section.title);
    let mut ran = 0;
    for block in &section.blocks {
        let command = match block {
            Block::File { path, text } => {
                machine.put(path, text);
                continue;
            }
            Block::Shell(line) => machine.shell(&dir, line),
            Block::Python(text) => machine.python(&dir, text),
            Block::JavaScript(text) => machine.javascript(&dir, text),
        };
        let said = machine::said(command).map_err(|why| format!("{block:?}: {why}"))?;
        let must_say = match &wanted {
            Wanted::Said("") => [WORLD, WORLD, "example.org"][ran],
            Wanted::Said(mark) => mark,
            Wanted::Files(_) => "",
        };
        if !said.contains(must_say) {
            return Err(format!("{block:?}: {must_say:?} is not in {said:?}"));
        }
        ran += 1;
    }
    if let Wanted::Files(files) = wanted {
        for file in files {
            machine::must_be(&dir, file)?;
        }
    }
    eprintln!("{}: {ran} tried", section.title);
    Ok(())
}
