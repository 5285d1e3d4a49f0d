//! Which relays a circuit goes through (docs/protocol.md, 6.16).
//!
//! This room is pure: a consensus, a request and randomness go in; a [`Path`], or the rule that left no relay, comes
//! out. The circuit pool calls it, with a new [`PathSelector`] for each consensus, and names the guard by
//! [`PathRequest::guard`]. [`PositionWeights`] says how much a relay counts at which position.

mod apart;
mod geoip;
mod peers;
mod request;
mod rules;
mod select;
mod table;
mod weights;

pub(crate) use apart::nets;
pub use geoip::{Country, GeoIp, GeoIpError};
pub use peers::{AddressRange, DestinationSet, PeerSet, PeerSyntax};
pub use request::{
    DEFAULT_HOPS, ExitTarget, GuardFor, LONG_LIVED_PORTS, PathRequest, Position, Rule,
};
pub use rules::{
    DestinationRule, ListKind, MOST_DESTINATIONS, MOST_GUARDS, MOST_HOPS, PREFERENCE, PeerLists,
    PeerRules, RuleError,
};
pub use select::{Path, PathError, PathSelector};
pub use weights::{ONE, PositionWeights};
