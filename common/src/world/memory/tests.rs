//! Tests of the whole network; what is of one subject stands beside it.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::pair::BUFFER_BYTES;
use super::*;
use crate::world::sockets::{SocketListener, SocketStream};

pub(super) const DELAY: Duration = Duration::from_millis(20);
pub(super) const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(1, 0, 0, 1));
pub(super) const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(2, 0, 0, 1));
/// Where [`Two`] listens.
pub(super) const AT: SocketAddr = SocketAddr::new(THERE, 80);

/// Two hosts, one of which listens.
pub(super) struct Two {
    pub(super) network: MemoryNetwork,
    pub(super) here: World,
    pub(super) there: World,
    pub(super) listener: SocketListener,
}

impl Two {
    pub(super) async fn new() -> Self {
        let names = BTreeMap::from([("there.example".to_owned(), THERE)]);
        let network = MemoryNetwork::new(1_900_000_000_000, DELAY, names);
        let (here, there) = (network.world(HERE), network.world(THERE));
        let listener = there.sockets.bind(AT).await.unwrap();
        Self {
            network,
            here,
            there,
            listener,
        }
    }

    /// Both sides of a new connection, the dialler's first.
    pub(super) async fn connection(&self) -> (SocketStream, SocketStream) {
        let (near, far) = tokio::join!(self.here.sockets.connect(AT), self.listener.accept());
        (near.unwrap(), far.unwrap().0)
    }
}

