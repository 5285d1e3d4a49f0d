//! Who may use a port that asks for a user and a password.
//!
//! The user of a request may go on behind a plus sign: what follows opens nothing and keeps streams apart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cepa_common::dir::Site;
use cepa_common::sync::lock;
use cepa_common::world::steady;
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use super::connector::Origin;
use super::target::Credentials;

/// The longest user or password (bytes): what SOCKS 5 can say (RFC 1929).
const MOST_BYTES: usize = 255;
/// The shortest password (bytes). At [`ALL_FAILURES`] a second, 12 letters that were drawn at random are not guessed.
const LEAST_PASSWORD: usize = 12;
/// The most users.
const MOST_USERS: usize = 1_024;
/// Wrong passwords in a [`WINDOW`] after which an address is refused without a look at its password.
const FAILURES: u32 = 3;
/// The same for all addresses together.
const ALL_FAILURES: u32 = 30;
/// The time over which wrong passwords are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// A text of a length that does not show in how long it takes to compare it: the length, the bytes, and zeroes.
type Padded = Zeroizing<[u8; MOST_BYTES + 1]>;

fn padded(text: &[u8]) -> Option<Padded> {
    let mut padded = Zeroizing::new([0; MOST_BYTES + 1]);
    padded[0] = u8::try_from(text.len()).ok()?;
    padded[1..=text.len()].copy_from_slice(text);
    Some(padded)
}

/// A file of users cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct GateError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// The users of a port, and how many wrong passwords there were of late.
pub struct Gate {
    users: Vec<(Padded, Padded)>,
    failures: Mutex<Failures>,
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
        let mut users = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let wrong = |what| GateError {
                line: number + 1,
                what,
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
                what: "there is no user; write a line such as anna:PASSWORD",
            }),
            false => Ok(Self {
                users,
                failures: Mutex::default(),
            }),
        }
    }

    /// May whoever comes from `origin` with these credentials use the port? Who has been wrong too often is not judged.
    fn admits(&self, origin: Origin, credentials: &Credentials, now: Instant) -> bool {
        let mut failures = lock(&self.failures);
        if failures.are_too_many(origin, now) {
            return false;
        }
        let is_right = self.knows(credentials);
        if !is_right {
            failures.count(origin);
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

/// Wrong passwords of the present window. Only who was judged is in it, so it is bounded by [`ALL_FAILURES`].
#[derive(Default)]
struct Failures {
    since: Option<Instant>,
    all: u32,
    of: HashMap<Party, u32>,
}

impl Failures {
    fn are_too_many(&mut self, origin: Origin, now: Instant) -> bool {
        if self.since.is_none_or(|since| now >= since + WINDOW) {
            *self = Self {
                since: Some(now),
                ..Self::default()
            };
        }
        let of = self.of.get(&Party::of(origin)).copied();
        self.all >= ALL_FAILURES || of.unwrap_or_default() >= FAILURES
    }

    fn count(&mut self, origin: Origin) {
        self.all += 1;
        *self.of.entry(Party::of(origin)).or_default() += 1;
    }
}

/// Who is counted as one: an address, a subnet of IPv6, or a user of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Party {
    Site(Site),
    Uid(u32),
}

impl Party {
    fn of(origin: Origin) -> Self {
        match origin {
            Origin::Ip(ip) => Self::Site(Site::of(ip)),
            Origin::Uid(uid) => Self::Uid(uid),
        }
    }
}

/// A gate, before one connection.
#[derive(Clone, Debug)]
pub struct Guard {
    gate: Arc<Gate>,
    origin: Origin,
}

impl Guard {
    /// The gate `gate` before a connection from `origin`.
    pub fn new(gate: Arc<Gate>, origin: Origin) -> Self {
        Self { gate, origin }
    }

    /// May the connection be used with these credentials?
    pub(super) fn admits(&self, credentials: Option<&Credentials>) -> bool {
        credentials.is_some_and(|given| self.gate.admits(self.origin, given, steady::now()))
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
        // Many addresses together have no more guesses than that.
        let later = start + 2 * WINDOW;
        for n in 0..ALL_FAILURES {
            assert!(!gate.admits(Origin::Uid(n), &wrong, later));
        }
        assert!(!gate.admits(ip("192.0.2.1"), &right, later));
        assert!(gate.admits(ip("192.0.2.1"), &right, later + WINDOW));
    }
}
