//! The eight clear bytes of a cell, and the bodies of CREATE, CREATED and DESTROY (docs/protocol.md, chapter 2). The
//! body of a RELAY cell belongs to [`crate::onion`], the body of a HELLO cell to [`crate::link`].

use super::wire::{Reader, UnexpectedEnd, all_zero};
use super::{BODY_LEN, Body, CELL_LEN, CLEAR_LEN, HEADER_LEN, Payload};
use crate::ids::CircId;

/// One cell as it travels inside TLS.
pub type Cell = [u8; CELL_LEN];

/// Length of the client's half of a circuit handshake, in bytes: B, X, ek, C1 (protocol.md 3.4).
pub const CREATE_LEN: usize = 32 + 32 + 1184 + 32;
/// Length of the relay's half of a circuit handshake, in bytes: Y, ct, C2, AUTH (protocol.md 3.4).
pub const CREATED_LEN: usize = 32 + 1088 + 32 + 32;
/// Number of the only kind of circuit handshake: X25519 with ML-KEM-768 (protocol.md 2.4).
const HANDSHAKE_HYBRID: u8 = 1;

/// What a cell is (protocol.md 2.2). The list is complete: a cell with another number closes the link (S7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Asks for a new circuit.
    Create,
    /// Answers CREATE.
    Created,
    /// Carries an onion.
    Relay,
    /// Ends a circuit.
    Destroy,
    /// Says nothing, on the link itself.
    Padding,
    /// The first cell in each direction of a link.
    Hello,
}

impl Command {
    fn code(self) -> u8 {
        match self {
            Self::Create => 1,
            Self::Created => 2,
            Self::Relay => 3,
            Self::Destroy => 4,
            Self::Padding => 5,
            Self::Hello => 6,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Create,
            2 => Self::Created,
            3 => Self::Relay,
            4 => Self::Destroy,
            5 => Self::Padding,
            6 => Self::Hello,
            _ => return None,
        })
    }
}

/// What a cell is and whom it is for: the link itself, or one of the circuits on the link. The command decides which
/// (protocol.md 2.2), and the two have types of their own, so that neither can carry a command of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// HELLO or PADDING, on circuit 0.
    Link(LinkCommand),
    /// A command of a circuit.
    Circuit(CircId, CircuitCommand),
}

/// Commands of the link itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkCommand {
    /// See [`Command::Hello`].
    Hello,
    /// See [`Command::Padding`].
    Padding,
}

/// Commands of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitCommand {
    /// See [`Command::Create`].
    Create,
    /// See [`Command::Created`].
    Created,
    /// See [`Command::Relay`].
    Relay,
    /// See [`Command::Destroy`].
    Destroy,
}

/// Why bytes are not a cell. Each of these errors closes the link (protocol.md 2.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CellError {
    /// The command's number is not in the table of protocol.md 2.2.
    #[error("unknown cell command {0}")]
    UnknownCommand(u8),
    /// Bytes 5 to 7 are not zero.
    #[error("reserved bytes of a cell are not zero")]
    ReservedNotZero,
    /// A command of the link has a circuit id, or a command of a circuit has none.
    #[error("cell command does not fit its circuit id")]
    WrongCircuit,
    /// The body breaks the rules of its command, which is named here.
    #[error("malformed {0} cell")]
    Body(&'static str),
}

impl From<UnexpectedEnd> for CellError {
    fn from(_: UnexpectedEnd) -> Self {
        Self::Body("short")
    }
}

/// Reads the eight clear bytes (protocol.md 2.1).
pub fn head(cell: &Cell) -> Result<Head, CellError> {
    let mut reader = Reader::new(cell);
    let circ = CircId::new(reader.u32()?);
    let code = reader.u8()?;
    let command = Command::from_code(code).ok_or(CellError::UnknownCommand(code))?;
    if !all_zero(reader.take(3)?) {
        return Err(CellError::ReservedNotZero);
    }
    let on_circuit = |command| {
        circ.map(|c| Head::Circuit(c, command))
            .ok_or(CellError::WrongCircuit)
    };
    let on_link = |command| match circ {
        None => Ok(Head::Link(command)),
        Some(_) => Err(CellError::WrongCircuit),
    };
    match command {
        Command::Create => on_circuit(CircuitCommand::Create),
        Command::Created => on_circuit(CircuitCommand::Created),
        Command::Relay => on_circuit(CircuitCommand::Relay),
        Command::Destroy => on_circuit(CircuitCommand::Destroy),
        Command::Padding => on_link(LinkCommand::Padding),
        Command::Hello => on_link(LinkCommand::Hello),
    }
}

