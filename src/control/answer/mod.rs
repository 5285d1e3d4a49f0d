//! What is asked and answered by the control API (docs/control.md): a type for each answer, which the program itself
//! reads again.
//!
//! Whoever reads an answer passes over fields that he does not know: later versions add some. Times are seconds since
//! 1970, unless the field's name ends in another unit. What is not known is null.

mod authority;
mod client;
mod relay;

use serde::{Deserialize, Serialize};

pub use authority::{
    AuthorityStatus, MeasuredStatus, RelaySumsStatus, SignaturesStatus, VotesStatus,
};
pub use client::{ClientStatus, GuardStatus, ListenerStatus, NewIdentity, Reach, Reached};
pub use relay::{
    CarriedStatus, CertificateStatus, ConsensusStatus, DescriptorStatus, ExitStatus, KeysStatus,
    LimitStatus, LinksStatus, ListingStatus, MissingFlagStatus, OnionKeyStatus, QueuesStatus,
    RefusalStatus, RelayStatus,
};

/// How a node does: `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the node's program.
    pub version: String,
    /// Number of the node's process.
    pub process: u32,
    /// When the node was started.
    pub started: u64,
    /// The time by the node's clock.
    pub now: u64,
    /// What the node is.
    pub roles: Vec<Role>,
    /// How the client does, if the node is one.
    pub client: Option<ClientStatus>,
    /// How the relay does, if the node is one; exits and authorities are.
    pub relay: Option<RelayStatus>,
    /// How the authority does, if the node is one and its authority answers.
    pub authority: Option<AuthorityStatus>,
}

/// A role of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It carries its owner's streams into the network.
    Client,
    /// It carries circuits of others.
    Relay,
    /// It lets streams out of the network.
    Exit,
    /// It makes the consensus, with other authorities.
    Authority,
}

impl Role {
    /// The role's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Relay => "relay",
            Self::Exit => "exit",
            Self::Authority => "authority",
        }
    }
}

impl Status {
    /// Does each role do its work? A client takes streams, a relay that wants to be listed is reached by most authorities,
    /// and an authority has served a consensus that clients can use now.
    pub fn is_ready(&self) -> bool {
        let relay = |relay: &RelayStatus| relay.listing.is_as_wanted();
        let newest = self.authority.as_ref().and_then(|one| one.newest.as_ref());
        let is_served = newest.is_some_and(|newest| newest.valid_until > self.now);
        self.client.as_ref().is_none_or(ClientStatus::is_ready)
            && self.relay.as_ref().is_none_or(relay)
            && (is_served || !self.roles.contains(&Role::Authority))
    }
}

/// The answer to a request that is refused or has failed, whatever its path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// What went wrong.
    pub error: ErrorSays,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorSays {
    /// Which error this is, for programs; docs/control.md lists them.
    pub code: String,
    /// What went wrong, in a sentence without its full stop.
    pub what: String,
    /// What to try.
    pub hint: String,
}
