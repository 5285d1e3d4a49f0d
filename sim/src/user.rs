//! A user at a client, and the hosts that streams go to. Both ends check every byte.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cepa_client::Client;
use cepa_common::world::World;
use cepa_common::world::sockets::SocketStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep, timeout};

use crate::load::{Job, JobKind, Pattern, REQUEST_BYTES, breaks_off, read_request, request};
use crate::sight::{Invariant, JobEnd, Sight};
use crate::site::Site;

/// The port that servers listen at.
const PORT: u16 = 80;
/// A user goes away after this time.
const PATIENCE: Duration = Duration::from_secs(180);
/// Bytes that are written or read at once.
const PART: usize = 16 * 1024;

/// What one stream came to.
#[derive(Default)]
struct Got {
    opened: Option<Duration>,
    first_byte: Option<Duration>,
    bytes: u64,
    is_done: bool,
}

/// Does one job.
pub(crate) async fn work(site: Arc<Site>, node: u32, client: Client, job: Job) -> JobEnd {
    let began = site.sight.now();
    let mut streams = JoinSet::new();
    for number in 0..job.streams {
        let job = Job {
            key: job.key.wrapping_add(u64::from(number)),
            ..job
        };
        streams.spawn(stream(site.clone(), node, client.clone(), job));
    }
    let mut end = JobEnd {
        began,
        node,
        kind: job.kind,
        opened: None,
        first_byte: None,
        whole: Duration::ZERO,
        bytes: 0,
        is_done: true,
    };
    while let Some(got) = streams.join_next().await {
        let got = got.unwrap_or_default();
        let least = |one: Option<Duration>, other| one.into_iter().chain(other).min();
        end.opened = least(end.opened, got.opened);
        end.first_byte = least(end.first_byte, got.first_byte);
        end.bytes += got.bytes;
        end.is_done &= got.is_done;
    }
    end.whole = site.sight.now() - began;
    end
}

/// Tries of the last page; each other stream is tried once, as the client itself tries several circuits.
const LAST_TRIES: u32 = 3;

async fn stream(site: Arc<Site>, node: u32, client: Client, job: Job) -> Got {
    let tries = if job.kind == JobKind::Last {
        LAST_TRIES
    } else {
        1
    };
    let mut got = Got::default();
    for _ in 0..tries {
        let once = Box::pin(one(&site, node, &client, &job));
        let patience = PATIENCE + job.pause * job.turns;
        // A user who goes away drops the stream, which the destination sees as a reset.
        got = timeout(patience, once).await.unwrap_or_default();
        if got.is_done {
            break;
        }
    }
    got
}

async fn one(site: &Site, node: u32, client: &Client, job: &Job) -> Got {
    let began = site.sight.now();
    let Some((name, _)) = usize::try_from(job.server)
        .ok()
        .and_then(|place| site.plan.servers.get(place))
    else {
        return Got::default();
    };
    let stream = match client.connect(&format!("{name}:{PORT}")).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(target: "cepa_sim", "no stream: {error}");
            return Got::default();
        }
    };
    let opened = site.sight.now() - began;
    let (mut inward, mut outward) = tokio::io::split(stream);
    let asked = request(job.key, job.up, job.down, job.turns);
    if job.kind == JobKind::Stall {
        let is_done = outward.write_all(&asked).await.is_ok();
        sleep(job.pause).await;
        return Got {
            is_done,
            ..Got::default()
        };
    }
    let mut got = Got {
        opened: Some(opened),
        ..Got::default()
    };
    let up = async {
        let mut bytes = Pattern::new(job.key, true);
        outward.write_all(&asked).await?;
        for turn in 0..job.turns {
            if turn > 0 {
                sleep(job.pause).await;
            }
            write(&mut outward, &mut bytes, job.up).await?;
        }
        outward.shutdown().await?;
        Ok::<u64, io::Error>(bytes.place())
    };
    let all = job.down * u64::from(job.turns);
    let down = read(&mut inward, Pattern::new(job.key, false), all, |_| {
        got.first_byte.get_or_insert(site.sight.now() - began);
    });
    let (sent, read) = tokio::join!(up, down);
    match read {
        Ok(read) => got.bytes += read,
        Err(ReadError::Io(error)) => {
            tracing::debug!(target: "cepa_sim", "the stream ended: {error}");
            // The user hears that the server has broken the stream off, as he must.
            got.is_done = breaks_off(job.key);
            return got;
        }
        Err(ReadError::Wrong(what)) => {
            let what = format!("client {node}, stream {:x}: {what}", job.key);
            site.sight.violation(Invariant::Streams, vec![node], what);
            return got;
        }
    }
    got.is_done = sent.is_ok();
    got.bytes += sent.unwrap_or(0);
    got
}

