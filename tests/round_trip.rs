//! With 30 ms on every link, a request on a ready circuit costs one round trip to the exit and no more.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use cepa_client::{Client, ClientOptions};
use cepa_common::ids::RelayId;
use cepa_common::stream::Target;
use support::own::OwnNetwork;
use support::own::free_port;
use support::{alone, http_server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// One way, on each link.
const DELAY: Duration = Duration::from_millis(30);
/// Three links, both ways.
const ROUND_TRIP: Duration = Duration::from_millis(6 * 30);
/// The least of so many counts: what else runs on the machine only makes some of them longer.
const TRIES: usize = 8;

/// Passes connections on to `to`, and all that they carry so much later. Ends with the runtime.
async fn delaying_link(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(to).await else {
                continue;
            };
            near.set_nodelay(true).unwrap();
            far.set_nodelay(true).unwrap();
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            delay(near_in, far_out);
            delay(far_in, near_out);
        }
    });
    address
}

fn delay(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let (sender, mut pending) = mpsc::channel::<(Instant, Vec<u8>)>(1_024);
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok(len @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now() + DELAY;
            if sender.send((due, buffer[..len].to_vec())).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some((due, bytes)) = pending.recv().await {
            // The delay is what is tested.
            tokio::time::sleep_until(due.into()).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
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
        let advertised = runtime.block_on(delaying_link(address)).to_string();
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
