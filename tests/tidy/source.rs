//! Reads Rust as text, as far as the rules of the house need: what is a comment or a string, where
//! an item ends, which items are tests.

/// A Rust source: as it is, and with comments and strings blanked (same length, same lines).
pub struct Source {
    pub path: String,
    pub text: String,
    pub code: String,
    /// Byte ranges of items under `#[cfg(test)]`.
    pub tests: Vec<(usize, usize)>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        let code = blank(text);
        let tests = test_items(&code);
        let (path, text) = (path.to_owned(), text.to_owned());
        Source {
            path,
            text,
            code,
            tests,
        }
    }

    pub fn complain(&self, at: usize, what: &str) -> String {
        let line = self.code[..at].matches('\n').count() + 1;
        format!("{}:{line}: {what}", self.path)
    }

    pub fn is_test(&self, at: usize) -> bool {
        self.tests
            .iter()
            .any(|(from, to)| (*from..*to).contains(&at))
    }

    /// The top-level module that the file belongs to; none for `lib.rs` and `main.rs`.
    pub fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let name = inside.split('/').next()?;
        let name = name.strip_suffix(".rs").unwrap_or(name);
        (!["lib", "main"].contains(&name)).then_some(name)
    }

    /// Whether the file is its top-level module's root, so that `super` is the crate.
    pub fn is_module_root(&self) -> bool {
        let depth = self.path.matches('/').count();
        depth == 1 || (depth == 2 && self.path.ends_with("/mod.rs"))
    }
}

/// Items under `#[cfg(test)]`, from the attribute to their end.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let attributes = ["#[cfg(test)]", "#[cfg(all(test,"];
    attributes
        .iter()
        .flat_map(|attribute| code.match_indices(attribute))
        .map(|(at, attribute)| (at, item_end(code, at + attribute.len())))
        .collect()
}

/// The names of modules in files of their own that exist for tests only.
pub fn test_modules(source: &Source) -> Vec<String> {
    let folder = match source.path.rsplit_once('/') {
        Some((folder, "mod.rs" | "lib.rs" | "main.rs")) => folder.to_owned(),
        _ => source.path.trim_end_matches(".rs").to_owned(),
    };
    let declared = source.tests.iter().filter_map(|(from, to)| {
        let item = source.code[*from..*to].strip_suffix(';')?;
        let (_, name) = item.rsplit_once("mod ")?;
        Some(format!("{folder}/{}", name.trim()))
    });
    declared.collect()
}

/// Behind the `;` or the closing brace that ends the item at `from`. A `;` within brackets, as in
/// `[u8; 4]`, ends nothing.
pub fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[from..].char_indices() {
        match c {
            '[' | '(' | '{' => depth += 1,
            ']' | ')' | '}' => depth -= 1,
            _ => {}
        }
        if depth <= 0 && (c == ';' || c == '}') {
            return from + at + 1;
        }
    }
    code.len()
}

pub fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Identifiers, keywords and numbers with their places.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.split(|c| !is_word(c))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

/// Blanks comments, strings and characters; keeps every line break and every byte's place.
pub fn blank(text: &str) -> String {
    let mut out = text.as_bytes().to_vec();
    let mut at = 0;
    while at < text.len() {
        let length = opaque(&text.as_bytes()[at..], at > 0 && is_word_byte(out[at - 1]));
        for byte in &mut out[at..at + length] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += length.max(1);
    }
    // Non-ASCII is left only outside of comments and strings, where Rust has none here.
    String::from_utf8_lossy(&out).into_owned()
}

fn is_word_byte(byte: u8) -> bool {
    is_word(char::from(byte))
}

/// The length of the comment, string or character that starts here; 0: none does.
fn opaque(rest: &[u8], after_word: bool) -> usize {
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment(rest),
        [b'"', ..] => quoted(rest, b'"'),
        [b'r', b'"' | b'#', ..] if !after_word => raw_string(rest),
        [b'b', b'r', b'"' | b'#', ..] if !after_word => 1 + raw_string(&rest[1..]),
        [b'\'', b'\\', ..] => quoted(rest, b'\''),
        // A lifetime has no closing quote after its first character.
        [b'\'', c, ..] => {
            let width = utf8_width(*c);
            let closed = rest.get(1 + width) == Some(&b'\'');
            if closed { width + 2 } else { 0 }
        }
        _ => 0,
    }
}

fn utf8_width(first: u8) -> usize {
    match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0; // A raw identifier.
    }
    let end: Vec<u8> = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let body = 2 + hashes;
    let found = rest[body..].windows(end.len()).position(|w| w == end);
    found.map_or(rest.len(), |at| body + at + end.len())
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}
