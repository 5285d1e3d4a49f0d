//! What of a running node its owner may see and do: handed to whoever speaks with the owner.

use std::path::PathBuf;

use cepa_client::{Client, ConnectError, ProbeReport};
use cepa_common::dir::UnixSecs;
use cepa_common::world::Clock;
use cepa_relay::RelayView;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::reload::{Reload, Report};
use crate::config::Listener;
use crate::terminal::Progress;

/// Actions that may wait for the node. Whoever comes then is told to come again.
const ACTIONS_WAITING: usize = 8;
/// Streams that are opened for the owner at once.
const MOST_REACHING: usize = 4;

/// The roles of a running node.
pub struct Roles {
    /// The node's state directory.
    pub dir: PathBuf,
    /// When the node was started (seconds since 1970).
    pub started: UnixSecs,
    /// The client, if the node is one.
    pub client: Option<ClientRole>,
    /// The relay, if the node is one: an exit and an authority are relays too.
    pub relay: Option<RelayRole>,
    /// Has the node do something.
    pub actions: Actions,
}

/// A node that is a client.
pub struct ClientRole {
    /// The client.
    pub client: Client,
    /// Where programs reach it.
    pub listeners: Vec<Listener>,
}

/// A node that is a relay.
pub struct RelayRole {
    /// The relay.
    pub view: RelayView,
    /// Does the relay want to be listed?
    pub publishes: bool,
}

/// Lets the owner of a node speak with it as soon as its roles are there. The sender hears of what the owner should know.
/// The tasks end when the node is stopped or dropped.
pub type Attend = fn(Roles, &tokio::sync::watch::Sender<Progress>) -> JoinSet<()>;

/// What an owner can have a running node do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read the configuration again.
    Reload,
    /// Retire all circuits of the client.
    NewIdentity,
    /// Open a stream on a circuit of its own, and end it.
    Reach {
        /// The destination, `host:port`; without one the exit's resolver, which is asked nothing.
        to: Option<String>,
    },
}

/// What an action brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The configuration was read again, and this came of it.
    Reloaded(Box<Report>),
    /// So many circuits were retired.
    Retired(usize),
    /// A stream came out.
    Reached(ProbeReport),
}

/// An action came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// The node is no client.
    #[error("this node is no client")]
    NoClient,
    /// No stream came out.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// As many actions wait or are under way as may be.
    #[error("the node has as much to do for its owner as it takes on at once")]
    Busy,
    /// The node stops.
    #[error("the node stops")]
    Stopping,
}

type Answer = oneshot::Sender<Result<Done, ActionError>>;

/// Has a node do something. Clones lead to the same node.
#[derive(Clone, Debug)]
pub struct Actions(mpsc::Sender<(Action, Answer)>);

impl Actions {
    /// Has the node do this, and waits until it is done: for a stream, a minute at most.
    ///
    /// # Errors
    /// [`ActionError`]; nothing has been done then.
    pub async fn ask(&self, action: Action) -> Result<Done, ActionError> {
        let (answer, answered) = oneshot::channel();
        self.0
            .try_send((action, answer))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => ActionError::Busy,
                mpsc::error::TrySendError::Closed(_) => ActionError::Stopping,
            })?;
        answered.await.unwrap_or(Err(ActionError::Stopping))
    }
}

/// Takes what the owner wants of a node with this client, for as long as the second value is polled. `reload` reads its
/// configuration again; without it the answer is that there is none.
pub fn take_actions(
    client: Option<Client>,
    reload: Option<Reload>,
) -> (Actions, impl Future<Output = ()> + Send) {
    let (sender, mut queue) = mpsc::channel::<(Action, Answer)>(ACTIONS_WAITING);
    let taking = async move {
        // Dropped with this future, which ends every stream.
        let mut reaching = JoinSet::new();
        while let Some((action, answer)) = queue.recv().await {
            while reaching.try_join_next().is_some() {}
            if action == Action::Reload {
                reloading(reload.clone(), answer, &mut reaching);
                continue;
            }
            let Some(client) = client.clone() else {
                let _ = answer.send(Err(ActionError::NoClient));
                continue;
            };
            match action {
                Action::Reload => {}
                Action::NewIdentity => {
                    let _ = answer.send(Ok(Done::Retired(client.new_identity())));
                }
                Action::Reach { .. } if reaching.len() >= MOST_REACHING => {
                    let _ = answer.send(Err(ActionError::Busy));
                }
                Action::Reach { to } => {
                    reaching.spawn(reach(client, to, answer));
                }
            }
        }
    };
    (Actions(sender), taking)
}

/// Reads the configuration again for the owner, beside what else is under way.
fn reloading(reload: Option<Reload>, answer: Answer, under_way: &mut JoinSet<()>) {
    if under_way.len() >= MOST_REACHING {
        let _ = answer.send(Err(ActionError::Busy));
        return;
    }
    under_way.spawn(async move {
        let report = match reload {
            Some(reload) => reload.reload().await,
            None => Report::of_no_file(None),
        };
        let _ = answer.send(Ok(Done::Reloaded(Box::new(report))));
    });
}

/// Opens a stream for the owner. Who no longer waits for the answer has ended the stream.
async fn reach(client: Client, to: Option<String>, mut answer: Answer) {
    let reached = tokio::select! {
        reached = Box::pin(client.probe(to.as_deref())) => reached,
        () = answer.closed() => return,
    };
    let _ = answer.send(reached.map(Done::Reached).map_err(ActionError::from));
}

impl Roles {
    /// The roles of a node that is a client alone, and what takes its actions.
    pub fn of_client(
        dir: PathBuf,
        client: Client,
        listeners: Vec<Listener>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (actions, taking) = take_actions(Some(client.clone()), None);
        let roles = Self {
            dir,
            started: Clock::system().now_secs(),
            client: Some(ClientRole { client, listeners }),
            relay: None,
            actions,
        };
        (roles, taking)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_is_no_client_says_so_and_one_that_is_gone_too() {
        let (actions, taking) = take_actions(None, None);
        let taking = tokio::spawn(taking);
        let refused = actions.ask(Action::NewIdentity).await;
        assert!(matches!(refused, Err(ActionError::NoClient)));
        taking.abort();
        let _ = taking.await;
        let refused = actions.ask(Action::NewIdentity).await;
        assert!(matches!(refused, Err(ActionError::Stopping)));
    }

    #[tokio::test]
    async fn what_waits_for_a_node_is_bounded() {
        let (actions, _not_taking) = take_actions(None, None);
        let asks: Vec<_> = (0..ACTIONS_WAITING)
            .map(|_| {
                let actions = actions.clone();
                tokio::spawn(async move { actions.ask(Action::NewIdentity).await.map(drop) })
            })
            .collect();
        while actions.0.capacity() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = actions.ask(Action::NewIdentity).await;
        assert!(matches!(refused, Err(ActionError::Busy)));
        asks.into_iter().for_each(|ask| ask.abort());
    }
}
