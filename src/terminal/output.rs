//! What the program says: results on standard output, everything else on standard error.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use super::error::CliError;
use super::progress::Progress;

/// With fewer columns a bar leaves no room for the words beside it.
const NARROW: u16 = 70;

/// Why standard output could not be written, the first time.
static LOST: OnceLock<String> = OnceLock::new();

/// Writes a line of result to standard output.
///
/// A reader that has left (`cepa consensus | head`) is no error of ours. Any other failure is told by [`lost`].
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush())
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = LOST.set(error.to_string());
    }
}

/// The error of a command whose results did not reach standard output.
pub(crate) fn lost() -> Result<(), CliError> {
    match LOST.get() {
        None => Ok(()),
        Some(error) => Err(CliError::failed(
            format!("cannot write to standard output: {error}"),
            "is the disk full that it goes to?",
        )),
    }
}

/// The name by which this program was called: a command that is printed for people to copy names the program so, as it
/// may not be on their path.
pub(crate) fn program() -> String {
    called(std::env::args_os().next())
}

fn called(first: Option<OsString>) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    first
        .and_then(|first| first.into_string().ok())
        .filter(|first| !first.is_empty() && first.chars().all(is_plain))
        .unwrap_or_else(|| "cepa".to_owned())
}

/// Writes a line of news to standard error.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Says what failed and what to try.
pub(crate) fn complain(error: &CliError) {
    note(&format!("cepa: {}", error.what));
    if !error.hint.is_empty() {
        note(&format!("hint: {}", error.hint));
    }
}

/// The template of the bar for a terminal of this width. A narrow terminal needs its columns for the words.
fn template(columns: u16) -> &'static str {
    match columns {
        0 | NARROW.. => "{spinner} [{bar:30}] {elapsed:>4} {wide_msg}",
        _ => "{spinner} {percent:>3} % {wide_msg}",
    }
}

/// How far something has got: a bar on a terminal, plain lines elsewhere.
pub(crate) struct Meter {
    bar: Option<ProgressBar>,
    shown: RefCell<String>,
}

impl Meter {
    /// A meter at zero.
    pub(crate) fn new() -> Self {
        if !io::stderr().is_terminal() {
            return Self::of(None);
        }
        let bar = ProgressBar::new(100);
        // A dumb terminal cannot go back in a line, and the library shows no bar there: plain lines say as much.
        if bar.is_hidden() {
            return Self::of(None);
        }
        let size = rustix::termios::tcgetwinsize(io::stderr());
        let columns = size.map_or(80, |size| size.ws_col);
        let style = ProgressStyle::with_template(template(columns));
        bar.set_style(
            style
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> "),
        );
        bar.enable_steady_tick(Duration::from_millis(100));
        Self::of(Some(bar))
    }

    fn of(bar: Option<ProgressBar>) -> Self {
        Self {
            bar,
            shown: RefCell::default(),
        }
    }

    /// What was shown last.
    pub(crate) fn shown(&self) -> String {
        self.shown.borrow().clone()
    }

    /// Shows `percent` and what happens now.
    pub(crate) fn show(&self, percent: u8, what: &str) {
        what.clone_into(&mut self.shown.borrow_mut());
        match &self.bar {
            Some(bar) => {
                bar.set_position(u64::from(percent));
                bar.set_message(what.to_owned());
            }
            None => note(&format!("{percent:>3} % {what}")),
        }
    }

    /// Shows a step, unless it is shown already, or is a detail that only a bar has a use for.
    pub(crate) fn show_step(&self, percent: u8, what: &str, is_detail: bool) {
        if *self.shown.borrow() != what && !(is_detail && self.bar.is_none()) {
            self.show(percent, what);
        }
    }

    /// Says a line that stays, above the bar if there is one.
    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(line)),
            None => note(line),
        }
    }

    /// Shows every step that `progress` tells, until its other end is gone.
    pub(crate) async fn follow(&self, mut progress: watch::Receiver<Progress>) {
        let mut told = 0;
        while progress.changed().await.is_ok() {
            let now = progress.borrow_and_update().clone();
            now.warnings
                .iter()
                .skip(told)
                .for_each(|line| self.say(line));
            told = now.warnings.len();
            self.show_step(now.percent, &now.what, now.is_detail);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Runs `work` and shows the progress that it tells through the sender that it is given.
pub(crate) async fn with_meter<T>(work: impl AsyncFnOnce(watch::Sender<Progress>) -> T) -> T {
    let meter = Meter::new();
    let (sender, receiver) = watch::channel(Progress::default());
    let (done, ()) = tokio::join!(work(sender), meter.follow(receiver));
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_the_program_as_it_was_called() {
        let named = |first: &str| called(Some(first.into()));
        assert_eq!(named("target/release/cepa"), "target/release/cepa");
        assert_eq!(named("cepa"), "cepa");
        // What a shell would read otherwise is left to the reader.
        assert_eq!(named("/my programs/cepa"), "cepa");
        assert_eq!(called(None), "cepa");
    }

    #[test]
    fn a_narrow_terminal_keeps_the_words() {
        for (columns, has_bar) in [(200, true), (70, true), (69, false), (20, false), (0, true)] {
            assert_eq!(template(columns).contains("{bar"), has_bar, "{columns}");
            assert!(template(columns).contains("{wide_msg}"));
        }
    }
}
