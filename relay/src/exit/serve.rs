//! Serves one stream: connects, answers, copies.

use std::sync::Arc;

use cepa_common::cell::message::EndReason;
use cepa_common::dir::Transport;
use cepa_common::net::circuit_io::StreamIo;
use cepa_common::stream::{Acceptor, StreamHost};
use cepa_common::world::sockets::SocketStream;

use super::attempts::Origin;
use super::copy::copy;
use super::open::{LedStream, OpenStream};
use super::{DestinationError, ExitConnector};
use crate::events::Refusal;

/// Connects a stream that a client has begun and copies until both sides are done. A relay that is no exit has no
/// `exit`, and refuses. `origin` says who has begun the stream.
pub(crate) async fn serve(
    exit: Option<Arc<ExitConnector>>,
    stream: StreamIo<Acceptor>,
    host: StreamHost,
    port: u16,
    origin: Origin,
) {
    // A relay that stops lets its streams end and takes no more. The client begins the stream at another exit.
    let counted = exit.as_ref().map(|exit| exit.open_streams().enter());
    let refused = |refusal| {
        if let Some(exit) = &exit {
            exit.refusals().add(refusal, 1);
        }
    };
    if let Some(None) = counted {
        refused(Refusal::ExitFull);
        return stream.abort(EndReason::Resource);
    }
    let connected = match &exit {
        // A stream that the client gives up ends its look-up, its dial and its place among the attempts at once. The
        // future is in a box, because connecting takes much more memory than the long copying after it.
        Some(exit) => tokio::select! {
            connected = Box::pin(exit.connect(&host, port, origin)) => {
                connected.map_err(|error| {
                    match error {
                        DestinationError::Policy => refused(Refusal::Policy),
                        DestinationError::Resource => refused(Refusal::ExitFull),
                        _ => {}
                    }
                    error.end_reason()
                })
            }
            () = stream.given_up() => return,
        },
        None => Err(EndReason::Policy),
    };
    let connected = connected.and_then(|tcp| match &exit {
        Some(exit) => lead(exit, counted.as_ref().and_then(Option::as_ref), tcp),
        None => Err(EndReason::Policy),
    });
    drop((exit, host));
    let (tcp, mut led) = match connected {
        Ok(connected) => connected,
        Err(reason) => return stream.abort(reason),
    };
    let mut destination = Destination {
        tcp,
        has_all: false,
    };
    stream.accept();
    tokio::select! {
        biased;
        copied = copy(&stream, &mut destination.tcp) => {
            destination.has_all = copied.is_ok();
            return;
        }
        () = led.refused() => {}
    }
    // The owner's policy has changed. The client begins the stream at another exit, if it likes.
    stream.abort(EndReason::Policy);
}

/// Notes where a stream leads, so that another policy can end it; the one that came while the stream was being
/// connected is asked here.
fn lead(
    exit: &ExitConnector,
    counted: Option<&OpenStream>,
    tcp: SocketStream,
) -> Result<(SocketStream, LedStream), EndReason> {
    // A connection that has no far side any more is gone already.
    let to = tcp.peer_addr().map_err(|_| EndReason::Reset)?;
    let (led, is_other) = counted.ok_or(EndReason::Resource)?.leads_to(to);
    match is_other && !exit.policy.allows(Transport::Tcp, to) {
        true => Err(EndReason::Policy),
        false => Ok((tcp, led)),
    }
}

/// The connection to a destination. It is reset if it is dropped before its orderly end, also when the relay stops and
/// ends this task: the destination must not believe that it has got everything.
struct Destination {
    tcp: SocketStream,
    /// Has everything gone both ways?
    has_all: bool,
}

impl Drop for Destination {
    fn drop(&mut self) {
        if !self.has_all {
            self.tcp.reset_when_dropped();
        }
    }
}
