//! Moves bytes between a stream and the connection to its destination.

use core::task::{Context, Poll, ready};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;

use cepa_common::net::circuit_io::StreamIo;
use cepa_common::stream::Acceptor;
use cepa_common::world::sockets::SocketStream;
use tokio::io::AsyncWrite;

/// Bytes moved at once. Larger steps were measured and are no better.
const COPY_BYTES: usize = 64 * 1024;

thread_local! {
    /// The bytes that are being moved. None stay here: bytes that one side does not take stay where they were, which is
    /// the stream's buffer or the kernel. So a stream at rest has no buffers of its own, and what it holds is counted
    /// once.
    static MOVING: RefCell<Vec<u8>> = RefCell::new(vec![0; COPY_BYTES]);
}

/// How far one direction has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Open,
    /// All has been read, and the other side must still be told.
    Ended,
    Done,
}

/// Copies until both directions are done.
///
/// # Errors
/// One side broke, or gave up. Then the other side must not believe that it has got everything.
pub(super) async fn copy(stream: &StreamIo<Acceptor>, tcp: &mut SocketStream) -> io::Result<()> {
    let (mut outward, mut inward) = (Half::Open, Half::Open);
    poll_fn(|cx| {
        if stream.poll_given_up(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let out = poll_outward(stream, tcp, &mut outward, cx)?;
        let back = poll_inward(stream, tcp, &mut inward, cx)?;
        ready!(out);
        ready!(back);
        Poll::Ready(Ok(()))
    })
    .await
}

/// Moves bytes from the client to the destination.
fn poll_outward(
    stream: &StreamIo<Acceptor>,
    tcp: &mut SocketStream,
    way: &mut Half,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while *way == Half::Open {
        ready!(tcp.poll_write_ready(cx))?;
        let moved = MOVING.with_borrow_mut(|bytes| {
            let read = ready!(stream.poll_peek(cx, bytes))?;
            if read == 0 {
                return Poll::Ready(Ok(None));
            }
            match tcp.try_write(&bytes[..read]) {
                Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(wrote) => Poll::Ready(Ok(Some(wrote))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Ready(Ok(Some(0))),
                Err(error) => Poll::Ready(Err(error)),
            }
        });
        match ready!(moved)? {
            Some(moved) => stream.consume(moved),
            None => *way = Half::Ended,
        }
    }
    if *way == Half::Ended {
        ready!(Pin::new(tcp).poll_shutdown(cx))?;
        *way = Half::Done;
    }
    Poll::Ready(Ok(()))
}

/// Moves bytes from the destination to the client.
fn poll_inward(
    stream: &StreamIo<Acceptor>,
    tcp: &mut SocketStream,
    way: &mut Half,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while *way == Half::Open {
        let room = ready!(stream.poll_room(cx))?.min(COPY_BYTES);
        ready!(tcp.poll_read_ready(cx))?;
        let read = MOVING.with_borrow_mut(|bytes| {
            let read = tcp.receive(&mut bytes[..room])?;
            if let Some(read @ 1..) = read {
                stream.push(&bytes[..read]);
            }
            io::Result::Ok(read)
        })?;
        if read == Some(0) {
            *way = Half::Ended;
        }
    }
    if *way == Half::Ended {
        stream.finish();
        *way = Half::Done;
    }
    Poll::Ready(Ok(()))
}
