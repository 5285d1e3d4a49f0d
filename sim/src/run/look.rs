//! What the director looks at again and again: what must hold at any time.

use std::collections::BTreeSet;
use std::path::Path;

use cepa_common::world::Simulation;
use tokio::task::JoinHandle;
use tokio::time::Duration;

use super::state::{AGAIN, BEGAN_UNIX_MS, Director, GONE, Past, STOPPED};
use crate::plan::{Act, Role};
use crate::sight::Invariant;

/// The name of a state directory's lock.
const LOCK: &str = "lock";

impl Director {
    /// Looks at what must hold at any time, and starts again what could not start.
    pub(super) fn look(&mut self) {
        for leak in self.sight().log.take_leaks() {
            let nodes = leak.node.into_iter().collect();
            let what = format!("{}: {}", leak.level, leak.text);
            self.sight().violation(Invariant::Secrets, nodes, what);
        }
        let now = self.sight().now();
        let numbers: Vec<u32> = self.hosts.keys().copied().collect();
        for number in numbers {
            self.look_at(number, now);
        }
        if !self.is_ending {
            self.look_for_consensus(now);
        }
    }

    fn look_at(&mut self, number: u32, now: Duration) {
        let is_excused = self.is_calm && self.excused().contains(&number);
        let Some(host) = self.hosts.get_mut(&number) else {
            return;
        };
        let mut wrong = Vec::new();
        let ended = host
            .life
            .as_ref()
            .is_some_and(|life| life.task.is_finished());
        if ended && let Some(life) = host.life.take() {
            // A task that ended by itself did not start, or broke; the panic itself is noted elsewhere.
            host.past.push(Past {
                life: life.life,
                since: now,
                task: Some(life.task),
            });
            host.start_at = Some(now + AGAIN);
            if self.is_calm && !self.is_ending && !is_excused {
                wrong.push((
                    Invariant::Liveness,
                    format!("{} has ended by itself", host.plan.name),
                ));
            }
        }
        let undurable = self.network.disk(host.plan.address).undurable();
        if let Some(path) = undurable.iter().find(|path| counts(path)) {
            let what = format!(
                "a crash of {} could take {}",
                host.plan.name,
                path.display()
            );
            wrong.push((Invariant::Durable, what));
        }
        let open = self.network.open(host.plan.address);
        let is_down = host.life.is_none();
        host.past.retain(|past| {
            let tasks = Simulation::tasks_of(past.life);
            let is_over = past.task.as_ref().is_none_or(JoinHandle::is_finished);
            if !is_over && now > past.since + STOPPED {
                let what = format!("{} has not stopped in {STOPPED:?}", host.plan.name);
                wrong.push((Invariant::NothingLeft, what));
                return false;
            }
            let sockets = if is_down {
                open.connections + open.ports + open.datagram_ports
            } else {
                0
            };
            if now <= past.since + GONE {
                return true;
            }
            if tasks > 0 || sockets > 0 {
                let what = format!(
                    "{} ended {GONE:?} ago and has {tasks} tasks and {sockets} sockets",
                    host.plan.name
                );
                wrong.push((Invariant::NothingLeft, what));
            }
            false
        });
        if host.holds == 0 && host.life.is_none() && host.start_at.is_some_and(|at| at <= now) {
            self.start(number);
        }
        for (invariant, what) in wrong {
            self.sight().violation(invariant, vec![number], what);
        }
    }

    /// While a majority of the authorities has been left alone for long enough, there is a fresh consensus.
    fn look_for_consensus(&self, now: Duration) {
        let plan = &self.site.plan;
        let period = plan.vote_interval();
        let (window, patience) = (period * 4, period * 5 / 2);
        let Some(from) = now.checked_sub(window) else {
            return;
        };
        let is_authority = |number: &u32| {
            plan.node(*number)
                .is_some_and(|node| node.role == Role::Authority)
        };
        let authorities = plan
            .nodes
            .iter()
            .filter(|node| node.role == Role::Authority)
            .count();
        let mut touched = BTreeSet::new();
        for fault in plan
            .faults
            .iter()
            .filter(|fault| fault.begins <= now && fault.ends.is_none_or(|ends| ends >= from))
        {
            match &fault.act {
                Act::Partition(one, other) => {
                    let count =
                        |side: &[u32]| side.iter().filter(|node| is_authority(node)).count();
                    let fewer = if count(one) < count(other) {
                        one
                    } else {
                        other
                    };
                    touched.extend(fewer.iter().filter(|node| is_authority(node)).copied());
                }
                act => touched.extend(act.node().filter(is_authority)),
            }
        }
        if touched.len() * 2 >= authorities {
            return;
        }
        let seen = self.sight().seen();
        let newest = seen
            .newest
            .iter()
            .filter(|(node, _)| is_authority(node))
            .map(|(_, at)| *at)
            .max();
        drop(seen);
        let unix = BEGAN_UNIX_MS / 1_000 + now.as_secs();
        if newest.is_none_or(|newest| newest + patience.as_secs() < unix) {
            let age = newest.map_or_else(
                || "there is no consensus".to_owned(),
                |newest| {
                    format!(
                        "the newest consensus is valid after {} s ago",
                        unix.saturating_sub(newest)
                    )
                },
            );
            let nodes = plan
                .nodes
                .iter()
                .filter(|node| node.role == Role::Authority);
            let nodes = nodes.map(|node| node.number).collect();
            let what = format!(
                "{age}, though only {} of {authorities} authorities were troubled",
                touched.len()
            );
            self.sight().violation(Invariant::Consensuses, nodes, what);
        }
    }
}

/// Does anybody count on this file or directory? Whether a lock's file exists does not matter.
fn counts(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name != LOCK)
}
