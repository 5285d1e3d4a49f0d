//! Datagrams through a whole network on virtual time, from `Client::udp` to a host behind an exit and back.
//!
//! The file is a process of its own, because a process that is simulated once is never real again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/simulated.rs"]
mod simulated;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cepa_client::{Client, DatagramError, DatagramIo};
use cepa_common::dir::local_network_params;
use cepa_common::world::memory::MemoryNetwork;
use cepa_common::world::{DatagramSocket, Simulation, World, simulate};
use simulated::{
    AUTHORITIES, BEGAN_UNIX_MS, DELAY, address, at, client_options, found, life, start_relays,
};
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};

const RELAYS: u32 = 5;
const EXIT: u32 = AUTHORITIES + RELAYS;
const CLIENT: u32 = EXIT + 1;
/// The node that sends back what it gets; it is in no directory.
const SERVER: u32 = CLIENT + 1;
/// A node that nobody writes to.
const STRANGER: u32 = SERVER + 1;
/// Within this time the authorities have agreed on a consensus that lists all relays.
const FOUNDING: Duration = Duration::from_secs(30);

fn server(port: u16) -> SocketAddr {
    SocketAddr::new(address(SERVER), port)
}

/// Sends back each datagram; one that says `who` is answered by the sender's address, and one that says `call` by a
/// datagram every 50 s, for ten minutes.
async fn echo(socket: DatagramSocket) {
    let socket = Arc::new(socket);
    loop {
        let mut come = Vec::new();
        let each = |from, bytes: &[u8]| come.push((from, bytes.to_vec()));
        socket.receive(each).await.unwrap();
        for (from, bytes) in come {
            let answer = match &bytes[..] {
                b"who" => from.to_string().into_bytes(),
                b"call" => {
                    tokio::spawn(call(socket.clone(), from));
                    continue;
                }
                _ => bytes,
            };
            socket.try_send_to(&answer, from).unwrap();
        }
    }
}

async fn call(socket: Arc<DatagramSocket>, to: SocketAddr) {
    for n in 1..=12 {
        sleep(Duration::from_secs(50)).await;
        socket.try_send_to(&[n], to).unwrap();
    }
}

/// Takes a connection, and sends as many bytes as it is asked for.
async fn pages(world: World) {
    let listener = world.sockets.bind(server(80)).await.unwrap();
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let bytes = stream.read_u32().await.unwrap();
            let _ = stream.write_all(&vec![7; bytes as usize]).await;
            let _ = stream.shutdown().await;
        });
    }
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|place| (place % 251) as u8).collect()
}

/// What the server sees of the port that the datagrams come from.
async fn port_of(io: &DatagramIo, port: u16) -> SocketAddr {
    io.send(&server(port).to_string(), b"who").unwrap();
    let come = io.recv().await.unwrap();
    assert_eq!(come.from, server(port));
    String::from_utf8(come.bytes).unwrap().parse().unwrap()
}

async fn use_datagrams(network: MemoryNetwork, client: Client) {
    let io = client.udp();
    datagrams_of_all_lengths(&io).await;
    let seen = port_of(&io, 7).await;
    assert_eq!(seen.ip(), address(EXIT));
    assert_eq!(port_of(&io, 8).await, seen, "two peers see one port");
    assert_ne!(port_of(&client.udp(), 7).await, seen);
    strangers_are_not_heard(&network, &io, seen).await;
    what_cannot_be_sent_is_an_error(&io);
    a_flood_harms_no_stream(&client, &io).await;
    an_association_ends_after_300_s(&network, &io).await;
    client.shutdown().await;
    assert!(matches!(io.recv().await, Err(DatagramError::Stopped)));
}

async fn datagrams_of_all_lengths(io: &DatagramIo) {
    for length in [1, 0, 1_200, 1_472, 9_000, 65_507] {
        let began = Instant::now();
        io.send("echo.example:7", &content(length)).unwrap();
        let come = io.recv().await.unwrap();
        assert_eq!(come.from, server(7), "{length}");
        assert!(come.bytes == content(length), "{length}");
        assert!(length == 1 || began.elapsed() < 30 * DELAY, "{length}");
    }
}

/// Neither another host nor another port of the peer's is heard.
async fn strangers_are_not_heard(network: &MemoryNetwork, io: &DatagramIo, port: SocketAddr) {
    for host in [STRANGER, SERVER] {
        let sockets = network.world(address(host)).sockets;
        let other = sockets.bind_datagrams(SocketAddr::new(address(host), 0));
        other.unwrap().try_send_to(b"listen to me", port).unwrap();
    }
    sleep(10 * DELAY).await;
    assert_eq!(port_of(io, 7).await, port, "nothing else came before");
    assert!(timeout(10 * DELAY, io.recv()).await.is_err());
}

