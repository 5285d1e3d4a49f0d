//! What goes wrong: how each fault begins and ends.

use std::net::IpAddr;
use std::sync::Arc;

use cepa_common::world::memory::{Kill, NamesFault, Unsynced};
use cepa_common::world::{NodeLife, Simulation};
use tokio::time::Duration;

use super::state::{BESIDE, Director, Effect, Past};
use crate::hostile::{self, CellForger};
use crate::plan::Act;
use crate::scenario::Hostility;

/// Where a lying name server sends everybody: nobody is there.
const NOWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(199, 99, 0, 1));

impl Director {
    /// Takes a node down by force. What its tasks still do reaches nobody.
    pub(super) fn kill(
        &mut self,
        number: u32,
        how: Kill,
        is_kept: impl Fn(usize) -> bool,
        unsynced: Unsynced,
    ) {
        let now = self.sight().now();
        let Some(host) = self.hosts.get_mut(&number) else {
            return;
        };
        host.holds += 1;
        self.network.kill(host.plan.address, how, is_kept, unsynced);
        for past in host.past.iter().filter_map(|past| past.task.as_ref()) {
            past.abort();
        }
        if let Some(life) = host.life.take() {
            life.task.abort();
            host.past.push(Past {
                life: life.life,
                since: now,
                task: None,
            });
        }
    }

    pub(super) fn stop(&mut self, number: u32) {
        let now = self.sight().now();
        let Some(host) = self.hosts.get_mut(&number) else {
            return;
        };
        host.holds += 1;
        if let Some(mut life) = host.life.take() {
            if let Some(stop) = life.stop.take() {
                // A node that has ended by itself hears nothing more.
                let _ = stop.send(());
            }
            host.past.push(Past {
                life: life.life,
                since: now,
                task: Some(life.task),
            });
        }
    }

    pub(super) fn begin(&mut self, place: usize) {
        let Some(fault) = self.site.plan.faults.get(place) else {
            return;
        };
        let act = fault.act.clone();
        tracing::debug!(target: "cepa_sim", "{act:?} begins");
        match &act {
            Act::Kill(node) => self.kill(*node, Kill::Process, |_| true, Unsynced::Kept),
            Act::Power(node, drawn) => {
                let drawn = *drawn;
                let unsynced = match drawn % 4 {
                    0 => Unsynced::Kept,
                    1 => Unsynced::Empty,
                    2 => Unsynced::Half,
                    _ => Unsynced::Zeros,
                };
                let is_kept = move |change: usize| {
                    drawn.rotate_right(u32::try_from(change % 61).unwrap_or(0)) & 4 != 0
                };
                self.kill(*node, Kill::Power, is_kept, unsynced);
            }
            Act::Stop(node) => self.stop(*node),
            Act::Partition(one, other) => {
                let addresses = |side: &[u32]| -> Vec<IpAddr> {
                    let found = side.iter().filter_map(|node| self.hosts.get(node));
                    found.map(|host| host.plan.address).collect()
                };
                let number = self.network.part(&addresses(one), &addresses(other));
                self.partitions.insert(place, number);
            }
            Act::Clock(node, millis) => self.step_clock(*node, *millis),
            _ => {
                if let (Some(node), Some(effect)) = (act.node(), act.effect()) {
                    self.effects
                        .entry((node, effect))
                        .or_default()
                        .push((place, act));
                    self.apply(node, effect);
                    self.relearn(place);
                }
            }
        }
    }

    pub(super) fn end(&mut self, place: usize) {
        let Some(fault) = self.site.plan.faults.get(place) else {
            return;
        };
        let act = fault.act.clone();
        tracing::debug!(target: "cepa_sim", "{act:?} is over");
        match &act {
            Act::Kill(node) | Act::Power(node, _) | Act::Stop(node) => {
                let Some(host) = self.hosts.get_mut(node) else {
                    return;
                };
                host.holds = host.holds.saturating_sub(1);
                if host.holds == 0 && host.life.is_none() && host.start_at.is_some() {
                    self.start(*node);
                }
            }
            Act::Partition(..) => {
                if let Some(number) = self.partitions.remove(&place) {
                    self.network.join(number);
                }
            }
            Act::Clock(node, millis) => self.step_clock(*node, -millis),
            _ => {
                if let (Some(node), Some(effect)) = (act.node(), act.effect()) {
                    let held = self.effects.entry((node, effect)).or_default();
                    held.retain(|(of, _)| *of != place);
                    self.apply(node, effect);
                    self.relearn(place);
                }
            }
        }
    }

    fn step_clock(&self, node: u32, millis: i64) {
        if let Some(host) = self.hosts.get(&node) {
            self.network.step_clock(host.plan.address, millis);
        }
    }

