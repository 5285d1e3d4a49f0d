//! Who may use a port that asks for a user and a password.
//!
//! The user of a request may go on behind a plus sign: what follows opens nothing and keeps streams apart.

use core::hash::Hash;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cepa_common::sync::lock;
use cepa_common::world::steady;
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use super::connector::{Origin, Party};
use super::target::Credentials;
use super::threshold::Unproven;

/// The longest user or password (bytes): what SOCKS 5 can say (RFC 1929).
const MOST_BYTES: usize = 255;
/// The shortest password (bytes). At [`MOST_FAILURES`] a second, 12 letters that were drawn at random are not guessed.
const LEAST_PASSWORD: usize = 12;
/// The most users.
const MOST_USERS: usize = 1_024;
/// Wrong passwords in a [`WINDOW`] after which an address is refused without a look at its password.
const FAILURES: u32 = 3;
/// Wrong passwords of all addresses together in a [`WINDOW`] after which those are refused that were wrong of late.
const ALL_FAILURES: u32 = 30;
/// Those after which nobody's are looked at but of whoever was right of late: as many addresses belong to one attacker.
const MOST_FAILURES: u32 = 1_024;
/// The time over which wrong passwords are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// For how long it is remembered who was right, and who was wrong.
const MEMORY: Duration = Duration::from_secs(600);
/// How many are remembered of each.
const MOST_REMEMBERED: usize = 4_096;

/// A text of a length that does not show in how long it takes to compare it: the length, the bytes, and zeroes.
type Padded = Zeroizing<[u8; MOST_BYTES + 1]>;

fn padded(text: &[u8]) -> Option<Padded> {
    let mut padded = Zeroizing::new([0; MOST_BYTES + 1]);
    padded[0] = u8::try_from(text.len()).ok()?;
    padded[1..=text.len()].copy_from_slice(text);
    Some(padded)
}

/// A file of users cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct GateError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: Cow<'static, str>,
}

/// The users of a port, and how many wrong passwords there were of late.
pub struct Gate {
    users: Vec<(Padded, Padded)>,
    guesses: Mutex<Guesses>,
}

/// Debug output hides who may come in.
impl core::fmt::Debug for Gate {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    /// Reads users: a line `user:password` for each. Empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// [`GateError`] names the line that cannot be read.
    pub fn parse(text: &str) -> Result<Self, GateError> {
        let mut users: Vec<(Padded, Padded)> = Vec::new();
        let mut lines = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line_number = number + 1;
            let wrong = |what: &'static str| GateError {
                line: line_number,
                what: what.into(),
            };
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, password) = line
                .split_once(':')
                .ok_or_else(|| wrong("it takes a user, a colon and a password"))?;
            if user.is_empty() || user.contains('+') {
                return Err(wrong("a user has at least one character, and no plus sign"));
            }
            if password.len() < LEAST_PASSWORD {
                return Err(wrong(
                    "the password is shorter than 12 bytes and could be guessed",
                ));
            }
            if let Some(first) = lines.insert(user.to_owned(), line_number) {
                return Err(GateError {
                    line: line_number,
                    what: format!(
                        "line {first} has this user already; take out the one that is not meant"
                    )
                    .into(),
                });
            }
            let long = || wrong("a user and a password have at most 255 bytes each");
            let user = padded(user.as_bytes()).ok_or_else(long)?;
            users.push((user, padded(password.as_bytes()).ok_or_else(long)?));
            if users.len() > MOST_USERS {
                return Err(wrong("there are more than 1024 users"));
            }
        }
        match users.is_empty() {
            true => Err(GateError {
                line: 1,
                what: "there is no user; write a line such as anna:PASSWORD".into(),
            }),
            false => Ok(Self {
                users,
                guesses: Mutex::default(),
            }),
        }
    }

    /// May whoever comes from `origin` with these credentials use the port? Who has been wrong too often is not judged.
    fn admits(&self, origin: Origin, credentials: &Credentials, now: Instant) -> bool {
        let mut guesses = lock(&self.guesses);
        if !guesses.are_judged(origin, now) {
            return false;
        }
        let is_right = self.knows(credentials);
        match is_right {
            true => guesses.count_right(origin, now),
            false => guesses.count_wrong(origin, now),
        }
        is_right
    }

    /// Compares with every user, and takes as long for each answer.
    fn knows(&self, credentials: &Credentials) -> bool {
        let name = credentials.user.split(|&b| b == b'+').next();
        let (Some(user), Some(password)) = (name.and_then(padded), padded(&credentials.password))
        else {
            return false;
        };
        let is_right = self.users.iter().fold(Choice::from(0), |right, (u, p)| {
            right | (u.ct_eq(&*user) & p.ct_eq(&*password))
        });
        is_right.into()
    }
}

