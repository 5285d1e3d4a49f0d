#![allow(clippy::unwrap_used, clippy::expect_used)]

use core::time::Duration;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cepa_common::dir::{Consensus, Flags, NetworkFile};
use cepa_common::ids::RelayId;
use cepa_common::net::directory::Dial;
use cepa_common::testkit::*;
use cepa_common::world::Disk;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{
    BootstrapProgress, DirStreamFuture, DirStreams, Directory, DirectoryConfig, directory,
};
use crate::events::{ClientEvent, DirectorySource, Reporter, Warning};

pub(super) const START: u64 = 1_900_000_000;

/// Where circuits ended, and when they were asked for.
pub(super) type Opened = Arc<Mutex<Vec<(RelayId, Instant)>>>;

/// Directory streams over circuits that end at these relays in turn. The streams that were opened are counted.
struct ScriptedCircuits {
    sources: Sources,
    ends: Vec<u8>,
    opened: Opened,
}

impl DirStreams for ScriptedCircuits {
    fn open(&self, avoid: &[RelayId]) -> DirStreamFuture {
        let mut opened = self.opened.lock().unwrap();
        let ends: Vec<_> = self
            .ends
            .iter()
            .filter(|n| !avoid.contains(&identity(**n)))
            .collect();
        let Some(n) = ends
            .get(opened.len().checked_rem(ends.len()).unwrap_or(0))
            .copied()
        else {
            return Box::pin(async { Err(io::ErrorKind::NotConnected.into()) });
        };
        opened.push((identity(*n), Instant::now()));
        let who = identity(*n);
        let stream = self.sources.dial(&[address(*n)], who.0);
        Box::pin(async move { Ok((who, stream.await?)) })
    }
}

/// Has the client ask relays with these numbers, in turn, over circuits. Returns the list of those asked.
pub(super) fn give_circuits(directory: &Directory, sources: &Sources, ends: &[u8]) -> Opened {
    let opened = Opened::default();
    directory.use_circuits(Arc::new(ScriptedCircuits {
        sources: sources.clone(),
        ends: ends.to_vec(),
        opened: Arc::clone(&opened),
    }));
    opened
}

pub(super) fn network() -> Arc<NetworkFile> {
    Arc::new(network_with(3, params(&[("vote_interval_seconds", 10)])))
}

pub(super) fn consensus(network: &NetworkFile, valid_after: u64, relays: &[u8]) -> Arc<Consensus> {
    let flags = Flags::VALID | Flags::RUNNING;
    let entries = relays.iter().map(|n| web_entry(*n, flags, 10)).collect();
    consensus_of(network, valid_after, entries)
}

pub(super) fn start(
    network: &Arc<NetworkFile>,
    sources: &Sources,
    start: u64,
    cache: Option<PathBuf>,
) -> (Directory, JoinHandle<()>) {
    start_reporting(network, sources, start, cache, Reporter::default())
}

/// Starts a directory client whose reports somebody listens to.
pub(super) fn start_reporting(
    network: &Arc<NetworkFile>,
    sources: &Sources,
    start: u64,
    cache: Option<PathBuf>,
    reporter: Reporter,
) -> (Directory, JoinHandle<()>) {
    let (task, directory) = directory(DirectoryConfig {
        network: Arc::clone(network).into(),
        dial: Arc::new(sources.clone()),
        clock: virtual_clock(start * 1_000),
        cache,
        disk: Disk::Real,
        reporter,
    });
    (directory, tokio::spawn(task.run()))
}

