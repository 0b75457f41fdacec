//! The chat template: messages to the model's own notation.
//!
//! A template is a program that came with a model, so it runs with bounded fuel and output. What
//! it writes is trusted to name control tokens; what messages say is not. The rendering therefore
//! comes back as [`Piece`]s that tell the two apart.

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, context};
use zeroize::Zeroize;

use crate::identity;
use crate::prompt::Message;
use crate::secret::{Secret, Wiped};

/// Instructions of minijinja's machine; ten messages take some hundred.
const FUEL: u64 = 2_000_000;
/// Beyond the messages themselves.
const MAX_OVERHEAD: usize = 1 << 20;
const NAME: &str = "chat_template";

/// A compiled chat template.
#[derive(Debug)]
pub(super) struct Template {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

/// A part of a rendered chat.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Written by the template: may name control tokens.
    Control(String),
    /// A message's text: plain, whatever it looks like.
    Plain(String),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum TemplateError {
    /// The template refuses these messages, or can't render them.
    #[error("the model's chat template can't render these messages: {0}")]
    Render(String),
    /// The template changes texts in a way that can't be told apart from its own writing.
    #[error(
        "the model's chat template rewrites message texts, and one of them holds a control token's name; leave it out"
    )]
    Mixed,
}

impl Template {
    pub(super) fn compile(source: String, bos: String, eos: String) -> Result<Template, String> {
        let mut environment = Environment::new();
        // As Hugging Face's `apply_chat_template` sets up Jinja.
        let mut syntax = SyntaxConfig::builder();
        let syntax = syntax.trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| describe(&error))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", |message: String| {
            Err::<String, _>(Error::new(ErrorKind::InvalidOperation, message))
        });
        let added = environment.add_template_owned(NAME, source);
        added.map_err(|error| describe(&error))?;
        Ok(Template {
            environment,
            bos_token: bos,
            eos_token: eos,
        })
    }

    /// Renders `messages` and the beginning of the assistant's turn. `is_control` says whether a
    /// text holds a control token's name.
    ///
    /// Each text goes in between two random marks, and what comes back between them is plain. The
    /// rendering without marks must be the same text, else the template looks at the texts or
    /// changes them: trimmed ones are tried next (many templates trim); failing that the unmarked
    /// rendering serves, if no text could be taken for control tokens.
    pub(super) fn render(
        &self,
        messages: &[Message],
        is_control: impl Fn(&str) -> bool,
    ) -> Result<Vec<Piece>, TemplateError> {
        let texts: Vec<&str> = messages
            .iter()
            .map(|m| m.content.expose().as_str())
            .collect();
        let plain = self.render_texts(messages, &texts)?;
        let trimmed: Vec<&str> = texts.iter().map(|text| text.trim()).collect();
        for texts in [&texts, &trimmed] {
            let marks = Marks::random();
            let marked: Vec<_> = texts.iter().map(|text| marks.wrap(text)).collect();
            let marked: Vec<&str> = marked.iter().map(|text| text.expose().as_str()).collect();
            let Ok(rendered) = self.render_texts(messages, &marked) else {
                continue;
            };
            if let Some(pieces) = marks.split(rendered.expose())
                && pieces.iter().map(Piece::text).eq_text(plain.expose())
            {
                return Ok(pieces);
            }
        }
        if texts.iter().any(|text| is_control(text)) {
            return Err(TemplateError::Mixed);
        }
        Ok(vec![Piece::Control(plain.expose().clone())])
    }

    fn render_texts(
        &self,
        messages: &[Message],
        texts: &[&str],
    ) -> Result<Secret<String>, TemplateError> {
        let failed = |error: Error| TemplateError::Render(describe(&error));
        let messages: Vec<_> = messages
            .iter()
            .zip(texts)
            .map(|(message, text)| context! { role => message.role.as_str(), content => *text })
            .collect();
        let length: usize = texts.iter().map(|text| text.len()).sum();
        let mut output = Bounded {
            bytes: Wiped::default(),
            // Twice: a template may show the last message again.
            left: length.saturating_mul(2).saturating_add(MAX_OVERHEAD),
        };
        let template = self.environment.get_template(NAME).map_err(failed)?;
        let values = context! {
            messages,
            add_generation_prompt => true,
            bos_token => &self.bos_token,
            eos_token => &self.eos_token,
        };
        template
            .render_captured_to(values, &mut output)
            .map_err(failed)?;
        let text = output.bytes.into_text();
        text.ok_or_else(|| TemplateError::Render("the output isn't UTF-8".to_owned()))
    }
}

