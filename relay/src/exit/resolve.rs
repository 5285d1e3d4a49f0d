//! Resolves names to addresses at the exit (S32).
//!
//! hickory checks the id, question, source and compression of an answer, and bounds its chain of CNAMEs. This file adds
//! what hickory leaves open: which names may be asked for, how long a lookup may take, and how much is remembered.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cepa_common::budget::Budget;
use cepa_common::cell::message::{SpecialName, is_name};
use cepa_common::world::names::GivenNames;
use cepa_common::world::{World, steady};
use hickory_resolver::config::{ResolveHosts, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::time::timeout;

use super::error::DestinationError;
use super::known::Answer;
use super::race::Family;
use super::servers::{NameServers, Servers};
use crate::events::Reporter;

/// The longest time that a lookup may take (S32).
pub(super) const LOOKUP_DEADLINE: Duration = Duration::from_secs(6);
/// The longest time that one query may take: as long as resolv.conf(5) has it. The library says a question again long
/// before, and still takes the answer to the first.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of times that a query which has failed is repeated.
const REPEATS: usize = 1;
/// Addresses of a name, of each family, that are used and remembered.
const MOST_ADDRESSES: usize = 8;
/// Answers are remembered for at least this time: a time to live of zero must not tell a name server the moment of
/// every single stream.
const TTL_MIN: Duration = Duration::from_secs(60);
/// Answers are remembered for at most this time.
const TTL_MAX: Duration = Duration::from_secs(30 * 60);
/// An answer that a name has no address, or that no answer comes, is remembered for this time.
const NEGATIVE_TTL: Duration = Duration::from_secs(60);

/// The resolver could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("name resolution could not be set up: {0}. Name a DNS server by the key `exit.resolver`")]
pub struct ResolverError(#[from] NetError);

/// Why a name gave no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookupError {
    /// The name has no address, or no server gave one.
    Failed,
    /// No server answered in time.
    TimedOut,
    /// There is no server to ask.
    NoServer,
}

impl From<LookupError> for DestinationError {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::Failed => Self::ResolveFailed,
            LookupError::TimedOut => Self::TimedOut,
            // Another exit may have a name server.
            LookupError::NoServer => Self::Resource,
        }
    }
}

/// Resolves names.
pub(super) enum Resolver {
    /// Through one or several DNS servers.
    Dns(NameServers),
    /// Through the names of a simulated world.
    Given(Arc<dyn GivenNames>),
}

impl Resolver {
    /// A resolver that asks `server`, or the servers of the system's file if there is none. Where the world has names
    /// of its own, the resolver asks those alone. What it remembers is charged to `budget`.
    pub(super) fn new(
        server: Option<SocketAddr>,
        world: &World,
        budget: &Arc<Budget>,
        events: Reporter,
    ) -> Result<Self, ResolverError> {
        if let Some(names) = world.names.given() {
            return Ok(Self::Given(Arc::clone(names)));
        }
        Ok(Self::Dns(NameServers::new(
            server,
            &world.disk,
            options,
            budget,
            events,
        )?))
    }

    /// The addresses of `name` of one family; none if it has none.
    pub(super) async fn lookup(
        &self,
        name: &str,
        family: Family,
    ) -> Result<Vec<IpAddr>, LookupError> {
        let name = canonical(name);
        if !may_be_asked(&name) {
            return Err(LookupError::Failed);
        }
        match self {
            Self::Dns(servers) => {
                let servers = servers.current().await.ok_or(LookupError::NoServer)?;
                let asked = timeout(LOOKUP_DEADLINE, ask(&servers, &name, family)).await;
                let asked = asked.unwrap_or(Err(LookupError::TimedOut));
                if asked == Err(LookupError::TimedOut) {
                    servers.on_silence(&name, family);
                }
                asked
            }
            Self::Given(names) => {
                let found = timeout(LOOKUP_DEADLINE, names.lookup(&name)).await;
                let found = found.map_err(|_| LookupError::TimedOut)?;
                let found = found.map_err(|_| LookupError::Failed)?.into_iter();
                Ok(found.filter(|ip| Family::of(*ip) == family).collect())
            }
        }
    }

    /// Is it known that no server answers when it is asked for a name's addresses of a family?
    pub(super) fn is_silent(&self, name: &str, family: Family) -> bool {
        let Self::Dns(servers) = self else {
            return false;
        };
        let servers = servers.latest();
        servers.is_some_and(|servers| {
            let known = servers.known.get(&canonical(name), family, steady::now());
            known == Some(Answer::Silence)
        })
    }

