#![allow(clippy::unwrap_used, clippy::expect_used)]

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use cepa_common::dir::{
    Consensus, KeyCert, MAX_DESCRIPTOR_BYTES, MAX_PERMIT_BYTES, NetworkFile, Permit,
    RelayDescriptor,
};
use cepa_common::net::directory::{Dial, DirRequest, FetchError, fetch, fetch_consensus, upload};
use cepa_common::testkit::*;
use cepa_common::world::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{DirectoryServer, Publisher, Refresher, publish, refresh, serve_connection};
use crate::authority::{
    AuthorityTask, MemorySigningRecord, ReachabilityProbe, authority_queue, run,
};
use crate::events::follow_consensus;
use crate::{AuthorityEvent, DescriptorAnswer, Listing, RelayEvent, RelayEvents};

#[path = "voting_tests.rs"]
mod voting;

const START_MS: u64 = 1_900_000_000_300;
const SOON: Duration = Duration::from_secs(5);

/// What a switchboard does with a connection to this server: the server serves it.
pub(super) fn served_by(
    server: &Arc<DirectoryServer>,
) -> impl Fn(DuplexStream) + Send + Sync + use<> {
    let server = Arc::clone(server);
    move |far| {
        tokio::spawn(serve_connection(far, Arc::clone(&server)));
    }
}

/// The directories of a whole network in one process, on virtual time.
struct World {
    network: Arc<NetworkFile>,
    clock: Clock,
    board: Switchboard,
    tasks: JoinSet<()>,
}

impl World {
    fn new(authorities: u8) -> Self {
        Self {
            network: Arc::new(network(authorities)),
            clock: virtual_clock(START_MS),
            board: Switchboard::default(),
            tasks: JoinSet::new(),
        }
    }

    fn dial(&self) -> Arc<dyn Dial> {
        Arc::new(self.board.clone())
    }

    fn authority(&mut self, n: u8) -> Arc<DirectoryServer> {
        let (handle, queue) = authority_queue();
        let directory =
            DirectoryServer::new(Arc::clone(&self.network), self.clock.clone(), Some(handle));
        let probe: Arc<dyn ReachabilityProbe> = Arc::new(Arc::new(self.board.clone()));
        let task = AuthorityTask {
            knowledge: Default::default(),
            identity: identity(n),
            signing_key: signing_key(n).into(),
            renewals: None,
            word: None,
            params: BTreeMap::new(),
            dial: self.dial(),
            probe: Some(probe),
            seat: directory.seat(),
            record: Arc::new(MemorySigningRecord::default()),
        };
        self.board.plug(n, served_by(&directory));
        self.tasks
            .spawn(async move { run(task, queue).await.unwrap() });
        let server = Arc::clone(&directory);
        self.tasks.spawn(refresh(Refresher {
            server,
            dial: self.dial(),
            identity: identity(n),
        }));
        directory
    }

    fn relay(&mut self, n: u8) -> Arc<DirectoryServer> {
        self.relay_as(n, descriptor_at(n, 0))
    }

    /// A relay that is reached as number `n`, with that link key, and that says `descriptor` about itself.
    fn relay_as(&mut self, n: u8, descriptor: RelayDescriptor) -> Arc<DirectoryServer> {
        let directory = DirectoryServer::new(Arc::clone(&self.network), self.clock.clone(), None);
        self.board.plug(n, served_by(&directory));
        let server = Arc::clone(&directory);
        self.tasks.spawn(refresh(Refresher {
            server,
            dial: self.dial(),
            identity: descriptor.identity,
        }));
        let (keep, descriptor) = watch::channel(descriptor);
        let publisher = Publisher {
            network: Arc::clone(&self.network).into(),
            clock: self.clock.clone(),
            dial: self.dial(),
            key: link_key(n),
            descriptor,
            consensus: directory.subscribe(),
            local: None,
            events: directory.events().clone(),
        };
        self.tasks.spawn(async move {
            publish(publisher).await;
            drop(keep);
        });
        directory
    }
}

