//! `AccessPolicy` documents: splitting them into single policies, and the hash of a policy set.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Context, SHA256};
use cedar_policy::{Policy, PolicySet};
use reeve_core::{
    Namespace, PolicyId,
    model::{PolicyMode, PolicySlice, PolicySource},
};

use crate::{
    PolicyFault, bounds,
    check::{self, Place},
    compile::{MAX_POLICY_BYTES, parse_faults, template_fault},
    fault::merged,
    mesh_schema::MeshSchema,
};

/// Longest text of one `AccessPolicy`.
const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;
/// Most policies in one `AccessPolicy`.
pub(crate) const MAX_DOCUMENT_POLICIES: usize = 2_000;

/// Splits the Cedar text of one `AccessPolicy` into single, strictly validated policies.
///
/// `scope` is the namespace whose resources the policies decide (`None` for the root namespace: the whole mesh);
/// `namespace` and `object` name the `AccessPolicy` and give the ids: `<namespace>/<object>` for a single policy
/// without `@id`, else `<namespace>/<object>#<@id, or the policy's number from 1>`.
/// Lines and columns of faults count in `text`.
pub fn parse_access_policy(
    scope: Option<&Namespace>,
    namespace: &Namespace,
    object: &str,
    text: &str,
) -> Result<Vec<PolicySource>, Vec<PolicyFault>> {
    let blame = PolicyId::from(namespace);
    let mesh = MeshSchema::get();
    let mesh = mesh.map_err(|e| vec![PolicyFault::at(&blame, text, 0, e.to_string())])?;
    parse(&mesh, scope, (namespace, object), text)
}

/// The same, against the schema `mesh`.
pub(crate) fn parse(
    mesh: &MeshSchema,
    scope: Option<&Namespace>,
    (namespace, object): (&Namespace, &str),
    text: &str,
) -> Result<Vec<PolicySource>, Vec<PolicyFault>> {
    let blame = PolicyId::from(namespace);
    let whole = |message: String| vec![PolicyFault::at(&blame, text, 0, message)];
    let id = PolicyId::parse(&format!("{namespace}/{object}")).map_err(|e| whole(e.to_string()))?;
    let whole = |message: String| vec![PolicyFault::at(&id, text, 0, message)];
    let set = read(&id, "AccessPolicy", text)?;
    if set.num_of_policies() > MAX_DOCUMENT_POLICIES {
        return Err(whole(format!(
            "an AccessPolicy holds at most {MAX_DOCUMENT_POLICIES} policies"
        )));
    }
    let mut document = Document {
        mesh,
        id: id.clone(),
        text,
        scope,
        sources: Vec::new(),
        ids_by_cedar: BTreeMap::new(),
        faults: Vec::new(),
    };
    if set.is_empty() && set.num_of_templates() == 0 {
        return Err(whole("there is no policy here".to_owned()));
    }
    document.take(&set);
    for (cedar_id, diagnostic) in mesh.validate(&set) {
        let id = document.ids_by_cedar.get(&cedar_id).unwrap_or(&document.id);
        let fault = PolicyFault::of_cedar(id, text, &diagnostic);
        let message = fault
            .message
            .strip_prefix(&format!("for policy `{cedar_id}`, "));
        let message = message.unwrap_or(&fault.message).to_owned();
        document.faults.push(PolicyFault { message, ..fault });
    }
    document.finish()
}

/// What the Cedar text of an object of that kind says; nothing of it is checked but size and syntax.
pub(crate) fn read(id: &PolicyId, kind: &str, text: &str) -> Result<PolicySet, Vec<PolicyFault>> {
    let whole = |message: String| vec![PolicyFault::at(id, text, 0, message)];
    if text.len() > MAX_DOCUMENT_BYTES {
        return Err(whole(format!(
            "an {kind} is at most {MAX_DOCUMENT_BYTES} bytes long"
        )));
    }
    bounds::check(text).map_err(|e| vec![PolicyFault::at(id, text, e.offset, e.to_string())])?;
    text.parse().map_err(|e| parse_faults(id, text, &e))
}

struct Document<'a> {
    mesh: &'a MeshSchema,
    id: PolicyId,
    text: &'a str,
    scope: Option<&'a Namespace>,
    sources: Vec<PolicySource>,
    ids_by_cedar: BTreeMap<String, PolicyId>,
    faults: Vec<PolicyFault>,
}

