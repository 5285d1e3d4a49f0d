//! With 30 ms on every link, a request on a ready circuit costs one round trip to the exit and no more.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use cepa_client::{Client, ClientOptions};
use cepa_common::ids::RelayId;
use cepa_common::stream::Target;
use support::own::OwnNetwork;
use support::own::free_port;
use support::{alone, http_server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// One way, on each link.
const DELAY: Duration = Duration::from_millis(30);
/// Three links, both ways.
const ROUND_TRIP: Duration = Duration::from_millis(6 * 30);
/// The least of so many counts: what else runs on the machine only makes some of them longer.
const TRIES: usize = 8;

/// Passes connections on to `to`, and all that they carry so much later. Ends with the process.
fn delaying_link(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for near in listener.incoming() {
            let (Ok(near), Ok(far)) = (near, TcpStream::connect(to)) else {
                continue;
            };
            delay(near.try_clone().unwrap(), far.try_clone().unwrap());
            delay(far, near);
        }
    });
    address
}

fn delay(mut from: TcpStream, mut to: TcpStream) {
    to.set_nodelay(true).unwrap();
    let (sender, pending) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            let due = Instant::now() + DELAY;
            if sender.send((due, buffer[..len].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in pending {
            // The delay is what is tested.
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

/// From the request to the first byte of its answer.
async fn first_byte(client: &Client, path: &[RelayId], server: SocketAddr) -> Duration {
    let circuit = client.circuit(path).await.unwrap();
    let mut least = Duration::MAX;
    for _ in 0..TRIES {
        let begun = Instant::now();
        let mut stream = circuit.open(Target::address(server).unwrap()).unwrap();
        stream
            .write_all(b"GET /1/1000 HTTP/1.0\r\n\r\n")
            .await
            .unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        least = least.min(begun.elapsed());
    }
    circuit.close();
    least
}

#[test]
fn a_request_on_a_ready_circuit_costs_one_round_trip() {
    let _alone = alone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut own = OwnNetwork::start(&[]);
    let relays: [(&str, &[&str]); 3] = [
        ("willow", &[]),
        ("aspen", &[]),
        ("birch", &["--exit", "--allow-private"]),
    ];
    for (name, more) in relays {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let advertised = delaying_link(address).to_string();
        own.relay_at(
            address,
            name,
            &[&["--advertise", &advertised], more].concat(),
        );
    }
    runtime.block_on(async {
        let mut path = Vec::new();
        for (name, _) in relays {
            path.push(own.listed_as(name).await);
        }
        let options = ClientOptions::new(own.file.clone());
        let client = Client::bootstrap(options).await.unwrap();
        let took = first_byte(&client, &path, http_server()).await;
        assert!(
            (ROUND_TRIP..2 * ROUND_TRIP).contains(&took),
            "one round trip is {ROUND_TRIP:?}, the answer took {took:?}"
        );
    });
}