/// Reads until there is an error.
pub(super) async fn read_to_error(stream: &mut SocketStream) -> io::ErrorKind {
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap_err().kind()
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_after_the_delay_and_then_the_end() {
    let two = Two::new().await;
    let began = Instant::now();
    let nowhere = SocketAddr::new(THERE, 81);
    let refused = two.here.sockets.connect(nowhere).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let mut near = two.here.sockets.connect(AT).await.unwrap();
    assert_eq!(began.elapsed(), 4 * DELAY);
    let (mut far, peer) = two.listener.accept().await.unwrap();
    assert_eq!(
        (peer, near.peer_addr().unwrap()),
        (near.local_addr().unwrap(), AT)
    );
    near.write_all(&[7; 1_000]).await.unwrap();
    near.shutdown().await.unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert_eq!((got, began.elapsed()), (vec![7; 1_000], 5 * DELAY));
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_an_error_and_a_full_buffer_waits() {
    let two = Two::new().await;
    let (near, mut far) = two.connection().await;
    let all = vec![0; 2 * BUFFER_BYTES];
    assert_eq!(near.try_write(&all).unwrap(), BUFFER_BYTES);
    let full = near.try_write(&[0]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    let mut half = vec![0; BUFFER_BYTES / 2];
    far.read_exact(&mut half).await.unwrap();
    near.writable().await.unwrap();
    assert_eq!(near.try_write(&[0]).unwrap(), 1);
    near.reset_when_dropped();
    drop(near);
    let mut rest = Vec::new();
    let error = far.read_to_end(&mut rest).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    // The reset came after the last byte.
    assert_eq!(rest.len(), BUFFER_BYTES / 2 + 1);
}

#[tokio::test(start_paused = true)]
async fn bytes_for_a_closed_side_are_answered_by_a_reset_after_a_round_trip() {
    let two = Two::new().await;
    let (mut near, far) = two.connection().await;
    drop(far);
    let mut got = Vec::new();
    near.read_to_end(&mut got).await.unwrap();
    let began = Instant::now();
    assert_eq!(near.try_write(&[1]).unwrap(), 1);
    let said_at = loop {
        match near.try_write(&[1]) {
            Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => break (error.kind(), began.elapsed()),
        }
    };
    assert_eq!(said_at, (io::ErrorKind::BrokenPipe, 2 * DELAY));
}

#[tokio::test(start_paused = true)]
async fn who_has_ended_its_direction_still_gets_all_that_the_other_side_said_last() {
    let two = Two::new().await;
    let slow = Line {
        up: 10_000,
        down: 0,
    };
    two.network.set_line(THERE, slow);
    let (mut near, mut far) = two.connection().await;
    far.write_all(&[7; 100_000]).await.unwrap();
    drop(far);
    near.shutdown().await.unwrap();
    let mut got = Vec::new();
    near.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 100_000);
}

#[tokio::test(start_paused = true)]
async fn names_and_the_time_of_day_are_the_networks() {
    let two = Two::new().await;
    let Names::Given(names) = &two.here.names else {
        panic!()
    };
    assert_eq!(names.lookup("there.example").await.unwrap(), [THERE]);
    assert!(names.lookup("nowhere.example").await.is_err());
    assert_eq!(two.here.clock.now_ms(), 1_900_000_000_000 + 4 * 20);
}

#[tokio::test(start_paused = true)]
async fn each_way_takes_its_own_time_and_what_its_hosts_add() {
    let delays: Delays = Arc::new(|from, to| match from == to {
        true => Duration::from_millis(1),
        false => Duration::from_millis(70),
    });
    let network = MemoryNetwork::with_delays(0, 7, delays, BTreeMap::new());
    let (here, there) = (network.world(HERE), network.world(THERE));
    let _listeners = (
        here.sockets.bind(SocketAddr::new(HERE, 80)).await.unwrap(),
        there.sockets.bind(AT).await.unwrap(),
    );
    let opens_in = async |to| {
        let began = Instant::now();
        here.sockets.connect(to).await.unwrap();
        began.elapsed().as_millis()
    };
    assert_eq!(opens_in(SocketAddr::new(HERE, 80)).await, 2);
    assert_eq!(opens_in(AT).await, 140);
    network.set_extra_delay(HERE, Duration::from_millis(5));
    network.set_extra_delay(THERE, Duration::from_millis(10));
    assert_eq!(opens_in(SocketAddr::new(HERE, 80)).await, 2);
    assert_eq!(opens_in(AT).await, 170);
}

#[tokio::test(start_paused = true)]
async fn a_hosts_clock_can_be_set_and_can_drift() {
    let two = Two::new().await;
    let right = || two.there.clock.now_ms();
    let wrong = || i128::from(two.here.clock.now_ms()) - i128::from(right());
    two.network.step_clock(HERE, -3_600_000);
    assert_eq!(wrong(), -3_600_000);
    two.network.set_drift(HERE, 100);
    tokio::time::sleep(Duration::from_secs(10_000)).await;
    assert_eq!(wrong(), -3_600_000 + 1_000);
    two.network.set_drift(HERE, 0);
    tokio::time::sleep(Duration::from_secs(10_000)).await;
    assert_eq!(wrong(), -3_600_000 + 1_000);
    // A later life has the same clock, and it shows no time before 1970.
    let later = two.network.world(HERE).clock;
    assert_eq!(later.now_ms(), two.here.clock.now_ms());
    two.network.step_clock(HERE, i64::MIN);
    assert_eq!(later.now_ms(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_watches_hears_of_each_event_and_none_is_kept() {
    let two = Two::new().await;
    drop(two.connection().await);
    let before = two.network.log().len();
    assert!(before > 0);
    let (sender, mut heard) = tokio::sync::mpsc::channel(100);
    let mut others = vec![two.connection().await];
    let network = two.network.clone();
    two.network.watch(Box::new(move |event| {
        // Who watches may ask for more, and hears of that afterwards.
        if event.kind == EventKind::Accept {
            assert!(network.log().is_empty());
            others.clear();
        }
        sender.try_send(event.kind).unwrap();
    }));
    let _both = two.connection().await;
    assert!(two.network.log().is_empty());
    let heard: Vec<_> = std::iter::from_fn(|| heard.try_recv().ok()).collect();
    let expected = [EventKind::Dial, EventKind::Accept];
    assert_eq!(heard[..2], expected);
    assert_eq!(heard[2..], [EventKind::Close; 2]);
}

#[tokio::test(start_paused = true)]
async fn what_is_open_is_counted_until_it_is_dropped() {
    let two = Two::new().await;
    let open = |host| {
        let Open {
            connections, ports, ..
        } = two.network.open(host);
        (connections, ports)
    };
    let (near, far) = two.connection().await;
    assert_eq!((open(HERE), open(THERE)), ((1, 0), (1, 1)));
    two.network
        .kill(THERE, Kill::Power, |_| true, Unsynced::Kept);
    let later = two.network.world(THERE);
    let _port = later.sockets.bind(AT).await.unwrap();
    assert_eq!(open(THERE), (1, 2));
    drop((near, far));
    assert_eq!((open(HERE), open(THERE)), ((0, 0), (0, 2)));
    // A dial that is under way counts.
    tokio::select! {
        biased;
        _ = two.here.sockets.connect(SocketAddr::new(THERE, 81)) => panic!(),
        () = async { assert_eq!(open(HERE), (1, 0)) } => {}
    }
    assert_eq!(open(HERE), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_network_ends_with_its_last_handle() {
    let two = Two::new().await;
    let watched = Arc::downgrade(&two.network.0);
    let both = two.connection().await;
    drop(two);
    let last = MemoryNetwork(watched.upgrade().unwrap());
    drop(both);
    // Nothing is under way any more, so that nothing else wakes the network's task.
    tokio::time::sleep(10 * DELAY).await;
    drop(last);
    assert!(watched.upgrade().is_none());
    let tasks = tokio::runtime::Handle::current().metrics();
    tokio::task::yield_now().await;
    assert_eq!(tasks.num_alive_tasks(), 0);
}
