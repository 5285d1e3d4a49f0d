//! Network parameters: figures that a network's authorities can change without a new program (docs/protocol.md, 6.5).

use std::collections::BTreeMap;

use crate::dir::signed::DocError;
use crate::flow::vegas::VegasParams;

/// The parameter that authorities vote for by themselves: the revision of `network.toml` that they hold (6.3.11).
pub(in crate::dir) const NETWORK_REVISION: &str = "network_revision";
/// Length of the longest name of a parameter, in bytes.
pub(in crate::dir) const MAX_NAME_BYTES: usize = 48;
/// The most parameters in one document.
pub(in crate::dir) const MAX_PARAMS: usize = 256;

macro_rules! params {
    ($($(#[$doc:meta])* $name:ident: $default:expr, $min:expr, $max:expr;)*) => {
        /// Every parameter with its effective value: the voted one, or else that of `network.toml`, or else the
        /// default; within its bounds.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Params {
            $($(#[$doc])* pub $name: u32,)*
        }

        impl Default for Params {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Params {
            /// Name, default, lowest and highest value of each parameter.
            pub const TABLE: &'static [(&'static str, u32, u32, u32)] =
                &[$((stringify!($name), $default, $min, $max),)*];

            /// Sets one parameter, clamped to its bounds. Returns `false` for a name that this version does not know.
            pub fn set(&mut self, name: &str, value: u32) -> bool {
                match name {
                    $(stringify!($name) => self.$name = value.clamp($min, $max),)*
                    _ => return false,
                }
                true
            }

            /// Looks one parameter up by its name.
            pub fn get(&self, name: &str) -> Option<u32> {
                match name {
                    $(stringify!($name) => Some(self.$name),)*
                    _ => None,
                }
            }
        }
    };
}

params! {
    /// Cells in flight on a circuit and direction before acknowledgement, at most.
    circuit_window_cells: 2_048, 64, 16_384;
    /// Cells in flight on a circuit and direction before acknowledgement, at the start (5.16).
    cc_window_initial: 64, 8, 16_384;
    /// Cells in flight on a circuit and direction before acknowledgement, at least.
    cc_window_min: 32, 8, 16_384;
    /// With fewer cells queued than this on the way, a window grows (5.17).
    cc_alpha: 32, 1, 4_096;
    /// With more cells queued than this, a window shrinks.
    cc_beta: 64, 1, 4_096;
    /// With more cells queued than this, slow start ends (5.16).
    cc_gamma: 48, 1, 4_096;
    /// Cells that pass within this time do not count as queued (5.15; microseconds).
    cc_slack_us: 2_000, 0, 100_000;
    /// A sender puts MARK into every cell whose number is a multiple of this.
    mark_interval_cells: 32, 8, 1_024;
    /// Credit of a stream at its start (bytes).
    stream_window_bytes: 1 << 20, 16 << 10, 16 << 20;
    /// 1: no two relays of one /16 (IPv4) or /32 (IPv6) in a path; 0: off, for networks on one machine.
    subnet_rule: 1, 0, 1;
    /// 1: relays may have private and loopback addresses, for networks on one machine.
    allow_private_addresses: 0, 0, 1;
    /// A circuit takes no new stream after this time from its first use (seconds).
    circuit_max_dirty_seconds: 600, 10, 86_400;
    /// Links accepted from one IPv4 address or IPv6 /64; eight times as many from one IPv6 /48.
    max_links_per_address: 64, 4, 1 << 20;
    /// Cells queued on one circuit and direction before it is destroyed, beside its window.
    circuit_queue_cells: 256, 64, 1 << 16;
    /// Circuit handshakes that wait for one link.
    handshake_queue_per_link: 64, 4, 1 << 16;
    /// A circuit handshake that waited longer is dropped (milliseconds).
    handshake_max_wait_ms: 1_500, 100, 30_000;
    /// A circuit on which nothing came after CREATED expires (seconds).
    half_open_seconds: 10, 1, 120;
    /// Wait for the link of an EXTEND (seconds).
    extend_dial_seconds: 10, 1, 60;
    /// Time between consensuses (seconds).
    vote_interval_seconds: 3_600, 1, 86_400;
    /// A consensus is valid for this time from its valid-after (seconds).
    consensus_valid_seconds: 86_400, 60, 7 * 86_400;
    /// Clients without a newer consensus use a consensus for this time after its valid-until (seconds).
    consensus_grace_seconds: 86_400, 0, 86_400;
    /// An authority dials each relay this often (seconds).
    reachability_interval_seconds: 1_200, 1, 86_400;
    /// A descriptor older than this is not listed (seconds).
    descriptor_max_age_seconds: 64_800, 60, 7 * 86_400;
    /// A relay publishes its descriptor anew after this time (seconds).
    descriptor_interval_seconds: 21_600, 5, 86_400;
    /// Relays listed on one IPv4 address or IPv6 /64; eight times as many on one IPv6 /48.
    max_relays_per_address: 2, 1, 65_535;
    /// Relays that an authority lists at all.
    max_relays: 10_000, 16, 131_072;
    /// Cap of a weight that nobody measured (KiB a second).
    max_unmeasured_weight: 20_000, 1, u32::MAX;
    /// A relay is Fast from this weight on, however fast the others are (KiB a second).
    fast_min_weight: 100, 0, u32::MAX;
    /// A relay is Stable if it runs for this time between failures, however stable the others are (seconds).
    stable_mtbf_seconds: 7 * 86_400, 0, 90 * 86_400;
    /// A relay is familiar as soon as it is known for this time, however long the others are known (seconds).
    guard_min_age_seconds: 8 * 86_400, 0, 90 * 86_400;
    /// A relay makes a new onion key after this time (seconds).
    onion_key_rotation_seconds: 7 * 86_400, 10, 12 * 86_400;
    /// A Guard was up for this part of the time for which it is known, however much the others were up (thousandths).
    guard_uptime_permille: 980, 0, 1_000;
    /// A Guard has at least this weight, however fast the others are (KiB a second).
    guard_min_weight: 2_000, 0, u32::MAX;
    /// A relay is HSDir once it is up for this time without a break (seconds).
    hsdir_min_uptime_seconds: 345_600, 0, 30 * 86_400;
    /// An authority that takes measurements downloads through each relay this often (seconds).
    measure_interval_seconds: 10_800, 1, 7 * 86_400;
    /// Guards in a client's sample at most.
    guard_sample_max: 60, 5, 200;
    /// Usable guards that a client's sample should hold. The sample may hold this many whatever their weight.
    guard_sample_min: 20, 3, 60;
    /// A sample beyond its least size grows no further when it has this part of all guards' weight (percent).
    guard_sample_percent: 20, 1, 100;
    /// Primary guards of a client.
    guard_primaries: 3, 1, 10;
    /// Primary guards that a client's circuits begin at, of those that answer.
    guards_in_use: 1, 1, 5;
    /// Primary guards that circuits begin at which only fetch from the directory, of those that answer.
    directory_guards_in_use: 2, 1, 10;
    /// A guard that was never used leaves the sample this long after it came in (seconds).
    guard_unconfirmed_seconds: 120 * 86_400, 86_400, 1_826 * 86_400;
    /// A guard leaves the sample this long after its first use (seconds).
    guard_confirmed_seconds: 60 * 86_400, 86_400, 1_826 * 86_400;
    /// A guard leaves the sample once no consensus has listed it for this time (seconds).
    guard_unlisted_seconds: 20 * 86_400, 86_400, 1_826 * 86_400;
    /// First interval at which a primary guard that failed is tried again (seconds); later ones are multiples.
    guard_retry_seconds: 600, 1, 86_400;
    /// A circuit at a guard that is not primary waits this time for a better guard that is being tried (seconds).
    guard_wait_seconds: 15, 1, 300;
    /// If nothing is heard for this time, the network is taken to be down, and not the guards (seconds).
    network_down_seconds: 600, 10, 86_400;
    /// Streams that a relay carries of one circuit at once; one more is answered by `END(Resource)` (5.5).
    circuit_streams: 1_024, 16, 1_024;
    /// Streams and associations that a client may begin on a circuit at once (7.20).
    circuit_begins_burst: 1_024, 16, 1 << 16;
    /// Streams and associations that a client may begin on a circuit in a second, in the long run.
    circuit_begins_per_second: 64, 1, 1 << 16;
    /// Queries that a client may ask the exit's resolver on a circuit at once (5.40); more wait.
    circuit_queries_burst: 1_024, 16, 1 << 16;
    /// Queries that a client may ask on a circuit in a second, in the long run.
    circuit_queries_per_second: 64, 1, 1 << 16;
    /// Look-ups and dials that an exit has under way at once for one circuit (7.20); more wait.
    circuit_attempts: 32, 4, 128;
    /// Directory connections that a server answers at once; above it GET is answered with 503.
    directory_connections: 512, 8, 1 << 16;
    /// Directory requests of one address answered in a minute; as many at once after a quiet minute.
    directory_requests_per_minute: 60, 1, 1 << 20;
}

impl Params {
    /// The defaults, replaced where `pairs` has values. Of several values for one name the last counts; unknown names
    /// are passed over (6.5.3).
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut params = Self::default();
        for (name, value) in pairs {
            params.set(name, value);
        }
        params
    }
}

impl Params {
    /// How the window of a circuit moves, if the circuit's ends agreed on at most `most_cells` cells.
    pub fn congestion_control(&self, most_cells: u16) -> VegasParams {
        VegasParams {
            initial: self.cc_window_initial,
            min: self.cc_window_min,
            max: u32::from(most_cells),
            alpha: self.cc_alpha,
            beta: self.cc_beta,
            gamma: self.cc_gamma,
            slack_us: self.cc_slack_us,
        }
    }
}

/// Is this a name that a parameter can have?
pub(in crate::dir) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Checks the names and the number of parameters (6.5). The encoding has their order.
///
/// # Errors
/// [`DocError::Content`] for a name that no parameter can have, or too many parameters.
pub(in crate::dir) fn validate(pairs: &BTreeMap<String, u32>) -> Result<(), DocError> {
    if pairs.len() <= MAX_PARAMS && pairs.keys().all(|name| is_name(name)) {
        Ok(())
    } else {
        Err(DocError::Content("parameters are not valid"))
    }
}

/// Parameters of a network that trusts its relays at once, as one that has just begun must: no relay has any age yet.
pub const WITHOUT_AGES: [(&str, u32); 5] = [
    ("stable_mtbf_seconds", 0),
    ("guard_min_age_seconds", 0),
    ("guard_uptime_permille", 0),
    ("guard_min_weight", 0),
    ("hsdir_min_uptime_seconds", 0),
];

/// Parameters of a network on one machine: loopback addresses, a consensus every two seconds, no waiting for age.
///
/// A consensus stays valid for ten minutes, so that such a network outlives the loss of its authorities for a while.
pub fn local_network_params() -> BTreeMap<String, u32> {
    [
        ("subnet_rule", 0),
        ("allow_private_addresses", 1),
        ("max_relays_per_address", 65_535),
        ("max_links_per_address", 1 << 20),
        ("vote_interval_seconds", 2),
        ("consensus_valid_seconds", 600),
        ("reachability_interval_seconds", 4),
        ("descriptor_interval_seconds", 300),
        ("measure_interval_seconds", 10),
        ("guard_retry_seconds", 10),
        ("directory_requests_per_minute", 1 << 20),
    ]
    .into_iter()
    .chain(WITHOUT_AGES)
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_at_zero_and_maximum() {
        for (name, default, min, max) in Params::TABLE {
            assert!(min <= default && default <= max, "{name}");
            assert!(is_name(name));
            // The least and the greatest value that can be voted are brought within the bounds (S23).
            assert_eq!(Params::from_pairs([(*name, 0)]).get(name), Some(*min));
            assert_eq!(
                Params::from_pairs([(*name, u32::MAX)]).get(name),
                Some(*max)
            );
            assert_eq!(Params::default().get(name), Some(*default));
        }
    }

    #[test]
    fn unknown_names_are_passed_over() {
        assert_eq!(
            Params::from_pairs([("from_the_future", 9)]),
            Params::default()
        );
        assert_eq!(Params::default().get("from_the_future"), None);
    }

    #[test]
    fn local_parameters_exist_and_are_in_bounds() {
        for (name, value) in local_network_params() {
            assert_eq!(
                Params::from_pairs([(name.as_str(), value)]).get(&name),
                Some(value)
            );
        }
    }

    #[test]
    fn names() {
        let long = "a".repeat(49);
        for bad in ["", "A", "a b", "é", long.as_str()] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
