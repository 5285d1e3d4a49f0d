//! What the streams of a circuit have to say, packed into payloads.

use super::Target;
use super::mux::Mux;
use super::state::{Opening, Received, Sending, Stream, TargetHost};
use crate::cell::message::{EndReason, FlowMessage, Host, MESSAGE_HEAD_LEN, Packer, StreamMessage};
use crate::limits::STREAM_SEND_BUFFER;

/// Acknowledgements and grants may take so many bytes of a payload; the rest
/// is always enough for a MARK and the longest BEGIN.
const UNCOUNTED_ROOM: usize = 1024;
/// A DATA that would be shorter than this waits for the next cell.
const MIN_DATA_LEN: usize = 64;

/// Cells that a stream with much to say fills before the next has its turn.
const TURN_CELLS: u32 = 4;

impl Mux {
    pub(super) fn pack_uncounted(&mut self, packer: &mut Packer<'_>) {
        let fits = |packer: &Packer<'_>| packer.room().is_some_and(|room| room >= UNCOUNTED_ROOM);
        while let Some(bytes) = self.acks.front()
            && fits(packer)
            && packer.flow(&FlowMessage::Ack(*bytes)).is_ok()
        {
            self.acks.pop_front();
        }
        while fits(packer)
            && let Some(key) = self.windows_due.pop_front()
        {
            let Some(stream) = self.streams.get_mut(&key) else {
                continue;
            };
            stream.window_due = false;
            // Nothing may follow word that this end has given the stream up.
            let silent = stream.closed || stream.released || stream.sending.is_given_up();
            if silent || stream.received != Received::Open || stream.rx_drained == 0 {
                continue;
            }
            let grant = core::mem::take(&mut stream.rx_drained);
            stream.rx_credit += grant;
            let _ = packer.stream(stream.id, StreamMessage::Window(grant));
        }
    }

    /// Takes streams off the front of the queue that have nothing to pack any more.
    pub(super) fn drop_idle(&mut self) {
        while let Some(key) = self.ready.front() {
            match self.streams.get_mut(key) {
                Some(stream) if !stream.closed && stream.has_work() => return,
                Some(stream) => stream.queued = false,
                None => {}
            }
            self.ready.pop_front();
            self.turn = 0;
        }
    }

    /// Gives each stream its turn until the payload is full.
    pub(super) fn pack_streams(&mut self, packer: &mut Packer<'_>) {
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else {
                return;
            };
            let Some(stream) = self.streams.get_mut(&key) else {
                continue;
            };
            stream.queued = false;
            let full = pack_stream(packer, stream);
            if stream.sending == Sending::Ended {
                stream.end_cell = self.send.sent() + 1;
            }
            if stream.tx.len() <= STREAM_SEND_BUFFER / 2
                && let Some(writer) = stream.writer.take()
            {
                writer.wake();
            }
            if full {
                // Its turn goes on in the next cells, so that what reaches an application at once is more than a cell
                // of it: each costs it a wake-up and a write.
                if stream.has_work() && !stream.closed {
                    stream.queued = true;
                    self.turn += 1;
                    if self.turn < TURN_CELLS {
                        self.ready.push_front(key);
                    } else {
                        self.turn = 0;
                        self.ready.push_back(key);
                    }
                } else {
                    self.turn = 0;
                }
                // Its END may be what filled the payload.
                self.close_if_over(key);
                return;
            }
            self.turn = 0;
            self.enqueue(key);
            self.close_if_over(key);
        }
    }
}

/// Packs what a stream has to say. Returns whether the payload is full.
fn pack_stream(packer: &mut Packer<'_>, stream: &mut Stream) -> bool {
    match stream.opening {
        Opening::Begin => {
            let packed = match &stream.target {
                Target::Directory => packer.begin_dir(stream.id),
                Target::Host(TargetHost::Name(name), port) => {
                    packer.begin(stream.id, Host::Name(name), *port)
                }
                Target::Host(TargetHost::Ip(ip), port) => match ip {
                    std::net::IpAddr::V4(ip) => {
                        packer.begin(stream.id, Host::V4(ip.octets()), *port)
                    }
                    std::net::IpAddr::V6(ip) => {
                        packer.begin(stream.id, Host::V6(ip.octets()), *port)
                    }
                },
            };
            if packed.is_err() {
                return true;
            }
            stream.opening = Opening::Waiting;
        }
        Opening::Connected => {
            if packer.connected(stream.id).is_err() {
                return true;
            }
            stream.opening = Opening::Done;
        }
        Opening::Waiting | Opening::Done => {}
    }
    while !stream.tx.is_empty() && stream.tx_credit > 0 {
        let want = stream.tx.len().min(stream.tx_credit as usize);
        let room = packer.room().unwrap_or(0);
        if room < want.min(MIN_DATA_LEN) {
            return true;
        }
        let wrote = packer.data_in_place(stream.id, want, |slot| stream.tx.pop(slot));
        stream.tx_credit -= wrote as u32;
    }
    if let (Sending::Ending(reason), true) = (stream.sending, stream.tx.is_empty()) {
        if packer
            .stream(stream.id, StreamMessage::End(reason))
            .is_err()
        {
            return true;
        }
        stream.sending = Sending::Ended;
        stream.said_done = reason == EndReason::Done;
    }
    packer.room().is_none_or(|room| room < MESSAGE_HEAD_LEN)
}
