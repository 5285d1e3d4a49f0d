//! The circuit's window in both directions, with acknowledgements that prove receipt (S16; docs/protocol.md, 5.11 to
//! 5.13).

use core::time::Duration;
use std::collections::VecDeque;
use std::time::Instant;

use super::{Ack, CongestionControl};
use crate::cell::message::MARK_LEN;

/// A sender may mark one in this many counted cells; the receiver destroys a circuit that marks more often.
pub const MIN_MARK_INTERVAL: u32 = 8;

/// A peer breaks the rules of MARK and ACK. The circuit is to be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// An ACK answers no outstanding mark, or not the oldest.
    #[error("acknowledgement of a cell that was not sent, or out of order")]
    WrongAck,
    /// More than one MARK came in eight cells, or a MARK in a cell that holds nothing to acknowledge.
    #[error("marks come too often")]
    TooManyMarks,
}

/// What one end has sent and the other end has not acknowledged.
pub struct SendWindow {
    control: Box<dyn CongestionControl>,
    mark_interval: u32,
    in_flight: u32,
    sent: u64,
    since_mark: u32,
    /// Has the window been full since the last ACK?
    was_full: bool,
    marks: VecDeque<Mark>,
    last_rtt: Option<Duration>,
    smooth_rtt: Option<Duration>,
}

struct Mark {
    bytes: [u8; MARK_LEN],
    cells: u32,
    sent: Instant,
}

impl SendWindow {
    /// A window that `control` governs, with a mark in every `mark_interval`-th cell.
    ///
    /// The interval is at least [`MIN_MARK_INTERVAL`]. A window smaller than the interval would never be acknowledged,
    /// so such a window lets a whole interval be sent.
    pub fn new(control: Box<dyn CongestionControl>, mark_interval: u32) -> Self {
        let mark_interval = mark_interval.max(MIN_MARK_INTERVAL);
        Self {
            control,
            mark_interval,
            in_flight: 0,
            sent: 0,
            since_mark: 0,
            was_full: false,
            marks: VecDeque::new(),
            last_rtt: None,
            smooth_rtt: None,
        }
    }

    /// May one more counted cell be sent?
    pub fn is_open(&self) -> bool {
        self.in_flight < self.control.window_cells().max(self.mark_interval)
    }

    /// Must the next counted cell carry a mark?
    pub fn is_mark_due(&self) -> bool {
        self.since_mark + 1 >= self.mark_interval
    }

    /// May the next counted cell carry a mark, even if none is due? The first cell of a circuit may.
    pub fn may_mark(&self) -> bool {
        self.sent == 0 || self.since_mark + 1 >= MIN_MARK_INTERVAL
    }

    /// Notes that a counted cell is being sent, with the mark that it carries.
    pub fn on_sent(&mut self, now: Instant, mark: Option<[u8; MARK_LEN]>) {
        self.in_flight += 1;
        self.sent += 1;
        self.since_mark += 1;
        self.was_full |= !self.is_open();
        if let Some(bytes) = mark {
            let cells = core::mem::take(&mut self.since_mark);
            self.marks.push_back(Mark {
                bytes,
                cells,
                sent: now,
            });
        }
    }

    /// Takes an ACK of the other end, which must answer the oldest outstanding mark.
    pub fn on_ack(&mut self, now: Instant, bytes: &[u8; MARK_LEN]) -> Result<(), FlowError> {
        let mark = self.marks.pop_front().filter(|mark| mark.bytes == *bytes);
        let mark = mark.ok_or(FlowError::WrongAck)?;
        self.in_flight -= mark.cells;
        let rtt = now.saturating_duration_since(mark.sent);
        self.last_rtt = Some(rtt);
        self.smooth_rtt = Some(self.smooth_rtt.map_or(rtt, |smooth| (smooth * 7 + rtt) / 8));
        self.control.on_ack(Ack {
            now,
            rtt,
            cells: mark.cells,
            was_full: self.was_full,
        });
        self.was_full = !self.is_open();
        Ok(())
    }

    /// The newest round-trip time that a mark has measured; `None` before the first.
    pub fn last_rtt(&self) -> Option<Duration> {
        self.last_rtt
    }

    /// The smoothed round-trip time. Each new measurement counts an eighth, as in RFC 6298.
    pub fn smooth_rtt(&self) -> Option<Duration> {
        self.smooth_rtt
    }

