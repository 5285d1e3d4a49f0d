//! Bounds of settings: numbers, lengths of texts and of lists.

use core::fmt;

/// What the amount of a setting may be.
#[derive(Debug)]
pub(crate) struct Bounds {
    /// The least that is allowed.
    pub(super) least: u64,
    /// The most that is allowed.
    pub(super) most: u64,
    /// What is counted, with its unit.
    pub(super) unit: &'static str,
    /// What 0 means if it is no amount but stands for something else; empty if 0 is an amount.
    pub(super) zero: &'static str,
}

impl Bounds {
    /// May the amount be this?
    pub(super) fn allow(&self, amount: u64) -> bool {
        (self.least..=self.most).contains(&amount) || amount == 0 && !self.zero.is_empty()
    }

    /// What is said of a value that is not allowed.
    pub(super) fn complaint(&self) -> String {
        format!("it takes {self}")
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.least {
            0 => write!(f, "at most {}", self.most)?,
            least => write!(f, "{least} to {}", self.most)?,
        }
        write!(f, " {}", self.unit)?;
        if !self.zero.is_empty() {
            write!(f, ", or 0 for {}", self.zero)?;
        }
        Ok(())
    }
}
