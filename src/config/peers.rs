//! The owner's lists of relays for each position of a path: nine keys of `[client]`, one type.

use cepa_client::path::{ListKind, PeerLists, Position};

use super::bounds::Bounds;
use super::section::{Changes, Key, Walk};

/// The owner's lists of relays, for each position of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Lists for first hops.
    pub entry: PeerLists,
    /// Lists for middle hops.
    pub middle: PeerLists,
    /// Lists for exits.
    pub exit: PeerLists,
}

/// The most items of a list. Each item is compared with each relay of each consensus.
const MOST_PEERS: u64 = 1_024;

/// What the keys of all lists have in common.
const LIST: Key = Key {
    path: "",
    says: "",
    docs: "",
    example: "",
    kind: "list of peers",
    flag: "",
    heading: "Lists of relays",
    unset: "",
    bounds: Some(Bounds {
        least: 0,
        most: MOST_PEERS,
        unit: "items",
        zero: "",
    }),
    is_number: false,
    changes: Changes::AtOnce,
};

/// The keys of the lists, in the order of [`Position::ALL`] and [`ListKind::ALL`].
macro_rules! keys {
    ($($position:literal $relays:literal,)*) => {
        &[$(
            Key {
                path: concat!("client.", $position, "_only"),
                says: concat!("Use only these as ", $relays, "; all if the list is empty."),
                example: r#"["192.0.2.0/24"]"#,
                flag: concat!("--", $position, "-only PEER"),
                ..LIST
            },
            Key {
                path: concat!("client.", $position, "_prefer"),
                says: concat!("Prefer these as ", $relays, ": each counts as if it carried eight times as much."),
                example: r#"["2001:db8::/32"]"#,
                flag: concat!("--", $position, "-prefer PEER"),
                ..LIST
            },
            Key {
                path: concat!("client.", $position, "_avoid"),
                says: concat!("Never use these as ", $relays, ", whatever the other lists say."),
                example: r#"["192.0.2.7"]"#,
                flag: concat!("--", $position, "-avoid PEER"),
                ..LIST
            },
        )*]
    };
}

impl Peers {
    /// The keys of all lists.
    pub(super) const KEYS: &'static [Key] = keys! {
        "entry" "first hops",
        "middle" "middle hops",
        "exit" "exits",
    };

    /// Shows `walk` every list with its key.
    pub(super) fn walk(&mut self, walk: &mut impl Walk) {
        let mut keys = Self::KEYS.iter();
        for position in Position::ALL {
            for kind in ListKind::ALL {
                if let Some(key) = keys.next() {
                    walk.value(key, self.at_mut(position).list_mut(kind));
                }
            }
        }
    }

    /// The lists of a position, to change them.
    pub fn at_mut(&mut self, position: Position) -> &mut PeerLists {
        match position {
            Position::Entry => &mut self.entry,
            Position::Middle => &mut self.middle,
            Position::Exit => &mut self.exit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_stand_in_the_order_of_the_lists() {
        let names = Position::ALL
            .into_iter()
            .flat_map(|at| ListKind::ALL.map(|kind| format!("client.{}_{}", at.key(), kind.key())));
        let keys: Vec<_> = Peers::KEYS.iter().map(|key| key.path.to_owned()).collect();
        assert_eq!(keys, names.collect::<Vec<_>>());
    }
}
