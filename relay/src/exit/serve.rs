//! Serves one stream: connects, answers, copies.

use std::sync::Arc;

use cepa_common::cell::message::EndReason;
use cepa_common::net::circuit_io::StreamIo;
use cepa_common::stream::{Acceptor, StreamHost};
use tokio::io::copy_bidirectional_with_sizes;

use super::{ConnectError, ExitConnector};

/// Size of the buffer in each direction, in bytes. A larger one measured no better.
const COPY_BYTES: usize = 64 * 1024;

/// Connects a stream that a client has begun and copies until both sides are done. A relay that is no exit has no
/// `exit`, and refuses.
pub(crate) async fn serve(
    exit: Option<Arc<ExitConnector>>,
    mut stream: StreamIo<Acceptor>,
    host: StreamHost,
    port: u16,
) {
    let connected = match &exit {
        Some(exit) => exit
            .connect(&host, port)
            .await
            .map_err(ConnectError::end_reason),
        None => Err(EndReason::Policy),
    };
    drop(exit);
    let mut tcp = match connected {
        Ok(tcp) => tcp,
        Err(reason) => return stream.abort(reason),
    };
    stream.accept();
    let circuit = stream.circuit().clone();
    let copied = tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut stream, &mut tcp, COPY_BYTES, COPY_BYTES) => {
            copied.is_ok()
        }
        // A destination that reads nothing must not hold a stream that was given up.
        () = circuit.discarded() => false,
    };
    if !copied {
        // The destination must not take what it got for the whole.
        tcp.reset_when_dropped();
    }
}
