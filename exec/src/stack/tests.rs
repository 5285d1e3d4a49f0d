//! The stack against programs of a small kernel: smoltcp again, as the side that connects, on virtual time.
#![allow(clippy::unwrap_used)]

use core::time::Duration;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::task::Waker;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{
    HardwareAddress, Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpCidr, IpProtocol,
    Ipv4Packet, Ipv6Packet,
};

use super::tcp::{Came, MOST_FLOWS, MOST_WAITING, MOST_WAITING_FOR_ONE, Out, capabilities};
use super::*;

pub(super) const SERVER: &str = "192.0.2.1:80";
pub(super) const SERVER6: &str = "[2001:db8::1]:80";

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[derive(Default)]
struct Cable {
    came: VecDeque<Vec<u8>>,
    out: VecDeque<Vec<u8>>,
}

impl Device for Cable {
    type RxToken<'a> = Came;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Came, Out<'_>)> {
        Some((Came(self.came.pop_front()?), Out(&mut self.out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Out<'_>> {
        Some(Out(&mut self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        capabilities()
    }
}

/// A machine with programs, and the stack that it has for a network.
struct World {
    now: Duration,
    kernel: Interface,
    cable: Cable,
    sockets: SocketSet<'static>,
    stack: Stack,
    wishes: Vec<Wish>,
    /// What came from the stack and is no TCP.
    told: Vec<Vec<u8>>,
    port: u16,
    /// Each so many'th packet from the stack is lost.
    lose: Option<usize>,
    passed: usize,
}

impl World {
    fn new() -> Self {
        let mut cable = Cable::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = 1;
        let mut kernel = Interface::new(config, &mut cable, Instant::ZERO);
        kernel.update_ip_addrs(|addresses| {
            for text in ["10.0.0.2/24", "fd00::2/64"] {
                let address: IpCidr = text.parse().unwrap();
                addresses.push(address).unwrap();
            }
        });
        let routes = kernel.routes_mut();
        routes
            .add_default_ipv4_route("10.0.0.1".parse().unwrap())
            .unwrap();
        routes
            .add_default_ipv6_route("fd00::1".parse().unwrap())
            .unwrap();
        Self {
            now: Duration::ZERO,
            kernel,
            cable,
            sockets: SocketSet::new(Vec::new()),
            stack: Stack::new(2),
            wishes: Vec::new(),
            told: Vec::new(),
            port: 40_000,
            lose: None,
            passed: 0,
        }
    }

    fn connect(&mut self, to: &str) -> SocketHandle {
        let room = || SocketBuffer::new(vec![0; 100_000]);
        let mut socket = Socket::new(room(), room());
        self.port += 1;
        let context = self.kernel.context();
        socket.connect(context, address(to), self.port).unwrap();
        self.sockets.add(socket)
    }

    fn tcp(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Lets packets pass until there are none, or none but repetitions for this time.
    fn settle(&mut self) {
        loop {
            let now = Instant::from_micros(self.now.as_micros() as i64);
            self.kernel.poll(now, &mut self.cable, &mut self.sockets);
            let mut moved = false;
            while let Some(packet) = self.cable.out.pop_front() {
                moved = true;
                if let Ok(Some(wish)) = self.stack.receive(self.now, &packet) {
                    self.wishes.push(wish);
                }
            }
            self.stack.poll(self.now);
            while let Some(packet) = self.stack.next_packet() {
                moved = true;
                self.passed += 1;
                if self
                    .lose
                    .is_some_and(|each| self.passed.is_multiple_of(each))
                {
                    continue;
                }
                match protocol(&packet) {
                    IpProtocol::Tcp => self.cable.came.push_back(packet),
                    _ => self.told.push(packet),
                }
            }
            if !moved {
                break;
            }
        }
    }

    fn later(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.settle();
    }

    /// The connection that was asked for last, which must be to this address.
    fn wished(&mut self, to: &str) -> FlowId {
        match self.wishes.pop() {
            Some(Wish::Connect(flow, at)) if at == address(to) => flow,
            other => panic!("{other:?}"),
        }
    }

    fn read(&mut self, flow: FlowId) -> Result<Vec<u8>, Read> {
        let mut room = [0; 2_000];
        match self.stack.read(flow, &mut room, Waker::noop()) {
            Read::Data(len) => Ok(room[..len].to_vec()),
            other => Err(other),
        }
    }

    fn write(&mut self, flow: FlowId, bytes: &[u8]) -> Written {
        self.stack.write(flow, bytes, Waker::noop())
    }

    /// A connection to the server that stands.
    fn connected(&mut self, to: &str) -> (SocketHandle, FlowId) {
        let socket = self.connect(to);
        self.settle();
        let flow = self.wished(to);
        assert!(self.stack.accept(self.now, flow));
        self.settle();
        assert_eq!(self.tcp(socket).state(), State::Established);
        (socket, flow)
    }
}

fn protocol(packet: &[u8]) -> IpProtocol {
    match packet[0] >> 4 {
        4 => Ipv4Packet::new_checked(packet).unwrap().next_header(),
        _ => Ipv6Packet::new_checked(packet).unwrap().next_header(),
    }
}

/// Type and code of a word of ICMP, and the addresses that it goes between.
pub(super) fn icmp(packet: &[u8]) -> (u8, u8, IpAddr, IpAddr) {
    if packet[0] >> 4 == 4 {
        let ip = Ipv4Packet::new_checked(packet).unwrap();
        assert!(ip.verify_checksum() && packet.len() <= 576);
        let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
        assert!(icmp.verify_checksum());
        let (from, to) = (ip.src_addr(), ip.dst_addr());
        let kind = u8::from(icmp.msg_type());
        (kind, icmp.msg_code(), from.into(), to.into())
    } else {
        let ip = Ipv6Packet::new_checked(packet).unwrap();
        assert!(packet.len() <= 1_280);
        let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
        let (from, to) = (ip.src_addr(), ip.dst_addr());
        assert!(icmp.verify_checksum(&from, &to));
        let kind = u8::from(icmp.msg_type());
        (kind, icmp.msg_code(), from.into(), to.into())
    }
}

#[test]
fn a_program_waits_until_the_destination_answers_and_both_end_by_themselves() {
    for to in [SERVER, SERVER6] {
        let mut world = World::new();
        let socket = world.connect(to);
        world.settle();
        let flow = world.wished(to);
        // The program's system asks again and again; we ask the node once, and say nothing.
        for _ in 0..5 {
            world.later(3_000);
            assert_eq!(world.tcp(socket).state(), State::SynSent);
            assert_eq!(world.wishes, []);
        }
        assert_eq!(world.stack.poll_at(world.now), None, "nobody is woken");
        assert!(world.stack.accept(world.now, flow));
        assert_eq!(world.read(flow), Err(Read::Nothing));
        assert_eq!(world.write(flow, b"early"), Written::Full);
        world.settle();
        assert_eq!(world.tcp(socket).state(), State::Established);

        world.tcp(socket).send_slice(b"question").unwrap();
        world.tcp(socket).close();
        world.settle();
        assert_eq!(world.read(flow), Ok(b"question".to_vec()));
        assert_eq!(world.read(flow), Err(Read::End));
        // The other direction goes on.
        assert_eq!(world.write(flow, b"answer"), Written::Taken(6));
        world.later(60_000);
        let mut room = [0; 10];
        assert_eq!(world.tcp(socket).recv_slice(&mut room), Ok(6));
        assert!(world.tcp(socket).may_recv());
        world.stack.close(flow);
        world.stack.release(flow);
        world.later(100);
        assert!(!world.tcp(socket).may_recv());
        assert_eq!(world.stack.flows(), 0);
    }
}

#[test]
fn the_destination_may_end_first() {
    let mut world = World::new();
    let (socket, flow) = world.connected(SERVER);
    world.write(flow, b"banner");
    world.stack.close(flow);
    world.settle();
    assert_eq!(world.tcp(socket).state(), State::CloseWait);
    world.tcp(socket).send_slice(b"last words").unwrap();
    world.tcp(socket).close();
    world.settle();
    assert_eq!(world.read(flow), Ok(b"last words".to_vec()));
    assert_eq!(world.read(flow), Err(Read::End));
    assert_eq!(world.stack.flows(), 1, "whoever drives has not let it go");
    world.stack.release(flow);
    world.settle();
    assert_eq!(world.stack.flows(), 0);
}

#[test]
fn a_refusal_is_a_reset() {
    let mut world = World::new();
    let socket = world.connect(SERVER);
    world.settle();
    let flow = world.wished(SERVER);
    world.stack.refuse(world.now, flow);
    world.settle();
    assert_eq!(world.tcp(socket).state(), State::Closed);
    assert_eq!(world.stack.flows(), 0);
    // Words about a connection that is gone do nothing.
    assert!(!world.stack.accept(world.now, flow));
    world.stack.refuse(world.now, flow);
    world.stack.fail(flow, Unreachable::Host);
    world.settle();
    assert_eq!(world.told, Vec::<Vec<u8>>::new());
}

#[test]
fn what_cannot_be_reached_is_told_so_in_both_versions() {
    for (why, v4, v6) in [
        (Unreachable::Network, 0, 0),
        (Unreachable::Host, 1, 3),
        (Unreachable::Prohibited, 13, 1),
    ] {
        for (to, kind, code, own) in [
            (
                SERVER,
                u8::from(Icmpv4Message::DstUnreachable),
                v4,
                "10.0.0.2",
            ),
            (
                SERVER6,
                u8::from(Icmpv6Message::DstUnreachable),
                v6,
                "fd00::2",
            ),
        ] {
            let mut world = World::new();
            world.connect(to);
            world.settle();
            let flow = world.wished(to);
            world.stack.fail(flow, why);
            world.settle();
            let told = icmp(&world.told[0]);
            let own: IpAddr = own.parse().unwrap();
            assert_eq!(told, (kind, code, address(to).ip(), own), "{why:?}");
            assert_eq!(world.stack.flows(), 0);
        }
    }
}

#[test]
fn a_destination_that_does_not_answer_is_silent_for_as_long_as_its_program_asks() {
    let mut world = World::new();
    let socket = world.connect(SERVER);
    world.settle();
    let flow = world.wished(SERVER);
    world.stack.silence(world.now, flow);
    for _ in 0..43 {
        world.later(3_000);
        assert_eq!(world.wishes, []);
        assert_eq!(world.tcp(socket).state(), State::SynSent);
    }
    assert_eq!(world.told, Vec::<Vec<u8>>::new());
    // Then the same ports are a new connection.
    world.later(3_000);
    world.later(10_000);
    world.wished(SERVER);
}

#[test]
fn resets_pass_in_both_directions() {
    let mut world = World::new();
    let (socket, flow) = world.connected(SERVER);
    world.stack.abort(flow);
    world.stack.release(flow);
    world.settle();
    assert_eq!(world.tcp(socket).state(), State::Closed);
    assert_eq!(world.stack.flows(), 0);

    let (socket, flow) = world.connected(SERVER);
    world.tcp(socket).abort();
    world.settle();
    assert_eq!(world.read(flow), Err(Read::Reset));
    assert_eq!(world.write(flow, b"x"), Written::Reset);

    // A program that gives up while it waits has its system say nothing; our answer is answered by a reset.
    let socket = world.connect(SERVER);
    world.settle();
    let flow = world.wished(SERVER);
    world.sockets.remove(socket);
    assert!(world.stack.accept(world.now, flow));
    world.settle();
    assert_eq!(world.read(flow), Err(Read::Reset));
    world.stack.release(flow);
    world.settle();
}

#[test]
fn bytes_arrive_whole_and_in_order_where_packets_are_lost() {
    let mut world = World::new();
    let (socket, flow) = world.connected(SERVER);
    world.lose = Some(7);
    let all: Vec<u8> = (0..400_000u32)
        .map(|n| (n.wrapping_mul(n) >> 3) as u8)
        .collect();
    let (mut to_send, mut to_echo, mut got) = (&all[..], VecDeque::new(), Vec::new());
    for _ in 0..20_000 {
        let program = world.tcp(socket);
        if program.can_send() {
            let sent = program.send_slice(to_send).unwrap();
            to_send = &to_send[sent..];
        }
        while let Ok(bytes) = world.read(flow) {
            to_echo.extend(bytes);
        }
        let bytes = to_echo.make_contiguous().to_vec();
        if let Written::Taken(len) = world.write(flow, &bytes) {
            to_echo.drain(..len);
        }
        let program = world.tcp(socket);
        while program.can_recv() {
            let mut room = [0; 5_000];
            let len = program.recv_slice(&mut room).unwrap();
            got.extend_from_slice(&room[..len]);
        }
        if got.len() == all.len() {
            break;
        }
        world.later(20);
    }
    assert!(got == all, "{} of {}", got.len(), all.len());
}

#[test]
fn connections_and_those_that_wait_are_bounded() {
    let mut world = World::new();
    let mut flows = Vec::new();
    let mut sockets = Vec::new();
    for _ in 0..MOST_WAITING_FOR_ONE + 1 {
        sockets.push(world.connect(SERVER));
    }
    world.settle();
    assert_eq!(world.wishes.len(), MOST_WAITING_FOR_ONE);
    assert_eq!(world.stack.dropped(), 1);
    // A host that does not answer holds up nothing that is for others.
    let others = MOST_WAITING - MOST_WAITING_FOR_ONE;
    for host in 0..others + 1 {
        let to = format!("198.51.100.{}:80", host % 250 + 1);
        sockets.push(world.connect(&to));
        world.settle();
    }
    assert_eq!(world.wishes.len(), MOST_WAITING);
    assert_eq!(world.stack.dropped(), 2);
    for wish in std::mem::take(&mut world.wishes) {
        let Wish::Connect(flow, _) = wish else {
            panic!("{wish:?}")
        };
        assert!(world.stack.accept(world.now, flow));
        flows.push(flow);
    }
    // Those that were too many ask again.
    world.later(1_100);
    assert_eq!(world.wishes.len(), 2);
    for wish in std::mem::take(&mut world.wishes) {
        let Wish::Connect(flow, _) = wish else {
            panic!("{wish:?}")
        };
        world.stack.accept(world.now, flow);
        flows.push(flow);
    }
    while flows.len() < MOST_FLOWS {
        world.connect(SERVER);
        world.settle();
        flows.push(world.wished(SERVER));
        world.stack.accept(world.now, flows[flows.len() - 1]);
    }
    let before = world.stack.dropped();
    world.connect(SERVER);
    world.settle();
    assert_eq!((world.wishes.len(), world.stack.dropped()), (0, before + 1));
    // One that ends makes room.
    world.stack.abort(flows[0]);
    world.stack.release(flows[0]);
    world.settle();
    world.later(1_100);
    world.wished(SERVER);
}

#[test]
fn a_port_is_used_again_while_its_last_connection_is_still_remembered() {
    let mut world = World::new();
    let (socket, flow) = world.connected(SERVER);
    world.stack.close(flow);
    world.settle();
    world.tcp(socket).close();
    world.settle();
    // Nobody has read to the end, so that the connection is still there.
    assert_eq!(world.stack.flows(), 1);
    world.sockets.remove(socket);
    world.port -= 1;
    let (_, again) = world.connected(SERVER);
    assert_ne!(flow, again);
    assert_eq!(world.read(flow), Err(Read::Reset));
}

#[test]
fn what_is_no_beginning_of_a_connection_is_answered_by_a_reset() {
    let mut world = World::new();
    let (socket, _) = world.connected(SERVER);
    world.stack = Stack::new(3);
    world.tcp(socket).send_slice(b"hello?").unwrap();
    world.settle();
    assert_eq!(world.tcp(socket).state(), State::Closed);
}
