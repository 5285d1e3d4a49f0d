//! The names that one association has written to (docs/protocol.md, 5.39).

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use cepa_common::budget::{Budget, Charge};
use cepa_common::stream::HeldDatagram;
use tokio::time::timeout;

use super::super::ExitConnector;
use super::super::attempts::{Aim, Origin};
use super::super::connect::LOOKUP_BYTES;
use super::super::race::Family;

/// Names of one association.
const MOST_NAMES: usize = 64;
/// Names that are looked up at a time.
const MOST_LOOKUPS: usize = 8;
/// The longest time that a look-up may take, with the wait for its turn.
const LOOKUP_TIME: Duration = Duration::from_secs(3);
/// Datagrams that wait for a look-up.
const MOST_WAITING: usize = 4;
/// A name that had no address is looked up again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

type LookUp = Pin<Box<dyn Future<Output = Vec<IpAddr>> + Send>>;

enum Name {
    /// What waits for the addresses.
    Asked(Vec<HeldDatagram>, LookUp),
    /// The addresses, in the order in which the policy is asked about them; then the one that is kept to.
    Found(Vec<IpAddr>, Option<IpAddr>),
    /// There was no address.
    None(Instant),
}

/// The names of one association.
pub(super) struct Names {
    all: BTreeMap<String, Name>,
    /// What the datagrams take that wait.
    charge: Charge,
}

/// Where a datagram to a name goes.
pub(super) enum Leads {
    /// To one of these, of which the first that the policy allows is to be kept to.
    To(Vec<IpAddr>, HeldDatagram),
    /// Nowhere yet, or nowhere at all: the datagram waits or is dropped.
    Nowhere,
}

impl Names {
    /// No name yet. What waits is charged to `budget`.
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            all: BTreeMap::new(),
            charge: Charge::none(budget),
        }
    }

    fn account(&mut self) {
        let waiting = self.all.values().map(|name| match name {
            Name::Asked(waiting, _) => waiting
                .iter()
                .map(|it| it.bytes().len() + 64)
                .sum::<usize>(),
            Name::Found(..) | Name::None(_) => 0,
        });
        self.charge.set(waiting.sum::<usize>());
    }

    /// Takes a datagram to `name`.
    pub(super) fn take(
        &mut self,
        exit: &Arc<ExitConnector>,
        origin: Origin,
        name: &str,
        datagram: HeldDatagram,
        now: Instant,
    ) -> Leads {
        let name = name.to_ascii_lowercase();
        let is_full = self.all.len() >= MOST_NAMES;
        match self.all.get_mut(&name) {
            Some(Name::Found(_, Some(kept))) => return Leads::To(vec![*kept], datagram),
            Some(Name::Found(all, None)) => return Leads::To(all.clone(), datagram),
            Some(Name::Asked(waiting, _)) => {
                if waiting.len() < MOST_WAITING {
                    waiting.push(datagram);
                    self.account();
                }
                return Leads::Nowhere;
            }
            Some(Name::None(since)) if now < *since + AGAIN_AFTER => return Leads::Nowhere,
            Some(Name::None(_)) => {}
            None if is_full => return Leads::Nowhere,
            None => {}
        }
        let asked = self.all.values().filter(|it| matches!(it, Name::Asked(..)));
        if asked.count() < MOST_LOOKUPS {
            let look_up = look_up(exit.clone(), origin, name.clone());
            self.all.insert(name, Name::Asked(vec![datagram], look_up));
            self.account();
        }
        Leads::Nowhere
    }

    /// Keeps to an address of a name while the association lives: a flow must not jump.
    pub(super) fn keep(&mut self, name: &str, address: IpAddr) {
        if let Some(Name::Found(_, kept)) = self.all.get_mut(&name.to_ascii_lowercase()) {
            kept.get_or_insert(address);
        }
    }

    /// Waits until a look-up has ended. Gives what has waited for it.
    pub(super) fn poll_found(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Poll<Vec<HeldDatagram>> {
        let mut found = None;
        for name in self.all.values_mut() {
            if let Name::Asked(waiting, look_up) = name
                && let Poll::Ready(addresses) = look_up.as_mut().poll(cx)
            {
                found = Some(core::mem::take(waiting));
                *name = match addresses.is_empty() {
                    true => Name::None(now),
                    false => Name::Found(addresses, None),
                };
                break;
            }
        }
        match found {
            Some(waiting) => {
                self.account();
                Poll::Ready(waiting)
            }
            None => Poll::Pending,
        }
    }
}

/// Asks for the addresses of a name, those first of the family that leads somewhere.
fn look_up(exit: Arc<ExitConnector>, origin: Origin, name: String) -> LookUp {
    Box::pin(async move {
        let found = async {
            let _turn = exit.attempts.turn(origin, Aim::of_name(&name)).await;
            let mut charge = Charge::none(&exit.budget);
            charge.set(LOOKUP_BYTES);
            let [v4, v6] = Family::BOTH.map(|family| exit.names.lookup(&name, family));
            let (one, other) = tokio::join!(v4, v6);
            let mut all = one.unwrap_or_default();
            all.extend(other.unwrap_or_default());
            all
        };
        let found = timeout(LOOKUP_TIME, found).await.unwrap_or_default();
        // Where this machine has no way, nothing is sent.
        let leads = |ip: &IpAddr| exit.leads_to(*ip);
        found.into_iter().filter(leads).collect()
    })
}
