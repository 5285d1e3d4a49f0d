//! What a client answers its owner: how it does, and that its circuits are retired.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cepa_client::guard::GuardHealth;
use cepa_client::{Client, ClientEvent, Warning};
use cepa_common::dir::{Entry, Flags, Transport};
use cepa_common::sync::lock;
use cepa_common::world::{Clock, steady};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::answer::{Answer, GuardStatus, ListenerStatus, NewIdentity, Reached, Status};
use super::request::ControlRequest;
use super::running::{self, Running};
use super::socket::{Control, Handler};
use crate::config::Listener;
use crate::terminal::Progress;

/// A new identity is given at most once in this time (Tor's limit on NEWNYM).
const IDENTITY_EVERY: Duration = Duration::from_secs(10);

/// Lets the owner of `client` ask it over a socket in the state directory `dir`, which is locked by the client's node.
/// Programs reach the client at `listeners`.
///
/// A client without the socket is of use as well: that there is none is said to `progress` and to the log, and no more.
/// The socket is gone when the tasks end.
pub fn attend(
    dir: &Path,
    client: &Client,
    listeners: &[Listener],
    progress: &watch::Sender<Progress>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    match Control::listen(dir) {
        Ok(control) => {
            let told = running::directory().map(|directory| Running::tell(&directory, dir));
            let running = told.and_then(|told| {
                told.inspect_err(|error| {
                    tracing::info!(%error, "`cepa status` finds this client only by its --state DIR");
                })
                .ok()
            });
            let life = Arc::new(Life::new(listeners));
            tasks.spawn(wait_until_ready(client.clone(), life.clone()));
            let serving = control.serve(handler(client.clone(), life));
            tasks.spawn(async move {
                serving.await;
                drop(running);
            });
        }
        Err(error) => {
            let lost = "`cepa status` and `cepa new-identity` will not find this client";
            tracing::warn!(%error, "{lost}");
            progress.send_modify(|progress| {
                progress.warnings.push(format!("warning: {lost}: {error}"));
            });
        }
    }
    tasks
}

/// Keeps new identities apart.
#[derive(Debug, Default)]
struct IdentityLimit(Option<Instant>);

impl IdentityLimit {
    /// May there be a new identity now? The error says how long to wait.
    fn ask(&mut self, now: Instant) -> Result<(), Duration> {
        let since = self.0.map(|last| now.saturating_duration_since(last));
        match since.and_then(|since| IDENTITY_EVERY.checked_sub(since)) {
            Some(left) if !left.is_zero() => Err(left),
            _ => {
                self.0 = Some(now);
                Ok(())
            }
        }
    }
}

/// What is known of a client's life besides what the client says.
struct Life {
    /// When it was started (seconds since 1970).
    started: u64,
    /// Since when it is ready; zero before.
    ready_since: AtomicU64,
    listeners: Vec<ListenerStatus>,
}

impl Life {
    fn new(listeners: &[Listener]) -> Self {
        let listeners = listeners.iter().map(|listener| ListenerStatus {
            address: listener.address.to_string(),
            kind: listener.kind.word().to_owned(),
            asks_who: listener.credentials.is_some(),
        });
        Self {
            started: Clock::system().now_secs(),
            ready_since: AtomicU64::new(0),
            listeners: listeners.collect(),
        }
    }
}

/// Notes when the client is ready for the first time, and again after each time that it was not.
async fn wait_until_ready(client: Client, life: Arc<Life>) {
    let mut events = client.events();
    while let Some(event) = events.next().await {
        match event {
            ClientEvent::Ready => {
                let now = Clock::system().now_secs();
                life.ready_since.store(now, Ordering::Relaxed);
            }
            ClientEvent::Lost(_) => life.ready_since.store(0, Ordering::Relaxed),
            _ => {}
        }
    }
}

