//! What every command may need: its log, threads to run on, the network that it asks, the time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, Args};
use tokio::runtime;

use crate::config::{self, Config, Flags};
use crate::terminal::CliError;
use crate::terminal::logging::{self, Sink};

/// What every command may need.
pub(crate) struct Context {
    /// The filter of `--log`.
    log: Option<String>,
}

impl Context {
    /// A context with the filter of `--log`.
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
    #[command(flatten)]
    flags: Flags<config::Network>,
}

impl NetworkArg {
    /// The network's file.
    pub(super) fn file(&self) -> &Path {
        &self.flags.settings.file
    }
}

impl Context {
    /// Logs to standard error at `level`, unless `--log` or RUST_LOG asks for something else.
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

    /// The filter of `--log`, to be handed to other processes.
    pub(crate) fn filter(&self) -> Option<&str> {
        self.log.as_deref()
    }
}

/// Runs `future` to its end on as many threads as `threads` says. Zero stands for one thread to a processor.
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
    // What is left by now has been stopped or holds nothing that matters. But work that still writes a file would put
    // the file into a directory that is about to be removed.
    runtime.shutdown_timeout(LEFTOVERS);
    done
}

/// How long work that was left behind may still write.
const LEFTOVERS: Duration = Duration::from_secs(2);

/// The key of the state directory, whose default depends on the role.
pub(super) const STATE: &str = "state.dir";

/// The flag for the state directory, with the default of the role.
pub(super) fn of_role(flag: Arg, role: &str) -> Arg {
    let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
    let usual = format!("[default: {}]", config::State::default().dir.display());
    flag.help(help.replace(&usual, &format!("[default: ~/.local/state/cepa/{role}]")))
}

/// The section `[state]` that flags make for a node of the role.
pub(super) fn state_of_role(
    flags: Flags<config::State>,
    role: &str,
) -> Result<config::State, CliError> {
    let given = flags.has(STATE).then(|| flags.settings.dir.clone());
    Ok(config::State {
        dir: state_dir(given, role)?,
        ..flags.settings
    })
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
