//! How do rows become an aligned table that fits the terminal?

use std::io::{self, Write};

/// Rows under headings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// What stands between two columns.
const GAP: usize = 3;
/// No column is cut below this.
const NARROWEST: usize = 8;

impl Table {
    /// A table without rows.
    pub fn new<T: AsRef<str>>(headings: impl IntoIterator<Item = T>) -> Self {
        let headings = headings.into_iter().map(|heading| heading.as_ref().to_owned());
        Self { headings: headings.collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty.
    pub fn row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let mut row: Vec<String> = cells.into_iter().map(|cell| cell.as_ref().to_owned()).collect();
        row.resize(self.headings.len(), String::new());
        self.rows.push(row);
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes columns with space between them, as wide as the terminal allows.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        self.write_plain(out, super::output::terminal_width())
    }

    /// Writes columns with space between them; where a line would be longer than `width`, the widest columns are cut.
    pub fn write_plain(&self, out: &mut dyn Write, width: Option<usize>) -> io::Result<()> {
        let mut widths = self.widths();
        if let Some(width) = width {
            let gaps = GAP * widths.len().saturating_sub(1);
            shrink(&mut widths, width.saturating_sub(gaps));
        }
        for row in std::iter::once(&self.headings).chain(&self.rows) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| pad(cell, *width));
            let line = cells.collect::<Vec<_>>().join(&" ".repeat(GAP));
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    /// Writes columns with lines around them.
    pub fn write_boxed(&self, out: &mut dyn Write, width: Option<usize>) -> io::Result<()> {
        let mut widths = self.widths();
        if let Some(width) = width {
            let lines = 3 * widths.len() + 1;
            shrink(&mut widths, width.saturating_sub(lines));
        }
        let lines: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
        let border = format!("+{}+", lines.join("+"));
        writeln!(out, "{border}")?;
        for (number, row) in std::iter::once(&self.headings).chain(&self.rows).enumerate() {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| pad(cell, *width)).collect();
            writeln!(out, "| {} |", cells.join(" | "))?;
            if number == 0 {
                writeln!(out, "{border}")?;
            }
        }
        if self.is_empty() { Ok(()) } else { writeln!(out, "{border}") }
    }

    fn widths(&self) -> Vec<usize> {
        let longest = |(column, heading): (usize, &String)| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.chain([heading]).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        self.headings.iter().enumerate().map(longest).collect()
    }
}

/// Takes from the widest columns until they fit, or can't be cut any further.
fn shrink(widths: &mut [usize], most: usize) {
    while widths.iter().sum::<usize>() > most {
        match widths.iter_mut().max() {
            Some(widest) if *widest > NARROWEST => *widest -= 1,
            _ => return,
        }
    }
}

fn pad(cell: &str, width: usize) -> String {
    let length = cell.chars().count();
    if length <= width {
        return format!("{cell}{}", " ".repeat(width - length));
    }
    let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn table() -> Table {
        let mut table = Table::new(["NAME", "SELECTOR"]);
        table.row(["a", "all()"]);
        table.row(["longer-name", "zone == \"süd\" && has(rack)"]);
        table.row(["b"]);
        table
    }

    #[test]
    fn columns_are_aligned() {
        let plain = text(|out| table().write_plain(out, None));
        assert_eq!(
            plain,
            "NAME          SELECTOR\na             all()\nlonger-name   zone == \"süd\" && has(rack)\nb\n"
        );
        let boxed = text(|out| table().write_boxed(out, None));
        assert!(
            boxed.starts_with("+-------------+---") && boxed.contains("| a           | all() "),
            "{boxed}"
        );
        let lengths: Vec<usize> = boxed.lines().map(|line| line.chars().count()).collect();
        assert!(lengths.iter().all(|length| *length == lengths[0]), "{boxed}");
    }

    #[test]
    fn a_narrow_terminal_cuts_the_widest_column() {
        let plain = text(|out| table().write_plain(out, Some(30)));
        assert!(plain.lines().all(|line| line.chars().count() <= 30), "{plain}");
        assert!(plain.contains("longer-name   zone == \"süd\" &…"), "{plain}");
        let boxed = text(|out| table().write_boxed(out, Some(30)));
        assert!(boxed.lines().all(|line| line.chars().count() <= 30), "{boxed}");
        let tiny = text(|out| table().write_plain(out, Some(1)));
        assert!(tiny.contains("NAME"), "never cut to nothing: {tiny}");
    }
}
