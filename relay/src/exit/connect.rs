//! Dials the destination of a stream.

use core::future::Future;
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use cepa_common::budget::Budget;
use cepa_common::cell::message::EndReason;
use cepa_common::dir::ExitPolicy;
use cepa_common::stream::StreamHost;
use cepa_common::sync::lock;
use cepa_common::world::sockets::SocketStream;
use cepa_common::world::{Sockets, World};
use tokio::time::{Instant, timeout_at};

use super::attempts::{Attempt, Attempts, OF_ADDRESS, OF_EXIT, Origin, WeakAttempts};
use super::resolve::{LookupError, Resolver, ResolverError};
use crate::events::Reporter;

/// Number of addresses of one name that are tried.
const MAX_ATTEMPTS: usize = 4;
/// The longest time that one address may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest time that one stream may take, with the lookup of its name.
const DEADLINE: Duration = Duration::from_secs(15);

/// Says which addresses this exit connects to.
pub trait AddressPolicy: Send + Sync + 'static {
    /// May the exit connect to `address`? The policy is asked about the very address that is dialled, each time (S31).
    fn allows(&self, address: SocketAddr) -> bool;
}

impl AddressPolicy for ExitPolicy {
    fn allows(&self, address: SocketAddr) -> bool {
        ExitPolicy::allows(self, address)
    }
}

impl<F: Fn(SocketAddr) -> bool + Send + Sync + 'static> AddressPolicy for F {
    fn allows(&self, address: SocketAddr) -> bool {
        self(address)
    }
}

/// Why an exit could not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// The policy allows none of the addresses.
    #[error("the policy does not allow it")]
    Policy,
    /// The destination refused the connection.
    #[error("the destination refused")]
    Refused,
    /// There is no route to the destination.
    #[error("no route to the destination")]
    Unreachable,
    /// The name has no address.
    #[error("the name has no address")]
    ResolveFailed,
    /// The name server or the destination did not answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// This machine has no sockets, ports or memory left.
    #[error("out of resources")]
    Resource,
    /// Any other failure.
    #[error("the connection failed")]
    Internal,
}

impl DestinationError {
    /// The reason that the client is told.
    pub fn end_reason(self) -> EndReason {
        match self {
            Self::Policy => EndReason::Policy,
            Self::Refused => EndReason::Refused,
            Self::Unreachable => EndReason::Unreachable,
            Self::ResolveFailed => EndReason::Unresolvable,
            Self::TimedOut => EndReason::Timeout,
            // The client must not learn what is wrong with this machine.
            Self::Resource | Self::Internal => EndReason::Resource,
        }
    }
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

impl From<io::Error> for DestinationError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused | Kind::ConnectionReset | Kind::ConnectionAborted => {
                Self::Refused
            }
            // `PermissionDenied` means that a packet filter of this machine is in the way.
            Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::PermissionDenied => Self::Unreachable,
            Kind::TimedOut => Self::TimedOut,
            Kind::AddrNotAvailable | Kind::OutOfMemory => Self::Resource,
            // EMFILE, ENFILE and ENOBUFS have no `ErrorKind`, so they are recognised by their numbers.
            _ if matches!(error.raw_os_error(), Some(23 | 24 | 105)) => Self::Resource,
            _ => Self::Internal,
        }
    }
}

/// Resolves and dials the destinations of streams.
pub struct ExitConnector {
    names: Resolver,
    policy: Arc<dyn AddressPolicy>,
    sockets: Sockets,
    attempts: Attempts,
    destinations: Destinations,
}

/// The dials that are under way, by address.
#[derive(Default)]
struct Destinations(Mutex<HashMap<IpAddr, WeakAttempts>>);

impl Destinations {
    /// Waits until one more dial may be made to an address.
    async fn turn(&self, address: IpAddr, origin: Origin) -> Attempt {
        let dials = {
            let mut dials = lock(&self.0);
            // As many entries as attempts, at most: each is held by one.
            dials.retain(|_, dials| !dials.is_over());
            let known = dials.get(&address).and_then(WeakAttempts::upgrade);
            known.unwrap_or_else(|| {
                let new = Attempts::new(OF_ADDRESS);
                dials.insert(address, new.downgrade());
                new
            })
        };
        dials.turn(origin).await
    }
}

impl ExitConnector {
    /// A connector that connects to what `policy` allows, and asks the DNS server at `resolver`, or the system's
    /// servers if there is none, unless `world` has names of its own. What the connector remembers of names is charged
    /// to `budget`. Which servers there are is reported to `events`. Call this inside a tokio runtime.
    ///
    /// # Errors
    /// [`ResolverError`] if name servers cannot be asked at all.
    pub fn new(
        policy: Arc<dyn AddressPolicy>,
        resolver: Option<SocketAddr>,
        world: &World,
        budget: &Arc<Budget>,
        events: Reporter,
    ) -> Result<Self, ResolverError> {
        Ok(Self {
            names: Resolver::new(resolver, world, budget, events)?,
            policy,
            sockets: world.sockets.clone(),
            attempts: Attempts::new(OF_EXIT),
            destinations: Destinations::default(),
        })
    }

