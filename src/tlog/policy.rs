//! Trust policies (C2SP tlog-policy): which witnesses must have cosigned a checkpoint before it counts.

use std::collections::BTreeMap;

use super::note::{Algorithm, KeyError, Note, SignatureError, VerifierKey};

/// The longest policy.
pub const MAX_LEN: usize = 64 * 1024;
/// Of logs, of witnesses and of groups.
const MAX_ENTRIES: usize = 64;

/// The rule, read from its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    logs: Vec<VerifierKey>,
    witnesses: Vec<VerifierKey>,
    groups: Vec<Group>,
    /// `None`: no witness needs to.
    quorum: Option<Member>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    needed: usize,
    members: Vec<Member>,
}

/// By its index. A group's members come before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Member {
    Witness(usize),
    Group(usize),
}

/// A witness that has cosigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosigned {
    /// Its key's.
    pub name: String,
    /// In seconds since 1970, as it says.
    pub time: u64,
}

/// Why a text is no policy, and in which line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct PolicyError {
    pub line: usize,
    pub why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("a policy has no more than {MAX_LEN} bytes")]
    TooLarge,
    #[error("no more than {MAX_ENTRIES} logs, witnesses or groups")]
    TooMany,
    #[error("a control character")]
    Characters,
    #[error(
        "no line of a policy: log KEY [URL], witness NAME KEY [URL], group NAME N|any|all NAME..., quorum NAME|none"
    )]
    Form,
    #[error("{0}")]
    Key(KeyError),
    #[error("a log's key has the algorithm 0x01, a witness's 0x04")]
    Kind,
    #[error("that key is there already")]
    DuplicateKey,
    #[error("that name is taken")]
    DuplicateName,
    #[error("no line before it defines that name")]
    Unknown,
    #[error("it is a member already, and can be only once")]
    MemberTwice,
    #[error("a group wants at least one of its members, and no more than it has")]
    Threshold,
    #[error("a policy has exactly one quorum")]
    Quorum,
}

/// Why a note doesn't count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFault {
    #[error("a cosignature that claims to be {0}'s is not")]
    Wrong(String),
    #[error("too few of the policy's witnesses have cosigned it")]
    Quorum,
}

impl Policy {
    /// That of who needs no witness.
    pub fn none() -> Policy {
        Policy {
            logs: Vec::new(),
            witnesses: Vec::new(),
            groups: Vec::new(),
            quorum: None,
        }
    }

    pub fn parse(text: &[u8]) -> Result<Policy, PolicyError> {
        let mut reader = Reader::default();
        let fault = |line, why| PolicyError { line, why };
        if text.len() > MAX_LEN {
            return Err(fault(1, Why::TooLarge));
        }
        let lines = text
            .strip_suffix(b"\n")
            .unwrap_or(text)
            .split(|byte| *byte == b'\n');
        let mut count = 0;
        for line in lines {
            count += 1;
            reader.line(line).map_err(|why| fault(count, why))?;
        }
        let quorum = reader.quorum.ok_or(fault(count, Why::Quorum))?;
        Ok(Policy {
            quorum,
            logs: reader.logs,
            witnesses: reader.witnesses,
            groups: reader.groups,
        })
    }

    /// Where there are any, no other log counts.
    pub fn logs(&self) -> &[VerifierKey] {
        &self.logs
    }

    /// Which of the witnesses have cosigned `note`, if they are enough.
    pub fn check(&self, note: &Note) -> Result<Vec<Cosigned>, PolicyFault> {
        let mut cosigned = Vec::new();
        let mut seen = Vec::new();
        for key in &self.witnesses {
            let verified = note.verify(key);
            seen.push(verified.is_ok());
            match verified {
                Ok(time) => cosigned.push(Cosigned {
                    name: key.name().to_owned(),
                    time: time.unwrap_or_default(),
                }),
                Err(SignatureError::Missing) => {}
                Err(SignatureError::Wrong) => {
                    return Err(PolicyFault::Wrong(key.name().to_owned()));
                }
            }
        }
        match self.quorum.is_none_or(|quorum| self.holds(quorum, &seen)) {
            true => Ok(cosigned),
            false => Err(PolicyFault::Quorum),
        }
    }

