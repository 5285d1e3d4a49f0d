//! Makes a circuit through relays that the program chooses, and fetches a page over it.
//!
//!     cargo run -p cepa-client --example custom_path -- network.toml http://example.com/ [RELAY]...
//!
//! Relays are named by identity or nickname as in `cepa consensus`, first hop first. Without names, this program
//! chooses three relays. Such a circuit keeps none of the rules that protect you (guards, families, networks): use it
//! for tests and measurements only.
#![allow(
    clippy::disallowed_methods,
    reason = "an example runs in the real world"
)]
#![allow(clippy::print_stdout)]

use std::error::Error;

use cepa_client::path::ExitTarget;
use cepa_client::{Client, ClientOptions, NetworkFile, RelayId, StreamTarget};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(network), Some(url)) = (arguments.next(), arguments.next()) else {
        return Err("arguments: NETWORK-FILE URL [RELAY]...".into());
    };
    let named: Vec<String> = arguments.collect();
    let rest = url.strip_prefix("http://").ok_or("the URL is not http")?;
    let (host, page) = rest.split_once('/').unwrap_or((rest, ""));
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) => (name, port.parse()?),
        None => (host, 80),
    };
    let target = match name.parse() {
        Ok(ip) => StreamTarget::address(std::net::SocketAddr::new(ip, port)),
        Err(_) => StreamTarget::name(name, port),
    };
    let target = target.ok_or("no host can have this name")?;

    let network = NetworkFile::parse(&std::fs::read_to_string(network)?)?;
    let client = Client::bootstrap(ClientOptions::new(network)).await?;
    let path = match named.is_empty() {
        true => choose(&client, port)?,
        false => find(&client, &named)?,
    };
    let circuit = client.circuit(&path).await?;
    for hop in circuit.hops() {
        println!("{hop}");
    }
    let mut stream = circuit.open(target).ok_or("the circuit is gone")?;
    // What is written before the stream is open travels with the request to open the stream. That saves a round trip.
    let request = format!("GET /{page} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.opened().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    println!("{} bytes", answer.len());
    circuit.close();
    client.shutdown().await;
    Ok(())
}

/// The relays that have these identities or nicknames.
fn find(client: &Client, named: &[String]) -> Result<Vec<RelayId>, Box<dyn Error>> {
    let consensus = client.consensus().ok_or("the consensus has expired")?;
    let mut path = Vec::new();
    for name in named {
        let mut entries = consensus.entries().iter();
        let is_it = |id: RelayId, nickname: &str| id.to_string() == *name || nickname == name;
        let found = entries.find(|relay| is_it(relay.identity, &relay.nickname));
        path.push(found.ok_or_else(|| format!("no relay is {name}"))?.identity);
    }
    Ok(path)
}

/// Three different relays, of which the last lets streams to this port out.
fn choose(client: &Client, port: u16) -> Result<Vec<RelayId>, Box<dyn Error>> {
    let consensus = client.consensus().ok_or("the consensus has expired")?;
    let entries = consensus.entries();
    let exit = entries
        .iter()
        .find(|relay| ExitTarget::Name(port).is_allowed_by(relay));
    let exit = exit
        .ok_or("no exit lets streams to this port out")?
        .identity;
    let others = entries.iter().map(|relay| relay.identity);
    let mut path: Vec<_> = others.filter(|relay| *relay != exit).take(2).collect();
    path.push(exit);
    Ok(path)
}
