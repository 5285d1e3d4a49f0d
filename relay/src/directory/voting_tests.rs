use cepa_common::dir::{Endorsement, EquivocationProof, MAX_CONSENSUS_BYTES, SignedVote, Vote};
use cepa_common::net::directory::{DirResponse, offer_vote};

use super::*;

/// A vote of authority `n` for this valid-after.
fn vote(network: &NetworkFile, n: u8, valid_after: u64, param: u32) -> SignedVote {
    let vote = Vote {
        authority: identity(n),
        lifetime: lifetime(valid_after),
        params: [("circuit_window_cells".to_owned(), param)].into(),
        entries: Vec::new(),
        values: Vec::new(),
        shares: Vec::new(),
    };
    vote.sign(network, &signing_key(n)).unwrap()
}

async fn offer(
    server: &Arc<DirectoryServer>,
    network: &NetworkFile,
    endorsed: &SignedVote,
    sent: &SignedVote,
) -> Result<(), FetchError> {
    let key = signing_key(2);
    let endorsement = Endorsement::of_vote(endorsed, network, &key).unwrap();
    let (near, far) = tokio::io::duplex(16 * 1024);
    tokio::spawn(serve_connection(far, Arc::clone(server)));
    let bytes = endorsement.to_bytes().unwrap().into();
    offer_vote(
        near,
        bytes,
        endorsed.digest(),
        Some(sent.shared_bytes()),
        SOON,
    )
    .await
}

/// The bytes that a server answers to a request as it stands.
async fn raw(server: &Arc<DirectoryServer>, request: String) -> Vec<u8> {
    let (mut near, far) = tokio::io::duplex(16 * 1024);
    tokio::spawn(serve_connection(far, Arc::clone(server)));
    near.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    answer
}

#[tokio::test(start_paused = true)]
async fn a_vote_is_taken_only_when_it_was_endorsed_and_is_the_one() {
    let mut world = World::new(3);
    let network = Arc::clone(&world.network);
    let authority = world.authority(1);
    // The first round of 250 ms begins a second before valid-after.
    let valid_after = START_MS / 1_000 + 2;
    tokio::time::sleep(Duration::from_millis(750)).await;
    let (one, two) = (
        vote(&network, 2, valid_after, 600),
        vote(&network, 2, valid_after, 700),
    );
    // These are refused: a vote that is not endorsed, one with no digest, garbage, one of another period, another vote
    // than was endorsed.
    let head = "HTTP/1.1\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx";
    let unasked = raw(
        &authority,
        format!("POST /cepa/1/vote/{} {head}", one.digest()),
    )
    .await;
    assert!(unasked.starts_with(b"HTTP/1.1 409"));
    let nameless = raw(&authority, format!("POST /cepa/1/vote/soup {head}")).await;
    assert!(nameless.starts_with(b"HTTP/1.1 404"));
    let soup = raw(&authority, format!("POST /cepa/1/endorsement {head}")).await;
    assert!(soup.starts_with(b"HTTP/1.1 400"));
    let old = vote(&network, 2, valid_after - 2, 600);
    assert_eq!(status(offer(&authority, &network, &old, &old).await), 409);
    assert_eq!(status(offer(&authority, &network, &one, &two).await), 400);
    // The endorsed vote is accepted, and so is the same one again.
    assert_eq!(status(offer(&authority, &network, &one, &one).await), 200);
    assert_eq!(status(offer(&authority, &network, &one, &one).await), 200);
    let none = raw(
        &authority,
        format!("GET /cepa/1/proof/{valid_after} HTTP/1.1\r\nconnection: close\r\n\r\n"),
    )
    .await;
    assert!(none.starts_with(b"HTTP/1.1 404"));
    // A second vote makes a proof.
    assert_eq!(status(offer(&authority, &network, &two, &two).await), 200);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let proof = raw(
        &authority,
        format!("GET /cepa/1/proof/{valid_after} HTTP/1.1\r\nconnection: close\r\n\r\n"),
    )
    .await;
    let body = proof.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let proofs = EquivocationProof::parse_and_verify(&proof[body..], &network).unwrap();
    assert_eq!(proofs.len(), 1);
    assert_eq!(proofs[0].author(), identity(2));
    // In the second round one signature is too few.
    tokio::time::sleep(Duration::from_millis(250)).await;
    let three = vote(&network, 3, valid_after, 600);
    let late = Endorsement::of_vote(&three, &network, &signing_key(3)).unwrap();
    let (near, far) = tokio::io::duplex(16 * 1024);
    tokio::spawn(serve_connection(far, Arc::clone(&authority)));
    let late = late.to_bytes().unwrap().into();
    let late = offer_vote(near, late, three.digest(), None, SOON).await;
    assert_eq!(status(late), 409);
    // A relay that is no authority takes no vote.
    let cache = world.relay(20);
    assert_eq!(status(offer(&cache, &network, &one, &one).await), 403);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_fetches_at_once_do_not_delay_a_vote() {
    let mut world = World::new(3);
    let authorities: Vec<_> = (1..=3).map(|n| world.authority(n)).collect();
    (10..=13).for_each(|n| drop(world.relay(n)));
    let first = until(&authorities[0], |consensus| consensus.entries().len() == 4).await;
    let mut follow = authorities[0].subscribe();
    follow.borrow_and_update();
    let mut newest = first.lifetime().valid_after;
    for _ in 0..3 {
        // Relays fetch from before the first round on, and again as soon as they are answered, until the consensus is
        // there.
        let mut fetches = JoinSet::new();
        let fetched = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        for n in 0..1_000u16 {
            let (server, fetched) = (Arc::clone(&authorities[0]), Arc::clone(&fetched));
            fetches.spawn(async move {
                loop {
                    let (near, far) = tokio::io::duplex(1_024);
                    tokio::spawn(serve_connection(far, Arc::clone(&server)));
                    let request = DirRequest::consensus(None);
                    let answer = fetch(near, request, MAX_CONSENSUS_BYTES, SOON).await;
                    match answer {
                        Ok(DirResponse::Ok(_)) => {}
                        // The request exceeds what the server serves at once.
                        Err(FetchError::Refused { status: 503, .. }) => {}
                        other => panic!("{n}: {other:?}"),
                    }
                    fetched.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(400)).await;
                }
            });
        }
        follow.changed().await.unwrap();
        let held = follow.borrow_and_update().newest().cloned().unwrap();
        assert_eq!(held.lifetime().valid_after, newest + 2);
        newest += 2;
        // The consensus is in time: hardly later than valid-after, with the votes and signatures of all.
        let late_ms = world.clock.now_ms() - newest * 1_000;
        assert!(late_ms < 100, "{late_ms}");
        assert_eq!(held.signature_count(), 3);
        assert!(fetched.load(std::sync::atomic::Ordering::Relaxed) >= 2_000);
        fetches.abort_all();
    }
}
