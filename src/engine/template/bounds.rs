//! The bounds of what a template makes.
//!
//! minijinja's fuel pays for instructions and for most of what they make, but not for a value that
//! nests without end (its drop takes the stack), holds itself, shares its parts (comparing or
//! printing visits them over and over) or is only promised (`[0] * n`). So each instruction that
//! makes a value is followed by a look at it ([`bounded`]), and each that compares is preceded by
//! one: a value has a bounded depth and size, counted as often as it is reached, and no part of it
//! is made later.

use minijinja::machinery::{Instruction, Instructions, Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{DynObject, ObjectRepr};
use minijinja::{Environment, Error, ErrorKind, State, Value};

/// The names of the two looks, which no template can say.
const BOUNDED: &str = "bounded-value";
const STORED: &str = "stored-value";
/// A filter that isn't among those that have a number.
const UNNUMBERED: u8 = u8::MAX;
/// What a place in a list costs, and how many bytes one fuel pays for, as minijinja has it.
const SLOT: usize = 32;
const BYTES_OF_FUEL: usize = 64;
/// Types of dictionaries that hold what is in them.
const WHOLE_MAPS: [&str; 3] = ["IndexMap", "StaticKeyMap", "KwargsValues"];
/// Operators, brackets and dots of one tag, and `elif`s of a template; known ones have some dozen.
const MAX_OPERATORS: usize = 500;
const MAX_BRANCHES: usize = 200;
/// Levels of a value; tools' schemas have a dozen.
const MAX_DEPTH: usize = 64;

pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter(BOUNDED, bounded);
    environment.add_filter(STORED, stored);
    // It prints all that there is.
    environment.remove_global("debug");
}

/// Why a template isn't compiled, where it isn't. minijinja multiplies and compares lists that are
/// written out while it compiles, where nothing counts; and it recurses for each operator and each
/// `elif`, where nothing counts either.
pub(super) fn uncompilable(
    source: &str,
    syntax: SyntaxConfig,
) -> Result<Option<&'static str>, Error> {
    let (mut list, mut product, mut operators, mut branches) = (false, false, 0, 0);
    let mut indexable = false;
    for token in tokenize(source, false, syntax) {
        let (token, _) = token?;
        let ends = matches!(
            token,
            Token::Str(_)
                | Token::String(_)
                | Token::ParenClose
                | Token::BracketClose
                | Token::BraceClose
        );
        match &token {
            Token::BlockStart | Token::VariableStart => {
                (list, product, operators) = (false, false, 0);
            }
            Token::BracketOpen => list |= !indexable,
            Token::Mul => product = true,
            Token::Ident("elif") => branches += 1,
            _ => {}
        }
        let is_operand = ends
            || matches!(
                token,
                Token::Ident(_) | Token::Int(_) | Token::Int128(_) | Token::Float(_) | Token::Comma
            );
        operators += usize::from(!is_operand || is_word_operator(&token));
        if list && product {
            return Ok(Some("it multiplies a list that is written out"));
        }
        if operators > MAX_OPERATORS || branches > MAX_BRANCHES {
            return Ok(Some(
                "it has too many operators in one tag, or too many `elif`",
            ));
        }
        indexable = ends || matches!(token, Token::Ident(_));
    }
    Ok(None)
}

fn is_word_operator(token: &Token<'_>) -> bool {
    matches!(
        token,
        Token::Ident("not" | "and" | "or" | "if" | "else" | "in" | "is")
    )
}

/// The same instructions with the looks between them.
pub(super) fn watched<'a>(plain: &Instructions<'a>) -> Instructions<'a> {
    let steps: Vec<Vec<Instruction<'a>>> = (0..)
        .map_while(|at| plain.get(at))
        .map(with_looks)
        .collect();
    let starts: Vec<u32> = steps
        .iter()
        .scan(0, |next, steps| {
            let start = *next;
            *next += steps.len() as u32;
            Some(start)
        })
        .collect();
    let end = steps.iter().map(Vec::len).sum::<usize>() as u32;
    let mut watched = Instructions::new(plain.name(), plain.source());
    for (at, step) in (0..).zip(steps) {
        for mut instruction in step {
            if let Some(target) = target(&mut instruction) {
                *target = starts.get(*target as usize).copied().unwrap_or(end);
            }
            match (plain.get_span(at), plain.get_line(at)) {
                (Some(span), _) => watched.add_with_span(instruction, span),
                (None, Some(line)) => watched.add_with_line(instruction, line as u16),
                (None, None) => watched.add(instruction),
            };
        }
    }
    watched
}

fn with_looks<'a>(instruction: &Instruction<'a>) -> Vec<Instruction<'a>> {
    use Instruction as I;
    let look = |name| I::ApplyFilter(name, Some(1), UNNUMBERED);
    let own = instruction.clone();
    match instruction {
        // What makes a value leaves it on top. One that is always text is paid for.
        I::Slice
        | I::BuildMap(_)
        | I::BuildList(_)
        | I::BuildTuple(_)
        | I::Add
        | I::Mul
        | I::ApplyFilter(..)
        | I::CallFunction(..)
        | I::CallMethod(..)
        | I::CallObject(_) => vec![own, look(BOUNDED)],
        // No comparison costs more than the one of its sides that is on top.
        I::Eq
        | I::Ne
        | I::Gt
        | I::Gte
        | I::Lt
        | I::Lte
        | I::In
        | I::CompareAndPreserve(_)
        | I::GetItem => vec![look(BOUNDED), own],
        // The value is below its namespace.
        I::SetAttr(_) => vec![I::Swap, look(STORED), I::Swap, own],
        _ => vec![own],
    }
}

