//! What a verb answers: in words for people, with its figures for programs.

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::admin::json;

/// A verb has been done. The command line prints the words, or all of it with `--json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    pub verb: String,
    /// What was done, in one sentence or more.
    pub done: String,
    /// Its figures.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Done {
    pub fn new(verb: &str, done: impl Into<String>) -> Self {
        Self { verb: verb.to_owned(), done: done.into(), more: Map::new() }
    }

    /// The same with one more figure.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }
}

/// A verb has not been done, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotDone {
    /// It is asked for in a way that it does not have: 400.
    Usage(String),
    /// What it is to be done to is not there: 404.
    Unknown(String),
    /// It is there, and asked for by another method: 405.
    WrongMethod(String),
    /// It cannot be done now: 409.
    Refused(String),
}

impl NotDone {
    pub fn why(&self) -> &str {
        match self {
            Self::Usage(why) | Self::Unknown(why) | Self::WrongMethod(why) | Self::Refused(why) => why,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Usage(_) => StatusCode::BAD_REQUEST,
            Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::WrongMethod(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Refused(_) => StatusCode::CONFLICT,
        }
    }
}

/// The body of an answer that says no.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    pub error: String,
}

impl IntoResponse for NotDone {
    fn into_response(self) -> Response {
        json(self.status(), &Why { error: self.why().to_owned() })
    }
}

impl IntoResponse for Done {
    fn into_response(self) -> Response {
        json(StatusCode::OK, &self)
    }
}
