//! Tests of whole rehearsals.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::seed::Seed;

fn options(seed: u64) -> Options {
    Options {
        relays: 300,
        clients: 60,
        users: 60.0,
        days: 2,
        hours_a_day: 4.0,
        programs: 1,
        seed: Seed(seed),
    }
}

#[test]
fn a_seed_rehearses_the_same_and_another_seed_another() {
    let figures = |seed| run(&options(seed), &mut |_, _| true).unwrap().figures;
    assert_eq!(figures(1), figures(1));
    assert_ne!(figures(1), figures(2));
}

#[test]
fn a_rehearsal_that_is_stopped_tells_what_it_has() {
    let mut hours = 0;
    let choices = run(&options(1), &mut |done, of| {
        assert_eq!(of, 48);
        hours = done;
        done < 30
    });
    assert_eq!(hours, 30);
    assert!(choices.unwrap().figures["client.circuits-for-data-a-day"] > 0.0);
}

#[test]
fn clients_do_on_paper_what_clients_do() {
    let choices = run(&options(3), &mut |_, _| true).unwrap();
    let figure = |name: &str| choices.figures[name];
    // Three sources are asked in an hour, each over a circuit of its own, and a slow one has another beside it.
    let directory = figure("client.circuits-for-directory-a-day");
    assert!((72.0..90.0).contains(&directory), "{directory}");
    // All three send the difference.
    let read = figure("client.directory-bytes-a-day");
    let difference = figure("documents.difference-bytes");
    assert!((read / (72.0 * difference) - 1.0).abs() < 0.05, "{read}");
    let first = figure("client.directory-bytes-at-first");
    assert!(first > 3.0 * figure("documents.consensus-bytes"), "{first}");
    // Two clean circuits for as long as the user was there lately, renewed every ten minutes: five hours of twelve and
    // more, and one that is taken every ten minutes in four hours.
    let data = figure("client.circuits-for-data-a-day");
    assert!((60.0..130.0).contains(&data), "{data}");
    // As many circuits are held as are begun, times how long each lives.
    let held = figure("client.circuits-held");
    assert!((0.4..1.2).contains(&held), "{held}");
    let links = figure("client.links-held");
    assert!((0.2..0.6).contains(&links), "{links}");
    // A path has three relays, and nobody is in it twice.
    let loads = figure("load.against-weight.50");
    assert!((0.8..1.2).contains(&loads), "{loads}");
}
