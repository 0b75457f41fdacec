//! A template's text as minijinja takes it.

/// What opens and closes a block's, an expression's and a comment's tag.
const BLOCK: (&str, &str) = ("{%", "%}");
const EXPRESSION: (&str, &str) = ("{{", "}}");
const COMMENT: (&str, &str) = ("{#", "#}");

/// Line ends as Jinja reads them, and the tags of `{% generation %}` as those of `{% with %}`.
///
/// Transformers' trainers find the assistant's words between these tags; what they write is their
/// body, which is a scope of its own, so `with` writes and hides the same.
pub(super) fn readable(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let (mut rest, mut raw) = (source.as_str(), false);
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        let (tag, name) = tag(&rest[at..], raw);
        match name {
            "raw" => raw = true,
            "endraw" => raw = false,
            _ => {}
        }
        match name {
            "generation" | "endgeneration" => out.push_str(&tag.replacen("generation", "with", 1)),
            _ => out.push_str(tag),
        }
        rest = &rest[at + tag.len()..];
    }
    out.push_str(rest);
    out
}

/// The tag that `text` begins with, and its name if it is a block's that has no more than that;
/// only the brace where it begins with none. Nothing is a tag inside of `raw` but its end.
fn tag(text: &str, raw: bool) -> (&str, &str) {
    let brace = (&text[..1], "");
    if text.starts_with(BLOCK.0) {
        let Some(tag) = quoted_tag(text, BLOCK.1) else {
            return brace;
        };
        let name = tag[2..tag.len() - 2].trim_matches(['-', '+']).trim();
        return if raw && name != "endraw" {
            brace
        } else {
            (tag, name)
        };
    }
    let found = match () {
        () if raw => None,
        () if text.starts_with(COMMENT.0) => text.find(COMMENT.1).map(|at| &text[..at + 2]),
        () if text.starts_with(EXPRESSION.0) => quoted_tag(text, EXPRESSION.1),
        () => None,
    };
    found.map_or(brace, |tag| (tag, ""))
}

/// `text` to the first `end` that isn't in a string.
fn quoted_tag<'a>(text: &'a str, end: &str) -> Option<&'a str> {
    let (mut quote, mut escaped) = (None, false);
    for (at, byte) in text.bytes().enumerate().skip(2) {
        match (quote, byte) {
            _ if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(open), _) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, _) if text.as_bytes()[at..].starts_with(end.as_bytes()) => {
                return Some(&text[..at + end.len()]);
            }
            (None, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn only_tags_of_generation_change() {
        for (source, expected) in [
            (
                "{% generation %}a{% endgeneration %}",
                "{% with %}a{% endwith %}",
            ),
            (
                "{%- generation -%}\n{%+endgeneration%}",
                "{%- with -%}\n{%+endwith%}",
            ),
            (
                "{# it's {% generation %} #}b",
                "{# it's {% generation %} #}b",
            ),
            ("{{ '{% generation %}' }}", "{{ '{% generation %}' }}"),
            (
                r#"{{ "\"{% generation %}" }}"#,
                r#"{{ "\"{% generation %}" }}"#,
            ),
            (
                "{% set a = '%}' %}{% generation %}",
                "{% set a = '%}' %}{% with %}",
            ),
            (
                "{% raw %}it's {% generation %}{% endraw %}{% generation %}",
                "{% raw %}it's {% generation %}{% endraw %}{% with %}",
            ),
            ("{ {{ {'a': {}} }} {", "{ {{ {'a': {}} }} {"),
            (
                "{% generations %}{% set generation = 1 %}",
                "{% generations %}{% set generation = 1 %}",
            ),
            ("{% generation", "{% generation"),
            ("a\r\nb\rc\n", "a\nb\nc\n"),
        ] {
            assert_eq!(readable(source), expected);
        }
    }
}
