//! Sends a first stream through a new circuit, to see whether the network works.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use cepa_common::world::random;

use rand::RngExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::echo::EchoServer;
use crate::terminal::CliError;

/// A stream that takes longer than this has failed.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Tries until a stream has gone through the front at `socks`.
///
/// The caller sets the deadline. Every attempt has credentials of its own, so that it gets a circuit of its own.
pub(super) async fn until_through(socks: SocketAddr) -> Result<(), CliError> {
    let echo = EchoServer::start().await.map_err(|error| {
        CliError::failed(
            format!("cannot listen on loopback: {error}"),
            "check the machine's network",
        )
    })?;
    loop {
        match timeout(ATTEMPT_DEADLINE, attempt(socks, echo.address)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => tracing::info!(%error, "a first stream did not go through yet"),
            Err(_) => tracing::info!("a first stream took too long"),
        }
        sleep(PAUSE).await;
    }
}

/// Opens one stream to the target, which must bring back what was sent and then end.
async fn attempt(socks: SocketAddr, target: SocketAddr) -> io::Result<()> {
    let (user, nonce): ([u8; 8], [u8; 32]) = {
        let mut rng = random::rng();
        (rng.random(), rng.random())
    };
    let mut stream = TcpStream::connect(socks).await?;
    connect(&mut stream, target, &user).await?;
    stream.write_all(&nonce).await?;
    stream.shutdown().await?;
    let mut back = Vec::new();
    // One byte too many would be as wrong as one too few.
    (&mut stream).take(33).read_to_end(&mut back).await?;
    if back == nonce {
        Ok(())
    } else {
        Err(bad("the stream changed what it carried"))
    }
}

/// Asks the front for a stream to `target` in the name of `user` (RFC 1928, RFC 1929).
async fn connect(stream: &mut TcpStream, target: SocketAddr, user: &[u8; 8]) -> io::Result<()> {
    let SocketAddr::V4(target) = target else {
        return Err(bad("the target is not on IPv4"));
    };
    stream.write_all(&[5, 1, 2]).await?;
    expect(stream, [5, 2], "the front takes no credentials").await?;
    let mut login = vec![1, 8];
    login.extend(user);
    login.extend([1, b'x']);
    stream.write_all(&login).await?;
    expect(stream, [1, 0], "the front refuses the credentials").await?;
    let mut request = vec![5, 1, 0, 1];
    request.extend(target.ip().octets());
    request.extend(target.port().to_be_bytes());
    stream.write_all(&request).await?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    if head[..2] != [5, 0] {
        return Err(bad(&format!("the front answers with code {}", head[1])));
    }
    let bound = match head[3] {
        1 => 4,
        4 => 16,
        _ => return Err(bad("the front answers with an unknown kind of address")),
    };
    stream.read_exact(&mut vec![0; bound + 2]).await?;
    Ok(())
}

async fn expect(stream: &mut TcpStream, wanted: [u8; 2], otherwise: &str) -> io::Result<()> {
    let mut got = [0; 2];
    stream.read_exact(&mut got).await?;
    if got == wanted {
        Ok(())
    } else {
        Err(bad(otherwise))
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn the_echo_sends_back_and_ends() {
        let echo = EchoServer::start().await.unwrap();
        let mut stream = TcpStream::connect(echo.address).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"hello");
    }

    #[tokio::test]
    async fn a_refusal_is_told_by_its_code() {
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let serve = async {
            let (mut stream, _) = front.accept().await.unwrap();
            stream.read_exact(&mut [0; 3]).await.unwrap();
            stream.write_all(&[5, 2]).await.unwrap();
            stream.read_exact(&mut [0; 12]).await.unwrap();
            stream.write_all(&[1, 0]).await.unwrap();
            stream.read_exact(&mut [0; 10]).await.unwrap();
            stream.write_all(&[5, 5, 0, 1]).await.unwrap();
        };
        let (result, ()) = tokio::join!(attempt(address, ([127, 0, 0, 1], 1).into()), serve);
        assert!(result.unwrap_err().to_string().contains("code 5"));
    }
}
