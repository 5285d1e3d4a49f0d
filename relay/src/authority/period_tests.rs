use super::*;
use crate::directory::testing::{descriptor, identity, link_key, network, signing_key};

/// A valid-after in milliseconds; the interval of the test network is two seconds.
const T_MS: u64 = 2_000_000;

impl Authority {
    fn take_descriptor(&mut self, bytes: &[u8], now_ms: u64) -> Result<(), AuthorityError> {
        let id = self.config.network.network_id();
        self.on_descriptor(SignedDescriptor::parse_and_verify(bytes, &id)?, now_ms)
    }

    fn take_vote(&mut self, bytes: &[u8], now_ms: u64) -> Result<(), AuthorityError> {
        self.on_vote(
            SignedVote::parse_and_verify(bytes, &self.config.network)?,
            now_ms,
        )
    }

    fn take_signature(&mut self, bytes: &[u8], now_ms: u64) -> Result<(), AuthorityError> {
        let signature = ConsensusSignature::parse_and_verify(bytes, &self.config.network)?;
        self.on_signature(signature, now_ms)
    }
}

struct Group {
    network: Arc<NetworkFile>,
    members: Vec<Authority>,
    alive: Vec<bool>,
    published: Vec<Vec<Arc<Consensus>>>,
    signed: Vec<Vec<UnixSecs>>,
}

impl Group {
    fn new(count: u8, now_ms: u64) -> Self {
        let network = Arc::new(network(count));
        let members = (1..=count)
            .map(|n| authority(&network, n, None, now_ms))
            .collect();
        let count = usize::from(count);
        Self {
            network,
            members,
            alive: vec![true; count],
            published: vec![Vec::new(); count],
            signed: vec![Vec::new(); count],
        }
    }

    fn upload(&mut self, relay: u8, now_ms: u64) {
        let bytes = upload(&self.network, relay, now_ms);
        for member in &mut self.members {
            member.take_descriptor(&bytes, now_ms).unwrap();
        }
    }

    /// Lets all who are alive act until none has anything to do, as at one instant.
    fn settle(&mut self, now_ms: u64) {
        loop {
            let mut idle = true;
            for n in 0..self.members.len() {
                if !self.alive[n] {
                    continue;
                }
                for action in self.members[n].poll(now_ms) {
                    idle = false;
                    self.perform(n, action, now_ms);
                }
            }
            if idle {
                return;
            }
        }
    }

    fn perform(&mut self, n: usize, action: Action, now_ms: u64) {
        match action {
            Action::Probe(probe) => self.members[n].on_probe(&probe, true, now_ms),
            Action::RecordSigned { valid_after, .. } => self.signed[n].push(valid_after),
            Action::Publish(consensus) => self.published[n].push(consensus),
            Action::SendVote(bytes) => {
                self.others(n, |other| drop(other.take_vote(&bytes, now_ms)));
            }
            Action::SendSignature(bytes) => {
                self.others(n, |other| other.take_signature(&bytes, now_ms).unwrap());
            }
        }
    }

    fn others(&mut self, n: usize, mut call: impl FnMut(&mut Authority)) {
        for (m, other) in self.members.iter_mut().enumerate() {
            if m != n && self.alive[m] {
                call(other);
            }
        }
    }
}

fn authority(network: &Arc<NetworkFile>, n: u8, last: Option<u64>, now_ms: u64) -> Authority {
    let config = AuthorityConfig {
        network: Arc::clone(network),
        identity: identity(n),
        signing_key: signing_key(n).into(),
        params: BTreeMap::new(),
        last_signed: last,
        probes: true,
    };
    Authority::new(config, now_ms)
}

fn upload(network: &NetworkFile, relay: u8, now_ms: u64) -> Vec<u8> {
    let descriptor = descriptor(relay, now_ms / 1_000);
    descriptor
        .sign(&network.network_id(), &link_key(relay))
        .unwrap()
        .bytes()
        .to_vec()
}