/// Answers what is asked of `client` over the control socket.
fn handler(client: Client, life: Arc<Life>) -> Handler {
    let limit = Mutex::new(IdentityLimit::default());
    Arc::new(move |request| {
        let answer = match request {
            ControlRequest::Status => Answer::ok(&status(&client, &life)),
            ControlRequest::NewIdentity => new_identity(&client, &mut lock(&limit)),
            ControlRequest::Reach { to } => {
                let client = client.clone();
                return Box::pin(async move { reach(&client, to.as_deref()).await });
            }
        };
        Box::pin(core::future::ready(answer))
    })
}

fn new_identity(client: &Client, limit: &mut IdentityLimit) -> Answer {
    match limit.ask(steady::now()) {
        Ok(()) => Answer::ok(&NewIdentity {
            retired: client.new_identity(),
        }),
        Err(left) => Answer::error(
            "a new identity was given just now",
            format!("ask again in {} s", left.as_millis().div_ceil(1_000)),
        ),
    }
}

async fn reach(client: &Client, to: Option<&str>) -> Answer {
    match Box::pin(client.probe(to)).await {
        Ok(report) => Answer::ok(&Reached {
            identity: report.exit.to_string(),
            nickname: report.nickname,
            addresses: report.addresses,
            country: report.country.map(|country| country.to_string()),
            hops: report.hops,
            milliseconds: u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
        }),
        Err(error) => Answer::error(
            error.to_string(),
            "`cepa status` and the client's log say more",
        ),
    }
}

fn status(client: &Client, life: &Life) -> Status {
    let stage = client.stage();
    let consensus = client.consensus();
    let counts = client.circuits().counts();
    let guards = client.circuits().guards();
    let guards = guards.iter().map(|guard| GuardStatus {
        nickname: client.circuits().nickname(&guard.identity),
        identity: guard.identity.to_string(),
        health: match guard.health {
            GuardHealth::Untried => "untried",
            GuardHealth::Answers => "answers",
            GuardHealth::Failing => "failing",
            GuardHealth::Dropped => "dropped",
        }
        .to_owned(),
    });
    let (alarms, warnings): (Vec<Warning>, _) = client
        .warnings()
        .into_iter()
        .partition(|warning| warning.is_alarm());
    let words = |warnings: Vec<Warning>| warnings.iter().map(ToString::to_string).collect();
    let entries = consensus.as_ref().map_or(&[][..], |c| c.entries());
    let exits = || {
        let runs = entries
            .iter()
            .filter(|entry| entry.flags.contains(Flags::RUNNING));
        runs.filter(|entry| entry.flags.contains(Flags::EXIT))
    };
    let carries = |entry: &&Entry| !entry.ports(Transport::Udp).is_reject_all();
    Status {
        percent: stage.percent().unwrap_or_default(),
        stage: stage.to_string(),
        relays: consensus.as_ref().map(|c| c.entries().len()),
        valid_until: consensus.as_ref().map(|c| c.lifetime().valid_until),
        guards: guards.collect(),
        circuits: counts.ready,
        clean: counts.clean,
        built: counts.built,
        paired: counts.paired,
        streams: counts.streams,
        alarms: words(alarms),
        warnings: words(warnings),
        process: std::process::id(),
        started: Some(life.started),
        ready_since: Some(life.ready_since.load(Ordering::Relaxed)).filter(|since| *since > 0),
        listeners: life.listeners.clone(),
        valid_after: consensus.as_ref().map(|c| c.lifetime().valid_after),
        exits: exits().count(),
        datagram_exits: exits().filter(carries).count(),
        clock_ahead: client.clock_skew().estimate(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_identities_are_ten_seconds_apart() {
        let (mut limit, start) = (IdentityLimit::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(limit.ask(start), Ok(()));
        assert_eq!(limit.ask(start + 3 * second), Err(7 * second));
        assert_eq!(limit.ask(start + 10 * second), Ok(()));
        assert!(limit.ask(start + 11 * second).is_err());
    }
}
