//! Tokens back to text, as a stream: only whole characters go out.
//!
//! A byte-level token may end inside a UTF-8 character. The bytes of an unfinished character wait
//! for the next token, and go with the answer's end, which is often a bound that knows nothing of
//! characters. What can't become a character any more is replaced as [`String::from_utf8_lossy`]
//! does, so a stream's text is that of the whole answer.

/// Holds at most three bytes of an unfinished character.
#[derive(Debug, Default)]
pub(super) struct Detokeniser {
    pending: Vec<u8>,
}

impl Detokeniser {
    /// Appends the text that `bytes` complete to `out`.
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            out.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_end = done + invalid.len() == self.pending.len();
            if invalid.is_empty() || (at_end && is_unfinished(invalid)) {
                break;
            }
            out.push(char::REPLACEMENT_CHARACTER);
            done += invalid.len();
        }
        self.pending.drain(..done);
    }
}

/// Whether more bytes may turn `bytes` into a character (and not only the text's end is missing).
fn is_unfinished(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(pieces: &[Vec<u8>]) -> String {
        let (mut detokeniser, mut text) = (Detokeniser::default(), String::new());
        for piece in pieces {
            detokeniser.push(piece, &mut text);
        }
        text
    }

    #[test]
    fn a_character_goes_out_when_its_last_byte_is_there() {
        let (mut detokeniser, mut text) = (Detokeniser::default(), String::new());
        let family = "é👩";
        let mut seen = Vec::new();
        for byte in family.as_bytes() {
            detokeniser.push(&[*byte], &mut text);
            seen.push(text.chars().count());
        }
        assert_eq!(seen, [0, 1, 1, 1, 1, 2]);
        assert_eq!(text, family);
    }

    #[test]
    fn what_never_becomes_a_character_is_replaced_at_once() {
        let (mut detokeniser, mut text) = (Detokeniser::default(), String::new());
        detokeniser.push(b"a\xff\xe2\x82", &mut text);
        assert_eq!(text, "a\u{fffd}");
        detokeniser.push(b"b", &mut text);
        assert_eq!(text, "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn what_the_end_cuts_off_is_left_out() {
        for (bytes, expected) in [
            (b"a\xf0\x9f\xa6".as_slice(), "a"),
            (b"\xc3", ""),
            (b"\xff\xe2\x82", "\u{fffd}"),
            // The model's own.
            ("\u{fffd}".as_bytes(), "\u{fffd}"),
        ] {
            assert_eq!(stream(&[bytes.to_vec()]), expected);
        }
    }

    proptest! {
        #[test]
        fn stream_equals_the_whole(
            pieces in prop::collection::vec(
                prop_oneof![
                    any::<char>().prop_map(|c| c.to_string().into_bytes()),
                    prop::collection::vec(any::<u8>(), 0..4),
                    prop::collection::vec(0x80_u8..0xf8, 1..3),
                ],
                0..24,
            ),
            cut in 1_usize..5,
        ) {
            let whole = pieces.concat();
            let cut: Vec<Vec<u8>> = whole.chunks(cut).map(<[u8]>::to_vec).collect();
            let tail = whole.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
            let tail = if is_unfinished(tail) { tail.len() } else { 0 };
            let expected = String::from_utf8_lossy(&whole[..whole.len() - tail]);
            prop_assert_eq!(stream(&pieces), expected.as_ref());
            prop_assert_eq!(stream(&cut), expected.as_ref());
        }
    }
}
