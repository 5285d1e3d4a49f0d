//! The ports of a rule of an exit policy, and lists of ports that have a name (docs/protocol.md, 6.4.1; the lists and
//! their reasons stand in docs/config.md).

use core::fmt;

use super::summary::PortRange;

/// The most ports, ranges and names in one rule.
const MAX_ITEMS: usize = 64;

const ALL_PORTS: PortRange = PortRange {
    low: 1,
    high: u16::MAX,
};

/// Ports that have a name together, so that rules need not name each.
#[derive(Debug, PartialEq, Eq)]
pub struct PortList {
    /// The name: small letters and hyphens.
    pub name: &'static str,
    /// The ports, in order.
    pub ranges: &'static [PortRange],
}

const fn ports(low: u16, high: u16) -> PortRange {
    PortRange { low, high }
}

const fn port(port: u16) -> PortRange {
    ports(port, port)
}

/// The name of the list that also is a rule by itself.
pub(super) const REDUCED: &str = "reduced";

/// Every list. A list that is split, or loses a port, changes what exits let out whose owners have written its name:
/// the change belongs into the release notes.
pub static PORT_LISTS: [PortList; 13] = [
    PortList {
        name: "web",
        ranges: &[
            port(80),
            port(443),
            port(8000),
            port(8008),
            port(8080),
            port(8443),
            port(8888),
        ],
    },
    PortList {
        name: "names",
        ranges: &[port(53), port(853)],
    },
    PortList {
        name: "time",
        ranges: &[port(123), port(4460)],
    },
    PortList {
        name: "mail-reading",
        ranges: &[port(110), port(143), port(993), port(995)],
    },
    PortList {
        name: "mail-submission",
        ranges: &[port(465), port(587)],
    },
    PortList {
        name: "shell",
        ranges: &[port(22)],
    },
    PortList {
        name: "files",
        ranges: &[ports(20, 21), port(873), ports(989, 990)],
    },
    PortList {
        name: "source",
        ranges: &[port(3690), port(9418)],
    },
    PortList {
        name: "chat",
        ranges: &[
            port(194),
            port(994),
            ports(5222, 5223),
            port(5228),
            ports(6660, 6669),
            port(6679),
            port(6697),
            port(64738),
        ],
    },
    PortList {
        name: "lookups",
        ranges: &[port(43), port(79), port(389), port(636), port(11371)],
    },
    PortList {
        name: "tunnels",
        ranges: &[port(1194), port(1723)],
    },
    PortList {
        name: "coins",
        ranges: &[
            ports(8232, 8233),
            ports(8332, 8333),
            port(9999),
            port(50002),
        ],
    },
    PortList {
        name: REDUCED,
        ranges: &[
            ports(20, 22),
            port(43),
            port(53),
            ports(79, 81),
            port(88),
            port(110),
            port(143),
            port(194),
            port(220),
            port(389),
            port(443),
            ports(464, 465),
            port(554),
            port(587),
            port(636),
            port(706),
            port(749),
            port(853),
            port(873),
            ports(989, 990),
            ports(993, 995),
            port(1194),
            port(1723),
            ports(2082, 2083),
            ports(2086, 2087),
            ports(2095, 2096),
            port(3690),
            ports(5222, 5223),
            port(5228),
            ports(6660, 6669),
            port(6679),
            port(6697),
            port(8000),
            port(8008),
            port(8080),
            port(8082),
            ports(8087, 8088),
            ports(8232, 8233),
            ports(8332, 8333),
            port(8443),
            port(8888),
            port(9418),
            ports(9999, 10000),
            port(11371),
            port(50002),
            port(64738),
        ],
    },
];

impl PortList {
    /// The list of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        PORT_LISTS.iter().find(|list| list.name == name)
    }
}

/// Why a text is no ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PortsError {
    /// Something is no port, range or name.
    Malformed,
    /// No list has this name.
    List(String),
    /// More than [`MAX_ITEMS`].
    TooMany,
}

/// The ports of a rule, as its owner wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports(Vec<Item>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Range(PortRange),
    List(&'static PortList),
}

impl Item {
    fn ranges(&self) -> &[PortRange] {
        match self {
            Self::Range(range) => core::slice::from_ref(range),
            Self::List(list) => list.ranges,
        }
    }
}

