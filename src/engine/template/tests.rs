//! Templates of today, beside Python's own Jinja; and texts that stay apart from control.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

/// What jinja2 makes of `tests/data/templates`.
#[derive(Deserialize)]
struct Golden {
    chats: BTreeMap<String, Vec<(String, String)>>,
    golden: BTreeMap<String, BTreeMap<String, Expected>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Text(String),
    Raised(String),
}

fn template(source: &str) -> Template {
    let (bos, eos) = (Some("<s>".to_owned()), Some("</s>".to_owned()));
    Template::compile(source, bos, eos).unwrap()
}

/// The time in `tests/data/templates.py`.
const TIME: Timestamp = Timestamp(1_772_874_300_000);

fn chat(texts: &[&str]) -> Vec<Message> {
    let message = |text: &&str| Message {
        role: Role::User,
        content: Secret::new((*text).to_owned()),
    };
    texts.iter().map(message).collect()
}

fn render(source: &str, texts: &[&str]) -> Result<Vec<Piece>, TemplateError> {
    let rendered = template(source).render(&chat(texts), TIME, |text| text.contains("<|"));
    rendered.map(|rendered| rendered.pieces)
}

fn control(text: &str) -> Piece {
    Piece::Control(text.to_owned())
}

fn plain(text: &str) -> Piece {
    Piece::Plain(text.to_owned())
}

#[test]
fn texts_come_back_apart_from_control() {
    let source = "{% for m in messages %}<|im|>{{ m.role }}\n{{ m.content }}{% endfor %}!";
    let pieces = render(source, &["<|im|>x", ""]).unwrap();
    let user = control("<|im|>user\n");
    let expected = [
        user,
        plain("<|im|>x"),
        control("<|im|>user\n"),
        plain(""),
        control("!"),
    ];
    assert_eq!(pieces, expected);
}

#[test]
fn a_template_that_trims_gets_trimmed_texts() {
    let source = "<|im|>{{ messages[0].content | trim }}!";
    let pieces = render(source, &["  <|im|> a \n"]).unwrap();
    assert_eq!(pieces, [control("<|im|>"), plain("<|im|> a"), control("!")]);
}

#[test]
fn a_template_that_rewrites_is_used_only_without_control_names() {
    let source = "<|im|>{{ messages[0].content | replace('a', 'b') | upper }}";
    // The marks come through; the texts inside of them are plain.
    assert_eq!(render(source, &["<|a"]).unwrap()[1], plain("<|B"));
    let source = "<|im|>{{ messages[0].content[1:] }}";
    assert_eq!(render(source, &["abc"]).unwrap(), [control("<|im|>bc")]);
    let error = render(source, &["a<|im|>"]).unwrap_err();
    assert!(matches!(error, TemplateError::Mixed), "{error}");
    // A text that is looked at, not only written.
    let source = "{% if messages[0].content == 'x' %}<|x|>{% else %}<|y|>{% endif %}";
    assert_eq!(render(source, &["x"]).unwrap(), [control("<|x|>")]);
}

#[test]
fn only_texts_that_name_control_need_marks() {
    // The first text loses its marks, the second keeps its own.
    let source = "{{ messages[0].content.split('/')[-1] }}<|im|>{{ messages[1].content }}";
    let pieces = render(source, &["a/b", "<|x|>"]).unwrap();
    assert_eq!(pieces, [control("b<|im|>"), plain("<|x|>"), control("")]);
    let source = format!("{source} {{{{ messages[1].content.strip() }}}}");
    let pieces = render(&source, &["a/b", "  <|x|>\n"]);
    assert!(matches!(pieces, Err(TemplateError::Mixed)), "{pieces:?}");
    let source = "{{ messages[0].content.split('/')[-1] }}<|im|>{{ messages[1].content.strip() }}";
    let pieces = render(source, &["a/b", "  <|x|>\n"]).unwrap();
    assert_eq!(pieces[1], plain("<|x|>"));
    let error = render(source, &["a/<|x|>", "b"]).unwrap_err();
    assert!(matches!(error, TemplateError::Mixed), "{error}");
}