/// Who was wrong and who was right of late. Numbers are of the present window.
#[derive(Default)]
struct Guesses {
    since: Option<Instant>,
    all: u32,
    of: HashMap<Party, u32>,
    /// When each party was last wrong.
    wrong: HashMap<Party, Instant>,
    /// Whoever was right, with when that was last and how often wrong passwords have come from there.
    right: HashMap<Origin, (Instant, u32)>,
}

impl Guesses {
    /// Are the credentials of `origin` looked at?
    fn are_judged(&mut self, origin: Origin, now: Instant) -> bool {
        if self.since.is_none_or(|since| now >= since + WINDOW) {
            (self.since, self.all) = (Some(now), 0);
            self.of.clear();
            let is_young = |at: Instant| now.saturating_duration_since(at) < MEMORY;
            self.wrong.retain(|_, at| is_young(*at));
            self.right.retain(|_, (at, wrong)| {
                *wrong = 0;
                is_young(*at)
            });
        }
        // Neighbours that guess are no reason to refuse whoever has the password.
        if let Some((_, wrong)) = self.right.get(&origin) {
            return *wrong < FAILURES;
        }
        let party = Party::of(origin);
        let of_party = self.of.get(&party).copied().unwrap_or_default();
        let is_slowed = self.all >= ALL_FAILURES && self.wrong.contains_key(&party);
        of_party < FAILURES && !is_slowed && self.all < MOST_FAILURES
    }

    fn count_wrong(&mut self, origin: Origin, now: Instant) {
        self.all += 1;
        if let Some((_, wrong)) = self.right.get_mut(&origin) {
            *wrong += 1;
        }
        let party = Party::of(origin);
        *self.of.entry(party).or_default() += 1;
        make_room(&mut self.wrong, |at| *at);
        self.wrong.insert(party, now);
    }

    fn count_right(&mut self, origin: Origin, now: Instant) {
        let wrong = self.right.get(&origin).map(|(_, wrong)| *wrong);
        make_room(&mut self.right, |(at, _)| *at);
        self.right.insert(origin, (now, wrong.unwrap_or_default()));
    }
}

/// Removes the oldest of too many.
fn make_room<K: Copy + Eq + Hash, V>(held: &mut HashMap<K, V>, at: impl Fn(&V) -> Instant) {
    if held.len() < MOST_REMEMBERED {
        return;
    }
    let oldest = held.iter().min_by_key(|(_, held)| at(held));
    if let Some(oldest) = oldest.map(|(key, _)| *key) {
        held.remove(&oldest);
    }
}

/// A gate, before one connection.
#[derive(Clone)]
pub struct Guard {
    gate: Arc<Gate>,
    origin: Origin,
    /// Holds the connection's place among those that have shown no password, until it shows one.
    unproven: Arc<Mutex<Option<Unproven>>>,
}

/// Debug output hides who may come in.
impl core::fmt::Debug for Guard {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

impl Guard {
    /// The gate `gate` before a connection from `origin`.
    pub fn new(gate: Arc<Gate>, origin: Origin) -> Self {
        Self {
            gate,
            origin,
            unproven: Arc::default(),
        }
    }

    /// Keeps `unproven` until the connection has shown a password.
    pub(super) fn until_proven(self, unproven: Unproven) -> Self {
        *lock(&self.unproven) = Some(unproven);
        self
    }

