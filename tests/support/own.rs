//! A network that is made by hand, as its owner would make it: an authority and relays, each of them a process.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use cepa_common::dir::{Consensus, Entry, NetworkFile};
use cepa_common::ids::RelayId;
use cepa_common::net::directory::fetch_consensus;
use cepa_common::net::establish;
use cepa_common::net::tls::Tls;

use super::{cepa, send, until};

/// Authorities, which are relays too, and the other nodes that were started.
pub(crate) struct OwnNetwork {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) file: NetworkFile,
    children: Vec<(String, Child)>,
}

/// The longest time until a change is in the consensus.
const LISTED_WITHIN: Duration = Duration::from_secs(60);

/// Parameters of every such network: it is on one machine and has a consensus every two seconds.
const PARAMS: [&str; 7] = [
    "subnet_rule=0",
    "allow_private_addresses=1",
    "max_relays_per_address=65535",
    "vote_interval_seconds=2",
    "reachability_interval_seconds=4",
    "stable_min_age_seconds=0",
    "guard_min_age_seconds=0",
];

pub(crate) fn free_port() -> u16 {
    let any = TcpListener::bind("127.0.0.1:0").unwrap();
    any.local_addr().unwrap().port()
}

impl OwnNetwork {
    /// A network of the authority "oak".
    pub(crate) fn start(params: &[&str]) -> Self {
        Self::with_authorities(&["oak"], params)
    }

    /// A network of authorities with these names.
    pub(crate) fn with_authorities(names: &[&str], params: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authorities: Vec<String> = names
            .iter()
            .flat_map(|name| {
                let authority = format!("{name}=127.0.0.1:{}", free_port());
                ["--authority".to_owned(), authority]
            })
            .collect();
        let params = PARAMS.iter().chain(params).flat_map(|p| ["--param", p]);
        let made = cepa()
            .args(["authority", "init", "--name", "own", "--dir"])
            .arg(dir.path().join("net"))
            .args(authorities)
            .args(params)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let text = std::fs::read_to_string(dir.path().join("net/network.toml")).unwrap();
        let mut own = Self {
            dir,
            file: NetworkFile::parse(&text).unwrap(),
            children: Vec::new(),
        };
        for name in names {
            own.authority(name);
        }
        own
    }

    /// Starts the authority `name`, again if it was stopped.
    pub(crate) fn authority(&mut self, name: &str) {
        let config = self.path(&format!("net/{name}/node.toml"));
        self.spawn(name, &["run", "--config", &config]);
    }

    /// A path in the network's directory.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs the program in the network's directory.
    pub(crate) fn cepa(&self, args: &[&str]) -> Output {
        cepa()
            .current_dir(self.dir.path())
            .args(args)
            .output()
            .unwrap()
    }

    /// Runs the program like [`OwnNetwork::cepa`] and expects success. Returns the first word of the output.
    pub(crate) fn says(&self, args: &[&str]) -> String {
        let done = self.cepa(args);
        assert!(
            done.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        let text = String::from_utf8(done.stdout).unwrap();
        text.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    /// Starts a relay with the state directory `name`.
    pub(crate) fn relay(&mut self, name: &str, more: &[&str]) -> SocketAddr {
        self.relay_at(([127, 0, 0, 1], free_port()).into(), name, more)
    }

    /// Starts a relay at `address`.
    pub(crate) fn relay_at(
        &mut self,
        address: SocketAddr,
        name: &str,
        more: &[&str],
    ) -> SocketAddr {
        let address = address.to_string();
        let args = [
            "relay",
            "--network",
            "net/network.toml",
            "--listen",
            &address,
            "--nickname",
            name,
            "--state",
            name,
        ];
        self.spawn(name, &[&args, more].concat());
        address.parse().unwrap()
    }

    /// Starts a client. Returns the address that applications connect to.
    pub(crate) fn proxy(&mut self) -> SocketAddr {
        let address = format!("127.0.0.1:{}", free_port());
        let args = [
            "proxy",
            "--network",
            "net/network.toml",
            "--allow-private",
            "--socks",
            &address,
            "--state",
            "client",
        ];
        self.spawn("client", &args);
        address.parse().unwrap()
    }

    /// What the node `name` has logged.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_path(name)).unwrap()
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    /// Starts a node and waits until it says that it is ready.
    fn spawn(&mut self, name: &str, args: &[&str]) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(name))
            .unwrap();
        let mut child = cepa()
            .current_dir(self.dir.path())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // A node that fails ends without saying so.
        let ready = lines
            .next()
            .is_some_and(|line| line.unwrap().starts_with("ready"));
        self.children.push((name.to_owned(), child));
        assert!(ready, "{name}: {}", self.log(name));
    }

    /// Stops the node `name` as a user would.
    pub(crate) fn stop(&mut self, name: &str) {
        self.end(name, rustix::process::Signal::TERM);
    }

    /// Stops the node `name` as Ctrl-C would.
    pub(crate) fn interrupt(&mut self, name: &str) {
        self.end(name, rustix::process::Signal::INT);
    }

    /// Ends the node `name` as a crash would.
    pub(crate) fn crash(&mut self, name: &str) {
        self.end(name, rustix::process::Signal::KILL);
    }

    fn end(&mut self, name: &str, signal: rustix::process::Signal) {
        let at = self
            .children
            .iter()
            .position(|(child, _)| child == name)
            .unwrap();
        let (_, mut child) = self.children.remove(at);
        send(child.id(), signal);
        child.wait().unwrap();
    }

    /// The newest consensus of the authority.
    pub(crate) async fn consensus(&self) -> Option<std::sync::Arc<Consensus>> {
        let authority = &self.file.authorities()[0];
        let tls = Tls::client();
        let io = establish::dial_http(&authority.addresses, authority.identity.0, &tls);
        let patience = Duration::from_secs(10);
        fetch_consensus(io.await.ok()?, &self.file, None, patience)
            .await
            .ok()?
    }

    /// Waits for a consensus with a relay of this nickname. Returns the relay's identity.
    pub(crate) async fn listed_as(&self, nickname: &str) -> RelayId {
        let what = format!("{nickname} in the consensus");
        until(&what, LISTED_WITHIN, async || {
            let consensus = self.consensus().await.ok_or("no consensus")?;
            let mut entries = consensus.entries().iter();
            let entry = entries.find(|entry| entry.nickname == nickname);
            entry
                .map(|entry| entry.identity)
                .ok_or_else(|| format!("{} relays", consensus.entries().len()))
        })
        .await
    }

    /// Waits for a consensus whose entry of `relay` is as wanted.
    pub(crate) async fn listed(&self, relay: RelayId, is_wanted: impl Fn(&Entry) -> bool) -> Entry {
        until("the entry as wanted", LISTED_WITHIN, async || {
            let consensus = self.consensus().await.ok_or("no consensus")?;
            let entry = consensus.relay(&relay);
            let wanted = entry.filter(|entry| is_wanted(entry)).cloned();
            wanted.ok_or_else(|| format!("{entry:?}"))
        })
        .await
    }
}

impl Drop for OwnNetwork {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
