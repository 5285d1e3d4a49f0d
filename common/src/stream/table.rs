//! What a message does that comes on a stream, by what both ends have said about the stream's end: the table of
//! docs/protocol.md, 5.8. Both ends judge every message by it, and a test compares it with the one that is printed.
//!
//! What the table leaves to others: the credit that DATA and WINDOW must keep to, how often BLOCKED may come (5.10), and
//! that a relay says CONNECTED once, and before DATA and `END(Done)` (5.5).

use crate::cell::message::{EndReason, StreamMessage};

/// What a side has said about the end of its own direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// No END.
    Nothing,
    /// `END(Done)` and no other.
    Done,
    /// An END that gives the stream up, alone or after `END(Done)`.
    GaveUp,
}

/// A message of a stream, as far as the table tells messages apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// CONNECTED.
    Connected,
    /// DATA.
    Data,
    /// `END(Done)`.
    Done,
    /// END with any other reason.
    GiveUp,
    /// WINDOW.
    Window,
    /// BLOCKED.
    Blocked,
}

impl Kind {
    /// The kind of a message that both ends may send.
    pub(super) fn of(message: &StreamMessage<'_>) -> Self {
        match message {
            StreamMessage::Data(_) => Self::Data,
            StreamMessage::End(EndReason::Done) => Self::Done,
            StreamMessage::End(_) => Self::GiveUp,
            StreamMessage::Window(_) => Self::Window,
            StreamMessage::Blocked => Self::Blocked,
        }
    }
}

/// What a message does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// What the message says is done.
    Take,
    /// The message keeps to its bound and counts, and nothing comes of it: this side listens no more.
    Pass,
    /// Like [`Effect::Pass`] while the id lingers. Afterwards the message destroys the circuit.
    Linger,
    /// The message destroys the circuit.
    Destroy,
}

/// What a message does at a side that has said `said` about its own direction, and has heard `heard` about the other.
pub(super) const fn effect(said: Word, heard: Word, message: Kind) -> Effect {
    match (heard, said, message) {
        // Whoever gave the stream up says nothing more, whether it has heard an END or not.
        (Word::GaveUp, _, _) => Effect::Destroy,
        (Word::Nothing, Word::Nothing, _) => Effect::Take,
        (Word::Nothing, Word::Done, Kind::Window) => Effect::Pass,
        (Word::Nothing, Word::Done, _) => Effect::Take,
        // The other side may not have read yet that this side gave the stream up. Its END is waited for.
        (Word::Nothing, Word::GaveUp, Kind::Done | Kind::GiveUp) => Effect::Take,
        (Word::Nothing, Word::GaveUp, _) => Effect::Pass,
        // After END(Done) there are grants for the direction that goes on, and one END that gives up.
        (Word::Done, Word::Nothing, Kind::Window | Kind::GiveUp) => Effect::Take,
        (Word::Done, Word::Done | Word::GaveUp, Kind::Window | Kind::GiveUp) => Effect::Linger,
        (Word::Done, _, Kind::Connected | Kind::Data | Kind::Done | Kind::Blocked) => {
            Effect::Destroy
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PROTOCOL: &str = include_str!("../../../docs/protocol.md");
    const HEAD: &str =
        "| said | heard | CONNECTED | DATA | END(Done) | END, gives up | WINDOW | BLOCKED |";
    const KINDS: [Kind; 6] = [
        Kind::Connected,
        Kind::Data,
        Kind::Done,
        Kind::GiveUp,
        Kind::Window,
        Kind::Blocked,
    ];

    fn word(text: &str) -> Word {
        match text {
            "nothing" => Word::Nothing,
            "Done" => Word::Done,
            "gave up" => Word::GaveUp,
            other => panic!("no word: {other}"),
        }
    }

    fn read_effect(text: &str) -> Effect {
        match text {
            "take" => Effect::Take,
            "pass" => Effect::Pass,
            "linger" => Effect::Linger,
            "destroy" => Effect::Destroy,
            other => panic!("no effect: {other}"),
        }
    }

    #[test]
    fn the_document_prints_this_table() {
        let (_, behind) = PROTOCOL.split_once(HEAD).unwrap();
        let rows = behind
            .lines()
            .skip(2)
            .take_while(|row| row.starts_with('|'));
        let mut states = Vec::new();
        for row in rows {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            let (said, heard) = (word(cells[0]), word(cells[1]));
            assert_eq!(cells.len(), 2 + KINDS.len(), "{row}");
            for (kind, cell) in KINDS.into_iter().zip(&cells[2..]) {
                assert_eq!(
                    effect(said, heard, kind),
                    read_effect(cell),
                    "{kind:?}: {row}"
                );
            }
            assert!(!states.contains(&(said, heard)), "{row}");
            states.push((said, heard));
        }
        assert_eq!(states.len(), 9, "every state has its row");
    }
}
