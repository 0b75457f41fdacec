//! The bytes of one record of each kind, to the letter: they are the leaves of every log that there
//! is, so a change here would be seen by everybody who holds a proof.

use super::Record;
use crate::digest::hex;
use crate::tlog::tree::leaf_hash;

/// A record, and its leaf's hash.
const GOLDEN: [(&str, &str); 13] = [
    (
        r#"{"version":1,"index":0,"time":1800000000000,"synchronised":true,"boot_id":"49b5d4f4-5949-4e92-8dce-dc750a78e6df","event":"access","request_id":"req_163bf33cc27ec36d1929e9d199bfcc5d","client_request_id":"mine","origin":{"transport":"socket","uid":1000,"gid":1000,"pid":77},"action":"chat","decision":"permit","detail":"why","realm":"dev","endpoint":"slm","issuer":"https://keycloak.test/realms/dev","subject":"6b5e4a9c-3f43-4a5c-8a2f-0d5e6f7a8b9c","username":"alice","client":"device-1","token_id":"trrtcc:6f0c9f6e","dpop":true,"local_peer":true,"scope":"read","prompt_hash":"5767bcf3edd261a2dbd8c8e66b23ed5aef9e11bb4d85d32a076eebbe8780782a","model_digest":"00","sampling":{"temperature":0.7,"top_p":1.0,"top_k":0,"min_p":0.0,"seed":18446744073709551615},"prompt_tokens":31,"prompt_time":1800000000000,"attempt":2}"#,
        "e9ea3ab5018d896550e21deb9c10d45f8a701dabebf45a52f7829caeb2bfdf03",
    ),
    (
        r#"{"version":1,"index":1,"time":1800000000000,"synchronised":false,"boot_id":"49b5d4f4-5949-4e92-8dce-dc750a78e6df","event":"access","request_id":"req_842feda0b40cd86104a2ce99559da1ef","origin":{"transport":"mqtt","topic":"slm/edge-1/v1/chat/completions"},"action":"chat","decision":"deny","reason":"expired"}"#,
        "538eee12242da5069bb85919912e43680f329329e7d0477030be992012ecd548",
    ),
    (
        r#"{"version":1,"index":2,"time":1800000000000,"synchronised":true,"boot_id":"49b5d4f4-5949-4e92-8dce-dc750a78e6df","event":"finish","request_id":"req_163bf33cc27ec36d1929e9d199bfcc5d","principal":"4f0c7b49b38576cf","finish":"length","prompt_tokens":31,"completion_tokens":12,"answer_hash":"11","queue_ms":1,"first_token_ms":null,"total_ms":900}"#,
        "c55a388220b5935b9bace480a8716730fa40f0f08d70812533f53bda80eb197d",
    ),
    (
        r#"{"version":1,"index":3,"time":1800000000000,"synchronised":true,"boot_id":"49b5d4f4-5949-4e92-8dce-dc750a78e6df","event":"refusals_summary","transport":"mqtt","reason":"expired","count":2,"since":1800000000000}"#,
        "c7eed109c7c591225a6ecfd8d1316aa665c12cf100f98992ae059d31f58bf469",
    ),
    (
        r#"{"version":1,"index":4,"time":1800000000000,"synchronised":true,"boot_id":"49b5d4f4-5949-4e92-8dce-dc750a78e6df","event":"accesses_summary","transport":"socket","action":"list_models","decision":"permit","realm":"dev","issuer":"https://keycloak.test/realms/dev","subject":"6b5e4a9c","client":"device-1","token_ids":["trrtcc:6f0c9f6e"],"by_other_tokens":3,"count":5,"first":1800000000000,"last":1800000000007}"#,
        "a3d7fa5ffdfdb5ba3301be6bf6b0af0d6aa67560b17eb3706a62558903667f4f",
    ),
    (
        r#"{"version":1,"index":5,"time":1800000000000,"synchronised":true,"boot_id":"49b5d4f4-5949-4e92-8dce-dc750a78e6df","event":"truncated","first_index":1,"removed":6,"removed_in_all":9,"losses":[{"whose":"principal","principal":"4f0c7b49b38576cf","subject":"6b5e4a9c","client":"device-1","from":0,"to":11,"removed":5}],"of_others":1}"#,
        "faabce4671332b5b36bd19bb19d0f77a205e6ac373d304b1bb862d02badb630a",
    ),
    (
        r#"{"version":1,"index":6,"time":1800000000000,"synchronised":true,"boot_id":"49b5d4f4-5949-4e92-8dce-dc750a78e6df","event":"change","origin":{"transport":"admin","uid":0,"gid":0,"pid":5},"what":"keys_pinned","detail":{"realm":"dev","added":["x"]}}"#,
        "9c0ab99df32b61ca7af3fd82fa7fbc61805baa7875ae631ee51f90d1d80e5b00",
    ),
    (
        r#"{"version":1,"index":7,"time":1800000000000,"synchronised":true,"boot_id":"49b5d4f4-5949-4e92-8dce-dc750a78e6df","event":"change","origin":{"transport":"daemon"},"what":"audit_epoch_begun","detail":{"epoch":2,"base":7,"why":"behind_checkpoint","checkpoint":"a/1\n9\n"}}"#,
        "4e370485ce33a094af286a1bfa362361ec98e69a078c894d5202a909d4f30531",
    ),
    (
        r#"{"version":1,"index":8,"time":1800000000000,"synchronised":true,"boot_id":"49b5d4f4-5949-4e92-8dce-dc750a78e6df","event":"access","request_id":"req_842feda0b40cd86104a2ce99559da1ef","origin":{"transport":"mqtt","topic":"slm/edge-1/v1/chat/completions"},"action":"chat again","decision":"permit","detail":"the answer of req_163bf33cc27ec36d1929e9d199bfcc5d","realm":"dev","endpoint":"slm","issuer":"https://keycloak.test/realms/dev","subject":"6b5e4a9c","client":"device-1","token_id":"trrtcc:6f0c9f6e","scope":"read"}"#,
        "78644019761db7e3725c0713910189a01c42c00433cfe6c3b4edd3c45b30ddf9",
    ),
    (
        r#"{"version":1,"index":9,"time":1800000000000,"synchronised":true,"boot_id":"49b5d4f4-5949-4e92-8dce-dc750a78e6df","event":"accesses_summary","transport":"mqtt","action":"chat joined","decision":"permit","by_other_tokens":3,"count":5,"first":1800000000000,"last":1800000000007}"#,
        "1aee36de27088027c0bbea7c0cc8111b70ae45933cb81a7fc90bfe9a0d242386",
    ),
    (
        r#"{"version":1,"index":10,"time":1800000000000,"synchronised":true,"boot_id":"49b5d4f4-5949-4e92-8dce-dc750a78e6df","event":"refusals_summary","transport":"socket","reason":"head_too_large","count":2,"since":1800000000000}"#,
        "12db2d9734c6ae152736ba194ace23e7489196c68d7be1fbd042d086e427a001",
    ),
    (
        r#"{"version":1,"index":11,"time":1800000000000,"synchronised":true,"boot_id":"49b5d4f4-5949-4e92-8dce-dc750a78e6df","event":"access","request_id":"req_163bf33cc27ec36d1929e9d199bfcc5d","client_request_id":"mine","origin":{"transport":"socket","uid":1000,"gid":1000,"pid":77},"action":"chat","decision":"permit","realm":"dev","endpoint":"slm","issuer":"https://keycloak.test/realms/dev","subject":"6b5e4a9c-3f43-4a5c-8a2f-0d5e6f7a8b9c","username":"alice","client":"device-1","token_id":"trrtcc:6f0c9f6e","dpop":true,"local_peer":true,"scope":"read","prompt_hash":"5767bcf3edd261a2dbd8c8e66b23ed5aef9e11bb4d85d32a076eebbe8780782a","model_digest":"00","kernels":"neon-dotprod","sampling":{"temperature":0.7,"top_p":1.0,"top_k":0,"min_p":0.0,"seed":18446744073709551615},"prompt_tokens":31,"prompt_time":1800000000000}"#,
        "bee27d9c9de72cf9f57377a8cedd0a6def57697ee8286bcf1ace762497ef5881",
    ),
    (
        r#"{"version":1,"index":12,"time":1800000000000,"synchronised":true,"boot_id":"49b5d4f4-5949-4e92-8dce-dc750a78e6df","event":"change","origin":{"transport":"daemon"},"what":"salt_erased","detail":{"realm":"dev","request_id":"req_163bf33cc27ec36d1929e9d199bfcc5d","index":4,"texts":[4,5]}}"#,
        "2db0c4721a2c3d0f51bb4e44ab9503a82a0c3146f4715d5369b081db780e8558",
    ),
];

#[test]
fn records_are_the_bytes_that_they_have_always_been() {
    for (line, hash) in GOLDEN {
        let record: Record = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), line);
        assert_eq!(hex(&leaf_hash(line.as_bytes())), hash, "{line}");
    }
}
