//! The Merkle tree of RFC 6962 section 2.1, and the proofs of RFC 9162 section 2.1.
//!
//! A proof is made from the hashes of complete subtrees, which never change once their leaves are
//! there: who keeps them asks [`Hashes`] for a few, whatever the size of the tree.

use aws_lc_rs::digest::{Context, SHA256};

use crate::digest::sha256;

pub type Hash = [u8; 32];

/// The root of a tree without leaves: SHA-256 of nothing.
pub const EMPTY: Hash = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// What is hashed before a leaf's bytes and before two hashes, so that neither passes for the other.
const LEAF: u8 = 0;
const NODE: u8 = 1;

pub fn leaf_hash(bytes: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[LEAF]);
    context.update(bytes);
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [NODE; 65];
    bytes[1..33].copy_from_slice(left);
    bytes[33..].copy_from_slice(right);
    sha256(&bytes)
}

/// The hashes of complete subtrees, where somebody keeps them.
pub trait Hashes {
    type Error;

    /// Of the subtree of 2^`level` leaves that begins at leaf `index`·2^`level`. It is asked only
    /// of subtrees whose leaves are all there.
    fn hash(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// The root of the first `size` leaves.
pub fn root<H: Hashes>(size: u64, hashes: &H) -> Result<Hash, H::Error> {
    match size {
        0 => Ok(EMPTY),
        _ => subtree(0, size, hashes),
    }
}

/// The proof that `leaf` is one of the first `size`, from the bottom up. Of one that isn't there is
/// none: an empty one, which [`verify_inclusion`] refuses.
pub fn inclusion<H: Hashes>(leaf: u64, size: u64, hashes: &H) -> Result<Vec<Hash>, H::Error> {
    let (mut begin, mut end, mut proof) = (0, size, Vec::new());
    while leaf < size && end - begin > 1 {
        let middle = begin + split(end - begin);
        if leaf < middle {
            proof.push(subtree(middle, end, hashes)?);
            end = middle;
        } else {
            proof.push(subtree(begin, middle, hashes)?);
            begin = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of `old` leaves is the beginning of that of `new`. Of one that is larger
/// there is none: an empty one, which [`verify_consistency`] refuses.
pub fn consistency<H: Hashes>(old: u64, new: u64, hashes: &H) -> Result<Vec<Hash>, H::Error> {
    let (mut begin, mut end, mut proof) = (0, new, Vec::new());
    if old == 0 || old >= new {
        return Ok(proof);
    }
    while end != old {
        let middle = begin + split(end - begin);
        if old <= middle {
            proof.push(subtree(middle, end, hashes)?);
            end = middle;
        } else {
            proof.push(subtree(begin, middle, hashes)?);
            begin = middle;
        }
    }
    // The first leaves' own root is known to who asks.
    if begin > 0 {
        proof.push(subtree(begin, end, hashes)?);
    }
    proof.reverse();
    Ok(proof)
}

/// The hash over the leaves from `begin` to before `end`, of which there is one at least. `begin` is
/// where such a subtree of the whole tree begins.
fn subtree<H: Hashes>(begin: u64, end: u64, hashes: &H) -> Result<Hash, H::Error> {
    let size = end - begin;
    if size.is_power_of_two() {
        let level = size.trailing_zeros();
        // INVARIANT: of 64 bits, so none has a number that a byte doesn't hold.
        return hashes.hash(level as u8, begin >> level);
    }
    let middle = begin + split(size);
    let left = subtree(begin, middle, hashes)?;
    Ok(node_hash(&left, &subtree(middle, end, hashes)?))
}

/// The largest power of two below `size`, which is two at least.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error("the tree has no such leaf")]
    Beyond,
    #[error("the earlier tree is larger than the later one")]
    Shrunk,
    #[error("the proof is too short or too long for such a tree")]
    Length,
    #[error("the proof leads to another root")]
    Root,
}

/// Whether `leaf` has this hash in the tree of `size` leaves with this root.
pub fn verify_inclusion(
    leaf_hash: &Hash,
    leaf: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if leaf >= size {
        return Err(ProofError::Beyond);
    }
    let mut climb = Climb(leaf, size - 1);
    let mut hash = *leaf_hash;
    for sibling in proof {
        hash = match climb.step()? {
            Side::Left => node_hash(sibling, &hash),
            Side::Right => node_hash(&hash, sibling),
        };
    }
    climb.end()?;
    same(&hash, root)
}

/// Whether the tree of `old` leaves is the beginning of that of `new`, by their roots.
pub fn verify_consistency(
    old: u64,
    old_root: &Hash,
    new: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old > new {
        return Err(ProofError::Shrunk);
    }
    if old == 0 || old == new {
        let earlier = if old == 0 { &EMPTY } else { new_root };
        return match proof.is_empty() {
            true => same(old_root, earlier),
            false => Err(ProofError::Length),
        };
    }
    let mut climb = Climb(old - 1, new - 1);
    climb.skip_left();
    // The earlier tree is a complete subtree of the later one: its root is where the way begins.
    let (first, rest) = match old.is_power_of_two() {
        true => (old_root, proof),
        false => proof.split_first().ok_or(ProofError::Length)?,
    };
    let (mut earlier, mut later) = (*first, *first);
    for sibling in rest {
        match climb.step()? {
            Side::Left => {
                earlier = node_hash(sibling, &earlier);
                later = node_hash(sibling, &later);
            }
            Side::Right => later = node_hash(&later, sibling),
        }
    }
    climb.end()?;
    same(&earlier, old_root)?;
    same(&later, new_root)
}

fn same(hash: &Hash, root: &Hash) -> Result<(), ProofError> {
    match hash == root {
        true => Ok(()),
        false => Err(ProofError::Root),
    }
}

/// The way from a leaf to the root: its number and the last leaf's, at the level that was reached
/// (`fn` and `sn` of RFC 9162 section 2.1.3.2).
struct Climb(u64, u64);

/// Where the next hash of a proof stands.
enum Side {
    Left,
    Right,
}

impl Climb {
    fn step(&mut self) -> Result<Side, ProofError> {
        if self.1 == 0 {
            return Err(ProofError::Length);
        }
        let side = match self.0 & 1 == 1 || self.0 == self.1 {
            true => Side::Left,
            false => Side::Right,
        };
        if let Side::Left = side {
            // At the right edge, levels without a neighbour have no hash in the proof.
            while self.0 & 1 == 0 && self.0 != 0 {
                self.up();
            }
        }
        self.up();
        Ok(side)
    }

    /// Goes up to where the node isn't its parent's right half.
    fn skip_left(&mut self) {
        while self.0 & 1 == 1 {
            self.up();
        }
    }

    fn up(&mut self) {
        (self.0, self.1) = (self.0 >> 1, self.1 >> 1);
    }

    fn end(&self) -> Result<(), ProofError> {
        match self.1 {
            0 => Ok(()),
            _ => Err(ProofError::Length),
        }
    }
}

#[cfg(test)]
mod tests;