    /// Makes the network do what the last fault of this kind that holds says, or nothing of the kind.
    pub(super) fn apply(&mut self, node: u32, effect: Effect) {
        let Some(host) = self.hosts.get(&node) else {
            return;
        };
        let address = host.plan.address;
        let held = self
            .effects
            .get(&(node, effect))
            .and_then(|held| held.last())
            .cloned();
        let act = held.as_ref().map(|(_, act)| act);
        match effect {
            Effect::Silence => self.network.silence(address, act.is_some()),
            Effect::Delay => {
                let extra = match act {
                    Some(Act::Delay(_, extra)) => *extra,
                    _ => Duration::ZERO,
                };
                self.network.set_extra_delay(address, extra);
            }
            Effect::Loss => {
                let lost = match act {
                    Some(Act::Loss(_, lost)) => *lost,
                    _ => 0,
                };
                self.network.set_loss(address, lost);
            }
            Effect::Slow => {
                let mut line = host.plan.line;
                if let Some(Act::Slow(_, rate)) = act {
                    (line.up, line.down) = (*rate, *rate);
                }
                self.network.set_line(address, line);
            }
            Effect::Drift => {
                let drift = match act {
                    Some(Act::Drift(_, parts)) => *parts,
                    _ => 0,
                };
                self.network.set_drift(address, drift);
            }
            Effect::FullDisk => self.network.disk(address).set_full(act.is_some()),
            Effect::Names => self.network.set_names(
                address,
                match act {
                    Some(Act::NamesSilent(_)) => NamesFault::Silent,
                    Some(Act::NamesLie(_)) => NamesFault::Lying(NOWHERE),
                    _ => NamesFault::Well,
                },
            ),
            Effect::Sockets => {
                let most = match act {
                    Some(Act::FewSockets(_, most)) => Some(*most),
                    _ => None,
                };
                self.network.limit_connections(address, most);
            }
            Effect::Dribble => self.network.dribble(address, act.is_some()),
            Effect::Hostile => self.turn(node, held),
        }
    }

    /// An authority hears when it starts what its owner lies about.
    fn relearn(&mut self, fault: usize) {
        let Some(Act::Hostile(node, Hostility::Lie)) =
            self.site.plan.faults.get(fault).map(|fault| &fault.act)
        else {
            return;
        };
        let node = *node;
        if self.hosts.get(&node).is_none_or(|host| host.life.is_none()) {
            return;
        }
        self.kill(node, Kill::Process, |_| true, Unsynced::Kept);
        if let Some(host) = self.hosts.get_mut(&node) {
            host.holds = host.holds.saturating_sub(1);
            self.start(node);
        }
    }

    /// Has the owner of a node do what the last of these faults says, or nothing against the rules.
    fn turn(&mut self, node: u32, act: Option<(usize, Act)>) {
        let Some(host) = self.hosts.get_mut(&node) else {
            return;
        };
        if let Some(beside) = host.beside.take() {
            beside.abort();
        }
        let address = host.plan.address;
        self.network.set_forger(address, None);
        let Some((place, Act::Hostile(_, how))) = act else {
            return;
        };
        match how {
            // The node is told when it starts.
            Hostility::Lie => {}
            Hostility::FloodCreate
            | Hostility::FloodPadding
            | Hostility::FloodLinks
            | Hostility::VoteTwice => {
                let life = NodeLife {
                    node,
                    incarnation: BESIDE + u32::try_from(place).unwrap_or(0),
                };
                let beside =
                    hostile::beside(self.site.clone(), node, self.network.world(address), how);
                host.beside = Some(Simulation::in_node(life, || tokio::spawn(beside)));
            }
            how => {
                let forger = CellForger::new(&self.site, node, place, how);
                self.network.set_forger(address, Some(Arc::new(forger)));
            }
        }
    }
}

impl Act {
    /// The node that this happens to; `None` for a partition.
    pub(crate) fn node(&self) -> Option<u32> {
        Some(match self {
            Self::Partition(..) => return None,
            Self::Kill(node)
            | Self::Power(node, _)
            | Self::Stop(node)
            | Self::Silence(node)
            | Self::Delay(node, _)
            | Self::Loss(node, _)
            | Self::Slow(node, _)
            | Self::Clock(node, _)
            | Self::Drift(node, _)
            | Self::FullDisk(node)
            | Self::NamesSilent(node)
            | Self::NamesLie(node)
            | Self::FewSockets(node, _)
            | Self::Dribble(node)
            | Self::Hostile(node, _) => *node,
        })
    }

    /// Can this keep what one end of a connection says from the other for longer than usual?
    pub(crate) fn hides(&self) -> bool {
        !matches!(
            self,
            Self::Hostile(..)
                | Self::Clock(..)
                | Self::Drift(..)
                | Self::FullDisk(_)
                | Self::NamesSilent(_)
                | Self::NamesLie(_)
        )
    }

    fn effect(&self) -> Option<Effect> {
        Some(match self {
            Self::Kill(_)
            | Self::Power(..)
            | Self::Stop(_)
            | Self::Partition(..)
            | Self::Clock(..) => return None,
            Self::Silence(_) => Effect::Silence,
            Self::Delay(..) => Effect::Delay,
            Self::Loss(..) => Effect::Loss,
            Self::Slow(..) => Effect::Slow,
            Self::Drift(..) => Effect::Drift,
            Self::FullDisk(_) => Effect::FullDisk,
            Self::NamesSilent(_) | Self::NamesLie(_) => Effect::Names,
            Self::FewSockets(..) => Effect::Sockets,
            Self::Dribble(_) => Effect::Dribble,
            Self::Hostile(..) => Effect::Hostile,
        })
    }
}
