//! The streams of a circuit.

use std::sync::Arc;
use std::time::Instant;

use rand_core::CryptoRng;

use crate::budget::Budget;
use crate::cell::PAYLOAD_LEN;
use crate::flow::FixedWindow;
use crate::stream::{Acceptor, LegId, Mux, MuxConfig, Opener, StreamEnd, Violation};

/// One end of a circuit: 64 cells may be on their way, every eighth is marked, and a stream has a first credit of 64
/// KiB. What the streams hold is charged to `budget`.
pub fn mux<E: StreamEnd>(budget: &Arc<Budget>) -> Mux<E> {
    Mux::new(MuxConfig {
        control: Box::new(FixedWindow(64)),
        mark_interval_cells: 8,
        stream_window_bytes: 1 << 16,
        budget: budget.clone(),
    })
}

/// Hands each end of a circuit of one leg what the other has to say, until neither says any more.
///
/// # Errors
/// The rule that an end finds broken.
pub fn exchange(
    client: &mut Mux<Opener>,
    relay: &mut Mux<Acceptor>,
    now: Instant,
    rng: &mut impl CryptoRng,
) -> Result<(), Violation> {
    let mut payload = [0; PAYLOAD_LEN];
    loop {
        if client.fill(LegId::FIRST, now, rng, &mut payload) {
            relay.on_outward(LegId::FIRST, now, &payload)?;
        } else if relay.fill(LegId::FIRST, now, rng, &mut payload) {
            client.on_inward(LegId::FIRST, now, &payload)?;
        } else {
            return Ok(());
        }
    }
}