#[test]
fn three_authorities_agree_at_valid_after() {
    let mut group = Group::new(3, T_MS - 1_500);
    group.upload(10, T_MS - 1_500);
    group.upload(11, T_MS - 1_500);
    group.settle(T_MS - 1_500);
    for now_ms in [T_MS - 1_000, T_MS - 500, T_MS - 1] {
        group.settle(now_ms);
    }
    assert!(group.published.iter().all(Vec::is_empty));
    group.settle(T_MS);
    let digests: Vec<_> = group
        .published
        .iter()
        .map(|published| published.last().unwrap().digest())
        .collect();
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
    let consensus = group.published[0].last().unwrap();
    assert_eq!(consensus.lifetime().valid_after, T_MS / 1_000);
    assert_eq!(consensus.lifetime().valid_until, T_MS / 1_000 + 600);
    assert_eq!(consensus.entries().len(), 2);
    group.settle(T_MS + 1_000);
    group.settle(T_MS + 2_000);
    for (signed, published) in group.signed.iter().zip(&group.published) {
        assert_eq!(*signed, [T_MS / 1_000, T_MS / 1_000 + 2]);
        assert_eq!(
            published.last().unwrap().lifetime().valid_after,
            T_MS / 1_000 + 2
        );
    }
}

#[test]
fn a_relay_that_comes_late_in_the_first_period_is_still_in_it() {
    let mut group = Group::new(3, T_MS - 1_000);
    group.settle(T_MS - 1_000);
    group.upload(10, T_MS - 600);
    group.settle(T_MS - 600);
    group.settle(T_MS);
    assert!(
        group
            .published
            .iter()
            .all(|published| !published.is_empty())
    );
}

#[test]
fn one_dead_authority_delays_nobody() {
    let mut group = Group::new(3, T_MS - 1_500);
    group.upload(10, T_MS - 1_500);
    group.alive[1] = false;
    group.settle(T_MS - 1_500);
    group.settle(T_MS - 1_000);
    assert!(group.signed[0].is_empty());
    group.settle(T_MS - 500);
    assert_eq!(group.signed[0], [T_MS / 1_000]);
    group.settle(T_MS);
    assert_eq!(group.published[0].len(), 1);
    assert_eq!(group.published[2].len(), 1);
    // Two dead are too many.
    group.alive[2] = false;
    for step in 1..8 {
        group.settle(T_MS + step * 500);
    }
    assert_eq!(group.signed[0].len(), 1);
    // Back again, and it goes on.
    group.alive = vec![true; 3];
    for step in 8..16 {
        group.settle(T_MS + step * 500);
    }
    assert!(group.published[1].last().unwrap().lifetime().valid_after > T_MS / 1_000);
}

#[test]
fn without_relays_nothing_is_signed() {
    let mut group = Group::new(3, T_MS - 1_500);
    for step in 0..8 {
        group.settle(T_MS - 1_500 + 500 * step);
    }
    assert!(group.signed.iter().all(Vec::is_empty));
}

#[test]
fn one_signature_for_a_valid_after_across_restarts() {
    let network = Arc::new(network(1));
    let last = Some(T_MS / 1_000);
    for now_ms in [T_MS - 1_000, T_MS, T_MS + 999] {
        let mut restarted = authority(&network, 1, last, now_ms);
        restarted
            .take_descriptor(&upload(&network, 10, now_ms), now_ms)
            .unwrap();
        for step in 0..4 {
            let mut signed = Vec::new();
            for action in restarted.poll(now_ms + step * 500) {
                match action {
                    Action::Probe(probe) => restarted.on_probe(&probe, true, now_ms),
                    Action::RecordSigned { valid_after, .. } => signed.push(valid_after),
                    _ => {}
                }
            }
            assert!(
                signed.iter().all(|valid_after| *valid_after > T_MS / 1_000),
                "{signed:?}"
            );
        }
    }
    // A clock that went back does not make it sign again either.
    let mut behind = authority(&network, 1, last, T_MS - 60_000);
    behind
        .take_descriptor(&upload(&network, 10, T_MS - 60_000), T_MS - 60_000)
        .unwrap();
    assert!(
        behind
            .poll(T_MS - 58_000)
            .iter()
            .all(|action| matches!(action, Action::Probe(_)))
    );
}

