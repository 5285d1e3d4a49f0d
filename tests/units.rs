//! The units of systemd that come with the program: systemd takes them as they are, and the program takes the commands
//! that they run.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const UNITS: [&str; 2] = ["cepa.service", "cepa@.service"];

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("units")
        .join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn systemd_takes_the_units_without_a_word() {
    let analyze = || Command::new("systemd-analyze");
    if analyze()
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        eprintln!("systemd-analyze is not installed; the units are not verified");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = UNITS.map(|name| dir.path().join(name)).to_vec();
    for (name, path) in UNITS.iter().zip(&paths) {
        // The program is not where a user would have installed it.
        let unit = unit(name).replace("%h/.cargo/bin/cepa", env!("CARGO_BIN_EXE_cepa"));
        std::fs::write(path, unit).unwrap();
    }
    let verified = analyze()
        .args(["--user", "verify"])
        .args(&paths)
        .env("XDG_RUNTIME_DIR", dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_program_takes_the_commands_of_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("cepa");
    std::fs::create_dir(&config).unwrap();
    std::fs::write(
        config.join("other.toml"),
        "[client]\nsocks = \"127.0.0.1:9360\"\n",
    )
    .unwrap();
    for name in UNITS {
        let unit = unit(name);
        let command = unit
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="))
            .unwrap();
        let mut words = command.split_whitespace();
        assert_eq!(words.next(), Some("%h/.cargo/bin/cepa"), "{name}");
        let place = dir.path().to_str().unwrap();
        let words = words.map(|word| word.replace("%E", place).replace("%i", "other"));
        let printed = Command::new(env!("CARGO_BIN_EXE_cepa"))
            .args(words)
            .arg("--print-config")
            .env("HOME", dir.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&printed.stderr);
        assert!(printed.status.success(), "{name}: {said}");
        let printed = String::from_utf8(printed.stdout).unwrap();
        assert!(printed.contains("[client]"), "{name}: {printed}");
        // What no second start mends is the program's exit code for wrong arguments.
        assert!(unit.contains("\nRestartPreventExitStatus=2\n"), "{name}");
    }
}
