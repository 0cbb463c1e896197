//! Serves the page and its stream.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::{feed::Page, site::Site};
use crate::{edge::PageAccess, rpc::Error};

const PAGE: &str = include_str!("page.html");
/// Maximum number of live pages of a server that are open at the same time.
pub const MAX_PAGES: usize = 256;
/// Delay after which a client should retry a request that failed with status 503.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Returns the routes of the page and its stream.
pub fn routes(site: Arc<Site>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/live", get(|state, headers| open(state, headers, Path((None, None)))))
        .route("/live/{concert_code}", get(|state, headers, Path(code)| open(state, headers, Path((Some(code), None)))))
        .route(
            "/live/{concert_code}/{date}",
            get(|state, headers, Path((code, date))| open(state, headers, Path((Some(code), Some(date))))),
        )
        .with_state(site)
}

/// Serves the page. The page contains no data and no secret, so it needs no API key. A browser sends no API key when
/// a user opens a URL.
async fn page(State(site): State<Arc<Site>>) -> Response {
    if let PageAccess::Refused(reason) = site.access {
        return (StatusCode::FORBIDDEN, format!("{reason}\n")).into_response();
    }
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, content_security_policy()),
    ];
    (headers, PAGE).into_response()
}

/// Returns the Content-Security-Policy of the page. It allows only the script and the style of the page, by their
/// digests, and requests only to this server.
fn content_security_policy() -> HeaderValue {
    let digest = |tag: &str| {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let content = PAGE.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map_or("", |(text, _)| text);
        STANDARD.encode(Sha256::digest(content))
    };
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
        digest("script"),
        digest("style"),
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

type Choice = Path<(Option<String>, Option<String>)>;

async fn open(State(site): State<Arc<Site>>, headers: HeaderMap, Path((concert_code, date)): Choice) -> Response {
    if let PageAccess::Refused(reason) = site.access {
        return (StatusCode::FORBIDDEN, format!("{reason}\n")).into_response();
    }
    let key = headers.get(header::AUTHORIZATION).map(|shown| {
        let shown = shown.as_bytes();
        shown.strip_prefix(b"Bearer ").unwrap_or(shown).to_vec()
    });
    let opened = async {
        site.check_key(key.as_deref())?;
        let permit = site.pages.try_acquire()?;
        let chosen = site.choose(concert_code.as_deref(), date.as_deref()).await?;
        Ok(Page::new(site.clone(), chosen, key.clone(), permit))
    };
    match opened.await {
        Ok(page) => {
            let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            ([content_type], Body::from_stream(page.events())).into_response()
        }
        Err(error) => failure(&error),
    }
}

/// Returns the response to a failed request: a status, and a sentence that says what is wrong and what to do.
fn failure(error: &Error) -> Response {
    let (status, sentence) = match error {
        Error::CredentialMissing | Error::CredentialInvalid => (
            StatusCode::UNAUTHORIZED,
            "the live page requires an API key with the admin right; send it as `Authorization: Bearer <key>`"
                .to_owned(),
        ),
        Error::AdminRightMissing { .. } => (StatusCode::FORBIDDEN, error.to_string()),
        Error::ConcertNotFound { .. } | Error::PerformanceNotFound { .. } => {
            (StatusCode::NOT_FOUND, "this concert or date is not on sale; open / and choose another one".to_owned())
        }
        _ => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the request cannot be served now; retry in {} seconds", RETRY_AFTER.as_secs()),
        ),
    };
    let mut response = (status, format!("{sentence}\n")).into_response();
    let headers = response.headers_mut();
    match status {
        StatusCode::UNAUTHORIZED => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"boxoffice\""));
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER.as_secs()));
        }
        _ => {}
    }
    response
}
