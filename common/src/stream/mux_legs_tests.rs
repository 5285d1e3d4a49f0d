//! Two honest ends over two legs of a set, in any order of saying and hearing, while legs are lost and others join.

use std::collections::VecDeque;

use super::*;
use crate::cell::Payload;
use crate::cell::message::SECRET_LEN;

const SECRET: [u8; SECRET_LEN] = [5; SECRET_LEN];

/// What is on its way by one leg.
struct Way {
    leg: LegId,
    outward: VecDeque<Box<Payload>>,
    inward: VecDeque<Box<Payload>>,
}

struct Set {
    client: Mux<Opener>,
    relay: Mux<Acceptor>,
    /// The second circuit at the relay, until it joins.
    alone: Option<Mux<Acceptor>>,
    ways: Vec<Way>,
    /// Legs that are gone, of which one end still has to hear.
    gone: Vec<(bool, LegId)>,
    rng: StdRng,
    now: Instant,
    begun: Vec<StreamKey>,
}

impl Set {
    fn new() -> Self {
        let mut set = Self {
            client: mux(),
            relay: mux(),
            alone: None,
            ways: Vec::new(),
            gone: Vec::new(),
            rng: StdRng::seed_from_u64(11),
            now: Instant::now(),
            begun: Vec::new(),
        };
        set.way(LegId::FIRST);
        assert!(set.client.link(SECRET));
        set.settle();
        set.join();
        set.settle();
        assert!(set.client.is_complete() && set.relay.is_complete());
        set
    }

    fn way(&mut self, leg: LegId) {
        let (outward, inward) = (VecDeque::new(), VecDeque::new());
        self.ways.push(Way {
            leg,
            outward,
            inward,
        });
    }

    fn join(&mut self) {
        let leg = mux::<Opener>().take_leg().unwrap();
        let leg = self.client.join(leg, SECRET).unwrap();
        self.alone = Some(mux());
        self.way(leg);
    }

    fn say(&mut self, client: bool, which: usize) -> bool {
        let Some(way) = self.ways.get_mut(which) else {
            return false;
        };
        let mut payload = [0; PAYLOAD_LEN];
        let (rng, now) = (&mut self.rng, self.now);
        let filled = match client {
            true => self.client.fill(way.leg, now, rng, &mut payload),
            false => self.relay.fill(way.leg, now, rng, &mut payload),
        };
        if filled {
            let queue = if client {
                &mut way.outward
            } else {
                &mut way.inward
            };
            queue.push_back(Box::new(payload));
        }
        filled
    }

    /// An end reads what came next by a leg, and must find no fault in it.
    fn hear(&mut self, client: bool, which: usize) -> bool {
        let Some(way) = self.ways.get_mut(which) else {
            return false;
        };
        let queue = if client {
            &mut way.inward
        } else {
            &mut way.outward
        };
        let Some(payload) = queue.pop_front() else {
            return false;
        };
        let leg = way.leg;
        if client {
            let read = self.client.on_inward(leg, self.now, &payload);
            assert_eq!(read, Ok(None));
            return true;
        }
        let requests = match &mut self.alone {
            Some(alone) if !self.relay.has_leg(leg) => {
                alone.on_outward(LegId::FIRST, self.now, &payload)
            }
            _ => self.relay.on_outward(leg, self.now, &payload),
        };
        for request in requests.expect("legal") {
            match request {
                Request::Begin(key, _) => self.begun.push(key),
                Request::Link { leg, .. } if leg == LegId::FIRST => self.relay.begin_set(),
                Request::Link { leg, .. } => {
                    let circuit = self.alone.take().unwrap().take_leg().unwrap();
                    assert_eq!(self.relay.join(circuit, leg), Some(leg));
                }
                other => panic!("{other:?}"),
            }
        }
        true
    }

    /// A leg that both ends have is lost, with all that is on its way. The other end hears of it later.
    fn lose(&mut self, client: bool, which: usize) {
        let both = self.ways.len() == 2 && self.gone.is_empty() && self.alone.is_none();
        if !both || !self.client.legs().all(|leg| leg.linked) || !self.relay.is_complete() {
            return;
        }
        let leg = self.ways.remove(which % 2).leg;
        match client {
            true => self.client.lose_leg(leg),
            false => self.relay.lose_leg(leg),
        }
        self.gone.push((!client, leg));
    }

