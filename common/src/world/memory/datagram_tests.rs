//! Tests of datagrams.

use std::io::ErrorKind;

use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use super::tests::{DELAY, HERE, THERE, Two};
use super::*;
use crate::world::DatagramSocket;

const MS: Duration = Duration::from_millis(1);
/// Where [`there`] hears.
const PORT: SocketAddr = SocketAddr::new(THERE, 53);

/// A port of each host, that of [`HERE`] first.
fn ports(two: &Two) -> (DatagramSocket, DatagramSocket) {
    let here = two.here.sockets.bind_datagrams(SocketAddr::new(HERE, 0));
    (
        here.unwrap(),
        two.there.sockets.bind_datagrams(PORT).unwrap(),
    )
}

/// What has come within `time`: senders and lengths.
async fn received(port: &DatagramSocket, time: Duration) -> Vec<(SocketAddr, usize)> {
    let mut got = Vec::new();
    let all = async {
        loop {
            port.receive(|from, bytes| got.push((from, bytes.len())))
                .await
                .unwrap();
        }
    };
    let _: Result<(), _> = timeout(time, all).await;
    got
}

#[tokio::test(start_paused = true)]
async fn datagrams_come_whole_after_the_delay_and_say_who_sent_them() {
    let two = Two::new().await;
    let (near, far) = ports(&two);
    let from = near.local_addr().unwrap();
    let began = Instant::now();
    for length in [0, 1, 1_472, 65_507] {
        near.try_send_to(&vec![length as u8; length], PORT).unwrap();
    }
    assert_eq!(
        near.try_send_to(&[0; 65_508], PORT).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    let mut got = Vec::new();
    far.receive(|from, bytes| got.push((from, bytes.to_vec())))
        .await
        .unwrap();
    assert_eq!(began.elapsed(), DELAY);
    let sent = [0, 1, 1_472, 65_507].map(|length| (from, vec![length as u8; length]));
    assert_eq!(got, sent);
    far.send_to(b"back", from).await.unwrap();
    assert_eq!(received(&near, DELAY).await, [(PORT, 4)]);
}

#[tokio::test(start_paused = true)]
async fn a_port_has_one_owner_and_none_for_long_after_it_is_dropped() {
    let two = Two::new().await;
    let (near, far) = ports(&two);
    let bind = || two.there.sockets.bind_datagrams(PORT);
    assert_eq!(bind().unwrap_err().kind(), ErrorKind::AddrInUse);
    let elsewhere = two.there.sockets.bind_datagrams(SocketAddr::new(HERE, 0));
    assert_eq!(elsewhere.unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    assert_eq!(two.network.open(THERE).datagram_ports, 1);
    near.try_send_to(b"nobody will hear this", PORT).unwrap();
    drop(far);
    assert_eq!(two.network.open(THERE).datagram_ports, 0);
    sleep(DELAY).await;
    let far = bind().unwrap();
    near.try_send_to(b"heard", PORT).unwrap();
    assert_eq!(received(&far, DELAY).await.len(), 1);
    two.network.limit_connections(THERE, Some(1));
    let more = two.there.sockets.bind_datagrams(SocketAddr::new(THERE, 0));
    assert_eq!(more.unwrap_err().raw_os_error(), Some(24));
}

#[tokio::test(start_paused = true)]
async fn longer_datagrams_are_lost_more_often_and_none_is_sent_again() {
    let two = Two::new().await;
    let (near, far) = ports(&two);
    two.network.set_loss(THERE, 100_000);
    let send = async {
        for length in [1_400, 14_000] {
            for _ in 0..100 {
                near.try_send_to(&vec![0; length], PORT).unwrap();
                sleep(MS).await;
            }
        }
    };
    let (got, ()) = tokio::join!(received(&far, Duration::from_secs(60)), send);
    let short = got.iter().filter(|(_, length)| *length == 1_400).count();
    let long = got.len() - short;
    // 90 and 35 are expected; the seed decides.
    assert!(
        (80..100).contains(&short) && (20..50).contains(&long),
        "{short} {long}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_on_a_blocked_way_is_lost() {
    let two = Two::new().await;
    let (near, far) = ports(&two);
    let partition = two.network.part(&[HERE], &[THERE]);
    near.try_send_to(&[0; 1], PORT).unwrap();
    two.network.join(partition);
    near.try_send_to(&[0; 2], PORT).unwrap();
    // The cable is pulled while this one is on its way.
    sleep(2 * DELAY).await;
    near.try_send_to(&[0; 3], PORT).unwrap();
    two.network.silence(THERE, true);
    sleep(DELAY).await;
    two.network.silence(THERE, false);
    let got = received(&far, Duration::from_secs(60)).await;
    assert_eq!(got, [(near.local_addr().unwrap(), 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_full_uplink_and_a_full_port_lose_what_comes_last() {
    let two = Two::new().await;
    let (near, far) = ports(&two);
    let up = 1_000_000;
    two.network.set_line(HERE, Line { up, down: 0 });
    for _ in 0..1_000 {
        near.try_send_to(&[0; 1_000], PORT).unwrap();
    }
    let began = Instant::now();
    let got = received(&far, Duration::from_secs(10)).await;
    // One is being sent while 256 KiB wait.
    assert_eq!(got.len(), 1 + 256 * 1_024 / 1_000);
    assert!(began.elapsed() > Duration::from_millis(263));
    two.network.set_line(HERE, Line::default());
    for _ in 0..10_000 {
        near.try_send_to(&[], PORT).unwrap();
    }
    sleep(2 * DELAY).await;
    assert_eq!(received(&far, DELAY).await.len(), 256 * 1_024 / 64);
}

#[tokio::test(start_paused = true)]
async fn a_connection_and_datagrams_share_a_line() {
    let two = Two::new().await;
    let (near, far) = ports(&two);
    let (mut stream, _peer) = two.connection().await;
    let up = 1_000_000;
    two.network.set_line(HERE, Line { up, down: 0 });
    stream.write_all(&[0; 100_000]).await.unwrap();
    let began = Instant::now();
    near.try_send_to(&[0; 1_000], PORT).unwrap();
    far.receive(|_, _| ()).await.unwrap();
    // The connection has a turn of a packet, and waits for its next one in front of the datagram.
    let turns = Duration::from_micros(2 * 1_400 + 1_000);
    let took = began.elapsed();
    assert!(
        (turns + DELAY..turns + DELAY + 2 * MS).contains(&took),
        "{took:?}"
    );
    let down = 10_000;
    two.network.set_line(HERE, Line::default());
    two.network.set_line(THERE, Line { up: 0, down });
    sleep(Duration::from_secs(60)).await;
    for _ in 0..20 {
        near.try_send_to(&[0; 1_000], PORT).unwrap();
    }
    // One takes 100 ms, and half a second's worth waits before one is lost.
    assert_eq!(received(&far, Duration::from_secs(10)).await.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_killed_life_hears_and_says_nothing_more() {
    for how in [Kill::Process, Kill::Power] {
        let two = Two::new().await;
        let (near, far) = ports(&two);
        near.try_send_to(&[0; 1], PORT).unwrap();
        sleep(2 * DELAY).await;
        two.network.kill(THERE, how, |_| false, Unsynced::Empty);
        assert_eq!(received(&far, Duration::from_secs(60)).await, []);
        let to = near.local_addr().unwrap();
        let said = far.try_send_to(b"late", to).unwrap_err();
        assert_eq!(said.kind(), ErrorKind::NetworkDown);
        let later = two.network.world(THERE);
        let port = later.sockets.bind_datagrams(PORT).unwrap();
        let bind = two.there.sockets.bind_datagrams(SocketAddr::new(THERE, 0));
        assert_eq!(bind.unwrap_err().kind(), ErrorKind::NetworkDown);
        drop(far);
        near.try_send_to(&[0; 2], PORT).unwrap();
        assert_eq!(received(&port, DELAY).await, [(to, 2)]);
    }
}
