//! What clients on paper meet, and what is counted of them.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use cepa_client::circuit::rehearsal::{Begun, Fetched, Stage};
use cepa_client::guard::Purpose;
use cepa_client::path::{ExitTarget, Path, PathSelector, Position};
use cepa_common::dir::{Consensus, DocError, diff};
use cepa_common::limits::{LINK_REST_DIALLED, LINK_REST_SPREAD};

use super::options::{BEGAN, BUILD};
use crate::population::Population;

/// A link looks so often whether anything needs it (the `REST_LOOK` of its task), so it rests half of that longer.
const REST_LOOK: Duration = Duration::from_secs(30);
/// How the logarithm of the time of a circuit's building is spread.
const BUILD_SPREAD: f64 = 0.4;
/// Consensuses whose relays are remembered.
const RECENT: usize = 26;
/// Positions of a path.
pub(crate) const HOPS: usize = 3;

/// How long a link rests before it is closed, for a number from 0 to 1.
pub(crate) fn rest(drawn: f64) -> f64 {
    let spread = 1.0 + (LINK_REST_SPREAD - 1.0) * drawn;
    LINK_REST_DIALLED.as_secs_f64() * spread + REST_LOOK.as_secs_f64() / 2.0
}

/// What is counted of one relay.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Circuits for data that were begun, by position, of each half of the clients.
    pub(crate) data: [[u32; HOPS]; 2],
    /// Circuits for the directory that were begun, by position.
    pub(crate) directory: [u32; HOPS],
    /// Circuits of any kind that would have been begun if each position followed the weights exactly, by position.
    pub(crate) expected: [f64; HOPS],
    /// The same of circuits for the directory alone.
    pub(crate) expected_directory: [f64; HOPS],
    /// Time for which circuits were held, all together (seconds).
    pub(crate) held: f64,
    /// Time for which links of clients were held, all together (seconds).
    pub(crate) links: f64,
    /// Bytes of the directory that were served.
    pub(crate) served: u64,
    /// Time for which the relay was listed (seconds).
    pub(crate) listed: f64,
}

impl Tally {
    /// Number of circuits that were begun.
    pub(crate) fn circuits(&self) -> f64 {
        let data = self.data.iter().flatten();
        data.chain(&self.directory)
            .map(|count| f64::from(*count))
            .sum()
    }
}

/// What is counted of all clients together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sum {
    pub(crate) data: u64,
    pub(crate) directory: u64,
    /// Time for which circuits were held (seconds).
    pub(crate) held_data: f64,
    pub(crate) held_directory: f64,
    pub(crate) links: f64,
    /// Bytes of the directory that clients read on their first day, and afterwards.
    pub(crate) first_bytes: u64,
    pub(crate) later_bytes: u64,
}

/// A link of a client to a guard.
struct Link {
    guard: u32,
    since: f64,
    circuits: u32,
    /// When the last circuit ended.
    needed: f64,
    rest: f64,
}

/// What is noted of one client.
pub(crate) struct Notes {
    pub(crate) number: u64,
    /// The guards that the client has begun circuits at, with the time of the first (seconds), and whether one was for
    /// data.
    pub(crate) seen: Vec<(u32, f32, bool)>,
    links: Vec<Link>,
    drawn: u64,
    /// Circuits that relays did not answer.
    pub(crate) unanswered: u32,
}

impl Notes {
    pub(crate) fn new(number: u64, drawn: u64) -> Self {
        Self {
            number,
            seen: Vec::new(),
            links: Vec::new(),
            drawn,
            unanswered: 0,
        }
    }

    /// Is there a circuit on a link to this guard?
    pub(crate) fn has_link(&self, guard: u32) -> bool {
        self.links.iter().any(|link| link.guard == guard)
    }

    /// How long a circuit takes to be built (seconds): in a run of `city` the logarithm is spread like this.
    fn build_time(&mut self) -> f64 {
        let (one, other) = (self.draw().max(1e-12), self.draw());
        // Box and Muller's way from two even numbers to a normal one.
        let normal = (-2.0 * one.ln()).sqrt() * (core::f64::consts::TAU * other).cos();
        BUILD.as_secs_f64() * (BUILD_SPREAD * normal).exp()
    }

