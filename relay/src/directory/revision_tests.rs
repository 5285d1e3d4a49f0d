//! Tests of authorities that change while a network goes on, on virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use cepa_common::dir::{Consensus, NetworkDraft, NetworkFile};
use cepa_common::net::directory::{
    Asker, Dial, DirRequest, DirResponse, FetchError, Reviser, fetch, revise,
};
use cepa_common::testkit::*;
use cepa_common::world::{Clock, Disk};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::tests::served_by;
use super::{DirectoryServer, Publisher, Refresher, publish, refresh};
use crate::RelayEvent;
use crate::authority::{
    AuthorityTask, MemorySigningRecord, ReachabilityProbe, authority_queue, run,
};

const START_MS: u64 = 1_900_000_000_300;
/// The valid-after from which the revision counts.
const CHANGE: u64 = 1_900_000_012;

/// The next revision: authority 1 leaves, authority 4 comes, and all authorities that the revision names have signed.
fn next(founding: &NetworkFile) -> NetworkFile {
    let mut authorities = founding.authorities().to_vec();
    authorities.retain(|authority| authority.identity != identity(1));
    authorities.push(authority(4));
    let mut draft = NetworkDraft::revise(founding, CHANGE).with_authorities(authorities);
    for n in [2, 3, 4] {
        draft.sign(&signing_key(n)).unwrap();
    }
    draft.finish().unwrap()
}

struct World {
    clock: Clock,
    board: Switchboard,
    tasks: JoinSet<()>,
}

impl World {
    fn dial(&self) -> Arc<dyn Dial> {
        Arc::new(self.board.clone())
    }

    /// A directory that holds `file`, fetches consensuses, and looks for later revisions.
    fn start(&mut self, n: u8, file: &NetworkFile, is_authority: bool) -> Arc<DirectoryServer> {
        let (handle, queue) = authority_queue();
        let handle = is_authority.then_some(handle);
        let server = DirectoryServer::new(file.clone(), self.clock.clone(), handle);
        self.board.plug(n, served_by(&server));
        if is_authority {
            let probe: Arc<dyn ReachabilityProbe> = Arc::new(Arc::new(self.board.clone()));
            let task = AuthorityTask {
                identity: identity(n),
                signing_key: signing_key(n).into(),
                renewals: None,
                word: None,
                params: BTreeMap::new(),
                dial: self.dial(),
                probe: Some(probe),
                seat: server.seat(),
                record: Arc::new(MemorySigningRecord::default()),
                knowledge: Default::default(),
            };
            self.tasks
                .spawn(async move { run(task, queue).await.unwrap() });
        }
        self.tasks.spawn(refresh(Refresher {
            server: Arc::clone(&server),
            dial: self.dial(),
            identity: identity(n),
        }));
        let store = Arc::clone(&server);
        self.tasks.spawn(revise(Reviser {
            network: server.networks().clone(),
            dial: self.dial(),
            clock: self.clock.clone(),
            consensus: Box::new(move || store.snapshot().newest().cloned()),
            asker: Asker::Relay,
            store: None,
            file: None,
            disk: Disk::Real,
            tell: Box::new({
                let events = server.events().clone();
                move |news| events.report(RelayEvent::Revision(news))
            }),
        }));
        server
    }

    fn publish(&mut self, n: u8, server: &Arc<DirectoryServer>) {
        let (keep, descriptor) = watch::channel(descriptor_at(n, 0));
        let publisher = Publisher {
            network: server.networks().clone(),
            clock: self.clock.clone(),
            dial: self.dial(),
            key: link_key(n),
            descriptor,
            consensus: server.subscribe(),
            local: None,
            events: server.events().clone(),
        };
        self.tasks.spawn(async move {
            publish(publisher).await;
            drop(keep);
        });
    }

