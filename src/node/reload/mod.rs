//! Reads the configuration of a running node again, and hands what is different to those who live by it.
//!
//! All or nothing: the file is read and checked in full first, with what only a start checks, and everything that could
//! fail is made before anything changes. Keys that need a restart stay as they are, and are told of each time. Whoever
//! asks, by a signal or over the control socket, gets a [`Report`], which the log has too. The file itself is looked at
//! from time to time.

mod report;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cepa_client::path::PeerRules;
use cepa_common::world::{Disk, blocking};
use cepa_relay as relay;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::sleep;

pub use self::report::{Refusal, Report};

use super::client as clients;
use super::error::{AppError, PEERS_HINT};
use super::files::read_network;
use super::relay::relay_settings;
use crate::config::{Config, Settling, Source, Stamp};
use crate::terminal::logging;

/// The time between two looks at the file. A file is read again once it was the same at two looks.
const LOOK: Duration = Duration::from_secs(2);

/// Reads the configuration of one node again. Clones are for the same node.
#[derive(Clone)]
pub struct Reload(Arc<Inner>);

struct Inner {
    source: Option<Source>,
    /// How long streams of the exit may go on when the node stops (seconds).
    drain_seconds: AtomicU32,
    state: Mutex<State>,
}

struct State {
    in_force: Config,
    settling: Settling,
    relay: Option<relay::Owner>,
    client: Option<cepa_client::Client>,
    has_started: bool,
}

/// Why a file is refused, and what to try.
struct Refused(String, String);

impl From<AppError> for Refused {
    fn from(error: AppError) -> Self {
        Self(error.to_string(), error.hint().to_owned())
    }
}

impl From<crate::config::ConfigError> for Refused {
    fn from(error: crate::config::ConfigError) -> Self {
        Self(error.to_string(), error.hint().to_owned())
    }
}

impl Reload {
    /// Reads `source` again for a node that starts with `config`, and whose relay is `relay`'s. A node that flags started
    /// has no source.
    pub(super) fn new(
        config: &Config,
        source: Option<Source>,
        relay: Option<relay::Owner>,
    ) -> Self {
        let stamp = source.as_ref().and_then(|source| source.stamp);
        Self(Arc::new(Inner {
            source,
            drain_seconds: AtomicU32::new(drain_seconds(config)),
            state: Mutex::new(State {
                in_force: config.clone(),
                settling: Settling::new(stamp),
                relay,
                client: None,
                has_started: false,
            }),
        }))
    }

    /// The node has started, with this client if it is one. From now on its settings can change.
    pub(super) async fn begin(&self, client: Option<cepa_client::Client>) {
        let mut state = self.0.state.lock().await;
        (state.client, state.has_started) = (client, true);
    }

    /// How long the streams of the exit may go on when the node stops in order.
    pub(super) fn drain(&self) -> Duration {
        Duration::from_secs(self.0.drain_seconds.load(Ordering::Relaxed).into())
    }

    /// Reads the file again, and takes what is different in it.
    pub async fn reload(&self) -> Report {
        let state = self.0.state.lock().await;
        self.reload_with(state).await
    }

    /// Looks at the file for as long as the future is polled, and reads it again once it is another one and no longer
    /// being written.
    pub(super) async fn follow(self) {
        let Some(source) = self.0.source.clone() else {
            return;
        };
        loop {
            sleep(LOOK).await;
            let looked = source.clone();
            let Ok(stamp) = blocking::run(move || looked.look()).await else {
                return;
            };
            let mut state = self.0.state.lock().await;
            if state.settling.look(stamp) {
                self.reload_with(state).await;
            }
        }
    }

    async fn reload_with(&self, mut state: MutexGuard<'_, State>) -> Report {
        let file = self
            .0
            .source
            .as_ref()
            .map(|source| source.path.display().to_string());
        let report = match self.take(&mut state).await {
            Ok(report) => Report { file, ..report },
            Err(Refused(what, hint)) => Report::refuse(file, what, &hint),
        };
        report.log();
        report
    }

