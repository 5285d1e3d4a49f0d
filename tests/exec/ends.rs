//! Nothing of a command stays behind, whoever is killed and when.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::stub::{self, Udp};
use super::{Place, Who, everybody};

/// How a start is cut short.
#[derive(Clone, Copy, Debug)]
enum Blow {
    KillOuter,
    KillInner,
    Terminate,
    /// The terminal is closed: all in the foreground hear of it.
    Hangup,
}

/// The processes with this word among their arguments.
fn of(word: &str) -> Vec<Pid> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|arg| arg == word.as_bytes())
    })
    .filter_map(Pid::from_raw)
    .collect()
}

/// What could stay: files in directories for temporary ones, and names of sockets that are no files.
fn left() -> BTreeSet<String> {
    let dirs = ["/tmp", "/var/tmp", "/run"];
    let files = dirs
        .iter()
        .flat_map(|dir| std::fs::read_dir(dir).unwrap().flatten());
    let files = files.map(|entry| entry.path().display().to_string());
    let ours = |name: &String| name.contains("cepa-exec") && !name.contains("cepa-exec-test");
    files.filter(ours).collect()
}

fn start(place: &Place, who: Who, port: &str, word: &str) -> Child {
    // `sleep` adds its times up; the word tells this run from others.
    let mut command = place.exec_here(who, port, &["--", "sleep", "1000", word]);
    command
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn nothing_stays_behind_whoever_is_killed_at_any_moment() {
    for who in everybody() {
        let place = Place::new();
        let (port, _) = stub::at_port(Udp::Refused);
        let port = port.to_string();
        let before = left();
        let mut cut_short = 0;
        let blows = [
            Blow::KillOuter,
            Blow::KillInner,
            Blow::Terminate,
            Blow::Hangup,
        ];
        for (run, blow) in (0..100).zip(blows.into_iter().cycle()) {
            let word = format!("0.{}{run:03}", std::process::id());
            let mut child = start(&place, who, &port, &word);
            let outer = Pid::from_raw(child.id().cast_signed()).unwrap();
            // Each run is cut short a little later than the one before, wherever that is on this machine.
            let until = Instant::now() + Duration::from_millis(4) * run;
            while Instant::now() < until {
                std::thread::yield_now();
            }
            // Who has ended meanwhile hears of nothing.
            let signal = |pid: Pid, signal| {
                let _ = kill_process(pid, signal);
            };
            match blow {
                Blow::KillOuter => signal(outer, Signal::KILL),
                Blow::KillInner => {
                    let inner = of(&word).into_iter().find(|pid| *pid != outer);
                    match inner {
                        Some(inner) => signal(inner, Signal::KILL),
                        None => signal(outer, Signal::TERM),
                    }
                }
                Blow::Terminate => signal(outer, Signal::TERM),
                Blow::Hangup => {
                    let _ = kill_process_group(outer, Signal::HUP);
                }
            }
            let status = child.wait().unwrap();
            cut_short += u32::from(!status.success());
            let deadline = Instant::now() + Duration::from_secs(30);
            while !of(&word).is_empty() {
                assert!(Instant::now() < deadline, "{blow:?} {run}: {:?}", of(&word));
                let _ = Command::new("sleep").arg("0.02").status();
            }
        }
        assert_eq!(cut_short, 100);
        assert_eq!(left(), before);
    }
}
