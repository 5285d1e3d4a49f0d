//! Datagrams through the network: [`Client::udp`].
//!
//! A task for each [`DatagramIo`] begins an association with the first datagram, on a circuit to an exit that lets it
//! out, and begins another with the next datagram where one was lost. Programs notice what they would notice of a NAT
//! that has forgotten them: their peers see another address. Whoever is not heard (`filter`) was not written to.

mod filter;
mod mailbox;

use core::time::Duration;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cepa_common::cell::message::{EndReason, SpecialName, is_name};
use cepa_common::dir::IpVersion;
use cepa_common::ids::RelayId;
use cepa_common::limits::DATAGRAM_BYTES;
use cepa_common::net::association_io::AssociationIo;
use cepa_common::stream::{HeldDatagram, Opener, StreamError, StreamHost, StreamTarget};
use cepa_common::world::steady;
use tokio::time::{Instant, timeout, timeout_at};

use crate::circuit::isolation::{IsolateBy, Isolation};
use crate::circuit::{CircuitError, Wanted};
use crate::client::{Client, ConnectError};
use crate::path::{ExitTarget, PathError};
use filter::Filter;
use mailbox::{Mailbox, OVERHEAD_BYTES, Weighs};

/// The time within which an association must be there, over all tries.
const ASSOCIATE_TIMEOUT: Duration = Duration::from_secs(60);
/// The time that one exit has to open a port.
const TRY_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of circuits that are tried for one association.
const TRIES: usize = 8;
/// Datagrams that are kept until the exit has opened a port, so that they can go by another exit if it does not.
const KEPT: usize = 32;
/// Bytes of these.
const KEPT_BYTES: usize = 64 * 1024;

/// Why a datagram was not taken, or none comes.
#[derive(Debug, thiserror::Error)]
pub enum DatagramError {
    /// The target is not `host:port`.
    #[error("{0:?} is not a host and a port")]
    BadTarget(String),
    /// The name is none of the DNS, so that no exit could look it up (docs/protocol.md, 5.3).
    #[error("the name is passed on to nobody: {0}")]
    Special(SpecialName),
    /// The datagram is longer than UDP carries.
    #[error("a datagram has {DATAGRAM_BYTES} bytes at most, and this one has {0}")]
    TooLong(usize),
    /// No exit has opened a port. What was sent so far is lost; the next datagram tries again.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The client has stopped.
    #[error("the client has stopped")]
    Stopped,
}

/// A datagram that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedDatagram {
    /// Who has sent it, as the exit saw.
    pub from: SocketAddr,
    /// 0 to 65,507 bytes.
    pub bytes: Vec<u8>,
}

/// A datagram that is to be sent.
struct Outgoing {
    host: StreamHost,
    port: u16,
    bytes: Vec<u8>,
}

impl Weighs for Outgoing {
    fn weight(&self) -> usize {
        self.bytes.len() + OVERHEAD_BYTES
    }
}

impl Weighs for Result<ReceivedDatagram, ConnectError> {
    fn weight(&self) -> usize {
        OVERHEAD_BYTES + self.as_ref().map_or(0, |datagram| datagram.bytes.len())
    }
}

/// What a [`DatagramIo`] and its task share.
struct Shared {
    out: Mailbox<Outgoing>,
    come: Mailbox<Result<ReceivedDatagram, ConnectError>>,
}

/// Datagrams to anybody from one port of an exit. Dropping it ends the association, once what waits is sent.
pub struct DatagramIo(Arc<Shared>);

impl Client {
    /// Sends and receives datagrams: the exit resolves names. Nothing happens before the first datagram is sent, which
    /// chooses the exit. Datagrams get lost as on any network, and where too many wait the oldest is dropped.
    ///
    /// ```no_run
    /// # async fn example(client: cepa_client::Client) -> Result<(), cepa_client::DatagramError> {
    /// let io = client.udp();
    /// io.send("time.example.org:123", &[0x1b; 48])?;
    /// let answer = io.recv().await?;
    /// println!("{} bytes from {}", answer.bytes.len(), answer.from);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn udp(&self) -> DatagramIo {
        self.udp_with(Isolation::session(self.session))
    }

    /// Datagrams like those of [`Client::udp`], on a circuit that only streams and datagrams with an equal `isolation`
    /// share.
    #[must_use]
    pub fn udp_with(&self, isolation: Isolation) -> DatagramIo {
        self.udp_by(self.inner.isolate_by, isolation)
    }

    /// Datagrams with switches of the caller's own.
    pub(crate) fn udp_by(&self, by: IsolateBy, isolation: Isolation) -> DatagramIo {
        let shared = Arc::new(Shared {
            out: Mailbox::new(),
            come: Mailbox::new(),
        });
        let carrier = Carrier {
            client: self.clone(),
            by,
            isolation,
            filter: Filter::new(self.inner.names.allows_private()),
            shared: shared.clone(),
            has_told: false,
        };
        self.inner.names.tasks().spawn(carrier.run());
        DatagramIo(shared)
    }
}

