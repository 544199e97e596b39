//! Aligned columns, and sizes, counts and ages as people read them.

/// Rows under a heading, each column as wide as its widest cell; numbers to the right.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column names.
    pub(super) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|h| (*h).to_owned()).collect()] }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// True if there is no row below the heading.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The text, each line ended.
    pub(super) fn text(&self) -> String {
        let columns = self.rows[0].len();
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let is_number = |c: usize| {
            let mut cells = self.rows[1..].iter().filter_map(|r| r.get(c)).filter(|s| *s != "-").peekable();
            cells.peek().is_some() && cells.all(|s| s.starts_with(|ch: char| ch.is_ascii_digit()))
        };
        let numbers: Vec<bool> = (0..columns).map(is_number).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (c, cell) in row.iter().enumerate().take(columns) {
                let pad = " ".repeat(widths[c].saturating_sub(cell.chars().count()));
                if numbers[c] {
                    line.push_str(&pad)
                }
                line.push_str(cell);
                if !numbers[c] {
                    line.push_str(&pad)
                }
                line.push_str("  ");
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Bytes as `1.5 MiB`.
pub(super) fn bytes(n: u64) -> String {
    bytesize::ByteSize::b(n).display().iec().to_string()
}

/// A span of milliseconds as `3 s`, `12 min`, `5 h` or `9 d`.
pub(super) fn span_ms(ms: i64) -> String {
    let s = ms.max(0) / 1000;
    match s {
        0..=119 => format!("{s} s"),
        120..=7199 => format!("{} min", s / 60),
        7200..=172_799 => format!("{} h", s / 3600),
        _ => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right_and_no_line_ends_in_blanks() {
        let mut table = Table::new(&["TOPIC", "RECORDS", "NOTE"]);
        table.row(["metric.cpu".into(), "7".into(), String::new()]);
        table.row(["m".into(), "1200".into(), "x".into()]);
        assert_eq!(table.text(), "TOPIC       RECORDS  NOTE\nmetric.cpu        7\nm              1200  x\n");
    }

    #[test]
    fn spans_are_short() {
        assert_eq!(
            [1_000, 150_000, 7_200_000, 200_000_000].map(span_ms),
            ["1 s", "2 min", "2 h", "2 d"].map(str::to_owned)
        );
    }
}
