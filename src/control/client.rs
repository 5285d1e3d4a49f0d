//! Asks a node that runs, by its control socket: what every command of this program uses.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::answer::{ErrorAnswer, NewIdentity, Reach, Reached, Status};
use super::router::LONGEST_WORK;
use super::socket::{ControlError, socket_path};
use crate::node::Report;

/// Longest answer that is taken (bytes).
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// A node that does nothing but look at itself answers within this time.
const LOOK: Duration = Duration::from_secs(10);

/// A node was not asked, or has not done what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No node listens there.
    #[error("no node runs with the state directory {}", .0.display())]
    NobodyThere(PathBuf),
    /// The system does not let this user open the socket, or the node does not speak with this user.
    #[error("the node with the state directory {} is another user's", .0.display())]
    AnotherUsers(PathBuf),
    /// The path of the control socket cannot be used.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A node listens there, and says nothing.
    #[error("a node runs with the state directory {}, and gave no answer in time", .0.display())]
    Silent(PathBuf),
    /// A node listens there, and has closed the connection before it answered.
    #[error("the node with the state directory {} closed the connection before it answered", .0.display())]
    Closed(PathBuf),
    /// What came back is no HTTP, or another answer than was asked for.
    #[error(
        "the answer of the node with the state directory {} cannot be read: it is of another version than this program",
        .0.display()
    )]
    OtherVersion(PathBuf),
    /// The node has not done it.
    #[error("{what}")]
    Refused {
        /// Which error this is (docs/control.md).
        code: String,
        /// What went wrong.
        what: String,
        /// What to try.
        hint: String,
    },
    /// The exchange broke.
    #[error("the node did not answer: {0}")]
    Io(#[from] io::Error),
}

impl AskError {
    /// What to try.
    pub fn hint(&self) -> &str {
        match self {
            Self::NobodyThere(_) => {
                "start one (`cepa proxy` is a client, `cepa relay` a relay), or name the directory of one that runs \
                 with --state DIR"
            }
            Self::AnotherUsers(_) => {
                "ask as that user, or as root (sudo -u USER cepa status --state DIR)"
            }
            Self::Control(_) => "start the node with a shorter --state DIR",
            Self::Silent(_) => {
                "its log may say why; if it does not come round, end it and start it anew"
            }
            Self::Closed(_) => "ask again: it may be stopping, or be asked by very many at once",
            Self::OtherVersion(_) => "end the node, and start it anew with this program",
            Self::Refused { hint, .. } => hint,
            Self::Io(_) => "look at the node's log",
        }
    }
}

/// Does a node run with the state directory `dir`? This waits for nobody: a node that is stopped is there too.
pub fn is_there(dir: &Path) -> bool {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let connected = || {
        let address = SocketAddrUnix::new(socket_path(dir).ok()?).ok()?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
        Some(connect(&socket, &address))
    };
    // Who listens and has as many waiting as may wait says to try again.
    matches!(connected(), Some(Ok(()) | Err(Errno::AGAIN)))
}

/// Asks the node with one state directory. Each question blocks; it is not for asynchronous code.
///
/// ```no_run
/// # fn main() -> Result<(), cepa::control::AskError> {
/// let node = cepa::control::ControlClient::of("/home/u/.local/state/cepa/client".as_ref())?;
/// let status = node.status()?;
/// println!("since {}", status.started);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ControlClient {
    dir: PathBuf,
    socket: PathBuf,
}

impl ControlClient {
    /// Asks the node with the state directory `dir`.
    ///
    /// # Errors
    /// The path of the socket is too long for the system.
    pub fn of(dir: &Path) -> Result<Self, AskError> {
        Ok(Self {
            dir: dir.to_owned(),
            socket: socket_path(dir)?,
        })
    }

    /// How the node does.
    ///
    /// # Errors
    /// [`AskError`]
    pub fn status(&self) -> Result<Status, AskError> {
        self.read(&self.status_text()?)
    }

    /// How the node does, as it says it.
    ///
    /// # Errors
    /// [`AskError`]
    pub fn status_text(&self) -> Result<String, AskError> {
        self.exchange(Method::GET, "/v1/status", &(), LOOK)
    }

    /// Has the node read its configuration again. A file that is refused is no error: the report says so.
    ///
    /// # Errors
    /// [`AskError`]
    pub fn reload(&self) -> Result<Report, AskError> {
        self.read(&self.exchange(Method::POST, "/v1/reload", &(), LOOK)?)
    }

    /// Retires all circuits of the client.
    ///
    /// # Errors
    /// [`AskError`]
    pub fn new_identity(&self) -> Result<NewIdentity, AskError> {
        self.read(&self.exchange(Method::POST, "/v1/identity", &(), LOOK)?)
    }

    /// Has the client open a stream to `to`, `host:port`, or to the exit's resolver. Blocks for a minute at most.
    ///
    /// # Errors
    /// [`AskError`]
    pub fn reach(&self, to: Option<&str>) -> Result<Reached, AskError> {
        let wanted = Reach {
            to: to.map(str::to_owned),
        };
        let wait = LONGEST_WORK + LOOK;
        self.read(&self.exchange(Method::POST, "/v1/reach", &wanted, wait)?)
    }

    /// What an answer says.
    pub(crate) fn read<T: DeserializeOwned>(&self, text: &str) -> Result<T, AskError> {
        serde_json::from_str(text).map_err(|_| self.other_version())
    }

    fn other_version(&self) -> AskError {
        AskError::OtherVersion(self.dir.clone())
    }