impl DatagramIo {
    /// Sends a datagram to `host:port`.
    ///
    /// # Errors
    /// [`DatagramError`] for what can't be sent at all. That a datagram is lost is no error.
    pub fn send(&self, target: &str, bytes: &[u8]) -> Result<(), DatagramError> {
        let bad = || DatagramError::BadTarget(target.to_owned());
        if let Ok(address) = target.parse::<SocketAddr>() {
            return self.send_to(&StreamHost::Ip(address.ip()), address.port(), bytes);
        }
        let (name, port) = target.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().map_err(|_| bad())?;
        self.send_to(&StreamHost::Name(name.to_owned()), port, bytes)
    }

    /// Sends a datagram to a port of a host.
    ///
    /// # Errors
    /// [`DatagramError`] for what can't be sent at all. That a datagram is lost is no error.
    pub fn send_to(&self, host: &StreamHost, port: u16, bytes: &[u8]) -> Result<(), DatagramError> {
        if let StreamHost::Name(name) = host {
            if !is_name(name) {
                return Err(DatagramError::BadTarget(format!("{name}:{port}")));
            }
            if let Some(special) = SpecialName::of(name) {
                return Err(DatagramError::Special(special));
            }
        }
        if port == 0 {
            return Err(DatagramError::BadTarget("port 0".to_owned()));
        }
        if bytes.len() > DATAGRAM_BYTES {
            return Err(DatagramError::TooLong(bytes.len()));
        }
        self.0.out.push(Outgoing {
            host: host.clone(),
            port,
            bytes: bytes.to_vec(),
        });
        Ok(())
    }

    /// Waits for a datagram.
    ///
    /// # Errors
    /// [`DatagramError::Connect`] once for each time that no exit could be had; [`DatagramError::Stopped`].
    pub async fn recv(&self) -> Result<ReceivedDatagram, DatagramError> {
        match self.0.come.take().await {
            Some(come) => Ok(come?),
            None => Err(DatagramError::Stopped),
        }
    }
}

impl Drop for DatagramIo {
    fn drop(&mut self) {
        self.0.out.close();
    }
}

/// The datagrams that go again if another exit must be tried.
#[derive(Default)]
struct Kept {
    datagrams: VecDeque<Outgoing>,
    bytes: usize,
}

impl Kept {
    fn push(&mut self, datagram: Outgoing) {
        let bytes = self.bytes + datagram.bytes.len();
        if self.datagrams.len() < KEPT && bytes <= KEPT_BYTES.max(datagram.bytes.len()) {
            self.bytes = bytes;
            self.datagrams.push_back(datagram);
        }
    }
}

/// Why an association is no more.
enum Over {
    /// Its owner has let go.
    Dropped,
    /// The exit has ended it, or its circuit is gone. The next datagram begins another.
    Lost,
}

/// Carries the datagrams of one [`DatagramIo`].
struct Carrier {
    client: Client,
    by: IsolateBy,
    isolation: Isolation,
    filter: Filter,
    shared: Arc<Shared>,
    /// Was it told that the exit lets some datagrams not out?
    has_told: bool,
}

impl Drop for Carrier {
    /// The owner has let go, or the client stops.
    fn drop(&mut self) {
        self.shared.come.close();
    }
}

/// An association with the exit that it is at.
struct Bound {
    association: AssociationIo<Opener>,
    exit: cepa_common::dir::Entry,
}

impl Carrier {
    async fn run(mut self) {
        let shared = self.shared.clone();
        while let Some(first) = shared.out.take().await {
            match self.begin(first).await {
                Ok(bound) => {
                    if let Over::Dropped = self.carry(&bound).await {
                        return;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "no association was begun");
                    // What waited for it is lost too: a program sends again what it still wants.
                    while shared.out.try_take().is_some() {}
                    shared.come.push(Err(error));
                }
            }
        }
    }

    /// Begins an association for a first datagram.
    async fn begin(&mut self, first: Outgoing) -> Result<Bound, ConnectError> {
        let deadline = Instant::now() + ASSOCIATE_TIMEOUT;
        let begun = timeout_at(deadline, async {
            self.client.until_joined().await?;
            self.try_exits(first).await
        });
        begun.await.unwrap_or_else(|_| Err(self.client.timed_out()))
    }

