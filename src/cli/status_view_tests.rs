//! What people read of a status.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::control::AskError;
use crate::control::answer::{
    CarriedStatus, CertificateStatus, ConsensusStatus, DescriptorStatus, ExitStatus, GuardStatus,
    KeysStatus, LinksStatus, ListingStatus, MeasuredStatus, MissingFlagStatus, OnionKeyStatus,
    QueuesStatus, RefusalStatus, RelaySumsStatus, SignaturesStatus, VotesStatus,
};

const NOW: u64 = 1_900_000_000;

fn consensus() -> ConsensusStatus {
    ConsensusStatus {
        relays: 812,
        valid_after: NOW - 3_600,
        fresh_until: NOW,
        valid_until: NOW + 7_200,
    }
}

fn client() -> ClientStatus {
    ClientStatus {
        stage: "ready".to_owned(),
        percent: 100,
        ready_since: Some(NOW),
        listeners: vec![ListenerStatus {
            address: "127.0.0.1:9350".to_owned(),
            kind: ListenerStatus::PROXY.to_owned(),
            asks_who: false,
        }],
        relays: Some(8),
        exits: 3,
        datagram_exits: 2,
        valid_after: Some(NOW),
        valid_until: Some(NOW),
        guards: vec![GuardStatus {
            nickname: "a-nickname-of-any-19".to_owned(),
            identity: "07".repeat(32),
            health: "answers".to_owned(),
        }],
        circuits: 4_000,
        clean: 2_000,
        built: 31_000_000,
        paired: 1_000,
        streams: 7,
        clock_ahead: Some(1),
        alarms: vec!["two consensuses".to_owned()],
        warnings: vec![
            "the guard oak does not answer; another is used, and so on and on".to_owned(),
        ],
    }
}

fn relay() -> RelayStatus {
    let limit = |key: &str, unit: &str, used, limit| LimitStatus {
        key: key.to_owned(),
        unit: unit.to_owned(),
        used,
        limit,
    };
    RelayStatus {
        identity: "07".repeat(32),
        nickname: "willow".to_owned(),
        listens: ([0, 0, 0, 0], 9001).into(),
        addresses: vec![([203, 0, 113, 5], 9001).into()],
        listing: ListingStatus {
            wanted: true,
            state: "unreachable".to_owned(),
            why: Some(
                "its addresses must be open from outside, and this is a long sentence".to_owned(),
            ),
            flags: vec!["Valid".to_owned(), "Fast".to_owned()],
            missing: vec![MissingFlagStatus {
                flag: "Running".to_owned(),
                why: "most authorities did not reach it when they last tried".to_owned(),
            }],
            weight_kib: Some(10_000),
            of_weight_kib: Some(2_410_000),
        },
        consensus: Some(consensus()),
        descriptors: ["taken", "refused"]
            .map(|answer| DescriptorStatus {
                authority: "oak".to_owned(),
                answer: answer.to_owned(),
                reason: (answer != "taken").then(|| "bad \u{1b}[31m\nwords (403)".to_owned()),
            })
            .to_vec(),
        links: LinksStatus {
            relays: 91,
            others: 204,
        },
        circuits: 1_377,
        exit: Some(ExitStatus {
            streams: 412,
            associations: 3,
        }),
        carried: CarriedStatus {
            received_bytes: 1_300 << 30,
            sent_bytes: 0,
            directory_by_circuits_bytes: 0,
            directory_to_diallers_bytes: 0,
        },
        queues: QueuesStatus {
            cells_bytes: 1_536,
            creates: 1,
        },
        limits: vec![
            limit(
                "limits.memory_mib",
                "bytes",
                Some(50 << 20),
                Some(200 << 20),
            ),
            limit("limits.connections", "connections", Some(7), Some(70)),
            limit(
                "limits.bandwidth_kib",
                "bytes a second",
                None,
                Some(4 << 20),
            ),
        ],
        refusals: [("policy", 1_204), ("share-full", 0)]
            .map(|(reason, count)| RefusalStatus {
                reason: reason.to_owned(),
                count,
            })
            .to_vec(),
        keys: KeysStatus {
            certificate: Some(CertificateStatus {
                valid_until: NOW - 1,
            }),
            onion: vec![
                OnionKeyStatus {
                    made: NOW,
                    replaced: NOW,
                    erased: None,
                };
                2
            ],
        },
        alarms: Vec::new(),
        warnings: vec!["the clock is wrong".to_owned()],
    }
}

fn authority() -> AuthorityStatus {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    AuthorityStatus {
        name: "oak".to_owned(),
        valid_after: NOW,
        votes_from: NOW - 1_800,
        counted_at: NOW - 900,
        stage: "no-quorum".to_owned(),
        votes: VotesStatus {
            own: true,
            accepted: 2,
            needed: 3,
            authorities: 5,
            silent: names(&["elm", "ash"]),
            convicted: names(&["fir"]),
        },
        signatures: SignaturesStatus {
            count: 1,
            needed: 3,
            missing: names(&["elm"]),
        },
        without_quorum: 4,
        newest: Some(consensus()),
        key_valid_until: Some(NOW + 86_400),
        relays: RelaySumsStatus {
            known: 9,
            answering: 7,
            silent: 1,
            undialled: 1,
        },
        measured: Some(MeasuredStatus {
            relays: 6,
            carried_kib: 60_000,
            budget_mib_per_hour: 100,
        }),
    }
}

