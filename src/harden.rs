//! What the process asks of the operating system before it does anything else.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// The environment variable by which a developer lets a debugger in. It is no setting: no file can say it.
pub const LET_DEBUGGERS_IN: &str = "CEPA_DUMPABLE";

/// Switches core dumps off: a core file would hold every key in memory (S36).
pub fn no_core_dumps() {
    // If the system refuses, this process is no worse off than before, and there is no log yet.
    let _ = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
}

/// Keeps other programs of the user out of this process's memory, where every key is: they can neither attach to the
/// process nor read its files under `/proc` (S36). With `CEPA_DUMPABLE=1` in the environment they can.
pub fn no_debuggers() {
    if std::env::var_os(LET_DEBUGGERS_IN).is_none_or(|value| value != "1") {
        // If the system refuses, this process is no worse off than before, and there is no log yet.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// The limit on open files before [`raise_file_limit`].
static FILES_BEFORE: std::sync::OnceLock<Rlimit> = std::sync::OnceLock::new();

/// Raises the limit on open files as far as the system lets everybody: each link takes a file, and so does each stream
/// at an exit (S39).
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = FILES_BEFORE.set(limit);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

/// Puts the limit on open files back: a command that is no part of Cepa gets it from this process, and some close as
/// many files as there may be.
pub fn lower_file_limit() {
    if let Some(limit) = FILES_BEFORE.get() {
        let _ = setrlimit(Resource::Nofile, *limit);
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn debuggers_are_kept_out_and_the_process_can_still_look_at_itself() {
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable));
        no_debuggers();
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
        // What this program reads of itself.
        assert!(std::fs::read_to_string("/proc/self/status").is_ok());
        assert!(std::env::current_exe().is_ok());
    }

    #[test]
    fn core_dumps_are_off_and_stay_off() {
        no_core_dumps();
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
    }
}
