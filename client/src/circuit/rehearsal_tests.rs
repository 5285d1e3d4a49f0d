//! Tests of clients on paper.
#![allow(clippy::unwrap_used)]

use cepa_common::dir::Flags;
use cepa_common::testkit::{authorities, consensus_body, lifetime_of, network_named, web_entry};

use super::*;

/// Relays of which some do not answer.
struct Relays {
    selector: Arc<PathSelector>,
    silent: Vec<RelayId>,
    begun: Vec<(Instant, Purpose, Vec<RelayId>)>,
    ended: Vec<(Instant, u64)>,
    fetched: usize,
    lost: Option<Instant>,
}

impl Stage for Relays {
    fn begin(&mut self, at: Instant, purpose: Purpose, path: &Path) -> Begun {
        let hops: Vec<RelayId> = path.hops().map(|hop| hop.identity).collect();
        if let Some(place) = hops.iter().position(|hop| self.silent.contains(hop)) {
            return Begun::Silent(place);
        }
        self.begun.push((at, purpose, hops));
        Begun::Built {
            circuit: self.begun.len() as u64 - 1,
            lost: self.lost,
            takes: None,
        }
    }

    fn end(&mut self, at: Instant, circuit: u64) {
        self.ended.push((at, circuit));
    }

    fn newest(&mut self, _: Instant) -> Option<Arc<PathSelector>> {
        Some(self.selector.clone())
    }

    fn fetched(&mut self, _: Fetched<'_>) {
        self.fetched += 1;
    }
}

const MINUTE: Duration = Duration::from_secs(60);

fn stage(network: &NetworkFile) -> Relays {
    let flags = Flags::VALID | Flags::RUNNING | Flags::EXIT | Flags::GUARD | Flags::STABLE;
    let mut body = consensus_body(1_000, &[]);
    body.lifetime = lifetime_of(3_600, 3_600, 86_400);
    body.entries = (20..80)
        .map(|n| {
            let mut entry = web_entry(n, flags, 100);
            entry.addresses = vec![([n, n, 0, 1], 9_000).into()];
            entry
        })
        .collect();
    body.entries.sort_by_key(|entry| entry.identity);
    let consensus = cepa_common::testkit::consensus(network, &body);
    Relays {
        selector: Arc::new(PathSelector::new(consensus)),
        silent: Vec::new(),
        begun: Vec::new(),
        ended: Vec::new(),
        fetched: 0,
        lost: None,
    }
}

fn rehearse(network: &NetworkFile, stage: &mut Relays, began: Instant) -> Rehearsal {
    let setting = Arc::new(Setting {
        began,
        began_unix_ms: 3_600_000,
        build: Duration::from_millis(600),
        fetch: Duration::from_secs(1),
    });
    let selector = stage.selector.clone();
    Rehearsal::new(network, selector, setting, [7; 32], began, stage)
}

fn go_on(paper: &mut Rehearsal, stage: &mut Relays, until: Instant) {
    while paper.due() <= until {
        let due = paper.due();
        paper.wake(due, stage);
    }
}

#[test]
fn a_client_that_nobody_uses_keeps_two_circuits_for_an_hour_and_then_none() {
    let network = network_named("paper", authorities(4), [].into());
    let mut stage = stage(&network);
    let began = Instant::now();
    let mut paper = rehearse(&network, &mut stage, began);
    assert_eq!(stage.fetched, SOURCES);
    go_on(&mut paper, &mut stage, began + MINUTE);
    let data = |stage: &Relays| {
        let data = stage.begun.iter().filter(|begun| begun.1 == Purpose::Data);
        data.count()
    };
    assert_eq!((data(&stage), stage.ended.len()), (2, 0));
    go_on(&mut paper, &mut stage, began + MINUTE * 60);
    // Two each ten minutes, and a little later.
    let in_an_hour = data(&stage);
    assert!((11..=12).contains(&in_an_hour), "{in_an_hour}");
    go_on(&mut paper, &mut stage, began + MINUTE * 180);
    assert!(data(&stage) <= in_an_hour + 2);
    let held = stage.begun.len() - stage.ended.len();
    assert_eq!(held, 0, "{:?}", stage.begun);
    // The consensus was asked for after an hour, and is not there: the client asks again.
    assert!(stage.fetched > 2 * SOURCES);
    // All circuits begin at one of the two guards.
    let guards: std::collections::BTreeSet<_> =
        stage.begun.iter().map(|begun| begun.2[0]).collect();
    assert!(guards.len() <= 2, "{guards:?}");
}

#[test]
fn streams_of_one_owner_share_a_circuit_for_ten_minutes_and_owners_share_none() {
    let network = network_named("paper", authorities(4), [].into());
    let mut stage = stage(&network);
    let began = Instant::now();
    let mut paper = rehearse(&network, &mut stage, began);
    go_on(&mut paper, &mut stage, began + MINUTE);
    let (one, other) = (Isolation::session(1), Isolation::session(2));
    let ask = |paper: &mut Rehearsal, stage: &mut Relays, at, owner: &Isolation| {
        go_on(paper, stage, at);
        let opened = paper.stream(at, owner, ExitTarget::V4(443), MINUTE * 20, stage);
        assert!(opened.is_some_and(|opened| opened.at <= at + MINUTE));
        let open = paper
            .circuits
            .iter()
            .filter(|circuit| circuit.open.get() > 0);
        open.count()
    };
    let at = began + MINUTE;
    assert_eq!(ask(&mut paper, &mut stage, at, &one), 1);
    assert_eq!(ask(&mut paper, &mut stage, at + MINUTE * 5, &one), 1);
    assert_eq!(ask(&mut paper, &mut stage, at + MINUTE * 6, &other), 2);
    assert_eq!(ask(&mut paper, &mut stage, at + MINUTE * 11, &one), 3);
    // A circuit with open streams is not closed, however old it is.
    let ended = stage.ended.iter().filter(|(_, number)| *number < 2).count();
    assert!(ended <= 1, "{:?}", stage.ended);
    let held = paper.circuits.len();
    paper.stop(at + MINUTE * 12, &mut stage);
    assert_eq!(stage.begun.len(), stage.ended.len());
    assert!(held >= 3);
}

#[test]
fn silent_relays_are_gone_around_and_lost_circuits_are_replaced() {
    let network = network_named("paper", authorities(4), [].into());
    let mut stage = stage(&network);
    let listed = stage.selector.consensus().entries().iter();
    stage.silent = listed.step_by(4).map(|entry| entry.identity).collect();
    let began = Instant::now();
    stage.lost = Some(began + MINUTE * 2);
    let mut paper = rehearse(&network, &mut stage, began);
    go_on(&mut paper, &mut stage, began + MINUTE);
    assert_eq!((stage.begun.len(), stage.ended.len()), (2, 0));
    let silent = stage.silent.clone();
    assert!(
        stage
            .begun
            .iter()
            .all(|begun| begun.2.iter().all(|hop| !silent.contains(hop)))
    );
    stage.lost = None;
    go_on(&mut paper, &mut stage, began + MINUTE * 3);
    assert_eq!((stage.begun.len(), stage.ended.len()), (4, 2));
    assert!(stage.ended.iter().all(|(at, _)| *at == began + MINUTE * 2));
}
