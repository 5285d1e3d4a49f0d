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
    hangup: Signal,
    parent: Option<oneshot::Receiver<()>>,
}

impl Stop {
    /// Starts to listen to signals, which from now on no longer end the process by themselves.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            parent: None,
        })
    }

    /// Listens to the end of standard input too.
    ///
    /// Whoever starts a node and holds the other end of its input takes it along
    /// whenever and however it ends, SIGKILL included: the system closes the pipe.
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

    /// Waits for the next request. May be called again, to notice an impatient second one.
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
        let cause = tokio::select! {
            _ = self.interrupt.recv() => Cause::Interrupt,
            _ = self.terminate.recv() => Cause::Terminate,
            _ = self.hangup.recv() => Cause::Hangup,
            () = parent => Cause::Parent,
        };
        if cause == Cause::Parent {
            self.parent = None;
        }
        cause
    }
}
