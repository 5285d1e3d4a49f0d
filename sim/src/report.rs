//! What was measured in one run or many: as text, as JSON, and as a page with plots.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use crate::load::JobKind;
use crate::outcome::Outcome;
use crate::sight::JobEnd;

/// Points of a distribution that reports give (per cent).
const POINTS: [usize; 5] = [10, 50, 90, 99, 100];

/// What was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// Number of runs.
    pub runs: u64,
    /// Number of runs that failed or differed.
    pub failed: u64,
    /// Virtual time of all runs together (seconds).
    pub virtual_seconds: f64,
    /// Number of events of the network.
    pub events: u64,
    /// Number of faults.
    pub faults: usize,
    /// What each failed run did not keep.
    pub failures: Vec<Failure>,
    /// What users had, by the kind of job.
    pub jobs: BTreeMap<&'static str, Jobs>,
    /// Number of clients that had so many guards.
    pub guards: BTreeMap<usize, usize>,
    /// What hostile nodes did, and how often, by the name of it.
    pub misdeeds: BTreeMap<&'static str, u64>,
    #[serde(skip)]
    ends: BTreeMap<JobKind, Vec<JobEnd>>,
}

/// A run that failed.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The seed.
    pub seed: String,
    /// What did not hold.
    pub invariant: String,
    /// When (virtual seconds since the beginning).
    pub at_seconds: f64,
    /// What was seen.
    pub what: String,
}

/// What users had of one kind of job.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Jobs {
    /// Number of jobs.
    pub count: usize,
    /// Number of jobs that came to their end.
    pub done: usize,
    /// Bytes that were carried both ways.
    pub bytes: u64,
    /// Time until the first byte (milliseconds), at 10, 50, 90, 99 and 100 per cent.
    pub first_byte_ms: Vec<f64>,
    /// Time until the end of jobs that came to it (milliseconds), at the same points.
    pub whole_ms: Vec<f64>,
    /// Bytes a second of jobs that came to their end, at the same points.
    pub rate: Vec<f64>,
    /// Jain's index of these rates: 1 if all are equal, 1/n if one has all.
    pub fairness: f64,
}

impl Report {
    /// A report of no run of this scenario.
    pub fn new(scenario: &str) -> Self {
        Self {
            scenario: scenario.to_owned(),
            ..Self::default()
        }
    }

