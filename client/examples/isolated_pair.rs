//! Two clients that share a network and no circuit, so that no exit can connect what one does with what the other does.
//!
//!     cargo run -p cepa-client --example isolated_pair -- network.toml http://example.com/
#![allow(
    clippy::disallowed_methods,
    reason = "an example runs in the real world"
)]
#![allow(clippy::print_stdout)]

use std::error::Error;

use cepa_client::{Client, ClientOptions, NetworkFile};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

// One thread is enough for a client.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(network), Some(url)) = (arguments.next(), arguments.next()) else {
        return Err("arguments: NETWORK-FILE URL".into());
    };
    let network = NetworkFile::parse(&std::fs::read_to_string(network)?)?;
    let anna = Client::bootstrap(ClientOptions::new(network)).await?;
    // The two share guards, consensus and links, but no circuits.
    let bert = anna.isolated();

    let (first, second) = tokio::try_join!(fetch(&anna, &url), fetch(&bert, &url))?;
    println!("anna got {first} bytes, bert {second}");
    // Anna's second fetch uses Anna's circuit again.
    fetch(&anna, &url).await?;
    let counts = anna.circuits().counts();
    println!("{} circuits in use", counts.ready - counts.clean);

    // From here on Anna has a new identity, and so has Bert: a new identity is that of the whole client.
    println!("{} circuits retired", anna.new_identity());
    fetch(&anna, &url).await?;
    let counts = anna.circuits().counts();
    println!("{} circuits in use", counts.ready - counts.clean);
    anna.shutdown().await;
    Ok(())
}

/// Fetches `http://host[:port]/path`; returns how many bytes came.
async fn fetch(client: &Client, url: &str) -> Result<usize, Box<dyn Error>> {
    let rest = url.strip_prefix("http://").ok_or("the URL is not http")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let target = if has_port {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let mut stream = client.connect(&target).await?;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.len())
}
