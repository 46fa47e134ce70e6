//! Requests to answers: which paths there are, and what each says.
//!
//! Reads no request body; knows nothing of connections.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::House;
use super::report::{Ready, Reloaded};

type Answer = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

const PATHS: &str = "GET /health, GET /ready, GET /metrics, GET /pools, GET /pins, POST /reload";

pub async fn answer<B>(request: &Request<B>, house: &Arc<dyn House>) -> Answer {
    let reads = [Method::GET, Method::HEAD].contains(request.method());
    match request.uri().path() {
        "/health" if reads => body(StatusCode::OK, TEXT, "ok\n"),
        "/ready" if reads => ready(&**house),
        "/metrics" if reads => body(StatusCode::OK, PROMETHEUS, house.metrics()),
        "/pools" if reads => json(StatusCode::OK, &house.pools()),
        "/pins" if reads => json(StatusCode::OK, &house.pins()),
        "/reload" if request.method() == Method::POST => reload(Arc::clone(house)).await,
        "/health" | "/ready" | "/metrics" | "/pools" | "/pins" => not_allowed("GET, HEAD"),
        "/reload" => not_allowed("POST"),
        _ => body(
            StatusCode::NOT_FOUND,
            TEXT,
            format!("no such path; there are: {PATHS}\n"),
        ),
    }
}

fn ready(house: &dyn House) -> Answer {
    let (status, reason) = match house.ready() {
        Ok(()) => (StatusCode::OK, None),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, Some(reason)),
    };
    let ready = reason.is_none();
    json(status, &Ready { ready, reason })
}

/// On a thread of its own: each new password takes milliseconds, and a worker may share ours.
async fn reload(house: Arc<dyn House>) -> Answer {
    let outcome = tokio::task::spawn_blocking(move || house.reload()).await;
    let outcome = outcome.unwrap_or_else(|_| Err("interrupted".into()));
    let (status, reason) = match outcome {
        Ok(()) => (StatusCode::OK, None),
        Err(reason) => (StatusCode::UNPROCESSABLE_ENTITY, Some(reason)),
    };
    let reloaded = reason.is_none();
    json(status, &Reloaded { reloaded, reason })
}

fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = body(
        StatusCode::METHOD_NOT_ALLOWED,
        TEXT,
        format!("this path takes {allowed}\n"),
    );
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(mut text) => {
            text.push(b'\n');
            body(status, JSON, text)
        }
        Err(error) => body(
            StatusCode::INTERNAL_SERVER_ERROR,
            TEXT,
            format!("the report can't be written as JSON: {error}\n"),
        ),
    }
}

fn body(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
