//! An ordered map whose copies share what they have in common: a copy costs nothing, and a change to
//! one of them copies the few nodes on the way to it, once.

use std::sync::Arc;

use bytes::Bytes;

use super::walk::{Direction, EachRow, Rest, Walk};

/// Most rows of a leaf, and most children of a branch.
const NODE_ENTRIES_MAX: usize = 16;

type Key = Arc<[u8]>;

/// Rows in the order of their keys.
#[derive(Clone)]
pub(super) struct Tree {
    root: Arc<Node>,
}

#[derive(Clone)]
enum Node {
    /// Rows.
    Leaf(Vec<(Key, Bytes)>),
    /// Children, each with a key that no row of it is below and every row of the one before is. The
    /// key of the first child says nothing: it has whatever is below the second.
    Branch(Vec<(Key, Arc<Node>)>),
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(Vec::new())) }
    }
}

impl Tree {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        let mut node = &self.root;
        loop {
            match &**node {
                Node::Leaf(rows) => {
                    let found = rows.binary_search_by(|(row, _)| (**row).cmp(key));
                    return found.ok().map(|at| &rows[at].1);
                }
                Node::Branch(children) => node = &children[child_of(children, key)].1,
            }
        }
    }

    pub(super) fn insert(&mut self, key: &[u8], value: Bytes) {
        if let Some(right) = insert(&mut self.root, key, value) {
            let left = std::mem::replace(&mut self.root, Arc::new(Node::Leaf(Vec::new())));
            self.root = Arc::new(Node::Branch(vec![(Key::from([]), left), right]));
        }
    }

    pub(super) fn remove(&mut self, key: &[u8]) {
        // What does not change is not copied.
        if self.get(key).is_some() {
            remove(&mut self.root, key);
            self.shrink();
        }
    }

    /// Removes the rows from `from` up to before `end`.
    pub(super) fn clear(&mut self, from: &[u8], end: &[u8]) {
        if from < end {
            clear(&mut self.root, from, end);
            self.shrink();
        }
    }

    /// Takes off a root that leads to one node only.
    fn shrink(&mut self) {
        loop {
            let only = match &*self.root {
                Node::Branch(children) if children.is_empty() => Self::default().root,
                Node::Branch(children) if children.len() == 1 => Arc::clone(&children[0].1),
                _ => return,
            };
            self.root = only;
        }
    }

    pub(super) fn walk(
        &self,
        from: &[u8],
        end: &[u8],
        direction: Direction,
        each: &mut EachRow<'_>,
    ) {
        let mut rest = Rest::new(from, end, direction);
        while !rest.is_empty() {
            let mut seek = None;
            visit(&self.root, &rest, &mut |key, value| match each(key, value) {
                Walk::Next => true,
                Walk::Stop => false,
                Walk::Seek(to) => {
                    seek = Some((key.to_vec(), to));
                    false
                }
            });
            let Some((key, to)) = seek else { return };
            rest.pass(&key);
            rest.seek(to);
        }
    }
}

fn child_of(children: &[(Key, Arc<Node>)], key: &[u8]) -> usize {
    children.partition_point(|(first, _)| **first <= *key).saturating_sub(1)
}

/// Splits what has become too large. What grows at its end, as logs do, leaves full nodes behind.
fn split<T>(entries: &mut Vec<T>, inserted: usize) -> Option<Vec<T>> {
    if entries.len() <= NODE_ENTRIES_MAX {
        return None;
    }
    let grows = inserted + 1 == entries.len();
    Some(entries.split_off(if grows { inserted } else { entries.len() / 2 }))
}

/// Returns the right half of a node that had to be split, and its first key.
fn insert(node: &mut Arc<Node>, key: &[u8], value: Bytes) -> Option<(Key, Arc<Node>)> {
    match Arc::make_mut(node) {
        Node::Leaf(rows) => match rows.binary_search_by(|(row, _)| (**row).cmp(key)) {
            Ok(at) => {
                rows[at].1 = value;
                None
            }
            Err(at) => {
                rows.insert(at, (key.into(), value));
                let right = split(rows, at)?;
                Some((Arc::clone(&right[0].0), Arc::new(Node::Leaf(right))))
            }
        },
        Node::Branch(children) => {
            let at = child_of(children, key);
            let right = insert(&mut children[at].1, key, value)?;
            children.insert(at + 1, right);
            let right = split(children, at + 1)?;
            Some((Arc::clone(&right[0].0), Arc::new(Node::Branch(right))))
        }
    }
}

/// Removes a row that is there.
fn remove(node: &mut Arc<Node>, key: &[u8]) {
    match Arc::make_mut(node) {
        Node::Leaf(rows) => rows.retain(|(row, _)| **row != *key),
        Node::Branch(children) => {
            let at = child_of(children, key);
            remove(&mut children[at].1, key);
            if children[at].1.is_empty() {
                children.remove(at);
            }
        }
    }
}

fn clear(node: &mut Arc<Node>, from: &[u8], end: &[u8]) {
    match Arc::make_mut(node) {
        Node::Leaf(rows) => rows.retain(|(row, _)| **row < *from || *end <= **row),
        Node::Branch(children) => {
            let (first, past) = children_in(children, from, end);
            // Those in the middle lie inside the range.
            children.drain(first + 1..(past - 1).max(first + 1));
            let last = (past - 1).min(first + 1);
            for at in (first..=last).rev() {
                clear(&mut children[at].1, from, end);
                if children[at].1.is_empty() {
                    children.remove(at);
                }
            }
        }
    }
}

/// The children that can have rows of the range: the first, and the one past the last.
fn children_in(children: &[(Key, Arc<Node>)], from: &[u8], end: &[u8]) -> (usize, usize) {
    let first = child_of(children, from);
    let past = children.partition_point(|(least, _)| **least < *end);
    (first, past.max(first + 1))
}

