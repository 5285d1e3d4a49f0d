//! Resolves names to addresses at the exit (S32).
//!
//! hickory checks the id, question, source and compression of an answer, and bounds its chain of CNAMEs. This file adds
//! what hickory leaves open: which names may be asked for (with `cepa_common::dns`, which judges for clients too), how
//! long a lookup may take, and how much is remembered.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cepa_common::budget::Budget;
use cepa_common::dns::{
    Answer as DnsAnswer, Question, RData, Record, RecordType, ResponseCode, TTL_SECONDS,
};
use cepa_common::world::names::GivenNames;
use cepa_common::world::{World, steady};
use hickory_resolver::config::{ResolveHosts, ResolverOpts};
use hickory_resolver::net::{DnsError, NetError};
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
        let question = question(name, family).ok_or(LookupError::Failed)?;
        let name = question.name();
        match self {
            Self::Dns(servers) => {
                let servers = servers.current().await.ok_or(LookupError::NoServer)?;
                let asked = timeout(LOOKUP_DEADLINE, ask(&servers, &question, family)).await;
                let asked = asked.unwrap_or(Err(LookupError::TimedOut));
                if asked == Err(LookupError::TimedOut) {
                    servers.on_silence(name, family);
                }
                asked
            }
            Self::Given(names) => {
                let found = timeout(LOOKUP_DEADLINE, names.lookup(name)).await;
                let found = found.map_err(|_| LookupError::TimedOut)?;
                let found = found.map_err(|_| LookupError::Failed)?.into_iter();
                Ok(found.filter(|ip| Family::of(*ip) == family).collect())
            }
        }
    }

    /// What the servers say to a question that they may be asked, within [`LOOKUP_DEADLINE`]. Nothing is remembered: by
    /// how fast an answer comes, nobody learns what others have asked.
    pub(super) async fn answer(
        &self,
        question: &Question,
        allow_private: bool,
    ) -> Result<DnsAnswer, LookupError> {
        let answered = async {
            match self {
                Self::Dns(servers) => {
                    let servers = servers.current().await.ok_or(LookupError::NoServer)?;
                    ask_for_all(&servers, question, allow_private).await
                }
                Self::Given(names) => Ok(given_answer(&**names, question, allow_private).await),
            }
        };
        let answered = timeout(LOOKUP_DEADLINE, answered).await;
        answered.unwrap_or(Err(LookupError::TimedOut))
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

/// The question for the addresses of a family; `None` if nobody may be asked that.
fn question(name: &str, family: Family) -> Option<Question> {
    let kind = match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    };
    // What addresses lead to is for the policy to judge.
    Question::new(name, kind).filter(|question| question.judge(true).is_ok())
}

async fn ask(
    servers: &Servers,
    question: &Question,
    family: Family,
) -> Result<Vec<IpAddr>, LookupError> {
    let (Servers { dns, known }, name) = (servers, question.name());
    if let Some(Answer::Addresses(addresses)) = known.get(name, family, steady::now()) {
        return Ok(addresses);
    }
    let name_of = question.wire_name().ok_or(LookupError::Failed)?;
    let (addresses, time) = match dns.lookup(name_of, question.kind()).await {
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

/// Asks for all records of a name and a type, whatever the type is.
async fn ask_for_all(
    servers: &Servers,
    question: &Question,
    allow_private: bool,
) -> Result<DnsAnswer, LookupError> {
    let name = question.wire_name().ok_or(LookupError::Failed)?;
    match servers.dns.lookup(name, question.kind()).await {
        Ok(found) => {
            let (code, records) = (ResponseCode::NoError, found.answers().iter().cloned());
            Ok(DnsAnswer::cleaned(question, code, records, allow_private))
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
            code @ (ResponseCode::NoError | ResponseCode::NXDomain) => Ok(DnsAnswer::of(code)),
            _ => Err(LookupError::Failed),
        },
        Err(NetError::Timeout) => Err(LookupError::TimedOut),
        Err(_) => Err(LookupError::Failed),
    }
}

/// What names that take the place of servers say to a question: they know addresses and nothing else.
async fn given_answer(
    names: &dyn GivenNames,
    question: &Question,
    allow_private: bool,
) -> DnsAnswer {
    let Ok(found) = names.lookup(question.name()).await else {
        return DnsAnswer::of(ResponseCode::NXDomain);
    };
    let records = found.into_iter().filter_map(|address| {
        let data = match address {
            IpAddr::V4(ip) => RData::A(ip.into()),
            IpAddr::V6(ip) => RData::AAAA(ip.into()),
        };
        let name = question.wire_name()?;
        Some(Record::from_rdata(name, TTL_SECONDS, data))
    });
    DnsAnswer::cleaned(question, ResponseCode::NoError, records, allow_private)
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
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
            assert!(question(name, Family::V4).is_none(), "{name}");
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
            let asked = question(name, Family::V6).expect(name).wire_name().unwrap();
            assert_eq!(
                asked.iter().collect::<Vec<_>>().join(&b'.'),
                name.as_bytes()
            );
            assert!(asked.is_fqdn());
        }
    }
}
