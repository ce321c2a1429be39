//! The hunt for one request through all parts of all requests: models are confirmed, or taught what cannot be.

use std::{collections::BTreeSet, sync::Arc};

use cedar_policy::RequestEnv;
use cedar_policy_symcc::Env;
use reeve_core::decision::{AccessRequest, Decision};
use serde_json::Value;

use crate::{
    Counterexample, VerifyError, World,
    literals::Literals,
    verifier::{Reply, Search},
    witness::Namer,
    world::{Apart, Place},
};

/// Questions about one part of all requests, each with what the models before it disregarded.
const MAX_ROUNDS: usize = 200;

/// What is looked for, and what is known so far.
pub(crate) struct Hunt<'a> {
    world: Arc<World>,
    literals: Literals,
    /// The engine's decision, if the request is what is looked for.
    confirm: &'a dyn Fn(&AccessRequest) -> Option<Decision>,
    apart: BTreeSet<Apart>,
    rounds: usize,
    /// What came of the part at hand.
    current: Option<Search>,
    /// Why the answer cannot be "none".
    doubt: Option<String>,
}

impl<'a> Hunt<'a> {
    pub(crate) fn new(
        world: Arc<World>,
        confirm: &'a dyn Fn(&AccessRequest) -> Option<Decision>,
    ) -> Self {
        Self {
            world,
            literals: Literals::default(),
            confirm,
            apart: BTreeSet::new(),
            rounds: 0,
            current: None,
            doubt: None,
        }
    }

    /// Goes to a part whose policies name `literals`.
    pub(crate) fn begin(&mut self, mut literals: Literals) {
        self.world.complete(&mut literals);
        self.literals = literals;
        self.apart.clear();
        self.rounds = 0;
    }

    /// Whether the part at hand is still open.
    pub(crate) fn goes_on(&self) -> bool {
        self.current.is_none()
    }

    /// What holds in every world, as far as it is stated.
    pub(crate) fn guard(&self, env: &RequestEnv, place: &Place) -> Result<Value, VerifyError> {
        self.world.guard((env, place), &self.literals, &self.apart)
    }

    /// Takes the solver's reply.
    pub(crate) fn take(&mut self, reply: Reply) {
        self.rounds += 1;
        self.current = match reply {
            Reply::None => Some(Search::None),
            Reply::Unknown(why) => Some(Search::Unknown(why)),
            Reply::Model(model) => self.judged(&model),
        };
    }

    /// Leaves the part at hand; whether there is no need for another.
    pub(crate) fn is_over(&mut self) -> bool {
        if matches!(self.current, Some(Search::Found(_))) {
            return true;
        }
        if let Some(Search::Unknown(why)) = self.current.take() {
            self.doubt.get_or_insert(why);
        }
        false
    }

    pub(crate) fn end(self) -> Search {
        match (self.current, self.doubt) {
            (Some(found @ Search::Found(_)), _) => found,
            (_, Some(why)) => Search::Unknown(why),
            (_, None) => Search::None,
        }
    }

    /// A model as a request that the engine judges as the solver claims; nothing if the question is to be asked again.
    fn judged(&mut self, model: &Env) -> Option<Search> {
        let namer = Namer {
            world: &self.world,
            literals: &self.literals,
        };
        let request = namer.request(model);
        let confirmed = request.and_then(|request| Some(((self.confirm)(&request)?, request)));
        if let Some((decision, request)) = confirmed {
            return Some(Search::Found(Box::new(Counterexample {
                request,
                decision,
                looked_at: self.literals.attributes.iter().cloned().collect(),
            })));
        }
        let known = self.apart.len();
        self.apart.extend(namer.contradictions(model));
        if self.apart.len() > known && self.rounds < MAX_ROUNDS {
            return None;
        }
        let why = "the solver's example is no request that can be sent";
        Some(Search::Unknown(why.to_owned()))
    }
}
