//! What a relay says of itself, made of the library's snapshot. Pure.

use cepa_common::dir::{Flags, Lifetime};
use cepa_relay::{ConsensusSays, DescriptorAnswer, Listing, RelayEvent, RelaySnapshot};
use tracing::Level;

use crate::control::answer::{
    CarriedStatus, CertificateStatus, ConsensusStatus, DescriptorStatus, ExitStatus, KeysStatus,
    LimitStatus, LinksStatus, ListingStatus, MissingFlagStatus, OnionKeyStatus, QueuesStatus,
    RefusalStatus, RelayStatus,
};

/// Bytes that were carried are told in steps of so many (S35).
const COARSE: u64 = 1 << 20;

/// What the relay of the snapshot says; `publishes` is whether it wants to be listed.
pub(super) fn status(relay: RelaySnapshot, publishes: bool) -> RelayStatus {
    let coarse = |bytes: u64| bytes - bytes % COARSE;
    let [received, sent] = relay.moved.map(coarse);
    let trouble = |event: &&RelayEvent| {
        // What an authority answers, and how the relay is listed, has a place of its own.
        let is_told = matches!(
            event,
            RelayEvent::Descriptor { .. } | RelayEvent::Listing(_)
        );
        event.level() <= Level::WARN && !is_told
    };
    let troubles = relay.standing.iter().filter(trouble);
    let (alarms, warnings): (Vec<_>, Vec<_>) =
        troubles.partition(|event| event.level() == Level::ERROR);
    let mut descriptors: Vec<_> = relay.standing.iter().filter_map(descriptor).collect();
    descriptors.sort_by(|one, other| one.authority.cmp(&other.authority));
    let words = |events: Vec<&RelayEvent>| events.iter().map(ToString::to_string).collect();
    RelayStatus {
        listing: listing(&relay, publishes),
        descriptors,
        limits: limits(&relay),
        alarms: words(alarms),
        warnings: words(warnings),
        identity: relay.identity.to_string(),
        nickname: relay.nickname,
        listens: relay.local_addr,
        addresses: relay.addresses,
        consensus: relay.consensus.as_ref().map(consensus),
        links: LinksStatus {
            relays: relay.load.relay_links,
            others: relay.load.other_links,
        },
        circuits: relay.load.circuits,
        exit: relay.exit.map(|exit| ExitStatus {
            streams: exit.streams,
            associations: exit.associations,
        }),
        carried: CarriedStatus {
            received_bytes: received,
            sent_bytes: sent,
            directory_by_circuits_bytes: coarse(relay.load.consensus_bytes_by_circuits),
            directory_to_diallers_bytes: coarse(relay.load.consensus_bytes_to_diallers),
        },
        queues: QueuesStatus {
            cells_bytes: relay.queued_bytes,
            creates: relay.creates_waiting,
        },
        refusals: (relay.refusals.iter())
            .map(|(reason, count)| RefusalStatus {
                reason: reason.name().to_owned(),
                count: *count,
            })
            .collect(),
        keys: KeysStatus {
            certificate: (relay.keys.certificate_until)
                .map(|valid_until| CertificateStatus { valid_until }),
            onion: (relay.keys.onion.iter())
                .map(|key| OnionKeyStatus {
                    made: key.made,
                    replaced: key.replaced,
                    erased: key.until,
                })
                .collect(),
        },
    }
}

/// The times of the consensus of which this is said.
pub(super) fn consensus(says: &ConsensusSays) -> ConsensusStatus {
    let Lifetime {
        valid_after,
        fresh_until,
        valid_until,
    } = says.lifetime;
    ConsensusStatus {
        relays: says.relays,
        valid_after,
        fresh_until,
        valid_until,
    }
}

