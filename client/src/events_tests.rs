//! What listeners hear, when, and in which words.
#![allow(clippy::unwrap_used)]

use cepa_common::net::news::RING;

use super::*;

fn failing(n: u8) -> Warning {
    Warning::GuardFailing {
        identity: RelayId([n; 32]),
        nickname: format!("g{n}"),
    }
}

/// The events that can be had without a wait.
async fn ready(events: &mut ClientEvents) -> Vec<ClientEvent> {
    let mut ready = Vec::new();
    let none = std::time::Duration::ZERO;
    while let Ok(Some(event)) = tokio::time::timeout(none, events.next()).await {
        ready.push(event);
    }
    ready
}

#[tokio::test]
async fn caches_that_misbehave_fill_no_log_and_a_revision_is_news() {
    let reporter = Reporter::default();
    let mut events = reporter.subscribe();
    assert_eq!(ready(&mut events).await, [ClientEvent::Starting]);
    (0..=255).for_each(|n| reporter.misbehaved(RelayId([n; 32])));
    let cache = RelayId([0; 32]);
    let first = ClientEvent::CacheMisbehaved { cache, times: 1 };
    assert_eq!(first.level(), Level::WARN);
    assert_eq!(ready(&mut events).await, [first]);
    let revision = RevisionNews::NotKept {
        reason: "the disk is full".to_owned(),
    };
    reporter.revision(revision.clone());
    let told = [ClientEvent::Revision(revision)];
    assert_eq!(ready(&mut events).await, told);
    assert_eq!((told[0].level(), told[0].percent()), (Level::WARN, None));
    assert!(told[0].to_string().contains("the disk is full"));
    let many = ClientEvent::CacheMisbehaved { cache, times: 9 };
    assert!(many.to_string().contains("9 such answers"));
}

#[tokio::test]
async fn late_listeners_hear_the_present_first() {
    let reporter = Reporter::default();
    reporter.stage(ClientEvent::Circuit { hop: 1, hops: 3 });
    reporter.warn(failing(1));
    reporter.warn(failing(2));
    reporter.over(|warning| *warning == failing(1));
    let mut events = reporter.subscribe();
    reporter.stage(ClientEvent::Ready);
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(events.next().await.unwrap());
    }
    assert_eq!(
        heard,
        [
            ClientEvent::Circuit { hop: 1, hops: 3 },
            ClientEvent::Warning(failing(2)),
            ClientEvent::Ready
        ]
    );
    drop(reporter);
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn one_who_sleeps_skips_ahead_to_the_present() {
    let reporter = Reporter::default();
    let mut events = reporter.subscribe();
    for hop in 0..10 * RING {
        reporter.stage(ClientEvent::Circuit { hop, hops: 3 });
    }
    let last = ClientEvent::Circuit {
        hop: 10 * RING - 1,
        hops: 3,
    };
    assert_eq!(events.next().await, Some(ClientEvent::Starting));
    assert_eq!(events.next().await, Some(last));
    reporter.stage(ClientEvent::Ready);
    assert_eq!(events.next().await, Some(ClientEvent::Ready));
}

#[tokio::test]
async fn a_download_is_told_in_pieces_and_never_goes_back() {
    let reporter = Reporter::default();
    let mut events = reporter.subscribe();
    let (one, two) = (
        DirectorySource::Authority("one".into()),
        DirectorySource::Circuit,
    );
    for bytes in (0..=1_000_000).step_by(1_000) {
        reporter.receiving(&one, bytes, Some(1_000_000));
        reporter.receiving(&two, bytes / 2, Some(1_000_000));
    }
    reporter.stage(ClientEvent::Ready);
    reporter.receiving(&one, 2_000_000, None);
    let (mut told, mut percent) = (Vec::new(), 0);
    loop {
        let event = events.next().await.unwrap();
        assert!(event.percent() >= Some(percent), "{event}");
        percent = event.percent().unwrap();
        match event {
            ClientEvent::Receiving { bytes, .. } => told.push(bytes),
            ClientEvent::Ready => break,
            _ => {}
        }
    }
    assert!(told.is_sorted() && told.len() < 20, "{told:?}");
    assert_eq!(told.last(), Some(&1_000_000));
}

#[tokio::test]
async fn warnings_are_told_once_and_bounded() {
    let reporter = Reporter::default();
    let mut events = reporter.subscribe();
    reporter.warn(failing(1));
    reporter.warn(failing(1));
    let told = [ClientEvent::Starting, ClientEvent::Warning(failing(1))];
    assert_eq!(ready(&mut events).await, told);
    // A warning in other words replaces the one before. If only a number changes that the words do not contain, nothing
    // is told.
    let skew = |ahead_secs| Warning::ClockSkew { ahead_secs };
    for ahead_secs in [600, 601, 900] {
        reporter.warn(skew(ahead_secs));
    }
    let told = [600, 900].map(|ahead_secs| ClientEvent::Warning(skew(ahead_secs)));
    assert_eq!(ready(&mut events).await, told);
    assert_eq!(reporter.warnings(), [failing(1), skew(900)]);
    (0..=255).for_each(|n| reporter.warn(failing(n)));
    assert_eq!(reporter.warnings().len(), MOST_WARNINGS);
    let long = Warning::Unreachable {
        source: DirectorySource::Circuit,
        reason: "x".repeat(100_000),
    };
    reporter.over(|_| true);
    reporter.warn(long);
    assert!(reporter.warnings()[0].to_string().len() < 500);
}

#[test]
fn once_ready_only_a_loss_is_a_stage() {
    let reporter = Reporter::default();
    let consensus = ClientEvent::Consensus {
        relays: 3,
        valid_until: 1_900_000_000,
    };
    reporter.stage(ClientEvent::Ready);
    reporter.stage(consensus.clone());
    assert!(reporter.is_ready());
    reporter.stage(ClientEvent::Lost(NoConsensus::default()));
    assert!(!reporter.is_ready());
    reporter.stage(consensus.clone());
    assert_eq!(reporter.present(), consensus);
}

#[test]
fn everything_is_said_in_words() {
    let conflict = ConsensusConflict {
        valid_after: 1_900_000_000,
        held: cepa_common::dir::Digest([1; 32]),
        offered: cepa_common::dir::Digest([2; 32]),
        signed_both: vec!["oak".to_owned()],
    };
    for (event, words) in [
        (
            ClientEvent::Connecting(DirectorySource::Authority("oak".into())),
            "connecting to authority oak",
        ),
        (
            ClientEvent::Receiving {
                from: DirectorySource::Circuit,
                bytes: 2_048,
                of: Some(4_000),
            },
            "2 of 4 KiB",
        ),
        (
            ClientEvent::Warning(Warning::TwoConsensuses(conflict)),
            "signed both: oak",
        ),
        (
            ClientEvent::Warning(Warning::ClockSkew { ahead_secs: -720 }),
            "12 minutes behind",
        ),
        (ClientEvent::Warning(Warning::NetworkDown), "network"),
    ] {
        assert!(event.to_string().contains(words), "{event}");
    }
}
