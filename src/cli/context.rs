//! What every command may need: its log, threads to run on, the network that it asks, the time.

use std::path::PathBuf;

use clap::Args;
use tokio::runtime;

use crate::config::Config;
use crate::terminal::CliError;
use crate::terminal::logging::{self, Sink};

/// What every command may need.
pub(crate) struct Context {
    /// `--log`.
    log: Option<String>,
}

impl Context {
    /// With the filter of `--log`.
    pub(super) fn new(log: Option<String>) -> Self {
        Self { log }
    }
}

/// The time, in seconds since 1970.
pub(crate) fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// Which network a command asks.
#[derive(Debug, Args)]
pub(crate) struct NetworkArg {
    /// The network's file. `cepa testnet` prints the path of its own.
    #[arg(long, value_name = "FILE", default_value = "network.toml")]
    pub(super) network: PathBuf,
}

impl Context {
    /// Logs to standard error, `quiet` unless `--log` or RUST_LOG asks for more.
    pub(crate) fn log_to_stderr(&self, level: &str) -> Result<(), CliError> {
        Ok(logging::init(self.log.as_deref(), level, &Sink::Stderr)?)
    }

    /// Logs as `config` says.
    pub(crate) fn log_as_configured(&self, config: &Config) -> Result<(), CliError> {
        let sink = config.log.file.clone().map_or(Sink::Stderr, Sink::File);
        Ok(logging::init(
            self.log.as_deref(),
            &config.log.level,
            &sink,
        )?)
    }

    /// Logs to the end of the file at `path`.
    pub(crate) fn log_to_file(&self, path: PathBuf, level: &str) -> Result<(), CliError> {
        Ok(logging::init(
            self.log.as_deref(),
            level,
            &Sink::File(path),
        )?)
    }

    /// `--log`, to be handed to other processes.
    pub(crate) fn filter(&self) -> Option<&str> {
        self.log.as_deref()
    }
}

/// Runs `future` to its end on as many threads as `threads` says, zero for one to a processor.
pub(crate) fn block_on<T>(
    threads: usize,
    future: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    // One thread needs no work stealing, which costs a tenth of the processor.
    let mut builder = match threads {
        1 => runtime::Builder::new_current_thread(),
        _ => runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build().map_err(|error| {
        CliError::failed(
            format!("cannot start threads: {error}"),
            "check the limits of this account",
        )
    })?;
    let done = runtime.block_on(future);
    // What is left by now has been stopped or holds nothing that matters.
    runtime.shutdown_background();
    done
}

/// `given`, or the user's directory for state.
pub(super) fn state_dir(given: Option<PathBuf>, role: &str) -> Result<PathBuf, CliError> {
    let var = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    given
        .or_else(|| var("XDG_STATE_HOME").map(|dir| dir.join("cepa").join(role)))
        .or_else(|| var("HOME").map(|dir| dir.join(".local/state/cepa").join(role)))
        .ok_or_else(|| {
            CliError::usage(
                "there is no home directory for the state",
                "name one with --state DIR",
            )
        })
}
