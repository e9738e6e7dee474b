//! Where a provider is asked, and how a token gets there.
//!
//! Owns [`Endpoint`], and what the environment says of it: base URL, proxy on the way, certificates.
//! It promises that a token travels over TLS or stays on this machine, and that a proxy that was
//! asked for is never passed by because of a slip. Pure: variables are handed in, nothing is
//! connected to.

use super::Provider;
use super::tls::{CERTIFICATE_VARIABLES, Proxy, ProxyProtocol, SSL_CERT_DIR};
use crate::common::error::Error;
use core::net::IpAddr;
use std::path::PathBuf;

/// Where a provider is asked, and what for.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// https, or http on loopback; without a slash at its end.
    pub(crate) base_url: String,
    /// Whether it is http, which only an address on this machine may be: no proxy may see it.
    pub(crate) plain: bool,
    /// Who is asked.
    pub(crate) provider: &'static Provider,
    /// The models that probes ask for: the first that the provider knows. Empty when none is known.
    pub(crate) models: Vec<String>,
    /// Where in these a model goes that was seen in the command's requests; `None`: the user has said which
    /// one to ask for.
    pub(crate) seen_goes: Option<usize>,
    /// Nothing but a table says which model is asked for.
    pub(crate) is_guess: bool,
    /// Files of more certificates to trust, each with the variable that names it.
    pub(crate) certificates: Vec<(&'static str, PathBuf)>,
    /// The proxy on the way, if there is one.
    pub(crate) proxy: Option<Proxy>,
    /// Sent with each probe (`ANTHROPIC_WORKSPACE_ID`).
    pub(crate) workspace: Option<String>,
}

impl Endpoint {
    /// Where this provider is asked for these models. `variable` gives the value of an environment
    /// variable that is set and not empty.
    ///
    /// # Errors
    /// A variable names something that a token must not be sent to or through.
    pub(crate) fn find(
        provider: &'static Provider,
        models: Vec<String>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Endpoint, Error> {
        let own = provider.base_url_variable;
        let (base_url, plain) = match own.and_then(|name| Some((name, variable(name)?))) {
            Some((name, url)) => {
                let (url, plain) = checked_base_url(&url).map_err(|why| Error::BaseUrl {
                    variable: name.into(),
                    why,
                })?;
                (as_vendors_have_it(provider, url), plain)
            }
            None => (provider.base_url.to_owned(), false),
        };
        Ok(Endpoint {
            proxy: match plain {
                true => None,
                false => proxy(&base_url, variable)?,
            },
            base_url,
            plain,
            provider,
            models,
            seen_goes: None,
            is_guess: false,
            certificates: certificate_files(variable),
            workspace: match provider.name {
                "anthropic" => variable("ANTHROPIC_WORKSPACE_ID"),
                _ => None,
            },
        })
    }
}

/// Files of more certificates to trust, each with the variable that names it.
pub(crate) fn certificate_files(
    variable: &dyn Fn(&str) -> Option<String>,
) -> Vec<(&'static str, PathBuf)> {
    let mut files: Vec<(&'static str, PathBuf)> = Vec::new();
    for name in CERTIFICATE_VARIABLES {
        let value = variable(name).unwrap_or_default();
        for path in value.split(|c| name == SSL_CERT_DIR && c == ':') {
            // Several may name the same one.
            let path = PathBuf::from(path);
            if !path.as_os_str().is_empty() && files.iter().all(|(_, known)| *known != path) {
                files.push((name, path));
            }
        }
    }
    files
}

impl Endpoint {
    /// This model was seen in the command's requests: it goes before those that are only guessed.
    pub(crate) fn has_seen(&mut self, model: &str) {
        if let Some(at) = self.seen_goes {
            self.is_guess = false;
            let known = self.models.iter().take(at).any(|named| named == model);
            if !known {
                self.models.retain(|guess| guess != model);
                self.models
                    .insert(at.min(self.models.len()), model.to_owned());
            }
        }
    }
}

/// The base URL without its last slash and with its host in lower case, and whether it is plain http, or
/// why no token may go there. The URL itself is not part of the reason: it may hold a password.
fn checked_base_url(text: &str) -> Result<(String, bool), &'static str> {
    let url: http::Uri = text.trim().parse().map_err(|_| "is not an address")?;
    let host = url.host().ok_or("is not a whole address (https://…)")?;
    let authority = url.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err("holds a user name or password");
    }
    if url.query().is_some() {
        return Err("has a query (?…)");
    }
    let loopback = host.eq_ignore_ascii_case("localhost")
        || address(host).is_some_and(|address| address.is_loopback());
    let plain = match url.scheme_str() {
        Some("https") => false,
        Some("http") if loopback => true,
        Some("http") => {
            return Err("is http to another machine, which tokens do not take");
        }
        _ => return Err("is neither https nor http"),
    };
    // Names have no case (RFC 4343), but musl looks them up in /etc/hosts byte for byte.
    let scheme = if plain { "http" } else { "https" };
    let base = format!(
        "{scheme}://{}{}",
        authority.to_ascii_lowercase(),
        url.path()
    );
    Ok((base.trim_end_matches('/').to_owned(), plain))
}

