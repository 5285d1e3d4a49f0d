//! Fetches a page with hyper over a stream through the network.
//!
//!     cargo run -p cepa-client --example hyper_fetch -- network.toml http://example.com/
//!
//! `cepa testnet` prints the path of its own network.toml. The name in the URL is resolved at the exit.
#![allow(
    clippy::disallowed_methods,
    reason = "an example runs in the real world"
)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::io::Write;

use cepa_client::{Client, ClientOptions, NetworkFile};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(network), Some(url)) = (arguments.next(), arguments.next()) else {
        return Err("arguments: NETWORK-FILE URL".into());
    };
    let url: Uri = url.parse()?;
    if url.scheme_str() != Some("http") {
        return Err(
            "this example speaks plain http; for https put TLS between hyper and the stream".into(),
        );
    }
    let host = url.host().ok_or("the URL names no host")?;
    let port = url.port_u16().unwrap_or(80);

    // The client works in the background from here on. The client's events are shown while it starts.
    let network = NetworkFile::parse(&std::fs::read_to_string(network)?)?;
    let (client, mut events) = Client::start(ClientOptions::new(network)).await;
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            eprintln!("{event}");
        }
    });

    // The stream is opened as soon as there is a circuit. Hyper uses it like any other stream.
    let stream = client.connect(&format!("{host}:{port}")).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(url.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", url.authority().map_or(host, |whole| whole.as_str()))
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    let mut response = sender.send_request(request).await?;
    eprintln!("{}", response.status());
    let mut out = std::io::stdout().lock();
    while let Some(frame) = response.frame().await {
        if let Some(data) = frame?.data_ref() {
            out.write_all(data)?;
        }
    }
    out.flush()?;
    // A stream that broke is an error here, never a normal end.
    connection.await??;
    client.shutdown().await;
    Ok(())
}
