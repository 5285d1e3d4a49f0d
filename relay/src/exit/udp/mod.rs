//! Where an association leaves the overlay for UDP (docs/protocol.md, 5.37 to 5.39).
//!
//! A circuit's end hands an association that a client has begun to [`associate`], a task with the association's ports
//! (`sockets`), the peers that it hears (`peers`) and the names that it has written to (`names`). `bounds` has what all
//! associations of the exit may do together. What may not go out, or cannot, is dropped without a word.

mod bounds;
mod names;
mod peers;
mod sockets;

use core::future::poll_fn;
use core::task::{Context, Poll};
use core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use cepa_common::budget::Charge;
use cepa_common::cell::message::EndReason;
use cepa_common::dir::Transport;
use cepa_common::limits::ASSOCIATION_BYTES;
use cepa_common::net::association_io::AssociationIo;
use cepa_common::stream::{Acceptor, HeldDatagram, StreamError, StreamHost};
use cepa_common::world::steady;
use tokio::time::{Instant as Deadline, sleep, sleep_until};

use super::ExitConnector;
use super::attempts::Origin;
pub(super) use bounds::Bounds;
use bounds::Held;
use names::{Leads, Names};
use peers::{Known, Peers, plain};
use sockets::Ports;

/// An association ends so long after the client's last datagram.
const IDLE: Duration = Duration::from_secs(300);
/// A port is held for so long after its association.
const PORT_HOLD: Duration = Duration::from_secs(30);
/// Datagrams of the client that are sent before what peers sent is read.
const AT_ONCE: usize = 64;

/// Carries the datagrams of an association that a client has begun, until either side ends it. A relay that is no exit,
/// or lets no datagram out, refuses. `origin` says who has begun the association.
pub(crate) async fn associate(
    exit: Option<Arc<ExitConnector>>,
    association: AssociationIo<Acceptor>,
    origin: Origin,
) {
    let Some(exit) = exit.filter(|exit| exit.policy.carries(Transport::Udp)) else {
        return association.unbind(EndReason::Policy);
    };
    // A relay that stops takes no more. The client begins the association at another exit.
    let Some(counted) = exit.open_streams().enter() else {
        return association.unbind(EndReason::Resource);
    };
    let held = exit.datagrams.enter(origin, steady::now());
    association.bind();
    let mut port = Port {
        exit: &exit,
        association: &association,
        held: &held,
        origin,
        ports: Ports::default(),
        peers: Peers::default(),
        names: Names::new(&exit.budget),
        used: steady::now(),
    };
    let reason = tokio::select! {
        reason = port.run() => reason,
        () = held.ended() => EndReason::Resource,
    };
    let ports = port.ports;
    drop(counted);
    association.unbind(reason);
    if ports.is_empty() || reason == EndReason::Resource {
        return;
    }
    // What is on its way to this port must not reach whoever has it next.
    held.on_over();
    let mut charge = Charge::none(&exit.budget);
    charge.set(ASSOCIATION_BYTES);
    tokio::select! {
        () = sleep(PORT_HOLD) => {}
        () = held.ended() => {}
    }
    drop(ports);
}

impl ExitConnector {
    /// Has this machine a way to the address?
    pub(super) fn leads_to(&self, ip: IpAddr) -> bool {
        self.sockets.local_address(SocketAddr::new(ip, 9)).is_some()
    }
}

/// What one association is at the exit.
struct Port<'a> {
    exit: &'a Arc<ExitConnector>,
    association: &'a AssociationIo<Acceptor>,
    held: &'a Held,
    origin: Origin,
    ports: Ports,
    peers: Peers,
    names: Names,
    /// When the client last sent something.
    used: Instant,
}

enum Happened {
    Said(HeldDatagram),
    Found(Vec<HeldDatagram>),
    /// The owner's policy is another one.
    OtherPolicy,
    Ended,
}