fn listing(relay: &RelaySnapshot, publishes: bool) -> ListingStatus {
    let own = relay.consensus.as_ref().and_then(|says| says.own.as_ref());
    let listing = match (&relay.consensus, own) {
        (None, _) => None,
        (Some(_), None) => Some(Listing::Absent),
        (Some(_), Some(own)) if own.flags.contains(Flags::RUNNING) => Some(Listing::Reachable),
        (Some(_), Some(_)) => Some(Listing::Unreachable),
    };
    let (state, why) = match listing {
        None => (
            "unknown",
            Some("the relay holds no consensus yet: it asks the authorities for one"),
        ),
        Some(Listing::Reachable) => (ListingStatus::REACHABLE, None),
        Some(Listing::Unreachable) => (
            "unreachable",
            Some(
                "most authorities did not reach it when they last tried: each of its addresses must be open from \
                 outside, through firewalls and NAT",
            ),
        ),
        _ => (
            "absent",
            Some(
                "the newest consensus does not list it: the authorities lack its descriptor or have not reached it \
                 yet, which takes a period or two after a start; its addresses must be open from outside",
            ),
        ),
    };
    let flags = Flags::all().filter(|flag| own.is_some_and(|own| own.flags.contains(*flag)));
    let missing = own.map_or(&[][..], |own| &own.missing);
    ListingStatus {
        wanted: publishes,
        state: state.to_owned(),
        why: why.filter(|_| publishes).map(str::to_owned),
        flags: flags.map(|flag| flag.to_string()).collect(),
        missing: (missing.iter())
            .map(|missing| MissingFlagStatus {
                flag: missing.flag.to_string(),
                why: missing.why.to_string(),
            })
            .collect(),
        weight_kib: own.map(|own| own.weight),
        of_weight_kib: own.map(|own| own.of_weight),
    }
}

fn descriptor(event: &RelayEvent) -> Option<DescriptorStatus> {
    let RelayEvent::Descriptor { authority, answer } = event else {
        return None;
    };
    let (word, reason) = match answer {
        DescriptorAnswer::Taken => ("taken", None),
        DescriptorAnswer::Refused { status, reason } => {
            ("refused", Some(format!("{reason} ({status})")))
        }
        DescriptorAnswer::Unreachable { reason } => ("unreachable", Some(reason.clone())),
        _ => return None,
    };
    Some(DescriptorStatus {
        authority: authority.clone(),
        answer: word.to_owned(),
        reason,
    })
}

fn limits(relay: &RelaySnapshot) -> Vec<LimitStatus> {
    let limit = |key: &str, unit: &str, used: Option<u64>, limit: Option<u64>| LimitStatus {
        key: key.to_owned(),
        unit: unit.to_owned(),
        used,
        limit,
    };
    let number = |used: usize| u64::try_from(used).ok();
    let given = relay.limits;
    let rate = u64::from(given.bandwidth_kib) << 10;
    let mut limits = vec![
        limit(
            "limits.memory_mib",
            "bytes",
            number(relay.held_bytes),
            Some(given.memory_bytes),
        ),
        limit(
            "limits.connections",
            "connections",
            number(relay.connections),
            Some(given.connections.into()),
        ),
        limit(
            "limits.bandwidth_kib",
            "bytes a second",
            None,
            Some(rate).filter(|rate| *rate > 0),
        ),
    ];
    limits.extend(relay.exit.as_ref().map(|exit| {
        limit(
            "limits.udp_associations",
            "associations",
            number(exit.associations),
            Some(given.udp_associations.into()),
        )
    }));
    limits
}

#[cfg(test)]
mod tests {
    use cepa_common::ids::RelayId;
    use cepa_relay::keys::KeysHeld;
    use cepa_relay::{Limits, MissingFlag, OwnEntry, Refusal, RelayLoad, WhyMissing};

    use super::*;

    fn snapshot() -> RelaySnapshot {
        RelaySnapshot {
            identity: RelayId([7; 32]),
            nickname: "oak".to_owned(),
            local_addr: ([127, 0, 0, 1], 9001).into(),
            addresses: Vec::new(),
            load: RelayLoad::default(),
            exit: None,
            moved: [0, 0],
            queued_bytes: 0,
            creates_waiting: 0,
            held_bytes: 5,
            connections: 3,
            limits: Limits {
                memory_bytes: 100,
                connections: 10,
                bandwidth_kib: 0,
                udp_associations: 4,
            },
            refusals: vec![(Refusal::Policy, 9)],
            standing: Vec::new(),
            consensus: None,
            keys: KeysHeld::default(),
        }
    }

