//! Settings of every TCP connection that carries cells or streams.

use std::io;

use tokio::net::TcpStream;

/// Sets a connection up for data that is written in large batches and must not wait. Segments are sent without a delay
/// for filling them (the delay costs 40 ms), and the kernel holds no more unsent than a batch.
///
/// # Errors
/// The system's error; it refuses for connections that are gone already.
pub fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    bound_unsent(tcp)
}

/// Bounds what the kernel has taken and not sent. Those bytes are beyond this program's fairness and accounting: there
/// may be megabytes of them, in which every circuit waits behind what was written first. Bytes that are sent and not
/// acknowledged are not bounded, so that long ways are filled.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn bound_unsent(tcp: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(tcp).set_tcp_notsent_lowat(UNSENT_BYTES)
}

/// Other systems have no such option; the send buffer is the bound there.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bound_unsent(_: &TcpStream) -> io::Result<()> {
    Ok(())
}

/// A batch of cells, in bytes. Compared with no bound, 256 KiB cost nothing; 64 and 128 KiB cost up to a tenth of the
/// processor in one run and nothing in another. On loopback none of them shortens a ping beside bulk.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_BYTES: u32 = 256 * 1024;