    /// May the connection be used with these credentials?
    pub(super) fn admits(&self, credentials: Option<&Credentials>) -> bool {
        let is_admitted =
            credentials.is_some_and(|given| self.gate.admits(self.origin, given, steady::now()));
        if is_admitted {
            lock(&self.unproven).take();
        }
        is_admitted
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const USERS: &str = "# who may\nanna:correct horse\n\nbert:battery:staple\n";

    fn given(user: &str, password: &str) -> Credentials {
        Credentials {
            user: user.into(),
            password: password.into(),
        }
    }

    #[test]
    fn only_who_is_named_comes_in() {
        let gate = Gate::parse(USERS).unwrap();
        for (user, password, is_right) in [
            ("anna", "correct horse", true),
            ("anna+web", "correct horse", true),
            ("bert+", "battery:staple", true),
            ("anna", "battery:staple", false),
            ("anna", "correct hors", false),
            ("anna", "correct horse\0", false),
            ("ann", "correct horse", false),
            ("", "", false),
            ("carl", "correct horse", false),
        ] {
            assert_eq!(gate.knows(&given(user, password)), is_right, "{user}");
        }
        let long = "x".repeat(300);
        assert!(!gate.knows(&given("anna", &long)) && !gate.knows(&given(&long, "x")));
    }

    #[test]
    fn a_file_that_opens_to_anybody_is_refused() {
        for (text, line) in [
            ("", 1),
            ("# nobody\n", 1),
            ("anna\n", 1),
            ("anna:correct horse\n:correct horse\n", 2),
            ("a+b:correct horse\n", 1),
            ("anna:short\n", 1),
            ("anna:correct horse\n\nanna:battery staple\n", 3),
        ] {
            assert_eq!(Gate::parse(text).unwrap_err().line, line, "{text}");
        }
        let long = format!("anna:{}\n", "x".repeat(256));
        assert!(Gate::parse(&long).is_err());
    }

    #[test]
    fn who_guesses_is_not_listened_to_and_others_are() {
        let gate = Gate::parse(USERS).unwrap();
        let start = steady::now();
        let (right, wrong) = (given("anna", "correct horse"), given("anna", "x"));
        let ip = |text: &str| Origin::Ip(text.parse().unwrap());
        let guesser = ip("2001:db8::1");
        for _ in 0..FAILURES {
            assert!(gate.admits(guesser, &right, start), "not yet");
            assert!(!gate.admits(guesser, &wrong, start));
        }
        // His whole network is meant, and nobody else.
        assert!(!gate.admits(ip("2001:db8::2:3"), &right, start));
        assert!(gate.admits(ip("2001:db8:0:1::1"), &right, start));
        assert!(gate.admits(guesser, &right, start + WINDOW));
        // Neighbours do not shut out whoever was right.
        let neighbour = ip("2001:db8::99");
        let later = start + 2 * WINDOW;
        for _ in 0..10 * FAILURES {
            assert!(!gate.admits(neighbour, &wrong, later));
        }
        assert!(
            !gate.admits(ip("2001:db8::1:1"), &right, later),
            "not yet known"
        );
        assert!(gate.admits(guesser, &right, later));
    }

    #[test]
    fn many_who_guess_shut_out_themselves_and_not_who_has_the_password() {
        let gate = Gate::parse(USERS).unwrap();
        let start = steady::now();
        let (right, wrong) = (given("anna", "correct horse"), given("anna", "x"));
        let ip = |n: u32| Origin::Ip(std::net::Ipv4Addr::from_bits(n).into());
        for n in 0..ALL_FAILURES {
            assert!(!gate.admits(ip(n), &wrong, start));
        }
        assert!(
            gate.admits(ip(1_000), &right, start),
            "an address of its own"
        );
        assert!(!gate.admits(ip(0), &right, start), "one that has guessed");
        assert!(gate.admits(ip(0), &right, start + WINDOW));
        // So many addresses are one attacker's. Who was right of late gets in all the same.
        let later = start + 2 * WINDOW;
        for n in 0..2 * MOST_FAILURES {
            assert!(!gate.admits(ip(10_000 + n), &wrong, later));
        }
        assert!(!gate.admits(ip(1_001), &right, later));
        assert!(gate.admits(ip(1_000), &right, later));
        assert_eq!(lock(&gate.guesses).all, MOST_FAILURES);
        // What is remembered of them is bounded, and not for long.
        for round in 3..10 {
            for n in 0..MOST_FAILURES {
                gate.admits(ip(round * 100_000 + n), &wrong, start + round * WINDOW);
            }
            assert!(lock(&gate.guesses).wrong.len() <= MOST_REMEMBERED);
        }
        gate.admits(ip(1), &wrong, start + 2 * MEMORY);
        assert_eq!(lock(&gate.guesses).wrong.len(), 1);
    }
}
