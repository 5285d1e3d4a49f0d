//! The name server of the namespace: all questions of its programs go over one stream to the resolver of an exit.

use core::time::Duration;
use std::sync::Arc;

use cepa_common::dns::Frames;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use crate::shared::Shared;
use crate::socks::{Request, Stream};
use crate::stack::{Asked, Pair, Questions};

/// The stream ends when nobody has asked for so long; the node ends it after 30 s.
const IDLE: Duration = Duration::from_secs(25);
/// A question has an answer within this time, or the stream is given up.
const PATIENCE: Duration = Duration::from_secs(30);

struct Line {
    reader: ReadHalf<Stream>,
    writer: WriteHalf<Stream>,
    frames: Frames,
}

/// Answers questions until nobody can ask any more.
pub(crate) async fn serve(shared: Arc<Shared>, mut asked: mpsc::Receiver<(Pair, Vec<u8>)>) {
    let mut questions = Questions::default();
    let mut line = None;
    loop {
        let wait = if questions.is_empty() { IDLE } else { PATIENCE };
        let open = line.is_some();
        let is_well = tokio::select! {
            ask = asked.recv() => {
                let Some((pair, datagram)) = ask else { return };
                let now = shared.look(|_, now| now);
                match questions.ask(now, pair, &datagram) {
                    Asked::Out(query) => send(&shared, &mut line, &query).await,
                    Asked::Answered(answer) => {
                        tell(&shared, pair, &answer);
                        true
                    }
                    Asked::Dropped => true,
                }
            }
            message = hear(&mut line), if open => match message {
                Some(message) => {
                    if let Some((pair, answer)) = questions.answered(&message) {
                        tell(&shared, pair, &answer);
                    }
                    true
                }
                None => false,
            },
            () = tokio::time::sleep(wait), if open => false,
        };
        if !is_well {
            line = None;
            for (pair, answer) in questions.lost() {
                tell(&shared, pair, &answer);
            }
        }
    }
}

/// Sends a query, by a new stream if there is none. `false` if there is no way.
async fn send(shared: &Shared, line: &mut Option<Line>, query: &[u8]) -> bool {
    if line.is_none() {
        match shared.open(Request::Resolver).await {
            Ok(stream) => {
                let (reader, writer) = tokio::io::split(stream);
                let frames = Frames::new(u16::MAX.into());
                *line = Some(Line {
                    reader,
                    writer,
                    frames,
                });
            }
            Err(failed) => {
                tracing::debug!(%failed, "no resolver");
                return false;
            }
        }
    }
    match line {
        Some(line) => line.writer.write_all(query).await.is_ok(),
        None => false,
    }
}

/// The next answer; `None` at the end of the stream. Nothing is lost if the wait is given up.
async fn hear(line: &mut Option<Line>) -> Option<Vec<u8>> {
    let line = line.as_mut()?;
    let mut bytes = [0; 2_048];
    loop {
        if let Some(message) = line.frames.next_message().ok()? {
            return Some(message);
        }
        match line.reader.read(&mut bytes).await {
            Ok(len @ 1..) => line.frames.push(&bytes[..len]),
            _ => return None,
        }
    }
}

fn tell(shared: &Shared, pair: Pair, answer: &[u8]) {
    shared.with(|stack, _| stack.deliver(pair.to, pair.from, answer));
}
