//! Tests of `cepa exec`: what a command in it sees, and that nothing leaves but by the node.
//!
//! They run as root, and as another user too where `/dev/net/tun` is open to users; elsewhere they pass with a message.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod behaviour;
mod ends;
mod leaks;
mod network;
mod ports;
#[path = "../support/quic.rs"]
mod quic;
mod space;
mod stub;
#[path = "../support/mod.rs"]
mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Who runs `cepa exec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Root,
    Nobody,
}

/// Where programs are for every user.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Nobody's number.
const NOBODY: &str = "65534";

/// Those who can run it here. Says so where somebody cannot.
fn everybody() -> Vec<Who> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("cepa exec is not tested: the tests make namespaces, which takes root");
        return Vec::new();
    }
    for program in ["ip", "tcpdump", "ping", "python3", "setpriv", "unshare"] {
        let there = Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .env("PATH", PATH)
            .output()
            .unwrap();
        if !there.status.success() {
            eprintln!("cepa exec is not tested: {program} is not installed");
            return Vec::new();
        }
    }
    let Ok(tun) = std::fs::metadata("/dev/net/tun") else {
        eprintln!("cepa exec is not tested: there is no /dev/net/tun");
        return Vec::new();
    };
    if tun.permissions().mode() & 0o006 != 0o006 {
        eprintln!("cepa exec is tested as root alone: /dev/net/tun is closed to other users");
        return vec![Who::Root];
    }
    vec![Who::Root, Who::Nobody]
}

/// A place that every user can reach and that no command has hidden, with the program.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("cepa-exec-test-")
            .tempdir_in("/var/tmp")
            .unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let program = env!("CARGO_BIN_EXE_cepa");
        // The directory of builds may be closed to others.
        if std::fs::hard_link(program, dir.path().join("cepa")).is_err() {
            std::fs::copy(program, dir.path().join("cepa")).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A directory that belongs to everybody.
    fn open_dir(&self, name: &str) -> PathBuf {
        let dir = self.path(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        dir
    }

    /// `cepa exec` with these arguments, as `who`. It goes on behind `command`, which may lead somewhere first.
    fn exec(&self, mut command: Command, who: Who, args: &[&str]) -> Command {
        if who == Who::Nobody {
            command.args([
                "setpriv",
                "--reuid",
                NOBODY,
                "--regid",
                NOBODY,
                "--clear-groups",
                "--inh-caps=-all",
            ]);
        }
        command.arg(self.path("cepa")).arg("exec").args(args);
        command
            .current_dir("/")
            .env("HOME", self.dir.path())
            .env("PATH", PATH)
            .stdin(Stdio::null());
        command
    }

    /// `cepa exec` by the port `via`, in this test's own network.
    fn exec_here(&self, who: Who, via: &str, args: &[&str]) -> Command {
        let mut before = Command::new("env");
        before.arg("-");
        before.arg(format!("PATH={PATH}"));
        self.exec(before, who, &[&["--via", via], args].concat())
    }
}

/// A Unix socket as `--via` takes it.
fn via(path: &Path) -> String {
    format!("unix:{}", path.display())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the command wrote, if it ended well.
fn good(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}
