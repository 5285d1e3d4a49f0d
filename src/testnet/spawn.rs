//! Runs each node of a network as a process of its own.
//!
//! Each process is `cepa run --exit-with-stdin` with a pipe as its standard input. The system closes the pipe when this
//! process ends, even by SIGKILL, and the node stops. So no child outlives this process, without a watchdog and without
//! `unsafe`. A node writes a line that begins with `ready` when it is ready, so nothing is polled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::here::percent;
use super::layout::Layout;
use super::plan::{PlannedNode, Role};
use crate::harden::LET_DEBUGGERS_IN;
use crate::terminal::CliError;
use crate::terminal::output::{Meter, note};

/// A node that takes longer than this to stop is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Number of deaths that may wait to be reported, which is more than there are nodes.
const DEATHS_QUEUED: usize = 256;
/// Number of lines of a failed node's log that are shown.
const LOG_TAIL_LINES: usize = 5;

/// What a node's supervisor has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Run,
    Stop,
    Kill,
}

/// The end of a node that nobody had asked to stop.
struct Death {
    name: String,
    pid: u32,
    status: String,
}

/// A running node.
struct Member {
    name: String,
    pid: u32,
    is_client: bool,
    phase: watch::Sender<Phase>,
    supervisor: JoinHandle<()>,
}

/// All nodes that have been spawned.
pub(super) struct Fleet {
    program: PathBuf,
    members: Vec<Member>,
    deaths: mpsc::Receiver<Death>,
    on_death: mpsc::Sender<Death>,
}

impl Fleet {
    /// A fleet without nodes.
    pub(super) fn new() -> Result<Self, CliError> {
        let program = std::env::current_exe().map_err(|error| {
            CliError::failed(
                format!("cannot find this program's own file: {error}"),
                "start it without --processes",
            )
        })?;
        let (on_death, deaths) = mpsc::channel(DEATHS_QUEUED);
        Ok(Self {
            program,
            members: Vec::new(),
            deaths,
            on_death,
        })
    }

    /// Spawns every node and waits until each is ready. The client is last, because it has nobody to ask before.
    pub(super) async fn start(&mut self, layout: &Layout, meter: &Meter) -> Result<(), CliError> {
        let plan = &layout.plan;
        let (clients, others): (Vec<_>, Vec<_>) = plan
            .nodes
            .iter()
            .partition(|node| node.roles.contains(&Role::Client));
        let mut waiting = Vec::new();
        for node in &others {
            waiting.push((node, self.spawn(layout, node)?));
        }
        for (done, (node, ready)) in waiting.into_iter().enumerate() {
            wait_ready(layout, node, ready).await?;
            let (done, count) = (done + 1, others.len());
            meter.show(
                percent(done, count, 33),
                &format!("{done} of {count} authorities and relays listen"),
            );
        }
        for client in clients {
            meter.show(50, "the client waits for a consensus");
            let ready = self.spawn(layout, client)?;
            wait_ready(layout, client, ready).await?;
        }
        Ok(())
    }

    /// The process id of each node, by name.
    pub(super) fn pids(&self) -> BTreeMap<String, u32> {
        self.members
            .iter()
            .map(|member| (member.name.clone(), member.pid))
            .collect()
    }

    /// Reports on standard error which nodes end. The future never completes.
    pub(super) async fn report_deaths(&mut self) {
        while let Some(death) = self.deaths.recv().await {
            note(&format!(
                "{} (pid {}) {}; the rest goes on",
                death.name, death.pid, death.status
            ));
        }
    }

    /// Stops every node, clients first.
    pub(super) async fn stop(&mut self) {
        for client in [true, false] {
            for member in self
                .members
                .iter()
                .filter(|member| member.is_client == client)
            {
                member.phase.send_replace(Phase::Stop);
            }
            for member in self
                .members
                .iter_mut()
                .filter(|member| member.is_client == client)
            {
                // A supervisor can fail only by a bug, and the pipe is closed even then.
                let _ = (&mut member.supervisor).await;
            }
        }
        self.members.clear();
    }

