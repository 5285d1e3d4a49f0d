//! What users do: the jobs of a client, the hosts that its streams go to, and the check of every byte on both ends.
//!
//! A stream begins with a request of 32 bytes: its key, how many bytes go up, how many come down, and how often, each a
//! number of 8 bytes in network order. Byte i of each direction is a function of the key, the direction and i, so both
//! ends know what they must read. The server ends its direction after the last byte of the last turn.

use core::time::Duration;

use crate::scenario::LoadKind;
use crate::seed::Dice;

/// Number of bytes of a request.
pub(crate) const REQUEST_BYTES: usize = 32;

/// One stream in this many is broken off by its server.
const BROKEN: u64 = 16;

/// Does the server of the stream with this key reset the connection in the middle of its last answer?
pub(crate) fn breaks_off(key: u64) -> bool {
    key.is_multiple_of(BROKEN)
}

/// What a user does once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// When the user begins.
    pub at: Duration,
    /// Number of the server.
    pub server: u32,
    /// What is asked for.
    pub kind: JobKind,
    /// Number of streams at the same time.
    pub streams: u32,
    /// Bytes up in each turn.
    pub up: u64,
    /// Bytes down in each turn.
    pub down: u64,
    /// Number of turns of a stream.
    pub turns: u32,
    /// The wait between two turns.
    pub pause: Duration,
    /// What the bytes follow from.
    pub key: u64,
}

/// The kinds of jobs, which reports tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobKind {
    /// A page: several streams, each of some ten kilobytes.
    Page,
    /// A conversation.
    Chat,
    /// A file that comes.
    Download,
    /// A file that goes.
    Upload,
    /// Many streams whose bytes nobody reads.
    Stall,
    /// A small page at the end of the run, which every client must get.
    Last,
}

impl JobKind {
    /// The kind's name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Chat => "chat",
            Self::Download => "download",
            Self::Upload => "upload",
            Self::Stall => "stall",
            Self::Last => "last",
        }
    }
}

/// The time between two jobs, on average.
pub(crate) fn pause_between(kind: JobKind) -> Duration {
    Duration::from_secs(match kind {
        JobKind::Page => 30,
        JobKind::Chat => 120,
        JobKind::Download | JobKind::Upload => 90,
        JobKind::Stall => 20,
        JobKind::Last => 0,
    })
}

/// All jobs of one client.
pub(crate) fn jobs(
    load: LoadKind,
    servers: u32,
    starts: Duration,
    lasts: Duration,
    dice: &mut Dice,
) -> Vec<Job> {
    let kinds = [
        JobKind::Page,
        JobKind::Chat,
        JobKind::Download,
        JobKind::Upload,
    ];
    let kind = match load {
        LoadKind::Idle => return Vec::new(),
        LoadKind::Browse => JobKind::Page,
        LoadKind::Chat => JobKind::Chat,
        LoadKind::Download => JobKind::Download,
        LoadKind::Upload => JobKind::Upload,
        LoadKind::Stall => JobKind::Stall,
        LoadKind::Mixed => dice.one_of(&kinds).copied().unwrap_or(JobKind::Page),
    };
    let mut jobs = Vec::new();
    let mut at = starts;
    loop {
        at += dice.wait(pause_between(kind)).max(Duration::from_millis(1));
        if at >= lasts {
            return jobs;
        }
        jobs.push(job(kind, at, servers, dice));
    }
}