    /// Takes a run into the report.
    pub fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.virtual_seconds += outcome.lasted.as_secs_f64();
        self.events += outcome.events;
        self.faults += outcome.faults;
        let failure = outcome.failure().map(|failure| Failure {
            seed: outcome.seed.to_string(),
            invariant: failure.invariant.to_string(),
            at_seconds: failure.at.as_secs_f64(),
            what: failure.what.clone(),
        });
        self.failed += u64::from(failure.is_some());
        self.failures.extend(failure);
        for (_, guards) in &outcome.guards {
            *self.guards.entry(*guards).or_default() += 1;
        }
        for (how, count) in &outcome.misdeeds {
            *self.misdeeds.entry(how.name()).or_default() += count;
        }
        for end in &outcome.jobs {
            self.ends.entry(end.kind).or_default().push(*end);
        }
    }

    /// Computes what [`Report::jobs`] says.
    pub fn finish(&mut self) {
        self.jobs = self
            .ends
            .iter()
            .map(|(kind, ends)| (kind.name(), jobs(ends)))
            .collect();
    }

    /// The report as people read it at a terminal.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (kind, jobs) in &self.jobs {
            let at = |values: &[f64], point: usize| values.get(point).copied().unwrap_or_default();
            let (first, whole) = (&jobs.first_byte_ms, &jobs.whole_ms);
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{kind:<9} {:>6} of {:<6} done   first byte {:>7.0} ms, 90 % {:>7.0} ms   whole {:>7.0} ms, 90 % {:>8.0} ms",
                jobs.done,
                jobs.count,
                at(first, 1),
                at(first, 2),
                at(whole, 1),
                at(whole, 2),
            );
        }
        if !self.misdeeds.is_empty() {
            let said = |(how, count): (&&str, &u64)| format!("{how} {count}");
            let all: Vec<String> = self.misdeeds.iter().map(said).collect();
            let _ = writeln!(text, "hostile   {}", all.join(", "));
        }
        text
    }

    /// The report as JSON.
    pub fn to_json(&self) -> String {
        // Numbers, texts and lists always have a form in JSON.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The report as a page with plots: without scripts, and with nothing loaded from elsewhere.
    pub fn to_html(&self) -> String {
        let mut page = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
             <title>cepa simulate {name}</title><style>{STYLE}</style><h1>{name}</h1>\
             <p>{} runs, {:.1} hours of virtual time, {} faults, {} failed</p>",
            self.runs,
            self.virtual_seconds / 3_600.0,
            self.faults,
            self.failed,
            name = escaped(&self.scenario),
        );
        let first = |end: &JobEnd| end.first_byte.map(millis);
        let whole = |end: &JobEnd| end.is_done.then(|| millis(end.whole));
        for (title, value) in [
            (
                "Time to the first byte (ms)",
                &first as &dyn Fn(&JobEnd) -> Option<f64>,
            ),
            ("Time of a whole job (ms)", &whole),
        ] {
            page.push_str(&self.plot(title, value));
        }
        page.push_str("<h2>Jobs</h2><table><tr><th>kind<th>done<th>of<th>MB<th>fairness");
        for (kind, jobs) in &self.jobs {
            let _ = write!(
                page,
                "<tr><td>{kind}<td>{}<td>{}<td>{:.1}<td>{:.2}",
                jobs.done,
                jobs.count,
                jobs.bytes as f64 / 1e6,
                jobs.fairness
            );
        }
        page.push_str(
            "</table><h2>Guards</h2><table><tr><th>guards that a client has had<th>clients",
        );
        for (guards, clients) in &self.guards {
            let _ = write!(page, "<tr><td>{guards}<td>{clients}");
        }
        page.push_str("</table>");
        if !self.failures.is_empty() {
            page.push_str(
                "<h2>Failures</h2><table><tr><th>seed<th>what did not hold<th>at<th>seen",
            );
        }
        for failure in &self.failures {
            let _ = write!(
                page,
                "<tr><td>{}<td>{}<td>{:.3} s<td>{}",
                failure.seed,
                failure.invariant,
                failure.at_seconds,
                escaped(&failure.what)
            );
        }
        if !self.failures.is_empty() {
            page.push_str("</table>");
        }
        page.push_str("</html>\n");
        page
    }

    /// A plot of distributions: how many of a hundred jobs were as quick, on a logarithmic axis of time.
    fn plot(&self, title: &str, value: &dyn Fn(&JobEnd) -> Option<f64>) -> String {
        let lines: Vec<(&'static str, Vec<f64>)> = self
            .ends
            .iter()
            .map(|(kind, ends)| (kind.name(), sorted(ends.iter().filter_map(value))))
            .filter(|(_, values)| !values.is_empty())
            .collect();
        let most = lines
            .iter()
            .filter_map(|(_, values)| values.last())
            .fold(1.0, |a: f64, b| a.max(*b));
        let least = lines
            .iter()
            .filter_map(|(_, values)| values.first())
            .fold(most, |a: f64, b| a.min(*b))
            .max(0.1);
        let (low, high) = (
            least.log10().floor(),
            most.log10().ceil().max(least.log10().floor() + 1.0),
        );
        let across = |value: f64| 50.0 + 690.0 * (value.max(1e-3).log10() - low) / (high - low);
        let up = |share: f64| 230.0 - 210.0 * share;
        let mut plot = format!(
            "<h2>{title}</h2><svg viewBox=\"0 0 760 260\" role=\"img\" aria-label=\"{title}\">"
        );
        for power in low as i32..=high as i32 {
            let at = across(10f64.powi(power));
            let _ = write!(
                plot,
                "<line class=\"g\" x1=\"{at:.1}\" y1=\"20\" x2=\"{at:.1}\" y2=\"230\"/>\
                 <text x=\"{at:.1}\" y=\"248\" text-anchor=\"middle\">{}</text>",
                10f64.powi(power)
            );
        }
        for share in [0.0, 0.5, 0.9, 1.0] {
            let at = up(share);
            let _ = write!(
                plot,
                "<line class=\"g\" x1=\"50\" y1=\"{at:.1}\" x2=\"740\" y2=\"{at:.1}\"/>\
                 <text x=\"44\" y=\"{:.1}\" text-anchor=\"end\">{:.0} %</text>",
                at + 4.0,
                share * 100.0
            );
        }
        for (place, (name, values)) in lines.iter().enumerate() {
            let count = values.len() as f64;
            let points: String = (0..=100)
                .map(|per_cent| {
                    let share = f64::from(per_cent) / 100.0;
                    let at = ((count - 1.0) * share).round() as usize;
                    let value = values.get(at).copied().unwrap_or_default();
                    format!("{:.1},{:.1} ", across(value), up(share))
                })
                .collect();
            let _ = write!(
                plot,
                "<polyline class=\"c{place}\" points=\"{points}\"/><text class=\"c{place}\" x=\"60\" y=\"{}\">{name}</text>",
                36 + 16 * place
            );
        }
        plot.push_str("</svg>");
        plot
    }
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1d21;--ground:#fff;--soft:#6b7280;--line:#e3e6ea}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--ground:#16181c;--soft:#9aa3ad;--line:#2b2f36}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);max-width:60rem;margin:2rem auto;\
padding:0 1rem}h1{font-size:1.5rem;margin-bottom:0}h2{font-size:1.1rem;margin-top:2rem}p{color:var(--soft)}\
svg{width:100%;height:auto}svg text{font-size:12px;fill:var(--soft)}.g{stroke:var(--line)}\
polyline{fill:none;stroke-width:2}.c0{stroke:#2f6f9f}.c1{stroke:#c2571a}.c2{stroke:#3f8f4f}.c3{stroke:#8a4fa8}\
.c4{stroke:#888}svg text.c0{fill:#2f6f9f;stroke:none}svg text.c1{fill:#c2571a;stroke:none}\
svg text.c2{fill:#3f8f4f;stroke:none}svg text.c3{fill:#8a4fa8;stroke:none}svg text.c4{fill:#888;stroke:none}\
table{border-collapse:collapse}td,th{padding:.3rem 1rem .3rem 0;border-top:1px solid var(--line);text-align:left;\
vertical-align:top}";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The values at [`POINTS`] of a sorted list.
fn points(values: &[f64]) -> Vec<f64> {
    let Some(last) = values.len().checked_sub(1) else {
        return Vec::new();
    };
    POINTS
        .iter()
        .map(|point| values[(last * point).div_ceil(100).min(last)])
        .collect()
}

fn jobs(ends: &[JobEnd]) -> Jobs {
    let done: Vec<&JobEnd> = ends.iter().filter(|end| end.is_done).collect();
    let rates = sorted(
        done.iter()
            .map(|end| end.bytes as f64 / end.whole.as_secs_f64().max(1e-3)),
    );
    let (sum, squares) = rates.iter().fold((0.0, 0.0), |(sum, squares), rate| {
        (sum + rate, squares + rate * rate)
    });
    Jobs {
        count: ends.len(),
        done: done.len(),
        bytes: ends.iter().map(|end| end.bytes).sum(),
        first_byte_ms: points(&sorted(
            ends.iter().filter_map(|end| end.first_byte.map(millis)),
        )),
        whole_ms: points(&sorted(done.iter().map(|end| millis(end.whole)))),
        rate: points(&rates),
        fairness: if squares > 0.0 {
            sum * sum / (squares * rates.len() as f64)
        } else {
            1.0
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(whole_ms: u64, is_done: bool) -> JobEnd {
        JobEnd {
            began: Duration::ZERO,
            node: 1,
            kind: JobKind::Page,
            opened: Some(Duration::from_millis(whole_ms / 4)),
            first_byte: Some(Duration::from_millis(whole_ms / 2)),
            whole: Duration::from_millis(whole_ms),
            bytes: 1_000,
            is_done,
        }
    }

    #[test]
    fn distributions_are_those_of_the_jobs() {
        let ends: Vec<JobEnd> = (1..=100).map(|ms| end(ms * 10, ms <= 90)).collect();
        let jobs = jobs(&ends);
        assert_eq!((jobs.count, jobs.done, jobs.bytes), (100, 90, 100_000));
        assert_eq!(jobs.whole_ms, [100.0, 460.0, 820.0, 900.0, 900.0]);
        assert!(jobs.fairness > 0.0 && jobs.fairness < 1.0);
        assert_eq!(super::jobs(&[]).whole_ms, [0.0; 0]);
    }

    #[test]
    fn a_page_is_whole_whatever_was_measured() {
        let mut report = Report::new("<small>");
        report
            .ends
            .insert(JobKind::Page, vec![end(10, true), end(2_000, false)]);
        report.finish();
        let page = report.to_html();
        assert!(
            page.contains("&lt;small&gt;")
                && page.contains("polyline")
                && page.ends_with("</html>\n")
        );
        assert!(!page.contains("NaN") && !page.contains("inf"));
        assert!(Report::new("x").to_html().ends_with("</html>\n"));
    }
}
