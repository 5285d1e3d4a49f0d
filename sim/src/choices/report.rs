//! What came of a rehearsal: figures, each with its standard error over the seeds.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::links::{Kind, to_relays};
use super::options::{AUTHORITIES, Options};
use super::stage::{HOPS, Notes, Tally, Theatre};

/// Adversaries over whom exposure is averaged.
const ADVERSARIES: u64 = 40;
/// The parts of all relays that an adversary has (per cent).
const PARTS: [u64; 3] = [1, 5, 10];
/// The days after which exposure is told.
const AFTER: [u64; 4] = [1, 10, 30, 90];
/// Relays whose links to others are computed.
const LINKED: usize = 400;
/// A relay counts for the loads if it was expected to be in so many circuits of those rehearsed.
const ENOUGH: f64 = 100.0;
const DAY: f64 = 86_400.0;

/// The figures of one seed, by their names.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    /// Each figure's value.
    pub figures: BTreeMap<String, f64>,
}

/// The weighted points of a distribution: what `share` of the weight is at or below.
fn point(sorted: &[(f64, f64)], share: f64) -> f64 {
    let all: f64 = sorted.iter().map(|(_, weight)| weight).sum();
    let mut sum = 0.0;
    for (value, weight) in sorted {
        sum += weight;
        if sum >= all * share {
            return *value;
        }
    }
    sorted.last().map_or(0.0, |(value, _)| *value)
}

fn sorted(values: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(|one, other| one.0.total_cmp(&other.0));
    values
}

impl Choices {
    pub(crate) fn new(
        options: &Options,
        theatre: &Theatre,
        notes: &mut [Notes],
        hours: u64,
    ) -> Self {
        let mut choices = Self::default();
        choices.of_documents(theatre);
        choices.of_clients(options, theatre, notes);
        choices.of_relays(options, theatre);
        choices.of_loads(options, theatre);
        choices.of_exposure(options, notes, hours);
        choices
    }

    fn set(&mut self, name: impl Into<String>, value: f64) {
        self.figures.insert(name.into(), value);
    }

    fn of_documents(&mut self, theatre: &Theatre) {
        self.set("documents.relays-listed", theatre.shares.len() as f64);
        self.set("documents.consensus-bytes", theatre.whole_bytes as f64);
        let sizes = &theatre.difference_bytes;
        let mean = sizes.iter().sum::<u64>() as f64 / (sizes.len().max(1)) as f64;
        self.set("documents.difference-bytes", mean);
    }

    fn of_clients(&mut self, options: &Options, theatre: &Theatre, notes: &mut [Notes]) {
        let (sum, counted) = (&theatre.sum, theatre.counted.max(1.0));
        let clients = options.clients as f64;
        let days = clients * counted / DAY;
        let begun = (sum.data + sum.directory) as f64;
        self.set("client.circuits-for-data-a-day", sum.data as f64 / days);
        self.set(
            "client.circuits-for-directory-a-day",
            sum.directory as f64 / days,
        );
        let unanswered: f64 = notes.iter().map(|notes| f64::from(notes.unanswered)).sum();
        self.set("client.circuits-unanswered", unanswered / begun.max(1.0));
        let held = sum.held_data + sum.held_directory;
        self.set("client.circuits-held", held / clients / counted);
        self.set("client.links-held", sum.links / clients / counted);
        let first = sum.first_bytes as f64 / clients;
        self.set("client.directory-bytes-at-first", first);
        self.set(
            "client.directory-bytes-a-day",
            sum.later_bytes as f64 / days,
        );
        for notes in notes.iter_mut() {
            notes.seen.sort_by(|one, other| one.1.total_cmp(&other.1));
        }
        let seen: usize = notes.iter().map(|notes| notes.seen.len()).sum();
        self.set("client.first-hops-met", seen as f64 / clients);
    }

