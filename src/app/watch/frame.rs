//! The two forms of the output: a frame with bars for a terminal, and a line for a pipe.

use chrono::{DateTime, SecondsFormat};

use crate::{
    clock::Micros,
    rpc::proto::{self, SaleStats},
};

/// Width of the names before the bars, in columns.
const LABEL: usize = 10;
/// Width of the figures after the bars, in columns.
const FIGURES: usize = 36;
/// Minimum and maximum width of a bar, in columns.
const BAR: [usize; 2] = [10, 60];
/// The characters for zero to seven eighths of a column.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// Returns the lines of a frame that is `columns` wide.
pub fn frame(title: &str, stats: &SaleStats, columns: usize) -> Vec<String> {
    let width = columns.saturating_sub(LABEL + FIGURES).clamp(BAR[0], BAR[1]);
    let row = |label: &str, count: i64, total: i64, unit: &str| {
        let figures = format!("{} of {} {unit}", grouped(count), grouped(total));
        format!("{label:LABEL$}{} {figures}", bar(count, total, width))
    };
    let seat_count = i64::from(stats.unsold_seat_count) + i64::from(stats.sold_seat_count);
    vec![
        title.to_owned(),
        row("waiting", stats.waiting_count, stats.issued_count, "tokens"),
        row("admitted", stats.active_count, stats.issued_count, "tokens"),
        row("held", stats.held_seat_count.into(), seat_count, "seats"),
        row("sold", stats.sold_seat_count.into(), seat_count, "seats"),
        format!(
            "last minute: {} admitted, {} paid   next has waited {}   revenue {}",
            grouped(stats.admissions_last_minute),
            grouped(stats.payments_last_minute),
            waited(stats).map_or("-".to_owned(), |seconds| format!("{} s", grouped(seconds))),
            grouped(stats.revenue)
        ),
    ]
}

/// Returns the line of an update: names and values, which programs can read.
pub fn line(at: Micros, stats: &SaleStats) -> String {
    let time = DateTime::from_timestamp_micros(at).unwrap_or_default();
    format!(
        "time={} concert_code={} issued={} waiting={} admitted={} held={} sold={} unsold={} \
         admissions_last_minute={} payments_last_minute={} oldest_wait_seconds={} revenue={}",
        time.to_rfc3339_opts(SecondsFormat::Secs, true),
        stats.concert_code,
        stats.issued_count,
        stats.waiting_count,
        stats.active_count,
        stats.held_seat_count,
        stats.sold_seat_count,
        stats.unsold_seat_count,
        stats.admissions_last_minute,
        stats.payments_last_minute,
        waited(stats).unwrap_or_default(),
        stats.revenue
    )
}

/// Returns the waiting time of the token that is admitted next, in seconds; `None` if no token waits.
fn waited(stats: &SaleStats) -> Option<i64> {
    let age = stats.oldest_waiting_age.as_ref().and_then(proto::from_duration)?;
    i64::try_from(age.as_secs()).ok()
}

/// Returns a bar that is `count / total` of `width` columns long, filled with spaces to the width. A count above 0 is
/// always visible.
fn bar(count: i64, total: i64, width: usize) -> String {
    let share = count as f64 / total.max(1) as f64;
    let least = usize::from(count > 0);
    let eighths = (share * (width * 8) as f64).round() as usize;
    let eighths = eighths.clamp(least, width * 8);
    let bar = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
    format!("{bar:width$}")
}

/// Formats a number with commas between groups of three digits.
fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> SaleStats {
        SaleStats {
            concert_code: "IU".into(),
            issued_count: 3_000,
            waiting_count: 1_500,
            active_count: 500,
            held_seat_count: 84,
            sold_seat_count: 1_250,
            unsold_seat_count: 3_750,
            admissions_last_minute: 1_233,
            payments_last_minute: 402,
            revenue: 123_456_000,
            oldest_waiting_age: Some(prost_types::Duration { seconds: 12, nanos: 999_000_000 }),
            ..Default::default()
        }
    }

    #[test]
    fn a_frame_has_a_bar_for_each_count() {
        let expected = [
            "IU: Live",
            "waiting   ████████████████▌                 1,500 of 3,000 tokens",
            "admitted  █████▌                            500 of 3,000 tokens",
            "held      ▌                                 84 of 5,000 seats",
            "sold      ████████▎                         1,250 of 5,000 seats",
            "last minute: 1,233 admitted, 402 paid   next has waited 12 s   revenue 123,456,000",
        ];
        assert_eq!(frame("IU: Live", &stats(), 79), expected);
    }

    #[test]
    fn a_frame_fits_where_it_is_shown() {
        for columns in [56, 80, 200] {
            for line in frame("IU", &stats(), columns).iter().skip(1).take(4) {
                assert!(line.chars().count() <= columns, "{columns}: {line}");
            }
        }
    }

    #[test]
    fn a_sale_without_tokens_and_seats_has_empty_bars() {
        let lines = frame("IU", &SaleStats::default(), 80);
        assert_eq!(lines[1], format!("waiting   {} 0 of 0 tokens", " ".repeat(34)));
        assert!(lines[5].contains("next has waited -"), "{lines:?}");
    }

    #[test]
    fn a_bar_is_full_at_its_total_and_visible_above_0() {
        assert_eq!(bar(7, 7, 3), "███");
        assert_eq!(bar(9, 7, 3), "███");
        assert_eq!(bar(0, 7, 3), "   ");
        assert_eq!(bar(1, 1_000_000, 3), "▏  ");
    }

    #[test]
    fn a_line_names_its_values() {
        let expected = "time=2027-01-15T08:00:00Z concert_code=IU issued=3000 waiting=1500 admitted=500 held=84 \
                        sold=1250 unsold=3750 admissions_last_minute=1233 payments_last_minute=402 \
                        oldest_wait_seconds=12 revenue=123456000";
        assert_eq!(line(1_800_000_000_000_000, &stats()), expected);
    }

    #[test]
    fn numbers_are_grouped_by_three_digits() {
        let texts = [0, 999, 1_000, -1_234_567, i64::MIN].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "-1,234,567", "-9,223,372,036,854,775,808"]);
    }
}
