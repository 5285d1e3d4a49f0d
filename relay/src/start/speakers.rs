//! The fifth step: all that speaks to authorities and to other directories.

use std::sync::Arc;
use std::time::Duration;

use cepa_common::dir::RelayDescriptor;
use cepa_common::ids::RelayId;
use cepa_common::net::directory::{Asker, Dial, Reviser, RevisionStore, revise};
use cepa_common::net::tasks::Tasks;
use cepa_common::net::tls::Tls;
use cepa_common::world::Disk;
use tokio::sync::watch;

use super::directory::Directory;
use super::ground::Ground;
use super::keys::Keys;
use crate::authority::{
    self, AuthorityHandle, AuthorityQueue, AuthorityTask, FileSigningRecord, KnowledgeOptions,
    Probe, ProbeFuture, ReachabilityProbe, Word, follow_voting_key,
};
use crate::circuit::{Prober, Reached};
use crate::descriptor::own_descriptor;
use crate::directory::{DirectoryServer, Publisher, Refresher, publish, refresh};
use crate::events::{AuthorityFailure, ClockWatch, RelayEvent, follow_consensus};
use crate::options::{AuthorityOptions, RelayOptions};

/// An authority's look at relays: links and circuits, as those who use a relay open them.
struct LinkProbe(Arc<Prober>);

impl ReachabilityProbe for LinkProbe {
    fn probe(&self, probe: &Probe) -> ProbeFuture {
        let prober = self.0.clone();
        let at = Reached {
            relay: probe.identity,
            link_key: probe.link_key,
            onion: probe.onion,
            addresses: probe.addresses.clone(),
        };
        Box::pin(async move { prober.is_running(at).await })
    }
}

/// Starts the tasks that speak to authorities.
pub(super) struct Speakers {
    identity: RelayId,
    directory: Arc<DirectoryServer>,
    dial: Arc<dyn Dial>,
    tls: Tls,
    disk: Disk,
    tasks: Tasks,
    prober: Arc<Prober>,
}

impl Speakers {
    /// Those who speak for the relay on `ground`, about what `directory` holds.
    pub(super) fn new(ground: &Ground, directory: &Directory, prober: Arc<Prober>) -> Self {
        Self {
            identity: ground.identity,
            directory: directory.server.clone(),
            dial: Arc::new(ground.tls.clone()),
            tls: ground.tls.clone(),
            disk: ground.disk.clone(),
            tasks: ground.sources.tasks.clone(),
            prober,
        }
    }

    /// Starts what fetches and makes consensuses, and what notices later revisions of the network's file. `queue` has
    /// what comes for the authority, if this relay is one.
    ///
    /// Returns what changes the authority's word about relays.
    pub(super) fn start(
        &self,
        options: &RelayOptions,
        queue: Option<AuthorityQueue>,
    ) -> Option<watch::Sender<Word>> {
        let authority = options.authority.as_ref().zip(queue);
        let word = authority.map(|(options, queue)| self.start_authority(options, queue));
        self.start_refresher();
        self.start_reviser(options);
        let watch = ClockWatch {
            network: self.directory.networks().clone(),
            own: self.identity,
            tls: self.tls.clone(),
            clock: self.directory.clock().clone(),
            events: self.directory.events().clone(),
        };
        self.tasks.spawn(watch.run());
        let interval = self.directory.network().params().vote_interval_seconds;
        self.tasks.spawn(follow_consensus(
            self.directory.subscribe(),
            self.identity,
            self.directory.clock().clone(),
            Duration::from_secs(interval.into()),
            self.directory.events().clone(),
        ));
        word
    }