#[test]
fn every_refusal_of_votes_and_signatures() {
    let network = Arc::new(network(3));
    let now_ms = T_MS - 900;
    let mut ours = authority(&network, 1, None, now_ms);
    let mut other = authority(&network, 2, None, now_ms);
    let vote_of = |authority: &mut Authority, relay: u8, at_ms: u64| -> Vec<u8> {
        authority
            .take_descriptor(&upload(&network, relay, now_ms), now_ms)
            .unwrap();
        let mut sent = Vec::new();
        for _ in 0..2 {
            for action in authority.poll(at_ms) {
                match action {
                    Action::Probe(probe) => authority.on_probe(&probe, true, at_ms),
                    Action::SendVote(bytes) => sent = bytes,
                    _ => {}
                }
            }
        }
        sent
    };
    let vote = vote_of(&mut other, 10, now_ms);
    assert_eq!(ours.take_vote(&vote, now_ms), Ok(()));
    assert_eq!(ours.take_vote(&vote, now_ms), Ok(()));
    let different = vote_of(&mut authority(&network, 2, None, now_ms), 11, now_ms);
    assert_eq!(
        ours.take_vote(&different, now_ms),
        Err(AuthorityError::Equivocation)
    );
    assert_eq!(other.take_vote(&vote, now_ms), Err(AuthorityError::Own));
    assert!(matches!(
        ours.take_vote(b"soup", now_ms),
        Err(AuthorityError::Document(_))
    ));
    // A clock a little ahead votes for the period after this one: held until then.
    let ahead = vote_of(
        &mut authority(&network, 3, None, now_ms),
        10,
        now_ms + 2_000,
    );
    assert_eq!(ours.take_vote(&ahead, now_ms), Ok(()));
    assert_eq!(ours.next_votes.len(), 1);
    let far = vote_of(
        &mut authority(&network, 3, None, now_ms),
        10,
        now_ms + 4_000,
    );
    assert_eq!(
        ours.take_vote(&far, now_ms),
        Err(AuthorityError::WrongPeriod)
    );

    // Both count, and the other signs first.
    let own = vote_of(&mut ours, 10, now_ms);
    assert_eq!(other.take_vote(&own, now_ms), Ok(()));
    let late = T_MS - 500;
    let signature_of = |authority: &mut Authority| {
        let sent = authority
            .poll(late)
            .into_iter()
            .find_map(|action| match action {
                Action::SendSignature(bytes) => Some(bytes),
                _ => None,
            });
        sent.unwrap()
    };
    let signature = signature_of(&mut other);
    assert_eq!(ours.take_signature(&signature, late), Ok(()));
    let own = signature_of(&mut ours);
    assert_eq!(ours.take_signature(&own, late), Err(AuthorityError::Own));
    assert_eq!(
        ours.take_signature(&signature, late + 4_000),
        Err(AuthorityError::WrongPeriod)
    );
    assert!(ours.take_signature(b"soup", late).is_err());
    let mut third = authority(&network, 3, None, now_ms);
    third.take_vote(&vote, late).unwrap();
}

#[test]
fn votes_after_the_count_are_too_late() {
    let mut group = Group::new(3, T_MS - 1_500);
    group.upload(10, T_MS - 1_500);
    group.alive[2] = false;
    group.settle(T_MS - 1_500);
    group.settle(T_MS - 1_000);
    group.settle(T_MS - 500);
    // A vote made in time that was held up on its way.
    let member = &mut group.members[2];
    for action in member.poll(T_MS - 600) {
        if let Action::Probe(probe) = action {
            member.on_probe(&probe, true, T_MS - 600);
        }
    }
    let actions = member.poll(T_MS - 600);
    let Some(Action::SendVote(vote)) = actions.into_iter().next() else {
        panic!("no vote")
    };
    assert_eq!(
        group.members[0].take_vote(&vote, T_MS - 499),
        Err(AuthorityError::TooLate)
    );
}

#[test]
fn the_next_wake_is_ahead_but_not_far() {
    let network = Arc::new(network(3));
    let mut member = authority(&network, 1, None, T_MS);
    for now_ms in (T_MS..T_MS + 10_000).step_by(137) {
        member.poll(now_ms);
        let wake = member.next_wake_ms(now_ms);
        assert!(now_ms < wake && wake <= now_ms + 2_000, "{now_ms} {wake}");
    }
    // An absurd clock is no reason to panic (S37).
    authority(&network, 1, None, u64::MAX).poll(u64::MAX);
    authority(&network, 1, None, 0).poll(0);
}
