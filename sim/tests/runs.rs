//! Whole runs: what a seed decides, what faults do, and that each thing that must not be is seen.
//!
//! The file is a process of its own, because a process that is simulated once is never real again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::LazyLock;
use std::time::Duration;

use cepa_common::world::{Simulation, simulate};
use cepa_sim::load::JobKind;
use cepa_sim::outcome::{Outcome, Watch, run_plan, run_twice};
use cepa_sim::plan::Plan;
use cepa_sim::scenario::{Hostility, Scenario, built_in};
use cepa_sim::search::{Seeds, search};
use cepa_sim::seed::Seed;
use cepa_sim::shrink::shrink;
use cepa_sim::units::Span;

static SIMULATION: LazyLock<Simulation> = LazyLock::new(|| simulate().unwrap());

/// A network that is as small as can be, for five minutes, with these faults.
fn tiny(faults: &str) -> Scenario {
    let text = format!(
        r#"
        lasts = "5m"
        authorities = {{ count = 1 }}
        relays = {{ count = 3, exits = 1 }}
        clients = {{ count = 1, start = "130s", load = "browse" }}
        params = {{ vote_interval_seconds = 30 }}
        {faults}
        "#
    );
    Scenario::parse(&text).unwrap()
}

fn run(scenario: &Scenario) -> Outcome {
    let plan = Plan::draw(scenario, Seed(1)).unwrap();
    run_plan(&SIMULATION, &plan, Watch::default()).unwrap()
}

fn assert_good(outcome: &Outcome) {
    assert!(
        outcome.failure().is_none(),
        "{:?}\n{}",
        outcome.violations,
        outcome.story.join("\n")
    );
}

#[test]
fn a_run_repeats_and_its_users_get_their_pages() {
    let plan = Plan::draw(&tiny(""), Seed(1)).unwrap();
    let outcome = run_twice(&SIMULATION, &plan, Watch::default()).unwrap();
    assert_good(&outcome);
    let done = |kind| {
        outcome
            .jobs
            .iter()
            .filter(|job| job.kind == kind && job.is_done)
            .count()
    };
    assert!(done(JobKind::Page) >= 1);
    assert_eq!(done(JobKind::Last), 1);
    let other = Plan::draw(&tiny(""), Seed(2)).unwrap();
    let other = run_plan(&SIMULATION, &other, Watch::default()).unwrap();
    assert_ne!((outcome.events, outcome.hash), (other.events, other.hash));
}

#[test]
fn what_a_thread_did_before_a_run_changes_nothing() {
    // With this seed a buffer that the first run had let grow made the second send more at once.
    let mut scenario = Scenario::parse(built_in("small").unwrap()).unwrap();
    scenario.lasts = Span::exactly(Duration::from_secs(300));
    let plan = Plan::draw(&scenario, Seed(0x10017)).unwrap();
    assert_good(&run_twice(&SIMULATION, &plan, Watch::default()).unwrap());
}

#[test]
fn a_network_lives_through_faults_of_every_kind() {
    let faults = [
        ("kill", "of = \"relay-0\"", "20s"),
        ("power", "of = \"client-0\"", "20s"),
        ("stop", "of = \"exit-0\"", "10s"),
        ("silence", "of = \"client-0\"", "10s"),
        ("partition", "between = [\"client-0\", \"rest\"]", "10s"),
        ("delay", "of = \"exit-0\"\nby = \"200ms\"", "30s"),
        ("loss", "of = \"client-0\"\nby = \"5%\"", "30s"),
        ("slow", "of = \"relay-1\"\nby = \"1mbit\"", "30s"),
        ("clock", "of = \"client-0\"\nby = \"+2h\"", "30s"),
        ("drift", "of = \"relay-1\"\nby = \"0.01%\"", "30s"),
        ("full-disk", "of = \"authority-0\"", "30s"),
        ("names-silent", "of = \"exit-0\"", "20s"),
        ("names-lie", "of = \"exit-0\"", "20s"),
        ("few-sockets", "of = \"relay-1\"\nby = \"3\"", "20s"),
        ("dribble", "of = \"client-0\"", "20s"),
    ];
    let fault = |(place, (what, rest, lasts)): (usize, &(&str, &str, &str))| {
        let at = 140 + 10 * place;
        format!("[[fault]]\nat = \"{at}s\"\nwhat = \"{what}\"\n{rest}\nfor = \"{lasts}\"\n")
    };
    let faults: String = faults.iter().enumerate().map(fault).collect();
    let outcome = run(&tiny(&faults));
    assert_good(&outcome);
    assert_eq!(outcome.faults, 15);
}