    async fn ask(&self, n: u8, revision: Option<u32>) -> Result<NetworkFile, FetchError> {
        let io = self.dial().dial(&[address(n)], identity(n).0).await?;
        let seconds = Duration::from_secs(5);
        match fetch(io, DirRequest::network(revision), 65_536, seconds).await? {
            DirResponse::Ok(bytes) => {
                Ok(NetworkFile::parse(core::str::from_utf8(&bytes).unwrap()).unwrap())
            }
            DirResponse::NotModified | DirResponse::Difference(_) => panic!("no tag was sent"),
        }
    }
}

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
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    waited.expect("no such consensus")
}

#[tokio::test(start_paused = true)]
async fn no_period_is_lost_when_authorities_change() {
    let mut world = World {
        clock: virtual_clock(START_MS),
        board: Switchboard::default(),
        tasks: JoinSet::new(),
    };
    let founding = network(3);
    let next = next(&founding);
    let authorities: Vec<_> = (1..=3).map(|n| world.start(n, &founding, true)).collect();
    let joining = world.start(4, &next, true);
    let relay = world.start(10, &founding, false);
    world.publish(10, &relay);
    let at = |valid_after: u64| move |c: &Consensus| c.lifetime().valid_after == valid_after;
    until(&relay, at(CHANGE - 8)).await;
    // Two of three authorities are given the revision; the others hear of it.
    for two in &authorities[1..] {
        assert_eq!(two.networks().offer(next.clone()), Ok(true));
    }
    let key = |n: u8| signing_key(n).verifying_key().to_bytes();
    for valid_after in (CHANGE - 6..CHANGE + 10).step_by(2) {
        let consensus = until(&relay, at(valid_after)).await;
        let leaver = consensus.signers().contains(&key(1));
        let comer = consensus.signers().contains(&key(4));
        // Signatures that come after the fetch are missing, but no wrong one is ever there.
        assert!(!leaver || valid_after < CHANGE, "{valid_after}");
        assert!(!comer || valid_after >= CHANGE, "{valid_after}");
        assert!(consensus.signature_count() >= 2);
    }
    for server in authorities.iter().chain([&joining, &relay]) {
        assert_eq!(server.network().revision(), 1);
    }
    let all_three = |c: &Consensus| c.signature_count() == 3 && c.lifetime().valid_after > CHANGE;
    let consensus = until(&authorities[1], all_three).await;
    assert!(consensus.signers().contains(&key(4)));
    assert_eq!(consensus.network_revision(), 1);
    // Every directory serves the revisions that it holds.
    assert_eq!(world.ask(10, None).await.unwrap().revision(), 1);
    assert_eq!(world.ask(10, Some(0)).await.unwrap(), founding);
    let refused = world.ask(10, Some(7)).await;
    assert!(matches!(
        refused,
        Err(FetchError::Refused { status: 404, .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn one_who_was_away_finds_all_signers_new() {
    let mut world = World {
        clock: virtual_clock(START_MS + 60_000),
        board: Switchboard::default(),
        tasks: JoinSet::new(),
    };
    let founding = network(3);
    let next = next(&founding);
    // The last revision follows from the next and not from the founding file, of whose authorities only one signed it.
    let mut last = NetworkDraft::revise(&next, 0);
    let mut authorities = next.authorities().to_vec();
    authorities.retain(|authority| authority.identity == identity(4));
    last = last.with_authorities(authorities);
    for n in [3, 4] {
        last.sign(&signing_key(n)).unwrap();
    }
    let last = last.finish().unwrap();
    assert!(founding.verify_successor(&last).is_err());
    let four = world.start(4, &next, true);
    assert_eq!(four.networks().offer(last), Ok(true));
    // A directory still answers at the address of authority 1, which the directory that was away knows.
    world.board.plug(1, served_by(&four));
    let lost = world.start(11, &founding, false);
    let mut follow = lost.networks().subscribe();
    let found = tokio::time::timeout(Duration::from_secs(120), follow.changed()).await;
    assert!(found.is_ok(), "no later revision was asked for");
    assert_eq!(lost.network().revision(), 2);
}