/// Hands out rows until there are no more, or `each` has enough, which is told.
fn visit(node: &Node, rest: &Rest, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> bool {
    match node {
        Node::Leaf(rows) => {
            let first = rows.partition_point(|(row, _)| **row < *rest.from);
            let past = rows.partition_point(|(row, _)| **row < *rest.end);
            let mut row = |(key, value): &(Key, Bytes)| each(key, value);
            match rest.direction {
                Direction::Forward => rows[first..past].iter().all(&mut row),
                Direction::Backward => rows[first..past].iter().rev().all(&mut row),
            }
        }
        Node::Branch(children) => {
            let (first, past) = children_in(children, &rest.from, &rest.end);
            let mut child = |(_, node): &(Key, Arc<Node>)| visit(node, rest, each);
            match rest.direction {
                Direction::Forward => children[first..past].iter().all(&mut child),
                Direction::Backward => children[first..past].iter().rev().all(&mut child),
            }
        }
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(rows) => rows.is_empty(),
            Self::Branch(children) => children.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    type Model = BTreeMap<Vec<u8>, Bytes>;

    fn rows(tree: &Tree, direction: Direction) -> Vec<(Vec<u8>, Bytes)> {
        let mut rows = Vec::new();
        tree.walk(b"", &[0xff; 9], direction, &mut |key, value| {
            rows.push((key.to_vec(), Bytes::copy_from_slice(value)));
            Walk::Next
        });
        rows
    }

    fn assert_same(tree: &Tree, model: &Model) {
        let wanted: Vec<_> = model.clone().into_iter().collect();
        assert_eq!(rows(tree, Direction::Forward), wanted);
        let backward: Vec<_> = wanted.into_iter().rev().collect();
        assert_eq!(rows(tree, Direction::Backward), backward);
    }

    /// How far the leaves are from the root: the same for all of them.
    fn depth(node: &Node) -> usize {
        match node {
            Node::Leaf(_) => 0,
            Node::Branch(children) => {
                let depths: Vec<_> = children.iter().map(|(_, node)| depth(node)).collect();
                assert!(depths.iter().all(|depth| *depth == depths[0]), "{depths:?}");
                assert!(children.len() <= NODE_ENTRIES_MAX);
                assert!(children.iter().all(|(_, node)| !node.is_empty()));
                1 + depths[0]
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Change {
        Insert(u16),
        /// So many keys, one after the other.
        Run(u16, u16),
        Remove(u16),
        Clear(u16, u16),
        Copy,
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            8 => any::<u16>().prop_map(Change::Insert),
            3 => (any::<u16>(), 0_u16..1500).prop_map(|(from, count)| Change::Run(from, count)),
            6 => any::<u16>().prop_map(Change::Remove),
            2 => (any::<u16>(), any::<u16>()).prop_map(|(a, b)| Change::Clear(a, b)),
            1 => Just(Change::Copy),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever is done to it, it is the map that it stands for, and so is every copy that was
        /// made on the way.
        #[test]
        fn a_tree_and_its_copies_are_the_maps_they_stand_for(changes in vec(change(), 0..40)) {
            let (mut tree, mut model) = (Tree::default(), Model::new());
            let mut copies = Vec::new();
            for (number, change) in changes.into_iter().enumerate() {
                let value = Bytes::from(number.to_string());
                let mut insert = |key: u16| {
                    tree.insert(&key.to_be_bytes(), value.clone());
                    model.insert(key.to_be_bytes().to_vec(), value.clone());
                };
                match change {
                    Change::Insert(key) => insert(key),
                    Change::Run(from, count) => {
                        (from..from.saturating_add(count)).for_each(insert);
                    }
                    Change::Remove(near) => {
                        let key = model.range(near.to_be_bytes().to_vec()..).next();
                        let key = key.map_or(near.to_be_bytes().to_vec(), |(key, _)| key.clone());
                        tree.remove(&key);
                        model.remove(&key);
                    }
                    Change::Clear(from, end) => {
                        let (from, end) = (from.to_be_bytes(), end.to_be_bytes());
                        tree.clear(&from, &end);
                        model.retain(|key, _| key[..] < from[..] || end[..] <= key[..]);
                    }
                    Change::Copy => copies.push((tree.clone(), model.clone())),
                }
                depth(&tree.root);
            }
            copies.push((tree, model));
            for (tree, model) in &copies {
                assert_same(tree, model);
                for key in (0..u16::MAX).step_by(97).map(u16::to_be_bytes) {
                    prop_assert_eq!(tree.get(&key), model.get(&key[..]));
                }
            }
        }
    }

    /// A change copies the nodes on its way, and no others.
    #[test]
    fn a_change_to_a_copy_leaves_the_rest_shared() {
        let mut tree = Tree::default();
        (0..30_000_u16).for_each(|key| tree.insert(&key.to_be_bytes(), Bytes::new()));
        assert_eq!(depth(&tree.root), 3, "full leaves, full branches");
        let copy = tree.clone();
        tree.insert(&[1, 2, 3], Bytes::new());
        fn leaves(node: &Arc<Node>, found: &mut Vec<*const Node>) {
            match &**node {
                Node::Leaf(_) => found.push(Arc::as_ptr(node)),
                Node::Branch(children) => children.iter().for_each(|(_, c)| leaves(c, found)),
            }
        }
        let (mut before, mut after) = (Vec::new(), Vec::new());
        leaves(&copy.root, &mut before);
        leaves(&tree.root, &mut after);
        let shared = before.iter().filter(|leaf| after.contains(leaf)).count();
        assert_eq!(shared, before.len() - 1);
    }
}
