//! What a client says of itself.

use std::sync::atomic::{AtomicU64, Ordering};

use cepa_client::guard::GuardHealth;
use cepa_client::{Client, ClientEvent, ProbeReport, Warning};
use cepa_common::dir::{Entry, Flags, Transport};
use cepa_common::world::Clock;

use crate::control::answer::{ClientStatus, GuardStatus, ListenerStatus, Reached};
use crate::node::ClientRole;

/// What is known of a client's life besides what the client says.
pub(super) struct Life {
    /// Since when it is ready (seconds since 1970); zero before.
    ready_since: AtomicU64,
    listeners: Vec<ListenerStatus>,
}

impl Life {
    pub(super) fn new(role: &ClientRole) -> Self {
        let listeners = role.listeners.iter().map(|listener| ListenerStatus {
            address: listener.address.to_string(),
            kind: listener.kind.word().to_owned(),
            asks_who: listener.credentials.is_some(),
        });
        Self {
            ready_since: AtomicU64::new(0),
            listeners: listeners.collect(),
        }
    }

    /// Notes when the client is ready for the first time, and again after each time that it was not.
    pub(super) async fn follow(&self, client: &Client) {
        let mut events = client.events();
        while let Some(event) = events.next().await {
            match event {
                ClientEvent::Ready => {
                    let now = Clock::system().now_secs();
                    self.ready_since.store(now, Ordering::Relaxed);
                }
                ClientEvent::Lost(_) => self.ready_since.store(0, Ordering::Relaxed),
                _ => {}
            }
        }
    }
}

pub(super) fn reached(report: ProbeReport) -> Reached {
    Reached {
        identity: report.exit.to_string(),
        nickname: report.nickname,
        addresses: report.addresses,
        country: report.country.map(|country| country.to_string()),
        hops: report.hops,
        milliseconds: u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
    }
}

pub(super) fn status(client: &Client, life: &Life) -> ClientStatus {
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
    ClientStatus {
        percent: stage.percent().unwrap_or_default(),
        stage: stage.to_string(),
        ready_since: Some(life.ready_since.load(Ordering::Relaxed)).filter(|since| *since > 0),
        listeners: life.listeners.clone(),
        relays: consensus.as_ref().map(|c| c.entries().len()),
        exits: exits().count(),
        datagram_exits: exits().filter(carries).count(),
        valid_after: consensus.as_ref().map(|c| c.lifetime().valid_after),
        valid_until: consensus.as_ref().map(|c| c.lifetime().valid_until),
        guards: guards.collect(),
        circuits: counts.ready,
        clean: counts.clean,
        built: counts.built,
        paired: counts.paired,
        streams: counts.streams,
        clock_ahead: client.clock_skew().estimate(),
        alarms: words(alarms),
        warnings: words(warnings),
    }
}
