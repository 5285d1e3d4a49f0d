//! The figures in docs/protocol.md are those of the code: a figure that stands in both is read from both.
//!
//! Most of these constants are private to their rooms, so the test reads the sources as text. A row fails when its
//! rule, its words or its constant is not found any more.
#![allow(clippy::disallowed_methods, reason = "the test reads the sources")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cepa_common::dir::Params;

/// The unit in which the document counts. Constants are in bytes, in milliseconds, or numbers of things.
#[derive(Clone, Copy)]
enum Unit {
    Ones,
    KiB,
    MiB,
    Ms,
    Secs,
    Minutes,
    Hours,
    Days,
}
use Unit::{Days, Hours, KiB, MiB, Minutes, Ms, Ones, Secs};

impl Unit {
    fn size(self) -> u64 {
        match self {
            Ones | Ms => 1,
            KiB => 1 << 10,
            MiB => 1 << 20,
            Secs => 1_000,
            Minutes => 60_000,
            Hours => 3_600_000,
            Days => 86_400_000,
        }
    }
}

/// A rule, its words with `{}` for the figure, the figure's unit, the file or room of the constant, the constant's
/// name.
type Row = (&'static str, &'static str, Unit, &'static str, &'static str);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("1.6", "for a link to both HELLOs, {} s", Secs, "common/src/limits.rs", "LINK_HANDSHAKE_TIMEOUT"),
    ("2.1", "cells of {} bytes each way", Ones, "common/src/cell/mod.rs", "CELL_LEN"),
    ("2.6", "number of versions, 1 to {}", Ones, "common/src/link/hello.rs", "MAX_VERSIONS"),
    ("2.8", "counts halve in {} s", Secs, "common/src/limits.rs", "RECENT_HALF_LIFE"),
    ("2.8", "A turn is {} cells", Ones, "common/src/limits.rs", "TURN_CELLS"),
    ("2.9", "nothing; over {} in a second closes the link", Ones,
        "common/src/limits.rs", "UNKNOWN_CIRCUIT_CELLS_PER_SECOND"),
    ("2.9", "BEGIN when {} streams are open", Ones, "common/src/limits.rs", "STREAMS_PER_CIRCUIT"),
    ("2.11", "after {} to 270 s by the side that dialled it", Secs, "common/src/limits.rs", "LINK_REST_DIALLED"),
    ("2.11", "after {} to 900 s by the other side", Secs, "common/src/limits.rs", "LINK_REST_ACCEPTED"),
    ("5.3", "a name: 1 to {} of", Ones, "common/src/cell/message/words.rs", "MAX_NAME_LEN"),
    ("5.3", "IPv4 after {} ms without", Ms, "relay/src/exit/race.rs", "RESOLUTION_DELAY"),
    ("5.3", "a dial every {} ms", Ms, "relay/src/exit/race.rs", "ATTEMPT_DELAY"),
    ("5.3", "silent for {} s makes room", Secs, "relay/src/exit/connect.rs", "SILENT_AFTER"),
    ("5.3", "has {} s in all", Secs, "relay/src/exit/connect.rs", "DEADLINE"),
    ("5.3", "{} s of them for the name", Secs, "relay/src/exit/resolve.rs", "LOOKUP_DEADLINE"),
    ("5.5", "At most {} streams are open", Ones, "common/src/limits.rs", "STREAMS_PER_CIRCUIT"),
    ("5.9", "turns of {} payloads", Ones, "common/src/stream/turns.rs", "TURN_CELLS"),
    ("5.10", "credit never exceeds {} times", Ones, "common/src/limits.rs", "CREDIT_GROWTH"),
    ("5.10", "grow by {} MiB in all", MiB, "common/src/limits.rs", "CREDIT_EXTRA"),
    ("5.21", "draws {} random bytes", Ones, "common/src/cell/message/words.rs", "SECRET_LEN"),
    ("5.23", "A number {} or more ahead", Ones, "common/src/stream/set.rs", "UNSEEN_PAYLOADS"),
    ("5.24", "not been seen, {} at most", Ones, "common/src/stream/set.rs", "UNSEEN_PAYLOADS"),
    ("5.30", "or UNBIND(Resource) if {} associations", Ones, "common/src/limits.rs", "ASSOCIATIONS_PER_CIRCUIT"),
    ("5.32", "0 to {} bytes follow", Ones, "common/src/limits.rs", "DATAGRAM_BYTES"),
    ("5.35", "holds {} datagrams", Ones, "common/src/limits.rs", "DATAGRAMS_QUEUED"),
    ("5.35", "and {} KiB for each association", KiB, "common/src/limits.rs", "DATAGRAM_QUEUE_BYTES"),
    ("5.35", "and {} MiB for all associations", MiB, "common/src/limits.rs", "DATAGRAM_QUEUES_BYTES"),
    ("5.35", "has waited for {} s to be sent", Secs, "common/src/limits.rs", "DATAGRAM_AGE"),
    ("5.36", "have turns of {} payloads", Ones, "common/src/stream/turns.rs", "TURN_CELLS"),
    ("5.37", "something in the last {} s", Secs, "relay/src/exit/udp/peers.rs", "HEARD_FOR"),
    ("5.37", "in the last 300 s, {} at most", Ones, "relay/src/exit/udp/peers.rs", "MOST_PEERS"),
    ("5.37", "to the name after {} s of silence", Secs, "client/src/udp/filter.rs", "HEARD_FOR"),
    ("5.38", "{} s after the client's last datagram", Secs, "relay/src/exit/udp/mod.rs", "IDLE"),
    ("5.38", "A port is held for {} s after", Secs, "relay/src/exit/udp/mod.rs", "PORT_HOLD"),
    ("5.39", "a verdict on a peer holds for {} s", Secs, "relay/src/exit/udp/peers.rs", "VERDICT_FOR"),
    ("5.39", "an association has {} names", Ones, "relay/src/exit/udp/names.rs", "MOST_NAMES"),
    ("5.39", "It looks {} up at a time", Ones, "relay/src/exit/udp/names.rs", "MOST_LOOKUPS"),
    ("5.39", "at a time, for {} s each", Secs, "relay/src/exit/udp/names.rs", "LOOKUP_TIME"),
    ("5.39", "and {} datagrams wait for each", Ones, "relay/src/exit/udp/names.rs", "MOST_WAITING"),
    ("5.39", "may write to {} new peers a second", Ones, "relay/src/exit/udp/bounds.rs", "PEERS_PER_SECOND"),
    ("5.39", "new peers a second, and {} at once", Ones, "relay/src/exit/udp/bounds.rs", "PEERS_BURST"),
    ("5.39", "all circuits together to {} a second", Ones, "relay/src/exit/udp/bounds.rs", "ALL_PEERS_PER_SECOND"),
    ("5.39", "never answered go {} datagrams", Ones, "relay/src/exit/udp/bounds.rs", "SILENT_DATAGRAMS"),
    ("5.39", "datagrams or {} MiB in", MiB, "relay/src/exit/udp/bounds.rs", "SILENT_BYTES"),
    ("5.39", "or 1 MiB in {} s", Secs, "relay/src/exit/udp/bounds.rs", "TARGET_TIME"),
    ("5.28", "its round trip is {} ms or more", Ms, "client/src/circuit/growth.rs", "NEAR"),
    ("5.28", "tries once in {} s", Secs, "client/src/circuit/growth.rs", "AGAIN"),
    ("5.40", "works on {} queries of a stream", Ones, "relay/src/exit/dns.rs", "AT_ONCE"),
    ("5.40", "without a query for {} s", Secs, "relay/src/exit/dns.rs", "IDLE"),
    ("6.1.1", "number of signatures, at most {}", Ones, "common/src/dir/signed/envelope.rs", "MAX_SIGNATURES"),
    ("6.1.1", "length (2, at most {})", Ones, "common/src/dir/signed/envelope.rs", "MAX_SIGNATURE_BYTES"),
    ("6.1.3", "descriptor {} bytes", Ones, "common/src/dir/relay/descriptor.rs", "MAX_DESCRIPTOR_BYTES"),
    ("6.1.3", "vote {} MiB", MiB, "common/src/dir/vote/document.rs", "MAX_VOTE_BYTES"),
    ("6.1.3", "consensus {} MiB", MiB, "common/src/dir/consensus/signing.rs", "MAX_CONSENSUS_BYTES"),
    ("6.1.3", "signature of a consensus {} bytes", Ones,
        "common/src/dir/consensus/signing.rs", "MAX_SIGNATURE_DOCUMENT_BYTES"),
    ("6.1.3", "permit {} bytes", Ones, "common/src/dir/permit.rs", "MAX_PERMIT_BYTES"),
    ("6.1.3", "endorsement {} KiB", KiB, "common/src/dir/vote/endorsement.rs", "MAX_ENDORSEMENT_BYTES"),
    ("6.3.1", "At most {} KiB", KiB, "common/src/dir/network/file.rs", "MAX_NETWORK_FILE_BYTES"),
    ("6.3.1", "[[authority]] # 1 to {}", Ones, "common/src/dir/network/body.rs", "MAX_AUTHORITIES"),
    ("6.3.1", "[[fallback]] # 0 to {}", Ones, "common/src/dir/network/body.rs", "MAX_FALLBACKS"),
    ("6.3.2", "Names are 1 to {} ASCII", Ones, "common/src/dir/network/body.rs", "MAX_NAME_BYTES"),
    ("6.3.7", "at most {} in all", Ones, "common/src/dir/network/file.rs", "MAX_SIGNATURES"),
    ("6.3.9", "Up to {} revisions", Ones, "common/src/dir/network/revisions.rs", "MAX_REVISIONS"),
    ("6.4.1", "at most {} rules", Ones, "common/src/dir/relay/policy.rs", "MAX_RULES"),
    ("6.4.4", "at most {} to a list", Ones, "common/src/dir/relay/summary.rs", "MAX_RANGES"),
    ("6.5.1", "a name (1 to {} bytes", Ones, "common/src/dir/network/params.rs", "MAX_NAME_BYTES"),
    ("6.5.1", "At most {} to a document", Ones, "common/src/dir/network/params.rs", "MAX_PARAMS"),
    ("6.7.1", "list, at most {}, of", Ones, "common/src/dir/relay/descriptor.rs", "MAX_ENTRIES"),
    ("6.9.1", "list, at most {}", Ones, "common/src/dir/relay/descriptor.rs", "MAX_ENTRIES"),
    ("6.10.3", "(at most {})", Ones, "common/src/dir/consensus/store.rs", "MAX_HELD"),
    ("6.18.9", "answer has, at most {}", Ones, "common/src/dir/permit.rs", "MAX_PADDING_BYTES"),
    ("6.18.9", "document has {} bytes", Ones, "common/src/dir/permit.rs", "MAX_PERMIT_BYTES"),
    ("6.18.10", "differs from the relay's clock by at most {} s", Ones, "common/src/dir/signed/time.rs", "CLOCK_SKEW_SECS"),
    ("6.18.10", "relay has {} answers under way", Ones, "relay/src/directory/padding.rs", "MAX_AT_ONCE"),
    ("6.18.10", "remembers {} used permits", Ones, "relay/src/directory/padding.rs", "MAX_USED"),
    ("6.18.10", "longer than {} s loses its place", Secs, "relay/src/directory/padding.rs", "MAX_TIME"),
    ("6.12.3", "({} bytes for a signature)", Ones, "relay/src/directory/serve.rs", "MAX_SIGNATURE_BYTES"),
    ("6.12.3", "At most {} uploads of an author", Ones, "relay/src/authority", "SLOTS_PER_AUTHOR"),
    ("6.12.3", "at most {} bytes, to be shown", Ones, "common/src/net/directory/fetch.rs", "MAX_TEXT_BYTES"),
    ("6.12.3", "at most {} bytes, to be shown", Ones, "common/src/net/directory/offer.rs", "MAX_TEXT_BYTES"),
    ("6.12.4", "not complete in {} s", Secs, "relay/src/directory/serve.rs", "HEAD_DEADLINE"),
    ("6.12.4", "or over {} KiB", KiB, "relay/src/directory/serve.rs", "MAX_HEAD_BYTES"),
    ("6.12.4", "its body not in {} s", Secs, "relay/src/directory/reply.rs", "BODY_DEADLINE"),
    ("6.12.4", "its body not in {} s", Secs, "relay/src/directory/voting.rs", "BODY_DEADLINE"),
    ("6.12.4", "any connection after {} s", Secs, "relay/src/directory/serve.rs", "CONNECTION_DEADLINE"),
    ("6.12.4", "no pause of more than {} s", Secs, "common/src/net/directory/fetch.rs", "PROGRESS_DEADLINE"),
    ("6.12.5", "looks at the first {}", Ones, "relay/src/directory/consensus.rs", "MAX_TAGS"),
    ("6.13.2", "At most {} relays are looked at at once", Ones, "relay/src/authority", "MAX_PROBES"),
    ("6.13.2", "After {} failures in a row", Ones, "relay/src/authority", "FAILURES_TO_UNLIST"),
    ("6.14.1", "every {} s). Each upload", Secs, "relay/src/directory/publish.rs", "MISSED_AGAIN"),
    ("6.14.1", "({} ms to", Ms, "relay/src/directory/publish.rs", "RETRY_FIRST"),
    ("6.14.1", "ms to {} s, jittered", Secs, "relay/src/directory/publish.rs", "RETRY_CAP"),
    ("6.14.2", "from up to {} running relays", Ones, "relay/src/directory/refresh.rs", "RELAYS"),
    ("6.14.2", "growing waits from {} ms", Ms, "relay/src/directory/refresh.rs", "RETRY_FIRST"),
    ("6.14.2", "the lesser of {} s and", Secs, "relay/src/directory/refresh.rs", "RETRY_CAP"),
    ("6.14.3", "for at most {} such requests", Ones, "relay/src/link/peers.rs", "MAX_WAITING"),
    ("6.14.4", "(at most {}, and", Ones, "relay/src/directory/disk.rs", "MAX_FILES"),
    ("6.14.4", "and {} MiB)", MiB, "relay/src/directory/disk.rs", "MAX_BYTES"),
    ("6.15.1", "A client asks {} sources", Ones, "client/src/dir/sources.rs", "SOURCES"),
    ("6.15.1", "after {} rounds in a row", Ones, "client/src/dir/sources.rs", "ROUNDS_OVER_CIRCUITS"),
    ("6.15.2", "lets up to {} s at random", Secs, "client/src/dir/schedule.rs", "PAUSE"),
    ("6.15.2", "({} ms without", Ms, "client/src/dir/round.rs", "OTHERS_AT_START"),
    ("6.15.2", "else {} s)", Secs, "client/src/dir/round.rs", "OTHERS_LATER"),
    ("6.15.3", "is not asked for {} minutes", Minutes, "client/src/dir/sources.rs", "DISTRUST_FIRST"),
    ("6.15.3", "at most {} such are", Ones, "client/src/dir/sources.rs", "MAX_DISTRUSTED"),
    ("6.15.4", "growing waits from {} ms", Ms, "client/src/dir/task.rs", "RETRY_FIRST"),
    ("6.15.4", "lesser of I/4 and {} s", Secs, "client/src/dir/task.rs", "RETRY_CAP"),
    ("6.15.4", "({} s while a usable", Secs, "client/src/dir/task.rs", "RETRY_CAP_IDLE"),
    ("6.15.4", "asked for no stream in {} h", Hours, "client/src/dir/task.rs", "ASLEEP_AFTER"),
    ("6.15.7", "{} minutes at most", Minutes, "client/src/dir/sources.rs", "BUSY_CAP"),
    ("6.15.8", "asks up to {} authorities", Ones, "common/src/net/skew.rs", "TIME_SOURCES"),
    ("6.16.3", "while fewer than {} relays", Ones, "client/src/path/weights.rs", "FEWEST_GUARDS"),
    ("6.16.5", "position counts {}", Ones, "client/src/path/weights.rs", "ONE"),
    ("6.16.7", "up to {} times until", Ones, "client/src/path/select.rs", "DRAWS"),
    ("6.16.7", "Up to {} exits", Ones, "client/src/path/select.rs", "EXITS_TRIED"),
    ("6.16.11", "counts {} times", Ones, "client/src/path/rules.rs", "PREFERENCE"),
    ("6.16.13", "has 1 to {} relays", Ones, "client/src/path/rules.rs", "MOST_HOPS"),
    ("6.16.13", "by default {}.", Ones, "client/src/path/request.rs", "DEFAULT_HOPS"),
    ("6.17.1", "more than {} minutes", Minutes, "relay/src/authority", "MAX_GAP_MS"),
    ("6.17.2", "is down for {} days", Days, "relay/src/authority", "FORGET_AFTER_MS"),
    ("6.17.3", "Every {} hours", Hours, "relay/src/authority", "DECAY_EVERY_MS"),
    ("6.18.1", "after {} s what has come", Secs, "relay/src/authority", "DOWNLOAD_DEADLINE"),
    ("6.18.3", "download is of {} KiB", KiB, "relay/src/authority", "FIRST_BYTES"),
    ("6.18.3", "less than {} s is repeated", Secs, "relay/src/authority", "LONG_ENOUGH"),
    ("6.18.3", "up to {} MiB", MiB, "common/src/dir/permit.rs", "MAX_PADDING_BYTES"),
    ("6.18.3", "one over {} s is halved", Secs, "relay/src/authority", "TOO_LONG"),
    ("6.18.4", "Of the {} newest", Ones, "relay/src/authority", "MAX_SAMPLES"),
    ("6.18.4", "sorted); {} are needed", Ones, "relay/src/authority", "MIN_SAMPLES"),
    ("6.18.6", "After {} failures", Ones, "relay/src/authority", "FAILURES_TO_ZERO"),
    ("6.18.7", "At most {} downloads", Ones, "relay/src/authority", "MAX_AT_ONCE"),
    ("6.19.1", "at most {} MiB", MiB, "common/src/dir/consensus/diff.rs", "MAX_DIFFERENCE_BYTES"),
    ("6.19.1", "have at most {} elements", Ones, "common/src/dir/relay/descriptor.rs", "MAX_ENTRIES"),
    ("6.20.5", "at most {} onion keys", Ones, "relay/src/keys/schedule.rs", "MAX_KEYS"),
    ("6.20.9", "at most {} KiB", KiB, "common/src/dir/relay/key_files.rs", "MAX_KEY_FILE_BYTES"),
    ("6.21.7", "are over {} % of the exits", Ones, "client/src/path/select.rs", "NEAR_PERCENT"),
    ("6.21.9", "by {} silent CREATEs", Ones, "client/src/guard/silence.rs", "MOST_SILENT"),
    ("6.21.9", "silent CREATEs in {} s", Secs, "client/src/guard/silence.rs", "SILENT_TIME"),
    ("6.21.9", "has left {} CREATEs and more", Ones, "client/src/guard/silence.rs", "MOST_UNANSWERED"),
    ("6.21.9", "without CREATED for {} s", Secs, "client/src/guard/silence.rs", "LONGEST"),
    ("6.21.12", "At most {} KiB", KiB, "client/src/guard/persist.rs", "MAX_STATE_BYTES"),
    ("6.21.12", "and {} guards", Ones, "client/src/guard/persist.rs", "MAX_GUARDS"),
    ("6.21.13", "Beyond {} both", Ones, "client/src/guard/bias.rs", "SCALE_AT"),
    ("6.21.13", "From {} circuits on", Ones, "client/src/guard/bias.rs", "ENOUGH"),
    ("6.21.13", "fewer than {} % built there is a notice", Ones, "client/src/guard/bias.rs", "NOTICE_PERCENT"),
    ("6.21.13", "fewer than {} % a warning", Ones, "client/src/guard/bias.rs", "WARN_PERCENT"),
    ("6.21.13", "fewer than {} % is dropped", Ones, "client/src/guard/bias.rs", "EXTREME_PERCENT"),
    ("6.21.13", "more than {} guards", Ones, "client/src/guard/bias.rs", "MOST_DROPPED"),
    ("6.21.14", "1 to {}, in place", Ones, "client/src/path/rules.rs", "MOST_GUARDS"),
    ("6.22.7", "the last {} valid-afters", Ones, "relay/src/authority", "MAX_PROOF_PERIODS"),
    ("6.22.7", "at most {} KiB", KiB, "common/src/dir/vote/proof.rs", "MAX_PROOFS_BYTES"),
    ("7.2", "more than {} wait", Ones, "common/src/limits.rs", "CREATES_WAITING"),
    ("7.2", "may have {} circuits", Ones, "common/src/limits.rs", "CIRCUITS_PER_LINK"),
    ("7.10", "gives each hop {} s", Secs, "client/src/circuit/maker.rs", "HOP_TIMEOUT"),
    ("7.13", "{} clean circuits", Ones, "client/src/circuit/upkeep.rs", "READY_EACH"),
    ("7.13", "hour, {} in all", Ones, "client/src/circuit/upkeep.rs", "READY_MOST"),
    ("7.13", "Of the {} that may", Ones, "client/src/circuit/maker.rs", "MOST_BUILDS"),
    ("7.14", "s; {} s at first) it is given up", Secs, "client/src/circuit/timeout.rs", "LOST_UNLEARNT"),
    ("7.14", "and its answer, have {} s each", Secs, "client/src/circuit/maker.rs", "HOP_TIMEOUT"),
    ("7.14", "before {} are known", Ones, "client/src/circuit/timeout.rs", "ENOUGH"),
    ("7.14", "of at most {} the first", Ones, "client/src/circuit/race.rs", "SIDE_BY_SIDE"),
    ("7.14", "{} given up of the last", Ones, "client/src/circuit/timeout.rs", "TOO_MANY_TIMEOUTS"),
    ("7.14", "given up of the last {}", Ones, "client/src/circuit/timeout.rs", "RECENT"),
    ("7.15", "for {} s and two round", Secs, "client/src/circuit/liveness.rs", "OWED_SILENCE"),
    ("7.15", "or for {} s while streams", Secs, "client/src/circuit/liveness.rs", "IDLE_SILENCE"),
    ("7.16", "{} circuits and", Ones, "client/src/client.rs", "CONNECT_TRIES"),
    ("7.16", "and {} s at most", Secs, "client/src/client.rs", "CONNECT_TIMEOUT"),
    ("7.17", "A relay that {} others accuse", Ones, "client/src/circuit/health.rs", "ENOUGH_WORDS"),
    ("7.17", "leave out up to {} relays", Ones, "client/src/circuit/race.rs", "MOST_LEFT_OUT"),
    ("7.17", "paths for {} s", Secs, "client/src/circuit/health.rs", "FIRST_PENALTY"),
];

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of each rule, with single spaces for white space.
fn rules(document: &str) -> BTreeMap<String, String> {
    let is_rule = |word: &str| {
        let parts: Vec<_> = word.split('.').collect();
        (2..=3).contains(&parts.len()) && parts.iter().all(|part| part.parse::<u8>().is_ok())
    };
    let (mut rules, mut current) = (BTreeMap::<String, String>::new(), None);
    for line in document.lines() {
        match line.split(' ').next() {
            Some(word) if is_rule(word) => current = Some(word.to_owned()),
            Some(word) if word.starts_with('#') => current = None,
            _ => {}
        }
        if let Some(rule) = &current {
            let text = rules.entry(rule.clone()).or_default();
            for word in line.split_whitespace() {
                text.push_str(word);
                text.push(' ');
            }
        }
    }
    rules
}

