//! What checks and requests through the proxy have in common on their way to a provider: the
//! cryptography, the certificates that are trusted besides the bundled ones, and the type of a proxy on
//! the way.

pub(crate) use ureq::{Proxy, ProxyProtocol};

use crate::common::private_file;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, KeyProvider, ring};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;
use ureq::tls::{Certificate, PemItem, parse_pem};

/// Bytes of such files. All authorities that a system trusts take some 250 kB.
const LARGEST: u64 = 16 << 20;

/// The variables that name files or folders of more certificates to trust: those of OpenSSL, of Node.js, of
/// Python, of curl and of Codex. Where a company looks into TLS, one of them is set for the command.
pub(crate) const CERTIFICATE_VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    SSL_CERT_DIR,
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "CODEX_CA_CERTIFICATE",
];
/// Of these, the one that may name several folders, with colons between them.
pub(crate) const SSL_CERT_DIR: &str = "SSL_CERT_DIR";

/// Where systems have the authorities that they trust.
const OF_THE_SYSTEM: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// The certificates of these files, each with the variable that names it. One that holds none is passed
/// over.
pub(crate) fn trusted(files: &[(&str, PathBuf)]) -> Vec<Certificate<'static>> {
    let mut trusted = Vec::new();
    for (variable, path) in files {
        match certificates(path) {
            Ok(more) => trusted.extend(more),
            Err(why) => log::warn!("{variable} '{}' is not used: {why}", path.display()),
        }
    }
    trusted
}

/// Why there is no connection, with the way out where it is a certificate that nobody here knows the
/// issuer of.
pub(crate) fn with_hint(mut why: String) -> String {
    // rustls gives a word of its own code for it, also where it reports through a stream.
    if why.ends_with("UnknownIssuer") {
        why += "; hint: SSL_CERT_FILE can name a file with the certificates to trust";
        let mut all = OF_THE_SYSTEM.iter();
        if let Some(path) = all.find(|path| Path::new(path).exists()) {
            why += ", maybe the system's: ";
            why += path;
        }
    }
    why
}

/// The certificates in a PEM file, or in the files of a folder that are named as OpenSSL has it: by the hash
/// of a certificate, and a number.
///
/// # Errors
/// It cannot be read, or holds none: why, in a few words.
pub(crate) fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let said = |error: io::Error| error.to_string();
    let mut pem = Vec::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).map_err(said)?.flatten() {
            let path = entry.path();
            let number = path.extension().and_then(OsStr::to_str).unwrap_or("x");
            if number.bytes().all(|byte| byte.is_ascii_digit()) && path.is_file() {
                let left = LARGEST.saturating_sub(pem.len() as u64);
                pem.extend(private_file::read_named(&path, left).map_err(said)?);
            }
        }
    } else {
        pem = private_file::read_named(path, LARGEST).map_err(said)?;
    }
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err("it holds no certificate".into());
    }
    Ok(certificates)
}

/// ring, without what it takes to sign: no provider asks for a certificate of its client, and the
/// static binary is smaller without it.
pub(crate) fn cryptography() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        key_provider: &NoClientCertificate,
        ..ring::default_provider()
    })
}

#[derive(Debug)]
struct NoClientCertificate;

impl KeyProvider for NoClientCertificate {
    fn load_private_key(
        &self,
        _: PrivateKeyDer<'static>,
    ) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("no client certificates".into()))
    }
}
