//! How streams and datagrams share the payloads of a circuit (docs/protocol.md, 5.36).

/// What streams and associations have said, each divided by the number of those that had something to say. Who had
/// nothing to say saves nothing up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shares {
    streams: u64,
    associations: u64,
}

/// Shares are counted in parts of a byte, so that none is lost by dividing.
const PARTS: u64 = 1_024;

fn share(bytes: usize, speakers: usize) -> u64 {
    (bytes as u64 * PARTS) / speakers.max(1) as u64
}

impl Shares {
    /// Is it the turn of associations? `streams` streams have something to say, and so has an association.
    pub(super) fn is_for_associations(&mut self, streams: usize) -> bool {
        if streams == 0 {
            self.streams = self.streams.max(self.associations);
        }
        self.associations <= self.streams
    }

    /// No association has anything to say.
    pub(super) fn on_none(&mut self) {
        self.associations = self.associations.max(self.streams);
    }

    /// Counts what streams have said.
    pub(super) fn on_streams(&mut self, bytes: usize, speakers: usize) {
        self.streams += share(bytes, speakers);
    }

    /// Counts what associations have said.
    pub(super) fn on_associations(&mut self, bytes: usize, speakers: usize) {
        self.associations += share(bytes, speakers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that associations and streams said of 1,000 payloads, if both always have more.
    fn run(shares: &mut Shares, associations: usize, streams: usize) -> (usize, usize) {
        let mut said = (0, 0);
        for _ in 0..1_000 {
            if shares.is_for_associations(streams) {
                shares.on_associations(1_900, associations);
                said.0 += 1;
            } else {
                shares.on_streams(1_900, streams);
                said.1 += 1;
            }
        }
        said
    }

    #[test]
    fn each_speaker_has_the_same() {
        assert_eq!(run(&mut Shares::default(), 1, 1), (500, 500));
        let (associations, streams) = run(&mut Shares::default(), 3, 1);
        assert!((749..=751).contains(&associations), "{associations}");
        assert_eq!(associations + streams, 1_000);
    }

    #[test]
    fn who_was_silent_has_nothing_saved_up() {
        let mut shares = Shares::default();
        assert_eq!(run(&mut shares, 1, 0), (1_000, 0));
        let (associations, _) = run(&mut shares, 1, 1);
        assert!((499..=501).contains(&associations));
        for _ in 0..1_000 {
            shares.on_none();
            shares.on_streams(1_900, 1);
        }
        shares.on_none();
        let (associations, _) = run(&mut shares, 1, 1);
        assert!((499..=501).contains(&associations));
    }
}
