//! Addresses, as far as this crate needs them: whether two are of one origin, and where a redirect leads.

use std::fmt;

use ureq::http::Uri;

/// An absolute address of scheme `http` or `https`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    text: String,
    scheme: String,
    authority: String,
}

impl Url {
    /// `None` if it is anything but `http://host…` or `https://host…`, or carries a user's name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?.to_owned();
        let authority = uri.authority()?.as_str().to_ascii_lowercase();
        let usable = !authority.contains('@') && uri.host().is_some_and(|host| !host.is_empty());
        usable.then(|| Self { text: text.to_owned(), scheme, authority })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Same scheme, host and port: the only place a token may go to.
    pub(crate) fn same_origin(&self, other: &Self) -> bool {
        (&self.scheme, self.host_and_port()) == (&other.scheme, other.host_and_port())
    }

    fn host_and_port(&self) -> &str {
        let default = if self.scheme == "https" { ":443" } else { ":80" };
        self.authority.strip_suffix(default).unwrap_or(&self.authority)
    }

    /// Where a `Location` leads that this address answers with; `None` if it is no place to go to.
    ///
    /// Never from `https` to `http`: the bytes would be verified, but everyone could read what is fetched.
    pub(crate) fn redirect(&self, location: &str) -> Option<Self> {
        let target = if location.starts_with("//") {
            format!("{}:{location}", self.scheme)
        } else if location.starts_with('/') {
            format!("{}://{}{location}", self.scheme, self.authority)
        } else {
            location.to_owned()
        };
        Self::parse(&target).filter(|target| target.scheme == "https" || self.scheme == "http")
    }
}

/// Without the query, which may hold a signature that opens the file to whoever reads it in a log.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.split(['?', '#']).next().unwrap_or_default())
    }
}

/// A path's segments with everything escaped that has a meaning in addresses; slashes stay.
pub(crate) fn escape(path: &str) -> String {
    path.bytes().fold(String::with_capacity(path.len()), |mut escaped, byte| {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
        escaped
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let hub = Url::parse("https://hub.example/a").unwrap();
        for same in ["https://hub.example/b?x=1", "https://HUB.example:443/"] {
            assert!(hub.same_origin(&Url::parse(same).unwrap()), "{same}");
        }
        for other in ["http://hub.example/a", "https://hub.example:444/a", "https://hub.example.evil/a", "https://b/a"]
        {
            assert!(!hub.same_origin(&Url::parse(other).unwrap()), "{other}");
        }
    }

    #[test]
    fn redirects_lead_to_web_addresses_only() {
        let hub = Url::parse("https://hub.example/a/b").unwrap();
        let to = |location| hub.redirect(location).map(|url| url.as_str().to_owned());
        assert_eq!(to("/c?d=e").unwrap(), "https://hub.example/c?d=e");
        assert_eq!(to("//cdn.example/c").unwrap(), "https://cdn.example/c");
        assert_eq!(to("https://cdn.example/c").unwrap(), "https://cdn.example/c");
        for refused in ["http://hub.example/c", "file:///etc/passwd", "c", "", "https://", "https://u:p@hub.example/"] {
            assert_eq!(to(refused), None, "{refused}");
        }
    }

    #[test]
    fn paths_are_escaped_and_queries_not_shown() {
        assert_eq!(escape("a b/ü#?.bin"), "a%20b/%C3%BC%23%3F.bin");
        assert_eq!(Url::parse("http://h/p?Signature=s").unwrap().to_string(), "http://h/p");
    }
}
