//! A hostile authority's owner, who has its signing key and votes beside the authority.

use std::sync::Arc;
use std::time::Duration;

use cepa_common::dir::{Endorsement, Lifetime, Rounds, SignedVote, Vote};
use cepa_common::ids::RelayId;
use cepa_common::net::directory::offer_vote;
use cepa_common::net::establish;
use cepa_common::net::tls::Tls;
use cepa_common::world::World;
use ed25519_dalek::SigningKey;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::node::NodeKeys;
use crate::scenario::Hostility;
use crate::site::Site;

/// How long an exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A vote and the author's endorsement of it.
#[derive(Clone)]
struct Said {
    vote: Arc<SignedVote>,
    endorsement: Vec<u8>,
}

/// In each period, sends different votes to different peers, and those of the period before once more.
pub(super) async fn vote_twice(site: &Arc<Site>, node: u32, world: &World, keys: &NodeKeys) {
    let own = RelayId(keys.link.verifying_key().to_bytes());
    let network = &site.network;
    let interval = u64::from(network.params().vote_interval_seconds);
    let mut dice = site.plan.seed.dice("votes", &[u64::from(node)]);
    let mut before: Vec<Said> = Vec::new();
    let tls = Tls::client().over(world.sockets.clone());
    loop {
        let now_ms = world.clock.now_ms();
        // The next consensus whose rounds have not begun.
        let valid_after = (now_ms / 1_000 + interval / 2 + 1).next_multiple_of(interval);
        let rounds = Rounds::new(network.authorities().len(), interval, valid_after);
        let into = Duration::from_millis(dice.number(0, rounds.length_ms()));
        sleep(Duration::from_millis(rounds.start_ms().saturating_sub(now_ms)) + into).await;
        let now: Vec<Said> = (0..2)
            .filter_map(|variant| said(site, own, valid_after, &keys.signing, variant))
            .collect();
        let mut sends = JoinSet::new();
        let peers = network
            .authorities()
            .iter()
            .filter(|peer| peer.identity != own);
        for (place, peer) in peers.enumerate() {
            let old = before.iter().filter(|_| dice.number(0, 1) == 0);
            let all: Vec<Said> = now
                .iter()
                .skip(place % 2)
                .take(1)
                .chain(old)
                .cloned()
                .collect();
            let (tls, peer, sight) = (tls.clone(), peer.clone(), site.sight.clone());
            sends.spawn(async move {
                for said in all {
                    let io = establish::dial_http(&peer.addresses, peer.identity.0, &tls).await;
                    let Ok(io) = io else { return };
                    let vote = said.vote.shared_bytes();
                    let digest = said.vote.digest();
                    // What an honest authority answers is its affair.
                    let endorsement = said.endorsement.into();
                    let _ = offer_vote(io, endorsement, digest, Some(vote), PATIENCE).await;
                    sight.misdeeds(Hostility::VoteTwice, 1);
                }
            });
        }
        while sends.join_next().await.is_some() {}
        before = now;
    }
}

/// One of several votes for one time, each for another parameter and for no relay.
fn said(
    site: &Site,
    own: RelayId,
    valid_after: u64,
    key: &SigningKey,
    variant: u32,
) -> Option<Said> {
    let network = &site.network;
    let vote = Vote {
        authority: own,
        lifetime: Lifetime::of(&network.params(), valid_after),
        params: [("circuit_window_cells".to_owned(), 9_000 + variant)].into(),
        entries: Vec::new(),
        values: Vec::new(),
        shares: Vec::new(),
    };
    let vote = vote.sign(network, key).ok()?;
    let endorsement = Endorsement::of_vote(&vote, network, key).ok()?;
    Some(Said {
        endorsement: endorsement.to_bytes().ok()?,
        vote: Arc::new(vote),
    })
}
