//! Dials the destination of a stream.

use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::Poll;
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};

use cepa_common::budget::{Budget, Charge};
use cepa_common::dir::{ExitPolicy, Transport};
use cepa_common::stream::StreamHost;
use cepa_common::sync::lock;
use cepa_common::world::sockets::SocketStream;
use cepa_common::world::{Sockets, World, steady};
use tokio::time::{Instant, timeout_at};

use super::attempts::{Aim, Attempt, Attempts, OF_ADDRESS, OF_EXIT, Origin, WeakAttempts};
use super::error::DestinationError;
use super::known::KnownFates;
use super::open::{ExitLoad, OpenStreams};
use super::race::{ATTEMPT_DELAY, Family, Fate, Race, Step};
use super::resolve::{LookupError, Resolver, ResolverError};
use crate::events::{Refusals, Reporter};

/// Associations of an exit whose owner says nothing else.
const ASSOCIATIONS: usize = 4_096;
/// Dials of one stream that are under way at once.
const MOST_DIALS: usize = 8;
/// An address that was silent for so long makes room for another one.
const SILENT_AFTER: Duration = Duration::from_secs(5);
/// What the questions for a name take while they are under way (bytes), with their sockets and buffers; measured.
pub(super) const LOOKUP_BYTES: usize = 24 << 10;
/// The longest time that one stream may take, with the lookup of its name.
pub(super) const DEADLINE: Duration = Duration::from_secs(15);

/// Says which addresses this exit connects streams to, and sends datagrams to.
pub trait AddressPolicy: Send + Sync + 'static {
    /// May the exit connect, or send, to `address`? The policy is asked about the very address that is dialled, each
    /// time (S31).
    fn allows(&self, transport: Transport, address: SocketAddr) -> bool;

    /// Is there any address that the exit lets this transport out to?
    fn carries(&self, _transport: Transport) -> bool {
        true
    }

    /// Is the exit's network one in which clients may be told private addresses?
    fn tells_private(&self) -> bool {
        false
    }
}

/// The same rules for every transport.
impl AddressPolicy for ExitPolicy {
    fn allows(&self, _: Transport, address: SocketAddr) -> bool {
        ExitPolicy::allows(self, address)
    }

    fn carries(&self, _: Transport) -> bool {
        self.accepts_any()
    }

    fn tells_private(&self) -> bool {
        self.allows_private()
    }
}

impl<F: Fn(SocketAddr) -> bool + Send + Sync + 'static> AddressPolicy for F {
    fn allows(&self, _: Transport, address: SocketAddr) -> bool {
        self(address)
    }
}

/// Resolves and dials the destinations of streams.
pub struct ExitConnector {
    pub(super) names: Resolver,
    pub(super) policy: Arc<dyn AddressPolicy>,
    pub(super) sockets: Sockets,
    pub(super) attempts: Attempts,
    destinations: Destinations,
    fates: KnownFates,
    open: Arc<OpenStreams>,
    refusals: Refusals,
    /// What all associations may do together.
    pub(super) datagrams: Arc<super::udp::Bounds>,
    pub(super) budget: Arc<Budget>,
}

/// The dials that are under way, by address.
#[derive(Default)]
struct Destinations(Mutex<HashMap<IpAddr, WeakAttempts>>);

impl Destinations {
    /// The dials to an address.
    fn to(&self, address: IpAddr) -> Attempts {
        let mut dials = lock(&self.0);
        // As many entries as attempts, at most: each is held by one.
        dials.retain(|_, dials| !dials.is_over());
        let known = dials.get(&address).and_then(WeakAttempts::upgrade);
        known.unwrap_or_else(|| {
            let new = Attempts::new(OF_ADDRESS);
            dials.insert(address, new.downgrade());
            new
        })
    }
}

