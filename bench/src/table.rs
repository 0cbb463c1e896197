//! Tables with aligned columns: the first column is aligned to the left, the others to the right.

use std::fmt;

/// A table of text for a terminal or for Markdown.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Returns a table with a row of titles and no other rows.
    pub fn new(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(|title| (*title).to_owned()).collect()] }
    }

    /// Adds a row at the end. A row may have fewer cells than the table has columns.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Returns the table as Markdown.
    pub fn markdown(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let cells = (0..columns).map(|column| row.get(column).map_or("", String::as_str));
            text.push_str(&format!("| {} |\n", cells.collect::<Vec<_>>().join(" | ")));
            if number == 0 {
                text.push_str(&format!("|---|{}\n", "---:|".repeat(columns.saturating_sub(1))));
            }
        }
        text
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
        for row in &self.rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(f, "{cell:<width$}")?,
                    _ => write!(f, "  {cell:>width$}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["what", "n"]);
        table.row(["a", "100"]);
        assert_eq!(table.to_string(), "what    n\na     100\n");
    }

    #[test]
    fn a_short_row_has_empty_cells_in_markdown() {
        let mut table = Table::new(&["what", "n"]);
        table.row(["a"]);
        assert_eq!(table.markdown(), "| what | n |\n|---|---:|\n| a |  |\n");
    }
}
