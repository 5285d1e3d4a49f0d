//! Runs a command in the network.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use cepa_exec::{pass_on, told_status};
use rustix::process::Signal;
use tokio::process::Command;

use crate::terminal::CliError;
use crate::terminal::stop::Stop;

/// Variables that tell programs to use a proxy. curl reads those in small letters, others those in capitals.
const PROXY_VARIABLES: [&str; 6] = [
    "ALL_PROXY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "all_proxy",
    "http_proxy",
    "https_proxy",
];

/// The variable that names a page to fetch through the network.
const PAGE_VARIABLE: &str = "CEPA_PAGE";

/// Runs `program` with the network at `socks` as its proxy and with the address of a page to fetch. The result is the program's exit code.
///
/// A signal to this process is passed on to the program; a second signal kills it.
pub(super) async fn run(
    program: &OsString,
    arguments: &[OsString],
    socks: SocketAddr,
    page: &str,
    stop: &mut Stop,
) -> Result<ExitCode, CliError> {
    let proxy = format!("socks5h://{socks}");
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.envs(PROXY_VARIABLES.map(|name| (name, &proxy)));
    command.env(PAGE_VARIABLE, page);
    // A user who exempts loopback from proxies would measure nothing here.
    command.env_remove("NO_PROXY").env_remove("no_proxy");
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Err(not_run(program, &error)),
    };
    let mut asked = false;
    loop {
        tokio::select! {
            status = child.wait() => return match status {
                Ok(status) => Ok(ExitCode::from(told_status(status).unwrap_or(1))),
                Err(error) => Err(CliError::failed(format!("lost the command: {error}"), "try again")),
            },
            cause = stop.requested() => {
                pass_on(&child, if asked { Signal::KILL } else { cause.signal() });
                asked = true;
            }
        }
    }
}

/// The error for a command that did not run, with the codes of shells: 127 if it does not exist, 126 if it cannot be
/// run.
fn not_run(program: &OsString, error: &io::Error) -> CliError {
    let code = if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    CliError {
        what: format!("cannot run {}: {error}", program.display()),
        hint: "write the command as you would without the network, after two dashes".to_owned(),
        code,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_missing_has_the_code_of_shells() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(not_run(&"x".into(), &missing).code, 127);
    }

    #[tokio::test]
    async fn a_command_has_the_proxy_in_its_environment() {
        let _turn = crate::terminal::stop::SIGNALS.lock().await;
        let mut stop = Stop::listen().unwrap();
        let socks = ([127, 0, 0, 1], 9350).into();
        let script = "for v in $ALL_PROXY $HTTP_PROXY $HTTPS_PROXY $all_proxy $http_proxy $https_proxy; do \
                      [ $v = socks5h://127.0.0.1:9350 ] || exit 1; done; [ -z \"$NO_PROXY$no_proxy\" ] && [ $CEPA_PAGE = http://x/ ] && exit 42";
        let arguments = ["-c".into(), script.into()];
        let code = run(&"sh".into(), &arguments, socks, "http://x/", &mut stop)
            .await
            .unwrap();
        assert_eq!(code, ExitCode::from(42));
    }
}
