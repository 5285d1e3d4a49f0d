//! What `cepa check` looks at, for whoever uses Cepa: does the client work, do its ports, which exit is seen, what goes
//! beside it, and is the clock right.
//!
//! Each check gives a [`Finding`]: what was found, in one sentence, and what to do about it. [`all`] makes every check.
//! [`port`] speaks to the client's ports, [`holder`] knows who listens on one, [`node`] judges what the client says of
//! itself, [`names`] and [`programs`] read how this machine looks names up and what its programs are told, [`files`]
//! looks at who may reach the client's files.
//!
//! Nothing is sent anywhere but to the client on this machine. No name is looked up, and the exit is asked nothing.

mod files;
mod finding;
mod holder;
mod names;
mod node;
mod port;
mod programs;

use std::path::PathBuf;

pub(crate) use finding::{Finding, Verdict};
use serde::Serialize;

use crate::config::{Config, ListenAddress};
use crate::control::{self, AskError, ClientStatus, ControlClient, Reached, Status};

/// The client that is looked at.
pub(crate) struct Subject {
    /// Its state directory.
    pub(crate) dir: PathBuf,
    /// Its configuration file, if its owner named one.
    pub(crate) config: Option<Config>,
    /// A destination to reach, `host:port`.
    pub(crate) to: Option<String>,
}

/// What all checks found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Did no check fail?
    pub(crate) ok: bool,
    /// The checks in order.
    pub(crate) checks: Vec<Finding>,
    /// The exit that a stream came out at, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit: Option<Reached>,
}

/// Makes every check, the present time being `now` (seconds since 1970). Blocks, for a minute or two at most.
pub(crate) fn all(subject: &Subject, now: u64) -> Report {
    let mut checks = Vec::new();
    let status = match ask(subject, ControlClient::status) {
        Ok(Status {
            client: Some(client),
            process,
            started,
            ..
        }) => {
            checks.extend(node::all(&client, process, started));
            Some(client)
        }
        Ok(_) => {
            let says = "the node that runs with this state directory is no client";
            let hint =
                "`cepa status` says how it does; name the directory of a client with --state DIR";
            checks.push(Finding::fail("client", says, hint));
            None
        }
        Err(why) => {
            let hint = match control::is_there(&subject.dir) {
                true => "its log may say why; if it does not come round, end it and start it anew",
                false if names::is_in_exec() => {
                    "this is inside `cepa exec`, where the client is not to be seen: check outside"
                }
                false => {
                    "start one with `cepa proxy --network FILE`, or name the directory of one that runs with --state DIR"
                }
            };
            checks.push(Finding::fail("client", why, hint));
            None
        }
    };
    let is_ready = status.as_ref().is_some_and(ClientStatus::is_ready);
    let ports = node::ports(status.as_ref(), subject.config.as_ref());
    for port in &ports {
        checks.push(port::check(port, status.is_some(), is_ready));
    }
    if let (Some(status), Some(config)) = (&status, &subject.config) {
        checks.extend(node::unheard(status, config));
    }
    let mut exit = None;
    if is_ready {
        match ask(subject, |client| client.reach(None)) {
            Ok(reached) => {
                checks.push(node::exit(&reached));
                exit = Some(reached);
            }
            Err(why) => checks.push(node::no_exit(&why)),
        }
        let open = || ports.iter().find(|port| port.is_proxy && !port.asks_who);
        if let Some(to) = &subject.to {
            checks.push(port::destination(to, open()));
        }
    }
    checks.push(node::clock(status.as_ref(), now));
    let listeners: Vec<ListenAddress> = ports.iter().map(|port| port.address.clone()).collect();
    checks.push(names::check(&names::Machine::read(), &ports));
    checks.extend(programs::check(
        &|name| std::env::var(name).ok(),
        &listeners,
    ));
    if let Some(status) = &status {
        checks.push(port::datagrams(&ports, status));
    }
    checks.extend(files::check(&subject.dir, subject.config.as_ref(), &ports));
    Report {
        ok: checks.iter().all(|check| check.result < Verdict::Fail),
        checks,
        exit,
    }
}

/// Asks the client. The error is a sentence.
fn ask<T>(
    subject: &Subject,
    question: impl FnOnce(&ControlClient) -> Result<T, AskError>,
) -> Result<T, String> {
    let asked = ControlClient::of(&subject.dir).and_then(|client| question(&client));
    asked.map_err(|error| error.to_string())
}