    /// Does the other end owe an ACK? An ACK is sent at once, whatever the application at the other end does.
    pub fn awaits_ack(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Number of counted cells sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Number of counted cells acknowledged so far. The other end has read all of them.
    pub fn acknowledged(&self) -> u64 {
        self.sent - u64::from(self.in_flight)
    }

    /// Number of counted cells sent and not acknowledged.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }
}

/// What one end has received. This window only watches how often the other end marks.
#[derive(Debug)]
pub struct ReceiveWindow {
    since_mark: u32,
}

impl Default for ReceiveWindow {
    /// A window of which the first counted cell may carry a mark.
    fn default() -> Self {
        Self {
            since_mark: MIN_MARK_INTERVAL - 1,
        }
    }
}

impl ReceiveWindow {
    /// Notes that a cell has been read. The cell held `marks` marks; it counts (protocol.md 5.11) if `counted` says so.
    pub fn on_cell(&mut self, counted: bool, marks: usize) -> Result<(), FlowError> {
        self.since_mark = self.since_mark.saturating_add(u32::from(counted));
        match marks {
            0 => Ok(()),
            1 if counted && self.since_mark >= MIN_MARK_INTERVAL => {
                self.since_mark = 0;
                Ok(())
            }
            _ => Err(FlowError::TooManyMarks),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::flow::FixedWindow;

    fn window(cells: u32, interval: u32) -> SendWindow {
        SendWindow::new(Box::new(FixedWindow(cells)), interval)
    }

    fn send(window: &mut SendWindow, now: Instant, serial: &mut u8) -> Option<[u8; MARK_LEN]> {
        let mark = window.is_mark_due().then(|| {
            *serial += 1;
            [*serial; MARK_LEN]
        });
        window.on_sent(now, mark);
        mark
    }

    #[test]
    fn a_full_window_opens_again_by_the_oldest_mark_only() {
        let (now, mut serial) = (Instant::now(), 0);
        let mut window = window(64, 16);
        while window.is_open() {
            send(&mut window, now, &mut serial);
        }
        assert_eq!((window.in_flight(), serial), (64, 4));
        let later = now + Duration::from_millis(30);
        window.on_ack(later, &[1; 16]).unwrap();
        assert_eq!(
            (window.in_flight(), window.last_rtt()),
            (48, Some(Duration::from_millis(30)))
        );
        assert_eq!(window.on_ack(later, &[3; 16]), Err(FlowError::WrongAck));
    }

    #[test]
    fn acks_that_nothing_asked_for_are_refused() {
        let mut window = window(64, 16);
        assert_eq!(
            window.on_ack(Instant::now(), &[0; 16]),
            Err(FlowError::WrongAck)
        );
        window.on_sent(Instant::now(), None);
        assert_eq!(
            window.on_ack(Instant::now(), &[0; 16]),
            Err(FlowError::WrongAck)
        );
    }

    #[test]
    fn a_clock_that_steps_back_measures_zero() {
        let now = Instant::now() + Duration::from_secs(9);
        let mut window = window(64, 8);
        let mut serial = 0;
        (0..8).for_each(|_| _ = send(&mut window, now, &mut serial));
        window
            .on_ack(now - Duration::from_secs(5), &[1; 16])
            .unwrap();
        assert_eq!(window.last_rtt(), Some(Duration::ZERO));
    }

    #[test]
    fn a_window_never_locks_itself_up() {
        // The loop tries the smallest windows and intervals too, and those that make no sense.
        for cells in 0..40 {
            for interval in 0..40 {
                let (now, mut serial) = (Instant::now(), 0);
                let mut window = window(cells, interval);
                let mut marks = VecDeque::new();
                for _ in 0..200 {
                    if window.is_open() {
                        marks.extend(send(&mut window, now, &mut serial));
                    } else {
                        let mark = marks.pop_front().unwrap();
                        window.on_ack(now, &mark).unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn marks_come_once_in_eight_cells_at_most() {
        let mut window = ReceiveWindow::default();
        window.on_cell(true, 1).unwrap();
        for _ in 0..7 {
            window.on_cell(true, 0).unwrap();
        }
        window.on_cell(false, 0).unwrap();
        window.on_cell(true, 1).unwrap();
        for _ in 0..6 {
            window.on_cell(true, 0).unwrap();
        }
        assert_eq!(window.on_cell(true, 1), Err(FlowError::TooManyMarks));
        assert_eq!(window.on_cell(false, 1), Err(FlowError::TooManyMarks));
        assert_eq!(window.on_cell(true, 2), Err(FlowError::TooManyMarks));
    }
}
