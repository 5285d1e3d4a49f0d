//! Authorities on virtual time, with a network between them that delays, loses and lies. The tests check what the
//! machine of the voting period promises, whole periods at a time. All chance comes from one seed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attack;
mod crash;
mod week;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use cepa_common::dir::{
    Consensus, ConsensusSignature, DescriptorCache, Digest, Endorsement, Forward, Heard,
    NetworkFile, SignedVote, UnixSecs,
};
use cepa_common::testkit::{descriptor_at, identity, link_key, network_with, params, signing_key};

use super::{Action, Authority, AuthorityConfig, AuthorityError};

/// Random numbers that are the same for the same seed (xorshift64*).
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound.max(1)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// How a member of the simulation behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conduct {
    Honest,
    /// The member neither sends nor receives anything.
    Dead,
    /// The member follows the rules, but everything that it sends and receives takes longer than a round.
    Slow,
    /// The member follows the rules, but each message takes a random time of up to two rounds.
    Erratic,
    /// The adversary (`attack`) has the member's key.
    Hostile,
}

#[derive(Clone)]
pub(super) enum Message {
    Endorsement(Endorsement, Option<Arc<SignedVote>>),
    Vote(Arc<SignedVote>),
    Signature(Vec<u8>),
}

enum Event {
    Wake(usize),
    Deliver(usize, usize, Message),
}

pub(super) struct Member {
    pub(super) machine: Authority,
    pub(super) conduct: Conduct,
    /// How far the member's clock is ahead (milliseconds).
    pub(super) lead_ms: i64,
    wake_ms: u64,
    /// The signing record on the member's disk.
    pub(super) record: Option<UnixSecs>,
    /// Every consensus that the member published, in the newest form of each digest.
    pub(super) published: BTreeMap<UnixSecs, BTreeMap<Digest, Arc<Consensus>>>,
    /// Everything that the member ever signed: its own votes and its consensuses, by valid-after.
    pub(super) voted: BTreeMap<UnixSecs, BTreeSet<Digest>>,
    pub(super) signed: BTreeMap<UnixSecs, BTreeSet<Digest>>,
}

/// The members, the messages between them, and the time.
pub(super) struct World {
    pub(super) network: Arc<NetworkFile>,
    pub(super) members: Vec<Member>,
    pub(super) now_ms: u64,
    pub(super) chance: Chance,
    /// The longest delay of a message between honest members (milliseconds).
    pub(super) delay_ms: u64,
    /// The number of the action before which a member crashes, and that member.
    pub(super) crash_at: Option<(u64, usize)>,
    pub(super) actions: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    queued: BTreeMap<u64, Event>,
    sequence: u64,
    cache: Arc<DescriptorCache>,
    pub(super) heard: Vec<Endorsement>,
}

pub(super) fn network_every(authorities: u8, interval_secs: u32) -> NetworkFile {
    let params = params(&[
        ("vote_interval_seconds", interval_secs),
        ("allow_private_addresses", 1),
        ("max_relays_per_address", 65_535),
    ]);
    network_with(authorities, params)
}

impl World {
    pub(super) fn new(authorities: u8, interval_secs: u32, start_ms: u64, seed: u64) -> Self {
        let network = Arc::new(network_every(authorities, interval_secs));
        let cache: Arc<DescriptorCache> = Arc::default();
        let mut world = Self {
            members: Vec::new(),
            now_ms: start_ms,
            chance: Chance::new(seed),
            delay_ms: 100,
            crash_at: None,
            actions: 0,
            events: BinaryHeap::new(),
            queued: BTreeMap::new(),
            sequence: 0,
            cache,
            heard: Vec::new(),
            network,
        };
        for n in 0..usize::from(authorities) {
            let machine = world.machine(n, None, start_ms);
            world.members.push(Member {
                machine,
                conduct: Conduct::Honest,
                lead_ms: 0,
                wake_ms: 0,
                record: None,
                published: BTreeMap::new(),
                voted: BTreeMap::new(),
                signed: BTreeMap::new(),
            });
            world.wake_at(n, start_ms);
        }
        world
    }

