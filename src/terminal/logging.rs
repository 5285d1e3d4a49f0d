//! Logs: one place decides which events go where.
//!
//! Libraries emit events and never choose. What may stand in an event is their matter: no client address, destination
//! or key at info or above (S34).

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

/// Where events go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Standard error, in colour if it is a terminal.
    Stderr,
    /// The end of a file, created with mode 0600.
    File(PathBuf),
}

/// The logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The text of the filter is no filter.
    #[error("cannot read the log filter `{filter}`: {reason}")]
    Filter {
        /// The filter as it was given.
        filter: String,
        /// The parser's complaint.
        reason: String,
    },
    /// The file cannot be written.
    #[error("cannot open the log file {}: {source}", path.display())]
    File {
        /// The log file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Logs were set up before.
    #[error("logs were already set up")]
    Twice,
}

/// Sends events that pass `filter` to `sink`, from now to the end of the process.
///
/// `filter` is a level (`info`) or a list such as `info,cepa_relay::exit=debug`. The first of these that is there
/// counts: the command line's, the environment variable `RUST_LOG`, the configuration's.
pub fn init(command_line: Option<&str>, configured: &str, sink: &Sink) -> Result<(), LogError> {
    let environment = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.is_empty());
    let filter = command_line
        .or(environment.as_deref())
        .unwrap_or(configured);
    let filter = parse_filter(filter)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Such errors would go to standard error, and cause a panic if standard error is what cannot be written.
        .log_internal_errors(false)
        .with_timer(SystemTime);
    let done = match sink {
        Sink::Stderr => builder
            .with_writer(io::stderr)
            .with_ansi(is_terminal())
            .try_init(),
        Sink::File(path) => {
            let file = open(path)?;
            builder
                .with_writer(Mutex::new(file))
                .with_ansi(false)
                .try_init()
        }
    };
    done.map_err(|_| LogError::Twice)
}

/// The filter that `text` describes.
pub fn parse_filter(text: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(text).map_err(|error| LogError::Filter {
        filter: text.to_owned(),
        reason: error.to_string(),
    })
}

/// The file at `path`, opened for writing at its end and closed to other users.
pub fn open(path: &Path) -> Result<std::fs::File, LogError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| LogError::File {
            path: path.to_owned(),
            source,
        })
}

fn is_terminal() -> bool {
    use std::io::IsTerminal;
    io::stderr().is_terminal()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_and_lists() {
        for good in ["info", "off", "warn,cepa_relay::exit=debug"] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        let error = parse_filter("cepa=loud").unwrap_err().to_string();
        assert!(error.contains("`cepa=loud`"), "{error}");
    }
}
