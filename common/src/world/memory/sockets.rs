//! How a host dials and listens.

use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use tokio::time::{Instant, sleep_until};

use super::super::datagrams::GivenDatagrams;
use super::super::sockets::{Answer, GivenListener, GivenSockets, GivenStream};
use super::connection::{Connection, close};
use super::host::{Host, Listener};
use super::pair::{Pair, SideId};
use super::state::State;
use super::{EventKind, MemoryNetwork};

/// Connections that wait to be accepted.
const BACKLOG: usize = 128;
/// When a dial is tried, in seconds, as Linux does with `tcp_syn_retries` of 6.
const TRIES: [u64; 7] = [0, 1, 3, 7, 15, 31, 63];
/// When a dial is given up.
const DIAL_GIVE_UP: Duration = Duration::from_secs(127);
/// EMFILE, the error of a process that has as many descriptors as it may have.
pub(super) const TOO_MANY_FILES: i32 = 24;

/// A host as one life of it sees the network.
pub(super) struct HostSockets {
    pub(super) network: MemoryNetwork,
    pub(super) address: IpAddr,
    pub(super) life: u64,
}

impl HostSockets {
    /// The host, if this life goes on.
    pub(super) fn living<'a>(&self, state: &'a mut State) -> io::Result<&'a mut Host> {
        let host = state.host(self.address);
        match host.is_alive(self.life) {
            true => Ok(host),
            false => Err(ErrorKind::NetworkDown.into()),
        }
    }

    /// Whether a packet gets from this host to another one, or back, now.
    fn gets_through(&self, to: IpAddr) -> io::Result<bool> {
        self.network.0.with(|state, _| {
            self.living(state)?;
            Ok(!state.is_blocked(self.address, to))
        })
    }

    /// Whether the first packet of a dial goes off and is not lost.
    fn asks(&self, to: IpAddr) -> io::Result<bool> {
        self.network.0.with(|state, _| {
            self.living(state)?;
            let loss = state.loss_between(self.address, to);
            Ok(!state.chance(loss) && !state.is_blocked(self.address, to))
        })
    }

    fn delay(&self, to: IpAddr) -> Duration {
        self.network.0.with(|state, _| {
            let delay = (state.delays)(self.address, to);
            state.delay(self.address, to, delay)
        })
    }

    async fn dial(&self, to: SocketAddr) -> io::Result<Connection> {
        let began = Instant::now();
        let mut dial = Dial::begin(self, to)?;
        for second in TRIES {
            let asked = began + Duration::from_secs(second);
            reach(asked).await;
            if !self.asks(to.ip())? {
                continue;
            }
            let delay = self.delay(to.ip());
            if dial.is_refused || !dial.is_answered {
                reach(asked + delay).await;
                if !self.gets_through(to.ip())? {
                    continue;
                }
                dial.knock();
            }
            reach(asked + 2 * delay).await;
            // If the answer is lost, the next try brings another one.
            if self.gets_through(to.ip())? {
                return match dial.is_refused {
                    true => Err(ErrorKind::ConnectionRefused.into()),
                    false => Ok(dial.connection()),
                };
            }
        }
        reach(began + DIAL_GIVE_UP).await;
        Err(ErrorKind::TimedOut.into())
    }
}

/// Waits until it is `at`.
async fn reach(at: Instant) {
    if Instant::now() < at {
        sleep_until(at).await;
    }
}

/// A connection that is being opened.
struct Dial<'a> {
    host: &'a HostSockets,
    number: u64,
    from: SocketAddr,
    to: SocketAddr,
    is_answered: bool,
    is_refused: bool,
    is_handed_on: bool,
}

impl<'a> Dial<'a> {
    fn begin(host: &'a HostSockets, to: SocketAddr) -> io::Result<Self> {
        let address = host.address;
        host.network.0.with(|state, now| {
            let number = state.number();
            let this = host.living(state)?;
            if this.is_full() {
                return Err(io::Error::from_raw_os_error(TOO_MANY_FILES));
            }
            let port = this.free_port().ok_or(ErrorKind::AddrNotAvailable)?;
            this.ports.insert((port, number));
            this.count(host.life, |open| open.connections += 1);
            state.note(now, address, to, EventKind::Dial, 0);
            Ok(Self {
                host,
                number,
                from: SocketAddr::new(address, port),
                to,
                is_answered: false,
                is_refused: false,
                is_handed_on: false,
            })
        })
    }

    /// Comes to the other host, which refuses or has the connection wait until it is accepted.
    fn knock(&mut self) {
        let (from, to) = (self.from, self.to);
        let number = self.number;
        self.is_answered = true;
        self.is_refused = self.host.network.0.with(|state, _| {
            let host = state.host(to.ip());
            let Some(listener) = host.listeners.get_mut(&to.port()) else {
                return true;
            };
            if listener.waiting.len() >= BACKLOG {
                return true;
            }
            listener.waiting.push_back(number);
            let woken = std::mem::take(&mut listener.acceptors);
            host.ports.insert((to.port(), number));
            state.effects.woken.extend(woken);
            let delay = (state.delays)(from.ip(), to.ip());
            let pair = Pair::new(from, to, delay);
            state.connections.insert(number, pair);
            false
        });
    }