impl Port<'_> {
    /// Moves datagrams until the association is over. Gives why.
    async fn run(&mut self) -> EndReason {
        loop {
            let idle = Deadline::from_std(self.used + IDLE);
            let held = self.held;
            let happened = tokio::select! {
                happened = poll_fn(|cx| self.poll(cx)) => happened,
                () = held.asks() => Happened::OtherPolicy,
                () = sleep_until(idle) => return EndReason::Timeout,
            };
            match happened {
                Happened::OtherPolicy if self.is_refused() => return EndReason::Policy,
                Happened::OtherPolicy => {}
                Happened::Ended => return EndReason::Done,
                Happened::Said(datagram) => self.on_said(datagram),
                Happened::Found(waiting) => waiting.into_iter().for_each(|it| self.on_datagram(it)),
            }
            // The client has its turn in portions, so that peers have theirs.
            for _ in 1..AT_ONCE {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                match self.association.poll_receive(&mut cx) {
                    Poll::Ready(Ok(datagram)) => self.on_said(datagram),
                    Poll::Ready(Err(_)) => return EndReason::Done,
                    Poll::Pending => break,
                }
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happened> {
        let (peers, association, bounds) =
            (&mut self.peers, self.association, &self.exit.datagrams);
        let now = steady::now();
        let mut each = |from: SocketAddr, bytes: &[u8]| {
            let from = plain(from);
            if let Some(is_news) = peers.hears(from, now) {
                if is_news {
                    bounds.on_answer(from.ip(), now);
                }
                let _ = association.send(&StreamHost::Ip(from.ip()), from.port(), bytes);
            }
        };
        while self.ports.poll_receive(cx, &mut each).is_ready() {}
        if let Poll::Ready(waiting) = self.names.poll_found(cx, now) {
            return Poll::Ready(Happened::Found(waiting));
        }
        match self.association.poll_receive(cx) {
            Poll::Ready(Ok(datagram)) => Poll::Ready(Happened::Said(datagram)),
            Poll::Ready(Err(
                StreamError::Ended(_) | StreamError::CircuitLost | StreamError::Memory,
            )) => Poll::Ready(Happened::Ended),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Asks another policy about the peers. Is nothing left that the association may do?
    fn is_refused(&mut self) -> bool {
        let policy = &self.exit.policy;
        let allows = |address| policy.allows(Transport::Udp, address);
        self.peers.ask_again(allows, steady::now()) || !policy.carries(Transport::Udp)
    }

    /// Takes a datagram of the client.
    fn on_said(&mut self, datagram: HeldDatagram) {
        self.used = steady::now();
        self.held.on_used(self.used);
        self.on_datagram(datagram);
    }

    fn on_datagram(&mut self, datagram: HeldDatagram) {
        let now = steady::now();
        let name = match &datagram.host {
            StreamHost::Ip(ip) => {
                let to = SocketAddr::new(*ip, datagram.port);
                if self.may_write(to, now) {
                    self.send(to, datagram.bytes(), now);
                }
                return;
            }
            StreamHost::Name(name) => name.clone(),
        };
        let (exit, origin) = (self.exit, self.origin);
        if let Leads::To(all, datagram) = self.names.take(exit, origin, &name, datagram, now) {
            let addresses = all.into_iter().map(|ip| SocketAddr::new(ip, datagram.port));
            for to in addresses {
                if self.may_write(to, now) {
                    self.names.keep(&name, to.ip());
                    return self.send(to, datagram.bytes(), now);
                }
            }
        }
    }

    /// What the policy says of the very address that is about to be written to.
    fn may_write(&mut self, to: SocketAddr, now: Instant) -> bool {
        match self.peers.known(to, now) {
            Known::Verdict(allowed) => allowed,
            Known::New | Known::Old => {
                let allowed = to.port() != 0 && self.exit.policy.allows(Transport::Udp, to);
                if !allowed {
                    self.peers.note(to, false, now);
                }
                allowed
            }
        }
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8], now: Instant) {
        let known = self.peers.known(to, now);
        let is_new = known == Known::New;
        if !self.held.may_send(to.ip(), bytes.len(), is_new, now) {
            return;
        }
        match known {
            Known::New | Known::Old => self.peers.note(to, true, now),
            Known::Verdict(_) => self.peers.on_written(to, now),
        }
        // What the network does not take is lost, like what it loses on the way.
        let _ = self.ports.send(&self.exit.sockets, to, bytes);
    }
}
