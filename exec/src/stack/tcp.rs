//! Connections of programs, as the other end of each: smoltcp speaks TCP, and this file decides which there are.
//!
//! A SYN is kept, unanswered, until the node has said whether the destination answers. So a program sees what it would
//! see without Cepa: a connection that is refused, one that is unreachable, or one that nobody answers.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State as TcpState};
use smoltcp::time::Instant;
use smoltcp::wire::HardwareAddress;

use super::packet::{Dropped, Pair};

/// Bytes that one packet may have (bytes): what Ethernet takes, as programs expect.
pub(crate) const MTU: usize = 1_500;
/// Connections at once, with those that wait and those that nobody answers.
pub(crate) const MOST_FLOWS: usize = 512;
/// Connections that wait for the node's word at once.
pub(crate) const MOST_WAITING: usize = 256;
/// Those of them that are for one address: a host that does not answer must not hold up what is for others.
pub(crate) const MOST_WAITING_FOR_ONE: usize = 64;
/// Bytes of a connection that wait here in each direction.
const BUFFER: usize = 64 << 10;
/// Packets that wait for the interface; it takes them as fast as they are made.
const MOST_PACKETS: usize = 256;
/// For so long a destination that did not answer is silent: the system's last SYN comes 63 s after its first, and its
/// program gives up 64 s after that.
const SILENT: Duration = Duration::from_secs(130);

/// A connection of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FlowId(u64);

/// What reading from a program gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes; there is at least one.
    Data(usize),
    /// Nothing yet.
    Nothing,
    /// The program has said all that it has to say.
    End,
    /// The program, or its system, has reset the connection.
    Reset,
}

/// What writing to a program gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// So many bytes were taken; there is at least one.
    Taken(usize),
    /// There is no room now.
    Full,
    /// The program takes no more.
    Reset,
}

enum State {
    /// The SYN of a connection about which the node has not said anything yet.
    Waiting(Vec<u8>),
    Open(SocketHandle),
    /// Nobody answered; neither do we, until this time.
    Silent(Duration),
}

struct Flow {
    pair: Pair,
    state: State,
    /// Does nobody read from it or write to it any more?
    is_released: bool,
}

/// All connections.
pub(super) struct Flows {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    flows: BTreeMap<FlowId, Flow>,
    by_pair: BTreeMap<Pair, FlowId>,
    last: u64,
}

fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