    /// Hands the connection on, which has been made.
    fn connection(&mut self) -> Connection {
        self.is_handed_on = true;
        Connection {
            network: self.host.network.clone(),
            id: SideId {
                connection: self.number,
                side: 0,
            },
            life: self.host.life,
            local: self.from,
            peer: self.to,
        }
    }
}

impl Drop for Dial<'_> {
    fn drop(&mut self) {
        if self.is_handed_on {
            return;
        }
        if self.is_answered && !self.is_refused {
            drop(self.connection());
            return;
        }
        self.host.network.0.with(|state, _| {
            let host = state.host(self.from.ip());
            host.ports.remove(&(self.from.port(), self.number));
            host.count(self.host.life, |open| {
                open.connections = open.connections.saturating_sub(1);
            });
        });
    }
}

impl GivenSockets for HostSockets {
    fn connect(&self, to: SocketAddr) -> Answer<'_, Box<dyn GivenStream>> {
        Box::pin(async move {
            let connection = self.dial(to).await?;
            Ok(Box::new(connection) as Box<dyn GivenStream>)
        })
    }

    fn bind(&self, address: SocketAddr) -> io::Result<Box<dyn GivenListener>> {
        if address.ip() != self.address && !address.ip().is_unspecified() {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        self.network.0.with(|state, _| {
            let number = state.number();
            let host = self.living(state)?;
            let port = match address.port() {
                0 => host.free_port().ok_or(ErrorKind::AddrInUse)?,
                port => port,
            };
            if host.listeners.contains_key(&port) {
                return Err(ErrorKind::AddrInUse.into());
            }
            let listener = Listener {
                number,
                waiting: VecDeque::new(),
                acceptors: Vec::new(),
            };
            host.listeners.insert(port, listener);
            host.ports.insert((port, number));
            host.count(self.life, |open| open.ports += 1);
            Ok(Box::new(Port {
                network: self.network.clone(),
                address: SocketAddr::new(self.address, port),
                life: self.life,
                number,
            }) as Box<dyn GivenListener>)
        })
    }

    fn bind_datagrams(&self, address: SocketAddr) -> io::Result<Box<dyn GivenDatagrams>> {
        let port = self.open_datagram_port(address)?;
        Ok(Box::new(port))
    }

    fn local_address(&self, _: SocketAddr) -> Option<IpAddr> {
        let network = &self.network.0;
        network.with(|state, _| self.living(state).is_ok().then_some(self.address))
    }
}

/// A port that is listened at.
struct Port {
    network: MemoryNetwork,
    address: SocketAddr,
    life: u64,
    number: u64,
}

impl Port {
    /// The listener, unless the life that listened was killed.
    fn listener<'a>(&self, state: &'a mut State) -> Option<&'a mut Listener> {
        let listeners = &mut state.host(self.address.ip()).listeners;
        let found = listeners.get_mut(&self.address.port());
        found.filter(|listener| listener.number == self.number)
    }

    /// The next connection that waits. After its life was killed nothing comes any more.
    fn poll_accept(&self, cx: &Context<'_>) -> Poll<io::Result<Connection>> {
        let host = self.address.ip();
        self.network.0.with(|state, now| {
            let is_full = state.host(host).is_full();
            let Some(listener) = self.listener(state) else {
                return Poll::Pending;
            };
            if listener.waiting.is_empty() {
                let waker = cx.waker();
                if !listener.acceptors.iter().any(|it| it.will_wake(waker)) {
                    listener.acceptors.push(waker.clone());
                }
                return Poll::Pending;
            }
            if is_full {
                return Poll::Ready(Err(io::Error::from_raw_os_error(TOO_MANY_FILES)));
            }
            let next = listener.waiting.pop_front();
            let pair =
                next.and_then(|connection| Some((connection, state.connections.get(&connection)?)));
            let Some((connection, pair)) = pair else {
                return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
            };
            let peer = pair.sides[0].local;
            state
                .host(host)
                .count(self.life, |open| open.connections += 1);
            state.note(now, host, peer, EventKind::Accept, 0);
            Poll::Ready(Ok(Connection {
                network: self.network.clone(),
                id: SideId {
                    connection,
                    side: 1,
                },
                life: self.life,
                local: self.address,
                peer,
            }))
        })
    }
}

impl GivenListener for Port {
    fn accept(&self) -> Answer<'_, (Box<dyn GivenStream>, SocketAddr)> {
        Box::pin(async move {
            let accepted = poll_fn(|cx| self.poll_accept(cx)).await?;
            let peer = accepted.peer;
            Ok((Box::new(accepted) as Box<dyn GivenStream>, peer))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let (address, port) = (self.address.ip(), self.address.port());
        self.network.0.with(|state, now| {
            let host = state.host(address);
            host.count(self.life, |open| open.ports = open.ports.saturating_sub(1));
            host.ports.remove(&(port, self.number));
            if self.listener(state).is_none() {
                return;
            }
            if let Some(listener) = state.host(address).listeners.remove(&port) {
                state.effects.dropped.extend(listener.acceptors);
                for connection in listener.waiting {
                    reset_unaccepted(state, connection, now);
                }
            }
        });
    }
}

/// Resets a connection that nobody will accept any more.
fn reset_unaccepted(state: &mut State, connection: u64, now: Instant) {
    let id = SideId {
        connection,
        side: 1,
    };
    if let Some(pair) = state.connections.get_mut(&connection) {
        pair.sides[1].resets = true;
        close(state, id, now);
    }
}
