//! A provider behind TLS with a private CA, and a proxy in front of it.

use crate::rotation::one_rotation;
use crate::support::tls::{Front, Tunnel};
use crate::support::{Provider, Supervise, eventually, proc};
use crate::waiting::a_pause_until_the_reset;

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
fn an_unknown_authority_is_told_once_and_disturbs_nothing() {
    let mut provider = Provider::anthropic(&[0.96, 0.1]);
    let front = Front::of(&provider.url);
    let mut run = Supervise::behind(&provider, &front.url).agent();
    let pid = run.wait_ready_with(1);
    let line = run.stderr.wait("⚠️  Anthropic cannot be reached (");
    assert!(line.to_lowercase().contains("certificate"), "{line}");
    eventually("the child runs", || proc::is_running(pid).then_some(()));
    assert_eq!(run.only_child(), pid);
    run.finish().says_once("⚠️").says_once("Launching");
    assert_eq!(provider.served().len(), 0, "no token went there");
}

#[test]
fn an_ssl_cert_file_without_certificates_does_not_end_the_run() {
    let provider = Provider::anthropic(&[0.96, 0.1]);
    let front = Front::of(&provider.url);
    let supervise = Supervise::behind(&provider, &front.url);
    let empty = supervise.desk().write("ca.pem", "nothing here");
    for path in [empty.to_str().unwrap(), "/no/such/file", "/"] {
        let mut run = Supervise::behind(&provider, &front.url)
            .env("SSL_CERT_FILE", path)
            .agent();
        run.wait_ready_with(1);
        run.stderr.wait("⚠️  Anthropic cannot be reached (");
        let unused = format!("⚠️  SSL_CERT_FILE '{path}' is not used: ");
        run.finish()
            .says_once(&unused)
            .says_once("cannot be reached");
    }
}

#[test]
fn probes_go_through_the_proxy_of_the_environment() {
    let provider = Provider::anthropic(&[0.96, 0.1]);
    let front = Front::of(&provider.url);
    let proxy = Tunnel::to(&front.url);
    // The proxy looks the name up, and the certificate is for it: nothing else knows it.
    let mut supervise =
        Supervise::behind(&provider, "https://localhost:1").env("HTTPS_PROXY", &proxy.url);
    let authority = supervise.desk().write("ca.pem", &front.authority);
    supervise = supervise.env("SSL_CERT_FILE", authority);
    let mut run = supervise.agent();
    run.wait_ready_at_last_with(2);
    run.finish().says_once("Switched to token 2/2");
    assert_eq!(proxy.asked(), ["CONNECT localhost:1 HTTP/1.1"]);
}
