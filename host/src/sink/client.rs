//! Requests to a server that takes events: with its TLS, and as whom it wants.
//!
//! Files of secrets are read for each request, since they rotate. What the server says is bounded in time and
//! size, and a redirect is not followed: it would take credentials elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Identity, RequestBuilder, Url};

use super::deliver::Outcome;
use crate::text::cause;
use crate::text::escape::{MAX_REASON, admit};

/// How long connecting, and a whole request, may take.
const CONNECT: Duration = Duration::from_secs(5);
const REQUEST: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;

/// As whom to ask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Login {
    /// As nobody.
    #[default]
    Nobody,
    /// Whoever has this token.
    Bearer {
        /// Where it is.
        token_file: PathBuf,
    },
    /// A user.
    Basic {
        /// Name.
        user: String,
        /// Where the password is.
        password_file: PathBuf,
    },
}

/// By what the two sides know each other. An empty path is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// As whom to ask.
    pub login: Login,
    /// PEM of the authorities that the server is to be of; the system's if there is none.
    pub ca_file: PathBuf,
    /// PEM of the own certificate, and its key.
    pub cert_file: PathBuf,
    /// See `cert_file`.
    pub key_file: PathBuf,
}

/// A server.
#[derive(Debug)]
pub(super) struct Client {
    at: Url,
    credentials: Credentials,
    headers: HeaderMap,
    http: Option<reqwest::Client>,
}

/// An answer, whatever it is.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    pub after: Option<Duration>,
}

impl Client {
    /// Nothing is asked yet.
    pub fn new(at: Url, credentials: Credentials, headers: HeaderMap) -> Self {
        Self { at, credentials, headers, http: None }
    }

    /// `path` is behind that of the server's address.
    pub async fn get(&mut self, path: &str) -> Result<Answer, String> {
        self.request(path, None, &[]).await
    }

    /// Sends a body with these headers.
    pub async fn post(
        &mut self,
        path: &str,
        body: Vec<u8>,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Answer, String> {
        self.request(path, Some(body), headers).await
    }

    async fn request(
        &mut self,
        path: &str,
        body: Option<Vec<u8>>,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Answer, String> {
        let mut url = self.at.clone();
        url.set_path(&format!("{}{path}", self.at.path().trim_end_matches('/')));
        let http = match &self.http {
            Some(http) => http.clone(),
            None => self.http.insert(self.credentials.connect(&self.at)?).clone(),
        };
        let request = match body {
            Some(body) => http.post(url).body(body),
            None => http.get(url),
        };
        let mut all = self.headers.clone();
        for (name, value) in headers {
            all.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let request = self.credentials.login.of(request.headers(all))?;
        match answer(request).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                // Certificates may have been replaced.
                self.http = None;
                Err(admit(cause::innermost(&error), MAX_REASON))
            }
        }
    }
}

async fn answer(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let mut response = request.send().await?;
    let status = response.status().as_u16();
    let after = response.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
    let mut body = Vec::new();
    while body.len() < MAX_ANSWER {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER - body.len())]),
            Ok(None) => break,
            // It has said that it took everything: that would come again.
            Err(_) if (200..300).contains(&status) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Answer { status, body, after: after.map(Duration::from_secs) })
}

impl Answer {
    /// Its body, for people.
    pub fn text(&self) -> String {
        admit(String::from_utf8_lossy(&self.body).trim().to_owned(), MAX_ANSWER)
    }

    /// What became of a batch by what a server says in general; a refusal is counted as `what`.
    pub fn outcome(self, what: &'static str) -> Outcome {
        let Self { status, after, .. } = self;
        let why = admit(format!("the server answers {status}: {}", self.text()), MAX_REASON);
        match status {
            200..=299 => Outcome::Taken,
            400 | 413 | 422 => Outcome::Refused { what, why },
            _ => Outcome::Later { why, after, answered: true },
        }
    }
}

impl Login {
    fn of(&self, request: RequestBuilder) -> Result<RequestBuilder, String> {
        Ok(match self {
            Self::Nobody => request,
            Self::Bearer { token_file } => request.bearer_auth(secret(token_file)?),
            Self::Basic { user, password_file } => request.basic_auth(user, Some(secret(password_file)?)),
        })
    }
}

impl Credentials {
    fn connect(&self, at: &Url) -> Result<reqwest::Client, String> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("inspector/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .timeout(REQUEST)
            .redirect(Policy::none())
            .pool_max_idle_per_host(1);
        // The library wants one in any case. The first one stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if at.scheme() != "https" {
            // An image may have no authorities, and needs none.
            builder = builder.tls_certs_only([]);
        } else {
            if let Some(pem) = file(&self.ca_file)? {
                let pems =
                    Certificate::from_pem_bundle(&pem).map_err(|error| cannot(&self.ca_file, &error))?;
                builder = builder.tls_certs_only(pems);
            }
            if let (Some(mut pem), Some(key)) = (file(&self.cert_file)?, file(&self.key_file)?) {
                pem.push(b'\n');
                pem.extend(key);
                let own = Identity::from_pem(&pem).map_err(|error| cannot(&self.cert_file, &error))?;
                builder = builder.identity(own);
            }
        }
        builder.build().map_err(|error| cause::innermost(&error))
    }
}

fn file(path: &Path) -> Result<Option<Vec<u8>>, String> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    fs::read(path).map(Some).map_err(|error| cannot(path, &error))
}

fn secret(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| cannot(path, &error))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn cannot(path: &Path, error: &(dyn std::error::Error + 'static)) -> String {
    format!("cannot use {}: {}", path.display(), cause::innermost(error))
}
