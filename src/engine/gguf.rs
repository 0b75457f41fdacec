//! A strict, bounded reader of GGUF files, versions 2 and 3.
//!
//! The file comes from anywhere, so each count and length is compared with the bytes that are
//! left before memory is asked for. Only the header is kept; a tensor's bytes are read on demand.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::catalog::hash;

/// No known model has keys or tensor names nearly as long.
const MAX_NAME: u64 = 256;
/// A chat template of a few hundred KiB is the longest string seen.
const MAX_STRING: u64 = 4 << 20;
/// All arrays' elements together; a vocabulary of 262,144 with scores, types and merges fits.
const MAX_ELEMENTS: u64 = 2 << 20;
const MAX_METADATA: u64 = 4096;
const MAX_TENSORS: u64 = 1 << 16;
/// ggml's own limit.
const MAX_DIMENSIONS: u32 = 4;

/// The metadata, in the order of the keys.
pub type Metadata = BTreeMap<String, Value>;

/// An open file whose header has been read and whose tensors lie inside of it.
#[derive(Debug)]
pub struct Gguf {
    file: File,
    header: Header,
}

/// What a GGUF file says before its tensors' data.
#[derive(Debug)]
pub struct Header {
    pub metadata: Metadata,
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// A metadata value; integers and floats are widened, which loses nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U64(u64),
    I64(i64),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Vec<Value>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub kind: TensorType,
    /// In ggml's order: the first is the length of a row.
    pub shape: Vec<u64>,
    /// Absolute position in the file; `offset + len` is inside of it.
    pub offset: u64,
    pub len: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q8_0,
    /// One of ggml's that isn't run here, by its name.
    Other(&'static str),
}

/// ggml's types that aren't run here (`ggml.h`, `enum ggml_type`).
const OTHER_TYPES: &[(u32, &str)] = &[
    (6, "Q5_0"),
    (7, "Q5_1"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (30, "BF16"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// How files begin that are taken for GGUF files.
const FOREIGN: &[(&[u8], &str)] = &[
    (
        b"version https://git-lfs",
        "it is a pointer of Git LFS; get the file itself (`git lfs pull`)",
    ),
    (b"<", "it is a web page; download the file itself"),
    (
        b"PK",
        "it is a zip archive, as PyTorch writes; it must be converted to GGUF",
    ),
    (b"\x1f\x8b", "it is compressed by gzip; unpack it"),
    (
        b"lmgg",
        "it is of GGUF's predecessor GGML; it must be converted anew",
    ),
    (
        b"fmgg",
        "it is of GGUF's predecessor GGMF; it must be converted anew",
    ),
    (
        b"tjgg",
        "it is of GGUF's predecessor GGJT; it must be converted anew",
    ),
];

#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("can't read the GGUF file: {0}")]
    Io(#[from] io::Error),
    #[error("not a usable GGUF file: {0}")]
    Bad(String),
}

impl Gguf {
    pub fn open(path: &Path) -> Result<Gguf, GgufError> {
        Gguf::new(File::open(path)?)
    }

    pub fn new(file: File) -> Result<Gguf, GgufError> {
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(bad(
                "it is a folder; give a GGUF file, which llama.cpp's convert_hf_to_gguf.py makes of \
                 a Hugging Face folder",
            ));
        }
        let len = metadata.len();
        let mut start = [0; 32];
        let read = file.read_at(&mut start, 0)?;
        if let Some(what) = foreign(&start[..read]) {
            return Err(bad(what));
        }
        let header = Header::read(BufReader::new(&file), len)?;
        Ok(Gguf { file, header })
    }

    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Of the whole file.
    pub fn sha256(&self) -> io::Result<String> {
        let mut file = &self.file;
        file.rewind()?;
        hash(file)
    }

    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.header.tensors
    }

    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.header
            .tensors
            .get(name)
            .ok_or_else(|| bad(format_args!("tensor {name} is missing")))
    }

    /// The tensor's bytes as they lie in the file.
    pub fn read(&self, tensor: &TensorInfo) -> Result<Vec<u8>, GgufError> {
        let len = usize::try_from(tensor.len).map_err(|_| bad("a tensor exceeds the memory"))?;
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, tensor.offset)?;
        Ok(bytes)
    }
}

