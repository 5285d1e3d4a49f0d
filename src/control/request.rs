//! What is asked on the control socket (docs/control.md): the text alone, without a socket.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The one version that there is.
pub(crate) const VERSION: u32 = 1;
/// Longest request (bytes).
pub(crate) const MAX_REQUEST_BYTES: usize = 4 * 1024;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Command {
    /// How the client does.
    Status,
    /// Retire all circuits.
    NewIdentity,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    version: u32,
    command: Command,
}

/// The request as it is sent.
pub(crate) fn line(command: Command) -> String {
    let request = serde_json::json!(Request {
        version: VERSION,
        command,
    });
    format!("{request}\n")
}

/// The command of a request, or what is wrong with it.
pub(crate) fn parse(line: &[u8]) -> Result<Command, &'static str> {
    if line.len() > MAX_REQUEST_BYTES {
        return Err("the request is too long");
    }
    let Some(line) = line.strip_suffix(b"\n") else {
        return Err("the request has no end");
    };
    let value: Value = serde_json::from_slice(line).map_err(|_| "the request is not JSON")?;
    // The version before the rest, which may look different in another.
    if value.get("version").and_then(Value::as_u64) != Some(u64::from(VERSION)) {
        return Err("this program speaks version 1");
    }
    let request: Request = serde_json::from_value(value)
        .map_err(|_| "the request names no command that is known, or more than one")?;
    Ok(request.command)
}
