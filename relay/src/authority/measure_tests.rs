use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use cepa_common::dir::{Lifetime, NetworkFile, Params, Vote, tally};
use cepa_common::testkit::{descriptor_at, identity, lifetime, link_key, network, signing_key};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::super::kept::Remembered;
use super::super::relays::Relays;
use super::*;

const START_MS: u64 = 2_000_000_000;
const STEP_MS: u64 = 50;
const MIB_PER_HOUR: u32 = 100_000;

/// A download under way.
struct Flow {
    path: [RelayId; 2],
    left: f64,
    total: u64,
    started_ms: u64,
    done: Option<Carried>,
}

type UnderWay = (Job, Vec<Flow>);

/// A world of relays. Each address carries a fixed amount, which all downloads through the relays at that address
/// share.
struct World {
    network: NetworkFile,
    params: Params,
    /// What each address carries (KiB a second).
    carries: HashMap<IpAddr, f64>,
    on: HashMap<RelayId, IpAddr>,
    /// Relays that refuse to do their part when they are measured, as first or as second hop.
    refuse: Vec<RelayId>,
    authorities: Vec<(Relays, Vec<UnderWay>)>,
    rng: StdRng,
    now_ms: u64,
    asked_bytes: u64,
    at_once: usize,
}

impl World {
    /// Checks that the first authority's vote has no measurement.
    fn assert_nothing_is_reported(&mut self) {
        let lifetime = lifetime(self.now_ms / 1_000);
        let (relays, _) = &mut self.authorities[0];
        let entries = relays.vote_entries(&self.network, &self.params, self.now_ms, lifetime, None);
        assert!(entries.iter().all(|entry| entry.measured.is_none()));
    }

    fn new(authorities: u8) -> Self {
        let network = network(authorities);
        let params = Params {
            measure_interval_seconds: 60,
            max_relays_per_address: 3,
            ..network.params()
        };
        let authorities = (0..authorities).map(|_| {
            let mut relays = Relays::new(false);
            relays.set_budget(MIB_PER_HOUR);
            (relays, Vec::new())
        });
        Self {
            authorities: authorities.collect(),
            network,
            params,
            carries: HashMap::new(),
            on: HashMap::new(),
            refuse: Vec::new(),
            rng: StdRng::seed_from_u64(7),
            now_ms: START_MS,
            asked_bytes: 0,
            at_once: 0,
        }
    }

    /// Adds relay n on the address 10.0.0.`host`. The address carries `carries`, and the relay claims `claims`.
    fn relay(&mut self, n: u8, host: u8, carries: f64, claims: u32) {
        let ip = IpAddr::from([10, 0, 0, host]);
        self.carries.insert(ip, carries);
        self.on.insert(identity(n), ip);
        let mut descriptor = descriptor_at(n, self.now_ms / 1_000);
        descriptor.addresses = vec![SocketAddr::new(ip, 1_000 + u16::from(n))];
        descriptor.bandwidth = claims;
        let signed = descriptor
            .sign(&self.network.network_id(), &link_key(n))
            .unwrap();
        let signed = Arc::new(signed);
        for (relays, _) in &mut self.authorities {
            relays
                .insert(Arc::clone(&signed), &self.params, self.now_ms)
                .unwrap();
        }
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 1_000 / STEP_MS {
            self.now_ms += STEP_MS;
            self.begin();
            self.carry();
            self.finish();
        }
    }

    fn begin(&mut self) {
        for (relays, jobs) in &mut self.authorities {
            while let Some(job) = relays.next_job(&self.params, self.now_ms, &mut self.rng) {
                let flow = |download: &Download| Flow {
                    path: download.path,
                    left: f64::from(download.bytes),
                    total: u64::from(download.bytes),
                    started_ms: self.now_ms,
                    done: None,
                };
                self.asked_bytes += job
                    .downloads
                    .iter()
                    .map(|d| u64::from(d.bytes))
                    .sum::<u64>();
                let flows = job.downloads.iter().map(flow).collect();
                jobs.push((job, flows));
            }
            let under_way = jobs.iter().map(|(_, flows)| flows.len()).sum();
            self.at_once = self.at_once.max(under_way);
        }
    }

    fn carry(&mut self) {
        let mut load: HashMap<IpAddr, f64> = HashMap::new();
        let flows = self.authorities.iter().flat_map(|(_, jobs)| jobs);
        for flow in flows
            .flat_map(|(_, flows)| flows)
            .filter(|f| f.done.is_none())
        {
            for hop in &flow.path {
                *load.entry(self.on[hop]).or_default() += 1.0;
            }
        }
        let share = |hop: &RelayId| self.carries[&self.on[hop]] / load[&self.on[hop]];
        for (_, jobs) in &mut self.authorities {
            let flows = jobs.iter_mut().flat_map(|(_, flows)| flows);
            for flow in flows.filter(|f| f.done.is_none()) {
                let rate = share(&flow.path[0]).min(share(&flow.path[1])) * 1024.0;
                flow.left -= rate * STEP_MS as f64 / 1_000.0;
                let took = Duration::from_millis(self.now_ms + STEP_MS - flow.started_ms);
                if flow.left <= 0.0 || took >= DOWNLOAD_DEADLINE {
                    let bytes = flow.total - flow.left.max(0.0) as u64;
                    flow.done = Some(Carried { bytes, took });
                }
            }
        }
    }

