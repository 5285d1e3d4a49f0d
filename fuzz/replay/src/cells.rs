//! Targets for what peers send: cells, messages and HELLOs.

use std::time::{Duration, Instant};

use cepa_common::cell::codec::{self, Head};
use cepa_common::cell::message::{Inward, Outward, SECRET_LEN, Telescope, messages};
use cepa_common::cell::{CELL_LEN, PAYLOAD_LEN, Payload};
use cepa_common::flow::FixedWindow;
use cepa_common::handshake::{ClientParams, RelayParams};
use cepa_common::link::Hello;
use cepa_common::stream::{
    Acceptor, LegId, Mux, MuxConfig, Opener, Request, StreamEnd, StreamHost, StreamTarget,
    Violation,
};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Puts `data` at the front of a cell or payload, with zeros behind it, as senders write them.
fn padded<const N: usize>(data: &[u8]) -> [u8; N] {
    let mut all = [0; N];
    let len = data.len().min(N);
    all[..len].copy_from_slice(&data[..len]);
    all
}

/// Reads a cell's head and the bodies that are not encrypted. What was read is written, and must give the same bytes.
pub(crate) fn cell(data: &[u8]) -> bool {
    let cell = padded::<CELL_LEN>(data);
    let body = codec::body(&cell);
    let _ = codec::parse_create(body);
    let _ = codec::parse_created(body);
    let reason = codec::parse_destroy(body);
    match codec::head(&cell) {
        Ok(Head::Circuit(circ, command)) => {
            let mut again = cell;
            codec::write_circuit_head(&mut again, circ, command);
            assert_eq!(again, cell);
            if let (codec::CircuitCommand::Destroy, Ok(reason)) = (command, reason) {
                assert_eq!(codec::destroy(circ, reason), cell);
            }
        }
        Ok(Head::Link(command)) => {
            let mut again = cell;
            codec::write_link_head(&mut again, command);
            assert_eq!(again, cell);
        }
        Err(_) => return false,
    }
    true
}

/// Reads an opened payload as each party would.
pub(crate) fn message(data: &[u8]) -> bool {
    let payload = padded::<PAYLOAD_LEN>(data);
    let outward = messages::<Outward<'_>>(&payload).all(|m| m.is_ok());
    let inward = messages::<Inward<'_>>(&payload).all(|m| m.is_ok());
    let telescope = messages::<Telescope<'_>>(&payload).all(|m| m.is_ok());
    outward || inward || telescope
}

/// Reads the first cell of a link.
pub(crate) fn hello(data: &[u8]) -> bool {
    let Ok(hello) = Hello::decode(&padded::<CELL_LEN>(data)) else {
        return false;
    };
    assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    true
}

/// Reads the sealed parameters of a circuit handshake.
pub(crate) fn params(data: &[u8]) -> bool {
    let client = ClientParams::decode(&padded(data));
    let relay = RelayParams::decode(&padded(data));
    let accepted = client.is_ok() || relay.is_ok();
    if let Ok(params) = client {
        assert_eq!(ClientParams::decode(&params.encode()), Ok(params));
    }
    if let Ok(params) = relay {
        assert_eq!(RelayParams::decode(&params.encode()), Ok(params));
        let _ = params.check();
    }
    accepted
}

fn end<E: StreamEnd>() -> Mux<E> {
    Mux::new(MuxConfig {
        control: Box::new(FixedWindow(32)),
        mark_interval_cells: 8,
        stream_window_bytes: 64 * 1024,
        budget: cepa_common::budget::Budget::unlimited(),
    })
}

/// What the conversation needs to know of either end.
trait Talks: StreamEnd {
    /// Begins the conversation, if this end is the one that begins.
    fn begin(mux: &mut Mux<Self>, legs: bool);
    /// Reads a payload, and does what it asks for.
    fn hear(
        mux: &mut Mux<Self>,
        leg: LegId,
        now: Instant,
        payload: &Payload,
    ) -> Result<(), Violation>;
    /// Gives `mux` a second leg, as if the other end had accepted it or asked for it.
    fn join(mux: &mut Mux<Self>) -> Option<LegId>;
    /// Does the other end understand the payload?
    fn is_understood(payload: &Payload) -> bool;
}

