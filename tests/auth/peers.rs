//! Break-glass: what local groups may do without a token, until the deny-list takes it back.

use slmd::for_tests::auth::{Credential, Decision, KeySet, Permitted, recheck};
use slmd::for_tests::prompt::{Look, Operation, Scope};
use slmd::for_tests::reason::DenyReason::*;
use slmd::for_tests::time::Timestamp;

use crate::case::Case;
use crate::mint::{ISSUER, NOW};

const TECHNICIANS: u32 = 500;

/// A peer of the technicians' group, who may read; nothing else of the world is in order.
fn broken() -> Case {
    let mut case = Case::sound();
    case.wrap = |_| Credential::LocalPeer {
        uid: 1000,
        gid: 1000,
        groups: vec![4, TECHNICIANS],
    };
    case.realm.policy.local_groups = [(TECHNICIANS, vec![Scope::Read])].into();
    case.realm.keys = KeySet::default();
    case.realm.confirmed = None;
    case.clock.now = Timestamp(0);
    case.clock.synchronised = false;
    case
}

fn permitted(case: &Case) -> Permitted {
    match case.decide() {
        Decision::Permit(permitted) => permitted,
        Decision::Deny(denied) => panic!("{denied:?}"),
    }
}

#[test]
fn a_group_grants_without_keys_or_clock() {
    let permitted = permitted(&broken());
    let grant = permitted.grant();
    assert!(grant.local_peer);
    assert_eq!(grant.principal.issuer, ISSUER);
    assert_eq!(grant.principal.subject, "uid:1000");
    assert_eq!(grant.principal.client, "local");
    assert_eq!(permitted.endpoint().client_id, "slm");
    assert!(permitted.issued_at().is_none() && permitted.proof().is_none());
}

#[test]
fn the_primary_group_counts_too() {
    let mut case = broken();
    case.wrap = |_| Credential::LocalPeer {
        uid: 1000,
        gid: TECHNICIANS,
        groups: vec![],
    };
    let _allowed = permitted(&case);
}

#[test]
fn no_other_group_and_no_other_scope() {
    let mut case = broken();
    case.operation = Operation::Look(Look::Metrics);
    assert_eq!(case.denied().reason, PeerNotAllowed);
    case = broken();
    case.wrap = |_| Credential::LocalPeer {
        uid: 0,
        gid: 0,
        groups: vec![4],
    };
    assert_eq!(case.denied().reason, PeerNotAllowed);
    case.realm.policy.local_groups.clear();
    assert_eq!(case.denied().reason, TokenMissing);
}

#[test]
fn the_deny_list_names_peers_by_subject_and_client() {
    let mut case = broken();
    let running = permitted(&case);
    case.revoked.subjects.insert("uid:1001".to_owned(), None);
    assert_eq!(recheck(&running, &case.snapshot(), &case.clock), Ok(()));
    case.unknown = true;
    assert_eq!(case.denied().reason, TrustUnread);
    let again = recheck(&running, &case.snapshot(), &case.clock);
    assert_eq!(again, Err(TrustUnread));
    for client in [false, true] {
        case = broken();
        match client {
            false => case.revoked.subjects.insert("uid:1000".to_owned(), None),
            true => case.revoked.clients.insert("local".to_owned(), None),
        }
        assert_eq!(case.denied().reason, Revoked);
        let again = recheck(&running, &case.snapshot(), &case.clock);
        assert_eq!(again, Err(Revoked));
    }
}

#[test]
fn an_epoch_can_take_a_groups_grant_away() {
    let mut case = broken();
    let running = permitted(&case);
    case.realm.policy.local_groups = [(TECHNICIANS, vec![Scope::Audit])].into();
    let again = recheck(&running, &case.snapshot(), &case.clock);
    assert_eq!(again, Err(PeerNotAllowed));
    case = broken();
    case.realm.endpoints.clear();
    let again = recheck(&running, &case.snapshot(), &case.clock);
    assert_eq!(again, Err(EndpointUnknown));
    assert_eq!(case.denied().reason, EndpointUnknown);
}

/// An entry of the deny-list counts until its end, for what runs as for what comes.
#[test]
fn a_revocation_ends() {
    let mut case = Case::sound();
    let running = permitted(&case);
    let until = Some(Timestamp::from_secs(NOW));
    let subject = case.claims["sub"].as_str().unwrap().to_owned();
    case.revoked.subjects.insert(subject, until);
    let _allowed = permitted(&case);
    assert_eq!(recheck(&running, &case.snapshot(), &case.clock), Ok(()));
    case.clock.now = Timestamp::from_secs(NOW - 1);
    assert_eq!(case.denied().reason, Revoked);
    let again = recheck(&running, &case.snapshot(), &case.clock);
    assert_eq!(again, Err(Revoked));
}
