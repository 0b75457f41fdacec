//! How C2SP writes numbers and hashes, read strictly: one spelling for each.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::tree::Hash;

/// Of sizes and indexes: others hold them in a signed number.
const MAX: u64 = i64::MAX as u64;

/// ASCII decimal without leading zeroes.
pub fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let leading = text.len() > 1 && text.starts_with('0');
    let number = text.parse().ok().filter(|_| digits && !leading)?;
    (number <= MAX).then_some(number)
}

/// RFC 4648 section 4, with its padding and no stray bits.
pub(super) fn bytes(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

pub fn hash(text: &str) -> Option<Hash> {
    bytes(text)?.try_into().ok()
}

pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_spelling() {
        for (text, number) in [
            ("0", Some(0)),
            ("20852163", Some(20_852_163)),
            ("9223372036854775807", Some(MAX)),
            ("9223372036854775808", None),
            ("99999999999999999999999", None),
            ("", None),
            ("00", None),
            ("01", None),
            ("+1", None),
            ("-1", None),
            (" 1", None),
            ("1 ", None),
            ("0x1", None),
            ("١", None),
        ] {
            assert_eq!(decimal(text), number, "{text:?}");
        }
    }

    #[test]
    fn a_hash_has_one_spelling() {
        let good = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        let read = hash(good).unwrap();
        assert_eq!(base64(&read), good);
        for bad in [
            "",
            "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I",
            // Bits beside the last byte.
            "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2J=",
            "CsUYapGGPo4dkMgIAUqom_Xajj7h2fB2MPA3j2jxq2I=",
            "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxqw==",
            " CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=",
            "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        ] {
            assert_eq!(hash(bad), None, "{bad:?}");
        }
    }
}
