//! A hostile relay's owner, who asks others for more than they can give.

use core::convert::Infallible;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cepa_common::cell::CELL_LEN;
use cepa_common::cell::codec::{self, CREATE_LEN, Head, LinkCommand};
use cepa_common::dir::Entry;
use cepa_common::handshake::{ClientHandshake, ClientParams, HandshakeContext, OnionPublicKey};
use cepa_common::ids::CircId;
use cepa_common::net::directory::fetch_consensus;
use cepa_common::net::establish::{self, NewLink};
use cepa_common::net::tls::Tls;
use cepa_common::world::{World, random};
use tokio::time::{Instant, sleep, timeout};

use crate::node::{self, NodeKeys};
use crate::scenario::Hostility;
use crate::site::Site;

/// How long one victim is flooded.
const EACH: Duration = Duration::from_secs(15);
/// The wait between two batches on one link.
const PAUSE: Duration = Duration::from_millis(250);
/// CREATEs of a batch on one of four links: more than a relay lets wait of one link.
const CREATES: u32 = 400;
/// Of so many CREATEs one can be answered; the others are garbage, and as long.
const GOOD_ONE_IN: u32 = 8;
/// PADDING cells of a batch.
const PADDINGS: usize = 128;
/// Silent connections of a batch, and how many are held at once.
const CONNECTIONS: (usize, usize) = (50, 600);
/// How long an answer of an authority may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Floods honest relays, one after the other, for as long as the task is let live.
pub(super) async fn flood(site: &Arc<Site>, node: u32, world: &World, how: Hostility) {
    let mut dice = site.plan.seed.dice("flood", &[u64::from(node)]);
    let victims: Vec<_> = site.plan.honest_relays().collect();
    let tls = Tls::client().over(world.sockets.clone());
    while let Some(victim) = dice.one_of(&victims) {
        let address = SocketAddr::new(victim.address, node::PORT);
        let key = NodeKeys::of(site.plan.seed, victim.number);
        let key = key.link.verifying_key().to_bytes();
        let flooded = async {
            match how {
                Hostility::FloodLinks => silent(site, world, address).await,
                Hostility::FloodPadding => padding(site, &tls, address, key).await,
                _ => {
                    // A link's way holds no more bytes than it does, so one link alone is no flood.
                    let flood = || Box::pin(creates(site, &tls, address, key));
                    tokio::join!(flood(), flood(), flood(), flood()).0
                }
            }
        };
        // A victim that throws the peer out has another one come.
        let _ = timeout(EACH, Box::pin(flooded)).await;
        sleep(PAUSE).await;
    }
}

async fn link(site: &Site, tls: &Tls, address: SocketAddr, key: [u8; 32]) -> Option<NewLink> {
    let network = site.network.network_id();
    let link = establish::dial_link(&[address], key, tls, network, 0).await;
    link.ok()
}

/// Opens connections that say nothing.
async fn silent(site: &Site, world: &World, address: SocketAddr) -> Option<Infallible> {
    let mut open = Vec::new();
    loop {
        for _ in 0..CONNECTIONS.0 {
            open.push(world.sockets.connect(address).await.ok()?);
            site.sight.misdeeds(Hostility::FloodLinks, 1);
        }
        let over = open.len().saturating_sub(CONNECTIONS.1);
        open.drain(..over);
        sleep(PAUSE).await;
    }
}

/// Reads what has come and forgets it. `None` if the far side has gone.
fn hear(link: &mut NewLink, plain: &mut Vec<u8>) -> Option<()> {
    while let Some(read) = link.io.try_read(plain).ok()? {
        if read == 0 {
            return None;
        }
    }
    Some(())
}

async fn padding(site: &Site, tls: &Tls, address: SocketAddr, key: [u8; 32]) -> Option<Infallible> {
    let mut link = link(site, tls, address, key).await?;
    let mut cell = [0; CELL_LEN];
    codec::write_link_head(&mut cell, LinkCommand::Padding);
    let batch = cell.repeat(PADDINGS);
    loop {
        link.io.flush().await.ok()?;
        link.io.write(&batch).ok()?;
        site.sight.misdeeds(
            Hostility::FloodPadding,
            u64::try_from(PADDINGS).unwrap_or(0),
        );
        hear(&mut link, &mut Vec::new())?;
        sleep(PAUSE).await;
    }
}

/// The relay as the newest consensus lists it.
async fn listed(site: &Site, tls: &Tls, key: [u8; 32]) -> Option<Entry> {
    for authority in site.network.authorities() {
        let io = establish::dial_http(&authority.addresses, authority.identity.0, tls).await;
        let Ok(io) = io else { continue };
        if let Ok(Some(consensus)) = fetch_consensus(io, &site.network, None, PATIENCE).await {
            let mut entries = consensus.entries().iter();
            return entries.find(|entry| entry.link_key() == key).cloned();
        }
    }
    None
}

async fn creates(site: &Site, tls: &Tls, address: SocketAddr, key: [u8; 32]) -> Option<Infallible> {
    let entry = listed(site, tls, key).await?;
    let context = HandshakeContext {
        network: site.network.network_id(),
        relay: entry.identity,
        onion: OnionPublicKey {
            suite: entry.suite,
            key: entry.onion_key,
        },
    };
    let params = ClientParams::default();
    let (_, good) = ClientHandshake::start(&context, params, &mut random::rng()).ok()?;
    let garbage = [7; CREATE_LEN];
    let mut link = link(site, tls, address, key).await?;
    let (mut number, mut plain, mut open) = (0, Vec::new(), BTreeSet::new());
    let until = Instant::now() + EACH;
    while Instant::now() < until {
        let mut batch = Vec::new();
        for _ in 0..CREATES {
            number += 1;
            let is_good = number % GOOD_ONE_IN == 0;
            let circ = CircId::new(CircId::DIALLER_BIT | number)?;
            open.insert(circ);
            batch.extend(codec::create(circ, if is_good { &good } else { &garbage }));
        }
        link.io.flush().await.ok()?;
        link.io.write(&batch).ok()?;
        site.sight
            .misdeeds(Hostility::FloodCreate, u64::from(CREATES));
        sleep(PAUSE).await;
        hear(&mut link, &mut plain)?;
        // What has been answered is let go, as the rules want it: the flood lasts.
        let whole = plain.len() - plain.len() % CELL_LEN;
        let answers: Vec<u8> = plain.drain(..whole).collect();
        let mut over = Vec::new();
        for cell in answers.as_chunks::<CELL_LEN>().0 {
            // A second DESTROY answers that a circuit was let go.
            if let Ok(Head::Circuit(circ, _)) = codec::head(cell)
                && open.remove(&circ)
            {
                over.extend(codec::destroy(circ, codec::DestroyReason::Finished));
            }
        }
        link.io.flush().await.ok()?;
        link.io.write(&over).ok()?;
    }
    None
}