/// The base URL with a version just where the provider's own has one. Clients of one provider differ in
/// that, and so do the values that their users give the same variable. Of another server than the
/// vendor's it is not known whether it wants one.
fn as_vendors_have_it(provider: &Provider, url: String) -> String {
    let bare = url.strip_suffix(provider.version);
    if let Some(bare) = bare.filter(|_| !provider.version.is_empty()) {
        return bare.trim_end_matches('/').to_owned();
    }
    let is_bare_host = provider.base_url.strip_prefix(&url);
    match is_bare_host.is_some_and(|path| path.starts_with('/')) {
        true => provider.base_url.to_owned(),
        false => url,
    }
}

/// The address that a URL's host is, with or without brackets; `None` for a name.
fn address(host: &str) -> Option<IpAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok()
}

/// The variables that name a proxy, in the order in which they are taken: that of curl(1), and last those
/// for plain http, which some set alone and mean for everything.
const PROXY_VARIABLES: [&str; 6] = [
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "http_proxy",
    "HTTP_PROXY",
];

/// The longest user name or password of SOCKS 5, in bytes (RFC 1929 §2).
const SOCKS_CREDENTIAL_MAX: usize = 255;

/// The proxy on the way to this address. Traffic that has to go through one must not go past it
/// because of a typo, so what names none is an error.
fn proxy(
    base_url: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Proxy>, Error> {
    let first = PROXY_VARIABLES
        .into_iter()
        .find_map(|name| Some((name, variable(name)?)));
    let Some((name, text)) = first else {
        return Ok(None);
    };
    let proxy = Proxy::new(text.trim()).ok().filter(is_supported);
    let proxy = proxy.ok_or(Error::ProxyVariable { variable: name })?;
    let exempt = variable("NO_PROXY").or_else(|| variable("no_proxy"));
    let url: http::Uri = base_url.parse().unwrap_or_default();
    let is_direct = exempt.is_some_and(|list| is_exempt(&url, &list));
    Ok((!is_direct).then_some(proxy))
}

/// Whether checks and proxied requests can both go through it. SOCKS 4 takes no host name and no
/// password, and nobody offers it any more.
fn is_supported(proxy: &Proxy) -> bool {
    let fits = |text: Option<&str>| {
        text.is_some_and(|text| (1..=SOCKS_CREDENTIAL_MAX).contains(&text.len()))
    };
    match proxy.protocol() {
        ProxyProtocol::Http | ProxyProtocol::Https => true,
        ProxyProtocol::Socks5 | ProxyProtocol::Socks5h => {
            proxy.username().is_none() || fits(proxy.username()) && fits(proxy.password())
        }
        _ => false,
    }
}

/// Whether `NO_PROXY` exempts this address. There is no standard; read as curl reads it: `*`, or
/// names (of the host itself or of a domain that it is in, with or without a dot or `*.` before it),
/// addresses and networks (`10.0.0.0/8`), each with or without a port, between commas or spaces.
fn is_exempt(url: &http::Uri, list: &str) -> bool {
    let host = url.host().unwrap_or_default().to_ascii_lowercase();
    let port = url.port_u16().unwrap_or(443);
    let host_address = address(&host);
    let is_meant = |entry: &str| {
        if entry == "*" {
            return true;
        }
        if let (Some(address), Some((network, bits))) = (host_address, entry.split_once('/')) {
            return is_in_network(address, network, bits);
        }
        // The colons of an address of version 6 without brackets are no port's.
        let (name, wanted) = match entry.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
                (name, port.parse().ok())
            }
            _ => (entry, Some(port)),
        };
        if wanted != Some(port) {
            return false;
        }
        if host_address.is_some() {
            return address(name) == host_address;
        }
        let name = name.trim_start_matches('*').trim_start_matches('.');
        let before = host.strip_suffix(&name.to_ascii_lowercase());
        !name.is_empty() && before.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    list.split([',', ' ', '\t']).any(is_meant)
}

