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

/// What comes of it for one short message.
fn outcome(source: &str) -> Result<String, String> {
    let source = format!(
        "{{% set ns = namespace(a=[], b=[], s='x') %}}{{% set one = ['x'] %}}\
         {{% set s = 'x' * 10000 %}}{{% set long = [s] %}}{source}"
    );
    let template = Template::compile(&source, None, None)?;
    match template.render(&chat(&["hi"]), TIME, |_| false) {
        Ok(_) => Ok("rendered".to_owned()),
        Err(TemplateError::TooLong) => Ok("too long".to_owned()),
        Err(error) => Ok(error.to_string()),
    }
}

const MANY: &str = "{% for i in range(10000) %}";
const FEW: &str = "{% for i in range(60) %}";

#[test]
fn hostile_templates_end_in_an_error() {
    let too_long = [
        // Lists that are only promised.
        "{{ ''.join(long * 100000000) }}",
        "{{ long * 100000000 }}",
        "{{ (long * 100000000) | join }}",
        "{{ one * 100000000 == one * 100000000 }}",
        "{{ (one * 100000000).count('y') }}",
        "{% set n = one * 10000 %}{% set l = [n] %}{{ (l * 10000) | tojson }}",
        "{{ (one * 100000000)[::-1] }}",
        "{{ range(100000) | batch(1) | list | tojson }}",
        "{{ (range(100000) | slice(100000)) | list }}",
        // Strings that grow.
        "{{ 'x' * 1000000000 }}",
        "{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% for i in range(60) %}{% set ns.s = ns.s.replace('x', 'xxxx') %}{% endfor %}",
        "{% for i in range(60) %}{% set ns.s = ns.s | replace('x', 'xxxx') %}{% endfor %}",
        "{% for i in range(60) %}{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}{% endfor %}",
        "{{ ('x' * 100000).join(one * 1000) }}",
        "{{ (one * 1000) | join('x' * 100000) }}",
        "{{ ('x,' * 90000).split(',') }}",
        "{{ ('x,' * 90000) | split(',') | list }}",
        "{{ ('x\n' * 90000).splitlines() }}",
        "{{ 'x' | indent(1000000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        // Work that makes nothing.
        "{% set s = 'x' * 100000 %}{% for i in range(100000) %}{% if s == s + '' %}{% endif %}{% endfor %}",
        "{% set s = 'x' * 100000 %}{% for i in range(100000) %}{% if s.strip('y' ~ s) %}{% endif %}{% endfor %}",
        "{% set s = 'x' * 100000 %}{% for i in range(100000) %}{{ s.find('y') }}{% endfor %}",
        "{% for i in range(100000) %}{% for i in range(100000) %}{% endfor %}{% endfor %}",
        // Values whose parts are shared: visited over and over.
        "{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
        "{% for i in range(60) %}{% set ns.a = {'a': ns.a, 'b': ns.a} %}{% endfor %}{{ ns.a }}",
        "{% for i in range(60) %}{% set ns.a = ns.a + ns.a + [1] %}{% endfor %}",
        "{% for i in range(60) %}{% set ns.a = (ns.a, ns.a) %}{% endfor %}{{ ns.a ~ '' }}",
    ];
    let mut otherwise = Vec::new();
    for source in too_long {
        let outcome = outcome(source);
        if outcome != Ok("too long".to_owned()) {
            otherwise.push(format!("{source}: {outcome:?}"));
        }
    }
    let failed = [
        // Values that nest: their drop, print and comparison go as deep.
        format!("{MANY}{{% set ns.a = [ns.a] %}}{{% endfor %}}"),
        format!("{MANY}{{% set ns.a = (ns.a,) %}}{{% endfor %}}"),
        format!("{MANY}{{% set ns.a = {{'a': ns.a}} %}}{{% endfor %}}"),
        format!("{MANY}{{% set ns.a = dict(a=ns.a) %}}{{% endfor %}}"),
        format!("{MANY}{{% set ns.a = [ns.a] | list | map('list') %}}{{% endfor %}}"),
        format!("{MANY}{{% set ns.a = namespace(a=ns.a) %}}{{% endfor %}}"),
        format!(
            "{}{{% set a = [] %}}{}",
            "",
            "{% set a = [a] %}".repeat(5_000)
        ),
        // Values that hold themselves.
        "{% set ns.a = ns %}{{ ns }}".to_owned(),
        "{% set ns.a = [ns] %}{{ ns }}".to_owned(),
        format!("{FEW}{{% set ns.a = loop %}}{{% endfor %}}"),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        "{% include 'chat_template' %}".to_owned(),
        "{{ debug() }}".to_owned(),
    ];
    for source in &failed {
        let outcome = outcome(source);
        if !matches!(&outcome, Ok(why) if why.contains("can't be run")) {
            let shown = source.get(..200).unwrap_or(source);
            otherwise.push(format!("{shown}: {outcome:?}"));
        }
    }
    for source in [
        format!(
            "{}{}",
            "{% if 1 %}".repeat(20_000),
            "{% endif %}".repeat(20_000)
        ),
        format!("{{{{ {}{} }}}}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(50_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(200_000)),
        format!("{{{{ 1{} }}}}", "+1".repeat(100_000)),
        format!("{{{{ 1{} }}}}", "**1".repeat(50_000)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(10_000)),
        format!("{{{{ ns{} }}}}", ".a".repeat(100_000)),
        format!("{{{{ ns{} }}}}", "|e".repeat(100_000)),
        format!("{{{{ ns{} }}}}", "[0]".repeat(50_000)),
        format!("{{{{ 1{} }}}}", " is e".repeat(50_000)),
        format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(20_000)),
        "{{ ['x'] * 100000000 == ['x'] * 100000000 }}".to_owned(),
        "{% if 10 * (['x']) %}{% endif %}".to_owned(),
    ] {
        if Template::compile(&source, None, None).is_ok() {
            otherwise.push(format!("{}…: compiled", &source[..20]));
        }
    }
    // Lazy without end, but no deeper than one: each is made whole.
    for source in [
        "ns.a[0:]",
        "(ns.a | chain(ns.b))",
        "(ns.a * 1)",
        "(ns.a | list)",
    ] {
        let source =
            format!("{{% for i in range(5000) %}}{{% set ns.a = {source} %}}{{% endfor %}}");
        let source = format!("{{% set ns = namespace(a=[], b=[]) %}}{source}{{{{ ns.a }}}}");
        let written = render(&source, &["hi"]);
        if !matches!(&written, Ok(pieces) if *pieces == [control("[]")]) {
            otherwise.push(format!("{source}: {written:?}"));
        }
    }
    assert!(otherwise.is_empty(), "{}", otherwise.join("\n"));
}

#[test]
fn a_template_that_fails_on_a_short_chat_is_to_blame() {
    let endless = "{{ messages[0].content }}{{ 'x' * 1000000000 }}";
    let error = template(endless).proven().unwrap_err();
    assert!(error.starts_with("it takes too long"), "{error}");
}

#[test]
fn a_long_chat_has_fuel_for_its_length() {
    let source = "{% set ns = namespace(all='') %}{% for m in messages %}\
        {% set ns.all = ns.all ~ m.role ~ ': ' ~ m.content | trim ~ '\n' %}{% endfor %}{{ ns.all }}";
    let text = "word ".repeat(400);
    let texts = vec![text.as_str(); 100];
    let written: String = render(source, &texts)
        .unwrap()
        .iter()
        .map(Piece::text)
        .collect();
    assert_eq!(written.matches("word").count(), 40_000);
}