    /// A number from 0 to 1, another one each time.
    fn draw(&mut self) -> f64 {
        // splitmix64.
        self.drawn = self.drawn.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.drawn;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A circuit that is held.
#[derive(Clone, Copy)]
struct Held {
    hops: [u32; HOPS],
    begun: f64,
    is_data: bool,
}

/// A consensus that clients may hold, with the numbers of its relays.
struct Recent {
    valid_after: u64,
    numbers: Vec<u32>,
}

/// A network on paper.
pub(crate) struct Theatre {
    /// The relays that come and go; `None` where all are always there.
    pub(crate) population: Option<Population>,
    began: Instant,
    /// From when on things are counted (seconds).
    pub(crate) warm: f64,
    pub(crate) newest: Option<Arc<PathSelector>>,
    recent: VecDeque<Recent>,
    /// Sizes of differences between two times, and of whole consensuses.
    sizes: BTreeMap<(u64, u64), u64>,
    /// The newest consensus and the one before.
    two: VecDeque<Arc<Consensus>>,
    held: Vec<Held>,
    free: Vec<usize>,
    pub(crate) tallies: Vec<Tally>,
    pub(crate) sum: Sum,
    /// The part of each position that each relay of the newest consensus has by its weight.
    pub(crate) shares: Vec<(u32, [f64; HOPS])>,
    /// Circuits of this hour, for data and for the directory.
    hour: [u64; 2],
    pub(crate) authorities_served: u64,
    pub(crate) relays_read: u64,
    pub(crate) whole_bytes: u64,
    pub(crate) difference_bytes: Vec<u64>,
    /// Time that was counted (seconds).
    pub(crate) counted: f64,
    pub(crate) is_counting: bool,
}

impl Theatre {
    pub(crate) fn new(population: Option<Population>, began: Instant, warm: Duration) -> Self {
        Self {
            population,
            began,
            warm: warm.as_secs_f64(),
            newest: None,
            recent: VecDeque::new(),
            sizes: BTreeMap::new(),
            two: VecDeque::new(),
            held: Vec::new(),
            free: Vec::new(),
            tallies: Vec::new(),
            sum: Sum::default(),
            shares: Vec::new(),
            hour: [0; 2],
            authorities_served: 0,
            relays_read: 0,
            whole_bytes: 0,
            difference_bytes: Vec::new(),
            counted: 0.0,
            is_counting: false,
        }
    }

    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.began).as_secs_f64()
    }

    /// There is room for relays of so many numbers.
    pub(crate) fn make_room(&mut self, relays: usize) {
        self.tallies.resize(relays, Tally::default());
    }

    /// There is a new consensus, whose relays have these numbers, for the time `lasts`.
    ///
    /// # Errors
    /// [`DocError`] if no difference can be made.
    pub(crate) fn publish(
        &mut self,
        selector: Arc<PathSelector>,
        numbers: Vec<u32>,
        from: Duration,
        lasts: Duration,
    ) -> Result<(), DocError> {
        let consensus = selector.consensus().clone();
        let valid_after = consensus.lifetime().valid_after;
        self.whole_bytes = u64::try_from(consensus.bytes().len()).unwrap_or(u64::MAX);
        self.is_counting = from.as_secs_f64() >= self.warm;
        if let Some(before) = self.two.back() {
            let size = u64::try_from(diff(before, &consensus)?.len()).unwrap_or(u64::MAX);
            let from = before.lifetime().valid_after;
            self.sizes.insert((from, valid_after), size);
            if self.is_counting {
                self.difference_bytes.push(size);
                // Each relay fetches from an authority in the first tenth of the interval.
                let relays = u64::try_from(numbers.len()).unwrap_or(0);
                self.authorities_served += size * relays;
                self.relays_read += size * relays;
            }
        }
        while self.sizes.len() > RECENT {
            self.sizes.pop_first();
        }
        self.two.push_back(consensus);
        if self.two.len() > 2 {
            self.two.pop_front();
        }
        if let Some(population) = &self.population {
            self.tallies.resize(population.ever(), Tally::default());
        }
        self.shares = shares(&selector, &numbers);
        if self.is_counting {
            for number in &numbers {
                self.tallies[*number as usize].listed += lasts.as_secs_f64();
            }
            self.counted += lasts.as_secs_f64();
        }
        self.recent.push_back(Recent {
            valid_after,
            numbers,
        });
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        self.newest = Some(selector);
        Ok(())
    }

