//! What is asked on the control socket (docs/control.md): the text alone, without a socket.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The one version that there is.
pub const VERSION: u32 = 1;
/// Longest request (bytes).
pub const MAX_REQUEST_BYTES: usize = 4 * 1024;

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// How the client does.
    Status,
    /// Retire all circuits.
    NewIdentity,
    /// Open a stream on a circuit of its own, and say where it came out.
    Reach {
        /// The destination, `host:port`; without one the exit's resolver, which is asked nothing.
        to: Option<String>,
    },
}

/// The commands by name.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Command {
    Status,
    NewIdentity,
    Reach,
}

/// The line of a request.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    version: u32,
    command: Command,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<String>,
}

/// The request as it is sent.
pub fn line(request: &ControlRequest) -> String {
    let (command, to) = match request {
        ControlRequest::Status => (Command::Status, None),
        ControlRequest::NewIdentity => (Command::NewIdentity, None),
        ControlRequest::Reach { to } => (Command::Reach, to.clone()),
    };
    let line = serde_json::json!(Line {
        version: VERSION,
        command,
        to,
    });
    format!("{line}\n")
}

/// What the line asks for.
///
/// # Errors
/// What is wrong with the line, in words for whoever sent it.
pub fn parse(line: &[u8]) -> Result<ControlRequest, &'static str> {
    if line.len() > MAX_REQUEST_BYTES {
        return Err("the request is too long");
    }
    let Some(line) = line.strip_suffix(b"\n") else {
        return Err("the request has no end");
    };
    let value: Value = serde_json::from_slice(line).map_err(|_| "the request is not JSON")?;
    // The version is read before the rest, which may look different in another version.
    if value.get("version").and_then(Value::as_u64) != Some(u64::from(VERSION)) {
        return Err("this program speaks version 1");
    }
    let line: Line = serde_json::from_value(value)
        .map_err(|_| "the request names no command that is known, or more than one")?;
    match (line.command, line.to) {
        (Command::Status, None) => Ok(ControlRequest::Status),
        (Command::NewIdentity, None) => Ok(ControlRequest::NewIdentity),
        (Command::Reach, to) => Ok(ControlRequest::Reach { to }),
        (Command::Status | Command::NewIdentity, Some(_)) => {
            Err("the command takes no destination")
        }
    }
}
