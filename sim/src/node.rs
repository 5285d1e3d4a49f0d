//! One node of a run: how it lives from its start to its end, and what it tells of itself meanwhile.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use cepa_client::{Client, ClientEvent, ClientOptions};
use cepa_common::dir::{AuthorityEntry, ExitPolicy, NetworkDraft, NetworkFile};
use cepa_common::ids::RelayId;
use cepa_common::net::directory::NetworkHandle;
use cepa_common::state::{StateDir, StateError, Trust};
use cepa_common::world::World;
use cepa_relay::authority::{OperatorList, OperatorRules};
use cepa_relay::keys::RelayIdentity;
use cepa_relay::keys::ring::OnionKeyOptions;
use cepa_relay::{
    AuthorityEvent, AuthorityOptions, ExitOptions, Limits, Listing, Relay, RelayError, RelayEvent,
    RelayOptions, Workers,
};
use ed25519_dalek::SigningKey;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, interval, sleep_until};

use crate::load::{Job, JobKind};
use crate::looks::Looks;
use crate::plan::{NodePlan, Plan, Role};
use crate::scenario::Hostility;
use crate::seed::Seed;
use crate::sight::{Invariant, JobEnd};
use crate::site::Site;
use crate::user;

/// The port of every relay and authority.
pub(crate) const PORT: u16 = 9_400;
/// The state directory of every node, on its own disk.
const STATE: &str = "/state";
/// What the public-key work of one handshake takes (virtual time).
const HANDSHAKE: Duration = Duration::from_micros(140);
/// The connections that a relay accepts.
const CONNECTIONS: u32 = 1_000;
/// How often a node is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// What a relay may hold over its memory limit, for the moment until circuits have ended: a tenth.
const OVER: u64 = 10;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The relay does not start.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The exit policy of simulated exits is wrong.
    #[error("{0}")]
    Policy(String),
}

fn link_key(seed: Seed, node: u32) -> SigningKey {
    SigningKey::from_bytes(&seed.key("link key", &[u64::from(node)]))
}

/// The secrets of a node that is an authority too.
pub(crate) struct NodeKeys {
    /// What its links show.
    pub(crate) link: SigningKey,
    /// What signs an authority's votes.
    pub(crate) signing: SigningKey,
}

impl NodeKeys {
    /// The keys of node number `node`.
    pub(crate) fn of(seed: Seed, node: u32) -> Self {
        Self {
            link: link_key(seed, node),
            signing: signing_key(seed, node),
        }
    }
}

fn signing_key(seed: Seed, node: u32) -> SigningKey {
    SigningKey::from_bytes(&seed.key("signing key", &[u64::from(node)]))
}

/// The network of the plan's authorities, signed by all of them.
///
/// # Errors
/// What is wrong with the network, as its parameters may be.
pub(crate) fn found(plan: &Plan) -> Result<NetworkFile, String> {
    let authorities: Vec<&NodePlan> = plan
        .nodes
        .iter()
        .filter(|node| node.role == Role::Authority)
        .collect();
    let entry = |node: &&NodePlan| AuthorityEntry {
        name: node.name.clone(),
        identity: RelayId(link_key(plan.seed, node.number).verifying_key().to_bytes()),
        signing_key: signing_key(plan.seed, node.number)
            .verifying_key()
            .to_bytes(),
        addresses: vec![(node.address, PORT).into()],
    };
    let entries = authorities.iter().map(entry).collect();
    let mut draft = NetworkDraft::new("simulated", entries, plan.params.clone());
    for node in authorities {
        let signed = draft.sign(&signing_key(plan.seed, node.number));
        signed.map_err(|error| error.to_string())?;
    }
    draft.finish().map_err(|error| error.to_string())
}

fn relay_options(site: &Site, node: &NodePlan, world: World) -> Result<RelayOptions, NodeError> {
    let state = StateDir::open(&world.disk, Path::new(STATE), Trust::OwnerOnly)?;
    let authority = match node.role {
        Role::Authority => Some(AuthorityOptions {
            signing_key: signing_key(site.plan.seed, node.number).into(),
            signing_key_file: None,
            state_dir: state.room("authority")?,
            rules: rules(site, node),
            measure: None,
        }),
        Role::Relay | Role::Exit | Role::Client => None,
    };
    let exit = match node.role {
        Role::Exit => {
            let all = ExitPolicy::from_rules(["accept *:*"])
                .map_err(|error| NodeError::Policy(error.to_string()))?;
            Some(ExitOptions {
                policy: all.clone(),
                udp_policy: all,
                resolver: None,
            })
        }
        Role::Authority | Role::Relay | Role::Client => None,
    };
    Ok(RelayOptions {
        network: NetworkHandle::from(site.network.clone()),
        network_file: None,
        identity: RelayIdentity::on_line(link_key(site.plan.seed, node.number)),
        onion_keys: OnionKeyOptions {
            dir: state.room("keys")?,
            trust: Trust::OwnerOnly,
            suite: site.plan.suite,
        },
        listen: (node.address, PORT).into(),
        advertised: Vec::new(),
        nickname: node.name.replace('-', ""),
        publish: true,
        claim_kib: None,
        exit,
        authority,
        workers: Workers::Tasks {
            number: 1,
            each: HANDSHAKE,
        },
        world,
        cache_dir: state.room("directory")?,
        limits: Limits {
            memory_bytes: memory_bytes(site),
            connections: CONNECTIONS,
            bandwidth_kib: 0,
            udp_associations: 4_096,
        },
    })
}

