//! Pages: parts of a log or a map that are read at once.

/// Most bytes of keys and values that one scan of a log or range of a map returns. A single one is
/// returned whatever its size.
pub const SCAN_BYTES_MAX: usize = 4 << 20;

/// Rows up to a bound in their number and one in their bytes, and where to go on if there are more.
pub(crate) struct Page<T, N> {
    pub(crate) rows: Vec<T>,
    pub(crate) next: Option<N>,
    bytes: usize,
    rows_max: usize,
    bytes_max: usize,
}

impl<T, N> Page<T, N> {
    pub(crate) fn new(rows_max: usize) -> Self {
        Self::within(rows_max, SCAN_BYTES_MAX)
    }

    /// One of fewer bytes than a scan returns.
    pub(crate) fn within(rows_max: usize, bytes_max: usize) -> Self {
        Self { rows: Vec::new(), next: None, bytes: 0, rows_max, bytes_max }
    }

    /// Whether there is room for a row of so many bytes.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let is_first = self.rows.is_empty();
        self.rows.len() < self.rows_max && (is_first || self.bytes + bytes <= self.bytes_max)
    }

    pub(crate) fn push(&mut self, row: T, bytes: usize) {
        self.rows.push(row);
        self.bytes += bytes;
    }
}
