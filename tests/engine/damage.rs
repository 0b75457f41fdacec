//! Damaged GGUF files are refused with a clear error, and nothing is left behind.

use std::fs::OpenOptions;

use slmd::for_tests::engine::gguf::Header;

use crate::{gguf, import};

/// The part of the file that holds all counts, names and offsets.
const HEADER: usize = 2 * 1024 * 1024;

#[test]
fn every_cut_of_the_header_is_refused() {
    let bytes = header();
    Header::read(bytes.as_slice(), file_len()).unwrap();
    for i in 0..500 {
        let cut = i * bytes.len() / 500 * 3 / 4;
        let error = Header::read(&bytes[..cut], cut as u64).unwrap_err();
        assert!(!error.to_string().is_empty());
    }
}

/// Flipped bits in counts, types, lengths and offsets, where they hurt most: the first bytes and
/// a sample of the rest. A count that the file can't hold must not be believed.
#[test]
fn flipped_bits_never_panic_and_never_cost_memory() {
    let bytes = header();
    let early = (0..64).flat_map(|at| (0..8).map(move |bit| (at, bit)));
    let later = (64..bytes.len())
        .step_by(bytes.len() / 700)
        .map(|at| (at, at % 8));
    let (mut refused, mut read) = (0, 0);
    for (at, bit) in early.chain(later) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << bit;
        match Header::read(damaged.as_slice(), file_len()) {
            Ok(_) => read += 1,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
            }
        }
    }
    println!("{refused} refused, {read} read (text and numbers that any value fits)");
    assert!(refused > 100);
}

#[test]
fn a_truncated_model_is_not_imported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::copy(gguf(), &path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for i in (0..20).rev() {
        file.set_len(file_len() * i / 20).unwrap();
        let out = folder.path().join("bundle");
        let error = import(&path, &out, "bundle").unwrap_err().to_string();
        assert!(!error.is_empty());
        assert!(!out.exists(), "a bundle was left after {error}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

fn header() -> Vec<u8> {
    use std::io::Read;
    let mut bytes = vec![0; HEADER];
    let mut file = std::fs::File::open(gguf()).unwrap();
    file.read_exact(&mut bytes).unwrap();
    bytes
}

fn file_len() -> u64 {
    std::fs::metadata(gguf()).unwrap().len()
}
