//! The incremental parser of the front end: bytes go in, one request comes out.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use super::gate::Guard;
use super::refusal::{FrontError, FrontRefusal, HTTP_HEAD_LIMIT, SOCKS_LIMIT};
use super::reply::{self, REJECT_SOCKS4};
use super::request::{FrontRequest, Request};
use super::target::{Credentials, FrontTarget, Marks, Protocol};
use super::{http_head, socks};

/// Number of connections served at once, unless the owner says otherwise: at most 128 MiB of buffers.
pub const MAX_CONNECTIONS: usize = 1024;

/// What the owner decides about the front end.
#[derive(Clone, Copy, Debug)]
pub struct FrontOptions {
    /// Pass private, loopback and link-local destinations on. This is meant for networks on one machine only (S30).
    pub allow_private: bool,
    /// Tell the application that its stream is open before it is. The application's first bytes then travel with the
    /// request, which saves a round trip. If the stream fails afterwards, the application sees a reset without a
    /// reason.
    pub answer_early: bool,
    /// Take datagrams: UDP ASSOCIATE and the command 0xF2 of SOCKS 5.
    pub udp: bool,
    /// Number of connections served at once. Further connections wait for some seconds, and are then told.
    pub max_connections: usize,
    /// Time that a connection waits for its turn before it is told that too many others are served.
    pub patience: Duration,
    /// Time from accepting a connection to its complete request. After this time the connection is closed (S28).
    pub head_timeout: Duration,
}

impl Default for FrontOptions {
    fn default() -> Self {
        Self {
            allow_private: false,
            answer_early: false,
            udp: true,
            max_connections: MAX_CONNECTIONS,
            patience: Duration::from_secs(5),
            head_timeout: Duration::from_secs(30),
        }
    }
}

/// What the caller does after the parser has taken some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum FrontStep {
    /// Read more from the application.
    NeedMore,
    /// Send these bytes, then call [`FrontParser::on_bytes`] again, with an empty slice if nothing has come: the next
    /// message may be here already.
    Reply(Vec<u8>),
    /// The request is complete.
    Request(FrontRequest),
    /// Somebody took this port for a web server. Send these bytes, which explain what the port is, and close. Nothing
    /// else happens (S28).
    Page(Vec<u8>),
}

/// The message that the parser expects next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    /// An empty line has come, which HTTP allows before a request (RFC 9112, section 2.2).
    EmptyLine,
    Socks4,
    Socks5Methods,
    Socks5Password,
    Socks5Request,
    Http,
    Finished,
}

/// The parser of one connection. The parser holds at most one message and what came with the message.
pub struct FrontParser {
    options: FrontOptions,
    state: State,
    buffer: Vec<u8>,
    marks: Marks,
    /// Address that the connection came to, if it has one.
    listener: Option<IpAddr>,
    /// Who may use the connection, if not everybody may.
    guard: Option<Guard>,
    /// Does somebody pass the connection on for the application?
    is_passed_on: bool,
    /// Is there a line in the buffer that no step has looked at?
    has_line: bool,
}

