//! Tasks that stop together.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// How long a stop waits for tasks to end before it leaves them to the runtime.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Spawns tasks that end when they are told to stop, wherever they wait.
#[derive(Clone)]
pub struct Tasks {
    stop: watch::Receiver<bool>,
    /// A weak sender, because a stop must wait only for tasks that run and not for whoever could spawn more.
    running: mpsc::WeakSender<()>,
}

/// Stops the tasks of a [`Tasks`].
pub struct Stopper {
    stop: watch::Sender<bool>,
    running: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
}

/// Makes a group of tasks and its stopper.
pub fn tasks() -> (Tasks, Stopper) {
    let (stop, stopped) = watch::channel(false);
    let (running, ended) = mpsc::channel(1);
    let tasks = Tasks {
        stop: stopped,
        running: running.downgrade(),
    };
    let stopper = Stopper {
        stop,
        running,
        ended,
    };
    (tasks, stopper)
}

impl Tasks {
    /// Runs `work` until it ends or the group stops. What `work` owns is dropped then, which ends links and circuits in
    /// good order. In a group that has stopped, no task begins.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut stop = self.stop.clone();
        let Some(running) = self.running.upgrade() else {
            return;
        };
        // In a box, because a future that is moved into another one takes its place twice there.
        let work = Box::pin(work);
        tokio::spawn(async move {
            tokio::select! {
                // A stop goes first. A task that has been told of it does nothing more, so that what other tasks leave
                // behind as they end does not look like an event to it.
                biased;
                _ = stop.wait_for(|stop| *stop) => {}
                () = work => {}
            }
            drop(running);
        });
    }
}

impl Stopper {
    /// Tells all tasks to stop and waits until they have.
    pub async fn stop(self) {
        let Self {
            stop,
            running,
            mut ended,
        } = self;
        let _ = stop.send(true);
        drop(running);
        let _ = tokio::time::timeout(STOP_TIMEOUT, ended.recv()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_what_runs_and_for_nothing_else() {
        let (tasks, stopper) = tasks();
        let begun = tokio::time::Instant::now();
        tasks.spawn(std::future::pending());
        let kept = tasks.clone();
        tasks.spawn(async move {
            let _kept = kept;
            std::future::pending().await
        });
        stopper.stop().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        // The task comes too late: it is dropped with what it owns.
        let (owned, gone) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn(async move {
            let _owned = owned;
            std::future::pending().await
        });
        assert!(gone.await.is_err());
    }
}
