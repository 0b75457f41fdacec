//! The published vectors, another implementation, and what no proof may pass.

use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::digest::hex;

/// A tree in memory, which hashes anew whatever it is asked for.
struct Naive(Vec<Vec<u8>>);

impl Hashes for Naive {
    type Error = Infallible;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, Infallible> {
        let begin = usize::try_from(index << level).unwrap();
        Ok(defined(&self.0[begin..begin + (1 << level)]))
    }
}

/// RFC 6962 section 2.1, word for word.
fn defined(leaves: &[Vec<u8>]) -> Hash {
    match leaves {
        [] => sha256(b""),
        [one] => sha256(&[&[0], &one[..]].concat()),
        many => {
            let (left, right) = many.split_at(many.len().next_power_of_two() / 2);
            sha256(&[&[1], &defined(left)[..], &defined(right)[..]].concat())
        }
    }
}

fn numbered(count: usize) -> Naive {
    Naive((0..count).map(|n| n.to_string().into_bytes()).collect())
}

impl Naive {
    fn root(&self, size: u64) -> Hash {
        root(size, self).unwrap()
    }

    fn leaf(&self, leaf: u64) -> Hash {
        leaf_hash(&self.0[leaf as usize])
    }
}

/// The leaves of the reference implementation of RFC 6962 (certificate-transparency, merkletree).
fn published() -> Naive {
    let leaves = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    Naive(leaves.map(bytes).to_vec())
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |two: &[u8]| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

const A: &str = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7";
const B: &str = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e";
const C: &str = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4";
const D: &str = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b";
const E: &str = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0";
const F: &str = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a";

fn shown(proof: &[Hash]) -> Vec<String> {
    proof.iter().map(|hash| hex(hash)).collect()
}

#[test]
fn published_roots_and_proofs_are_ours() {
    let tree = published();
    assert_eq!(root(0, &tree), Ok(sha256(b"")));
    for (size, root) in (1..).zip(ROOTS) {
        assert_eq!(hex(&tree.root(size)), root);
    }
    let inclusions: [(u64, u64, &[&str]); 5] = [
        (0, 1, &[]),
        (0, 8, &[A, B, C]),
        (5, 8, &[D, E, ROOTS[3]]),
        (2, 3, &[ROOTS[1]]),
        (1, 5, &[ROOTS[0], B, D]),
    ];
    for (leaf, size, published) in inclusions {
        let proof = inclusion(leaf, size, &tree).unwrap();
        assert_eq!(shown(&proof), published, "{leaf} of {size}");
    }
    let consistencies: [(u64, u64, &[&str]); 4] = [
        (1, 1, &[]),
        (1, 8, &[A, B, C]),
        (6, 8, &[F, E, ROOTS[3]]),
        (2, 5, &[B, D]),
    ];
    for (old, new, published) in consistencies {
        let proof = consistency(old, new, &tree).unwrap();
        assert_eq!(shown(&proof), published, "{old} of {new}");
    }
}

#[test]
fn every_proof_of_small_trees_verifies_and_no_other_does() {
    let tree = numbered(20);
    for size in 1..=20 {
        let root = tree.root(size);
        for leaf in 0..size {
            let proof = inclusion(leaf, size, &tree).unwrap();
            let (own, check) = (tree.leaf(leaf), verify_inclusion);
            assert_eq!(check(&own, leaf, size, &proof, &root), Ok(()));
            for other in (0..size).filter(|other| *other != leaf) {
                assert!(check(&own, other, size, &proof, &root).is_err());
                assert!(check(&tree.leaf(other), leaf, size, &proof, &root).is_err());
            }
            for worse in spoilt(&proof) {
                assert!(check(&own, leaf, size, &worse, &root).is_err());
            }
        }
        for old in 0..=size {
            let proof = consistency(old, size, &tree).unwrap();
            let (earlier, check) = (tree.root(old), verify_consistency);
            assert_eq!(check(old, &earlier, size, &root, &proof), Ok(()));
            for worse in spoilt(&proof) {
                assert!(check(old, &earlier, size, &root, &worse).is_err());
            }
            for other in (0..=size).filter(|other| *other != old) {
                assert!(check(old, &tree.root(other), size, &root, &proof).is_err());
                let another = check(old, &earlier, size, &tree.root(other), &proof);
                assert!(old == 0 || other == size || another.is_err());
            }
        }
    }
}

/// With a hash more, a hash less, two exchanged, and one changed.
fn spoilt(proof: &[Hash]) -> Vec<Vec<Hash>> {
    let mut spoilt = vec![[proof, &[EMPTY]].concat(), [&[EMPTY], proof].concat()];
    for at in 0..proof.len() {
        spoilt.push([&proof[..at], &proof[at + 1..]].concat());
        let mut changed = proof.to_vec();
        changed[at][at % 32] ^= 1;
        spoilt.push(changed);
        let mut exchanged = proof.to_vec();
        exchanged.swap(0, at);
        spoilt.extend((exchanged != proof).then_some(exchanged));
    }
    spoilt
}

#[test]
fn what_isnt_there_is_refused() {
    let tree = numbered(8);
    let (leaf, root) = (tree.leaf(0), tree.root(8));
    assert_eq!(inclusion(8, 8, &tree), Ok(vec![]));
    let beyond = verify_inclusion(&leaf, 8, 8, &[], &root);
    assert_eq!(beyond, Err(ProofError::Beyond));
    let of_nothing = verify_inclusion(&leaf, 0, 0, &[], &EMPTY);
    assert_eq!(of_nothing, Err(ProofError::Beyond));
    assert_eq!(consistency(9, 8, &tree), Ok(vec![]));
    let shrunk = verify_consistency(9, &root, 8, &root, &[]);
    assert_eq!(shrunk, Err(ProofError::Shrunk));
    let unproved = verify_consistency(3, &root, 8, &root, &[]);
    assert_eq!(unproved, Err(ProofError::Length));
    let forked = verify_consistency(8, &leaf, 8, &root, &[]);
    assert_eq!(forked, Err(ProofError::Root));
    let begun_full = verify_consistency(0, &leaf, 8, &root, &[]);
    assert_eq!(begun_full, Err(ProofError::Root));
    // As long as any can be, and the largest tree.
    let long = [EMPTY; 64];
    assert!(verify_inclusion(&leaf, u64::MAX - 1, u64::MAX, &long, &root).is_err());
    assert!(verify_consistency(1 << 63, &root, u64::MAX, &root, &long).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Another implementation comes to the same roots and takes our proofs.
    #[test]
    fn another_implementation_agrees(size in 1..300usize, old in 1..300usize, leaf in 0..300usize) {
        use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
        let (old, leaf) = (old.min(size), leaf % size);
        let tree = numbered(size);
        let mut other = ct_merkle::mem_backed_tree::MemoryBackedTree::<sha2::Sha256, Vec<u8>>::new();
        let mut earlier = None;
        for (n, bytes) in (1..).zip(&tree.0) {
            other.push(bytes.clone());
            if n == old {
                earlier = Some(other.root());
            }
        }
        let (old, leaf, size) = (old as u64, leaf as u64, size as u64);
        let root: RootHash<sha2::Sha256> = other.root();
        prop_assert_eq!(root.as_bytes()[..].to_vec(), tree.root(size).to_vec());
        let proof = inclusion(leaf, size, &tree).unwrap().concat();
        let proof = InclusionProof::<sha2::Sha256>::try_from_bytes(proof).unwrap();
        prop_assert!(root.verify_inclusion(&tree.0[leaf as usize], leaf, &proof).is_ok());
        if old < size {
            let proof = consistency(old, size, &tree).unwrap().concat();
            let proof = ConsistencyProof::<sha2::Sha256>::try_from_bytes(proof).unwrap();
            let earlier = earlier.unwrap();
            prop_assert!(root.verify_consistency(&earlier, &proof).is_ok());
        }
    }
}
