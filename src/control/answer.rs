//! What is answered on the control socket (docs/control.md): the text alone, without a socket.

use std::net::SocketAddr;

use cepa_common::net::skew;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::request::VERSION;

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The request is done. The value is what that brought.
    Ok(Value),
    /// The request is not done.
    Error {
        /// Why the request is not done, in a sentence without its full stop.
        what: String,
        /// What to try.
        hint: String,
    },
}

impl Answer {
    /// An answer that says that the request is not done.
    pub fn error(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Error {
            what: what.into(),
            hint: hint.into(),
        }
    }

    /// An answer that says that the request is done, and what that brought.
    pub fn ok(result: &impl Serialize) -> Self {
        serde_json::to_value(result).map_or_else(
            |error| Self::error(error.to_string(), "report this: it is a bug"),
            Self::Ok,
        )
    }

    /// The answer as it is sent.
    pub(super) fn line(&self) -> String {
        let mut line = serde_json::json!({ "version": VERSION });
        if let (Some(line), Ok(Value::Object(body))) =
            (line.as_object_mut(), serde_json::to_value(self))
        {
            line.extend(body);
        }
        format!("{line}\n")
    }
}

/// What a new identity brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewIdentity {
    /// Circuits that were retired.
    pub retired: usize,
}

/// How a client does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The stage that the client is at, in words.
    pub stage: String,
    /// How far the client is, in per cent.
    pub percent: u8,
    /// Relays of the consensus that the client holds; `None` without a consensus.
    pub relays: Option<usize>,
    /// Until when that consensus is valid (seconds since 1970).
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
    #[serde(default)]
    pub paired: usize,
    /// Open streams, those of retired circuits among them.
    pub streams: usize,
    /// What asks for somebody's attention.
    pub alarms: Vec<String>,
    /// What else is wrong.
    pub warnings: Vec<String>,
    /// Number of the client's process.
    #[serde(default)]
    pub process: u32,
    /// When the client was started (seconds since 1970).
    #[serde(default)]
    pub started: Option<u64>,
    /// Since when the client is ready (seconds since 1970), if it has been so.
    #[serde(default)]
    pub ready_since: Option<u64>,
    /// Where programs reach the client.
    #[serde(default)]
    pub listeners: Vec<ListenerStatus>,
    /// From when on the consensus is valid (seconds since 1970).
    #[serde(default)]
    pub valid_after: Option<u64>,
    /// Relays of the consensus that let streams out.
    #[serde(default)]
    pub exits: usize,
    /// How many of these exits let datagrams out.
    #[serde(default)]
    pub datagram_exits: usize,
    /// By how many seconds this computer's clock is ahead, or behind if the number is negative, as most of the relays
    /// say that were asked; `None` before three have spoken.
    #[serde(default)]
    pub clock_ahead: Option<i64>,
}

impl Status {
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

/// Where a stream came out.
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
