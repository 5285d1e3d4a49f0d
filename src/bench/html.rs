//! Shows the report as one page with plots: without scripts, with nothing loaded from elsewhere, in light and dark.

use cepa_common::words::Count;

use super::report::{Report, Row, Value, shown};

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1d21;--ground:#fff;--soft:#6b7280;--bar:#2f6f9f;--plain:#b9c2cc;--line:#e3e6ea}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--ground:#16181c;--soft:#9aa3ad;--bar:#6aaedc;--plain:#4a525c;\
--line:#2b2f36}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);max-width:60rem;margin:2rem auto;\
padding:0 1rem}\
h1{font-size:1.5rem;margin-bottom:0}h2{font-size:1.1rem;margin-top:2rem}p{color:var(--soft)}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.3rem .6rem;align-items:center;margin:0;font-size:.87rem}\
dt{text-align:right}dd{display:flex;align-items:center;gap:.4rem;margin:0;white-space:nowrap}\
i{flex:none;height:1rem;min-width:1px;border-radius:2px;background:var(--bar)}.plain{background:var(--plain)}\
table{border-collapse:collapse;width:100%}td{padding:.3rem .6rem .3rem 0;border-top:1px solid var(--line);\
vertical-align:top}\
@media(max-width:40rem){dl{grid-template-columns:1fr;gap:0}dt{text-align:left}dd{margin-bottom:.4rem}\
td{display:block;padding:0}td+td{border:0;color:var(--soft);padding-bottom:.4rem}td:first-child{padding-top:.4rem}}";

/// A plot: its title, the value that it shows of each row, and the unit.
struct Plot {
    title: &'static str,
    value: &'static str,
    unit: &'static str,
}

const PLOTS: [Plot; 6] = [
    Plot {
        title: "Throughput, MB/s (longer is better)",
        value: "rate",
        unit: "MB/s",
    },
    Plot {
        title: "Processor seconds for a GB over the whole chain (shorter is better)",
        value: "cpu.all",
        unit: "s/GB",
    },
    Plot {
        title: "Time of the median, ms (shorter is better)",
        value: "p50",
        unit: "ms",
    },
    Plot {
        title: "Time of the slowest hundredth, ms (shorter is better)",
        value: "p99",
        unit: "ms",
    },
    Plot {
        title: "Circuits a second (longer is better)",
        value: "rate",
        unit: "1/s",
    },
    Plot {
        title: "Bytes over each link for a byte in datagrams (shorter is better)",
        value: "each_link",
        unit: "x",
    },
];

/// Makes the page.
pub(super) fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>cepa bench</title>\
         <style>{STYLE}</style><h1>cepa bench</h1><p>{}</p>",
        escaped(&setting(report))
    );
    for plot in &PLOTS {
        page.push_str(&plotted(report, plot));
    }
    page.push_str("<h2>All figures</h2><table>");
    for row in &report.rows {
        let said = match &row.error {
            Some(error) => format!("failed: {error}"),
            None => row.values.iter().map(shown).collect::<Vec<_>>().join(" · "),
        };
        let line = format!("<tr><td>{}<td>{}", escaped(row.title), escaped(&said));
        page.push_str(&line);
    }
    page.push_str("</table></html>\n");
    page
}

/// The share of the processors that other programs may use before the figures say little.
const MUCH: f64 = 0.05;

/// Says where and how the report was measured.
pub(super) fn setting(report: &Report) -> String {
    let (network, machine) = (&report.network, &report.machine);
    let what = match (&network.file, network.relays) {
        (Some(file), _) => format!("network {file}"),
        (None, relays) => format!(
            "local network of {}, {}",
            Count(relays.unwrap_or(0), "relay"),
            if network.processes {
                "a process each"
            } else {
                "one process"
            }
        ),
    };
    let others = machine.others.filter(|others| *others > MUCH);
    let busy = others.map_or_else(String::new, |others| {
        format!(
            " ({:.0} % of them busy with other programs: measure again on an idle machine)",
            others * 100.0
        )
    });
    let rate = network
        .bandwidth
        .map(|rate| format!("{} MB/s", rate as f64 / 1e6));
    format!(
        "Cepa {}{} on {} ({}), {} processors{busy}; {what}; links: {} ms, {}, {} % lost; {} s a row; {}{}",
        report.version,
        if machine.optimised {
            ""
        } else {
            " (built without optimisation)"
        },
        machine.os,
        machine.arch,
        machine.processors,
        network.delay_ms,
        rate.as_deref().unwrap_or("unbounded"),
        network.loss * 100.0,
        network.duration_s,
        report.begun,
        if report.complete { "" } else { "; incomplete" },
    )
}

fn plotted(report: &Report, plot: &Plot) -> String {
    let of = |row: &Row| -> Option<Value> {
        let shown = |value: &&Value| value.name == plot.value && value.unit == plot.unit;
        row.values.iter().find(shown).cloned()
    };
    let bars: Vec<(&Row, Value)> = report
        .rows
        .iter()
        .filter_map(|row| Some((row, of(row)?)))
        .collect();
    if bars.is_empty() {
        return String::new();
    }
    let most = bars
        .iter()
        .map(|(_, value)| value.value)
        .fold(f64::MIN_POSITIVE, f64::max);
    let mut plot = format!("<h2>{}</h2><dl>", plot.title);
    for (row, value) in &bars {
        let class = if row.id.starts_with("plain") {
            " class=\"plain\""
        } else {
            ""
        };
        // There is room for the value behind the longest bar.
        plot.push_str(&format!(
            "<dt>{title}<dd><i{class} style=\"width:calc((100% - 6rem)*{share:.3})\"></i>{number}",
            title = escaped(row.title),
            share = value.value / most,
            number = escaped(shown(value).trim_start_matches(value.name.as_str()).trim()),
        ));
    }
    plot + "</dl>"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::sample;
    use super::*;

    #[test]
    fn a_page_stands_alone_and_escapes_what_it_shows() {
        let page = page(&sample());
        assert!(page.contains("network &lt;&amp;&quot;&gt;"));
        assert!(page.contains("<dl>") && page.contains("prefers-color-scheme:dark"));
        for outside in ["<script", "http:", "https:", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        // The longest bar is that of the plain chain; the network's is a quarter of it.
        assert!(page.contains("6rem)*1.000)") && page.contains("6rem)*0.250)"));
    }
}
