//! A provider behind TLS with a private CA, and a proxy in front of it.

use crate::rotation::one_rotation;
use crate::support::gateway::Gateway;
use crate::support::tls::{Front, Tunnel};
use crate::support::{Provider, Supervise, eventually, proc};
use crate::waiting::a_pause_until_the_reset;
use serde_json::json;

#[test]
fn the_same_rotation_works_with_a_private_ca_in_ssl_cert_file() {
    let provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    let front = Front::of(&provider.url);
    let supervise = Supervise::behind(&provider, &front.url);
    let authority = supervise.desk().write("ca.pem", &front.authority);
    one_rotation(&provider, supervise.env("SSL_CERT_FILE", authority));
}

#[test]
fn the_same_wait_works_with_a_private_ca_in_ssl_cert_file() {
    let provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    let front = Front::of(&provider.url);
    let supervise = Supervise::behind(&provider, &front.url);
    let authority = supervise.desk().write("ca.pem", &front.authority);
    let supervise = supervise.env("SSL_CERT_FILE", authority);
    a_pause_until_the_reset(provider, supervise, 8);
}

#[test]
fn the_authorities_that_node_is_told_of_are_trusted_as_well() {
    const VARIABLE: &str = "NODE_EXTRA_CA_CERTS";
    let mut provider = Provider::anthropic(&[0.1, 0.1, 0.1]);
    let front = Front::of(&provider.url);
    let supervise = Supervise::behind(&provider, &front.url);
    let authority = supervise.desk().write("ca.pem", &front.authority);
    one_rotation(&provider, supervise.env(VARIABLE, authority));
    // Besides those of the other variable, of which nobody knows anything here.
    let other = Front::of(&provider.url);
    let supervise = Supervise::behind(&provider, &front.url);
    let authority = supervise.desk().write("ca.pem", &front.authority);
    let other = supervise.desk().write("other.pem", &other.authority);
    let supervise = supervise.env(VARIABLE, authority);
    let gateway = Gateway::start(supervise.env("SSL_CERT_FILE", other), &[]);
    assert_eq!(gateway.post(json!({})).status, 200);
    assert_eq!(served_to_others(&mut provider), 1);
}

/// What a company sets for Python, curl and Codex, and a folder as OpenSSL has it.
#[test]
fn the_authorities_that_other_programs_are_told_of_are_trusted_as_well() {
    let provider = Provider::anthropic(&[0.1]);
    let front = Front::of(&provider.url);
    for (variable, named) in [
        ("REQUESTS_CA_BUNDLE", "ca.pem"),
        ("REQUESTS_CA_BUNDLE", "certs"),
        ("CURL_CA_BUNDLE", "ca.pem"),
        ("CODEX_CA_CERTIFICATE", "ca.pem"),
        ("SSL_CERT_DIR", "/no/such/folder:certs"),
    ] {
        let supervise = Supervise::behind(&provider, &front.url);
        let folder = supervise.desk().path().join("certs");
        std::fs::create_dir(&folder).unwrap();
        supervise.desk().write("certs/0a1b2c3d.0", &front.authority);
        supervise.desk().write("certs/README", "x");
        let file = supervise.desk().write("ca.pem", &front.authority);
        let value = named
            .replace("ca.pem", file.to_str().unwrap())
            .replace("certs", folder.to_str().unwrap());
        let gateway = Gateway::start(supervise.env(variable, value), &[]);
        assert_eq!(gateway.post(json!({})).status, 200, "{variable} {named}");
        // The checks at the start trust them, too.
        gateway.eventually_status(|status| status["tokens"][0]["condition"] == "usable");
    }
}

#[test]
fn an_unknown_authority_is_told_once_and_disturbs_nothing() {
    let mut provider = Provider::anthropic(&[0.96, 0.1]);
    let front = Front::of(&provider.url);
    let mut run = Supervise::behind(&provider, &front.url).agent();
    let pid = run.wait_ready_with(1);
    let line = run.stderr.wait("⚠️  Anthropic cannot be reached (");
    assert!(line.to_lowercase().contains("certificate"), "{line}");
    assert!(line.contains("hint: SSL_CERT_FILE"), "{line}");
    eventually("the child runs", || proc::is_running(pid).then_some(()));
    assert_eq!(run.only_child(), pid);
    run.finish().says_once("⚠️").says_once("Launching");
    assert_eq!(provider.served().len(), 0, "no token went there");
}

#[test]
fn an_application_behind_the_proxy_hears_how_an_authority_is_trusted() {
    let provider = Provider::anthropic(&[0.1]);
    let front = Front::of(&provider.url);
    let gateway = Gateway::start(Supervise::behind(&provider, &front.url), &[]);
    let answered = gateway.post(json!({}));
    assert_eq!(answered.status, 502);
    let said = answered.text();
    assert!(
        said.contains("UnknownIssuer; hint: SSL_CERT_FILE"),
        "{said}"
    );
}

#[test]
fn an_ssl_cert_file_without_certificates_does_not_end_the_run() {
    let provider = Provider::anthropic(&[0.96, 0.1]);
    let front = Front::of(&provider.url);
    let supervise = Supervise::behind(&provider, &front.url);
    let empty = supervise.desk().write("ca.pem", "nothing here");
    let endless = supervise.desk().write("endless.pem", "");
    let file = std::fs::OpenOptions::new().write(true).open(&endless);
    file.unwrap().set_len((16 << 20) + 1).unwrap();
    let pipe = supervise.desk().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, why) in [
        (empty.to_str().unwrap(), "it holds no certificate"),
        (pipe.to_str().unwrap(), "it is not a regular file"),
        ("/no/such/file", "No such file"),
        ("/", ""),
        (endless.to_str().unwrap(), "file too large"),
    ] {
        let mut run = Supervise::behind(&provider, &front.url)
            .env("SSL_CERT_FILE", path)
            .agent();
        run.wait_ready_with(1);
        run.stderr.wait("⚠️  Anthropic cannot be reached (");
        let unused = format!("⚠️  SSL_CERT_FILE '{path}' is not used: {why}");
        run.finish()
            .says_once(&unused)
            .says_once("cannot be reached");
    }
}