/// A number as documents write it: digits, perhaps with commas between thousands, or a word up to ten.
fn number(text: &str) -> Option<u64> {
    const WORDS: [&str; 10] = [
        "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    ];
    let word = text.to_lowercase();
    let small = WORDS.iter().zip(1..).find(|(name, _)| **name == word);
    small
        .map(|(_, value)| value)
        .or_else(|| text.replace(',', "").parse().ok())
}

/// The figure that stands where `words` has `{}`.
fn figure(text: &str, words: &str) -> Option<u64> {
    let (before, after) = words.split_once("{}").unwrap();
    let starts = text.match_indices(before);
    let mut rests = starts.filter_map(|(at, _)| text.get(at + before.len()..));
    rests.find_map(|rest| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == ',';
        let figure = rest.split(|c| !is_part(c)).next()?.trim_end_matches(',');
        let fits = rest.strip_prefix(figure)?.starts_with(after);
        number(figure).filter(|_| fits)
    })
}

/// The source files of a room, or the one file.
fn sources(place: &str) -> Vec<PathBuf> {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join(place);
    if whole.is_file() {
        return vec![place.into()];
    }
    let files = fs::read_dir(whole).unwrap();
    let paths = files.map(|file| file.unwrap().file_name());
    let paths = paths.map(|name| Path::new(place).join(name));
    paths
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
        .collect()
}

