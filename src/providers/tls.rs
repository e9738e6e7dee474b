//! What checks and requests through the proxy have in common on their way to a provider: the
//! cryptography, the certificates that are trusted besides the bundled ones, and the type of a proxy on
//! the way.

pub(crate) use ureq::{Proxy, ProxyProtocol};

use crate::common::private_file;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, KeyProvider, ring};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;
use ureq::tls::{Certificate, PemItem, parse_pem};

/// Bytes of such files. All authorities that a system trusts take some 250 kB.
const LARGEST: u64 = 16 << 20;
/// Bytes in which a file of certificates has its first one, behind a comment.
const BEGINNING: u64 = 16 << 10;

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
fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let mut found = Vec::new();
    let mut left = LARGEST;
    for path in files(path).map_err(said)? {
        let file = private_file::open_public(&path).map_err(said)?;
        let pem = private_file::read_all(file, left).map_err(said)?;
        left = left.saturating_sub(pem.len() as u64);
        found.extend(parse(&pem));
    }
    if found.is_empty() {
        return Err("it holds no certificate".into());
    }
    Ok(found)
}

/// Whether [`trusted`] would find a certificate there, without a look at all of them: those of a system take
/// longer to read than everything else that a start does.
///
/// # Errors
/// It cannot be read, or holds none: why, in a few words.
pub(crate) fn check(path: &Path) -> Result<(), String> {
    for path in files(path).map_err(said)? {
        let mut beginning = Vec::new();
        let file = private_file::open_public(&path).map_err(said)?;
        file.take(BEGINNING)
            .read_to_end(&mut beginning)
            .map_err(said)?;
        if parse(&beginning).next().is_some() {
            return Ok(());
        }
    }
    certificates(path).map(drop)
}

/// The file itself, or those of a folder that are named as OpenSSL has it: by the hash of a certificate, and
/// a number.
fn files(path: &Path) -> io::Result<Box<dyn Iterator<Item = PathBuf>>> {
    if !path.is_dir() {
        return Ok(Box::new(std::iter::once(path.to_owned())));
    }
    let named = |path: &PathBuf| {
        let number = path.extension().and_then(OsStr::to_str).unwrap_or("x");
        number.bytes().all(|byte| byte.is_ascii_digit()) && path.is_file()
    };
    let entries = std::fs::read_dir(path)?.flatten().map(|entry| entry.path());
    Ok(Box::new(entries.filter(named)))
}

fn parse(pem: &[u8]) -> impl Iterator<Item = Certificate<'static>> {
    parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    })
}

fn said(error: io::Error) -> String {
    error.to_string()
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
