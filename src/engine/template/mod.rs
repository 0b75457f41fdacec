//! The chat template: messages to the model's own notation.
//!
//! A template is a program that came with a model, so it runs with fuel in proportion to the chat,
//! and what it makes is bounded ([`bounds`]). What it writes is trusted to name control tokens; what messages say is not. The rendering therefore
//! comes back as [`Piece`]s that tell the two apart.
//!
//! It is written for Hugging Face's Jinja ([`python`]); [`Template::proven`] tries it before it is
//! served.

mod bounds;
mod json;
mod marks;
mod python;
mod source;
mod strftime;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::machinery::{self, CodeGenerator, Instructions};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, context};
use zeroize::Zeroize;

use self::marks::Marks;
use self::python::Raised;
use self::strftime::strftime;
use crate::prompt::{Message, Role};
use crate::secret::{Secret, Wiped};
use crate::time::Timestamp;

/// Fuel of a rendering: for the template itself, a message, and a byte of text, and the most. One
/// is an instruction, or 64 bytes of what is made; ordinary templates take some dozen for a message.
const FUEL: usize = 500_000;
const FUEL_OF_MESSAGE: usize = 1_000;
const FUEL_OF_BYTE: usize = 2;
const MOST_FUEL: usize = 2_000_000;
/// What a template may write beyond the messages themselves, and what most do.
const MAX_OVERHEAD: usize = 1 << 20;
const USUAL_OVERHEAD: usize = 16 << 10;
/// Macros, loops and blocks inside of each other.
const MAX_RECURSION: usize = 120;
/// Characters of each part of an error that are told.
const MAX_DETAIL: usize = 200;
const NAME: &str = "chat_template";
/// Whose texts a template may trim: nobody's, everybody's, or some roles'.
const TRIMMED: [&[Role]; 8] = [
    &[],
    &[Role::System, Role::User, Role::Assistant],
    &[Role::User, Role::Assistant],
    &[Role::System],
    &[Role::User],
    &[Role::Assistant],
    &[Role::System, Role::User],
    &[Role::System, Role::Assistant],
];

/// A compiled chat template.
#[derive(Debug)]
pub(super) struct Template {
    environment: Environment<'static>,
    source: String,
    bos_token: Option<String>,
    eos_token: Option<String>,
    content: Content,
}

/// A template's instructions, and those of its blocks.
type Program<'a> = (Instructions<'a>, BTreeMap<&'a str, Instructions<'a>>);

/// How the template reads a message's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Text,
    /// As a list of parts, as templates of models that also see images do.
    Parts,
}

/// A chat as the template writes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) pieces: Vec<Piece>,
    /// The template asked what time it is.
    pub(super) dated: bool,
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
    /// By the template's own `raise_exception`.
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
    /// Out of fuel, or of room for what it makes.
    #[error("these messages are too long for the model's chat template; shorten them")]
    TooLong,
    /// The template changes texts in a way that can't be told apart from its own writing.
    #[error(
        "the model's chat template rewrites message texts, and one of them holds a control token's name; leave it out"
    )]
    Mixed,
    /// A fault of the template.
    #[error("the model's chat template can't be run: {0}")]
    Failed(String),
}

impl Template {
    pub(super) fn compile(
        source: &str,
        bos_token: Option<String>,
        eos_token: Option<String>,
    ) -> Result<Template, String> {
        if source.trim().is_empty() {
            return Err("it is empty".to_owned());
        }
        let environment = python::environment().map_err(|error| describe(&error))?;
        let template = Template {
            environment,
            source: source::readable(source),
            bos_token,
            eos_token,
            content: Content::Text,
        };
        let syntax = python::syntax().map_err(|error| describe(&error))?;
        match bounds::uncompilable(&template.source, syntax) {
            Ok(None) => {}
            Ok(Some(why)) => return Err(why.to_owned()),
            Err(error) => return Err(describe(&error)),
        }
        template.program().map_err(|error| describe(&error))?;
        Ok(template)
    }

