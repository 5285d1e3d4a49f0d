//! The one interface of the namespace: an address, a way to everywhere, and a file that the packets come out of.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};
use tun_rs::DeviceBuilder;

use crate::error::ExecError;
use crate::stack::MTU;

/// The file by which an interface is made.
pub(crate) const TUN_FILE: &str = "/dev/net/tun";
/// The name of the interface in the namespace.
const NAME: &str = "cepa0";
/// The addresses of programs: of the blocks of which nobody on the Internet has any.
const OWN: [(IpAddr, u8); 2] = [
    (IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), 32),
    (
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xce9a, 0, 0, 0, 0, 0, 1)),
        128,
    ),
];
/// The number of the loopback interface, in each namespace.
const LOOPBACK: u32 = 1;

/// Where it says what to do about [`TUN_FILE`].
const TUN_HINT: &str = "`sudo modprobe tun` makes it where it is missing, and `sudo chmod 666 /dev/net/tun` opens it to \
    users, as most systems have it; it gives nobody an interface outside a namespace of his own";

/// Sees, before anything is done, whether this user may make an interface.
pub(crate) fn check() -> Result<(), ExecError> {
    let mode = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
    match rustix::fs::access(TUN_FILE, mode) {
        Ok(()) => Ok(()),
        Err(error) => Err(ExecError::new(
            format!("cannot use {TUN_FILE}: {}", io::Error::from(error)),
            TUN_HINT,
        )),
    }
}

/// Makes the interface in the namespace that this process is in, with a way to everywhere through it. Gives the file
/// of its packets.
pub(crate) fn create() -> Result<OwnedFd, ExecError> {
    let made = DeviceBuilder::new()
        .name(NAME)
        .mtu(u16::try_from(MTU).unwrap_or(u16::MAX))
        .enable(true)
        .build_sync();
    let device = made.map_err(|error| {
        ExecError::new(
            format!("cannot make an interface by {TUN_FILE}: {error}"),
            TUN_HINT,
        )
    })?;
    let index = device.if_index();
    let fd = device.as_fd().try_clone_to_owned();
    let done = index.and_then(|index| {
        let mut kernel = Kernel::open()?;
        kernel.set_up(LOOPBACK)?;
        for (own, prefix) in OWN {
            let done = kernel
                .add_address(index, own, prefix)
                .and_then(|()| kernel.add_route(index, own));
            // A system without IPv6 has nothing that could go by it.
            if own.is_ipv4() {
                done?;
            }
        }
        fd
    });
    done.map_err(|error| {
        ExecError::new(
            format!("cannot set up the interface of the namespace: {error}"),
            "look whether the kernel's log (dmesg) says more",
        )
    })
}

/// A socket to the kernel's tables of addresses and routes.
struct Kernel(OwnedFd);

impl Kernel {
    fn open() -> io::Result<Self> {
        let family = rustix::net::AddressFamily::NETLINK;
        // The protocol that one gets by default is that of routes.
        let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self(socket))
    }

    fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
    }

    fn add_address(&mut self, index: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
        let mut address = AddressMessage::default();
        address.header.family = family(ip);
        address.header.prefix_len = prefix;
        address.header.index = index;
        // Nobody else is there to have the address.
        let flags = AddressFlags::Nodad;
        address.attributes = vec![
            AddressAttribute::Local(ip),
            AddressAttribute::Address(ip),
            AddressAttribute::Flags(flags),
        ];
        self.ask(RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE)
    }

    /// Adds the default route of the version of `ip`.
    fn add_route(&mut self, index: u32, ip: IpAddr) -> io::Result<()> {
        let mut route = RouteMessage::default();
        route.header.address_family = family(ip);
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.protocol = RouteProtocol::Static;
        route.header.scope = match ip {
            IpAddr::V4(_) => RouteScope::Link,
            IpAddr::V6(_) => RouteScope::Universe,
        };
        route.header.kind = RouteType::Unicast;
        route.attributes = vec![RouteAttribute::Oif(index)];
        self.ask(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE)
    }

    /// Asks the kernel, and waits for its word.
    fn ask(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::net::send(&self.0, &bytes, SendFlags::empty())?;
        let mut answer = [0; 4_096];
        let (len, _) = rustix::net::recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer[..len]);
        match answer.map(|answer| answer.payload) {
            Ok(NetlinkPayload::Error(told)) => match told.code {
                None => Ok(()),
                Some(_) => Err(told.to_io()),
            },
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
