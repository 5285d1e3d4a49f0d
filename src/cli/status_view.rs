//! What `cepa status` shows, in lines of at most 80 columns.

use std::time::Duration;

use cepa_common::words::{About, At, Count};

use super::ask::Running;
use crate::control::answer::{
    AuthorityStatus, ClientStatus, LimitStatus, ListenerStatus, RelayStatus, Role, Status,
};

/// Columns of a line.
const WIDTH: usize = 80;
/// Columns of a line's label.
const LABEL: usize = 12;
/// Characters of an identity that tell relays apart.
const SHORT_IDENTITY: usize = 16;

/// Lines with a label each.
#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    /// Adds what is said under the label, in as many lines as it takes.
    fn add(&mut self, label: &str, text: impl AsRef<str>) {
        let mut line = format!("{label:LABEL$}");
        let mut is_empty = true;
        // Some of it others have written.
        let text = text.as_ref().replace(|c: char| c.is_control(), " ");
        for word in text.split_whitespace() {
            let columns = line.chars().count() + word.chars().count() + 1;
            if !is_empty && columns > WIDTH {
                self.0.push(std::mem::replace(&mut line, " ".repeat(LABEL)));
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
            }
            line.push_str(word);
            is_empty = false;
        }
        self.0.push(line.trim_end().to_owned());
    }

    fn all(&mut self, label: &str, texts: &[String]) {
        for text in texts {
            self.add(label, text);
        }
    }
}

/// How one node does.
pub(super) fn lines(status: &Status) -> Vec<String> {
    let mut lines = Lines::default();
    if let Some(client) = &status.client {
        of_client(&mut lines, client);
    }
    if let Some(relay) = &status.relay {
        of_relay(&mut lines, relay, status);
    }
    match &status.authority {
        Some(authority) => of_authority(&mut lines, authority, status.now),
        None if status.roles.contains(&Role::Authority) => {
            lines.add("authority", "gives no answer: its log may say why");
        }
        None => {}
    }
    let up = About(Duration::from_secs(
        status.now.saturating_sub(status.started),
    ));
    let (process, version) = (status.process, &status.version);
    lines.add(
        "process",
        format!("{process}, up for {up}, of version {version}"),
    );
    if let Some(client) = &status.client {
        lines.all("ALARM", &client.alarms);
        lines.all("warning", &client.warnings);
    }
    if let Some(relay) = &status.relay {
        lines.all("ALARM", &relay.alarms);
        lines.all("warning", &relay.warnings);
    }
    lines.0
}

fn of_client(lines: &mut Lines, client: &ClientStatus) {
    lines.add("client", format!("{} ({} %)", client.stage, client.percent));
    if let (Some(relays), Some(until)) = (client.relays, client.valid_until) {
        let relays = Count(relays, "relay");
        lines.add("consensus", format!("{relays}, valid until {}", At(until)));
    }
    let port = |port: &ListenerStatus| match port.kind.as_str() {
        ListenerStatus::PROXY => port.address.clone(),
        kind => format!("{} ({kind})", port.address),
    };
    let ports: Vec<_> = client.listeners.iter().map(port).collect();
    if !ports.is_empty() {
        lines.add("ports", ports.join(", "));
    }
    for guard in &client.guards {
        let identity = short(&guard.identity);
        lines.add(
            "guard",
            format!("{} ({identity}) {}", guard.nickname, guard.health),
        );
    }
    lines.add(
        "circuits",
        format!(
            "{} ready for streams, {} unused, {} with a second leg; {} built so far",
            client.circuits, client.clean, client.paired, client.built
        ),
    );
    lines.add("streams", format!("{} open", client.streams));
}

