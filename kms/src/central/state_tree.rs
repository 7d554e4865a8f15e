//! One digest of everything that the store must hold, so that a signed head speaks for all of it.
//!
//! A Merkle tree with 2^16 leaves over the digests of the records' signed bodies; the digest of a record's store key says in
//! which leaf it is. Leaves and inner nodes are hashed apart, as in RFC 6962, section 2.1. Invariant: the root depends on
//! what there is and not on the order in which it came.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::records::sha256;

type Digest = [u8; 32];

/// Digests of nodes by their place in their level, the root's level first.
type Levels = Vec<HashMap<u16, Digest>>;

/// The tree.
#[derive(Clone, Debug)]
pub(super) struct StateTree {
    /// Digests of bodies by the digest of their store key.
    records: BTreeMap<Digest, Digest>,
    nodes: Levels,
}

/// What becomes another by a write.
struct Change {
    records: BTreeMap<Digest, Digest>,
    nodes: Levels,
}

impl StateTree {
    /// Over nothing.
    pub(super) fn new() -> Self {
        Self {
            records: BTreeMap::new(),
            nodes: vec![HashMap::new(); LEVELS],
        }
    }

    /// The digest of everything; 32 zeros when there is nothing.
    pub(super) fn root(&self) -> Digest {
        self.node(0, 0)
    }

    /// The root as it would be after these bodies were written under their store keys.
    pub(super) fn root_with<'a>(
        &self,
        writes: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Digest {
        let change = self.change(writes);
        let root = change.nodes.first().and_then(|level| level.get(&0));
        root.copied().unwrap_or_else(|| self.root())
    }

    /// Writes a body under its store key.
    pub(super) fn write(&mut self, key: &[u8], body: &[u8]) {
        let change = self.change([(key, body)]);
        self.records.extend(change.records);
        for (level, changed) in self.nodes.iter_mut().zip(change.nodes) {
            level.extend(changed);
        }
    }

    fn change<'a>(&self, writes: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Change {
        let writes = writes.into_iter();
        let records: BTreeMap<Digest, Digest> = writes
            .map(|(key, body)| (sha256(key), sha256(body)))
            .collect();
        let mut nodes: Levels = vec![HashMap::new(); LEVELS];
        let mut places: BTreeSet<u16> = records.keys().map(place_of).collect();
        for &place in &places {
            nodes[LEVELS - 1].insert(place, self.leaf(place, &records));
        }
        for level in (0..LEVELS - 1).rev() {
            places = places.iter().map(|place| place >> 1).collect();
            for &place in &places {
                let child = |child| {
                    let changed = nodes[level + 1].get(&child).copied();
                    changed.unwrap_or_else(|| self.node(level + 1, child))
                };
                let (left, right) = (child(place << 1), child((place << 1) | 1));
                let digest = sha256(&[&[INNER][..], &left, &right].concat());
                nodes[level].insert(place, digest);
            }
        }
        Change { records, nodes }
    }

    fn node(&self, level: usize, place: u16) -> Digest {
        self.nodes[level].get(&place).copied().unwrap_or_default()
    }

    /// The digest of a leaf's records, with those that are written.
    fn leaf(&self, place: u16, writes: &BTreeMap<Digest, Digest>) -> Digest {
        let [high, low] = place.to_be_bytes();
        let bound = |rest| {
            let mut bound = [rest; 32];
            (bound[0], bound[1]) = (high, low);
            bound
        };
        let range = bound(0)..=bound(u8::MAX);
        let mut records: BTreeMap<&Digest, &Digest> = self.records.range(range.clone()).collect();
        records.extend(writes.range(range));
        let mut bytes = vec![LEAF];
        for (key, body) in records {
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(body);
        }
        sha256(&bytes)
    }
}

/// The leaf that a record is in.
fn place_of(key: &Digest) -> u16 {
    u16::from_be_bytes([key[0], key[1]])
}

/// From the root to the leaves.
const LEVELS: usize = 17;
/// What the two kinds of nodes begin with.
const LEAF: u8 = 0;
const INNER: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn records(count: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
        let record = |n: u32| (format!("k/{n}").into_bytes(), n.to_be_bytes().to_vec());
        (0..count).map(record).collect()
    }

    fn of<'a>(records: impl IntoIterator<Item = &'a (Vec<u8>, Vec<u8>)>) -> StateTree {
        let mut tree = StateTree::new();
        for (key, body) in records {
            tree.write(key, body);
        }
        tree
    }

    #[test]
    fn the_root_is_of_what_there_is_and_not_of_the_order() {
        // More than one record in many leaves.
        let records = records(100_000);
        let tree = of(&records);
        assert_eq!(tree.root(), of(records.iter().rev()).root());
        let (first, rest) = records.split_at(99_990);
        let writes = rest.iter().map(|(key, body)| (&key[..], &body[..]));
        assert_eq!(of(first).root_with(writes), tree.root());
        assert_eq!(tree.root_with([]), tree.root());
    }

    #[test]
    fn nothing_can_be_left_out_or_replaced() {
        let records = records(300);
        let whole = of(&records).root();
        assert_eq!(of(&[]).root(), [0; 32]);
        for at in 0..records.len() {
            let mut less = records.clone();
            let (key, _) = less.remove(at);
            assert_ne!(of(&less).root(), whole, "without {at}");
            less.push((key, b"older".to_vec()));
            assert_ne!(of(&less).root(), whole, "with another {at}");
        }
    }

    #[test]
    fn what_was_written_before_is_replaced() {
        let mut tree = of(&records(10));
        let before = tree.root();
        tree.write(b"k/3", b"other");
        assert_ne!(tree.root(), before);
        tree.write(b"k/3", &3_u32.to_be_bytes());
        assert_eq!(tree.root(), before);
    }
}