    /// Publishes the relay's descriptor, if its owner wants that, and returns what changes the descriptor.
    pub(super) fn publish(
        &self,
        options: &RelayOptions,
        keys: &Keys,
        ground: &Ground,
        authority: Option<AuthorityHandle>,
    ) -> Option<watch::Sender<RelayDescriptor>> {
        let onion = keys.newest().filter(|_| options.publish)?;
        let events = &ground.events;
        let family = options.identity.family(&options.network.network_id());
        let family = family.unwrap_or_else(|error| {
            let reason = error.to_string();
            events.report(RelayEvent::OwnersFile { reason });
            None
        });
        events.report(RelayEvent::Family {
            is_member: family.is_some(),
        });
        let now = options.world.clock.now_secs();
        let descriptor = own_descriptor(options, onion, ground.local_addr, now, family);
        Some(self.start_publisher(options, descriptor, authority))
    }

    /// Starts this authority's periods.
    fn start_authority(
        &self,
        options: &AuthorityOptions,
        queue: AuthorityQueue,
    ) -> watch::Sender<Word> {
        let (sender, word) = watch::channel(Word {
            rules: options.rules.clone(),
            mib_per_hour: options.measure.as_ref().map_or(0, |it| it.mib_per_hour),
        });
        let renewals = options.signing_key_file.clone().map(|file| {
            let (sender, receiver) = watch::channel(options.signing_key.clone());
            let clock = self.directory.clock().clone();
            let events = self.directory.events().clone();
            let follow = follow_voting_key(file, clock, sender, events);
            self.tasks.spawn(follow);
            receiver
        });
        let task = AuthorityTask {
            identity: self.identity,
            signing_key: options.signing_key.clone(),
            renewals,
            word: Some(word),
            params: Default::default(),
            dial: self.dial.clone(),
            probe: Some(Arc::new(LinkProbe(self.prober.clone()))),
            seat: self.directory.seat(),
            record: Arc::new(FileSigningRecord::new(
                &self.disk,
                options.state_dir.join("signed"),
            )),
            knowledge: KnowledgeOptions {
                disk: self.disk.clone(),
                file: Some(options.state_dir.join("relays")),
                rules: options.rules.clone(),
                measure: options.measure.clone(),
            },
        };
        self.tasks.spawn(async move {
            let events = task.seat.events.clone();
            if let Err(error) = authority::run(task, queue).await {
                events.report(AuthorityFailure::RecordLost.because(&error));
            }
        });
        sender
    }

    /// Starts the task that fetches the newest consensus.
    fn start_refresher(&self) {
        self.tasks.spawn(refresh(Refresher {
            server: self.directory.clone(),
            dial: self.dial.clone(),
            identity: self.identity,
        }));
    }

    /// Starts the task that publishes the relay's descriptor, and returns what changes the descriptor.
    fn start_publisher(
        &self,
        options: &RelayOptions,
        descriptor: RelayDescriptor,
        authority: Option<AuthorityHandle>,
    ) -> watch::Sender<RelayDescriptor> {
        let (sender, receiver) = watch::channel(descriptor);
        self.tasks.spawn(publish(Publisher {
            network: self.directory.networks().clone(),
            clock: self.directory.clock().clone(),
            dial: self.dial.clone(),
            key: options.identity.link_key().clone(),
            descriptor: receiver,
            consensus: self.directory.subscribe(),
            local: authority.map(|handle| (self.identity, handle)),
            events: self.directory.events().clone(),
        }));
        sender
    }

    /// Starts the task that notices later revisions of the network's file, and keeps them beside the other directory
    /// documents.
    fn start_reviser(&self, options: &RelayOptions) {
        let directory = self.directory.clone();
        self.tasks.spawn(revise(Reviser {
            network: self.directory.networks().clone(),
            dial: self.dial.clone(),
            clock: self.directory.clock().clone(),
            consensus: Box::new(move || directory.snapshot().newest().cloned()),
            asker: Asker::Relay,
            store: Some(RevisionStore::new(
                &self.disk,
                &options.cache_dir,
                &self.directory.network().network_id(),
            )),
            file: options.network_file.clone(),
            disk: self.disk.clone(),
            tell: Box::new({
                let events = self.directory.events().clone();
                move |news| events.report(RelayEvent::Revision(news))
            }),
        }));
    }
}
