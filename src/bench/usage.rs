//! What processes have used, as Linux says it in `/proc`. On other systems nothing is known.

use std::collections::BTreeMap;
use std::time::Instant;

use cepa_common::world::steady;

/// The process ids of each role: `client`, `relay`, `authority`, `plain`, or `all` if there is one process.
pub(super) type Roles = BTreeMap<String, Vec<u32>>;

/// Processor seconds that each role has used so far. Roles about which nothing is known are left out.
pub(super) fn processor_seconds(roles: &Roles) -> BTreeMap<String, f64> {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let of = |pids: &Vec<u32>| {
        let used: Option<Vec<u64>> = pids.iter().map(|pid| processor_ticks(*pid)).collect();
        Some(used?.iter().sum::<u64>() as f64 / ticks)
    };
    let known = roles
        .iter()
        .filter_map(|(role, pids)| Some((role.clone(), of(pids)?)));
    known.collect()
}

fn processor_ticks(pid: u32) -> Option<u64> {
    ticks_in(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The sum of utime and stime in `/proc/PID/stat`, fields 14 and 15. The name before them may hold any character.
fn ticks_in(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// What the machine's processors have done, to see later how busy other processes kept them.
pub(super) struct Machine {
    at: Instant,
    /// Processor seconds of all processes, and those that a host of this machine took away.
    all: f64,
    /// Processor seconds of the bench's own processes.
    own: f64,
}

impl Machine {
    /// Reads how things stand; `None` where the system does not tell. The bench's own processes are `roles` and this
    /// one.
    pub(super) fn look(roles: &Roles) -> Option<Self> {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let mut own: Vec<u32> = roles.values().flatten().copied().collect();
        own.push(std::process::id());
        own.sort_unstable();
        own.dedup();
        let own: Option<Vec<u64>> = own.into_iter().map(processor_ticks).collect();
        Some(Self {
            at: steady::now(),
            all: taken_in(&stat)? as f64 / ticks,
            own: own?.iter().sum::<u64>() as f64 / ticks,
        })
    }

    /// The share of this machine's `processors`, from 0 to 1, that other processes have used since.
    pub(super) fn others(&self, roles: &Roles, processors: usize) -> Option<f64> {
        let now = Self::look(roles)?;
        let seconds = now.at.duration_since(self.at).as_secs_f64() * processors as f64;
        let others = (now.all - self.all) - (now.own - self.own);
        (seconds > 0.0).then(|| (others / seconds).clamp(0.0, 1.0))
    }
}

/// The ticks in the first line of `/proc/stat` that processes have used, or that were stolen: user, nice, system, steal.
/// Interrupts are left out, as the kernel may count them as the process's too.
fn taken_in(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    [0, 1, 2, 7]
        .into_iter()
        .map(|field| fields.get(field))
        .sum::<Option<u64>>()
}

/// Memory of a process (KiB).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Memory {
    /// Resident memory, with shared pages counted whole.
    pub(super) rss: f64,
    /// The most memory that was ever resident.
    pub(super) peak: f64,
    /// Resident memory, with each shared page divided among the processes that share it.
    pub(super) pss: f64,
}

/// The memory of each of `pids` about which it is known.
pub(super) fn memory(pids: &[u32]) -> Vec<Memory> {
    pids.iter().filter_map(|pid| memory_of(*pid)).collect()
}

fn memory_of(pid: u32) -> Option<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let rss = field(&status, "VmRSS:")?;
    Some(Memory {
        rss,
        peak: field(&status, "VmHWM:")?,
        // Not every kernel allows this to be read.
        pss: field(&rollup, "Pss:").unwrap_or(rss),
    })
}

fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks_in(stat), Some(42));
        assert_eq!(ticks_in("7 (a"), None);
        assert_eq!(field("Name: x\nVmRSS:\t  64 kB\n", "VmRSS:"), Some(64.0));
    }

    #[test]
    fn interrupts_and_idle_time_are_not_what_others_took() {
        let stat = "cpu  10 20 30 1000 5 7 8 40 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0";
        assert_eq!(taken_in(stat), Some(100));
        assert_eq!(taken_in("cpu  1 2"), None);
        assert_eq!(taken_in("intr 1"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_something() {
        let memory = memory(&[std::process::id()]);
        assert!(memory[0].rss > 100.0 && memory[0].peak >= memory[0].pss / 2.0);
    }
}