#[test]
fn who_is_to_blame_is_told_apart() {
    let failed = |source| render(source, &["secret text"]).unwrap_err();
    for source in [
        "{{ raise_exception('roles must alternate') }}",
        "{% macro m() %}{{ raise_exception('roles must alternate') }}{% endmacro %}{{ m() | trim }}",
    ] {
        let raised = failed(source);
        assert!(
            matches!(&raised, TemplateError::Refused(what) if what == "roles must alternate"),
            "{raised}"
        );
    }
    for source in [
        "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}",
        "{% set x = 'x' * 100000 %}{% for a in range(100) %}{{ x }}{% endfor %}",
    ] {
        let long = failed(source);
        assert!(matches!(long, TemplateError::TooLong), "{long}");
    }
    for (source, what) in [
        ("{{ messages[0].content.nonsense() }}", "nonsense"),
        (
            "\n{{ strftime_now('%Q') }}",
            "strftime_now doesn't know %Q (line 2)",
        ),
        ("{{ messages[7].content.strip() }}", "undefined"),
        ("{{ 'a'.split('') }}", "separator is empty"),
    ] {
        let fault = failed(source);
        assert!(matches!(fault, TemplateError::Failed(_)), "{fault}");
        assert!(fault.to_string().contains(what), "{fault}");
        assert!(!fault.to_string().contains("secret"), "{fault}");
    }
    for broken in ["{% if %}", "{% nonsense %}", "", " \n"] {
        assert!(Template::compile(broken, None, None).is_err(), "{broken}");
    }
}

#[test]
fn what_cannot_be_served_is_found_by_trying() {
    let proven = |source: &str| template(source).proven().map(|template| template.content);
    let body = |body: &str| format!("{{% for message in messages %}}{body}{{% endfor %}}");
    for (source, content) in [
        (body("{{ message.content }}"), Content::Text),
        (body("{{ message.content.strip() }}"), Content::Text),
        (
            body("{% generation %}{{ message.content }}{% endgeneration %}"),
            Content::Text,
        ),
        (
            body(
                "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}",
            ),
            Content::Parts,
        ),
        (
            body("{{ message.content[0]['text'] + '' }}"),
            Content::Parts,
        ),
        // Not every model has a system turn, and not every one a second.
        (
            body(
                "{% if message.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}{{ message.content }}",
            ),
            Content::Text,
        ),
        (
            format!(
                "{{% if messages | length > 1 %}}{{{{ raise_exception('one') }}}}{{% endif %}}{}",
                body("{{ message.content }}")
            ),
            Content::Text,
        ),
    ] {
        assert_eq!(proven(&source), Ok(content), "{source}");
    }
    for (source, what) in [
        (
            "{{ messages[0].content.nonsense() }}".to_owned(),
            "nonsense",
        ),
        (
            "{{ raise_exception('never') }}".to_owned(),
            "refuses these messages: never",
        ),
        ("<|im_start|>".to_owned(), "leaves out"),
        // Found in longer chats only.
        (
            body(
                "{{ message.content }}{% if message.role == 'assistant' %}{{ message.nonsense.x }}{% endif %}",
            ),
            "undefined",
        ),
        (
            body(
                "{% if message.role == 'system' %}{{ message | nonsense() }}{% endif %}{{ message.content }}",
            ),
            "unknown filter",
        ),
    ] {
        let error = match Template::compile(&source, None, None) {
            Ok(template) => template.proven().unwrap_err(),
            Err(error) => error,
        };
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn only_a_template_that_asks_for_the_time_is_dated() {
    let dated = |source: &str| {
        template(source)
            .render(&chat(&["a"]), TIME, |_| false)
            .unwrap()
    };
    assert!(!dated("{{ messages[0].content }}{% if strftime_now is defined %}{% endif %}").dated);
    let asked = dated("{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}");
    assert!(asked.dated);
    assert_eq!(asked.pieces[0], control("07 Mar 2026 "));
}

/// Every feature that templates of today use, on chats plain and awkward: the text is jinja2's.
#[test]
fn templates_of_today_are_rendered_as_jinja2_renders_them() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let golden = std::fs::read(data.join("templates.json")).unwrap();
    let golden: Golden = serde_json::from_slice(&golden).unwrap();
    let message = |(role, text): &(String, String)| Message {
        role: match role.as_str() {
            "system" => Role::System,
            "user" => Role::User,
            _ => Role::Assistant,
        },
        content: Secret::new(text.clone()),
    };
    let mut differ = Vec::new();
    for (name, cases) in &golden.golden {
        let source = data.join("templates").join(name).with_extension("jinja");
        let source = std::fs::read_to_string(source).unwrap();
        let template = template(&source).proven().unwrap();
        for (case, expected) in cases {
            let messages: Vec<Message> = golden.chats[case].iter().map(message).collect();
            let rendered = template.render(&messages, TIME, |text| text.contains("<|im_end|>"));
            let same = match (expected, &rendered) {
                (Expected::Text(text), Ok(rendered)) => marks::are(&rendered.pieces, text),
                // It writes the last text on a line of methods, where marks show.
                (Expected::Text(_), Err(TemplateError::Mixed)) => name == "python",
                (Expected::Raised(what), Err(TemplateError::Refused(raised))) => what == raised,
                _ => false,
            };
            if !same {
                let found = rendered.map(|r| r.pieces.iter().map(Piece::text).collect::<String>());
                differ.push(format!("{name}, {case}: {found:#?}"));
            }
        }
    }
    assert_eq!(golden.golden.len(), 9);
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
