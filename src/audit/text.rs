//! Text of records that somebody else chose, within a bound.

use crate::digest::hex;

/// The most that one text takes in a record's JSON, in bytes, its quotes not counted.
pub const MAX_TEXT: usize = 256;

/// Stands where a text was cut, with the hash of the whole after it: a cut name is still told from
/// every other, and somebody who has the whole can find it.
const CUT: &str = "…sha256:";

/// Cuts what is longer than [`MAX_TEXT`].
pub(super) fn bound(text: &mut String) {
    if text.chars().map(json_len).sum::<usize>() <= MAX_TEXT {
        return;
    }
    let whole = crate::digest::sha256(text.as_bytes());
    let tail = format!("{CUT}{}", hex(whole.as_ref()));
    let (mut left, mut end) = (MAX_TEXT - tail.len(), 0);
    for (at, c) in text.char_indices() {
        let Some(rest) = left.checked_sub(json_len(c)) else {
            break;
        };
        (left, end) = (rest, at + c.len_utf8());
    }
    text.truncate(end);
    text.push_str(&tail);
}

/// What a character takes in JSON as serde_json writes it (RFC 8259 section 7).
fn json_len(c: char) -> usize {
    match c {
        '"' | '\\' | '\u{8}' | '\u{c}' | '\n' | '\r' | '\t' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bounded(text: &str) -> String {
        let mut text = text.to_owned();
        bound(&mut text);
        text
    }

    #[test]
    fn long_names_stay_apart() {
        let long = "a".repeat(1000);
        let cut = bounded(&long);
        assert!(cut.starts_with("aaaa") && cut.contains(CUT), "{cut}");
        assert_ne!(cut, bounded(&format!("{long}b")));
        assert_eq!(bounded(&long[..MAX_TEXT]), &long[..MAX_TEXT]);
    }

    proptest! {
        #[test]
        fn no_text_is_longer_in_json_and_cutting_again_changes_nothing(
            text in prop_oneof![".{0,300}", "[\\x00-\\x1f\"\\\\]{0,300}"]
        ) {
            let cut = bounded(&text);
            let json = serde_json::to_string(&cut).unwrap();
            prop_assert!(json.len() <= MAX_TEXT + 2, "{}", json.len());
            prop_assert_eq!(bounded(&cut), cut.clone());
            if serde_json::to_string(&text).unwrap().len() <= MAX_TEXT + 2 {
                prop_assert_eq!(cut, text);
            }
        }
    }
}