    /// Notes that no answer has come before the name's stream was connected by the other family.
    pub(super) fn on_silence(&self, name: &str, family: Family) {
        if let Self::Dns(servers) = self
            && let Some(servers) = servers.latest()
        {
            servers.on_silence(&canonical(name), family);
        }
    }
}

impl Servers {
    fn on_silence(&self, name: &str, family: Family) {
        let now = steady::now();
        self.known
            .add(name, family, Answer::Silence, now, NEGATIVE_TTL);
    }
}

/// The name as it is remembered and asked for.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

async fn ask(servers: &Servers, name: &str, family: Family) -> Result<Vec<IpAddr>, LookupError> {
    let Servers { dns, known } = servers;
    if let Some(Answer::Addresses(addresses)) = known.get(name, family, steady::now()) {
        return Ok(addresses);
    }
    let name_of = complete(name).ok_or(LookupError::Failed)?;
    let kind = match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    };
    let (addresses, time) = match dns.lookup(name_of, kind).await {
        Ok(found) => {
            let lives = found.valid_until().saturating_duration_since(steady::now());
            let addresses = found.answers().iter().filter_map(|it| it.data.ip_addr());
            let addresses = addresses.filter(|ip| Family::of(*ip) == family);
            let addresses: Vec<_> = addresses.take(MOST_ADDRESSES).collect();
            (addresses, lives.clamp(TTL_MIN, TTL_MAX))
        }
        Err(NetError::Timeout) => return Err(LookupError::TimedOut),
        Err(error) if error.is_no_records_found() => (Vec::new(), NEGATIVE_TTL),
        Err(_) => return Err(LookupError::Failed),
    };
    let answer = Answer::Addresses(addresses.clone());
    known.add(name, family, answer, steady::now(), time);
    Ok(addresses)
}

/// How servers are asked.
pub(super) fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = QUERY_TIMEOUT;
    options.attempts = REPEATS;
    // Clients must not learn the names that only this machine knows.
    options.use_hosts_file = ResolveHosts::Never;
    // The library would count answers, and each can have 64 KiB. This room has its own memory of names.
    options.cache_size = 0;
    options.positive_min_ttl = Some(TTL_MIN);
    options.positive_max_ttl = Some(TTL_MAX);
    options
}

/// Is `name` a name for the DNS? It must be neither a special one, which the DNS does not have and hickory may answer
/// without asking, nor anything that looks like an address: a resolver that takes `127.1` for an address would be a way
/// around the policy (S31).
fn may_be_asked(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").unwrap_or(last);
    let number = last.bytes().all(|b| b.is_ascii_digit()) || hex.len() < last.len() && is_hex(hex);
    is_name(name) && !number && SpecialName::of(name).is_none()
}

/// The name as a question has it, label by label and as it is: hickory's reading of text would refuse some names that
/// servers know, such as those with a hyphen in front, and change others (IDNA).
fn complete(name: &str) -> Option<Name> {
    let mut name = Name::from_labels(name.split('.').map(str::as_bytes)).ok()?;
    // Nothing is added to a complete name.
    name.set_fqdn(true);
    Some(name)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod unit {
    use super::*;

    #[test]
    fn names_that_are_never_asked_for() {
        for name in [
            "localhost",
            "a.localhost",
            "x.onion",
            "printer.local",
            "wiki.internal",
            "nas.home.arpa",
            "x.cepa.alt",
            "127.1",
            "2130706433",
            "0x7f000001",
            "a.0x1",
            "1.2.3.4",
            "",
            "a..b",
            "a b",
            "ü",
            "a/b",
            "::1",
        ] {
            assert!(!may_be_asked(name), "{name}");
        }
        for name in [
            "example.org",
            "localhost.example",
            "_a._tcp.example",
            "1.example",
            "xn--p1ai",
            "x.0xyz",
            "a_b.example",
            "-a.example",
            "xn--a.example",
        ] {
            assert!(may_be_asked(name), "{name}");
            let asked = complete(name).unwrap();
            assert_eq!(
                asked.iter().collect::<Vec<_>>().join(&b'.'),
                name.as_bytes()
            );
            assert!(asked.is_fqdn());
        }
    }
}
