//! What a relay's owner changes while it runs: limits, the exit's policy, what the descriptor says, and an authority's
//! word about relays.

use std::sync::{Arc, Mutex};

use cepa_common::dir::RelayDescriptor;
use cepa_common::net::limit::Traffic;
use cepa_common::sync::lock;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admission::{Limits, LinkAdmission, Memory};
use crate::authority::Word;
use crate::descriptor;
use crate::exit::{ExitConnector, Outside};
use crate::options::{ExitOptions, RelayOptions, Settings};

/// What has ended when settings changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Streams to destinations that the exit's policy refuses from now on.
    pub streams: usize,
}

/// The exit, and what it lets out.
#[derive(Clone)]
pub(super) struct ExitOwner {
    /// Holds the policy.
    pub(super) outside: Arc<Outside>,
    /// Carries streams and associations.
    pub(super) connector: Arc<ExitConnector>,
}

/// The bounds of links, circuits, streams and datagrams.
#[derive(Clone)]
pub(super) struct Bounds {
    /// Bounds connections.
    pub(super) links: LinkAdmission,
    /// Bounds what queues and buffers hold.
    pub(super) memory: Arc<Memory>,
    /// Bounds what all links together move.
    pub(super) traffic: Arc<Traffic>,
    /// The exit, if the relay is one.
    pub(super) exit: Option<ExitOwner>,
}

/// What the owner has said last, as far as the relay shows it.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    /// How much of the machine the relay may take.
    pub(super) limits: Limits,
    /// Nickname of the relay.
    pub(super) nickname: String,
    /// Does the exit's policy let any stream out?
    pub(super) exits: bool,
}

impl InForce {
    /// What holds at the start.
    pub(super) fn at_start(options: &RelayOptions) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            limits: options.limits,
            nickname: options.nickname.clone(),
            exits: options.exit.as_ref().is_some_and(lets_out),
        }))
    }
}

fn lets_out(exit: &ExitOptions) -> bool {
    !exit.summaries().0.is_reject_all()
}

/// Changes the settings of a relay that runs. Clones change the same relay.
#[derive(Clone)]
pub struct Owner {
    pub(super) bounds: Bounds,
    /// What the relay says of itself, if it publishes a descriptor.
    pub(super) descriptor: Option<watch::Sender<RelayDescriptor>>,
    /// What an authority's operator says, if the relay is one.
    pub(super) word: Option<watch::Sender<Word>>,
    /// What holds now.
    pub(super) in_force: Arc<Mutex<InForce>>,
}

impl Owner {
    /// Takes other settings. What is the same as before is left alone. A limit below what there is ends what goes over
    /// it, as it does when too much comes, but for links: those stay until they end by themselves.
    pub fn set(&self, settings: Settings) -> Ended {
        let mut ended = Ended::default();
        let mut in_force = lock(&self.in_force);
        let before = std::mem::replace(&mut in_force.limits, settings.limits);
        self.set_limits(before, settings.limits);
        in_force.nickname.clone_from(&settings.nickname);
        in_force.exits = settings.exit.as_ref().is_some_and(lets_out);
        drop(in_force);
        if let (Some(owned), Some(exit)) = (&self.bounds.exit, &settings.exit)
            && owned
                .outside
                .set(exit.policy.clone(), exit.udp_policy.clone())
        {
            ended.streams = owned.connector.ask_again();
        }
        if let Some(sender) = &self.descriptor {
            sender.send_if_modified(|held| descriptor::change(held, &settings));
        }
        if let (Some(sender), Some(word)) = (&self.word, settings.word) {
            sender.send_if_modified(|held| {
                let is_other = *held != word;
                *held = word;
                is_other
            });
        }
        ended
    }

    fn set_limits(&self, before: Limits, limits: Limits) {
        let bounds = &self.bounds;
        if before.memory_bytes != limits.memory_bytes {
            bounds.memory.set_limit(limits.memory_limit());
        }
        if before.connections != limits.connections {
            bounds.links.set(limits.connections);
        }
        if before.bandwidth_kib != limits.bandwidth_kib {
            let traffic = &bounds.traffic;
            traffic.limit().set(limits.bandwidth_kib, Instant::now());
        }
        if let Some(exit) = &bounds.exit
            && before.udp_associations != limits.udp_associations
        {
            exit.connector.set_associations(limits.associations());
        }
    }
}