#[test]
fn what_hostile_nodes_do_ends_their_own_circuits_and_nothing_else() {
    let kinds = Hostility::ALL.into_iter().enumerate();
    let fault = |(place, kind): (usize, Hostility)| {
        // Every stream passes one of both exits.
        let nodes = match kind {
            Hostility::VoteTwice | Hostility::Lie => &["authority-0"][..],
            _ => &["exit-0", "exit-1"],
        };
        let (at, by) = (160 + 40 * place, kind.name());
        let one = |node: &&str| {
            format!(
                "[[fault]]\nat = \"{at}s\"\nwhat = \"hostile\"\nof = \"{node}\"\nby = \"{by}\"\nfor = \"40s\"\n"
            )
        };
        nodes.iter().map(one).collect::<String>()
    };
    let faults: String = kinds.map(fault).collect();
    let text = format!(
        r#"
        lasts = "10m"
        authorities = {{ count = 3 }}
        relays = {{ count = 5, exits = 2, line = "20mbit" }}
        clients = {{ count = 6, start = "130s..150s", load = "browse" }}
        params = {{ vote_interval_seconds = 30 }}
        {faults}
        "#
    );
    let outcome = run(&Scenario::parse(&text).unwrap());
    assert_good(&outcome);
    for kind in Hostility::ALL {
        let done = outcome.misdeeds.get(&kind).copied().unwrap_or(0);
        assert!(done > 0, "{}: {:?}", kind.name(), outcome.misdeeds);
    }
}

#[test]
fn a_client_that_dies_ends_its_upload_and_one_whose_caches_are_behind_takes_no_older_consensus() {
    // An upload that breaks must be a reset at the destination too.
    let dies = Scenario::parse(
        r#"
        lasts = "5m"
        authorities = { count = 1 }
        relays = { count = 4, exits = 1 }
        clients = { count = 1, start = "130s", load = "upload", up = "200kbit", down = "1mbit" }
        params = { vote_interval_seconds = 30 }
        fault = [
            { every = "15s", what = "kill", of = "client", for = "2s" },
            { every = "25s", what = "kill", of = "relay", for = "2s" },
        ]
        "#,
    );
    let plan = Plan::draw(&dies.unwrap(), Seed(3)).unwrap();
    assert_good(&run_plan(&SIMULATION, &plan, Watch::default()).unwrap());
    // A relay whose clock is behind takes its consensus for fresh, and gives it to clients.
    let behind = Scenario::parse(
        r#"
        lasts = "8m"
        authorities = { count = 1 }
        relays = { count = 3, exits = 1 }
        clients = { count = 2, start = "130s", load = "browse" }
        params = { vote_interval_seconds = 30 }
        fault = [
            { at = "160s", what = "clock", of = "relay-0", by = "-8m", for = "5m" },
            { at = "165s", what = "clock", of = "relay-1", by = "-8m", for = "5m" },
        ]
        "#,
    );
    assert_good(&run(&behind.unwrap()));
}

#[test]
fn a_failure_is_found_made_small_and_repeated() {
    // The only exit is gone for good, so no client gets a page. The other faults have nothing to do with that.
    let scenario = tiny(
        r#"
        [[fault]]
        at = "150s"
        what = "kill"
        of = "relay-0"
        for = "5s"

        [[fault]]
        at = "155s"
        what = "silence"
        of = "exit-0"

        [[fault]]
        at = "160s"
        what = "silence"
        of = "client-0"
        for = "10s"
        "#,
    );
    let seeds = Seeds {
        first: Seed(1),
        count: 3,
        jobs: 2,
        limit: None,
        twice: false,
    };
    let found = search(&SIMULATION, &scenario, seeds, Watch::default(), &|_| {}).unwrap();
    let failed = found.failed.expect("there is no way out");
    let first = failed.failure().unwrap().clone();
    assert!(!failed.story.is_empty());
    let shrunk = shrink(
        &SIMULATION,
        &scenario,
        &failed,
        Watch::default(),
        &|_, _| {},
    )
    .unwrap();
    let shrunk = shrunk.unwrap();
    assert_eq!(
        shrunk.scenario.fault.len(),
        1,
        "{}",
        shrunk.scenario.to_text()
    );
    let text = shrunk.scenario.to_text();
    assert!(text.contains("of = \"exit-0\""), "{text}");
    // What was written repeats the failure.
    let again = Scenario::parse(&text).unwrap();
    let plan = Plan::draw(&again, again.seed.unwrap()).unwrap();
    let again = run_plan(&SIMULATION, &plan, Watch::default()).unwrap();
    assert_eq!(again.failure().unwrap().invariant, first.invariant);
    assert_eq!(
        (again.events, again.hash),
        (shrunk.outcome.events, shrunk.outcome.hash)
    );
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the scenarios are files of the repository, and no node's"
)]
fn what_once_failed_holds() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/regressions");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let scenario = Scenario::parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let plan = Plan::draw(&scenario, scenario.seed.unwrap()).unwrap();
        let outcome = run_plan(&SIMULATION, &plan, Watch::default()).unwrap();
        assert!(
            outcome.failure().is_none(),
            "{}: {:?}\n{}",
            file.display(),
            outcome.violations,
            outcome.story.join("\n")
        );
    }
}
