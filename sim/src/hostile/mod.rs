//! Nodes that turned hostile: relays that change or fail what they pass on or flood others, and authorities that vote
//! against the rules.
//!
//! A hostile relay is the real one. Its owner sits where its links encrypt, once for each batch of cells
//! ([`cells`]; `GivenStream::forged` in `common/src/world/sockets.rs`): a connection of a real machine has no such
//! place, and a cell no second path. What needs no secret of a real relay is a task beside it: [`flood`] and [`votes`]
//! dial others with the relay's own keys, and say by hand what no relay would.

mod cells;
mod flood;
mod votes;

use std::sync::Arc;

pub(crate) use cells::CellForger;

use crate::node::NodeKeys;
use crate::scenario::Hostility;
use crate::site::Site;

/// What the owner of a hostile node does beside the node, for as long as the task is let live.
pub(crate) async fn beside(
    site: Arc<Site>,
    node: u32,
    world: cepa_common::world::World,
    how: Hostility,
) {
    let keys = NodeKeys::of(site.plan.seed, node);
    match how {
        Hostility::VoteTwice => votes::vote_twice(&site, node, &world, &keys).await,
        how => flood::flood(&site, node, &world, how).await,
    }
}
