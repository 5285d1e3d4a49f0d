//! A small web server for the first try: a page that is there on a machine without the Internet too.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

/// Where the page is if nothing else listens there.
const USUAL_PORT: u16 = 9380;
/// Connections that are served at once; further ones wait.
const MAX_CONNECTIONS: usize = 64;
/// The head of a request must have come by then.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// The pause after an accept that failed, so that a full table of descriptors makes nothing spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// A web server that listens on loopback until this value is dropped.
pub(super) struct WebPage {
    /// Address of the server.
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl WebPage {
    /// Starts to listen: at the usual port if that is free, else at any.
    pub(super) async fn start() -> io::Result<Self> {
        let usual = TcpListener::bind((Ipv4Addr::LOCALHOST, USUAL_PORT)).await;
        let listener = match usual {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        };
        let address = listener.local_addr()?;
        let task = tokio::spawn(serve(listener));
        Ok(Self { address, task })
    }

    /// The page's address as a program or a browser takes it.
    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Drop for WebPage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropped with this future, which ends every connection.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((tcp, peer)) => {
                connections.spawn(async move {
                    connection(tcp, peer).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_BACKOFF).await,
        }
    }
}

async fn connection(tcp: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr) {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(answer(request.method(), request.uri().path(), peer))
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        // Who has ended its sending (`nc -N`) still reads.
        .half_close(true)
        .serve_connection(TokioIo::new(tcp), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the page of the local network failed");
    }
}

/// The answer to a request that came from `peer`.
fn answer(method: &Method, path: &str, peer: SocketAddr) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/") => {
            (StatusCode::OK, "text/html; charset=utf-8", page(peer))
        }
        (&Method::GET | &Method::HEAD, _) => (
            StatusCode::NOT_FOUND,
            "text/plain; charset=utf-8",
            "There is only one page here: /\n".to_owned(),
        ),
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain; charset=utf-8",
            "This page can only be read: GET /\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    // Each load is to be seen to go through the network.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The page that is shown to the connection from `peer`. People read it by curl too.
fn page(peer: SocketAddr) -> String {
    format!(
        "<!DOCTYPE html>\n\
         <html lang=\"en\">\n\
         <meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>It works: Cepa</title>\n\
         <style>body {{ font: 1.1em/1.5 sans-serif; max-width: 36em; margin: 3em auto; padding: 0 1em; \
         color-scheme: light dark }}</style>\n\
         <h1>It works.</h1>\n\
         <p>This page is served by your local network's own web server. If you asked for it through the network's \
         port,\n\
         your request went through three relays, and the last of them, an exit, fetched the page.</p>\n\
         <p>The server saw the connection come from {peer}. In a network of several machines that is the exit's \
         address,\n\
         and never yours.</p>\n\
         </html>\n"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn body(response: Response<Full<Bytes>>) -> String {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_page_says_who_came_and_everything_else_says_what_there_is() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 4711));
        let page = answer(&Method::GET, "/", peer);
        assert_eq!(page.status(), StatusCode::OK);
        assert!(body(page).await.contains("come from 127.0.0.1:4711"));
        let missing = answer(&Method::GET, "/favicon.ico", peer);
        assert_eq!(missing.status(), StatusCode::NOT_FOUND);
        let posted = answer(&Method::POST, "/", peer);
        assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(posted.headers()[ALLOW], "GET, HEAD");
    }

    #[tokio::test]
    async fn who_has_ended_its_sending_is_answered() {
        let (mut ours, theirs) = tokio::io::duplex(4096);
        ours.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        ours.shutdown().await.unwrap();
        connection(theirs, SocketAddr::from(([127, 0, 0, 1], 4711))).await;
        let mut text = String::new();
        ours.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.0 200 OK"), "{text}");
    }

    #[tokio::test]
    async fn two_pages_have_two_addresses_and_end_with_their_values() {
        let (one, two) = (
            WebPage::start().await.unwrap(),
            WebPage::start().await.unwrap(),
        );
        assert_ne!(one.address, two.address);
        let mut tcp = TcpStream::connect(two.address).await.unwrap();
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        assert!(two.url().ends_with(&format!(":{}/", two.address.port())));
        let address = two.address;
        drop(two);
        // The listener is dropped by the task's end, which the runtime brings about when this test lets it.
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
