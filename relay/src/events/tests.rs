use std::time::Duration;

use super::*;
use cepa_common::net::directory::RevisionSource;
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

/// The events that can be had without a wait.
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
    // The same answer again is no news, but an authority that changes its mind is.
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

#[tokio::test(start_paused = true)]
async fn what_others_can_cause_is_told_as_a_sum_and_class_by_class() {
    let reporter = Reporter::default();
    let mut events = reporter.subscribe();
    let failed = |times| RelayEvent::AcceptFailed {
        reason: "too many open files".to_owned(),
        times,
    };
    let full = |bound, refused| RelayEvent::ConnectionsFull { bound, refused };
    let all = [
        failed(1),
        full(ConnectionBound::All, 1),
        full(ConnectionBound::Address, 1),
        RelayEvent::MemoryExceeded { used: 9, ended: 1 },
        RelayEvent::ShareExceeded { ended: 1 },
        RelayEvent::HandshakePanicked { times: 1 },
        RelayEvent::WrongDifference {
            reason: "no such line".to_owned(),
            times: 1,
        },
        RelayEvent::disk(DiskTrouble::ConsensusLost, &"damaged"),
        RelayEvent::disk(DiskTrouble::ConsensusNotWritten, &"full"),
    ];
    for _ in 0..200 {
        all.iter().for_each(|event| reporter.report(event.clone()));
        tokio::time::advance(Duration::from_millis(49)).await;
    }
    // In ten seconds of 20 events a second, one event of each class is told.
    assert_eq!(ready(&mut events).await, all);
    tokio::time::advance(Duration::from_secs(1)).await;
    reporter.report(failed(1));
    assert_eq!(ready(&mut events).await, [failed(200)]);
    assert!(
        failed(200)
            .to_string()
            .ends_with("(200 times since this was last said)")
    );
    assert!(failed(1).to_string().ends_with("too many open files"));
}

#[tokio::test(start_paused = true)]
async fn two_consensuses_are_told_once_and_to_whoever_comes_late() {
    let reporter = Reporter::default();
    let mut events = reporter.subscribe();
    let conflict = RelayEvent::TwoConsensuses(ConsensusConflict {
        valid_after: 7,
        held: cepa_common::dir::Digest([1; 32]),
        offered: cepa_common::dir::Digest([2; 32]),
        signed_both: vec!["oak".to_owned()],
    });
    (0..100).for_each(|_| reporter.report(conflict.clone()));
    let told = [conflict];
    assert_eq!(ready(&mut events).await, told);
    assert_eq!(ready(&mut reporter.subscribe()).await, told);
}

#[test]
fn troubles_and_revisions_say_what_follows_from_them() {
    let lost = RelayEvent::disk(DiskTrouble::KnowledgeUnusable, &"permission denied");
    assert_eq!(lost.level(), Level::ERROR);
    assert!(
        lost.to_string()
            .contains("not survive a restart: permission denied")
    );
    let other = RelayEvent::disk(DiskTrouble::OnionTimesLost, &"damaged");
    assert_eq!(other.level(), Level::WARN);
    let reason = "its time is over".to_owned();
    let invalid = RelayEvent::DescriptorInvalid { reason };
    assert_eq!(invalid.level(), Level::ERROR);
    let taken = RelayEvent::Revision(RevisionNews::Taken {
        revision: 3,
        effective_after: 7,
        source: RevisionSource::Owner,
    });
    assert_eq!(taken.level(), Level::INFO);
    let said = "revision 3 of the network is in use, from its file; it decides about documents after \
                1970-01-01T00:00:07Z";
    assert_eq!(taken.to_string(), said);
    let fault = AuthorityFailure::Measurement.because(&"a panic");
    assert_eq!(fault.level(), Level::ERROR);
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
    let said = "consensus complete, valid from 1970-01-01T00:00:07Z: 3 votes, 2 signatures; voted twice oak; not signed by elm, ash";
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
