//! A consensus for people and scripts: as a table, as JSON, and judged off line.

use std::net::SocketAddr;
use std::time::Duration;

use cepa_common::dir::{
    Consensus, ConsensusStatus, Entry, Flags, Inspection, Lifetime, NetworkFile, PortRange,
    SignatureReport, SignatureVerdict, UnixSecs,
};
use cepa_common::words::At;
use serde::Serialize;

/// A consensus, for people and scripts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ConsensusView {
    /// The network's name.
    pub(crate) network: String,
    /// The network's id in hexadecimal digits.
    pub(crate) network_id: String,
    /// The revision of the network's file that was used.
    pub(crate) revision: u32,
    /// Digest of the consensus in hexadecimal digits.
    pub(crate) digest: String,
    /// When the consensus becomes valid (UTC, RFC 3339).
    pub(crate) valid_after: String,
    /// From when on there should be a newer consensus.
    pub(crate) fresh_until: String,
    /// When the consensus stops being valid.
    pub(crate) valid_until: String,
    /// Status of the consensus now: early, fresh, valid, grace or expired.
    pub(crate) status: &'static str,
    /// The status in words.
    pub(crate) now: String,
    /// How many authorities signed the consensus.
    pub(crate) signatures: usize,
    /// How many authorities the network has.
    pub(crate) authorities: usize,
    /// The authorities that signed.
    pub(crate) signed_by: Vec<String>,
    /// The authorities that did not sign.
    pub(crate) not_signed_by: Vec<String>,
    /// Relays of the consensus.
    pub(crate) relays: Vec<RelayView>,
}

/// A relay of a consensus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RelayView {
    /// Identity in hexadecimal digits.
    pub(crate) identity: String,
    /// Name for people.
    pub(crate) nickname: String,
    /// Where the relay accepts links.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Weight in the choice of paths (KiB a second).
    pub(crate) weight: u32,
    /// What the authorities say of the relay.
    pub(crate) flags: Vec<String>,
    /// Suite of the relay's onion key.
    pub(crate) suite: &'static str,
    /// Ports to which the relay lets streams out.
    pub(crate) exit_ports: String,
    /// Ports to which the relay lets datagrams out.
    pub(crate) exit_udp_ports: String,
    /// The key of the relay's family, in hexadecimal digits.
    pub(crate) family: Option<String>,
    /// Version of the relay's program.
    pub(crate) version: String,
}

/// What is to be shown, and in which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Order {
    /// The heaviest first.
    #[default]
    Weight,
    /// By nickname.
    Nickname,
    /// By identity.
    Identity,
}

/// The status as one word.
pub(crate) fn word(status: ConsensusStatus) -> &'static str {
    match status {
        ConsensusStatus::Early => "early",
        ConsensusStatus::Fresh => "fresh",
        ConsensusStatus::Valid => "valid",
        ConsensusStatus::Grace => "grace",
        ConsensusStatus::Expired => "expired",
    }
}

/// How a consensus of these times stands at `now`, in a sentence.
pub(crate) fn in_words(status: ConsensusStatus, lifetime: Lifetime, now: UnixSecs) -> String {
    let span = |from: u64, to: u64| {
        humantime::format_duration(Duration::from_secs(to.saturating_sub(from))).to_string()
    };
    match status {
        ConsensusStatus::Early => format!(
            "not valid yet: it begins in {}; is this computer's clock right?",
            span(now, lifetime.valid_after)
        ),
        ConsensusStatus::Fresh => format!(
            "fresh: a newer one is due in {}",
            span(now, lifetime.fresh_until)
        ),
        ConsensusStatus::Valid => format!(
            "valid, but a newer one has been due for {}; it ends in {}",
            span(lifetime.fresh_until, now),
            span(now, lifetime.valid_until)
        ),
        ConsensusStatus::Grace => format!(
            "ended {} ago; clients use it for want of a newer one",
            span(lifetime.valid_until, now)
        ),
        ConsensusStatus::Expired => {
            format!("ended {} ago", span(lifetime.valid_until, now))
        }
    }
}

impl ConsensusView {
    /// A consensus of `network` as it stands at `now`; relays by decreasing weight.
    pub(crate) fn new(network: &NetworkFile, consensus: &Consensus, now: UnixSecs) -> Self {
        let lifetime = consensus.lifetime();
        let has_signed = |key: &[u8; 32]| consensus.signers().contains(key);
        let names = |signed: bool| {
            let authorities = network.authorities().iter();
            let wanted = authorities.filter(|a| has_signed(&a.signing_key) == signed);
            wanted.map(|a| a.name.clone()).collect()
        };
        let mut view = Self {
            network: network.name().to_owned(),
            network_id: network.network_id().to_string(),
            revision: network.revision(),
            digest: consensus.digest().to_string(),
            valid_after: At(lifetime.valid_after).to_string(),
            fresh_until: At(lifetime.fresh_until).to_string(),
            valid_until: At(lifetime.valid_until).to_string(),
            status: word(consensus.status(now)),
            now: in_words(consensus.status(now), lifetime, now),
            signatures: consensus.signature_count(),
            authorities: network.authorities().len(),
            signed_by: names(true),
            not_signed_by: names(false),
            relays: consensus.entries().iter().map(RelayView::new).collect(),
        };
        view.sort(Order::Weight);
        view
    }

