//! What the client says of itself: is it ready, where does it listen, which exit does it reach, is the clock right.

use core::time::Duration;

use cepa_common::dir::CLOCK_SKEW_SECS;
use cepa_common::net::skew;
use cepa_common::words::{About, At, Count};

use super::finding::Finding;
use super::port::Port;
use crate::config::{self, Config};
use crate::control::{ClientStatus, Reached};

/// What to do about a client that does not come up.
const WAIT: &str = "check again in a minute; if it stays so, look at the client's log, and whether this machine is on \
                    line";

/// Is the client ready, and what is wrong with it?
pub(super) fn all(status: &ClientStatus, process: u32, started: u64) -> Vec<Finding> {
    let mut findings = vec![client(status, process, started)];
    let is_clock = |text: &str| status.clock_is_wrong() && text.contains("clock");
    let alarms = status.alarms.iter();
    findings.extend(alarms.map(|text| {
        let hint = "stop using the network until its operators have said what happened";
        Finding::fail("alarm", text, hint)
    }));
    // What is said of the clock has a check of its own.
    let warnings = status.warnings.iter().filter(|text| !is_clock(text));
    findings.extend(warnings.map(|text| {
        let text = text.strip_prefix("warning: ").unwrap_or(text);
        Finding::warn("warning", text, "look at the client's log")
    }));
    findings
}

fn client(status: &ClientStatus, process: u32, started: u64) -> Finding {
    let process = format!("the client (process {process}) runs since {}", At(started));
    if status.is_ready() {
        let ready = status
            .ready_since
            .map(|at| format!(" and is ready since {}", At(at)));
        return Finding::ok("client", process + &ready.unwrap_or_default());
    }
    let (stage, percent) = (&status.stage, status.percent);
    let says = format!("{process} and is not ready: {stage} ({percent} %)");
    Finding::fail("client", says, WAIT)
}

/// Where programs reach the client: as it says itself, else as its configuration says, else the usual port.
pub(super) fn ports(status: Option<&ClientStatus>, config: Option<&Config>) -> Vec<Port> {
    if let Some(status) = status.filter(|status| !status.listeners.is_empty()) {
        return status.listeners.iter().filter_map(Port::of).collect();
    }
    let usual = config::Client::default();
    let client = config.and_then(|config| config.client.as_ref());
    let listeners = client.unwrap_or(&usual).ports();
    listeners
        .map(|(_, listener)| Port::from(&listener))
        .collect()
}

/// Ports of the configuration that the client does not listen on.
pub(super) fn unheard(status: &ClientStatus, config: &Config) -> Option<Finding> {
    let client = config.client.as_ref()?;
    let heard = |address: &str| status.listeners.iter().any(|at| at.address == address);
    let any_free = |address: &str| address.ends_with(":0");
    let missing: Vec<String> = client
        .ports()
        .map(|(_, listener)| listener.address.to_string())
        .filter(|address| !heard(address) && !any_free(address))
        .collect();
    (!missing.is_empty()).then(|| {
        let missing = missing.join(", ");
        let says = format!("the configuration names {missing}, where the client does not listen");
        Finding::warn(
            "ports",
            says,
            "start the client anew, so that it reads its configuration",
        )
    })
}

/// What an exit that a stream came out at says.
pub(super) fn exit(reached: &Reached) -> Finding {
    let addresses: Vec<String> = reached.addresses.iter().map(ToString::to_string).collect();
    let mut what = vec![reached.identity.chars().take(16).collect::<String>()];
    what.extend(addresses);
    what.extend(reached.country.iter().cloned());
    let name = match reached.nickname.as_str() {
        "" => "a relay that the consensus lists no longer",
        name => name,
    };
    Finding::ok(
        "exit",
        format!(
            "a stream passed {} and came out at {name} ({}) within {} ms",
            Count(reached.hops, "relay"),
            what.join(", "),
            reached.milliseconds,
        ),
    )
}

/// No stream came out.
pub(super) fn no_exit(why: &str) -> Finding {
    let says = format!("no stream came out of the network: {why}");
    Finding::fail(
        "exit",
        says,
        "`cepa status` and the client's log say more; `cepa consensus` shows the exits",
    )
}

