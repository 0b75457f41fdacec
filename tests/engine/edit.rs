//! Copies of the real model's GGUF file with other metadata or tensors.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::gguf;

/// The part of the file that holds all counts, names and offsets.
const HEADER: usize = 4 * 1024 * 1024;
const ALIGNMENT: usize = 32;

/// A GGUF file as the order of its parts.
pub(crate) struct Gguf {
    /// Keys, and type and value as they lie in the file.
    pub(crate) metadata: Vec<(String, Vec<u8>)>,
    pub(crate) tensors: Vec<Tensor>,
    /// Where the weights begin in the real file.
    weights: u64,
}

pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) kind: u32,
    offset: u64,
}

impl Gguf {
    pub(crate) fn real() -> Gguf {
        let mut bytes = vec![0; HEADER];
        let file = File::open(gguf()).unwrap();
        file.read_exact_at(&mut bytes, 0).unwrap();
        let mut reader = Reader {
            bytes: &bytes,
            at: 8,
        };
        let (tensors, entries) = (reader.u64(), reader.u64());
        let entry = |reader: &mut Reader<'_>| {
            let key = reader.text();
            let from = reader.at;
            let kind = reader.u32();
            reader.skip(kind);
            (key, bytes[from..reader.at].to_vec())
        };
        let metadata = (0..entries).map(|_| entry(&mut reader)).collect();
        let tensor = |reader: &mut Reader<'_>| Tensor {
            name: reader.text(),
            shape: (0..reader.u32()).map(|_| reader.u64()).collect(),
            kind: reader.u32(),
            offset: reader.u64(),
        };
        let tensors = (0..tensors).map(|_| tensor(&mut reader)).collect();
        let weights = reader.at.next_multiple_of(ALIGNMENT) as u64;
        Gguf {
            metadata,
            tensors,
            weights,
        }
    }

    pub(crate) fn set_text(&mut self, key: &str, text: &str) {
        self.set(key, &[&8_u32.to_le_bytes()[..], &string(text)].concat());
    }

    pub(crate) fn set_number(&mut self, key: &str, number: u32) {
        self.set(key, &[4_u32.to_le_bytes(), number.to_le_bytes()].concat());
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.metadata.retain(|(own, _)| own != key);
    }

    fn set(&mut self, key: &str, value: &[u8]) {
        self.remove(key);
        self.metadata.push((key.to_owned(), value.to_vec()));
    }

    /// Writes the header, and the real weights or a hole of their length.
    pub(crate) fn write(&self, path: &Path, weights: bool) {
        let mut head = b"GGUF\x03\0\0\0".to_vec();
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            head.extend(string(key));
            head.extend(value);
        }
        for tensor in &self.tensors {
            head.extend(string(&tensor.name));
            head.extend((tensor.shape.len() as u32).to_le_bytes());
            head.extend(tensor.shape.iter().flat_map(|n| n.to_le_bytes()));
            head.extend(tensor.kind.to_le_bytes());
            head.extend(tensor.offset.to_le_bytes());
        }
        head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
        let mut file = File::create(path).unwrap();
        file.write_all(&head).unwrap();
        let real = File::open(gguf()).unwrap();
        let length = real.metadata().unwrap().len() - self.weights;
        if weights {
            let mut bytes = vec![0; length as usize];
            real.read_exact_at(&mut bytes, self.weights).unwrap();
            file.write_all(&bytes).unwrap();
        }
        file.set_len(head.len() as u64 + length).unwrap();
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at].try_into().unwrap()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        self.at += length;
        String::from_utf8(self.bytes[self.at - length..self.at].to_vec()).unwrap()
    }

    fn skip(&mut self, kind: u32) {
        match kind {
            8 => drop(self.text()),
            9 => {
                let kind = self.u32();
                for _ in 0..self.u64() {
                    self.skip(kind);
                }
            }
            0 | 1 | 7 => self.at += 1,
            2 | 3 => self.at += 2,
            4..=6 => self.at += 4,
            10..=12 => self.at += 8,
            _ => panic!("the real model has metadata of type {kind}"),
        }
    }
}