/// The rules of an authority: none, unless it lies. A liar does not know of every second relay.
fn rules(site: &Site, node: &NodePlan) -> OperatorRules {
    if site.plan.hostility(node.number, site.sight.now()) != Some(Hostility::Lie) {
        return OperatorRules::default();
    }
    site.sight.misdeeds(Hostility::Lie, 1);
    let relays = site.plan.nodes.iter().filter(|other| other.number % 2 == 0);
    let unknown: Vec<String> = relays.map(|other| other.address.to_string()).collect();
    OperatorRules {
        // An address is an item of a list.
        reject: OperatorList::parse(unknown.iter().map(String::as_str)).unwrap_or_default(),
        ..OperatorRules::default()
    }
}

fn memory_bytes(site: &Site) -> u64 {
    u64::from(site.plan.memory_mib) << 20
}

/// What a node is told while it lives.
pub(crate) struct Orders {
    /// Ends the node in good order.
    pub(crate) stop: oneshot::Receiver<()>,
    /// Jobs beside those of the plan.
    pub(crate) jobs: mpsc::Receiver<Job>,
}

/// Lives until the node is told to stop. Whoever aborts the task kills the node.
///
/// # Errors
/// [`NodeError`] if the node does not start.
pub(crate) async fn live(
    site: Arc<Site>,
    node: NodePlan,
    world: World,
    orders: Orders,
) -> Result<(), NodeError> {
    match node.role {
        Role::Client => Box::pin(client(site, node, world, orders)).await,
        Role::Authority | Role::Relay | Role::Exit => {
            Box::pin(relay(site, node, world, orders)).await
        }
    }
}

async fn relay(
    site: Arc<Site>,
    node: NodePlan,
    world: World,
    orders: Orders,
) -> Result<(), NodeError> {
    let relay = Relay::start(relay_options(&site, &node, world)?).await?;
    let mut events = relay.events();
    let mut stop = orders.stop;
    let mut look = interval(LOOK);
    loop {
        tokio::select! {
            biased;
            _ = &mut stop => break,
            _ = look.tick() => {
                weigh(&site, &node, relay.held_bytes());
                let now = site.sight.now();
                if let Some(measured) = &mut site.sight.seen().measured {
                    measured.loads.push((now, node.number, relay.load()));
                }
            }
            event = events.next() => match event {
                Some(event) => hear(&site, &node, &event),
                None => break,
            }
        }
    }
    relay.shutdown().await;
    Ok(())
}

/// Looks at what a relay holds.
fn weigh(site: &Site, node: &NodePlan, held: usize) {
    let (held, limit) = (u64::try_from(held).unwrap_or(u64::MAX), memory_bytes(site));
    if held > limit + limit / OVER {
        let what = format!("{} holds {held} bytes of {limit}", node.name);
        site.sight
            .violation(Invariant::Bounds, vec![node.number], what);
    }
}

/// Takes what a relay tells.
fn hear(site: &Site, node: &NodePlan, event: &RelayEvent) {
    let sight = &site.sight;
    tracing::debug!(target: "cepa_sim", "{event}");
    match event {
        RelayEvent::Consensus { valid_after, .. } => sight.newest(node.number, *valid_after),
        RelayEvent::Listing(listing) => {
            sight.listing(&node.name, *listing == Listing::Reachable);
        }
        RelayEvent::TwoConsensuses(conflict) => {
            sight.violation(
                Invariant::OneConsensus,
                vec![node.number],
                format!("{conflict:?}"),
            );
        }
        RelayEvent::Authority(AuthorityEvent::VotedTwice { authority, .. }) => {
            if let Some(honest) = site.plan.votes_once(authority) {
                let what = format!("{event}");
                sight.violation(Invariant::OneVote, vec![honest, node.number], what);
            }
        }
        _ => {}
    }
}

async fn client(
    site: Arc<Site>,
    node: NodePlan,
    world: World,
    orders: Orders,
) -> Result<(), NodeError> {
    let state = StateDir::open(&world.disk, Path::new(STATE), Trust::OwnerOnly)?;
    let room = state.room("client")?;
    let mut looks = Looks::new(&site, node.number, &world.disk, &room);
    let options = ClientOptions {
        state_dir: Some(room),
        world,
        multipath: site.plan.multipath,
        ..ClientOptions::new(site.network.clone())
    };
    let (client, mut events) = Client::start(options).await;
    let Orders {
        mut stop,
        jobs: mut more,
    } = orders;
    let now = site.sight.now();
    let mut jobs: VecDeque<Job> = node
        .jobs
        .iter()
        .copied()
        .filter(|job| job.at >= now)
        .collect();
    let mut users = JoinSet::new();
    let mut look = interval(LOOK);
    loop {
        let next = jobs
            .front()
            .map(|job| Instant::now() + job.at.saturating_sub(site.sight.now()));
        let due = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => core::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = &mut stop => break,
            () = due => {
                if let Some(job) = jobs.pop_front() {
                    users.spawn(user::work(site.clone(), node.number, client.clone(), job));
                }
            }
            Some(job) = more.recv() => {
                users.spawn(user::work(site.clone(), node.number, client.isolated(), job));
            }
            Some(done) = users.join_next() => {
                if let Ok(end) = done {
                    ended(&site, end);
                }
            }
            _ = look.tick() => looks.see(&client),
            event = events.next() => match event {
                Some(event) => tell(&event),
                None => break,
            }
        }
    }
    users.shutdown().await;
    client.shutdown().await;
    Ok(())
}

fn tell(event: &ClientEvent) {
    // Each part of a consensus that comes in is an event of its own.
    if !matches!(event, ClientEvent::Receiving { .. }) {
        tracing::debug!(target: "cepa_sim", "{event}");
    }
}

fn ended(site: &Site, end: JobEnd) {
    if end.kind == JobKind::Last {
        tracing::debug!(target: "cepa_sim", is_done = end.is_done, "the last page");
    }
    site.sight.seen().jobs.push(end);
}
