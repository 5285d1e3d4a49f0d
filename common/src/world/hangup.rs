//! Has the other side of a connection gone altogether? Whoever has read a connection to its end reads it no more, and
//! hears of a reset in no other way.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A second handle to a socket, to ask the system about it. Dropping this value closes the handle and not the socket.
#[derive(Debug)]
pub struct Hangup(OwnedFd);

impl Hangup {
    /// A handle to `socket`.
    ///
    /// # Errors
    /// The system's error: there are no descriptors left.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        socket.as_fd().try_clone_to_owned().map(Self)
    }

    /// Has the other side reset the connection, or closed a Unix socket in both directions? A TCP connection that the
    /// other side has closed looks as if it had ended its sending, until it is sent something and resets.
    pub fn has_come(&self) -> bool {
        let mut sockets = [PollFd::new(&self.0, PollFlags::empty())];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // Some systems call it a hang-up when one direction has ended.
        let signs = match cfg!(any(target_os = "linux", target_os = "android")) {
            true => PollFlags::HUP | PollFlags::ERR,
            false => PollFlags::ERR,
        };
        let asked = poll(&mut sockets, Some(&at_once));
        asked.is_ok() && sockets[0].revents().intersects(signs)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_end_of_sending_is_no_hangup_and_a_reset_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut near, _) = listener.accept().unwrap();
        let hangup = Hangup::of(&near).unwrap();
        far.write_all(b"x").unwrap();
        assert!(!hangup.has_come());
        far.shutdown(Shutdown::Write).unwrap();
        assert_eq!(near.read_to_end(&mut Vec::new()).unwrap(), 1);
        assert!(!hangup.has_come());
        let linger = Some(Duration::ZERO);
        socket2::SockRef::from(&far).set_linger(linger).unwrap();
        drop(far);
        assert!(hangup.has_come());
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn a_unix_socket_that_is_closed_has_hung_up() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let hangup = Hangup::of(&near).unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
        assert!(!hangup.has_come());
        drop(far);
        assert!(hangup.has_come());
    }
}