    /// What relays hold, if each client that was rehearsed stands for many.
    fn of_relays(&mut self, options: &Options, theatre: &Theatre) {
        let each = options.users / options.clients as f64;
        let counted = theatre.counted.max(1.0);
        let listed = || theatre.tallies.iter().filter(|tally| tally.listed > 0.0);
        let mut tell = |name: &str, of: &dyn Fn(&Tally) -> f64| {
            let all = sorted(listed().map(|tally| (each * of(tally) / tally.listed, tally.listed)));
            let weight: f64 = all.iter().map(|(_, weight)| weight).sum();
            let sum: f64 = all.iter().map(|(value, weight)| value * weight).sum();
            self.set(format!("relay.{name}.mean"), sum / weight.max(1.0));
            for (point_name, share) in [("50", 0.5), ("90", 0.9), ("99", 0.99)] {
                self.set(format!("relay.{name}.{point_name}"), point(&all, share));
            }
        };
        tell("circuits-held", &|tally| tally.held);
        tell("client-links-held", &|tally| tally.links);
        tell("directory-bytes-a-day", &|tally| tally.served as f64 * DAY);
        let authorities = f64::from(AUTHORITIES);
        let day = DAY / counted / authorities;
        let to_relays_bytes = theatre.relays_read as f64 * day;
        self.set("authority.bytes-a-day-to-relays", to_relays_bytes);
        let kind = |begun: u64, held: f64| Kind {
            rate: begun as f64 / counted * each,
            held: held / (begun.max(1)) as f64,
        };
        let sum = &theatre.sum;
        let data = kind(sum.data, sum.held_data);
        let directory = kind(sum.directory, sum.held_directory);
        let shares: Vec<[f64; HOPS]> = theatre.shares.iter().map(|(_, shares)| *shares).collect();
        let step = shares.len().div_ceil(LINKED).max(1);
        // Relays are in the order of their identities, which are drawn at random.
        let links = (0..shares.len()).step_by(step);
        let links = links.map(|who| (to_relays(&shares, data, directory, who), 1.0));
        let links = sorted(links);
        let mean = links.iter().map(|(links, _)| links).sum::<f64>() / (links.len().max(1)) as f64;
        self.set("relay.relay-links-held.mean", mean);
        for (name, share) in [("50", 0.5), ("90", 0.9), ("99", 0.99)] {
            self.set(
                format!("relay.relay-links-held.{name}"),
                point(&links, share),
            );
        }
    }

    /// How a relay's circuits compare with what its weight promises. What is due to the number of clients that were
    /// rehearsed is told from what is not by two halves of the clients, and is scaled to all users.
    fn of_loads(&mut self, options: &Options, theatre: &Theatre) {
        let [mut whole, mut both, mut weight] = [0.0; 3];
        let mut ratios = Vec::new();
        for tally in &theatre.tallies {
            let expected: f64 = tally.expected.iter().sum();
            let of_data = expected - tally.expected_directory.iter().sum::<f64>();
            if expected < ENOUGH || of_data <= 0.0 {
                continue;
            }
            let ratio = tally.circuits() / expected;
            let half = |half: &[u32; HOPS]| {
                let begun: f64 = half.iter().map(|count| f64::from(*count)).sum();
                2.0 * begun / of_data - 1.0
            };
            let [one, other] = [half(&tally.data[0]), half(&tally.data[1])];
            let of_data_ratio = (one + other) / 2.0;
            whole += expected * of_data_ratio * of_data_ratio;
            both += expected * one * other;
            weight += expected;
            ratios.push((ratio, expected));
        }
        if ratios.is_empty() {
            // Too few clients rehearse for this many relays.
            return;
        }
        let (whole, both) = (whole / weight.max(1.0), (both / weight.max(1.0)).max(0.0));
        let few = (options.clients as f64 / options.users).min(1.0);
        let all = both + (whole - both).max(0.0) * few;
        let shrink = if whole > 0.0 {
            (all / whole).sqrt()
        } else {
            1.0
        };
        self.set("load.deviation-of-clients-rehearsed", whole.sqrt());
        self.set("load.deviation-of-all-users", all.sqrt());
        let scaled = sorted(
            ratios
                .iter()
                .map(|(ratio, weight)| (1.0 + (ratio - 1.0) * shrink, *weight)),
        );
        for (name, share) in [
            ("01", 0.01),
            ("10", 0.1),
            ("50", 0.5),
            ("90", 0.9),
            ("99", 0.99),
        ] {
            self.set(format!("load.against-weight.{name}"), point(&scaled, share));
        }
        let worst = scaled.last().map_or(0.0, |(value, _)| *value);
        self.set("load.against-weight.worst", worst);
    }

