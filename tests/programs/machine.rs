//! The machine on which programs run: a namespace with a network of Cepa, one client more, and the world next door.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use crate::support::{self, Testnet, cepa, quiet, succeed};
use crate::{WORLD, prepare};

/// What `.ci/programs` installs for Python and Node.js.
const INSTALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/programs");
/// Makes a new namespace a place to live in: with loopback, and with a `/run` where no service of the machine listens.
const PLACE: &str = "ip link set lo up && mount -t tmpfs -o mode=755 tmpfs /run \
                     && mkdir -m 700 -p /run/user/1000/cepa /run/sshd";
/// Longest that one command may take, in seconds.
const LONGEST: &str = "120";
/// Longest that a page may take to report.
const LONGEST_WAIT: Duration = Duration::from_secs(110);

/// Runs one ignored test of this program in a new network namespace, as the user that we are or as its root.
pub(crate) fn run_apart(test: &str) {
    let mut tried = Vec::new();
    let is_root = rustix::process::geteuid().is_root();
    let apart = |command: &mut Command| {
        command.args(["--net", "--mount"]);
        if !is_root {
            command.args(["--user", "--map-root-user"]);
        }
    };
    let mut can = Command::new("unshare");
    apart(&mut can);
    can.args([
        "sh",
        "-c",
        &format!("{PLACE} && command -v nsenter python3 openssl"),
    ]);
    match can.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => tried.push(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => tried.push(error.to_string()),
    }
    if !tried.is_empty() {
        eprintln!("no network namespaces here, so programs are not tried: {tried:?}");
        return;
    }
    let mut command = Command::new("unshare");
    apart(&mut command);
    let status = command
        .args(["sh", "-c", &format!("{PLACE} && exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed: see above");
}

/// Is this program here? `python3:NAME` is a module, `node:NAME` a package. Says so if it is not.
pub(crate) fn is_here(program: &str) -> bool {
    let is_there = match program.split_once(':') {
        None if program.starts_with("/dev/") => std::fs::File::open(program).is_ok(),
        None => return support::is_here(program),
        Some(("python3", module)) => quiet(
            Command::new("python3")
                .args(["-c", &format!("import {module}")])
                .env("PYTHONPATH", format!("{INSTALLED}/python")),
        ),
        Some((runtime, package)) => {
            is_here(runtime)
                && Path::new(INSTALLED)
                    .join("node_modules")
                    .join(package)
                    .exists()
        }
    };
    if !is_there {
        eprintln!("{program} is not installed; what it would do is not tested");
    }
    is_there
}

/// What a command writes, or what went wrong.
pub(crate) fn said(mut command: Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {said}{errors}", output.status))
}

/// Is there a file of this name, or one that begins with what stands before a final `*`?
pub(crate) fn must_be(dir: &Path, wanted: &str) -> Result<(), String> {
    let names = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = names.collect();
    let is_there = match wanted.strip_suffix('*') {
        Some(start) => names.iter().any(|name| name.starts_with(start)),
        None => dir.join(wanted).exists(),
    };
    is_there
        .then_some(())
        .ok_or_else(|| format!("{wanted} is not there, but {names:?}"))
}

/// Where on the machine a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// Where the client does too.
    Beside,
    /// In the network of `cepa exec`.
    Inside,
}

impl Where {
    /// Those that there are here.
    pub(crate) fn all() -> Vec<Self> {
        match is_here("/dev/net/tun") {
            true => vec![Self::Beside, Self::Inside],
            false => vec![Self::Beside],
        }
    }
}

/// A running machine. The fields' order is that of their ends.
pub(crate) struct Machine {
    client: Child,
    net: Testnet,
    world: Child,
    /// What the world says.
    news: Receiver<String>,
    /// The home of who runs programs, with a folder for each.
    home: tempfile::TempDir,
    /// What the client asked of the kernel's network, if `strace` is here.
    trace: Option<PathBuf>,
}

impl Machine {
    pub(crate) fn start() -> Self {
        // `cepa exec` hides `/tmp`.
        let home = tempfile::tempdir_in("/var/tmp").unwrap();
        prepare::all(home.path());
        let (world, news, resolver) = start_world(home.path());
        let net = Testnet::start(&["--resolver", &resolver]);
        let (client, trace) = start_client(&net, home.path());
        Self {
            client,
            net,
            world,
            news,
            home,
            trace,
        }
    }

    /// The directory in which a section's commands run.
    pub(crate) fn directory_of(&self, title: &str, place: Where) -> PathBuf {
        let dir = self.home.path().join(match place {
            Where::Beside => title.to_owned(),
            Where::Inside => format!("{title} inside"),
        });
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    /// Writes a file of the guide: one of `~` or `/etc` comes into the home of this machine.
    pub(crate) fn put(&self, path: &str, text: &str) {
        let inner = path
            .strip_prefix("~/")
            .or_else(|| path.strip_prefix('/'))
            .expect("~/ or /");
        let path = self.home.path().join(inner);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Waits until the world has kept something under this name.
    pub(crate) fn wait_for(&self, name: &str) -> String {
        let wanted = format!("kept {name}");
        loop {
            let line = self
                .news
                .recv_timeout(LONGEST_WAIT)
                .expect("the world hears of it");
            if line == wanted {
                return self.kept(name).unwrap();
            }
        }
    }

    /// What the world has kept under this name.
    pub(crate) fn kept(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.home.path().join("world").join(name)).ok()
    }

    /// Takes away what the world has kept.
    pub(crate) fn forget(&self, name: &str) {
        std::fs::remove_file(self.home.path().join("world").join(name)).unwrap();
    }

    /// Puts a page on `example.org`.
    pub(crate) fn page(&self, name: &str, text: &str) {
        std::fs::write(self.home.path().join("world/www").join(name), text).unwrap();
    }

    fn command(&self, dir: &Path, place: Where, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command.arg(LONGEST).current_dir(dir);
        if place == Where::Inside {
            command.args(["cepa", "exec", "--"]);
        }
        command.arg(program);
        prepare::environment(&mut command, self.home.path(), Path::new(INSTALLED));
        command
    }

    pub(crate) fn shell(&self, dir: &Path, place: Where, line: &str) -> Command {
        let mut command = self.command(dir, place, "sh");
        command.args(["-c", line]);
        command
    }

    pub(crate) fn python(&self, dir: &Path, place: Where, text: &str) -> Command {
        let mut command = self.command(dir, place, "python3");
        command.args(["-c", text]);
        command
    }

    pub(crate) fn javascript(&self, dir: &Path, place: Where, text: &str) -> Command {
        std::fs::write(dir.join("program.mjs"), text).unwrap();
        // Node.js looks for packages beside the program and in the directories above it.
        let packages = dir.join("node_modules");
        if !packages.exists() {
            std::os::unix::fs::symlink(Path::new(INSTALLED).join("node_modules"), packages)
                .unwrap();
        }
        let mut command = self.command(dir, place, "node");
        command.arg("program.mjs");
        command
    }

    /// Stops all, and looks at what the client asked of the kernel.
    pub(crate) fn stop(mut self) {
        drop(self.client.stdin.take());
        self.client.wait().unwrap();
        assert!(self.net.stop().success());
        drop(self.world.stdin.take());
        self.world.wait().unwrap();
        if let Some(trace) = self.trace {
            asked_nobody(&std::fs::read_to_string(trace).unwrap());
        }
    }
}

/// No look-up of a name, and no datagram but a listener's own.
fn asked_nobody(trace: &str) {
    // Before it listens anywhere, the client asks whose files and directories it has; on some machines nscd knows.
    let (_, later) = trace.split_once(" bind(").expect("the client listens");
    for line in later.lines() {
        let is_question =
            line.contains("htons(53)") || line.contains("nscd") || line.contains("resolve");
        // Those of loopback are its name server's and its associations', whose other ends are programs here.
        let is_datagram =
            line.contains("<UDP") && line.contains("send") && !line.contains("<UDP:[127.0.0.1:");
        assert!(!is_question && !is_datagram, "{line}");
    }
}

/// Starts the world in a namespace of its own and ties it to ours. Gives what it says, and the address of its DNS server too.
fn start_world(home: &Path) -> (Child, Receiver<String>, String) {
    let mut world = Command::new("unshare")
        .args(["--net", "python3"])
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/programs/world.py"
        ))
        .arg(WORLD)
        .arg(home.join("world"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(world.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "here");
    let pid = world.id().to_string();
    let there = |args: &str| run(&format!("nsenter --target {pid} --net {args}"));
    run(&format!(
        "ip link add cepa0 type veth peer name cepa1 netns {pid}"
    ));
    run("ip address add 5.6.7.1/24 dev cepa0");
    run("ip link set cepa0 up");
    there("ip link set lo up");
    there(&format!("ip address add {WORLD}/24 dev cepa1"));
    there("ip link set cepa1 up");
    writeln!(world.stdin.as_mut().unwrap(), "go").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let (says, news) = sync_channel(64);
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            // Who is not waited for is not told.
            let _ = says.try_send(line);
        }
    });
    (world, news, format!("{WORLD}:53"))
}

