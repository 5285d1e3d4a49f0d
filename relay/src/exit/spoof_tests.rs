#![allow(clippy::unwrap_used, clippy::expect_used)]
//! Who answers an exit in place of its name server.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use cepa_common::budget::Budget;
use cepa_common::world::World;
use tokio::net::UdpSocket;
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
