//! Parameters out of a request's path and query: as axum reads them, refused as this API refuses.
//!
//! axum answers its own rejections in plain text with 400; clients of these APIs branch on `{"error", "detail"}` and 422.

use std::borrow::Cow;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use conduits::code;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize as _, Deserializer};

use super::error::ApiError;
use crate::refusal::Refusal;

/// Characters of a wrong value that are repeated.
const SHOWN: usize = 60;

/// The query, as a struct of its parameters.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let axum::extract::Query(query) =
            axum::extract::Query::from_request_parts(parts, state).await.map_err(|rejection| {
                let text = rejection.body_text();
                let why = text.trim_start_matches("Failed to deserialize query string: ");
                Refusal::invalid(code::INVALID_PARAMETER, format!("the query: {why}"))
            })?;
        Ok(Self(query))
    }
}

/// The parameters of the path.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let axum::extract::Path(path) =
            axum::extract::Path::from_request_parts(parts, state).await.map_err(|rejection| {
                Refusal::invalid(code::INVALID_PARAMETER, format!("the path: {}", rejection.body_text()))
            })?;
        Ok(Self(path))
    }
}

/// A number of the query; for `#[serde(default, deserialize_with = "number")]`.
///
/// # Errors
/// The text is not one, or out of its type's range; the message repeats it.
pub fn number<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
{
    let text = Cow::<str>::deserialize(deserializer)?;
    text.parse().map(Some).map_err(|_| {
        let shown: String = text.chars().take(SHOWN).collect();
        D::Error::custom(format!("{shown:?} is not a whole number in range"))
    })
}