/// Why a direction did not come to its end.
enum ReadError {
    /// The stream broke, and said so.
    Io(io::Error),
    /// What came is not what was sent.
    Wrong(String),
}

/// Writes the next `count` bytes of a pattern.
async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    pattern: &mut Pattern,
    count: u64,
) -> io::Result<()> {
    let mut left = count;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(PART).min(PART);
        to.write_all(&pattern.take(part)).await?;
        left -= u64::try_from(part).unwrap_or(left);
    }
    to.flush().await
}

/// Reads a whole direction, which has `all` bytes of a pattern and then ends.
async fn read(
    from: &mut (impl AsyncRead + Unpin),
    mut pattern: Pattern,
    all: u64,
    mut each: impl FnMut(usize),
) -> Result<u64, ReadError> {
    let mut buffer = vec![0; PART];
    loop {
        let read = from.read(&mut buffer).await.map_err(ReadError::Io)?;
        let place = pattern.place();
        if read == 0 {
            return match place == all {
                true => Ok(all),
                false => Err(ReadError::Wrong(format!(
                    "an end of file after {place} of {all} bytes"
                ))),
            };
        }
        each(read);
        if !pattern.check(&buffer[..read]) {
            return Err(ReadError::Wrong(format!(
                "wrong bytes between {place} and {}",
                pattern.place()
            )));
        }
        if pattern.place() > all {
            return Err(ReadError::Wrong(format!(
                "{} bytes of {all}",
                pattern.place()
            )));
        }
    }
}

/// Serves at `address` for as long as the run lasts.
pub(crate) async fn serve(world: World, address: IpAddr, sight: Sight) {
    let Ok(listener) = world.sockets.bind(SocketAddr::new(address, PORT)).await else {
        return;
    };
    while let Ok((stream, _)) = listener.accept().await {
        let sight = sight.clone();
        tokio::spawn(async move {
            if let Err((key, what)) = answer(stream).await {
                let what = format!("the server of stream {key:x} read {what}");
                sight.violation(Invariant::Streams, Vec::new(), what);
            }
        });
    }
}

/// Serves one stream. The error is the stream's key and what must not be.
async fn answer(stream: SocketStream) -> Result<(), (u64, String)> {
    let (mut inward, mut outward) = tokio::io::split(stream);
    let mut head = [0; REQUEST_BYTES];
    if inward.read_exact(&mut head).await.is_err() {
        // Whoever opens a stream and leaves, leaves nothing that could be wrong.
        return Ok(());
    }
    let [key, up, down, turns] = read_request(&head);
    let (turned, mut turn) = tokio::sync::watch::channel(0u64);
    let mut seen = 0u64;
    let reading = read(
        &mut inward,
        Pattern::new(key, true),
        up * turns,
        move |read| {
            seen += u64::try_from(read).unwrap_or(0);
            turned.send_replace(seen);
        },
    );
    let writing = async {
        let mut bytes = Pattern::new(key, false);
        let broken = breaks_off(key).then_some(down / 2);
        for number in 1..=turns {
            // The answer of a turn follows the last byte of its question; the channel's end follows the last of all.
            let asked = turn.wait_for(|seen| *seen >= up * number).await.is_ok();
            if !asked {
                return Ok(());
            }
            if number == turns
                && let Some(part) = broken
            {
                write(&mut outward, &mut bytes, part).await?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            write(&mut outward, &mut bytes, down).await?;
        }
        outward.shutdown().await
    };
    let (read, written) = tokio::join!(reading, writing);
    if written.is_err() {
        inward.unsplit(outward).reset_when_dropped();
    }
    match read {
        Ok(_) | Err(ReadError::Io(_)) => Ok(()),
        Err(ReadError::Wrong(what)) => Err((key, what)),
    }
}