    fn holds(&self, member: Member, seen: &[bool]) -> bool {
        // Groups come after their members, so one pass is enough, however they are nested.
        let mut groups: Vec<bool> = Vec::new();
        let of = |groups: &[bool], member: Member| match member {
            Member::Witness(index) => seen.get(index).is_some_and(|seen| *seen),
            Member::Group(index) => groups.get(index).is_some_and(|holds| *holds),
        };
        for group in &self.groups {
            let members = group.members.iter();
            let holding = members.filter(|member| of(&groups, **member)).count();
            groups.push(holding >= group.needed);
        }
        of(&groups, member)
    }
}

#[derive(Default)]
struct Reader {
    logs: Vec<VerifierKey>,
    witnesses: Vec<VerifierKey>,
    groups: Vec<Group>,
    /// Names are bytes: what isn't ASCII is opaque.
    names: BTreeMap<Vec<u8>, Member>,
    members: Vec<Member>,
    quorum: Option<Option<Member>>,
}

impl Reader {
    fn line(&mut self, line: &[u8]) -> Result<(), Why> {
        if line
            .iter()
            .any(|byte| byte.is_ascii_control() && *byte != b'\t')
        {
            return Err(Why::Characters);
        }
        let words = line.split(|byte| matches!(byte, b' ' | b'\t'));
        let words: Vec<&[u8]> = words.filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            [] => Ok(()),
            [word, ..] if word.starts_with(b"#") => Ok(()),
            [b"log", key] | [b"log", key, _] => self.log(key),
            [b"witness", name, key] | [b"witness", name, key, _] => self.witness(name, key),
            [b"group", name, needed, members @ ..] => self.group(name, needed, members),
            [b"quorum", name] => self.quorum(name),
            _ => Err(Why::Form),
        }
    }

    fn log(&mut self, key: &[u8]) -> Result<(), Why> {
        let key = verifier(key, Algorithm::Ed25519)?;
        add(&mut self.logs, key)
    }

    fn witness(&mut self, name: &[u8], key: &[u8]) -> Result<(), Why> {
        let key = verifier(key, Algorithm::Cosignature)?;
        self.define(name, Member::Witness(self.witnesses.len()))?;
        add(&mut self.witnesses, key)
    }

    fn group(&mut self, name: &[u8], needed: &[u8], members: &[&[u8]]) -> Result<(), Why> {
        let members: Result<Vec<Member>, Why> =
            members.iter().map(|name| self.find(name)).collect();
        let members = members?;
        let needed = match needed {
            b"all" => members.len(),
            b"any" => 1,
            number => count(number).ok_or(Why::Form)?,
        };
        if needed == 0 || needed > members.len() {
            return Err(Why::Threshold);
        }
        for member in &members {
            if self.members.contains(member) {
                return Err(Why::MemberTwice);
            }
            self.members.push(*member);
        }
        if self.groups.len() == MAX_ENTRIES {
            return Err(Why::TooMany);
        }
        self.define(name, Member::Group(self.groups.len()))?;
        self.groups.push(Group { needed, members });
        Ok(())
    }

    fn quorum(&mut self, name: &[u8]) -> Result<(), Why> {
        let quorum = match name {
            b"none" => None,
            name => Some(self.find(name)?),
        };
        match self.quorum.replace(quorum) {
            None => Ok(()),
            Some(_) => Err(Why::Quorum),
        }
    }

    fn find(&self, name: &[u8]) -> Result<Member, Why> {
        self.names.get(name).copied().ok_or(Why::Unknown)
    }

    fn define(&mut self, name: &[u8], member: Member) -> Result<(), Why> {
        match name == b"none" || self.names.contains_key(name) {
            true => Err(Why::DuplicateName),
            false => {
                self.names.insert(name.to_vec(), member);
                Ok(())
            }
        }
    }
}

fn add(keys: &mut Vec<VerifierKey>, key: VerifierKey) -> Result<(), Why> {
    if keys.len() == MAX_ENTRIES {
        return Err(Why::TooMany);
    }
    // One key under two names would be two witnesses in one.
    if keys.iter().any(|other| other.public() == key.public()) {
        return Err(Why::DuplicateKey);
    }
    keys.push(key);
    Ok(())
}

fn verifier(text: &[u8], algorithm: Algorithm) -> Result<VerifierKey, Why> {
    let text = std::str::from_utf8(text).map_err(|_| Why::Key(KeyError::Form))?;
    let key = VerifierKey::parse(text).map_err(Why::Key)?;
    match key.algorithm() == algorithm {
        true => Ok(key),
        false => Err(Why::Kind),
    }
}

fn count(text: &[u8]) -> Option<usize> {
    let number = super::text::decimal(std::str::from_utf8(text).ok()?)?;
    usize::try_from(number).ok()
}

#[cfg(test)]
mod tests;
