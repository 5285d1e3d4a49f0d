//! Who is where, with which line, and who does what.

use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr};

use cepa_common::world::memory::Line;

use super::parts::{NodePlan, Role};
use crate::cities::{CITIES, City, Region};
use crate::load::jobs;
use crate::scenario::{BadScenario, LoadKind, Scenario};
use crate::seed::Seed;
use crate::units::{self, Rate, Span};

/// Authorities and relays start within this time.
const FOUNDING: Duration = Duration::from_secs(5);
/// A last mile, for relays and for clients (milliseconds).
const LAST_MILE_MS: [(u64, u64); 2] = [(1, 3), (3, 20)];
/// First byte of the addresses of nodes, and of servers. A second node of a /16 never is, so that the rule about
/// subnets keeps no two apart.
const NODE_BLOCK: u32 = 20;
pub(super) const SERVER_BLOCK: u32 = 200;

/// The address of a host, which looks like one in the field: public, and alone in its /16.
pub(super) fn address(block: u32, number: u32) -> IpAddr {
    let [_, _, high, low] = number.to_be_bytes();
    let first = u8::try_from(block).unwrap_or(0).saturating_add(high);
    Ipv4Addr::new(first, low, 0, 1).into()
}

/// The cities that a scenario allows.
fn cities(allowed: &str) -> Result<Vec<City>, BadScenario> {
    let of_region: Vec<City> = CITIES
        .into_iter()
        .filter(|city| allowed == "any" || city.region.name() == allowed || city.name == allowed)
        .collect();
    if of_region.is_empty() {
        let regions = Region::ALL.map(Region::name).join(", ");
        return Err(BadScenario::new(format!(
            "cities = {allowed:?} names no place: write any, a region ({regions}) or a city (amsterdam)"
        )));
    }
    Ok(of_region)
}

/// How nodes of one kind are drawn.
struct Kind<'a> {
    role: Role,
    count: u32,
    cities: &'a str,
    up: Option<Rate>,
    down: Option<Rate>,
    starts: Span,
}

/// All nodes of a run, authorities first.
pub(super) fn nodes(
    scenario: &Scenario,
    seed: Seed,
    lasts: Duration,
) -> Result<Vec<NodePlan>, BadScenario> {
    let (authorities, relays, clients) =
        (&scenario.authorities, &scenario.relays, &scenario.clients);
    let founding = Span(units::Between {
        least: Duration::ZERO,
        most: FOUNDING,
    });
    let relay = |role, count| Kind {
        role,
        count,
        cities: &relays.cities,
        up: relays.line,
        down: relays.line,
        starts: founding,
    };
    let kinds = [
        Kind {
            role: Role::Authority,
            count: authorities.count,
            cities: &authorities.cities,
            up: authorities.line,
            down: authorities.line,
            starts: Span::exactly(Duration::ZERO),
        },
        relay(Role::Relay, relays.count - relays.exits),
        relay(Role::Exit, relays.exits),
        Kind {
            role: Role::Client,
            count: clients.count,
            cities: &clients.cities,
            up: clients.up,
            down: clients.down,
            starts: clients.start,
        },
    ];
    let mut nodes = Vec::new();
    for kind in kinds {
        let cities = cities(kind.cities)?;
        for place in 0..kind.count {
            let number = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
            nodes.push(node(&kind, &cities, place, number, scenario, seed, lasts));
        }
    }
    Ok(nodes)
}

fn node(
    kind: &Kind<'_>,
    cities: &[City],
    place: u32,
    number: u32,
    scenario: &Scenario,
    seed: Seed,
    lasts: Duration,
) -> NodePlan {
    let mut dice = seed.dice("node", &[u64::from(number)]);
    let city = dice.one_of(cities).copied().unwrap_or(CITIES[0]);
    let (least, most) = LAST_MILE_MS[usize::from(kind.role == Role::Client)];
    let last_mile = dice.time(Duration::from_millis(least), Duration::from_millis(most));
    let mut up = kind.up.map_or(0, |rate| rate.draw(&mut dice));
    let down = kind.down.map_or(0, |rate| rate.draw(&mut dice));
    if kind.role != Role::Client {
        // A relay has one line, the same each way.
        up = down;
    }
    let starts = kind.starts.draw(&mut dice);
    let load = match place < scenario.clients.stalled {
        true => LoadKind::Stall,
        false => scenario.clients.load,
    };
    let jobs = if kind.role == Role::Client {
        jobs(load, scenario.servers, starts, lasts, &mut dice)
    } else {
        Vec::new()
    };
    NodePlan {
        number,
        role: kind.role,
        name: format!("{}-{place}", kind.role.name()),
        address: address(NODE_BLOCK, number),
        city,
        last_mile,
        line: Line { up, down },
        starts,
        jobs,
    }
}
