//! The proxy between this process and an API server, as kubectl finds it.
//!
//! kube reads the same variables, but it compares `NO_PROXY` with the proxy instead of the server, and it fails at an empty
//! entry of that list. So its choice is replaced by this one.

use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

/// The schemes of proxies that kube can use.
const SCHEMES: [&str; 3] = ["http", "https", "socks5"];

/// A text that is not the URL of a proxy. The text itself is not quoted, because it may hold a password.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0} must be the URL of a proxy that begins with http://, https:// or socks5://")]
pub struct InvalidProxy(&'static str);

/// The variables that name proxies. An empty variable counts as not set.
#[derive(Clone, Debug, Default)]
pub struct ProxyVariables {
    https: Option<String>,
    http: Option<String>,
    no: Option<String>,
}

impl ProxyVariables {
    /// The variables of this process.
    pub fn of_process() -> Self {
        let first = |names: [&str; 2]| {
            names.into_iter().filter_map(|name| std::env::var(name).ok()).find(|value| !value.is_empty())
        };
        Self {
            https: first(["HTTPS_PROXY", "https_proxy"]),
            http: first(["HTTP_PROXY", "http_proxy"]),
            no: first(["NO_PROXY", "no_proxy"]),
        }
    }

    /// The proxy between this process and a server. As with Go programs, a server on this machine has none.
    pub fn proxy_of(&self, server: &Uri) -> Result<Option<Uri>, InvalidProxy> {
        let (name, text) = match server.scheme_str() {
            Some("http") => ("HTTP_PROXY", &self.http),
            _ => ("HTTPS_PROXY", &self.https),
        };
        let Some(text) = text.as_deref().filter(|_| !is_on_this_machine(server)) else { return Ok(None) };
        let port = server.port_u16().unwrap_or(if name == "HTTP_PROXY" { 80 } else { 443 });
        let exceptions = exceptions(self.no.as_deref().unwrap_or_default(), port);
        // It is asked about the exceptions only: it would drop the password of the proxy.
        let matcher = Matcher::builder().all("http://any.invalid").no(exceptions).build();
        if matcher.intercept(server).is_none() {
            return Ok(None);
        }
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        proxy(&with_scheme, name).map(Some)
    }
}

/// Reads the URL of a proxy. `name` says where the text comes from.
pub fn proxy(text: &str, name: &'static str) -> Result<Uri, InvalidProxy> {
    let url: Uri = text.trim().parse().map_err(|_| InvalidProxy(name))?;
    let is_known = url.scheme_str().is_some_and(|scheme| SCHEMES.contains(&scheme));
    if is_known && url.host().is_some_and(|host| !host.is_empty()) { Ok(url) } else { Err(InvalidProxy(name)) }
}

fn is_on_this_machine(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The entries of `NO_PROXY` that apply to this port, as the matcher writes them: it knows neither ports nor `*.`.
fn exceptions(list: &str, port: u16) -> String {
    let entry = |entry: &str| {
        let entry = entry.trim();
        let entry = entry.strip_prefix("*.").unwrap_or(entry);
        let (host, applies) = match entry.rsplit_once(':') {
            Some((host, number)) if !host.contains(':') || host.ends_with(']') => (host, number.parse() == Ok(port)),
            _ => (entry, true),
        };
        applies.then(|| host.trim_matches(['[', ']']).to_owned())
    };
    list.split(',').filter_map(entry).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "http://proxy.example.com:3128/";

    fn proxy_of(server: &str, https: &str, no: &str) -> Result<Option<String>, InvalidProxy> {
        let variables = ProxyVariables { https: Some(https.into()), http: None, no: Some(no.into()) };
        let found = variables.proxy_of(&server.parse().unwrap())?;
        Ok(found.map(|url| url.to_string()))
    }

    #[test]
    fn exceptions_are_compared_with_the_server() {
        let servers = [
            ("https://kube.example.com:6443", "", true),
            ("https://kube.example.com:6443", "proxy.example.com", true),
            ("https://kube.example.com:6443", "other.com, ,", true),
            ("https://kube.example.com:6443", "example.com:443", true),
            ("https://kube.example.com", "example.com:443", false),
            ("https://kube.example.com:6443", "other.com,example.com", false),
            ("https://kube.example.com:6443", ".example.com,", false),
            ("https://kube.example.com:6443", "*.example.com", false),
            ("https://kube.example.com:6443", "*", false),
            ("https://10.1.2.3:6443", "10.0.0.0/8", false),
            ("https://10.1.2.3:6443", "10.1.2.3:6443", false),
            ("https://11.1.2.3:6443", "10.0.0.0/8", true),
            ("https://[2001:db8::1]:6443", "2001:db8::/32", false),
            ("https://[2001:db8::1]:6443", "[2001:db8::1]:6443", false),
        ];
        for (server, no, has_proxy) in servers {
            let expected = has_proxy.then(|| PROXY.to_owned());
            assert_eq!(proxy_of(server, PROXY, no), Ok(expected), "{server} with NO_PROXY={no}");
        }
    }

    #[test]
    fn a_server_on_this_machine_has_no_proxy() {
        for server in ["https://127.0.0.1:6443", "https://localhost:6443", "https://[::1]:6443", "https://127.9.9.9"] {
            assert_eq!(proxy_of(server, PROXY, ""), Ok(None), "{server}");
        }
    }

    #[test]
    fn a_proxy_without_a_scheme_speaks_http() {
        let found = proxy_of("https://kube.example.com", "proxy.example.com:3128", "");
        assert_eq!(found, Ok(Some(PROXY.to_owned())));
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_its_text() {
        for text in ["ftp://proxy", "socks4://proxy", "://", "http://", "a b", "http://user:hush@:1"] {
            let error = proxy_of("https://kube.example.com", text, "").unwrap_err().to_string();
            assert!(error.starts_with("HTTPS_PROXY must be") && !error.contains("hush"), "{text}: {error}");
        }
    }

    #[test]
    fn plain_http_has_a_variable_of_its_own() {
        let variables = ProxyVariables { https: None, http: Some(PROXY.into()), no: None };
        let found = |server: &str| variables.proxy_of(&server.parse().unwrap()).unwrap();
        assert!(found("http://kube.example.com").is_some());
        assert!(found("https://kube.example.com").is_none());
    }
}
