//! Tests of everything at once: hosts that fail in all ways, with connections between them.

use chacha20::ChaCha20Rng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;
use crate::sync::lock;
use crate::world::sockets::SocketStream;

const HOSTS: u8 = 4;
const CONNECTIONS: usize = 24;

fn host(number: u8) -> IpAddr {
    [9, 0, 0, number].into()
}

fn any_host(rng: &mut ChaCha20Rng) -> IpAddr {
    host(rng.random_range(0..HOSTS))
}

/// Byte `place` of what each side says. The first two bytes say how many thousand bytes there are.
fn byte(thousands: u16, place: usize) -> u8 {
    match place {
        0 | 1 => thousands.to_be_bytes()[place],
        _ => (place % 251) as u8,
    }
}

/// Says `thousands` of bytes, then nothing more.
async fn speak(stream: &SocketStream, thousands: u16) -> std::io::Result<()> {
    let len = usize::from(thousands) * 1_000;
    let all: Vec<u8> = (0..len).map(|place| byte(thousands, place)).collect();
    let mut said = 0;
    while said < len {
        stream.writable().await?;
        match stream.try_write(&all[said..]) {
            Ok(taken) => said += taken,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    match stream {
        SocketStream::Given(given) => given.shutdown_write(),
        SocketStream::Tcp(_) => panic!(),
    }
}

/// Reads what the other side says: all of it if there is an end, and otherwise the beginning of it.
async fn listen(stream: &SocketStream) -> std::io::Result<()> {
    let (mut first, mut len) = ([0; 2], 0);
    let mut buffer = vec![0; 100_000];
    loop {
        stream.readable().await?;
        let Some(read) = stream.receive(&mut buffer)? else {
            continue;
        };
        for (place, got) in (len..).zip(&buffer[..read]) {
            if let Some(byte) = first.get_mut(place) {
                *byte = *got;
            }
            assert_eq!(*got, byte(u16::from_be_bytes(first), place));
        }
        len += read;
        if read == 0 {
            assert_eq!(len, usize::from(u16::from_be_bytes(first)) * 1_000);
            return Ok(());
        }
    }
}

/// Says and hears, for an hour at most.
async fn talk(stream: SocketStream, thousands: u16) {
    let both = async { tokio::join!(speak(&stream, thousands), listen(&stream)) };
    let _ = timeout(Duration::from_secs(3_600), both).await;
}

/// Tasks that must end well.
type Talks = Arc<Mutex<Vec<JoinHandle<()>>>>;

async fn serve(world: World, address: IpAddr, talks: Talks) {
    let bound = world.sockets.bind(SocketAddr::new(address, 80)).await;
    // The life may be over already.
    let Ok(listener) = bound else { return };
    // Those that come later wait in vain.
    for _ in 0..CONNECTIONS / 8 {
        let (stream, _) = listener.accept().await.unwrap();
        lock(&talks).push(tokio::spawn(talk(stream, 300)));
    }
    std::future::pending().await
}

/// Has something happen to a host or two.
fn fail(network: &MemoryNetwork, rng: &mut ChaCha20Rng, partitions: &mut Vec<u64>) {
    let (one, other) = (any_host(rng), any_host(rng));
    match rng.random_range(0..9) {
        0 => partitions.push(network.part(&[one], &[other])),
        1 => partitions.drain(..).for_each(|number| network.join(number)),
        2 => network.silence(one, rng.random()),
        3 | 4 => {
            let how = [Kill::Process, Kill::Power][rng.random_range(0..2)];
            network.kill(one, how, |_| true, Unsynced::Kept);
        }
        5 => {
            let mut rate = || [0, 50_000, 10_000_000][rng.random_range(0..3)];
            let (up, down) = (rate(), rate());
            network.set_line(one, Line { up, down });
        }
        6 => network.set_loss(one, rng.random_range(0..30_000)),
        7 => network.dribble(one, rng.random()),
        _ => network.set_extra_delay(one, Duration::from_micros(rng.random_range(0..99_999))),
    }
}

/// Everything that happened in a storm, after which nothing is open.
async fn storm(seed: u64) -> Vec<Event> {
    let delays: Delays = Arc::new(|from, to| match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let apart = u64::from(from.octets()[3].abs_diff(to.octets()[3]));
            Duration::from_micros(100 + 17_300 * apart)
        }
        _ => panic!(),
    });
    let network = MemoryNetwork::with_delays(0, seed, delays, BTreeMap::new());
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let talks = Talks::default();
    let mut servers = Vec::new();
    let mut worlds: BTreeMap<IpAddr, World> = BTreeMap::new();
    let mut partitions = Vec::new();
    for _ in 0..CONNECTIONS {
        for host in (0..HOSTS).map(host) {
            let is_up = worlds.get(&host).is_some_and(|world| {
                let nowhere = SocketAddr::new(host, 1);
                world.sockets.local_address(nowhere).is_some()
            });
            if !is_up && rng.random() {
                let world = network.world(host);
                servers.push(tokio::spawn(serve(world.clone(), host, Arc::clone(&talks))));
                worlds.insert(host, world);
            }
        }
        let (from, to) = (any_host(&mut rng), any_host(&mut rng));
        let thousands = rng.random_range(1..900);
        if let Some(world) = worlds.get(&from).cloned() {
            let talk = tokio::spawn(async move {
                if let Ok(stream) = world.sockets.connect(SocketAddr::new(to, 80)).await {
                    talk(stream, thousands).await;
                }
            });
            lock(&talks).push(talk);
        }
        sleep(Duration::from_micros(rng.random_range(0..2_000_000))).await;
        fail(&network, &mut rng, &mut partitions);
    }
    sleep(Duration::from_secs(3 * 3_600)).await;
    for server in servers {
        server.abort();
        assert!(!server.await.is_err_and(|error| error.is_panic()));
    }
    let talks = std::mem::take(&mut *lock(&talks));
    for talk in talks {
        talk.await.unwrap();
    }
    for host in (0..HOSTS).map(host) {
        assert_eq!(network.open(host), Open::default());
    }
    assert_eq!(network.0.with(|state, _| state.connections.len()), 0);
    network.log()
}

/// Runs a storm on a runtime of its own.
fn run(seed: u64) -> Vec<Event> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(storm(seed))
}

#[test]
fn in_storms_bytes_come_in_order_and_whole_or_with_an_error() {
    let events: usize = (0..12).map(|seed| run(seed).len()).sum();
    assert!(events > 3_000, "{events}");
}

#[test]
fn a_storm_is_the_same_each_time() {
    let (one, again, other) = (run(1), run(1), run(2));
    assert!(one == again);
    assert!(one != other);
}