    fn exchange(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        wait: Duration,
    ) -> Result<String, AskError> {
        let body = match serde_json::to_vec(body).map_err(io::Error::other)? {
            // The unit, which stands for no body.
            null if null == b"null" => Vec::new(),
            body => body,
        };
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(io::Error::other)?;
        let headers = request.headers_mut();
        headers.insert(HOST, "localhost".parse().map_err(io::Error::other)?);
        let json = "application/json".parse().map_err(io::Error::other)?;
        headers.insert(CONTENT_TYPE, json);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let asked = async { timeout(wait, self.ask(request)).await.ok() };
        match runtime.block_on(asked) {
            Some(answer) => answer,
            None => Err(AskError::Silent(self.dir.clone())),
        }
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<String, AskError> {
        use io::ErrorKind as Kind;
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| match error.kind() {
            Kind::NotFound | Kind::ConnectionRefused => AskError::NobodyThere(self.dir.clone()),
            Kind::PermissionDenied => AskError::AnotherUsers(self.dir.clone()),
            Kind::WouldBlock => AskError::Silent(self.dir.clone()),
            _ => AskError::Io(error),
        })?;
        let broken = |error: hyper::Error| self.broken(error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            self.text(answer).await
        };
        tokio::pin!(answer, connection);
        // The connection is driven while the answer is waited for. When the connection has ended, all of the answer is
        // there that ever will be.
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            _ = &mut connection => answer.await,
        }
    }

    async fn text(&self, answer: Response<Incoming>) -> Result<String, AskError> {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await;
        let body = body.map_err(io::Error::other)?.to_bytes();
        let text = String::from_utf8(body.to_vec()).map_err(|_| self.other_version())?;
        if status == StatusCode::OK {
            return Ok(text);
        }
        let said: ErrorAnswer = self.read(&text)?;
        Err(AskError::Refused {
            code: clean(&said.error.code),
            what: clean(&said.error.what),
            hint: clean(&said.error.hint),
        })
    }

    /// What it means that an exchange broke.
    fn broken(&self, error: hyper::Error) -> AskError {
        if error.is_parse() {
            // A node of before HTTP writes a line of JSON.
            return self.other_version();
        }
        if error.is_body_write_aborted() || error.is_user() {
            return AskError::Io(io::Error::other(error));
        }
        // A node says nothing at all to another user.
        let own = rustix::process::getuid().as_raw();
        let owner = std::fs::metadata(&self.socket).map(|found| found.uid());
        if own != 0 && owner.is_ok_and(|owner| owner != own) {
            return AskError::AnotherUsers(self.dir.clone());
        }
        AskError::Closed(self.dir.clone())
    }
}

/// Text for a terminal: root may ask a node of a user who means harm.
fn clean(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What is made of these bytes, which a node answers.
    fn asked_of(answer: &'static [u8]) -> AskError {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
        let node = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).unwrap();
            let _ = stream.write_all(answer);
        });
        let error = ControlClient::of(dir.path()).unwrap().status().unwrap_err();
        node.join().unwrap();
        error
    }

    #[test]
    fn errors_say_whom_it_is_about_and_what_to_try() {
        // What a node wrote before there was HTTP.
        let line = b"{\"error\":{\"hint\":\"write one line\",\"what\":\"no end\"},\"version\":1}\n";
        let old = asked_of(line);
        assert!(matches!(old, AskError::OtherVersion(_)), "{old:?}");
        assert!(old.hint().contains("start it anew"));
        let mute = asked_of(b"");
        assert!(matches!(mute, AskError::Closed(_)), "{mute:?}");
        let strange = asked_of(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        assert!(matches!(strange, AskError::OtherVersion(_)), "{strange:?}");
        let bare = asked_of(b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n");
        assert!(matches!(bare, AskError::OtherVersion(_)), "{bare:?}");
        let hostile = asked_of(
            b"HTTP/1.1 409 No\r\ncontent-length: 57\r\n\r\n{\"error\":{\"code\":\"x\",\"what\":\"a\\u001b[2Jb\",\"hint\":\"c\\nd\"}}",
        );
        assert_eq!(
            (hostile.to_string().as_str(), hostile.hint()),
            ("a [2Jb", "c d")
        );
        let cut = asked_of(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{");
        assert!(matches!(cut, AskError::Io(_)), "{cut:?}");
        let dir = tempfile::tempdir().unwrap();
        let nobody = ControlClient::of(dir.path()).unwrap().status().unwrap_err();
        assert!(matches!(nobody, AskError::NobodyThere(_)), "{nobody:?}");
        let long = ControlClient::of(&dir.path().join("x".repeat(100))).unwrap_err();
        assert!(matches!(long, AskError::Control(_)), "{long:?}");
        assert!(long.hint().contains("shorter"));
    }

    #[test]
    fn an_answer_has_a_bound() {
        let long = asked_of(
            b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        );
        assert!(matches!(long, AskError::Io(_)), "{long:?}");
    }

    #[test]
    fn a_node_that_takes_nobody_in_is_there_and_silent() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        // As many wait as may wait.
        let mut waiting = Vec::new();
        let client = ControlClient::of(dir.path()).unwrap();
        let asked = (0..5).map(|_| {
            assert!(is_there(dir.path()));
            let socket = dir.path().join("control.sock");
            waiting.push(std::thread::spawn(move || {
                std::os::unix::net::UnixStream::connect(socket).map(drop)
            }));
            let soon = Duration::from_millis(50);
            client.exchange(Method::GET, "/v1/status", &(), soon)
        });
        let mut asked = asked.map(Result::unwrap_err);
        assert!(asked.all(|error| matches!(error, AskError::Silent(_))));
        drop(listener);
        for waiting in waiting {
            let _ = waiting.join().unwrap();
        }
        assert!(!is_there(dir.path()));
    }
}
