//! Drives the stack: packets of the interface in and out, and a task for each thing that a program asks for.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::datagrams::Associations;
use crate::shared::Shared;
use crate::stack::{MTU, Wish};
use crate::{flows, names};

/// Packets that are read before others have their turn.
const BURST: usize = 64;
/// Questions that wait for the stream to the resolver; more are lost, and asked again.
const MOST_QUESTIONS: usize = 64;

/// Serves the programs behind the interface `tun` for as long as there is an interface.
///
/// # Errors
/// The system's error; the interface has gone.
pub(crate) async fn run(tun: OwnedFd, shared: Arc<Shared>) -> io::Result<Infallible> {
    rustix::io::ioctl_fionbio(&tun, true)?;
    #[expect(
        deprecated,
        reason = "unsound for values that let go of their file before they are dropped, which an OwnedFd cannot; what \
            is to be used instead is an unsafe call"
    )]
    let tun = AsyncFd::new(tun)?;
    let (questions, asked) = mpsc::channel(MOST_QUESTIONS);
    let mut tasks = JoinSet::new();
    tasks.spawn(names::serve(shared.clone(), asked));
    let mut associations = Associations::default();
    let mut packet = vec![0; MTU.max(1 << 16)];
    loop {
        while tasks.try_join_next().is_some() {}
        let next = flush(&tun, &shared);
        let timer = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => core::future::pending().await,
            }
        };
        tokio::select! {
            ready = tun.readable() => {
                let mut ready = ready?;
                for _ in 0..BURST {
                    let read = ready.try_io(|tun| Ok(rustix::io::read(tun, &mut packet)?));
                    let len = match read {
                        Ok(Ok(len)) => len,
                        Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Ok(Err(error)) => return Err(error),
                        Err(_) => break,
                    };
                    let packet = &packet[..len];
                    // What goes nowhere is counted by the stack.
                    match shared.look(|stack, now| stack.receive(now, packet)) {
                        Ok(Some(Wish::Connect(flow, to))) => {
                            tasks.spawn(flows::carry(shared.clone(), flow, to));
                        }
                        Ok(Some(Wish::Ask(pair, question))) => {
                            let _ = questions.try_send((pair, question));
                        }
                        Ok(Some(Wish::Send(pair, bytes))) => {
                            associations.send(&shared, pair, bytes, packet);
                        }
                        Ok(None) | Err(_) => {}
                    }
                }
            }
            () = shared.changed() => {}
            () = timer => {}
        }
    }
}

/// Sends what is to be sent. Gives the moment of the next time.
fn flush(tun: &AsyncFd<OwnedFd>, shared: &Shared) -> Option<tokio::time::Instant> {
    let next = shared.look(|stack, now| {
        loop {
            stack.poll(now);
            let mut sent = false;
            while let Some(packet) = stack.next_packet() {
                sent = true;
                // A packet that the interface does not take is lost, as on any wire.
                while let Err(Errno::INTR) = rustix::io::write(tun.get_ref(), &packet) {}
            }
            if !sent {
                break;
            }
        }
        stack.poll_at(now)
    });
    next.map(|next| shared.moment(next))
}
