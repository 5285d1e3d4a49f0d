//! Datagrams of programs, carried on by associations of the node: one for each port that a program sends from.

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::shared::Shared;
use crate::socks::{Failed, Request, address, read_address};
use crate::stack::{Pair, Unreachable};

/// Ports that programs send from at once.
const MOST_ASSOCIATIONS: usize = 256;
/// Datagrams of a port that wait for the node; more are lost, as they would be on any way.
const MOST_WAITING: usize = 64;
/// An association ends when its program has sent nothing for so long (RFC 4787, REQ-5).
const IDLE: Duration = Duration::from_secs(300);
/// In front of an address: two bytes without a meaning, and the number of a fragment (RFC 1928, 7).
const HEAD: [u8; 3] = [0; 3];

/// A datagram on its way out.
struct Outgoing {
    to: SocketAddr,
    bytes: Vec<u8>,
    /// The packet that the datagram came in, to turn it back.
    packet: Vec<u8>,
}

/// The associations that there are.
#[derive(Default)]
pub(crate) struct Associations {
    ports: BTreeMap<SocketAddr, mpsc::Sender<Outgoing>>,
    tasks: JoinSet<()>,
}

impl Associations {
    /// Passes on a datagram, which came in `packet`.
    pub(crate) fn send(&mut self, shared: &Arc<Shared>, pair: Pair, bytes: Vec<u8>, packet: &[u8]) {
        while self.tasks.try_join_next().is_some() {}
        self.ports.retain(|_, port| !port.is_closed());
        let is_new = !self.ports.contains_key(&pair.from);
        if shared.has_no_udp() || is_new && self.ports.len() >= MOST_ASSOCIATIONS {
            turn_back(shared, packet);
            return;
        }
        let port = self.ports.entry(pair.from).or_insert_with(|| {
            let (port, outgoing) = mpsc::channel(MOST_WAITING);
            self.tasks.spawn(carry(shared.clone(), pair.from, outgoing));
            port
        });
        // A full queue loses a datagram.
        let _ = port.try_send(Outgoing {
            to: pair.to,
            bytes,
            packet: packet.to_vec(),
        });
    }
}

fn turn_back(shared: &Shared, packet: &[u8]) {
    shared.with(|stack, _| stack.turn_back(packet, Unreachable::Prohibited));
}

/// Carries datagrams of the program's port `own` until either side ends.
async fn carry(shared: Arc<Shared>, own: SocketAddr, mut outgoing: mpsc::Receiver<Outgoing>) {
    let stream = match shared.open(Request::Datagrams).await {
        Ok(stream) => stream,
        Err(failed) => {
            tracing::debug!(%failed, "no datagrams");
            if matches!(failed, Failed::Unsupported) {
                shared.note_no_udp();
            }
            outgoing.close();
            while let Some(datagram) = outgoing.recv().await {
                turn_back(&shared, &datagram.packet);
            }
            return;
        }
    };
    let (mut reader, mut writer) = tokio::io::split(stream);
    let outward = async {
        while let Ok(Some(datagram)) = tokio::time::timeout(IDLE, outgoing.recv()).await {
            let Some(framed) = framed(datagram.to, &datagram.bytes) else {
                continue;
            };
            if writer.write_all(&framed).await.is_err() {
                break;
            }
        }
    };
    let inward = async {
        while let Some(frame) = next_frame(&mut reader).await {
            if let Some((from, bytes)) = unframed(&frame) {
                shared.with(|stack, _| stack.deliver(from, own, bytes));
            }
        }
    };
    tokio::select! {
        () = outward => {}
        () = inward => {}
    }
}

/// A datagram as it stands in the connection: its length, the head of SOCKS, its bytes.
fn framed(to: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let frame = [&HEAD[..], &address(to), bytes].concat();
    let len = u16::try_from(frame.len()).ok()?;
    Some([&len.to_be_bytes()[..], &frame].concat())
}

/// From whom a datagram is, and its bytes. `None` for one that names its sender, or is a fragment.
fn unframed(frame: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (head, rest) = frame.split_first_chunk::<3>()?;
    (*head == HEAD).then(|| read_address(rest)).flatten()
}

/// The next datagram in a connection, which stands behind its length; `None` at the end.
pub(crate) async fn next_frame(reader: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let len = reader.read_u16().await.ok()?;
    let mut frame = vec![0; len.into()];
    reader.read_exact(&mut frame).await.ok()?;
    Some(frame)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn datagrams_stand_behind_their_length() {
        for text in ["192.0.2.1:443", "[2001:db8::1]:443"] {
            let at: SocketAddr = text.parse().unwrap();
            let mut stream = framed(at, b"one").unwrap();
            stream.extend(framed(at, b"").unwrap());
            let mut stream = &stream[..];
            for bytes in [&b"one"[..], b""] {
                let frame = next_frame(&mut stream).await.unwrap();
                assert_eq!(unframed(&frame), Some((at, bytes)));
            }
            assert_eq!(next_frame(&mut stream).await, None);
        }
        let at = "192.0.2.1:443".parse().unwrap();
        assert!(framed(at, &[0; 65_525]).is_some());
        assert_eq!(framed(at, &[0; 65_526]), None);
        assert_eq!(
            unframed(&[0, 0, 1, 1, 1, 1, 1, 1, 0, 9]),
            None,
            "a fragment"
        );
        assert_eq!(unframed(&[0, 0, 0, 3, 1, b'a', 0, 9]), None, "a name");
    }
}
