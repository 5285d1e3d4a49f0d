//! Tasks that stop together.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// How long a stop waits for tasks to end before it leaves them to the runtime.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Spawns tasks that end when they are told to stop, wherever they wait.
#[derive(Clone)]
pub struct Tasks {
    stop: watch::Receiver<bool>,
    running: mpsc::Sender<()>,
}

/// Stops the tasks of a [`Tasks`].
pub struct Stopper {
    stop: watch::Sender<bool>,
    running: mpsc::Receiver<()>,
}

/// A group of tasks, and its stopper.
pub fn tasks() -> (Tasks, Stopper) {
    let (stop, stopped) = watch::channel(false);
    let (running, ended) = mpsc::channel(1);
    (Tasks { stop: stopped, running }, Stopper { stop, running: ended })
}

impl Tasks {
    /// Runs `work` until it ends or the group stops. What it owns is dropped
    /// then, which ends links and circuits in good order.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Self { mut stop, running } = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = work => {}
            }
            drop(running);
        });
    }
}

impl Stopper {
    /// Tells all tasks to stop and waits until they have. The caller must have
    /// dropped every [`Tasks`] of the group that no task holds.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        let _ = tokio::time::timeout(STOP_TIMEOUT, self.running.recv()).await;
    }
}