    fn hear_of_losses(&mut self) {
        for (client, leg) in core::mem::take(&mut self.gone) {
            match client {
                true => self.client.lose_leg(leg),
                false => self.relay.lose_leg(leg),
            }
        }
    }

    /// Carries payloads until neither end has anything to say.
    fn settle(&mut self) {
        self.hear_of_losses();
        let mut any = true;
        while any {
            any = false;
            for which in 0..self.ways.len() {
                for client in [true, false] {
                    any |= self.say(client, which);
                    any |= self.hear(client, which);
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Move {
    Act(Step),
    Say { client: bool, which: usize },
    Hear { client: bool, which: usize },
    Lose { client: bool, which: usize },
    HearOfLoss,
    Join,
}

fn moves() -> impl Strategy<Value = Move> {
    let at = || (any::<bool>(), 0..2usize);
    prop_oneof![
        24 => step().prop_map(Move::Act),
        16 => at().prop_map(|(client, which)| Move::Say { client, which }),
        14 => at().prop_map(|(client, which)| Move::Hear { client, which }),
        1 => at().prop_map(|(client, which)| Move::Lose { client, which }),
        2 => Just(Move::HearOfLoss),
        2 => Just(Move::Join),
    ]
}

proptest! {
    /// Whatever applications do, whichever leg is slow and whenever one is lost: two honest ends never find each other
    /// at fault, and nothing is left when all is said.
    #[test]
    fn two_honest_ends_of_a_set_agree(moves in proptest::collection::vec(moves(), 1..600)) {
        let mut set = Set::new();
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for one in moves {
            // Time passes, so that a leg has a round trip and the quicker one is known.
            set.now += core::time::Duration::from_millis(1);
            match one {
                Move::Act(Step::Open) => here.extend(set.client.open(StreamTarget::Directory)),
                Move::Act(step) => {
                    if let Step::Write { client, .. }
                    | Step::Read { client, .. }
                    | Step::Shutdown { client, .. }
                    | Step::Release { client, .. } = step
                    {
                        match client {
                            true => act(&mut set.client, &mut here, &step),
                            false => act(&mut set.relay, &mut there, &step),
                        }
                    }
                }
                Move::Say { client, which } => drop(set.say(client, which)),
                Move::Hear { client, which } => drop(set.hear(client, which)),
                Move::Lose { client, which } => set.lose(client, which),
                Move::HearOfLoss => set.hear_of_losses(),
                Move::Join if set.ways.len() == 1 && set.gone.is_empty() => {
                    if set.client.legs().count() == 1 && set.relay.legs().count() == 1 {
                        set.join();
                    }
                }
                Move::Join => {}
            }
            for key in core::mem::take(&mut set.begun) {
                set.relay.accept(key);
                there.push(key);
            }
        }
        set.settle();
        there.extend(core::mem::take(&mut set.begun));
        here.into_iter().for_each(|key| set.client.release(key));
        set.settle();
        there.extend(core::mem::take(&mut set.begun));
        there.into_iter().for_each(|key| set.relay.release(key));
        set.settle();
        prop_assert!(!set.client.is_lost() && !set.relay.is_lost());
        prop_assert!(set.client.streams.is_empty(), "{:?}", set.client.streams);
        prop_assert!(set.relay.streams.is_empty(), "{:?}", set.relay.streams);
        prop_assert!(set.client.ids.is_empty() && set.relay.ids.is_empty());
    }
}

#[test]
fn a_leg_takes_no_padding() {
    let mut set = Set::new();
    let mut payload = [0; PAYLOAD_LEN];
    let mut packer = Packer::new(&mut payload);
    packer.padding().unwrap();
    packer.finish();
    let read = set.relay.on_outward(LegId::FIRST, set.now, &payload);
    assert!(matches!(read, Err(Violation::Linking)), "{read:?}");
}
