//! The stack against programs of a small kernel: smoltcp again, as the side that connects, on virtual time.
#![allow(clippy::unwrap_used)]

use core::time::Duration;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::task::Waker;

use proptest::prelude::*;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{
    HardwareAddress, Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpCidr, IpProtocol,
    Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};

use super::tcp::{MOST_FLOWS, MOST_WAITING};
use super::udp::datagram;
use super::*;

const SERVER: &str = "192.0.2.1:80";
const SERVER6: &str = "[2001:db8::1]:80";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[derive(Default)]
struct Cable {
    came: VecDeque<Vec<u8>>,
    out: VecDeque<Vec<u8>>,
}

struct Came(Vec<u8>);
struct Out<'a>(&'a mut VecDeque<Vec<u8>>);

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
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
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
fn icmp(packet: &[u8]) -> (u8, u8, IpAddr, IpAddr) {
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
    for _ in 0..MOST_WAITING + 1 {
        sockets.push(world.connect(SERVER));
    }
    world.settle();
    assert_eq!(world.wishes.len(), MOST_WAITING);
    assert_eq!(world.stack.dropped(), 1);
    for wish in std::mem::take(&mut world.wishes) {
        let Wish::Connect(flow, _) = wish else {
            panic!("{wish:?}")
        };
        assert!(world.stack.accept(world.now, flow));
        flows.push(flow);
    }
    // The one that was too many asks again.
    world.later(1_100);
    flows.push(world.wished(SERVER));
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

/// A packet of IPv4 with a header of its own.
fn ipv4(to: [u8; 4], protocol: IpProtocol, fragment: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20 + payload.len()];
    bytes[20..].copy_from_slice(payload);
    let len = bytes.len() as u16;
    let mut ip = Ipv4Packet::new_unchecked(&mut bytes);
    ip.set_version(4);
    ip.set_header_len(20);
    ip.set_total_len(len);
    ip.set_hop_limit(64);
    ip.set_next_header(protocol);
    ip.set_src_addr([10, 0, 0, 2].into());
    ip.set_dst_addr(to.into());
    if let Some(offset) = fragment {
        ip.set_more_frags(offset == 0);
        ip.set_frag_offset(offset);
    }
    ip.fill_checksum();
    bytes
}

#[test]
fn what_is_not_carried_is_dropped_and_counted() {
    let mut stack = Stack::new(1);
    let good = datagram(address("10.0.0.2:5000"), address("192.0.2.1:7"), b"data").unwrap();
    assert!(matches!(
        stack.receive(Duration::ZERO, &good),
        Ok(Some(Wish::Send(_, _)))
    ));
    let udp = &good[20..];
    let mut wrong = good.clone();
    wrong[27] ^= 1;
    let to = [192, 0, 2, 1];
    let six = datagram(address("[fd00::2]:5000"), address("[2001:db8::1]:7"), b"x").unwrap();
    let mut fragment6 = six.clone();
    fragment6[6] = 44;
    for (packet, why) in [
        (Vec::new(), Dropped::Malformed),
        (vec![0x45; 19], Dropped::Malformed),
        (wrong, Dropped::Malformed),
        (ipv4(to, IpProtocol::Udp, Some(0), udp), Dropped::Fragment),
        (ipv4(to, IpProtocol::Udp, Some(8), udp), Dropped::Fragment),
        (fragment6, Dropped::Fragment),
        (
            ipv4(to, IpProtocol::Unknown(47), None, udp),
            Dropped::Protocol,
        ),
        (ipv4(to, IpProtocol::Igmp, None, udp), Dropped::Protocol),
        (
            ipv4([224, 0, 0, 251], IpProtocol::Udp, None, udp),
            Dropped::Address,
        ),
        (ipv4([255; 4], IpProtocol::Udp, None, udp), Dropped::Address),
        (ipv4([0; 4], IpProtocol::Udp, None, udp), Dropped::Address),
        (
            ipv4([10, 0, 0, 2], IpProtocol::Udp, None, udp),
            Dropped::Address,
        ),
    ] {
        assert_eq!(
            stack.receive(Duration::ZERO, &packet),
            Err(why),
            "{packet:?}"
        );
    }
    assert_eq!(stack.dropped(), 12);
    assert_eq!(stack.next_packet(), None);
}

#[test]
fn a_ping_is_told_that_it_is_prohibited() {
    let mut stack = Stack::new(1);
    let mut echo = vec![8, 0, 0, 0, 0, 1, 0, 1, 42, 42];
    Icmpv4Packet::new_unchecked(&mut echo).fill_checksum();
    let ping = ipv4([192, 0, 2, 9], IpProtocol::Icmp, None, &echo);
    assert_eq!(stack.receive(Duration::ZERO, &ping), Ok(None));
    let told = stack.next_packet().unwrap();
    let own = "10.0.0.2".parse().unwrap();
    assert_eq!(icmp(&told), (3, 13, "192.0.2.9".parse().unwrap(), own));
    // The word quotes the ping.
    assert_eq!(&told[28..], &ping[..]);
}

