//! Runs the nodes of a network as tasks of this process.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::layout::Layout;
use super::plan::Role;
use crate::control;
use crate::node::{AppError, Node};
use crate::terminal::CliError;
use crate::terminal::Progress;
use crate::terminal::output::{Meter, note};

/// A node that takes longer than this to stop is left to the end of the process.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The running nodes.
#[derive(Default)]
pub(super) struct Here {
    client: Option<Node>,
    others: Vec<Node>,
}

impl Here {
    /// Starts every node. The client is last, because it has nobody to ask before.
    pub(super) async fn start(&mut self, layout: &Layout, meter: &Meter) -> Result<(), CliError> {
        let plan = &layout.plan;
        let (clients, others): (Vec<_>, Vec<_>) = plan
            .nodes
            .iter()
            .partition(|node| node.roles.contains(&Role::Client));
        let count = others.len();
        let mut starting = JoinSet::new();
        for node in others {
            let config = plan.config(node);
            starting.spawn(async move {
                Box::pin(Node::start(
                    &config,
                    None,
                    watch::Sender::default(),
                    control::attend,
                ))
                .await
            });
        }
        while let Some(node) = starting.join_next().await {
            self.others.push(joined(node)?);
            let done = self.others.len();
            // The start of the relays is the first third of the progress.
            meter.show(
                percent(done, count, 33),
                &format!("{done} of {count} authorities and relays listen"),
            );
        }
        let mut listed = Listed::of(&self.others, plan.relays());
        for client in clients {
            let (sender, mut receiver) = watch::channel(Progress::default());
            let config = plan.config(client);
            let mut starting = Box::pin(Node::start(&config, None, sender, control::attend));
            self.client = loop {
                tokio::select! {
                    node = &mut starting => break Some(node?),
                    Ok(()) = receiver.changed() => {
                        let now = receiver.borrow_and_update().clone();
                        let what = format!("client: {}", now.what);
                        meter.show_step(client_percent(&now), &what, now.is_detail);
                    }
                    relays = listed.all() => {
                        let now = client_percent(&receiver.borrow());
                        meter.show(now, &format!("all {relays} relays are listed"));
                    }
                }
            };
        }
        Ok(())
    }

    /// Stops every node, the client first.
    pub(super) async fn stop(&mut self) {
        let stopping = async {
            if let Some(client) = self.client.take() {
                client.stop().await;
            }
            let mut others: JoinSet<()> = JoinSet::new();
            for node in self.others.drain(..) {
                others.spawn(node.stop());
            }
            while others.join_next().await.is_some() {}
        };
        if tokio::time::timeout(STOP_DEADLINE, Box::pin(stopping))
            .await
            .is_err()
        {
            note("some nodes did not stop in time");
        }
    }

    /// Drops every node at once.
    pub(super) fn abandon(&mut self) {
        self.client = None;
        self.others.clear();
    }
}

/// Hears which relays are listed.
struct Listed {
    waiting: JoinSet<bool>,
    listed: usize,
    relays: usize,
}

impl Listed {
    /// Listens to `nodes`, among which are `relays` that want to be listed.
    fn of(nodes: &[Node], relays: usize) -> Self {
        let mut waiting = JoinSet::new();
        for node in nodes {
            waiting.spawn(node.until_listed());
        }
        Self {
            waiting,
            listed: 0,
            relays,
        }
    }

    /// Completes once, when all relays are listed, and says how many they are.
    async fn all(&mut self) -> usize {
        while let Some(done) = self.waiting.join_next().await {
            self.listed += usize::from(done.unwrap_or(false));
            if self.listed == self.relays {
                self.waiting = JoinSet::new();
                return self.relays;
            }
        }
        std::future::pending().await
    }
}

/// The percentage of the whole start where the client is as far as `now`.
fn client_percent(now: &Progress) -> u8 {
    33 + percent(usize::from(now.percent), 100, 60)
}

fn joined(node: Result<Result<Node, AppError>, tokio::task::JoinError>) -> Result<Node, CliError> {
    match node {
        Ok(node) => Ok(node?),
        Err(error) => Err(CliError::failed(
            format!("a node broke: {error}"),
            "report this: it is a bug",
        )),
    }
}

/// The percentage that `done` of `count` is, if all of `count` is `whole` percent.
pub(super) fn percent(done: usize, count: usize, whole: usize) -> u8 {
    u8::try_from(done * whole / count.max(1))
        .unwrap_or(100)
        .min(100)
}