    fn listed(flags: Flags, missing: Vec<MissingFlag>) -> Option<ConsensusSays> {
        Some(ConsensusSays {
            relays: 8,
            lifetime: Lifetime {
                valid_after: 1,
                fresh_until: 2,
                valid_until: 3,
            },
            own: Some(OwnEntry {
                flags,
                missing,
                weight: 5,
                of_weight: 50,
            }),
        })
    }

    #[test]
    fn bytes_are_told_in_whole_mebibytes() {
        let relay = RelaySnapshot {
            moved: [COARSE - 1, 3 * COARSE + 1],
            ..snapshot()
        };
        let carried = status(relay, true).carried;
        let bytes = (carried.received_bytes, carried.sent_bytes);
        assert_eq!(bytes, (0, 3 * COARSE));
    }

    #[test]
    fn what_a_consensus_says_is_said_with_what_to_do() {
        let state = |consensus, publishes| {
            let relay = RelaySnapshot {
                consensus,
                ..snapshot()
            };
            let listing = status(relay, publishes).listing;
            (listing.state.clone(), listing.why.is_some(), listing)
        };
        let (word, has_why, none) = state(None, true);
        assert_eq!((word.as_str(), has_why), ("unknown", true));
        assert!(!none.is_as_wanted());
        let absent =
            listed(Flags::NONE, Vec::new()).map(|says| ConsensusSays { own: None, ..says });
        let (word, has_why, _) = state(absent.clone(), true);
        assert_eq!((word.as_str(), has_why), ("absent", true));
        // Who does not want to be listed need not do anything.
        let (word, has_why, listing) = state(absent, false);
        assert_eq!((word.as_str(), has_why), ("absent", false));
        assert!(listing.is_as_wanted());
        let missing = vec![MissingFlag {
            flag: Flags::RUNNING,
            why: WhyMissing::Unreached,
        }];
        let (word, has_why, listing) = state(listed(Flags::VALID, missing), true);
        assert_eq!((word.as_str(), has_why), ("unreachable", true));
        assert_eq!(listing.missing[0].flag, "Running");
        let (word, has_why, listing) = state(listed(Flags::RUNNING, Vec::new()), true);
        assert_eq!((word.as_str(), has_why), ("reachable", false));
        assert!(listing.is_as_wanted());
        assert_eq!(listing.flags, ["Running"]);
        assert_eq!(
            (listing.weight_kib, listing.of_weight_kib),
            (Some(5), Some(50))
        );
    }

    #[test]
    fn troubles_and_answers_of_authorities_have_a_place_each() {
        let refused = RelayEvent::Descriptor {
            authority: "oak".to_owned(),
            answer: DescriptorAnswer::Refused {
                status: 403,
                reason: "not wanted".to_owned(),
            },
        };
        let taken = RelayEvent::Descriptor {
            authority: "elm".to_owned(),
            answer: DescriptorAnswer::Taken,
        };
        let clock = RelayEvent::Clock {
            wrong_by: Some(7_200),
        };
        let told = status(
            RelaySnapshot {
                standing: vec![
                    refused,
                    taken,
                    clock.clone(),
                    RelayEvent::Clock { wrong_by: None },
                ],
                ..snapshot()
            },
            true,
        );
        let answers: Vec<_> = told
            .descriptors
            .iter()
            .map(|one| one.answer.as_str())
            .collect();
        assert_eq!(answers, ["taken", "refused"]);
        assert_eq!(
            told.descriptors[1].reason.as_deref(),
            Some("not wanted (403)")
        );
        assert_eq!(told.warnings, [clock.to_string()]);
        assert!(told.alarms.is_empty());
        assert_eq!(
            (told.refusals[0].reason.as_str(), told.refusals[0].count),
            ("policy", 9)
        );
        let [memory, connections, bandwidth] = &told.limits[..] else {
            panic!("{:?}", told.limits)
        };
        assert_eq!((memory.used, memory.limit), (Some(5), Some(100)));
        assert_eq!((connections.used, connections.limit), (Some(3), Some(10)));
        assert_eq!((bandwidth.used, bandwidth.limit), (None, None));
    }
}
