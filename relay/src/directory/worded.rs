//! Gives the refusals of the HTTP library the line of text that every refusal has (docs/protocol.md, 6.12.3).

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How the library ends its own refusals. No other answer of this relay is without a body.
const EMPTY: &[u8] = b"content-length: 0\r\n\r\n";

/// The beginnings of the library's own refusals, and the lines that say why.
const REFUSALS: [(&[u8], &str); 2] = [
    (
        b"HTTP/1.1 400 Bad Request\r\n",
        "this is no request of HTTP/1.1 (RFC 9112)",
    ),
    (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
        "the head of the request is over 8 KiB",
    ),
];

/// A connection on which the library writes its answers.
pub(super) struct Worded<S> {
    io: S,
    /// What is still to be written of a refusal.
    left: Vec<u8>,
}

impl<S> Worded<S> {
    /// Gives the refusals that are written to `io` their words.
    pub(super) fn new(io: S) -> Self {
        Self {
            io,
            left: Vec::new(),
        }
    }
}

/// What to write in place of `bytes`, which may end with a refusal without words; `None` if they do not.
fn worded(bytes: &[u8]) -> Option<Vec<u8>> {
    if !bytes.ends_with(EMPTY) {
        return None;
    }
    REFUSALS.iter().find_map(|(head, line)| {
        let at = bytes.windows(head.len()).rposition(|part| part == *head)?;
        let (before, refusal) = bytes.split_at(at);
        // Only one answer begins there: what is refused ends the connection.
        let is_last = refusal.windows(4).position(|end| end == b"\r\n\r\n") == Some(refusal.len() - 4);
        let length = line.len();
        let rest = format!(
            "connection: close\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\r\n{line}"
        );
        is_last.then(|| [before, head, rest.as_bytes()].concat())
    })
}

impl<S: AsyncWrite + Unpin> Worded<S> {
    /// Writes what is left of a refusal.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.left.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                wrote => drop(self.left.drain(..wrote)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Worded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Worded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.drain(cx))?;
        match worded(buf) {
            Some(worded) => {
                self.left = worded;
                Poll::Ready(Ok(buf.len()))
            }
            None => Pin::new(&mut self.io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_without_words_get_them_and_other_answers_stay() {
        let bad = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        let said = worded(bad).map(|said| String::from_utf8_lossy(&said).into_owned());
        let said = said.unwrap_or_default();
        assert!(
            said.ends_with("content-length: 41\r\n\r\nthis is no request of HTTP/1.1 (RFC 9112)"),
            "{said}"
        );
        let before = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let both = worded(&[&before[..], bad].concat()).unwrap_or_default();
        assert!(both.starts_with(before) && both.ends_with(b"(RFC 9112)"));
        let ours = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\nno\n";
        for other in [
            &before[..],
            ours,
            b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
            b"",
        ] {
            assert_eq!(worded(other), None);
        }
    }
}
