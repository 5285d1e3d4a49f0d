//! What a client answers its owner: how it does, and that its circuits are retired.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cepa_client::guard::GuardHealth;
use cepa_client::{Client, Warning};
use cepa_common::sync::lock;
use cepa_common::world::steady;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::answer::{Answer, GuardStatus, NewIdentity, Status};
use super::request::ControlRequest;
use super::running::{self, Running};
use super::socket::Control;
use crate::config::ListenAddress;
use crate::terminal::Progress;

/// A new identity is given at most once in this time (Tor's limit on NEWNYM).
const IDENTITY_EVERY: Duration = Duration::from_secs(10);

/// Lets the owner of `client` ask it over a socket in the state directory `dir`, which is locked by the client's node.
/// `ports` let programs in without a password.
///
/// A client without the socket is of use as well: that there is none is said to `progress` and to the log, and no more.
/// The socket is gone when the tasks end.
pub fn attend(
    dir: &Path,
    client: &Client,
    ports: Vec<ListenAddress>,
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
            let serving = control.serve(handler(client.clone(), ports));
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

/// Answers what is asked of `client` over the control socket.
fn handler(
    client: Client,
    ports: Vec<ListenAddress>,
) -> Arc<dyn Fn(ControlRequest) -> Answer + Send + Sync> {
    let limit = Mutex::new(IdentityLimit::default());
    Arc::new(move |request| match request {
        ControlRequest::Status => Answer::ok(&status(&client, &ports)),
        ControlRequest::NewIdentity => {
            let mut limit = lock(&limit);
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
    })
}

fn status(client: &Client, ports: &[ListenAddress]) -> Status {
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
    Status {
        percent: stage.percent().unwrap_or_default(),
        stage: stage.to_string(),
        listeners: ports.iter().map(ToString::to_string).collect(),
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