    fn program(&self) -> Result<Program<'_>, Error> {
        let parsed = machinery::parse(&self.source, NAME, python::syntax()?)?;
        let mut code = CodeGenerator::new(NAME, &self.source);
        code.compile_stmt(&parsed);
        let (main, blocks) = code.finish();
        let blocks = blocks.iter();
        let blocks = blocks.map(|(name, block)| (*name, bounds::watched(block)));
        Ok((bounds::watched(&main), blocks.collect()))
    }

    /// Renders what everybody asks, so that a template that can't be served is found now. It may
    /// refuse a system message or a longer chat, but not a user's alone, and what the user says
    /// must show.
    pub(super) fn proven(mut self) -> Result<Template, String> {
        let [asked, rest @ ..] = trials();
        let text = self.shows(&asked);
        if !matches!(text, Ok(true)) {
            self.content = Content::Parts;
            if !matches!(self.shows(&asked), Ok(true)) {
                // As text is how templates are written for; that error tells more.
                let left_out = "it leaves out what the user says";
                return Err(text.map_or_else(|error| blamed(&error), |_| left_out.to_owned()));
            }
        }
        for chat in rest {
            match self.shows(&chat) {
                Ok(_) | Err(TemplateError::Refused(_)) => {}
                Err(error) => return Err(blamed(&error)),
            }
        }
        Ok(self)
    }

    /// Whether the last message's text is in the rendering.
    fn shows(&self, chat: &[Message]) -> Result<bool, TemplateError> {
        let rendered = self.render(chat, Timestamp::default(), |_| false)?;
        let last = chat.last().map_or("", text);
        let whole: String = rendered.pieces.iter().map(Piece::text).collect();
        Ok(whole.contains(last))
    }

    /// Renders `messages` at the time `now`, and the beginning of the assistant's turn.
    /// `is_control` says whether a text holds a control token's name.
    ///
    /// Each text goes in between two random marks, and what comes back between them is plain. The
    /// rendering without marks must be the same text, else the template looks at the texts or
    /// changes them: trimmed ones are tried next (many templates trim), then marks around those
    /// texts only that could be taken for control tokens. Where there are none of these, the
    /// unmarked rendering serves.
    pub(super) fn render(
        &self,
        messages: &[Message],
        now: Timestamp,
        is_control: impl Fn(&str) -> bool,
    ) -> Result<Rendered, TemplateError> {
        let dated = Arc::new(AtomicBool::new(false));
        let program = self.program().map_err(|error| failed(&error))?;
        let run = |texts: &[&str]| self.render_texts(&program, messages, texts, now, &dated);
        let whole: Vec<&str> = messages.iter().map(text).collect();
        let plain = run(&whole)?;
        let suspect: Vec<bool> = whole.iter().map(|text| is_control(text)).collect();
        let is_suspect = suspect.contains(&true);
        let all = vec![true; whole.len()];
        let narrow = TRIMMED.iter().filter(|_| is_suspect);
        let mut attempts = TRIMMED[..2]
            .iter()
            .map(|roles| (*roles, &all))
            .chain(narrow.map(|roles| (*roles, &suspect)));
        let pieces = attempts.find_map(|(trimmed, marked)| {
            let marks = Marks::random();
            let wrap = |(message, marked): (&Message, &bool)| match marked {
                true if trimmed.contains(&message.role) => marks.wrap(text(message).trim()),
                true => marks.wrap(text(message)),
                false => Secret::new(text(message).to_owned()),
            };
            let texts: Vec<_> = messages.iter().zip(marked).map(wrap).collect();
            let texts: Vec<&str> = texts.iter().map(|text| text.expose().as_str()).collect();
            let pieces = marks.split(run(&texts).ok()?.expose())?;
            marks::are(&pieces, plain.expose()).then_some(pieces)
        });
        let pieces = match pieces {
            Some(pieces) => pieces,
            None if is_suspect => return Err(TemplateError::Mixed),
            None => vec![Piece::Control(plain.expose().clone())],
        };
        let dated = dated.load(Ordering::Relaxed);
        Ok(Rendered { pieces, dated })
    }

    fn render_texts(
        &self,
        program: &Program<'_>,
        messages: &[Message],
        texts: &[&str],
        now: Timestamp,
        dated: &Arc<AtomicBool>,
    ) -> Result<Secret<String>, TemplateError> {
        let message = |(message, text): (&Message, &&str)| {
            let content = match self.content {
                Content::Text => Value::from(*text),
                Content::Parts => Value::from(vec![context! { type => "text", text => *text }]),
            };
            context! { role => message.role.as_str(), content }
        };
        let length: usize = texts.iter().map(|text| text.len()).sum();
        let fuel = FUEL + messages.len() * FUEL_OF_MESSAGE + length * FUEL_OF_BYTE;
        let messages: Vec<_> = messages.iter().zip(texts).map(message).collect();
        let named = |token: &Option<String>| token.as_ref().map_or(Value::UNDEFINED, Value::from);
        let dated = Arc::clone(dated);
        let clock = Value::from_function(move |format: String| {
            dated.store(true, Ordering::Relaxed);
            let failed = |what| Error::new(ErrorKind::InvalidOperation, what);
            strftime(&format, now).map_err(failed)
        });
        // All that transformers gives, so that `is none` and `is defined` say the same.
        let values = context! {
            messages,
            tools => Value::from(()),
            documents => Value::from(()),
            add_generation_prompt => true,
            bos_token => named(&self.bos_token),
            eos_token => named(&self.eos_token),
            strftime_now => clock,
        };
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel.min(MOST_FUEL) as u64));
        let (main, blocks) = program;
        // Room for what most templates write, so that no shorter copy is left behind.
        let mut text = String::with_capacity(2 * length + USUAL_OVERHEAD);
        let mut output = machinery::make_string_output(&mut text);
        let escape = AutoEscape::None;
        let ended = machinery::eval(&environment, main, values, blocks, &mut output, escape);
        let ended = ended.map(drop).map_err(|error| failed(&error));
        let text = Secret::new(text);
        // Twice: a template may show the last message again.
        match text.expose().len() > 2 * length + MAX_OVERHEAD {
            true => Err(TemplateError::TooLong),
            false => ended.map(|()| text),
        }
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

