//! By the published vectors (C2SP/CCTV, `age`), whose random bytes are a known stream, and by `age`.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::digest::{hex, sha256};

/// ChaCha20's stream with the key "TEST RANDOMNESS TEST RANDOMNESS!" and no nonce.
const STREAM: [u8; 112] = *b"\
    \xac\x5d\x3f\x37\x06\xe5\x50\x71\xd3\xa6\x04\x20\x46\x97\xb9\x09\x1b\x35\xc6\xe6\x87\xdd\x00\xda\
    \x3a\xc3\x79\xac\x9f\x74\x2c\x21\xee\xcf\x62\xc7\xce\x91\xb4\x33\x27\x4e\x68\xd4\xf2\xf9\x13\x4c\
    \x5b\x1d\xe6\xe8\x2e\x0e\x0c\xbd\xd3\x23\xc8\x77\xcf\x85\x3d\x61\xdd\xdf\x72\xd0\x6f\xbc\xab\x57\
    \xdf\x3d\x0d\x31\x24\x96\xad\x21\x02\x54\x5e\x6b\xf4\xc6\x06\x1c\x89\x3e\x8f\x29\xec\xcd\x2c\x0b\
    \xf0\xb8\x18\xbe\x0f\x35\x54\x42\x39\x99\x20\xad\x80\x84\x96\x4b";

/// The vectors' recipient.
const RECIPIENT: &str = "age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef";

/// Encrypts as the vectors do: with their file key, then what their stream gives from `at` on.
fn as_published(to: &[Recipient], at: usize) -> Vec<u8> {
    let mut stream = STREAM[at..].iter();
    let mut first = true;
    let random = |bytes: &mut [u8]| match std::mem::take(&mut first) {
        true => bytes.copy_from_slice(b"YELLOW SUBMARINE"),
        false => bytes.fill_with(|| *stream.next().unwrap()),
    };
    encrypt(b"age", to, random).unwrap()
}

#[test]
fn the_published_vectors_come_out_byte_for_byte() {
    let recipient: Recipient = RECIPIENT.parse().unwrap();
    let file = as_published(&[recipient], 0);
    let header = "age-encryption.org/v1\n\
                  -> X25519 TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc\n\
                  hjabGXwSLQ9c3S6Lw2i+S2Tu2fiwQHHslbBN6B41FLE\n\
                  --- WyJp9F/9FOZh7gJdheq2WIJcwHgYc8NIVh3ddwhrcNg\n";
    assert_eq!(&file[..header.len()], header.as_bytes());
    assert_eq!(
        hex(&sha256(&file)),
        "10eb4d4d006859f5034d75db70d43c3761795824f9cf9377edda42172e21211d"
    );
    // The other recipient's private key is the stream's first bytes.
    let private = PrivateKey::from_private_key(&X25519, &STREAM[..32]).unwrap();
    let public = private.compute_public_key().unwrap();
    let other = Recipient(public.as_ref().try_into().unwrap());
    assert_eq!(
        hex(&sha256(&as_published(&[other, recipient], 32))),
        "141a9e76dc197d076174c464afff14436c04e0920239555784fc60658b4c7b7e"
    );
}

/// Runs a tool of age's package.
fn tool(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; tests/setup tests installs age"));
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{command:?}");
    output.stdout
}

#[test]
fn each_recipient_reads_it_with_age() {
    let folder = tempfile::tempdir().unwrap();
    let keys = ["one", "other"].map(|name| folder.path().join(name));
    let recipients = keys.each_ref().map(|key| {
        tool(Command::new("age-keygen").arg("-o").arg(key), b"");
        let public = tool(Command::new("age-keygen").arg("-y").arg(key), b"");
        String::from_utf8(public).unwrap().trim().parse().unwrap()
    });
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
        let text: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let random = |bytes: &mut [u8]| bytes.fill_with(|| crate::identity::random::<1>()[0]);
        let file = encrypt(&text, &recipients, random).unwrap();
        for key in &keys {
            let read = tool(Command::new("age").args(["-d", "-i"]).arg(key), &file);
            assert!(read == text, "{length} bytes");
        }
    }
}

#[test]
fn what_is_no_recipient_is_told_why() {
    for (text, why) in [
        ("", NoRecipient::Prefix),
        ("ssh-ed25519 AAAA", NoRecipient::Prefix),
        (
            "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0",
            NoRecipient::Private,
        ),
        ("age1", NoRecipient::Length),
        (&RECIPIENT.replace("xmwwc", "xmwwd"), NoRecipient::Checksum),
        (&RECIPIENT[..RECIPIENT.len() - 1], NoRecipient::Checksum),
        (&RECIPIENT.to_uppercase(), NoRecipient::Prefix),
        (&format!("{RECIPIENT}\n"), NoRecipient::Checksum),
        (&Recipient([0; 32]).to_string(), NoRecipient::Weak),
    ] {
        assert_eq!(text.parse::<Recipient>(), Err(why), "{text}");
    }
    let short = regroup(&[7; 31], 8, 5);
    let sum = checksum(PREFIX, &short) ^ 1;
    let sum = (0..CHECKSUM)
        .rev()
        .map(|place| (sum >> (5 * place) & 31) as u8);
    let letters = short.iter().copied().chain(sum);
    let letters: String = letters
        .map(|five| char::from(CHARSET[usize::from(five)]))
        .collect();
    assert_eq!(
        format!("age1{letters}").parse::<Recipient>(),
        Err(NoRecipient::Length)
    );
}

proptest! {
    #[test]
    fn a_recipient_reads_back_what_it_shows(key: [u8; 32]) {
        let recipient = Recipient(key);
        prop_assert_eq!(recipient.to_string().parse(), Ok(recipient));
    }

    #[test]
    fn another_letter_is_noticed(place in 4..RECIPIENT.len(), letter in 0..32_usize) {
        let mut text = RECIPIENT.as_bytes().to_vec();
        prop_assume!(text[place] != CHARSET[letter]);
        text[place] = CHARSET[letter];
        let text = String::from_utf8(text).unwrap();
        prop_assert_eq!(text.parse::<Recipient>(), Err(NoRecipient::Checksum));
    }
}
