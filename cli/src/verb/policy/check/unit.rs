//! The text of one `AccessPolicy`, or of a file of Cedar text, and where it stands.

use std::path::Path;

use reeve_authz::{PolicyFault, PolicySchema, Remark};
use reeve_control::PolicyDocument;
use reeve_core::{Namespace, model::PolicySource};

use super::{finding::Finding, object_name};
use crate::{input, problem::Problem, verb::policy::files::is_yaml};

/// Text that is split into policies as a whole.
#[derive(Debug)]
pub(super) struct Unit {
    /// The namespace whose resources the policies decide.
    scope: Option<Namespace>,
    home: Namespace,
    object: String,
    cedar: String,
    /// Where it stands in a YAML file.
    document: Option<PolicyDocument>,
    policies: Vec<PolicySource>,
}

impl Unit {
    /// What `file` holds.
    pub(super) fn all(
        file: &Path,
        scope: Option<&Namespace>,
        root: &Namespace,
    ) -> Result<Vec<Self>, Problem> {
        if !is_yaml(file) {
            return Ok(vec![Self {
                scope: scope.cloned(),
                home: scope.unwrap_or(root).clone(),
                object: object_name(file),
                cedar: input::text(file)?,
                document: None,
                policies: Vec::new(),
            }]);
        }
        // Told apart here: what is not there is no fault of its text.
        input::text(file)?;
        let documents = reeve_control::policy_documents(file).map_err(|faults| {
            let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
            Problem::new(format!("the file cannot be read\n{}", told.join("\n")))
                .at(file.display())
                .into_answer()
        })?;
        let unit = |document: PolicyDocument| {
            let home = Namespace::parse(&document.namespace).map_err(|error| {
                Problem::new(format!("{}: {error}", document.name))
                    .at(file.display())
                    .into_answer()
            })?;
            Ok(Self {
                scope: (home != *root).then(|| home.clone()),
                home,
                object: document.name.clone(),
                cedar: document.cedar.clone(),
                document: Some(document),
                policies: Vec::new(),
            })
        };
        documents.into_iter().map(unit).collect()
    }

    /// Its policies, or all its faults.
    pub(super) fn parsed(
        &mut self,
        schema: &PolicySchema,
    ) -> Result<&[PolicySource], Vec<Finding>> {
        let (scope, home) = (self.scope.as_ref(), &self.home);
        match schema.parse_access_policy(scope, home, &self.object, &self.cedar) {
            Ok(policies) => {
                self.policies = policies;
                Ok(&self.policies)
            }
            Err(faults) => Err(faults.into_iter().map(|fault| self.placed(fault)).collect()),
        }
    }

    fn placed(&self, fault: PolicyFault) -> Finding {
        let place = self.place(fault.line, fault.column);
        Finding::fault(fault, place)
    }

    fn place(&self, line: usize, column: usize) -> (usize, usize) {
        let document = self.document.as_ref();
        document.map_or((line, column), |d| d.place(line, column))
    }

    /// A remark on one of its policies, placed.
    pub(super) fn warning(&self, remark: &Remark) -> Option<Finding> {
        let policy = &remark.fault.policy;
        let source = self.policies.iter().find(|p| p.id == *policy)?;
        let start = self.cedar.find(&source.text)?;
        let before = self.cedar.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + remark.fault.line;
        // The policy's first line may begin within a line.
        let shift = match remark.fault.line {
            1 => before
                .rsplit('\n')
                .next()
                .unwrap_or_default()
                .chars()
                .count(),
            _ => 0,
        };
        let column = remark.fault.column + shift;
        let fault = PolicyFault {
            column,
            snippet: self.cedar.lines().nth(line - 1).map(str::to_owned),
            ..remark.fault.clone()
        };
        Some(Finding::remark(remark, fault, self.place(line, column)))
    }
}
