//! How a node sends and receives datagrams: UDP of this machine, or a network that was given in its place.
//!
//! A [`DatagramSocket`] is connected to nobody: it sends to anybody, and hears everybody who knows its port. A receiver
//! is handed whole datagrams, as many as have come, out of memory that all sockets of a thread share: no socket holds a
//! buffer while nothing comes.

use core::cell::Cell;
use core::future::poll_fn;
use core::task::{Context, Poll, ready};
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::SocketAddr;

use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Bytes that wait in the kernel to be received, about: a burst of a few milliseconds.
const RECEIVE_BUFFER_BYTES: usize = 256 * 1024;
/// Messages that one system call receives. The kernel may put several datagrams of one sender into a message.
const BATCH: usize = 4;
/// Room for a message, which never has more bytes than an IP packet.
const MESSAGE_BYTES: usize = 64 * 1024;

/// A port for datagrams of a given network. Dropping this value closes the port.
pub trait GivenDatagrams: Send + Sync {
    /// Sends a datagram, which may be lost on the way and wherever a queue is full.
    fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()>;
    /// Calls `each` with the sender and the bytes of every datagram that has come; pending if there is none. The port
    /// keeps one waker, that of whoever polled last.
    fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        each: &mut dyn FnMut(SocketAddr, &[u8]),
    ) -> Poll<io::Result<()>>;
    /// Address of the port.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A port for datagrams.
pub enum DatagramSocket {
    /// A port of this machine.
    Udp(UdpPort),
    /// A port of another network.
    Given(Box<dyn GivenDatagrams>),
}

/// A UDP port of this machine.
pub struct UdpPort {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl core::fmt::Debug for DatagramSocket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("DatagramSocket")
    }
}

impl UdpPort {
    /// Opens a port of this machine.
    #[expect(clippy::disallowed_methods, reason = "this is the seam")]
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        super::kind::be_real("sockets");
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        socket.bind(&address.into())?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // The call above has made the socket one that does not block.
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self { socket, state })
    }

    fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        each: &mut dyn FnMut(SocketAddr, &[u8]),
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_recv_ready(cx))?;
            match with_buffer(|buffer| self.receive(buffer, each)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Receives what is there, into `buffer` and from there to `each`.
    fn receive(
        &self,
        buffer: &mut [u8],
        each: &mut dyn FnMut(SocketAddr, &[u8]),
    ) -> io::Result<()> {
        let mut metas = [RecvMeta::default(); BATCH];
        let mut parts = buffer.chunks_exact_mut(MESSAGE_BYTES);
        let mut slices: [IoSliceMut<'_>; BATCH] =
            core::array::from_fn(|_| IoSliceMut::new(parts.next().unwrap_or_default()));
        let got = self.socket.try_io(Interest::READABLE, || {
            let socket = UdpSockRef::from(&self.socket);
            self.state.recv(socket, &mut slices, &mut metas)
        })?;
        for (meta, slice) in metas.iter().zip(&slices).take(got) {
            let message = slice.get(..meta.len).unwrap_or_default();
            each_of(message, meta.stride, |datagram| each(meta.addr, datagram));
        }
        Ok(())
    }
}

/// Calls `each` with the datagrams of `stride` bytes that `message` is made of; the last may be shorter.
fn each_of(message: &[u8], stride: usize, mut each: impl FnMut(&[u8])) {
    // An empty message is an empty datagram.
    if message.is_empty() || stride == 0 {
        return each(message);
    }
    message.chunks(stride).for_each(each);
}

/// Calls `work` with memory that the sockets of this thread share.
fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    // Whoever receives within `work` has other memory.
    let mut buffer = BUFFER.take();
    buffer.resize(BATCH * MESSAGE_BYTES, 0);
    let done = work(&mut buffer);
    BUFFER.set(buffer);
    done
}

