//! How a client does, and what it did for its owner.

use std::net::SocketAddr;

use cepa_common::net::skew;
use serde::{Deserialize, Serialize};

/// What a new identity brought: `POST /v1/identity`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewIdentity {
    /// Circuits that were retired.
    pub retired: usize,
}

/// What to reach: the body of `POST /v1/reach`, which may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reach {
    /// The destination, `host:port`; without one the exit's resolver, which is asked nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Where a stream came out: `POST /v1/reach`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Identity of the exit.
    pub identity: String,
    /// Nickname of the exit; empty if the consensus lists it no longer.
    pub nickname: String,
    /// Addresses of the exit by the consensus.
    pub addresses: Vec<SocketAddr>,
    /// The exit's country, two letters, if the client has a GeoIP file that knows it.
    pub country: Option<String>,
    /// Relays that the stream passed.
    pub hops: u8,
    /// Time until the exit had answered, with the circuit if one had to be built.
    pub milliseconds: u64,
}

/// How a client does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientStatus {
    /// The stage that the client is at, in words.
    pub stage: String,
    /// How far the client is, in per cent; 100 is ready.
    pub percent: u8,
    /// Since when the client is ready, if it is.
    pub ready_since: Option<u64>,
    /// Where programs reach the client.
    pub listeners: Vec<ListenerStatus>,
    /// Relays of the consensus that the client holds; `None` without a consensus.
    pub relays: Option<usize>,
    /// Relays of the consensus that let streams out.
    pub exits: usize,
    /// How many of these exits let datagrams out.
    pub datagram_exits: usize,
    /// From when on the consensus is valid.
    pub valid_after: Option<u64>,
    /// Until when the consensus is valid.
    pub valid_until: Option<u64>,
    /// The primary guards, the best first.
    pub guards: Vec<GuardStatus>,
    /// Circuits that take streams.
    pub circuits: usize,
    /// How many of these circuits have carried no stream yet.
    pub clean: usize,
    /// Number of circuits that were built since the start.
    pub built: u64,
    /// Circuits whose streams have a second leg.
    pub paired: usize,
    /// Open streams, those of retired circuits among them.
    pub streams: usize,
    /// By how many seconds this computer's clock is ahead, or behind if the number is negative, as most of the relays
    /// say that were asked; `None` before three have spoken.
    pub clock_ahead: Option<i64>,
    /// What asks for somebody's attention.
    pub alarms: Vec<String>,
    /// What else is wrong.
    pub warnings: Vec<String>,
}

impl ClientStatus {
    /// Can streams be opened?
    pub fn is_ready(&self) -> bool {
        self.percent >= 100
    }

    /// Do several relays say that this computer's clock is wrong?
    pub fn clock_is_wrong(&self) -> bool {
        self.clock_ahead.is_some_and(skew::is_wrong)
    }
}

/// One of the client's ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its address: an IP address and a port, or `unix:` and a path.
    pub address: String,
    /// What it speaks: [`ListenerStatus::PROXY`], or another kind of `client.listeners`.
    pub kind: String,
    /// Does it want a user and a password?
    pub asks_who: bool,
}

impl ListenerStatus {
    /// The kind of a port that takes SOCKS and HTTP.
    pub const PROXY: &str = "proxy";
}

/// Whether a guard works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardStatus {
    /// Nickname of the relay.
    pub nickname: String,
    /// Identity of the relay.
    pub identity: String,
    /// `untried`, `answers`, `failing` or `dropped`.
    pub health: String,
}