impl ExitConnector {
    /// A connector that connects to what `policy` allows, and asks the DNS server at `resolver`, or the system's
    /// servers if there is none, unless `world` has names of its own. What the connector remembers of names, and
    /// asks for at the moment, is charged to `budget`. Which servers there are is reported to `events`. Call this inside a tokio runtime.
    ///
    /// # Errors
    /// [`ResolverError`] if name servers cannot be asked at all.
    pub fn new(
        policy: Arc<dyn AddressPolicy>,
        resolver: Option<SocketAddr>,
        world: &World,
        budget: &Arc<Budget>,
        events: Reporter,
    ) -> Result<Self, ResolverError> {
        Ok(Self {
            refusals: events.refusals().clone(),
            names: Resolver::new(resolver, world, budget, events)?,
            policy,
            sockets: world.sockets.clone(),
            attempts: Attempts::new(OF_EXIT),
            destinations: Destinations::default(),
            fates: KnownFates::new(budget),
            open: OpenStreams::new(),
            datagrams: super::udp::Bounds::new(ASSOCIATIONS, steady::now()),
            budget: Arc::clone(budget),
        })
    }

    /// The same, with room for `most` associations.
    #[must_use]
    pub fn with_associations(mut self, most: usize) -> Self {
        self.datagrams = super::udp::Bounds::new(most, steady::now());
        self
    }

    /// Has at most so many look-ups and dials under way at once for one circuit, from now on. What is under way goes on.
    pub(crate) fn bound_attempts(&self, of_circuit: u32) {
        self.attempts.bound_circuits(of_circuit as usize);
    }

    /// The streams that the exit carries now, those that it still connects included.
    pub(crate) fn open_streams(&self) -> &Arc<OpenStreams> {
        &self.open
    }

    /// What shows how much the exit has open.
    pub(crate) fn load(&self) -> ExitLoad {
        ExitLoad {
            open: self.open.clone(),
            datagrams: self.datagrams.clone(),
        }
    }

    /// What the exit has refused is counted there.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Has room for `most` associations from now on.
    pub(crate) fn set_associations(&self, most: usize) {
        self.datagrams.set_most(most);
    }

    /// The policy has become another one: ends the streams that it refuses, and has associations ask it again. Returns
    /// how many streams are ended.
    pub(crate) fn ask_again(&self) -> usize {
        self.datagrams.ask_again();
        self.open
            .ask_again(|to| self.policy.allows(Transport::Tcp, to))
    }

    /// Connects to `host` and `port` within 15 s, for a stream from `origin`: parties take turns. Dropping the future
    /// gives the attempt up.
    ///
    /// # Errors
    /// [`DestinationError`]; the client is told its [`DestinationError::end_reason`].
    pub(crate) async fn connect(
        &self,
        host: &StreamHost,
        port: u16,
        origin: Origin,
    ) -> Result<SocketStream, DestinationError> {
        let deadline = Instant::now() + DEADLINE;
        let turn = self.attempts.turn(origin, Aim::of(host));
        let turn = timeout_at(deadline, turn).await;
        let attempt = turn.map_err(|_| DestinationError::TimedOut)?;
        let mut charge = Charge::none(&self.budget);
        if let StreamHost::Name(_) = host {
            charge.set(LOOKUP_BYTES);
        }
        let mut dials = Dials {
            exit: self,
            host,
            port,
            origin,
            own: Some(attempt),
            lookups: [None, None],
            dials: Vec::new(),
        };
        let connected = timeout_at(deadline, dials.run()).await;
        connected.unwrap_or_else(|_| dials.on_deadline())
    }
}

/// What a dial or a look-up will end with.
type Awaited<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A dial that is under way, or waits for its turn at the address. One that waits has no place among all attempts: what
/// it leads to may be silent for long, and others of the circuit lead elsewhere.
struct Dial<'a> {
    address: SocketAddr,
    /// When the dial began, if it has.
    began: Arc<OnceLock<Instant>>,
    /// What has become of the dial, and the place that it had.
    connected: Awaited<'a, Dialled>,
}

type Dialled = (Attempt, io::Result<SocketStream>);

impl Dial<'_> {
    /// Has the dial been under way for so long?
    fn has_lasted(&self, time: Duration, now: Instant) -> bool {
        self.began.get().is_some_and(|began| *began + time <= now)
    }
}

/// The addresses of a family, or why there are none.
type Found = Result<Vec<IpAddr>, LookupError>;

enum Happened {
    Found(Family, Found),
    Dialled(usize, Dialled),
    Time,
}