    fn finish(&mut self) {
        for (relays, jobs) in &mut self.authorities {
            let (done, open): (Vec<_>, Vec<_>) = jobs
                .drain(..)
                .partition(|(_, flows)| flows.iter().all(|flow| flow.done.is_some()));
            *jobs = open;
            for (job, flows) in done {
                let result = |flow: &Flow| {
                    let refused = flow.path.iter().any(|hop| self.refuse.contains(hop));
                    flow.done.filter(|_| !refused).ok_or(MeasureError::Failed)
                };
                let results: Vec<_> = flows.iter().map(result).collect();
                relays.on_measured(&job, &results, &self.params, self.now_ms, &mut self.rng);
            }
        }
    }

    /// The weights of the consensus that these authorities make.
    fn weights(&mut self) -> HashMap<RelayId, u32> {
        let lifetime = Lifetime {
            valid_after: self.now_ms / 1_000,
            fresh_until: self.now_ms / 1_000 + 60,
            valid_until: self.now_ms / 1_000 + 180,
        };
        let (network, params) = (&self.network, &self.params);
        let votes = self
            .authorities
            .iter_mut()
            .zip(1u8..)
            .map(|((relays, _), n)| {
                let vote = Vote {
                    authority: identity(n),
                    lifetime,
                    params: Default::default(),
                    entries: relays.vote_entries(network, params, self.now_ms, lifetime, None),
                    values: Vec::new(),
                    shares: Vec::new(),
                };
                vote.sign(network, &signing_key(n)).unwrap()
            });
        let votes: Vec<_> = votes.collect();
        let body = tally(network, lifetime, &votes).unwrap();
        body.entries
            .iter()
            .map(|e| (e.identity, e.weight))
            .collect()
    }

    fn honest(&mut self, relays: std::ops::RangeInclusive<u8>) {
        for n in relays {
            self.relay(n, n, 1_000.0 * f64::from(n % 5 + 2), 10_000);
        }
    }
}

#[test]
fn a_relay_that_boasts_gains_nothing() {
    let mut world = World::new(3);
    world.honest(10..=25);
    world.relay(30, 30, 300.0, 30_000);
    assert_eq!(
        world.weights()[&identity(30)],
        world.params.max_unmeasured_weight
    );
    world.run(1_200);
    let weights = world.weights();
    let boaster = weights[&identity(30)];
    assert!((100..=360).contains(&boaster), "{boaster}");
    for n in 10..=25 {
        let (weight, truth) = (weights[&identity(n)], 1_000 * u32::from(n % 5 + 2));
        assert!(weight <= truth * 12 / 10, "{n}: {weight} of {truth}");
        assert!(weight >= truth / 4, "{n}: {weight} of {truth}");
    }
}

#[test]
fn relays_that_share_an_address_share_its_weight() {
    let mut world = World::new(3);
    world.honest(10..=25);
    for n in 31..=33 {
        world.relay(n, 31, 900.0, 30_000);
    }
    world.run(1_200);
    let weights = world.weights();
    let sum: u32 = (31..=33).map(|n| weights[&identity(n)]).sum();
    assert!((300..=1_080).contains(&sum), "{sum}");
}

#[test]
fn one_that_refuses_to_be_measured_gets_next_to_nothing() {
    let mut world = World::new(3);
    world.honest(10..=25);
    world.relay(30, 30, 3_000.0, 30_000);
    world.refuse.push(identity(30));
    world.run(600);
    assert_eq!(world.weights()[&identity(30)], NEXT_TO_NOTHING);
    // The relay stops refusing.
    world.refuse.clear();
    world.run(600);
    assert!(world.weights()[&identity(30)] > 500);
    // The relay refuses again, and its samples grow too old.
    world.refuse.push(identity(30));
    world.run(60 * (SAMPLE_LIFE_INTERVALS + 2));
    assert_eq!(world.weights()[&identity(30)], NEXT_TO_NOTHING);
}