    /// The hour is over: what was begun in it is set against the weights that were valid in it.
    pub(crate) fn end_hour(&mut self) {
        let [data, directory] = self.hour.map(|count| count as f64);
        self.hour = [0; 2];
        for (number, shares) in &self.shares {
            let tally = &mut self.tallies[*number as usize];
            let [first, middle, last] = *shares;
            // The last hop of a fetch is chosen as a middle relay is.
            let of_directory = [first, middle, middle].map(|share| share * directory);
            let of_data = [first, middle, last].map(|share| share * data);
            for place in 0..HOPS {
                tally.expected[place] += of_data[place] + of_directory[place];
                tally.expected_directory[place] += of_directory[place];
            }
        }
    }

    pub(crate) fn numbers(&self, path: &Path) -> Option<[u32; HOPS]> {
        let valid_after = path.consensus().lifetime().valid_after;
        let mut recent = self.recent.iter().rev();
        let recent = recent.find(|recent| recent.valid_after == valid_after)?;
        let mut hops = [0; HOPS];
        for (hop, place) in hops.iter_mut().zip(path.places()) {
            *hop = *recent.numbers.get(*place)?;
        }
        Some(hops)
    }

    fn size(&self, held: Option<&Arc<Consensus>>) -> u64 {
        let newest = self.newest.as_ref().map(|newest| newest.consensus());
        let Some((held, newest)) = held.zip(newest) else {
            return self.whole_bytes;
        };
        let pair = (held.lifetime().valid_after, newest.lifetime().valid_after);
        if pair.0 == pair.1 {
            return 0;
        }
        match self.sizes.get(&pair) {
            Some(size) => *size,
            // Clients that rehearse are never more than one consensus behind for long; over two the sizes add up.
            None => {
                let between = self.sizes.range((pair.0, 0)..(pair.1, 0));
                let sum: u64 = between.map(|(_, size)| *size).sum();
                sum.min(self.whole_bytes)
            }
        }
    }
}

/// The part of each position that each relay has by its weight.
fn shares(selector: &PathSelector, numbers: &[u32]) -> Vec<(u32, [f64; HOPS])> {
    let weights = selector.weights();
    let target = ExitTarget::Name(443);
    let mut sums = [0.0; HOPS];
    let entries = selector.consensus().entries();
    let mut all: Vec<(u32, [f64; HOPS])> = numbers
        .iter()
        .zip(entries)
        .map(|(number, entry)| {
            let mut of = Position::ALL.map(|position| {
                let share = weights.share(position, entry.flags) as f64;
                share * f64::from(entry.weight)
            });
            if !target.is_allowed_by(entry) {
                of[2] = 0.0;
            }
            for (sum, weight) in sums.iter_mut().zip(of) {
                *sum += weight;
            }
            (*number, of)
        })
        .collect();
    for (_, of) in &mut all {
        for (weight, sum) in of.iter_mut().zip(sums) {
            *weight /= sum.max(1.0);
        }
    }
    all
}

/// The network as one client meets it.
pub(crate) struct Here<'a> {
    pub(crate) theatre: &'a mut Theatre,
    pub(crate) notes: &'a mut Notes,
}

impl Here<'_> {
    /// A circuit begins at a guard: over the link that there is, or a new one.
    fn link(&mut self, guard: u32, at: f64) {
        let drawn = rest(self.notes.draw());
        let found = self.notes.links.iter().position(|link| link.guard == guard);
        if let Some(place) = found {
            let link = &mut self.notes.links[place];
            if link.circuits > 0 || at < link.needed + link.rest {
                link.circuits += 1;
                return;
            }
            self.close_link(place, at);
        }
        self.notes.links.push(Link {
            guard,
            since: at,
            circuits: 1,
            needed: at,
            rest: drawn,
        });
    }

    /// The rehearsal ends at `until`: what links there are is counted until then.
    pub(crate) fn close_links(&mut self, until: f64) {
        while let Some(place) = self.notes.links.len().checked_sub(1) {
            self.close_link(place, until);
        }
    }

    fn close_link(&mut self, place: usize, until: f64) {
        let link = self.notes.links.swap_remove(place);
        let theatre = &mut *self.theatre;
        let ends = (link.needed + link.rest).min(until);
        let lasted = (ends - link.since.max(theatre.warm)).max(0.0);
        theatre.tallies[link.guard as usize].links += lasted;
        theatre.sum.links += lasted;
    }

    fn unlink(&mut self, guard: u32, at: f64) {
        let mut links = self.notes.links.iter_mut();
        if let Some(link) = links.find(|link| link.guard == guard) {
            link.circuits = link.circuits.saturating_sub(1);
            link.needed = link.needed.max(at);
        }
        // Links of long ago are counted, so that few are kept.
        let is_over = |link: &Link| link.circuits == 0 && at > link.needed + link.rest;
        while let Some(place) = self.notes.links.iter().position(is_over) {
            self.close_link(place, at);
        }
    }
}