impl Talks for Opener {
    fn begin(mux: &mut Mux<Self>, legs: bool) {
        for port in 1..=3 {
            let address = ([192, 0, 2, 1], port).into();
            let _ = StreamTarget::address(address).map(|t| mux.open(t));
        }
        let association = mux.associate();
        let peer = StreamHost::Name("a.example".to_owned());
        let _ = association.map(|it| mux.send_datagram(it, Instant::now(), &peer, 53, &[7; 4_000]));
        if legs {
            mux.link([6; SECRET_LEN]);
        }
    }

    fn hear(
        mux: &mut Mux<Self>,
        leg: LegId,
        now: Instant,
        payload: &Payload,
    ) -> Result<(), Violation> {
        mux.on_inward(leg, now, payload).map(|_| ())
    }

    fn join(mux: &mut Mux<Self>) -> Option<LegId> {
        mux.join(end().take_leg()?, [6; SECRET_LEN])
    }

    fn is_understood(payload: &Payload) -> bool {
        messages::<Outward<'_>>(payload).all(|m| m.is_ok())
    }
}

impl Talks for Acceptor {
    fn begin(_: &mut Mux<Self>, _: bool) {}

    fn hear(
        mux: &mut Mux<Self>,
        leg: LegId,
        now: Instant,
        payload: &Payload,
    ) -> Result<(), Violation> {
        for request in mux.on_outward(leg, now, payload)? {
            match request {
                Request::Begin(key, _) => mux.accept(key),
                Request::Associate(key) => mux.bind(key),
                Request::Link { .. } => mux.begin_set(),
                Request::Extend { .. } => {}
            }
        }
        Ok(())
    }

    fn join(mux: &mut Mux<Self>) -> Option<LegId> {
        mux.join(end().take_leg()?, LegId::from_wire(1))
    }

    fn is_understood(payload: &Payload) -> bool {
        messages::<Inward<'_>>(payload).all(|m| m.is_ok())
    }
}

/// Holds a conversation with either end of a circuit. The first byte says which end, and whether there are two legs.
/// Then come payloads, each of them a length of two bytes and the first bytes of the payload. The length's highest bit
/// says the leg.
pub(crate) fn mux(data: &[u8]) -> bool {
    let Some((&first, rest)) = data.split_first() else {
        return false;
    };
    let legs = first & 2 != 0;
    if first & 1 == 0 {
        talk::<Acceptor>(legs, rest)
    } else {
        talk::<Opener>(legs, rest)
    }
}

fn talk<E: Talks>(legs: bool, mut rest: &[u8]) -> bool {
    let (mut mux, mut second) = (end::<E>(), None);
    let mut rng = StdRng::seed_from_u64(1);
    let mut now = Instant::now();
    E::begin(&mut mux, legs);
    speak(&mut mux, None, now, &mut rng);
    while let Some((len, more)) = rest.split_first_chunk::<2>() {
        let len = u16::from_be_bytes(*len);
        let leg = second.filter(|_| len >> 15 == 1).unwrap_or(LegId::FIRST);
        let len = usize::from(len & 0x7fff).min(more.len());
        let payload = padded::<PAYLOAD_LEN>(&more[..len]);
        rest = &more[len..];
        now += Duration::from_millis(10);
        if E::hear(&mut mux, leg, now, &payload).is_err() {
            // The circuit ends with the first violation.
            mux.lose();
            return false;
        }
        if legs && second.is_none() && mux.is_linked() {
            second = E::join(&mut mux);
        }
        speak(&mut mux, second, now, &mut rng);
    }
    true
}

/// Takes what the end has to send. The other end must understand it.
fn speak<E: Talks>(mux: &mut Mux<E>, second: Option<LegId>, now: Instant, rng: &mut StdRng) {
    let mut out = [0; PAYLOAD_LEN];
    for leg in [Some(LegId::FIRST), second].into_iter().flatten() {
        while mux.fill(leg, now, rng, &mut out) {
            assert!(E::is_understood(&out));
        }
    }
}
