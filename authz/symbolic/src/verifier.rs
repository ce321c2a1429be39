//! Asking the solver.

use std::{collections::BTreeSet, ffi::OsString, sync::Arc, time::Duration};

use cedar_policy::{Effect, PolicySet, RequestEnv};
use cedar_policy_symcc::{
    CedarSymCompiler, CompiledPolicy, CompiledPolicySet, Env, err::Error as SymbolicError,
    solver::LocalSolver,
};
use reeve_core::{PolicyId, decision::AccessRequest};
use tokio::process::Command;

use crate::{
    Answer, Counterexample, Policies, Property, World,
    hunt::Hunt,
    literals::Literals,
    policies::schema,
    world::{Part, Place},
};

/// Why nothing could be asked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The solver is not there, or does not run.
    #[error("the solver {program} cannot be run")]
    NoSolver {
        /// What was to be run.
        program: String,
        /// Why not.
        #[source]
        source: cedar_policy_symcc::solver::SolverError,
    },
    /// A policy is none.
    #[error("the policies are invalid: {}", faults.join("; "))]
    Policies {
        /// What is wrong.
        faults: Vec<String>,
    },
    /// There is no such policy, or it does not bind.
    #[error("no policy {0} binds")]
    NoSuchPolicy(PolicyId),
    /// Cedar refused something that it should take.
    #[error("Cedar cannot be asked")]
    Cedar(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The built-in schema is broken.
    #[error("the built-in policy schema cannot be used")]
    Schema,
    /// What is true in every world could not be stated.
    #[error("the conditions of possible worlds cannot be stated")]
    Guard,
}

impl VerifyError {
    pub(crate) fn cedar(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Cedar(Box::new(error))
    }
}

/// How the solver is run.
#[derive(Clone, Debug)]
pub struct Solver {
    /// The program: a path, or a name to be looked up.
    pub program: OsString,
    /// How long it may think about one question.
    pub limit: Duration,
}

impl Solver {
    fn start(&self) -> Result<CedarSymCompiler<LocalSolver>, VerifyError> {
        let limit = format!("--tlimit-per={}", self.limit.as_millis());
        let mut command = Command::new(&self.program);
        command.args(["--lang", "smt", &limit]).kill_on_drop(true);
        let no_solver = |source| VerifyError::NoSolver {
            program: self.program.to_string_lossy().into_owned(),
            source,
        };
        let solver = LocalSolver::from_command(&mut command).map_err(no_solver)?;
        CedarSymCompiler::new(solver).map_err(VerifyError::cedar)
    }
}

/// Proves properties of policies, or finds requests that refute them.
#[derive(Debug)]
pub struct Verifier {
    solver: Solver,
    compiler: CedarSymCompiler<LocalSolver>,
    world: Arc<World>,
}

/// How what `left` allows and what `right` allows are to be related.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    /// All that is allowed left is allowed right.
    Implies,
    /// Nothing is allowed on both sides.
    Disjoint,
}

/// What the search for a request came to.
pub(crate) enum Search {
    None,
    Found(Box<Counterexample>),
    Unknown(String),
}

/// What one question to the solver came to.
pub(crate) enum Reply {
    None,
    Model(Box<Env>),
    Unknown(String),
}

impl Verifier {
    /// A verifier for policies of `world`; it starts the solver.
    pub fn new(solver: Solver, world: World) -> Result<Self, VerifyError> {
        Ok(Self {
            compiler: solver.start()?,
            solver,
            world: Arc::new(world),
        })
    }

    /// Whether `property` holds of `policies`.
    pub async fn check(
        &mut self,
        policies: &Policies,
        property: &Property,
    ) -> Result<Answer, VerifyError> {
        match property {
            Property::Never(described) => {
                let found = self.search(described, policies, Relation::Disjoint).await?;
                Ok(found.refutes())
            }
            Property::Always(described) => self.implies(described, policies).await,
            Property::NoMoreThan(other) => self.implies(policies, other).await,
            Property::SameAs(other) => match self.implies(policies, other).await? {
                Answer::Holds => self.implies(other, policies).await,
                answer @ (Answer::Fails { .. } | Answer::Unknown { .. }) => Ok(answer),
            },
            Property::Matters(id) => self.matters(policies, id).await,
            Property::NeverFails(id) => Ok(self.never_fails(policies, id).await?.refutes()),
        }
    }

    /// All that `left` allows is allowed by `right`.
    async fn implies(&mut self, left: &Policies, right: &Policies) -> Result<Answer, VerifyError> {
        let found = self.search(left, right, Relation::Implies).await?;
        if !matches!(found, Search::None) {
            return Ok(found.refutes());
        }
        // Cedar skips a forbid that fails; our engine denies. So each of the right side must never fail.
        for forbid in right.all().iter().filter(|p| p.effect == Effect::Forbid) {
            let id = &forbid.source.id;
            if !matches!(self.never_fails(right, id).await?, Search::None) {
                let why = format!("{id} may fail to be evaluated, and then denies");
                return Ok(Answer::Unknown { why });
            }
        }
        Ok(Answer::Holds)
    }

    async fn matters(&mut self, policies: &Policies, id: &PolicyId) -> Result<Answer, VerifyError> {
        let own = policies
            .get(id)
            .ok_or_else(|| VerifyError::NoSuchPolicy(id.clone()))?;
        let without = policies.without(id)?;
        let (left, right) = match own.effect {
            Effect::Permit => (policies, &without),
            Effect::Forbid => (&without, policies),
        };
        Ok(match self.search(left, right, Relation::Implies).await? {
            Search::None => Answer::Fails {
                counterexample: None,
            },
            Search::Found(_) => Answer::Holds,
            Search::Unknown(why) => Answer::Unknown { why },
        })
    }

