use std::{sync::Arc, time::Duration};

use reeve_svid::SvidError;

use crate::authority::{
    CertificateAuthority, IssueError, Recheck,
    fixture::{HOUR, authority, issue},
};

fn refused(ca: &CertificateAuthority) -> SvidError {
    match issue(ca) {
        Err(IssueError::Recheck(Recheck::Verify(error))) => error,
        other => panic!("{other:?}"),
    }
}

/// The path above an intermediate is verified once, not for every leaf: these are what that must not hide.
#[test]
fn nothing_leaves_that_was_signed_by_an_intermediate_of_a_root_that_is_trusted_no_more() {
    let (_, ca) = authority();
    issue(&ca).unwrap();
    issue(&ca).unwrap();
    let before = ca.lock().slots.intermediate.clone();
    let (_, other) = authority();
    let theirs = Arc::clone(&other.bundle.borrow());
    ca.bundle.send_replace(theirs);
    assert_eq!(refused(&ca), SvidError::UnknownIssuer);

    let mine = Arc::new(ca.lock().slots.bundle(ca.trust_domain()).unwrap());
    ca.bundle.send_replace(mine);
    issue(&ca).unwrap();
    // Another's intermediate, under a bundle that has verified ours.
    let stranger = other.lock().slots.intermediate.clone();
    ca.lock().slots.intermediate.as_mut().unwrap().certificate = stranger.unwrap().certificate;
    assert_eq!(refused(&ca), SvidError::UnknownIssuer);
    ca.lock().slots.intermediate = before;
    issue(&ca).unwrap();
}

#[test]
fn nothing_leaves_that_was_signed_by_an_intermediate_that_has_ended() {
    let (clock, ca) = authority();
    issue(&ca).unwrap();
    let end = {
        let mut state = ca.lock();
        let intermediate = state.slots.intermediate.as_mut().unwrap();
        // As if the authority had not noticed.
        let end = intermediate.not_after;
        intermediate.not_after = end.plus(HOUR * 24 * 30);
        end
    };
    clock.set(end);
    let longer = issue(&ca);
    let longer = matches!(longer, Err(IssueError::Recheck(Recheck::Departs("end"))));
    assert!(longer, "no leaf says that it outlives its issuer");
    clock.set(end.plus(Duration::from_secs(1)));
    let refusal = refused(&ca);
    let ended = matches!(refusal, SvidError::Expired { position: 1, .. });
    assert!(ended, "{refusal:?}");
}