#[test]
fn two_that_fail_by_turns_gain_nothing_by_it() {
    let mut scheduler = Scheduler::default();
    scheduler.set_budget(MIB_PER_HOUR, 0);
    let mut rng = StdRng::seed_from_u64(1);
    let ids = [identity(1), identity(2)];
    let job = Job {
        targets: ids.to_vec(),
        downloads: ids
            .map(|id| Download {
                path: [id, identity(3)],
                bytes: MAX_BYTES,
                permit: Vec::new(),
                deadline: DOWNLOAD_DEADLINE,
            })
            .to_vec(),
        sharing: 2,
    };
    let fast = Ok(Carried {
        bytes: u64::from(MAX_BYTES),
        took: Duration::from_secs(1),
    });
    for turn in 0..8 {
        let mut results = [fast, Err(MeasureError::Failed)];
        results.rotate_left(turn % 2);
        scheduler.on_result(&job, &results, 60, turn as u64, &mut rng);
    }
    assert_eq!(scheduler.estimate(&ids[0]), Some(NEXT_TO_NOTHING));
    // If one of the two is slow, both look slow: the bytes of both are what the address carried in the longer time.
    for turn in 0..4 {
        let slow = Ok(Carried {
            bytes: u64::from(MAX_BYTES),
            took: Duration::from_secs(4),
        });
        scheduler.on_result(&job, &[fast, slow], 60, turn, &mut rng);
    }
    assert_eq!(scheduler.estimate(&ids[0]), Some(4_096));
    assert_eq!(scheduler.estimate(&ids[1]), Some(4_096));
}

#[test]
fn the_budget_and_the_number_at_once_hold() {
    let mut world = World::new(1);
    world.authorities[0].0.set_budget(360);
    world.honest(10..=25);
    world.run(3_600);
    let mib = world.asked_bytes >> 20;
    // The budget of an hour, the budget of a minute that is saved up at the start, and the debt of one job.
    assert!((340..=360 + 6 + 2).contains(&mib), "{mib}");
    assert!(
        (2..=MAX_AT_ONCE).contains(&world.at_once),
        "{}",
        world.at_once
    );
    // Without a budget nothing is measured, and earlier measurements are no longer reported.
    let (relays, _) = &mut world.authorities[0];
    relays.set_budget(0);
    assert!(
        relays
            .next_job(&world.params, world.now_ms, &mut world.rng)
            .is_none()
    );
    assert!(relays.next_job_in_ms().is_none());
    world.assert_nothing_is_reported();
}

#[test]
fn the_never_measured_come_first_and_lone_relays_are_not_measured() {
    let mut world = World::new(1);
    world.relay(10, 10, 1_000.0, 1);
    world.run(10);
    assert_eq!(world.asked_bytes, 0);
    world.honest(11..=14);
    world.run(300);
    world.relay(20, 20, 1_000.0, 1);
    let (relays, jobs) = &mut world.authorities[0];
    jobs.clear();
    world.now_ms += LOST_AFTER_MS + LOOK_AGAIN_MS;
    let job = relays
        .next_job(&world.params, world.now_ms, &mut world.rng)
        .unwrap();
    assert_eq!(job.targets, [identity(20)]);
}

#[test]
fn measurements_survive_a_restart() {
    let mut world = World::new(3);
    world.honest(10..=16);
    world.run(600);
    let before = world.weights();
    for (relays, jobs) in &mut world.authorities {
        let mut restarted = Relays::new(false);
        let id = world.network.network_id();
        let remembered = Remembered::decode(&relays.to_keep(), &id).unwrap();
        restarted.restore(remembered, &world.params, world.now_ms);
        restarted.set_budget(MIB_PER_HOUR);
        (*relays, *jobs) = (restarted, Vec::new());
    }
    // The relays come back with the same descriptors.
    world.now_ms += 1_000;
    world.honest(10..=16);
    assert_eq!(world.weights(), before);
}

/// Everybody is busy for ten minutes. Gives how often that was asked.
fn all_are_busy(world: &mut World) -> usize {
    let (relays, _) = &mut world.authorities[0];
    let mut asked = 0;
    for _ in 0..600 {
        world.now_ms += 1_000;
        let next = relays.next_job(&world.params, world.now_ms, &mut world.rng);
        let Some(job) = next else { continue };
        let results = vec![Err(MeasureError::Busy); job.downloads.len()];
        relays.on_measured(&job, &results, &world.params, world.now_ms, &mut world.rng);
        asked += 1;
    }
    asked
}

#[test]
fn busy_changes_no_weight_and_is_asked_again() {
    // Of those that were never measured the authority goes on to say nothing.
    let mut world = World::new(1);
    world.honest(10..=14);
    assert!(all_are_busy(&mut world) > 100);
    world.assert_nothing_is_reported();
    world.run(600);
    let before = world.weights();
    all_are_busy(&mut world);
    assert_eq!(world.weights(), before);
}

#[test]
fn not_ready_blames_nobody() {
    let mut world = World::new(1);
    world.honest(10..=14);
    let (relays, _) = &mut world.authorities[0];
    for _ in 0..50 {
        world.now_ms += 10_000;
        let job = relays
            .next_job(&world.params, world.now_ms, &mut world.rng)
            .unwrap();
        let results = [Err(MeasureError::NotReady)];
        relays.on_measured(&job, &results, &world.params, world.now_ms, &mut world.rng);
        assert!(
            relays
                .next_job(&world.params, world.now_ms, &mut world.rng)
                .is_none()
        );
    }
    world.assert_nothing_is_reported();
}
