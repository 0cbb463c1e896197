//! A report as a page of titles, tables and lines, which is printed as text for a terminal or as Markdown.

use crate::table::Table;

enum Part {
    Title(String),
    Table(Table),
    Line(String),
}

/// The parts of a report, in their order.
#[derive(Default)]
pub struct Page(Vec<Part>);

impl Page {
    /// Adds a title.
    pub fn title(&mut self, title: impl Into<String>) {
        self.0.push(Part::Title(title.into()));
    }

    /// Adds a table.
    pub fn table(&mut self, table: Table) {
        self.0.push(Part::Table(table));
    }

    /// Adds a line of text.
    pub fn line(&mut self, line: impl Into<String>) {
        self.0.push(Part::Line(line.into()));
    }

    /// Returns the page as text for a terminal.
    pub fn text(&self) -> String {
        let part = |part: &Part| match part {
            Part::Title(title) => format!("\n{title}\n\n"),
            Part::Table(table) => format!("{table}\n"),
            Part::Line(line) => format!("{line}\n"),
        };
        self.0.iter().map(part).collect()
    }

    /// Returns the page as Markdown.
    pub fn markdown(&self) -> String {
        let part = |part: &Part| match part {
            Part::Title(title) => format!("## {title}\n\n"),
            Part::Table(table) => format!("{}\n", table.markdown()),
            Part::Line(line) => format!("{line}\n\n"),
        };
        self.0.iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_same_parts_as_text_and_as_markdown() {
        let mut page = Page::default();
        page.title("SQLite");
        page.table(Table::new(&["a", "b"]));
        page.line("done");
        assert_eq!(page.text(), "\nSQLite\n\na  b\n\ndone\n");
        assert_eq!(page.markdown(), "## SQLite\n\n| a | b |\n|---|---:|\n\ndone\n\n");
    }
}
