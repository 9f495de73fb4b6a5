//! Tables for people: columns as wide as what is in them, two blanks between, nothing else.

use super::printable::printable;

/// Lines of a table; numbers stand to the right.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    // Part of it may be what others said.
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let columns = head.len();
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.chain([head[at].chars().count()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let is_number = |at: usize| {
        !rows.is_empty()
            && rows
                .iter()
                .all(|row| !row[at].is_empty() && row[at].bytes().all(|byte| byte.is_ascii_digit()))
    };
    let right: Vec<bool> = (0..columns).map(is_number).collect();
    let line = |cells: &[&str]| {
        let mut line = String::new();
        for (at, cell) in cells.iter().enumerate() {
            let fill = " ".repeat(widths[at] - cell.chars().count());
            let (before, after) = if right[at] { (&*fill, "") } else { ("", &*fill) };
            line.push_str(&format!("{before}{cell}{after}  "));
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(head);
    for row in &rows {
        assert_eq!(row.len(), columns, "a row has a cell for each column");
        text.push_str(&line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&["KEY", "BYTES"], &[row(["a", "7"]), row(["longer", "123456"])]);
        assert_eq!(text, "KEY      BYTES\na            7\nlonger  123456\n");
    }
}