    fn machine(&self, n: usize, record: Option<UnixSecs>, local_ms: u64) -> Authority {
        // Members are in the order of the authorities in the file.
        let number = self.number(n);
        let config = AuthorityConfig {
            network: Arc::clone(&self.network),
            identity: identity(number),
            signing_key: signing_key(number).into(),
            params: [("circuit_window_cells".to_owned(), 500 + u32::from(number))].into(),
            last_signed: record,
            probes: false,
        };
        Authority::new(config, local_ms).with_cache(Arc::clone(&self.cache))
    }

    /// The number that a member's keys are made from.
    pub(super) fn number(&self, n: usize) -> u8 {
        let wanted = self.network.authorities()[n].identity;
        (1..=31).find(|number| identity(*number) == wanted).unwrap()
    }

    pub(super) fn index(&self, identity: &cepa_common::ids::RelayId) -> usize {
        let all = self.network.authorities();
        all.iter().position(|a| a.identity == *identity).unwrap()
    }

    pub(super) fn local_ms(&self, n: usize) -> u64 {
        self.now_ms.saturating_add_signed(self.members[n].lead_ms)
    }

    /// Starts a new process on the member's old disk.
    pub(super) fn restart(&mut self, n: usize) {
        let machine = self.machine(n, self.members[n].record, self.local_ms(n));
        self.members[n].machine = machine;
        self.wake_at(n, self.now_ms);
    }

    /// Gives a member a relay's descriptor with this date.
    pub(super) fn upload(&mut self, relay: u8, n: usize, published: UnixSecs) {
        let signed = descriptor_at(relay, published)
            .sign(&self.network.network_id(), &link_key(relay))
            .unwrap();
        let local_ms = self.local_ms(n);
        match self.members[n].machine.on_descriptor(signed, local_ms) {
            Ok(()) | Err(AuthorityError::NotNewer) => {}
            Err(error) => panic!("{error}"),
        }
        self.wake_at(n, self.now_ms);
    }

