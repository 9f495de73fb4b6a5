//! The tables of `docs/degradation.md`, for the tests that hold the code to them.

/// The rows of the table with this header, cell by cell, without what is only typography.
pub(crate) fn table(header: &str) -> Vec<Vec<String>> {
    let page = include_str!("../../docs/degradation.md");
    let mut lines = page.lines().skip_while(|line| *line != header);
    assert!(lines.next().is_some(), "the page has no table {header}");
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().replace('`', "")).collect()
        })
        .collect()
}
