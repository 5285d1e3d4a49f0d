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
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::Name;
use tokio::time::timeout;

use super::servers::{NameServers, Servers};
use crate::events::Reporter;

/// The longest time that a lookup may take (S32).
pub(super) const LOOKUP_DEADLINE: Duration = Duration::from_secs(3);
/// The longest time that one query may take. Two queries fit into the deadline.
const QUERY_TIMEOUT: Duration = Duration::from_millis(1400);
/// Number of times that a query without an answer is repeated.
const REPEATS: usize = 1;
/// Addresses of a name that are used and remembered. [`super::connect`] tries fewer, so more need not be known.
const MOST_ADDRESSES: usize = 8;
/// Answers are remembered for at least this time: a time to live of zero must not tell a name server the moment of
/// every single stream.
const TTL_MIN: Duration = Duration::from_secs(60);
/// Answers are remembered for at most this time.
const TTL_MAX: Duration = Duration::from_secs(30 * 60);
/// An answer that a name has no address is remembered for this time.
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

/// Resolves names.
pub(super) enum Resolver {
    /// Through one or several DNS servers.
    Dns(NameServers),
    /// Through the names of a simulated world.
    Given(Arc<dyn GivenNames>),
}

impl Resolver {
    /// A resolver that asks `server`, or the servers of the system's file if there is none. Where the world has names of
    /// its own, the resolver asks those alone. What it remembers is charged to `budget`.
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

    /// The addresses of `name`, IPv4 and IPv6 in turn.
    pub(super) async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if !may_be_asked(&name) {
            return Err(LookupError::Failed);
        }
        timeout(LOOKUP_DEADLINE, self.ask(&name))
            .await
            .unwrap_or(Err(LookupError::TimedOut))
    }

    async fn ask(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        match self {
            Self::Dns(servers) => {
                let servers = servers.current().await.ok_or(LookupError::NoServer)?;
                let Servers { dns, known } = &*servers;
                if let Some(answer) = known.get(name, steady::now()) {
                    return answer.ok_or(LookupError::Failed);
                }
                let name_of = complete(name).ok_or(LookupError::Failed)?;
                match dns.lookup_ip(name_of).await {
                    Ok(found) => {
                        let (addresses, now) = (in_turn(found.iter()), steady::now());
                        let lives = found.valid_until().saturating_duration_since(now);
                        let time = lives.clamp(TTL_MIN, TTL_MAX);
                        known.add(name, Some(addresses.clone()), now, time);
                        Ok(addresses)
                    }
                    Err(NetError::Timeout) => Err(LookupError::TimedOut),
                    Err(error) => {
                        if error.is_no_records_found() {
                            known.add(name, None, steady::now(), NEGATIVE_TTL);
                        }
                        Err(LookupError::Failed)
                    }
                }
            }
            Self::Given(names) => match names.lookup(name).await {
                Ok(found) => Ok(in_turn(found.into_iter())),
                Err(_) => Err(LookupError::Failed),
            },
        }
    }
}

/// How servers are asked.
pub(super) fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = QUERY_TIMEOUT;
    options.attempts = REPEATS;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
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

/// The first addresses of both families in turn, IPv4 first, so that a family which leads nowhere from this machine
/// costs one attempt.
fn in_turn(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.partition(IpAddr::is_ipv4);
    let mut all = Vec::with_capacity(MOST_ADDRESSES + 1);
    let (mut v4, mut v6) = (v4.into_iter(), v6.into_iter());
    loop {
        let before = all.len();
        all.extend(v4.next());
        all.extend(v6.next());
        if all.len() == before || all.len() >= MOST_ADDRESSES {
            all.truncate(MOST_ADDRESSES);
            return all;
        }
    }
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

    #[test]
    fn families_take_turns() {
        let ips = |text: &str| {
            text.split(' ')
                .map(|ip| ip.parse().unwrap())
                .collect::<Vec<IpAddr>>()
        };
        let turns = in_turn(ips("::1 ::2 1.1.1.1 ::3 1.1.1.2").into_iter());
        assert_eq!(turns, ips("1.1.1.1 ::1 1.1.1.2 ::2 ::3"));
    }
}