/// Whether the address is in a network, as in `10.0.0.0/8`.
fn is_in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let (address, network, length) = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => (
            u128::from(address.to_bits()),
            u128::from(network.to_bits()),
            32_u32,
        ),
        (IpAddr::V6(address), IpAddr::V6(network)) => (address.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    // All bits of the two are the same but for the last `length - bits`.
    length
        .checked_sub(bits)
        .is_some_and(|free| (address ^ network).checked_shr(free).unwrap_or(0) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::by_name;

    #[test]
    fn a_token_travels_encrypted_or_stays_on_the_machine() {
        for (url, wanted) in [
            (
                "https://api.example.com/v1/",
                ("https://api.example.com/v1", false),
            ),
            ("http://127.0.0.1:8080", ("http://127.0.0.1:8080", true)),
            ("http://127.9.9.9/x", ("http://127.9.9.9/x", true)),
            ("http://[::1]:8080/", ("http://[::1]:8080", true)),
            ("http://localhost:1", ("http://localhost:1", true)),
            // Names have no case.
            (
                "HTTP://LocalHost:1/Some/Path",
                ("http://localhost:1/Some/Path", true),
            ),
            ("https://localhost:1", ("https://localhost:1", false)),
        ] {
            let (base, plain) = checked_base_url(url).unwrap();
            assert_eq!((base.as_str(), plain), wanted);
        }
        for url in [
            "http://api.example.com",
            "http://192.168.1.2",
            "http://localhost.example.com",
            "http://127.0.0.1@example.com",
            "https://user:secret@example.com",
            "ftp://127.0.0.1",
            "api.example.com",
            "/v1",
            "https://example.com/?key=secret",
            "not a url",
            "\u{fffd}",
        ] {
            let why = checked_base_url(url).expect_err(url);
            assert!(!why.contains("secret"));
        }
    }

    #[test]
    fn a_base_url_with_or_without_a_version_is_the_same() {
        for (name, url, wanted) in [
            ("anthropic", "https://x/v1", "https://x"),
            ("anthropic", "https://x/v1/", "https://x"),
            ("anthropic", "https://x", "https://x"),
            ("anthropic", "https://x/v10", "https://x/v10"),
            ("gemini", "https://x/g/v1beta", "https://x/g"),
            ("azure", "https://x/openai/v1", "https://x"),
            (
                "openai",
                "https://api.openai.com",
                "https://api.openai.com/v1",
            ),
            (
                "openai",
                "https://api.openai.com/v1",
                "https://api.openai.com/v1",
            ),
            ("openai", "https://x", "https://x"),
            ("openai", "https://x/v1", "https://x/v1"),
            (
                "groq",
                "https://api.groq.com",
                "https://api.groq.com/openai/v1",
            ),
        ] {
            let provider = by_name(name).unwrap();
            let variable =
                |wanted: &str| (Some(wanted) == provider.base_url_variable).then(|| url.to_owned());
            let endpoint = Endpoint::find(provider, Vec::new(), &variable).unwrap();
            assert_eq!(endpoint.base_url, wanted, "{name} {url}");
        }
    }

    fn found(base: &str, variables: &[(&str, &str)]) -> Result<Option<String>, Error> {
        let variable = |name: &str| match name {
            "ANTHROPIC_BASE_URL" => Some(base.to_owned()),
            name => {
                let set = variables.iter().find(|(known, _)| *known == name)?;
                Some(set.1.to_owned())
            }
        };
        let provider = by_name("anthropic").unwrap();
        let endpoint = Endpoint::find(provider, Vec::new(), &variable)?;
        Ok(endpoint.proxy.map(|proxy| {
            let user = proxy.username().unwrap_or("-");
            let password = proxy.password().unwrap_or("-");
            let (host, port) = (proxy.host(), proxy.port());
            format!("{} {host}:{port} {user} {password}", proxy.protocol())
        }))
    }

    #[test]
    fn the_proxy_of_the_environment_is_taken_or_refused() {
        let api = "https://api.example.com";
        let of = |name: &str, url: &str| found(api, &[(name, url)]);
        for (name, url, wanted) in [
            ("HTTPS_PROXY", "http://p:1", "HTTP p:1 - -"),
            ("https_proxy", "p:3128", "HTTP p:3128 - -"),
            (
                "ALL_PROXY",
                "http://me:s3cret%20w@p:1",
                "HTTP p:1 me s3cret w",
            ),
            ("HTTP_PROXY", "https://p", "HTTPS p:443 - -"),
            ("ALL_PROXY", "socks5h://p", "SOCKS5h p:1080 - -"),
            ("all_proxy", "socks5://u:w@p:9", "SOCKS5 p:9 u w"),
        ] {
            assert_eq!(of(name, url).unwrap().as_deref(), Some(wanted), "{url}");
        }
        for url in [
            "gopher://p:1",
            "http://u:p@[",
            "socks4://p",
            "socks5://u@p",
            "socks5://u:@p",
            "\u{fffd}",
        ] {
            let error = of("HTTPS_PROXY", url).expect_err(url);
            assert_eq!(error.exit_code(), 125);
            assert!(error.to_string().starts_with("HTTPS_PROXY"), "{error}");
        }
        // The first variable that is set is the one that counts, not the first that works.
        let both = [
            ("HTTPS_PROXY", "gopher://p"),
            ("ALL_PROXY", "http://good:1"),
        ];
        assert!(found(api, &both).is_err());
        // The one for https goes before the one for everything, and in lower case before upper case, as
        // curl(1) has it.
        let ordered = [
            ("https_proxy", "p:1"),
            ("HTTPS_PROXY", "p:2"),
            ("all_proxy", "socks5://p:3"),
            ("ALL_PROXY", "socks://p:4"),
            ("http_proxy", "p:5"),
            ("HTTP_PROXY", "p:6"),
        ];
        for from in (0..ordered.len()).filter(|from| *from != 3) {
            let taken = found(api, &ordered[from..]).unwrap().unwrap();
            assert!(taken.contains(&format!(" p:{} ", from + 1)), "{taken}");
        }
        // What stays on this machine goes through none.
        let here = found("http://localhost:1", &[("ALL_PROXY", "http://p:1")]);
        assert_eq!(here.unwrap(), None);
    }

    #[test]
    fn addresses_that_no_proxy_exempts() {
        let is = |url: &str, list: &str| is_exempt(&url.parse().unwrap(), list);
        let api = "https://api.example.com";
        for list in [
            "*",
            "api.example.com",
            "x, API.example.com",
            "x example.com",
            ".example.com",
            "*.example.com",
            "api.example.com:443",
            "com",
        ] {
            assert!(is(api, list), "{list}");
        }
        for list in [
            "",
            ",",
            ".",
            "example.org",
            "pi.example.com",
            "api.example.com:80",
            "10.0.0.0/8",
            "api.example.com.evil",
        ] {
            assert!(!is(api, list), "{list}");
        }
        for (url, list, wanted) in [
            ("https://10.1.2.3", "10.0.0.0/8", true),
            ("https://10.1.2.3:8443", "10.1.2.3:8443", true),
            ("https://11.1.2.3", "10.0.0.0/8", false),
            ("https://11.1.2.3", "0.0.0.0/0", true),
            ("https://10.1.2.3", "10.1.2.3/33,10.1.2.3/x,x/8", false),
            ("https://10.1.2.3", "2.3", false),
            ("https://[fd00::1]", "fd00::/8", true),
            ("https://[fd00::1]", "fd00::1", true),
            ("https://[fd00::1]:1", "[fd00::1]:1", true),
            ("https://[fd00::1]", "::/0", true),
            ("https://[fd00::1]", "10.0.0.0/8", false),
        ] {
            assert_eq!(is(url, list), wanted, "{url} {list}");
        }
    }
}