    async fn take(&self, state: &mut State) -> Result<Report, Refused> {
        let refuse = |what: &str, hint: &str| Err(Refused(what.to_owned(), hint.to_owned()));
        if !state.has_started {
            return refuse("the node still starts", "try again when it is ready");
        }
        let Some(source) = self.0.source.clone() else {
            return Ok(Report::of_no_file(None));
        };
        let read = blocking::run(move || read(&source)).await;
        let (read, stamp) = read.map_err(|error| Refused(error.to_string(), String::new()))?;
        state.settling.take(stamp);
        let new = read?;
        let merged = state.in_force.taking(&new)?;
        let (restart, changed) = (state.in_force.compare(&new).into_iter())
            .partition::<Vec<_>, _>(|difference| difference.restart.is_some());
        let mut report = Report {
            changed,
            restart,
            ..Report::default()
        };
        if report.changed.is_empty() {
            return Ok(report);
        }
        // What can fail comes first.
        let relay = relay_settings(&merged)?;
        let lists = lists(state, &merged)?;
        let filter = logging::parse_filter(&merged.log.level).map_err(|error| {
            Refused(
                error.to_string(),
                "docs/config.md describes log.level".to_owned(),
            )
        })?;
        if let (Some(owner), Some(settings)) = (&state.relay, relay) {
            report.streams_ended = owner.set(settings).streams;
        }
        if merged.log.level != state.in_force.log.level
            && let Err(why) = logging::set_filter(filter)
        {
            let is_level = |difference: &crate::config::Difference| difference.key == "log.level";
            let levels = report.changed.extract_if(.., |it| is_level(it));
            let levels: Vec<_> = levels.collect();
            report.restart.extend(levels.into_iter().map(|mut level| {
                level.restart = Some(why.to_string());
                level
            }));
        }
        if let Some(client) = &state.client {
            client.set_memory((merged.limits.client_memory_mib as usize) << 20);
            if let Some(settings) = &merged.client {
                client.set_multipath(clients::multipath(settings.multipath));
            }
            report.circuits_retired = lists.map_or(0, |rules| client.set_rules(rules));
        }
        let drain = drain_seconds(&merged);
        self.0.drain_seconds.store(drain, Ordering::Relaxed);
        state.in_force = merged;
        Ok(report)
    }
}

/// The rules for paths of the node's client, if `new` has other lists of relays.
fn lists(state: &State, new: &Config) -> Result<Option<PeerRules>, Refused> {
    let lists = |config: &Config| config.client.as_ref().map(|client| client.peers.clone());
    let (Some(client), Some(settings)) = (&state.client, &new.client) else {
        return Ok(None);
    };
    if lists(&state.in_force) == lists(new) {
        return Ok(None);
    }
    let rules = settings.peer_rules(client.rules().geoip.clone())?;
    client
        .check_rules(&rules)
        .map_err(|error| Refused(error.to_string(), PEERS_HINT.to_owned()))?;
    Ok(Some(rules))
}

/// How long the streams of the exit of `config` may go on when it stops (seconds).
fn drain_seconds(config: &Config) -> u32 {
    config.exit.as_ref().map_or(0, |exit| exit.drain_seconds)
}

/// Reads the file and does what only a start does otherwise: looks at the files that it names. This call blocks on the
/// disk. Says as well as what the file was taken.
fn read(source: &Source) -> (Result<Config, Refused>, Option<Stamp>) {
    let stamp = source.look();
    let read = || {
        let (config, _) = source.read_again()?.ok_or_else(|| {
            let what = format!("{} was written while it was read", source.path.display());
            Refused(what, "try again when it is written to its end".to_owned())
        })?;
        named_files(&config)?;
        Ok(config)
    };
    (read(), stamp)
}

/// Looks at the files that `config` names and that must be there.
fn named_files(config: &Config) -> Result<(), Refused> {
    read_network(&config.network.file)?;
    let mut named: Vec<(&str, &Path)> = Vec::new();
    if let Some(client) = &config.client {
        named.extend(client.geoip.as_deref().map(|path| ("client.geoip", path)));
        named.extend(
            client
                .credentials
                .as_deref()
                .map(|path| ("client.credentials", path)),
        );
        let listeners = client.listeners.iter();
        let files = listeners.filter_map(|listener| listener.credentials.as_deref());
        named.extend(files.map(|path| ("client.listeners", path)));
    }
    if let Some(relay) = &config.relay {
        named.extend(
            relay
                .certificate
                .as_deref()
                .map(|path| ("relay.certificate", path)),
        );
    }
    for (key, path) in named {
        if let Err(error) = Disk::Real.read_into(path, &mut [0]) {
            return Err(Refused(
                format!("{key}: cannot read {}: {error}", path.display()),
                "check the path, and that this account may read the file".to_owned(),
            ));
        }
    }
    Ok(())
}
