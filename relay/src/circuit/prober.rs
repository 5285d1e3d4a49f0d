//! Finds out whether another relay takes links and answers CREATE, for an authority (protocol.md 6.13.2).

use std::net::SocketAddr;
use std::sync::Arc;

use cepa_common::handshake::{ClientHandshake, ClientParams, HandshakeContext, OnionPublicKey};
use cepa_common::ids::{NetworkId, RelayId};
use cepa_common::world::random;

use super::EndContext;
use super::open_leg::OpenLeg;
use crate::admission::Party;

/// What a relay's descriptor says of how the relay is reached.
pub(crate) struct Reached {
    /// Who the relay is.
    pub(crate) relay: RelayId,
    /// The key that it proves on links.
    pub(crate) link_key: [u8; 32],
    /// The key by which it answers CREATE.
    pub(crate) onion: OnionPublicKey,
    /// Where it is.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// Looks at other relays as this relay, by links like those of EXTEND.
pub(crate) struct Prober {
    network: NetworkId,
    context: Arc<EndContext>,
}

impl Prober {
    /// What looks at relays of `network`.
    pub(crate) fn new(network: NetworkId, context: Arc<EndContext>) -> Self {
        Self { network, context }
    }

    /// Does the relay take a link at every address, and answer CREATE there? The caller sets a deadline. The links stay
    /// for whoever extends a circuit, until they have rested for long enough (protocol.md 2.11).
    pub(crate) async fn is_running(&self, at: Reached) -> bool {
        for address in &at.addresses {
            if self.opens(&at, *address).await.is_none() {
                return false;
            }
        }
        true
    }

    /// Opens a circuit at one address of a relay, and closes it again. `None` if that fails.
    async fn opens(&self, at: &Reached, address: SocketAddr) -> Option<()> {
        let links = &self.context.links;
        let dialled = links.dial(at.relay, at.link_key, &[address]).await;
        let link = dialled
            .inspect_err(|error| tracing::debug!(%error, "a relay takes no link"))
            .ok()?;
        let context = HandshakeContext {
            network: self.network,
            relay: at.relay,
            onion: at.onion,
        };
        let params = ClientParams::default();
        let (handshake, message) =
            ClientHandshake::start(&context, params, &mut random::rng()).ok()?;
        let mut leg = OpenLeg::open(
            &self.context,
            Party::Relay(at.relay),
            link,
            Box::new(message),
        );
        let reply = leg.answered().await?;
        handshake.finish(&reply).map(drop).ok()
    }
}
