//! The other end of everything that a program in the namespace sends: packets of IP go in and come out, and in between
//! there are connections, datagrams and questions of the DNS.
//!
//! The room is pure: whoever drives it gives it packets and the time, and does what it says. `packet` tells packets
//! apart, `tcp` has the connections, `udp` and `icmp` make packets, and `dns` has the questions. `fuzzed` is for
//! fuzzers.

mod dns;
pub(crate) mod fuzzed;
mod icmp;
mod packet;
mod tcp;
mod udp;

#[cfg(test)]
mod datagram_tests;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Waker;

pub(crate) use dns::{Asked, Questions};
pub(crate) use icmp::Unreachable;
use packet::Kind;
pub(crate) use packet::{Dropped, Pair};
use tcp::Flows;
pub(crate) use tcp::{FlowId, MTU, Read, Written};

/// The name servers of the namespace, which are Cepa.
pub const NAME_SERVERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, 53)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xce9a, 0, 0, 0, 0, 0, 0x53)),
];
/// The port of name servers.
const DNS_PORT: u16 = 53;

/// Is this the name server of the namespace?
pub(crate) fn is_name_server(address: SocketAddr) -> bool {
    address.port() == DNS_PORT && NAME_SERVERS.contains(&address.ip())
}

/// What a packet asks of whoever drives the stack.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// A connection to this address.
    Connect(FlowId, SocketAddr),
    /// A datagram on its way.
    Send(Pair, Vec<u8>),
    /// A question to the name server.
    Ask(Pair, Vec<u8>),
}

/// The stack.
pub(crate) struct Stack {
    flows: Flows,
    dropped: u64,
}

impl Stack {
    /// A stack without connections. Their first sequence numbers follow from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            flows: Flows::new(seed),
            dropped: 0,
        }
    }

    /// Takes a packet that a program has sent, at the time `now` since the stack began.
    ///
    /// # Errors
    /// [`Dropped`]: the packet goes nowhere. They are counted.
    pub(crate) fn receive(
        &mut self,
        now: Duration,
        packet: &[u8],
    ) -> Result<Option<Wish>, Dropped> {
        let wish = self.judge(now, packet);
        if wish.is_err() {
            self.dropped += 1;
        }
        wish
    }

    fn judge(&mut self, now: Duration, packet: &[u8]) -> Result<Option<Wish>, Dropped> {
        match packet::read(packet)? {
            Kind::Segment { pair, begins } => {
                let flow = self.flows.segment(now, pair, begins, packet)?;
                Ok(flow.map(|flow| Wish::Connect(flow, pair.to)))
            }
            Kind::Datagram { pair, bytes } if is_name_server(pair.to) => {
                Ok(Some(Wish::Ask(pair, bytes.to_vec())))
            }
            Kind::Datagram { pair, bytes } => Ok(Some(Wish::Send(pair, bytes.to_vec()))),
            Kind::Echo => {
                self.turn_back(packet, Unreachable::Prohibited);
                Ok(None)
            }
        }
    }

    /// Tells the sender of `packet` that it cannot be passed on.
    pub(crate) fn turn_back(&mut self, packet: &[u8], why: Unreachable) {
        if let Some(told) = icmp::unreachable(packet, why) {
            self.flows.push_packet(told);
        }
    }

    /// Hands a datagram of `from` to the program at `to`.
    pub(crate) fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if let Some(packet) = udp::datagram(from, to, bytes) {
            self.flows.push_packet(packet);
        }
    }

    /// The destination of a connection answers. `false` if the program has given it up.
    pub(crate) fn accept(&mut self, now: Duration, flow: FlowId) -> bool {
        self.flows.accept(now, flow)
    }

    /// The destination of a connection refuses it.
    pub(crate) fn refuse(&mut self, now: Duration, flow: FlowId) {
        self.flows.refuse(now, flow);
    }

    /// The destination of a connection cannot be reached.
    pub(crate) fn fail(&mut self, flow: FlowId, why: Unreachable) {
        let told = self
            .flows
            .syn(flow)
            .and_then(|syn| icmp::unreachable(syn, why));
        self.flows.forget(flow);
        if let Some(told) = told {
            self.flows.push_packet(told);
        }
    }

    /// The destination of a connection does not answer.
    pub(crate) fn silence(&mut self, now: Duration, flow: FlowId) {
        self.flows.silence(now, flow);
    }

    /// Reads what a program has written; `waker` is woken when there may be more.
    pub(crate) fn read(&mut self, flow: FlowId, room: &mut [u8], waker: &Waker) -> Read {
        let read = self.flows.read(flow, room);
        if read == Read::Nothing {
            self.flows.wake_reader(flow, waker);
        }
        read
    }

    /// Writes to a program; `waker` is woken when there may be room.
    pub(crate) fn write(&mut self, flow: FlowId, bytes: &[u8], waker: &Waker) -> Written {
        let written = self.flows.write(flow, bytes);
        if written == Written::Full {
            self.flows.wake_writer(flow, waker);
        }
        written
    }

    /// The destination has said all that it has to say.
    pub(crate) fn close(&mut self, flow: FlowId) {
        self.flows.close(flow);
    }

    /// Resets a connection.
    pub(crate) fn abort(&mut self, flow: FlowId) {
        self.flows.abort(flow);
    }

    /// Nobody asks for this connection any more.
    pub(crate) fn release(&mut self, flow: FlowId) {
        self.flows.release(flow);
    }

    /// Sends what is to be sent. The packets are those of [`Stack::next_packet`]; if there were any, poll again when
    /// they are gone.
    pub(crate) fn poll(&mut self, now: Duration) {
        self.flows.poll(now);
    }

    /// When to poll next, if nothing else happens.
    pub(crate) fn poll_at(&mut self, now: Duration) -> Option<Duration> {
        self.flows.poll_at(now)
    }

    /// The next packet for a program.
    pub(crate) fn next_packet(&mut self) -> Option<Vec<u8>> {
        self.flows.next_packet()
    }

    /// Connections that there are.
    #[cfg(test)]
    pub(crate) fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Packets that went nowhere.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}