/// Writes the eight clear bytes for a command of a circuit.
pub fn write_circuit_head(cell: &mut Cell, circ: CircId, command: CircuitCommand) {
    let command = match command {
        CircuitCommand::Create => Command::Create,
        CircuitCommand::Created => Command::Created,
        CircuitCommand::Relay => Command::Relay,
        CircuitCommand::Destroy => Command::Destroy,
    };
    write_head(cell, circ.get(), command);
}

/// Writes the eight clear bytes for a command of the link.
pub fn write_link_head(cell: &mut Cell, command: LinkCommand) {
    let command = match command {
        LinkCommand::Hello => Command::Hello,
        LinkCommand::Padding => Command::Padding,
    };
    write_head(cell, 0, command);
}

fn write_head(cell: &mut Cell, circ: u32, command: Command) {
    cell[..4].copy_from_slice(&circ.to_be_bytes());
    cell[4] = command.code();
    cell[5..8].fill(0);
}

/// The body of a cell.
pub fn body(cell: &Cell) -> &Body {
    cell.last_chunk().unwrap_or(&[0; BODY_LEN])
}

/// The body of a cell, which may be changed in place.
pub fn body_mut(cell: &mut Cell) -> &mut Body {
    const { assert!(CLEAR_LEN + BODY_LEN == CELL_LEN) };
    match cell.last_chunk_mut() {
        Some(body) => body,
        None => unreachable!("a body is shorter than its cell, see the assertion above"),
    }
}

/// The payload of a RELAY body, to be changed: what follows the onion header.
pub fn payload_mut(body: &mut Body) -> &mut Payload {
    match body[HEADER_LEN..].as_mut_array() {
        Some(payload) => payload,
        None => unreachable!("a body is a header and a payload"),
    }
}

/// The payload of a RELAY body: what follows the onion header.
pub fn payload(body: &Body) -> &Payload {
    match body[HEADER_LEN..].as_array() {
        Some(payload) => payload,
        None => unreachable!("a body is a header and a payload"),
    }
}

/// Why a circuit ended, as far as a peer is told (protocol.md 2.5). The set is small and fixed. A relay never passes on
/// a reason that it received (S19).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestroyReason {
    /// Number 1: the circuit was no longer needed.
    Finished,
    /// Number 2: a cell did not open, was not legal, or broke a rule. The peer is told no more than that (S12).
    Protocol,
    /// Number 3: this relay has no room for more now; another relay may have.
    Resource,
    /// Number 4: the next relay is unknown, cannot be reached, or its link is lost.
    Unreachable,
    /// Number 5: this peer is shutting down.
    Shutdown,
}

impl DestroyReason {
    /// The reason's number on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::Finished => 1,
            Self::Protocol => 2,
            Self::Resource => 3,
            Self::Unreachable => 4,
            Self::Shutdown => 5,
        }
    }

    /// The reason with this number on the wire.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Finished,
            2 => Self::Protocol,
            3 => Self::Resource,
            4 => Self::Unreachable,
            5 => Self::Shutdown,
            _ => return None,
        })
    }
}

/// Makes a CREATE cell with the client's half of the handshake.
pub fn create(circ: CircId, message: &[u8; CREATE_LEN]) -> Cell {
    handshake_cell(circ, CircuitCommand::Create, message)
}

/// Makes a CREATED cell with the relay's half of the handshake.
pub fn created(circ: CircId, reply: &[u8; CREATED_LEN]) -> Cell {
    handshake_cell(circ, CircuitCommand::Created, reply)
}

fn handshake_cell(circ: CircId, command: CircuitCommand, message: &[u8]) -> Cell {
    let mut cell = [0; CELL_LEN];
    write_circuit_head(&mut cell, circ, command);
    cell[CLEAR_LEN] = HANDSHAKE_HYBRID;
    cell[CLEAR_LEN + 1..CLEAR_LEN + 1 + message.len()].copy_from_slice(message);
    cell
}

/// Reads the client's half of the handshake from a CREATE body.
pub fn parse_create(body: &Body) -> Result<&[u8; CREATE_LEN], CellError> {
    parse_handshake(body, "CREATE")
}

