//! The seam to the world: whatever a node learns from its machine or asks of it passes through this room.
//!
//! A clock, a random number, a blocking call or a socket from anywhere else could not be replaced, and a run of a whole
//! network on virtual time could not be repeated. So `clippy.toml` bans such calls by name, and everybody asks here.
//! [`steady`] has the time that only moves forward, for waits and round trips; [`clock`] has the time of day;
//! [`random`] has randomness; [`blocking`] takes work that blocks its thread; [`sockets`] has connections and
//! [`datagrams`] datagrams, and [`owners`] says whose sockets are; [`names`] has what an exit asks for addresses; [`disk`] has what is kept across a restart. A
//! [`World`] holds those that differ from node to node.
//!
//! A process is real or simulated from its first line to its last. [`simulate`] refuses as soon as a real socket, this
//! machine's disk or the system's randomness was used. After [`simulate`] those refuse, and so do the system's clock,
//! its name servers and threads. So no mistake gives a real node predictable keys.

pub mod blocking;
pub mod clock;
pub mod datagrams;
#[expect(clippy::disallowed_methods, reason = "this is the seam")]
pub mod disk;
pub mod hangup;
mod kind;
#[cfg(any(test, feature = "simulation"))]
pub mod memory;
pub mod names;
pub mod owners;
pub mod random;
pub mod simulation;
pub mod sockets;
pub mod steady;

pub use clock::Clock;
pub use datagrams::DatagramSocket;
pub use disk::Disk;
pub use kind::{NotSimulated, simulate};
pub use names::Names;
pub use simulation::{NodeLife, Simulation};
pub use sockets::Sockets;

/// The world as one node sees it. Relays and clients take one as an option. The default is the real world.
#[derive(Clone, Debug)]
pub struct World {
    /// How the node reaches others.
    pub sockets: Sockets,
    /// What time of day the node has.
    pub clock: Clock,
    /// How an exit finds addresses of names.
    pub names: Names,
    /// Where the node keeps its state.
    pub disk: Disk,
}

impl Default for World {
    fn default() -> Self {
        Self {
            sockets: Sockets::Tcp,
            clock: Clock::system(),
            names: Names::Dns,
            disk: Disk::Real,
        }
    }
}
