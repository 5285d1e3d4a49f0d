//! Relays are killed and stopped at random under load: requests go on, and nothing is cut off silently.
#![allow(
    clippy::disallowed_methods,
    reason = "the test uses the real world: it stands outside of nodes"
)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use support::*;

/// Size of a page in bytes.
const PAGE: usize = 30_000;
/// Number of requests at a time.
const WORKERS: u64 = 6;
const RELAYS: usize = 12;

/// The times just before and just after a relay was harmed. Requests are so short that the time that a kill takes
/// counts.
type Fault = (Instant, Instant);

/// The result of one request.
struct Outcome {
    began: Instant,
    ended: Instant,
    /// Time from the request to the first byte of the answer.
    first_byte: Option<Duration>,
    result: Result<(), String>,
}

/// Fetches one page through the network, on a connection of its own.
fn fetch(proxy: SocketAddr, server: SocketAddr, seed: u64) -> Outcome {
    let began = Instant::now();
    let mut first_byte = None;
    let mut talk = || -> Result<(), String> {
        let user = format!("user{}", seed % 40);
        let (mut stream, code) = socks5(proxy, &LOOPBACK, server.port(), Some(&user));
        if code != 0 {
            return Err(format!("refused by the proxy: {code}"));
        }
        let text = |error: std::io::Error| error.to_string();
        let request = format!("GET /{seed}/{PAGE} HTTP/1.1\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(text)?;
        let mut got = vec![0; 1];
        stream.read_exact(&mut got).map_err(text)?;
        first_byte = Some(began.elapsed());
        stream.read_to_end(&mut got).map_err(text)?;
        let body = got.windows(4).position(|four| four == b"\r\n\r\n");
        let body = body.map_or(&[][..], |at| &got[at + 4..]);
        // An end of file before the end of the page must never happen.
        assert!(
            body == content(seed, PAGE),
            "cut off silently after {} bytes",
            body.len()
        );
        Ok(())
    };
    let result = talk();
    Outcome {
        began,
        ended: Instant::now(),
        first_byte,
        result,
    }
}

/// A relay that the test may harm, and that the test itself starts again.
struct Victim {
    name: String,
    pid: u32,
    config: std::path::PathBuf,
    own: Option<Child>,
}

impl Victim {
    fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_raw(self.pid.cast_signed()).unwrap(), signal);
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut child) = self.own.take() {
            let _ = child.wait();
        }
    }

    fn start_again(&mut self) {
        // A killed process releases its lock and its port only when the kernel has cleared it away.
        let child = cepa()
            .args(["run", "--exit-with-stdin", "--config"])
            .arg(&self.config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.pid = child.id();
        self.own = Some(child);
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if self.own.is_some() {
            self.signal(Signal::CONT);
            self.kill();
        }
    }
}

fn victims(net: &Testnet) -> Vec<Victim> {
    let nodes = net.json["nodes"].as_array().unwrap();
    let relays = nodes.iter().filter_map(|node| {
        let name = node["name"].as_str()?.to_owned();
        (name.starts_with("relay") || name.starts_with("exit")).then(|| Victim {
            config: net.dir.path().join("nodes").join(&name).join("node.toml"),
            pid: node["pid"].as_u64().unwrap() as u32,
            name,
            own: None,
        })
    });
    relays.collect()
}

