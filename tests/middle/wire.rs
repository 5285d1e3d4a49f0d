//! Wires with a tap, and links by hand, which carry one cell at a time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use cepa_common::cell::CELL_LEN;
use cepa_common::cell::codec::Cell;
use cepa_common::net::establish::NewLink;
use cepa_common::net::tls_io::TlsIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, JoinSet};

/// What the two sides of a connection said: first the side that dialled, then the side that was dialled.
pub(crate) type Said = [Vec<u8>; 2];

/// A wire with a tap: it passes connections on and keeps what goes by.
pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    /// What was said on each connection.
    pub(crate) said: Arc<Mutex<Vec<Said>>>,
    pub(crate) task: JoinHandle<()>,
}

impl Tap {
    /// Passes connections to `listener` on to `to`, from the address `from`.
    pub(crate) fn start(listener: TcpListener, to: SocketAddr, from: Ipv4Addr) -> Self {
        let address = listener.local_addr().unwrap();
        let said: Arc<Mutex<Vec<Said>>> = Arc::default();
        let kept = said.clone();
        let task = tokio::spawn(async move {
            // The set ends with this task, and closes the connections that it passed on.
            let mut passing = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind((from, 0).into()).unwrap();
                let Ok(far) = socket.connect(to).await else {
                    continue;
                };
                let number = {
                    let mut kept = kept.lock().unwrap();
                    kept.push(Default::default());
                    kept.len() - 1
                };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                for (side, mut input, mut output) in [(0, near_in, far_out), (1, far_in, near_out)]
                {
                    let kept = kept.clone();
                    passing.spawn(async move {
                        let mut buffer = vec![0; 65_536];
                        while let Ok(len @ 1..) = input.read(&mut buffer).await {
                            kept.lock().unwrap()[number][side].extend(&buffer[..len]);
                            if output.write_all(&buffer[..len]).await.is_err() {
                                break;
                            }
                        }
                    });
                }
            }
        });
        Self {
            address,
            said,
            task,
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn any_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// A link by hand, which reads and writes one cell at a time.
pub(crate) struct Cells<I, O>(pub(crate) I, pub(crate) O);

pub(crate) type Link = Cells<ReadHalf<TlsIo>, WriteHalf<TlsIo>>;

impl Link {
    pub(crate) fn new(link: NewLink) -> Self {
        let (input, output) = tokio::io::split(link.io);
        Self(input, output)
    }
}

pub(crate) async fn read(input: &mut ReadHalf<TlsIo>) -> Option<Cell> {
    let mut cell = [0; CELL_LEN];
    input.read_exact(&mut cell).await.ok()?;
    Some(cell)
}

/// Sends a cell. If the link is gone, reading from it will show that.
pub(crate) async fn write(output: &mut WriteHalf<TlsIo>, cell: &Cell) {
    if output.write_all(cell).await.is_ok() {
        let _ = output.flush().await;
    }
}