impl DatagramSocket {
    /// Sends a datagram at once.
    ///
    /// # Errors
    /// The system's error; `WouldBlock` if the kernel takes nothing now.
    pub fn try_send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        match self {
            // The runtime does not know of a new socket whether it takes anything, and the kernel does.
            Self::Udp(port) => SockRef::from(&port.socket)
                .send_to(bytes, &to.into())
                .map(drop),
            Self::Given(port) => port.send_to(bytes, to),
        }
    }

    /// Sends a datagram once the kernel takes it.
    ///
    /// # Errors
    /// The system's error, for example of a datagram that is too long for the way.
    pub async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        match self {
            Self::Udp(port) => port.socket.send_to(bytes, to).await.map(drop),
            Self::Given(port) => port.send_to(bytes, to),
        }
    }

    /// Waits until datagrams have come, and calls `each` with the sender and the bytes of every one. A socket has one
    /// receiver.
    ///
    /// # Errors
    /// The system's error.
    pub async fn receive(&self, mut each: impl FnMut(SocketAddr, &[u8])) -> io::Result<()> {
        poll_fn(|cx| self.poll_receive(cx, &mut each)).await
    }

    /// Calls `each` with the sender and the bytes of every datagram that has come; pending if there is none.
    ///
    /// # Errors
    /// The system's error.
    pub fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        each: &mut dyn FnMut(SocketAddr, &[u8]),
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Udp(port) => port.poll_receive(cx, each),
            Self::Given(port) => port.poll_receive(cx, each),
        }
    }

    /// Address of the port.
    ///
    /// # Errors
    /// The system's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Udp(port) => port.socket.local_addr(),
            Self::Given(port) => port.local_addr(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Sockets;
    use super::*;
    use crate::limits::DATAGRAM_BYTES;

    const LOOPBACK: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    fn socket(at: SocketAddr) -> DatagramSocket {
        Sockets::Tcp.bind_datagrams(at).unwrap()
    }

    async fn receive(socket: &DatagramSocket, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut got = Vec::new();
        while got.len() < count {
            let each = |from, bytes: &[u8]| got.push((from, bytes.to_vec()));
            socket.receive(each).await.unwrap();
        }
        got
    }

    #[tokio::test]
    async fn datagrams_of_every_length_come_whole_and_say_who_sent_them() {
        let (one, other) = (socket(LOOPBACK), socket(LOOPBACK));
        let to = other.local_addr().unwrap();
        assert_ne!(to.port(), 0);
        let from = one.local_addr().unwrap();
        for length in [0, 1, 1_200, 1_472, 9_000, DATAGRAM_BYTES, 1, 0, 0] {
            let bytes: Vec<u8> = (0..length).map(|place| place as u8).collect();
            one.send_to(&bytes, to).await.unwrap();
            assert_eq!(receive(&other, 1).await, [(from, bytes)], "{length}");
        }
        assert!(one.try_send_to(&[0; DATAGRAM_BYTES + 1], to).is_err());
    }

    #[tokio::test]
    async fn datagrams_that_came_together_are_told_apart() {
        let (one, other) = (socket(LOOPBACK), socket(LOOPBACK));
        let to = other.local_addr().unwrap();
        let sent: Vec<_> = [7, 300, 300, 300, 0, 20, 300]
            .map(|length| vec![length as u8; length])
            .into();
        for bytes in &sent {
            one.try_send_to(bytes, to).unwrap();
        }
        let got: Vec<_> = receive(&other, sent.len())
            .await
            .into_iter()
            .map(|(_, bytes)| bytes)
            .collect();
        assert_eq!(got, sent);
    }

    #[tokio::test]
    async fn what_the_kernel_put_together_comes_apart() {
        let (one, other) = (socket(LOOPBACK), socket(LOOPBACK));
        let DatagramSocket::Udp(port) = &one else {
            panic!()
        };
        let to = other.local_addr().unwrap();
        if port.state.max_gso_segments() < 4 {
            return;
        }
        let contents: Vec<u8> = (0..1_000).map(|place| (place / 300) as u8).collect();
        let transmit = quinn_udp::Transmit {
            destination: to,
            ecn: None,
            contents: &contents,
            segment_size: Some(300),
            src_ip: None,
        };
        port.state
            .try_send(UdpSockRef::from(&port.socket), &transmit)
            .unwrap();
        let got: Vec<_> = receive(&other, 4)
            .await
            .into_iter()
            .map(|(_, bytes)| bytes)
            .collect();
        assert_eq!(
            got,
            [vec![0; 300], vec![1; 300], vec![2; 300], vec![3; 100]]
        );
    }

    #[test]
    fn a_message_is_cut_at_its_stride() {
        let cut = |message: &[u8], stride| {
            let mut parts = Vec::new();
            each_of(message, stride, |part| parts.push(part.len()));
            parts
        };
        assert_eq!(cut(&[], 0), [0]);
        assert_eq!(cut(&[1; 5], 0), [5]);
        assert_eq!(cut(&[1; 5], 5), [5]);
        assert_eq!(cut(&[1; 5], 2), [2, 2, 1]);
    }

    #[tokio::test]
    async fn a_port_of_ipv6_leaves_that_of_ipv4_free() {
        let any = SocketAddr::from(([0u16; 8], 0));
        // Not every machine has IPv6.
        let Ok(six) = Sockets::Tcp.bind_datagrams(any) else {
            return;
        };
        let port = six.local_addr().unwrap().port();
        socket(SocketAddr::from(([0, 0, 0, 0], port)));
    }
}