    async fn try_exits(&mut self, first: Outgoing) -> Result<Bound, ConnectError> {
        let isolation = self.isolation.clone();
        let isolation = self.client.key(self.by, isolation, &first.host, first.port);
        let target = StreamTarget::Host(first.host.clone(), first.port);
        let wanted = Wanted {
            target: exit_target(&first.host, first.port),
            rule: self.client.inner.pool.rules().rule_for(&target),
            exit: None,
        };
        let mut kept = Kept::default();
        kept.push(first);
        let mut refused: Vec<RelayId> = Vec::new();
        let mut last = ConnectError::TimedOut;
        for _ in 0..TRIES {
            let avoid = |relay: &RelayId| refused.contains(relay);
            let pool = &self.client.inner.pool;
            let circuit = match pool.circuit_for(&isolation, wanted, &avoid).await {
                Ok(circuit) => circuit,
                Err(CircuitError::Path(PathError::NoRelay { .. })) if !refused.is_empty() => {
                    return Err(last);
                }
                Err(CircuitError::NoConsensus) => return Err(self.client.no_consensus().into()),
                Err(error) => return Err(error.into()),
            };
            let Some(association) = circuit.associate() else {
                continue;
            };
            let bound = Bound {
                association,
                exit: circuit.exit().clone(),
            };
            drop(circuit);
            match self.bind(&bound, &mut kept).await {
                Ok(()) => return Ok(bound),
                Err(error) => {
                    last = error.into();
                    if error != StreamError::CircuitLost {
                        refused.push(bound.exit.identity);
                    }
                }
            }
        }
        Err(last)
    }

    /// Sends what is kept, and what comes meanwhile, until the exit has opened a port.
    async fn bind(&mut self, bound: &Bound, kept: &mut Kept) -> Result<(), StreamError> {
        for datagram in &kept.datagrams {
            self.send(bound, datagram)?;
        }
        let shared = self.shared.clone();
        let binding = async {
            loop {
                tokio::select! {
                    biased;
                    is_bound = bound.association.bound() => return is_bound,
                    datagram = shared.out.take() => match datagram {
                        Some(datagram) => {
                            self.send(bound, &datagram)?;
                            kept.push(datagram);
                        }
                        // Its owner has let go; the exit still gets what was sent.
                        None => return bound.association.bound().await,
                    },
                }
            }
        };
        let is_bound = timeout(TRY_TIMEOUT, binding).await;
        is_bound.unwrap_or(Err(StreamError::Ended(EndReason::Timeout)))
    }

    /// Carries datagrams both ways until the association is over.
    async fn carry(&mut self, bound: &Bound) -> Over {
        let shared = self.shared.clone();
        loop {
            tokio::select! {
                datagram = shared.out.take() => {
                    let Some(datagram) = datagram else {
                        return Over::Dropped;
                    };
                    if self.send(bound, &datagram).is_err() {
                        // It is the first of the next association.
                        shared.out.put_back(datagram);
                        return Over::Lost;
                    }
                }
                come = bound.association.receive() => match come {
                    Ok(datagram) => self.on_come(&datagram),
                    Err(_) => return Over::Lost,
                },
            }
        }
    }

    fn send(&mut self, bound: &Bound, datagram: &Outgoing) -> Result<(), StreamError> {
        let Outgoing { host, port, bytes } = datagram;
        if !exit_target(host, *port).is_allowed_by(&bound.exit) {
            if !core::mem::replace(&mut self.has_told, true) {
                tracing::info!("an exit lets no datagrams out to some port: they are dropped");
            }
            return Ok(());
        }
        self.filter.on_written(host, *port, steady::now());
        bound.association.send(host, *port, bytes)
    }

    fn on_come(&mut self, datagram: &HeldDatagram) {
        let (host, port) = (&datagram.host, datagram.port);
        if let Some(from) = self.filter.heard(host, port, steady::now()) {
            let bytes = datagram.bytes().to_vec();
            self.shared.come.push(Ok(ReceivedDatagram { from, bytes }));
        }
    }
}

/// What the exit must let out for a datagram.
fn exit_target(host: &StreamHost, port: u16) -> ExitTarget {
    let version = match host {
        StreamHost::Ip(IpAddr::V4(_)) => Some(IpVersion::V4),
        StreamHost::Ip(IpAddr::V6(_)) => Some(IpVersion::V6),
        StreamHost::Name(_) => None,
    };
    ExitTarget::Udp { version, port }
}
