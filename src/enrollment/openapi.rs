//! The description of the calls in OpenAPI, as far as the handlers do not carry it.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::{
    IntoParams, IntoResponses, Modify, OpenApi, ToSchema,
    openapi::{
        ContentBuilder, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder, Schema, Type,
        schema::AdditionalProperties,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use super::service::Named;
use crate::protocol::{Enrolled, Problem};

/// The document, without the calls.
#[derive(OpenApi)]
#[openapi(
    info(title = "setupkey-operator enrollment", description = "Machines present a setup key and become peers."),
    components(schemas(Problem)),
    modifiers(&BearerToken)
)]
pub struct Document;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// Closes the schemas of the answers: they have the described fields and no others. `deny_unknown_fields` on the types would
/// have the client refuse the answers of a newer service.
pub fn close_answers(document: &mut utoipa::openapi::OpenApi) {
    let schemas = &mut document.components.get_or_insert_default().schemas;
    for answer in [Enrolled::name(), Problem::name()] {
        if let Some(RefOr::T(Schema::Object(object))) = schemas.get_mut(&*answer) {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
    }
}

/// A Peer in the path of a call.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct InNamespace {
    /// The namespace in the answer to /v1/enroll
    #[param(pattern = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    namespace: String,
    /// The name in the answer to /v1/enroll
    #[param(pattern = "^peer-[0-9a-v]{20}$")]
    name: String,
}

/// A Peer in the path of a call that names no namespace.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ByName {
    /// The name in the answer to /v1/enroll
    #[param(pattern = "^peer-[0-9a-v]{20}$")]
    name: String,
}

impl<'a> From<&'a InNamespace> for Named<'a> {
    fn from(InNamespace { namespace, name }: &'a InNamespace) -> Self {
        Self { namespace: Some(namespace), name }
    }
}

impl<'a> From<&'a ByName> for Named<'a> {
    fn from(ByName { name }: &'a ByName) -> Self {
        Self { namespace: None, name }
    }
}

/// Why a machine does not become a peer.
pub struct NotEnrolled;

impl IntoResponses for NotEnrolled {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[
            (400, "The body cannot be read, or is not a JSON object"),
            (403, "The key does not admit this machine; the answer does not say why"),
            (409, "The public key has joined with another token"),
            (413, TOO_LONG),
            (422, "A field is wrong; the answer names it"),
            (429, LIMITED),
            (503, "Try again; nothing is counted twice"),
        ])
    }
}

/// How a call of a peer ends.
pub struct Called;

impl IntoResponses for Called {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut answers = problems(&[
            (401, "There is no Bearer token, or more than one header Authorization"),
            (404, "There is no such peer with this token"),
            (413, TOO_LONG),
            (429, LIMITED),
            (503, "Try again"),
        ]);
        answers.insert("204".to_owned(), ResponseBuilder::new().description("Done").build().into());
        answers
    }
}

/// How a call ends that names no namespace.
pub struct CalledByName;

impl IntoResponses for CalledByName {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut answers = Called::responses();
        answers.extend(problems(&[(409, "Several namespaces have such a peer; use the path with the namespace")]));
        answers
    }
}

const TOO_LONG: &str = "The body is longer than 8 KiB";
const LIMITED: &str = "Too many requests from this address have failed";

/// Errors by their status. All have the same body.
fn problems(described: &[(u16, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let body = || ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    let header = |schema: Type, description: &str| {
        HeaderBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(schema)))
            .description(Some(description))
            .build()
    };
    let response = |status: u16, description: &str| {
        let response = ResponseBuilder::new().description(description).content("application/json", body());
        match status {
            401 => response.header("WWW-Authenticate", header(Type::String, "The scheme: Bearer")),
            429 | 503 => response.header("Retry-After", header(Type::Integer, "Seconds, at least 1")),
            _ => response,
        }
    };
    let responses = described.iter().map(|(status, what)| (status.to_string(), response(*status, what).build().into()));
    responses.collect()
}
