//! What the program says to whoever started it, and what it hears of them: results and errors, logs, requests to stop.

pub(crate) mod logging;
pub(crate) mod output;
pub(crate) mod stop;