#[test]
fn datagrams_go_both_ways_and_the_name_server_is_no_destination() {
    for (own, other, server) in [
        ("10.0.0.2:5000", "192.0.2.1:443", "198.18.0.53:53"),
        ("[fd00::2]:5000", "[2001:db8::1]:443", "[fd00:ce9a::53]:53"),
    ] {
        let mut stack = Stack::new(1);
        let (from, to) = (address(own), address(other));
        let sent = datagram(from, to, b"ping").unwrap();
        let wish = stack.receive(Duration::ZERO, &sent).unwrap().unwrap();
        assert_eq!(wish, Wish::Send(Pair { from, to }, b"ping".to_vec()));
        stack.deliver(to, from, b"pong");
        let got = stack.next_packet().unwrap();
        let head = if from.is_ipv4() { 20 } else { 40 };
        let udp = UdpPacket::new_checked(&got[head..]).unwrap();
        assert!(udp.verify_checksum(&to.ip().into(), &from.ip().into()));
        assert_eq!(
            (udp.src_port(), udp.dst_port(), udp.payload()),
            (443, 5000, &b"pong"[..])
        );
        let to = address(server);
        let asked = datagram(from, to, b"?").unwrap();
        let wish = stack.receive(Duration::ZERO, &asked).unwrap().unwrap();
        assert_eq!(wish, Wish::Ask(Pair { from, to }, b"?".to_vec()));
    }
    assert_eq!(
        datagram(address("1.1.1.1:1"), address("[::2]:1"), b""),
        None
    );
    assert_eq!(
        datagram(address("1.1.1.1:1"), address("1.1.1.2:1"), &[0; 65_536]),
        None
    );
}

/// A query for the addresses of `a.example`, with EDNS if a length is given.
fn query(id: u16, takes: Option<u16>) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(takes.is_some())]);
    query.extend(b"\x01a\x07example\x00\x00\x01\x00\x01");
    if let Some(takes) = takes {
        query.extend([0, 0, 41]);
        query.extend(takes.to_be_bytes());
        query.extend([0; 6]);
    }
    query
}

#[test]
fn questions_with_the_same_id_have_answers_of_their_own() {
    let mut questions = Questions::default();
    let pair = |port| Pair {
        from: SocketAddr::new("10.0.0.2".parse().unwrap(), port),
        to: address("198.18.0.53:53"),
    };
    let mut asked = Vec::new();
    for port in [1, 2] {
        let Asked::Out(out) = questions.ask(Duration::ZERO, pair(port), &query(7, None)) else {
            panic!()
        };
        assert_eq!(
            usize::from(u16::from_be_bytes([out[0], out[1]])),
            out.len() - 2
        );
        assert_eq!(&out[4..], &query(7, None)[2..]);
        asked.push(out[2..].to_vec());
    }
    assert_ne!(asked[0][..2], asked[1][..2]);
    for port in [2u16, 1] {
        let mut answer = asked[usize::from(port) - 1].clone();
        answer[2] |= 0x80;
        let (to, datagram) = questions.answered(&answer).unwrap();
        assert_eq!(to, pair(port));
        assert_eq!(
            (&datagram[..2], &datagram[2..]),
            (&[0, 7][..], &answer[2..])
        );
        assert_eq!(questions.answered(&answer), None, "once");
    }
    assert!(questions.is_empty());
    assert_eq!(questions.answered(b"x"), None);
}

#[test]
fn an_answer_that_is_too_long_is_cut_and_a_lost_one_is_told() {
    let pair = Pair {
        from: address("10.0.0.2:1"),
        to: address("198.18.0.53:53"),
    };
    for (takes, most) in [(None, 512), (Some(1_232), 1_232), (Some(4_096), 1_232)] {
        let mut questions = Questions::default();
        for (len, is_cut) in [(most, false), (most + 1, true)] {
            let Asked::Out(out) = questions.ask(Duration::ZERO, pair, &query(9, takes)) else {
                panic!()
            };
            let mut answer = out[2..].to_vec();
            answer[2] |= 0x80;
            answer.resize(len, 0);
            let (_, told) = questions.answered(&answer).unwrap();
            assert_eq!(told[2] & 2 != 0, is_cut);
            assert_eq!(told.len() == len, !is_cut);
            assert!(told.starts_with(&[0, 9]));
        }
        questions.ask(Duration::ZERO, pair, &query(3, takes));
        let lost = questions.lost();
        assert_eq!(lost.len(), 1);
        assert_eq!((&lost[0].1[..2], lost[0].1[3] & 15), (&[0, 3][..], 2));
        assert!(questions.is_empty());
    }
}