impl Header {
    /// Reads a header from a file of `len` bytes.
    pub fn read(source: impl Read, len: u64) -> Result<Header, GgufError> {
        let mut cursor = Cursor {
            source,
            position: 0,
            len,
            elements: 0,
        };
        if cursor.bytes(4)? != b"GGUF" {
            return Err(bad("it doesn't begin with \"GGUF\""));
        }
        let version = cursor.u32()?;
        if (2..=3).contains(&version.swap_bytes()) {
            return Err(bad("it is big-endian; get one for little-endian machines"));
        }
        if !(2..=3).contains(&version) {
            return Err(bad(format_args!(
                "version {version} (2 and 3 are supported)"
            )));
        }
        // The smallest tensor info has 24 bytes, the smallest metadata entry 13.
        let tensors = cursor.count("tensors", MAX_TENSORS, 24)?;
        let entries = cursor.count("metadata entries", MAX_METADATA, 13)?;
        let metadata = cursor.metadata(entries)?;
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::U64(n)) if n.is_power_of_two() && (8..=65_536).contains(n) => *n,
            Some(_) => {
                return Err(bad(
                    "general.alignment is not a power of two from 8 to 65536",
                ));
            }
        };
        let tensors = cursor.tensors(tensors, alignment)?;
        Ok(Header { metadata, tensors })
    }
}

impl Value {
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::U64(n) => Some(*n),
            Value::I64(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::F64(x) => Some(*x),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(list) => Some(list),
            _ => None,
        }
    }
}

impl TensorInfo {
    /// Length of a row and number of rows; a vector is one row.
    #[must_use]
    pub fn columns_rows(&self) -> (u64, u64) {
        let columns = self.shape.first().copied().unwrap_or(1);
        // INVARIANT: the elements' product was checked when the header was read.
        (columns, self.shape.iter().skip(1).product())
    }
}

impl TensorType {
    /// Elements and bytes of one block; no bytes where nobody reads them.
    #[must_use]
    pub fn block(self) -> (u64, u64) {
        match self {
            TensorType::F32 => (1, 4),
            TensorType::F16 => (1, 2),
            TensorType::Q4_0 => (32, 18),
            TensorType::Q4_1 => (32, 20),
            TensorType::Q8_0 => (32, 34),
            TensorType::Other(_) => (1, 0),
        }
    }

    fn from_code(code: u32) -> Option<TensorType> {
        Some(match code {
            0 => TensorType::F32,
            1 => TensorType::F16,
            2 => TensorType::Q4_0,
            3 => TensorType::Q4_1,
            8 => TensorType::Q8_0,
            _ => {
                let other = OTHER_TYPES.iter().find(|(other, _)| *other == code);
                return other.map(|(_, name)| TensorType::Other(name));
            }
        })
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TensorType::Other(name) => f.write_str(name),
            known => std::fmt::Debug::fmt(known, f),
        }
    }
}

/// Reads forward and knows how much is left.
struct Cursor<R> {
    source: R,
    position: u64,
    len: u64,
    elements: u64,
}

