//! What the program says to whoever started it, and what it hears of them.
//!
//! [`output`] writes results, news and progress, [`error`] is how a command fails, [`logging`] decides where events go,
//! and [`stop`] hears requests to stop.

mod error;
pub(crate) mod logging;
pub(crate) mod output;
mod progress;
pub(crate) mod stop;

pub(crate) use error::{CliError, FAILED, NETWORK, USAGE};
pub(crate) use progress::Progress;
