//! The output of `watch`. On a terminal, each frame replaces the previous frame. In a pipe, each update is a line.

use std::io::{self, IsTerminal, Write};

use super::frame;
use crate::{clock::Micros, rpc::proto::SaleStats};

/// Width of a terminal whose width is unknown, in columns.
const COLUMNS: u16 = 80;
/// Long lines are cut at the edge of the terminal, since a wrapped line would move the frame.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// Standard output.
pub struct Screen {
    is_terminal: bool,
    /// The number of lines of the frame above the cursor.
    frame_lines: usize,
}

impl Screen {
    /// Returns the screen without a frame.
    pub fn new() -> Self {
        Self { is_terminal: io::stdout().is_terminal(), frame_lines: 0 }
    }

    /// Shows an update.
    pub fn show(&mut self, title: &str, at: Micros, stats: &SaleStats) -> io::Result<()> {
        let mut output = io::stdout().lock();
        if !self.is_terminal {
            return writeln!(output, "{}", frame::line(at, stats));
        }
        let columns = terminal_size::terminal_size().map_or(COLUMNS, |(width, _)| width.0);
        let lines = frame::frame(title, stats, columns.into());
        let mut text = String::from(NO_WRAP);
        if self.frame_lines > 0 {
            text += &format!("\x1b[{}A", self.frame_lines);
        }
        for line in &lines {
            text += &format!("\r{line}\x1b[K\n");
        }
        self.frame_lines = lines.len();
        output.write_all((text + WRAP).as_bytes())?;
        output.flush()
    }

    /// Shows a message to the operator. The next frame appears below the message.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.frame_lines = 0;
        if self.is_terminal { writeln!(io::stdout(), "{text}") } else { writeln!(io::stderr(), "{text}") }
    }
}