impl<R: Read> Cursor<R> {
    fn left(&self) -> u64 {
        self.len.saturating_sub(self.position)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, len: u64) -> Result<Vec<u8>, GgufError> {
        if len > self.left() {
            return Err(self.truncated());
        }
        // INVARIANT: callers keep `len` at or below MAX_STRING, so it fits a usize.
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), GgufError> {
        if bytes.len() as u64 > self.left() {
            return Err(self.truncated());
        }
        self.source.read_exact(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn truncated(&self) -> GgufError {
        bad(format_args!(
            "it ends inside its header, at byte {} of {}",
            self.position, self.len
        ))
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things that take at least `least` bytes each.
    fn count(&mut self, what: &str, most: u64, least: u64) -> Result<u64, GgufError> {
        let count = self.u64()?;
        if count > most || count > self.left() / least {
            return Err(bad(format_args!(
                "it claims {count} {what} (at most {most}, and {} bytes are left)",
                self.left()
            )));
        }
        Ok(count)
    }

    fn string(&mut self, most: u64) -> Result<String, GgufError> {
        let len = self.count("bytes in a string", most, 1)?;
        String::from_utf8(self.bytes(len)?).map_err(|_| bad("a string is not UTF-8"))
    }

    fn metadata(&mut self, entries: u64) -> Result<Metadata, GgufError> {
        let mut metadata = Metadata::new();
        for _ in 0..entries {
            let key = self.string(MAX_NAME)?;
            let code = self.u32()?;
            let value = self.value(code)?;
            if metadata.contains_key(&key) {
                return Err(bad(format_args!("metadata key {key:?} occurs twice")));
            }
            metadata.insert(key, value);
        }
        Ok(metadata)
    }

    fn value(&mut self, code: u32) -> Result<Value, GgufError> {
        if code != 9 {
            return self.scalar(code);
        }
        let code = self.u32()?;
        let count = self.count("array elements", MAX_ELEMENTS, scalar_size(code)?)?;
        self.elements += count;
        if self.elements > MAX_ELEMENTS {
            return Err(bad(format_args!(
                "its arrays have over {MAX_ELEMENTS} elements"
            )));
        }
        (0..count)
            .map(|_| self.scalar(code))
            .collect::<Result<_, _>>()
            .map(Value::Array)
    }

    fn scalar(&mut self, code: u32) -> Result<Value, GgufError> {
        Ok(match code {
            0 => Value::U64(u8::from_le_bytes(self.array()?).into()),
            1 => Value::I64(i8::from_le_bytes(self.array()?).into()),
            2 => Value::U64(u16::from_le_bytes(self.array()?).into()),
            3 => Value::I64(i16::from_le_bytes(self.array()?).into()),
            4 => Value::U64(self.u32()?.into()),
            5 => Value::I64(i32::from_le_bytes(self.array()?).into()),
            6 => Value::F64(f32::from_le_bytes(self.array()?).into()),
            7 => match self.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(bad(format_args!("a boolean is {other}"))),
            },
            8 => Value::String(self.string(MAX_STRING)?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            _ => return Err(unknown_type(code)),
        })
    }

    fn tensors(
        &mut self,
        count: u64,
        alignment: u64,
    ) -> Result<BTreeMap<String, TensorInfo>, GgufError> {
        let mut tensors = BTreeMap::new();
        for _ in 0..count {
            let name = self.string(MAX_NAME)?;
            let info = self.tensor(&name)?;
            if !info.offset.is_multiple_of(alignment) {
                return Err(bad(format_args!("tensor {name} is misaligned")));
            }
            if tensors.insert(name.clone(), info).is_some() {
                return Err(bad(format_args!("tensor {name} occurs twice")));
            }
        }
        let start = self.position.next_multiple_of(alignment);
        for (name, info) in &mut tensors {
            let offset = start.checked_add(info.offset);
            let end = offset.and_then(|offset| offset.checked_add(info.len));
            match (offset, end) {
                (Some(offset), Some(end)) if end <= self.len => info.offset = offset,
                _ => {
                    return Err(bad(format_args!(
                        "tensor {name} lies beyond the file's end"
                    )));
                }
            }
        }
        Ok(tensors)
    }

    /// A tensor's info, with the offset still relative to the data's start.
    fn tensor(&mut self, name: &str) -> Result<TensorInfo, GgufError> {
        let dimensions = self.u32()?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(bad(format_args!(
                "tensor {name} has {dimensions} dimensions"
            )));
        }
        let shape = (0..dimensions)
            .map(|_| self.u64())
            .collect::<Result<Vec<_>, _>>()?;
        let code = self.u32()?;
        let kind = TensorType::from_code(code).ok_or_else(|| {
            bad(format_args!(
                "tensor {name} has type {code}, which is unknown"
            ))
        })?;
        let (elements, bytes) = kind.block();
        let total = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
        let len = total.and_then(|n| (n / elements).checked_mul(bytes));
        let whole_blocks = shape[0].is_multiple_of(elements);
        match (total, len) {
            (Some(1..), Some(len)) if whole_blocks => Ok(TensorInfo {
                kind,
                shape,
                offset: self.u64()?,
                len,
            }),
            _ => Err(bad(format_args!("tensor {name} has the shape {shape:?}"))),
        }
    }
}

/// What a file is that begins so, if it is known and no GGUF file.
fn foreign(start: &[u8]) -> Option<&'static str> {
    if start.is_empty() {
        return Some("it is empty");
    }
    // A length of eight bytes, then JSON.
    if start.get(8..10) == Some(b"{\"") {
        return Some(
            "it is a safetensors file; llama.cpp's convert_hf_to_gguf.py makes a GGUF file of its \
             folder",
        );
    }
    let known = FOREIGN.iter().find(|(magic, _)| start.starts_with(magic));
    known.map(|(_, what)| *what)
}

/// The least bytes that a scalar takes.
fn scalar_size(code: u32) -> Result<u64, GgufError> {
    match code {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        8 | 10..=12 => Ok(8),
        9 => Err(bad("an array of arrays")),
        _ => Err(unknown_type(code)),
    }
}

fn unknown_type(code: u32) -> GgufError {
    bad(format_args!("metadata type {code} is unknown"))
}

fn bad(what: impl std::fmt::Display) -> GgufError {
    GgufError::Bad(what.to_string())
}
