//! The log of a run: what the nodes say, each line with its node and its time, of which the last are kept.

use core::fmt::{self, Write};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use cepa_common::sync::lock;
use cepa_common::world::Simulation;
use tokio::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Number of lines that are kept of all nodes together.
const KEPT: usize = 4_000;

/// A line that a node has logged.
#[derive(Clone, Debug)]
pub struct Line {
    /// Time since the run began.
    pub at: Duration,
    /// The node; `None` for what belongs to none.
    pub node: Option<u32>,
    /// How important the line is.
    pub level: Level,
    /// The text.
    pub text: String,
}

#[derive(Debug)]
struct State {
    began: Option<Instant>,
    lines: VecDeque<Line>,
    leaks: Vec<Line>,
}

/// Collects the log lines of one run. Clones share the lines.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    least: Level,
    echo: Option<fn(&Line)>,
    /// Texts that no line of level info or above may contain.
    secrets: Arc<Vec<String>>,
    state: Arc<Mutex<State>>,
}

impl Log {
    /// A log of lines from level `least` up, which calls `echo` with each line.
    pub(crate) fn new(least: Level, echo: Option<fn(&Line)>, secrets: Vec<String>) -> Self {
        let state = State {
            began: None,
            lines: VecDeque::new(),
            leaks: Vec::new(),
        };
        Self {
            least,
            echo,
            secrets: Arc::new(secrets),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The run begins now.
    pub(crate) fn begin(&self) {
        lock(&self.state).began = Some(Instant::now());
    }

    /// The last `count` lines of these nodes until `at`.
    pub(crate) fn last(&self, count: usize, at: Duration, of: impl Fn(u32) -> bool) -> Vec<Line> {
        let state = lock(&self.state);
        let fits = |line: &&Line| line.at <= at && line.node.is_some_and(&of);
        let mut found: Vec<Line> = state
            .lines
            .iter()
            .rev()
            .filter(fits)
            .take(count)
            .cloned()
            .collect();
        found.reverse();
        found
    }

    /// Lines that contain what no line may, since the last call.
    pub(crate) fn take_leaks(&self) -> Vec<Line> {
        std::mem::take(&mut lock(&self.state).leaks)
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.least && metadata.target().starts_with("cepa")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        // Spans are not told apart: a line's node says enough.
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let mut state = lock(&self.state);
        let line = Line {
            at: state.began.map(|began| began.elapsed()).unwrap_or_default(),
            node: Simulation::current().map(|life| life.node),
            level: *event.metadata().level(),
            text: text.0,
        };
        if line.level <= Level::INFO && self.secrets.iter().any(|secret| line.text.contains(secret))
        {
            state.leaks.push(line.clone());
        }
        if state.lines.len() == KEPT {
            state.lines.pop_front();
        }
        state.lines.push_back(line.clone());
        drop(state);
        if let Some(echo) = self.echo {
            echo(&line);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message and the fields of a line.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let before = if self.0.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{before}{value:?}"),
            name => write!(self.0, "{before}{name}={value:?}"),
        };
    }
}
