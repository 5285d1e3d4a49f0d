//! `cepa exec`: any program, with Cepa as its only network.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use cepa_exec::{ExecError, Options, Shares, Via};
use clap::Args;

use super::ask::Which;
use super::context::{Context, block_on};
use crate::control::{ControlClient, ListenerStatus};
use crate::harden;
use crate::terminal::CliError;

/// Run a command in a network of its own, whose only way out is a client that runs (Linux).
///
/// Every connection of the command, and of what it starts, goes through the client's proxy port, names are looked up by
/// exits, and nothing else leaves: the command is in a network namespace with one interface, which ends here. It works
/// for root, and for other users where /dev/net/tun is open to them and they may have user namespaces.
///
/// A program that is set up for the client's port finds it in there too, at its own address, and its streams are kept
/// apart from those of all others. --no-ports leaves that out.
///
/// Sockets in the file system lead out of a network namespace. So /run and /tmp are empty for the command, and other
/// sockets that programs listen at are covered; --share and --share-tmp bring back what they name, with the way out
/// that may be there. Else 127.0.0.1 and ::1 are the command's own. It gets no rights that its user does not
/// have: sudo does not work in there.
///
/// The exit status is the command's, 128 + N if the signal N ended it, 125 if `cepa exec` failed or was called
/// wrongly, 126 if the command cannot be run, and 127 if there is none of this name.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cepa exec -- curl https://example.org/
  cepa exec -- git clone ssh://git@example.org/repository.git
  cepa exec -- bash                                    a shell, with all that is started in it
  cepa exec -- curl --proxy socks5h://work:1@127.0.0.1:9350 https://example.org/
                                                       the client's port, as outside
  cepa exec --via 127.0.0.1:9350 --share-tmp -- make fetch
  cepa testnet -- cepa exec -- curl http://ADDRESS/    an address of this machine that is not loopback")]
pub(super) struct Exec {
    /// The client's port: ADDR:PORT on loopback, or unix:PATH [default: that of the one client that runs for this user].
    #[arg(long, value_name = "PORT")]
    via: Option<Via>,
    #[command(flatten)]
    which: Which,
    /// Leave 127.0.0.1 and ::1 to the command: without this, it finds the client's ports there too.
    #[arg(long)]
    no_ports: bool,
    /// Let the command see this file or directory of /run or /tmp as it is outside; may be repeated.
    #[arg(long, value_name = "PATH")]
    share: Vec<PathBuf>,
    /// Let the command see /tmp as it is outside.
    #[arg(long)]
    share_tmp: bool,
    /// The command, after two dashes.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Exec {
    pub(super) fn main(self, context: &Context) -> Result<ExitCode, CliError> {
        harden::lower_file_limit();
        context.log_to_stderr("warn")?;
        let mut ports = match self.via {
            Some(via) => vec![via],
            None => found(self.which)?,
        };
        let Some(via) = ports.first().cloned() else {
            return Err(no_port());
        };
        if self.no_ports {
            ports.clear();
        }
        let options = Options {
            via,
            ports,
            shares: Shares {
                paths: self.share,
                tmp: self.share_tmp,
            },
            command: self.command,
        };
        // One thread, which is the main one: the command ends with the thread that started it.
        let done = block_on(1, async { Ok(cepa_exec::run(options).await?) });
        done.map(ExitCode::from)
    }
}

impl From<ExecError> for CliError {
    fn from(error: ExecError) -> Self {
        Self {
            what: error.what,
            hint: error.hint,
            code: error.code,
        }
    }
}

/// The ports of the client that is meant.
fn found(which: Which) -> Result<Vec<Via>, CliError> {
    let status = which.ask(ControlClient::status);
    let status = status.map_err(|error| CliError {
        hint: format!("{}; or name a port by --via", error.hint),
        code: cepa_exec::FAILED,
        ..error
    })?;
    let Some(client) = status.client else {
        return Err(lost(
            "the node that runs is no client",
            "start one with `cepa proxy`, name one that runs by --state, or a port by --via",
        ));
    };
    let open = (client.listeners.iter())
        .filter(|port| port.kind == ListenerStatus::PROXY && !port.asks_who);
    let ports = open.filter_map(|port| port.address.parse::<Via>().ok());
    // Whatever of this machine: a port beyond loopback asks for a password.
    let ports = ports.filter(|via| !matches!(via, Via::Tcp(at) if !at.ip().is_loopback()));
    Ok(ports.collect())
}

fn no_port() -> CliError {
    lost(
        "the client that runs has no port on loopback without a password",
        "give it one (`client.socks` or `client.listeners`, docs/config.md), or name one by --via",
    )
}

fn lost(what: &str, hint: &str) -> CliError {
    CliError {
        what: what.to_owned(),
        hint: hint.to_owned(),
        code: cepa_exec::FAILED,
    }
}

/// Becomes the command that [`Exec`] is about to run, if that is what this process was started for. `None` if it was
/// not; else this returns only if the command cannot be run.
///
/// To be asked before anything else: a process with threads, or one that debuggers are kept out of, cannot do it.
pub fn become_command() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != cepa_exec::INNER {
        return None;
    }
    let error = CliError::from(cepa_exec::become_command(args));
    crate::terminal::output::complain(&error);
    Some(ExitCode::from(error.code))
}
