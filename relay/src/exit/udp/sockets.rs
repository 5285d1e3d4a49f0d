//! The ports of one association (docs/protocol.md, 5.37).

use core::task::{Context, Poll};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use cepa_common::world::{DatagramSocket, Sockets};

/// A port for each version of IP, opened when it is first needed.
#[derive(Default)]
pub(super) struct Ports {
    v4: Option<DatagramSocket>,
    v6: Option<DatagramSocket>,
}

impl Ports {
    /// Is no port open?
    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// Sends a datagram, whole or not at all, from the port for the version of its address.
    pub(super) fn send(
        &mut self,
        sockets: &Sockets,
        to: SocketAddr,
        bytes: &[u8],
    ) -> io::Result<()> {
        let (port, any) = match to {
            SocketAddr::V4(_) => (&mut self.v4, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (&mut self.v6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let open = match port {
            Some(open) => open,
            None => port.insert(sockets.bind_datagrams(SocketAddr::new(any, 0))?),
        };
        open.try_send_to(bytes, to)
    }

    /// Calls `each` with what has come to either port; pending if that is nothing.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        each: &mut dyn FnMut(SocketAddr, &[u8]),
    ) -> Poll<()> {
        let mut any = Poll::Pending;
        for port in [&mut self.v4, &mut self.v6] {
            match port.as_ref().map(|open| open.poll_receive(cx, each)) {
                Some(Poll::Ready(Ok(()))) => any = Poll::Ready(()),
                // A port that can't be read is of no use; the next datagram opens another.
                Some(Poll::Ready(Err(_))) => *port = None,
                Some(Poll::Pending) | None => {}
            }
        }
        any
    }
}
