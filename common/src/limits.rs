//! Every bound that is not negotiated, each with its reason (S20, S22).

use core::time::Duration;

/// From TCP accept or dial to both HELLOs: a peer that dawdles is dropped (S5).
pub const LINK_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A link without circuits is closed after this time by the side that dialled it: each costs both sides memory, and what a
/// client holds open is there to be seen.
pub const LINK_REST_DIALLED: Duration = Duration::from_secs(180);
/// The same for the side that accepted it, which leaves the other the first word: a CREATE that crosses the end is lost.
pub const LINK_REST_ACCEPTED: Duration = Duration::from_secs(600);
/// Each link draws by how much it is more, up to so many times.
pub const LINK_REST_SPREAD: f64 = 1.5;
/// CREATEs that all links together may have waiting: 1.5 s of work for one core at about 140 us each.
pub const CREATES_WAITING: usize = 10_000;
/// Circuits on one link, both directions together. Ids are 31 bits; memory is what counts.
pub const CIRCUITS_PER_LINK: usize = 16_384;
/// Cells that one circuit may have queued on one link, in one direction, over its window:
/// acknowledgements, credit and the closing words, which no window counts.
pub const QUEUE_SLACK_CELLS: usize = 256;
/// Streams on one circuit, both half-closed and awaiting their END included (S15).
pub const STREAMS_PER_CIRCUIT: usize = 1024;
/// A stream's credit never exceeds so many times what it started with.
pub const CREDIT_GROWTH: u32 = 8;
/// What the credits of all streams of a circuit may have grown by together (bytes): what an application that stops reading
/// can make this end hold beyond the first credit.
pub const CREDIT_EXTRA: u32 = 8 << 20;
/// Bytes that a stream takes from its application ahead of the network, when it is one of few.
pub const STREAM_SEND_BUFFER: usize = 128 * 1024;
/// What the streams of a circuit take together, before each takes less: what waits longer than a processor's cache remembers
/// is moved twice at the price of memory (50 downloads on one circuit cost a sixth less for it).
pub const STREAM_SEND_BUFFERS: usize = 1024 * 1024;
/// The least that each takes: two turns of a stream.
pub const STREAM_SEND_BUFFER_LEAST: usize = 64 * 1024;
/// Cells taken from the queues of a link for one system call: 16 TLS records.
pub const WRITE_BATCH_CELLS: usize = 128;
/// Bytes asked of the kernel in one read of a link (datapath findings: 256 KiB).
pub const READ_BATCH_BYTES: usize = 256 * 1024;
/// What a circuit has sent on a link counts half after this time when links choose who goes next: long enough that bulk
/// stays bulk while it waits for an answer, short enough that a circuit used for something else soon goes first again.
pub const RECENT_HALF_LIFE: Duration = Duration::from_secs(10);
/// Cells of one circuit taken in a row before the next circuit's turn: one TLS record.
pub const TURN_CELLS: usize = 8;
/// Cells for circuits unknown here, in one second, before the link closes (S7).
pub const UNKNOWN_CIRCUIT_CELLS_PER_SECOND: u32 = 100;
/// Accept errors such as EMFILE are survived with this pause (S39).
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
