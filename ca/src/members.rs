//! Who holds certificates of this authority, and how far each has followed it: what a rotation waits for, by name.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reeve_core::{Clock, InstanceName, SpiffeId, UnixTime};
use serde::{Deserialize, Serialize};

/// Most members; who comes beyond them is not followed, and its certificate is waited for until it ends.
pub(crate) const MAX_MEMBERS: usize = 65_536;
/// Most renewals whose certificates are told apart; older ones count as one.
const MAX_RENEWALS: usize = 64;
/// Most laggards that are named; all are counted.
pub(crate) const MAX_NAMED: usize = 100;
/// How long members may take to come back after the authority was away, longer than their longest pause.
const SETTLING: Duration = Duration::from_secs(10);

/// A member: an instance under an identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberName {
    /// The identity that it proved.
    pub id: SpiffeId,
    /// Its own name; it can speak for instances of its identity only.
    pub instance: InstanceName,
}

/// What a member says that it uses for new connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Sequence of the trust bundle.
    pub bundle_sequence: u64,
    /// Serial number of the leaf, in hexadecimal.
    pub serial: String,
    /// The renewal that the leaf was issued for.
    pub renewal: u64,
    /// When the leaf ends.
    pub not_after: UnixTime,
}

/// A member as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Who.
    #[serde(flatten)]
    pub name: MemberName,
    /// What it uses.
    #[serde(flatten)]
    pub holding: Holding,
    /// Whether it follows now.
    pub connected: bool,
    /// When it last said so.
    pub seen_at: UnixTime,
}

/// How far somebody has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Trusts the bundle of this sequence.
    Bundle(u64),
    /// Has a certificate of this renewal.
    Renewal(u64),
}

/// Who is not that far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lagging {
    pub(crate) named: Vec<String>,
    pub(crate) count: usize,
}

/// Every member that is known, and when the certificates of each renewal have ended.
#[derive(Debug)]
pub(crate) struct Members {
    clock: Arc<dyn Clock>,
    settled_at: UnixTime,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    members: HashMap<MemberName, Member>,
    /// Renewal to the end of the last certificate that was issued for it.
    ends: BTreeMap<u64, UnixTime>,
    /// Until when certificates may be in use that are not among those.
    unknown_until: UnixTime,
    sessions: u64,
}

#[derive(Clone, Debug)]
struct Member {
    holding: Holding,
    seen_at: UnixTime,
    /// The session that speaks for it, while there is one.
    session: Option<u64>,
}

/// A member is not taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_MEMBERS} members are followed already")]
pub(crate) struct TooManyMembers;

