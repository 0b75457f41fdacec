//! Logs of other releases: of earlier ones, and of newer ones that were taken back.

use super::tests::{SALT, START, access, all, later, open_in, settings};
use super::*;

#[test]
fn records_of_earlier_releases_are_read() {
    for (line, id) in [
        (
            r#"{"index":1,"time":5,"synchronised":true,"boot_id":"b","event":"access","request_id":"SAME","origin":{"transport":"socket","uid":1,"gid":1,"pid":null},"action":"chat","decision":"permit"}"#,
            "SAME",
        ),
        (
            r#"{"index":2,"time":5,"synchronised":true,"boot_id":"b","event":"finish","request_id":"SAME","finish":"stop","prompt_tokens":1,"completion_tokens":2,"answer_hash":"0","queue_ms":1,"first_token_ms":null,"total_ms":3}"#,
            "SAME",
        ),
    ] {
        let record: Record = serde_json::from_str(line).unwrap();
        let found = match record.event {
            Event::Access(access) => access.request_id,
            Event::Finish(finished) => finished.request_id,
            other => panic!("{other:?}"),
        };
        assert_eq!((found.as_str(), found.echoed()), (id, id));
    }
}

fn assert_begun(log: &Log, index: u64) {
    let begun = log.line(index).unwrap().unwrap().record().unwrap().event;
    assert!(
        matches!(&begun, Event::Change { what, detail, .. }
            if *what == Change::AuditEpochBegun.into() && detail["why"] == "no_tree"),
        "{begun:?}"
    );
}

/// A log as a newer release leaves it is opened, shown as it is, and removed in its turn.
#[test]
fn records_of_newer_releases_are_kept() {
    let newer = |index: u64, event: &str| {
        format!(
            r#"{{"version":2,"index":{index},"time":{},"synchronised":true,"boot_id":"b",{event}}}"#,
            START.0
        )
    };
    let lines = [
        newer(0, r#""event":"rollout","of":["x"]"#),
        newer(
            1,
            r#""event":"access","request_id":"r","origin":{"transport":"daemon"},"action":"chat","decision":"deny","reason":"tomorrows""#,
        ),
        r#"{"version":3,"at":"another form"}"#.to_owned(),
        newer(
            3,
            r#""event":"change","origin":{"transport":"daemon"},"what":"tomorrows","detail":{}"#,
        ),
        newer(
            4,
            r#""event":"change","origin":{"transport":"daemon"},"what":"start","detail":{},"more":1"#,
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("db")).unwrap();
    let tree = store.tree("audit").unwrap();
    for (index, line) in lines.iter().enumerate() {
        let key = (index as u64).to_be_bytes();
        store
            .write(|writer| writer.insert(&tree, &key, line.as_bytes()))
            .unwrap();
    }
    let log = open_in(&store, &folder, settings());
    assert_eq!(log.metrics().unread.get(), 4);
    // The tree begins after them, and says so.
    assert_begun(&log, 5);
    let read = log.read(0, 5).unwrap();
    let texts = read.iter().map(|line| str::from_utf8(&line.json).unwrap());
    assert!(texts.eq(lines.iter().map(String::as_str)));
    // What it has in common with this release is read.
    assert!(matches!(
        read[4].record().unwrap().event,
        Event::Change { .. }
    ));
    assert_eq!(
        log.permit(access(Verdict::Permit), SALT, later(1)).unwrap(),
        6
    );
    let old = later(91 * 86_400);
    log.tick(old, true).unwrap();
    let left = all(&log);
    let last = left.last().map(|record| &record.event);
    // Whether the last goes too depends on this machine's clock being synchronised.
    assert!(
        matches!(last, Some(Event::Truncated { removed: 5 | 7, .. })),
        "{left:?}"
    );
    assert_eq!(log.metrics().unread.get(), 0);
}