impl fmt::Debug for FrontParser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontParser")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl FrontParser {
    /// A parser for a new connection.
    pub fn new(options: FrontOptions) -> Self {
        Self {
            options,
            state: State::Start,
            buffer: Vec::new(),
            marks: Marks::default(),
            listener: None,
            guard: None,
            is_passed_on: false,
            has_line: false,
        }
    }

    /// Says to which address of this machine the connection came. By that name, as by its own, people may ask the port
    /// over HTTP what it is.
    #[must_use]
    pub fn listening_at(mut self, listener: Option<IpAddr>) -> Self {
        self.listener = listener;
        self
    }

    /// Lets `guard` say whose requests are taken. SOCKS 4, which has no password, is refused then.
    #[must_use]
    pub fn guarded_by(mut self, guard: Option<Guard>) -> Self {
        self.guard = guard;
        self
    }

    /// Says that somebody passes the connection on for the application, which cannot do so in turn.
    #[must_use]
    pub fn passed_on(self) -> Self {
        Self {
            is_passed_on: true,
            ..self
        }
    }

    /// May the port be asked for, to pass another program's connection on? Only by who says for whom, and where nobody
    /// has to show a password: what the other program shows would count for nothing.
    fn may_pass_on(&self) -> bool {
        !self.is_passed_on && self.guard.is_none() && self.marks.credentials.is_some()
    }

    /// Does a guard refuse these credentials?
    fn is_refused(&self, credentials: Option<&Credentials>) -> bool {
        let guard = self.guard.as_ref();
        guard.is_some_and(|guard| !guard.admits(credentials))
    }

    /// Takes what the application sent, which may be nothing, and says what to do. After a request, a page or an error
    /// the parser is finished.
    ///
    /// # Errors
    /// [`FrontError`]: the caller sends its reply and closes.
    pub fn on_bytes(&mut self, bytes: &[u8]) -> Result<FrontStep, FrontError> {
        self.buffer.extend_from_slice(bytes);
        self.has_line |= bytes.contains(&b'\n');
        let step = self.step();
        if !matches!(step, Ok(FrontStep::NeedMore | FrontStep::Reply(_))) {
            self.state = State::Finished;
            self.buffer = Vec::new();
        }
        step
    }

    fn step(&mut self) -> Result<FrontStep, FrontError> {
        if self.state == State::Start {
            let Some(&first) = self.buffer.first() else {
                return Ok(FrontStep::NeedMore);
            };
            self.state = match (first, self.buffer.get(1)) {
                (4, _) => State::Socks4,
                (5, _) => State::Socks5Methods,
                (b'A'..=b'Z', _) => State::Http,
                (b'\r', None) => return Ok(FrontStep::NeedMore),
                (b'\r', Some(b'\n')) => {
                    self.buffer.drain(..2);
                    State::EmptyLine
                }
                _ => return Err(FrontError::new(FrontRefusal::UnknownProtocol, [])),
            };
        }
        if self.state == State::EmptyLine {
            self.state = match self.buffer.first() {
                None => return Ok(FrontStep::NeedMore),
                Some(b'A'..=b'Z') => State::Http,
                Some(_) => return Err(FrontError::new(FrontRefusal::UnknownProtocol, [])),
            };
        }
        match self.state {
            State::Socks4 => self.socks4(),
            State::Socks5Methods => self.socks5_methods(),
            State::Socks5Password => self.socks5_password(),
            State::Socks5Request => self.socks5_request(),
            State::Http => self.http(),
            State::Start | State::EmptyLine | State::Finished => {
                Err(FrontError::new(FrontRefusal::Finished, []))
            }
        }
    }

    /// Asks for more bytes, or refuses a message that has passed its limit already.
    fn socks_more(&self, reply: &[u8]) -> Result<FrontStep, FrontError> {
        if self.buffer.len() >= SOCKS_LIMIT {
            Err(FrontError::new(FrontRefusal::TooLong, reply))
        } else {
            Ok(FrontStep::NeedMore)
        }
    }

    /// The part of the buffer that one SOCKS message may fill.
    fn socks_window(&self) -> &[u8] {
        &self.buffer[..self.buffer.len().min(SOCKS_LIMIT)]
    }

    fn socks4(&mut self) -> Result<FrontStep, FrontError> {
        let refuse = |refusal| FrontError::new(refusal, REJECT_SOCKS4);
        if self.guard.is_some() {
            return Err(refuse(FrontRefusal::Credentials));
        }
        let Some(request) = socks::socks4(self.socks_window()).map_err(refuse)? else {
            return self.socks_more(&REJECT_SOCKS4);
        };
        let asked = (request.ask)
            .judged(request.host, request.port, self.options.allow_private)
            .map_err(refuse)?;
        if !request.user.is_empty() {
            let credentials = Credentials {
                user: request.user,
                password: Vec::new(),
            };
            self.marks = credentials.into();
        }
        Ok(self.finish(asked, request.protocol, request.len))
    }

    fn socks5_methods(&mut self) -> Result<FrontStep, FrontError> {
        let Some((method, len)) = socks::methods(self.socks_window()) else {
            return self.socks_more(&[]);
        };
        // A guarded port has one method.
        let method = method
            .filter(|method| self.guard.is_none() || matches!(method, socks::Method::Password));
        self.state = match method {
            Some(socks::Method::Password) => State::Socks5Password,
            Some(socks::Method::None) => State::Socks5Request,
            None => return Err(FrontError::new(FrontRefusal::Method, [5, 0xff])),
        };
        self.buffer.drain(..len);
        Ok(FrontStep::Reply(match self.state {
            State::Socks5Password => vec![5, 2],
            _ => vec![5, 0],
        }))
    }

    fn socks5_password(&mut self) -> Result<FrontStep, FrontError> {
        let refuse = |refusal| FrontError::new(refusal, [1, 1]);
        let Some((credentials, len)) = socks::password(self.socks_window()).map_err(refuse)? else {
            return self.socks_more(&[1, 1]);
        };
        if !has_isolation_alone(&credentials.user) {
            return Err(refuse(FrontRefusal::Format));
        }
        if self.is_refused(Some(&credentials)) {
            return Err(refuse(FrontRefusal::Credentials));
        }
        self.marks = credentials.into();
        self.state = State::Socks5Request;
        self.buffer.drain(..len);
        Ok(FrontStep::Reply(vec![1, 0]))
    }

    fn socks5_request(&mut self) -> Result<FrontStep, FrontError> {
        let refuse =
            |refusal| FrontError::new(refusal, reply::socks5(socks::refusal_code(refusal)));
        let Some(request) = socks::socks5(self.socks_window()).map_err(refuse)? else {
            return self.socks_more(&reply::socks5(1));
        };
        if matches!(request.ask, socks::Ask::Associate | socks::Ask::Inside) && !self.options.udp {
            return Err(refuse(FrontRefusal::Command));
        }
        if request.ask == socks::Ask::Port && !self.may_pass_on() {
            return Err(refuse(FrontRefusal::Command));
        }
        let asked = (request.ask)
            .judged(request.host, request.port, self.options.allow_private)
            .map_err(refuse)?;
        Ok(self.finish(asked, Protocol::Socks5, request.len))
    }

    fn http(&mut self) -> Result<FrontStep, FrontError> {
        // A head ends with the end of a line. If the new bytes have none, nothing can have changed; so a head that
        // comes byte by byte is not searched again for each byte.
        if self.buffer.len() < HTTP_HEAD_LIMIT && !self.has_line {
            return Ok(FrontStep::NeedMore);
        }
        self.has_line = false;
        let window = &self.buffer[..self.buffer.len().min(HTTP_HEAD_LIMIT)];
        // The head is judged when it is whole and not before, so that it does not matter in which pieces it came.
        let Some(len) = http_head::head_len(window) else {
            return if window.len() < HTTP_HEAD_LIMIT {
                Ok(FrontStep::NeedMore)
            } else {
                Err(http_head::refuse(FrontRefusal::TooLong))
            };
        };
        match http_head::parse(&window[..len], self.listener)? {
            http_head::RequestHead::Page(page) => Ok(FrontStep::Page(page)),
            http_head::RequestHead::Options(reply) => {
                self.buffer.drain(..len);
                // What came along may be the next head.
                self.has_line = true;
                Ok(FrontStep::Reply(reply))
            }
            http_head::RequestHead::Forward => {
                Ok(self.finish(Request::Forward, Protocol::HttpForward, 0))
            }
            http_head::RequestHead::Connect(connect) => {
                if self.is_refused(connect.marks.credentials.as_ref()) {
                    return Err(http_head::refuse(FrontRefusal::Credentials));
                }
                let allow = self.options.allow_private;
                let target = FrontTarget::new(connect.host, connect.port, allow)
                    .map_err(http_head::refuse)?;
                self.marks = connect.marks;
                Ok(self.finish(Request::Connect(target), Protocol::HttpConnect, len))
            }
        }
    }

    /// The request, which is the first `len` bytes of the buffer, with the bytes behind it as the first of the stream.
    fn finish(&mut self, request: Request, protocol: Protocol, len: usize) -> FrontStep {
        FrontStep::Request(FrontRequest {
            request,
            marks: core::mem::take(&mut self.marks),
            protocol,
            leftover: self.buffer.split_off(len),
        })
    }
}

/// Tor's programs may send a user name whose beginning says how to read the rest (its proposal 351). Isolation alone is
/// what credentials mean here in any case; a name of another format asks for something else, which is not done.
fn has_isolation_alone(user: &[u8]) -> bool {
    match user.strip_prefix(b"<torS0X>") {
        Some(rest) => rest == b"0",
        None => true,
    }
}
