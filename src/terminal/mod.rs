//! What the program says to whoever started it, and what it hears from there.
//!
//! [`output`] writes results, news and progress, [`error`] is how a command fails, [`logging`] decides where events go,
//! and [`stop`] hears requests to stop.

mod error;
pub mod logging;
pub(crate) mod output;
mod progress;
pub mod stop;

pub use error::{CliError, FAILED, NETWORK, USAGE};
pub use progress::Progress;
