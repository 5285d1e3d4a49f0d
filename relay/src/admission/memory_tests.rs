#![allow(clippy::unwrap_used)]

use cepa_common::cell::message::{LegMessage, Packer, SECRET_LEN};
use cepa_common::cell::{CELL_LEN, PAYLOAD_LEN};
use cepa_common::ids::{RelayId, StreamId};
use cepa_common::limits::STREAM_BYTES;
use cepa_common::net::circuit_io::StreamIo;
use cepa_common::stream::{LegId, Mux, Opener, Request, StreamTarget};
use cepa_common::testkit::mux;
use tokio::io::AsyncWriteExt;

use super::*;

fn circ(n: u32) -> CircId {
    CircId::new(n).unwrap()
}

/// A party that is a relay, and so without a bound of its own.
fn relay(n: u8) -> Party {
    Party::Relay(RelayId([n; 32]))
}

fn relieve(memory: &Memory, now: Instant) -> u64 {
    let Relief { of_all, of_share } = memory.relieve(now);
    assert_eq!(of_share, 0, "no party held more than its share");
    of_all
}

/// The streams of a circuit, and one of them that its client has begun.
fn begun(budget: &Arc<Budget>) -> (Arc<Streams<Acceptor>>, StreamIo<Acceptor>) {
    let mut client = mux::<Opener>(&Budget::unlimited());
    client.open(StreamTarget::Directory).unwrap();
    let (mut payload, now) = ([0; PAYLOAD_LEN], Instant::now());
    assert!(client.fill(LegId::FIRST, now, &mut rand::rng(), &mut payload));
    let mut relay = mux::<Acceptor>(budget);
    let asked = relay.on_outward(LegId::FIRST, now, &payload).unwrap().pop();
    let Some(Request::Begin(key, _)) = asked else {
        panic!("a stream is begun");
    };
    let streams = Streams::new(relay);
    let stream = streams.hold(key);
    (streams, stream)
}

fn waits(link: &LinkQueue) -> Vec<u32> {
    link.waiting().iter().map(|one| one.circ.get()).collect()
}

/// An owner lowers the limit under load: what is too much ends, the longest wait first, and shares shrink with it.
#[test]
fn a_limit_that_is_lowered_ends_what_is_too_much() {
    let memory = Memory::new(1_000 * CELL_LEN);
    let link = Arc::new(LinkQueue::new(100, memory.budget()));
    memory.add_link(relay(1), &link);
    for n in 1..=3 {
        link.push(circ(n), &[0; 4 * CELL_LEN]).unwrap();
    }
    let later = steady::now() + STALLED;
    assert_eq!(relieve(&memory, later), 0);
    memory.set_limit(10 * CELL_LEN);
    assert!(memory.budget().is_exceeded());
    // Twelve cells were queued; the low water is at seven and a half.
    assert_eq!(relieve(&memory, later), 2);
    assert!(!memory.budget().is_exceeded());
    assert_eq!(waits(&link), [3]);
    let site = memory.of(Party::Link(7));
    assert_eq!(site.limit(), 10 * CELL_LEN / 4);
    memory.set_limit(100 * CELL_LEN);
    assert_eq!(site.limit(), 100 * CELL_LEN / 4);
    assert_eq!(memory.of(relay(1)).limit(), isize::MAX.unsigned_abs());
}

#[test]
fn the_longest_wait_ends_first_and_no_more_than_needed() {
    let memory = Memory::new(10 * CELL_LEN);
    let budget = memory.budget();
    let links = [(); 2].map(|()| Arc::new(LinkQueue::new(100, budget)));
    links
        .iter()
        .for_each(|link| memory.add_link(relay(1), link));
    for (link, n) in [(0, 1), (1, 2), (0, 3)] {
        links[link].push(circ(n), &[0; 4 * CELL_LEN]).unwrap();
    }
    assert!(budget.is_exceeded());
    let later = steady::now() + STALLED;
    assert_eq!(relieve(&memory, later), 2);
    // Twelve cells were queued; the low water is at seven and a half.
    assert_eq!((waits(&links[0]), waits(&links[1])), (vec![3], vec![]));
    assert_eq!(relieve(&memory, later), 0, "there is room already");
    assert_eq!(waits(&links[0]), [3]);
}

