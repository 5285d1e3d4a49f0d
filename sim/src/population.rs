//! Relays that come and go, on paper: what a consensus of a large network lists, hour by hour.
//!
//! Four relays of ten are **steady**: they have Guard, are down twice a month for some hours, and leave after 200 days
//! on average. The others are **fickle**: they are down every third day, and leave after 60 days. So about one relay of
//! a hundred is missing in an hour's consensus that was in the one before, and as many are new. A relay that leaves is
//! replaced by a new one. A third of the relays are exits with one of five policies, half have IPv6, and weights span a
//! factor of a thousand. In an hour a tenth of the weights move, and onion keys that are a week old are replaced.
//!
//! Absent: votes. All authorities sign what this module draws.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use cepa_common::dir::{
    AuthorityEntry, Consensus, ConsensusBody, DocError, Entry, ExitPolicy, Flags, Lifetime,
    NetworkDraft, NetworkFile, PolicySummary, RelayDescriptor, SignedConsensus,
};
use cepa_common::ids::RelayId;
use cepa_common::onion::Suite;
use ed25519_dalek::SigningKey;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Seconds of an hour: the interval between two consensuses, as in a network in the field.
pub const HOUR: u64 = 3_600;
/// A consensus is valid for a day.
const VALID: u64 = 24 * HOUR;
/// An authority looks at each relay every 20 minutes, so that it misses one ten minutes after it went down.
const NOTICED: u64 = 600;
/// Relays of a hundred that are steady.
const STEADY_PERCENT: u32 = 40;
/// Exit policies as they occur in networks.
const POLICIES: [&str; 4] = [
    "accept *:*",
    "reject *:25, accept *:*",
    "accept *:80, accept *:443",
    "accept *:20-23, accept *:43, accept *:53, accept *:79-81, accept *:88, accept *:110, accept *:143, \
     accept *:194, accept *:220, accept *:389, accept *:443, accept *:464-465, accept *:531, accept *:993-995",
];

/// What exits let datagrams out to unless their owners say otherwise, which few will.
const DATAGRAMS: &str = "accept *:53, accept *:123, accept *:443, reject *:1-1023, reject *:1900, reject *:5353, \
     reject *:11211, accept *:*";

/// How a kind of relays lives (seconds, on average).
struct Habit {
    /// From one time down to the next.
    up: f64,
    /// From the relay's coming to its leaving.
    life: f64,
}

const STEADY: Habit = Habit {
    up: 15.0 * 86_400.0,
    life: 200.0 * 86_400.0,
};
const FICKLE: Habit = Habit {
    up: 3.0 * 86_400.0,
    life: 60.0 * 86_400.0,
};

struct Relay {
    entry: Entry,
    /// The weight that the relay's own goes around.
    weight: u32,
    is_steady: bool,
    up_since: u64,
    up_until: u64,
    /// When the relay comes back after that; `None` if it does not.
    back: Option<u64>,
}

impl Relay {
    /// Draws how long a relay that is up from `at` on stays so, and what comes then.
    fn live(&mut self, at: u64, rng: &mut StdRng) {
        let habit = if self.is_steady { &STEADY } else { &FICKLE };
        let drawn: f64 = rng.random_range(0.0..1.0);
        let up = -habit.up * (1.0 - drawn).ln();
        let leaves = rng.random_bool(habit.up / habit.life);
        self.up_since = at;
        self.up_until = at + 60 + up as u64;
        self.back = (!leaves).then(|| self.up_until + rng.random_range(HOUR..8 * HOUR));
    }

    /// Lets the time pass until `to`. Returns whether the relay is still there, or will be again.
    fn stays(&mut self, to: u64, rng: &mut StdRng) -> bool {
        while self.up_until <= to {
            match self.back {
                None => return false,
                Some(back) if back > to => break,
                Some(back) => self.live(back, rng),
            }
        }
        if rng.random_ratio(1, 10) {
            let share = rng.random_range(900..=1_100u64);
            let moved = u64::from(self.weight) * share / 1_000;
            self.entry.weight = u32::try_from(moved).unwrap_or(u32::MAX);
        }
        if rng.random_ratio(1, 7 * 24) {
            self.entry.onion_key = rng.random();
        }
        true
    }
}

/// Relays that come and go. Times are seconds since 1970.
pub struct Population {
    rng: StdRng,
    relays: Vec<Relay>,
    /// The relays that have not left for good.
    here: Vec<u32>,
    now: u64,
    policies: Vec<PolicySummary>,
    datagrams: PolicySummary,
}

