//! Kind 2 of simulation: what the choices of clients do to a large network. No cells.
//!
//! Clients are [`Rehearsal`]s: the real guards, predictor, shelf and choice of paths, on real consensuses of a
//! [`Population`]. `stage` is what they meet, and counts what they do; [`links`] computes from that which links relays
//! hold to each other; [`report`] says what came of it, each figure with its standard error.

pub mod links;
pub mod options;
pub mod report;
pub(crate) mod stage;

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use cepa_client::circuit::isolation::Isolation;
use cepa_client::circuit::rehearsal::{Rehearsal, Setting};
use cepa_client::path::{ExitTarget, PathSelector};
use cepa_common::dir::DocError;
use cepa_common::world::steady;

use self::options::{AUTHORITIES, BEGAN, BUILD, Options};
use self::report::Choices;
use self::stage::{Here, Notes, Theatre};
use crate::load::{JobKind, job, pause_between};
use crate::population::{HOUR, Population, Publisher};
use crate::seed::Dice;

/// Clients begin within this time.
const STARTS: Duration = Duration::from_secs(HOUR);
/// A day has so many hours.
const DAY_HOURS: u64 = 24;
/// The time that a fetch from the directory takes once its circuit is built, as there.
const FETCH: Duration = Duration::from_millis(900);
/// The time from the opening of a stream to its first byte, as there.
const FIRST_BYTE: Duration = Duration::from_millis(400);
/// Bytes a second of a stream of some tens of kilobytes, as there.
const RATE: f64 = 400_000.0;

/// Why nothing could be rehearsed.
#[derive(Debug, thiserror::Error)]
pub enum ChoicesError {
    /// A document cannot be made.
    #[error("no consensus can be made: {0}")]
    Document(#[from] DocError),
    /// The network cannot be founded.
    #[error("the network is wrong: {0}")]
    Network(String),
}

/// What is reported on the way: how many hours are done of how many, and whether to go on.
type Each<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// A user, whose times are since the beginning.
struct User {
    dice: Dice,
    /// When the user comes each day.
    comes: Duration,
    /// The next page.
    next: Duration,
    hours: Duration,
}

impl User {
    fn new(mut dice: Dice, starts: Duration, hours_a_day: f64) -> Self {
        let day = Duration::from_secs(DAY_HOURS * HOUR);
        let hours = Duration::from_secs_f64(hours_a_day * HOUR as f64).min(day);
        let comes = dice.time(Duration::ZERO, day - hours);
        let mut user = Self {
            dice,
            comes,
            next: Duration::ZERO,
            hours,
        };
        user.go_on(starts);
        user
    }