/// The look-ups and dials of one stream. What is dropped is given up.
struct Dials<'a> {
    exit: &'a ExitConnector,
    host: &'a StreamHost,
    port: u16,
    origin: Origin,
    /// The stream's own place, if no dial has it. Each further dial that is under way at once needs a place of its own.
    own: Option<Attempt>,
    lookups: [Option<Awaited<'a, Found>>; 2],
    dials: Vec<Dial<'a>>,
}

impl<'a> Dials<'a> {
    async fn run(&mut self) -> Result<SocketStream, DestinationError> {
        let fates = &self.exit.fates;
        let mut race = Race::new(fates.first_family(steady::now()));
        // Families of whose addresses it is known that no server answers are asked for when the other leads nowhere.
        let mut put_off = Vec::new();
        match self.host {
            StreamHost::Ip(ip) => self.on_found(&mut race, Family::of(*ip), vec![*ip]),
            StreamHost::Name(name) => {
                for family in Family::BOTH {
                    if self.exit.names.is_silent(name, family) {
                        put_off.push((name, family));
                    } else {
                        self.ask(&mut race, name, family);
                    }
                }
            }
        }
        loop {
            let until = loop {
                let now = Instant::now();
                match race.next(now) {
                    Step::Dial => self.dial(&mut race, now),
                    Step::Wait(until) => break until,
                    Step::Failed(error) if put_off.is_empty() => return Err(error),
                    Step::Failed(_) => {
                        for (name, family) in put_off.drain(..) {
                            self.ask(&mut race, name, family);
                        }
                    }
                }
            };
            match self.happened(until).await {
                Happened::Time => {}
                Happened::Found(family, Ok(ips)) => self.on_found(&mut race, family, ips),
                Happened::Found(family, Err(error)) => race.on_no_answer(family, error.into()),
                Happened::Dialled(number, (place, result)) => {
                    let dial = self.dials.swap_remove(number);
                    match result {
                        Ok(stream) => return Ok(self.on_connected(&dial, stream)),
                        Err(error) => {
                            self.put_back(place);
                            self.on_failed(&mut race, &dial, error.into());
                        }
                    }
                }
            }
        }
    }

    fn ask(&mut self, race: &mut Race, name: &'a str, family: Family) {
        race.on_asked(family);
        let names = &self.exit.names;
        self.lookups[family.index()] = Some(Box::pin(names.lookup(name, family)));
    }

    fn on_found(&self, race: &mut Race, family: Family, ips: Vec<IpAddr>) {
        let now = steady::now();
        let addresses = ips.into_iter().map(|ip| {
            let fate = self.exit.fates.of(ip, now);
            (fate, SocketAddr::new(ip, self.port))
        });
        race.on_addresses(Instant::now(), family, addresses);
    }

    /// Begins the next dial, if there is a place for it. Only a stream that has no other dial waits for one.
    fn dial(&mut self, race: &mut Race, now: Instant) {
        let (exit, origin) = (self.exit, self.origin);
        let Some(address) = race.peek() else {
            return;
        };
        // The policy is asked after resolution, and for each stream again, whether the answer was cached or not. This
        // keeps a name whose addresses change away from the exit's own network (S31).
        if address.port() == 0 || !exit.policy.allows(Transport::Tcp, address) {
            race.take(now);
            return race.on_failed(now, DestinationError::Policy);
        }
        let aim = Aim::of_address(address.ip());
        let place = match self.own.take() {
            Some(place) => Some(place),
            None if self.dials.len() < MOST_DIALS => exit.attempts.at_once(origin, &aim),
            None => None,
        };
        if place.is_none() && !self.dials.is_empty() {
            race.on_no_place(now);
            return self.make_room(race, now);
        }
        race.take(now);
        let dials = exit.destinations.to(address.ip());
        let turn = place.and_then(|place| Some((dials.at_once(origin, &aim)?, place)));
        let began = Arc::new(OnceLock::new());
        let begins = began.clone();
        let connected = Box::pin(async move {
            let (turn, place) = match turn {
                Some(turn) => turn,
                None => {
                    let turn = dials.turn(origin, aim.clone()).await;
                    (turn, exit.attempts.turn(origin, aim).await)
                }
            };
            let _ = begins.set(Instant::now());
            let connected = exit.sockets.connect(address).await;
            drop(turn);
            (place, connected)
        });
        self.dials.push(Dial {
            address,
            began,
            connected,
        });
    }

