//! Logs: one place decides which events go where.
//!
//! Cepa's libraries emit events and never choose. What may stand in an event is their matter: no client address,
//! destination or key at info or above (S34). The libraries of others make no such promise: one that asks name servers
//! warns with the name of a question, for each forged answer. So they are heard only where the filter names them.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

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

/// Why the configuration's filter does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overruled {
    /// The command line has one.
    #[error("the option --log goes before it")]
    CommandLine,
    /// The environment has one.
    #[error("the environment variable RUST_LOG goes before it")]
    Environment,
    /// Nothing is logged.
    #[error("this process keeps no log")]
    NoLog,
}

/// Sets another filter.
type SetFilter = Box<dyn Fn(EnvFilter) + Send + Sync>;

/// What sets another filter for the log of this process, or why the configuration's does not count.
static FILTER: OnceLock<Result<SetFilter, Overruled>> = OnceLock::new();

/// Sets another filter, which is the configuration's.
///
/// # Errors
/// [`Overruled`]: another filter counts.
pub fn set_filter(filter: EnvFilter) -> Result<(), Overruled> {
    match FILTER.get() {
        Some(Ok(set)) => {
            set(filter);
            Ok(())
        }
        Some(Err(why)) => Err(*why),
        None => Err(Overruled::NoLog),
    }
}

/// Sends events that pass `filter` to `sink`, from now to the end of the process.
///
/// `filter` is a level (`info`) or a list such as `info,cepa_relay::exit=debug`. The first of these that is there
/// counts: the command line's, the environment variable `RUST_LOG`, the configuration's.
pub fn init(command_line: Option<&str>, configured: &str, sink: &Sink) -> Result<(), LogError> {
    let environment = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.is_empty());
    let overruled = match (command_line, &environment) {
        (Some(_), _) => Some(Overruled::CommandLine),
        (None, Some(_)) => Some(Overruled::Environment),
        (None, None) => None,
    };
    let filter = command_line
        .or(environment.as_deref())
        .unwrap_or(configured);
    let filter = parse_filter(filter)?;
    let (writer, is_coloured) = match sink {
        Sink::Stderr => (BoxMakeWriter::new(io::stderr), is_terminal()),
        Sink::File(path) => (BoxMakeWriter::new(Mutex::new(open(path)?)), false),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Such errors would go to standard error, and cause a panic if standard error is what cannot be written.
        .log_internal_errors(false)
        .with_timer(SystemTime)
        .with_writer(writer)
        .with_ansi(is_coloured)
        .with_filter_reloading();
    let handle = builder.reload_handle();
    // The log is gone if this fails, and nobody would hear of it.
    let set: SetFilter = Box::new(move |filter| drop(handle.reload(filter)));
    let done = builder.try_init();
    done.map_err(|_| LogError::Twice)?;
    let _ = FILTER.set(overruled.map_or(Ok(set), Err));
    Ok(())
}

/// What the names of Cepa's own libraries begin with.
const OURS: &str = "cepa";

/// The filter that `text` describes. A level alone is that of what Cepa itself says.
pub fn parse_filter(text: &str) -> Result<EnvFilter, LogError> {
    let ours = text.split(',').map(|part| match part.trim() {
        level if level.parse::<LevelFilter>().is_ok() => format!("{OURS}={level}"),
        other => other.to_owned(),
    });
    EnvFilter::try_new(ours.collect::<Vec<_>>().join(",")).map_err(|error| LogError::Filter {
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
        for (text, filter) in [
            ("info", "cepa=info"),
            ("off", "cepa=off"),
            ("warn, hickory_net=debug", "cepa=warn hickory_net=debug"),
        ] {
            let parsed = parse_filter(text).unwrap().to_string();
            let mut parts: Vec<_> = parsed.split(',').collect();
            parts.sort_unstable();
            assert_eq!(parts.join(" "), filter);
        }
        let error = parse_filter("cepa=loud").unwrap_err().to_string();
        assert!(error.contains("`cepa=loud`"), "{error}");
    }

    #[derive(Clone, Default)]
    struct Written(std::sync::Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// S34: a library that asks name servers warns with the names that clients ask for.
    #[test]
    fn other_libraries_are_heard_only_by_name() {
        for (filter, hears) in [
            ("info", false),
            ("trace", false),
            ("info,hickory_net=warn", true),
        ] {
            let written = Written::default();
            let writer = written.clone();
            let log = tracing_subscriber::fmt()
                .with_env_filter(parse_filter(filter).unwrap())
                .with_writer(move || writer.clone())
                .finish();
            tracing::subscriber::with_default(log, || {
                tracing::warn!(target: "hickory_net::udp", "forged answer about secret.example");
                tracing::info!(target: "cepa_relay::exit", "ours");
                tracing::info!(target: "cepa::node", "ours too");
            });
            let said = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            assert_eq!(said.contains("secret.example"), hears, "{filter}: {said}");
            assert!(said.contains("ours") && said.contains("ours too"), "{said}");
        }
    }
}