impl Stage for Here<'_> {
    fn begin(&mut self, at: Instant, purpose: Purpose, path: &Path) -> Begun {
        let Some(hops) = self.theatre.numbers(path) else {
            return Begun::Silent(1);
        };
        let theatre = &mut *self.theatre;
        let now = theatre.seconds(at);
        let wall = BEGAN + now as u64;
        let population = theatre.population.as_ref();
        let is_up =
            |number: &u32| population.is_none_or(|population| population.is_up(*number, wall));
        if let Some(silent) = hops.iter().position(|number| !is_up(number)) {
            self.notes.unanswered += 1;
            return Begun::Silent(silent);
        }
        let until = |number: &u32| population.map(|population| population.up_until(*number));
        let lost = hops.iter().filter_map(until).min();
        let lost = lost.map(|lost| Duration::from_secs(lost.saturating_sub(BEGAN)));
        let began = theatre.began;
        let is_data = purpose == Purpose::Data;
        let guard = hops[0];
        match self.notes.seen.iter_mut().find(|seen| seen.0 == guard) {
            Some(seen) => seen.2 |= is_data,
            None => self.notes.seen.push((guard, now as f32, is_data)),
        }
        if theatre.is_counting {
            theatre.hour[usize::from(!is_data)] += 1;
            let half = usize::from(self.notes.number % 2 == 1);
            for (place, number) in hops.iter().enumerate() {
                let tally = &mut theatre.tallies[*number as usize];
                match is_data {
                    true => tally.data[half][place] += 1,
                    false => tally.directory[place] += 1,
                }
            }
            let sum = &mut theatre.sum;
            sum.data += u64::from(is_data);
            sum.directory += u64::from(!is_data);
        }
        let held = Held {
            hops,
            begun: now,
            is_data,
        };
        let place = match theatre.free.pop() {
            Some(place) => {
                theatre.held[place] = held;
                place
            }
            None => {
                theatre.held.push(held);
                theatre.held.len() - 1
            }
        };
        self.link(guard, now);
        let takes = self.notes.build_time();
        Begun::Built {
            circuit: place as u64,
            lost: lost.map(|lost| began + lost),
            takes: Some(Duration::from_secs_f64(takes)),
        }
    }

    fn end(&mut self, at: Instant, circuit: u64) {
        let theatre = &mut *self.theatre;
        let now = theatre.seconds(at);
        let place = usize::try_from(circuit).unwrap_or(usize::MAX);
        let Some(held) = theatre.held.get(place).copied() else {
            return;
        };
        theatre.free.push(place);
        let lasted = (now - held.begun.max(theatre.warm)).max(0.0);
        for number in held.hops {
            theatre.tallies[number as usize].held += lasted;
        }
        let sum = &mut theatre.sum;
        match held.is_data {
            true => sum.held_data += lasted,
            false => sum.held_directory += lasted,
        }
        self.unlink(held.hops[0], now);
    }

    fn newest(&mut self, _: Instant) -> Option<Arc<PathSelector>> {
        self.theatre.newest.clone()
    }

    fn fetched(&mut self, fetched: Fetched<'_>) {
        let size = self.theatre.size(fetched.held);
        let hops = fetched.path.and_then(|path| self.theatre.numbers(path));
        let theatre = &mut *self.theatre;
        let sum = &mut theatre.sum;
        if theatre.is_counting {
            sum.later_bytes += size;
        } else {
            sum.first_bytes += size;
        }
        match hops {
            Some([.., last]) if theatre.is_counting => {
                theatre.tallies[last as usize].served += size;
            }
            None if theatre.is_counting => theatre.authorities_served += size,
            _ => {}
        }
    }
}
