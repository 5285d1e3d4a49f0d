//! What is answered on the control socket (docs/control.md): the text alone, without a socket.

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
    /// The ports that let programs in without a password: `ADDR:PORT`, or `unix:PATH`.
    #[serde(default)]
    pub listeners: Vec<String>,
    /// What asks for somebody's attention.
    pub alarms: Vec<String>,
    /// What else is wrong.
    pub warnings: Vec<String>,
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
