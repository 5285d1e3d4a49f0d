#![allow(clippy::unwrap_used)]

use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::budget::Budget;
use crate::cell::HEADER_LEN;
use crate::flow::FixedWindow;
use crate::net::circuit_io::StreamIo;
use crate::stream::{Acceptor, MuxConfig, Opener, Request, StreamTarget, Violation};

const WINDOW_CELLS: u32 = 1_000;

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Layers,
    Link(PushError),
}

impl From<PushError> for Ended {
    fn from(error: PushError) -> Self {
        Self::Link(error)
    }
}

/// Numbers the cells of each direction and changes every byte: enough to see what was opened and sealed, and when.
#[derive(Default)]
struct Numbered {
    opened: u8,
    sealed: u8,
}

impl Layers for Numbered {
    type End = Ended;

    fn open(&mut self, body: &mut Body) -> Result<(), Ended> {
        body.iter_mut().for_each(|byte| *byte ^= 0x5a);
        if body[0] != self.opened {
            return Err(Ended::Layers);
        }
        self.opened = self.opened.wrapping_add(1);
        Ok(())
    }

    fn seal(&mut self, body: &mut Body, _: &mut impl CryptoRng) -> Result<(), Ended> {
        body[..HEADER_LEN].fill(self.sealed);
        self.sealed = self.sealed.wrapping_add(1);
        body.iter_mut().for_each(|byte| *byte ^= 0x5a);
        Ok(())
    }
}

fn end<E: StreamEnd>(bound_cells: usize) -> EndDriver<Numbered, E> {
    let budget = Budget::unlimited();
    let mux = Mux::new(MuxConfig {
        control: Box::new(FixedWindow(WINDOW_CELLS)),
        mark_interval_cells: 100_000,
        stream_window_bytes: 1 << 20,
        budget: budget.clone(),
    });
    EndDriver {
        link: Arc::new(LinkQueue::new(bound_cells, &budget)),
        circ: CircId::new(7).unwrap(),
        inbox: Arc::new(Inbox::new(bound_cells, &budget)),
        streams: Streams::new(mux),
        leg: LegId::FIRST,
        layers: Numbered::default(),
    }
}

/// What waits in an end's link queue, taken out.
fn sent(end: &EndDriver<Numbered, Opener>) -> Vec<u8> {
    let mut cells = Vec::new();
    loop {
        let mut some = Vec::new();
        end.link.take_cells(Instant::now(), 64, &mut some);
        if some.is_empty() {
            return cells;
        }
        cells.append(&mut some);
    }
}

fn write(stream: &mut StreamIo<Opener>, bytes: &[u8]) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    match pin!(stream).poll_write(&mut cx, bytes) {
        Poll::Ready(wrote) => wrote.unwrap(),
        Poll::Pending => 0,
    }
}

/// All that can be read of a stream now.
fn read(stream: &mut StreamIo<Acceptor>) -> Vec<u8> {
    let (mut cx, mut all) = (Context::from_waker(Waker::noop()), Vec::new());
    let mut bytes = [0; 4_096];
    loop {
        let mut out = ReadBuf::new(&mut bytes);
        match pin!(&mut *stream).poll_read(&mut cx, &mut out) {
            Poll::Ready(Ok(())) if !out.filled().is_empty() => all.extend_from_slice(out.filled()),
            _ => return all,
        }
    }
}

#[test]
fn what_one_end_sends_the_other_reads_in_order_and_in_parts() {
    let (mut client, mut relay) = (end::<Opener>(2_000), end::<Acceptor>(2_000));
    let text: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    let streams = [(); 3].map(|()| {
        let mut stream = client.streams.open(StreamTarget::Directory).unwrap();
        assert_eq!(write(&mut stream, &text), text.len());
        stream
    });
    client.send().unwrap();
    let mut cells = sent(&client);
    let most = 128 * CELL_LEN;
    assert!(
        cells.len() > most,
        "they are packed under two holds of the lock"
    );

    let mut opened = relay.open(&mut cells);
    let mut there = Vec::new();
    while !opened.is_empty() {
        let asked = relay.read(&mut opened, |mux, payload| {
            let mut asked = mux.on_outward(LegId::FIRST, Instant::now(), payload)?;
            Ok::<_, Violation>(asked.pop())
        });
        if let Some(Request::Begin(key, StreamTarget::Directory)) = asked.unwrap() {
            assert!(!opened.is_empty(), "the cells behind it wait");
            there.push((relay.streams.hold(key), Vec::new()));
        }
        for (stream, came) in &mut there {
            came.append(&mut read(stream));
        }
    }
    assert_eq!(opened.finish(), Ok(()));
    assert_eq!(there.len(), streams.len());
    assert!(there.iter().all(|(_, came)| *came == text));
}

#[test]
fn cells_before_one_that_does_not_open_are_read() {
    let (mut client, mut relay) = (end::<Opener>(2_000), end::<Acceptor>(2_000));
    let mut stream = client.streams.open(StreamTarget::Directory).unwrap();
    write(&mut stream, &[1; 20_000]);
    client.send().unwrap();
    let mut cells = sent(&client);
    cells[5 * CELL_LEN..][..CELL_LEN].fill(0);
    let mut opened = relay.open(&mut cells);
    let mut payloads = 0;
    let read = relay.read(&mut opened, |_, _| {
        payloads += 1;
        Ok::<_, ()>(None::<()>)
    });
    assert!(read.is_ok());
    assert_eq!((payloads, relay.layers.opened), (5, 5));
    assert_eq!(opened.finish(), Err(Ended::Layers));
}

#[test]
fn an_end_hears_why_it_cannot_send() {
    let mut client = end::<Opener>(3);
    let mut stream = client.streams.open(StreamTarget::Directory).unwrap();
    write(&mut stream, &[1; 20_000]);
    assert_eq!(client.send(), Err(Ended::Link(PushError::Overrun)));
    client.link.close();
    write(&mut stream, &[1; 20_000]);
    assert_eq!(client.send(), Err(Ended::Link(PushError::Closed)));
}

#[tokio::test]
async fn an_end_wakes_for_cells_and_for_streams() {
    let mut client = end::<Opener>(100);
    let mut stream = client.streams.open(StreamTarget::Directory).unwrap();
    write(&mut stream, b"hello");
    client.wait().await;
    client.send().unwrap();
    client.inbox.push(&sent(&client)).unwrap();
    client.wait().await;
    assert_eq!(client.inbox.take().cells.len(), CELL_LEN);
}