    /// Plans the first page after `from`.
    fn go_on(&mut self, from: Duration) {
        let day = Duration::from_secs(DAY_HOURS * HOUR);
        let wait = self.dice.wait(pause_between(JobKind::Page));
        let mut today = u32::try_from(from.as_secs() / day.as_secs()).unwrap_or(u32::MAX);
        let mut next = from + wait;
        loop {
            let comes = day * today + self.comes;
            if next < comes {
                next = comes + wait;
            }
            if next < comes + self.hours {
                break;
            }
            today += 1;
            if self.hours.is_zero() {
                next = Duration::MAX;
                break;
            }
        }
        self.next = next;
    }
}

struct Client {
    starts: Duration,
    /// `None` until the client starts.
    paper: Option<Rehearsal>,
    notes: Notes,
    user: User,
}

/// Rehearses. `each` hears after each hour how many are done of how many, and says whether to go on: what was rehearsed
/// until then is reported.
///
/// # Errors
/// [`ChoicesError`].
pub fn run(options: &Options, each: Each<'_>) -> Result<Choices, ChoicesError> {
    let seed = options.seed;
    let publisher = Publisher::new(AUTHORITIES, seed.key("authorities", &[]));
    let publisher = publisher.map_err(ChoicesError::Network)?;
    let population = Population::new(options.relays, BEGAN, seed.key("relays", &[]));
    let began = steady::now();
    let setting = Arc::new(Setting {
        began,
        began_unix_ms: BEGAN * 1_000,
        build: BUILD,
        fetch: FETCH,
    });
    // The first day is for guards and circuits to settle.
    let warm = Duration::from_secs(HOUR * if options.days > 1 { DAY_HOURS } else { 2 });
    let mut theatre = Theatre::new(Some(population), began, warm);
    let mut clients: Vec<Client> = (0..options.clients)
        .map(|number| {
            let number = u64::try_from(number).unwrap_or(u64::MAX);
            let mut dice = seed.dice("paper client", &[number]);
            let starts = dice.time(Duration::ZERO, STARTS);
            Client {
                starts,
                paper: None,
                notes: Notes::new(number, dice.number(0, u64::MAX)),
                user: User::new(dice, starts, options.hours_a_day),
            }
        })
        .collect();
    let hours = options.days * DAY_HOURS;
    let mut done = 0;
    for hour in 0..hours {
        let from = Duration::from_secs(hour * HOUR);
        let Some(population) = &mut theatre.population else {
            break;
        };
        population.advance(BEGAN + hour * HOUR);
        let listed = population.listed();
        let (numbers, entries): (Vec<u32>, Vec<_>) = listed
            .into_iter()
            .map(|(number, entry)| (number, entry.clone()))
            .unzip();
        let consensus = publisher.publish(BEGAN + hour * HOUR, entries)?;
        let selector = Arc::new(PathSelector::new(consensus));
        let lasts = Duration::from_secs(HOUR);
        theatre.publish(selector, numbers, from, lasts)?;
        let to = from + lasts;
        for client in &mut clients {
            live(client, &mut theatre, &publisher, &setting, to, options);
        }
        theatre.end_hour();
        done = hour + 1;
        if !each(done, hours) {
            break;
        }
    }
    let end = began + Duration::from_secs(done * HOUR);
    let mut notes = Vec::with_capacity(clients.len());
    for client in clients {
        let mut its = client.notes;
        if let Some(paper) = client.paper {
            let mut here = Here {
                theatre: &mut theatre,
                notes: &mut its,
            };
            paper.stop(end, &mut here);
            here.close_links((done * HOUR) as f64);
        }
        notes.push(its);
    }
    Ok(Choices::new(options, &theatre, &mut notes, done))
}

/// Lets a client live until the time `to` of the rehearsal.
fn live(
    client: &mut Client,
    theatre: &mut Theatre,
    publisher: &Publisher,
    setting: &Arc<Setting>,
    to: Duration,
    options: &Options,
) {
    if client.starts >= to {
        return;
    }
    let began = setting.began;
    let end = began + to;
    let at = |time: Duration| began.checked_add(time).unwrap_or(end);
    let notes = &mut client.notes;
    let mut here = Here { theatre, notes };
    let Some(newest) = here.theatre.newest.clone() else {
        return;
    };
    let paper = client.paper.get_or_insert_with(|| {
        let seed = options.seed.key("paper", &[here.notes.number]);
        let (network, setting) = (publisher.network(), setting.clone());
        let starts = at(client.starts);
        Rehearsal::new(network, newest, setting, seed, starts, &mut here)
    });
    loop {
        let (due, asks): (Instant, Instant) = (paper.due(), at(client.user.next));
        if due.min(asks) >= end {
            return;
        }
        if due <= asks {
            paper.wake(due, &mut here);
            continue;
        }
        let now = client.user.next;
        let user = &mut client.user;
        let page = job(JobKind::Page, now, 1, &mut user.dice);
        let program = user.dice.number(0, options.programs.max(1) - 1);
        user.go_on(now);
        let lasts = FIRST_BYTE + Duration::from_secs_f64((page.up + page.down) as f64 / RATE);
        let isolation = Isolation::session(program);
        for _ in 0..page.streams {
            let target = ExitTarget::Name(443);
            paper.stream(asks, &isolation, target, lasts, &mut here);
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
