//! Connections of programs, carried on by streams of the node.

use core::future::poll_fn;
use core::task::Poll;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::shared::Shared;
use crate::socks::{self, Failed, Request};
use crate::stack::{FlowId, Read, Unreachable, Written, is_name_server};

/// Bytes that are moved at once.
const PIECE: usize = 16 << 10;

/// Opens a stream to `to` for a connection that waits, and moves bytes until both sides have ended.
pub(crate) async fn carry(shared: Arc<Shared>, flow: FlowId, to: SocketAddr) {
    let request = match is_name_server(to) {
        true => Request::Resolver,
        false => Request::Connect(to),
    };
    match shared.open(request).await {
        Ok(stream) => {
            if shared.with(|stack, now| stack.accept(now, flow)) {
                copy(&shared, flow, stream).await;
            }
        }
        Err(failed) => {
            tracing::debug!(%failed, "a connection came to nothing");
            shared.with(|stack, now| match failed {
                Failed::Refused => stack.refuse(now, flow),
                Failed::Timeout => stack.silence(now, flow),
                Failed::Host => stack.fail(flow, Unreachable::Host),
                Failed::Prohibited | Failed::Unsupported => {
                    stack.fail(flow, Unreachable::Prohibited);
                }
                Failed::Network | Failed::Password | Failed::Stranger(_) | Failed::Lost(_) => {
                    stack.fail(flow, Unreachable::Network);
                }
            });
        }
    }
    shared.with(|stack, _| stack.release(flow));
}

async fn copy(shared: &Shared, flow: FlowId, stream: socks::Stream) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let done = tokio::try_join!(
        outward(shared, flow, &mut writer),
        inward(shared, flow, &mut reader)
    );
    if done.is_err() {
        // What broke off must not look as if it were complete, on either side.
        shared.with(|stack, _| stack.abort(flow));
        reader.unsplit(writer).reset_when_dropped();
    }
}

/// Moves what the program says, until it has said all.
async fn outward(
    shared: &Shared,
    flow: FlowId,
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read =
            poll_fn(
                |cx| match shared.with(|stack, _| stack.read(flow, &mut piece, cx.waker())) {
                    Read::Nothing => Poll::Pending,
                    read => Poll::Ready(read),
                },
            )
            .await;
        match read {
            Read::Data(len) => writer.write_all(&piece[..len]).await?,
            Read::End | Read::Nothing => return writer.shutdown().await,
            Read::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

/// Moves what the destination says, until it has said all.
async fn inward(
    shared: &Shared,
    flow: FlowId,
    reader: &mut (impl AsyncRead + Unpin),
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let len = reader.read(&mut piece).await?;
        if len == 0 {
            shared.with(|stack, _| stack.close(flow));
            return Ok(());
        }
        let mut rest = &piece[..len];
        while !rest.is_empty() {
            let written =
                poll_fn(
                    |cx| match shared.with(|stack, _| stack.write(flow, rest, cx.waker())) {
                        Written::Full => Poll::Pending,
                        written => Poll::Ready(written),
                    },
                )
                .await;
            match written {
                Written::Taken(len) => rest = &rest[len..],
                Written::Full => {}
                Written::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            }
        }
    }
}
