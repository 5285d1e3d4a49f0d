//! What the process asks of the operating system before it does anything else.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

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

/// Raises the limit on open files as far as the system lets everybody: each link takes a file, and so does each stream
/// at an exit (S39).
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_dumps_are_off_and_stay_off() {
        no_core_dumps();
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
    }
}
