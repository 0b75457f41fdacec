//! When a certificate ends: the one thing of X.509 that is told and not judged.

use crate::time::Timestamp;

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, which holds the version; absent in version 1.
const VERSION: u8 = 0xa0;

/// Its `notAfter` (RFC 5280 section 4.1.2.5); `None` where the bytes aren't a certificate.
pub(super) fn ends_at(certificate: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = expect(SEQUENCE, certificate)?;
    let (mut rest, _) = expect(SEQUENCE, certificate)?;
    if rest.first() == Some(&VERSION) {
        (_, _, rest) = element(rest)?;
    }
    // Serial number, signature's algorithm, issuer.
    for _ in 0..3 {
        (_, _, rest) = element(rest)?;
    }
    let (validity, _) = expect(SEQUENCE, rest)?;
    let (_, _, not_after) = element(validity)?;
    let (kind, text, _) = element(not_after)?;
    time(kind, std::str::from_utf8(text).ok()?)
}

fn time(kind: u8, text: &str) -> Option<Timestamp> {
    let (year, rest) = match kind {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let century = if year < "50" { "20" } else { "19" };
            (format!("{century}{year}"), rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.to_owned(), rest)
        }
        _ => return None,
    };
    let part = |from| rest.get(from..from + 2);
    let (month, day) = (part(0)?, part(2)?);
    let (hour, minute, second) = (part(4)?, part(6)?, part(8)?);
    let read = format!("{year}-{month}-{day}T{hour}:{minute}:{second}.000Z").parse();
    read.ok().filter(|_| rest.get(10..) == Some("Z"))
}

fn expect(kind: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == kind).then_some((content, rest))
}

/// A DER element: its tag, its content, and what comes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [tag, length, rest @ ..] = bytes else {
        return None;
    };
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        // Longer ones than 64 KiB are nobody's.
        0x81 | 0x82 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            let length = digits.iter().fold(0, |sum, d| sum << 8 | usize::from(*d));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::*;

    /// Of openssl: ends on 2027-03-07, by a UTCTime.
    const SHORT: &str = "\
        MIIBbDCCAROgAwIBAgIUQ1CC5Xz4YdFCY7AGxJ8okkWgLK4wCgYIKoZIzj0EAwIwDDEKMAgGA1UEAwwBYTAeFw0y\
        NjExMjcwMDA2MzBaFw0yNzAzMDcwMDA2MzBaMAwxCjAIBgNVBAMMAWEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\
        AAQekfUQaTDOAWvbLC4on9b7clqzWUVxb5KduCmbce5rexf93MqEEcEWm406rKWQ9G4tRVoLZJOQ4EoI/8THeCS4\
        o1MwUTAdBgNVHQ4EFgQUbmx6GhRONouULWGYQslZpoLCq7AwHwYDVR0jBBgwFoAUbmx6GhRONouULWGYQslZpoLC\
        q7AwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiBmbHJhLlrz4FpoihfF6fsLfm+2xVBjZetpsv5G\
        WB+tpwIgHN4/dUNCHgjzCH0kdNC3jD5SY8A2J4T6mHB4EJmhJM8=";
    /// Ends on 2056-11-19, by a GeneralizedTime.
    const LONG: &str = "\
        MIIBODCB66ADAgECAhQbKYb35cobrWNY02JMDothq5FpvjAFBgMrZXAwETEPMA0GA1UEAwwGZWRnZS0xMCAXDTI2\
        MTEyNzAwMDYzMFoYDzIwNTYxMTE5MDAwNjMwWjARMQ8wDQYDVQQDDAZlZGdlLTEwKjAFBgMrZXADIQATEDoOlo92\
        KTwPlc5FJwVEJoXSOqA6UgbepcIDtO8CiKNTMFEwHQYDVR0OBBYEFKEkR2UHmwUjHsgWe/zllg+f5pdhMB8GA1Ud\
        IwQYMBaAFKEkR2UHmwUjHsgWe/zllg+f5pdhMA8GA1UdEwEB/wQFMAMBAf8wBQYDK2VwA0EAEGzdtSrzkwahgZ4q\
        kn9XfLjTz1kjdj6DUQEUZEdjycxguMMQQ0SED+F9Wg4h1gFviVvpHyHAunZXEuXbw3vKCw==";

    #[test]
    fn both_kinds_of_time_are_read() {
        let ends = |text: &str| {
            let der = BASE64.decode(text).unwrap();
            ends_at(&der).map(|at| at.to_string())
        };
        assert_eq!(ends(SHORT).as_deref(), Some("2027-03-07T00:06:30.000Z"));
        assert_eq!(ends(LONG).as_deref(), Some("2056-11-19T00:06:30.000Z"));
    }

    #[test]
    fn what_is_cut_short_or_changed_is_no_certificate() {
        let der = BASE64.decode(SHORT).unwrap();
        for length in 0..der.len() {
            assert_eq!(ends_at(&der[..length]), None, "{length}");
        }
        assert_eq!(time(UTC_TIME, "270230000630Z"), None);
        assert_eq!(time(UTC_TIME, "2703070006Z"), None);
        assert_eq!(time(UTC_TIME, "270307000630+0100"), None);
        assert_eq!(time(2, "270307000630Z"), None);
        assert!(time(GENERALIZED_TIME, "99991231235959Z").is_some());
    }
}
