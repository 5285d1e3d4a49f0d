//! Tests of lines: their rates, what is lost on them, and hosts that are short of something.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::pair::BUFFER_BYTES;
use super::tests::{AT, DELAY, HERE, THERE, Two};
use super::*;
use crate::world::sockets::SocketStream;

const MS: Duration = Duration::from_millis(1);

async fn send(near: &mut SocketStream, bytes: usize) {
    let all: Vec<u8> = (0..bytes).map(|place| (place % 251) as u8).collect();
    near.write_all(&all).await.unwrap();
    near.shutdown().await.unwrap();
}

/// Reads to the end, which comes after `bytes` bytes, and gives the time that took.
async fn receive(far: &mut SocketStream, bytes: usize) -> Duration {
    let began = Instant::now();
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), bytes);
    let expected = (0..bytes).map(|place| (place % 251) as u8);
    assert!(
        got.into_iter().eq(expected),
        "the bytes are those that were sent"
    );
    began.elapsed()
}

async fn carry(near: &mut SocketStream, far: &mut SocketStream, bytes: usize) -> Duration {
    tokio::join!(receive(far, bytes), send(near, bytes)).0
}

#[tokio::test(start_paused = true)]
async fn bytes_take_the_time_of_the_slower_line_and_the_delay() {
    let (slow, fast) = (100_000, 1_000_000);
    for (up, down) in [(slow, 0), (0, slow), (slow, fast), (fast, slow)] {
        let two = Two::new().await;
        two.network.set_line(HERE, Line { up, down: 1 });
        two.network.set_line(THERE, Line { up: 1, down });
        let (mut near, mut far) = two.connection().await;
        let took = carry(&mut near, &mut far, 1_000_000).await;
        // The faster of the two lines adds its time for one turn.
        let least = Duration::from_secs(10) + DELAY;
        assert!(
            (least..least + 20 * MS).contains(&took),
            "{up} {down} {took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn connections_of_a_host_take_turns_at_its_uplink() {
    let two = Two::new().await;
    two.network.set_line(
        HERE,
        Line {
            up: 1_000_000,
            down: 0,
        },
    );
    let (mut bulk, mut bulk_far) = two.connection().await;
    let (mut other, mut other_far) = two.connection().await;
    let (mut ping, mut ping_far) = two.connection().await;
    let pings = async {
        tokio::time::sleep(100 * MS).await;
        let began = Instant::now();
        ping.write_all(&[1]).await.unwrap();
        ping_far.read_exact(&mut [0]).await.unwrap();
        began.elapsed()
    };
    let (one, two, ping) = tokio::join!(
        carry(&mut bulk, &mut bulk_far, 1_000_000),
        carry(&mut other, &mut other_far, 1_000_000),
        pings
    );
    // At most the turn that is under way and one of each other connection go before.
    assert!(ping <= DELAY + 3 * 2 * MS, "{ping:?}");
    let both = Duration::from_secs(2) + DELAY;
    assert!(one.max(two) <= both + 2 * MS, "{one:?} {two:?}");
    assert!(one.min(two) >= both - 20 * MS, "{one:?} {two:?}");
}

#[tokio::test(start_paused = true)]
async fn a_line_of_a_gigabit_is_filled_although_timers_have_milliseconds() {
    let network = MemoryNetwork::new(0, MS, BTreeMap::new());
    let (here, there) = (network.world(HERE), network.world(THERE));
    let listener = there.sockets.bind(AT).await.unwrap();
    let rate = 125_000_000;
    network.set_line(HERE, Line { up: rate, down: 0 });
    network.set_line(THERE, Line { up: 0, down: rate });
    let connection = async || {
        let (near, far) = tokio::join!(here.sockets.connect(AT), listener.accept());
        (near.unwrap(), far.unwrap().0)
    };
    let (mut one, mut other) = (connection().await, connection().await);
    let bytes = 25_000_000;
    let (one, other) = tokio::join!(
        carry(&mut one.0, &mut one.1, bytes),
        carry(&mut other.0, &mut other.1, bytes)
    );
    let took = one.max(other);
    assert!((400 * MS..405 * MS).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_downlink_is_shared_by_all_that_comes_to_a_host() {
    let two = Two::new().await;
    let third: IpAddr = [3, 0, 0, 1].into();
    let world = two.network.world(third);
    two.network.set_line(
        THERE,
        Line {
            up: 0,
            down: 1_000_000,
        },
    );
    let (mut near, mut far) = two.connection().await;
    let (dialled, accepted) = tokio::join!(world.sockets.connect(AT), two.listener.accept());
    let (mut other, mut other_far) = (dialled.unwrap(), accepted.unwrap().0);
    let (one, other) = tokio::join!(
        carry(&mut near, &mut far, 1_000_000),
        carry(&mut other, &mut other_far, 1_000_000)
    );
    let took = one.max(other);
    let both = Duration::from_secs(2) + DELAY;
    assert!((both..both + 2 * MS).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rate_can_change_while_bytes_wait() {
    let two = Two::new().await;
    two.network.set_line(
        HERE,
        Line {
            up: 16 * 1024,
            down: 0,
        },
    );
    let (mut near, mut far) = two.connection().await;
    let changes = async {
        tokio::time::sleep(500 * MS).await;
        two.network.set_line(HERE, Line::default());
    };
    let (took, ()) = tokio::join!(carry(&mut near, &mut far, 200_000), changes);
    // The packet that is being sent at that time, the sixth, is sent at the rate before.
    assert_eq!(took, 513 * MS + DELAY);
}

/// How long it takes to bring ten megabytes over a lossy line, with a seed.
async fn lossy(seed: u64, per_million: u32) -> Duration {
    let delays: Delays = Arc::new(|_, _| DELAY);
    let network = MemoryNetwork::with_delays(0, seed, delays, BTreeMap::new());
    let (here, there) = (network.world(HERE), network.world(THERE));
    let listener = there.sockets.bind(AT).await.unwrap();
    let (near, far) = tokio::join!(here.sockets.connect(AT), listener.accept());
    network.set_loss(HERE, per_million);
    carry(&mut near.unwrap(), &mut far.unwrap().0, 10_000_000).await
}

#[tokio::test(start_paused = true)]
async fn a_loss_holds_bytes_up_and_the_seed_says_which() {
    let without = lossy(7, 0).await;
    let took = lossy(7, 2_000).await;
    // In 38 buffers of 188 packets there are 14 losses, each for 200 ms and a round trip, some of them at once.
    let lost = (took - without).div_duration_f64(200 * MS + 2 * DELAY);
    assert!((6.0..20.0).contains(&lost), "{took:?}");
    assert_eq!(lossy(7, 2_000).await, took);
    assert_ne!(lossy(8, 2_000).await, took);
}

#[tokio::test(start_paused = true)]
async fn a_lost_byte_comes_after_200_ms_and_a_round_trip_more() {
    let two = Two::new().await;
    let (mut near, mut far) = two.connection().await;
    two.network.set_loss(THERE, 500_000);
    let mut late = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        near.write_all(&[1]).await.unwrap();
        far.read_exact(&mut [0]).await.unwrap();
        late.push((began.elapsed() - DELAY).as_millis() / (200 * MS + 2 * DELAY).as_millis());
    }
    late.sort_unstable();
    // Once, twice, three times lost: each wait is twice the one before.
    late.dedup();
    assert_eq!(late[..4], [0, 1, 3, 7]);
}

#[tokio::test(start_paused = true)]
async fn name_servers_can_be_silent_and_can_lie() {
    let two = Two::new().await;
    let Names::Given(names) = &two.here.names else {
        panic!()
    };
    two.network.set_names(HERE, NamesFault::Lying(HERE));
    assert_eq!(names.lookup("there.example").await.unwrap(), [HERE]);
    two.network.set_names(HERE, NamesFault::Silent);
    let answer = timeout(Duration::from_secs(60), names.lookup("there.example"));
    assert!(answer.await.is_err());
    two.network.set_names(HERE, NamesFault::Well);
    assert_eq!(names.lookup("there.example").await.unwrap(), [THERE]);
}

#[tokio::test(start_paused = true)]
async fn a_host_without_descriptors_neither_dials_nor_accepts() {
    let two = Two::new().await;
    let is_full = |error: io::Error| error.raw_os_error() == Some(24);
    two.network.limit_connections(HERE, Some(1));
    let near = two.here.sockets.connect(AT).await.unwrap();
    assert!(is_full(two.here.sockets.connect(AT).await.unwrap_err()));
    drop(near);
    let (_near, _far) = two.connection().await;
    two.listener.accept().await.unwrap();
    two.network.limit_connections(HERE, None);
    two.network.limit_connections(THERE, Some(1));
    let _waiting = two.here.sockets.connect(AT).await.unwrap();
    assert!(is_full(two.listener.accept().await.err().unwrap()));
    two.network.limit_connections(THERE, Some(2));
    // The connection has waited.
    two.listener.accept().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_host_that_dribbles_loses_nothing() {
    let two = Two::new().await;
    let (mut near, mut far) = two.connection().await;
    two.network.dribble(THERE, true);
    two.network.dribble(HERE, true);
    carry(&mut near, &mut far, 8 * BUFFER_BYTES).await;
    let log = two.network.log();
    let sizes = |kind| {
        let of_kind = log.iter().filter(move |event| event.kind == kind);
        of_kind.map(|event| event.bytes)
    };
    assert!(sizes(EventKind::Receive).any(|bytes| bytes == 1));
    assert!(sizes(EventKind::Send).any(|bytes| bytes < BUFFER_BYTES / 2));
}
