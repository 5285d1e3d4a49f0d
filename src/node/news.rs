//! What a running node tells its owner: whether its relay is listed, and what goes wrong.

use cepa_relay::{Listing, RelayEvent, RelayEvents, RelayHandle};
use tracing::Level;

/// Something that a node has to say to its owner.
#[derive(Debug)]
pub struct News {
    /// The news in one line.
    pub line: String,
    /// Does a log at the usual level have it too?
    pub is_logged: bool,
}

/// What a running relay tells its owner.
pub(super) struct Told {
    events: RelayEvents,
    /// Does the relay want to be listed?
    publishes: bool,
    /// Was the relay in a family when that was last told?
    is_member: bool,
    /// Was the owner told that no newer consensus comes, and not yet that one has come?
    is_late: bool,
}

impl Told {
    /// What `relay` tells from now on, after what says how things stand.
    pub(super) fn by(relay: &RelayHandle, publishes: bool) -> Self {
        Self {
            events: relay.events(),
            publishes,
            is_member: false,
            is_late: false,
        }
    }

    /// The next news. The future never completes when the relay is gone.
    pub(super) async fn news(&mut self) -> News {
        while let Some(event) = self.events.next().await {
            // Most relays are in no family, and that is no news.
            if let RelayEvent::Family { is_member } = event
                && std::mem::replace(&mut self.is_member, is_member) == is_member
            {
                continue;
            }
            match &event {
                RelayEvent::ConsensusMissed { .. } => self.is_late = true,
                RelayEvent::Consensus { .. } if std::mem::take(&mut self.is_late) => {
                    return News {
                        line: format!("there is a newer {event}"),
                        is_logged: false,
                    };
                }
                _ => {}
            }
            if let Some(news) = news(&event, self.publishes) {
                return news;
            }
        }
        std::future::pending().await
    }
}

/// Completes when the newest consensus lists the relay as one that authorities reach; `false` if the relay ends before.
pub(super) async fn until_listed(mut events: RelayEvents) -> bool {
    while let Some(event) = events.next().await {
        if event == RelayEvent::Listing(Listing::Reachable) {
            return true;
        }
    }
    false
}

/// What an event of a running relay says to its owner; `None` for what is no news.
fn news(event: &RelayEvent, publishes: bool) -> Option<News> {
    let is_logged = event.level() <= Level::INFO;
    let is_news = match event {
        RelayEvent::Listing(_) => publishes,
        RelayEvent::CertificateRenewed
        | RelayEvent::Family { .. }
        | RelayEvent::Published { .. }
        | RelayEvent::Clock { .. } => true,
        event => event.level() <= Level::WARN,
    };
    is_news.then(|| News {
        line: event.to_string(),
        is_logged,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cepa_relay::DescriptorAnswer;

    fn said(event: &RelayEvent) -> Option<bool> {
        news(event, true).map(|news| news.is_logged)
    }

    #[test]
    fn an_owner_hears_whether_the_relay_is_listed_and_what_goes_wrong() {
        for listing in [Listing::Absent, Listing::Unreachable, Listing::Reachable] {
            let event = RelayEvent::Listing(listing);
            assert_eq!(said(&event), Some(false), "no usual log has {event}");
            assert!(
                news(&event, false).is_none(),
                "it does not want to be listed"
            );
        }
        let answer = DescriptorAnswer::Refused {
            status: 403,
            reason: "not wanted".to_owned(),
        };
        let refused = RelayEvent::Descriptor {
            authority: "oak".to_owned(),
            answer,
        };
        assert_eq!(said(&refused), Some(true));
        assert_eq!(said(&RelayEvent::CertificateEnded), Some(true));
        let taken = RelayEvent::Descriptor {
            authority: "oak".to_owned(),
            answer: DescriptorAnswer::Taken,
        };
        assert_eq!(said(&taken), None);
        assert_eq!(said(&RelayEvent::OnionKeyMade), None);
    }
}
