//! The ways in which somebody asks the process to stop.

use std::io::{self, Read};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Why the process is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// SIGINT, as from Ctrl-C.
    Interrupt,
    /// SIGTERM, as from a service manager.
    Terminate,
    /// SIGHUP: the terminal is gone.
    Hangup,
    /// The process that started this one is gone.
    Parent,
}

/// What a node is asked by a signal, or by the end of its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To stop.
    Stop(Cause),
    /// To read its configuration again: SIGHUP.
    Reload,
}

impl Cause {
    /// The number of that signal.
    pub fn number(self) -> u8 {
        u8::try_from(self.signal().as_raw()).unwrap_or(0)
    }

    /// The signal to pass on to a command that runs for us.
    pub fn signal(self) -> rustix::process::Signal {
        match self {
            Self::Interrupt => rustix::process::Signal::INT,
            Self::Terminate | Self::Parent => rustix::process::Signal::TERM,
            Self::Hangup => rustix::process::Signal::HUP,
        }
    }
}

/// Listens for requests to stop, from its creation on.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
    /// `None` if SIGHUP was ignored when the process started, as by nohup: the signal then stays ignored.
    hangup: Option<Signal>,
    parent: Option<oneshot::Receiver<()>>,
}

impl Stop {
    /// Starts to listen to signals, which from now on no longer end the process by themselves.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if is_hangup_ignored() {
                None
            } else {
                Some(signal(SignalKind::hangup())?)
            },
            parent: None,
        })
    }

    /// Listens to the end of standard input too.
    ///
    /// Whoever starts a node and holds the other end of the node's standard input takes the node along, whenever and
    /// however the holder ends, SIGKILL included: the system closes the pipe.
    pub fn with_stdin(mut self) -> io::Result<Self> {
        let (gone, parent) = oneshot::channel();
        // A plain thread: tokio's own would hold the runtime's end up until the next byte.
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || {
                let mut input = io::stdin().lock();
                let mut buffer = [0; 64];
                loop {
                    match input.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(_) => break,
                    }
                }
                // The receiver may have stopped for another reason.
                let _ = gone.send(());
            })?;
        self.parent = Some(parent);
        Ok(self)
    }

    /// Waits for the next request. The caller may call this again, to notice an impatient second request.
    pub async fn requested(&mut self) -> Cause {
        let parent = async {
            match &mut self.parent {
                Some(parent) => {
                    // An error means that the thread ended, which is the same news.
                    let _ = parent.await;
                }
                None => std::future::pending().await,
            }
        };
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        let cause = tokio::select! {
            _ = self.interrupt.recv() => Cause::Interrupt,
            _ = self.terminate.recv() => Cause::Terminate,
            _ = hangup => Cause::Hangup,
            () = parent => Cause::Parent,
        };
        if cause == Cause::Parent {
            self.parent = None;
        }
        cause
    }

    /// Waits for the next request to a node. SIGHUP ends no node: a service goes on without its terminal, and reads its
    /// configuration again.
    pub async fn requested_of_node(&mut self) -> Asked {
        match self.requested().await {
            Cause::Hangup => Asked::Reload,
            cause => Asked::Stop(cause),
        }
    }

    /// Waits for the next request that ends a node, while nothing can be read again because the node starts or stops.
    pub async fn requested_to_end(&mut self) -> Cause {
        loop {
            match self.requested_of_node().await {
                Asked::Reload => tracing::info!(
                    "SIGHUP changes nothing while the node starts or stops; one that has started looks at its \
                     configuration by itself"
                ),
                Asked::Stop(cause) => return cause,
            }
        }
    }
}

/// Was SIGHUP ignored when the process started? If the system does not tell, the answer is no.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status");
    status.is_ok_and(|status| is_ignored(&status, Cause::Hangup.number()))
}

/// Does `status`, which is a `/proc/PID/status` of Linux, say that the signal with this number is ignored?
fn is_ignored(status: &str, number: u8) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = u32::from(number.saturating_sub(1));
    mask.and_then(|mask| mask.checked_shr(bit))
        .is_some_and(|mask| mask & 1 == 1)
}

/// A signal reaches everything in a process that listens, so tests that send signals or listen for them take turns.
#[cfg(test)]
pub(crate) static SIGNALS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustix::process::{Signal as Number, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn a_hangup_ends_no_node() {
        let _turn = SIGNALS.lock().await;
        let mut stop = Stop::listen().unwrap();
        stop.hangup = Some(signal(SignalKind::hangup()).unwrap());
        let mut seen = signal(SignalKind::hangup()).unwrap();
        kill_process(getpid(), Number::HUP).unwrap();
        seen.recv().await;
        let cause = {
            let waiting = stop.requested_to_end();
            tokio::pin!(waiting);
            assert!(is_pending(&mut waiting).await);
            kill_process(getpid(), Number::TERM).unwrap();
            waiting.await
        };
        assert_eq!(cause, Cause::Terminate);
        kill_process(getpid(), Number::HUP).unwrap();
        assert_eq!(stop.requested_of_node().await, Asked::Reload);
        kill_process(getpid(), Number::TERM).unwrap();
        let asked = stop.requested_of_node().await;
        assert_eq!(asked, Asked::Stop(Cause::Terminate));
    }

    /// Is the future not done when it is asked once?
    async fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
        tokio::select! {
            biased;
            _ = future => false,
            () = std::future::ready(()) => true,
        }
    }

    #[test]
    fn the_system_says_which_signals_are_ignored() {
        let with = |mask: &str| is_ignored(&format!("Name:\tcepa\nSigIgn:\t{mask}\n"), 1);
        assert!(with("0000000000000001"));
        assert!(with("0000000000001005"));
        assert!(!with("0000000000001000"));
        assert!(!is_ignored("", 1));
    }
}
