//! Asking the solver.

use std::{ffi::OsString, time::Duration};

use cedar_policy::{Effect, RequestEnv, Schema};
use cedar_policy_symcc::{
    CedarSymCompiler, CompiledPolicy, CompiledPolicySet, Env, err::Error as SymbolicError,
    solver::LocalSolver,
};
use reeve_core::PolicyId;
use tokio::process::Command;

use crate::{
    Answer, Counterexample, Policies, Property, World, literals::Literals, witness::Namer,
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
    schema: Schema,
    world: World,
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
enum Search {
    None,
    Found(Box<Counterexample>),
    Unknown(String),
}

/// What one question to the solver came to.
enum Reply {
    None,
    Model(Box<Env>),
    Unknown(String),
}

impl Verifier {
    /// A verifier for policies of `world`; it starts the solver.
    pub fn new(solver: Solver, world: World) -> Result<Self, VerifyError> {
        let (schema, _) =
            Schema::from_cedarschema_str(reeve_authz::schema()).map_err(VerifyError::cedar)?;
        Ok(Self {
            compiler: solver.start()?,
            solver,
            schema,
            world,
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
        let mut literals = Literals::default();
        left.read_literals(&mut literals);
        right.read_literals(&mut literals);
        self.world.complete(&mut literals);
        let mut doubt = None;
        for env in self.envs() {
            let guard = self.world.guard(&env, &literals)?;
            let compile = |set| {
                CompiledPolicySet::compile(&set, &env, &self.schema).map_err(VerifyError::cedar)
            };
            let (one, other) = (
                compile(left.set(Some(&guard))?)?,
                compile(right.set(None)?)?,
            );
            let reply = self
                .ask(async |compiler| match relation {
                    Relation::Implies => {
                        let found = compiler.check_implies_with_counterexample_opt(&one, &other);
                        found.await
                    }
                    Relation::Disjoint => {
                        let found = compiler.check_disjoint_with_counterexample_opt(&one, &other);
                        found.await
                    }
                })
                .await?;
            match self.judged(reply, &literals, |request| {
                let allowed = right.engine().decide(request);
                let wanted = relation == Relation::Disjoint;
                let confirmed =
                    left.engine().decide(request).is_allow() && allowed.is_allow() == wanted;
                confirmed.then_some(allowed)
            }) {
                Search::None => {}
                Search::Found(example) => return Ok(Search::Found(example)),
                Search::Unknown(why) => doubt = doubt.or(Some(why)),
            }
        }
        Ok(doubt.map_or(Search::None, Search::Unknown))
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
        let mut literals = Literals::default();
        policies.read_literals(&mut literals);
        self.world.complete(&mut literals);
        let mut doubt = None;
        for env in self.envs() {
            let guard = self.world.guard(&env, &literals)?;
            let policy = own.guarded(Some(&guard))?;
            let policy =
                CompiledPolicy::compile(&policy, &env, &self.schema).map_err(VerifyError::cedar)?;
            let reply = self
                .ask(async |compiler| {
                    let found = compiler.check_never_errors_with_counterexample_opt(&policy);
                    found.await
                })
                .await?;
            match self.judged(reply, &literals, |request| {
                let decision = policies.engine().decide(request);
                let failed = decision.errors.iter().any(|error| error.policy == *id);
                failed.then_some(decision)
            }) {
                Search::None => {}
                Search::Found(example) => return Ok(Search::Found(example)),
                Search::Unknown(why) => doubt = doubt.or(Some(why)),
            }
        }
        Ok(doubt.map_or(Search::None, Search::Unknown))
    }

    /// Each type of request that the schema knows.
    fn envs(&self) -> Vec<RequestEnv> {
        self.schema.request_envs().collect()
    }

    /// A model as a request; the engine must judge it as the solver claims, which `confirm` tells by its decision.
    fn judged(
        &self,
        reply: Reply,
        literals: &Literals,
        confirm: impl Fn(&reeve_core::decision::AccessRequest) -> Option<reeve_core::decision::Decision>,
    ) -> Search {
        let model = match reply {
            Reply::None => return Search::None,
            Reply::Unknown(why) => return Search::Unknown(why),
            Reply::Model(model) => model,
        };
        let namer = Namer {
            world: &self.world,
            literals,
        };
        let spurious = "the solver's example is no request that can be sent";
        let Some(request) = namer.request(&model) else {
            return Search::Unknown(spurious.to_owned());
        };
        match confirm(&request) {
            Some(decision) => Search::Found(Box::new(Counterexample {
                request,
                decision,
                looked_at: literals.attributes.iter().cloned().collect(),
            })),
            None => Search::Unknown(spurious.to_owned()),
        }
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
