//! Which flags an authority votes for (docs/protocol.md, 6.17). This file is pure: the flags follow from what the
//! authority knows about all relays that run.

use cepa_common::dir::{Flags, Params};

use super::history::Standing;

/// What the authority knows about one relay that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    /// Flags that the relay is willing to have.
    pub(super) offers: Flags,
    /// Does the relay's exit policy allow any destination?
    pub(super) exits: bool,
    /// Does the relay belong to an authority?
    pub(super) is_authority: bool,
    /// Does the authority's operator allow the relay in the middle of paths only?
    pub(super) middle_only: bool,
    /// What the relay carries (KiB a second).
    pub(super) weight: u32,
    /// How long and how reliably the relay has been up.
    pub(super) standing: Standing,
}

/// The bars that a relay must reach to be stable, fast and so on, in the network as it is now.
///
/// Each bar is the lower of two figures: one that is enough in any network, and one that a part of the relays reach. So
/// a network has stable relays, fast relays and guards from its first day on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bars {
    stable_mtbf_secs: u64,
    familiar_age_ms: u64,
    uptime_permille: u64,
    fast_weight: u32,
    guard_weight: u32,
}

/// The value that all but `part` eighths of `values` reach.
fn reached_but_by<T: Ord + Copy + Default>(values: impl Iterator<Item = T>, part: usize) -> T {
    let mut values: Vec<T> = values.collect();
    let index = values.len() * part / 8;
    if index >= values.len() {
        return T::default();
    }
    *values.select_nth_unstable(index).1
}

/// The weights that are enough in a network where relays of these weights run: for a relay that is fast, and for a
/// guard.
pub(crate) fn weight_bars(
    weights: impl Iterator<Item = u32> + Clone,
    params: &Params,
) -> (u32, u32) {
    (
        reached_but_by(weights.clone(), 1).min(params.fast_min_weight),
        reached_but_by(weights, 6).min(params.guard_min_weight),
    )
}

impl Bars {
    /// The bars for a network of these relays.
    pub(super) fn among(running: &[Running], params: &Params) -> Self {
        let standing = |of: fn(&Standing) -> u64, part| {
            reached_but_by(running.iter().map(|relay| of(&relay.standing)), part)
        };
        let (fast_weight, guard_weight) = weight_bars(running.iter().map(|r| r.weight), params);
        let secs = u64::from;
        Self {
            stable_mtbf_secs: standing(|s| s.mtbf_secs, 4).min(secs(params.stable_mtbf_seconds)),
            familiar_age_ms: standing(|s| s.age_ms, 1)
                .min(secs(params.guard_min_age_seconds) * 1_000),
            uptime_permille: standing(|s| s.uptime_permille, 4)
                .min(secs(params.guard_uptime_permille)),
            fast_weight,
            guard_weight,
        }
    }

    /// The flags of one of these relays.
    pub(super) fn flags(&self, relay: &Running, params: &Params) -> Flags {
        let standing = &relay.standing;
        let is_fast = relay.weight >= self.fast_weight;
        let is_stable = standing.mtbf_secs >= self.stable_mtbf_secs;
        let is_guard = relay.offers.contains(Flags::GUARD)
            && is_fast
            && is_stable
            && standing.age_ms >= self.familiar_age_ms
            && standing.uptime_permille >= self.uptime_permille
            && relay.weight >= self.guard_weight;
        let is_hsdir = relay.offers.contains(Flags::HSDIR)
            && standing.uptime_secs >= u64::from(params.hsdir_min_uptime_seconds);
        let is_meeting = relay.offers.contains(Flags::MEET) && is_fast && is_stable;
        let anywhere = !relay.middle_only;
        (Flags::VALID | Flags::RUNNING)
            .with_if(Flags::FAST, is_fast)
            .with_if(Flags::STABLE, is_stable)
            .with_if(Flags::GUARD, anywhere && is_guard)
            .with_if(Flags::EXIT, anywhere && relay.exits)
            .with_if(Flags::HSDIR, anywhere && is_hsdir)
            .with_if(Flags::MEET, anywhere && is_meeting)
            .with_if(Flags::AUTHORITY, relay.is_authority)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;

    fn relay(weight: u32, age_secs: u64) -> Running {
        Running {
            offers: Flags::GUARD | Flags::HSDIR,
            exits: true,
            is_authority: false,
            middle_only: false,
            weight,
            standing: Standing {
                age_ms: age_secs * 1_000,
                uptime_secs: age_secs,
                mtbf_secs: age_secs,
                uptime_permille: 1_000,
            },
        }
    }

    fn flags_of(running: &[Running]) -> Vec<Flags> {
        let params = Params::default();
        let bars = Bars::among(running, &params);
        running
            .iter()
            .map(|relay| bars.flags(relay, &params))
            .collect()
    }

    const BASE: Flags = Flags::VALID;

    #[test]
    fn a_lone_and_a_young_network_have_guards() {
        let all = BASE | Flags::RUNNING | Flags::FAST | Flags::STABLE | Flags::GUARD | Flags::EXIT;
        assert_eq!(flags_of(&[relay(1, 0)]), [all]);
        let young: Vec<_> = (1..=8).map(|n| relay(50 * n, HOUR)).collect();
        let guards = flags_of(&young)
            .into_iter()
            .filter(|flags| flags.contains(Flags::GUARD));
        assert_eq!(guards.count(), 2);
        assert_eq!(flags_of(&[]), []);
    }

    #[test]
    fn each_condition_alone_keeps_a_relay_from_being_a_guard() {
        let day = 24 * HOUR;
        let mut running: Vec<_> = (0..16).map(|_| relay(5_000, 100 * day)).collect();
        let is_guard = |running: &[Running]| flags_of(running)[0].contains(Flags::GUARD);
        assert!(is_guard(&running));
        let edits: [fn(&mut Running); 6] = [
            |relay| relay.offers = Flags::HSDIR,
            |relay| relay.middle_only = true,
            |relay| relay.standing.age_ms = 1,
            |relay| relay.standing.mtbf_secs = 1,
            |relay| relay.standing.uptime_permille = 979,
            |relay| relay.weight = 1_999,
        ];
        for (n, edit) in edits.into_iter().enumerate() {
            let good = running[0];
            edit(&mut running[0]);
            assert!(!is_guard(&running), "edit {n}");
            running[0] = good;
        }
        // A figure that is enough in any network is enough even if the other relays have more.
        running[0] = relay(2_000, 8 * day);
        running[0].standing.uptime_permille = 980;
        assert!(is_guard(&running));
    }

    #[test]
    fn fast_stable_and_hsdir() {
        let day = 24 * HOUR;
        let mut running: Vec<_> = (0..16).map(|_| relay(5_000, 100 * day)).collect();
        running[0] = relay(99, 3 * day);
        let flags = flags_of(&running)[0];
        assert_eq!(flags, BASE | Flags::RUNNING | Flags::EXIT);
        running[0] = relay(100, 7 * day);
        let flags = flags_of(&running)[0];
        assert!(flags.contains(Flags::FAST) && flags.contains(Flags::STABLE));
        assert!(flags.contains(Flags::HSDIR) && !flags.contains(Flags::GUARD));
        running[0].standing.uptime_secs = 4 * day - 1;
        assert!(!flags_of(&running)[0].contains(Flags::HSDIR));
        running[0].middle_only = true;
        running[0].standing.uptime_secs = 4 * day;
        let flags = flags_of(&running)[0];
        assert!(!flags.contains(Flags::HSDIR) && !flags.contains(Flags::EXIT));
    }
}
