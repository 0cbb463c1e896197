//! The figures of several runs: their median and their spread.

use crate::load::median;

/// Returns the median of a figure, with `decimals` decimals. If there are several figures, also returns their spread in
/// percent. The spread is the difference between the largest and the smallest figure, divided by the median. Returns
/// `-` if there are no figures.
pub fn cell(figures: &[f64], decimals: usize) -> String {
    match figures {
        [] => "-".to_owned(),
        [one] => format!("{one:.decimals$}"),
        _ => format!("{:.decimals$} ({:.0} %)", median(figures.to_vec()), 100.0 * spread(figures)),
    }
}

/// Returns the median of a figure, with `decimals` decimals; `-` if there are no figures.
pub fn middle(figures: &[f64], decimals: usize) -> String {
    if figures.is_empty() { "-".to_owned() } else { cell(&[median(figures.to_vec())], decimals) }
}

/// Returns a goal as text, and by how much the median misses it. `is_met` compares the median with the goal.
pub fn goal(figures: &[f64], goal: f64, decimals: usize, is_met: fn(&f64, &f64) -> bool) -> String {
    let middle = median(figures.to_vec());
    // A goal is compared with the figure that the reader sees.
    let shown = format!("{middle:.decimals$}").parse().unwrap_or(middle);
    match figures.is_empty() || is_met(&shown, &goal) {
        true => format!("{goal:.decimals$}"),
        false => format!("{goal:.decimals$}, missed by {:.decimals$}", (goal - shown).abs()),
    }
}

fn spread(figures: &[f64]) -> f64 {
    let largest = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let smallest = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let middle = median(figures.to_vec());
    if middle == 0.0 { 0.0 } else { (largest - smallest) / middle }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_runs_have_a_median_and_a_spread() {
        assert_eq!(cell(&[], 2), "-");
        assert_eq!(cell(&[0.5], 2), "0.50");
        assert_eq!(cell(&[110.0, 90.0, 100.0], 0), "100 (20 %)");
        assert_eq!(cell(&[0.0, 0.0], 0), "0 (0 %)");
        assert_eq!((middle(&[1.0, 3.0], 1), middle(&[], 1)), ("2.0".to_owned(), "-".to_owned()));
    }

    #[test]
    fn a_missed_goal_has_its_distance() {
        assert_eq!(goal(&[0.42], 0.5, 2, f64::ge), "0.50, missed by 0.08");
        assert_eq!(goal(&[0.499], 0.5, 2, f64::ge), "0.50");
        assert_eq!(goal(&[2.1, 2.3, 9.0], 1.8, 2, f64::le), "1.80, missed by 0.50");
        assert_eq!(goal(&[], 1.8, 2, f64::le), "1.80");
    }
}