#[tokio::test]
async fn of_equal_waits_the_older_link_and_the_lower_circuit_go_first() {
    let memory = Memory::new(1 << 20);
    let budget = memory.budget();
    let links = [(); 8].map(|()| Arc::new(LinkQueue::new(100, budget)));
    // All have waited since the same moment. The order in which they were added does not decide.
    let (stalled, mut stream) = begun(budget);
    stream.write_all(b"nobody reads this").await.unwrap();
    let mut charges = Vec::new();
    for n in [3, 1, 2] {
        for link in links.iter().rev() {
            charges.push(memory.add_circuit(relay(1), link, circ(n), &stalled));
        }
    }
    let parties = memory.parties();
    let now = steady::now() + STALLED;
    let Found { candidates, .. } = Found::look_at(now, parties.held.iter());
    let (order, _) = victims::choose(&candidates, now, usize::MAX);
    let order = order.iter().map(|at| candidates[*at].place);
    let circuits = |link: &Arc<LinkQueue>| [1, 2, 3].map(|n| (link.serial(), circ(n)));
    assert!(order.eq(links.iter().flat_map(circuits)));
}

#[tokio::test]
async fn what_streams_hold_counts_and_is_given_back() {
    let memory = Memory::new(64 * 1024);
    let budget = memory.budget();
    let link = Arc::new(LinkQueue::new(100, budget));
    let (stalled, mut stream) = begun(budget);
    let _charge = memory.add_circuit(relay(1), &link, circ(1), &stalled);
    stream.write_all(&[1; 100 * 1024]).await.unwrap();
    assert!(budget.is_exceeded());
    relieve(&memory, steady::now());
    assert_eq!(
        budget.used(),
        CIRCUIT_BYTES + STREAM_BYTES,
        "its task and its application still hold it"
    );
    assert!(stalled.mux().is_lost());
    assert!(
        stream.write_all(b"more").await.is_err(),
        "the application hears of it"
    );
}

/// The streams of a circuit that is a leg, with this many payloads that came early and wait.
fn with_early_payloads(budget: &Arc<Budget>, payloads: u16) -> Arc<Streams<Acceptor>> {
    let (mut relay, now) = (mux::<Acceptor>(budget), Instant::now());
    let say = |relay: &mut Mux<Acceptor>, pack: &dyn Fn(&mut Packer<'_>)| {
        let mut payload = [0; PAYLOAD_LEN];
        let mut packer = Packer::new(&mut payload);
        pack(&mut packer);
        packer.finish();
        relay.on_outward(LegId::FIRST, now, &payload).unwrap();
    };
    let secret = &[1; SECRET_LEN];
    say(&mut relay, &|p| {
        p.leg(&LegMessage::Link { secret, leg: 0 }).unwrap();
    });
    relay.begin_set();
    for n in 1..=payloads {
        say(&mut relay, &|p| {
            p.leg(&LegMessage::Switch(n.into())).unwrap();
            p.begin_dir(StreamId::new(n).unwrap()).unwrap();
        });
    }
    Streams::new(relay)
}

#[tokio::test]
async fn who_holds_early_payloads_for_ever_goes_first() {
    let memory = Memory::new(800 * 1024);
    let budget = memory.budget();
    let link = Arc::new(LinkQueue::new(100, budget));
    let hostile = with_early_payloads(budget, 400);
    let _charge = memory.add_circuit(relay(1), &link, circ(1), &hostile);
    let (honest, mut stream) = begun(budget);
    let _charge = memory.add_circuit(relay(1), &link, circ(2), &honest);
    let mut others = Vec::new();
    while !budget.is_exceeded() {
        stream.write_all(&[1; 8 * 1024]).await.unwrap();
        others.push(begun(budget));
    }
    relieve(&memory, steady::now() + STALLED);
    assert!(hostile.mux().is_lost());
    assert!(!honest.mux().is_lost());
    assert!(!budget.is_above_low_water());
}

