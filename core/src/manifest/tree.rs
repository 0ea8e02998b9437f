//! The identity of a manifest: a Merkle tree over its records.
//!
//! The shape is that of RFC 9162, section 2.1: a tree of `n > 1` leaves has as its left child the tree of the largest
//! power of two below `n`. The hash is BLAKE3 in derive-key mode, with one context for leaves, one for nodes, one for
//! the empty tree and one for the root, so that none can be taken for another. (RFC 9162 gets the same from a byte in
//! front.)

use std::sync::OnceLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};

use crate::id::Digest;

/// Builds the tree hash one leaf at a time. Keeps one digest per level: at most 64.
#[derive(Clone, Debug, Default)]
pub struct TreeBuilder {
    /// Leaves so far. Bit `i` set means that the stack holds a full subtree of `2^i` leaves.
    leaves: u64,
    /// Full subtrees, the largest first.
    stack: Vec<Digest>,
}

impl TreeBuilder {
    /// The empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a leaf at the end.
    pub fn push(&mut self, leaf: &[u8]) {
        let mut digest = leaf_hash(leaf);
        // Each trailing one is a full subtree as large as what `digest` stands for.
        for _ in 0..self.leaves.trailing_ones() {
            let left = self.stack.pop().expect("invariant: one subtree per bit of `leaves`");
            digest = node_hash(&left, &digest);
        }
        self.stack.push(digest);
        self.leaves += 1;
    }

    /// Leaves so far.
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// The tree hash of the leaves so far.
    pub fn finish(&self) -> Digest {
        let right_to_left = self.stack.iter().rev().copied();
        right_to_left.reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(empty_hash)
    }
}

/// The root of a manifest: the tree hash and the counts that a receipt states. `bytes` is the sum of the sizes of the
/// entries that are not withdrawn.
pub fn root(tree: &TreeBuilder, records: u64, entries: u64, chunks: u64, bytes: u64) -> Digest {
    static KEY: OnceLock<ContextKey> = OnceLock::new();
    let mut input = [0; 64];
    input[..32].copy_from_slice(&tree.finish().0);
    for (place, count) in input[32..].chunks_exact_mut(8).zip([records, entries, chunks, bytes]) {
        place.copy_from_slice(&count.to_le_bytes());
    }
    hash(&KEY, CONTEXT_ROOT, &[&input])
}

fn leaf_hash(leaf: &[u8]) -> Digest {
    static KEY: OnceLock<ContextKey> = OnceLock::new();
    hash(&KEY, CONTEXT_LEAF, &[leaf])
}

fn node_hash(left: &Digest, right: &Digest) -> Digest {
    static KEY: OnceLock<ContextKey> = OnceLock::new();
    hash(&KEY, CONTEXT_NODE, &[&left.0, &right.0])
}

fn empty_hash() -> Digest {
    static KEY: OnceLock<ContextKey> = OnceLock::new();
    hash(&KEY, CONTEXT_EMPTY, &[])
}

/// BLAKE3 in derive-key mode. The key of a context costs as much as a leaf, so it is computed once.
fn hash(key: &OnceLock<ContextKey>, context: &str, parts: &[&[u8]]) -> Digest {
    let key = key.get_or_init(|| hash_derive_key_context(context));
    let mut hasher = blake3::Hasher::new_from_context_key(key);
    for part in parts {
        hasher.update(part);
    }
    Digest(*hasher.finalize().as_bytes())
}

const CONTEXT_LEAF: &str = "Metra MTP v1 manifest leaf";
const CONTEXT_NODE: &str = "Metra MTP v1 manifest node";
const CONTEXT_EMPTY: &str = "Metra MTP v1 manifest empty";
const CONTEXT_ROOT: &str = "Metra MTP v1 manifest root";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 9162, section 2.1.1, word by word, and with the public derive-key interface.
    fn naive(leaves: &[Vec<u8>]) -> Digest {
        let derive = |context, bytes: &[u8]| Digest(blake3::derive_key(context, bytes));
        match leaves {
            [] => derive("Metra MTP v1 manifest empty", &[]),
            [leaf] => derive("Metra MTP v1 manifest leaf", leaf),
            _ => {
                let split = (1..leaves.len()).rev().find(|k| k.is_power_of_two()).unwrap_or(1);
                let (left, right) = leaves.split_at(split);
                derive("Metra MTP v1 manifest node", &[naive(left).0, naive(right).0].concat())
            }
        }
    }

    #[test]
    fn root_covers_every_count() {
        let tree = TreeBuilder::new();
        let roots: Vec<_> = [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
            .into_iter()
            .map(|[a, b, c, d]| root(&tree, a, b, c, d))
            .collect();
        for (i, root) in roots.iter().enumerate() {
            assert_eq!(roots.iter().position(|r| r == root), Some(i));
        }
        let mut input = tree.finish().0.to_vec();
        input.extend([1u64, 2, 3, 4].map(u64::to_le_bytes).concat());
        let expected = Digest(blake3::derive_key("Metra MTP v1 manifest root", &input));
        assert_eq!(root(&tree, 1, 2, 3, 4), expected);
    }

    proptest! {
        #[test]
        fn equals_the_recursive_definition(
            leaves in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..70)
        ) {
            let mut tree = TreeBuilder::new();
            for (i, leaf) in leaves.iter().enumerate() {
                prop_assert_eq!(tree.finish(), naive(&leaves[..i]));
                tree.push(leaf);
                prop_assert_eq!(tree.leaves(), i as u64 + 1);
            }
            prop_assert_eq!(tree.finish(), naive(&leaves));
        }
    }
}