    /// The part of the clients of whom a relay of an adversary has been a first hop.
    fn of_exposure(&mut self, options: &Options, notes: &[Notes], hours: u64) {
        for part in PARTS {
            for after in AFTER.into_iter().filter(|after| after * 24 <= hours) {
                let until = (after as f64 * DAY) as f32;
                for (who, only_data) in [("any", false), ("data", true)] {
                    let met = |adversary: u64| {
                        let is_met = |notes: &&Notes| {
                            let mut seen = notes.seen.iter().take_while(|seen| seen.1 < until);
                            seen.any(|(relay, _, is_data)| {
                                (*is_data || !only_data)
                                    && is_hostile(options.seed.0, adversary, *relay, part)
                            })
                        };
                        notes.iter().filter(is_met).count()
                    };
                    let all: usize = (0..ADVERSARIES).map(met).sum();
                    let share = all as f64 / ADVERSARIES as f64 / notes.len().max(1) as f64;
                    self.set(
                        format!("exposure.{part:02}-percent.{after:02}-days.{who}"),
                        share,
                    );
                }
            }
        }
    }
}

/// Does this adversary, who has `part` of a hundred relays, have this one?
fn is_hostile(seed: u64, adversary: u64, relay: u32, part: u64) -> bool {
    let mut word = seed ^ (adversary << 40) ^ u64::from(relay);
    for _ in 0..2 {
        word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
    }
    word % 100 < part
}

/// A figure with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean over the seeds.
    pub value: f64,
    /// The standard error of the mean; `None` if there was one seed.
    pub error: Option<f64>,
}

impl Estimate {
    /// The mean of these values.
    pub fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count.max(1.0);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let error = (values.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt());
        Self { value: mean, error }
    }
}

/// The figures of all seeds.
#[derive(Clone, Debug, Serialize)]
pub struct ChoicesReport {
    /// Number of relays.
    pub relays: usize,
    /// Number of clients that were rehearsed, for each seed.
    pub clients: usize,
    /// Number of clients that the figures of relays are for.
    pub users: f64,
    /// Number of days.
    pub days: u64,
    /// The first seed.
    pub seed: String,
    /// Number of seeds.
    pub seeds: usize,
    /// The figures by their names.
    pub figures: BTreeMap<String, Estimate>,
}

impl ChoicesReport {
    /// The report of what came of several seeds, from the first of which `options` is.
    pub fn new(options: &Options, all: &[Choices]) -> Self {
        let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for choices in all {
            for (name, value) in &choices.figures {
                values.entry(name.clone()).or_default().push(*value);
            }
        }
        Self {
            relays: options.relays,
            clients: options.clients,
            users: options.users,
            days: options.days,
            seed: options.seed.to_string(),
            seeds: all.len(),
            figures: values
                .into_iter()
                .map(|(name, values)| (name, Estimate::of(&values)))
                .collect(),
        }
    }

    /// The report as people read it at a terminal.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, figure) in &self.figures {
            // Writing to a string does not fail.
            let _ = match figure.error {
                Some(error) => writeln!(
                    text,
                    "{name:<44} {:>16} ± {}",
                    number(figure.value),
                    number(error)
                ),
                None => writeln!(text, "{name:<44} {:>16}", number(figure.value)),
            };
        }
        text
    }

    /// The report as JSON.
    pub fn to_json(&self) -> String {
        // Numbers, texts and lists always have a form in JSON.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// A number with four digits that say something.
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    format!("{value:.*}", usize::try_from(digits).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_has_the_error_of_a_mean() {
        let estimate = Estimate::of(&[1.0, 2.0, 3.0]);
        assert_eq!(estimate.value, 2.0);
        assert!(
            estimate
                .error
                .is_some_and(|error| (error - (1.0f64 / 3.0).sqrt()).abs() < 1e-9)
        );
        assert_eq!(Estimate::of(&[4.0]).error, None);
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        let said = [0.0, 0.012_345, 12.345, 1_234_567.8].map(number);
        assert_eq!(said, ["0", "0.01235", "12.35", "1234568"]);
    }

    #[test]
    fn an_adversary_has_the_part_that_it_is_said_to_have() {
        for part in PARTS {
            let has = (0..100_000u32)
                .filter(|relay| is_hostile(1, 3, *relay, part))
                .count();
            let share = has as f64 / 1_000.0;
            assert!((share - part as f64).abs() < 0.3, "{share} {part}");
        }
    }

    #[test]
    fn points_are_of_the_weight() {
        let values = sorted([(3.0, 1.0), (1.0, 1.0), (2.0, 8.0)].into_iter());
        assert_eq!(
            [0.05, 0.5, 0.95].map(|share| point(&values, share)),
            [1.0, 2.0, 3.0]
        );
    }
}
