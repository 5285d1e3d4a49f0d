//! The parts of a plan.

use core::time::Duration;
use std::net::IpAddr;

use cepa_common::world::memory::Line;

use crate::cities::City;
use crate::load::Job;
use crate::scenario::{Fault, Hostility};

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A directory authority, which is a relay too.
    Authority,
    /// A relay that is no exit.
    Relay,
    /// An exit to everywhere.
    Exit,
    /// A client.
    Client,
}

impl Role {
    /// The role's name in a scenario.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Relay => "relay",
            Self::Exit => "exit",
            Self::Client => "client",
        }
    }
}

/// One node of a run.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Number of the node in the run, by which its randomness is drawn.
    pub number: u32,
    /// What the node is.
    pub role: Role,
    /// The node's name, for example `relay-3`.
    pub name: String,
    /// The node's only address.
    pub address: IpAddr,
    /// Where the node is.
    pub city: City,
    /// From the city to the node (one way).
    pub last_mile: Duration,
    /// The node's line.
    pub line: Line,
    /// When the node is started.
    pub starts: Duration,
    /// What the node's user does: nothing, unless the node is a client.
    pub jobs: Vec<Job>,
}

/// Something that goes wrong, to whom and how much. Nodes are named by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// The process is killed.
    Kill(u32),
    /// The machine loses its power. What was not synced is lost as the number says.
    Power(u32, u64),
    /// The node is stopped in good order.
    Stop(u32),
    /// The cable is pulled.
    Silence(u32),
    /// Two sets of nodes do not reach one another.
    Partition(Vec<u32>, Vec<u32>),
    /// Every byte takes longer.
    Delay(u32, Duration),
    /// Parts of a million packets are lost.
    Loss(u32, u32),
    /// The line carries so many bytes a second.
    Slow(u32, u64),
    /// The clock is set ahead by so many milliseconds.
    Clock(u32, i64),
    /// The clock is too fast by parts of a million.
    Drift(u32, i32),
    /// The disk is full.
    FullDisk(u32),
    /// Name servers say nothing.
    NamesSilent(u32),
    /// Name servers lie.
    NamesLie(u32),
    /// So many connections are all that there are.
    FewSockets(u32, usize),
    /// Reads and writes take a few bytes.
    Dribble(u32),
    /// The owner turns hostile.
    Hostile(u32, Hostility),
}

/// A fault with its time.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    /// When the fault begins.
    pub begins: Duration,
    /// When the fault is over; `None` if it is for good.
    pub ends: Option<Duration>,
    /// What happens.
    pub act: Act,
    /// The fault as a scenario names it exactly: what shrinking writes.
    pub exactly: Fault,
}

/// How long ways take, one way, whatever places hosts are at.
#[derive(Clone, Copy, Debug)]
pub struct FixedWays {
    /// Between two nodes.
    pub nodes: Duration,
    /// Between a node and a host that streams go to.
    pub servers: Duration,
}
