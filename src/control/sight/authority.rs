//! What an authority says of itself, made of the library's snapshot. Pure.

use cepa_relay::RelaySnapshot;
use cepa_relay::authority::{AuthoritySnapshot, VotingStage};

use super::relay;
use crate::control::answer::{
    AuthorityStatus, MeasuredStatus, RelaySumsStatus, SignaturesStatus, VotesStatus,
};

/// What the authority of the snapshot says; `serves` is the snapshot of its relay.
pub(super) fn status(authority: AuthoritySnapshot, serves: &RelaySnapshot) -> AuthorityStatus {
    let [from, until] = authority.rounds_ms.map(|ms| ms / 1_000);
    let sums = authority.relays;
    AuthorityStatus {
        name: authority.name,
        valid_after: authority.lifetime.valid_after,
        votes_from: from,
        counted_at: until,
        stage: match authority.stage {
            VotingStage::Voting => "voting",
            VotingStage::NoQuorum => "no-quorum",
            VotingStage::Signing => "signing",
            VotingStage::Published => "published",
            _ => "unsigned",
        }
        .to_owned(),
        votes: VotesStatus {
            own: authority.has_voted,
            accepted: authority.votes,
            needed: authority.needed,
            authorities: authority.authorities,
            silent: authority.silent,
            convicted: authority.convicted,
        },
        signatures: SignaturesStatus {
            count: authority.signatures,
            needed: authority.needed,
            missing: authority.unsigned,
        },
        without_quorum: authority.without_quorum,
        newest: serves.consensus.as_ref().map(relay::consensus),
        key_valid_until: authority.key_until,
        relays: RelaySumsStatus {
            known: sums.known,
            answering: sums.answering,
            silent: sums.silent,
            undialled: sums.undialled,
        },
        measured: (sums.budget_mib > 0).then_some(MeasuredStatus {
            relays: sums.measured,
            carried_kib: sums.measured_kib,
            budget_mib_per_hour: sums.budget_mib,
        }),
    }
}
