//! What somebody says that was asked: the ways in which a file can be read as a prompt.
//!
//! Which of them it was, if any, the recorded hash says.

use crate::json;
use crate::prompt::{Completion, Dialect, Input, Message, Role};
use crate::secret::Secret;
use crate::wire;

/// One reading.
pub(super) struct Asked {
    pub(super) input: Input,
    /// Where the whole body is there.
    pub(super) stop: Vec<String>,
}

/// The likeliest first. Fails with what is wrong with a body.
pub(super) fn readings(
    text: &[u8],
    dialect: Dialect,
    instructions: Option<&str>,
) -> Result<Vec<Asked>, String> {
    let mut readings = Vec::new();
    if is_body(text, dialect) {
        let body = wire::parse(dialect, text).map_err(|refusal| refusal.message())?;
        let Completion { input, stop, .. } = body.completion;
        readings.push(Asked { input, stop });
    }
    if let Ok(text) = str::from_utf8(text) {
        let shorter = text.strip_suffix('\n').filter(|text| !text.is_empty());
        let plain = [Some(text), shorter].into_iter().flatten();
        readings.extend(plain.map(|text| Asked {
            input: plain_input(text, dialect),
            stop: Vec::new(),
        }));
    }
    if readings.is_empty() {
        return Err("the text is neither UTF-8 nor JSON".to_owned());
    }
    let instructed: Vec<Asked> = instructions.map_or_else(Vec::new, |instructions| {
        let readings = readings.iter();
        let instructed = readings.filter_map(|asked| asked.instructed(instructions));
        instructed.collect()
    });
    readings.extend(instructed);
    Ok(readings)
}

/// Whether it says in JSON what to continue.
fn is_body(text: &[u8], dialect: Dialect) -> bool {
    let member = match dialect {
        Dialect::Chat => "messages",
        Dialect::Text => "prompt",
    };
    json::parse(text).is_ok_and(|value| value.get(member).is_some())
}

fn plain_input(text: &str, dialect: Dialect) -> Input {
    match dialect {
        Dialect::Chat => Input::Messages(vec![message(Role::User, text)]),
        Dialect::Text => Input::Text(Secret::new(text.to_owned())),
    }
}

fn message(role: Role, text: &str) -> Message {
    let content = Secret::new(text.to_owned());
    Message { role, content }
}

impl Asked {
    /// As an endpoint with these instructions has it, where it has none of its own.
    fn instructed(&self, instructions: &str) -> Option<Asked> {
        let Input::Messages(messages) = &self.input else {
            return None;
        };
        if messages.iter().any(|message| message.role == Role::System) {
            return None;
        }
        let first = [message(Role::System, instructions)];
        let messages = first.into_iter().chain(messages.iter().cloned());
        Some(Asked {
            input: Input::Messages(messages.collect()),
            stop: self.stop.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, dialect: Dialect, instructions: Option<&str>) -> Vec<String> {
        let readings = readings(text.as_bytes(), dialect, instructions).unwrap();
        let shown = readings.iter().map(|asked| {
            let json = asked.input.json();
            format!("{} {:?}", json.expose(), asked.stop)
        });
        shown.collect()
    }

    #[test]
    fn a_file_is_read_in_every_way_that_it_may_be_meant() {
        let user = |text: &str| format!(r#"{{"role":"user","content":"{text}"}}"#);
        let chat = |messages: &[String]| format!(r#"{{"messages":[{}]}}"#, messages.join(","));
        let body = r#"{"model":"slm","messages":[{"role":"user","content":"Hi"}],"stop":"."}"#;
        assert_eq!(
            read(body, Dialect::Chat, None)[0],
            format!(r#"{} ["."]"#, chat(&[user("Hi")]))
        );
        let system = r#"{"role":"system","content":"Be brief."}"#.to_owned();
        assert_eq!(
            read("Hi\n", Dialect::Chat, Some("Be brief.")),
            [
                format!("{} []", chat(&[user("Hi\\n")])),
                format!("{} []", chat(&[user("Hi")])),
                format!("{} []", chat(&[system.clone(), user("Hi\\n")])),
                format!("{} []", chat(&[system, user("Hi")])),
            ]
        );
        assert_eq!(
            read("Hi", Dialect::Text, Some("Be brief.")),
            [r#"{"prompt":"Hi"} []"#]
        );
        // A prompt may be JSON itself.
        let prompt = r#"{"role":"user"}"#;
        assert_eq!(read(prompt, Dialect::Text, None).len(), 1);
    }

    #[test]
    fn what_is_no_text_and_no_request_is_said_to_be_so() {
        let wrong = |text: &[u8]| readings(text, Dialect::Chat, None).err();
        assert!(wrong(b"\xff\xfe").is_some());
        assert!(wrong(br#"{"messages":[{"role":"wizard","content":"x"}]}"#).is_some());
    }
}