fn of_relay(lines: &mut Lines, relay: &RelayStatus, status: &Status) {
    let kind = match relay.exit {
        Some(_) => "relay, exit",
        None => "relay",
    };
    lines.add(
        kind,
        format!("{} listens on {}", relay.nickname, relay.listens),
    );
    lines.add("identity", &relay.identity);
    let named = relay.addresses.iter().map(ToString::to_string);
    lines.add("addresses", named.collect::<Vec<_>>().join(", "));
    let listing = &relay.listing;
    let listed = match (listing.wanted, listing.state.as_str()) {
        (false, _) => "is not to be listed, as its configuration says".to_owned(),
        (true, "reachable") => "listed, and most authorities reach it".to_owned(),
        (true, "unreachable") => "LISTED AS UNREACHABLE".to_owned(),
        (true, "absent") => "NOT LISTED".to_owned(),
        (true, _) => "not known yet".to_owned(),
    };
    lines.add("network", listed);
    if let Some(why) = &listing.why {
        lines.add("", why);
    }
    if let Some(consensus) = &relay.consensus {
        let (relays, until) = (Count(consensus.relays, "relay"), At(consensus.valid_until));
        lines.add("consensus", format!("{relays}, valid until {until}"));
    }
    if !listing.flags.is_empty() {
        lines.add("flags", listing.flags.join(" "));
    }
    for missing in &listing.missing {
        lines.add(&format!("no {}", missing.flag), &missing.why);
    }
    if let (Some(own), Some(all)) = (listing.weight_kib, listing.of_weight_kib) {
        let share = Tenths::of(own.into(), all);
        lines.add(
            "weight",
            format!("{own} KiB/s, {share} % of the network's {all}"),
        );
    }
    let taken = relay.descriptors.iter().filter(|one| one.answer == "taken");
    if !relay.descriptors.is_empty() {
        let (taken, all) = (taken.count(), relay.descriptors.len());
        let all = Count(all, "authority");
        lines.add("descriptor", format!("taken by {taken} of {all}"));
    }
    for one in relay.descriptors.iter().filter(|one| one.answer != "taken") {
        let (name, answer) = (&one.authority, &one.answer);
        let reason = one.reason.as_deref().unwrap_or("no reason given");
        lines.add("", format!("{name} {answer}: {reason}"));
    }
    let (relays, others) = (relay.links.relays, relay.links.others);
    let circuits = Count(relay.circuits, "circuit");
    lines.add(
        "links",
        format!("{relays} to relays, {others} to others; {circuits}"),
    );
    if let Some(exit) = &relay.exit {
        let associations = Count(exit.associations, "association");
        lines.add(
            "exit",
            format!("{}, {associations}", Count(exit.streams, "stream")),
        );
    }
    let carried = &relay.carried;
    lines.add(
        "carried",
        format!(
            "{} in, {} out since the start",
            Bytes(carried.received_bytes),
            Bytes(carried.sent_bytes)
        ),
    );
    lines.add(
        "queues",
        format!(
            "{} wait for links, {} for an answer",
            Bytes(relay.queues.cells_bytes as u64),
            Count(relay.queues.creates, "CREATE")
        ),
    );
    for limit in &relay.limits {
        lines.add(label_of(limit), taken_of(limit));
    }
    let refused = relay.refusals.iter().filter(|refusal| refusal.count > 0);
    let refused: Vec<_> = refused
        .map(|refusal| format!("{} {}", refusal.count, refusal.reason))
        .collect();
    let refused = match refused.is_empty() {
        true => "nothing since the start".to_owned(),
        false => refused.join(", "),
    };
    lines.add("refused", refused);
    if let Some(certificate) = &relay.keys.certificate {
        lines.add(
            "certificate",
            until("of the link key: ends", certificate.valid_until, status.now),
        );
    }
    if let Some(newest) = relay.keys.onion.last() {
        let older = match relay.keys.onion.len() - 1 {
            0 => String::new(),
            n => format!("; {} still taken", Count(n, "older one")),
        };
        lines.add(
            "onion key",
            format!("is replaced {}{older}", At(newest.replaced)),
        );
    }
}

fn of_authority(lines: &mut Lines, authority: &AuthorityStatus, now: u64) {
    let name = match authority.name.as_str() {
        "" => "is in no revision of the network that counts now",
        name => name,
    };
    let at = At(authority.valid_after);
    let stage = match authority.stage.as_str() {
        "voting" => format!("votes for {at} are exchanged"),
        "no-quorum" => format!("TOO FEW VOTES for {at}"),
        "signing" => format!("signatures for {at} are exchanged"),
        "published" => format!("the consensus of {at} is served"),
        _ => format!("the time for votes for {at} is over; this authority has not signed"),
    };
    lines.add("authority", name);
    lines.add("vote", stage);
    let votes = &authority.votes;
    let list = |names: &[String]| names.join(", ");
    let mut said = format!("{} of {}", votes.accepted, votes.authorities);
    if !votes.silent.is_empty() {
        said.push_str(&format!("; none of {}", list(&votes.silent)));
    }
    if !votes.convicted.is_empty() {
        said.push_str(&format!("; VOTED TWICE: {}", list(&votes.convicted)));
    }
    lines.add("votes", said);
    let signatures = &authority.signatures;
    let mut said = format!("{}, {} are needed", signatures.count, signatures.needed);
    if !signatures.missing.is_empty() {
        said.push_str(&format!("; none of {}", list(&signatures.missing)));
    }
    lines.add("signatures", said);
    if authority.without_quorum > 0 {
        let periods = Count(authority.without_quorum, "period");
        lines.add("", format!("TOO FEW VOTES in {periods} in a row"));
    }
    match &authority.newest {
        Some(newest) => lines.add(
            "serves",
            until("a consensus that ends", newest.valid_until, now),
        ),
        None => lines.add("serves", "no consensus yet"),
    }
    if let Some(end) = authority.key_valid_until {
        lines.add("voting key", until("ends", end, now));
    }
    let known = &authority.relays;
    lines.add(
        "relays",
        format!(
            "{} known: {} answer, {} do not, {} not dialled yet",
            known.known, known.answering, known.silent, known.undialled
        ),
    );
    if let Some(measured) = &authority.measured {
        lines.add(
            "measured",
            format!(
                "{}, {} KiB/s in all; {} MiB/h may be used for it",
                Count(measured.relays, "relay"),
                measured.carried_kib,
                measured.budget_mib_per_hour
            ),
        );
    }
}

