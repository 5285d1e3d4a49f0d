#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Who answers an exit in place of its name server.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use cepa_common::budget::Budget;
use cepa_common::world::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

use super::tests::{answer, name, origin, question};
use super::*;
use crate::events::Reporter;

/// A name server beside which somebody answers who does not know the query: by wrong ids, from another port, with another
/// question, with too much, and with what is no DNS. At last, unless it `hides`, the server answers too.
async fn spoofed(hides: bool) -> SocketAddr {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 1500];
        while let Ok((len, from)) = server.recv_from(&mut query).await {
            let (_, end) = question(&query[..len]);
            let query = &query[..end];
            let evil = |query: &[u8]| {
                let mut answer = answer(query, "good.example").unwrap();
                let ip = answer.len() - 4;
                if answer[7] == 1 {
                    answer[ip..].copy_from_slice(&[127, 0, 0, 66]);
                }
                answer
            };
            // Whoever guesses ids has 65,535 wrong ones; the first of them come quickly.
            for n in 1..=40_u8 {
                let mut guessed = evil(query);
                guessed[usize::from(n % 2)] ^= n;
                let _ = server.send_to(&guessed, from).await;
            }
            let _ = stranger.send_to(&evil(query), from).await;
            let mut other = query.to_vec();
            other[13] ^= 1;
            let _ = server.send_to(&evil(&other), from).await;
            let _ = server.send_to(&[0xff; 9_000], from).await;
            let _ = server.send_to(&[0xff; 1], from).await;
            if !hides {
                let honest = answer(query, "good.example").unwrap();
                let _ = server.send_to(&honest, from).await;
            }
        }
    });
    address
}

/// S32: an answer is believed only if it comes from where the question went, with its id and its name.
#[tokio::test]
async fn who_answers_in_place_of_the_name_server_is_not_believed() {
    for hides in [false, true] {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&asked);
        let exit = ExitConnector::new(
            Arc::new(move |to: SocketAddr| {
                notes.lock().unwrap().push(to.ip());
                false
            }),
            Some(spoofed(hides).await),
            &World::default(),
            &Budget::unlimited(),
            Reporter::default(),
        )
        .unwrap();
        let host = name("good.example");
        let connected = exit.connect(&host, 80, origin());
        let error = timeout(Duration::from_secs(30), connected)
            .await
            .expect("in time")
            .unwrap_err();
        let asked = asked.lock().unwrap();
        let evil = IpAddr::from([127, 0, 0, 66]);
        assert!(!asked.contains(&evil), "{asked:?}");
        if hides {
            assert_ne!(error, DestinationError::Policy);
            assert!(asked.is_empty(), "{asked:?}");
        } else {
            // The names of this server lead to where the policy of this exit does not.
            assert_eq!(error, DestinationError::Policy);
            assert_eq!(asked[0], IpAddr::from([127, 0, 0, 1]));
        }
    }
}

/// How a name server answers by TCP, where it has said by UDP that there is more than a datagram holds.
#[derive(Clone, Copy)]
enum ByTcp {
    /// It says how long the answer is, and then a byte every tenth of a second.
    Slowly,
    /// By all addresses that a message holds.
    Fully,
}

/// Whether an answer that is cut, or one to the same question by TCP, is asked for addresses of IPv4.
fn wants_v4(query: &[u8]) -> bool {
    query[query.len() - 4..] == [0, 1, 0, 1]
}

async fn cut_short(by_tcp: ByTcp) -> SocketAddr {
    let (datagrams, streams) = loop {
        let datagrams = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // The port may be another's by TCP.
        if let Ok(streams) = TcpListener::bind(datagrams.local_addr().unwrap()).await {
            break (datagrams, streams);
        }
    };
    let address = datagrams.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 1500];
        while let Ok((len, from)) = datagrams.recv_from(&mut query).await {
            let (name, end) = question(&query[..len]);
            let answer = if name == "quick.example" {
                answer(&query[..end], "good.example").unwrap()
            } else {
                let head = [&query[..2], &[0x83, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
                [&head, &query[12..end]].concat()
            };
            let _ = datagrams.send_to(&answer, from).await;
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = streams.accept().await {
            tokio::spawn(async move {
                let mut query = vec![0; usize::from(stream.read_u16().await?)];
                stream.read_exact(&mut query).await?;
                let (_, end) = question(&query);
                let records = match wants_v4(&query[..end]) {
                    true => (65_535 - end) / 16,
                    false => 0,
                };
                let count = u16::try_from(records).unwrap().to_be_bytes();
                let mut said = [&query[..2], &[0x81, 0x80, 0, 1], &count, &[0; 4]].concat();
                said.extend(&query[12..end]);
                for n in 0..records {
                    said.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 1]);
                    said.extend(u16::try_from(n).unwrap().to_be_bytes());
                }
                let len = u16::try_from(said.len()).unwrap();
                match by_tcp {
                    ByTcp::Fully => {
                        stream.write_u16(len).await?;
                        stream.write_all(&said).await?;
                    }
                    ByTcp::Slowly => {
                        stream.write_u16(u16::MAX).await?;
                        for byte in said {
                            stream.write_u8(byte).await?;
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                }
                std::io::Result::Ok(())
            });
        }
    });
    address
}

/// S32: what a name server says at length costs a bounded time and a few dials, and holds up no other name.
#[tokio::test]
async fn long_and_slow_answers_are_bounded() {
    for by_tcp in [ByTcp::Slowly, ByTcp::Fully] {
        let dialled = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&dialled);
        let budget = Budget::new(64 << 20);
        let exit = ExitConnector::new(
            Arc::new(move |to: SocketAddr| {
                notes.lock().unwrap().push(to.ip());
                false
            }),
            Some(cut_short(by_tcp).await),
            &World::default(),
            &budget,
            Reporter::default(),
        );
        let exit = Arc::new(exit.unwrap());
        let slow = {
            let exit = exit.clone();
            tokio::spawn(async move { exit.connect(&name("long.example"), 80, origin()).await })
        };
        let quick = name("quick.example");
        let quick = timeout(Duration::from_secs(5), exit.connect(&quick, 80, origin()));
        let quick = quick.await.expect("not held up").unwrap_err();
        assert_eq!(quick, DestinationError::Policy);
        let error = timeout(Duration::from_secs(12), slow)
            .await
            .expect("in time");
        let error = error.unwrap().unwrap_err();
        let dialled = dialled.lock().unwrap();
        let of_long = dialled
            .iter()
            .filter(|ip| ip.to_string().starts_with("127.1."));
        match by_tcp {
            ByTcp::Slowly => {
                assert_ne!(error, DestinationError::Policy);
                assert_eq!(of_long.count(), 0);
            }
            ByTcp::Fully => {
                assert_eq!(error, DestinationError::Policy);
                assert_eq!(of_long.count(), 8, "addresses of a family");
            }
        }
        assert!(budget.used() < 2 << 20, "{}", budget.used());
    }
}
