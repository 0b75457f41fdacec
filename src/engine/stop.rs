//! Stop sequences: text goes out only when it can't be the beginning of one any more.
//!
//! The match that is complete first wins, and of those that end at the same character the one
//! that begins first. That makes the result independent of how the text is cut into tokens.

/// Looks for stop sequences in a stream of text.
#[derive(Debug)]
pub(super) struct StopMatcher {
    stops: Vec<String>,
    /// The longest end of the text so far that is a beginning of a stop sequence, and during
    /// [`StopMatcher::push`] the new text behind it.
    held: String,
    stopped: bool,
}

impl StopMatcher {
    /// An empty sequence would match everywhere; it is left out.
    pub(super) fn new(stops: &[String]) -> StopMatcher {
        let stops = stops.iter().filter(|stop| !stop.is_empty());
        StopMatcher {
            stops: stops.cloned().collect(),
            held: String::new(),
            stopped: false,
        }
    }

    /// Takes `text`; appends what is safe to show to `out`. True once a stop sequence is met:
    /// then nothing more comes out.
    pub(super) fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.stopped {
            return true;
        }
        self.held.push_str(text);
        if let Some(start) = self.first_match() {
            out.push_str(&self.held[..start]);
            self.held.clear();
            self.stopped = true;
            return true;
        }
        let keep = self.held.len() - self.longest_beginning();
        out.push_str(&self.held[..keep]);
        self.held.drain(..keep);
        false
    }

    /// Ends the stream: what was held back was no stop sequence after all.
    pub(super) fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }

    /// Where the match begins that ends first.
    fn first_match(&self) -> Option<usize> {
        let matches = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        matches.min().map(|(_, start)| start)
    }

    /// The length of the longest end of `held` that a stop sequence begins with.
    fn longest_beginning(&self) -> usize {
        let longest = |stop: &String| {
            let mut ends = self.held.char_indices().map(|(at, _)| &self.held[at..]);
            ends.find(|end| stop.starts_with(end)).map_or(0, str::len)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[String], pieces: &[String]) -> (String, bool) {
        let (mut matcher, mut out) = (StopMatcher::new(stops), String::new());
        for piece in pieces {
            if matcher.push(piece, &mut out) {
                return (out, true);
            }
        }
        matcher.finish(&mut out);
        (out, false)
    }

    /// The definition, read off character by character.
    fn reference(stops: &[String], text: &str) -> (String, bool) {
        for (at, c) in text.char_indices() {
            let seen = &text[..at + c.len_utf8()];
            let ends = |stop: &&String| !stop.is_empty() && seen.ends_with(stop.as_str());
            if let Some(stop) = stops.iter().filter(ends).max_by_key(|stop| stop.len()) {
                return (seen[..seen.len() - stop.len()].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn holds_only_what_may_become_a_stop() {
        let (mut matcher, mut out) = (StopMatcher::new(&["\n\nUser".to_owned()]), String::new());
        assert!(!matcher.push("Hello\n", &mut out));
        assert_eq!(out, "Hello");
        assert!(!matcher.push("\n", &mut out));
        assert_eq!(out, "Hello");
        assert!(!matcher.push("there", &mut out));
        assert_eq!(out, "Hello\n\nthere");
        assert!(matcher.push("\n\nUser: ", &mut out));
        assert!(matcher.push("more", &mut out));
        assert_eq!(out, "Hello\n\nthere");
    }

    proptest! {
        #[test]
        fn same_whatever_the_pieces(
            stops in prop::collection::vec("[abé]{0,4}", 0..4),
            pieces in prop::collection::vec("[abé]{0,3}", 0..16),
        ) {
            let text = pieces.concat();
            let expected = reference(&stops, &text);
            prop_assert_eq!(run(&stops, &pieces), expected.clone());
            prop_assert_eq!(run(&stops, std::slice::from_ref(&text)), expected.clone());
            for stop in stops.iter().filter(|stop| !stop.is_empty()) {
                prop_assert!(!expected.0.contains(stop.as_str()));
            }
        }
    }
}