impl Document<'_> {
    /// Names and checks each policy, in the order of the text.
    fn take(&mut self, set: &PolicySet) {
        let mut found: Vec<_> = set.policies().filter_map(|p| self.locate(p)).collect();
        found.sort_by_key(|(number, _, _)| *number);
        let alone = found.len() == 1;
        let mut cursor = 0;
        for (number, policy, text) in found {
            let rest = self.text.get(cursor..).unwrap_or_default();
            let offset = cursor + rest.find(&text).unwrap_or_default();
            cursor = offset + text.len();
            self.take_one(number, policy, text, offset, alone);
        }
        for template in set.templates() {
            let offset = self.text.find(&template.to_cedar()).unwrap_or_default();
            self.faults
                .push(template_fault(&self.id, self.text, offset));
        }
    }

    /// Cedar numbers the policies of a text from `policy0`, in their order.
    fn locate<'p>(&self, policy: &'p Policy) -> Option<(usize, &'p Policy, String)> {
        let id: &str = policy.id().as_ref();
        let number = id.strip_prefix("policy")?.parse().ok()?;
        Some((number, policy, policy.to_cedar()?))
    }

    fn take_one(
        &mut self,
        number: usize,
        policy: &Policy,
        text: String,
        offset: usize,
        alone: bool,
    ) {
        let id = match self.name(number, policy, alone) {
            Ok(id) => id,
            Err(message) => {
                let at = text.find("@id").unwrap_or_default();
                let fault = PolicyFault::at(&self.id, self.text, offset + at, message);
                self.faults.push(fault);
                return;
            }
        };
        self.ids_by_cedar
            .insert(policy.id().to_string(), id.clone());
        let place = Place {
            id: &id,
            document: self.text,
            offset,
        };
        if text.len() > MAX_POLICY_BYTES {
            let message = format!("a policy is at most {MAX_POLICY_BYTES} bytes long");
            self.faults
                .push(PolicyFault::at(&id, self.text, offset, message));
        }
        let mode = match check::check(self.mesh, policy, place) {
            Ok((checked, _)) => checked.mode,
            Err(faults) => {
                self.faults.extend(faults);
                PolicyMode::Enforce
            }
        };
        self.sources.push(PolicySource {
            id,
            scope: self.scope.cloned(),
            mode,
            text,
        });
    }

    fn name(&self, number: usize, policy: &Policy, alone: bool) -> Result<PolicyId, String> {
        let id = match policy.annotation("id") {
            None if alone => return Ok(self.id.clone()),
            None => format!("{}#{}", self.id, number + 1),
            Some(own) if own.contains(['#', '/']) || own.parse::<usize>().is_ok() => {
                return Err(format!(
                    "@id {own:?} is neither a number nor contains # or /"
                ));
            }
            Some(own) => format!("{}#{own}", self.id),
        };
        let id = PolicyId::parse(&id).map_err(|e| e.to_string())?;
        if self.sources.iter().any(|s| s.id == id) {
            return Err(format!("{id} is there twice"));
        }
        Ok(id)
    }

    fn finish(self) -> Result<Vec<PolicySource>, Vec<PolicyFault>> {
        if self.faults.is_empty() {
            return Ok(self.sources);
        }
        let mut faults = merged(self.faults);
        faults.sort_by(|a, b| {
            let key = |f: &PolicyFault| (f.line, f.column, f.message.clone());
            key(a).cmp(&key(b))
        });
        faults.dedup();
        Err(faults)
    }
}

/// Hash of a policy set with what it rests on, hex SHA-256; the order of `policies` does not matter.
///
/// Without additions to the schema and data about entities, it is [`mesh_hash`] of the policies. With either, the same
/// form under another version line is followed by the schema texts and the records in canonical JSON, each list after its
/// number, each member after its length.
pub fn slice_hash(slice: &PolicySlice) -> String {
    if slice.schema.is_empty() && slice.entities.is_empty() {
        return mesh_hash(&slice.policies);
    }
    let mut hash = Context::new(&SHA256);
    hash.update(b"reeve policy set v2\n");
    let mut ordered: Vec<_> = slice.policies.iter().map(canonical_fields).collect();
    ordered.sort();
    count(&mut hash, ordered.len());
    ordered
        .iter()
        .flatten()
        .for_each(|text| field(&mut hash, text));
    count(&mut hash, slice.schema.len());
    slice.schema.iter().for_each(|text| field(&mut hash, text));
    count(&mut hash, slice.entities.len());
    for record in slice.entities.iter() {
        // Its fields, and the keys of its maps, are in order by name.
        field(
            &mut hash,
            &serde_json::to_string(record).unwrap_or_default(),
        );
    }
    hex::encode(hash.finish())
}

fn count(hash: &mut Context, number: usize) {
    hash.update(&u64::try_from(number).unwrap_or(u64::MAX).to_be_bytes());
}

fn field(hash: &mut Context, text: &str) {
    count(hash, text.len());
    hash.update(text.as_bytes());
}

/// Hash of a whole policy set, hex SHA-256; the order of `policies` does not matter.
///
/// Canonical form: a version line, then for each policy, ordered by id, its id, scope, mode and text, each preceded
/// by its length in eight bytes, big-endian; the mesh's scope is the empty text, which no namespace has.
pub fn mesh_hash(policies: &[PolicySource]) -> String {
    let mut ordered: Vec<_> = policies.iter().map(canonical_fields).collect();
    ordered.sort();
    let mut hash = Context::new(&SHA256);
    hash.update(b"reeve policy set v1\n");
    ordered
        .iter()
        .flatten()
        .for_each(|text| field(&mut hash, text));
    hex::encode(hash.finish())
}

fn canonical_fields(policy: &PolicySource) -> [&str; 4] {
    let mode = match policy.mode {
        PolicyMode::Enforce => "enforce",
        PolicyMode::Shadow => "shadow",
    };
    let scope = policy.scope.as_ref().map_or("", Namespace::as_str);
    [policy.id.as_str(), scope, mode, &policy.text]
}

#[cfg(test)]
mod tests;
