//! What agents on other machines may tell of whom they refuse.

use super::*;
use crate::{
    LogEvents, RevokeTarget,
    entries::tests::entry_of,
    events::MAX_TOLD_AT_ONCE,
    proto::issuer::{Refusal, Refusals},
};

impl Setup {
    /// Lets `caller` tell so many refusals as `agent`'s; how many were noted, or why none was.
    async fn tell(
        &self,
        caller: &VerifiedPeer,
        agent: &str,
        count: usize,
    ) -> Result<usize, RefusalReason> {
        let mut request = Request::new(Refusals {
            agent_id: agent.to_owned(),
            refusals: vec![Refusal::default(); count],
            left_out: 0,
        });
        request.extensions_mut().insert(caller.clone());
        match self.service.note_refusals(request).await {
            Ok(()) => Ok(std::mem::take(&mut *self.events.elsewhere.lock().unwrap())),
            Err(_) => Err(self.events.refused.lock().unwrap().pop().unwrap().reason),
        }
    }
}

#[tokio::test]
async fn an_agent_is_heard_for_itself_until_it_is_revoked_and_within_bounds() {
    let setup = setup(Ok(()));
    let entries = &setup.service.entries;
    entries.set(Arc::new(
        [OURS, OTHER].map(|agent| entry_of("a", agent)).to_vec(),
    ));
    let _both = [OURS, OTHER].map(|agent| entries.reporter(agent.parse().unwrap()).unwrap());
    let caller = setup.peer(OURS).await;
    assert_eq!(setup.tell(&caller, OURS, 2).await, Ok(2));
    let most = setup.tell(&caller, OURS, MAX_TOLD_AT_ONCE + 1).await;
    assert_eq!(most, Ok(MAX_TOLD_AT_ONCE));
    let others = setup.tell(&caller, OTHER, 1).await;
    assert_eq!(others, Err(RefusalReason::NotEntitled));
    let target = RevokeTarget::Id(OURS.parse().unwrap());
    let revoked = setup.service.ca.revoke(target, "lost", None, &LogEvents);
    revoked.unwrap();
    let late = setup.tell(&caller, OURS, 1).await;
    assert_eq!(late, Err(RefusalReason::Revoked));
}
