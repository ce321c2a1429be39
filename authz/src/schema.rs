//! The schema that a mesh's policies are written against, for whoever reads policies of that mesh.

use std::sync::Arc;

use cedar_policy::SchemaFragment;
use reeve_core::{
    Namespace, PolicyId,
    model::{EntityName, EntityRecord, PolicySource},
};

use crate::{
    EntityFault, PolicyFault, SchemaFault, document, mesh_schema::MeshSchema, store::Store,
};

/// The built-in schema, and what a mesh adds. The default is the built-in one alone.
#[derive(Clone, Debug)]
pub struct PolicySchema(Result<Arc<MeshSchema>, SchemaFault>);

impl Default for PolicySchema {
    fn default() -> Self {
        Self(MeshSchema::get())
    }
}

impl PolicySchema {
    /// The built-in schema with what `texts` add: Cedar schema texts.
    pub fn new(texts: &[String]) -> Result<Self, Vec<SchemaFault>> {
        MeshSchema::extended(texts).map(|mesh| Self(Ok(mesh)))
    }

    /// The same, of texts that were found to be valid before; faults show when it is used.
    pub fn of(texts: &[String]) -> Self {
        let first = |mut faults: Vec<SchemaFault>| match faults.is_empty() {
            true => Self::default(),
            false => Self(Err(faults.swap_remove(0))),
        };
        Self::new(texts).unwrap_or_else(first)
    }

    /// What extends the built-in schema.
    pub fn texts(&self) -> &[String] {
        self.0.as_ref().map_or(&[], |mesh| &mesh.texts)
    }

    /// All of it as Cedar schema text. With additions it is laid out by Cedar, without the built-in schema's comments.
    pub fn text(&self) -> String {
        let built_in = || crate::schema().to_owned();
        let Ok(mesh) = &self.0 else {
            return built_in();
        };
        if mesh.texts.is_empty() {
            return built_in();
        }
        let fragment = SchemaFragment::from_json_value(mesh.json.clone()).ok();
        let text = fragment.and_then(|fragment| fragment.to_cedarschema().ok());
        text.unwrap_or_else(built_in)
    }

    /// The types that a mesh adds.
    pub fn added(&self) -> impl Iterator<Item = &str> {
        let mesh = self.0.iter();
        mesh.flat_map(|mesh| mesh.added.keys().map(String::as_str))
    }

    /// The types that entities of the mesh are put into by a label of theirs, with the label's name.
    pub fn labelled(&self) -> impl Iterator<Item = (&str, &str)> {
        let added = self.0.iter().flat_map(|mesh| &mesh.added);
        added.filter_map(|(name, added)| Some((name.as_str(), added.label.as_deref()?)))
    }

    /// The types of groups that end users are in as a claim says: the type, the issuer and the claim.
    pub fn claimed(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let claimed = self.0.iter().flat_map(|mesh| mesh.claimed());
        claimed.map(|(kind, claim)| (kind, claim.issuer.as_str(), claim.name.as_str()))
    }

    /// Whether entities of the type `member` can be in those of type `group`, directly.
    pub fn can_be_in(&self, member: &str, group: &str) -> bool {
        let path = format!("/entityTypes/{member}/memberOfTypes");
        let space = self.0.as_ref().ok().and_then(|mesh| mesh.json.get(""));
        let parents = space.and_then(|space| space.pointer(&path));
        let parents = parents.and_then(serde_json::Value::as_array);
        parents.is_some_and(|parents| parents.iter().any(|parent| parent == group))
    }

    /// [`parse_access_policy`](crate::parse_access_policy), against this schema.
    pub fn parse_access_policy(
        &self,
        scope: Option<&Namespace>,
        namespace: &Namespace,
        object: &str,
        text: &str,
    ) -> Result<Vec<PolicySource>, Vec<PolicyFault>> {
        let mesh = self.mesh(&PolicyId::from(namespace))?;
        document::parse(mesh, scope, (namespace, object), text)
    }

    /// What is wrong with what is said of entities.
    pub fn check_entities(&self, records: &Arc<Vec<EntityRecord>>) -> Result<(), Vec<EntityFault>> {
        match &self.0 {
            Ok(mesh) => Store::new(mesh, records).map(drop),
            // What is wrong with the schema is said of it.
            Err(_) => Ok(()),
        }
    }

    /// The schema itself; `blame` is said to be wrong if it is.
    pub(crate) fn mesh(&self, blame: &PolicyId) -> Result<&MeshSchema, Vec<PolicyFault>> {
        let fault = |fault: &SchemaFault| vec![PolicyFault::at(blame, "", 0, fault.to_string())];
        self.0.as_deref().map_err(fault)
    }
}

/// An entity as Cedar writes it: `Team::"payments"`.
pub fn entity_name(text: &str) -> Option<EntityName> {
    let uid: cedar_policy::EntityUid = text.parse().ok()?;
    Some(EntityName {
        id: uid.id().unescaped().to_owned(),
        kind: uid.type_name().to_string(),
    })
}