    /// Kills every node that is still there.
    pub(super) async fn kill(&mut self) {
        for member in &self.members {
            member.phase.send_replace(Phase::Kill);
        }
        for member in self
            .members
            .drain(..)
            .filter(|member| !member.supervisor.is_finished())
        {
            let _ = member.supervisor.await;
        }
    }

    fn spawn(
        &mut self,
        layout: &Layout,
        node: &PlannedNode,
    ) -> Result<oneshot::Receiver<()>, CliError> {
        let failed = |error: String| {
            CliError::failed(
                format!("cannot start {}: {error}", node.name),
                "check the limits on processes and files, or start without --processes",
            )
        };
        // What a node prints beside its log, such as why it could not start, goes to the log too.
        let log = crate::terminal::logging::open(&layout.plan.log_file(node))?;
        let mut child = Command::new(&self.program)
            .arg("run")
            .arg("--exit-with-stdin")
            .arg("--config")
            .arg(layout.plan.config_file(node))
            // The network is a test's: who measures it may look into it.
            .env(LET_DEBUGGERS_IN, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C goes to the whole process group in front. This process stops the nodes itself, in order, so they
            // have a group of their own.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let pid = child
            .id()
            .ok_or_else(|| failed("it ended at once".to_owned()))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.ok_or_else(|| failed("it has no pipes".to_owned()))?;
        let (on_ready, ready) = oneshot::channel();
        let (phase, phases) = watch::channel(Phase::Run);
        let supervisor = Supervisor {
            name: node.name.clone(),
            pid,
            child,
            stdin,
            phases,
            on_death: self.on_death.clone(),
        };
        self.members.push(Member {
            name: node.name.clone(),
            pid,
            is_client: node.roles.contains(&Role::Client),
            phase,
            supervisor: tokio::spawn(supervisor.run(stdout, on_ready)),
        });
        Ok(ready)
    }
}

/// Owns one node's process.
struct Supervisor {
    name: String,
    pid: u32,
    child: Child,
    /// The pipe is held apart from the child, whose `wait` would close it.
    stdin: ChildStdin,
    phases: watch::Receiver<Phase>,
    on_death: mpsc::Sender<Death>,
}

impl Supervisor {
    /// Reports the node's line by `on_ready`, then waits for the node's end, whether it was asked to stop or not.
    async fn run(mut self, stdout: ChildStdout, on_ready: oneshot::Sender<()>) {
        let ready = async {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with("ready") {
                    // The receiver may have given up.
                    let _ = on_ready.send(());
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // A request to stop is looked at first: a node that dies after it was asked to stop.
            biased;
            _ = self.phases.wait_for(|phase| *phase != Phase::Run) => {}
            status = self.child.wait() => {
                let status = status.map_or_else(|error| error.to_string(), describe);
                let death = Death { name: self.name, pid: self.pid, status };
                // The queue is full only if nobody listens any more.
                let _ = self.on_death.try_send(death);
                return;
            }
            () = ready => {}
        }
        drop(self.stdin);
        tokio::select! {
            _ = self.child.wait() => return,
            _ = self.phases.wait_for(|phase| *phase == Phase::Kill) => {}
            () = tokio::time::sleep(STOP_DEADLINE) => {}
        }
        // The process may have ended at this moment.
        let _ = self.child.kill().await;
    }
}

/// Waits until `node` is ready. If it ends before, the error shows the last lines of its log.
async fn wait_ready(
    layout: &Layout,
    node: &PlannedNode,
    ready: oneshot::Receiver<()>,
) -> Result<(), CliError> {
    ready.await.map_err(|_| {
        let log = layout.plan.log_file(node);
        CliError::failed(
            format!("{} ended before it was ready{}", node.name, tail(&log)),
            "start the network with --dir DIR, which keeps the logs, and look at them",
        )
    })
}

/// The last lines of the log at `path`.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_TAIL_LINES);
    lines[from..]
        .iter()
        .fold(String::new(), |tail, line| tail + "\n  " + line)
}

/// Says in words how a process ended.
fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