#[test]
fn questions_that_wait_are_bounded_and_do_not_wait_for_ever() {
    let mut questions = Questions::default();
    let pair = Pair {
        from: address("10.0.0.2:1"),
        to: address("198.18.0.53:53"),
    };
    let mut ask = |second, id| {
        let now = Duration::from_secs(second);
        matches!(questions.ask(now, pair, &query(id, None)), Asked::Out(_))
    };
    assert!((0..64).all(|id| ask(0, id)));
    assert!(!ask(29, 64));
    assert!(ask(30, 64));
    assert_eq!(
        questions.ask(Duration::ZERO, pair, b"nonsense"),
        Asked::Dropped
    );
    let mut notify = query(1, None);
    notify[2] |= 0x20;
    let answered = questions.ask(Duration::ZERO, pair, &notify);
    assert!(matches!(answered, Asked::Answered(answer) if answer[3] & 15 == 4));
}

proptest! {
    #[test]
    fn no_packet_breaks_the_stack(packets in proptest::collection::vec(any::<Noise>(), 0..40)) {
        let mut stack = Stack::new(1);
        let mut now = Duration::ZERO;
        for noise in packets {
            now += Duration::from_millis(u64::from(noise.after));
            match stack.receive(now, &noise.packet()) {
                Ok(Some(Wish::Connect(flow, _))) => match noise.then % 5 {
                    0 => drop(stack.accept(now, flow)),
                    1 => stack.refuse(now, flow),
                    2 => stack.fail(flow, Unreachable::Host),
                    3 => stack.silence(now, flow),
                    _ => {}
                },
                Ok(Some(Wish::Ask(pair, bytes))) => drop(Questions::default().ask(now, pair, &bytes)),
                _ => {}
            }
            stack.poll(now);
            while stack.next_packet().is_some() {}
        }
    }
}

/// Packets that are nearly right: random ones would end at the first check.
#[derive(Clone, Debug)]
struct Noise {
    after: u16,
    then: u8,
    six: bool,
    protocol: u8,
    ports: [u8; 4],
    rest: Vec<u8>,
    mends: bool,
}

impl Arbitrary for Noise {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        let protocol = prop_oneof![Just(6u8), Just(17), Just(1), Just(58), any::<u8>()];
        let ports = prop_oneof![Just([0, 5, 0, 7]), Just([0, 5, 0, 53]), any::<[u8; 4]>()];
        let rest = proptest::collection::vec(any::<u8>(), 0..80);
        let all = (
            any::<u16>(),
            any::<u8>(),
            any::<bool>(),
            protocol,
            ports,
            rest,
            any::<bool>(),
        );
        all.prop_map(|(after, then, six, protocol, ports, rest, mends)| Self {
            after,
            then,
            six,
            protocol,
            ports,
            rest,
            mends,
        })
        .boxed()
    }
}

impl Noise {
    fn packet(&self) -> Vec<u8> {
        let mut payload = [&self.ports[..], &self.rest].concat();
        let len = payload.len() as u16;
        let ends = if self.six {
            (address("[fd00::2]:1"), address(SERVER6))
        } else {
            (address("10.0.0.2:1"), address(SERVER))
        };
        let (from, to) = (ends.0.ip().into(), ends.1.ip().into());
        if self.mends && self.protocol == 6 && payload.len() >= 20 {
            payload[12] = 0x50;
            TcpPacket::new_unchecked(&mut payload).fill_checksum(&from, &to);
        }
        if self.mends && self.protocol == 17 && payload.len() >= 8 {
            payload[4..6].copy_from_slice(&len.to_be_bytes());
            UdpPacket::new_unchecked(&mut payload).fill_checksum(&from, &to);
        }
        if self.mends && self.protocol == 1 && payload.len() >= 8 {
            payload[0] = 8;
            Icmpv4Packet::new_unchecked(&mut payload).fill_checksum();
        }
        if self.six {
            let mut head = vec![0x60, 0, 0, 0];
            head.extend(len.to_be_bytes());
            head.extend([self.protocol, 64]);
            for ip in [ends.0.ip(), ends.1.ip()] {
                let IpAddr::V6(ip) = ip else { panic!() };
                head.extend(ip.octets());
            }
            [head, payload].concat()
        } else {
            ipv4([192, 0, 2, 1], self.protocol.into(), None, &payload)
        }
    }
}

#[test]
fn a_name_server_is_known_by_address_and_port() {
    assert!(is_name_server(address("198.18.0.53:53")));
    assert!(is_name_server(address("[fd00:ce9a::53]:53")));
    assert!(!is_name_server(address("198.18.0.53:54")));
    assert!(!is_name_server(address("198.18.0.54:53")));
    let caps = ChecksumCapabilities::default();
    assert!(caps.udp.rx(), "checksums are checked");
}
