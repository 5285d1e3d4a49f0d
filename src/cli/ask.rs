//! A word with nodes that run: which node is meant, and `cepa new-identity`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cepa_common::words::Count;
use clap::Args;

use super::context::state_dir;
use crate::config::Config;
use crate::control::answer::Role;
use crate::control::{self, AskError, ControlClient, Status};
use crate::terminal::CliError;
use crate::terminal::output::say;

/// Which node is meant.
#[derive(Debug, Default, Args)]
pub(super) struct Which {
    /// State directory of the node that runs [default: that of the one node of this kind that runs for this user].
    ///
    /// Needed when several run.
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    state: Option<PathBuf>,
    /// Configuration file of the node that runs, if it was started by `cepa run`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A node that was found.
pub(super) struct Found {
    /// Its state directory.
    pub(super) dir: PathBuf,
    /// Its configuration, if that was named.
    pub(super) config: Option<Config>,
}

/// A node that runs, and what it says of itself.
pub(super) struct Running {
    /// Its state directory.
    pub(super) dir: PathBuf,
    /// What it says.
    pub(super) status: Result<Status, AskError>,
}

impl Which {
    /// The node that was named, if one was.
    pub(super) fn named(self) -> Result<Option<Found>, CliError> {
        if let Some(file) = self.config {
            let config = Config::load(&file)?;
            let dir = config.state.dir.clone();
            let config = Some(config);
            return Ok(Some(Found { dir, config }));
        }
        let config = None;
        Ok(self.state.map(|dir| Found { dir, config }))
    }

    /// The client that is meant: the one that was named, or else the only one that runs.
    pub(super) fn client(self) -> Result<Found, CliError> {
        if let Some(named) = self.named()? {
            return Ok(named);
        }
        let dir = one_client(&state_dir(None, "client")?, there()?)?;
        Ok(Found { dir, config: None })
    }

    /// Asks the client that is meant.
    pub(super) fn ask<T>(
        self,
        question: impl FnOnce(&ControlClient) -> Result<T, AskError>,
    ) -> Result<T, CliError> {
        Ok(question(&ControlClient::of(&self.client()?.dir)?)?)
    }
}

/// The state directories of the nodes that run for this user: of those that said so, and the usual ones.
pub(super) fn there() -> Result<Vec<PathBuf>, CliError> {
    let mut dirs = control::running();
    for role in ["client", "relay"] {
        let usual = state_dir(None, role)?;
        let is_known = std::fs::canonicalize(&usual).is_ok_and(|usual| dirs.contains(&usual));
        if !is_known {
            dirs.push(usual);
        }
    }
    dirs.retain(|dir| control::is_there(dir));
    Ok(dirs)
}

/// What each of these nodes says of itself. One that is silent holds up no other.
pub(super) fn ask_each(dirs: Vec<PathBuf>) -> Vec<Running> {
    let ask = |dir: &Path| ControlClient::of(dir)?.status();
    std::thread::scope(|scope| {
        let asking: Vec<_> = dirs
            .iter()
            .map(|dir| scope.spawn(move || ask(dir)))
            .collect();
        let asked = asking.into_iter().zip(&dirs).map(|(asking, dir)| Running {
            status: (asking.join()).unwrap_or_else(|_| Err(AskError::Closed(dir.clone()))),
            dir: dir.clone(),
        });
        asked.collect()
    })
}

/// The state directory of the one client of the nodes `there`; `usual` where there is none.
fn one_client(usual: &Path, there: Vec<PathBuf>) -> Result<PathBuf, CliError> {
    if let [] | [_] = &there[..] {
        let only = there.into_iter().next();
        return Ok(only.unwrap_or_else(|| usual.to_owned()));
    }
    // A node that does not say what it is may be the one that is meant.
    let may_be_client = |node: &Running| match &node.status {
        Ok(status) => status.roles.contains(&Role::Client),
        Err(_) => true,
    };
    let mut clients = ask_each(there);
    clients.retain(may_be_client);
    if clients.len() > 1 {
        let dirs: Vec<_> = clients
            .iter()
            .map(|client| format!("\n  --state {}", client.dir.display()))
            .collect();
        return Err(CliError::usage(
            format!("{} clients run here", clients.len()),
            format!("say which one is meant:{}", dirs.concat()),
        ));
    }
    let only = clients.pop().map(|client| client.dir);
    Ok(only.unwrap_or_else(|| usual.to_owned()))
}

impl From<AskError> for CliError {
    fn from(error: AskError) -> Self {
        Self::failed(error.to_string(), error.hint())
    }
}

/// Give a running client a new identity: all its circuits are retired at once.
///
/// No stream that is opened from now on shares a circuit with those before; streams that are open go on.
/// The guards stay. A client gets a new identity at most every 10 seconds, as each costs the network new
/// circuits. What your programs tell about you does not change: cookies and logins outlive an identity.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa new-identity
  cepa new-identity --state ~/.local/state/cepa/client")]
pub(super) struct NewIdentityCommand {
    #[command(flatten)]
    which: Which,
}

impl NewIdentityCommand {
    pub(super) fn main(self) -> Result<ExitCode, CliError> {
        let done = self.which.ask(ControlClient::new_identity)?;
        say(&format!("{} retired", Count(done.retired, "circuit")));
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    /// A node that says that it has these roles, to everybody.
    fn node(dir: &Path, roles: &str) {
        std::fs::create_dir(dir).unwrap();
        let listener = UnixListener::bind(dir.join("control.sock")).unwrap();
        let body = format!(
            "{{\"version\":\"0\",\"process\":1,\"started\":0,\"now\":0,\"roles\":[{roles}],\"client\":null,\
             \"relay\":null,\"authority\":null}}"
        );
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes());
            }
        });
    }

    #[test]
    fn the_one_client_that_runs_is_found_among_other_nodes() {
        let kept = tempfile::tempdir().unwrap();
        let [usual, relay, client, other] =
            ["usual", "relay", "client", "other"].map(|name| kept.path().join(name));
        node(&relay, "\"relay\",\"exit\"");
        node(&client, "\"client\"");
        node(&other, "\"relay\",\"client\"");
        let look = |there: &[&PathBuf]| {
            one_client(&usual, there.iter().map(|dir| (*dir).clone()).collect())
        };
        // Where none runs, the usual directory is what the error speaks of.
        assert_eq!(look(&[]).unwrap(), usual);
        // What a lone node that is no client answers says so.
        assert_eq!(look(&[&relay]).unwrap(), relay);
        assert_eq!(look(&[&relay, &client]).unwrap(), client);
        assert_eq!(look(&[&relay, &relay]).unwrap(), usual);
        let error = look(&[&relay, &client, &other]).unwrap_err();
        assert_eq!(error.what, "2 clients run here");
        assert!(error.hint.contains(&format!("--state {}", other.display())));
    }
}