#[tokio::test]
async fn the_party_that_holds_most_goes_before_who_moves() {
    let memory = Memory::new(400 * 1024);
    let budget = memory.budget();
    let links = [(); 2].map(|()| Arc::new(LinkQueue::new(100, budget)));
    let (honest, mut stream) = begun(budget);
    let _charge = memory.add_circuit(relay(1), &links[0], circ(1), &honest);
    stream.write_all(&[1; 100 * 1024]).await.unwrap();
    let mut hostile = Vec::new();
    for n in 1..=24 {
        let (circuit, mut stream) = begun(budget);
        let charge = memory.add_circuit(relay(2), &links[1], circ(n), &circuit);
        stream.write_all(&[1; 8 * 1024]).await.unwrap();
        hostile.push((circuit, stream, charge));
    }
    assert!(budget.is_exceeded());
    // Nothing has stalled: each circuit of the other party holds a tenth of what the honest circuit holds.
    assert!(relieve(&memory, steady::now()) > 8);
    assert!(!honest.mux().is_lost());
    assert!(hostile[0].0.mux().is_lost());
}

#[test]
fn answers_that_nobody_reads_cost_the_link() {
    let memory = Memory::new(1 << 20);
    let budget = memory.budget();
    let links = [(); 2].map(|()| Arc::new(LinkQueue::new(100, budget)));
    links
        .iter()
        .for_each(|link| memory.add_link(Party::Link(7), link));
    for n in 1..=600 {
        links[1].push_last(circ(n), &[0; CELL_LEN]);
    }
    links[0].push_last(circ(1), &[0; CELL_LEN]);
    assert!(budget.is_exceeded());
    assert_eq!(relieve(&memory, steady::now()), 1);
    assert_eq!(budget.used(), CELL_LEN);
    let goes_on = links
        .each_ref()
        .map(|link| link.take_commands(&mut Vec::new()));
    assert_eq!(goes_on, [true, false]);
}

/// The links of a relay to two parties, and to the relay to which their circuits go on.
struct Passing {
    memory: Arc<Memory>,
    next: Arc<LinkQueue>,
    ever: u32,
}

impl Passing {
    fn new(bytes: usize) -> Self {
        let memory = Memory::new(bytes);
        let next = Arc::new(LinkQueue::new(100, &memory.of(relay(9))));
        memory.add_link(relay(9), &next);
        let ever = 0;
        Self { memory, next, ever }
    }

    fn link(&self, party: Party) -> Arc<LinkQueue> {
        let link = Arc::new(LinkQueue::new(100, &self.memory.of(party)));
        self.memory.add_link(party, &link);
        link
    }

    fn pass(&mut self, party: Party, link: &Arc<LinkQueue>) -> (CircId, Arc<Passage>) {
        self.ever += 1;
        let circ = circ(self.ever);
        let passage = self
            .memory
            .add_passing(party, (link, circ), (&self.next, circ));
        (circ, passage)
    }
}

/// The circuits that a link is told to destroy. `None`: the link is told to close.
fn told(link: &LinkQueue) -> Option<Vec<CircId>> {
    let mut commands = Vec::new();
    let goes_on = link.take_commands(&mut commands);
    let circuits = commands.into_iter().map(|command| match command {
        TableCommand::Destroy { circ, .. } => circ,
        _ => panic!("circuits are destroyed, and nothing else is asked"),
    });
    goes_on.then(|| circuits.collect())
}