/// Kills relays `kills` times and stops them `stops` times while requests go on. There is a fault every `pace`, which
/// is healed after `heal`.
fn chaos(kills: usize, stops: usize, pace: Duration, heal: Duration) -> (Vec<Outcome>, Vec<Fault>) {
    let net = Testnet::start(&[
        "--processes",
        "--relays",
        &RELAYS.to_string(),
        "--exits",
        "4",
    ]);
    let (proxy, server) = (net.socks(), http_server());
    let done = Arc::new(AtomicBool::new(false));
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let workers: Vec<_> = (0..WORKERS)
        .map(|n| {
            let (done, outcomes) = (Arc::clone(&done), Arc::clone(&outcomes));
            std::thread::spawn(move || {
                for seed in (n..).step_by(WORKERS as usize) {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = fetch(proxy, server, seed);
                    outcomes.lock().unwrap().push(outcome);
                }
            })
        })
        .collect();
    let mut rng = StdRng::seed_from_u64(11);
    let mut victims = victims(&net);
    let mut faults: Vec<bool> = [vec![true; kills], vec![false; stops]].concat();
    rand::seq::SliceRandom::shuffle(&mut faults[..], &mut rng);
    let mut harmed: Vec<(Instant, usize, bool)> = Vec::new();
    let mut times = Vec::new();
    for is_kill in faults {
        let heal_due = |harmed: &mut Vec<(Instant, usize, bool)>, victims: &mut Vec<Victim>| {
            harmed.retain(|(at, victim, is_kill)| {
                let due = at.elapsed() >= heal;
                match (due, is_kill) {
                    (false, _) => {}
                    (true, true) => victims[*victim].start_again(),
                    (true, false) => victims[*victim].signal(Signal::CONT),
                }
                !due
            });
        };
        let next = Instant::now() + pace;
        while Instant::now() < next {
            heal_due(&mut harmed, &mut victims);
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let whole: Vec<usize> = (0..victims.len())
            .filter(|n| harmed.iter().all(|(_, other, _)| other != n))
            .collect();
        let victim = whole[rng.random_range(0..whole.len())];
        let before = Instant::now();
        if is_kill {
            victims[victim].kill();
        } else {
            victims[victim].signal(Signal::STOP);
        }
        times.push((before, Instant::now()));
        eprintln!(
            "{} {}",
            if is_kill { "killed" } else { "stopped" },
            victims[victim].name
        );
        harmed.push((Instant::now(), victim, is_kill));
    }
    for (_, victim, is_kill) in harmed {
        if !is_kill {
            victims[victim].signal(Signal::CONT);
        }
    }
    done.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().expect("no transfer was cut off silently");
    }
    drop(victims);
    let outcomes = std::mem::take(&mut *outcomes.lock().unwrap());
    (outcomes, times)
}

/// Prints the results. Returns the number of requests that nobody answered, and the waits of the others.
///
/// A request that was on its way when a relay died may break off with an error: nobody knows how much of it had an
/// effect, so the proxy must not repeat it. A request that began after the fault must be answered.
fn report(outcomes: &[Outcome], faults: &[Fault]) -> (usize, Vec<Duration>) {
    let (broken, unanswered): (Vec<_>, Vec<_>) = outcomes
        .iter()
        .filter(|outcome| outcome.result.is_err())
        .partition(|o| {
            faults
                .iter()
                .any(|(before, after)| o.began < *after && *before < o.ended)
        });
    for failed in &unanswered {
        let mut struck = faults.iter().map(|(_, after)| *after).rev();
        let after = struck.find(|after| *after < failed.began);
        eprintln!(
            "begun {:?} after a fault: {:?}",
            after.map(|at| failed.began - at),
            failed.result
        );
    }
    let mut waits: Vec<Duration> = outcomes.iter().filter_map(|o| o.first_byte).collect();
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    let near = |o: &&Outcome| {
        faults
            .iter()
            .any(|(before, after)| *before < o.ended && o.began < *after + Duration::from_secs(1))
    };
    let mut hit: Vec<Duration> = outcomes
        .iter()
        .filter(near)
        .filter_map(|o| o.first_byte)
        .collect();
    hit.sort_unstable();
    eprintln!(
        "{} requests: {} unanswered, {} broken off by an error; first byte p50 {:?} p95 {:?} p99 {:?} max {:?}; \
         of {} within a second of a fault p95 {:?}",
        outcomes.len(),
        unanswered.len(),
        broken.len(),
        at(0.5),
        at(0.95),
        at(0.99),
        at(1.0),
        hit.len(),
        hit.get(hit.len().saturating_sub(1) * 95 / 100),
    );
    (unanswered.len(), waits)
}

/// The whole measurement, with 50 kills and 20 stops. Run it by hand: `cargo test --release --test chaos -- --ignored
/// --nocapture`.
#[test]
#[ignore = "minutes of faults, and times that a busy machine spoils"]
fn fifty_kills_and_twenty_stops() {
    let _alone = alone();
    let (outcomes, faults) = chaos(50, 20, Duration::from_secs(2), Duration::from_secs(5));
    let (unanswered, waits) = report(&outcomes, &faults);
    assert_eq!(unanswered, 0);
    let late = waits
        .iter()
        .filter(|wait| **wait > Duration::from_secs(5))
        .count();
    assert!(
        late * 20 <= waits.len(),
        "{late} of {} after 5 s",
        waits.len()
    );
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(20)));
}

#[test]
fn requests_go_on_while_relays_die_and_hang() {
    let _alone = alone();
    let (outcomes, faults) = chaos(4, 2, Duration::from_secs(1), Duration::from_secs(3));
    let (unanswered, _) = report(&outcomes, &faults);
    assert_eq!(unanswered, 0);
}