/// Makes a proxy in front of an address.
type MakeTunnel = fn(&str) -> Tunnel;

/// The proxies of the environment that are supported, and what each is asked for.
const TUNNELS: [(MakeTunnel, &str); 4] = [
    (Tunnel::to, "CONNECT localhost:1 HTTP/1.1"),
    (Tunnel::with_password, "CONNECT localhost:1 HTTP/1.1"),
    (Tunnel::socks, "SOCKS localhost:1"),
    (Tunnel::socks_with_password, "SOCKS localhost:1"),
];

#[test]
fn probes_go_through_the_proxy_of_the_environment() {
    for (tunnel, asked) in TUNNELS {
        let provider = Provider::anthropic(&[0.96, 0.1]);
        let front = Front::of(&provider.url);
        let proxy = tunnel(&front.url);
        // The proxy looks the name up, and the certificate is for it: nothing else knows it.
        let mut supervise =
            Supervise::behind(&provider, "https://localhost:1").env("HTTPS_PROXY", &proxy.url);
        let authority = supervise.desk().write("ca.pem", &front.authority);
        supervise = supervise.env("SSL_CERT_FILE", authority);
        let mut run = supervise.agent();
        run.wait_ready_at_last_with(2);
        run.finish()
            .says_once("Switched to token 2/2")
            .never_says("s3cret");
        assert_eq!(proxy.asked(), [asked]);
    }
}

#[test]
fn requests_go_through_the_proxy_of_the_environment_as_probes_do() {
    for (tunnel, asked) in TUNNELS {
        let mut provider = Provider::anthropic(&[0.1]);
        let front = Front::of(&provider.url);
        let proxy = tunnel(&front.url);
        let gateway = gateway(
            &provider,
            &[&front],
            &[("HTTPS_PROXY", &proxy.url)],
            "https://localhost:1",
        );
        for _ in 0..2 {
            assert_eq!(gateway.post(json!({})).status, 200, "{}", proxy.url);
        }
        assert_eq!(proxy.asked(), [asked]);
        assert_eq!(served_to_others(&mut provider), 2);
        gateway.stop().never_says("s3cret");
    }
}

#[test]
fn requests_go_through_a_proxy_that_wants_tls_itself() {
    let mut provider = Provider::anthropic(&[0.1]);
    let front = Front::of(&provider.url);
    let tunnel = Tunnel::to(&front.url);
    let before = Front::of(&tunnel.url);
    let gateway = gateway(
        &provider,
        &[&front, &before],
        &[("HTTPS_PROXY", &before.url)],
        "https://localhost:1",
    );
    for more in [json!({}), json!({"stream": true})] {
        let answered = gateway.post(more);
        assert_eq!((answered.status, answered.whole), (200, true));
    }
    assert_eq!(tunnel.asked(), ["CONNECT localhost:1 HTTP/1.1"]);
    assert_eq!(served_to_others(&mut provider), 2);
}

#[test]
fn what_no_proxy_names_goes_past_the_proxy() {
    let provider = Provider::anthropic(&[0.1]);
    let front = Front::of(&provider.url);
    let tunnel = Tunnel::to(&front.url);
    let gateway = gateway(
        &provider,
        &[&front],
        &[
            ("HTTPS_PROXY", &tunnel.url),
            ("NO_PROXY", "example.com, localhost"),
        ],
        &front.url,
    );
    assert_eq!(gateway.post(json!({})).status, 200);
    assert_eq!(tunnel.asked(), [""; 0]);
}

#[test]
fn a_wrong_password_for_the_proxy_is_told_and_not_repeated() {
    let mut provider = Provider::anthropic(&[0.1]);
    let front = Front::of(&provider.url);
    for (tunnel, why) in [
        (Tunnel::with_password as MakeTunnel, "407"),
        (
            Tunnel::socks_with_password,
            "refuses the user name or password",
        ),
    ] {
        let url = tunnel(&front.url).url.replace("s3cret", "wr0ng1");
        let gateway = gateway(
            &provider,
            &[&front],
            &[("HTTPS_PROXY", &url)],
            "https://localhost:1",
        );
        let answered = gateway.post(json!({}));
        assert_eq!(answered.status, 502);
        let text = answered.text();
        assert!(text.contains(why) && !text.contains("wr0ng1"), "{text}");
        gateway.stop().never_says("wr0ng1");
    }
    assert_eq!(provider.served().len(), 0, "no token went there");
}

/// A proxy of ours that trusts these fronts and asks its provider at `address`.
fn gateway(
    provider: &Provider,
    fronts: &[&Front],
    variables: &[(&str, &str)],
    address: &str,
) -> Gateway {
    let mut prepared = Supervise::behind(provider, address);
    let authorities: Vec<&str> = fronts.iter().map(|front| &*front.authority).collect();
    let authorities = prepared.desk().write("ca.pem", authorities.concat());
    prepared = prepared.env("SSL_CERT_FILE", authorities);
    for (name, value) in variables {
        prepared = prepared.env(name, value);
    }
    Gateway::start(prepared, &[])
}

/// How many requests were not ddollar's own.
fn served_to_others(provider: &mut Provider) -> usize {
    let served = provider.served();
    served.iter().filter(|line| line["who"] == "other").count()
}