impl Members {
    /// Those who were members before, and until when certificates of before may be in use.
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        before: Vec<MemberStatus>,
        unknown_until: UnixTime,
    ) -> Self {
        let now = clock.now();
        let fresh = unknown_until <= now;
        let known = before.into_iter().take(MAX_MEMBERS).map(|member| {
            let MemberStatus { name, holding, .. } = member;
            let known = Member {
                holding,
                seen_at: member.seen_at,
                session: None,
            };
            (name, known)
        });
        Self {
            settled_at: if fresh { now } else { now.plus(SETTLING) },
            state: Mutex::new(State {
                members: known.collect(),
                unknown_until,
                ..State::default()
            }),
            clock,
        }
    }

    /// A certificate leaves.
    pub(crate) fn issued(&self, renewal: u64, not_after: UnixTime) {
        let state = &mut *self.lock();
        let end = state.ends.entry(renewal).or_default();
        *end = not_after.max(*end);
        if state.ends.len() > MAX_RENEWALS
            && let Some((_, end)) = state.ends.pop_first()
        {
            state.unknown_until = state.unknown_until.max(end);
        }
    }

    /// Somebody follows from now on, in place of whoever followed under the same name.
    pub(crate) fn join(
        self: &Arc<Self>,
        name: MemberName,
        holding: Holding,
    ) -> Result<Session, TooManyMembers> {
        let now = self.clock.now();
        let mut state = self.lock();
        if state.members.len() >= MAX_MEMBERS && !state.members.contains_key(&name) {
            state.forget_ended(now);
            if state.members.len() >= MAX_MEMBERS {
                return Err(TooManyMembers);
            }
        }
        state.sessions += 1;
        let number = state.sessions;
        state.report(&name, number, holding, now);
        drop(state);
        Ok(Session {
            members: Arc::clone(self),
            name,
            number,
        })
    }

    /// Who is not as far as that. A member that is away is waited for until its certificate ends.
    pub(crate) fn lagging(&self, want: Want, now: UnixTime) -> Lagging {
        let mut state = self.lock();
        state.forget_ended(now);
        let behind = |holding: &Holding| match want {
            Want::Bundle(sequence) => holding.bundle_sequence < sequence,
            Want::Renewal(renewal) => holding.renewal < renewal,
        };
        let mut names: Vec<&MemberName> = state
            .members
            .iter()
            .filter(|(_, member)| behind(&member.holding))
            .map(|(name, _)| name)
            .collect();
        let count = names.len();
        names.sort_unstable();
        let named = names.iter().take(MAX_NAMED).map(|name| name.to_string());
        Lagging {
            named: named.collect(),
            count,
        }
    }

    /// When the last certificate from before `renewal` has ended, and with it the connections that it was used for.
    pub(crate) fn ended_at(&self, renewal: u64) -> UnixTime {
        let state = self.lock();
        let last = state.ends.range(..renewal).map(|(_, end)| *end).max();
        last.unwrap_or_default().max(state.unknown_until)
    }

    /// When all who were there before had time to come back.
    pub(crate) fn settled_at(&self) -> UnixTime {
        self.settled_at
    }

    /// Everybody, by name.
    pub(crate) fn list(&self) -> Vec<MemberStatus> {
        let mut state = self.lock();
        state.forget_ended(self.clock.now());
        let statuses = state.members.iter().map(|(name, member)| MemberStatus {
            name: name.clone(),
            holding: member.holding.clone(),
            connected: member.session.is_some(),
            seen_at: member.seen_at,
        });
        let mut statuses: Vec<_> = statuses.collect();
        statuses.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        statuses
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn report(&mut self, name: &MemberName, session: u64, holding: Holding, now: UnixTime) {
        let member = Member {
            holding,
            seen_at: now,
            session: Some(session),
        };
        self.members.insert(name.clone(), member);
    }

    /// Members that are away and whose certificate has ended.
    fn forget_ended(&mut self, now: UnixTime) {
        self.members
            .retain(|_, m| m.session.is_some() || m.holding.not_after > now);
    }
}

/// A member that follows. Dropped, it is away.
#[derive(Debug)]
pub(crate) struct Session {
    members: Arc<Members>,
    name: MemberName,
    number: u64,
}

impl Session {
    /// What it uses now.
    pub(crate) fn report(&self, holding: Holding) {
        let now = self.members.clock.now();
        let mut state = self.members.lock();
        if self.speaks(&state) {
            state.report(&self.name, self.number, holding, now);
        }
    }

    /// It ends for good, and its certificate with it.
    pub(crate) fn leave(self) {
        let mut state = self.members.lock();
        if self.speaks(&state) {
            state.members.remove(&self.name);
        }
    }

    /// Whether nobody has taken its place.
    fn speaks(&self, state: &State) -> bool {
        let member = state.members.get(&self.name);
        member.is_some_and(|member| member.session == Some(self.number))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut state = self.members.lock();
        if self.speaks(&state)
            && let Some(member) = state.members.get_mut(&self.name)
        {
            member.session = None;
        }
    }
}

impl std::fmt::Display for MemberName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.instance, self.id)
    }
}

#[cfg(test)]
mod tests;
