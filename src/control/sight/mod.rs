//! What the paths answer, made of what the node's roles say.

mod authority;
mod client;
mod relay;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use cepa_common::sync::lock;
use cepa_common::world::{Clock, blocking, steady};

use self::client::Life;
use super::answer::{AuthorityStatus, NewIdentity, Reached, RelayStatus, Role, Status};
use super::refusal::Refusal;
use crate::node::{Action, ActionError, Done, RelayRole, Report, Roles};

/// A new identity is given at most once in this time (Tor's limit on NEWNYM).
const IDENTITY_EVERY: Duration = Duration::from_secs(10);

/// What a relay says is made anew at most once in this time: it takes a look at every circuit, and who asks again and
/// again learns no more of when something happened (S35).
const RELAY_EVERY: Duration = Duration::from_secs(1);

/// Sees a node for its owner.
pub(super) struct Sight {
    roles: Roles,
    life: Option<Life>,
    identity: Mutex<IdentityLimit>,
    /// What the relay and the authority have said last, and when. Who makes it anew holds the lock.
    last: tokio::sync::Mutex<Option<(Instant, Parts)>>,
}

/// What a relay says, and its authority.
type Parts = (RelayStatus, Option<AuthorityStatus>);

impl Sight {
    pub(super) fn new(roles: Roles) -> Self {
        Self {
            life: roles.client.as_ref().map(Life::new),
            roles,
            identity: Mutex::default(),
            last: tokio::sync::Mutex::default(),
        }
    }

    /// Follows the node's client for as long as the future is polled.
    pub(super) async fn follow(&self) {
        if let (Some(role), Some(life)) = (&self.roles.client, &self.life) {
            life.follow(&role.client).await;
        }
    }

    pub(super) async fn status(&self) -> Status {
        let (relay, authority) = match &self.roles.relay {
            Some(role) => self.relay(role).await.unzip(),
            None => (None, None),
        };
        let client = self.roles.client.as_ref().zip(self.life.as_ref());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            started: self.roles.started,
            now: Clock::system().now_secs(),
            roles: self.role_names(),
            client: client.map(|(role, life)| client::status(&role.client, life)),
            relay,
            authority: authority.flatten(),
        }
    }

    fn role_names(&self) -> Vec<Role> {
        let relay = self.roles.relay.as_ref().map(|role| &role.view);
        let has = [
            (Role::Client, self.roles.client.is_some()),
            (Role::Relay, relay.is_some()),
            (Role::Exit, relay.is_some_and(|view| view.is_exit())),
            (
                Role::Authority,
                relay.is_some_and(|view| view.is_authority()),
            ),
        ];
        has.into_iter()
            .filter_map(|(role, has)| has.then_some(role))
            .collect()
    }

    /// What the relay says, which is a second old at most. `None` if that ended in a fault.
    async fn relay(&self, role: &RelayRole) -> Option<Parts> {
        let mut last = self.last.lock().await;
        let now = steady::now();
        if let Some((at, parts)) = &*last
            && now.saturating_duration_since(*at) < RELAY_EVERY
        {
            return Some(parts.clone());
        }
        let view = role.view.clone();
        // Not on a thread that carries cells: a relay may have very many circuits.
        let snapshot = blocking::run(move || view.snapshot()).await.ok()?;
        let authority = role.view.authority().await;
        let authority = authority.map(|authority| authority::status(authority, &snapshot));
        let parts = (relay::status(snapshot, role.publishes), authority);
        *last = Some((steady::now(), parts.clone()));
        Some(parts)
    }

    pub(super) async fn reload(&self) -> Result<Report, Refusal> {
        match self.roles.actions.ask(Action::Reload).await {
            Ok(Done::Reloaded(report)) => Ok(*report),
            Ok(done) => Err(fault(&done)),
            Err(error) => Err(refusal(&error)),
        }
    }

    pub(super) async fn new_identity(&self) -> Result<NewIdentity, Refusal> {
        if self.roles.client.is_some() {
            let limited = lock(&self.identity).ask(steady::now());
            limited.map_err(|left| {
                let seconds = u64::try_from(left.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX);
                let what = "a new identity was given just now";
                let hint = format!("ask again in {seconds} s");
                let status = StatusCode::TOO_MANY_REQUESTS;
                Refusal::new(status, "too-soon", what, hint).again_in(seconds)
            })?;
        }
        match self.roles.actions.ask(Action::NewIdentity).await {
            Ok(Done::Retired(retired)) => Ok(NewIdentity { retired }),
            Ok(done) => Err(fault(&done)),
            Err(error) => Err(refusal(&error)),
        }
    }

    pub(super) async fn reach(&self, to: Option<String>) -> Result<Reached, Refusal> {
        match self.roles.actions.ask(Action::Reach { to }).await {
            Ok(Done::Reached(report)) => Ok(client::reached(report)),
            Ok(done) => Err(fault(&done)),
            Err(error) => Err(refusal(&error)),
        }
    }
}

/// Why an action came to nothing, for the owner.
fn refusal(error: &ActionError) -> Refusal {
    let (status, code, hint) = match error {
        ActionError::NoClient => (
            StatusCode::CONFLICT,
            "no-client",
            "ask a node that is a client; `cepa status` lists the nodes that run",
        ),
        ActionError::Connect(_) => (
            StatusCode::BAD_GATEWAY,
            "not-reached",
            "`cepa status` and the client's log say more",
        ),
        ActionError::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "ask again when other requests have ended",
        ),
        ActionError::Stopping => (
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            "ask again when the node has been started anew",
        ),
    };
    Refusal::new(status, code, error.to_string(), hint)
}

fn fault(done: &Done) -> Refusal {
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "fault",
        format!("the node has done something else: {done:?}"),
        "report this: it is a bug",
    )
}

/// Keeps new identities apart.
#[derive(Debug, Default)]
struct IdentityLimit(Option<Instant>);

impl IdentityLimit {
    /// May there be a new identity now? The error says how long to wait.
    fn ask(&mut self, now: Instant) -> Result<(), Duration> {
        let since = self.0.map(|last| now.saturating_duration_since(last));
        match since.and_then(|since| IDENTITY_EVERY.checked_sub(since)) {
            Some(left) if !left.is_zero() => Err(left),
            _ => {
                self.0 = Some(now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::node::take_actions;

    /// A node that has no roles.
    pub(in crate::control) fn no_roles() -> Sight {
        let (actions, taking) = take_actions(None, None);
        tokio::spawn(taking);
        Sight::new(Roles {
            dir: Default::default(),
            started: 0,
            client: None,
            relay: None,
            actions,
        })
    }

    #[test]
    fn new_identities_are_ten_seconds_apart() {
        let (mut limit, start) = (IdentityLimit::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(limit.ask(start), Ok(()));
        assert_eq!(limit.ask(start + 3 * second), Err(7 * second));
        assert_eq!(limit.ask(start + 10 * second), Ok(()));
        assert!(limit.ask(start + 11 * second).is_err());
    }
}
