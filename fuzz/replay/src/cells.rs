//! Targets for what peers send: cells, messages and HELLOs.

use std::time::{Duration, Instant};

use cepa_common::cell::codec::{self, Head};
use cepa_common::cell::message::{Inward, Outward, SECRET_LEN, Telescope, messages};
use cepa_common::cell::{CELL_LEN, PAYLOAD_LEN};
use cepa_common::flow::FixedWindow;
use cepa_common::handshake::{ClientParams, RelayParams};
use cepa_common::link::Hello;
use cepa_common::stream::{JoinAs, LegId, Mux, MuxConfig, Request, Side};
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

fn end(side: Side) -> Mux {
    Mux::new(MuxConfig {
        side,
        control: Box::new(FixedWindow(32)),
        mark_interval_cells: 8,
        stream_window_bytes: 64 * 1024,
        budget: cepa_common::budget::Budget::unlimited(),
    })
}

/// Gives `mux` a second leg, as if the other end had accepted it or asked for it.
fn join(mux: &mut Mux, side: Side) -> Option<LegId> {
    let leg = end(side).take_leg()?;
    mux.join(
        leg,
        match side {
            Side::Client => JoinAs::Client([6; SECRET_LEN]),
            Side::Relay => JoinAs::Relay(LegId::from_wire(1)),
        },
    )
}

/// Holds a conversation with either end of a circuit. The first byte says which end, and whether there are two legs.
/// Then come payloads, each of them a length of two bytes and the first bytes of the payload. The length's highest bit
/// says the leg.
pub(crate) fn mux(data: &[u8]) -> bool {
    let Some((&first, mut rest)) = data.split_first() else {
        return false;
    };
    let side = if first & 1 == 0 {
        Side::Relay
    } else {
        Side::Client
    };
    let legs = first & 2 != 0;
    let (mut mux, mut second) = (end(side), None);
    let mut rng = StdRng::seed_from_u64(1);
    let mut now = Instant::now();
    if side == Side::Client {
        for port in 1..=3 {
            let address = ([192, 0, 2, 1], port).into();
            let _ = cepa_common::stream::Target::address(address).map(|t| mux.open(t));
        }
        if legs {
            mux.link([6; SECRET_LEN]);
        }
    }
    speak(&mut mux, None, side, now, &mut rng);
    while let Some((len, more)) = rest.split_first_chunk::<2>() {
        let len = u16::from_be_bytes(*len);
        let leg = second.filter(|_| len >> 15 == 1).unwrap_or(LegId::FIRST);
        let len = usize::from(len & 0x7fff).min(more.len());
        let payload = padded::<PAYLOAD_LEN>(&more[..len]);
        rest = &more[len..];
        now += Duration::from_millis(10);
        let result = match side {
            Side::Client => mux.on_inward(leg, now, &payload).map(|_| Vec::new()),
            Side::Relay => mux.on_outward(leg, now, &payload),
        };
        let Ok(requests) = result else {
            // The circuit ends with the first violation.
            mux.lose();
            return false;
        };
        for request in requests {
            match request {
                Request::Begin(key, _) => mux.accept(key),
                Request::Link { .. } => mux.begin_set(),
                Request::Extend { .. } => {}
            }
        }
        if legs && second.is_none() && mux.is_linked() {
            second = join(&mut mux, side);
        }
        speak(&mut mux, second, side, now, &mut rng);
    }
    true
}

/// Takes what the end has to send. The other end must understand it.
fn speak(mux: &mut Mux, second: Option<LegId>, side: Side, now: Instant, rng: &mut StdRng) {
    let mut out = [0; PAYLOAD_LEN];
    for leg in [Some(LegId::FIRST), second].into_iter().flatten() {
        while mux.fill(leg, now, rng, &mut out) {
            let understood = match side {
                Side::Client => messages::<Outward<'_>>(&out).all(|m| m.is_ok()),
                Side::Relay => messages::<Inward<'_>>(&out).all(|m| m.is_ok()),
            };
            assert!(understood);
        }
    }
}
