//! Caches that lie, stall or are behind; clocks that are off; many clients at once.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cepa_common::dir::{Consensus, Flags, Lifetime, diff};
use cepa_common::net::directory::Backoff;
use cepa_common::testkit::*;
use cepa_common::world::{Clock, Disk};

use super::schedule::until_next;
use super::tests::{START, consensus, give_circuits, network, start, start_reporting, until};
use super::{BootstrapProgress, Directory, DirectoryConfig, WrongClock, directory};
use crate::events::{ClientEvent, Reporter, Warning};

const RELAYS: [u8; 4] = [10, 11, 12, 13];

/// A client that holds the consensus of START, got from authority 1, which then vanishes. From then on its circuits end
/// at [`RELAYS`] in turn.
async fn holding(sources: &Sources) -> (Directory, tokio::task::JoinHandle<()>) {
    let network = network();
    sources.put(1, consensus(&network, START, &RELAYS).bytes());
    let (directory, task) = start(&network, sources, START, None);
    give_circuits(&directory, sources, &RELAYS);
    until(&directory, START).await;
    sources.remove(1);
    sources.dialled();
    sources.answered();
    (directory, task)
}

/// Three relays misbehave in one way; the fourth is honest. The client gets the next consensus, and asks no relay again
/// that it blames.
async fn survives(script: Script, is_blamed: bool) {
    let (network, sources) = (network(), Sources::default());
    let (directory, task) = holding(&sources).await;
    let old = consensus(&network, START, &RELAYS);
    let next = consensus(&network, START + 10, &RELAYS);
    for n in [10, 11, 12] {
        sources.play(n, script.clone());
    }
    sources.play(13, Script::Cache(vec![next.clone(), old]));
    let taken = until(&directory, START + 10).await;
    assert_eq!(taken.bytes(), next.bytes());
    let again = consensus(&network, START + 20, &RELAYS);
    sources.play(13, Script::Cache(vec![again, next]));
    sources.dialled();
    until(&directory, START + 20).await;
    let bad = sources
        .dialled()
        .iter()
        .filter(|a| (5_010..=5_012).contains(&a.port()))
        .count();
    if is_blamed {
        // Those of the three that were asked in the first round are known by now, so at most one more is asked.
        assert!(bad <= 1, "{bad}");
    }
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn garbage() {
    survives(Script::Whole(b"soup".to_vec()), true).await;
}

#[tokio::test(start_paused = true)]
async fn no_http() {
    survives(Script::Raw(b"220 soup ready\r\n".to_vec(), true), true).await;
}

#[tokio::test(start_paused = true)]
async fn another_network() {
    let other = network_with(3, [("vote_interval_seconds".to_owned(), 11)].into());
    let foreign = consensus(&other, START + 10, &RELAYS);
    survives(Script::Whole(foreign.bytes().to_vec()), true).await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_signature() {
    let mut bytes = consensus(&network(), START + 10, &RELAYS).bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    survives(Script::Whole(bytes), true).await;
}

#[tokio::test(start_paused = true)]
async fn older_than_what_is_held() {
    let old = consensus(&network(), START - 20, &RELAYS);
    survives(Script::Whole(old.bytes().to_vec()), true).await;
}

#[tokio::test(start_paused = true)]
async fn a_stall_in_the_midst() {
    survives(Script::cut("200 OK", 100_000, 10, true), true).await;
}

#[tokio::test(start_paused = true)]
async fn silence() {
    survives(Script::Raw(Vec::new(), true), true).await;
}

#[tokio::test(start_paused = true)]
async fn too_much_announced() {
    survives(Script::cut("200 OK", 1 << 40, 10, true), true).await;
}

#[tokio::test(start_paused = true)]
async fn too_much_sent() {
    let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let chunk = [
        b"100000\r\n".to_vec(),
        vec![b'x'; 1 << 20],
        b"\r\n".to_vec(),
    ]
    .concat();
    for _ in 0..9 {
        bytes.extend_from_slice(&chunk);
    }
    survives(Script::Raw(bytes, true), true).await;
}

#[tokio::test(start_paused = true)]
async fn too_little() {
    survives(Script::cut("200 OK", 1_000, 10, false), true).await;
}

#[tokio::test(start_paused = true)]
async fn not_asked_for() {
    survives(Script::cut("204 No Content", 0, 0, false), true).await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_difference() {
    let network = network();
    let old = consensus(&network, START, &RELAYS);
    let mut wrong = diff(&old, &consensus(&network, START + 10, &RELAYS)).unwrap();
    wrong[45] ^= 1;
    survives(Script::difference(&old, &wrong), true).await;
}

#[tokio::test(start_paused = true)]
async fn busy_is_no_lie() {
    let (network, sources) = (network(), Sources::default());
    let (directory, _task) = holding(&sources).await;
    for n in RELAYS {
        sources.play(n, Script::cut("503 Service Unavailable", 0, 0, false));
    }
    sources.until_dialled(6).await;
    let next = consensus(&network, START + 10, &RELAYS);
    for n in RELAYS {
        sources.play(n, Script::Cache(vec![next.clone()]));
    }
    until(&directory, START + 10).await;
}

/// A server that is full closes connections unanswered.
#[tokio::test(start_paused = true)]
async fn a_connection_that_closes_unanswered_is_no_lie() {
    let (network, sources) = (network(), Sources::default());
    let (directory, _task) = holding(&sources).await;
    for n in RELAYS {
        sources.play(n, Script::Raw(Vec::new(), false));
    }
    sources.until_dialled(6).await;
    let next = consensus(&network, START + 10, &RELAYS);
    for n in RELAYS {
        sources.play(n, Script::Cache(vec![next.clone()]));
    }
    until(&directory, START + 10).await;
}

/// A client whose clock is ahead asks before all relays have fetched: their consensus is one interval old.
#[tokio::test(start_paused = true)]
async fn one_interval_behind_is_no_lie_and_two_are() {
    for (age, misbehaves) in [(10, false), (20, true)] {
        let (network, sources, reporter) = (network(), Sources::default(), Reporter::default());
        let mut events = reporter.subscribe();
        sources.put(1, consensus(&network, START, &RELAYS).bytes());
        let (directory, task) =
            start_reporting(&network, &sources, START + 30, None, reporter.clone());
        let opened = give_circuits(&directory, &sources, &RELAYS);
        until(&directory, START).await;
        for n in RELAYS {
            sources.put(n, consensus(&network, START - age, &RELAYS).bytes());
        }
        sources.until_dialled(12).await;
        assert!(opened.lock().unwrap().len() >= 3);
        task.abort();
        let _ = task.await;
        drop((directory, reporter));
        let mut is_told = false;
        while let Some(event) = events.next().await {
            is_told |= matches!(event, ClientEvent::CacheMisbehaved { .. });
        }
        assert_eq!(is_told, misbehaves, "{age}");
    }
}

/// Busy for a minute.
fn busy() -> Script {
    let head = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n";
    Script::Raw(head.as_bytes().to_vec(), false)
}

#[tokio::test(start_paused = true)]
async fn who_is_busy_is_left_alone_for_as_long_as_it_asks_for() {
    let (network, sources) = (network(), Sources::default());
    (1..=3).for_each(|n| sources.play(n, busy()));
    let began = tokio::time::Instant::now();
    let (directory, _task) = start(&network, &sources, START, None);
    sources.until_dialled(3).await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(sources.dialled().len(), 3, "asked again too soon");
    let newest = consensus(&network, START, &RELAYS);
    (1..=3).for_each(|n| sources.play(n, Script::Cache(vec![newest.clone()])));
    until(&directory, START).await;
    let waited = began.elapsed();
    let (least, most) = (Duration::from_secs(60), Duration::from_secs(80));
    assert!((least..most).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_busy_delays_nothing_where_others_answer() {
    let (network, sources) = (network(), Sources::default());
    let (directory, _task) = holding(&sources).await;
    let next = consensus(&network, START + 10, &RELAYS);
    let cache = |held: &Arc<Consensus>| Script::Cache(vec![held.clone()]);
    (10..=11).for_each(|n| sources.play(n, busy()));
    (12..=13).for_each(|n| sources.play(n, cache(&next)));
    until(&directory, START + 10).await;
    let again = consensus(&network, START + 20, &RELAYS);
    (12..=13).for_each(|n| sources.play(n, cache(&again)));
    sources.dialled();
    until(&directory, START + 20).await;
    let busy = |a: &&std::net::SocketAddr| (5_010..=5_011).contains(&a.port());
    // Of the two busy relays at most one is asked: the one that was not among the three asked first.
    assert!(sources.dialled().iter().filter(busy).count() <= 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_new_then_a_difference_then_the_whole() {
    let (network, sources) = (network(), Sources::default());
    let (directory, _task) = holding(&sources).await;
    let held: Vec<_> = [START, START + 10, START + 20]
        .map(|at| consensus(&network, at, &RELAYS))
        .into();
    let play = |caches: &[usize]| {
        let shelf: Vec<_> = caches.iter().map(|n| Arc::clone(&held[*n])).collect();
        for n in RELAYS {
            sources.play(n, Script::Cache(shelf.clone()));
        }
    };
    play(&[0]);
    sources.until_dialled(6).await;
    assert!(sources.answered().iter().all(|status| *status == 304));
    play(&[1, 0]);
    until(&directory, START + 10).await;
    assert!(sources.answered().contains(&226));
    play(&[2]);
    let taken = until(&directory, START + 20).await;
    assert!(sources.answered().contains(&200));
    assert_eq!(taken.bytes(), held[2].bytes());
}

#[tokio::test(start_paused = true)]
async fn circuits_first_then_those_that_the_networks_file_names() {
    let (network, sources) = (network(), Sources::default());
    sources.put(1, consensus(&network, START, &RELAYS).bytes());
    let (directory, _task) = start(&network, &sources, START, None);
    let opened = give_circuits(&directory, &sources, &[20, 21, 22, 23]);
    until(&directory, START).await;
    sources.remove(1);
    sources.dialled();
    let next = consensus(&network, START + 10, &RELAYS);
    sources.put(20, b"soup");
    for n in [21, 22, 23] {
        sources.play(n, Script::Cache(vec![next.clone()]));
    }
    until(&directory, START + 10).await;
    assert_eq!(opened.lock().unwrap().len(), 3);
    assert!(sources.dialled().iter().all(|a| a.port() >= 5_020));
    // The one that lied is avoided. Where circuits fail, an authority has the next; no relay is asked directly.
    for n in 20..=23 {
        sources.remove(n);
    }
    let later = consensus(&network, START + 20, &RELAYS);
    for n in RELAYS.into_iter().chain([2]) {
        sources.play(n, Script::Cache(vec![later.clone()]));
    }
    until(&directory, START + 20).await;
    let opened = opened.lock().unwrap();
    assert_eq!(opened.len(), 12);
    let relays = 5_010..=5_013;
    assert!(
        sources
            .dialled()
            .iter()
            .all(|a| !relays.contains(&a.port()))
    );
    assert!(opened[3..].iter().all(|(who, _)| *who != identity(20)));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_names_those_who_signed_both() {
    let (network, sources, reporter) = (network(), Sources::default(), Reporter::default());
    sources.put(1, consensus(&network, START, &RELAYS).bytes());
    let (directory, _task) = start_reporting(&network, &sources, START, None, reporter.clone());
    give_circuits(&directory, &sources, &RELAYS);
    let held = until(&directory, START).await;
    sources.remove(1);
    let entries = vec![web_entry(11, Flags::VALID | Flags::RUNNING, 10)];
    let other = consensus_signed(&network, START, entries, &[1, 3]);
    for n in RELAYS {
        sources.put(n, other.bytes());
    }
    let mut alarm = directory.alarm();
    let raised = tokio::time::timeout(Duration::from_secs(300), alarm.wait_for(Option::is_some));
    let raised = raised.await.expect("no alarm").unwrap().clone().unwrap();
    // The conflict is also said to whoever looks at the client.
    assert_eq!(
        reporter.warnings(),
        [Warning::TwoConsensuses(raised.clone())]
    );
    let mut names = raised.signed_both.clone();
    names.sort();
    assert_eq!(names, ["authority 1", "authority 3"]);
    assert_eq!(
        (raised.held, raised.offered),
        (held.digest(), other.digest())
    );
    let shown = directory.consensus().borrow().clone().unwrap();
    assert_eq!(shown.digest(), held.digest());
}

async fn fails_with(directory: &Directory, fits: impl Fn(&super::NoConsensus) -> bool) -> String {
    let mut progress = directory.progress();
    let failed =
        |p: &BootstrapProgress| matches!(p, BootstrapProgress::Failed { why, .. } if fits(why));
    let step = tokio::time::timeout(Duration::from_secs(300), progress.wait_for(failed));
    match step.await.expect("not so").unwrap().clone() {
        BootstrapProgress::Failed { reason, .. } => reason,
        _ => unreachable!(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_behind_is_told_by_how_much() {
    let (network, sources) = (network(), Sources::default());
    let of_now = consensus(&network, START, &RELAYS);
    sources.put(1, of_now.bytes());
    let (directory, task) = start(&network, &sources, START - 3 * 86_400, None);
    // A single source may itself be wrong.
    fails_with(&directory, |why| !why.reason.is_empty()).await;
    assert_eq!(directory.why_none().skew, None);
    sources.put(2, of_now.bytes());
    let text = fails_with(&directory, |why| why.skew.is_some()).await;
    assert!(text.contains("behind by about 3 days"), "{text}");
    assert!(matches!(
        directory.why_none().skew,
        Some(WrongClock::Behind(_))
    ));
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_is_told_by_how_much() {
    let (network, sources) = (network(), Sources::default());
    let of_now = consensus(&network, START, &RELAYS);
    sources.put(1, of_now.bytes());
    sources.put(2, of_now.bytes());
    let (directory, _task) = start(&network, &sources, START + 3 * 86_400, None);
    let text = fails_with(&directory, |why| why.skew.is_some()).await;
    assert!(
        text.contains("expired at 2030-03-17T17:47:40Z; the authorities do not answer"),
        "{text}"
    );
    assert!(text.contains("ahead by about 3 days"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn grace_ends_to_the_second_and_says_why() {
    let (network, sources) = (network(), Sources::default());
    sources.put(1, consensus(&network, START, &RELAYS).bytes());
    let ends = START + 60 + 86_400;
    let (directory, _task) = start(&network, &sources, ends - 30, None);
    until(&directory, START).await;
    let began = tokio::time::Instant::now();
    let mut follow = directory.consensus();
    follow.wait_for(Option::is_none).await.unwrap();
    let left = began.elapsed();
    assert!(
        left > Duration::from_secs(29) && left < Duration::from_secs(32),
        "{left:?}"
    );
    let why = directory.why_none();
    assert_eq!(why.expired_at, Some(START + 60));
    assert!(
        why.to_string()
            .starts_with("the newest consensus that could be had expired at 2030")
    );
    // The authorities come back.
    sources.put(1, consensus(&network, ends, &RELAYS).bytes());
    until(&directory, ends).await;
}

#[test]
fn many_clients_do_not_come_at_once() {
    let lifetime = Lifetime {
        valid_after: 0,
        fresh_until: 3_600,
        valid_until: 86_400,
    };
    let mut rng = rand::rng();
    let mut minutes = [0u32; 100];
    for _ in 0..10_000 {
        let next = until_next(lifetime, 0, &mut rng).unwrap().as_secs();
        assert!((3_960..5_400).contains(&next), "{next}");
        minutes[usize::try_from(next / 60).unwrap()] += 1;
    }
    // 24 minutes share 10,000 clients: 417 for each minute, and no minute has many more.
    assert!(minutes.iter().all(|count| *count < 550), "{minutes:?}");
    // A consensus that ends soon is followed before it does.
    let short = Lifetime {
        valid_until: 4_000,
        ..lifetime
    };
    for _ in 0..100 {
        assert!(until_next(short, 0, &mut rng).unwrap() <= Duration::from_secs(4_000));
    }
    assert_eq!(until_next(lifetime, 3_600_000, &mut rng), None);
    // When the authorities return, clients that have waited long come spread over the longest wait.
    let mut seconds = [0u32; 61];
    for _ in 0..10_000 {
        let mut backoff = Backoff::new(Duration::from_millis(300), Duration::from_secs(60));
        let waits: Duration = (0..20).map(|_| backoff.next(&mut rng)).sum();
        seconds[usize::try_from(waits.as_secs() % 60).unwrap()] += 1;
    }
    assert!(seconds.iter().all(|count| *count < 300), "{seconds:?}");
}

/// How many caches were said to misbehave of those that were silent in a round in which the clock made this step.
async fn blamed_when_the_clock_steps(step_ms: u64) -> usize {
    let (network, sources) = (network(), Sources::default());
    let (base, step) = (virtual_clock(START * 1_000), Arc::new(AtomicU64::new(0)));
    let steps = Arc::clone(&step);
    let reporter = Reporter::default();
    let (task, directory) = directory(DirectoryConfig {
        network: Arc::clone(&network).into(),
        dial: Arc::new(sources.clone()),
        clock: Clock::from_fn(move || base.now_ms() + steps.load(Ordering::Relaxed)),
        cache: None,
        disk: Disk::Real,
        reporter: reporter.clone(),
    });
    let task = tokio::spawn(task.run());
    let held = consensus(&network, START, &RELAYS);
    sources.put(1, held.bytes());
    give_circuits(&directory, &sources, &RELAYS);
    until(&directory, START).await;
    sources.remove(1);
    for n in RELAYS {
        sources.play(n, Script::Raw(Vec::new(), true));
    }
    let mut events = reporter.subscribe();
    sources.dialled();
    while sources.dialled().is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    step.store(step_ms, Ordering::Relaxed);
    // Whoever is asked from now on answers.
    for n in RELAYS {
        sources.play(n, Script::Cache(vec![Arc::clone(&held)]));
    }
    tokio::time::sleep(Duration::from_secs(120)).await;
    task.abort();
    let mut blamed = 0;
    let moment = Duration::from_secs(1);
    while let Ok(Some(event)) = tokio::time::timeout(moment, events.next()).await {
        blamed += usize::from(matches!(event, ClientEvent::CacheMisbehaved { .. }));
    }
    blamed
}

#[tokio::test(start_paused = true)]
async fn nobody_is_blamed_for_the_time_in_which_the_machine_slept() {
    assert_eq!(blamed_when_the_clock_steps(0).await, 1);
    assert_eq!(blamed_when_the_clock_steps(3_600_000).await, 0);
}
