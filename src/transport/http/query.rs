//! What a query asks for: each name known, and there once. A name that nobody knows, or twice the
//! same, would show other things than are meant.

use percent_encoding::percent_decode_str;

use crate::audit::Filter;
use crate::reason::{Refusal, RefuseReason};
use crate::spelling::nearest;

/// The values of `names`, in their order, and the filter that the other names make.
pub(super) fn read<const N: usize>(
    query: &str,
    names: [&str; N],
) -> Result<([Option<String>; N], Filter), Refusal> {
    let mut asked = [const { None }; N];
    let mut filter = Filter::default();
    let mut seen = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value).decode_utf8();
        let value = value.map_err(|_| bad_value(name, "UTF-8, percent-encoded"))?;
        if seen.contains(&name) && name != Filter::MEMBER {
            return Err(bad_value(name, "there once"));
        }
        seen.push(name);
        if let Some(place) = names.iter().position(|known| *known == name) {
            asked[place] = Some(value.into_owned());
        } else if Filter::NAMES.contains(&name) {
            let set = filter.set(name, &value);
            set.map_err(|unfit| invalid(name, format!("`{name}`: {unfit}")))?;
        } else {
            return Err(unknown(name, &names));
        }
    }
    Ok((asked, filter))
}

pub(super) fn number(name: &str, text: Option<String>) -> Result<Option<u64>, Refusal> {
    let number = text.map(|text| text.parse::<u64>()).transpose();
    number.map_err(|_| bad_value(name, "a number"))
}

pub(super) fn bad_value(name: &str, what: &str) -> Refusal {
    invalid(name, format!("`{name}` must be {what}"))
}

fn unknown(name: &str, names: &[&str]) -> Refusal {
    let known: Vec<&str> = names.iter().copied().chain(Filter::NAMES).collect();
    let shown: String = name.chars().take(64).collect();
    let meant = match nearest(&shown, &known) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("known are {}", known.join(", ")),
    };
    invalid(&shown, format!("`{shown}` is unknown; {meant}"))
}

fn invalid(name: &str, detail: String) -> Refusal {
    let refusal = Refusal::new(RefuseReason::InvalidParameter);
    refusal.detail(detail).param(name)
}
