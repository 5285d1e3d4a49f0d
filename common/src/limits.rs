//! Every bound that is not negotiated, each with its reason (S20, S22).

use core::time::Duration;

/// What one circuit that ends at a relay is charged at rest, in bytes, for its task, layers, window and tables.
/// `tests/at_rest.rs` counts what a circuit with an idle stream takes of an allocator: 6.0 KiB. The rest is for
/// the allocator itself, whose pages are never quite full.
pub const CIRCUIT_BYTES: usize = 8 * 1_024;
/// What one stream is charged, in bytes, for its place in tables, and an exit's task and socket. `tests/at_rest.rs`
/// counts what it takes of an allocator: 1.7 KiB at rest, and 3.4 KiB while it waits for its destination.
pub const STREAM_BYTES: usize = 4 * 1_024;
/// What one circuit that passes through a relay is charged, in bytes, for its two layers and its places in the tables
/// of two links. `tests/at_rest.rs` counts what it takes of an allocator: 3.1 to 3.4 KiB. Of the machine's memory a relay took
/// 4.1 KiB for each.
pub const PASSING_BYTES: usize = 4_224;
/// PADDING cells that may come on a link within [`PADDING_TIME`]. Nothing asks for more yet (protocol.md 2.9).
pub const PADDING_CELLS: u32 = 10;
/// The time in which PADDING cells are counted.
pub const PADDING_TIME: Duration = Duration::from_secs(10);
/// The time from accepting or dialling a TCP connection to both HELLOs (protocol.md 1.6). A peer that takes longer is
/// dropped (S5).
pub const LINK_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The side that dialled a link closes it when it has carried no circuit for this time (protocol.md 2.11). Each link
/// costs both sides memory, and an observer can see which links a client holds open.
pub const LINK_REST_DIALLED: Duration = Duration::from_secs(180);
/// The side that accepted a link closes it when it has carried no circuit for this time. The time is longer than
/// [`LINK_REST_DIALLED`], so that the side that dialled closes first: a CREATE that crosses the end of the link is
/// lost.
pub const LINK_REST_ACCEPTED: Duration = Duration::from_secs(600);
/// Each link draws a factor between 1 and this number, by which its time of rest is longer.
pub const LINK_REST_SPREAD: f64 = 1.5;
/// CREATEs that may wait on all links together: 1.5 s of work for one core, at about 140 us each.
pub const CREATES_WAITING: usize = 10_000;
/// Circuits that each side may have made on one link, those included whose ids are not free yet (protocol.md 7.2). Ids
/// have 31 bits and would allow more; memory sets this bound. Each side knows how many it has made, so a CREATE over
/// the bound closes the link.
pub const CIRCUITS_PER_LINK: usize = 16_384;
/// Cells that may wait for a link in answer to its peer's CREATEs and DESTROYs before the link is read no further
/// (1 MiB). Relays that make 1,000 circuits a second with each other wait for half a second until there are so many.
pub const ANSWERS_PER_LINK: usize = 512;
/// A link that takes no byte of its answers for this time, and is not read meanwhile, is closed.
pub const ANSWERS_TIMEOUT: Duration = Duration::from_secs(120);
/// Circuits of a link whose end is remembered, so that what another task sends late does not follow their last cell.
pub const ENDED_CIRCUITS: usize = 1_024;
/// The time for which such an end is remembered. Other tasks hear of the end within milliseconds.
pub const ENDED_TIME: Duration = Duration::from_secs(10);
/// Cells that one circuit may have queued on one link in one direction beyond its window. Such cells are
/// acknowledgements, credit and the last messages of streams, which no window counts.
pub const QUEUE_SLACK_CELLS: usize = 256;
/// Streams on one circuit, those included that are half-closed or wait for their END (S15).
pub const STREAMS_PER_CIRCUIT: usize = 1024;
/// Streams on one circuit beyond those, by which a client asks whether the far end is there (7.15). One is asked at a
/// time, and the END of the one before may still be on its way.
pub const QUESTIONS_PER_CIRCUIT: usize = 8;
/// A stream's credit is never more than this many times its first credit.
pub const CREDIT_GROWTH: u32 = 8;
/// Bytes by which the credits of all streams of a circuit together may have grown. An application that stops reading
/// can make this end hold this many bytes beyond the first credit of each stream.
pub const CREDIT_EXTRA: u32 = 8 << 20;
/// Most bytes of a datagram: 65,535, less the heads of IPv4 and UDP (protocol.md 5.32).
pub const DATAGRAM_BYTES: usize = 65_507;
/// Associations that may be in use on one circuit (protocol.md 5.30). A program has one for each of its ports.
pub const ASSOCIATIONS_PER_CIRCUIT: usize = 64;
/// Datagrams that one association holds in one direction (protocol.md 5.35): some round trips of a video call.
pub const DATAGRAMS_QUEUED: usize = 128;
/// Bytes of such datagrams.
pub const DATAGRAM_QUEUE_BYTES: usize = 256 * 1024;
/// Bytes of the datagrams that all associations of a circuit hold in one direction.
pub const DATAGRAM_QUEUES_BYTES: usize = 1024 * 1024;
/// A datagram that has waited to be sent for so long is worth nothing to most who use datagrams.
pub const DATAGRAM_AGE: Duration = Duration::from_secs(1);
/// What one association is charged, in bytes, for its places in tables and an exit's task, sockets and peers.
pub const ASSOCIATION_BYTES: usize = 8 * 1_024;
/// Bytes that a stream takes from its application before the network can send them, if its circuit has few streams.
pub const STREAM_SEND_BUFFER: usize = 128 * 1024;
/// Bytes that the streams of a circuit take together before each of them takes less. Bytes that wait for longer than a
/// processor's cache keeps them are moved twice through main memory. (50 downloads on one circuit cost a sixth less
/// with this bound.)
pub const STREAM_SEND_BUFFERS: usize = 1024 * 1024;
/// The least bytes that each stream takes, however many there are: two turns of a stream.
pub const STREAM_SEND_BUFFER_LEAST: usize = 64 * 1024;
/// Cells taken from the queues of a link for one system call: 16 TLS records.
pub const WRITE_BATCH_CELLS: usize = 128;
/// Bytes asked of the kernel in one read of a link. Links with buffers of 256 KiB took a quarter less processor time
/// for the same bytes than links with 16 KiB did.
pub const READ_BATCH_BYTES: usize = 256 * 1024;
/// When links choose which circuit goes next, a cell that a circuit sent this long ago counts half. The time is long
/// enough that a circuit with bulk does not become a quiet one while it waits for an answer, and short enough that a
/// circuit which is used for something else soon goes first again.
pub const RECENT_HALF_LIFE: Duration = Duration::from_secs(10);
/// Cells of one circuit taken in a row before the next circuit's turn: one TLS record.
pub const TURN_CELLS: usize = 8;
/// Cells for unknown circuits that may come in one second; one more closes the link (S7, protocol.md 2.9).
pub const UNKNOWN_CIRCUIT_CELLS_PER_SECOND: u32 = 100;
/// After an error of accept, such as EMFILE (no file descriptor is left), the listener waits this time and goes on
/// (S39).
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