#[test]
fn a_stranger_has_a_quarter_and_loses_its_own_circuits_over_that() {
    let mut world = Passing::new(1 << 20);
    let (stranger, honest) = (Party::Link(1), Party::Link(2));
    let links = [world.link(stranger), world.link(honest)];
    let (_, kept) = world.pass(honest, &links[1]);
    let share = (1 << 20) / 4;
    let most = share / PASSING_BYTES;
    let flood: Vec<_> = (0..most).map(|_| world.pass(stranger, &links[0])).collect();
    assert_eq!(world.memory.relieve(steady::now()), Relief::default());
    let _last = world.pass(stranger, &links[0]);
    let Relief { of_all, of_share } = world.memory.relieve(steady::now());
    assert_eq!(of_all, 0);
    // Down to three quarters of the share, in the order in which they came.
    let ended = told(&links[0]).unwrap();
    assert_eq!(ended.len() as u64, of_share);
    assert!(ended.len() >= most / 4 && ended.len() <= most / 4 + 2);
    assert!(
        ended
            .iter()
            .eq(flood[..ended.len()].iter().map(|(circ, _)| circ))
    );
    assert_eq!(told(&links[1]), Some(vec![]));
    // The relay behind hears of each as well.
    assert_eq!(told(&world.next), Some(ended));
    drop((flood, kept));
}

#[test]
fn a_relay_has_no_share_and_the_party_that_holds_most_loses() {
    let mut world = Passing::new(1 << 20);
    let links = [world.link(relay(1)), world.link(relay(2))];
    let some: Vec<_> = (0..60).map(|_| world.pass(relay(1), &links[0])).collect();
    let mut many = Vec::new();
    while !world.memory.budget().is_exceeded() {
        many.push(world.pass(relay(2), &links[1]));
    }
    let Relief { of_all, of_share } = world.memory.relieve(steady::now());
    assert_eq!(of_share, 0);
    assert_eq!(told(&links[0]), Some(vec![]), "another party holds more");
    assert_eq!(told(&links[1]).unwrap().len() as u64, of_all);
    drop((some, many));
}

#[test]
fn a_relay_never_loses_its_whole_link() {
    let memory = Memory::new(1 << 20);
    let link = Arc::new(LinkQueue::new(100, &memory.of(relay(1))));
    memory.add_link(relay(1), &link);
    for n in 1..=600 {
        link.push_last(circ(n), &[0; CELL_LEN]);
    }
    assert!(memory.budget().is_exceeded());
    assert_eq!(memory.relieve(steady::now()), Relief::default());
    assert_eq!(told(&link), Some(vec![]));
}

#[test]
fn cells_that_wait_for_the_next_link_count_for_the_party_that_sent_them() {
    let mut world = Passing::new(1 << 20);
    let links = [world.link(relay(1)), world.link(relay(2))];
    // One party has more circuits, the other one more bytes, which wait for a link to somebody else.
    let many: Vec<_> = (0..100).map(|_| world.pass(relay(1), &links[0])).collect();
    let heavy: Vec<_> = (0..10).map(|_| world.pass(relay(2), &links[1])).collect();
    for (circ, _) in &heavy {
        world.next.push(*circ, &[0; 40 * CELL_LEN]).unwrap();
    }
    assert!(world.memory.budget().is_exceeded());
    assert!(relieve(&world.memory, steady::now()) > 0);
    assert_eq!(told(&links[0]), Some(vec![]));
    let ended = told(&links[1]).unwrap();
    assert!(!ended.is_empty());
    assert_eq!(
        waits(&world.next).len(),
        heavy.len() - ended.len(),
        "what waited is dropped"
    );
    drop(many);
}

#[test]
fn what_is_gone_is_forgotten() {
    let memory = Memory::new(1 << 20);
    for n in 0..1_000 {
        let link = Arc::new(LinkQueue::new(100, &memory.of(Party::Link(n))));
        memory.add_link(Party::Link(n), &link);
        let next = (&link, circ(2));
        drop(memory.add_passing(Party::Link(n), (&link, circ(1)), next));
    }
    assert!(memory.parties().held.len() <= 65);
    assert_eq!(memory.budget().used(), 0);
}