/// Waits for a consensus that fits, for at most a minute of virtual time.
async fn until(directory: &DirectoryServer, fits: impl Fn(&Consensus) -> bool) -> Arc<Consensus> {
    let mut follow = directory.subscribe();
    let wait = async {
        loop {
            let newest = follow.borrow_and_update().newest().cloned();
            if let Some(newest) = newest.filter(|newest| fits(newest)) {
                return newest;
            }
            follow.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .expect("no such consensus")
}

#[tokio::test(start_paused = true)]
async fn authorities_and_relays_reach_a_consensus_within_seconds() {
    let mut world = World::new(3);
    let authorities: Vec<_> = (1..=3).map(|n| world.authority(n)).collect();
    let relays: Vec<_> = (10..=14).map(|n| world.relay(n)).collect();
    for directory in authorities.iter().chain(&relays) {
        let consensus = until(directory, |consensus| consensus.entries().len() == 5).await;
        assert!(consensus.relay(&identity(12)).is_some());
    }
    let took_ms = world.clock.now_ms() - START_MS;
    assert!(took_ms <= 4_000, "{took_ms} ms");
}

/// Waits for an event that fits, at most a minute of virtual time.
async fn hear(events: &mut RelayEvents, fits: impl Fn(&RelayEvent) -> bool) {
    let heard = async {
        while let Some(event) = events.next().await {
            if fits(&event) {
                return true;
            }
        }
        false
    };
    let heard = tokio::time::timeout(Duration::from_secs(60), heard).await;
    assert_eq!(heard, Ok(true), "no such event");
}

#[tokio::test(start_paused = true)]
async fn what_authorities_answer_and_a_consensus_says_is_told() {
    let mut world = World::new(3);
    let first = world.authority(1);
    let relay = world.relay(10);
    let (of_first, of_relay) = (first.events(), relay.events());
    let follow = follow_consensus(
        relay.subscribe(),
        identity(10),
        relay.clock().clone(),
        Duration::from_secs(3_600),
        of_relay.clone(),
    );
    world.tasks.spawn(follow);
    let mut of_relay = of_relay.subscribe();
    let answered = |answer: fn(&DescriptorAnswer) -> bool| move |event: &RelayEvent| matches!(event, RelayEvent::Descriptor { answer: a, .. } if answer(a));
    let unreachable = answered(|answer| matches!(answer, DescriptorAnswer::Unreachable { .. }));
    hear(&mut of_relay, unreachable).await;
    // One authority alone gets nowhere.
    let mut of_first = of_first.subscribe();
    let votes_of = |event: &RelayEvent| match event {
        RelayEvent::Authority(AuthorityEvent::NoQuorum { votes, needed, .. }) => {
            Some((*votes, *needed))
        }
        _ => None,
    };
    hear(&mut of_first, |event| votes_of(event) == Some((1, 2))).await;
    world.authority(2);
    world.authority(3);
    let stages: [fn(&AuthorityEvent) -> bool; 5] = [
        |event| matches!(event, AuthorityEvent::VoteMade { .. }),
        |event| matches!(event, AuthorityEvent::Agreed { votes, .. } if *votes >= 2),
        |event| matches!(event, AuthorityEvent::Signed { relays: 1, .. }),
        |event| matches!(event, AuthorityEvent::Complete { signatures, .. } if *signatures >= 2),
        |event| matches!(event, AuthorityEvent::Published { relays: 1, .. }),
    ];
    for is_stage in stages {
        let fits =
            |event: &RelayEvent| matches!(event, RelayEvent::Authority(event) if is_stage(event));
        hear(&mut of_first, fits).await;
    }
    hear(
        &mut of_relay,
        answered(|answer| *answer == DescriptorAnswer::Taken),
    )
    .await;
    let consensus = |event: &RelayEvent| matches!(event, RelayEvent::Consensus { relays: 1, .. });
    hear(&mut of_relay, consensus).await;
    let reachable = |event: &RelayEvent| *event == RelayEvent::Listing(Listing::Reachable);
    hear(&mut of_relay, reachable).await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_with_its_identity_off_line_is_listed_while_its_certificate_outlives_the_consensus()
{
    let mut world = World::new(1);
    let authority = world.authority(1);
    world.relay(10);
    let link = link_key(11).verifying_key().to_bytes();
    let not_after = START_MS / 1_000 + 660;
    let mut off_line = descriptor_at(11, 0);
    off_line.identity = identity(40);
    let id = world.network.network_id();
    off_line.key_cert = Some(KeyCert::new(&link_key(40), &id, link, not_after));
    world.relay_as(11, off_line);
    let consensus = until(&authority, |consensus| consensus.entries().len() == 2).await;
    assert_eq!(consensus.relay(&identity(40)).unwrap().link_key(), link);
    assert_eq!(consensus.by_link_key(&link).unwrap().identity, identity(40));
    assert!(consensus.relay(&identity(11)).is_none());
    // A consensus is valid for ten minutes here. One that is made a minute later would be valid for longer than the
    // certificate.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let consensus = until(&authority, |consensus| consensus.entries().len() == 1).await;
    assert!(consensus.lifetime().valid_until + 10 > not_after);
}

#[tokio::test(start_paused = true)]
async fn one_dead_authority_stops_nothing_and_a_dead_relay_is_dropped() {
    let mut world = World::new(3);
    let first = world.authority(1);
    world.authority(3);
    let relay = world.relay(10);
    world.relay(11);
    let both = until(&relay, |consensus| consensus.entries().len() == 2).await;
    assert!(world.clock.now_ms() - START_MS <= 4_000);
    world.board.unplug(11);
    let later = until(&first, |consensus| consensus.entries().len() == 1).await;
    assert!(later.lifetime().valid_after > both.lifetime().valid_after);
    // The authority that was dead starts, learns the relays, and takes part.
    let second = world.authority(2);
    let caught_up = until(&second, |consensus| consensus.entries().len() == 1).await;
    until(&second, |consensus| {
        consensus.lifetime().valid_after > caught_up.lifetime().valid_after + 4
    })
    .await;
}

async fn ask(server: &Arc<DirectoryServer>, request: DirRequest) -> Result<(), FetchError> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    tokio::spawn(serve_connection(far, Arc::clone(server)));
    upload(near, request, SOON).await
}

fn status(result: Result<(), FetchError>) -> u16 {
    match result {
        Ok(()) => 200,
        Err(FetchError::Refused { status, .. }) => status,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_by_status() {
    let mut world = World::new(1);
    let authority = world.authority(1);
    let cache = DirectoryServer::new(Arc::clone(&world.network), world.clock.clone(), None);
    assert_eq!(status(ask(&cache, DirRequest::consensus(None)).await), 503);
    assert_eq!(
        status(ask(&cache, DirRequest::send_signature("x")).await),
        403
    );
    assert_eq!(
        status(ask(&authority, DirRequest::publish_descriptor("x")).await),
        400
    );
    assert_eq!(
        status(ask(&authority, DirRequest::send_signature("x")).await),
        400
    );
    let huge = vec![0; MAX_DESCRIPTOR_BYTES + 1];
    assert_eq!(
        status(ask(&authority, DirRequest::publish_descriptor(huge)).await),
        413
    );
    let signed = |published: u64, bandwidth: u32| {
        let mut descriptor = descriptor_at(10, published);
        descriptor.bandwidth = bandwidth;
        let signed = descriptor
            .sign(&world.network.network_id(), &link_key(10))
            .unwrap();
        DirRequest::publish_descriptor(signed.bytes().to_vec())
    };
    let now = world.clock.now_secs();
    assert_eq!(status(ask(&authority, signed(now, 1)).await), 200);
    assert_eq!(status(ask(&authority, signed(now, 1)).await), 200);
    assert_eq!(status(ask(&authority, signed(now, 2)).await), 409);
    assert_eq!(status(ask(&authority, signed(1, 2)).await), 400);
}

#[tokio::test(start_paused = true)]
async fn a_held_consensus_is_not_sent_again() {
    let mut world = World::new(1);
    let authority = world.authority(1);
    world.relay(10);
    let held = until(&authority, |_| true).await;
    let dial = || world.board.dial(&[address(1)], identity(1).0);
    let again = fetch_consensus(
        dial().await.unwrap(),
        &world.network,
        Some(held.digest()),
        SOON,
    );
    assert!(again.await.unwrap().is_none());
    let whole = fetch_consensus(dial().await.unwrap(), &world.network, None, SOON)
        .await
        .unwrap();
    assert_eq!(whole.unwrap().bytes(), held.bytes());
    let short = fetch(dial().await.unwrap(), DirRequest::consensus(None), 10, SOON).await;
    assert!(matches!(short, Err(FetchError::TooLarge(10))));
}

#[tokio::test(start_paused = true)]
async fn slow_and_hostile_peers_are_cut_off() {
    let world = World::new(1);
    let server = DirectoryServer::new(Arc::clone(&world.network), world.clock.clone(), None);
    // The head of this request never ends.
    let (mut near, far) = tokio::io::duplex(1_024);
    tokio::spawn(serve_connection(far, Arc::clone(&server)));
    near.write_all(b"GET /cepa/1/consensus HT").await.unwrap();
    let mut rest = Vec::new();
    near.read_to_end(&mut rest).await.unwrap();
    // One head is too long, and one is not HTTP.
    for bytes in [vec![b'a'; 20_000], b"\x16\x03\x01\0\0\r\n\r\n".to_vec()] {
        let (mut near, far) = tokio::io::duplex(64 * 1_024);
        tokio::spawn(serve_connection(far, Arc::clone(&server)));
        near.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
    // The method is not served.
    let (mut near, far) = tokio::io::duplex(1_024);
    tokio::spawn(serve_connection(far, Arc::clone(&server)));
    near.write_all(b"DELETE /cepa/1/consensus HTTP/1.1\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut rest = String::new();
    near.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 404"), "{rest}");
    // This server never answers.
    let (near, _far) = tokio::io::duplex(1_024);
    let silent = fetch(near, DirRequest::consensus(None), 10, SOON).await;
    assert!(matches!(silent, Err(FetchError::Deadline)));
}

#[tokio::test(start_paused = true)]
async fn padding_is_as_long_as_the_permit_says_and_for_nobody_else() {
    let world = World::new(1);
    let (clock, events) = (world.clock.clone(), Default::default());
    let network = Arc::clone(&world.network);
    let relay = DirectoryServer::of_relay(network, clock, None, events, identity(7));
    world.board.plug(7, served_by(&relay));
    let made = world.clock.now_secs();
    let fetch = |document: Vec<u8>, bytes: u32| {
        let dial = world.dial().dial(&[address(7)], identity(7).0);
        async move {
            let io = dial.await.unwrap();
            cepa_common::net::directory::fetch_padding(io, document, bytes.into(), SOON).await
        }
    };
    let permit = |bytes: u32| {
        let permit = Permit {
            relay: identity(7),
            made,
            bytes,
            nonce: [bytes as u8; 16],
        };
        permit
            .sign(&world.network.network_id(), &signing_key(1))
            .unwrap()
    };
    assert_eq!(fetch(permit(0), 0).await.unwrap().0, 0);
    assert_eq!(
        fetch(permit(3_000_001), 3_000_001).await.unwrap().0,
        3_000_001
    );
    for (document, status) in [
        (Vec::new(), 400),
        (permit(3_000_001), 409),
        (vec![11; MAX_PERMIT_BYTES + 1], 413),
    ] {
        let error = fetch(document, 1).await.unwrap_err();
        assert!(!error.is_busy());
        assert!(matches!(error, FetchError::Refused { status: found, .. } if found == status));
    }
    // Answers that nobody reads take the places of their authority, which hears that the relay is busy.
    let mut held = Vec::new();
    for n in 10..100 {
        let document = permit(1_000_000 + n);
        let fetch = fetch(document, 1_000_000 + n);
        held.push(tokio::spawn(fetch));
    }
    let mut busy = 0;
    for fetch in held {
        busy += u32::from(matches!(fetch.await.unwrap(), Err(error) if error.is_busy()));
    }
    assert!(busy > 0);
}
