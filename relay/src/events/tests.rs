use std::time::{Duration, Instant};

use super::*;
use cepa_common::testkit::identity;

fn descriptor(authority: &str, answer: DescriptorAnswer) -> RelayEvent {
    RelayEvent::Descriptor {
        authority: authority.to_owned(),
        answer,
    }
}

fn refused() -> DescriptorAnswer {
    DescriptorAnswer::Refused {
        status: 403,
        reason: "not wanted".to_owned(),
    }
}

/// The events that are there to be had without a wait.
async fn ready(events: &mut RelayEvents) -> Vec<RelayEvent> {
    let mut ready = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        ready.push(event);
    }
    ready
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_late_hears_how_things_stand_and_not_what_is_over() {
    let reporter = Reporter::default();
    let mut early = reporter.subscribe();
    let told = [
        RelayEvent::Listing(Listing::Absent),
        RelayEvent::OnionKeyMade,
        descriptor("oak", DescriptorAnswer::Taken),
        descriptor("elm", refused()),
        RelayEvent::Listing(Listing::Reachable),
    ];
    told.iter().for_each(|event| reporter.report(event.clone()));
    assert_eq!(ready(&mut early).await, told);
    let present = ready(&mut reporter.subscribe()).await;
    assert_eq!(present, told[2..]);
    // Said again it is no news, but an authority that changes its mind is.
    reporter.report(descriptor("oak", DescriptorAnswer::Taken));
    reporter.report(descriptor("oak", refused()));
    reporter.report(RelayEvent::OnionKeyMade);
    let news = [descriptor("oak", refused()), RelayEvent::OnionKeyMade];
    assert_eq!(ready(&mut early).await, news);
}

#[tokio::test(start_paused = true)]
async fn a_slow_listener_skips_ahead_to_how_things_stand() {
    let reporter = Reporter::default();
    let mut slow = reporter.subscribe();
    let listening = RelayEvent::Listening(([127, 0, 0, 1], 9001).into());
    reporter.report(listening.clone());
    for _ in 0..1_000 {
        reporter.report(RelayEvent::OnionKeyMade);
    }
    assert_eq!(ready(&mut slow).await, [listening]);
    reporter.report(RelayEvent::OnionKeyRetired);
    assert_eq!(ready(&mut slow).await, [RelayEvent::OnionKeyRetired]);
    drop(reporter);
    assert_eq!(slow.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_bounded() {
    let reporter = Reporter::default();
    for n in 0..1_000 {
        reporter.report(descriptor(&n.to_string(), DescriptorAnswer::Taken));
    }
    let present = ready(&mut reporter.subscribe()).await;
    assert_eq!(present.len(), 64);
    assert_eq!(
        present.last(),
        Some(&descriptor("999", DescriptorAnswer::Taken))
    );
}

#[test]
fn what_happens_often_is_told_as_a_sum() {
    let mut pace = Pace::default();
    let begin = Instant::now();
    let mut count = |count, seconds| pace.count(count, begin + Duration::from_secs(seconds));
    assert_eq!(count(2, 0), Some(2));
    assert_eq!((count(3, 1), count(4, 9)), (None, None));
    assert_eq!(count(5, 10), Some(12));
    assert_eq!(count(u64::MAX, 11), None);
    assert_eq!(count(1, 20), Some(u64::MAX));
}

#[test]
fn events_say_what_they_are_about_and_how_loudly() {
    let authority = AuthorityEvent::Complete {
        valid_after: 7,
        votes: 3,
        signatures: 2,
        silent: Vec::new(),
        convicted: vec!["oak".to_owned()],
        unsigned: vec!["elm".to_owned(), "ash".to_owned()],
    };
    let said = "consensus complete, valid from 7: 3 votes, 2 signatures; voted twice oak; not signed by elm, ash";
    let event = RelayEvent::from(authority);
    assert_eq!(
        (event.to_string().as_str(), event.level()),
        (said, Level::INFO)
    );
    assert_eq!(descriptor("oak", refused()).level(), Level::WARN);
    let full = |bound| RelayEvent::ConnectionsFull { bound, refused: 1 };
    // Strangers from one address do not fill the log.
    assert_eq!(full(ConnectionBound::Address).level(), Level::DEBUG);
    assert_eq!(full(ConnectionBound::All).level(), Level::WARN);
    let lost = AuthorityFailure::RecordLost.because(&identity(1));
    assert_eq!(lost.level(), Level::ERROR);
    assert!(lost.to_string().contains("votes no more"));
}
