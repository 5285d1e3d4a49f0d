//! Opens directory streams over circuits of their own: no stream of a user shares one (docs/protocol.md, 6.15).

use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::sync::{Arc, Weak};

use cepa_common::ids::RelayId;
use cepa_common::net::circuit_io::StreamIo;
use cepa_common::stream::{Opener, StreamTarget};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::built::Circuit;
use super::maker::Maker;
use crate::dir::{DirStreamFuture, DirStreams};
use crate::guard::Purpose;
use crate::path::ExitTarget;

/// Opens directory streams over circuits that are built for one request each.
pub(crate) struct CircuitStreams(Weak<Maker>);

impl CircuitStreams {
    pub(crate) fn new(maker: &Arc<Maker>) -> Self {
        Self(Arc::downgrade(maker))
    }
}

impl DirStreams for CircuitStreams {
    fn open(&self, avoid: &[RelayId]) -> DirStreamFuture {
        let (maker, avoid) = (self.0.upgrade(), avoid.to_vec());
        Box::pin(async move {
            let maker = maker.ok_or(io::ErrorKind::NotConnected)?;
            let careful = |relay: &RelayId| avoid.contains(relay);
            let built = maker
                .build(Purpose::Directory, ExitTarget::Any, &careful)
                .await;
            let circuit = built.map_err(io::Error::other)?;
            let who = circuit.exit().identity;
            let opened = circuit.open(StreamTarget::Directory);
            let stream = OwnCircuit {
                stream: opened.ok_or(io::ErrorKind::NotConnected)?,
                circuit,
            };
            Ok((
                who,
                Box::new(stream) as cepa_common::net::directory::DirStream,
            ))
        })
    }
}

/// A stream whose circuit ends when it is dropped.
struct OwnCircuit {
    stream: StreamIo<Opener>,
    circuit: Arc<Circuit>,
}

impl Drop for OwnCircuit {
    fn drop(&mut self) {
        self.circuit.close();
    }
}

impl AsyncRead for OwnCircuit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for OwnCircuit {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
