//! `cepa simulate`: a whole network from a seed.
//!
//! One thread, no sockets. Relays, clients and authorities run as they are; what stands below them is replaced by
//! `cepa_common::world`: clocks, sockets, name servers, disks, randomness. The same program, scenario and seed give the
//! same events at the same virtual times. docs/simulation.md says how to use it and what it cannot show.
//!
//! The rooms, in the order in which a run goes through them: [`scenario`] is what people write, in the quantities of
//! [`units`]; [`plan`] is what a [`seed`] makes of it, with places from [`cities`] and users from [`load`]; `run`
//! starts the nodes of `node`, whose users are in `user`, and lets go wrong what should, also by owners in `hostile`;
//! [`sight`] and [`log`] see what happens and what must not; [`outcome`] is what a run came to. [`search`] runs many
//! seeds, [`shrink`] makes a failure small, and [`report`] shows what was measured.
//!
//! Absent: any model of a part of Cepa. What a run shows, the code that ships does.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests use the real world too")
)]

pub mod against;
pub mod choices;
pub mod cities;
pub mod flows;
mod hostile;
pub mod load;
pub mod log;
mod looks;
mod node;
pub mod outcome;
pub mod plan;
pub mod population;
pub mod report;
mod run;
pub mod scenario;
pub mod search;
pub mod seed;
pub mod shrink;
pub mod sight;
mod site;
pub mod units;
mod user;