impl Population {
    /// So many relays at the time `now`.
    pub fn new(count: usize, now: u64, seed: [u8; 32]) -> Self {
        let none = ExitPolicy::reject_all();
        // These texts are policies; a test reads them.
        let exits = POLICIES.iter().filter_map(|text| text.parse().ok());
        let datagrams: Option<ExitPolicy> = DATAGRAMS.parse().ok();
        let mut population = Self {
            rng: StdRng::from_seed(seed),
            relays: Vec::new(),
            here: Vec::new(),
            now,
            policies: [none]
                .into_iter()
                .chain(exits)
                .map(|policy: ExitPolicy| policy.summary())
                .collect(),
            datagrams: datagrams.unwrap_or_else(ExitPolicy::reject_all).summary(),
        };
        for _ in 0..count {
            population.join(now);
        }
        // Authorities have seen those who were there before.
        for relay in &mut population.relays {
            relay.up_since = now.saturating_sub(NOTICED);
        }
        population
    }

    /// A descriptor as they occur in networks.
    pub fn descriptor(&mut self, number: usize) -> RelayDescriptor {
        let rng = &mut self.rng;
        let policy = match number % 3 {
            0 => rng.random_range(0..self.policies.len()),
            _ => 0,
        };
        let v4 = Ipv4Addr::from(rng.random_range(0x0100_0000u32..0x0a00_0000));
        let mut addresses = vec![SocketAddr::from((v4, rng.random_range(1..u16::MAX)))];
        if number.is_multiple_of(2) {
            let [a, b, c, d]: [u16; 4] = rng.random();
            let ip = [0x2600, rng.random(), rng.random(), 0, a, b, c, d];
            addresses.push(SocketAddr::from((ip, 9_001)));
        }
        RelayDescriptor {
            identity: RelayId(rng.random()),
            key_cert: None,
            onion_key: rng.random(),
            suite: Suite::Aes256Gcm,
            addresses,
            published: self.now,
            bandwidth: 1_000,
            offers: Flags::NONE,
            policy: self.policies[policy].clone(),
            udp: match policy {
                0 => PolicySummary::reject_all(),
                _ => self.datagrams.clone(),
            },
            family: None,
            nickname: format!("relay{number}"),
            version: "0.1.0".to_owned(),
            contact: String::new(),
            away: None,
        }
    }

    fn join(&mut self, at: u64) {
        let number = self.relays.len();
        let descriptor = self.descriptor(number);
        let is_steady = self.rng.random_ratio(STEADY_PERCENT, 100);
        let flags = (Flags::VALID | Flags::RUNNING | Flags::FAST | Flags::STABLE)
            .with_if(Flags::EXIT, !descriptor.policy.is_reject_all())
            .with_if(Flags::GUARD | Flags::HSDIR, is_steady);
        let weight = 100u32 << self.rng.random_range(0..10);
        let mut relay = Relay {
            entry: Entry::new(&descriptor, flags, weight),
            weight,
            is_steady,
            up_since: at,
            up_until: at,
            back: None,
        };
        relay.live(at, &mut self.rng);
        self.here.push(u32::try_from(number).unwrap_or(u32::MAX));
        self.relays.push(relay);
    }

    /// Lets the time pass until `to`.
    pub fn advance(&mut self, to: u64) {
        while self.now < to {
            let next = (self.now + HOUR).min(to);
            self.step(next);
            self.now = next;
        }
    }

    fn step(&mut self, to: u64) {
        let Self {
            rng, relays, here, ..
        } = self;
        let before = here.len();
        here.retain(|number| relays[*number as usize].stays(to, rng));
        for _ in here.len()..before {
            self.join(to);
        }
    }

    /// The relays that a consensus of now lists, in its order, each with its number.
    pub fn listed(&self) -> Vec<(u32, &Entry)> {
        let seen = self.now.saturating_sub(NOTICED);
        let mut listed: Vec<_> = self
            .here
            .iter()
            .map(|number| (*number, &self.relays[*number as usize]))
            // A relay that is back is listed when authorities have seen it.
            .filter(|(_, relay)| relay.up_since <= seen && seen < relay.up_until)
            .map(|(number, relay)| (number, &relay.entry))
            .collect();
        listed.sort_unstable_by_key(|(_, entry)| entry.identity);
        listed
    }

    /// Number of relays that there have ever been.
    pub fn ever(&self) -> usize {
        self.relays.len()
    }

    /// Is the relay of this number up at this time, which is no more than an hour ahead?
    pub fn is_up(&self, number: u32, at: u64) -> bool {
        let relay = &self.relays[number as usize];
        relay.up_since <= at && at < relay.up_until
    }

    /// When a relay that is up goes down.
    pub fn up_until(&self, number: u32) -> u64 {
        self.relays[number as usize].up_until
    }
}

/// The authorities of a network on paper, who sign what they are told.
pub struct Publisher {
    network: NetworkFile,
    keys: Vec<SigningKey>,
}

