//! How programs of this machine are let in: a front end whose streams the client opens.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crate::StreamIo;
use cepa_common::budget::Budget;
use cepa_common::cell::message::EndReason;
use cepa_common::dns::Query;
use cepa_common::log_pace::LogPaces;
use cepa_common::stream::{StreamError, StreamHost, StreamTarget};
use cepa_common::sync::lock;
use cepa_common::world::steady;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::circuit::CircuitError;
use crate::circuit::isolation::{IsolateBy, Isolation};
use crate::client::{Client, ConnectError};
use crate::front::{
    self, Address, ConnectRequest, Connector, Datagrams, Failure, Found, FrontListener,
    FrontOptions, FrontTarget, Host, IsolationKey, LookUp, Received,
};
use crate::path::PathError;
use crate::resolve::ResolveError;
use crate::udp::{DatagramError, DatagramIo};

impl Client {
    /// Lets programs in at `listener`, a TCP port or a Unix socket, by SOCKS and HTTP, until the front is shut down or
    /// dropped. A listener for DNS, and one that the system leads connections to, are [`FrontListener::dns`] and
    /// [`FrontListener::transparent`].
    ///
    /// ```no_run
    /// # async fn example(client: cepa_client::Client) -> std::io::Result<()> {
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:9350").await?;
    /// let front = client.serve_front(listener, Default::default());
    /// // ...
    /// front.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn serve_front(&self, listener: impl Into<FrontListener>, options: FrontOptions) -> Front {
        self.serve_front_by(self.inner.isolate_by, listener, options)
    }

    /// Lets programs in like [`Client::serve_front`], but with other switches than the client's for what keeps the
    /// streams of this listener apart.
    pub fn serve_front_by(
        &self,
        by: IsolateBy,
        listener: impl Into<FrontListener>,
        options: FrontOptions,
    ) -> Front {
        let client = self.clone();
        let connector = Arc::new(ClientConnector {
            client,
            by,
            refused: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let number = self.inner.fronts.fetch_add(1, Ordering::Relaxed);
        let task = tokio::spawn(front::serve(
            listener.into(),
            number,
            connector,
            options,
            async move {
                // Being told to stop and being dropped mean the same.
                let _ = stopped.await;
            },
        ));
        Front { stop, task }
    }
}

/// A front end that runs.
pub struct Front {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Front {
    /// Stops accepting and ends what is open.
    pub async fn shutdown(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// Why streams are refused that the owner should hear of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Refused {
    NoConsensus,
    Rule,
}

struct ClientConnector {
    client: Client,
    by: IsolateBy,
    /// Paces the log lines about streams that were refused.
    refused: Mutex<LogPaces<Refused>>,
}

impl ClientConnector {
    /// Says why streams are refused, if every stream like this one fails until somebody acts. An application may ask
    /// many times a second, so not every refusal is told of.
    fn tell(&self, error: &ConnectError) {
        let (class, why): (_, &dyn core::fmt::Display) = match error {
            ConnectError::NoConsensus(why) => (Refused::NoConsensus, why),
            ConnectError::Circuit(CircuitError::Path(PathError::Rule(why))) => (Refused::Rule, why),
            _ => return,
        };
        if let Some(streams) = lock(&self.refused).count(class, 1, steady::now()) {
            tracing::warn!(streams, %why, "streams were refused");
        }
    }
}

impl Connector for ClientConnector {
    type Stream = StreamIo;

    fn budget(&self) -> &Arc<Budget> {
        self.client.inner.names.budget()
    }

    fn identity(&self) -> u64 {
        self.client.inner.pool.identity()
    }

    async fn connect(&self, request: ConnectRequest) -> Result<StreamIo, Failure> {
        let port = request.target.port;
        let target = match request.target.host {
            Host::Ip4(ip) => StreamTarget::address(SocketAddr::from((ip, port))),
            Host::Ip6(ip) => StreamTarget::address(SocketAddr::from((ip, port))),
            Host::Name(name) => StreamTarget::name(&name, port),
        };
        let target = target.ok_or(Failure::GeneralFailure)?;
        let isolation =
            Isolation::session(self.client.session).with_front(self.by, request.isolation);
        let opened = self
            .client
            .connect_by(self.by, target, isolation, &request.early)
            .await;
        opened.map_err(|error| {
            self.tell(&error);
            tracing::debug!(%error, "a stream was not opened");
            failure(&error)
        })
    }

    fn associate(&self, isolation: IsolationKey) -> Option<Box<dyn Datagrams>> {
        let isolation = Isolation::session(self.client.session).with_front(self.by, isolation);
        let io = self.client.udp_by(self.by, isolation);
        Some(Box::new(FrontDatagrams(io)))
    }

    async fn answer(&self, query: Query, most: usize, isolation: IsolationKey) -> Vec<u8> {
        let isolation = Isolation::session(self.client.session).with_front(self.by, isolation);
        let answer = self.client.answer_by(self.by, isolation, &query).await;
        query.reply(&answer, most)
    }

    async fn look_up(&self, asked: LookUp, isolation: IsolationKey) -> Result<Found, Failure> {
        let isolation = Isolation::session(self.client.session).with_front(self.by, isolation);
        let client = &self.client;
        let found = match asked {
            LookUp::Address(host) => {
                let asked = client
                    .resolve_by(self.by, isolation, &host.to_string())
                    .await;
                asked.map(|found| found.first().copied().map(Found::Address))
            }
            LookUp::Name(Address(ip)) => {
                let asked = client.resolve_ptr_by(self.by, isolation, ip).await;
                asked.map(|found| found.into_iter().next().map(Found::Name))
            }
        };
        match found {
            Ok(found) => found.ok_or(Failure::Unresolvable),
            Err(ResolveError::Connect(error)) => {
                self.tell(&error);
                tracing::debug!(%error, "a name was not looked up");
                Err(failure(&error))
            }
            Err(ResolveError::Special(_) | ResolveError::Private) => Err(Failure::NotAllowed),
            Err(_) => Err(Failure::Unresolvable),
        }
    }
}

/// Datagrams of an application of the front end.
struct FrontDatagrams(DatagramIo);

impl Datagrams for FrontDatagrams {
    fn send(&self, target: &FrontTarget, bytes: &[u8]) {
        let host = match &target.host {
            Host::Ip4(ip) => StreamHost::Ip((*ip).into()),
            Host::Ip6(ip) => StreamHost::Ip((*ip).into()),
            Host::Name(name) => StreamHost::Name(name.clone()),
        };
        // What can't be sent at all is dropped like what gets lost: there is no word for it.
        let _ = self.0.send_to(&host, target.port, bytes);
    }

    fn receive(&self) -> Received<'_> {
        Box::pin(async {
            loop {
                match self.0.recv().await {
                    Ok(come) => return Some((come.from, come.bytes)),
                    Err(DatagramError::Stopped) => return None,
                    // The next datagram tries again.
                    Err(error) => tracing::debug!(%error, "an application's datagrams were lost"),
                }
            }
        })
    }
}

fn failure(error: &ConnectError) -> Failure {
    match error {
        ConnectError::BadTarget(_) => Failure::GeneralFailure,
        ConnectError::Special(_) => Failure::NotAllowed,
        ConnectError::NoConsensus(_) => Failure::NoConsensus,
        ConnectError::Circuit(CircuitError::Path(_)) => Failure::NotAllowed,
        ConnectError::Circuit(_) => Failure::NetworkUnreachable,
        ConnectError::TimedOut => Failure::TimedOut,
        ConnectError::Stream(StreamError::CircuitLost | StreamError::Memory) => {
            Failure::GeneralFailure
        }
        ConnectError::Stream(StreamError::Ended(reason)) => match reason {
            EndReason::Refused => Failure::Refused,
            EndReason::Unreachable => Failure::HostUnreachable,
            EndReason::Policy => Failure::NotAllowed,
            EndReason::Unresolvable => Failure::Unresolvable,
            EndReason::Timeout => Failure::TimedOut,
            EndReason::Done | EndReason::Reset | EndReason::Resource => Failure::GeneralFailure,
        },
    }
}