impl Piece {
    pub(super) fn text(&self) -> &str {
        match self {
            Piece::Control(text) | Piece::Plain(text) => text,
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let (Piece::Control(text) | Piece::Plain(text)) = self;
        text.zeroize();
    }
}

/// Random text that nobody can put into a message beforehand. Digits only between two private-use
/// characters, so that neither trimming nor change of case touches it.
struct Marks {
    open: String,
    close: String,
}

impl Marks {
    fn random() -> Marks {
        let mark = || {
            format!(
                "\u{f5d0}{}\u{f5d1}",
                u128::from_le_bytes(identity::random())
            )
        };
        Marks {
            open: mark(),
            close: mark(),
        }
    }

    fn wrap(&self, text: &str) -> Secret<String> {
        Secret::new(format!("{}{text}{}", self.open, self.close))
    }

    /// `None` when the marks aren't whole pairs in order.
    fn split(&self, rendered: &str) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut parts = rendered.split(self.open.as_str());
        let control = |text: &str| {
            let clean = !text.contains(&self.close);
            clean.then(|| Piece::Control(text.to_owned()))
        };
        pieces.push(control(parts.next()?)?);
        for part in parts {
            let (plain, after) = part.split_once(self.close.as_str())?;
            pieces.push(Piece::Plain(plain.to_owned()));
            pieces.push(control(after)?);
        }
        Some(pieces)
    }
}

/// Compares texts in pieces with one in whole.
trait EqText {
    fn eq_text(self, whole: &str) -> bool;
}

impl<'a, I: Iterator<Item = &'a str>> EqText for I {
    fn eq_text(mut self, whole: &str) -> bool {
        let rest = self.try_fold(whole, |rest, piece| rest.strip_prefix(piece));
        rest.is_some_and(str::is_empty)
    }
}

/// Output that ends with an error when it grows beyond its bound.
struct Bounded {
    bytes: Wiped,
    left: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(left) = self.left.checked_sub(bytes.len()) else {
            return Err(io::Error::other("the output is too long"));
        };
        self.left = left;
        self.bytes.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Kind, detail and line. The detail is the template's: a message's text shows only if the
/// template's own `raise_exception` puts it there, so it is cut short.
fn describe(error: &Error) -> String {
    let mut text = error.kind().to_string();
    let cause = std::error::Error::source(error).map(ToString::to_string);
    for detail in error.detail().map(str::to_owned).into_iter().chain(cause) {
        text.push_str(": ");
        text.extend(detail.chars().take(200));
    }
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line})"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Role;
    use crate::secret::Secret;

    fn template(source: &str) -> Template {
        Template::compile(source.to_owned(), "<s>".to_owned(), "</s>".to_owned()).unwrap()
    }

    fn chat(texts: &[&str]) -> Vec<Message> {
        let message = |text: &&str| Message {
            role: Role::User,
            content: Secret::new((*text).to_owned()),
        };
        texts.iter().map(message).collect()
    }

    fn render(source: &str, texts: &[&str]) -> Result<Vec<Piece>, TemplateError> {
        template(source).render(&chat(texts), |text| text.contains("<|"))
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
    fn errors_are_told_and_bounded() {
        let message = |source| render(source, &["secret text"]).unwrap_err().to_string();
        let raised = message("{{ raise_exception('roles must alternate') }}");
        assert!(raised.contains("roles must alternate"), "{raised}");
        let endless =
            "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
        assert!(message(endless).contains("fuel"), "{}", message(endless));
        let long = "{% set x = 'x' * 100000 %}{% for a in range(100) %}{{ x }}{% endfor %}";
        assert!(message(long).contains("too long"), "{}", message(long));
        let unknown = message("{{ messages[0].content.nonsense() }}");
        assert!(!unknown.contains("secret"), "{unknown}");
        assert!(render("{{ strftime_now('%Y') }}", &["a"]).is_err());
        let broken = Template::compile("{% if %}".to_owned(), String::new(), String::new());
        assert!(broken.is_err());
    }
}