/// Is the clock right?
pub(super) fn clock(status: Option<&ClientStatus>, now: u64) -> Finding {
    const SET: &str = "set the clock, best by NTP (`timedatectl set-ntp true`), and start the client anew if it has ended";
    let Some(status) = status else {
        let says = format!(
            "the clock shows {}, and no client runs that has asked others for the time",
            At(now)
        );
        return Finding::warn("clock", says, "start a client, and check again");
    };
    match status.clock_ahead {
        Some(ahead) if status.clock_is_wrong() => {
            return Finding::fail("clock", skew::off(ahead), SET);
        }
        Some(ahead) => {
            let off = About(Duration::from_secs(ahead.unsigned_abs()));
            return Finding::ok(
                "clock",
                format!("the clock is right to {off}, as several relays say"),
            );
        }
        None => {}
    }
    let (Some(after), Some(until)) = (status.valid_after, status.valid_until) else {
        let says = format!(
            "the clock shows {}, and too few relays have said what time it is",
            At(now)
        );
        return Finding::warn(
            "clock",
            says,
            "compare it with another clock, and check again",
        );
    };
    let says = |what| {
        format!(
            "the clock shows {}, and the newest consensus {what} {} to {}",
            At(now),
            At(after),
            At(until)
        )
    };
    if now.saturating_add(CLOCK_SKEW_SECS) < after || now > until {
        return Finding::fail("clock", says("is only for"), SET);
    }
    Finding::ok("clock", says("is for"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;
    use crate::control::ListenerStatus;

    const NOW: u64 = 1_900_000_000;

    fn ready() -> ClientStatus {
        ClientStatus {
            stage: "ready".to_owned(),
            percent: 100,
            relays: Some(8),
            valid_until: Some(NOW + 3_600),
            guards: Vec::new(),
            circuits: 2,
            clean: 2,
            built: 2,
            paired: 0,
            streams: 0,
            alarms: Vec::new(),
            warnings: Vec::new(),
            ready_since: Some(NOW - 50),
            listeners: vec![ListenerStatus {
                address: "127.0.0.1:9350".to_owned(),
                kind: ListenerStatus::PROXY.to_owned(),
                asks_who: false,
            }],
            valid_after: Some(NOW - 3_600),
            exits: 3,
            datagram_exits: 3,
            clock_ahead: Some(-2),
        }
    }

    fn said(findings: &[Finding]) -> Vec<(&str, Verdict, &str)> {
        let of = |finding| {
            let Finding {
                check,
                result,
                says,
                ..
            }: &Finding = finding;
            (check.as_str(), *result, says.as_str())
        };
        findings.iter().map(of).collect()
    }

    #[test]
    fn what_a_client_says_of_itself() {
        let says = "the client (process 77) runs since 2030-03-17T17:45:40Z and is ready since 2030-03-17T17:45:50Z";
        assert_eq!(
            said(&all(&ready(), 77, NOW - 60)),
            [("client", Verdict::Ok, says)]
        );
        let starting = ClientStatus {
            stage: "waiting: no authority answers".to_owned(),
            percent: 5,
            ready_since: None,
            alarms: vec!["two consensuses".to_owned()],
            warnings: vec!["warning: the guard oak does not answer".to_owned()],
            ..ready()
        };
        let says = "the client (process 77) runs since 2030-03-17T17:45:40Z and is not ready: waiting: no authority \
                    answers (5 %)";
        let expected = [
            ("client", Verdict::Fail, says),
            ("alarm", Verdict::Fail, "two consensuses"),
            ("warning", Verdict::Warn, "the guard oak does not answer"),
        ];
        assert_eq!(said(&all(&starting, 77, NOW - 60)), expected);
    }

    #[test]
    fn the_clock_is_judged_by_relays_and_else_by_the_consensus() {
        let clock = |ahead, at| {
            let status = ClientStatus {
                clock_ahead: ahead,
                ..ready()
            };
            let found = clock(Some(&status), at);
            assert_eq!(found.hint.is_empty(), found.result == Verdict::Ok);
            found.result
        };
        assert_eq!(clock(Some(300), NOW), Verdict::Ok);
        assert_eq!(clock(Some(301), NOW), Verdict::Fail);
        assert_eq!(clock(Some(-301), NOW), Verdict::Fail);
        assert_eq!(clock(None, NOW), Verdict::Ok);
        assert_eq!(clock(None, NOW - 3_900), Verdict::Ok);
        assert_eq!(clock(None, NOW - 3_901), Verdict::Fail);
        assert_eq!(clock(None, NOW + 3_601), Verdict::Fail);
        let unknown = ClientStatus {
            clock_ahead: None,
            valid_after: None,
            ..ready()
        };
        assert_eq!(super::clock(Some(&unknown), NOW).result, Verdict::Warn);
        assert_eq!(super::clock(None, NOW).result, Verdict::Warn);
        // A wrong clock is told of once.
        let wrong = ClientStatus {
            clock_ahead: Some(7_200),
            warnings: vec!["warning: this computer's clock is about 2 hours ahead".to_owned()],
            ..ready()
        };
        assert_eq!(all(&wrong, 77, NOW - 60).len(), 1);
    }

    #[test]
    fn ports_of_the_configuration_that_are_not_heard_are_named() {
        let mut config = Config {
            client: Some(config::Client::default()),
            ..Config::default()
        };
        assert_eq!(unheard(&ready(), &config), None);
        let client = config.client.as_mut().unwrap();
        client.listeners = ["127.0.0.1:0", "127.0.0.1:9351"]
            .map(|at| config::Listener::at(at.parse().unwrap()))
            .to_vec();
        let found = unheard(&ready(), &config).unwrap();
        assert!(
            found.says.contains("names 127.0.0.1:9351, where"),
            "{}",
            found.says
        );
        assert_eq!(ports(Some(&ready()), Some(&config)).len(), 1);
        assert_eq!(ports(None, Some(&config)).len(), 3);
        let usual = config::ListenAddress::Tcp(config::DEFAULT_SOCKS);
        assert_eq!(ports(None, None)[0].address, usual);
    }

    #[test]
    fn an_exit_in_words() {
        let mut reached = Reached {
            identity: "07".repeat(32),
            nickname: "oak".to_owned(),
            addresses: vec!["192.0.2.1:9001".parse().unwrap()],
            country: Some("de".to_owned()),
            hops: 3,
            milliseconds: 1_449,
        };
        let says = "a stream passed 3 relays and came out at oak (0707070707070707, 192.0.2.1:9001, de) within 1449 ms";
        assert_eq!(exit(&reached).says, says);
        reached.nickname.clear();
        assert!(exit(&reached).says.contains("lists no longer"));
    }
}