    /// Connects to `host` and `port` within 15 s, for a stream from `origin`: parties take turns. Dropping the future
    /// gives the attempt up.
    ///
    /// # Errors
    /// [`DestinationError`]; the client is told its [`DestinationError::end_reason`].
    pub(crate) async fn connect(
        &self,
        host: &StreamHost,
        port: u16,
        origin: Origin,
    ) -> Result<SocketStream, DestinationError> {
        let deadline = Instant::now() + DEADLINE;
        let turn = timeout_at(deadline, self.attempts.turn(origin)).await;
        let _attempt = turn.map_err(|_| DestinationError::Resource)?;
        let addresses = match host {
            StreamHost::Ip(ip) => vec![*ip],
            StreamHost::Name(name) => self.names.lookup(name).await?,
        };
        let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, port));
        first_of(addresses, &*self.policy, deadline, |address| async move {
            let _turn = self.destinations.turn(address.ip(), origin).await;
            self.sockets.connect(address).await
        })
        .await
    }
}

/// The first connection that succeeds. The error is that of the first address that was dialled; if none was dialled,
/// the policy allowed none.
async fn first_of<C: Future<Output = io::Result<SocketStream>>>(
    addresses: impl Iterator<Item = SocketAddr>,
    policy: &dyn AddressPolicy,
    deadline: Instant,
    dial: impl Fn(SocketAddr) -> C,
) -> Result<SocketStream, DestinationError> {
    let mut first_error = None;
    // The policy is asked after resolution, and for each stream again, whether the answer was cached or not. This keeps
    // a name whose addresses change away from the exit's own network (S31).
    let allowed = addresses.filter(|address| address.port() != 0 && policy.allows(*address));
    for address in allowed.take(MAX_ATTEMPTS) {
        let until = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
        let error = match timeout_at(until, dial(address)).await {
            Ok(Ok(stream)) => {
                // The call fails only on a connection that is gone already; reading will show that.
                let _ = stream.tune();
                return Ok(stream);
            }
            Ok(Err(error)) => error.into(),
            Err(_) => DestinationError::TimedOut,
        };
        first_error.get_or_insert(error);
    }
    Err(first_error.unwrap_or(DestinationError::Policy))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod unit {
    use super::*;

    fn addresses(text: &str) -> impl Iterator<Item = SocketAddr> {
        text.split(' ').map(|a| a.parse().unwrap())
    }

    async fn fails(text: &str, dial: impl Fn(SocketAddr) -> io::Error) -> DestinationError {
        let deadline = Instant::now() + DEADLINE;
        let policy = |a: SocketAddr| a.ip().is_ipv4();
        let dial = |a| core::future::ready(Err(dial(a)));
        first_of(addresses(text), &policy, deadline, dial)
            .await
            .unwrap_err()
    }

    #[tokio::test]
    async fn a_few_allowed_addresses_are_tried_and_the_first_error_counts() {
        let tried = core::cell::RefCell::new(Vec::new());
        let error = fails(
            "[::1]:1 1.1.1.1:1 [::2]:1 1.1.1.2:1 1.1.1.3:1 1.1.1.4:1 1.1.1.5:1",
            |a| {
                tried.borrow_mut().push(a);
                match tried.borrow().len() {
                    1 => io::ErrorKind::ConnectionRefused.into(),
                    _ => io::ErrorKind::HostUnreachable.into(),
                }
            },
        );
        assert_eq!(error.await, DestinationError::Refused);
        let expected: Vec<_> = addresses("1.1.1.1:1 1.1.1.2:1 1.1.1.3:1 1.1.1.4:1").collect();
        assert_eq!(tried.into_inner(), expected);
    }

    #[tokio::test]
    async fn nothing_allowed_is_a_matter_of_policy() {
        let never = |_| unreachable!();
        assert_eq!(
            fails("[::1]:1 [::2]:2", never).await,
            DestinationError::Policy
        );
        assert_eq!(fails("1.1.1.1:0", never).await, DestinationError::Policy);
    }

    #[tokio::test(start_paused = true)]
    async fn silent_addresses_cost_five_seconds_each_and_fifteen_in_all() {
        for (text, seconds) in [
            ("1.1.1.1:1", 5),
            ("1.1.1.1:1 1.1.1.2:1 1.1.1.3:1 1.1.1.4:1", 15),
        ] {
            let start = Instant::now();
            let result = first_of(addresses(text), &|_| true, start + DEADLINE, |_| {
                core::future::pending()
            });
            assert_eq!(result.await.unwrap_err(), DestinationError::TimedOut);
            assert_eq!(start.elapsed().as_secs(), seconds);
        }
    }

    #[test]
    fn a_full_descriptor_table_is_told_as_such() {
        for (code, error) in [
            (24, DestinationError::Resource),
            (105, DestinationError::Resource),
            (99, DestinationError::Resource),
            (111, DestinationError::Refused),
            (113, DestinationError::Unreachable),
            (101, DestinationError::Unreachable),
            (110, DestinationError::TimedOut),
            (1, DestinationError::Unreachable),
            (22, DestinationError::Internal),
        ] {
            assert_eq!(
                DestinationError::from(io::Error::from_raw_os_error(code)),
                error
            );
        }
    }
}