/// Runs a line of words.
fn run(line: &str) {
    let mut words = line.split(' ');
    succeed(Command::new(words.next().unwrap()).args(words));
}

/// Starts the client that docs/clients.md speaks of. Gives the file with its trace too.
fn start_client(net: &Testnet, home: &Path) -> (Child, Option<PathBuf>) {
    let config = format!(
        "[network]\nfile = {:?}\n[state]\ndir = {:?}\ncheck_permissions = false\n\
         [client]\nsocks = \"127.0.0.1:9350\"\n\
         [[client.listeners]]\naddress = \"unix:/run/user/1000/cepa/port\"\n\
         [[client.listeners]]\naddress = \"127.0.0.1:9353\"\nkind = \"dns\"\n",
        net.network_file(),
        home.join(".local/state/cepa/client"),
    );
    std::fs::write(home.join("node.toml"), config).unwrap();
    let program = cepa();
    let trace = is_here("strace").then(|| home.join("trace"));
    let mut command = match &trace {
        None => cepa(),
        Some(trace) => {
            let mut strace = Command::new("strace");
            strace.args([
                "--follow-forks",
                "--seccomp-bpf",
                "--decode-fds=all",
                "--output",
            ]);
            strace
                .arg(trace)
                .arg("--trace=socket,bind,connect,sendto,sendmsg,sendmmsg");
            strace.arg("--").arg(program.get_program());
            strace
        }
    };
    let mut client = command
        .args(["run", "--exit-with-stdin", "--config"])
        .arg(home.join("node.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let mut lines = BufReader::new(client.stdout.take().unwrap());
    if lines.read_line(&mut ready).unwrap() == 0 {
        client
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut ready)
            .unwrap();
        panic!("{ready}");
    }
    (client, trace)
}