/// Waits for a consensus of this time, at most five minutes of virtual time.
pub(super) async fn until(directory: &Directory, valid_after: u64) -> Arc<Consensus> {
    let mut follow = directory.consensus();
    let fits = |shown: &Option<Arc<Consensus>>| {
        shown
            .as_ref()
            .is_some_and(|c| c.lifetime().valid_after == valid_after)
    };
    let wait = tokio::time::timeout(Duration::from_secs(300), follow.wait_for(fits));
    wait.await
        .expect("no such consensus")
        .unwrap()
        .clone()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_newest_of_three_sources_is_taken() {
    let (network, sources) = (network(), Sources::default());
    sources.put(1, consensus(&network, START - 10, &[10]).bytes());
    sources.put(2, consensus(&network, START, &[10]).bytes());
    sources.put(3, b"soup");
    let (directory, _task) = start(&network, &sources, START, None);
    let taken = directory.usable().await.unwrap();
    assert_eq!(taken.lifetime().valid_after, START);
    let ready = BootstrapProgress::Ready {
        relays: 1,
        valid_after: START,
    };
    assert_eq!(*directory.progress().borrow(), ready);
}

#[tokio::test(start_paused = true)]
async fn one_source_is_enough_and_patience_pays() {
    let (network, sources) = (network(), Sources::default());
    let (directory, _task) = start(&network, &sources, START, None);
    let mut progress = directory.progress();
    let failed = |p: &BootstrapProgress| matches!(p, BootstrapProgress::Failed { rounds: 3, .. });
    progress.wait_for(failed).await.unwrap();
    assert!(directory.consensus().borrow().is_none());
    sources.put(2, consensus(&network, START, &[10]).bytes());
    until(&directory, START).await;
}

#[tokio::test(start_paused = true)]
async fn refreshes_come_from_relays_after_the_first_tenth() {
    let (network, sources) = (network(), Sources::default());
    sources.put(1, consensus(&network, START, &[10, 11, 12, 13]).bytes());
    let (directory, _task) = start(&network, &sources, START, None);
    give_circuits(&directory, &sources, &[10, 11, 12, 13]);
    until(&directory, START).await;
    sources.dialled();
    let began = Instant::now();
    for n in 10..=13 {
        sources.put(
            n,
            consensus(&network, START + 10, &[10, 11, 12, 13]).bytes(),
        );
    }
    until(&directory, START + 10).await;
    let after = began.elapsed();
    assert!(
        Duration::from_secs(10) < after && after < Duration::from_secs(17),
        "{after:?}"
    );
    let dialled = sources.dialled();
    assert_eq!(dialled.len(), 3);
    assert!(
        dialled.iter().all(|dialled| dialled.port() >= 5_010),
        "{dialled:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn silent_circuits_send_the_client_back_to_the_authorities() {
    let (network, sources) = (network(), Sources::default());
    sources.put(1, consensus(&network, START, &[10]).bytes());
    let (directory, _task) = start(&network, &sources, START, None);
    let opened = give_circuits(&directory, &sources, &[10]);
    until(&directory, START).await;
    sources.put(1, consensus(&network, START + 10, &[10]).bytes());
    until(&directory, START + 10).await;
    assert_eq!(opened.lock().unwrap().len(), 9);
}

#[tokio::test(start_paused = true)]
async fn never_older_never_other_across_restarts() {
    let (network, sources) = (network(), Sources::default());
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().to_owned();
    let held = consensus(&network, START + 10, &[10]);
    sources.put(1, held.bytes());
    let (directory, task) = start(&network, &sources, START + 10, Some(disk.clone()));
    until(&directory, START + 10).await;
    let file = disk.join(format!("consensus-{}", network.network_id()));
    // The mark is written last.
    while !disk
        .join(format!("newest-{}", network.network_id()))
        .exists()
    {
        tokio::task::yield_now().await;
    }
    task.abort();

    // A restart without any network begins with what is on disk.
    sources.remove(1);
    let (directory, task) = start(&network, &sources, START + 12, Some(disk.clone()));
    assert_eq!(directory.usable().await.unwrap().digest(), held.digest());
    task.abort();

    // Sources are not believed that have an older consensus, or another one of the same time.
    for offered in [
        consensus(&network, START, &[10]),
        consensus(&network, START + 10, &[11]),
    ] {
        sources.put(1, offered.bytes());
        sources.put(10, offered.bytes());
        sources.put(11, offered.bytes());
        let (directory, task) = start(&network, &sources, START + 25, Some(disk.clone()));
        sources.dialled();
        directory.usable().await.unwrap();
        // The test waits until the task has asked again and again.
        sources.until_dialled(4).await;
        let shown = directory.consensus().borrow().clone().unwrap();
        assert_eq!(shown.digest(), held.digest());
        task.abort();
    }

    // A damaged file counts as none, but the client still knows the time of what was in it: an older consensus is
    // refused.
    std::fs::write(&file, b"soup").unwrap();
    sources.remove(10);
    sources.remove(11);
    sources.put(1, consensus(&network, START, &[10]).bytes());
    let (directory, task) = start(&network, &sources, START + 12, Some(disk.clone()));
    let mut progress = directory.progress();
    let failed = |step: &BootstrapProgress| matches!(step, BootstrapProgress::Failed { .. });
    progress.wait_for(failed).await.unwrap();
    assert!(directory.consensus().borrow().is_none());
    let reason = directory.progress().borrow().clone();
    assert!(format!("{reason:?}").contains("older"), "{reason:?}");
    task.abort();
    // The consensus that was damaged on disk is taken again, and written.
    sources.put(1, held.bytes());
    let (directory, _task) = start(&network, &sources, START + 12, Some(disk.clone()));
    until(&directory, START + 10).await;
    while std::fs::read(&file).unwrap() == b"soup" {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn times_that_cannot_be_right_are_refused_and_grace_ends() {
    let (network, sources) = (network(), Sources::default());
    sources.put(1, consensus(&network, START + 400, &[10]).bytes());
    let (directory, task) = start(&network, &sources, START, None);
    let mut progress = directory.progress();
    let early = |p: &BootstrapProgress| match p {
        BootstrapProgress::Failed { reason, .. } => reason.contains("clock"),
        _ => false,
    };
    progress.wait_for(early).await.unwrap();
    task.abort();

    let day = 86_400;
    sources.put(1, consensus(&network, START, &[10]).bytes());
    let (directory, _task) = start(&network, &sources, START + 60 + day - 30, None);
    until(&directory, START).await;
    let mut follow = directory.consensus();
    let gone = tokio::time::timeout(Duration::from_secs(120), follow.wait_for(Option::is_none));
    gone.await
        .expect("a consensus past its grace is still shown")
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_start_is_told_step_by_step() {
    let (network, sources, reporter) = (network(), Sources::default(), Reporter::default());
    let mut events = reporter.subscribe();
    // Authorities 1 and 2 are not there, and 3 comes late.
    let (_directory, _task) = start_reporting(&network, &sources, START, None, reporter);
    let (mut told, mut warnings) = (Vec::new(), 0);
    let entry = |n| web_entry(n, Flags::RUNNING, 10);
    // This consensus is large enough to come in pieces.
    let whole = consensus_of(&network, START, (0..=250).map(entry).collect());
    loop {
        let event = events.next().await.unwrap();
        match &event {
            ClientEvent::Connecting(DirectorySource::Authority(_)) => told.push("connecting"),
            ClientEvent::Waiting { .. } => {
                told.push("waiting");
                sources.put(3, whole.bytes());
            }
            ClientEvent::Receiving { bytes, of, .. } => {
                assert_eq!(*of, Some(whole.bytes().len()));
                assert!((1..=whole.bytes().len()).contains(bytes));
                told.push("receiving");
            }
            ClientEvent::Consensus {
                relays,
                valid_until,
            } => {
                assert_eq!((*relays, *valid_until), (251, START + 60));
                told.push("consensus");
            }
            ClientEvent::Warning(Warning::Unreachable { .. }) => warnings += 1,
            ClientEvent::Over(_) => warnings -= 1,
            ClientEvent::Starting => told.push("starting"),
            other => panic!("{other}"),
        }
        if told.contains(&"consensus") && warnings == 0 {
            break;
        }
    }
    told.dedup();
    assert_eq!(told[..3], ["starting", "connecting", "waiting"]);
    assert!(told.ends_with(&["receiving", "consensus"]), "{told:?}");
}

/// A network with the interval of a real one, and a consensus of it that is fresh for an hour and valid for a week.
fn hourly() -> (Arc<NetworkFile>, Arc<Consensus>) {
    let network = Arc::new(network_with(3, params(&[("vote_interval_seconds", 3_600)])));
    let entries = vec![web_entry(10, Flags::VALID | Flags::RUNNING, 10)];
    let week = lifetime_of(START, 3_600, 7 * 86_400);
    let held = cepa_common::testkit::consensus(&network, &body_of(week, entries));
    (network, held)
}

#[tokio::test(start_paused = true)]
async fn circuits_of_a_round_begin_apart_from_each_other() {
    let (network, held) = hourly();
    let sources = Sources::default();
    for n in [1, 10] {
        sources.play(n, Script::Cache(vec![held.clone()]));
    }
    let (directory, _task) = start(&network, &sources, START, None);
    let opened = give_circuits(&directory, &sources, &[10]);
    until(&directory, START).await;
    // Ten rounds at least: there is nothing newer.
    tokio::time::sleep(Duration::from_secs(4 * 3_600)).await;
    let opened = opened.lock().unwrap();
    let rounds: Vec<_> = opened.chunks_exact(3).collect();
    assert!(rounds.len() > 10, "{}", rounds.len());
    let pauses = rounds.iter().flat_map(|round| {
        let apart = |pair: &[(RelayId, Instant)]| pair[1].1 - pair[0].1;
        round.windows(2).map(apart).collect::<Vec<_>>()
    });
    let pauses: Vec<_> = pauses.collect();
    let ten = Duration::from_secs(10);
    assert!(pauses.iter().all(|pause| *pause <= ten), "{pauses:?}");
    let together = pauses.iter().filter(|pause| **pause < ten / 100);
    assert!(together.count() < pauses.len() / 4, "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_not_used_for_a_day_fetches_only_before_its_consensus_ends() {
    let (network, held) = hourly();
    let sources = Sources::default();
    for n in [1, 10] {
        sources.play(n, Script::Cache(vec![held.clone()]));
    }
    let (directory, _task) = start(&network, &sources, START, None);
    let opened = give_circuits(&directory, &sources, &[10]);
    until(&directory, START).await;
    let asked = || std::mem::take(&mut *opened.lock().unwrap()).len();
    let (hour, day) = (Duration::from_secs(3_600), Duration::from_secs(86_400));
    // Nobody has a newer one, so a client that is awake goes on asking.
    tokio::time::sleep(day).await;
    assert!(asked() > 24);
    // The last wait of a client that was awake may have begun before.
    tokio::time::sleep(hour).await;
    asked();
    tokio::time::sleep(3 * day).await;
    assert_eq!(asked(), 0, "asked while asleep");
    // A stream wakes it, for a day.
    directory.use_now();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(asked() > 0, "the stream has woken nobody");
    tokio::time::sleep(day + hour).await;
    asked();
    // In the last quarter of the validity it asks without being woken.
    tokio::time::sleep(2 * day - 2 * hour).await;
    assert!(asked() > 0, "the consensus has nearly ended");
}

#[test]
fn a_client_that_is_asleep_fetches_in_the_last_quarter_of_the_validity() {
    let day = lifetime_of(0, 3_600, 86_400);
    let hours = |at| super::schedule::next_asleep(day, at) as f64 / 3_600.0;
    assert_eq!(hours(0), 18.0);
    assert!((20.9..21.0).contains(&hours(500)), "{}", hours(500));
    assert!((23.8..23.9).contains(&hours(999)), "{}", hours(999));
}

#[tokio::test(start_paused = true)]
async fn a_consensus_that_lost_much_weight_is_used_and_the_owner_is_told_once() {
    let (network, sources, reporter) = (network(), Sources::default(), Reporter::default());
    let mut events = reporter.subscribe();
    let (directory, _task) = start_reporting(&network, &sources, START, None, reporter.clone());
    for (time, relays) in [
        (START, &[10, 11, 12][..]),
        (START + 10, &[10]),
        (START + 20, &[10]),
        (START + 30, &[10, 11]),
    ] {
        sources.put(1, consensus(&network, time, relays).bytes());
        until(&directory, time).await;
        let alarms = usize::from([START + 10, START + 20].contains(&time));
        assert_eq!(
            reporter.warnings().iter().filter(|w| w.is_alarm()).count(),
            alarms
        );
    }
    let (mut alarms, mut over) = (0, 0);
    while over == 0 {
        match events.next().await.unwrap() {
            ClientEvent::Warning(Warning::WeightLost(loss)) => {
                assert_eq!((loss.relays_before, loss.relays_after), (3, 1));
                alarms += 1;
            }
            ClientEvent::Over(Warning::WeightLost(_)) => over += 1,
            _ => {}
        }
    }
    assert_eq!(alarms, 1);
}
