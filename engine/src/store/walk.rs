//! Walking over rows, either way.

/// Which way a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first row to the last.
    Forward,
    /// From the last row to the first.
    Backward,
}

/// What a walk is to do after a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Go on with the next row.
    Next,
    /// Leave out what lies between: go on with the first row at or after this key, or, walking
    /// backward, with the last row before it. It never leads back: a key that was passed is
    /// [`Walk::Next`].
    Seek(Vec<u8>),
    /// That was enough.
    Stop,
}

/// Takes a row of a walk, key and value, and says how to go on.
pub type EachRow<'a> = dyn FnMut(&[u8], &[u8]) -> Walk + 'a;

/// What is left of the range of a walk: from, and up to before the end.
pub(crate) struct Rest {
    pub(crate) from: Vec<u8>,
    pub(crate) end: Vec<u8>,
    pub(crate) direction: Direction,
}

impl Rest {
    pub(crate) fn new(from: &[u8], end: &[u8], direction: Direction) -> Self {
        Self { from: from.to_vec(), end: end.to_vec(), direction }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end <= self.from
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.from[..] <= *key && *key < self.end[..]
    }

    /// The row of this key is behind.
    pub(crate) fn pass(&mut self, key: &[u8]) {
        match self.direction {
            Direction::Forward => {
                // The least key after it.
                self.from.clear();
                self.from.extend_from_slice(key);
                self.from.push(0);
            }
            Direction::Backward => {
                self.end.clear();
                self.end.extend_from_slice(key);
            }
        }
    }

    /// Where the walk goes on: see [`Walk::Seek`].
    pub(crate) fn next_key(&self) -> Vec<u8> {
        match self.direction {
            Direction::Forward => self.from.clone(),
            Direction::Backward => self.end.clone(),
        }
    }

    /// Everything on this side of the key is behind.
    pub(crate) fn seek(&mut self, key: Vec<u8>) {
        match self.direction {
            Direction::Forward if self.from < key => self.from = key,
            Direction::Backward if key < self.end => self.end = key,
            _ => {}
        }
    }
}