fn of(
    client: Option<ClientStatus>,
    relay: Option<RelayStatus>,
    authority: Option<AuthorityStatus>,
) -> Status {
    let has = [
        (Role::Client, client.is_some()),
        (Role::Relay, relay.is_some()),
        (Role::Authority, authority.is_some()),
    ];
    let roles = has
        .into_iter()
        .filter(|(_, has)| *has)
        .map(|(role, _)| role);
    Status {
        version: "0.1.0".to_owned(),
        process: 7,
        started: NOW - 7_200,
        now: NOW,
        roles: roles.collect(),
        client,
        relay,
        authority,
    }
}

fn has(lines: &[String], wanted: &str) {
    assert!(
        lines.iter().any(|line| line == wanted),
        "{wanted}: {lines:#?}"
    );
}

#[test]
fn a_client_in_lines() {
    let lines = lines(&of(Some(client()), None, None));
    assert_eq!(lines[0], "client      ready (100 %)");
    has(
        &lines,
        "consensus   8 relays, valid until 2030-03-17T17:46:40Z",
    );
    has(&lines, "ports       127.0.0.1:9350");
    has(
        &lines,
        "guard       a-nickname-of-any-19 (0707070707070707) answers",
    );
    has(&lines, "streams     7 open");
    has(&lines, "process     7, up for 2 hours, of version 0.1.0");
    has(&lines, "ALARM       two consensuses");
    assert!(lines.last().unwrap().ends_with("and so on and on"));
}

#[test]
fn a_relay_in_lines() {
    let status = of(None, Some(relay()), None);
    assert!(!status.is_ready());
    let lines = lines(&status);
    assert_eq!(lines[0], "relay, exit willow listens on 0.0.0.0:9001");
    has(&lines, "network     LISTED AS UNREACHABLE");
    has(
        &lines,
        "no Running  most authorities did not reach it when they last tried",
    );
    has(
        &lines,
        "weight      10000 KiB/s, 0.4 % of the network's 2410000",
    );
    has(&lines, "descriptor  taken by 1 of 2 authorities");
    // What others have written moves no cursor.
    has(&lines, "            oak refused: bad [31m words (403)");
    has(
        &lines,
        "links       91 to relays, 204 to others; 1377 circuits",
    );
    has(&lines, "exit        412 streams, 3 associations");
    has(&lines, "carried     1.2 TiB in, 0 B out since the start");
    has(
        &lines,
        "queues      1.5 KiB wait for links, 1 CREATE for an answer",
    );
    has(
        &lines,
        "memory      50 MiB of 200 MiB (25 %; limits.memory_mib)",
    );
    has(&lines, "connections 7 of 70 (10 %; limits.connections)");
    has(
        &lines,
        "bandwidth   4.0 MiB/s at most (limits.bandwidth_kib)",
    );
    has(&lines, "refused     1204 policy");
    has(
        &lines,
        "certificate of the link key: ends 2030-03-17T17:46:39Z: IT HAS ENDED",
    );
    has(&lines, "warning     the clock is wrong");
}

#[test]
fn an_authority_in_lines() {
    let status = of(None, None, Some(authority()));
    assert!(status.is_ready(), "it serves a consensus");
    let lines = lines(&status);
    has(&lines, "authority   oak");
    has(&lines, "vote        TOO FEW VOTES for 2030-03-17T17:46:40Z");
    has(
        &lines,
        "votes       2 of 5; none of elm, ash; VOTED TWICE: fir",
    );
    has(&lines, "signatures  1, 3 are needed; none of elm");
    has(&lines, "            TOO FEW VOTES in 4 periods in a row");
    has(
        &lines,
        "serves      a consensus that ends 2030-03-17T19:46:40Z, in 2 hours",
    );
    has(&lines, "voting key  ends 2030-03-18T17:46:40Z, in 1 day");
    has(
        &lines,
        "relays      9 known: 7 answer, 1 do not, 1 not dialled yet",
    );
    has(
        &lines,
        "measured    6 relays, 60000 KiB/s in all; 100 MiB/h may be used for it",
    );
    let mut old = authority();
    old.newest.as_mut().unwrap().valid_until = NOW;
    assert!(!of(None, None, Some(old)).is_ready(), "it has expired");
    let mute = Status {
        roles: vec![Role::Authority],
        ..of(None, None, None)
    };
    assert!(!mute.is_ready());
    has(
        &super::lines(&mute),
        "authority   gives no answer: its log may say why",
    );
}

#[test]
fn nothing_is_wider_than_a_terminal() {
    let status = of(Some(client()), Some(relay()), Some(authority()));
    for line in lines(&status) {
        assert!(line.chars().count() <= 80, "{line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    let nodes = [
        Running {
            dir: "/one".into(),
            status: Ok(status),
        },
        Running {
            dir: "/two".into(),
            status: Err(AskError::Silent("/two".into())),
        },
    ];
    let lines = overview(&nodes);
    assert_eq!(lines[0], "2 nodes run here:");
    has(
        &lines,
        "  client: ready; relay, authority willow: unreachable, 1377 circuits",
    );
    has(&lines, "    --state /one");
    assert!(lines[3].starts_with("  a node runs with the state directory /two"));
}
