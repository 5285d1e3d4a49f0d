//! A command that was started: how signals reach it, and how its end is told.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

/// Passes a signal on to a command.
pub fn pass_on(child: &Child, signal: Signal) {
    let pid = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // The command may have ended at this moment; then there is nothing to pass on.
        let _ = kill_process(pid, signal);
    }
}

/// The status of a command as shells tell it: its own, or 128 + N if the signal N ended it. `None` if there is no such
/// number.
pub fn told_status(status: ExitStatus) -> Option<u8> {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_shells() {
        let told = |raw| told_status(ExitStatus::from_raw(raw));
        assert_eq!(
            [told(0), told(7 << 8), told(2), told(9)],
            [0, 7, 130, 137].map(Some)
        );
    }
}