    /// Puts the relays in order.
    pub(crate) fn sort(&mut self, order: Order) {
        match order {
            // Relays of one weight stay in the order of their identities, in which they came.
            Order::Weight => self.relays.sort_by_key(|r| std::cmp::Reverse(r.weight)),
            Order::Nickname => self.relays.sort_by_key(|r| r.nickname.to_lowercase()),
            Order::Identity => self.relays.sort_by(|a, b| a.identity.cmp(&b.identity)),
        }
    }

    /// Keeps only the relays that have all of `flags`, written in capitals or small letters.
    pub(crate) fn keep_flags(&mut self, flags: &[String]) {
        let has = |relay: &RelayView, flag: &String| {
            relay
                .flags
                .iter()
                .any(|held| held.eq_ignore_ascii_case(flag))
        };
        self.relays
            .retain(|relay| flags.iter().all(|flag| has(relay, flag)));
    }

    /// The consensus as lines for people; `wide` shows identities and families in full.
    pub(crate) fn lines(&self, wide: bool) -> Vec<String> {
        let list = |names: &[String]| match names {
            [] => "-".to_owned(),
            some => some.join(", "),
        };
        let mut lines = vec![
            format!("network      {} ({})", self.network, self.network_id),
            format!("revision     {}", self.revision),
            format!("digest       {}", self.digest),
            format!("valid after  {}", self.valid_after),
            format!("fresh until  {}", self.fresh_until),
            format!("valid until  {}", self.valid_until),
            format!("now          {}", self.now),
            format!(
                "signed by    {} of {} authorities: {}",
                self.signatures,
                self.authorities,
                list(&self.signed_by)
            ),
            format!("not by       {}", list(&self.not_signed_by)),
            format!("relays       {}", self.relays.len()),
            String::new(),
        ];
        let head = [
            "NICKNAME", "IDENTITY", "ADDRESS", "WEIGHT", "FLAGS", "SUITE", "FAMILY", "VERSION",
            "EXITS TO", "BY UDP",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(self.relays.iter().map(|relay| relay.row(wide)));
        lines.extend(table(&rows));
        lines
    }
}

impl RelayView {
    fn new(entry: &Entry) -> Self {
        let flags = entry.flags.to_string();
        Self {
            identity: entry.identity.to_string(),
            nickname: entry.nickname.clone(),
            addresses: entry.addresses.clone(),
            weight: entry.weight,
            flags: flags.split_whitespace().map(str::to_owned).collect(),
            suite: entry.suite.name(),
            exit_ports: ports(entry.policy.v4()),
            exit_udp_ports: ports(entry.udp.v4()),
            family: entry.family.map(|key| {
                let digits = key.iter().map(|byte| format!("{byte:02x}"));
                digits.collect()
            }),
            version: entry.version.clone(),
        }
    }

    fn row(&self, wide: bool) -> [String; 10] {
        let short = |text: &str| {
            let digits = if wide { usize::MAX } else { 8 };
            text.chars().take(digits).collect::<String>()
        };
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        [
            self.nickname.clone(),
            short(&self.identity),
            addresses.join(","),
            self.weight.to_string(),
            self.flags.join(","),
            self.suite.to_owned(),
            self.family.as_deref().map_or_else(|| "-".to_owned(), short),
            self.version.clone(),
            self.exit_ports.clone(),
            self.exit_udp_ports.clone(),
        ]
    }
}

/// Rows as lines, every column as wide as its widest cell.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths);
        let padded = cells.map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Port ranges as people write them; `-` for none.
fn ports(ranges: &[PortRange]) -> String {
    let ranges: Vec<String> = ranges
        .iter()
        .map(|range| match (range.low, range.high) {
            (low, high) if low == high => low.to_string(),
            (low, high) => format!("{low}-{high}"),
        })
        .collect();
    if ranges.is_empty() {
        "-".to_owned()
    } else {
        ranges.join(",")
    }
}

/// Is this the name of a flag?
pub(crate) fn is_flag(name: &str) -> bool {
    Flags::all().any(|flag| flag.to_string().eq_ignore_ascii_case(name))
}

/// A consensus that was checked off line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// Is it signed by enough authorities, and valid at that time?
    pub(crate) ok: bool,
    /// Why the consensus does not verify.
    pub(crate) problem: Option<String>,
    /// The network's id.
    pub(crate) network_id: String,
    /// Digest of the consensus.
    pub(crate) digest: String,
    /// When the consensus becomes valid.
    pub(crate) valid_after: String,
    /// From when on there should be a newer consensus.
    pub(crate) fresh_until: String,
    /// When the consensus stops being valid.
    pub(crate) valid_until: String,
    /// The time that the consensus was judged for.
    pub(crate) at: String,
    /// Status of the consensus at that time.
    pub(crate) status: &'static str,
    /// Number of relays in the consensus.
    pub(crate) relays: usize,
    /// Signatures needed.
    pub(crate) need: usize,
    /// Signatures that count.
    pub(crate) have: usize,
    /// Every signature.
    pub(crate) signatures: Vec<SignatureView>,
    /// Authorities that did not sign, or whose signature does not count.
    pub(crate) missing: Vec<String>,
}

