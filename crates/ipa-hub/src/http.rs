//! Requests to the hub, and to whatever host it sends on to: the token, redirects, and what an answer means.

use std::io::{self, Read as _};
use std::time::Duration;

use ureq::http::{HeaderMap, StatusCode, header};
use ureq::{Agent, BodyReader, Proxy};

use crate::HubError;
use crate::retry::Failure;
use crate::settings::{Settings, Token};
use crate::url::Url;

const MOST_REDIRECTS: usize = 5;
const LONGEST_LISTING: u64 = 16 << 20;

/// One hub, and the token that only it gets to see.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    endpoint: Url,
    token: Option<Token>,
    silence: Duration,
}

/// What a server sent: 200, 206 or 416, everything else being a [`Failure`].
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: BodyReader<'static>,
}

impl Answer {
    /// The number of a header such as `Content-Length`.
    pub(crate) fn number(&self, name: header::HeaderName) -> Option<u64> {
        self.headers.get(name)?.to_str().ok()?.trim().parse().ok()
    }

    /// First byte of what a 206 brings.
    pub(crate) fn range_start(&self) -> Option<u64> {
        let range = self.headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
        range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
    }
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Self, HubError> {
        let endpoint = Url::parse(&settings.endpoint).ok_or_else(|| HubError::Setting {
            name: "HF_ENDPOINT",
            value: settings.endpoint.clone(),
            allowed: "give an address such as https://huggingface.co",
        })?;
        let patience = settings.patience;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed here, where it is decided who gets the token.
            .max_redirects(0)
            .proxy(if settings.proxy { Proxy::try_from_env() } else { None })
            .user_agent(concat!("ipa-hub/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls())
            .timeout_connect(Some(patience.connect))
            .timeout_resolve(Some(patience.connect))
            .timeout_send_request(Some(patience.read))
            .timeout_recv_response(Some(patience.read))
            // For each read anew: a slow download may take hours, a silent one must not.
            .timeout_per_read(Some(patience.read))
            .build();
        Ok(Self { agent: config.into(), endpoint, token: settings.token.clone(), silence: patience.read })
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The repository's page, for people.
    pub(crate) fn page(&self, repo: &str) -> String {
        format!("{}/{repo}", self.endpoint.as_str())
    }

    /// A whole listing, which is refused beyond 16 MiB.
    pub(crate) fn listing(&self, repo: &str, url: &Url) -> Result<Vec<u8>, Failure> {
        let answer = self.open(repo, url, 0)?;
        let mut bytes = Vec::new();
        let read = answer.body.take(LONGEST_LISTING + 1).read_to_end(&mut bytes);
        read.map_err(|error| Failure::network(url, self.reason(&error.into())))?;
        if bytes.len() as u64 > LONGEST_LISTING {
            let problem = format!("the listing is longer than {LONGEST_LISTING} bytes");
            return Err(Failure::Final(HubError::Protocol { url: url.to_string(), problem }));
        }
        Ok(bytes)
    }

    /// An address of the hub.
    pub(crate) fn below_endpoint(&self, path: &str) -> Result<Url, HubError> {
        let problem = || format!("{path} makes no address");
        Url::parse(&format!("{}{path}", self.endpoint.as_str()))
            .ok_or_else(|| HubError::Protocol { url: self.endpoint.to_string(), problem: problem() })
    }

    /// Asks once for what `url` leads to, from byte `from` on.
    pub(crate) fn open(&self, repo: &str, url: &Url, from: u64) -> Result<Answer, Failure> {
        let mut at = url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.ask(&at, from)?;
            match answer.status {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => return Ok(answer),
                status if status.is_redirection() => at = redirected(&at, &answer.headers)?,
                _ => return Err(self.refused(repo, &at, &answer)),
            }
        }
        let problem = format!("more than {MOST_REDIRECTS} times");
        Err(Failure::Final(HubError::Redirect { url: url.to_string(), problem }))
    }

    fn ask(&self, url: &Url, from: u64) -> Result<Answer, Failure> {
        // Bytes as they are: digests and ranges are those of the file.
        let mut request = self.agent.get(url.as_str()).header(header::ACCEPT_ENCODING, "identity");
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        if let Some(token) = self.token.as_ref().filter(|_| url.same_origin(&self.endpoint)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.reveal()));
        }
        let response = request.call().map_err(|error| self.unanswered(url, &error))?;
        let (parts, body) = response.into_parts();
        Ok(Answer { status: parts.status, headers: parts.headers, body: body.into_reader() })
    }

    fn unanswered(&self, url: &Url, error: &ureq::Error) -> Failure {
        let (reason, url_text) = (self.reason(error), url.to_string());
        let is_refused_handshake = match error {
            ureq::Error::Io(io) => io.kind() == io::ErrorKind::InvalidData,
            error => matches!(error, ureq::Error::Rustls(_) | ureq::Error::Tls(_)),
        };
        match error {
            _ if is_refused_handshake => Failure::Final(HubError::Certificate { url: url_text, reason }),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
                Failure::Final(HubError::Network { url: url_text, reason, attempts: 1 })
            }
            _ => Failure::network(url, reason),
        }
    }

    /// What went wrong, for people; never with the address, which may be signed.
    pub(crate) fn reason(&self, error: &ureq::Error) -> String {
        let silent = || format!("no answer for {:?}", self.silence);
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => "no connection in time".to_owned(),
            ureq::Error::Timeout(_) => silent(),
            ureq::Error::Io(io) => match io.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
                Some(inner) => self.reason(inner),
                None if io.kind() == io::ErrorKind::TimedOut => silent(),
                None => io.to_string(),
            },
            ureq::Error::HostNotFound => "there is no such host".to_owned(),
            other => other.to_string(),
        }
    }

    fn refused(&self, repo: &str, at: &Url, answer: &Answer) -> Failure {
        let from_hub = at.same_origin(&self.endpoint);
        let with_token = from_hub && self.has_token();
        let url = at.to_string();
        let code = answer.headers.get("x-error-code").and_then(|code| code.to_str().ok());
        match answer.status.as_u16() {
            401 | 403 if from_hub && code == Some("GatedRepo") => Failure::Final(self.gated(repo)),
            401 if from_hub => Failure::Final(HubError::Unauthorized { url, with_token }),
            403 if from_hub => Failure::Final(HubError::Forbidden { url, with_token }),
            404 | 410 => Failure::Final(HubError::NotFound { url }),
            // Elsewhere 401 and 403 mean that a signed address has expired: the hub gives a new one.
            status @ (401 | 403 | 408 | 425 | 429 | 500..=599) => Failure::Passing {
                url,
                problem: Err(status),
                wait: answer.number(header::RETRY_AFTER).map(Duration::from_secs),
            },
            status => Failure::Final(HubError::Status { url, status, attempts: 1 }),
        }
    }

    pub(crate) fn gated(&self, repo: &str) -> HubError {
        HubError::Gated { repo: repo.to_owned(), page: self.page(repo), with_token: self.has_token() }
    }
}

/// Certificates as the system trusts them, so that a company's or a mirror's own authority works as in other programs.
fn tls() -> ureq::tls::TlsConfig {
    ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build()
}

fn redirected(at: &Url, headers: &HeaderMap) -> Result<Url, Failure> {
    let location = headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
    let target = location.and_then(|location| at.redirect(location));
    target.ok_or_else(|| {
        let problem = "to an address that is not followed".to_owned();
        Failure::Final(HubError::Redirect { url: at.to_string(), problem })
    })
}