fn what_cannot_be_sent_is_an_error(io: &DatagramIo) {
    let too_long = io.send("echo.example:7", &[0; 65_508]).unwrap_err();
    assert!(matches!(too_long, DatagramError::TooLong(65_508)));
    let special = io.send("nas.local:7", b"x").unwrap_err();
    assert!(matches!(special, DatagramError::Special(_)));
    for bad in [
        "echo.example",
        "echo.example:0",
        "a b:7",
        "echo.example:70000",
    ] {
        assert!(
            matches!(io.send(bad, b"x"), Err(DatagramError::BadTarget(_))),
            "{bad}"
        );
    }
}

/// A flood takes the oldest of its own datagrams away, and a download beside it loses nothing.
async fn a_flood_harms_no_stream(client: &Client, io: &DatagramIo) {
    const BYTES: u32 = 400_000;
    let download = async {
        let mut stream = client.connect(&server(80).to_string()).await.unwrap();
        stream.write_u32(BYTES).await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        got.len()
    };
    let flood = async {
        for n in 0..5_000u32 {
            let datagram = [&n.to_be_bytes()[..], &[0; 1_196]].concat();
            io.send(&server(7).to_string(), &datagram).unwrap();
            if n % 500 == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        }
        let mut numbers = Vec::new();
        while let Ok(come) = timeout(Duration::from_secs(5), io.recv()).await {
            let bytes = come.unwrap().bytes;
            assert_eq!(bytes.len(), 1_200);
            numbers.push(u32::from_be_bytes(bytes[..4].try_into().unwrap()));
        }
        numbers
    };
    let (downloaded, numbers) = tokio::join!(download, flood);
    assert_eq!(downloaded, BYTES as usize);
    assert!(numbers.is_sorted() && numbers.last() == Some(&4_999));
    assert!(numbers.len() < 2_000, "{} came", numbers.len());
}

/// The exit ends an association that its client does not use, and holds the port for a while. The next datagram begins
/// another.
async fn an_association_ends_after_300_s(network: &MemoryNetwork, io: &DatagramIo) {
    let ports = || network.open(address(EXIT)).datagram_ports;
    let before = port_of(io, 7).await;
    io.send(&server(7).to_string(), b"call").unwrap();
    let began = Instant::now();
    // A peer goes on to send. It is heard, as it was written to less than 300 s ago.
    for n in 1..=5 {
        let come = io.recv().await.unwrap();
        assert_eq!((come.from, &come.bytes[..]), (server(7), &[n][..]));
    }
    assert!(began.elapsed() > Duration::from_secs(240));
    assert!(ports() > 0);
    // That keeps nothing alive: the association ends 300 s after the client's last datagram, and nothing more comes.
    sleep(Duration::from_secs(315) - began.elapsed()).await;
    assert_eq!(ports(), 1, "the port is held");
    assert!(timeout(Duration::from_secs(10), io.recv()).await.is_err());
    sleep(Duration::from_secs(335) - began.elapsed()).await;
    assert_eq!(ports(), 0);
    assert_ne!(port_of(io, 7).await, before);
}

async fn run() {
    let names = BTreeMap::from([("echo.example".to_owned(), address(SERVER))]);
    let network = MemoryNetwork::new(BEGAN_UNIX_MS, DELAY, names);
    let world = |node| network.world(address(node));
    let file = found(local_network_params());
    let relays = start_relays(&network, &file, EXIT).await;
    let servers: Vec<_> = [7, 8]
        .map(|port| {
            let socket = world(SERVER).sockets.bind_datagrams(server(port)).unwrap();
            Simulation::in_node(life(SERVER), || tokio::spawn(echo(socket)))
        })
        .into();
    let pages = Simulation::in_node(life(SERVER), || tokio::spawn(pages(world(SERVER))));
    sleep(FOUNDING).await;
    let options = client_options(&file, world(CLIENT));
    let client = at(CLIENT, Client::bootstrap(options)).await.unwrap();
    at(CLIENT, use_datagrams(network.clone(), client)).await;
    for relay in relays {
        relay.shutdown().await;
    }
    servers.into_iter().for_each(|server| server.abort());
    pages.abort();
}

#[test]
fn datagrams_cross_a_network_and_come_back() {
    let simulation = simulate().unwrap();
    simulation.run(7, Box::pin(run())).unwrap();
}