    /// Gives up the dial that has been silent for longest, if that is long.
    fn make_room(&mut self, race: &mut Race, now: Instant) {
        let silent = self.dials.iter().enumerate();
        let silent = silent.filter(|(_, dial)| dial.has_lasted(SILENT_AFTER, now));
        let longest = silent.min_by_key(|(_, dial)| dial.began.get().copied());
        if let Some((number, _)) = longest {
            let dial = self.dials.swap_remove(number);
            let (fates, ip) = (&self.exit.fates, dial.address.ip());
            fates.note(ip, Fate::Silent, now.into_std());
            self.on_failed(race, &dial, DestinationError::TimedOut);
        }
    }

    fn on_failed(&self, race: &mut Race, dial: &Dial<'a>, error: DestinationError) {
        let now = Instant::now();
        if error == DestinationError::Refused {
            let ip = dial.address.ip();
            self.exit.fates.note(ip, Fate::Answered, now.into_std());
        }
        race.on_failed(now, error);
    }

    /// Keeps a place for the next dial. A stream that dials keeps no more places than it has dials.
    fn put_back(&mut self, place: Attempt) {
        if self.own.is_none() && self.dials.is_empty() {
            self.own = Some(place);
        }
    }

    /// A dial has won. Those that began before it and are silent still are known to be so from now on.
    fn on_connected(&mut self, winner: &Dial<'_>, stream: SocketStream) -> SocketStream {
        let (fates, now) = (&self.exit.fates, Instant::now().into_std());
        fates.note(winner.address.ip(), Fate::Answered, now);
        let won = Family::of(winner.address.ip());
        let won_began = winner.began.get().copied();
        let beaten =
            |dial: &&Dial<'_>| won_began.is_some_and(|began| dial.has_lasted(ATTEMPT_DELAY, began));
        for dial in self.dials.iter().filter(beaten) {
            fates.note(dial.address.ip(), Fate::Silent, now);
        }
        let mut families = self.dials.iter().filter(beaten);
        if families.any(|dial| Family::of(dial.address.ip()) != won) {
            fates.on_beaten(won.other(), now);
        }
        self.on_silent_servers();
        // The calls fail only on a connection that is gone already; reading will show that.
        let _ = stream.tune();
        let _ = stream.keep_alive();
        stream
    }

    /// Notes which look-ups have had no answer up to now.
    fn on_silent_servers(&self) {
        if let StreamHost::Name(name) = self.host {
            for family in Family::BOTH {
                if self.lookups[family.index()].is_some() {
                    self.exit.names.on_silence(name, family);
                }
            }
        }
    }

    fn on_deadline(&mut self) -> Result<SocketStream, DestinationError> {
        let now = Instant::now();
        for dial in &self.dials {
            if dial.has_lasted(SILENT_AFTER, now) {
                let ip = dial.address.ip();
                self.exit.fates.note(ip, Fate::Silent, now.into_std());
            }
        }
        Err(DestinationError::TimedOut)
    }

    /// Waits until something has happened, or until a time.
    async fn happened(&mut self, until: Option<Instant>) -> Happened {
        let (lookups, dials) = (&mut self.lookups, &mut self.dials);
        let any = poll_fn(|cx| {
            for family in Family::BOTH {
                let lookup = &mut lookups[family.index()];
                if let Some(Poll::Ready(found)) = lookup.as_mut().map(|it| it.as_mut().poll(cx)) {
                    *lookup = None;
                    return Poll::Ready(Happened::Found(family, found));
                }
            }
            for (place, dial) in dials.iter_mut().enumerate() {
                if let Poll::Ready(result) = dial.connected.as_mut().poll(cx) {
                    return Poll::Ready(Happened::Dialled(place, result));
                }
            }
            Poll::Pending
        });
        match until {
            Some(until) => timeout_at(until, any).await.unwrap_or(Happened::Time),
            None => any.await,
        }
    }
}