impl Flows {
    /// No connections. Their first sequence numbers follow from `seed`.
    pub(super) fn new(seed: u64) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, instant(Duration::ZERO));
        // Every destination ends here.
        interface.set_any_ip(true);
        Self {
            interface,
            wire,
            sockets: SocketSet::new(Vec::new()),
            flows: BTreeMap::new(),
            by_pair: BTreeMap::new(),
            last: 0,
        }
    }

    /// Takes a segment. Gives the connection that it asks for, if it is a new one.
    pub(super) fn segment(
        &mut self,
        now: Duration,
        pair: Pair,
        begins: bool,
        packet: &[u8],
    ) -> Result<Option<FlowId>, Dropped> {
        if let Some(&id) = self.by_pair.get(&pair) {
            let is_over = match self.flows.get(&id).map(|flow| &flow.state) {
                Some(State::Waiting(_)) => return Ok(None),
                Some(State::Silent(until)) => *until <= now,
                // The same port of the program, for a new connection.
                Some(State::Open(handle)) => {
                    let state = self.sockets.get::<Socket<'_>>(*handle).state();
                    begins && matches!(state, TcpState::TimeWait | TcpState::Closed)
                }
                None => true,
            };
            if !is_over {
                if let Some(State::Open(_)) = self.flows.get(&id).map(|flow| &flow.state) {
                    self.feed(now, packet);
                }
                return Ok(None);
            }
            self.remove(id);
        }
        if !begins {
            // It belongs to no connection: the answer is a reset.
            self.feed(now, packet);
            return Ok(None);
        }
        let (mut waiting, mut for_one) = (0, 0);
        for flow in self.flows.values() {
            if let State::Waiting(_) = flow.state {
                waiting += 1;
                for_one += usize::from(flow.pair.to.ip() == pair.to.ip());
            }
        }
        let is_full = self.flows.len() >= MOST_FLOWS || waiting >= MOST_WAITING;
        if is_full || for_one >= MOST_WAITING_FOR_ONE {
            return Err(Dropped::Full);
        }
        self.last += 1;
        let id = FlowId(self.last);
        let flow = Flow {
            pair,
            state: State::Waiting(packet.to_vec()),
            is_released: false,
        };
        self.flows.insert(id, flow);
        self.by_pair.insert(pair, id);
        Ok(Some(id))
    }

    /// The SYN of a connection that waits.
    pub(super) fn syn(&self, id: FlowId) -> Option<&[u8]> {
        match &self.flows.get(&id)?.state {
            State::Waiting(syn) => Some(syn),
            _ => None,
        }
    }

    /// The destination answers: so do we. `false` if the connection does not wait any more.
    pub(super) fn accept(&mut self, now: Duration, id: FlowId) -> bool {
        let Some(syn) = self.syn(id).map(<[u8]>::to_vec) else {
            return false;
        };
        let Some(pair) = self.flows.get(&id).map(|flow| flow.pair) else {
            return false;
        };
        let room = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(room(), room());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        if socket.listen(pair.to).is_err() {
            self.remove(id);
            return false;
        }
        let handle = self.sockets.add(socket);
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.state = State::Open(handle);
        }
        self.feed(now, &syn);
        if self.sockets.get::<Socket<'_>>(handle).state() == TcpState::SynReceived {
            return true;
        }
        self.remove(id);
        false
    }

    /// The destination refuses: a reset.
    pub(super) fn refuse(&mut self, now: Duration, id: FlowId) {
        let syn = self.syn(id).map(<[u8]>::to_vec);
        self.remove(id);
        if let Some(syn) = syn {
            // No connection takes it, which is answered by a reset.
            self.feed(now, &syn);
        }
    }

    /// Nobody answered, and nobody does.
    pub(super) fn silence(&mut self, now: Duration, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(&id)
            && let State::Waiting(_) = flow.state
        {
            flow.state = State::Silent(now + SILENT);
            flow.is_released = true;
        }
    }

    /// Forgets a connection that waits.
    pub(super) fn forget(&mut self, id: FlowId) {
        if self.syn(id).is_some() {
            self.remove(id);
        }
    }

    /// Reads what a program has written.
    pub(super) fn read(&mut self, id: FlowId, room: &mut [u8]) -> Read {
        let Some(socket) = self.socket(id) else {
            return Read::Reset;
        };
        match socket.state() {
            TcpState::SynReceived => return Read::Nothing,
            // The program gave up before it had our answer.
            TcpState::Listen => return Read::Reset,
            _ => {}
        }
        match socket.recv_slice(room) {
            Ok(0) => Read::Nothing,
            Ok(len) => Read::Data(len),
            Err(RecvError::Finished) => Read::End,
            Err(RecvError::InvalidState) => Read::Reset,
        }
    }

    /// Writes to a program.
    pub(super) fn write(&mut self, id: FlowId, bytes: &[u8]) -> Written {
        let Some(socket) = self.socket(id) else {
            return Written::Reset;
        };
        if socket.state() == TcpState::SynReceived {
            return Written::Full;
        }
        match socket.send_slice(bytes) {
            Ok(0) => Written::Full,
            Ok(len) => Written::Taken(len),
            Err(_) => Written::Reset,
        }
    }

    /// Wakes `waker` when reading may give something else.
    pub(super) fn wake_reader(&mut self, id: FlowId, waker: &Waker) {
        if let Some(socket) = self.socket(id) {
            socket.register_recv_waker(waker);
        }
    }

    /// Wakes `waker` when writing may give something else.
    pub(super) fn wake_writer(&mut self, id: FlowId, waker: &Waker) {
        if let Some(socket) = self.socket(id) {
            socket.register_send_waker(waker);
        }
    }

    /// The destination has said all that it has to say.
    pub(super) fn close(&mut self, id: FlowId) {
        if let Some(socket) = self.socket(id) {
            socket.close();
        }
    }

    /// Resets a connection.
    pub(super) fn abort(&mut self, id: FlowId) {
        if let Some(socket) = self.socket(id) {
            socket.abort();
        }
    }

    /// Nobody asks for this connection any more: it goes when it is over.
    pub(super) fn release(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.is_released = true;
        }
    }

    /// Sends what there is to send, and lets go what is over.
    pub(super) fn poll(&mut self, now: Duration) {
        loop {
            let done = self
                .interface
                .poll_egress(instant(now), &mut self.wire, &mut self.sockets);
            if done == PollResult::None {
                break;
            }
        }
        let sockets = &self.sockets;
        let over: Vec<_> = self
            .flows
            .iter()
            .filter(|(_, flow)| flow.is_released)
            .filter(|(_, flow)| match flow.state {
                State::Waiting(_) => true,
                State::Silent(until) => until <= now,
                State::Open(handle) => {
                    let socket = sockets.get::<Socket<'_>>(handle);
                    match socket.state() {
                        TcpState::TimeWait | TcpState::Listen => true,
                        // A reset that is still to be sent needs its addresses.
                        TcpState::Closed => socket.remote_endpoint().is_none(),
                        _ => false,
                    }
                }
            })
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.remove(id);
        }
    }

    /// When to poll next, if nothing else happens.
    pub(super) fn poll_at(&mut self, now: Duration) -> Option<Duration> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        let at = u64::try_from(at.total_micros()).unwrap_or(0);
        Some(Duration::from_micros(at))
    }

    /// The next packet for the interface.
    pub(super) fn next_packet(&mut self) -> Option<Vec<u8>> {
        self.wire.out.pop_front()
    }

    /// Adds a packet for the interface, if there is room.
    pub(super) fn push_packet(&mut self, packet: Vec<u8>) {
        if self.wire.out.len() < MOST_PACKETS {
            self.wire.out.push_back(packet);
        }
    }

    /// Connections that there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    fn socket(&mut self, id: FlowId) -> Option<&mut Socket<'static>> {
        match self.flows.get(&id)?.state {
            State::Open(handle) => Some(self.sockets.get_mut(handle)),
            _ => None,
        }
    }

    fn remove(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.remove(&id) {
            self.by_pair.remove(&flow.pair);
            if let State::Open(handle) = flow.state {
                self.sockets.remove(handle);
            }
        }
    }

    fn feed(&mut self, now: Duration, packet: &[u8]) {
        self.wire.came = Some(packet.to_vec());
        // An answer needs a place; without one the packet is lost, as on any wire.
        let _ = self
            .interface
            .poll_ingress_single(instant(now), &mut self.wire, &mut self.sockets);
        self.wire.came = None;
    }
}

/// The interface, as smoltcp sees it: one packet that has come, and those that go.
#[derive(Default)]
struct Wire {
    came: Option<Vec<u8>>,
    out: VecDeque<Vec<u8>>,
}

/// A packet that has come.
pub(super) struct Came(pub(super) Vec<u8>);
/// Where a packet goes.
pub(super) struct Out<'a>(pub(super) &'a mut VecDeque<Vec<u8>>);

impl Device for Wire {
    type RxToken<'a> = Came;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Came, Out<'_>)> {
        if self.out.len() >= MOST_PACKETS {
            return None;
        }
        let came = self.came.take()?;
        Some((Came(came), Out(&mut self.out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Out<'_>> {
        (self.out.len() < MOST_PACKETS).then_some(Out(&mut self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities()
    }
}

/// What packets of the namespace's interface are like.
pub(super) fn capabilities() -> DeviceCapabilities {
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = MTU;
    capabilities
}

impl RxToken for Came {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut packet = vec![0; len];
        let filled = fill(&mut packet);
        self.0.push_back(packet);
        filled
    }
}
