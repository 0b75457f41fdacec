//! What `slmd ask` makes of a saved login, against a fake of Keycloak's endpoints.

use std::net::TcpListener;
use std::time::Duration;

use super::saved::Place;
use super::session::Session;
use crate::oauth::fake::{Fake, error, good};
use crate::time::Timestamp;

#[test]
fn a_token_that_runs_out_is_refreshed_and_saved() {
    let fake = Fake::start([good()]);
    let folder = tempfile::tempdir().unwrap();
    let place = Place::at(folder.path().join("slmd"));
    let now = Timestamp::from_secs(1_000_000);
    let saved = fake.saved(now.saturating_add(Duration::from_secs(61)));
    place.save(&saved).unwrap();
    let session = Session::open_at(&place, now).unwrap().unwrap();
    assert_eq!(session.token.expose(), "old");
    assert!(fake.token_requests().is_empty());

    let later = now.saturating_add(Duration::from_secs(2));
    let session = Session::open_at(&place, later).unwrap().unwrap();
    assert_eq!(session.token.expose(), "new");
    assert!(session.key.is_some());
    let request = &fake.token_requests()[0];
    assert!(
        request.body.contains("refresh_token=refresh-1"),
        "{request:?}"
    );
    assert!(request.proof.is_some());
    let kept = place.load().unwrap().unwrap();
    assert_eq!(kept.tokens.refresh.unwrap().expose(), "refresh-2");
}

#[test]
fn without_a_connection_the_saved_token_goes_on() {
    let fake = Fake::start([error("invalid_grant"), error("invalid_grant")]);
    let folder = tempfile::tempdir().unwrap();
    let place = Place::at(folder.path().join("slmd"));
    let now = Timestamp::from_secs(1_000_000);
    let mut saved = fake.saved(now.saturating_add(Duration::from_secs(30)));
    place.save(&saved).unwrap();
    let open = |at| Session::open_at(&place, at);
    assert_eq!(open(now).unwrap().unwrap().token.expose(), "old");
    let ended = open(now.saturating_add(Duration::from_secs(31))).unwrap_err();
    assert!(
        ended.message.contains("run slmd login"),
        "{}",
        ended.message
    );

    // Bound and dropped: nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    saved.client.issuer = format!("http://{nobody}/realms/dev");
    place.save(&saved).unwrap();
    for late in [0, 31] {
        let session = open(now.saturating_add(Duration::from_secs(late)));
        assert_eq!(session.unwrap().unwrap().token.expose(), "old");
    }
}