/// How each of several nodes does, in a line and the flag that names it.
pub(super) fn overview(nodes: &[Running]) -> Vec<String> {
    let mut lines = vec![format!("{} run here:", Count(nodes.len(), "node"))];
    for node in nodes {
        let said = match &node.status {
            Ok(status) => in_short(status),
            Err(error) => error.to_string(),
        };
        let mut wrapped = Lines::default();
        wrapped.add("", said);
        lines.extend(wrapped.0.into_iter().map(|line| {
            let text = line.trim_start();
            format!("  {text}")
        }));
        lines.push(format!("    --state {}", node.dir.display()));
    }
    lines.push("`cepa status --state DIR` says more of one.".to_owned());
    lines
}

fn in_short(status: &Status) -> String {
    let mut said = Vec::new();
    if let Some(client) = &status.client {
        said.push(format!("client: {}", client.stage));
    }
    if let Some(relay) = &status.relay {
        let roles = status.roles.iter().filter(|role| **role != Role::Client);
        let roles: Vec<_> = roles.map(|role| role.name()).collect();
        let state = match relay.listing.wanted {
            true => relay.listing.state.as_str(),
            false => "not to be listed",
        };
        let circuits = Count(relay.circuits, "circuit");
        let (roles, name) = (roles.join(", "), &relay.nickname);
        said.push(format!("{roles} {name}: {state}, {circuits}"));
    }
    said.join("; ")
}

fn short(identity: &str) -> String {
    identity.chars().take(SHORT_IDENTITY).collect()
}

/// A moment, and that it is near or past.
fn until(what: &str, end: u64, now: u64) -> String {
    match end.checked_sub(now) {
        None | Some(0) => format!("{what} {}: IT HAS ENDED", At(end)),
        Some(left) => format!(
            "{what} {}, in {}",
            At(end),
            About(Duration::from_secs(left))
        ),
    }
}

fn label_of(limit: &LimitStatus) -> &str {
    match limit.key.as_str() {
        "limits.memory_mib" => "memory",
        "limits.connections" => "connections",
        "limits.bandwidth_kib" => "bandwidth",
        "limits.udp_associations" => "datagrams",
        other => other,
    }
}

fn taken_of(limit: &LimitStatus) -> String {
    let bytes = limit.unit == "bytes";
    let figure = |n: u64| match bytes {
        true => Bytes(n).to_string(),
        false => n.to_string(),
    };
    match (limit.used, limit.limit) {
        (Some(used), Some(most)) => {
            let percent = used.saturating_mul(100) / most.max(1);
            let key = &limit.key;
            format!("{} of {} ({percent} %; {key})", figure(used), figure(most))
        }
        (Some(used), None) => figure(used),
        (None, Some(rate)) => format!("{}/s at most ({})", Bytes(rate), limit.key),
        (None, None) => format!("without a limit ({})", limit.key),
    }
}

/// A part of a whole in per cent, with one decimal.
struct Tenths(u64);

impl Tenths {
    fn of(part: u64, whole: u64) -> Self {
        Self(part.saturating_mul(1_000) / whole.max(1))
    }
}

impl core::fmt::Display for Tenths {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.0 / 10, self.0 % 10)
    }
}

/// A number of bytes as people read it.
struct Bytes(u64);

impl core::fmt::Display for Bytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let fits = units.iter().find(|(bits, _)| self.0 >> bits > 0);
        match fits {
            None => write!(f, "{} B", self.0),
            Some((bits, unit)) => {
                let whole = self.0 >> bits;
                match whole {
                    // One decimal where the number is short.
                    0..10 => write!(
                        f,
                        "{whole}.{} {unit}",
                        ((self.0 >> (bits - 10)) % 1024) * 10 / 1024
                    ),
                    _ => write!(f, "{whole} {unit}"),
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "status_view_tests.rs"]
mod tests;