impl Ports {
    /// The ports in `text`, which are `*`, ports, ranges and names of lists, with commas between them.
    ///
    /// # Errors
    /// [`PortsError`] says what of the text is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, PortsError> {
        let mut items = Vec::new();
        for item in text.split(',').map(str::trim) {
            if items.len() == MAX_ITEMS {
                return Err(PortsError::TooMany);
            }
            let is_name = item.starts_with(|first: char| first.is_ascii_alphabetic());
            items.push(match (item, is_name) {
                ("*", _) => Item::Range(ALL_PORTS),
                (name, true) => {
                    let list = PortList::find(name);
                    Item::List(list.ok_or_else(|| PortsError::List(name.to_owned()))?)
                }
                (ports, false) => Item::Range(range(ports).ok_or(PortsError::Malformed)?),
            });
        }
        Ok(Self(items))
    }

    /// The ports of one list.
    pub(super) fn of_list(list: &'static PortList) -> Self {
        Self(vec![Item::List(list)])
    }

    /// These ranges.
    #[cfg(test)]
    pub(super) fn of_ranges(ranges: impl IntoIterator<Item = PortRange>) -> Self {
        Self(ranges.into_iter().map(Item::Range).collect())
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.ranges().any(|range| range.contains(port))
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = PortRange> {
        self.0.iter().flat_map(|item| item.ranges()).copied()
    }

    /// The lists that are named.
    pub(super) fn lists(&self) -> impl Iterator<Item = &'static PortList> {
        self.0.iter().filter_map(|item| match item {
            Item::List(list) => Some(*list),
            Item::Range(_) => None,
        })
    }

    /// Are these the ports of this one list, by its name?
    pub(super) fn is_list(&self, name: &str) -> bool {
        matches!(&self.0[..], [Item::List(list)] if list.name == name)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, item) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { "," })?;
            match item {
                Item::Range(ALL_PORTS) => f.write_str("*")?,
                Item::Range(PortRange { low, high }) if low == high => write!(f, "{low}")?,
                Item::Range(PortRange { low, high }) => write!(f, "{low}-{high}")?,
                Item::List(list) => f.write_str(list.name)?,
            }
        }
        Ok(())
    }
}

fn range(text: &str) -> Option<PortRange> {
    // A range such as 1-0 matches nothing and is surely a mistake, so it is refused and not ignored.
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    PortRange::new(number(low)?, number(high)?)
}

/// Reads a number of digits only, because `u16::from_str` would accept a plus sign.
pub(super) fn number(text: &str) -> Option<u16> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::super::summary::MAX_RANGES;
    use super::*;

    #[test]
    fn lists_have_names_that_rules_can_hold_and_ports_in_order() {
        for (n, list) in PORT_LISTS.iter().enumerate() {
            let is_letter = |b: u8| b.is_ascii_lowercase() || b == b'-';
            assert!(list.name.bytes().all(is_letter), "{}", list.name);
            assert!(
                list.name
                    .starts_with(|first: char| first.is_ascii_lowercase())
            );
            assert!(PORT_LISTS[..n].iter().all(|other| other.name != list.name));
            for range in list.ranges {
                assert!(range.low > 0 && range.low <= range.high, "{}", list.name);
            }
            // With a gap between each two, so that a summary says all of them.
            let apart = |pair: &[PortRange]| pair[0].high + 1 < pair[1].low;
            assert!(list.ranges.windows(2).all(apart), "{}", list.name);
            assert!(list.ranges.len() <= MAX_RANGES, "{}", list.name);
        }
    }

    #[test]
    fn what_draws_abuse_is_in_no_list() {
        let abused = [
            ports(23, 23),
            ports(25, 25),
            ports(119, 119),
            ports(135, 139),
            ports(445, 445),
            ports(563, 563),
            ports(1214, 1214),
            ports(3389, 3389),
            ports(4661, 4666),
            ports(5900, 5900),
            ports(6346, 6429),
            ports(6699, 6699),
            ports(6881, 6999),
        ];
        for list in &PORT_LISTS {
            for range in list.ranges {
                let meets = |other: &PortRange| range.low <= other.high && other.low <= range.high;
                assert!(!abused.iter().any(meets), "{}: {range:?}", list.name);
            }
        }
    }

    #[test]
    fn reduced_has_what_the_other_lists_of_streams_have() {
        let reduced = PortList::find(REDUCED).map(Ports::of_list);
        for list in PORT_LISTS.iter().filter(|list| list.name != "time") {
            for range in list.ranges {
                let mut ports = range.low..=range.high;
                let has = |port| reduced.as_ref().is_some_and(|all| all.contains(port));
                assert!(ports.all(has), "{}: {range:?}", list.name);
            }
        }
    }
}
