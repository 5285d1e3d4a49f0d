//! What came of reading a configuration again, for the owner: in words, and typed.

use serde::{Deserialize, Serialize};

use crate::config::Difference;

/// What came of reading the configuration's file again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The file; `None` if the node was started by flags.
    pub file: Option<String>,
    /// What has changed.
    pub changed: Vec<Difference>,
    /// What is different in the file and needs a restart.
    pub restart: Vec<Difference>,
    /// Why nothing has changed, if the file was refused.
    pub refused: Option<Refusal>,
    /// Streams that ended because the exit's policy refuses their destination from now on.
    pub streams_ended: usize,
    /// Circuits of the client that are given up because its rules refuse a relay of them from now on.
    pub circuits_retired: usize,
}

/// Why a file was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is wrong.
    pub what: String,
    /// What to try.
    pub hint: String,
}

impl Report {
    /// The report in words, a line for each thing. `for_log` leaves the values out that may not stand in a log.
    pub fn lines(&self, for_log: bool) -> Vec<String> {
        let file = self.file.as_deref().unwrap_or("the configuration");
        if let Some(Refusal { what, hint }) = &self.refused {
            return vec![format!("nothing has changed: {what} ({hint})")];
        }
        if self.changed.is_empty() && self.restart.is_empty() {
            return vec![format!("{file} says what is in force already")];
        }
        let hides = |difference: &Difference| for_log && difference.is_private();
        let values = |difference: &Difference| match hides(difference) {
            true => String::new(),
            false => {
                let shown = |value: &Option<String>| value.clone().unwrap_or("nothing".to_owned());
                format!(
                    " from {} to {}",
                    shown(&difference.old),
                    shown(&difference.new)
                )
            }
        };
        let mut lines = Vec::new();
        for difference in &self.changed {
            lines.push(format!(
                "{} has changed{}",
                difference.key,
                values(difference)
            ));
        }
        for difference in &self.restart {
            let why = difference.restart.as_deref().unwrap_or_default();
            let values = values(difference);
            lines.push(format!(
                "{} changes{values} with a restart only: {why}",
                difference.key
            ));
        }
        if self.streams_ended > 0 {
            let streams = cepa_common::words::Count(self.streams_ended, "stream");
            lines.push(format!("the exit's policy has ended {streams}"));
        }
        if self.circuits_retired > 0 {
            let circuits = cepa_common::words::Count(self.circuits_retired, "circuit");
            lines.push(format!("the client has given up {circuits}"));
        }
        lines
    }

    /// Writes the report to the log.
    pub(super) fn log(&self) {
        for line in self.lines(true) {
            match self.refused {
                Some(_) => tracing::warn!("configuration: {line}"),
                None => tracing::info!("configuration: {line}"),
            }
        }
    }

    /// There is nothing to read again.
    pub(in crate::node) fn of_no_file(file: Option<String>) -> Self {
        Self::refuse(
            file,
            "this node was started by flags, and has no file to read again".to_owned(),
            "`--print-config` writes the flags as a file for `cepa run`",
        )
    }

    /// Nothing has changed, because of `what`.
    pub(super) fn refuse(file: Option<String>, what: String, hint: &str) -> Self {
        let refused = Some(Refusal {
            what,
            hint: hint.to_owned(),
        });
        Self {
            file,
            refused,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_not_told_where_applications_go() {
        let difference = |key: &str, restart: Option<&str>| Difference {
            key: key.to_owned(),
            old: None,
            new: Some("\"secret.example\"".to_owned()),
            restart: restart.map(str::to_owned),
        };
        let report = Report {
            changed: vec![difference("client.destinations", None)],
            restart: vec![difference("log.file", Some("it is open"))],
            streams_ended: 1,
            ..Report::default()
        };
        let said = report.lines(true);
        assert_eq!(
            said,
            [
                "client.destinations has changed",
                "log.file changes from nothing to \"secret.example\" with a restart only: it is open",
                "the exit's policy has ended 1 stream",
            ]
        );
        assert!(report.lines(false)[0].contains("secret.example"));
        let refused = Report::refuse(None, "line 3: no".to_owned(), "try");
        assert_eq!(
            refused.lines(true),
            ["nothing has changed: line 3: no (try)"]
        );
        assert_eq!(Report::default().lines(true).len(), 1);
    }
}