/// Where an instruction may go.
fn target<'i>(instruction: &'i mut Instruction<'_>) -> Option<&'i mut u32> {
    match instruction {
        Instruction::Iterate(target)
        | Instruction::Jump(target)
        | Instruction::JumpIfFalse(target)
        | Instruction::JumpIfFalseOrPop(target)
        | Instruction::JumpIfTrueOrPop(target)
        | Instruction::BuildMacro(_, target, _) => Some(target),
        _ => None,
    }
}

/// The value, made whole where it was only promised; an error where it is too large.
fn bounded(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    let mut room = Room::of(state);
    let made = match value.as_object() {
        Some(object) => Some(room.object(object, value)?),
        None => room.take(value, 0).map(|()| None)?,
    };
    state.consume_fuel((room.taken / BYTES_OF_FUEL) as u64)?;
    Ok(made.flatten().unwrap_or_else(|| value.clone()))
}

/// As [`bounded`]; and it is no namespace, which could hold itself, nor a loop, which holds its
/// items.
fn stored(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    Room::of(state).take(value, 0)?;
    Ok(value.clone())
}

/// Charges what a method may do with the values that it is given.
pub(super) fn charge(state: &State<'_, '_>, values: &[Value]) -> Result<(), Error> {
    let mut room = Room::of(state);
    for value in values {
        room.take(value, 0)?;
    }
    state.consume_fuel((room.taken / BYTES_OF_FUEL) as u64)
}

/// What a value may still take.
struct Room {
    left: usize,
    taken: usize,
}

impl Room {
    /// As many bytes as the rendering had fuel: several times its chat.
    fn of(state: &State<'_, '_>) -> Room {
        let left = state.env().fuel().unwrap_or_default();
        Room {
            left: usize::try_from(left).unwrap_or(usize::MAX),
            taken: 0,
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Error> {
        self.taken = self.taken.saturating_add(bytes);
        match self.taken > self.left {
            true => Err(Error::from(ErrorKind::OutOfFuel)),
            false => Ok(()),
        }
    }

    /// A value that was just made, and what it is made into.
    fn object(&mut self, object: &DynObject, value: &Value) -> Result<Option<Value>, Error> {
        let mut take = |part: Value| self.take(&part, 1).map(|()| part);
        match object.repr() {
            ObjectRepr::Plain => Ok(None),
            _ if is_whole(value) => self.take(value, 0).map(|()| None),
            ObjectRepr::Map => {
                let pairs = object.try_iter_pairs().into_iter().flatten();
                let pair = |(key, value)| Ok((take(key)?, take(value)?));
                let pairs = pairs.map(pair).collect::<Result<Vec<_>, Error>>()?;
                // What is in a namespace changes, so that itself stays.
                Ok((!is(object, "Namespace")).then(|| pairs.into_iter().collect()))
            }
            _ => {
                let items = object.try_iter().into_iter().flatten();
                let items = items.map(take).collect::<Result<Vec<_>, Error>>()?;
                Ok(Some(Value::from(items)))
            }
        }
    }

    fn take(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.spend(SLOT)?;
        if let Some(bytes) = value.as_bytes() {
            self.spend(bytes.len())?;
        }
        let Some(object) = value.as_object() else {
            return Ok(());
        };
        if depth > MAX_DEPTH {
            return Err(refused("a value nests too deep"));
        }
        match object.repr() {
            ObjectRepr::Plain => Ok(()),
            ObjectRepr::Map if is_whole(value) => {
                let mut pairs = object.try_iter_pairs().into_iter().flatten();
                pairs.try_for_each(|(key, value)| {
                    self.take(&key, depth + 1)?;
                    self.take(&value, depth + 1)
                })
            }
            ObjectRepr::Seq => {
                let mut items = object.try_iter().into_iter().flatten();
                items.try_for_each(|item| self.take(&item, depth + 1))
            }
            _ => Err(refused("a value holds a loop, a namespace or a generator")),
        }
    }
}

/// A list, tuple or dictionary that holds all of its parts.
fn is_whole(value: &Value) -> bool {
    let whole = |object: &DynObject| match object.repr() {
        ObjectRepr::Map => WHOLE_MAPS.iter().any(|name| is(object, name)),
        _ => value.is_tuple() || value.downcast_object_ref::<Vec<Value>>().is_some(),
    };
    value.as_object().is_some_and(whole)
}

/// Whether it is of the type of minijinja's that has this name.
fn is(object: &DynObject, name: &str) -> bool {
    let whole = object.type_name();
    let path = whole.split('<').next().unwrap_or_default();
    path.rsplit("::").next() == Some(name)
}

fn refused(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}