    fn schedule(&mut self, at_ms: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at_ms, self.sequence)));
        self.queued.insert(self.sequence, event);
    }

    fn wake_at(&mut self, n: usize, at_ms: u64) {
        self.members[n].wake_ms = at_ms;
        self.schedule(at_ms, Event::Wake(n));
    }

    /// The time that a message takes between two members (milliseconds).
    fn delay(&mut self, from: usize, to: usize) -> u64 {
        let round_ms = self.members[0].machine.period_rounds().length_ms();
        let is = |conduct| {
            [from, to]
                .iter()
                .any(|n| self.members[*n].conduct == conduct)
        };
        let (slow, erratic) = (is(Conduct::Slow), is(Conduct::Erratic));
        let usual = 1 + self.chance.below(self.delay_ms);
        if slow {
            round_ms + round_ms / 5 + usual
        } else if erratic {
            self.chance.below(2 * round_ms)
        } else if self.chance.one_in(10) {
            // The message is lost and sent again.
            usual + self.chance.below(self.delay_ms)
        } else {
            usual
        }
    }

    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) {
        let at_ms = self.now_ms + self.delay(from, to);
        self.send_at(at_ms, from, to, message);
    }

    /// Sends a message that arrives at exactly this time.
    pub(super) fn send_at(&mut self, at_ms: u64, from: usize, to: usize, message: Message) {
        self.schedule(at_ms, Event::Deliver(from, to, message));
    }

    /// Runs the simulation up to this time.
    pub(super) fn run_until(&mut self, until_ms: u64) {
        while let Some(Reverse((at_ms, sequence))) = self.events.peek().copied() {
            if at_ms > until_ms {
                break;
            }
            self.events.pop();
            let event = self.queued.remove(&sequence).unwrap();
            self.now_ms = self.now_ms.max(at_ms);
            match event {
                Event::Wake(n) if self.members[n].wake_ms == at_ms => self.act(n),
                Event::Wake(_) => {}
                Event::Deliver(from, to, message) => self.deliver(from, to, message),
            }
        }
        self.now_ms = self.now_ms.max(until_ms);
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message) {
        let local_ms = self.local_ms(to);
        match self.members[to].conduct {
            Conduct::Dead => return,
            Conduct::Hostile => {
                if let Message::Endorsement(endorsement, _) = message {
                    self.heard.push(endorsement);
                }
                return;
            }
            Conduct::Honest | Conduct::Slow | Conduct::Erratic => {}
        }
        let machine = &mut self.members[to].machine;
        match message {
            Message::Endorsement(endorsement, vote) => {
                let answer = machine.on_endorsement(endorsement, local_ms);
                if let (Ok(Heard::WantVote), Some(vote)) = (answer, vote) {
                    // The answer goes back to the sender, and then the vote comes.
                    let hostile = self.members[from].conduct == Conduct::Hostile;
                    let back = if hostile { 0 } else { self.delay(from, to) };
                    let there = if hostile { 0 } else { self.delay(from, to) };
                    let at_ms = self.now_ms + back + there;
                    self.send_at(at_ms, from, to, Message::Vote(vote));
                }
            }
            Message::Vote(vote) => drop(machine.on_vote(SignedVote::clone(&vote), local_ms)),
            Message::Signature(bytes) => {
                let signature = ConsensusSignature::parse_and_verify(&bytes, &self.network);
                drop(machine.on_signature(signature.unwrap(), local_ms));
            }
        }
        self.act(to);
    }

    fn act(&mut self, n: usize) {
        if matches!(self.members[n].conduct, Conduct::Dead | Conduct::Hostile) {
            return;
        }
        let local_ms = self.local_ms(n);
        for action in self.members[n].machine.poll(local_ms) {
            self.actions += 1;
            if self.crash_at == Some((self.actions, n)) {
                self.restart(n);
                // After the restart the member hears something else than before. If it voted again, its vote would be
                // another one.
                return self.upload(41, n, self.now_ms / 1_000 - 10);
            }
            self.perform(n, action);
        }
        let wake_ms = self.members[n].machine.next_wake_ms(local_ms);
        let wait_ms = wake_ms.saturating_sub(local_ms).max(1);
        self.wake_at(n, self.now_ms + wait_ms);
    }

    fn perform(&mut self, n: usize, action: Action) {
        match action {
            Action::Probe(_) => panic!("nothing is probed here"),
            Action::Endorse { forward, .. } => self.endorse(n, &forward),
            Action::RecordSigned { valid_after, .. } => self.members[n].record = Some(valid_after),
            Action::SendSignature(bytes) => {
                let signature = ConsensusSignature::parse_and_verify(&bytes, &self.network);
                let signature = signature.unwrap();
                let signed = &mut self.members[n].signed;
                let of_time = signed.entry(signature.valid_after()).or_default();
                of_time.insert(signature.digest());
                for to in (0..self.members.len()).filter(|to| *to != n) {
                    self.send(n, to, Message::Signature(bytes.clone()));
                }
            }
            Action::Publish(consensus) => {
                let valid_after = consensus.lifetime().valid_after;
                let published = self.members[n].published.entry(valid_after).or_default();
                published.insert(consensus.digest(), consensus);
            }
        }
    }

    fn endorse(&mut self, n: usize, forward: &Forward) {
        let endorsement = &forward.endorsement;
        if self.index(&endorsement.author()) == n {
            let voted = &mut self.members[n].voted;
            let of_time = voted.entry(endorsement.valid_after()).or_default();
            of_time.insert(endorsement.digest());
        }
        for to in &forward.to {
            let to = self.index(to);
            let message = Message::Endorsement(endorsement.clone(), forward.vote.clone());
            self.send(n, to, message);
        }
    }

    /// The digest that all of these members published for a valid-after. Panics if one published none or another.
    pub(super) fn agreed(&self, valid_after: UnixSecs, members: &[usize]) -> Digest {
        let published = members.iter().map(|n| {
            let of_time = self.members[*n].published.get(&valid_after);
            let of_time = of_time.unwrap_or_else(|| panic!("{n} published nothing"));
            assert_eq!(of_time.len(), 1, "{n} published more than one consensus");
            of_time.values().next().unwrap()
        });
        let all: Vec<&Arc<Consensus>> = published.collect();
        for consensus in &all {
            assert!(consensus.signature_count() >= self.network.majority());
            assert_eq!(consensus.digest(), all[0].digest(), "{members:?}");
            assert_eq!(consensus.entries(), all[0].entries());
        }
        all[0].digest()
    }

    /// Checks that nobody signed two votes or two consensuses for one time.
    pub(super) fn assert_signed_once(&self, members: &[usize]) {
        for member in members.iter().map(|n| &self.members[*n]) {
            let all = member.voted.values().chain(member.signed.values());
            assert!(all.into_iter().all(|digests| digests.len() == 1));
        }
    }
}
