//! The report of what was measured: for people as a table, for machines as JSON (docs/bench.md).

use serde::Serialize;

/// Number of the format. The number is raised when a field changes its meaning or goes away.
pub(super) const FORMAT: u32 = 1;

/// A run of the bench.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// The format: [`FORMAT`].
    pub(super) format: u32,
    /// Version of the program.
    pub(super) version: &'static str,
    /// When the run began (RFC 3339).
    pub(super) begun: String,
    /// Did every row that was asked for get its turn?
    pub(super) complete: bool,
    /// The machine that measured.
    pub(super) machine: Machine,
    /// The network and its links.
    pub(super) network: Setting,
    /// The rows, in the order in which they were measured.
    pub(super) rows: Vec<Row>,
}

/// What is known about the machine.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    /// Processors that this program may use.
    pub(super) processors: usize,
    /// Processor family.
    pub(super) arch: &'static str,
    /// Operating system.
    pub(super) os: &'static str,
    /// Was the program built with optimisation? The figures of a program that was not say little.
    pub(super) optimised: bool,
    /// The share of the processors, from 0 to 1, that other processes used during the run, if it is known.
    pub(super) others: Option<f64>,
}

/// The network and its links.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Setting {
    /// Path of the network's file, if a network was given.
    pub(super) file: Option<String>,
    /// Number of relays of a local network, exits included.
    pub(super) relays: Option<usize>,
    /// Does each node have a process of its own?
    pub(super) processes: bool,
    /// Delay of every link, each way (ms).
    pub(super) delay_ms: f64,
    /// Bandwidth of every link, each way (bytes a second).
    pub(super) bandwidth: Option<u64>,
    /// Share of segments lost on every link.
    pub(super) loss: f64,
    /// Duration of every timed row (s).
    pub(super) duration_s: f64,
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// Name of the row for `--only`.
    pub(super) id: &'static str,
    /// Name of the row for people.
    pub(super) title: &'static str,
    /// Why the row has no values.
    pub(super) error: Option<String>,
    /// The values.
    pub(super) values: Vec<Value>,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Value {
    /// What the value is of.
    pub(super) name: String,
    /// The number.
    pub(super) value: f64,
    /// Unit of the number.
    pub(super) unit: &'static str,
}

/// Makes a value.
pub(super) fn value(name: impl Into<String>, value: f64, unit: &'static str) -> Value {
    Value {
        name: name.into(),
        value,
        unit,
    }
}

impl Report {
    /// The value `name` of row `id`.
    pub(super) fn find(&self, id: &str, name: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.id == id)?;
        let value = row.values.iter().find(|value| value.name == name)?;
        Some(value.value)
    }

    /// Adds to `row` its ratios to the plain chain's row, if that was measured before.
    pub(super) fn compare(&self, row: &mut Row) {
        let Some(plain) = plain_of(row.id) else {
            return;
        };
        let ratios: Vec<Value> = row
            .values
            .iter()
            .filter(|value| ["rate", "cpu.all", "p50"].contains(&value.name.as_str()))
            .filter_map(|ours| {
                let theirs = self
                    .find(plain, &ours.name)
                    .filter(|theirs| *theirs > 0.0)?;
                Some(value(
                    format!("{}.of_plain", ours.name),
                    ours.value / theirs,
                    "x",
                ))
            })
            .collect();
        row.values.extend(ratios);
    }

    /// The report as a table for people.
    pub(super) fn table(&self) -> String {
        let width = self
            .rows
            .iter()
            .map(|row| row.title.len())
            .max()
            .unwrap_or(0);
        let mut table = String::new();
        for row in &self.rows {
            let said = match &row.error {
                Some(error) => format!("failed: {error}"),
                None => row.values.iter().map(shown).collect::<Vec<_>>().join("   "),
            };
            table.push_str(&format!("{:width$}   {said}\n", row.title));
        }
        table
    }
}

/// The plain chain's row that a row is compared with.
fn plain_of(id: &str) -> Option<&'static str> {
    match id {
        "down-1" => Some("plain-down-1"),
        "down-10" | "down-10-own" | "down-50" => Some("plain-down-10"),
        "up-1" => Some("plain-up-1"),
        "up-10" | "up-50" | "up-10-own" => Some("plain-up-10"),
        "first-byte-ready" => Some("plain-first-byte"),
        _ => None,
    }
}

/// A value as text for people. A bench is good for three digits.
pub(super) fn shown(value: &Value) -> String {
    let Value { name, value, unit } = value;
    let digits = match value.abs() {
        _ if unit.is_empty() => 0,
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{name} {value:.digits$} {unit}")
        .trim_end()
        .to_owned()
}

/// The `share` quantile of `sorted`: the nearest value that was measured.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    /// A report with two rows.
    pub(crate) fn sample() -> Report {
        let row = |id, title, values| Row {
            id,
            title,
            error: None,
            values,
        };
        Report {
            format: FORMAT,
            version: "0",
            begun: "2026-01-01T00:00:00Z".to_owned(),
            complete: true,
            machine: Machine {
                processors: 2,
                arch: "x",
                os: "y",
                optimised: true,
                others: Some(0.25),
            },
            network: Setting {
                file: Some("<&\">".to_owned()),
                relays: None,
                processes: true,
                delay_ms: 0.0,
                bandwidth: None,
                loss: 0.0,
                duration_s: 1.0,
            },
            rows: vec![
                row("plain-down-1", "plain", vec![value("rate", 800.0, "MB/s")]),
                row("down-1", "1 download", vec![value("rate", 200.0, "MB/s")]),
            ],
        }
    }

    #[test]
    fn ratios_are_to_the_plain_row() {
        let report = sample();
        let mut row = report.rows[1].clone();
        report.compare(&mut row);
        assert_eq!(row.values[1], value("rate.of_plain", 0.25, "x"));
        // A row that has no match among the plain rows gets no ratios.
        row.id = "circuits";
        row.values.truncate(1);
        report.compare(&mut row);
        assert_eq!(row.values.len(), 1);
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let sorted: Vec<f64> = (1..=101).map(f64::from).collect();
        assert_eq!(quantile(&sorted, 0.5), 51.0);
        assert_eq!(quantile(&sorted, 0.99), 100.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn the_table_has_a_line_for_each_row() {
        let mut report = sample();
        report.rows[1].error = Some("gone".to_owned());
        let table = report.table();
        assert_eq!(table.lines().count(), 2);
        assert!(table.contains("rate 800 MB/s") && table.contains("failed: gone"));
    }
}