/// A signature of a consensus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SignatureView {
    /// The authority, if the network's file names its key.
    pub(crate) authority: Option<String>,
    /// The long-term signing key.
    pub(crate) signing_key: String,
    /// When the certified key ends, if such a key signed for the authority.
    pub(crate) certified_until: Option<String>,
    /// The verdict: good, expired, bad or unknown.
    pub(crate) verdict: &'static str,
}

impl SignatureView {
    fn new(report: &SignatureReport) -> Self {
        let digits = report.signer.iter().map(|byte| format!("{byte:02x}"));
        Self {
            authority: report.authority.clone(),
            signing_key: digits.collect(),
            certified_until: report.not_after.map(|at| At(at).to_string()),
            verdict: match report.verdict {
                SignatureVerdict::Good => "good",
                SignatureVerdict::Expired => "expired",
                SignatureVerdict::Bad => "bad",
                SignatureVerdict::Unknown => "unknown",
            },
        }
    }
}

impl Verdict {
    /// Judges an inspected consensus of `network` as of `at`.
    pub(crate) fn new(network: &NetworkFile, inspection: &Inspection, at: UnixSecs) -> Self {
        let lifetime = inspection.lifetime;
        let grace = u64::from(network.params().consensus_grace_seconds);
        let status = lifetime.status(at, grace);
        let valid = matches!(status, ConsensusStatus::Fresh | ConsensusStatus::Valid);
        let problem = match (&inspection.refused, valid) {
            (Some(error), _) => Some(error.to_string()),
            (None, false) => Some(in_words(status, lifetime, at)),
            (None, true) => None,
        };
        let authorities = network.authorities().len();
        Self {
            ok: problem.is_none(),
            problem,
            network_id: network.network_id().to_string(),
            digest: inspection.digest.to_string(),
            valid_after: At(lifetime.valid_after).to_string(),
            fresh_until: At(lifetime.fresh_until).to_string(),
            valid_until: At(lifetime.valid_until).to_string(),
            at: At(at).to_string(),
            status: word(status),
            relays: inspection.relays,
            need: inspection.need,
            have: authorities.saturating_sub(inspection.missing.len()),
            signatures: inspection
                .signatures
                .iter()
                .map(SignatureView::new)
                .collect(),
            missing: inspection.missing.clone(),
        }
    }

    /// The verdict as lines for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            match &self.problem {
                None => "good: signed by enough authorities, and valid".to_owned(),
                Some(problem) => format!("REFUSED: {problem}"),
            },
            format!("network      {}", self.network_id),
            format!("digest       {}", self.digest),
            format!("valid after  {}", self.valid_after),
            format!("fresh until  {}", self.fresh_until),
            format!("valid until  {}", self.valid_until),
            format!("at           {}: {}", self.at, self.status),
            format!("relays       {}", self.relays),
            format!(
                "signatures   {} that count, {} needed",
                self.have, self.need
            ),
            String::new(),
        ];
        let head = [
            "AUTHORITY",
            "SIGNATURE",
            "KEY CERTIFIED UNTIL",
            "SIGNING KEY",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(self.signatures.iter().map(|signature| {
            [
                signature
                    .authority
                    .clone()
                    .unwrap_or_else(|| "?".to_owned()),
                signature.verdict.to_owned(),
                signature
                    .certified_until
                    .clone()
                    .unwrap_or_else(|| "-".to_owned()),
                signature.signing_key.clone(),
            ]
        }));
        let absent = |name: &&String| {
            let signed = |s: &SignatureView| s.authority.as_ref() == Some(name);
            !self.signatures.iter().any(signed)
        };
        rows.extend(
            self.missing
                .iter()
                .filter(absent)
                .map(|name| [name.as_str(), "missing", "-", "-"].map(str::to_owned)),
        );
        lines.extend(table(&rows));
        lines
    }
}