/// Parameters of a network in the field.
fn field() -> impl Iterator<Item = (String, u32)> {
    [("circuit_window_cells".to_owned(), 600)].into_iter()
}

impl Publisher {
    /// So many authorities with the network's usual parameters.
    ///
    /// # Errors
    /// What is wrong with the network.
    pub fn new(authorities: u8, seed: [u8; 32]) -> Result<Self, String> {
        let mut rng = StdRng::from_seed(seed);
        let mut key = || SigningKey::from_bytes(&rng.random());
        let all: Vec<_> = (0..authorities).map(|_| (key(), key())).collect();
        let entry = |(number, (link, signing)): (u8, &(SigningKey, SigningKey))| AuthorityEntry {
            name: format!("authority-{number}"),
            identity: RelayId(link.verifying_key().to_bytes()),
            signing_key: signing.verifying_key().to_bytes(),
            addresses: vec![SocketAddr::from(([200, number, 0, 1], 9_001))],
        };
        let entries = (0..).zip(&all).map(entry).collect();
        let mut draft = NetworkDraft::new("paper", entries, field().collect());
        let keys: Vec<_> = all.into_iter().map(|(_, signing)| signing).collect();
        for key in &keys {
            draft.sign(key).map_err(|error| error.to_string())?;
        }
        let network = draft.finish().map_err(|error| error.to_string())?;
        Ok(Self { network, keys })
    }

    /// The network.
    pub fn network(&self) -> &NetworkFile {
        &self.network
    }

    /// The bytes of a consensus that lists `entries`, which are in the order of identities, signed by all.
    ///
    /// # Errors
    /// [`DocError`] if there are more than a consensus may list.
    pub fn sign(&self, valid_after: u64, entries: Vec<Entry>) -> Result<Vec<u8>, DocError> {
        let id = self.network.network_id();
        let body = ConsensusBody {
            lifetime: Lifetime {
                valid_after,
                fresh_until: valid_after + HOUR,
                valid_until: valid_after + VALID,
            },
            params: field().collect(),
            entries,
            values: Vec::new(),
        };
        let mut signed = SignedConsensus::unsigned(&body, &id)?;
        for key in &self.keys {
            signed.sign(&id, key)?;
        }
        signed.to_bytes()
    }

    /// A consensus like that of [`Publisher::sign`], read and verified.
    ///
    /// # Errors
    /// [`DocError`] if there are more entries than a consensus may list.
    pub fn publish(
        &self,
        valid_after: u64,
        entries: Vec<Entry>,
    ) -> Result<Arc<Consensus>, DocError> {
        let bytes = self.sign(valid_after, entries)?;
        SignedConsensus::parse_and_verify(&bytes, &self.network)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NOW: u64 = 1_900_000_800;

    #[test]
    fn relays_come_and_go_as_they_are_said_to() {
        for text in POLICIES.into_iter().chain([DATAGRAMS]) {
            text.parse::<ExitPolicy>().unwrap();
        }
        let mut population = Population::new(5_000, NOW, [7; 32]);
        let numbers = |population: &Population| -> BTreeSet<u32> {
            let listed = population.listed();
            assert!(listed.is_sorted_by_key(|(_, entry)| entry.identity));
            listed.iter().map(|(number, _)| *number).collect()
        };
        let mut before = numbers(&population);
        assert_eq!(before.len(), 5_000);
        let (mut gone, mut come, mut listed) = (0, 0, 0);
        for hour in 1..=200 {
            population.advance(NOW + hour * HOUR);
            let now = numbers(&population);
            if hour > 100 {
                gone += before.difference(&now).count();
                come += now.difference(&before).count();
                listed += now.len();
            }
            before = now;
        }
        let share = |count: usize| count as f64 / listed as f64;
        assert!((0.008..0.012).contains(&share(gone)), "{}", share(gone));
        assert!((0.008..0.012).contains(&share(come)), "{}", share(come));
        // Those that are down at the moment are not listed.
        assert!((460_000..490_000).contains(&listed), "{listed}");
        // Some have left for good, and others are there in their place.
        assert!(
            (5_300..6_000).contains(&population.ever()),
            "{}",
            population.ever()
        );
    }

    #[test]
    fn a_seed_draws_the_same_network_and_all_authorities_sign_it() {
        let publisher = Publisher::new(9, [1; 32]).unwrap();
        let bytes = |seed| {
            let population = Population::new(50, NOW, [seed; 32]);
            let entries = population
                .listed()
                .into_iter()
                .map(|(_, entry)| entry.clone());
            publisher.sign(NOW, entries.collect()).unwrap()
        };
        assert_eq!(bytes(7), bytes(7));
        assert_ne!(bytes(7), bytes(8));
        let read = SignedConsensus::parse_and_verify(&bytes(7), publisher.network()).unwrap();
        assert_eq!(read.entries().len(), 50);
    }
}
