//! Models against full runs: the same plan, run in full and on paper, and how far the figures are from each other.

pub mod cast;
pub mod choices;
pub mod flows;

use std::fmt::Write;

use serde::Serialize;

/// A figure of a full run and of a model.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// What it is of.
    pub name: String,
    /// In the full runs.
    pub full: f64,
    /// In the model.
    pub model: f64,
    /// How far the model may be from the full run (per cent); `None` if that is not bounded.
    pub bound: Option<f64>,
}

impl Pair {
    /// A figure of both.
    pub fn new(name: &str, full: f64, model: f64, bound: Option<f64>) -> Self {
        Self {
            name: name.to_owned(),
            full,
            model,
            bound,
        }
    }

    /// How far the model is from the full run (per cent).
    pub fn error(&self) -> f64 {
        (self.model / self.full - 1.0) * 100.0
    }

    /// Is the model as near as it should be?
    pub fn is_near(&self) -> bool {
        self.bound.is_none_or(|bound| self.error().abs() <= bound)
    }
}

/// Pairs as people read them.
pub fn to_text(pairs: &[Pair]) -> String {
    let mut text = String::new();
    for pair in pairs {
        let verdict = match (pair.bound, pair.is_near()) {
            (None, _) => String::new(),
            (Some(bound), true) => format!("within {bound} %"),
            (Some(bound), false) => format!("NOT within {bound} %"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<40} full {:>12}   model {:>12}   {:>+7.1} %  {verdict}",
            pair.name,
            crate::choices::report::number(pair.full),
            crate::choices::report::number(pair.model),
            pair.error(),
        );
    }
    text
}

/// The mean of several runs' pairs, by their names.
pub fn mean(all: &[Vec<Pair>]) -> Vec<Pair> {
    let Some(first) = all.first() else {
        return Vec::new();
    };
    let count = all.len() as f64;
    let place = |place: usize, of: &dyn Fn(&Pair) -> f64| {
        let each = all.iter().filter_map(|pairs| pairs.get(place));
        each.map(of).sum::<f64>() / count
    };
    first
        .iter()
        .enumerate()
        .map(|(at, pair)| Pair {
            full: place(at, &|pair| pair.full),
            model: place(at, &|pair| pair.model),
            ..pair.clone()
        })
        .collect()
}