    /// A request that `left` allows, and that `right` does not allow (`Implies`) or allows as well (`Disjoint`).
    async fn search(
        &mut self,
        left: &Policies,
        right: &Policies,
        relation: Relation,
    ) -> Result<Search, VerifyError> {
        let world = Arc::clone(&self.world);
        let places = places(&world, left, right);
        let confirm = |request: &AccessRequest| {
            let decision = right.engine().decide(request);
            let wanted = relation == Relation::Disjoint;
            let confirmed =
                left.engine().decide(request).is_allow() && decision.is_allow() == wanted;
            confirmed.then_some(decision)
        };
        let mut hunt = Hunt::new(Arc::clone(&self.world), &confirm);
        for env in schema()?.request_envs() {
            for place in &places {
                let part = Part {
                    world: &world,
                    env: &env,
                    place,
                };
                if !left.permits_some(&part) {
                    continue;
                }
                let mut literals = Literals::default();
                left.read_literals(&part, &mut literals);
                right.read_literals(&part, &mut literals);
                hunt.begin(literals);
                let other = compiled(right.set(&part, None)?, &env)?;
                while hunt.goes_on() {
                    let guard = hunt.guard(&env, place)?;
                    let one = compiled(left.set(&part, Some(&guard))?, &env)?;
                    hunt.take(self.related(&one, relation, &other).await?);
                }
                if hunt.is_over() {
                    return Ok(hunt.end());
                }
            }
        }
        Ok(hunt.end())
    }

    async fn related(
        &mut self,
        one: &CompiledPolicySet,
        relation: Relation,
        other: &CompiledPolicySet,
    ) -> Result<Reply, VerifyError> {
        self.ask(async |compiler| match relation {
            Relation::Implies => {
                let asked = compiler.check_implies_with_counterexample_opt(one, other);
                asked.await
            }
            Relation::Disjoint => {
                let asked = compiler.check_disjoint_with_counterexample_opt(one, other);
                asked.await
            }
        })
        .await
    }

    /// A request for which the policy cannot be evaluated.
    async fn never_fails(
        &mut self,
        policies: &Policies,
        id: &PolicyId,
    ) -> Result<Search, VerifyError> {
        let own = policies
            .get(id)
            .ok_or_else(|| VerifyError::NoSuchPolicy(id.clone()))?;
        let confirm = |request: &AccessRequest| {
            let decision = policies.engine().decide(request);
            let failed = decision.errors.iter().any(|error| error.policy == *id);
            failed.then_some(decision)
        };
        let mut hunt = Hunt::new(Arc::clone(&self.world), &confirm);
        for env in &own.envs {
            let mut literals = Literals::default();
            own.read_literals(&mut literals);
            hunt.begin(literals);
            while hunt.goes_on() {
                let policy = own.guarded(Some(&hunt.guard(env, &Place::Any)?))?;
                let policy =
                    CompiledPolicy::compile(&policy, env, schema()?).map_err(VerifyError::cedar)?;
                let reply = self
                    .ask(async |compiler| {
                        let asked = compiler.check_never_errors_with_counterexample_opt(&policy);
                        asked.await
                    })
                    .await?;
                hunt.take(reply);
            }
            if hunt.is_over() {
                break;
            }
        }
        Ok(hunt.end())
    }

    /// Asks one question; a solver that hangs or dies is started again.
    async fn ask(
        &mut self,
        question: impl AsyncFnOnce(
            &mut CedarSymCompiler<LocalSolver>,
        ) -> cedar_policy_symcc::err::Result<Option<Env>>,
    ) -> Result<Reply, VerifyError> {
        let patience = self.solver.limit * 2 + Duration::from_secs(5);
        match tokio::time::timeout(patience, question(&mut self.compiler)).await {
            Ok(Ok(None)) => Ok(Reply::None),
            Ok(Ok(Some(model))) => Ok(Reply::Model(Box::new(model))),
            Ok(Err(SymbolicError::SolverUnknown)) => Ok(Reply::Unknown(format!(
                "the solver says unknown, within {:?}",
                self.solver.limit
            ))),
            Ok(Err(error)) => {
                self.compiler = self.solver.start()?;
                Ok(Reply::Unknown(reeve_core::error_chain(&error)))
            }
            Err(_) => {
                self.compiler = self.solver.start()?;
                Ok(Reply::Unknown("the solver does not answer".to_owned()))
            }
        }
    }
}

/// Where what is asked for may be, as far as the policies tell places apart.
fn places(world: &World, left: &Policies, right: &Policies) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    left.read_places(world, &mut places);
    right.read_places(world, &mut places);
    let named = places.iter().filter_map(|place| match place {
        Place::Namespace(id) => Some(id.clone()),
        Place::Any | Place::Elsewhere(_) => None,
    });
    let elsewhere = Place::Elsewhere(named.collect());
    places.insert(elsewhere);
    places
}

fn compiled(set: PolicySet, env: &RequestEnv) -> Result<CompiledPolicySet, VerifyError> {
    CompiledPolicySet::compile(&set, env, schema()?).map_err(VerifyError::cedar)
}

impl Search {
    /// The answer to a property that such a request refutes.
    fn refutes(self) -> Answer {
        match self {
            Self::None => Answer::Holds,
            Self::Found(example) => Answer::Fails {
                counterexample: Some(example),
            },
            Self::Unknown(why) => Answer::Unknown { why },
        }
    }
}