/// The value of a constant that is one number, a product or shift of numbers, a duration, or another constant's value.
fn value(text: &str, name: &str) -> Option<u64> {
    let (_, rest) = text.split_once(&format!("const {name}: "))?;
    let (_, rest) = rest.split_once(" = ")?;
    let (expression, _) = rest.split_once(';')?;
    let within = |call: &str| expression.strip_prefix(call)?.strip_suffix(')');
    if let Some(secs) = within("Duration::from_secs(") {
        return product(secs).map(|secs| secs * 1_000);
    }
    if let Some(ms) = within("Duration::from_millis(") {
        return product(ms);
    }
    product(expression).or_else(|| {
        let is_name = |word: &str| word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        let words = expression.split(" / ").filter(|word| is_name(word));
        let mut named = words.filter(|word| *word != name);
        let home = named.next()?;
        constant("common/src/dir/consensus", home)
    })
}

fn product(expression: &str) -> Option<u64> {
    if let Some((base, bits)) = expression.split_once(" << ") {
        return Some(product(base)? << product(bits)?);
    }
    let factors = expression.split(" * ");
    let numbers = factors.map(|factor| factor.replace('_', "").parse::<u64>().ok());
    numbers.product()
}

/// The value of the one constant of this name in a file or room.
fn constant(place: &str, name: &str) -> Option<u64> {
    let mut values: Vec<_> = sources(place)
        .iter()
        .filter_map(|path| value(&read(path), name))
        .collect();
    values.dedup();
    match values[..] {
        [value] => Some(value),
        _ => None,
    }
}

