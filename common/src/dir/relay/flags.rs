//! What the authorities say about a relay, as a set of bits.

use core::fmt;
use core::ops::BitOr;

use serde::{Deserialize, Serialize};

/// A set of flags (u16; bits 9 to 15 are zero and refused otherwise).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flags(u16);

/// Each flag with its name for people.
const NAMES: [(Flags, &str); 9] = [
    (Flags::VALID, "Valid"),
    (Flags::RUNNING, "Running"),
    (Flags::STABLE, "Stable"),
    (Flags::FAST, "Fast"),
    (Flags::GUARD, "Guard"),
    (Flags::EXIT, "Exit"),
    (Flags::HSDIR, "HSDir"),
    (Flags::AUTHORITY, "Authority"),
    (Flags::MEET, "Meet"),
];

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The authorities accept the relay.
    pub const VALID: Self = Self(1);
    /// The relay answered when an authority last dialled it.
    pub const RUNNING: Self = Self(1 << 1);
    /// The relay stays up long enough for long-lived streams.
    pub const STABLE: Self = Self(1 << 2);
    /// The relay has bandwidth to spare.
    pub const FAST: Self = Self(1 << 3);
    /// The relay is fit to be a client's first hop.
    pub const GUARD: Self = Self(1 << 4);
    /// The relay lets some traffic out of the network.
    pub const EXIT: Self = Self(1 << 5);
    /// The relay stores descriptors of onion services.
    pub const HSDIR: Self = Self(1 << 6);
    /// The relay is a directory authority.
    pub const AUTHORITY: Self = Self(1 << 7);
    /// The relay is fit to be introduction and rendezvous point of onion services.
    pub const MEET: Self = Self(1 << 8);

    /// All flags that this version knows.
    pub const KNOWN: Self = Self(0x1ff);

    /// Does the set have all flags of `other`?
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Is every flag one that this version knows?
    pub fn is_known(self) -> bool {
        Self::KNOWN.contains(self)
    }

    /// The single flags that can be in a set, in order of their bits.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(flag, _)| *flag)
    }

    /// This set and `other` together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set, with `other` added if `condition` holds.
    #[must_use]
    pub fn with_if(self, other: Self, condition: bool) -> Self {
        if condition { self | other } else { self }
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (flag, name) in NAMES {
            if self.contains(flag) {
                write!(f, "{separator}{name}")?;
                separator = " ";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_and_names() {
        let set = Flags::VALID | Flags::EXIT;
        assert!(set.contains(Flags::EXIT) && !set.contains(Flags::GUARD));
        assert_eq!(set.to_string(), "Valid Exit");
        assert!(set.is_known() && !Flags(512).is_known());
        assert_eq!(Flags::all().fold(Flags::NONE, Flags::bitor), Flags::KNOWN);
        assert_eq!(set.with_if(Flags::FAST, false), set);
    }
}