/// A job of some kind.
pub(crate) fn job(kind: JobKind, at: Duration, servers: u32, dice: &mut Dice) -> Job {
    let server = u32::try_from(dice.number(0, u64::from(servers.max(1) - 1))).unwrap_or(0);
    let none = Job {
        at,
        server,
        kind,
        streams: 1,
        up: 0,
        down: 0,
        turns: 1,
        pause: Duration::ZERO,
        key: dice.number(0, u64::MAX),
    };
    match kind {
        JobKind::Page => Job {
            streams: u32::try_from(dice.number(1, 6)).unwrap_or(1),
            up: dice.size(100, 2_000),
            down: dice.size(500, 200_000),
            ..none
        },
        JobKind::Chat => Job {
            up: dice.size(1, 600),
            down: dice.size(1, 600),
            turns: u32::try_from(dice.number(2, 20)).unwrap_or(2),
            pause: dice.wait(Duration::from_secs(8)),
            ..none
        },
        JobKind::Download => Job {
            up: dice.size(1, 500),
            down: dice.size(100_000, 4_000_000),
            ..none
        },
        JobKind::Upload => Job {
            up: dice.size(100_000, 2_000_000),
            down: dice.size(1, 500),
            ..none
        },
        JobKind::Stall => Job {
            streams: 100,
            down: 4_000_000,
            pause: Duration::from_secs(120),
            ..none
        },
        JobKind::Last => Job {
            up: 100,
            down: 3_000,
            // The last page says whether the network works, so its server does.
            key: none.key | 1,
            ..none
        },
    }
}

/// A request as it is sent.
pub(crate) fn request(key: u64, up: u64, down: u64, turns: u32) -> [u8; REQUEST_BYTES] {
    let mut request = [0; REQUEST_BYTES];
    let numbers = [key, up, down, u64::from(turns)];
    for (place, number) in request.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    request
}

/// The four numbers of a request.
pub(crate) fn read_request(request: &[u8; REQUEST_BYTES]) -> [u64; 4] {
    let mut numbers = [0; 4];
    for (number, bytes) in numbers.iter_mut().zip(request.chunks_exact(8)) {
        let mut eight = [0; 8];
        eight.copy_from_slice(bytes);
        *number = u64::from_be_bytes(eight);
    }
    numbers
}

/// The bytes of one direction of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    key: u64,
    next: u64,
}

impl Pattern {
    /// The bytes that follow from `key` upwards or downwards.
    pub(crate) fn new(key: u64, is_up: bool) -> Self {
        let way = if is_up { 0x5bd1_e995_97f4_a7c5 } else { 0 };
        Self {
            key: key ^ way,
            next: 0,
        }
    }

    fn byte(&self, place: u64) -> u8 {
        // splitmix64 of the word that the byte is in.
        let mut word = self
            .key
            .wrapping_add((place / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bytes = (word ^ (word >> 31)).to_be_bytes();
        bytes[usize::try_from(place % 8).unwrap_or(0)]
    }

    /// How many bytes have been given or checked.
    pub(crate) fn place(&self) -> u64 {
        self.next
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        let from = self.next;
        self.next += u64::try_from(count).unwrap_or(u64::MAX);
        (from..self.next).map(|place| self.byte(place)).collect()
    }

    /// Are `bytes` the next ones?
    pub(crate) fn check(&mut self, bytes: &[u8]) -> bool {
        let right = (self.next..)
            .zip(bytes)
            .all(|(place, byte)| self.byte(place) == *byte);
        self.next += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    #[test]
    fn both_ends_know_the_bytes_and_notice_one_that_is_wrong() {
        let (mut sent, mut read) = (Pattern::new(7, true), Pattern::new(7, true));
        let bytes = sent.take(1_000);
        assert!(read.check(&bytes[..333]) && read.check(&bytes[333..]));
        let mut wrong = sent.take(100);
        wrong[57] ^= 1;
        assert!(!read.check(&wrong));
        assert_ne!(
            Pattern::new(7, true).take(64),
            Pattern::new(7, false).take(64)
        );
        // A byte that is left out is noticed too.
        assert!(!Pattern::new(7, true).check(&bytes[1..]));
    }

    #[test]
    fn a_request_reads_as_it_was_written() {
        assert_eq!(read_request(&request(1, 2, 3, 4)), [1, 2, 3, 4]);
    }

    #[test]
    fn jobs_are_within_the_run() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let mut dice = Seed(1).dice("jobs", &[]);
        let jobs = jobs(LoadKind::Browse, 2, minutes(3), minutes(60), &mut dice);
        assert!((70..200).contains(&jobs.len()), "{}", jobs.len());
        assert!(
            jobs.iter()
                .all(|job| job.at > minutes(3) && job.at < minutes(60) && job.server < 2)
        );
    }
}