fn text(message: &Message) -> &str {
    message.content.expose()
}

/// Chats that everybody has, the shortest first.
pub(super) fn trials() -> [Vec<Message>; 4] {
    let message = |role, text: &str| Message {
        role,
        content: Secret::new(text.to_owned()),
    };
    let system = || message(Role::System, "Answer in one word.");
    let turns = || {
        [
            message(Role::User, "Is water wet?"),
            message(Role::Assistant, "Yes."),
            message(Role::User, "And fire?"),
        ]
    };
    let [first, ..] = turns();
    let [again, ..] = turns();
    let mut long = vec![system()];
    long.extend(turns());
    [vec![first], turns().into(), vec![system(), again], long]
}

/// Output that ends with an error when it grows beyond its bound.
struct Bounded {
    bytes: Wiped,
    /// `None` once it was used up.
    left: Option<usize>,
}

impl Bounded {
    fn new(most: usize) -> Bounded {
        Bounded {
            bytes: Wiped::default(),
            left: Some(most),
        }
    }

    fn into_text(self) -> Option<Secret<String>> {
        self.bytes.into_text()
    }
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.and_then(|left| left.checked_sub(bytes.len()));
        if self.left.is_none() {
            return Err(io::Error::other("the output is too long"));
        }
        self.bytes.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The try-out's chats are short: the template is at fault.
fn blamed(error: &TemplateError) -> String {
    match error {
        TemplateError::TooLong => {
            "it takes too long, or writes too much, for a short chat".to_owned()
        }
        error => error.to_string(),
    }
}

fn failed(error: &Error) -> TemplateError {
    match Raised::behind(error) {
        Some(Raised(message)) => TemplateError::Refused(message.chars().take(MAX_DETAIL).collect()),
        None if error.kind() == ErrorKind::OutOfFuel => TemplateError::TooLong,
        None => TemplateError::Failed(describe(error)),
    }
}

/// Kind, detail and line. A detail may hold part of a message, so it is cut short and told to
/// nobody but who sent the messages.
fn describe(error: &Error) -> String {
    let mut text = error.kind().to_string();
    let cause = std::error::Error::source(error).map(ToString::to_string);
    for detail in error.detail().map(str::to_owned).into_iter().chain(cause) {
        text.push_str(": ");
        text.extend(detail.chars().take(MAX_DETAIL));
    }
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line})"));
    }
    text
}