#[test]
fn the_figures_of_the_protocol_are_those_of_the_code() {
    let rules = rules(&read("docs/protocol.md"));
    let mut objections = Vec::new();
    for (rule, words, unit, place, name) in ROWS {
        let text = rules.get(*rule).map_or("", String::as_str);
        let said = figure(text, words).map(|figure| figure * unit.size());
        let is = constant(place, name);
        if said.is_none() || is.is_none() || said != is {
            objections.push(format!(
                "{rule} says {words:?} {said:?}, {place} {name} is {is:?}"
            ));
        }
    }
    assert!(objections.is_empty(), "\n{}", objections.join("\n"));
}

/// The table of rule 6.5.4 lists each parameter of the network, with its default and its bounds.
#[test]
fn the_parameters_of_the_protocol_are_those_of_the_code() {
    let document = read("docs/protocol.md");
    let row = |line: &str| -> Option<(String, [u32; 3])> {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, name, default, least, most, _, _] = cells[..] else {
            return None;
        };
        let name = name.strip_prefix('`')?.strip_suffix('`')?;
        let figures = [default, least, most].map(|figure| figure.parse().ok());
        let [Some(default), Some(least), Some(most)] = figures else {
            return None;
        };
        Some((name.to_owned(), [default, least, most]))
    };
    let said: BTreeMap<_, _> = document.lines().filter_map(row).collect();
    let known = Params::TABLE.iter();
    let known =
        known.map(|(name, default, least, most)| ((*name).to_owned(), [*default, *least, *most]));
    assert_eq!(said, known.collect::<BTreeMap<_, _>>());
}

#[test]
fn figures_are_read_as_people_read_them() {
    assert_eq!(
        figure("at most 4,096 bytes, ", "at most {} bytes"),
        Some(4_096)
    );
    assert_eq!(figure("up to 3, then up to four. ", "up to {}."), Some(4));
    assert_eq!(figure("up to many. ", "up to {}."), None);
    assert_eq!(value("const A: usize = 8 << 20;", "A"), Some(8 << 20));
    assert_eq!(value("const A: u64 = 14 * 86_400;", "A"), Some(14 * 86_400));
    let wait = "const WAIT: Duration = Duration::from_millis(1_500);";
    assert_eq!(value(wait, "WAIT"), Some(1_500));
    assert_eq!(value(wait, "OTHER"), None);
}