/// Reads the relay's half of the handshake from a CREATED body.
pub fn parse_created(body: &Body) -> Result<&[u8; CREATED_LEN], CellError> {
    parse_handshake(body, "CREATED")
}

fn parse_handshake<'a, const N: usize>(
    body: &'a Body,
    name: &'static str,
) -> Result<&'a [u8; N], CellError> {
    let mut reader = Reader::new(body);
    let kind = reader.u8()?;
    let message = reader.array()?;
    if kind != HANDSHAKE_HYBRID || !all_zero(reader.rest()) {
        return Err(CellError::Body(name));
    }
    Ok(message)
}

/// Makes a DESTROY cell.
pub fn destroy(circ: CircId, reason: DestroyReason) -> Cell {
    let mut cell = [0; CELL_LEN];
    write_circuit_head(&mut cell, circ, CircuitCommand::Destroy);
    cell[CLEAR_LEN] = reason.code();
    cell
}

/// Reads the reason from a DESTROY body.
pub fn parse_destroy(body: &Body) -> Result<DestroyReason, CellError> {
    match DestroyReason::from_code(body[0]) {
        Some(reason) if all_zero(&body[1..]) => Ok(reason),
        _ => Err(CellError::Body("DESTROY")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_command_belongs_to_the_link_or_to_a_circuit() {
        for code in 0..=255u8 {
            for circ in [0u32, 1, CircId::DIALLER_BIT, u32::MAX] {
                let mut cell = [0; CELL_LEN];
                cell[..4].copy_from_slice(&circ.to_be_bytes());
                cell[4] = code;
                let legal = match code {
                    1..=4 => circ != 0,
                    5 | 6 => circ == 0,
                    _ => false,
                };
                assert_eq!(head(&cell).is_ok(), legal, "code {code}, circuit {circ}");
            }
        }
    }

    #[test]
    fn reserved_bytes_must_be_zero() {
        for at in 5..8 {
            let mut cell = destroy(CircId::new(7).unwrap(), DestroyReason::Finished);
            cell[at] = 1;
            assert_eq!(head(&cell), Err(CellError::ReservedNotZero));
        }
    }

    #[test]
    fn destroy_takes_only_known_reasons_and_zeros() {
        for code in 0..=255u8 {
            let mut body = [0; BODY_LEN];
            body[0] = code;
            let parsed = parse_destroy(&body);
            assert_eq!(parsed.is_ok(), (1..=5).contains(&code));
            if let Ok(reason) = parsed {
                assert_eq!(reason.code(), code);
                body[BODY_LEN - 1] = 1;
                assert_eq!(parse_destroy(&body), Err(CellError::Body("DESTROY")));
            }
        }
    }

    proptest! {
        #[test]
        fn handshakes_round_trip(circ in 1u32.., fill: u8) {
            let circ = CircId::new(circ).unwrap();
            let cell = create(circ, &[fill; CREATE_LEN]);
            prop_assert_eq!(head(&cell), Ok(Head::Circuit(circ, CircuitCommand::Create)));
            prop_assert_eq!(parse_create(body(&cell)).unwrap(), &[fill; CREATE_LEN]);
            let cell = created(circ, &[fill; CREATED_LEN]);
            prop_assert_eq!(head(&cell), Ok(Head::Circuit(circ, CircuitCommand::Created)));
            prop_assert_eq!(parse_created(body(&cell)).unwrap(), &[fill; CREATED_LEN]);
        }

        #[test]
        fn what_follows_a_handshake_must_be_zero(at in CREATE_LEN + 1..BODY_LEN, bit in 0..8u8) {
            let mut cell = create(CircId::new(1).unwrap(), &[3; CREATE_LEN]);
            cell[CLEAR_LEN + at] ^= 1 << bit;
            prop_assert_eq!(parse_create(body(&cell)), Err(CellError::Body("CREATE")));
        }

        #[test]
        fn any_clear_bytes_are_a_head_or_an_error(clear: [u8; CLEAR_LEN]) {
            let mut cell = [0; CELL_LEN];
            cell[..CLEAR_LEN].copy_from_slice(&clear);
            if let Ok(read) = head(&cell) {
                let mut again = [0; CELL_LEN];
                match read {
                    Head::Link(command) => write_link_head(&mut again, command),
                    Head::Circuit(circ, command) => write_circuit_head(&mut again, circ, command),
                }
                prop_assert_eq!(again, cell);
            }
        }
    }
}
