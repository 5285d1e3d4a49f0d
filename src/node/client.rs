//! The client half of a node: how it starts, what it shows of itself, and what its owner can ask of it.

use cepa_client::circuit::Multipath;
use cepa_client::circuit::isolation::IsolateBy;
use cepa_client::{Client, ClientError, ClientEvent, ClientEvents, ClientOptions, Warning};
use tokio::sync::watch;

use super::error::{AppError, PEERS_HINT};
use crate::config::{IsolateKind, MultipathKind};
use crate::terminal::Progress;

/// The most warnings of one start that are kept for whoever follows the start.
const MOST_WARNINGS: usize = 32;

/// From so many failed rounds on the owner is told once more, now and then, although nothing has changed.
const LONG_AWAY: u32 = 16;

/// A client that works, and what it tells.
pub struct Started {
    /// The client.
    pub client: Client,
    events: ClientEvents,
    /// Has the client's owner been told that it is cut off, and not yet that it is back?
    is_lost: bool,
}

/// Begins to start a client.
pub async fn start(options: ClientOptions) -> Started {
    let (client, events) = Box::pin(Client::start(options)).await;
    Started {
        client,
        events,
        is_lost: false,
    }
}

impl Started {
    /// Waits until the client is of use and tells `progress` how far it is.
    pub async fn ready(&mut self, progress: watch::Sender<Progress>) -> Result<(), AppError> {
        let ready = self.client.ready();
        tokio::pin!(ready);
        loop {
            tokio::select! {
                biased;
                Some(event) = self.events.next() => tell(&progress, &event),
                started = &mut ready => {
                    return started.map_err(|error| match error {
                        ClientError::Rules(error) => AppError::Mismatch {
                            what: error.to_string(),
                            hint: PEERS_HINT,
                        },
                        error => AppError::Client(error.to_string()),
                    });
                }
            }
        }
    }

    /// What the client has to say to its owner next.
    pub async fn news(&mut self) -> String {
        while let Some(event) = self.events.next().await {
            match &event {
                ClientEvent::Lost(_) => self.is_lost = true,
                ClientEvent::Ready if std::mem::take(&mut self.is_lost) => {
                    return "ready again: streams can be opened".to_owned();
                }
                _ => {}
            }
            if let Some(line) = line(&event) {
                return line;
            }
        }
        std::future::pending().await
    }
}

fn tell(progress: &watch::Sender<Progress>, event: &ClientEvent) {
    progress.send_modify(|progress| {
        if let Some(percent) = event.percent() {
            progress.percent = percent;
            progress.what = event.to_string();
            progress.is_detail = match event {
                ClientEvent::Receiving { bytes, of, .. } => Some(*bytes) != *of,
                // Failed rounds are told more and more rarely, because the same again is no news.
                ClientEvent::Waiting { rounds, why } => {
                    let why = why.to_string();
                    let is_news = *rounds >= LONG_AWAY || why != progress.waits_for;
                    progress.waits_for = why;
                    !(rounds.is_power_of_two() && is_news)
                }
                ClientEvent::Connecting(_) => !progress.waits_for.is_empty(),
                _ => false,
            };
        } else if let Some(line) = line(event)
            && progress.warnings.len() < MOST_WARNINGS
        {
            progress.warnings.push(line);
        }
    });
}

/// What an event of a running client says to its owner; `None` for what is no news.
fn line(event: &ClientEvent) -> Option<String> {
    match event {
        // The consensus came from another source, so the start has gone on.
        ClientEvent::Over(Warning::Unreachable { .. }) => None,
        ClientEvent::Warning(_)
        | ClientEvent::Over(_)
        | ClientEvent::Lost(_)
        | ClientEvent::MemoryExceeded { .. } => Some(event.to_string()),
        _ => None,
    }
}

/// When circuits get a second leg, in the library's words.
pub fn multipath(kind: MultipathKind) -> Multipath {
    match kind {
        MultipathKind::Never => Multipath::Never,
        MultipathKind::Bulk => Multipath::Bulk,
        MultipathKind::Always => Multipath::Always,
    }
}

/// The client library's switches that stand for these kinds.
pub fn isolate_by(kinds: &[IsolateKind]) -> IsolateBy {
    let has = |kind| kinds.contains(&kind);
    IsolateBy {
        credentials: has(IsolateKind::Credentials),
        listener: has(IsolateKind::Listener),
        client: has(IsolateKind::Client),
        protocol: has(IsolateKind::Protocol),
        destination: has(IsolateKind::Destination),
        port: has(IsolateKind::Port),
        every_stream: has(IsolateKind::Stream),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cepa_client::DirectorySource;

    #[test]
    fn each_kind_switches_what_it_names_and_the_defaults_are_the_librarys() {
        type Switch = fn(&mut IsolateBy);
        let none = isolate_by(&[]);
        let switches: [(IsolateKind, Switch); 7] = [
            (IsolateKind::Credentials, |by| by.credentials = true),
            (IsolateKind::Listener, |by| by.listener = true),
            (IsolateKind::Client, |by| by.client = true),
            (IsolateKind::Protocol, |by| by.protocol = true),
            (IsolateKind::Destination, |by| by.destination = true),
            (IsolateKind::Port, |by| by.port = true),
            (IsolateKind::Stream, |by| by.every_stream = true),
        ];
        for (kind, switch) in switches {
            let mut expected = none;
            switch(&mut expected);
            assert_eq!(isolate_by(&[kind]), expected, "{kind:?}");
        }
        assert_eq!(isolate_by(&IsolateKind::DEFAULT), IsolateBy::default());
    }

    #[test]
    fn news_is_told_and_stages_are_not() {
        let said = |event| line(&event).unwrap_or_default();
        assert!(said(ClientEvent::Warning(Warning::NetworkDown)).starts_with("warning: "));
        assert!(said(ClientEvent::Over(Warning::NetworkDown)).contains("again"));
        assert_eq!(said(ClientEvent::Ready), "");
    }

    #[test]
    fn a_log_is_not_filled_by_a_network_that_is_away() {
        let progress = watch::Sender::new(Progress::default());
        let mut shown = 0;
        for rounds in 1..=1_000 {
            for name in ["one", "two", "three"] {
                let source = DirectorySource::Authority(name.to_owned());
                tell(&progress, &ClientEvent::Connecting(source));
                shown += usize::from(!progress.borrow().is_detail);
            }
            let why = Default::default();
            tell(&progress, &ClientEvent::Waiting { rounds, why });
            shown += usize::from(!progress.borrow().is_detail);
        }
        assert_eq!(
            shown,
            3 + 1 + 6,
            "the first round, its failure, and 16, 32, 64 up to 512"
        );
    }
}
