//! The socket itself: who listens on it, who may come, and how it is asked.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cepa_common::log_pace::LogPace;
use cepa_common::world::sockets::{OWNER_ONLY, UNIX_PATH_BYTES, UnixBindError, bind_unix};
use cepa_common::world::steady;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::Answer;
use super::request::{self, ControlRequest, MAX_REQUEST_BYTES, parse};

/// Name of the socket in the state directory.
const SOCKET: &str = "control.sock";
/// Longest answer that is taken (bytes).
const MAX_ANSWER_BYTES: u64 = 256 * 1024;
/// A request must have been read, and an answer written, within this time.
const DEADLINE: Duration = Duration::from_secs(5);
/// An answer for which a stream has to be opened is there within this time: a client gives up after 60 s.
const LONGEST_WORK: Duration = Duration::from_secs(65);
/// Connections served at once.
const MAX_CONNECTIONS: usize = 8;
/// Pause after an accept that failed (S39).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What a request is answered by.
pub(super) type Work = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Answers requests.
pub(super) type Handler = Arc<dyn Fn(ControlRequest) -> Work + Send + Sync>;

/// There is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The system has no room for the socket's path.
    #[error(
        "the path of the control socket {} has {} bytes, and the system takes {UNIX_PATH_BYTES} at most; choose a \
         shorter state directory",
        path.display(),
        path.as_os_str().len()
    )]
    TooLong {
        /// Path of the socket.
        path: PathBuf,
    },
    /// Something that is no control socket is in its place.
    #[error("{} is in the way of the control socket and is none itself; move it away", .0.display())]
    InTheWay(PathBuf),
    /// The system refused to listen.
    #[error("cannot listen on the control socket {}: {source}", path.display())]
    Io {
        /// Path of the socket.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The socket's path in the state directory `dir`, if the system has room for it.
fn socket_path(dir: &Path) -> Result<PathBuf, ControlError> {
    let path = dir.join(SOCKET);
    match path.as_os_str().as_bytes().len() <= UNIX_PATH_BYTES {
        true => Ok(path),
        false => Err(ControlError::TooLong { path }),
    }
}

/// A socket that is listened on. The socket is gone when this value is dropped.
#[derive(Debug)]
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens in the state directory `dir`, which the caller has locked: a socket that was left there is nobody's.
    pub(super) fn listen(dir: &Path) -> Result<Self, ControlError> {
        let path = socket_path(dir)?;
        let io = |source| ControlError::Io {
            path: path.clone(),
            source,
        };
        let found = std::fs::symlink_metadata(&path);
        if found.is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(&path).map_err(io)?;
        }
        let listener = bind_unix(&path, OWNER_ONLY, None).map_err(|error| match error {
            UnixBindError::TooLong(_) => ControlError::TooLong { path: path.clone() },
            UnixBindError::InTheWay => ControlError::InTheWay(path.clone()),
            UnixBindError::InUse => io(io::ErrorKind::AddrInUse.into()),
            UnixBindError::Io(source) | UnixBindError::Group(source) => io(source),
        })?;
        Ok(Self { listener, path })
    }

    /// Answers requests with `handler` until the future is dropped.
    pub(super) async fn serve(self, handler: Handler) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        // The set is dropped with this future, which ends every exchange.
        let mut exchanges = JoinSet::new();
        let mut failed = LogPace::default();
        loop {
            while exchanges.try_join_next().is_some() {}
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let handler = handler.clone();
                    exchanges.spawn(async move {
                        if let Err(error) = exchange(stream, handler).await {
                            tracing::debug!(%error, "a control connection broke");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    if let Some(times) = failed.count(1, steady::now()) {
                        tracing::warn!(%error, times, "the control socket cannot accept for the moment");
                    }
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The socket may be gone already, with its directory.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One request and its answer.
async fn exchange(mut stream: UnixStream, handler: Handler) -> io::Result<()> {
    // If the directory is open to others, as that of a throwaway network may be, this check keeps them out (S33).
    let theirs = stream.peer_cred()?.uid();
    if theirs != 0 && theirs != rustix::process::getuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut line = Vec::new();
    let (read, mut write) = stream.split();
    let mut bounded = tokio::io::BufReader::new(read.take(MAX_REQUEST_BYTES as u64 + 1));
    timeout(DEADLINE, bounded.read_until(b'\n', &mut line)).await??;
    let answer = match parse(&line) {
        Ok(request) => timeout(LONGEST_WORK, handler(request)).await?,
        Err(what) => refusal(what),
    };
    let answered = async {
        write.write_all(answer.line().as_bytes()).await?;
        write.shutdown().await
    };
    timeout(DEADLINE, answered).await?
}

/// The answer to what is no request.
fn refusal(what: &str) -> Answer {
    Answer::error(
        what,
        r#"write one line such as {"version":1,"command":"status"}"#,
    )
}

/// A request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No client listens there.
    #[error("no client runs with the state directory {}", .0.display())]
    NobodyThere(PathBuf),
    /// The path of the control socket cannot be used.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A client listens there, and says nothing.
    #[error("a client runs with the state directory {}, and gave no answer in time", .0.display())]
    Silent(PathBuf),
    /// The exchange broke.
    #[error("the client did not answer: {0}")]
    Io(#[from] io::Error),
    /// What came back is no answer.
    #[error("the client's answer cannot be read")]
    NoAnswer,
}

/// Does a client run with the state directory `dir`?
pub fn is_there(dir: &Path) -> bool {
    socket_path(dir).is_ok_and(|path| BlockingStream::connect(path).is_ok())
}

/// Asks the client that runs with the state directory `dir`. Blocks for a few seconds at most, or for a minute where
/// the client opens a stream.
pub fn ask(dir: &Path, request: ControlRequest) -> Result<Answer, AskError> {
    let path = socket_path(dir)?;
    let mut stream = BlockingStream::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            AskError::NobodyThere(dir.to_owned())
        }
        _ => error.into(),
    })?;
    let wait = match request {
        ControlRequest::Reach { .. } => LONGEST_WORK + DEADLINE,
        ControlRequest::Status | ControlRequest::NewIdentity => DEADLINE,
    };
    stream.set_read_timeout(Some(wait))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.write_all(request::line(&request).as_bytes())?;
    let mut line = String::new();
    let read = BufReader::new(stream.take(MAX_ANSWER_BYTES)).read_line(&mut line);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::Silent(dir.to_owned()),
        _ => error.into(),
    })?;
    let mut answer: Value = serde_json::from_str(&line).map_err(|_| AskError::NoAnswer)?;
    let fields = answer.as_object_mut().ok_or(AskError::NoAnswer)?;
    fields.remove("version");
    serde_json::from_value(answer).map_err(|_| AskError::NoAnswer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use proptest::prelude::*;

    fn echo() -> Handler {
        Arc::new(|request| {
            let answer = match request {
                ControlRequest::Status => Answer::ok(&"fine"),
                ControlRequest::NewIdentity => Answer::error("too soon", "wait"),
                ControlRequest::Reach { to } => Answer::ok(&to),
            };
            Box::pin(core::future::ready(answer))
        })
    }

    /// Writes `request` as it is and reads to the end.
    async fn raw(dir: &Path, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(dir.join(SOCKET)).await.unwrap();
        let _ = stream.write_all(request).await;
        let _ = stream.shutdown().await;
        let mut got = String::new();
        let _ = stream.read_to_string(&mut got).await;
        got
    }

    #[tokio::test]
    async fn one_line_in_and_one_line_out() {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::listen(dir.path()).unwrap();
        let mode = std::fs::metadata(dir.path().join(SOCKET)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        let serving = tokio::spawn(control.serve(echo()));
        let ask = |request| {
            let dir = dir.path().to_owned();
            tokio::task::spawn_blocking(move || ask(&dir, request).unwrap())
        };
        let fine = ask(ControlRequest::Status).await.unwrap();
        assert_eq!(fine, Answer::Ok("fine".into()));
        let refused = ask(ControlRequest::NewIdentity).await.unwrap();
        assert_eq!(refused, Answer::error("too soon", "wait"));
        let line = raw(dir.path(), b"{\"command\":\"status\",\"version\":1}\n").await;
        assert_eq!(line, "{\"ok\":\"fine\",\"version\":1}\n");
        for to in [None, Some("a.example:80".to_owned())] {
            let reached = ask(ControlRequest::Reach { to: to.clone() }).await.unwrap();
            assert_eq!(reached, Answer::ok(&to));
        }
        // A request that is not understood is answered with an error, and harms nobody.
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"{}\n",
            b"\n",
            b"",
            b"{\"version\":2,\"command\":\"status\"}\n",
            b"{\"version\":1,\"command\":\"format\"}\n",
            b"{\"version\":1,\"command\":\"status\",\"more\":1}\n",
            b"{\"version\":1,\"command\":\"status\",\"to\":\"a.example:80\"}\n",
            &vec![b'['; 100_000],
        ] {
            let line = raw(dir.path(), bad).await;
            assert!(line.is_empty() || line.contains("\"error\""), "{line}");
        }
        assert_eq!(ask(ControlRequest::Status).await.unwrap(), fine);
        serving.abort();
        let _ = serving.await;
        assert!(!dir.path().join(SOCKET).exists(), "left behind");
    }

    #[tokio::test]
    async fn who_says_nothing_is_not_waited_for_and_does_not_keep_others_out() {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::listen(dir.path()).unwrap();
        let serving = tokio::spawn(control.serve(echo()));
        let mut silent = Vec::new();
        for _ in 1..MAX_CONNECTIONS {
            let stream = UnixStream::connect(dir.path().join(SOCKET)).await;
            silent.push(stream.unwrap());
        }
        let line = raw(dir.path(), b"{\"version\":1,\"command\":\"status\"}\n").await;
        assert!(line.contains("fine"));
        serving.abort();
    }

    #[tokio::test]
    async fn stale_sockets_are_replaced_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap());
        let gone = ask(dir.path(), ControlRequest::Status);
        assert!(matches!(gone, Err(AskError::NobodyThere(_))), "{gone:?}");
        drop(Control::listen(dir.path()).unwrap());
        std::fs::write(dir.path().join(SOCKET), "mine").unwrap();
        let refused = Control::listen(dir.path());
        assert!(matches!(refused, Err(ControlError::InTheWay(_))));
        assert!(dir.path().join(SOCKET).exists());
    }

    #[tokio::test]
    async fn a_path_that_the_system_has_no_room_for_is_said_to_be_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let room = UNIX_PATH_BYTES - SOCKET.len() - 2 - dir.path().as_os_str().len();
        let fits = dir.path().join("x".repeat(room));
        let long = dir.path().join("x".repeat(room + 1));
        for path in [&fits, &long] {
            std::fs::create_dir(path).unwrap();
        }
        drop(Control::listen(&fits).unwrap());
        let refused = Control::listen(&long).unwrap_err().to_string();
        assert!(refused.contains("108 bytes"), "{refused}");
        assert!(matches!(
            ask(&long, ControlRequest::Status),
            Err(AskError::Control(_))
        ));
    }

    proptest! {
        #[test]
        fn no_request_does_harm(line in proptest::collection::vec(any::<u8>(), 0..6_000)) {
            if let Err(what) = parse(&line) {
                let is_a_line = refusal(what).line().ends_with("}\n");
                prop_assert!(is_a_line);
            }
        }
    }
}
