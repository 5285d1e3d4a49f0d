//! What a full run takes beside round trips and the fair share of lines.
//!
//! `cepa simulate --calibrate` has one client download files of 0.1 to 4 MB over lines and ways of one kind, and lays a
//! straight line through the times by the sizes ([`fit`]).

/// What a first byte takes beside its round trips (seconds): timers of whole milliseconds, at each hop and each way.
pub const FIRST_BYTE: f64 = 0.003;

/// The straight line that fits these points best: where it begins, and its slope. `None` if there is none.
pub fn fit(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let count = points.len() as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (across, up) = (mean(&|point| point.0), mean(&|point| point.1));
    let spread = mean(&|point| (point.0 - across).powi(2));
    let slope = mean(&|point| (point.0 - across) * (point.1 - up)) / spread;
    (points.len() > 1 && spread > 0.0).then_some((up - slope * across, slope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straight_line_is_found() {
        let points: Vec<_> = (0..10)
            .map(|x| (f64::from(x), 3.0 + 0.5 * f64::from(x)))
            .collect();
        let (begins, slope) = fit(&points).unwrap_or_default();
        assert!((begins - 3.0).abs() < 1e-9 && (slope - 0.5).abs() < 1e-9);
        assert_eq!(fit(&points[..1]), None);
    }
}
