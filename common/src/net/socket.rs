//! What every TCP connection that carries cells or streams is set to.

use std::io;

use tokio::net::TcpStream;

/// Sets a connection up for what is written in large batches and must not wait: no delay for filling segments (it costs
/// 40 ms), and no more unsent in the kernel than a batch.
///
/// # Errors
/// The system's; it refuses for connections that are gone already.
pub fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    bound_unsent(tcp)
}

/// What the kernel has taken and not sent is beyond all fairness and all accounts: it may be megabytes, in which every
/// circuit waits behind what was written first. What is sent and not acknowledged is not meant, so that long ways are filled.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn bound_unsent(tcp: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(tcp).set_tcp_notsent_lowat(UNSENT_BYTES)
}

/// Elsewhere there is no such option, and the send buffer is the bound.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bound_unsent(_: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// A batch of cells. Measured beside none at all: 256 KiB costs nothing, 64 and 128 KiB up to a tenth of the processor in one run and
/// nothing in another; on loopback none of them shortens a ping beside bulk.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_BYTES: u32 = 256 * 1024;
