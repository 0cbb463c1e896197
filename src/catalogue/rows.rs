//! The rows of a section in the form that the database stores: a JSON array with the name and the number of seats of
//! each row, such as `[["A",10],["B",12]]`.

use crate::rpc::proto::SectionRow;

/// Converts rows to the stored form. Returns `None` if there are no rows.
pub fn write(rows: &[SectionRow]) -> Option<String> {
    let stored: Vec<(&str, i32)> = rows.iter().map(|row| (row.name.as_str(), row.seat_count)).collect();
    // The conversion of strings and integers to JSON never fails.
    (!stored.is_empty()).then(|| serde_json::to_string(&stored).unwrap_or_default())
}

/// Returns the rows that `write` converted.
pub fn read(stored: Option<&str>) -> Vec<SectionRow> {
    // `write` made this text, so its conversion never fails.
    let rows: Vec<(String, i32)> =
        stored.map(|text| serde_json::from_str(text).unwrap_or_default()).unwrap_or_default();
    rows.into_iter().map(|(name, seat_count)| SectionRow { name, seat_count }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_back_as_written() {
        let row = |name: &str, seat_count| SectionRow { name: name.to_owned(), seat_count };
        let rows = [row("A", 10), row("\"1\"", 12)];
        assert_eq!(write(&rows).as_deref(), Some(r#"[["A",10],["\"1\"",12]]"#));
        assert_eq!(read(write(&rows).as_deref()), rows);
        assert_eq!((write(&[]), read(None)), (None, Vec::new()));
    }
}
