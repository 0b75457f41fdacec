//! Cosignatures (C2SP tlog-cosignature, version 1 with Ed25519): a witness says that, as of a time, a
//! checkpoint is the newest it has seen of a log, and consistent with those before.

const SIGNATURE: usize = 64;

/// What a witness's signature line holds behind the key's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cosignature {
    /// In seconds since 1970.
    pub time: u64,
    pub signature: [u8; SIGNATURE],
}

impl Cosignature {
    pub fn parse(bytes: &[u8]) -> Option<Cosignature> {
        let (time, signature) = bytes.split_first_chunk()?;
        let time = u64::from_be_bytes(*time);
        let signature = signature.try_into().ok()?;
        (time <= i64::MAX as u64).then_some(Cosignature { time, signature })
    }

    pub fn to_bytes(self) -> Vec<u8> {
        [&self.time.to_be_bytes() as &[u8], &self.signature].concat()
    }
}

/// What the witness signs: its first line keeps it from being taken for a log's note.
pub fn message(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_published() {
        let text =
            "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let published = "\
cosignature/v1
time 1679315147
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
";
        assert_eq!(message(1_679_315_147, text), published);
    }

    #[test]
    fn it_has_one_length_and_a_time_that_others_can_hold() {
        let bytes = [&1_679_315_147_u64.to_be_bytes() as &[u8], &[7; 64]].concat();
        let read = Cosignature::parse(&bytes).unwrap();
        assert_eq!(read.time, 1_679_315_147);
        assert_eq!(read.to_bytes(), bytes);
        assert_eq!(Cosignature::parse(&bytes[1..]), None);
        assert_eq!(Cosignature::parse(&[&bytes as &[u8], &[0]].concat()), None);
        assert_eq!(Cosignature::parse(&[0xff; 72]), None);
        assert_eq!(Cosignature::parse(&[]), None);
    }
}
